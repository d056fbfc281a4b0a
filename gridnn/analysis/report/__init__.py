"""The page: everything the analysis tool knows of one network, machine and number of processes, as one HTML file."""

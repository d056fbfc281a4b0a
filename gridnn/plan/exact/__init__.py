"""The minimum over a graph of costs: exact, whatever the graph stands for."""

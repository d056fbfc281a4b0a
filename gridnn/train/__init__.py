"""Where the wings meet: data, steps, files, and the porch ``python -m gridnn.train``."""

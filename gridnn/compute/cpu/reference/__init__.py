"""Arithmetic in one process with NumPy and SciPy: the reference every other provider is checked against."""

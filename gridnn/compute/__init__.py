"""Arithmetic on the arrays of one process: no communication, no knowledge of grids."""

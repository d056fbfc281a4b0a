"""Measuring a machine: links between ranks, layers on a rank, and the file they make."""

"""Arithmetic on a GPU: the kernels of kernels/*.cu."""

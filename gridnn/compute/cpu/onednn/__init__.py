"""Convolution and linear layers by oneDNN's C API (any libdnnl.so.3), through ctypes."""

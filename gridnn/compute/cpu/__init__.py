"""The CPU engine: one small interface a subject, and behind it own kernels, oneDNN and the NumPy reference."""

"""Networks from ONNX files: `read.read_onnx`.  Only this package names the library, and only when a file is read."""

"""Exported networks run without the package's own networks; an .onnx file without torch."""

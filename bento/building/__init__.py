"""From ONNX bytes to a Bento, and from a Bento to a container image."""

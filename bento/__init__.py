"""The real-time lane: a BentoML service made from the contract inside the ONNX file."""

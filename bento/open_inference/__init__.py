"""The Open Inference Protocol, version 2, over REST and gRPC: the same predictor, with features as named tensors."""

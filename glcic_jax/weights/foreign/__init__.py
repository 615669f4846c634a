"""Weights of other implementations: Torch7, PyTorch."""

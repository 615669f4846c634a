"""The networks of this package and of PyTorch side by side on a CPU."""

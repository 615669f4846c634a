"""This program and PyTorch side by side on a CPU."""

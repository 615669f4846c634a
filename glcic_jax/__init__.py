"""Globally and Locally Consistent Image Completion (Iizuka et al., SIGGRAPH 2017) in JAX."""

__version__ = "0.1.0"

"""Weights of the networks: portable files, the store, runs, other implementations' files, export."""

from glcic_jax.weights.file import Description, Weights, load_weights, save_weights
from glcic_jax.weights.store import Found, find_weights, home

__all__ = ["Description", "Found", "Weights", "find_weights", "home", "load_weights", "save_weights"]

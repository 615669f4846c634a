"""Weights of the networks: portable files, the store, runs, other implementations' files, export."""

from glcic_jax.weights.file import Description, Network, Weights, arrays_sha256, load_weights, save_weights
from glcic_jax.weights.store import DEFAULT_NAME, Found, compile_cache, find_network, find_weights

__all__ = [
    "DEFAULT_NAME",
    "Description",
    "Found",
    "Network",
    "Weights",
    "arrays_sha256",
    "compile_cache",
    "find_network",
    "find_weights",
    "load_weights",
    "save_weights",
]

"""Weights of the networks: portable files, the store, runs, other implementations' files, export."""

from glcic_jax.weights.file import Description, Weights, arrays_sha256, kind_of, load_weights, save_weights
from glcic_jax.weights.store import DEFAULT_NAME, Found, compile_cache, find_generator, find_network, find_weights

__all__ = [
    "DEFAULT_NAME",
    "Description",
    "Found",
    "Weights",
    "arrays_sha256",
    "compile_cache",
    "find_generator",
    "find_network",
    "find_weights",
    "kind_of",
    "load_weights",
    "save_weights",
]

"""Completing pictures of any size with trained weights."""

from glcic_jax.completion.completer import Completer

__all__ = ["Completer"]

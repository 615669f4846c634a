"""Completes images of any size with trained weights."""

from glcic_jax.completion.completer import CompletedImage, Completer

__all__ = ["CompletedImage", "Completer"]

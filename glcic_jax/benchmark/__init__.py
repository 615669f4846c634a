"""Measurements of speed, memory and operations: `python -m glcic_jax.benchmark`."""

"""Compiled programs that the next process finds again."""

import os
from pathlib import Path

import jax


def enable_compile_cache(directory: Path) -> None:
    """Keeps compiled programs in a directory; what $JAX_COMPILATION_CACHE_DIR says counts for more."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(directory.expanduser()))

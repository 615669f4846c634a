"""Compiled programs that the next process finds again."""

import logging
import os
from pathlib import Path

import jax

_log = logging.getLogger(__name__)


def enable_compile_cache(directory: Path) -> None:
    """Keeps compiled programs in a directory, unless the environment or the program has named another to JAX."""
    if getattr(jax.config, "jax_compilation_cache_dir", None) is not None:
        return
    directory = directory.expanduser()
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _log.warning("compiled programs cannot be kept in %s: %s", directory, error.strerror)
        return
    if not os.access(directory, os.W_OK):
        _log.warning("compiled programs cannot be kept in %s: it cannot be written", directory)
        return
    jax.config.update("jax_compilation_cache_dir", str(directory))

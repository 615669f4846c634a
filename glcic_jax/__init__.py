"""Globally and Locally Consistent Image Completion (Iizuka et al., SIGGRAPH 2017) in JAX and Flax."""

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["Completer", "__version__"]

if TYPE_CHECKING:
    from glcic_jax.completion import Completer


def __getattr__(name: str) -> object:
    # Lazy: importing JAX takes a second or two, and `glcic --help` does not need it.
    if name == "Completer":
        from glcic_jax.completion import Completer

        return Completer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

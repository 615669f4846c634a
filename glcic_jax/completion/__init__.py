"""Completes images of any size with trained weights; JAX is imported with `Completer` or `find_device`."""

from typing import TYPE_CHECKING

from glcic_jax.completion.files import FAILURES, CompletionJob, Settings, complete_folder, read_input
from glcic_jax.completion.pairing import masks_by_image, pair_files, stem_of
from glcic_jax.completion.windows import MAX_SIDE, SMALLEST_MAX_SIDE, STRATEGIES, WindowLimits

if TYPE_CHECKING:
    from glcic_jax.completion.completer import CompletedImage, Completer, OnWindow
    from glcic_jax.completion.runner import find_device

__all__ = [
    "FAILURES",
    "MAX_SIDE",
    "SMALLEST_MAX_SIDE",
    "STRATEGIES",
    "CompletedImage",
    "Completer",
    "CompletionJob",
    "OnWindow",
    "Settings",
    "WindowLimits",
    "complete_folder",
    "find_device",
    "masks_by_image",
    "pair_files",
    "read_input",
    "stem_of",
]


def __getattr__(name: str) -> object:
    if name in ("CompletedImage", "Completer", "OnWindow", "find_device"):
        from glcic_jax.completion import completer

        return getattr(completer, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

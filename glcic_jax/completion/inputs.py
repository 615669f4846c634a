"""Accepts images and masks as PIL images, arrays or files, and returns results of the same type."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image, ImageOps

from glcic_jax.errors import DataError, MemoryExhaustedError, TooLargeError, rename_options
from glcic_jax.files import expand_home
from glcic_jax.pictures import Picture, fitting_profile, hole_from_pixels, read_mask, read_picture

_DTYPES = ("uint8", "uint16", "float16", "float32", "float64", "bfloat16")
_PIL_MODES = ("L", "LA", "RGB", "RGBA")
_KEPT_INFO = ("exif", "icc_profile", "dpi", "xmp")


@dataclasses.dataclass(frozen=True, eq=False)
class InputImage:
    """An image of any type, as an array.

    Attributes:
      pixels: [H, W, C] uint8, uint16 or float.
      restore: Converts completed pixels of this shape and dtype to the type of the input.
    """

    pixels: np.ndarray
    restore: Callable[[np.ndarray], Any]


def open_image(image: Any) -> InputImage:
    """Opens an image of any supported type.

    Args:
      image: A path, encoded bytes or an open binary file, restored as an upright PIL image; a PIL image, restored
        upright in the same mode, if that is L, LA, RGB, RGBA or I;16, and else in the nearest of these; or a NumPy
        or JAX array [H, W] or [H, W, C] of uint8, uint16 or float in [0, 1], C = 1, 2 (grey + alpha), 3 or 4
        (RGBA), restored as an array of the same type, shape and dtype.

    Raises:
      DataError: The file cannot be read, or the array is not an image.
    """
    if (source := _file_source(image)) is not None:
        picture = read_picture(source)
        info = {name: getattr(picture, name) for name in _KEPT_INFO}
        return InputImage(picture.pixels, lambda completed: _to_pil(completed, info))
    if isinstance(image, Image.Image):
        upright = ImageOps.exif_transpose(image)
        pixels = _from_pil(upright)
        kept = {**upright.info, "icc_profile": fitting_profile(upright, pixels.shape[-1], [])}
        return InputImage(pixels, lambda completed: _to_pil(completed, kept))
    array = np.asarray(image)
    pixels = array[..., None] if array.ndim == 2 else array
    if pixels.ndim != 3 or pixels.shape[-1] not in (1, 2, 3, 4) or not pixels.size:
        raise DataError(f"an image has shape [H, W] or [H, W, C] with C from 1 to 4, not {list(array.shape)}")
    if pixels.dtype.name not in _DTYPES:
        raise DataError(f"an image is uint8, uint16 or float in [0, 1], not {pixels.dtype.name}")
    to_array = jax.numpy.asarray if isinstance(image, jax.Array) else np.asarray
    return InputImage(pixels, lambda completed: to_array(completed.reshape(array.shape)))


def open_hole(mask: Any, size: tuple[int, int]) -> np.ndarray:
    """Opens a mask of any supported type.

    Args:
      mask: A path, encoded bytes, an open file, a PIL image, or an array as in `mask_files.hole_from_pixels`;
        white, True or 1 marks the hole.
      size: (width, height) of the image.

    Returns:
      [H, W] bool.

    Raises:
      DataError: The mask cannot be read, or its aspect ratio differs from the image's.
    """
    if isinstance(mask, Image.Image):
        mask = Picture(_from_pil(ImageOps.exif_transpose(mask)), format="")
    source = mask if isinstance(mask, Picture) else _file_source(mask)
    if source is not None:
        return read_mask(source, size).hole
    return hole_from_pixels(np.asarray(mask), size).hole


def _file_source(value: Any) -> bytes | Path | None:
    """Returns the bytes or the path of a file; None if the value is an image of another type."""
    if isinstance(value, str | os.PathLike):
        return expand_home(os.fsdecode(value))
    if hasattr(value, "read"):
        value = value.read()
        if isinstance(value, str):
            raise DataError("the file is open as text: open it with mode 'rb'")
    return bytes(value) if isinstance(value, bytes | bytearray | memoryview) else None


@contextlib.contextmanager
def in_words_of_python() -> Iterator[None]:
    """Names arguments instead of the command's options in the errors of its block."""
    try:
        yield
    except TooLargeError as error:
        raise DataError(f"{error.fact}: shrink it, or open it yourself and give an array") from error
    except MemoryExhaustedError as error:
        message = rename_options(
            str(error), lambda name, value: f"{name}={value if value.isdigit() else repr(value)}"
        )
        raise MemoryExhaustedError(message) from error


def check_range(pixels: np.ndarray, hole: np.ndarray) -> None:
    """Checks that float pixels [H, W, C] outside the hole [H, W] bool lie in [0, 1].

    Raises:
      DataError: They do not.
    """
    known = pixels[~hole]
    if pixels.dtype.name.startswith(("float", "bfloat")) and known.size:
        smallest, largest = float(known.min()), float(known.max())
        if not (smallest >= 0.0 and largest <= 1.0):  # Also true for NaN.
            raise DataError(
                f"an image of {pixels.dtype.name} lies in [0, 1] outside the hole, but this one ranges from "
                f"{smallest:g} to {largest:g}"
            )


def _from_pil(image: Image.Image) -> np.ndarray:
    """Returns the pixels of a PIL image, [H, W, C] uint8 or uint16."""
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)[..., None]
    if image.mode in ("I", "F"):
        raise DataError(
            f"a PIL image of mode {image.mode} has no known range: give an array of uint16, or of float in [0, 1]"
        )
    if image.mode not in _PIL_MODES:
        grey = image.mode in ("1", "La")
        if image.has_transparency_data:
            image = image.convert("LA" if grey else "RGBA")
        else:
            image = image.convert("L" if grey else "RGB")
    pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _to_pil(pixels: np.ndarray, info: Mapping[Any, Any]) -> Image.Image:
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    image.info |= {key: info[key] for key in _KEPT_INFO if info.get(key)}
    return image

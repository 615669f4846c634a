"""Pictures as Python programs hold them: PIL images, arrays, files; each comes back as it came."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image, ImageOps

from glcic_jax.errors import DataError
from glcic_jax.pictures.mask_files import hole_from_pixels, read_mask
from glcic_jax.pictures.metadata import fitting_profile
from glcic_jax.pictures.picture import Picture, read_picture

_TYPES = ("uint8", "uint16", "float16", "float32", "float64", "bfloat16")
_MODES = ("L", "LA", "RGB", "RGBA")  # Pillow's, whose channels are ours.
_KEPT = ("exif", "icc_profile", "dpi")


class Taken(NamedTuple):
    """A picture that was given, and how to give it back.

    Attributes:
      pixels: [H, W, C], as `pixels` has them.
      give_back: From completed pixels of that shape and type to what was given.
    """

    pixels: np.ndarray
    give_back: Callable[[np.ndarray], Any]


def take_picture(image: Any) -> Taken:
    """Takes a picture of any kind.

    Args:
      image: A path, or a file's bytes: a PIL image comes back, upright. A PIL image: one comes back, upright too,
        of the same mode if that is L, LA, RGB, RGBA or I;16; others become one of these. A NumPy or JAX array
        [H, W] or [H, W, C] of uint8, uint16 or float in [0, 1], C = 1, 2 (grey + alpha), 3 or 4 (RGBA): an array
        of the same shape and type comes back.

    Raises:
      DataError: It cannot be read, or is no picture.
    """
    if isinstance(image, str | Path | bytes):
        picture = read_picture(image)
        kept = {"exif": picture.exif, "icc_profile": picture.icc_profile, "dpi": picture.dpi}
        return Taken(picture.pixels, lambda pixels: _to_pil(pixels, kept))
    if isinstance(image, Image.Image):
        upright = ImageOps.exif_transpose(image)
        return Taken(_from_pil(upright), lambda pixels: _to_pil(pixels, _information(upright, pixels)))
    array = np.asarray(image)
    pixels = array[..., None] if array.ndim == 2 else array
    _check(pixels, array)
    back = jax.numpy.asarray if isinstance(image, jax.Array) else np.asarray
    return Taken(pixels, lambda completed: back(completed.reshape(array.shape)))


def take_hole(mask: Any, size: tuple[int, int]) -> np.ndarray:
    """Takes a mask of any kind.

    Args:
      mask: A path or a file's bytes, a PIL image, or an array as `mask_files.hole_from_pixels` has it; what is
        white, or True, or 1, is the hole.
      size: (width, height) of the picture.

    Returns:
      [H, W] bool.

    Raises:
      DataError: It cannot be read, or has another aspect ratio than the picture.
    """
    if isinstance(mask, Image.Image):
        mask = Picture(_from_pil(ImageOps.exif_transpose(mask)), format="")
    if isinstance(mask, str | Path | bytes | Picture):
        return read_mask(mask, size).hole
    return hole_from_pixels(np.asarray(mask), size).hole


def _from_pil(image: Image.Image) -> np.ndarray:
    """[H, W, C] uint8 or uint16."""
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)[..., None]
    if image.mode in ("I", "F"):
        raise DataError(
            f"a PIL image of mode {image.mode} has no known range: give an array of uint16, or of float in [0, 1]"
        )
    if image.mode not in _MODES:
        see_through = image.has_transparency_data
        grey = image.mode in ("1", "La")
        image = image.convert(("LA" if grey else "RGBA") if see_through else ("L" if grey else "RGB"))
    pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _information(image: Image.Image, pixels: np.ndarray) -> dict[Any, Any]:
    """What describes a PIL image, as far as it fits the pixels that were made of it still."""
    return {**image.info, "icc_profile": fitting_profile(image, pixels.shape[-1], [])}


def _to_pil(pixels: np.ndarray, information: Mapping[Any, Any]) -> Image.Image:
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    image.info |= {key: information[key] for key in _KEPT if information.get(key)}
    return image


def _check(pixels: np.ndarray, array: np.ndarray) -> None:
    """Raises DataError where an array is no picture."""
    if pixels.ndim != 3 or pixels.shape[-1] not in (1, 2, 3, 4) or not pixels.size:
        raise DataError(
            f"a picture has the shape [H, W] or [H, W, C] with C from 1 to 4, and not {list(array.shape)}"
        )
    if pixels.dtype.name not in _TYPES:
        raise DataError(f"a picture is uint8, uint16 or float in [0, 1], and not {pixels.dtype.name}")


def check_range(pixels: np.ndarray, hole: np.ndarray) -> None:
    """Looks whether floats lie in [0, 1]; in the hole there may be anything.

    Args:
      pixels: [H, W, C].
      hole: [H, W] bool.

    Raises:
      DataError: They do not.
    """
    known = pixels[~hole]
    if pixels.dtype.name.startswith(("float", "bfloat")) and known.size:
        smallest, largest = float(known.min()), float(known.max())
        if not (smallest >= 0.0 and largest <= 1.0):  # What is not a number is neither.
            raise DataError(
                f"a picture of {pixels.dtype.name} lies in [0, 1] outside the hole, and this one from "
                f"{smallest:g} to {largest:g}"
            )

"""Reads and writes images as [H, W, 3] uint8, for training and evaluation."""

import contextlib
import io
import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from glcic_jax.errors import DataError, TooLargeError, one_line
from glcic_jax.files import write_atomically
from glcic_jax.pictures.colours import scaled, strips, white_of
from glcic_jax.pictures.opening import Source, open_image, source_name

LARGE = 40_000_000  # Pixels above which decoding an image takes several hundred megabytes.
_large_images = threading.Lock()  # Decoded one at a time: one in each thread would fill the memory.


class Header(NamedTuple):
    """The header of an image file, read before its pixels are decoded.

    Attributes:
      format: Pillow's name of the format, such as "JPEG".
      mode: Pillow's name of the colour mode, such as "RGB".
      width, height: In pixels, as stored.
      decoded_pixels: Pixels held in memory while it is decoded.
    """

    format: str
    mode: str
    width: int
    height: int
    decoded_pixels: int


def load_image(source: Source, name: str | None = None, at_least: int | None = None) -> np.ndarray:
    """Reads an image in any of the readable formats, upright.

    Grey, palette and CMYK become RGB; 16-bit grey is scaled, not clipped; transparency is laid over white; only
    the first frame of an animation is read.

    Args:
      source: The file's bytes, or its path.
      name: Its name in errors; the path if None.
      at_least: If given, the shorter side may come out smaller than the file's, but not below this many pixels: a
        JPEG is decoded at a half, a quarter or an eighth of its size, which is much faster and still finds all
        damage.

    Returns:
      [H, W, 3] uint8 RGB.

    Raises:
      DataError: Not an image, damaged, truncated, empty, or above 178 megapixels.
    """
    image = load_with_header(source, name, at_least)[1]
    assert image is not None
    return image


def load_with_header(
    source: Source, name: str | None = None, at_least: int | None = None, limit: float = float("inf")
) -> tuple[Header, np.ndarray | None]:
    """Reads an image and its header.

    Args:
      source, name, at_least: As in `load_image`.
      limit: An image with more `decoded_pixels` is not decoded.

    Returns:
      The header, and [H, W, 3] uint8 RGB or None.

    Raises:
      DataError: As in `load_image`.
    """
    name = source_name(source, name)
    try:
        with open_image(source, name) as image:
            mode, (width, height) = image.mode, image.size
            header = Header(image.format or "", mode, width, height, _reduce(image, at_least))
            return header, None if header.decoded_pixels > limit else _to_rgb(image, header.decoded_pixels)
    except TooLargeError as error:
        raise DataError(error.fact) from error  # Training has no option for it.
    except DataError:
        # libjpeg decodes lossless JPEGs only at their own size.
        if at_least is None:
            raise
        return load_with_header(source, name, limit=limit)


def save_image(image: np.ndarray, path: str | Path) -> None:
    """Writes [H, W, 3] or [H, W] uint8 to a file, atomically, in the format of its suffix.

    Raises:
      DataError: The suffix is unknown, the array is not an image, or the file cannot be written.
    """
    path = Path(path)
    image_format = Image.registered_extensions().get(path.suffix.lower())
    if image_format is None:
        raise DataError(f"{path}: cannot be written: use a suffix like .png, .jpg, .webp or .tiff")
    content = io.BytesIO()
    try:
        Image.fromarray(image).save(content, format=image_format)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: cannot be written ({one_line(error)})") from error
    write_atomically(path, content.getvalue())


def _reduce(image: Image.Image, at_least: int | None) -> int:
    """Makes Pillow decode a JPEG at a smaller size if `at_least` allows it; returns `Header.decoded_pixels`."""
    width, height = image.size
    if at_least is None or image.format != "JPEG":
        return width * height
    factors = (factor for factor in (8, 4, 2) if -(-min(width, height) // factor) >= at_least)
    factor = next(factors, 1)
    image.draft(None, (max(1, width // factor), max(1, height // factor)))
    # libjpeg gathers the scans of a progressive JPEG at full size, whatever the requested size.
    return width * height if "progressive" in image.info else image.width * image.height


def _to_rgb(image: Image.Image, decoded_pixels: int) -> np.ndarray:
    with _large_images if decoded_pixels > LARGE else contextlib.nullcontext():
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode.startswith("I;16") or image.mode in ("I", "F"):
            grey = np.asarray(image)
            return np.repeat(scaled(grey, np.uint8, white_of(grey))[..., None], 3, axis=-1)
        width, height = image.size
        rgb = np.empty((height, width, 3), np.uint8)
        # In strips, so that a large image is not held whole in several modes at once.
        for rows in strips(height, width):
            whole = rows == slice(0, height)
            strip = image if whole else image.crop((0, rows.start, width, rows.stop))
            rgb[rows] = np.asarray(_over_white(strip).convert("RGB"))
        return rgb


def _over_white(image: Image.Image) -> Image.Image:
    if image.mode not in ("RGBA", "LA", "PA", "RGBa", "La") and "transparency" not in image.info:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)

"""Reads and writes images as [H, W, 3] uint8, for training and evaluation."""

import contextlib
import io
import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from glcic_jax.errors import DataError, TooLargeError, one_line
from glcic_jax.files import write_atomically
from glcic_jax.pictures.colours import over_white, strips
from glcic_jax.pictures.opening import Source, open_image, source_name
from glcic_jax.pictures.reading import decode, decode_rare_tiff
from glcic_jax.pictures.sixteen_bit import eight_bit

_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
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

    The pixels are those of `read_picture`: grey, palette and CMYK become RGB. 16 bits are scaled to 8, and
    transparency is laid over white. Of an animation or several pages, only the first is read.

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
            if header.decoded_pixels > limit:
                return header, None
            with _large_images if header.decoded_pixels > LARGE else contextlib.nullcontext():
                return header, _to_rgb(decode(image, source).pixels)
    except TooLargeError as error:
        raise DataError(error.fact) from error  # Training has no option for it.
    except DataError as error:
        if at_least is not None:  # libjpeg decodes lossless JPEGs only at their own size.
            return load_with_header(source, name, limit=limit)
        picture = decode_rare_tiff(source, name, error)
        width, height = picture.stored_size or picture.size
        mode = _MODES[picture.pixels.shape[-1]]
        return Header(picture.format, mode, width, height, width * height), _to_rgb(picture.pixels)


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


def _to_rgb(pixels: np.ndarray) -> np.ndarray:
    """Converts [H, W, C] uint8 or uint16, C = 1 to 4, to [H, W, 3] uint8."""
    if pixels.dtype == np.uint8 and pixels.shape[-1] == 3:
        return pixels
    height, width = pixels.shape[:2]
    rgb = np.empty((height, width, 3), np.uint8)
    for rows in strips(height, width):
        strip = eight_bit(pixels[rows]) if pixels.dtype == np.uint16 else pixels[rows]
        rgb[rows] = over_white(strip) if strip.shape[-1] in (2, 4) else strip
    return rgb

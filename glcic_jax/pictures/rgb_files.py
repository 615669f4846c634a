"""Reads and writes image files; every error message about a file comes from here."""

import contextlib
import functools
import importlib.util
import io
import os
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from glcic_jax.errors import DataError, one_line, printable
from glcic_jax.files import write_atomically

# Above this many pixels an image takes several hundred megabytes while it is decoded.
LARGE = 40_000_000
# So such images are decoded one at a time: one in each of a training's threads would fill the memory.
_large_images = threading.Lock()
_PIXELS_OF_A_STRIP = 4_000_000
_WHITES = (1.0, 255.0, 65535.0, 2.0**32 - 1)

# Of Pillow's others some run programs and most are never a photograph. TGA is last: it has no mark of its own.
_FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF"),  # JPEG includes MPO.
    *("ICO", "PCX", "TGA"),
)


class Header(NamedTuple):
    """What a file says of itself before its pixels are decoded.

    Args:
      format: Pillow's name of the format, as "JPEG".
      mode: Pillow's name of the colour mode, as "RGB".
      width, height: In pixels, as they are stored.
      decoded_pixels: How many pixels have to be held to decode it.
    """

    format: str
    mode: str
    width: int
    height: int
    decoded_pixels: int


def load_image(source: bytes | str | Path, name: str | None = None, at_least: int | None = None) -> np.ndarray:
    """Reads an image in any of the formats in `_FORMATS`, upright.

    EXIF orientation is applied; grey, palette and CMYK become RGB; 16-bit grey is scaled, not clipped;
    transparency is laid over white; of an animation the first frame is taken.

    Args:
      source: The file's bytes, or its path.
      name: What errors call it; the path where None.
      at_least: If the shorter side may come out smaller than the file's, but not below this many pixels: a
        JPEG is then decoded at a half, a quarter or an eighth of its size, which is much faster and still
        finds all damage.

    Returns:
      [H, W, 3] uint8 RGB.

    Raises:
      DataError: Not an image, damaged, truncated, empty, or above Pillow's limit of 178 megapixels.
    """
    image = load_with_header(source, name, at_least)[1]
    assert image is not None
    return image


def load_with_header(
    source: bytes | str | Path, name: str | None = None, at_least: int | None = None, limit: float = float("inf")
) -> tuple[Header, np.ndarray | None]:
    """Reads an image as `load_image` does, and what its file says of itself.

    Args:
      source, name, at_least: As in `load_image`.
      limit: Images of which more pixels than this have to be held are not decoded.

    Returns:
      The header, and [H, W, 3] uint8 RGB or None.

    Raises:
      DataError: As in `load_image`.
    """
    try:
        with opened(source, name) as image:
            mode, (width, height) = image.mode, image.size
            header = Header(image.format or "", mode, width, height, _reduce(image, at_least))
            return header, None if header.decoded_pixels > limit else _to_rgb(image, header.decoded_pixels)
    except DataError:
        # Some JPEGs, the lossless ones, are readable at their own size alone.
        if at_least is None:
            raise
        return load_with_header(source, name, limit=limit)


@functools.cache
def readable_formats() -> list[str]:
    """Pillow's names of those in `_FORMATS` that this Pillow was built with."""
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def _open_image(file: Path | str | io.BytesIO) -> Image.Image:
    return Image.open(file, formats=readable_formats())


def source_name(source: bytes | str | Path, name: str | None) -> str:
    """What errors call a source: the name if there is one, or the path."""
    if name is not None:
        return name
    return "image" if isinstance(source, bytes) else printable(str(source))


@contextlib.contextmanager
def opened(
    source: bytes | str | Path,
    name: str | None,
    open_image: Callable[[Path | str | io.BytesIO], contextlib.AbstractContextManager[Image.Image]] = _open_image,
) -> Iterator[Image.Image]:
    """An image whose pixels are not yet decoded; errors inside become a `DataError` that names the file.

    Args:
      source, name: As in `load_image`.
      open_image: Opens a path or the bytes of a file.
    """
    name = source_name(source, name)
    try:
        with warnings.catch_warnings():
            # Pillow warns of what is an error here, and of metadata that nobody reads.
            warnings.simplefilter("ignore")
            if not isinstance(source, bytes) and os.path.exists(source) and not os.path.isfile(source):
                raise DataError(f"{name}: cannot be read as an image (not a file)")
            with open_image(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
                yield image
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{name}: no such file") from error
    except UnidentifiedImageError as error:
        reason = "no known format" if source else "the file is empty"
        raise DataError(f"{name}: cannot be read as an image ({reason})") from error
    except Exception as error:  # Pillow's plugins raise nearly every type on damaged input.
        raise DataError(f"{name}: cannot be read as an image ({printable(one_line(error))})") from error


@functools.cache
def heif_formats() -> list[str]:
    """Pillow's name of HEIC, where the package for it is installed."""
    if importlib.util.find_spec("pillow_heif") is None:
        return []
    import pillow_heif

    pillow_heif.register_heif_opener()
    return ["HEIF"]


@contextlib.contextmanager
def open_any(file: Path | str | io.BytesIO) -> Iterator[Image.Image]:
    """As Image.open, but without its limit on pixels, which is one for the whole process."""
    formats = [*readable_formats(), *heif_formats()]
    with contextlib.ExitStack() as stack:
        stream = file if isinstance(file, io.BytesIO) else stack.enter_context(open(file, "rb"))
        start = stream.read(16)
        if not start:
            raise OSError("the file is empty")
        refusals = []
        for name in formats:
            factory, accept = Image.OPEN[name]
            accepted = accept is None or accept(start)
            if not accepted or isinstance(accepted, str):
                continue
            stream.seek(0)
            try:
                image = stack.enter_context(factory(stream, ""))
            except (SyntaxError, IndexError, TypeError, struct.error) as error:
                refusals.append(one_line(error))
                continue
            yield image
            return
        raise UnidentifiedImageError("; ".join(refusals))


def save_image(image: np.ndarray, path: str | Path) -> None:
    """Writes [H, W, 3] or [H, W] uint8 to a file, format by its suffix; aside first, then renamed.

    Raises:
      DataError: The suffix is unknown, the array is no image, or the file cannot be written.
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
    """Has a JPEG decoded smaller, where it may be; returns how many pixels have to be held to decode it."""
    width, height = image.size
    if at_least is None or image.format != "JPEG":
        return width * height
    factors = (factor for factor in (8, 4, 2) if -(-min(width, height) // factor) >= at_least)
    factor = next(factors, 1)
    image.draft(None, (max(1, width // factor), max(1, height // factor)))
    # All scans of a progressive JPEG are gathered at full size, whatever size is asked for.
    return width * height if "progressive" in image.info else image.width * image.height


def _to_rgb(image: Image.Image, decoded_pixels: int) -> np.ndarray:
    """Decodes an image; returns [H, W, 3] uint8."""
    with _large_images if decoded_pixels > LARGE else contextlib.nullcontext():
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode.startswith("I;16") or image.mode in ("I", "F"):
            grey = np.asarray(image)
            return np.repeat(scaled(grey, np.uint8, white_of(grey))[..., None], 3, axis=-1)
        width, height = image.size
        rgb = np.empty((height, width, 3), np.uint8)
        # In strips: a whole large image is not held in several modes at once.
        for rows in strips(height, width):
            whole = rows == slice(0, height)
            strip = image if whole else image.crop((0, rows.start, width, rows.stop))
            rgb[rows] = np.asarray(_without_transparency(strip).convert("RGB"))
        return rgb


def _without_transparency(image: Image.Image) -> Image.Image:
    if image.mode not in ("RGBA", "LA", "PA", "RGBa", "La") and "transparency" not in image.info:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def strips(height: int, width: int) -> Iterator[slice]:
    """Rows that together make an image, a few megapixels at a time."""
    rows = max(1, _PIXELS_OF_A_STRIP // width)
    return (slice(top, min(top + rows, height)) for top in range(0, height, rows))


def white_of(values: np.ndarray) -> float:
    """Guesses which value is white: the end of the smallest usual range of those [0, 1], 8, 16 and 32 bits.

    Whole numbers all lie within it. Floats may go beyond, as highlights do and what resampling overshoots: no
    more than a tenth of those above 0 are above twice the range's end.

    Args:
      values: [H, W] or [H, W, C] of 16 bits, 32 bits or floats, whose range no header tells.
    """
    if np.issubdtype(values.dtype, np.integer):
        return 65535.0 if values.max(initial=0) <= 65535 else _WHITES[-1]
    positive, above = 0, np.zeros(len(_WHITES), np.int64)
    for rows in strips(*values.shape[:2]):
        strip = _finite(values[rows])
        positive += int(np.count_nonzero(strip > 0))
        above += [np.count_nonzero(strip > 2 * white) for white in _WHITES]
    return next(
        (white for white, count in zip(_WHITES, above, strict=True) if 10 * count <= positive), _WHITES[-1]
    )


def scaled(values: np.ndarray, dtype: type[np.unsignedinteger], white: float) -> np.ndarray:
    """Scales [H, W] or [H, W, C] of numbers in [0, white] to all of `dtype`; those outside are clipped."""
    result = np.empty(values.shape, dtype)
    for rows in strips(*values.shape[:2]):
        result[rows] = np.round(np.clip(_finite(values[rows]) / white, 0.0, 1.0) * np.iinfo(dtype).max)
    return result


def _finite(values: np.ndarray) -> np.ndarray:
    """As float64; what is no number or endless becomes 0."""
    return np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)


@contextlib.contextmanager
def silence_decoders() -> Iterator[None]:
    """Keeps what libtiff and its like print by themselves away from the terminal; the errors raised say it better.

    The whole process's standard error is elsewhere meanwhile, so this is for commands alone.
    """
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)

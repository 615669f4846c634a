"""Opens picture files of allowed formats and sizes; turns every failure into one line that names the file."""

import contextlib
import ctypes
import functools
import importlib.util
import io
import os
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import PIL
from PIL import Image, PngImagePlugin, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from glcic_jax.errors import DataError, TooLargeError, one_line, printable
from glcic_jax.pictures.damage import sound_image

Source = bytes | str | Path  # A file's bytes, or its path.

MAX_PIXELS = 178_956_970  # Pillow's limit, above which it suspects a decompression bomb.
_SHORTEST = 4  # Bytes; no format has a shorter signature.
_BYTES_PER_PIXEL = 12  # RGB as 32-bit floats.
# Bytes of one compressed text or profile of a PNG: for more than 1 MiB, Pillow would refuse the picture.
PngImagePlugin.MAX_TEXT_CHUNK = 8 << 20
_TILE_WIDTH, _TILE_LENGTH, _DEPTH = 322, 323, 32997  # Tags of TIFF.

# Some of Pillow's other formats run programs, and most are never photographs. JPEG includes MPO. TGA is last: it
# has no signature.
_FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF"),
    *("ICO", "PCX", "TGA"),
)


_HEIF_SUFFIXES = frozenset({".heic", ".heif", ".hif"})


@functools.cache
def readable_formats() -> list[str]:
    """Returns the names in `_FORMATS` that this Pillow was built with."""
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


@functools.cache
def heif_formats() -> list[str]:
    """Registers pillow_heif if it is installed; returns Pillow's name of its format, or nothing."""
    if importlib.util.find_spec("pillow_heif") is None:
        return []
    import pillow_heif

    pillow_heif.register_heif_opener()
    return ["HEIF"]


@functools.cache
def readable_suffixes() -> frozenset[str]:
    """Returns the lower-case suffixes of the files that are read, such as ".jpg"."""
    formats = {*readable_formats(), *heif_formats(), "MPO"}
    suffixes = {suffix for suffix, name in Image.registered_extensions().items() if name in formats}
    return frozenset(suffixes) | _HEIF_SUFFIXES  # Without pillow_heif, the error of a HEIC names the package.


def source_name(source: Source, name: str | None) -> str:
    """Returns the name of a source in errors: `name` if there is one, else the path."""
    if name is not None:
        return name
    return "image" if isinstance(source, bytes) else printable(str(source))


@contextlib.contextmanager
def open_image(source: Source, name: str, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """Opens an image without decoding its pixels.

    Args:
      source: The file.
      name: Its name in errors.
      max_pixels: Larger images are refused.

    Raises:
      DataError: From the opening, and in place of every other error inside the block.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns of errors that are raised here, and of unused metadata.
            warnings.simplefilter("ignore")
            if not isinstance(source, bytes) and os.path.exists(source) and not os.path.isfile(source):
                raise DataError(f"{name}: cannot be read as an image (not a file)")
            with _identified(source, [*readable_formats(), *heif_formats()]) as (image, stream):
                check_size(image.size, name, max_pixels)
                yield sound_image(image, stream)
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{name}: no such file") from error
    except UnidentifiedImageError as error:
        formats = ", ".join(readable_formats())
        raise DataError(f"{name}: cannot be read as an image (no known format: none of {formats})") from error
    except Exception as error:  # Pillow's plugins raise nearly every type on damaged input.
        raise DataError(f"{name}: cannot be read as an image ({printable(one_line(error))})") from error


@contextlib.contextmanager
def _identified(source: Source, formats: list[str]) -> Iterator[tuple[ImageFile, IO[bytes]]]:
    """Opens an image and its stream as `Image.open` does, without its process-wide limit on pixels."""
    with contextlib.ExitStack() as stack:
        stream: IO[bytes] = (
            io.BytesIO(source) if isinstance(source, bytes) else stack.enter_context(open(source, "rb"))
        )
        start = stream.read(16)
        if len(start) < _SHORTEST:
            length = f"ends after {len(start)} of at least {_SHORTEST} bytes" if start else "is empty"
            raise OSError(f"the file {length}")
        refusals = []
        for name in formats:
            factory, accept = Image.OPEN[name]
            try:
                accepted = accept is None or accept(start)
                if not accepted or isinstance(accepted, str):
                    continue
                stream.seek(0)
                image = stack.enter_context(factory(stream, ""))
            except (SyntaxError, IndexError, TypeError, struct.error) as error:
                refusals.append(one_line(error))
                continue
            yield image, stream
            return
        raise UnidentifiedImageError("; ".join(refusals))


def check_size(size: tuple[int, int], name: str, max_pixels: int) -> None:
    """Raises TooLargeError if a picture of (width, height) has too many pixels, DataError if it has none."""
    width, height = size
    _check_pixels(width, height, "", name, max_pixels)
    if width < 1 or height < 1:
        raise DataError(f"{name}: has no pixels ({width} x {height})")


def check_tiff(tags: Any, name: str, max_pixels: int) -> None:
    """Checks the tiles and layers of a TIFF: readers decode whole tiles, and all layers.

    Args:
      tags: Has `get`, from a tag's number to its value.
      name: The file's name in errors.
      max_pixels: Limit of a tile.

    Raises:
      DataError: It has layers.
      TooLargeError: Its tiles are too large.
    """
    depth = tags.get(_DEPTH, 1)
    if depth != 1:
        raise DataError(f"{name}: has {depth} layers: save the layer to complete as a separate file")
    _check_pixels(tags.get(_TILE_WIDTH, 0), tags.get(_TILE_LENGTH, 0), "tiles of ", name, max_pixels)


def _check_pixels(width: int, height: int, what: str, name: str, max_pixels: int) -> None:
    if width * height > max_pixels:
        size = f"{what}{width} x {height} = {width * height:,} pixels"
        raise TooLargeError(
            f"{name}: has {size}, and at most {max_pixels:,} are read",
            f"give --max-pixels {width * height} if this size is right",
        )


def read_start(source: Source) -> bytes:
    """Returns the first 16 bytes of a file."""
    if isinstance(source, bytes):
        return source[:16]
    with open(source, "rb") as file:
        return file.read(16)


def read_whole(source: Source, name: str, max_pixels: int) -> bytes:
    """Returns all bytes of a file, for decoders that take neither a path nor a stream.

    Raises:
      DataError: The file is larger than any picture of `max_pixels`.
    """
    if isinstance(source, bytes):
        return source
    limit = _BYTES_PER_PIXEL * max(max_pixels, MAX_PIXELS)
    with open(source, "rb") as file:
        content = file.read(limit + 1) if Path(source).stat().st_size <= limit else b""
    if not content or len(content) > limit:
        raise DataError(f"{name}: cannot be read as an image (at most {limit:,} bytes of its kind are read)")
    return content


def silence_libtiff() -> None:
    """Keeps libtiff from printing on standard error, in this process; the raised errors say more.

    Finds the libtiff in Pillow's wheels for Linux and macOS, and leaves any other as it is.
    """
    package = Path(PIL.__file__).parent
    for folder in (package.parent / "pillow.libs", package / ".dylibs"):
        for path in folder.glob("libtiff*"):
            library = ctypes.CDLL(str(path))
            for setter in (library.TIFFSetErrorHandler, library.TIFFSetWarningHandler):
                setter.argtypes, setter.restype = [ctypes.c_void_p], ctypes.c_void_p
                setter(None)


@contextlib.contextmanager
def silence_decoders() -> Iterator[None]:
    """Hides the messages of libtiff and other C libraries; the raised errors say more.

    It redirects standard error of the whole process, so it is for commands, not for services.
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

"""What a picture's file may take of the memory, told before anything of it is decoded."""

from pathlib import Path
from typing import Any

from glcic_jax.errors import DataError, TooLargeError

MAX_PIXELS = 178_956_970
_BYTES_OF_A_PIXEL = 12  # Of RGB as 32-bit floats.
_TILE_WIDTH, _TILE_LENGTH, _DEPTH = 322, 323, 32997  # Tags of TIFF.


def check_size(size: tuple[int, int], name: str, max_pixels: int) -> None:
    """Raises TooLargeError where a picture of (width, height) has too many pixels, DataError where none."""
    width, height = size
    _check_pixels(width, height, "", name, max_pixels)
    if width < 1 or height < 1:
        raise DataError(f"{name}: has no pixels ({width} x {height})")


def check_tiff(tags: Any, name: str, max_pixels: int) -> None:
    """Checks what a TIFF holds beyond its width and its height: every reader decodes a whole tile, and all layers.

    Args:
      tags: Has `get`, from a tag's number to its value.
      name: What errors call the file.
      max_pixels: Of a tile.

    Raises:
      DataError: It has layers, or too large tiles (TooLargeError).
    """
    depth = tags.get(_DEPTH, 1)
    if depth != 1:
        raise DataError(f"{name}: has {depth} layers: save the one to complete as a file of its own")
    _check_pixels(tags.get(_TILE_WIDTH, 0), tags.get(_TILE_LENGTH, 0), "tiles of ", name, max_pixels)


def _check_pixels(width: int, height: int, what: str, name: str, max_pixels: int) -> None:
    if width * height > max_pixels:
        there = f"{what}{width} x {height} = {width * height:,} pixels"
        raise TooLargeError(
            f"{name}: has {there}, and at most {max_pixels:,} are read",
            f"give --max-pixels {width * height} if that is right",
        )


def head(source: bytes | str | Path) -> bytes:
    """The first 16 bytes of a file, of its bytes or its path."""
    if isinstance(source, bytes):
        return source[:16]
    with open(source, "rb") as file:
        return file.read(16)


def whole(source: bytes | str | Path, name: str, max_pixels: int) -> bytes:
    """All bytes of a file that its readers want at once.

    Args:
      source: The bytes, or the path.
      name: What errors call the file.
      max_pixels: More pixels than these are not decoded.

    Raises:
      DataError: The file is larger than any picture of so many pixels.
    """
    if isinstance(source, bytes):
        return source
    most = _BYTES_OF_A_PIXEL * max(max_pixels, MAX_PIXELS)
    with open(source, "rb") as file:
        content = file.read(most + 1) if Path(source).stat().st_size <= most else b""
    if not content or len(content) > most:
        raise DataError(f"{name}: cannot be read as an image (of its kind at most {most:,} bytes are read)")
    return content

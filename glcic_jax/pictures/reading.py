"""From a picture's file to what it holds: by which reader, and only if it fits the memory."""

import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from glcic_jax.errors import DataError, TooLargeError
from glcic_jax.pictures import sixteen_bit
from glcic_jax.pictures.metadata import (
    ORIENTATION,
    PLAIN_MODES,
    cleaned_exif,
    describing,
    fitting_profile,
    is_lossless_webp,
    jpeg2000_bits,
    orientation_of,
    parsed,
    png_colour,
    profile_for,
    read_exif,
    resolution,
    tiff_dpi,
    valid_orientation,
)
from glcic_jax.pictures.rgb_files import heif_formats, open_any, opened, scaled, strips, white_of

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


_log = logging.getLogger(__name__)

_PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}


class Decoded(NamedTuple):
    """A decoded picture, upright; the fields are those of `pictures.Picture`."""

    pixels: np.ndarray
    format: str
    exif: bytes
    icc_profile: bytes
    dpi: tuple[float, float] | None
    notes: tuple[str, ...]
    stored_size: tuple[int, int] | None
    lossless: bool = False
    png_colour: bytes = b""


def decode(image: Image.Image, source: bytes | str | Path) -> Decoded:
    """Decodes an image that was opened; raises what Pillow raises."""
    notes: list[str] = []
    # Read first: Pillow forgets while it decodes how the pixels were stored, and turns a TIFF.
    detail = _Detail.of(image, source)
    if image.format != "TIFF":
        image.load()  # For its EXIF block a PNG is decoded, and what is wrong with it is no matter of EXIF.
    orientation, exif = read_exif(image, notes)
    image.load()
    left = orientation_of(image) if orientation != 1 else 1
    pixels = _deep_pixels(image, source, detail, orientation, left, notes) if detail.deep else None
    if pixels is None:
        pixels = _upright(_with_transparency(_plain_pixels(image, detail, notes), image, detail), left)
    if detail.bits > 8 and pixels.dtype == np.uint8:
        notes.append(
            f"{detail.bits}-bit colour was read as 8-bit: its kind of file is not known in {detail.bits} bits"
        )
    if detail.unused:
        notes.append("a channel of which the file does not say what it holds was left out")
    if image.format == "MPO":
        notes.append(f"of the {getattr(image, 'n_frames', 1)} pictures in the file the first was taken")
    decoded = _assembled(
        pixels,
        orientation,
        notes,
        "JPEG" if image.format == "MPO" else image.format or "",
        exif=exif,
        icc_profile=fitting_profile(image, pixels.shape[-1], notes),
        dpi=image.info.get("dpi"),
    )
    return decoded._replace(
        lossless=image.format == "WEBP" and is_lossless_webp(source),
        png_colour=png_colour(source) if image.format == "PNG" else b"",
    )


def decode_rare_tiff(content: bytes) -> Decoded:
    """Decodes a TIFF of a kind that Pillow does not know; raises nearly anything on damaged ones."""
    notes: list[str] = []
    pixels = sixteen_bit.decode_rare_tiff(content)
    if pixels.dtype != np.uint16:
        pixels = _to_16_bits(pixels, f"{pixels.dtype} values were", notes)
    block = parsed(content)
    described = describing(block)
    orientation = valid_orientation(block.get(ORIENTATION, 1))
    return _assembled(
        _upright(np.ascontiguousarray(pixels, np.uint16), orientation),
        orientation,
        notes,
        "TIFF",
        exif=described.tobytes() if len(described) else b"",
        icc_profile=profile_for(block.get(34675) or b"", pixels.shape[-1], notes),
        dpi=tiff_dpi(block),
    )


def _assembled(
    pixels: np.ndarray,
    orientation: int,
    notes: list[str],
    file_format: str,
    *,
    exif: bytes,
    icc_profile: bytes,
    dpi: object,
) -> Decoded:
    turned = orientation >= 5
    height, width = pixels.shape[:2]
    stored_size = None if orientation == 1 else (height, width) if turned else (width, height)
    exif = cleaned_exif(exif, turned, notes)
    return Decoded(pixels, file_format, exif, icc_profile, resolution(dpi, turned), tuple(notes), stored_size)


class _Detail(NamedTuple):
    """How a file stores its pixels, as far as the mode does not tell it.

    Args:
      deep: If its colours have 16 bits, which Pillow cuts to 8.
      grey_alpha: If Pillow makes RGBA of grey and alpha.
      premultiplied: If its colours are multiplied with its alpha.
      bits: Bits of a value.
      inverted: If 0 is white and Pillow leaves it so.
      unused: If it has channels that Pillow does not read.
    """

    deep: bool = False
    grey_alpha: bool = False
    premultiplied: bool = False
    bits: int = 8
    inverted: bool = False
    unused: bool = False

    @classmethod
    def of(cls, image: Any, source: bytes | str | Path) -> "_Detail":
        if image.format == "PNG" and image.tile:
            raw = str(image.tile[0][3])
            deep = image.mode[:3] == "RGB" and "16" in raw
            bits = {"L;2": 2, "L;4": 4}.get(raw, 16 if deep else 8)
            return cls(deep=deep, grey_alpha=raw[:2] == "LA", bits=bits)
        if image.format == "PPM" and image.tile and isinstance(image.tile[0][3], tuple):
            return cls(bits=int(image.tile[0][3][1]).bit_length())
        if image.format == "JPEG2000":
            bits = jpeg2000_bits(source)
            return cls(deep=image.mode in ("RGB", "RGBA") and bits == 16, bits=bits)
        if image.format == "TIFF":
            tags = image.tag_v2
            bits = tags.get(258, (1,))
            wide = image.mode[:2] == "I;"
            return cls(
                deep=image.mode in ("RGB", "RGBA") and set(bits) == {16},
                premultiplied=1 in tags.get(338, ()),
                bits=bits[0],
                inverted=wide and tags.get(262) == 0,
                unused=tags.get(277, 1) > len(image.getbands()),
            )
        return cls()


def _plain_pixels(image: Image.Image, detail: _Detail, notes: list[str]) -> np.ndarray:
    """[H, W, C] uint8 or uint16 of a picture whose pixels Pillow has read as they are stored."""
    mode = image.mode
    if mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.uint16)
        if detail.bits == 12:
            notes.append("12-bit grey was scaled to 16 bits")
            grey = ((grey.astype(np.uint32) * 65535 + 2047) // 4095).astype(np.uint16)
        return (65535 - grey if detail.inverted else grey)[..., None]
    if mode in ("I", "F"):
        # Of a PPM Pillow keeps 16 bits in 32.
        told = [] if image.format == "PPM" else notes
        return _to_16_bits(np.asarray(image), f"{'float' if mode == 'F' else '32-bit'} grey was", told)[..., None]
    if mode in PLAIN_MODES:
        target = mode
    elif mode == "1":
        target = "L"
        notes.append("1-bit black and white was converted to 8-bit grey")
    elif mode in ("P", "PA"):
        target = "RGBA" if image.has_transparency_data else "RGB"
        notes.append(f"a palette was converted to {target}")
    else:
        target = _PREMULTIPLIED.get(mode, "RGB")
        notes.append(f"{mode} was converted to {target}")
    height, width = image.height, image.width
    pixels = np.empty((height, width, len(target)), np.uint8)
    # In strips: a whole large image is not held in several modes at once.
    for rows in strips(height, width):
        strip = image if rows == slice(0, height) else image.crop((0, rows.start, width, rows.stop))
        strip = strip if mode == target else strip.convert(target)
        pixels[rows] = np.asarray(strip).reshape(-1, width, len(target))
    return pixels


def _to_16_bits(values: np.ndarray, what: str, notes: list[str]) -> np.ndarray:
    white = white_of(values)
    brighter = float(np.mean(values > white))
    clipped = (
        f", where {white:g} is white; {100 * brighter:.2g} % are brighter and were clipped" if brighter else ""
    )
    notes.append(f"{what} scaled to 16 bits{clipped}")
    return scaled(values, np.uint16, white)


def _deep_pixels(
    image: Image.Image, source: bytes | str | Path, detail: _Detail, orientation: int, left: int, notes: list[str]
) -> np.ndarray | None:
    """[H, W, C] uint16, upright; None where only Pillow's 8 bits are to be had. `left`: still to be turned."""
    content = source if isinstance(source, bytes) else Path(source).read_bytes()
    pixels = None
    if image.format == "TIFF":
        try:
            pixels = sixteen_bit.decode_rare_tiff(content, (0, 1, 2))
        except (
            Exception
        ) as error:  # It raises nearly every type, and where a package for the compression is missing.
            _log.debug("read by another reader: %s", error)
    if pixels is None:
        pixels = _by_two_readers(image, content, detail, orientation, left)
    if pixels is None:
        return None
    pixels = pixels[..., : len(image.mode)]
    if detail.premultiplied and pixels.shape[-1] == 4:
        alpha = np.maximum(pixels[..., 3:].astype(np.float64), 1)
        pixels[..., :3] = np.round(np.minimum(pixels[..., :3] / alpha, 1.0) * 65535)
    if detail.grey_alpha:
        pixels = pixels[..., [0, 3]]
    return _upright(_with_transparency(pixels, image, detail), orientation)


def _by_two_readers(
    image: Image.Image, content: bytes, detail: _Detail, orientation: int, left: int
) -> np.ndarray | None:
    """[H, W, C] uint16 as stored; None where the reader and Pillow disagree: one has turned or lost a part."""
    try:
        pixels = sixteen_bit.decode_colour(content)[..., : len(image.mode)]
    except ValueError:
        if image.format == "PNG":  # There are no kinds of it that only Pillow knows: it is damaged.
            raise
        return None
    as_pillow = pixels if left == orientation else _upright(pixels, orientation)
    return pixels if sixteen_bit.high_bytes_agree(as_pillow, image, detail.premultiplied) else None


def _with_transparency(pixels: np.ndarray, image: Image.Image, detail: _Detail) -> np.ndarray:
    """Makes alpha of the one grey or colour that a PNG says is transparent."""
    clear = image.info.get("transparency")
    if pixels.shape[-1] not in (1, 3) or image.mode == "P" or not isinstance(clear, int | tuple):
        return pixels
    if image.mode == "L":
        clear = np.asarray(clear) * 255 // (2**detail.bits - 1)  # Pillow scales the pixels alone.
    largest = np.iinfo(pixels.dtype).max
    alpha = np.where((pixels == np.array(clear)).all(axis=-1, keepdims=True), 0, largest).astype(pixels.dtype)
    return np.concatenate([pixels, alpha], axis=-1)


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turns [H, W, C] as the EXIF orientation, 1 to 8, says."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    # Row 0 and column 0 of these lie at the bottom or at the right.
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


# How a HEIC file names its kind, behind the word `ftyp`.
_HEIC_BRANDS = frozenset(
    {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
)
_TIFF_MARKS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def decode_file(source: bytes | str | Path, name: str, max_pixels: int) -> Decoded:
    """Opens, checks and decodes a picture, as `pictures.read_picture` says.

    Args:
      source: The file's bytes, or its path.
      name: What errors call it.
      max_pixels: Larger pictures are not decoded.

    Raises:
      DataError: Not an image, damaged, truncated, empty, animated, or too large.
    """
    try:
        with opened(source, name, open_any) as image:
            check_size(image.size, name, max_pixels)
            if isinstance(image, TiffImageFile):
                check_tiff(image.tag_v2, name, max_pixels)
            frames = getattr(image, "n_frames", 1)
            if frames > 1 and image.format != "MPO":
                raise DataError(
                    f"{name}: has {frames} frames or pages: save the one to complete as a file of its own"
                )
            decoded = decode(image, source)
    except DataError as error:
        if not isinstance(error.__cause__, UnidentifiedImageError):
            raise
        start = head(source)
        if start[4:8] == b"ftyp" and start[8:12] in _HEIC_BRANDS and not heif_formats():
            raise DataError(f"{name}: is a HEIC file: pip install 'glcic-jax[heic]' to read it") from error
        if start[:4] not in _TIFF_MARKS:
            raise
        decoded = _decode_rare_tiff(whole(source, name, max_pixels), name, max_pixels, error)
    return decoded


def _decode_rare_tiff(content: bytes, name: str, max_pixels: int, unknown: DataError) -> Decoded:
    try:
        size, tags = sixteen_bit.tiff_size(content)
        check_size(size, name, max_pixels)
        check_tiff(tags, name, max_pixels)
        return decode_rare_tiff(content)
    except DataError:
        raise
    except Exception as error:  # A damaged TIFF makes its reader raise nearly every type.
        raise unknown from error

"""Reads a picture file with its depth, alpha and metadata.

Pillow decodes, but cuts 16-bit colour to 8 bits and does not know some TIFFs: OpenCV and tifffile decode those.
"""

import logging
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.ExifTags import Base
from PIL.TiffImagePlugin import TiffImageFile

from glcic_jax.errors import DataError
from glcic_jax.pictures import sixteen_bit
from glcic_jax.pictures.colours import scaled, strips, white_of
from glcic_jax.pictures.damage import check_last_scan
from glcic_jax.pictures.metadata import (
    PLAIN_MODES,
    XMP_TAG,
    box_bits,
    clean_xmp,
    colour_code,
    compression_of,
    descriptive_tags,
    fitting_profile,
    has_extended_xmp,
    orientation_of,
    parse_exif,
    png_colour_code,
    profile_for,
    read_exif,
    read_iptc,
    read_texts,
    resolution_of,
    tiff_dpi,
    upright_exif,
    valid_dpi,
    valid_orientation,
)
from glcic_jax.pictures.opening import (
    MAX_PIXELS,
    Source,
    check_size,
    check_tiff,
    heif_formats,
    open_image,
    read_start,
    read_whole,
    source_name,
)
from glcic_jax.pictures.picture import Picture

_PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}
_TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_HEIC_BRANDS = frozenset(
    {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
)

_NEW_SUBFILE_TYPE, _REDUCED_OR_MASK = 254, 1 | 4  # A tag of TIFF, and bits of its value.
_MOST_LOST = 0.25  # Share of values that become black because they are no brightness.

_log = logging.getLogger(__name__)


class _RangeError(ValueError):
    """The values of a file are no brightnesses."""


def read_picture(source: Source, name: str | None = None, max_pixels: int = MAX_PIXELS) -> Picture:
    """Reads a picture in any readable format, or HEIC if pillow_heif is installed.

    Args:
      source: The file's bytes, or its path.
      name: Its name in errors; the path if None.
      max_pixels: Larger pictures are not decoded.

    Returns:
      The picture, upright. 16 bits stay 16 bits and grey stays grey; palettes, CMYK and the like become RGB.

    Raises:
      DataError: Not an image, damaged, truncated, empty, animated, or too large.
    """
    name = source_name(source, name)
    try:
        with open_image(source, name, max_pixels) as image:
            if isinstance(image, TiffImageFile):
                check_tiff(image.tag_v2, name, max_pixels)
            frames = getattr(image, "n_frames", 1)
            if frames > 1 and image.format != "MPO" and not _has_one_full_page(image):
                raise DataError(
                    f"{name}: has {frames} frames or pages: save the frame or page to complete as a separate file"
                )
            return decode(image, source)
    except DataError as error:
        return decode_rare_tiff(source, name, error, max_pixels)


def _has_one_full_page(image: Image.Image) -> bool:
    """Returns whether all pages of a TIFF but the first are reduced copies of it or its masks."""
    if not isinstance(image, TiffImageFile):
        return False
    kinds = []
    for page in range(1, image.n_frames):
        image.seek(page)
        kinds.append(image.tag_v2.get(_NEW_SUBFILE_TYPE, 0))
    image.seek(0)
    return all(kind & _REDUCED_OR_MASK for kind in kinds)


def decode(image: Image.Image, source: Source) -> Picture:
    """Decodes an image that Pillow opened, its first frame only; raises what Pillow raises."""
    notes: list[str] = []
    # Before decoding, in which Pillow forgets how the pixels are stored and turns a TIFF upright.
    boxes = _content(source) if image.format in ("AVIF", "HEIF") else b""
    storage = _Storage.of(image, boxes)
    if image.format != "TIFF":
        image.load()  # A PNG's EXIF block may follow its pixels.
    orientation, exif = read_exif(image, notes)
    image.load()
    if "progressive" in image.info:
        check_last_scan(image, _content(source))
    remaining = orientation_of(image) if orientation != 1 else 1
    pixels = None
    if storage.deep_colour:
        pixels = _deep_colour(image, source, storage, orientation, remaining, notes)
    if pixels is None:
        pixels = _plain_pixels(image, storage, notes)
        pixels = _upright(_alpha_from_colour_key(pixels, image, storage), remaining)
    if storage.bits > 8 and pixels.dtype == np.uint8:
        notes.append(
            f"{storage.bits}-bit colour was read as 8-bit: this kind of file is not read in {storage.bits} bits"
        )
    if storage.unknown_channel:
        notes.append("a channel whose meaning the file does not say was left out")
    if image.format == "MPO":
        notes.append(f"only the first of the {getattr(image, 'n_frames', 1)} images in the file was read")
    if has_extended_xmp(image):
        notes.append("the part of the XMP that the JPEG holds in further segments was left out")
    profile = fitting_profile(image, pixels.shape[-1], notes)
    texts = read_texts(image, notes)
    turned = orientation >= 5
    return Picture(
        pixels,
        format="JPEG" if image.format == "MPO" else image.format or "",
        exif=exif,
        icc_profile=profile,
        dpi=valid_dpi(resolution_of(image, exif), turned=turned),
        notes=tuple(notes),
        stored_size=_stored_size(pixels, orientation),
        lossless=image.format == "WEBP" and b"VP8L" in _content(source),
        compression=storage.compression,
        xmp=clean_xmp(image.info.get("xmp")),
        iptc=read_iptc(image),
        texts=texts,
        png_colour=() if profile else _png_colour(image, source, boxes),
    )


def _png_colour(image: Image.Image, source: Source, boxes: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """Returns the chunks of a PNG that describe an image's colours, unless these are sRGB, as viewers assume."""
    code = png_colour_code(_content(source)) if image.format == "PNG" else colour_code(boxes)
    if code:
        return ((b"cICP", code),)
    info = image.info
    chunks = []
    gamma, chromaticity = info.get("gamma"), info.get("chromaticity")
    if "srgb" not in info and isinstance(gamma, float) and 0.01 < gamma < 100:
        chunks.append((b"gAMA", struct.pack(">I", round(gamma * 100_000))))
        if isinstance(chromaticity, tuple) and len(chromaticity) == 8 and all(0 <= x < 1 for x in chromaticity):
            chunks.append((b"cHRM", struct.pack(">8I", *(round(x * 100_000) for x in chromaticity))))
    return tuple(chunks)


def decode_rare_tiff(source: Source, name: str, refusal: DataError, max_pixels: int = MAX_PIXELS) -> Picture:
    """Decodes a TIFF of a kind that Pillow does not know.

    Args:
      source, name, max_pixels: As in `read_picture`.
      refusal: The error with which Pillow refused the file.

    Raises:
      DataError: The refusal, if the file is no such TIFF; otherwise as in `read_picture`.
    """
    if not isinstance(refusal.__cause__, UnidentifiedImageError):
        raise refusal
    start = read_start(source)
    if start[4:8] == b"ftyp" and start[8:12] in _HEIC_BRANDS and not heif_formats():
        raise DataError(f"{name}: is a HEIC file: pip install 'glcic-jax[heic]' to read it") from refusal
    if start[:4] not in _TIFF_SIGNATURES:
        raise refusal
    try:
        return _decode_with_tifffile(read_whole(source, name, max_pixels), name, max_pixels)
    except DataError:
        raise
    except _RangeError as error:
        raise DataError(f"{name}: cannot be read as an image ({error})") from error
    except Exception:  # tifffile raises nearly every type on a damaged file.
        raise refusal from refusal.__cause__


def _decode_with_tifffile(content: bytes, name: str, max_pixels: int) -> Picture:
    """Decodes a TIFF; raises nearly every type on damaged ones."""
    size, tags = sixteen_bit.tiff_size(content)
    check_size(size, name, max_pixels)
    check_tiff(tags, name, max_pixels)
    notes: list[str] = []
    pixels = sixteen_bit.decode_tiff(content)
    if pixels.dtype != np.uint16:
        pixels = _to_16_bits(pixels, f"{pixels.dtype} values were", notes)
    block = parse_exif(content)
    orientation = valid_orientation(block.get(Base.Orientation, 1))
    pixels = _upright(np.ascontiguousarray(pixels, np.uint16), orientation)
    turned = orientation >= 5
    return Picture(
        pixels,
        format="TIFF",
        exif=upright_exif(descriptive_tags(block), turned=turned),
        icc_profile=profile_for(block.get(Base.InterColorProfile) or b"", pixels.shape[-1], notes),
        dpi=valid_dpi(tiff_dpi(block), turned=turned),
        notes=tuple(notes),
        stored_size=_stored_size(pixels, orientation),
        compression=compression_of(block),
        xmp=clean_xmp(block.get(XMP_TAG)),
    )


class _Storage(NamedTuple):
    """How a file stores its pixels, beyond Pillow's mode.

    Attributes:
      deep_colour: Whether its colours have, or may have, 16 bits, which Pillow cuts to 8.
      grey_alpha: Whether it is grey with alpha, which Pillow decodes as RGBA.
      premultiplied: Whether its colours are multiplied by its alpha.
      bits: Bits of a sample.
      inverted: Whether 0 is white and Pillow does not invert it.
      unknown_channel: Whether it has channels that Pillow does not decode.
      compression: As in `Picture`.
    """

    deep_colour: bool = False
    grey_alpha: bool = False
    premultiplied: bool = False
    bits: int = 8
    inverted: bool = False
    unknown_channel: bool = False
    compression: str = "raw"

    @classmethod
    def of(cls, image: Any, content: bytes) -> "_Storage":
        if image.format == "PNG" and image.tile:
            raw = str(image.tile[0][3])
            deep = image.mode[:3] == "RGB" and "16" in raw
            bits = {"L;2": 2, "L;4": 4}.get(raw, 16 if deep else 8)
            return cls(deep_colour=deep, grey_alpha=raw[:2] == "LA", bits=bits)
        if image.format == "PPM" and image.tile and isinstance(image.tile[0][3], tuple):
            return cls(bits=int(image.tile[0][3][1]).bit_length())
        if image.format == "JPEG2000":  # Pillow does not report its bits.
            return cls(deep_colour=image.mode in ("RGB", "RGBA"))
        if image.format == "HEIF":
            bits = image.info.get("bit_depth", 8)
            return cls(deep_colour=bits > 8 and image.mode in ("RGB", "RGBA"), bits=bits)
        if image.format == "AVIF":  # Pillow does not report its bits.
            return cls(bits=box_bits(content))
        if image.format == "TIFF":
            tags = image.tag_v2
            bits = tags.get(Base.BitsPerSample, (1,))
            return cls(
                deep_colour=image.mode in ("RGB", "RGBA") and set(bits) == {16},
                premultiplied=1 in tags.get(Base.ExtraSamples, ()),
                bits=bits[0],
                inverted=image.mode[:2] == "I;" and tags.get(Base.PhotometricInterpretation) == 0,
                unknown_channel=tags.get(Base.SamplesPerPixel, 1) > len(image.getbands()),
                compression=compression_of(tags),
            )
        return cls()


def _plain_pixels(image: Image.Image, storage: _Storage, notes: list[str]) -> np.ndarray:
    """Returns [H, W, C] uint8 or uint16 of an image that Pillow decodes in full."""
    mode = image.mode
    if mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.uint16)
        if storage.bits == 12:
            notes.append("12-bit grey was scaled to 16 bits")
            grey = ((grey.astype(np.uint32) * 65535 + 2047) // 4095).astype(np.uint16)
        return (65535 - grey if storage.inverted else grey)[..., None]
    if mode in ("I", "F"):
        # Pillow decodes a 16-bit PGM to 32 bits.
        unchanged = image.format == "PPM"
        what = f"{'float' if mode == 'F' else '32-bit'} grey was"
        return _to_16_bits(np.asarray(image), what, [] if unchanged else notes)[..., None]
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
    # In strips, so that a large image is not held whole in several modes at once.
    for rows in strips(height, width):
        strip = image if rows == slice(0, height) else image.crop((0, rows.start, width, rows.stop))
        strip = strip if mode == target else strip.convert(target)
        pixels[rows] = np.asarray(strip).reshape(-1, width, len(target))
    return pixels


def _to_16_bits(values: np.ndarray, what: str, notes: list[str]) -> np.ndarray:
    """Scales values of an unknown range to uint16; raises _RangeError if that would lose many of them."""
    lost = float(np.mean(~(np.isfinite(values) & (values >= 0))))
    if lost > _MOST_LOST:
        raise _RangeError(
            f"{100 * lost:.2g} % of its values are negative, infinite or not numbers: scale them to [0, 1]"
        )
    white = white_of(values)
    brighter = float(np.mean(values > white))
    clipped = (
        f", where {white:g} is white; {100 * brighter:.2g} % are brighter and were clipped" if brighter else ""
    )
    black = f"; {100 * lost:.2g} % are negative, infinite or not numbers and became black" if lost else ""
    notes.append(f"{what} scaled to 16 bits{clipped}{black}")
    return scaled(values, np.uint16, white)


def _deep_colour(
    image: Image.Image, source: Source, storage: _Storage, orientation: int, remaining: int, notes: list[str]
) -> np.ndarray | None:
    """Returns [H, W, C] uint16, upright; None if only Pillow's 8 bits can be read.

    Args:
      image: The image, decoded by Pillow.
      source: Its file.
      storage: How the file stores its pixels.
      orientation: EXIF orientation of the pixels as stored.
      remaining: EXIF orientation of Pillow's pixels.
      notes: Receives a line if colour is read with fewer bits.
    """
    content, channels = _content(source), len(image.mode)
    pixels = None
    if image.format == "TIFF":
        try:
            pixels = _upright(sixteen_bit.decode_tiff(content, (0, 1, 2))[..., :channels], orientation)
        except Exception as error:  # Nearly every type; also where its compression needs another package.
            _log.debug("tifffile: %s", error)
    if pixels is None:
        try:
            decode_colour = sixteen_bit.decode_heif if image.format == "HEIF" else sixteen_bit.decode_colour
            pixels = decode_colour(content)[..., :channels]
        except ValueError:
            if image.format == "PNG":  # OpenCV knows all kinds of PNG: this one is damaged.
                raise
            return None
        # If OpenCV and Pillow disagree, one of them has lost bits or turned the image.
        if not sixteen_bit.high_bytes_agree(pixels, image):
            if image.format == "JPEG2000":
                notes.append("colour of more than 8 bits was read as 8-bit")
            return None
        pixels = _upright(pixels, remaining)
    if storage.premultiplied and pixels.shape[-1] == 4:
        alpha = np.maximum(pixels[..., 3:].astype(np.float64), 1)
        pixels[..., :3] = np.round(np.minimum(pixels[..., :3] / alpha, 1.0) * 65535)
    if storage.grey_alpha:
        pixels = pixels[..., [0, 3]]
    return _alpha_from_colour_key(pixels, image, storage)


def _alpha_from_colour_key(pixels: np.ndarray, image: Image.Image, storage: _Storage) -> np.ndarray:
    """Adds alpha, [H, W, C + 1], if a PNG declares one grey or colour transparent."""
    clear = image.info.get("transparency")
    if pixels.shape[-1] not in (1, 3) or image.mode == "P" or not isinstance(clear, int | tuple):
        return pixels
    if image.mode == "L":
        clear = np.asarray(clear) * 255 // (2**storage.bits - 1)  # Pillow scales the pixels alone.
    largest = np.iinfo(pixels.dtype).max
    alpha = np.where((pixels == np.array(clear)).all(axis=-1, keepdims=True), 0, largest).astype(pixels.dtype)
    return np.concatenate([pixels, alpha], axis=-1)


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Applies an EXIF orientation, 1 to 8, to [H, W, C]."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    # Row 0 and column 0 of these are at the bottom or at the right.
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _stored_size(pixels: np.ndarray, orientation: int) -> tuple[int, int] | None:
    height, width = pixels.shape[:2]
    return None if orientation == 1 else (height, width) if orientation >= 5 else (width, height)


def _content(source: Source) -> bytes:
    return source if isinstance(source, bytes) else Path(source).read_bytes()

"""What an opened image file holds, decoded without loss: pixels of any kind, and what describes them."""

import logging
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from glcic_jax import sixteen_bit
from glcic_jax.errors import printable
from glcic_jax.exif import ORIENTATION, cleaned, describing, parsed
from glcic_jax.image_files import scaled, strips

_log = logging.getLogger(__name__)

# How an ICC profile names its colour space, and the channels of pixels that it fits.
_COLOUR_SPACES = {b"GRAY": 1, b"RGB ": 3, b"CMYK": 4, b"Lab ": 0, b"YCbr": 0}
_PLAIN_MODES = ("L", "LA", "RGB", "RGBA")
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


def decode(image: Image.Image, source: bytes | str | Path) -> Decoded:
    """Decodes an image that was opened; raises what Pillow raises."""
    notes: list[str] = []
    # Read first: Pillow forgets while it decodes how the pixels were stored, and turns a TIFF.
    detail = _Detail.of(image)
    if image.format != "TIFF":
        image.load()  # For its EXIF block a PNG is decoded, and what is wrong with it is no matter of EXIF.
    orientation, exif = _read_exif(image, notes)
    image.load()
    left = _orientation(image) if orientation != 1 else 1
    pixels = _deep_pixels(image, source, detail, orientation, left, notes) if detail.deep else None
    if pixels is None:
        pixels = _upright(_with_transparency(_plain_pixels(image, detail, notes), image, detail), left)
    if image.format == "MPO":
        notes.append(f"of the {getattr(image, 'n_frames', 1)} pictures in the file the first was taken")
    kept = image.mode in (*_PLAIN_MODES, "1", "P", "PA") or image.mode[0] in "IF"
    profile = _fitting_profile(image.info.get("icc_profile") or b"", pixels.shape[-1] if kept else 0, notes)
    return _assembled(
        pixels,
        orientation,
        notes,
        "JPEG" if image.format == "MPO" else image.format or "",
        exif=exif,
        icc_profile=profile,
        dpi=image.info.get("dpi"),
    )


def decode_rare_tiff(content: bytes) -> Decoded:
    """Decodes a TIFF of a kind that Pillow does not know; raises nearly anything on damaged ones."""
    notes: list[str] = []
    pixels = sixteen_bit.decode_rare_tiff(content)
    if pixels.dtype != np.uint16:
        notes.append(f"{pixels.dtype} values were scaled to 16 bits")
        pixels = scaled(pixels, np.uint16)
    block = parsed(content)
    described = describing(block)
    orientation = _valid_orientation(block.get(ORIENTATION, 1))
    return _assembled(
        _upright(np.ascontiguousarray(pixels, np.uint16), orientation),
        orientation,
        notes,
        "TIFF",
        exif=described.tobytes() if len(described) else b"",
        icc_profile=_fitting_profile(block.get(34675) or b"", pixels.shape[-1], notes),
        dpi=(block.get(282), block.get(283)),
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
    exif = _cleaned(exif, turned, notes)
    resolution = _resolution(dpi, turned)
    return Decoded(pixels, file_format, exif, icc_profile, resolution, tuple(notes), stored_size)


class _Detail(NamedTuple):
    """How a file stores its pixels, as far as the mode does not tell it.

    Args:
      deep: If its colours have 16 bits, which Pillow cuts to 8.
      grey_alpha: If Pillow makes RGBA of grey and alpha.
      premultiplied: If its colours are multiplied with its alpha.
      bits: Bits of a grey value.
      inverted: If 0 is white and Pillow leaves it so.
    """

    deep: bool = False
    grey_alpha: bool = False
    premultiplied: bool = False
    bits: int = 8
    inverted: bool = False

    @classmethod
    def of(cls, image: Any) -> "_Detail":
        if image.format == "PNG" and image.tile:
            raw = str(image.tile[0][3])
            bits = {"L;2": 2, "L;4": 4}.get(raw, 8)
            return cls(deep=image.mode[:3] == "RGB" and "16" in raw, grey_alpha=raw[:2] == "LA", bits=bits)
        if image.format == "TIFF":
            tags = image.tag_v2
            bits = tags.get(258, (1,))
            wide = image.mode[:2] == "I;"
            return cls(
                deep=image.mode in ("RGB", "RGBA") and set(bits) == {16},
                premultiplied=1 in tags.get(338, ()),
                bits=bits[0],
                inverted=wide and tags.get(262) == 0,
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
        if image.format != "PPM":  # Whose 16 bits Pillow keeps in 32.
            notes.append(f"{'float' if mode == 'F' else '32-bit'} grey was scaled to 16 bits")
        return scaled(np.asarray(image), np.uint16)[..., None]
    if mode in _PLAIN_MODES:
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
        notes.append("16-bit colour was read as 8-bit: its kind of file is not known in 16 bits")
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


def _valid_orientation(value: object) -> int:
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _orientation(image: Image.Image) -> int:
    return _valid_orientation(image.getexif().get(ORIENTATION, 1))


def _read_exif(image: Image.Image, notes: list[str]) -> tuple[int, bytes]:
    """The orientation, and the EXIF block as the file has it."""
    try:
        orientation = _orientation(image)
        block = image.info.get("exif") or b""  # pillow_heif puts None where there is none.
        if image.format == "TIFF" or "Raw profile type exif" in image.info:
            described = describing(image.getexif())
            block = described.tobytes() if len(described) else b""
    except Exception:  # Pillow raises nearly every type here too.
        notes.append("the EXIF block is damaged and was left out")
        return 1, b""
    return orientation, block


def _cleaned(exif: bytes, turned: bool, notes: list[str]) -> bytes:
    try:
        return cleaned(exif, turned)
    except ValueError:
        notes.append("the EXIF block is damaged and was left out")
        return b""


def _fitting_profile(profile: bytes, channels: int, notes: list[str]) -> bytes:
    """The colour profile, if it fits the pixels still; 0 channels for pixels of another colour space than it."""
    colours = 1 if channels in (1, 2) else 3
    if profile and _COLOUR_SPACES.get(profile[16:20], colours if channels else 0) != colours:
        space = printable(profile[16:20].decode("latin-1")).strip()
        notes.append(f"the colour profile ({space}) does not fit the pixels and was left out")
        return b""
    return profile


def _resolution(dpi: object, turned: bool) -> tuple[float, float] | None:
    """Dots per inch, if they are any."""
    try:
        across, down = (float(value) for value in dpi)  # type: ignore[attr-defined]
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    if not all(math.isfinite(value) and 1 <= value <= 65535 for value in (across, down)):
        return None
    return (down, across) if turned else (across, down)

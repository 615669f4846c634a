"""Pictures to complete: read with all that a file holds of them, and written back with it.

Training needs [H, W, 3] uint8 and has `image_files`. A picture that goes back to its owner keeps its depth, its
transparency, its colour profile and its EXIF block.
"""

import dataclasses
import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from glcic_jax.errors import DataError, one_line, printable
from glcic_jax.files import write_atomically
from glcic_jax.pictures import sixteen_bit
from glcic_jax.pictures.metadata import describing, parsed
from glcic_jax.pictures.reading import MAX_PIXELS, decode_file
from glcic_jax.pictures.rgb_files import heif_formats, readable_formats, source_name, strips


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture, upright.

    Args:
      pixels: [H, W, C] uint8 or uint16; C = 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA.
      format: Pillow's name of its file's format, as "JPEG".
      exif: Its EXIF block, with the orientation 1 and without a thumbnail; empty if there is none.
      icc_profile: Its colour profile, which fits the pixels; empty if there is none.
      dpi: Dots per inch, across and down.
      notes: What was changed on the way, a short line each.
      stored_size: (width, height) as the file has it, where EXIF turned the picture; or None.
      lossless: If its file is of a format that may lose pixels and has not.
      png_colour: The chunks of a PNG that say what its colours mean, beside the profile.
    """

    pixels: np.ndarray
    format: str
    exif: bytes = b""
    icc_profile: bytes = b""
    dpi: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()
    stored_size: tuple[int, int] | None = None
    lossless: bool = False
    png_colour: bytes = b""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.pixels.shape[1], self.pixels.shape[0]

    @property
    def colour(self) -> np.ndarray:
        """[H, W, 1] or [H, W, 3]: the pixels without alpha."""
        return self.pixels[..., : 1 if self.pixels.shape[-1] < 3 else 3]

    @property
    def alpha(self) -> np.ndarray | None:
        """[H, W], 0 = transparent; None if there is none."""
        return self.pixels[..., -1] if self.pixels.shape[-1] in (2, 4) else None


def read_picture(source: bytes | str | Path, name: str | None = None, max_pixels: int = MAX_PIXELS) -> Picture:
    """Reads a picture in any of the formats that training reads, and HEIC where its package is installed.

    Args:
      source: The file's bytes, or its path.
      name: What errors call it; the path where None.
      max_pixels: Larger pictures are not decoded.

    Returns:
      The picture. 16 bits stay 16 bits and grey stays grey; palettes, CMYK and the like become RGB.

    Raises:
      DataError: Not an image, damaged, truncated, empty, animated, or too large.
    """
    return Picture(*decode_file(source, source_name(source, name), max_pixels))


class _Holds(NamedTuple):
    """What a format can hold, as it is written here.

    Args:
      suffixes: Of its files; the usual one first.
      grey, alpha, deep: If it holds one channel, transparency, 16 bits.
      profile, exif: If it holds a colour profile, an EXIF block.
    """

    suffixes: tuple[str, ...]
    grey: bool = True
    alpha: bool = True
    deep: bool = False
    profile: bool = True
    exif: bool = True


_WRITTEN = {
    "PNG": _Holds((".png",), deep=True),
    "JPEG": _Holds((".jpg", ".jpeg", ".jpe", ".jfif"), alpha=False),
    "TIFF": _Holds((".tif", ".tiff"), deep=True),
    "WEBP": _Holds((".webp",), grey=False),
    "AVIF": _Holds((".avif",)),
    "HEIF": _Holds((".heic", ".heif", ".hif"), grey=False),
    "JPEG2000": _Holds((".jp2",), profile=False, exif=False),
    "BMP": _Holds((".bmp",), alpha=False, profile=False, exif=False),
    "PPM": _Holds((".ppm", ".pgm", ".pnm"), alpha=False, profile=False, exif=False),
    "TGA": _Holds((".tga",), profile=False, exif=False),
}
_LARGEST_JPEG_EXIF = 65533
_PNG_HEADER = 33  # Bytes of its mark and its first chunk.


def format_for(path: str | Path | None, picture: Picture, asked: str | None = None) -> str:
    """Returns the format that a result is written in, as Pillow names it.

    The suffix of the path rules, then what was asked for, then the picture's own format; PNG where nothing can
    be written in that.

    Args:
      path: Where it is written; None where only the format is known, or nothing.
      picture: What the result is made of.
      asked: A format's name or suffix, as "jpeg", "jpg" or ".jpg"; None for the picture's own.

    Raises:
      DataError: The suffix or the name is unknown, or they contradict each other.
    """
    wanted = None if asked is None else format_named(asked)
    suffix = "" if path is None else Path(path).suffix
    if not suffix:
        own = picture.format if _is_written(picture.format) else "PNG"
        return wanted or own
    try:
        named = format_named(suffix)
    except DataError as error:
        raise DataError(f"{printable(str(path))}: cannot be written ({error})") from error
    if wanted not in (None, named):
        raise DataError(
            f"{printable(str(path))}: its suffix says {named} and --format says {wanted}: change one of the two"
        )
    return named


def suffix_for(file_format: str, like: Path | None = None) -> str:
    """The suffix of a format's files, as ".jpg".

    Args:
      file_format: A name that `format_for` returns.
      like: A file whose own suffix is taken if it is one of the format's; else it is the usual one.
    """
    suffixes = _WRITTEN[file_format].suffixes
    return like.suffix if like is not None and like.suffix.lower() in suffixes else suffixes[0]


def _is_written(file_format: str) -> bool:
    readable_formats()  # Has Pillow find what it can write.
    heif_formats()
    return file_format in _WRITTEN and file_format in Image.SAVE


def format_named(name: str) -> str:
    """The format of a name or a suffix, as "jpeg", "jpg" or ".jpg".

    Raises:
      DataError: Nothing is written in a format of that name.
    """
    key = name.lower().removeprefix(".")
    for file_format, holds in _WRITTEN.items():
        if (key == file_format.lower() or f".{key}" in holds.suffixes) and _is_written(file_format):
            return file_format
    if f".{key}" in _WRITTEN["HEIF"].suffixes:
        raise DataError(f"{printable(name)} needs another package: pip install 'glcic-jax[heic]'")
    known = ", ".join(suffix_for(file_format)[1:] for file_format in _WRITTEN if _is_written(file_format))
    raise DataError(f"no results are written as {printable(name)!r}: choose one of {known}")


def fitted(picture: Picture, file_format: str) -> Picture:
    """Returns a picture as a format can hold it; its notes say what that costs.

    Args:
      picture: Any.
      file_format: A name that `format_for` returns.
    """
    holds, notes = _WRITTEN[file_format], list(picture.notes)
    pixels, profile, exif = picture.pixels, picture.icc_profile, picture.exif
    if picture.format and not _is_written(picture.format):
        notes.append(f"results are not written as {picture.format}: it is {file_format} instead")
    if pixels.dtype == np.uint16 and not holds.deep:
        notes.append(f"16 bits were rounded to 8, as {file_format} is written with")
        pixels = sixteen_bit.eight_bit(pixels)
    if pixels.shape[-1] in (2, 4) and not holds.alpha:
        notes.append(f"transparency was laid over white: {file_format} is written without it")
        pixels = _over_white(pixels)
    deep_tiff = file_format == "TIFF" and pixels.dtype == np.uint16
    if deep_tiff and pixels.shape[-1] == 2:
        notes.append("grey with transparency was written as RGBA: few programs read it in a TIFF of 16 bits")
    if pixels.shape[-1] < 3 and (
        not holds.grey or (pixels.shape[-1] == 2 and (deep_tiff or file_format == "AVIF"))
    ):
        pixels = np.concatenate([np.repeat(pixels[..., :1], 3, axis=-1), pixels[..., 1:]], axis=-1)
        if profile[16:20] == b"GRAY":
            notes.append("the colour profile was left out: it is one of grey")
            profile = b""
    if profile and not holds.profile:
        notes.append(f"the colour profile was left out: {file_format} is written without one")
        profile = b""
    if exif and not holds.exif:
        notes.append(f"the EXIF block was left out: {file_format} is written without one")
        exif = b""
    if file_format == "JPEG" and len(exif) > _LARGEST_JPEG_EXIF:
        notes.append("the EXIF block was left out: it is larger than a JPEG can hold")
        exif = b""
    png_colour = picture.png_colour if file_format == "PNG" else b""
    # What only says sRGB, which a picture without it is too, or is overruled by the profile, is no loss.
    if b"cICP" in picture.png_colour[len(png_colour) :] or (
        not png_colour and picture.png_colour and b"sRGB" not in picture.png_colour and not picture.icc_profile
    ):
        notes.append(f"the PNG's description of its colours was left out: {file_format} is written without one")
    return dataclasses.replace(
        picture,
        pixels=pixels,
        format=file_format,
        icc_profile=profile,
        exif=exif,
        notes=tuple(notes),
        png_colour=png_colour,
    )


def _with_png_colour(content: bytes, picture: Picture) -> bytes:
    """A file with what `fitted` left of the PNG's chunks, behind the first."""
    return content[:_PNG_HEADER] + picture.png_colour + content[_PNG_HEADER:] if picture.png_colour else content


def _over_white(pixels: np.ndarray) -> np.ndarray:
    """Lays [H, W, 2 or 4] uint8 over white; returns [H, W, 1 or 3]."""
    result = np.empty((*pixels.shape[:2], pixels.shape[-1] - 1), np.uint8)
    for rows in strips(*pixels.shape[:2]):
        colour, alpha = pixels[rows, :, :-1].astype(np.uint32), pixels[rows, :, -1:].astype(np.uint32)
        result[rows] = (colour * alpha + 255 * (255 - alpha) + 127) // 255
    return result


def encode_picture(picture: Picture, file_format: str, quality: int = 95) -> bytes:
    """Encodes a picture, with its colour profile, its EXIF block and its resolution.

    Args:
      picture: Any; what the format cannot hold is left out, as `fitted` says.
      file_format: A name that `format_for` returns.
      quality: Of JPEG, WebP, AVIF and HEIC, 1 to 100; at 100 WebP is lossless, and where the picture's
        own was. The other formats always are.

    Raises:
      DataError: The format cannot hold it, as a WebP more than 16383 pixels a side.
    """
    if not _is_written(file_format):
        raise DataError(f"no results are written as {printable(file_format)!r}")
    picture = fitted(picture, file_format)
    pixels, profile, exif, dpi = picture.pixels, picture.icc_profile, picture.exif, picture.dpi
    options: dict[str, Any] = {"icc_profile": profile or None}
    if exif:  # HEIF's writer refuses an empty block.
        options["exif"] = exif
    if dpi:
        options["dpi"] = dpi
    if file_format in ("JPEG", "WEBP", "AVIF", "HEIF"):
        options["quality"] = quality
    if file_format == "JPEG":
        options["subsampling"] = 0  # Colours at full size: what is outside the hole should change little.
    if file_format == "PNG":
        options["compress_level"] = 4  # Hardly larger than the usual 6, and faster by a third.
    if file_format == "WEBP":
        options |= {"lossless": quality >= 100 or picture.lossless, "exact": True}
    try:
        if pixels.dtype == np.uint16:
            encode = sixteen_bit.encode_png if file_format == "PNG" else sixteen_bit.encode_tiff
            return _with_png_colour(encode(pixels, profile, exif, dpi), picture)
        if file_format == "TIFF":
            options["exif"] = (
                describing(parsed(exif)).tobytes() if exif else b""
            )  # Other tags would overrule the picture's own.
        content = io.BytesIO()
        image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        image.save(content, format=file_format, **options)
        return _with_png_colour(content.getvalue(), picture)
    except Exception as error:  # Pillow's plugins raise nearly every type.
        raise DataError(f"picture: cannot be written as {file_format} ({printable(one_line(error))})") from error


def write_picture(picture: Picture, path: str | Path, file_format: str | None = None) -> None:
    """Writes a picture to a file, aside first.

    Args:
      picture: Any; what the format cannot hold is left out, as `fitted` says.
      path: Its suffix gives the format, or else `file_format`.
      file_format: As `asked` in `format_for`.

    Raises:
      DataError: It cannot be written; the path stands in front.
    """
    chosen = format_for(path, picture, file_format)
    try:
        content = encode_picture(picture, chosen)
    except DataError as error:
        raise DataError(f"{printable(str(path))}: {str(error).removeprefix('picture: ')}") from error
    write_atomically(path, content)

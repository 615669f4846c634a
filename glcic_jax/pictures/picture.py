"""Pictures to complete, and their files: what each format can hold, and encoding a picture in it.

Training reads [H, W, 3] uint8 with `rgb_files`. A picture that goes back to its owner keeps its depth, alpha,
colour profile, EXIF and XMP.
"""

import dataclasses
import io
import struct
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from glcic_jax.errors import DataError, one_line, printable
from glcic_jax.pictures import sixteen_bit
from glcic_jax.pictures.colours import over_white
from glcic_jax.pictures.metadata import COMMENT, XMP_KEYWORD, iptc_segment, tiff_directory
from glcic_jax.pictures.opening import heif_formats, readable_formats


@dataclasses.dataclass(frozen=True, eq=False)
class Picture:
    """A picture, upright.

    Attributes:
      pixels: [H, W, C] uint8 or uint16; C = 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA.
      format: Pillow's name of its file's format, such as "JPEG".
      exif: The EXIF block, with orientation 1 and without a thumbnail; empty if there is none.
      icc_profile: The colour profile, which fits the pixels; empty if there is none.
      dpi: Dots per inch, across and down; None if unknown.
      notes: What was changed so far, a short line each.
      stored_size: (width, height) in the file if EXIF turned or mirrored the picture, else None.
      lossless: Whether it comes from a lossless file of a format that is lossy by default.
      compression: Pillow's name of a TIFF's compression, such as "tiff_lzw"; "raw" for other formats.
      xmp: The XMP packet, without orientation and thumbnails; empty if there is none.
      iptc: The IPTC block; empty if there is none.
      texts: Keywords and texts of a PNG; the comment of another format has the keyword "Comment".
      png_colour: Names and contents of a PNG's cICP, or gAMA and cHRM chunks, if no profile describes its colours.
    """

    pixels: np.ndarray
    format: str
    exif: bytes = b""
    icc_profile: bytes = b""
    dpi: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()
    stored_size: tuple[int, int] | None = None
    lossless: bool = False
    compression: str = "raw"
    xmp: bytes = b""
    iptc: bytes = b""
    texts: tuple[tuple[str, str], ...] = ()
    png_colour: tuple[tuple[bytes, bytes], ...] = ()

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


class _Capabilities(NamedTuple):
    """What this package writes in a format.

    Attributes:
      suffixes: Suffixes of its files, the usual one first.
      grey, alpha, deep: Whether it is written with one channel, with transparency, with 16 bits.
      metadata: Whether it is written with colour profile, EXIF and XMP.
      iptc: Whether it is written with IPTC.
      longest_side: Its largest width and height, in pixels.
    """

    suffixes: tuple[str, ...]
    grey: bool = True
    alpha: bool = True
    deep: bool = False
    metadata: bool = True
    iptc: bool = False
    longest_side: int = 2**31 - 1


_FORMATS = {
    "PNG": _Capabilities((".png",), deep=True),
    "JPEG": _Capabilities((".jpg", ".jpeg", ".jpe", ".jfif"), alpha=False, iptc=True, longest_side=65_500),
    "TIFF": _Capabilities((".tif", ".tiff"), deep=True, iptc=True),
    "WEBP": _Capabilities((".webp",), grey=False, longest_side=16_383),
    "AVIF": _Capabilities((".avif",), longest_side=65_536),
    "HEIF": _Capabilities((".heic", ".heif", ".hif"), grey=False, longest_side=65_535),
    "JPEG2000": _Capabilities((".jp2",), metadata=False),
    "BMP": _Capabilities((".bmp",), alpha=False, metadata=False),
    "PPM": _Capabilities((".ppm", ".pgm", ".pnm"), alpha=False, metadata=False),
    "TGA": _Capabilities((".tga",), metadata=False, longest_side=65_535),
}
_TIFF_COMPRESSIONS = ("raw", "tiff_lzw", "tiff_adobe_deflate")
_JPEG_LIMITS = {"EXIF block": 65533, "XMP packet": 65504, "IPTC block": 65000}  # Bytes.


def format_for(path: str | Path | None, picture: Picture, wanted: str | None = None) -> str:
    """Returns the format of a result, as Pillow names it: the path's, else the wanted one, else the picture's own.

    A picture whose own format cannot be written becomes a PNG.

    Args:
      path: The file to write, whose suffix decides; None if there is none yet.
      picture: The input.
      wanted: A format's name or suffix, such as "jpeg", "jpg" or ".jpg".

    Raises:
      DataError: The suffix or the name is unknown, or they contradict each other.
    """
    chosen = None if wanted is None else format_named(wanted)
    suffix = "" if path is None else Path(path).suffix
    if not suffix:
        return chosen or (picture.format if _can_write(picture.format) else "PNG")
    try:
        named = format_named(suffix)
    except DataError as error:
        raise DataError(f"{printable(str(path))}: cannot be written ({error})") from error
    if chosen not in (None, named):
        raise DataError(
            f"{printable(str(path))}: its suffix says {named} and --format says {chosen}: change one of the two"
        )
    return named


def suffix_for(file_format: str, like: Path | None = None) -> str:
    """Returns the suffix of a format's files, such as ".jpg"; that of `like` if the format has it."""
    suffixes = _FORMATS[file_format].suffixes
    return like.suffix if like is not None and like.suffix.lower() in suffixes else suffixes[0]


def format_named(name: str) -> str:
    """Returns the format with a name or a suffix, such as "jpeg", "jpg" or ".jpg".

    Raises:
      DataError: No format of that name is written.
    """
    key = name.lower().removeprefix(".")
    for file_format, capabilities in _FORMATS.items():
        if (key == file_format.lower() or f".{key}" in capabilities.suffixes) and _can_write(file_format):
            return file_format
    if f".{key}" in _FORMATS["HEIF"].suffixes:
        raise DataError(f"{printable(name)} needs another package: pip install 'glcic-jax[heic]'")
    known = ", ".join(suffix_for(file_format)[1:] for file_format in _FORMATS if _can_write(file_format))
    raise DataError(f"results are not written as {printable(name)!r}: choose one of {known}")


def _can_write(file_format: str) -> bool:
    readable_formats()  # Both register Pillow's plugins.
    heif_formats()
    return file_format in _FORMATS and file_format in Image.SAVE


def fitted(picture: Picture, file_format: str) -> Picture:
    """Reduces a picture to what a format can hold; its notes name the losses.

    Args:
      picture: The picture to write.
      file_format: A name that `format_for` returns.
    """
    capabilities, notes = _FORMATS[file_format], list(picture.notes)
    pixels, profile = picture.pixels, picture.icc_profile
    if picture.format and not _can_write(picture.format):
        notes.append(f"results are not written as {picture.format}: this one is written as {file_format}")
    if pixels.dtype == np.uint16 and not capabilities.deep:
        notes.append(f"16 bits were rounded to 8: {file_format} is written with 8")
        pixels = sixteen_bit.eight_bit(pixels)
    if pixels.shape[-1] in (2, 4) and not capabilities.alpha:
        notes.append(f"transparency was laid over white: {file_format} is written without it")
        pixels = over_white(pixels)
    deep_tiff = file_format == "TIFF" and pixels.dtype == np.uint16
    if deep_tiff and pixels.shape[-1] == 2:
        notes.append("grey with transparency was written as RGBA: few programs read it in a 16-bit TIFF")
    needs_colour = not capabilities.grey or (pixels.shape[-1] == 2 and (deep_tiff or file_format == "AVIF"))
    if pixels.shape[-1] < 3 and needs_colour:
        pixels = np.concatenate([np.repeat(pixels[..., :1], 3, axis=-1), pixels[..., 1:]], axis=-1)
        if profile[16:20] == b"GRAY":
            notes.append("the colour profile was left out: it is for grey")
            profile = b""
    kept = {
        "colour profile": profile,
        "EXIF block": picture.exif,
        "XMP packet": picture.xmp,
        "IPTC block": picture.iptc,
    }
    for what, content in kept.items():
        if content and not (capabilities.iptc if what == "IPTC block" else capabilities.metadata):
            notes.append(f"the {what} was left out: {file_format} is written without one")
            kept[what] = b""
        elif file_format == "JPEG" and len(content) > _JPEG_LIMITS.get(what, len(content)):
            notes.append(f"the {what} was left out: it is larger than a JPEG can hold")
            kept[what] = b""
    compression = picture.compression
    if file_format == "TIFF" and compression not in _TIFF_COMPRESSIONS:
        notes.append(f"the compression {compression} was replaced by Deflate, which loses nothing")
        compression = "tiff_adobe_deflate"
    texts = tuple(text for text in picture.texts if _holds_text(file_format, *text))
    if lost := [printable(keyword) for keyword, text in picture.texts if (keyword, text) not in texts]:
        notes.append(f"texts were left out ({', '.join(lost)}): {file_format} is written without them")
    png_colour = picture.png_colour if file_format == "PNG" else ()
    if picture.png_colour != png_colour:
        what = "colour space (wide gamut or HDR)" if picture.png_colour[0][0] == b"cICP" else "gamma of the PNG"
        notes.append(f"the {what} was left out: {file_format} is written without one, and viewers assume sRGB")
    return dataclasses.replace(
        picture,
        pixels=pixels,
        format=file_format,
        icc_profile=kept["colour profile"],
        exif=kept["EXIF block"],
        xmp=kept["XMP packet"],
        compression=compression,
        iptc=kept["IPTC block"],
        texts=texts,
        png_colour=png_colour,
        notes=tuple(notes),
    )


def _holds_text(file_format: str, keyword: str, text: str) -> bool:
    return file_format == "PNG" or (file_format == "JPEG" and keyword == COMMENT and len(text.encode()) < 65500)


def without_metadata(picture: Picture) -> Picture:
    """Leaves out what may tell a place, a time, a camera or a person: EXIF, XMP, IPTC and texts; notes which."""
    metadata = {"EXIF": picture.exif, "XMP": picture.xmp, "IPTC": picture.iptc, "texts": picture.texts}
    present = [name for name, content in metadata.items() if content]
    notes = (*picture.notes, *([f"metadata was left out: {', '.join(present)}"] if present else []))
    return dataclasses.replace(picture, exif=b"", xmp=b"", iptc=b"", texts=(), notes=notes)


def check_sides(size: tuple[int, int], file_format: str, name: str) -> None:
    """Raises DataError, which names the picture, if a result of (width, height) is too large for its format."""
    longest = _FORMATS[file_format].longest_side
    if max(size) > longest:
        raise DataError(
            f"{name}: is {size[0]} x {size[1]} pixels, and {file_format} holds at most {longest} on a side: write "
            "a PNG or a TIFF"
        )


def encode_picture(picture: Picture, file_format: str, quality: int = 95, name: str = "image") -> bytes:
    """Encodes a picture with its metadata.

    Args:
      picture: The picture; `fitted` reduces it to what the format can hold.
      file_format: A name that `format_for` returns.
      quality: 1 to 100, for JPEG, WebP, AVIF and HEIC. WebP is lossless at 100, and if the picture came from a
        lossless one. The other formats are always lossless.
      name: The name of the picture in errors.

    Raises:
      DataError: The format cannot hold the picture; a side of a WebP, for one, has at most 16383 pixels.
    """
    if not _can_write(file_format):
        raise DataError(f"results are not written as {printable(file_format)!r}")
    check_sides(picture.size, file_format, name)
    picture = fitted(picture, file_format)
    try:
        if picture.format == "TIFF":
            directory = tiff_directory(picture.exif, picture.xmp, picture.iptc)
            return sixteen_bit.encode_tiff(
                picture.pixels, directory, picture.icc_profile, picture.dpi, picture.compression
            )
        if picture.pixels.dtype == np.uint16:
            return _encode_16_bit_png(picture)
        content = io.BytesIO()
        pixels = picture.pixels
        image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        image.save(content, format=file_format, **_save_options(picture, quality))
        return content.getvalue()
    except Exception as error:  # Pillow's plugins raise nearly every type.
        raise DataError(f"{name}: cannot be written as {file_format} ({printable(one_line(error))})") from error


def _save_options(picture: Picture, quality: int) -> dict[str, Any]:
    """Returns the arguments of Pillow's `save` for a picture that is `fitted`."""
    present = {key: getattr(picture, key) for key in ("icc_profile", "exif", "xmp", "dpi")}
    options: dict[str, Any] = {key: value for key, value in present.items() if value}
    if picture.format in ("JPEG", "WEBP", "AVIF", "HEIF"):
        options["quality"] = quality
    if picture.format == "JPEG":
        options["subsampling"] = 0  # Colours at full size, so that little changes outside the hole.
        if picture.texts:
            options["comment"] = picture.texts[0][1].encode()
        if picture.iptc:
            options["extra"] = iptc_segment(picture.iptc)
    if picture.format == "PNG":
        options["compress_level"] = 4  # Hardly larger files than the default of 6, in two thirds of the time.
        options["pnginfo"] = _png_info(picture)
    if picture.format == "WEBP":
        options |= {"lossless": quality >= 100 or picture.lossless, "exact": True}
    return options


def _png_info(picture: Picture) -> PngInfo:
    """Returns the colour chunks, the XMP packet and the texts of a picture that is `fitted`."""
    info = PngInfo()
    for chunk in picture.png_colour:
        info.add(*chunk)
    if picture.xmp:
        info.add_itxt(XMP_KEYWORD, picture.xmp.decode("utf-8", "replace"))
    for keyword, text in picture.texts:
        info.add_text(keyword, text)
    return info


def _encode_16_bit_png(picture: Picture) -> bytes:
    """Encodes a picture that is `fitted`."""
    chunks = [(kind, data) for kind, data, *_ in _png_info(picture).chunks]
    if picture.icc_profile:
        chunks.append((b"iCCP", b"ICC Profile\0\0" + zlib.compress(picture.icc_profile)))
    if picture.dpi:
        dots_per_metre = (round(dots / 0.0254) for dots in picture.dpi)
        chunks.append((b"pHYs", struct.pack(">IIB", *dots_per_metre, 1)))
    if picture.exif:
        chunks.append((b"eXIf", picture.exif.removeprefix(b"Exif\0\0")))
    return sixteen_bit.encode_png(picture.pixels, chunks)

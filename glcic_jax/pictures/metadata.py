"""Metadata of picture files: EXIF, XMP, colour profile, resolution."""

import math
import re
import struct
from typing import Any

from PIL import Image, TiffTags
from PIL.ExifTags import IFD, Base
from PIL.TiffImagePlugin import COMPRESSION_INFO, ImageFileDirectory_v2

from glcic_jax.errors import printable

XMP_TAG, IPTC_TAG = 700, 33723  # Of TIFF.
XMP_KEYWORD = "XML:com.adobe.xmp"  # Of a PNG's text chunk.
PLAIN_MODES = ("L", "LA", "RGB", "RGBA")  # Pillow's modes whose channels a `Picture` holds as they are.

# The tags of a TIFF that describe scene, camera and author; the others say how its pixels are stored.
_DESCRIPTIVE = (
    *(0x010D, 0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x013C, 0x0213, 0x4746, 0x4749, 0x8298),
    *range(0x9C9B, 0x9CA0),
)
_ICC_COLOUR_SPACES = {b"GRAY": 1, b"RGB ": 3, b"CMYK": 4, b"Lab ": 0, b"YCbr": 0}  # With their channels.
_PIXEL_BITS = re.compile(rb"pixi\0\0\0\0[\1-\4](.)", re.DOTALL)
_COLOUR_BOX = re.compile(rb"colrnclx(....)", re.DOTALL)
_SRGB_PRIMARIES, _SRGB_TRANSFERS = (1, 2), (1, 2, 6, 13)  # Of ITU-T H.273: BT.709 and sRGB, unspecified.
_TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}  # Bytes of a value.
_JPEG = re.compile(rb"\xff\xd8\xff.*?(?:\xff\xd9|\Z)", re.DOTALL)
COMMENT = "Comment"  # The keyword of a text that other formats than PNG hold.
_IPTC_RESOURCE = 0x0404  # Of Photoshop.
_RAW_PROFILE = "Raw profile type"  # Begins the keyword of ImageMagick's metadata in a PNG.
_EXTENDED_XMP = b"http://ns.adobe.com/xmp/extension/"
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation="\d"|<tiff:Orientation>\d</tiff:Orientation>')
_XMP_IMAGE = re.compile(rb'(xmpGImg:image|xapGImg:image|GImage:Data)(?:="[^"]*"|>[^<]*</\1>)')


def valid_orientation(value: object) -> int:
    """Returns an EXIF orientation, 1 to 8; 1 for any other value."""
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def orientation_of(image: Image.Image) -> int:
    """Returns the orientation that is still to be applied to an opened image, from its EXIF or its XMP."""
    return valid_orientation(image.getexif().get(Base.Orientation, 1))


def read_exif(image: Image.Image, notes: list[str]) -> tuple[int, bytes]:
    """Returns the orientation, and the EXIF block as `upright_exif` encodes it; damage is noted."""
    block = re.sub(rb"^(?:Exif\0\0)+", b"", image.info.get("exif") or b"")  # pillow_heif sets None.
    try:
        tags = _count_tags(block) if block else 0
        orientation = orientation_of(image)
        if image.format == "TIFF":
            exif = descriptive_tags(image.getexif())
        elif "Raw profile type exif" in image.info:
            exif = image.getexif()
        else:
            exif = parse_exif(block)
            directories = (exif, *(exif.get_ifd(tag) for tag in (IFD.Exif, IFD.GPSInfo) if tag in exif))
            if sum(map(len, directories)) < tags:  # Pillow skips damaged ones.
                notes.append("the EXIF block is damaged in part, and that part was left out")
        return orientation, upright_exif(exif, turned=orientation >= 5)
    except Exception:  # Pillow raises nearly every type on damaged blocks.
        notes.append("the EXIF block is damaged and was left out")
        return 1, b""


def _count_tags(block: bytes) -> int:
    """Returns the number of tags in the directories of an EXIF block.

    Raises:
      ValueError: Its values overlap, so that parsing would take far more memory than the block.
    """
    order = "<" if block[:2] == b"II" else ">"
    tags = size = 0
    places = [struct.unpack_from(order + "L", block, 4)[0]]
    for place in places:
        number = struct.unpack_from(order + "H", block, place)[0]
        tags += number
        entries = block[place + 2 : place + 2 + 12 * number]
        for tag, kind, count, value in struct.iter_unpack(order + "HHLL", entries[: len(entries) // 12 * 12]):
            size += min(count * _TYPE_SIZES.get(kind, 0), len(block))
            if tag in (IFD.Exif, IFD.GPSInfo) and len(places) < 3:
                places.append(value)
    if size > 2 * len(block):
        raise ValueError("overlapping values")
    return tags


def parse_exif(block: bytes) -> Image.Exif:
    """Parses an EXIF block or a whole TIFF."""
    exif = Image.Exif()
    exif.load(block)
    return exif


def upright_exif(exif: Image.Exif, *, turned: bool) -> bytes:
    """Encodes the EXIF block of a picture that was made upright and is about to be changed.

    The orientation becomes 1. Thumbnails, which show the picture before the change, are left out.

    Args:
      exif: The block; it is changed.
      turned: Whether width and height were swapped.

    Returns:
      The block, beginning with "Exif" and two zeros; empty if it has no tags.
    """
    if not len(exif):
        return b""
    if Base.Orientation in exif:
        exif[Base.Orientation] = 1
    camera = exif.get(IFD.Exif, {})
    if isinstance(camera, int):  # An offset, until `get_ifd` is called.
        camera = exif.get_ifd(IFD.Exif)
    if turned and Base.ExifImageWidth in camera and Base.ExifImageHeight in camera:
        sides = camera[Base.ExifImageHeight], camera[Base.ExifImageWidth]
        camera[Base.ExifImageWidth], camera[Base.ExifImageHeight] = sides
    for tags in (exif, camera):
        for tag, value in list(tags.items()):
            tags[tag] = _text_as_bytes(value)
    # `tobytes` drops the thumbnail's directory; makers' notes hold previews too, which are set to zero.
    return _JPEG.sub(lambda preview: bytes(len(preview[0])), exif.tobytes())


def _text_as_bytes(value: Any) -> Any:
    """Encodes text outside ASCII, which Pillow decodes as Latin-1 and writes with "?"."""
    return value.encode("latin-1") if isinstance(value, str) and not value.isascii() else value


def descriptive_tags(exif: Image.Exif) -> Image.Exif:
    """Returns the tags that describe a picture, without those that say how a TIFF stores its pixels."""
    result = Image.Exif()
    result.endian = "<"
    for tag in (*_DESCRIPTIVE, IFD.Exif, IFD.GPSInfo):
        if tag not in exif:
            continue
        value = exif[tag]
        if tag in (IFD.Exif, IFD.GPSInfo):
            value = dict(exif.get_ifd(tag))
            if IFD.Interop in value:
                value[IFD.Interop] = exif.get_ifd(IFD.Interop)
        if value not in (None, {}):
            result[tag] = _text_as_bytes(value)
    if Base.Orientation in exif:
        result[Base.Orientation] = 1
    return result


def tiff_directory(exif: bytes, xmp: bytes, iptc: bytes) -> ImageFileDirectory_v2:
    """Returns the tags of a TIFF that describe its picture, from EXIF, XMP and IPTC."""
    directory = ImageFileDirectory_v2(b"II\x2a\0\x08\0\0\0")
    for tag, value in (descriptive_tags(parse_exif(exif)) if exif else Image.Exif()).items():
        directory[tag] = value
    if xmp:
        directory[XMP_TAG] = xmp
    if iptc:
        directory.tagtype[IPTC_TAG] = TiffTags.UNDEFINED
        directory[IPTC_TAG] = iptc
    return directory


def compression_of(tags: Any) -> str:
    """Returns Pillow's name of a TIFF's compression, from its tags; both numbers of Deflate have one name."""
    number = tags.get(Base.Compression, 1)
    name = COMPRESSION_INFO.get(number, f"number {number}")
    return "tiff_adobe_deflate" if name == "tiff_deflate" else name


def box_bits(content: bytes) -> int:
    """Returns the largest number of bits of a sample that the boxes of an AVIF give; 8 if they give none."""
    return max((bits[0] for bits in _PIXEL_BITS.findall(content)), default=8)


def colour_code(content: bytes) -> bytes:
    """Returns the colour space of an AVIF or HEIC as a PNG's cICP chunk; empty for sRGB and unknown ones."""
    found = _COLOUR_BOX.search(content)
    if found is None:
        return b""
    primaries, transfer = struct.unpack(">HH", found[1])
    known = primaries in _SRGB_PRIMARIES and transfer in _SRGB_TRANSFERS
    return b"" if known or max(primaries, transfer) > 255 else bytes([primaries, transfer, 0, 1])


def png_colour_code(content: bytes) -> bytes:
    """Returns the content of a PNG's cICP chunk; empty if it has none or it is sRGB's."""
    place = content.find(b"\0\0\0\x04cICP", 0, max(0, content.find(b"IDAT")))
    code = content[place + 8 : place + 12] if place >= 0 else b""
    return b"" if code and code[0] in _SRGB_PRIMARIES and code[1] in _SRGB_TRANSFERS else code


def read_iptc(image: Any) -> bytes:
    """Returns the IPTC block of an opened JPEG or TIFF; empty if there is none."""
    if image.format == "TIFF":
        block = image.tag_v2.get(IPTC_TAG)
    else:
        block = image.info.get("photoshop", {}).get(_IPTC_RESOURCE)
    return block if isinstance(block, bytes) else b""


def iptc_segment(iptc: bytes) -> bytes:
    """Returns the segment of a JPEG that holds an IPTC block, as Photoshop writes it."""
    resource = struct.pack(">4sHHI", b"8BIM", _IPTC_RESOURCE, 0, len(iptc)) + iptc + bytes(len(iptc) % 2)
    content = b"Photoshop 3.0\0" + resource
    return struct.pack(">HH", 0xFFED, 2 + len(content)) + content


def read_texts(image: Any, notes: list[str]) -> tuple[tuple[str, str], ...]:
    """Returns the texts of a decoded image, as `Picture.texts`; others that hold metadata are noted."""
    texts = dict(getattr(image, "text", {}))
    comment = image.info.get("comment")
    if isinstance(comment, bytes) and image.format != "JPEG2000":  # There, the encoder gives its own name.
        try:
            texts[COMMENT] = comment.decode()
        except UnicodeDecodeError:
            texts[COMMENT] = comment.decode("latin-1")
    profiles = [keyword for keyword in texts if keyword.startswith(_RAW_PROFILE)]
    notes += [f"the text {keyword!r} was left out" for keyword in profiles if keyword != f"{_RAW_PROFILE} exif"]
    return tuple(
        (keyword, str(text)) for keyword, text in texts.items() if keyword not in (XMP_KEYWORD, *profiles)
    )


def has_extended_xmp(image: Any) -> bool:
    """Returns whether an opened JPEG holds more XMP than its one packet."""
    return any(segment.startswith(_EXTENDED_XMP) for _, segment in getattr(image, "applist", ()))


def clean_xmp(xmp: Any) -> bytes:
    """Returns an XMP packet without orientation and embedded images; empty if there is none."""
    packet = xmp.encode() if isinstance(xmp, str) else xmp
    if not isinstance(packet, bytes):
        return b""
    # The name stays, so that the packet stays well formed.
    packet = _XMP_IMAGE.sub(lambda found: _emptied(found[0], found[1]), packet)
    return _XMP_ORIENTATION.sub(b"", packet)


def _emptied(found: bytes, name: bytes) -> bytes:
    return name + (b"></" + name + b">" if found.endswith(b">") else b'=""')


def fitting_profile(image: Image.Image, channels: int, notes: list[str]) -> bytes:
    """Returns the colour profile of an image if it fits the decoded pixels, else nothing.

    Args:
      image: The opened image, of any mode.
      channels: Channels of the decoded pixels, 1 to 4.
      notes: Receives a line if a profile is left out.
    """
    kept = image.mode in (*PLAIN_MODES, "1", "P", "PA") or image.mode[0] in "IF"
    return profile_for(image.info.get("icc_profile") or b"", channels if kept else 0, notes)


def profile_for(profile: bytes, channels: int, notes: list[str]) -> bytes:
    """Returns a colour profile if it fits the decoded pixels, else nothing.

    Args:
      profile: The profile, or nothing.
      channels: Channels of the pixels, 1 to 4; 0 if they were converted from another colour space.
      notes: As in `fitting_profile`.
    """
    colours = 1 if channels in (1, 2) else 3
    if profile and _ICC_COLOUR_SPACES.get(profile[16:20], colours if channels else 0) != colours:
        space = printable(profile[16:20].decode("latin-1")).strip()
        notes.append(f"the colour profile ({space}) does not fit the pixels and was left out")
        return b""
    return profile


def resolution_of(image: Image.Image, exif: bytes) -> Any:
    """Returns (across, down) in dots per inch, from an opened image or its EXIF block; None if there is none."""
    if image.format in ("JPEG", "MPO") and image.info.get("jfif_unit") not in (1, 2):
        return tiff_dpi(parse_exif(exif)) if exif else None  # Pillow invents 72 dpi.
    return image.info.get("dpi")


def tiff_dpi(tags: Image.Exif) -> tuple[float, float] | None:
    """Returns dots per inch from a TIFF's tags; None if they give no unit."""
    inches = {2: 1.0, 3: 2.54}.get(tags.get(Base.ResolutionUnit, 2))
    across, down = tags.get(Base.XResolution), tags.get(Base.YResolution)
    return None if inches is None or across is None or down is None else (across * inches, down * inches)


def valid_dpi(dpi: Any, *, turned: bool) -> tuple[float, float] | None:
    """Returns (across, down) of the upright picture; None if they are not a resolution."""
    try:
        across, down = (float(value) for value in dpi)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    # Pillow gives 1 for a TIFF without resolution.
    if not all(math.isfinite(value) and 1 < value <= 65535 for value in (across, down)):
        return None
    return (down, across) if turned else (across, down)

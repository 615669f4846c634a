"""What describes the pixels of an image file: its EXIF block, its colour profile, its resolution."""

import math

from PIL import Image

from glcic_jax.errors import printable
from glcic_jax.pictures.exif import ORIENTATION, cleaned, describing

PLAIN_MODES = ("L", "LA", "RGB", "RGBA")  # Pillow's, whose channels are ours.
# How an ICC profile names its colour space, and the channels of pixels that it fits.
_COLOUR_SPACES = {b"GRAY": 1, b"RGB ": 3, b"CMYK": 4, b"Lab ": 0, b"YCbr": 0}


def valid_orientation(value: object) -> int:
    """The EXIF orientation, 1 to 8; 1 where it is none."""
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation of an image that was opened; raises what Pillow raises."""
    return valid_orientation(image.getexif().get(ORIENTATION, 1))


def read_exif(image: Image.Image, notes: list[str]) -> tuple[int, bytes]:
    """The orientation, and the EXIF block as the file has it."""
    try:
        orientation = orientation_of(image)
        block = image.info.get("exif") or b""  # pillow_heif puts None where there is none.
        if image.format == "TIFF" or "Raw profile type exif" in image.info:
            described = describing(image.getexif())
            block = described.tobytes() if len(described) else b""
    except Exception:  # Pillow raises nearly every type here too.
        notes.append("the EXIF block is damaged and was left out")
        return 1, b""
    return orientation, block


def cleaned_exif(exif: bytes, turned: bool, notes: list[str]) -> bytes:
    """An EXIF block as `exif.cleaned` has it; empty, with a note, where it is damaged."""
    try:
        return cleaned(exif, turned)
    except ValueError:
        notes.append("the EXIF block is damaged and was left out")
        return b""


def fitting_profile(image: Image.Image, channels: int, notes: list[str]) -> bytes:
    """The colour profile of an image, if it fits the pixels that were made of it still; empty if not.

    Args:
      image: Of any mode.
      channels: Of the pixels.
      notes: What is left out is added.
    """
    kept = image.mode in (*PLAIN_MODES, "1", "P", "PA") or image.mode[0] in "IF"
    return profile_for(image.info.get("icc_profile") or b"", channels if kept else 0, notes)


def profile_for(profile: bytes, channels: int, notes: list[str]) -> bytes:
    """The colour profile, if it fits the pixels still; 0 channels for pixels of another colour space than it."""
    colours = 1 if channels in (1, 2) else 3
    if profile and _COLOUR_SPACES.get(profile[16:20], colours if channels else 0) != colours:
        space = printable(profile[16:20].decode("latin-1")).strip()
        notes.append(f"the colour profile ({space}) does not fit the pixels and was left out")
        return b""
    return profile


def tiff_dpi(tags: Image.Exif) -> tuple[float, float] | None:
    """Dots per inch as a TIFF's tags have them, in inches or centimetres; None where they are in neither."""
    inches = {2: 1.0, 3: 2.54}.get(tags.get(296, 2))
    values = tags.get(282), tags.get(283)
    if inches is None or values[0] is None or values[1] is None:
        return None
    return float(values[0]) * inches, float(values[1]) * inches


def resolution(dpi: object, turned: bool) -> tuple[float, float] | None:
    """Dots per inch, if they are any."""
    try:
        across, down = (float(value) for value in dpi)  # type: ignore[attr-defined]
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    if not all(math.isfinite(value) and 1 <= value <= 65535 for value in (across, down)):
        return None
    return (down, across) if turned else (across, down)

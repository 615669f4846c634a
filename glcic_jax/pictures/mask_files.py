"""Holes of pictures: from mask files, arrays or transparency, or drawn at random."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from glcic_jax.errors import DataError
from glcic_jax.pictures.opening import MAX_PIXELS
from glcic_jax.pictures.picture import Picture
from glcic_jax.pictures.reading import read_picture

_THRESHOLD = 128  # The darkest white, of 255.
_LARGE_HOLE = 0.6
# A mask is a photograph, or much blurred, if more of it than this is neither black nor white, in many tones.
_UNCLEAR_SHARE = 0.1
_MANY_TONES = 16
_OPAQUE = 250  # The least alpha, of 255, that counts as opaque: lossy formats and tools round 255 down.

Size = tuple[int, int]  # (width, height)


class Hole(NamedTuple):
    """The part of a picture to complete.

    Attributes:
      hole: [H, W] bool, True = hole.
      notes: What was changed in the mask, a short line each.
      warnings: What looks like a mistake in the mask, and what was taken for white, a short line each.
    """

    hole: np.ndarray
    notes: tuple[str, ...]
    warnings: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class MaskSettings:
    """How a mask becomes a hole, applied in this order.

    Attributes:
      invert: Whether black is the hole.
      fit: Whether a mask of another aspect ratio is stretched over the picture, instead of refused.
      grow: Pixels by which the hole grows on all sides.
      max_pixels: Larger masks are not decoded.
    """

    invert: bool = False
    fit: bool = False
    grow: int = 0
    max_pixels: int = MAX_PIXELS


# Returns a picture and its hole; the picture becomes opaque in the hole if its transparency is the hole.
ChooseHole = Callable[[Picture], tuple[Picture, Hole]]


def hole_of_file(source: bytes | Path, name: str, settings: MaskSettings) -> ChooseHole:
    """Chooses the white pixels of a mask file; `name` is the file's name in errors."""
    return lambda picture: (picture, read_mask(source, picture, name=name, **dataclasses.asdict(settings)))


def hole_of_alpha(settings: MaskSettings) -> ChooseHole:
    """Chooses the pixels of the picture that are not opaque; these and the nearly opaque ones become opaque.

    Transparency marks what was erased here, so none of it stays: neither in the result, nor for the network, which
    sees transparent pixels over white.
    """

    def choose(picture: Picture) -> tuple[Picture, Hole]:
        erased = alpha_hole(picture)
        hole = apply_settings(erased, settings)
        pixels = picture.pixels.copy()
        pixels[hole.hole | ~erased.hole, -1] = np.iinfo(pixels.dtype).max
        return dataclasses.replace(picture, pixels=pixels), hole

    return choose


def hole_at_random(seed: int, settings: MaskSettings) -> ChooseHole:
    """Chooses a `random_hole`."""
    return lambda picture: (
        picture,
        apply_settings(random_hole(seed, *picture.pixels.shape[:2]), settings),
    )


def apply_settings(hole: Hole, settings: MaskSettings) -> Hole:
    """Inverts and grows a hole of the picture's size."""
    grown = hole_from_pixels(hole.hole, invert=settings.invert, grow=settings.grow)
    return grown._replace(notes=(*hole.notes, *grown.notes))


def read_mask(
    source: bytes | str | Path | Picture,
    target: Picture | Size | None,
    *,
    name: str | None = None,
    invert: bool = False,
    grow: int = 0,
    fit: bool | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Hole:
    """Reads the mask of a picture from a file of any readable format; white is the hole, transparency is black.

    The mask is thresholded, then inverted, then resized, then grown.

    Args:
      source: The file's bytes, its path, or the mask as it was read.
      target: The picture or its size; None keeps the mask's own size.
      name: The mask's name in errors; the path if None.
      invert, grow, fit, max_pixels: As in `MaskSettings`.

    Returns:
      The hole, of the target's size.

    Raises:
      DataError: The mask cannot be read, or has another aspect ratio than the picture.
    """
    if name is None:
        name = "mask" if isinstance(source, bytes | Picture) else str(source)
    mask = source if isinstance(source, Picture) else read_picture(source, name, max_pixels)
    notes = [f"the mask: {note}" for note in mask.notes]
    pixels = _without_alpha(mask, notes)
    hole = hole_from_pixels(pixels, target, name=name, invert=invert, grow=grow, fit=fit)
    return hole._replace(notes=(*notes, *hole.notes))


def hole_from_pixels(
    mask: np.ndarray,
    target: Picture | Size | None = None,
    *,
    name: str = "mask",
    invert: bool = False,
    grow: int = 0,
    fit: bool | None = None,
) -> Hole:
    """Converts an array to a hole.

    Args:
      mask: [H, W], [H, W, 1] or [H, W, 3]: bool, uint8, uint16, other integers in [0, 255], or float in [0, 1].
        Integers up to 1 count as 0 and 1.
      target, name, invert, grow, fit: As in `read_mask`.

    Returns:
      The hole, of the target's size.

    Raises:
      DataError: The array is not a mask, or has another aspect ratio than the picture.
    """
    if grow < 0:
        raise DataError(f"{name}: a hole cannot grow by {grow} pixels: give 0 or more")
    mask = np.asarray(mask)
    if mask.ndim not in (2, 3) or (mask.ndim == 3 and mask.shape[-1] not in (1, 3)) or not mask.size:
        raise DataError(f"{name}: a mask has the shape [H, W], [H, W, 1] or [H, W, 3], not {list(mask.shape)}")
    notes: list[str] = []
    warnings: list[str] = []
    hole = _threshold(mask, name, notes, warnings) ^ invert
    if target is not None:
        hole = _resize(hole, target, name, fit, notes)
    return Hole(_grow(hole, grow), tuple(notes), tuple(warnings))


def alpha_hole(picture: Picture) -> Hole:
    """Returns the hole where a picture is not opaque: a soft brush leaves a partly transparent rim.

    Raises:
      DataError: The picture has no transparency.
    """
    alpha = picture.alpha
    if alpha is None:
        raise DataError("the image has no transparency to take the hole from: give a mask file instead of alpha")
    return Hole(alpha < _OPAQUE / 255 * np.iinfo(alpha.dtype).max, ())


def random_hole(seed: int, height: int, width: int) -> Hole:
    """Draws two to four rectangles, each side a tenth to a quarter of the picture's.

    Args:
      seed: Not negative; the same seed gives the same hole.
      height, width: Of the picture, in pixels.

    Returns:
      The hole: never empty, and at most half of a picture of two pixels or more.
    """
    random = np.random.default_rng(seed)
    hole = np.zeros((height, width), bool)
    for index in range(int(random.integers(2, 4, endpoint=True))):
        drawn = hole.copy()
        rows, columns = (_random_span(random, length) for length in (height, width))
        drawn[rows, columns] = True
        if index == 0 or drawn.mean() <= 0.5:
            hole = drawn
    return Hole(hole, (f"the hole is random, with seed {seed}",))


def _random_span(random: np.random.Generator, length: int) -> slice:
    smallest, largest = max(1, length // 10), max(1, length // 4)
    side = int(random.integers(smallest, largest, endpoint=True))
    start = int(random.integers(0, length - side, endpoint=True))
    return slice(start, start + side)


def coverage_note(hole: np.ndarray) -> str:
    """Returns a line on how much of a picture a hole [H, W] bool covers, and what is wrong if that is unusual."""
    share = float(hole.mean())
    percent = f"{100 * share:.1f} %" if share >= 0.0005 else "less than 0.1 %"
    return coverage_warning(hole) or f"the hole covers {percent} of the image"


def coverage_warning(hole: np.ndarray) -> str | None:
    """Returns a line if a hole [H, W] bool covers an unusual part of a picture, else None."""
    share = float(hole.mean())
    # Inverting helps neither of the first two: each becomes the other.
    if share == 0:
        return "the hole is empty, so nothing is completed"
    if share == 1:
        return "the hole is the whole image, so there is nothing to complete it from"
    if share > _LARGE_HOLE:
        return (
            f"the hole covers {min(100 * share, 99.9):.1f} % of the image, more than can be completed well: "
            "if black marks the hole, give --invert-mask"
        )
    return None


def _without_alpha(mask: Picture, notes: list[str]) -> np.ndarray:
    """Returns [H, W, 1 or 3] uint8 or uint16: the mask over black, or its transparency if all else is black."""
    if mask.alpha is None or (mask.alpha == np.iinfo(mask.pixels.dtype).max).all():
        return mask.colour
    share = f"{100 * float((mask.alpha == 0).mean()):.2g} % of the mask is transparent"
    if not mask.colour[mask.alpha > 0].any():
        notes.append(f"{share}, and the rest is black, so the transparent part was taken for white")
        return np.iinfo(mask.pixels.dtype).max - mask.alpha[..., None]
    notes.append(f"{share} and was taken for black")
    peak = np.iinfo(mask.pixels.dtype).max
    laid = mask.colour.astype(np.uint32) * mask.alpha[..., None].astype(np.uint32)
    return ((laid + peak // 2) // peak).astype(mask.pixels.dtype)


def _threshold(mask: np.ndarray, name: str, notes: list[str], warnings: list[str]) -> np.ndarray:
    """Returns [H, W] bool: True where the mask is white, True or 1."""
    if mask.dtype.kind not in "buif":
        raise DataError(f"{name}: a mask holds bool, integers or floats, not {mask.dtype}")
    largest, smallest = mask.max(), mask.min()
    peak = 1
    if mask.dtype.kind == "f":
        if not (smallest >= 0 and largest <= 1):  # Also for NaN.
            raise DataError(
                f"{name}: a float mask lies in [0, 1], but this one ranges from {smallest:g} to {largest:g}"
            )
    elif mask.dtype != bool:
        peak = int(np.iinfo(mask.dtype).max) if mask.dtype in (np.uint8, np.uint16) else 255
        if smallest < 0 or largest > peak:
            raise DataError(
                f"{name}: an integer mask lies in [0, {peak}], but this one ranges from {smallest} to {largest}"
            )
        if largest == 1:
            notes.append("the mask's largest value is 1, so 1 was taken for white")
            peak = 1
        elif mask.dtype == np.uint16 and 128 <= largest <= 255:
            notes.append("the mask has 16 bits and its largest value fits 8, so 255 was taken for white")
            peak = 255
    threshold = 0.5 if peak == 1 else _THRESHOLD * peak / 255
    # The brightest channel: a mask may be painted in any colour.
    value = mask.max(axis=-1) if mask.ndim == 3 else mask
    white = value >= threshold
    unclear = _unclear_share(value, peak)
    coloured = mask.ndim == 3 and bool((mask.min(axis=-1)[white] < threshold).any())
    if largest > 0 and not white.any():
        if (value == 0).any() and ((value == 0) | (value == largest)).all():
            warnings.append(f"the mask has one value beside 0, so {largest:g} of {peak} was taken for white")
            return value == largest
        warnings.append(f"nothing in the mask is white: its brightest value is {float(largest):.3g} of {peak}")
    elif unclear > _UNCLEAR_SHARE:
        warnings.append(
            f"{100 * unclear:.0f} % of the mask is neither black nor white, as in a photograph: what is at least "
            f"{threshold:g} of {peak} was taken for white"
        )
    elif coloured:
        notes.append("the mask has colours, which were taken for white where their brightest channel is")
    elif 0 < largest < 0.9 * peak:
        warnings.append(
            f"the mask is grey, at most {float(largest):.3g} of {peak}: {threshold:g} or more was taken for white"
        )
    return white


def _unclear_share(value: np.ndarray, peak: int) -> float:
    """Returns the fraction of a mask [H, W] that is neither 0 nor `peak`, nor nearly; 0 if it has few tones."""
    if value.dtype == bool:
        return 0.0
    unclear = value[(value > 0.1 * peak) & (value < 0.9 * peak)]
    sample = unclear[:: 1 + unclear.size // 1_000_000]
    tones = np.bincount((sample * (255 / peak)).astype(np.uint8), minlength=1)
    return unclear.size / value.size if np.count_nonzero(tones) > _MANY_TONES else 0.0


def _resize(hole: np.ndarray, target: Picture | Size, name: str, fit: bool | None, notes: list[str]) -> np.ndarray:
    """Resizes a hole to the target's size, by the nearest pixels."""
    size = target.size if isinstance(target, Picture) else target
    stored_size = target.stored_size if isinstance(target, Picture) else None
    own = hole.shape[1], hole.shape[0]
    if own == size:
        return hole
    change = f"from {own[0]} x {own[1]} to the image's {size[0]} x {size[1]} pixels"
    if same_aspect(own, size):
        notes.append(f"the mask was resized {change}")
    elif fit:
        notes.append(f"the mask was stretched {change}")
    else:
        message = f"{name}: the mask is {own[0]} x {own[1]} pixels, the image {size[0]} x {size[1]}"
        if stored_size is not None and same_aspect(own, stored_size):
            raise DataError(
                f"{message}: the image is stored as {stored_size[0]} x {stored_size[1]} and its EXIF orientation "
                "turns it, so turn the mask in the same way"
            )
        stretch = "" if fit is None else ", or give --fit-mask to stretch this one"
        raise DataError(f"{message}: make a mask of the image's aspect ratio{stretch}")
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.intp)
        for new, old in zip((size[1], size[0]), hole.shape, strict=True)
    )
    return hole[rows[:, None], columns]


def same_aspect(one: Size, other: Size) -> bool:
    """Returns whether two sizes have one aspect ratio, up to the rounding of the larger one to whole pixels."""
    larger = max(one, other, key=lambda size: size[0] * size[1])
    return abs(one[0] * other[1] - one[1] * other[0]) <= max(larger)


def _grow(hole: np.ndarray, pixels: int) -> np.ndarray:
    """Adds to a hole [H, W] bool all pixels within a distance, in pixels, from centre to centre."""
    if pixels == 0 or not hole.any():
        return hole
    import cv2

    # A distance transform instead of a round brush, whose cost grows with its area.
    distance = cv2.distanceTransform((~hole).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return distance <= pixels + 1e-3

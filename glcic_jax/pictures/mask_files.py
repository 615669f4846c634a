"""Masks of pictures to complete: from files, arrays and transparency, or at random; to the pixels of the hole."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from glcic_jax.errors import DataError
from glcic_jax.pictures.opening import MAX_PIXELS
from glcic_jax.pictures.picture import Picture
from glcic_jax.pictures.reading import read_picture

# From this value on, of 255, a mask is white.
_THRESHOLD = 128
_LARGE_HOLE = 0.6
_GREY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R BT.601, as usual for grey.


class Hole(NamedTuple):
    """What is to be completed.

    Args:
      hole: [H, W] bool, True = hole.
      notes: What was done to the mask on the way, a short line each.
    """

    hole: np.ndarray
    notes: tuple[str, ...]


def read_mask(
    source: bytes | str | Path | Picture,
    picture_or_size: Picture | tuple[int, int] | None,
    *,
    name: str | None = None,
    invert: bool = False,
    grow: int = 0,
    fit: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> Hole:
    """Reads the mask of a picture from a file of any kind.

    White is the hole. Transparent pixels are black. The mask is made black and white, then inverted, then
    resized, then grown.

    Args:
      source: The file's bytes, its path, or the mask as it was read.
      picture_or_size: The picture, or its (width, height); the mask's own size where None.
      name: What errors call the mask; the path where None.
      invert: If black is the hole.
      grow: Pixels by which the hole grows on all sides.
      fit: If a mask of another aspect ratio is stretched over the picture, which otherwise is an error.
      max_pixels: Larger masks are not decoded.

    Returns:
      The hole, of the picture's size.

    Raises:
      DataError: The mask cannot be read, or has another aspect ratio than the picture.
    """
    if name is None:
        name = "mask" if isinstance(source, bytes | Picture) else str(source)
    mask = source if isinstance(source, Picture) else read_picture(source, name, max_pixels)
    hole = hole_from_pixels(_over_black(mask), picture_or_size, name=name, invert=invert, grow=grow, fit=fit)
    return hole._replace(notes=(*(f"the mask: {note}" for note in mask.notes), *hole.notes))


def hole_from_pixels(
    mask: np.ndarray,
    picture_or_size: Picture | tuple[int, int] | None = None,
    *,
    name: str = "mask",
    invert: bool = False,
    grow: int = 0,
    fit: bool = False,
) -> Hole:
    """Makes a hole of an array.

    Args:
      mask: [H, W], [H, W, 1] or [H, W, 3]: bool; uint8; uint16; other whole numbers in [0, 255]; or float in
        [0, 1]. Whole numbers none of which is above 1 are 0 and 1.
      picture_or_size: The picture, or its (width, height); the mask's own size where None.
      name, invert, grow, fit: As in `read_mask`.

    Returns:
      The hole, of the picture's size.

    Raises:
      DataError: The array is no mask, or has another aspect ratio than the picture.
    """
    if grow < 0:
        raise DataError(f"{name}: a hole cannot grow by {grow} pixels: give 0 or more (--grow)")
    mask = np.asarray(mask)
    if mask.ndim not in (2, 3) or (mask.ndim == 3 and mask.shape[-1] not in (1, 3)) or not mask.size:
        raise DataError(f"{name}: a mask has the shape [H, W], [H, W, 1] or [H, W, 3], and not {list(mask.shape)}")
    notes: list[str] = []
    hole = _white(mask, name, notes)
    if invert:
        hole = ~hole
    if picture_or_size is not None:
        hole = _resized(hole, picture_or_size, name, fit, notes)
    return Hole(_grown(hole, grow), tuple(notes))


def alpha_hole(picture: Picture) -> Hole:
    """The hole is where a picture is more than half transparent.

    Raises:
      DataError: The picture has no transparency.
    """
    alpha = picture.alpha
    if alpha is None:
        raise DataError("the picture has no transparency to take the hole from: give a mask file instead of alpha")
    return Hole(alpha < (int(np.iinfo(alpha.dtype).max) + 1) // 2, ())


def random_hole(seed: int, height: int, width: int) -> Hole:
    """Draws two to four rectangles, each side a tenth to a quarter of the picture's.

    Args:
      seed: Not negative; the same seed gives the same hole.
      height, width: Of the picture, in pixels.

    Returns:
      The hole: never empty, and never more than half of a picture of two pixels or more.
    """
    random = np.random.default_rng(seed)
    hole = np.zeros((height, width), bool)
    for index in range(int(random.integers(2, 4, endpoint=True))):
        drawn = hole.copy()
        rows, columns = (_random_span(random, length) for length in (height, width))
        drawn[rows, columns] = True
        if index == 0 or drawn.mean() <= 0.5:
            hole = drawn
    return Hole(hole, (f"the hole is a random one, of seed {seed}",))


def coverage_note(hole: np.ndarray) -> list[str]:
    """Says how much of a picture a hole covers, and what to do where that is odd.

    Args:
      hole: [H, W] bool, True = hole.
    """
    share = float(hole.mean())
    if share == 0:
        return ["the hole is empty, so nothing is completed: if black marks the hole, give --invert-mask"]
    if share == 1:
        return [
            "the hole is the whole picture, which leaves nothing to complete it from: if black marks the hole, "
            "give --invert-mask"
        ]
    percent = (
        f"{100 * share:.1f} %" if 0.0005 <= share < 0.9995 else "less than 0.1 %" if share < 0.5 else "99.9 %"
    )
    if share > _LARGE_HOLE:
        return [
            f"the hole covers {percent} of the picture, more than can be completed well: if black marks the hole, "
            "give --invert-mask"
        ]
    return [f"the hole covers {percent} of the picture"]


def _random_span(random: np.random.Generator, length: int) -> slice:
    smallest, largest = max(1, length // 10), max(1, length // 4)
    side = int(random.integers(smallest, largest, endpoint=True))
    start = int(random.integers(0, length - side, endpoint=True))
    return slice(start, start + side)


def _over_black(mask: Picture) -> np.ndarray:
    """[H, W, 1 or 3] uint8 or uint16: transparent pixels become black."""
    if mask.alpha is None:
        return mask.colour
    peak = np.iinfo(mask.pixels.dtype).max
    laid = mask.colour.astype(np.uint32) * mask.alpha[..., None].astype(np.uint32)
    return ((laid + peak // 2) // peak).astype(mask.pixels.dtype)


def _white(mask: np.ndarray, name: str, notes: list[str]) -> np.ndarray:
    """[H, W] bool: what is white in a mask, or True, or 1."""
    if mask.dtype.kind not in "buif":  # Of text there is no largest.
        raise DataError(f"{name}: a mask holds bool, whole numbers or floats, and not {mask.dtype}")
    largest, smallest = mask.max(), mask.min()
    if mask.dtype == bool:
        threshold, peak = 0.5, 1
    elif mask.dtype.kind == "f":
        if not (smallest >= 0 and largest <= 1):  # Not a number is neither.
            raise DataError(f"{name}: a float mask holds values in [0, 1], and this {smallest:g} to {largest:g}")
        threshold, peak = 0.5, 1
    else:
        peak = int(np.iinfo(mask.dtype).max) if mask.dtype in (np.uint8, np.uint16) else 255
        if smallest < 0 or largest > peak:
            raise DataError(f"{name}: whole numbers of a mask are 0 to {peak}, and these {smallest} to {largest}")
        if largest == 1:
            notes.append("the mask's largest value is 1, so 1 was taken for white")
            peak = 1
        elif mask.dtype == np.uint16 and 128 <= largest <= 255:
            notes.append("the mask has 16 bits and its largest value fits 8, so 255 was taken for white")
            peak = 255
        threshold = 0.5 if peak == 1 else _THRESHOLD * peak / 255
    if mask.ndim == 3 and mask.shape[-1] == 3:
        # Less a little, or the weights' sum would put a grey just below its own value.
        grey = mask.astype(np.float32) @ np.array(_GREY_WEIGHTS, np.float32)
        threshold -= 1e-3 * peak / 255
    else:
        grey = mask.reshape(mask.shape[:2])
    if largest > 0 and grey.max() < threshold:
        notes.append(f"nothing in the mask is white: its brightest value is {float(grey.max()):.3g} of {peak}")
    return grey >= threshold


def _resized(
    hole: np.ndarray, picture_or_size: Picture | tuple[int, int], name: str, fit: bool, notes: list[str]
) -> np.ndarray:
    """The hole in the picture's size, by its nearest pixels."""
    size = picture_or_size.size if isinstance(picture_or_size, Picture) else picture_or_size
    stored_size = picture_or_size.stored_size if isinstance(picture_or_size, Picture) else None
    own = hole.shape[1], hole.shape[0]
    if own == size:
        return hole
    change = f"from {own[0]} x {own[1]} to the picture's {size[0]} x {size[1]} pixels"
    if same_aspect(own, size):
        notes.append(f"the mask was resized {change}")
    elif fit:
        notes.append(f"the mask was stretched {change}")
    else:
        message = f"{name}: the mask is {own[0]} x {own[1]} pixels, the picture {size[0]} x {size[1]}"
        if stored_size is not None and same_aspect(own, stored_size):
            raise DataError(
                f"{message}: the photo is stored as {stored_size[0]} x {stored_size[1]} and its EXIF orientation "
                "turns it, so turn the mask in the same way"
            )
        raise DataError(f"{message}: make a mask of the picture's shape, or give --fit-mask to stretch this one")
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.intp)
        for new, old in zip((size[1], size[0]), hole.shape, strict=True)
    )
    return hole[rows[:, None], columns]


def same_aspect(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Says whether one size is the other times a factor, where each side was rounded to whole pixels."""
    larger = max(one, other, key=lambda size: size[0] * size[1])
    return abs(one[0] * other[1] - one[1] * other[0]) <= max(larger)


def _grown(hole: np.ndarray, pixels: int) -> np.ndarray:
    """All pixels within a distance of the hole, between their centres."""
    if pixels == 0 or not hole.any():
        return hole
    import cv2

    outside = (~hole).astype(np.uint8)
    # Distances instead of a round brush, whose cost grows with its area.
    distance = cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return distance <= pixels + 1e-3


# From a picture to its hole; the picture may come back changed: where its transparency was the hole, it is opaque.
ChooseHole = Callable[[Picture], tuple[Picture, Hole]]


@dataclasses.dataclass(frozen=True)
class MaskSettings:
    """What is done to a mask, in this order, before it is a hole.

    Attributes:
      invert: If black is the hole.
      fit: If a mask of another aspect ratio is stretched over the picture, which otherwise is an error.
      grow: Pixels by which the hole grows on all sides.
      max_pixels: Larger masks are not decoded.
    """

    invert: bool = False
    fit: bool = False
    grow: int = 0
    max_pixels: int = MAX_PIXELS


def hole_of_file(source: bytes | Path, name: str, settings: MaskSettings) -> ChooseHole:
    """The hole is what is white in a file, which errors call by a name; see `mask_files.read_mask`."""

    def choose(picture: Picture) -> tuple[Picture, Hole]:
        return picture, read_mask(source, picture, name=name, **dataclasses.asdict(settings))

    return choose


def hole_of_alpha(settings: MaskSettings) -> ChooseHole:
    """The hole is what is transparent in the picture, which comes back opaque there."""

    def choose(picture: Picture) -> tuple[Picture, Hole]:
        hole = changed(alpha_hole(picture), settings)
        pixels = picture.pixels.copy()
        pixels[hole.hole, -1] = np.iinfo(pixels.dtype).max  # Or nobody would see the fill.
        return dataclasses.replace(picture, pixels=pixels), hole

    return choose


def hole_at_random(seed: int, settings: MaskSettings) -> ChooseHole:
    """The hole is a random one; see `mask_files.random_hole`."""

    def choose(picture: Picture) -> tuple[Picture, Hole]:
        return picture, changed(random_hole(seed, *picture.pixels.shape[:2]), settings)

    return choose


def changed(hole: Hole, settings: MaskSettings) -> Hole:
    """Inverts and grows a hole of the picture's size."""
    grown = hole_from_pixels(hole.hole, invert=settings.invert, grow=settings.grow)
    return grown._replace(notes=(*hole.notes, *grown.notes))

"""From what somebody asks for to a picture's hole: the same for the command, the page and the endpoint."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from glcic_jax.pictures.mask_files import Hole, alpha_hole, hole_from_pixels, random_hole, read_mask
from glcic_jax.pictures.picture import MAX_PIXELS, Picture

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

"""Fixed sets of masks by name, as "paper:seed=0": the same bits at every reading, on every machine."""

import os
import secrets
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image

from glcic_jax.errors import DataError, lookup, one_line, printable
from glcic_jax.evaluation.mask_sets.drawn import (
    Box,
    Centre,
    FreeForm,
    Mmagic,
    Paper,
    Rectangles,
    Size,
    drawn_masks,
)
from glcic_jax.evaluation.mask_sets.folder import RECORD, Digest, Record, mask_file, open_folder

__all__ = ["MASK_SETS", "Digest", "MaskSet", "Size", "Summary", "open_mask_set", "store", "summarise"]

Take = Callable[[int, np.ndarray], None]


class MaskSet(Protocol):
    """A hole for every place in a row of images."""

    @property
    def name(self) -> str:
        """The canonical name, which `open_mask_set` takes: of the options only what is not the default."""

    @property
    def fingerprint(self) -> str:
        """Another one where the masks are others."""

    @property
    def description(self) -> str:
        """What a reader has to know: the name, and of files how they were chosen."""

    @property
    def valid_size(self) -> tuple[int, Size]:
        """How many masks, and of which (height, width), stand for the set where nobody asks for others."""

    def hole(self, index: int, size: Size, original: Size | None = None, image: str = "") -> np.ndarray:
        """Gives the hole of one image; holes can be asked for in any order.

        Args:
          index: The image's place, from 0.
          size: (height, width) of the image as it is evaluated.
          original: Its (height, width) before it was brought to `size`.
          image: Its name: the path relative to the images' folder.

        Returns:
          [H, W] bool of `size`, True = hole.

        Raises:
          DataError: A mask file cannot be used.
        """


class Summary(NamedTuple):
    """The first masks of a set.

    Attributes:
      record: Name, size, number, hash.
      hole_ratio: The mean fraction of an image that is hole.
    """

    record: Record
    hole_ratio: float


def open_mask_set(spec: str, images: Sequence[str] = ()) -> MaskSet:
    """Opens a mask set by its name.

    Args:
      spec: A name in `MASK_SETS`, with options behind a colon: "paper", "box:seed=3", "rectangles:count=1-3",
        "folder:PATH".
      images: The names of the images that masks are for, in order: a folder may have masks by name.

    Raises:
      ConfigError: The name or an option is unknown or out of its range.
      DataError: A folder's masks cannot be used.
    """
    name, colon, rest = spec.partition(":")
    return lookup(MASK_SETS, printable(name), "mask set")(rest if colon else None, images)


def summarise(masks: MaskSet, count: int, size: Size, take: Take | None = None) -> Summary:
    """Goes through the first masks of a set.

    Args:
      masks: The set.
      count: How many; at least 1.
      size: (height, width) of each in pixels.
      take: Gets each mask's place and its hole.

    Raises:
      DataError: A mask file cannot be used.
    """
    digest, pixels = Digest(), 0
    for index in range(count):
        hole = masks.hole(index, size)
        digest.add(hole)
        pixels += int(hole.sum())
        if take is not None:
            take(index, hole)
    record = Record(masks.name, size, count, digest.hexdigest())
    return Summary(record, pixels / (count * size[0] * size[1]))


def store(masks: MaskSet, count: int, size: Size, directory: Path) -> Summary:
    """Writes the first masks of a set as files: 000000.png ..., black and white, and `mask_set.json`.

    All are written aside first, so that the directory is never there half.

    Args:
      masks, count, size: As in `summarise`.
      directory: Where to; it must not be there yet.

    Raises:
      DataError: It is there, or cannot be written; or a mask file cannot be used.
    """
    name = printable(str(directory))
    directory = Path(os.path.abspath(directory))
    if os.path.lexists(directory):
        raise DataError(f"{name} is there already: name another directory")
    aside = directory.with_name(f".glcic-{secrets.token_hex(8)}")

    def write(index: int, hole: np.ndarray) -> None:
        _black_and_white(hole).save(aside / mask_file(index))

    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        aside.mkdir()
        summary = summarise(masks, count, size, write)
        (aside / RECORD).write_text(summary.record.to_json(), "utf-8")
        os.rename(aside, directory)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name.
        reason = getattr(error, "strerror", None) or one_line(error)
        raise DataError(f"{name}: cannot be written ({printable(reason)})") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return summary


def _black_and_white(hole: np.ndarray) -> Image.Image:
    """A picture of 1 bit a pixel, white = hole."""
    return Image.fromarray(hole.astype(np.uint8) * 255).convert("1", dither=Image.Dither.NONE)


def _folder(path: str | None, images: Sequence[str]) -> MaskSet:
    if not path:
        raise DataError("mask set folder: name the folder, as folder:PATH")
    return open_folder(f"folder:{path}", Path(path).expanduser(), images)


# What stands behind the colon (None without one), and the images' names.
MASK_SETS: dict[str, Callable[[str | None, Sequence[str]], MaskSet]] = {
    "paper": lambda options, _: drawn_masks(Paper, options),
    "box": lambda options, _: drawn_masks(Box, options),
    "mmagic": lambda options, _: drawn_masks(Mmagic, options),
    "centre": lambda options, _: drawn_masks(Centre, options),
    "free_form": lambda options, _: drawn_masks(FreeForm, options),
    "rectangles": lambda options, _: drawn_masks(Rectangles, options),
    "folder": _folder,
}

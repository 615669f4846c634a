"""Fixed mask sets by name, such as "paper:seed=0": the same bits each time, on every machine."""

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
    parse_options,
)
from glcic_jax.evaluation.mask_sets.folder import RECORD_FILE, MaskDigest, MaskSetRecord, mask_file, open_folder
from glcic_jax.files import expand_home

__all__ = ["MASK_SETS", "MaskDigest", "MaskSet", "Size", "Summary", "open_mask_set", "store", "summarise"]


class MaskSet(Protocol):
    """A hole for every index of a sequence of images."""

    @property
    def name(self) -> str:
        """The canonical name for `open_mask_set`: only options that differ from their defaults, and the seed."""

    @property
    def description(self) -> str:
        """The name and, for files, how they are assigned to images."""

    @property
    def default_count_and_size(self) -> tuple[int, Size]:
        """The number and (height, width) of masks that `glcic masks` takes by default."""

    def hole(self, index: int, size: Size, original: Size | None = None, image: str = "") -> np.ndarray:
        """Returns the hole of one image; in any order.

        Args:
          index: The image's index.
          size: (height, width) of the image as it is evaluated.
          original: Its (height, width) before it was resized.
          image: Its name: the path relative to the images' folder.

        Returns:
          [H, W] bool of `size`, True = hole.

        Raises:
          DataError: A mask file cannot be used.
        """


class Summary(NamedTuple):
    """The first masks of a set: their record and the mean fraction of an image that is hole."""

    record: MaskSetRecord
    hole_ratio: float


def open_mask_set(spec: str, images: Sequence[str] = ()) -> MaskSet:
    """Opens a mask set by its name.

    Args:
      spec: A name in `MASK_SETS` with options after a colon: "paper", "box:seed=3", "rectangles:count=1-3",
        "folder:PATH".
      images: The images' names in order, for a folder with masks by name.

    Raises:
      ConfigError: The name or an option is unknown or out of range.
      DataError: The masks of a folder cannot be used.
    """
    name, colon, rest = spec.partition(":")
    return lookup(MASK_SETS, printable(name), "mask set")(rest if colon else None, images)


def summarise(
    masks: MaskSet, count: int, size: Size, visit: Callable[[int, np.ndarray], None] | None = None
) -> Summary:
    """Hashes the first masks of a set.

    Args:
      masks: The set.
      count: Number of masks, at least 1.
      size: (height, width) of each in pixels.
      visit: Called with each mask's index and hole.

    Raises:
      DataError: A mask file cannot be used.
    """
    digest, pixels = MaskDigest(), 0
    for index in range(count):
        hole = masks.hole(index, size)
        digest.add(hole)
        pixels += int(hole.sum())
        if visit is not None:
            visit(index, hole)
    record = MaskSetRecord(masks.name, size, count, digest.hexdigest())
    return Summary(record, pixels / (count * size[0] * size[1]))


def store(masks: MaskSet, count: int, size: Size, directory: Path) -> Summary:
    """Writes the first masks of a set as 000000.png ..., 1 bit per pixel, white = hole, and `mask_set.json`.

    The directory appears only when it is complete.

    Args:
      masks, count, size: As in `summarise`.
      directory: A new directory.

    Raises:
      DataError: The directory exists or cannot be written, or a mask file cannot be used.
    """
    name = printable(str(directory))
    directory = Path(os.path.abspath(directory))
    if os.path.lexists(directory):
        raise DataError(f"{name} exists: name another directory")
    aside = directory.with_name(f".glcic-{secrets.token_hex(8)}")

    def write(index: int, hole: np.ndarray) -> None:
        picture = Image.fromarray(hole.astype(np.uint8) * 255).convert("1", dither=Image.Dither.NONE)
        picture.save(aside / mask_file(index))

    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        aside.mkdir()
        summary = summarise(masks, count, size, write)
        (aside / RECORD_FILE).write_text(summary.record.to_json(), "utf-8")
        os.rename(aside, directory)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name.
        reason = getattr(error, "strerror", None) or one_line(error)
        raise DataError(f"{name}: cannot be written ({printable(reason)})") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return summary


def _open_folder(path: str | None, images: Sequence[str]) -> MaskSet:
    if not path:
        raise DataError("mask set folder: name the folder, as folder:PATH")
    return open_folder(f"folder:{path}", expand_home(path), images)


# Called with the text after the colon (None without one) and the images' names.
MASK_SETS: dict[str, Callable[[str | None, Sequence[str]], MaskSet]] = {
    "paper": lambda options, _: parse_options(Paper, options),
    "box": lambda options, _: parse_options(Box, options),
    "mmagic": lambda options, _: parse_options(Mmagic, options),
    "centre": lambda options, _: parse_options(Centre, options),
    "free_form": lambda options, _: parse_options(FreeForm, options),
    "rectangles": lambda options, _: parse_options(Rectangles, options),
    "folder": _open_folder,
}

"""The images that an evaluation looks at: of a folder, of a split of a TFDS data set, or the samples."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from glcic_jax.data.folders import COMPLETION_SUFFIXES, FileSource, fingerprint, list_folder, split_folder
from glcic_jax.data.listings import files_of
from glcic_jax.data.sources import (
    ImageSource,
    open_prepared,
    open_samples,
    open_split,
    prepare_command,
    tfds_directory,
    tfds_root,
    training_splits,
)
from glcic_jax.errors import ConfigError, DataError, lookup, printable


class Part(NamedTuple):
    """Which of the images.

    Attributes:
      split: Of a folder "all", or "train" or "validation" as training splits it; of a listing "train",
        "validation" or "test"; of the samples one of the first two; of a TFDS data set any of its splits. Empty:
        all of a folder, the held-out part of anything else.
      most: So many at most, spread evenly over the listing; None: all.
      validation_fraction: Of a folder, as in `config.data`.
      tfds_dir, listing: As in `config.data`.
    """

    split: str = ""
    most: int | None = None
    validation_fraction: float = 0.02
    tfds_dir: str = ""
    listing: str = ""


class EvaluationImages(NamedTuple):
    """Images by index.

    Attributes:
      names: Short and distinct; of a folder, paths relative to it, as they are: not all may be printable.
      read: The file of one image, as bytes. Raises DataError where it cannot be read.
      description: Which images these are, for a reader.
      data, split: What was opened, and which part of it.
      fingerprint: Another one where a name, or a file of a folder, is another.
    """

    names: list[str]
    read: Callable[[int], bytes]
    description: str
    data: str
    split: str
    fingerprint: str


def open_images(data: str, part: Part) -> EvaluationImages:
    """Opens the images that an evaluation looks at.

    Args:
      data: "folder:PATH", "tfds:NAME[:VERSION]" or "samples".
      part: Which of them.

    Raises:
      ConfigError: The kind or the split is unknown, or there is a listing without a folder.
      DataError: There are no such images.
    """
    kind, _, argument = data.partition(":")
    opener = lookup(_OPENERS, kind, "kind of data (--data folder:PATH, tfds:NAME or samples)")
    if part.listing and kind != "folder":
        raise ConfigError(f"--listing is of the files of a folder: give --data folder:PATH with it, not {data}")
    source, names, split, root = opener(argument, part)
    total = len(names)
    chosen = np.arange(total)
    if part.most is not None and part.most < total:
        chosen = np.linspace(0, total - 1, part.most).round().astype(int)
    which = "all" if len(chosen) == total else f"{len(chosen):,} of"
    indices = [int(index) for index in chosen]
    named = [names[index] for index in indices]
    return EvaluationImages(
        named,
        lambda place: source.read(indices[place]),
        f"{printable(data)}, {split}: {which} {total:,} images"
        + ("" if which == "all" else ", spread evenly over the listing"),
        data,
        split,
        fingerprint(root, named) if root is not None else hashlib.sha256(repr(named).encode()).hexdigest(),
    )


# The images, their names, what the part is called; of files also the folder that the names are relative to.
_Opened = tuple[ImageSource, Sequence[str], str, Path | None]


def _open_folder(argument: str, part: Part) -> _Opened:
    root = Path(argument).expanduser()
    if not argument or not root.is_dir():
        raise DataError(f"folder:{printable(argument)}: no such folder; give --data folder:/path/to/photographs")
    if part.listing:
        split = part.split or "validation"
        paths = files_of(root, Path(part.listing).expanduser(), split)
        return FileSource([root / path for path in paths]), paths, f"{split} of {printable(part.listing)}", root
    listing = list_folder(root, COMPLETION_SUFFIXES)
    if not listing.images:
        raise DataError(f"{printable(str(root))}: holds no image files ({', '.join(sorted(COMPLETION_SUFFIXES))})")
    paths, split = listing.images, part.split or "all"
    if split != "all":
        train, validation = split_folder(paths, part.validation_fraction)
        paths = lookup({"all": paths, "train": train, "validation": validation}, split, "split of a folder")
    described = split if split == "all" else f"{split} (validation fraction {part.validation_fraction})"
    return FileSource([root / path for path in paths]), paths, described, root


def _open_tfds(argument: str, part: Part) -> _Opened:
    if not argument:
        raise ConfigError("--data tfds: needs a name: --data tfds:places365_small")
    directory = tfds_directory(argument, part.tfds_dir)
    command = prepare_command(argument, part.tfds_dir)
    if directory is None:
        raise DataError(f"{argument} is not prepared in {tfds_root(part.tfds_dir)}: {command}")
    builder = open_prepared(directory, command)
    split = part.split or training_splits(list(builder.info.splits))[1]
    source = open_split(builder, split)
    return source, [source.name(index) for index in range(len(source))], f"{directory.name}, {split}", None


def _open_samples(argument: str, part: Part) -> _Opened:
    train, validation = open_samples(argument)
    parts = {"validation": validation, "train": train}
    split = part.split or "validation"
    source = lookup(parts, split, "split of the samples")
    return source, [Path(source.name(index)).name for index in range(len(source))], split, None


_OPENERS: dict[str, Callable[[str, Part], _Opened]] = {
    "folder": _open_folder,
    "tfds": _open_tfds,
    "samples": _open_samples,
}

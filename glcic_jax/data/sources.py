"""Opens the images that a reference names: the samples, a folder, files of MNIST, or a prepared TFDS data set."""

import contextlib
import functools
import heapq
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from glcic_jax.data.folders import (
    FileSource,
    list_folder,
    listed_files,
    name_hash,
    split_folder,
    too_few_images,
)
from glcic_jax.data.idx import SPLITS, open_idx
from glcic_jax.data.tfds import (
    open_prepared,
    open_split,
    prepare_command,
    tfds_directory,
    tfds_root,
    training_splits,
)
from glcic_jax.errors import ConfigError, DataError, lookup, printable
from glcic_jax.files import expand_home
from glcic_jax.pictures import readable_suffixes

_FINGERPRINT_IMAGES = 64

_log = logging.getLogger(__name__)


# A prepared TFDS data set of photographs, with the licence and the origin of each in sources.csv.
_SAMPLES = Path(__file__).parent / "samples"


class ImageSource(Protocol):
    """Encoded images with random access."""

    def __len__(self) -> int:
        """Number of images."""

    def read(self, index: int) -> bytes:
        """Returns one encoded image. Raises DataError or OSError if it cannot be read."""

    def name(self, index: int) -> str:
        """Returns the name of an image for messages, on one printable line."""

    def short_name(self, index: int) -> str:
        """Returns a name unique in the source: for a file its path relative to the folder, printable or not."""

    def size(self, index: int) -> int:
        """Returns the bytes of one encoded image. Raises DataError if it is missing or cannot be read."""


class OpenedImages(NamedTuple):
    """One split of a data set.

    Attributes:
      source: The images.
      split: The split, described for a report.
    """

    source: ImageSource
    split: str


class Sources(NamedTuple):
    """The training and the validation images, which are disjoint."""

    train: ImageSource
    validation: ImageSource


def open_images(
    reference: str,
    split: str = "",
    *,
    option: str,
    validation_fraction: float = 0.02,
    tfds_dir: str = "",
    listing: str = "",
) -> OpenedImages:
    """Opens one split of a data set.

    Args:
      reference: A folder, or "samples", "folder:PATH", "idx:PATH" or "tfds:NAME[:VERSION]".
      split: Folder: "all" (default), "train" or "validation". Folder with a listing: "train", "validation"
        (default) or "test". Samples and IDX: "train" or "validation" (default). TFDS: a split or a slice of one
        (default: the split that training validates on).
      option: The command-line option that takes the reference, up to its value; for errors.
      validation_fraction, tfds_dir, listing: As in `config.data`.

    Raises:
      ConfigError: The reference or the split is unknown, or a listing is given without a folder.
      DataError: The images do not exist or cannot be opened.
    """
    return _opener(reference, _Options(option, validation_fraction, tfds_dir, listing))(split)


def open_sources(data: Any) -> Sources:
    """Opens the training and validation images of `config.data`; raises the errors of `open_images`."""
    options = _Options("--config.data.source=", data.validation_fraction, data.tfds_dir, data.listing)
    open_part = _opener(data.source, options)
    is_tfds = _kind_and_argument(data.source)[0] == "tfds"
    splits = (data.train_split, data.validation_split) if is_tfds else ("train", "validation")
    return Sources(*(open_part(split).source for split in splits))


def fingerprint(source: ImageSource) -> dict[str, int]:
    """Identifies images wherever they lie: the sizes of up to 64 of them, in bytes, by the hashes of their names.

    They are those with the smallest hashes, so some remain when images are added or removed, unless the set grows
    or shrinks more than about tenfold.
    """
    names = ((name_hash(source.short_name(index)), index) for index in range(len(source)))
    sizes = {}
    for digest, index in heapq.nsmallest(_FINGERPRINT_IMAGES, names):
        with contextlib.suppress(DataError):  # Training skips it.
            sizes[f"{digest:016x}"] = source.size(index)
    return sizes


def directory_of(data: Any) -> Path | None:
    """Returns the argument of `glcic data check` for the images of `config.data`; None for others."""
    kind, argument = _kind_and_argument(data.source)
    if kind == "tfds":
        return tfds_directory(argument, data.tfds_dir)
    return expand_home(argument) if kind == "folder" else None


class _Options(NamedTuple):
    """The keyword arguments of `open_images`."""

    option: str
    validation_fraction: float
    tfds_dir: str
    listing: str


_OpenPart = Callable[[str], OpenedImages]


def _kind_and_argument(reference: str) -> tuple[str, str]:
    """Splits KIND:ARGUMENT; the path of a folder is of the kind "folder"."""
    kind, _, argument = reference.partition(":")
    if kind not in SOURCES and reference and expand_home(reference).is_dir():
        return "folder", reference
    return kind, argument


def _opener(reference: str, options: _Options) -> _OpenPart:
    """Finds a data set and returns a function that opens its splits."""
    kind, argument = _kind_and_argument(reference)
    if kind not in SOURCES:
        choices = "the path of a folder, samples, folder:PATH, idx:PATH or tfds:NAME"
        raise ConfigError(
            f"{reference!r}: no such folder or kind of data: give {choices} as {options.option.strip(' =')}"
        )
    if options.listing and kind != "folder":
        raise ConfigError(
            f"a listing selects files of a folder, and {printable(reference)} is not a folder: give "
            f"{options.option}folder:PATH, or an empty listing"
        )
    return SOURCES[kind](argument, options)


def _open_samples(argument: str, _: _Options) -> _OpenPart:
    if argument:
        raise ConfigError(f"the data source samples takes no argument, not {argument!r}")
    builder = open_prepared(_SAMPLES, "pip install --force-reinstall glcic-jax")

    def open_part(split: str) -> OpenedImages:
        split = split or "validation"
        lookup(builder.info.splits, split, "split of the samples")
        return OpenedImages(open_split(builder, split), split)

    return open_part


def _open_folder(argument: str, options: _Options) -> _OpenPart:
    root = expand_home(argument)
    if not argument or not root.is_dir():
        raise DataError(
            f"folder:{printable(argument)}: no such folder; give {options.option}folder:/path/to/photographs"
        )
    if options.listing:
        return functools.partial(_open_listed, root, options.listing)
    contents = list_folder(root)
    for folder in contents.unopened:
        _log.warning("skipped a folder that cannot be opened: %s", folder)

    def open_part(split: str) -> OpenedImages:
        if split in ("", "all"):
            if not contents.images:
                suffixes = ", ".join(sorted(readable_suffixes()))
                raise DataError(f"{printable(str(root))}: no image files found ({suffixes})")
            return OpenedImages(FileSource(root, contents.images), "all")
        if len(contents.images) < 2:
            raise DataError(too_few_images(root, contents))
        train, validation = split_folder(contents.images, options.validation_fraction)
        paths = lookup(
            {"all": contents.images, "train": train, "validation": validation}, split, "split of a folder"
        )
        described = f"{split} (validation fraction {options.validation_fraction})"
        return OpenedImages(FileSource(root, paths), described)

    return open_part


def _open_listed(root: Path, listing: str, split: str) -> OpenedImages:
    split = split or "validation"
    paths = listed_files(root, expand_home(listing), split)
    return OpenedImages(FileSource(root, paths), f"{split} of {printable(listing)}")


def _open_idx(argument: str, options: _Options) -> _OpenPart:
    folder = expand_home(argument)
    if not argument or not folder.is_dir():
        raise DataError(f"idx:{printable(argument)}: no such folder; give {options.option}idx:/path/to/mnist")

    def open_part(split: str) -> OpenedImages:
        split = split or "validation"
        lookup(SPLITS, split, "split of IDX files")
        return OpenedImages(open_idx(folder, split), split)

    return open_part


def _open_tfds(argument: str, options: _Options) -> _OpenPart:
    if not argument:
        raise ConfigError(f"the data source tfds: needs a name: {options.option}tfds:places365_small")
    directory = tfds_directory(argument, options.tfds_dir)
    command = prepare_command(argument, options.tfds_dir)
    if directory is None:
        raise DataError(
            f"the data set {argument} is not prepared in {tfds_root(options.tfds_dir)}: "
            f"(1) prepare it: {command}; "
            f"(2) or give your own photographs: {options.option}folder:/path/to/photographs; "
            f"(3) or give the samples: {options.option}samples, or train on them: "
            "glcic train --config=quickstart"
        )
    builder = open_prepared(directory, command)

    def open_part(split: str) -> OpenedImages:
        split = split or training_splits(list(builder.info.splits))[1]
        return OpenedImages(open_split(builder, split), f"{directory.name}, {split}")

    return open_part


SOURCES: dict[str, Callable[[str, _Options], _OpenPart]] = {
    "samples": _open_samples,
    "folder": _open_folder,
    "idx": _open_idx,
    "tfds": _open_tfds,
}

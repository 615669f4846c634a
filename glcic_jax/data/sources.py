"""Where photographs come from: the samples, a folder, or a prepared TFDS data set.

A source is random access: `len(source)`, `source.read(index)` gives one file's bytes, `source.name(index)` says
which it was. It holds no decoded image.
"""

import importlib.util
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from glcic_jax.data.folders import FileSource, files_of, list_folder, split_folder, too_few_images
from glcic_jax.data.tfds import open_prepared, open_split, prepare_command, tfds_directory, tfds_root
from glcic_jax.errors import ConfigError, DataError

_log = logging.getLogger(__name__)


# Photographs in scikit-image's wheel. Its data/README.txt and the docstrings of skimage.data have the sources.
_SAMPLES_TRAIN = (
    "astronaut.png",
    "coffee.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)
_SAMPLES_VALIDATION = ("camera.png", "chelsea.png")


class ImageSource(Protocol):
    """Encoded images by index."""

    def __len__(self) -> int:
        """Number of images."""

    def read(self, index: int) -> bytes:
        """One image's file, as bytes. Raises DataError or OSError where it cannot be read."""

    def name(self, index: int) -> str:
        """What to call the image in a message."""


class Sources(NamedTuple):
    """The two parts of a data set, which share no image."""

    train: ImageSource
    validation: ImageSource


def open_sources(data: Any) -> Sources:
    """Opens the training and validation images that `config.data` names.

    Args:
      data: `config.data`; `source` is "samples", "folder:PATH" or "tfds:NAME[:VERSION]".

    Raises:
      ConfigError: The source is of no known kind, or has no files for a listing to name.
      DataError: It holds no usable images, or is not there.
    """
    kind, _, argument = data.source.partition(":")
    if kind not in SOURCES:
        raise ConfigError(
            f"unknown data source {data.source!r}: give samples, folder:PATH or tfds:NAME as --config.data.source"
        )
    if data.listing and kind != "folder":
        raise ConfigError(
            f"data.listing names files of a folder, and data.source is {data.source}: give "
            "--config.data.source=folder:PATH, or --config.data.listing= to take all of it"
        )
    return SOURCES[kind](argument, data)


def open_samples(argument: str) -> Sources:
    """Opens the photographs that come with scikit-image.

    Raises:
      ConfigError: There is an argument, which they do not take.
      DataError: They are not there.
    """
    if argument:
        raise ConfigError(f"the data source samples takes no argument, not {argument!r}")
    # Found, not imported: scikit-image takes a second to import, and only its files are wanted.
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise DataError("the samples come with scikit-image, which is not installed: pip install scikit-image")
    folder = Path(spec.origin).parent / "data"
    parts = [[folder / name for name in names] for names in (_SAMPLES_TRAIN, _SAMPLES_VALIDATION)]
    missing = [path.name for part in parts for path in part if not path.is_file()]
    if missing:
        raise DataError(
            f"scikit-image in {folder} does not carry {', '.join(missing)}: pip install -U scikit-image"
        )
    return Sources(*map(FileSource, parts))


def _open_folder(argument: str, data: Any) -> Sources:
    root = Path(argument).expanduser()
    if not argument or not root.is_dir():
        raise DataError(
            f"folder:{argument}: no such folder; give --config.data.source=folder:/path/to/photographs"
        )
    if data.listing:
        path = Path(data.listing).expanduser()
        parts = [files_of(root, path, part) for part in ("train", "validation")]
        return Sources(*(FileSource([root / file for file in part]) for part in parts))
    listing = list_folder(root)
    if len(listing.images) < 2:
        raise DataError(too_few_images(root, listing))
    for folder in listing.unopened:
        _log.warning("folder passed over: %s", folder)
    train, validation = split_folder(listing.images, data.validation_fraction)
    return Sources(FileSource([root / path for path in train]), FileSource([root / path for path in validation]))


def directory_of(data: Any) -> Path | None:
    """What `glcic data check` takes to check the images that `config.data` names; None for the samples."""
    kind, _, argument = data.source.partition(":")
    if kind == "tfds":
        return tfds_directory(argument, data.tfds_dir)
    return Path(argument).expanduser() if kind == "folder" else None


def _open_tfds(argument: str, data: Any) -> Sources:
    if not argument:
        raise ConfigError("the data source tfds: needs a name: --config.data.source=tfds:places365_small")
    directory = tfds_directory(argument, data.tfds_dir)
    command = prepare_command(argument, data.tfds_dir)
    if directory is None:
        raise DataError(
            f"the data set {argument} is not prepared in {tfds_root(data.tfds_dir)}. Three ways on: "
            f"(1) prepare it: {command}; "
            "(2) train on your own photographs: --config.data.source=folder:/path/to/photographs; "
            "(3) train on the samples: python main.py --config=configs/quickstart.py"
        )
    builder = open_prepared(directory, command)
    return Sources(open_split(builder, data.train_split), open_split(builder, data.validation_split))


SOURCES: dict[str, Callable[[str, Any], Sources]] = {
    "samples": lambda argument, _: open_samples(argument),
    "folder": _open_folder,
    "tfds": _open_tfds,
}

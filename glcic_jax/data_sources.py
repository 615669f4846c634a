"""Where photographs come from: the samples, a folder, or a prepared TFDS data set.

A source is random access: `len(source)`, `source.read(index)` gives one file's bytes, `source.name(index)` says
which it was. It holds no decoded image.
"""

import importlib.util
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from glcic_jax.errors import ConfigError, DataError, one_line
from glcic_jax.image_folders import FileSource, list_folder, split_folder, too_few_images

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


class TfdsSource:
    """The image feature of a TFDS `data_source`, left encoded."""

    def __init__(self, data_source: Any, feature: str, name: str):
        self._data_source = data_source
        self._feature = feature
        self._name = name

    def __len__(self) -> int:
        return len(self._data_source)

    def read(self, index: int) -> bytes:
        try:
            return self._data_source[index][self._feature]
        except Exception as error:  # array_record and TFDS raise many types on a damaged file.
            raise DataError(f"{self.name(index)}: cannot be read ({one_line(error)})") from error

    def name(self, index: int) -> str:
        return f"{self._name}[{index}]"


def open_sources(data: Any) -> Sources:
    """Opens the training and validation images that `config.data` names.

    Args:
      data: `config.data`; `source` is "samples", "folder:PATH" or "tfds:NAME".

    Raises:
      ConfigError: The source is of no known kind.
      DataError: It holds no usable images, or is not there.
    """
    kind, _, argument = data.source.partition(":")
    if kind not in SOURCES:
        raise ConfigError(
            f"unknown data source {data.source!r}: give samples, folder:PATH or tfds:NAME as --config.data.source"
        )
    return SOURCES[kind](argument, data)


def _open_samples(argument: str, data: Any) -> Sources:
    del data
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
    listing = list_folder(root)
    if len(listing.images) < 2:
        raise DataError(too_few_images(root, listing))
    for folder in listing.unopened:
        _log.warning("folder passed over: %s", folder)
    train, validation = split_folder(listing.images, data.validation_fraction)
    return Sources(FileSource([root / path for path in train]), FileSource([root / path for path in validation]))


def tfds_directory(name: str, data_dir: str) -> Path | None:
    """Finds the newest prepared version of a TFDS data set below `data_dir`; None where there is none.

    Raises:
      DataError: The data set is prepared in several configurations, and the name chooses none.
    """
    root = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser() / name
    prepared = [path.parent for path in root.rglob("dataset_info.json")] if root.is_dir() else []

    variants = sorted({path.parent.relative_to(root).as_posix() for path in prepared})
    if len(variants) > 1:
        choices = ", ".join(f"tfds:{name}/{variant}" for variant in variants if variant != ".")
        raise DataError(f"{root} holds several configurations of {name}: choose one of {choices}")

    def version(path: Path) -> list[int]:
        return [int(part) if part.isdigit() else -1 for part in path.name.split(".")]

    return max(prepared, key=version, default=None)


def _open_tfds(argument: str, data: Any) -> Sources:
    if not argument:
        raise ConfigError("the data source tfds: needs a name: --config.data.source=tfds:places365_small")
    directory = tfds_directory(argument, data.tfds_dir)
    if directory is None:
        where = data.tfds_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
        raise DataError(
            f"the data set {argument} is not prepared in {where}. Three ways on: "
            f"(1) prepare it: pip install tensorflow && tfds build {argument} --file_format=array_record "
            f"--data_dir={where}; "
            "(2) train on your own photographs: --config.data.source=folder:/path/to/photographs; "
            "(3) train on the samples: python main.py --config=configs/quickstart.py"
        )
    builder = open_prepared(directory)
    return Sources(open_split(builder, data.train_split), open_split(builder, data.validation_split))


def open_prepared(directory: Path) -> Any:
    """Opens a prepared TFDS data set; returns its builder.

    Raises:
      DataError: TFDS is missing, or the data set is damaged, of another file format, or without images.
    """
    # Imported here: a folder or the samples train on a machine without TFDS.
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise DataError(f"{directory} needs TFDS: pip install tensorflow-datasets ({error})") from error

    try:
        builder = tfds.builder_from_directory(directory)
    except Exception as error:  # Whatever a damaged JSON file or an unknown feature makes TFDS raise.
        raise DataError(f"{directory}: not a readable TFDS data set ({one_line(error)})") from error
    if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        raise DataError(
            f"{directory} is prepared as {builder.info.file_format.value}, which cannot be read at random: "
            f"prepare it anew with: tfds build {builder.name} --file_format=array_record"
        )
    return builder


def open_split(builder: Any, split: str) -> TfdsSource:
    """Opens the images of one split of a prepared TFDS data set.

    Raises:
      DataError: There is no such split, it cannot be opened, or the data set has no image feature.
    """
    import tensorflow_datasets as tfds

    directory = builder.data_path
    features = [key for key, value in builder.info.features.items() if isinstance(value, tfds.features.Image)]
    if not features:
        raise DataError(f"{directory}: the data set {builder.name} has no image feature")
    if split.partition("[")[0] not in builder.info.splits:
        raise DataError(f"{directory} has no split {split!r}: choose from {', '.join(builder.info.splits)}")
    try:
        data_source = builder.as_data_source(split=split, decoders={features[0]: tfds.decode.SkipDecoding()})
        for place in (0, len(data_source) - 1):  # Nothing is opened before something is read.
            data_source[place]
    except Exception as error:  # A malformed slice, or missing or truncated array_record files.
        raise DataError(f"{directory}: the split {split!r} cannot be opened ({one_line(error)})") from error
    return TfdsSource(data_source, features[0], f"{builder.name}/{split}")


SOURCES: dict[str, Callable[[str, Any], Sources]] = {
    "samples": _open_samples,
    "folder": _open_folder,
    "tfds": _open_tfds,
}

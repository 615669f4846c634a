"""TFDS data sets prepared as array_record, found and read without TensorFlow."""

import json
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from glcic_jax.errors import DataError, one_line
from glcic_jax.files import expand_home


class TfdsSource:
    """The encoded images of one split, as an `ImageSource`.

    Args:
      data_source: TFDS's `data_source`, whose image feature is not decoded.
      feature: Name of the image feature.
      split: Name of the split in messages, such as "celeb_a/train".
    """

    def __init__(self, data_source: Any, feature: str, split: str):
        self._data_source = data_source
        self._feature = feature
        self._split = split

    def __len__(self) -> int:
        return len(self._data_source)

    def read(self, index: int) -> bytes:
        try:
            return self._data_source[index][self._feature]
        except Exception as error:  # array_record and TFDS raise many types for a damaged file.
            raise DataError(f"{self.name(index)}: cannot be read ({one_line(error)})") from error

    def name(self, index: int) -> str:
        return f"{self._split}[{index}]"

    short_name = name

    def size(self, index: int) -> int:
        return len(self.read(index))


def tfds_root(data_dir: str) -> Path:
    """Returns TFDS's data directory: `data_dir`, else $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    return expand_home(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")


def is_version(name: str) -> bool:
    """Returns whether a directory of this name holds a finished version; 2.1.0.incompleteABC123 does not."""
    return re.fullmatch(r"\d+\.\d+\.\d+", name) is not None


def prepared_versions(name: str, root: Path) -> list[Path]:
    """Returns the directories of the prepared versions of a TFDS data set, oldest first.

    Args:
      name: NAME or NAME/CONFIGURATION.
      root: TFDS's data directory.

    Raises:
      DataError: Several configurations are prepared and the name chooses none.
    """
    root = root / name
    infos = root.rglob("dataset_info.json") if root.is_dir() else ()
    prepared = [path.parent for path in infos if is_version(path.parent.name)]
    configurations = sorted({path.parent.relative_to(root).as_posix() for path in prepared})
    if len(configurations) > 1:
        choices = ", ".join(
            f"tfds:{name}/{configuration}" for configuration in configurations if configuration != "."
        )
        raise DataError(f"{root} holds several configurations of {name}: choose one of {choices}")
    return sorted(prepared, key=lambda path: [int(part) for part in path.name.split(".")])


def tfds_directory(name: str, data_dir: str) -> Path | None:
    """Finds a prepared TFDS data set.

    Args:
      name: NAME or NAME/CONFIGURATION, optionally with :VERSION; the default is the newest version.
      data_dir: As in `tfds_root`.

    Returns:
      The directory of the version; None if the data set is not prepared at all.

    Raises:
      DataError: As in `prepared_versions`; or only other versions are prepared.
    """
    name, _, version = name.partition(":")
    root = tfds_root(data_dir)
    prepared = prepared_versions(name, root)
    matching = [path for path in prepared if version in ("", path.name)]
    if prepared and not matching:
        versions = ", ".join(f"tfds:{name}:{path.name}" for path in prepared)
        raise DataError(f"{root / name} holds no version {version} of {name}: choose one of {versions}")
    return matching[-1] if matching else None


class PreparedInfo(NamedTuple):
    """The contents of a dataset_info.json.

    Attributes:
      name: NAME or NAME/CONFIGURATION.
      version: As "2.1.0".
      formats: File formats of the examples, the primary one first.
      splits: Names of the splits.
    """

    name: str
    version: str
    formats: list[str]
    splits: list[str]


def prepared_info(directory: Path) -> PreparedInfo:
    """Reads the dataset_info.json of a prepared TFDS data set.

    Raises:
      DataError: It cannot be read.
    """
    try:
        info = json.loads((directory / "dataset_info.json").read_text())
        return PreparedInfo(
            "/".join(filter(None, (info.get("name"), info.get("configName")))),
            str(info.get("version", "")),
            # Early versions of TFDS wrote no format.
            [info.get("fileFormat") or "tfrecord", *info.get("alternativeFileFormats", [])],
            [split["name"] for split in info.get("splits", [])],
        )
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise DataError(f"{directory}: not a readable TFDS data set ({one_line(error)})") from error


def training_splits(splits: Sequence[str]) -> tuple[str, str]:
    """Chooses the splits to train on and to validate on: train and validation, or the closest match."""
    train = next((name for name in splits if name.startswith("train")), splits[0])
    domain = train.removeprefix("train")  # As in trainA and testA.
    for name in (f"validation{domain}", f"val{domain}", f"test{domain}"):
        if name in splits:
            return train, name
    return f"{train}[:98%]", f"{train}[98%:]"


def prepare_command(name: str, data_dir: str) -> str:
    """Returns the command that prepares a TFDS data set in `data_dir`."""
    option = f" --data-dir={shlex.quote(data_dir)}" if data_dir else ""
    return f"glcic data prepare {name}{option}"


def open_prepared(directory: Path, command: str) -> Any:
    """Opens a prepared TFDS data set.

    Args:
      directory: The directory of its dataset_info.json.
      command: The command that converts it to array_record, for the error.

    Returns:
      A TFDS builder.

    Raises:
      DataError: TFDS is missing, or the data set is damaged or not array_record.
    """
    formats = prepared_info(directory).formats
    if "array_record" not in formats:
        raise DataError(
            f"{directory} is prepared as {formats[0]}, which has no random access: convert it, without a new "
            f"download, with: {command}"
        )
    # Imported here: folders and samples work without TFDS.
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise DataError(f"{directory} needs TFDS: pip install tensorflow-datasets ({error})") from error
    try:
        return tfds.builder_from_directory(directory)
    except Exception as error:  # Damaged JSON files and unknown features raise many types.
        raise DataError(f"{directory}: not a readable TFDS data set ({one_line(error)})") from error


def open_split(builder: Any, split: str) -> TfdsSource:
    """Opens the images of one split, or of a slice of one, of a prepared TFDS data set.

    Raises:
      DataError: The split does not exist or cannot be opened, or the data set has no image feature.
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
        for index in (0, len(data_source) - 1):  # Files are opened by the first read.
            data_source[index]
    except Exception as error:  # A malformed slice, or missing or truncated files.
        raise DataError(f"{directory}: the split {split!r} cannot be opened ({one_line(error)})") from error
    return TfdsSource(data_source, features[0], f"{builder.name}/{split}")

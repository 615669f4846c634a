"""Prepared TFDS data sets, opened without TensorFlow."""

import json
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from glcic_jax.errors import DataError, one_line


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


def tfds_root(data_dir: str) -> Path:
    """Where TFDS keeps prepared data: `data_dir`, or $TFDS_DATA_DIR or ~/tensorflow_datasets where it is empty."""
    return Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def prepared_versions(name: str, root: Path) -> list[Path]:
    """The directories of a TFDS data set's prepared versions, the newest last.

    Args:
      name: NAME or NAME/CONFIGURATION.
      root: TFDS's data directory.

    Raises:
      DataError: The data set is prepared in several configurations, and the name chooses none.
    """
    root = root / name
    prepared = [path.parent for path in root.rglob("dataset_info.json")] if root.is_dir() else []
    # Others are being prepared, by TFDS or here: 2.1.0.incompleteABC123.
    prepared = [path for path in prepared if is_version(path.name)]
    variants = sorted({path.parent.relative_to(root).as_posix() for path in prepared})
    if len(variants) > 1:
        choices = ", ".join(f"tfds:{name}/{variant}" for variant in variants if variant != ".")
        raise DataError(f"{root} holds several configurations of {name}: choose one of {choices}")

    return sorted(prepared, key=lambda path: [int(part) for part in path.name.split(".")])


def is_version(name: str) -> bool:
    """Whether a directory of this name holds a version of a TFDS data set, and a finished one."""
    return re.fullmatch(r"\d+\.\d+\.\d+", name) is not None


def tfds_directory(name: str, data_dir: str) -> Path | None:
    """Finds a prepared TFDS data set below `data_dir`; None where there is none.

    Args:
      name: NAME, NAME/CONFIGURATION, or either with :VERSION; without one the newest is taken.
      data_dir: As in `tfds_root`.

    Raises:
      DataError: As in `prepared_versions`; or it is prepared only in other versions than the one chosen.
    """
    name, _, wanted = name.partition(":")
    root = tfds_root(data_dir)
    prepared = prepared_versions(name, root)
    chosen = [path for path in prepared if wanted in ("", path.name)]
    if prepared and not chosen:
        versions = ", ".join(f"tfds:{name}:{path.name}" for path in prepared)
        raise DataError(f"{root / name} holds no version {wanted} of {name}: choose one of {versions}")
    return chosen[-1] if chosen else None


class PreparedInfo(NamedTuple):
    """What the dataset_info.json of a prepared TFDS data set says.

    Attributes:
      name: NAME or NAME/CONFIGURATION.
      version: As "2.1.0".
      formats: The file formats that hold its examples, the usual one first.
      splits: Their names.
    """

    name: str
    version: str
    formats: list[str]
    splits: list[str]


def prepared_info(directory: Path) -> PreparedInfo:
    """Reads what a prepared TFDS directory says of itself.

    Raises:
      DataError: Its dataset_info.json cannot be read.
    """
    try:
        info = json.loads((directory / "dataset_info.json").read_text())
        return PreparedInfo(
            "/".join(filter(None, (info.get("name"), info.get("configName")))),
            str(info.get("version", "")),
            # TFDS wrote no format before it knew a second one.
            [info.get("fileFormat") or "tfrecord", *info.get("alternativeFileFormats", [])],
            [split["name"] for split in info.get("splits", [])],
        )
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise DataError(f"{directory}: not a readable TFDS data set ({one_line(error)})") from error


def training_splits(splits: Sequence[str]) -> tuple[str, str]:
    """The splits to train on and to validate on: train and validation, or what comes next to them."""
    train = next((name for name in splits if name.startswith("train")), splits[0])
    domain = train.removeprefix("train")  # As trainA and testA.
    for name in (f"validation{domain}", f"val{domain}", f"test{domain}"):
        if name in splits:
            return train, name
    return f"{train}[:98%]", f"{train}[98%:]"


def prepare_command(name: str, data_dir: str) -> str:
    """The command that prepares a TFDS data set where `data_dir` will find it."""
    where = f" --data-dir={shlex.quote(data_dir)}" if data_dir else ""
    return f"glcic data prepare {name}{where}"


def open_prepared(directory: Path, command: str) -> Any:
    """Opens a prepared TFDS data set.

    Args:
      directory: That holds its dataset_info.json.
      command: What converts it where it is prepared in a format that cannot be read at random.

    Returns:
      TFDS's builder of it.

    Raises:
      DataError: TFDS is missing, or the data set is damaged, or of another file format.
    """
    formats = prepared_info(directory).formats
    if "array_record" not in formats:
        raise DataError(
            f"{directory} is prepared as {formats[0]}, which cannot be read at random: convert it, without a new "
            f"download and without TensorFlow, with: {command}"
        )
    # Imported here: a folder or the samples train on a machine without TFDS.
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise DataError(f"{directory} needs TFDS: pip install tensorflow-datasets ({error})") from error

    try:
        builder = tfds.builder_from_directory(directory)
    except Exception as error:  # Whatever a damaged JSON file or an unknown feature makes TFDS raise.
        raise DataError(f"{directory}: not a readable TFDS data set ({one_line(error)})") from error
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

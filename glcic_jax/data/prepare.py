"""Prepares TFDS data sets as array_record. TFDS does the work, and needs TensorFlow for it."""

import contextlib
import importlib.util
import json
import logging
import shlex
import shutil
import sys
import types
from pathlib import Path
from typing import Any

from glcic_jax.data.tfds import prepared_info, prepared_versions, tfds_root, training_splits
from glcic_jax.errors import DataError, UserError, one_line
from glcic_jax.files import write_atomically
from glcic_jax.progress import Log, format_bytes


def prepare(name: str, data_dir: str, source: Path | None, log: Log) -> Path:
    """Prepares a TFDS data set as array_record, from its archives or from an earlier preparation as TFRecord.

    Args:
      name: NAME or NAME/CONFIGURATION, optionally with :VERSION.
      data_dir: As in `tfds_root`.
      source: A folder with downloaded archives, or with the data set as TFRecord; None: the data set in
        `data_dir` is converted, or else downloaded.
      log: Receives lines for the user.

    Returns:
      The directory of the prepared version.

    Raises:
      DataError: TensorFlow is missing, the disk is too small, or TFDS cannot prepare the data set.
    """
    name, _, version = name.partition(":")
    if source is not None and not source.is_dir():
        raise DataError(f"{source}: no such folder; --from takes a folder of archives or a TFDS data set")
    root = tfds_root(data_dir)
    prepared = _newest(name, version, root)
    if prepared is not None and "array_record" in prepared_info(prepared).formats:
        log(f"{prepared} is already prepared")
        return prepared
    if importlib.util.find_spec("tensorflow") is None:
        raise DataError("this step needs TensorFlow, training does not: pip install 'glcic-jax[prepare]'")
    origin = _newest(name, version, source) if source is not None else None
    try:
        if origin is not None:
            info = prepared_info(origin)
            if "array_record" in info.formats:
                raise DataError(
                    f"{origin} is already prepared as array_record: give its data directory as --data-dir"
                )
            return _convert(origin, root / info.name / info.version, log)
        if prepared is not None:
            return _convert(prepared, prepared, log)
        return _download_and_prepare(name, version, root, source, log)
    except UserError:
        raise
    except Exception as error:  # TFDS and TensorFlow raise many types.
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise DataError(
            f"TFDS cannot prepare {name} ({reason}); --from DIR takes archives that you downloaded"
        ) from error


def training_command(name: str, directory: Path, data_dir: str) -> str:
    """Returns the command that trains on a prepared data set.

    Args:
      name, data_dir: As in `prepare`.
      directory: The prepared version.
    """
    options = {"source": f"tfds:{name}"}
    for key, split in zip(("train", "validation"), training_splits(prepared_info(directory).splits), strict=True):
        if split != key:
            options[f"{key}_split"] = split
    if data_dir:
        options["tfds_dir"] = data_dir
    config = "celeba" if name.partition(":")[0] == "celeb_a" else "joint"
    arguments = (shlex.quote(f"--config.data.{key}={value}") for key, value in options.items())
    return " ".join(["glcic train", f"--config={config}", *arguments])


def _newest(name: str, version: str, folder: Path) -> Path | None:
    """Returns the newest prepared version: `folder` itself, or one below it."""
    if (folder / "dataset_info.json").is_file():
        return folder
    matching = [path for path in prepared_versions(name, folder) if version in ("", path.name)]
    return matching[-1] if matching else None


def _download_and_prepare(name: str, version: str, root: Path, source: Path | None, log: Log) -> Path:
    import tensorflow_datasets as tfds

    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # A line for each retry of each download.
    name, _, configuration = name.partition("/")
    # Not tfds.builder: it would take over the features of another version that is prepared in `root`.
    builder = tfds.core.load.builder_cls(name)(
        data_dir=root, config=configuration or None, version=version or None, file_format="array_record"
    )
    _log_plan(builder, root, source, log)
    # Data sets that TFDS hosts already prepared are TFRecord.
    config = tfds.download.DownloadConfig(manual_dir=source, try_download_gcs=False)
    builder.download_and_prepare(download_config=config)
    return Path(builder.data_dir)


def _log_plan(builder: Any, root: Path, source: Path | None, log: Log) -> None:
    """Logs each archive with its state, and the disk space; raises DataError if that is too small."""
    import jax
    from tensorflow_datasets.core.download.resource import get_dl_fname

    # `url_infos` lists the archives of all configurations. The builder requests those of its own configuration,
    # then fails to open them.
    downloaded: list[Any] = []
    extracted: list[Any] = []

    def download(urls: Any) -> Any:
        downloaded.extend(jax.tree.leaves(urls))
        return urls

    def download_and_extract(urls: Any) -> Any:
        extracted.extend(jax.tree.leaves(urls))
        return urls

    manager = types.SimpleNamespace(download=download, download_and_extract=download_and_extract)
    with contextlib.suppress(Exception):
        builder._split_generators(manager)
    infos = {url: info for url, info in (builder.url_infos or {}).items() if url in [*downloaded, *extracted]}
    missing = 0
    for url, info in infos.items():
        cached = [root / "downloads" / part / get_dl_fname(url, info.checksum) for part in (builder.name, "")]
        if source is not None and (source / info.filename).exists():
            state = f"found in {source}"
        elif any(path.exists() for path in cached):
            state = "downloaded already"
        else:
            state = f"not in {source}, to be downloaded from {url}" if source else f"to be downloaded from {url}"
            missing += info.size
        log(f"{info.filename}  {format_bytes(info.size)}  {state}")
    if infos:
        # The result is about as large as the archives.
        result = sum(info.size for info in infos.values())
        _require_space(root, missing + result + sum(infos[url].size for url in extracted if url in infos), log)


def _require_space(directory: Path, needed: int, log: Log) -> None:
    existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    text = f"about {format_bytes(needed)} needed, {format_bytes(free)} free in {directory}"
    if free < needed:
        raise DataError(f"too little disk space: {text}; choose a larger disk with --data-dir")
    log(f"disk space  {text}")


def _convert(origin: Path, directory: Path, log: Log) -> Path:
    """Converts a TFRecord preparation shard by shard, keeping finished shards of an interrupted conversion.

    TFDS's own convert_format does the same, but needs Apache Beam.
    """
    from tensorflow_datasets.core.file_adapters import ArrayRecordFileAdapter, TfRecordFileAdapter

    info = json.loads((origin / "dataset_info.json").read_text())
    shards = sorted(origin.glob("*.tfrecord-*"))
    expected = sum(len(split["shardLengths"]) for split in info["splits"])
    if len(shards) != expected:
        raise DataError(f"{origin}: {len(shards)} of {expected} TFRecord files found; give a complete data set")
    log(f"{origin} is prepared as TFRecord: converting it to array_record in {directory}")
    _require_space(directory, sum(shard.stat().st_size for shard in shards), log)
    directory.mkdir(parents=True, exist_ok=True)
    for shard in shards:
        path = directory / shard.name.replace(".tfrecord-", ".array_record-")
        if not path.exists():
            partial = path.with_name(f"{path.name}.incomplete")
            records = ((None, record.numpy()) for record in TfRecordFileAdapter.make_tf_data(shard))
            ArrayRecordFileAdapter.write_examples(partial, records)
            partial.rename(path)
    if directory.samefile(origin):
        info.setdefault("alternativeFileFormats", []).append("array_record")
    else:
        info |= {"fileFormat": "array_record", "alternativeFileFormats": []}
        for path in origin.glob("*.json"):
            if path.name != "dataset_info.json":  # Written last: it marks the data set as complete.
                shutil.copy(path, directory)
    write_atomically(directory / "dataset_info.json", json.dumps(info, indent=2))
    return directory

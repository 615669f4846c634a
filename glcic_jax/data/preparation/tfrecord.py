"""Converts a data set that TFDS has prepared as TFRecord to array_record, shard by shard, without TensorFlow."""

import functools
import json
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from glcic_jax.data.preparation import shards
from glcic_jax.data.tfds import prepared_info
from glcic_jax.errors import DataError, one_line
from glcic_jax.progress import Log as Tell
from glcic_jax.progress import Progress
from glcic_jax.progress import format_bytes as in_words


class _Pair(NamedTuple):
    """A TFRecord shard, the name of the array_record shard it becomes, and its number of records."""

    source: Path
    target: str
    records: int


def convert(name: str, version: str, source: Path, root: Path, tell: Tell) -> Path:
    """Converts a TFRecord preparation; the examples go over unchanged, in their order.

    Where the result belongs into the very directory of the source, its shards come to lie beside the TFRecord ones
    and dataset_info.json names array_record as an alternative format: TFDS then reads either.

    Args:
      name: The data set that it has to be, NAME or NAME/CONFIGURATION.
      version: The version that it has to be; empty for any.
      source: The version's directory, with dataset_info.json.
      root: TFDS's data directory for the result.
      tell: Takes lines for the person who waits.

    Returns:
      The directory of the result.

    Raises:
      DataError: The source is damaged, incomplete or no TFRecord; or the disk is full or cannot be written.
    """
    info = _open_source(source)
    if name not in (info.name, f"{info.name}/{info.config_name}") or version not in ("", str(info.version)):
        wanted = f"{name}/{version}" if version else name
        raise DataError(f"{source} holds the data set {info.full_name}, not {wanted}")
    final = root / info.full_name
    beside = final.exists() and final.resolve() == source.resolve()
    if final.exists() and not beside:
        raise DataError(f"{final} is there already: move it away, or leave out --from to convert what it holds")
    pairs = _pairs(source, info)
    work = final if beside else final.with_name(final.name + ".incomplete-glcic")
    size = sum(pair.source.stat().st_size for pair in pairs)
    tell(f"converting {source}: {in_words(size)} of TFRecord, as much again in {final}")
    with shards.locked(work):
        if shards.finished_meanwhile(work, final):
            return final
        plan = {
            "tfrecord": str(source.resolve()),
            "shards": [[*pair[1:], pair.source.stat().st_size] for pair in pairs],
        }
        workspace = shards.Workspace(work, plan)
        unfinished = [pair for pair in pairs if workspace.finished(pair.target) is None]
        left = sum(pair.source.stat().st_size for pair in unfinished)
        tell(f"{in_words(left)} are left to convert, {in_words(shards.free_space(work))} are free")
        shards.require_space(work, shards.space_for(left, sum(pair.records for pair in unfinished)))
        with Progress("converting", size, tell, size - left) as progress:
            for pair in pairs:
                _convert_shard(pair, workspace, progress)
        workspace.finish(final, functools.partial(_describe, source))
    return final


def _open_source(source: Path) -> Any:
    import tensorflow_datasets as tfds

    formats = prepared_info(source).formats
    if formats[0] == "array_record":
        raise DataError(f"{source} is array_record already: leave out --from, and give its root as --data-dir")
    if formats[0] != "tfrecord":
        raise DataError(f"{source} is prepared as {formats[0]}: only TFRecord can be converted")
    try:
        return tfds.builder_from_directory(source).info
    except Exception as error:  # Whatever a damaged JSON file or an unknown feature makes TFDS raise.
        raise DataError(f"{source}: not a readable TFDS data set ({one_line(error)})") from error


def _pairs(source: Path, info: Any) -> list[_Pair]:
    """Shard for shard: both formats share the shard lengths in dataset_info.json."""
    pairs = []
    for split in info.splits.values():
        old = split.filename_template
        new = old.replace(filetype_suffix="array_record")
        count = len(split.shard_lengths)
        names = zip(old.sharded_filenames(count), new.sharded_filenames(count), split.shard_lengths, strict=True)
        pairs += [_Pair(source / before, after, int(records)) for before, after, records in names]
    if not pairs or any(pair.source.name == pair.target for pair in pairs):
        raise DataError(f"{source}: dataset_info.json names no shards that can be converted")
    missing = [pair.source.name for pair in pairs if not pair.source.is_file()]
    if missing:
        raise DataError(f"{source} lacks {len(missing)} of {len(pairs)} shards, first {missing[0]}")
    return pairs


def _convert_shard(pair: _Pair, workspace: shards.Workspace, progress: Progress) -> None:
    if workspace.finished(pair.target) is not None:
        return

    def records() -> Iterator[bytes]:
        count = 0
        for record in read_records(pair.source):
            count += 1
            progress.advance(len(record) + 16)  # Length and checksums.
            yield record
        if count != pair.records:
            raise DataError(f"{pair.source} has {count} records, {pair.records} in dataset_info.json")

    workspace.write(pair.target, records(), pair.source.stat().st_size, pair.records)


def _describe(source: Path, work: Path) -> None:
    info = json.loads((source / "dataset_info.json").read_text())
    if work.resolve() == source.resolve():
        info["alternativeFileFormats"] = [*info.get("alternativeFileFormats", []), "array_record"]
    else:
        info.pop("alternativeFileFormats", None)
        info["fileFormat"] = "array_record"
        for path in source.iterdir():
            shard = ".tfrecord" in path.name or ".array_record" in path.name
            if path.is_file() and not shard and path.name != "dataset_info.json":
                shutil.copyfile(path, work / path.name)
    # The last step beside the source: until then TFDS sees what it saw before.
    shards.write_json(work / "dataset_info.json", info)


_HEAD, _FOOT = struct.Struct("<QI"), struct.Struct("<I")


def masked_crc(content: bytes) -> int:
    """The CRC-32C of some bytes, rotated and shifted as TFRecord has it."""
    try:
        # Written in C: twenty-four gigabytes would take Python alone most of a day.
        import google_crc32c
    except ImportError as error:
        raise DataError("reading TFRecord needs google-crc32c: pip install google-crc32c") from error
    crc = google_crc32c.value(content)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def read_records(path: Path) -> Iterator[bytes]:
    """Yields every record's content.

    Raises:
      DataError: A checksum does not fit, the file ends within a record, or it cannot be read; it names the
        record's offset.
    """
    try:
        yield from _read_records(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({one_line(error)})") from error


def _read_records(path: Path) -> Iterator[bytes]:
    offset = 0
    with path.open("rb", buffering=1 << 20) as file:
        while head := file.read(_HEAD.size):
            if len(head) < _HEAD.size:
                raise DataError(f"{path}: truncated: the record at byte {offset} has no whole head")
            length, crc = _HEAD.unpack(head)
            if masked_crc(head[:8]) != crc:
                what = "is compressed, or no TFRecord file" if offset == 0 else "is damaged there"
                raise DataError(
                    f"{path}: the record at byte {offset} has a wrong length checksum: the file {what}"
                )
            content, foot = file.read(length), file.read(_FOOT.size)
            if len(content) < length or len(foot) < _FOOT.size:
                raise DataError(f"{path}: truncated: the record at byte {offset} is cut off")
            if masked_crc(content) != _FOOT.unpack(foot)[0]:
                raise DataError(f"{path}: damaged: the record at byte {offset} has a wrong checksum")
            yield content
            offset += _HEAD.size + length + _FOOT.size

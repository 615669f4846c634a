"""Writes array_record shards so that an interruption at any moment costs one shard at most."""

import contextlib
import errno
import fcntl
import io
import itertools
import json
import logging
import os
import shutil
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from glcic_jax.data.preparation.recipes import Split
from glcic_jax.data.tfds import prepared_info
from glcic_jax.errors import DataError, one_line
from glcic_jax.progress import Log as Tell
from glcic_jax.progress import Progress
from glcic_jax.progress import format_bytes as in_words

_log = logging.getLogger(__name__)

_NOTES, _LOCK, _PART = "glcic-progress.json", "glcic.lock", ".glcic-part"
MEMORY = "glcic-verified.json"
_OVERHEAD = 128  # Bytes of array_record around a record: some 90 are seen.
_WITHOUT_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP})  # As some network file systems are.


class Shard(NamedTuple):
    """A finished file: its records, the bytes in them, and its size on disk."""

    records: int
    num_bytes: int
    size: int


class Workspace:
    """A directory with the shards of a data set that is being prepared, and notes of those that are finished.

    A shard is written under another name, closed, flushed to the disk, renamed and noted, in this order: what is
    noted is whole, whatever happens.

    Args:
      directory: Where the shards come to lie.
      plan: What they are made from. Shards of another plan are removed.
    """

    def __init__(self, directory: Path, plan: dict[str, Any]):
        self.directory = directory
        self._plan = plan
        self._notes: dict[str, Shard] = {}
        with _writing(directory):
            notes = self._read_notes()
            if notes.get("plan") == plan:
                self._notes = {name: Shard(*shard) for name, shard in notes["shards"].items()}
            else:
                for name in notes.get("shards", {}):
                    (directory / name).unlink(missing_ok=True)
            for stray in directory.glob(f"*{_PART}"):
                stray.unlink()

    def _read_notes(self) -> dict[str, Any]:
        try:
            notes = json.loads((self.directory / _NOTES).read_text())
        except (FileNotFoundError, ValueError):  # Nothing noted is nothing finished.
            return {}
        return notes if isinstance(notes, dict) and isinstance(notes.get("shards"), dict) else {}

    def finished(self, name: str) -> Shard | None:
        """The shard of this name, if it is finished and lies there whole."""
        shard, path = self._notes.get(name), self.directory / name
        return shard if shard is not None and path.exists() and path.stat().st_size == shard.size else None

    def finished_split(self, prefix: str) -> list[Shard] | None:
        """All shards of a split, by what its file names begin with; None while one is missing."""
        noted = next((name for name in self._notes if name.startswith(f"{prefix}-")), None)
        if noted is None:
            return None
        found = [self.finished(name) for name in shard_names(prefix, int(noted.rpartition("-")[2]))]
        return [shard for shard in found if shard is not None] if all(found) else None

    def size_on_disk(self) -> int:
        """Bytes of all finished shards."""
        return sum(shard.size for name, shard in self._notes.items() if self.finished(name))

    def write(self, name: str, records: Iterable[bytes], expected_bytes: int, expected_records: int) -> Shard:
        """Writes one shard, or returns it where an earlier run has written it.

        Args:
          name: The file's name.
          records: What it is to hold; not read where the shard is finished.
          expected_bytes: About how much that is; the disk must have it free.
          expected_records: How many there must be.

        Raises:
          DataError: The disk is full or cannot be written, or there are more or fewer records.
        """
        if (shard := self.finished(name)) is not None:
            return shard
        require_space(self.directory, space_for(expected_bytes, expected_records))
        path = self.directory / name
        part = path.with_name(name + _PART)
        with _writing(part):
            part.unlink(missing_ok=True)
            try:
                count, num_bytes = _write_array_record(part, records)
                if count != expected_records:
                    raise DataError(f"{path}: {count} examples were read, {expected_records} are expected")
            except BaseException:
                part.unlink(missing_ok=True)  # Half a shard is of no use, and fills a full disk.
                raise
            _flush(part)
            shard = Shard(count, num_bytes, part.stat().st_size)
            part.replace(path)
            self._notes[name] = shard
            write_json(self.directory / _NOTES, {"plan": self._plan, "shards": self._notes})
        return shard

    def finish(self, final: Path, describe: Callable[[Path], Any]) -> None:
        """Makes the data set of the finished shards, flushed to the disk before it is seen.

        Args:
          final: Its directory: this one, or where it is to lie.
          describe: Writes TFDS's description into a directory.

        Raises:
          DataError: It cannot be written, or TFDS cannot read it.
        """
        with _writing(final):
            _flush_directory(self.directory)
            describe(self.directory)
            check_readable(self.directory)
            for path in self.directory.iterdir():
                if path.is_file() and path.name not in self._notes:
                    _flush(path)
            _flush_directory(self.directory)
            if self.directory != final:
                self.directory.rename(final)
                _flush_directory(final.parent)
            clear_notes(final)


def shard_names(prefix: str, count: int) -> list[str]:
    """TFDS's file names: PREFIX-00003-of-00016."""
    return [f"{prefix}-{index:05d}-of-{count:05d}" for index in range(count)]


def _write_array_record(path: Path, records: Iterable[bytes]) -> tuple[int, int]:
    from array_record.python import array_record_module

    # One record to a group, as TFDS has it: the reader fetches single images, in any order.
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    count = num_bytes = 0
    try:
        for record in records:
            writer.write(record)
            count += 1
            num_bytes += len(record)
    finally:
        # A full disk shows itself here, if not before.
        writer.close()
    found = _count_records(path)
    if found != count:
        raise OSError(f"{found} of {count} records can be read back")
    return count, num_bytes


def _count_records(path: Path) -> int:
    from array_record.python import array_record_module

    reader = array_record_module.ArrayRecordReader(str(path))
    try:
        return reader.num_records()
    finally:
        reader.close()


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _flush_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        # Some file systems cannot flush a directory.
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:  # array_record tells of a full disk by a RuntimeError.
        way_on = "finished shards are kept, the same command goes on"
        if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            way_on = "choose another directory with --data-dir"
        raise DataError(f"{path}: cannot be written ({one_line(error)}); {way_on}") from error


def write_json(path: Path, content: Any) -> None:
    """Replaces a JSON file: the old one or the new one is there, whole, at any moment."""
    part = path.with_name(path.name + _PART)
    part.write_text(json.dumps(content, indent=2, sort_keys=True))
    _flush(part)
    part.replace(path)


def require_space(directory: Path, size: int) -> None:
    """Raises a DataError where less than `size` is free on the file system of a directory, there or not yet."""
    free = free_space(directory)
    if size > free:
        raise DataError(
            f"{directory}: {in_words(size)} are needed and {in_words(free)} are free: make room, or choose a "
            "larger disk with --data-dir; the same command goes on"
        )


def space_for(num_bytes: int, records: int) -> int:
    """Bytes on the disk that records of array_record take."""
    return num_bytes + records * _OVERHEAD


def free_space(directory: Path) -> int:
    """Free bytes on the file system of a directory, which need not exist yet."""
    return shutil.disk_usage(_existing(directory)).free


def on_one_disk(*directories: Path) -> bool:
    """Whether directories, there or not yet, share a file system."""
    return len({_existing(directory).stat().st_dev for directory in directories}) == 1


def _existing(directory: Path) -> Path:
    return next(path for path in (directory, *directory.absolute().parents) if path.exists())


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Makes a directory and keeps a second process out of it; the kernel lifts the lock however this one ends.

    Raises:
      DataError: Another process is at work there, or it cannot be written.
    """
    with _writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
        file = (directory / _LOCK).open("a")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(f"{directory}: another glcic data prepare is at work there") from error
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                raise DataError(f"{directory}: cannot be locked ({one_line(error)})") from error
            _log.warning("%s is on a disk without locks: start no second glcic data prepare for it", directory)
        yield


def finished_meanwhile(work: Path, final: Path) -> bool:
    """Whether another process finished the data set before this one had the lock; removes what is left here."""
    finished = final.exists() and "array_record" in prepared_info(final).formats
    if finished:
        clear_notes(final)
        if work != final:
            shutil.rmtree(work, ignore_errors=True)
    return finished


def clear_notes(directory: Path) -> None:
    """Removes from a finished directory what only its making needed; a read-only one keeps it."""
    with contextlib.suppress(OSError):
        for name in (_NOTES, _LOCK, MEMORY):
            (directory / name).unlink(missing_ok=True)


def check_complete(directory: Path) -> None:
    """Looks whether every shard of a prepared directory is there and has its number of records.

    Raises:
      DataError: One is missing, cut short or has another number.
    """
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(directory)
    except Exception as error:  # Whatever a damaged JSON file makes TFDS raise.
        raise DataError(f"{directory}: not a readable TFDS data set ({one_line(error)}): move it away") from error
    for split, info in builder.info.splits.items():
        names = shard_names(f"{builder.name}-{split}.array_record", info.num_shards)
        for name, expected in zip(names, info.shard_lengths, strict=True):
            try:
                count = _count_records(directory / name) if (directory / name).is_file() else 0
            except (OSError, RuntimeError, ValueError):  # What array_record makes of a file that is none.
                count = 0
            if count != expected:
                raise DataError(
                    f"{directory / name} is missing or damaged ({count:,} of {expected:,} records): move "
                    f"{directory} away, and the same command prepares it anew"
                )


def check_readable(directory: Path) -> None:
    """Opens a prepared directory as TFDS does and reads the first and last example of each split.

    Raises:
      DataError: TFDS cannot.
    """
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(directory)
        for split in builder.info.splits:
            # An image that cannot be decoded is what the data set holds: training passes it over and notes it.
            examples = builder.as_data_source(split, deserialize_method="deserialize_no_decode")
            for place in (0, len(examples) - 1):
                examples[place]
    except Exception as error:  # TFDS, protobuf and array_record raise many types.
        raise DataError(f"{directory}: TFDS cannot read what was written ({one_line(error)})") from error


_SAMPLED = 16  # Examples that tell how much the features beside the image take.

Serialise = Callable[[bytes, dict[str, Any]], bytes]


def write_split(
    name: str, list_examples: Callable[[], Split], workspace: Workspace, builder: Any, tell: Tell
) -> list[Shard]:
    """Writes the shards of a split that are not finished yet.

    TFDS sorts examples by a hash of their keys, through temporary files as large as the data set. The archives'
    tables of contents give the same order beforehand: each shard then fetches its images where they lie, in the
    order in which they lie, and no second copy is written. Each shard is one sparse pass over the whole archive.
    In memory are one shard, 64 to 128 MiB as a rule, and the tables of contents with what is said of each image:
    half a GiB for the 1.8 million of Places365.

    Args:
      name: The split's name.
      list_examples: Lists its examples; not called where all shards are finished.
      workspace: Where they are written.
      builder: TFDS's builder of the data set.
      tell: Takes lines for the person who waits.

    Raises:
      DataError: The archives hold no such split or a damaged one, or the disk is full or cannot be written.
    """
    prefix = f"{builder.name}-{name}.array_record"
    if (finished := workspace.finished_split(prefix)) is not None:
        return finished
    tell(f"{name}: reading the archive's table of contents")
    split = list_examples()
    with contextlib.closing(split.members):
        return _write_shards(name, prefix, split, workspace, builder, tell)


def _write_shards(
    name: str, prefix: str, split: Split, workspace: Workspace, builder: Any, tell: Tell
) -> list[Shard]:
    from tensorflow_datasets.core.utils import shard_utils

    count = len(split.keys)
    if count == 0:
        raise DataError(f"the archives hold no image of the split {name}: their layout is not the expected one")
    serialise = _serialiser(builder)
    order = _tfds_order(split.keys, name)
    overhead = _overhead(split, order, serialise)
    total = sum(split.members.sizes[row] for row in split.rows) + round(overhead * count)
    shards = shard_utils.ShardConfig().get_number_shards(total, count)
    ends = shard_utils.get_shard_boundaries(count, shards)
    written = []
    with Progress(f"writing {name}", total, tell) as progress:
        for shard_name, start, end in zip(shard_names(prefix, shards), [0, *ends], ends, strict=False):
            places = order[start:end]
            size = sum(split.members.sizes[split.rows[place]] for place in places) + round(overhead * len(places))
            written.append(workspace.write(shard_name, _records(split, places, serialise), size, len(places)))
            progress.advance(size)
    return written


def _tfds_order(keys: Sequence[str], split: str) -> Sequence[int]:
    """The places of the examples in the order of TFDS: by the hash of their keys, salted with the split's name."""
    from tensorflow_datasets.core.hashing import Hasher

    hasher = Hasher(split)
    hashes = [hasher.hash_key(key) for key in keys]
    order = array("q", sorted(range(len(keys)), key=hashes.__getitem__))
    for one, other in itertools.pairwise(order):
        if hashes[one] == hashes[other]:
            raise DataError(f"the archive has two images for the example {keys[one]} of the split {split}")
    return order


def _records(split: Split, places: Sequence[int], serialise: Serialise) -> Iterator[bytes]:
    images = {}
    for place in sorted(places, key=lambda place: split.members.offsets[split.rows[place]]):
        images[place] = split.members.read(split.rows[place])
    for place in places:
        yield serialise(images.pop(place), split.describe(split.keys[place]))


def _overhead(split: Split, order: Sequence[int], serialise: Serialise) -> float:
    """Mean bytes of a serialised example beside its image."""
    sampled = order[:: max(1, len(order) // _SAMPLED)][:_SAMPLED]
    rows = [split.rows[place] for place in sampled]
    images = [split.members.read(row) for row in rows]
    records = [
        serialise(image, split.describe(split.keys[place])) for image, place in zip(images, sampled, strict=True)
    ]
    return (sum(map(len, records)) - sum(map(len, images))) / len(sampled)


def _serialiser(builder: Any) -> Serialise:
    from tensorflow_datasets.core.example_serializer import ExampleSerializer

    features = builder.info.features
    serializer = ExampleSerializer(features.get_serialized_info())

    def serialise(image: bytes, described: dict[str, Any]) -> bytes:
        try:
            # The image stays encoded as it came.
            encoded = features.encode_example({"image": io.BytesIO(image), **described})
            # Otherwise features come in another order in each process, and a resumed result would differ.
            return serializer.get_tf_example(encoded).SerializeToString(deterministic=True)
        except Exception as error:  # TFDS's feature connectors raise many types.
            raise DataError(
                f"an example does not fit the features of {builder.name} ({one_line(error)})"
            ) from error

    return serialise

"""What an evaluation has measured so far, on disk, so that the same command goes on where it was stopped."""

import contextlib
import fcntl
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from glcic_jax.errors import DataError, one_line

Record = dict[str, Any]
_ROWS_AT_A_TIME = 4_096


class Journal:
    """One line an image: JSON, appended as images are measured.

    Args:
      path: Of the file; None: nothing is kept.
      identity: What the numbers depend on, by headings; a journal of others is refused.
      restart: Whether what the file holds is forgotten.

    Attributes:
      records: What was measured, in the order of the file.

    Raises:
      DataError: The file is of another evaluation or in use, cannot be read, or cannot be written.
    """

    def __init__(self, path: Path | None, identity: Mapping[str, Any], restart: bool = False):
        self.records: list[Record] = []
        self._path = path
        self._file: Any = contextlib.nullcontext()
        if path is None:
            return
        with _worded(path), contextlib.ExitStack() as opened:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = opened.enter_context(path.open("ab"))
            self._begin(path, identity, restart)
            opened.pop_all()

    def _begin(self, path: Path, identity: Mapping[str, Any], restart: bool) -> None:
        _lock(self._file, path)
        content = b"" if restart else path.read_bytes()
        # What a stopped process was writing has no end, and is measured again.
        content = content[: content.rfind(b"\n") + 1]
        head, *lines = content.splitlines() or [b""]
        if head and lines:
            _compare(path, json.loads(head), json.loads(json.dumps(identity)))
        else:
            content = head = b""  # Nothing was measured yet.
        # What could not be read may have been mended since, and is tried again.
        self.records = [record for record in map(_record, lines) if "skipped" not in record]
        if len(self.done) < len(self.records):
            raise ValueError("an image stands in it twice")
        self._file.truncate(len(content))
        if not head:
            self._write([dict(identity)])

    @property
    def done(self) -> set[int]:
        """The indices of the images that need not be looked at again."""
        return {record["index"] for record in self.records}

    def add(self, records: Sequence[Record]) -> None:
        """Appends records, each with an `index`.

        Raises:
          DataError: The file cannot be written.
        """
        if self._path is not None:
            with _worded(self._path):
                self._write(records)
        self.records += records

    def _write(self, lines: Sequence[Record]) -> None:
        self._file.write("".join(f"{json.dumps(line)}\n" for line in lines).encode())
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        with self._file:
            pass


def _flattened(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings by headings joined by colons."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        inner = _flattened(value) if isinstance(value, dict) else {"": value}
        flat |= {f"{key}: {name}" if name else key: one for name, one in inner.items()}
    return flat


def _record(line: bytes) -> Record:
    record = json.loads(line)
    if not isinstance(record, dict) or type(record.get("index")) is not int:
        raise ValueError("a line is of no image")
    return record


def _lock(file: Any, path: Path) -> None:
    """Keeps a second process out, until this one ends."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise DataError(f"{path}: another process is evaluating into it: name another --report") from error


class Rows:
    """Rows of float32 numbers on disk, of one length, appended.

    Args:
      path: Of the file.
      count: How many of its rows count; those behind, of images that were not noted down, are cut off.

    Raises:
      DataError: The file cannot be read or written, or holds fewer.
    """

    def __init__(self, path: Path, count: int, width: int):
        self._path, self._width = path, width
        with _worded(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                if file.tell() < count * width * 4:
                    raise DataError(f"{path}: some of it is missing; give --restart")
                file.truncate(count * width * 4)

    def add(self, rows: np.ndarray) -> None:
        """Appends [N, D]."""
        with _worded(self._path), self._path.open("ab") as file:
            file.write(np.ascontiguousarray(rows, "<f4").tobytes())

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yields [n, D] float32, some thousand rows at a time."""
        with self._path.open("rb") as file:
            while chunk := file.read(_ROWS_AT_A_TIME * self._width * 4):
                yield np.frombuffer(chunk, "<f4").reshape(-1, self._width)


def _compare(path: Path, old: Any, new: Mapping[str, Any]) -> None:
    old, new = (
        _flattened(one) if isinstance(one, dict) else {"the first line": "says nothing"} for one in (old, new)
    )
    changed = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    if changed:
        told = "; ".join(f"{key}: {old.get(key, 'none')} -> {new.get(key, 'none')}" for key in changed[:3])
        raise DataError(f"{path}: is of another evaluation ({told}): name another --report, or give --restart")


@contextlib.contextmanager
def _worded(path: Path) -> Iterator[None]:
    """Says in words what the operating system, or a damaged file, makes raise."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; the same command goes on when this is mended") from error
    except ValueError as error:
        raise DataError(f"{path}: is damaged ({one_line(error)}): give --restart") from error

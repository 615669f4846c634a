"""Files with their sha256 beside them, NAME.sha256 as the tool sha256sum writes it; one writer at a time.

A file and its checksum have two names and cannot be replaced in one move. So the checksum comes first, with the
old one kept beside the new one until the file has followed: whenever the writer is killed, one of them fits.
"""

import contextlib
import fcntl
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from glcic_jax.errors import DataError, one_line, printable
from glcic_jax.files import write_atomically

_LOCK = ".lock"
_BLOCK = 1 << 20


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal digits.

    Raises:
      DataError: It cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError as error:
        raise DataError(f"{printable(str(path))}: cannot be read ({printable(one_line(error))})") from error
    return digest.hexdigest()


def write_checked(path: Path, write: Callable[[Path], None]) -> None:
    """Writes a file and its checksum; what stood there is replaced. To be called inside `locked_to_write`.

    Args:
      path: Where the file comes to lie.
      write: Writes it under the path that it is given.

    Raises:
      DataError: It cannot be written.
    """
    before = _checksums(path) if path.exists() else []
    fresh = path.with_name(f".new-{path.name}")
    try:
        write(fresh)
        after = file_sha256(fresh)
        _write_checksums(path, [*before, after])
        os.replace(fresh, path)
    except OSError as error:
        raise DataError(f"{printable(str(path))}: cannot be written ({one_line(error)})") from error
    finally:
        with contextlib.suppress(OSError):  # Renamed, or never made.
            fresh.unlink()
    _write_checksums(path, [after])


def verify(path: Path) -> None:
    """Compares a file with the checksum beside it.

    Raises:
      DataError: They differ, or one of them is not there.
    """
    found, expected = file_sha256(path), _checksums(path)
    if found not in expected:
        reason = "its sha256 is wrong" if expected else f"{_beside(path).name} beside it holds no sha256"
        raise DataError(f"{printable(str(path))}: damaged ({reason})")


@contextlib.contextmanager
def locked_to_write(directory: Path) -> Iterator[None]:
    """Makes a directory, waits for those who write or read there, and keeps others out.

    Raises:
      DataError: It cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise DataError(f"{printable(str(directory))}: cannot be written ({one_line(error)})") from error
    with _locked(handle, fcntl.LOCK_EX):
        yield


@contextlib.contextmanager
def locked_to_read(directory: Path) -> Iterator[None]:
    """Waits until nobody writes in a directory. One where nobody ever wrote, or may write, is read as it is."""
    try:
        handle = os.open(directory / _LOCK, os.O_RDONLY)
    except OSError:
        yield
        return
    with _locked(handle, fcntl.LOCK_SH):
        yield


@contextlib.contextmanager
def _locked(handle: int, kind: int) -> Iterator[None]:
    try:
        # Some file systems have no locks. Files are whole there too; of two writers at once the later one stays.
        with contextlib.suppress(OSError):
            fcntl.flock(handle, kind)
        yield
    finally:
        os.close(handle)


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _write_checksums(path: Path, checksums: list[str]) -> None:
    write_atomically(_beside(path), "".join(f"{checksum}  {path.name}\n" for checksum in checksums))


def _checksums(path: Path) -> list[str]:
    """What the file may have: one sha256, or the old and the new one where replacing it was cut short."""
    try:
        text = _beside(path).read_text(errors="replace")
    except OSError:
        return []
    return re.findall(r"^([0-9a-f]{64}) [ *]", text, flags=re.MULTILINE)

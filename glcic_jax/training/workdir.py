"""The directory of a run: made, checked, and locked against a second process."""

import contextlib
import errno
import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from glcic_jax.errors import DataError, one_line

_LOCK = ".lock"
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Makes a run's directory and holds it for this process alone.

    The lock is the operating system's: it ends with the process, however that ends.

    Raises:
      DataError: It cannot be written, or another process holds it.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        handle = os.open(workdir / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise DataError(
            f"the workdir {workdir} cannot be written ({one_line(error)}): name another --workdir"
        ) from error
    try:
        _lock(handle, workdir)
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        os.fsync(handle)  # For those who look from other hosts.
        yield
    finally:
        os.close(handle)


def holder(workdir: Path) -> str | None:
    """Who holds a run's directory, or held it last; None where nobody ever did."""
    try:
        return (workdir / _LOCK).read_text(errors="replace")
    except OSError:
        return None


def run_at(reference: str | Path) -> tuple[Path, int | None] | None:
    """The run that a path lies in.

    Args:
      reference: A workdir, its folder `checkpoints`, or one checkpoint in it.

    Returns:
      The workdir and, where one checkpoint is named, its step; None where it is no run's.
    """
    path = Path(reference).expanduser()
    whole = Path(os.path.abspath(path))  # "." too has a name then.
    if not whole.is_dir():
        return None
    if whole.parent.name == "checkpoints" and whole.name.isascii() and whole.name.isdecimal():
        return _above(path, 2), int(whole.name)
    if whole.name == "checkpoints":
        return _above(path, 1), None
    return (path, None) if (whole / "checkpoints").is_dir() else None


def _lock(handle: int, workdir: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        other = os.pread(handle, 200, 0).decode(errors="replace") or "another process"
        raise DataError(
            f"{workdir} is in use by {other}: wait until it has ended, or name another --workdir"
        ) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise DataError(f"the workdir {workdir} cannot be locked ({one_line(error)})") from error
        _log.warning("%s is on a file system without locks: see that no second process trains there", workdir)


def _above(path: Path, levels: int) -> Path:
    """A directory above a path, relative where the path's own words reach that far."""
    if len(path.parts) > levels and ".." not in path.parts:
        return path.parents[levels - 1]
    return Path(os.path.abspath(path)).parents[levels - 1]

"""The directory of a run: made, checked, and locked against a second process."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from glcic_jax.errors import DataError, one_line

_LOCK = ".lock"


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
        yield
    finally:
        os.close(handle)


def _lock(handle: int, workdir: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(handle, 200, 0).decode(errors="replace") or "another process"
        raise DataError(
            f"{workdir} is in use by {holder}: wait until it has ended, or name another --workdir"
        ) from error
    except OSError as error:
        raise DataError(
            f"the workdir {workdir} cannot be locked ({one_line(error)}): name one on another file system"
        ) from error

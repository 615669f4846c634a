"""The directory of a run: created, and locked against a second process."""

import contextlib
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

from glcic_jax.errors import ConfigError, DataError, one_line, printable
from glcic_jax.files import expand_home, lock

_LOCK = ".lock"


def usable_workdir(workdir: Path) -> Path:
    """Returns a workdir with the home directory in place of a leading ~.

    Raises:
      ConfigError: It is an address, or its name is not UTF-8, which Orbax cannot write.
      DataError: There is no home directory.
    """
    name = str(workdir)
    if re.match("[a-z][a-z0-9+.-]*:/", name):  # A `Path` has one slash.
        scheme, _, rest = name.partition(":/")
        raise ConfigError(
            f"--workdir={scheme}://{rest}: is an address, and a run needs a directory, for its lock and its logs: "
            "give a path, for example where the bucket is mounted"
        )
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"--workdir={printable(name)}: is not UTF-8, which checkpoints need: give another name"
        ) from error
    return expand_home(workdir)


@contextlib.contextmanager
def lock_workdir(workdir: Path) -> Iterator[None]:
    """Creates a run's directory and locks it for this process; the lock ends with the process at the latest.

    Raises:
      DataError: The directory cannot be written, or another process holds the lock.
    """
    with contextlib.ExitStack() as stack:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            descriptor = stack.enter_context(lock(workdir / _LOCK, wait=False))
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
            os.fsync(descriptor)  # For processes on other hosts.
        except BlockingIOError as error:
            raise DataError(
                f"{workdir} is in use by {lock_holder(workdir) or 'another process'}: wait until it has ended, or "
                "give another --workdir"
            ) from error
        except OSError as error:
            raise DataError(
                f"the workdir {workdir} cannot be written or locked ({one_line(error)}): give another --workdir"
            ) from error
        yield


def lock_holder(workdir: Path) -> str | None:
    """Returns the process that holds a run's lock or held it last; None if there was none."""
    try:
        return (workdir / _LOCK).read_text(errors="replace")
    except OSError:
        return None


def run_at(reference: str | Path) -> tuple[Path, int | None] | None:
    """Finds the run that a path belongs to.

    Args:
      reference: A workdir, its folder `checkpoints`, or one checkpoint.

    Returns:
      The workdir and, if the path is one checkpoint, its step; None if the path belongs to no run.
    """
    path = expand_home(reference)
    absolute = Path(os.path.abspath(path))  # Gives "." a name too.
    if not absolute.is_dir():
        return None
    if absolute.parent.name == "checkpoints" and absolute.name.isascii() and absolute.name.isdecimal():
        return _ancestor(path, 2), int(absolute.name)
    if absolute.name == "checkpoints":
        return _ancestor(path, 1), None
    return (path, None) if (absolute / "checkpoints").is_dir() else None


def _ancestor(path: Path, levels: int) -> Path:
    """Returns a directory above a path, as a relative path where possible."""
    if len(path.parts) > levels and ".." not in path.parts:
        return path.parents[levels - 1]
    return Path(os.path.abspath(path)).parents[levels - 1]

"""Home directories, atomic writes, file locks, checksums."""

import contextlib
import errno
import fcntl
import hashlib
import importlib.util
import logging
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from glcic_jax.errors import DataError, one_line, printable

_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)

_log = logging.getLogger(__name__)


def expand_home(path: str | Path) -> Path:
    """Returns a path with the home directory in place of a leading ~.

    Raises:
      DataError: The user has no home directory.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise DataError(f"{printable(str(path))}: there is no such home directory: set HOME, or omit ~") from error


def write_atomically(path: str | Path, content: str | bytes) -> None:
    """Writes a temporary file, renames it to the path, and creates missing parent directories.

    Args:
      path: The file. An existing one is replaced, and its permissions are kept; a symbolic link stays, and its
        target is replaced.
      content: Text is written as UTF-8.

    Raises:
      DataError: It cannot be written; an existing file is intact.
    """
    data = content.encode() if isinstance(content, str) else content
    name = printable(str(path))
    temporary = None
    try:
        path = Path(os.path.realpath(path))
        check_writable(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".glcic-{secrets.token_hex(8)}")
        # Unlike `tempfile`, with the permissions that the umask allows.
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
            file.write(data)
        if path.is_file():
            shutil.copymode(path, temporary)
        os.replace(temporary, path)
    except (OSError, ValueError) as error:  # ValueError: the name has a null byte.
        raise DataError(f"{name}: cannot be written ({printable(_reason(error))})") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):  # It was renamed, or never created.
                temporary.unlink()


def check_writable(path: Path) -> None:
    """Checks before long work that its result can be written.

    Raises:
      DataError: The path is a directory, a device, a pipe or too long, or its directory cannot be written to.
    """
    name = printable(str(path))
    try:
        if path.is_dir():
            raise DataError(f"{name}: is a directory: name a file in it")
        if path.exists() and not path.is_file():
            raise DataError(f"{name}: is a device, a pipe or the like, and is not replaced: name another file")
        directory = next(parent for parent in path.absolute().parents if parent.exists())
    except (OSError, ValueError) as error:
        raise DataError(f"{name}: cannot be written ({printable(_reason(error))})") from error
    if not (directory.is_dir() and os.access(directory, os.W_OK | os.X_OK)):
        kind = "cannot be written" if directory.is_dir() else "is not a directory"
        raise DataError(f"{name}: cannot be written ({printable(str(directory))} {kind})")


@contextlib.contextmanager
def lock(path: Path, *, shared: bool = False, wait: bool = True) -> Iterator[int]:
    """Holds an advisory lock on a file, which is created if missing, until the block or the process ends.

    On a file system without locks it logs a warning, and the block runs unlocked.

    Args:
      path: The lock file; its directory exists.
      shared: Whether other shared holders are allowed; the file must exist.
      wait: Whether to wait for another holder.

    Yields:
      The file descriptor.

    Raises:
      BlockingIOError: Another process holds it, and `wait` is False.
      OSError: The file cannot be opened or locked.
    """
    descriptor = os.open(path, os.O_RDONLY if shared else os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            _log.warning("%s is on a file system without locks: let no second process write there", path.parent)
        yield descriptor
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file in hexadecimal digits.

    Raises:
      DataError: The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{printable(str(path))}: cannot be read ({printable(_reason(error))})") from error


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or one_line(error)


def example_photographs() -> Path:
    """Returns the folder of scikit-image's photographs, without importing it, which takes a second."""
    spec = importlib.util.find_spec("skimage")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "data"

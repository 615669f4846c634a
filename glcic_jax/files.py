"""Writing files so that none is ever there half."""

import contextlib
import os
import secrets
import shutil
from pathlib import Path

from glcic_jax.errors import DataError, one_line, printable


def write_aside(path: str | Path, content: str | bytes) -> None:
    """Writes a file beside its name first, and renames it; makes the directories above it.

    Args:
      path: Its name; a file of that name is replaced, with its permissions kept. Of a link, what it points to is.
      content: Text is written as UTF-8.

    Raises:
      DataError: It cannot be written; what stood there before is intact.
    """
    data = content.encode() if isinstance(content, str) else content
    name = printable(str(path))
    aside = None
    try:
        path = Path(os.path.realpath(path))
        check_writable(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".glcic-{secrets.token_hex(8)}")
        # Not tempfile's: it lets nobody but the owner read, whatever the umask says.
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
            file.write(data)
        if path.is_file():
            shutil.copymode(path, aside)
        os.replace(aside, path)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name.
        raise DataError(f"{name}: cannot be written ({printable(_reason(error))})") from error
    finally:
        if aside is not None:
            with contextlib.suppress(OSError):  # Renamed, or never made.
                aside.unlink()


def check_writable(path: Path) -> None:
    """Asks before the work whether its result can be written.

    Raises:
      DataError: The name is a directory's, a device's or the like, too long, or its directory cannot be written.
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


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or one_line(error)

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
      path: Its name; a file of that name is replaced, with its permissions kept.
      content: Text is written as UTF-8.

    Raises:
      DataError: It cannot be written; what stood there before is intact.
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    aside = path.with_name(f".glcic-{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not tempfile's: it lets nobody but the owner read, whatever the umask says.
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
            file.write(data)
        if path.is_file():
            shutil.copymode(path, aside)
        os.replace(aside, path)
    except OSError as error:
        raise DataError(f"{printable(str(path))}: cannot be written ({printable(one_line(error))})") from error
    finally:
        with contextlib.suppress(OSError):  # Renamed, or never made.
            aside.unlink()

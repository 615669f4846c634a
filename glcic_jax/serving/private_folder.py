"""A folder for what a page's visitors send: nobody else's, emptied while it is used and gone afterwards."""

import contextlib
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

# A new folder is empty for a moment.
_SECONDS_TO_FILL = 60.0


class PrivateFolder:
    """A new folder that only this user can open.

    Args:
      max_bytes: What is in it is deleted, the oldest first, beyond so many.
      seconds: What is in it is deleted after so long.
    """

    def __init__(self, max_bytes: int, seconds: float):
        self.path = Path(tempfile.mkdtemp(prefix="glcic-serve-")).resolve()
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._pruning = threading.Lock()

    def prune(self) -> None:
        """Deletes what is too old or too much."""
        with self._pruning:
            oldest = time.time() - self._seconds
            kept = 0
            for modified, size, path in sorted(self._files(), reverse=True):
                if modified < oldest or kept + size > self._max_bytes:
                    path.unlink(missing_ok=True)
                else:
                    kept += size
            for directory in self.path.iterdir():
                with contextlib.suppress(OSError):  # A file, or a folder that is not empty, or gone.
                    if directory.stat().st_mtime < time.time() - _SECONDS_TO_FILL:
                        directory.rmdir()

    def remove(self) -> None:
        """Deletes the folder."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _files(self) -> list[tuple[float, int, Path]]:
        found = []
        for directory, _, names in os.walk(self.path):
            for name in names:
                path = Path(directory, name)
                with contextlib.suppress(FileNotFoundError):  # Whoever made it has deleted it.
                    status = path.stat()
                    found.append((status.st_mtime, status.st_size, path))
        return found

"""Training images that could not be read: counted, listed in skipped.txt, bounded."""

import logging
import math
import re
import shlex
import threading
from pathlib import Path

from glcic_jax.errors import DataError, one_line, printable

_log = logging.getLogger(__name__)


class SkippedFiles:
    """Names every image that cannot be read once, in the log and in a file, and counts them.

    Args:
      path: The file, one line an image; None: none.
      available: Number of images, training and validation.
      most: Fraction of them beyond which an error ends the run. Of several processes each counts only what it has
        met itself, and stops by this limit alone.
      directory: Where the images lie, for the error; None where nothing there can be checked.

    Raises:
      DataError: The file is there and cannot be read.
    """

    def __init__(self, path: Path | None, available: int, most: float, directory: Path | None = None):
        self._path = path
        self._available = available
        self._most = most
        self._directory = directory
        # A run that goes on has named some already, each as "NAME: reason"; both may hold a colon.
        lines: list[str] = []
        try:
            if path is not None and path.is_file():
                lines = path.read_text("utf-8", errors="replace").split("\n")[:-1]
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({one_line(error)}): move it away") from error
        self._count = len(lines)
        self._told = {line[: colon.start()] for line in lines for colon in re.finditer(": ", line)}
        # What an earlier run has named may have been mended since: it counts when it is met again.
        self._met: set[str] = set()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._count

    def add(self, name: str, error: Exception) -> None:
        """Notes that an image was skipped, and why; safe to call from several threads.

        Args:
          name: The image's; it counts once, whatever is wrong with it each time.
          error: Says why; may begin with the name.

        Raises:
          DataError: More than the allowed fraction of all images has been skipped, or the file cannot be
            written.
        """
        name = printable(name)
        line = f"{name}: {printable(str(error)).removeprefix(f'{name}: ')}"
        with self._lock:
            self._met.add(name)
            count = len(self._met)
            if name not in self._told:
                self._write(line)
                self._told.add(name)
                self._count += 1
        if count > self._most * self._available:
            raise DataError(self._too_many(count, line))

    def _write(self, line: str) -> None:
        _log.warning("skipped: %s", line)
        try:
            if self._path is not None:
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(f"{line}\n")
        except OSError as error:
            raise DataError(
                f"{self._path}: cannot be written ({one_line(error)}), and is to name an image that was skipped: "
                f"{line}"
            ) from error

    def _too_many(self, count: int, last: str) -> str:
        named = f"; {self._path} names these" if self._path else ""
        check = ""
        if self._directory is not None:
            check = f"; `glcic data check {shlex.quote(str(self._directory))}` names all there are"
        enough = self._enough(count)
        without = (
            f", or train without them: --config.data.max_skipped_fraction={enough} is enough for these"
            if enough < 1
            else ""
        )
        return (
            f"{count} of {self._available} images cannot be read, more than data.max_skipped_fraction = "
            f"{self._most} allows{named}{check}. Remove or replace them{without}. The last: {last}"
        )

    def _enough(self, count: int) -> float:
        """The smallest fraction of two digits that allows `count` images."""
        fraction = count / self._available
        digits = 1 - math.floor(math.log10(fraction))
        return round(math.ceil(fraction * 10**digits - 1e-9) / 10**digits, digits)

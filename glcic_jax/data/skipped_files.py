"""Images that training cannot read: counted, named once in the log and in skipped.txt, limited in number."""

import logging
import math
import re
import shlex
import threading
from pathlib import Path

from glcic_jax.errors import DataError, one_line, printable

_log = logging.getLogger(__name__)


class SkippedFiles:
    """Counts unreadable images, and writes each to the log and to a file once; safe to use from several threads.

    Args:
      path: The file, one line per image; None: no file. The lines of an earlier run of the same workdir stay.
      available: Number of training and validation images.
      max_fraction: Fraction of them that may be skipped. Each process counts only the images that it reads.
      directory: Argument of `glcic data check` in the error; None if there is none.

    Raises:
      DataError: An existing file cannot be read.
    """

    def __init__(self, path: Path | None, available: int, max_fraction: float, directory: Path | None = None):
        self._path, self._available, self._max_fraction, self._directory = path, available, max_fraction, directory
        lines: list[str] = []
        try:
            if path is not None and path.is_file():
                lines = path.read_text("utf-8", errors="replace").split("\n")[:-1]
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({one_line(error)}): move it away") from error
        self._count = len(lines)
        # "NAME: REASON", where both may hold a colon.
        self._named = {line[: colon.start()] for line in lines for colon in re.finditer(": ", line)}
        self._met: set[str] = set()  # In this run: files that an earlier run named may have been repaired.
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._count

    def add(self, name: str, error: Exception) -> None:
        """Notes a skipped image.

        Args:
          name: The name of the image, which counts once, whatever the error.
          error: The reason; its text may begin with the name.

        Raises:
          DataError: Too many images have been skipped, or the file cannot be written.
        """
        name = printable(name)
        line = f"{name}: {printable(str(error)).removeprefix(f'{name}: ')}"
        with self._lock:
            self._met.add(name)
            count = len(self._met)
            if name not in self._named:
                _log.warning("skipped: %s", line)
                self._append(line)
                self._named.add(name)
                self._count += 1
        if count > self._max_fraction * self._available:
            listed = f"; {self._path} lists them" if self._path else ""
            check = (
                f"; `glcic data check {shlex.quote(str(self._directory))}` lists all" if self._directory else ""
            )
            enough = math.ceil(1000 * count / self._available) / 1000
            option = f", or train without them: --config.data.max_skipped_fraction={enough} is enough for these"
            remedy = f"Remove or replace them{option if enough < 1 else ''}"
            raise DataError(
                f"{count} of {self._available} images cannot be read, more than data.max_skipped_fraction = "
                f"{self._max_fraction} allows{listed}{check}. {remedy}. The last: {line}"
            )

    def _append(self, line: str) -> None:
        if self._path is None:
            return
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")
        except OSError as error:
            raise DataError(f"{self._path}: cannot be written ({one_line(error)}), to name {line}") from error

"""Progress of long work: a bar on a terminal, otherwise a line every half minute."""

import sys
import time
from collections.abc import Callable
from types import TracebackType

from tqdm import tqdm

Log = Callable[[str], None]  # Receives lines for the user.
_SECONDS_BETWEEN_LINES = 30.0


def format_bytes(size: float) -> str:
    """Returns a number of bytes with a binary unit: 1536 is "1.5 KiB"."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


class Progress:
    """Counts items and shows how many are done.

    Args:
      what: The work, at the beginning of the bar or line.
      total: Number of items.
      log: Receives the lines if standard error is not a terminal.
      unit: Name of the items.
    """

    def __init__(self, what: str, total: int, log: Log, unit: str):
        self._what, self._total, self._log, self._unit = what, total, log, unit
        self._done = 0
        self._logged = time.monotonic()
        self._bar: tqdm | None = None
        if sys.stderr.isatty():
            self._bar = tqdm(total=total, desc=what, leave=False, unit=f" {unit}")

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()

    def log(self, line: str) -> None:
        """Logs a line; a bar stays below it."""
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)
        else:
            self._log(line)

    def advance(self, amount: int = 1) -> None:
        """Adds to the number of items done."""
        self._done += amount
        if self._bar is not None:
            self._bar.update(amount)
        elif time.monotonic() - self._logged > _SECONDS_BETWEEN_LINES:
            self._logged = time.monotonic()
            self._log(f"{self._what}: {self._done:,} of {self._total:,} {self._unit}")

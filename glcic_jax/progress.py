"""How far a long transfer of bytes has come: a bar on a terminal, otherwise a line now and then."""

import sys
import time
from collections.abc import Callable
from types import TracebackType

from tqdm import tqdm

Tell = Callable[[str], None]
_SECONDS_BETWEEN_LINES = 30.0


def in_words(size: float) -> str:
    """A number of bytes with a binary unit: 1536 is "1.5 KiB"."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


class Progress:
    """Counts bytes, and shows them.

    Args:
      what: What is being done, at the head of the bar or line.
      total: All bytes.
      tell: Takes a line where standard error is no terminal.
      done: Bytes that an earlier run has done.
    """

    def __init__(self, what: str, total: int, tell: Tell, done: int = 0):
        self._what, self._total, self._tell, self._done = what, total, tell, done
        self._told = time.monotonic()
        self._bar: tqdm | None = None
        if sys.stderr.isatty():
            self._bar = tqdm(
                total=total, initial=done, desc=what, unit="B", unit_scale=True, unit_divisor=1024, leave=False
            )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, amount: int) -> None:
        """Notes that `amount` more bytes are done; negative where some have to be done again."""
        self._done += amount
        if self._bar is not None:
            self._bar.update(amount)
        elif time.monotonic() - self._told > _SECONDS_BETWEEN_LINES:
            self._told = time.monotonic()
            self._tell(f"{self._what}: {in_words(self._done)} of {in_words(self._total)}")

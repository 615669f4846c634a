"""What decoders say past Python."""

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def decoders_silenced() -> Iterator[None]:
    """Keeps what libtiff and its like print by themselves away from the terminal; the errors raised say it better.

    The whole process's standard error is elsewhere meanwhile, so this is for commands alone.
    """
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)

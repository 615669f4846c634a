"""Functions for worker processes, which import this module: it imports nothing slow."""

import os
import signal
import time

from glcic_jax.errors import DataError


def crash_at_seven(numbers: list[int]) -> list[int]:
    if 7 in numbers or 31 in numbers:
        os.kill(os.getpid(), signal.SIGKILL)
    return [number + 100 for number in numbers]


def fail(numbers: list[int]) -> list[int]:
    raise DataError(f"cannot do {numbers}")


def announce_and_sleep(numbers: list[int]) -> list[int]:
    os.write(1, b"at work\n")
    time.sleep(600)
    return numbers

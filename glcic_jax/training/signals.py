"""SIGTERM and Ctrl-C as requests: the loop ends the step it is in, saves, and stops."""

import contextlib
import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Self

import jax
from jax.experimental import multihost_utils

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

# Launchers pass a terminal's Ctrl-C on to processes that have heard it themselves.
_ECHO_SECONDS = 0.3


class StopRequest:
    """While it is entered, SIGTERM and Ctrl-C set `signal`; a second Ctrl-C ends the process at once.

    A thread of its own hears of a signal the moment it comes: Python's handlers wait until the main thread
    leaves the compiler, which can take minutes. Outside the main thread, where no handler can be set, it does
    nothing.

    Attributes:
      signal: The number of the first signal that came; None: none has.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._old_fd = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._old = {number: signal.signal(number, _leave_to_the_thread) for number in self._heard()}
        self._thread = threading.Thread(target=self._listen, name="signals", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is None:
            return
        for number, handler in self._old.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_fd)
        os.close(self._writer)
        self._thread.join()
        os.close(self._reader)
        self._thread = None

    def is_due(self, step: int) -> bool:
        """Whether to stop after `step` updates; all processes together say so after the same one."""
        if jax.process_count() == 1:
            return self.signal is not None
        if not multihost_utils.reached_preemption_sync_point(step):
            return False
        self.signal = self.signal or signal.SIGTERM
        return True

    def _heard(self) -> tuple[int, ...]:
        # Of several processes JAX hears the SIGTERM itself, and makes them agree on the step to stop at.
        return _SIGNALS if jax.process_count() == 1 else (signal.SIGINT,)

    def _listen(self) -> None:
        first = 0.0
        while numbers := os.read(self._reader, 1):
            number = numbers[0]
            if number not in self._heard():
                continue
            if self.signal is None:
                first = time.monotonic()
                self.signal = number
                if jax.process_count() > 1:
                    os.kill(os.getpid(), signal.SIGTERM)
                _say("stopping: this step is finished and saved first (Ctrl-C again: quit at once)")
            elif number == signal.SIGINT and time.monotonic() - first > _ECHO_SECONDS:
                _say("quit: what was not saved is lost")
                os._exit(128 + signal.SIGINT)


def _leave_to_the_thread(number: int, frame: FrameType | None) -> None:
    """The handler that Python runs in the main thread: `set_wakeup_fd` needs one to be there."""
    del number, frame


def _say(text: str) -> None:
    # Not print: the main thread may have been interrupted inside it, and hold its lock. The same Ctrl-C may
    # have ended whoever reads this.
    with contextlib.suppress(OSError):
        os.write(2, f"\n{text}\n".encode())

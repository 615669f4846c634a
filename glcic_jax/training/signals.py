"""Turns SIGTERM and Ctrl-C into requests: the loop finishes its step, saves, and stops."""

import contextlib
import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Self

import jax
from jax.experimental import multihost_utils

# Launchers repeat a terminal's Ctrl-C to processes that have received it themselves.
_REPEAT_SECONDS = 0.3


class StopRequest:
    """A context in which SIGTERM and Ctrl-C set `signal`; a second Ctrl-C ends the process at once.

    A thread receives signals immediately: Python's own handlers wait until the main thread leaves the compiler,
    which can take minutes. Outside the main thread, where no handler can be set, the context does nothing.

    Attributes:
      signal: The number of the first signal received; None: there was none.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._thread: threading.Thread | None = None
        # Of several processes, JAX handles SIGTERM itself, and makes them agree on the step to stop at.
        several = jax.process_count() > 1
        self._handled = (signal.SIGINT,) if several else (signal.SIGINT, signal.SIGTERM)

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._old_fd = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._old_handlers = {number: signal.signal(number, _do_nothing) for number in self._handled}
        self._thread = threading.Thread(target=self._listen, name="signals", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is None:
            return
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_fd)
        os.close(self._writer)
        self._thread.join()
        os.close(self._reader)
        self._thread = None

    def is_due(self, step: int) -> bool:
        """Returns whether to stop after `step` updates; the same in all processes."""
        if jax.process_count() == 1:
            return self.signal is not None
        if not multihost_utils.reached_preemption_sync_point(step):
            return False
        self.signal = self.signal or signal.SIGTERM
        return True

    def _listen(self) -> None:
        first = 0.0
        while numbers := os.read(self._reader, 1):
            number = numbers[0]
            if number not in self._handled:
                continue
            if self.signal is None:
                first = time.monotonic()
                self.signal = number
                if jax.process_count() > 1:
                    os.kill(os.getpid(), signal.SIGTERM)
                _log("stopping: this step is finished and saved first (Ctrl-C again: quit at once)")
            elif number == signal.SIGINT and time.monotonic() - first > _REPEAT_SECONDS:
                _log("quit: steps since the last checkpoint are lost")
                os._exit(128 + signal.SIGINT)


def _do_nothing(number: int, frame: FrameType | None) -> None:
    """Makes Python write the signal's number to the file of `set_wakeup_fd`."""
    del number, frame


def _log(text: str) -> None:
    # Not print: the main thread may have been interrupted inside it, holding its lock. The same Ctrl-C may have
    # ended the reader.
    with contextlib.suppress(OSError):
        os.write(2, f"\n{text}\n".encode())

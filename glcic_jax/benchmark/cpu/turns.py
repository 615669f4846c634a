"""Two processes that take turns: each does a piece of work when it is told to, and sleeps otherwise.

Frameworks keep their threads waiting in a loop for a while after each piece of work; in one process, or without
turns, the threads of one would take the cores of the other.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from glcic_jax.errors import DataError, last_error_line, printable

_SETTLE = 0.2  # Seconds until the other's threads sleep.

Jobs = Mapping[str, Callable[..., Any]]


class Worker:
    """A process that runs one of the package's modules, which ends in `answer`.

    Args:
      module: Its name, as "benchmark.cpu.pytorch".
      arguments: Its arguments.
      environment: Set beside this process's.
    """

    def __init__(self, module: str, arguments: list[str], environment: Mapping[str, str]):
        self._name = module
        # Kept for the error: its last words are told, and a traceback would be of no use to who reads it.
        self._stderr = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - closed in __exit__.
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"glcic_jax.{module}", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            env={**os.environ, **environment},
        )

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # What it was asked last may never have reached it.
            self._process.stdin.close()  # The worker reads to the end of it.
        self._process.wait()
        self._stderr.close()

    def ask(self, job: str, **arguments: Any) -> Any:
        """Has a job done, and waits for its answer.

        Raises:
          DataError: The process has ended; the error has its last words.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps([job, arguments]) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._ended(job) from error
        line = self._process.stdout.readline()
        if not line:
            raise self._ended(job)
        return json.loads(line)

    def timed(self, work: str) -> float:
        """Seconds of one run of a piece of work, after a pause in which the cores come to rest."""
        time.sleep(_SETTLE)
        return self.ask("run", work=work)

    def _ended(self, job: str) -> DataError:
        code = self._process.wait()
        self._stderr.seek(0)
        return DataError(
            f"the process {printable(self._name)} ended at {printable(job)} with code {code}: "
            f"{last_error_line(self._stderr.read())}"
        )


def answer(jobs: Jobs, asked: TextIO, answers: TextIO) -> None:
    """Does the jobs that come in, a JSON line each, until no more can come.

    Args:
      jobs: By name; each returns what JSON can hold.
      asked, answers: The two pipes.
    """
    for line in asked:
        name, arguments = json.loads(line)
        answers.write(json.dumps(jobs[name](**arguments)) + "\n")
        answers.flush()


def seconds_of(work: Callable[[], Any]) -> float:
    """Wall time of one call, which has to wait for its own result."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun

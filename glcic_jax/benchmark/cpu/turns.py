"""Two processes that take turns, so that the threads of one never run beside the work of the other.

Frameworks keep their threads spinning for a while after each piece of work.
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

from glcic_jax.errors import DataError, last_error_line

_SETTLE_SECONDS = 0.2  # Until the other process's threads sleep.

Jobs = Mapping[str, Callable[..., Any]]


class Worker:
    """A process that runs a module of the package and answers jobs (see `answer`).

    Args:
      module: The module, e.g. "benchmark.cpu.pytorch".
      arguments: Its command-line arguments.
      environment: Variables set in addition to this process's.
    """

    def __init__(self, module: str, arguments: list[str], environment: Mapping[str, str]):
        self._name = module
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
        with contextlib.suppress(BrokenPipeError):  # A job may still be in the buffer of an ended process.
            self._process.stdin.close()  # `answer` ends at the end of its input.
        self._process.wait()
        self._stderr.close()

    def ask(self, job: str, **arguments: Any) -> Any:
        """Runs a job in the process and returns its answer.

        Raises:
          DataError: The process has ended; the message has the error that it printed last.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps([job, arguments]) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            code = self._process.wait()
            self._stderr.seek(0)
            words = last_error_line(self._stderr.read())
            raise DataError(f"the process {self._name} ended at {job} with code {code}: {words}")
        return json.loads(line)

    def timed(self, work: str) -> float:
        """Returns the seconds of one run of a piece of work, after a pause for the other process's threads."""
        time.sleep(_SETTLE_SECONDS)
        return self.ask("run", work=work)


def answer(jobs: Jobs, requests: TextIO, answers: TextIO) -> None:
    """Runs the requested jobs, a JSON line each, until the input ends.

    Args:
      jobs: By name; each returns what JSON can hold.
      requests, answers: The two pipes.
    """
    for line in requests:
        name, arguments = json.loads(line)
        answers.write(json.dumps(jobs[name](**arguments)) + "\n")
        answers.flush()


def seconds_of(work: Callable[[], Any]) -> float:
    """Returns the wall time of one call, which has to wait for its own result."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin

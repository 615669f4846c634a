"""A service in a process of its own, as `glcic serve` starts it."""

import contextlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import httpx

from helpers.common import ROOT


class Served(NamedTuple):
    """A running service.

    Attributes:
      url: Where it listens.
      process: Its process.
      log: What it says.
      folder: Where its temporary files go.
    """

    url: str
    process: subprocess.Popen
    log: Path
    folder: Path

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def files(self) -> list[Path]:
        """What it has on the disk."""
        return [path for path in self.folder.rglob("*") if path.is_file()]

    def memory(self, kind: str) -> int:
        """Bytes: VmRSS, what it has, or VmHWM, the most it had."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"{kind}:\s+(\d+) kB", status)[1]) << 10


@contextlib.contextmanager
def served(folder: Path, weights: Path, *arguments: str, ready: bool = True, said: str = "serving"):
    """Starts a service on a free port; ends it, if that was not done.

    Args:
      folder: For its log and its files.
      weights: What it completes with.
      *arguments: Of `glcic serve`.
      ready: Whether to wait until it is.
      said: What to wait for in its log; the url is none where this is nothing.
    """
    temporary = folder / "tmp"
    temporary.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary), "GLCIC_HOME": str(folder / "home")}
    options = ["--port", "0", "--warmup", "48x48", "--weights", str(weights), *arguments]
    code = "from glcic_jax.commands.main import main; main()"
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", code, "serve", *options], cwd=ROOT, env=environment, stderr=log
        )
    try:
        url = _address(process, folder / "log", ready) if said else ""
        yield Served(url, process, folder / "log", temporary)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(30)


def _address(process: subprocess.Popen, log: Path, ready: bool) -> str:
    for _ in range(1200):
        found = re.search(r"serving .* on (http://\S+)", log.read_text())
        if found and (not ready or httpx.get(f"{found[1]}/readyz").status_code == 200):
            return found[1]
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(f"not ready after two minutes: {log.read_text()}")

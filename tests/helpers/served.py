"""A service in a process of its own, as `glcic serve` starts it, and images to send."""

import contextlib
import io
import os
import re
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import NamedTuple

import httpx
import numpy as np
from PIL import Image

from helpers.common import ROOT


def image(mode="RGB", size=(48, 40), kind="PNG", **options) -> bytes:
    channels = {"RGB": 3, "RGBA": 4, "L": 1}[mode]
    pixels = np.random.default_rng(1).integers(0, 256, (size[1], size[0], channels)).astype(np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(content, kind, **options)
    return content.getvalue()


def mask(size=(48, 40)) -> bytes:
    hole = np.zeros((size[1], size[0]), np.uint8)
    hole[size[1] // 4 : size[1] // 2, size[0] // 4 : size[0] // 2] = 255
    content = io.BytesIO()
    Image.fromarray(hole).save(content, "PNG")
    return content.getvalue()


def png_of(width, height) -> bytes:
    """A PNG of a hundred bytes that claims this size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


class Served(NamedTuple):
    """A running service.

    Attributes:
      url: Its address.
      process: Its process.
      log: File of its stderr.
      folder: Its $TMPDIR.
    """

    url: str
    process: subprocess.Popen
    log: Path
    folder: Path

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def wait_for(self, text: str) -> None:
        """Waits until the log has a text."""
        for _ in range(600):
            if text in self.log.read_text():
                return
            time.sleep(0.05)
        raise AssertionError(f"not in the log: {text}")

    def files(self) -> list[Path]:
        """Its temporary files."""
        return [path for path in self.folder.rglob("*") if path.is_file()]

    def memory(self, kind: str) -> int:
        """Bytes of memory: VmRSS now, VmHWM at the peak."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"{kind}:\s+(\d+) kB", status)[1]) << 10


@contextlib.contextmanager
def served(
    folder: Path, weights: Path, *arguments: str, ready: bool = True, listening: bool = True, before: str = ""
):
    """Starts a service on a free port; kills it in the end if it still runs.

    Args:
      folder: For its log and its files.
      weights: File of the weights.
      *arguments: Of `glcic serve`.
      ready: Whether to wait until it is warm.
      listening: Whether to wait until it listens; the url is empty otherwise.
      before: Python statements that run before the command.
    """
    temporary = folder / "tmp"
    temporary.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary), "GLCIC_HOME": str(folder / "home")}
    options = ["--port", "0", "--warmup", "48x48", "--weights", str(weights), *arguments]
    code = f"{before}\nfrom glcic_jax.commands.main import main; main()"
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", code, "serve", *options], cwd=ROOT, env=environment, stderr=log
        )
    try:
        url = _address(process, folder / "log", ready) if listening else ""
        yield Served(url, process, folder / "log", temporary)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(30)


def _address(process: subprocess.Popen, log: Path, ready: bool) -> str:
    for _ in range(1200):
        found = re.search(r"serving on (http://\S+)", log.read_text())
        if found and (not ready or httpx.get(f"{found[1]}/readyz", timeout=120).json() == {"status": "ready"}):
            return found[1]
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(f"not ready after two minutes: {log.read_text()}")

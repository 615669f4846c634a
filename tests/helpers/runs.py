"""Small runs of main.py in processes of their own, and comparisons of what they leave."""

import json
import os
import subprocess
import sys
from pathlib import Path

import orbax.checkpoint as ocp

from helpers.common import COMPILE_QUICKLY, ROOT

# Overrides of configs/quickstart.py: 32 px and a sixteenth of the width.
NARROW = (
    "batch_size=4",
    "data.image_size=32",
    "data.resize_range=(32,48)",
    "mask.rectangle.min_side=6",
    "mask.rectangle.max_side=14",
    "completion.width=0.0625",
    "completion.ema_decay=0.5",
    "discriminator.width=0.0625",
    "discriminator.local_size=16",
    "discriminator.global_channels=(64,128)",
    "discriminator.local_channels=(64,128)",
    "validation_images=4",
)
# Those of the fixture `unbroken_run`: 18 steps.
UNBROKEN = (
    "phases.completion=9",
    "phases.discriminator=5",
    "phases.joint=4",
    "log_every=2",
    "checkpoint_every=2",
    "validate_every=2",
    "grid_every=6",
    "keep_checkpoints=2",
)
# Measured times, which differ between equal runs.
_TIMES = {"images_per_second", "data_wait_fraction", "elapsed_seconds"}


def shared_folder(tmp_path_factory) -> Path:
    """The temporary folder that all workers of a test session share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


def start_main(workdir: Path, overrides: tuple[str, ...], *flags: str, devices: int = 1) -> subprocess.Popen:
    """Starts the quickstart with overrides; its stderr is a pipe."""
    return subprocess.Popen(
        [
            *(sys.executable, "main.py", "--config=configs/quickstart.py", f"--workdir={workdir}"),
            *(f"--config.{override}" for override in (*NARROW, *overrides)),
            *flags,
        ],
        cwd=ROOT,
        env=environment(devices),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def environment(devices: int = 1) -> dict[str, str]:
    """The environment of a child process with this many simulated devices."""
    simulated = f"--xla_force_host_platform_device_count={devices} " if devices > 1 else ""
    return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": simulated + COMPILE_QUICKLY}


def finish(process: subprocess.Popen) -> str:
    """Waits for the end of a process that succeeds; returns its stderr."""
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    return errors


def saved_steps(workdir: Path) -> list[int]:
    """The steps of the finished checkpoints, in order."""
    return sorted(int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdecimal())


def read_rows(workdir: Path) -> list[dict]:
    """The rows of metrics.jsonl, without times."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in _TIMES} for row in rows]


def read_checkpoint(workdir: Path, step: int) -> tuple[dict, dict]:
    """All arrays of a checkpoint, read by Orbax, and its position in the data."""
    path = (workdir / "checkpoints" / str(step)).absolute()
    with ocp.PyTreeCheckpointer() as checkpointer:
        arrays = {item: checkpointer.restore(path / item) for item in ("completion", "discriminator")}
    return arrays, json.loads((path / "data" / "metadata").read_text())

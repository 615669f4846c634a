"""Runs that are killed at any moment, and gone on with, end as one that was never stopped.

As a script it kills many times, and prints the count: `python tests/test_killed.py 50`.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest
from helpers.common import ROOT
from training.test_training import ENVIRONMENT, NARROW

from glcic_jax.training.workdir import locked

STEPS = (9, 5, 0)  # Of each phase: kills fall on both sides of the first one's end.
LAST = sum(STEPS)
# A save at every step: many kills then fall into one.
EVERY_STEP = ("checkpoint_every=1", "validate_every=4", "grid_every=0", "log_every=2", "keep_checkpoints=2")


def begin(workdir):
    lengths = [
        f"phases.{name}={n}" for name, n in zip(("completion", "discriminator", "joint"), STEPS, strict=True)
    ]
    flags = [f"--config.{override}" for override in (*NARROW, *EVERY_STEP, *lengths)]
    return subprocess.Popen(
        [sys.executable, "main.py", "--config=configs/quickstart.py", f"--workdir={workdir}", *flags],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(workdir):
    process = begin(workdir)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    return errors


def newest_step(workdir):
    steps = [int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdecimal()]
    return max(steps, default=0)


def kill_when(workdir, step, delay):
    """Kills a run some seconds after its checkpoint of a step began to appear; False: it ended before."""

    def begun():
        names = (path.name.split(".")[0] for path in (workdir / "checkpoints").glob("*"))
        return any(name.isdecimal() and int(name) >= step for name in names)

    return _kill_after(workdir, begun, delay)


def _kill_after(workdir, moment, delay):
    process = begin(workdir)
    try:
        while process.poll() is None and not moment():
            time.sleep(0.001)
        time.sleep(delay)
        if process.poll() is not None:
            return False
        process.send_signal(signal.SIGKILL)
        return True
    finally:
        process.kill()
        process.communicate()


def assert_ended_alike(workdir, other):
    """Compares every array, the place in the data, and every logged number that is no time."""
    with ocp.PyTreeCheckpointer() as checkpointer:
        for item in ("completion", "discriminator"):
            one, two = (
                checkpointer.restore((folder / "checkpoints" / str(LAST) / item).absolute())
                for folder in (workdir, other)
            )
            leaves, structure = ocp.utils.jax.tree.flatten(one)
            others, other_structure = ocp.utils.jax.tree.flatten(two)
            assert structure == other_structure
            for leaf, twin in zip(leaves, others, strict=True):
                np.testing.assert_array_equal(leaf, twin)
    data = [folder / "checkpoints" / str(LAST) / "data" / "metadata" for folder in (workdir, other)]
    assert data[0].read_text() == data[1].read_text()
    timed = ("images_per_second", "data_wait_fraction", "elapsed_seconds")
    rows = [
        [
            {key: value for key, value in json.loads(line).items() if key not in timed}
            for line in (folder / "metrics.jsonl").read_text().splitlines()
        ]
        for folder in (workdir, other)
    ]
    assert rows[0] == rows[1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was never stopped."""
    workdir = tmp_path_factory.mktemp("whole")
    finish(workdir)
    return workdir


def test_a_run_that_is_killed_at_random_moments_ends_as_one_that_never_was(whole, tmp_path):
    # Before and after the end of a phase, during a save or right after it.
    chance = random.Random(time.time_ns())
    moments = [(step, chance.uniform(0.0, 0.25)) for step in (4, 10, 13)]
    kills = sum(kill_when(tmp_path, *moment) for moment in moments)
    assert kills == len(moments), moments
    finish(tmp_path)
    assert_ended_alike(whole, tmp_path)


def signalled(workdir, number):
    """Sends a run a signal between two rows of the log; returns its exit code and what it said."""
    process = begin(workdir)
    while newest_step(workdir) < 4 and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert f"stopped by {signal.Signals(number).name} at step" in errors
    assert "Traceback" not in errors
    return process.returncode, errors.splitlines()[-1]


def test_a_run_that_is_told_to_stop_saves_and_says_how_to_go_on(whole, tmp_path):
    code, command = signalled(tmp_path, signal.SIGTERM)
    assert code == 143
    went_on = subprocess.run(
        command, shell=True, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert went_on.returncode == 0, went_on.stderr
    assert_ended_alike(whole, tmp_path)


def test_ctrl_c_saves_too(tmp_path):
    code, command = signalled(tmp_path, signal.SIGINT)
    assert code == 130
    assert f"main.py --config=configs/quickstart.py --workdir={tmp_path}" in command


def test_a_second_process_on_the_workdir_is_refused(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    with locked(tmp_path / "run"):
        process = begin(tmp_path / "run")
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert f"is in use by process {os.getpid()}" in errors.splitlines()[-1]


def _kill_many(times):
    """Kills runs `times` times at random moments of their lives; prints how many ended as they should."""
    chance = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        finish(whole)
        killed = runs = 0
        while killed < times:
            runs += 1
            workdir = Path(folder) / f"run_{runs}"
            for step in sorted(chance.sample(range(1, LAST), 4)):
                killed += kill_when(workdir, step, chance.uniform(0.0, 0.3))
                # And while the next one begins: reading the checkpoint, cutting the log, compiling.
                killed += _kill_after(workdir, lambda: True, chance.uniform(2.0, 8.0))
                print(f"kill {killed}: run {runs} is at step {newest_step(workdir)}", flush=True)  # noqa: T201
            finish(workdir)
            assert_ended_alike(whole, workdir)
            shutil.rmtree(workdir)
        print(f"{killed} kills in {runs} runs: each ended bit for bit as one never stopped")  # noqa: T201


if __name__ == "__main__":
    _kill_many(int(sys.argv[1]) if len(sys.argv) > 1 else 50)

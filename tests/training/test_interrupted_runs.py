"""A run that is stopped and killed at any moment ends as one that was never stopped, bit for bit."""

import random
import shlex
import signal
import subprocess
import time

import jax
import numpy as np
import pytest
from helpers.common import ROOT
from helpers.runs import (
    UNBROKEN,
    environment,
    finish,
    read_checkpoint,
    read_rows,
    saved_steps,
    start_main,
)

from glcic_jax.training.loop import train

pytestmark = pytest.mark.long_setup


def wait_for_checkpoint(workdir, step, process):
    """Waits until a checkpoint of a step or a later one begins to appear."""

    def appeared():
        names = (path.name.split(".")[0] for path in (workdir / "checkpoints").glob("*"))
        return any(name.isdecimal() and int(name) >= step for name in names)

    while not appeared():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.001)


def stop(workdir, process, number, step):
    """Sends a signal once the checkpoint of a step appears; returns the printed command that resumes the run."""
    wait_for_checkpoint(workdir, step, process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + number, errors
    assert f"stopped by {number.name} at step" in errors
    assert "Traceback" not in errors
    command = errors.splitlines()[-1]
    assert f"main.py --config=configs/quickstart.py --workdir={workdir}" in command
    return command


def kill(workdir, process, step, delay):
    """Kills a run some seconds after the checkpoint of a step began to appear: during a save, or after it."""
    wait_for_checkpoint(workdir, step, process)
    time.sleep(delay)
    assert process.poll() is None, "the run ended before it was killed"
    process.kill()
    process.communicate()


@pytest.fixture(scope="module")
def interrupted_run(tmp_path_factory):
    """The workdir of a run with two signals and two kills, which ended at step 16, in its last phase."""
    workdir = tmp_path_factory.mktemp("interrupted")
    chance = random.Random(time.time_ns())
    process = start_main(workdir, UNBROKEN)
    try:
        for number, step in ((signal.SIGTERM, 2), (signal.SIGINT, 4)):
            command = stop(workdir, process, number, step)
            process = subprocess.Popen(
                shlex.split(command),
                cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
        for step in (8, 12):  # On both sides of the end of phase 1, at step 9.
            kill(workdir, process, step, chance.uniform(0.0, 0.25))
            process = start_main(workdir, (*UNBROKEN, "phases.joint=2"))
        assert "resuming from step 1" in finish(process)  # 10 at least.
    finally:
        process.kill()
        process.wait()
    return workdir


def test_interrupted_and_continued_run_equals_unbroken_run(
    interrupted_run, unbroken_run, unbroken_config, tmp_path, capfd
):
    # The next joint step measures no norms: it needs those of the checkpoint.
    assert saved_steps(interrupted_run)[-1] == 16
    unbroken_config.start_from = str(interrupted_run)
    train(unbroken_config, tmp_path)
    errors = capfd.readouterr().err
    assert "resuming from step 16 of 18 (phase joint)" in errors
    assert "phase 1/3" not in errors
    (arrays, data), (unbroken_arrays, unbroken_data) = (
        read_checkpoint(path, 18) for path in (tmp_path, unbroken_run)
    )
    assert len(jax.tree.leaves(arrays)) > 100
    jax.tree.map(np.testing.assert_array_equal, arrays, unbroken_arrays)
    assert data == unbroken_data == {"next_index": [4 * 18]}
    assert read_rows(interrupted_run) + read_rows(tmp_path) == read_rows(unbroken_run)
    # The checkpoint that it started from is its own now.
    assert saved_steps(tmp_path) == [16, 18]

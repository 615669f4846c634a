"""Two processes of two devices each, on one machine, as one training."""

import pickle
import shutil
import signal
import socket
import time

import jax
import numpy as np
import pytest
from helpers.runs import finish, read_checkpoint, read_rows, saved_steps, shared_folder, start_main

from glcic_jax.errors import ConfigError
from glcic_jax.files import lock
from glcic_jax.training import distributed

pytestmark = pytest.mark.long_setup

INTERVALS = ("checkpoint_every=1", "validate_every=0", "grid_every=0", "log_every=1", "keep_checkpoints=1000")
ENDLESS = 100_000


def start_pair(workdir, overrides):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = f"--coordinator=127.0.0.1:{port}", "--process_count=2"
    return [start_main(workdir, overrides, *together, f"--process_id={index}", devices=2) for index in range(2)]


def wait_for_checkpoint(workdir, step, pair):
    deadline = time.monotonic() + 600
    while max(saved_steps(workdir), default=0) < step:
        assert time.monotonic() < deadline, "the processes wait for each other"
        assert all(process.poll() is None for process in pair), [process.communicate()[1] for process in pair]
        time.sleep(0.01)


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    """What `train_pairs` found, once for all workers."""
    folder = shared_folder(tmp_path_factory)
    found = folder / "pair.pickle"
    with lock(folder / "pair.lock"):
        if not found.exists():
            found.write_bytes(pickle.dumps(train_pairs(folder / "pair")))
    return pickle.loads(found.read_bytes())


def train_pairs(workdir):
    """Trains a pair that is stopped, a pair that goes on until it loses a process, and one process that goes on.

    `stopped` is the step at which the first pair stopped, `resumed` the one from which the others go on, `last`
    the last that is compared.
    """
    alone = workdir.with_name("alone")
    found = {"workdir": workdir, "alone": alone}
    processes = pair = start_pair(workdir, (f"phases.completion={ENDLESS}", *INTERVALS))
    try:
        wait_for_checkpoint(workdir, 2, pair)
        pair[1].send_signal(signal.SIGTERM)
        found["stop"] = [(process.communicate(timeout=600)[1], process.returncode) for process in pair]
        found["stopped"] = max(saved_steps(workdir))
        # What follows begins at the same step, whenever the signal arrived.
        found["resumed"] = resumed = 2
        for later in (step for step in saved_steps(workdir) if step > resumed):
            shutil.rmtree(workdir / "checkpoints" / str(later))
        found["last"] = resumed + 6

        shutil.copytree(workdir, alone)
        overrides = (f"phases.completion={resumed + 2}", "phases.discriminator=2", *INTERVALS)
        pair = start_pair(workdir, (*overrides, f"phases.joint={ENDLESS}"))
        processes = [*pair, start_main(alone, (*overrides, "phases.joint=2"))]
        wait_for_checkpoint(workdir, resumed + 6, pair)
        pair[1].kill()
        killed = time.monotonic()
        errors = pair[0].communicate(timeout=600)[1]
        found["lost"] = errors, pair[0].returncode, time.monotonic() - killed
        for text in (errors, finish(processes[-1])):
            assert f"resuming from step {resumed} of" in text
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return found


def test_signal_to_one_process_stops_and_saves_both_after_the_same_step(history):
    for errors, code in history["stop"]:
        assert code == 143, errors
        assert f"stopped by SIGTERM at step {history['stopped']} and saved" in errors


def test_process_that_loses_the_other_ends_within_a_minute(history):
    errors, code, seconds = history["lost"]
    assert code != 0
    assert seconds < 60
    assert "another task died" in errors or "one of them may have ended" in errors


def rows_after_stop(history, name):
    return [row for row in read_rows(history[name]) if history["resumed"] < row["step"] <= history["last"]]


def test_only_the_lead_process_writes_logs(history):
    steps = [row["step"] for row in read_rows(history["workdir"])]
    assert steps == list(range(1, len(steps) + 1))


def test_two_processes_of_two_devices_compute_the_metrics_of_one_device(history):
    # They started from the same checkpoint, which the pair wrote: it does not depend on the number of devices.
    pair, alone = (rows_after_stop(history, name) for name in ("workdir", "alone"))
    assert len(pair) == 6
    names = [name for name in pair[0] if name.endswith(("loss", "norm"))]
    assert len(names) == 2
    # The first update differs only by the order of sums, which later ones magnify (see test_devices.py).
    for name in names:
        np.testing.assert_allclose(pair[0][name], alone[0][name], rtol=3e-4)
    for one, other in zip(pair, alone, strict=True):
        for name in (name for name in one if name.endswith("loss")):
            np.testing.assert_allclose(one[name], other[name], rtol=5e-2, err_msg=f"{name} at {one['step']}")


def test_pair_and_one_device_reach_the_same_data_and_nearly_the_same_state(history):
    step = history["last"]
    (pair, pair_data), (alone, alone_data) = (
        read_checkpoint(history[name], step) for name in ("workdir", "alone")
    )
    assert pair_data == {"next_index": [2 * step, 2 * step]}
    assert alone_data == {"next_index": [4 * step]}
    params = [jax.tree.leaves(arrays["completion"]["params"]) for arrays in (pair, alone)]
    for one, other in zip(*params, strict=True):
        np.testing.assert_allclose(one, other, atol=5e-3)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ((None, 2, None), "need --coordinator"),
        ((None, None, 1), "need --coordinator"),
        (("none", 2, 1), "need --coordinator"),
        (("127.0.0.1:1", None, None), "--process_count=N"),
        (("127.0.0.1:1", 2, None), "--process_id"),
        (("127.0.0.1:1", 2, 2), "from 0 to N - 1, not 2 and 2"),
        (("127.0.0.1:1", 2, -1), "from 0 to N - 1, not 2 and -1"),
        (("127.0.0.1", 2, 1), "give HOST:PORT"),
        ((":99", 2, 1), "give HOST:PORT"),
    ],
)
def test_flags_that_do_not_fit_together_are_refused(arguments, hint):
    with pytest.raises(ConfigError, match=hint):
        distributed.initialize(*arguments)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, False),
        ({"SLURM_STEP_NUM_TASKS": "1"}, False),
        ({"SLURM_NTASKS": "8"}, False),  # Inside an allocation, but not started by srun.
        ({"SLURM_STEP_NUM_TASKS": "8"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
    ],
)
def test_several_processes_are_recognised_by_the_environment(variables, expected, monkeypatch):
    for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    calls = []
    monkeypatch.setattr("jax.distributed.initialize", lambda *args, **kwargs: calls.append((args, kwargs)))
    distributed.initialize()
    assert bool(calls) == expected
    calls.clear()
    distributed.initialize("none")
    assert calls == []


def test_missing_coordinator_is_reported(monkeypatch):
    monkeypatch.setattr(distributed, "_INITIALIZATION_SECONDS", 0.5)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # Not listening.
        with pytest.raises(ConfigError, match=r"not found at 127\.0\.0\.1:\d+: is process 0 running there"):
            distributed.initialize(f"127.0.0.1:{taken.getsockname()[1]}", 2, 1)


@pytest.mark.parametrize(
    ("variables", "devices"),
    [
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURM_GPUS_ON_NODE": "8"}, list(range(8))),
        ({"SLURM_STEP_TASKS_PER_NODE": "1", "SLURM_GPUS_ON_NODE": "2"}, [0, 1]),
        ({"SLURM_STEP_TASKS_PER_NODE": "8(x2)", "SLURM_GPUS_ON_NODE": "8"}, None),  # One GPU per task.
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "4"}, None),
        ({}, None),
    ],
)
def test_only_task_of_a_host_takes_all_its_gpus(variables, devices, monkeypatch):
    for name in ("SLURM_STEP_TASKS_PER_NODE", "SLURM_GPUS_ON_NODE", "OMPI_COMM_WORLD_LOCAL_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert distributed._devices_of_only_task() == devices


def test_collectives_of_one_process_are_the_identity():
    assert distributed.is_lead_process()
    assert distributed.broadcast_from_first({"a": [1.5, None]}) == {"a": [1.5, None]}
    assert distributed.all_gather(7) == [7]

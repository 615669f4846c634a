"""Two processes of two devices each, on one machine, as one training."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import orbax.checkpoint as ocp
import pytest
from helpers.common import COMPILE_QUICKLY, ROOT
from training.test_training import NARROW

from glcic_jax.errors import ConfigError
from glcic_jax.training import distributed

ENDLESS = (100_000, 0, 0)
EVERY_STEP = ("checkpoint_every=1", "validate_every=0", "grid_every=0", "log_every=1")


def begin(workdir, lengths, devices, *flags):
    overrides = [
        f"phases.{name}={n}" for name, n in zip(("completion", "discriminator", "joint"), lengths, strict=True)
    ]
    overrides = [f"--config.{override}" for override in (*NARROW, *EVERY_STEP, *overrides)]
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} {COMPILE_QUICKLY}",
    }
    return subprocess.Popen(
        [sys.executable, "main.py", "--config=configs/quickstart.py", f"--workdir={workdir}", *overrides, *flags],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def begin_pair(workdir, lengths):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = f"--coordinator=127.0.0.1:{port}", "--process_count=2"
    return [begin(workdir, lengths, 2, *together, f"--process_id={index}") for index in range(2)]


def saved_steps(workdir):
    return [int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdecimal()]


def wait_for_a_step(workdir, step, pair):
    deadline = time.monotonic() + 600
    while max(saved_steps(workdir), default=0) < step:
        assert time.monotonic() < deadline, "the processes wait for each other"
        assert all(process.poll() is None for process in pair), [process.communicate()[1] for process in pair]
        time.sleep(0.01)


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    """A pair that is told to stop, then one that loses a process, then the end: once as a pair, once alone."""
    workdir = tmp_path_factory.mktemp("pair")
    happened = {"workdir": workdir}
    pair = begin_pair(workdir, ENDLESS)
    try:
        wait_for_a_step(workdir, 2, pair)
        pair[1].send_signal(signal.SIGTERM)
        happened["told to stop"] = [(process.communicate(timeout=600)[1], process.returncode) for process in pair]
        happened["stopped at"] = max(saved_steps(workdir))

        pair = begin_pair(workdir, ENDLESS)
        wait_for_a_step(workdir, happened["stopped at"] + 2, pair)
        pair[1].kill()
        killed = time.monotonic()
        happened["left alone"] = pair[0].communicate(timeout=600)[1], pair[0].returncode
        happened["seconds"] = time.monotonic() - killed
        last = max(saved_steps(workdir))

        alone = workdir.with_name("alone")
        shutil.copytree(workdir, alone)
        lengths = (last + 2, 2, 2)
        pair = [*begin_pair(workdir, lengths), begin(alone, lengths, 1)]
        for process in pair:
            _, errors = process.communicate(timeout=600)
            assert process.returncode == 0, errors
            assert f"going on from step {last} of" in errors or process is pair[1]
    finally:
        for process in pair:
            process.kill()
            process.communicate()
    return {**happened, "alone": alone, "last": last}


def test_a_signal_to_one_process_stops_and_saves_all_after_the_same_step(history):
    for errors, code in history["told to stop"]:
        assert code == 143, errors
        assert f"stopped by SIGTERM at step {history['stopped at']} and saved" in errors


def test_a_process_that_loses_the_other_ends_within_a_minute_and_says_so(history):
    errors, code = history["left alone"]
    assert code != 0
    assert history["seconds"] < 60
    assert "another task died" in errors or "one of them may have ended" in errors


def rows_of(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_only_the_first_process_writes_logs(history):
    rows = rows_of(history["workdir"])
    assert [row["step"] for row in rows] == list(range(1, history["last"] + 7))


def test_two_processes_of_two_devices_measure_what_one_device_measures(history):
    # They began with the same checkpoint, which the pair wrote: it does not know how many devices it came from.
    pair, alone = (rows_of(folder)[history["last"] :] for folder in (history["workdir"], history["alone"]))
    names = [name for name in pair[0] if name.endswith(("loss", "norm"))]
    assert len(names) == 2
    # The first update differs by the order of sums alone, which later ones magnify (see test_devices.py).
    for name in names:
        np.testing.assert_allclose(pair[0][name], alone[0][name], rtol=3e-4)
    for one, other in zip(pair, alone, strict=True):
        for name in (name for name in one if name.endswith("loss")):
            np.testing.assert_allclose(one[name], other[name], rtol=5e-2, err_msg=f"{name} at {one['step']}")


def test_all_are_at_the_same_place_in_the_data(history):
    step = history["last"] + 6
    places = [
        json.loads((folder / "checkpoints" / str(step) / "data" / "metadata").read_text())["next_index"]
        for folder in (history["workdir"], history["alone"])
    ]
    assert places == [[2 * step, 2 * step], [4 * step]]


def test_the_pair_s_last_state_is_near_that_of_one_device(history):
    step = str(history["last"] + 6)
    with ocp.PyTreeCheckpointer() as checkpointer:
        states = [
            checkpointer.restore((folder / "checkpoints" / step / "completion").absolute())["params"]
            for folder in (history["workdir"], history["alone"])
        ]
    for one, other in zip(*map(ocp.utils.jax.tree.leaves, states), strict=True):
        np.testing.assert_allclose(one, other, atol=5e-3)


@pytest.mark.parametrize(
    ("told", "hint"),
    [
        ((None, 2, None), "go with --coordinator"),
        ((None, None, 1), "go with --coordinator"),
        (("none", 2, 1), "go with --coordinator"),
        (("127.0.0.1:1", None, None), "--process_count=N"),
        (("127.0.0.1:1", 2, None), "--process_id"),
        (("127.0.0.1:1", 2, 2), "from 0 to N - 1, not with 2 and 2"),
        (("127.0.0.1:1", 2, -1), "from 0 to N - 1, not with 2 and -1"),
        (("127.0.0.1", 2, 1), "give HOST:PORT"),
        ((":99", 2, 1), "give HOST:PORT"),
    ],
)
def test_flags_that_do_not_fit_together_are_refused(told, hint):
    with pytest.raises(ConfigError, match=hint):
        distributed.join(*told)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, False),
        ({"SLURM_STEP_NUM_TASKS": "1"}, False),
        ({"SLURM_NTASKS": "8"}, False),  # Inside an allocation, but not started by srun.
        ({"SLURM_STEP_NUM_TASKS": "8"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
    ],
)
def test_the_environment_is_asked_for_several_processes(variables, said, monkeypatch):
    for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    asked = []
    monkeypatch.setattr("jax.distributed.initialize", lambda *args, **kwargs: asked.append((args, kwargs)))
    distributed.join()
    assert bool(asked) == said
    asked.clear()
    distributed.join("none")
    assert asked == []


def test_a_coordinator_that_is_not_there_is_told(monkeypatch):
    monkeypatch.setattr(distributed, "_JOINING_SECONDS", 0.5)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # Not listening.
        with pytest.raises(ConfigError, match=r"not found at 127\.0\.0\.1:\d+: is process 0 running there"):
            distributed.join(f"127.0.0.1:{taken.getsockname()[1]}", 2, 1)


@pytest.mark.parametrize(
    ("variables", "devices"),
    [
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURM_GPUS_ON_NODE": "8"}, list(range(8))),
        ({"SLURM_STEP_TASKS_PER_NODE": "1", "SLURM_GPUS_ON_NODE": "2"}, [0, 1]),
        ({"SLURM_STEP_TASKS_PER_NODE": "8(x2)", "SLURM_GPUS_ON_NODE": "8"}, None),  # One GPU a task.
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "4"}, None),
        ({}, None),
    ],
)
def test_a_host_s_only_task_takes_all_its_gpus(variables, devices, monkeypatch):
    for name in ("SLURM_STEP_TASKS_PER_NODE", "SLURM_GPUS_ON_NODE", "OMPI_COMM_WORLD_LOCAL_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert distributed._devices_of_a_lone_task() == devices


def test_alone_everything_is_the_identity():
    assert distributed.is_first()
    assert distributed.broadcast_from_first({"a": [1.5, None]}) == {"a": [1.5, None]}
    assert distributed.all_gather(7) == [7]

"""Saving, restoring, keeping and checking checkpoints."""

import os
import shutil
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.common import ROOT, load_config, shrink

from glcic_jax.errors import DataError, DivergedError
from glcic_jax.training.checkpoints import Checkpoints, DamagedCheckpointError
from glcic_jax.training.tasks.completion import create_spec, create_state
from glcic_jax.weights.from_run import restore_network


@pytest.fixture(scope="module")
def fresh():
    """A fresh state, with a moving average."""
    config = shrink(load_config("joint"))
    config.completion.ema_decay = 0.9
    return create_state(create_spec(config), jax.random.key(0), config.data.image_size, jnp.zeros(3))


@pytest.fixture
def state(fresh):
    """A state in which every leaf differs from the fresh one's."""
    leaves, structure = jax.tree.flatten(fresh)
    rng = np.random.default_rng(0)
    changed = [
        x + 5 if jnp.issubdtype(x.dtype, jnp.integer) else jnp.asarray(rng.normal(size=x.shape), x.dtype)
        for x in leaves
    ]
    return jax.tree.unflatten(structure, changed)


def save(checkpoints, state, step, hole_l1):
    state = state.replace(step=jnp.asarray(step, jnp.int32))
    checkpoints.save(state, {"next_index": 8 * step}, {"seed": 0}, {"hole_l1": hole_l1})
    checkpoints.wait()


def assert_equal(tree, other):
    for (path, x), y in zip(jax.tree.leaves_with_path(tree), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y), err_msg=jax.tree_util.keystr(path))


def test_restored_run_equals_saved_run(tmp_path, fresh, state):
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, state, 7, 0.1)
    restored = checkpoints.restore(fresh, 7)
    checkpoints.close()
    assert_equal(restored.state, state.replace(step=jnp.asarray(7, jnp.int32)))
    assert restored.data_state == {"next_index": 56}
    assert restored.meta["step"] == 7
    assert restored.meta["versions"]["jax"] == jax.__version__
    assert restored.state.spec.ema_decay == 0.9


def test_next_update_does_not_change_the_state_being_saved(tmp_path, fresh, state):
    # Training donates the state's memory to the next state while the checkpoint is still being written.
    before = jax.tree.map(np.array, state)
    overwrite = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0 + 9, tree), donate_argnums=0)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state, {}, {}, {"hole_l1": 0.1})
    jax.block_until_ready(overwrite(state))
    checkpoints.wait()
    restored = checkpoints.restore(fresh, int(before.step)).state
    checkpoints.close()
    assert_equal(restored, before)


def test_completion_network_restores_alone(tmp_path, state):
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, state, 3, 0.1)
    checkpoints.close()
    for item in ("discriminator", "data"):
        shutil.rmtree(tmp_path / "checkpoints" / "3" / item)
    variables, meta = restore_network(tmp_path)
    assert_equal(variables, state.ema)
    np.testing.assert_array_equal(np.float32(meta["mean_pixel"]), state.mean_pixel)


def test_without_a_moving_average_the_trained_weights_are_restored(tmp_path, state):
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, state.replace(ema=None), 3, 0.1)
    checkpoints.close()
    variables, _ = restore_network(tmp_path)
    assert_equal(variables, {"params": state.completion.params, "batch_stats": state.completion.batch_stats})


def test_newest_and_best_are_kept(tmp_path, state):
    checkpoints = Checkpoints(tmp_path, keep=2, best_metric="hole_l1")
    for step, hole_l1 in ((1, 0.5), (2, 0.1), (3, 0.4), (4, 0.3), (5, 0.2)):
        save(checkpoints, state, step, hole_l1)
    assert checkpoints.steps()[-1] == 5
    checkpoints.close()
    kept = {int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()}
    assert kept == {2, 4, 5}


def test_networks_of_another_width_are_refused(tmp_path, config, create, state):
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, state, 1, 0.1)
    config.completion.ema_decay = 0.9
    config.completion.width = 1 / 8
    with pytest.raises(DataError, match=r"is damaged.*not float32") as caught:
        checkpoints.restore(create(config), 1)
    checkpoints.close()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("exists", [False, True])
def test_folder_without_checkpoints_is_named(tmp_path, exists):
    if exists:
        (tmp_path / "checkpoints").mkdir()
    with pytest.raises(DataError, match=str(tmp_path)):
        restore_network(tmp_path)


def test_best_is_kept_by_later_processes(tmp_path, state):
    # When a run resumes, the metrics are read from the disk.
    for step, hole_l1 in ((1, 0.1), (2, 0.5), (3, 0.4)):
        checkpoints = Checkpoints(tmp_path, keep=1, best_metric="hole_l1")
        save(checkpoints, state, step, hole_l1)
        checkpoints.close()
    assert Checkpoints(tmp_path).steps() == [1, 3]


def test_checkpoint_without_validation_is_never_the_best(tmp_path, state):
    checkpoints = Checkpoints(tmp_path, keep=1, best_metric="hole_l1")
    for step, metrics in ((1, {"hole_l1": 0.9}), (2, {}), (3, {})):
        checkpoints.save(state.replace(step=jnp.asarray(step, jnp.int32)), {}, {}, metrics)
    checkpoints.close()
    assert checkpoints.steps() == [1, 3]


def test_clock_that_jumps_back_changes_nothing(tmp_path, state, monkeypatch):
    checkpoints = Checkpoints(tmp_path, keep=2, best_metric="hole_l1")
    clock = time.time  # Runs between the jumps: Orbax divides by the duration of a save.
    for step, jump in ((1, 0), (2, -1e8), (3, 1e8), (4, -2e8)):
        monkeypatch.setattr(time, "time", lambda jump=jump: clock() + jump)
        save(checkpoints, state, step, 0.5 + step)
    checkpoints.close()
    assert checkpoints.steps() == [1, 3, 4]


def test_remains_of_a_killed_save_are_deleted(tmp_path, state):
    left = tmp_path / "checkpoints" / "5.orbax-checkpoint-tmp" / "completion"
    left.mkdir(parents=True)
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.steps() == []
    save(checkpoints, state, 5, 0.1)
    checkpoints.close()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["5"]


def test_nan_is_not_saved(tmp_path, state):
    params = jax.tree.map(jnp.array, state.completion.params)
    params["conv3"]["kernel"] = params["conv3"]["kernel"].at[0, 0, 0, 0].set(jnp.nan)
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(DivergedError, match=r"conv3'\]\['kernel'\] holds numbers that are not finite at step"):
        checkpoints.save(state.replace(completion=state.completion.replace(params=params)), {}, {}, {})
    checkpoints.close()
    assert checkpoints.steps() == []


def _truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _zero(path):
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(64)
    path.write_bytes(data)


DAMAGES = {
    "truncated": lambda folder: _truncate(_largest(folder / "completion")),
    "truncated D": lambda folder: _truncate(_largest(folder / "discriminator")),
    "zeroed bytes": lambda folder: _zero(_largest(folder / "completion")),
    "zeroed bytes of D": lambda folder: _zero(_largest(folder / "discriminator")),
    "zeroed meta": lambda folder: _zero(folder / "meta" / "metadata"),
    "changed meta": lambda folder: _replace(folder / "meta" / "metadata", '"hole_l1": 0.2', '"hole_l1": 0.1'),
    "changed data": lambda folder: _replace(folder / "data" / "metadata", "24", "25"),
    "no completion": lambda folder: shutil.rmtree(folder / "completion"),
    "no discriminator": lambda folder: shutil.rmtree(folder / "discriminator"),
    "no data": lambda folder: shutil.rmtree(folder / "data"),
    "no meta": lambda folder: shutil.rmtree(folder / "meta"),
    "empty": lambda folder: [shutil.rmtree(path) for path in folder.iterdir() if path.is_dir()],
    "truncated structure": lambda folder: _truncate(folder / "completion" / "_METADATA"),
    "items of another": lambda folder: [
        shutil.rmtree(folder / "completion"),
        shutil.copytree(folder.with_name("2") / "completion", folder / "completion"),
    ],
    "another checkpoint": lambda folder: [
        shutil.rmtree(folder),
        shutil.copytree(folder.with_name("2"), folder),
    ],
}


def _largest(folder):
    """The file with most of an item's arrays; Orbax arranges them differently each time."""
    return max(folder.rglob("d/*"), key=lambda path: path.stat().st_size)


def _replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory, fresh):
    """A run with two different checkpoints, at steps 2 and 3; to copy and damage."""
    folder = tmp_path_factory.mktemp("two")
    checkpoints = Checkpoints(folder)
    for step, hole_l1 in ((2, 0.3), (3, 0.2)):
        changed = jax.tree.map(lambda x, step=step: x + jnp.asarray(step, x.dtype), fresh)
        save(checkpoints, changed, step, hole_l1)
    checkpoints.close()
    return folder


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found(two_checkpoints, fresh, tmp_path, damage):
    shutil.copytree(two_checkpoints, tmp_path / "run")
    checkpoints = Checkpoints(tmp_path / "run")
    assert int(checkpoints.restore(fresh, 3).state.step) == 3
    DAMAGES[damage](tmp_path / "run" / "checkpoints" / "3")
    with pytest.raises(DataError, match=r"checkpoints/3 is damaged \(.+\)") as caught:
        checkpoints.restore(fresh, 3)
    assert "\n" not in str(caught.value)
    assert int(checkpoints.restore(fresh, 2).state.step) == 2


@pytest.mark.parametrize("damage", ["truncated", "zeroed bytes", "no meta", "no completion"])
def test_completion_is_restored_from_the_newest_sound_checkpoint(two_checkpoints, tmp_path, damage, caplog):
    shutil.copytree(two_checkpoints, tmp_path / "run")
    DAMAGES[damage](tmp_path / "run" / "checkpoints" / "3")
    (tmp_path / "run" / "checkpoints" / "4").mkdir()
    _, meta = restore_network(tmp_path / "run")
    assert meta["step"] == 2
    for step in (3, 4):
        assert f"checkpoints/{step} is damaged" in caplog.text
    with pytest.raises(DataError, match="checkpoints/3 is damaged"):
        restore_network(tmp_path / "run", 3)


def test_a_checkpoint_that_cannot_be_opened_is_not_called_damaged(two_checkpoints, fresh, tmp_path):
    shutil.copytree(two_checkpoints, tmp_path / "run")
    manifest = next((tmp_path / "run" / "checkpoints" / "3" / "completion").glob("manifest*"))
    manifest.unlink()
    manifest.symlink_to(manifest)  # Fails to open for root, too.
    run = tmp_path / "run"
    for read in (lambda: restore_network(run), lambda: Checkpoints(run).restore(fresh, 3)):
        with pytest.raises(DataError, match=r"checkpoints/3 cannot be opened .*manifest.*: make it") as caught:
            read()
        assert not isinstance(caught.value, DamagedCheckpointError)


def test_zeroed_bytes_never_restore_as_wrong_numbers(two_checkpoints, fresh, tmp_path):
    # Orbax alone restores wrong numbers for some of them, without an error.
    shutil.copytree(two_checkpoints, tmp_path / "run")
    checkpoints = Checkpoints(tmp_path / "run")
    right = checkpoints.restore(fresh, 3).state
    refused = 0
    files = sorted(path for path in (tmp_path / "run" / "checkpoints" / "3").rglob("*") if path.is_file())
    for number, path in enumerate(files):
        sound = path.read_bytes()
        start = number % 3 * len(sound) // 3
        path.write_bytes(sound[:start] + bytes(len(sound[start : start + 64])) + sound[start + 64 :])
        try:
            assert_equal(checkpoints.restore(fresh, 3).state, right)
        except DataError:
            refused += 1
        path.write_bytes(sound)
    assert refused > 5
    assert_equal(checkpoints.restore(fresh, 3).state, right)


def test_checkpoints_are_set_aside_under_unique_names(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    moved = []
    for _ in range(2):
        (tmp_path / "checkpoints" / "3").mkdir(parents=True)
        moved.append(checkpoints.set_aside(3))
    assert [path.relative_to(tmp_path).as_posix() for path in moved] == [
        "checkpoints_set_aside/3",
        "checkpoints_set_aside/3_2",
    ]
    assert checkpoints.steps() == []


def test_full_disk_is_reported_before_anything_is_written(tmp_path, state, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, state, 1, 0.1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 10**4))
    with pytest.raises(DataError, match=r"a checkpoint needs \d+ MB, and .* has 0 MB free"):
        checkpoints.save(state.replace(step=jnp.asarray(2, jnp.int32)), {}, {}, {})
    checkpoints.close()
    assert checkpoints.steps() == [1]


def test_folder_whose_name_is_nearly_a_step_is_set_aside(tmp_path, state):
    (tmp_path / "checkpoints" / "05").mkdir(parents=True)
    (tmp_path / "checkpoints" / "notes").mkdir()
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.steps() == []
    assert checkpoints.set_strays_aside() == [tmp_path / "checkpoints_set_aside" / "05"]
    save(checkpoints, state, 5, 0.1)
    checkpoints.close()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["5", "notes"]
    assert [path.name for path in (tmp_path / "checkpoints_set_aside").iterdir()] == ["05"]


# A limit on the size of files acts like a full disk: the second checkpoint cannot be written.
FULL_DISK = """
import resource, signal, sys, json
from pathlib import Path
from training.test_checkpoints import *
from glcic_jax.errors import DataError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
config = shrink(load_config("joint"))
fresh = create_state(create_spec(config), jax.random.key(0), config.data.image_size, jnp.zeros(3))
checkpoints = Checkpoints(Path(sys.argv[1]))
save(checkpoints, fresh, 1, 0.1)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
try:
    save(checkpoints, fresh, 2, 0.1)
except DataError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(checkpoints.steps(), int(checkpoints.restore(fresh, 1).state.step))
"""


def test_failed_save_is_one_line_and_leaves_the_others_intact(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", FULL_DISK, tmp_path],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
            "JAX_PLATFORMS": "cpu",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    message, steps = result.stdout.splitlines()
    assert message.startswith(f"a checkpoint cannot be written to {tmp_path}/checkpoints (")
    assert message.endswith("existing checkpoints are intact")
    assert steps == "[1] 1"

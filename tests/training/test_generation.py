"""The GANs as a task of the loop: their step, runs that are stopped, several devices, bad data."""

import json
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.common import COMPILE_QUICKLY, GAN_CONFIGS, ROOT, load_config, one_line, shrink_gan
from helpers.idx_files import blobs, write_mnist
from helpers.runs import read_rows, saved_steps
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from PIL import Image

from glcic_jax.errors import ConfigError, DataError, DivergedError, Stopped
from glcic_jax.model.losses import discriminator_loss
from glcic_jax.training import loop
from glcic_jax.training.checkpoints import Checkpoints
from glcic_jax.training.distributed import AXIS, pmap_step, replicate, shard_batch, unreplicate
from glcic_jax.training.tasks import check_values, task_of
from glcic_jax.training.tasks.generation import GenerationTask, adversarial_step

pytestmark = pytest.mark.long_setup


@pytest.fixture(scope="module")
def mnist(tmp_path_factory):
    """A folder with the four files of MNIST, of blobs of 16 px."""
    return write_mnist(tmp_path_factory.mktemp("mnist"), 16)


def small_config(name, folder):
    config = shrink_gan(load_config(name))
    config.data.source = f"idx:{folder}"
    return config


def batch_of(config):
    side, channels = config.data.image_size, 1 if config.data.grey else 3
    image = np.repeat(blobs(config.batch_size, side)[0][..., None], channels, axis=-1)
    return {"image": image, "place": np.arange(config.batch_size, dtype=np.int32)}


@pytest.mark.parametrize("name", GAN_CONFIGS)
def test_steps_trace_at_full_size(name):
    config = load_config(name)
    task = GenerationTask(config)
    state = task.state_shapes()
    side = config.data.image_size
    batch = {
        "image": jax.ShapeDtypeStruct((config.batch_size, side, side, 1 if config.data.grey else 3), np.uint8),
        "place": jax.ShapeDtypeStruct((config.batch_size,), np.int32),
    }
    after, metrics = jax.eval_shape(adversarial_step, state, batch, jax.eval_shape(jax.random.key, 0))
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), after, state))
    assert tuple(vars(metrics)) == task.metrics
    assert all(leaf.shape == () and leaf.dtype == np.float32 for leaf in jax.tree.leaves(metrics))


@pytest.mark.parametrize("name", GAN_CONFIGS)
def test_both_networks_learn(name, mnist):
    config = small_config(name, mnist)
    task = GenerationTask(config)
    fresh = task.create_state(jax.random.key(0))
    step, key = jax.jit(adversarial_step), jax.random.key(1)
    state, first = step(fresh, batch_of(config), key)
    for network in ("generator", "discriminator"):
        before, after = (getattr(one, network).params for one in (fresh, state))
        moved = {
            name: bool((layer["kernel"] != after[name]["kernel"]).any())
            for name, layer in before.items()
            if "kernel" in layer
        }
        assert len(moved) > 2
        assert all(moved.values()), moved
    assert first.discriminator_loss == pytest.approx(2 * np.log(2), rel=0.5)
    for _ in range(40):
        state, last = step(state, batch_of(config), key)
    # D has learnt to tell noise from blobs.
    assert last.discriminator_loss < first.discriminator_loss
    assert int(state.step) == 41


def test_the_update_of_d_descends_its_loss(mnist):
    config = small_config("vanilla_gan", mnist)
    config.optimizer.sgd.learning_rate = 0.01
    task = GenerationTask(config)
    fresh = task.create_state(jax.random.key(0))
    batch = batch_of(config)
    latents = jax.vmap(fresh.spec.generator.draw_latent, (0, None))(jax.random.split(jax.random.key(5), 4), 8)
    fake = fresh.spec.generator.apply(fresh.generator.variables, latents)

    def loss(state):
        run = lambda image: state.spec.discriminator.apply(state.discriminator.variables, image)  # noqa: E731
        return float(discriminator_loss(run(batch["image"] / 255), run(fake)).mean())

    state = fresh
    for _ in range(5):
        state, _ = jax.jit(adversarial_step)(state, batch, jax.random.key(1))
    assert loss(state) < loss(fresh)


def test_accumulation_of_a_network_without_batch_norm_equals_the_whole_batch(mnist):
    config = small_config("vanilla_gan", mnist)
    states = []
    for config.accumulation_steps in (1, 2):
        state = GenerationTask(config).create_state(jax.random.key(0))
        states.append(jax.jit(adversarial_step)(state, batch_of(config), jax.random.key(1)))
    (one, one_metrics), (two, two_metrics) = states
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), one.items(), two.items())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), vars(one_metrics), vars(two_metrics))


class _StopAt:
    """Takes the place of `StopRequest`: a signal arrives during one step."""

    def __init__(self, step):
        self.step, self.signal = step, 15

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def is_due(self, step):
        return step == self.step


@pytest.fixture(scope="module", params=GAN_CONFIGS)
def runs(request, mnist, tmp_path_factory):
    """The configuration, the workdir of an unbroken run, and that of a run stopped at step 3 and resumed."""
    folder = tmp_path_factory.mktemp(request.param)
    config = small_config(request.param, mnist)
    loop.train(config, folder / "unbroken")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "StopRequest", lambda: _StopAt(3))
        with pytest.raises(Stopped):
            loop.train(config, folder / "stopped")
    assert saved_steps(folder / "stopped") == [2, 3]
    # As after kill -9: the newest checkpoint is lost.
    shutil.rmtree(folder / "stopped" / "checkpoints" / "3")
    loop.train(config, folder / "stopped")
    return config, folder / "unbroken", folder / "stopped"


def test_stopped_and_resumed_run_equals_unbroken_run(runs):
    config, *workdirs = runs
    fresh = GenerationTask(config).create_state(jax.random.key(0))
    unbroken, stopped = (Checkpoints(workdir).restore(fresh, 4) for workdir in workdirs)
    assert len(jax.tree.leaves(unbroken.state)) > 15
    jax.tree.map(np.testing.assert_array_equal, unbroken.state, stopped.state)
    assert unbroken.data_state == stopped.data_state == {"next_index": [16]}
    assert read_rows(workdirs[0]) == read_rows(workdirs[1])


def test_run_leaves_logs_grids_and_a_summary(runs):
    _, workdir, _ = runs
    rows = read_rows(workdir)
    assert [(row["step"], row["phase"]) for row in rows] == [(2, "adversarial"), (4, "adversarial")]
    for name in (*GenerationTask.metrics, "validation_diversity"):
        assert all(np.isfinite(row[name]) for row in rows), name
    grids = [np.asarray(Image.open(path)) for path in sorted((workdir / "grids").iterdir())]
    assert [grid.shape for grid in grids] == [(2 * 18 - 2, 2 * 18 - 2, 3)] * 2
    assert all(grid.std() > 0 for grid in grids)
    assert rows[0]["discriminator_loss"] != rows[1]["discriminator_loss"]
    summary = (workdir / "summary.md").read_text()
    for picture in ("samples.png", "real.png", "walk.png", "curves.png"):
        assert f"({picture})" in summary
        assert Image.open(workdir / picture).size > (10, 10)
    assert "| adversarial | 0 to 4 |" in summary


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network.width": 0.125}, "network.width 0.0625 -> 0.125"),
        ({"network.latent_size": 4}, "network.latent_size 8 -> 4"),
        ({"seed": 3}, "seed 0 -> 3"),
    ],
)
def test_another_network_is_not_resumed(runs, changes, message, tmp_path):
    config = runs[0].copy_and_resolve_references()
    shutil.copytree(runs[1], tmp_path / "run")
    config.update_from_flattened_dict(changes)
    with pytest.raises(ConfigError, match=message) as caught:
        loop.train(config, tmp_path / "run")
    one_line(caught)


def test_a_run_of_another_task_is_not_resumed(finished_run, mnist, tmp_path):
    shutil.copytree(finished_run, tmp_path / "run")
    with pytest.raises(ConfigError, match="task completion -> generation"):
        loop.train(small_config("vanilla_gan", mnist), tmp_path / "run")


def test_a_run_of_a_version_without_tasks_is_completion(finished_run, config, tmp_path):
    shutil.copytree(finished_run, tmp_path / "run")
    meta = json.loads((tmp_path / "run" / "checkpoints" / "3" / "meta" / "metadata").read_text())
    assert meta["config"].pop("task") == "completion"
    assert task_of(meta["config"]).inference_item == "completion"
    with pytest.raises(ConfigError, match="unknown task 'inpainting': choose one of completion, generation"):
        task_of({"task": "inpainting"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.image_size": 32}, "has 16 x 16 px, and data.image_size is 32"),
        ({"network.name": "wgan"}, "unknown network 'wgan': choose one of dcgan, vanilla_gan"),
        ({"loss.adversarial": "hinge"}, "unknown adversarial loss 'hinge': choose one of minimax, non_saturating"),
        ({"network.latent_size": 0}, "network.latent_size is 0: it must be above 0"),
        ({"optimizer.sgd.momentum": 1.0}, r"optimizer.sgd.momentum is 1.0: it must be in \[0, 1\)"),
        ({"optimizer.name": "adadelta"}, "unknown optimizer 'adadelta': choose one of adam, sgd"),
    ],
)
def test_bad_input_is_one_clear_line(changes, message, mnist, tmp_path):
    config = small_config("vanilla_gan", mnist)
    config.update_from_flattened_dict(changes)
    with pytest.raises((ConfigError, DataError), match=message) as caught:
        loop.train(config, tmp_path / "run")
    one_line(caught)


def test_divergence_stops_the_run(mnist, tmp_path):
    config = small_config("vanilla_gan", mnist)
    config.optimizer.sgd.learning_rate = 1e30
    with pytest.raises(DivergedError):
        loop.train(config, tmp_path / "run")
    assert saved_steps(tmp_path / "run") == []


def _train_on_devices(path):
    """Two updates of each GAN on all devices; writes the states."""
    written = {}
    for name in GAN_CONFIGS:
        config = shrink_gan(load_config(name))
        config.batch_size = 8
        # Adam divides by the size of the gradient, which amplifies the rounding of those near zero.
        config.optimizer.name = "sgd"
        task = GenerationTask(config, AXIS)
        state, key = replicate(task.create_state(jax.random.key(0))), replicate(jax.random.key(1))
        devices = NamedSharding(Mesh(np.array(jax.local_devices()), (AXIS,)), PartitionSpec(AXIS))
        batch = jax.device_put(shard_batch({"image": batch_of(config)["image"]}), devices)
        update = pmap_step(adversarial_step)
        for _ in range(2):
            state, metrics = update(state, batch, key)
        for where, leaf in jax.tree.leaves_with_path(unreplicate((state.items(), metrics))):
            written[f"{name}{jax.tree_util.keystr(where)}"] = np.asarray(leaf)
    np.savez(path, devices=np.array(jax.local_device_count()), **written)


def test_one_and_four_devices_agree(tmp_path):
    found = {}
    for count in (1, 4):
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={count} {COMPILE_QUICKLY}",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        }
        command = [sys.executable, __file__, str(tmp_path / f"{count}.npz")]
        process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert process.returncode == 0, process.stderr
        found[count] = dict(np.load(tmp_path / f"{count}.npz"))
    assert [int(arrays.pop("devices")) for arrays in found.values()] == [1, 4]
    assert found[1].keys() == found[4].keys()
    assert len(found[1]) > 40
    for name, value in found[1].items():
        # The gradient of a bias before BatchNorm is 0; what is left of it is rounding.
        np.testing.assert_allclose(found[4][name], value, rtol=1e-3, atol=5e-5, err_msg=name)


def test_a_generators_gradient_vanishes_with_the_minimax_loss_alone():
    # Goodfellow et al. 2014, Section 3.
    from glcic_jax.model.losses import ADVERSARIAL_LOSSES

    slopes = {
        name: float(jax.grad(lambda x, loss=loss: loss(x))(jnp.float32(-9.0)))
        for name, loss in ADVERSARIAL_LOSSES.items()
    }
    assert abs(slopes["minimax"]) < 1e-3 < abs(slopes["non_saturating"])


if __name__ == "__main__":
    _train_on_devices(sys.argv[1])


@pytest.mark.parametrize(
    ("name", "task", "section"), [("dcgan", "completion", "mask"), ("joint", "generation", "network")]
)
def test_a_configuration_of_another_task_is_refused(name, task, section):
    config = load_config(name)
    config.task = task
    with pytest.raises(ConfigError, match=f"task is '{task}', and the configuration has no section '{section}'"):
        check_values(config)

"""Every configuration: two train here one step of each phase, the others' steps trace at full size."""

import functools

import jax
import numpy as np
import pytest
from helpers.common import COMPLETION_CONFIGS, load_config, shrink

from glcic_jax.errors import ConfigError, DataError, UserError
from glcic_jax.model.convolutions import convolutions_of
from glcic_jax.training import loop
from glcic_jax.training.tasks.completion import STEPS, create_spec, state_shapes

# Different from one another in networks, input form, branches and optimizer. The third is the quickstart, which
# `unbroken_run` trains through main.py.
TRAINED = ("photos", "local_only")
# The keys that decide what the steps compute.
STEP_KEYS = ("batch_size", "completion", "discriminator", "mask", "loss", "optimizer", "balance", "compute_dtype")


def _step_options(name: str) -> str:
    config = load_config(name)
    return repr([config.data.image_size, *(config[key] for key in STEP_KEYS)])


# One configuration for each set of options: "folder" trains what "joint" trains.
DISTINCT = sorted({_step_options(name): name for name in COMPLETION_CONFIGS}.values())


@pytest.mark.parametrize("name", COMPLETION_CONFIGS)
def test_networks_of_every_config_fit_its_sizes(name):
    config = load_config(name)
    state = state_shapes(create_spec(config), config.data.image_size)
    branches = {f"{branch}_branch" for branch in config.discriminator.branches}
    assert set(state.discriminator.params if branches else ()) == branches | ({"linear"} if branches else set())


@pytest.mark.parametrize("name", DISTINCT)
def test_steps_trace_at_full_size(name):
    config = load_config(name)
    size = config.data.image_size
    state = state_shapes(create_spec(config), size)
    batch = {
        "image": jax.ShapeDtypeStruct((config.batch_size, size, size, 3), np.uint8),
        "place": jax.ShapeDtypeStruct((config.batch_size,), np.int32),
    }
    key = jax.eval_shape(jax.random.key, 0)
    phases = STEPS if state.discriminator is not None else ["completion"]
    for phase in phases:
        with convolutions_of("plain"):  # Those of each platform take longer to trace.
            after, metrics = jax.eval_shape(functools.partial(STEPS[phase]), state, batch, key)
        assert jax.tree.structure(after) == jax.tree.structure(state)
        assert jax.tree.all(jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), after, state))
        assert all(leaf.shape == () and leaf.dtype == np.float32 for leaf in jax.tree.leaves(metrics))


@pytest.mark.parametrize("name", TRAINED)
def test_shrunken_config_trains_one_step_of_each_phase(tmp_path, name):
    config = shrink(load_config(name))
    for phase in config.phases:
        config.phases[phase] = min(config.phases[phase], 1)
    state = loop.train(config, tmp_path / name)
    assert int(state.step) == sum(config.phases.values())
    assert (tmp_path / name / "summary.md").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [("batch_size", 0), ("accumulation_steps", 3), ("phases.completion", -1), ("data.image_size", 30)],
)
def test_invalid_sizes_are_refused_before_anything_is_written(tmp_path, config, key, value):
    config.update_from_flattened_dict({key: value})
    with pytest.raises(ConfigError, match=key.split(".")[-1].removesuffix("_steps")):
        loop.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_unwritable_workdir_is_one_clear_error(tmp_path, config):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="another --workdir"):
        loop.train(config, tmp_path / "file" / "run")


def test_divergence_stops_the_run_before_it_is_saved(tmp_path, config):
    config.optimizer.adadelta.learning_rate = 1e30
    config.phases.completion = 20
    config.log_every = 1
    config.checkpoint_every = 20
    with pytest.raises(UserError, match="diverged"):
        loop.train(config, tmp_path / "run")
    assert not [path for path in (tmp_path / "run" / "checkpoints").iterdir() if path.name.isdigit()]


def test_start_from_a_folder_that_is_no_run_is_refused(tmp_path, config):
    config.start_from = str(tmp_path / "missing")
    with pytest.raises(DataError, match="start_from"):
        loop.train(config, tmp_path / "run")

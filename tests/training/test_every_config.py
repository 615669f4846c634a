"""The loop in this process: every configuration, and what it refuses."""

import pytest
from helpers.common import CONFIGS, load_config, shrink

from glcic_jax.errors import ConfigError, DataError, UserError
from glcic_jax.training import loop
from glcic_jax.training.state import create_spec, state_shapes

# Of the configurations that are the very same once they are shrunk, the first.
DISTINCT = {shrink(load_config(name)).to_json_best_effort(): name for name in reversed(CONFIGS)}.values()


@pytest.mark.parametrize("name", CONFIGS)
def test_the_networks_of_every_config_fit_its_sizes(name):
    config = load_config(name)
    shapes = state_shapes(create_spec(config, None), config.data.image_size)
    branches = {f"{branch}_branch" for branch in config.discriminator.branches}
    assert set(shapes.discriminator.params if branches else ()) == branches | ({"linear"} if branches else set())


@pytest.mark.parametrize("name", sorted(DISTINCT))
def test_a_shrunken_config_trains_one_step_of_each_phase(tmp_path, name):
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
def test_sizes_that_do_not_fit_are_refused_before_anything_is_written(tmp_path, config, key, value):
    config.update_from_flattened_dict({key: value})
    with pytest.raises(ConfigError, match=key.split(".")[-1].removesuffix("_steps")):
        loop.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_unwritable_workdir_is_one_clear_error(tmp_path, config):
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


def test_start_from_a_folder_that_is_no_run(tmp_path, config):
    config.start_from = str(tmp_path / "missing")
    with pytest.raises(DataError, match="start_from"):
        loop.train(config, tmp_path / "run")

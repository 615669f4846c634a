"""Which configurations can run, and which may go on from a checkpoint."""

import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.common import load_config, shrink

from glcic_jax.errors import ConfigError, DataError
from glcic_jax.training.checkpoints import Checkpoints
from glcic_jax.training.config_checks import check_values
from glcic_jax.training.resume import restore_run
from glcic_jax.training.schedule import PHASE_NAMES, create_schedule
from glcic_jax.training.state import create_spec, create_state

STEP = 3  # One step into the discriminator's phase of 2, 2, 2.


def save(checkpoints, state, config, step, without=None):
    plain = json.loads(config.to_json_best_effort())
    if without is not None:
        del plain["data"][without]
    metrics = {"hole_l1": 0.1}
    checkpoints.save(state.replace(step=jnp.asarray(step, jnp.int32)), {"next_index": [4 * step]}, plain, metrics)
    checkpoints.wait()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run with a checkpoint at STEP, and its state; to copy."""
    config = shrink(load_config("joint"))
    state = create_state(create_spec(config), jax.random.key(0), config.data.image_size, jnp.zeros(3))
    folder = tmp_path_factory.mktemp("made")
    checkpoints = Checkpoints(folder)
    save(checkpoints, state, config, STEP)
    checkpoints.close()
    return folder, state


@pytest.fixture
def run(tmp_path, config, made):
    """A workdir with a checkpoint at STEP; `run(changes)` tries to go on with them."""
    shutil.copytree(made[0], tmp_path / "run")
    checkpoints = Checkpoints(tmp_path / "run")

    def go_on(changes, workdir="run"):
        config.update_from_flattened_dict(changes)
        schedule = create_schedule([(name, config.phases[name]) for name in PHASE_NAMES])
        said = []
        own = checkpoints if workdir == "run" else Checkpoints(tmp_path / workdir)
        return restore_run(config, go_on.state, own, schedule, said.append), said

    go_on.checkpoints, go_on.state = checkpoints, made[1]
    yield go_on
    checkpoints.close()


def test_the_same_configuration_goes_on(run):
    restored, said = run({})
    assert int(restored.state.step) == STEP
    assert restored.data_state == {"next_index": [12]}
    assert said == ["going on from step 3 of 6 (phase discriminator)"]


@pytest.mark.parametrize(
    "changes",
    [{"log_every": 7}, {"phases.joint": 9}, {"phases.discriminator": 5}, {"loss.alpha": 0.01}, {"batch_size": 8}],
)
def test_what_may_change_is_told(run, changes):
    _, said = run(changes)
    (key, value), *_ = changes.items()
    assert f"{key} " in said[0]
    assert f"-> {value}" in said[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"data.source": "folder:elsewhere"},
        {"data.image_size": 16},
        {"phases.completion": 1},
        {"completion.ema_decay": 0.9},
        {"data.listing": "elsewhere.csv"},
        {"completion.width": 0.125},
        {"data.mean_pixel": (0.1, 0.2, 0.3)},
        {"optimizer.name": "adam"},
        {"completion.input_form": "signed"},
        {"completion.output_activation": "clip"},
        {"discriminator.layer_order": "conv_relu_bn"},
    ],
)
def test_another_run_is_refused(run, changes):
    with pytest.raises(ConfigError, match="name another --workdir") as caught:
        run(changes)
    assert next(iter(changes)) in str(caught.value)


def test_a_key_that_is_newer_than_the_run_was_off_in_it(run, config):
    save(run.checkpoints, run.state, config, 4, without="listing")
    assert run({})[1] == ["going on from step 4 of 6 (phase joint)"]
    with pytest.raises(ConfigError, match=r"data\.listing None -> elsewhere\.csv"):
        run({"data.listing": "elsewhere.csv"})


def test_a_decay_begins_with_the_run_or_not_at_all(run, config, create):
    _, said = run({"optimizer.adam.decay_steps": 5})  # AdaDelta has none.
    assert "optimizer.adam.decay_steps 0 -> 5" in said[0]
    config.optimizer.name = "adam"
    config.optimizer.adam.decay_steps = 0  # run() changes the configuration that it was given.
    save(run.checkpoints, create(config), config, 4)
    with pytest.raises(ConfigError, match=r"optimizer\.adam\.decay_steps 0 -> 5"):
        run({"optimizer.adam.decay_steps": 5})


def test_a_phase_cut_short_before_the_checkpoint_is_refused(run):
    with pytest.raises(ConfigError, match="phases"):
        run({"phases.discriminator": 0})


def test_damaged_checkpoints_are_passed_over_and_set_aside(run, config, tmp_path):
    save(run.checkpoints, run.state, config, 4)
    folder = tmp_path / "run" / "checkpoints"
    (folder / "4" / "meta" / "metadata").write_text("{")
    (folder / "6").mkdir()
    (folder / "05").mkdir()
    restored, said = run({})
    assert said.pop(0).startswith("05 among the checkpoints is none: moved to ")
    assert int(restored.state.step) == STEP
    assert "passed over: checkpoint" in said[0]
    assert "checkpoints/6 is damaged" in said[0]
    assert "checkpoints/4 is damaged" in said[1]
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints_set_aside").iterdir()) == ["05", "4", "6"]
    assert run.checkpoints.steps() == [STEP]


def test_a_checkpoint_of_other_networks_among_the_run_s_own_is_passed_over(run, config, create, tmp_path):
    width = config.completion.width
    config.completion.width = 2 * width
    save(run.checkpoints, create(config), config, 5)
    restored, said = run({"completion.width": width})
    assert int(restored.state.step) == STEP
    assert f"completion.width {2 * width} -> {width}" in said[0]
    assert (tmp_path / "run" / "checkpoints_set_aside" / "5").is_dir()


def test_a_run_of_damaged_checkpoints_alone_is_not_begun_anew(run, tmp_path):
    shutil.rmtree(tmp_path / "run" / "checkpoints" / str(STEP) / "completion")
    with pytest.raises(DataError, match=r"no checkpoint is sound: .*checkpoints/3 is damaged .*another --workdir"):
        run({})
    # Nothing was moved: it is the user's to decide.
    assert run.checkpoints.steps() == [STEP]


def test_start_from_passes_damaged_checkpoints_over_and_leaves_them_where_they_are(run, config, tmp_path):
    save(run.checkpoints, run.state, config, 4)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "4" / "meta")
    restored, _ = run({"start_from": str(tmp_path / "run")}, workdir="new")
    assert int(restored.state.step) == STEP
    assert run.checkpoints.steps() == [STEP, 4]


def test_start_from_another_run_takes_its_step_and_may_differ(run, tmp_path):
    restored, said = run({"start_from": str(tmp_path / "run"), "seed": 5}, workdir="new")
    assert int(restored.state.step) == STEP
    assert said[-1] == "going on from step 3 of 6 (phase discriminator)"
    assert "seed 0 -> 5" in said[0]


def test_start_from_a_run_with_other_phases_behind_it_is_refused(run, tmp_path):
    with pytest.raises(ConfigError, match=r"phases\.completion 2 -> 30"):
        run({"start_from": str(tmp_path / "run"), "phases.completion": 30}, workdir="new")


def test_a_discriminator_that_was_not_trained_yet_may_be_another(run, config, create, tmp_path):
    begun = Checkpoints(tmp_path / "begun")
    save(begun, run.state, config, 2)
    begun.close()
    changes = {"discriminator.branches": ("local",), "discriminator.layer_order": "conv_relu_bn"}
    with pytest.raises(ConfigError, match=r"discriminator\.branches"):
        run({**changes, "start_from": str(tmp_path / "run")}, workdir="new")
    trained, run.state = run.state, create(config)
    restored, said = run({"start_from": str(tmp_path / "begun")}, workdir="new")
    assert said[-1] == "going on from step 2 of 6 (phase discriminator)"
    same = functools.partial(jax.tree.map, np.testing.assert_array_equal)
    same(restored.state.discriminator, run.state.discriminator)
    same(restored.state.completion, trained.completion)


def test_start_from_a_run_without_a_finished_checkpoint_is_refused(run, tmp_path):
    (tmp_path / "begun" / "checkpoints").mkdir(parents=True)
    with pytest.raises(DataError, match="no finished checkpoint"):
        run({"start_from": str(tmp_path / "begun")}, workdir="new")


def test_nothing_to_go_on_from(run):
    assert run({}, workdir="new") == (None, [])


def test_a_schedule_that_is_over_is_told(run):
    _, said = run({"phases.joint": 0, "phases.discriminator": 1})
    assert "all 3 steps are done" in said[-1]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("accumulation_steps", 0),
        ("accumulation_steps", -2),
        ("batch_size", 0),
        ("batch_size", -4),
        ("data.threads", 0),
        ("data.prefetch", 0),
        ("data.mean_pixel", (0.5, 0.5)),
        ("data.mean_pixel", (0.5, 0.5, 127.0)),
        ("data.image_size", 8),
        ("data.resize_range", (16, 48)),
        ("data.resize_range", (48, 40)),
        ("completion.ema_decay", 1.0),
        ("completion.width", 0.0),
        ("validation_images", 0),
        ("grid_images", 0),
        ("keep_checkpoints", 0),
        ("seed", -1),
        ("seed", 2**63),
        ("data.resize_range", (32,)),
        ("data.resize_range", (32, 48, 32, 40)),
        ("data.validation_fraction", 2.0),
        ("data.max_skipped_fraction", -1.0),
        ("data.cache_images", -1),
        ("discriminator.global_channels", ()),
        ("discriminator.local_channels", (64, 0)),
        ("optimizer.adadelta.rho", 2.0),
        ("optimizer.adadelta.learning_rate", -1.0),
        ("optimizer.adam.decay_steps", -1),
        ("log_every", -1),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(config, key, value):
    check_values(config)
    config.update_from_flattened_dict({key: value})
    with pytest.raises(ConfigError, match=key.replace(".adadelta.learning", ".learning")):
        check_values(config)


def test_a_batch_must_divide_into_parts(config):
    config.accumulation_steps = 3
    with pytest.raises(ConfigError, match="batch_size 4 must be a multiple of"):
        check_values(config)

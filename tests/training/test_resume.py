"""The checkpoint that a run resumes from, and the configurations that may resume it."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.common import load_config, one_line, shrink

from glcic_jax.data import fingerprint, open_sources
from glcic_jax.errors import ConfigError, DataError
from glcic_jax.training.checkpoints import Checkpoints
from glcic_jax.training.resume import restore_run
from glcic_jax.training.schedule import create_schedule
from glcic_jax.training.tasks.completion import STEPS, CompletionTask, create_spec, create_state

STEP = 3  # One step into the discriminator's phase of 2, 2, 2.


def save(checkpoints, state, config, step, without=None, **more):
    plain = json.loads(config.to_json_best_effort())
    if without is not None:
        del plain["data"][without]
    metrics = {"hole_l1": 0.1}
    checkpoints.save(
        state.replace(step=jnp.asarray(step, jnp.int32)), {"next_index": [4 * step]}, plain, metrics, **more
    )
    checkpoints.wait()


@pytest.fixture(scope="module")
def saved_run(tmp_path_factory):
    """A run with a checkpoint at STEP, and its state; to copy."""
    config = shrink(load_config("joint"))
    state = create_state(create_spec(config), jax.random.key(0), config.data.image_size, jnp.zeros(3))
    workdir = tmp_path_factory.mktemp("saved")
    checkpoints = Checkpoints(workdir)
    save(checkpoints, state, config, STEP)
    checkpoints.close()
    return workdir, state


@pytest.fixture
def run(tmp_path, config, saved_run):
    """A workdir with a checkpoint at STEP; `run(changes)` tries to resume with a changed configuration."""
    shutil.copytree(saved_run[0], tmp_path / "run")
    checkpoints = Checkpoints(tmp_path / "run")

    def go_on(changes, workdir="run", images=None):
        config.update_from_flattened_dict(changes)
        schedule = create_schedule([(name, config.phases[name]) for name in STEPS])
        lines = []
        own = checkpoints if workdir == "run" else Checkpoints(tmp_path / workdir)
        restored = restore_run(
            config, CompletionTask(config), go_on.state, own, schedule, images or {}, lines.append
        )
        return restored, lines

    go_on.checkpoints, go_on.state = checkpoints, saved_run[1]
    yield go_on
    checkpoints.close()


def test_same_configuration_goes_on(run):
    restored, lines = run({})
    assert int(restored.state.step) == STEP
    assert restored.data_state == {"next_index": [12]}
    assert lines == ["resuming from step 3 of 6 (phase discriminator)"]


def test_permitted_changes_are_reported(run):
    changes = {"log_every": 7, "phases.joint": 9, "phases.discriminator": 5, "loss.alpha": 0.01, "batch_size": 8}
    _, lines = run(changes)
    assert lines[0].startswith("changed since then: ")
    for key, value in changes.items():
        assert f"{key} " in lines[0]
        assert f"-> {value}" in lines[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"data.source": "folder:elsewhere"},
        {"data.image_size": 16},
        {"phases.completion": 1},
        {"phases.discriminator": 0},  # Cut short before the checkpoint.
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
    with pytest.raises(ConfigError, match="give another --workdir") as caught:
        run(changes)
    assert next(iter(changes)) in str(caught.value)


def fingerprints(folder: Path, **changes: str) -> dict[str, dict[str, int]]:
    data = load_config("joint").data
    data.update(source=f"folder:{folder}", validation_fraction=0.3, **changes)
    return {part: fingerprint(source) for part, source in open_sources(data)._asdict().items()}


@pytest.fixture
def photographs(tmp_path) -> Path:
    for number in range(12):
        path = tmp_path / "photographs" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(100 + number))
    return tmp_path / "photographs"


def test_the_same_images_go_on_wherever_they_lie(run, config, photographs):
    images = fingerprints(photographs)
    save(run.checkpoints, run.state, config, 4, fingerprints=images)
    moved = photographs.rename(photographs.with_name("moved"))
    assert fingerprints(f"{moved}/") == images
    _, lines = run({"data.source": f"folder:{moved}/"}, images=fingerprints(f"{moved}/"))
    assert lines[0].startswith("changed since then: data.source ")


def test_other_images_under_the_same_name_are_refused(run, config, photographs):
    save(run.checkpoints, run.state, config, 4, fingerprints=fingerprints(photographs))
    for path in photographs.iterdir():
        path.write_bytes(bytes(1_000))
    with pytest.raises(
        ConfigError, match=r"has no image in common with these.*--config\.start_from=RUN"
    ) as caught:
        run({}, images=fingerprints(photographs))
    one_line(caught)


def test_images_may_be_added_to_a_folder_but_not_with_another_place(run, config, photographs):
    save(run.checkpoints, run.state, config, 4, fingerprints=fingerprints(photographs))
    (photographs / "new.png").write_bytes(b"new")
    assert run({}, images=fingerprints(photographs))[0] is not None
    with pytest.raises(ConfigError, match=r"data\.source .*--config\.start_from=RUN"):
        run({"data.source": "folder:elsewhere"}, images=fingerprints(photographs))


def test_key_that_is_newer_than_the_run_was_off(run, config):
    save(run.checkpoints, run.state, config, 4, without="listing")
    assert run({})[1] == ["resuming from step 4 of 6 (phase joint)"]
    with pytest.raises(ConfigError, match=r"data\.listing None -> elsewhere\.csv"):
        run({"data.listing": "elsewhere.csv"})


def test_learning_rate_decay_starts_with_the_run_or_not_at_all(run, config, create):
    _, lines = run({"optimizer.adam.decay_steps": 5})  # AdaDelta has none.
    assert "optimizer.adam.decay_steps 0 -> 5" in lines[0]
    config.optimizer.name = "adam"
    config.optimizer.adam.decay_steps = 0
    save(run.checkpoints, create(config), config, 4)
    with pytest.raises(ConfigError, match=r"optimizer\.adam\.decay_steps 0 -> 5"):
        run({"optimizer.adam.decay_steps": 5})


def test_damaged_checkpoints_are_passed_over_and_set_aside(run, config, tmp_path):
    save(run.checkpoints, run.state, config, 4)
    folder = tmp_path / "run" / "checkpoints"
    (folder / "4" / "meta" / "metadata").write_text("{")
    (folder / "6").mkdir()
    (folder / "05").mkdir()
    restored, lines = run({})
    assert lines[0].startswith("05 in the folder of checkpoints is not a checkpoint: moved to ")
    assert int(restored.state.step) == STEP
    assert lines[1].startswith("passed over: checkpoint")
    assert "checkpoints/6 is damaged" in lines[1]
    assert "checkpoints/4 is damaged" in lines[2]
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints_set_aside").iterdir()) == ["05", "4", "6"]
    assert run.checkpoints.steps() == [STEP]


def test_checkpoint_of_other_networks_in_the_workdir_is_passed_over(run, config, create, tmp_path):
    width = config.completion.width
    config.completion.width = 2 * width
    save(run.checkpoints, create(config), config, 5)
    restored, lines = run({"completion.width": width})
    assert int(restored.state.step) == STEP
    assert f"completion.width {2 * width} -> {width}" in lines[0]
    assert (tmp_path / "run" / "checkpoints_set_aside" / "5").is_dir()


def test_run_of_damaged_checkpoints_alone_is_not_restarted(run, tmp_path):
    shutil.rmtree(tmp_path / "run" / "checkpoints" / str(STEP) / "completion")
    with pytest.raises(DataError, match=r"no checkpoint is sound: .*checkpoints/3 is damaged .*another --workdir"):
        run({})
    # Nothing is moved: the user decides.
    assert run.checkpoints.steps() == [STEP]


def test_run_of_a_version_with_another_optimizer_state_is_refused_and_kept(run, config):
    completion = run.state.completion
    balance, _, *others = completion.optimizer_state
    old = run.state.replace(completion=completion.replace(optimizer_state=(balance, *others)))
    save(run.checkpoints, old, config, 4)
    with pytest.raises(
        ConfigError, match=r"checkpoints/4 was saved by another version .* another --workdir"
    ) as caught:
        run({})
    one_line(caught)
    assert run.checkpoints.steps() == [STEP, 4]


def test_start_from_passes_over_damaged_checkpoints_without_moving_them(run, config, tmp_path):
    save(run.checkpoints, run.state, config, 4)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "4" / "meta")
    restored, _ = run({"start_from": str(tmp_path / "run")}, workdir="new")
    assert int(restored.state.step) == STEP
    assert run.checkpoints.steps() == [STEP, 4]


def test_start_from_takes_the_step_of_another_run_which_may_differ(run, tmp_path):
    restored, lines = run({"start_from": str(tmp_path / "run"), "seed": 5}, workdir="new")
    assert int(restored.state.step) == STEP
    assert lines[-1] == "resuming from step 3 of 6 (phase discriminator)"
    assert "seed 0 -> 5" in lines[0]


def test_start_from_a_run_with_other_past_phases_is_refused(run, tmp_path):
    with pytest.raises(ConfigError, match=r"phases\.completion 2 -> 30"):
        run({"start_from": str(tmp_path / "run"), "phases.completion": 30}, workdir="new")


def test_discriminator_may_change_before_it_is_trained(run, config, create, tmp_path):
    phase_1 = Checkpoints(tmp_path / "phase_1")
    save(phase_1, run.state, config, 2)
    phase_1.close()
    changes = {"discriminator.branches": ("local",), "discriminator.layer_order": "conv_relu_bn"}
    with pytest.raises(ConfigError, match=r"discriminator\.branches"):
        run({**changes, "start_from": str(tmp_path / "run")}, workdir="new")
    trained, run.state = run.state, create(config)
    restored, lines = run({"start_from": str(tmp_path / "phase_1")}, workdir="new")
    assert lines[-1] == "resuming from step 2 of 6 (phase discriminator)"
    jax.tree.map(np.testing.assert_array_equal, restored.state.discriminator, run.state.discriminator)
    jax.tree.map(np.testing.assert_array_equal, restored.state.completion, trained.completion)


def test_start_from_a_run_without_a_finished_checkpoint_is_refused(run, tmp_path):
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    with pytest.raises(DataError, match="no finished checkpoint"):
        run({"start_from": str(tmp_path / "empty")}, workdir="new")


def test_new_workdir_has_nothing_to_go_on_from(run):
    assert run({}, workdir="new") == (None, [])


def test_finished_schedule_is_reported(run):
    _, lines = run({"phases.joint": 0, "phases.discriminator": 1})
    assert "all 3 steps are done" in lines[-1]

"""A run that begins with weights."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.common import ROOT

from glcic_jax.errors import ConfigError
from glcic_jax.training.loop import train
from glcic_jax.training.setup import create_run
from glcic_jax.weights import find_weights


@pytest.fixture
def config(unbroken_run, unbroken_config):
    unbroken_config.completion.initial_weights = str(unbroken_run)
    unbroken_config.completion.ema_decay = 0.9
    return unbroken_config


def test_run_begins_with_the_weights_of_another(config, tmp_path):
    run, state = create_run(config, tmp_path / "run", find_weights)
    with run:
        weights = find_weights(config.completion.initial_weights).weights
        jax.tree.map(np.testing.assert_array_equal, state.inference_variables, weights.variables)
        jax.tree.map(np.testing.assert_array_equal, state.completion.variables, weights.variables)
        np.testing.assert_array_equal(state.mean_pixel, jnp.float32(weights.description.mean_pixel))
        assert int(state.step) == 0


def test_run_trains_from_weights(config, tmp_path):
    config.phases.update(completion=1, discriminator=0, joint=0)
    state = train(config, tmp_path / "run", find_weights)
    before = find_weights(config.completion.initial_weights).weights.variables["params"]["conv1"]["kernel"]
    assert int(state.step) == 1
    assert 0 < np.abs(state.completion.params["conv1"]["kernel"] - before).max() < 0.1


def test_weights_of_another_network_are_refused_with_the_options_they_need(config, tmp_path):
    config.completion.width = 1 / 8
    config.completion.input_form = "mean_subtracted"
    with pytest.raises(ConfigError) as error:
        create_run(config, tmp_path / "run", find_weights)
    assert "--config.completion.width=0.0625 --config.completion.input_form=smooth_filled" in str(error.value)


def test_weights_and_another_run_are_not_both_begun_with(config, unbroken_run, tmp_path):
    config.start_from = str(unbroken_run)
    with pytest.raises(ConfigError, match=r"start_from and completion\.initial_weights both"):
        create_run(config, tmp_path / "run", find_weights)


def test_program_without_a_reader_of_weights_is_told(config, tmp_path):
    with pytest.raises(ConfigError, match="was given no `find_weights`"):
        create_run(config, tmp_path / "run")


@pytest.mark.parametrize(
    ("name", "answer"), [("photos", "it needs --config.completion"), ("phtos", "phtos: no such file, run or name")]
)
@pytest.mark.parametrize(
    "program", [("main.py", "--config=configs/faces.py"), ("-m", "glcic_jax", "train", "--config=faces")]
)
def test_main_and_the_command_read_weights(tmp_path, program, name, answer):
    command = [sys.executable, *program, f"--workdir={tmp_path / 'run'}"]
    options = ["--config.data.source=samples", f"--config.completion.initial_weights={name}"]
    result = subprocess.run([*command, *options], check=False, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    assert answer in result.stderr
    assert "Traceback" not in result.stderr

"""`glcic compare` as a user runs it; `test_report.py` tests its page."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.common import command_runner, load_config, shrink

from glcic_jax.commands.main import cli
from glcic_jax.errors import UserError
from glcic_jax.training.checkpoints import Checkpoints
from glcic_jax.training.tasks.completion import create_spec, create_state


def make_run(state, workdir: Path, seed: int, **changes) -> None:
    config = shrink(load_config("joint"))
    config.update_from_flattened_dict({"seed": seed, **changes})
    checkpoints = Checkpoints(workdir)
    plain = json.loads(config.to_json_best_effort())
    checkpoints.save(state.replace(step=np.int32(6)), {"next_index": [4]}, plain, {})
    checkpoints.close()
    rows = [{"step": step, "phase": "completion", "reconstruction_loss": seed + 1 / step} for step in (2, 4, 6)]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    config, mean_pixel = shrink(load_config("joint")), np.array([0.5, 0.45, 0.4], np.float32)
    state = create_state(create_spec(config), jax.random.key(1), config.data.image_size, mean_pixel)
    make_run(state, folder / "runs/one", 1)
    make_run(state, folder / "runs/two", 2, **{"loss.alpha": 0.0625})
    other_data = {"data.validation_fraction": 0.5, "data.image_size": 48, "data.resize_range": (48, 64)}
    make_run(state, folder / "runs/other", 3, **other_data)
    return folder


@pytest.fixture
def page(tmp_path, monkeypatch, made) -> Path:
    monkeypatch.chdir(made)
    monkeypatch.setenv("GLCIC_HOME", str(made / "home"))
    return tmp_path / "compare.html"


def compare(page, *arguments) -> str:
    """What it writes to stderr; the message if it is an error for the user."""
    result = command_runner().invoke(cli, ["compare", *arguments, "-o", str(page)])
    if isinstance(result.exception, UserError):
        assert result.exception.exit_code == 2
        assert len(str(result.exception).splitlines()) == 1
        return str(result.exception)
    assert result.exit_code == 0, result.output
    return result.stderr


def test_runs_are_compared_on_the_images_they_validate_on(page):
    page.write_text("precious")
    assert "--overwrite" in compare(page, "runs/one", "runs/two")
    assert page.read_text() == "precious"
    assert f"the comparison: {page}" in compare(page, "runs/one", "runs/two", "--overwrite")
    text = page.read_text()
    for phrase in (
        "runs/one, step 6",
        "runs/two, step 6",
        "loss.alpha",
        "0.0625",
        "samples, validation: all 40 images",
        "32 px",
        'class="curves" src="data:image/svg+xml',
    ):
        assert phrase in text, phrase
    assert "mask.sampler" not in text  # The same in both.
    assert "http://" not in text
    assert 'src="data:image/jpeg' in text


def test_runs_with_different_data_and_sizes_need_both_options(page):
    assert "give --size" in compare(page, "runs/one", "runs/other")
    assert "give --data" in compare(page, "runs/one", "runs/other", "--size", "32")
    assert not page.exists()
    compare(page, "runs/one", "runs/other", "--size", "32", "--data", "samples", "--count", "1")
    assert "data.image_size" in page.read_text()


def test_wrong_runs_are_one_line(page):
    assert "is named twice" in compare(page, "runs/one", "runs/one")
    assert "none of these is a run" in compare(page, "photos")
    result = command_runner().invoke(cli, ["compare", "runs/one", "runs/nothing", "-o", str(page)])
    assert isinstance(result.exception, UserError)
    assert "runs/nothing" in str(result.exception)
    assert not page.exists()

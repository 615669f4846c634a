"""`glcic compare` as a user runs it."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.common import command_runner, load_config, shrink

from glcic_jax.commands.main import cli
from glcic_jax.errors import UserError
from glcic_jax.training.checkpoints import Checkpoints
from glcic_jax.training.state import create_spec, create_state


def make_run(workdir: Path, seed: int, **changes) -> None:
    config = shrink(load_config("joint"))
    config.update_from_flattened_dict({"seed": seed, **changes})
    mean_pixel = np.array([0.5, 0.45, 0.4], np.float32)
    state = create_state(create_spec(config), jax.random.key(seed), config.data.image_size, mean_pixel)
    checkpoints = Checkpoints(workdir)
    plain = json.loads(config.to_json_best_effort())
    checkpoints.save(state.replace(step=np.int32(6)), {"next_index": [4]}, plain, {})
    checkpoints.close()
    rows = [{"step": step, "phase": "completion", "reconstruction_loss": seed + 1 / step} for step in (2, 4, 6)]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    make_run(folder / "one", 1)
    make_run(folder / "two", 2, **{"loss.alpha": 0.0625})
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch, made) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GLCIC_HOME", str(tmp_path / "home"))
    shutil.copytree(made, tmp_path / "runs")
    return tmp_path


def compare(*arguments: str) -> str:
    result = command_runner().invoke(cli, ["compare", *arguments])
    if isinstance(result.exception, UserError):
        assert result.exception.exit_code == 2
        return str(result.exception)
    assert result.exit_code == 0, result.output
    return result.stderr


def test_runs_are_compared_on_what_they_validate_on(here):
    said = compare("runs/one", "runs/two", "-o", "compare.html")
    assert "the comparison: compare.html" in said
    page = Path("compare.html").read_text()
    for phrase in (
        "runs/one, step 6",
        "runs/two, step 6",
        "loss.alpha",
        "0.0625",
        "samples, validation: all 2 images",
    ):
        assert phrase in page, phrase
    assert "32 px" in page
    # Nothing that both have alike.
    assert "mask.sampler" not in page
    # In itself complete.
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert 'src="data:image' in page


def test_an_old_page_is_not_replaced_unasked(here):
    Path("compare.html").write_text("precious")
    assert "--overwrite" in compare("runs/one", "runs/two", "-o", "compare.html")
    assert Path("compare.html").read_text() == "precious"
    compare("runs/one", "runs/two", "-o", "compare.html", "--overwrite")
    assert "runs/two" in Path("compare.html").read_text()


def test_runs_of_other_data_and_sizes_need_both_to_be_named(here):
    make_run(
        here / "runs" / "other",
        3,
        **{"data.validation_fraction": 0.5, "data.image_size": 48, "data.resize_range": (48, 64)},
    )
    assert "give --size" in compare("runs/one", "runs/other", "-o", "a.html")
    assert "give --data" in compare("runs/one", "runs/other", "--size", "32", "-o", "a.html")
    compare("runs/one", "runs/other", "--size", "32", "--data", "samples", "--count", "1", "-o", "a.html")
    assert "data.image_size" in Path("a.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["runs/one", "runs/one", "-o", "a.html"], "is named twice"),
        (["runs/one", "runs/nothing", "-o", "a.html"], "runs/nothing"),
    ],
)
def test_wrong_arguments_are_one_line(here, arguments, said):
    result = command_runner().invoke(cli, ["compare", *arguments])
    assert isinstance(result.exception, UserError)
    assert said in str(result.exception)
    assert not Path("a.html").exists()

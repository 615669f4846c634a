"""The judge on synthetic patches, and `--judge` as a user runs it."""

import csv
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.common import command_runner
from PIL import Image
from skimage import data

from glcic_jax.commands.main import cli
from glcic_jax.evaluation import judge
from glcic_jax.evaluation.judge import judged_right, patch_box

COUNT = 24


@pytest.fixture(autouse=True, scope="module")
def few_steps():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judge, "STEPS", 60)
        yield


@pytest.fixture(scope="module")
def patches():
    """Real patches with their masks, [N, 16, 16, 4] uint8."""
    photograph = data.astronaut()
    places = np.random.default_rng(0).integers(0, 480, (2 * COUNT, 2))
    real = np.stack([photograph[row : row + 16, column : column + 16] for row, column in places])
    mask = np.zeros((*real.shape[:3], 1), np.uint8)
    mask[:, 3:13, 4:14] = 255
    return np.concatenate([real, mask], axis=-1)


def test_copies_of_the_originals_cannot_be_told(patches):
    found = judged_right(patches, patches[..., :3])
    assert np.isnan(found[::2]).all()
    assert (found[1::2] == 0.5).all()


def test_flat_holes_are_told_on_images_that_it_has_not_seen(patches):
    flat = np.where(patches[..., 3:] > 0, np.uint8(128), patches[..., :3])
    found = judged_right(patches, flat)
    assert np.isnan(found[::2]).all()
    assert set(found[1::2]) <= {0.0, 0.5, 1.0}
    assert found[1::2].mean() > 0.9
    np.testing.assert_array_equal(judged_right(patches, flat), found)


def test_labels_without_a_pattern_are_not_told_on_other_images(patches):
    # One picture of each pair is changed, by chance the real or the completed one.
    changed = np.where(patches[..., 3:] > 0, np.uint8(128), patches[..., :3])
    swapped = (np.random.default_rng(1).random(len(patches)) < 0.5)[:, None, None, None]
    real = np.concatenate([np.where(swapped, changed, patches[..., :3]), patches[..., 3:]], axis=-1)
    found = judged_right(real, np.where(swapped, patches[..., :3], changed))
    assert 0.1 < np.nanmean(found) < 0.9


def test_the_odd_pairs_do_not_train(patches):
    flat = np.where(patches[..., 3:] > 0, np.uint8(128), patches[..., :3])
    other = flat.copy()
    other[-1] = patches[-1, ..., :3]
    expected = judged_right(patches, flat)
    expected[-1] = 0.5
    np.testing.assert_array_equal(judged_right(patches, other), expected)


@pytest.mark.parametrize(
    ("shape", "hole", "rows", "columns"),
    [
        ((64, 64), np.s_[20:40, 24:44], (14, 46), (18, 50)),
        ((64, 64), np.s_[:10, 60:], (0, 32), (32, 64)),
        ((40, 90), np.s_[30:31, 50:51], (20, 40), (40, 60)),
        ((33, 35), np.s_[:, :], (8, 24), (10, 26)),
    ],
)
def test_patches_lie_around_the_hole_and_inside_the_image(shape, hole, rows, columns):
    mask = np.zeros(shape, bool)
    mask[hole] = True
    assert patch_box(mask) == (slice(*rows), slice(*columns))


@pytest.mark.parametrize("side", [5, 33, 128])
def test_patches_of_any_side_have_one_logit(side):
    patches = jax.ShapeDtypeStruct((3, side, side, 4), np.uint8)
    logits, _ = jax.eval_shape(judge.Judge().init_with_output, jax.random.key(0), patches)
    assert (logits.shape, logits.dtype) == ((3,), np.float32)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Photographs of one size, and their copies in a second folder."""
    folder = tmp_path_factory.mktemp("judged")
    (folder / "photos").mkdir()
    for place in range(COUNT):
        row, column = 80 * (place // 6), 80 * (place % 6)
        Image.fromarray(data.astronaut()[row : row + 33, column : column + 35]).save(
            folder / f"photos/{place:02d}.png"
        )
    shutil.copytree(folder / "photos", folder / "copies")
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch, photographs):
    monkeypatch.chdir(photographs)
    monkeypatch.setenv("GLCIC_HOME", str(photographs / "home"))
    return tmp_path


def run(here, *arguments):
    options = ["--data", "folder:photos", "--baselines", "", "--judge", "--report", str(here / "out")]
    return command_runner().invoke(cli, ["evaluate", *map(str, arguments), *options])


def test_the_judge_is_a_metric_of_every_row(here):
    result = run(here, "mean", "copies", "--size", "original", "--batch-size", 5)
    assert result.exit_code == 0, result.output
    assert "judge ↓" in result.stdout
    assert "over the 12 images on which it was not trained" in " ".join(result.stdout.split())
    with (here / "out/images.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for place, row in enumerate(rows):
        possible = {"0.5"} if row["method"] == "copies" else {"0.0", "0.5", "1.0"}
        assert row["judge"] in (possible if (place // 3) % 2 else {""})
    written = json.loads((here / "out/evaluation.json").read_text())
    assert "trained on 12 pairs" in written["protocol"]["Judge"]
    assert "patches of 16 px" in written["protocol"]["Judge"]
    mean, _, copies = (row["metrics"]["judge"] for row in written["rows"])
    assert (mean["finite"], mean["left_out"]) == (12, 12)
    assert (copies["mean"], copies["finite"], copies["left_out"]) == (0.5, 12, 12)


def test_images_beyond_the_limit_have_no_patches(here, monkeypatch):
    monkeypatch.setattr(judge, "MOST_IMAGES", 8)
    monkeypatch.setattr(judge, "FEWEST_IMAGES", 8)
    assert run(here, "mean", "--no-blending").exit_code == 0
    with (here / "out/images.csv").open(newline="") as file:
        judged = [int(row["index"]) for row in csv.DictReader(file) if row["judge"]]
    assert judged == [3, 9, 15, 21]


def test_too_few_holes_are_a_note(here):
    masks = here / "masks"
    masks.mkdir()
    for place in range(COUNT):
        mask = np.zeros((33, 35), np.uint8)
        mask[8:20, 8:20] = 255 * (place > 5)
        Image.fromarray(mask).save(masks / f"{place:02d}.png")
    result = run(here, "mean", "--no-blending", "--size", "original", "--masks", f"folder:{masks}")
    assert result.exit_code == 0, result.output
    assert "judge: not computed (18 images with a hole, fewer than 20)" in result.stdout
    assert "judge ↓" not in result.stdout


def test_what_the_judge_cannot_use_is_one_line_before_the_work(here, photographs):
    other = here / "other"
    shutil.copytree(photographs / "photos", other)
    Image.open(other / "00.png").resize((40, 50)).save(other / "05.png")
    for arguments, message in (
        (("--count", 19), "--judge: needs at least 20 images, not 19"),
        (
            ("--size", "original", "--data", f"folder:{other}"),
            "images of one size, but 00.png has 35 x 33 px and 05.png has 40 x 50 px: give --size N",
        ),
    ):
        options = ["--judge", "--data", "folder:photos", "--report", here / "out", *arguments]
        result = command_runner().invoke(cli, ["evaluate", "mean", *map(str, options)])
        assert message in str(result.exception)
        assert len(str(result.exception).splitlines()) == 1
    assert not Path(here / "out").exists()

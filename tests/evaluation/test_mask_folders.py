"""Mask sets as folders of files, written and read, and `glcic masks`."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.common import one_line
from PIL import Image

from glcic_jax.commands.main import cli
from glcic_jax.errors import ConfigError, DataError
from glcic_jax.evaluation.cropping import centre_square
from glcic_jax.evaluation.mask_sets import sets
from glcic_jax.evaluation.mask_sets.sets import open_mask_set, store, summarise


def pattern(number: int, size: tuple[int, int]) -> np.ndarray:
    """A hole of its own for each number."""
    return np.random.default_rng(number).random(size) < 0.3


def save(path: Path, hole: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(hole.astype(np.uint8) * 255).save(path)
    return path


def folder(root: Path, *names: str, size: tuple[int, int] = (8, 12)) -> str:
    """A folder of masks `pattern(0)`, `pattern(1)` ... of these names; how `open_mask_set` takes it."""
    for number, name in enumerate(names):
        save(root / name, pattern(number, size))
    return f"folder:{root}"


def error(spec: str, images=()) -> str:
    with pytest.raises(DataError) as caught:
        open_mask_set(spec, images)
    return one_line(caught)


def run(*arguments: str):
    return CliRunner().invoke(cli, ["masks", *map(str, arguments)])


def test_masks_in_the_order_of_their_paths(tmp_path):
    found = open_mask_set(folder(tmp_path, "b/c.png", "a.png", "z.png"), ["one.jpg", "two.jpg"])
    assert found.name == f"folder:{tmp_path}"
    for index, number in ((0, 1), (1, 0), (2, 2), (3, 1), (7, 0)):
        hole = found.hole(index, (8, 12))
        assert hole.dtype == bool
        assert np.array_equal(hole, pattern(number, (8, 12)))


def test_masks_by_name(tmp_path):
    spec = folder(tmp_path, "a.png", "deep/a_mask001.png", "b_mask.PNG", "stray.png")
    images = ["b.jpg", "deep/a.jpeg", "a.jpg"]
    found = open_mask_set(spec, images)
    for index, number in enumerate((2, 1, 0)):
        assert np.array_equal(found.hole(index, (8, 12)), pattern(number, (8, 12)))
        assert np.array_equal(found.hole(99, (8, 12), None, images[index]), pattern(number, (8, 12)))
    with pytest.raises(DataError) as caught:
        found.hole(0, (8, 12), None, "c.jpg")
    assert "none for c.jpg" in one_line(caught)


def test_images_without_a_mask_or_with_several(tmp_path):
    spec = folder(tmp_path, "a.png", "b.png")
    message = error(spec, ["a.jpg", "c.jpg", "d.jpg", "e.jpg", "f.jpg"])
    assert "c.jpg, d.jpg, e.jpg and 1 more" in message
    assert "a.jpg" not in message
    folder(tmp_path, "x.png", "a_mask.png")
    assert "a.jpg has 2 masks (a.png, a_mask.png)" in error(spec, ["a.jpg", "b.jpg"])


def test_white_from_128_on_is_the_hole(tmp_path):
    Image.fromarray(np.array([[0, 127, 128, 255]], np.uint8)).save(tmp_path / "m.png")
    hole = open_mask_set(f"folder:{tmp_path}").hole(0, (1, 4))
    assert hole.tolist() == [[False, False, True, True]]


def test_masks_of_other_sizes(tmp_path):
    wide = open_mask_set(folder(tmp_path, "m.png", size=(20, 30)))
    stored = pattern(0, (20, 30))
    assert np.array_equal(wide.hole(0, (20, 30), (40, 60)), stored)
    # Of the original's size: cut as the image is.
    for side in (10, 20, 40):
        assert np.array_equal(wide.hole(0, (side, side), (20, 30)), centre_square(stored, side))
    assert np.array_equal(wide.hole(0, (20, 20), (20, 30)), stored[:, 5:25])
    # By the nearest pixels: exact where each becomes a block.
    assert np.array_equal(wide.hole(0, (60, 90), (60, 90)), stored.repeat(3, 0).repeat(3, 1))
    assert np.array_equal(wide.hole(0, (60, 90), (20, 30)), stored.repeat(3, 0).repeat(3, 1))
    for original, said in (((40, 40), "40 x 40"), (None, "the image 16 x 16:")):
        with pytest.raises(DataError) as caught:
            wide.hole(0, (16, 16), original)
        message = one_line(caught)
        assert "m.png" in message
        assert "30 x 20 pixels" in message
        assert said in message
        assert "--fit-mask" not in message


def test_folders_that_cannot_be_used(tmp_path):
    assert "no such folder" in error(f"folder:{tmp_path}/none")
    assert "holds no mask files" in error(f"folder:{tmp_path}")
    assert "folder:PATH" in error("folder")
    assert "folder:PATH" in error("folder:")
    file = save(tmp_path / "a.png", pattern(0, (8, 8)))
    assert "no such folder" in error(f"folder:{file}")
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(DataError) as caught:
        open_mask_set(f"folder:{tmp_path}").hole(0, (8, 8))
    assert str(file) in one_line(caught)


@pytest.mark.parametrize("name", ["paper", "free_form:seed=3,strokes=2"])
def test_what_is_written_is_read_again(tmp_path, name):
    drawn = open_mask_set(name)
    written = store(drawn, 5, (24, 40), tmp_path / "deep" / "set")
    assert written == summarise(drawn, 5, (24, 40))
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["set"]
    files = sorted(path.name for path in (tmp_path / "deep/set").iterdir())
    assert files == [*(f"{index:06}.png" for index in range(5)), "mask_set.json"]
    said = json.loads((tmp_path / "deep/set/mask_set.json").read_text())
    assert said == {
        "name": drawn.name,
        "size": [24, 40],
        "count": 5,
        "sha256": written.record.sha256,
        "format": 1,
    }
    with Image.open(tmp_path / "deep/set/000000.png") as picture:
        assert (picture.mode, picture.size) == ("1", (40, 24))
    read = open_mask_set(f"folder:{tmp_path}/deep/set", ["a.jpg"] * 2)
    for index in range(10):
        assert np.array_equal(read.hole(index, (24, 40)), drawn.hole(index % 5, (24, 40)))
    assert summarise(read, 5, (24, 40)).record.sha256 == written.record.sha256


def test_a_stored_set_that_was_changed(tmp_path):
    directory = tmp_path / "set"
    store(open_mask_set("box"), 4, (32, 32), directory)
    spec, second, record = f"folder:{directory}", directory / "000001.png", directory / "mask_set.json"
    intact, said = second.read_bytes(), record.read_text()
    hole = open_mask_set(spec).hole(1, (32, 32))
    hole[0, 0] = ~hole[0, 0]
    save(second, hole)
    assert "sha256" in error(spec)
    second.unlink()
    assert "lists 4 masks, and 000001.png is missing" in error(spec)
    second.write_bytes(intact)
    more = save(directory / "more.png", hole)
    assert "more.png is not in it" in error(spec)
    more.unlink()
    open_mask_set(spec)
    for wrong in (
        "",
        "[]",
        "{}",
        "[" * 9000,
        said.replace('"format": 1', '"format": 2'),
        said.replace("4", '"4"'),
    ):
        record.write_text(wrong)
        assert "mask_set.json" in error(spec)
    for key in ("name", "size", "count", "sha256"):
        record.write_text(json.dumps({k: v for k, v in json.loads(said).items() if k != key}))
        assert "lacks name, size, count or sha256 of the set" in error(spec)
    record.unlink()
    open_mask_set(spec)


def test_nothing_is_written_over_and_nothing_half(tmp_path, monkeypatch):
    (tmp_path / "set").mkdir()
    with pytest.raises(DataError) as caught:
        store(open_mask_set("box"), 2, (16, 16), tmp_path / "set")
    assert "exists already" in one_line(caught)

    class Stopping:
        name = "box:seed=0"

        def hole(self, index, size, original=None, image=""):
            if index:
                raise KeyboardInterrupt
            return np.ones(size, bool)

    with pytest.raises(KeyboardInterrupt):
        store(Stopping(), 2, (16, 16), tmp_path / "new")
    (tmp_path / "file").touch()
    with pytest.raises(DataError) as caught:
        store(open_mask_set("box"), 2, (16, 16), tmp_path / "file" / "new")
    assert "cannot be written" in one_line(caught)
    monkeypatch.setattr(sets.os, "rename", lambda *paths: (_ for _ in ()).throw(OSError(28, "disk full")))
    with pytest.raises(DataError) as caught:
        store(open_mask_set("box"), 2, (16, 16), tmp_path / "new")
    assert "disk full" in one_line(caught)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "set"]


def test_the_command_shows_what_to_cite():
    result = run("box:seed=2", "--count", "7", "--size", "20x30")
    summary = summarise(open_mask_set("box:seed=2"), 7, (20, 30))
    assert result.exit_code == 0
    lines = dict(line.split(maxsplit=1) for line in result.output.replace("hole ratio", "hole_ratio").splitlines())
    assert lines["name"] == "box:seed=2"
    assert lines["sha256"] == summary.record.sha256
    assert lines["count"] == "7"
    assert lines["hole_ratio"].startswith(f"{summary.hole_ratio:.4f}")
    assert lines["size"].startswith("20 x 30")
    holes = [open_mask_set("box:seed=2").hole(index, (20, 30)) for index in range(7)]
    assert summary.hole_ratio == pytest.approx(np.mean(holes))


def test_the_command_goes_to_1000_masks_at_256():
    shown = run("centre").output
    assert "count       1000\n" in shown
    assert "256 x 256" in shown


def test_the_command_writes(tmp_path):
    result = run("rectangles", "--count", 3, "--size", 16, "-o", tmp_path / "set")
    assert result.exit_code == 0
    digest = summarise(open_mask_set("rectangles"), 3, (16, 16)).record.sha256
    assert digest in result.output
    assert digest in run(f"folder:{tmp_path}/set", "--count", 3, "--size", 16).output
    again = run("rectangles", "--count", 3, "--size", 16, "-o", tmp_path / "set")
    assert isinstance(again.exception, DataError)


def test_wrong_arguments_of_the_command():
    for size in ("0", "256x", "x256", "axb", "-3", "99999", "16x16x16", "٣"):
        result = run("box", f"--size={size}")
        assert result.exit_code == 2
        assert "192x320" in result.output
    assert run("box", "--count", "0").exit_code == 2
    assert isinstance(run("cubes").exception, ConfigError)


def test_a_stored_set_is_taken_in_its_order_whatever_images_are_called(tmp_path):
    store(open_mask_set("paper"), 5, (32, 32), tmp_path / "set")
    images = [f"{number:06}.jpg" for number in range(1, 6)]  # As CelebA's.
    stored, drawn = open_mask_set(f"folder:{tmp_path / 'set'}", images), open_mask_set("paper")
    for index, image in enumerate(images):
        np.testing.assert_array_equal(
            stored.hole(index, (32, 32), image=image), drawn.hole(index, (32, 32), image=image)
        )
    assert "paper:seed=0, verified; in their order" in stored.description


def test_a_stored_set_shows_its_own_hash(tmp_path):
    stored = store(open_mask_set("box"), 3, (24, 40), tmp_path / "set")
    shown = run(f"folder:{tmp_path / 'set'}")
    assert stored.record.sha256 in shown.stdout


def test_a_record_that_claims_millions_is_refused_at_once(tmp_path):
    store(open_mask_set("box"), 2, (16, 16), tmp_path / "set")
    path = tmp_path / "set" / "mask_set.json"
    path.write_text(path.read_text().replace('"count": 2', '"count": 900000000'))
    assert "000002.png is missing" in error(f"folder:{tmp_path / 'set'}")


def test_a_directory_above_is_no_new_one(tmp_path):
    with pytest.raises(DataError, match="exists already"):
        store(open_mask_set("box"), 2, (16, 16), tmp_path / "new" / "..")
    assert list(tmp_path.iterdir()) == []

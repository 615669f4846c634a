"""Mask sets in folders, written and read, and `glcic masks`."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.common import command_runner, one_line
from PIL import Image

from glcic_jax.commands.main import cli
from glcic_jax.errors import ConfigError, DataError
from glcic_jax.evaluation.cropping import centre_square
from glcic_jax.evaluation.mask_sets import sets
from glcic_jax.evaluation.mask_sets.sets import open_mask_set, store, summarise


def pattern(number: int, size: tuple[int, int]) -> np.ndarray:
    """A different hole for each number."""
    return np.random.default_rng(number).random(size) < 0.3


def save(path: Path, hole: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(hole.astype(np.uint8) * 255).save(path)
    return path


def folder(root: Path, *names: str, size: tuple[int, int] = (8, 12)) -> str:
    """Writes `pattern(0)`, `pattern(1)` ... under these names; returns the name of the set."""
    for number, name in enumerate(names):
        save(root / name, pattern(number, size))
    return f"folder:{root}"


def message(call, *arguments, **kept) -> str:
    with pytest.raises(DataError) as caught:
        call(*arguments, **kept)
    return one_line(caught)


def run(*arguments):
    return command_runner().invoke(cli, ["masks", *map(str, arguments)])


def test_masks_are_taken_in_the_order_of_their_paths(tmp_path):
    found = open_mask_set(folder(tmp_path, "b/c.png", "a.png", "z.png"), ["one.jpg", "two.jpg"])
    assert found.name == f"folder:{tmp_path}"
    for index, number in ((0, 1), (1, 0), (2, 2), (3, 1), (7, 0)):
        hole = found.hole(index, (8, 12))
        assert hole.dtype == bool
        np.testing.assert_array_equal(hole, pattern(number, (8, 12)))


def test_masks_are_matched_by_name(tmp_path):
    spec = folder(tmp_path, "a.png", "deep/a_mask001.png", "b_mask.PNG", "stray.png")
    images = ["b.jpg", "deep/a.jpeg", "a.jpg"]
    found = open_mask_set(spec, images)
    for index, number in enumerate((2, 1, 0)):
        for hole in (found.hole(index, (8, 12)), found.hole(99, (8, 12), None, images[index])):
            np.testing.assert_array_equal(hole, pattern(number, (8, 12)))
    assert "none for c.jpg" in message(found.hole, 0, (8, 12), None, "c.jpg")


def test_images_without_a_mask_or_with_several_are_refused(tmp_path):
    spec = folder(tmp_path, "a.png", "b.png")
    text = message(open_mask_set, spec, ["a.jpg", "c.jpg", "d.jpg", "e.jpg", "f.jpg"])
    assert "c.jpg, d.jpg, e.jpg and 1 more" in text
    assert "a.jpg" not in text
    folder(tmp_path, "x.png", "a_mask.png")
    assert "a.jpg has 2 masks (a.png, a_mask.png)" in message(open_mask_set, spec, ["a.jpg", "b.jpg"])


def test_the_hole_is_128_and_above(tmp_path):
    Image.fromarray(np.array([[0, 127, 128, 255]], np.uint8)).save(tmp_path / "m.png")
    assert open_mask_set(f"folder:{tmp_path}").hole(0, (1, 4)).tolist() == [[False, False, True, True]]


def test_masks_of_other_sizes_are_cropped_or_resized(tmp_path):
    wide = open_mask_set(folder(tmp_path, "m.png", size=(20, 30)))
    stored = pattern(0, (20, 30))
    np.testing.assert_array_equal(wide.hole(0, (20, 30), (40, 60)), stored)
    # Of the original's size: cropped like the image.
    for side in (10, 20, 40):
        np.testing.assert_array_equal(wide.hole(0, (side, side), (20, 30)), centre_square(stored, side))
    np.testing.assert_array_equal(wide.hole(0, (20, 20), (20, 30)), stored[:, 5:25])
    # By the nearest pixels: exact where each becomes a block.
    for original in ((60, 90), (20, 30)):
        np.testing.assert_array_equal(wide.hole(0, (60, 90), original), stored.repeat(3, 0).repeat(3, 1))
    for original, expected in (((40, 40), "40 x 40"), (None, "the image 16 x 16:")):
        text = message(wide.hole, 0, (16, 16), original)
        assert all(part in text for part in ("m.png", "30 x 20 pixels", expected))


def test_folders_that_cannot_be_used(tmp_path):
    file = save(tmp_path / "masks/a.png", pattern(0, (8, 8)))
    (tmp_path / "empty").mkdir()
    for spec, expected in (
        (f"folder:{tmp_path}/none", "no such folder"),
        (f"folder:{file}", "no such folder"),
        (f"folder:{tmp_path}/empty", "holds no mask files"),
        ("folder", "folder:PATH"),
        ("folder:", "folder:PATH"),
    ):
        assert expected in message(open_mask_set, spec)
    file.write_bytes(file.read_bytes()[:60])
    assert str(file) in message(open_mask_set(f"folder:{file.parent}").hole, 0, (8, 8))


@pytest.mark.parametrize("name", ["paper", "free_form:seed=3,strokes=2"])
def test_a_written_set_is_read_again(tmp_path, name):
    drawn, directory = open_mask_set(name), tmp_path / "deep" / "set"
    written = store(drawn, 5, (24, 40), directory)
    assert written == summarise(drawn, 5, (24, 40))
    assert [path.name for path in directory.parent.iterdir()] == ["set"]
    files = sorted(path.name for path in directory.iterdir())
    assert files == [*(f"{index:06}.png" for index in range(5)), "mask_set.json"]
    record = {"name": drawn.name, "size": [24, 40], "count": 5, "sha256": written.record.sha256, "format": 1}
    assert json.loads((directory / "mask_set.json").read_text()) == record
    with Image.open(directory / "000000.png") as picture:
        assert (picture.mode, picture.size) == ("1", (40, 24))
    # In order, although the images are called like other masks, as CelebA's.
    images = [f"{number:06}.jpg" for number in range(1, 6)]
    read = open_mask_set(f"folder:{directory}", images)
    for index in range(10):
        hole = read.hole(index, (24, 40), image=images[index % 5])
        np.testing.assert_array_equal(hole, drawn.hole(index % 5, (24, 40)))
    assert summarise(read, 5, (24, 40)).record.sha256 == written.record.sha256
    assert f"{drawn.name}, verified; in their order" in read.description


def test_a_changed_set_is_refused(tmp_path):
    directory = tmp_path / "set"
    store(open_mask_set("box"), 4, (32, 32), directory)
    spec, second, record = f"folder:{directory}", directory / "000001.png", directory / "mask_set.json"
    intact, content = second.read_bytes(), record.read_text()
    hole = open_mask_set(spec).hole(1, (32, 32))
    hole[0, 0] = ~hole[0, 0]
    save(second, hole)
    assert "sha256" in message(open_mask_set, spec)
    second.unlink()
    assert "lists 4 masks, and 000001.png is missing" in message(open_mask_set, spec)
    second.write_bytes(intact)
    more = save(directory / "more.png", hole)
    assert "more.png is not in it" in message(open_mask_set, spec)
    more.unlink()
    open_mask_set(spec)
    for wrong, expected in (
        *((text, "mask_set.json") for text in ("", "[]", "{}", "[" * 9000)),
        (content.replace('"format": 1', '"format": 2'), "format 1"),
        (content.replace("4", '"4"'), "mask_set.json"),
        (content.replace('"count": 4', '"count": 900000000'), "000004.png is missing"),
        *(
            (json.dumps({k: v for k, v in json.loads(content).items() if k != key}), "lacks name, size, count or")
            for key in ("name", "size", "count", "sha256")
        ),
    ):
        record.write_text(wrong)
        assert expected in message(open_mask_set, spec)
    record.unlink()
    open_mask_set(spec)


def test_a_set_is_written_whole_to_a_new_directory_or_not_at_all(tmp_path, monkeypatch):
    (tmp_path / "set").mkdir()
    (tmp_path / "file").touch()
    box = open_mask_set("box")
    assert "set exists" in message(store, box, 2, (16, 16), tmp_path / "set")
    assert "exists: name another" in message(store, box, 2, (16, 16), tmp_path / "new" / "..")
    assert "cannot be written" in message(store, box, 2, (16, 16), tmp_path / "file" / "new")

    class Stopping:
        name = "box:seed=0"

        def hole(self, index, size, original=None, image=""):
            if index:
                raise KeyboardInterrupt
            return np.ones(size, bool)

    with pytest.raises(KeyboardInterrupt):
        store(Stopping(), 2, (16, 16), tmp_path / "new")
    monkeypatch.setattr(sets.os, "rename", lambda *paths: (_ for _ in ()).throw(OSError(28, "disk full")))
    assert "disk full" in message(store, box, 2, (16, 16), tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "set"]


def test_the_command_shows_what_to_cite():
    result = run("box:seed=2", "--count", 7, "--size", "20x30")
    summary = summarise(open_mask_set("box:seed=2"), 7, (20, 30))
    assert result.exit_code == 0
    lines = dict(line.split(maxsplit=1) for line in result.output.replace("hole ratio", "hole_ratio").splitlines())
    assert (lines["name"], lines["count"], lines["sha256"]) == ("box:seed=2", "7", summary.record.sha256)
    assert lines["hole_ratio"].startswith(f"{summary.hole_ratio:.4f}")
    assert lines["size"].startswith("20 x 30")
    holes = [open_mask_set("box:seed=2").hole(index, (20, 30)) for index in range(7)]
    assert summary.hole_ratio == pytest.approx(np.mean(holes))
    default = run("centre").output
    assert "count       1000\n" in default
    assert "256 x 256" in default


def test_the_command_writes_a_set(tmp_path):
    result = run("rectangles", "--count", 3, "--size", 16, "-o", tmp_path / "set")
    assert result.exit_code == 0
    digest = summarise(open_mask_set("rectangles"), 3, (16, 16)).record.sha256
    assert digest in result.output
    assert digest in run(f"folder:{tmp_path}/set").output
    assert isinstance(run("rectangles", "--count", 3, "-o", tmp_path / "set").exception, DataError)


def test_wrong_arguments_of_the_command():
    for size in ("0", "256x", "x256", "axb", "-3", "99999", "16x16x16", "٣"):
        result = run("box", f"--size={size}")
        assert result.exit_code == 2
        assert "192x320" in result.stderr
    assert run("box", "--count", "0").exit_code == 2
    assert isinstance(run("cubes").exception, ConfigError)

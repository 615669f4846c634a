"""`glcic complete` as a user runs it."""

import csv
import importlib.util
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.common import command_runner
from helpers.tiny import tiny_weights
from PIL import Image

from glcic_jax.commands.main import cli, main
from glcic_jax.completion import runner
from glcic_jax.completion.completer import Completer
from glcic_jax.errors import UserError
from glcic_jax.weights.file import save_weights


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(tiny_weights(), path)
    return path


@pytest.fixture(scope="module")
def tiny_completer() -> Completer:
    return Completer(tiny_weights(), "tiny")


@pytest.fixture
def here(tmp_path, monkeypatch, weights_file, tiny_completer) -> Path:
    """A directory with a photograph and its mask; commands share the programs of the default weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GLCIC_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GLCIC_WEIGHTS", str(weights_file))
    load = Completer.load

    def load_once(reference=None, device=None):
        usual = (reference, device, os.environ.get("GLCIC_WEIGHTS")) == (None, None, str(weights_file))
        return tiny_completer if usual else load(reference, device)

    monkeypatch.setattr(Completer, "load", load_once)
    save("photo.png", picture())
    save("mask.png", mask())
    return tmp_path


def picture(height=37, width=50, channels=3) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (height, width, channels)).astype(np.uint8)


def mask(height=37, width=50) -> np.ndarray:
    hole = np.zeros((height, width), np.uint8)
    hole[10:20, 30:45] = 255
    return hole


def save(path, pixels, **options) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def run(*arguments: str, code: int = 0, stdin: bytes | None = None):
    result = command_runner().invoke(cli, ["complete", *arguments], input=stdin)
    if isinstance(result.exception, UserError):  # main() prints it and exits with its code.
        assert result.exception.exit_code == code
        assert len(str(result.exception).splitlines()) == 1
        return str(result.exception)
    assert result.exit_code == code, result.output
    return result


def assert_completed(path, pixels, hole) -> None:
    found = np.asarray(Image.open(path))
    assert found.shape == pixels.shape
    np.testing.assert_array_equal(found[~hole], pixels[~hole])
    assert (found[hole] != pixels[hole]).mean() > 0.5


def test_tilde_is_the_home_directory_in_options_too(here, monkeypatch):
    monkeypatch.setenv("HOME", str(here))
    run("~/photo.png", "--mask=~/mask.png", "--output=~/out/completed.png")
    assert_completed("out/completed.png", picture(), mask() > 0)
    result = command_runner().invoke(cli, ["inspect", "nowhere"])
    assert str(result.exception) == "nowhere: no such folder: name the workdir of a run"
    assert result.exception.exit_code == 2
    (here / "run").mkdir()
    result = command_runner().invoke(cli, ["inspect", "~/run"])
    assert str(result.exception) == f"{here}/run holds no checkpoints: is it the workdir of a run?"


def test_only_the_hole_changes(here):
    result = run("photo.png", "mask.png")
    assert_completed("photo_completed.png", picture(), mask() > 0)
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert lines[0] == "the hole covers 8.1 % of the image"
    assert lines[1] == "weights: tiny"
    assert lines[2].startswith("original: ")
    assert "(chosen because " in lines[2]
    assert lines[3] == "photo_completed.png written"


def test_an_existing_file_is_replaced_only_with_overwrite(here):
    (here / "out.png").write_bytes(b"precious")
    assert "out.png exists" in run("photo.png", "mask.png", "out.png", code=2)
    assert (here / "out.png").read_bytes() == b"precious"
    for output in ("out.png", "photo.png"):
        run("photo.png", "mask.png", output, "--overwrite")
        assert_completed(output, picture(), mask() > 0)


def test_standard_streams(here):
    photo, hole = (here / "photo.png").read_bytes(), (here / "mask.png").read_bytes()
    for arguments, stdin in ((["-", "mask.png"], photo), (["photo.png", "-", "-"], hole)):
        result = run(*arguments, stdin=stdin)
        assert_completed(io.BytesIO(result.stdout_bytes), picture(), mask() > 0)
    assert sorted(os.listdir()) == ["mask.png", "photo.png"]
    assert "standard input: cannot be read" in run("-", "mask.png", stdin=b"", code=2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name an IMAGE and a MASK, or give --example"),
        (["--example", "--random-mask"], "--example has a mask of its own"),
        (["--example", "a.png", "-o", "b.png"], "OUT is given twice"),
        (["photo.png"], "name a MASK"),
        (["photo.png", "mask.png", "a.png", "b.png"], "too many arguments: b.png"),
        (["photo.png", "mask.png", "a.png", "-o", "b.png"], "OUT is given twice"),
        (["photo.png", "--mask", "alpha", "--random-mask"], "not both"),
        (["-", "-"], "cannot both be standard input"),
        (["photo.png", "mask.png", "-", "--save-comparison"], "name a file"),
        (["."], "name a MASK"),
        ([".", "mask.png"], "name the folder for the results"),
        ([".", "-", "-o", "out"], "name a mask or a folder"),
        (["photo.png", "mask.png", "--strategy", "tile"], "'tile' is not one of"),
        (["", "mask.png"], "a file name is empty"),
        (["photo.png", ""], "a file name is empty"),
        (["photo.png", "mask.png", "-o", ""], "a file name is empty"),
    ],
)
def test_ambiguous_arguments_are_refused(here, arguments, words):
    assert words in run(*arguments, code=2).stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.png", "mask.png"], "none.png: no such file"),
        (["photo.png", "none.png"], "none.png: no such file"),
        (["photo.png", "mask.png", "out.xyz"], "out.xyz: cannot be written"),
        (["photo.png", "mask.png", "out.png", "--format", "jpeg"], "out.png: its suffix says PNG"),
        (["photo.png", "--mask", "alpha"], "no transparency"),
        (["photo.png", "mask.png", "--max-side", "63"], "63 px is too small"),
        (["photo.png", "mask.png", "--device", "gpu:7"], "no device 'gpu:7'"),
        (["photo.png", "mask.png", "--max-pixels", "100"], "--max-pixels 1850"),
        (["photo.png", "photo.png/x.png"], "photo.png/x.png"),
    ],
)
def test_bad_input_is_one_line(here, arguments, words):
    assert words in run(*arguments, code=2)
    assert sorted(os.listdir()) == ["mask.png", "photo.png"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["photo.png", "mask.png", "folder"], "folder: is a directory: name a file in it"),
        (["photo.png", "mask.png", "folder", "--overwrite"], "folder: is a directory: name a file in it"),
        (["photo.png", "mask.png", ".", "--overwrite"], "is a directory"),
        (["photo.png", "mask.png", "pipe.png", "--overwrite"], "pipe.png: is a device, a pipe or the like"),
        (["photo.png", "mask.png", "photo.png/a.png"], "is not a directory"),
        (["photo.png", "mask.png", "x" * 300 + ".png"], "File name too long"),
        (["x" * 300 + ".png", "mask.png"], "File name too long"),
        (["photo.png", "mask.png", "link.png"], "link.png exists"),
        (["photo.png", "none.png"], "none.png: no such file"),
        (["photo.png", "--mask", "alpha"], "the image has no transparency"),
    ],
)
def test_impossible_files_are_refused_before_weights_are_loaded(here, monkeypatch, arguments, words):
    Path("folder").mkdir()
    os.mkfifo("pipe.png")
    Path("link.png").symlink_to("nowhere.png")
    monkeypatch.setenv("GLCIC_WEIGHTS", "does not exist")
    assert words in run(*arguments, code=2)


def test_built_in_weights_are_the_default(here, monkeypatch):
    monkeypatch.delenv("GLCIC_WEIGHTS")
    assert "photos, built in (CC BY-SA 4.0" in run("photo.png", "mask.png").stderr
    assert Path("photo_completed.png").exists()


def test_missing_weights_are_an_error(here):
    assert "none.safetensors" in run("photo.png", "mask.png", "--weights", "none.safetensors", code=3)
    assert not Path("photo_completed.png").exists()


def test_too_little_memory_has_its_own_code(here, monkeypatch):
    monkeypatch.setattr(runner, "available_memory", lambda: 1_000)
    save("large.png", picture(370, 500))
    assert "--max-side" in run("large.png", "mask.png", "--strategy", "original", code=4)
    assert not Path("large_completed.png").exists()


def test_messages_of_decoders_are_not_shown(here, capfd):
    content = io.BytesIO()
    Image.fromarray(picture()).save(content, "TIFF", compression="tiff_lzw")
    whole = content.getvalue()
    Path("bad.tif").write_bytes(whole[:50] + b"\xff" * 2000 + whole[2050:])
    with pytest.raises(OSError, match="decoder error"):
        Image.open("bad.tif").load()
    assert capfd.readouterr().err != ""  # Else the file is no example.
    assert "bad.tif: cannot be read" in run("bad.tif", "mask.png", code=2)
    assert capfd.readouterr().err == ""


def test_mask_options_and_notes(here):
    save("small.png", mask()[::2, ::2])
    result = run("photo.png", "small.png", "a.png")
    assert "the mask was resized from 25 x 19 to the image's 50 x 37 pixels" in result.stderr
    save("wide.png", np.full((10, 50), 255, np.uint8))
    assert "--fit-mask" in run("photo.png", "wide.png", "b.png", code=2)
    run("photo.png", "mask.png", "d.png", "--invert-mask")
    assert_completed("d.png", picture(), mask() == 0)
    run("photo.png", "mask.png", "e.png", "--grow", "3")
    hole = np.zeros((37, 50), bool)
    hole[7:23, 27:48] = True
    np.testing.assert_array_equal(np.asarray(Image.open("e.png"))[~hole], picture()[~hole])


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "the hole is empty, so nothing is completed: give another mask"),
        (255, "the hole is the whole image"),
        (100, "nothing in the mask is white: its brightest value is 100 of 255; the hole is empty"),
        (
            150,
            "the mask is grey, at most 150 of 255: 128 or more was taken for white; the hole is the whole image",
        ),
    ],
)
def test_an_empty_or_full_mask_is_refused_unless_allowed(here, value, words):
    save("plain.png", np.full((37, 50), value, np.uint8))
    error = run("photo.png", "plain.png", "out.png", code=2)
    assert error.startswith(f"plain.png: {words}")
    assert error.endswith(", or --allow-empty to go on")
    assert not Path("out.png").exists()
    assert "--invert-mask" not in error  # It would be refused, too.
    allowed = run("photo.png", "plain.png", "out.png", "--allow-empty")
    assert f"warning: {words.split('; ')[-1].partition(':')[0]}" in allowed.stderr
    changed = (np.asarray(Image.open("out.png")) != picture()).mean()
    assert changed > 0.5 if value >= 128 else changed == 0


def test_opaque_images_have_no_hole_of_their_transparency(here):
    save("opaque.png", np.dstack([picture(), np.full((37, 50), 255, np.uint8)]))
    assert "the transparency: the hole is empty" in run("opaque.png", "--mask", "alpha", "-o", "out.png", code=2)


def test_mistaken_masks_give_warnings(here):
    save("inverted.png", 255 - mask())
    lines = run("photo.png", "inverted.png", "a.png").stderr.splitlines()
    (warning,) = [line for line in lines if line.startswith("warning: ")]
    assert warning.startswith("warning: the hole covers 91.9 % of the image")
    assert "give --invert-mask" in warning
    lines = run("photo.png", "photo.png", "b.png").stderr.splitlines()
    assert any(line.startswith("warning: ") and "as in a photograph" in line for line in lines)
    assert "warning" not in run("photo.png", "mask.png", "c.png").stderr


def test_the_example_needs_no_file(here):
    shown = run("--example")
    assert "example_completed.jpg written" in shown.stderr
    assert {path.name for path in here.iterdir()} >= {"example_completed.jpg", "photo.png"}
    assert "exists" in run("--example", code=2)
    run("--example", "-o", "example.png")
    spec = importlib.util.find_spec("skimage")
    original = Image.open(Path(spec.origin).parent / "data" / "rocket.jpg")
    changed = (np.asarray(Image.open("example.png")) != np.asarray(original)).any(axis=-1)
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (118, 374, 170, 211)


def test_transparency_as_the_mask_becomes_opaque(here):
    pixels = picture(channels=4)
    pixels[..., 3] = 255 - mask()
    save("cutout.png", pixels)
    run("cutout.png", "out.png", "--mask", "alpha")
    assert_completed("out.png", np.dstack([pixels[..., :3], np.full((37, 50), 255, np.uint8)]), mask() > 0)
    assert "transparent in the hole" in run("cutout.png", "mask.png", "kept.png").stderr
    np.testing.assert_array_equal(np.asarray(Image.open("kept.png"))[..., 3], pixels[..., 3])


def test_a_format_that_cannot_hold_the_size_is_refused_before_the_work(here):
    save("wide.png", np.zeros((4, 16384, 3), np.uint8))
    assert "at most 16383 on a side: write a PNG" in run("wide.png", "--random-mask", "-o", "a.webp", code=2)
    save("long.png", np.zeros((4, 6000, 3), np.uint8))
    options = ["--random-mask", "-o", "b.webp", "--save-comparison"]
    assert "the comparison: is 18000 x 4 pixels" in run("long.png", *options, code=2)
    assert not Path("a.webp").exists()
    assert not Path("b.webp").exists()


def test_an_output_that_names_a_folder_is_refused(here):
    Path("there").mkdir()
    for folder in ("results/", "there", "there/"):
        assert "name a file in it" in run("photo.png", "mask.png", "-o", folder, code=2)
    assert not Path("results").exists()
    assert os.listdir("there") == []


def test_a_seed_determines_the_random_hole(here):
    for name in ("a.png", "b.png"):
        run("photo.png", name, "--random-mask", "--seed", "7")
    run("photo.png", "-o", "c.png", "--random-mask", "--seed", "8")
    first, second, other = (np.asarray(Image.open(name)) for name in ("a.png", "b.png", "c.png"))
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()


def test_a_comparison_shows_input_raw_output_and_result(here):
    run("photo.png", "mask.png", "out.png", "--save-comparison", "--blend", "on")
    shown = np.asarray(Image.open("out_comparison.png"))
    assert shown.shape == (37, 150, 3)
    hole = mask() > 0
    assert (shown[:, :50][hole] == 255).all()
    np.testing.assert_array_equal(shown[:, :50][~hole], picture()[~hole])
    assert (shown[:, 50:100][~hole] != picture()[~hole]).mean() > 0.9
    np.testing.assert_array_equal(shown[:, 100:], np.asarray(Image.open("out.png")))


def test_the_format_follows_the_input_or_the_option(here):
    save("grey.tif", picture()[..., 0])
    run("grey.tif", "mask.png")
    assert Image.open("grey_completed.tif").mode == "L"
    save("photo.JPG", picture(), format="JPEG")
    run("photo.JPG", "mask.png")
    assert Image.open("photo_completed.JPG").format == "JPEG"
    run("photo.JPG", "mask.png", "--format", "webp")
    assert Image.open("photo_completed.webp").format == "WEBP"


@pytest.fixture
def folder(here) -> Path:
    """Folders `in` and `masks`: four pairs, a damaged image, an image without mask, a mask without image."""
    for name in ("a.png", "b.jpg", "deep/c.png", "lonely.png"):
        save(here / "in" / name, picture())
    (here / "in" / "bad.png").write_bytes((here / "photo.png").read_bytes()[:500])
    for name in ("a.png", "b_mask001.png", "b_mask002.png", "deep/c.png", "bad.png", "stray.png"):
        save(here / "masks" / name, mask())
    return here


def test_a_folder_lists_failures_and_skips_existing_results(folder):
    result = run("in", "masks", "-o", "out", code=1)
    written = sorted(path.relative_to("out").as_posix() for path in Path("out").rglob("*") if path.is_file())
    assert written == ["a.png", "b_mask001.jpg", "b_mask002.jpg", "deep/c.png", "failures.csv"]
    assert_completed("out/deep/c.png", picture(), mask() > 0)
    rows = list(csv.DictReader(Path("out/failures.csv").read_text().splitlines()))
    assert {Path(row["file"]).name for row in rows} == {"bad.png", "lonely.png", "stray.png"}
    assert all(row["error"] for row in rows)
    assert "4 completed, 0 skipped (results exist), 3 failed" in result.stderr
    assert result.stderr.count("weights: ") == 1

    before = Path("out/a.png").stat().st_mtime_ns
    for path in ("out/b_mask001.jpg", "in/bad.png", "in/lonely.png", "masks/stray.png", "masks/bad.png"):
        Path(path).unlink()
    result = run("in", "masks", "-o", "out")
    assert "1 completed, 3 skipped (results exist), 0 failed" in result.stderr
    assert Path("out/a.png").stat().st_mtime_ns == before
    assert not Path("out/failures.csv").exists()
    run("in", "masks", "-o", "out", "--overwrite")
    assert Path("out/a.png").stat().st_mtime_ns > before


def test_notes_of_a_folder_name_their_files_and_empty_holes_are_failures(here):
    for name in ("a", "b", "c"):
        save(f"in/{name}.png", picture())
    save("masks/a.png", mask() * 0)
    save("masks/b.png", mask() // 255)
    save("masks/c.png", 255 - mask())
    result = run("in", "masks", "-o", "out", code=1)
    assert sorted(os.listdir("out")) == ["b.png", "c.png", "failures.csv"]
    (failure,) = csv.DictReader(Path("out/failures.csv").read_text().splitlines())
    assert failure["file"].endswith("a.png")
    assert "the hole is empty" in failure["error"]
    assert "2 completed, 0 skipped (results exist), 1 failed" in result.stderr
    lines = [line for line in result.stderr.splitlines() if ".png: " in line]
    assert [line.split(".png: ")[0] for line in lines] == ["in/b", "warning: in/c"]
    assert "1 was taken for white" in lines[0]
    assert "--invert-mask" in lines[1]
    result = run("in", "masks", "-o", "out", "--allow-empty")
    assert "1 completed, 2 skipped (results exist), 0 failed" in result.stderr
    np.testing.assert_array_equal(np.asarray(Image.open("out/a.png")), picture())


def test_results_in_the_folder_of_the_images_are_refused(folder):
    assert "in is the folder of the images: name another folder" in run("in", "masks", "-o", "in", code=2)
    assert not Path("in/failures.csv").exists()


def test_a_result_in_another_format_than_its_image_is_skipped_too(here):
    save("in/a.gif", picture()[..., 0])
    run("in", "mask.png", "-o", "out")
    assert os.listdir("out") == ["a.png"]
    assert "0 completed, 1 skipped" in run("in", "mask.png", "-o", "out").stderr
    assert "1 completed, 0 skipped" in run("in", "mask.png", "-o", "out", "--format", "jpg").stderr
    assert "0 completed, 1 skipped" in run("in", "mask.png", "-o", "out", "--format", "jpg").stderr


def test_settings_that_fail_for_every_image_end_a_folder_at_once(folder):
    for arguments in (["--device", "tpu"], ["--max-side", "10"], ["--format", "xyz"]):
        run("in", "masks", "-o", "out", *arguments, code=2)
        assert not Path("out").exists()
    run("in", "masks", "-o", "photo.png", code=2)
    run("in", "masks", "-o", "out", "--weights", "none", code=3)


def test_no_result_takes_the_name_of_a_comparison(here):
    save("in/a.png", picture())
    save("in/a_comparison.png", picture())
    run("in", "mask.png", "-o", "out", "--save-comparison", code=1)
    assert Image.open("out/a_comparison.png").size == (150, 37)
    assert "a.png's comparison" in Path("out/failures.csv").read_text()
    run("in", "mask.png", "-o", "plain")
    assert Image.open("plain/a_comparison.png").size == (50, 37)


def test_a_folder_with_one_mask_or_without_mask_files(here):
    save("in/a.png", picture())
    save("in/b.png", picture(74, 100))
    run("in", "mask.png", "-o", "one")
    assert_completed("one/a.png", picture(), mask() > 0)
    assert sorted(os.listdir("one")) == ["a.png", "b.png"]
    run("in", "--random-mask", "-o", "random")
    assert sorted(os.listdir("random")) == ["a.png", "b.png"]
    run("in", "--mask", "alpha", "-o", "alpha", code=1)
    assert sorted(os.listdir("alpha")) == ["failures.csv"]


def test_a_process_completes_streams_keeps_programs_and_reports_a_full_output(here):
    code = (
        "import sys, glcic_jax.completion; assert 'scipy' not in sys.modules, 'blending alone needs it';"
        "from glcic_jax.commands.main import main; main()"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("JAX_")}
    environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    done = subprocess.run(
        [sys.executable, "-c", code, "complete", "-", "mask.png", "-"],
        input=Path("photo.png").read_bytes(),
        env=environment,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert_completed(io.BytesIO(done.stdout), picture(), mask() > 0)
    assert any((here / "home" / "xla").iterdir())

    command = [sys.executable, "-c", code, "complete", "photo.png", "mask.png", "-"]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=environment, check=False)
    last = done.stderr.splitlines()[-1]
    assert (last, done.returncode) == (b"error: standard output: cannot be written (No space left on device)", 2)


@pytest.mark.parametrize(
    ("arguments", "code"), [(["none.png", "mask.png"], 2), (["photo.png", "mask.png", "--weights", "no"], 3)]
)
def test_errors_end_in_one_line_and_the_exit_code(here, monkeypatch, capsys, arguments, code):
    monkeypatch.setattr(sys, "argv", ["glcic", "complete", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    monkeypatch.setattr(sys, "argv", ["glcic", "--debug", "complete", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == code
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert shown.splitlines()[-1] == line


def test_the_bar_of_a_folder_and_its_notes_have_lines_of_their_own(here, monkeypatch):
    Path("in").mkdir()
    for name in ("a", "b"):
        save(f"in/{name}.png", picture())
    save("coloured.png", np.stack([mask(), 0 * mask(), 0 * mask()], axis=-1))
    terminal = io.StringIO()
    terminal.isatty = lambda: True

    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr("sys.argv", ["glcic", "complete", "in", "coloured.png", "-o", "out"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 0
    shown = [line for line in terminal.getvalue().replace("\r", "\n").split("\n") if line.strip()]
    others = [line for line in shown if not line.startswith("completing: ")]
    assert others[1] == "weights: tiny"
    assert len(others) == 4  # Two notes and the counts.
    assert not any(word in line for line in shown if line not in others for word in ("weights", "mask"))

"""`glcic data check`: its findings in a folder and in a prepared data set, and its worker processes."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from helpers.common import ROOT, command_runner, load_config
from helpers.fragile_work import crash_at_seven, fail
from PIL import Image

from glcic_jax.commands import data as data_command
from glcic_jax.commands import main
from glcic_jax.data import check
from glcic_jax.data.folders import split_folder
from glcic_jax.data.input_pipeline import mean_pixel
from glcic_jax.data.skipped_files import SkippedFiles
from glcic_jax.data.sources import open_sources
from glcic_jax.errors import ConfigError, DataError

LIMITS = {"image_size": 256, "validation_fraction": 0.02, "max_skipped_fraction": 0.01}
GLCIC = [sys.executable, "-c", "from glcic_jax.commands.main import main; main()"]


def picture(seed: int = 0, size: tuple[int, int] = (90, 70), kind: str = "JPEG", **options) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, kind, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def damaged(tmp_path_factory) -> Path:
    """Good pictures, and every kind of bad file that a folder can hold."""
    root = tmp_path_factory.mktemp("damaged")
    (root / "sub").mkdir()
    for index in range(6):
        (root / "sub" / f"{index}.jpg").write_bytes(picture(index, (300 + index, 280)))
    (root / "twin.jpg").write_bytes(picture(0, (300, 280)))
    (root / "small.png").write_bytes(picture(7, (40, 30), "PNG"))
    (root / "cmyk.jpg").write_bytes(b"")
    Image.new("CMYK", (50, 60)).save(root / "cmyk.jpg")
    good = picture(9)
    (root / "cut.jpg").write_bytes(good[: len(good) // 2])
    (root / "cut.png").write_bytes(picture(1, (80, 80), "PNG")[:-4000])
    (root / "empty.webp").write_bytes(b"")
    (root / "page.gif").write_bytes(b"<html></html>")
    (root / "new\nline.jpg").write_bytes(b"no picture")
    os.mkfifo(root / "pipe.jpg")
    (root / "broken.tif").symlink_to("nowhere")
    (root / "loop.bmp").symlink_to("loop.bmp")
    with (root / "huge.jpg").open("wb") as file:
        file.truncate(2**31)
    (root / "folder.jpg").mkdir()
    (root / "drawing.psd").write_bytes(b"heic")
    (root / "notes").write_bytes(b"text")
    (root / ".hidden.jpg").write_bytes(good)
    return root


BAD = {f"cut.{suffix}" for suffix in ("jpg", "png")} | {"empty.webp", "page.gif", "new\\nline.jpg", "pipe.jpg"}
BAD |= {"broken.tif", "loop.bmp", "huge.jpg"}


@pytest.fixture(scope="module")
def checked(damaged, tmp_path_factory):
    """The report on the damaged folder, as text, as JSON and as a list, through the command."""
    out = tmp_path_factory.mktemp("out")
    command = [*GLCIC, "data", "check", str(damaged), "--processes", "2"]
    command += ["--json", str(out / "a.json"), "--list", str(out / "list.txt")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    return done, json.loads((out / "a.json").read_text()), (out / "list.txt").read_text().splitlines()


def test_every_unreadable_image_is_named_once_with_its_reason(checked):
    done, values, lines = checked
    assert done.returncode == 1
    assert {entry["name"] for entry in values["unreadable"]} == BAD
    assert len(lines) == len(values["unreadable"]) == len(BAD)
    for entry in values["unreadable"]:
        assert entry["reason"].startswith("cannot be read")
        assert f"{entry['name']}: {entry['reason']}" in lines
        assert f"  {entry['name']}: {entry['reason']}" in done.stdout.splitlines()
    assert "no such file" in next(line for line in lines if line.startswith("broken.tif")).lower()
    assert done.stderr == ""


def test_the_report_counts_what_is_there(checked, damaged):
    done, values, _ = checked
    assert values["images"] == 9 + len(BAD)
    assert values["readable"] == 9
    paths = [path.relative_to(damaged).as_posix() for path in damaged.rglob("*.*") if path.name[0] != "."]
    paths = [path for path in paths if not path.endswith((".psd", "folder.jpg"))]
    train, validation = split_folder(sorted(paths), 0.02)
    assert values["parts"] == {"train": len(train), "validation": len(validation)}
    assert values["formats"] == {"JPEG": 8, "PNG": 1}
    assert values["modes"] == {"RGB": 8, "CMYK": 1}
    assert values["sides"]["width"] == [40, 301, 305]
    assert values["sides"]["shorter_side"] == [30, 280, 280]
    assert values["enlarged"] == 2
    assert values["duplicates"] == 1
    assert values["other_files"] == {".psd": 1, "": 1}
    assert values["hidden_files"] == 1
    assert values["training_would_stop"] is True
    good = [path for path in damaged.rglob("*") if path.is_file() and path.suffix in (".jpg", ".png")]
    good = [path for path in good if path.name not in BAD | {"new\nline.jpg", ".hidden.jpg"}]
    assert values["bytes"] == sum(path.stat().st_size for path in good)
    for words in ("18: ", "(50.00%)", ".psd 1", "no suffix 1", "; 1 hidden", "would stop"):
        assert words in done.stdout


def test_the_mean_pixel_is_that_of_training(tmp_path):
    for index, size in enumerate(((70, 90), (200, 130), (33, 40), (500, 400))):
        ramp = np.linspace(40 * index, 255, size[0] * size[1] * 3).reshape(size[1], size[0], 3)
        Image.fromarray(ramp.astype(np.uint8)).save(tmp_path / f"{index}.jpg", quality=95)
        Image.fromarray(ramp.astype(np.uint8)).save(tmp_path / f"{index}.png")
    result = command_runner().invoke(main.cli, ["data", "check", str(tmp_path), "--processes", "1"])
    assert result.exit_code == 0, result.output
    found = re.search(r"--config\.data\.mean_pixel=\(([\d.]+),([\d.]+),([\d.]+)\)'", result.output)
    data = load_config("folder").data
    data.source = f"folder:{tmp_path}"
    expected = mean_pixel(open_sources(data).train, data, SkippedFiles(None, 8, 0.0))
    np.testing.assert_allclose([float(value) for value in found.groups()], expected, atol=1e-3)


def checked_in_process(path: Path) -> dict:
    planned = check.find_images(path, 0.02)
    findings = check.read_all(planned, 1, lambda: None)
    return check.report(planned, findings, 256, 0.01)


def test_what_is_held_out_counts_as_in_training(tmp_path):
    """Neither into the mean colour, nor, in a split that training does not open, into the unreadable."""
    for name in "abcdefgh":
        Image.new("RGB", (20, 20)).save(tmp_path / f"{name}.png")
    held_out = Path(split_folder(sorted(os.listdir(tmp_path)), 0.02)[1][0])
    Image.new("RGB", (20, 20), "white").save(tmp_path / held_out)
    assert checked_in_process(tmp_path)["mean_pixel"] == [0.0, 0.0, 0.0]

    planned = check.Images(tmp_path, {"train": range(10), "validation": range(10), "test": range(80)})
    for part, stops, words in (("test", False, "every image of the parts"), ("validation", True, "would stop")):
        findings = check.Findings()
        findings.add((part, 0), check.Finding(error="bad"))
        values = check.report(planned, findings, 256, 0.01)
        assert values["training_would_stop"] is stops
        assert words in check.as_text(values)


@pytest.mark.parametrize(("progressive", "restart"), [(False, None), (True, None), (False, 1), (True, 4)], ids=str)
def test_damage_is_found_at_any_size_of_decoding(progressive, restart):
    options = {"progressive": progressive, **({"restart_marker_blocks": restart} if restart else {})}
    content = picture(3, (330, 270), **options)
    rng = np.random.default_rng(0)
    for length in rng.integers(300, len(content) - 20, 20):
        for at_least in (None, 8, 64, 128):
            with pytest.raises(DataError):
                check.load_with_header(content[:length], "cut", at_least)


def test_a_command_without_images_is_one_line_and_exit_code_2(tmp_path, capsys, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "phone").mkdir()
    (tmp_path / "phone" / "a.psd").write_bytes(b"")
    (tmp_path / "a.jpg").write_bytes(picture())
    for path, words in (
        ("nowhere", "no such folder"),
        ("a.jpg", "is a file, not a folder"),
        ("empty", "0 image files found"),
        ("phone", "files with other suffixes: 1 .psd"),
    ):
        monkeypatch.setattr(sys, "argv", ["glcic", "data", "check", str(tmp_path / path)])
        with pytest.raises(SystemExit) as caught:
            main.main()
        output = capsys.readouterr()
        assert caught.value.code == 2
        assert output.out == ""
        assert output.err.startswith(f"error: {tmp_path / path}")
        assert words in output.err
        assert output.err.count("\n") == 1


@pytest.fixture
def two_images(tmp_path) -> Path:
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(picture(size=(40, 40), kind="PNG"))
    return tmp_path


def test_an_unwritable_report_is_an_error_before_the_reading(two_images, monkeypatch):
    monkeypatch.setattr(check, "read_all", None)
    with pytest.raises(DataError, match=r"x\.json: cannot be written"):
        check.check_data(two_images, 1, None, two_images / "nowhere" / "x.json", **LIMITS)


def test_an_earlier_report_stays_until_the_reading_is_done(two_images, monkeypatch):
    (two_images / "x.json").write_text("earlier")
    monkeypatch.setattr(check, "read_all", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        check.check_data(two_images, 1, None, two_images / "x.json", **LIMITS)
    assert (two_images / "x.json").read_text() == "earlier"


def test_the_list_or_the_report_goes_to_stdout(two_images, capsys):
    (two_images / "b.png").write_bytes(b"")
    stdout = Path("-")
    assert not check.check_data(two_images, 1, stdout, None, **LIMITS)
    assert capsys.readouterr().out == "b.png: cannot be read as an image (the file is empty)\n"
    assert not check.check_data(two_images, 1, None, stdout, **LIMITS)
    assert json.loads(capsys.readouterr().out)["images"] == 2
    with pytest.raises(ConfigError, match="only one of --list and --json"):
        check.check_data(two_images, 1, stdout, stdout, **LIMITS)


def test_a_dataset_info_of_another_program_is_ignored(two_images):
    for file in ("dataset_info.json", "features.json"):
        (two_images / file).write_text("{}")
        assert sorted(check.find_images(two_images, 0.5).parts) == ["train", "validation"]


def test_large_images_are_postponed(two_images, monkeypatch):
    monkeypatch.setattr(check, "LARGE", 1000)
    items = [("train", "a.png"), ("train", "b.png")]
    assert all(finding.postponed for finding in check.inspect_items(two_images, items))
    assert not any(finding.postponed for finding in check.inspect_items(two_images, items, large=True))


def test_the_defaults_of_the_command_are_those_of_the_configuration():
    options = {option.name: option.default for option in data_command.check.params}
    data = load_config("joint").data
    for key in ("image_size", "validation_fraction", "max_skipped_fraction"):
        assert options[key] == data[key]


def test_the_command_needs_neither_jax_nor_the_input_pipeline():
    code = "import sys, glcic_jax.commands.main, glcic_jax.data.check; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"jax", "flax", "grain", "cv2", "tensorflow_datasets"} & set(loaded.stdout.split())


def test_a_median_of_counts():
    assert check.range_of(Counter()) is None
    assert check.range_of(Counter({5: 1})) == (5, 5, 5)
    assert check.range_of(Counter([9, 1, 1, 4, 8])) == (1, 4, 9)


@pytest.mark.parametrize(("count", "processes", "chunk_size"), [(40, 2, 4), (30, 1, 30)])
def test_a_crashing_worker_costs_only_the_item_that_crashes_it(count, processes, chunk_size):
    found = dict(check.map_in_processes(crash_at_seven, range(count), processes, chunk_size, crashed=-1))
    assert found == {number: -1 if number in (7, 31) else number + 100 for number in range(count)}


def test_a_worker_killed_while_idle_costs_no_item(monkeypatch):
    executors = []
    start = check._start_worker
    monkeypatch.setattr(
        check, "_start_worker", lambda *arguments: executors.append(start(*arguments)) or executors[-1]
    )
    results = check.map_in_processes(crash_at_seven, range(4), 1, 2, crashed=-1)
    found = [next(results), next(results)]
    [process] = executors[0][0]._processes.values()
    process.kill()
    process.join()
    assert dict([*found, *results]) == {number: number + 100 for number in range(4)}


def test_an_error_in_a_worker_reaches_the_caller():
    with pytest.raises(DataError, match=r"cannot do \[0, 1\]"):
        list(check.map_in_processes(fail, range(2), 1, 2, crashed=0))


SCRIPT = f"""
import sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
from helpers.fragile_work import announce_and_sleep
from glcic_jax.errors import DataError
from glcic_jax.data.check import map_in_processes
if __name__ == "__main__":
    try:
        print(list(map_in_processes(announce_and_sleep, range(2), 1, 1, crashed=0)))
    except DataError as error:
        print(error)
"""


def test_workers_that_cannot_start_are_not_blamed_on_the_items(tmp_path):
    # The workers import the main program again, which standard input gives only once.
    done = subprocess.run(
        [sys.executable, "-"], input=SCRIPT, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("no worker process can start")
    assert len(done.stdout.splitlines()) == 1


def test_workers_end_with_a_killed_parent(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    process = subprocess.Popen([sys.executable, tmp_path / "script.py"], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "at work\n"
    process.kill()
    assert process.communicate(timeout=20)[0] == ""  # A live worker would hold the pipe open.


def wait_for_workers(pid: int, count: int) -> None:
    """Waits until the workers exist and the command no longer ignores Ctrl-C."""
    children, status = Path(f"/proc/{pid}/task/{pid}/children"), Path(f"/proc/{pid}/status")
    if not children.exists():
        pytest.skip("needs /proc")
    for _ in range(1000):
        ignored = int(re.search(r"SigIgn:\s*(\w+)", status.read_text())[1], 16)
        if len(children.read_text().split()) > count and not ignored & 1 << signal.SIGINT - 1:  # And a tracker.
            return
        time.sleep(0.02)
    raise AssertionError("no worker appeared")


def test_ctrl_c_stops_all_processes_without_a_traceback(tmp_path):
    blob = picture(0, (1200, 1200), "PNG")
    for index in range(60):
        (tmp_path / f"{index}.png").write_bytes(blob)
    command = [*GLCIC, "data", "check", str(tmp_path), "--processes", "2"]
    # The descendants of a shell's background job, as these tests may be, inherit that it ignores Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
    finally:
        signal.signal(signal.SIGINT, before)
    wait_for_workers(process.pid, 2)
    os.killpg(process.pid, signal.SIGINT)  # To all of them, as a terminal does.
    output, errors = process.communicate(timeout=20)
    assert process.returncode == 130, (output, errors)
    assert output == ""
    assert errors.split() == ["stopped"], errors

"""Whole runs through main.py, in processes of their own, with the real input pipeline."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import orbax.checkpoint as ocp
import pytest
from helpers.common import COMPILE_QUICKLY, ROOT
from PIL import Image

from glcic_jax.training.metric_log import COLUMNS

ENVIRONMENT = {**os.environ, "XLA_FLAGS": COMPILE_QUICKLY}
# The quickstart at 32 px and a sixteenth of the width.
NARROW = (
    "batch_size=4",
    "data.image_size=32",
    "data.resize_range=(32,48)",
    "mask.rectangle.min_side=6",
    "mask.rectangle.max_side=14",
    "completion.width=0.0625",
    "completion.ema_decay=0.5",
    "discriminator.width=0.0625",
    "discriminator.local_size=16",
    "discriminator.global_channels=(64,128,256)",
    "discriminator.local_channels=(64,128)",
    "balance.measure_every=2",
    "validation_images=4",
    "log_every=1",
    "validate_every=2",
    "grid_every=3",
    "checkpoint_every=2",
)


def run_main(workdir, completion, discriminator, joint, *extra):
    lengths = (f"phases.completion={completion}", f"phases.discriminator={discriminator}", f"phases.joint={joint}")
    flags = [f"--config.{override}" for override in (*NARROW, *lengths, *extra)]
    return subprocess.run(
        [sys.executable, "main.py", "--config=configs/quickstart.py", f"--workdir={workdir}", *flags],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same eight steps, in one process and in three: stopped in phase 1, and in phase 3 before a joint step
    that measures no norms."""
    folder = tmp_path_factory.mktemp("runs")
    whole = run_main(folder / "whole", 3, 2, 3)
    parts = [run_main(folder / "parts", *phases) for phases in ((2, 0, 0), (3, 2, 1), (3, 2, 3))]
    for finished in (whole, *parts):
        assert finished.returncode == 0, finished.stderr
    return folder, whole.stderr, parts[1].stderr


def restore_all(workdir, step):
    with ocp.PyTreeCheckpointer() as checkpointer:
        found = {
            item: checkpointer.restore((workdir / "checkpoints" / str(step) / item).absolute())
            for item in ("completion", "discriminator")
        }
    data = json.loads((workdir / "checkpoints" / str(step) / "data" / "metadata").read_text())
    return found, data


def test_a_stopped_run_equals_one_that_never_stopped(runs):
    folder, _, _ = runs
    (whole, whole_data), (parts, parts_data) = (restore_all(folder / name, 8) for name in ("whole", "parts"))
    leaves, structure = ocp.utils.jax.tree.flatten(whole)
    others, other_structure = ocp.utils.jax.tree.flatten(parts)
    assert structure == other_structure
    assert len(leaves) > 100
    for leaf, other in zip(leaves, others, strict=True):
        np.testing.assert_array_equal(leaf, other)
    assert whole_data == parts_data == {"next_index": [32]}


def test_the_logs_of_a_stopped_run_equal_those_of_one_that_never_stopped(runs):
    folder, _, _ = runs

    def numbers(name):
        rows = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
        timed = ("images_per_second", "data_wait_fraction", "elapsed_seconds")
        return [{key: value for key, value in row.items() if key not in timed} for row in rows]

    whole, parts = numbers("whole"), numbers("parts")
    assert [row["step"] for row in whole] == [row["step"] for row in parts] == [1, 2, 3, 4, 5, 6, 7, 8]
    # The first part ended its phase at step 2, and validated there as the whole run does every 2 steps.
    assert whole == parts


def test_the_second_process_says_where_it_goes_on(runs):
    _, _, second = runs
    assert "going on from step 2 of 6 (phase completion)" in second


def test_progress_names_phases_compilation_and_what_is_left(runs):
    _, stderr, _ = runs
    for number, name in enumerate(("completion", "discriminator", "joint"), start=1):
        assert f"phase {number}/3 {name}" in stderr
        assert f"compiled the {name} step in" in stderr
    line = next(line for line in stderr.splitlines() if line.startswith("  3/3: ") and "adv" in line)
    for word in ("rec_loss", "d_loss", "real_acc", "fake_acc", "images/s", "phase 0m00s left", "all 0m00s left"):
        assert word in line


def test_a_run_leaves_logs_grids_and_a_summary(runs):
    workdir = runs[0] / "whole"
    with (workdir / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == 8
    for row, phase in zip(rows, ["completion"] * 3 + ["discriminator"] * 2 + ["joint"] * 3, strict=True):
        assert row["phase"] == phase
        assert (row["reconstruction_loss"] == "") == (phase == "discriminator")
        assert (row["real_accuracy"] == "") == (phase == "completion")
        assert (row["adversarial_weight"] == "") == (phase != "joint")
    assert float(rows[-1]["validation_psnr"]) > 0
    assert list((workdir / "tensorboard").glob("events*"))
    # Every 3 steps, and at the ends of the phases (3, 5 and 8).
    assert sorted(p.name for p in (workdir / "grids").iterdir()) == [f"step_{n:08d}.png" for n in (3, 5, 6, 8)]
    with Image.open(workdir / "grids" / "step_00000008.png") as grid:
        assert grid.size == (4 * 34 - 2, 4 * 34 - 2)
    summary = (workdir / "summary.md").read_text()
    for phrase in ("8 of 8 steps", "| mean fill |", "| Telea |", "| GLCIC |", "curves.png", "jax ", "CPU cores"):
        assert phrase in summary
    for picture in ("curves.png", "comparison.png"):
        with Image.open(workdir / picture) as image:
            assert min(image.size) > 300
    kept = {path.name for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()}
    assert {"5", "6", "8"} <= kept


def test_grids_show_the_same_images_with_the_same_holes(runs):
    grids = [np.asarray(Image.open(runs[0] / "whole" / "grids" / f"step_{n:08d}.png")) for n in (3, 8)]
    inputs, outputs, truths = slice(0, 32), slice(34, 66), slice(102, 134)
    np.testing.assert_array_equal(grids[0][:, inputs], grids[1][:, inputs])
    np.testing.assert_array_equal(grids[0][:, truths], grids[1][:, truths])
    assert (grids[0][:, outputs] != grids[1][:, outputs]).any()


def test_a_finished_run_is_not_trained_again(runs):
    workdir = runs[0] / "whole"
    before = (workdir / "metrics.jsonl").read_text()
    again = run_main(workdir, 3, 2, 3)
    assert again.returncode == 0, again.stderr
    assert "compiled" not in again.stderr
    assert (workdir / "metrics.jsonl").read_text() == before


def test_start_from_skips_finished_phases(runs):
    folder = runs[0]
    result = run_main(folder / "from", 3, 2, 5, f"start_from={folder / 'whole'}")
    assert result.returncode == 0, result.stderr
    assert "going on from step 8 of 10 (phase joint)" in result.stderr
    assert "phase 1/3" not in result.stderr

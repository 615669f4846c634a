"""What a whole run through main.py leaves, in a process of its own, with the real input pipeline."""

import csv
import os
import shutil

import numpy as np
import pytest
from helpers.runs import read_rows, saved_steps
from PIL import Image

from glcic_jax.errors import DataError
from glcic_jax.training.loop import train
from glcic_jax.training.metric_log import columns
from glcic_jax.training.tasks.completion import CompletionTask
from glcic_jax.training.workdir import lock_workdir


def test_progress_names_phases_compilation_and_time_left(unbroken_run):
    errors = unbroken_run.with_suffix(".txt").read_text()
    for number, name in enumerate(("completion", "discriminator", "joint"), start=1):
        assert f"phase {number}/3 {name}" in errors
        assert f"compiled the {name} step in" in errors
    line = next(line for line in errors.splitlines() if line.startswith("  4/4: ") and "adv" in line)
    for word in ("rec_loss", "d_loss", "real_acc", "fake_acc", "images/s", "phase 0m00s left", "all 0m00s left"):
        assert word in line


def test_metrics_csv_has_the_metrics_of_each_phase(unbroken_run):
    with (unbroken_run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == columns(CompletionTask)
    # Every 2 steps, and at the ends of the phases (9, 14 and 18).
    assert [int(row["step"]) for row in rows] == [2, 4, 6, 8, 9, 10, 12, 14, 16, 18]
    for row, phase in zip(rows, ["completion"] * 5 + ["discriminator"] * 3 + ["joint"] * 2, strict=True):
        assert row["phase"] == phase
        assert (row["reconstruction_loss"] == "") == (phase == "discriminator")
        assert (row["real_accuracy"] == "") == (phase == "completion")
        assert (row["adversarial_weight"] == "") == (phase != "joint")
    assert float(rows[-1]["validation_psnr"]) > 0
    assert [row["step"] for row in read_rows(unbroken_run)] == [int(row["step"]) for row in rows]
    assert list((unbroken_run / "tensorboard").glob("events*"))


def test_grids_show_the_same_images_with_the_same_holes(unbroken_run):
    names = sorted(path.name for path in (unbroken_run / "grids").iterdir())
    assert names == [f"step_{step:08d}.png" for step in (6, 9, 12, 14, 18)]
    first, last = (np.asarray(Image.open(unbroken_run / "grids" / name)) for name in (names[0], names[-1]))
    assert first.shape == (4 * 34 - 2, 4 * 34 - 2, 3)
    inputs, outputs, truths = slice(0, 32), slice(34, 66), slice(102, 134)
    np.testing.assert_array_equal(first[:, inputs], last[:, inputs])
    np.testing.assert_array_equal(first[:, truths], last[:, truths])
    assert (first[:, outputs] != last[:, outputs]).any()


def test_summary_has_tables_and_figures(unbroken_run):
    summary = (unbroken_run / "summary.md").read_text()
    for phrase in ("18 of 18 steps", "| mean fill |", "| Telea |", "| GLCIC |", "curves.png", "jax ", "CPU cores"):
        assert phrase in summary
    for picture in ("curves.png", "comparison.png"):
        with Image.open(unbroken_run / picture) as image:
            assert min(image.size) > 300


def test_newest_and_best_checkpoints_are_kept(unbroken_run):
    losses = {row["step"]: row["validation_hole_l1"] for row in read_rows(unbroken_run)}
    assert saved_steps(unbroken_run) == sorted({16, 18, min(losses, key=losses.get)})


def test_finished_run_is_not_trained_again(unbroken_run, unbroken_config, tmp_path, capfd):
    shutil.copytree(unbroken_run, tmp_path / "run")
    state = train(unbroken_config, tmp_path / "run")
    assert int(state.step) == 18
    assert "compiled" not in capfd.readouterr().err
    assert read_rows(tmp_path / "run") == read_rows(unbroken_run)


def test_workdir_in_use_is_refused(unbroken_run, unbroken_config, tmp_path):
    shutil.copytree(unbroken_run, tmp_path / "run")
    with (
        lock_workdir(tmp_path / "run"),
        pytest.raises(DataError, match=f"is in use by process {os.getpid()}"),
    ):
        train(unbroken_config, tmp_path / "run")

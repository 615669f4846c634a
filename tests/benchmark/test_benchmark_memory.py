"""The table of what an update's memory is."""

import pytest
from helpers.common import ROOT, command_runner

from glcic_jax.benchmark import memory
from glcic_jax.benchmark.__main__ import cli
from glcic_jax.benchmark.memory import HEADROOM, Plan, largest_batch, largest_that, line_through

CONFIG = f"--config={ROOT / 'configs' / 'quickstart.py'}"
SMALL = ("memory", CONFIG, "--image-size=32", "--width=0.05", "--dtypes=float32", "--batches=1,3")


def test_each_row_fits_the_columns_and_adds_up():
    done = command_runner().invoke(cli, [*SMALL, "--phases=completion", "--remats=none,activations"])
    assert done.exit_code == 0, done.output
    assert "`python -m glcic_jax.benchmark memory " in done.stdout.splitlines()[0]
    assert "with a GPU's convolutions" in done.stdout
    header, _, *rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line[:1] == "|"]
    assert [row[:3] for row in rows] == [
        ["completion", "float32", "none"],
        ["completion", "float32", "activations"],
    ]
    for row in rows:
        assert len(row) == len(header)
        arguments, outputs, temporaries, aliased = map(float, row[3:7])
        fixed, per_image = (1024 * float(value) for value in row[7:9])
        assert min(arguments, outputs, temporaries, aliased, per_image) > 0
        assert fixed + 3 * per_image == pytest.approx(arguments + outputs + temporaries - aliased, abs=1)
        assert 0 < int(row[9]) < int(row[10]) < int(row[11]) < int(row[12])
    assert float(rows[1][8]) < float(rows[0][8])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dtypes=float33"], "unknown compute_dtype 'float33'"),
        (["--remats=none,all"], "unknown remat 'all'"),
        (["--phases=third"], "unknown phase 'third'"),
        (["--batches=4,4"], "give two whole numbers"),
        (["--batches=2,x,6"], "--batches is '2,x,6': give two whole numbers"),
        (["--batches=2,6,"], "give two whole numbers"),
        (["--width=0"], "0 is not in the range"),
        (["--config=missing.py"], "missing.py: no such configuration"),
        ([f"--config={__file__}"], "has no attribute 'get_config'"),
        (["--image-size=30"], "needs a multiple of 4"),
        (["--trial"], "--trial needs a GPU"),
    ],
)
def test_what_is_wrong_is_said_before_anything_else(arguments, message, monkeypatch):
    monkeypatch.setattr("jax.default_backend", lambda: "cpu")
    done = command_runner().invoke(cli, [*SMALL, *arguments])
    assert done.exit_code == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_the_peak_counts_what_is_handed_over_once():
    assert Plan(arguments=10, outputs=8, temporaries=5, aliased=7).total == 16


def test_the_largest_batch_leaves_headroom():
    assert line_through((2, 6), (30, 70)) == (10, 10)
    assert largest_batch(1010 / (1 - HEADROOM) + 1e-6, 10, 10) == 100
    assert largest_batch(5, 10, 10) == 0


@pytest.mark.parametrize("per_image", [0, -10])
def test_a_plan_that_does_not_grow_says_nothing_of_the_largest_batch(per_image, monkeypatch):
    assert largest_batch(1000, 10, per_image) is None
    monkeypatch.setattr(
        memory, "plan_of", lambda phase, state, size, side: Plan(0, 0, 2**20 + size * per_image, 0)
    )
    done = command_runner().invoke(cli, [*SMALL, "--phases=completion", "--remats=none"])
    assert done.exit_code == 0, done.output
    row = [cell.strip() for cell in done.stdout.splitlines()[-1].strip("|").split("|")]
    assert row[9:] == ["unknown"] * 4
    assert '"unknown"' in done.stdout


@pytest.mark.parametrize("limit", [0, 1, 2, 15, 16, 100, 1000])
def test_a_trial_ends_just_below_the_limit(limit):
    tried = []

    def runs(size):
        tried.append(size)
        return size <= limit

    found = largest_that(runs)
    assert found <= limit <= found + found // 16
    assert len(tried) == len(set(tried))

"""`python -m glcic_jax.benchmark memory`: its table and the largest batches."""

from types import SimpleNamespace

import pytest
from benchmark.test_benchmark import refused, run
from helpers.common import ROOT

from glcic_jax.benchmark import memory
from glcic_jax.benchmark.common import peak_bytes
from glcic_jax.benchmark.memory import HEADROOM, largest_batch, largest_that, line_through

CONFIG = f"--config={ROOT / 'configs' / 'quickstart.py'}"
SMALL = ("memory", CONFIG, "--image-size=32", "--width=0.05", "--dtypes=float32", "--batches=1,3")


def plan(arguments, outputs, temporaries, aliased) -> SimpleNamespace:
    """Stands in for XLA's `CompiledMemoryStats`."""
    return SimpleNamespace(
        argument_size_in_bytes=arguments,
        output_size_in_bytes=outputs,
        temp_size_in_bytes=temporaries,
        alias_size_in_bytes=aliased,
    )


def rows_of(output) -> list[list[str]]:
    """The cells of the table, column names first."""
    lines = [line for line in output.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in (lines[0], *lines[2:])]


def test_row_fits_the_columns_and_adds_up():
    done = run(*SMALL, "--phases=completion", "--remats=none")
    assert done.exit_code == 0, done.output
    assert "`python -m glcic_jax.benchmark " in done.stdout.splitlines()[0]
    assert "with a GPU's convolutions" in done.stdout
    header, row = rows_of(done.stdout)
    assert row[:3] == ["completion", "float32", "none"]
    assert len(row) == len(header)
    arguments, outputs, temporaries, aliased = map(float, row[3:7])
    fixed, per_image = (1024 * float(value) for value in row[7:9])
    assert min(arguments, outputs, temporaries, aliased, per_image) > 0
    assert fixed + 3 * per_image == pytest.approx(arguments + outputs + temporaries - aliased, abs=1)
    assert 0 < int(row[9]) < int(row[10]) < int(row[11]) < int(row[12])


def test_remat_has_rows_of_its_own_in_the_phases_that_train_the_completion_network(monkeypatch):
    monkeypatch.setattr(memory, "memory_plan", lambda phase, state, size, side: plan(0, 0, size, 0))
    _, *rows = rows_of(run(*SMALL, "--remats=none,activations").stdout)
    assert [row[:3] for row in rows] == [
        ["completion", "float32", "none"],
        ["discriminator", "float32", ""],
        ["joint", "float32", "none"],
        ["completion", "float32", "activations"],
        ["joint", "float32", "activations"],
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dtypes=float33"], "unknown compute_dtype 'float33'"),
        (["--remats=none,all"], "unknown remat 'all'"),
        (["--phases=third"], "unknown phase 'third'"),
        (["--batches=4,4"], "give two sizes, the smaller first"),
        (["--batches=2,x,6"], "'2,x,6' is not a list of whole numbers"),
        (["--batches=2,6,"], "is not a list of whole numbers"),
        (["--width=0"], "0 is not in the range"),
        (["--config=missing.py"], "missing.py: no such configuration"),
        ([f"--config={__file__}"], "has no attribute 'get_config'"),
        (["--image-size=30"], "needs a multiple of 4"),
        (["--trial"], "--trial needs a GPU"),
    ],
)
def test_wrong_options_are_refused_before_any_output(arguments, message, monkeypatch):
    monkeypatch.setattr("jax.default_backend", lambda: "cpu")
    assert message in refused(*SMALL, *arguments)


def test_peak_counts_aliased_memory_once():
    assert peak_bytes(plan(arguments=10, outputs=8, temporaries=5, aliased=7)) == 16


def test_largest_batch_leaves_headroom():
    assert line_through((2, 6), (30, 70)) == (10, 10)
    assert largest_batch(1010 / (1 - HEADROOM) + 1e-6, 10, 10) == 100
    assert largest_batch(5, 10, 10) == 0


@pytest.mark.parametrize("per_image", [0, -10])
def test_largest_batch_is_unknown_where_the_plan_does_not_grow(per_image, monkeypatch):
    assert largest_batch(1000, 10, per_image) is None
    monkeypatch.setattr(
        memory, "memory_plan", lambda phase, state, size, side: plan(0, 0, 2**20 + size * per_image, 0)
    )
    done = run(*SMALL, "--phases=completion", "--remats=none")
    assert done.exit_code == 0, done.output
    (_, row) = rows_of(done.stdout)
    assert row[9:] == ["unknown"] * 4
    assert '"unknown"' in done.stdout


@pytest.mark.parametrize("limit", [0, 1, 2, 15, 16, 100, 1000])
def test_trial_ends_just_below_the_limit(limit):
    tried = []

    def runs(size):
        tried.append(size)
        return size <= limit

    found = largest_that(runs)
    assert found <= limit <= found + found // 16
    assert len(tried) == len(set(tried))

"""The benchmark's commands at sizes that say nothing about speed: tables, counts and error messages."""

import contextlib
import importlib.util
import io
import re
import subprocess
import sys
from pathlib import Path
from unittest import mock

import click
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.common import ROOT, command_runner

from glcic_jax.benchmark import phases
from glcic_jax.benchmark.__main__ import cli
from glcic_jax.benchmark.cpu.compare import _difference, _one_round
from glcic_jax.benchmark.cpu.turns import Worker, answer
from glcic_jax.benchmark.operation_counts import nominal_flops
from glcic_jax.benchmark.phases import PAPER_STEPS, phase_flops, scheduled_rate
from glcic_jax.data import input_pipeline
from glcic_jax.errors import DataError, last_error_line
from glcic_jax.model.networks import CompletionNetwork
from glcic_jax.training.tasks.completion import create_spec, state_shapes

TINY = f"""
import sys
sys.path.insert(0, {str(ROOT / "tests")!r})
from helpers.common import load_config, shrink
def get_config():
    return shrink(load_config("joint"))
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> str:
    """The path of a configuration of the whole schedule, shrunk."""
    path = tmp_path_factory.mktemp("config") / "tiny.py"
    path.write_text(TINY)
    return str(path)


def run(*arguments):
    arguments = [str(argument) for argument in arguments]
    with mock.patch.object(sys, "argv", ["benchmark", *arguments]):  # The heading shows it.
        return command_runner().invoke(cli, arguments, standalone_mode=False)


def refused(*arguments) -> str:
    """The message of the error that ends a command before it prints anything."""
    result = run(*arguments)
    error = result.exception
    assert error.exit_code == 2
    assert result.stdout == ""
    message = error.format_message() if isinstance(error, click.ClickException) else str(error)
    assert len(message.splitlines()) == 1
    return message


def tables(output: str) -> list[list[list[str]]]:
    """The rows of each table, column names first; checks the heading."""
    first, *lines = output.splitlines()
    assert re.search(
        r"\d+ cores, .*Python 3\..*jax \d.*; \d{4}-\d\d-\d\d; `python -m glcic_jax\.benchmark ", first
    )
    found: list[list[list[str]]] = []
    for before, line in zip([first, *lines], lines, strict=False):
        if line.startswith("|"):
            if not before.startswith("|"):
                found.append([])
            found[-1].append([cell.strip() for cell in line.strip("|").split("|")])
    for table in found:
        assert set(table[1]) == {"---"}
        assert {len(row) for row in table} == {len(table[0])}
        del table[1]
    return found


def positive(rows: list[list[str]], first: int) -> bool:
    values = np.array([[float(cell.removesuffix(" %")) for cell in row[first:]] for row in rows])
    return bool(np.isfinite(values).all() and (values > 0).all())


def test_help_imports_no_jax_and_errors_are_one_line():
    code = (
        "import sys, runpy; sys.argv = ['benchmark', *sys.argv[1:]]\n"
        "try: runpy.run_module('glcic_jax.benchmark', run_name='__main__')\n"
        "finally: print('jax' in sys.modules)"
    )

    def call(*arguments):
        return subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
        )

    done = call("--help")
    assert done.returncode == 0
    assert "phases" in done.stdout
    assert done.stdout.splitlines()[-1] == "False"
    done = call("cpu", "--config", "absent")
    assert done.returncode == 2
    assert done.stderr == "error: absent: no such configuration: run this where configs/ is, or give --config\n"


def test_nominal_flops_of_one_layer_are_as_counted_by_hand():
    image, kernel = jnp.zeros((2, 8, 8, 3)), jnp.zeros((3, 3, 3, 5))

    def convolve(padding):
        numbers = ("NHWC", "HWIO", "NHWC")
        return lambda a, b, _: jax.lax.conv_general_dilated(a, b, (1, 1), padding, dimension_numbers=numbers)

    # Of each axis 8 * 3 pairs of output and tap, 2 of which meet the padding.
    assert nominal_flops(convolve("SAME"), image, kernel, 0) == 2 * 2 * 22 * 22 * 3 * 5
    assert nominal_flops(convolve("VALID"), image, kernel, 0) == 2 * 2 * 18 * 18 * 3 * 5
    assert nominal_flops(lambda a, b, _: a @ b, jnp.zeros((4, 6)), jnp.zeros((6, 7)), 0) == 2 * 4 * 6 * 7


@pytest.mark.parametrize(("stride", "dilation", "groups"), [(1, 1, 1), (2, 1, 1), (1, 4, 1), (1, 1, 2)])
def test_nominal_flops_of_gradients_agree_with_xla(stride, dilation, groups):
    def loss(image, kernel):
        padding = [(dilation, dilation)] * 2
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            image, kernel, (stride, stride), padding, None, (dilation, dilation), numbers, groups
        ).sum()

    def gradient(image, kernel, _):
        return jax.value_and_grad(loss, (0, 1))(image, kernel)

    image, kernel = jnp.zeros((2, 12, 12, 32)), jnp.zeros((3, 3, 32 // groups, 64))
    lowered = jax.jit(gradient).trace(image, kernel, 0).lower(lowering_platforms=("cuda",))
    assert nominal_flops(gradient, image, kernel, 0) == pytest.approx(lowered.cost_analysis()["flops"], rel=0.02)


def test_nominal_flops_of_the_completion_network_agree_with_xla():
    network = CompletionNetwork()
    image = jax.ShapeDtypeStruct((1, 256, 256, 4), jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), image)
    flops = nominal_flops(lambda variables, image, _: network.apply(variables, image), variables, image, None)
    lowered = jax.jit(network.apply).trace(variables, image).lower(lowering_platforms=("cuda",))
    assert 61.5e9 < flops < 62.5e9
    assert flops == pytest.approx(lowered.cost_analysis()["flops"], rel=0.01)


def test_loops_count_every_iteration_and_conditions_their_cheapest_branch():
    matrix = jnp.zeros((8, 8))
    once = 2 * 8**3

    def loop(a, b, _):
        return jax.lax.scan(lambda carry, _: (carry @ b, None), a, length=5)[0]

    def rarely(a, b, flag):
        return jax.lax.cond(flag, lambda: a @ b @ a, lambda: a @ b)

    assert nominal_flops(loop, matrix, matrix, 0) == 5 * once
    assert nominal_flops(rarely, matrix, matrix, True) == once


def test_accumulation_does_not_change_nominal_flops(config):
    state = state_shapes(create_spec(config), config.data.image_size)
    whole = phase_flops(config, "joint", state)
    config.accumulation_steps = 2
    assert phase_flops(config, "joint", state) == whole > phase_flops(config, "completion", state) > 0


def test_scheduled_rate_averages_over_time():
    assert scheduled_rate(dict.fromkeys(PAPER_STEPS, 50.0)) == pytest.approx(50.0)
    rates = {"completion": 90.0, "discriminator": 10.0, "joint": 100.0}
    assert scheduled_rate(rates) == pytest.approx(500_000 / (1_000 + 1_000 + 4_000))


def test_phases_prints_and_traces_each_step(tiny, tmp_path, monkeypatch):
    traced = []
    monkeypatch.setattr(jax.profiler, "trace", lambda path: contextlib.nullcontext(traced.append(path)))
    result = run(
        *("phases", "--config", tiny, "--seconds", 0.01, "--dtypes", "float32", "--matrix-side", 64),
        *("--phases", "joint,completion,discriminator", "--trace", tmp_path),
    )
    assert result.exit_code == 0, result.output
    (names, *rows), (_, schedule) = tables(result.stdout)
    assert [row[0] for row in rows] == ["joint", "completion", "discriminator"]
    assert {row[1] for row in rows} == {"float32"}
    planned = names.index("GiB planned")  # Rounds to 0.00.
    assert positive([row[:planned] + row[planned + 1 :] for row in rows], 2)
    assert positive([schedule], 1)
    assert traced == [str(tmp_path / f"{row[0]}-float32") for row in rows]


def test_phase_that_does_not_fit_is_named_below_the_rows_before(tiny, monkeypatch):
    timed, steps, calls = phases._timed, phases.trained_steps, []
    # Trivial steps, which compile at once.
    monkeypatch.setattr(
        phases,
        "trained_steps",
        lambda config: dict.fromkeys(steps(config), lambda state, batch, key: (state, key)),
    )

    def scarce(*arguments):
        calls.append(arguments)
        if len(calls) > 3:  # Each phase calls three times.
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes.")
        return timed(*arguments)

    monkeypatch.setattr(phases, "_timed", scarce)
    result = run("phases", "--config", tiny, "--seconds", 0.01, "--dtypes", "float32", "--batch-size", 4)
    assert result.exception.exit_code == 2
    ((_, row),) = tables(result.stdout)
    assert row[0] == "completion"
    (line,) = str(result.exception).splitlines()
    for words in ("phase discriminator in float32", "a batch of 4", "lower --batch-size", "RESOURCE_EXHAUSTED"):
        assert words in line


def test_other_device_errors_are_not_reported_as_memory(tiny, monkeypatch):
    def fail(*_):
        raise jax.errors.JaxRuntimeError("INTERNAL: broken")

    monkeypatch.setattr(phases, "matrix_rate", fail)
    result = run("phases", "--config", tiny, "--dtypes", "float32", "--matrix-side", 8)
    assert isinstance(result.exception, jax.errors.JaxRuntimeError)


def test_batch_has_to_fit_the_devices(tiny, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 3)
    assert "give --batch-size 3" in refused("phases", "--config", tiny, "--batch-size", "4")


def test_input_reads_files_once_before_timing_each_number_of_threads(tiny, tmp_path, monkeypatch):
    listed = tmp_path / "listed.py"  # A configuration with a listing, which generated files do not have.
    listed.write_text(
        f"{Path(tiny).read_text()}\n\n_unlisted = get_config\n\n\ndef get_config():\n    config = _unlisted()\n"
        "    config.data.listing = 'nowhere.csv'\n    return config\n"
    )
    made, drawn = input_pipeline.train_batches, []

    def counted(train, data, *rest):
        drawn.append([data.threads, 0])
        for batch in made(train, data, *rest):
            drawn[-1][1] += 1
            yield batch

    monkeypatch.setattr(input_pipeline, "train_batches", counted)
    result = run("input", "--config", listed, "--files", 6, "--images", 12, "--threads", "1,2", "--batch-size", 4)
    assert result.exit_code == 0, result.output
    ((_, *rows),) = tables(result.stdout)
    assert [row[0] for row in rows] == ["1", "2"]
    assert positive(rows, 1)
    assert "skipped" not in result.stderr
    assert drawn == [[2, 4], [1, 4], [2, 4]]


def test_cpu_without_torch_prints_our_rows(tiny):
    result = run(
        *("cpu", "--no-torch", "--config", tiny, "--size", 32, "--joint-size", 32, "--picture", 32),
        *("--width", 1 / 16, "--rounds", 1),
    )
    assert result.exit_code == 0, result.output
    ((_, *rows),) = tables(result.stdout)
    assert len(rows) == 4
    assert "32 px, batch 2" in rows[0][0]
    assert positive(rows, 1)


def test_differences_are_absolute_for_pictures_and_relative_otherwise(tmp_path):
    np.savez(tmp_path / "ours_a.npz", output=np.array([0.5, 1.0]), loss=np.array([30.0, -40.0]))
    np.savez(tmp_path / "theirs_a.npz", output=np.array([0.5, 0.75]), loss=np.array([30.0, -60.0]))
    assert _difference(tmp_path, "a") == pytest.approx(0.4)
    np.savez(tmp_path / "theirs_a.npz", output=np.array([0.0, 1.0]), loss=np.array([30.0, -40.0]))
    assert _difference(tmp_path, "a") == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return None", "does not return a configuration"),
        ("return __import__('ml_collections').ConfigDict({'batch_size': 0})", "batch_size is 0"),
        ("raise SystemExit(5)", "ends the program (5)"),
        ("return 1 / 0", "fails (division by zero)"),
    ],
)
def test_broken_configuration_is_refused(body, words, tmp_path):
    path = tmp_path / "wrong.py"
    path.write_text(f"def get_config():\n    {body}\n")
    assert words in refused("cpu", "--no-torch", "--config", path)


def test_worker_answers_each_job():
    answers = io.StringIO()
    answer(
        {"add": lambda a, b: a + b}, io.StringIO('["add", {"a": 1, "b": 2}]\n["add", {"a": 3, "b": 4}]\n'), answers
    )
    assert answers.getvalue() == "3\n7\n"


def test_worker_that_fails_is_reported_in_one_line(tmp_path, capfd):
    path = tmp_path / "second_time.py"
    path.write_text(
        "import pathlib\n"
        "def get_config():\n"
        f"    pathlib.Path({str(tmp_path / 'read')!r}).touch(exist_ok=False)\n"
        "    return __import__('ml_collections').ConfigDict({'batch_size': 4})\n"
    )
    line = refused("cpu", "--no-torch", "--config", path)
    assert line.startswith("the process benchmark.cpu.ours ended at ready with code 1: ")
    assert "the configuration fails ([Errno 17] File exists" in line
    assert capfd.readouterr().err == ""


def test_worker_that_ended_before_it_is_asked_is_reported():
    with Worker("none", [], {}) as one:
        one._process.wait()
        with pytest.raises(DataError, match=r"ended at run with code 1: .*No module named"):
            one.ask("run", work="x" * 100_000)


@pytest.mark.parametrize(
    ("stderr", "words"),
    [
        ("", "it said nothing"),
        ("warning: slow\npython: No module named x\n", "python: No module named x"),
        (
            "Traceback (most recent call last):\n  File a\nRuntimeError: no memory\n---\nFor simplicity\n",
            "RuntimeError: no memory",
        ),
        (
            "Traceback (most recent call last):\n  File a\nA: 1\n\nDuring\n\n"
            "Traceback (most recent call last):\n  File b\nB: 2\n",
            "B: 2",
        ),
        ("Traceback (most recent call last):\n  File a", "File a"),
    ],
)
def test_last_error_line_is_the_error_under_the_last_traceback(stderr, words):
    assert last_error_line(stderr) == words


def test_sides_take_turns_at_being_first():
    order = []

    class Side:
        def __init__(self, name, seconds):
            self.name, self.seconds = name, seconds

        def timed(self, work):
            order.append(self.name)
            return self.seconds

    ours, theirs = Side("ours", 1.0), Side("theirs", 2.0)
    assert [_one_round(number, ours, theirs, "forward") for number in range(3)] == [(1.0, 2.0)] * 3
    assert order == ["ours", "theirs", "theirs", "ours", "ours", "theirs"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("phases", "--dtypes", "float16"), "unknown type of arithmetic 'float16'"),
        (("phases", "--config", "absent.py"), "absent.py: no such configuration"),
        (("phases", "--seconds", "0"), "0.0 is not in the range"),
        (("phases", "--phases", "joint,third"), "unknown phase 'third'"),
        (("phases", "--trace", __file__), "is a file"),
        (("input", "--threads", "1,0"), "'1,0' is not a list of whole numbers above 0"),
        (("input", "--source", "absent"), "no such folder"),
        (("cpu", "--joint-size", "50", "--no-torch"), "--joint-size 50"),
        (("cpu", "--width", "inf"), "inf is not a finite number"),
        (("memory", "--width", "nan"), "nan is not"),
        (("absent",), "No such command"),
    ],
)
def test_wrong_options_are_refused_in_one_line_before_any_output(arguments, words):
    assert words in refused(*arguments)


def test_missing_torch_is_reported_with_remedies(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else find(name, *rest)
    )
    message = refused("cpu")
    assert "pip install" in message
    assert "--no-torch" in message

"""The benchmark's commands at sizes that say nothing of speed: tables, counts, and what is refused."""

import importlib.util
import io
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.common import ROOT, command_runner

from glcic_jax.benchmark import phases, scale, start
from glcic_jax.benchmark.__main__ import cli
from glcic_jax.benchmark.common import MEASURING
from glcic_jax.benchmark.cpu.compare import _difference, _one_round
from glcic_jax.benchmark.cpu.turns import Worker, answer
from glcic_jax.benchmark.operation_counts import exchanged, nominal_flops
from glcic_jax.benchmark.phases import PAPER_STEPS, phase_flops, scheduled_rate
from glcic_jax.data import input_pipeline
from glcic_jax.errors import DataError, last_error_line
from glcic_jax.model.networks import CompletionNetwork
from glcic_jax.training.distributed import AXIS, pmap_step, shard_batch
from glcic_jax.training.steps import STEPS

TINY = """
import sys
sys.path.insert(0, {tests!r})
from helpers.common import load_config, shrink
def get_config():
    return shrink(load_config("joint"))
"""


@pytest.fixture
def tiny(tmp_path) -> str:
    """The path of a configuration of the whole schedule, shrunk."""
    path = tmp_path / "tiny.py"
    path.write_text(TINY.format(tests=str(ROOT / "tests")))
    return str(path)


def run(*arguments: str):
    return command_runner().invoke(cli, [str(argument) for argument in arguments])


def tables(output: str) -> list[list[list[str]]]:
    """The first line is checked; then each table's rows, the columns' names first."""
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


def numbers(rows: list[list[str]], first: int) -> np.ndarray:
    return np.array([[float(cell.removesuffix(" %")) for cell in row[first:]] for row in rows])


def positive(values: np.ndarray) -> bool:
    return bool(np.isfinite(values).all() and (values > 0).all())


def test_one_layer_counts_as_by_hand():
    image, kernel = jnp.zeros((2, 8, 8, 3)), jnp.zeros((3, 3, 3, 5))

    def convolve(padding):
        numbers = ("NHWC", "HWIO", "NHWC")
        return lambda a, b, _: jax.lax.conv_general_dilated(a, b, (1, 1), padding, dimension_numbers=numbers)

    # Of each axis 8 * 3 pairs of output and tap, 2 of which meet the padding.
    assert nominal_flops(convolve("SAME"), image, kernel, 0) == 2 * 2 * 22 * 22 * 3 * 5
    assert nominal_flops(convolve("VALID"), image, kernel, 0) == 2 * 2 * 18 * 18 * 3 * 5
    assert nominal_flops(lambda a, b, _: a @ b, jnp.zeros((4, 6)), jnp.zeros((6, 7)), 0) == 2 * 4 * 6 * 7


@pytest.mark.parametrize(("stride", "dilation", "groups"), [(1, 1, 1), (2, 1, 1), (1, 4, 1), (1, 1, 2)])
def test_gradients_count_as_xla_counts_them(stride, dilation, groups):
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


def test_the_completion_network_counts_as_the_paper_has_it():
    network = CompletionNetwork()
    image = jax.ShapeDtypeStruct((1, 256, 256, 4), jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), image)
    flops = nominal_flops(lambda variables, image, _: network.apply(variables, image), variables, image, None)
    lowered = jax.jit(network.apply).trace(variables, image).lower(lowering_platforms=("cuda",))
    assert 61.5e9 < flops < 62.5e9
    assert flops == pytest.approx(lowered.cost_analysis()["flops"], rel=0.01)


def test_loops_and_conditions_count_what_is_run():
    matrix = jnp.zeros((8, 8))
    once = 2 * 8**3

    def loop(a, b, _):
        return jax.lax.scan(lambda carry, _: (carry @ b, None), a, length=5)[0]

    def rarely(a, b, flag):
        return jax.lax.cond(flag, lambda: a @ b @ a, lambda: a @ b)

    def chosen(a, b, _):
        return jax.lax.platform_dependent(a, b, cpu=lambda a, b: a, default=lambda a, b: a @ b @ a)

    assert nominal_flops(loop, matrix, matrix, 0) == 5 * once
    assert nominal_flops(rarely, matrix, matrix, True) == once
    assert nominal_flops(chosen, matrix, matrix, 0) == 2 * once


def test_a_batch_in_parts_counts_as_a_whole(config, create):
    state = create(config)
    whole = phase_flops(config, "joint", state)
    config.accumulation_steps = 2
    assert phase_flops(config, "joint", state) == whole > phase_flops(config, "completion", state) > 0


def test_all_gradients_are_exchanged(config, create, batch):
    state = create(config, AXIS)
    shares = shard_batch({"image": batch["image"][: jax.device_count() * 2]})
    sizes = {
        "completion": sum(4 * x.size for x in jax.tree.leaves(state.completion.params)),
        "discriminator": sum(4 * x.size for x in jax.tree.leaves(state.discriminator.params)),
    }
    for phase, gradients in sizes.items():
        count, total = exchanged(pmap_step(STEPS[phase]), state, shares, jax.random.key(0))
        assert count > 1  # BatchNorm's, too.
        assert gradients < total < 1.2 * gradients


def test_the_schedule_is_averaged_over_its_time():
    assert scheduled_rate(dict.fromkeys(PAPER_STEPS, 50.0)) == pytest.approx(50.0)
    rates = {"completion": 90.0, "discriminator": 10.0, "joint": 100.0}
    assert scheduled_rate(rates) == pytest.approx(500_000 / (1_000 + 1_000 + 4_000))
    # One joint step in four takes twice as long.
    assert scheduled_rate({**rates, MEASURING: 50.0}, 4) == pytest.approx(500_000 / (1_000 + 1_000 + 5_000))


def test_phases(tiny, tmp_path):
    trace = tmp_path / "trace"
    result = run(
        "phases", "--config", tiny, "--steps", 1, "--dtypes", "float32", "--matrix-side", 64, "--trace", trace
    )
    assert result.exit_code == 0, result.output
    (names, *rows), (_, schedule) = tables(result.stdout)
    assert [row[0] for row in rows] == ["completion", "discriminator", MEASURING, "joint"]
    assert {row[1] for row in rows} == {"float32"}
    assert positive(np.delete(numbers(rows, 2), names.index("GiB planned") - 2, axis=1))
    assert positive(numbers([schedule], 1))
    assert list(trace.rglob("*.xplane.pb"))


def test_a_phase_that_does_not_fit_is_named_below_the_rows_before(tiny, monkeypatch):
    timed = phases._timed
    calls = []

    def scarce(*arguments):
        calls.append(arguments)
        if len(calls) > 2:  # Each phase calls twice.
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes.")
        return timed(*arguments)

    monkeypatch.setattr(phases, "_timed", scarce)
    result = run("phases", "--config", tiny, "--steps", 1, "--dtypes", "float32", "--batch-size", 4)
    assert result.exit_code == 2
    ((_, row),) = tables(result.stdout)
    assert row[0] == "completion"
    (line,) = result.stderr.splitlines()
    for words in ("phase discriminator in float32", "a batch of 4", "lower --batch-size", "RESOURCE_EXHAUSTED"):
        assert words in line


def test_another_error_of_the_device_is_none_of_memory(tiny, monkeypatch):
    def fail(*_):
        raise jax.errors.JaxRuntimeError("INTERNAL: broken")

    monkeypatch.setattr(phases, "matrix_rate", fail)
    result = run("phases", "--config", tiny, "--dtypes", "float32", "--matrix-side", 8)
    assert result.exit_code == 1
    assert result.stderr == "error: JaxRuntimeError: INTERNAL: broken (unexpected: --debug shows where)\n"


def test_input(tiny):
    result = run("input", "--config", tiny, "--files", 6, "--images", 8, "--threads", "1,2")
    assert result.exit_code == 0, result.output
    ((_, *rows),) = tables(result.stdout)
    assert [row[0] for row in rows] == ["1", "2"]
    assert positive(numbers(rows, 1))
    assert "skipped" not in result.stderr


def test_input_times_its_own_files_where_the_configuration_has_a_listing(tiny, tmp_path):
    listed = tmp_path / "listed.py"
    listed.write_text(
        f"{Path(tiny).read_text()}\n\n_unlisted = get_config\n\n\ndef get_config():\n    config = _unlisted()\n"
        "    config.data.listing = 'nowhere.csv'\n    return config\n"
    )
    result = run("input", "--config", listed, "--files", 6, "--images", 8, "--threads", "1")
    assert result.exit_code == 0, result.output


def test_the_files_are_read_once_before_any_number_of_threads_is_timed(tiny, monkeypatch):
    made, drawn = input_pipeline.train_batches, []

    def counted(train, data, *rest):
        drawn.append([data.threads, 0])
        for batch in made(train, data, *rest):
            drawn[-1][1] += 1
            yield batch

    monkeypatch.setattr(input_pipeline, "train_batches", counted)
    result = run("input", "--config", tiny, "--files", 6, "--images", 12, "--threads", "1,2", "--batch-size", 4)
    assert result.exit_code == 0, result.output
    assert drawn == [[2, 4], [1, 4], [2, 4]]


def in_process(module):
    """In place of a process of its own, whose imports and compiling would take most of a minute."""

    def work(name, task, environment):
        assert name == module.__name__.rpartition(".")[2]
        assert all(isinstance(value, str) for value in environment.values())
        return json.loads(json.dumps(module.work(json.loads(json.dumps(task)))))

    return work


def test_scale(tiny, monkeypatch):
    monkeypatch.setattr(scale, "run_module", in_process(scale))
    result = run("scale", "--config", tiny, "--devices", "1", "--steps", 2, "--batch-size", 4, "--step-ms", 50)
    assert result.exit_code == 0, result.output
    (_, *rows), (_, *sent) = tables(result.stdout)
    assert [row[:2] for row in rows] == [
        ["1 simulated", phase] for phase in ("completion", "discriminator", MEASURING, "joint")
    ]
    for _, _, ms, growth, compilations, copied in rows:
        assert float(ms) > 0
        assert (float(growth), float(compilations), copied) == (1, 0, "nothing")
    values = numbers(sent, 1)
    assert positive(values)
    times, shares = values[:, 3:6], values[:, 6:9]
    np.testing.assert_allclose(shares, 100 * times / 50, rtol=0.06)  # Two digits.
    megabytes = values[:, 1]
    np.testing.assert_allclose(times[:, 1], 1e3 * megabytes * 1e6 / 12.5e9, rtol=0.01)


def test_start(tiny, monkeypatch):
    monkeypatch.setattr(start, "run_module", in_process(start))
    result = run("start", "--config", tiny, "--size", 32, "--rounds", 1)
    assert result.exit_code == 0, result.output
    ((_, *rows),) = tables(result.stdout)
    assert [row[1] for row in rows] == ["none needed", "cold", "warm", "cold", "warm"]
    assert rows[1][0] == "first joint step (the program that measures, not the one between), tiny"
    assert positive(numbers(rows, 2))


def test_cpu_without_torch(tiny):
    result = run(
        *("cpu", "--no-torch", "--config", tiny, "--size", 32, "--joint-size", 32, "--picture", 32),
        *("--width", 1 / 16, "--rounds", 1),
    )
    assert result.exit_code == 0, result.output
    ((_, *rows),) = tables(result.stdout)
    assert len(rows) == 4
    assert "32 px, batch 2" in rows[0][0]
    assert positive(numbers(rows, 1))


def test_differences_are_relative_but_for_pictures(tmp_path):
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
@pytest.mark.parametrize("command", [("cpu", "--no-torch"), ("memory",)], ids=lambda command: command[0])
def test_a_configuration_that_is_none_is_said_so(command, body, words, tmp_path):
    path = tmp_path / "wrong.py"
    path.write_text(f"def get_config():\n    {body}\n")
    result = run(*command, "--config", path)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert words in result.stderr


def test_an_unexpected_error_is_one_line_too(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no backend\nof that name")

    monkeypatch.setattr("glcic_jax.benchmark.memory.print_memory", fail)
    result = run("memory")
    assert result.exit_code == 1
    assert result.stderr == "error: RuntimeError: no backend of that name (unexpected: --debug shows where)\n"


def test_a_worker_answers_each_job():
    answers = io.StringIO()
    answer(
        {"add": lambda a, b: a + b}, io.StringIO('["add", {"a": 1, "b": 2}]\n["add", {"a": 3, "b": 4}]\n'), answers
    )
    assert answers.getvalue() == "3\n7\n"


def test_a_worker_that_fails_says_so_in_one_line(tmp_path, capfd):
    path = tmp_path / "second_time.py"
    path.write_text(
        "import pathlib\n"
        "def get_config():\n"
        f"    pathlib.Path({str(tmp_path / 'read')!r}).touch(exist_ok=False)\n"
        "    return __import__('ml_collections').ConfigDict({'batch_size': 4})\n"
    )
    result = run("cpu", "--no-torch", "--config", path)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: the process benchmark.cpu.ours ended at ready with code 1: ")
    assert "the configuration fails ([Errno 17] File exists" in line
    assert capfd.readouterr().err == ""


def test_a_worker_that_has_ended_before_it_is_asked_is_told_too():
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
def test_the_last_words_are_the_error(stderr, words):
    assert last_error_line(stderr) == words


def test_the_two_sides_take_turns_at_being_first():
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
        (("phases", "--steps", "0"), "0 is not in the range"),
        (("scale", "--devices", "1,x"), "--devices 1,x"),
        (("input", "--threads", "0"), "--threads 0"),
        (("input", "--source", "absent"), "no such folder"),
        (("cpu", "--joint-size", "50", "--no-torch"), "--joint-size 50"),
        (("start", "--config", "configs/mse_only.py"), "no joint step"),
        (("memory", "--width", "nan"), "nan is no finite number"),
        (("scale", "--step-ms", "inf"), "inf is no finite number"),
        (("absent",), "No such command"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_before_anything(arguments, words):
    result = run(*arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


def test_without_torch_the_comparison_says_how_to_go_on(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else find(name, *rest)
    )
    result = run("cpu")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "pip install" in result.stderr
    assert "--no-torch" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_batch_has_to_fit_the_devices(tiny, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 3)
    result = run("phases", "--config", tiny, "--batch-size", "4")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "give --batch-size 3" in result.stderr

"""`benchmark layers` and `first-gpu`: tables at tiny sizes; parts that fail, hang or are interrupted."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from benchmark.test_benchmark import TINY, positive, refused, run, tables
from helpers.common import ROOT, load_config

from glcic_jax.benchmark import first_gpu, layers
from glcic_jax.benchmark.first_gpu import Part
from glcic_jax.training.tasks.completion import create_spec, state_shapes

NAMES = "C.conv1,C.conv10,C.deconv13,D.conv3"

# In place of `python -m glcic_jax.benchmark`: a row for each name, but some hang or crash.
MEASURING = """
import sys, time
print("a heading", "", "| layer | ms | how |", "|---|---|---|", sep="\\n", flush=True)
for name in sys.argv[-1].split(","):
    if name == "hangs":
        time.sleep(60)
    if name == "crashes":
        sys.exit("a broken library")
    print(f"| {name} | 1.5 | 40 % |", flush=True)
"""
# In place of main.py: each start makes a step, and then waits for SIGTERM.
TRAINING = """
import pathlib, signal, sys, time
run = pathlib.Path(sys.argv[-1].removeprefix("--workdir="))
(run / "grids").mkdir(parents=True, exist_ok=True)
(run / "grids" / "step_1.png").write_bytes(b"picture")
with (run / "metrics.csv").open("a") as file:
    if not file.tell():
        file.write("step,images_per_second\\n")
        step = 1
    else:
        step = 2
    file.write(f"{step},30.5\\n")
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
time.sleep(60)
"""


@pytest.fixture
def tiny(tmp_path) -> str:
    (tmp_path / "tiny.py").write_text(TINY)
    return str(tmp_path / "tiny.py")


@pytest.fixture
def measuring(tmp_path, monkeypatch):
    """Replaces the commands of the benchmark by `MEASURING`, with names that are a part's only argument."""
    (tmp_path / "measuring.py").write_text(MEASURING)
    monkeypatch.setattr(first_gpu, "_BENCHMARK", (sys.executable, str(tmp_path / "measuring.py")))


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def test_cases_are_the_convolutions_of_the_networks():
    config = load_config("joint")
    found = layers.cases(config)
    assert len(found) == 19
    assert not {"C.conv6", "C.conv11", "C.conv14"} & set(found)  # As conv5, conv5 and conv3.
    state = state_shapes(create_spec(config), config.data.image_size)
    networks = {
        "C": state.completion.params,
        "D": state.discriminator.params["global_branch"],
    }
    for name, case in found.items():
        network, layer = name.split(".")
        assert networks[network][layer]["kernel"].shape == case.shapes(1)[1]
    assert jax.eval_shape(
        found["C.deconv15"].apply,
        *(jax.ShapeDtypeStruct(shape, np.float32) for shape in found["C.deconv15"].shapes(2)),
    ).shape == (2, 256, 256, 64)
    assert found["D.conv6"].side == 8


def test_layers_prints_times_and_failures(tiny, monkeypatch):
    seconds = layers._seconds

    def scarce(function, *arrays):
        if arrays[1].shape[0] == 4:  # The transposed convolution.
            raise jax.errors.JaxRuntimeError("NOT_FOUND: no algorithm worked")
        return seconds(function, *arrays)

    monkeypatch.setattr(layers, "_seconds", scarce)
    monkeypatch.setattr(layers, "_SECONDS", 0.001)
    result = run("layers", "--config", tiny, "--layers", "C.conv1,C.deconv13", "--dtype", "float32")
    ((columns, conv, deconv),) = tables(result.stdout)
    assert len(columns) == 8
    assert conv[:2] == ["C.conv1", "4x32x32x4"]
    assert positive([conv], 2)
    assert deconv[2:] == ["fails", ""] * 3
    assert "deconv13, kernel gradient: NOT_FOUND" in result.stderr


def test_layers_agree_with_references(tiny, tmp_path):
    path = tmp_path / "made"
    assert run("layers", "--config", tiny, "--layers", NAMES, "--make-references", path).exit_code == 0
    compare = ("layers", "--config", tiny, "--references", path)
    ((_, *rows),) = tables(run(*compare, "--layers", NAMES, "--way", "cuda").stdout)
    differences = np.array([row[1:] for row in rows], np.float64)
    assert (differences[:, :3] < 1e-5).all()
    assert ((differences[:, 3:] > 1e-4) & (differences[:, 3:] < 1e-2)).all()

    known = safetensors.numpy.load_file(path)
    safetensors.numpy.save_file({name: values * [[1], [1], [2]] for name, values in known.items()}, path)
    ((_, row),) = tables(run(*compare, "--layers", "C.conv1").stdout)
    assert [float(cell) for cell in row[1:4]] == pytest.approx([0, 0, 0.5], abs=1e-5)
    assert "no references for C.conv2 at these sizes" in refused(*compare, "--layers", "C.conv2")


def test_part_goes_on_after_names_that_hang_or_crash(tmp_path, measuring):
    part = Part([], "--names", ["one", "hangs", "two", "crashes", "three"], 60, 2)
    with first_gpu._Results(tmp_path, tmp_path / "cache") as results:
        first_gpu._run("times", part, results, time.monotonic() + 60)
    assert [(row.get("layer"), row.get("ms"), row.get("how")) for row in lines(tmp_path) if "layer" in row] == [
        (name, 1.5, 40.0) for name in ("one", "two", "three")
    ]
    assert [(row["failed"], row["reason"]) for row in lines(tmp_path) if "failed" in row] == [
        ("hangs", "it took too long"),
        ("crashes", "exit code 1: a broken library"),
    ]
    assert "| three | 1.5 | 40 % |" in (tmp_path / "results.md").read_text()


def test_part_ends_at_the_deadline(tmp_path, measuring):
    begin = time.monotonic()
    with first_gpu._Results(tmp_path, tmp_path / "cache") as results:
        first_gpu._run("times", Part([], "--names", ["one", "hangs", "two"], 30, 30), results, begin + 2)
    assert time.monotonic() - begin < 20
    assert [(row.get("layer"), row.get("failed")) for row in lines(tmp_path)] == [
        ("one", None),
        (None, "hangs"),
        (None, "two"),
    ]


def test_training_is_stopped_resumed_and_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("main.py").write_text(TRAINING)
    Path("export.py").write_text("import pathlib, sys; pathlib.Path(sys.argv[4]).write_text(sys.argv[3])")
    monkeypatch.setattr(first_gpu, "_GLCIC", (sys.executable, "export.py"))
    monkeypatch.setattr(first_gpu, "_SAVING_SECONDS", 1)
    Path("out").mkdir()
    with first_gpu._Results(Path("out"), Path("cache")) as results:
        first_gpu._train(["--config=x"], Path("run"), results, time.monotonic() + 5)
    found = [(row["start"], row["exit code"], row["last step"], row["images/s"]) for row in lines(Path("out"))]
    assert found == [("first", 143, "1", "30.5"), ("resumed", 143, "2", "30.5")]
    assert Path("out/weights.safetensors").read_text() == "run"
    assert Path("out/metrics.csv").read_text().count("\n") == 3
    assert Path("out/grid.png").read_bytes() == b"picture"


def test_results_so_far_survive_a_signal(tiny, tmp_path):
    (tmp_path / "measuring.py").write_text(MEASURING)
    program = """
        import pathlib, sys
        from glcic_jax.benchmark import first_gpu

        measuring, out, config = sys.argv[1:]
        first_gpu._BENCHMARK = (sys.executable, measuring)
        part = first_gpu.Part([], "--names", ["one", "hangs"], 60, 60)
        first_gpu._table = lambda *_: {"layers": part}
        first_gpu.print_first_gpu(pathlib.Path(out), 60, 1, "layers", config, None, None, ())
    """
    command = [sys.executable, "-c", textwrap.dedent(program), tmp_path / "measuring.py", tmp_path / "out", tiny]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)})
    path = tmp_path / "out" / "results.jsonl"
    while not path.is_file() or not path.read_text():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 143
    (row,) = lines(tmp_path / "out")
    assert row["layer"] == "one"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--parts", "layers,sums"), "unknown part 'sums'"),
        (("--parts", "agreement"), "agreement needs --references FILE"),
        (("--parts", "training"), "training needs arguments of main.py"),
    ],
)
def test_wrong_parts_are_refused_before_anything_is_written(arguments, words, tiny, tmp_path):
    assert words in refused("first-gpu", "--config", tiny, "--out", tmp_path / "out", *arguments)
    assert not (tmp_path / "out").exists()
    assert "give --out a new directory" in refused(
        "first-gpu", "--config", tiny, "--out", tmp_path, "--parts", "layers"
    )

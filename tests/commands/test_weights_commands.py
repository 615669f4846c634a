"""`glcic weights ...` and `glcic export`: files, output, errors and exit codes."""

import dataclasses
import hashlib
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from helpers import foreign_files
from helpers.common import ROOT, command_runner
from helpers.reference import random_completion_weights
from weights.test_weights import DESCRIPTION, NETWORK, assert_same, changed, random_variables

from glcic_jax.commands.main import cli
from glcic_jax.errors import DataError, WeightsError
from glcic_jax.model.networks import CompletionNetwork, ContextDiscriminator
from glcic_jax.weights import store
from glcic_jax.weights.file import Weights, load_weights, save_weights

WEIGHTS = Weights(NETWORK, random_variables(NETWORK, np.zeros((1, 8, 8, 4), np.float32)), DESCRIPTION)


@pytest.fixture(autouse=True)
def home(store_home) -> Path:
    return store_home


@pytest.fixture
def exported(tmp_path) -> Path:
    """A file as `glcic weights export` writes it."""
    path = tmp_path / "Some Weights.safetensors"
    save_weights(WEIGHTS, path)
    return path


def glcic(*arguments) -> types.SimpleNamespace:
    """Runs a command; returns its output, its rows by title, its one line of error and its exit code."""
    result = command_runner().invoke(cli, [str(argument) for argument in arguments])
    error = result.exception
    code = result.exit_code
    if error is not None and not isinstance(error, SystemExit):
        assert isinstance(error, DataError | WeightsError), result.exc_info
        assert len(str(error).splitlines()) == 1
        code = error.exit_code
    rows = {line[:11].strip(): line[12:] for line in result.stdout.splitlines()}
    return types.SimpleNamespace(
        code=code, stdout=result.stdout, stderr=result.stderr, rows=rows, error=str(error or "")
    )


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_import_of_an_exported_file(exported):
    done = glcic("weights", "import", exported, "--sha256", sha256(exported).upper())
    assert done.code == 0, done.error
    path = store.path_of("some-weights")
    assert done.rows["imported"] == "some-weights"
    assert done.rows["file"] == str(path)
    assert done.rows["network"] == "completion, width 0.0625, conv_relu_bn, clip"
    assert done.rows["trained on"] == "32 px, holes of 6 to 14 px"
    assert done.rows["input form"] == "signed, mean pixel 0.5000, 0.2500, 1.0000"
    assert done.rows["licence"] == "CC0"
    assert done.rows["size"].endswith(" MB")
    assert "glcic complete" in done.rows["use it"]
    assert done.rows["use it"].endswith("--weights some-weights")
    assert_same(store.load("some-weights"), WEIGHTS)


def test_a_taken_name_needs_another_or_replace(exported):
    assert glcic("weights", "import", exported).code == 0
    other = changed(WEIGHTS, lambda variables: variables["params"]["conv1"]["bias"].fill(0.5))
    save_weights(other, exported)
    again = glcic("weights", "import", exported)
    assert (again.code, "--replace" in again.error) == (2, True)
    assert_same(store.load("some-weights"), WEIGHTS)
    assert glcic("weights", "import", exported, "--name", "second").code == 0
    assert glcic("weights", "import", exported, "--replace").code == 0
    assert_same(store.load("some-weights"), other)


def test_import_to_a_file_leaves_the_store_alone(exported, tmp_path, home):
    out = tmp_path / "out.safetensors"
    done = glcic("weights", "import", exported, "--output", out)
    assert done.rows["use it"].endswith(f"--weights {out}")
    assert_same(load_weights(out), WEIGHTS)
    assert not home.exists()
    again = glcic("weights", "import", exported, "--output", out)
    assert (again.code, "--replace" in again.error) == (2, True)
    assert glcic("weights", "import", exported, "--output", out, "--replace").code == 0
    assert glcic("weights", "import", exported, "--output", out, "--name", "a").code == 2


def test_bad_input_of_import_is_refused_before_anything_is_written(exported, tmp_path, home):
    wrong = glcic("weights", "import", exported, "--sha256", "0" * 64)
    assert wrong.code == 3
    assert sha256(exported) in wrong.error
    refused = {
        ("--sha256", "12"): "64 hexadecimal digits",
        ("--mean-pixel", "116,104,97"): "three numbers in [0, 1]",
        ("--mean-pixel", "0.5,nan,0.5"): "three numbers in [0, 1]",
        ("--mean-pixel", "0.5,0.5"): "three numbers in [0, 1]",
        ("--name", "../x"): "cannot name weights",
        ("--name", "A"): "cannot name weights",
    }
    for options, message in refused.items():
        done = glcic("weights", "import", exported, *options)
        assert done.code == 2
        assert message in done.error + done.stderr
    named_badly = tmp_path / "ä.safetensors"
    shutil.copy(exported, named_badly)
    assert "cannot name weights" in glcic("weights", "import", named_badly).error
    assert "omit --mean-pixel" in glcic("weights", "import", exported, "--mean-pixel", "0.5,0.5,0.5").error
    missing = glcic("weights", "import", tmp_path / "none.pth")
    assert (missing.code, "no such file" in missing.error) == (2, True)
    assert glcic("weights", "import", tmp_path).code == 2
    exported.write_bytes(exported.read_bytes()[:-4])
    assert glcic("weights", "import", exported).code == 3
    assert not home.exists()


def test_files_of_other_programs_go_through_their_reader(monkeypatch, tmp_path):
    calls = []

    def read_foreign(path, mean_pixel=None):
        calls.append((path, mean_pixel))
        return WEIGHTS

    stand_in = types.SimpleNamespace(read_foreign=read_foreign)
    monkeypatch.setitem(sys.modules, "glcic_jax.weights.foreign.reader", stand_in)
    path = tmp_path / "model_cn.pth"
    path.write_bytes(b"\x80\x02 not read here")
    assert glcic("weights", "import", path, "--mean-pixel", "0.1,0.2,1").code == 0
    assert store.find_weights("model_cn").name == "model_cn (CC0)"
    assert store.find_weights(path).name == f"{path} (CC0)"
    assert calls == [(path, (0.1, 0.2, 1.0)), (path, None)]


def test_import_of_an_authors_file_keeps_its_name_and_licence(tmp_path):
    path = tmp_path / "completionnet_places2.t7"
    modules = foreign_files.authors_modules(random_completion_weights(np.random.default_rng(2), 1 / 32))
    path.write_bytes(foreign_files.torch7(foreign_files.authors(modules)))
    done = glcic("weights", "import", path, "--sha256", sha256(path))
    assert done.rows["imported"] == "completionnet_places2"
    assert done.rows["licence"].startswith("CC BY-NC-SA 4.0")
    assert done.rows["input form"] == "mean_subtracted, mean pixel 0.5000, 0.4000, 0.3000"
    assert store.find_weights("completionnet_places2").name.startswith("completionnet_places2 (CC BY-NC-SA 4.0")
    path.write_bytes(path.read_bytes()[:1000])
    assert glcic("weights", "import", path, "--replace").code == 3


def test_inspect_of_files_stored_weights_and_runs(exported, finished_run):
    found = glcic("weights", "inspect", exported)
    assert found.rows["weights"] == f"{exported} (CC0)"
    assert found.rows["parameters"] == f"{count(WEIGHTS):,}"
    assert found.rows["sha256"] == sha256(exported)
    assert found.rows["origin"] == "a test"
    glcic("weights", "import", exported, "--name", "a")
    stored = glcic("weights", "inspect", "a")
    assert stored.rows["weights"] == "a (CC0)"
    assert stored.rows["arrays"] == found.rows["arrays"]
    run = glcic("weights", "inspect", finished_run)
    assert run.rows["weights"] == f"{finished_run}, step 40"
    assert run.rows["licence"] == "not stated"
    assert "sha256" not in run.rows
    assert run.rows["arrays"] != found.rows["arrays"]
    assert glcic("weights", "inspect", "nothing").code == 3


def test_a_discriminator_can_be_imported_but_not_exported(tmp_path):
    network = ContextDiscriminator(("local", "global"), 16, ((4, 4), (4, 4, 4)), 1 / 16)
    inputs = np.zeros((1, 32, 32, 3), np.float32), np.zeros((1, 2), np.int32)
    save_weights(Weights(network, random_variables(network, *inputs), DESCRIPTION), tmp_path / "d.safetensors")
    done = glcic("weights", "import", tmp_path / "d.safetensors")
    assert done.rows["network"].startswith("context discriminator, width 0.0625")
    assert done.rows["network"].endswith("branches local+global, local patch 16 px")
    assert "glcic complete" not in done.stdout
    refused = glcic("export", "d", tmp_path / "d.out", "--format", "stablehlo")
    assert (refused.code, "context discriminator" in refused.error) == (3, True)


def test_list_and_path(exported, home):
    listed = glcic("weights", "list").stdout.splitlines()
    assert [line.split()[0] for line in listed] == ["name", "faces", "photos"]
    for name in ("first", "second-with-a-long-name"):
        glcic("weights", "import", exported, "--name", name)
    sound = store.path_of("second-with-a-long-name")
    shown = glcic("weights", "path", "second-with-a-long-name")
    assert shown.stdout == f"{sound}\n"
    store.path_of("first").write_bytes(b"damaged")
    listed = glcic("weights", "list")
    head, _, built_in, first, second = listed.stdout.splitlines()
    assert head.split() == ["name", "network", "size", "trained", "on", "licence"]
    assert built_in.split()[:2] == ["photos", "completion"]
    assert first.split()[:2] == ["first", "damaged"]
    assert second.split() == ["second-with-a-long-name", "completion", "0.1", "MB", "32", "px", "CC0"]
    assert "import FILE --name first --replace" in listed.stderr
    assert listed.code == 0
    assert glcic("weights", "path", "none").code == glcic("weights", "path", "../first").code == 3
    store.path_of("first").unlink()
    sound.with_name("first.safetensors").symlink_to(home / "gone")
    listed = glcic("weights", "list")
    assert listed.code == 0
    assert listed.stdout.splitlines()[3].split() == ["first", "damaged"]


def test_export_of_a_run_with_licence_origin_and_dtype(finished_run, tmp_path):
    out = tmp_path / "out.safetensors"
    options = ("--licence", "CC BY 4.0", "--origin", "two\nlines")
    done = glcic("weights", "export", finished_run, out, *options)
    assert done.code == 0, done.error
    assert done.rows["written"] == str(out)
    found = load_weights(out)
    assert found.network == CompletionNetwork(1 / 16)
    assert (found.description.licence, found.description.origin) == ("CC BY 4.0", "two lines")
    narrow = tmp_path / "narrow.safetensors"
    assert glcic("weights", "export", finished_run, narrow, "--dtype", "float16").code == 0
    assert narrow.stat().st_size < 0.7 * out.stat().st_size
    assert glcic("weights", "inspect", narrow).rows["parameters"] == done.rows["parameters"]
    again = glcic("weights", "export", finished_run, out)
    assert (again.code, "--overwrite" in again.error) == (2, True)
    assert glcic("weights", "export", finished_run, out, "--step", 3, "--overwrite").code == 0
    assert load_weights(out).description.origin.endswith("step 3")
    assert load_weights(out).description.licence == "not stated"


def test_bad_input_of_export_is_refused(finished_run, exported, tmp_path):
    out = tmp_path / "out.safetensors"
    assert glcic("weights", "export", finished_run, out, "--step", 700).code == 3
    assert glcic("weights", "export", exported, out, "--step", 3).code == 2
    assert glcic("weights", "export", finished_run / "checkpoints" / "40", out, "--step", 3).code == 2
    assert "is a directory" in glcic("weights", "export", finished_run, tmp_path).error
    assert glcic("weights", "export", tmp_path / "none", out).code == 3
    assert not out.exists()


def test_export_of_a_program_overwrites_only_on_request(exported, tmp_path):
    out = tmp_path / "a.stablehlo"
    done = glcic("export", exported, out, "--format", "stablehlo")
    assert done.code == 0, done.error
    assert "jax.export.deserialize" in done.stdout
    before = out.read_bytes()
    again = glcic("export", exported, out, "--format", "stablehlo")
    assert (again.code, "--overwrite" in again.error) == (2, True)
    assert out.read_bytes() == before


def test_exit_code_of_a_real_process():
    code = "from glcic_jax.commands.main import main; main()"
    command = [sys.executable, "-c", code, "weights", "inspect", "nothing"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (process.returncode, process.stdout) == (3, "")
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: nothing: no such file, run or name")


def count(weights: Weights) -> int:
    return sum(leaf.size for layer in weights.variables["params"].values() for leaf in layer.values())


def test_descriptions_are_printed_on_one_line(exported):
    save_weights(WEIGHTS._replace(description=dataclasses.replace(DESCRIPTION, licence="a\nb\x1b[2J")), exported)
    found = glcic("weights", "inspect", exported)
    assert found.rows["licence"] == r"a\nb\x1b[2J"
    assert "\x1b" not in found.stdout

"""Where the program runs: missing devices, no home directory, torn compile caches."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.common import ROOT
from PIL import Image

# All commands that use JAX, in one process; the training ends it.
_COMMANDS = """
import sys
from click.testing import CliRunner
from helpers.common import load_config, shrink
from glcic_jax.commands.main import cli
from glcic_jax.training.launch import run_training

run, out = sys.argv[1:]
samples = ["--data", "samples", "--count", "1"]
for arguments in (
    ["doctor"],
    ["complete", "glcic_jax/../.github/quickstart.png", "--random-mask", f"{out}/completed.png"],
    ["evaluate", "mean", *samples, "--report", f"{out}/report"],
    ["evaluate", run, *samples, "--report", f"{out}/report"],
    ["export", "photos", f"{out}/program", "--format", "stablehlo"],
    ["inspect", run],
    ["serve", "--port", "0"],
    ["weights", "inspect", "photos"],
):
    error = CliRunner().invoke(cli, arguments).exception
    print(type(error).__name__, error, flush=True)
run_training(shrink(load_config("quickstart")), f"{out}/run")
"""


@pytest.mark.parametrize("platform", ["cuda", "absent"])
def test_a_missing_device_is_named_by_every_command(platform, finished_run, tmp_path):
    environment = {
        **os.environ,
        "JAX_PLATFORMS": platform,
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
    }
    process = subprocess.run(
        [sys.executable, "-c", _COMMANDS, str(finished_run), str(tmp_path)],
        check=False,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    reports = process.stdout.splitlines()
    assert len(reports) == 8, process.stderr
    for report in reports:
        assert report.startswith(f"ConfigError JAX finds no device of JAX_PLATFORMS={platform} here"), report
    assert process.returncode == 2
    assert f"error: JAX finds no device of JAX_PLATFORMS={platform} here" in process.stderr
    assert not list(tmp_path.iterdir())


# A user without a home directory: neither $HOME nor an entry in the database of users.
_HOMELESS = """
import os, pwd, sys

def no_entry(uid):
    raise KeyError(uid)

pwd.getpwuid = no_entry
for name in ("HOME", "GLCIC_HOME", "JAX_COMPILATION_CACHE_DIR"):
    os.environ.pop(name, None)
from glcic_jax.commands.main import main
main()
"""


def test_a_user_without_a_home_directory_completes_without_cache_and_store(tmp_path):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", _HOMELESS, *arguments]
        return subprocess.run(
            command, check=False, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )

    Image.fromarray(np.full((32, 32, 3), 90, np.uint8)).save(tmp_path / "image.png")
    process = run("complete", "image.png", "--random-mask", "-o", "out.png")
    assert process.returncode == 0, process.stderr
    assert "compiled programs cannot be kept in ~/.cache/glcic_jax/xla" in process.stderr
    process = run("weights", "list")
    assert process.returncode == 0, process.stderr
    assert "photos" in process.stdout
    process = run("complete", "image.png", "--random-mask", "--weights=~/weights.safetensors")
    assert process.returncode == 2
    assert "~/weights.safetensors: there is no such home directory: set HOME" in process.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"image.png", "out.png"}


def test_torn_entries_of_the_compile_cache_are_removed_and_compiled_again(tmp_path):
    code = f"""
import pathlib, warnings, jax
from glcic_jax.runtime import enable_compile_cache
enable_compile_cache(pathlib.Path({str(tmp_path)!r}))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
warnings.simplefilter("error")
print(jax.jit(lambda x: x * 2 + 1)(3.0))
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION")}

    def compile_twice_three() -> list[Path]:
        command = [sys.executable, "-W", "error::UserWarning", "-c", code]
        process = subprocess.run(command, check=False, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert (process.stdout, process.returncode) == ("7.0\n", 0), process.stderr
        return sorted(tmp_path.glob("*-cache"))

    entries = compile_twice_three()
    assert entries
    whole = {entry: entry.read_bytes() for entry in entries}
    for torn in (b"", whole[entries[0]][:100]):
        for entry in entries:
            entry.write_bytes(torn)
        assert compile_twice_three() == entries
        assert all(len(entry.read_bytes()) > 100 for entry in entries)


def test_a_forked_process_is_refused_and_a_pickled_completer_works():
    code = """
import multiprocessing, pickle
import numpy as np
from glcic_jax.completion.completer import Completer
from helpers.tiny import tiny_weights

completer = Completer(tiny_weights(), "tiny")
image, hole = np.full((32, 32, 3), 90, np.uint8), np.zeros((32, 32), bool)
hole[8:16, 8:16] = True
expected = completer.complete(image, hole)

def errors(_):
    messages = []
    for work in (lambda: completer.complete(image, hole), lambda: Completer(tiny_weights())):
        try:
            work()
        except Exception as error:
            messages.append(f"{type(error).__name__}: {error}")
    return messages

with multiprocessing.get_context("fork").Pool(1) as pool:
    print(*pool.apply_async(errors, (0,)).get(60), sep="\\n")
copy = pickle.loads(pickle.dumps(completer))
assert (copy.name, copy.device) == ("tiny", completer.device)
print(np.array_equal(copy.complete(image, hole), expected))
"""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    process = subprocess.run(
        [sys.executable, "-c", code], check=False, env=environment, capture_output=True, text=True, timeout=300
    )
    assert process.returncode == 0, process.stderr
    *refusals, same = process.stdout.splitlines()
    assert len(refusals) == 2
    for refusal in refusals:
        assert refusal.startswith("ConfigError: this process was forked from one that uses JAX")
    assert same == "True"

"""JAX's devices: missing ones are named, in every command."""

import os
import subprocess
import sys

import pytest
from helpers.common import ROOT

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
    ["complete", "glcic_jax/../.github/photos.png", "--random-mask", f"{out}/completed.png"],
    ["evaluate", "mean", *samples, "--report", f"{out}/report"],
    ["evaluate", run, *samples, "--report", f"{out}/report"],
    ["export", "photos", f"{out}/program", "--format", "stablehlo"],
    ["inspect", run],
    ["serve", "--port", "0"],
    ["weights", "inspect", "photos"],
    ["weights", "list"],
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
    assert len(reports) == 9, process.stderr
    for report in reports:
        assert report.startswith(f"ConfigError JAX finds no device of JAX_PLATFORMS={platform} here"), report
    assert process.returncode == 2
    assert f"error: JAX finds no device of JAX_PLATFORMS={platform} here" in process.stderr
    assert not list(tmp_path.iterdir())

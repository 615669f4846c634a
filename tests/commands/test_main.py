"""`glcic doctor`, `glcic inspect`, and what all commands print."""

import os
import signal
import subprocess
import sys
import tomllib

import pytest
from helpers.common import ROOT, command_runner
from helpers.tiny import tiny_weights

from glcic_jax.command_line import keep_interrupts
from glcic_jax.commands.doctor import EXTRAS
from glcic_jax.commands.main import cli
from glcic_jax.runtime import core_count, nvidia_gpu, runs_on_cpu
from glcic_jax.weights import from_run


def test_doctor_shows_versions_devices_and_a_convolution():
    lines = command_runner().invoke(cli, ["doctor"]).stdout.splitlines()
    assert any(line.startswith("jax ") for line in lines)
    assert any(line.startswith("device ") and "(cpu)" in line for line in lines)
    assert lines[-1].endswith("runs: (1, 16, 16, 2)")


def test_doctor_shows_cores_memory_cache_weights_and_extras(monkeypatch, tmp_path):
    monkeypatch.setenv("GLCIC_HOME", str(tmp_path / "home"))

    def rows() -> dict[str, str]:
        lines = command_runner().invoke(cli, ["doctor"]).stdout.splitlines()
        return {line[:18].strip(): line[19:] for line in lines}

    shown = rows()
    assert shown["cores"] == str(core_count())
    assert 0 < float(shown["memory"].removesuffix(" GiB free")) < 10_000
    assert shown["cache"] == f"{tmp_path}/home, not created yet"
    assert shown["weights"] == "faces, photos; default: photos"
    assert "heic" in shown["extras"].split(", ")  # The tests need it.
    assert not set(shown["extras"].split(", ")) & set(shown["extras, missing"].partition(" (")[0].split(", "))
    monkeypatch.setenv("GLCIC_WEIGHTS", "mine")
    (tmp_path / "home" / "weights").mkdir(parents=True)
    (tmp_path / "home" / "weights" / "torn.safetensors").write_bytes(bytes(2_500_000))
    shown = rows()
    assert shown["cache"] == f"{tmp_path}/home, 2.5 MB"
    assert shown["weights"] == "faces, photos, torn (damaged); default: mine ($GLCIC_WEIGHTS)"
    monkeypatch.setenv("GLCIC_HOME", str(tmp_path / "home" / "weights" / "torn.safetensors" / "home"))
    assert rows()["cache"].endswith(
        "torn.safetensors/home, which cannot be written: set GLCIC_HOME to another folder"
    )


def test_doctor_knows_every_extra():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(EXTRAS) == set(extras) - {"test"}


@pytest.mark.skipif(nvidia_gpu() is not None or not runs_on_cpu(), reason="for a machine without GPU and CUDA")
def test_doctor_names_a_gpu_that_jax_does_not_use(monkeypatch, tmp_path):
    """The driver is an executable that answers as nvidia-smi of a machine with a GPU."""
    assert "unused GPU" not in command_runner().invoke(cli, ["doctor"]).stdout
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H200 (UUID: GPU-0123)'\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    def unused() -> str:
        lines = command_runner().invoke(cli, ["doctor"]).stdout.splitlines()
        return next(line for line in lines if line.startswith("unused GPU"))

    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert unused().endswith("GPU 0: NVIDIA H200: JAX_PLATFORMS=cpu hides it: unset it to use it")
    monkeypatch.delenv("JAX_PLATFORMS")
    assert "GPU 0: NVIDIA H200: JAX is installed without CUDA: pip install 'glcic-jax[cuda13]'" in unused()
    driver.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'; exit 9\n")
    assert "unused GPU" not in command_runner().invoke(cli, ["doctor"]).stdout


def test_inspect_shows_the_newest_checkpoint(monkeypatch, tmp_path):
    meta = {
        "step": 40,
        "config": {"data": {"source": "samples", "image_size": 32}},
        "mean_pixel": (0.5, 0.45, 0.4),
        "metrics": {"hole_l1": 0.25},
        "versions": {"jax": "1.2.3"},
    }
    variables = tiny_weights().variables
    monkeypatch.setattr(from_run, "restore_network", lambda workdir: (variables, meta))
    shown = command_runner().invoke(cli, ["inspect", str(tmp_path)]).stdout
    lines = dict(line.split(maxsplit=1) for line in shown.splitlines())
    assert (lines["step"], lines["data"], lines["hole_l1"], lines["jax"]) == ("40", "samples", "0.2500", "1.2.3")
    assert "mean pixel  0.5000, 0.4500, 0.4000" in shown


def test_characters_that_stdout_lacks_are_escaped():
    code = (
        "import click; from glcic_jax.command_line import run; "
        "run(click.Command('command', callback=lambda: click.echo('L1 \\u2193, \\xe9')))"
    )
    process = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        capture_output=True,
    )
    assert process.stdout == b"L1 \\u2193, \xe9\n"


def test_a_lost_interrupt_is_raised_later():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), keep_interrupts() as check:  # noqa: PT012 - the second one counts.
        check()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        check()
    assert signal.getsignal(signal.SIGINT) == before

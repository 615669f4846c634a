"""`glcic doctor`, `glcic inspect`, and what all commands print."""

import os
import signal
import subprocess
import sys

import pytest
from helpers.common import ROOT, command_runner
from helpers.tiny import tiny_weights

from glcic_jax.command_line import keep_interrupts
from glcic_jax.commands.main import cli
from glcic_jax.weights import from_run


def test_doctor_shows_versions_devices_and_a_convolution():
    lines = command_runner().invoke(cli, ["doctor"]).stdout.splitlines()
    assert any(line.startswith("jax ") for line in lines)
    assert any(line.startswith("device ") and "(cpu)" in line for line in lines)
    assert lines[-1].endswith("runs: (1, 16, 16, 2)")


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

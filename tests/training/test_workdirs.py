"""One process a workdir, and workdirs that cannot be written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.common import ROOT

from glcic_jax.errors import DataError
from glcic_jax.training.workdir import locked, run_at

HOLD = "import sys, pathlib, time; from glcic_jax.training.workdir import locked\n\
with locked(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"


def test_a_second_process_is_refused_and_told_who_holds_it(tmp_path):
    workdir = tmp_path / "new" / "run"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, workdir], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(DataError, match=f"is in use by process {holder.pid} on "), locked(workdir):
            pass
    finally:
        holder.kill()
        holder.wait()
    # The lock dies with its holder, however that dies.
    with locked(workdir):
        assert (workdir / ".lock").read_text().startswith(f"process {os.getpid()} on ")


def test_a_lock_is_free_again_after_it(tmp_path):
    for _ in range(2):
        with locked(tmp_path):
            pass


@pytest.mark.parametrize("name", ["taken", "taken/run"])
def test_a_workdir_that_cannot_be_made_is_one_clear_line(tmp_path, name):
    (tmp_path / "taken").write_text("")
    with (
        pytest.raises(DataError, match=r"cannot be written .*: name another --workdir") as caught,
        locked(tmp_path / name),
    ):
        pass
    assert "\n" not in str(caught.value)


def test_a_run_is_known_by_its_workdir_its_checkpoints_and_one_of_them(tmp_path, monkeypatch):
    (tmp_path / "run" / "checkpoints" / "700").mkdir(parents=True)
    (tmp_path / "run" / "grids").mkdir()
    monkeypatch.chdir(tmp_path)
    run = Path("run")
    assert run_at("run") == run_at("run/") == (run, None)
    assert run_at("run/checkpoints") == (run, None)
    assert run_at("run/checkpoints/700") == (run, 700)
    assert run_at("run/grids/../checkpoints/700") == (tmp_path / "run", 700)
    for other in (".", "run/grids", "run/checkpoints/701", "run/checkpoints/x", "nothing"):
        assert run_at(other) is None
    monkeypatch.chdir(tmp_path / "run" / "checkpoints")
    assert run_at(".") == (tmp_path / "run", None)
    assert run_at("700") == (tmp_path / "run", 700)
    assert run_at("..") == (Path(".."), None)

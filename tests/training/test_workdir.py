"""One process per workdir, and workdirs that cannot be written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.common import ROOT, one_line

from glcic_jax.errors import DataError
from glcic_jax.training.workdir import lock_workdir, run_at

HOLD = "import sys, pathlib, time; from glcic_jax.training.workdir import lock_workdir\n\
with lock_workdir(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"


def test_second_process_is_refused_and_told_who_holds_the_lock(tmp_path):
    workdir = tmp_path / "new" / "run"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, workdir], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(DataError, match=f"is in use by process {holder.pid} on "), lock_workdir(workdir):
            pass
    finally:
        holder.kill()
        holder.wait()
    # The lock ends with its holder, and again and again.
    for _ in range(2):
        with lock_workdir(workdir):
            assert (workdir / ".lock").read_text().startswith(f"process {os.getpid()} on ")


@pytest.mark.parametrize("name", ["taken", "taken/run"])
def test_workdir_that_cannot_be_created_is_one_clear_line(tmp_path, name):
    (tmp_path / "taken").write_text("")
    with (
        pytest.raises(DataError, match=r"cannot be written .*: give another --workdir") as caught,
        lock_workdir(tmp_path / name),
    ):
        pass
    one_line(caught)


def test_run_is_found_by_its_workdir_its_checkpoints_or_one_of_them(tmp_path, monkeypatch):
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

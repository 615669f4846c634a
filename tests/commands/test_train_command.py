"""`glcic train`: the configurations of the package, copies, and mistakes. The test of the wheel trains."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.common import CONFIGS, ROOT, command_runner

from glcic_jax.commands.main import cli


def glcic_train(*arguments: str, cwd: Path, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "glcic_jax", *before, "train", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture(autouse=True)
def source(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def test_list_shows_every_configuration_with_its_first_line():
    lines = command_runner().invoke(cli, ["train", "--list"]).stdout.splitlines()
    shown = {name: summary.strip() for name, _, summary in (line.partition(" ") for line in lines)}
    assert sorted(shown) == sorted([*CONFIGS, "common"])
    for name, summary in shown.items():
        text = ast.get_docstring(ast.parse((ROOT / "configs" / f"{name}.py").read_text()))
        assert summary == text.splitlines()[0]


def test_help_shows_the_flags_of_main(tmp_path):
    shown = glcic_train("--help", cwd=tmp_path).stdout
    flags = (
        "--config NAME|FILE",
        "--write",
        "--workdir",
        "--debug",
        "--coordinator",
        "--process_count",
        "--process_id",
    )
    for flag in flags:
        assert shown.count(f"  {flag}") == 1, flag


def test_a_written_copy_loads_although_another_package_has_the_name_configs(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "__init__.py").write_text("raise RuntimeError('another package')")
    written = glcic_train("--config=faces", "--write", "mine.py", cwd=tmp_path)
    assert written.returncode == 0
    assert written.stdout == "mine.py written; to train with it: glcic train --config=mine.py\n"
    copy = tmp_path / "mine.py"
    assert copy.read_text() == (ROOT / "configs" / "faces.py").read_text()
    copy.write_text(
        copy.read_text().replace("return config", "config.batch_size = 7  # changed\n    return config")
    )
    again = glcic_train("--config=faces", "--write", "mine.py", cwd=tmp_path)
    assert again.returncode == 2
    assert again.stderr.startswith("error: mine.py exists: ")
    assert "changed" in copy.read_text()
    # The error shows that the copy was loaded, and with a variant.
    loaded = glcic_train("--config", "mine.py:128", "--config.data.image_sized=3", cwd=tmp_path)
    assert "the configuration has no key data.image_sized" in loaded.stderr
    assert "'glcic train --write common.py' explains all keys" in loaded.stderr
    assert loaded.stderr.count("\n") == 1


def test_the_configuration_of_a_checkout_uses_the_common_file_beside_it(tmp_path):
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    common = tmp_path / "configs" / "common.py"
    common.write_text(common.read_text() + "\nraise ValueError('this checkout')\n")
    process = glcic_train("--config=configs/joint.py", cwd=tmp_path)
    assert process.stderr == "error: this checkout (see glcic train --help)\n"


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ((), "error: --config is missing: glcic train --config=quickstart"),
        (("--config=joints",), "no such configuration; 'glcic train --list' shows them"),
        (("--config", "nowhere.py"), "--config=nowhere.py: no such file; 'glcic train --list' shows the configur"),
        (("--config=faces:1",), "configs/faces.py has no size '1'"),
        (("--config=joint", "--workdri", "x"), "Did you mean: workdir"),
        (("--config=joint", "more"), "unexpected argument 'more'"),
        (("--config=joint", "--config.batch_size", "abc"), "batch_size"),
        (("--write", "mine.py"), "mine: no such configuration to copy: give one of ablation, "),
        (("--config=joint", "--write", "mine"), "name it NAME.py"),
        (("--config=joint", "--workdir=gs://bucket/run"), "gs://bucket/run: is an address"),
    ],
)
def test_a_mistake_is_one_line_with_a_hint(arguments, hint, tmp_path):
    process = glcic_train(*arguments, cwd=tmp_path)
    assert process.returncode == 2
    assert process.stderr.startswith("error: ")
    assert process.stderr.count("\n") == 1
    assert hint in process.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["before", "after"])
def test_debug_shows_the_traceback(place, tmp_path):
    before, after = (("--debug",), ()) if place == "before" else ((), ("--debug",))
    process = glcic_train("--config=joint", "--config.batch_sized=1", *after, before=before, cwd=tmp_path)
    assert process.returncode != 0
    assert "Traceback" in process.stderr

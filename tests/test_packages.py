"""The wheel and the source distribution, built and used away from the checkout."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
from pathlib import Path

import numpy as np
import pytest
from hatchling import build
from helpers.common import COMPILE_QUICKLY, ROOT
from helpers.runs import NARROW
from PIL import Image


@pytest.fixture(scope="module")
def packages(tmp_path_factory) -> tuple[Path, Path]:
    """The wheel, and the folder of the unpacked source distribution."""
    folder = tmp_path_factory.mktemp("packages")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        wheel, source = build.build_wheel(str(folder)), build.build_sdist(str(folder))
    with tarfile.open(folder / source) as archive:
        archive.extractall(folder, filter="data")
    return folder / wheel, folder / source.removesuffix(".tar.gz")


def tracked_files(*folders: str) -> set[str]:
    """The files of the checkout that are no remains of running it."""
    paths = (path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file())
    return {path.relative_to(ROOT).as_posix() for path in paths if "__pycache__" not in path.parts}


def test_the_source_distribution_has_all_that_the_tests_need(packages):
    _, source = packages
    expected = tracked_files("glcic_jax", "configs", "tests", "notebooks") | {
        "main.py", "pyproject.toml", "README.md", "LICENSE", ".ci/run", ".github/quickstart.png",
    }  # fmt: skip
    found = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    assert expected <= found


def test_the_wheel_completes_trains_and_evaluates_from_an_empty_directory(packages, tmp_path):
    wheel, source = packages
    home, here = tmp_path / "environment", tmp_path / "here"
    here.mkdir()
    venv.create(home, symlinks=True)
    python = home / "bin" / "python"
    installed = Path(sysconfig.get_path("purelib", vars={"base": str(home)}))
    # The dependencies are those of this environment; the package is not, as its own .pth is not read from here.
    (installed / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    environment = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        "JAX_PLATFORMS": "cpu",
        "PYTHONSAFEPATH": "1",
        "XLA_FLAGS": COMPILE_QUICKLY,
    }

    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True, env=environment)

    def run(*command: object, code: int = 0) -> str:
        process = subprocess.run(
            list(map(str, command)),
            check=False,
            cwd=here,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        assert process.returncode == code, process.stdout
        return process.stdout

    package = Path(run(python, "-c", "import glcic_jax; print(glcic_jax.__file__)").strip())
    assert package.is_relative_to(home)
    glcic = home / "bin" / "glcic"

    Image.fromarray(np.full((32, 32, 3), 90, np.uint8)).save(here / "image.png")
    run(glcic, "complete", "image.png", "--random-mask", "-o", "completed.png")
    assert (here / "completed.png").is_file()

    overrides = (*NARROW, "phases.completion=1", "phases.discriminator=0", "phases.joint=0")
    options = ["--workdir=run", *(f"--config.{override}" for override in overrides)]
    run(glcic, "train", "--write", "quickstart.py")
    run(glcic, "train", "--config=quickstart.py", *options)
    assert (here / "run" / "checkpoints" / "1").is_dir()
    resumed = run(python, source / "main.py", f"--config={source}/configs/quickstart.py", *options)
    assert "all 1 steps are done" in resumed
    photos = ["--config=photos", "--config.data.source=folder:.", "--workdir=photos"]
    assert "pretrained/photos.csv" in run(glcic, "train", *photos, code=2)

    options = ["--data", "samples", "--count", "1", "--baselines", "", "--no-blending", "--report", "report"]
    run(glcic, "evaluate", "run", *options)
    assert (here / "report" / "report.html").is_file()

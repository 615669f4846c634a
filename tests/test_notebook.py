"""The notebook: stripped, complete, and executed from end to end with small settings."""

import ast
import base64
import importlib.metadata
import importlib.util
import json
import os
import socket
import sys
import sysconfig
import types
from pathlib import Path

import nbformat
import numpy as np
import pytest
import skimage.data
from helpers.common import COMPILE_QUICKLY, ROOT
from helpers.foreign_files import authors, authors_modules, torch7
from helpers.reference import random_completion_weights
from helpers.runs import NARROW
from nbclient import NotebookClient
from PIL import Image

from glcic_jax import Completer
from glcic_jax.pictures import load_image, save_image
from glcic_jax.pictures.mask_files import random_hole
from glcic_jax.training.checkpoints import Checkpoints
from glcic_jax.training.metric_log import read_metrics

pytestmark = pytest.mark.long_setup

NOTEBOOK = nbformat.read(ROOT / "notebooks" / "glcic_colab.ipynb", nbformat.NO_CONVERT)
CODE = {cell.id: cell.source for cell in NOTEBOOK.cells if cell.cell_type == "code"}

# Code that each section has to contain.
PARTS = {
    "Settings": ("STEPS_PER_PHASE = 200", 'FOLDER = ""', 'T7_FILE = ""', "SERVE = True"),
    "Install": ("--constraint", "--editable", "XLA_PYTHON_CLIENT_PREALLOCATE"),
    "Accelerator": ('run("glcic", "doctor")',),
    "Complete an example": ("Completer.load()", "random_hole(", "show("),
    "Complete your picture": ("files.upload()", "completer.complete(PICTURE", "show("),
    "Paint a mask": ('"serve"', "/readyz", "serve_kernel_port_as_iframe", "IFrame(", "/v1/complete"),
    "Import the authors' weights": ('"weights", "import", T7_FILE', "Completer.load("),
    "Train the three phases": ("configs/quickstart.py", "train(STEPS_PER_PHASE)", "grid.update("),
    "Evaluate": ('"evaluate", RUN', "table.md", "report.html"),
    "Go on": ("train(STEPS_PER_PHASE + MORE_STEPS)",),
    "Complete with your network": ("Completer.load(RUN)",),
    "Close the page": ("server.terminate()",),
}


def test_notebook_is_stripped_and_valid():
    nbformat.validate(NOTEBOOK)
    assert (NOTEBOOK.nbformat, NOTEBOOK.nbformat_minor) == (4, 5)
    assert [(cell.outputs, cell.execution_count) for cell in NOTEBOOK.cells if cell.cell_type == "code"] == [
        ([], None)
    ] * len(CODE)
    ids = [cell.id for cell in NOTEBOOK.cells]
    assert len(set(ids)) == len(ids)
    assert not {key for cell in NOTEBOOK.cells for key in cell.metadata} - {"tags"}
    assert NOTEBOOK.metadata == {
        "accelerator": "GPU",
        "colab": {"gpuType": "T4", "provenance": []},
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    }


def test_sections_are_complete_and_in_order():
    sections: dict[str, str] = {}
    title = ""
    for cell in NOTEBOOK.cells:
        if cell.cell_type == "markdown" and cell.source.startswith("## "):
            title = cell.source.splitlines()[0].removeprefix("## ")
        sections[title] = sections.get(title, "") + (cell.source if cell.cell_type == "code" else "")
    assert [title for title in sections if title] == list(PARTS)
    assert not {(title, part) for title, parts in PARTS.items() for part in parts if part not in sections[title]}


def test_cells_are_short_and_define_little():
    assert max(len(source.splitlines()) for source in CODE.values()) <= 30
    defined = [
        node.name
        for cell in CODE.values()
        for node in ast.walk(ast.parse(cell))
        if hasattr(node, "body") and isinstance(node, ast.FunctionDef | ast.ClassDef)
    ]
    assert sorted(defined) == ["draw", "run", "show", "train"]


def test_settings_are_literals_and_all_are_used():
    tagged = [cell for cell in NOTEBOOK.cells if "parameters" in cell.metadata.get("tags", [])]
    assert [cell.id for cell in tagged] == ["settings"]
    settings = {node.targets[0].id: ast.literal_eval(node.value) for node in ast.parse(tagged[0].source).body}
    others = {
        node.id
        for name, cell in CODE.items()
        if name != "settings"
        for node in ast.walk(ast.parse(cell))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }
    assert settings.keys() <= others


def execute(cell: str, **names) -> dict:
    """Runs one cell in this process with `names` defined; returns all names afterwards."""
    exec(compile(CODE[cell], cell, "exec"), names)
    return names


def test_failed_or_interrupted_command_ends_its_cell(capsys):
    run = execute("run")["run"]
    run(sys.executable, "-c", "print('said')")
    assert capsys.readouterr().out == "said\n"
    with pytest.raises(RuntimeError, match="exit code 3"):
        run(sys.executable, "-c", "raise SystemExit(3)")

    def interrupt():
        raise KeyboardInterrupt

    saves = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(print('saved') or 143));"
    with pytest.raises(RuntimeError, match="exit code 143"):
        run(sys.executable, "-c", f"{saves} print('begun', flush=True); time.sleep(60)", watch=interrupt)
    assert capsys.readouterr().out == "begun\nsaved\n"


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Runs the install cell in an empty folder; returns the commands that it ran."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("PATH", os.environ["PATH"])
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "")

    def installed(repository: str) -> list[tuple]:
        commands = []

        def run(*command):
            commands.append(command)
            if command[0] == "git":
                (tmp_path / "glcic" / "configs").mkdir(parents=True)
                (tmp_path / "glcic" / "configs" / "quickstart.py").touch()

        execute("install", run=run, sys=sys, REPOSITORY=repository, SERVE=True)
        return commands

    return installed


def test_clone_is_installed_and_keeps_the_installed_jax(install, tmp_path, monkeypatch):
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / "scripts"))
    with pytest.raises(RuntimeError, match="fill in REPOSITORY"):
        install("")
    clone, pip = install("https://example.org/glcic_jax")
    assert clone[0] == "git"
    assert clone[-2:] == ("https://example.org/glcic_jax", "glcic")
    assert Path.cwd() == tmp_path / "glcic"
    assert sys.path[0] == str(tmp_path / "glcic")
    assert pip[:4] == (sys.executable, "-m", "pip", "install")
    assert pip[-2:] == ("--editable", ".[serve]")
    held = pip[pip.index("--constraint") + 1].read_text().splitlines()
    assert {f"{name}=={importlib.metadata.version(name)}" for name in ("jax", "jaxlib")} <= set(held)


def test_nothing_is_installed_in_a_clone(install, monkeypatch):
    monkeypatch.chdir(ROOT / "notebooks")
    assert install("") == []
    assert Path.cwd() == ROOT


def test_colab_uploads_a_picture_and_shows_the_page(tmp_path, monkeypatch):
    shown = []

    def upload():
        Path("my cat.png").write_bytes((ROOT / ".github" / "quickstart.png").read_bytes())
        return {"my cat.png": b"..."}

    colab = types.ModuleType("google.colab")
    colab.files = types.SimpleNamespace(upload=upload)
    colab.output = types.SimpleNamespace(serve_kernel_port_as_iframe=lambda port, **_: shown.append(port))
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    completer = types.SimpleNamespace(complete=lambda picture, hole, blend: Image.open(picture))
    names = execute("show", Path=Path, OUT=tmp_path) | {"sys": sys, "PICTURE": "", "completer": completer}
    names = execute("picture", **names | {"show": lambda *pictures: shown.append(len(pictures))})
    assert names["PICTURE"] == str(tmp_path / "my cat.png")
    assert (tmp_path / "picture_completed.png").exists()
    execute("page", **names | {"serving": True, "PORT": 7860})
    assert shown == [3, 7860]


def test_example_is_used_without_a_picture(tmp_path):
    completer = types.SimpleNamespace(complete=lambda picture, hole, blend: Image.open(picture))
    names = execute("show", Path=Path, OUT=tmp_path) | {"sys": sys, "PICTURE": "", "completer": completer}
    names = execute("picture", **names | {"show": lambda *pictures: None})
    np.testing.assert_array_equal(load_image(names["PICTURE"]), skimage.data.coffee())
    assert (tmp_path / "picture_completed.png").exists()


def test_missing_extra_is_reported(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "uvicorn" else name)
    shown = []
    names = execute("serve", SERVE=True, Markdown=str, display=shown.append)
    assert names["serving"] is False
    assert shown == ["Skipped, without uvicorn: run `pip install -e '.[serve]'` first."]
    assert execute("serve", SERVE=False)["serving"] is False


class Recorder(NotebookClient):
    """Records updated pictures and their cells."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.replaced: list[tuple[str, str]] = []

    def process_message(self, msg, cell, cell_index):
        picture = msg["content"].get("data", {}).get("image/png")
        if msg["msg_type"] == "update_display_data" and picture:
            self.replaced.append((cell.id, picture))
        return super().process_message(msg, cell, cell_index)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The whole notebook, executed once with small settings by this Python."""
    folder = tmp_path_factory.mktemp("notebook")
    weights = random_completion_weights(np.random.default_rng(2), 1 / 32)
    (folder / "authors.t7").write_bytes(torch7(authors(authors_modules(weights))))
    save_image(skimage.data.coffee()[100:220, 200:360], folder / "picture.png")
    settings = {
        "OUT": str(folder / "out"),
        "PICTURE": str(folder / "picture.png"),
        "T7_FILE": str(folder / "authors.t7"),
        "STEPS_PER_PHASE": 2,
        "MORE_STEPS": 2,
        "GRID_EVERY": 1,
        "OVERRIDES": [f"--config.{override}" for override in (*NARROW, "grid_every=1")],
        "PORT": _free_port(),
    }
    notebook = nbformat.from_dict(NOTEBOOK)
    injected = nbformat.v4.new_code_cell("\n".join(f"{name} = {value!r}" for name, value in settings.items()))
    notebook.cells.insert(1 + [cell.id for cell in notebook.cells].index("settings"), injected)
    kernel = folder / "jupyter" / "kernels" / "python3" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel.write_text(json.dumps({"argv": command, "display_name": "this Python", "language": "python"}))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("GLCIC_WEIGHTS", raising=False)
        patch.setenv("GLCIC_HOME", str(folder / "home"))
        patch.setenv("JUPYTER_PATH", str(folder / "jupyter"))
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))
        patch.setenv("JUPYTER_RUNTIME_DIR", str(folder / "runtime"))
        patch.setenv("JAX_PLATFORMS", "cpu")
        patch.setenv("XLA_FLAGS", COMPILE_QUICKLY)
        client = Recorder(notebook, timeout=900, resources={"metadata": {"path": str(ROOT)}})
        client.execute()
    outputs = {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}
    return types.SimpleNamespace(
        out=folder / "out",
        picture=folder / "picture.png",
        t7=folder / "authors.t7",
        outputs=outputs,
        replaced=client.replaced,
        port=settings["PORT"],
    )


def text_of(outputs) -> str:
    return "".join(output.text for output in outputs if output.output_type == "stream")


def pictures_of(outputs) -> list[bytes]:
    shown = [output.data.get("image/png") for output in outputs if output.output_type == "display_data"]
    return [base64.b64decode(picture) for picture in shown if picture]


def test_versions_and_devices_are_shown(executed):
    told = text_of(executed.outputs["accelerator"])
    assert importlib.metadata.version("jax") in told
    assert "(cpu)" in told


def assert_completed(path: Path, truth: np.ndarray, hole: np.ndarray, expected: np.ndarray):
    """The file equals the photograph outside the hole, and `expected` inside it up to rounding."""
    completed = load_image(path)
    np.testing.assert_array_equal(completed[~hole], truth[~hole])
    assert (completed[hole] != truth[hole]).mean() > 0.5
    assert np.abs(completed[hole].astype(int) - expected[hole]).max() <= 1


@pytest.mark.parametrize("name", ["completed", "authors", "own"])
def test_example_is_completed_by_each_network(executed, name):
    weights = {"completed": None, "authors": executed.t7, "own": executed.out / "run"}[name]
    photograph = skimage.data.chelsea()
    hole = random_hole(0, *photograph.shape[:2]).hole
    expected = Completer.load(weights).complete(photograph, hole)
    assert_completed(executed.out / f"example_{name}.png", photograph, hole, expected)
    cell = {"completed": "example", "authors": "t7", "own": "own"}[name]
    assert len(pictures_of(executed.outputs[cell])) == 1


def test_picture_is_completed_with_blending(executed):
    picture = load_image(executed.picture)
    hole = random_hole(1, *picture.shape[:2]).hole
    expected = Completer.load().complete(picture, hole, blend="on")
    assert_completed(executed.out / "picture_completed.png", picture, hole, expected)
    assert len(pictures_of(executed.outputs["picture"])) == 1


def test_page_is_framed_and_endpoint_completes(executed):
    (frame,) = executed.outputs["page"]
    assert f"http://127.0.0.1:{executed.port}" in frame.data["text/html"]
    picture = load_image(executed.picture)
    hole = random_hole(1, *picture.shape[:2]).hole
    assert_completed(executed.out / "answer", picture, hole, Completer.load().complete(picture, hole))
    assert len(pictures_of(executed.outputs["request"])) == 1
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", executed.port), timeout=5)


def test_three_phases_are_trained_and_resumed(executed):
    run = executed.out / "run"
    trained = {(row["step"], row["phase"]) for row in read_metrics(run)}
    assert trained >= {(2, "completion"), (4, "discriminator"), (6, "joint"), (8, "joint")}
    assert Checkpoints(run).steps()[-1] == 8
    assert "phase 3/3 joint: steps 4 to 6" in text_of(executed.outputs["train"])
    assert "resuming from step 6 of 8 (phase joint)" in text_of(executed.outputs["resume"])
    kept = [(run / f"{name}.png").exists() for name in ("comparison", "curves")]
    assert kept == [True, True]
    assert len(pictures_of(executed.outputs["summary"])) == 2


def test_grid_is_updated_during_training(executed):
    # Equal grids count once: phase 2 does not change what they show.
    steps = {path.read_bytes(): path.stem for path in sorted((executed.out / "run" / "grids").iterdir())}
    shown = [(cell, steps[base64.b64decode(picture)]) for cell, picture in executed.replaced]
    assert len({step for cell, step in shown if cell == "train"}) >= 2
    assert [step for cell, step in shown if cell == "train"][-1] == "step_00000006"
    assert shown[-1] == ("resume", "step_00000008")
    # The last one stays.
    assert [steps[left] for left in pictures_of(executed.outputs["train"])] == ["step_00000006"]


def test_evaluation_is_shown_as_a_table(executed):
    table, where = (output.data["text/markdown"] for output in executed.outputs["evaluate"])
    report = executed.out / "report"
    assert table == (report / "table.md").read_text()
    assert f"| {executed.out / 'run'}, step 6 |" in table
    assert {"| mean fill |", "| Telea |", "| Navier-Stokes |"} <= {
        line[: line.find("|", 2) + 1] for line in table.splitlines()
    }
    assert str(report / "report.html") in where
    assert (report / "report.html").stat().st_size > 10_000

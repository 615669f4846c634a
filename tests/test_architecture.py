"""The rooms of the package and the doors between them, read from the source."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

# Imports point down or sideways, never up, and never in a circle.
LEVELS = {
    "__init__": 0,
    "cropping": 0,
    "intervals": 0,
    "scores": 0,
    "convolutions": 0,
    "winograd": 0,
    "built_in": 0,
    "errors": 0,
    "files": 0,
    "gradient_balance": 0,
    "images": 0,
    "losses": 0,
    "output_activations": 0,
    "masks": 0,
    "memory": 0,
    "metrics": 0,
    "networks": 0,
    "phases": 0,
    "pixels": 0,
    "silence": 0,
    "smooth_fill": 0,
    "poisson": 0,
    "progress": 0,
    "archives": 1,
    "fills": 1,
    "evaluation_images": 2,
    "examples": 3,
    "journal": 1,
    "methods": 7,
    "evaluator": 7,
    "evaluating": 8,
    "conclusions": 8,
    "comparing": 8,
    "evaluate_command": 8,
    "score_summary": 1,
    "score_tables": 1,
    "score_cells": 1,
    "page": 1,
    "picture_rows": 1,
    "curves": 1,
    "report": 2,
    "comparison_page": 2,
    "blending": 1,
    "checked_files": 1,
    "data_sources": 1,
    "downloads": 1,
    "compile_cache": 0,
    "holes": 1,
    "picture_kinds": 3,
    "exif": 1,
    "image_files": 1,
    "image_folders": 1,
    "listings": 1,
    "picture_decoding": 1,
    "feature_weights": 1,
    "fid": 3,
    "file_chunks": 1,
    "picture_descriptions": 1,
    "picture_limits": 1,
    "picture_opening": 1,
    "pictures": 1,
    "shards": 1,
    "sixteen_bit": 1,
    "state": 1,
    "tensor_files": 1,
    "tfrecords": 1,
    "torch7_files": 1,
    "torch7_modules": 1,
    "torch_files": 1,
    "torch_layouts": 1,
    "torch_names": 1,
    "torch_pickles": 1,
    "worker_pool": 1,
    "windows": 1,
    "workdirs": 1,
    "checkpoint_items": 2,
    "checkpoints": 2,
    "conversion": 2,
    "data_recipes": 2,
    "devices": 2,
    "health": 2,
    "inception": 2,
    "input_pipeline": 2,
    "stable_random": 0,
    "stroke_masks": 1,
    "drawn_masks": 1,
    "mask_records": 1,
    "lpips": 2,
    "mask_files": 2,
    "mask_folders": 3,
    "mask_sets": 3,
    "masks_command": 4,
    "pairing": 2,
    "processes": 2,
    "reporting": 2,
    "steps": 2,
    "step_parts": 2,
    "stopping": 2,
    "tensorboard": 1,
    "completion": 3,
    "data_check": 3,
    "preparation": 3,
    "split_writing": 3,
    "data_report": 4,
    "weights": 4,
    "evaluation": 4,
    "summary": 4,
    "continuation": 4,
    "opening": 4,
    "benchmark": 8,
    "benchmark_cpu": 7,
    "benchmark_input": 7,
    "benchmark_ours": 7,
    "benchmark_phases": 7,
    "benchmark_pipes": 6,
    "benchmark_scale": 7,
    "benchmark_setup": 6,
    "benchmark_start": 7,
    "benchmark_torch": 7,
    "operation_counts": 0,
    "benchmark_memory": 7,
    "completer": 6,
    "runner": 5,
    "commands": 8,
    "hole_choice": 3,
    "page_actions": 8,
    "painted_holes": 3,
    "private_folder": 0,
    "serve_app": 8,
    "serve_command": 8,
    "serve_guard": 8,
    "serve_page": 8,
    "serve_requests": 8,
    "serve_site": 8,
    "serving": 8,
    "complete_command": 7,
    "file_completion": 7,
    "exporting": 5,
    "foreign_weights": 5,
    "training": 5,
    "weight_store": 5,
    "weights_commands": 5,
}
# What level 0 may import of itself.
LEAVES = ("__init__", "convolutions", "winograd", "errors", "images", "files", "output_activations", "smooth_fill")
SEE_THE_CONFIGURATION = {"training", "opening", "continuation", "input_pipeline", "state", "evaluation"}
MOST_LINES_OF_A_FILE = 330
MOST_LINES_OF_A_FUNCTION = 60

PACKAGE = {path.stem: ast.parse(path.read_text(), str(path)) for path in sorted((ROOT / "glcic_jax").glob("*.py"))}
CONFIG_FILES = {
    path.stem: ast.parse(path.read_text(), str(path)) for path in sorted((ROOT / "configs").glob("*.py"))
}


def imported_names(tree: ast.Module) -> set[str]:
    """Every dotted name that a file imports, inside its functions too: `from a import b` gives a and a.b."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = "glcic_jax" if node.level else ""
            module = ".".join(filter(None, (module, node.module)))
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return names


def imported_rooms(tree: ast.Module) -> set[str]:
    """The package's own modules that a file imports."""
    parts = [name.split(".") for name in imported_names(tree)]
    return {part[1] for part in parts if part[0] == "glcic_jax" and len(part) > 1 and part[1] in PACKAGE}


def packages(tree: ast.Module) -> set[str]:
    return {name.split(".")[0] for name in imported_names(tree)}


def python_files() -> list[Path]:
    return [
        ROOT / "main.py",
        *sorted((ROOT / "glcic_jax").rglob("*.py")),
        *sorted((ROOT / "configs").glob("*.py")),
    ]


def test_the_reader_sees_every_form_of_import():
    source = (
        "import jax.numpy as jnp\nfrom . import masks\nfrom .images import composite\n"
        "def late():\n    from glcic_jax.state import TrainState\n    import glcic_jax.steps\n"
        "from glcic_jax import losses, __version__\n"
    )
    tree = ast.parse(source)
    assert imported_rooms(tree) == {"masks", "images", "state", "steps", "losses"}
    assert packages(tree) == {"jax", "glcic_jax"}


def test_every_module_has_a_level():
    assert set(PACKAGE) == set(LEVELS)
    nested = [path for path in (ROOT / "glcic_jax").rglob("*.py") if path.parent != ROOT / "glcic_jax"]
    assert nested == []


@pytest.mark.parametrize("room", PACKAGE)
def test_imports_point_down(room):
    for other in imported_rooms(PACKAGE[room]):
        assert LEVELS[other] <= LEVELS[room], f"{room} imports {other} from above"
        if LEVELS[room] == 0:
            assert other in LEAVES, f"{room} imports {other}, which is no leaf"


def test_imports_run_in_no_circle():
    left = {room: imported_rooms(tree) - {room} for room, tree in PACKAGE.items()}
    while left:
        free = {room for room, imports in left.items() if not imports & set(left)}
        assert free, f"these import each other in a circle: {sorted(left)}"
        left = {room: imports for room, imports in left.items() if room not in free}


def test_configurations_and_package_never_import_each_other():
    for tree in PACKAGE.values():
        assert not packages(tree) & {"configs", "main", "tests"}
    assert "common" in CONFIG_FILES
    for tree in CONFIG_FILES.values():
        assert packages(tree) <= {"ml_collections", "configs"}


def test_the_configuration_is_seen_in_few_rooms():
    seen = {room for room, tree in PACKAGE.items() if "ml_collections" in packages(tree)}
    assert seen <= SEE_THE_CONFIGURATION
    named = {
        room
        for room, tree in PACKAGE.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Name | ast.Attribute)
        and "ConfigDict" in (getattr(node, "id", ""), getattr(node, "attr", ""))
    }
    assert named <= SEE_THE_CONFIGURATION


def test_steps_are_pmapped_at_one_place():
    sites = [
        room
        for room, tree in PACKAGE.items()
        for node in ast.walk(tree)
        if (isinstance(node, ast.Attribute) and node.attr == "pmap")
        or (isinstance(node, ast.Name) and node.id == "pmap")
        or (isinstance(node, ast.ImportFrom) and "pmap" in {alias.name for alias in node.names})
    ]
    assert len(sites) == 1, sites


def test_psnr_is_computed_in_one_room():
    sites = {
        room
        for room, tree in PACKAGE.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr == "log10" and getattr(node.value, "id", "") != "math"
    }
    assert sites == {"metrics"}


def test_heavy_packages_wait_until_they_are_needed():
    code = "import sys, glcic_jax.commands, glcic_jax.errors; print(sorted(sys.modules))"
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    imported = set(ast.literal_eval(process.stdout))
    assert "glcic_jax.commands" in imported
    assert not imported & {
        "jax",
        "flax",
        "optax",
        "cv2",
        "grain",
        "tensorflow",
        "tensorflow_datasets",
        "matplotlib",
        "fastapi",
        "gradio",
        "uvicorn",
    }
    for room, tree in PACKAGE.items():
        assert "tensorflow" not in packages(tree), room


@pytest.mark.parametrize("path", python_files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_and_functions_stay_short(path):
    text = path.read_text()
    assert len(text.splitlines()) <= MOST_LINES_OF_A_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and path.parent.name != "configs":
            length = node.end_lineno - node.lineno + 1
            assert length <= MOST_LINES_OF_A_FUNCTION, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", python_files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_error_is_passed_over_in_silence(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"line {node.lineno}: a bare except catches Ctrl-C too"
            silent = all(
                isinstance(statement, ast.Pass | ast.Continue)
                or (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
                for statement in node.body
            )
            assert not silent, f"line {node.lineno}"

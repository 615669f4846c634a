"""The rooms of the package and the order of imports between them, read from the source."""

import ast
import re
import subprocess
import sys

import pytest
from helpers.common import ROOT

# A room imports from the rooms before it; rooms of one entry never import each other.
ROOMS = (
    ("errors",),
    ("files", "runtime", "progress", "command_line"),
    ("model", "pictures"),
    ("data",),
    ("training",),
    ("weights",),
    ("completion",),
    ("evaluation", "serving", "benchmark"),
    ("commands",),
    ("__main__",),
)
LEVEL = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}
PACKAGE = ROOT / "glcic_jax"
SOURCES = {path: ast.parse(path.read_text(), str(path)) for path in sorted(PACKAGE.rglob("*.py"))}
CONFIGS = {path: ast.parse(path.read_text(), str(path)) for path in sorted((ROOT / "configs").glob("*.py"))}
PROGRAM = {**SOURCES, **CONFIGS, ROOT / "main.py": ast.parse((ROOT / "main.py").read_text())}


def imported_names(tree: ast.Module) -> set[str]:
    """Every dotted name that a file imports, inside its functions too: `from a import b` gives a and a.b."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def distributions(tree: ast.Module) -> set[str]:
    return {name.split(".")[0] for name in imported_names(tree)}


def room_of(path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_rooms_import_only_from_the_rooms_below_them():
    wrong = []
    for path, tree in SOURCES.items():
        room = room_of(path)
        for name in imported_names(tree):
            parts = name.split(".")
            other = parts[1] if parts[0] == "glcic_jax" and len(parts) > 1 else room
            if room != "__init__" and other in LEVEL and other != room and LEVEL[other] >= LEVEL[room]:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong
    assert {room_of(path) for path in SOURCES} == {"__init__", *LEVEL}


def test_modules_do_not_import_each_other_in_a_circle():
    dotted = {".".join(path.relative_to(ROOT).with_suffix("").parts): tree for path, tree in SOURCES.items()}
    remaining = {name: imported_names(tree) & set(dotted) - {name} for name, tree in dotted.items()}
    while remaining:
        free = {name for name, imports in remaining.items() if not imports & set(remaining)}
        assert free, f"these import each other in a circle: {sorted(remaining)}"
        remaining = {name: imports for name, imports in remaining.items() if name not in free}


def test_private_names_stay_in_their_file():
    private = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path, tree in SOURCES.items()
        for name in imported_names(tree)
        if re.match(r"glcic_jax\.(.*\.)?_[A-Za-z]", name)
    }
    assert not private


def test_configs_and_package_never_import_each_other():
    for tree in SOURCES.values():
        assert not distributions(tree) & {"configs", "main", "tests"}
    for tree in CONFIGS.values():
        assert distributions(tree) - sys.stdlib_module_names <= {"ml_collections", "configs"}


def test_the_package_never_imports_tensorflow_to_train():
    importing = {path for path, tree in SOURCES.items() if "tensorflow" in distributions(tree)}
    assert {room_of(path) for path in importing} <= {"data"}
    assert {path.name for path in importing} <= {"prepare.py"}


def test_steps_are_pmapped_at_one_place():
    sites = [
        path
        for path, tree in SOURCES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr == "pmap"
    ]
    assert len(sites) == 1, sites


@pytest.mark.parametrize(
    "command",
    [
        "--help",
        "complete --no-such-option",
        "complete nowhere.jpg mask.png",
        "complete .github/quickstart.png nowhere.png",
        "complete nowhere/ masks -o results",
        "complete tests nowhere.png -o results",
        "train --list",
        "train --config=joint --workdri=x",
        "weights list",
        "weights path nothing",
    ],
)
def test_help_and_wrong_usage_import_no_heavy_package(command, tmp_path):
    for name in (".github", "tests"):  # Without `runs`, whose checkpoints errors list.
        (tmp_path / name).symlink_to(ROOT / name)
    code = "import atexit, sys; atexit.register(lambda: print('\\nmodules', *sys.modules)); "
    code += "from glcic_jax.commands.main import main; main()"
    process = subprocess.run(
        [sys.executable, "-c", code, *command.split()], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert process.returncode in (0, 2, 3), process.stderr
    imported = set(process.stdout.rpartition("modules")[2].split())
    assert "glcic_jax.commands.main" in imported
    heavy = {"jax", "flax", "optax", "cv2", "grain", "tensorflow", "tensorflow_datasets", "matplotlib", "fastapi"}
    assert not imported & {*heavy, "starlette", "uvicorn"}


@pytest.mark.parametrize("path", PROGRAM, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_error_is_passed_over_in_silence(path):
    for node in ast.walk(PROGRAM[path]):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"line {node.lineno}: a bare except catches Ctrl-C too"
            silent = all(
                isinstance(statement, ast.Pass | ast.Continue)
                or (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
                for statement in node.body
            )
            assert not silent, f"line {node.lineno}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_dataclasses_of_arrays_compare_by_identity(path):
    """NumPy compares arrays element by element: an `==` of such dataclasses would raise."""
    for node in ast.walk(SOURCES[path]):
        if not isinstance(node, ast.ClassDef):
            continue
        decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
        fields = [ast.unparse(field.annotation) for field in node.body if isinstance(field, ast.AnnAssign)]
        if any(text.startswith("dataclasses.dataclass") for text in decorators) and "ndarray" in " ".join(fields):
            assert any("eq=False" in text for text in decorators), f"{node.name}, line {node.lineno}"

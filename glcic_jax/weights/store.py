"""Finds weights by name, file or run, and keeps imported weights in a store under one home directory.

A name is built in (`glcic_jax/pretrained`) or stored ($GLCIC_HOME/weights). Stored files contain their checksums
and are replaced whole, so that readers need no lock.
"""

import functools
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

import safetensors

from glcic_jax.errors import DataError, UserError, WeightsError, one_line, printable
from glcic_jax.files import expand_home, lock
from glcic_jax.training.workdir import run_at
from glcic_jax.weights.file import (
    FORMAT_FAMILY,
    LICENCE_NOT_STATED,
    GeneratorDescription,
    Summary,
    Weights,
    kind_of,
    load_weights,
    save_weights,
    summarise,
)

T = TypeVar("T")

DEFAULT_NAME = "photos"
_PRETRAINED = Path(__file__).parents[1] / "pretrained"
_SUFFIX = ".safetensors"
# No upper case: on some file systems names that differ in case are one file.
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_MAX_LISTED = 10


class Found(NamedTuple):
    """Weights that a reference names.

    Attributes:
      weights: The network with its variables and description.
      name: For messages, such as "runs/quickstart, step 700" or "completionnet_places2 (CC BY-NC-SA 4.0)".
      path: The file, or the workdir of the run.
    """

    weights: Weights
    name: str
    path: Path


class Entry(NamedTuple):
    """One line of `glcic weights list`.

    Attributes:
      name: The name that commands take; a path where a built-in name hides a stored one.
      path: The file.
      summary: Its content; None where it cannot be read.
      error: Why it cannot be read; empty otherwise.
    """

    name: str
    path: Path
    summary: Summary | None = None
    error: str = ""


def home() -> Path:
    """Returns the directory of the package's own files: $GLCIC_HOME, else ~/.cache/glcic_jax.

    Raises:
      DataError: The user has no home directory.
    """
    return expand_home(_home())


def compile_cache() -> Path:
    """Returns the directory of compiled programs, which may begin with ~."""
    return _home() / "xla"


def _home() -> Path:
    return Path(os.environ.get("GLCIC_HOME") or "~/.cache/glcic_jax")


def find_weights(reference: str | Path | None) -> Found:
    """Finds a completion network.

    Args:
      reference: A file of weights (ours or another implementation's), the workdir of a run, its directory
        `checkpoints` or one checkpoint in it, or a built-in or stored name. None: $GLCIC_WEIGHTS, else
        `DEFAULT_NAME`.

    Raises:
      WeightsError: There is none, or it cannot be used; the message lists the alternatives.
    """
    found = find_network(reference)
    kind = kind_of(found.weights.network).replace("_", " ")
    if kind != "completion":
        raise WeightsError(f"{found.name} is a {kind}: a completion network is needed")
    return found


def find_generator(reference: str | Path) -> Found:
    """Finds a generator of images; arguments and errors as in `find_weights`."""
    found = _resolve(reference, "; name the workdir of a GAN's run, or a file that 'glcic weights export' wrote")
    if not isinstance(found.weights.description, GeneratorDescription):
        kind = kind_of(found.weights.network).replace("_", " ")
        raise WeightsError(f"{found.name} is a {kind} network: a generator is needed, as configs/dcgan.py trains")
    return found


def find_network(reference: str | Path | None) -> Found:
    """Finds a network of any kind; arguments and errors as in `find_weights`."""
    if reference is not None:
        return _resolve(reference)
    if variable := os.environ.get("GLCIC_WEIGHTS"):
        try:
            return _resolve(variable)
        except WeightsError as error:
            raise WeightsError(f"$GLCIC_WEIGHTS: {error}") from error
    return _resolve_built_in(DEFAULT_NAME)


def _resolve(reference: str | Path, alternatives: str = "") -> Found:
    path, name = expand_home(reference), str(reference)
    if run := run_at(path):
        from glcic_jax.weights.from_run import run_weights  # Imports Orbax, which takes most of a second.

        weights, step = run_weights(*run)
        return _found(weights, f"{printable(str(run[0]))}, step {step}", run[0])
    if path.is_file():
        return _found(read_file(path), printable(str(path)), path)
    if _is_built_in(name):
        return _resolve_built_in(name)
    if _is_stored(name):
        return _found(load(name), name, _stored_path(name))
    reason = "holds no checkpoints, so it is not a run" if path.exists() else "no such file, run or name"
    raise WeightsError(f"{printable(name)}: {reason}{alternatives or _alternatives()}")


def _resolve_built_in(name: str) -> Found:
    path = built_in_path(name)
    try:
        return _found(load_weights(path), f"{name}, built in", path)
    except WeightsError as error:
        raise WeightsError(
            f"the installation is incomplete ({error}): install glcic-jax again, or name a file of weights"
        ) from error


def _found(weights: Weights, name: str, path: Path) -> Found:
    licence = weights.description.licence
    return Found(weights, name if licence == LICENCE_NOT_STATED else f"{name} ({printable(licence)})", path)


def read_file(path: Path, mean_pixel: tuple[float, float, float] | None = None) -> Weights:
    """Reads a file of weights, ours or another implementation's, which its content decides.

    Args:
      path: The file.
      mean_pixel: (r, g, b) in [0, 1], for other implementations' files that lack it.

    Raises:
      WeightsError: The file is unknown or damaged, lacks the mean pixel, or states its own although one is given.
    """
    try:
        with safetensors.safe_open(path, framework="np") as file:
            ours = (file.metadata() or {}).get("format", "").startswith(FORMAT_FAMILY)
    except Exception:  # Not a safetensors file, or a damaged one: the suffix decides.
        ours = path.suffix == _SUFFIX
    if not ours:
        from glcic_jax.weights.foreign.reader import read_foreign

        return read_foreign(path, mean_pixel)
    if mean_pixel is not None:
        raise WeightsError(f"{printable(str(path))} states its own mean pixel: omit --mean-pixel")
    return load_weights(path)


def check_name(name: str) -> None:
    """Checks that the store can use a name.

    Raises:
      DataError: It is built in, or has an upper-case letter, a separator or another character that file systems
        treat differently.
    """
    if _is_built_in(name):
        raise DataError(f"{name} names built-in weights: give another --name")
    if not _is_name(name):
        raise DataError(
            f"{printable(name)!r} cannot name weights: use lower-case letters, digits, '.', '_' and '-', a letter "
            "or digit first, no '.' last, 100 characters at most"
        )


def name_for(path: Path) -> str:
    """Derives a name for the store from the name of a file; empty if no valid character remains."""
    stem = path.name if path.name.startswith(".") else path.stem
    return re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-._")[:100].rstrip(".")


def add(weights: Weights, name: str, *, replace: bool = False) -> Path:
    """Writes weights to the store.

    Args:
      weights: The weights.
      name: Lower-case letters, digits, ".", "_" and "-".
      replace: Whether to replace weights of that name.

    Returns:
      Their file.

    Raises:
      DataError: The name cannot be used or is taken, or the store cannot be written.
      WeightsError: The arrays do not fit the network.
    """
    check_name(name)
    path = _stored_path(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with lock(path.parent / ".lock"):
            if path.exists() and not replace:
                raise DataError(f"{printable(str(path))} exists: give another --name, or --replace")
            save_weights(weights, path)
            # Early versions kept a checksum beside the file; it is not this file's.
            path.with_name(f"{path.name}.sha256").unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"{printable(str(path.parent))}: cannot be written ({printable(one_line(error))})"
        ) from error
    return path


def load(name: str) -> Weights:
    """Reads stored weights.

    Raises:
      WeightsError: There are none of that name, or their file is damaged.
    """
    if not _is_stored(name):
        raise _unknown(name)
    return _read_stored(name, load_weights)


def _read_stored(name: str, read: Callable[[Path], T]) -> T:
    try:
        return read(_stored_path(name))
    except UserError as error:
        options = "--name ANOTHER" if _is_built_in(name) else f"--name {name} --replace"
        raise WeightsError(
            f"{error}; repair it with 'glcic weights import FILE {options}', or remove it"
        ) from error


def path_of(name: str) -> Path:
    """Returns the file of built-in or stored weights.

    Raises:
      WeightsError: There are none of that name.
    """
    if name in built_in_names():
        return built_in_path(name)
    if not _is_stored(name):
        raise _unknown(name)
    return _stored_path(name)


def built_in_entries() -> list[Entry]:
    """Returns the built-in weights, sorted by name."""
    paths = {name: built_in_path(name) for name in built_in_names()}
    return [_entry(name, path, functools.partial(summarise, path)) for name, path in paths.items()]


def stored() -> list[Entry]:
    """Returns the stored weights, sorted by name; if a name is built in too, the entry is named by its path.

    Raises:
      WeightsError: The store exists and cannot be listed.
    """
    shown = {name: str(_stored_path(name)) if _is_built_in(name) else name for name in _stored_names()}
    return [
        _entry(title, _stored_path(name), functools.partial(_read_stored, name, summarise))
        for name, title in shown.items()
    ]


def built_in_names() -> list[str]:
    """Returns the names of the built-in weights, sorted."""
    return sorted(path.stem for path in _PRETRAINED.glob(f"*{_SUFFIX}"))


def built_in_path(name: str) -> Path:
    """Returns the file of built-in weights, which may be missing."""
    return _PRETRAINED / f"{name}{_SUFFIX}"


def _entry(name: str, path: Path, read: Callable[[], Summary]) -> Entry:
    try:
        return Entry(name, path, read())
    except WeightsError as error:
        return Entry(name, path, error=str(error))


def _unknown(name: str) -> WeightsError:
    return WeightsError(f"{printable(name)}: no weights of that name{_alternatives()}")


def _alternatives() -> str:
    """Returns the end of an error message: the weights that could be named instead."""
    # ./runs/* and ./runs/*/*, with the newest step of each; a run without a finished checkpoint is left out.
    workdirs = sorted(path.parent for depth in ("*", "*/*") for path in Path("runs").glob(f"{depth}/checkpoints"))
    steps = {}
    if workdirs:
        from glcic_jax.training.checkpoints import Checkpoints  # Imports Orbax, which takes most of a second.

        steps = {workdir: Checkpoints(workdir).steps() for workdir in workdirs}
    runs = [f"{printable(str(workdir))} (step {found[-1]})" for workdir, found in steps.items() if found]
    kinds = {"built in:": built_in_names(), "stored:": _stored_names(), "runs:": runs}
    listed = []
    for kind, names in kinds.items():
        more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
        if names:
            listed.append(f"{kind} {', '.join(names[:_MAX_LISTED])}{more}")
    choices = f", or one of these: {'; '.join(listed)}" if listed else ""
    return f"; name a file of weights{choices}"


def _is_built_in(name: str) -> bool:
    return name == DEFAULT_NAME or name in built_in_names()


def _stored_path(name: str) -> Path:
    return home() / "weights" / f"{name}{_SUFFIX}"


def _is_stored(name: str) -> bool:
    return name in _stored_names() and _stored_path(name).is_file()


def _is_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and not name.endswith((".", _SUFFIX))


def _stored_names() -> list[str]:
    try:
        directory = home() / "weights"
    except DataError:  # Without a home directory there is no store.
        return []
    try:
        return sorted(path.stem for path in directory.iterdir() if path.suffix == _SUFFIX and _is_name(path.stem))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise WeightsError(f"{printable(str(directory))}: cannot be listed ({one_line(error)})") from error

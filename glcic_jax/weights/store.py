"""Where weights are found: built in, in the store below one home, runs, files; and the one door to them all."""

import functools
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import safetensors

from glcic_jax.errors import DataError, UserError, WeightsError, one_line, printable
from glcic_jax.model.networks import CompletionNetwork
from glcic_jax.training.checkpoints import Checkpoints
from glcic_jax.training.workdir import run_at
from glcic_jax.weights.checked_files import locked_to_read, locked_to_write, verify, write_checked
from glcic_jax.weights.file import (
    FORMAT,
    LICENCE_NOT_STATED,
    Description,
    Network,
    Weights,
    load_weights,
    save_weights,
)
from glcic_jax.weights.from_run import run_weights_and_step

_SUFFIX = ".safetensors"
# Lower case alone: on some file systems two names that differ in case are one file.
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_LISTED = 10


class Entry(NamedTuple):
    """One file of the store.

    Attributes:
      name: What commands call it.
      path: The file.
      size: In bytes.
      network, description: What it holds; None where it cannot be used.
      error: Why it cannot be used; empty where it can.
    """

    name: str
    path: Path
    size: int
    network: Network | None = None
    description: Description | None = None
    error: str = ""


class Found(NamedTuple):
    """Weights, and what a person is told that they are.

    Attributes:
      weights: The network with its variables.
      name: As "runs/quickstart, step 700" or "completionnet_places2 (CC BY-NC-SA 4.0)".
      path: The file, or the run's workdir.
    """

    weights: Weights
    name: str
    path: Path


def home() -> Path:
    """Where the package keeps what it is given: $GLCIC_HOME, else ~/.cache/glcic_jax."""
    return Path(os.environ.get("GLCIC_HOME") or "~/.cache/glcic_jax").expanduser()


def check_name(name: str) -> None:
    """Asks whether the store can use a name.

    Raises:
      DataError: It has a separator, an upper-case letter or another character that file systems differ over, or
        names weights that are built in.
    """
    if is_built_in(name):
        raise DataError(f"{name} names the weights that are built in: give another --name")
    if not _is_name(name):
        raise DataError(
            f"{printable(name)!r} cannot name weights: use lower-case letters, digits, '.', '_' and '-', a letter "
            "or digit first, no '.' last, 100 characters at most"
        )


def name_for(path: Path) -> str:
    """A name that the store can use, made from a file's; empty where nothing is left of it."""
    stem = path.name if path.name.startswith(".") else path.stem
    return re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-._")[:100].rstrip(".")


def path_of(name: str) -> Path:
    """The file of weights that are stored or built in.

    Raises:
      WeightsError: The store holds none of that name.
    """
    if name in built_in_names():
        return built_in_path(name)
    if not _is_stored(name):
        raise _unknown(name)
    return _path(name)


def _unknown(name: str) -> WeightsError:
    return WeightsError(f"{printable(name)}: no weights of that name{_what_there_is()}")


def add(weights: Weights, name: str) -> Path:
    """Puts weights into the store.

    Args:
      weights: Any.
      name: Lower-case letters, digits, ".", "_" and "-".

    Returns:
      Their file.

    Raises:
      DataError: The name cannot be used or is taken, or the store cannot be written.
      WeightsError: The arrays do not fit the network.
    """
    check_name(name)
    with locked_to_write(_directory()):
        if _path(name).exists():
            raise DataError(
                f"{printable(str(_path(name)))} is there already: give another --name, or --replace to replace it"
            )
        write_checked(_path(name), lambda path: save_weights(weights, path))
    return _path(name)


def replace(weights: Weights, name: str) -> Path:
    """As `add`; what stood under the name is replaced, if there was anything."""
    check_name(name)
    with locked_to_write(_directory()):
        write_checked(_path(name), lambda path: save_weights(weights, path))
    return _path(name)


def load(name: str) -> Weights:
    """Reads stored weights, and compares their file with its checksum.

    Raises:
      WeightsError: There are none of that name, or their file is damaged.
    """
    if not _is_stored(name):
        raise _unknown(name)
    path = _path(name)
    try:
        with locked_to_read(path.parent):
            verify(path)
            return load_weights(path)
    except UserError as error:
        options = "--name ANOTHER" if is_built_in(name) else f"--name {name} --replace"
        raise WeightsError(f"{error}; mend it with 'glcic weights import FILE {options}', or remove it") from error


def built_in_entries() -> list[Entry]:
    """What is built in, by name, as `stored` gives what is not."""
    paths = {name: built_in_path(name) for name in built_in_names()}
    return [_entry(name, path, functools.partial(load_weights, path)) for name, path in paths.items()]


def stored() -> list[Entry]:
    """All that the store holds, by name, or by path where the name is built in now; what is damaged has its error.

    Raises:
      WeightsError: The store is there and cannot be listed.
    """
    shown = {name: str(_path(name)) if is_built_in(name) else name for name in _names()}
    return [_entry(called, _path(name), functools.partial(load, name)) for name, called in shown.items()]


def _entry(name: str, path: Path, read: Callable[[], Weights]) -> Entry:
    size = path.stat().st_size if path.exists() else 0
    try:
        network, _, description = read()
    except WeightsError as error:
        return Entry(name, path, size, error=str(error))
    return Entry(name, path, size, network, description)


def find_weights(reference: str | Path | None) -> Found:
    """A completion network: the one that is named, or the one that is built in.

    Args:
      reference: A file of weights (ours, or another implementation's), a run's workdir, its folder
        `checkpoints` or one checkpoint in it, or a name, built in or stored. None: what $GLCIC_WEIGHTS names,
        else `built_in.DEFAULT_NAME`.

    Raises:
      WeightsError: There is none, or it cannot be used; it says what there is.
    """
    found = find_network(reference)
    if not isinstance(found.weights.network, CompletionNetwork):
        raise WeightsError(
            f"{found.name} is a context discriminator, which judges images: a completion network is needed"
        )
    return found


def find_network(reference: str | Path | None) -> Found:
    """As `find_weights`; a context discriminator may be named too."""
    if reference is not None:
        return _named(reference)
    if variable := os.environ.get("GLCIC_WEIGHTS"):
        try:
            return _named(variable)
        except WeightsError as error:
            raise WeightsError(f"$GLCIC_WEIGHTS: {error}") from error
    return _built_in(DEFAULT_NAME)


def read_file(path: Path, mean_pixel: tuple[float, float, float] | None = None) -> Weights:
    """Reads a file of weights: ours, or what another implementation saved.

    Args:
      path: The file; what it is, its content says.
      mean_pixel: (r, g, b) in [0, 1], for files of others that do not hold it.

    Raises:
      WeightsError: It is neither, or damaged, or lacks the mean pixel, or has its own beside the one given.
    """
    if _is_ours(path):
        if mean_pixel is not None:
            raise WeightsError(f"{printable(str(path))} says its mean pixel itself: leave --mean-pixel away")
        return load_weights(path)
    from glcic_jax.weights.foreign.reader import read_foreign

    return read_foreign(path, mean_pixel)


def _named(reference: str | Path) -> Found:
    path = Path(reference).expanduser()
    run = run_at(path)
    if run is not None:
        return _from_run(*run)
    if path.is_file():
        if path.parent.resolve() == _directory().resolve() and path.stem in _names():
            return _from_store(path.stem)
        return _found(read_file(path), printable(str(path)), path)
    if is_built_in(str(reference)):
        return _built_in(str(reference))
    if _is_stored(str(reference)):
        return _from_store(str(reference))
    reason = "holds no checkpoints, so it is no run" if path.exists() else "no such file, run or name"
    raise WeightsError(f"{printable(str(reference))}: {reason}{_what_there_is()}")


def _built_in(name: str) -> Found:
    path = built_in_path(name)
    try:
        return _found(load_weights(path), f"{name}, built in", path)
    except WeightsError as error:
        raise WeightsError(
            f"the installation is incomplete ({error}): install glcic-jax again, or name weights with --weights"
        ) from error


def _from_store(name: str) -> Found:
    return _found(load(name), name, _path(name))


def _from_run(workdir: Path, step: int | None) -> Found:
    weights, step = run_weights_and_step(workdir, step)
    return _found(weights, f"{printable(str(workdir))}, step {step}", workdir)


def _found(weights: Weights, name: str, path: Path) -> Found:
    licence = weights.description.licence
    return Found(weights, name if licence == LICENCE_NOT_STATED else f"{name} ({printable(licence)})", path)


def _what_there_is() -> str:
    """The end of an error's line: what could be named instead."""
    runs = [f"{printable(str(workdir))} (step {step})" for workdir, step in _runs()]
    kinds = {"built in:": built_in_names(), "stored:": _names(), "runs:": runs}
    there = [f"{kind} {_listed(found)}" for kind, found in kinds.items() if found]
    return f"; there are {'; '.join(there) or 'none here'}: name one, or a file, with --weights"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _runs() -> list[tuple[Path, int]]:
    """The runs at and below ./runs/*, with the newest step of each; those without a checkpoint left out."""
    found = sorted(path.parent for depth in ("*", "*/*") for path in Path("runs").glob(f"{depth}/checkpoints"))
    steps = [(workdir, Checkpoints(workdir).steps()) for workdir in found]
    return [(workdir, finished[-1]) for workdir, finished in steps if finished]


def _directory() -> Path:
    return home() / "weights"


def _path(name: str) -> Path:
    return _directory() / f"{name}{_SUFFIX}"


def _is_stored(name: str) -> bool:
    return _is_name(name) and _path(name).is_file()


def _is_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and not name.endswith((".", _SUFFIX))


def _names() -> list[str]:
    try:
        files = [path for path in _directory().iterdir() if path.name.endswith(_SUFFIX)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise WeightsError(f"{printable(str(_directory()))}: cannot be listed ({one_line(error)})") from error
    return sorted(path.stem for path in files if _is_name(path.stem))


def _is_ours(path: Path) -> bool:
    try:
        with safetensors.safe_open(path, framework="np") as file:
            return (file.metadata() or {}).get("format", "").startswith(FORMAT.rstrip("0123456789"))
    except Exception:  # No safetensors, or a damaged one: its name tells what it was meant to be.
        return path.suffix == _SUFFIX


DEFAULT_NAME = "photos"

_FOLDER = Path(__file__).parents[1] / "pretrained"


def built_in_names() -> list[str]:
    """What they are called, sorted."""
    return sorted(path.name.removesuffix(_SUFFIX) for path in _FOLDER.glob(f"*{_SUFFIX}"))


def is_built_in(name: str) -> bool:
    """Whether some of them have that name; the default's is theirs even where its file is gone."""
    return name == DEFAULT_NAME or name in built_in_names()


def built_in_path(name: str) -> Path:
    """The file of some of them, which need not be there."""
    return _FOLDER / f"{name}{_SUFFIX}"

"""The command `glcic train`: main.py for an installed package. JAX is imported inside it."""

import ast
import functools
import sys
import types
from pathlib import Path

import click

from glcic_jax.command_line import UserPath
from glcic_jax.errors import ConfigError, DataError, printable
from glcic_jax.files import expand_home, write_atomically

_PACKAGE = Path(__file__).resolve().parents[1]
_COMMAND = "glcic train"


class _Train(click.Command):
    """Adds the flags of main.py to the options of `--help`."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from absl import flags

        from glcic_jax.training import launch

        super().format_options(ctx, formatter)
        launch.define_flags([])
        own = {parameter.name for parameter in self.params}
        rows = [
            (f"--{flag.name}{'' if flag.boolean else '=' + flag.flag_type().upper()}", flag.help)
            for flag in flags.FLAGS.get_key_flags_for_module(__name__)
            if flag.name not in own
        ]
        with formatter.section("Flags"):
            formatter.write_dl(rows)


@click.command(cls=_Train, context_settings={"ignore_unknown_options": True})
@click.option("--config", metavar="NAME|FILE", help="The configuration: a name that --list shows, or a file.")
@click.option("--list", "listed", is_flag=True, help="List the configurations, and train nothing.")
@click.option(
    "--write",
    metavar="FILE",
    type=UserPath(),
    help="Copy a configuration to FILE, to edit it: that of --config, else the one of FILE's name.",
)
@click.argument("arguments", metavar="[--config.KEY=VALUE]...", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def train(
    context: click.Context, config: str | None, listed: bool, write: Path | None, arguments: tuple[str, ...]
) -> None:
    """Train GLCIC, or a GAN, as main.py of the repository does.

    \b
    glcic train --list
    glcic train --config=quickstart              needs no data, takes minutes on a CPU
    glcic train --config=folder --config.data.source=folder:/path/to/photographs
    glcic train --config=faces:128 --workdir=runs/faces --config.batch_size=8
    glcic train --write folder.py                copies it; then edit it, and
    glcic train --config=folder.py

    Every key of a configuration can be overridden by --config.KEY=VALUE; 'glcic train --write common.py' explains
    them all. Checkpoints, logs and grids go to --workdir; the same command resumes a run that was stopped.
    """  # noqa: D301 - click reads the \\b.
    if listed:
        _list()
    elif write is not None:
        _write(write, config)
    else:
        flags = [f"--config={_file_of(config)}"] if config is not None else []
        debug = ["--debug"] if context.find_root().params.get("debug") else []
        sys.exit(_train([_COMMAND, *flags, *debug, *arguments]))


def _train(arguments: list[str]) -> int:
    """Returns the exit code."""
    from glcic_jax.training import launch
    from glcic_jax.weights import find_weights

    program = launch.Program(
        _COMMAND, "quickstart", f"'{_COMMAND} --list' shows", f"'{_COMMAND} --write common.py'"
    )
    launch.define_flags(arguments)
    return launch.train_as_flagged(launch.parse_flags(arguments, program), program, find_weights)


@functools.cache
def _configs() -> dict[str, Path]:
    """Returns the configurations that come with the package, by name: inside it in a wheel, else beside it."""
    inside = _PACKAGE / "configs"
    folder = inside if inside.is_dir() else _PACKAGE.parent / "configs"
    found = {path.stem: path for path in sorted(folder.glob("*.py"))}
    if "common" not in found:
        raise DataError(f"the installation is incomplete ({printable(str(folder))} is missing): install it again")
    return found


def _file_of(config: str) -> str:
    """Returns --config with the file in place of a name, and makes the package `configs` importable for it."""
    name, colon, variant = config.partition(":")
    if name not in _configs() and not name.endswith(".py") and "/" not in name:
        raise ConfigError(f"--config={printable(config)}: no such configuration; '{_COMMAND} --list' shows them")
    path = expand_home(_configs().get(name, name))
    folder = _configs()["common"].parent
    if path.resolve().parent.name == "configs" and (path.resolve().parent / "common.py").is_file():
        folder = path.resolve().parent  # Of a checkout, whose common.py may be another one.
    # Not by sys.path: other packages of that name may be installed, or lie in the current directory.
    package = types.ModuleType("configs")
    package.__path__ = [str(folder)]
    sys.modules["configs"] = package
    return f"{path}{colon}{variant}"


def _list() -> None:
    width = max(map(len, _configs()))
    for name, path in _configs().items():
        summary = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
        click.echo(f"{name:{width}}  {summary}")


def _write(path: Path, config: str | None) -> None:
    name = (config or path.name).partition(":")[0].removesuffix(".py")
    if name not in _configs():
        raise ConfigError(f"{printable(name)}: no such configuration to copy: give one of {', '.join(_configs())}")
    if path.suffix != ".py":
        raise DataError(f"{printable(str(path))}: a configuration is a Python file: name it NAME.py")
    if path.exists():
        raise DataError(f"{printable(str(path))} exists: name another file: --config={name} --write OTHER.py")
    write_atomically(path, _configs()[name].read_text())
    click.echo(f"{printable(str(path))} written; to train with it: {_COMMAND} --config={printable(str(path))}")

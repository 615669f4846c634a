"""The commands `glcic weights ...` and `glcic export`. JAX is imported inside them."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from glcic_jax.errors import DataError, WeightsError, printable

if TYPE_CHECKING:
    from glcic_jax.weights.file import Description, Network, Weights

_FILE = click.Path(path_type=Path)


class _MeanPixel(click.ParamType):
    """R,G,B in [0, 1]."""

    name = "R,G,B"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[float, ...]:
        """What click calls with the option's text."""
        try:
            numbers = tuple(float(part) for part in str(value).split(","))
        except ValueError:
            numbers = ()
        if len(numbers) != 3 or not all(0.0 <= number <= 1.0 for number in numbers):
            self.fail(f"{value!r} is not three numbers in [0, 1], as 0.485,0.456,0.406", param, ctx)
        return numbers


class _Sha256(click.ParamType):
    """64 hexadecimal digits."""

    name = "HEX"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        """What click calls with the option's text."""
        text = str(value).strip().lower()
        if len(text) != 64 or set(text) - set("0123456789abcdef"):
            self.fail(f"{value!r} is no sha256, which has 64 hexadecimal digits", param, ctx)
        return text


@click.group()
def weights() -> None:
    """Export, import and show trained networks."""


@weights.command("export")
@click.argument("run")
@click.argument("out", metavar="OUT.safetensors", type=_FILE)
@click.option("--step", type=click.IntRange(0), help="Which checkpoint.  [default: the newest that is sound]")
@click.option("--licence", help="Under what the weights may be used, in one line.")
@click.option("--origin", help="Where they come from, in one line.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="Of the parameters; float16 halves the file.",
)
@click.option("--overwrite", is_flag=True, help="Replace OUT where it is there already.")
def export_weights(
    run: str, out: Path, step: int | None, licence: str | None, origin: str | None, dtype: str, overwrite: bool
) -> None:
    """Write a run's completion network to one file that says how to use it.

    RUN is a run's workdir, one of its checkpoints, or whatever else --weights takes.
    """
    from glcic_jax.training.workdir import run_at
    from glcic_jax.weights.file import save_weights
    from glcic_jax.weights.from_run import run_weights
    from glcic_jax.weights.store import find_network

    _check_free(out, overwrite, "--overwrite")
    if step is None:
        chosen = find_network(run).weights
    elif (where := run_at(run)) is None:
        raise DataError(f"{printable(run)}: --step is for the workdir of a run")
    elif where[1] not in (None, step):
        raise DataError(f"{printable(run)} is the checkpoint of step {where[1]}, and --step says {step}")
    else:
        chosen = run_weights(where[0], step)
    said: dict[str, Any] = {"licence": licence, "origin": origin}
    said = {key: " ".join(text.split()) for key, text in said.items() if text is not None}
    chosen = chosen._replace(description=dataclasses.replace(chosen.description, **said))
    save_weights(chosen, out, dtype)
    _show([("written", str(out)), *_facts(chosen), ("size", _megabytes(out.stat().st_size))])


@weights.command("import")
@click.argument("file", type=_FILE)
@click.option("--name", help="What to call them.  [default: made from the file's name]")
@click.option(
    "--mean-pixel", type=_MeanPixel(), help="The training set's mean colour in [0, 1], if FILE lacks it."
)
@click.option("--sha256", type=_Sha256(), help="What FILE's sha256 has to be; nothing is read if it is another.")
@click.option("--replace", "replacing", is_flag=True, help="Replace what is there already under that name.")
@click.option("--output", metavar="OUT.safetensors", type=_FILE, help="Write this file, and nothing to the store.")
def import_weights(
    file: Path,
    name: str | None,
    mean_pixel: tuple[float, float, float] | None,
    sha256: str | None,
    replacing: bool,
    output: Path | None,
) -> None:
    """Take weights into the store: the authors' .t7, the PyTorch ports' .pth, mmagic's, or an exported file."""
    from glcic_jax.weights import store
    from glcic_jax.weights.file import save_weights

    file = file.expanduser()
    if output is not None and name is not None:
        raise DataError("--name is for the store, and --output writes a file beside it: give one of them")
    name = name or store.name_for(file)
    if output is not None:
        _check_free(output, replacing, "--replace")
    else:
        store.check_name(name)
    _check_source(file, sha256)
    chosen = store.read_file(file, mean_pixel)
    if output is not None:
        save_weights(chosen, output)
        path = output
    else:
        path = (store.replace if replacing else store.add)(chosen, name)
    reference = str(output) if output is not None else name
    rows = [
        ("imported", reference),
        ("file", str(path)),
        *_facts(chosen),
        ("size", _megabytes(path.stat().st_size)),
    ]
    _show([*rows, ("use it", _usage(chosen.network, reference))])


@weights.command("inspect")
@click.argument("reference", metavar="REF")
def inspect_weights(reference: str) -> None:
    """Show all that is known of weights.

    REF is a file (ours or another implementation's), a run, one of its checkpoints, or a name that 'glcic weights
    list' shows.
    """
    from glcic_jax.weights.checked_files import file_sha256
    from glcic_jax.weights.file import arrays_sha256
    from glcic_jax.weights.store import find_network

    found = find_network(reference)
    rows = [("weights", found.name), ("from", str(found.path)), *_facts(found.weights)]
    if found.path.is_file():
        rows += [("size", _megabytes(found.path.stat().st_size)), ("sha256", file_sha256(found.path))]
    _show([*rows, ("of arrays", arrays_sha256(found.weights))])


@weights.command("list")
def list_weights() -> None:
    """Show what is built in, and what is in the store."""
    from glcic_jax.weights.store import built_in_entries, stored

    entries = built_in_entries() + stored()
    table = [("name", "network", "size", "trained on", "licence")]
    for entry in entries:
        if entry.network is None or entry.description is None:
            table.append((entry.name, "damaged", _megabytes(entry.size), "", ""))
            continue
        said = entry.description
        trained_on = f"{said.image_size} px"
        table.append((entry.name, _kind(entry.network), _megabytes(entry.size), trained_on, said.licence))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = (printable(cell).ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())
    for entry in entries:
        if entry.error:
            click.echo(f"{entry.name}: {entry.error}", err=True)


@weights.command("path")
@click.argument("name")
def path_of_weights(name: str) -> None:
    """Print the path of built-in or stored weights, and nothing else."""
    from glcic_jax.weights.store import path_of

    click.echo(path_of(name))


@click.command("export")
@click.argument("reference", metavar="REF")
@click.argument("out", type=_FILE)
@click.option("--format", "form", type=click.Choice(["stablehlo"]), required=True, help="What to write.")
@click.option("--overwrite", is_flag=True, help="Replace OUT where it is there already.")
def export(reference: str, out: Path, form: str, overwrite: bool) -> None:
    """Write a completion network as a program that runs without this package, its weights inside.

    REF is a file of weights, a run, or a name that 'glcic weights list' shows. The program takes
    image [b, 4h, 4w, 3] and mask [b, 4h, 4w, 1], both float32 in [0, 1], 1 in the hole, for any b, h and w, and
    gives the completed image.
    """
    _check_free(out, overwrite, "--overwrite")
    from glcic_jax.weights.export import EXPORTERS
    from glcic_jax.weights.store import find_weights

    found = find_weights(reference)
    how_to_run = EXPORTERS[form](found.weights, out)
    _show([("written", str(out)), ("weights", found.name), ("size", _megabytes(out.stat().st_size))])
    click.echo(f"\n{how_to_run}")


def _check_free(path: Path, replacing: bool, option: str) -> None:
    if path.is_dir():
        raise DataError(f"{printable(str(path))} is a directory: name a file in it")
    if path.exists() and not replacing:
        raise DataError(f"{printable(str(path))} is there already: name another file, or replace it with {option}")


def _check_source(file: Path, sha256: str | None) -> None:
    from glcic_jax.weights.checked_files import file_sha256

    name = printable(str(file))
    if not file.is_file():
        raise DataError(f"{name}: {'not a file' if file.exists() else 'no such file'}: give a file of weights")
    if sha256 is not None and (found := file_sha256(file)) != sha256:
        raise WeightsError(
            f"{name}: its sha256 is {found}, not {sha256}: it is damaged or another file; download it again"
        )


def _facts(chosen: "Weights") -> list[tuple[str, str]]:
    import jax

    said: Description = chosen.description
    count = sum(leaf.size for leaf in jax.tree.leaves(chosen.variables["params"]))
    mean = ", ".join(f"{value:.4f}" for value in said.mean_pixel)
    smallest, largest = said.hole_sides
    return [
        ("network", f"{_kind(chosen.network)}, {_details(chosen.network)}"),
        ("parameters", f"{count:,}"),
        ("trained on", f"{said.image_size} px, holes of {smallest} to {largest} px"),
        ("input form", f"{said.input_form}, mean pixel {mean}"),
        ("origin", said.origin),
        ("licence", said.licence),
    ]


def _kind(network: "Network") -> str:
    from glcic_jax.model.networks import CompletionNetwork

    return "completion" if isinstance(network, CompletionNetwork) else "context discriminator"


def _details(network: "Network") -> str:
    shared = f"width {network.width:g}, {network.layer_order}"
    activation = getattr(network, "output_activation", None)
    if activation is not None:
        return f"{shared}, {activation}"
    return f"{shared}, branches {'+'.join(network.branches)}, local patch {network.local_size} px"


def _usage(network: "Network", reference: str) -> str:
    if _kind(network) == "completion":
        return f"glcic complete ... --weights {reference}"
    return "it judges images and completes none; 'glcic weights inspect' shows it"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _show(rows: Iterable[tuple[str, str]]) -> None:
    for title, text in rows:
        click.echo(f"{title:11} {printable(text)}")

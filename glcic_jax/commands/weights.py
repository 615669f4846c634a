"""The commands `glcic weights ...` and `glcic export`. JAX is imported inside them."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from glcic_jax.command_line import UserPath
from glcic_jax.errors import DataError, WeightsError, printable
from glcic_jax.files import sha256_of

if TYPE_CHECKING:
    from glcic_jax.weights import Weights

_FILE = UserPath()


class _MeanPixel(click.ParamType):
    name = "R,G,B"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[float, ...]:
        try:
            numbers = tuple(float(part) for part in str(value).split(","))
        except ValueError:
            numbers = ()
        if len(numbers) != 3 or not all(0.0 <= number <= 1.0 for number in numbers):
            self.fail(f"{value!r} is not three numbers in [0, 1], such as 0.485,0.456,0.406", param, ctx)
        return numbers


class _Sha256(click.ParamType):
    name = "HEX"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        text = str(value).strip().lower()
        if len(text) != 64 or set(text) - set("0123456789abcdef"):
            self.fail(f"{value!r} is not a sha256, which has 64 hexadecimal digits", param, ctx)
        return text


@click.group()
def weights() -> None:
    """Export, import and show trained networks."""


@weights.command("export")
@click.argument("run")
@click.argument("out", metavar="OUT.safetensors", type=_FILE)
@click.option("--step", type=click.IntRange(0), help="The checkpoint.  [default: the newest intact one]")
@click.option("--licence", help="The licence of the weights, in one line.")
@click.option("--origin", help="Where the weights come from, in one line.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="Dtype of the parameters; float16 halves the file.",
)
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")
def export_weights(
    run: str, out: Path, step: int | None, licence: str | None, origin: str | None, dtype: str, overwrite: bool
) -> None:
    """Write a run's network (the completion network, or the generator) to one portable file.

    RUN is the workdir of a run, one of its checkpoints, or anything else that --weights accepts.
    """
    from glcic_jax.training.workdir import run_at
    from glcic_jax.weights import find_network, save_weights
    from glcic_jax.weights.from_run import run_weights

    _check_free(out, overwrite, "--overwrite")
    if step is None:
        chosen = find_network(run).weights
    elif (found := run_at(run)) is None:
        raise DataError(f"{printable(run)}: --step needs the workdir of a run")
    elif found[1] not in (None, step):
        raise DataError(f"{printable(run)} is the checkpoint of step {found[1]}, and --step says {step}")
    else:
        chosen, _ = run_weights(found[0], step)
    texts: dict[str, Any] = {"licence": licence, "origin": origin}
    texts = {key: " ".join(text.split()) for key, text in texts.items() if text is not None}
    chosen = chosen._replace(description=dataclasses.replace(chosen.description, **texts))
    save_weights(chosen, out, dtype)
    _print_rows([("written", str(out)), *_facts(chosen), ("size", _megabytes(out))])


@weights.command("import")
@click.argument("file", type=_FILE)
@click.option("--name", help="Name in the store.  [default: derived from FILE]")
@click.option(
    "--mean-pixel", type=_MeanPixel(), help="Mean colour of the training set in [0, 1], if FILE lacks it."
)
@click.option("--sha256", type=_Sha256(), help="Expected sha256 of FILE; a different file is refused.")
@click.option("--replace", is_flag=True, help="Replace weights of that name.")
@click.option(
    "--output", metavar="OUT.safetensors", type=_FILE, help="Write this file instead of adding to the store."
)
def import_weights(
    file: Path,
    name: str | None,
    mean_pixel: tuple[float, float, float] | None,
    sha256: str | None,
    replace: bool,
    output: Path | None,
) -> None:
    """Import the authors' .t7, the .pth of PyTorch ports and MMagic, or an exported file."""
    from glcic_jax.weights import save_weights, store

    if output is not None and name is not None:
        raise DataError("--name is a name in the store, and --output writes a file instead: give one of them")
    name = name or store.name_for(file)
    if output is not None:
        _check_free(output, replace, "--replace")
    else:
        store.check_name(name)
    shown = printable(str(file))
    if not file.is_file():
        raise DataError(f"{shown}: {'not a file' if file.exists() else 'no such file'}: give a file of weights")
    if sha256 is not None and (found := sha256_of(file)) != sha256:
        raise WeightsError(
            f"{shown}: its sha256 is {found}, not {sha256}: damaged or another file; download it again"
        )
    chosen = store.read_file(file, mean_pixel)
    if output is None:
        path, reference = store.add(chosen, name, replace=replace), name
    else:
        save_weights(chosen, output)
        path, reference = output, str(output)
    usage = f"glcic complete ... --weights {reference}"
    if (kind := _kind(chosen.network)) != "completion":
        verb = "glcic generate" if kind.endswith("generator") else "glcic weights inspect"
        usage = f"not for completion: '{verb} {reference}'"
    rows = [("imported", reference), ("file", str(path)), *_facts(chosen), ("size", _megabytes(path))]
    _print_rows([*rows, ("use it", usage)])


@weights.command("inspect")
@click.argument("reference", metavar="REF")
def inspect_weights(reference: str) -> None:
    """Show network, training, origin, licence and checksums of weights.

    REF is a file (ours or another implementation's), a run, one of its checkpoints, or a name that 'glcic weights
    list' shows.
    """
    from glcic_jax.weights import arrays_sha256, find_network

    found = find_network(reference)
    rows = [("weights", found.name), ("from", str(found.path)), *_facts(found.weights)]
    if found.path.is_file():
        rows += [("size", _megabytes(found.path)), ("sha256", sha256_of(found.path))]
    _print_rows([*rows, ("arrays", f"sha256 {arrays_sha256(found.weights)}")])


@weights.command("list")
def list_weights() -> None:
    """List the built-in and the stored weights."""
    from glcic_jax.weights.store import built_in_entries, stored

    entries = built_in_entries() + stored()
    table = [("name", "network", "size", "trained on", "licence")]
    for entry in entries:
        size = _megabytes(entry.path) if entry.path.is_file() else ""  # A broken link has none.
        if entry.summary is None:
            table.append((entry.name, "damaged", size, "", ""))
        else:
            kind, image_size, licence = entry.summary
            table.append((entry.name, kind.replace("_", " "), size, f"{image_size} px", licence))
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
@click.option("--format", "form", type=click.Choice(["stablehlo"]), required=True, help="The format of OUT.")
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")
def export(reference: str, out: Path, form: str, overwrite: bool) -> None:
    """Write a completion network as a program that runs without this package.

    REF is a file of weights, a run, or a name that 'glcic weights list' shows. The program contains the weights,
    takes image [b, 4h, 4w, 3] and mask [b, 4h, 4w, 1], both float32 in [0, 1], 1 in the hole, for any b, h and w,
    and returns the completed image.
    """
    _check_free(out, overwrite, "--overwrite")
    from glcic_jax.weights import find_weights
    from glcic_jax.weights.export import EXPORTERS

    found = find_weights(reference)
    usage = EXPORTERS[form](found.weights, out)
    _print_rows([("written", str(out)), ("weights", found.name), ("size", _megabytes(out))])
    click.echo(f"\n{usage}")


def _check_free(path: Path, overwrite: bool, option: str) -> None:
    if path.is_dir():
        raise DataError(f"{printable(str(path))} is a directory: name a file in it")
    if path.exists() and not overwrite:
        raise DataError(f"{printable(str(path))} exists: name another file, or give {option}")


def _facts(chosen: "Weights") -> list[tuple[str, str]]:
    import jax

    network, variables, description = chosen
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    return [
        ("network", f"{_kind(network)}, width {network.width:g}{_details(network)}"),
        ("parameters", f"{count:,}"),
        *_training_facts(description),
        ("origin", description.origin),
        ("licence", description.licence),
    ]


def _details(network: Any) -> str:
    """Returns the fields of a network, other than its width, that its kind has."""
    formats = {
        "layer_order": "{}",
        "output_activation": "{}",
        "branches": "branches {}",
        "local_size": "local patch {} px",
        "image_size": "images of {} px",
        "latent_size": "{} latents",
    }
    values = {name: getattr(network, name, None) for name in formats}
    texts = {name: "+".join(value) if isinstance(value, tuple) else value for name, value in values.items()}
    return "".join(f", {form.format(texts[name])}" for name, form in formats.items() if texts[name] is not None)


def _training_facts(description: Any) -> list[tuple[str, str]]:
    """Returns what a completion network's or a discriminator's description says; nothing for a generator."""
    from glcic_jax.weights import Description

    if not isinstance(description, Description):
        return []
    mean = ", ".join(f"{value:.4f}" for value in description.mean_pixel)
    smallest, largest = description.hole_sides
    return [
        ("trained on", f"{description.image_size} px, holes of {smallest} to {largest} px"),
        ("input form", f"{description.input_form}, mean pixel {mean}"),
    ]


def _kind(network: Any) -> str:
    from glcic_jax.weights import kind_of

    return kind_of(network).replace("_", " ")


def _megabytes(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB"


def _print_rows(rows: Iterable[tuple[str, str]]) -> None:
    for title, text in rows:
        click.echo(f"{title:11} {printable(text)}")

"""The command `glcic complete`. JAX is imported inside its functions."""

import dataclasses
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from glcic_jax.command_line import keep_interrupts
from glcic_jax.errors import DataError, printable
from glcic_jax.files import example_photographs

if TYPE_CHECKING:
    from glcic_jax.completion import Completer, Settings
    from glcic_jax.pictures import ChooseHole, Hole, MaskSettings, Picture

_STREAM = "-"  # Standard input or output.
# A photograph in scikit-image's wheel, and the box in it, in pixels, of the lightning tower left of the rocket.
_EXAMPLE = "rocket.jpg"
_EXAMPLE_HOLE = (slice(118, 375), slice(170, 212))


@click.command()
@click.argument("paths", nargs=-1, metavar="IMAGE [MASK] [OUT]")
@click.option("-o", "--output", help="Output file, or output folder for a folder of images.")
@click.option(
    "--mask", metavar="alpha|FILE", help="The mask file; alpha: IMAGE's transparent pixels are the hole."
)
@click.option("--random-mask", is_flag=True, help="Draw a random hole, to try out the weights.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of --random-mask.")
@click.option("--example", is_flag=True, help="Complete a photograph that comes with the package.")
@click.option("--invert-mask", is_flag=True, help="Black marks the hole.")
@click.option("--grow", type=click.IntRange(0, 10_000), default=0, help="Grow the hole by this many pixels.")
@click.option("--allow-empty", is_flag=True, help="Accept a hole that is empty or the whole image.")
@click.option("--fit-mask", is_flag=True, help="Stretch a mask whose aspect ratio differs.")
@click.option(
    "--weights",
    help="A file, a run, or a name from 'glcic weights list'.  [default: $GLCIC_WEIGHTS, else photos]",
)
@click.option("--device", help="cpu, gpu, gpu:1 ...  [default: JAX's first]")
@click.option(
    "--strategy",
    type=click.Choice(["auto", "original", "resize", "crop"]),
    default="auto",
    show_default=True,
    help="What the network sees: the whole image, the whole image downscaled, or windows around the holes.",
)
@click.option("--max-side", type=int, help="Longest side of the network's input.  [default: 600]")
@click.option(
    "--blend",
    type=click.Choice(["auto", "on", "off"]),
    default="auto",
    show_default=True,
    help="Blend the fill into its surroundings (fast marching, then Poisson); auto: where the hole is thick.",
)
@click.option("--format", "file_format", help="png, jpeg, webp, tiff ...  [default: OUT's suffix, else as IMAGE]")
@click.option("--quality", type=click.IntRange(1, 100), help="Quality of lossy formats.  [default: 95]")
@click.option("--max-pixels", type=click.IntRange(1), help="Refuse larger images.  [default: 178956970]")
@click.option("--save-comparison", "comparison", is_flag=True, help="Also write input | raw output | completed.")
@click.option("--drop-exif", is_flag=True, help="Leave out EXIF, XMP, IPTC and texts: place, time, camera.")
@click.option("--overwrite", is_flag=True, help="Replace existing files.")
def complete(paths: tuple[str, ...], **options: Any) -> None:
    """Fill the hole of an image, or of every image in a folder.

    White in MASK marks the hole. All other pixels stay the same, bit for bit; lossy formats such as JPEG change
    them a little when they are written again.

    \b
    glcic complete --example                     needs no file, writes example_completed.jpg
    glcic complete photo.jpg mask.png            writes photo_completed.jpg
    glcic complete photo.jpg mask.png out.png
    glcic complete - mask.png - <in.png >out.png
    glcic complete cutout.png --mask alpha
    glcic complete DIR MASK -o OUT_DIR           one mask for all
    glcic complete DIR MASK_DIR -o OUT_DIR       masks named NAME or NAME_mask001

    For a folder, results that exist are skipped, and failures are listed in OUT_DIR/failures.csv. Exit codes: 1 if
    images of a folder failed, 2 for bad input, 3 if --weights cannot be used, 4 if there is too little memory.
    """  # noqa: D301 - click reads the \\b.
    from glcic_jax.completion import Settings

    if not paths and not options["example"]:
        raise click.UsageError("name an IMAGE and a MASK, or give --example")
    keys = ("output", "mask", "random_mask", "comparison", "example")
    request = _parse(paths, **{key: options[key] for key in keys})
    names = [field.name for field in dataclasses.fields(Settings)]
    settings = Settings(**{name: options[name] for name in names if options[name] is not None})
    if not request.example and os.path.isdir(request.image):
        sys.exit(_complete_folder(request, settings, options))
    _complete_one(request, settings, options)


class _Request(NamedTuple):
    """The arguments: files, folders or "-".

    Attributes:
      image: The image, or a folder of images.
      mask: The mask, or a folder of masks; None if the hole does not come from a file.
      output: The result, or a folder of results; None: beside the image.
      example: Whether image and hole are those of the example.
    """

    image: str
    mask: str | None
    output: str | None
    example: bool


def _parse(
    paths: tuple[str, ...],
    output: str | None,
    mask: str | None,
    random_mask: bool,
    comparison: bool,
    example: bool,
) -> _Request:
    """Assigns IMAGE [MASK] [OUT]; raises UsageError if they are ambiguous or incomplete."""
    if "" in (*paths, output, mask):
        raise click.UsageError("a file name is empty: is a shell variable not set?")
    if example:
        if mask is not None or random_mask:
            raise click.UsageError("--example has a mask of its own: omit --mask and --random-mask")
        paths = (_EXAMPLE, *paths)
    # Shells leave ~ in --option=~/file.
    image, *rest = map(os.path.expanduser, paths)
    mask, output = (name and os.path.expanduser(name) for name in (mask, output))
    if mask is not None and random_mask:
        raise click.UsageError("give --mask or --random-mask, not both")
    if mask is None and not random_mask and not example:
        if not rest:
            raise click.UsageError("name a MASK, or give --mask alpha or --random-mask")
        mask = rest.pop(0)
    elif mask == "alpha":
        mask = None
    if rest and output is not None:
        raise click.UsageError(f"OUT is given twice: {rest[0]} and --output {output}")
    output = rest.pop(0) if rest else output
    if rest:
        raise click.UsageError(f"too many arguments: {' '.join(rest)}")
    if image == _STREAM and mask == _STREAM:
        raise click.UsageError("IMAGE and MASK cannot both be standard input")
    if image == _STREAM and output is None:
        output = _STREAM
    if output == _STREAM and comparison:
        raise click.UsageError("--save-comparison writes beside OUT, which is standard output: name a file")
    return _Request(image, mask, output, example)


def _complete_one(request: _Request, settings: "Settings", options: dict[str, Any]) -> None:
    from glcic_jax.completion import CompletionJob, read_input

    image, mask, output, example = request
    if output is not None and output.endswith(("/", os.sep)):
        raise DataError(f"{printable(output)}: is a folder: name a file in it")
    path = Path("example.jpg" if example else image)
    job = CompletionJob.create(
        read_input(_example() if example else _source(image), _name(image), settings),
        _chooser(mask, settings, options),
        settings,
        output=None if output in (None, _STREAM) else Path(str(output)),
        default_output=path.with_name(f"{path.stem}_completed{path.suffix}") if output is None else None,
    )
    content = job.run(_load(options), _log, warn=lambda line: _log(f"warning: {line}"))
    if job.output is None:
        try:
            sys.stdout.buffer.write(content)
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise DataError(f"standard output: cannot be written ({error.strerror})") from error
    else:
        _log(f"{printable(str(job.output))} written")


def _complete_folder(request: _Request, settings: "Settings", options: dict[str, Any]) -> int:
    """Returns the exit code."""
    from glcic_jax.completion import FAILURES, complete_folder, pair_files

    image, mask, output, _ = request
    if output in (None, _STREAM):
        raise click.UsageError("IMAGE is a folder: name the folder for the results with -o OUT_DIR")
    if mask == _STREAM:
        raise click.UsageError("IMAGE is a folder: name a mask or a folder of masks")
    directory = Path(str(output))

    with keep_interrupts() as check:

        def choose(mask: Path | None) -> "ChooseHole":
            check()  # Before each image.
            return _chooser(None if mask is None else str(mask), settings, options)

        pairing = pair_files(Path(image), None if mask is None else Path(mask), directory)
        result = complete_folder(lambda: _load(options), pairing, choose, directory, settings, _log)
    _log(f"{result.completed} completed, {result.skipped} skipped (results exist), {result.failed} failed")
    if result.failed:
        _log(f"failures are listed in {printable(str(directory / FAILURES))}")
    return 1 if result.failed else 0


def _load(options: dict[str, Any]) -> "Completer":
    from glcic_jax.completion import Completer

    return Completer.load(options["weights"], options["device"])


def _chooser(mask: str | None, settings: "Settings", options: dict[str, Any]) -> "ChooseHole":
    """Returns a function from an image to its hole."""
    from glcic_jax.pictures import (
        MaskSettings,
        coverage_note,
        hole_at_random,
        hole_of_alpha,
        hole_of_file,
        silence_decoders,
    )

    given = MaskSettings(options["invert_mask"], options["fit_mask"], options["grow"], settings.max_pixels)
    if options["example"]:
        choose = _hole_of_example(given)
    elif options["random_mask"]:
        choose = hole_at_random(options["seed"], given)
    elif mask is None:
        choose = hole_of_alpha(given)
    else:
        choose = hole_of_file(_source(mask), _name(mask), given)

    def choose_checked(picture: "Picture") -> "tuple[Picture, Hole]":
        with silence_decoders():
            picture, hole = choose(picture)
        if not options["allow_empty"] and (hole.hole.all() or not hole.hole.any()):
            where = "the transparency" if mask is None else printable(_name(mask))
            reasons = "; ".join((*hole.warnings, coverage_note(hole.hole)))
            raise DataError(f"{where}: {reasons}: give another mask, or --allow-empty to go on")
        return picture, hole

    return choose_checked


def _hole_of_example(given: "MaskSettings") -> "ChooseHole":
    import numpy as np

    from glcic_jax.pictures import Hole, apply_settings

    def choose(picture: "Picture") -> "tuple[Picture, Hole]":
        hole = np.zeros(picture.pixels.shape[:2], bool)
        hole[_EXAMPLE_HOLE] = True
        return picture, apply_settings(Hole(hole, ()), given)

    return choose


def _example() -> bytes:
    _log(f"the example is {_EXAMPLE} of scikit-image, of SpaceX, in the public domain; the hole hides a tower")
    return (example_photographs() / _EXAMPLE).read_bytes()


def _source(path: str) -> Path | bytes:
    return sys.stdin.buffer.read() if path == _STREAM else Path(path)


def _name(path: str) -> str:
    return "standard input" if path == _STREAM else path


def _log(line: str) -> None:
    click.echo(line, err=True)

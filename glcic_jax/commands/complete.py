"""`glcic complete`: what its arguments mean. JAX is imported when there is something to do."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from glcic_jax.errors import printable

if TYPE_CHECKING:
    from glcic_jax.completion.completer import Completer
    from glcic_jax.completion.files import Settings
    from glcic_jax.pictures.mask_files import ChooseHole, Hole
    from glcic_jax.pictures.picture import Picture

_STREAM = "-"  # Standard input or output.
_OF_THE_FILL = ("strategy", "max_side", "blend")
_SETTINGS = (*_OF_THE_FILL, "file_format", "quality", "max_pixels", "comparison", "overwrite", "drop_exif")


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="IMAGE [MASK] [OUT]")
@click.option("-o", "--output", help="Where to write: a file, or for a folder of images a folder.")
@click.option("--mask", metavar="alpha|FILE", help="alpha: what is transparent in IMAGE is the hole.")
@click.option("--random-mask", is_flag=True, help="Draw a hole, to try the weights.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of --random-mask.")
@click.option("--invert-mask", is_flag=True, help="Black is the hole.")
@click.option("--grow", type=click.IntRange(0, 10_000), default=0, help="Grow the hole by so many pixels.")
@click.option("--fit-mask", is_flag=True, help="Stretch a mask of another aspect ratio.")
@click.option(
    "--weights",
    help="A file, a run, or a name that 'glcic weights list' shows.  [default: $GLCIC_WEIGHTS, else photos]",
)
@click.option("--device", help="cpu, gpu, gpu:1 ...  [default: JAX's first]")
@click.option(
    "--strategy",
    type=click.Choice(["auto", "original", "resize", "crop"]),
    default="auto",
    show_default=True,
    help="What the network sees: the whole image, that reduced, or windows around the holes.",
)
@click.option("--max-side", type=int, help="Longest side that the network is run on at once.  [default: 600]")
@click.option("--blend", is_flag=True, help="Fit the fill to its surroundings: fast marching, then Poisson.")
@click.option("--format", "file_format", help="png, jpeg, webp, tiff ...  [default: OUT's suffix, or as IMAGE]")
@click.option("--quality", type=click.IntRange(1, 100), help="Of JPEG and WebP.  [default: 95]")
@click.option("--max-pixels", type=click.IntRange(1), help="Refuse larger images.  [default: 178956970]")
@click.option("--save-comparison", "comparison", is_flag=True, help="Write input | raw output | completed, too.")
@click.option("--drop-exif", is_flag=True, help="Leave out the EXIF block: place, time, camera.")
@click.option("--overwrite", is_flag=True, help="Replace files that are there.")
def complete(paths: tuple[str, ...], **options: Any) -> None:
    """Fill the hole of an image, or of every image in a folder.

    What is white in MASK is the hole. The rest of the image stays as it is, bit for bit; JPEG and other lossy
    formats change it a little when they are written again.

    \b
    glcic complete photo.jpg mask.png            writes photo_completed.jpg
    glcic complete photo.jpg mask.png out.png
    glcic complete - mask.png - <in.png >out.png
    glcic complete cutout.png --mask alpha
    glcic complete DIR MASK -o OUT_DIR           one mask for all
    glcic complete DIR MASK_DIR -o OUT_DIR       masks named NAME or NAME_mask001

    In a folder, what is in OUT_DIR already is skipped, and what fails is listed in OUT_DIR/failures.csv. Exits
    with 1 where images of a folder failed, 2 for bad input, 3 where --weights cannot be used, 4 without enough
    memory.
    """  # noqa: D301 - click reads the \\b.
    from glcic_jax.completion.files import Settings

    request = _Request.of(paths, **{key: options[key] for key in ("output", "mask", "random_mask", "comparison")})
    given = {key: options[key] for key in _SETTINGS if options[key] is not None}
    settings = Settings(**given)
    if _is_directory(request.image):
        sys.exit(_complete_folder(request, settings, options))
    _complete_one(request, settings, options)


class _Request(NamedTuple):
    """What the arguments name.

    Attributes:
      image: A file, a folder, or "-".
      mask: A file, a folder or "-"; None where the hole does not come from a file.
      output: A file, a folder, or "-"; None: beside the image.
    """

    image: str
    mask: str | None
    output: str | None

    @classmethod
    def of(
        cls, paths: tuple[str, ...], output: str | None, mask: str | None, random_mask: bool, comparison: bool
    ) -> "_Request":
        """Raises UsageError where the arguments do not say what to do."""
        if "" in (*paths, output, mask):
            raise click.UsageError("a name is empty: is a variable of the shell not set?")
        image, *rest = paths
        if mask is not None and random_mask:
            raise click.UsageError("give --mask or --random-mask, not both")
        if mask is None and not random_mask:
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
        return cls(image, mask, output)


def _is_directory(path: str) -> bool:
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):  # Too long a name, or a null byte in it: reading says so.
        return False


def _complete_one(request: _Request, settings: "Settings", options: dict[str, Any]) -> None:
    from glcic_jax.completion.files import check_free, complete_file, read
    from glcic_jax.pictures.picture import format_for, suffix_for

    name = "standard input" if request.image == _STREAM else request.image
    picture = read(_source(request.image), name, settings)
    output = None if request.output in (None, _STREAM) else Path(str(request.output))
    if request.output is None:
        image = Path(request.image)
        suffix = suffix_for(format_for(None, picture, settings.file_format), image)
        output = image.with_name(f"{image.stem}_completed{suffix}")
    if output is not None:
        check_free(output, settings)
    choose = _chooser(request.mask, settings, options)
    content = complete_file(lambda: _load(options), picture, choose, output, settings, _tell)
    if output is None:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    else:
        _tell(f"{printable(str(output))} written")


def _complete_folder(request: _Request, settings: "Settings", options: dict[str, Any]) -> int:
    """Returns the exit code."""
    from glcic_jax.completion.files import FAILURES, complete_folder
    from glcic_jax.completion.pairing import pair

    if request.output in (None, _STREAM):
        raise click.UsageError("IMAGE is a folder: name the folder for the results, as -o OUT_DIR")
    if request.mask == _STREAM:
        raise click.UsageError("IMAGE is a folder: name a mask or a folder of masks")
    directory = Path(str(request.output))
    pairs = pair(Path(request.image), None if request.mask is None else Path(request.mask), directory)

    def load() -> "Completer":
        completer = _load(options)
        _tell(f"weights: {completer.name}")
        return completer

    def choose(mask: Path | None) -> "ChooseHole":
        return _chooser(None if mask is None else str(mask), settings, options)

    done = complete_folder(load, pairs, choose, directory, settings, _tell)
    _tell(f"{done.completed} completed, {done.skipped} already there, {done.failed} failed")
    if done.failed:
        _tell(f"what failed is in {printable(str(directory / FAILURES))}")
    return 1 if done.failed else 0


def _load(options: dict[str, Any]) -> "Completer":
    from glcic_jax.completion.completer import Completer

    return Completer.load(options["weights"], options["device"])


def _chooser(mask: str | None, settings: "Settings", options: dict[str, Any]) -> "ChooseHole":
    """From a picture to its hole, as the options say."""
    from glcic_jax.pictures.mask_files import MaskSettings, hole_at_random, hole_of_alpha, hole_of_file
    from glcic_jax.pictures.rgb_files import silence_decoders

    given = MaskSettings(options["invert_mask"], options["fit_mask"], options["grow"], settings.max_pixels)

    def from_file(picture: "Picture") -> "tuple[Picture, Hole]":
        name = "standard input" if mask == _STREAM else str(mask)
        choose = hole_of_file(_source(str(mask)), name, given)
        with silence_decoders():
            return choose(picture)

    if mask is not None:
        return from_file
    return hole_at_random(options["seed"], given) if options["random_mask"] else hole_of_alpha(given)


def _source(path: str) -> Path | bytes:
    return sys.stdin.buffer.read() if path == _STREAM else Path(path)


def _tell(line: str) -> None:
    click.echo(line, err=True)

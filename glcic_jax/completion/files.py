"""Completing picture files: one, or all of a folder."""

import contextlib
import csv
import dataclasses
import functools
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from glcic_jax.completion.completer import Completer, RawPicture
from glcic_jax.completion.pairing import Failure, Job, Pairs
from glcic_jax.completion.windows import MAX_SIDE, Plan, Window
from glcic_jax.errors import ConfigError, DataError, UserError, WeightsError, printable
from glcic_jax.files import check_writable, write_atomically
from glcic_jax.pictures.mask_files import ChooseHole, coverage_note
from glcic_jax.pictures.picture import (
    MAX_PIXELS,
    Picture,
    encode_picture,
    fitted,
    format_for,
    format_named,
    read_picture,
    suffix_for,
)
from glcic_jax.pictures.rgb_files import silence_decoders
from glcic_jax.progress import Progress
from glcic_jax.runtime import enough_memory_for

FAILURES = "failures.csv"

Load = Callable[[], Completer]
Tell = Callable[[str], None]
OnWindow = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Settings:
    """How pictures are read, completed and written.

    Attributes:
      strategy, max_side, blend: As in `Completer.fill`.
      file_format: As `asked` in `pictures.format_for`.
      quality: Of lossy formats, 1 to 100.
      max_pixels: Larger pictures and masks are not decoded.
      comparison: Whether input, raw output and completed picture are written side by side, too.
      overwrite: Whether files that are there are replaced.
      drop_exif: Whether the result goes without the picture's EXIF block, with place, time and camera.
    """

    strategy: str = "auto"
    max_side: int = MAX_SIDE
    blend: bool = False
    file_format: str | None = None
    quality: int = 95
    max_pixels: int = MAX_PIXELS
    comparison: bool = False
    overwrite: bool = False
    drop_exif: bool = False


class Done(NamedTuple):
    """What came of a folder: how many pictures were completed, were there already, and failed."""

    completed: int
    skipped: int
    failed: int


def complete_file(
    load: Load,
    picture: Picture,
    choose_hole: ChooseHole,
    output: Path | None,
    settings: Settings,
    tell: Tell,
    on_window: OnWindow | None = None,
) -> bytes:
    """Completes one picture.

    Args:
      load: Gives the completer; called when all else is known to be in order.
      picture: As `read_picture` gives it.
      choose_hole: Gives the hole.
      output: Where to write; None: nowhere, the bytes are returned alone.
      settings: How.
      tell: Takes lines about what was noticed and done.
      on_window: Called after each run of the network with how many are done and how many there are, instead of
        telling that; what it raises ends the work.

    Returns:
      The completed picture's file.

    Raises:
      UserError: The input cannot be used, or the output not be written.
    """
    picture, hole = choose_hole(picture)
    if settings.drop_exif:
        picture = dataclasses.replace(picture, exif=b"")
    file_format = format_for(output, picture, settings.file_format)
    if output is not None:
        check_free(output, settings)
    completer = load()  # What is wrong is told alone, without notes before it.
    for note in (*fitted(picture, file_format).notes, *hole.notes, *coverage_note(hole.hole)):
        tell(note)
    if picture.alpha is not None and not picture.alpha[hole.hole].all():
        tell("the picture is transparent in the hole, and stays so: --mask alpha makes it opaque there")
    tell(f"weights: {completer.name}")
    content, comparison = _complete(completer, picture, hole.hole, file_format, settings, tell, on_window)
    if output is not None:
        write_atomically(output, content)
    if output is not None and comparison is not None:
        write_atomically(
            comparison_path(output), _encoded(comparison, comparison_path(output), file_format, settings)
        )
    return content


def read(source: Path | bytes, name: str, settings: Settings) -> Picture:
    """Reads a picture, which errors call by a name; see `pictures.read_picture`."""
    with enough_memory_for(f"reading {name}"), silence_decoders():
        return read_picture(source, name, settings.max_pixels)


def check_free(output: Path, settings: Settings) -> None:
    """Asks before the work whether its results can be written.

    Raises:
      DataError: They cannot, or are there already and not to be replaced.
    """
    for path in (output, comparison_path(output)) if settings.comparison else (output,):
        check_writable(path)
        if not settings.overwrite and os.path.lexists(path):
            raise DataError(f"{printable(str(path))} is there already: name another file, or give --overwrite")


def complete_folder(
    load: Load,
    pairs: Pairs,
    choose_hole: Callable[[Path | None], ChooseHole],
    directory: Path,
    settings: Settings,
    tell: Tell,
) -> Done:
    """Completes the pictures of a folder one after the other; goes on after those that cannot be.

    What failed is listed in `failures.csv` in the output's directory; where nothing did, no such file is there.

    Args:
      load: Gives the completer; called once, when there is something to complete.
      pairs: Which pictures with which masks, and what is left over.
      choose_hole: From a job's mask to what `complete_file` takes.
      directory: Where to write.
      settings: How.
      tell: Takes lines.

    Raises:
      WeightsError: There are no weights.
      ConfigError: The settings are of no use to any picture.
      DataError: The directory cannot be written, or nothing in the format.
    """
    check_writable(directory / FAILURES)
    if settings.file_format is not None:
        format_named(settings.file_format)  # One that nothing is written in is no fault of a picture.
    load = functools.cache(load)
    if settings.comparison:
        pairs = _distinct_from_comparisons(pairs)
    failures = [(str(failure.file), failure.reason) for failure in pairs.failures]
    completed = skipped = 0
    with Progress("completing", len(pairs.jobs), tell, unit="pictures") as progress:
        for job in pairs.jobs:
            try:
                if _complete_job(load, job, choose_hole(job.mask), directory, settings):
                    completed += 1
                else:
                    skipped += 1
            except (WeightsError, ConfigError):
                raise  # It would be the same with every picture.
            except UserError as error:
                failures.append((str(job.image), str(error)))
                check_writable(directory / FAILURES)
            progress.advance()
    _write_failures(directory / FAILURES, failures)
    return Done(completed, skipped, len(failures))


def comparison_path(output: Path) -> Path:
    """Where the comparison of an output goes: beside it."""
    return output.with_name(f"{output.stem}_comparison{output.suffix}")


def _distinct_from_comparisons(pairs: Pairs) -> Pairs:
    """Takes out the pictures whose results would have the name of another's comparison."""
    taken = {f"{job.stem}_comparison": job.image for job in pairs.jobs}
    clashes = [
        Failure(
            printable(str(job.image)), f"its result would have the name of {taken[job.stem].name}'s comparison"
        )
        for job in pairs.jobs
        if job.stem in taken
    ]
    return Pairs([job for job in pairs.jobs if job.stem not in taken], [*pairs.failures, *clashes])


def _complete_job(load: Load, job: Job, choose_hole: ChooseHole, directory: Path, settings: Settings) -> bool:
    """Completes one picture of a folder; returns whether there was something to do."""

    def output(file_format: str | None) -> Path:
        return directory / f"{job.stem}{suffix_for(file_format, job.image) if file_format else job.image.suffix}"

    # Most of what is there already is found without reading anything.
    if not settings.overwrite and output(settings.file_format and format_named(settings.file_format)).exists():
        return False
    picture = read(job.image, printable(str(job.image)), settings)
    path = output(format_for(None, picture, settings.file_format))
    if not settings.overwrite and path.exists():
        return False
    complete_file(
        load, picture, choose_hole, path, dataclasses.replace(settings, overwrite=True), lambda line: None
    )
    return True


def _complete(
    completer: Completer,
    picture: Picture,
    hole: np.ndarray,
    file_format: str,
    settings: Settings,
    tell: Tell,
    on_window: OnWindow | None,
) -> tuple[bytes, Picture | None]:
    """Returns the completed picture's file, and the comparison where one is wanted."""
    raw = RawPicture(picture.pixels) if settings.comparison else None
    with contextlib.ExitStack() as stack:
        count = done = 0
        bar: Progress | None = None

        def on_plan(plan: Plan) -> None:
            nonlocal count, bar
            count = len(plan.windows)
            tell(f"{plan.strategy}: {plan.reason}")
            if count > 1 and on_window is None:
                bar = stack.enter_context(Progress("completing", count, tell, unit="windows"))

        def on_output(window: Window, output: np.ndarray) -> None:
            nonlocal done
            done += 1
            if raw is not None:
                raw(window, output)
            if bar is not None:
                bar.advance()
            if on_window is not None:
                on_window(done, count)

        filling = completer.fill(
            picture.pixels,
            hole,
            strategy=settings.strategy,
            max_side=settings.max_side,
            blend=settings.blend,
            on_plan=on_plan,
            on_output=on_output,
        )
    content = _encoded(dataclasses.replace(picture, pixels=filling.pixels), None, file_format, settings)
    if raw is None:
        return content, None
    shown = picture.pixels.copy()
    shown[hole] = np.iinfo(shown.dtype).max
    together = np.concatenate([shown, raw.pixels, filling.pixels], axis=1)
    return content, dataclasses.replace(picture, pixels=together)


def _encoded(picture: Picture, path: Path | None, file_format: str, settings: Settings) -> bytes:
    with enough_memory_for(f"writing a picture of {picture.size[0]} x {picture.size[1]} px"):
        try:
            return encode_picture(picture, file_format, settings.quality)
        except DataError as error:
            name = "picture" if path is None else printable(str(path))
            raise DataError(f"{name}: {str(error).removeprefix('picture: ')}") from error


def _write_failures(path: Path, failures: list[tuple[str, str]]) -> None:
    if not failures:
        path.unlink(missing_ok=True)
        return
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows(
        [("file", "error"), *((printable(file), error) for file, error in failures)]
    )
    write_atomically(path, table.getvalue())

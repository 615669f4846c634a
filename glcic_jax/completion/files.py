"""Completes one image file, or all of a folder."""

import csv
import dataclasses
import functools
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from glcic_jax.completion.pairing import Failure, Pair, Pairing
from glcic_jax.completion.windows import MAX_SIDE
from glcic_jax.errors import ConfigError, DataError, UserError, WeightsError, printable
from glcic_jax.files import check_writable, write_atomically
from glcic_jax.pictures import (
    MAX_PIXELS,
    ChooseHole,
    Hole,
    Picture,
    check_sides,
    coverage_note,
    coverage_warning,
    encode_picture,
    fitted,
    format_for,
    format_named,
    read_picture,
    silence_decoders,
    suffix_for,
    without_metadata,
)
from glcic_jax.progress import Log, Progress
from glcic_jax.runtime import enough_memory_for

if TYPE_CHECKING:
    from glcic_jax.completion.completer import CompletedImage, Completer, OnWindow

FAILURES = "failures.csv"


@dataclasses.dataclass(frozen=True)
class Settings:
    """How images are read, completed and written.

    Attributes:
      strategy, max_side, blend: As in `Completer.fill`.
      file_format: Output format, such as "jpeg" or ".jpg"; None: from the output's suffix, or as the input.
      quality: Quality of lossy formats, 1 to 100.
      max_pixels: Larger images and masks are refused.
      comparison: Whether to write input | raw output | completed side by side too.
      overwrite: Whether to replace existing files.
      drop_exif: Whether to leave out EXIF, XMP, IPTC and texts, which may hold place, time and camera.
    """

    strategy: str = "auto"
    max_side: int = MAX_SIDE
    blend: str = "auto"
    file_format: str | None = None
    quality: int = 95
    max_pixels: int = MAX_PIXELS
    comparison: bool = False
    overwrite: bool = False
    drop_exif: bool = False


class FolderResult(NamedTuple):
    """Number of images of a folder that were completed, skipped because their results exist, and failed."""

    completed: int
    skipped: int
    failed: int


@dataclasses.dataclass(frozen=True)
class CompletionJob:
    """One image to complete, with its hole, output format and file decided by `create`.

    Attributes:
      picture: The image; opaque in the hole if its transparency is the hole.
      hole: The hole of the image.
      output: File to write; None: `run` only returns the encoded result.
      file_format: Format of the result, as Pillow names it.
      settings: How to complete and write.
    """

    picture: Picture
    hole: Hole
    output: Path | None
    file_format: str
    settings: Settings

    @classmethod
    def create(
        cls,
        picture: Picture,
        choose_hole: ChooseHole,
        settings: Settings,
        *,
        output: Path | None = None,
        default_output: Path | None = None,
    ) -> "CompletionJob":
        """Decides the format and the file of the result, then the hole.

        Args:
          picture: The image.
          choose_hole: Returns the image with its hole.
          settings: How to complete and write.
          output: File to write; its suffix decides the format.
          default_output: File to write if `output` is None; the format decides its suffix.

        Raises:
          DataError: The format is unknown or cannot hold the size, the output exists or cannot be written, or the
            mask cannot be used.
        """
        file_format = format_for(output, picture, settings.file_format)
        if output is None and default_output is not None:
            output = _with_suffix(default_output, file_format)
        if output is not None:
            for path in (output, _comparison_path(output)) if settings.comparison else (output,):
                check_writable(path)
                if not settings.overwrite and os.path.lexists(path):
                    raise DataError(f"{printable(str(path))} exists: name another file, or give --overwrite")
        width, height = picture.size
        check_sides((width, height), file_format, "the image")
        if settings.comparison:
            check_sides((3 * width, height), file_format, "the comparison")
        if settings.drop_exif:
            picture = without_metadata(picture)
        return cls(*choose_hole(picture), output, file_format, settings)

    @property
    def notes(self) -> list[str]:
        """What is changed in the image and the mask; one line each."""
        return [*fitted(self.picture, self.file_format).notes, *self.hole.notes]

    @property
    def warnings(self) -> list[str]:
        """What looks like a mistake in the mask and in the hole; one line each."""
        hole, alpha = self.hole.hole, self.picture.alpha
        warnings = [*self.hole.warnings]
        if (warning := coverage_warning(hole)) is not None:
            warnings.append(warning)
        if alpha is not None and not alpha[hole].all():
            warnings.append(
                "the image is transparent in the hole and stays so: --mask=alpha makes it opaque there"
            )
        return warnings

    def run(
        self,
        completer: "Completer",
        log: Log,
        on_window: "OnWindow | None" = None,
        *,
        warn: Log | None = None,
    ) -> bytes:
        """Completes the image, writes the output and returns it encoded.

        Args:
          completer: The network.
          log: Receives notes on the input and the strategy, one line each.
          on_window: As in `Completer.fill`; replaces the progress bar.
          warn: Receives the warnings; None: `log`.

        Raises:
          UserError: The image cannot be completed, or the output cannot be written.
        """
        picture, hole = self.picture, self.hole.hole
        for note in self.notes:
            log(note)
        for warning in self.warnings:
            (warn or log)(warning)
        if coverage_warning(hole) is None:
            log(coverage_note(hole))
        log(f"weights: {completer.name}")
        result = self._fill(completer, log, on_window)
        content = self._encode(dataclasses.replace(picture, pixels=result.pixels), "image")
        if self.output is not None:
            write_atomically(self.output, content)
            if result.raw is not None:
                masked = picture.pixels.copy()
                masked[hole] = np.iinfo(masked.dtype).max
                side_by_side = np.concatenate([masked, result.raw, result.pixels], axis=1)
                path = _comparison_path(self.output)
                encoded = self._encode(dataclasses.replace(picture, pixels=side_by_side), printable(str(path)))
                write_atomically(path, encoded)
        return content

    def _fill(self, completer: "Completer", log: Log, on_window: "OnWindow | None") -> "CompletedImage":
        hole = self.hole.hole
        plan = completer.plan(hole, self.settings.strategy, self.settings.max_side)
        log(f"{plan.strategy}: {plan.reason}")
        fill = functools.partial(
            completer.fill,
            self.picture.pixels,
            hole,
            plan=plan,
            blend=self.settings.blend,
            keep_raw=self.settings.comparison,
        )
        if on_window is not None or len(plan.windows) < 2:
            return fill(on_window=on_window)
        with Progress("completing", len(plan.windows), log, unit="windows") as bar:
            return fill(on_window=lambda done, total: bar.advance())

    def _encode(self, picture: Picture, name: str) -> bytes:
        with enough_memory_for(f"writing an image of {picture.size[0]} x {picture.size[1]} px"):
            return encode_picture(picture, self.file_format, self.settings.quality, name)


def read_input(source: Path | bytes, name: str, settings: Settings) -> Picture:
    """Reads the image to complete; `name` stands for it in errors."""
    with enough_memory_for(f"reading {name}"), silence_decoders():
        return read_picture(source, name, settings.max_pixels)


def complete_folder(
    load: Callable[[], "Completer"],
    pairing: Pairing,
    choose_hole: Callable[[Path | None], ChooseHole],
    directory: Path,
    settings: Settings,
    log: Log,
) -> FolderResult:
    """Completes the images of a folder; lists those that fail in `failures.csv` in the output directory.

    Args:
      load: Loads the network; called once, when the first image needs it.
      pairing: Images and their masks.
      choose_hole: Returns the `ChooseHole` for the mask of a pair.
      directory: Output directory.
      settings: How to complete and write.
      log: Receives progress lines, and the notes on each image with its name.

    Raises:
      WeightsError: The weights do not exist or are unusable.
      ConfigError: The settings are invalid.
      DataError: The directory cannot be written, or the format is unknown.
    """
    check_writable(directory / FAILURES)
    if not settings.overwrite and any(
        (directory / pair.stem).resolve() == pair.image.with_suffix("").resolve() for pair in pairing.pairs
    ):
        where = printable(str(directory))
        raise DataError(
            f"{where} is the folder of the images: name another folder for the results, or give --overwrite"
        )
    if settings.file_format is not None:
        format_named(settings.file_format)  # Before any image: an unknown format fails for all.
    if settings.comparison:
        pairing = _without_comparison_clashes(pairing)
    failures = list(pairing.failures)
    completed = skipped = 0
    with Progress("completing", len(pairing.pairs), log, unit="images") as progress:

        @functools.cache
        def load_once() -> "Completer":
            completer = load()
            progress.log(f"weights: {completer.name}")
            return completer

        for pair in pairing.pairs:
            try:
                if _complete_pair(load_once, pair, choose_hole(pair.mask), directory, settings, progress.log):
                    completed += 1
                else:
                    skipped += 1
            except (WeightsError, ConfigError):
                raise  # Every image would fail alike.
            except UserError as error:
                failures.append(Failure(printable(str(pair.image)), str(error)))
                check_writable(directory / FAILURES)
            progress.advance()
    _write_failures(directory / FAILURES, failures)
    return FolderResult(completed, skipped, len(failures))


def _complete_pair(
    load: Callable[[], "Completer"],
    pair: Pair,
    choose_hole: ChooseHole,
    directory: Path,
    settings: Settings,
    log: Log,
) -> bool:
    """Completes one image of a folder unless its result exists; returns whether it did."""
    name = printable(str(pair.image))
    output = directory / f"{pair.stem}{pair.image.suffix}"
    usual = _with_suffix(output, format_named(settings.file_format)) if settings.file_format else output
    if not settings.overwrite and usual.exists():  # Found without reading the image.
        return False
    picture = read_input(pair.image, name, settings)
    output = _with_suffix(output, format_for(None, picture, settings.file_format))
    if not settings.overwrite and output.exists():
        return False
    # An existing comparison is replaced: it belongs to no result.
    job = CompletionJob.create(picture, choose_hole, dataclasses.replace(settings, overwrite=True), output=output)
    for note in job.notes:
        log(f"{name}: {note}")
    for warning in job.warnings:
        log(f"warning: {name}: {warning}")
    job.run(load(), lambda line: None)
    return True


def _comparison_path(output: Path) -> Path:
    """Returns the file of the comparison, beside the output."""
    return output.with_name(f"{output.stem}_comparison{output.suffix}")


def _with_suffix(path: Path, file_format: str) -> Path:
    """Replaces the suffix of a path, unless it is one of the format's."""
    return path.with_suffix(suffix_for(file_format, path))


def _without_comparison_clashes(pairing: Pairing) -> Pairing:
    """Removes the pairs whose results would overwrite another's comparison."""
    comparisons = {f"{pair.stem}_comparison": pair.image.name for pair in pairing.pairs}
    clashes = [
        Failure(
            printable(str(pair.image)), f"its result would have the name of {comparisons[pair.stem]}'s comparison"
        )
        for pair in pairing.pairs
        if pair.stem in comparisons
    ]
    pairs = [pair for pair in pairing.pairs if pair.stem not in comparisons]
    return Pairing(pairs, [*pairing.failures, *clashes])


def _write_failures(path: Path, failures: list[Failure]) -> None:
    if not failures:
        path.unlink(missing_ok=True)
        return
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows(
        [("file", "error"), *((printable(failure.file), failure.reason) for failure in failures)]
    )
    write_atomically(path, table.getvalue())

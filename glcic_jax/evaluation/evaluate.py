"""`glcic evaluate`: opens images, masks and methods, measures the completions and writes the report."""

import dataclasses
import datetime
import hashlib
import os
import shlex
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import jax
import numpy as np

from glcic_jax.completion import MAX_SIDE, Completer, find_device
from glcic_jax.errors import ConfigError, DataError, lookup, printable
from glcic_jax.evaluation import judge
from glcic_jax.evaluation.evaluator import Evaluator, Measurements, Row
from glcic_jax.evaluation.images import MaskedImages, Selection, open_images
from glcic_jax.evaluation.mask_sets.sets import MaskDigest, open_mask_set
from glcic_jax.evaluation.methods import ClassicalMethod, FolderMethod, Method, NetworkMethod
from glcic_jax.evaluation.perceptual import fid, lpips
from glcic_jax.evaluation.report.report import Pictures, write_report
from glcic_jax.evaluation.scores import Evaluation, count_of
from glcic_jax.evaluation.statistics import CONFIDENCE, RESAMPLES
from glcic_jax.evaluation.tables import write_csv, write_json, write_markdown
from glcic_jax.files import check_writable, expand_home
from glcic_jax.pictures.fills import FILLS
from glcic_jax.progress import Log, Progress
from glcic_jax.runtime import enable_compile_cache
from glcic_jax.training.checkpoints import package_versions
from glcic_jax.training.workdir import run_at
from glcic_jax.weights import arrays_sha256, compile_cache, find_weights

# The classical fills by their names on the command line.
BASELINES = {name.removesuffix(" fill").lower(): name for name in FILLS}
_BASELINE_SIDE = 256


@dataclasses.dataclass(frozen=True)
class Request:
    """The images, masks, methods and metrics of an evaluation.

    Attributes:
      subjects: Weights, runs, folders of completed images, or names in `BASELINES`; the report is about the first.
      data: As in `images.open_images`.
      selection: Selection of the images.
      masks: A mask set, see `mask_sets.sets.open_mask_set`.
      side: Images become squares of this side in pixels; None: the first subject's training size, or as they are
        for a folder; 0: as they are.
      baselines: Names in `BASELINES`.
      with_blending: Whether networks and classical fills also have rows with blending.
      strategy, max_side: As in `Completer.fill`.
      batch_size: Most images at a time.
      device: As in `Completer`.
      lpips, fid: Weight files; empty or None: not computed.
      save: Folder for images, masks and completions; None: not written.
      judge: Whether a judge is trained for each row.
    """

    subjects: Sequence[str]
    data: str
    selection: Selection = dataclasses.field(default_factory=Selection)
    masks: str = "paper:seed=0"
    side: int | None = None
    baselines: Sequence[str] = tuple(BASELINES)
    with_blending: bool = True
    strategy: str = "auto"
    max_side: int = MAX_SIDE
    batch_size: int = 16
    device: str | None = None
    lpips: Sequence[Path] = ()
    fid: Path | None = None
    save: Path | None = None
    judge: bool = False


def open_evaluator(request: Request) -> Evaluator:
    """Opens everything that an evaluation needs, before anything is written.

    Raises:
      UserError: A file, data set or option of the request is missing or cannot be used.
    """
    enable_compile_cache(compile_cache())
    device = find_device(request.device)
    if request.device is not None:
        jax.config.update("jax_default_device", device)
    sides, open_methods = zip(*(_find_subject(name, request) for name in request.subjects), strict=True)
    images = open_images(request.data, request.selection)
    side = sides[0] if request.side is None else request.side
    batch_size = min(request.batch_size, len(images.names))
    masked = MaskedImages(images, open_mask_set(request.masks, images.names), side or None)
    if request.judge:
        judge.check_images(masked)
    methods: list[Method] = [open_method(images.names, batch_size) for open_method in open_methods]
    names = [method.name for method in methods]
    if len(set(names)) < len(names):
        raise DataError(f"{max(names, key=names.count)} is named twice")
    baselines = [lookup(BASELINES, name, "baseline") for name in request.baselines]
    methods += [ClassicalMethod(name) for name in dict.fromkeys(baselines) if name not in names]
    rows = []
    for method in methods:
        rows.append(Row(method))
        if request.with_blending and not method.is_finished:
            rows.append(Row(method, blended=True))
    perceptual = lpips.load(request.lpips) if request.lpips else None
    inception = fid.load(request.fid) if request.fid else None
    return Evaluator(masked, rows, batch_size, perceptual, inception, request.save, request.judge)


_OpenMethod = Callable[[Sequence[str], int], Method]


def _find_subject(name: str, request: Request) -> tuple[int | None, _OpenMethod]:
    """Resolves the name of a subject.

    Returns:
      The side of its training images in pixels, or None; and a function from the names of all images and the
      batch size to the method.
    """
    if name in BASELINES:
        if Path(name).exists():
            raise ConfigError(
                f"{name} is a classical fill and a path here: give ./{name} for the path, or --baselines {name}"
            )
        return _BASELINE_SIDE, lambda names, batch_size: ClassicalMethod(BASELINES[name])
    path = expand_home(name)
    if path.is_dir() and run_at(path) is None:
        return None, lambda names, batch_size: FolderMethod(path, names)
    found = find_weights(name)
    completer, sha256 = Completer(found.weights, found.name, request.device), arrays_sha256(found.weights)
    return completer.description.image_size, lambda names, batch_size: NetworkMethod(
        completer, sha256, batch_size, request.strategy, request.max_side
    )


def evaluate(request: Request, report: Path, overwrite: bool, log: Log) -> Evaluation:
    """Measures, and writes report.html, table.md, images.csv and evaluation.json at the end.

    Args:
      request: The images, masks and methods.
      report: The folder to write to.
      overwrite: Whether a finished report in it is replaced.
      log: Receives messages.

    Raises:
      UserError: A file, data set or option of the request is missing or cannot be used, no image can be measured,
        or a file cannot be written.
    """
    result = report / "evaluation.json"
    if result.exists() and not overwrite:
        raise DataError(f"{printable(str(report))}: holds a finished report: give --overwrite or another --report")
    evaluator = open_evaluator(request)
    save = request.save
    if save is not None and save.exists() and not (save.is_dir() and not any(save.iterdir())):
        raise DataError(f"--save {printable(str(save))}: is not an empty folder: name a new one")
    for name in ("images.csv", "table.md", "evaluation.json", "report.html"):
        check_writable(report / name)
    measured = measure(evaluator, "evaluating", log)
    evaluation = conclude(evaluator, measured, f"Evaluation of {evaluator.rows[0].name}")
    write_csv(evaluation, report / "images.csv")
    write_markdown(evaluation, report / "table.md")
    write_report(evaluation, pictures_of(evaluator, measured), report / "report.html")
    write_json(evaluation, result)
    return evaluation


def measure(evaluator: Evaluator, what: str, log: Log) -> Measurements:
    """Measures all images and shows the progress of the work called `what`.

    Raises:
      UserError: As `Evaluator.run`.
    """
    with Progress(what, len(evaluator.images), log, unit="images") as progress:
        measured = evaluator.run(progress.advance)
    if evaluator.with_judge:
        with Progress("judging", len(evaluator.rows), log, unit="rows") as progress:
            evaluator.run_judge(measured, progress.advance)
    return measured


def pictures_of(evaluator: Evaluator, measured: Measurements) -> Pictures:
    """Returns a function that makes the report's pictures; an image whose file has changed has none."""

    def pictures(index: int, methods: Collection[str]) -> dict[str, np.ndarray]:
        try:
            return evaluator.pictures(measured.images[index], methods)
        except (DataError, OSError):
            return {}  # The report says "no picture".

    return pictures


def conclude(evaluator: Evaluator, measured: Measurements, title: str) -> Evaluation:
    """Collects the scores, the protocol and the notes.

    Raises:
      DataError: No image could be measured, or only one with FID.
    """
    images, unreadable = measured.images, measured.unreadable
    if not images:
        reason = f": {unreadable[0].reason}" if unreadable else ""
        raise DataError(f"none of the {len(unreadable):,} images can be measured{reason}")
    weights = {"LPIPS": evaluator.lpips, "FID": evaluator.inception}
    not_computed = {label: "no weights were given" for label, given in weights.items() if given is None}
    if evaluator.with_judge and len(measured.judged) < judge.FEWEST_IMAGES:
        not_computed["judge"] = f"{len(measured.judged)} images with a hole, fewer than {judge.FEWEST_IMAGES}"
    return Evaluation(
        title,
        _protocol(evaluator, measured),
        [image.name for image in images],
        np.array([image.hole_ratio for image in images], np.float64),
        evaluator.scores(measured),
        not_computed,
        _notes(evaluator, measured),
        [image.index for image in images],
    )


def _protocol(evaluator: Evaluator, measured: Measurements) -> dict[str, str]:
    masked, images = evaluator.images, measured.images
    pixels = hashlib.sha256("".join(image.image_sha256 for image in images).encode()).hexdigest()
    masks = MaskDigest()
    for image in images:
        masks.add_digest(image.mask_sha256)
    ratio = sum(image.hole_ratio for image in images) / len(images)
    (device,) = jax.numpy.zeros(()).devices()  # JAX's default device.
    square = f"shorter side to {masked.side} px (area averaging, bicubic if enlarged), centre square"
    protocol = {
        "Images": f"{masked.images.description}; measured: {len(images):,}; sha256 of their pixels {pixels}",
        "Size": square if masked.side else "as they are",
        "Masks": f"{masked.masks.description}; sha256 {masks.hexdigest()}; mean hole {ratio:.1%} of the image",
        "Numbers": "of 8-bit pictures, computed for each image and averaged over the images; brackets: "
        f"{CONFIDENCE:.0%} percentile bootstrap intervals, {RESAMPLES:,} resamples of the images",
        "Blended": "fast marching within 3 px of the hole's edge, then a Poisson equation on the hole's pixels",
        "Speed": f"completion and blending alone, up to {evaluator.batch_size} images at a time, after a warm-up; "
        f"networks on {device.device_kind}, the rest on {os.cpu_count()} CPU cores",
    }
    protocol |= {f"Method: {row.method.name}": row.method.description for row in evaluator.rows}
    if evaluator.lpips is not None:
        protocol["LPIPS"] = evaluator.lpips.description
    if evaluator.inception is not None:
        protocol["FID"] = evaluator.inception.description
    if len(measured.judged) >= judge.FEWEST_IMAGES:
        protocol["Judge"] = judge.describe(len(measured.judged), len(measured.patches[0]))
    protocol["Software"] = ", ".join(f"{name} {version}" for name, version in package_versions().items())
    protocol["Command"] = shlex.join(["glcic", *sys.argv[1:]])
    protocol["Date"] = datetime.datetime.now(datetime.UTC).date().isoformat()
    return protocol


def _notes(evaluator: Evaluator, measured: Measurements) -> list[str]:
    notes, unreadable, opened = [], measured.unreadable, evaluator.images.images
    if unreadable:
        reasons = "; ".join(image.reason for image in unreadable[:3])
        more = f"; and {len(unreadable) - 3} more" if len(unreadable) > 3 else ""
        were = "was" if len(unreadable) == 1 else "were"
        notes.append(f"{count_of(len(unreadable), 'image')} {were} skipped: {reasons}{more}.")
    trained = [row.name for row in evaluator.rows if f" on {opened.data}, step" in row.method.description]
    if trained and opened.split.rpartition(", ")[2].startswith(("all", "train")):
        notes.append(
            f"{trained[0]} was trained on images of {opened.data}, which are among these; --split validation "
            "measures the images that training holds out."
        )
    empty = sum(image.hole_ratio == 0 for image in measured.images)
    if empty:
        have = "has" if empty == 1 else "have"
        notes.append(f"{count_of(empty, 'image')} {have} an empty hole, and no metrics of the hole.")
    for row in evaluator.rows:
        changed = measured.rows[row.name].changed
        if changed:
            notes.append(
                f"{row.name}: {count_of(len(changed), 'completed image')} changed outside the hole too (in "
                f"{sum(changed) / len(changed):,.0f} pixels on average); metrics of the whole image include it."
            )
    note = fid.bias_note(len(measured.images)) if evaluator.inception is not None else None
    return notes + ([note] if note else [])

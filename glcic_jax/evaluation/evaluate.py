"""`glcic evaluate`: from what was asked for to what goes through it, and to the report."""

import dataclasses
import datetime
import hashlib
import os
import shlex
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from glcic_jax.completion.completer import Completer
from glcic_jax.completion.runner import find_device
from glcic_jax.completion.windows import MAX_SIDE
from glcic_jax.errors import ConfigError, DataError, lookup, printable
from glcic_jax.evaluation.evaluator import Evaluator, Row, mask_digest, measured
from glcic_jax.evaluation.examples import Examples, Part, open_images
from glcic_jax.evaluation.journal import Journal, Record
from glcic_jax.evaluation.mask_sets.sets import open_mask_set
from glcic_jax.evaluation.methods import ClassicalMethod, FolderMethod, Method, NetworkMethod
from glcic_jax.evaluation.perceptual import fid, lpips
from glcic_jax.evaluation.report.page import Pictures
from glcic_jax.evaluation.report.report import write_report
from glcic_jax.evaluation.scores import Evaluation, Scores
from glcic_jax.evaluation.statistics import CONFIDENCE, RESAMPLES
from glcic_jax.evaluation.tables import write_csv, write_json, write_markdown
from glcic_jax.pictures.fills import FILLS
from glcic_jax.progress import Log, Progress
from glcic_jax.runtime import enable_compile_cache
from glcic_jax.training.checkpoints import package_versions
from glcic_jax.training.workdir import run_at
from glcic_jax.weights.file import arrays_sha256
from glcic_jax.weights.store import find_weights, home

# What the command line calls the fills without a network.
BASELINES = {name.removesuffix(" fill").lower(): name for name in FILLS}
_SIDE = 256


@dataclasses.dataclass(frozen=True)
class Request:
    """What is to be measured, and how.

    Attributes:
      subjects: Weights, runs, folders of completed pictures, or names in `BASELINES`; the report is about the
        first.
      data: As in `evaluation_images.open_images`.
      part: Which of the images.
      masks: A mask set, see `mask_sets.open_mask_set`.
      side: Images become squares of so many pixels; None: as large as the first subject was trained on, or as they
        are where that is a folder; 0: as they are.
      baselines: Names in `BASELINES`.
      with_blending: Whether each method that completes here has a row with blending, too.
      strategy, max_side: As in `Completer.fill`.
      batch_size: Images at a time.
      device: As in `Completer`.
      lpips, fid: Files of weights; empty: not computed.
      save: Where pictures are written; None: nowhere.
    """

    subjects: Sequence[str]
    data: str
    part: Part = dataclasses.field(default_factory=Part)
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


class _Subject(NamedTuple):
    """What a subject's name stands for.

    Attributes:
      side: Of the images that it was trained on; None where it was not.
      completer: And the hash of its weights; None where it is no network.
      folder: None where it is none.
      baseline: Empty where it is none.
    """

    side: int | None
    completer: tuple[Completer, str] | None = None
    folder: Path | None = None
    baseline: str = ""


def open_evaluator(request: Request) -> Evaluator:
    """Opens all that an evaluation goes through, before anything is written.

    Raises:
      UserError: Something of the request is not there or cannot be used.
    """
    enable_compile_cache(home() / "xla")
    if request.device is not None:
        jax.config.update("jax_default_device", find_device(request.device))
    subjects = [_subject(name, request) for name in request.subjects]
    images = open_images(request.data, request.part)
    side = subjects[0].side if request.side is None else request.side
    batch_size = min(request.batch_size, len(images.names))
    examples = Examples(images, open_mask_set(request.masks, images.names), side or None)
    methods = [_method(subject, request, batch_size, images.names) for subject in subjects]
    names = [method.name for method in methods]
    if len(set(names)) < len(names):
        raise DataError(f"{max(names, key=names.count)} is named twice")
    baselines = [lookup(BASELINES, name, "baseline") for name in request.baselines]
    methods += [ClassicalMethod(name) for name in dict.fromkeys(baselines) if name not in names]
    return Evaluator(
        examples,
        _rows(methods, request.with_blending),
        batch_size,
        lpips.load(request.lpips) if request.lpips else None,
        fid.load(request.fid) if request.fid else None,
        request.save,
    )


def _rows(methods: Sequence[Method], with_blending: bool) -> list[Row]:
    rows = []
    for method in methods:
        rows.append(Row(method))
        # What a folder holds is finished.
        if with_blending and not method.finished:
            rows.append(Row(method, blended=True))
    return rows


def _subject(name: str, request: Request) -> _Subject:
    if name in BASELINES:
        if Path(name).exists():
            raise ConfigError(
                f"{name} is a fill and a path here: give ./{name} for the path, or --baselines {name}"
            )
        return _Subject(_SIDE, baseline=BASELINES[name])
    path = Path(name).expanduser()
    if path.is_dir() and run_at(path) is None:
        return _Subject(None, folder=path)
    found = find_weights(name)
    completer = Completer(found.weights, found.name, request.device)
    return _Subject(completer.description.image_size, (completer, arrays_sha256(found.weights)))


def _method(subject: _Subject, request: Request, batch_size: int, names: Sequence[str]) -> Method:
    if subject.completer is not None:
        return NetworkMethod(*subject.completer, batch_size, request.strategy, request.max_side)
    if subject.folder is not None:
        return FolderMethod(subject.folder, names)
    return ClassicalMethod(subject.baseline)


def evaluate(request: Request, report: Path, restart: bool, tell: Log) -> Evaluation:
    """Measures and writes report.html, table.md, images.csv and evaluation.json; goes on where it was stopped.

    Args:
      request: What is to be measured.
      report: The folder to write to; journal.jsonl in it is what a stopped evaluation goes on from.
      restart: Whether what the folder holds of an evaluation is forgotten.
      tell: Tells the user one line.

    Raises:
      UserError: Something of the request is not there or cannot be used, no image can be measured, or the disk
        fails.
    """
    evaluator = open_evaluator(request)
    journal_path, features = report / "journal.jsonl", report / "features"
    total = len(evaluator.examples)
    with Journal(journal_path, _identity(evaluator), restart) as journal:
        done = len(journal.done)
        if done:
            tell(f"{done:,} of {total:,} images were measured before")
            if request.save is not None:
                tell("--save writes those that are left; give --restart to have them all")
        elif request.save is not None and request.save.exists() and any(request.save.iterdir()):
            raise DataError(f"--save {printable(str(request.save))}: is not empty: name a new folder")
        with Progress("evaluating", total, tell, done, "images") as progress:
            evaluator.run(journal, features, progress.advance)
        if evaluator.inception is not None:
            tell("computing FID")
        scores = evaluator.scores(journal, features)
    found = conclude(evaluator, journal.records, scores, f"Evaluation of {evaluator.rows[0].name}")
    write_csv(found, report / "images.csv")
    write_markdown(found, report / "table.md")
    write_json(found, report / "evaluation.json")
    write_report(found, pictures_of(evaluator, journal), report / "report.html")
    return found


def pictures_of(evaluator: Evaluator, journal: Journal) -> Pictures:
    """The pictures of the images that were measured; none of one that is not what it was any more."""
    records = measured(journal.records)

    def pictures(index: int, methods: Collection[str]) -> dict[str, np.ndarray]:
        try:
            return evaluator.pictures(records[index], methods)
        except DataError:
            return {}  # The page says that there is none.

    return pictures


def _identity(evaluator: Evaluator) -> dict[str, Any]:
    """All that the numbers depend on: a journal of anything else cannot be gone on with."""
    examples = evaluator.examples
    return {
        "rows": {row.name: row.method.fingerprint for row in evaluator.rows},
        "data": examples.images.description,
        "image files": examples.images.fingerprint,
        "masks": examples.masks.name,
        "mask files": examples.masks.fingerprint,
        "size": examples.side,
        "LPIPS": evaluator.lpips.description if evaluator.lpips else None,
        "FID": evaluator.inception.description if evaluator.inception else None,
        "batch size": evaluator.batch_size,
        "device": device().device_kind,
        "format": 1,
    }


def conclude(evaluator: Evaluator, records: Sequence[Record], scores: Sequence[Scores], title: str) -> Evaluation:
    """Puts together what was measured.

    Raises:
      DataError: No image was.
    """
    good = measured(records)
    skipped = [record for record in records if "skipped" in record]
    if not good:
        reason = f": {skipped[0]['skipped']}" if skipped else ""
        raise DataError(f"none of the {len(records):,} images can be measured{reason}")
    missing = {}
    if evaluator.lpips is None:
        missing["LPIPS"] = "no weights were given"
    if evaluator.inception is None:
        missing["FID"] = "no weights were given"
    return Evaluation(
        title,
        _protocol(evaluator, good),
        [record["name"] for record in good],
        np.array([record["hole_ratio"] for record in good], np.float64),
        scores,
        missing,
        _notes(evaluator, good, skipped),
        [record["index"] for record in good],
    )


def _protocol(evaluator: Evaluator, records: Sequence[Record]) -> dict[str, str]:
    examples = evaluator.examples
    pixels = hashlib.sha256("".join(record["image"] for record in records).encode()).hexdigest()
    ratio = sum(record["hole_ratio"] for record in records) / len(records)
    side = examples.side
    size = (
        f"shorter side to {side} px (area averaging, bicubic where enlarged), the centre square"
        if side
        else "as they are"
    )
    protocol = {
        "Images": f"{examples.images.description}; measured: {len(records):,}; sha256 of their pixels {pixels}",
        "Size": size,
        "Masks": f"{examples.masks.description}; sha256 {mask_digest(records)}; mean hole {ratio:.1%} of the "
        "image",
        "Numbers": "of pictures in 8 bits, computed for each image and averaged over the images; brackets: "
        f"{CONFIDENCE:.0%} percentile bootstrap intervals, {RESAMPLES:,} resamples of the images",
        "Blended": "fast marching within 3 px of the hole's edge, then a Poisson equation on the hole's pixels",
        "Speed": f"completion and blending alone, up to {evaluator.batch_size} images at a time, after a warm-up; "
        f"networks on {device().device_kind}, the rest on {os.cpu_count()} CPU cores",
    }
    protocol |= {f"Method: {row.method.name}": row.method.description for row in evaluator.rows}
    if evaluator.lpips is not None:
        protocol["LPIPS"] = evaluator.lpips.description
    if evaluator.inception is not None:
        protocol["FID"] = evaluator.inception.description
    protocol["Software"] = ", ".join(f"{name} {version}" for name, version in package_versions().items())
    protocol["Command"] = shlex.join(["glcic", *sys.argv[1:]])
    protocol["Date"] = datetime.datetime.now(datetime.UTC).date().isoformat()
    return protocol


def device() -> jax.Device:
    """Where JAX computes what is not told where."""
    (device,) = jax.numpy.zeros(()).devices()
    return device


def _notes(evaluator: Evaluator, records: Sequence[Record], skipped: Sequence[Record]) -> list[str]:
    notes = []
    if skipped:
        named = "; ".join(record["skipped"] for record in skipped[:3])
        more = f"; and {len(skipped) - 3} more" if len(skipped) > 3 else ""
        were = "1 image was" if len(skipped) == 1 else f"{len(skipped):,} images were"
        notes.append(f"{were} passed over: {named}{more}.")
    shown = evaluator.examples.images
    trained = [row.name for row in evaluator.rows if f" on {shown.data}, step" in row.method.description]
    if trained and shown.split.rpartition(", ")[2].startswith(("all", "train")):
        notes.append(
            f"{trained[0]} was trained on images of {shown.data}, which are among these; --split validation "
            "measures those that training holds out."
        )
    empty = sum(record["hole_ratio"] == 0 for record in records)
    if empty:
        have = "1 image has" if empty == 1 else f"{empty:,} images have"
        notes.append(f"{have} an empty hole, and no metrics of the hole.")
    for row in evaluator.rows:
        changed = [record["changed"][row.name] for record in records if row.name in record.get("changed", {})]
        if changed:
            notes.append(
                f"{row.name}: pictures that differ from their image outside the hole, too: {len(changed):,} (in "
                f"{sum(changed) / len(changed):,.0f} pixels on average); the numbers of the whole image show it."
            )
    if evaluator.inception is not None:
        note = fid.bias_note(len(records))
        notes += [note] if note else []
    return notes

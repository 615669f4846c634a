"""`glcic evaluate`: from what was asked for to what goes through it, and to the report."""

import dataclasses
import datetime
import hashlib
import json
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from glcic_jax import fid, lpips
from glcic_jax.checkpoints import package_versions
from glcic_jax.compile_cache import enable_compile_cache
from glcic_jax.completer import Completer
from glcic_jax.errors import DataError, lookup
from glcic_jax.evaluation_images import Part, open_images
from glcic_jax.evaluator import Evaluator, Row, mask_digest, measured
from glcic_jax.examples import Examples
from glcic_jax.files import write_aside
from glcic_jax.intervals import CONFIDENCE, RESAMPLES
from glcic_jax.journal import Journal, Record
from glcic_jax.mask_sets import open_mask_set
from glcic_jax.methods import ClassicalMethod, FolderMethod, Method, NetworkMethod
from glcic_jax.progress import Progress, Tell
from glcic_jax.report import write_report
from glcic_jax.runner import find_device
from glcic_jax.score_summary import means
from glcic_jax.score_tables import write_csv, write_markdown
from glcic_jax.scores import Evaluation, Scores
from glcic_jax.weight_store import find_weights, home
from glcic_jax.weights import arrays_sha256
from glcic_jax.windows import MAX_SIDE
from glcic_jax.workdirs import run_at

# What the command line calls the fills without a network.
BASELINES = {"mean": "mean fill", "telea": "Telea", "navier-stokes": "Navier-Stokes"}
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
    examples = Examples(images, open_mask_set(request.masks, images.names), side or None)
    methods = [_method(subject, request, images.names) for subject in subjects]
    names = [method.name for method in methods]
    if len(set(names)) < len(names):
        raise DataError(f"{max(names, key=names.count)} is named twice")
    baselines = [lookup(BASELINES, name, "baseline") for name in request.baselines]
    methods += [ClassicalMethod(name) for name in dict.fromkeys(baselines) if name not in names]
    return Evaluator(
        examples,
        _rows(methods, request.with_blending),
        request.batch_size,
        lpips.load(request.lpips) if request.lpips else None,
        fid.load(request.fid) if request.fid else None,
        request.save,
    )


def _rows(methods: Sequence[Method], with_blending: bool) -> list[Row]:
    rows = []
    for method in methods:
        rows.append(Row(method))
        # What a folder holds is finished.
        if with_blending and not isinstance(method, FolderMethod):
            rows.append(Row(method, blended=True))
    return rows


def _subject(name: str, request: Request) -> _Subject:
    if name in BASELINES:
        return _Subject(_SIDE, baseline=BASELINES[name])
    path = Path(name).expanduser()
    if path.is_dir() and run_at(path) is None:
        return _Subject(None, folder=path)
    found = find_weights(name)
    completer = Completer(found.weights, found.name, request.device)
    return _Subject(completer.description.image_size, (completer, arrays_sha256(found.weights)))


def _method(subject: _Subject, request: Request, names: Sequence[str]) -> Method:
    if subject.completer is not None:
        return NetworkMethod(*subject.completer, request.batch_size, request.strategy, request.max_side)
    if subject.folder is not None:
        return FolderMethod(subject.folder, names)
    return ClassicalMethod(subject.baseline)


def evaluate(request: Request, report: Path, restart: bool, tell: Tell) -> Evaluation:
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
    if restart:
        journal_path.unlink(missing_ok=True)
        shutil.rmtree(features, ignore_errors=True)
    total = len(evaluator.examples)
    with Journal(journal_path, _identity(evaluator)) as journal:
        done = len(journal.done)
        if done:
            tell(f"{done:,} of {total:,} images were measured before")
            if request.save is not None:
                tell("--save writes those that are left; give --restart to have them all")
        with Progress("evaluating", total, tell, done, "images") as progress:
            evaluator.run(journal, features, progress.advance)
        scores = evaluator.scores(journal, features)
    found = conclude(evaluator, journal.records, scores, f"Evaluation of {evaluator.rows[0].name}")
    write_csv(found, report / "images.csv")
    write_markdown(found, report / "table.md")
    write_aside(report / "evaluation.json", json.dumps(_for_machines(found), indent=2) + "\n")
    places = [record["index"] for record in measured(journal.records)]
    write_report(found, lambda place, names: evaluator.pictures(places[place], names), report / "report.html")
    return found


def _identity(evaluator: Evaluator) -> dict[str, Any]:
    """All that the numbers depend on: a journal of anything else cannot be gone on with."""
    examples = evaluator.examples
    return {
        "rows": {row.name: row.method.description for row in evaluator.rows},
        "data": examples.images.description,
        "listing": hashlib.sha256("\n".join(examples.images.names).encode()).hexdigest(),
        "masks": examples.masks.name,
        "size": examples.side,
        "LPIPS": evaluator.lpips.description if evaluator.lpips else None,
        "FID": evaluator.inception.description if evaluator.inception else None,
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
        missing["LPIPS"] = "no weights were given (--lpips)"
    if evaluator.inception is None:
        missing["FID"] = "no weights were given (--fid)"
    ratios = jax.numpy.asarray([record["hole_ratio"] for record in good])
    return Evaluation(
        title,
        _protocol(evaluator, good),
        [record["name"] for record in good],
        jax.device_get(ratios),
        scores,
        missing,
        _notes(evaluator, good, skipped),
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
    (device,) = jax.numpy.zeros(()).devices()
    protocol = {row.method.name: row.method.description for row in evaluator.rows}
    protocol |= {
        "Images": f"{examples.images.description}; measured: {len(records):,}; sha256 of their pixels {pixels}",
        "Size": size,
        "Masks": f"{examples.masks.name}; sha256 {mask_digest(records)}; mean hole {ratio:.1%} of the image",
        "Numbers": "of pictures in 8 bits, computed for each image and averaged over the images; brackets: "
        f"{CONFIDENCE:.0%} percentile bootstrap intervals, {RESAMPLES:,} resamples of the images",
        "Blended": "fast marching within 3 px of the hole's edge, then a Poisson equation on the hole's pixels",
        "Speed": f"completion and blending alone, up to {evaluator.batch_size} images at a time, after a warm-up; "
        f"networks on {device.device_kind}, the rest on {os.cpu_count()} CPU cores",
    }
    if evaluator.lpips is not None:
        protocol["LPIPS"] = evaluator.lpips.description
    if evaluator.inception is not None:
        protocol["FID"] = evaluator.inception.description
    protocol["Software"] = ", ".join(f"{name} {version}" for name, version in package_versions().items())
    protocol["Command"] = shlex.join(["glcic", *sys.argv[1:]])
    protocol["Date"] = datetime.datetime.now(datetime.UTC).date().isoformat()
    return protocol


def _notes(evaluator: Evaluator, records: Sequence[Record], skipped: Sequence[Record]) -> list[str]:
    notes = []
    if skipped:
        named = "; ".join(record["skipped"] for record in skipped[:3])
        more = f"; and {len(skipped) - 3} more" if len(skipped) > 3 else ""
        notes.append(f"{len(skipped):,} images were passed over: {named}{more}.")
    shown = evaluator.examples.images
    trained = [row.name for row in evaluator.rows if f" on {shown.data}, step" in row.method.description]
    if trained and shown.split.rpartition(", ")[2].startswith(("all", "train")):
        notes.append(
            f"{trained[0]} was trained on images of {shown.data}, which are among these; --split validation "
            "measures those that training holds out."
        )
    empty = sum(record["hole_ratio"] == 0 for record in records)
    if empty:
        notes.append(f"{empty:,} images have an empty hole: they have no metrics of the hole.")
    for row in evaluator.rows:
        changed = [record["changed"][row.name] for record in records if row.name in record.get("changed", {})]
        if changed:
            notes.append(
                f"{row.name}: {len(changed):,} pictures differ from their image outside the hole, too (in "
                f"{sum(changed) / len(changed):,.0f} pixels on average); the numbers of the whole image show it."
            )
    if evaluator.inception is not None:
        note = fid.bias_note(len(records))
        notes += [note] if note else []
    return notes


def _for_machines(found: Evaluation) -> dict[str, Any]:
    def plain(value: float) -> float | None:
        return value if abs(value) < float("inf") else None  # NaN is no JSON.

    rows = [
        {
            "name": scores.name,
            "images_per_second": scores.images_per_second,
            "fid": scores.fid,
            "metrics": {
                metric: {key: plain(value) for key, value in mean.interval._asdict().items()}
                for metric, mean in row.items()
            },
        }
        for scores, row in zip(found.scores, means(found), strict=True)
    ]
    return {
        "title": found.title,
        "images": len(found.images),
        "protocol": dict(found.protocol),
        "notes": list(found.notes),
        "not_computed": dict(found.not_computed),
        "rows": rows,
    }

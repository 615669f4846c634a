"""What an evaluation comes to: its numbers, its protocol, and what a reader has to be told."""

import datetime
import hashlib
import os
import shlex
import sys
from collections.abc import Sequence

import jax
import numpy as np

from glcic_jax.errors import DataError
from glcic_jax.evaluation.evaluator import Evaluator, mask_digest, measured
from glcic_jax.evaluation.journal import Record
from glcic_jax.evaluation.perceptual import fid
from glcic_jax.evaluation.scores import Evaluation, Scores
from glcic_jax.evaluation.statistics import CONFIDENCE, RESAMPLES
from glcic_jax.training.checkpoints import package_versions


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

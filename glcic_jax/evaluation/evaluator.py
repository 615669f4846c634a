"""The measuring loop: every method completes every image, and every metric compares the result."""

import collections
import dataclasses
import functools
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from glcic_jax.errors import DataError
from glcic_jax.evaluation import judge
from glcic_jax.evaluation.images import MaskedImage, MaskedImages, Unreadable
from glcic_jax.evaluation.mask_sets.sets import MaskDigest
from glcic_jax.evaluation.methods import Method, blended
from glcic_jax.evaluation.perceptual.fid import InceptionFeatures, Statistics, frechet_distance
from glcic_jax.evaluation.perceptual.lpips import Lpips
from glcic_jax.evaluation.scores import BLENDED, METRICS, Scores
from glcic_jax.model.metrics import measure
from glcic_jax.pictures import from_colour, save_image

# Folders below `save`, beside those of the rows.
_ORIGINALS, _MASKS = "originals", "masks"


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the results: a method, with or without blending."""

    method: Method
    blended: bool = False

    @property
    def name(self) -> str:
        return self.method.name + BLENDED if self.blended else self.method.name


@dataclasses.dataclass(frozen=True)
class MeasuredImage:
    """An image that was measured: its place among the selected images, name, hashes and fraction of hole."""

    index: int
    name: str
    image_sha256: str
    mask_sha256: bytes
    hole_ratio: float


@dataclasses.dataclass(eq=False)
class RowMeasurements:
    """The measurements of a row.

    Attributes:
      values: By key of `METRICS`, one number per image.
      timed_images, seconds: Number of images whose completion was timed, and their total time.
      changed: Number of changed pixels outside the hole, for each image that has any.
      features: Statistics of the Inception features for FID.
      patches: [P, P, 3] uint8 each, completed, for the judge.
    """

    values: dict[str, list[float]] = dataclasses.field(default_factory=lambda: collections.defaultdict(list))
    timed_images: int = 0
    seconds: float = 0.0
    changed: list[int] = dataclasses.field(default_factory=list)
    features: Statistics = dataclasses.field(default_factory=Statistics)
    patches: list[np.ndarray] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(eq=False)
class Measurements:
    """The measurements of all rows.

    Attributes:
      images: The measured images in order.
      unreadable: The others.
      rows: By name of the row.
      originals: Statistics of the originals' features for FID.
      judged: Places in `images` of those whose patches the judge sees.
      patches: [P, P, 4] uint8 each, an original patch and its mask, for the judge.
    """

    images: list[MeasuredImage] = dataclasses.field(default_factory=list)
    unreadable: list[Unreadable] = dataclasses.field(default_factory=list)
    rows: dict[str, RowMeasurements] = dataclasses.field(
        default_factory=lambda: collections.defaultdict(RowMeasurements)
    )
    originals: Statistics = dataclasses.field(default_factory=Statistics)
    judged: list[int] = dataclasses.field(default_factory=list)
    patches: list[np.ndarray] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Evaluator:
    """Completes images and measures the completions.

    Attributes:
      images: Images with their holes.
      rows: The rows of the results; those of one method are adjacent.
      batch_size: Most images at a time.
      lpips, inception: Metrics that need weights; None: not computed.
      save: Folder for images, masks and completions as PNG; None: not written.
      with_judge: Whether `judge` needs the patches.
    """

    images: MaskedImages
    rows: Sequence[Row]
    batch_size: int = 16
    lpips: Lpips | None = None
    inception: InceptionFeatures | None = None
    save: Path | None = None
    with_judge: bool = False

    def run(self, advance: Callable[[int], None]) -> Measurements:
        """Measures all images.

        Args:
          advance: Called with the number of images after each batch.

        Raises:
          UserError: A mask or a completed image cannot be read, the network fails, or a file cannot be written.
        """
        measured = Measurements()
        for batch in self.images.batches(self.batch_size):
            if isinstance(batch, Unreadable):
                measured.unreadable.append(batch)
                advance(1)
                continue
            image, hole = np.stack([one.image for one in batch]), np.stack([one.hole for one in batch])
            if not measured.images:  # Warm-up.
                for method in dict.fromkeys(row.method for row in self.rows if not row.method.is_finished):
                    method.complete(batch)
            boxes = self._add_patches(measured, batch)
            for row, completed, seconds in _complete(self.rows, batch):
                of_row = measured.rows[row.name]
                of_row.patches += [completed[place][box].copy() for place, box in boxes.items()]
                self._measure(of_row, completed, image, hole)
                # Batches of other sizes are padded, which would distort the speed.
                if seconds is not None and len(batch) in (1, self.batch_size):
                    of_row.timed_images += len(batch)
                    of_row.seconds += seconds
                self._save(self._folders[row.name], completed, batch)
            if self.inception is not None:
                measured.originals.add(self.inception.features(image))
            self._save(_ORIGINALS, image, batch)
            self._save(_MASKS, np.repeat(np.uint8(255) * hole[..., None], 3, axis=-1), batch)
            measured.images += [
                MeasuredImage(one.index, one.name, one.sha256, MaskDigest.of(one.hole), float(one.hole.mean()))
                for one in batch
            ]
            advance(len(batch))
        return measured

    def _measure(self, row: RowMeasurements, completed: np.ndarray, image: np.ndarray, hole: np.ndarray) -> None:
        metrics = measure(completed, image, hole)
        if self.lpips is not None:
            metrics["lpips"] = self.lpips.distances(completed, image)
        for key, values in metrics.items():
            row.values[key] += values.tolist()
        changed = ((completed != image).any(axis=-1) & ~hole).sum(axis=(1, 2))
        row.changed += changed[changed > 0].tolist()
        if self.inception is not None:
            row.features.add(self.inception.features(completed))

    def _add_patches(self, measured: Measurements, batch: list[MaskedImage]) -> dict[int, tuple[slice, slice]]:
        """Keeps the original patches of a batch for the judge; returns their boxes by the place in the batch."""
        every = -(-len(self.images) // judge.MOST_IMAGES)
        boxes = {
            place: judge.patch_box(one.hole)
            for place, one in enumerate(batch)
            if self.with_judge and one.index % every == 0 and one.hole.any()
        }
        for place, box in boxes.items():
            mask = np.uint8(255) * batch[place].hole[box][..., None]
            measured.judged.append(len(measured.images) + place)
            measured.patches.append(np.concatenate([batch[place].image[box], mask], axis=-1))
        return boxes

    def run_judge(self, measured: Measurements, advance: Callable[[int], None]) -> None:
        """Adds the judge's verdicts to the measurements, if there are patches of 20 images.

        Args:
          measured: The measurements.
          advance: Called with 1 after each row.
        """
        if len(measured.judged) < judge.FEWEST_IMAGES:
            return
        real = np.stack(measured.patches)
        for row in self.rows:
            of_row = measured.rows[row.name]
            values = np.full(len(measured.images), np.nan)
            values[measured.judged] = judge.judged_right(real, np.stack(of_row.patches))
            of_row.values["judge"] = values.tolist()
            advance(1)

    def scores(self, measured: Measurements) -> list[Scores]:
        """Each row's numbers on all measured images."""
        scores = []
        for row in self.rows:
            of_row = measured.rows[row.name]
            values = {key: np.array(of_row.values[key]) for key in METRICS if key in of_row.values}
            speed = of_row.timed_images / of_row.seconds if of_row.timed_images else None
            fid = frechet_distance(of_row.features, measured.originals) if measured.originals.count else None
            scores.append(Scores(row.name, values, speed, fid))
        return scores

    def pictures(self, measured: MeasuredImage, names: Collection[str]) -> dict[str, np.ndarray]:
        """Completes an image again with the rows of these names; see `report.Pictures`.

        Raises:
          DataError: A file cannot be read, or has changed since it was measured.
        """
        one = self.images.read(measured.index)
        if (one.sha256, MaskDigest.of(one.hole)) != (measured.image_sha256, measured.mask_sha256):
            raise DataError(f"{one.name}: has changed since it was measured")
        rows = [row for row in self.rows if row.name in names]
        completed = {row.name: found[0] for row, found, _ in _complete(rows, [one])}
        masked = np.where(one.hole[..., None], np.uint8(255), one.image)
        return {"input": masked, **completed, "original": one.image}

    def _save(self, folder: str, pictures: np.ndarray, batch: list[MaskedImage]) -> None:
        if self.save is not None:
            for picture, one in zip(pictures, batch, strict=True):
                # A suffix is kept if it alone tells two images apart.
                file = Path(one.name).with_suffix(".png")
                file = Path(f"{one.name}.png") if self._saved_files[file] > 1 else file
                save_image(picture, self.save / folder / file)

    @functools.cached_property
    def _saved_files(self) -> collections.Counter[Path]:
        return collections.Counter(Path(name).with_suffix(".png") for name in self.images.images.names)

    @functools.cached_property
    def _folders(self) -> dict[str, str]:
        """Each row's folder below `save`."""
        folders: dict[str, str] = {}
        for row in self.rows:
            name = plain = "".join(letter if letter.isalnum() or letter in "-._" else "_" for letter in row.name)
            while name in (_ORIGINALS, _MASKS, *folders.values()):
                name = f"{name}_{plain}"
            folders[row.name] = name
        return folders


def _complete(rows: Iterable[Row], batch: list[MaskedImage]) -> Iterator[tuple[Row, np.ndarray, float | None]]:
    """Yields each row with its completions [N, H, W, 3] uint8 and the seconds they took.

    The time is None if a program was compiled, or if completed images were only read.
    """
    completed: list[np.ndarray] = []
    method: Method | None = None
    method_seconds: float | None = None
    for row in rows:
        if row.method is not method:
            method, compilations, start = row.method, row.method.compilations, time.perf_counter()
            completed = method.complete(batch)
            is_timed = not method.is_finished and method.compilations == compilations
            method_seconds = time.perf_counter() - start if is_timed else None
        start = time.perf_counter()
        shown = blended(completed, batch) if row.blended else completed
        seconds = None if method_seconds is None else method_seconds + time.perf_counter() - start
        pixels = [from_colour(picture, one.image) for picture, one in zip(shown, batch, strict=True)]
        yield row, np.stack(pixels), seconds

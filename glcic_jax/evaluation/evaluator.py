"""Going through all examples with all methods: fill, blend, measure, note down; and what it comes to."""

import collections
import dataclasses
import functools
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from glcic_jax.errors import DataError
from glcic_jax.evaluation.examples import Example, Examples, Skipped
from glcic_jax.evaluation.journal import Journal, Record, Rows
from glcic_jax.evaluation.mask_sets.sets import Digest
from glcic_jax.evaluation.methods import Method, blended
from glcic_jax.evaluation.perceptual import fid
from glcic_jax.evaluation.scores import BLENDED, METRICS, Scores
from glcic_jax.model.metrics import measure
from glcic_jax.pictures.colours import from_colour
from glcic_jax.pictures.rgb_files import save_image

# What is saved, and what FID compares, beside the rows.
_ORIGINALS, _MASKS = "originals", "masks"


class Distance(Protocol):
    """A metric of pairs of pictures by a network of the user's, as `lpips.Lpips`."""

    description: str

    def distances(self, completed: np.ndarray, image: np.ndarray) -> np.ndarray:
        """[N, H, W, 3] uint8 twice to [N]."""


class Features(Protocol):
    """What FID compares, as from `fid.load`."""

    description: str

    def features(self, image: np.ndarray) -> np.ndarray:
        """[N, H, W, 3] uint8 to [N, 2048] float32."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of the table: a method, with or without blending."""

    method: Method
    blended: bool = False

    @property
    def name(self) -> str:
        """What the table calls it."""
        return self.method.name + BLENDED if self.blended else self.method.name


@dataclasses.dataclass
class Evaluator:
    """Completes and measures.

    Attributes:
      examples: Images with their holes.
      rows: What is measured, the rows of a method next to each other.
      batch_size: Images at a time, at most.
      lpips, inception: Metrics by networks of the user's; None: not computed.
      save: Where images, masks and completed pictures are written as PNG; None: nowhere.
    """

    examples: Examples
    rows: Sequence[Row]
    batch_size: int = 16
    lpips: Distance | None = None
    inception: Features | None = None
    save: Path | None = None

    def run(self, journal: Journal, features: Path | None, advance: Callable[[int], None]) -> None:
        """Measures all images that the journal does not hold yet, and notes them down.

        Args:
          journal: Of this evaluation.
          features: A folder for FID's features; None where FID is not computed.
          advance: Told of every so many images that are done.

        Raises:
          UserError: An image's mask, a completed picture, the network or the disk fails.
        """
        inception, kept = self.inception, self._feature_rows(journal, features)
        warm = False
        done = journal.done
        waiting = [index for index in range(len(self.examples)) if index not in done]
        for found in self.examples.batches(waiting, self.batch_size):
            if isinstance(found, Skipped):
                journal.add([{"index": found.index, "name": found.name, "skipped": found.reason}])
                advance(1)
                continue
            records = [_record(example) for example in found]
            image, hole = np.stack([one.image for one in found]), np.stack([one.hole for one in found])
            if not warm:
                for method in dict.fromkeys(row.method for row in self.rows if not row.method.finished):
                    method.complete(found)
                warm = True
            # Others are filled up with what is not counted.
            whole = len(found) in (1, self.batch_size)
            for row, completed, seconds in _completed(self.rows, found):
                self._note(records, row, completed, image, hole, seconds if whole else None)
                if inception is not None and kept:
                    kept[row.name].add(inception.features(completed))
                self._save(self._folders[row.name], completed, found)
            if inception is not None and kept:
                kept[_ORIGINALS].add(inception.features(image))
            self._save(_ORIGINALS, image, found)
            self._save(_MASKS, np.repeat(np.uint8(255) * hole[..., None], 3, axis=-1), found)
            journal.add(records)
            advance(len(found))

    def pictures(self, record: Record, names: Collection[str]) -> dict[str, np.ndarray]:
        """The image of a record as the rows of these names complete it; see `page.Pictures`.

        Raises:
          DataError: The image, its mask or a completed picture cannot be read, or is not what was measured.
        """
        example = self.examples.read(record["index"])
        if (example.image_digest, Digest.of(example.hole).hex()) != (record["image"], record["hole"]):
            raise DataError(f"{example.name}: was changed since it was measured")
        rows = [row for row in self.rows if row.name in names]
        completed = {row.name: found[0] for row, found, _ in _completed(rows, [example])}
        return {"input": example.masked, **completed, "original": example.image}

    def _note(
        self,
        records: list[Record],
        row: Row,
        completed: np.ndarray,
        image: np.ndarray,
        hole: np.ndarray,
        seconds: float | None,
    ) -> None:
        metrics = measure(completed, image, hole)
        if self.lpips is not None:
            metrics["lpips"] = self.lpips.distances(completed, image)
        outside = (completed != image).any(axis=-1) & ~hole
        for place, record in enumerate(records):
            record["values"][row.name] = {name: float(values[place]) for name, values in metrics.items()}
            record["seconds"][row.name] = None if seconds is None else seconds / len(records)
            if outside[place].any():
                record.setdefault("changed", {})[row.name] = int(outside[place].sum())

    def _save(self, folder: str, pictures: np.ndarray, batch: list[Example]) -> None:
        if self.save is not None:
            for picture, example in zip(pictures, batch, strict=True):
                save_image(picture, self.save / folder / self._file(example.name))

    def _file(self, name: str) -> Path:
        """Where an image is saved; its suffix stays where it is what tells it from another's."""
        file = Path(name).with_suffix(".png")
        return Path(f"{name}.png") if self._saved[file] > 1 else file

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

    @functools.cached_property
    def _saved(self) -> collections.Counter[Path]:
        return collections.Counter(Path(name).with_suffix(".png") for name in self.examples.images.names)

    def _feature_rows(self, journal: Journal, folder: Path | None) -> dict[str, Rows]:
        if self.inception is None or folder is None:
            return {}
        count = sum("values" in record for record in journal.records)
        names = [row.name for row in self.rows] + [_ORIGINALS]
        files = {name: folder / f"{place:02}.f32" for place, name in enumerate(names)}
        return {name: Rows(path, count, fid.FEATURES) for name, path in files.items()}

    def scores(self, journal: Journal, features: Path | None) -> list[Scores]:
        """The numbers of every row, on all images that the journal holds; see `measured`."""
        kept = self._feature_rows(journal, features)
        records = measured(journal.records)
        distances = _frechet_distances(kept) if records and kept else {}
        return [_scores(row.name, records, distances.get(row.name)) for row in self.rows]


def _completed(rows: Iterable[Row], batch: list[Example]) -> Iterator[tuple[Row, np.ndarray, float | None]]:
    """Yields each row with its pictures [N, H, W, 3] uint8, and the seconds that they took.

    None where these are not the method's own: it had to be compiled, or only read what was finished.
    """
    filled: list[np.ndarray] = []
    method: Method | None = None
    taken: float | None = None
    for row in rows:
        if row.method is not method:
            method, programs, begun = row.method, row.method.programs, time.perf_counter()
            filled = method.complete(batch)
            own = not method.finished and method.programs == programs
            taken = time.perf_counter() - begun if own else None
        begun = time.perf_counter()
        shown = blended(filled, batch) if row.blended else filled
        seconds = None if taken is None else taken + time.perf_counter() - begun
        pictures = [from_colour(picture, example.image) for picture, example in zip(shown, batch, strict=True)]
        yield row, np.stack(pictures), seconds


def measured(records: Iterable[Record]) -> list[Record]:
    """The records of images that were measured, in the order of the images."""
    return sorted((record for record in records if "values" in record), key=lambda record: record["index"])


def mask_digest(records: Iterable[Record]) -> str:
    """The hash of the measured images' holes, as `glcic masks` prints it where none was passed over."""
    digest = Digest()
    for record in records:
        digest.add_digest(bytes.fromhex(record["hole"]))
    return digest.hexdigest()


def _record(example: Example) -> Record:
    return {
        "index": example.index,
        "name": example.name,
        "image": example.image_digest,
        "hole": Digest.of(example.hole).hex(),
        "hole_ratio": float(example.hole.mean()),
        "values": {},
        "seconds": {},
    }


def _scores(name: str, records: Sequence[Mapping[str, Any]], distance: float | None) -> Scores:
    computed = [metric for metric in METRICS if records and metric in records[0]["values"][name]]
    values = {metric: np.array([one["values"][name][metric] for one in records]) for metric in computed}
    timed = [record["seconds"][name] for record in records if record["seconds"][name] is not None]
    return Scores(name, values, len(timed) / sum(timed) if timed else None, distance)


def _frechet_distances(kept: Mapping[str, Rows]) -> dict[str, float]:
    def statistics(rows: Rows) -> fid.Statistics:
        found = fid.Statistics(fid.FEATURES)
        for part in rows:
            found.add(part)
        return found

    originals = statistics(kept[_ORIGINALS])
    return {
        name: fid.frechet_distance(statistics(rows), originals)
        for name, rows in kept.items()
        if name != _ORIGINALS
    }

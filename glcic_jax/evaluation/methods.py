"""The methods that an evaluation compares: a network, a classical fill, or a folder of completed images."""

import collections
import concurrent.futures
import os
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from glcic_jax.completion import Completer, WindowLimits, blending, stem_of
from glcic_jax.data import list_folder
from glcic_jax.errors import DataError, printable
from glcic_jax.evaluation.images import MaskedImage
from glcic_jax.pictures import load_image, to_colour
from glcic_jax.pictures.fills import FILL_RADIUS, FILLS, Fill

Item = TypeVar("Item")
Result = TypeVar("Result")


class Method(Protocol):
    """Completes images of one size.

    Attributes:
      name: Name in tables.
      description: How it completes, with the settings and versions that determine the result.
      is_finished: Whether its images were completed elsewhere; they are neither blended nor timed.
    """

    name: str
    description: str
    is_finished: bool

    @property
    def compilations(self) -> int:
        """Number of compilations so far; a run in which it grows includes one and is not timed."""

    def complete(self, images: Sequence[MaskedImage]) -> list[np.ndarray]:
        """Returns each image completed, [H, W, 3] float32 in [0, 1]."""


class NetworkMethod:
    """A trained completion network.

    Args:
      completer: The network.
      weights_sha256: Hash of its arrays.
      batch_size: Images of one size completed together.
      strategy, max_side: As in `Completer.fill`.

    Raises:
      ConfigError: `max_side` is too small.
    """

    is_finished = False

    def __init__(self, completer: Completer, weights_sha256: str, batch_size: int, strategy: str, max_side: int):
        weights = completer.description
        self.name = completer.name
        self.description = (
            f"{weights.origin}; licence: {weights.licence}; arrays sha256 {weights_sha256}; "
            f"strategy {strategy}, longest side {max_side} px"
        )
        WindowLimits(weights.hole_sides[1], max_side)  # Checks them before the first image.
        self._completer, self._batch_size = completer, batch_size
        self._strategy, self._max_side = strategy, max_side

    @property
    def compilations(self) -> int:
        return self._completer.compilations

    def complete(self, images: Sequence[MaskedImage]) -> list[np.ndarray]:
        colours = [to_colour(one.image) for one in images]
        plans = [self._completer.plan(one.hole, self._strategy, self._max_side) for one in images]
        if all(plan.strategy == "original" for plan in plans):
            # Two programs serve all batches: one for a single image, and one for a full batch, to which others are
            # padded.
            missing = max(0, self._batch_size - len(images)) if len(images) > 1 else 0
            holes = [one.hole for one in images]
            colour, hole = (np.stack(part + part[:1] * missing) for part in (colours, holes))
            return list(self._completer.fill_batch(colour, hole)[: len(images)])
        return [
            self._completer.fill(colour, one.hole, plan=plan).pixels
            for colour, one, plan in zip(colours, images, plans, strict=True)
        ]


class ClassicalMethod:
    """A fill without a network, on all cores."""

    is_finished = False
    compilations = 0

    def __init__(self, name: str):
        self.name = name
        opencv = f"OpenCV in 8 bits, radius {FILL_RADIUS:g} px; the hole is black before"
        self.description = "the mean colour of the known pixels" if name == "mean fill" else opencv
        self._fill: Fill = FILLS[name]

    def complete(self, images: Sequence[MaskedImage]) -> list[np.ndarray]:
        return on_all_cores(lambda one: to_colour(self._fill(one.image, one.hole)), images)


class FolderMethod:
    """Images completed by another program, used unchanged: changes outside the hole count too.

    They have the size of the evaluation and the image's relative path: NAME.jpg is completed as NAME.png or
    NAME_completed.png, with any suffix.

    Args:
      folder: The completed images.
      names: All images.

    Raises:
      DataError: An image has no completed image, or several.
    """

    is_finished = True
    compilations = 0

    def __init__(self, folder: Path, names: Sequence[str]):
        self.name = printable(str(folder))
        self.description = "completed images from this folder, as they are"
        self._folder = folder
        by_stem: dict[str, list[str]] = collections.defaultdict(list)
        for path in list_folder(folder).images:
            by_stem[_stem(path)].append(path)
        stems = collections.Counter(map(_stem, names))
        self._files = {name: self._find(name, by_stem, stems) for name in names}
        missing = [name for name, file in self._files.items() if not file]
        if missing:
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            raise DataError(
                f"{self.name}: holds no completed image of {printable(', '.join(missing[:3]))}{more}; name them "
                "like the images, with any suffix, or NAME_completed"
            )

    def _find(self, name: str, by_stem: dict[str, list[str]], stems: collections.Counter[str]) -> str:
        """The file of an image's completion; empty if there is none."""
        stem = _stem(name)
        found = by_stem.get(stem, []) + by_stem.get(f"{stem}_completed", [])
        # If names differ only in their suffixes, the exact name wins.
        found = [name] if name in found and found == by_stem[stem] else found
        if stems[stem] > 1 and found != [name]:
            raise DataError(
                f"{self.name}: several images are called {printable(stem)} but for their suffixes: name the "
                f"completed image exactly {printable(name)}"
            )
        if len(found) > 1:
            raise DataError(
                f"{self.name}: {' and '.join(map(printable, found))} are both {printable(name)}: remove one"
            )
        return found[0] if found else ""

    def complete(self, images: Sequence[MaskedImage]) -> list[np.ndarray]:
        return on_all_cores(self._read, images)

    def _read(self, one: MaskedImage) -> np.ndarray:
        path = self._folder / self._files[one.name]
        completed = load_image(path, printable(str(path)))
        if completed.shape != one.image.shape:
            sizes = [f"{shape[1]} x {shape[0]} px" for shape in (completed.shape, one.image.shape)]
            raise DataError(
                f"{printable(str(path))}: is {sizes[0]}, the image is {sizes[1]}; give --size as they were "
                "completed (--save writes the images to complete), or --size original"
            )
        return to_colour(completed)


def blended(completed: Sequence[np.ndarray], images: Sequence[MaskedImage]) -> list[np.ndarray]:
    """Blends completions [H, W, 3] float32 into their images (`blending.blend`), on all cores."""

    def blend(pair: tuple[np.ndarray, MaskedImage]) -> np.ndarray:
        return blending.blend(to_colour(pair[1].image), pair[0], pair[1].hole)

    return on_all_cores(blend, list(zip(completed, images, strict=True)))


def on_all_cores(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """`[work(item) for item in items]` in threads; OpenCV and NumPy release the interpreter lock."""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(work, items))


def _stem(path: str) -> str:
    # Systems write an accented letter as one code point or as two.
    return unicodedata.normalize("NFC", stem_of(path))

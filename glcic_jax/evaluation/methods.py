"""What fills holes in an evaluation: a network, a classical fill, or a folder of pictures."""

import collections
import concurrent.futures
import os
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from glcic_jax.completion import blending
from glcic_jax.completion.completer import Completer
from glcic_jax.completion.pairing import stem_of
from glcic_jax.completion.windows import WindowLimits
from glcic_jax.data.folders import COMPLETION_SUFFIXES, fingerprint, list_folder
from glcic_jax.errors import DataError, printable
from glcic_jax.evaluation.examples import Example
from glcic_jax.pictures.colours import to_colour
from glcic_jax.pictures.fills import FILLS, RADIUS, Fill
from glcic_jax.pictures.rgb_files import load_image

Item = TypeVar("Item")
Result = TypeVar("Result")


class Method(Protocol):
    """Gives completed pictures of examples of one size.

    Attributes:
      name: What a table calls it.
      description: How it does it, for a reader; the settings and what they are fixed by.
      fingerprint: Another one where what it does is something else.
      finished: Whether the pictures come from elsewhere, finished: they are neither blended nor timed.
    """

    name: str
    description: str
    fingerprint: str
    finished: bool

    @property
    def programs(self) -> int:
        """How many it has compiled: a time in which they become more is the compiler's."""

    def complete(self, examples: Sequence[Example]) -> list[np.ndarray]:
        """Returns a picture [H, W, 3] float32 in [0, 1] for each."""


class NetworkMethod:
    """A trained completion network.

    Args:
      completer: That has it.
      weights_sha256: Of its arrays.
      batch_size: How many pictures of one size are run together.
      strategy, max_side: As in `Completer.fill`.
    """

    finished = False

    def __init__(self, completer: Completer, weights_sha256: str, batch_size: int, strategy: str, max_side: int):
        described = completer.description
        self.name = completer.name
        self.description = (
            f"{described.origin}; licence: {described.licence}; arrays sha256 {weights_sha256}; "
            f"strategy {strategy}, longest side {max_side} px"
        )
        self.fingerprint = self.description
        WindowLimits(described.hole_sides[1], max_side)  # Says at once what cannot be.
        self._completer, self._batch_size = completer, batch_size
        self._strategy, self._max_side = strategy, max_side

    @property
    def programs(self) -> int:
        """See `Method`."""
        return self._completer.programs

    def complete(self, examples: Sequence[Example]) -> list[np.ndarray]:
        """See `Method`."""
        colours = [to_colour(example.image) for example in examples]
        plans = [self._completer.plan(example.hole, self._strategy, self._max_side) for example in examples]
        if all(plan.strategy == "original" for plan in plans):
            # Filled up, so that one program serves the last batch too; and another one picture by itself.
            missing = max(0, self._batch_size - len(examples)) if len(examples) > 1 else 0
            holes = [example.hole for example in examples]
            together = (np.stack(part + part[:1] * missing) for part in (colours, holes))
            return list(self._completer.fill_batch(*together)[: len(examples)])
        return [
            self._completer.fill(colour, example.hole, plan=plan).pixels
            for colour, example, plan in zip(colours, examples, plans, strict=True)
        ]


class ClassicalMethod:
    """A fill without a network, on all cores."""

    finished = False
    programs = 0

    def __init__(self, name: str):
        self.name = name
        opencv = f"OpenCV's, in 8 bits, radius {RADIUS:g} px; the hole was black before"
        self.description = "the mean colour of the known pixels" if name == "mean fill" else opencv
        self.fingerprint = self.description
        self._fill: Fill = FILLS[name]

    def complete(self, examples: Sequence[Example]) -> list[np.ndarray]:
        """See `Method`."""
        return on_all_cores(lambda example: to_colour(self._fill(example.image, example.hole)), examples)


class FolderMethod:
    """Pictures that something else completed, as they are: what differs outside the hole counts, too.

    They have the evaluated size, and the image's relative path: NAME.jpg is completed as NAME.png or as
    NAME_completed.png, say.

    Args:
      folder: That holds them.
      names: Of all images.

    Raises:
      DataError: An image has no completed picture, or several.
    """

    finished = True
    programs = 0

    def __init__(self, folder: Path, names: Sequence[str]):
        self.name = printable(str(folder))
        self.description = "pictures from this folder, as they are"
        self._folder = folder
        by_stem: dict[str, list[str]] = {}
        for path in list_folder(folder, COMPLETION_SUFFIXES).images:
            by_stem.setdefault(_stem(path), []).append(path)
        stems = collections.Counter(map(_stem, names))
        self._files: dict[str, str] = {}
        for name in names:
            stem = _stem(name)
            found = by_stem.get(stem, []) + by_stem.get(f"{stem}_completed", [])
            # Its very name tells it from another that differs in the suffix alone.
            found = [name] if name in found and found == by_stem[stem] else found
            if stems[stem] > 1 and found != [name]:
                raise DataError(
                    f"{self.name}: several images are called {printable(stem)} but for their suffixes, so that "
                    f"the completed picture of {printable(name)} has to be called just that"
                )
            if len(found) > 1:
                raise DataError(
                    f"{self.name}: {' and '.join(map(printable, found))} are both {printable(name)}: remove one"
                )
            if found:
                self._files[name] = found[0]
        missing = [name for name in names if name not in self._files]
        if missing:
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            raise DataError(
                f"{self.name}: holds no completed picture of {printable(', '.join(missing[:3]))}{more}; they are "
                "called as the images are, with any suffix, or NAME_completed"
            )
        self.fingerprint = fingerprint(folder, sorted(self._files.values()))

    def complete(self, examples: Sequence[Example]) -> list[np.ndarray]:
        """See `Method`."""
        return on_all_cores(self._read, examples)

    def _read(self, example: Example) -> np.ndarray:
        path = self._folder / self._files[example.name]
        completed = load_image(path, printable(str(path)))
        if completed.shape != example.image.shape:
            sizes = [f"{shape[1]} x {shape[0]} px" for shape in (completed.shape, example.image.shape)]
            raise DataError(
                f"{printable(str(path))}: is of {sizes[0]} and the image of {sizes[1]}; give --size as they were "
                "completed (--save writes the images to complete), or --size original"
            )
        return to_colour(completed)


def blended(completed: Sequence[np.ndarray], examples: Sequence[Example]) -> list[np.ndarray]:
    """Fits completions [H, W, 3] float32 into their images, see `blending.blend`; on all cores."""

    def fit(pair: tuple[np.ndarray, Example]) -> np.ndarray:
        return blending.blend(to_colour(pair[1].image), pair[0], pair[1].hole)

    return on_all_cores(fit, list(zip(completed, examples, strict=True)))


def on_all_cores(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """`[work(item) for item in items]`, by threads: OpenCV and NumPy let go of the interpreter."""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(work, items))


def _stem(path: str) -> str:
    # A letter with an accent is one character or two, by the system that wrote the name.
    return unicodedata.normalize("NFC", stem_of(path))

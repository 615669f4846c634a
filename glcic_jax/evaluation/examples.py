"""Images with their holes, as an evaluation goes through them: decoded ahead, a batch of one size at a time."""

import concurrent.futures
import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import cv2
import numpy as np

from glcic_jax.data import sources
from glcic_jax.data.folders import COMPLETION_SUFFIXES, FileSource, fingerprint
from glcic_jax.errors import DataError, one_line, printable
from glcic_jax.evaluation.cropping import centre_square
from glcic_jax.evaluation.mask_sets.sets import MaskSet, Size
from glcic_jax.model.metrics import SMALLEST_SIDE
from glcic_jax.pictures.rgb_files import load_image


class Part(NamedTuple):
    """Which of the images.

    Attributes:
      split: Of a folder "all", or "train" or "validation" as training splits it; of a listing "train",
        "validation" or "test"; of the samples one of the first two; of a TFDS data set any of its splits. Empty:
        all of a folder, the held-out part of anything else.
      most: So many at most, spread evenly over the listing; None: all.
      validation_fraction: Of a folder, as in `config.data`.
      tfds_dir, listing: As in `config.data`.
    """

    split: str = ""
    most: int | None = None
    validation_fraction: float = 0.02
    tfds_dir: str = ""
    listing: str = ""


class EvaluationImages(NamedTuple):
    """Images by index.

    Attributes:
      names: Short and distinct; of a folder, paths relative to it, as they are: not all may be printable.
      read: The file of one image, as bytes. Raises DataError where it cannot be read.
      description: Which images these are, for a reader.
      data, split: What was opened, and which part of it.
      fingerprint: Another one where a name, or a file of a folder, is another.
    """

    names: list[str]
    read: Callable[[int], bytes]
    description: str
    data: str
    split: str
    fingerprint: str


def open_images(data: str, part: Part) -> EvaluationImages:
    """Opens the images that an evaluation looks at.

    Args:
      data: "folder:PATH", "tfds:NAME[:VERSION]" or "samples".
      part: Which of them.

    Raises:
      ConfigError: The kind or the split is unknown, or there is a listing without a folder.
      DataError: There are no such images.
    """
    source, split = sources.open_images(
        data,
        part.split,
        option="--data ",
        suffixes=COMPLETION_SUFFIXES,
        validation_fraction=part.validation_fraction,
        tfds_dir=part.tfds_dir,
        listing=part.listing,
    )
    names = [source.short_name(index) for index in range(len(source))]
    total = len(names)
    chosen = np.arange(total)
    if part.most is not None and part.most < total:
        chosen = np.linspace(0, total - 1, part.most).round().astype(int)
    which = "all" if len(chosen) == total else f"{len(chosen):,} of"
    indices = [int(index) for index in chosen]
    named = [names[index] for index in indices]
    return EvaluationImages(
        named,
        lambda place: source.read(indices[place]),
        f"{printable(data)}, {split}: {which} {total:,} images"
        + ("" if which == "all" else ", spread evenly over the listing"),
        data,
        split,
        fingerprint(source.root, named)
        if isinstance(source, FileSource)
        else hashlib.sha256(repr(named).encode()).hexdigest(),
    )


_MOST_PIXELS = 1 << 22  # Of a batch.


@dataclasses.dataclass(frozen=True)
class Example:
    """One image.

    Attributes:
      index: Its place.
      name: What it is called.
      image: [H, W, 3] uint8.
      hole: [H, W] bool.
    """

    index: int
    name: str
    image: np.ndarray
    hole: np.ndarray

    @property
    def masked(self) -> np.ndarray:
        """The image with a white hole, [H, W, 3] uint8."""
        return np.where(self.hole[..., None], np.uint8(255), self.image)

    @property
    def image_digest(self) -> str:
        """The sha256 of the image's size and pixels, in hexadecimal digits."""
        sides = np.array(self.image.shape[:2], "<u4").tobytes()
        return hashlib.sha256(sides + self.image.tobytes()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Skipped:
    """An image that cannot be evaluated, and why, in a line."""

    index: int
    name: str
    reason: str


class Examples:
    """The images of a data set, each with its hole.

    Args:
      images: Where they come from.
      masks: What is cut out of them.
      side: Images are brought to squares of so many pixels (`cropping.centre_square`); None: they stay as they
        are.

    Raises:
      DataError: The side is too small to be measured.
    """

    def __init__(self, images: EvaluationImages, masks: MaskSet, side: int | None):
        if side is not None and side < SMALLEST_SIDE:
            raise DataError(f"--size {side}: SSIM needs images of at least {SMALLEST_SIDE} px")
        self.images = images
        self.masks = masks
        self.side = side

    def __len__(self) -> int:
        return len(self.images.names)

    def read(self, index: int) -> Example:
        """Reads one image and its hole.

        Raises:
          DataError: The image cannot be read, or is smaller than 11 px; or its mask cannot.
        """
        return self._with_hole(index, *self._read_image(index))

    def _read_image(self, index: int) -> tuple[np.ndarray, Size]:
        """An image as it is evaluated, and its (height, width) before."""
        name = printable(self.images.names[index])
        image = load_image(self.images.read(index), name)
        original = (image.shape[0], image.shape[1])
        if min(original) < SMALLEST_SIDE:
            raise DataError(f"{name}: of {original[1]} x {original[0]} px; SSIM needs {SMALLEST_SIDE} at least")
        return image if self.side is None else centre_square(image, self.side), original

    def _with_hole(self, index: int, image: np.ndarray, original: Size) -> Example:
        name, size = self.images.names[index], (image.shape[0], image.shape[1])
        return Example(index, name, image, self.masks.hole(index, size, original, name))

    def batches(self, indices: Iterable[int], most: int) -> Iterator[list[Example] | Skipped]:
        """Goes through some of the images in order; threads read ahead, a batch or two.

        Args:
          indices: Which.
          most: Examples of a batch at most; of large images fewer, so that a batch has no more than four
            megapixels, or one image.

        Yields:
          Examples of one size, in order; or an image that cannot be evaluated.
        """
        batch: list[Example] = []
        for found in self._read_ahead(indices, min(2 * most, 2 * (os.cpu_count() or 1))):
            full = len(batch) == most or (batch and (len(batch) + 1) * batch[0].hole.size > _MOST_PIXELS)
            if batch and (full or isinstance(found, Skipped) or found.image.shape != batch[0].image.shape):
                yield batch
                batch = []
            if isinstance(found, Skipped):
                yield found
            else:
                batch.append(found)
        if batch:
            yield batch

    def _read_ahead(self, indices: Iterable[int], ahead: int) -> Iterator[Example | Skipped]:
        waiting: list[concurrent.futures.Future[Example | Skipped]] = []
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            try:
                for index in indices:
                    waiting.append(pool.submit(self._try, index))
                    if len(waiting) > ahead:
                        yield waiting.pop(0).result()
                while waiting:
                    yield waiting.pop(0).result()
            finally:
                for future in waiting:
                    future.cancel()

    def _try(self, index: int) -> Example | Skipped:
        try:
            image, original = self._read_image(index)
        except (DataError, OSError, MemoryError, cv2.error) as error:
            return Skipped(index, self.images.names[index], one_line(error))
        # A mask that cannot be read is passed over by nobody: the set would be another one.
        return self._with_hole(index, image, original)

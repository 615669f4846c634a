"""The images of an evaluation with their holes: selected, decoded ahead and grouped into batches of one size."""

import concurrent.futures
import dataclasses
import hashlib
import os
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from glcic_jax.data import ImageSource
from glcic_jax.data import open_images as open_source
from glcic_jax.errors import DataError, one_line, printable
from glcic_jax.evaluation.cropping import centre_square
from glcic_jax.evaluation.mask_sets.sets import MaskSet, Size
from glcic_jax.model.metrics import SMALLEST_SIDE
from glcic_jax.pictures import load_image

_MOST_PIXELS = 1 << 22  # Of a batch.


@dataclasses.dataclass(frozen=True)
class Selection:
    """Selects the images of a data set to evaluate.

    Attributes:
      split: As in `data.sources.open_images`.
      count: Maximum number of images, spread evenly over the split; None: all.
      validation_fraction, tfds_dir, listing: As in `config.data`.
    """

    split: str = ""
    count: int | None = None
    validation_fraction: float = 0.02
    tfds_dir: str = ""
    listing: str = ""


class EvaluationImages(NamedTuple):
    """The selected images of a data set.

    Attributes:
      source: All images of the split.
      indices: Indices of the selected images in `source`.
      names: Unique names of the selected images; for a folder the relative paths, printable or not.
      data, split: Names of the data set and the split.
      description: The data set, split and number of images, for a reader.
    """

    source: ImageSource
    indices: Sequence[int]
    names: Sequence[str]
    data: str
    split: str
    description: str


def open_images(data: str, selection: Selection) -> EvaluationImages:
    """Opens the images to evaluate.

    Args:
      data: As the reference of `data.open_images`.
      selection: The images to select.

    Raises:
      ConfigError: The kind of data or the split is unknown, or a listing is given without a folder.
      DataError: There are no such images.
    """
    source, split = open_source(
        data,
        selection.split,
        option="--data ",
        validation_fraction=selection.validation_fraction,
        tfds_dir=selection.tfds_dir,
        listing=selection.listing,
    )
    total = len(source)
    indices, which = list(range(total)), f"all {total:,} images"
    if selection.count is not None and selection.count < total:
        indices = np.linspace(0, total - 1, selection.count).round().astype(int).tolist()
        which = f"{len(indices):,} of {total:,} images, spread evenly over the listing"
    names = [source.short_name(index) for index in indices]
    return EvaluationImages(source, indices, names, data, split, f"{printable(data)}, {split}: {which}")


@dataclasses.dataclass(frozen=True, eq=False)
class MaskedImage:
    """An image and its hole.

    Attributes:
      index: Place among the selected images, which selects the mask.
      name: Name of the image.
      image: [H, W, 3] uint8.
      hole: [H, W] bool, True = hole.
    """

    index: int
    name: str
    image: np.ndarray
    hole: np.ndarray

    @property
    def sha256(self) -> str:
        """The SHA-256 of the image's size and pixels, in hexadecimal digits."""
        sides = np.array(self.image.shape[:2], "<u4").tobytes()
        return hashlib.sha256(sides + self.image.tobytes()).hexdigest()


class Unreadable(NamedTuple):
    """An image that cannot be evaluated, and the reason in one line."""

    name: str
    reason: str


class MaskedImages:
    """The selected images with the masks of a set.

    Args:
      images: The images.
      masks: Their masks.
      side: Images become squares of this side in pixels (`cropping.centre_square`); None: they keep their size.

    Raises:
      DataError: The side is too small for SSIM.
    """

    def __init__(self, images: EvaluationImages, masks: MaskSet, side: int | None):
        if side is not None and side < SMALLEST_SIDE:
            raise DataError(f"--size {side}: SSIM needs images of at least {SMALLEST_SIDE} px")
        self.images = images
        self.masks = masks
        self.side = side

    def __len__(self) -> int:
        return len(self.images.names)

    def read(self, index: int) -> MaskedImage:
        """Reads one image and its mask.

        Raises:
          DataError: The image or its mask cannot be read, or the image is smaller than 11 px.
        """
        return self._add_hole(index, *self._read_image(index))

    def _read_image(self, index: int) -> tuple[np.ndarray, Size]:
        """An image at the size of the evaluation, and its (height, width) before."""
        name = printable(self.images.names[index])
        image = load_image(self.images.source.read(self.images.indices[index]), name)
        original = (image.shape[0], image.shape[1])
        if min(original) < SMALLEST_SIDE:
            raise DataError(f"{name}: {original[1]} x {original[0]} px; SSIM needs at least {SMALLEST_SIDE}")
        return image if self.side is None else centre_square(image, self.side), original

    def _add_hole(self, index: int, image: np.ndarray, original: Size) -> MaskedImage:
        name, size = self.images.names[index], (image.shape[0], image.shape[1])
        return MaskedImage(index, name, image, self.masks.hole(index, size, original, name))

    def batches(self, most: int) -> Iterator[list[MaskedImage] | Unreadable]:
        """Reads all images in order; threads read ahead.

        Args:
          most: Largest batch; smaller for large images, so that a batch has at most four megapixels or one image.

        Yields:
          Images of one size, or an image that cannot be evaluated.

        Raises:
          DataError: A mask cannot be read.
        """
        batch: list[MaskedImage] = []
        for found in self._read_ahead(min(2 * most, 2 * (os.cpu_count() or 1))):
            full = len(batch) == most or (batch and (len(batch) + 1) * batch[0].hole.size > _MOST_PIXELS)
            if batch and (full or isinstance(found, Unreadable) or found.image.shape != batch[0].image.shape):
                yield batch
                batch = []
            if isinstance(found, Unreadable):
                yield found
            else:
                batch.append(found)
        if batch:
            yield batch

    def _read_ahead(self, ahead: int) -> Iterator[MaskedImage | Unreadable]:
        waiting: deque[concurrent.futures.Future[MaskedImage | Unreadable]] = deque()
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            try:
                for index in range(len(self)):
                    waiting.append(pool.submit(self._try_read, index))
                    if len(waiting) > ahead:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def _try_read(self, index: int) -> MaskedImage | Unreadable:
        try:
            image, original = self._read_image(index)
        except (DataError, OSError, MemoryError, cv2.error) as error:
            return Unreadable(self.images.names[index], one_line(error))
        # An unreadable mask is an error: leaving it out would change the mask set.
        return self._add_hole(index, image, original)

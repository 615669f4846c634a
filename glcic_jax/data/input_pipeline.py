"""From encoded images to batches of uint8 crops, on the host, with Grain.

The seed and a position in the stream determine the order of the images and every crop; a checkpoint stores the
position alone. Each epoch shows every image once, over all processes together.
"""

import concurrent.futures
import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import grain.python as grain
import numpy as np

from glcic_jax.data.skipped_files import SkippedFiles
from glcic_jax.data.sources import ImageSource, fingerprint
from glcic_jax.errors import DataError
from glcic_jax.files import write_atomically
from glcic_jax.pictures import load_image
from glcic_jax.runtime import core_count


def random_crop(
    image: np.ndarray, rng: np.random.Generator, image_size: int, resize_range: Sequence[int]
) -> np.ndarray:
    """Resizes the shorter side to a random length in the range and cuts a random square.

    Args:
      image: [H, W, C] uint8, any size; small images are enlarged.
      rng: Source of randomness.
      image_size: Side of the square in pixels.
      resize_range: Smallest and largest shorter side in pixels, both included, at least `image_size`; (): that
        size alone.

    Returns:
      [image_size, image_size, C] uint8.

    Reference: Iizuka et al. 2017, Section 4.
    """
    sides = np.array(image.shape[:2])
    smallest, largest = resize_range or (image_size, image_size)
    scale = int(rng.integers(smallest, largest + 1)) / sides.min()
    resized_sides = np.maximum(np.round(sides * scale).astype(int), image_size)
    corner = rng.integers(0, resized_sides - image_size + 1)
    # Resizes only the part that the square needs: a whole strip of 20 x 20,000 px would fill the memory.
    first = np.minimum(np.floor(corner / scale).astype(int), sides - 1)
    last = np.minimum(np.ceil((corner + image_size) / scale).astype(int), sides)
    part = image[first[0] : last[0], first[1] : last[1]]
    height, width = np.maximum(np.round((last - first) * scale).astype(int), image_size)
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    resized = cv2.resize(part, (int(width), int(height)), interpolation=interpolation)
    resized = resized.reshape(height, width, -1)  # OpenCV drops the axis of a single channel.
    top, left = np.clip(np.round(corner - first * scale).astype(int), 0, [height - image_size, width - image_size])
    return np.ascontiguousarray(resized[top : top + image_size, left : left + image_size])


def train_batches(
    source: ImageSource,
    data: Any,
    batch_size: int,
    seed: int,
    skipped: SkippedFiles,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.DatasetIterator:
    """Returns an endless iterator over `{"image": [batch_size, S, S, C] uint8}`.

    Its state `{"next_index": n}` counts the images that this process has passed, readable or not; `set_state`
    resumes exactly there. The stream does not depend on the number of processes: each takes every
    `process_count`-th image.

    Args:
      source: The training images.
      data: `config.data`.
      batch_size: Images per batch of this process.
      seed: Determines the order and the crops.
      skipped: Receives every image that cannot be read.
      process_index, process_count: Number of this process, from 0, and number of all.
    """
    cv2.setNumThreads(0)  # Grain's threads already fill the cores.
    decode = functools.lru_cache(maxsize=data.cache_images)(lambda index: _read(source, index, data))
    unreadable: set[int] = set()

    def load(index: int, rng: np.random.Generator) -> dict[str, np.ndarray] | None:
        try:
            image = decode(index)
        except (DataError, OSError) as error:
            skipped.add(source.name(index), error)
            unreadable.add(index)
            # Without a readable image, Grain would search for one forever.
            if len(unreadable) == len(source):
                raise DataError(f"none of the {len(source)} training images can be read: {error}") from error
            return None  # Grain drops it; the next image takes its place.
        crop = random_crop(image, rng, data.image_size, data.resize_range)
        # Drawn only if `flip` is set, so that other configurations keep the crops of versions without mirroring.
        mirrored = data.flip and rng.integers(2) == 1
        return {"image": np.ascontiguousarray(crop[:, ::-1]) if mirrored else crop}

    # Split between the processes last, so that order, crops and epochs do not depend on their number.
    dataset = grain.MapDataset.range(len(source)).seed(seed).shuffle().random_map(load).repeat()
    dataset = dataset[process_index::process_count]
    options = grain.ReadOptions(
        num_threads=data.threads or core_count(), prefetch_buffer_size=data.prefetch * batch_size
    )
    return iter(dataset.to_iter_dataset(options).batch(batch_size, drop_remainder=True))


def next_index(indices: Sequence[int], process_count: int) -> list[int]:
    """Returns the position at which each process resumes.

    Args:
      indices: `next_index` of each process of the saved run.
      process_count: Number of processes now. If it differs, all resume from the slowest: unreadable images may
        have put them out of step, and no image is left out.
    """
    if len(indices) == process_count:
        return list(indices)
    return [min(indices) * len(indices) // process_count] * process_count


def validation_batch(source: ImageSource, data: Any, count: int, seed: int, skipped: SkippedFiles) -> np.ndarray:
    """Returns fixed crops of held-out images, [count, S, S, C] uint8, in an order that the seed determines.

    A source with fewer than `count` images gives several crops of each.

    Raises:
      DataError: No image can be read.
    """
    waiting = [int(index) for index in np.random.default_rng(seed).permutation(len(source))]
    crops: list[np.ndarray] = []
    while len(crops) < count:
        index = waiting.pop(0)
        try:
            image = _read(source, index, data)
        except (DataError, OSError) as error:
            skipped.add(source.name(index), error)
            if not waiting:
                raise DataError(f"none of the {len(source)} validation images can be read: {error}") from error
            continue
        waiting.append(index)
        rng = np.random.default_rng((seed, len(crops)))
        crops.append(random_crop(image, rng, data.image_size, data.resize_range))
    return np.stack(crops)


def mean_pixel(source: ImageSource, data: Any, skipped: SkippedFiles) -> np.ndarray:
    """Returns the mean of the mean colours of the training images, [3] float32 in [0, 1].

    Reads all images, or `data.mean_pixel_images` spread evenly over a larger source.

    Raises:
      DataError: No image can be read.
    """
    count = min(len(source), data.mean_pixel_images)
    indices = (int(index) for index in np.linspace(0, len(source) - 1, count))

    def mean_of(index: int) -> np.ndarray | None:
        try:
            return _read(source, index, data).mean(axis=(0, 1))
        except (DataError, OSError) as error:
            skipped.add(source.name(index), error)
            return None

    with concurrent.futures.ThreadPoolExecutor(data.threads or core_count()) as pool:
        means = [mean for mean in pool.map(mean_of, indices) if mean is not None]
    if not means:
        raise DataError(f"none of the {count} sampled training images can be read")
    return (np.mean(means, axis=0) / 255.0).astype(np.float32)


def kept_mean_pixel(
    path: Path, source: ImageSource, data: Any, skipped: SkippedFiles, log: Callable[[str], None]
) -> np.ndarray:
    """Returns the mean pixel, [3] float32 in [0, 1]: `data.mean_pixel`, else the one in a file, else a new one.

    A new one is written to the file `path`, which is replaced if it belongs to other images.
    """
    if data.mean_pixel:
        return np.asarray(data.mean_pixel, np.float32)
    count = min(len(source), data.mean_pixel_images)
    identity = {"images": fingerprint(source), "looked_at": count}
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):  # ValueError: not JSON.
        found = {}
    if isinstance(found, dict) and "mean_pixel" in found and identity.items() <= found.items():
        return np.asarray(found["mean_pixel"], np.float32)
    log(f"computing the mean pixel of {count} training images")
    mean = mean_pixel(source, data, skipped)
    write_atomically(path, json.dumps({**identity, "mean_pixel": [float(value) for value in mean]}) + "\n")
    return mean


def _read(source: ImageSource, index: int, data: Any) -> np.ndarray:
    """Reads an image, [H, W, 3] or grey [H, W, 1] uint8; raises DataError if `config.data` does not admit it."""
    name, side = source.name(index), data.image_size
    # Pixels of the file count where a size is demanded; otherwise a JPEG may be decoded at a fraction of its size.
    at_least = data.resize_range[1] if data.resize_range and not data.centre_crop else None
    image = load_image(source.read(index), name, at_least=at_least)
    if data.centre_crop:
        image = _centre_crop(image, data.centre_crop, name)
    height, width = image.shape[:2]
    if not data.resize_range and (height, width) != (side, side):
        raise DataError(
            f"{name}: has {width} x {height} px, and data.image_size is {side}: give data.resize_range, such as "
            f"({side}, {side}), to resize"
        )
    if not data.grey:
        return image
    if (image != image[..., :1]).any():
        raise DataError(f"{name}: has colours, and data.grey admits one channel")
    return np.ascontiguousarray(image[..., :1])


def _centre_crop(image: np.ndarray, side: int, name: str) -> np.ndarray:
    height, width = image.shape[:2]
    if min(height, width) < side:
        raise DataError(
            f"{name}: has {width} x {height} px, and data.centre_crop is {side}: give a smaller one, or 0"
        )
    top, left = (height - side) // 2, (width - side) // 2
    return np.ascontiguousarray(image[top : top + side, left : left + side])

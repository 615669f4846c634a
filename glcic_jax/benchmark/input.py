"""Times the input pipeline alone: from JPEG files to batches of crops."""

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from glcic_jax.benchmark.common import core_count, load_config, print_heading, print_table
from glcic_jax.errors import ConfigError

NEEDED = 1_110  # Images/s that train 500,000 steps of 96 images in 12 hours.
_SHORTER_SIDES = (256, 512)
_JPEG_QUALITY = 90


def print_input(
    config_path: str, source: Path | None, files: int, images: int, threads: str, batch_size: int | None
) -> None:
    """Prints how many images/s the pipeline makes, and how many cores make as many as training is to take.

    Args:
      config_path: Whose crops are made.
      source: A folder of photographs; None: JPEG files of Places' sizes, made from the samples.
      files: How many of those.
      images: How many are timed with each number of threads.
      threads: Numbers of decoding threads, joined by commas; "": 1, 2, 4 ... and the number of cores.
      batch_size: Images of a batch; None: the configuration's.

    Raises:
      ConfigError, DataError: Sizes do not fit or there are no images; nothing has been printed then.
    """
    config = load_config(config_path, batch_size)
    counts = _thread_counts(threads)
    config.data.cache_images = 0  # Decoding is what is timed.
    with contextlib.ExitStack() as stack:
        if source is None:
            source = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            make_jpegs(source, files)
        config.data.source, config.data.listing = f"folder:{source}", ""
        from glcic_jax.data.sources import open_sources

        train = open_sources(config.data).train
        print_heading("no device", ["grain", "opencv-python-headless", "pillow"])
        click.echo(
            f"{len(train)} files, crops of {config.data.image_size} px; needed for the goal: {NEEDED} images/s\n"
        )
        columns = ["threads", "images/s", "images/s and core", "images per CPU second", f"cores for {NEEDED}/s"]
        print_table(columns, _rows(config, train, counts, images))


def _thread_counts(threads: str) -> list[int]:
    if threads:
        try:
            counts = [int(count) for count in threads.split(",")]
        except ValueError:
            counts = [0]
        if min(counts) < 1:
            raise ConfigError(f"--threads {threads}: give whole numbers above 0, joined by commas")
        return counts
    cores = core_count()
    return sorted({cores, *(2**power for power in range(cores.bit_length()) if 2**power <= cores)})


def make_jpegs(folder: Path, count: int) -> None:
    """Writes JPEG files of Places' sizes into a folder: parts of the samples, shorter sides of 256 to 512 px."""
    import cv2
    import numpy as np

    from glcic_jax.data.sources import open_images
    from glcic_jax.pictures.rgb_files import load_image

    samples = open_images("samples", "train", option="--source ").source
    pictures = [load_image(samples.read(index), samples.name(index)) for index in range(len(samples))]
    rng = np.random.default_rng(0)
    for number in range(count):
        picture = pictures[number % len(pictures)]
        shorter = int(rng.integers(_SHORTER_SIDES[0], _SHORTER_SIDES[1] + 1))
        width, height = shorter * 4 // 3, shorter
        # A part of the picture, so that no two files are alike.
        part = min(picture.shape[0], picture.shape[1] * 3 // 4) * rng.uniform(0.7, 1.0)
        rows, columns = int(part), int(part * 4 / 3)
        top = int(rng.integers(0, picture.shape[0] - rows + 1))
        left = int(rng.integers(0, max(1, picture.shape[1] - columns + 1)))
        resized = cv2.resize(picture[top : top + rows, left : left + columns], (width, height))
        encoded = cv2.imencode(".jpg", resized[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1]
        (folder / f"{number:05}.jpg").write_bytes(encoded.tobytes())


def _rows(config: Any, train: Any, counts: list[int], images: int) -> Iterator[list[str]]:
    rounds = max(1, images // config.batch_size)
    # Each number of threads reads the same files in the same order; without this, the first would read from the
    # disk what the others find in the system's cache.
    _time_batches(config, train, max(counts), rounds)
    for threads in counts:
        seconds, busy = _time_batches(config, train, threads, rounds)
        made = rounds * config.batch_size
        cores = min(threads, core_count())
        yield [
            str(threads),
            f"{made / seconds:.1f}",
            f"{made / seconds / cores:.1f}",
            f"{made / busy:.1f}",
            f"{NEEDED * busy / made:.1f}",
        ]


def _time_batches(config: Any, train: Any, threads: int, rounds: int) -> tuple[float, float]:
    """Seconds of so many batches, from a run's first, and of all cores' work on them."""
    from glcic_jax.data.input_pipeline import train_batches
    from glcic_jax.data.skipped_files import SkippedFiles

    config.data.threads = threads
    skipped = SkippedFiles(None, len(train), config.data.max_skipped_fraction)
    batches = train_batches(train, config.data, config.batch_size, 0, skipped)
    next(batches)  # Threads start.
    # What was decoded ahead before the clock began would count for nothing: with no work between two batches the
    # reader is always the slower one, and nothing lies ready.
    begun, worked = time.perf_counter(), time.process_time()
    for _ in range(rounds):
        next(batches)
    seconds, busy = time.perf_counter() - begun, time.process_time() - worked
    # Or its threads would go on decoding ahead while the next ones are timed.
    batches.close()
    return seconds, busy

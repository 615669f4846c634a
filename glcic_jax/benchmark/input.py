"""Times the input pipeline alone, from JPEG files to batches of crops."""

import atexit
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from glcic_jax.benchmark.common import load_config, print_heading, print_table
from glcic_jax.runtime import core_count

NEEDED = 1_110  # Images/s for 500,000 steps of 96 images in 12 hours.
_SHORTER_SIDES = (256, 512)
_JPEG_QUALITY = 90


def print_input(
    config_path: str,
    source: Path | None,
    files: int,
    images: int,
    threads: tuple[int, ...] | None,
    batch_size: int | None,
) -> None:
    """Prints the images/s of the input pipeline, and the cores that `NEEDED` images/s take.

    Args:
      config_path: Configuration that gives the crops.
      source: Folder of photographs; None generates JPEG files of Places' sizes from the samples.
      files: Number of generated files.
      images: Images timed with each number of threads.
      threads: Numbers of decoding threads; None tries 1, 2, 4, ... and the number of cores.
      batch_size: Images per batch; None takes the configuration's.

    Raises:
      ConfigError, DataError: Sizes do not fit or there are no images; nothing has been printed then.
    """
    config = load_config(config_path, batch_size)
    config.data.cache_images = 0  # Decoding is timed, too.
    cores = core_count()
    powers = [2**power for power in range(cores.bit_length())]
    if source is None:
        folder = tempfile.TemporaryDirectory()
        atexit.register(folder.cleanup)  # Not before: threads may still decode its files.
        source = Path(folder.name)
        make_jpegs(source, files)
    config.data.source, config.data.listing = f"folder:{source}", ""
    from glcic_jax.data import open_sources

    train = open_sources(config.data).train
    print_heading("no device", ["grain", "opencv-python-headless", "pillow"])
    click.echo(
        f"{len(train)} files, crops of {config.data.image_size} px; the paper's schedule in 12 hours needs "
        f"{NEEDED} images/s\n"
    )
    columns = ["threads", "images/s", "images/s and core", "images per CPU second", f"cores for {NEEDED}/s"]
    print_table(columns, _rows(config, train, threads or sorted({cores, *powers}), images))


def make_jpegs(folder: Path, count: int) -> None:
    """Writes JPEG files of Places' sizes: parts of the samples, with shorter sides of 256 to 512 px."""
    import cv2
    import numpy as np

    from glcic_jax.data import open_images
    from glcic_jax.pictures import load_image

    samples = open_images("samples", "train", option="--source ").source
    pictures = [load_image(samples.read(index), samples.name(index)) for index in range(len(samples))]
    rng = np.random.default_rng(0)
    for number in range(count):
        picture = pictures[number % len(pictures)]
        shorter = int(rng.integers(_SHORTER_SIDES[0], _SHORTER_SIDES[1] + 1))
        # A random part, so that no two files are equal.
        part = min(picture.shape[0], picture.shape[1] * 3 // 4) * rng.uniform(0.7, 1.0)
        rows, columns = int(part), int(part * 4 / 3)
        top = int(rng.integers(0, picture.shape[0] - rows + 1))
        left = int(rng.integers(0, max(1, picture.shape[1] - columns + 1)))
        resized = cv2.resize(picture[top : top + rows, left : left + columns], (shorter * 4 // 3, shorter))
        encoded = cv2.imencode(".jpg", resized[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1]
        (folder / f"{number:05}.jpg").write_bytes(encoded.tobytes())


def _rows(config: Any, train: Any, thread_counts: Sequence[int], images: int) -> Iterator[list[str]]:
    batches = max(1, images // config.batch_size)
    made = batches * config.batch_size
    # Untimed: fills the system's file cache, so that the first row does not read from the disk alone.
    _time_batches(config, train, max(thread_counts), batches)
    for threads in thread_counts:
        seconds, cpu_seconds = _time_batches(config, train, threads, batches)
        yield [
            str(threads),
            f"{made / seconds:.1f}",
            f"{made / seconds / min(threads, core_count()):.1f}",
            f"{made / cpu_seconds:.1f}",
            f"{NEEDED * cpu_seconds / made:.1f}",
        ]


def _time_batches(config: Any, train: Any, threads: int, count: int) -> tuple[float, float]:
    """Returns the wall time and the processor time of `count` batches, in seconds."""
    from glcic_jax.data import SkippedFiles
    from glcic_jax.data.input_pipeline import train_batches

    config.data.threads = threads
    skipped = SkippedFiles(None, len(train), config.data.max_skipped_fraction)
    batches = train_batches(train, config.data, config.batch_size, 0, skipped)
    # The first batch starts the threads. The images that they decode ahead hardly count: nothing happens between
    # two batches, so the pipeline is always the slower side and its buffer stays empty.
    next(batches)
    begin, cpu_begin = time.perf_counter(), time.process_time()
    for _ in range(count):
        next(batches)
    seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu_begin
    batches.close()  # Stops the threads before the next measurement.
    return seconds, cpu_seconds

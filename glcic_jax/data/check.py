"""`glcic data check`: reads every image of a data set and reports what training would find."""

import contextlib
import functools
import hashlib
import itertools
import json
import multiprocessing
import os
import shlex
import signal
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np

from glcic_jax.data.folders import (
    LARGE_FILE,
    FileSource,
    FolderContents,
    list_folder,
    split_folder,
    too_few_images,
)
from glcic_jax.data.sources import ImageSource
from glcic_jax.data.tfds import (
    TfdsSource,
    is_version,
    open_prepared,
    open_split,
    prepare_command,
    prepared_info,
    training_splits,
)
from glcic_jax.errors import ConfigError, DataError, one_line, printable
from glcic_jax.pictures.rgb_files import LARGE, Header, load_with_header
from glcic_jax.progress import Progress, format_bytes

_MIN_SIDE = 64  # Pixels: enough for the mean colour; damage shows at any decoded size.
_CHUNK = 64  # Images per task of a worker.
_SHOWN = 20  # Unreadable images on the screen.

Item = tuple[str, str | int]  # An image: its part, and its path below the folder or its index in the split.


class Images(NamedTuple):
    """The images to check.

    Attributes:
      root: The folder, or the directory of a prepared TFDS version.
      parts: The images of each part: "train" and "validation", or the splits.
      contents: All files of the folder; nothing for a TFDS data set.
    """

    root: Path
    parts: Mapping[str, Sequence[str] | range]
    contents: FolderContents = FolderContents([], Counter(), 0, [])

    def items(self) -> Iterable[Item]:
        """Every image, part by part."""
        return ((part, image) for part, images in self.parts.items() for image in images)

    @property
    def total(self) -> int:
        """Number of images."""
        return sum(map(len, self.parts.values()))


class Finding(NamedTuple):
    """The result of reading one image.

    Attributes:
      error: Why the image cannot be read; empty if it can.
      postponed: Whether it was not read because it needs much memory.
      size: Size of the file in bytes.
      digest: Hash of the file.
      header: The header; None if the image was not read.
      mean: Mean (r, g, b) of the pixels, in [0, 1].
    """

    error: str = ""
    postponed: bool = False
    size: int = 0
    digest: bytes = b""
    header: Header | None = None
    mean: tuple[float, ...] = ()


_CRASHED = Finding(error="cannot be read as an image (the decoder crashed, or the memory was full)")
_POSTPONED = Finding(postponed=True)


def check_data(
    path: Path,
    processes: int | None,
    list_file: Path | None,
    json_file: Path | None,
    *,
    image_size: int,
    validation_fraction: float,
    max_skipped_fraction: float,
) -> bool:
    """Reads all images below a path and reports on them.

    Args:
      path: A folder, or the directory of a prepared TFDS data set.
      processes: Number of reading processes; None: one per core.
      list_file: File for the names of all unreadable images, one per line; "-": stdout, instead of the text.
      json_file: File for the report as JSON; "-": stdout, instead of the text.
      image_size, validation_fraction, max_skipped_fraction: As in `config.data`.

    Returns:
      Whether all images and folders can be read.

    Raises:
      ConfigError: Both files are stdout.
      DataError: There are no images, or a file cannot be written.
    """
    targets = [str(file) for file in (list_file, json_file) if file is not None]
    if targets.count("-") > 1:
        raise ConfigError("only one of --list and --json can be - (stdout): name a file for the other")
    images = find_images(path, validation_fraction)
    for target in targets:  # Unwritable files are reported before reading. Appending keeps an earlier report.
        _write(target, "", "a")
    # A container may allow fewer cores than the machine has.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    log = functools.partial(click.echo, err=True)
    with Progress("reading", images.total, log, unit="images") as progress:
        findings = read_all(images, processes or cores, progress.advance)
    values = report(images, findings, image_size, max_skipped_fraction)
    if list_file is not None:
        _write(str(list_file), "".join(f"{bad['name']}: {bad['reason']}\n" for bad in values["unreadable"]))
    if json_file is not None:
        _write(str(json_file), json.dumps(values, indent=2) + "\n")
    if "-" not in targets:
        click.echo(as_text(values))
    return not values["unreadable"] and not values["unopened_folders"]


def _write(target: str, text: str, mode: str = "w") -> None:
    try:
        with click.open_file(target, mode, encoding="utf-8") as file:  # "-" is stdout.
            file.write(text)
    except OSError as error:
        raise DataError(f"{target}: cannot be written ({one_line(error)})") from error


def find_images(root: Path, validation_fraction: float) -> Images:
    """Lists the images of a folder, or opens a prepared TFDS data set.

    Args:
      root: A folder, the directory of a prepared version, or a directory above exactly one.
      validation_fraction: Fraction of a folder that training holds out.

    Raises:
      DataError: No such folder, fewer than two images, several data sets, or one that cannot be opened.
    """
    name = printable(str(root))
    if not root.is_dir():
        reason = "is a file, not a folder" if root.exists() else "no such folder"
        raise DataError(f"{name}: {reason}; give a folder of photographs or a prepared data set")
    contents = list_folder(root)
    # TFDS extracts archives in its data directory; any other image makes it a folder of photographs.
    if all(path.startswith("downloads/") for path in contents.images) and (prepared := _prepared_below(root)):
        if len(prepared) > 1:
            choices = ", ".join(printable(str(path)) for path in prepared)
            raise DataError(f"{name} holds several prepared data sets: give one of {choices}")
        builder = _open(prepared[0])
        if not builder.info.splits:
            raise DataError(f"{prepared[0]}: the data set has no split")
        return Images(
            prepared[0], {split: range(len(open_split(builder, split))) for split in builder.info.splits}
        )
    if len(contents.images) < 2:
        raise DataError(too_few_images(root, contents))
    train, validation = split_folder(contents.images, validation_fraction)
    return Images(root, {"train": train, "validation": validation}, contents)


def _prepared_below(root: Path) -> list[Path]:
    """Finds prepared data sets: `root` itself, or versions up to three levels below."""
    infos = [root / "dataset_info.json"]
    for depth in (1, 2, 3):
        infos += [path for path in root.glob("*/" * depth + "dataset_info.json") if is_version(path.parent.name)]
    # Other programs write a dataset_info.json too, but no features.json beside it.
    return sorted(path.parent for path in infos if path.is_file() and path.with_name("features.json").is_file())


def _open(root: Path) -> Any:
    info = prepared_info(root)
    data_dir = root.absolute().parents[1 + info.name.count("/")]
    return open_prepared(root, prepare_command(f"{info.name}:{info.version}", str(data_dir)))


@functools.cache
def _open_split(root: Path, split: str) -> TfdsSource:
    return open_split(_open(root), split)


def read_all(images: Images, processes: int, advance: Callable[[], Any]) -> "Findings":
    """Reads every image in several processes; calls `advance` once per image."""
    findings = Findings()
    postponed: list[Item] = []
    chunk = min(_CHUNK, 1 + images.total // (4 * processes))
    # Images that need much memory are read last, one at a time.
    passes = ((False, images.items(), processes, chunk), (True, postponed, 1, 1))
    for large, items, workers, chunk_size in passes:
        work = functools.partial(inspect_items, images.root, large=large)
        with contextlib.closing(map_in_processes(work, items, workers, chunk_size, _CRASHED)) as results:
            for item, finding in results:
                if finding.postponed:
                    postponed.append(item)
                    continue
                findings.add(item, finding)
                advance()
    return findings


_CANNOT_START = (
    "no worker process can start: the memory is full or limited, or the program cannot be imported, for example "
    "because it is read from standard input"
)


def map_in_processes(
    work: Callable[[list[Any]], list[Any]], items: Iterable[Any], processes: int, chunk_size: int, crashed: Any
) -> Generator[tuple[Any, Any], None, None]:
    """Applies a function to all items in worker processes; an item that kills its process does not stop the rest.

    Args:
      work: Maps a list of items to a list of results; picklable.
      items: Consumed as the work proceeds.
      processes: Number of workers.
      chunk_size: Items per task.
      crashed: The result for an item that killed its process.

    Yields:
      Each item with its result, in any order. Closing the generator stops the workers.

    Raises:
      DataError: No worker can start. Exceptions of `work` are raised too.
    """
    iterator = iter(items)
    chunks = iter(lambda: list(itertools.islice(iterator, chunk_size)), [])
    suspects: list[list[Any]] = []  # Tasks to repeat; the items of a crashed task one by one.
    # Not forked: a fork copies the locks of threads that do not exist in it.
    context = multiprocessing.get_context("spawn")
    reader, writer = context.Pipe(duplex=False)  # The workers exit when it closes.
    # An executor breaks as a whole when a process dies, so each has one process and one task.
    idle: list[tuple[ProcessPoolExecutor, Future]] = []
    running: dict[Future, tuple[tuple[ProcessPoolExecutor, Future], list[Any]]] = {}
    try:
        while True:
            while len(running) < processes and (chunk := suspects.pop() if suspects else next(chunks, [])):
                worker = idle.pop() if idle else _start_worker(context, reader)
                try:
                    running[worker[0].submit(work, chunk)] = worker, chunk
                except BrokenProcessPool as error:  # Killed while it was idle, or at its start.
                    if worker[1].exception() is not None:
                        raise DataError(_CANNOT_START) from error
                    suspects.append(chunk)
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                worker, chunk = running.pop(future)
                try:
                    results = future.result()
                except BrokenProcessPool as error:
                    if worker[1].exception() is not None:
                        raise DataError(_CANNOT_START) from error
                    if len(chunk) > 1:
                        suspects += [[item] for item in chunk]
                        continue
                    results = [crashed]
                else:
                    idle.append(worker)
                yield from zip(chunk, results, strict=True)
    finally:
        writer.close()
        reader.close()
        for executor, _ in [*idle, *(worker for worker, _ in running.values())]:
            executor.shutdown()


def _start_worker(context: Any, pipe: Any) -> tuple[ProcessPoolExecutor, Future]:
    """Returns an executor of one process, and a future that fails if the process cannot start."""
    executor = ProcessPoolExecutor(1, context, _initialize_worker, (pipe,))
    # The worker inherits that SIGINT is ignored: otherwise Ctrl-C during its imports would print a traceback.
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return executor, executor.submit(os.getpid)
    finally:
        signal.signal(signal.SIGINT, handler)


def _initialize_worker(pipe: Any) -> None:
    threading.Thread(target=_exit_when_closed, args=(pipe,), daemon=True).start()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # The warnings of C libraries.


def _exit_when_closed(pipe: Any) -> None:
    pipe.poll(None)
    os._exit(1)


def inspect_items(root: Path, items: Sequence[Item], large: bool = False) -> list[Finding]:
    """Reads images; unless `large`, postpones those that need much memory."""
    return [
        _inspect(FileSource(root, [image]), 0, large)
        if isinstance(image, str)
        else _inspect(_open_split(root, part), image, large)
        for part, image in items
    ]


def _inspect(source: ImageSource, index: int, large: bool) -> Finding:
    name = source.name(index)
    try:
        if not large and isinstance(source, FileSource) and source.size(index) > LARGE_FILE:
            return _POSTPONED
        content = source.read(index)
        header, image = load_with_header(content, name, _MIN_SIDE, float("inf") if large else LARGE)
        if image is None:
            return _POSTPONED
    except (DataError, OSError) as error:
        return Finding(error=printable(str(error)).removeprefix(f"{name}: "))
    # Rows first: a sum over both axes of a channels-last array at once is ten times slower.
    sums = image.sum(axis=0, dtype=np.uint32).sum(axis=0, dtype=np.float64)
    mean = tuple(float(value) for value in sums / (255.0 * image.shape[0] * image.shape[1]))
    return Finding("", False, len(content), hashlib.blake2b(content, digest_size=16).digest(), header, mean)


class Findings:
    """The findings of all images, as counts."""

    def __init__(self) -> None:
        self.bytes = 0
        self.formats: Counter[str] = Counter()
        self.modes: Counter[str] = Counter()
        self.sides: dict[str, Counter[int]] = {name: Counter() for name in ("width", "height", "shorter_side")}
        self.unreadable: list[tuple[str, str]] = []
        self.in_both_parts = 0
        self.readable_in: Counter[str] = Counter()
        self.unreadable_in: Counter[str] = Counter()
        self._part_of: dict[bytes, str] = {}
        self._color_sums: dict[str, np.ndarray] = {}

    def add(self, item: Item, finding: Finding) -> None:
        """Counts one image."""
        part, image = item
        if finding.header is None:
            name = printable(image) if isinstance(image, str) else f"{part}[{image}]"
            self.unreadable.append((name, finding.error))
            self.unreadable_in[part] += 1
            return
        width, height = finding.header.width, finding.header.height
        for name, side in (("width", width), ("height", height), ("shorter_side", min(width, height))):
            self.sides[name][side] += 1
        self.bytes += finding.size
        self.formats[finding.header.format] += 1
        self.modes[finding.header.mode] += 1
        self.readable_in[part] += 1
        self._color_sums[part] = self._color_sums.get(part, 0.0) + np.asarray(finding.mean)
        self.in_both_parts += self._part_of.setdefault(finding.digest, part) != part

    @property
    def duplicates(self) -> int:
        """Number of files that repeat another file byte for byte."""
        return self.readable_in.total() - len(self._part_of)

    def mean_pixel(self, part: str) -> list[float] | None:
        """Returns (r, g, b) in [0, 1]: the mean over the images of a part of their mean colours."""
        if part not in self._color_sums:
            return None
        return [float(value) for value in self._color_sums[part] / self.readable_in[part]]


def range_of(counts: Counter[int]) -> tuple[int, int, int] | None:
    """Returns the minimum, the lower median and the maximum of counted numbers; None if there are none."""
    remaining = (counts.total() + 1) // 2
    for value in sorted(counts):
        remaining -= counts[value]
        if remaining <= 0:
            return min(counts), value, max(counts)
    return None


def report(images: Images, findings: Findings, image_size: int, max_skipped_fraction: float) -> dict[str, Any]:
    """Returns the report as plain values; the keys are those of --json."""
    train, validation = (split.partition("[")[0] for split in training_splits(list(images.parts)))
    opened = {train, validation}  # Training does not open a test split. Both may be slices of one split.
    skipped = sum(findings.unreadable_in[part] for part in opened)
    available = sum(len(images.parts[part]) for part in opened)
    return {
        "path": printable(os.path.abspath(images.root)),
        "images": images.total,
        "parts": {part: len(names) for part, names in images.parts.items()},
        "readable": findings.readable_in.total(),
        "unreadable": [{"name": name, "reason": reason} for name, reason in sorted(findings.unreadable)],
        "max_skipped_fraction": max_skipped_fraction,
        "unreadable_in_training": skipped,
        "training_would_stop": skipped > max_skipped_fraction * available,
        "bytes": findings.bytes,
        "formats": dict(findings.formats.most_common()),
        "modes": dict(findings.modes.most_common()),
        "sides": {name: range_of(counts) for name, counts in findings.sides.items()},
        "image_size": image_size,
        "enlarged": sum(n for side, n in findings.sides["shorter_side"].items() if side < image_size),
        "duplicates": findings.duplicates,
        "duplicates_in_other_part": findings.in_both_parts,
        "mean_pixel": findings.mean_pixel(train),
        "other_files": {printable(suffix): count for suffix, count in images.contents.others.most_common()},
        "hidden_files": images.contents.hidden,
        "unopened_folders": images.contents.unopened,
    }


def as_text(values: dict[str, Any]) -> str:
    """Returns a report as lines for the terminal."""
    count, bad = values["images"], values["unreadable"]
    parts = ", ".join(f"{images:,} {part}" for part, images in values["parts"].items())
    rows = [
        ("images", f"{count:,}: {parts}"),
        ("readable", f"{values['readable']:,}, {format_bytes(values['bytes'])}"),
        ("unreadable", f"{len(bad):,} ({len(bad) / count:.2%})"),
        ("formats", _counts(values["formats"])),
        ("colour modes", _counts(values["modes"])),
    ]
    for name, found in values["sides"].items():
        if found:
            rows.append((name.replace("_", " "), f"{found[0]:,} to {found[2]:,} px, median {found[1]:,}"))
    rows += [
        ("enlarged", f"{values['enlarged']:,} are smaller than the crop of {values['image_size']} px"),
        ("duplicates", f"{values['duplicates']:,} ({values['duplicates_in_other_part']:,} in another part)"),
        ("other files", _counts(values["other_files"]) + f"; {values['hidden_files']:,} hidden"),
    ]
    rows += [("not opened", folder) for folder in values["unopened_folders"][:_SHOWN]]
    if values["mean_pixel"]:
        pixel = ",".join(f"{value:.5f}" for value in values["mean_pixel"])
        rows.append(("mean pixel", f"'--config.data.mean_pixel=({pixel})'"))
    rows.append(("training", _verdict(values)))
    lines = [values["path"], *(f"  {name:14}  {value}" for name, value in rows)]
    if bad:
        lines += ["", "cannot be read:", *(f"  {entry['name']}: {entry['reason']}" for entry in bad[:_SHOWN])]
    if len(bad) > _SHOWN:
        lines.append(
            f"  and {len(bad) - _SHOWN:,} more: glcic data check --list FILE {shlex.quote(values['path'])}"
        )
    return "\n".join(lines)


def _verdict(values: dict[str, Any]) -> str:
    limit = f"{values['max_skipped_fraction']:.2%} (data.max_skipped_fraction)"
    if not values["unreadable"]:
        return "can read every image"
    if not values["unreadable_in_training"]:
        return "can read every image of the parts that it opens"
    if values["training_would_stop"]:
        return f"would stop: more than {limit} is unreadable; remove or replace these files, or raise the limit"
    return f"would skip the unreadable images, at most {limit}"


def _counts(counts: dict[str, int]) -> str:
    shown = [f"{name or 'no suffix'} {count:,}" for name, count in list(counts.items())[:8]]
    return ", ".join(shown + ["..."] * (len(counts) > 8)) or "none"

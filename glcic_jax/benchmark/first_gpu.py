"""Everything that is to be known about a GPU, in the few minutes for which one may be had.

Each part runs in a process of its own, so that none can take more than its time or end the others. Results are
written as they come.
"""

import contextlib
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import click

from glcic_jax.benchmark.common import load_config
from glcic_jax.errors import ConfigError, last_error_line, lookup, printable

_BENCHMARK = (sys.executable, "-m", "glcic_jax.benchmark")
_GLCIC = (sys.executable, "-c", "from glcic_jax.commands.main import main; main()")
_PHASES = ("joint", "completion", "discriminator")
_PARTS = ("ceilings", "layers", "agreement", "phases", "traces", "deterministic", "plain layers", "training")
_TRAINING_SECONDS = 150  # That the other parts leave.
_SAVING_SECONDS = 30  # For the last checkpoint, and as many for exporting the weights.
_FIRST_SHARE = 0.6  # Of the training's time until SIGTERM: the first start compiles.


class Part(NamedTuple):
    """A command that prints a table, whose rows begin with the names of what it measures.

    Attributes:
      command: Of `python -m glcic_jax.benchmark`, with its options.
      option: The option that takes the names, comma-separated; "": there is none.
      names: What it measures: after a failure, it is started again with those that are left.
      seconds: Limit of the whole part.
      silence: Limit of one row, in seconds.
      flags: Added to XLA_FLAGS.
    """

    command: Sequence[str]
    option: str
    names: Sequence[str]
    seconds: float
    silence: float
    flags: str = ""

    def with_patience(self, factor: float) -> Self:
        """Returns the part with its limits multiplied."""
        return self._replace(seconds=factor * self.seconds, silence=factor * self.silence)


def print_first_gpu(
    out: Path,
    seconds: float,
    patience: float,
    parts: str,
    config_path: str,
    batch_size: int | None,
    references: Path | None,
    training: Sequence[str],
) -> None:
    """Runs the parts one after another.

    Args:
      out: A new directory for results.jsonl (a line for each row and each failure), results.md (the tables),
        log.txt (what the processes wrote to stderr), traces.zip, and of the training metrics.csv, grid.png and
        weights.safetensors.
      seconds: Limit of everything.
      patience: Factor on the limits of each part and row, for slow devices.
      parts: Names in `_PARTS`, comma-separated, in the order to run them.
      config_path: Configuration that gives the sizes of all but the training.
      batch_size: Images per step; None takes the configuration's.
      references: A file of `layers --make-references`, for the agreement.
      training: Arguments of main.py, for the training.

    Raises:
      ConfigError: Names do not fit, or the directory exists; nothing has been started then.
    """
    from glcic_jax.benchmark.layers import cases  # Imports JAX, which leaves the device to the processes.

    names = parts.split(",")
    for name in names:
        lookup(dict.fromkeys(_PARTS), name, "part")
    if "agreement" in names and (references is None or not references.is_file()):
        raise ConfigError("agreement needs --references FILE, a file of layers --make-references; or leave it out")
    if "training" in names and not training:
        raise ConfigError("training needs arguments of main.py after --, such as --config=...; or leave it out")
    config = load_config(config_path, batch_size)
    sizes = ["--config", config_path, "--batch-size", str(config.batch_size)]
    try:
        out.mkdir(parents=True)
    except OSError as error:
        raise ConfigError(f"{printable(str(out))}: give --out a new directory ({error.strerror})") from error
    deadline = time.monotonic() + seconds
    measured = deadline - (_TRAINING_SECONDS if "training" in names else 0)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # Ends the process of a part, too.
    with tempfile.TemporaryDirectory() as scratch, _Results(out, Path(scratch, "compiled")) as results:
        traces = Path(scratch, "traces")
        table = _table(sizes, cases(config), references, traces)
        for name in names:
            results.write(f"\n## {name}\n")
            if name == "training":
                _train(training, Path(scratch, "run"), results, deadline)
            else:
                _run(name, table[name].with_patience(patience), results, measured)
            if traces.is_dir():
                shutil.make_archive(str(out / "traces"), "zip", traces)


def _table(sizes: list[str], cases: dict[str, Any], references: Path | None, traces: Path) -> dict[str, Part]:
    times = ["layers", *sizes, "--dtype", "bfloat16"]
    compare = ["layers", *sizes, "--references", str(references)]
    phases = ["phases", *sizes, "--dtypes", "bfloat16", "--no-agree"]
    timed, traced = [*phases, "--seconds", "10"], [*phases, "--seconds", "1", "--trace", str(traces)]
    names, last = list(cases), list(cases)[-1]
    # Those whose gradients are not XLA's own on a GPU.
    others = [name for name in names if cases[name].layer.dilation > 1 or "deconv" in name or name == last]
    return {
        "ceilings": Part(["ceilings"], "", ["all"], 60, 60),
        "layers": Part(times, "--layers", names, 120, 40),
        "agreement": Part(compare, "--layers", names, 100, 40),
        "phases": Part(timed, "--phases", _PHASES, 300, 150),
        "traces": Part(traced, "--phases", _PHASES, 60, 60),
        "deterministic": Part(timed, "--phases", ["joint"], 120, 120, "--xla_gpu_deterministic_ops=true"),
        "plain layers": Part([*times, "--way", "plain"], "--layers", others, 80, 40),
    }


class _Results:
    """The files of `out`, complete after each line, and the processes that write to them.

    Args:
      out: The directory.
      cache: Directory of compiled programs, which the processes share.
    """

    def __init__(self, out: Path, cache: Path):
        self.out = out
        self._cache = cache
        self._begin = time.monotonic()

    def __enter__(self) -> Self:
        self._files = contextlib.ExitStack()
        self._rows = self._files.enter_context((self.out / "results.jsonl").open("w", buffering=1))
        self._page = self._files.enter_context((self.out / "results.md").open("w", buffering=1))
        self.log = self._files.enter_context((self.out / "log.txt").open("a+"))
        return self

    def __exit__(self, *error: object) -> None:
        self._files.close()

    def write(self, line: str) -> None:
        """Writes a line of Markdown to stdout and results.md."""
        click.echo(line)
        self._page.write(line + "\n")

    def record(self, part: str, **values: Any) -> None:
        """Writes a line of JSON, with the seconds since the beginning."""
        self._rows.write(
            json.dumps({"part": part, "at": round(time.monotonic() - self._begin, 1), **values}) + "\n"
        )

    def fail(self, part: str, what: str, reason: str) -> None:
        """Records a failure in both files."""
        self.record(part, failed=what, reason=reason)
        self.write(f"\n**{what} failed: {reason}**\n")

    @contextlib.contextmanager
    def started(self, command: Sequence[str], stdout: Any, flags: str = "") -> Iterator[subprocess.Popen[str]]:
        """A process that logs to log.txt, and does not outlive the block; `flags` are added to XLA_FLAGS."""
        self._logged = self.log.seek(0, os.SEEK_END)
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(self._cache)}
        environment["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
        with subprocess.Popen(command, stdout=stdout, stderr=self.log, text=True, env=environment) as process:
            try:
                yield process
            finally:
                process.kill()

    def reason(self, code: int) -> str:
        """Returns why the last process ended with an exit code."""
        self.log.seek(self._logged)
        return f"exit code {code}: {last_error_line(self.log.read())}"


def _run(name: str, part: Part, results: _Results, deadline: float) -> None:
    """Runs a part until its names are done or its time is over, and goes on after a name that fails."""
    end = min(deadline, time.monotonic() + part.seconds)
    remaining = list(part.names)
    while remaining:
        done, reason = _measure(name, part, remaining, results, end)
        remaining = [one for one in remaining if one not in done]
        if reason is None:
            return
        results.fail(name, remaining[0] if remaining else "the end", reason)
        remaining = remaining[1:]
        if remaining and time.monotonic() >= end:
            results.fail(name, ", ".join(remaining), "no time was left")
            return


def _measure(
    name: str, part: Part, names: list[str], results: _Results, end: float
) -> tuple[set[str], str | None]:
    """Starts the command of a part; returns the first cells of its rows, and why it ended, None if all is well."""
    command = [*_BENCHMARK, *part.command, *([part.option, ",".join(names)] if part.option else [])]
    late, done = threading.Event(), set[str]()
    columns: list[str] = []
    with results.started(command, stdout=subprocess.PIPE, flags=part.flags) as process:

        def end_it() -> None:
            late.set()
            process.kill()

        def watch() -> threading.Timer:
            timer = threading.Timer(max(0, min(part.silence, end - time.monotonic())), end_it)
            timer.daemon = True
            timer.start()
            return timer

        timer = watch()
        for line in map(str.rstrip, process.stdout or ()):
            timer.cancel()
            timer = watch()
            results.write(line)
            cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
            if columns and cells and set(cells) != {"---"}:
                results.record(name, **dict(zip(columns, map(_value, cells), strict=True)))
                done.add(cells[0])
            columns = columns or cells if cells else []
        code = process.wait()
        timer.cancel()
    if late.is_set():
        return done, "it took too long"
    return done, results.reason(code) if code else None


def _value(cell: str) -> float | str:
    try:
        return float(cell.removesuffix(" %"))
    except ValueError:
        return cell


def _train(arguments: Sequence[str], run: Path, results: _Results, deadline: float) -> None:
    """Trains, stops by SIGTERM, resumes with the same command, and keeps the weights and the metrics."""
    command = [sys.executable, "main.py", *arguments, f"--workdir={run}"]
    last = deadline - 2 * _SAVING_SECONDS
    first = time.monotonic() + _FIRST_SHARE * (last - time.monotonic())
    results.write("| start | seconds | exit code | last step | images/s |\n|---|---|---|---|---|")
    # A signal during a compilation waits for its end.
    for start, until, limit in (("first", first, last), ("resumed", last, last + _SAVING_SECONDS)):
        begin = time.monotonic()
        with results.started(command, stdout=results.log) as process:
            code = _wait(process, until, limit)
        metrics = _last_row(run / "metrics.csv")
        values = [
            start,
            round(time.monotonic() - begin, 1),
            code,
            metrics.get("step"),
            metrics.get("images_per_second"),
        ]
        results.write(f"| {' | '.join(map(str, values))} |")
        columns = ("start", "seconds", "exit code", "last step", "images/s")
        results.record("training", **dict(zip(columns, values, strict=True)))
        if code not in (0, 128 + signal.SIGTERM):
            results.fail("training", start, results.reason(code))
    for pattern, name in (("metrics.csv", "metrics.csv"), ("grids/*.png", "grid.png")):
        for path in sorted(run.glob(pattern))[-1:]:
            shutil.copyfile(path, results.out / name)
    weights = str(results.out / "weights.safetensors")
    export = [*_GLCIC, "weights", "export", str(run), weights, "--dtype", "float16"]
    with results.started(export, stdout=results.log) as process:
        code = _wait(process, deadline, deadline)
    if code:
        results.fail("training", "weights export", results.reason(code))


def _wait(process: subprocess.Popen[str], until: float, limit: float) -> int:
    """Waits for a process; sends SIGTERM at one time, SIGKILL at another. Returns its exit code."""
    for end_it, moment in ((process.terminate, until), (process.kill, limit)):
        try:
            return process.wait(max(0, moment - time.monotonic()))
        except subprocess.TimeoutExpired:
            end_it()
    return process.wait()


def _last_row(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    with path.open() as file:
        rows = list(csv.DictReader(file))  # None, if the training was stopped before its first row.
    return rows[-1] if rows else {}

"""A bounded queue in front of one Completer at a time."""

import contextlib
import dataclasses
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

from glcic_jax.completion import Completer, CompletionJob, OnWindow, Settings
from glcic_jax.errors import ConfigError, DataError, TooLargeError, UserError, WeightsError, printable
from glcic_jax.pictures import ChooseHole, Picture, read_picture
from glcic_jax.progress import Log
from glcic_jax.runtime import enough_memory_for
from glcic_jax.serving.previews import Preview, preview_of
from glcic_jax.serving.problems import STOPPING

T = TypeVar("T")
_SECONDS_BETWEEN_CHECKS = 0.05


class QueueFullError(UserError):
    """Every place in the queue is taken."""


class NotReadyError(UserError):
    """The service is stopping."""


class NotAnImageError(DataError):
    """The image file cannot be read."""


class ClientGoneError(Exception):
    """The client disconnected, or the service stops; the result is not needed."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits on requests.

    Attributes:
      max_bytes: Bytes of a file.
      max_pixels: Pixels of an image or mask.
      queue: Requests at a time, including the request in progress.
      upload_seconds: Seconds for a request to arrive, and for its answer to be read.
    """

    max_bytes: int = 32 << 20
    max_pixels: int = 40_000_000
    queue: int = 16
    upload_seconds: float = 60.0


class CompletionRequest(NamedTuple):
    """An image to complete, with its hole and settings.

    Attributes:
      image: The encoded image.
      choose_hole: As in `CompletionJob.create`.
      settings: As in `CompletionJob.create`; `comparison` and `overwrite` are not used.
      weights: A name in `Service.completers`; None is the default.
    """

    image: bytes
    choose_hole: ChooseHole
    settings: Settings
    weights: str | None = None


class CompletionResult(NamedTuple):
    """A completed image.

    Attributes:
      content: The encoded image.
      file_format: Its format, as Pillow names it.
      notes: Notes on the input and the completion, one line each.
      waited, read, completed: Seconds in the queue, for decoding, and for completing and encoding.
    """

    content: bytes
    file_format: str
    notes: tuple[str, ...]
    waited: float
    read: float
    completed: float


@dataclasses.dataclass
class RequestProgress:
    """How far a request is; updated by the service, and read by other threads.

    Attributes:
      submitted: The order in which complete requests arrived; None while the request is being received.
      working: Whether it is the one in progress.
      windows_done, windows: Completed windows and all windows; 0 while their number is unknown.
    """

    submitted: int | None = None
    working: bool = False
    windows_done: int = 0
    windows: int = 0


class Service:
    """Completes one image at a time, in the order of the requests.

    Images are decoded, completed and encoded in one thread: two networks at once on the same cores take longer
    than one after the other, and every decoded image takes memory. Waiting requests hold encoded files only.
    Previews have a thread of their own.

    Args:
      completers: By the names that clients may choose; the first is the default.
      limits: Limits on requests.
    """

    def __init__(self, completers: Mapping[str, Completer], limits: Limits):
        self.completers = dict(completers)
        self.limits = limits
        self.default = next(iter(self.completers))
        self.warm = False
        self._worker = ThreadPoolExecutor(1, "completing")
        self._previewer = ThreadPoolExecutor(1, "previewing")
        self._lock = threading.Lock()  # Guards `_places` and `_stopping`.
        self._places: dict[str, RequestProgress] = {}  # By the request's name.
        self._submitted = itertools.count()
        self._stopping = False
        self._cancelled = threading.Event()

    def completer(self, name: str | None) -> Completer:
        """Returns the completer of that name; None is the default.

        Raises:
          WeightsError: There is no such name.
        """
        name = self.default if name is None else name
        if name not in self.completers:
            raise WeightsError(
                f"{printable(name)[:100]}: no such weights here: choose one of {', '.join(self.completers)}"
            )
        return self.completers[name]

    @contextlib.contextmanager
    def queue_place(self, name: str | None = None) -> Iterator[RequestProgress]:
        """Takes a place in the queue; enter before the request is read, because its body takes memory too.

        Args:
          name: A name for `progress_of`, which no other request in the queue has.

        Raises:
          ConfigError: The name is taken.
          QueueFullError: No place is free.
          NotReadyError: The service is stopping.
        """
        progress = RequestProgress()
        key = name or f"unnamed {id(progress)}"
        with self._lock:
            if self._stopping:
                raise NotReadyError(STOPPING)
            if key in self._places:
                raise ConfigError(f"another request is called {printable(key)}: choose a new name")
            if len(self._places) >= self.limits.queue:
                raise QueueFullError(f"all {len(self._places)} places in the queue are taken: try again later")
            self._places[key] = progress
        try:
            yield progress
        finally:
            with self._lock:
                del self._places[key]

    def progress_of(self, name: str) -> tuple[RequestProgress, int] | None:
        """Returns a request's progress and its place in the queue: 1 is the next, 0 if it does not wait.

        Returns:
          None if there is no such request.
        """
        with self._lock:
            if name not in self._places:
                return None
            progress = dataclasses.replace(self._places[name])
            waiting = [one.submitted for one in self._places.values() if not one.working]
        if progress.submitted is None or progress.working:
            return progress, 0
        return progress, 1 + sum(other is not None and other < progress.submitted for other in waiting)

    def submit(
        self, request: CompletionRequest, gone: threading.Event, progress: RequestProgress
    ) -> "Future[CompletionResult]":
        """Queues a request.

        Args:
          request: The image, hole and settings.
          gone: Set when nobody waits for the result any more; the work then ends after the current window.
          progress: What `queue_place` gave.

        Returns:
          A future that raises UserError if the request cannot be fulfilled, and ClientGoneError.
        """
        submitted = time.perf_counter()
        progress.submitted = next(self._submitted)

        def on_window(done: int, total: int) -> None:
            if gone.is_set() or self._cancelled.is_set():
                raise ClientGoneError
            progress.windows, progress.windows_done = total, done

        def work() -> CompletionResult:
            if gone.is_set():
                raise ClientGoneError
            progress.working = True
            return self._complete(request, time.perf_counter() - submitted, on_window)

        return _submit(self._worker, work)

    def preview(self, image: bytes, gone: threading.Event) -> "Future[Preview]":
        """Makes a picture to show, beside the one that is completed; the caller holds a `queue_place`.

        Args:
          image: The encoded image.
          gone: As in `submit`.

        Returns:
          A future that raises UserError if the image cannot be read, and ClientGoneError.
        """

        def work() -> Preview:
            if gone.is_set():
                raise ClientGoneError
            picture = self._read(image, "image")
            with enough_memory_for("showing the image"):
                return preview_of(picture)

        return _submit(self._previewer, work)

    def warm_up(self, sizes: Iterable[tuple[int, int]], log: Log) -> None:
        """Compiles the default network for windows of (height, width), while no request is in progress."""
        completer = self.completers[self.default]
        for height, width in sizes:
            while not self.idle and not self._stopping:
                time.sleep(_SECONDS_BETWEEN_CHECKS)
            if self._stopping:
                return
            begin = time.perf_counter()
            try:
                completer.warmup([(height, width)], strategy="original")
            except UserError as error:  # Too little memory for this size; others may fit.
                log(f"not compiled for windows of {width} x {height} px: {error}")
            else:
                log(f"compiled for windows of {width} x {height} px in {time.perf_counter() - begin:.1f} s")
        self.warm = True

    @property
    def compiling(self) -> bool:
        """Whether a network is being compiled for a size."""
        return any(completer.compiling for completer in self.completers.values())

    @property
    def accepting(self) -> bool:
        """Whether new requests are accepted; not any more when the service is stopping."""
        return not self._stopping

    def stop_accepting(self) -> None:
        """Refuses new requests; queued requests are still completed."""
        with self._lock:
            self._stopping = True

    @property
    def idle(self) -> bool:
        """Whether the queue is empty."""
        return not self._places

    def close(self) -> bool:
        """Refuses new requests and cancels those in the queue; the current one ends after its window.

        Returns:
          Whether the queue was empty.
        """
        self.stop_accepting()
        empty = self.idle
        self._cancelled.set()
        for pool in (self._worker, self._previewer):
            pool.shutdown(wait=False, cancel_futures=True)
        return empty

    def _complete(self, request: CompletionRequest, waited: float, on_window: OnWindow) -> CompletionResult:
        begin = time.perf_counter()
        picture = self._read(request.image, "image")
        read = time.perf_counter()
        notes = [] if self.warm else ["the service is still warming up: this may have taken longer"]
        job = CompletionJob.create(picture, request.choose_hole, request.settings)
        content = job.run(self.completer(request.weights), notes.append, on_window)
        seconds = time.perf_counter() - read
        return CompletionResult(content, job.file_format, tuple(notes), waited, read - begin, seconds)

    def _read(self, content: bytes, name: str) -> Picture:
        try:
            with enough_memory_for(f"reading {name}"):
                return read_picture(content, name, self.limits.max_pixels)
        except TooLargeError:
            raise
        except DataError as error:
            raise NotAnImageError(str(error)) from error


def _submit(pool: ThreadPoolExecutor, work: Callable[[], T]) -> "Future[T]":
    try:
        return pool.submit(work)
    except RuntimeError as error:  # The pool has been shut down.
        raise NotReadyError(STOPPING) from error

"""One network that many ask: one after the other, no more than fit the queue, until it is stopped."""

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

from glcic_jax.completion.completer import Completer, OnWindow
from glcic_jax.completion.files import CompletionJob, Settings
from glcic_jax.errors import DataError, TooLargeError, UserError, WeightsError, printable
from glcic_jax.pictures import ChooseHole, Picture, read_picture
from glcic_jax.runtime import enough_memory_for

T = TypeVar("T")
STOPPING = "the service is being stopped: try again later"


class BusyError(UserError):
    """The queue is full."""


class NotReadyError(UserError):
    """The service compiles, or is being stopped."""


class NotAnImageError(DataError):
    """The picture's file cannot be read as one."""


class GoneError(Exception):
    """Nobody waits for the result any more."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What the service takes at most.

    Attributes:
      max_bytes: Of a file that is sent.
      max_pixels: Of a picture, and of a mask.
      queue: Requests at a time, with the one that is worked on.
      upload_seconds: For a request to arrive, and for its answer to be read.
    """

    max_bytes: int = 32 << 20
    max_pixels: int = 40_000_000
    queue: int = 16
    upload_seconds: float = 60.0


class Order(NamedTuple):
    """What is to be completed, and how.

    Attributes:
      image: The picture's file.
      choose_hole: As in `CompletionJob`.
      settings: How; where to write and comparisons have no meaning here.
      weights: A name that `Service.completers` has; None: its first.
    """

    image: bytes
    choose_hole: ChooseHole
    settings: Settings
    weights: str | None = None


class Result(NamedTuple):
    """What came out.

    Attributes:
      content: The completed picture's file.
      file_format: As Pillow names it.
      notes: What was noticed and done, a line each.
      waited, read, completed: Seconds in the queue, for decoding the picture, and for all the rest.
    """

    content: bytes
    file_format: str
    notes: tuple[str, ...]
    waited: float
    read: float
    completed: float


class Service:
    """Completes pictures with one network at a time.

    Pictures are decoded, completed and encoded in one thread, in the order in which they were asked for: two
    networks at once on the same cores take longer than one after the other, and every decoded picture takes
    memory. What waits is held as the files that came. Previews have a thread of their own.

    Args:
      completers: By the names that may be asked for; the first is the default.
      limits: What it takes at most.
    """

    def __init__(self, completers: Mapping[str, Completer], limits: Limits):
        self.completers = dict(completers)
        self.limits = limits
        self._worker = ThreadPoolExecutor(1, "completing")
        self._previewer = ThreadPoolExecutor(1, "previewing")
        self._admitted = 0
        self._changing = threading.Lock()
        self._closed = False
        self._given_up = threading.Event()
        self.ready = False

    @property
    def default(self) -> str:
        """The weights that are taken where none are named."""
        return next(iter(self.completers))

    def completer(self, name: str | None) -> Completer:
        """The network of a name; None: the default.

        Raises:
          WeightsError: There is none of that name here.
        """
        if name is None:
            return self.completers[self.default]
        if name not in self.completers:
            raise WeightsError(
                f"{printable(name)[:100]}: no such weights here: choose one of {', '.join(self.completers)}"
            )
        return self.completers[name]

    @contextlib.contextmanager
    def admitted(self) -> Iterator[None]:
        """Takes a place in the queue: before a request is read, as what it sends takes memory too.

        Raises:
          BusyError: There is none.
          NotReadyError: It is being stopped.
        """
        with self._changing:
            if self._closed:
                raise NotReadyError(STOPPING)
            if self._admitted >= self.limits.queue:
                raise BusyError(f"{self._admitted} requests are waiting, as many as are taken: try again later")
            self._admitted += 1
        try:
            yield
        finally:
            with self._changing:
                self._admitted -= 1

    def submit(self, order: Order, gone: threading.Event, on_window: OnWindow | None = None) -> "Future[Result]":
        """Puts an order behind those that are there; to be called by who is `admitted`.

        Args:
          order: What to do.
          gone: Set where nobody waits any more; then the work ends after the window that it is at.
          on_window: As in `CompletionJob.run`.

        Returns:
          A future of the result; it raises UserError where the order cannot be done, and GoneError.
        """
        asked = time.perf_counter()

        def watched(done: int, count: int) -> None:
            if gone.is_set() or self._given_up.is_set():
                raise GoneError
            if on_window is not None:
                on_window(done, count)

        def work() -> Result:
            if gone.is_set():
                raise GoneError
            return self._completed(order, time.perf_counter() - asked, watched)

        return _accepted(self._worker, work)

    def preview(self, load: Callable[[], bytes], name: str, make: Callable[[Picture], T]) -> "Future[T]":
        """Reads a picture to show it, beside the queue but one at a time.

        Args:
          load: Gives its file, when it is its turn: many may wait.
          name: What errors call it.
          make: From the picture to what is shown.

        Returns:
          A future of what `make` gives; it raises UserError where the picture cannot be read.
        """
        return _accepted(self._previewer, lambda: make(self.read(load(), name)))

    def read(self, content: bytes, name: str) -> Picture:
        """Reads a picture.

        Raises:
          NotAnImageError: It is none that can be read.
          TooLargeError: It has too many pixels.
          MemoryExhaustedError: The memory is too small.
        """
        try:
            with enough_memory_for(f"reading {name}"):
                return read_picture(content, name, self.limits.max_pixels)
        except TooLargeError:
            raise
        except DataError as error:
            raise NotAnImageError(str(error)) from error

    def warm_up(self, sizes: Iterable[tuple[int, int]], tell: Callable[[str], None]) -> None:
        """Compiles for the default's network what windows of (height, width) need; then the service is ready."""
        completer = self.completers[self.default]
        for height, width in sizes:
            begun = time.perf_counter()
            completer.warmup([(height, width)], strategy="original")
            tell(f"ready for windows of {width} x {height} px after {time.perf_counter() - begun:.1f} s")
            if self._closed:
                return
        with self._changing:
            self.ready = not self._closed

    def refuse(self) -> None:
        """Takes nothing more; what was taken goes on."""
        with self._changing:
            self._closed, self.ready = True, False

    @property
    def idle(self) -> bool:
        """Whether nothing is waiting or being done."""
        return not self._admitted

    def close(self) -> bool:
        """Takes nothing more, and gives up what is not done, after the window that it is at.

        Returns:
          Whether all was done.
        """
        self.refuse()
        done = self.idle
        self._given_up.set()
        for pool in (self._worker, self._previewer):
            pool.shutdown(wait=False, cancel_futures=True)
        return done

    def _completed(self, order: Order, waited: float, on_window: OnWindow) -> Result:
        begun = time.perf_counter()
        picture = self.read(order.image, "image")
        read = time.perf_counter()
        notes: list[str] = []
        job = CompletionJob.create(picture, order.choose_hole, order.settings)
        content = job.run(self.completer(order.weights), notes.append, on_window)
        done = time.perf_counter()
        return Result(content, job.file_format, tuple(notes), waited, read - begun, done - read)


def _accepted(pool: ThreadPoolExecutor, work: Callable[[], T]) -> "Future[T]":
    try:
        return pool.submit(work)
    except RuntimeError as error:  # It was shut down.
        raise NotReadyError(STOPPING) from error

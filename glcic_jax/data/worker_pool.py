"""Work in processes of their own, which outlives those that crash.

Not concurrent.futures: its pool breaks as a whole where one process dies, and in Python 3.11 it can then wait
for ever for a process that it had just begun.
"""

import contextlib
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from multiprocessing import connection, resource_tracker
from typing import Any, TypeVar

from glcic_jax.errors import DataError

Item = TypeVar("Item")
Result = TypeVar("Result")

_READY = "ready"  # What a worker says first.


def in_processes(
    work: Callable[[Sequence[Item]], list[Result]],
    items: Iterable[Item],
    processes: int,
    chunk_size: int,
    crashed: Result,
) -> Generator[tuple[Item, Result], None, None]:
    """Does work on all items, in any order, and finds out which of them crash a process.

    Args:
      work: Takes some items and gives a result for each; can be pickled.
      items: Looked at as the work goes on, never all at once.
      processes: How many work at a time.
      chunk_size: Items that go to a process at once.
      crashed: Stands for the result of an item that ended its process.

    Yields:
      Each item with its result. Close it where it is not read to its end: that ends the processes.

    Raises:
      DataError: No process can be started. What the work raises is raised here too.
    """
    iterator = iter(items)
    chunks = iter(lambda: list(itertools.islice(iterator, chunk_size)), [])
    suspects: list[list[Item]] = []
    workers: list[_Worker] = []
    try:
        while True:
            while len(workers) < processes and (chunk := _next(suspects, chunks)) is not None:
                workers.append(_Worker(work, chunk))
            if not workers:
                return
            for worker in _those_that_answer(workers):
                try:
                    results = worker.answer()
                except EOFError:
                    workers.remove(worker)
                    worker.end()
                    chunk = worker.chunk
                    if len(chunk) == 1:
                        yield chunk[0], crashed
                    else:
                        # Which of them it was shows when each half has a process to itself.
                        suspects += [chunk[len(chunk) // 2 :], chunk[: len(chunk) // 2]]
                    continue
                if results is None:
                    continue
                yield from zip(worker.chunk, results, strict=True)
                following = _next(suspects, chunks)
                if following is not None:
                    worker.give(following)
                else:
                    workers.remove(worker)
                    worker.end()
    finally:
        for worker in workers:
            worker.end()


class _Worker:
    """A process that works on one chunk at a time."""

    def __init__(self, work: Any, chunk: Any):
        # Not forked: a fork copies the locks of threads that do not exist in it.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, work), daemon=True)
        # Starting the tracker unblocks Ctrl-C again, and the worker that is started after it would hear it.
        resource_tracker.ensure_running()
        with _ctrl_c_held_back():
            try:
                self._process.start()
            except OSError as error:
                raise _cannot_start(error.strerror or "") from error
            finally:
                # The end of the process is seen only where this copy of its end of the pipe is closed.
                theirs.close()
        self._ready = False
        self.chunk = chunk

    def give(self, chunk: Any) -> None:
        """Hands it its next chunk; that it has died meanwhile shows when it is asked for the answer."""
        self.chunk = chunk
        with contextlib.suppress(BrokenPipeError):
            self.connection.send(chunk)

    def answer(self) -> Any:
        """The results of its chunk; None where it has only just come to life.

        Raises:
          EOFError: It has died.
        """
        try:
            results, error = self.connection.recv()
        except (EOFError, ConnectionResetError) as failure:
            # One that dies before it has seen an item says nothing about items.
            if not self._ready:
                raise _cannot_start("it ended before it began") from failure
            raise EOFError from failure
        if error is not None:
            raise error
        if not self._ready:
            self._ready = results == _READY
            self.give(self.chunk)
            return None
        return results

    def end(self) -> None:
        """Ends the process, whatever it is at."""
        self.connection.close()
        if self._process.pid is not None:
            self._process.terminate()
            self._process.join()


def _those_that_answer(workers: Sequence[_Worker]) -> list[_Worker]:
    """Waits until a worker has an answer or has died."""
    ready = connection.wait([worker.connection for worker in workers])
    return [worker for worker in workers if worker.connection in ready]


def _next(suspects: list[list[Item]], chunks: Iterable[list[Item]]) -> list[Item] | None:
    return suspects.pop() if suspects else next(iter(chunks), None)


def _cannot_start(reason: str) -> DataError:
    return DataError(
        "no worker process can start: the memory is full or limited, or the program cannot be imported again by "
        f"another process, as one that is read from standard input ({reason})"
    )


@contextlib.contextmanager
def _ctrl_c_held_back() -> Generator[None, None, None]:
    """Answers Ctrl-C only after the block, in which a process is started that leaves it to its parent."""
    # Only the main thread hears of signals.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[Any] = []
    handler = signal.signal(signal.SIGINT, lambda *arguments: held.append(arguments))
    # The process inherits what is blocked: one that is still importing would print where it was. That does not
    # spare this one the handler, as another thread of it may take the signal: half a start is an error there.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        signal.signal(signal.SIGINT, handler)
        if held and callable(handler):
            handler(*held[0])


def _end_with_parent() -> None:
    """Ends this process with its parent, in the middle of an item too."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _serve(pipe: Any, work: Callable[[Any], Any]) -> None:
    """What a worker does until its parent closes the pipe, or is no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # What C libraries print is for nobody.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    answer: Any = (_READY, None)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            pipe.send(answer)
            chunk = pipe.recv()
            try:
                answer = (work(chunk), None)
            except Exception as error:  # It is raised in the parent.
                answer = (None, error)

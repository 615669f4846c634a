"""Work in processes of their own, which outlives those that crash."""

import concurrent.futures
import contextlib
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from glcic_jax.errors import DataError, one_line

Item = TypeVar("Item")
Result = TypeVar("Result")

_CHUNKS_IN_FLIGHT = 3  # For each process: one in work, and what it takes next.


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
      items: Looked at a little ahead of the work, never all at once.
      processes: How many work at a time.
      chunk_size: Items that go to a process at once.
      crashed: Stands for the result of an item that ended its process.

    Yields:
      Each item with its result. Close it where it is not read to its end: that ends the processes.

    Raises:
      DataError: No process can be started.
    """
    iterator = iter(items)
    chunks = iter(lambda: list(itertools.islice(iterator, chunk_size)), [])
    suspects: list[list[Item]] = []
    more = True
    while more:
        with _pool(processes, work) as pool:
            more = False
            for chunk, results in _chunks_in(pool, work, chunks, processes * _CHUNKS_IN_FLIGHT):
                if results is None:
                    suspects.append(chunk)
                    more = True
                else:
                    yield from zip(chunk, results, strict=True)
        yield from _one_by_one(work, suspects, crashed)


def _chunks_in(
    pool: concurrent.futures.ProcessPoolExecutor,
    work: Callable[[Sequence[Item]], list[Result]],
    chunks: Iterator[list[Item]],
    at_once: int,
) -> Iterator[tuple[list[Item], list[Result] | None]]:
    """Yields chunks with their results until all are done or a process dies: then with None what it leaves."""
    pending: dict[concurrent.futures.Future[list[Result]], list[Item]] = {}
    broken = False
    while True:
        while not broken and len(pending) < at_once and (chunk := next(chunks, None)) is not None:
            try:
                pending[_submit(pool, work, chunk)] = chunk
            except (BrokenProcessPool, OSError):  # OSError: no memory for one process more.
                broken = True
                yield chunk, None
        if not pending:
            return
        done, _ = concurrent.futures.wait(pending, return_when=concurrent.futures.FIRST_COMPLETED)
        for future in done:
            chunk = pending.pop(future)
            lost = isinstance(future.exception(), BrokenProcessPool)
            broken |= lost
            yield chunk, None if lost else future.result()


def _one_by_one(
    work: Callable[[Sequence[Item]], list[Result]], suspects: list[list[Item]], crashed: Result
) -> Iterator[tuple[Item, Result]]:
    """Finds the items that crash by halving the chunks of them, with one process at work; empties the list."""
    while suspects:
        with _pool(1, work) as pool:
            while suspects:
                chunk = suspects.pop()
                try:
                    results = _submit(pool, work, chunk).result()
                except BrokenProcessPool:
                    if len(chunk) == 1:
                        yield chunk[0], crashed
                    else:
                        suspects += [chunk[len(chunk) // 2 :], chunk[: len(chunk) // 2]]
                    break
                yield from zip(chunk, results, strict=True)


@contextlib.contextmanager
def _pool(processes: int, work: Any) -> Iterator[concurrent.futures.ProcessPoolExecutor]:
    """Worker processes that end with the block: at once where it is left by an error or by Ctrl-C."""
    others = set(multiprocessing.active_children())
    # Not forked: a fork copies the locks of threads that do not exist in it.
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(processes, context, initializer=_begin)
    try:
        _prove_alive(pool, work)
        yield pool
    except BaseException:
        for child in set(multiprocessing.active_children()) - others:
            child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _prove_alive(pool: concurrent.futures.ProcessPoolExecutor, work: Any) -> None:
    """Raises a DataError where no worker lives long enough to import the work: no item is to blame for that."""
    try:
        _submit(pool, id, work).result()
    except (BrokenProcessPool, OSError) as error:
        raise DataError(
            "no worker process can start: the memory is full or limited, or the program cannot be imported again "
            f"by another process, as one that is read from standard input ({one_line(error)})"
        ) from error


def _submit(pool: concurrent.futures.ProcessPoolExecutor, work: Any, argument: Any) -> Any:
    """Returns the future of `work(argument)`; a process may be started for it."""
    with _ctrl_c_held_back():
        return pool.submit(work, argument)


@contextlib.contextmanager
def _ctrl_c_held_back() -> Iterator[None]:
    """Answers Ctrl-C only after the block, in which a process is started that leaves it to its parent."""
    # Only the main thread hears of signals, and only Unix can block them.
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "pthread_sigmask"):
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


def _begin() -> None:
    """Prepares a worker: it leaves Ctrl-C to its parent, what C libraries print to nobody, and ends with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def _end_with_parent() -> None:
    # A parent that was killed closes nothing, and its workers would wait for more work for ever.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)

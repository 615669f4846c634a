"""Work in processes of their own, which outlives those that crash."""

import concurrent.futures
import contextlib
import itertools
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_CHUNKS_IN_FLIGHT = 3  # For each process: one in work, and what it takes next.


def in_processes(
    work: Callable[[Sequence[Item]], list[Result]],
    items: Iterable[Item],
    processes: int,
    chunk_size: int,
    crashed: Result,
) -> Iterator[tuple[Item, Result]]:
    """Does work on all items, in any order, and finds out which of them crash a process.

    Args:
      work: Takes some items and gives a result for each; can be pickled.
      items: Looked at a little ahead of the work, never all at once.
      processes: How many work at a time.
      chunk_size: Items that go to a process at once.
      crashed: Stands for the result of an item that ended its process.

    Yields:
      Each item with its result.
    """
    iterator = iter(items)
    chunks = iter(lambda: list(itertools.islice(iterator, chunk_size)), [])
    unfinished: list[list[Item]] = []
    more = True
    while more:
        with _pool(processes) as pool:
            more = False
            for chunk, results in _chunks_in(pool, work, chunks, processes * _CHUNKS_IN_FLIGHT):
                if results is None:
                    unfinished.append(chunk)
                    more = True
                else:
                    yield from zip(chunk, results, strict=True)
        # Which of them it was shows when each has a process to itself.
        suspects = [item for chunk in unfinished for item in chunk]
        unfinished.clear()
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
            except BrokenProcessPool:
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
    work: Callable[[Sequence[Item]], list[Result]], items: list[Item], crashed: Result
) -> Iterator[tuple[Item, Result]]:
    left = iter(items)
    item = next(left, None)
    while item is not None:
        with _pool(1) as pool:
            while item is not None:
                try:
                    result, alive = _submit(pool, work, [item]).result()[0], True
                except BrokenProcessPool:
                    result, alive = crashed, False
                yield item, result
                item = next(left, None)
                if not alive:
                    break


@contextlib.contextmanager
def _pool(processes: int) -> Iterator[concurrent.futures.ProcessPoolExecutor]:
    """Worker processes that end with the block: at once where it is left by an error or by Ctrl-C."""
    others = set(multiprocessing.active_children())
    # Not forked: a fork copies the locks of threads that do not exist in it.
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(processes, context, initializer=_begin)
    try:
        yield pool
    except BaseException:
        for child in set(multiprocessing.active_children()) - others:
            child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _submit(
    pool: concurrent.futures.ProcessPoolExecutor,
    work: Callable[[Sequence[Item]], list[Result]],
    chunk: list[Item],
) -> "concurrent.futures.Future[list[Result]]":
    # A process may be started here, and inherits what is blocked: Ctrl-C is for the parent alone to answer, while
    # a child that is still importing would print where it was.
    if not hasattr(signal, "pthread_sigmask"):
        return pool.submit(work, chunk)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return pool.submit(work, chunk)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin() -> None:
    """Prepares a worker: it leaves Ctrl-C to its parent, and what C libraries print to nobody."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)

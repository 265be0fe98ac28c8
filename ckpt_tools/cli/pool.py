"""Work on many files, by several processes where that is asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

__all__ = ["each", "workers_for"]

Item = TypeVar("Item")
Result = TypeVar("Result")
LARGEST_CHUNK = 16  # files handed to a process at once


def workers_for(jobs: int, count: int) -> int:
    """How many processes ``-j jobs`` means for so many files; 0 jobs are one per processor."""
    return min(jobs or os.cpu_count() or 1, count)


def each(work: Callable[[Item], Result], items: Sequence[Item], jobs: int) -> Iterator[Result]:
    """``work`` done on every item by that many processes, results in the order of the items."""
    from concurrent.futures import ProcessPoolExecutor

    workers = workers_for(jobs, len(items))
    chunk = max(1, min(LARGEST_CHUNK, len(items) // (4 * workers)))
    pool = ProcessPoolExecutor(workers, initializer=_ignore_interrupts)
    try:
        yield from pool.map(work, items, chunksize=chunk)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _ignore_interrupts() -> None:
    """Ctrl-C reaches every process of the terminal; only the one that prints may act on it."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)

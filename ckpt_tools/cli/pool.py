"""Work on many files, by several processes where that is asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from ckpt_tools.findings import CkptError

__all__ = ["each", "workers_for"]

Item = TypeVar("Item")
Result = TypeVar("Result")
LARGEST_CHUNK = 16  # files handed to a process at once


def workers_for(jobs: int, count: int) -> int:
    """How many processes ``-j jobs`` means for so many files; 0 jobs are one per processor."""
    return min(jobs or os.cpu_count() or 1, count)


def each(
    work: Callable[[Item], Result], items: Sequence[Item], jobs: int, largest_chunk: int = LARGEST_CHUNK
) -> Iterator[Result]:
    """``work`` done on every item by that many processes, results in the order of the items.

    Processes get chunks of items, of at most ``largest_chunk``: what is done in chunks is cheaper, and what is begun
    is done to its end when the user interrupts. Raises ``CkptError`` where a process is killed.
    """
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    workers = workers_for(jobs, len(items))
    chunk = max(1, min(largest_chunk, len(items) // (4 * workers)))
    pool = ProcessPoolExecutor(workers, initializer=_ignore_interrupts)
    try:
        yield from pool.map(work, items, chunksize=chunk)
    except BrokenProcessPool:
        raise CkptError("a process was killed before it was done (no memory left?); try again with -j 1") from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _ignore_interrupts() -> None:
    """Ctrl-C reaches every process of the terminal; only the one that prints may act on it."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)

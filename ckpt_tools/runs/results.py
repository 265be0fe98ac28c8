"""What a run's own records say of how far it got and how good it was."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ckpt_tools.findings import CkptError
from ckpt_tools.layouts import Recognised
from ckpt_tools.layouts.parts import dict_of, plain
from ckpt_tools.sidefiles import read_table

__all__ = ["Results", "read_results", "results_of", "trained_epoch"]

Results = Mapping[int, Mapping[str, float]]  # of each epoch, counted from 0, its numbers by name
MOST_EPOCHS = 10**9
MOST_NUMBERS = 1_000_000  # of a table that are kept


def trained_epoch(found: Recognised, path: Path) -> int | None:
    """The last finished epoch of a stripped file: the row of its results its metrics are from, for last.pt the last.

    ultralytics stores the table of all epochs in both stripped files, and in best.pt the metrics of its own.
    """
    results = {k: v for k, v in dict_of(found.value("train_results")).items() if isinstance(v, list) and v}
    rows = max(map(len, results.values()), default=0)
    if not rows:
        return None
    metrics = {key: plain(value) for key, value in dict_of(found.value("train_metrics")).items()}
    shared = [key for key in results if isinstance(metrics.get(key), float) and len(results[key]) == rows]
    same = [row for row in range(rows) if shared and all(_close(results[key][row], metrics[key]) for key in shared)]
    if path.name.startswith("last"):
        return rows - 1
    return same[0] if len(same) == 1 else None


def _close(listed: Any, exact: Any) -> bool:
    """Whether a value is one of the table's, which has five or six significant digits."""
    return isinstance(listed, (int, float)) and abs(listed - exact) <= 1e-4 * max(abs(exact), 1e-3) + 6e-6


def read_results(path: Path) -> int:
    """The last finished epoch, counted from 0, of a results.csv; raises ``CkptError`` where there is none in it."""
    last = first = None
    for epoch, _ in _rows(path):
        last = epoch if last is None else max(last, epoch)
        first = epoch if first is None else min(first, epoch)
    if last is None or first is None:
        raise CkptError(f"{path} lists no epoch; pass --epoch N")
    return last - _counted_from(first)


def results_of(path: Path) -> Results:
    """The numbers of each epoch, counted from 0, in a results.csv; none where there is no such file.

    Raises ``CkptError`` for another file, one that can't be read, and a vast one.
    """
    found: dict[int, dict[str, float]] = {}
    kept = 0
    for epoch, row in _rows(path) if os.path.lexists(path) else ():
        kept += len(row) if epoch not in found else 0
        if kept > MOST_NUMBERS:
            raise CkptError(f"{path} holds more than {MOST_NUMBERS} numbers; check the file")
        found[epoch] = dict(_numbers(row))
    before = _counted_from(min(found, default=0))
    return {epoch - before: row for epoch, row in found.items()}


def _counted_from(first: int) -> int:
    """What a table whose first epoch is this counts from; ultralytics 0 up to 8.0.x and 1 since, yolov5 0."""
    return min(first, 1)


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a results.csv with their epochs as they stand there; raises ``CkptError`` for another file."""
    try:
        for row in read_table(path):
            if "epoch" not in row:
                raise CkptError(f"{path} has a row without an epoch; check the file")
            if row["epoch"].strip():
                yield _epoch(row["epoch"]), row
    except (CkptError, ValueError) as error:
        raise CkptError(f"{path} is no results.csv of a training run: {error}; pass --epoch N") from error


def _epoch(text: str) -> int:
    """An epoch written as a number of any form; raises ``ValueError`` for one no training reaches."""
    number = float(text)
    if not 0 <= number < MOST_EPOCHS:
        raise ValueError(f"epoch {text.strip()[:20]!r}")
    return int(number)


def _numbers(row: dict[str, str]) -> Iterator[tuple[str, float]]:
    for name, value in row.items():
        try:
            yield name, float(value)
        except ValueError:
            continue

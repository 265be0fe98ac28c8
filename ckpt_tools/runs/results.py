"""What a run's own records say of how far it got and how good it was."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ckpt_tools.findings import CkptError
from ckpt_tools.layouts import Recognised
from ckpt_tools.layouts.parts import dict_of, plain

__all__ = ["Results", "read_results", "results_of", "trained_epoch"]

Results = Mapping[int, Mapping[str, float]]  # of each epoch, counted from 0, its numbers by name


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
    rows = _rows(path)
    if not rows:
        raise CkptError(f"{path} lists no epoch; pass --epoch N")
    return max(rows)


def results_of(path: Path) -> Results:
    """The numbers of each epoch, counted from 0, in a results.csv; none where there is no such table."""
    try:
        return _rows(path)
    except CkptError:
        return {}


def _rows(path: Path) -> Results:
    """The rows of a results.csv by epoch; ultralytics counts it from 0 up to 8.0.x and from 1 since, yolov5 from 0."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = [{key.strip(): value for key, value in row.items() if key} for row in csv.DictReader(file)]
        found = {int(float(row["epoch"])): row for row in rows if (row.get("epoch") or "").strip()}
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise CkptError(f"{path} is no results.csv of a training run: {error}; pass --epoch N") from error
    first = 0 if min(found, default=0) == 0 else 1
    return {epoch - first: dict(_numbers(row)) for epoch, row in found.items()}


def _numbers(row: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in row.items():
        with contextlib.suppress(ValueError, TypeError):
            yield name, float(value)

"""``latest``: the newest checkpoint in a folder of runs that really verifies for what it is wanted for."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from ckpt_tools.checkpoint import open_checkpoint
from ckpt_tools.checks.context import Context, Target
from ckpt_tools.findings import CkptError, Verdict
from ckpt_tools.layouts.metrics import metrics_of
from ckpt_tools.runs import Run, find_runs, trained_epoch
from ckpt_tools.verbs.verify import Report, verify, verify_checkpoint

__all__ = ["FITNESS", "Newest", "latest"]

FITNESS = "fitness"  # what YOLO trainers choose best.pt by
LOWER_IS_BETTER = ("loss", "error", "mae", "mse", "rmse", "wer", "cer", "perplexity", "fid")


@dataclass
class Newest:
    """The outcome: a path with its report, or why there is none.

    ``finished``: the newest run is over. ``passed`` are files that would have come first, each with why they did not.
    """

    path: Path | None = None
    report: Report | None = None
    run: Path | None = None
    finished: bool = False
    reason: str = ""
    passed: list[tuple[Path, str]] = field(default_factory=list)


@dataclass(frozen=True)
class _Candidate:
    """A file as its structure tells: the report, the last epoch it finished (-1: unknown), when it was written."""

    path: Path
    report: Report
    epoch: int
    modified: int
    metrics: dict[str, Any]


def latest(
    folder: str | os.PathLike[str] = ".",
    *,
    purpose: str = "resume",
    best: str | None = None,
    quick: bool = False,
    target: Target | None = None,
) -> Newest:
    """The newest checkpoint in and below a folder that verifies; newest is by run, then epoch, then time of writing.

    The newest run is the one written to last. If it is over, nothing of it or of older runs is to be resumed. ``best``
    names a metric to choose by instead of the epoch, ``quick`` trusts structure alone. Raises ``CkptError`` where the
    folder can't be used or the metric is in no file.
    """
    runs = find_runs(Path(folder))
    outcome = Newest(reason=f"there is no checkpoint in {folder}")
    for place, run in enumerate(runs):
        candidates = _candidates(run, outcome, target)
        over = _over(candidates) if purpose == "resume" else None
        if over is not None:
            if place == 0:
                outcome.finished, outcome.run = True, run.folder
                outcome.reason = f"the run in {run.folder} is over: {_why(over.report)}"
                return outcome
            continue
        found = _first(candidates, outcome, purpose, best, quick, target)
        if found is not None:
            outcome.path, outcome.report, outcome.run, outcome.reason = found[0], found[1], run.folder, ""
            return outcome
        if place == 0:
            outcome.run = run.folder
            outcome.reason = f"no checkpoint in {folder} can be used to {_for(purpose)}"
    return outcome


def _candidates(run: Run, outcome: Newest, target: Target | None) -> list[_Candidate]:
    """Every file of a run that can be read, by its structure alone."""
    found = []
    for path, status in run.files:
        try:
            with open_checkpoint(path) as checkpoint:
                report = verify_checkpoint(checkpoint, Context(quick=True, target=target), siblings=False)
                known = checkpoint.recognised
                epoch = known.epoch if known is not None else None
                if known is not None and (epoch is None or epoch < 0):
                    epoch = trained_epoch(known, path)
                metrics = metrics_of(known) if known is not None else {}
        except CkptError as error:
            outcome.passed.append((path, str(error)))
            continue
        found.append(_Candidate(path, report, -1 if epoch is None else epoch, status.st_mtime_ns, metrics))
    return sorted(found, key=lambda one: (one.epoch, one.modified), reverse=True)


def _over(candidates: list[_Candidate]) -> _Candidate | None:
    """The file that says that the run is over: finished, and neither older nor less trained than what could go on."""
    finished = [one for one in candidates if one.report.verdict is Verdict.FINISHED]
    going_on = [one for one in candidates if one.report.verdict is Verdict.RESUMABLE]
    for one in finished:
        if all(one.epoch >= other.epoch if one.epoch >= 0 else one.modified >= other.modified for other in going_on):
            return one
    return None


def _first(
    candidates: list[_Candidate],
    outcome: Newest,
    purpose: str,
    best: str | None,
    quick: bool,
    target: Target | None,
) -> tuple[Path, Report] | None:
    """The first file, in the order asked for, that verifies with every byte read (or by structure, if ``quick``)."""
    for one in _by_metric(candidates, best) if best is not None else candidates:
        report = one.report
        if report.allows(purpose) and not quick:
            try:
                report = verify(one.path, target=target, siblings=False)
            except CkptError as error:
                outcome.passed.append((one.path, str(error)))
                continue
        if report.allows(purpose):
            return one.path, report
        outcome.passed.append((one.path, f"{report.verdict}: {_why(report)}"))
    return None


def _by_metric(candidates: list[_Candidate], best: str) -> list[_Candidate]:
    """Candidates that have a metric, the best first; of equal ones the newest."""
    names = {name for one in candidates for name in one.metrics}
    name = best if best in names else next((held for held in sorted(names) if best in held), None)
    values = [(one.metrics.get(name), one) for one in candidates] if name is not None else []
    known = [(value, one) for value, one in values if isinstance(value, (int, float)) and isfinite(value)]
    if not known and candidates:
        listed = ", ".join(sorted(names)) or "none"
        raise CkptError(f"--best {best}: no checkpoint has such a metric; there are: {listed}")
    down = any(word in str(name).lower() for word in LOWER_IS_BETTER)
    return [one for _, one in sorted(known, key=lambda pair: pair[0] if down else -pair[0])]


def _why(report: Report) -> str:
    return next((fact.message for fact in report.findings if fact.verdict is report.verdict), "weights alone")


def _for(purpose: str) -> str:
    return "resume from" if purpose == "resume" else "infer with"

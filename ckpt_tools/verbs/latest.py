"""``latest``: the newest checkpoint in a folder of runs that really verifies for what it is wanted for."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from ckpt_tools.checks.context import Target
from ckpt_tools.findings import CkptError, Verdict, trouble
from ckpt_tools.runs import Run, find_runs
from ckpt_tools.verbs.glance import Glance, best_first, glance
from ckpt_tools.verbs.verify import Report, verify

__all__ = ["Newest", "latest"]


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
    outcome = Newest(reason=f"there is no checkpoint in {folder}")

    def pass_over(error: OSError) -> None:
        passed = Path(error.filename or folder), f"can't be looked at: {trouble(error)}"
        outcome.passed += [passed] if passed not in outcome.passed else []

    runs = find_runs(Path(folder), unreadable=pass_over)
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


def _candidates(run: Run, outcome: Newest, target: Target | None) -> list[Glance]:
    """Every file of a run that can be read, by its structure alone."""
    found = []
    for path, status in run.files:
        try:
            found.append(glance(path, status, target))
        except CkptError as error:
            outcome.passed.append((path, str(error)))
    return sorted(found, key=lambda one: one.order, reverse=True)


def _over(candidates: list[Glance]) -> Glance | None:
    """The file that says that the run is over: finished, and neither older nor less trained than what could go on."""
    finished = [one for one in candidates if one.report.verdict is Verdict.FINISHED and not one.stripped_here]
    going_on = [one for one in candidates if one.report.verdict is Verdict.RESUMABLE]
    for one in finished:
        by = 0 if one.epoch >= 0 else 1  # by epoch, or where it knows none by time
        if all(one.order[by] >= other.order[by] for other in going_on):
            return one
    return None


def _first(
    candidates: list[Glance],
    outcome: Newest,
    purpose: str,
    best: str | None,
    quick: bool,
    target: Target | None,
) -> tuple[Path, Report] | None:
    """The first file, in the order asked for, that verifies with every byte read (or by structure, if ``quick``)."""
    for one in best_first(candidates, best) if best is not None else candidates:
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


def _why(report: Report) -> str:
    return next((fact.message for fact in report.findings if fact.verdict is report.verdict), "weights alone")


def _for(purpose: str) -> str:
    return "resume from" if purpose == "resume" else "infer with"

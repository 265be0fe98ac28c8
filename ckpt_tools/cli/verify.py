"""``ckpt verify``: the verdict first, then the findings, then the next command to type."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from ckpt_tools.cli.guard import BUG, BUG_WORDS, FINISHED, NO, USAGE, YES, bug_text, worst
from ckpt_tools.cli.paths import expand
from ckpt_tools.cli.pool import each, workers_for
from ckpt_tools.cli.render import COLOURS, command, complain, paint, print_json, progress_bar, say, shown
from ckpt_tools.findings import CkptError, Finding, Severity, Verdict, lookup
from ckpt_tools.findings.commands import following, remarked
from ckpt_tools.verbs.verify import Report, parse_target
from ckpt_tools.verbs.verify import verify as verify_file

__all__ = ["verify"]


class Purpose(str, Enum):
    """What the file is wanted for."""

    RESUME = "resume"
    INFERENCE = "inference"


def verify(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...", help="Checkpoints, folders (searched below) or patterns.", show_default=False
        ),
    ],
    purpose: Annotated[Purpose, typer.Option("--for", help="What the exit code answers.")] = Purpose.RESUME,
    quick: Annotated[bool, typer.Option("--quick", help="Structure only: no tensor bytes are read.")] = False,
    here: Annotated[bool, typer.Option("--here", help="Also ask whether this machine can resume it.")] = False,
    target: Annotated[
        str | None, typer.Option(help="Trainer that is to resume, e.g. ultralytics==8.4.190.", show_default=False)
    ] = None,
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-on", metavar="CODE|SEVERITY|unknown-code", help="Exit 1 on such a finding, too.", show_default=False
        ),
    ] = None,
    trust: Annotated[
        list[str] | None,
        typer.Option(metavar="MODULE[:CLASS]", help="User code you know: no warning about it.", show_default=False),
    ] = None,
    python: Annotated[
        str | None, typer.Option(metavar="PATH", help="Interpreter of the training environment.", show_default=False)
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    quiet: Annotated[
        int,
        typer.Option("--quiet", "-q", count=True, help="Verdict lines only; -qq: exit code only.", show_default=False),
    ] = 0,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=0, help="Files at once; 0: one per processor.")] = 1,
) -> int:
    """Say whether checkpoints are whole, safe and can be resumed."""
    counts = [_known_condition(text) for text in fail_on or ()]
    options: dict[str, Any] = {
        "quick": quick,
        "here": here,
        "target": parse_target(target, python) if target is not None else None,
        "trust": tuple(trust or ()),
        "python": python,
    }
    try:
        files, many = expand(paths)
    except CkptError as error:
        if json_:
            print_json("verify", {"for": purpose.value, "files": [], "error": str(error)})
        raise
    reports: list[Report] = []
    for report in _run(files, options, jobs):
        reports.append(report)
        if not json_ and quiet < 2:
            _print_line(report) if many or quiet else _print_report(report)
    codes = [_exit_code(report, purpose.value, counts) for report in reports]
    if json_:
        print_json("verify", {"for": purpose.value, "files": [report.as_json() for report in reports]})
    elif many and not quiet:
        _print_summary(reports)
    return worst(codes)


def _one(path: str, options: dict[str, Any], bar: bool = False) -> Report:
    """One file's report; whatever goes wrong with it is in there."""
    try:
        size = os.path.getsize(path) if bar and not options["quick"] else 0
    except OSError:
        size = 0
    try:
        with progress_bar(size, os.path.basename(path)) as progress:
            return verify_file(path, **options, progress=progress)
    except CkptError as error:
        return Report(path=path, verdict=None, error=str(error))
    except Exception as error:  # one file must not cost the verdicts about the others
        if os.environ.get("CKPT_DEBUG"):
            raise
        return Report(path=path, verdict=None, error=bug_text(error))


def _run(files: list[str], options: dict[str, Any], jobs: int) -> Iterator[Report]:
    """Reports in the order of the files."""
    if workers_for(jobs, len(files)) <= 1:
        yield from (_one(path, options, bar=True) for path in files)
    else:
        yield from each(functools.partial(_one, options=options), files, jobs)


def _known_condition(text: str) -> str:
    """A severity, or the code of a finding; raises ``CkptError`` for anything else."""
    if text.lower() in {str(severity) for severity in Severity}:
        return text.lower()
    entry = lookup(text)
    if entry is None:
        raise CkptError(
            f"--fail-on {text}: neither a finding nor a severity (error, warning, note); `ckpt explain` lists all"
        )
    return entry.code


# For each severity, the words of --fail-on that it meets: its own and those of lesser ones.
AT_LEAST = {one: {str(other) for other in Severity if other.rank >= one.rank} for one in Severity}


def _exit_code(report: Report, purpose: str, conditions: list[str]) -> int:
    if report.verdict is None:
        return BUG if (report.error or "").startswith(BUG_WORDS) else USAGE
    for fact in report.findings:
        if any(fact.code == wanted or wanted in AT_LEAST[fact.severity] for wanted in conditions):
            return NO
    if report.allows(purpose):
        return YES
    return FINISHED if purpose == "resume" and report.verdict is Verdict.FINISHED else NO


def _complain(report: Report) -> None:
    """Why a path has no verdict, on stderr."""
    why = str(report.error)
    complain(why if command(report.path) in why else f"{report.path}: {why}")


def _print_report(report: Report) -> None:
    if report.verdict is None:
        _complain(report)
        return
    verdict = paint(str(report.verdict), COLOURS[str(report.verdict)], bold=True)
    details = _details(report)
    say(f"{shown(report.path)}: {verdict}{f' ({details})' if details else ''}")
    for fact in report.findings:
        label = paint(str(fact.severity), COLOURS[str(fact.severity)])
        say(f"  {label} {fact.code} {fact.slug}: {fact.message}{_place(fact)}")
        say(f"      > {command(fact.remedy)}")
    say(f"next: {_next(report)}")


def _place(fact: Finding) -> str:
    known = not fact.where or fact.where.split(" (")[0] in fact.message
    return "" if known else f" [{fact.where}]"


def _details(report: Report) -> str:
    parts = []
    if report.layout:
        parts.append(f"{report.layout} {report.version}" if report.version else report.layout)
    elif report.kind:
        parts.append(report.kind)
    if report.epoch is not None:
        of = f" of {report.epochs}" if report.epochs is not None else ""
        parts.append(f"epoch {report.epoch}{of}")
    if report.target is not None and report.target.source != "file":
        parts.append(f"for {report.target}")
    if report.checked == "structure":
        parts.append("structure only")
    return shown(", ".join(parts))


def _next(report: Report) -> str:
    """The one command to type now."""
    path = Path(report.path)
    if report.verdict is Verdict.RESUMABLE:
        return following(report.resume or "ckpt inspect {path}", path=path)
    worst_finding = next((fact for fact in report.findings if fact.verdict is report.verdict), None)
    remedy = worst_finding.remedy if worst_finding is not None else ""
    if remedy.startswith("ckpt repair ") and report.verdict is not Verdict.FINISHED:
        return remedy
    if report.sibling:
        return following("ckpt verify {path}", path=Path(report.sibling))
    if report.verdict is Verdict.FINISHED and report.layout == "ultralytics":
        again = following("yolo train model={path} data=DATA.yaml epochs=N", path=path)
        return remarked(again, "a new run from these weights")
    if worst_finding is None or report.verdict in (Verdict.WEIGHTS, Verdict.FINISHED):
        return following("ckpt inspect {path}", path=path)
    return following("ckpt explain {code}", code=worst_finding.code)


def _print_line(report: Report) -> None:
    if report.verdict is None:
        _complain(report)
        return
    first = next((fact for fact in report.findings if fact.verdict is report.verdict), None)
    reason = f"  {first.code} {first.message}" if first else ""
    verdict = paint(f"{report.verdict!s:<10}", COLOURS[str(report.verdict)], bold=True)
    details = _details(report)
    say(f"{verdict} {shown(report.path)}{f' ({details})' if details else ''}{reason}")


def _print_summary(reports: list[Report]) -> None:
    counts = Counter(str(report.verdict) if report.verdict else "not opened" for report in reports)
    ordered = [str(verdict) for verdict in reversed(Verdict)] + ["not opened"]
    parts = ", ".join(f"{counts[word]} {word}" for word in ordered if counts[word])
    say(f"{len(reports)} files: {parts}")
    worst_report = next((report for word in Verdict for report in reports if report.verdict is word), None)
    if worst_report is not None and worst_report.verdict is not Verdict.RESUMABLE:
        say(f"next: {following('ckpt verify {path}', path=Path(worst_report.path))}")

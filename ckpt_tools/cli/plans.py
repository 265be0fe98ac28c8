"""What commands that plan before they write have in common: options, the plan on stdout, the question, the writing."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ckpt_tools.checks.names import counted
from ckpt_tools.cli.render import COLOURS, bytes_text, command, paint, progress_bar, say, shown
from ckpt_tools.findings import CkptError, reason_of
from ckpt_tools.findings.commands import following

if TYPE_CHECKING:
    from ckpt_tools.plans import PartPlan, Plan
    from ckpt_tools.plans.apply import Planned

__all__ = [
    "WORD",
    "AcceptLoss",
    "DryRun",
    "Force",
    "How",
    "InPlace",
    "Json",
    "Output",
    "asked",
    "carry_out",
    "file_size",
    "print_plan",
    "print_refusal",
    "print_result",
    "waits",
]

Output = Annotated[
    str | None, typer.Option("-o", "--output", metavar="FILE", help="Where to write.", show_default=False)
]
InPlace = Annotated[bool, typer.Option("--in-place", help="Replace the file; the original becomes FILE.bak.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite; replace a file that was just written.")]
AcceptLoss = Annotated[bool, typer.Option("--accept-loss", help="Carry out a plan that loses something.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only print the plan.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]

WORD = "part of it is lost or comes from elsewhere; carry the plan out with --accept-loss"


@dataclass(frozen=True)
class How:
    """Where to write, and what may be done without asking."""

    output: str | None = None
    in_place: bool = False
    force: bool = False
    accept_loss: bool = False
    dry_run: bool = False
    json_: bool = False


def carry_out(made: Planned, how: How, *, alone: bool = True, make_folder: bool = False) -> bool:
    """Write what was planned, asking where something is lost and it is ``alone``; whether there was anything to write.

    ``make_folder``: the folder it goes to is made for it. A plan that would need a word it does not get is refused.
    Raises ``CkptError`` where it can't be written.
    """
    plan, archive = made.plan, made.archive
    if plan.refused is not None or archive is None:
        return False
    if how.dry_run:
        if os.path.isdir(Path(plan.output).parent):  # a folder below --out-dir is made when there is something to write
            made.check_places(force=how.force)
        return True
    if (
        not plan.needs_consent
        or how.accept_loss
        or (alone and asked("Something is lost that way. Write it?", how.json_))
    ):
        if make_folder:
            _make_folder(Path(plan.output).parent)
        with progress_bar(archive.size if alone else 0, Path(plan.output).name) as progress:
            made.apply(force=how.force, progress=progress)
    else:
        plan.refused = WORD
    return True


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CkptError(f"the folder {folder} can't be made: {reason_of(error)}; name another one") from error


def waits(plan: Plan, how: How) -> bool:
    """Whether a dry run ends in a plan that would need a word."""
    return how.dry_run and plan.needs_consent and not how.accept_loss


def asked(question: str, json_: bool) -> bool:
    """A yes on a terminal; never asked where there is none."""
    if json_ or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    return typer.confirm(question, default=False)


def file_size(path: Path) -> int:
    """Bytes of a file; 0 for one that can't be asked."""
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


def print_plan(plan: Plan) -> None:
    """The file with its verdict and why, the steps, and what becomes of each part."""
    verdict = paint(str(plan.verdict), COLOURS[str(plan.verdict)], bold=True) if plan.verdict else "not read"
    how = " (the newest that needs it)" if plan.chosen else ""
    say(f"{shown(plan.file)}: {verdict}{how}")
    for fact in plan.findings:
        if fact.verdict is plan.verdict:
            say(f"  {paint(str(fact.severity), COLOURS[str(fact.severity)])} {fact.code} {fact.slug}: {fact.message}")
    if plan.steps:
        say("plan:")
    for step in plan.steps:
        mark = paint(" (loss)", "yellow") if step.loss and not step.consent else ""
        say(f"  - {shown(step.text)}{mark}")
    for part in plan.parts:
        if part.tensors or str(part.outcome) != "kept":
            say(f"  {shown(part.path or '.'):<12} {_fate(part)}")


def _fate(part: PartPlan) -> str:
    """``kept``, ``salvaged 90 of 93 tensors``, ``from donor epoch3.pt (epoch 3)``, ``re-initialised`` or ``lost``."""
    outcome = str(part.outcome)
    of = f" (epoch {part.epoch})" if part.epoch is not None else ""
    size = f"{counted(part.tensors, 'tensor')}, {bytes_text(part.nbytes)}" if part.tensors else "no tensors"
    if outcome == "donor":
        return f"from {shown(part.source)}{of}: {size}"
    if outcome == "salvaged":
        mixed = f", the rest from {shown(part.source)}{of}" if part.source else ""
        return f"salvaged {part.kept} of {part.tensors} tensors{mixed}"
    if outcome == "reinitialised":
        return "re-initialised: no momentum"
    if outcome == "dropped":
        return f"left out: {counted(part.tensors, 'tensor')}"
    return f"{outcome}: {size}"


def print_refusal(plan: Plan, what: str) -> None:
    """Why a plan is none, and the command to look with."""
    say(f"can't be {what}: {command(str(plan.refused))}; nothing was written")
    say(f"next: {following('ckpt verify {path}', path=Path(plan.file))}")


def print_result(plan: Plan, how: How, following: str) -> None:
    """What was or would be written, and the next command."""
    goes_on = f", goes on at epoch {plan.resumes_at} (counted from 0)" if plan.resumes_at is not None else ""
    expected = paint(str(plan.expected), COLOURS[str(plan.expected)], bold=True)
    beside = "".join(f", with {shown(path)}" for path in plan.sidecars)
    if plan.written:
        backup = f"; the original is {shown(plan.backup)}" if plan.backup else ""
        say(f"wrote {shown(plan.output)}: {expected}{goes_on}{beside}{backup}")
        say(f"next: {command(following)}")
    else:
        say(f"would write {shown(plan.output)}: {expected}{goes_on}{beside}")
        if plan.needs_consent and not how.accept_loss:
            say("next: the same command with --accept-loss; nothing was written")
        elif how.dry_run:
            say("next: the same command without --dry-run")

"""``repair``: find out what is wrong and what is at hand, plan, and write a checkpoint that can be resumed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from ckpt_tools.checkpoint import (
    CHECKPOINT_NAMES,
    LEDGER,
    Checkpoint,
    open_checkpoint,
    read_checkpoint,
    read_ledger,
    split_name,
)
from ckpt_tools.checks.content import scan_content
from ckpt_tools.checks.context import Context
from ckpt_tools.configs import is_yaml
from ckpt_tools.container import MemberError, member_source, read_zip
from ckpt_tools.findings import CkptError, Verdict
from ckpt_tools.plans.apply import Planned
from ckpt_tools.plans.case import Case
from ckpt_tools.plans.cures import CURES
from ckpt_tools.plans.donors import Donor, Judge
from ckpt_tools.plans.draft import Draft
from ckpt_tools.plans.grafts import fitting
from ckpt_tools.plans.holdings import Holding
from ckpt_tools.plans.ledger import ledger
from ckpt_tools.plans.model import Plan, Request, resumes_at
from ckpt_tools.plans.phases import NEIGHBOURS, PHASES, extends, missing_parts
from ckpt_tools.runs import checkpoints_in, kept_beside
from ckpt_tools.verbs.verify import Report, verify_checkpoint

__all__ = ["choose_file", "plan_repair", "repaired_name"]

REPAIRED = ".repaired"
MOST_SIBLINGS = 60
MOST_ROUNDS = 12
DONE = (Verdict.RESUMABLE, Verdict.WEIGHTS, Verdict.FINISHED)
REFUSED = (Verdict.UNSAFE, Verdict.FOREIGN)
Progress = Callable[[int], None]


def choose_file(folders: list[Path], donors: Collection[Path] = ()) -> Path:
    """The newest damaged or incomplete ``last*.pt`` of the first folder that has one, no donor among them.

    Raises ``CkptError`` where there is none.
    """
    for folder in folders:
        found: list[tuple[int, int, Path]] = []
        for path in checkpoints(folder):
            if path.name.startswith("last") and not any(os.path.samefile(path, donor) for donor in donors):
                with open_checkpoint(path) as checkpoint:
                    report = verify_checkpoint(checkpoint, Context(), siblings=False)
                if report.verdict in (Verdict.DAMAGED, Verdict.INCOMPLETE):
                    found.append((report.epoch if report.epoch is not None else -1, path.stat().st_mtime_ns, path))
        if found:
            return max(found)[2]
    where = " or ".join(dict.fromkeys(str(folder) for folder in folders))
    raise CkptError(f"there is no damaged or incomplete last*.pt in {where}; name the file to repair")


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the newest first; what a repair wrote is never taken for an original."""
    return [path for path, _ in checkpoints_in(folder) if REPAIRED not in path.name][:MOST_SIBLINGS]


def repaired_name(name: str) -> str:
    """``last.pt`` becomes ``last.repaired.pt``, ``last.pth.tar`` ``last.repaired.pth.tar``."""
    stem, suffix = split_name(name)
    return f"{stem}{REPAIRED}{suffix}" if suffix else f"{name.removesuffix('.zip')}{REPAIRED}.pt"


def plan_repair(
    path: str | os.PathLike[str],
    request: Request | None = None,
    output: str | os.PathLike[str] | None = None,
    *,
    context: Context | None = None,
    progress: Progress | None = None,
) -> Planned:
    """Say what a repair would do, without writing anything; ``output`` is ``<name>.repaired.pt`` where left out.

    Raises ``CkptError`` for a path or donor that can't be used; a file that can't be mended gives a plan that says so.
    """
    path, request = Path(path), request or Request()
    output = Path(output) if output is not None else path.with_name(repaired_name(path.name))
    context = context or Context(target=request.target)
    files = ExitStack()
    try:
        checkpoint = files.enter_context(open_checkpoint(path))
        wrapped = checkpoint.kind.name == "outer-zip"
        if wrapped and os.path.realpath(output) == os.path.realpath(path):
            raise CkptError(f"{path} is a zip archive; leave --in-place out, or name the checkpoint's place with -o")
        if wrapped:
            checkpoint = _unwrapped(checkpoint.source, path)
        content = scan_content(checkpoint, progress)
        report = verify_checkpoint(checkpoint, replace(context), siblings=False, content=content)
        verdict = Verdict.FOREIGN if wrapped and report.verdict in DONE else report.verdict
        plan = Plan(str(path), verdict, str(output), findings=report.findings)
        repair = Planned(plan, files=files)
        if report.verdict in REFUSED:
            plan.refused = f"the file is {report.verdict}: {report.findings[0].message}"
            return repair
        if report.verdict in DONE and not request.edits and not wrapped and not _lacks(checkpoint, path):
            plan.expected = report.verdict
            plan.resumes_at = resumes_at(report.verdict, checkpoint.recognised)
            return repair
        _work(repair, Holding(checkpoint, content), request, context, report, wrapped)
    except BaseException:
        files.close()
        raise
    return repair


def _lacks(checkpoint: Checkpoint, path: Path) -> bool:
    """Whether another file of the folder has a part that this one should have, too."""
    found = checkpoint.recognised
    if found is None or found.layout.name != "plain":
        return False
    for other in checkpoints(path.parent)[:NEIGHBOURS]:
        with contextlib.suppress(CkptError), open_checkpoint(other) as beside:
            if beside.recognised is not None and missing_parts(found, beside.recognised):
                return True
    return False


def _unwrapped(outer: Any, path: Path) -> Any:
    """The checkpoint inside a zip archive; raises ``CkptError`` where there is not exactly one."""
    members = read_zip(outer, lambda fact: None).members
    inside = [member for name, member in members.items() if name.lower().endswith(CHECKPOINT_NAMES)]
    if len(inside) != 1:
        raise CkptError(f"{path} holds {len(inside)} checkpoints; unpack it and name one of them")
    try:
        source = member_source(outer, inside[0])
    except MemberError as error:
        raise CkptError(f"{path}: {inside[0].name} {error}; get the file again from its source") from error
    source.name = str(path)
    return read_checkpoint(source)


def _work(repair: Planned, holding: Holding, request: Request, context: Context, report: Report, wrapped: bool) -> None:
    """Plan the steps, and read what the file would be after them."""
    plan = repair.plan
    folders = list(dict.fromkeys(filter(None, (request.folder, Path(plan.file).parent))))
    files, mine = repair.files, Path(plan.file)

    def judge(checkpoint: Checkpoint) -> Verdict | None:
        return verify_checkpoint(checkpoint, replace(context, quick=True), siblings=False).verdict

    siblings = [donor for folder in folders for donor in _siblings(folder, mine, judge, files)]
    donors = {role: path for role, path in request.donors.items() if role != "args" or not is_yaml(path)}
    named = {role: Donor(path, judge, files) for role, path in donors.items()}
    for donor in (*named.values(), *siblings):
        if donor.path.name == mine.name:
            donor.name = str(donor.path)
    draft = Draft(holding, keep_corrupt=request.keep_corrupt)
    case = Case(draft, request, Path(plan.file), Path(plan.output), report.target, named, siblings, wrapped=wrapped)
    try:
        for phase in PHASES:
            phase(case, report.findings)
        outcome = _until_good(case, context)
        blocking = next((fact for fact in outcome.findings if fact.verdict is outcome.verdict), None)
        wanted = (Verdict.RESUMABLE,) if extends(request) else DONE
        if outcome.verdict not in wanted:
            plan.refused = (
                f"the result would be {outcome.verdict}: {blocking.message if blocking else 'see the findings'}"
            )
        if not case.steps and report.verdict not in DONE and plan.refused is None:
            cause = next(fact.message for fact in report.findings if fact.verdict is report.verdict)
            case.do("archive", f"the archive is written anew: {cause}")
        if not case.steps and plan.refused is None:
            plan.advice = case.advice
            plan.expected, plan.resumes_at = report.verdict, resumes_at(report.verdict, case.found)
            return
        container = holding.checkpoint.container
        if case.rebased is None and container is not None and container.kind != "zip":
            case.do("format", "written as a zip archive, which torch reads since 1.6")
        plan.parts = case.plan_parts(holding)
        plan.expected, plan.resumes_at = outcome.verdict, resumes_at(outcome.verdict, case.found)
        plan.steps, plan.advice = case.steps, case.advice + _advice(case, outcome)
        record = ledger(case, plan, holding, "repair", read_ledger(holding.checkpoint))
        repair.archive = case.draft.read(plan.output, {LEDGER: record}).archive
    except CkptError as error:
        plan.refused, plan.steps, plan.advice = str(error), case.steps, case.advice
    plan.findings = [fact for fact in plan.findings if fact.slug != "sibling"]


def _siblings(folder: Path, path: Path, judge: Judge, files: ExitStack) -> Iterator[Donor]:
    """The other checkpoints of a run that parts can be taken from; what a repair made is no original."""
    for other in (*checkpoints(folder), *kept_beside(folder)):
        if os.path.exists(other) and os.path.exists(path) and os.path.samefile(other, path):
            continue
        with contextlib.suppress(CkptError):
            donor = Donor(other, judge, files)
            if other.parent != folder:  # a watcher's ring
                donor.name = str(other)
            if not donor.repaired:
                yield donor


def _until_good(case: Case, context: Context) -> Report:
    """Verify, apply the first cure that is due, and again; raises ``CkptError`` where a cure would have to guess."""
    tried: dict[str, int] = {}
    case.settle()
    for _ in range(MOST_ROUNDS):
        checkpoint, content = case.draft.checkpoint, case.holding.content
        report = verify_checkpoint(checkpoint, replace(context), siblings=False, content=content)
        due = next((name for name in _due(case, report) if tried.get(name, 0) < 2), None)
        if due is None:
            break
        tried[due] = tried.get(due, 0) + 1
        CURES[due].mend(case)
        case.settle()
    done = {step.name for step in case.steps} | tried.keys()
    case.advice += [f"--cure {name}: nothing to do" for name in case.request.cures if name not in done]
    return report


def _due(case: Case, report: Report) -> Iterator[str]:
    """The cures of what keeps the file from being resumed, and those that were asked for and have something to cure."""
    present = {fact.slug: fact.verdict for fact in report.findings}
    for name, cure in CURES.items():
        needed = report.verdict not in DONE and present.get(name) is not None and not cure.on_request
        if needed or (name in present and name in case.request.cures):
            yield name


def _advice(case: Case, report: Report) -> list[str]:
    """What else the user may want to know: a better file, a run folder elsewhere."""
    advice = []
    here = case.found.epoch
    if case.rebased is None and here is not None and not case.request.edits:
        for donor in case.nearest:
            as_far = donor.epoch is not None and donor.epoch >= here
            if as_far and donor.verdict is Verdict.RESUMABLE and not fitting(case, donor):
                look = f"`ckpt verify {donor.name}`"
                advice.append(
                    f"{donor.name} looks whole and got as far (epoch {donor.epoch}): {look}, and resume from it"
                )
                break
    if any(fact.slug == "saves-elsewhere" for fact in report.findings):
        saved = case.found.args.get("save_dir")
        advice.append(f"a resume would write to {saved}; --cure saves-elsewhere makes it this file's run folder")
    return advice

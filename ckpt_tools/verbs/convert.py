"""``convert``: move a checkpoint to another device, precision, purpose, platform or format, without executing it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from ckpt_tools.checkpoint import SAFETENSORS, Checkpoint, open_checkpoint, read_ledger, split_name
from ckpt_tools.checks.content import scan_content
from ckpt_tools.checks.context import Context
from ckpt_tools.conversions import Conversion
from ckpt_tools.conversions.formats import CHECKS, SAYS, WRITERS, beside, format_of, read_weights
from ckpt_tools.conversions.scrub import cleaned, left_in
from ckpt_tools.conversions.table import convert
from ckpt_tools.findings import CkptError, Verdict, plain_json, trouble
from ckpt_tools.plans.apply import Planned
from ckpt_tools.plans.case import Case
from ckpt_tools.plans.draft import Draft
from ckpt_tools.plans.holdings import Holding
from ckpt_tools.plans.ledger import ledger
from ckpt_tools.plans.model import Outcome, Plan, Request, resumes_at
from ckpt_tools.source import JoinedSource, Stretch
from ckpt_tools.verbs.verify import Report, verify_checkpoint

__all__ = ["converted_name", "plan_convert"]

REFUSED = {
    Verdict.DAMAGED: "`ckpt repair` it first",
    Verdict.UNSAFE: "what it calls would be in the result, too",
    Verdict.FOREIGN: "`ckpt inspect` shows what it is",
}
Progress = Callable[[int], None]


def converted_name(name: str, request: Conversion) -> str:
    """What a result is called beside its original.

    What can't be resumed begins with another word: trainers take every ``last*.pt`` for a run to go on with.
    """
    stem, suffix = split_name(name)
    was_safetensors = name.lower().endswith(SAFETENSORS)
    stem = name[: -len(SAFETENSORS)] if was_safetensors else stem
    if request.to == "safetensors":
        return f"{stem}.converted{SAFETENSORS}" if was_safetensors else f"{stem}{SAFETENSORS}"
    if request.state_dict or was_safetensors:
        return f"state_dict.{stem}{suffix or '.pt'}"
    return f"stripped.{stem}{suffix or '.pt'}" if request.strip else f"{stem}.converted{suffix or '.pt'}"


def plan_convert(
    path: str | os.PathLike[str],
    request: Conversion,
    output: str | os.PathLike[str] | None = None,
    *,
    progress: Progress | None = None,
) -> Planned:
    """Say what a conversion would do, without writing anything; ``output`` is a name beside the file where left out.

    Where there is nothing to change, a result that is wanted in a place of its own is a copy. Raises ``CkptError`` for
    a path or request that can't be used; a file that can't be converted gives a plan that says so.
    """
    path, files = Path(path), ExitStack()
    try:
        checkpoint = files.enter_context(open_checkpoint(path))
        request = _in_format(request, checkpoint, output)
        place = Path(output) if output is not None else path.with_name(converted_name(path.name, request))
        if output is not None:
            _refuse_suffix(request, place)
        plan = Plan(str(path), None, str(place), format=request.to or "zip")
        made = Planned(plan, files=files)
        try:
            _work(made, checkpoint, request, output is not None, progress)
        except CkptError as error:
            plan.refused = str(error)
    except OSError as error:
        files.close()
        raise CkptError(f"{path} can't be read: {trouble(error)}") from error
    except BaseException:
        files.close()
        raise
    return made


def _in_format(request: Conversion, checkpoint: Checkpoint, output: str | os.PathLike[str] | None) -> Conversion:
    """The request with the format to write: as asked for, as the output's name says, else the file's own."""
    own = format_of(checkpoint)
    named = Path(output).suffix.lower() if output is not None else ""
    implied = "safetensors" if named == SAFETENSORS else "zip" if named and own == "safetensors" else own or "zip"
    found = replace(request, to=request.to or implied)
    if found.weights and not (found.state_dict or found.to == "safetensors"):
        raise CkptError("--weights chooses what --state-dict keeps; add --state-dict")
    if found.strip and found.to == "safetensors":
        raise CkptError("safetensors holds weights alone, there is nothing to strip; leave --strip out")
    if not request.asked and found.to == own:
        raise CkptError("nothing to convert was asked for; `ckpt convert --help` lists what there is")
    return found


def _refuse_suffix(request: Conversion, place: Path) -> None:
    """A name that says another format than the one to be written."""
    named = place.suffix.lower() == SAFETENSORS
    if named != (request.to == "safetensors") and (named or split_name(place.name)[1]):
        raise CkptError(f"{place.name} would not be what its name says ({request.to}); name another output with -o")


def _work(made: Planned, checkpoint: Checkpoint, request: Conversion, wanted: bool, progress: Progress | None) -> None:
    """Plan the steps, and read what the file would be after them."""
    plan = made.plan
    if checkpoint.kind.name == "safetensors":
        draft, noted = read_weights(checkpoint)
        original, draft = draft.holding, draft.read(plan.output)
    else:
        original = Holding(checkpoint, scan_content(checkpoint, progress))
        draft, noted = Draft(original), {"ledger": read_ledger(checkpoint)}
    report = _verified(draft, request)
    plan.verdict, plan.findings = report.verdict, report.findings
    _refuse(report, "the file is", REFUSED)
    if not format_of(checkpoint):
        raise CkptError("it is a pickle torch.load does not read; load it as it was saved, and torch.save it")
    case = Case(draft, Request(), Path(plan.file), Path(plan.output), report.target, beside=noted.get("weights"))
    try:
        convert(case, request)
        if request.scrub and not case.steps and (noted.get("ledger") or {"scrubbed": True}).get("scrubbed") is not True:
            case.do("scrub", "the record of earlier commands taken out", loss=True, consent=True)
        outcome = _outcome(case, request, report)
        if request.to != format_of(checkpoint):
            case.do("format", SAYS[str(request.to)])
    finally:
        plan.steps, plan.advice = case.steps, case.advice
    plan.expected, plan.resumes_at = outcome.verdict, resumes_at(outcome.verdict, case.found)
    plan.parts = case.plan_parts(original, gone=Outcome.DROPPED)
    for part in plan.parts if request.scrub else ():
        part.path = cleaned(part.path)
    if case.steps:
        _write(made, case, request, original, noted)
    elif wanted and os.path.realpath(plan.output) != os.path.realpath(plan.file):
        made.archive = JoinedSource([Stretch(checkpoint.source, None, checkpoint.source.name)], plan.output)
        made.check = CHECKS[str(request.to)]


def _write(made: Planned, case: Case, request: Conversion, original: Holding, noted: Mapping[str, Any]) -> None:
    """Put the result together in its format, with its ledger and what lies beside it."""
    plan, target = made.plan, str(request.to)
    described = _description(case, request)
    before = None if request.scrub else noted.get("ledger")
    record = ledger(case, plan, original, "convert", before, scrubbed=request.scrub)
    written = WRITERS[target](case, Path(plan.output), record)
    made.archive, made.check = written.archive, CHECKS[target]
    made.sidecars = {**written.sidecars, **described}
    plan.sidecars = [str(path) for path in made.sidecars]
    left = left_in(case, written.archive, iter(made.sidecars.values())) if request.scrub else ""
    if left:
        raise CkptError(
            f"{left} was taken out, and is also in a place that can't be looked into; keep the file to yourself"
        )


def _verified(draft: Draft, request: Conversion, *, verdict_only: bool = False) -> Report:
    context = Context(target=request.target, verdict_only=verdict_only)
    return verify_checkpoint(draft.checkpoint, context, siblings=False, content=draft.holding.content)


def _refuse(report: Report, what: str, refused: dict[Verdict, str]) -> None:
    if report.verdict in refused:
        first = next(fact.message for fact in report.findings if fact.verdict is report.verdict)
        raise CkptError(f"{what} {report.verdict}: {first}; {refused[report.verdict]}")


def _outcome(case: Case, request: Conversion, before: Report) -> Report:
    """The verdict on the result; one that can no longer be resumed, without being asked for that, needs a word."""
    outcome = _verified(case.draft, request, verdict_only=True)
    _refuse(outcome, "the result would be", dict.fromkeys(REFUSED, "ask for something else"))
    alone = request.strip or request.state_dict or request.to == "safetensors"
    if before.allows("resume") and not outcome.allows("resume") and not alone:
        why = next(
            (fact.message for fact in outcome.findings if fact.verdict is outcome.verdict), "it holds weights only"
        )
        case.do("resume", f"it could no longer be resumed: {why}", loss=True)
    return outcome


def _description(case: Case, request: Conversion) -> dict[Path, bytes]:
    """The file beside a plain state dict that says what its weights are."""
    if case.beside is None:
        return {}
    part = case.part("model")
    described = case.beside = plain_json({**case.beside, "dtypes": part.dtypes() if part else []})
    if request.to == "safetensors":
        return {}
    return {beside(case.output): json.dumps(described, indent=1, allow_nan=False).encode()}

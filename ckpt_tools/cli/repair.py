"""``ckpt repair``: the plan on stdout, consent where something is lost, and the result beside the input."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ckpt_tools.cli.guard import FINISHED, NO, YES
from ckpt_tools.cli.render import COLOURS, bytes_text, command, paint, print_json, progress_bar, say, shown
from ckpt_tools.findings import CkptError, Verdict

if TYPE_CHECKING:
    from ckpt_tools.plans import PartPlan, Plan, Request

__all__ = ["repair"]

WORD = "part of it is lost or comes from elsewhere; carry the plan out with --accept-loss"
FROM = {"metavar": "FILE", "show_default": False}


def repair(
    file: Annotated[
        str | None,
        typer.Argument(
            help="The checkpoint; left out: the newest damaged or incomplete last*.pt in the donor's folder or here.",
            show_default=False,
        ),
    ] = None,
    folder: Annotated[
        str | None, typer.Option("--from", metavar="DIR", help="Look for donors in DIR, too.", show_default=False)
    ] = None,
    model_from: Annotated[str | None, typer.Option(help="Take the weights of FILE.", **FROM)] = None,
    ema_from: Annotated[str | None, typer.Option(help="Take the averaged weights of FILE.", **FROM)] = None,
    optimizer_from: Annotated[str | None, typer.Option(help="Take the optimizer of FILE.", **FROM)] = None,
    scheduler_from: Annotated[str | None, typer.Option(help="Take the LR scheduler of FILE.", **FROM)] = None,
    scaler_from: Annotated[str | None, typer.Option(help="Take the gradient scaler of FILE.", **FROM)] = None,
    rng_from: Annotated[str | None, typer.Option(help="Take the random state of FILE.", **FROM)] = None,
    args_from: Annotated[
        str | None, typer.Option(help="Take the training arguments of a .pt or .yaml.", **FROM)
    ] = None,
    epoch: Annotated[
        int | None, typer.Option(min=0, help="The last finished epoch, counted from 0.", show_default=False)
    ] = None,
    epoch_from: Annotated[
        str | None, typer.Option(metavar="CSV", help="The last finished epoch from a results.csv.", show_default=False)
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a saved argument.", show_default=False),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Trainer that is to resume, e.g. ultralytics==8.4.190.", show_default=False)
    ] = None,
    cure: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Apply one cure by the name of its finding.", show_default=False),
    ] = None,
    reinit: Annotated[
        list[str] | None, typer.Option(metavar="PART", help="Start a part (optimizer) afresh.", show_default=False)
    ] = None,
    mix: Annotated[bool, typer.Option("--mix", help="Take only the hit tensors of a part from a donor.")] = False,
    keep_corrupt: Annotated[bool, typer.Option("--keep-corrupt", help="Keep hit tensors as they are.")] = False,
    output: Annotated[
        str | None, typer.Option("-o", "--output", metavar="FILE", help="Where to write.", show_default=False)
    ] = None,
    in_place: Annotated[
        bool, typer.Option("--in-place", help="Replace the file; the original becomes FILE.bak.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite; replace a file that was just written.")] = False,
    accept_loss: Annotated[bool, typer.Option("--accept-loss", help="Carry out a plan that loses something.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the plan.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> int:
    """Rebuild a checkpoint that can be resumed from what is left, other files of the run, and a word of yours."""
    given = {"model": model_from, "ema": ema_from, "optimizer": optimizer_from, "scheduler": scheduler_from,
             "scaler": scaler_from, "rng": rng_from, "args": args_from}  # fmt: skip
    asked = {"folder": folder, "epoch": epoch, "results": epoch_from, "set": set_, "target": target, "cure": cure,
             "reinit": reinit, "mix": mix, "keep_corrupt": keep_corrupt, "accept_loss": accept_loss}  # fmt: skip
    how = _How(output, in_place, force, accept_loss, dry_run, json_)
    try:
        return _run(file, _request(given, asked), how)
    except CkptError as error:
        if json_:
            print_json("repair", {"file": file, "written": False, "error": str(error)})
        raise


@dataclass(frozen=True)
class _How:
    """Where to write, and what may be done without asking."""

    output: str | None
    in_place: bool
    force: bool
    accept_loss: bool
    dry_run: bool
    json_: bool


def _request(donors: dict[str, str | None], asked: dict[str, Any]) -> Request:
    """What was asked for; raises ``CkptError`` for a name or value that makes no sense."""
    from ckpt_tools.configs import parse_setting
    from ckpt_tools.plans.cures import CURES
    from ckpt_tools.plans.model import Request
    from ckpt_tools.verbs.verify import parse_target

    cures = {name: cure.what for name, cure in CURES.items()}
    return Request(
        donors={role: _file(path, f"--{role}-from") for role, path in donors.items() if path is not None},
        folder=_folder(asked["folder"]),
        epoch=asked["epoch"],
        results=_file(asked["results"], "--epoch-from") if asked["results"] else None,
        settings=dict(parse_setting(text, "--set") for text in asked["set"] or ()),
        target=parse_target(asked["target"]) if asked["target"] else None,
        mix=asked["mix"],
        keep_corrupt=asked["keep_corrupt"],
        accept_loss=asked["accept_loss"],
        reinit=frozenset(_known(name, {"optimizer": "no momentum"}, "--reinit") for name in asked["reinit"] or ()),
        cures=tuple(_known(name, cures, "--cure") for name in asked["cure"] or ()),
    )


def _run(file: str | None, request: Request, how: _How) -> int:
    """Plan, print the plan, ask where something is lost, write."""
    from ckpt_tools.verbs.repair import choose_file, plan_repair, repaired_name

    if how.in_place and how.output:
        raise CkptError("--in-place and -o exclude each other; leave one of them out")
    path = (
        Path(file).expanduser() if file is not None else choose_file(_folders(request), tuple(request.donors.values()))
    )
    if path.is_dir():
        raise CkptError(f"{path} is a folder, not a file; name the checkpoint in it")
    place = Path(how.output).expanduser() if how.output else path.with_name(repaired_name(path.name))
    with progress_bar(_size(path), path.name) as progress:
        repairing = plan_repair(path, request, path.resolve() if how.in_place else place, progress=progress)
    with repairing:
        plan = repairing.plan
        plan.chosen = file is None
        ready = plan.refused is None and repairing.draft is not None
        if not how.json_:
            _print(plan)
        agreed = ready and not how.dry_run and (not plan.needs_consent or how.accept_loss or _asked(how.json_))
        if agreed:
            with progress_bar(repairing.draft.archive.size if repairing.draft else 0, place.name) as progress:
                repairing.apply(force=how.force, progress=progress)
        elif ready and not how.dry_run:
            plan.refused = WORD
        if how.json_:
            print_json("repair", plan.as_json())
        else:
            _print_end(plan, how, ready)
        return _code(plan, how, ready)


def _code(plan: Plan, how: _How, ready: bool) -> int:
    if plan.refused is not None:
        return NO
    if not ready:
        return FINISHED if plan.expected is Verdict.FINISHED else YES
    return NO if how.dry_run and plan.needs_consent and not how.accept_loss else YES


def _asked(json_: bool) -> bool:
    """A yes on a terminal; never asked where there is none."""
    if json_ or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    return typer.confirm("Something is lost that way. Write it?", default=False)


def _known(name: str, names: Mapping[str, str], option: str) -> str:
    if name not in names:
        listed = "; ".join(f"{name} ({what})" for name, what in names.items())
        raise CkptError(f"{option} {name}: there is no such thing; choose from: {listed}")
    return name


def _file(text: str, option: str) -> Path:
    path = Path(text).expanduser()
    if not path.is_file():
        raise CkptError(f"{option} {path} is no file; check the path")
    return path


def _folder(text: str | None) -> Path | None:
    folder = Path(text).expanduser() if text else None
    if folder is not None and not folder.is_dir():
        raise CkptError(f"--from {folder} is no folder; name the run's weights folder")
    return folder


def _folders(request: Request) -> list[Path]:
    """Where to look for the file to repair: the donors' folders, then the current one."""
    donors = [path.parent for role, path in request.donors.items() if role != "args"]
    return list(dict.fromkeys([*donors, *filter(None, (request.folder,)), Path()]))


def _size(path: Path) -> int:
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


def _print(plan: Plan) -> None:
    verdict = paint(str(plan.verdict), COLOURS[str(plan.verdict)], bold=True)
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
    size = f"{part.tensors} tensors, {bytes_text(part.nbytes)}" if part.tensors else "no tensors"
    if outcome == "donor":
        return f"from {shown(part.source)}{of}: {size}"
    if outcome == "salvaged":
        mixed = f", the rest from {shown(part.source)}{of}" if part.source else ""
        return f"salvaged {part.kept} of {part.tensors} tensors{mixed}"
    if outcome == "reinitialised":
        return "re-initialised: no momentum"
    return f"{outcome}: {size}"


def _print_end(plan: Plan, how: _How, ready: bool) -> None:
    for line in plan.advice:
        say(f"  hint: {shown(line)}")
    output = shlex.quote(plan.output)
    if plan.refused is not None and plan.refused != WORD:
        say(f"can't be mended: {command(plan.refused)}; nothing was written")
        say(f"next: {command(f'ckpt verify {shlex.quote(plan.file)}')}")
        return
    if not ready:
        say("nothing to do")
        if plan.expected is Verdict.FINISHED:
            say(f"next: {command(f'ckpt repair {shlex.quote(plan.file)} --optimizer-from epochN.pt --set epochs=N')}")
        return
    goes_on = f", goes on at epoch {plan.resumes_at} (counted from 0)" if plan.resumes_at is not None else ""
    expected = paint(str(plan.expected), COLOURS[str(plan.expected)], bold=True)
    if plan.written:
        backup = f"; the original is {shown(plan.backup)}" if plan.backup else ""
        say(f"wrote {shown(plan.output)}: {expected}{goes_on}{backup}")
        say(f"next: {command(f'ckpt verify {output}')}")
    else:
        say(f"would write {shown(plan.output)}: {expected}{goes_on}")
        if plan.needs_consent and not how.accept_loss:
            say("next: the same command with --accept-loss; nothing was written")
        elif how.dry_run:
            say("next: the same command without --dry-run")

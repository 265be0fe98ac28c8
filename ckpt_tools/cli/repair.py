"""``ckpt repair``: the plan on stdout, consent where something is lost, and the result beside the input."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ckpt_tools.cli.guard import FINISHED, NO, YES
from ckpt_tools.cli.plans import (
    WORD,
    AcceptLoss,
    DryRun,
    Force,
    How,
    InPlace,
    Json,
    Output,
    carry_out,
    file_size,
    print_plan,
    print_refusal,
    print_result,
    waits,
)
from ckpt_tools.cli.render import command, print_json, progress_bar, say, shown
from ckpt_tools.findings import CkptError, Verdict

if TYPE_CHECKING:
    from ckpt_tools.plans import Plan, Request

__all__ = ["repair"]

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
    output: Output = None,
    in_place: InPlace = False,
    force: Force = False,
    accept_loss: AcceptLoss = False,
    dry_run: DryRun = False,
    json_: Json = False,
) -> int:
    """Rebuild a checkpoint that can be resumed from what is left, other files of the run, and a word of yours."""
    given = {"model": model_from, "ema": ema_from, "optimizer": optimizer_from, "scheduler": scheduler_from,
             "scaler": scaler_from, "rng": rng_from, "args": args_from}  # fmt: skip
    asked = {"folder": folder, "epoch": epoch, "results": epoch_from, "set": set_, "target": target, "cure": cure,
             "reinit": reinit, "mix": mix, "keep_corrupt": keep_corrupt, "accept_loss": accept_loss}  # fmt: skip
    how = How(output, in_place, force, accept_loss, dry_run, json_)
    try:
        return _run(file, _request(given, asked), how)
    except CkptError as error:
        if json_:
            print_json("repair", {"file": file, "written": False, "error": str(error)})
        raise


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


def _run(file: str | None, request: Request, how: How) -> int:
    """Plan, print the plan, ask where something is lost, write."""
    from ckpt_tools.verbs.repair import choose_file, plan_repair, repaired_name

    if how.in_place and how.output:
        raise CkptError("--in-place and -o exclude each other; leave one of them out")
    path = (
        Path(os.path.expanduser(file))
        if file is not None
        else choose_file(_folders(request), tuple(request.donors.values()))
    )
    if os.path.isdir(path):
        raise CkptError(f"{path} is a folder, not a file; name the checkpoint in it")
    place = Path(os.path.expanduser(how.output)) if how.output else path.with_name(repaired_name(path.name))
    with progress_bar(file_size(path), path.name) as progress:
        repairing = plan_repair(
            path, request, Path(os.path.realpath(path)) if how.in_place else place, progress=progress
        )
    with repairing:
        plan = repairing.plan
        plan.chosen = file is None
        if not how.json_:
            print_plan(plan)
        ready = carry_out(repairing, how)
        if how.json_:
            print_json("repair", plan.as_json())
        else:
            _print_end(plan, how, ready)
        return _code(plan, how, ready)


def _code(plan: Plan, how: How, ready: bool) -> int:
    if plan.refused is not None:
        return NO
    if not ready:
        return FINISHED if plan.expected is Verdict.FINISHED else YES
    return NO if waits(plan, how) else YES


def _known(name: str, names: Mapping[str, str], option: str) -> str:
    if name not in names:
        listed = "; ".join(f"{name} ({what})" for name, what in names.items())
        raise CkptError(f"{option} {name}: there is no such thing; choose from: {listed}")
    return name


def _file(text: str, option: str) -> Path:
    path = Path(os.path.expanduser(text))
    if not os.path.isfile(path):
        raise CkptError(f"{option} {path} is no file; check the path")
    return path


def _folder(text: str | None) -> Path | None:
    folder = Path(os.path.expanduser(text)) if text else None
    if folder is not None and not os.path.isdir(folder):
        raise CkptError(f"--from {folder} is no folder; name the run's weights folder")
    return folder


def _folders(request: Request) -> list[Path]:
    """Where to look for the file to repair: the donors' folders, then the current one."""
    donors = [path.parent for role, path in request.donors.items() if role != "args"]
    return list(dict.fromkeys([*donors, *filter(None, (request.folder,)), Path()]))


def _print_end(plan: Plan, how: How, ready: bool) -> None:
    for line in plan.advice:
        say(f"  hint: {shown(line)}")
    if plan.refused is not None and plan.refused != WORD:
        print_refusal(plan, "mended")
    elif ready:
        print_result(plan, how, f"ckpt verify {shlex.quote(plan.output)}")
    else:
        say("nothing to do")
        if plan.expected is Verdict.FINISHED:
            say(f"next: {command(f'ckpt repair {shlex.quote(plan.file)} --optimizer-from epochN.pt --set epochs=N')}")

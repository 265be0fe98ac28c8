"""``ckpt latest``: one path on stdout, for a shell to use; everything else on stderr."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from ckpt_tools.cli.guard import FINISHED, NO, YES
from ckpt_tools.cli.plans import Json
from ckpt_tools.cli.render import complain, print_json, print_path
from ckpt_tools.cli.verify import Purpose
from ckpt_tools.findings import CkptError
from ckpt_tools.findings.commands import hint

__all__ = ["latest"]


def latest(
    folder: Annotated[
        str, typer.Argument(metavar="[DIR]", help="A run folder, or one with runs in it.", show_default=False)
    ] = ".",
    purpose: Annotated[Purpose, typer.Option("--for", help="What it is wanted for.")] = Purpose.RESUME,
    best: Annotated[
        str | None,
        typer.Option(
            metavar="METRIC", help="The best by a metric instead, e.g. fitness or mAP50-95.", show_default=False
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Structure only: no tensor bytes are read.")] = False,
    target: Annotated[
        str | None, typer.Option(help="Trainer that is to resume, e.g. ultralytics==8.4.190.", show_default=False)
    ] = None,
    json_: Json = False,
) -> int:
    """Print the path of the newest checkpoint that verifies, and nothing else; exit 3 when the newest run is over."""
    from ckpt_tools.verbs.latest import latest as find
    from ckpt_tools.verbs.verify import parse_target

    try:
        wanted = parse_target(target) if target is not None else None
        found = find(folder, purpose=purpose.value, best=best, quick=quick, target=wanted)
    except CkptError as error:
        if json_:
            print_json("latest", {"path": None, "error": str(error)})
        raise
    if json_:
        passed = [{"path": str(path), "why": why} for path, why in found.passed]
        verdict = str(found.report.verdict) if found.report else None
        content = {"for": purpose.value, "path": str(found.path) if found.path else None, "verdict": verdict}
        run = str(found.run) if found.run else None
        print_json(
            "latest", {**content, "run": run, "finished": found.finished, "reason": found.reason, "passed": passed}
        )
    for path, why in found.passed:
        complain(f"passed over {path}: {why}")
    if found.path is not None:
        if not json_:
            print_path(found.path)
        return YES
    complain(f"{found.reason}; {_following(folder, found.finished)}")
    return FINISHED if found.finished else NO


def _following(folder: str, finished: bool) -> str:
    if finished:
        return "for more epochs start a new run from its weights"
    return hint(
        "ckpt verify {folder}", "{} says why, `ckpt repair` may mend it", folder=Path(os.path.expanduser(folder))
    )

"""Cures of the saved training arguments."""

from __future__ import annotations

import os
from pathlib import Path

from ckpt_tools.checks.names import few
from ckpt_tools.layouts.arguments import accepted_spelling, refused_arguments
from ckpt_tools.layouts.parts import plain
from ckpt_tools.layouts.ultralytics import optimizer_names
from ckpt_tools.plans.case import Case
from ckpt_tools.plans.cures.optimizer import optimizer_name
from ckpt_tools.plans.edits import drop

__all__ = ["args_refused", "save_dir"]


def args_refused(case: Case) -> None:
    """Translate the saved arguments the target renamed; drop those it refuses, which then have its default."""
    version = case.wanted
    path = case.path("args")
    named = case.target is not None and case.target.source == "flag"
    dropped, translated = [], []
    for key, value in list(case.found.args.items()):
        if not refused_arguments({key: plain(value)}, version):
            continue
        drop(case.root, f"{path}.{key}")
        case.draft.edited = True
        spelling = accepted_spelling(key, plain(value), version)
        if spelling is not None and (spelling[0] == key or spelling[0] not in case.found.args):
            case.put(f"{path}.{spelling[0]}", spelling[1])
            translated.append(f"{key}={plain(value)} → {spelling[0]}={spelling[1]}")
        else:
            dropped.append(key)
    optimizer = case.found.args.get("optimizer")
    if isinstance(optimizer, str) and optimizer.lower() not in optimizer_names(version):
        optimizer_name(case)
    if translated:
        case.do("args-refused", f"saved arguments translated for {case.target}: {few(translated, 20)}")
    if dropped:
        text = f"saved arguments {case.target} refuses are left out, its defaults hold: {few(dropped, 20)}"
        case.do("args-refused", text, loss=True, consent=named)


def save_dir(case: Case) -> None:
    """Let a resume write into the folder the file lies in."""
    folder = Path(os.path.realpath(case.output)).parent
    run = folder.parent if folder.name == "weights" else folder
    path = case.path("args")
    if path and case.found.args.get("save_dir") != str(run):
        case.put(f"{path}.save_dir", str(run))
        case.do("saves-elsewhere", f"save_dir = {run}")

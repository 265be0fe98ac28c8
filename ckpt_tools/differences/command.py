"""The command that does what a configuration asks for: a resume, an edit of the checkpoint first, or a new run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ckpt_tools.differences.model import STOPS, Difference, Meaning
from ckpt_tools.differences.overrides import IN_GROUPS
from ckpt_tools.differences.situation import Situation
from ckpt_tools.findings.commands import UntypableError, Word, filled, following
from ckpt_tools.layouts.arguments import default_arguments, known_arguments, taken_on_resume
from ckpt_tools.layouts.ultralytics import optimizer_names

__all__ = ["Advice", "advise"]

FOLDER = frozenset({"project", "name", "exist_ok"})  # what `save_dir` is made of
BY_STATE = frozenset({"optimizer", *IN_GROUPS})  # changed only with a fresh optimizer
ASKED_FOR = frozenset({"save_dir", "pretrained", *FOLDER})  # what a new run takes, if it is asked for by name
NOT_CARRIED = frozenset({"model", "data", "mode", "task", "resume", "save_dir", "cfg", "pretrained", *FOLDER})
NEVER = frozenset({"task", "model", "single_cls"})  # no edit of the settings brings these
TAKEN = (Meaning.HONOURED, Meaning.SCHEDULE)


@dataclass
class Advice:
    """Commands to type one after the other, each if the one before succeeded, and what they leave out."""

    commands: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    untypable: bool = False

    def type(self, template: str, **names: Word | Sequence[Word]) -> None:
        """Add a command; where one of them can't be typed there is none at all, but a note that says so."""
        try:
            self.commands.append(filled(template, **names))
        except UntypableError as error:
            self.untypable = True
            self.notes.append(str(error))
        if self.untypable:
            self.commands.clear()


def advise(situation: Situation, differences: Sequence[Difference], ready: bool) -> Advice:
    """What to type; ``ready`` says whether the checkpoint by itself can be resumed."""
    advice = Advice()
    for difference in differences:
        if difference.meaning in (Meaning.UNKNOWN, Meaning.INVALID):
            advice.notes.append(f"{difference.key} is left out: {difference.why}")
    if situation.found.layout.name != "ultralytics":
        _script(situation, differences, advice)
    elif not situation.resuming:
        _new_run(situation, differences, advice)
    elif not ready and not _extends(situation, differences):
        advice.notes.append("the checkpoint itself can't be resumed (`ckpt verify` says why): this starts a new run")
        _new_run(situation, differences, advice)
    elif any(difference.meaning is Meaning.BREAKS for difference in differences):
        broken = next(difference for difference in differences if difference.meaning is Meaning.BREAKS)
        advice.notes.append(f"{broken.key} can't be had in a resume: this starts a new run from the weights")
        _new_run(situation, differences, advice)
    else:
        _resume(situation, differences, advice)
    return advice


def _resume(situation: Situation, differences: Iterable[Difference], advice: Advice) -> None:
    """What a resume takes goes on its command line, the rest into a copy of the checkpoint first."""
    path = situation.checkpoint.path
    given = [d for d in differences if d.meaning in TAKEN and d.section == "args"]
    ignored = [d for d in differences if d.meaning is Meaning.IGNORED and d.key not in FOLDER]
    edits = [d for d in ignored if d.key in known_arguments(situation.version) and d.key not in NEVER]
    edits = [d for d in edits if d.key not in taken_on_resume(situation.version) and not _out_of_reach(d, situation)]
    advice.notes += [f"{d.key} stays as it is: {d.why}" for d in ignored if d not in edits]
    options = [_typed(d.key, d.new) for d in given]
    sets = [_typed(d.key, d.new) for d in edits]
    folder = _folder(situation, differences)
    if folder is not None:
        (options if "save_dir" in taken_on_resume(situation.version) else sets).append(_typed("save_dir", folder))
    if any(d.key in IN_GROUPS for d in edits) and not any(d.key == "optimizer" for d in edits):
        sets.append(_typed("optimizer", situation.optimizer or situation.saved.get("optimizer")))
    if sets:
        fresh = ["--reinit", "optimizer"] if any(d.key in BY_STATE for d in edits) else []
        if fresh:
            advice.notes.append("the optimizer starts afresh: its state belongs to the saved settings")
        settings = [word for text in sets for word in ("--set", text)]
        made = path.with_name(f"{path.stem}.edited.pt")
        advice.type("ckpt repair {path} {settings} -o {made}", path=path, settings=[*settings, *fresh], made=made)
        path = made
    advice.type("yolo train resume model={path} {options}", path=path, options=options)


def _extends(situation: Situation, differences: Iterable[Difference]) -> bool:
    """Whether a run that is over, but whose file was not stripped, is to have more epochs."""
    done = situation.found.epoch
    live = bool(situation.found.role("optimizer")) and done is not None and done >= 0
    asked = next((d.new for d in differences if d.key == "epochs" and d.meaning is Meaning.IGNORED), 0)
    return live and done is not None and isinstance(asked, int) and asked > done + 1


def _out_of_reach(difference: Difference, situation: Situation) -> bool:
    """What an edit of the saved settings can't bring: an optimizer nobody has, fewer epochs than are done."""
    if difference.key == "optimizer":
        asked = str(difference.new).lower()
        return asked == "auto" or asked not in optimizer_names(situation.version)
    done = situation.found.epoch
    epochs = difference.new if difference.key == "epochs" else None
    return isinstance(epochs, (int, float)) and done is not None and epochs <= done + 1


def _folder(situation: Situation, differences: Iterable[Difference]) -> str | None:
    """The folder other names of project and run ask for."""
    asked = {d.key: d.new for d in differences if d.key in ("project", "name") and d.meaning is Meaning.IGNORED}
    if not any(asked.values()):
        return None
    saved = situation.saved.get("save_dir")
    run = Path(str(saved)) if saved else Path("runs", "train")
    return str(Path(str(asked.get("project") or run.parent), str(asked.get("name") or run.name)))


def _new_run(situation: Situation, differences: Sequence[Difference], advice: Advice) -> None:
    """A run of its own that starts from these weights, with the saved settings and the new ones on top."""
    path = situation.checkpoint.path
    defaults, known = default_arguments(situation.version), known_arguments(situation.version)
    saved = {
        key: value
        for key, value in situation.saved.items()
        if key in known and key not in NOT_CARRIED and value != defaults.get(key)
    }
    usable = [d for d in differences if d.section == "args" and d.meaning not in (Meaning.UNKNOWN, Meaning.INVALID)]
    new = {d.key: d.new for d in usable if d.key in known and (d.key in ASKED_FOR or d.key not in NOT_CARRIED)}
    settings = {**(saved if situation.resuming else {}), **new}
    config, model, data = situation.config, path, situation.saved.get("data")
    named = {d.key: d.new for d in usable}
    if config.kind == "model" and config.path is not None:
        model = config.path
    elif situation.config.values.get("model") and named.get("model") and _stops_or_taken(usable, "model"):
        model = Path(str(named["model"]))
    if config.kind == "data" and config.path is not None:
        data = config.path
    data = named.get("data") or data
    template = "yolo train model={model}" + (" pretrained={path}" if model != path else "")
    template += " data={data} {settings}" if data else " {settings}"
    typed = [_typed(key, value) for key, value in settings.items()]
    held = data if isinstance(data, Path) else str(data)
    advice.type(template, model=model, path=path, data=held, settings=typed)


def _stops_or_taken(differences: Iterable[Difference], key: str) -> bool:
    """Whether a setting asks for something the checkpoint is not."""
    return any(d.key == key and d.meaning in (*STOPS, *TAKEN) for d in differences)


def _script(situation: Situation, differences: Iterable[Difference], advice: Advice) -> None:
    """Trainers that read their own settings: the command as it is, and where to change what differs."""
    own = situation.found.layout.settings
    for difference in differences:
        if difference.meaning is Meaning.IGNORED and own:
            place = situation.own_settings or own
            advice.notes.append(f"{difference.key}: set it to {difference.new} in {place}, which a resume reads")
        elif difference.meaning in (Meaning.IGNORED, Meaning.BREAKS):
            advice.notes.append(f"{difference.key} can't be had: {difference.why}")
    path = situation.checkpoint.path
    resume = situation.found.layout.resume
    if resume:
        advice.type(resume, path=path)
        return
    taken = [_typed(d.key, d.new) for d in differences if d.meaning in TAKEN and d.section == "args"]
    words = following("{path} with {taken}" if taken else "{path}", path=path, taken=taken)
    advice.notes.append(f"start your own script from {words}")


def _typed(key: str, value: Any) -> str:
    """``KEY=VALUE`` as trainers and ``ckpt repair --set`` read it."""
    return f"{key}={None if value == '' else value}"

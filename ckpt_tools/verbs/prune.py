"""``prune``: which files of a run stay, each with why, and which go; nothing goes before what stays was verified."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ckpt_tools.conversions import Conversion
from ckpt_tools.findings import CkptError, Verdict, reason_of, trouble
from ckpt_tools.placing import PRIVATE, beside, copy_whole, publish, sync_folder
from ckpt_tools.runs import Results, Run, can_reflink, digest, find_runs, is_backup, reflink, results_of
from ckpt_tools.verbs.convert import plan_convert
from ckpt_tools.verbs.glance import Glance, best_first, glance
from ckpt_tools.verbs.verify import verify

__all__ = ["Entry", "Pruning", "Rules", "RunPlan", "plan_prune"]

SETTLED = 60  # seconds after the last write before a file may go
OURS = ("last", "best")  # what trainers write over and over under these names stays
LEFT_ALONE = {
    Verdict.DAMAGED: "damaged: `ckpt repair` may need it",
    Verdict.UNSAFE: "unsafe, so not ours to judge",
    Verdict.FOREIGN: "no checkpoint",
}
KEEP, REMOVE, STRIP, SHARE, LEAVE = "keep", "remove", "strip", "share", "leave"
UNKNOWN = "no file of this run has it"
CARRIED_OUT = (SHARE, STRIP, REMOVE)  # in this order
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Rules:
    """What stays. ``best`` is a metric and how many; ``within`` is in seconds, ``max_size`` in bytes, of all runs.

    ``last`` and ``best`` count epochs, so that two files of one epoch stay or go together. With ``strip_old`` what no
    rule keeps is not removed: its weights stay, as its trainer's own strip leaves them. With ``dedupe`` files that are
    the same byte by byte share their bytes: as reflinks, or with ``hardlink`` as names of one file, which is never done
    to what trainers write over in its place.
    """

    last: int | None = None
    best: tuple[str, int] | None = None
    every: int | None = None
    within: float | None = None
    max_size: int | None = None
    strip_old: bool = False
    dedupe: bool = False
    hardlink: bool = False

    @property
    def any(self) -> bool:
        kept = (self.last, self.best, self.every, self.within, self.max_size)
        return self.strip_old or self.dedupe or any(value is not None for value in kept)


@dataclass
class Entry:
    """One file: what is to become of it, why, and the bytes that ``frees``.

    ``done`` once it was carried out, ``error`` where it could not be.
    """

    path: Path
    action: str
    reasons: list[str]
    size: int = 0
    epoch: int | None = None
    verdict: str | None = None
    status: os.stat_result | None = None
    frees: int = 0
    twin: Entry | None = None  # the file whose bytes it is to share
    done: bool = False
    error: str = ""

    def as_json(self) -> dict[str, Any]:
        names = ("action", "reasons", "size", "frees", "epoch", "verdict", "done", "error")
        return {"path": str(self.path), **{name: getattr(self, name) for name in names}}


@dataclass
class RunPlan:
    """A run with all its files, the newest first."""

    folder: Path
    files: list[Entry] = field(default_factory=list)
    unread: str = ""  # why its results.csv says nothing

    def of(self, action: str) -> list[Entry]:
        return [entry for entry in self.files if entry.action == action]


@dataclass
class Pruning:
    """What is to go and what is to stay, run by run; nothing was changed yet."""

    runs: list[RunPlan]
    hardlink: bool = False

    @property
    def removals(self) -> list[Entry]:
        return [entry for run in self.runs for entry in run.of(REMOVE)]

    @property
    def changes(self) -> list[Entry]:
        """What is to be removed, stripped or shared."""
        return [entry for run in self.runs for entry in run.files if entry.action in CARRIED_OUT]

    @property
    def freed(self) -> int:
        """Bytes: those of files of which every name goes, and of what is stripped."""
        return sum(entry.frees for entry in self.changes)

    def apply(self, *, trash: bool = False, move_to: Path | None = None, progress: Progress | None = None) -> None:
        """Remove what is to go, or put it into the trash or below a folder; strip what is to be stripped.

        A file that changed since, or whose run no longer has what it was to keep, stays; ``error`` says so.
        """
        for run in self.runs:
            guards = _guards(run)
            for entry in [entry for action in CARRIED_OUT for entry in run.of(action)]:
                if guards and all(map(_changed, guards)):
                    entry.error = f"{guards[0].path.name}, which was to stay, changed meanwhile; plan again"
                elif _changed(entry):
                    entry.error = "it changed meanwhile; plan again"
                elif entry.action == STRIP:
                    _strip(entry)
                elif entry.action == SHARE:
                    _share(entry, self.hardlink)
                else:
                    _remove(entry, run.folder, trash, move_to)
                if progress is not None:
                    progress(entry.frees)


def plan_prune(paths: Sequence[str | os.PathLike[str]], rules: Rules) -> Pruning:
    """Say what stays and what goes below run folders. Raises ``CkptError`` for a path or rules that can't be used."""
    if not rules.any:
        raise CkptError("no rule says what is to stay; give one, e.g. --keep-last 3")
    runs: dict[Path, Run] = {}
    for path in paths:
        for run in find_runs(Path(path), backups=True, unreadable=_refuse_unseen):
            runs.setdefault(Path(os.path.realpath(run.folder)), run)
    plans = [_plan_run(run, rules) for run in runs.values()]
    if rules.max_size is not None:
        _cap(plans, rules.max_size)
    kept = [why for plan in plans for entry in plan.files for why in entry.reasons if why.startswith("--keep-best")]
    if kept and rules.best is not None and all(why.endswith(UNKNOWN) for why in kept):
        unread = "".join(f"; {plan.unread}" for plan in plans if plan.unread)
        raise CkptError(
            f"--keep-best {rules.best[0]}: no file has such a metric; `ckpt inspect` shows those there are{unread}"
        )
    _count_links(plans)
    if rules.dedupe:
        _plan_sharing(plans, rules.hardlink)
    return Pruning(plans, rules.hardlink)


def _refuse_unseen(error: OSError) -> None:
    raise CkptError(f"{error.filename} can't be searched: {reason_of(error)}; name the folders beside it") from error


def _guards(run: RunPlan) -> list[Entry]:
    """What must still be there when something goes: one of those that can be resumed, else one of those that stay."""
    stay = run.of(KEEP) + run.of(SHARE)
    return [entry for entry in stay if entry.verdict == str(Verdict.RESUMABLE)] or stay


def _plan_run(run: Run, rules: Rules) -> RunPlan:
    """The plan of one run, once all that is to stay in it has been read in full."""
    plan, candidates = RunPlan(run.folder), []
    results: Results = {}
    pointed_at = _pointed_at(run)
    try:
        results = results_of(run.folder / "results.csv")
    except CkptError as error:  # files may have the metric themselves
        plan.unread = str(error)
    for path, status in run.files:
        found = _candidate(path, status, results)
        if isinstance(found, Entry):
            plan.files.append(found)
        else:
            candidates.append(found)
    bad: dict[Path, str] = {}
    read: set[Path] = set()
    while True:
        sound = sorted((one for one in candidates if one.path not in bad), key=lambda one: one.order, reverse=True)
        reasons = _reasons(sound, rules, pointed_at)
        unread = [one for one in sound if reasons[one.path] and one.path not in read]
        read.update(one.path for one in unread)
        fallen = {one.path: broken for one in unread if (broken := _unsound(one))}
        if not fallen:
            break
        bad |= fallen  # what turned out to be damaged keeps nothing from staying in its place
    for one in candidates:
        why = [bad[one.path]] if one.path in bad else reasons[one.path]
        action = LEAVE if one.path in bad else KEEP if why else STRIP if rules.strip_old else REMOVE
        plan.files.append(_entry(one, action, why or ["no rule keeps it"]))
    for entry in plan.of(STRIP):
        _plan_strip(entry)
    plan.files.sort(key=lambda entry: (entry.epoch if entry.epoch is not None else -1, entry.path.name), reverse=True)
    return plan


def _candidate(path: Path, status: os.stat_result, results: Results) -> Glance | Entry:
    """A file the rules are for, or why it is left alone."""
    if path.is_symlink():
        return Entry(path, LEAVE, ["a link"])
    if time.time() - status.st_mtime < SETTLED:
        return Entry(path, LEAVE, [f"written to less than {SETTLED} seconds ago"], status.st_size)
    try:
        found = glance(path, status, results=results)
    except CkptError as error:
        return Entry(path, LEAVE, [f"can't be read: {error}"], status.st_size)
    why = LEFT_ALONE.get(found.report.verdict) if found.report.verdict is not None else "can't be judged"
    return _entry(found, LEAVE, [why]) if why else found


def _entry(one: Glance, action: str, reasons: list[str]) -> Entry:
    epoch = one.epoch if one.epoch >= 0 else None
    frees = one.status.st_size if action == REMOVE else 0
    return Entry(one.path, action, reasons, one.status.st_size, epoch, str(one.report.verdict), one.status, frees)


def _pointed_at(run: Run) -> set[Path]:
    """The files links in the run's folder lead to."""
    return {Path(os.path.realpath(path)) for path, _ in run.files if path.is_symlink()}


def _reasons(files: list[Glance], rules: Rules, pointed_at: set[Path]) -> dict[Path, list[str]]:
    """Why each file stays, rule by rule; the newest come first."""
    found: dict[Path, list[str]] = {one.path: [] for one in files}
    for text, kept in _rules(files, rules):
        for one in kept:
            found[one.path].append(text)
    newest = next((one for one in files if one.report.verdict is Verdict.RESUMABLE), None)
    if newest is not None:
        found[newest.path].append("the last one that can be resumed")
    elif files:
        found[files[0].path].append("the last one of a run that can't be resumed")
    for one in files:
        if _is_trainers(one.path.name):
            found[one.path].append("the trainer's own name")
        if Path(os.path.realpath(one.path)) in pointed_at:
            found[one.path].append("a link leads to it")
    return found


def _rules(files: list[Glance], rules: Rules) -> Iterator[tuple[str, list[Glance]]]:
    """Each rule with the files it keeps; those of one epoch stay together."""
    if rules.last is not None:
        yield f"--keep-last {rules.last}", _of_first_epochs(files, rules.last)
    if rules.best is not None and files:
        metric, count = rules.best
        try:
            yield f"--keep-best {metric}:{count}", _of_first_epochs(best_first(files, metric), count)
        except CkptError:  # which is the best can't be said, so none goes
            yield f"--keep-best {metric}: {UNKNOWN}", files
    if rules.every is not None:
        kept = [one for one in files if one.epoch >= 0 and one.epoch % rules.every == 0]
        yield f"--keep-every {rules.every}", kept
    if rules.within is not None:
        since = time.time() - rules.within
        yield "--keep-within", [one for one in files if one.status.st_mtime >= since]
    if not rules.strip_old and not any((rules.last, rules.best, rules.every, rules.within)):
        yield ("--max-size" if rules.max_size is not None else "--dedupe"), files


def _of_first_epochs(files: list[Glance], count: int) -> list[Glance]:
    """The files of the first so many epochs in their order; one that knows no epoch counts by itself."""
    epochs: list[object] = []
    kept = []
    for one in files:
        mark: object = one.epoch if one.epoch >= 0 else one.path
        if mark not in epochs and len(epochs) < count:
            epochs.append(mark)
        kept += [one] if mark in epochs else []
    return kept


def _unsound(one: Glance) -> str:
    """Why a file that is to stay is not what its structure said, with every byte read; a bad disk is no damage."""
    try:
        same = verify(one.path, siblings=False).verdict is one.report.verdict
    except CkptError as error:
        return f"can't be read: {error}"
    return "" if same else LEFT_ALONE[Verdict.DAMAGED]


def _cap(plans: list[RunPlan], most: int) -> None:
    """Let more go, the oldest and least useful first, until the rest fits; what protects a run stays."""
    total = sum(entry.size - entry.frees for plan in plans for entry in plan.files)
    for entry in sorted((entry for plan in plans for entry in plan.of(KEEP) + plan.of(STRIP)), key=_use):
        protected = [why for why in entry.reasons if not why.startswith(("--", "no rule", "nothing to strip"))]
        if total <= most:
            return
        if not protected:
            total -= entry.size - entry.frees
            entry.action, entry.reasons = REMOVE, [f"--max-size, though: {entry.reasons[0]}"]
            entry.frees = entry.size


def _use(entry: Entry) -> tuple[bool, int, int]:
    """How useful a file is: one that can be resumed more than weights, a later one more than an earlier one."""
    modified = entry.status.st_mtime_ns if entry.status is not None else 0
    return entry.verdict == "resumable", entry.epoch if entry.epoch is not None else -1, modified


def _count_links(plans: list[RunPlan]) -> None:
    """A name among several of one file frees nothing, unless all of them go."""
    going: dict[tuple[int, int], int] = {}
    for entry in (entry for plan in plans for entry in plan.of(REMOVE)):
        assert entry.status is not None
        same = (entry.status.st_dev, entry.status.st_ino)
        going[same] = going.get(same, 0) + 1
        if going[same] < entry.status.st_nlink:
            entry.frees = 0


def _changed(entry: Entry) -> bool:
    """Whether a file is no longer the one that was planned with."""
    assert entry.status is not None
    try:
        now = os.lstat(entry.path)
    except OSError:
        return True
    then = entry.status
    return (now.st_size, now.st_mtime_ns, now.st_ino) != (then.st_size, then.st_mtime_ns, then.st_ino)


def _plan_sharing(plans: list[RunPlan], hardlink: bool) -> None:
    """Among what stays, files that are the same byte by byte; the first of them lends the others its bytes."""
    alike: dict[tuple[int, int, bytes], list[Entry]] = {}
    sized: dict[tuple[int, int], list[Entry]] = {}
    for entry in (entry for plan in plans for entry in plan.of(KEEP)):
        assert entry.status is not None
        sized.setdefault((entry.status.st_dev, entry.size), []).append(entry)
    for (device, size), entries in sized.items():
        for entry in entries if len(entries) > 1 else ():
            with contextlib.suppress(CkptError, OSError):
                alike.setdefault((device, size, digest(entry.path)), []).append(entry)
    able: dict[Path, bool] = {}
    for entries in alike.values():
        free = [entry for entry in entries if not _is_trainers(entry.path.name)]
        folder = entries[0].path.parent
        if len(entries) > 1 and not hardlink and folder not in able:
            able[folder] = can_reflink(folder)
        group = free if hardlink else entries if able.get(folder) else []
        for entry in group[1:]:
            _plan_share(entry, group[0])
        if not hardlink and not group and len(free) > 1:
            for entry in free[1:]:
                entry.reasons.append(f"the same as {free[0].path.name}; no reflinks here, --hardlink makes them one")


def _plan_share(entry: Entry, twin: Entry) -> None:
    assert entry.status is not None
    assert twin.status is not None
    if entry.status.st_ino != twin.status.st_ino:
        entry.action, entry.twin, entry.frees = SHARE, twin, entry.size
        entry.reasons = [*entry.reasons, f"the same as {twin.path.name}"]


def _is_trainers(name: str) -> bool:
    """Whether trainers write over a file of that name in its place, and with it over every name it has."""
    return name.startswith(OURS) and not is_backup(name)


def _share(entry: Entry, hardlink: bool) -> None:
    """Put a link in the place of a file, once it is there under another name; time and rights stay."""
    assert entry.twin is not None
    assert entry.status is not None
    try:
        with beside(entry.path, PRIVATE) as temporary:
            if _changed(entry.twin):
                raise CkptError(f"{entry.twin.path.name} changed meanwhile; plan again")
            if hardlink:
                temporary.unlink()
                os.link(entry.twin.path, temporary)
            elif reflink(entry.twin.path, temporary) and temporary.stat().st_size == entry.size:
                shutil.copystat(entry.path, temporary)
            else:
                raise CkptError("the file system could not share its bytes")
            publish(temporary, entry.path)
        entry.done = True
    except (OSError, CkptError) as error:
        entry.error = _why(error)


def _plan_strip(entry: Entry) -> None:
    """What stripping a file would free; one that can't be, or has nothing to lose, stays."""
    with plan_convert(entry.path, Conversion(strip=True), entry.path) as made:
        after = made.archive.size if made.archive is not None else entry.size
        if made.plan.refused is not None or made.plan.needs_consent or after >= entry.size:
            more = "stripping it would lose more than the optimizer" if made.plan.needs_consent else "it is stripped"
            entry.action, entry.reasons = KEEP, [f"nothing to strip: {made.plan.refused or more}"]
        entry.frees = entry.size - after if entry.action == STRIP else 0


def _strip(entry: Entry) -> None:
    """Strip a file in its place; it keeps its time, so that it stays as old as it is."""
    assert entry.status is not None
    try:
        with plan_convert(entry.path, Conversion(strip=True), entry.path) as made:
            made.apply()
            if made.plan.backup is not None:
                entry.path.with_name(made.plan.backup).unlink()
        os.utime(entry.path, ns=(entry.status.st_atime_ns, entry.status.st_mtime_ns))
        entry.done = True
    except (OSError, CkptError) as error:
        entry.error = _why(error)


def _remove(entry: Entry, run: Path, trash: bool, move_to: Path | None) -> None:
    try:
        if move_to is not None:
            _move(entry.path, move_to / run.name / entry.path.relative_to(run))
        elif trash:
            from send2trash import send2trash

            send2trash(entry.path)
        else:
            entry.path.unlink()
        entry.done = True
    except (OSError, CkptError) as error:
        entry.error = _why(error)


def _why(error: OSError | CkptError) -> str:
    return trouble(error) if isinstance(error, OSError) else str(error)


def _move(path: Path, place: Path) -> None:
    """Move a file, also to another disk; nothing there is overwritten."""
    place.parent.mkdir(parents=True, exist_ok=True)
    number, first = 2, place
    while os.path.lexists(place):
        place, number = first.with_name(f"{first.name}.{number}"), number + 1
    try:
        path.rename(place)
        sync_folder(place.parent)
    except OSError:
        copy_whole(path, place)
        path.unlink()

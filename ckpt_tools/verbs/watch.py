"""``watch``: verify what trainers write from private copies, keep the last good ones, and say what is wrong."""

from __future__ import annotations

import contextlib
import gc
import os
import shlex
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ckpt_tools.checkpoint import open_checkpoint
from ckpt_tools.checks.context import Context
from ckpt_tools.checks.names import counted
from ckpt_tools.findings import CkptError, Finding, Severity, Verdict
from ckpt_tools.placing import free_space
from ckpt_tools.runs import RING, checkpoints_in, find_runs
from ckpt_tools.runs.notices import Notices
from ckpt_tools.runs.ring import NoRoomError, Ring, RingError, UnsettledError
from ckpt_tools.verbs.glance import glance
from ckpt_tools.verbs.verify import Report, verify_checkpoint

__all__ = ["Event", "WatchOptions", "Watcher"]

RECENT = 3600  # seconds since its last save within which a run counts as live where no --stall says more
SELDOM = 2.0  # seconds between two looks at the folders that are known, and two searches for others, at least …
SHARE = 100  # … and times what the last one took, so that searching takes a hundredth of a processor
LONGEST_NAME = 60  # characters of a run's name in that of its ring
TOGETHER = 5.0  # seconds within which files were written by one save
MOST_GONE = 64  # runs that vanished and are known when they come back
NON_FINITE = "non-finite"
MENDED_BY_COPY = (Verdict.DAMAGED, Verdict.INCOMPLETE)
BROKEN = (Verdict.UNSAFE, Verdict.FOREIGN, Verdict.DAMAGED)
NOTE, WARNING, ERROR = Severity.NOTE, Severity.WARNING, Severity.ERROR

State = tuple[int, int, int]  # of a file: size, time of writing in nanoseconds, inode (0 where the system has none)


@dataclass(frozen=True)
class Event:
    """Something that happened. ``message`` is for people; that of an alert ends in the next command to type."""

    name: str
    severity: Severity
    message: str
    run: Path | None = None
    path: Path | None = None
    more: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The event's fields in the JSON line; ``time`` is up to whoever writes it."""
        places = {"run": str(self.run) if self.run else None, "path": str(self.path) if self.path else None}
        return {"event": self.name, "severity": str(self.severity), **places, "message": self.message, **self.more}


@dataclass(frozen=True)
class WatchOptions:
    """How to watch: copies to keep of each run (0: none), where, and seconds.

    ``into`` is a folder for the rings of all runs; by default each lies hidden in its run. ``settle`` is for how long a
    file must not change before it is read, ``stall`` for how long a live run may go without a save.
    """

    keep: int = 2
    into: Path | None = None
    settle: float = 1.0
    stall: float | None = None


@dataclass
class _Seen:
    """A file in the state it was seen in: since when, and whether all was said about it."""

    state: State
    since: float
    done: bool


@dataclass
class _Run:
    """What is known of a run. ``saved``: when it saved last, in seconds since the epoch.

    ``backlog`` are files written before the watcher began, the newest last: they are read until one is good.
    """

    folder: Path
    files: dict[Path, _Seen] = field(default_factory=dict)
    backlog: list[tuple[Path, State]] = field(default_factory=list)
    saved: float = 0.0
    epoch: int = -1  # of the last file that was good
    finished: bool = False
    stalled: bool = False
    short: bool = False  # of space on the disk, which was said
    unkept: str = ""  # why no copies can be kept, which was said


class _StoppedError(Exception):
    """The watcher is to stop in the middle of its work."""


class Watcher:
    """Watches folders of runs: :meth:`look` once, or :meth:`run` until it is stopped.

    Raises ``CkptError`` where the rings would lie among the runs, and be taken for some.
    No file of a trainer is changed, or held open for longer than its structure is read and a private copy is made.
    """

    def __init__(self, folders: Sequence[str | os.PathLike[str]], options: WatchOptions | None = None) -> None:
        places = [Path(os.path.expanduser(folder)) for folder in folders]
        self.folders = list({os.path.realpath(place): place for place in places}.values())
        self.options = options = options or WatchOptions()
        self.stop = threading.Event()
        self._into = Path(os.path.expanduser(options.into)) if options.into is not None else None
        if self._into is not None:
            _refuse_among_runs(self._into, self.folders)
        self._runs: dict[Path, _Run] = {}
        self._gone: list[_Run] = []
        self._started: float | None = None
        self._search = 0.0  # seconds the last search took

    def run(self) -> Generator[Event, None, None]:
        """The events as they happen, until ``stop`` is set; work under way is given up then.

        To be called in the main thread.
        """
        notices, searched, search = Notices(self.folders), 0.0, True  # before the first look, so that nothing is missed
        try:
            names = [f"{folder}{'' if os.path.isdir(folder) else ' (not there yet)'}" for folder in self.folders]
            yield Event("started", NOTE, f"watching {', '.join(names)}; {self._promise()}")
            with contextlib.suppress(_StoppedError):
                while not self.stop.is_set():
                    yield from self.look(time.time(), search=search)
                    if search:
                        searched = time.monotonic()
                    due = searched + max(SELDOM, SHARE * self._search)
                    pause = min(due - time.monotonic(), self._settles_in(time.time()), SELDOM)
                    changed = notices.wait(pause, self.stop)
                    search = time.monotonic() >= due or not {path.parent for path in changed} <= self._rooms()
        finally:
            notices.close()
        yield Event("stopped", NOTE, "what is in the rings stays")

    def _promise(self) -> str:
        if not self.options.keep:
            return "no copies are kept"
        where = self._into if self._into is not None else f"{RING} of each run"
        return f"the last {self.options.keep} good checkpoints are kept in {where}"

    def look(self, now: float, *, search: bool = True) -> Iterator[Event]:
        """Look at all files once and do what is due at ``now`` (seconds since the epoch).

        Without ``search`` only the folders that had checkpoints before are looked at.
        """
        if self._started is None:
            self._started = now
        yield from self._compare(self._search_all() if search else self._look_again(), now)
        for run in list(self._runs.values()):
            yield from self._read_settled(run, now)
            yield from self._alerts(run, now)

    def _search_all(self) -> dict[Path, list[tuple[Path, os.stat_result]]]:
        begun = time.monotonic()
        found: dict[Path, list[tuple[Path, os.stat_result]]] = {}
        taken: set[Path] = set()
        for folder in self.folders:
            with contextlib.suppress(CkptError, OSError):  # not there, or not there any more
                for run in find_runs(folder):
                    fresh = [(path, status) for path, status in run.files if path not in taken]
                    taken.update(path for path, _ in fresh)
                    if fresh:
                        found.setdefault(run.folder, []).extend(fresh)
        self._search = time.monotonic() - begun
        return found

    def _look_again(self) -> dict[Path, list[tuple[Path, os.stat_result]]]:
        return {
            folder: [held for room in sorted({path.parent for path in run.files}) for held in checkpoints_in(room)]
            for folder, run in self._runs.items()
        }

    def _rooms(self) -> set[Path]:
        return {path.parent for run in self._runs.values() for path in run.files}

    def _settles_in(self, now: float) -> float:
        """Seconds until the next file may have settled."""
        pending = [seen.since for run in self._runs.values() for seen in run.files.values() if not seen.done]
        return max(0.05, min(pending) + self.options.settle - now) if pending else SELDOM * SHARE

    # What came, changed and went.

    def _compare(self, found: Mapping[Path, list[tuple[Path, os.stat_result]]], now: float) -> Iterator[Event]:
        for folder in [folder for folder in self._runs if not found.get(folder) and not os.path.isdir(folder)]:
            self._gone = [*self._gone, self._runs.pop(folder)][-MOST_GONE:]
            yield Event("run-vanished", NOTE, "the run's folder is gone; it is watched again where it appears", folder)
        for run in self._runs.values():
            run.saved = min(run.saved, now)  # where the clock was set back
        for folder, files in found.items():
            if folder in self._runs:
                yield from self._note(self._runs[folder], files, now)
            elif files:
                yield from self._welcome(folder, files, now)

    def _welcome(self, folder: Path, files: list[tuple[Path, os.stat_result]], now: float) -> Iterator[Event]:
        """Take up a run: one that was there before, under whatever name, or one of which nothing is known."""
        states = {_state(status) for _, status in files}
        returned = next((run for run in self._gone if states & {seen.state for seen in run.files.values()}), None)
        if returned is not None:
            run = returned
            self._gone.remove(run)
            if self._into is not None and run.folder != folder:
                with contextlib.suppress(OSError):
                    self._place(run.folder).rename(self._place(folder))
            message = f"it was {run.folder} before" if run.folder != folder else "it is there again"
            run.folder = folder
            self._runs[folder] = run
        else:
            message = f"{counted(len(files), 'checkpoint')} so far"
            run = self._runs[folder] = self._new(folder, files, now)
        if (ring := self._ring(run)) is not None:
            ring.tidy()
        if returned or self._live(run):
            yield Event("run-appeared", NOTE, message, folder)
        yield from self._note(run, files, now)

    def _new(self, folder: Path, files: list[tuple[Path, os.stat_result]], now: float) -> _Run:
        """A run with what was written before the watcher began: of that only the newest that is good matters."""
        assert self._started is not None
        run = _Run(folder, saved=min(now, max(status.st_mtime_ns for _, status in files) / 1e9))
        old = [(path, status) for path, status in files if status.st_mtime_ns / 1e9 < self._started]
        run.files = {path: _Seen(_state(status), now, True) for path, status in old}
        if self._live(run):
            run.backlog = sorted(((path, _state(status)) for path, status in old), key=lambda held: held[1][1])
        return run

    def _note(self, run: _Run, files: list[tuple[Path, os.stat_result]], now: float) -> Iterator[Event]:
        """See which files are others than before; one that was only renamed is none."""
        before = {seen.state: seen for seen in run.files.values()}
        noted: dict[Path, _Seen] = {}
        for path, status in files:
            state = _state(status)
            known = run.files.get(path)
            if known is not None and known.state == state:
                noted[path] = known
            elif state in before:
                noted[path] = before[state]
            else:
                noted[path] = _Seen(state, now, False)
                run.saved = max(run.saved, now)
                if run.stalled:
                    run.stalled = False
                    yield Event("resumed", NOTE, "the run saves again", run.folder, path)
        run.files = noted

    def _live(self, run: _Run) -> bool:
        """Whether it may save again: it saved not long before the watcher began, or since, and is not over."""
        assert self._started is not None
        return not run.finished and run.saved >= self._started - (self.options.stall or RECENT)

    # Reading what has settled.

    def _read_settled(self, run: _Run, now: float) -> Iterator[Event]:
        while run.backlog and all(seen.done for seen in run.files.values()):
            path, state = run.backlog.pop()
            if path in run.files and run.files[path].state == state:
                run.files[path] = _Seen(state, now, False)
        for path, seen in sorted(run.files.items(), key=lambda item: (item[1].state[1], item[0])):
            if not seen.done:
                seen.since = min(seen.since, now)  # where the clock was set back
                if now - seen.since >= self.options.settle:
                    yield from self._read(run, path, seen, now)

    def _read(self, run: _Run, path: Path, seen: _Seen, now: float) -> Iterator[Event]:
        seen.done = True
        try:
            report, epoch, copy = yield from self._verify(run, path, seen)
        except UnsettledError:
            seen.done, seen.since = False, now
        except _StoppedError:
            raise
        except Exception as error:  # one bad file must not end the watch over all others
            if os.path.exists(path):
                ours = "" if isinstance(error, (CkptError, OSError)) else f"a bug in ckpt, {type(error).__name__}: "
                yield self._alert("error", ERROR, run, path, f"{ours}{error}", f"ckpt verify {_quoted(path)}")
        else:
            yield from self._tell(run, path, report, epoch, copy)
        finally:
            gc.collect()  # a checkpoint's nodes refer to each other; command lines end before that matters

    def _verify(
        self, run: _Run, path: Path, seen: _Seen
    ) -> Generator[Event, None, tuple[Report, int | None, Path | None]]:
        """The report on a file, its last epoch and its copy in the ring; a copy that is there already is no news."""
        report, epoch = self._judge(path, path, quick=True)
        if report.verdict in BROKEN:  # told without a copy, which nobody would want
            return report, epoch, None
        ring = self._ring(run)
        if ring is not None:
            try:
                with ring.copied(path, seen.state[:2], self._go_on) as temporary:
                    twin = ring.twin(temporary)
                    if twin is not None:
                        return Report(str(path), Verdict.RESUMABLE, epoch=twin.epoch), twin.epoch, twin.path
                    report, epoch = self._judge(temporary, path)
                    kept = ring.store(temporary, path.name, epoch) if report.verdict is Verdict.RESUMABLE else None
                    run.unkept = ""
                    return report, epoch, kept
            except RingError as error:
                yield from self._without_copy(run, path, error)
        report, epoch = self._judge(path, path)
        return report, epoch, None

    def _judge(self, file: Path, path: Path, quick: bool = False) -> tuple[Report, int | None]:
        """The report on a file that may bear another name for now, and the last epoch it had finished."""
        with open_checkpoint(file) as checkpoint:
            checkpoint.source.name = str(path)
            report = verify_checkpoint(checkpoint, Context(quick), siblings=False, progress=lambda _: self._go_on())
            if checkpoint.source.changed():
                raise UnsettledError
            return report, checkpoint.recognised.epoch if checkpoint.recognised is not None else None

    def _go_on(self) -> None:
        if self.stop.is_set():
            raise _StoppedError

    def _ring(self, run: _Run) -> Ring | None:
        if not self.options.keep:
            return None
        place = self._place(run.folder)
        reserve = self._save_size(run)[0] if self._shares_disk(run, place) else 0
        return Ring(place, self.options.keep, deep=self._into is not None, reserve=reserve)

    def _shares_disk(self, run: _Run, place: Path) -> bool:
        """Whether what a ring takes is missing for the trainer's next save."""
        try:
            there = next((room for room in (place, *place.parents) if os.path.exists(room)), None)
            return there is not None and os.stat(there).st_dev == os.stat(run.folder).st_dev
        except OSError:
            return False

    def _save_size(self, run: _Run) -> tuple[int, int]:
        """Bytes of what the last save wrote together, and of the largest file."""
        sizes = [seen.state[0] for seen in run.files.values()]
        newest = max((seen.state[1] for seen in run.files.values()), default=0)
        last = [seen.state[0] for seen in run.files.values() if newest - seen.state[1] <= TOGETHER * 1e9]
        return max(sum(last), *sizes, 0), max(sizes, default=0)

    def _place(self, folder: Path) -> Path:
        """Where the ring of a run lies; in one folder for all runs its name tells runs of one name apart."""
        if self._into is None:
            return folder / RING
        from hashlib import blake2b

        real = Path(os.path.realpath(folder))
        return self._into / f"{real.name[:LONGEST_NAME]}-{blake2b(os.fsencode(real), digest_size=4).hexdigest()}"

    # What to say of it.

    def _tell(self, run: _Run, path: Path, report: Report, epoch: int | None, copy: Path | None) -> Iterator[Event]:
        verdict = report.verdict
        more = {"verdict": str(verdict), "epoch": epoch, "copy": str(copy) if copy is not None else None}
        facts = [fact for fact in report.findings if fact.verdict is verdict]
        at = f", epoch {epoch}" if epoch is not None and epoch >= 0 else ""
        if verdict is Verdict.RESUMABLE:
            run.finished, run.backlog = False, []
            run.epoch = epoch if epoch is not None else -1
            kept = f"; copy: {copy}" if copy is not None else ""
            yield Event("verified", NOTE, f"resumable{at}{kept}", run.folder, path, more)
        elif verdict is Verdict.WEIGHTS:
            yield Event("verified", NOTE, "weights alone", run.folder, path, more)
        elif verdict is Verdict.FINISHED:
            new = not run.finished and self._is_over(run, path)
            run.finished = run.finished or new
            run.backlog = [] if new else run.backlog
            yield Event("finished" if new else "verified", NOTE, facts[0].message, run.folder, path, more)
        else:
            name, severity, fact = _kind(verdict, facts)
            codes = [fact.code for fact in facts]
            what = fact.message if verdict in (Verdict.DAMAGED, Verdict.INCOMPLETE) else f"{verdict}: {fact.message}"
            yield self._alert(
                name,
                severity,
                run,
                path,
                what,
                self._mended(run, path, fact),
                codes=codes,
                **more,
            )

    def _is_over(self, run: _Run, path: Path) -> bool:
        """Whether a file that is finished is its trainer's word that the run is: no older one, none stripped by us."""
        try:
            one = glance(path, os.stat(path))
        except (CkptError, OSError):
            return False
        return not one.stripped_here and (one.epoch >= run.epoch or one.epoch < 0)

    def _mended(self, run: _Run, path: Path, fact: Finding) -> str:
        """The next command: back to the newest good copy of that very file, else what the finding says."""
        ring = self._ring(run)
        copies = ring.copies() if ring is not None and fact.verdict in MENDED_BY_COPY else []
        own = next((copy for copy in reversed(copies) if copy.original == path.name), None)
        if own is not None:
            return f"cp {_quoted(own.path)} {_quoted(path)}"
        return f"ckpt latest {_quoted(copies[-1].path.parent)}" if copies else fact.remedy

    def _alert(
        self, name: str, severity: Severity, run: _Run, path: Path | None, what: str, following: str, **more: Any
    ) -> Event:
        return Event(name, severity, f"{what}; next: {following}", run.folder, path, {**more, "next": following})

    # Space and time.

    def _without_copy(self, run: _Run, path: Path, error: RingError) -> Iterator[Event]:
        """Say once why files are read where they lie."""
        name = "low-space" if isinstance(error, NoRoomError) else "error"
        if run.unkept != name and os.path.exists(path):
            run.unkept = name
            run.short = run.short or name == "low-space"
            what = f"{error}; files are read where the trainer wrote them"
            elsewhere = "DIR" if self._into is None else "ANOTHER_DIR"
            following = f"ckpt watch {_quoted(run.folder)} --into {elsewhere}"
            yield self._alert(name, WARNING, run, path, what, following)

    def _alerts(self, run: _Run, now: float) -> Iterator[Event]:
        if not self._live(run) or not run.files:
            return
        stall = self.options.stall
        if stall is not None and not run.stalled and now - run.saved >= stall:
            run.stalled = True
            what = f"no save for {_duration(now - run.saved)}"
            yield self._alert("stalled", WARNING, run, None, what, f"ckpt latest {_quoted(run.folder)}")
        free = free_space(run.folder)
        if free is None:
            return
        save, largest = self._save_size(run)
        copy = largest if self.options.keep and self._shares_disk(run, self._place(run.folder)) else 0
        if free < 2 * save + copy and not run.short:
            run.short = True
            what = (
                f"{_size(free)} are free and one save writes {_size(save)}"
                f"{f', a copy of it {_size(copy)}' if copy else ''}: room for {free // max(save + copy, 1)} more"
            )
            numbers = {"free": free, "save": save, "saves_left": free // max(save + copy, 1)}
            yield self._alert("low-space", WARNING, run, None, what, _prune(run), **numbers)
        elif free >= 3 * save + copy:
            run.short = False


def _state(status: os.stat_result) -> State:
    return status.st_size, status.st_mtime_ns, status.st_ino


def _kind(verdict: Verdict | None, facts: Sequence[Finding]) -> tuple[str, Severity, Finding]:
    """Name and severity of an alert, and the finding it is about."""
    if verdict is not Verdict.INCOMPLETE:
        return "damaged", ERROR, facts[0]
    diverged = next((fact for fact in facts if fact.slug == NON_FINITE), None)
    return (NON_FINITE, ERROR, diverged) if diverged is not None else ("incomplete", WARNING, facts[0])


def _quoted(path: Path) -> str:
    """A path as a command takes it, also one that begins like an option."""
    return shlex.quote(f".{os.sep}{path}" if str(path).startswith("-") else str(path))


def _refuse_among_runs(into: Path, folders: Sequence[Path]) -> None:
    """Raise ``CkptError`` where rings would lie in a folder that is watched, and not hidden in it."""
    place = Path(os.path.realpath(into))
    if os.path.exists(place) and not os.path.isdir(place):
        raise CkptError(f"--into {into} is no folder; name another one")
    for folder in folders:
        real = Path(os.path.realpath(folder))
        inside = place.relative_to(real).parts if real in (place, *place.parents) else (".",)
        if not any(part.startswith(".") for part in inside):
            raise CkptError(f"--into {into} lies in {folder}, where copies would be taken for runs; name another place")


def _prune(run: _Run) -> str:
    return f"ckpt prune {_quoted(run.folder)} --keep-last 2"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB"

"""``verify``: every check on one file, and the verdict they add up to."""

from __future__ import annotations

import functools
import os
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ckpt_tools.checkpoint import Checkpoint, open_checkpoint
from ckpt_tools.checks.consistency import check_consistency
from ckpt_tools.checks.content import Content, check_checksums, scan_content
from ckpt_tools.checks.context import Context, Target
from ckpt_tools.checks.machine import check_machine, check_save_dir, installed_packages
from ckpt_tools.checks.portability import check_portability
from ckpt_tools.checks.repaired import check_repaired
from ckpt_tools.checks.safety import check_unknown_code
from ckpt_tools.checks.storages import check_storages
from ckpt_tools.checks.training import check_training, is_weights
from ckpt_tools.findings import CkptError, Finding, Verdict, decide, finding, trouble
from ckpt_tools.runs import checkpoints_in
from ckpt_tools.source import FileSource

__all__ = ["Report", "parse_target", "verify", "verify_checkpoint"]

ATTEMPTS = 3  # readings of a file that keeps changing
PAUSE = 0.3  # seconds before the second reading; twice that before the third
PLAIN_VERSION = re.compile(r"\d[\w.+-]{0,40}")
FRESH = 10  # seconds after a write in which a save may still be under way
MOST_ALIKE = 20  # findings of one code that are listed one by one
MOST_SIBLINGS = 40
Progress = Callable[[int], None]


@dataclass
class Report:
    """The outcome for one file. ``error`` is set, and ``verdict`` is ``None``, when the path can't be opened."""

    path: str
    verdict: Verdict | None
    checked: str = "full"
    layout: str | None = None
    kind: str | None = None
    epoch: int | None = None
    epochs: int | None = None
    version: str | None = None
    size: int = 0
    target: Target | None = None
    findings: list[Finding] = field(default_factory=list)
    finite_weights: bool = False
    sibling: str | None = None
    resume: str | None = None  # the trainer's own command, with {path} for the file
    error: str | None = None

    def allows(self, purpose: str) -> bool:
        """Whether the verdict is a yes for ``resume`` or ``inference``."""
        if purpose == "resume":
            return self.verdict is Verdict.RESUMABLE
        whole = (Verdict.RESUMABLE, Verdict.FINISHED, Verdict.WEIGHTS)
        return self.verdict in whole or (self.verdict is Verdict.INCOMPLETE and self.finite_weights)

    def as_json(self) -> dict[str, Any]:
        """The file's entry in the JSON document."""
        entry: dict[str, Any] = {"path": self.path, "verdict": str(self.verdict) if self.verdict else None}
        if self.error is not None:
            return {**entry, "error": self.error}
        return {
            **entry,
            "checked": self.checked,
            "layout": self.layout,
            "kind": self.kind,
            "epoch": self.epoch,
            "epochs": self.epochs,
            "version": self.version,
            "size": self.size,
            "target": str(self.target) if self.target else None,
            "target_source": self.target.source if self.target else None,
            "finite_weights": self.finite_weights,
            "sibling": self.sibling,
            "findings": [fact.as_json() for fact in self.findings],
        }


def parse_target(text: str, python: str | None = None) -> Target:
    """``ultralytics==8.4.190`` or ``ultralytics`` as a target; raises ``CkptError`` for anything else."""
    name, _, version = text.partition("==")
    name, version = name.strip(), version.strip()
    if not name.replace("-", "").replace("_", "").isalnum() or ("==" in text and not version[:1].isdigit()):
        raise CkptError(f"--target {text!r} is not NAME==VERSION; write e.g. --target ultralytics==8.4.190")
    return Target(name, version or installed_packages([], python, name)[1], "flag")


def verify(
    path: str | os.PathLike[str],
    *,
    quick: bool = False,
    here: bool = False,
    target: str | Target | None = None,
    trust: Iterable[str] = (),
    python: str | None = None,
    siblings: bool = True,
    progress: Progress | None = None,
) -> Report:
    """Say whether a checkpoint can be resumed, and what is wrong with it.

    ``quick`` reads no tensor bytes, ``here`` also asks whether this machine can resume it, ``target`` names the
    trainer version (default: the installed one, else the file's own). Raises ``CkptError`` when the path or the
    target can't be used. A file that changes while it is read is read again, at most :data:`ATTEMPTS` times.
    """
    wanted = parse_target(target, python) if isinstance(target, str) else target
    context = Context(quick, here, wanted, tuple(trust), python)
    for attempt in range(1, ATTEMPTS + 1):
        with open_checkpoint(path) as checkpoint:
            try:
                report = verify_checkpoint(checkpoint, replace(context), siblings=siblings, progress=progress)
            except OSError as error:
                raise CkptError(f"{path} can't be read: {trouble(error)}") from error
            if not checkpoint.changed():
                return _just_written(report, checkpoint)
        if attempt < ATTEMPTS:
            time.sleep(PAUSE * attempt)
    report.findings.insert(0, _addressed(finding("keeps-changing", times=ATTEMPTS), report.path, None))
    report.verdict = decide(report.findings)
    return report


def _just_written(report: Report, checkpoint: Checkpoint) -> Report:
    """Damage in a file that was written to a moment ago may only be a save that is not done yet."""
    source = checkpoint.source
    if report.verdict is Verdict.DAMAGED and isinstance(source, FileSource):
        age = time.time() - source.modified
        if 0 <= age < FRESH:
            report.findings.append(_addressed(finding("just-written", seconds=round(age)), report.path, None))
            report.findings.sort(key=lambda fact: fact.severity.rank)
    return report


def verify_checkpoint(
    checkpoint: Checkpoint,
    context: Context,
    *,
    siblings: bool = True,
    progress: Progress | None = None,
    content: Content | None = None,
) -> Report:
    """Run every check on an opened checkpoint; ``content`` is what a pass over its bytes saw, where there was one."""
    from ckpt_tools.checks.grouping import check_target

    recognised = checkpoint.recognised
    context.target = _target(checkpoint, context)
    facts = list(checkpoint.findings)
    if recognised is not None:
        facts += check_storages(checkpoint)
        if not context.quick:
            content = content or scan_content(checkpoint, progress)
            facts += _content_findings(checkpoint, content, context.verdict_only)
        facts += check_unknown_code(checkpoint, context)
        if decide(facts) not in (Verdict.DAMAGED, Verdict.FOREIGN):
            facts += check_training(checkpoint, context)
            facts += check_consistency(checkpoint)
            facts += check_target(checkpoint, context)
        facts += check_portability(checkpoint)
        facts += check_repaired(checkpoint)
        facts += check_save_dir(checkpoint)
        facts += check_machine(checkpoint, context)
    report = _report(checkpoint, context, facts)
    report.finite_weights = _finite(checkpoint, content, report)
    if siblings and report.verdict in (Verdict.FINISHED, Verdict.INCOMPLETE, Verdict.DAMAGED):
        _name_sibling(report, context)
    return report


def _content_findings(checkpoint: Checkpoint, content: Content, verdict_only: bool) -> Iterable[Finding]:
    from ckpt_tools.checks.values import check_values

    yield from check_checksums(checkpoint, content)
    yield from check_values(checkpoint, content, verdict_only)


def _finite(checkpoint: Checkpoint, content: Content | None, report: Report) -> bool:
    if report.verdict in (Verdict.UNSAFE, Verdict.FOREIGN, Verdict.DAMAGED):
        return False
    if content is None:
        return any(part.tensors for part in (checkpoint.recognised.weights if checkpoint.recognised else []))
    from ckpt_tools.checks.values import sound_weights

    return sound_weights(checkpoint, content)


def _target(checkpoint: Checkpoint, context: Context) -> Target | None:
    """The trainer the verdict predicts: as asked for, else the installed version, else the file's own."""
    found = checkpoint.recognised
    if found is None:
        return None
    trainer = found.layout.trainer
    if context.target is not None and context.target.name == trainer:
        return context.target
    if not trainer:
        return None
    _, version = installed_packages([], context.python, trainer)
    if version:
        return Target(trainer, version, "installed")
    return Target(trainer, found.version, "file") if found.version else None


def _report(checkpoint: Checkpoint, context: Context, facts: list[Finding]) -> Report:
    found = checkpoint.recognised
    otherwise = Verdict.WEIGHTS if found is not None and is_weights(found) else Verdict.RESUMABLE
    path = checkpoint.source.name
    known = found is not None and found.layout.name != "none"
    listed = [_addressed(fact, path, found.version if found else None) for fact in _limited(facts)]
    return Report(
        path=path,
        verdict=decide(facts, otherwise),
        checked="structure" if context.quick else "full",
        layout=found.family if found is not None and known else None,
        kind=_kind(checkpoint),
        epoch=found.stored_epoch if found else None,
        epochs=found.epochs if found else None,
        version=found.version if found else None,
        size=checkpoint.source.size,
        resume=found.layout.resume or None if found else None,
        target=context.target,
        findings=sorted(listed, key=lambda fact: fact.severity.rank),
    )


def _kind(checkpoint: Checkpoint) -> str:
    if checkpoint.kind.what or checkpoint.container is None:
        return checkpoint.kind.name
    return {"zip": "torch-zip", "legacy": "torch-legacy"}.get(checkpoint.container.kind, "pickle")


def _limited(facts: list[Finding]) -> Iterable[Finding]:
    """At most :data:`MOST_ALIKE` findings of a code; the last of them says how many more there are."""
    totals: dict[str, int] = {}
    for fact in facts:
        totals[fact.code] = totals.get(fact.code, 0) + 1
    seen: dict[str, int] = {}
    for fact in facts:
        count = seen[fact.code] = seen.get(fact.code, 0) + 1
        if count < MOST_ALIKE or totals[fact.code] == MOST_ALIKE:
            yield fact
        elif count == MOST_ALIKE:
            yield replace(fact, message=f"{fact.message} (and {totals[fact.code] - MOST_ALIKE} more like this)")


def _addressed(fact: Finding, path: str, version: str | None) -> Finding:
    """The finding with its remedy made a command for this very file."""
    known = version if version and PLAIN_VERSION.fullmatch(version) else "VERSION"  # it comes from the file
    return fact.addressed(path, version=known)


def _name_sibling(report: Report, context: Context) -> None:
    """Find the file of the same folder that can be resumed and got furthest, by structure alone."""
    best: tuple[int, str, int | None] | None = None
    for path, size, modified in _neighbours(report.path):
        verdict, layout, epoch = _glance(path, size, modified, context.target)
        if verdict is Verdict.RESUMABLE and (report.layout is None or layout == report.layout):
            best = max(
                best or (-1, "", None), (epoch if epoch is not None else -1, path, epoch), key=lambda found: found[:2]
            )
    if best is not None and best[1]:
        report.sibling = best[1]
        other, shown = Path(best[1]), "unknown" if best[2] is None else best[2]
        fact = finding("sibling", name=other.name, epoch=shown, sibling=other)
        report.findings.append(fact.addressed(report.path))


def _neighbours(path: str) -> list[tuple[str, int, int]]:
    """Path, size and time of the newest other checkpoints in the folder."""
    try:
        beside = [item for item in checkpoints_in(Path(path).parent) if not os.path.samefile(item[0], path)]
    except OSError:
        return []
    return [(str(other), status.st_size, status.st_mtime_ns) for other, status in beside[:MOST_SIBLINGS]]


@functools.lru_cache(maxsize=1024)
def _glance(
    path: str, size: int, modified: int, target: Target | None
) -> tuple[Verdict | None, str | None, int | None]:
    """Verdict, layout and epoch of a neighbour; asked once for each state of a file, whoever asks."""
    try:
        with open_checkpoint(path) as checkpoint:
            found = verify_checkpoint(checkpoint, Context(quick=True, target=target), siblings=False)
    except Exception:  # advice about another file must not cost the verdict about this one
        return None, None, None
    return found.verdict, found.layout, found.epoch

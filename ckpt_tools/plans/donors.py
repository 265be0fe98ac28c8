"""Other files parts are taken from: what they have, how far they got, and whether a part of theirs fits."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from ckpt_tools.checkpoint import Checkpoint, open_checkpoint
from ckpt_tools.checks.consistency import spelled_as
from ckpt_tools.checks.content import scan_content
from ckpt_tools.checks.names import few, shape_text
from ckpt_tools.checks.repaired import records
from ckpt_tools.findings import CkptError, Verdict, decide
from ckpt_tools.findings.commands import hint
from ckpt_tools.layouts import Part, Recognised
from ckpt_tools.plans.holdings import Holding
from ckpt_tools.runs import trained_epoch
from ckpt_tools.tensors import TensorRef

__all__ = ["Donor", "Judge", "aligned", "misfit"]

Judge = Callable[[Checkpoint], Verdict | None]
COUNTER = "n_averaged"  # of torch.optim.swa_utils.AveragedModel, which the model it averages has not


class Donor:
    """A file parts may be taken from.

    What is asked of every file of a folder is noted when it is first read: its ``layout``, its ``epoch`` (the last one
    finished, counted from 0), its ``verdict`` by structure alone, and whether it is the work of a repair. Its object
    graph is read again when something is wanted of it, its bytes when a part is taken.
    """

    def __init__(self, path: Path, judge: Judge, files: ExitStack) -> None:
        """Read it once; raises ``CkptError`` for a file nothing can be taken from."""
        self.path = path
        self.name = path.name  # what a plan calls it
        self._files = files
        self._lent: dict[str, Holding] = {}
        with open_checkpoint(path) as checkpoint:
            found = checkpoint.recognised
            if found is None or decide(checkpoint.findings) in (Verdict.UNSAFE, Verdict.FOREIGN):
                why = checkpoint.findings[0].message if checkpoint.findings else "it is no checkpoint"
                raise CkptError(
                    f"{path} can't be a donor: {why}; {hint('ckpt verify {path}', '{} says more', path=path)}"
                )
            self.layout = found.layout.name
            known = found.epoch if found.epoch is not None and found.epoch >= 0 else None
            self.epoch = known if known is not None else trained_epoch(found, path)  # of a stripped file: its results
            self.repaired = any(record.get("command") != "convert" for record in records(checkpoint))
            self.verdict = judge(checkpoint)

    @property
    def dated(self) -> str:
        """Its name, with the epoch it got to where that is known."""
        return self.name if self.epoch is None else f"{self.name} (epoch {self.epoch})"

    @functools.cached_property
    def checkpoint(self) -> Checkpoint:
        return self._files.enter_context(open_checkpoint(self.path))

    @property
    def found(self) -> Recognised:
        if self.checkpoint.recognised is None:
            raise CkptError(f"{self.path} changed while it was looked at; try again")
        return self.checkpoint.recognised

    @functools.cached_property
    def holding(self) -> Holding:
        """All of it, with every byte read."""
        return Holding(self.checkpoint, scan_content(self.checkpoint))

    def lend(self, part: Part) -> Holding:
        """What a part of it needs, those bytes read; raises ``CkptError`` where they are not whole."""
        keys = {f"data/{tensor.storage.key}" for tensor in part.tensors.values() if tensor.storage is not None}
        if "holding" not in self.__dict__ and part.path not in self._lent:
            self._lent[part.path] = Holding(self.checkpoint, scan_content(self.checkpoint, only=keys))
        holding = self._lent.get(part.path) or self.holding
        bad = holding.hit_in(part)
        if bad:
            raise CkptError(f"{self.path}: {part.path} is damaged itself ({few(bad)}); `ckpt verify` it, use another")
        return holding

    def part(self, role: str, path: str = "") -> Part | None:
        """Its part of that role, at that path where it has several; weights of another role stand in for weights."""
        others = {"model": ("ema",), "ema": ("model",)}.get(role, ())
        held = next((parts for name in (role, *others) if (parts := self.found.role(name))), [])
        exact = next((part for part in held if part.path == path), None)
        return exact or (held[0] if held and (not path or len(held) == 1) else None)


def aligned(ours: Mapping[str, TensorRef], theirs: Mapping[str, TensorRef]) -> dict[str, TensorRef]:
    """Their tensors under our spelling of the names: prefixes of wrappers, on either side, count for nothing."""
    return {spelling: theirs[name] for name, spelling in spelled_as(ours, theirs).items()}


def misfit(ours: Part, theirs: Part) -> str:
    """Why the tensors of ``theirs`` can't stand in for those of ``ours``, with the first names; empty if they can."""
    other = aligned(ours.tensors, theirs.tensors)
    missing = [name for name in ours.tensors if name not in other and not name.endswith(COUNTER)]
    if missing:
        return f"it has no {few(missing)}"
    extra = [name for name in other if name not in ours.tensors and not name.endswith(COUNTER)]
    if extra:
        return f"it also has {few(extra)}"
    shapes = [n for n, t in ours.tensors.items() if n in other and other[n].shape != t.shape]
    if shapes:
        given, own = (shape_text(held[shapes[0]].shape) for held in (other, ours.tensors))
        return f"the shapes of {few(shapes)} differ ({given} for {own})"
    kinds = [n for n, t in ours.tensors.items() if n in other and t.dtype.floating != other[n].dtype.floating]
    if kinds:
        name = kinds[0]
        return f"the types of {few(kinds)} differ ({other[name].dtype} for {ours.tensors[name].dtype})"
    return ""

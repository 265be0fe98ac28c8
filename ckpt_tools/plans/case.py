"""A repair or conversion under way: the draft, what was asked for, the donors at hand, the record of what was done."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ckpt_tools.checks.context import Target, release
from ckpt_tools.findings import CkptError
from ckpt_tools.layouts import Part, Recognised
from ckpt_tools.layouts.recognise import epoch_place
from ckpt_tools.pickles.nodes import Node
from ckpt_tools.plans.donors import Donor
from ckpt_tools.plans.draft import Draft
from ckpt_tools.plans.edits import put
from ckpt_tools.plans.holdings import Holding
from ckpt_tools.plans.model import Outcome, PartPlan, Request, Step
from ckpt_tools.tensors.modules import Layer

__all__ = ["Case", "Record"]


@dataclass
class Record:
    """What was done to the part at one path; ``lost`` are the names of tensors that are not the file's own any more."""

    outcome: Outcome
    donor: str | None = None
    epoch: int | None = None
    tensors: int | None = None  # the part had, where fewer are left
    lost: list[str] = field(default_factory=list)


@dataclass
class Case:
    """``named`` are the donors the user gave, by role; ``siblings`` those of the run folder, best first."""

    draft: Draft
    request: Request
    original: Path  # the file to mend, whatever its parts come from by now
    output: Path
    target: Target | None = None
    named: dict[str, Donor] = field(default_factory=dict)
    siblings: list[Donor] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)
    records: dict[str, Record] = field(default_factory=dict)
    rebased: Donor | None = None
    wrapped: bool = False  # the file was a zip archive around the checkpoint
    hits: dict[str, list[str]] = field(default_factory=dict)  # by part, the tensors whose bytes were lost
    beside: dict[str, Any] | None = None  # what describes weights that stand alone
    removed: set[str] = field(default_factory=set)  # texts the result is to hold nowhere

    def __post_init__(self) -> None:
        for part in self.found.parts if self.readable else ():
            names = self.holding.hit_in(part)
            if names:
                self.hits[part.path] = names

    @property
    def found(self) -> Recognised:
        return self.draft.recognised

    @property
    def root(self) -> Node:
        return self.draft.root

    @property
    def holding(self) -> Holding:
        return self.draft.holding

    @property
    def name(self) -> str:
        """What to call the file to mend, also when the draft already bears the name of the output."""
        return self.original.name

    @property
    def readable(self) -> bool:
        """Whether there is an object graph to speak of."""
        return self.draft.checkpoint.recognised is not None

    @property
    def family(self) -> str:
        """The layout's name; empty where nothing can be read."""
        return self.found.layout.name if self.readable else ""

    @property
    def version(self) -> tuple[int, ...]:
        """The release that wrote the file; that of the target where it does not say."""
        return release(self.found.version or (self.target.version if self.target else None))

    @property
    def wanted(self) -> tuple[int, ...]:
        """The release that is to resume; empty where none is named or installed."""
        return release(self.target.version if self.target else None)

    def at(self, path: str, role: str = "") -> Part | None:
        """The part at a path, where there is one (of that role)."""
        parts = self.found.role(role) if role else self.found.parts
        return next((part for part in parts if part.path == path), None)

    def part(self, role: str) -> Part | None:
        return next(iter(self.found.role(role)), None)

    @property
    def weights(self) -> Part | None:
        """The set of weights a resume starts from: the average where there is one."""
        return (self.part("ema") or self.part("model")) if self.readable else None

    @property
    def layers(self) -> list[Layer]:
        """The layers of the pickled model; empty where weights are a state dict."""
        parts = self.found.role("ema") + self.found.role("model")
        return next((part.layers for part in parts if part.form == "module"), [])

    def path(self, role: str) -> str:
        """Where a role lies in the file, or should."""
        held = self.part(role) or self.found.announced(role)
        return self.found.layout.roles.get(role) or (held.path if held else "")

    def do(self, name: str, text: str, *, loss: bool = False, consent: bool = False) -> None:
        """Note a step; one whose name the user asked for has their consent."""
        asked = consent or name in self.request.cures
        self.steps.append(Step(name, text, loss, asked))

    def record(self, part: Part, outcome: Outcome, donor: Donor | None = None, lost: Iterable[str] = ()) -> None:
        """Note what became of a part; what came from elsewhere stays so, whatever is edited later."""
        known = self.records.get(part.path)
        if outcome is Outcome.EDITED and known is not None:
            return
        names = list(lost)
        epoch = donor.epoch if donor else None
        self.records[part.path] = Record(outcome, donor.name if donor else None, epoch, len(part.tensors), names)

    def put(self, path: str, value: Node) -> None:
        """Set what lies at a dotted path."""
        try:
            put(self.root, path, value)
        except KeyError as error:
            raise CkptError(f"{self.name} has no place for {path}: {error} is missing") from None
        self.draft.edited = True
        part = self.part("args")
        if part is not None and path.startswith(f"{part.path}."):
            self.record(part, Outcome.EDITED)

    def set_epoch(self, epoch: int, source: str, *, loss: bool = False) -> None:
        """Store the last finished epoch (counted from 0) as this layout counts."""
        path, upcoming = epoch_place(self.found)
        value = epoch + 1 if upcoming else epoch
        if self.found.value(path) != value:
            self.put(path, value)
            self.do("epoch", f"epoch {value} ({source})", loss=loss, consent=True)
            if self.found.role("scheduler") and self.found.epoch is not None:
                self.advice.append(f"the scheduler stays where it was, at epoch {self.found.epoch} of the file")

    def settle(self) -> None:
        """Read what the file would be now, if it would be another."""
        if self.draft.touched:
            self.draft = self.draft.read(str(self.output))

    def plan_parts(self, original: Holding, gone: Outcome = Outcome.LOST) -> list[PartPlan]:
        """What becomes of each part, those that are lost (or ``gone`` in another way) last."""
        plans = [self._plan_part(part) for part in self.found.parts if part.present]
        listed = {plan.path for plan in plans}
        before = original.checkpoint.parts if self.rebased is None else []
        for part in before:
            record = self.records.get(part.path)
            left = record is None or record.outcome is Outcome.LOST
            if part.present and part.path not in listed and part.tensors and left:
                names = list(part.tensors) if gone is Outcome.LOST else []
                plans.append(PartPlan(part.role, part.path, gone, tensors=len(part.tensors), names=names))
        return plans

    def _plan_part(self, part: Part) -> PartPlan:
        record = self.records.get(part.path)
        if record is None and self.rebased is not None:
            record = Record(Outcome.DONOR, self.rebased.name, self.rebased.epoch)
        record = record or Record(Outcome.KEPT)
        tensors = len(part.tensors) if record.tensors is None else record.tensors
        own = record.outcome in (Outcome.KEPT, Outcome.EDITED, Outcome.CAST, Outcome.SALVAGED)
        kept = tensors - len(record.lost) if own else 0
        plan = PartPlan(part.role, part.path, record.outcome, record.donor, record.epoch, tensors, kept)
        names = record.lost if record.outcome is Outcome.SALVAGED else self.hits.get(part.path, [])
        plan.nbytes, plan.names, plan.digest = part.nbytes, names, self._digest(part)
        return plan

    def _digest(self, part: Part) -> str:
        """A CRC-32 over the CRC-32s of the part's storages, in the order of its tensors, as hexadecimal."""
        from isal.isal_zlib import crc32

        crc = 0
        checksums = self.holding.content.checksums
        for tensor in part.tensors.values():
            key = f"data/{tensor.storage.key}" if tensor.storage is not None else ""
            crc = crc32(checksums.get(key, 0).to_bytes(4, "little"), crc)
        return f"{crc:08x}"

    @property
    def nearest(self) -> list[Donor]:
        """Siblings of the same layout, those nearest to this file's epoch first."""
        here = self.found.epoch if self.found.epoch is not None and self.found.epoch >= 0 else 1 << 30
        alike = [donor for donor in self.siblings if donor.layout == self.family]
        return sorted(alike, key=lambda donor: abs((donor.epoch if donor.epoch is not None else -1) - here))

    @property
    def furthest(self) -> list[Donor]:
        """Siblings of the same layout (all, where this file has no weights to tell by), the longest trained first."""
        alike = [donor for donor in self.siblings if self.weights is None or donor.layout == self.family]
        return sorted(alike, key=lambda donor: -(donor.epoch if donor.epoch is not None else -1))

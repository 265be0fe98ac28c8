"""The words of a plan: what is asked for, its steps, and what becomes of each part."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from ckpt_tools.checks.context import Target
from ckpt_tools.findings import Finding, Verdict
from ckpt_tools.layouts import Recognised

__all__ = ["Outcome", "PartPlan", "Plan", "Request", "Step", "resumes_at"]


class Outcome(str, Enum):
    """What becomes of a part."""

    KEPT = "kept"
    EDITED = "edited"  # the same tensors, other settings
    SALVAGED = "salvaged"  # some of its tensors, the rest left out, zeroed or taken from elsewhere
    DONOR = "donor"
    REINITIALISED = "reinitialised"
    LOST = "lost"
    CAST = "cast"  # the same values in another element type
    DROPPED = "dropped"  # left out because that was asked for

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Step:
    """One change. ``loss`` says that it is more than lossless, ``consent`` that the user asked for it by name."""

    name: str
    text: str
    loss: bool = False
    consent: bool = False

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "text": self.text, "loss": self.loss, "consent": self.consent}


@dataclass
class PartPlan:
    """What becomes of one part: ``kept`` of its ``tensors`` are the file's own; ``names`` are those that were lost."""

    role: str
    path: str
    outcome: Outcome
    source: str | None = None
    epoch: int | None = None  # of the donor: the last epoch it had finished
    tensors: int = 0
    kept: int = 0
    nbytes: int = 0
    names: list[str] = field(default_factory=list)
    digest: str = ""  # CRC-32 over the checksums of its storages, in the order of its tensors

    def as_json(self) -> dict[str, Any]:
        return {
            "role": self.role,
            "path": self.path,
            "outcome": str(self.outcome),
            "source": self.source,
            "epoch": self.epoch,
            "tensors": self.tensors,
            "kept": self.kept,
            "bytes": self.nbytes,
            "names": self.names,
            "digest": self.digest,
        }


@dataclass(frozen=True)
class Request:
    """What the user asked for. ``donors`` maps a role to a file; ``settings`` are saved arguments to set."""

    donors: Mapping[str, Path] = field(default_factory=dict)
    folder: Path | None = None
    epoch: int | None = None
    results: Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    target: Target | None = None
    mix: bool = False
    keep_corrupt: bool = False
    reinit: Set[str] = frozenset()
    cures: tuple[str, ...] = ()
    accept_loss: bool = False

    @property
    def edits(self) -> bool:
        """Whether something is to be changed even in a good file."""
        asked = (self.donors, self.settings, self.cures, self.reinit, self.results)
        return any(asked) or self.epoch is not None


@dataclass
class Plan:
    """What a repair or conversion would do to ``file``, and the verdict to expect of the result."""

    file: str
    verdict: Verdict | None
    output: str = ""
    expected: Verdict | None = None
    resumes_at: int | None = None
    steps: list[Step] = field(default_factory=list)
    parts: list[PartPlan] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    refused: str | None = None
    chosen: bool = False  # the tool picked the file
    written: bool = False
    backup: str | None = None  # the name the original has now, where its own was taken
    format: str = "zip"  # of the result: zip, legacy or safetensors
    sidecars: list[str] = field(default_factory=list)  # files written beside the result

    @property
    def needs_consent(self) -> bool:
        return any(step.loss and not step.consent for step in self.steps)

    def as_json(self) -> dict[str, Any]:
        """The entry in the JSON document of a command."""
        return {
            "file": self.file,
            "chosen": self.chosen,
            "output": self.output,
            "format": self.format,
            "sidecars": self.sidecars,
            "written": self.written,
            "backup": self.backup,
            "verdict": str(self.verdict) if self.verdict else None,
            "expected": str(self.expected) if self.expected else None,
            "resumes_at": self.resumes_at,
            "steps": [step.as_json() for step in self.steps],
            "parts": [part.as_json() for part in self.parts],
            "needs_consent": self.needs_consent,
            "refused": self.refused,
            "advice": self.advice,
            "findings": [fact.as_json() for fact in self.findings],
        }


def resumes_at(verdict: Verdict | None, found: Recognised | None) -> int | None:
    """The first epoch a resume would train, counted from 0; ``None`` where there would be none."""
    if verdict is not Verdict.RESUMABLE or found is None or found.epoch is None:
        return None
    return int(found.epoch) + 1

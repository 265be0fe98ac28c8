"""Repairs and conversions as the library does them: plan, carry out, and hold the result against the plan."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ckpt_tools
from ckpt_tools.conversions import Conversion
from ckpt_tools.findings import Verdict
from ckpt_tools.plans import Plan, Request
from ckpt_tools.plans.apply import Planned
from ckpt_tools.verbs.convert import plan_convert
from ckpt_tools.verbs.repair import plan_repair
from ckpt_tools.verbs.verify import Report, parse_target, verify

__all__ = ["Mended", "converted", "mend", "planned"]


@dataclass
class Mended:
    """A file that was written by a plan: what was planned, and what ``verify`` says of it."""

    path: Path
    plan: Plan
    report: Report

    @property
    def steps(self) -> list[str]:
        return [step.name for step in self.plan.steps]

    @property
    def text(self) -> str:
        return "\n".join([*(step.text for step in self.plan.steps), *self.plan.advice])

    @property
    def slugs(self) -> set[str]:
        return {fact.slug for fact in self.report.findings}

    def value(self, path: str) -> Any:
        """What lies at a dotted path."""
        with ckpt_tools.open(self.path) as opened:
            assert opened.checkpoint.recognised is not None
            return opened.checkpoint.recognised.value(path)

    def args(self) -> dict[str, Any]:
        with ckpt_tools.open(self.path) as opened:
            assert opened.checkpoint.recognised is not None
            return dict(opened.checkpoint.recognised.args)

    def part(self, path: str) -> Any:
        return next(part for part in self.plan.parts if part.path == path)

    def tensors(self) -> dict[str, list[Any]]:
        return tensors(self.path)

    def ledger(self) -> dict[str, Any]:
        with zipfile.ZipFile(self.path) as archive:
            assert archive.testzip() is None
            (name,) = (name for name in archive.namelist() if name.endswith("/.ckpt_tools/ledger.json"))
            found: dict[str, Any] = json.loads(archive.read(name))
            return found


def tensors(path: Path) -> dict[str, list[Any]]:
    """Every tensor of a file by name, as lists of numbers."""
    with ckpt_tools.open(path) as opened:
        return {name: tensor.numpy().tolist() for name, tensor in opened.items()}


def request_of(**options: Any) -> Request:
    """What a user asks for: donors as ``optimizer_from=…``, the rest by the names of :class:`Request`."""
    donors = {key[:-5]: options.pop(key) for key in list(options) if key.endswith("_from")}
    if isinstance(options.get("target"), str):
        options["target"] = parse_target(options["target"])
    if "reinit" in options:
        options["reinit"] = frozenset(options["reinit"])
    return Request(donors=donors, **options)


def planned(path: Path, output: Path | None = None, **options: Any) -> Plan:
    """The plan alone."""
    with plan_repair(path, request_of(**options), output or path.with_name("new.pt")) as repair:
        return repair.plan


def converted(path: Path, output: Path | None = None, **options: Any) -> Mended:
    """Carry a conversion out; the result is what the plan said, and the original as it was."""
    output = output or path.with_name("new.pt")
    return _carried_out(plan_convert(path, Conversion(**options), output), path, output, options.get("target"))


def mend(path: Path, output: Path | None = None, **options: Any) -> Mended:
    """Carry a repair out; the result is what the plan said, and the original as it was."""
    output = output or path.with_name("new.pt")
    target = str(options["target"]) if "target" in options else None
    mended = _carried_out(plan_repair(path, request_of(**options), output), path, output, target)
    if mended.plan.resumes_at is not None:
        assert mended.report.verdict is Verdict.RESUMABLE
        assert mended.report.epoch is not None
    return mended


def _carried_out(planned: Planned, path: Path, output: Path, target: Any) -> Mended:
    before = path.read_bytes()
    with planned:
        plan = planned.plan
        assert plan.refused is None, plan.refused
        assert plan.steps, "nothing to do"
        planned.apply(force=True)
    assert path.read_bytes() == before
    report = verify(output, target=target, siblings=False)
    assert plan.format == "safetensors" or report.verdict is plan.expected, [f.message for f in report.findings]
    return Mended(output, plan, report)

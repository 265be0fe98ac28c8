"""``diff``: a checkpoint against a configuration or another checkpoint, and what each difference means."""

from __future__ import annotations

import importlib.util
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ckpt_tools.checkpoint import CHECKPOINT_NAMES, Checkpoint, open_checkpoint
from ckpt_tools.checks.context import Context, Target, release
from ckpt_tools.configs import Config, is_yaml, read_config, read_settings
from ckpt_tools.differences.arguments import check_config
from ckpt_tools.differences.model import Difference, Meaning, serious_first, stops
from ckpt_tools.differences.situation import Situation
from ckpt_tools.differences.state import check_state
from ckpt_tools.differences.tensors import PartComparison, compare_tensors
from ckpt_tools.findings import CkptError, Verdict, decide
from ckpt_tools.layouts.arguments import default_arguments
from ckpt_tools.sidefiles import first_bytes
from ckpt_tools.verbs.verify import parse_target, verify_checkpoint

__all__ = ["CHECKPOINT", "Comparison", "diff"]

CHECKPOINT = "checkpoint"
MAGIC = (b"PK", b"\x80\x02")  # of archives and of the stream format
Progress = Callable[[int], None]


@dataclass
class Comparison:
    """The outcome. ``verdict`` is that of the checkpoint itself, by structure; ``tensors`` only for two checkpoints."""

    old: str
    new: str
    kind: str
    purpose: str
    layout: str | None
    verdict: Verdict
    target: Target | None
    situation: Situation
    differences: list[Difference] = field(default_factory=list)
    tensors: list[PartComparison] = field(default_factory=list)
    left_out: list[Difference] = field(default_factory=list)  # what a filter hides; it counts for `safe` all the same

    @property
    def same(self) -> bool:
        """Nothing differs, or nothing that matters."""
        return not any(part.differs for part in self.tensors) and all(
            difference.meaning is Meaning.HARMLESS for difference in self.differences
        )

    @property
    def ready(self) -> bool:
        """Whether the checkpoint by itself allows the intent."""
        if self.purpose == "resume":
            return self.verdict is Verdict.RESUMABLE
        return self.verdict not in (Verdict.UNSAFE, Verdict.FOREIGN, Verdict.DAMAGED)

    @property
    def safe(self) -> bool:
        """Whether training goes on from this checkpoint with this configuration, with nothing in it going wrong."""
        return self.ready and not stops([*self.differences, *self.left_out])

    @property
    def same_weights(self) -> bool | None:
        """Whether the weights of two checkpoints are equal, in the narrower of their types where these differ.

        ``None`` where there are none to compare.
        """
        weights = [part for part in self.tensors if part.role in ("model", "ema") and part.old and part.new]
        return all(part.same_weights or part.rounded_to for part in weights) if weights else None

    @property
    def rounded_to(self) -> str:
        """The type the weights were rounded to, where they are the same otherwise."""
        return next((part.rounded_to for part in self.tensors if part.role in ("model", "ema") and part.rounded_to), "")

    @property
    def measured(self) -> bool:
        """Whether the values of tensors were measured, not only told apart."""
        return any(part.distance is not None for part in self.tensors)

    def counts(self) -> dict[str, int]:
        """How many differences there are of each meaning, the most serious first."""
        found = Counter(difference.meaning for difference in self.differences)
        return {str(meaning): found[meaning] for meaning in Meaning if found[meaning]}

    def kept(self, only: Iterable[Meaning] = (), ignore: Iterable[str] = ()) -> Comparison:
        """The same with differences of these meanings alone, and without keys that match a pattern."""
        meanings, patterns = set(only), list(ignore)
        differences = [
            difference
            for difference in self.differences
            if (not meanings or difference.meaning in meanings)
            and not any(fnmatchcase(difference.key, pattern) for pattern in patterns)
        ]
        left_out = [difference for difference in self.differences if difference not in differences]
        parts = [] if any(fnmatchcase("tensors", pattern) for pattern in patterns) else self.tensors
        return replace(self, differences=differences, tensors=[] if meanings else parts, left_out=left_out)

    def as_json(self) -> dict[str, Any]:
        """The JSON document's content."""
        document: dict[str, Any] = {
            "old": self.old,
            "new": self.new,
            "kind": self.kind,
            "for": self.purpose,
            "layout": self.layout,
            "verdict": str(self.verdict),
            "target": str(self.target) if self.target else None,
            "target_source": self.target.source if self.target else None,
            "same": self.same,
            "safe": self.safe,
            "counts": self.counts(),
            "differences": [difference.as_json() for difference in self.differences],
        }
        if self.kind == CHECKPOINT:
            document["same_weights"] = self.same_weights
            document["rounded_to"] = self.rounded_to or None
            document["tensors"] = [part.as_json() for part in self.tensors]
        return document


def diff(
    old: str | os.PathLike[str],
    new: str | os.PathLike[str] | Sequence[str] | Mapping[str, Any],
    *,
    kind: str | None = None,
    purpose: str = "resume",
    target: str | Target | None = None,
    here: bool = False,
    defaults: bool = False,
    values: bool = False,
    python: str | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Compare a checkpoint with a configuration (a yaml, ``KEY=VALUE`` texts, a mapping) or with another checkpoint.

    ``kind`` overrules what ``new`` looks like (a key of ``configs.KINDS``, or ``checkpoint``), ``purpose`` is
    ``resume`` or ``finetune``, ``target`` the trainer that goes on, ``python`` the interpreter of its environment;
    ``here`` asks whether data and devices are on this machine, ``defaults`` fills what the configuration leaves out
    with the trainer's defaults, ``values`` reads every tensor and measures how far they are apart. Raises
    ``CkptError`` for a path or option that can't be used.
    """
    wanted = parse_target(target, python) if isinstance(target, str) else target
    texts = [os.fspath(new)] if isinstance(new, (str, os.PathLike)) else new
    with ExitStack() as files:
        checkpoint = _opened(old, files)
        if not isinstance(texts, Mapping) and _is_checkpoint(texts, kind):
            judged = _verdict(checkpoint, wanted, python)
            return _two_checkpoints(checkpoint, _opened(texts[0], files), purpose, judged, values, progress)
        config = Config("inline", "settings", texts) if isinstance(texts, Mapping) else read_config(texts, kind)
        verdict, trainer = _verdict(checkpoint, wanted, python)
        situation = Situation(checkpoint, config, purpose, trainer, here)
        filling = _defaults(situation, python) if defaults and config.kind in ("args", "config", "inline") else None
        found = serious_first(check_config(situation, filling))
        return Comparison(
            os.fspath(old),
            config.name,
            config.kind,
            purpose,
            situation.found.family,
            verdict,
            trainer,
            situation,
            found,
        )


def _two_checkpoints(
    old: Checkpoint,
    new: Checkpoint,
    purpose: str,
    judged: tuple[Verdict, Target | None],
    values: bool,
    progress: Progress | None,
) -> Comparison:
    """Two checkpoints: the saved arguments of the second as a configuration for the first, then all else."""
    verdict, trainer = judged
    after = Situation(new, Config(CHECKPOINT, str(new.path), {}), purpose, trainer)
    before = Situation(old, Config(CHECKPOINT, str(new.path), after.saved), purpose, trainer)
    settings = check_config(before) if before.saved and after.saved else ()
    found = [*settings, *check_state(before, after)]
    parts = compare_tensors(old, new, values=values, progress=progress)
    return Comparison(
        str(old.path), str(new.path), CHECKPOINT, purpose, before.found.family, verdict, trainer, before,
        serious_first(found), parts,
    )  # fmt: skip


def _opened(path: str | os.PathLike[str], files: ExitStack) -> Checkpoint:
    """A checkpoint that can be compared; raises ``CkptError`` for what is none."""
    if is_yaml(Path(path)):
        raise CkptError(f"{path} is a configuration: the checkpoint comes first; write `ckpt diff last.pt {path}`")
    checkpoint = files.enter_context(open_checkpoint(path))
    if checkpoint.recognised is None or decide(checkpoint.findings) is Verdict.FOREIGN:
        why = checkpoint.findings[0].message if checkpoint.findings else "nothing in it can be read"
        raise CkptError(f"{path} can't be compared: {why}; `ckpt verify {path}` says more")
    return checkpoint


def _is_checkpoint(texts: Sequence[str], kind: str | None) -> bool:
    """Whether the second of two things is a checkpoint, by what was asked for, its name, or its first bytes."""
    if kind is not None or not texts:
        return kind == CHECKPOINT
    path = Path(os.path.expanduser(texts[0]))
    if len(texts) > 1 or not os.path.isfile(path) or is_yaml(path):
        return False
    return path.name.lower().endswith(CHECKPOINT_NAMES) or first_bytes(path, 2) in MAGIC


def _verdict(checkpoint: Checkpoint, wanted: Target | None, python: str | None) -> tuple[Verdict, Target | None]:
    """What `verify` says of the structure, and the trainer it says it for."""
    report = verify_checkpoint(checkpoint, Context(quick=True, target=wanted, python=python), siblings=False)
    assert report.verdict is not None
    return report.verdict, report.target or wanted


def _defaults(situation: Situation, python: str | None) -> dict[str, Any]:
    """The defaults of the trainer that goes on: the installed one's own file, else those of its release."""
    if situation.found.layout.name != "ultralytics":
        raise CkptError(f"the defaults of {situation.found.family} are not known; leave --defaults out")
    installed = situation.target is not None and situation.target.source == "installed" and python is None
    own = _installed_defaults() if installed else None
    known = own if own is not None else default_arguments(situation.version or release(situation.found.version))
    return {key: value for key, value in known.items() if key not in ("model", "data", "resume", "mode", "task")}


def _installed_defaults() -> dict[str, Any] | None:
    """``cfg/default.yaml`` of the installed ultralytics, found without importing it."""
    spec = importlib.util.find_spec("ultralytics")
    path = Path(spec.origin).parent / "cfg" / "default.yaml" if spec is not None and spec.origin else None
    return read_settings(path) if path is not None and os.path.isfile(path) else None

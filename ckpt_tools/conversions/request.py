"""What a conversion is asked for, and its words as they stand on the command line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from ckpt_tools.checks.context import Target
from ckpt_tools.findings import CkptError

__all__ = ["DTYPES", "FORMATS", "WEIGHTS", "Conversion", "device_tag", "renaming"]

# The devices torch tags storages with (torch/serialization.py, torch 2.14); mps has no number.
DEVICES = re.compile(r"(cpu|mps)|(cuda|xpu|npu)(?::(\d{1,3}))?")
DTYPES = ("float32", "float16", "bfloat16")
FORMATS = ("zip", "legacy", "safetensors")
WEIGHTS = ("ema", "model")


@dataclass(frozen=True)
class Conversion:
    """What the user asked for; a conversion that is not asked for changes nothing.

    ``device`` is a tag (``cpu``, ``cuda:0``), ``devices`` maps tags to tags. ``dtype`` is that of the weights,
    ``optimizer_dtype`` that of the optimizer's state. ``weights`` chooses between ``ema`` and ``model`` where both are
    there. ``prefix`` is what names are to begin with, ``none`` for nothing. ``modules`` and ``classes`` map old names
    to new ones. ``to`` is the format to write.
    """

    device: str | None = None
    devices: Mapping[str, str] = field(default_factory=dict)
    dtype: str | None = None
    optimizer_dtype: str | None = None
    strip: bool = False
    state_dict: bool = False
    weights: str | None = None
    portable: bool = False
    args_as_dict: bool = False
    prefix: str | None = None
    modules: Mapping[str, str] = field(default_factory=dict)
    classes: Mapping[str, str] = field(default_factory=dict)
    scrub: bool = False
    to: str | None = None
    target: Target | None = None

    def __post_init__(self) -> None:
        """Bring devices into torch's spelling; raises ``CkptError`` for words nobody knows."""
        if self.device is not None:
            object.__setattr__(self, "device", device_tag(self.device))
        spelt = {device_tag(old, any_number=True): device_tag(new) for old, new in self.devices.items()}
        object.__setattr__(self, "devices", spelt)
        for word, known in (("dtype", DTYPES), ("optimizer_dtype", DTYPES), ("to", FORMATS), ("weights", WEIGHTS)):
            value = getattr(self, word)
            if value is not None and value not in known:
                raise CkptError(f"--{word.replace('_', '-')} {value}: there is no such thing; use {', '.join(known)}")
        for one, other in EXCLUDING:
            if getattr(self, one) and getattr(self, other):
                first, second = (OPTIONS.get(name, f"--{name.replace('_', '-')}") for name in (one, other))
                raise CkptError(f"{first} and {second} exclude each other; leave one of them out")

    @property
    def asked(self) -> bool:
        """Whether anything is to be changed at all."""
        ways = (entry.name for entry in fields(self) if entry.name not in ("target", "weights"))
        return any(getattr(self, name) for name in ways)


EXCLUDING = (
    ("strip", "state_dict"),
    ("device", "devices"),
    ("optimizer_dtype", "strip"),
    ("optimizer_dtype", "state_dict"),
)
OPTIONS = {"devices": "--map"}


def device_tag(text: str, *, any_number: bool = False) -> str:
    """A device as torch tags it: ``cuda`` is ``cuda:0``, or with ``any_number`` every one of them.

    Raises ``CkptError`` for a device torch has no tag for.
    """
    text = text.strip().lower()
    match = DEVICES.fullmatch(f"cuda:{text}" if text.isdecimal() else text)  # YOLO trainers call GPUs by number
    if match is None:
        raise CkptError(f"{text!r} is no device; write cpu, cuda:0, mps, xpu:0 or npu:0")
    kind, number = match[2], match[3]
    if kind is None:
        return match[1]
    return kind if number is None and any_number else f"{kind}:{int(number or 0)}"


def renaming(text: str, option: str) -> tuple[str, str]:
    """``old=new`` as a pair; raises ``CkptError`` for anything else."""
    old, equals, new = (part.strip() for part in text.partition("="))
    if not (old and equals and new):
        raise CkptError(f"{option} {text}: write it as old=new")
    return old, new

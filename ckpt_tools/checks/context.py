"""What a check may know beside the checkpoint: the trainer that is to resume, and what the user asked for."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Context", "Target", "release"]


@dataclass(frozen=True)
class Target:
    """The trainer a verdict predicts, e.g. ``ultralytics==8.4.190``; ``source`` is flag, installed or file."""

    name: str
    version: str | None
    source: str

    def __str__(self) -> str:
        return f"{self.name}=={self.version}" if self.version else self.name


@dataclass
class Context:
    """Options of one verification."""

    quick: bool = False
    here: bool = False
    target: Target | None = None
    trust: tuple[str, ...] = ()
    python: str | None = None
    verdict_only: bool = False  # leave out checks that take time and can't change the verdict
    installed: dict[str, bool] = field(default_factory=dict)  # package -> found in the training environment


def release(version: str | None) -> tuple[int, ...]:
    """The numbers of a version, ``8.4.190`` as ``(8, 4, 190)``, ``8.4`` as ``(8, 4, 0)``; empty where there is none."""
    numbers: list[int] = []
    for part in (version or "").split("+")[0].split("."):
        digits = part[: next((i for i, c in enumerate(part) if c not in "0123456789"), len(part))]
        if not digits:
            break
        numbers.append(int(digits[:9]))
    return tuple(numbers + [0] * (3 - len(numbers))) if numbers else ()

"""What loading the file would import. (Dangerous calls are reported while the file is read.)"""

from __future__ import annotations

from collections.abc import Iterator

from ckpt_tools.checkpoint import Checkpoint
from ckpt_tools.checkpoint.opening import packages_named
from ckpt_tools.checks.context import Context
from ckpt_tools.checks.names import few
from ckpt_tools.findings import Finding, finding
from ckpt_tools.policy import Tier, well_known

__all__ = ["check_unknown_code", "trusted"]


def trusted(name: str, trust: tuple[str, ...]) -> bool:
    """Whether a dotted name is covered by one of ``MODULE`` or ``MODULE:CLASS``."""
    for entry in trust:
        dotted = entry.replace(":", ".").rstrip(".")
        if name == dotted or name.startswith(dotted + "."):
            return True
    return False


def check_unknown_code(checkpoint: Checkpoint, context: Context) -> Iterator[Finding]:
    """One warning per package of user code the pickle names, and one note of all that it merely names."""
    for package, names in sorted(packages_named(checkpoint, Tier.UNKNOWN).items()):
        left = [name for name in names if not trusted(name, context.trust)]
        if left:
            trust = left[0] if well_known(package) else package
            yield finding("unknown-code", left[0], package=package, names=few(left), trust=trust)
    mentioned = [name for names in packages_named(checkpoint, Tier.MENTIONED).values() for name in names]
    if mentioned:
        yield finding("named-only", mentioned[0], names=few(mentioned))

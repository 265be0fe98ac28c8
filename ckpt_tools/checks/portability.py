"""What may stop the file from loading on another machine, and what it tells about this one. Notes only."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ckpt_tools.checkpoint import Checkpoint
from ckpt_tools.checks.names import few
from ckpt_tools.findings import Finding, finding
from ckpt_tools.layouts.parts import dict_of

__all__ = ["check_portability"]

PREFIXES = (
    "_orig_mod.module.",
    "module._orig_mod.",
    "_orig_mod.",
    "module.",
    "_forward_module.",
    "_fsdp_wrapped_module.",
)
ABSOLUTE = re.compile(r"^(/[^/\0]+/|[A-Za-z]:[\\/]|\\\\)")


def check_portability(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Device tags, path objects, numpy 2 names, dill, wrapped parameter names, local paths and git origin."""
    if checkpoint.recognised is None:
        return
    names = {(ref.module, ref.name) for _, pickle in checkpoint.pickles for ref in pickle.globals}
    modules = {module for module, _ in names}
    devices = sorted({t.storage.location for t in checkpoint.tensors.values() if t.storage} - {"cpu", ""})
    if devices:
        yield finding("device-tags", devices=few(devices, 8))
    paths = sorted(name for module, name in names if module.split(".")[0] == "pathlib")
    if paths:
        yield finding("path-objects", kind=few(paths))
    if any(module.startswith("numpy._core") for module in modules):
        yield finding("numpy2-names")
    if "dill" in checkpoint.packages:
        yield finding("dill-names")
    yield from _prefixes(checkpoint)
    yield from _local(checkpoint)


def _prefixes(checkpoint: Checkpoint) -> Iterator[Finding]:
    for part in checkpoint.parts:
        if part.role in ("model", "ema") and part.form == "state_dict" and part.tensors:
            prefix = next((p for p in PREFIXES if all(n.startswith(p) or "." not in n for n in part.tensors)), None)
            if prefix and any(name.startswith(prefix) for name in part.tensors):
                yield finding("name-prefix", part.path, part=part.path or part.role, prefix=prefix)


def _local(checkpoint: Checkpoint) -> Iterator[Finding]:
    recognised = checkpoint.recognised
    assert recognised is not None
    found = [key for key, value in recognised.args.items() if isinstance(value, str) and ABSOLUTE.match(value)]
    if found:
        yield finding("local-paths", names=few(found))
    origin = dict_of(recognised.value("git")).get("origin")
    if isinstance(origin, str) and origin:
        yield finding("git-origin", "git.origin", origin=origin)

"""Whether the numbers are sound: NaN and infinity, saturation, weights that are all zero, underflowed moments."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from ckpt_tools.checkpoint import Checkpoint
from ckpt_tools.checks.content import Content
from ckpt_tools.checks.names import TensorNames, few
from ckpt_tools.container import MemberError
from ckpt_tools.findings import Finding, finding
from ckpt_tools.layouts import Part
from ckpt_tools.pickles.nodes import Node
from ckpt_tools.tensors import TensorRef
from ckpt_tools.tensors.values import Magnitudes, finite_peak, nonfinite_peak, tensor_array, tensor_raw

__all__ = ["check_values", "nonfinite_tensors", "sound_weights", "underflowed_states"]

# Tensors that may hold infinities by design: masks, anchor tables, best scores (RT-DETR, Lightning, DETR).
BY_DESIGN = re.compile(
    r"mask|anchor|grid|score|proposal|kth_value|table|rope|^inv|(min|max)_val|best|freqs|inf(inity)?$|metric|loss", re.I
)
STATISTICS = re.compile(r"running_(mean|var)$")
MOST_READ_AGAIN = 64 << 20
UNDERFLOW_SHARE = 0.001  # of a file's second moments; below that it is single dead units
WEIGHT_NAME = re.compile(r"(^|\.)weight$")


def check_values(checkpoint: Checkpoint, content: Content, verdict_only: bool = False) -> Iterator[Finding]:
    """Findings about values, from the peaks of the pass; only suspicious tensors are read again.

    ``verdict_only`` leaves out what reads moments again and decides nothing.
    """
    peaks = _Peaks(checkpoint, content)
    names = TensorNames(checkpoint)
    counted: set[int] = set()
    for part in checkpoint.parts:
        if part.role in ("model", "ema", "optimizer") and part.tensors:
            counted.update(id(tensor) for tensor in part.tensors.values())
            yield from _check_part(part, peaks)
    elsewhere = [t for t in checkpoint.tensors.values() if id(t) not in counted and peaks.nonfinite(t)]
    elsewhere += [t for part in checkpoint.parts for name, t in part.tensors.items() if _excused(part, name, t, peaks)]
    if elsewhere:
        shown = few(names.of(tensor) for tensor in elsewhere)
        yield finding("non-finite-elsewhere", count=len({id(t) for t in elsewhere}), tensors=shown)
    if not verdict_only:
        yield from _underflow(checkpoint, peaks)


class _Peaks:
    """The largest magnitude of each tensor: that of its storage, or its own where they share one."""

    def __init__(self, checkpoint: Checkpoint, content: Content) -> None:
        self.container = checkpoint.container
        self.content = content
        self.own: dict[int, int] = {}
        self.budget = MOST_READ_AGAIN + checkpoint.source.size  # bytes of single tensors that are read once more

    def storage_peak(self, tensor: TensorRef) -> int | None:
        storage = tensor.storage
        if storage is None or tensor.dtype.word is None or not tensor.numel:
            return None
        return self.content.peaks.get(storage.key)

    def of(self, tensor: TensorRef) -> int | None:
        """``None`` where the values were not read; read again only if the tensor is part of a larger storage."""
        peak = self.storage_peak(tensor)
        if peak is None or tensor.storage is None or tensor.numel * tensor.dtype.size == tensor.storage.nbytes:
            return peak
        if id(tensor) not in self.own:
            self.own[id(tensor)] = self._own(tensor)
        return self.own[id(tensor)]

    def _own(self, tensor: TensorRef) -> int:
        self.budget -= tensor.span[1] * tensor.dtype.size
        if self.container is None or self.budget < 0:
            return self.content.peaks.get(tensor.storage.key, 0) if tensor.storage else 0
        try:
            raw = tensor_raw(self.container, tensor)
        except (KeyError, MemberError):
            return 0
        return Magnitudes(len(raw) + 8).peak(memoryview(raw), tensor.dtype, self.container.byteorder == "big")

    def nonfinite(self, tensor: TensorRef) -> bool:
        peak = self.storage_peak(tensor)
        if peak is None or not nonfinite_peak(tensor.dtype, peak):
            return False
        own = self.of(tensor)
        return own is not None and nonfinite_peak(tensor.dtype, own)


def _by_design(part: Part, name: str) -> bool:
    """Whether NaN or infinity in this tensor is no fault: a buffer that is no statistic, or a mask by its name."""
    if part.form == "module":
        return name in part.buffers and not STATISTICS.search(name)
    return part.role != "optimizer" and bool(BY_DESIGN.search(name.rsplit(".", 1)[-1]))


def _excused(part: Part, name: str, tensor: TensorRef, peaks: _Peaks) -> bool:
    return part.role in ("model", "ema", "optimizer") and _by_design(part, name) and peaks.nonfinite(tensor)


def _check_part(part: Part, peaks: _Peaks) -> Iterator[Finding]:
    bad: list[str] = []
    full: list[str] = []
    zero: list[str] = []
    for name, tensor in part.tensors.items():
        peak = peaks.storage_peak(tensor)
        if peak is None or _by_design(part, name):
            continue
        limit = finite_peak(tensor.dtype)
        if peak > limit:
            bad += [name] if peaks.nonfinite(tensor) else []
        elif peak == limit and tensor.dtype.finite_max is not None:
            full += [name] if peaks.of(tensor) == limit else []
        elif peak == 0 and part.role != "optimizer" and len(tensor.shape) > 1 and WEIGHT_NAME.search(name):
            zero.append(name)
    label = part.path or part.role
    for slug, hit in (("non-finite", bad), ("saturated", full), ("all-zero-weights", zero)):
        if hit:
            yield finding(slug, f"{label}: {hit[0]}", count=len(hit), part=label, tensors=few(hit))


def sound_weights(checkpoint: Checkpoint, content: Content | None) -> bool:
    """Whether one set of weights is there whole and, as far as its bytes were read, finite."""
    peaks = _Peaks(checkpoint, content or Content())
    container = checkpoint.container
    parts = checkpoint.recognised.weights if checkpoint.recognised and container else []
    for part in parts:
        tensors = part.tensors.items()
        if tensors and not any(peaks.nonfinite(tensor) and not _by_design(part, name) for name, tensor in tensors):
            return True
    return False


def nonfinite_tensors(checkpoint: Checkpoint, content: Content, part: Part) -> list[str]:
    """The names of a part's tensors that hold NaN or infinity where that is a fault."""
    peaks = _Peaks(checkpoint, content)
    return [name for name, tensor in part.tensors.items() if peaks.nonfinite(tensor) and not _by_design(part, name)]


def _dense(tensor: TensorRef) -> bool:
    """Whether a tensor has no more values than its storage: no view that repeats them."""
    return tensor.storage is not None and tensor.nbytes <= tensor.storage.nbytes


def _underflow(checkpoint: Checkpoint, peaks: _Peaks) -> Iterator[Finding]:
    """Second moments in half precision that are zero where the first moment is not."""
    for part in checkpoint.parts:
        if part.role != "optimizer" or not part.present:
            continue
        counts = list(_underflows(checkpoint, peaks, part))
        lost, total = sum(lost for _, lost, _, _ in counts), sum(total for _, _, total, _ in counts)
        if total and lost / total >= UNDERFLOW_SHARE:
            share = f"{100 * lost / total:.1f}"
            yield finding("underflowed-moments", part.path, share=share, name="exp_avg_sq", dtype=counts[-1][3])


def underflowed_states(checkpoint: Checkpoint, content: Content, part: Part) -> list[Node]:
    """The parameter ids of an Adam state whose second moments underflowed."""
    return [key for key, lost, _, _ in _underflows(checkpoint, _Peaks(checkpoint, content), part) if lost]


def _underflows(checkpoint: Checkpoint, peaks: _Peaks, part: Part) -> Iterator[tuple[Node, int, int, str]]:
    """Per parameter id: how many second moments underflowed, out of how many, and their type."""
    container = peaks.container
    if container is None:
        return
    for key, state in part.state.items():
        first, second = (checkpoint.tensors.get(id(state.get(name))) for name in ("exp_avg", "exp_avg_sq"))
        if first is None or second is None or second.dtype.size != 2 or peaks.storage_peak(second) is None:
            continue
        if not (_dense(first) and _dense(second)):
            continue
        try:
            one, two = tensor_array(container, first), tensor_array(container, second)
        except (KeyError, MemberError, ValueError):
            continue
        if one.shape == two.shape:
            lost = int(np.count_nonzero((two == 0) & (one != 0)))
            yield key, lost, int(np.count_nonzero(one)), str(second.dtype)

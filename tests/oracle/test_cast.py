"""Real torch as the judge of every conversion between floating types."""

from __future__ import annotations

import itertools
import zlib

import numpy as np
import pytest

from ckpt_tools.source import BytesSource
from ckpt_tools.tensors import DTYPES
from ckpt_tools.tensors.cast import CASTABLE, CastSource, survey

torch = pytest.importorskip("torch")

COUNT = 100_000
SEEDS = range(2)
PAIRS = list(itertools.permutations(sorted(CASTABLE), 2))


def bits(name: str, seed: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """Values of one type as bytes: half of them any bits, half numbers of every size that float16 may round."""
    rng = np.random.default_rng(seed)
    numbers = torch.from_numpy(rng.standard_normal(COUNT // 2) * 2.0 ** rng.uniform(-30, 20, COUNT // 2))
    made = numbers.to(getattr(torch, name)).view(torch.uint8).numpy()
    return np.concatenate([np.frombuffer(rng.bytes(COUNT // 2 * DTYPES[name].size), np.uint8), made])


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("old", "new"), PAIRS, ids=["-".join(pair) for pair in PAIRS])
def test_every_value_is_that_of_torch(old: str, new: str, seed: int) -> None:
    raw = bits(old, seed)
    before = torch.from_numpy(raw.copy()).view(getattr(torch, old))
    after = before.to(getattr(torch, new))
    source = CastSource(BytesSource(raw.tobytes()), DTYPES[old], DTYPES[new])
    made = source.read(0, source.size)
    ours = torch.frombuffer(bytearray(made), dtype=getattr(torch, new))
    number = ~torch.isnan(after)
    word = {2: torch.int16, 4: torch.int32, 8: torch.int64}[DTYPES[new].size]
    assert len(ours) == COUNT
    assert torch.equal(ours.view(word)[number], after.view(word)[number])
    assert torch.isnan(ours[~number]).all()
    seen = survey(BytesSource(raw.tobytes()), DTYPES[old], DTYPES[new])
    assert seen.crc == zlib.crc32(made)
    assert seen.overflow == int((torch.isfinite(before) & torch.isinf(after)).sum())
    assert seen.underflow == int(((before != 0) & (after == 0)).sum())

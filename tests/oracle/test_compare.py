"""Real torch as the judge of what a rounded tensor is, and of the distance of two tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ckpt_tools.checkpoint import open_checkpoint
from ckpt_tools.differences.tensors import PartComparison, compare_tensors

torch = pytest.importorskip("torch")

NARROW = ["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"]


def compared(folder: Path, old: dict[str, Any], new: dict[str, Any], values: bool = True) -> PartComparison:
    torch.save(old, folder / "old.pt")
    torch.save(new, folder / "new.pt")
    with open_checkpoint(folder / "old.pt") as one, open_checkpoint(folder / "new.pt") as other:
        (part,) = compare_tensors(one, other, values=values)
    return part


def spread(narrow: str) -> Any:
    """Numbers all over the range of a type, with those half way between two of its values, and zeros."""
    torch.manual_seed(0)
    kind = getattr(torch, narrow)
    info = torch.finfo(kind)
    exponents = torch.empty(20_000).uniform_(float(torch.log2(torch.tensor(info.smallest_normal))) - 6, 7)
    numbers = torch.randn(20_000).sign() * torch.exp2(exponents)
    values = numbers.to(kind).float()
    ties = (values + (values * (1 + 2 * info.eps)).to(kind).float()) / 2
    return torch.cat([numbers, ties, values, torch.zeros(2), -torch.zeros(2)])


@pytest.mark.parametrize("values", [False, True])
@pytest.mark.parametrize("wide", ["float32", "float64"])
@pytest.mark.parametrize("narrow", NARROW)
def test_what_torch_rounds_is_rounded(narrow: str, wide: str, values: bool, tmp_path: Path) -> None:
    weights = spread(narrow).to(getattr(torch, wide))
    rounded = weights.to(getattr(torch, narrow))
    part = compared(tmp_path, {"w": weights}, {"w": rounded}, values)
    assert (part.same_weights, part.rounded_to) == (False, narrow)
    assert compared(tmp_path, {"w": rounded}, {"w": weights}, values).rounded_to == narrow
    assert compared(tmp_path, {"w": rounded.float()}, {"w": rounded}, values).same_weights


@pytest.mark.parametrize("place", [0, 25_000])
@pytest.mark.parametrize("narrow", NARROW)
def test_the_neighbour_is_not(narrow: str, place: int, tmp_path: Path) -> None:
    weights = spread(narrow)
    rounded = weights.to(getattr(torch, narrow))
    codes = rounded.view(torch.int16 if rounded.element_size() == 2 else torch.uint8)
    codes[place] += 1
    assert compared(tmp_path, {"w": weights}, {"w": rounded}).rounded_to == ""


@pytest.mark.parametrize("kinds", [("float32", "float32"), ("float16", "float16"), ("bfloat16", "float32")])
def test_numbers_are_those_of_torch(kinds: tuple[str, str], tmp_path: Path) -> None:
    torch.manual_seed(1)
    old, noise = torch.randn(2, 301, 333)
    one, other = (
        old.to(getattr(torch, kinds[0])),
        (old + 0.01 * noise).to(getattr(torch, kinds[1])).t().contiguous().t(),
    )
    found = compared(tmp_path, {"w": one}, {"w": other}).distance
    assert found is not None
    one, other = one.double().flatten(), other.double().flatten()
    assert found.max_abs == pytest.approx(float((one - other).abs().max()), rel=1e-6)
    assert found.relative == pytest.approx(float((one - other).norm() / one.norm()), rel=1e-5)
    assert found.cosine == pytest.approx(float(torch.nn.functional.cosine_similarity(one, other, dim=0)), abs=1e-7)


def test_channels_last_weights_are_the_same(tmp_path: Path) -> None:
    weight = torch.randn(8, 4, 3, 3)
    turned = weight.to(memory_format=torch.channels_last)
    part = compared(tmp_path, {"w": weight}, {"w": turned}, values=False)
    assert part.same_weights
    assert compared(tmp_path, {"w": turned}, {"w": turned * 2}).distance is not None

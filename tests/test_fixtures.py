"""Every checkpoint of a real trainer gets the verdict that ``fixtures/expected.json`` owes it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from conftest import FIXTURES

import ckpt_tools
from ckpt_tools.findings import Verdict
from ckpt_tools.verbs.verify import verify

EXPECTED: dict[str, dict[str, Any]] = json.loads((FIXTURES / "expected.json").read_text(encoding="utf-8"))


def own_target(name: str) -> str | None:
    """The trainer version that wrote a file, so that an installed one makes no difference."""
    with ckpt_tools.open(FIXTURES / name) as opened:
        found = opened.checkpoint.recognised
    if found is None or not found.version or not found.layout.trainer:
        return None
    return f"{found.layout.trainer}=={found.version}"


def test_every_file_is_expected_and_described() -> None:
    assert {path.name for path in FIXTURES.glob("*.pt")} == set(EXPECTED)
    readme = (FIXTURES / "README.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in readme for name in EXPECTED)


def test_the_folder_stays_small() -> None:
    assert sum(path.stat().st_size for path in FIXTURES.rglob("*") if path.is_file()) <= 6_000_000


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("quick", [False, True], ids=["full", "quick"])
def test_real_file_gets_its_verdict(name: str, quick: bool) -> None:
    report = verify(FIXTURES / name, quick=quick, target=own_target(name), siblings=False)
    found = {key: getattr(report, key) for key in ("layout", "epoch", "epochs")}
    assert {"verdict": report.verdict, **found} == EXPECTED[name], [fact.message for fact in report.findings]


@pytest.mark.parametrize("name", EXPECTED)
def test_real_file_is_never_unsafe_nor_of_unknown_make(name: str) -> None:
    report = verify(FIXTURES / name, target=own_target(name), siblings=False)
    assert report.verdict is not Verdict.UNSAFE
    unknown = [fact.message for fact in report.findings if fact.slug == "unknown-code"]
    assert unknown == []


@pytest.mark.parametrize("name", [name for name, entry in EXPECTED.items() if entry["verdict"] != "foreign"])
def test_every_tensor_of_a_real_file_can_be_read(name: str) -> None:
    with ckpt_tools.open(FIXTURES / name) as opened:
        assert len(opened) > 0
        for tensor in opened.values():
            assert tensor.numpy().shape == tensor.shape

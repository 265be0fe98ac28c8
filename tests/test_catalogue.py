"""The catalogue of findings: one code for each, each of them used, each of them explained."""

from __future__ import annotations

import ast
import re

import pytest
from conftest import ROOT

from ckpt_tools.findings import (
    BY_CODE,
    BY_SLUG,
    CATALOGUE,
    Code,
    Severity,
    Verdict,
    decide,
    escape,
    finding,
    lookup,
)

CODE = re.compile(r"CKPT\d{3}")
DOCS = ROOT / "docs" / "findings.md"


def slugs_in_code() -> set[str]:
    """Every text constant of the package outside the catalogue that is a slug."""
    found: set[str] = set()
    for path in (ROOT / "ckpt_tools").rglob("*.py"):
        if path.name != "catalogue.py":
            tree = ast.parse(path.read_text(encoding="utf-8"))
            texts = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
            found |= {text for text in texts if isinstance(text, str)} & set(BY_SLUG)
    return found


def slugs_of_calls() -> set[str]:
    """The constant first arguments of all calls of ``finding``."""
    found: set[str] = set()
    for path in (ROOT / "ckpt_tools").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "finding":
                found |= {arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant)}  # type: ignore[misc]
    return found


def test_codes_and_slugs_are_unique() -> None:
    assert len(BY_CODE) == len(BY_SLUG) == len(CATALOGUE)


def test_codes_are_in_order_and_in_their_room() -> None:
    codes = [entry.code for entry in CATALOGUE]
    assert codes == sorted(codes)
    assert all(CODE.fullmatch(code) for code in codes)
    assert {code[4] for code in codes} <= set("012345679")


@pytest.mark.parametrize("entry", CATALOGUE, ids=lambda entry: entry.slug)
def test_entry_is_complete(entry: Code) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", entry.slug)
    assert entry.explanation.endswith((".", "`).", ")"))
    assert entry.cure.endswith(".")
    assert entry.remedy
    assert not entry.message.endswith(".")


@pytest.mark.parametrize("entry", CATALOGUE, ids=lambda entry: entry.slug)
def test_only_errors_decide_and_all_errors_do(entry: Code) -> None:
    assert (entry.severity is Severity.ERROR) == (entry.verdict is not None)


def test_every_finding_that_is_made_is_in_the_catalogue() -> None:
    assert slugs_of_calls() <= set(BY_SLUG)


def test_every_entry_is_made_somewhere() -> None:
    assert set(BY_SLUG) - slugs_in_code() == set()


def test_docs_page_is_in_step() -> None:
    if not DOCS.exists():
        pytest.skip("there is no page of findings yet")
    page = DOCS.read_text(encoding="utf-8")
    assert set(CODE.findall(page)) == set(BY_CODE)
    for entry in CATALOGUE:
        assert entry.slug in page


@pytest.mark.parametrize("text", ["CKPT104", "ckpt104", "checksum-mismatch", "Checksum-Mismatch"])
def test_lookup_takes_codes_and_slugs_in_any_case(text: str) -> None:
    assert lookup(text) is BY_CODE["CKPT104"]


def test_lookup_of_nothing_known_is_none() -> None:
    assert lookup("CKPT000") is None


def test_an_unknown_slug_is_our_bug() -> None:
    with pytest.raises(KeyError):
        finding("no-such-finding")


def test_the_first_verdict_in_order_wins() -> None:
    facts = [finding("no-epoch"), finding("empty-file"), finding("run-complete", epoch=1, epochs=1)]
    assert decide(facts) is Verdict.DAMAGED
    assert decide([]) is Verdict.RESUMABLE
    assert decide([], Verdict.WEIGHTS) is Verdict.WEIGHTS
    assert list(Verdict)[0] is Verdict.UNSAFE


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain Ünïcödé 模型", "plain Ünïcödé 模型"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\nb\tc", r"a\nb\tc"),
        ("\u202eevil", r"\u202eevil"),
        ("\x7f\x9b", r"\x7f\x9b"),
        ("\ud800", r"\ud800"),
        (3, "3"),
        (None, "None"),
    ],
)
def test_escape_shows_text_and_hides_controls(text: object, shown: str) -> None:
    assert escape(text) == shown


def test_escape_bounds_what_it_shows() -> None:
    assert len(escape("x" * 10_000)) <= 400
    assert "bits" in escape(1 << 100_000)

"""Hostile files are never executed and never called good; odd but harmless ones are never called unsafe."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from conftest import Run, Verify, Write
from hostile_samples import BENIGN, BOMBS, MENTIONED, SAMPLES, UNKNOWN

from ckpt_tools.findings import Verdict

MOST_MEMORY = 1 << 30  # bytes of address space in which any bomb must be judged
PATIENCE = 120  # seconds after which a bomb counts as a hang, on the slowest of machines

BOUNDED = """
import json, sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2)
except ImportError:
    pass
from ckpt_tools.verbs.verify import verify
print(json.dumps([str(verify(path).verdict) for path in sys.argv[2:]]))
"""


@pytest.mark.parametrize("quick", [False, True], ids=["full", "quick"])
@pytest.mark.parametrize("sample", SAMPLES)
def test_hostile_file_is_unsafe_and_does_not_run(sample: str, quick: bool, verified: Verify, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    report = verified(SAMPLES[sample](str(canary)), quick=quick)
    assert report.verdict is Verdict.UNSAFE
    assert not canary.exists()
    assert not report.allows("inference")


@pytest.mark.parametrize("sample", BENIGN)
def test_harmless_file_is_not_called_unsafe(sample: str, verified: Verify) -> None:
    report = verified(BENIGN[sample]())
    assert report.verdict is not Verdict.UNSAFE, [fact.message for fact in report.findings]


@pytest.mark.parametrize("sample", MENTIONED)
def test_a_name_that_is_only_mentioned_is_a_note(sample: str, verified: Verify) -> None:
    report = verified(MENTIONED[sample]("canary"))
    assert report.verdict is Verdict.WEIGHTS
    assert [str(fact.severity) for fact in report.findings if fact.slug == "named-only"] == ["note"]
    assert not [fact for fact in report.findings if fact.slug == "unknown-code"]


@pytest.mark.parametrize("sample", UNKNOWN)
def test_user_code_is_a_warning_that_names_the_package(sample: str, verified: Verify) -> None:
    report = verified(UNKNOWN[sample]())
    warnings = [fact for fact in report.findings if fact.slug == "unknown-code"]
    assert report.verdict is Verdict.WEIGHTS
    assert len(warnings) == 1
    assert any(package in warnings[0].message for package in ("my_project", "__main__", "torch"))


@pytest.mark.parametrize("sample", BOMBS)
def test_bomb_is_judged_in_bounded_time_and_memory(sample: str, write: Write, environment: Mapping[str, str]) -> None:
    path = write(BOMBS[sample]())
    done = subprocess.run(
        [sys.executable, "-c", BOUNDED, str(MOST_MEMORY), str(path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-500:]
    assert json.loads(done.stdout)[0] != "resumable"


@pytest.mark.parametrize("sample", ["protocol_2_global", "zip_in_comment", "legacy_magic", "zip_nested_checkpoint"])
def test_inspecting_a_hostile_file_runs_nothing(sample: str, write: Write, ckpt: Run, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    path = write(SAMPLES[sample](str(canary)))
    for option in ("--tree", "--tensors", "--stats", "--args", "--globals", "--json"):
        assert ckpt("inspect", path, option).returncode in (0, 1)
    assert not canary.exists()


def test_dangerous_call_is_shown_with_its_arguments(verified: Verify, tmp_path: Path) -> None:
    report = verified(SAMPLES["protocol_2_global"](str(tmp_path / "canary")))
    shown = next(fact for fact in report.findings if fact.slug == "dangerous-call")
    assert "os.system('touch " in shown.message
    assert "at byte" in shown.where


def test_strict_reading_raises_on_a_hostile_file(write: Write, tmp_path: Path) -> None:
    import ckpt_tools

    path = write(SAMPLES["zip_member"](str(tmp_path / "canary")))
    with pytest.raises(ckpt_tools.CkptError, match="CKPT601"):
        ckpt_tools.open(path, strict=True)

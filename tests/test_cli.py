"""The command line as a user meets it: exit codes, text, JSON, paths, pipes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from building import (
    Tensor,
    module,
    plain_checkpoint,
    saved,
    stripped_checkpoint,
    ultralytics_checkpoint,
    weights,
)
from conftest import Run, Write
from damage import cut, flip, storage_member, zero_tail
from hostile_samples import SAMPLES

import ckpt_tools
from ckpt_tools.checkpoint import read_checkpoint
from ckpt_tools.findings import CATALOGUE, Verdict
from ckpt_tools.source import BytesSource

GOOD = saved(plain_checkpoint())
NAN = plain_checkpoint(model_state_dict=weights(**{"linear.bias": Tensor((2,), float("nan"))}))
UNKNOWN = plain_checkpoint(settings=module("my_project.models.Net"))
GOLDENS = Path(__file__).parent / "goldens"

# name: (content, exit code for resume, exit code for inference)
FILES: dict[str, tuple[Any, str, int, int]] = {
    "interrupted": (ultralytics_checkpoint(), "resumable", 0, 0),
    "finished": (stripped_checkpoint(), "finished", 3, 0),
    "finished-not-stripped": (ultralytics_checkpoint(epoch=4), "finished", 3, 0),
    "no-optimizer": (ultralytics_checkpoint(optimizer=None), "incomplete", 1, 0),
    "nan": (NAN, "incomplete", 1, 1),
    "weights": (weights(), "weights", 1, 0),
    "cut": (cut(GOOD, len(GOOD) // 3), "damaged", 1, 1),
    "zero-tailed": (zero_tail(GOOD, len(GOOD) // 2), "damaged", 1, 1),
    "web-page": (b"<!DOCTYPE html><html></html>", "foreign", 1, 1),
    "hostile": (SAMPLES["zip_member"]("canary"), "unsafe", 1, 1),
    "empty": (b"", "damaged", 1, 1),
}


def document(run: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run.stdout)
    return found


class TestExitCodes:
    @pytest.mark.parametrize("name", FILES)
    def test_verdict_decides(self, name: str, write: Write, ckpt: Run) -> None:
        content, verdict, resume, inference = FILES[name]
        path = write(content)
        run = ckpt("verify", path)
        assert (run.returncode, run.stderr) == (resume, "")
        assert run.stdout.startswith(f"{path}: {verdict}")
        assert ckpt("verify", path, "--for", "inference").returncode == inference

    @pytest.mark.parametrize(
        "arguments",
        [
            ["verify"],
            ["verify", "none.pt"],
            ["verify", "no*match.pt"],
            ["verify", "."],
            ["verify", "last.pt", "--no-such-option"],
            ["verify", "last.pt", "--for", "fun"],
            ["verify", "last.pt", "--target", "what?"],
            ["verify", "last.pt", "--fail-on", "no-such-finding"],
            ["verify", "last.pt", "--here", "--python", "no/such/python"],
            ["verify", "~nobody-of-this-name/last.pt"],
            ["inspect"],
            ["inspect", "none.pt"],
            ["explain", "CKPT999"],
            ["no-such-command"],
        ],
        ids=" ".join,
    )
    def test_usage_errors_exit_2_and_say_why_on_stderr(
        self, arguments: list[str], write: Write, ckpt: Run, tmp_path: Path
    ) -> None:
        if "last.pt" in arguments:
            write(ultralytics_checkpoint())
        run = ckpt(*arguments)
        assert run.returncode == 2
        assert run.stdout == ""
        assert run.stderr.strip()
        assert "Traceback" not in run.stderr

    @pytest.mark.parametrize(
        ("names", "code"),
        [
            (["interrupted", "finished"], 3),
            (["finished", "cut", "interrupted"], 1),
            (["interrupted", "weights"], 1),
        ],
    )
    def test_the_most_serious_of_several_wins(self, names: list[str], code: int, write: Write, ckpt: Run) -> None:
        paths = [write(FILES[name][0], f"{name}/last.pt") for name in names]
        assert ckpt("verify", *paths).returncode == code

    def test_a_path_that_can_not_be_opened_outweighs_bad_verdicts(self, write: Write, ckpt: Run) -> None:
        path = write(FILES["cut"][0])
        run = ckpt("verify", path, "none.pt")
        assert run.returncode == 2
        assert "damaged" in run.stdout
        assert "none.pt does not exist" in run.stderr

    def test_our_own_bug_exits_70_without_a_traceback(self, write: Write, environment: Mapping[str, str]) -> None:
        path = write(weights())
        code = (
            "import sys, ckpt_tools.verbs.verify as room\n"
            "def broken(*args, **options): raise ZeroDivisionError('seven')\n"
            "room.verify = broken\n"
            f"sys.argv = ['ckpt', 'verify', {str(path)!r}]\n"
            "from ckpt_tools.cli import main\n"
            "main()\n"
        )
        run = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert run.returncode == 70
        assert "Traceback" not in run.stderr
        assert "seven" in run.stderr
        assert "CKPT_DEBUG" in run.stderr

    @pytest.mark.skipif(os.name != "posix", reason="signals as on POSIX")
    def test_interrupt_exits_130(self, write: Write, environment: Mapping[str, str]) -> None:
        path = write(weights())
        code = (
            "import os, signal, sys, ckpt_tools.verbs.verify as room\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs ignore it
            "def slow(*args, **options): os.kill(os.getpid(), signal.SIGINT)\n"
            "room.verify = slow\n"
            f"sys.argv = ['ckpt', 'verify', {str(path)!r}]\n"
            "from ckpt_tools.cli import main\n"
            "main()\n"
        )
        run = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert signal.SIGINT
        assert run.returncode == 130
        assert "Traceback" not in run.stderr


class TestPaths:
    def test_spaces_tilde_and_odd_names(self, write: Write, ckpt: Run, tmp_path: Path) -> None:
        write(weights(), "my run/läst [1].pt")
        assert ckpt("verify", "my run/läst [1].pt").stdout.startswith("my run/läst [1].pt: weights")
        run = ckpt("verify", "~/my run/läst [1].pt", HOME=str(tmp_path), USERPROFILE=str(tmp_path))
        assert "weights" in run.stdout

    def test_folder_is_searched_below(self, write: Write, ckpt: Run) -> None:
        for name in ("a/weights/last.pt", "a/weights/best.pt", "b/model.pth", "b/epoch=3.ckpt"):
            write(weights(), name)
        write(b"not looked at", "b/notes.txt")
        run = ckpt("verify", ".")
        lines = run.stdout.splitlines()
        assert [line.split()[1] for line in lines[:4]] == [
            "./a/weights/best.pt",
            "./a/weights/last.pt",
            "./b/epoch=3.ckpt",
            "./b/model.pth",
        ] or [Path(line.split()[1]).as_posix() for line in lines[:4]] == [
            "a/weights/best.pt",
            "a/weights/last.pt",
            "b/epoch=3.ckpt",
            "b/model.pth",
        ]
        assert lines[4] == "4 files: 4 weights"
        assert lines[5].startswith("next: ckpt verify ")

    def test_pattern_the_shell_left_alone(self, write: Write, ckpt: Run) -> None:
        write(weights(), "runs/a/last.pt")
        write(weights(), "runs/b/last.pt")
        assert len(ckpt("verify", "runs/*/last.pt", "-q").stdout.splitlines()) == 2
        assert len(ckpt("verify", "**/*.pt", "-q").stdout.splitlines()) == 2

    def test_a_file_named_twice_is_verified_once(self, write: Write, ckpt: Run) -> None:
        path = write(weights())
        assert len(ckpt("verify", path, path, "-q").stdout.splitlines()) == 1

    def test_file_that_looks_like_an_option(self, write: Write, ckpt: Run) -> None:
        write(weights(), "-last.pt")
        assert ckpt("verify", "--", "-last.pt").returncode == 1


class TestOutput:
    def test_verdict_first_then_findings_then_the_next_command(self, write: Write, ckpt: Run) -> None:
        lines = ckpt("verify", write(stripped_checkpoint())).stdout.splitlines()
        assert re.match(r".*last\.pt: finished \(ultralytics 8\.4\.190, epoch -1 of 5", lines[0])
        assert lines[1].startswith("  error CKPT504 stripped: ")
        assert lines[2].startswith("      > ckpt ")
        assert lines[-1].startswith("next: ")

    def test_quick_says_structure_only(self, write: Write, ckpt: Run) -> None:
        run = ckpt("verify", write(ultralytics_checkpoint()), "--quick")
        assert "structure only" in run.stdout.splitlines()[0]

    def test_quiet_leaves_verdict_lines_and_twice_quiet_nothing(self, write: Write, ckpt: Run) -> None:
        path = write(stripped_checkpoint())
        once, twice = ckpt("verify", path, "-q"), ckpt("verify", path, "-qq")
        assert len(once.stdout.splitlines()) == 1
        assert once.stdout.startswith("finished")
        assert (twice.stdout, twice.stderr, twice.returncode) == ("", "", 3)

    def test_no_colours_in_a_pipe(self, write: Write, ckpt: Run) -> None:
        assert "\x1b" not in ckpt("verify", write(stripped_checkpoint()), NO_COLOR="").stdout

    def test_control_characters_are_escaped_in_text(self, write: Write, ckpt: Run) -> None:
        path = write(plain_checkpoint(model_state_dict=weights(**{"\x1b[2J.weight": Tensor((1, 2), float("nan"))})))
        for arguments in (["verify", path], ["inspect", path, "--tensors"], ["inspect", path, "--tree"]):
            output = ckpt(*arguments).stdout
            assert "\x1b" not in output
            assert r"\x1b[2J" in output

    @pytest.mark.skipif(os.name != "posix", reason="such file names exist on POSIX only")
    def test_control_characters_in_a_path_are_escaped(self, write: Write, ckpt: Run) -> None:
        path = write(stripped_checkpoint(), "a\x1b[31mb\n.pt")
        run = ckpt("verify", path)
        assert "\x1b" not in run.stdout + run.stderr
        assert "\x1b" not in ckpt("verify", path.with_name("\x1b[31mnone.pt")).stderr
        assert "\x1b" not in ckpt("verify", path, "-q").stdout
        assert "\x1b" not in ckpt("inspect", path).stdout

    def test_closed_pipe_is_no_error(self, write: Write, environment: Mapping[str, str], tmp_path: Path) -> None:
        for number in range(40):
            write(stripped_checkpoint(), f"run{number}/last.pt")
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", "ckpt_tools", "verify", str(tmp_path)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(60) in (0, 3, 141)

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
    def test_full_disk_is_not_called_our_bug(
        self, write: Write, environment: Mapping[str, str], tmp_path: Path
    ) -> None:
        path = write(weights())
        with open("/dev/full", "w") as full:
            command = [sys.executable, "-m", "ckpt_tools", "verify", str(path)]
            run = subprocess.run(
                command, env=environment, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False
            )
        assert run.returncode == 2
        assert "bug" not in run.stderr
        assert "Traceback" not in run.stderr

    def test_file_errors_go_to_stderr(self, ckpt: Run) -> None:
        run = ckpt("verify", "none.pt")
        assert run.stdout == ""
        assert run.stderr == "ckpt: none.pt does not exist; check the path\n"


class TestJson:
    FIELDS = {
        "path",
        "verdict",
        "checked",
        "layout",
        "kind",
        "epoch",
        "epochs",
        "target",
        "target_source",
        "findings",
    }
    FINDING = {"code", "slug", "severity", "message", "where", "remedy"}

    @pytest.mark.parametrize("name", FILES)
    def test_document_has_the_promised_fields(self, name: str, write: Write, ckpt: Run) -> None:
        path = write(FILES[name][0])
        run = ckpt("verify", path, "--json")
        found = document(run)
        assert found["schema"] == "ckpt-tools/verify/1"
        (entry,) = found["files"]
        assert set(entry) >= self.FIELDS
        assert (entry["path"], entry["verdict"], entry["checked"]) == (str(path), FILES[name][1], "full")
        assert entry["target_source"] in ("flag", "installed", "file", None)
        assert entry["verdict"] in set(map(str, Verdict))
        for fact in entry["findings"]:
            assert set(fact) == self.FINDING
            assert all(isinstance(value, str) for value in fact.values())
            assert fact["severity"] in ("error", "warning", "note")
        assert run.returncode == FILES[name][2]
        assert run.stderr == ""

    def test_a_path_that_can_not_be_opened_has_an_error(self, write: Write, ckpt: Run) -> None:
        run = ckpt("verify", write(weights()), "none.pt", "--json")
        whole, missing = document(run)["files"]
        assert whole["verdict"] == "weights"
        assert missing["verdict"] is None
        assert "does not exist" in missing["error"]
        assert run.returncode == 2

    def test_quick_and_target_are_recorded(self, write: Write, ckpt: Run) -> None:
        run = ckpt("verify", write(ultralytics_checkpoint()), "--json", "--quick", "--target", "ultralytics==8.4.1")
        (entry,) = document(run)["files"]
        assert (entry["checked"], entry["target"], entry["target_source"]) == (
            "structure",
            "ultralytics==8.4.1",
            "flag",
        )

    @pytest.mark.parametrize("command", ["verify", "inspect"])
    def test_no_numbers_json_does_not_have(self, command: str, write: Write, ckpt: Run) -> None:
        path = write(ultralytics_checkpoint(best_fitness=float("nan"), train_args={"epochs": 5, "lr": float("inf")}))
        options = ["--args"] if command == "inspect" else []

        def refuse(word: str) -> None:
            raise AssertionError(f"{word} is not JSON")

        json.loads(ckpt(command, path, "--json", *options).stdout, parse_constant=refuse)

    def test_explain_and_inspect_have_schemas_of_their_own(self, write: Write, ckpt: Run) -> None:
        assert document(ckpt("explain", "--json"))["schema"] == "ckpt-tools/explain/1"
        assert document(ckpt("inspect", write(weights()), "--json"))["schema"] == "ckpt-tools/inspect/1"


class TestOptions:
    @pytest.mark.parametrize(
        ("condition", "code"),
        [
            ("unknown-code", 1),
            ("CKPT602", 1),
            ("ckpt602", 1),
            ("warning", 1),
            ("note", 1),
            ("error", 0),
            ("checksum-mismatch", 0),
        ],
    )
    def test_fail_on(self, condition: str, code: int, write: Write, ckpt: Run) -> None:
        assert ckpt("verify", write(UNKNOWN), "--fail-on", condition).returncode == code

    def test_trust_silences_fail_on(self, write: Write, ckpt: Run) -> None:
        path = write(UNKNOWN)
        run = ckpt("verify", path, "--fail-on", "unknown-code", "--trust", "my_project")
        assert run.returncode == 0
        assert "my_project" not in run.stdout

    def test_jobs_give_the_same_lines_in_the_same_order(self, write: Write, ckpt: Run, tmp_path: Path) -> None:
        for number, name in enumerate(FILES):
            write(FILES[name][0], f"{number:02d}-{name}/last.pt")
        one, two = ckpt("verify", tmp_path), ckpt("verify", tmp_path, "-j", "2")
        assert one.stdout == two.stdout
        assert one.returncode == two.returncode == 1
        assert document(ckpt("verify", tmp_path, "--json")) == document(ckpt("verify", tmp_path, "--json", "-j", "2"))

    def test_python_of_another_environment_names_the_target(self, write: Write, ckpt: Run, tmp_path: Path) -> None:
        other = tmp_path / "python"
        other.write_text("#!/bin/sh\necho '[{}, \"8.4.7\"]'\n")
        other.chmod(0o755)
        if os.name != "posix":
            pytest.skip("a shell script stands for the other interpreter")
        (entry,) = document(ckpt("verify", write(ultralytics_checkpoint()), "--json", "--python", other))["files"]
        assert (entry["target"], entry["target_source"]) == ("ultralytics==8.4.7", "installed")

    def test_version_and_help(self, ckpt: Run) -> None:
        assert ckpt("--version").stdout == f"ckpt {ckpt_tools.__version__}\n"
        for arguments in (["--help"], ["verify", "--help"], ["inspect", "-h"], ["explain", "-h"]):
            run = ckpt(*arguments)
            assert run.returncode == 0
            assert "Usage" in run.stdout


class TestExplain:
    @pytest.mark.parametrize("entry", CATALOGUE, ids=lambda entry: entry.slug)
    def test_meaning_reason_and_cure_are_printed(self, entry: Any, capsys: pytest.CaptureFixture[str]) -> None:
        from ckpt_tools.cli.explain import explain

        assert explain(entry.code) == 0
        output = capsys.readouterr().out
        assert entry.slug in output
        assert "Next: " in output
        assert " ".join(output.split()).count(" ".join(entry.explanation.split())) == 1
        assert "{" not in output

    def test_code_and_slug_in_any_case_are_the_same(self, ckpt: Run) -> None:
        outputs = {ckpt("explain", text).stdout for text in ("CKPT104", "ckpt104", "checksum-mismatch")}
        assert len(outputs) == 1

    def test_unknown_code_suggests_a_near_one(self, ckpt: Run) -> None:
        run = ckpt("explain", "checksum-mismach")
        assert run.returncode == 2
        assert "did you mean checksum-mismatch" in run.stderr

    def test_without_a_code_all_are_listed(self, ckpt: Run) -> None:
        lines = ckpt("explain").stdout.splitlines()
        assert [line.split()[0] for line in lines] == [entry.code for entry in CATALOGUE]


class TestGoldens:
    """Text people read and scripts grep: a change of it is a decision. ``CKPT_GOLDENS=write`` writes them anew."""

    CASES: dict[str, list[str]] = {
        "verify-interrupted": ["verify", "interrupted.pt", "--target", "ultralytics==8.4.190"],
        "verify-finished": ["verify", "finished.pt", "--target", "ultralytics==8.4.190"],
        "verify-no-optimizer": ["verify", "no-optimizer.pt", "--target", "ultralytics==8.4.190"],
        "verify-nan": ["verify", "nan.pt"],
        "verify-weights": ["verify", "weights.pt"],
        "verify-cut": ["verify", "cut.pt"],
        "verify-flipped": ["verify", "flipped.pt"],
        "verify-zero-tailed": ["verify", "zero-tailed.pt"],
        "verify-web-page": ["verify", "web-page.pt"],
        "verify-hostile": ["verify", "hostile.pt"],
        "verify-folder": ["verify", "folder", "--target", "ultralytics==8.4.190"],
        "verify-json": ["verify", "nan.pt", "--json"],
        "inspect": ["inspect", "interrupted.pt"],
        "inspect-tree": ["inspect", "interrupted.pt", "--tree"],
        "inspect-tensors": ["inspect", "weights.pt", "--tensors"],
        "inspect-stats": ["inspect", "weights.pt", "bias", "--tensors", "--stats"],
        "inspect-args": ["inspect", "interrupted.pt", "--args"],
        "inspect-globals": ["inspect", "hostile.pt", "--globals"],
        "inspect-web-page": ["inspect", "web-page.pt"],
        "explain": ["explain", "CKPT104"],
    }

    @pytest.mark.parametrize("case", CASES)
    def test_output_is_as_agreed(self, case: str, write: Write, ckpt: Run, tmp_path: Path) -> None:
        self.make_files(write)
        arguments = self.CASES[case]
        run = ckpt(*arguments)
        text = f"$ ckpt {' '.join(arguments)}\n{run.stdout}{run.stderr}(exit {run.returncode})\n"
        text = text.replace(str(tmp_path), "DIR").replace("\\", "/")
        golden = GOLDENS / f"{case}.txt"
        if os.environ.get("CKPT_GOLDENS") == "write":
            golden.parent.mkdir(exist_ok=True)
            golden.write_text(text, encoding="utf-8")
        assert text == golden.read_text(encoding="utf-8")

    def test_there_is_no_golden_without_a_case(self) -> None:
        assert {path.stem for path in GOLDENS.glob("*.txt")} == set(self.CASES)

    @staticmethod
    def make_files(write: Write) -> None:
        for name in ("interrupted", "finished", "no-optimizer", "nan", "weights", "cut", "zero-tailed", "web-page"):
            write(FILES[name][0], f"{name}.pt")
            write(FILES[name][0], f"folder/{name}.pt")
        write(SAMPLES["zip_member"]("canary"), "hostile.pt")
        whole = read_checkpoint(BytesSource(GOOD))
        write(flip(GOOD, storage_member(whole, "2").offset), "flipped.pt")

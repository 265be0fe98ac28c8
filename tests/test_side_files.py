"""What lies around a checkpoint comes from anywhere: pipes, bombs, endless files, other people's code, odd paths."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from building import (
    GOOD_PICKLE,
    Called,
    Raw,
    Tensor,
    detector,
    integer,
    items,
    name,
    pickled,
    plain_checkpoint,
    saved,
    saved_legacy,
    stripped_checkpoint,
    text,
    torch_zip,
    ultralytics_checkpoint,
)
from conftest import Run, Verify, Write
from test_imports import MODULES

from ckpt_tools.checks import machine
from ckpt_tools.checks.context import release
from ckpt_tools.configs import parse_setting, read_config, read_settings
from ckpt_tools.findings import CkptError, Verdict, as_text, escape
from ckpt_tools.runs import read_results, results_of
from ckpt_tools.sidefiles import json_of, read_small, read_table, yaml_of
from ckpt_tools.source import FileSource
from ckpt_tools.verbs.verify import verify

needs_pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
HUGE = Raw(b"\x8b" + (3000).to_bytes(4, "little") + b"\x7f" * 3000)  # an integer of 7,223 digits
PATIENCE = 60  # seconds after which a command hangs


def nested(opened: bytes, closed: bytes, depth: int) -> Raw:
    """Containers inside each other."""
    return Raw(opened * depth + closed * (depth - 1))


TUPLES = Raw(b")" + b"\x85" * 4000)


class TestOneOpener:
    READERS: Mapping[str, Callable[[Path], object]] = {
        "settings": read_settings,
        "configuration": lambda path: read_config([str(path)]),
        "epochs": read_results,
        "table": lambda path: list(read_table(path)),
        "bytes": read_small,
        "source": lambda path: FileSource(path).close(),
    }

    @needs_pipes
    @pytest.mark.parametrize("reader", READERS)
    def test_a_pipe_is_refused_and_not_waited_for(self, reader: str, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(CkptError, match="not a regular file"):
            self.READERS[reader](tmp_path / "pipe")

    @pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="this system has no endless device")
    @pytest.mark.parametrize("reader", READERS)
    def test_a_device_is_refused(self, reader: str) -> None:
        with pytest.raises(CkptError, match="not a regular file"):
            self.READERS[reader](Path("/dev/zero"))

    @pytest.mark.parametrize("reader", [reader for reader in READERS if reader != "source"])
    def test_a_file_of_any_size_is_refused_unread(self, reader: str, tmp_path: Path) -> None:
        with (tmp_path / "large").open("wb") as file:
            file.truncate(1 << 40)
        with pytest.raises(CkptError, match="too large"):
            self.READERS[reader](tmp_path / "large")

    def test_a_file_that_comes_slowly_is_given_up(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "slow.yaml").write_text("a: 1\n")
        clock = iter(range(0, 10**6, 25))
        monkeypatch.setattr("ckpt_tools.sidefiles.time.monotonic", lambda: next(clock))
        with pytest.raises(CkptError, match="within 20 seconds"):
            list(read_table(tmp_path / "slow.yaml"))

    # Who opens files besides the opener itself: to write, to lock, or the package's own data.
    OPENING = {
        "source",
        "placing",
        "plans.apply",
        "runs.sharing",
        "runs.ring",
        "training.writing",
        "layouts.ultralytics",
    }
    PARSING = {"sidefiles", "container.safetensors", "layouts.ultralytics"}

    @pytest.mark.parametrize("module", sorted(module for module, (room, _) in MODULES.items() if room != "cli"))
    def test_nobody_else_opens_or_parses_files(self, module: str) -> None:
        called = {ast.unparse(node.func) for node in ast.walk(MODULES[module][1]) if isinstance(node, ast.Call)}
        last = {entry.rpartition(".")[2] for entry in called} - {"open_source"}
        opened = {entry for entry in called if entry in ("open", "io.open", "os.open", "io.FileIO", "codecs.open")}
        opened |= last & {"read_text", "read_bytes", "write_text"} | {e for e in called if e.endswith("path.open")}
        parsed = called & {"json.load", "json.loads", "csv.reader", "csv.DictReader", "yaml.load", "yaml.parse"}
        parsed |= last & {"safe_load", "safe_load_all"}
        assert not opened or module in self.OPENING
        assert not parsed or module in self.PARSING

    @pytest.mark.parametrize("module", sorted(name for name, (room, _) in MODULES.items() if room != "training"))
    def test_no_path_is_asked_in_a_way_that_can_raise(self, module: str) -> None:
        """``Path("~nobody").expanduser()`` raises, and so does ``Path("x" * 5000).exists()``; ``os.path`` does not."""
        asked = {
            node.func.attr
            for node in ast.walk(MODULES[module][1])
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and not node.args
        }
        assert not asked & {"expanduser", "exists", "is_dir", "resolve", "samefile"}
        assert "is_file" not in asked or module in ("runs.folders", "runs.ring")  # of entries of a folder


class TestYaml:
    BOMBS: Mapping[str, str] = {
        "merged": "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 40)),
        "listed": "a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 39)),
        "itself": "a: &a {b: *a}",
        "long": f"a: [{'0,' * 300_000}]",
        "wide": "".join(f"k{number}:\n" for number in range(300_000)),
        "deep": "a: " + "[" * 5000 + "]" * 5000,
        "directives": "".join(f"%TAG !a{number}! b\n" for number in range(200_000)) + "--- a",
        "digits": "a: 0x" + "f" * 5000,
        "sixties": "a: 1" + ":1" * 5000,
    }

    @pytest.mark.parametrize("bomb", BOMBS)
    def test_a_bomb_is_refused_before_anything_is_made_of_it(self, bomb: str, tmp_path: Path) -> None:
        (tmp_path / "args.yaml").write_text(self.BOMBS[bomb])
        tracemalloc.start()
        with pytest.raises(CkptError, match=r"too (many|much|deep|long)|nesting depth"):
            read_settings(tmp_path / "args.yaml")
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
        tracemalloc.stop()

    @pytest.mark.parametrize(
        "content",
        ["!!bool x", "!!int ''", "!!float ''", "!!timestamp x", "!!omap [1]", "? [1]\n: 2", "0b"],
    )
    def test_what_has_the_wrong_tag_is_no_yaml(self, content: str, tmp_path: Path) -> None:
        (tmp_path / "args.yaml").write_text(f"a: {content}" if content[0] != "?" else content)
        if content == "0b":
            assert read_settings(tmp_path / "args.yaml") == {"a": "0b"}
            return
        with pytest.raises(CkptError, match="can't be read as YAML"):
            read_settings(tmp_path / "args.yaml")

    def test_ordinary_aliases_and_merges_are_read(self) -> None:
        assert yaml_of("a: &a {x: 1}\nb: {<<: *a, y: [*a, *a]}") == {
            "a": {"x": 1},
            "b": {"x": 1, "y": [{"x": 1}, {"x": 1}]},
        }

    def test_the_parser_in_python_is_bounded_as_well(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr("yaml.CSafeLoader", raising=False)
        assert yaml_of("a: [1, 2]") == {"a": [1, 2]}
        with pytest.raises(ValueError, match="too many"):
            yaml_of(self.BOMBS["merged"])

    @pytest.mark.parametrize("value", ["{[]: 1}", "{{}: 1}", "{1: {[1]: 2}}"])
    def test_a_typed_value_that_can_be_no_key(self, value: str) -> None:
        with pytest.raises(CkptError, match="can't be read"):
            parse_setting(f"a={value}")

    def test_a_typed_integer_beyond_all_bounds_stays_text(self) -> None:
        assert parse_setting("a=0x" + "f" * 5000)[1] == "0x" + "f" * 5000

    def test_json_too_deep_to_be_walked_is_refused(self) -> None:
        assert json_of('{"a": [1]}') == {"a": [1]}
        for depth in (250, 100_000):
            with pytest.raises(ValueError, match="too deep"):
                json_of("[" * depth + "]" * depth)


class TestResults:
    @pytest.mark.parametrize("epoch", ["1e999", "nan", "-inf", "1e300", "-1", "9" * 5000, "x"])
    def test_an_epoch_no_training_reaches(self, epoch: str, write: Write) -> None:
        path = write(f"epoch, loss\n1, 2\n{epoch}, 1\n".encode(), "results.csv")
        with pytest.raises(CkptError, match="no results.csv"):
            read_results(path)
        with pytest.raises(CkptError, match="no results.csv"):
            results_of(path)

    def test_a_table_is_read_row_by_row(self, write: Write) -> None:
        path = write(b"epoch,a,b,c\n" + b"".join(b"%d,1,2,3\n" % number for number in range(1, 200_000)), "results.csv")
        tracemalloc.start()
        assert read_results(path) == 199_998
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
        tracemalloc.stop()

    def test_a_vast_table_is_none_to_keep(self, write: Write) -> None:
        row = b",".join([b"1"] * 2000)
        names = b",".join(b"c%d" % number for number in range(2000))
        path = write(b"epoch," + names + b"\n" + b"".join(b"%d,%s\n" % (n, row) for n in range(1, 600)), "results.csv")
        with pytest.raises(CkptError, match="more than"):
            results_of(path)
        assert read_results(path) == 598

    @pytest.mark.parametrize("content", [b"epoch,a\n1," + b"x" * (2 << 20), b'epoch\n"a' + b'\n","a' * 600_000])
    def test_a_row_without_end(self, content: bytes, write: Write) -> None:
        with pytest.raises(CkptError, match="a row of more than"):
            read_results(write(content, "results.csv"))

    def test_tables_of_spreadsheets(self, write: Write) -> None:
        path = write(b"\xef\xbb\xbfepoch;a\r\n".replace(b";", b",") + b"1,0.5\r\n2,nope\r\n", "results.csv")
        assert results_of(path) == {0: {"epoch": 1.0, "a": 0.5}, 1: {"epoch": 2.0}}


@needs_pipes
class TestPipesWithEveryCommand:
    """Pipes under the names that commands look for by themselves: nothing waits for a writer."""

    COMMANDS: Mapping[str, tuple[list[str], set[int]]] = {
        "verify": (["verify", "run/weights/last.pt", "--here"], {0, 1}),
        "prune": (["prune", "run", "--keep-last", "1", "--dry-run"], {0}),
        "latest": (["latest", "run"], {0}),
        "repair": (["repair", "run/weights/last.pt", "--dry-run", "--epoch-from", "run/results.csv"], {2}),
        "args": (["repair", "run/weights/last.pt", "--dry-run", "--args-from", "run/args.yaml"], {2}),
        "donor": (["repair", "run/weights/last.pt", "--dry-run", "--optimizer-from", "pipe.pt"], {2}),
        "yaml": (["diff", "run/weights/last.pt", "run/args.yaml"], {2}),
        "other": (["diff", "run/weights/last.pt", "pipe.pt"], {2}),
        "data": (["diff", "run/weights/last.pt", "data=data.yaml"], {0, 1}),
        "model": (["diff", "run/weights/last.pt", "model=run/args.yaml"], {0, 1}),
        "file": (["inspect", "pipe.pt"], {2}),
        "convert": (["convert", "pipe.pt", "--scrub"], {2}),
    }

    @pytest.mark.parametrize("command", COMMANDS)
    def test_it_ends(self, command: str, write: Write, tmp_path: Path, environment: Mapping[str, str]) -> None:
        args = {"epochs": 5, "optimizer": "SGD", "data": str(tmp_path / "data.yaml")}
        write(ultralytics_checkpoint(train_args=args), "run/weights/last.pt")
        for pipe in ("run/results.csv", "run/args.yaml", "data.yaml", "pipe.pt", "run/weights/results.csv"):
            os.mkfifo(tmp_path / pipe)
        arguments, codes = self.COMMANDS[command]
        done = subprocess.run(
            [sys.executable, "-m", "ckpt_tools", *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode in codes, done.stderr

    def test_a_stripped_file_beside_a_pipe(self, write: Write, tmp_path: Path, ckpt: Run) -> None:
        write(stripped_checkpoint(train_results=None), "run/weights/last.pt")
        os.mkfifo(tmp_path / "run/results.csv")
        done = ckpt("repair", "run/weights/last.pt", "--reinit", "optimizer", "--set", "epochs=9", "--dry-run")
        assert done.returncode == 1
        assert "--epoch" in done.stdout


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with modules that leave a canary where one of them is imported."""
    canary = tmp_path / "canary"
    for module in ("json", "typing", "typer", "importlib", "sitecustomize", "email", "yaml", "numpy"):
        (tmp_path / f"{module}.py").write_text(f"open({str(canary)!r}, 'w').close()\nraise ImportError('{module}')\n")
    monkeypatch.chdir(tmp_path)
    return canary


class TestAnotherPython:
    @pytest.fixture
    def python(self, tmp_path: Path) -> str:
        """An interpreter under another name than ours."""
        if os.name == "nt":
            pytest.skip("links to an interpreter need a right of its own here")
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "python-of-training").symlink_to(sys.executable)
        machine._ask.cache_clear()
        return str(tmp_path / "bin" / "python-of-training")

    @pytest.mark.parametrize("path", ["", os.pathsep, ".", os.pathsep + "{extra}", "{here}"])
    def test_nothing_is_imported_from_the_current_folder(
        self, path: str, python: str, trap: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "extra").mkdir()
        (tmp_path / "extra" / "its_own.py").touch()
        monkeypatch.setenv("PYTHONPATH", path.format(extra=tmp_path / "extra", here=tmp_path))
        found, _ = machine.installed_packages(["decimal", "no_such_package", "its_own"], python)
        assert found == {"decimal": True, "no_such_package": False, "its_own": "{extra}" in path}
        assert not trap.exists()

    def test_a_relative_path_is_from_where_we_are(self, python: str, trap: Path) -> None:
        assert machine.installed_packages(["decimal"], "bin/python-of-training")[0] == {"decimal": True}

    def test_a_bare_name_is_looked_for_in_the_path_alone(
        self, python: str, trap: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", os.pathsep.join(["", ".", "bin"]))
        with pytest.raises(CkptError, match="--python"):
            machine.installed_packages(["decimal"], "python-of-training")
        monkeypatch.setenv("PATH", os.path.dirname(python))
        assert machine.installed_packages(["decimal"], "python-of-training")[0] == {"decimal": True}

    def test_it_is_asked_for_any_number_of_packages(self, python: str) -> None:
        names = [f"no_such_package_of_a_rather_long_name_{number}" for number in range(8000)]
        assert machine.installed_packages(names, python)[0] == dict.fromkeys(names, False)

    def test_a_file_that_names_thousands_of_packages(self, python: str, verified: Verify) -> None:
        named = [Called(f"no_such_{number}", "thing") for number in range(8000)]
        report = verified(plain_checkpoint(extra=named), here=True, python=python)
        assert report.verdict is Verdict.INCOMPLETE
        assert "package-missing" in {fact.slug for fact in report.findings}

    def test_what_is_no_interpreter_is_an_error(self, tmp_path: Path, python: str) -> None:
        for odd in ("/no/such/python", str(tmp_path), "no such python", "~nosuchuser/python", "x" * 5000):
            with pytest.raises(CkptError, match="--python"):
                machine.installed_packages(["decimal"], odd)


def test_names_with_dots_are_not_looked_for(trap: Path) -> None:
    """``find_spec("a.b")`` imports ``a``."""
    assert machine.installed_packages(["sitecustomize.x", "decimal"], None)[0] == {"decimal": True}
    assert machine.installed_version("sitecustomize.x") is None
    assert not trap.exists()


def test_running_as_a_module_imports_nothing_from_the_current_folder(
    write: Write, tmp_path: Path, environment: Mapping[str, str]
) -> None:
    path = write(ultralytics_checkpoint())
    for module in ("json", "typer", "yaml", "numpy", "isal"):
        (tmp_path / f"{module}.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w').close()\n")
    command = [sys.executable, "-m", "ckpt_tools", "verify", str(path), "--json"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "canary").exists()


ODD_PATHS = ["~nosuchuser/x", "x" * 5000, "x/" * 3000, "a\0b", "\ud800", "~", ""]


class TestPathsFromFiles:
    @pytest.mark.parametrize("odd", ODD_PATHS)
    @pytest.mark.parametrize("key", ["data", "save_dir", "model", "project"])
    def test_any_saved_path_gets_a_verdict(self, key: str, odd: str, verified: Verify) -> None:
        args = {"epochs": 5, "optimizer": "SGD", "data": "coco8.yaml", key: odd}
        report = verified(ultralytics_checkpoint(train_args=args), here=True, quick=True)
        assert report.verdict in (Verdict.RESUMABLE, Verdict.INCOMPLETE)

    @pytest.mark.parametrize("odd", ODD_PATHS)
    def test_any_path_can_be_compared(self, odd: str, write: Write, tmp_path: Path) -> None:
        from ckpt_tools import diff

        path = write(ultralytics_checkpoint(train_args={"epochs": 5, "optimizer": "SGD", "data": odd, "save_dir": odd}))
        for key in ("data", "model", "resume", "save_dir"):
            assert diff(path, {key: odd, "epochs": 7}, here=True).verdict is not None
        assert diff(path, {"path": odd, "train": odd, "val": [odd], "names": ["a", "b"]}, kind="data", here=True)

    @pytest.mark.parametrize("odd", ["~nosuchuser", "~nosuchuser/x.pt", "x" * 5000, "loop"])
    @pytest.mark.parametrize(
        "arguments",
        [
            ["verify", "ODD"],
            ["inspect", "ODD"],
            ["repair", "ODD"],
            ["repair", "last.pt", "--from", "ODD"],
            ["repair", "last.pt", "--args-from", "ODD"],
            ["convert", "ODD", "--scrub", "--in-place"],
            ["convert", "last.pt", "--scrub", "--out-dir", "ODD", "--dry-run"],
            ["diff", "ODD", "epochs=3"],
            ["diff", "last.pt", "ODD"],
            ["latest", "ODD"],
            ["prune", "ODD", "--keep-last", "1"],
            ["watch", "last.pt", "--into", "ODD"],
        ],
        ids=" ".join,
    )
    def test_a_path_nobody_has_is_an_error_that_names_it(
        self, arguments: list[str], odd: str, write: Write, tmp_path: Path
    ) -> None:
        from typer.testing import CliRunner

        from ckpt_tools.cli.app import app

        write(ultralytics_checkpoint())
        if odd == "loop":
            (tmp_path / "loop").symlink_to("loop")
        before = os.getcwd()
        os.chdir(tmp_path)
        try:
            result = CliRunner().invoke(app, [odd if word == "ODD" else word for word in arguments])
        finally:
            os.chdir(before)
        assert result.exit_code in (0, 1, 2) if "--dry-run" in arguments else (1, 2), result.output
        assert "bug" not in result.output


class TestNumbersFromFiles:
    ODD: Mapping[str, Any] = {"inf": float("inf"), "nan": float("nan"), "huge": HUGE, "2**1023": 2**1000, "minus": -1}

    @pytest.mark.parametrize("odd", ODD)
    @pytest.mark.parametrize(
        "command",
        [
            ["verify", "--here", "--quick"],
            ["inspect", "--json"],
            ["inspect", "--tree", "--args"],
            ["repair", "--dry-run", "--set", "epochs=9", "--set", "batch=8"],
            ["repair", "--dry-run", "--reinit", "optimizer"],
            ["convert", "--scrub", "--portable", "--device", "cuda:1", "--dry-run", "--to", "legacy"],
            ["diff", "batch=8", "nbs=32", "imgsz=640", "lr0=1", "device=1"],
        ],
        ids=" ".join,
    )
    def test_any_number_anywhere(self, command: list[str], odd: str, write: Write) -> None:
        from typer.testing import CliRunner

        from ckpt_tools.cli.app import app

        value = self.ODD[odd]
        keys = ("epochs", "batch", "nbs", "lr0", "lrf", "imgsz", "device", "close_mosaic", "weight_decay", "patience")
        args = {"optimizer": "SGD", "data": "coco8.yaml", **dict.fromkeys(keys, value)}
        model = detector(stride=[value], nc=value)
        changes = dict.fromkeys(("epoch", "updates", "best_fitness"), value) | {"odd": {HUGE: value}}
        content = ultralytics_checkpoint(train_args=args, ema=model, train_metrics={"fitness": value}, **changes)
        path = write(content)
        result = CliRunner().invoke(app, [command[0], str(path), *command[1:]])
        assert result.exit_code in (0, 1, 2, 3), result.output
        assert "bug" not in result.output

    @pytest.mark.parametrize("version", ["²", "8.²", "٣.1", "9" * 5000, ""])
    def test_any_version(self, version: str, verified: Verify) -> None:
        assert all(isinstance(number, int) for number in release(version))
        assert verified(ultralytics_checkpoint(version)).verdict is not None

    def test_what_can_not_be_written_is_told_in_words(self) -> None:
        long = (1 << 20_000,)
        deep: Any = ()
        for _ in range(100_000):
            deep = (deep,)
        assert as_text(1 << 20_000) == "<integer of 20001 bits>"
        assert as_text(long) == as_text(deep) == escape(long) == "<tuple>"


def storage(key: Any = "0", count: Any = 4, location: Any = "cpu") -> Raw:
    """A tensor of four values whose storage is named by these parts."""
    from building import BINPERSID, FALSE, ORDERED_DICT, Writer, call, shape_of

    parts = (text("storage"), name("torch", "FloatStorage"), *map(Writer().value, (key, location, count)))
    more = (integer(0), shape_of(2, 2), shape_of(2, 1), FALSE, call(ORDERED_DICT))
    return Raw(call(name("torch._utils", "_rebuild_tensor_v2"), items(*parts) + BINPERSID, *more))


class TestStoragesOfAnyName:
    ODD: Mapping[str, list[Raw]] = {
        "a negative count": [storage(), storage(count=-1)],
        "a count beyond all bounds": [storage(), storage(count=HUGE)],
        "a count that is text": [storage(), storage(count="4")],
        "another count": [storage(), storage(count=3)],
        "keys of two kinds": [storage(), storage(0), storage("1"), storage(1)],
        "a key that is None": [storage(), storage(None)],
        "a key of thousands of digits": [storage(), storage(HUGE)],
        "a text of thousands of digits": [storage(), storage("9" * 5000)],
        "a location that is none": [storage(), storage(location=None)],
    }

    @pytest.mark.parametrize("odd", ODD)
    @pytest.mark.parametrize(
        "options", [["--to", "legacy"], ["--to", "safetensors"], ["--device", "cuda:1"], ["--scrub"]], ids=" ".join
    )
    def test_a_conversion_is_done_or_refused(self, options: list[str], odd: str, write: Write, tmp_path: Path) -> None:
        from building import FOUR_FLOATS, Member, Writer
        from typer.testing import CliRunner

        from ckpt_tools.cli.app import app

        weights = {f"w{number}": tensor for number, tensor in enumerate(self.ODD[odd])}
        body = pickled(Writer().value({"model_state_dict": weights, "path": "/home/me/x"}), 2)
        path = write(torch_zip(body, Member("archive/data/1", FOUR_FLOATS)))
        out = tmp_path / "out"
        result = CliRunner().invoke(app, ["convert", str(path), *options, "--accept-loss", "-o", str(out)])
        assert result.exit_code in (0, 1, 2), result.output
        assert "bug" not in result.output
        assert out.exists() == (result.exit_code == 0)
        if out.exists() and "safetensors" not in options:
            assert verify(out).verdict is not Verdict.DAMAGED


class TestFilesWithoutAGraph:
    WITHOUT: Mapping[str, bytes] = {
        "no pickle": torch_zip(GOOD_PICKLE).replace(b"data.pkl", b"data.xyz"),
        "an empty pickle": torch_zip(b""),
        "a pickle of nothing": torch_zip(pickled(b"N", 2)),
        "cut in its head": saved(plain_checkpoint())[:300],
        "an old stream, cut": saved_legacy(plain_checkpoint())[:60],
        "zeros": bytes(5000),
    }

    @pytest.mark.parametrize("file", WITHOUT)
    @pytest.mark.parametrize("options", [[], ["--dry-run"], ["--dry-run", "--epoch", "3", "--reinit", "optimizer"]])
    def test_a_repair_says_why_it_can_not(self, options: list[str], file: str, write: Write) -> None:
        from typer.testing import CliRunner

        from ckpt_tools.cli.app import app

        result = CliRunner().invoke(app, ["repair", str(write(self.WITHOUT[file])), *options])
        assert result.exit_code == 1, result.output
        assert "nothing was written" in result.output


class TestScrub:
    def scrubbed(self, write: Write, tmp_path: Path, **extra: Any) -> str:
        from ckpt_tools import Conversion, plan_convert

        path = write(plain_checkpoint(at="/home/me/data", **extra))
        with plan_convert(path, Conversion(scrub=True), tmp_path / "out.pt") as made:
            made.apply()
        return (tmp_path / "out.pt").read_bytes().decode("latin-1")

    def test_tuples_in_tuples(self, write: Write, tmp_path: Path) -> None:
        secret = Raw(text("/home/me/secret") + b"\x85" * 4000)
        assert "/home/me" not in self.scrubbed(write, tmp_path, deep=TUPLES, hidden=secret)

    def test_tuples_that_are_shared_many_times_over(self, write: Write, tmp_path: Path) -> None:
        first = text("/home/me/secret") + b"\x85\x94"
        places = [bytes([number]) for number in range(200)]
        shared = first + b"".join(b"h" + place + b"h" + place + b"\x86\x94" for place in places[1:100])
        shared = b"](\x8c\x00\x94" + shared + b"e"
        assert "/home/me" not in self.scrubbed(write, tmp_path, shared=Raw(shared))

    @pytest.mark.parametrize("depth", [150, 450, 3000])
    def test_json_in_json(self, depth: int, write: Write, tmp_path: Path) -> None:
        nest = '{"at":' * depth + '"/home/me/secret"' + "}" * depth
        assert "/home/me" not in self.scrubbed(write, tmp_path, nest=nest)

    @pytest.mark.parametrize("piece", ["x", "a.", "x-", "1.", "http://", "_token", "a+"])
    def test_long_texts_are_searched_in_one_go(self, piece: str) -> None:
        """Each of these took minutes where a pattern looked to the end of the text from every place in it."""
        from ckpt_tools.conversions.scrub import cleaned

        assert cleaned(piece * 100_000 + " /home/me/x").endswith(" ~/x")


class TestStats:
    def stats(self, write: Write, tensor: Tensor, **how: Any) -> Any:
        import ckpt_tools

        with ckpt_tools.open(write(saved({"w": tensor}, **how))) as opened:
            return opened["w"].stats(), opened["w"].numpy()

    def test_a_large_tensor_takes_the_memory_of_a_tile(self, write: Write) -> None:
        from building import Storage

        import ckpt_tools

        path = write(saved({"w": Tensor((4 << 20, 2), Storage(bytes(32 << 20)))}))
        with ckpt_tools.open(path) as opened:
            tracemalloc.start()
            assert opened["w"].stats().zeros == 8 << 20
            assert tracemalloc.get_traced_memory()[1] < 12 << 20
            tracemalloc.stop()

    @pytest.mark.parametrize("deflated", [False, True])
    @pytest.mark.parametrize(
        ("shape", "stride", "offset"),
        [
            ((300_000,), (1,), 0),
            ((500, 600), (1, 500), 0),  # transposed
            ((100, 7), (1000, 13), 5),  # with gaps
            ((90_000, 3), (1, 1), 2),  # overlapping
            ((2, 3, 1), (150_000, 7, 1 << 62), 1),
        ],
    )
    def test_any_view_has_the_numbers_of_its_values(
        self, shape: tuple[int, ...], stride: tuple[int, ...], offset: int, deflated: bool, write: Write
    ) -> None:
        import numpy as np
        from building import Storage

        data = np.random.default_rng(0).normal(3, 2, 300_000).astype("<f4")
        data[7::1000] = 0
        data[9::10_000] = np.nan
        tensor = Tensor(shape, Storage(data.tobytes()), stride=stride, offset=offset)
        found, values = self.stats(write, tensor, deflated=deflated)
        good = values[np.isfinite(values)].astype(np.float64)
        assert (found.count, found.nonfinite) == (values.size, values.size - good.size)
        assert (found.minimum, found.maximum, found.zeros) == (good.min(), good.max(), (good == 0).sum())
        assert (found.mean, found.std) == pytest.approx((good.mean(), good.std()), rel=1e-12)

    def test_a_view_that_repeats_its_values_too_often(self, write: Write) -> None:
        from building import Storage

        with pytest.raises(CkptError, match="too often"):
            self.stats(write, Tensor((1 << 20, 1 << 20), Storage(bytes(8 << 20)), stride=(1, 1)))

    @pytest.mark.parametrize("shape", [(0, 1 << 63), (1 << 63, 0)])
    def test_a_tensor_longer_than_any_array(self, shape: tuple[int, int], write: Write, ckpt: Run) -> None:
        write(saved({"model_state_dict": {"w": Tensor((2,)), "odd": Tensor(shape, [], stride=(1, 1))}}))
        assert ckpt("inspect", "last.pt", "--tensors", "--stats").returncode == 0

    def test_a_bomb_is_not_unpacked(self, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
        from building import Storage

        monkeypatch.setattr("ckpt_tools.container.members.MOST_UNPACKED", 1 << 20)
        monkeypatch.setattr("ckpt_tools.container.members.UNPACKED_RATIO", 10)
        with pytest.raises(CkptError, match="far more than the file's size"):
            self.stats(write, Tensor((8 << 20,), Storage(bytes(32 << 20))), deflated=True)

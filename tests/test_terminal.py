"""Nothing from a file, the file system or the command line reaches a terminal or a JSON document unescaped."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import typer
from building import Instance, Tensor, plain_checkpoint, stripped_checkpoint, ultralytics_checkpoint, weights
from conftest import Run, Write
from hostile_names import BYTES, UNSEEN

from ckpt_tools.cli import app as command_line
from ckpt_tools.cli import render
from ckpt_tools.findings import CkptError, escape
from ckpt_tools.findings.texts import unprintable
from ckpt_tools.verbs import inspect as looking

HOSTILE = "\x1b]0;owned\x07\x9b31m\u202egpj\u2066\u200b\ufeff\U000e0041\ue000\ud800\n\t\r[red]x[/red][link=http://x]"
COMMANDS = (
    "verify FILE", "verify FILE --json", "verify FILE --quick --trust BAD", "inspect FILE", "inspect FILE --json",
    "inspect FILE --tree --depth 9", "inspect FILE --tensors --stats", "inspect FILE --args",
    "inspect FILE --globals", "inspect FILE --tree --tensors --args --globals --json", "diff FILE GOOD",
    "diff FILE GOOD --values", "diff GOOD FILE", "diff FILE GOOD --format markdown", "diff FILE GOOD --format patch",
    "diff GOOD FILE --json", "diff GOOD YAML", "diff GOOD YAML --command", "diff GOOD YAML --format patch",
    "diff GOOD YAML --json", "diff FILE BAD", "repair FILE --dry-run", "repair FILE --json --dry-run",
    "repair GOOD --args-from YAML --dry-run", "repair GOOD --optimizer-from FILE --dry-run",
    "convert FILE --strip --dry-run", "convert FILE --to safetensors --dry-run", "convert FILE --scrub --dry-run",
    "convert FILE --scrub --dry-run --json", "prune . --keep-last 1 --dry-run",
    "prune . --keep-last 1 --dry-run --json", "latest .", "latest . --json", "latest BAD", "verify .", "explain BAD",
    "verify BAD", "inspect BAD", "BAD", "verify --BAD", "verify FILE --for BAD", "verify FILE --fail-on BAD",
    "verify FILE --target BAD", "diff FILE GOOD --as BAD", "repair FILE --epoch BAD", "repair FILE --cure BAD",
    "repair FILE --set BAD=1", "convert FILE --device BAD", "convert FILE --to BAD", "prune . --keep-best BAD:1",
    "prune . --keep-within BAD", "watch BAD --settle BAD", "watch FILE", "latest . --best BAD", "diff FILE a=1 b=BAD",
    "diff FILE BAD=1",
)  # fmt: skip


CKPT = typer.main.get_command(command_line.app)


def seen(text: str) -> None:
    """All of it can be seen; what is framed as rich frames usage errors is no less so."""
    odd = [line for line in text.split("\n") if unprintable(line)]
    assert odd == []


def called(*words: str) -> tuple[str, str]:
    """What a command prints, in this process."""
    streams = [io.TextIOWrapper(io.BytesIO(), "utf-8", "surrogatepass", newline="\n") for _ in range(2)]
    kept = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = streams
    try:
        with pytest.raises(SystemExit) as end:
            CKPT(list(words), prog_name="ckpt")
    finally:
        sys.stdout, sys.stderr = kept
    assert end.value.code in (0, 1, 2, 3, 70), words
    for stream in streams:
        stream.flush()
    out, err = (stream.buffer.getvalue().decode("utf-8", "surrogatepass") for stream in streams)
    return out, err


def hostile_content() -> dict[str, Any]:
    """Hostile text wherever a checkpoint has text."""
    return plain_checkpoint(
        **{
            "model_state_dict": weights(**{HOSTILE: Tensor((2,), float("nan"))}),
            HOSTILE: {HOSTILE: HOSTILE},
            "args": {HOSTILE: HOSTILE, "data": HOSTILE, "lr": HOSTILE, "save_dir": HOSTILE},
            "date": HOSTILE,
            "version": HOSTILE,
            "thing": Instance("odd\x1b[2Jpackage", "Thing\u202e", {HOSTILE: 1}),
            "ckpt_tools": {"tool": HOSTILE, "steps": [{"text": HOSTILE}], "parts": [{"path": HOSTILE}]},
        }
    )


FILES: dict[str, Any] = {
    "plain": hostile_content(),
    "ultralytics": ultralytics_checkpoint(
        version=HOSTILE, date=HOSTILE, git={"branch": HOSTILE, "origin": HOSTILE},
        train_args={"task": "detect", "epochs": 100, "data": HOSTILE, "save_dir": f"/{HOSTILE}", HOSTILE: HOSTILE},
    ),
    "damaged": b"PK\x03\x04" + HOSTILE.encode("utf-8", "surrogatepass") * 9,
}  # fmt: skip


@pytest.mark.skipif(os.name == "nt", reason="such names are not legal here")
@pytest.mark.parametrize("kind", FILES)
def test_whatever_a_file_holds_the_screen_shows_it_escaped(
    kind: str, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = "last\x1b[31m\u202e\n[red].pt"
    write(FILES[kind], name)
    write(ultralytics_checkpoint(epoch=3, train_args={"task": "detect", "epochs": 100}), "good.pt")
    (tmp_path / "conf\x1b.yaml").write_text(
        json.dumps({"data": HOSTILE, HOSTILE: HOSTILE, "lr0": 0.5, "epochs": HOSTILE})
    )
    places = {"FILE": name, "GOOD": "good.pt", "YAML": "conf\x1b.yaml"}
    typed = f"bad{HOSTILE}".replace("\ud800", "\udcff")  # a byte that is no UTF-8
    for line in COMMANDS:
        words = [places.get(word, word).replace("BAD", typed) for word in line.split(" ")]
        out, err = called(*words)
        seen(out)
        seen(err)
        if "--json" in words and out:
            encodable(json.loads(out))


def encodable(document: Any) -> None:
    """No lone surrogates, however deep."""
    json.dumps(document, ensure_ascii=False).encode("utf-8")


@pytest.mark.parametrize("text", UNSEEN, ids=ascii)
def test_what_is_not_seen_is_escaped(text: str) -> None:
    shown = escape(f"a{text}b")
    assert shown.isprintable()
    assert not unprintable(shown)
    assert "\\" in shown
    assert escape(shown) == shown


@pytest.mark.parametrize("text", ["模型 Ünïcödé", "e\u0301", "नमस्ते", "مرحبا", "😀", "a b", "\\x1b"])
def test_what_is_seen_stays(text: str) -> None:
    assert escape(text) == text


def test_an_error_is_fit_for_a_terminal_whoever_prints_it() -> None:
    assert str(CkptError("a\x1b[31m\n")) == r"a\x1b[31m\n"


def test_our_own_bugs_are_told_escaped(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise ValueError(f"odd {HOSTILE}")

    monkeypatch.setattr(looking, "overview", fails)
    path = str(write(stripped_checkpoint()))
    for debugging in ("", "1"):
        monkeypatch.setenv("CKPT_DEBUG", debugging)
        out, err = called("inspect", path)
        seen(out + err)
        assert "this is a bug in ckpt" in err
        assert ("Traceback" in err) == bool(debugging)
        assert r"\x1b]0;owned" in err


def test_errors_of_the_system_are_told_escaped(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise OSError(5, "broken\x1b", "a\x1b[31m\n")

    monkeypatch.setattr(looking, "overview", fails)
    seen("".join(called("inspect", str(write(stripped_checkpoint())))))


def test_a_progress_bar_shows_a_name_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    with render.progress_bar(1 << 30, "[red]a[/red]\x1b]0;b\x07") as progress:
        progress(1 << 29)
    assert isinstance(sys.stderr, Terminal)
    shown = sys.stderr.getvalue()
    assert r"[red]a[/red]\x1b]0;b\x07" in shown
    assert "\x1b]0;" not in shown


ASCII = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "LANG": "C"}
LOCALES: dict[str, dict[str, str]] = {
    "utf-8": {}, "ascii": ASCII, "cp1252": {**ASCII, "PYTHONIOENCODING": "cp1252"},
}  # fmt: skip


@pytest.mark.parametrize("locale", LOCALES)
def test_json_is_json_whatever_the_locale(locale: str, write: Write, ckpt: Run) -> None:
    write(FILES["plain"], "模型.pt")
    document = json.loads(ckpt("verify", ".", "--json", **LOCALES[locale]).stdout)
    assert Path(document["files"][0]["path"]).name == "模型.pt"
    encodable(document)


def test_what_a_locale_does_not_have_is_spelled_out(write: Write, ckpt: Run) -> None:
    write(stripped_checkpoint(), "模型.pt")
    assert "\\u6a21\\u578b.pt: finished" in ckpt("verify", "模型.pt", PYTHONIOENCODING="ascii").stdout
    assert " -> " in ckpt("diff", "模型.pt", "epochs=9", PYTHONIOENCODING="ascii").stdout


@pytest.mark.skipif(sys.platform != "linux", reason="file names are texts here")
def test_a_name_that_is_no_text(tmp_path: Path, environment: Mapping[str, str], write: Write) -> None:
    """JSON has its bytes as \\udcNN; what goes on into another program is the name itself."""
    whole = ultralytics_checkpoint(epoch=3, train_args={"task": "detect", "epochs": 100})
    for name in BYTES:
        write(whole, f"{os.fsdecode(name)}.pt")

    def run(*words: str) -> bytes:
        command = [sys.executable, "-m", "ckpt_tools", *words]
        env = {**environment, **ASCII}
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, timeout=60, check=False).stdout

    document = json.loads(run("verify", ".", "--json").decode("ascii"))
    encodable(document)
    shown = {f"{os.fsdecode(name).encode('utf-8', 'backslashreplace').decode()}.pt" for name in BYTES}
    assert {file["path"] for file in document["files"]} == shown
    assert run("latest") in {name + b".pt\n" for name in BYTES}

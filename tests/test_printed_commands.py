"""Commands that are printed name the very file, whatever it is called, and run nothing else when they are pasted."""

from __future__ import annotations

import ast
import contextlib
import errno
import io
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from building import Instance, plain_checkpoint, saved, stripped_checkpoint, ultralytics_checkpoint, weights
from conftest import FIXTURES, ROOT
from hostile_names import CANARY, TYPABLE, UNTYPABLE
from shells import BEGINNING, PROGRAMS, Posix, RanError, cmd, commands_in, powershell

from ckpt_tools.cli.app import app
from ckpt_tools.findings import CATALOGUE, CkptError, commands
from ckpt_tools.findings.commands import POSIX, WINDOWS, UntypableError, copying, filled, following, hint, remarked
from ckpt_tools.verbs.watch import Watcher, WatchOptions

NO_COMMAND = "no command can be given: "
FOUND = {os.path.realpath(place): name for name in ("sh", "zsh", "dash", "bash") if (place := shutil.which(name))}
SHELLS = sorted(FOUND.values())
posix_only = pytest.mark.skipif(os.name == "nt", reason="such names are not legal here")
TEMPLATES = (
    "ckpt verify {path}",
    "yolo train resume model={path}",
    "python train.py --resume {path} && ckpt verify {path}",
)


# --- one command ----------------------------------------------------------------------------------


def named(call: Sequence[str]) -> str:
    """The path the last word of a call names: without ``KEY=`` and the current folder before it."""
    return re.sub(r"\A\.[/\\]", "", call[-1].removeprefix("model=" if call[0] == "yolo" else ""))


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> Posix:
    return Posix(request.param, tmp_path / "shell")


@posix_only
def test_a_pasted_command_gets_the_very_name(shell: Posix, tmp_path: Path) -> None:
    room = tmp_path / "room"
    room.mkdir()
    names = [name for name in TYPABLE if len(os.fsencode(name)) < 250]
    lines = [filled(template, POSIX, path=Path(name)) for name in names for template in TEMPLATES]
    calls = shell.run(lines, room)
    assert len(calls) == 4 * len(names)
    assert [named(call) for call in calls] == [name for name in names for _ in range(4)]
    assert not any(call[-1].startswith(("-", "~")) for call in calls)
    assert [call[:-1] for call in calls[:4]] == [
        ["ckpt", "verify"], ["yolo", "train", "resume"], ["python", "train.py", "--resume"], ["ckpt", "verify"],
    ]  # fmt: skip


@pytest.mark.parametrize("reads", [cmd, powershell])
def test_a_command_for_windows_gets_the_very_name_or_is_none(reads: Callable[[str], list[list[str]]]) -> None:
    given = 0
    for name in TYPABLE:
        lines = [following(template, WINDOWS, path=Path(name)) for template in TEMPLATES]
        if lines[0].startswith(NO_COMMAND):
            assert re.search(r"[%$`\"\u201c\u201d\u201e]|\\\Z", name), name
            continue
        given += 1
        calls = [call for line in lines for call in reads(line)]
        assert [named(call) for call in calls] == [name] * 4, lines
    assert given > len(TYPABLE) / 2


@pytest.mark.parametrize("family", [POSIX, WINDOWS])
@pytest.mark.parametrize("template", TEMPLATES)
def test_a_name_that_cannot_be_typed_has_no_command(family: str, template: str) -> None:
    for name in UNTYPABLE:
        said = following(template, family, path=Path(name))
        assert said == f"{NO_COMMAND}the name cannot be typed, rename the file first", name
        assert hint(template, "{} says more", family, path=Path(name)) == said
        with pytest.raises(UntypableError):
            copying(Path("a"), Path(name), family)


def test_there_are_enough_hostile_names() -> None:
    assert len(TYPABLE) + len(UNTYPABLE) >= 200
    assert sum(CANARY in name for name in (*TYPABLE, *UNTYPABLE)) >= 40


@pytest.mark.parametrize(
    ("name", "posix", "windows"),
    [
        ("runs/last.pt", "runs/last.pt", "runs/last.pt"),
        ("my run/last.pt", "'my run/last.pt'", '"my run/last.pt"'),
        ("-x.pt", "./-x.pt", ".\\-x.pt"),
        ("~x", "'./~x'", '".\\~x"'),
        ("a'b", r"'a'\''b'", '"a\'b"'),
        ("a\\b", r"'a'\\'b'", "a\\b"),
        ("=x", "'=x'", '"=x"'),
    ],
)
def test_ordinary_names_stay_readable(name: str, posix: str, windows: str) -> None:
    assert filled("ckpt verify {path}", POSIX, path=Path(name)) == f"ckpt verify {posix}"
    assert filled("ckpt verify {path}", WINDOWS, path=Path(name)) == f"ckpt verify {windows}"


def test_places_that_are_part_of_a_name_are_not_filled() -> None:
    typed = filled("ckpt diff {a} {b} {rest} --x", POSIX, a=Path("{b}'"), b="{a}", rest=[])
    assert typed == r"ckpt diff '{b}'\''' '{a}' --x"


def test_a_word_that_is_no_path_keeps_its_dash() -> None:
    assert (
        filled("ckpt verify {path} --trust {package}", POSIX, path=Path("x"), package="-m")
        == "ckpt verify x --trust -m"
    )
    assert following("ckpt repair --set {value}", POSIX, value="a\n") == f"{NO_COMMAND}a value in it cannot be typed"


def test_a_command_no_shell_takes_is_none() -> None:
    assert "too long" in following("ckpt verify {path}", POSIX, path=Path("x" * 9000))


def test_windows_copies_with_its_own_command_and_knows_no_remarks() -> None:
    assert copying(Path("a b"), Path("-c"), WINDOWS) == 'copy "a b" .\\-c'
    with pytest.raises(UntypableError, match="pattern"):
        copying(Path("a[1].pt"), Path("b"), WINDOWS)
    assert remarked("ckpt x", "why", POSIX) == "ckpt x   # why"
    assert remarked("ckpt x", "why", WINDOWS) == "ckpt x"


@pytest.mark.parametrize(
    "line",
    ['ckpt "a', "ckpt %PATH%", "ckpt a & b", "ckpt a|b", 'ckpt "a"b&c'],
)
def test_the_rules_of_cmd_notice_what_is_not_quoted(line: str) -> None:
    with pytest.raises(AssertionError):
        cmd(line)


@pytest.mark.parametrize(
    "line",
    [
        'ckpt "a',
        'ckpt "$env:X"',
        "ckpt $x",
        'ckpt "a`b"',
        "ckpt a;b",
        "ckpt (x)",
        'ckpt "a"b',
        'ckpt "\u201d; x \u201c"',
        "ckpt -x.pt",
    ],
)
def test_the_rules_of_powershell_notice_what_is_not_quoted(line: str) -> None:
    with pytest.raises(AssertionError):
        powershell(line)


def test_the_rules_of_windows_agree_with_known_lines() -> None:
    assert cmd(r'a "b c" d\e "f\\" "g""h" i\"j') == [["a", "b c", "d\\e", "f\\", 'g"h', 'i"j']]
    assert powershell("a 'b $x' \"c d\" e=f && g") == [["a", "b $x", "c d", "e=f"], ["g"]]


@posix_only
def test_the_stand_ins_notice_what_is_run(shell: Posix, tmp_path: Path) -> None:
    room = tmp_path / "room"
    room.mkdir()
    with pytest.raises(RanError):
        shell.run(["ckpt verify $(touch canary)"], room)


def test_every_remedy_of_the_catalogue_can_be_filled() -> None:
    given: dict[str, str | Path] = {name: Path(f"{name} x") for name in ("path", "folder", "sibling")}
    given |= {"version": "1 2", "trust": "x y"}
    for entry in CATALOGUE:
        typed = filled(entry.remedy, POSIX, **given)
        assert "{" not in typed, entry.slug
        assert not BEGINNING.match(entry.remedy) or typed != entry.remedy or entry.slug == "needs-dill"


# --- every command there is -----------------------------------------------------------------------


CKPT = typer.main.get_command(app)


def told(*arguments: str) -> tuple[str, str]:
    """What a command says on stdout and stderr."""
    streams = [io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace", newline="\n") for _ in range(2)]
    with (
        contextlib.redirect_stdout(streams[0]),
        contextlib.redirect_stderr(streams[1]),
        pytest.raises(SystemExit) as end,
    ):
        CKPT(list(arguments), prog_name="ckpt")
    for stream in streams:
        stream.flush()
    out, err = (stream.buffer.getvalue().decode("utf-8") for stream in streams)
    assert end.value.code in (0, 1, 2, 3), (arguments, out, err)
    return out, err


def made(content: Any) -> bytes:
    return content if isinstance(content, bytes) else saved(content)


UNKNOWN_CODE = plain_checkpoint(thing=Instance("my $(touch canary) package", "Thing", {"a": 1}))
CONTENTS: dict[str, bytes] = {
    "resumable": made(ultralytics_checkpoint(epoch=3, train_args={"task": "detect", "epochs": 100})),
    "damaged": made(ultralytics_checkpoint())[:-200],
    "stripped": made(stripped_checkpoint()),
    "over": made(ultralytics_checkpoint(epoch=99, train_args={"task": "detect", "epochs": 100})),
    "foreign": b"<html></html>",
    "plain": made(plain_checkpoint()),
    "unknown": made(UNKNOWN_CODE),
    "weights": made(weights()),
    "yolov5": (FIXTURES / "yolov5-7.0-interrupted.pt").read_bytes(),
}
# What is typed about a file of each kind; FILE is that file, GOOD and YAML lie beside it under plain names.
TYPED: dict[str, Sequence[str]] = {
    "resumable": (
        "verify FILE", "verify FILE --json", "verify FILE GOOD", "diff FILE epochs=200", "diff FILE epochs=100",
        "diff FILE lr0=0.5 epochs=200 --command", "diff FILE YAML", "diff FILE YAML --for finetune --command",
        "diff FILE GOOD", "diff GOOD FILE", "repair FILE --dry-run", "repair FILE --set epochs=300",
        "repair FILE --set nosuch=1", "convert FILE --to safetensors", "convert FILE --strip", "inspect FILE --json",
        "diff FILE model=other.yaml --command", "convert FILE --rename-class nosuch=x",
    ),
    "damaged": ("verify FILE", "verify FILE --json", "repair FILE", "convert FILE --strip", "diff FILE epochs=5"),
    "stripped": ("verify FILE", "repair FILE", "diff FILE epochs=200", "convert FILE --optimizer-dtype float16"),
    "over": ("verify FILE", "repair FILE", "diff FILE epochs=200 --command", "verify FILE --target ultralytics==8.1.0"),
    "foreign": ("verify FILE", "diff FILE epochs=1", "repair GOOD --optimizer-from FILE", "convert FILE --strip"),
    "plain": ("verify FILE", "diff FILE lr=1 --command", "repair FILE --set nosuch=1", "repair FILE"),
    "unknown": ("verify FILE", "verify FILE --json", "inspect FILE --json"),
    "weights": (
        "verify FILE", "repair FILE --optimizer-from GOOD", "repair GOOD --model-from FILE", "repair FILE --set a=1",
        "convert FILE --optimizer-dtype float16", "convert FILE --rename-class 0=x",
    ),
    "yolov5": ("verify FILE", "diff FILE epochs=9 --command", "diff FILE epochs=9"),
}  # fmt: skip
IN_FOLDERS: dict[str, Sequence[str]] = {
    "damaged": ("verify DIR", "verify DIR/last.pt --json", "latest DIR", "repair DIR/last.pt"),
    "over": ("latest DIR", "verify DIR"),
    "resumable": ("prune DIR --keep-last 1 --yes", "latest DIR --json", "diff DIR/last.pt epochs=7 --command"),
}  # fmt: skip


class Rooms:
    """Files and folders under a hostile name, and all that is said about them."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.files, self.folders = folder / "files", folder / "folders"
        for room in (self.files, self.folders):
            room.mkdir(parents=True)
        (self.folders / name).mkdir()

    def lines(self) -> Iterator[tuple[Path, str]]:
        """Every line of every command, with the folder it was typed in."""
        for kind, typed in TYPED.items():
            for line in typed:
                self._put(self.files / self.name, CONTENTS[kind])
                self._put(self.files / "good.pt", CONTENTS["resumable"])
                (self.files / "conf.yaml").write_text("epochs: 200\nlr0: 0.5\ndata: my data.yaml\n")
                yield from ((self.files, line) for line in self._said(self.files, line))
        for kind, typed in IN_FOLDERS.items():
            for line in typed:
                self._put(self.folders / self.name / "last.pt", CONTENTS[kind])
                self._put(
                    self.folders / self.name / "epoch1.pt", CONTENTS["resumable" if kind == "resumable" else kind]
                )
                yield from ((self.folders, line) for line in self._said(self.folders, line))
        yield from ((self.folders, line) for line in self._watched())

    def _put(self, path: Path, content: bytes) -> None:
        path.write_bytes(content)
        an_hour_ago = time.time() - 3600
        os.utime(path, (an_hour_ago, an_hour_ago))

    def _said(self, room: Path, line: str) -> Iterator[str]:
        places = {"FILE": f"./{self.name}", "GOOD": "good.pt", "YAML": "conf.yaml", "DIR": f"./{self.name}",
                  "DIR/last.pt": f"./{self.name}/last.pt"}  # fmt: skip
        os.chdir(room)
        out, err = told(*(places.get(word, word) for word in line.split()))
        for path in room.iterdir():
            if path.name not in (self.name, "good.pt", "conf.yaml"):
                path.unlink()
        if "--json" in line:
            yield from (f"next: {text}" for text in _texts(json.loads(out), ("remedy", "next")))
            yield from _texts(json.loads(out), ("error", "message", "refused", "advice"))
        elif "--command" in line:
            yield from (f"next: {text}" for text in out.splitlines())
        else:
            yield from out.splitlines()
        yield from err.splitlines()

    def _watched(self) -> Iterator[str]:
        """What a watcher says: a good save, then a damaged one, then a stall; with the ring, and without."""
        os.chdir(self.folders)
        last = Path(self.name) / "last.pt"
        for keep in (1, 0):
            watcher, now = Watcher([Path(self.name)], WatchOptions(keep=keep, stall=60.0, settle=0.5)), 1_700_000_000.0
            list(watcher.look(now, search=True))
            for kind in ("resumable", "damaged"):
                last.write_bytes(CONTENTS[kind])
                now += 10
                os.utime(last, (now, now))
                for _ in range(4):
                    now += 1
                    for event in watcher.look(now, search=True):
                        yield f"{event.path}: {event.message}"
            yield from (f"{event.path}: {event.message}" for event in watcher.look(now + 600, search=True))


def _texts(document: Any, names: Sequence[str]) -> Iterator[str]:
    """The texts under these names, however deep."""
    if isinstance(document, dict):
        for name, inner in document.items():
            yield from _texts([inner] if name in names and isinstance(inner, str) else inner, names)
            if name in names:
                yield from (text for text in (inner if isinstance(inner, list) else [inner]) if isinstance(text, str))
    elif isinstance(document, list):
        for inner in document:
            yield from _texts(inner, names) if not isinstance(inner, str) else ()


VOCABULARY = re.compile(
    r"--?[a-z-]+|[a-z][a-z0-9-]*|[A-Z]+|[a-z_0-9]+=[\w.:/ -]*|[\w-]+==[\w.]+|CKPT\d+|(\w+/)*\w+\.(pt|py|yaml)"
)
PACKAGE = "my $(touch canary) package"


def check(calls: Sequence[Sequence[str]], rooms: Rooms, room: Path) -> int:
    """How many calls name the file or what lies under or beside it; every other word must be one of our own."""
    count = 0
    for program, *words in calls:
        assert program in PROGRAMS
        names = [word for word in words if _is_of(word, rooms, room)]
        rest = [word for word in words if word not in names and word != PACKAGE]
        assert all(VOCABULARY.fullmatch(word) for word in rest), (program, words)
        count += bool(names)
    return count


def _is_of(word: str, rooms: Rooms, room: Path) -> bool:
    """Whether a word names the hostile file, something in the hostile folder, or an output beside it."""
    stem = Path(rooms.name).stem
    outputs = {f"{stem}.edited.pt", *(f"{kind}.{rooms.name}.pt" for kind in ("stripped", "state_dict"))}
    outputs |= {f"{rooms.name}.{kind}" for kind in ("repaired.pt", "converted.pt", "safetensors")}
    outputs |= {f"{kind}.{rooms.name}" for kind in ("stripped", "state_dict")}
    suffix = Path(rooms.name).suffix
    outputs |= {f"{stem}.{kind}{suffix}" for kind in ("repaired", "converted")} | {f"{stem}.safetensors"}
    for text in (word, word.partition("=")[2]):
        path = os.path.normpath(room / text.replace("\\", "/")) if os.sep not in rooms.name else text
        plain = os.path.normpath(room / text)
        for one in (path, plain):
            inside = Path(one).relative_to(room).parts if one.startswith(f"{room}{os.sep}") else ()
            if text and inside and inside[0] in {rooms.name, *outputs, rooms.name.replace("\\", "/")}:
                return not text.startswith(("-", "~")) or text is not word
    return False


def creatable(folder: Path, name: str) -> bool:
    try:
        (folder / name).touch(exist_ok=False)
        (folder / name).unlink()
        return (folder / name).name == name
    except (OSError, ValueError):
        return False


def sample(names: Sequence[str], *always: str) -> list[Any]:
    """Some names; all the others where the full tests are asked for, too."""
    short = [name for name in names if len(os.fsencode(name)) < 230 and name not in always]
    return [pytest.param(name, marks=mark, id=ascii(name)[1:40])
            for mark, some in (((), always), (pytest.mark.full, short)) for name in some]  # fmt: skip


@posix_only
@pytest.mark.parametrize(
    "name", sample(TYPABLE, """-'";touch canary;`touch canary`$(touch canary)\\ %X%!! {path}""", "~root")
)
def test_whatever_is_printed_about_a_file_can_be_pasted(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not creatable(tmp_path, name):
        pytest.skip("not a name here")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(commands, "HERE", POSIX)
    rooms = Rooms(tmp_path / "rooms", name)
    said = [(room, text) for room, line in rooms.lines() for text in commands_in(line)]
    shells = [Posix(shell, tmp_path / shell) for shell in SHELLS]
    for room in (rooms.files, rooms.folders):
        lines = list(dict.fromkeys(text for place, text in said if place == room))
        for shell in shells:
            assert check(shell.run(lines, room), rooms, room) > (15 if room == rooms.files else 6), lines


@posix_only
@pytest.mark.parametrize("name", sample(TYPABLE, "-a & touch canary ^{path}[1]", "~$env:X"))
def test_whatever_is_printed_for_windows_can_be_pasted_there(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not creatable(tmp_path, name):
        pytest.skip("not a name here")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(commands, "HERE", WINDOWS)
    rooms = Rooms(tmp_path / "rooms", name)
    silent = following("ckpt verify {path}", path=Path(name)).startswith(NO_COMMAND)
    said = [(room, text) for room, line in rooms.lines() if NO_COMMAND not in line for text in commands_in(line)]
    for reads in (cmd, powershell):
        count = sum(check(reads(text), rooms, room) for room, text in said)
        assert count == 0 if silent else count > 40


@posix_only
@pytest.mark.parametrize("name", sample(UNTYPABLE, "$(touch canary)\n'\x1b[31m", "\u202e"))
def test_for_a_name_that_cannot_be_typed_nothing_is_printed_to_paste(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not creatable(tmp_path, name):
        pytest.skip("not a name here")
    monkeypatch.chdir(tmp_path)
    rooms = Rooms(tmp_path / "rooms", name)
    without = 0
    for room, line in rooms.lines():
        for text in commands_in(line):
            plain = re.sub(r"CKPT\d+|good\.pt|\bckpt\b", "", text)
            assert "\\" not in plain, line
            assert not any(_is_of(word, rooms, room) for word in text.split()), line
        without += NO_COMMAND in line
        if not line.startswith(("next: ", "      > ")):
            continue
        assert line.isprintable()
    assert without > 20


@posix_only
@pytest.mark.parametrize("name", ["-'$(touch canary)`touch canary`\\", "~ {folder}", "a\n; touch canary"])
def test_what_a_training_is_told_can_be_pasted(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from ckpt_tools.training import files, writing

    monkeypatch.chdir(tmp_path)
    folder, file = Path(name), Path(f"{name}.pt")
    folder.mkdir()
    file.write_bytes(CONTENTS["foreign"])
    full = OSError(errno.ENOSPC, "No space left on device")
    said = [str(writing.failed(folder / "last.pt", full))]
    with pytest.raises(CkptError) as told_:
        writing.check_room(folder, 1 << 62)
    said.append(str(told_.value))
    with pytest.raises(CkptError) as told_:
        files.place(file, {}, rng=False, map_location=None, strict=True)
    said.append(str(told_.value))
    if "\n" in name:
        assert all(NO_COMMAND in line and not list(commands_in(line)) for line in said)
        return
    lines = [text for line in said for text in commands_in(line)]
    for shell in SHELLS:
        calls = Posix(shell, tmp_path.parent / f"{tmp_path.name}-{shell}").run(lines, tmp_path)
        assert calls == [["ckpt", "prune", f"./{name}"]] * 2 + [["ckpt", "verify", f"./{name}.pt"]]


# --- the kind can't come back ---------------------------------------------------------------------

OTHERS = "|".join((*PROGRAMS[1:], "git", "tar", "torchrun", "accelerate"))
BEGUN = re.compile(rf"(?:\A|`|&& |next: )(?:ckpt (?:[a-z]+|\0) |(?:{OTHERS}) )[^`]*\0")


def broken_rules(tree: ast.AST) -> Iterator[str]:
    """Where a command is put together by hand: an f-string or format with a place in it, shlex, a replaced place."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "\0" for part in node.values]
            if BEGUN.search("".join(map(str, parts))):
                yield f"{node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Mod)):
            left = node.left.value if isinstance(node.left, ast.Constant) else None
            begun = re.sub(r"%\w|[ =]\Z", r"\g<0>\0", left) if isinstance(left, str) else ""
            if BEGUN.search(re.sub(r"%\w", "", begun)):
                yield f"{node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            first = node.args[0] if node.args else None
            text = first.value if isinstance(first, ast.Constant) else ""
            if node.func.attr == "replace" and isinstance(text, str) and re.fullmatch(r"\{\w+\}", text):
                yield f"{node.lineno}: {ast.unparse(node)}"
            held = node.func.value
            if node.func.attr == "format" and isinstance(held, ast.Constant) and BEGUN.search(f"{held.value!s}\0"):
                yield f"{node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.Import) and any(alias.name == "shlex" for alias in node.names):
            yield f"{node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize("path", sorted((ROOT / "ckpt_tools").rglob("*.py")), ids=lambda path: path.stem)
def test_no_command_is_put_together_by_hand(path: Path) -> None:
    found = list(broken_rules(ast.parse(path.read_text(encoding="utf-8"))))
    allowed = "example" if path.name == "catalogue.py" else None  # for a page, where there is no file
    assert [text for text in found if allowed is None or "remedy.replace" not in text] == []


@pytest.mark.parametrize(
    "source",
    [
        "f'it is odd; `ckpt verify {path}` says more'", "f'ckpt repair {path}'", "f'x; next: ckpt latest {path}'",
        "f'ckpt verify a && yolo train model={path}'", "'ckpt verify ' + path", "'`ckpt verify %s`' % path",
        "import shlex", "remedy.replace('{path}', path)", "'ckpt verify {}'.format(path)",
    ],
)  # fmt: skip
def test_what_is_put_together_by_hand_is_noticed(source: str) -> None:
    assert list(broken_rules(ast.parse(source)))

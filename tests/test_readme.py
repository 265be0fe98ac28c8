"""The README and its Chinese twin say the same, and every command of the documentation is one that ckpt takes."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterator, Sequence
from functools import cache

import pytest
import typer
from conftest import ROOT
from typer.core import TyperGroup

from ckpt_tools.cli.app import app

ENGLISH, CHINESE = "README.md", "README.zh-CN.md"
PAGES = (ENGLISH, *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
CODE = ("indented", "bash", "python", "console")
COMMENT = re.compile(r"(?<!\S)#(\s|$)")  # not #!/usr/bin/env bash, not #SBATCH
HEADING = re.compile(r"#+(?= )")
LINK = re.compile(r"\]\(([^)\s]*)\)")
SPAN = re.compile(r"`([^`]+)`")
NUMBER = re.compile(r"\d(?:[\d.,]*\d)?")
SUBSTITUTION = re.compile(r"\$\(([^()]*)\)")
BEFORE_A_COMMAND = re.compile(r"if|then|elif|else|while|do|exec|!|\w+=.*")
OPTION = re.compile(r"--[\w-]+|-[A-Za-z]+")
DESCRIPTOR = re.compile(r"(?<!\S)\d(?=[<>])")
HELP = ("-h", "--help")


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def parts(text: str) -> Iterator[tuple[str, str]]:
    """Each line after what it is part of: ``bash`` and other fenced languages, ``indented``, or ``prose``."""
    language = ""
    for line in text.splitlines():
        if line.startswith("```"):
            language = "" if language else line[3:].partition(" ")[0] or "text"
        elif language:
            yield language, line
        else:
            yield ("indented", line[4:]) if line.startswith("    ") else ("prose", line)


def prose(text: str) -> Iterator[str]:
    return (line for kind, line in parts(text) if kind == "prose")


def uncommented(line: str) -> str:
    """A line of bash or Python without its comment."""
    quote, escaped = "", False
    for place, letter in enumerate(line):
        if escaped:
            escaped = False
        elif letter == "\\" and quote != "'":
            escaped = True
        elif quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif COMMENT.match(line, place):
            return line[:place].rstrip()
    return line.rstrip()


def code(text: str) -> list[str]:
    """Every line of code after the kind of its block; what a console shows stays whole."""
    found = ((kind, line if kind == "console" else uncommented(line)) for kind, line in parts(text) if kind in CODE)
    return [f"{kind}: {line}" for kind, line in found if line]


def headings(text: str) -> list[str]:
    return [found[0] for found in map(HEADING.match, prose(text)) if found]


def tables(text: str) -> list[list[str]]:
    """The rows of each table: their cells counted, and the code and the numbers in them, which need no translation."""
    found: list[list[str]] = [[]]
    for line in prose(text):
        if line.startswith("|"):
            facts = sorted(SPAN.findall(line)) + sorted(NUMBER.findall(SPAN.sub("", line)))
            found[-1].append(f"{line.count('|') - 1} cells: {' '.join(facts)}")
        elif found[-1]:
            found.append([])
    return [table for table in found if table]


def links(text: str) -> set[str]:
    return set(LINK.findall("\n".join(prose(text))))


def spans(text: str) -> list[str]:
    """The code in the prose of each section, sorted: the order of words is each language's own."""
    sections: list[list[str]] = [[]]
    for line in prose(text):
        if HEADING.match(line):
            sections.append([])
        sections[-1].append("" if line.startswith("|") else line)
    return [
        f"section {number}: {span}"
        for number, section in enumerate(sections)
        for span in sorted(SPAN.findall(" ".join(section)))
    ]


def changes(english: Sequence[str], chinese: Sequence[str]) -> str:
    """What differs, line by line; nothing where nothing does."""
    return "\n".join(difflib.unified_diff(english, chinese, ENGLISH, CHINESE, n=0, lineterm=""))


def commands(line: str) -> Iterator[list[str]]:
    """The words of each simple command on a line of a shell, those within ``$(…)`` first."""
    while inner := SUBSTITUTION.search(line):
        yield from commands(inner[1])
        line = f"{line[: inner.start()]}SUBSTITUTED{line[inner.end() :]}"
    lexer = shlex.shlex(DESCRIPTOR.sub("", line), posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    words: list[str] = []
    target = False  # whether the next word is where output goes
    for token in [*lexer, ";"]:
        if token and not token.strip("<>&") and token.strip("&"):
            target = True
        elif token and not token.strip("();<>|&"):
            if words:
                yield words
            words, target = [], False
        elif target:
            target = False
        elif words or not BEFORE_A_COMMAND.fullmatch(token):
            words.append(token)


def ours(line: str) -> Iterator[str]:
    return (shlex.join(["ckpt", *rest]) for first, *rest in commands(line) if first.rpartition("/")[2] == "ckpt")


def typed(page: str) -> Iterator[str]:
    """The commands of ckpt in the code of a page, each without what is around it."""
    for kind, line in parts(read(page)):
        shell = {"indented": line, "bash": line, "console": line[2:] if line.startswith("$ ") else ""}.get(kind, "")
        yield from ours(uncommented(shell))


def named(page: str) -> Iterator[str]:
    """The commands of ckpt that the text of a page names; they may be abridged."""
    for span in SPAN.findall(" ".join(prose(read(page)))):
        if span.startswith("ckpt "):
            yield from ours(span)


TYPED = list(dict.fromkeys(command for page in PAGES for command in typed(page)))
NAMED = list(dict.fromkeys(command for page in PAGES for command in named(page)))


@cache
def tree() -> TyperGroup:
    found = typer.main.get_command(app)
    assert isinstance(found, TyperGroup)
    return found


def strangers(command: str) -> list[str]:
    """The subcommand and the options of a command which ckpt does not have."""
    name, *rest = shlex.split(command)[1:]
    if name not in tree().commands:
        return [name]
    parameters = tree().commands[name].params
    known = {*HELP, *(option for one in parameters for option in (*one.opts, *one.secondary_opts))}
    options = (word.partition("=")[0] for word in rest)
    found = (option for option in options if OPTION.fullmatch(option))
    singly = (one for option in found for one in ([option] if option[:2] == "--" else [f"-{a}" for a in option[1:]]))
    return [option for option in singly if option not in known]


class TestChineseTwin:
    def test_commands_and_programs_are_the_same(self) -> None:
        differing = changes(code(read(ENGLISH)), code(read(CHINESE)))
        assert not differing, differing

    def test_headings_are_as_many_and_of_the_same_levels(self) -> None:
        assert headings(read(CHINESE)) == headings(read(ENGLISH))

    def test_tables_have_the_same_rows(self) -> None:
        english, chinese = tables(read(ENGLISH)), tables(read(CHINESE))
        assert [len(table) for table in chinese] == [len(table) for table in english]
        differing = changes(sum(english, []), sum(chinese, []))
        assert not differing, differing

    def test_links_are_the_same_and_each_leads_to_the_other(self) -> None:
        english, chinese = links(read(ENGLISH)), links(read(CHINESE))
        assert CHINESE in english
        assert chinese == english - {CHINESE} | {ENGLISH}

    def test_text_of_each_section_names_the_same_options_files_and_verdicts(self) -> None:
        differing = changes(spans(read(ENGLISH)), spans(read(CHINESE)))
        assert not differing, differing

    def test_changed_command_is_shown(self) -> None:
        english = read(ENGLISH)
        differing = changes(code(english), code(english.replace("--keep-last 3", "--keep-last 4")))
        assert "-indented: ckpt prune runs/ --keep-last 3\n+indented: ckpt prune runs/ --keep-last 4" in differing


class TestCommands:
    @pytest.mark.parametrize("command", TYPED)
    def test_command_to_type_is_taken(self, command: str) -> None:
        assert not strangers(command)
        name, *rest = shlex.split(command)[1:]
        tree().commands[name].make_context(name, rest)  # raises where a value is missing, or not one of the choices

    @pytest.mark.parametrize("command", NAMED)
    def test_command_in_the_text_exists(self, command: str) -> None:
        assert not strangers(command)

    def test_every_page_and_command_was_looked_at(self) -> None:
        assert {command.split()[1] for command in TYPED} == set(tree().commands)
        assert {page for page in PAGES if any(typed(page)) or any(named(page))} == set(PAGES)

    @pytest.mark.parametrize(
        "command", ["ckpt mend last.pt", "ckpt verify --qick", "ckpt prune -yz", "ckpt diff --to=a"]
    )
    def test_what_ckpt_does_not_have_is_seen(self, command: str) -> None:
        assert len(strangers(command)) == 1


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("ckpt verify a.pt  # whole", "ckpt verify a.pt"),
        ("*) # a comment's quote", "*)"),
        ("# nothing else", ""),
        ("#!/usr/bin/env bash", "#!/usr/bin/env bash"),
        ("#SBATCH --requeue # twice", "#SBATCH --requeue"),
        ("echo 'a # b' \"c # 'd\" # e", "echo 'a # b' \"c # 'd\""),
        (r"echo \" # e", r"echo \""),
        ("echo a#b ${#c}", "echo a#b ${#c}"),
    ],
)
def test_comments_are_cut_and_nothing_else(line: str, code: str) -> None:
    assert uncommented(line) == code


def test_lines_are_taken_apart_as_a_shell_does() -> None:
    line = 'if p=$(ckpt latest "$run" 2>&1) && X=1 ckpt watch a --on-event "b | c" >d & then ! .venv/bin/ckpt e:1; fi'
    assert [shlex.join(words) for words in commands(line)] == [
        "ckpt latest '$run'", "ckpt watch a --on-event 'b | c'", ".venv/bin/ckpt e:1", "fi",
    ]  # fmt: skip

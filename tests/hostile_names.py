"""Names of files nobody gives in good faith, and a few that people do give; all of them are legal on POSIX systems."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator

CANARY = "canary"  # what a shell would make if it ran a part of a name

# What a shell might run or replace.
RUN = (
    "$(touch canary)", "`touch canary`", ";touch canary;", "& touch canary &", "&& touch canary", "|| touch canary",
    "| touch canary", "> canary", "< canary", ">> canary", "$(>canary)", "<(touch canary)", "{touch,canary}",
    "'; touch canary; '", '"; touch canary; "', "'\"'\"; touch canary; #", "\\'; touch canary; \\'", "\\", "\\\\",
    "a\\ b", "'", '"', "''", '""', "'\"'", "a'b", 'a"b', "it's", "'\\''", "'$(touch canary)'", '"$(touch canary)"',
    "$'\\x3btouch canary'", "$HOME", "${HOME}", "$$", "$", "$?", "$@", "$((1+1))", "${X:=canary}", "!", "!!",
    "!touch", "a!b!c", "!PATH!", "%PATH%", "%", "%%", "50%", "%X:~0,1%", "%PATH", "$env:PATH", "$env:X",
    "$(ni canary)", "@(ni x)", "@args", "${env:X}", "`$x", "a`b", "^", "^&", "a^b", "a ^& touch canary", "(", ")",
    "()", "(a)", "{a,b}", "{}", "[", "]", "[a-z]", "a[1]", "*", "?", "*.pt", "**", "a*b", "~", "~root",
    "~nosuchuser", "~+", "-~", "#", "#a", "a#b", "a #b", "=", "=ls", "a=b", "x=$(touch canary)", "model=x", "a:b",
    "C:", ",", "a,b", ";", "&", "|", "a|b", "a;b", "a&b", "<", ">", "@", "@a", "+", "+a", "^C", "1>&2",
    "2>canary", "\u201c; ni canary; \u201d", "\u201e", "\u2018; ni canary; \u2019", "\u2013x", "\u2014-x", "\u2015o",
)  # fmt: skip
# What a program might take for an option, a setting or a word of its own.
OPTIONS = (
    "-", "--", "-o", "-x.pt", "--to", "--help", "--json", "-rf", "-q", "--set=x", "-n 1", "--to=legacy", "-c", "--%",
    "resume", "verify", "None", "1e3", "[red]", "[link=x]a[/link]", "[/]", "[bold]x", "ckpt", "ckpt verify x",
    "yolo train", "{path}", "{folder}", "{0}", "{}{path}", "%s", "{version}", "{package}", "{words}",
)  # fmt: skip
# What people do give.
ORDINARY = (
    "last", "a b", " a", "a ", "  ", "my run (2)", "Modell über alles", "模型", "модель", "نموذج", "מודל", "モデル",
    "naïve", "epoch 10 – best", "x" * 240, "'" * 200, "$" * 240, "é" * 120, "😀", "🚀 last", "a.b.c", "..a", "...",
    "a, b", "lr=0.01", "50 % done", "R&D", "what?", "Dad's", "#1", "v1+v2", "a@b",
)  # fmt: skip
# What is not seen, or not for what it is: nobody can type it.
UNSEEN = (
    "\n", "\t", "\r", "\x01", "\x07", "\x08", "\x1b", "\x1b[31m", "\x1b]0;x\x07", "\x1b]8;;http://x\x1b\\",
    "\x1f", "\x7f", "\x80", "\x85", "\x9b31m", "\x9f", "\n touch canary \n", ";\ntouch canary\n",
    "ckpt\n; touch canary", "$(touch canary)\n", "\u00a0", "\u1680", "\u2000", "\u2003", "\u2009", "\u200a",
    "\u202f", "\u205f", "\u3000", "\u00ad", "\u061c", "\u180e", "\u200b", "\u200c", "\u200d", "\u200e", "\u200f",
    "\u2028", "\u2029", "\u202a", "\u202b", "\u202c", "\u202d", "\u202e", "\u2060", "\u2061", "\u2062", "\u2063",
    "\u2064", "\u2065", "\u2066", "\u2067", "\u2068", "\u2069", "\u206a", "\u206f", "\ufeff", "\ufff9", "\ufffb",
    "\u034f", "\u115f", "\u1160", "\u17b4", "\u180b", "\u180f", "\u2800", "\u3164", "\uffa0", "\ufe00", "\ufe0f",
    "❤\ufe0f", "👨\u200d👩\u200d👧", "\U000e0001", "\U000e0041", "\U000e007f", "\U000e0100", "\U000e01ef", "\ue000",
    "\uf8ff", "\U000f0000", "\U0010fffd", "\uffff", "\ufdd0", "\U0001ffff", "\U0010ffff", "\u0378", "\U0001d173",
    "\U000110bd", "tp.\u202egpj",
)  # fmt: skip
# Bytes that are no UTF-8; where file names are texts there are none of these.
BYTES = (b"\xff", b"\xc3", b"a\x80b", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\xaf", b"$(touch canary)\xff")


def typable() -> Iterator[str]:
    """Names that have a command on POSIX systems."""
    yield from RUN
    yield from OPTIONS
    yield from ORDINARY
    for name in ("$(touch canary)", "'; touch canary; '", "`touch canary`", '"&touch canary&"', "\\'|touch canary"):
        yield from (f"-{name}", f" {name}", f"{name} ", f"~{name}", f"={name}", f"a {name}\\")
    yield from (unicodedata.normalize(form, "é ñ Å 한글") for form in ("NFC", "NFD"))


def untypable() -> Iterator[str]:
    """Names that have none anywhere."""
    for one in UNSEEN:
        yield f"a{one}b"
    yield from ("\x1b", "\u202e", " \n", "\u3000a", "-\x1b", "~\u200b", "'\n", "$(touch canary)\u2066")
    yield from (os.fsdecode(name) for name in BYTES)


TYPABLE, UNTYPABLE = tuple(dict.fromkeys(typable())), tuple(dict.fromkeys(untypable()))

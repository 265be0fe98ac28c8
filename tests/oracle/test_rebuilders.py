"""Every argument of every call that rebuilds a tensor, wrong in every way: the verdict is what torch makes of it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest
from building import plain_checkpoint, saved
from rebuilders import cases, holding, legacy_cases, rezipped

from ckpt_tools.verbs.verify import verify

torch = pytest.importorskip("torch")

READABLE = ("resumable", "finished", "weights", "incomplete")
# What torch loads by an accident nobody relies on, and is called damaged nonetheless: a class or a tensor's truth in
# place of True and False, a tensor or storage asked for its dtype, printed as a key or multiplied, a storage of which
# a sparse tensor makes a tensor, and a class of storages from a module that does not exist.
ACCIDENTS = {
    *(f"{what}: argument 1 is torch.Tensor" for what in ("parameter", "int parameter", "parameter_with_state")),
    *(f"wrapper: argument {place} is torch.Tensor" for place in (1, 5, 7)),
    "tensor_v2 with metadata: argument 6 is a whole number in a tensor",
    *(f"{what}: argument 3 is a whole number in a tensor" for what in ("parameter_with_state", "from_type_v2")),
    *(
        f"persistent id: argument {place} is {thing}"
        for place in (1, 2, 4)
        for thing in (
            "a storage", "an int storage", "a tensor", "a number in a tensor", "a whole number in a tensor",
            "a parameter", "a meta tensor", "mine.FloatStorage",
        )
    ),
    "argument 1 is mine.FloatStorage",
    *(f"csr parts: argument {place} is {kind} storage" for place in (0, 1, 2) for kind in ("a", "an int")),
}  # fmt: skip

# A key that is a number beside the same as text: torch keeps two storages of one member, we keep one.
TWINS = {f"persistent id: argument 2 is {number}" for number in (0, 2, 3)}


def loads(path: Path) -> str:
    """What torch says of a file; nothing where it loads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch.load(path, map_location="cpu", weights_only=False)
        except Exception as error:
            return f"{type(error).__name__}: {str(error)[:100]}"
    return ""


def wrong(folder: Path, given: Iterator[tuple[str, bytes]], make: Callable[[bytes], bytes]) -> list[str]:
    """The cases for which the verdict is not what torch makes of the file."""
    path, found, count = folder / "last.pt", [], 0
    for label, body in given:
        path.write_bytes(make(body))
        os.utime(path, (1.7e9, 1.7e9))
        verdict = str(verify(path, siblings=False).verdict)
        why = loads(path)
        count += 1
        if verdict == "unsafe" or label in TWINS or (label in ACCIDENTS and not why):
            continue
        if (verdict in READABLE) != (not why):
            found.append(f"{label}: {verdict}, torch {why or 'loads it'}")
    assert count > 50
    return found


@pytest.mark.parametrize("step", [pytest.param(41, id="sample"), pytest.param(1, id="full", marks=pytest.mark.full)])
def test_arguments_of_rebuilders(tmp_path: Path, step: int) -> None:
    assert not wrong(tmp_path, islice(cases(), 0, None, step), holding)


@pytest.mark.parametrize("step", [pytest.param(7, id="sample"), pytest.param(1, id="full", marks=pytest.mark.full)])
def test_persistent_ids_of_a_stream(tmp_path: Path, step: int) -> None:
    assert not wrong(tmp_path, islice(legacy_cases(), 0, None, step), bytes)


CONTENTS = (
    None, b"", b"3", b"3\n", b"1", b"0", b"2", b"10", b"11", b"12", b"-1", b"+3", b" 3", b"3 ", b"\n3", b"\x0b3",
    b"3\0", b"\x003", b"3x", b"x3", b"0x3", b"0003", b"3.9", b"3e1", b"3_0", b"garbage", b"\xff\xfe", b"3\xff",
    b"9" * 40,
    b"1" * 5000, b"\xd9\xa3", b"little", b"little\n", b" little", b"big", b"BIG", b"big\0", b"64", b"64\n", b" 64 ",
    b"-64", b"1e3", b"6_4", b"64.0", b"--3",
)  # fmt: skip


def test_contents_of_small_members(tmp_path: Path) -> None:
    data = saved(plain_checkpoint())
    names = ("version", "byteorder", ".storage_alignment", ".format_version", ".data/serialization_id")
    given = ((f"{name} {content!r}", rezipped(data, {name: content})) for name in names for content in CONTENTS)
    assert not wrong(tmp_path, given, bytes)

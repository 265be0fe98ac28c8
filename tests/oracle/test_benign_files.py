"""Nothing that people really put into checkpoints is called unsafe; torch shows that loading it runs nothing."""

from __future__ import annotations

import contextlib
import io
import pickle
import sys
import threading
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from building import Called, conv_layer, plain_checkpoint, saved_legacy
from building import saved as saved_by_hand
from conftest import Verify

from ckpt_tools.findings import Verdict

torch = pytest.importorskip("torch")

from oracle.benign_files import FILES, PARTS, SAVERS, WHOLE, checkpoint, legacy, saved, state_dicts  # noqa: E402

# Lookups and things made in memory; torch parses the source of a layer to compare it with that in a stream.
QUIET = frozenset("import pickle.find_class object.__getattr__ object.__setattr__ builtins.id array.__new__ compile "
                  "sys._getframe".split())  # fmt: skip
STATE_DICTS = 500
QUICK_WAYS = ("zip", "zip, protocol 4")  # which spell nearly every name differently
BATCH = 25


class Events:
    """What Python's audit hooks see of one thread; a hook can't be taken out again, so there is one for all tests."""

    def __init__(self) -> None:
        self.thread = 0
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.thread == threading.get_ident() and event not in QUIET:
            self.seen.append(f"{event}{arguments!r}"[:200])

    @contextlib.contextmanager
    def watched(self) -> Iterator[list[str]]:
        self.seen = []
        self.thread = threading.get_ident()
        try:
            yield self.seen
        finally:
            self.thread = 0


@pytest.fixture(scope="session")
def events() -> Events:
    return Events()


def load(data: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.load(io.BytesIO(data), weights_only=False)


def check(data: bytes, events: Events, verified: Verify, told: str) -> None:
    """torch loads the file, the second time without an event but lookups of names, and ckpt does not call it unsafe."""
    load(data)  # imports what the file names
    with events.watched() as seen:
        load(data)
    assert not seen, told
    report = verified(data)
    reasons = [f"{fact.code} {fact.message}" for fact in report.findings if fact.verdict]
    assert report.verdict not in (Verdict.UNSAFE, Verdict.DAMAGED), (told, reasons)


@pytest.mark.parametrize("thing", [*PARTS, *WHOLE])
def test_loads_without_running_anything_and_is_not_unsafe(thing: str, events: Events, verified: Verify) -> None:
    _check_ways(thing, QUICK_WAYS, events, verified)


@pytest.mark.full
@pytest.mark.parametrize("thing", [*PARTS, *WHOLE])
def test_every_way_of_saving(thing: str, events: Events, verified: Verify) -> None:
    _check_ways(thing, SAVERS, events, verified)


def _check_ways(thing: str, ways: Iterable[str], events: Events, verified: Verify) -> None:
    for way in ways:
        if (way, thing) in FILES:
            check(FILES[way, thing](), events, verified, f"{thing}, {way}")


@pytest.mark.parametrize("first", range(0, STATE_DICTS, BATCH))
def test_state_dicts_are_not_unsafe(first: int, events: Events, verified: Verify) -> None:
    ways = [way for way in SAVERS if way.startswith(("zip", "stream"))]
    for number, content in enumerate(state_dicts(BATCH, seed=first), first):
        way = ways[number % len(ways)]
        check(SAVERS[way](content), events, verified, f"state dict {number}, {way}")


def test_canary_is_seen(events: Events, verified: Verify) -> None:
    """The watch sees what runs, and what runs is unsafe."""

    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return eval, ("open",)

    data = saved({"model": torch.nn.Linear(1, 1).state_dict(), "extra": Hostile()})
    with events.watched() as seen:
        load(data)
    assert any(event.startswith("exec") for event in seen)
    assert verified(data).verdict is Verdict.UNSAFE


def with_packed(pickle: bytes) -> bytes:
    """A file whose data.pkl was replaced and packed anew, as by unpacking, converting and zipping a folder."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved(CONTENT))) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            new.writestr(name, pickle if name.endswith("/data.pkl") else old.read(name))
    return out.getvalue()


def main_pickle(data: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return archive.read("archive/data.pkl")


def converted(data: bytes) -> bytes:
    """What a transfer in text mode, or a version control that converts line ends, makes of a file."""
    assert b"\n" in data
    return data.replace(b"\n", b"\r\n")


CONTENT = checkpoint(torch.nn.Sequential(torch.nn.Linear(3, 2)))
LINE_ENDS = {
    "zip": lambda: converted(saved(CONTENT)),
    "zip of which the pickle": lambda: with_packed(converted(main_pickle(saved(CONTENT)))),
    "zip, protocol 0, of which the pickle": lambda: with_packed(
        converted(main_pickle(saved(CONTENT, pickle_protocol=0)))
    ),
    "stream": lambda: converted(legacy(CONTENT)),
    "stream, protocol 4": lambda: converted(legacy(CONTENT, pickle_protocol=4)),
}


@pytest.mark.parametrize("what", LINE_ENDS)
def test_converted_line_ends_are_damage(what: str, verified: Verify) -> None:
    data = LINE_ENDS[what]()
    with pytest.raises((RuntimeError, pickle.UnpicklingError, ModuleNotFoundError)):
        load(data)
    report = verified(data)
    assert report.verdict is Verdict.DAMAGED, [
        f"{fact.code} {fact.message}" for fact in report.findings if fact.verdict
    ]


BACKEND = Called("torch.nn.backends.thnn", "_get_thnn_function_backend")


@pytest.mark.parametrize("save", [saved_legacy, saved_by_hand], ids=["stream", "zip"])
def test_layers_of_torch_before_1_5_are_not_unsafe(save: Any, events: Events, verified: Verify) -> None:
    """Every layer kept ``_backend``, the result of a function that today's torch keeps for such files alone."""
    layer = conv_layer(3, 4)
    old = replace(layer, state={**layer.state, "_backend": BACKEND})
    check(save(plain_checkpoint(model=old)), events, verified, "thnn")

"""Nodes written back as a pickle: the same graph when read again, the same objects for CPython and for torch."""

from __future__ import annotations

import collections
import datetime
import decimal
import enum
import fractions
import functools
import io
import pathlib
import pickle
import pickletools
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from building import (
    BINPERSID,
    MARK,
    call,
    get,
    integer,
    items,
    name,
    pickled,
    put,
    stack_name,
    state_dict,
    text,
    torch_zip,
)
from conftest import FIXTURES
from graphs import difference
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ckpt_tools.checkpoint import open_checkpoint, read_checkpoint
from ckpt_tools.container import member_bytes
from ckpt_tools.findings import Verdict, decide
from ckpt_tools.pickles import Call, GlobalRef, Persistent, SetNode, run
from ckpt_tools.pickles.emit import EmitError, emit
from ckpt_tools.source import BytesSource

PROTOCOLS = range(6)
ARCHIVES = sorted(path for path in FIXTURES.glob("*.pt") if path.name not in ("torchscript.pt", "legacy-format.pt"))
NO_CODE = ["bare-state-dict.pt", "crc-less.pt", "dataparallel-prefix.pt", "plain-loop.pt",
           "state-dict-compiled-prefix.pt"]  # fmt: skip


def read(data: bytes) -> Any:
    found = run(data)
    assert found.trouble is None, found.trouble
    return found.root


def written(data: bytes) -> bytes:
    """A pickle read and written again; what was written is read as the same graph as before."""
    made = emit(read(data))
    assert emit(read(made)) == made  # from here on nothing changes any more
    return made


def with_written_pickle(path: Path) -> bytes:
    """An archive whose object graph was read and written again, and everything else copied."""
    made = io.BytesIO()
    with open_checkpoint(path) as checkpoint, zipfile.ZipFile(made, "w") as target:
        container = checkpoint.container
        assert container is not None
        for place, member in container.members.items():
            data = member_bytes(container.source, member, 1 << 24)
            target.writestr(member.name, written(data) if place == "data.pkl" else data)
    return made.getvalue()


def opcodes(data: bytes) -> set[str]:
    return {opcode.name for opcode, _, _ in pickletools.genops(data)}


# --- real files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ARCHIVES, ids=lambda path: path.stem)
def test_graph_of_a_real_file_comes_back_with_all_that_it_shares(path: Path) -> None:
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.pickle is not None
        root = checkpoint.pickle.root
        assert difference(root, read(emit(root))) == ""


@pytest.mark.parametrize("path", ARCHIVES, ids=lambda path: path.stem)
def test_torch_loads_what_was_written_in_place_of_a_real_pickle(path: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from oracle.standins import bits, load, named_tensors

    new = tmp_path / path.name
    new.write_bytes(with_written_pickle(path))
    theirs, ours = dict(named_tensors(load(path))), dict(named_tensors(load(new)))
    assert list(ours) == list(theirs)
    assert len(ours) > 0
    for place, tensor in theirs.items():
        assert (ours[place].dtype, ours[place].shape, ours[place].stride()) == (
            tensor.dtype, tensor.shape, tensor.stride(),
        ), place  # fmt: skip
        assert bits(ours[place]) == bits(tensor), place
    if path.name in NO_CODE:
        torch.load(path, weights_only=True)
        torch.load(new, weights_only=True)


def test_names_and_numbers_of_a_plain_file_are_what_they_were_for_torch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    path, new = FIXTURES / "plain-loop.pt", tmp_path / "new.pt"
    new.write_bytes(with_written_pickle(path))
    theirs, ours = (torch.load(file, weights_only=True) for file in (path, new))
    assert repr(ours) == repr(theirs)


# --- plain data of any shape ----------------------------------------------------------------------


class Reference(NamedTuple):
    """The object at a place of the recipe."""

    number: int


INTEGERS = st.one_of(
    st.integers(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([255, 256, 65535, 65536, 2**31, -(2**31), -(2**31) - 1]),
)
BIG = st.sampled_from([2**2039, 2**2040 - 1, 2**2040, -(2**4000), 1 << 9000])
TEXT = st.one_of(st.text(max_size=12), st.sampled_from(["\ud800", "a\nb\\u0041", "Grüße", "x" * 300, "epoch", "epoch"]))
KEYS = st.one_of(st.none(), st.booleans(), INTEGERS, st.floats(allow_nan=False), TEXT, st.binary(max_size=8))
SCALARS = st.one_of(KEYS, BIG, st.floats(), st.binary(max_size=300))
KINDS = st.sampled_from(["list", "dict", "tuple", "set", "frozenset", "bytearray"])
RECIPE = st.lists(
    st.tuples(KINDS, st.lists(st.one_of(SCALARS, st.integers(0, 30).map(Reference)), max_size=6)),
    min_size=1,
    max_size=12,
)


def made_of(recipe: list[tuple[str, list[Any]]]) -> Any:
    """Objects that refer to each other in all ways there are.

    Lists and dicts may hold anything, also what comes later, so that cycles run through tuples, too; tuples hold what
    was made before them.
    """
    plain = {"list": list, "dict": dict, "set": set, "bytearray": bytearray}
    objects: list[Any] = [plain[kind]() if kind in plain else None for kind, _ in recipe]

    def part(value: Any) -> Any:
        return objects[value.number % len(objects)] if isinstance(value, Reference) else value

    for number, (kind, values) in enumerate(recipe):
        if kind == "tuple":
            objects[number] = tuple(map(part, values))
        elif kind == "frozenset":
            objects[number] = frozenset(value for value in values if not isinstance(value, (Reference, float)))
    for number, (kind, values) in enumerate(recipe):
        if kind == "list":
            objects[number].extend(map(part, values))
        elif kind == "dict":
            objects[number].update((str(place), part(value)) for place, value in enumerate(values))
            objects[number].update((value, place) for place, value in enumerate(values) if is_key(value))
        elif kind == "set":
            objects[number].update(value for value in values if not isinstance(value, (Reference, float)))
        elif kind == "bytearray":
            objects[number].extend(byte for value in values if isinstance(value, bytes) for byte in value)
    return objects


def is_key(value: Any) -> bool:
    return not isinstance(value, (Reference, float)) and not (isinstance(value, int) and value.bit_length() > 4096)


@settings(max_examples=300)
@given(recipe=RECIPE, protocol=st.integers(0, 5))
@example(recipe=[("list", [Reference(0)])], protocol=2)
@example(recipe=[("dict", [Reference(1)]), ("tuple", [Reference(0)])], protocol=4)
@example(recipe=[("list", [Reference(1), Reference(1)]), ("tuple", [Reference(0), 1, 2, 3])], protocol=5)
@example(recipe=[("list", [Reference(1), Reference(1)]), ("tuple", [])], protocol=0)
def test_objects_come_back_from_any_protocol_as_they_were(recipe: list[tuple[str, list[Any]]], protocol: int) -> None:
    objects = made_of(recipe)
    data = pickle.dumps(objects, protocol)
    loaded = pickle.loads(data)
    assert difference(loaded, pickle.loads(written(data))) == ""
    assert difference(objects, pickle.loads(written(data))) == ""


@given(recipe=RECIPE)
def test_nodes_of_what_was_written_are_the_nodes_it_was_written_from(recipe: list[tuple[str, list[Any]]]) -> None:
    data = emit(read(pickle.dumps(made_of(recipe), 5)))  # from here on bytes and sets are calls, as protocol 2 has them
    root = read(data)
    assert difference(root, read(emit(root))) == ""


@given(recipe=RECIPE)
def test_nothing_newer_than_protocol_2_is_written(recipe: list[tuple[str, list[Any]]]) -> None:
    data = emit(read(pickle.dumps(made_of(recipe), 5)))
    assert data[:2] == b"\x80\x02"
    assert max(opcode.proto for opcode, _, _ in pickletools.genops(data)) <= 2


def test_nesting_may_be_deep() -> None:
    value: Any = None
    for _ in range(50_000):
        value = [value] if value is None or isinstance(value, tuple) else (value,)
    assert difference(value, read(emit(value))) == ""


def test_more_objects_than_a_byte_counts_are_told_apart() -> None:
    shared = [[number] for number in range(700)]
    assert difference(shared + shared, pickle.loads(emit(shared + shared))) == ""


def test_the_same_graph_gives_the_same_bytes() -> None:
    data = pickle.dumps({"a": [1, (2, b"3")], "b": {4}}, 4)
    assert emit(read(data)) == emit(read(data))


def test_keys_that_are_nested_tuples_stay_keys() -> None:
    value = {(1, (2, (3, "four"))): "deep", ("a",): "flat"}
    assert pickle.loads(written(pickle.dumps(value, 2))) == value


# --- objects of Python ----------------------------------------------------------------------------


class Point(NamedTuple):
    x: int
    y: Any


class Slots:
    """State in slots, and none in a dictionary."""

    __slots__ = ("first", "second")

    def __init__(self, first: Any, second: Any) -> None:
        self.first, self.second = first, second

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Slots) and (self.first, self.second) == (other.first, other.second)

    __hash__ = None  # type: ignore[assignment]


class Thing:
    """An object with attributes."""

    def __init__(self, **own: Any) -> None:
        vars(self).update(own)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]


class Odd(set):  # type: ignore[type-arg]
    """A set of one's own, with an attribute."""


class Rows(list):  # type: ignore[type-arg]
    """A list of one's own, with an attribute."""


class Table(dict):  # type: ignore[type-arg]
    """A dictionary of one's own, with an attribute."""


class Stateful:
    """What it gives as its state is no dictionary."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __getstate__(self) -> Any:
        return (1, self.value)

    def __setstate__(self, state: Any) -> None:
        self.value = state[1]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stateful) and self.value == other.value

    __hash__ = None  # type: ignore[assignment]


class Keyword:
    """Made with a keyword argument."""

    def __new__(cls, *, value: int = 0) -> Keyword:
        made = super().__new__(cls)
        made.value = value
        return made

    value: int

    def __getnewargs_ex__(self) -> tuple[tuple[()], dict[str, int]]:
        return (), {"value": self.value}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Keyword) and self.value == other.value

    __hash__ = None  # type: ignore[assignment]


class Colour(enum.Enum):
    RED = 1


class Outer:
    class Inner(Thing):
        """A class inside a class: its name has a dot."""


def with_attribute(made: Any) -> Any:
    made.note = ["of its own"]
    return made


def joined(*parts: str) -> str:
    return "-".join(parts)


THINGS: dict[str, Any] = {
    "ordered dict": collections.OrderedDict([("b", 1), ("a", collections.OrderedDict())]),
    "default dict": collections.defaultdict(list, {"a": [1], "b": []}),
    "counter": collections.Counter("abracadabra"),
    "deque": collections.deque([1, 2, 3], maxlen=5),
    "pure path": pathlib.PurePosixPath("/runs/train/weights"),
    "windows path": pathlib.PureWindowsPath("C:\\runs\\train"),
    "named tuple": Point(1, Point(2, "three")),
    "set of one's own": with_attribute(Odd({1, 2})),
    "list of one's own": with_attribute(Rows([1, 2])),
    "dict of one's own": with_attribute(Table(a=1)),
    "slots": Slots(1, [2]),
    "attributes": Thing(a=1, b=Thing(c=None)),
    "state that is no dict": Stateful([1, 2]),
    "partial": functools.partial(joined, "a", "b"),
    "date": datetime.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=datetime.timezone.utc),
    "duration": datetime.timedelta(days=1, seconds=2),
    "complex": 1 - 2j,
    "decimal": decimal.Decimal("1.25"),
    "fraction": fractions.Fraction(1, 3),
    "slice": slice(1, None, 2),
    "range": range(3, 9),
    "enum": Colour.RED,
    "class": Thing,
    "function": joined,
    "inner class": Outer.Inner(a=1),
    "inner class beside old names": [Outer.Inner(a={1}), b"raw", range(3), collections.OrderedDict(a=map)],
    "keyword arguments": Keyword(value=3),
    "numpy scalar": np.float64(0.5),
    "numpy integer": np.int64(-3),
    "numpy bool": np.bool_(True),
    "numpy dtype": np.dtype("<f4"),
    "record dtype": np.dtype([("a", "<i4"), ("b", "<f8")]),
    "set": {1, "two", (3, 4)},
    "frozen set": frozenset({1, frozenset({2})}),
    "bytes": b"\0\xff raw",
    "byte array": bytearray(b"\0\xff raw"),
    "Python 2 names": (range, map, zip, BaseException()),
}  # fmt: skip
ARRAYS = {
    "floats": np.arange(6, dtype="<f4").reshape(2, 3),
    "columns first": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "nothing": np.zeros((0, 3)),
    "text": np.array(["a", "bc"]),
    "objects": np.array([1, "two", None], dtype=object),
    "big-endian": np.arange(3, dtype=">i8"),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", THINGS)
def test_objects_of_python_come_back_equal(kind: str, protocol: int) -> None:
    value = THINGS[kind]
    if protocol < 2 and isinstance(value, Slots):
        pytest.skip("protocols 0 and 1 refuse slots")
    came = pickle.loads(written(pickle.dumps([value, value], protocol)))
    if isinstance(value, functools.partial):
        assert [held() for held in came] == [value(), value()]
    elif kind == "Python 2 names":
        assert repr(came) == repr([value, value])
    else:
        assert came == [value, value]
        assert type(came[0]) is type(value)
        assert getattr(came[0], "note", None) == getattr(value, "note", None)
    assert came[0] is came[1]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", ARRAYS)
def test_numpy_arrays_come_back_equal(kind: str, protocol: int) -> None:
    data = pickle.dumps(ARRAYS[kind], protocol)
    value, came = pickle.loads(data), pickle.loads(written(data))
    assert (came.dtype, came.shape, came.flags.f_contiguous) == (value.dtype, value.shape, value.flags.f_contiguous)
    assert came.tolist() == value.tolist()


def test_an_object_may_hold_itself() -> None:
    value: Any = Thing(name="a")
    value.me = [value, (value,)]
    came = pickle.loads(written(pickle.dumps(value, 4)))
    assert came.me[0] is came
    assert came.me[1][0] is came


def test_classes_of_old_style_are_made_as_they_were() -> None:
    old = b"(iargparse\nNamespace\n(dS'a'\nI1\nsb."
    assert vars(pickle.loads(written(old))) == {"a": 1}
    assert vars(pickle.loads(written(b"(cargparse\nNamespace\no}S'a'\nI1\nsb."))) == {"a": 1}


# --- storages, and what was exchanged -------------------------------------------------------------


def test_each_reference_to_a_storage_gets_the_id_that_is_asked_for() -> None:
    root = read(pickled(items(*(items(text("storage"), text(key)) + BINPERSID for key in "ab"))))
    made = read(emit(root, lambda node: ("storage", node.id[1].upper())))
    assert [node.id for node in made] == [("storage", "A"), ("storage", "B")]


def test_a_storage_referred_to_twice_is_asked_for_once_and_stays_one() -> None:
    held = Persistent(("storage", "7"), 0)
    asked: list[Any] = []
    made = read(emit([held, {"a": held}], lambda node: asked.append(node) or ("storage", "0")))  # type: ignore[func-returns-value]
    assert made[0] is made[1]["a"]
    assert len(asked) == 1


def test_a_node_is_exchanged_wherever_it_is_met() -> None:
    path = Call(GlobalRef("pathlib", "PosixPath", -1), ("a", "b"), "reduce", -1)
    made = emit({"one": path, "two": [path]}, swaps={id(path): "a/b"})
    assert pickle.loads(made) == {"one": "a/b", "two": ["a/b"]}


# --- what can't be written ------------------------------------------------------------------------


class Buffer:
    def __reduce_ex__(self, protocol: Any) -> Any:
        return bytearray, (pickle.PickleBuffer(b"raw"),)


def refused(root: Any) -> str:
    with pytest.raises(EmitError) as raised:
        emit(root)
    return str(raised.value)


def test_extension_codes_are_refused() -> None:
    assert "Extension" in refused(read(b"\x80\x02\x82\x01."))
    assert refused(read(b"\x80\x02]\x83\x01\x01a."))


def test_out_of_band_buffers_are_refused() -> None:
    held: list[Any] = []
    data = pickle.dumps(Buffer(), 5, buffer_callback=held.append)
    assert held
    assert refused(read(data))


def test_computed_names_are_refused() -> None:
    assert "can't be written" in refused(read(pickled(call(name("os", "getcwd")) + text("x") + b"\x93")))


def test_names_that_would_end_their_line_are_refused() -> None:
    assert refused(GlobalRef("posix\nsystem", "x", 0))
    assert refused(GlobalRef("a", "b\nc", 0))


def test_an_argument_of_its_own_construction_is_refused() -> None:
    held = Call(GlobalRef("builtins", "list", -1), (), "reduce", -1)
    held.args = ([held],)
    assert "own construction" in refused(held)


def test_graph_that_never_ends_by_sharing_is_written_in_the_size_of_its_objects() -> None:
    value: list[Any] = ["end"]
    for _ in range(60):
        value = [value, value]  # 2**60 paths lead to the end
    data = emit(value)
    assert len(data) < 2000
    assert difference(value, read(data)) == ""


# --- what was written is judged as it was ---------------------------------------------------------


@pytest.mark.parametrize("path", ARCHIVES, ids=lambda path: path.stem)
def test_verdict_on_a_real_file_stays_the_same_when_its_pickle_is_written_again(path: Path) -> None:
    with open_checkpoint(path) as before:
        after = read_checkpoint(BytesSource(with_written_pickle(path)))
        assert [fact.slug for fact in after.findings] == [fact.slug for fact in before.findings]
        assert {held.what for _, held in after.judgements} == {held.what for _, held in before.judgements}


SPELT = {
    "bytes": b"C\x03abc",
    "set": b"\x8f(K\x01K\x02\x90",
    "frozen set": b"(K\x01K\x02\x91",
    "byte array": b"\x96\x03\0\0\0\0\0\0\0abc",
    "class in a class": stack_name("my_project.data", "Loader.Options"),
    "object of a class in a class": stack_name("my_project.data", "Loader.Options") + b")\x81",
}


@pytest.mark.parametrize("kind", SPELT)
def test_spelling_of_protocol_2_is_no_danger_where_the_original_was_none(kind: str) -> None:
    data = pickled(state_dict(extra=SPELT[kind]), 5)
    before, after = (read_checkpoint(BytesSource(torch_zip(pickle))) for pickle in (data, written(data)))
    assert decide(before.findings) is not Verdict.UNSAFE
    assert decide(after.findings) is decide(before.findings)


def test_memo_of_the_original_makes_no_difference() -> None:
    data = pickled(MARK + text("a") + put(9) + get(9) + integer(3) + put(200) + get(200) + b"t")
    assert read(emit(read(data))) == ("a", "a", 3, 3)
    assert "BINGET" in opcodes(emit(read(data)))
    assert isinstance(read(pickle.dumps({1}, 4)), SetNode)

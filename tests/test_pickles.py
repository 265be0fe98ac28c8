"""The pickle machine: plain data as pickle.loads gives it, everything else inert, whatever the bytes."""

from __future__ import annotations

import collections
import pickle
import pickletools
import struct
from typing import Any

import pytest
from building import (
    APPEND,
    BUILD,
    EMPTY_DICT,
    EMPTY_LIST,
    EMPTY_TUPLE,
    MARK,
    NEWOBJ,
    NONE,
    POP,
    call,
    framed,
    get,
    integer,
    name,
    pickled,
    put,
    text,
)

from ckpt_tools.findings import StrictReadError, collect, strict
from ckpt_tools.pickles import (
    Call,
    Extension,
    GlobalRef,
    OutOfBand,
    Persistent,
    SetNode,
    children,
    is_mapping,
    pairs_of,
    read_pickle,
    run,
)
from ckpt_tools.pickles.machine import MOST_DIGITS, OPCODES

PROTOCOLS = range(6)
PLAIN = [
    None,
    True,
    False,
    0,
    255,
    -1,
    2**31 - 1,
    -(2**31),
    2**63,
    -(2**400),
    0.5,
    float("inf"),
    "",
    "Grüße",
    "\ud800",
    "line\nbreak\\u0041",
    (),
    (1,),
    (1, 2),
    (1, 2, 3),
    (1, 2, 3, 4),
    [],
    [1, [2, [3]]],
    {},
    {"a": {"b": [1, (2, 3)]}, 4: None},
    ["x" * 300, "x" * 70_000],
    list(range(3000)),
]


class TestPlainData:
    @pytest.mark.parametrize("protocol", PROTOCOLS)
    @pytest.mark.parametrize("value", PLAIN, ids=lambda value: repr(value)[:20])
    def test_reads_back_what_was_pickled(self, value: Any, protocol: int) -> None:
        found = run(pickle.dumps(value, protocol))
        assert found.trouble is None
        assert found.root == value
        assert type(found.root) is type(value)

    @pytest.mark.parametrize("protocol", [3, 4, 5])
    @pytest.mark.parametrize("value", [b"", b"raw\0", b"x" * 300, b"x" * 70_000])
    def test_bytes_read_back(self, value: bytes, protocol: int) -> None:
        assert run(pickle.dumps(value, protocol)).root == value

    def test_bytearray_reads_back(self) -> None:
        assert run(pickle.dumps(bytearray(b"abc"), 5)).root == bytearray(b"abc")

    @pytest.mark.parametrize(("value", "frozen"), [({1, 2}, False), (frozenset({1, 2}), True)])
    def test_sets_keep_their_members(self, value: Any, frozen: bool) -> None:
        root = run(pickle.dumps(value, 4)).root
        assert isinstance(root, SetNode)
        assert root.frozen is frozen
        assert set(root.items) == value

    def test_python_2_strings_are_text(self) -> None:
        assert run(b"S'epoch'\n.").root == "epoch"
        assert run(b"U\x03\xe4bc.").root == "äbc"
        assert run(b"T\x03\0\0\0abc.").root == "abc"

    def test_sharing_is_kept(self) -> None:
        shared: list[int] = [1]
        root = run(pickle.dumps({"a": shared, "b": shared})).root
        assert root["a"] is root["b"]

    def test_cycles_are_kept(self) -> None:
        value: list[Any] = []
        value.append({"self": value})
        root = run(pickle.dumps(value)).root
        assert root[0]["self"] is root

    @pytest.mark.parametrize("protocol", PROTOCOLS)
    def test_ordered_dict_keeps_its_pairs(self, protocol: int) -> None:
        root = run(pickle.dumps(collections.OrderedDict(a=1, b=2), protocol)).root
        assert is_mapping(root)
        assert list(pairs_of(root)) == [("a", 1), ("b", 2)]


class TestInertNodes:
    def test_a_name_is_not_imported(self) -> None:
        root = run(pickled(name("no.such.module", "Thing"))).root
        assert isinstance(root, GlobalRef)
        assert root.path == "no.such.module.Thing"

    def test_a_call_is_not_made(self) -> None:
        found = run(pickled(call(name("os", "abort"), text("x"))))
        assert isinstance(found.root, Call)
        assert (found.root.path, found.root.args, found.root.kind) == ("os.abort", ("x",), "reduce")

    def test_an_object_keeps_its_state(self) -> None:
        root = run(
            pickled(name("a", "B") + EMPTY_TUPLE + NEWOBJ + EMPTY_DICT + text("k") + integer(1) + b"s" + BUILD)
        ).root
        assert root.kind == "newobj"
        assert root.state == {"k": 1}

    def test_keyword_arguments_of_newobj_ex_are_kept(self) -> None:
        root = run(pickled(name("a", "B") + EMPTY_TUPLE + EMPTY_DICT + text("k") + integer(1) + b"s\x92")).root
        assert root.kwargs == {"k": 1}

    def test_inst_and_obj_take_their_arguments_from_the_stack(self) -> None:
        assert run(b"(I1\nia\nB\n.").root.args == (1,)
        assert run(b"(ca\nB\nI1\no.").root.args == (1,)

    def test_persistent_ids_stay_ids(self) -> None:
        assert isinstance(run(b"Pstorage 7\n.").root, Persistent)
        assert run(pickled(text("x") + b"Q")).root.id == "x"

    def test_extension_codes_are_listed(self) -> None:
        found = run(pickled(b"\x82\x07" + POP + NONE))
        assert [entry.code for entry in found.extensions] == [7]
        assert isinstance(run(pickled(b"\x83\x07\x01")).root, Extension)

    def test_out_of_band_buffers_are_not_asked_for(self) -> None:
        assert isinstance(run(pickled(b"\x97\x98", 5)).root, OutOfBand)

    def test_what_is_dropped_is_still_listed(self) -> None:
        found = run(pickled(call(name("os", "abort")) + POP + NONE))
        assert found.root is None
        assert [entry.path for entry in found.calls] == ["os.abort"]
        assert [entry.path for entry in found.globals] == ["os.abort"]

    def test_name_with_computed_parts_is_marked(self) -> None:
        found = run(pickled(integer(1) + text("system") + b"\x93"))
        assert found.globals[0].computed

    def test_children_of_a_call_are_all_its_parts(self) -> None:
        root = run(pickled(call(name("a", "B"), integer(1)) + EMPTY_DICT + BUILD)).root
        inside = list(children(root))
        assert root.callee in inside
        assert {} in inside

    def test_positions_are_offsets_of_opcodes(self) -> None:
        data = pickled(text("padding") + POP + name("a", "B"))
        assert data[run(data).globals[0].position : data.index(b"ca\n") + 1] == b"c"


class TestTrouble:
    @pytest.mark.parametrize("protocol", PROTOCOLS)
    def test_cut_anywhere_is_noticed(self, protocol: int) -> None:
        whole = pickle.dumps({"epoch": 3, "lr": [0.1] * 5, "names": {"0": "x" * 300}}, protocol)
        for length in range(len(whole)):
            found = run(whole[:length])
            assert found.trouble is not None, length
            assert found.trouble.kind == "cut", (length, str(found.trouble))
            assert 0 <= found.trouble.position <= length

    @pytest.mark.parametrize(
        ("data", "kind"),
        [
            (b"\x80\x02\xff.", "broken"),
            (b"\x80\x02h\x09.", "broken"),
            (b"\x80\x02" + EMPTY_DICT + EMPTY_LIST + NONE + b"s.", "broken"),
            (b"\x80\x02" + MARK + text("key") + b"d.", "broken"),
            (b"Ix\n.", "broken"),
            (b"Sno quotes\n.", "broken"),
            (b"\x80\x09N.", "broken"),
            (b"L" + b"9" * (MOST_DIGITS + 1) + b"L\n.", "limit"),
            (framed(EMPTY_DICT, length=2**50), "cut"),
        ],
    )
    def test_what_is_wrong_is_told_apart(self, data: bytes, kind: str) -> None:
        found = run(data)
        assert found.trouble is not None
        assert found.trouble.kind == kind

    def test_operand_over_the_end_of_a_frame_is_two_readings(self) -> None:
        string = b"X" + struct.pack("<I", 4) + b"text"
        data = b"\x80\x04\x95" + struct.pack("<Q", 3) + string + b"."
        found = run(data)
        assert found.trouble is not None
        assert found.trouble.kind == "straddle"
        assert found.root == "text"

    def test_strict_reading_raises_with_the_place(self) -> None:
        with pytest.raises(StrictReadError, match="CKPT201"):
            read_pickle(pickle.dumps({"a": 1})[:-2], strict)

    def test_tolerant_reading_keeps_what_was_read(self) -> None:
        found, sink = collect()
        whole = pickled(
            EMPTY_DICT + text("epoch") + integer(3) + b"s" + text("model") + EMPTY_LIST + integer(1) + APPEND
        )
        rest = read_pickle(whole[:-3], sink).rest
        assert [fact.slug for fact in found] == ["pickle-cut"]
        assert rest[0] == {"epoch": 3}

    def test_numbers_made_to_collide_do_not_hang_a_dictionary(self) -> None:
        modulus = 2**61 - 1
        entries = b"".join(integer(modulus * number << 4) + NONE for number in range(1, 3000))
        found = run(pickled(EMPTY_DICT + MARK + entries + b"u"))
        assert found.trouble is not None
        assert found.trouble.kind == "limit"

    def test_nested_tuple_as_key_is_not_hashed(self) -> None:
        doubled = EMPTY_TUPLE + b"2\x86" * 60
        found = run(pickled(EMPTY_DICT + doubled + NONE + b"s"))
        assert found.trouble is None
        assert len(found.root) == 1


def test_every_opcode_of_pickletools_is_known() -> None:
    in_loop = set(
        b"\x71\x72\x68\x6a\x58\x8c\x28\x4b\x74\x52\x51\x29\x85\x86\x87\x89\x88\x4e\x4d\x4a\x47\x7d\x5d\x94\x2e"
    )
    known = in_loop | set(OPCODES)
    assert {ord(entry.code) for entry in pickletools.opcodes} == known


def test_memo_is_numbered_as_pickle_does() -> None:
    data = pickled(text("a") + b"\x94" + text("b") + put(5) + text("c") + b"\x94" + get(2) + b"\x87")
    assert run(data).root == pickle.loads(data)

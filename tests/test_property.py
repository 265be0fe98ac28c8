"""Promises that hold for any damage and any bytes, tried out on whatever hypothesis comes up with."""

from __future__ import annotations

import math
import pickle
import pickletools
import random
import struct
from collections.abc import Callable
from typing import Any

import pytest
from building import GOOD_PICKLE, Tensor, plain_checkpoint, saved, saved_legacy, torch_zip, ultralytics_checkpoint
from conftest import FIXTURES
from damage import cut, flip, zero_tail
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ckpt_tools.checkpoint import Checkpoint, read_checkpoint
from ckpt_tools.checks.context import Context
from ckpt_tools.checks.names import TensorNames
from ckpt_tools.findings import Verdict
from ckpt_tools.pickles import run
from ckpt_tools.pickles.machine import OPCODES
from ckpt_tools.source import BytesSource
from ckpt_tools.verbs.inspect import overview, tree
from ckpt_tools.verbs.verify import Report, verify_checkpoint

PROTOCOLS = st.integers(0, 5)
ZIP = saved(plain_checkpoint())
STREAM = saved_legacy(plain_checkpoint())
STREAM_END = struct.pack("<2f", 0.125, 0.125)  # the last storage: momentum of the last bias
YOLO = saved(ultralytics_checkpoint())
REAL = (FIXTURES / "ultralytics-8.4-interrupted-sgd.pt").read_bytes()
FILES = {"zip": ZIP, "stream": STREAM, "yolo": YOLO, "real": REAL}


def judged(data: bytes, quick: bool = False) -> Report:
    return verify_checkpoint(read_checkpoint(BytesSource(data)), Context(quick), siblings=False)


def storage_spans(data: bytes) -> list[tuple[int, int, str]]:
    """Where storages lie in a file, and the name of a tensor in each."""
    checkpoint = read_checkpoint(BytesSource(data))
    return [(offset, offset + size, tensor) for offset, size, tensor in _spans(checkpoint)]


def _spans(checkpoint: Checkpoint) -> list[tuple[int, int, str]]:
    names = TensorNames(checkpoint)
    assert checkpoint.container is not None
    found = []
    for tensor in checkpoint.tensors.values():
        member = checkpoint.container.storage(tensor.storage.key) if tensor.storage else None
        if member is not None and member.size:
            found.append((member.offset, member.size, names.of(tensor)))
    return found


SPANS = {name: storage_spans(data) for name, data in FILES.items() if name != "stream"}


def test_stream_ends_as_this_module_believes() -> None:
    assert STREAM.endswith(struct.pack("<q", 2) + STREAM_END)


@pytest.mark.parametrize("name", FILES)
def test_undamaged_file_is_resumable(name: str) -> None:
    assert judged(FILES[name]).verdict is Verdict.RESUMABLE


@pytest.mark.parametrize("name", FILES)
@given(share=st.floats(0, 1, exclude_max=True), quick=st.booleans())
def test_cut_anywhere_is_damaged(name: str, share: float, quick: bool) -> None:
    data = FILES[name]
    assert judged(cut(data, int(share * len(data))), quick).verdict is Verdict.DAMAGED


@pytest.mark.parametrize("make", [saved, saved_legacy], ids=["archive", "stream"])
def test_cut_at_every_byte_is_damaged(make: Callable[[Any], bytes]) -> None:
    data = make({"model": {"weight": Tensor((2, 2)), "bias": Tensor((2,))}, "epoch": 3})
    wrong = [length for length in range(len(data)) if judged(cut(data, length), True).verdict is not Verdict.DAMAGED]
    assert wrong == []


@pytest.mark.parametrize("name", SPANS)
@given(choice=st.integers(0, 1 << 30), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_flipped_bit_in_a_storage_is_damage_that_names_the_tensor(
    name: str, choice: int, place: float, bit: int
) -> None:
    start, end, tensor = SPANS[name][choice % len(SPANS[name])]
    report = judged(flip(FILES[name], start + int(place * (end - start)), bit))
    assert report.verdict is Verdict.DAMAGED
    told = next(fact.message for fact in report.findings if fact.slug == "checksum-mismatch")
    assert tensor in told or " more" in told


@pytest.mark.parametrize("name", ["zip", "yolo", "real"])
@given(share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_flipped_bit_anywhere_never_raises(name: str, share: float, bit: int) -> None:
    data = FILES[name]
    assert judged(flip(data, int(share * len(data)), bit)).verdict is not None


@pytest.mark.parametrize("name", SPANS)
@given(share=st.floats(0, 1, exclude_max=True), quick=st.booleans())
def test_zeros_to_the_end_are_damage(name: str, share: float, quick: bool) -> None:
    data = FILES[name]
    assert judged(zero_tail(data, int(share * len(data.rstrip(b"\0")))), quick).verdict is Verdict.DAMAGED


@given(share=st.floats(0, 1, exclude_max=True))
def test_zeros_to_the_end_of_a_stream_are_damage_where_more_than_values_are_lost(share: float) -> None:
    # The old format has no checksums: zeros among the values are values like any others.
    last = len(STREAM[: len(STREAM) - len(STREAM_END)].rstrip(b"\0"))
    assert judged(zero_tail(STREAM, int(share * last))).verdict is Verdict.DAMAGED


@given(data=st.binary(max_size=4096))
@example(data=b"PK\3\4")
@example(data=b"PK\5\6" + bytes(18))
@example(data=b"\x80\x02")
def test_any_bytes_get_a_verdict_and_never_a_good_one(data: bytes) -> None:
    report = judged(data)
    assert report.verdict in (Verdict.DAMAGED, Verdict.FOREIGN, Verdict.UNSAFE)


@given(
    head=st.sampled_from([b"PK\3\4", b"\x80\x02", b"\x80\x04\x95", GOOD_PICKLE[:40], ZIP[:200]]),
    more=st.binary(max_size=2000),
)
def test_any_bytes_behind_a_good_beginning_get_a_verdict(head: bytes, more: bytes) -> None:
    checkpoint = read_checkpoint(BytesSource(head + more))
    assert verify_checkpoint(checkpoint, Context(), siblings=False).verdict is not Verdict.RESUMABLE
    overview(checkpoint)
    list(tree(checkpoint))


@given(changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=12))
def test_scribbled_file_gets_a_verdict(changes: list[tuple[float, int]]) -> None:
    data = bytearray(ZIP)
    for share, value in changes:
        data[int(share * len(data))] = value
    assert judged(bytes(data)).verdict is not None


# --- pickles --------------------------------------------------------------------------------------

KEYS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=20))
SCALARS = st.one_of(KEYS, st.floats(), st.text())
DATA = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=6),
        st.dictionaries(KEYS, inner, max_size=6),
        st.tuples(inner),
        st.tuples(inner, inner),
        st.tuples(inner, inner, inner, inner),
    ),
    max_leaves=40,
)


def same(one: Any, other: Any) -> bool:
    """Equality that tells ``1`` from ``True`` and lets NaN equal itself."""
    if type(one) is not type(other):
        return False
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return list(map(repr, one)) == list(map(repr, other)) and all(map(same, one.values(), other.values()))
    return bool(one == other) or (isinstance(one, float) and math.isnan(one) and math.isnan(other))


@settings(max_examples=300)
@given(value=DATA, protocol=PROTOCOLS)
def test_plain_data_reads_as_pickle_reads_it(value: Any, protocol: int) -> None:
    data = pickle.dumps(value, protocol)
    found = run(data)
    assert found.trouble is None
    assert same(found.root, pickle.loads(data))
    assert found.end == len(data)


@given(value=DATA, protocol=PROTOCOLS, more=st.binary(max_size=20))
def test_pickle_ends_at_its_stop_whatever_follows(value: Any, protocol: int, more: bytes) -> None:
    data = pickle.dumps(value, protocol)
    assert run(data + more).end == len(data)


@given(value=DATA, protocol=PROTOCOLS, share=st.floats(0, 1, exclude_max=True))
def test_cut_pickle_is_told_from_a_broken_one(value: Any, protocol: int, share: float) -> None:
    data = pickle.dumps(value, protocol)
    found = run(cut(data, int(share * len(data))))
    assert found.trouble is not None
    assert found.trouble.kind == "cut"


CODES = [ord(entry.code) for entry in pickletools.opcodes]
SOUP = st.lists(st.one_of(st.sampled_from(CODES), st.integers(0, 255)), max_size=200).map(bytes)


@settings(max_examples=500)
@given(soup=SOUP, protocol=st.integers(0, 6))
def test_opcode_soup_never_raises(soup: bytes, protocol: int) -> None:
    found = run(b"\x80" + bytes([protocol]) + soup + b".")
    assert found.trouble is None or found.trouble.kind in ("cut", "broken", "limit", "straddle")
    assert found.end <= len(soup) + 3


@settings(max_examples=200)
@given(soup=SOUP)
def test_opcode_soup_in_an_archive_gets_a_verdict(soup: bytes) -> None:
    checkpoint = read_checkpoint(BytesSource(torch_zip(b"\x80\x02" + soup + b".")))
    assert verify_checkpoint(checkpoint, Context(), siblings=False).verdict is not Verdict.RESUMABLE
    overview(checkpoint)


def boundaries(data: bytes) -> list[int] | None:
    """Where pickletools sees opcodes begin, or ``None`` where it can't read on."""
    try:
        return [position for _, _, position in pickletools.genops(data) if position is not None]
    except Exception:  # it raises whatever its readers raise
        return None


def opcode_starts(data: bytes, monkeypatch: pytest.MonkeyPatch) -> tuple[list[int], Any]:
    """Where the machine starts those opcodes that it takes from its table."""
    starts: list[int] = []

    def noted(action: Any) -> Any:
        def act(machine: Any) -> None:
            starts.append(machine.start)
            action(machine)

        return act

    with monkeypatch.context() as patch:
        for code, action in list(OPCODES.items()):
            patch.setitem(OPCODES, code, noted(action))
        found = run(data)
    return starts, found


@given(value=DATA, protocol=PROTOCOLS)
def test_opcodes_begin_where_pickletools_sees_them(value: Any, protocol: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        data = pickle.dumps(value, protocol)
        starts, found = opcode_starts(data, patch)
    wanted = boundaries(data)
    assert wanted is not None
    assert found.trouble is None
    assert starts == [place for place in wanted if data[place] in OPCODES]


@settings(max_examples=300)
@given(soup=SOUP)
def test_opcodes_of_a_soup_begin_where_pickletools_sees_them(soup: bytes) -> None:
    data = b"\x80\x04" + soup + b"."
    with pytest.MonkeyPatch.context() as patch:
        starts, found = opcode_starts(data, patch)
    wanted = boundaries(data)
    if wanted is not None:  # where pickletools reads to the end, it agrees as far as the machine came
        assert starts == [place for place in wanted if data[place] in OPCODES][: len(starts)]


# --- values ---------------------------------------------------------------------------------------


@given(
    dtype=st.sampled_from(["float32", "float16", "float64"]),
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple),
    bad=st.sampled_from([math.nan, math.inf, -math.inf]),
    seed=st.integers(0, 1 << 30),
)
def test_one_bad_value_anywhere_is_found(dtype: str, shape: tuple[int, ...], bad: float, seed: int) -> None:
    chance = random.Random(seed)
    values = [chance.uniform(-9, 9) for _ in range(math.prod(shape))]
    good = plain_checkpoint()
    good["model_state_dict"]["extra.weight"] = Tensor(shape, values, dtype)
    assert judged(saved(good)).verdict is Verdict.RESUMABLE
    values[chance.randrange(len(values))] = bad
    good["model_state_dict"]["extra.weight"] = Tensor(shape, values, dtype)
    report = judged(saved(good))
    assert report.verdict is Verdict.INCOMPLETE
    assert any("extra.weight" in fact.message for fact in report.findings if fact.slug == "non-finite")

"""Tensors as a file describes them, and their values read from raw bytes."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import pytest
from building import (
    EMPTY_LIST,
    FALSE,
    NONE,
    ORDERED_DICT,
    TRUE,
    Raw,
    Storage,
    Tensor,
    call,
    detector,
    integer,
    items,
    name,
    pickled,
    saved,
    saved_legacy,
    shape_of,
    state_dict,
    storage,
    tensor,
    text,
    torch_zip,
)
from conftest import Verify, Write

import ckpt_tools
from ckpt_tools.findings import Verdict
from ckpt_tools.pickles import run
from ckpt_tools.tensors import DTYPES, TensorRef, contiguous_stride, dtype_of_storage_class, resolve, resolve_tensors
from ckpt_tools.tensors.values import Magnitudes, finite_peak, nonfinite_peak

TWELVE = list(range(12))


def only(body: bytes) -> TensorRef:
    (found,) = resolve_tensors(run(pickled(body))).values()
    return found


class TestDescribed:
    def test_plain_tensor(self) -> None:
        found = only(tensor())
        assert (found.shape, found.stride, found.offset, str(found.dtype)) == ((2, 2), (2, 1), 0, "float32")
        assert (found.numel, found.nbytes, found.span) == (4, 16, (0, 4))
        assert found.storage is not None
        assert (found.storage.key, found.storage.location, found.storage.numel) == ("0", "cpu", 4)

    def test_view_spans_from_its_first_to_its_last_value(self) -> None:
        found = only(tensor((2,), (3,), 1, count=9))
        assert found.span == (1, 4)

    def test_parameter_counts_once(self) -> None:
        found = only(call(name("torch._utils", "_rebuild_parameter"), tensor(), TRUE, call(ORDERED_DICT)))
        assert found.parameter

    def test_meta_tensor_has_no_bytes(self) -> None:
        made = call(
            name("torch._utils", "_rebuild_meta_tensor_no_storage"),
            name("torch", "float32"),
            shape_of(2, 3),
            shape_of(3, 1),
            FALSE,
        )
        found = only(made)
        assert found.storage is None
        assert found.shape == (2, 3)

    def test_version_3_names_its_dtype(self) -> None:
        made = call(
            name("torch._utils", "_rebuild_tensor_v3"),
            storage("UntypedStorage", "0", 8),
            integer(0),
            shape_of(4),
            shape_of(1),
            FALSE,
            call(ORDERED_DICT),
            name("torch", "uint16"),
        )
        assert str(only(made).dtype) == "uint16"

    @pytest.mark.parametrize(
        "body",
        [
            tensor(shape=(-2, 2)),
            tensor(offset=-1),
            tensor(stride=(-2, 1)),
            tensor(stride=(1,)),
            tensor(kind="NoStorage"),
            call(name("torch._utils", "_rebuild_tensor_v2"), NONE, integer(0), shape_of(2), shape_of(1)),
            call(name("torch._utils", "_rebuild_tensor_v2")),
            call(name("torch._utils", "_rebuild_parameter"), NONE),
        ],
    )
    def test_malformed_tensor_is_none(self, body: bytes) -> None:
        assert resolve_tensors(run(pickled(body))) == {}

    @pytest.mark.parametrize(
        ("body", "why"),
        [
            (tensor(offset=-1), "storage_offset is -1"),
            (tensor(shape=(-2, 2)), "size is (-2, 2)"),
            (tensor(shape=(2**63, 2)), f"size[0] is {2**63}"),
            (tensor(stride=(-2, 1)), "stride is (-2, 1)"),
            (tensor(stride=(1,)), "stride is (1,), 1 steps for 2 dimensions"),
            (tensor(kind="NoStorage"), "storage has the type torch.NoStorage"),
            (tensor(count=-4), "storage has -4 elements"),
            (call(name("torch._utils", "_rebuild_tensor"), NONE, NONE, NONE, NONE), "storage is None"),
            (call(name("torch._utils", "_rebuild_tensor_v2")), "called with 0 arguments"),
            (call(name("torch._utils", "_rebuild_parameter"), storage(), TRUE, NONE), "data is a storage"),
            (call(name("torch._utils", "_rebuild_parameter"), tensor(), NONE, NONE), "requires_grad is None"),
            (call(name("torch._utils", "_rebuild_parameter"), tensor(offset=-1), TRUE, NONE), "storage_offset is -1"),
            (call(name("torch._utils", "_rebuild_parameter"), tensor(kind="LongStorage"), TRUE, NONE), "no gradient"),
        ],
    )
    def test_what_stops_torch_is_told_once(self, body: bytes, why: str) -> None:
        problems = set(resolve(run(pickled(body))).misbuilt.values())
        assert [why in str(problem) for problem in problems] == [True]

    @pytest.mark.parametrize(
        "body",
        [
            tensor(shape=(0, 2), stride=(7, 9), offset=2**40),
            tensor(shape=(0, -1), stride=(1, 1)),
            tensor(shape=(1,), stride=(-5,)),
            tensor(shape=(2**31, 2**31), stride=(0, 0)),
            tensor(shape=(2, 2), stride=()),
            call(name("torch._utils", "_rebuild_parameter"), NONE, TRUE, NONE),
            call(name("torch._utils", "_rebuild_parameter"), tensor(kind="LongStorage"), FALSE, NONE),
        ],
    )
    def test_odd_but_valid_is_valid(self, body: bytes) -> None:
        assert not resolve(run(pickled(body))).misbuilt

    def test_first_reference_says_what_a_storage_holds(self) -> None:
        """torch loads a storage once; a second class for it says nothing."""
        both = items(tensor((2,), (1,)), tensor((2,), (1,), kind="HalfStorage"))
        assert [str(held.dtype) for held in resolve_tensors(run(pickled(both))).values()] == ["float32", "float32"]

    def test_tensors_share_their_storage(self) -> None:
        found = list(resolve_tensors(run(pickled(items(tensor((2,), (1,)), tensor((2,), (1,), 2))))).values())
        assert found[0].storage is found[1].storage

    @pytest.mark.parametrize(("shape", "stride"), [((), ()), ((4,), (1,)), ((2, 3, 4), (12, 4, 1)), ((0, 3), (3, 1))])
    def test_contiguous_stride(self, shape: tuple[int, ...], stride: tuple[int, ...]) -> None:
        assert contiguous_stride(shape) == stride

    @pytest.mark.parametrize("module", ["torch", "torch.cuda", "torch.storage"])
    def test_storage_classes_name_their_dtype(self, module: str) -> None:
        assert str(dtype_of_storage_class(module, "HalfStorage")) == "float16"
        assert dtype_of_storage_class("mine", "HalfStorage") is None

    def test_modules_name_their_tensors(self, write: Write) -> None:
        with ckpt_tools.open(write(detector())) as opened:
            assert "model.0.conv.weight" in opened
            assert "model.0.bn.running_var" in opened
            assert opened.parts[0].parameters >= {"model.0.conv.weight", "model.1.cv3.0.0.bias"}
            assert opened.parts[0].buffers == {
                "model.0.bn.running_mean",
                "model.0.bn.running_var",
                "model.0.bn.num_batches_tracked",
            }


def values(content: Any, write: Write, make: Any = saved) -> np.ndarray[Any, Any]:
    with ckpt_tools.open(write(make({"model": {"weight": content, "other": Tensor((2,))}}))) as opened:
        return opened["model.weight"].numpy()


class TestValues:
    @pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "int64", "uint8"])
    @pytest.mark.parametrize("make", [saved, saved_legacy], ids=["archive", "stream"])
    def test_values_read_back(self, dtype: str, make: Any, write: Write) -> None:
        found = values(Tensor((3, 4), TWELVE, dtype), write, make)
        assert found.dtype == dtype
        assert found.tolist() == np.arange(12).reshape(3, 4).tolist()

    def test_view_shows_its_own_values(self, write: Write) -> None:
        held = Storage(struct.pack("<12f", *TWELVE))
        assert values(Tensor((2, 2), held, stride=(1, 4), offset=1), write).tolist() == [[1, 5], [2, 6]]

    def test_expanded_view_repeats_its_value(self, write: Write) -> None:
        held = Storage(struct.pack("<2f", 3, 4))
        assert values(Tensor((2, 3), held, stride=(0, 0), offset=1), write).tolist() == [[4] * 3] * 2

    def test_scalar_and_empty_tensors(self, write: Write) -> None:
        assert values(Tensor((), 7.0), write).tolist() == 7.0
        assert values(Tensor((0, 3), []), write).shape == (0, 3)

    def test_bfloat16_comes_as_float32(self, write: Write) -> None:
        held = Storage(struct.pack("<3H", 0x3F80, 0xC000, 0x7F80), "bfloat16")
        assert values(Tensor((3,), held, "bfloat16"), write).tolist() == [1.0, -2.0, math.inf]

    def test_values_can_not_be_written(self, write: Write) -> None:
        with pytest.raises(ValueError, match="read-only"):
            values(Tensor((2,), 1.0), write)[0] = 5

    @pytest.mark.parametrize("deflated", [False, True])
    def test_compressed_members_read_the_same(self, deflated: bool, write: Write) -> None:
        data = saved({"model": {"weight": Tensor((3, 4), TWELVE)}}, deflated=deflated)
        with ckpt_tools.open(write(data)) as opened:
            assert opened["model.weight"].numpy().tolist() == np.arange(12).reshape(3, 4).tolist()

    def test_tensor_whose_bytes_are_missing_is_an_error(self, write: Write) -> None:
        from ckpt_tools import CkptError

        with ckpt_tools.open(write({"model": {"weight": Tensor((4,), [1.0], numel=4)}})) as opened:
            with pytest.raises(CkptError, match="model.weight can't be read"):
                opened["model.weight"].numpy()
            with pytest.raises(CkptError, match="ckpt verify"):
                opened["model.weight"].stats()

    def test_statistics_leave_bad_values_out(self, write: Write) -> None:
        held = Tensor((6,), [0.0, 1.0, 3.0, math.nan, math.inf, -math.inf])
        with ckpt_tools.open(write({"model": {"weight": held, "bias": Tensor((2,))}})) as opened:
            found = opened["model.weight"].stats()
        assert (found.count, found.minimum, found.maximum, found.zeros, found.nonfinite) == (6, 0, 3, 1, 3)
        assert found.mean == pytest.approx(4 / 3)

    def test_tensor_is_an_array_for_numpy(self, write: Write) -> None:
        with ckpt_tools.open(write({"model": {"weight": Tensor((2,), 2.0), "bias": Tensor((2,))}})) as opened:
            assert np.asarray(opened["model.weight"], dtype=np.float64).tolist() == [2.0, 2.0]

    def test_raw_opcodes_that_are_no_tensor_are_no_trouble(self, write: Write) -> None:
        content = {"model": {"weight": Tensor((2,)), "bias": Tensor((2,))}, "x": Raw(tensor(shape=(-1,), stride=(1,)))}
        with ckpt_tools.open(write(content)) as opened:
            assert set(opened) == {"model.weight", "model.bias"}


FLOATING = [dtype for dtype in DTYPES.values() if dtype.name in ("float64", "float32", "float16", "bfloat16")]


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("swap", [False, True], ids=["little", "big"])
def test_peak_tells_finite_from_not(dtype: Any, swap: bool) -> None:
    width, order = dtype.size, "big" if swap else "little"
    largest, infinity = finite_peak(dtype), finite_peak(dtype) + 1
    sign = 1 << (8 * width - 1)
    for pattern in (largest, largest | sign):
        data = pattern.to_bytes(width, order) * 3 + bytes(width)  # type: ignore[arg-type]
        peak = Magnitudes(64).peak(memoryview(data), dtype, swap)
        assert not nonfinite_peak(dtype, peak)
    for pattern in (infinity, infinity | sign, infinity + 1):
        data = bytes(width) + pattern.to_bytes(width, order)  # type: ignore[arg-type]
        assert nonfinite_peak(dtype, Magnitudes(64).peak(memoryview(data), dtype, swap))


@pytest.mark.parametrize(
    ("name", "nan", "largest"),
    [
        ("float8_e4m3fn", 0x7F, 448.0),
        ("float8_e5m2", 0x7F, 57344.0),
        ("float8_e4m3fnuz", 0x80, 240.0),
        ("float8_e5m2fnuz", 0x80, 57344.0),
    ],
)
def test_float8_values_are_those_of_its_standard(name: str, nan: int, largest: float) -> None:
    from ckpt_tools.tensors.values import _float8_values

    table = _float8_values(name)
    assert math.isnan(table[nan])
    assert float(np.nanmax(table[np.isfinite(table)])) == largest
    assert table[0] == 0
    assert nonfinite_peak(DTYPES[name], Magnitudes(16).peak(memoryview(bytes([nan])), DTYPES[name]))
    good = bytes(code for code in range(256) if math.isfinite(table[code]))
    assert not nonfinite_peak(DTYPES[name], Magnitudes(256).peak(memoryview(good), DTYPES[name]))


@pytest.mark.parametrize(
    "reference",
    [text("x") + b"Q", NONE + b"Q", EMPTY_LIST + b"Q", items(text("storage")) + b"Q"],
    ids=["text", "nothing", "list", "too short"],
)
def test_a_reference_no_tensor_uses_is_looked_at_too(reference: bytes, verified: Verify) -> None:
    """torch asks for every persistent id on the way, and stops at one it doesn't know."""
    report = verified(torch_zip(pickled(state_dict(extra=reference), 2)))
    assert report.verdict is Verdict.DAMAGED
    assert "tensor-impossible" in {fact.slug for fact in report.findings}


def test_a_storage_no_tensor_uses_is_no_damage(verified: Verify) -> None:
    assert verified(torch_zip(pickled(state_dict(extra=storage()), 2))).verdict is Verdict.WEIGHTS

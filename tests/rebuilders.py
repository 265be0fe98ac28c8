"""Calls that rebuild tensors, right and wrong: every argument of every rebuilder, replaced by things of every kind."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from building import (
    BINPERSID,
    EMPTY_DICT,
    EMPTY_TUPLE,
    FALSE,
    FOUR_FLOATS,
    NONE,
    ORDERED_DICT,
    REDUCE,
    TRUE,
    Member,
    Raw,
    Writer,
    archive,
    blob,
    call,
    integer,
    items,
    listed,
    name,
    plain_checkpoint,
    saved,
    shape_of,
    storage,
    text,
)

from ckpt_tools.tensors import DTYPES
from ckpt_tools.tensors.rebuilding import ALIASES

INDICES = struct.pack("<8q", 0, 1, 1, 2, 0, 0, 1, 1)  # storage "ints", for whatever wants whole numbers


def number(value: float) -> bytes:
    return b"G" + struct.pack(">d", value)


def utils(function: str) -> bytes:
    return name("torch._utils", function)


HOOKS = call(ORDERED_DICT)
FLOATS = storage("FloatStorage", "floats")
INTS = storage("LongStorage", "ints", 8)
PLAIN = call(utils("_rebuild_tensor_v2"), FLOATS, integer(0), shape_of(2, 2), shape_of(2, 1), FALSE, HOOKS)


def whole(shape: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> bytes:
    """A tensor of whole numbers."""
    given = (INTS, integer(offset), shape_of(*shape), shape_of(*stride), FALSE, HOOKS)
    return call(utils("_rebuild_tensor_v2"), *given)


def floats(shape: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> bytes:
    given = (FLOATS, integer(offset), shape_of(*shape), shape_of(*stride), FALSE, HOOKS)
    return call(utils("_rebuild_tensor_v2"), *given)


def layout(kind: str) -> bytes:
    return call(name("torch.serialization", "_get_layout"), text(f"torch.{kind}"))


STRIDED = (FLOATS, integer(0), shape_of(2, 2), shape_of(2, 1))
QUINT = storage("QUInt8Storage", "quints", 16)
PER_TENSOR = items(name("torch", "per_tensor_affine"), number(0.5), integer(3))
PER_CHANNEL = items(name("torch", "per_channel_affine"), floats((2,), (1,)), whole((2,), (1,)), integer(0))
COO = (whole((1, 2), (2, 1)), floats((2,), (1,)), shape_of(4))
CSR = (whole((3,), (1,)), whole((2,), (1,)), floats((2,), (1,)), shape_of(2, 2))
META = (name("torch", "float32"), shape_of(2, 2), shape_of(2, 1), FALSE)
TWO = name("torch.testing._internal.two_tensor", "TwoTensor")  # a subclass that comes with torch
WRAPPER = (name("torch", "float32"), shape_of(2, 2), shape_of(2, 1), integer(0), layout("strided"), text("cpu"), FALSE)

# Each way to rebuild a tensor, with arguments that are right.
REBUILDERS: dict[str, tuple[bytes, tuple[bytes, ...]]] = {
    "tensor": (utils("_rebuild_tensor"), STRIDED),
    "tensor_v2": (utils("_rebuild_tensor_v2"), (*STRIDED, FALSE, HOOKS)),
    "tensor_v2 with metadata": (utils("_rebuild_tensor_v2"), (*STRIDED, FALSE, HOOKS, EMPTY_DICT)),
    "int tensor_v2": (utils("_rebuild_tensor_v2"), (INTS, integer(0), shape_of(2), shape_of(1), FALSE, HOOKS)),
    "tensor_v3": (utils("_rebuild_tensor_v3"), (*STRIDED, FALSE, HOOKS, name("torch", "float32"))),
    "parameter": (utils("_rebuild_parameter"), (PLAIN, TRUE, HOOKS)),
    "int parameter": (utils("_rebuild_parameter"), (whole((2,), (1,)), FALSE, HOOKS)),
    "parameter_with_state": (utils("_rebuild_parameter_with_state"), (PLAIN, TRUE, HOOKS, EMPTY_DICT)),
    "qtensor": (
        utils("_rebuild_qtensor"), (QUINT, integer(0), shape_of(2, 2), shape_of(2, 1), PER_TENSOR, FALSE, HOOKS)
    ),
    "qtensor per channel": (
        utils("_rebuild_qtensor"), (QUINT, integer(0), shape_of(2, 2), shape_of(2, 1), PER_CHANNEL, FALSE, HOOKS)
    ),
    "sparse": (utils("_rebuild_sparse_tensor"), (layout("sparse_coo"), items(*COO))),
    "sparse coalesced": (utils("_rebuild_sparse_tensor"), (layout("sparse_coo"), items(*COO, TRUE))),
    "sparse csr": (utils("_rebuild_sparse_tensor"), (layout("sparse_csr"), items(*CSR))),
    "nested": (
        utils("_rebuild_nested_tensor"),
        (floats((4,), (1,)), whole((1, 2), (2, 1), 2), whole((1, 2), (2, 1), 2), whole((1,), (1,), 4)),
    ),
    "meta": (utils("_rebuild_meta_tensor_no_storage"), META),
    "wrapper": (utils("_rebuild_wrapper_subclass"), (TWO, *WRAPPER)),
    "cpu copy": (utils("_rebuild_device_tensor_from_cpu_tensor"), (PLAIN, name("torch", "float32"), text("cpu"), FALSE)),
    "from_type_v2": (
        name("torch._tensor", "_rebuild_from_type_v2"),
        (utils("_rebuild_tensor_v2"), name("torch.nn.parameter", "Parameter"), items(*STRIDED, FALSE, HOOKS), EMPTY_DICT),
    ),
    "from_type": (
        name("torch._tensor", "_rebuild_from_type"),
        (utils("_rebuild_tensor_v2"), name("torch.nn.parameter", "Parameter"), items(*STRIDED, FALSE, HOOKS), EMPTY_DICT),
    ),
}  # fmt: skip

# The parts of compound arguments, each a rebuilder whose arguments are those parts.
NESTED: dict[str, tuple[tuple[bytes, ...], Any]] = {
    "quantizer": (
        (name("torch", "per_tensor_affine"), number(0.5), integer(3)),
        lambda *parts: call(utils("_rebuild_qtensor"), QUINT, *STRIDED[1:], items(*parts), FALSE, HOOKS),
    ),
    "channel quantizer": (
        (name("torch", "per_channel_affine"), floats((2,), (1,)), whole((2,), (1,)), integer(0)),
        lambda *parts: call(utils("_rebuild_qtensor"), QUINT, *STRIDED[1:], items(*parts), FALSE, HOOKS),
    ),
    "coo parts": (COO, lambda *parts: call(utils("_rebuild_sparse_tensor"), layout("sparse_coo"), items(*parts))),
    "coalesced parts": (
        (*COO, TRUE), lambda *parts: call(utils("_rebuild_sparse_tensor"), layout("sparse_coo"), items(*parts))
    ),
    "csr parts": (CSR, lambda *parts: call(utils("_rebuild_sparse_tensor"), layout("sparse_csr"), items(*parts))),
    "size": ((integer(2), integer(2)), lambda *parts: call(
        utils("_rebuild_tensor_v2"), FLOATS, integer(0), items(*parts), shape_of(2, 1), FALSE, HOOKS)),
    "stride": ((integer(2), integer(1)), lambda *parts: call(
        utils("_rebuild_tensor_v2"), FLOATS, integer(0), shape_of(2, 2), items(*parts), FALSE, HOOKS)),
    "empty size": ((integer(0), integer(2)), lambda *parts: call(
        utils("_rebuild_tensor_v2"), FLOATS, integer(0), items(*parts), shape_of(2, 1), FALSE, HOOKS)),
    "empty stride": ((integer(2), integer(1)), lambda *parts: call(
        utils("_rebuild_tensor_v2"), FLOATS, integer(0), shape_of(0, 2), items(*parts), FALSE, HOOKS)),
    "persistent id": (
        (text("storage"), name("torch", "FloatStorage"), text("floats"), text("cpu"), integer(4)),
        lambda *parts: call(utils("_rebuild_tensor_v2"), items(*parts) + BINPERSID, *STRIDED[1:], FALSE, HOOKS),
    ),
    "bare persistent id": (
        (text("storage"), name("torch", "FloatStorage"), text("floats"), text("cpu"), integer(4)),
        lambda *parts: items(*parts) + BINPERSID,
    ),
    "child arguments": (
        (*STRIDED, FALSE, HOOKS),
        lambda *parts: call(
            name("torch._tensor", "_rebuild_from_type_v2"),
            utils("_rebuild_tensor_v2"), name("torch.nn.parameter", "Parameter"), items(*parts), EMPTY_DICT,
        ),
    ),
}  # fmt: skip

PLAIN_THINGS: tuple[Any, ...] = (
    None, True, False, 0, 1, 2, 3, 5, -1, -(2**40), 2**31, 2**62, 2**63 - 1, 2**63, 2**70, 0.0, 1.5, float("nan"),
    "", "x", "0", "cpu", "cuda:99", "banana", b"storage", b"cpu", b"\xff",
    (), (4,), (1,), (0,), (2, 2), (2, 1), (0, 0), (1, 2), (3, 3), (2, 2, 1), (-1,), (2, -1), (0, -1), (2**62, 2),
    (0, 2**62), (2**32, 2**32), (2**63, 1), (2.0, 2.0), ("2", "2"), (True, True), (None, 2), ((2, 2),), ((0, 1),),
    (1,) * 65, [], [2, 2], [2.0, 1], {}, {"x": 1}, {"conj": True}, {1: 1}, ({}, {}), (None, {}), ({}, {}, {}),
)  # fmt: skip
NAMES = (
    "torch.float32", "torch.int64", "torch.float", "torch.complex64", "torch.qint8", "torch.bits8", "torch.strided",
    "torch.per_tensor_affine", "torch.per_channel_affine_float_qparams", "torch.per_tensor_symmetric",
    "torch.FloatStorage", "torch.cuda.FloatStorage", "torch.HalfStorage", "torch.UntypedStorage",
    "torch.storage.UntypedStorage", "torch.storage.TypedStorage", "mine.FloatStorage",
    "torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer", "collections.OrderedDict",
    "torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v3", "torch._utils._rebuild_parameter",
)  # fmt: skip
MADE = {
    "OrderedDict()": HOOKS,
    "set()": b"\x8f",
    "Size((2, 2))": call(name("torch", "Size"), shape_of(2, 2)),
    "Size()": call(name("torch", "Size")),
    "a storage": FLOATS,
    "an int storage": INTS,
    "a tensor": PLAIN,
    "an int tensor": whole((2, 2), (2, 1)),
    "a whole number in a tensor": whole((), ()),
    "a number in a tensor": floats((), ()),
    "a parameter": call(utils("_rebuild_parameter"), PLAIN, TRUE, HOOKS),
    "a meta tensor": call(utils("_rebuild_meta_tensor_no_storage"), *META),
    "a layout": layout("strided"),
    "a sparse layout": layout("sparse_csc"),
    "a device": call(name("torch", "device"), text("cpu")),
    "a Namespace": name("argparse", "Namespace") + EMPTY_TUPLE + b"\x81",
    "numpy's 0": call(
        name("numpy._core.multiarray", "scalar"),
        call(name("numpy", "dtype"), text("i8"), FALSE, TRUE),
        blob(bytes(8)),
    ),
}
THINGS: dict[str, bytes] = {
    **{("65 ones" if thing == (1,) * 65 else repr(thing)): Writer().value(thing) for thing in PLAIN_THINGS},
    **{path: name(*path.rsplit(".", 1)) for path in NAMES},
    **MADE,
}

# Shapes, strides and offsets over a storage of four: odd ones torch takes, and some that look like them.
PLACES: tuple[tuple[Any, Any, int], ...] = (
    ((4,), (1,), 0), ((1,), (-5,), 0), ((1,), (-5,), 3), ((1,), (-1,), 4), ((0,), (1,), 4), ((0,), (1,), 5),
    ((0,), (1,), 2**62), ((0,), (1,), 2**63 - 1), ((0,), (1,), -1), ((0,), (-1,), 0), ((0, -1), (1, 1), 0),
    ((-1, -1), (1, 1), 0), ((-1, 0), (1, 1), 0), ((3, -1, 0), (1, 1, 1), 0), ((2**62, 4, 0), (1, 1, 1), 0),
    ((2**62, 0, 4), (1, 1, 1), 0), ((2**32, 2**32), (0, 0), 0), ((2**31, 2**31), (0, 0), 0), ((2**62,), (0,), 0),
    ((2, 2), (-1, 1), 1), ((2, 2), (0, 0), 3), ((2, 2), (0, 0), 4), ((2, 2), (1, 1), 1), ((2, 2), (1, 1), 2),
    ((4,), None, 0), ((2, 2), (), 0), ((2, 2), None, 1), ((), (), 0), ((), (), 3), ((), (), 4), ((), None, 3),
    ((2,), (3,), 0), ((2,), (4,), 0), ((1,), (2**62,), 0), ((2, 0), (2**62, 2**62), 0), ((0, -5), (), 0),
    ((1,) * 65, (1,) * 65, 0), ((True, 2), (2, 1), 0), ((2, True), (1, 1), 0), ((2, 2), (2, True), 0), ((1, 4), (0, 1), 0),
)  # fmt: skip


METADATA = {
    repr(bits): Writer().value(bits)
    for bits in ({"conj": True}, {"neg": True}, {"conj": 1}, {"conj": None}, {"conj": "x"}, {"neg": 0.5}, {None: 1}, {})
}  # fmt: skip


def _mixed(parts: tuple[bytes, ...], make: Any) -> Iterator[tuple[str, bytes]]:
    """The right arguments, each replaced by every thing in turn, then too few and too many of them."""
    yield "right", make(*parts)
    for place in range(len(parts)):
        for what, thing in THINGS.items():
            yield f"argument {place} is {what}", make(*parts[:place], thing, *parts[place + 1 :])
    for count in range(len(parts)):
        yield f"only {count} arguments", make(*parts[:count])
    for what in ("None", "{}", "True"):
        yield f"one more, {what}", make(*parts, THINGS[what])
        yield f"two more, {what}", make(*parts, THINGS[what], THINGS[what])


def cases() -> Iterator[tuple[str, bytes]]:
    """Every case by name: the opcodes of one value."""
    for label, (function, arguments) in REBUILDERS.items():
        for what, body in _mixed(arguments, lambda *given, function=function: call(function, *given)):
            yield f"{label}: {what}", body
        for what in ("None", "[]", "{}", "'x'", "a tensor", "[2, 2]"):
            yield f"{label}: {what} for all arguments", function + THINGS[what] + REDUCE
        yield f"{label}: a list of the arguments", function + listed(*arguments) + REDUCE
        yield f"{label}: made, not called", function + items(*arguments) + b"\x81"
        yield f"{label}: by OBJ", b"(" + function + b"".join(arguments) + b"o"
    for size, stride, offset in PLACES:
        given = (Writer().value(offset), Writer().value(size), Writer().value(stride))
        shown = f"{len(size)} dimensions, {stride if len(size) < 9 else ''} from {offset}"
        for label in ("tensor_v2", "qtensor"):
            function, arguments = REBUILDERS[label]
            yield f"{label} places: {size[:8]} {shown}", call(function, arguments[0], *given, *arguments[4:])
        yield f"meta places: {size[:8]} {shown}", call(REBUILDERS["meta"][0], META[0], *given[1:], FALSE)
    for dtype in (*DTYPES, *ALIASES, "int4", "uint7", "bit"):
        named = name("torch", dtype)
        for trains in (NONE, FALSE, TRUE):
            made = call(utils("_rebuild_tensor_v3"), QUINT, integer(0), shape_of(1), shape_of(1), trains, HOOKS, named)
            yield f"v3 of {dtype}: requires_grad {trains!r}", made
            plain = call(utils("_rebuild_tensor_v3"), QUINT, integer(0), shape_of(1), shape_of(1), FALSE, HOOKS, named)
            yield (
                f"parameter of {dtype}: requires_grad {trains!r}",
                call(utils("_rebuild_parameter"), plain, trains, HOOKS),
            )
            yield f"meta of {dtype}: requires_grad {trains!r}", call(REBUILDERS["meta"][0], named, *META[1:3], trains)
    for what, thing in METADATA.items():
        for kind in ("FloatStorage", "ComplexFloatStorage"):
            held = storage(kind, "quints", 4 if kind == "FloatStorage" else 2)
            given = (held, integer(0), shape_of(2), shape_of(1), FALSE, HOOKS, thing)
            yield f"metadata {what} of {kind}: right or wrong", call(utils("_rebuild_tensor_v2"), *given)
    for label, (parts, make) in NESTED.items():
        for what, body in _mixed(parts, make):
            yield f"{label}: {what}", body
    yield (
        "one storage by two classes: its first counts",
        items(
            call(utils("_rebuild_tensor"), storage("IntStorage", "quints", 4), integer(0), shape_of(4), shape_of(1)),
            call(utils("_rebuild_tensor"), storage("HalfStorage", "quints", 8), integer(0), shape_of(8), shape_of(1)),
        ),
    )
    for what, thing in THINGS.items():
        given = (thing + BINPERSID, *STRIDED[1:], FALSE, HOOKS)
        yield f"persistent id: {what} for all of it", call(utils("_rebuild_tensor_v2"), *given)


def holding(body: bytes, small: dict[str, bytes] | None = None, **replaced: Any) -> bytes:
    """A checkpoint that can be resumed, with one value more."""
    data = saved(plain_checkpoint(extra=Raw(body), **replaced))
    more = {"data/floats": FOUR_FLOATS, "data/ints": INDICES, "data/quints": bytes(16), **(small or {})}
    return rezipped(data, more)


def rezipped(data: bytes, more: dict[str, bytes | None]) -> bytes:
    """The archive with members replaced, added, or (``None``) left out."""
    import io
    import zipfile

    with zipfile.ZipFile(io.BytesIO(data)) as old:
        root = old.namelist()[0].split("/")[0]
        held: dict[str, bytes | None] = {info.filename: old.read(info) for info in old.infolist()}
    held.update({f"{root}/{inside}": content for inside, content in more.items()})
    return archive(*(Member(n, content) for n, content in held.items() if content is not None), alignment=64)

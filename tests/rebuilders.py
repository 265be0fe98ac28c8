"""Calls that rebuild tensors, right and wrong: every argument of every rebuilder, replaced by things of every kind."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from building import (
    BINPERSID,
    EMPTY_DICT,
    EMPTY_LIST,
    EMPTY_TUPLE,
    FALSE,
    FOUR_FLOATS,
    NONE,
    ORDERED_DICT,
    REDUCE,
    TRUE,
    Member,
    Raw,

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

THINGS: dict[str, bytes] = {
    "None": NONE, "True": TRUE, "False": FALSE,
    **{str(value): integer(value) for value in (0, 1, 2, 3, 5, -1, -(2**40), 2**31, 2**40, 2**62, 2**63 - 1, 2**63, 2**70)},
    **{str(value): number(value) for value in (0.0, 1.0, 1.5, float("nan"))},
    "no text": text(""), "text": text("x"), "text 0": text("0"), "text cpu": text("cpu"), "cuda:99": text("cuda:99"),
    "banana": text("banana"), "bytes": blob(b"storage"), "bytes cpu": blob(b"cpu"), "bytes 255": blob(b"\xff"),
    "()": EMPTY_TUPLE, "(4,)": shape_of(4), "(1,)": shape_of(1), "(2, 2)": shape_of(2, 2), "(2, 1)": shape_of(2, 1), "(0,)": shape_of(0),
    "(0, 0)": shape_of(0, 0), "(1, 2)": shape_of(1, 2), "(3, 3)": shape_of(3, 3), "(2, 2, 1)": shape_of(2, 2, 1),
    "(-1,)": shape_of(-1), "(2, -1)": shape_of(2, -1), "(0, -1)": shape_of(0, -1), "(2**62, 2)": shape_of(2**62, 2),
    "(0, 2**62)": shape_of(0, 2**62), "(2**32, 2**32)": shape_of(2**32, 2**32), "(2**31, 0, 2**40)": shape_of(2**31, 0, 2**40),
    "(2**63, 1)": shape_of(2**63, 1), "(2.0, 2.0)": items(number(2), number(2)), "('2', '2')": items(text("2"), text("2")),
    "(True, True)": items(TRUE, TRUE), "(None, 2)": items(NONE, integer(2)), "((2, 2),)": items(shape_of(2, 2)),
    "65 ones": shape_of(*[1] * 65), "64 ones": shape_of(*[1] * 64),
    "[]": EMPTY_LIST, "[2, 2]": listed(integer(2), integer(2)), "[2.0, 1]": listed(number(2), integer(1)),
    "{}": EMPTY_DICT, "{'x': 1}": EMPTY_DICT + text("x") + integer(1) + b"s", "{'conj': True}": EMPTY_DICT + text("conj") + TRUE + b"s",
    "{1: 1}": EMPTY_DICT + integer(1) + integer(1) + b"s", "{2: 2, 1: 1}": EMPTY_DICT + integer(2) + integer(2) + b"s" + integer(1) + integer(1) + b"s",
    "({}, {})": items(EMPTY_DICT, EMPTY_DICT), "(None, {})": items(NONE, EMPTY_DICT),
    "OrderedDict": HOOKS, "Size((2, 2))": call(name("torch", "Size"), shape_of(2, 2)), "Size((2, 1))": call(name("torch", "Size"), shape_of(2, 1)),
    "Size(2)": call(name("torch", "Size"), integer(2)), "Size()": call(name("torch", "Size")), "Size((2.5,))": call(name("torch", "Size"), items(number(2.5))),
    "set": b"\x8f", "storage": FLOATS, "int storage": INTS, "tensor": PLAIN, "int tensor": whole((2, 2), (2, 1)), "0-d int tensor": whole((), (), 1),
    "0-d tensor": floats((), ()), "parameter": call(utils("_rebuild_parameter"), PLAIN, TRUE, HOOKS),
    "meta tensor": call(utils("_rebuild_meta_tensor_no_storage"), *META),
    "float32": name("torch", "float32"), "int64": name("torch", "int64"), "float16": name("torch", "float16"), "float": name("torch", "float"),
    "complex64": name("torch", "complex64"), "qint8": name("torch", "qint8"), "layout": layout("strided"), "sparse layout": layout("sparse_csc"), "qscheme": name("torch", "per_tensor_affine"),
    "other qscheme": name("torch", "per_channel_affine_float_qparams"), "symmetric": name("torch", "per_tensor_symmetric"),
    "no name": name("torch", "NoSuchName"), "NoStorage": name("torch", "NoStorage"),
    "FloatStorage": name("torch", "FloatStorage"), "cuda.HalfStorage": name("torch.cuda", "HalfStorage"),
    "UntypedStorage": name("torch", "UntypedStorage"), "storage.UntypedStorage": name("torch.storage", "UntypedStorage"), "TypedStorage": name("torch.storage", "TypedStorage"),
    "LongStorage": name("torch", "LongStorage"), "mine.FloatStorage": name("mine", "FloatStorage"),
    "Tensor": name("torch", "Tensor"), "Parameter": name("torch.nn.parameter", "Parameter"), "Buffer": name("torch.nn.parameter", "Buffer"),
    "_rebuild_tensor": utils("_rebuild_tensor"), "_rebuild_tensor_v3": utils("_rebuild_tensor_v3"), "_rebuild_parameter": utils("_rebuild_parameter"),
    "device": call(name("torch", "device"), text("cpu")), "Namespace": name("argparse", "Namespace") + EMPTY_TUPLE + b"\x81",
    "OrderedDict class": ORDERED_DICT,
    "numpy int": call(name("numpy._core.multiarray", "scalar"), call(name("numpy", "dtype"), text("i8"), FALSE, TRUE), blob(bytes(8))),
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
        for what in ("None", "[]", "{}", "text", "tensor", "[2, 2]"):
            yield f"{label}: {what} for all arguments", function + THINGS[what] + REDUCE
        yield f"{label}: a list of the arguments", function + listed(*arguments) + REDUCE
        yield f"{label}: made, not called", function + items(*arguments) + b"\x81"
        yield f"{label}: by OBJ", b"(" + function + b"".join(arguments) + b"o"
    for label, (parts, make) in NESTED.items():
        for what, body in _mixed(parts, make):
            yield f"{label}: {what}", body
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

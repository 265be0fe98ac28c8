"""Checkpoints made without torch: pickles assembled opcode by opcode, and the archives and streams around them.

Two levels: the functions named after what they emit (``text``, ``call``, ``mapping`` …) return opcodes, for files
nobody would write in good faith; :func:`saved` writes plain Python data with :class:`Tensor`, :class:`Instance` and
:class:`Called` in it, laid out as torch 2.14 does. Building a file imports nothing it names.
"""

from __future__ import annotations

import io
import math
import struct
import tarfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001

# --- opcodes --------------------------------------------------------------------------------------

NONE, TRUE, FALSE, EMPTY_TUPLE, EMPTY_DICT, EMPTY_LIST = b"N", b"\x88", b"\x89", b")", b"}", b"]"
REDUCE, BUILD, NEWOBJ, NEWOBJ_EX, STACK_GLOBAL = b"R", b"b", b"\x81", b"\x92", b"\x93"
MARK, POP, DUP, STOP, MEMOIZE, APPEND, SETITEM, BINPERSID = b"(", b"0", b"2", b".", b"\x94", b"a", b"s", b"Q"


def text(value: str) -> bytes:
    """BINUNICODE or SHORT_BINUNICODE."""
    data = value.encode("utf-8", "surrogatepass")
    return b"\x8c" + bytes([len(data)]) + data if len(data) < 256 else b"X" + struct.pack("<I", len(data)) + data


def blob(value: bytes) -> bytes:
    """BINBYTES."""
    return b"B" + struct.pack("<I", len(value)) + value


def integer(value: int) -> bytes:
    """BININT or LONG1."""
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def name(module: str, qualified: str) -> bytes:
    """GLOBAL."""
    return f"c{module}\n{qualified}\n".encode()


def stack_name(module: str, qualified: str) -> bytes:
    """STACK_GLOBAL with constant parts."""
    return text(module) + text(qualified) + STACK_GLOBAL


def items(*parts: bytes) -> bytes:
    return MARK + b"".join(parts) + b"t"


def listed(*parts: bytes) -> bytes:
    return EMPTY_LIST + MARK + b"".join(parts) + b"e"


def mapping(**entries: bytes) -> bytes:
    return EMPTY_DICT + MARK + b"".join(text(key) + value for key, value in entries.items()) + b"u"


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + items(*arguments) + REDUCE


def put(index: int) -> bytes:
    return b"q" + bytes([index])


def get(index: int) -> bytes:
    return b"h" + bytes([index])


def pickled(body: bytes, protocol: int = 4) -> bytes:
    return b"\x80" + bytes([protocol]) + body + STOP


def framed(body: bytes, length: int | None = None, protocol: int = 4) -> bytes:
    body += STOP
    size = len(body) if length is None else length
    return b"\x80" + bytes([protocol]) + b"\x95" + struct.pack("<Q", size) + body


# --- tensors and containers -----------------------------------------------------------------------

ORDERED_DICT = name("collections", "OrderedDict")
FOUR_FLOATS = struct.pack("<4f", 1.0, -2.0, 3.0, 0.5)


def storage(kind: str = "FloatStorage", key: str = "0", count: int = 4) -> bytes:
    parts = items(text("storage"), name("torch", kind), text(key), text("cpu"), integer(count))
    return parts + BINPERSID


def shape_of(*sizes: int) -> bytes:
    return items(*(integer(size) for size in sizes))


def tensor(
    shape: tuple[int, ...] = (2, 2),
    stride: tuple[int, ...] = (2, 1),
    offset: int = 0,
    kind: str = "FloatStorage",
    key: str = "0",
    count: int = 4,
) -> bytes:
    return call(
        name("torch._utils", "_rebuild_tensor_v2"),
        storage(kind, key, count),
        integer(offset),
        shape_of(*shape),
        shape_of(*stride),
        FALSE,
        call(ORDERED_DICT),
    )


def state_dict(**extra: bytes) -> bytes:
    """An ordinary state dict of one tensor, beside whatever a sample adds."""
    return mapping(weight=tensor(), **extra)


@dataclass(frozen=True)
class Member:
    """One archive member; what its local header and the directory say may differ."""

    name: str
    data: bytes
    local_name: str | None = None
    flags: int = 0
    deflated: bool = False
    method: int | None = None
    crc: int | None = None
    in_directory: bool = True
    descriptor: bool = False


def archive(
    *members: Member, prefix: bytes = b"", comment: bytes = b"", directory: bool = True, alignment: int = 0
) -> bytes:
    """A zip archive; with ``alignment``, padded as torch does with an extra field named ``FB``."""
    out, entries = bytearray(prefix), bytearray()
    count = 0
    for member in members:
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        body = packer.compress(member.data) + packer.flush() if member.deflated else member.data
        method = (8 if member.deflated else 0) if member.method is None else member.method
        crc = zlib.crc32(member.data) if member.crc is None else member.crc
        sizes = struct.pack("<III", crc, len(body), len(member.data))
        local_sizes = bytes(12) if member.descriptor else sizes
        flags = member.flags | (8 if member.descriptor else 0)
        offset = len(out)
        local = (member.local_name or member.name).encode()
        out += b"PK\3\4" + struct.pack("<5H", 20, flags, method, 0, 0x21) + local_sizes
        padding = b""
        if alignment:
            room = -(len(out) + 4 + len(local) + 4) % alignment
            padding = b"FB" + struct.pack("<H", room) + b"Z" * room
        out += struct.pack("<HH", len(local), len(padding)) + local + padding + body
        if member.descriptor:
            out += b"PK\7\10" + sizes
        if member.in_directory:
            count += 1
            listed_name = member.name.encode()
            entries += b"PK\1\2" + struct.pack("<6H", 20, 20, flags, method, 0, 0x21) + sizes
            entries += struct.pack("<5H2I", len(listed_name), 0, 0, 0, 0, 0, offset) + listed_name
    if directory:
        start = len(out)
        out += entries + b"PK\5\6" + struct.pack("<4H2IH", 0, 0, count, count, len(entries), start, len(comment))
        out += comment
    return bytes(out)


def plain_members(root: str = "archive") -> list[Member]:
    """What torch writes beside ``data.pkl``, holding the one storage that `tensor` refers to."""
    contents = {"byteorder": b"little", "data/0": FOUR_FLOATS, "version": b"3\n"}
    return [Member(f"{root}/{member}", data) for member, data in contents.items()]


def torch_zip(pickle: bytes, *extra: Member, root: str = "archive") -> bytes:
    return archive(Member(f"{root}/data.pkl", pickle), *plain_members(root), *extra)


GOOD_PICKLE = pickled(state_dict(), 2)


def legacy(
    body: bytes = b"",
    *,
    magic: bytes = b"",
    protocol: bytes = b"",
    system: bytes = b"",
    keys: bytes = b"",
    storages: bytes | None = None,
) -> bytes:
    """The stream of five pickles and raw storages that torch wrote before 1.6."""
    info = mapping(
        protocol_version=integer(LEGACY_PROTOCOL),
        little_endian=TRUE,
        type_sizes=mapping(short=integer(2), int=integer(4), long=integer(4)),
    )
    leading = (magic or integer(LEGACY_MAGIC), protocol or integer(LEGACY_PROTOCOL), system or info)
    old_tensor = legacy_tensor()
    pickles = (*leading, body or mapping(weight=old_tensor), keys or listed(text("0")))
    raw = struct.pack("<q", len(FOUR_FLOATS) // 4) + FOUR_FLOATS if storages is None else storages
    return b"".join(pickled(part, 2) for part in pickles) + raw


def legacy_tensor() -> bytes:
    key = items(text("storage"), name("torch", "FloatStorage"), text("0"), text("cpu"), integer(4), NONE)
    return call(
        name("torch._utils", "_rebuild_tensor_v2"),
        key + BINPERSID,
        integer(0),
        shape_of(2, 2),
        shape_of(2, 1),
        FALSE,
        call(ORDERED_DICT),
    )


NO_STORAGES = pickled(integer(0), 2) + pickled(EMPTY_LIST, 2)
NO_TENSORS = pickled(integer(0), 2)


def legacy_tar(pickle: bytes, storages: bytes, tensors: bytes) -> bytes:
    """The tar that torch 0.1 wrote."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for member, data in {
            "sys_info": pickled(mapping(protocol_version=integer(1000)), 2),
            "pickle": pickle,
            "storages": storages,
            "tensors": tensors,
        }.items():
            entry = tarfile.TarInfo(member)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def from_bytes(inner: bytes) -> bytes:
    return call(name("torch.storage", "_load_from_bytes"), inner)


def latin1(data: bytes) -> bytes:
    """Bytes as protocol 2 spells them."""
    return call(name("_codecs", "encode"), text(data.decode("latin-1")), text("latin1"))


# --- whole checkpoints ----------------------------------------------------------------------------

ITEM_SIZES = {"float32": 4, "float16": 2, "bfloat16": 2, "float64": 8, "int64": 8, "uint8": 1, "bool": 1}
CLASSES = {
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "float64": "DoubleStorage",
    "int64": "LongStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}
FORMATS = {"float32": "f", "float16": "e", "float64": "d", "int64": "q", "uint8": "B", "bool": "?"}


@dataclass(eq=False)
class Storage:
    """Bytes of a storage; two tensors given the same one share it."""

    data: bytes
    dtype: str = "float32"
    location: str = "cpu"


@dataclass(eq=False)
class Tensor:
    """A tensor of ``shape``. ``values`` is one number for all, a list of them, or a :class:`Storage` to look at."""

    shape: tuple[int, ...]
    values: float | Sequence[float] | Storage = 0.25
    dtype: str = "float32"
    stride: tuple[int, ...] | None = None
    offset: int = 0
    parameter: bool = False
    location: str = "cpu"
    numel: int | None = None  # what the pickle says of the storage, where that is to be a lie

    def __post_init__(self) -> None:
        if not isinstance(self.values, Storage):
            many = list(self.values) if isinstance(self.values, Sequence) else [self.values] * math.prod(self.shape)
            data = struct.pack(f"<{len(many)}{FORMATS[self.dtype]}", *many)
            self.values = Storage(data, self.dtype, self.location)

    @property
    def storage(self) -> Storage:
        assert isinstance(self.values, Storage)
        return self.values


@dataclass(frozen=True)
class Name:
    """A global that is only referred to."""

    module: str
    name: str


@dataclass(frozen=True)
class Called:
    """A global called with arguments."""

    module: str
    name: str
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Instance:
    """An object made without arguments and then given its attributes."""

    module: str
    name: str
    state: Mapping[str, Any]


@dataclass(frozen=True)
class Raw:
    """Opcodes that push one value."""

    opcodes: bytes


@dataclass
class Writer:
    """Emits values as protocol 2 opcodes and collects the storages on the way."""

    legacy: bool = False
    storages: list[Storage] = field(default_factory=list)

    def value(self, value: Any) -> bytes:
        simple = {None: NONE, True: TRUE, False: FALSE}
        if value is None or isinstance(value, bool):
            return simple[value]
        for kind, emit in self.kinds():
            if isinstance(value, kind):
                return emit(value)
        raise TypeError(f"no way to write a {type(value).__name__}")

    def kinds(self) -> tuple[tuple[type, Callable[[Any], bytes]], ...]:
        return (
            (str, text),
            (int, integer),
            (float, lambda number: b"G" + struct.pack(">d", number)),
            (bytes, blob),
            (OrderedDict, lambda held: call(ORDERED_DICT) + MARK + self.pairs(held) + b"u"),
            (dict, lambda held: EMPTY_DICT + MARK + self.pairs(held) + b"u"),
            (list, lambda held: listed(*map(self.value, held))),
            (tuple, lambda held: items(*map(self.value, held))),
            (Tensor, self.tensor),
            (Name, lambda named: name(named.module, named.name)),
            (Called, lambda made: call(name(made.module, made.name), *map(self.value, made.arguments))),
            (Instance, self.instance),
            (Raw, lambda raw: raw.opcodes),
        )

    def pairs(self, held: Mapping[Any, Any]) -> bytes:
        return b"".join(self.value(key) + self.value(item) for key, item in held.items())

    def instance(self, made: Instance) -> bytes:
        return name(made.module, made.name) + EMPTY_TUPLE + NEWOBJ + self.value(dict(made.state)) + BUILD

    def tensor(self, tensor: Tensor) -> bytes:
        held = tensor.storage
        if held not in self.storages:
            self.storages.append(held)
        key, size = str(self.storages.index(held)), ITEM_SIZES[held.dtype]
        count = len(held.data) // size if tensor.numel is None else tensor.numel
        place = (text("storage"), name("torch", CLASSES[held.dtype]), text(key), text(held.location), integer(count))
        stride = tensor.stride if tensor.stride is not None else row_major(tensor.shape)
        made = call(
            name("torch._utils", "_rebuild_tensor_v2"),
            items(*place, *((NONE,) if self.legacy else ())) + BINPERSID,
            integer(tensor.offset),
            shape_of(*tensor.shape),
            shape_of(*stride),
            FALSE,
            call(ORDERED_DICT),
        )
        if tensor.parameter:
            return call(name("torch._utils", "_rebuild_parameter"), made, TRUE, call(ORDERED_DICT))
        return made


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(math.prod(shape[place + 1 :]) for place in range(len(shape)))


def saved(
    root: Any, *, folder: str = "archive", crc: bool = True, deflated: bool = False, byteorder: str = "little"
) -> bytes:
    """What ``torch.save`` writes; with ``crc=False`` as after ``set_crc32_options(False)``."""
    writer = Writer()
    contents = {"data.pkl": pickled(writer.value(root), 2), ".format_version": b"1", ".storage_alignment": b"64"}
    contents["byteorder"] = byteorder.encode()
    contents.update((f"data/{key}", held.data) for key, held in enumerate(writer.storages))
    contents.update({"version": b"3\n", ".data/serialization_id": b"0123456789" * 4})
    return archive(
        *(
            Member(f"{folder}/{inside}", data, flags=0x0800, descriptor=True, crc=None if crc else 0, deflated=deflated)
            for inside, data in contents.items()
        ),
        alignment=64,
    )


def saved_legacy(root: Any) -> bytes:
    """What ``torch.save(…, _use_new_zipfile_serialization=False)`` writes."""
    writer = Writer(legacy=True)
    body = writer.value(root)
    keys = listed(*(text(str(key)) for key in range(len(writer.storages))))
    counts = (struct.pack("<q", len(held.data) // ITEM_SIZES[held.dtype]) for held in writer.storages)
    raw = b"".join(count + held.data for count, held in zip(counts, writer.storages))
    return legacy(body, keys=keys, storages=raw)


def weights(**replaced: Any) -> OrderedDict[str, Any]:
    """The state dict of a small convolution and a linear layer."""
    held: OrderedDict[str, Any] = OrderedDict()
    held["conv.weight"] = Tensor((4, 3, 3, 3), [0.01 * number for number in range(108)])
    held["conv.bias"] = Tensor((4,), [0.1, 0.2, 0.3, 0.4])
    held["linear.weight"] = Tensor((2, 4), 0.5)
    held["linear.bias"] = Tensor((2,), [1.0, -1.0])
    return with_changes(held, replaced)


def optimizer_of(params: Mapping[str, Tensor], groups: Sequence[int] = (), **replaced: Any) -> dict[str, Any]:
    """The state dict of SGD with momentum over ``params``, in one group or in groups of the given sizes."""
    state = {number: {"momentum_buffer": Tensor(held.shape, 0.125)} for number, held in enumerate(params.values())}
    listed_groups, first = [], 0
    for size in groups or (len(params),):
        options = {"lr": 0.01, "momentum": 0.9, "dampening": 0, "weight_decay": 0.0, "nesterov": True}
        listed_groups.append({**options, "params": list(range(first, first + size))})
        first += size
    return with_changes({"state": state, "param_groups": listed_groups}, replaced)


def plain_checkpoint(**replaced: Any) -> dict[str, Any]:
    """What a loop of one's own saves after the third of ten epochs; ``replaced`` changes keys, ``...`` drops one."""
    model = weights()
    content = {
        "epoch": 2,
        "model_state_dict": model,
        "optimizer_state_dict": optimizer_of(model),
        "scheduler": {"last_epoch": 3, "_step_count": 4, "_last_lr": [0.01]},
        "scaler": {"scale": 2.0, "growth_factor": 2.0, "backoff_factor": 0.5, "_growth_tracker": 3},
        "args": {"lr": 0.01, "epochs": 10, "batch": 4},
    }  # fmt: skip
    return with_changes(content, replaced)


Content = TypeVar("Content", bound=dict[str, Any])


def with_changes(content: Content, replaced: Mapping[str, Any]) -> Content:
    """``content`` with keys replaced; ``...`` drops a key."""
    for key, value in replaced.items():
        if value is ...:
            del content[key]
        else:
            content[key] = value
    return content


def module(
    path: str, children: Mapping[str, Any] | None = None, buffers: Mapping[str, Any] | None = None, /, **own: Any
) -> Instance:
    """A pickled layer: tensors in ``own`` become parameters, the rest attributes."""
    where, _, kind = path.rpartition(".")
    parameters = {key: value for key, value in own.items() if isinstance(value, Tensor)}
    for held in parameters.values():
        held.parameter = True
    state = {"training": False, "_parameters": OrderedDict(parameters), "_buffers": OrderedDict(buffers or {})}
    state["_modules"] = OrderedDict(children or {})
    state.update((key, value) for key, value in own.items() if not isinstance(value, Tensor))
    return Instance(where, kind, state)


def conv_layer(width_in: int, width: int, bias: bool = False, **replaced: Any) -> Instance:
    own: dict[str, Any] = {"weight": Tensor((width, width_in, 1, 1), 0.1)}
    if bias:
        own["bias"] = Tensor((width,), 0.2)
    own.update(in_channels=width_in, out_channels=width, groups=1, kernel_size=(1, 1))
    return module("torch.nn.modules.conv.Conv2d", **with_changes(own, replaced))


def norm_layer(width: int) -> Instance:
    buffers = {
        "running_mean": Tensor((width,), 0.0),
        "running_var": Tensor((width,), 1.0),
        "num_batches_tracked": Tensor((), 7, "int64"),
    }
    own = {"weight": Tensor((width,), 1.0), "bias": Tensor((width,), 0.5), "num_features": width, "eps": 1e-3}
    return module("torch.nn.modules.batchnorm.BatchNorm2d", {}, buffers, **own)


def detector(classes: int = 2, tree: str = "ultralytics.nn", **replaced: Any) -> Instance:
    """A DetectionModel with one Conv block and a head whose only branch predicts ``classes`` classes."""
    block = module(f"{tree}.modules.conv.Conv", {"conv": conv_layer(3, 4), "bn": norm_layer(4)})
    branch = module("torch.nn.modules.container.Sequential", {"0": conv_layer(4, 2, bias=True)})
    branches = module("torch.nn.modules.container.ModuleList", {"0": branch})
    head = module(f"{tree}.modules.head.Detect", {"cv3": branches}, nc=2, nl=1)
    sequence = module("torch.nn.modules.container.Sequential", {"0": block, "1": head})
    own = {"nc": classes, "names": {number: f"class {number}" for number in range(classes)}, "stride": [8]}
    return module(f"{tree}.tasks.DetectionModel", {"model": sequence}, {}, **with_changes(own, replaced))


DETECTOR_GROUPS: dict[str, list[tuple[int, ...]]] = {  # number of parameters of detector() per kind
    "weight": [(4, 3, 1, 1), (2, 4, 1, 1)],
    "norm": [(4,)],
    "bias": [(4,), (2,)],
}


def detector_optimizer(order: Sequence[str] = ("weight", "norm", "bias"), **replaced: Any) -> dict[str, Any]:
    """SGD over :func:`detector`, its groups in the order of ultralytics 8.4 (older: bias, weight, norm)."""
    shapes = [shape for kind in order for shape in DETECTOR_GROUPS[kind]]
    params = {str(number): Tensor(shape) for number, shape in enumerate(shapes)}
    return optimizer_of(params, [len(DETECTOR_GROUPS[kind]) for kind in order], **replaced)


def ultralytics_checkpoint(version: Any = "8.4.190", **replaced: Any) -> dict[str, Any]:
    """What ultralytics 8.4 saves after the second of five epochs."""
    content = {
        "epoch": 1,
        "best_fitness": 0.25,
        "model": None,
        "ema": detector(),
        "updates": 12,
        "optimizer": detector_optimizer(),
        "scaler": {},
        "train_args": {"task": "detect", "mode": "train", "data": "data.yaml", "epochs": 5, "optimizer": "SGD"},
        "train_metrics": {"metrics/mAP50(B)": 0.5, "fitness": 0.25},
        "train_results": {"epoch": [1, 2], "time": [1.0, 2.0]},
        "date": "2026-01-02T03:04:05",
        "version": version,
    }  # fmt: skip
    return with_changes(content, {**replaced, "version": version})


STRIPPED: dict[str, Any] = {"optimizer": None, "ema": None, "updates": None, "epoch": -1, "scaler": None}


def stripped_checkpoint(**replaced: Any) -> dict[str, Any]:
    """What is left of it when the run ends: the averaged weights under ``model``."""
    return ultralytics_checkpoint(**{**STRIPPED, "model": detector(), **replaced})

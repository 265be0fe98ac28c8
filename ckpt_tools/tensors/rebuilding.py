"""Which calls of a pickle rebuild tensors, what they say about them, and which of them no torch can carry out.

Facts from ``torch/_utils.py``, ``torch/_tensor.py`` and ``torch/serialization.py`` (torch 2.14), and from asking
torch: ``tests/oracle/test_rebuilders.py`` holds every rule here against it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from ckpt_tools.findings import as_text
from ckpt_tools.pickles import Call, GlobalRef, Persistent, Pickle, is_mapping, pairs_of, run
from ckpt_tools.pickles.nodes import Node, SetNode
from ckpt_tools.tensors.dtypes import DTYPES, Dtype, dtype_of_storage_class
from ckpt_tools.tensors.refs import StorageRef, TensorRef, contiguous_stride

__all__ = ["Misbuilt", "Resolved", "resolve", "resolve_tensors"]

LIMIT = 1 << 63  # torch's whole numbers have 64 bits and a sign
MOST_DIMENSIONS = 64  # numpy's limit; torch has none
FIRST_BYTES = 4096  # of a nested storage: enough for the pickles before its data
MOST_SHOWN = 40  # characters of a value in a message

# Each function that rebuilds a tensor, and the names of its arguments; those behind the bar may be left out.
STRIDED = "storage storage_offset size stride"
SIGNATURES = {
    "torch._utils._rebuild_tensor": STRIDED,
    "torch._utils._rebuild_tensor_v2": STRIDED + " requires_grad backward_hooks | metadata",
    "torch._utils._rebuild_tensor_v3": STRIDED + " requires_grad backward_hooks dtype | metadata",
    "torch._utils._rebuild_qtensor": STRIDED + " quantizer_params requires_grad backward_hooks",
    "torch._utils._rebuild_parameter": "data requires_grad backward_hooks",
    "torch._utils._rebuild_parameter_with_state": "data requires_grad backward_hooks state",
    "torch._utils._rebuild_sparse_tensor": "layout data",
    "torch._utils._rebuild_sparse_csr_tensor": "layout data",
    "torch._utils._rebuild_nested_tensor": "buffer sizes strides storage_offsets",
    "torch._utils._rebuild_meta_tensor_no_storage": "dtype size stride requires_grad",
    "torch._utils._rebuild_wrapper_subclass": "cls dtype size stride storage_offset layout device requires_grad",
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": "data dtype device requires_grad",
    "torch.tensor._rebuild_from_type": "func type args dict",
    "torch._tensor._rebuild_from_type": "func type args dict",
    "torch._tensor._rebuild_from_type_v2": "func type args state",
}

ALIASES = {"float": "float32", "double": "float64", "half": "float16", "int": "int32", "long": "int64",
           "short": "int16", "cfloat": "complex64", "cdouble": "complex128", "chalf": "complex32"}  # fmt: skip
ODD_DTYPES = frozenset({"bcomplex32", "bit"} | {f"{sign}int{bits}" for sign in ("", "u") for bits in range(1, 8)})
COMPRESSED = frozenset({"sparse_csr", "sparse_csc", "sparse_bsr", "sparse_bsc"})
LAYOUTS = COMPRESSED | {"strided", "sparse_coo", "_mkldnn", "jagged"}
OWN_CLASSES = frozenset({"torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer"})
PER_CHANNEL = frozenset({"per_channel_affine", "per_channel_affine_float_qparams"})


class Misbuilt(Exception):
    """Why a call can't rebuild a tensor: ``argument`` is what is wrong, ``why`` what is wrong with it."""

    def __init__(self, argument: str, why: str) -> None:
        super().__init__(f"{argument} {why}")
        self.argument = argument
        self.why = why


class _Unread(Exception):
    """The call may well work, but what it makes is none of the tensors described here; nothing is said of it."""


@dataclass
class Resolved:
    """The tensors of a pickle by the ``id`` of their call, and the calls that can't be carried out likewise."""

    tensors: dict[int, TensorRef] = field(default_factory=dict)
    misbuilt: dict[int, Misbuilt] = field(default_factory=dict)


class _Resolver:
    """Turns calls into tensors; what stops one is kept. ``legacy``: persistent ids are those of a stream."""

    def __init__(self, pickle: Pickle, legacy: bool = False) -> None:
        self.rules = {id(ref): REBUILD[path] for ref in pickle.globals if (path := ref.path) in REBUILD}
        self.count = 6 if legacy else 5
        self.kinds: dict[int, Dtype] = {}  # of storages, by the id of their class
        self.storages: dict[tuple[object, ...], StorageRef] = {}
        self.tensors: dict[int, TensorRef | None] = {}
        self.misbuilt: dict[int, Misbuilt] = {}

    # ------------------------------------------------------------ storages

    def storage(self, node: Node, argument: str = "storage") -> StorageRef | None:
        """The storage a node stands for; ``None`` for one kept inside the pickle."""
        if type(node) is Persistent:
            return self.persistent(node.id, argument)
        if isinstance(node, Call) and node.path == "torch.storage.TypedStorage":
            node = (node.kwargs or {}).get("wrap_storage") if isinstance(node.kwargs, dict) else None
            return self.storage(node, argument)
        if isinstance(node, Call) and node.path == "torch.storage._load_from_bytes":
            return None
        raise Misbuilt(argument, f"is {described(node)}, not a storage")

    def persistent(self, parts: Node, argument: str) -> StorageRef:
        """The storage of a persistent id: ``('storage', type, key, location, numel[, view])``."""
        if not isinstance(parts, tuple) or len(parts) != self.count or parts[0] not in ("storage", b"storage"):
            why = f"has the persistent id {described(parts)}, not 'storage' and {self.count - 1} facts"
            raise Misbuilt(argument, why)
        kind, key, location, numel = parts[1:5]
        if not isinstance(key, str if self.count == 6 else (str, int, float, bytes, type(None))):
            raise Misbuilt(argument, f"is kept under {described(key)}, which names no member")
        window = _window(parts[5], argument) if self.count == 6 and parts[5] is not None else None
        identity = (type(key), key, window)
        known = self.storages.get(identity)
        dtype = self.kinds.get(id(kind))
        if dtype is None:
            dtype = dtype_of_storage_class(kind.module, kind.name) if isinstance(kind, GlobalRef) else None
            if dtype is None:
                raise Misbuilt(argument, f"has the type {described(kind)}, which is no class of storages")
            self.kinds[id(kind)] = dtype
        if not isinstance(numel, int) or not 0 <= numel < LIMIT:
            raise Misbuilt(argument, f"has {described(numel)} elements")
        if isinstance(location, bytes):
            if not location.isascii():
                raise Misbuilt(argument, f"is on the device {described(location)}")
            location = location.decode("ascii")
        if known is not None and known.numel:  # torch takes the first reference's word for all that follow
            return known
        place = location if isinstance(location, str) else ""
        made = self.storages[identity] = StorageRef(as_text(key), dtype, place, int(numel), window)
        return made

    def alone(self, node: Persistent) -> None:
        """A storage that no tensor is rebuilt from is loaded all the same; a stream may refer to a module's class."""
        module = self.count == 6 and isinstance(node.id, tuple) and node.id[:1] == ("module",) and len(node.id) == 4
        if not module:
            try:
                self.persistent(node.id, "storage")
            except Misbuilt as problem:
                problem.__traceback__ = problem.__context__ = None
                self.misbuilt[id(node)] = problem

    # ------------------------------------------------------------ the rules, one for each kind of rebuilder

    def plain(self, call: Call, args: tuple[Node, ...]) -> TensorRef:
        """``_rebuild_tensor(storage, offset, size, stride)``."""
        storage, dtype = self.typed(args[0])
        return self.strided(call, storage, dtype)

    def version_2(self, call: Call, args: tuple[Node, ...]) -> TensorRef:
        """``_rebuild_tensor_v2(…, requires_grad, hooks[, metadata])``: torch takes whatever stands for the hooks."""
        storage, dtype = self.typed(args[0])
        if args[4] is not False:
            self.gradient(args[4], dtype)
        return self.strided(call, storage, dtype, args[6] if len(args) > 6 else None)

    def version_3(self, call: Call, args: tuple[Node, ...]) -> TensorRef:
        """``_rebuild_tensor_v3(…, requires_grad, hooks, dtype[, metadata])``, for types without a storage class."""
        storage, _ = self.typed(args[0])
        if args[4] is not None and args[4] is not False:
            raise Misbuilt("requires_grad", f"is {described(args[4])}, and torch can only set it to False here")
        return self.strided(call, storage, self.dtype(args[6]), args[7] if len(args) > 7 else None)

    def quantized(self, call: Call, args: tuple[Node, ...]) -> TensorRef:
        """``_rebuild_qtensor(…, quantizer_params, requires_grad, hooks)``."""
        storage, dtype = self.typed(args[0])
        self.quantizer(args[4], dtype, args[2])
        self.gradient(args[5], dtype)
        return self.strided(call, storage, dtype, implied=False)

    def typed(self, node: Node) -> tuple[StorageRef | None, Dtype]:
        """A storage, ``None`` for one kept inside the pickle, and the type of its elements."""
        storage = self.storage(node)
        dtype = storage.dtype if storage is not None else inline_dtype(node)
        if dtype is None:
            raise _Unread
        return storage, dtype

    def strided(
        self, call: Call, storage: StorageRef | None, dtype: Dtype, bits: Node = None, implied: bool = True
    ) -> TensorRef:
        """A tensor that lies in a storage, by the second to fourth argument of its call."""
        _, offset, size, steps = call.args[:4]
        if type(offset) is not int or not 0 <= offset < LIMIT:
            offset = self.number(offset, "storage_offset", 0)
        shape, stride = self.places(size, steps, implied)
        if storage is None:
            return TensorRef(None, 0, shape, stride, dtype, call, layout="inline")
        conj, neg = _bits(bits, dtype) if bits is not None else (False, False)
        return TensorRef(storage, offset, shape, stride, dtype, call, conj=conj, neg=neg)

    def parameter(self, call: Call, args: tuple[Node, ...]) -> TensorRef:
        """``_rebuild_parameter(data, requires_grad, hooks)``; ``…_with_state`` sets attributes behind it."""
        if args[0] is None:
            raise _Unread  # an empty parameter
        inner = self.needed(args[0], "data")
        self.gradient(args[1], inner.dtype)
        if len(args) > 3:
            _state(args[3], "state")
        return replace(inner, call=call, parameter=True)

    def subclass(self, call: Call, args: tuple[Node, ...]) -> TensorRef:
        """``_rebuild_from_type_v2(func, type, args, state)``: what ``func(*args)`` would be."""
        function, kind, inner, state = args
        if not isinstance(function, GlobalRef):
            raise Misbuilt("func", f"is {described(function)}, which rebuilds nothing")
        if not _may_be_class(kind):
            raise Misbuilt("type", f"is {described(kind)}, not a class of tensors")
        if call.path.endswith("_v2"):
            _state(state, "state")
        elif not is_mapping(state):
            raise Misbuilt("dict", f"is {described(state)}, not a dict")
        if id(function) not in self.rules:
            raise _Unread
        if isinstance(inner, list):
            inner = tuple(inner)
        made = self.attempt(Call(function, inner, "reduce", call.position))
        return replace(made, call=call)

    def meta(self, call: Call, args: tuple[Node, ...]) -> TensorRef:
        """``_rebuild_meta_tensor_no_storage(dtype, size, stride, requires_grad)``."""
        if args[3] is not None:
            self.gradient(args[3], self.dtype(args[0]))
        dtype = self.dtype(args[0])
        if dtype.quantized:
            raise Misbuilt("dtype", f"is {dtype}, which meta tensors can't have")
        if min(self.sequence(args[1], "size"), default=0) < 0:
            raise Misbuilt("size", f"is {described(args[1])}, which no meta tensor can have")
        shape, stride = self.places(args[1], args[2], implied=False, anywhere=True)
        return TensorRef(None, 0, shape, stride, dtype, call, layout="meta")

    def wrapper(self, call: Call, args: tuple[Node, ...]) -> TensorRef:
        """``_rebuild_wrapper_subclass(cls, dtype, size, stride, …)``: no bytes of its own."""
        if not _may_be_class(args[0]) or args[0].path in OWN_CLASSES:
            raise Misbuilt("cls", f"is {described(args[0])}, not a class that wraps tensors")
        _, dtype, size, steps, offset, layout, _, requires_grad = args
        self.gradient(requires_grad, self.dtype(dtype))
        if offset is not None:
            self.number(offset, "storage_offset")
        if _layout(layout) not in LAYOUTS:
            raise Misbuilt("layout", f"is {described(layout)}, not a layout")
        shape, stride = self.places(size, steps, implied=False, anywhere=True)
        return TensorRef(None, 0, shape, stride, self.dtype(dtype), call, layout="wrapper")

    def sparse(self, call: Call, args: tuple[Node, ...]) -> TensorRef:
        """``_rebuild_sparse_tensor(layout, (indices, values, size, …))`` and the compressed layouts."""
        layout, data = _layout(args[0]), args[1]
        counts = (3, 4) if layout == "sparse_coo" else (4,) if layout in COMPRESSED else ()
        if not counts:
            raise Misbuilt("layout", f"is {described(args[0])}, not one of sparse tensors")
        if not isinstance(data, (tuple, list)) or len(data) not in counts:
            raise Misbuilt("data", f"is {described(data)}, not {counts[0]} parts")
        names = ("indices", "values") if layout == "sparse_coo" else ("compressed_indices", "plain_indices", "values")
        parts = [self.component(part, name) for part, name in zip(data, names)]
        shape = self.shape(data[len(names)], "size")
        if layout == "sparse_coo":
            _coordinates(parts[0][0], parts[1][0], shape)
            if len(data) == 4 and data[3] is not None and not isinstance(data[3], bool):
                raise Misbuilt("is_coalesced", f"is {described(data[3])}, not True, False or None")
        dtype = parts[-1][1]
        if dtype is None or min(shape, default=0) < 0 or len(shape) > MOST_DIMENSIONS:
            raise _Unread
        return TensorRef(None, 0, shape, contiguous_stride(shape), dtype, call, layout=layout)

    def component(self, node: Node, argument: str) -> tuple[tuple[int, ...], Dtype | None]:
        """Shape and type of a part of a sparse tensor; torch makes tensors of numbers and lists of them, too."""
        shape = _numeric(node)
        if shape is not None:
            return shape, None
        found = self.needed(node, argument)
        if found.layout not in ("strided", "inline"):
            raise Misbuilt(argument, f"is a tensor without values ({found.layout})")
        return found.shape, found.dtype

    def nested(self, call: Call, args: tuple[Node, ...]) -> TensorRef:
        """``_rebuild_nested_tensor(buffer, sizes, strides, storage_offsets)``."""
        wanted = (("buffer", 1), ("sizes", 2), ("strides", 2), ("storage_offsets", 1))
        parts = [self.needed(node, name) for node, (name, _) in zip(args, wanted)]
        for part, (name, dimensions) in zip(parts, wanted):
            if len(part.shape) != dimensions:
                raise Misbuilt(name, f"has {len(part.shape)} dimensions, not {dimensions}")
            if name != "buffer" and part.dtype.name != "int64":
                raise Misbuilt(name, f"is of type {part.dtype}, not int64")
            if name != "buffer" and part.shape[0] != parts[1].shape[0]:
                raise Misbuilt(name, f"is for {part.shape[0]} tensors, sizes for {parts[1].shape[0]}")
        raise _Unread

    def copy(self, call: Call, args: tuple[Node, ...]) -> TensorRef:
        """``_rebuild_device_tensor_from_cpu_tensor(data, dtype, device, requires_grad)``; its data are listed."""
        inner = self.needed(args[0], "data")
        if inner.layout == "meta":
            raise Misbuilt("data", "is a meta tensor, which has no values to copy")
        dtype = self.dtype(args[1]) if args[1] is not None else inner.dtype
        if dtype != inner.dtype and (dtype.packed or inner.dtype.packed):
            raise Misbuilt("dtype", f"is {dtype}, which a tensor of {inner.dtype} can't be turned into")
        self.gradient(args[3], dtype)
        raise _Unread

    # ------------------------------------------------------------ their arguments

    def number(self, node: Node, argument: str, least: int = -LIMIT) -> int:
        if type(node) is int and least <= node < LIMIT:
            return node
        if self.counts(node):
            raise _Unread
        raise Misbuilt(argument, f"is {described(node)}, not a whole number{' from 0 on' if least == 0 else ''}")

    def counts(self, node: Node, floating: bool = False) -> bool:
        """Whether an object stands for a number, which torch asks it for: numpy's, or a tensor of one."""
        if not isinstance(node, Call):
            return False
        if node.path.endswith("multiarray.scalar"):
            return True
        tensor = self.tensor(node)
        return tensor is not None and tensor.numel == 1 and (floating or not tensor.dtype.floating)

    def shape(self, node: Node, argument: str) -> tuple[int, ...]:
        """A shape: a tuple or list of numbers, or ``torch.Size`` of one, whose product has 64 bits."""
        shape = self.sequence(node, argument)
        count = 1
        for length in shape:
            count = count * (length % (1 << 64))
            if count >= 1 << 64:
                break
        if count >= LIMIT:
            raise Misbuilt(argument, f"is {described(shape)}, which no tensor can have")
        return shape

    def sequence(self, node: Node, argument: str) -> tuple[int, ...]:
        """A tuple or list of whole numbers; behind the first one, torch takes True and False for 1 and 0."""
        given = node
        if isinstance(given, Call) and given.path == "torch.Size" and isinstance(given.args, tuple):
            given = given.args[0] if given.args else ()
        if not isinstance(given, (tuple, list)):
            raise Misbuilt(argument, f"is {described(node)}, not a tuple of whole numbers")
        for place, number in enumerate(given):
            if type(number) is not int or not -LIMIT <= number < LIMIT:
                if place and type(number) is bool:
                    continue
                self.number(number, f"{argument}[{place}]")
        return tuple(given)

    def places(
        self, size: Node, steps: Node, implied: bool, anywhere: bool = False
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shape and stride. Without any steps, where they may be ``implied``, values lie one behind the other.

        Where there are no bytes, steps may lead ``anywhere``.
        """
        if type(size) is tuple and type(steps) is tuple and len(size) == len(steps) <= MOST_DIMENSIONS:
            count = 1
            for length, step in zip(size, steps):  # what all but a few tensors are
                if type(length) is not int or type(step) is not int or length <= 0 or not 0 <= step < LIMIT:
                    break
                count *= length
            else:
                if count < LIMIT:
                    return size, steps
        shape = self.shape(size, "size")
        stride = self.sequence(steps, "stride") if steps is not None or anywhere else ()
        if not stride and implied:
            stride = contiguous_stride(shape)
        if len(stride) != len(shape):
            raise Misbuilt("stride", f"is {described(stride)}, {len(stride)} steps for {len(shape)} dimensions")
        if not anywhere and 0 not in shape and any(step < 0 and length > 1 for step, length in zip(stride, shape)):
            raise Misbuilt("stride", f"is {described(stride)}, and torch has no steps backwards")
        if len(shape) > MOST_DIMENSIONS or min((*shape, *stride), default=0) < 0:
            raise _Unread
        return shape, stride

    def gradient(self, node: Node, dtype: Dtype) -> None:
        """Whether the tensor takes part in training."""
        if type(node) is not bool:
            raise Misbuilt("requires_grad", f"is {described(node)}, not True or False")
        if node and not dtype.floating:
            raise Misbuilt("requires_grad", f"is True for a tensor of {dtype}, which has no gradient")

    def dtype(self, node: Node) -> Dtype:
        if node is None:
            return DTYPES["float32"]  # torch's default
        if isinstance(node, GlobalRef) and node.module == "torch":
            known = DTYPES.get(ALIASES.get(node.name, node.name))
            if known is not None:
                return known
            if node.name in ODD_DTYPES:
                raise _Unread
        raise Misbuilt("dtype", f"is {described(node)}, not a type of numbers")

    def quantizer(self, params: Node, dtype: Dtype, size: Node) -> None:
        """``(qscheme, scale, zero_point)``, or ``(qscheme, scales, zero_points, axis)`` for one of each channel."""
        if not dtype.quantized:
            raise Misbuilt("storage", f"holds {dtype}, which is no type of quantized numbers")
        scheme = params[0] if isinstance(params, (tuple, list)) and params else None
        name = scheme.name if isinstance(scheme, GlobalRef) and scheme.module == "torch" else ""
        shape = self.shape(size, "size")
        if min(shape, default=0) < 0:
            raise Misbuilt("size", f"is {described(size)}, which no quantized tensor can have")
        if name == "per_tensor_affine" and len(params) == 3:
            if not isinstance(params[1], (int, float)) and not self.counts(params[1], floating=True):
                raise Misbuilt("quantizer_params", f"has the scale {described(params[1])}")
            self.number(params[2], "zero_point")
        elif name in PER_CHANNEL and len(params) == 4:
            axis = self.number(params[3], "axis", 0)
            if axis >= len(shape):
                raise Misbuilt("axis", f"is {axis}, of {len(shape)} dimensions")
            self.channels(params[1], params[2], shape[axis])
        else:
            raise Misbuilt("quantizer_params", f"is {described(params)}, no way to quantize")

    def channels(self, scales: Node, zeros: Node, count: int) -> None:
        both = (scales, "scales"), (zeros, "zero_points")
        listed = [isinstance(node, list) for node, _ in both]
        for node, name in both:
            if all(listed):
                right = len(node) == count and all(isinstance(value, (int, float)) for value in node)
            else:
                found = self.needed(node, name)
                right = found.shape == (count,) and (name != "scales" or found.dtype.floating)
            if not right:
                raise Misbuilt(name, f"are not one number for each of {count} channels")

    def needed(self, node: Node, argument: str) -> TensorRef:
        """The tensor an argument must be."""
        found = self.tensor(node)
        if found is not None:
            return found
        if id(node) in self.misbuilt:
            raise self.misbuilt[id(node)]
        if isinstance(node, Call) and (id(node.callee) in self.rules or _may_be_tensor(node)):
            raise _Unread
        raise Misbuilt(argument, f"is {described(node)}, not a tensor")

    # ------------------------------------------------------------ calls

    def attempt(self, call: Call) -> TensorRef:
        rule, least, most = self.rules[id(call.callee)]
        if call.kind in ("newobj", "newobj_ex") or not isinstance(call.args, tuple):
            raise Misbuilt(call.path, f"is not called with a tuple of arguments but {described(call.args)}")
        if not least <= len(call.args) <= most:
            raise Misbuilt(call.path, f"is called with {len(call.args)} arguments, not {least}")
        return rule(self, call, call.args)

    def tensor(self, node: Node) -> TensorRef | None:
        """The tensor a node stands for. Calls come in the order of the file, so what a call wraps is known by then."""
        if type(node) is not Call or id(node.callee) not in self.rules:
            return None
        key = id(node)
        if key in self.tensors:
            return self.tensors[key]
        self.tensors[key] = None  # while it is being made: a call can't rebuild itself
        try:
            made = self.tensors[key] = self.attempt(node)
        except _Unread:
            return None
        except Misbuilt as problem:
            problem.__traceback__ = problem.__context__ = None  # they would keep the whole run alive
            self.misbuilt[key] = problem
            return None
        return made


Rule = Callable[[_Resolver, Call, "tuple[Node, ...]"], TensorRef]
RULES: dict[str, Rule] = {
    "_rebuild_tensor": _Resolver.plain,
    "_rebuild_tensor_v2": _Resolver.version_2,
    "_rebuild_tensor_v3": _Resolver.version_3,
    "_rebuild_qtensor": _Resolver.quantized,
    "_rebuild_parameter": _Resolver.parameter,
    "_rebuild_parameter_with_state": _Resolver.parameter,
    "_rebuild_sparse_tensor": _Resolver.sparse,
    "_rebuild_sparse_csr_tensor": _Resolver.sparse,
    "_rebuild_nested_tensor": _Resolver.nested,
    "_rebuild_meta_tensor_no_storage": _Resolver.meta,
    "_rebuild_wrapper_subclass": _Resolver.wrapper,
    "_rebuild_device_tensor_from_cpu_tensor": _Resolver.copy,
    "_rebuild_from_type": _Resolver.subclass,
    "_rebuild_from_type_v2": _Resolver.subclass,
}
REBUILD: dict[str, tuple[Rule, int, int]] = {  # with the least and most arguments
    path: (RULES[path.rsplit(".", 1)[1]], len(names.split("|")[0].split()), len(names.replace("|", "").split()))
    for path, names in SIGNATURES.items()
}


def resolve(pickle: Pickle, legacy: bool = False) -> Resolved:
    """Every tensor a pickle rebuilds, and every call that would fail to.

    A parameter and the tensor it wraps share their bytes; only the parameter counts, so the wrapped tensor is
    left out (unless something else also refers to it, which changes nothing about the bytes).
    """
    resolver = _Resolver(pickle, legacy)
    wrapped: set[int] = set()
    given: set[int] = set()  # storages that were looked at with the tensor they belong to
    for call in pickle.calls:
        if id(call.callee) in resolver.rules:
            tensor = resolver.tensor(call)
            if isinstance(call.args, tuple) and call.args:
                given.add(id(call.args[0]))
                if tensor is not None and tensor.parameter:
                    wrapped.add(id(call.args[0]))
    for persistent in pickle.persistents:
        if id(persistent) not in given:
            resolver.alone(persistent)
    made = resolver.tensors.items()
    tensors = {key: tensor for key, tensor in made if tensor is not None and key not in wrapped}
    return Resolved(tensors, resolver.misbuilt)


def resolve_tensors(pickle: Pickle) -> dict[int, TensorRef]:
    """Every tensor a pickle rebuilds, by the ``id`` of its call node."""
    return resolve(pickle).tensors


def described(node: Node) -> str:
    """A value in a message: what can be shown in few characters, or what kind of thing it is."""
    if isinstance(node, GlobalRef):
        return shortened(node.path)
    if isinstance(node, Call):
        return f"made by {shortened(node.path)}"
    if isinstance(node, Persistent):
        return "a storage"
    if isinstance(node, int) and node.bit_length() > 128:
        return f"a number of {node.bit_length()} bits"
    if isinstance(node, (type(None), int, float)):
        return repr(node)
    if isinstance(node, (str, bytes)):
        return shortened(ascii(node[:MOST_SHOWN]))
    if isinstance(node, (tuple, list)):
        plain = len(node) <= 8 and all(type(value) in (int, float, bool, type(None)) for value in node)
        return shortened(repr(node)) if plain else f"a {type(node).__name__} of {len(node)}"
    return f"a {type(node).__name__}"


def shortened(text: str) -> str:
    return text if len(text) <= MOST_SHOWN else text[: MOST_SHOWN - 1] + "…"


def _falsy(node: Node) -> bool:
    """Whether Python takes a value for False, where that can be told without making it."""
    if isinstance(node, SetNode):
        return not node.items
    if isinstance(node, Call):
        empty = not node.args and not node.items and not node.pairs and not node.states
        return empty and node.path in ("collections.OrderedDict", "torch.Size")
    return not isinstance(node, (GlobalRef, Persistent)) and not node


def _bits(metadata: Node, dtype: Dtype) -> tuple[bool, bool]:
    """The lazy conjugate and negative bits a tensor was saved with (``torch._utils._rebuild_tensor_v2``)."""
    if _falsy(metadata):
        return False, False
    if isinstance(metadata, Call) and metadata.path.endswith("multiarray.scalar"):
        raise _Unread
    held = dict(pairs_of(metadata)) if is_mapping(metadata) else {}
    plain = all(isinstance(k, (str, bytes)) and isinstance(v, (int, float, type(None))) for k, v in held.items())
    if not held or not plain:
        raise Misbuilt("metadata", f"is {described(metadata)}, not names of bits")
    if "conj" in held and not dtype.name.startswith("complex"):
        raise Misbuilt("metadata", f"conjugates a tensor of {dtype}")
    return bool(held.get("conj")), bool(held.get("neg"))


def _state(node: Node, argument: str) -> None:
    """Attributes to be set on a tensor: a mapping of names, or one and another of slots."""
    if (isinstance(node, tuple) and len(node) != 2) or (isinstance(node, Call) and node.path == "torch.Size"):
        raise Misbuilt(argument, f"is {described(node)}, not attributes and slots")
    for part in node if isinstance(node, tuple) else (node,):
        if _falsy(part) or (isinstance(part, Call) and part.path.endswith("multiarray.scalar")):
            continue
        if not is_mapping(part) or not all(isinstance(key, str) for key, _ in pairs_of(part)):
            raise Misbuilt(argument, f"is {described(part)}, not attributes by name")


def _coordinates(indices: tuple[int, ...], values: tuple[int, ...], shape: tuple[int, ...]) -> None:
    """Whether indices of so many dimensions, one for each value, fit a tensor of some shape."""
    if len(indices) != 2:
        raise Misbuilt("indices", f"has the shape {described(indices)}, not one column for each value")
    if values[:1] != indices[1:]:
        raise Misbuilt("values", f"has the shape {described(values)} for {indices[1]} indices")
    if len(shape) != indices[0] + len(values) - 1:
        raise Misbuilt("size", f"is {described(shape)}, which does not fit its indices and values")


def _numeric(node: Node, depth: int = 0) -> tuple[int, ...] | None:
    """The shape of a number, or of nested lists of numbers: what ``torch.tensor`` takes; ``None`` for anything else."""
    if isinstance(node, Call) and node.path == "torch.Size" and isinstance(node.args, tuple):
        node = node.args[0] if node.args else ()
    if isinstance(node, (list, tuple)) and depth < MOST_DIMENSIONS:
        inside = {_numeric(value, depth + 1) for value in node}
        inner = inside.pop() if len(inside) == 1 else None if inside else ()
        return (len(node), *inner) if inner is not None else None
    if isinstance(node, Call):
        return () if node.path.endswith("multiarray.scalar") else None
    return () if isinstance(node, float) or (isinstance(node, int) and -LIMIT <= node < LIMIT) else None


def _layout(node: Node) -> str:
    """The name of a layout: ``torch.sparse_coo``, or ``torch.serialization._get_layout`` of that text."""
    if isinstance(node, GlobalRef) and node.module == "torch":
        return node.name
    if isinstance(node, Call) and node.path == "torch.serialization._get_layout" and isinstance(node.args, tuple):
        text = node.args[0] if node.args else None
        return text.removeprefix("torch.") if isinstance(text, str) else ""
    return ""


def _may_be_class(node: Node) -> bool:
    """Whether a name may be that of a class of tensors: not one of the standard library, nor torch's other things."""
    if not isinstance(node, GlobalRef):
        return False
    name = node.name.rsplit(".", 1)[-1]
    return (
        name.lstrip("_")[:1].isupper()
        and not name.endswith("Storage")
        and node.module.split(".")[0] not in sys.stdlib_module_names
    )


def _may_be_tensor(call: Call) -> bool:
    """Whether a call that is none of the rebuilders makes a tensor nonetheless."""
    target = call.target
    if target is None or target.module.split(".")[0] != "torch":
        return False
    return target.name.startswith("_rebuild") or target.name.endswith(("Tensor", "Parameter", "Buffer"))


def inline_dtype(node: Node) -> Dtype | None:
    """The element type of a storage kept inside the pickle: ``_load_from_bytes`` of a whole saved storage."""
    if not isinstance(node, Call) or node.path != "torch.storage._load_from_bytes":
        return None
    match node.args:
        case (bytes() as data,):
            names = (ref for pickle in consecutive(data, 5) for ref in pickle.globals)
            found = (dtype_of_storage_class(ref.module, ref.name) for ref in names)
            return next((dtype for dtype in found if dtype is not None), None)
    return None


def consecutive(data: bytes, most: int) -> Iterator[Pickle]:
    """The first ``most`` pickles that lie one behind the other in ``data``."""
    place = 0
    for _ in range(most):
        pickle = run(data[place : place + FIRST_BYTES])
        yield pickle
        if pickle.trouble is not None:
            return
        place += pickle.end


def _window(node: Node, argument: str) -> tuple[str, int, int]:
    """The view part of a legacy persistent id: ``(key, first element, numel)``."""
    match node:
        case (str() | int() | None as key, int() as first, int() as count) if first >= 0 and count >= 0:
            return as_text(key), first, count
    raise Misbuilt(argument, f"is the view {described(node)}, not a key and two numbers")

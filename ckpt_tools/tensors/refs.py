"""Which calls of a pickle rebuild tensors, and what they say about them.

Facts from ``torch/_utils.py``, ``torch/_tensor.py`` and ``torch/serialization.py`` (torch 2.14).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from ckpt_tools.pickles import Call, GlobalRef, Persistent, Pickle, pairs_of, run
from ckpt_tools.pickles.nodes import Node
from ckpt_tools.tensors.dtypes import DTYPES, Dtype, dtype_of_storage_class

__all__ = ["StorageRef", "TensorRef", "contiguous_stride", "resolve_tensors"]


MOST_ELEMENTS, MOST_DIMENSIONS = 1 << 63, 64  # torch's own limits
FIRST_BYTES = 4096  # of a nested storage: enough for the pickles before its data


class StorageRef:
    """A run of bytes tensors are views of: ``numel`` elements of ``dtype``, saved from device ``location``."""

    __slots__ = ("dtype", "key", "location", "numel", "window")

    def __init__(
        self, key: str, dtype: Dtype, location: str, numel: int, window: tuple[str, int, int] | None = None
    ) -> None:
        self.key = key
        self.dtype = dtype
        self.location = location
        self.numel = numel
        self.window = window  # legacy only: (key, first element, numel) of a storage that views this one

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.size


@dataclass(eq=False)
class TensorRef:
    """One tensor: ``shape`` and ``stride`` in elements, from element ``offset`` of ``storage`` on.

    ``storage`` is ``None`` for tensors without bytes of their own (meta tensors, and sparse or nested ones, whose
    components are tensors themselves). ``parameter`` is true for what was a ``torch.nn.Parameter``.
    """

    storage: StorageRef | None
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: Dtype
    call: Call
    parameter: bool = False
    layout: str = "strided"
    conj: bool = False
    neg: bool = False

    @property
    def numel(self) -> int:
        count = 1
        for length in self.shape:
            count *= length
        return count

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.size

    @property
    def span(self) -> tuple[int, int]:
        """First element and number of elements of the storage between the tensor's first and last value."""
        if 0 in self.shape:
            return self.offset, 0
        reach = sum((length - 1) * step for length, step in zip(self.shape, self.stride))
        return self.offset, reach + 1


def contiguous_stride(shape: Sequence[int]) -> tuple[int, ...]:
    """The row-major stride of ``shape``, in elements."""
    stride: list[int] = []
    step = 1
    for length in reversed(shape):
        stride.append(step)
        step *= max(length, 1)
    return tuple(reversed(stride))


class _Resolver:
    """Turns calls into tensors; a call that is no tensor, or a malformed one, gives ``None``."""

    def __init__(self) -> None:
        self.storages: dict[tuple[object, ...], StorageRef] = {}
        self.tensors: dict[int, TensorRef | None] = {}

    def storage(self, node: Node) -> StorageRef | None:
        """The storage a persistent id names: ``('storage', type, key, location, numel[, view])``."""
        if isinstance(node, Call) and node.path == "torch.storage.TypedStorage":
            node = (node.kwargs or {}).get("wrap_storage") if isinstance(node.kwargs, dict) else None
        if not isinstance(node, Persistent):
            return None
        match node.id:
            case ("storage", GlobalRef() as kind, str() | int() as key, str() as location, int() as numel, *rest):
                window = _window(rest[0]) if rest else None
                identity = (kind.module, kind.name, key, location, numel, window)
                if identity not in self.storages:
                    dtype = dtype_of_storage_class(kind.module, kind.name)
                    if dtype is None or numel < 0:
                        return None
                    self.storages[identity] = StorageRef(str(key), dtype, location, numel, window)
                return self.storages[identity]
        return None

    def strided(self, call: Call) -> TensorRef | None:
        """``_rebuild_tensor(storage, offset, size, stride)``; v2 and v3 add more behind it."""
        storage_node, offset, shape, stride = call.args[:4]
        storage = self.storage(storage_node)
        shape, stride = _size(shape), _size(stride)
        if shape is None or stride is None or len(shape) != len(stride) or not _natural(offset):
            return None
        if storage is None:
            inline = inline_dtype(storage_node)
            return TensorRef(None, 0, shape, stride, inline, call, layout="inline") if inline else None
        dtype = storage.dtype
        if call.path.endswith("_v3"):
            dtype = _dtype(call.args[6]) or dtype
        bits = _bits(call.args[6]) if call.path.endswith("_v2") and len(call.args) > 6 else {}
        conj, neg = bits.get("conj", False), bits.get("neg", False)
        return TensorRef(storage, offset, shape, stride, dtype, call, conj=conj, neg=neg)

    def parameter(self, call: Call) -> TensorRef | None:
        inner = self.tensor(call.args[0])
        if inner is None:
            return None
        return replace(inner, call=call, parameter=True)

    def subclass(self, call: Call) -> TensorRef | None:
        """``_rebuild_from_type_v2(func, type, args, state)``: what ``func(*args)`` would be."""
        function, _kind, args = call.args[:3]
        inner = Call(function, args, "reduce", call.position)
        made = self.rebuild(inner)
        return replace(made, call=call) if made is not None else None

    def meta(self, call: Call) -> TensorRef | None:
        """``_rebuild_meta_tensor_no_storage(dtype, size, stride, requires_grad)``."""
        dtype, shape, stride = _dtype(call.args[0]), _size(call.args[1]), _size(call.args[2])
        if dtype is None or shape is None or stride is None:
            return None
        return TensorRef(None, 0, shape, stride, dtype, call, layout="meta")

    def sparse(self, call: Call) -> TensorRef | None:
        """``_rebuild_sparse_tensor(layout, (indices, values, size, …))`` and the compressed layouts."""
        layout, data = call.args[:2]
        place = next(index for index, part in enumerate(data) if _size(part) is not None)
        shape, values = _size(data[place]), self.tensor(data[place - 1])
        if values is None or shape is None:
            return None
        kind = layout.name if isinstance(layout, GlobalRef) else "sparse"
        return TensorRef(None, 0, shape, contiguous_stride(shape), values.dtype, call, layout=kind)

    def wrapper(self, call: Call) -> TensorRef | None:
        """``_rebuild_wrapper_subclass(cls, dtype, size, stride, …)``: no bytes of its own."""
        dtype, shape, stride = _dtype(call.args[1]), _size(call.args[2]), _size(call.args[3])
        if dtype is None or shape is None or stride is None:
            return None
        return TensorRef(None, 0, shape, stride, dtype, call, layout="wrapper")

    def rebuild(self, call: Call) -> TensorRef | None:
        rule = REBUILD.get(call.path)
        if rule is None or not isinstance(call.args, tuple):
            return None
        try:
            return rule(self, call)
        except (IndexError, TypeError, ValueError, AttributeError, StopIteration):
            return None  # arguments nobody's torch would accept; the call is reported as it stands

    def tensor(self, node: Node) -> TensorRef | None:
        """The tensor a node stands for. Calls come in the order of the file, so what a call wraps is known by then."""
        if not isinstance(node, Call):
            return None
        if id(node) not in self.tensors:
            self.tensors[id(node)] = None  # while it is being made: a call can't rebuild itself
            self.tensors[id(node)] = self.rebuild(node)
        return self.tensors[id(node)]


REBUILD: dict[str, Callable[[_Resolver, Call], TensorRef | None]] = {
    "torch._utils._rebuild_tensor": _Resolver.strided,
    "torch._utils._rebuild_tensor_v2": _Resolver.strided,
    "torch._utils._rebuild_tensor_v3": _Resolver.strided,
    "torch._utils._rebuild_qtensor": _Resolver.strided,
    "torch._utils._rebuild_parameter": _Resolver.parameter,
    "torch._utils._rebuild_parameter_with_state": _Resolver.parameter,
    "torch._utils._rebuild_sparse_tensor": _Resolver.sparse,
    "torch._utils._rebuild_sparse_csr_tensor": _Resolver.sparse,
    "torch._utils._rebuild_meta_tensor_no_storage": _Resolver.meta,
    "torch._utils._rebuild_wrapper_subclass": _Resolver.wrapper,
    "torch.tensor._rebuild_from_type": _Resolver.subclass,
    "torch._tensor._rebuild_from_type": _Resolver.subclass,
    "torch._tensor._rebuild_from_type_v2": _Resolver.subclass,
}


def resolve_tensors(pickle: Pickle) -> dict[int, TensorRef]:
    """Every tensor a pickle rebuilds, by the ``id`` of its call node.

    A parameter and the tensor it wraps share their bytes; only the parameter counts, so the wrapped tensor is
    left out (unless something else also refers to it, which changes nothing about the bytes).
    """
    resolver = _Resolver()
    wrapped: set[int] = set()
    rebuilds = {id(ref) for ref in pickle.globals if ref.path in REBUILD}
    for call in pickle.calls:
        if id(call.callee) in rebuilds:
            tensor = resolver.tensor(call)
            if tensor is not None and tensor.parameter and isinstance(call.args, tuple):
                wrapped.add(id(call.args[0]))
    made = resolver.tensors.items()
    return {key: tensor for key, tensor in made if tensor is not None and key not in wrapped}


def _bits(metadata: Node) -> dict[str, bool]:
    """The lazy conjugate and negative bits a tensor was saved with (``torch._utils._rebuild_tensor_v2``)."""
    return {key: bool(value) for key, value in pairs_of(metadata) if key in ("conj", "neg")}


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


def _window(node: Node) -> tuple[str, int, int] | None:
    """The view part of a legacy persistent id: ``(key, first element, numel)``."""
    match node:
        case (str() as key, int() as first, int() as count):
            return key, first, count
    return None


def _natural(value: Node) -> bool:
    return type(value) is int and 0 <= value < MOST_ELEMENTS


def _size(node: Node) -> tuple[int, ...] | None:
    """A shape or stride: a tuple of natural numbers, or ``torch.Size`` of one."""
    if isinstance(node, Call) and node.path == "torch.Size" and isinstance(node.args, tuple) and node.args:
        node = node.args[0]
    if not isinstance(node, (tuple, list)) or len(node) > MOST_DIMENSIONS:
        return None
    for length in node:
        if type(length) is not int or not 0 <= length < MOST_ELEMENTS:
            return None
    return tuple(node)


def _dtype(node: Node) -> Dtype | None:
    return DTYPES.get(node.name) if isinstance(node, GlobalRef) and node.module == "torch" else None

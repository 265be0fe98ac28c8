"""The element types of torch: their size, and how to test raw values of each for NaN and infinity."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DTYPES", "Dtype", "dtype_of_storage_class", "storage_class"]


@dataclass(frozen=True)
class Dtype:
    """One element type.

    ``size`` is bytes per element. ``numpy`` is the numpy dtype with the same bits, or ``None``. For floating
    types ``word`` is the unsigned integer that holds one value and ``exponent`` the mask of its exponent bits:
    all of them set means NaN or infinity (``None`` where a type has no such values, or another rule for them).
    ``finite_max`` is the largest finite value where saturation is worth reporting.
    """

    name: str
    size: int
    numpy: str | None
    word: str | None = None
    exponent: int | None = None
    finite_max: float | None = None

    @property
    def floating(self) -> bool:
        return self.name.startswith(("float", "bfloat", "complex"))

    @property
    def quantized(self) -> bool:
        return self.name.startswith(("qint", "quint"))

    def __str__(self) -> str:
        return self.name


# float8_e4m3fn has no infinity and one NaN pattern per sign; the fnuz types have the single NaN 0x80
# (torch/headeronly/util/Float8_*.h, torch 2.14).
_ALL = (
    Dtype("float64", 8, "<f8", "<u8", 0x7FF0_0000_0000_0000),
    Dtype("float32", 4, "<f4", "<u4", 0x7F80_0000),
    Dtype("float16", 2, "<f2", "<u2", 0x7C00, finite_max=65504.0),
    Dtype("bfloat16", 2, None, "<u2", 0x7F80),
    Dtype("float8_e5m2", 1, None, "u1", 0x7C),
    Dtype("float8_e4m3fn", 1, None, "u1"),
    Dtype("float8_e5m2fnuz", 1, None, "u1"),
    Dtype("float8_e4m3fnuz", 1, None, "u1"),
    Dtype("float8_e8m0fnu", 1, None, "u1"),
    Dtype("float4_e2m1fn_x2", 1, None),
    Dtype("complex128", 16, "<c16", "<u8", 0x7FF0_0000_0000_0000),
    Dtype("complex64", 8, "<c8", "<u4", 0x7F80_0000),
    Dtype("complex32", 4, None, "<u2", 0x7C00),
    Dtype("int64", 8, "<i8"),
    Dtype("int32", 4, "<i4"),
    Dtype("int16", 2, "<i2"),
    Dtype("int8", 1, "i1"),
    Dtype("uint64", 8, "<u8"),
    Dtype("uint32", 4, "<u4"),
    Dtype("uint16", 2, "<u2"),
    Dtype("uint8", 1, "u1"),
    Dtype("bool", 1, "?"),
    Dtype("quint8", 1, "u1"),
    Dtype("qint8", 1, "i1"),
    Dtype("qint32", 4, "<i4"),
    Dtype("quint4x2", 1, "u1"),
    Dtype("quint2x4", 1, "u1"),
    Dtype("bits8", 1, "u1"),
    Dtype("bits16", 2, "<u2"),
    Dtype("bits1x8", 1, "u1"),
    Dtype("bits2x4", 1, "u1"),
    Dtype("bits4x2", 1, "u1"),
)
DTYPES: dict[str, Dtype] = {dtype.name: dtype for dtype in _ALL}

# torch/storage.py, _dtype_to_storage_type_map (torch 2.14); UntypedStorage counts bytes.
_STORAGE_CLASSES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexDoubleStorage": "complex128",
    "ComplexFloatStorage": "complex64",
    "QUInt8Storage": "quint8",
    "QInt8Storage": "qint8",
    "QInt32Storage": "qint32",
    "QUInt4x2Storage": "quint4x2",
    "QUInt2x4Storage": "quint2x4",
    "UntypedStorage": "uint8",
}


def dtype_of_storage_class(module: str, name: str) -> Dtype | None:
    """The element type of a storage class (``torch.FloatStorage``, ``torch.cuda.HalfStorage``, …), if it is one."""
    if module not in ("torch", "torch.cuda", "torch.storage", "torch.xpu", "torch.mps"):
        return None
    known = _STORAGE_CLASSES.get(name)
    return DTYPES[known] if known else None


def storage_class(dtype: Dtype) -> tuple[str, str]:
    """Module and name of the storage class torch saves a type with: where a type has none of its own, that of bytes."""
    known = next((name for name, held in _STORAGE_CLASSES.items() if held == dtype.name), None)
    return ("torch", known) if known else ("torch.storage", "UntypedStorage")

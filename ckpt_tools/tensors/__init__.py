"""Tensors as a file describes them: dtype, shape, stride, storage slice; values streamed from raw bytes."""

from ckpt_tools.tensors.dtypes import DTYPES, Dtype, dtype_of_storage_class
from ckpt_tools.tensors.rebuilding import Misbuilt, resolve, resolve_tensors
from ckpt_tools.tensors.refs import StorageRef, TensorRef, contiguous_stride

__all__ = [
    "DTYPES",
    "Dtype",
    "Misbuilt",
    "StorageRef",
    "TensorRef",
    "contiguous_stride",
    "dtype_of_storage_class",
    "resolve",
    "resolve_tensors",
]

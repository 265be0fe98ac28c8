"""What kind of file this is, told from its first bytes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ckpt_tools.container.ziprecords import find_end
from ckpt_tools.source import Source, zero_tail

__all__ = ["Kind", "archive_kind", "foreign", "sniff"]

HEAD = 1024  # bytes looked at


@dataclass(frozen=True)
class Kind:
    """A kind of file: its short ``name`` and, for what is no checkpoint, ``what`` to call it and what to ``do``."""

    name: str
    what: str = ""
    do: str = ""


ZIP, PICKLE, EMPTY, ZEROS = Kind("zip"), Kind("pickle"), Kind("empty"), Kind("zeros")
UNKNOWN = Kind(
    "unknown", "no format known here", "check where the file came from: `ckpt inspect FILE` shows its first bytes"
)
DOWNLOAD = "download it again: what was saved is the page, not the file"

# (pattern of the first bytes, kind); the first that matches wins.
SIGNATURES: tuple[tuple[re.Pattern[bytes], Kind], ...] = tuple(
    (re.compile(pattern, re.DOTALL | re.IGNORECASE), Kind(name, what, do))
    for pattern, name, what, do in (
        (rb"version https://git-lfs", "git-lfs-pointer", "a Git LFS pointer", "fetch the file itself: `git lfs pull`"),
        (rb"\s*(<!doctype html|<html|<head|<body|<\?xml|<script)", "html", "a web page", DOWNLOAD),
        (
            rb".{7}\0\{\s*\"",
            "safetensors",
            "a safetensors file",
            "load it with the `safetensors` package; `ckpt convert FILE --to zip` makes a .pt of it",
        ),
        (rb"GGUF", "gguf", "a GGUF model", "this is an exported model; use the training checkpoint it was made from"),
        (rb"\x89HDF\r\n", "hdf5", "an HDF5 file (Keras?)", "open it with h5py or Keras"),
        (
            rb"\x08[\x01-\x20](\x12|\x1a|\x22|\x3a|\x42|\x2a)",
            "onnx",
            "an ONNX model",
            "use the training checkpoint it was exported from",
        ),
        (rb".{4}TFL3", "tflite", "a TensorFlow Lite model", "use the training checkpoint it was exported from"),
        (rb"\x93NUMPY", "npy", "a NumPy array", "open it with numpy.load"),
        (
            rb"\x89PNG\r\n|\xff\xd8\xff|GIF8[79]a|BM.{4}\0\0\0\0|II\*\0|MM\0\*|RIFF.{4}WEBP",
            "image",
            "an image",
            "check the path",
        ),
        (rb"\x1f\x8b", "gzip", "a gzip file", "unpack it first: `gunzip`"),
        (rb"BZh[1-9]", "bzip2", "a bzip2 file", "unpack it first: `bunzip2`"),
        (rb"\xfd7zXZ\0", "xz", "an xz file", "unpack it first: `unxz`"),
        (rb"\x28\xb5\x2f\xfd", "zstd", "a Zstandard file", "unpack it first: `unzstd`"),
        (rb"7z\xbc\xaf\x27\x1c", "7z", "a 7-Zip archive", "unpack it first: `7z x`"),
        (rb"Rar!", "rar", "a RAR archive", "unpack it first"),
        (rb"%PDF", "pdf", "a PDF document", "check the path"),
        (rb"\x7fELF|MZ.{58}", "program", "a program or library", "check the path"),
        (rb"SQLite format 3", "sqlite", "an SQLite database", "check the path"),
    )
)

TAR = Kind("tar", "a tar archive", "unpack it first: `tar xf`")

EXPORTED = "use the training checkpoint it was exported from"
# Members that tell what a zip archive without a checkpoint in it is; matched against names below the root.
ARCHIVES: tuple[tuple[str, Kind], ...] = (
    (r"constants\.pkl$|^code/", Kind("torchscript", "a TorchScript program", EXPORTED)),
    (r"(^|/)archive_format$|^models/.*\.json$|serialized_exported_program",
     Kind("torch-export", "a torch.export program", EXPORTED)),
    (r"\.data/(extern_modules|python_version)$", Kind("torch-package", "a torch.package archive", EXPORTED)),
    (r"\.(pt|pth|ckpt|pkl|bin|tar)$",
     Kind("outer-zip", "a zip archive around a checkpoint", "unpack it, or let `ckpt repair` take the checkpoint out")),
    (r"\.npy$", Kind("npz", "a NumPy archive", "open it with numpy.load")),
    (r"(^|/)config\.json$|\.weights\.h5$", Kind("keras", "a Keras model", "open it with Keras")),
    (r"", Kind("zip-archive", "a zip archive with no checkpoint in it", "check the path")),
)  # fmt: skip


def sniff(source: Source) -> Kind:
    """The kind of file. Anything that may still be a (damaged) checkpoint is ``zip`` or ``pickle``."""
    head = source.read(0, HEAD)
    if not head:
        return EMPTY
    if head[:4] == b"PK\3\4"[: len(head)]:
        return ZIP
    if is_tar(head):
        return TAR
    if head[:2] == b"PK" and find_end(source):
        return ZIP
    begun = head.rstrip(b"\0")
    if any(sign.startswith(begun) for sign in (b"PK\3", b"\x80")) and zero_tail(source) == source.size - len(begun):
        return ZEROS
    if re.match(rb"\x80[\x00-\x05]", head) or head == b"\x80":
        return PICKLE
    for pattern, kind in SIGNATURES:
        if pattern.match(head):
            return kind
    if find_end(source) is not None:
        return ZIP  # the head is overwritten, the directory is still there
    return _text(head)


TAR_BLOCK = 512  # bytes
TAR_CHECKSUM = re.compile(rb"[ 0-7\0]{8}|[\x80\xff].{7}", re.DOTALL)


def is_tar(head: bytes) -> bool:
    """Whether a file begins with the header of a tar member, by its checksum: old headers have no magic word.

    torch asks ``tarfile`` before anything else where a file is no zip archive, so that a stream of pickles may be a
    tar archive as well (``torch/serialization.py``, ``_legacy_load``, torch 2.14).
    """
    if len(head) < TAR_BLOCK or not TAR_CHECKSUM.fullmatch(head[148:156]):
        return False
    import tarfile

    try:
        tarfile.TarInfo.frombuf(head[:TAR_BLOCK], "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    return True


def _text(head: bytes) -> Kind:
    """JSON, YAML or other text; anything else is unknown."""
    try:
        text = head.decode("utf-8", "strict" if len(head) < HEAD else "ignore")
    except UnicodeDecodeError:
        return UNKNOWN
    if any(ord(character) < 32 and character not in "\t\r\n\f" for character in text):
        return UNKNOWN
    if text.lstrip()[:1] in ("{", "["):
        return Kind("json", "a JSON file", "name the .pt file it belongs to")
    if re.match(r"(\s*#[^\n]*\n|\s*\n|---\n)*[\w.-]+:(\s|$)", text):
        return Kind("yaml", "a YAML file", "name the .pt file it belongs to")
    return Kind("text", "a text file", "check the path; the first line may say what went wrong")


def archive_kind(names: Iterable[str]) -> Kind:
    """What a zip archive is that holds no ``data.pkl``, from the names of its members."""
    listed = list(names)
    return next(kind for pattern, kind in ARCHIVES if any(re.search(pattern, name) for name in listed) or not pattern)


def foreign(kind: Kind) -> bool:
    """Whether the kind is certainly no checkpoint."""
    return bool(kind.what)

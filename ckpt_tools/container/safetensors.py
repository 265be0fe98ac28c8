"""Files of the safetensors format: planned like an archive before a byte is written, and read strictly.

Eight bytes that give the length N of the header (little-endian), N bytes of JSON padded with spaces, then the tensors,
whose offsets count from behind the header (``README.md`` and ``safetensors/src/tensor.rs`` of huggingface/safetensors,
0.8.0). Tensors are little-endian and row-major, lie behind one another without holes, and share nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ckpt_tools.findings import CkptError, escape
from ckpt_tools.source import BytesSource, JoinedSource, Source, Stretch

__all__ = ["Entry", "NewTensor", "SafeTensors", "read_safetensors", "safetensors_archive"]

LENGTH = 8  # bytes that give the header's length; the header is padded to a multiple of it too
LONGEST_HEADER = 100_000_000  # bytes: MAX_HEADER_SIZE in tensor.rs
MOST_TENSORS = 1_000_000  # 100 MB of nothing but brackets would be gigabytes of Python objects
LARGEST_SIZE, LARGEST_COUNT = 1 << 63, 1 << 64  # of one dimension (torch's int64) and of all multiplied (usize)
METADATA = "__metadata__"
MOST_NAMED = 5

# The words the package turns into torch's types and back, in the order of `enum Dtype` in tensor.rs: tensors of later
# words come first in a file, so that each is aligned. F8_E8M0 is known since 0.6, C64 since 0.7, FNUZ since 0.8.
# F4 and F6 are left out: they count less than a byte per element, and the only such type of torch (float4_e2m1fn_x2)
# counts pairs, so that shapes would differ.
WORDS: dict[str, tuple[str, int]] = {  # word: torch's name, bytes per element
    "BOOL": ("bool", 1),
    "U8": ("uint8", 1),
    "I8": ("int8", 1),
    "F8_E5M2": ("float8_e5m2", 1),
    "F8_E4M3": ("float8_e4m3fn", 1),
    "F8_E8M0": ("float8_e8m0fnu", 1),
    "F8_E4M3FNUZ": ("float8_e4m3fnuz", 1),
    "F8_E5M2FNUZ": ("float8_e5m2fnuz", 1),
    "I16": ("int16", 2),
    "U16": ("uint16", 2),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "I32": ("int32", 4),
    "U32": ("uint32", 4),
    "F32": ("float32", 4),
    "C64": ("complex64", 8),
    "F64": ("float64", 8),
    "I64": ("int64", 8),
    "U64": ("uint64", 8),
}
WORD_OF = {torch: word for word, (torch, _) in WORDS.items()}
RANK = {word: place for place, word in enumerate(WORDS)}


@dataclass(frozen=True)
class NewTensor:
    """A tensor to be written: torch's name of its dtype, its bytes (little-endian, row-major), and their CRC-32."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: Source
    crc: int


@dataclass(frozen=True)
class Entry:
    """A tensor in a file: torch's name of its dtype, and ``size`` bytes from ``offset`` of the file on."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int


@dataclass
class SafeTensors:
    """What a file holds: its tensors in the order of the header, and what its writer noted."""

    tensors: dict[str, Entry] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)


# --- writing --------------------------------------------------------------------------------------


def safetensors_archive(tensors: Iterable[NewTensor], metadata: Mapping[str, str], name: str) -> JoinedSource:
    """The file of ``tensors`` as a source called ``name``, its tensors in the order the package writes them.

    Raises ``CkptError`` for what the format has no place for: dtypes without a word, names that occur twice or are no
    text, and more tensors than a header can list.
    """
    held = list(tensors)
    for problem, help_ in _problems(held, metadata):
        raise CkptError(f"{escape(name)} can't be written as safetensors: {problem}; {help_}")
    held.sort(key=lambda tensor: tensor.name)
    held.sort(key=lambda tensor: RANK[WORD_OF[tensor.dtype]], reverse=True)  # equals stay in the order of their names
    header = _header(held, metadata)
    if len(header) > LONGEST_HEADER:
        why = f"its header would have {len(header)} bytes, more than the {LONGEST_HEADER} the format allows"
        raise CkptError(f"{escape(name)} can't be written as safetensors: {why}; write a .pt file")
    start = Stretch(BytesSource(len(header).to_bytes(LENGTH, "little") + header))
    return JoinedSource([start, *(Stretch(tensor.data, tensor.crc, tensor.name) for tensor in held)], name)


def _header(tensors: Iterable[NewTensor], metadata: Mapping[str, str]) -> bytes:
    import json

    entries: dict[str, object] = {METADATA: dict(metadata)} if metadata else {}
    place = 0
    for tensor in tensors:
        end = place + tensor.data.size
        entries[tensor.name] = {
            "dtype": WORD_OF[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [place, end],
        }
        place = end
    header = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    return header + b" " * (-len(header) % LENGTH)


def _problems(tensors: list[NewTensor], metadata: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """What keeps the tensors from being written, each with what to do."""
    wordless = [f"{escape(held.name)} ({escape(held.dtype)})" for held in tensors if held.dtype not in WORD_OF]
    if wordless:
        yield f"it has no word for the dtype of {_few(wordless)}", "convert these first, or write a .pt file"
    names = [held.name for held in tensors]
    twice = [escape(name) for name, count in Counter(names).items() if count > 1]
    if twice:
        yield f"two tensors are named {_few(twice)}", "rename one of them"
    texts = (*names, *(text for pair in metadata.items() for text in pair))
    unfit = [escape(text) for text in texts if not _is_text(text)] + [name for name in names if name == METADATA]
    if unfit:
        yield f"it has no place for the name {_few(unfit)}", "use another name"
    if len(tensors) > MOST_TENSORS:
        yield f"it would have {len(tensors)} tensors", "write a .pt file"
    for held in tensors:
        size = _nbytes(held.shape, WORDS[WORD_OF[held.dtype]][1])
        if size != held.data.size:
            yield f"{escape(held.name)} has {held.data.size} bytes where its shape needs {size}", "`ckpt verify` it"


def _few(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - MOST_NAMED} more" if len(listed) > MOST_NAMED else ""
    return ", ".join(listed[:MOST_NAMED]) + more


def _is_text(text: str) -> bool:
    """Whether UTF-8 has bytes for it; halves of surrogate pairs have none."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def _nbytes(shape: Iterable[int], size: int) -> int | None:
    """Bytes of a tensor; ``None`` for shapes nobody could hold, as ``Metadata::validate`` in tensor.rs refuses them."""
    count = 1
    for length in shape:
        count *= length
        if not 0 <= length < LARGEST_SIZE or count >= LARGEST_COUNT:
            return None
    return count * size


# --- reading --------------------------------------------------------------------------------------


class _MalformedError(Exception):
    """Why a file isn't one of the format, and what to do."""

    def __init__(self, why: str, help_: str = "save it again with the safetensors package") -> None:
        super().__init__(f"{why}; {help_}")


AGAIN = "copy or download it again"


def read_safetensors(source: Source) -> SafeTensors:
    """What a file holds, by its header alone; no more than the header is read.

    As strict as the package, and also where its ``README.md`` forbids what the package (0.8.0) lets pass: a name that
    occurs twice, bytes before the header's ``{``. Raises ``CkptError`` that says why and what to do.
    """
    try:
        header, start = _read_header(source)
        found = SafeTensors()
        for name, value in header.items():
            if name == METADATA:
                found.metadata = _metadata(value)
            else:
                found.tensors[name] = _entry(name, value, start)
        _without_holes(found, start, source.size)
    except _MalformedError as error:
        raise CkptError(f"{escape(source.name)} can't be read as safetensors: {error}") from None
    return found


def _read_header(source: Source) -> tuple[dict[str, Any], int]:
    """The header's entries, and where the tensors begin."""
    first = source.read(0, LENGTH)
    if len(first) < LENGTH:
        raise _MalformedError(f"it has {len(first)} bytes, fewer than the {LENGTH} it begins with", AGAIN)
    length = int.from_bytes(first, "little")
    if length > LONGEST_HEADER:
        why = f"its header is to have {length} bytes, more than the {LONGEST_HEADER} the format allows"
        raise _MalformedError(why, "check that it is a safetensors file")
    raw = source.read(LENGTH, length)
    if len(raw) < length:
        raise _MalformedError(f"it ends inside its header, after {len(raw)} of {length} bytes", AGAIN)
    if not raw.startswith(b"{"):
        raise _MalformedError("its header does not begin with {", "check that it is a safetensors file")
    if raw.count(b"{") + raw.count(b"[") > 3 * MOST_TENSORS + 2:
        raise _MalformedError(f"its header lists more than {MOST_TENSORS} tensors", "split it into several files")
    return _decoded(raw), LENGTH + length


def _decoded(raw: bytes) -> dict[str, Any]:
    import json

    try:
        header: dict[str, Any] = json.loads(raw.decode(), object_pairs_hook=_unique, parse_constant=_no_number)
    except RecursionError:
        raise _MalformedError("its header is nested too deep") from None
    except ValueError as error:
        raise _MalformedError(f"its header is no JSON ({escape(str(error), 120)})") from None
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    held: dict[str, Any] = {}
    for name, value in pairs:
        if name in held:
            raise _MalformedError(f"{escape(name)} is in its header twice")
        if not _is_text(name):
            raise _MalformedError(f"the name {escape(name)} in its header is no text")
        held[name] = value
    return held


def _no_number(word: str) -> Any:
    raise ValueError(f"{word} is no number of JSON")


def _metadata(value: Any) -> dict[str, str]:
    if value is None:  # an Option in tensor.rs
        return {}
    if type(value) is not dict or not all(type(text) is str and _is_text(text) for text in value.values()):
        raise _MalformedError(f"its {METADATA} is not a mapping of text to text")
    return value


def _entry(name: str, value: Any, start: int) -> Entry:
    fields: dict[str, Any] = value if type(value) is dict else {}
    word, shape, offsets = fields.get("dtype"), _sizes(fields.get("shape")), _sizes(fields.get("data_offsets"))
    if type(word) is not str or shape is None or offsets is None or len(offsets) != 2:
        raise _MalformedError(f"its header does not give dtype, shape and data_offsets of {escape(name)} as it should")
    if word not in WORDS:
        raise _MalformedError(f"{escape(name)} is of the unknown dtype {escape(word, 40)}", "convert it first")
    dtype, size = WORDS[word]
    needed, (begin, end) = _nbytes(shape, size), offsets
    if needed is None:
        raise _MalformedError(f"the shape of {escape(name)} is larger than any memory")
    if needed != end - begin:
        raise _MalformedError(f"{escape(name)} lies in {end - begin} bytes where its shape needs {needed}")
    return Entry(dtype, shape, start + begin, needed)


def _sizes(value: Any) -> tuple[int, ...] | None:
    fits = type(value) is list and all(type(number) is int and number >= 0 for number in value)
    return tuple(value) if fits else None


def _without_holes(found: SafeTensors, start: int, size: int) -> None:
    """Tensors must follow one another from the first byte behind the header to the last of the file."""
    place = start
    for name, held in sorted(found.tensors.items(), key=lambda item: (item[1].offset, item[1].size)):
        if held.offset != place:
            what = f"lies {place - held.offset} bytes into the tensor before it"
            gap = f"is {held.offset - place} bytes behind what comes before it"
            raise _MalformedError(f"{escape(name)} {what if held.offset < place else gap}")
        place += held.size
    if place > size:
        raise _MalformedError(f"it has {size} bytes where its tensors need {place}", AGAIN)
    if place < size:
        raise _MalformedError(f"{size - place} bytes behind the last tensor belong to none", AGAIN)

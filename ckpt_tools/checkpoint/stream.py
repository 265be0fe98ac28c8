"""Torch's stream of pickles and storages, planned before a byte is written; :mod:`.legacy` reads it.

Layout as in ``_legacy_save`` of ``torch/serialization.py`` (torch 2.14): four pickles of protocol 2 around the
object's own, then the storages in the order of the sorted keys, each behind its number of elements.
"""

from __future__ import annotations

from collections.abc import Mapping

from ckpt_tools.checkpoint.legacy import MAGIC
from ckpt_tools.pickles.emit import emit
from ckpt_tools.source import BytesSource, JoinedSource, Source, Stretch

__all__ = ["stream"]

PROTOCOL = 1001  # PROTOCOL_VERSION in torch/serialization.py
TYPE_SIZES = {"short": 2, "int": 4, "long": 4}  # SHORT_SIZE to LONG_SIZE there: the standard ones, on every machine


def stream(pickle: bytes, storages: Mapping[str, tuple[int, Source, int | None]], name: str) -> JoinedSource:
    """The stream of an object's ``pickle`` and its ``storages``, as a source called ``name``.

    ``storages`` maps each key to its number of elements, its bytes and their CRC-32, if that is known. Persistent ids
    in the pickle must be of the old kind, with a sixth part for views (``None``); torch wants every key to be in one.
    Bytes are little-endian, whatever machine reads them (``THPStorage_writeFileRaw`` in
    ``torch/csrc/serialization.cpp``).
    """
    system = {"protocol_version": PROTOCOL, "little_endian": True, "type_sizes": TYPE_SIZES}
    keys = sorted(storages)
    leading = b"".join(map(emit, (MAGIC, PROTOCOL, system)))
    stretches = [Stretch(BytesSource(leading + pickle + emit(keys)))]
    for key in keys:
        count, data, crc = storages[key]
        stretches += [Stretch(BytesSource(count.to_bytes(8, "little"))), Stretch(data, crc, key)]
    return JoinedSource(stretches, name)

"""Files that share their bytes: reflinks, where the file system has them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from ckpt_tools.placing import beside
from ckpt_tools.source import BUFFER_SIZE, FileSource, blocks, open_source

__all__ = ["can_reflink", "digest", "reflink"]

FICLONE = 0x40049409  # linux/fs.h: the target becomes a copy that shares the blocks of the source (btrfs, xfs, …)


def reflink(source: Path, target: Path) -> bool:
    """Let ``target`` be a copy of ``source`` that shares its blocks until one is written to; whether it could be.

    Linux alone has a call for it that Python reaches; elsewhere the answer is no. Raises ``OSError``, and ``CkptError``
    where the source is no regular file.
    """
    try:
        import fcntl
    except ImportError:
        return False
    with FileSource(source) as old, open(target, "wb") as new:
        try:
            fcntl.ioctl(new.fileno(), FICLONE, old.fileno())
        except OSError:
            return False
    return True


def can_reflink(folder: Path) -> bool:
    """Whether files in a folder can share blocks: tried with two small ones, which go again."""
    try:
        with beside(folder / "ckpt") as one, beside(folder / "ckpt") as other:
            one.write_bytes(b"x")
            return reflink(one, other)
    except OSError:
        return False


def digest(path: str | os.PathLike[str]) -> bytes:
    """A BLAKE2b of all bytes of a file."""
    found = hashlib.blake2b()
    with open_source(path) as source:
        for piece in blocks(source, 0, source.size, memoryview(bytearray(BUFFER_SIZE))):
            found.update(piece)
    return found.digest()

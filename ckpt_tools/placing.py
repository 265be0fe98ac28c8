"""How a file comes to its name: written beside it under another, made to last, then renamed.

Killed at any moment, what bears the name is the whole old file or the whole new one.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = [
    "PRIVATE",
    "SPARE",
    "adopt",
    "beside",
    "copy_whole",
    "free_space",
    "keep_copy",
    "make_folder",
    "publish",
    "sweep",
    "sweep_beside",
    "sync_file",
    "sync_folder",
]

PRIVATE, USUAL = 0o600, 0o666  # rights of a new file: for us alone; what the user's umask leaves
SPARE = 1 << 20  # bytes that must stay free
TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{8}\.tmp")
BUSY = (0.05, 0.2, 0.8)  # seconds between attempts to give a file its name
FORSAKEN = 60  # seconds after the last write before a temporary file is taken for a dead process's
LONGEST_NAME = 200  # bytes of the name that are kept in that of the temporary file; the limit is 255


@contextlib.contextmanager
def beside(output: Path, mode: int = USUAL) -> Iterator[Path]:
    """An empty file in the folder of ``output``, that no pattern for checkpoints matches; it goes if it is still there.

    Raises ``OSError`` where it can't be made.
    """
    temporary = output.with_name(f".{_kept_of(output)}.{secrets.token_hex(4)}.tmp")
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))
    try:
        yield temporary
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _kept_of(output: Path) -> str:
    """What of a name is in those of its temporary files."""
    return os.fsencode(output.name)[:LONGEST_NAME].decode(errors="ignore")


def sweep_beside(output: Path) -> None:
    """Remove what writing this very file left behind, when it was killed or the disk failed."""
    sweep(output.parent, re.compile(re.escape(_kept_of(output))))


def sweep(folder: Path, names: re.Pattern[str]) -> None:
    """Remove temporary files of outputs so named that nobody has written to for a minute: their process was killed."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            match = TEMPORARY.fullmatch(path.name)
            if match is not None and names.fullmatch(match[1]):
                with contextlib.suppress(OSError):
                    if time.time() - path.stat().st_mtime > FORSAKEN:
                        path.unlink()


def publish(temporary: Path, output: Path) -> None:
    """Give a file that is on the disk its name, and let the name last through a power cut. Raises ``OSError``."""
    for pause in (*BUSY, None):
        try:
            os.replace(temporary, output)
            break
        except PermissionError:  # on Windows also where a virus scanner or a reader has the file open for a moment
            if os.name != "nt" or pause is None:
                raise
            time.sleep(pause)
    sync_folder(output.parent)


def adopt(temporary: Path, like: Path) -> None:
    """Give a file mode and owner of another, as far as we may set them. Raises ``OSError`` where that is gone."""
    status = like.stat()
    with contextlib.suppress(OSError):
        temporary.chmod(status.st_mode & 0o7777)
    if hasattr(os, "chown"):
        with contextlib.suppress(OSError):
            os.chown(temporary, status.st_uid, status.st_gid)


def keep_copy(path: Path, place: Path) -> None:
    """Give a file that will be replaced a second name; without links, a copy that is complete before it is named."""
    try:
        os.link(path, place)
    except FileExistsError:  # never over an earlier copy
        raise
    except OSError:
        copy_whole(path, place)


def copy_whole(path: Path, place: Path) -> None:
    """Copy a file, with its time and rights, so that nothing half-written bears the name. Raises ``OSError``."""
    with beside(place, PRIVATE) as temporary:
        shutil.copyfile(path, temporary)
        sync_file(temporary)
        shutil.copystat(path, temporary)
        publish(temporary, place)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, so that their names last through a power cut, too. Raises ``OSError``."""
    missing = [place for place in (folder, *folder.parents) if not os.path.exists(place)]
    folder.mkdir(parents=True, exist_ok=True)
    for place in reversed(missing):
        sync_folder(place.parent)


def sync_file(path: Path) -> None:
    """Wait until all bytes of a file are on the disk. Raises ``OSError``."""
    handle = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last through a power cut, where the system can."""
    if os.name == "nt":
        return
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def free_space(folder: Path) -> int | None:
    """Bytes a folder's disk has free for us; ``None`` where it can't be asked."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None

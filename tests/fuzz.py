"""Every command over damaged, foreign and hostile files: ``python tests/fuzz.py --count 10000``.

Each input is a folder made from a number: a run whose checkpoint, donors and side files may each be mutated, and a
command with a random choice of its options. It is run in a worker process, and must end by itself, with an exit code
that means something, within the limits below, without a write outside its folder, and with every file whole that it
was not told to change. What does not is kept, with the command that repeats it.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import gc
import io
import json
import multiprocessing
import os
import pickletools
import random
import shutil
import signal
import stat
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from building import (
    Member,
    archive,
    detector,
    legacy_tar,
    pickled,
    plain_checkpoint,
    saved,
    saved_legacy,
    stripped_checkpoint,
    ultralytics_checkpoint,
    weights,
)
from inprocess import BUG, invoke

FIXTURES = Path(__file__).parent.parent / "fixtures"
PATIENCE = 20  # seconds of a processor for one input …
WAIT = 180  # … and by the clock, for what waits for something
MOST_MEMORY = 300 << 20  # bytes a process may ever take, numpy and the interpreter included
BATCH = 250  # inputs to a process
CODES = (0, 1, 2, 3)
LAST, DONOR, ARGS, DATA, RESULTS = (
    "run/weights/last.pt",
    "run/weights/epoch1.pt",
    "run/args.yaml",
    "data.yaml",
    "run/results.csv",
)
SIDES = (ARGS, DATA, RESULTS)
HOUR = 3600

Random = random.Random
Maker = Callable[[Random], bytes]

# --- whole files ----------------------------------------------------------------------------------

SMALL = (
    "plain-loop.pt",
    "bare-state-dict.pt",
    "whole-module.pt",
    "crc-less.pt",
    "legacy-format.pt",
    "torchscript.pt",
    "dataparallel-prefix.pt",
    "yolov5-7.0-finished.pt",
    "ultralytics-8.4-finished.pt",
)
LARGE = ("ultralytics-8.4-interrupted-adamw.pt", "yolov5-7.0-interrupted.pt", "ultralytics-8.4-classify-interrupted.pt")


def safetensors(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def fixture(name: str) -> bytes:
    return (FIXTURES / name).read_bytes()


def made(rng: Random) -> bytes:
    """A checkpoint in good order."""
    kinds: list[Callable[[], bytes]] = [
        lambda: saved(ultralytics_checkpoint(epoch=rng.randrange(5))),
        lambda: saved(ultralytics_checkpoint(optimizer=None, model=detector())),
        lambda: saved(stripped_checkpoint()),
        lambda: saved(plain_checkpoint()),
        lambda: saved(plain_checkpoint(), crc=False),
        lambda: saved(plain_checkpoint(), deflated=True),
        lambda: saved(weights()),
        lambda: saved_legacy(plain_checkpoint()),
        lambda: saved_legacy(ultralytics_checkpoint()),
        lambda: safetensors(TENSORS_HEADER, bytes(16)),
        partial(fixture, rng.choice(SMALL)),
        partial(fixture, rng.choice(SMALL)),
        partial(fixture, rng.choice(LARGE)),
    ]
    return rng.choice(kinds)()


TENSORS_HEADER = b'{"a.weight":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"__metadata__":{"format":"pt"}}'

# --- mutations ------------------------------------------------------------------------------------


def cut(data: bytes, rng: Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def flipped(data: bytes, rng: Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 10, 100))):
        if out:
            out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def noised(data: bytes, rng: Random) -> bytes:
    place, size = rng.randrange(len(data) + 1), rng.choice((1, 4, 64, 4096))
    return data[:place] + rng.randbytes(size) + data[place + rng.choice((0, size)) :]


def zeroed(data: bytes, rng: Random) -> bytes:
    place, size = rng.randrange(len(data) + 1), rng.choice((8, 512, 4096, len(data)))
    return data[:place] + bytes(min(size, len(data) - place)) + data[place + size :]


def appended(data: bytes, rng: Random) -> bytes:
    more = rng.choice((b"\0" * 4096, b"x", data, rng.randbytes(100), saved(weights()), pickled(b"N", 2)))
    return data + more if rng.random() < 0.7 else more + data


def tail_edited(data: bytes, rng: Random) -> bytes:
    """Fields of the directory and the end record, or of any header at the front."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 2, 5))):
        place = (
            rng.randrange(max(0, len(out) - 600), len(out)) if rng.random() < 0.7 else rng.randrange(min(600, len(out)))
        )
        value = rng.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\1\0", struct.pack("<I", rng.getrandbits(32)), b"\xff"))
        out[place : place + len(value)] = value
    return bytes(out)


NUMBERS = (0, 1, -1, 2**31 - 1, -(2**31), 2**31, 2**63 - 1, -(2**63), 2**63, 2**64, 10**30, 65536, 7)
NAMES = (
    "builtins\neval",
    "os\nsystem",
    "collections\nOrderedDict",
    "torch\nFloatStorage",
    "torch._utils\n_rebuild_tensor_v2",
    "numpy\nndarray",
    "numpy.core.multiarray\n_reconstruct",
    "__main__\nNet",
    "torch.storage\n_load_from_bytes",
    "_codecs\nencode",
    "functools\npartial",
    "pathlib\nPosixPath",
    "argparse\nNamespace",
    "copyreg\n_reconstructor",
    "torch\nSize",
    "torch\ndevice",
    "builtins\nset",
    "datetime\ndatetime",
    "torch.nn.modules.linear\nLinear",
)


def new_opcode(rng: Random) -> bytes:
    """One opcode with a fitting argument, of those that change most."""
    number = rng.choice(NUMBERS)
    long = number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)
    word = rng.choice(
        (b"", b"state", b"epoch", b"\xed\xa0\x80", b"a" * 5000, "é\u202e\x1b[2J".encode(), b"model.0.weight")
    )
    return rng.choice(
        (
            b"\x8a" + bytes([len(long)]) + long,
            b"X" + struct.pack("<I", len(word)) + word,
            b"c" + rng.choice(NAMES).encode() + b"\n",
            b"G" + struct.pack(">d", rng.choice((float("nan"), float("inf"), -0.0, 1e308, 5e-324))),
            b"J" + struct.pack("<i", rng.choice((-1, 0, 1, 2**31 - 1))),
            bytes([rng.choice(b"N()}]\x88\x89RbQ0212asute\x81\x85\x86\x87\x8f\x90\x91\x94.")]),
            b"h" + bytes([rng.randrange(256)]),
            b"q" + bytes([rng.randrange(256)]),
            b"j" + struct.pack("<I", rng.getrandbits(31)),
        )
    )


def opcodes(data: bytes) -> list[bytes]:
    """A pickle opcode by opcode; what can't be parsed is one piece."""
    starts: list[int] = []
    with contextlib.suppress(Exception):
        starts.extend(place for _, _, place in pickletools.genops(data) if place is not None)
    starts = starts or [0]
    return [data[a:b] for a, b in zip(starts, [*starts[1:], len(data)])]


def pickle_edited(data: bytes, rng: Random) -> bytes:
    pieces = opcodes(data)
    for _ in range(rng.choice((1, 1, 2, 4, 20))):
        place = rng.randrange(len(pieces))
        how = rng.randrange(5)
        if how == 0:
            del pieces[place]
        elif how == 1:
            pieces.insert(place, new_opcode(rng))
        elif how == 2:
            pieces[place] = new_opcode(rng)
        elif how == 3:
            other = rng.randrange(len(pieces))
            pieces[place], pieces[other] = pieces[other], pieces[place]
        else:
            pieces.insert(rng.randrange(len(pieces)), pieces[place] * rng.choice((1, 1, 3)))
        pieces = pieces or [b"."]
    return b"".join(pieces)


LARGEST = 4 << 20  # bytes of an archive whose members are edited


def members_of(data: bytes) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        if sum(info.file_size for info in opened.infolist()) > LARGEST:
            raise ValueError("a bomb is not unpacked here")
        return [(info.filename, opened.read(info)) for info in opened.infolist()]


def rebuilt(members: Sequence[tuple[str, bytes]]) -> bytes:
    """An archive as torch writes it, checksums right."""
    return archive(*(Member(name, held, flags=0x0800, descriptor=True) for name, held in members), alignment=64)


def content_edited(data: bytes, rng: Random) -> bytes:
    """The object graph edited with all checksums right; a stream is edited where it stands."""
    if data[:2] != b"PK":
        head = data[:20000]
        return pickle_edited(head, rng) + data[len(head) :]
    members = members_of(data)
    return rebuilt([(name, pickle_edited(held, rng) if name.endswith(".pkl") else held) for name, held in members])


def members_edited(data: bytes, rng: Random) -> bytes:
    """Members exchanged, left out, doubled, renamed, filled anew."""
    if data[:2] != b"PK":
        return noised(data, rng)
    members = members_of(data)
    for _ in range(rng.choice((1, 2, 3))):
        place, other = rng.randrange(len(members)), rng.randrange(len(members))
        (name, held), (second, more) = members[place], members[other]
        how = rng.randrange(6)
        if how == 0:
            members[place], members[other] = (name, more), (second, held)
        elif how == 1 and len(members) > 1:
            del members[place]
        elif how == 2:
            members.insert(place, (name, rng.choice((held, b"", more))))
        elif how == 3:
            odd = (
                "../../evil",
                "/etc/x",
                "a" * 5000,
                "archive/data.pkl",
                "\u202e",
                "DATA.PKL",
                name.upper(),
                "x\n",
                "",
            )
            members[place] = (rng.choice(odd), held)
        elif how == 4:
            small = (b"big", b"little", b"", b"3\n", b"99999999999999999999\n", b"\xff", bytes(100), rng.randbytes(30))
            members[place] = (name, rng.choice(small))
        else:
            root = name.split("/")[0]
            extra = (f"{root}/.ckpt_tools/ledger.json", hostile_json(rng))
            members.append(rng.choice((extra, (f"{root}/data/99", bytes(64)), (f"{root}/constants.pkl", b"N."))))
    return rebuilt(members)


def header_edited(data: bytes, rng: Random) -> bytes:
    """A safetensors file with a header of all sorts."""
    shape: Any = rng.choice(([], [2, 2], [-1], [2**63], [0], [1.5], "x", None, [[]], [2] * 5000))
    offsets = rng.choice(([0, 16], [16, 0], [0, 2**70], [-4, 12], [0], None, ["0", "16"], [0.0, 16.0]))
    entry = {
        "dtype": rng.choice(("F32", "BF16", "F8_E4M3", "", None, 7, "X" * 5000)),
        "shape": shape,
        "data_offsets": offsets,
    }
    header: Any = {
        rng.choice(("a", "", "\ud800", "a.b")): entry,
        "__metadata__": rng.choice(({}, {"a": 1}, None, [], {"a": "b"})),
    }
    text = rng.choice((json.dumps(header).encode(), hostile_json(rng), TENSORS_HEADER[: rng.randrange(90)]))
    made = safetensors(text, bytes(rng.choice((0, 15, 16, 17))))
    return made if rng.random() < 0.8 else struct.pack("<Q", rng.choice((0, 2**63, 2**31, len(text) + 1))) + made[8:]


def random_pickle(_: bytes, rng: Random) -> bytes:
    body = b"".join(new_opcode(rng) for _ in range(rng.randrange(1, 60)))
    stream = pickled(body, rng.choice((0, 2, 4, 5)))
    return (
        stream
        if rng.random() < 0.4
        else rebuilt([("archive/data.pkl", stream), ("archive/data/0", bytes(16)), ("archive/version", b"3\n")])
    )


FOREIGN = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n",
    b"<!DOCTYPE html><html>",
    b"GGUF\3\0\0\0",
    b"\x89HDF\r\n\x1a\n",
    b"\x08\x03\x12\x07pytorch",
    b"\0\0\0\0TFL3",
    b"\x93NUMPY\1\0v\0{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n",
    b"\x89PNG\r\n\x1a\n",
    b"\x1f\x8b\x08",
    b"BZh9",
    b"\xfd7zXZ\0",
    b"\x28\xb5\x2f\xfd",
    b"7z\xbc\xaf\x27\x1c",
    b"Rar!\x1a\7",
    b"%PDF-1.7",
    b"\x7fELF\2\1\1",
    b"SQLite format 3\0",
    b'{"a": 1}',
    b"epochs: 3\n",
    b"Internal Server Error\n",
    b"",
    b"\0" * 5000,
    b"P",
    b"PK",
    b"PK\3\4",
    b"\x80",
    b"\x80\2",
    b"PK\5\6" + bytes(18),
    b"\0" * 257 + b"ustar",
)


def foreign(data: bytes, rng: Random) -> bytes:
    if rng.random() < 0.1:
        return legacy_tar(random_pickle(data, rng), random_pickle(data, rng), random_pickle(data, rng))
    return rng.choice(FOREIGN) + rng.choice((b"", rng.randbytes(2000), data[:3000]))


ZEROS = bytes(1 << 20)


def packed(data: bytes, rng: Random) -> bytes:
    """A checkpoint in another archive, or a hundred megabytes in a few bytes."""
    out, bomb = io.BytesIO(), rng.random() < 0.2
    method = zipfile.ZIP_DEFLATED if bomb else rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2))
    with zipfile.ZipFile(out, "w", method) as opened:
        for number in range(rng.choice((1, 1, 2, 40))):
            name = rng.choice(("last.pt", "data.pkl", "archive/data.pkl", f"{number}/data/{number}", "a.npy"))
            with opened.open(name, "w", force_zip64=True) as member:
                for piece in [ZEROS] * 96 if bomb and number < 2 else [rng.choice((data, data[:1000]))]:
                    member.write(piece)
    return out.getvalue()


MUTATIONS: tuple[Callable[[bytes, Random], bytes], ...] = (
    cut,
    flipped,
    noised,
    zeroed,
    appended,
    tail_edited,
    content_edited,
    content_edited,
    content_edited,
    members_edited,
    members_edited,
    header_edited,
    random_pickle,
    foreign,
    packed,
)


# What zipfile raises where an archive was mutated before.
UNPACKABLE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError, struct.error)


def mutated(rng: Random) -> bytes:
    data = made(rng)
    for _ in range(rng.choice((0, 1, 1, 1, 2))):
        with contextlib.suppress(*UNPACKABLE):
            data = rng.choice(MUTATIONS)(data, rng)
    return data


# --- side files -----------------------------------------------------------------------------------

GOOD_SIDES = {
    ARGS: b"task: detect\nmode: train\nmodel: yolov8n.yaml\ndata: data.yaml\nepochs: 5\noptimizer: SGD\nlr0: 0.02\n",
    DATA: b"path: .\ntrain: images\nval: images\nnames:\n  0: a\n  1: b\n",
    RESULTS: b"epoch, train/box_loss, metrics/mAP50(B)\n1, 3.0, 0.1\n2, 2.0, 0.4\n",
}


def hostile_json(rng: Random) -> bytes:
    return rng.choice(
        (
            b"[" * 20000 + b"]" * 20000,
            b'{"a":' * 5000 + b"1" + b"}" * 5000,
            b"NaN",
            b"{}",
            b"[]",
            b"1e999",
            b'"\\ud800"',
            b"\xff\xfe",
            b"null",
            b"9" * 10000,
            b'{"schema": "ckpt-tools/ledger/1", "steps": '
            + rng.choice((b"1", b"{}", b"[null]", b'[{"name": []}]', b'"x"'))
            + b', "before": {"before": []}}',
            b'{"schema": "ckpt-tools/ledger/1", "command": [], "sources": {}, "parts": 3, "scrubbed": "x"}',
        )
    )


BOMB = b"a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + b"".join(
    b"a%d: &a%d [%s]\n" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 10)) for n in range(1, 9)
)
TEXTS = (
    BOMB,
    b"",
    b"\0" * 100,
    b"\xff\xfe\x00",
    b"- " * 30000,
    b"[" * 3000,
    b"{" * 3000,
    b"a: " * 2000,
    b"x: !!python/object/apply:os.system ['true']\n",
    b"epochs: 1e999\n",
    b"epochs: " + b"9" * 6000,
    b"names: [" + b"a, " * 100000 + b"]\n",
    b"? [a]\n: b\n",
    b"a: &x {b: *x}\n",
    b"a: &x [*x]\n",
    b"%YAML 9.9\n---\na: 1\n",
    b"a: !!timestamp x\n",
    b"a: !!bool x\n",
    b"a: !!int ''\n",
    b"a: 2026-99-99\n",
    b"\xef\xbb\xbfepochs: 3\n",
    b"--- a\n--- b\n",
    b"train: 5\nval: {}\nnames: 7\nnc: x\n",
    b"nc: -5\nnames: {a: b}\ntrain: [1, null]\n",
    b"backbone: 3\nhead: []\n",
    b"backbone: [[-1, 1, Conv, [64, 3, 2]]]\nhead: [[x]]\nnc: {}\n",
    b"path: /dev/zero\ntrain: \0\n",
    b"data: " + b"x" * 5000 + b"\n",
    b"data: [1]\nepochs: []\nlr0: {}\nbatch: nan\noptimizer: 3\nmodel: {}\nresume: 7\nsave_dir: {a: b}\n",
    b"epoch\n" + b"1\n" * 50000,
    b"epoch,a\n1e999,2\n",
    b"epoch,a\nnan,2\n",
    b"epoch,a\n-5,2\n",
    b"epoch,a\n1,2,3,4\n",
    b"a,b\n1,2\n",
    b"epoch,,\n1,,\n",
    b'epoch,"' + b"x" * 200000,
    b"epoch, x\n1, 1e999\n2, nan\n3, \xff\n",
    b"epoch\r1\r2\r",
    b",".join([b"epoch"] * 30000) + b"\n1\n",
    b"epoch,a\n99999999999999999999,1\n",
    b"\n\n\nepoch,a\n1,1\n",
)
SPECIAL = ("fifo", "folder", "device", "loop", "dangling", "unreadable", "socket", "other")


def lay_side(path: Path, rng: Random) -> None:
    """A side file: mostly as it should be, else hostile text, a mutated one, or no file at all."""
    good = GOOD_SIDES[_name(path)]
    chance = rng.random()
    if chance < 0.35:
        path.write_bytes(good)
    elif chance < 0.5:
        path.write_bytes(flipped(good, rng) if rng.random() < 0.5 else noised(good, rng))
    elif chance < 0.85:
        path.write_bytes(rng.choice(TEXTS) + rng.choice((b"", b"", good)))
    elif chance < 0.95:
        special(path, rng.choice(SPECIAL))


def _name(path: Path) -> str:
    return next(name for name in SIDES if str(path).replace(os.sep, "/").endswith(name))


def special(path: Path, kind: str) -> None:
    """Something in the place of a file that is none."""
    if kind == "fifo" and hasattr(os, "mkfifo"):
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device" and os.path.exists("/dev/zero"):
        path.symlink_to("/dev/zero")
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "dangling":
        path.symlink_to("nowhere")
    elif kind == "unreadable":
        path.write_bytes(b"epochs: 3\n")
        path.chmod(0)
    elif kind == "socket" and hasattr(os, "mknod"):
        with contextlib.suppress(OSError):
            os.mknod(path, 0o600 | stat.S_IFSOCK)
    else:
        path.write_bytes(b"\x80\4" + b"x" * 300)


# --- commands -------------------------------------------------------------------------------------


def some(rng: Random, *options: str | Sequence[str], chance: float = 0.3) -> list[str]:
    """A few of these options."""
    chosen = [option for option in options if rng.random() < chance]
    return [word for option in chosen for word in ([option] if isinstance(option, str) else option)]


SETTINGS = (
    "lr0=0.1",
    "epochs=1e9",
    "epochs=-1",
    "epochs=[1",
    "imgsz=640",
    "data=data.yaml",
    "optimizer=AdamW",
    "batch={a: b}",
    "model=yolov8n.yaml",
    "resume=True",
    "a.b.c=1",
    "device=cuda:99",
    "names=" + "[" * 200,
    "epochs=" + "9" * 5000,
    "x=\udcff",
    "freeze=10",
    "save_dir=/nowhere",
)


def verify_(rng: Random) -> list[str]:
    options = some(
        rng,
        "--quick",
        "--here",
        "--json",
        ["--for", "inference"],
        ["--target", "ultralytics==8.4.190"],
        "-q",
        ["--fail-on", "warning"],
        ["--trust", "__main__"],
        chance=0.2,
    )
    return ["verify", rng.choice((LAST, LAST, LAST, "run", "run/weights/*.pt", DATA)), *options]


def inspect_(rng: Random) -> list[str]:
    options = some(
        rng,
        "--tree",
        ["--depth", str(rng.randrange(1, 21))],
        "--tensors",
        "--stats",
        "--args",
        "--globals",
        "--json",
        chance=0.5,
    )
    return ["inspect", LAST, *options]


def diff_(rng: Random) -> list[str]:
    other = rng.choice(
        (
            [DONOR],
            [ARGS],
            [DATA],
            [rng.choice(SETTINGS)],
            [rng.choice(SETTINGS), rng.choice(SETTINGS)],
            [ARGS, rng.choice(SETTINGS)],
            [RESULTS],
        )
    )
    options = some(
        rng,
        "--here",
        "--values",
        "--defaults",
        "--command",
        "--json",
        "-q",
        ["--for", "finetune"],
        ["--format", "markdown"],
        ["--format", "patch"],
        ["--as", rng.choice(("config", "args", "data", "model", "checkpoint"))],
        ["--target", "ultralytics==8.3.0"],
        ["--ignore", "[a*"],
        chance=0.2,
    )
    return ["diff", rng.choice((LAST, LAST, LAST, DONOR)), *other, *options]


def convert_(rng: Random) -> list[str]:
    what = some(
        rng,
        ["--device", rng.choice(("cpu", "cuda:0", "mps"))],
        ["--map", "cpu=cuda:1"],
        ["--dtype", rng.choice(("float16", "bfloat16", "float32"))],
        ["--optimizer-dtype", "float32"],
        "--strip",
        "--state-dict",
        ["--weights", rng.choice(("ema", "model"))],
        ["--to", rng.choice(("zip", "legacy", "safetensors"))],
        "--scrub",
        "--portable",
        "--args-as-dict",
        ["--prefix", rng.choice(("module", "none"))],
        ["--rename-module", "a=b"],
        ["--rename-class", "0=truck"],
        ["--target", "ultralytics==8.4.190"],
        chance=0.2,
    )
    what = what or ["--to", rng.choice(("legacy", "safetensors", "zip"))]
    return [
        "convert",
        rng.choice((LAST, LAST, LAST, "run")),
        *what,
        *where(rng),
        *some(rng, "--accept-loss", chance=0.7),
        *some(rng, "--json", "--dry-run", chance=0.15),
    ]


def where(rng: Random) -> list[str]:
    return rng.choice(
        (
            [],
            [],
            ["-o", "new.pt"],
            ["-o", "new.safetensors"],
            ["--in-place", "--force"],
            ["-o", DONOR, "--force"],
            ["-o", DATA],
            ["--out-dir", "out"],
        )
    )


def repair_(rng: Random) -> list[str]:
    donors = (
        (f"--{role}-from", rng.choice((DONOR, DONOR, ARGS, DATA)))
        for role in ("model", "ema", "optimizer", "scheduler", "scaler", "rng", "args")
    )
    asked = some(
        rng,
        *donors,
        ["--from", "run/weights"],
        ["--epoch", rng.choice(("0", "3", "99999999999999999999"))],
        ["--epoch-from", RESULTS],
        ["--set", rng.choice(SETTINGS)],
        ["--target", "ultralytics==8.4.190"],
        ["--cure", rng.choice(CURES)],
        ["--reinit", "optimizer"],
        "--mix",
        "--keep-corrupt",
        chance=0.15,
    )
    where_ = where(rng)
    return [
        "repair",
        *rng.choice(([LAST], [LAST], [LAST], [])),
        *asked,
        *(where_ if "--out-dir" not in where_ else []),
        *some(rng, "--accept-loss", chance=0.8),
        *some(rng, "--json", "--dry-run", chance=0.15),
    ]


CURES = ("portable", "saves-elsewhere", "non-finite", "class-count")


def latest_(rng: Random) -> list[str]:
    return [
        "latest",
        rng.choice(("run", ".", "run/weights")),
        *some(rng, ["--best", rng.choice(("fitness", "loss", "x"))], "--quick", "--json", ["--for", "inference"]),
    ]


def prune_(rng: Random) -> list[str]:
    rules = some(
        rng,
        ["--keep-last", "1"],
        ["--keep-best", rng.choice(("1", "mAP50:1", "loss:2"))],
        ["--keep-every", "2"],
        ["--keep-within", "1m"],
        ["--max-size", rng.choice(("1", "20K"))],
        "--strip-old",
        "--dedupe",
        ["--dedupe", "--hardlink"],
    )
    return [
        "prune",
        rng.choice(("run", ".")),
        *(rules or ["--keep-last", "1"]),
        "--yes",
        *some(rng, ["--move-to", "moved"], "--dry-run", "--json", chance=0.2),
    ]


COMMANDS: dict[str, Callable[[Random], list[str]]] = {
    "verify": verify_,
    "inspect": inspect_,
    "diff": diff_,
    "convert": convert_,
    "repair": repair_,
    "latest": latest_,
    "prune": prune_,
    "watch": lambda rng: ["watch", "run"],
}
SHARES = (
    "verify",
    "inspect",
    "inspect",
    "diff",
    "diff",
    "convert",
    "convert",
    "convert",
    "repair",
    "repair",
    "repair",
    "latest",
    "prune",
    "watch",
)


# --- one input ------------------------------------------------------------------------------------


@dataclass
class Wrong:
    """An input that was not taken as it should be."""

    number: int
    command: list[str]
    what: str


@dataclass
class Tally:
    """What came of many inputs."""

    codes: Counter[tuple[str, int]] = field(default_factory=Counter)
    wrong: list[Wrong] = field(default_factory=list)
    memory: int = 0
    seconds: float = 0.0


class HangError(BaseException):
    """An input took too long."""


def lay_out(place: Path, number: int, seed: int) -> list[str]:
    """The folder of an input, and the command."""
    rng = random.Random(f"{seed}:{number}")
    command = COMMANDS[rng.choice(SHARES)](rng)
    (place / "run" / "weights").mkdir(parents=True)
    (place / "images").mkdir()
    (place / LAST).write_bytes(mutated(rng))
    (place / DONOR).write_bytes(mutated(rng) if rng.random() < 0.5 else saved(ultralytics_checkpoint()))
    for epoch in (5, 6) if command[0] in ("prune", "latest", "watch", "repair") else ():
        (place / f"run/weights/epoch{epoch}.pt").write_bytes(mutated(rng))
    for name in SIDES:
        lay_side(place / name, rng)
    then = time.time() - HOUR
    for age, path in enumerate(sorted((place / "run/weights").iterdir())):
        os.utime(path, (then - age, then - age))
    return command


def held_in(place: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(place)).replace(os.sep, "/"): path.read_bytes()
        for path in sorted(place.rglob("*"))
        if path.is_file() and not path.is_symlink() and os.access(path, os.R_OK)
    }


BEGINS = ("subprocess.Popen", "os.system", "os.exec", "socket.connect", "pickle.find_class")


@dataclass
class Guard:
    """Sees every write and every process Python begins, and tells those outside of a folder."""

    place: str = ""
    scratch: str = ""
    seen: list[str] = field(default_factory=list)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.place:
            return
        if event == "open" and isinstance(arguments[2], int):
            if arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
                self._path("open", arguments[0])
        elif event in (
            "os.remove",
            "os.rename",
            "os.mkdir",
            "os.rmdir",
            "os.link",
            "os.symlink",
            "os.chmod",
            "os.chown",
            "os.utime",
            "os.truncate",
        ):
            for path in arguments[:2] if event in ("os.rename", "os.link") else arguments[:1]:
                self._path(event, path)
        elif event in BEGINS and "nvidia-smi" not in str(arguments):
            self.seen.append(f"{event} {arguments!r}"[:300])

    def _path(self, event: str, path: Any) -> None:
        if isinstance(path, (str, bytes, os.PathLike)):
            real = os.path.join(os.path.realpath(os.path.dirname(os.path.abspath(os.fsdecode(path)))), "x")
            if not real.startswith((self.place + os.sep, self.scratch + os.sep)) and os.fsdecode(path) != os.devnull:
                self.seen.append(f"{event} {os.fsdecode(path)}")


GUARD = Guard()


def watch_once(folder: str) -> int:
    from ckpt_tools.verbs.watch import Watcher, WatchOptions

    watcher = Watcher([folder], WatchOptions())
    now = time.time()
    for event in (*watcher.look(now - 10), *watcher.look(now)):
        json.dumps(event.as_json())
        if "bug in ckpt" in event.message:
            raise AssertionError(event.message)
    return 0


def tried(place: Path, command: list[str]) -> tuple[int, str]:
    """Run a command in the folder of its input: its exit code, and what is wrong with how it ended."""
    before = held_in(place)
    GUARD.place, GUARD.seen = os.path.realpath(place), []
    wrong, code = "", 0
    signal.setitimer(signal.ITIMER_PROF, PATIENCE)
    signal.alarm(WAIT)
    try:
        if command[0] == "watch":
            code = watch_once(command[1])
        else:
            said = invoke(command)
            code, wrong = said.code, said.trace
            if "HangError" in wrong:
                raise HangError
            if code not in CODES and not wrong:
                wrong = f"exit {code}: {said.err[-500:]}"
            if "\x1b" in said.out + said.err:
                wrong = wrong or "an escape reached the terminal"
            if "--json" in command and said.out.strip():
                json.loads(said.out)
    except HangError:
        code, wrong = -1, f"more than {PATIENCE} seconds\n{traceback.format_exc()}"
    except BaseException:
        code, wrong = BUG, traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        GUARD.place = ""
    return code, wrong or "; ".join(GUARD.seen) or changed(before, held_in(place), command, code)


def changed(before: dict[str, bytes], after: dict[str, bytes], command: list[str], code: int) -> str:
    """Files that are others now, and should not be."""
    if command[0] == "prune" and "--dry-run" not in command:
        return ""  # told to
    named = (
        {command[place + 1] for place, word in enumerate(command) if word == "-o"}
        if code in (0, 3) and "--force" in command
        else set()
    )
    for path, data in before.items():
        now = after.get(path)
        if now == data or path in named:
            continue
        if "--in-place" in command and data in (after.get(f"{path}.bak"), after.get(f"{path}.bak2")):
            continue
        return f"{path} is {'gone' if now is None else 'another'}"
    for path in after.keys() - before.keys():
        if path.endswith(".tmp"):
            return f"{path} was left"
        if command[0] in ("verify", "inspect", "diff", "latest") or "--dry-run" in command:
            return f"{path} was written"
    return ""


def hang(_: int, __: FrameType | None) -> None:
    raise HangError


def work(first: int, last: int, seed: int, keep: str | None, pipe: Any) -> None:
    """Inputs ``first`` to ``last`` in a process of its own; tells the pipe of each."""
    import resource

    warnings.filterwarnings("ignore", "Duplicate name")
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.environ["CKPT_DEBUG"] = "1"
    signal.signal(signal.SIGALRM, hang)
    signal.signal(signal.SIGPROF, hang)
    sys.addaudithook(GUARD)
    place = Path(os.path.realpath(tempfile.mkdtemp(prefix="ckpt-fuzz-")))
    tempfile.tempdir = GUARD.scratch = str(place / "scratch")  # where large packed storages are unpacked
    Path(tempfile.tempdir).mkdir()
    os.chdir(place.parent)
    try:
        for number in range(first, last):
            pipe.send(("begun", number))
            folder = place / str(number)
            command = lay_out(folder, number, seed)
            os.chdir(folder)
            code, wrong = tried(folder, command)
            os.chdir(place)
            shutil.rmtree(folder)
            gc.collect()
            most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
            if most > MOST_MEMORY and not wrong:
                wrong = f"{most >> 20} MiB of memory"
            if wrong and keep:
                kept = Path(keep) / str(number)
                shutil.rmtree(kept, ignore_errors=True)
                lay_out(kept, number, seed)
                (kept / "command.txt").write_text(" ".join(command) + "\n\n" + wrong, "utf-8", "backslashreplace")
            pipe.send(("done", number, command, code, wrong, most))
            if most > MOST_MEMORY:  # what comes after would be blamed for it
                pipe.send(("again", number + 1))
                return
    finally:
        os.chdir(place.parent)
        shutil.rmtree(place, ignore_errors=True)
        pipe.close()


def prepare() -> None:
    """Import once what every process needs, and keep the collector away from it."""
    import importlib

    for verb in ("verify", "inspect", "diff", "convert", "repair", "latest", "prune", "watch"):
        importlib.import_module(f"ckpt_tools.verbs.{verb}")
    for name in (
        "numpy",
        "yaml",
        "deepdiff",
        "ckpt_tools.cli.app",
        "ckpt_tools.tensors.values",
        "ckpt_tools.tensors.compare",
    ):
        importlib.import_module(name)
    with contextlib.redirect_stdout(io.StringIO()):
        invoke(["explain", "CKPT101"])
    gc.collect()
    gc.freeze()
    gc.set_threshold(1_000_000, 50, 50)  # as the command line does


def batches(count: int, first: int) -> Iterator[tuple[int, int]]:
    for start in range(first, first + count, BATCH):
        yield start, min(start + BATCH, first + count)


def run(count: int, seed: int = 0, jobs: int = 2, first: int = 0, keep: str | None = None, tell: bool = False) -> Tally:
    """Try so many inputs in processes of their own."""
    prepare()
    context = multiprocessing.get_context("fork")
    tally, begun = Tally(), time.monotonic()
    waiting = list(batches(count, first))[::-1]
    running: dict[Any, list[Any]] = {}
    while waiting or running:
        while waiting and len(running) < jobs:
            start, end = waiting.pop()
            here, there = context.Pipe(duplex=False)
            process = context.Process(target=work, args=(start, end, seed, keep, there))
            process.start()
            there.close()
            running[here] = [process, start, end, time.monotonic()]
        ready = multiprocessing.connection.wait(list(running), timeout=1)
        for pipe in ready:
            process, at, end, _ = running[pipe]
            try:
                message: Any = pipe.recv()  # type: ignore[union-attr, call-arg]
            except EOFError:
                process.join()
                del running[pipe]
                if process.exitcode != 0:
                    tally.wrong.append(Wrong(at, [], f"the process died with {process.exitcode}"))
                    waiting += [(at + 1, end)] if at + 1 < end else []
                continue
            if message[0] == "again":
                waiting += [(message[1], end)] if message[1] < end else []
            elif message[0] == "begun":
                running[pipe][1:4] = [message[1], end, time.monotonic()]
            else:
                _, number, command, code, wrong, most = message
                tally.codes[command[0], code] += 1
                tally.memory = max(tally.memory, most)
                if wrong:
                    tally.wrong.append(Wrong(number, command, wrong))
                    if tell:
                        print(f"{number}: {' '.join(command)!a}\n    {wrong.strip()[-1500:]}", flush=True)
        for process, _, _, since in list(running.values()):
            if time.monotonic() - since > WAIT + PATIENCE:
                process.kill()  # the pipe's end tells the rest
    tally.seconds = time.monotonic() - begun
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="inputs")
    parser.add_argument("--first", type=int, default=0, help="number of the first; one alone: --first N --count 1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--keep", metavar="DIR", help="where inputs are put that went wrong")
    asked = parser.parse_args()
    tally = run(asked.count, asked.seed, asked.jobs, asked.first, asked.keep, tell=True)
    table = csv.writer(sys.stdout)
    table.writerow(["command", "exit code", "inputs"])
    table.writerows([name, code, number] for (name, code), number in sorted(tally.codes.items()))
    total = sum(tally.codes.values())
    rate = total / max(tally.seconds, 0.1)
    print(f"{total} inputs in {tally.seconds:.0f} s ({rate:.0f} per second), at most {tally.memory >> 20} MiB")
    print(f"wrong: {len(tally.wrong)}")
    return 1 if tally.wrong else 0


if __name__ == "__main__":
    sys.exit(main())

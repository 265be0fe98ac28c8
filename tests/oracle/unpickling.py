"""The real unpickler as an oracle of the policy: nothing may happen on a pickle that is not called unsafe.

A generator writes pickles from the grammar of the policy: the names it knows, the opcodes that call something, states
that put callables where an opcode or a known function would look a method up. Each is judged; what is not dangerous
is loaded by CPython's unpickler, and a share of them by ``torch.load``, in a process that can't write, with an audit
hook. An event there (a file, an import, a command, compiled code), a call of a function that may only be named, and a
crash are holes. Each is shrunk to the opcodes it needs.

The long form: ``python tests/oracle/unpickling.py --count 200000 --processes 2``.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import os
import pickle
import pickletools
import signal
import sys
import time
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[level]) for level in (1, 2)]

from building import EMPTY_LIST, legacy, torch_zip
from hostile_samples import BENIGN

from ckpt_tools.policy.known import KNOWN
from oracle.grammar import HARMLESS, LOAD, MARKED, Writer, imported, unsafe, vocabulary

BATCH = 500  # pickles per process: what one leaves behind can't disturb many others
PATIENCE = 5  # seconds for one pickle
MOST_SECONDS = 300  # of processor time for a batch
ROOM = 3 << 30  # bytes of address space beyond what the imports took
MOST_HOLES = 20  # kinds of holes after which a process stops
LATE = "too slow"
WRAPPED = 40  # every n-th pickle is also put into a file and given to torch.load
FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType)
CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS) if hasattr(signal, "SIGBUS") else ()

# Events that say nothing: the unpickler's own, and looking at attributes.
QUIET = frozenset({"pickle.find_class", "object.__getattr__", "object.__setattr__", "object.__delattr__",
                   "sys._getframe", "builtins.id", "array.__new__", "sys.unraisablehook"})  # fmt: skip


# ``inspect`` reads the signature of a built-in type by parsing it; what is run afterwards would be an event of its own.
SIGNATURE = "compile (b'def foo"


class Seen(BaseException):
    """Raised where something happens, so that it does not."""


class Watch:
    """The audit hook, and stand-ins for functions that may only be named."""

    def __init__(self) -> None:
        self.on = False
        self.seen: list[str] = []
        self.whole = False  # whether the last pickle was loaded to its end
        sys.addaudithook(self._event)
        self.standins = {LOAD: self._recorder(LOAD)}
        for (module, qualified), rule in KNOWN.items():
            real = getattr(sys.modules.get(module), qualified, None)
            if rule == "value" and module != "builtins" and isinstance(real, FUNCTIONS):
                self.standins[module, qualified] = self._recorder((module, qualified))
        for module, qualified in MARKED:
            found = getattr(sys.modules.get(module), qualified, None)
            if found is not None:
                found.__init__ = self._recorder((module, qualified), found.__init__)

    def _event(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.on and event not in QUIET:
            what = f"{event} {str(arguments)[:80]}"
            if not what.startswith(SIGNATURE):
                self.note(what)

    def note(self, what: str) -> None:
        self.on = False
        self.seen.append(what)
        self.on = True
        raise Seen(what)

    def _recorder(self, pair: tuple[str, str], real: Callable[..., Any] = lambda *_, **__: {}) -> Callable[..., Any]:
        def standin(*arguments: Any, **words: Any) -> Any:
            if self.on and not (pair == LOAD and arguments == (HARMLESS,)):
                self.note(f"{'.'.join(pair)} is called")
            return real(*arguments, **words)

        return standin

    def load(self, loader: Callable[[bytes], Any], data: bytes) -> list[str]:
        """What happens while ``data`` is loaded and thrown away again."""
        self.seen, self.whole = [], False
        signal.setitimer(signal.ITIMER_REAL, PATIENCE)
        self.on = True
        try:
            loader(data)
            self.whole = True
        except BaseException as error:
            error.__traceback__ = error.__context__ = None
        with contextlib.suppress(Seen):
            gc.collect(0)
        self.on = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        return [what for what in self.seen if what != LATE]

    def plain(self, data: bytes) -> None:
        """CPython's unpickler, dressed as torch does."""
        unpickler = Unpickler(io.BytesIO(data), encoding="utf-8")
        unpickler.watch = self
        unpickler.load()


class Unpickler(pickle.Unpickler):
    """What ``torch.load`` makes of CPython's unpickler: storages by name, persistent ids of both formats."""

    watch: Watch

    def find_class(self, module: str, qualified: str) -> Any:
        standin = self.watch.standins.get((module, qualified))
        return standin if standin is not None else super().find_class(module, qualified)

    def persistent_load(self, saved: Any) -> Any:
        import torch

        if not isinstance(saved, tuple) or not saved:
            raise pickle.UnpicklingError("no tuple")
        if saved[0] == "module":
            return saved[1]
        kind, _, _, count = saved[1:5]
        return torch.storage.TypedStorage(
            wrap_storage=torch.UntypedStorage(min(int(count), 1 << 16) * 8), dtype=kind.dtype, _internal=True
        )


def wrapped(data: bytes) -> None:
    """``torch.load`` of a zip archive around the pickle."""
    import torch

    torch.load(io.BytesIO(torch_zip(data)), weights_only=False, map_location="cpu")


def as_legacy(data: bytes) -> None:
    """``torch.load`` of a stream of pickles, the third of which this is."""
    import torch

    torch.load(io.BytesIO(legacy(data[2:-1], keys=EMPTY_LIST, storages=b"")), weights_only=False, map_location="cpu")


# --- processes --------------------------------------------------------------------------------------


@dataclass
class Hole:
    """A pickle that is not called unsafe, and what happened when it was loaded."""

    seed: int
    data: bytes
    what: str

    @property
    def kind(self) -> str:
        """Alike holes have one kind: what happened, and the names and opcodes it took."""
        opcodes = [(op.name, arg if op.name in ("GLOBAL", "INST") else "") for op, arg, _ in listing(self.data)]
        return f"{self.what.split(' ')[0]} {opcodes}"

    def shown(self) -> str:
        out = io.StringIO()
        with contextlib.suppress(Exception):
            pickletools.dis(self.data, out)
        return f"seed {self.seed}: {self.what}\n{self.data.hex()}\n{out.getvalue()}"


@dataclass
class Tally:
    """What was tried."""

    tried: int = 0
    unsafe: int = 0
    whole: int = 0  # loaded to their end without an error
    slow: int = 0  # that ended their process by taking too long or too much memory
    holes: list[Hole] = field(default_factory=list)

    def add(self, hole: Hole) -> None:
        """Keep one of each kind."""
        if all(known.kind != hole.kind for known in self.holes):
            self.holes.append(hole)

    def told(self) -> list[Any]:
        """The same as JSON takes it."""
        return [self.tried, self.unsafe, self.whole, self.slow, [(h.seed, h.data.hex(), h.what) for h in self.holes]]

    def merge(self, told: list[Any]) -> None:
        """Add what another process told."""
        tried, unsafe, whole, slow, holes = told
        self.tried, self.unsafe = self.tried + tried, self.unsafe + unsafe
        self.whole, self.slow = self.whole + whole, self.slow + slow
        for seed, data, what in holes:
            self.add(Hole(seed, bytes.fromhex(data), what))


def listing(data: bytes) -> list[tuple[Any, Any, int]]:
    """The opcodes, as far as they can be read."""
    found: list[tuple[Any, Any, int]] = []
    with contextlib.suppress(Exception):
        found.extend(pickletools.genops(data))  # type: ignore[arg-type]
    return found


class Zygote:
    """Imports everything once; forks a process per batch."""

    def __init__(self) -> None:
        os.environ.update(OMP_NUM_THREADS="1", YOLO_OFFLINE="true", HF_HUB_OFFLINE="1", YOLO_AUTOINSTALL="false")
        warnings.simplefilter("ignore")
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            imported()
        import torch

        torch.set_num_threads(1)
        sys.unraisablehook = lambda _: None
        self.words = vocabulary()
        self.watch = Watch()
        self._warm()
        gc.collect()
        gc.freeze()

    def _warm(self) -> None:
        """Load what is harmless once: what the libraries import late is imported then."""
        import torch

        for make in BENIGN.values():
            with contextlib.suppress(Exception):
                torch.load(io.BytesIO(make()), weights_only=False)

    def forked(self, work: Callable[[int], None]) -> tuple[str, int]:
        """What ``work`` writes to the descriptor it is given, in a process of its own, and its exit status."""
        ours, theirs = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(ours)
            status = 1
            try:
                self._confine()
                work(theirs)
                status = 0
            finally:
                os._exit(status)
        os.close(theirs)
        with os.fdopen(ours, encoding="utf-8", errors="replace") as pipe:
            said = pipe.read()
        return said, os.waitpid(child, 0)[1]

    def _confine(self) -> None:
        import resource

        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nowhere, descriptor)
        size = int(Path("/proc/self/statm").read_text().split()[0]) * 4096 if Path("/proc/self/statm").exists() else 0
        if size:
            resource.setrlimit(resource.RLIMIT_AS, (size + ROOM,) * 2)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (MOST_SECONDS, MOST_SECONDS))
        sys.setrecursionlimit(600)
        signal.signal(signal.SIGALRM, self._late)

    def _late(self, *_: object) -> None:
        self.watch.seen.append(LATE)
        raise Seen(LATE)

    def happens(self, data: bytes) -> str:
        """What happens when a pickle is loaded in a process of its own; empty where nothing does."""

        def work(out: int) -> None:
            seen = self.watch.load(self.watch.plain, data)
            os.write(out, "".join(seen[:1]).encode("utf-8", "replace"))

        said, status = self.forked(work)
        return said or (f"signal {status & 127}" if status & 127 in CRASHES else "")

    def batch(self, first: int, last: int) -> tuple[int, dict[str, Any]]:
        """Try the pickles of these seeds; stops behind the first hole. The next seed, and what was found."""

        def work(out: int) -> None:
            tally = {"unsafe": 0, "whole": 0}
            for seed in range(first, last):
                os.write(out, f"{seed}\n".encode())
                data = Writer(seed, self.words).pickle()
                if unsafe(data):
                    tally["unsafe"] += 1
                    continue
                loaders: list[Callable[[bytes], Any]] = [self.watch.plain]
                if seed % WRAPPED == 0:
                    loaders.append(wrapped)
                elif seed % WRAPPED == 1:
                    loaders.append(as_legacy)
                for loader in loaders:
                    seen = self.watch.load(loader, data)
                    tally["whole"] += self.watch.whole
                    if seen:
                        os.write(out, (json.dumps({**tally, "hole": seed, "what": seen[0]}) + "\n").encode())
                        return
            os.write(out, (json.dumps(tally) + "\n").encode())

        said, status = self.forked(work)
        lines = said.splitlines()
        if lines and lines[-1].startswith("{"):
            told: dict[str, Any] = json.loads(lines[-1])
            return (told["hole"] + 1 if "hole" in told else last), told
        place = int(lines[-1]) if lines else first
        if status & 127 in CRASHES:
            return place + 1, {"hole": place, "what": f"signal {status & 127}"}
        return place + 1, {"slow": 1}

    def shrunk(self, data: bytes, what: str) -> bytes:
        """The pickle with every run of opcodes left out that the hole does not need."""
        if _event(self.happens(data)) != _event(what):
            return data  # it takes a file around it, or what happened before
        parts = _parts(data)
        width = max(1, len(parts) // 2)
        while width:
            place = 0
            while place < len(parts):
                shorter = parts[:place] + parts[place + width :]
                smaller = b"".join(shorter)
                if not unsafe(smaller) and _event(self.happens(smaller)) == _event(what):
                    parts = shorter
                else:
                    place += width
            width //= 2
        return b"".join(parts)


def _event(what: str) -> str:
    """What happened, without the parts that differ from one time to the next."""
    return what[:40].partition(" None")[0]


def _parts(data: bytes) -> list[bytes]:
    places = [place for _, _, place in listing(data)] + [len(data)]
    return [data[start:end] for start, end in zip(places, places[1:])]


def tried(zygote: Zygote, count: int, first: int) -> Tally:
    """Try ``count`` pickles, the seeds from ``first`` on, in children of this process."""
    tally = Tally()
    seed = first
    while seed < first + count and len(tally.holes) < MOST_HOLES:
        start = seed
        seed, told = zygote.batch(seed, min(seed + BATCH, first + count))
        tally.merge([seed - start, told.get("unsafe", 0), told.get("whole", 0), told.get("slow", 0), []])
        if "hole" in told:
            data = Writer(told["hole"], zygote.words).pickle()
            tally.add(Hole(told["hole"], zygote.shrunk(data, told["what"]), told["what"]))
    return tally


def together(count: int, processes: int, first: int = 0) -> Tally:
    """The same in several processes beside each other."""
    zygote = Zygote()
    share = -(-count // processes)
    readers = []
    for number in range(processes):
        ours, theirs = os.pipe()
        if os.fork() == 0:
            found = tried(zygote, max(0, min(share, count - number * share)), first + number * share)
            with os.fdopen(theirs, "w", encoding="utf-8") as pipe:
                json.dump(found.told(), pipe)
            os._exit(0)
        os.close(theirs)
        readers.append(ours)
    total = Tally()
    for reader in readers:
        with os.fdopen(reader, encoding="utf-8") as pipe:
            total.merge(json.load(pipe))
        os.wait()
    return total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    asked = parser.parse_args()
    began = time.monotonic()
    total = together(asked.count, asked.processes, asked.seed)
    for hole in total.holes:
        print(hole.shown())
    seconds = time.monotonic() - began
    print(
        f"{total.tried} pickles in {seconds:.0f} s, {total.unsafe} unsafe, {total.whole} loaded to their end, "
        f"{total.slow} too slow or too large, {len(total.holes)} kinds of holes"
    )
    return 1 if total.holes else 0


if __name__ == "__main__":
    sys.exit(main())

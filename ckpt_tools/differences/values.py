"""Whether pairs of tensors are equal: by the checksums on record where they can tell, else by reading the bytes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckpt_tools.checkpoint import Checkpoint
from ckpt_tools.checks.content import MANY_READERS_FROM, READERS
from ckpt_tools.container import MOST_UNPACKED, STORED, UNPACKED_RATIO, Container, MemberError
from ckpt_tools.tensors import TensorRef
from ckpt_tools.tensors.held import Held, incomparable, same_bytes

if TYPE_CHECKING:
    from ckpt_tools.tensors.compare import Distance

__all__ = ["Outcome", "compare_values"]

MOST_READ, LEAST_READ = 8, 64 << 20  # times the bytes of all storages, and bytes: what overlapping views may ask for


@dataclass(frozen=True)
class Outcome:
    """What a comparison came to; ``why`` says what stood in its way, ``rounded`` as in :class:`Distance`."""

    equal: bool = False
    rounded: str = ""
    why: str = ""
    distance: Distance | None = None


@dataclass(frozen=True)
class _Job:
    """A pair of tensors that lie where no other pair does."""

    old: Held
    new: Held

    @property
    def cost(self) -> int:
        return self.old.cost + self.new.cost


def compare_values(
    old: Checkpoint,
    new: Checkpoint,
    pairs: Sequence[tuple[TensorRef, TensorRef]],
    *,
    values: bool,
    progress: Callable[[int], None] | None,
) -> list[Outcome]:
    """The outcome for every pair of tensors of one shape; views of the same bytes are compared once.

    With ``values`` all bytes are read, else only those whose checksums can't tell. ``progress`` is told the bytes
    that are done with, from several threads. Raises ``OSError`` only where the disk itself fails.
    """
    if old.container is None or new.container is None:
        return [Outcome(why="the file has no tensor data") for _ in pairs]
    keys = [(_place(one), _place(other)) for one, other in pairs]
    jobs = {key: _Job(Held(old.container, a), Held(new.container, b)) for key, (a, b) in zip(keys, pairs)}
    outcomes: dict[object, Outcome] = {}
    waiting = _Waiting(old, new)
    for key, job in jobs.items():
        known = _unread(job, values)
        if known is None:
            known = waiting.add(key, job)
        if known is not None:
            outcomes[key] = known
            _tell(progress, job)
    waiting.work(outcomes, values, progress)
    return [outcomes[key] for key in keys]


def _place(tensor: TensorRef) -> tuple[object, ...]:
    """Which bytes a tensor is made of, and how."""
    storage = tensor.storage
    where = (storage.key, storage.window) if storage is not None else id(tensor)
    return where, tensor.offset, tensor.shape, tensor.stride, tensor.dtype.name, tensor.conj, tensor.neg


def _tell(progress: Callable[[int], None] | None, job: _Job) -> None:
    if progress is not None:
        progress(job.cost)


def _unread(job: _Job, values: bool) -> Outcome | None:
    """What is known without reading; ``None`` where nothing is."""
    why = incomparable(job.old.tensor, job.new.tensor)
    if why:
        return Outcome(why=why)
    same = None if values else same_bytes(job.old, job.new)
    return None if same is None else Outcome(equal=same)


class _Waiting:
    """The pairs to be read."""

    def __init__(self, old: Checkpoint, new: Checkpoint) -> None:
        containers = [held.container for held in (old, new) if held.container is not None]
        self._room = LEAST_READ + MOST_READ * sum(_storage_bytes(container) for container in containers)
        self._bombs = [held.container for held in (old, new) if held.container is not None and _is_bomb(held)]
        self._jobs: list[tuple[object, _Job]] = []
        self._size = 0

    def add(self, key: object, job: _Job) -> Outcome | None:
        """Queue a pair, unless to read it would take too much."""
        for held in (job.old, job.new):
            member = held.container.storage(held.key)
            packed = member is not None and member.method != STORED
            if packed and any(held.container is container for container in self._bombs):
                return Outcome(why="its file unpacks to far more than its size")
        if self._size + job.cost > self._room:
            return Outcome(why="its file has too many views of the same bytes")
        self._size += job.cost
        self._jobs.append((key, job))
        return None

    def work(self, outcomes: dict[object, Outcome], values: bool, progress: Callable[[int], None] | None) -> None:
        """Read and compare them, in the order of the old file; of large files, two at a time."""
        queue = deque(sorted(self._jobs, key=lambda entry: _offset(entry[1].old)))
        if not queue:
            return
        if self._size < MANY_READERS_FROM:
            _work(queue, outcomes, values, progress)
            return
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(READERS) as pool:
            try:
                for job in [pool.submit(_work, queue, outcomes, values, progress) for _ in range(READERS)]:
                    job.result()
            finally:
                queue.clear()  # whoever interrupts one shall not wait for the other


def _work(
    queue: deque[tuple[object, _Job]],
    outcomes: dict[object, Outcome],
    values: bool,
    progress: Callable[[int], None] | None,
) -> None:
    """Compare pairs until none is left."""
    from ckpt_tools.tensors.compare import Comparer

    comparer = Comparer()
    while True:
        try:
            key, job = queue.popleft()
        except IndexError:
            return
        try:
            found = comparer.compare(job.old, job.new, numbers=values)
            outcomes[key] = Outcome(found.equal, found.rounded, distance=found if values else None)
        except MemberError as error:
            outcomes[key] = Outcome(why=str(error))
        _tell(progress, job)


def _offset(held: Held) -> int:
    """Where in its file a tensor begins."""
    member = held.container.storage(held.key)
    return member.offset + held.start if member is not None else 0


def _storage_bytes(container: Container) -> int:
    return sum(member.size for name, member in container.members.items() if name.startswith("data/"))


def _is_bomb(checkpoint: Checkpoint) -> bool:
    """Whether packed members unpack to far more than the file's size."""
    members = checkpoint.container.members.values() if checkpoint.container is not None else ()
    packed = sum(member.size for member in members if member.method != STORED)
    return packed > MOST_UNPACKED + UNPACKED_RATIO * checkpoint.source.size

"""A pickle machine that builds inert nodes: protocols 0 to 5, every opcode, nothing executed.

The opcodes that make up nearly all of a checkpoint are decoded in the loop of :func:`run`; all others come
from the table at the end of this module. Limits make sure that no input can hang the machine or take memory
out of proportion: see :data:`MOST_OPCODES` and :data:`MOST_BYTES`. Opcodes as in CPython's ``pickletools``.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable
from dataclasses import dataclass, field
from struct import error as StructError
from struct import unpack_from

from ckpt_tools.findings import Sink, finding
from ckpt_tools.pickles.nodes import Call, Extension, GlobalRef, Node, Opaque, OutOfBand, Persistent, SetNode

__all__ = ["MOST_BYTES", "MOST_OPCODES", "TROUBLES", "Pickle", "Trouble", "read_pickle", "run"]

MOST_OPCODES = 6_000_000  # about 0.5 GB of nodes; a YOLOv8n checkpoint has 45 thousand
MOST_BYTES = 256 << 20  # bytes of one pickle, without the tensors beside it
MOST_DIGITS = 4_000  # of an integer written as decimal text
LONGEST_FIXED_OPCODE = 9  # bytes: an opcode with an argument of eight
MOST_KEY_BITS = 1024  # of an integer as a dictionary key: it is shown in decimal
MOST_WIDE_KEYS = 1_000  # integers over 60 bits as dictionary keys: they can be made to collide
MOST_NESTED_KEY = 1_000  # parts of a nested tuple used as a key that are looked at


class Trouble(Exception):
    """Why the machine stopped before STOP; ``kind`` is a key of :data:`TROUBLES`."""

    def __init__(self, kind: str, message: str, position: int = -1) -> None:
        super().__init__(message)
        self.kind = kind
        self.position = position


@dataclass
class Pickle:
    """What one pickle holds.

    ``root`` is the object on top at STOP (``None`` when it was not reached; ``rest`` then holds what lay on the
    stack, outermost first, and ``marks`` where on it the contents of each open container begin). ``globals``,
    ``calls``, ``extensions`` and ``mutated`` list everything a real unpickler would have imported, called, looked up or
    changed, in the order of the file, whether or not it is still reachable from the root. ``reopened`` are the objects
    that got more items or another state after BUILD had given them their attributes, and ``rewritten`` the entries of
    dictionaries that were set a second time; no pickler writes either. ``persistents`` are all persistent ids, and
    ``keys`` the objects that were used as keys or put into sets, whose class is asked for their hash.
    ``end`` is the offset behind the last byte read.
    """

    root: Node = None
    protocol: int = 0
    end: int = 0
    opcodes: int = 0
    trouble: Trouble | None = None
    rest: list[Node] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    globals: list[GlobalRef] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    extensions: list[Extension] = field(default_factory=list)
    mutated: list[tuple[Node, int]] = field(default_factory=list)
    reopened: list[tuple[Call, int]] = field(default_factory=list)
    rewritten: list[tuple[Node, int]] = field(default_factory=list)
    persistents: list[Persistent] = field(default_factory=list)
    keys: list[Call] = field(default_factory=list)


class Machine:
    """The state of a run: stacks, memo, and the pickle being filled.

    MARK begins a new ``stack`` and puts the one before it on ``outer``, so that no opcode can reach below a mark;
    both of CPython's unpicklers refuse that, too.
    """

    __slots__ = ("data", "frame_end", "memo", "odd", "outer", "pickle", "position", "stack", "start", "wide_keys")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0
        self.start = 0  # of the opcode at work
        self.stack: list[Node] = []
        self.outer: list[list[Node]] = []
        self.memo: dict[int, Node] = {}
        self.pickle = Pickle()
        self.wide_keys = 0
        self.frame_end = 0  # of the frame at work; 0 outside of one
        self.odd: Trouble | None = None

    def note(self, kind: str, message: str, position: int) -> None:
        """Keep the gravest oddity that a real unpickler may stop at, and read on: what follows is judged, too."""
        if self.odd is None or (kind == "straddle" and self.odd.kind != "straddle"):
            self.odd = Trouble(kind, message, position)

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes of the pickle."""
        end = self.position + count
        if count < 0 or end > len(self.data):
            raise Trouble("cut", f"{count} bytes wanted, {len(self.data) - self.position} left")
        taken = self.data[self.position : end]
        self.position = end
        return taken

    def sized(self, width: int) -> bytes:
        """Bytes that are preceded by their length, a little-endian integer of ``width`` bytes."""
        return self.take(int.from_bytes(self.take(width), "little"))

    def line(self) -> bytes:
        """The bytes up to the next newline, without it."""
        end = self.data.find(b"\n", self.position)
        if end < 0:
            raise Trouble("cut", "a line without an end")
        taken = self.data[self.position : end]
        self.position = end + 1
        return taken

    def since_mark(self) -> list[Node]:
        """Everything above the topmost mark, taken off the stack."""
        items, self.stack = self.stack, self.outer.pop()
        return items

    def left(self) -> tuple[list[Node], list[int]]:
        """What lies on all stacks, outermost first, and where in it each mark stands."""
        whole: list[Node] = []
        marks: list[int] = []
        for stack in self.outer:
            whole += stack
            marks.append(len(whole))
        return whole + self.stack, marks

    def call(self, callee: Node, args: Node, kind: str, kwargs: Node = None) -> None:
        made = Call(callee, args, kind, self.start, kwargs)
        self.pickle.calls.append(made)
        self.stack.append(made)

    def name(self, module: str, name: str, computed: bool = False) -> GlobalRef:
        made = GlobalRef(module, name, self.start, computed)
        self.pickle.globals.append(made)
        return made

    def key(self, value: Node) -> Node:
        """``value`` as a dictionary key that can be hashed quickly whatever it holds."""
        kind = type(value)
        if kind is str or kind is GlobalRef:
            return value
        if kind is Call:
            if value.path in UNHASHABLE:
                raise Trouble("broken", f"a {value.path} can't be a dictionary key")
            self.pickle.keys.append(value)
            return value
        if kind is tuple:
            flat = len(value) <= 64 and all(type(item) in SCALARS for item in value)
            return value if flat else self.opaque(value)
        if kind is int and value.bit_length() > MOST_KEY_BITS:
            return Opaque(value)
        if kind is int and value.bit_length() > 60:
            self.wide_keys += 1
            if self.wide_keys > MOST_WIDE_KEYS:
                raise Trouble("limit", "too many very large integers as dictionary keys")
        if kind in (list, dict, bytearray) or (kind is SetNode and not value.frozen):
            raise Trouble("broken", f"a {KIND_NAMES.get(kind, kind.__name__)} can't be a dictionary key")
        return value

    def any_key(self, value: Node) -> Node:
        """``value`` as a key of an object that need not be a dictionary: an array takes lists."""
        if type(value) is Call:
            self.pickle.keys.append(value)
        return Opaque(value) if type(value) in (list, dict, bytearray, SetNode, Call) else self.key(value)

    def opaque(self, value: tuple[Node, ...]) -> Opaque:
        """A nested tuple as a key: whatever lies in it has to be fit for a key itself."""
        waiting, seen = list(value), 0
        while waiting and seen < MOST_NESTED_KEY:
            item = waiting.pop()
            seen += 1
            if type(item) is tuple:
                waiting.extend(item)
            else:
                self.key(item)
        return Opaque(value)


SCALARS = frozenset({str, int, float, bool, bytes, type(None)})
KIND_NAMES = {SetNode: "set"}
PLAIN_TARGETS = (str, int, float, bytes, tuple, dict, list, SetNode, type(None))

# Types whose instances have no hash, so that no key may be one.
UNHASHABLE = frozenset({
    "collections.OrderedDict", "collections.defaultdict", "collections.Counter", "collections.deque",
    "argparse.Namespace", "types.SimpleNamespace", "builtins.bytearray", "__builtin__.bytearray",
    "__builtin__.set", "builtins.set", "numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct",
})  # fmt: skip


TROUBLES = {"cut": "pickle-cut", "broken": "pickle-broken", "limit": "beyond-limits", "straddle": "frame-straddled",
            "line-ends": "line-ends-converted"}  # fmt: skip


def read_pickle(data: bytes, sink: Sink, where: str = "data.pkl") -> Pickle:
    """Read one pickle and report to ``sink`` where it can't be read to its end.

    A strict sink raises there; a tolerant one lets the parts read so far come back.
    """
    pickle = run(data)
    if pickle.trouble is not None:
        slug = TROUBLES[pickle.trouble.kind]
        place = f"{where} at byte {pickle.trouble.position}"
        sink(finding(slug, place, where=where, why=str(pickle.trouble), position=pickle.trouble.position))
    return pickle


def run(data: bytes) -> Pickle:
    """Read the pickle at the start of ``data``. Never raises: ``trouble`` says why it stopped early."""
    machine = Machine(data)
    pickle = machine.pickle
    try:
        if len(data) > MOST_BYTES:
            raise Trouble("limit", f"a pickle of {len(data)} bytes, more than {MOST_BYTES}")
        _loop(machine)
        pickle.root = machine.stack.pop()
    except Trouble as trouble:
        pickle.trouble = trouble
    except IndexError:
        near_end = machine.position + LONGEST_FIXED_OPCODE > len(data)
        pickle.trouble = (
            Trouble("cut", "the pickle ends early") if near_end else Trouble("broken", "the stack is empty")
        )
    except StructError:
        pickle.trouble = Trouble("cut", "the pickle ends early")
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        pickle.trouble = Trouble("broken", _reason(error))
    pickle.trouble = pickle.trouble or machine.odd
    if pickle.trouble is not None:
        pickle.trouble.__traceback__ = pickle.trouble.__context__ = None  # they would keep the whole run alive
        if pickle.trouble.position < 0:
            pickle.trouble.position = max(machine.start, machine.position if pickle.trouble.kind == "cut" else 0)
        pickle.rest, pickle.marks = machine.left()
    pickle.end = machine.position
    return pickle


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"memo entry {error.args[0]!r} was never stored" if error.args else "unknown memo entry"
    return f"{type(error).__name__}: {error}"


def _loop(machine: Machine) -> None:  # noqa: PLR0912, PLR0915 - the frequent opcodes, in order of frequency
    data, stack, memo, outer = machine.data, machine.stack, machine.memo, machine.outer
    push, pop, calls, persistents = stack.append, stack.pop, machine.pickle.calls, machine.pickle.persistents
    position = 0
    boundary = len(data)
    for count in range(MOST_OPCODES):
        start = position
        op = data[position]
        position += 1
        if op == 0x71:  # BINPUT
            memo[data[position]] = stack[-1]
            position += 1
        elif op == 0x72:  # LONG_BINPUT
            memo[unpack_from("<I", data, position)[0]] = stack[-1]
            position += 4
        elif op == 0x68:  # BINGET
            push(memo[data[position]])
            position += 1
        elif op == 0x6A:  # LONG_BINGET
            push(memo[unpack_from("<I", data, position)[0]])
            position += 4
        elif op == 0x58 or op == 0x8C:  # BINUNICODE, SHORT_BINUNICODE
            if op == 0x58:
                begin = position + 4
                position = begin + unpack_from("<I", data, position)[0]
            else:
                begin = position + 1
                position = begin + data[position]
            if position > len(data):
                raise Trouble("cut", "a string goes beyond the end", start)
            push(data[begin:position].decode("utf-8", "surrogatepass"))
        elif op == 0x28:  # MARK
            outer.append(stack)
            stack = machine.stack = []
            push, pop = stack.append, stack.pop
        elif op == 0x4B:  # BININT1
            push(data[position])
            position += 1
        elif op == 0x74:  # TUPLE
            made = tuple(stack)
            stack = machine.stack = outer.pop()
            push, pop = stack.append, stack.pop
            push(made)
        elif op == 0x52:  # REDUCE
            args = pop()
            call = Call(stack[-1], args, "reduce", start)
            calls.append(call)
            stack[-1] = call
        elif op == 0x51:  # BINPERSID
            stack[-1] = persistent = Persistent(stack[-1], start)
            persistents.append(persistent)
        elif op == 0x29:  # EMPTY_TUPLE
            push(())
        elif op == 0x85:  # TUPLE1
            stack[-1] = (stack[-1],)
        elif op == 0x86:  # TUPLE2
            last = pop()
            stack[-1] = (stack[-1], last)
        elif op == 0x87:  # TUPLE3
            last, middle = pop(), pop()
            stack[-1] = (stack[-1], middle, last)
        elif op == 0x89:  # NEWFALSE
            push(False)
        elif op == 0x88:  # NEWTRUE
            push(True)
        elif op == 0x4E:  # NONE
            push(None)
        elif op == 0x4D:  # BININT2
            push(data[position] | data[position + 1] << 8)
            position += 2
        elif op == 0x4A:  # BININT
            push(unpack_from("<i", data, position)[0])
            position += 4
        elif op == 0x47:  # BINFLOAT
            push(unpack_from(">d", data, position)[0])
            position += 8
        elif op == 0x7D:  # EMPTY_DICT
            push({})
        elif op == 0x5D:  # EMPTY_LIST
            push([])
        elif op == 0x94:  # MEMOIZE
            memo[len(memo)] = stack[-1]
        elif op == 0x2E:  # STOP
            machine.position, machine.start = position, start
            machine.pickle.opcodes = count
            if position < machine.frame_end:
                machine.note("straddle", "its last frame goes on behind its end", start)
            return
        else:
            action = OPCODES.get(op)
            if action is None:
                raise Trouble("broken", f"unknown opcode 0x{op:02x}", start)
            machine.position, machine.start = position, start
            action(machine)
            position = machine.position
            if stack is not machine.stack:
                stack = machine.stack
                push, pop = stack.append, stack.pop
            if op == 0x95:
                boundary = machine.frame_end
        if position > boundary:
            if position > len(data):
                machine.position, machine.start = len(data), start
                raise Trouble("cut", "the pickle ends early", start)
            if start < boundary:
                machine.note("straddle", "an operand reaches over the end of its frame", start)
            machine.frame_end, boundary = 0, len(data)
        machine.position = position
    raise Trouble("limit", f"more than {MOST_OPCODES} opcodes", position)


def _newobj(m: Machine) -> None:
    args = m.stack.pop()
    m.call(m.stack.pop(), args, "newobj")


def _newobj_ex(m: Machine) -> None:
    kwargs, args = m.stack.pop(), m.stack.pop()
    m.call(m.stack.pop(), args, "newobj_ex", kwargs)


def _obj(m: Machine) -> None:
    items = m.since_mark()
    m.call(items[0], tuple(items[1:]), "obj")


def _inst(m: Machine) -> None:
    callee = _named(m)
    m.call(callee, tuple(m.since_mark()), "inst")


def _global(m: Machine) -> None:
    m.stack.append(_named(m))


def _named(m: Machine) -> GlobalRef:
    """The name on the next two lines. One with a carriage return can't be imported: nothing behind it is reached."""
    module, name = _text(m.line()), _text(m.line())
    if module.endswith("\r") or name.endswith("\r"):
        raise Trouble("line-ends", f"the name {module.strip()}.{name.strip()} ends in a carriage return", m.start)
    return m.name(module, name)


def _stack_global(m: Machine) -> None:
    name, module = m.stack.pop(), m.stack.pop()
    constant = isinstance(name, str) and isinstance(module, str)
    m.stack.append(m.name(module, name) if constant else m.name("?", "?", computed=True))


def _text(line: bytes) -> str:
    return line.decode("utf-8", "surrogateescape")


def _build(m: Machine) -> None:
    state, target = m.stack.pop(), m.stack[-1]
    if isinstance(target, Call):
        _reopening(m, target)
        target.states = [*(target.states or ()), state]
    elif state is not None and state != (None, {}):
        _mutate(m, target, "attributes", PLAIN_TARGETS)


def _extend(m: Machine, items: list[Node]) -> None:
    """APPEND and APPENDS: a list takes them itself, any other object by a method of its own."""
    target = m.stack[-1]
    if isinstance(target, list):
        target.extend(items)
    else:
        _collect(m, target, items)


def _add(m: Machine, items: list[Node]) -> None:
    """ADDITEMS: a set takes them itself, any other object by a method of its own."""
    target = m.stack[-1]
    if isinstance(target, SetNode) and not target.frozen:
        target.items.extend(_hashable(m, items))
    else:
        _collect(m, target, items)


def _collect(m: Machine, target: Node, items: list[Node]) -> None:
    if isinstance(target, Call):
        if items:
            _reopening(m, target)
        target.items = target.items if target.items is not None else []
        target.items.extend(items)
    elif items:
        _mutate(m, target, "items", PLAIN_TARGETS)


def _set(m: Machine, items: list[Node]) -> None:
    if len(items) % 2:
        raise Trouble("broken", "a key without a value")
    target = m.stack[-1]
    if isinstance(target, dict):
        for index in range(0, len(items), 2):
            key = m.key(items[index])
            if key in target:
                m.pickle.rewritten.append((key, m.start))
            target[key] = items[index + 1]
    elif isinstance(target, Call):
        if items:
            _reopening(m, target)
        target.pairs = target.pairs if target.pairs is not None else []
        target.pairs.extend(zip(map(m.any_key, items[::2]), items[1::2]))
    elif items:
        _mutate(m, target, "entries", tuple(kind for kind in PLAIN_TARGETS if kind is not list))


def _reopening(m: Machine, target: Call) -> None:
    if target.states is not None:
        m.pickle.reopened.append((target, m.start))


def _mutate(m: Machine, target: Node, what: str, refused_by: tuple[type, ...]) -> None:
    """Note a change of something that isn't made by this pickle, or not in this way; some plain data refuses it."""
    if isinstance(target, refused_by):
        raise Trouble("broken", f"a {type(target).__name__} can't be given {what}")
    m.pickle.mutated.append((target, m.start))


def _hashable(m: Machine, items: list[Node]) -> list[Node]:
    """The members of a set, which have to be fit for keys."""
    for item in items:
        m.key(item)
    return items


def _append(m: Machine) -> None:
    item = m.stack.pop()
    _extend(m, [item])


def _setitem(m: Machine) -> None:
    value, key = m.stack.pop(), m.stack.pop()
    _set(m, [key, value])


def _dict(m: Machine) -> None:
    items = m.since_mark()
    m.stack.append({})
    _set(m, items)


def _list(m: Machine) -> None:
    items = m.since_mark()
    m.stack.append(items)


def _frozenset(m: Machine) -> None:
    items = _hashable(m, m.since_mark())
    m.stack.append(SetNode(items, frozen=True))


def _integer(text: bytes) -> int:
    if len(text) > MOST_DIGITS:
        raise Trouble("limit", f"an integer written in {len(text)} digits")
    return int(_before_nul(text))


def _number(text: bytes) -> int:
    """An integer in any base, as CPython's C unpickler reads INT and LONG: ``0x10``, ``010`` (octal), ``0b1``."""
    if len(text) > MOST_DIGITS:
        raise Trouble("limit", f"an integer written in {len(text)} digits")
    digits = _before_nul(text).strip()
    octal = digits.lstrip(b"+-").startswith(b"0") and digits.lstrip(b"+-").isdigit()
    return int(digits, 8 if octal else 0)


def _before_nul(text: bytes) -> bytes:
    """Where the C unpickler stops reading a number."""
    return text.split(b"\0", 1)[0]


def _int(m: Machine) -> None:
    text = m.line()
    m.stack.append({b"00": False, b"01": True}[text] if text in (b"00", b"01") else _number(text))


def _string(m: Machine) -> None:
    text = m.line().strip()
    if len(text) < 2 or text[:1] not in b"\"'" or text[:1] != text[-1:]:
        raise Trouble("broken", "a string without quotes")
    m.stack.append(_python2_text(codecs.escape_decode(text[1:-1])[0]))


def _python2_text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _persistent_text(m: Machine) -> None:
    made = Persistent(_text(m.line()), m.start)
    m.pickle.persistents.append(made)
    m.stack.append(made)


def _pop(m: Machine) -> None:
    if m.stack:
        m.stack.pop()
    else:
        m.since_mark()


def _pop_mark(m: Machine) -> None:
    m.since_mark()


def _extension(width: int) -> Callable[[Machine], None]:
    def action(m: Machine) -> None:
        found = Extension(int.from_bytes(m.take(width), "little"), m.start)
        m.pickle.extensions.append(found)
        m.stack.append(found)

    return action


def _sized(width: int, convert: Callable[[bytes], Node]) -> Callable[[Machine], None]:
    return lambda m: m.stack.append(convert(m.sized(width)))


def _proto(m: Machine) -> None:
    m.pickle.protocol = m.take(1)[0]
    if m.pickle.protocol > 5:
        m.note("broken", f"protocol {m.pickle.protocol}; 5 is the newest there is", m.start)


def _frame(m: Machine) -> None:
    """Note where the frame ends: what reaches over it is read differently by CPython's two unpicklers."""
    length = int.from_bytes(m.take(8), "little")
    if m.start < m.frame_end:
        m.note("straddle", "a frame inside a frame", m.start)
    if m.position + length > len(m.data):
        m.note("cut", f"a frame of {length} bytes, {len(m.data) - m.position} left", m.start)
    m.frame_end = min(m.position + length, len(m.data))


def _put(m: Machine) -> None:
    m.memo[_integer(m.line())] = m.stack[-1]


def _long(raw: bytes) -> int:
    return int.from_bytes(raw, "little", signed=True)


def _surrogates(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogatepass")


OPCODES: dict[int, Callable[[Machine], None]] = {
    0x81: _newobj,
    0x92: _newobj_ex,
    ord(b"o"): _obj,
    ord(b"i"): _inst,
    ord(b"c"): _global,
    0x93: _stack_global,
    ord(b"b"): _build,
    ord(b"a"): _append,
    ord(b"e"): lambda m: _extend(m, m.since_mark()),
    0x90: lambda m: _add(m, m.since_mark()),  # ADDITEMS
    ord(b"s"): _setitem,
    ord(b"u"): lambda m: _set(m, m.since_mark()),
    ord(b"d"): _dict,
    ord(b"l"): _list,
    0x8F: lambda m: m.stack.append(SetNode([], frozen=False)),  # EMPTY_SET
    0x91: _frozenset,
    ord(b"P"): _persistent_text,
    ord(b"0"): _pop,
    ord(b"1"): _pop_mark,
    ord(b"2"): lambda m: m.stack.append(m.stack[-1]),  # DUP
    ord(b"p"): _put,
    ord(b"g"): lambda m: m.stack.append(m.memo[_integer(m.line())]),
    ord(b"I"): _int,
    ord(b"L"): lambda m: m.stack.append(_number(m.line().removesuffix(b"L"))),
    0x8A: _sized(1, _long),
    0x8B: _sized(4, _long),
    ord(b"F"): lambda m: m.stack.append(float(_before_nul(m.line()))),
    ord(b"S"): _string,
    ord(b"T"): _sized(4, _python2_text),
    ord(b"U"): _sized(1, _python2_text),
    ord(b"V"): lambda m: m.stack.append(m.line().decode("raw_unicode_escape")),
    0x8D: _sized(8, _surrogates),  # BINUNICODE8
    ord(b"B"): _sized(4, bytes),
    ord(b"C"): _sized(1, bytes),
    0x8E: _sized(8, bytes),  # BINBYTES8
    0x96: _sized(8, bytearray),  # BYTEARRAY8
    0x97: lambda m: m.stack.append(OutOfBand(m.start)),  # NEXT_BUFFER
    0x98: lambda m: None,  # READONLY_BUFFER
    0x80: _proto,
    0x95: _frame,
    0x82: _extension(1),
    0x83: _extension(2),
    0x84: _extension(4),
}

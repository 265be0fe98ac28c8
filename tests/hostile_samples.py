"""Hostile, odd and oversized files. Nothing in here may ever be unpickled.

``SAMPLES`` must all be called ``unsafe``. Each takes the path of a canary file: where a payload can run
at all, running it creates that file and does nothing else. ``BENIGN`` must never be called ``unsafe``;
``UNKNOWN`` only warns; ``BOMBS`` may get any verdict but ``resumable``, quickly and in little memory.
"""

from __future__ import annotations

import marshal
import shlex
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from building import (
    APPEND,
    BINPERSID,
    BUILD,
    DUP,
    EMPTY_DICT,
    EMPTY_LIST,
    EMPTY_TUPLE,
    FALSE,
    FOUR_FLOATS,
    GOOD_PICKLE,
    LEGACY_MAGIC,
    MARK,
    MEMOIZE,
    NEWOBJ,
    NEWOBJ_EX,
    NO_STORAGES,
    NO_TENSORS,
    NONE,
    ORDERED_DICT,
    POP,
    REDUCE,
    SETITEM,
    STACK_GLOBAL,
    STOP,
    TRUE,
    Member,
    archive,
    blob,
    call,
    framed,
    from_bytes,
    get,
    integer,
    items,
    latin1,
    legacy,
    legacy_tar,
    legacy_tensor,
    listed,
    mapping,
    name,
    pickled,
    plain_members,
    put,
    shape_of,
    stack_name,
    state_dict,
    storage,
    tensor,
    text,
    torch_zip,
)

Builder = Callable[[str], bytes]

# --- payloads -------------------------------------------------------------------------------------


def touch(canary: str) -> str:
    return f"touch {shlex.quote(canary)}"


def statement(canary: str) -> str:
    return f"open({canary!r}, 'w').close()"


def expression(canary: str) -> str:
    return f"__import__('os').system({touch(canary)!r})"


def os_system(canary: str) -> bytes:
    return call(name("os", "system"), text(touch(canary)))


def argv(canary: str) -> bytes:
    return listed(text("touch"), text(canary))


def importing(module: str) -> bytes:
    return call(name("builtins", "__import__"), text(module))


def attribute(owner: bytes, attribute_name: str) -> bytes:
    return call(name("builtins", "getattr"), owner, text(attribute_name))


def evil_pickle(canary: str) -> bytes:
    return pickled(state_dict(extra=os_system(canary)), 2)


# --- builders of dangerous samples ----------------------------------------------------------------


def calling(module: str, qualified: str, *arguments: Callable[[str], bytes]) -> Builder:
    """A pickle that calls one name with arguments made from the canary's path."""

    def build(canary: str) -> bytes:
        return pickled(call(name(module, qualified), *(argument(canary) for argument in arguments)))

    return build


def shell(canary: str) -> bytes:
    return text(touch(canary))


def code(canary: str) -> bytes:
    return text(statement(canary))


def evaluated(canary: str) -> bytes:
    return text(expression(canary))


def path(canary: str) -> bytes:
    return text(canary)


def fixed(value: bytes) -> Callable[[str], bytes]:
    return lambda _canary: value


def naming(module: str, qualified: str) -> Builder:
    """A state dict that only refers to one name."""
    return fixed(torch_zip(pickled(state_dict(extra=name(module, qualified)), 2)))


def spelled(make: Callable[[bytes], bytes]) -> Builder:
    """A pickle of the canary's shell command in one opcode spelling."""
    return lambda canary: make(touch(canary).encode())


def body(make: Callable[[str], bytes], protocol: int = 4) -> Builder:
    return lambda canary: pickled(make(canary), protocol)


def zipped(make: Callable[[str], bytes], protocol: int = 2) -> Builder:
    return lambda canary: torch_zip(pickled(state_dict(extra=make(canary)), protocol))


def lazy_map(canary: str) -> bytes:
    """``map(os.system, [command])`` by NEWOBJ: runs when something iterates over it."""
    return name("builtins", "map") + items(name("os", "system"), listed(shell(canary))) + NEWOBJ


def swapped_memo(canary: str) -> bytes:
    """The parts of a name fetched from memo slots that a linear scan would mistake for others."""
    parts = (("os", 2), ("system", 3), ("torch", 0), ("LongStorage", 1))
    stored = b"".join(text(part) + put(slot) + POP for part, slot in parts)
    return call(stored + get(2) + get(3) + STACK_GLOBAL, shell(canary))


def computed_part(canary: str) -> bytes:
    """A module name that only appears after nested bytes were loaded; every global used is a known one."""
    module = from_bytes(blob(legacy(text("os"), keys=EMPTY_LIST, storages=b"")))
    return call(module + text("system") + STACK_GLOBAL, shell(canary))


def registered_extension(canary: str) -> bytes:
    register = call(name("copyreg", "add_extension"), text("os"), text("system"), integer(0x77))
    return register + POP + call(b"\x82\x77", shell(canary))


def straddling(hidden: bytes) -> bytes:
    """A good state dict to a linear reader, `hidden` to CPython's C unpickler.

    The frame ends inside the length of BINBYTES. A linear reader sees one long string; the C unpickler drops
    the byte left in the frame, takes the length from the bytes after it, and runs what is in the string.
    """
    high = len(hidden) // 256 + 1
    length = high * 256 + 7
    content = (bytes(1 + high) + hidden + MARK).ljust(length, NONE)
    string = b"B" + struct.pack("<I", length) + content
    return b"\x80\x04" + state_dict() + MARK + b"\x95" + struct.pack("<Q", 2) + string + b"1" + STOP


def class_setstate(canary: str) -> bytes:
    """BUILD puts ``__setstate__`` on a known class, then BUILD on its instance calls it."""
    namespace = name("argparse", "Namespace") + put(0)
    patch = items(NONE, mapping(__setstate__=name("os", "system")))
    return namespace + patch + BUILD + POP + get(0) + EMPTY_TUPLE + NEWOBJ + shell(canary) + BUILD


def path_object(canary: str) -> bytes:
    return call(name("pathlib", "PosixPath"), path(canary))


def known_getattr_called(canary: str) -> bytes:
    """``getattr(Path, 'touch')(Path(canary))``: every name is a known one, the call is not."""
    return call(attribute(name("pathlib", "Path"), "touch"), path_object(canary))


def getattr_in_partial(canary: str) -> bytes:
    touching = attribute(name("pathlib", "Path"), "touch")
    return call(call(name("functools", "partial"), touching, path_object(canary)))


def getattr_given_to_class(canary: str) -> bytes:
    """A thread pool that a trainer's module re-exports calls the attribute it is given."""
    touching = attribute(name("pathlib", "Path"), "touch")
    pool = name("ultralytics.data.base", "ThreadPool")
    return call(pool, integer(1), touching, items(path_object(canary)))


def rebuilt_from_type(function: bytes, *arguments: bytes) -> bytes:
    return call(
        name("torch._tensor", "_rebuild_from_type_v2"),
        function,
        name("torch.nn.parameter", "Parameter"),
        items(*arguments),
        EMPTY_DICT,
    )


def function_from_code(canary: str) -> bytes:
    """``FunctionType(marshal.loads(...), {})()``, of code marshalled by the building interpreter."""
    compiled = marshal.dumps(compile(statement(canary), "<sample>", "exec"))
    loaded = call(name("marshal", "loads"), blob(compiled))
    return call(call(name("types", "FunctionType"), loaded, EMPTY_DICT))


def two_readings(canary: str, *, evil_listed: bool) -> bytes:
    """Two local ``data.pkl``; only one of them is in the directory."""
    evil = Member("archive/data.pkl", evil_pickle(canary), in_directory=evil_listed)
    good = Member("archive/data.pkl", GOOD_PICKLE, in_directory=not evil_listed)
    first, second = (good, evil) if evil_listed else (evil, good)
    return archive(first, second, *plain_members())


def duplicate_name(canary: str, *, evil_first: bool) -> bytes:
    pair = [Member("archive/data.pkl", evil_pickle(canary)), Member("archive/data.pkl", GOOD_PICKLE)]
    return archive(*(pair if evil_first else pair[::-1]), *plain_members())


def evil_member(change: Callable[[Member], Member]) -> Builder:
    def build(canary: str) -> bytes:
        return archive(change(Member("archive/data.pkl", evil_pickle(canary))), *plain_members())

    return build


def nested_loads(canary: str, depth: int) -> bytes:
    inner = os_system(canary)
    for _ in range(depth):
        inner = from_bytes(blob(legacy(inner, keys=EMPTY_LIST, storages=b"")))
    return inner


def in_comment(canary: str) -> bytes:
    """A good archive whose comment is the rest of an evil one, directory and all."""
    outer = torch_zip(GOOD_PICKLE)
    both = bytearray(archive(Member("archive/data.pkl", evil_pickle(canary)), *plain_members(), prefix=outer))
    struct.pack_into("<H", both, len(outer) - 2, len(both) - len(outer))
    return bytes(both)


SPELLINGS: Mapping[str, Builder] = {
    "protocol_0_global_reduce": spelled(lambda cmd: b"cos\nsystem\n(V" + cmd + b"\ntR."),
    "protocol_1_binstring": spelled(lambda cmd: b"cposix\nsystem\nq\0(U" + bytes([len(cmd)]) + cmd + b"tR."),
    "protocol_2_global": body(os_system, 2),
    "protocol_3_global": body(os_system, 3),
    "protocol_4_frame": lambda canary: framed(call(stack_name("posix", "system"), shell(canary))),
    "protocol_5_frame": lambda canary: framed(call(stack_name("nt", "system"), shell(canary)), protocol=5),
    "protocol_99_declared": body(os_system, 99),
    "inst": spelled(lambda cmd: b"(V" + cmd + b"\nios\nsystem\n."),
    "obj": body(lambda canary: MARK + name("os", "system") + shell(canary) + b"o", 1),
    "obj_popped": body(lambda canary: MARK + name("os", "system") + shell(canary) + b"o" + POP + NONE),
    "newobj": body(lambda canary: name("builtins", "bytes") + items(lazy_map(canary)) + NEWOBJ),
    "newobj_ex": body(lambda canary: name("builtins", "bytes") + items(lazy_map(canary)) + EMPTY_DICT + NEWOBJ_EX),
    "stack_global_memo_swap": body(swapped_memo),
    "stack_global_string_operands": spelled(lambda cmd: b"S'os'\nS'system'\n\x93V" + cmd + b"\n\x85R."),
    "stack_global_escaped_string": spelled(lambda cmd: rb"S'\x6f\163'" + b"\nS'sys\\164em'\n\x93V" + cmd + b"\n\x85R."),
    "stack_global_escaped_unicode": spelled(
        lambda cmd: rb"V\u006f\u0073" + b"\nV\\u0073ystem\n\x93V" + cmd + b"\n\x85R."
    ),
    "stack_global_memo_underscore": body(
        lambda canary: call(
            text("os") + b"p1_0\n0" + text("system") + b"p 11\n0" + b"g10\ng11\n" + STACK_GLOBAL,
            shell(canary),
        )
    ),
    "stack_global_memo_counted": body(
        lambda canary: call(
            text("x") + put(7) + put(9) + POP + text("os") + MEMOIZE + POP + get(2) + text("system") + STACK_GLOBAL,
            shell(canary),
        )
    ),
    "stack_global_over_mark": body(
        lambda canary: call(text("os") + MARK + POP + text("system") + STACK_GLOBAL, shell(canary))
    ),
    "stack_global_computed": body(computed_part),
    "stack_global_integer": fixed(pickled(integer(42) + text("os") + STACK_GLOBAL)),
    "ext1": fixed(pickled(b"\x82\x01)R")),
    "ext2": fixed(pickled(b"\x83\x01\x00)R")),
    "ext4": fixed(pickled(b"\x84\x01\x00\x00\x00)R")),
    "ext1_registered": body(registered_extension),
    "python2_names": body(lambda canary: call(name("__builtin__", "eval"), evaluated(canary)), 2),
    "python2_modules": body(lambda canary: call(name("commands", "getoutput"), shell(canary)), 2),
    "frame_too_short": lambda canary: framed(os_system(canary), length=5),
    "frame_straddled": lambda canary: torch_zip(straddling(os_system(canary))),
    "result_dropped": body(lambda canary: os_system(canary) + POP + mapping(epoch=integer(3))),
    "result_dropped_by_mark": body(lambda canary: MARK + os_system(canary) + b"1" + EMPTY_DICT),
    "in_dict_key": body(lambda canary: EMPTY_DICT + os_system(canary) + integer(1) + SETITEM),
    "in_persistent_id": body(
        lambda canary: items(text("storage"), os_system(canary), text("0"), text("cpu"), integer(1)) + BINPERSID
    ),
    "missing_stop": lambda canary: b"\x80\x02" + os_system(canary),
    "cut_after_call": lambda canary: b"\x80\x02" + os_system(canary) + b"X\xff\xff",
    "bad_memo_after_call": body(lambda canary: os_system(canary) + POP + get(9)),
    "unknown_opcode_after_call": body(lambda canary: os_system(canary) + b"\xff"),
    "second_pickle": lambda canary: pickled(EMPTY_DICT) + pickled(os_system(canary)),
}

KNOWN_NAMES_MISUSED: Mapping[str, Builder] = {
    "getattr_chain": body(lambda canary: call(attribute(importing("os"), "system"), shell(canary))),
    "getattr_known_class_called": body(known_getattr_called),
    "getattr_in_partial": body(getattr_in_partial),
    "getattr_given_to_class": body(getattr_given_to_class),
    "getattr_private": body(
        lambda _canary: attribute(attribute(name("argparse", "Namespace"), "__init__"), "__globals__")
    ),
    "dotted_method_called": body(lambda canary: call(name("pathlib", "Path.touch"), path_object(canary))),
    "dotted_through_pathlib": calling("pathlib", "os.system", shell),
    "dotted_through_datetime": naming("datetime", "sys.modules"),
    "dotted_through_torch": calling("torch.serialization", "os.system", shell),
    "dotted_through_functional": naming("torch.nn.functional", "torch.hub.load"),
    "dotted_call_slot": calling("builtins", "eval.__call__", evaluated),
    "module_as_name": body(
        lambda _canary: name("torch.serialization", "os") + mapping(system=name("builtins", "print")) + BUILD
    ),
    "build_on_class": fixed(
        torch_zip(pickled(name("torch.nn.modules.linear", "Linear") + items(NONE, mapping(training=TRUE)) + BUILD, 2))
    ),
    "build_on_class_setstate": body(class_setstate),
    "partial_of_system": zipped(lambda canary: call(name("functools", "partial"), name("os", "system"), shell(canary))),
    "partial_of_hub": zipped(
        lambda canary: call(name("functools", "partial"), name("torch.hub", "load"), path(canary))
    ),
    "defaultdict_of_system": zipped(lambda _canary: call(name("collections", "defaultdict"), name("os", "system"))),
    "defaultdict_of_torch_function": zipped(
        lambda _canary: call(name("collections", "defaultdict"), name("torch.utils.collect_env", "main"))
    ),
    "rebuild_from_type": zipped(lambda canary: rebuilt_from_type(name("os", "system"), shell(canary))),
    "rebuild_from_type_hub": zipped(lambda canary: rebuilt_from_type(name("torch.hub", "load"), path(canary))),
    "reconstructor": body(
        lambda canary: call(
            name("copyreg", "_reconstructor"),
            name("subprocess", "Popen"),
            name("subprocess", "Popen"),
            argv(canary),
        )
    ),
    "codecs_other_codec": body(lambda _canary: call(name("_codecs", "encode"), text("bf"), text("rot13"))),
    "load_from_bytes": zipped(lambda canary: from_bytes(blob(legacy(os_system(canary))))),
    "load_from_bytes_latin1": zipped(lambda canary: from_bytes(latin1(legacy(os_system(canary))))),
    "load_from_bytes_zip": zipped(lambda canary: from_bytes(blob(zipped(os_system)(canary)))),
    "load_from_bytes_five_deep": zipped(partial(nested_loads, depth=5)),
    "dill_load_type_misused": zipped(lambda _canary: call(name("dill._dill", "_load_type"), text("CodeType"))),
    "functional_called": zipped(lambda canary: call(name("torch.nn.functional", "boolean_dispatch"), path(canary))),
    "functional_function_patched": zipped(
        lambda _canary: name("torch.nn.functional", "relu") + items(NONE, mapping(__doc__=text("x"))) + BUILD
    ),
    "print_called": zipped(lambda canary: call(name("builtins", "print"), path(canary))),
    "setting_written": zipped(
        lambda canary: name("ultralytics.utils", "SETTINGS") + text("runs_dir") + path(canary) + SETITEM
    ),
    "trainer_class_constructed": zipped(
        lambda canary: call(
            name("ultralytics.nn.tasks", "DetectionModel"),
            mapping(
                activation=evaluated(canary),
                backbone=EMPTY_LIST,
                head=EMPTY_LIST,
                nc=integer(1),
                ch=integer(3),
            ),
        )
    ),
}

PACKAGES: Mapping[str, Builder] = {
    "torch_load": calling("torch.serialization", "load", path),
    "torch_hub": calling("torch.hub", "load", path, path),
    "torch_import_dotted": body(
        lambda canary: call(call(name("torch._utils", "_import_dotted_name"), text("os.system")), shell(canary))
    ),
    "torch_collect_env": calling("torch.utils.collect_env", "run", shell),
    "torch_bottleneck": calling("torch.utils.bottleneck.__main__", "run_cprofile", evaluated, fixed(EMPTY_DICT)),
    "numpy_runstring": calling("numpy.testing._private.utils", "runstring", code, fixed(EMPTY_DICT)),
    "numpy_f2py": calling("numpy.f2py.crackfortran", "getlincoef", evaluated, fixed(EMPTY_LIST)),
    "numpy_memmap": calling(
        "numpy",
        "memmap",
        path,
        fixed(text("uint8")),
        fixed(text("w+")),
        fixed(integer(0)),
        fixed(shape_of(1)),
    ),
    "pip_main": calling("pip", "main", lambda canary: listed(text("download"), text("--log"), path(canary))),
    "setuptools_spawn": calling("setuptools._distutils.spawn", "spawn", argv),
    "dill_import": body(
        lambda canary: call(attribute(call(name("dill._dill", "_import_module"), text("os")), "system"), shell(canary))
    ),
    "dill_create_function": zipped(
        lambda _canary: call(
            name("dill._dill", "_create_function"),
            call(name("dill._dill", "_create_code"), blob(b"")),
            EMPTY_DICT,
        )
    ),
    "cloudpickle_subimport": body(
        lambda canary: call(
            attribute(call(name("cloudpickle.cloudpickle", "subimport"), text("os")), "system"), shell(canary)
        )
    ),
    "cloudpickle_make_function": zipped(
        lambda _canary: call(name("cloudpickle.cloudpickle", "_make_function"), NONE, EMPTY_DICT, NONE, NONE, NONE)
    ),
    "requests_get": zipped(lambda _canary: call(name("requests.api", "get"), text("http://127.0.0.1:9/"))),
}

STANDARD_LIBRARY: Mapping[str, Builder] = {
    "eval": calling("builtins", "eval", evaluated),
    "exec": calling("builtins", "exec", code),
    "open": calling("builtins", "open", path, fixed(text("w"))),
    "subprocess_run": calling("subprocess", "run", argv),
    "pty_spawn": calling("pty", "spawn", argv),
    "attrgetter": body(
        lambda canary: call(call(call(name("operator", "attrgetter"), text("system")), importing("os")), shell(canary))
    ),
    "methodcaller": body(
        lambda canary: call(call(name("operator", "methodcaller"), text("touch")), path_object(canary))
    ),
    "import_module": body(
        lambda canary: call(attribute(call(name("importlib", "import_module"), text("os")), "system"), shell(canary))
    ),
    "resolve_name": body(lambda canary: call(call(name("pkgutil", "resolve_name"), text("os:system")), shell(canary))),
    "runpy": calling("runpy", "_run_code", code, fixed(EMPTY_DICT)),
    "function_type": body(function_from_code),
    "pydoc_pipepager": calling("pydoc", "pipepager", fixed(text("")), shell),
    "timeit": calling("timeit", "timeit", code, fixed(text("")), fixed(name("time", "time")), fixed(integer(1))),
    "cprofile": calling("cProfile", "run", code),
    "bdb": body(lambda canary: call(attribute(call(name("bdb", "Bdb")), "run"), code(canary))),
    "interpreter": body(
        lambda canary: call(attribute(call(name("code", "InteractiveInterpreter")), "runsource"), code(canary))
    ),
    "ctypes": body(
        lambda canary: call(attribute(call(name("ctypes", "CDLL"), NONE), "system"), blob(touch(canary).encode()))
    ),
    "spawnv_passfds": calling(
        "multiprocessing.util", "spawnv_passfds", fixed(blob(b"/usr/bin/touch")), argv, fixed(EMPTY_TUPLE)
    ),
    "asyncio_transport": zipped(
        lambda canary: call(
            name("asyncio.unix_events", "_UnixSubprocessTransport._start"),
            EMPTY_DICT,
            shell(canary),
            TRUE,
            NONE,
            NONE,
            NONE,
            integer(0),
        )
    ),
    "distutils_write": calling("distutils.file_util", "write_file", path, fixed(listed(text("")))),
    "ensurepip": calling("ensurepip", "_run_pip", lambda canary: listed(text("--log"), path(canary))),
    "lib2to3": calling(
        "lib2to3.pgen2.pgen",
        "ParserGenerator.make_label",
        fixed(NONE),
        fixed(EMPTY_DICT),
        lambda canary: text('""+' + expression(canary)),
    ),
    "idlelib": calling("idlelib.calltip", "get_entity", evaluated),
    "webbrowser": body(
        lambda canary: call(
            attribute(call(name("webbrowser", "GenericBrowser"), argv(canary)), "open"), text("about:blank")
        )
    ),
    "file_handler": calling("logging", "FileHandler", path),
    "file_io": calling("io", "FileIO", path, fixed(text("w"))),
    "uuid_command": calling("uuid", "_get_command_stdout", fixed(text("touch")), path),
    "sqlite_connect": calling("sqlite3", "connect", path),
    "atexit": body(lambda canary: call(name("atexit", "register"), name("os", "system"), shell(canary))),
    "shutil_copy": calling("shutil", "copyfile", fixed(text("/dev/null")), path),
    "settrace": calling("sys", "settrace", fixed(name("builtins", "print"))),
    "socket": zipped(lambda _canary: call(name("socket", "create_connection"), items(text("127.0.0.1"), integer(9)))),
}

CONTAINERS: Mapping[str, Builder] = {
    "zip_member": zipped(os_system),
    "zip_deflated": evil_member(lambda member: replace(member, deflated=True)),
    "zip_descriptor": evil_member(lambda member: replace(member, descriptor=True)),
    "zip_encrypted_flag": evil_member(lambda member: replace(member, flags=1)),
    "zip_wrong_method": evil_member(lambda member: replace(member, method=99)),
    "zip_wrong_crc": evil_member(lambda member: replace(member, crc=0xDEADBEEF)),
    "zip_local_name_differs": evil_member(lambda member: replace(member, local_name="archive/datap.kl")),
    "zip_without_directory": lambda canary: archive(
        Member("archive/data.pkl", evil_pickle(canary)), *plain_members(), directory=False
    ),
    "zip_hidden_from_directory": partial(two_readings, evil_listed=False),
    "zip_hidden_behind_good_local": partial(two_readings, evil_listed=True),
    "zip_duplicate_evil_first": partial(duplicate_name, evil_first=True),
    "zip_duplicate_evil_last": partial(duplicate_name, evil_first=False),
    "zip_in_comment": in_comment,
    "zip_prefixed": lambda canary: archive(
        Member("archive/data.pkl", evil_pickle(canary)),
        *plain_members(),
        prefix=b"7z\xbc\xaf\x27\x1c" + bytes(58),
    ),
    "zip_second_root": lambda canary: torch_zip(GOOD_PICKLE, Member("other/data.pkl", evil_pickle(canary))),
    "zip_name_in_capitals": lambda canary: torch_zip(GOOD_PICKLE, Member("archive/DATA.PKL", evil_pickle(canary))),
    "zip_extra_pickle": lambda canary: torch_zip(GOOD_PICKLE, Member("archive/extra.pkl", evil_pickle(canary))),
    "zip_nested_checkpoint": lambda canary: torch_zip(GOOD_PICKLE, Member("archive/ema.pt", zipped(os_system)(canary))),
    "legacy_magic": lambda canary: legacy(
        magic=call(name("builtins", "eval"), text(f"[{expression(canary)}, {LEGACY_MAGIC}][1]"))
    ),
    "legacy_protocol": lambda canary: legacy(protocol=os_system(canary)),
    "legacy_system_info": lambda canary: legacy(system=os_system(canary)),
    "legacy_object": lambda canary: legacy(mapping(weight=legacy_tensor(), extra=os_system(canary))),
    "legacy_called_through_persistent_id": lambda canary: legacy(
        call(
            items(text("module"), name("torch.utils.collect_env", "run"), NONE, NONE) + BINPERSID,
            shell(canary),
        )
    ),
    "legacy_storage_keys": lambda canary: legacy(keys=listed(text("0")) + os_system(canary) + POP),
    "legacy_before_good_zip": lambda canary: (
        legacy(mapping(weight=legacy_tensor(), extra=os_system(canary))) + torch_zip(GOOD_PICKLE)
    ),
    "tar_pickle": lambda canary: legacy_tar(pickled(os_system(canary), 2), NO_STORAGES, NO_TENSORS),
    "tar_storages": lambda canary: legacy_tar(GOOD_PICKLE, pickled(os_system(canary), 2), NO_TENSORS),
    "tar_tensors": lambda canary: legacy_tar(GOOD_PICKLE, NO_STORAGES, pickled(os_system(canary), 2)),
}

SAMPLES: Mapping[str, Builder] = {
    **SPELLINGS,
    **KNOWN_NAMES_MISUSED,
    **PACKAGES,
    **STANDARD_LIBRARY,
    **CONTAINERS,
}

# --- benign, though a deny-list or a careless reader would object ---------------------------------


def instance(module: str, qualified: str, **state: bytes) -> bytes:
    return name(module, qualified) + EMPTY_TUPLE + NEWOBJ + mapping(**state) + BUILD


def numpy_scalar(core: str) -> bytes:
    kind = call(name("numpy", "dtype"), text("f8"), FALSE, TRUE)
    kind += items(integer(3), text("<"), NONE, NONE, NONE, integer(-1), integer(-1), integer(0)) + BUILD
    return call(name(f"{core}.multiarray", "scalar"), kind, latin1(struct.pack("<d", 0.5)))


def numpy_array(core: str) -> bytes:
    kind = call(name("numpy", "dtype"), text("f4"), FALSE, TRUE)
    kind += items(integer(3), text("<"), NONE, NONE, NONE, integer(-1), integer(-1), integer(0)) + BUILD
    empty = call(name(f"{core}.multiarray", "_reconstruct"), name("numpy", "ndarray"), shape_of(0), blob(b"b"))
    return empty + items(integer(1), shape_of(4), kind, FALSE, blob(FOUR_FLOATS)) + BUILD


def good(extra: bytes, protocol: int = 2) -> Callable[[], bytes]:
    return lambda: torch_zip(pickled(state_dict(extra=extra), protocol))


def only(weight: bytes) -> Callable[[], bytes]:
    return lambda: torch_zip(pickled(mapping(weight=weight), 2))


PARAMETER = name("torch._utils", "_rebuild_parameter")
DANGEROUS_TEXT = "__import__('os').system('rm -rf /'); cos\nsystem\n(S'id'\ntR."

BENIGN: Mapping[str, Callable[[], bytes]] = {
    "zip": lambda: torch_zip(GOOD_PICKLE),
    "zip_protocol_0_text": lambda: torch_zip(b"(dVepoch\nI3\nsVlr\nF0.01\nsVname\nVyolo\ns."),
    "zip_deflated": lambda: archive(Member("archive/data.pkl", GOOD_PICKLE, deflated=True), *plain_members()),
    "zip_crc_zero": lambda: archive(Member("archive/data.pkl", GOOD_PICKLE, crc=0), *plain_members()),
    "zip_descriptor": lambda: archive(Member("archive/data.pkl", GOOD_PICKLE, descriptor=True), *plain_members()),
    "zip_comment": lambda: archive(Member("archive/data.pkl", GOOD_PICKLE), *plain_members(), comment=b"cos\nsystem\n"),
    "legacy": legacy,
    "legacy_module_source": lambda: legacy(
        items(text("module"), name("torch.nn.modules.linear", "Linear"), text("linear.py"), text("import os"))
        + BINPERSID
        + POP
        + mapping(weight=legacy_tensor())
    ),
    "legacy_module_instance": lambda: legacy(
        items(text("module"), name("torch.nn.modules.linear", "Linear"), NONE, NONE)
        + BINPERSID
        + EMPTY_TUPLE
        + NEWOBJ
        + mapping(training=FALSE, weight=legacy_tensor())
        + BUILD
    ),
    "tar": lambda: legacy_tar(pickled(EMPTY_DICT, 2), NO_STORAGES, NO_TENSORS),
    "parameter": good(call(PARAMETER, tensor(), TRUE, call(ORDERED_DICT))),
    "parameter_with_state": good(
        call(
            name("torch._utils", "_rebuild_parameter_with_state"),
            tensor(),
            TRUE,
            call(ORDERED_DICT),
            mapping(note=text("kept")),
        )
    ),
    "subclass_of_tensor": good(
        rebuilt_from_type(
            name("torch._utils", "_rebuild_tensor_v2"),
            storage(),
            integer(0),
            shape_of(4),
            shape_of(1),
            FALSE,
            call(ORDERED_DICT),
        )
    ),
    "subclass_of_tensor_old_module": good(
        call(
            name("torch.tensor", "_rebuild_from_type"),
            name("torch._utils", "_rebuild_tensor_v2"),
            name("torch.nn.parameter", "Parameter"),
            items(storage(), integer(0), shape_of(4), shape_of(1), FALSE, call(ORDERED_DICT)),
            EMPTY_DICT,
        )
    ),
    "quantized": only(
        call(
            name("torch._utils", "_rebuild_qtensor"),
            storage("QInt8Storage", "0", 16),
            integer(0),
            shape_of(4, 4),
            shape_of(4, 1),
            items(name("torch", "per_tensor_affine"), b"G?\xe0\0\0\0\0\0\0", integer(0)),
            FALSE,
            call(ORDERED_DICT),
        )
    ),
    "sparse": only(
        call(
            name("torch._utils", "_rebuild_sparse_tensor"),
            call(name("torch.serialization", "_get_layout"), text("torch.sparse_coo")),
            items(
                tensor((1, 2), (2, 1), kind="LongStorage", count=2),
                tensor((2,), (1,), kind="LongStorage", count=2),
                shape_of(3),
                TRUE,
            ),
        )
    ),
    "dtype_device_size": good(
        listed(
            name("torch", "float16"),
            name("torch", "bfloat16"),
            name("torch", "strided"),
            call(name("torch", "device"), text("cuda"), integer(0)),
            call(name("torch", "Size"), shape_of(2, 2)),
        )
    ),
    "module": good(
        instance(
            "torch.nn.modules.linear",
            "Linear",
            training=FALSE,
            in_features=integer(2),
            _hooks=call(ORDERED_DICT),
        )
    ),
    "trainer_class": good(instance("ultralytics.nn.modules.conv", "Conv", training=FALSE)),
    "codecs_encode": good(latin1(bytes(range(256)))),
    "getattr_never_called": good(attribute(name("ultralytics.nn.modules.head", "Segment"), "forward")),
    "set_python3": good(call(name("builtins", "set"), listed(integer(1), integer(2)))),
    "set_python2": good(call(name("__builtin__", "set"), listed(text("a")))),
    "complex_slice": good(
        listed(
            call(name("__builtin__", "complex"), b"G?\xf0\0\0\0\0\0\0", b"G?\xf0\0\0\0\0\0\0"),
            call(name("builtins", "slice"), integer(0), integer(4), NONE),
        )
    ),
    "print_as_value": good(listed(name("builtins", "print"), name("__builtin__", "print"))),
    "functional_as_value": good(listed(name("torch.nn.functional", "relu"), name("torch.nn.functional", "silu"))),
    "dill_load_type": good(call(name("dill._dill", "_load_type"), text("dict"))),
    "partial_of_module": good(
        call(name("functools", "partial"), name("torch.nn.modules.activation", "SiLU"))
        + items(name("torch.nn.modules.activation", "SiLU"), EMPTY_TUPLE, mapping(inplace=TRUE), NONE)
        + BUILD
    ),
    "defaultdict_of_dict": good(call(name("collections", "defaultdict"), name("builtins", "dict"))),
    "counter": good(call(name("collections", "Counter"), EMPTY_DICT)),
    "numpy_scalar_old": good(numpy_scalar("numpy.core")),
    "numpy_scalar_new": good(numpy_scalar("numpy._core"), 4),
    "numpy_array_old": good(numpy_array("numpy.core"), 4),
    "numpy_array_new": good(numpy_array("numpy._core"), 4),
    "paths": good(
        listed(
            *(
                call(name(module, kind), text("runs"), text("train"))
                for module in ("pathlib", "pathlib._local")
                for kind in ("PosixPath", "WindowsPath", "PurePosixPath")
            )
        )
    ),
    "namespaces": good(
        listed(
            instance("argparse", "Namespace", lr=integer(1)),
            call(name("types", "SimpleNamespace")) + mapping(lr=integer(1)) + BUILD,
        )
    ),
    "datetime": good(call(name("datetime", "datetime"), latin1(b"\x07\xea\x01\x02\x03\x04\x05\x00\x00\x00"))),
    "load_from_bytes": good(from_bytes(blob(legacy())), 4),
    "load_from_bytes_latin1": good(from_bytes(latin1(legacy()))),
    "text_looks_dangerous": good(text(DANGEROUS_TEXT)),
    "bytes_hold_a_pickle": good(blob(evil_pickle("/nonexistent")), 4),
    "storage_holds_a_pickle": lambda: archive(
        Member("archive/data.pkl", GOOD_PICKLE),
        Member("archive/version", b"3\n"),
        Member("archive/data/0", (b"cos\nsystem\n)R." + bytes(16))[:16]),
    ),
    "itself_inside": good(EMPTY_LIST + put(0) + get(0) + APPEND),
    "sparse_memo": good(text("x") + b"r" + struct.pack("<I", 5000) + POP + b"j" + struct.pack("<I", 5000)),
    "frozen_set_and_bytearray": good(MARK + integer(1) + b"\x91" + POP + b"\x96" + struct.pack("<Q", 3) + b"abc", 5),
    "dropped_values": good(integer(1) + DUP + POP + POP + MARK + text("x") + b"1" + NONE),
    "views_of_one_storage": good(listed(tensor((2,), (1,)), tensor((2,), (1,), 2), tensor((2, 2), (1, 2)))),
}

# A name that is only stored runs nothing, whatever it names.
MENTIONED: Mapping[str, Builder] = {
    "eval": naming("builtins", "eval"),
    "popen": naming("subprocess", "Popen"),
    "any": naming("typing", "Any"),
    "path_function": naming("os.path", "join"),
    "torch_hub": naming("torch.hub", "load"),
    "wraps": naming("functools", "wraps"),
}

UNKNOWN: Mapping[str, Callable[[], bytes]] = {
    "user_class": good(instance("my_project.models", "TinyNet", training=FALSE)),
    "main_class": good(instance("__main__", "Config", lr=integer(1))),
    "user_function_called": good(call(name("my_project.helpers", "rebuild"), text("x"))),
    "unlisted_class_of_torch": good(instance("torch.fx.graph_module", "GraphModule")),
}

# --- bombs ----------------------------------------------------------------------------------------


def laughing_lists(levels: int = 40, width: int = 9) -> bytes:
    """Each list holds the one before it many times over."""
    grown = EMPTY_LIST + text("ha") + APPEND + MEMOIZE
    for level in range(levels):
        grown += EMPTY_LIST + MEMOIZE + MARK + get(level) * width + b"e"
    return pickled(grown)


def laughing_tuples(levels: int = 60) -> bytes:
    """A tuple doubled by DUP until hashing or printing it would take for ever, used as a key."""
    return pickled(EMPTY_DICT + EMPTY_TUPLE + (DUP + b"\x86") * levels + NONE + SETITEM)


def deflated_zeros(size: int = 1 << 28) -> bytes:
    """An archive whose ``data.pkl`` is zeros that shrank a thousandfold."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(1 << 22)) + packer.flush(zlib.Z_FULL_FLUSH)
    packed = block * (size >> 22) + packer.flush()
    good_zip = bytearray(archive(Member("archive/data.pkl", packed, method=8, crc=0)))
    for offset in (22, good_zip.index(b"PK\1\2") + 24):
        struct.pack_into("<I", good_zip, offset, size & 0xFFFFFFFF)
    return bytes(good_zip)


def overlapping_members(count: int = 2000) -> bytes:
    """Thousands of directory entries that all point at one member."""
    whole = archive(Member("archive/data.pkl", GOOD_PICKLE), *plain_members())
    start = whole.index(b"PK\1\2")
    entry = whole[start : whole.index(b"PK\1\2", start + 4)]
    directory = b"".join(entry.replace(b"data.pkl", b"%04x.pkl" % index) for index in range(count)) + entry
    end = struct.pack("<4H2IH", 0, 0, count + 1, count + 1, len(directory), start, 0)
    return whole[:start] + directory + b"PK\5\6" + end


def benign_loads(depth: int = 60) -> bytes:
    inner = EMPTY_DICT
    for _ in range(depth):
        inner = from_bytes(blob(legacy(inner, keys=EMPTY_LIST, storages=b"")))
    return torch_zip(pickled(inner))


def packed_pickles(name_of: Callable[[int], str], size: int, count: int) -> bytes:
    """Packed members that unpack to so many bytes each, in a file of a few kilobytes per megabyte."""
    zeros = bytes(size)
    return archive(*(Member(name_of(number), zeros, deflated=True) for number in range(count)))


BOMBS: Mapping[str, Callable[[], bytes]] = {
    "packed_pickle": lambda: packed_pickles(lambda _: "archive/data.pkl", 200 << 20, 1),
    "packed_twins": lambda: packed_pickles(lambda _: "archive/data.pkl", 20 << 20, 60),
    "huge_memo_index": lambda: pickled(NONE + b"r" + struct.pack("<I", 2**32 - 1)),
    "huge_memo_index_text": lambda: pickled(NONE + b"p" + b"9" * 30 + b"\n", 0),
    "deep_lists": lambda: pickled(EMPTY_LIST * 100_000 + APPEND * 99_999),
    "deep_tuples": lambda: pickled(EMPTY_TUPLE + b"\x85" * 100_000),
    "deep_dicts": lambda: pickled((EMPTY_DICT + text("k")) * 100_000 + NONE + SETITEM * 100_000),
    "deep_reduce": lambda: pickled(ORDERED_DICT * 50_000 + EMPTY_TUPLE + b"R\x85" * 49_999 + REDUCE),
    "deep_callees": lambda: pickled(name("mine", "make") + (EMPTY_TUPLE + REDUCE) * 100_000),
    "type_of_itself": lambda: pickled(
        call(name("types", "GenericAlias"), name("builtins", "list"), EMPTY_LIST + put(0) + get(0) + APPEND)
    ),
    "deep_marks": lambda: pickled(MARK * 1_000_000 + NONE),
    "deep_build": lambda: pickled(
        (name("argparse", "Namespace") + EMPTY_TUPLE + NEWOBJ) * 20_000 + EMPTY_DICT + BUILD * 20_000
    ),
    "laughing_lists": laughing_lists,
    "laughing_tuples": laughing_tuples,
    "many_dups": lambda: pickled(EMPTY_DICT + DUP * 3_000_000),
    "huge_bytes_length": lambda: b"\x80\x05\x8e" + struct.pack("<Q", 2**62) + b"short.",
    "huge_bytearray_length": lambda: b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"short.",
    "huge_text_length": lambda: b"\x80\x05\x8d" + struct.pack("<Q", 2**63 - 1) + b"short.",
    "huge_frame_length": lambda: framed(EMPTY_DICT, length=2**61),
    "negative_length": lambda: b"\x80\x02T" + struct.pack("<i", -5) + b"abc.",
    "huge_long4_length": lambda: b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"\x01.",
    "long4_of_a_megabyte": lambda: b"\x80\x02\x8b" + struct.pack("<i", 1 << 20) + b"\x7f" * (1 << 20) + STOP,
    "decimal_long": lambda: b"L" + b"9" * 2_000_000 + b"L\n.",
    "decimal_int": lambda: b"I" + b"9" * 2_000_000 + b"\n.",
    "float_text": lambda: b"F" + b"1" * 2_000_000 + b"\n.",
    "line_without_end": lambda: b"V" + b"a" * 4_000_000,
    "huge_name": lambda: pickled(b"c" + b"m" * 2_000_000 + b"\n" + b"n" * 2_000_000 + b"\n"),
    "many_pickles": lambda: pickled(NONE) * 100_000,
    "huge_shape": only(tensor(shape=(2**40, 2**40), stride=(2**40, 1))),
    "overflowing_shape": only(tensor(shape=(2**62, 8), stride=(8, 1))),
    "thousand_dimensions": only(tensor(shape=(2,) * 1000, stride=(0,) * 1000)),
    "expanded_view": only(tensor(shape=(2**40,), stride=(0,))),
    "negative_stride": only(tensor(stride=(-2, -1))),
    "negative_offset": only(tensor(offset=-(2**40))),
    "negative_shape": only(tensor(shape=(-2, 2))),
    "giant_integers_in_shape": only(tensor(shape=(1 << 900, 2))),
    "huge_storage": only(tensor(count=2**60)),
    "huge_numpy_array": good(
        call(
            name("numpy.core.multiarray", "_reconstruct"),
            name("numpy", "ndarray"),
            shape_of(2**50),
            blob(b"b"),
        ),
        4,
    ),
    "nested_loads": benign_loads,
    "deflated_zeros": deflated_zeros,
    "overlapping_members": overlapping_members,
    "million_members_claimed": lambda: (
        b"PK\3\4" + bytes(26) + b"PK\5\6" + struct.pack("<4H2IH", 0, 0, 0xFFFF, 0xFFFF, 2**31, 0, 0)
    ),
}

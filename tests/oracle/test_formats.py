"""The safetensors package and torch as the judges of the formats other than torch's archive."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpt_tools.checkpoint import open_checkpoint, read_checkpoint
from ckpt_tools.checkpoint.stream import stream
from ckpt_tools.container import NewTensor, member_source, read_safetensors, safetensors_archive
from ckpt_tools.container.safetensors import WORDS
from ckpt_tools.findings import CkptError
from ckpt_tools.pickles import Persistent
from ckpt_tools.pickles.emit import emit
from ckpt_tools.source import BytesSource, Source, open_source

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors", minversion="0.8")  # older ones know fewer dtypes

for_numpy, for_torch = map(pytest.importorskip, ("safetensors.numpy", "safetensors.torch"))

from test_safetensors import MALFORMED, entry, file_of  # noqa: E402

from oracle.standins import bits, load, named_tensors  # noqa: E402

LENIENT = {  # what the package reads although its README forbids it, or torch couldn't hold it
    "leading space",
    "same name",
    "same name spelt differently",
    "same metadata",
    "absurd length",  # fits its own integers, but not torch's
    "less than a byte",  # a type torch counts otherwise
}


def whole(source: Source) -> bytes:
    return source.read(0, source.size)


def values(dtype: Any, *shape: int) -> Any:
    """A tensor of any dtype with all kinds of bits in it."""
    torch.manual_seed(0)
    count = torch.empty(shape, dtype=dtype).numel() * dtype.itemsize
    if dtype is torch.bool:
        return torch.randint(2, shape).bool()
    return torch.randint(256, (count,), dtype=torch.uint8).view(dtype).reshape(shape)


def everything() -> dict[str, Any]:
    """Every dtype of the format, in tensors of no, some and many dimensions."""
    held: dict[str, Any] = {}
    for name, _ in WORDS.values():
        dtype = getattr(torch, name)
        held |= {f"{name}.matrix": values(dtype, 3, 5), f"{name}.scalar": values(dtype)}
        held |= {f"{name}.nothing": torch.empty((2, 0), dtype=dtype)}
    return held


def planned(tensors: dict[str, Any]) -> list[NewTensor]:
    made = []
    for name, tensor in tensors.items():
        data = bits(tensor)
        dtype = str(tensor.dtype).removeprefix("torch.")
        made.append(NewTensor(name, dtype, tuple(tensor.shape), BytesSource(data), zlib.crc32(data)))
    return made


def equal(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """The same names, dtypes, shapes and bits."""
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert (tensor.dtype, tensor.shape) == (theirs[name].dtype, theirs[name].shape), name
        assert bits(tensor) == bits(theirs[name]), name


# ---------------------------------------------------------------- safetensors


def test_package_loads_what_we_write(tmp_path: Path) -> None:
    tensors, path = everything(), tmp_path / "w.safetensors"
    path.write_bytes(whole(safetensors_archive(planned(tensors), {"format": "pt", "a": "ü"}, "w")))
    equal(for_torch.load_file(path), tensors)
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", "a": "ü"}
        equal({name: file.get_tensor(name) for name in file.keys()}, tensors)  # noqa: SIM118


def test_package_loads_what_we_write_into_numpy() -> None:
    kinds = (torch.float64, torch.float32, torch.float16, torch.int64, torch.uint8, torch.bool)
    tensors = {str(dtype): values(dtype, 2, 3) for dtype in kinds}
    made = for_numpy.load(whole(safetensors_archive(planned(tensors), {}, "w")))
    equal({name: torch.from_numpy(array.copy()) for name, array in made.items()}, tensors)


@pytest.mark.parametrize(
    "metadata", [{}, {"format": "pt"}, {"a\n\x01\x7f": 'ü"\\/\U0001f600'}], ids=["no", "pt", "odd"]
)
def test_files_are_the_package_s_own_byte_for_byte(metadata: dict[str, str]) -> None:
    tensors = {
        **everything(),
        'z"\\\n\x02': torch.ones(2),
        "ÿ": torch.ones(1),
        "\U0001f600": torch.ones(1),
        "": torch.ones(1),
    }
    theirs = for_torch.save(tensors, metadata=metadata or None)
    assert whole(safetensors_archive(planned(tensors), metadata, "w")) == theirs


def test_file_without_tensors_is_the_package_s_own() -> None:
    assert whole(safetensors_archive([], {}, "w")) == for_torch.save({})


def test_what_the_package_writes_is_read(tmp_path: Path) -> None:
    tensors, path, metadata = everything(), tmp_path / "w.safetensors", {"format": "pt", "b": "c", "": "\n"}
    for_torch.save_file(tensors, path, metadata)
    with open_source(path) as source:
        found = read_safetensors(source)
        assert found.metadata == metadata
        assert found.tensors.keys() == tensors.keys()
        for name, held in found.tensors.items():
            assert (f"torch.{held.dtype}", held.shape) == (str(tensors[name].dtype), tuple(tensors[name].shape))
            assert source.read(held.offset, held.size) == bits(tensors[name])


@pytest.mark.parametrize("case", MALFORMED)
def test_what_we_refuse_the_package_refuses(case: str) -> None:
    data, _ = MALFORMED[case]
    with pytest.raises(CkptError):
        read_safetensors(BytesSource(data))
    if case in LENIENT:
        safetensors.deserialize(data)
    else:
        with pytest.raises(safetensors.SafetensorError):
            safetensors.deserialize(data)


ENTRIES = st.builds(
    entry,
    st.sampled_from([*WORDS, "F4", "u8"]),
    st.lists(st.integers(0, 2), max_size=3),
    st.lists(st.sampled_from([0, 0, 1, 2, 4]), min_size=2, max_size=2),
)


@given(header=st.dictionaries(st.sampled_from("abc"), ENTRIES, max_size=3), data=st.binary(max_size=4))
def test_whatever_is_read_the_package_reads_the_same(header: dict[str, Any], data: bytes) -> None:
    made = file_of(header, data)
    try:
        theirs = dict(safetensors.deserialize(made))
    except safetensors.SafetensorError:
        with pytest.raises(CkptError):
            read_safetensors(BytesSource(made))
        return
    if any(held["dtype"] == "F4" for held in theirs.values()):
        return
    ours = read_safetensors(BytesSource(made)).tensors
    assert {name: (WORDS[held["dtype"]][0], tuple(held["shape"]), held["data"]) for name, held in theirs.items()} == {
        name: (held.dtype, held.shape, made[held.offset :][: held.size]) for name, held in ours.items()
    }


# ---------------------------------------------------------------- the legacy stream


def with_six_parts(node: Persistent) -> object:
    """The id of a storage as the stream wants it: with a last part for views."""
    assert isinstance(node.id, tuple)
    return (*node.id, None) if len(node.id) == 5 else node.id


def streamed(path: Path) -> bytes:
    """A checkpoint of any kind as a legacy stream."""
    with open_checkpoint(path) as checkpoint:
        container = checkpoint.container
        assert container is not None
        assert checkpoint.pickle is not None
        storages = {}
        for key, (storage, _) in checkpoint.storages.items():
            held = container.storage(key)
            assert held is not None
            storages[key] = (storage.numel, member_source(container.source, held), held.crc)
        return whole(stream(emit(checkpoint.pickle.root, with_six_parts), storages, "new.pt"))


def content() -> dict[str, Any]:
    """Tensors of many dtypes, some of which share a storage."""
    base = torch.arange(24, dtype=torch.float32)
    shared = {"base": base, "view": base.view(4, 6)[1:, ::2], "again": base, "turned": base.view(4, 6).t()}
    kinds = (torch.bfloat16, torch.float16, torch.int64, torch.bool, torch.uint8, torch.complex64, torch.float64)
    many = {str(dtype): values(dtype, 2, 3) for dtype in kinds}
    parameter = torch.nn.Parameter(torch.randn(3))
    return {**shared, **many, "scalar": torch.tensor(7), "nothing": torch.empty(0, 3), "parameter": parameter}


@pytest.mark.parametrize("zipped", [True, False], ids=["archive", "stream"])
@pytest.mark.parametrize("by_path", [True, False], ids=["file", "buffer"])
def test_torch_loads_the_stream_we_write(tmp_path: Path, zipped: bool, by_path: bool) -> None:
    old, new = tmp_path / "old.pt", tmp_path / "new.pt"
    torch.save({"model": content(), "epoch": 3}, old, _use_new_zipfile_serialization=zipped)
    new.write_bytes(streamed(old))
    with new.open("rb") as file:
        loaded = torch.load(new if by_path else file, weights_only=True)
    assert loaded["epoch"] == 3
    equal(loaded["model"], content())
    assert all(loaded["model"][name].stride() == tensor.stride() for name, tensor in content().items())
    places = {loaded["model"][name].untyped_storage().data_ptr() for name in ("base", "view", "again", "turned")}
    assert len(places) == 1


@pytest.mark.parametrize("name", ["legacy-format", "plain-loop", "ultralytics-8.4-interrupted-sgd"])
def test_checkpoints_are_the_same_as_streams(tmp_path: Path, fixtures: Path, name: str) -> None:
    old, new = fixtures / f"{name}.pt", tmp_path / "new.pt"
    new.write_bytes(streamed(old))
    tensors = dict(named_tensors(load(old)))
    assert len(tensors) > 4
    equal(dict(named_tensors(load(new))), tensors)


def test_stream_differs_from_torch_s_own_in_nothing_that_is_read(tmp_path: Path) -> None:
    path = tmp_path / "old.pt"
    torch.save(content(), path, _use_new_zipfile_serialization=False)
    before, after = read_checkpoint(BytesSource(path.read_bytes())), read_checkpoint(BytesSource(streamed(path)))
    for place in (0, 1, 2, 4):
        assert before.pickles[place][1].root == after.pickles[place][1].root
    ends = [found.pickles[4][1].end for found in (before, after)]
    assert whole(before.source)[ends[0] :] == whole(after.source)[ends[1] :]


def test_names_of_storage_classes_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "old.pt"
    torch.save(content(), path)
    written = read_checkpoint(BytesSource(streamed(path)))
    assert written.pickle is not None
    classes = {ref.name for ref in written.pickle.globals}
    assert {"BFloat16Storage", "BoolStorage", "LongStorage"} <= classes

"""Storages that claim more or less than there is, and views far larger than their storage: no claim costs anything."""

from __future__ import annotations

import math
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from building import Storage, Tensor, optimizer_of, plain_checkpoint, saved, saved_legacy, weights
from conftest import Write
from mending import mend, planned, tensors

from ckpt_tools.source import ZeroSource
from ckpt_tools.verbs.verify import verify

SMALL = 64 << 10  # bytes: what every file here takes, whatever it claims
MEMORY = 1500 << 20  # bytes a command may ask for
FORMATS = pytest.mark.parametrize("make", [saved, saved_legacy], ids=["archive", "stream"])
Make = Callable[[Any], bytes]


def with_claims(*more: int) -> dict[str, Any]:
    """A checkpoint whose momenta are whole, in storages that claim so many elements more than there are."""
    shapes = [held.shape for held in weights().values()]
    state = {
        number: {"momentum_buffer": Tensor(shape, 1.0 + number, numel=math.prod(shape) + extra)}
        for number, (shape, extra) in enumerate(zip(shapes, more))
    }
    return plain_checkpoint(optimizer_state_dict=optimizer_of(weights(), state=state))


def momenta(path: Path) -> list[Any]:
    return [values for name, values in tensors(path).items() if name.startswith("optimizer")]


class TestRepair:
    @FORMATS
    @pytest.mark.parametrize("more", [-1, 1, 1000, 200_000_000, 2**40, 2**62])
    def test_claimed_elements_nobody_sees_are_left_out(
        self, make: Make, more: int, write: Write, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A claim is put right to what is there, exactly; no byte is made up, counted or written for it."""

        def never(source: ZeroSource, offset: int, buffer: memoryview) -> int:
            raise AssertionError("bytes were made up")

        monkeypatch.setattr(ZeroSource, "read_into", never)
        path = write(make(with_claims(more, 0, more, 0)))
        assert verify(path).verdict == "damaged"
        made = mend(path)
        assert made.report.verdict == "resumable"
        assert not [step for step in made.plan.steps if step.loss]
        assert made.path.stat().st_size < SMALL
        assert momenta(made.path) == momenta(write(make(with_claims(0, 0, 0, 0)), "true.pt"))

    def test_bytes_that_make_no_whole_element_are_left_out(self, write: Write) -> None:
        held = Storage(struct.pack("<4f", 1, 2, 3, 4) + b"\1\2\3")
        path = write(plain_checkpoint(extra=Tensor((4,), held, numel=9)))
        made = mend(path)
        assert made.report.verdict == "resumable"

    def test_tensor_that_lost_more_than_can_be_made_up_is_refused(self, write: Write) -> None:
        lost = Tensor((2**50,), [1.0] * 4, numel=2**50)
        path = write(plain_checkpoint(model_state_dict=weights(lost=lost)))
        assert planned(path).refused is not None
        assert "too many to make up" in str(planned(path, keep_corrupt=True).refused)


@pytest.fixture
def bounded(tmp_path: Path, environment: Mapping[str, str]) -> Callable[..., int]:
    """Run ``ckpt`` with little memory, and return its exit code."""
    pytest.importorskip("resource")
    limited = (
        f"import resource, runpy; resource.setrlimit(resource.RLIMIT_AS, ({MEMORY}, {MEMORY})); "
        "runpy.run_module('ckpt_tools', run_name='__main__')"
    )

    def run(*arguments: str | Path) -> int:
        command = [sys.executable, "-c", limited, *map(str, arguments)]
        done = subprocess.run(
            command, cwd=tmp_path, env={**os.environ, **environment}, capture_output=True, timeout=120, check=False
        )
        assert b"Traceback" not in done.stderr
        return done.returncode

    return run


VIEWS = {
    "expanded": Tensor((2**20, 2**20), Storage(struct.pack("<f", 1.5)), stride=(0, 0)),
    "partly": Tensor((4, 2**38), Storage(struct.pack("<4f", 1, 2, 3, 4)), stride=(1, 0)),
    "overlapping": Tensor((2**12, 2**12, 2**12), Storage(bytes(4 * 3 * 2**12)), stride=(1, 1, 1)),
}
COMMANDS = (
    ("verify", "{path}"),
    ("inspect", "{path}", "--tensors", "--stats"),
    ("diff", "{path}", "{other}", "--values"),
    ("repair", "{path}", "--dry-run"),
    ("convert", "{path}", "--to", "safetensors", "-o", "out.safetensors"),
    ("convert", "{path}", "--dtype", "float16", "-o", "out.pt"),
    ("convert", "{path}", "--portable", "-o", "out.pt"),
    ("convert", "{path}", "--to", "zip", "-o", "out.pt"),
    ("convert", "{path}", "--to", "legacy", "-o", "out.pt"),
)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: "-".join((command[0], *command[2:4])).strip("-{}"))
@pytest.mark.parametrize("view", VIEWS)
def test_views_larger_than_memory(
    view: str, command: tuple[str, ...], write: Write, bounded: Callable[..., int], tmp_path: Path
) -> None:
    """A view of a few bytes with 2**40 values is never made whole: refused, or streamed as it is."""
    content = plain_checkpoint(model_state_dict=weights(view=VIEWS[view]))
    places = {"path": str(write(content)), "other": str(write({**content, "epoch": 3}, "other.pt"))}
    assert bounded(*(part.format(**places) for part in command)) in (0, 1)
    assert all(made.stat().st_size < 2 * SMALL for made in tmp_path.iterdir())

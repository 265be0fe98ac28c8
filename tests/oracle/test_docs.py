"""The pages of the documentation do what they say: every command and program on them is run, with the real trainers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from conftest import ROOT
from damage import cut

from oracle.trainer import STOP, Run, Trainer

PAGES = ("save-safely", "before-you-resume", "when-it-broke", "free-disk-space")
BLOCK = re.compile(r"^```(\w+)( no-run)?\n(.*?)^```$", re.M | re.S)
LINK = re.compile(r"\]\(([^)#]*)(#[^)]*)?\)")


def blocks(page: str) -> list[tuple[str, str]]:
    """The language and text of each block of a page that is to be run."""
    text = (ROOT / "docs" / f"{page}.md").read_text("utf-8")
    return [(language, code) for language, skipped, code in BLOCK.findall(text) if not skipped]


@pytest.fixture
def place(tmp_path: Path, trainer: Trainer, page: str) -> Path:
    """A folder as a user has it: a data set, and a run that was killed; in a save, where the page is about that."""
    weights = tmp_path / "runs" / "detect" / "train" / "weights"
    weights.parent.mkdir(parents=True)
    shutil.copytree(trainer.weights(Run()), weights)
    shutil.copy(trainer.data("detect"), tmp_path / "data.yaml")
    for path in weights.iterdir():
        edit = ["ckpt", "repair", str(path), "--set", f"save_dir={weights.parent}", "--in-place", "--force"]
        subprocess.run([sys.executable, "-m", "ckpt_tools", *edit[1:]], check=True, capture_output=True, cwd=ROOT)
        path.with_name(f"{path.name}.bak").unlink()
        an_hour_ago = time.time() - 3600
        os.utime(path, (an_hour_ago, an_hour_ago))
    if page == "when-it-broke":
        last = weights / "last.pt"
        last.write_bytes(cut(last.read_bytes(), last.stat().st_size * 2 // 3))
    return tmp_path


@pytest.mark.parametrize("page", PAGES)
def test_page_can_be_followed(page: str, place: Path, trainer: Trainer, environment: Mapping[str, str]) -> None:
    bin_folder = place / "bin"
    bin_folder.mkdir()
    for name in ("yolo", "python"):
        (bin_folder / name).symlink_to(Path(sys.executable).parent / name)
    (bin_folder / "ckpt").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ckpt_tools "$@"\n', encoding="utf-8")
    (bin_folder / "ckpt").chmod(0o755)
    ours = {**environment, **trainer.environment, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}
    ours["PYTHONPATH"] = str(ROOT)
    del ours["PYTEST_CURRENT_TEST"]  # the trainer would write elsewhere
    ours["YOLO_CONFIG_DIR"] = str(place / "settings")
    (place / "settings").mkdir()
    subprocess.run(
        ["yolo", "settings", f"runs_dir={place / 'runs'}"], env=ours, cwd=place, check=True, capture_output=True
    )
    assert blocks(page)
    for language, code in blocks(page):
        script = place / f"block.{language}"
        script.write_text(code, encoding="utf-8")
        command = ["bash", "-eu", str(script)] if language == "bash" else [sys.executable, str(script)]
        done = subprocess.run(
            command,
            cwd=place,
            env=ours,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{code}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"


@pytest.mark.parametrize("page", [*(f"docs/{page}" for page in PAGES), "README", "README.zh-CN"])
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / f"{page}.md"
    for target, anchor in LINK.findall(path.read_text("utf-8")):
        if "://" in target:
            continue
        there = path.parent / target if target else path
        assert there.exists(), target
        if anchor and there.suffix == ".md":
            titles = re.findall(r"^#+ (.*)$", there.read_text("utf-8"), re.M)
            anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
            assert anchor[1:] in anchors, anchor


def test_state_of_the_run_the_pages_begin_with() -> None:
    assert STOP == 1  # before-you-resume and when-it-broke name epoch0.pt and epoch1.pt

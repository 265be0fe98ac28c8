"""What other machines and this one make of a file: notes by default, part of the verdict with ``here``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from building import (
    Called,
    Name,
    Storage,
    Tensor,
    plain_checkpoint,
    stripped_checkpoint,
    ultralytics_checkpoint,
    weights,
)
from conftest import Verify, Write

from ckpt_tools.checks import machine
from ckpt_tools.findings import CkptError, Verdict
from ckpt_tools.verbs.verify import verify


def messages(report: Any) -> dict[str, str]:
    return {fact.slug: fact.message for fact in report.findings}


PORTABILITY: dict[str, tuple[Any, str, str]] = {
    "tensors of a GPU": ({"x": Tensor((2,), Storage(bytes(8), location="cuda:1"))}, "device-tags", "cuda:1"),
    "path objects": ({"x": Called("pathlib", "PosixPath", ("/data",))}, "path-objects", "PosixPath"),
    "numpy 2 names": ({"x": Name("numpy._core.multiarray", "scalar")}, "numpy2-names", "numpy 2"),
    "dill": ({"x": Called("dill._dill", "_load_type", ("dict",))}, "dill-names", "dill"),
    "local paths": ({"args": {"data": "/home/me/data.yaml", "epochs": 9, "lr": 1}}, "local-paths", "data"),
    "Windows paths": ({"args": {"data": "C:\\me\\data.yaml", "epochs": 9, "lr": 1}}, "local-paths", "data"),
    "git origin": ({"git": {"origin": "git@host:me/secret.git"}}, "git-origin", "secret.git"),
}


@pytest.mark.parametrize("case", PORTABILITY)
def test_what_hinders_moving_a_file_is_told_and_never_decides(case: str, verified: Verify) -> None:
    changes, slug, told = PORTABILITY[case]
    report = verified(plain_checkpoint(**changes))
    assert told in messages(report)[slug]
    assert report.verdict is Verdict.RESUMABLE


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module."])
def test_prefixes_of_wrappers_are_a_note(prefix: str, verified: Verify) -> None:
    report = verified({prefix + name: tensor for name, tensor in weights().items()})
    assert messages(report)["name-prefix"].endswith(prefix)
    assert "name-prefix" not in messages(verified(weights()))


class TestSaveDir:
    def test_a_file_in_its_own_run_folder_is_fine(self, write: Write, tmp_path: Path) -> None:
        args = {"epochs": 5, "optimizer": "SGD", "save_dir": str(tmp_path / "run")}
        path = write(ultralytics_checkpoint(train_args=args), "run/weights/last.pt")
        assert "saves-elsewhere" not in messages(verify(path))

    def test_a_file_that_was_moved_is_a_warning(self, write: Write, tmp_path: Path) -> None:
        args = {"epochs": 5, "optimizer": "SGD", "save_dir": str(tmp_path / "run")}
        report = verify(write(ultralytics_checkpoint(train_args=args), "copy/weights/last.pt"))
        assert report.verdict is Verdict.RESUMABLE
        assert str(tmp_path / "run") in messages(report)["saves-elsewhere"]


@pytest.fixture
def furnished(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which every package is installed, and no trainer version is known."""
    monkeypatch.setattr(machine, "_spec", lambda name: True)
    monkeypatch.setattr(machine, "installed_version", lambda trainer: None)


@pytest.mark.usefixtures("furnished")
class TestHere:
    def data_yaml(self, folder: Path, text: str) -> str:
        (folder / "images").mkdir(exist_ok=True)
        (folder / "data.yaml").write_text(text)
        return str(folder / "data.yaml")

    def check(self, write: Write, **args: Any) -> Any:
        return verify(write(ultralytics_checkpoint(train_args={"epochs": 5, "optimizer": "SGD", **args})), here=True)

    def test_missing_data_set(self, write: Write, tmp_path: Path) -> None:
        report = self.check(write, data=str(tmp_path / "none.yaml"))
        assert report.verdict is Verdict.INCOMPLETE
        assert "none.yaml" in messages(report)["data-missing"]
        assert "data-missing" not in messages(verify(write(ultralytics_checkpoint())))

    def test_data_set_that_fits(self, write: Write, tmp_path: Path) -> None:
        data = self.data_yaml(tmp_path, "path: .\ntrain: images\nnames: {0: a, 1: b}\n")
        assert self.check(write, data=data).verdict is Verdict.RESUMABLE

    def test_data_set_whose_root_is_gone(self, write: Write, tmp_path: Path) -> None:
        data = self.data_yaml(tmp_path, f"path: {(tmp_path / 'gone').as_posix()}\ntrain: images\nnames: [a, b]\n")
        assert "gone" in messages(self.check(write, data=data))["data-missing"]

    def test_data_set_with_other_classes(self, write: Write, tmp_path: Path) -> None:
        data = self.data_yaml(tmp_path, "path: .\ntrain: images\nnames: [a, b, c]\n")
        assert "3 classes, the model 2" in messages(self.check(write, data=data))["class-count-here"]

    @pytest.mark.parametrize("text", ["names: [", "- just\n- a list\n", "", "\0"])
    def test_broken_data_yaml_is_no_trouble(self, text: str, write: Write, tmp_path: Path) -> None:
        assert self.check(write, data=self.data_yaml(tmp_path, text)).verdict is not None

    @pytest.mark.parametrize(
        ("device", "present", "missing"),
        [("0", 1, False), ("1", 1, True), ("0,1", 2, False), ([0, 1], 1, True), ("cpu", 0, False), (None, 0, False)],
    )
    def test_device(
        self, device: Any, present: int, missing: bool, write: Write, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(machine, "_cuda_devices", lambda: present)
        assert ("device-missing" in messages(self.check(write, device=device))) is missing

    def test_missing_packages_are_named(self, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(machine, "_spec", lambda name: name != "ultralytics")
        report = self.check(write)
        assert report.verdict is Verdict.INCOMPLETE
        assert messages(report)["package-missing"].endswith("ultralytics")

    def test_little_disk_space_is_a_warning(self, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
        from collections import namedtuple

        usage = namedtuple("usage", "total used free")
        monkeypatch.setattr("shutil.disk_usage", lambda folder: usage(10, 9, 1))
        report = verify(write(stripped_checkpoint()), here=True)
        assert "disk-nearly-full" in messages(report)


def test_an_interpreter_that_is_none_is_an_error() -> None:
    with pytest.raises(CkptError, match="--python"):
        machine.installed_packages(["torch"], "/no/such/python")


def test_packages_are_looked_for_not_imported() -> None:
    found, _ = machine.installed_packages(["antigravity", "no_such_package"], None)
    assert found == {"antigravity": True, "no_such_package": False}

"""Configurations from outside: which kind a file is, and how typed settings are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ckpt_tools.configs import parse_setting, read_config
from ckpt_tools.findings import CkptError

CONTENTS = {
    "config": "lr0: 0.02\nepochs: 50\n",
    "data": "path: /data\ntrain: images/train\nval: images/val\nnames: [a, b]\n",
    "model": "nc: 80\nbackbone:\n- [-1, 1, Conv, [64, 3, 2]]\nhead:\n- [[0], 1, Detect, [nc]]\n",
    "args": "task: detect\nmode: train\nmodel: yolo11n.yaml\nepochs: 5\nsave_dir: runs/detect/train\n",
}


class TestKinds:
    @pytest.mark.parametrize("kind", CONTENTS)
    def test_a_file_is_known_by_its_content(self, kind: str, tmp_path: Path) -> None:
        path = tmp_path / "new.yaml"
        path.write_text(CONTENTS[kind], encoding="utf-8")
        assert read_config([str(path)]).kind == kind

    def test_what_a_training_run_calls_val_makes_no_data_yaml(self, tmp_path: Path) -> None:
        path = tmp_path / "new.yaml"
        path.write_text("val: true\nlr0: 0.1\n", encoding="utf-8")
        assert read_config([str(path)]).kind == "config"

    @pytest.mark.parametrize("name", ["opt.yaml", "hyp.yaml", "args.yaml"])
    def test_a_file_of_a_run_is_known_by_its_name(self, name: str, tmp_path: Path) -> None:
        path = tmp_path / name
        path.write_text("lr0: 0.1\n", encoding="utf-8")
        assert read_config([str(path)]).kind == "args"

    def test_the_user_knows_better(self, tmp_path: Path) -> None:
        path = tmp_path / "new.yaml"
        path.write_text(CONTENTS["config"], encoding="utf-8")
        assert read_config([str(path)], "data").kind == "data"

    def test_settings_lie_on_top_of_a_file(self, tmp_path: Path) -> None:
        path = tmp_path / "new.yaml"
        path.write_text(CONTENTS["config"], encoding="utf-8")
        config = read_config([str(path), "epochs=7"])
        assert config.values == {"lr0": 0.02, "epochs": 7}
        assert read_config([f"cfg={path}", "epochs=7"]).values == config.values

    @pytest.mark.parametrize("texts", [["batch", "=", "8"], ["batch=", "8"], ["batch", "=8"], ["batch=8,"]])
    def test_spaces_and_commas_are_read_as_the_trainer_does(self, texts: list[str]) -> None:
        assert read_config(texts).values == {"batch": 8}

    def test_a_folder_called_train_is_no_file_of_settings(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "train").mkdir()
        monkeypatch.chdir(tmp_path)
        assert read_config(["train", "batch=8"]).values == {"batch": 8}

    def test_a_command_line_can_be_pasted_whole(self) -> None:
        config = read_config(["yolo", "detect", "train", "resume", "batch=8"])
        assert (config.kind, config.values) == ("inline", {"batch": 8})

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            ("[1, 2]", "no settings"),
            ("", "no settings"),
            ("a: [1", "can't be read as YAML"),
            ("a: !!python/object/apply:os.getcwd []", "can't be read as YAML"),
            ("1: 2", "the name 1 is no text"),
            ("a: &a [*a]", "too many values"),
            (
                "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a]\n"
                "c: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b]\nd: &d [*c, *c, *c, *c, *c, *c, *c, *c, *c]\n"
                "e: &e [*d, *d, *d, *d, *d, *d, *d, *d, *d]\nf: [*e, *e, *e, *e, *e, *e, *e, *e, *e]\n",
                "too many values",
            ),
            ("a: " + "[" * 60 + "]" * 60, "too many values"),
        ],
    )
    def test_a_file_without_settings_is_refused(self, content: str, words: str, tmp_path: Path) -> None:
        path = tmp_path / "new.yaml"
        path.write_text(content, encoding="utf-8")
        with pytest.raises(CkptError, match=words):
            read_config([str(path)])

    @pytest.mark.parametrize("texts", [["nowhere.yaml"], ["lr0"], ["lr0=1", "nothing"]])
    def test_what_is_neither_is_refused(self, texts: list[str]) -> None:
        with pytest.raises(CkptError, match=r"neither a file that exists nor KEY=VALUE"):
            read_config(texts)


class TestTypedSettings:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("x=5", 5),
            ("x=1e-3", 0.001),
            ("x=-0.5", -0.5),
            ("x=True", True),
            ("x=false", False),
            ("x=None", None),
            ("x=", ""),
            ("x=[1,2]", [1, 2]),
            ("x=(0.5, 1)", [0.5, 1]),
            ("x=[cat, dog]", ["cat", "dog"]),
            ("x=0,1", [0, 1]),
            ("x=SGD", "SGD"),
            ("x='5'", "5"),
            ("x=a=b", "a=b"),
            ("x=C:\\runs\\train", "C:\\runs\\train"),
            ("--x=5", 5),
        ],
    )
    def test_values_are_read_as_trainers_read_them(self, text: str, value: Any) -> None:
        key, read = parse_setting(text)
        assert (key, read, type(read)) == ("x", value, type(value))

    @pytest.mark.parametrize("text", ["x", "=5", "x=[1", "x={a"])
    def test_what_can_not_be_read_is_refused(self, text: str) -> None:
        with pytest.raises(CkptError):
            parse_setting(text, "--set")

    def test_dotted_names_are_rooms(self) -> None:
        assert read_config(["train.lr=0.1", "train.wd=0", "seed=1"]).values == {
            "train": {"lr": 0.1, "wd": 0},
            "seed": 1,
        }
        with pytest.raises(CkptError, match="a value of its own"):
            read_config(["train=1", "train.lr=0.1"])

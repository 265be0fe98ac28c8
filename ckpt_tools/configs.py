"""Configurations from outside: yaml files of every kind a training run reads, and settings typed as KEY=VALUE."""

from __future__ import annotations

import ast
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ckpt_tools.findings import CkptError
from ckpt_tools.sidefiles import read_yaml, yaml_of

__all__ = ["KINDS", "Config", "is_yaml", "parse_setting", "read_config", "read_settings"]

LONGEST_INTEGER = 256  # bits of a typed one
OPENERS = frozenset("[{\"'")  # what begins with one of these is no bare word
WORDS = {"none": None, "null": None, "true": True, "false": False}
# Bare words of `yolo TASK MODE …`, for command lines that are pasted whole.
BARE = frozenset("yolo train resume detect segment classify pose obb semantic depth".split())

# The kinds of configuration, and what each is called; the order is the one they are recognised in.
KINDS = {
    "model": "a model yaml",
    "data": "a data yaml",
    "args": "the settings of a run",
    "config": "a training config",
    "inline": "settings of the command line",
}
FILES_ONLY = ("model", "data")
RUN_FILES = ("args.yaml", "opt.yaml", "hyp.yaml", "hparams.yaml")


def _layers(content: Mapping[str, Any]) -> bool:
    return any(isinstance(content.get(key), list) for key in ("backbone", "head"))


def _data_set(content: Mapping[str, Any]) -> bool:
    splits = sum(isinstance(content.get(key), (str, list)) for key in ("train", "val", "test"))
    return isinstance(content.get("names"), (list, dict)) or (splits > 0 and not content.keys() & {"epochs", "lr0"})


def _whole_run(content: Mapping[str, Any]) -> bool:
    return "save_dir" in content or {"task", "mode", "model", "epochs"} <= content.keys()


SIGNS: dict[str, Callable[[Mapping[str, Any]], bool]] = {"model": _layers, "data": _data_set, "args": _whole_run}


@dataclass(frozen=True)
class Config:
    """Settings with their ``kind`` (a key of :data:`KINDS`), what to call them, and the file they are from."""

    kind: str
    name: str
    values: Mapping[str, Any]
    path: Path | None = None
    overrides: frozenset[str] = field(default_factory=frozenset)  # keys that were typed, not read from the file
    texts: tuple[str, ...] = ()  # what was typed, word by word

    def over(self, defaults: Mapping[str, Any]) -> Config:
        """The same, what it leaves out filled from ``defaults``."""
        return replace(self, values={**defaults, **self.values}) if defaults else self


def is_yaml(path: Path) -> bool:
    """Whether a file of settings is meant, not a checkpoint."""
    return path.suffix.lower() in (".yaml", ".yml", ".json")


def read_settings(path: Path) -> dict[str, Any]:
    """The settings of a yaml file (JSON is yaml); raises ``CkptError`` for a file that holds none."""
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise CkptError(f"{path} holds no settings (a mapping of names to values); name an args.yaml")
    odd = next((key for key in content if not isinstance(key, str)), None)
    if odd is not None:
        raise CkptError(f"{path}: the name {odd!r} is no text; put it in quotes")
    return content


def parse_setting(text: str, option: str = "") -> tuple[str, Any]:
    """``KEY=VALUE`` with the value as trainers read it on their command line: a number, a word, a list, else text.

    Unlike in YAML, ``1e-3`` is a number. Raises ``CkptError`` where there is no key or no equals sign.
    """
    key, sign, value = text.partition("=")
    key, value = key.strip().lstrip("-"), value.strip()
    if not sign or not key:
        shown = f"{option} {text!r}" if option else repr(text)
        example = f"{option} epochs=200" if option else "epochs=200"
        raise CkptError(f"{shown} is not KEY=VALUE; write e.g. {example}")
    if value.lower() in WORDS:
        return key, WORDS[value.lower()]
    try:
        read = ast.literal_eval(value)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        read = _yaml_value(text, value) if value[:1] in OPENERS else value
    known = isinstance(read, (str, int, float, list, tuple, dict, type(None)))
    known = known and not (isinstance(read, int) and read.bit_length() > LONGEST_INTEGER)
    return key, (list(read) if isinstance(read, tuple) else read) if known else value


def _yaml_value(text: str, value: str) -> Any:
    """A list or mapping of bare words, which are texts in YAML."""
    try:
        return yaml_of(value)
    except ValueError as error:
        raise CkptError(f"{text!r}: the value can't be read ({error}); put it in quotes") from error


def read_config(texts: Sequence[str], kind: str | None = None) -> Config:
    """What the user compares with: a yaml file, ``KEY=VALUE`` settings, or a file with settings on top of it.

    ``kind`` overrules what the content looks like. Raises ``CkptError`` for a path that can't be read, a word that is
    neither, and more than one file.
    """
    words = [text for text in _joined(texts) if text not in BARE]
    files = [text for text in words if os.path.lexists(os.path.expanduser(text))]
    typed = [text for text in words if text not in files]
    lost = next((text for text in typed if "=" not in text), None)
    if lost is not None:
        raise CkptError(f"{lost} is neither a file that exists nor KEY=VALUE; check the path")
    settings = dict(parse_setting(text) for text in typed)
    if isinstance(settings.get("cfg"), str) and not files:
        files = [str(settings.pop("cfg"))]
    if len(files) > 1:
        raise CkptError(f"{files[0]} and {files[1]}: a checkpoint is compared with one file; leave one of them out")
    if not files and kind in FILES_ONLY:
        raise CkptError(f"--as {kind} needs a file, not settings; name the yaml")
    if not files:
        return Config(kind or "inline", " ".join(typed), _nested(settings), None, frozenset(settings), tuple(texts))
    path = Path(os.path.expanduser(files[0]))
    if os.path.isdir(path):
        raise CkptError(f"{path} is a folder; name the yaml or the checkpoint in it")
    content = {**read_settings(path), **_nested(settings)}
    name = " ".join([str(path), *typed])
    return Config(kind or kind_of(content, path), name, content, path, frozenset(settings), tuple(texts))


def _joined(texts: Sequence[str]) -> list[str]:
    """Words as the trainers' command line takes them: spaces around an equals sign and commas behind a word go."""
    words: list[str] = []
    for text in texts:
        if words and (text.startswith("=") or words[-1].endswith("=")) and not os.path.lexists(text):
            words[-1] += text
        else:
            words.append(text)
    return [word.removesuffix(",") if "=" in word else word for word in words]


def kind_of(content: Mapping[str, Any], path: Path) -> str:
    """Which kind of configuration this is, by its content, else by its name."""
    found = next((kind for kind, sign in SIGNS.items() if sign(content)), None)
    return found or ("args" if path.name in RUN_FILES else "config")


def _nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted names (``train.lr=0.1``) as nested mappings."""
    made: dict[str, Any] = {}
    for name, value in settings.items():
        *rooms, last = name.split(".")
        place = made
        for room in rooms:
            place = place.setdefault(room, {})
            if not isinstance(place, dict):
                raise CkptError(f"{name}: {room} has a value of its own; leave one of them out")
        place[last] = value
    return made

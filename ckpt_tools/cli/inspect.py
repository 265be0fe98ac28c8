"""``ckpt inspect``: what is inside a checkpoint, at a glance or in full."""

from __future__ import annotations

import math
from typing import Annotated, Any

import typer

from ckpt_tools.cli.guard import NO, YES
from ckpt_tools.cli.render import COLOURS, bytes_text, paint, print_json, say, shown, table
from ckpt_tools.findings import CkptError

__all__ = ["inspect"]

TIER_COLOURS = {"known": None, "mentioned": None, "unknown": "yellow", "dangerous": "red"}


def inspect(
    file: Annotated[str, typer.Argument(help="A checkpoint.", show_default=False)],
    pattern: Annotated[str, typer.Argument(help="With --tensors: only names that match.")] = "*",
    tree: Annotated[bool, typer.Option("--tree", help="The structure of the file.")] = False,
    depth: Annotated[int, typer.Option(min=1, max=20, help="With --tree: levels to open.")] = 3,
    tensors: Annotated[bool, typer.Option("--tensors", help="Every tensor with dtype, shape and bytes.")] = False,
    stats: Annotated[
        bool, typer.Option("--stats", help="With --tensors: min, max, mean, std, zeros, non-finite.")
    ] = False,
    args: Annotated[bool, typer.Option("--args", help="The saved training arguments.")] = False,
    globals_: Annotated[bool, typer.Option("--globals", help="Every name loading it would import.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> int:
    """Show what is inside a checkpoint, without loading it."""
    from ckpt_tools import api
    from ckpt_tools.verbs import inspect as look

    with api.open(file) as opened:
        checkpoint = opened.checkpoint
        content: dict[str, Any] = look.overview(checkpoint)
        if tree:
            content["tree"] = list(look.tree(checkpoint, depth))
        if tensors or stats:
            content["tensors"] = [_tensor(tensor, stats) for tensor in look.select_tensors(opened, pattern)]
        if args:
            content["args"] = look.args_table(checkpoint)
        if globals_:
            content["globals"] = look.globals_table(checkpoint)
    if json_:
        print_json("inspect", content)
    else:
        _print(content)
    return YES if content["layout"] is not None else NO


def _tensor(tensor: Any, stats: bool) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": tensor.name,
        "dtype": tensor.dtype,
        "shape": list(tensor.shape),
        "bytes": tensor.nbytes,
        "device": tensor.device,
    }
    if stats:
        try:
            found = tensor.stats()
            numbers = {key: getattr(found, key) for key in ("minimum", "maximum", "mean", "std", "zeros", "nonfinite")}
            row["stats"] = {
                key: None if isinstance(value, float) and math.isnan(value) else value for key, value in numbers.items()
            }
        except CkptError as error:
            row["error"] = str(error)
    return row


def _print(content: dict[str, Any]) -> None:
    asked = [name for name in ("tree", "tensors", "args", "globals") if name in content]
    if not asked:
        _print_overview(content)
    for line in content.get("tree", ()):
        say(shown(line))
    if "tensors" in content:
        _print_tensors(content["tensors"])
    for key, value in content.get("args", {}).items():
        say(f"{shown(key)}: {shown(value)}")
    for row in content.get("globals", ()):
        tier = paint(f"{row['tier']:<9}", TIER_COLOURS[row["tier"]])
        use = "called" if row["called"] else "named "
        say(f"{tier} {row['count']:>5} {use} {shown(row['name'])} [{shown(row['where'])}]")


def _print_overview(content: dict[str, Any]) -> None:
    say(f"{shown(content['path'])}: {bytes_text(content['size'])}, {shown(content['kind'])}")
    if content["layout"] is None:
        say(f"  first bytes: {content.get('first_bytes', '')}")
    else:
        version = f" {content['version']}" if content["version"] else ""
        say(f"  layout   {shown(content['layout'])}{shown(version)}")
    if content["epoch"] is not None:
        of = f" of {content['epochs']}" if content["epochs"] is not None else ""
        say(f"  epoch    {content['epoch']}{of}")
    for key in ("step", "date"):
        if content[key] is not None:
            say(f"  {key:<8} {shown(content[key])}")
    if content["averaged"]:
        say("  model    holds the averaged (EMA) weights")
    for name, value in content["metrics"].items():
        say(
            f"  metric   {shown(name)} = {value:.5g}"
            if isinstance(value, (int, float))
            else f"  metric   {shown(name)} = {shown(value)}"
        )
    if content["parts"]:
        _print_parts(content["parts"])
    if content["ledger"] is not None:
        _print_ledger(content["ledger"])
    for fact in content["findings"]:
        say(f"  {paint(fact['severity'], COLOURS[fact['severity']])} {fact['code']} {fact['slug']}: {fact['message']}")


def _print_ledger(ledger: dict[str, Any]) -> None:
    """What a repair wrote into the file about itself; the text is the file's, so every bit of it may be odd."""

    def entries(key: str) -> list[dict[str, Any]]:
        listed = ledger.get(key)
        return [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []

    done = "converted" if ledger.get("command") == "convert" else "repaired"
    say(f"  {done} by {shown(ledger.get('tool'))} on {shown(ledger.get('written'))}")
    for source in entries("sources"):
        name, size, epoch = (shown(source.get(key)) for key in ("name", "size", "epoch"))
        crc = f", object graph {shown(source['data_pkl_crc32'])}" if source.get("data_pkl_crc32") else ""
        say(f"    from {name} ({size} bytes, epoch {epoch}{crc})")
    for step in entries("steps"):
        say(f"    - {shown(step.get('text'))}{' (loss)' if step.get('loss') else ''}")
    rows = [
        [shown(part.get(key)) for key in ("path", "outcome", "source", "kept", "tensors", "digest")]
        for part in entries("parts")
    ]
    if rows:
        table(["part", "outcome", "source", "kept", "tensors", "digest"], rows, {3, 4})


def _print_parts(parts: list[dict[str, Any]]) -> None:
    rows = []
    for part in parts:
        dtypes, devices = ", ".join(part["dtypes"][:3]), ", ".join(part["devices"][:3])
        size = bytes_text(part["bytes"]) if part["tensors"] else "-"
        role = "-" if part["role"] == "other" else part["role"]
        rows.append(
            [
                shown(part["path"] or "."),
                role,
                part["form"],
                str(part["tensors"]),
                f"{part['parameters']:,}",
                size,
                dtypes,
                shown(devices),
            ]
        )
        if "groups" in part:
            sizes = " + ".join(str(group["parameters"]) for group in part["groups"])
            rows[-1][2] += f" ({sizes})" if len(part["groups"]) <= 12 else f" ({len(part['groups'])} groups)"
    table(["part", "role", "form", "tensors", "parameters", "size", "dtype", "device"], rows, {3, 4, 5})


def _print_tensors(tensors: list[dict[str, Any]]) -> None:
    with_stats = any("stats" in row or "error" in row for row in tensors)
    columns = ["name", "dtype", "shape", "bytes"] + (
        ["min", "max", "mean", "std", "zeros", "non-finite"] if with_stats else []
    )
    rows = []
    for row in tensors:
        line = [shown(row["name"]), row["dtype"], "x".join(map(str, row["shape"])) or "scalar", str(row["bytes"])]
        if with_stats:
            stats = row.get("stats")
            line += [_number(stats[key]) for key in ("minimum", "maximum", "mean", "std")] if stats else ["?"] * 4
            line += [str(stats["zeros"]), str(stats["nonfinite"])] if stats else ["?", "?"]
        rows.append(line)
    table(columns, rows, set(range(3, 10)))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"

"""The commands, each in a file of its own; this one puts them together."""

from __future__ import annotations

from typing import Annotated

import typer

from ckpt_tools import __version__
from ckpt_tools.cli.convert import convert
from ckpt_tools.cli.diff import diff
from ckpt_tools.cli.explain import explain
from ckpt_tools.cli.guard import guarded
from ckpt_tools.cli.inspect import inspect
from ckpt_tools.cli.latest import latest
from ckpt_tools.cli.prune import prune
from ckpt_tools.cli.repair import repair
from ckpt_tools.cli.verify import verify
from ckpt_tools.cli.watch import watch

__all__ = ["app"]

app = typer.Typer(
    name="ckpt",
    help="The fsck for training checkpoints: will it resume, why not, and what to do. Nothing in a file is executed.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        print(f"ckpt {__version__}")
        raise typer.Exit()


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Read any .pt without running it, and say whether it can be resumed."""


app.command("verify")(guarded(verify))
app.command("inspect")(guarded(inspect))
app.command("diff")(guarded(diff))
app.command("repair")(guarded(repair))
app.command("convert")(guarded(convert))
app.command("prune")(guarded(prune))
app.command("latest")(guarded(latest))
app.command("watch")(guarded(watch))
app.command("explain")(guarded(explain))

"""The commands, each in a file of its own; this one puts them together."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

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
from ckpt_tools.findings import LONGEST_MESSAGE, escape

__all__ = ["app"]


class _Group(TyperGroup):
    """What a usage error repeats of the command line may be the name of a file: it is shown escaped."""

    def make_context(self, *args: Any, **more: Any) -> Any:
        with _escaped():
            return super().make_context(*args, **more)

    def invoke(self, *args: Any, **more: Any) -> Any:
        with _escaped():
            return super().invoke(*args, **more)


@contextlib.contextmanager
def _escaped() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        message = getattr(error, "format_message", None)  # of every error of click's, which typer may bring along
        if message is not None:
            text = escape(message(), LONGEST_MESSAGE)
            error.format_message = lambda: text  # type: ignore[attr-defined]
        raise


app = typer.Typer(
    name="ckpt",
    cls=_Group,
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

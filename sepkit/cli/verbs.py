"""The words of the command line, as click reads them."""

from __future__ import annotations

import importlib
import math
from functools import partial
from typing import Any, Final

import click

from sepkit import __version__
from sepkit.cli import guarded, output

_VERBS: Final = ("run", "inspect", "call", "hook", "event", "command", "complete", "job", "spec", "conformance")


class _Verbs(click.Group):
    def main(self, *args: Any, **extra: Any) -> Any:
        output.make_tolerant()
        return super().main(*args, **extra)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            from sepkit.router import closest

            ctx.fail(f"No such command {cmd_name!r}{closest(cmd_name, _VERBS)}")
        command: click.Command = importlib.import_module(f"sepkit.cli.{cmd_name}").command
        return command

    def invoke(self, ctx: click.Context) -> object:
        try:
            return guarded(partial(super().invoke, ctx))
        except click.MissingParameter as error:
            if error.ctx is not None and (target := error.ctx.params.get("target")):
                hint = f"`{ctx.info_name} inspect {target}` shows what there is."
                raise click.MissingParameter(hint, error.ctx, error.param) from None
            raise


class Seconds(click.FloatRange):
    """A number of seconds, which NaN is not: no comparison refuses that."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number, checked."""
        seconds: float = super().convert(value, param, ctx)
        if math.isnan(seconds):
            self.fail(f"{value!r} is not a number of seconds.", param, ctx)
        return seconds


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sepkit")
def verbs() -> None:
    """Serve, call and inspect extensions of AI agents, written with sepkit."""

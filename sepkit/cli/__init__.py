"""The command line. A verb's module, and what it needs, is imported when the verb is called.

Human text goes to stderr, data to stdout.
"""

from __future__ import annotations

import importlib
import math
import os
from enum import IntEnum
from typing import Any, Final

import click

from sepkit import __version__
from sepkit.cli import output
from sepkit.errors import LoadError


class ExitCode(IntEnum):
    """What a verb exits with."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NO_MODULE = 3
    NO_ATTRIBUTE = 4
    NOT_AN_APP = 5
    IMPORT_FAILED = 6
    BAD_REGISTRATION = 7
    LIFESPAN_ENDED = 8
    INTERRUPTED = 130


_BY_KIND: Final = {
    "usage": ExitCode.USAGE,
    "module": ExitCode.NO_MODULE,
    "attribute": ExitCode.NO_ATTRIBUTE,
    "not-an-app": ExitCode.NOT_AN_APP,
    "import": ExitCode.IMPORT_FAILED,
    "registration": ExitCode.BAD_REGISTRATION,
}

_VERBS: Final = ("run", "inspect", "call", "hook", "event", "command", "complete", "spec", "conformance")


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
            os.getcwd()
        except OSError:
            output.complain("the current folder is not there any more; change to one that is")
            ctx.exit(ExitCode.USAGE)
        try:
            done = super().invoke(ctx)
            output.flush()
        except click.MissingParameter as error:
            if error.ctx is not None and (target := error.ctx.params.get("target")):
                hint = f"`{ctx.info_name} inspect {target}` shows what there is."
                raise click.MissingParameter(hint, error.ctx, error.param) from None
            raise
        except BrokenPipeError:  # the reader has read enough: click ends without a word
            raise
        except OSError as error:
            output.complain(f"the output cannot be written: {error.strerror or error}")
            # What is still in the buffer would fail a second time when the interpreter exits.
            if (stream := output.stdout()) is not None:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            ctx.exit(ExitCode.FAILED)
        return done


class Seconds(click.FloatRange):
    """A number of seconds, which NaN is not: no comparison refuses that."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number, checked."""
        seconds: float = super().convert(value, param, ctx)
        if math.isnan(seconds):
            self.fail(f"{value!r} is no number of seconds.", param, ctx)
        return seconds


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sepkit")
def main() -> None:
    """Serve, call and inspect extensions of AI agents, written with sepkit."""


def fail_to_load(error: LoadError) -> ExitCode:
    """Say on stderr why there is no App; the exit code for it."""
    if error.kind == "import" and error.__cause__ is not None:
        from sepkit.loader import user_traceback

        output.tell(user_traceback(error.__cause__).rstrip("\n"))
    output.complain(str(error))
    return _BY_KIND[error.kind]

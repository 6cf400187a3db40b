"""``sepkit run``: serve an App over stdin and stdout."""

from __future__ import annotations

import logging
import os
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

import click

from sepkit.cli import ExitCode, Seconds, fail_to_load, output
from sepkit.errors import LifespanEnded, LoadError
from sepkit.transports.stdio import claim_stdio

if TYPE_CHECKING:
    from sepkit.app import App


@click.command("run")
@click.argument("target", metavar="MODULE:APP")
@click.option(
    "--loop", "loop_kind", type=click.Choice(["auto", "uvloop", "asyncio"]), default="auto", show_default=True
)
@click.option(
    "--log-level",
    type=click.Choice(["trace", "debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="From which level on lines reach stderr and the host.",
)
@click.option("--max-concurrency", type=click.IntRange(1), default=256, show_default=True, help="Calls at once.")
@click.option("--max-frame-bytes", type=click.IntRange(1024), default=64 * 1024 * 1024, show_default=True)
@click.option("--grace", type=Seconds(0), default=5.0, show_default=True, help="Seconds to finish in.")
def command(
    target: str, loop_kind: str, log_level: str, max_concurrency: int, max_frame_bytes: int, grace: float
) -> None:
    """Serve MODULE:APP to the host at stdin and stdout.

    It is a module, or a file: app:app, path/to/app.py:app.
    """
    if loop_kind == "uvloop" and find_spec("uvloop") is None:
        raise click.UsageError("uvloop is not installed; install it, or leave --loop at auto")
    wire = claim_stdio()  # before the author's code can write to it
    try:
        # Only now: what is imported here takes most of the start's time, and `sepkit --help` needs none of it.
        from sepkit.faces.runner import exit_soon, install_stderr_log, run
        from sepkit.loader import load
        from sepkit.serving.logs import TRACE
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)

    stderr = install_stderr_log(TRACE if log_level == "trace" else logging.getLevelNamesMapping()[log_level.upper()])
    try:
        app = load(target)
        if wire.read_fd is not None and os.isatty(wire.read_fd):
            _explain(app, target)
        code = run(
            app,
            stderr=stderr,
            loop_kind=loop_kind,  # type: ignore[arg-type]  # click has checked it
            max_concurrency=max_concurrency,
            max_frame_bytes=max_frame_bytes,
            grace=grace,
        )
    except LoadError as error:
        code = fail_to_load(error)
        stderr.flush_within(0.5)
    except LifespanEnded:
        code = ExitCode.LIFESPAN_ENDED
    except KeyboardInterrupt:  # the loop had not taken the signal over yet
        code = ExitCode.INTERRUPTED
    exit_soon(code)
    sys.exit(code)


def _explain(app: App, target: str) -> None:
    """Tell a person at a terminal, who sees nothing happen, what is waited for and what to type."""
    from sepkit.app import ways_to_try

    output.tell(
        f"sepkit: {app.name} {app.version} waits for a host: SEP on stdin, one JSON message a line.\n"
        "For a sign of life, type the next line here; Ctrl+D ends it:\n"
        '  {"jsonrpc": "2.0", "id": 1, "method": "ping"}\n'
        "To try it without a host, type one of these in a shell:\n" + "\n".join(ways_to_try(app, target))
    )

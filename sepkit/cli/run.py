"""``sepkit run``: serve an App over stdin and stdout."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

import click

from sepkit.cli.serving import DEFAULTS, LEAST_FRAME_BYTES, LEVELS, LOOPS, serve
from sepkit.cli.verbs import Seconds


@click.command("run")
@click.argument("target", metavar="MODULE:APP")
@click.option("--loop", "loop_kind", type=click.Choice(LOOPS), default=DEFAULTS["loop_kind"], show_default=True)
@click.option(
    "--log-level",
    type=click.Choice(LEVELS),
    default=DEFAULTS["log_level"],
    show_default=True,
    help="From which level on lines reach stderr and the host.",
)
@click.option(
    "--max-concurrency",
    type=click.IntRange(1),
    default=DEFAULTS["max_concurrency"],
    show_default=True,
    help="Calls at once.",
)
@click.option(
    "--max-frame-bytes",
    type=click.IntRange(LEAST_FRAME_BYTES),
    default=DEFAULTS["max_frame_bytes"],
    show_default=True,
)
@click.option("--grace", type=Seconds(0), default=DEFAULTS["grace"], show_default=True, help="Seconds to finish in.")
@click.option("--mcp", is_flag=True, help="Serve to an MCP client instead of a SEP host.")
@click.option(
    "--flag",
    "flags",
    multiple=True,
    metavar="NAME=VALUE",
    callback=lambda ctx, param, words: _flags(words),
    help="Set a flag or a setting; may be given many times.",
)
def command(
    target: str,
    loop_kind: str,
    log_level: str,
    max_concurrency: int,
    max_frame_bytes: int,
    grace: float,
    mcp: bool,
    flags: dict[str, str],
) -> None:
    """Serve MODULE:APP to the host at stdin and stdout.

    It is a module, or a file: app:app, path/to/app.py:app.
    """
    if loop_kind == "uvloop" and find_spec("uvloop") is None:
        raise click.UsageError("uvloop is not installed; install it, or leave --loop at auto")
    serve(target, loop_kind, log_level, max_concurrency, max_frame_bytes, grace, mcp, flags)


def _flags(words: Sequence[str]) -> dict[str, str]:
    """The flags that the words set.

    Raises:
        click.BadParameter: One is not NAME=VALUE, or is set twice.
    """
    found: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not name or not equals:
            raise click.BadParameter(f"{word!a} sets no flag; write NAME=VALUE")
        if name in found:
            raise click.BadParameter(f"the flag {name!a} is set twice; leave one of them out")
        found[name] = value
    return found

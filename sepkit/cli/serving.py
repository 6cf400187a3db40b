"""What ``sepkit run`` does, and its options."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from sepkit.cli import ExitCode, fail_to_load, output
from sepkit.contexts.backend import SECRET, Hidden
from sepkit.errors import BadSettings, LifespanEnded, LoadError, RegistrationError
from sepkit.transports.stdio import claim_stdio

if TYPE_CHECKING:
    from sepkit.app import App
    from sepkit.faces.runner import Face

LOOPS: Final = ("auto", "uvloop", "asyncio")
LEVELS: Final = ("trace", "debug", "info", "warning", "error")
LEAST_FRAME_BYTES: Final = 1024
DEFAULTS: Final[dict[str, Any]] = {
    "loop_kind": "auto",
    "log_level": "info",
    "max_concurrency": 256,
    "max_frame_bytes": 64 * 1024 * 1024,
    "grace": 5.0,
    "mcp": False,
    "flags": {},
}


def understood(words: Sequence[str]) -> dict[str, Any] | None:
    """The arguments of :func:`serve`, where the words are plain: one target, and options that are right.

    None for all else, and click reads them: help, mistakes, other ways to write the same.
    """
    found: dict[str, Any] = {}
    left = iter(words)
    for word in left:
        if word[:1] != "-":
            if "target" in found or not word:
                return None
            found["target"] = word
            continue
        if word == "--mcp" and "mcp" not in found:
            found["mcp"] = True
            continue
        option, equals, text = word.partition("=")
        if option == "--flag":
            flag, has_value, value = (text if equals else next(left, "")).partition("=")
            if not flag or not has_value or flag in found.setdefault("flags", {}):
                return None
            found["flags"][flag] = value
            continue
        name, read = _OPTIONS.get(option, ("", _nothing))
        if name in found or (value := read(text if equals else next(left, ""))) is None:
            return None
        found[name] = value
    return {**DEFAULTS, **found} if "target" in found else None


def _nothing(text: str) -> None:
    return None


def _loop(text: str) -> str | None:
    return text if text in LOOPS and text != "uvloop" else None  # which may not be installed


def _level(text: str) -> str | None:
    return text if text in LEVELS else None


def _whole(least: int) -> Callable[[str], int | None]:
    def read(text: str) -> int | None:
        if not (text.isascii() and text.isdigit() and len(text) < 16):
            return None
        return number if (number := int(text)) >= least else None

    return read


def _seconds(text: str) -> float | None:
    return float(text) if text.isascii() and text.replace(".", "", 1).isdigit() and len(text) < 16 else None


_OPTIONS: Final[dict[str, tuple[str, Callable[[str], Any]]]] = {
    "--loop": ("loop_kind", _loop),
    "--log-level": ("log_level", _level),
    "--max-concurrency": ("max_concurrency", _whole(1)),
    "--max-frame-bytes": ("max_frame_bytes", _whole(LEAST_FRAME_BYTES)),
    "--grace": ("grace", _seconds),
}


def serve(
    target: str,
    loop_kind: str,
    log_level: str,
    max_concurrency: int,
    max_frame_bytes: int,
    grace: float,
    mcp: bool,
    flags: dict[str, str],
) -> None:
    """Serve ``target`` to the host at stdin and stdout, and exit."""
    wire = claim_stdio()  # before the author's code can write to it
    secrets = take_secrets()  # before it can start a child, which would inherit them
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
        face = _mcp_face(app) if mcp else None
        if wire.read_fd is not None and os.isatty(wire.read_fd):
            (_explain_mcp if mcp else _explain)(app, target)
        code = run(
            app,
            stderr=stderr,
            face=face,
            loop_kind=loop_kind,  # type: ignore[arg-type]  # click has checked it
            max_concurrency=max_concurrency,
            max_frame_bytes=max_frame_bytes,
            grace=grace,
            flags=flags,
            secrets=secrets,
        )
    except LoadError as error:
        code = fail_to_load(error)
        stderr.flush_within(0.5)
    except RegistrationError as error:  # of a name or a flag that the face cannot serve
        output.complain(str(error))
        code = ExitCode.BAD_REGISTRATION
        stderr.flush_within(0.5)
    except LifespanEnded:
        code = ExitCode.LIFESPAN_ENDED
    except BadSettings:
        code = ExitCode.BAD_SETTINGS
    except KeyboardInterrupt:  # the loop had not taken the signal over yet
        code = ExitCode.INTERRUPTED
    exit_soon(code)
    sys.exit(code)


def _mcp_face(app: App) -> Face:
    from sepkit.faces.mcp.catalogue import Catalogue
    from sepkit.faces.mcp.face import serve

    Catalogue(app)  # two of its names may be the same to clients
    return serve


def _explain_mcp(app: App, target: str) -> None:
    """Tell a person at a terminal what this is, and how MCP clients come to start it."""
    from sepkit.cli.mcp_clients import ways_to_install

    output.tell(
        f"sepkit: {app.name} {app.version} is an MCP server, and waits for a client: JSON-RPC on stdin, one message a "
        "line.\nClients start it themselves. Ctrl+D ends it. To add it to one:\n"
        + "\n".join(ways_to_install(app.name, target))
    )


def take_secrets() -> Hidden:
    """Take the secrets out of the environment."""
    return Hidden({name: os.environ.pop(name) for name in list(os.environ) if name.startswith(SECRET)})


def _explain(app: App, target: str) -> None:
    """Tell a person at a terminal, who sees nothing happen, what is waited for and what to type."""
    from sepkit.app import ways_to_try

    output.tell(
        f"sepkit: {app.name} {app.version} waits for a host: SEP on stdin, one JSON message a line.\n"
        "For a sign of life, type the next line here; Ctrl+D ends it:\n"
        '  {"jsonrpc": "2.0", "id": 1, "method": "ping"}\n'
        "To try it without a host, type one of these in a shell:\n" + "\n".join(ways_to_try(app, target))
    )

"""What the verbs write: data on stdout, text for people on stderr; in any encoding, and where one of them is closed.

Control characters of what an extension says are shown, also in a pipe, which may end on a terminal. ``--json`` has its
data as it is.
"""

from __future__ import annotations

import sys
from typing import Any, Literal, TextIO

import orjson

from sepkit.terminal import has_colour, is_terminal, painted, visible, visible_json

_stdout: TextIO | None = None  # a private copy, once `keep_clean` has been called


def make_tolerant() -> None:
    """Have stdout and stderr take each character, and stdin each byte: what an encoding lacks becomes an escape."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # None where it is closed, another class where a test has replaced it
            stream.reconfigure(errors="backslashreplace")


def keep_clean() -> TextIO | None:
    """Keep off the output what code of an author's writes to stdout from now on, by whatever means: it is on stderr.

    Returns:
        The process's stdin, which that code does not get either.
    """
    global _stdout
    from sepkit.transports.stdio import claim_stdio

    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    wire = claim_stdio()
    _stdout = _opened(wire.write_fd, "w", encoding)
    return _opened(wire.read_fd, "r", encoding)


def _opened(fd: int | None, mode: Literal["r", "w"], encoding: str) -> TextIO | None:
    return None if fd is None else open(fd, mode, encoding=encoding, errors="backslashreplace", closefd=False)


def stdout() -> TextIO | None:
    """Where data goes; None where stdout is closed."""
    return _stdout or sys.stdout


def write(text: str) -> None:
    """Write a line of our own."""
    if (stream := stdout()) is not None:
        stream.write(f"{text}\n")


def write_content(text: str) -> None:
    """Write what an extension has answered."""
    write(visible(text))


def write_json(value: Any) -> None:
    """Write data."""
    text = visible_json(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())
    stream = stdout()
    buffer = getattr(stream, "buffer", None)
    if buffer is None or is_terminal(stream):
        write(text)
    elif stream is not None:  # JSON is UTF-8, whatever the encoding of text is
        stream.flush()
        buffer.write(f"{text}\n".encode())


def flush() -> None:
    """Let what was written be seen."""
    if (stream := stdout()) is not None:
        stream.flush()


def complain(text: str) -> None:
    """Say on stderr what went wrong."""
    colour = has_colour(sys.stderr)
    _say(f"{painted('sepkit:', 'red', colour=colour)} {visible(text)}", colour)


def tell(text: str, *, is_error: bool = False) -> None:
    """Say something on stderr."""
    colour = has_colour(sys.stderr) and is_error
    _say(painted(visible(text), "red", colour=colour), colour)


def _say(text: str, colour: bool) -> None:
    import click  # 10 ms, and a start says nothing

    click.echo(text, err=True, color=colour)

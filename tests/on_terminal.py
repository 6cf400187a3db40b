"""Runs a command on a pseudo-terminal of a given width, and reads all that is shown."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Timer

PATIENCE = 40.0
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def shown(
    command: Sequence[str],
    folder: Path,
    columns: int = 80,
    typed: Sequence[tuple[str, bytes]] = (),
    environ: Mapping[str, str] | None = None,
) -> str:
    """What ``command`` shows, with its escapes.

    Args:
        command: What is run, after ``python``.
        folder: Where.
        columns: The width of the terminal.
        typed: What is typed once a text is shown.
        environ: More of its environment.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    inherited = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    child = subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**inherited, "TERM": "xterm-256color", **(environ or {})},
        start_new_session=True,
    )
    os.close(theirs)
    watchdog = Timer(PATIENCE, child.kill)
    watchdog.start()
    left, received = list(typed), b""
    try:
        while True:
            try:
                data = os.read(ours, 65_536)
            except OSError:  # the other end of a terminal is gone
                break
            if not data:
                break
            received += data
            if left and left[0][0].encode() in received:
                os.write(ours, left.pop(0)[1])
        child.wait()
        return received.decode("utf-8", "replace").replace("\r\n", "\n")
    finally:
        watchdog.cancel()
        child.kill()
        child.wait()
        os.close(ours)


def without_escapes(text: str) -> str:
    """What is left for the eye of text that was not drawn over."""
    return ESCAPE.sub("", text)

"""``exec/run`` on this machine: a command in a process of its own, whose output is bounded.

Source: docs/protocol.md, section 4, ``exec/run``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import Final

from sepkit.errors import InvalidParams
from sepkit.wire import messages

MOST_OUTPUT: Final = 8 * 1024 * 1024
"""Bytes that are kept of each stream; the rest is read and dropped."""
_PIECE: Final = 65_536


async def run(request: messages.ExecRunParams, root: str) -> messages.ExecRunResult:
    """Run a command, in ``root`` unless it says otherwise. Cancelled, it and what it has started end.

    Raises:
        InvalidParams: It cannot be started.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            request.command,
            *request.args,
            cwd=request.cwd or root,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise InvalidParams(f"exec/run: {request.command[:200]!a} cannot be started: {why}") from None
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        out, err, code = await asyncio.gather(_read(process.stdout), _read(process.stderr), process.wait())
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        raise
    return messages.ExecRunResult(out, err, code)


async def _read(stream: asyncio.StreamReader) -> str:
    kept = bytearray()
    while piece := await stream.read(_PIECE):
        kept += piece[: MOST_OUTPUT - len(kept)]
    return kept.decode("utf-8", "replace")

"""An App in a process of its own, behind an embedded host: what ``call`` and ``inspect --run`` stand on."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sepkit import __version__
from sepkit.cli import ExitCode, output
from sepkit.errors import SepkitError
from sepkit.host import Delegate, ExtensionDied, Host, KvStore, Manifest
from sepkit.host.manifest import GROUPS, Capabilities, Run


def manifest_of(target: str) -> Manifest:
    """The manifest of ``module:attr`` in the current folder: everything is granted, the whole environment passed on."""
    name = "".join(c if c.isalnum() and c.isascii() else "-" for c in target.partition(":")[0]).strip("-") or "app"
    return Manifest(
        name=name,
        version="0",
        root=Path.cwd(),
        run=Run(
            command=sys.executable,
            args=["-m", "sepkit", "run", target],
            env={variable: f"${{env:{variable}}}" for variable in os.environ},
        ),
        capabilities=Capabilities(**dict.fromkeys(GROUPS, True)),  # type: ignore[arg-type]  # `events` is no group
    )


@asynccontextmanager
async def hosting(
    target: str, delegate: Delegate, flags: Mapping[str, Any] | None = None
) -> AsyncIterator[tuple[Host, str]]:
    """A host with ``target`` loaded, and the name of that. Keys are kept for as long as the block lasts.

    Raises:
        SepkitError: It could not be started.
    """
    # Its warnings are of deaths and refusals, which the verb tells of itself.
    logging.getLogger("sepkit.host").setLevel(logging.ERROR)
    manifest = manifest_of(target)
    async with Host(
        "sepkit",
        __version__,
        workspace=manifest.root,
        trusted=True,
        mode="cli",
        delegate=delegate,
        flags=flags,
        store=KvStore(),
        restart_delays=(),
    ) as host:
        for problem in await host.load([manifest]):
            raise problem.error
        yield host, manifest.name


def how_it_ended(code: int) -> str:
    """The exit code of a process in words."""
    return f"exit code {code}" if code >= 0 else f"signal {-code}"


def tell_failure(target: str, error: SepkitError, *, quiet: bool) -> ExitCode:
    """Say on stderr why there is no answer.

    What the extension wrote to its stderr has been shown as it came, unless it is ``quiet``.
    """
    died = error if isinstance(error, ExtensionDied) else error.__cause__
    if not isinstance(died, ExtensionDied):
        output.complain(str(error))
        return ExitCode.FAILED
    if quiet and died.stderr.strip():
        output.tell(died.stderr.rstrip())
    # One that could not be loaded has said so, with what to do.
    if died.exit_code not in set(ExitCode) - {ExitCode.OK, ExitCode.FAILED, ExitCode.INTERRUPTED}:
        how = "" if died.exit_code is None else f" ({how_it_ended(died.exit_code)})"
        output.complain(f"{target} ended before it answered{how}" + ("" if quiet else "; see above"))
    return ExitCode.FAILED

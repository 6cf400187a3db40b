"""An App in a process of its own, behind an embedded host: what ``call`` and ``inspect --run`` stand on."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sepkit import __version__
from sepkit.host import Delegate, Host, KvStore, Manifest
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
async def hosting(target: str, delegate: Delegate) -> AsyncIterator[tuple[Host, str]]:
    """A host with ``target`` loaded, and the name of that. Keys are kept for as long as the block lasts.

    Raises:
        SepkitError: It could not be started.
    """
    manifest = manifest_of(target)
    async with Host(
        "sepkit",
        __version__,
        workspace=manifest.root,
        trusted=True,
        mode="cli",
        delegate=delegate,
        store=KvStore(),
        restart_delays=(),
    ) as host:
        for problem in await host.load([manifest]):
            raise problem.error
        yield host, manifest.name

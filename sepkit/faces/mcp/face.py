"""What ``run --mcp`` serves by: an MCP connection over this process's stdin and stdout, and its log."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from sepkit.faces.log import WireHandler
from sepkit.faces.mcp.dispatcher import Dispatcher
from sepkit.serving.logs import attach
from sepkit.serving.served import Served
from sepkit.transports.base import Transport

if TYPE_CHECKING:
    from sepkit.capabilities.kv import Store


def serve(served: Served, transport: Transport, grace: float) -> Dispatcher:
    """Serve an App to the client behind ``transport``."""
    dispatcher = Dispatcher(served, transport, store=lambda: local_store(served.app.name), grace=grace)
    attach(WireHandler(dispatcher.link, logging.NOTSET))
    return dispatcher


def local_store(app: str) -> Store:
    """The keys and values of an App, in its data folder."""
    from sepkit.capabilities.local.backend import data_folder  # only for apps that keep something
    from sepkit.capabilities.store import KvStore

    return KvStore(data_folder(app) / "kv.sqlite3")

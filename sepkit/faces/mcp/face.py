"""What ``run --mcp`` serves by: an MCP connection over this process's stdin and stdout, and its log."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sepkit.errors import RegistrationError
from sepkit.faces.log import WireHandler
from sepkit.faces.mcp.catalogue import Catalogue
from sepkit.faces.mcp.dispatcher import Dispatcher
from sepkit.router import closest
from sepkit.serving.logs import attach
from sepkit.serving.served import Served
from sepkit.transports.base import Transport

if TYPE_CHECKING:
    from sepkit.app import App
    from sepkit.capabilities.kv import Store

ENVIRONMENT = "SEPKIT_FLAG_"


def serve(served: Served, transport: Transport, grace: float, flags: Mapping[str, Any]) -> Dispatcher:
    """Serve an App to the client behind ``transport``."""
    dispatcher = Dispatcher(served, transport, store=lambda: local_store(served.app.name), flags=flags, grace=grace)
    attach(WireHandler(dispatcher.link, logging.NOTSET))
    return dispatcher


def local_store(app: str) -> Store:
    """The keys and values of an App, in its data folder."""
    from sepkit.capabilities.local.backend import data_folder  # only for apps that keep something
    from sepkit.capabilities.store import KvStore

    return KvStore(data_folder(app) / "kv.sqlite3")


def checked(app: App, given: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """The values of an App's flags: those of the command line, else of the environment.

    Args:
        app: Its names must be such as clients can tell apart.
        given: By the command line.
        environment: ``SEPKIT_FLAG_<NAME>`` is a flag's value, as JSON or as text.

    Raises:
        RegistrationError: The App has no such flag, or two of its names would be the same to clients.
    """
    Catalogue(app)
    for name in given:
        if name not in app.flag_defaults:
            raise RegistrationError(
                f"--flag {name}: the app declares no flag {name!r}{closest(name, app.flag_defaults)}"
            )
    return {**from_environment(app, environment), **given}


def from_environment(app: App, environment: Mapping[str, str]) -> dict[str, Any]:
    """The flags that the environment sets."""
    found = {}
    for name in app.flag_defaults:
        text = environment.get(ENVIRONMENT + "".join(c if c.isalnum() else "_" for c in name).upper())
        if text is not None:
            found[name] = value_of(text)
    return found


def value_of(text: str) -> Any:
    """A flag's value, as it was typed: JSON, else the text itself."""
    import orjson

    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text

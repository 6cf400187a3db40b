"""What a handler may ask of its host and MCP has no words for, answered in this process: kv, bus and exec.

The answers are those of :mod:`sepkit.capabilities.services`, as SEP's hosts give them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from sepkit.capabilities.delegate import Delegate
from sepkit.capabilities.kv import Store
from sepkit.capabilities.local import shell
from sepkit.capabilities.services import Services
from sepkit.errors import MethodNotFound
from sepkit.peer import RequestHandler
from sepkit.wire import messages, methods


class LocalHost(Delegate):
    """Answers what a handler asks, but for questions to the user.

    Args:
        app: The App's name.
        token: The token in the contexts of its calls.
        root: The folder that commands run in.
        store: Its keys and values.
        publish: Tells the handlers of the bus.
    """

    def __init__(
        self, app: str, token: str, root: str, store: Store, publish: Callable[[str, str, dict[str, Any]], None]
    ) -> None:
        self._root = root
        self._publish = publish
        grants: dict[str, bool] = dict.fromkeys(methods.GROUP_OF.values(), True)
        services = Services(app, token, grants, self, store, self, lambda method, record: None)
        self._routes: dict[str, RequestHandler] = services.routes()

    async def ask(self, method: str, params: dict[str, Any]) -> Any:
        """The answer to a request.

        Raises:
            MethodNotFound: There is no such service here.
            RpcError: As a host of SEP would answer.
        """
        handler = self._routes.get(method)
        if handler is None:
            raise MethodNotFound(f"{method}: MCP clients have no such thing")
        return await handler(params)

    async def exec(self, extension: str, request: messages.ExecRunParams) -> messages.ExecRunResult:
        """Run a command on this machine: over stdio the server runs for the user who has installed it."""
        return await shell.run(request, self._root)

    # -- the room of the services --------------------------------------------------------------------------------------

    def publish(self, sender: str, topic: str, payload: dict[str, Any]) -> None:
        """Publish on the bus, which is within this process."""
        asyncio.get_running_loop().call_soon(self._publish, sender, topic, payload)

    def owns_widget(self, extension: str, widget_id: str) -> None:
        """There are no widgets."""

    def set_active(self, extension: str, names: list[str]) -> list[str]:
        """MCP has no active tools."""
        raise MethodNotFound("tools/set_active: MCP clients choose tools by themselves")

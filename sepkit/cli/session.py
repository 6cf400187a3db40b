"""A session with one extension, as ``call``, ``inspect`` and ``make demo`` need it: spawn, shake hands, ask, end.

Not a host: an extension sees one without a person in front of it, that keeps keys for as long as the session lasts,
takes what is published on the bus, and knows no other service.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from sepkit import __version__
from sepkit.errors import InternalError, InvalidData, InvalidParams
from sepkit.peer import Peer
from sepkit.transports.process import ChildProcess
from sepkit.wire import messages, methods
from sepkit.wire.converter import structure, unstructure

_CONTEXT = {"token": "session-1", "tier": "command"}

OnUpdate = Callable[[messages.ToolUpdateParams], None]
OnLog = Callable[[messages.LogParams], None]


def run_command(target: str) -> list[str]:
    """The command that serves ``target`` with this very Python."""
    return [sys.executable, "-m", "sepkit", "run", target]


class ExtensionSession:
    """An extension in a process of its own, ready when the block is entered, ended when it is left.

    Args:
        command: What to spawn.
        cwd: Where it starts.
        on_log: Told of each ``log`` notification.
        stderr: Where its stderr goes (as ``subprocess`` means it); where this process's goes by default.
        timeout: Seconds that an answer may take.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        cwd: Path | None = None,
        on_log: OnLog | None = None,
        stderr: int | None = None,
        timeout: float = 120.0,
    ) -> None:
        self._command = command
        self._cwd = cwd
        self._stderr = stderr
        self._timeout = timeout
        self._on_log = on_log
        self._updates: dict[str, OnUpdate] = {}
        self._calls = 0
        self._kv: dict[str, Any] = {}

    async def __aenter__(self) -> ExtensionSession:
        self._child = ChildProcess(self._command, cwd=self._cwd, stderr=self._stderr)
        self._peer = Peer(
            self._child.transport,
            routes={
                methods.PING: _done,
                methods.KV_GET: self._kv_get,
                methods.KV_SET: self._kv_set,
                methods.KV_DELETE: self._kv_delete,
                methods.KV_LIST: self._kv_list,
                methods.BUS_PUBLISH: _done,
            },
            notifications={methods.TOOL_UPDATE: self._updated, methods.LOG: self._logged},
        )
        self._peer.start()
        try:
            handshake = messages.InitializeParams(
                protocol_version=methods.PROTOCOL_VERSION,
                host=messages.HostInfo(name="sepkit", version=__version__),
                workspace=messages.WorkspaceInfo(root=str(Path.cwd()), trusted=True),
                mode="headless",
                ui_capabilities=[],
                capabilities_enabled={"tasks": True},
            )
            answer = await self._peer.request(methods.INITIALIZE, unstructure(handshake), timeout=10.0)
            self.info: messages.InitializeResult = _fits(answer, messages.InitializeResult)
        except BaseException:
            await self._child.stop(grace=1.0)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                await self._peer.request(methods.SHUTDOWN, {}, timeout=5.0)
        finally:
            await asyncio.shield(self._child.stop(grace=1.0))

    async def call_tool(
        self, name: str, arguments: dict[str, Any], on_update: OnUpdate | None = None
    ) -> messages.ToolExecuteResult:
        """Call a tool by its bare name, and wait for its result."""
        self._calls += 1
        call_id = f"call-{self._calls}"
        if on_update is not None:
            self._updates[call_id] = on_update
        params = {"call_id": call_id, "tool": name, "arguments": arguments, "context": _CONTEXT}
        try:
            result: messages.ToolExecuteResult = _fits(
                await self._ask(methods.TOOL_EXECUTE, params), messages.ToolExecuteResult
            )
            return result
        finally:
            self._updates.pop(call_id, None)

    async def run_hook(self, name: str, value: dict[str, Any]) -> messages.HookOutcome:
        """Ask a hook what it makes of an input."""
        answer = await self._ask(methods.HOOK, {"hook": name, "context": _CONTEXT, "input": value})
        outcome: messages.HookOutcome = _fits(answer, messages.HookOutcome)
        return outcome

    @property
    def task_registrations(self) -> list[messages.TaskRegistration]:
        """The background tasks that it brings."""
        return [] if self.info.registrations is None else self.info.registrations.tasks

    async def tasks(self) -> list[messages.TaskHealth]:
        """How the tasks are that have been started; none where the extension brings no tasks."""
        if not self.task_registrations:
            return []
        listed: messages.TaskListResult = _fits(await self._ask(methods.TASK_LIST, {}), messages.TaskListResult)
        return listed.tasks

    async def _ask(self, method: str, params: dict[str, Any]) -> Any:
        return await self._peer.request(method, params, timeout=self._timeout)

    def _updated(self, params: dict[str, Any]) -> None:
        update: messages.ToolUpdateParams = structure(params, messages.ToolUpdateParams)
        if (told := self._updates.get(update.call_id)) is not None:
            told(update)

    def _logged(self, params: dict[str, Any]) -> None:
        if self._on_log is not None:
            self._on_log(structure(params, messages.LogParams))

    async def _kv_get(self, params: dict[str, Any]) -> object:
        return {"value": self._kv.get(_asked(params, messages.KvGetParams).key)}

    async def _kv_set(self, params: dict[str, Any]) -> object:
        asked = _asked(params, messages.KvSetParams)
        self._kv[asked.key] = asked.value
        return {}

    async def _kv_delete(self, params: dict[str, Any]) -> object:
        self._kv.pop(_asked(params, messages.KvDeleteParams).key, None)
        return {}

    async def _kv_list(self, params: dict[str, Any]) -> object:
        prefix = _asked(params, messages.KvListParams).prefix or ""
        return {"keys": sorted(key for key in self._kv if key.startswith(prefix))}


async def _done(params: dict[str, Any]) -> object:
    return {}


def _asked(params: dict[str, Any], cls: Any) -> Any:
    try:
        return structure(params, cls)
    except InvalidData as error:
        raise InvalidParams(f"invalid params: {error}") from None


def _fits(answer: object, cls: Any) -> Any:
    try:
        return structure(answer, cls)
    except InvalidData as error:
        raise InternalError(f"the extension's answer does not fit the protocol: {error}") from None

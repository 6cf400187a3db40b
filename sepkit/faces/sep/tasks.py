"""Background tasks on the wire: ``task/start``, ``task/stop``, ``task/list``, and ``task/update`` for what changes.

Only for a host that asked for it with ``capabilities_enabled.tasks``. To any other host nothing of this is sent; state
changes are ``log`` lines for it.

Source: docs/tasks.md, "On the wire".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from sepkit.errors import ConnectionClosed, InvalidParams, SepkitError
from sepkit.faces.sep.requests import checked
from sepkit.peer import Peer, RequestHandler
from sepkit.serving.served import Served
from sepkit.tasks import TaskHealth, TaskRefused, UnknownTask
from sepkit.wire import messages, methods
from sepkit.wire.writing import unstructure


class TaskCalls:
    """The task methods of one connection, and its reports.

    Args:
        served: Whose tasks they are.
        peer: The connection.
    """

    def __init__(self, served: Served, peer: Peer) -> None:
        self._served = served
        self._supervisor = served.supervisor
        self._peer = peer
        self._wanted = False
        self._deaf: Callable[[], None] | None = None  # ends that we are told
        # What the host has not been told yet, because it does not read: the newest of each task.
        self._newest: dict[str, TaskHealth] = {}
        self._waiting: asyncio.Task[None] | None = None

    def routes(self) -> dict[str, RequestHandler]:
        """The handler of each method."""
        return {
            methods.TASK_START: self._start,
            methods.TASK_STOP: self._stop,
            methods.TASK_LIST: self._list,
        }

    # -- what may be asked ---------------------------------------------------------------------------------------------

    async def _start(self, params: dict[str, Any]) -> object:
        call: messages.TaskStartParams = checked(params, messages.TaskStartParams)
        app = self._served.app
        spec = app.task_specs.get(call.name)
        if spec is None and call.name in app.job_specs:
            return await self._start_job(call)
        if spec is None:
            raise InvalidParams(f"no task {call.name!r}", data={"known": [*app.task_specs, *app.job_specs]})
        try:
            handle = self._supervisor.start(spec, id=call.task_id, user_id=call.user_id, payload=call.payload)
        except TaskRefused as error:
            raise InvalidParams(str(error)) from None
        return self._told(handle.health)

    async def _start_job(self, call: messages.TaskStartParams) -> object:
        """Run a job now, once more than its schedule says."""
        id_ = call.task_id
        if id_ is not None and (prefix := f"{call.name}:") and id_.startswith(prefix):
            id_ = id_.removeprefix(prefix)
        try:
            job = self._served.app.schedule.at(
                timedelta(0), call.name, payload=call.payload, user_id=call.user_id, id=id_
            )
            await job
        except SepkitError as error:
            raise InvalidParams(str(error)) from None
        return self._told(
            TaskHealth(
                task_id=f"{job.name}:{job.id}", name=job.name, user_id=job.user_id, status="pending", restart_count=0
            )
        )

    async def _stop(self, params: dict[str, Any]) -> object:
        call: messages.TaskStopParams = checked(params, messages.TaskStopParams)
        try:
            return self._told(await self._supervisor.stop(call.task_id))
        except UnknownTask as error:
            for health in self._served.status():
                if health.task_id == call.task_id:  # a job that waits for its first run: nothing of it is to be stopped
                    return self._told(health)
            raise InvalidParams(f"no task {call.task_id!r}", data={"known": list(error.known)}) from None

    async def _list(self, params: dict[str, Any]) -> object:
        return {"tasks": [self._told(health) for health in self._served.status()]}

    # -- what is told --------------------------------------------------------------------------------------------------

    def begin(self, *, wanted: bool) -> None:
        """The handshake has been answered. Where the host asked for tasks it is told of those that run, and of changes.

        Any other host reads of changes in its log.
        """
        self._wanted = wanted
        if wanted:
            for health in self._served.status():
                if health.status != "pending":
                    self._tell(health)
        self._deaf = self._served.task_changed(self._changed)

    def _changed(self, health: TaskHealth) -> bool:
        if self._wanted:
            self._tell(health)
        return self._wanted

    def _tell(self, health: TaskHealth) -> None:
        if self._waiting is None and not self._peer.congested:
            self._peer.notify(methods.TASK_UPDATE, self._told(health), short=True)
            return
        self._newest.pop(health.task_id, None)  # it goes to the end, so that updates stay in their order
        self._newest[health.task_id] = health
        if self._waiting is None:
            # Not in the context of the run that happens to report: the task is not the run's.
            self._waiting = asyncio.get_running_loop().create_task(
                self._catch_up(), name="sepkit task updates", context=self._peer.context.copy()
            )

    async def _catch_up(self) -> None:
        try:
            while self._newest:
                await self._peer.drain()
                self._tell_next()
        except ConnectionClosed:
            self._newest.clear()
        finally:
            self._waiting = None

    def _tell_next(self) -> None:
        task_id = next(iter(self._newest))
        self._peer.notify(methods.TASK_UPDATE, self._told(self._newest.pop(task_id)), short=True)

    def close(self) -> None:
        """Nothing changes any more: what waits for the host is put before the last answer."""
        if self._deaf is not None:
            self._deaf()
        if self._waiting is not None:
            self._waiting.cancel()
        while self._newest:
            self._tell_next()

    def _told(self, health: TaskHealth) -> dict[str, Any]:
        told: dict[str, Any] = unstructure(health)
        if health.error is not None:
            told["error"] = self._served.shown(health.error)
        return told

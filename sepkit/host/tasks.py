"""The background tasks of one extension, as its host knows them; those that it started come back after a restart.

They run in the extension, and are supervised there: see docs/tasks.md. Here it is remembered which are wanted.

Source: docs/protocol.md, section 3.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from attrs import evolve

from sepkit.capabilities.delegate import Delegate
from sepkit.capabilities.names import PLAIN_RULE, is_plain, quoted
from sepkit.errors import InternalError, SepkitError
from sepkit.host.budget import short
from sepkit.host.kept import Kept
from sepkit.host.life import fitted
from sepkit.host.lives import Lives
from sepkit.host.notes import Notes
from sepkit.wire import messages, methods
from sepkit.wire.writing import unstructure

_log = logging.getLogger("sepkit.host")

_RUNNING: Final = frozenset({"pending", "running", "restarting"})
_MOST_TASKS: Final = 20_000  # that are remembered: an extension may invent any number of ids, of any length
_MOST_BYTES: Final = 8 * 1024 * 1024
_TOGETHER: Final = 500  # tasks of a dead process that are told of in one turn of the loop
_LAST_ACTS: Final = 5.0  # seconds before a death in which an orderly end stops its tasks
_STARTED_AGAIN: Final = 10.0  # seconds for the answer to a task/start after a restart


class ExtensionTasks:
    """The background tasks of one extension.

    Args:
        lives: Its lives, of which the present one is asked.
        delegate: Told of each change.
        notes: Told of what is not taken.
    """

    def __init__(self, lives: Lives, delegate: Delegate, notes: Notes) -> None:
        self.known: Kept[str, messages.TaskHealth] = lives.budget.table("tasks", _MOST_TASKS, _MOST_BYTES)
        """Those that it has told of, by id; at most 20,000, and 8 MiB."""
        self._lives = lives
        self._delegate = delegate
        self._notes = notes
        self._wanted: dict[str, messages.TaskStartParams] = {}  # started by the host, and to come back
        # When the extension told that they have ended.
        self._ended: Kept[str, float] = lives.budget.table("ended tasks", _MOST_TASKS, _MOST_BYTES)
        self._died_at = 0.0  # when its last life ended

    async def start(self, params: messages.TaskStartParams, *, comes_back: bool = True) -> messages.TaskHealth:
        """Start a task; if the process dies, it is started again with the next one, where it ``comes_back``."""
        asked = asyncio.get_running_loop().time()
        answer = await self._lives.ask(methods.TASK_START, unstructure(params), _STARTED_AGAIN)
        health: messages.TaskHealth = fitted(self._lives.name, answer, messages.TaskHealth)
        self._check_id(params.task_id, health)
        if self._ended.get(health.task_id, 0.0) < asked:  # an earlier start; but this one may have ended already
            self._ended.pop(health.task_id, None)
        if comes_back:
            self._wanted[health.task_id] = evolve(params, task_id=health.task_id)
        self.known.setdefault(health.task_id, health)
        return health

    async def stop(self, task_id: str, timeout: float | None = None) -> messages.TaskHealth:
        """Stop a task, and wait until it has ended. Where that fails, the task is wanted as before."""
        wanted = self._wanted.get(task_id)
        answer = await self._lives.ask(methods.TASK_STOP, {"task_id": task_id}, timeout)
        health: messages.TaskHealth = fitted(self._lives.name, answer, messages.TaskHealth)
        self._check_id(task_id, health)
        if self._wanted.get(task_id) is wanted:  # else it was started again meanwhile
            self._wanted.pop(task_id, None)
            self._ended.pop(task_id, None)
            self.known[task_id] = health
        return health

    async def list_all(self, timeout: float | None = None) -> list[messages.TaskHealth]:
        """Ask for all tasks, those that wait for their first turn included."""
        answer = await self._lives.ask(methods.TASK_LIST, {}, timeout)
        listed: messages.TaskListResult = fitted(self._lives.name, answer, messages.TaskListResult)
        tasks = [task for task in listed.tasks if self._is_told(task)]
        self.known.update({task.task_id: task for task in tasks})
        return tasks

    def told(self, task: messages.TaskHealth) -> None:
        """A task has begun, ended, or reported how it is. An orderly end of the process tells of their ends, too."""
        if not self._is_told(task):
            return
        self.known[task.task_id] = task
        self._ended.pop(task.task_id, None)
        if task.status not in _RUNNING:
            self._ended[task.task_id] = asyncio.get_running_loop().time()
        self._lives.budget.inform(self._delegate.task_changed, task)

    def _is_told(self, task: messages.TaskHealth) -> bool:
        """Whether it has a name that can be shown. Its id may hold what is the name of a user elsewhere."""
        if not is_plain(task.name):
            self._notes.say(f"its task {quoted(task.name)} is not told: its name must be {PLAIN_RULE}")
            return False
        return True

    def _check_id(self, asked: str | None, health: messages.TaskHealth) -> None:
        if asked is not None and health.task_id != asked:
            raise InternalError(f"{self._lives.name} was asked about {asked!r}, and tells of {quoted(health.task_id)}")

    # -- over the lives of the extension -------------------------------------------------------------------------------

    def stopping(self) -> None:
        """The extension is stopped on purpose: what has ended before did so by itself, and does not come back."""
        for task_id in self._ended:
            self._wanted.pop(task_id, None)
        self._ended.clear()

    def died(self, why: str) -> None:
        """The process has ended, and all that ran in it."""
        self._died_at = asyncio.get_running_loop().time()
        self._fail([health for health in self.known.values() if health.status in _RUNNING], why)

    def _fail(self, running: list[messages.TaskHealth], why: str) -> None:
        """So many at once that other work goes on: there may be thousands."""
        for health in running[:_TOGETHER]:
            if self.known.get(health.task_id) is health:  # the next life has not told of it yet
                self.known[health.task_id] = dead = evolve(health, status="failed", error=why)
                self._lives.budget.inform(self._delegate.task_changed, dead)
        if rest := running[_TOGETHER:]:
            asyncio.get_running_loop().call_soon(self._fail, rest, why)

    async def start_again(self) -> None:
        """Start what is wanted in a new process, but for what had ended well before the death of the last one."""
        if not self._wanted:
            return
        ended = list(self._ended.items())
        self._ended.clear()
        for task_id, when in ended:
            if when < self._died_at - _LAST_ACTS:
                self._wanted.pop(task_id, None)
        await asyncio.gather(*(self._start_again(params) for params in self._wanted.values()))

    async def _start_again(self, params: messages.TaskStartParams) -> None:
        try:
            await self._lives.ask(methods.TASK_START, unstructure(params), _STARTED_AGAIN)
        except SepkitError as error:
            _log.warning("%s: its task %r did not come back: %s", self._lives.name, params.task_id, short(error))

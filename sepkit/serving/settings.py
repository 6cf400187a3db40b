"""The settings of an App that is served: what is stored of them, and who is told of a change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextvars import Context
from typing import Any, Final

import orjson

from sepkit.app import App
from sepkit.concurrency.lanes import Mailbox
from sepkit.contexts.backend import Backend
from sepkit.contexts.contexts import EventContext
from sepkit.contexts.link import Link
from sepkit.contexts.settings import NO_TEXTS, Flags, Setting, Texts, foreign
from sepkit.errors import InvalidData, RpcError, SettingFixed
from sepkit.handlers import Fn, ObserverSpec, name_of
from sepkit.ownlog import OwnLog
from sepkit.serving.calls import Calls

_log = OwnLog("sepkit")

_CONTEXT: Final[dict[str, Any]] = {"token": "", "tier": "event"}

_Delivery = tuple[ObserverSpec, Any, Link]
"""Who is told, the new value as JSON, and the connection that it was set over."""


class Settings:
    """The settings of one Served.

    Args:
        app: Whose they are.
        texts: What the command line and the environment say.
        calls: Calls the handlers of changes.
        backend: Where they are stored.
        context: The context variables that the handlers run in.
    """

    def __init__(
        self, app: App, texts: Texts | None, calls: Calls, backend: Callable[[], Backend], context: Context
    ) -> None:
        self._app = app
        self._texts = texts or NO_TEXTS
        self._calls = calls
        self._backend = backend
        self._context = context
        self._stored: dict[str, Any] = {}
        self._loaded = False
        self._one = asyncio.Lock()  # one is loaded or stored at a time: what is told last is what is on the disk
        self._at_work: set[asyncio.Task[None]] = set()
        self._mailboxes: dict[Fn, Mailbox[_Delivery]] = {}

    def flags(self, host: Mapping[str, Any]) -> Flags:
        """The flags of a connection whose host has sent these."""
        return Flags(host, self._app.flag_defaults, self._app.settings, self._texts, self._stored)

    def check(self, flags: Mapping[str, Any], *, complete: bool) -> None:
        """Look at the values of a connection.

        Raises:
            BadSettings: Some do not fit.
        """
        (flags if isinstance(flags, Flags) else self.flags(flags)).check(complete=complete)

    async def load(self) -> None:
        """Read what is stored, once, where the app has settings.

        Raises:
            StoreError: It cannot be read.
        """
        if self._app.settings and not self._loaded:
            async with self._one:
                if not self._loaded:
                    self._stored.update(await self._backend().settings.all())
                    self._loaded = True

    async def set(self, link: Link, setting: Setting[Any], value: Any) -> None:
        """Store a value, and tell those who want to know.

        Raises:
            SettingFixed: A higher source holds it.
            InvalidData: It is not of the setting's type.
            RegistrationError: The app does not have the setting.
            StoreError: It cannot be written.
        """
        if self._app.settings.get(setting.name) is not setting:
            raise foreign(setting)
        plain = setting.plain(value)
        flags = link.flags
        holder = (flags if isinstance(flags, Flags) else self.flags(flags)).holder(setting)
        if holder is not None:
            raise SettingFixed(f"setting {setting.name!r} is fixed by {holder}; set it there")
        # In a task of its own: a caller that is cancelled must not leave another value here than on the disk.
        task = asyncio.get_running_loop().create_task(
            self._store(link, setting, plain), name=f"sepkit stores {setting.name}", context=self._context.copy()
        )
        self._at_work.add(task)
        task.add_done_callback(self._stored_it)
        await asyncio.shield(task)

    def _stored_it(self, task: asyncio.Task[None]) -> None:
        self._at_work.discard(task)
        if not task.cancelled():
            task.exception()  # its caller may have been cancelled, and raises it elsewhere

    async def _store(self, link: Link, setting: Setting[Any], plain: Any) -> None:
        async with self._one:
            await self._backend().settings.set(setting.name, plain)
            before = self._stored.get(setting.name, setting.default)
            self._stored[setting.name] = plain
            if _written(before) != _written(plain):
                self._tell(link, setting, plain)

    # -- those who are told --------------------------------------------------------------------------------------------

    def _tell(self, link: Link, setting: Setting[Any], plain: Any) -> None:
        for spec in list(self._app.setting_observers.get(setting.name, ())):
            if (box := self._mailboxes.get(spec.fn)) is None:
                name = f"setting {spec.name} handler {name_of(spec.fn)}"
                box = self._mailboxes[spec.fn] = Mailbox(name, self._observe, self._start)
            box.put((spec, plain, link))

    async def _observe(self, delivery: _Delivery) -> None:
        spec, plain, link = delivery
        try:
            await self._calls.observe(spec, spec.given(plain), EventContext(link, _CONTEXT, spec.name, None))
        except InvalidData as error:
            _log.warning("the handler %s was not called: the setting does not fit: %s", name_of(spec.fn), error)
        except RpcError:
            return  # said, where it became one

    def _start(self, work: Coroutine[Any, Any, object], name: str, done: Callable[[], None]) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name, context=self._context.copy())
        task.add_done_callback(lambda _: done())

    async def aclose(self, seconds: float) -> float:
        """Wait for what is being stored, and for the handlers, at most half of ``seconds``; how many are left."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(seconds / 2):
                if self._at_work:
                    await asyncio.wait(list(self._at_work))
                for box in list(self._mailboxes.values()):
                    await box.wait_idle()
        except TimeoutError:
            left = [box for box in self._mailboxes.values() if box.busy]
            for box in left:
                box.cancel()
            if left:
                _log.warning("still running at the end, cancelled: %s", ", ".join(box.name for box in left))
        return seconds - (loop.time() - began)


def _written(value: Any) -> bytes:
    """A JSON value in one form, in which True is not 1."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)

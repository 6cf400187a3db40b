"""``TestHost``: a host in memory for the tests of an extension's author, with a running loop or without one."""

from __future__ import annotations

from types import TracebackType
from typing import ClassVar

from sepkit.testing.blocking import BlockingTestHost
from sepkit.testing.life import AsyncHost


class TestHost(AsyncHost):
    """The host of one App, for tests: ``async with TestHost(app) as host``, or ``with`` where no loop runs.

    Within the block the handshake is done; at its end the App has been shut down, and its lifespan left. The block
    fails if the extension broke the protocol, if its lifespan ended by itself, or if ``ui``, ``exec`` or a callback
    raised; never in place of what was raised within it.

    Args:
        app: What is served.
        ui: Answers by kind, such as ``{"confirm": True, "select": "a", "input": "text"}``: a list is used up one after
            another, None is a dismissal, and a kind that asks and is not there cannot be shown. Or a function of the
            request, sync or async. None: the host has no user.
        exec: What commands end with, by ``"git status"`` or ``"git"``: an ``ExecRunResult``, what it printed, or a list
            of them. Or a function of the request, sync or async. What is not there is denied; None denies all.
        fetch: What servers answer, by URL (``"https://example.com/news"``) or with the method before it (``"POST https://…"``);
            without its query it matches any. An answer is a ``Response``; or, with status 200, a text, bytes, a dict as
            JSON, or an async iterator of chunks; or an exception; or a list of them, one after another. Or a function
            of the request, sync or async. Without it no server is there; ``needs`` and redirects are checked all the
            same.
        flags: Their values. The host does not begin where the app declares no flag of a name (ValueError).
        capabilities: Groups of methods, switched on or off. ``tasks`` are on.
        kv: What the key-value store holds at the beginning.
        settings: What has been stored of settings, by name. The host does not begin where the app declares no setting
            of a name (ValueError).
        secrets: The app's secrets, by name.
        session_state: What ``ctx.session.state()`` gives.
        allowed_tools: The tools that may be active; None where all may.
        workspace: The root of the workspace; None for the current directory.
        trusted: Whether its user trusts it.
        user: Whom calls are made for, by id; None for no user. ``host.user`` may be changed between calls.
        users: The ids of the host's users; or a dict, with what ``ctx.user.profile()`` gives of each.
        mode: Where the host runs; by default ``"tui"`` with a ``ui``, else ``"headless"``.
        timeout: Seconds that an answer may take, where a call does not say.
        max_concurrency: How many tool and provider calls run at once.
        grace: Seconds that accepted calls have to finish at the end.
        log_level: What of ``logging`` is on ``.logs``: records of this level and above.
        now: What the wall's clock shows at the beginning, for jobs; it goes as the loop's clock does. None: as it is.
    """

    __test__: ClassVar[bool] = False  # to pytest, a name that begins with Test is a class of tests
    _blocking: BlockingTestHost | None = None

    def __enter__(self) -> BlockingTestHost:
        return self.blocking()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._blocking is not None
        self._blocking.__exit__(kind, error, traceback)

    def blocking(self) -> BlockingTestHost:
        """Begin in a thread of its own; what comes back has the same methods, without ``await``. ``close`` ends it."""
        self._blocking = BlockingTestHost(self)
        return self._blocking

"""What an extension may ask of its host, method by method, over real bytes: answered, or refused with its code."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sepkit.capabilities.services import Services
from sepkit.errors import Blocked, ContextViolation, MethodNotFound, NotTrusted, NoUI, RpcError, SepkitError, ToolError
from sepkit.host import Delegate, Host, KvStore
from sepkit.host.manifest import GROUPS
from sepkit.peer import Peer
from sepkit.transports.memory import memory_pair
from sepkit.wire import messages
from sepkit.wire.methods import UiKind
from tests.host.scripted import until

PATIENCE = 20.0
CONTEXT = {"token": "2-command", "tier": "command"}

Run = Callable[[Coroutine[Any, Any, Any]], Any]
Work = Callable[[], Coroutine[Any, Any, Any]]

# Each method of an extension that is answered: its group (None: cannot be withheld), and params that are right.
# Optional ones are marked with `?`, which is taken off.
ASKED: dict[str, tuple[str | None, dict[str, Any]]] = {
    "ping": (None, {}),
    "ui/request": ("ui", {"kind": "select", "prompt": "which?", "options": ["a", "b"]}),
    "kv/get": ("kv", {"key": "k"}),
    "kv/set": ("kv", {"key": "k", "value": [1]}),
    "kv/delete": ("kv", {"key": "k"}),
    "kv/list": ("kv", {"prefix?": "k"}),
    "exec/run": ("exec", {"command": "ls", "context": CONTEXT, "args?": ["-l"], "cwd?": "/"}),
    "bus/publish": ("bus", {"topic": "t", "payload": {"a": 1}}),
    "tools/set_active": ("tools", {"tools": ["ext.a"]}),
    "session/send_message": ("session", {"context": CONTEXT, "text": "t", "role?": "user"}),
    "session/send_user_message": ("session", {"context": CONTEXT, "text": "t", "deliver_as?": "steer"}),
    "session/append_entry": ("session", {"context": CONTEXT, "entry": {"e": 1}}),
    "session/set_model": ("session", {"context": CONTEXT, "model": "m", "provider?": "p", "thinking?": "low"}),
    "session/state": ("session", {"context": CONTEXT}),
}
ACTING = [method for method in ASKED if method.startswith("session/") or method == "exec/run"]

UI: dict[UiKind, dict[str, Any]] = {
    "select": {"prompt": "which?", "options": ["a"]},
    "confirm": {"prompt": "sure?"},
    "input": {"prompt": "who?", "default?": "me"},
    "notify": {"message": "look", "level?": "warn"},
    "set_status": {"status": "busy"},
    "set_widget": {"widget": {"kind": "markdown", "text": "*"}},
    "set_title": {"title": "title"},
}


def right(params: dict[str, Any]) -> dict[str, Any]:
    return {name.rstrip("?"): value for name, value in params.items()}


class Everything(Delegate):
    """Grants it all, and notes it."""

    ui_kinds = tuple(UI)

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.answer = messages.UiResult(value="a")
        self.work: Work | None = None

    async def _note(self, extension: str, request: object) -> None:
        self.asked.append((extension, request))
        if self.work is not None:
            await self.work()

    async def ui(self, extension: str, request: messages.UiRequest) -> messages.UiResult:
        await self._note(extension, request)
        return self.answer

    async def exec(self, extension: str, request: messages.ExecRunParams) -> messages.ExecRunResult:
        await self._note(extension, request)
        return messages.ExecRunResult("out", "err", 3)

    async def send_message(self, extension: str, request: messages.SessionSendMessageParams) -> None:
        await self._note(extension, request)

    async def send_user_message(self, extension: str, request: messages.SessionSendUserMessageParams) -> None:
        await self._note(extension, request)

    async def append_entry(self, extension: str, request: messages.SessionAppendEntryParams) -> None:
        await self._note(extension, request)

    async def set_model(self, extension: str, request: messages.SessionSetModelParams) -> None:
        await self._note(extension, request)

    async def session_state(self, extension: str) -> dict[str, Any] | None:
        await self._note(extension, None)
        return {"model": "m"}


class Setup:
    """An extension's end of the wire, and the host's services at the other."""

    def __init__(
        self, delegate: Delegate | None = None, *, withheld: str | None = None, only: str | None = None
    ) -> None:
        self.published: list[tuple[str, str, dict[str, Any]]] = []
        self.widgets: dict[str, str] = {}
        self.active: list[list[str]] = []
        self.told: list[tuple[str, Any]] = []
        self.store = KvStore()
        self.delegate = Everything() if delegate is None else delegate
        grants = {group: group == only if only else group != withheld for group in GROUPS}
        self.services = Services(
            "ext", CONTEXT["token"], grants, self.delegate, self.store, self, self._told_of, lambda: self._host.drain()
        )
        ours, theirs = memory_pair()
        self.pipe = theirs
        self._host = Peer(ours, routes=self.services.routes(), notifications=self.services.notifications())
        self.extension = Peer(theirs)

    def _told_of(self, method: str, record: Any) -> None:
        self.told.append((method, record))

    def publish(self, sender: str, topic: str, payload: dict[str, Any]) -> None:
        self.published.append((sender, topic, payload))

    def owns_widget(self, extension: str, widget_id: str) -> None:
        self.widgets[widget_id] = extension

    def set_active(self, extension: str, names: list[str]) -> list[str]:
        self.active.append(names)
        return names[:1]

    async def __aenter__(self) -> Setup:
        self._host.start()
        self.extension.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.extension.aclose()
        await self._host.aclose()
        await self.store.aclose()

    async def ask(self, method: str, **params: object) -> Any:
        return await asyncio.wait_for(self.extension.request(method, params), PATIENCE)

    async def code(self, method: str, **params: object) -> int:
        """The code of the error with which it is refused."""
        with pytest.raises(RpcError) as refused:
            await self.ask(method, **params)
        return refused.value.code


# -- what is answered --------------------------------------------------------------------------------------------------


def test_each_method_is_answered_in_the_protocols_form(run: Run) -> None:
    """Each method of an extension is answered in its result's shape. Source: docs/protocol.md, section 4."""
    expected: dict[str, object] = {
        **{method: {} for method in ASKED},
        "ui/request": {"value": "a"},
        "kv/get": {"value": None},
        "kv/list": {"keys": ["k", "k2"]},
        "exec/run": {"stdout": "out", "stderr": "err", "exit_code": 3},
        "tools/set_active": {"active": ["ext.a"]},
        "session/state": {"state": {"model": "m"}},
    }

    async def main() -> None:
        for method, (_, params) in ASKED.items():
            async with Setup() as setup:
                if method == "kv/list":
                    for key in ("k", "k2", "other"):
                        await setup.store.set("ext", key, 1)
                assert await setup.ask(method, **right(params), unknown="ignored") == expected[method], method

    run(main())


def test_values_do_not_pile_up_for_who_does_not_read_them(run: Run) -> None:
    """For 60 bytes of asking a value may be 64 MiB; those that are asked for all come, in the end."""

    async def main() -> None:
        async with Setup() as setup:
            await setup.ask("kv/set", key="k", value="x" * 500_000)
            read = 0
            get = setup.store.get

            async def counted(extension: str, key: str) -> Any:
                nonlocal read
                read += 1
                return await get(extension, key)

            setup.store.get = counted  # type: ignore[method-assign,assignment]
            setup.pipe.pause_reading()
            asked = [asyncio.ensure_future(setup.ask("kv/get", key="k")) for _ in range(100)]
            await until(lambda: read > 1)
            await asyncio.sleep(0.3)  # for those that should not be read
            assert 1 < read < 12, "what fits under the mark, and those that were under way"
            setup.pipe.resume_reading()
            assert {len(answer["value"]) for answer in await asyncio.gather(*asked)} == {500_000}
            assert read == 100

    run(main())


LARGE = {
    "kv/list": "the list of keys",
    "session/state": "the state of the session",
    "exec/run": "what a command has written",
    "tools/set_active": "the tools that are active",
}


@pytest.mark.parametrize("method", LARGE)
def test_no_answer_piles_up_for_who_does_not_read_it(method: str, run: Run) -> None:
    """As with values: few large answers wait, the others are made when these have been read, and all of them come."""

    class Program(Everything):
        async def exec(self, extension: str, request: messages.ExecRunParams) -> messages.ExecRunResult:
            return messages.ExecRunResult(stdout=large("exec/run"), stderr="", exit_code=0)

        async def session_state(self, extension: str) -> dict[str, Any] | None:
            return {"transcript": large("session/state")}

    made = 0

    def large(of: str) -> Any:
        nonlocal made
        made += 1
        return "x" * 500_000

    async def main() -> None:
        async with Setup(Program()) as setup:

            async def keys(extension: str, prefix: str = "") -> list[str]:
                return [large("kv/list")]

            setup.store.keys = keys  # type: ignore[method-assign,assignment]
            setup.set_active = lambda extension, names: [large("tools/set_active")]  # type: ignore[method-assign]
            setup.pipe.pause_reading()
            asked = [asyncio.ensure_future(setup.ask(method, **right(ASKED[method][1]))) for _ in range(200)]
            await until(lambda: made > 1)
            await asyncio.sleep(0.1)  # for those that should not be made
            most = 68 if method == "exec/run" else 8  # commands that run at once may be more
            assert 1 < made < most
            setup.pipe.resume_reading()
            for answer in await asyncio.gather(*asked):
                assert "x" * 500_000 in str(answer)
            assert made == 200

    run(main())


@pytest.mark.parametrize("method", [method for method in ASKED if method != "ping"])
def test_nothing_is_worked_on_for_who_does_not_read_its_answers(method: str, run: Run) -> None:
    """Each request waits until it reads, 1,024 of them at most; the next ones are refused. A ping is answered."""

    async def main() -> None:
        async with Setup() as setup:
            setup.store.set = setup.store.delete = forbidden  # type: ignore[method-assign,assignment]
            setup.store.get = setup.store.keys = forbidden  # type: ignore[method-assign,assignment]
            setup.pipe.pause_reading()
            setup._host.notify("log", {"level": "info", "message": "x" * 1_100_000})
            setup.delegate.work = forbidden  # type: ignore[attr-defined]
            setup.publish = setup.set_active = at_once  # type: ignore[method-assign,assignment]
            asked = [
                asyncio.ensure_future(setup.extension.request(method, right(ASKED[method][1]))) for _ in range(1100)
            ]
            pong = asyncio.ensure_future(setup.ask("ping"))
            async with asyncio.timeout(20):
                while setup.services._serving < 1024:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            assert worked == 0
            assert setup.services._serving == 1024
            setup.pipe.resume_reading()
            assert await pong == {}
            outcomes = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), PATIENCE)
            refused = [one for one in outcomes if isinstance(one, RpcError) and one.data == {"reason": "overloaded"}]
            assert len(refused) == 76
            assert worked > 0

    worked = 0

    def at_once(*_: object) -> None:
        nonlocal worked
        worked += 1

    async def forbidden(*_: object) -> None:
        at_once()

    run(main())


def test_no_other_method_is_known(run: Run) -> None:
    """A method that hosts call on extensions is unknown to the host."""

    async def main() -> None:
        async with Setup() as setup:
            for method in ("initialize", "shutdown", "hook", "tool/execute", "kv/clear", "", "log", "registry/update"):
                assert await setup.code(method) == -32601

    run(main())


def test_what_was_asked_reaches_the_program_as_it_was_said(run: Run) -> None:
    """Params reach the program as they were sent, with the defaults filled in. Source: docs/protocol.md, section 4."""

    async def main() -> None:
        context = messages.Context(**CONTEXT)  # type: ignore[arg-type]
        async with Setup() as setup:
            for method in ACTING:
                await setup.ask(method, **right(ASKED[method][1]))
            await setup.ask("session/send_message", context=CONTEXT, text="t")
            await setup.ask("session/send_user_message", context=CONTEXT, text="t")
            assert isinstance(setup.delegate, Everything)
            assert setup.delegate.asked == [
                ("ext", messages.ExecRunParams("ls", context, ["-l"], "/")),
                ("ext", messages.SessionSendMessageParams(context, "t", "user")),
                ("ext", messages.SessionSendUserMessageParams(context, "t", "steer")),
                ("ext", messages.SessionAppendEntryParams(context, {"e": 1})),
                ("ext", messages.SessionSetModelParams(context, "m", "p", "low")),
                ("ext", None),
                ("ext", messages.SessionSendMessageParams(context, "t", "assistant")),
                ("ext", messages.SessionSendUserMessageParams(context, "t", "follow_up")),
            ]

    run(main())


# -- what is refused ---------------------------------------------------------------------------------------------------


def broken() -> Iterator[tuple[str, dict[str, Any], str]]:
    """Each method with one of its params missing, or of a wrong type."""
    for method, (_, params) in ASKED.items():
        for name in params:
            if not name.endswith("?"):
                yield method, {key.rstrip("?"): value for key, value in params.items() if key != name}, name
            if method == "kv/set" and name == "value":
                continue  # any JSON
            yield method, {**right(params), name.rstrip("?"): 1}, name.rstrip("?")
            yield method, {**right(params), name.rstrip("?"): [{}]}, name.rstrip("?")
    for kind, params in UI.items():
        for name in params:
            yield "ui/request", {"kind": kind, **right(params), name.rstrip("?"): [1]}, name.rstrip("?")
    yield "ui/request", {"kind": "hologram"}, "kind"
    yield "session/send_message", {"context": CONTEXT, "text": "", "role": "system"}, "role"
    yield "session/send_user_message", {"context": CONTEXT, "text": "", "deliver_as": "never"}, "deliver_as"
    for context in (
        {},
        {"token": "x"},
        {"tier": "command"},
        {"token": 1, "tier": "command"},
        {"token": "", "tier": 5},
    ):
        yield "session/state", {"context": context}, ""


def test_params_that_do_not_fit_are_refused_with_their_path(run: Run) -> None:
    """Bad params are -32602 with the path of the fault, and nothing is done. Source: docs/protocol.md, section 8."""

    async def main() -> None:
        async with Setup() as setup:
            count = 0
            for method, params, name in broken():
                with pytest.raises(RpcError) as refused:
                    await setup.ask(method, **params)
                error = refused.value
                assert (error.code, method in error.message) == (-32602, True), (method, params)
                assert name in error.message, (method, params, error.message)
                count += 1
            assert count > 60
            assert isinstance(setup.delegate, Everything)
            assert (setup.delegate.asked, setup.published, setup.active) == ([], [], [])
            assert await setup.store.keys("ext") == []

    run(main())


@pytest.mark.parametrize("method", [method for method, (group, _) in ASKED.items() if group])
def test_a_method_of_a_group_that_was_not_granted_is_refused(method: str) -> None:
    """The error is -32004 with the group's name; the grant of that group alone is enough.

    Source: docs/protocol.md, section 10.
    """
    group, params = ASKED[method]

    async def main() -> None:
        async with Setup(withheld=group) as setup:
            with pytest.raises(RpcError, match=f"{method}.*{group} = true") as refused:
                await setup.ask(method, **right(params))
            assert refused.value.code == -32004
            # Even where the params are wrong, too: who has no grant learns nothing.
            assert await setup.code(method) == -32004
            assert isinstance(setup.delegate, Everything)
            assert (setup.delegate.asked, setup.published, setup.active) == ([], [], [])
            await setup.ask("ping")
        async with Setup(only=group) as setup:
            await setup.ask(method, **right(params))

    asyncio.run(main())


@pytest.mark.parametrize("method", ACTING)
@pytest.mark.parametrize(
    "context",
    [
        {"token": "2-event", "tier": "event"},
        {"token": "2-event", "tier": "command"},
        {"token": CONTEXT["token"], "tier": "event"},
        {"token": "1-command", "tier": "command"},
        {"token": "", "tier": "command"},
        {"token": CONTEXT["token"] + " ", "tier": "command"},
    ],
    ids=["of an event", "forged tier", "own tier given away", "earlier life", "empty", "nearly"],
)
def test_a_context_that_gives_no_right_to_act_is_refused(method: str, context: dict[str, str]) -> None:
    """The event tier and an old token are answered with -32003. Source: docs/protocol.md, section 5."""

    async def main() -> None:
        async with Setup() as setup:
            assert await setup.code(method, **{**right(ASKED[method][1]), "context": context}) == -32003
            assert isinstance(setup.delegate, Everything)
            assert setup.delegate.asked == []

    asyncio.run(main())


def test_by_default_a_program_grants_nothing(run: Run) -> None:
    """Delegate: -32001 for the ui, -32002 for commands, -32601 for a session that is not there."""

    async def main() -> None:
        async with Setup(Delegate()) as setup:
            codes = {method: await setup.code(method, **right(ASKED[method][1])) for method in ["ui/request", *ACTING]}
            assert codes.pop("ui/request") == -32001
            assert codes.pop("exec/run") == -32002
            assert set(codes.values()) == {-32601}

    run(main())


# -- ui ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", UI)
def test_a_kind_of_ui_that_the_program_cannot_show_is_refused(kind: UiKind) -> None:
    """The kind is answered with -32001; the other kinds are shown. Source: docs/protocol.md, section 4."""

    async def main() -> None:
        delegate = Everything()
        delegate.ui_kinds = tuple(other for other in UI if other != kind)
        async with Setup(delegate) as setup:
            for one, params in UI.items():
                if one == kind:
                    assert await setup.code("ui/request", kind=one, **right(params)) == -32001
                else:
                    await setup.ask("ui/request", kind=one, **right(params))
            assert [request.kind for _, request in delegate.asked] == list(delegate.ui_kinds)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("answer", "wire"),
    [
        (messages.UiResult(value="a"), {"value": "a"}),
        (messages.UiResult(confirmed=False), {"confirmed": False}),
        (messages.UiResult(text=""), {"text": ""}),
        (messages.UiResult(), {}),
        (messages.UiResult(cancelled=True), {"cancelled": True}),
    ],
    ids=repr,
)
def test_what_the_user_answered_is_on_the_wire(answer: messages.UiResult, wire: dict[str, Any]) -> None:
    """``value``, ``confirmed``, ``text`` or ``{}``, or ``cancelled``; "no" is an answer.

    Source: docs/protocol.md, section 4.
    """

    async def main() -> None:
        delegate = Everything()
        delegate.answer = answer
        async with Setup(delegate) as setup:
            assert await setup.ask("ui/request", kind="confirm", prompt="?") == wire

    asyncio.run(main())


def test_a_user_who_thinks_long_delays_nothing_else(run: Run) -> None:
    """Requests are served side by side; the Python reference host serves them one by one in its reader.

    Source: docs/protocol.md, section 9.
    """

    async def main() -> None:
        thinking = asyncio.Event()
        delegate = Everything()
        delegate.work = thinking.wait
        async with Setup(delegate) as setup:
            questions = [asyncio.ensure_future(setup.ask("ui/request", kind="confirm", prompt="?")) for _ in range(100)]
            for _ in range(20):
                await setup.ask("kv/set", key="k", value=1)
                assert await setup.ask("kv/get", key="k") == {"value": 1}
                assert await setup.ask("ping") == {}
            assert not any(question.done() for question in questions)
            assert len(delegate.asked) == 100
            thinking.set()
            await asyncio.wait_for(asyncio.gather(*questions), PATIENCE)

    run(main())


def test_a_question_that_is_withdrawn_is_answered_once_when_the_program_has_stopped(run: Run) -> None:
    """The answer is -32800, once the delegate's coroutine has been cancelled. Source: docs/protocol.md, section 8."""

    async def main() -> None:
        asked, ended = asyncio.Event(), asyncio.Event()

        async def think() -> None:
            asked.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        delegate = Everything()
        delegate.work = think
        async with Setup(delegate) as setup:
            question = asyncio.ensure_future(setup.extension.request("ui/request", {"kind": "confirm", "prompt": "?"}))
            await asyncio.wait_for(asked.wait(), PATIENCE)
            question.cancel()
            await asyncio.wait_for(ended.wait(), PATIENCE)
            await setup.ask("ping")
            assert setup.services._serving == 0

    run(main())


def test_who_asks_too_much_at_once_is_told_so(run: Run) -> None:
    """Host: 1,024 requests of an extension are worked on, one more is refused; a ping never is."""

    async def main() -> None:
        thinking = asyncio.Event()
        delegate = Everything()
        delegate.work = thinking.wait
        async with Setup(delegate) as setup:
            ask = {"kind": "confirm", "prompt": "?"}
            questions = [asyncio.ensure_future(setup.extension.request("ui/request", ask)) for _ in range(1024)]
            await setup.ask("ping")
            with pytest.raises(RpcError) as refused:
                await setup.ask("kv/get", key="k")
            assert (refused.value.code, refused.value.data) == (-32603, {"reason": "overloaded"})
            assert await setup.ask("ping") == {}
            thinking.set()
            await asyncio.wait_for(asyncio.gather(*questions), PATIENCE)
            assert await setup.ask("kv/get", key="k") == {"value": None}

    run(main())


def test_the_keys_of_a_widget_are_its_extensions_once_it_is_shown(run: Run) -> None:
    """Widgets inside widgets and stacks count too; one that was refused has no owner.

    Source: docs/protocol.md, sections 7 and 8.
    """

    async def main() -> None:
        def widget(name: object, body: object) -> dict[str, Any]:
            return {"kind": "widget", "widget_id": name, "body": body, "keybindings": []}

        inner = widget("in-a-body", {"kind": "markdown", "text": ""})
        stack = {"kind": "stack", "children": [widget("in-a-stack", inner), {"kind": "hologram", "children": [None]}]}
        async with Setup() as setup:
            await setup.ask("ui/request", kind="set_widget", widget=widget("outer", stack))
            assert setup.widgets == dict.fromkeys(["outer", "in-a-stack", "in-a-body"], "ext")
            odd = widget(7, [])
            assert await setup.code("ui/request", kind="set_widget", widget=odd) == -32602
            assert len(setup.widgets) == 3

        async def refuse() -> None:
            raise NoUI("not now")

        delegate = Everything()
        delegate.work = refuse
        async with Setup(delegate) as setup:
            refused = widget("refused", {"kind": "markdown", "text": ""})
            assert await setup.code("ui/request", kind="set_widget", widget=refused) == -32001
            assert setup.widgets == {}

    run(main())


def test_a_key_reaches_the_owner_of_its_widget() -> None:
    """A key needs no subscription. It goes to the owner of ``widget_id``, else to the extension of that name.

    Source: docs/protocol.md, section 7.
    """
    pressed: list[tuple[str, str, dict[str, Any]]] = []

    def extension(name: str) -> Any:
        return SimpleNamespace(name=name, tell=lambda event, payload: pressed.append((name, event, payload)))

    host = Host(store=KvStore())
    host._extensions = {name: cast(Any, extension(name)) for name in ("a", "b")}
    host.owns_widget("b", "list")
    host.press_key("list", "enter")
    host.press_key("a", "x")
    assert pressed == [
        ("b", "widget/key", {"widget_id": "list", "key": "enter"}),
        ("a", "widget/key", {"key": "x"}),
    ]
    with pytest.raises(RpcError, match="no widget"):
        host.press_key("gone", "x")


# -- kv ----------------------------------------------------------------------------------------------------------------


def test_keys_and_values_pass_the_wire_unchanged(run: Run) -> None:
    """``kv/*`` keeps keys and values as they are, in the extension's own namespace.

    Source: docs/protocol.md, section 4.
    """

    async def main() -> None:
        async with Setup() as setup:
            await setup.store.set("other", "secret", 1)
            for key, value in (
                ("", None),
                ("a\0b", 2**64 - 1),
                ("😀", {"ä": [1.5]}),
                ("%", False),
                ("large", "x" * 10**6),
            ):
                assert await setup.ask("kv/set", key=key, value=value) == {}
                assert await setup.ask("kv/get", key=key) == {"value": value}
            every = sorted(["", "a\0b", "😀", "%", "large"])
            assert await setup.ask("kv/list") == {"keys": every}
            assert await setup.ask("kv/list", prefix=None) == {"keys": every}
            assert await setup.ask("kv/list", prefix="a\0") == {"keys": ["a\0b"]}
            await setup.ask("kv/delete", key="%")
            await setup.ask("kv/delete", key="never there")
            assert await setup.ask("kv/get", key="secret") == {"value": None}
            assert await setup.store.get("ext", "😀") == {"ä": [1.5]}
            assert await setup.store.get("other", "secret") == 1

    run(main())


def test_a_value_that_cannot_be_stored_is_refused_as_such() -> None:
    """-32602: what can be read 1,000 levels deep cannot be written so."""

    async def main() -> None:
        async with Setup() as setup:
            raw = b'{"jsonrpc":"2.0","id":1,"method":"kv/set","params":{"key":"k","value":%b}}\n'
            answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
            setup.extension._settle = answers.put_nowait  # type: ignore[assignment, method-assign]
            setup.extension._pending[0] = asyncio.get_running_loop().create_future()
            setup.extension.transport.write(raw % (b"[" * 600 + b"]" * 600))
            answer = await asyncio.wait_for(answers.get(), PATIENCE)
            assert answer["error"]["code"] == -32602
            assert "kv/set: the value cannot be stored" in answer["error"]["message"]
            assert await setup.store.keys("ext") == []

    asyncio.run(main())


def test_a_store_that_fails_says_so_to_who_asked(tmp_path: Path) -> None:
    """-32603 with the store's own text; nothing else of the extension's is harmed."""

    async def main() -> None:
        (tmp_path / "file").write_text("")
        async with Setup() as setup:
            setup.services._store = KvStore(tmp_path / "file" / "kv")
            for method in ("kv/get", "kv/set", "kv/delete", "kv/list"):
                with pytest.raises(RpcError, match=r"the store .* failed") as refused:
                    await setup.ask(method, **right(ASKED[method][1]))
                assert refused.value.code == -32603
            await setup.ask("ping")
            await setup.services._store.aclose()

    asyncio.run(main())


# -- bus, tools, notifications -----------------------------------------------------------------------------------------


def test_the_bus_takes_requests_and_notifications(run: Run) -> None:
    """The host accepts ``bus/publish`` as a request and as a notification. Source: docs/protocol.md, section 9."""

    async def main() -> None:
        async with Setup() as setup:
            setup.extension.notify("bus/publish", {"topic": "told", "payload": {"n": 1}})
            assert await setup.ask("bus/publish", topic="asked", payload={"n": 2}) == {}
            assert setup.published == [("ext", "told", {"n": 1}), ("ext", "asked", {"n": 2})]

    run(main())


def test_a_notification_on_the_bus_needs_its_grant_and_its_params(caplog: pytest.LogCaptureFixture) -> None:
    """A notification that is refused is never answered, but the host's log says so.

    Source: docs/protocol.md, section 10.
    """

    async def main() -> None:
        async with Setup(withheld="bus") as setup:
            setup.extension.notify("bus/publish", {"topic": "t", "payload": {}})
            await setup.ask("ping")
            assert setup.published == []
        async with Setup() as setup:
            for params in ({}, {"topic": 1, "payload": {}}, {"topic": "t", "payload": []}):
                setup.extension.notify("bus/publish", params)
            setup.extension.notify("bus/publish", {"topic": "good", "payload": {}})
            await setup.ask("ping")
            assert [topic for _, topic, _ in setup.published] == ["good"]

    with caplog.at_level(logging.WARNING, "sepkit.host"):
        asyncio.run(main())
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["ext"] * 4


def test_what_an_extension_tells_of_itself_arrives_in_order(run: Run) -> None:
    """``registry/update``, ``log`` and ``task/update`` arrive in their order. Source: docs/protocol.md, section 4."""
    health = {"task_id": "1", "name": "t", "user_id": None, "status": "running", "restart_count": 0}

    async def main() -> None:
        async with Setup() as setup:
            setup.extension.notify("log", {"level": "warn", "message": "m", "fields": {"a": 1}})
            setup.extension.notify("registry/update", {"flags": ["f"]})
            setup.extension.notify("task/update", health)
            await setup.ask("ping")
            assert setup.told == [
                ("log", messages.LogParams("warn", "m", {"a": 1})),
                ("registry/update", messages.RegistryUpdateParams(flags=["f"])),
                ("task/update", messages.TaskHealth(**health)),  # type: ignore[arg-type]
            ]

    run(main())


def test_what_is_malformed_is_ignored_and_the_next_is_taken(caplog: pytest.LogCaptureFixture) -> None:
    """A notification is never answered; the host's log names the extension and the fault."""

    async def main() -> None:
        async with Setup() as setup:
            setup.extension.notify("log", {"level": 5, "message": "m"})
            setup.extension.notify("registry/update", {"tools": [{"name": "t"}]})
            setup.extension.notify("task/update", {})
            setup.extension.notify("log", {"level": "info", "message": "good"})
            setup.extension.notify("nobody/knows", {})
            await setup.ask("ping")
            assert [(method, record.message) for method, record in setup.told] == [("log", "good")]

    with caplog.at_level(logging.WARNING, "sepkit.host"):
        asyncio.run(main())
    assert [message.rpartition(" malformed ")[2].partition(":")[0] for message in caplog.messages] == [
        "log",
        "registry/update",
        "task/update",
    ]
    assert all(message.startswith("ext: ignored a malformed") for message in caplog.messages)


@pytest.mark.parametrize(
    ("allowed", "wanted", "active"),
    [
        (None, ["ext.a", "ext.b"], ["ext.a", "ext.b"]),
        (None, ["ext.b", "no.such", "a", ""], ["ext.b"]),
        (["ext.a"], ["ext.a", "ext.b"], ["ext.a"]),
        (["ext.a"], ["ext.b"], []),
        (["ext.a", "no.such"], ["no.such"], []),
        (["ext.a"], [], []),
    ],
)
def test_the_active_tools_are_clamped_and_never_widened(
    allowed: list[str] | None, wanted: list[str], active: list[str]
) -> None:
    """``tools/set_active`` gives the tools that exist and are allowed, and the model sees just those.

    Source: docs/protocol.md, section 4.
    """
    host = Host(store=KvStore(), active_tools=allowed)
    host._extensions = {"ext": cast(Any, SimpleNamespace(name="ext"))}
    tool = messages.ToolRegistration("t", "", {})
    host._tools = {name: (cast(Any, SimpleNamespace(name="ext")), tool) for name in ("ext.a", "ext.b")}
    assert host.set_active("ext", wanted) == active
    assert [tool.name for tool in host.tools()] == active
    every = ["ext.a", "ext.b"] if allowed is None else ["ext.a"]
    assert host.set_active("ext", ["ext.a", "ext.b"]) == every


# -- what the program raises -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["ui/request", *ACTING])
@pytest.mark.parametrize("error", [ValueError, KeyError, OSError, SepkitError, ToolError, TimeoutError, SystemExit])
def test_what_nobody_foresaw_crosses_as_a_fixed_text(
    method: str, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """The wire has no secret; the log has it, under the id that crossed. SystemExit is contained too."""

    async def fail() -> None:
        raise error("planted secret")

    async def main() -> RpcError:
        delegate = Everything()
        delegate.work = fail
        async with Setup(delegate) as setup:
            with pytest.raises(RpcError) as refused:
                await setup.ask(method, **right(ASKED[method][1]))
            await setup.ask("ping")
            assert setup.services._serving == 0
        return refused.value

    refused = asyncio.run(main())
    assert refused.code == -32603
    assert "planted" not in f"{refused.message} {refused.data}"
    assert refused.data["correlation_id"] in refused.message
    assert any(refused.data["correlation_id"] in message for message in caplog.messages)
    assert "planted secret" in caplog.text


@pytest.mark.parametrize(
    "error",
    [
        NotTrusted("rules say no", data={"rule": 3}),
        NoUI("nobody"),
        Blocked("by policy"),
        ContextViolation("late"),
        MethodNotFound("no session"),
        RpcError("own code", code=-31999, data=[1]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_the_protocol_crosses_as_written(error: RpcError) -> None:
    """Delegate: it says what the extension is to know."""

    async def fail() -> None:
        raise error

    async def main() -> None:
        delegate = Everything()
        delegate.work = fail
        async with Setup(delegate) as setup:
            for method in ("ui/request", *ACTING):
                with pytest.raises(RpcError) as refused:
                    await setup.ask(method, **right(ASKED[method][1]))
                assert (refused.value.code, refused.value.message) == (error.code, error.message)
                assert refused.value.data == error.data

    asyncio.run(main())


@pytest.mark.parametrize("answer", [None, "yes", {"value": "a"}])
def test_an_answer_of_the_wrong_kind_fails_that_request_alone(answer: object, caplog: pytest.LogCaptureFixture) -> None:
    """A mistake of the program's is its own: -32603, and its log tells."""

    async def main() -> None:
        delegate = Everything()
        delegate.answer = cast(Any, answer)
        async with Setup(delegate) as setup:
            assert await setup.code("ui/request", kind="confirm", prompt="?") == -32603
            await setup.ask("ping")

    asyncio.run(main())
    assert "ui/request failed" in caplog.text

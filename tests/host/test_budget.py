"""An extension costs its neighbours nothing, whatever it sends: over real processes, judged by what is counted.

How much of a neighbour's calls is left, in time, is measured by ``benchmarks/floods.py``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import orjson
import pytest

from sepkit import peer as peers
from sepkit.errors import InternalError, InvalidData
from sepkit.faces.runner import LoopKind, new_loop
from sepkit.host import Delegate, ExtensionDied, Host, KvStore, Manifest, budget
from sepkit.host.budget import MOST_BYTES, MOST_LINES, Budget, Neighbours, Telling, weight_of
from sepkit.host.calls import TakenTooSlowly
from sepkit.host.kept import Kept
from sepkit.host.life import fitted
from sepkit.host.lives import Status
from sepkit.host.manifest import GROUPS, Capabilities, Run
from sepkit.host.rewrites import faults
from sepkit.wire import frames, messages
from sepkit.wire.converter import structure

CHILDREN: Final = Path(__file__).with_name("children")
FLOODS: Final = Path(__file__).parents[2] / "benchmarks" / "floods.py"
PATIENCE: Final = 20.0
MIB: Final = 1024 * 1024
TASK: Final = '{"task_id": str(n), "name": "t", "user_id": "", "status": "running", "restart_count": 0}'


def flooder(name: str = "flooder", *argv: str) -> Manifest:
    return Manifest(
        name=name,
        version="1",
        root=CHILDREN,
        run=Run(command=sys.executable, args=[str(CHILDREN / "flooder.py"), *argv]),
        capabilities=Capabilities(**dict.fromkeys(GROUPS, True)),  # type: ignore[arg-type]
    )


class Program(Delegate):
    """A program that is told, and asked; its user answers once they are there."""

    ui_kinds = ("confirm", "set_widget")

    def __init__(self) -> None:
        self.records: list[messages.LogParams] = []
        self.lines: list[str] = []
        self.tasks = 0
        self.asked: list[str] = []
        self.user = asyncio.Event()

    async def ui(self, extension: str, request: messages.UiRequest) -> messages.UiResult:
        self.asked.append(extension)
        await self.user.wait()
        return messages.UiResult(confirmed=True)

    def log(self, extension: str, record: messages.LogParams) -> None:
        self.records.append(record)

    def stderr(self, extension: str, line: str) -> None:
        self.lines.append(line)

    def task_changed(self, extension: str, task: messages.TaskHealth) -> None:
        self.tasks += 1


class Logged(logging.Handler):
    """What sepkit logs, with tracebacks."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))

    def count(self, text: str) -> int:
        return sum(text in line for line in self.lines)


class Flooded:
    """A host with an extension that floods it, and others if wanted."""

    def __init__(self, host: Host, program: Program, logged: Logged) -> None:
        self.host = host
        self.program = program
        self.logged = logged

    async def flood(self, pieces: str, extension: str = "flooder", **more: object) -> None:
        """Have it send, until it has sent all of it."""
        arguments = {"pieces": pieces, **more}
        async with asyncio.timeout(PATIENCE):
            await self.host.call_tool(f"{extension}.flood", arguments, timeout=None)

    def status(self, name: str = "flooder") -> Status:
        return next(one for one in self.host.status() if one.name == name)

    async def seen(self, name: str = "flooder") -> Any:
        async with asyncio.timeout(PATIENCE):
            return (await self.host.call_tool(f"{name}.seen", timeout=None)).details


Test = Callable[[Flooded], Coroutine[Any, Any, None]]


def on(loop_kind: LoopKind, test: Test, *manifests: Manifest, program: type[Program] = Program) -> Logged:
    """Run a test with a host of its own; what was logged until the host's end."""
    logged = Logged()

    async def main() -> None:
        made = program()
        async with Host(store=KvStore(), delegate=made, shutdown_grace=1, trusted=True) as host:
            for problem in await host.load(manifests or [flooder()]):
                raise problem.error
            await test(Flooded(host, made, logged))

    log = logging.getLogger("sepkit")
    log.addHandler(logged)
    try:
        with asyncio.Runner(loop_factory=lambda: new_loop(loop_kind)) as runner:
            runner.run(main())
    finally:
        log.removeHandler(logged)
    return logged


def flooded(*manifests: Manifest, program: type[Program] = Program) -> Callable[[Test], Callable[[LoopKind], None]]:
    """Runs a test on each loop."""

    def decorate(test: Test) -> Callable[[LoopKind], None]:
        @pytest.mark.parametrize("loop_kind", ["asyncio", "uvloop"])
        def on_each(loop_kind: LoopKind) -> None:
            on(loop_kind, test, *manifests, program=program)

        on_each.__name__, on_each.__doc__ = test.__name__, test.__doc__
        return on_each

    return decorate


async def until(found: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not found():
            await asyncio.sleep(0.005)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A moment is short: what is waited for in these tests does not come."""
    monkeypatch.setattr(budget, "_MOMENT", 0.02)


# -- bytes that wait ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("impatient")
@flooded()
async def test_requests_that_wait_are_refused_above_8_mib(it: Flooded) -> None:
    """Of 40 questions of 1 MiB as many wait as fit; the others are refused, and counted."""
    ask = 'ask(f"q{n}", "ui/request", {"kind": "confirm", "prompt": "x" * 2**20})'
    await it.flood(f"({ask} for n in range(40))")
    status = it.status()
    assert 4 * MIB < status.held < MOST_BYTES + MIB
    assert status.counts["refused requests"] == 40 - len(it.program.asked)
    assert len(it.program.asked) == 7
    it.program.user.set()
    await until(lambda: it.status().held < MIB)
    seen = await it.seen()
    assert (seen["results"], len(seen["errors"])) == (7, 33)
    assert {json.dumps(error["data"]) for error in seen["errors"]} == {'{"reason": "overloaded"}'}


@flooded()
async def test_one_request_alone_may_be_as_large_as_a_frame(it: Flooded) -> None:
    """A value of 20 MiB is stored, although it is more than may wait."""
    await it.flood('[ask("s", "kv/set", {"key": "k", "value": "x" * 20 * 2**20})]')
    await until(lambda: it.status().held < MIB)
    seen = await it.seen()
    assert (seen["results"], seen["errors"]) == (1, [])


@pytest.mark.usefixtures("impatient")
@flooded()
async def test_the_ids_of_requests_that_wait_count_too(it: Flooded) -> None:
    """Of 60 short questions with ids of 256 KiB no more than 8 MiB wait."""
    ask = 'ask(f"{n}" + "x" * 2**18, "ui/request", {"kind": "confirm", "prompt": "?"})'
    await it.flood(f"({ask} for n in range(60))")
    assert 25 < len(it.program.asked) < 33
    assert it.status().counts["refused requests"] == 60 - len(it.program.asked)


@flooded()
async def test_answers_that_are_not_read_are_bounded_in_bytes(it: Flooded) -> None:
    """600 pings with ids of 256 KiB, and no answer is read until all of them are sent: 8 MiB of answers wait."""
    path = Path(it.host.workspace) / f"reads-{id(it)}"
    sending = asyncio.ensure_future(
        it.flood(
            """(ask(f"{n}" + "x" * 2**18, "ping", {}) for n in range(100))""",
        )
    )
    stopping = asyncio.ensure_future(it.host.call_tool("flooder.stop", {"until": str(path)}))
    life = it.host._extension("flooder").lives.current
    assert life is not None
    transport: Any = life.peer.transport
    try:
        await stopping
        most, since = 0, it.status().waited
        for _ in range(40):
            most = max(most, transport._size)
            await asyncio.sleep(0.005)
        assert most < 12 * MIB
        assert it.status().waited >= since
    finally:
        path.touch()
    try:
        await sending
        assert (await it.seen())["results"] == 100
    finally:
        path.unlink()


@flooded()
async def test_two_that_send_each_other_much_both_go_on_reading(it: Flooded) -> None:
    """The host calls with 40 MiB of arguments in all, while a log record of 4 MiB and answers of 1 MiB come."""
    sending = asyncio.ensure_future(it.flood('[note("log", {"level": "info", "message": "x" * 2**21})] * 2'))
    calls = [it.host.call_tool("flooder.echo", {"text": "x" * MIB}, timeout=PATIENCE) for _ in range(40)]
    async with asyncio.timeout(PATIENCE):
        assert {len(result.content) for result in await asyncio.gather(*calls)} == {MIB}
        await sending


@flooded()
async def test_a_request_with_a_list_of_too_many_items_is_refused(it: Flooded) -> None:
    """All of them would be looked at in one turn of the loop."""
    await it.flood('[ask("a", "tools/set_active", {"tools": ["t"] * 100_001})]')
    (error,) = (await it.seen())["errors"]
    assert (error["code"], error["message"]) == (-32602, "tools/set_active: over 100,000 tools")


@pytest.mark.usefixtures("impatient")
@flooded()
async def test_answers_free_what_waited(it: Flooded) -> None:
    """64 values of 1 MiB, all asked for at once, are all stored: its pipe waits until the ones before are."""
    await it.flood('(ask(f"s{n}", "kv/set", {"key": "k", "value": "x" * 2**20}) for n in range(64))')
    await until(lambda: it.status().held < MIB)
    seen = await it.seen()
    refused = it.status().counts.get("refused requests", 0)
    assert seen["results"] + refused == 64
    assert seen["results"] > 7, "more than may wait at once"


@flooded()
async def test_what_it_registers_is_bounded_in_bytes(it: Flooded) -> None:
    """Of 40 tools with descriptions of 1 MiB at most 16 MiB are taken; the others are said once."""
    tool = '{"name": f"t{n}", "description": "x" * 2**20, "parameters": {}}'
    await it.flood(f'(note("registry/update", {{"tools": [{tool}]}}) for n in range(40))')
    await until(lambda: it.status().counts.get("too many tools"))
    assert 12 <= len([tool for tool in it.host.tools() if tool.name.startswith("flooder.t")]) <= 16
    assert it.status().held < 17 * MIB


ENTRIES: Final = {
    "tools": '{"name": f"n{n}", "description": "", "parameters": {}}',
    "commands": '{"name": f"n{n}", "description": ""}',
    "providers": '{"name": f"n{n}"}',
    "flags": 'f"n{n}"',
    "subscriptions": 'f"n{n}"',
    "shortcuts": '{"key": f"k{n}", "command": "c"}',
    "hooks": 'f"n{n}"',
    "message_renderers": '{"tag": f"t{n}", "template": {"kind": "markdown", "text": ""}}',
}


@pytest.mark.parametrize("kind", ENTRIES)
def test_of_each_list_of_registrations_2000_entries_are_taken(kind: str) -> None:
    """Of 30,000 in the handshake and as many in each update; that is said once."""
    entries = f"[{ENTRIES[kind]} for n in range(30_000)]"

    async def test(it: Flooded) -> None:
        if kind in ("tools", "commands", "providers", "flags", "subscriptions"):
            await it.flood(f'[note("registry/update", {{"{kind}": {entries}}})] * 3')
            await it.seen()
        assert 2_000 <= len(getattr(it.host.registrations("flooder"), kind)) <= 2_005
        assert it.status().counts[f"too many {kind}"] >= 28_000

    own = {"tools": "TOOLS + "}.get(kind, "")
    logged = on("uvloop", test, flooder("flooder", "()", f'{{"{kind}": {own}{entries}}}'))
    assert logged.count(f"it has too many {kind}") == 1


def test_of_the_models_of_all_providers_5000_are_taken() -> None:
    """A provider with more is not taken."""

    async def test(it: Flooded) -> None:
        models = '[{"id": str(n)} for n in range(3_000)]'
        await it.flood(
            f'[note("registry/update", {{"providers": [{{"name": n, "models": {models}}} for n in "abc"]}})]'
        )
        await it.seen()
        providers = it.host.registrations("flooder").providers
        assert [(one.name, len(one.models)) for one in providers] == [("flooder", 0), ("a", 3_000)]

    on("uvloop", test)


@flooded(
    flooder(
        "flooder",
        '(note("registry/update", {"tools": [{**TOOLS[0], "name": f"t{n}", "description": "x" * 2**18}]})'
        " for n in range(100))",
    )
)
async def test_what_it_tells_before_the_handshake_is_bounded_in_bytes(it: Flooded) -> None:
    """Of 100 updates of 256 KiB and more the last 4 MiB count."""
    tools = [tool for tool in it.host.registrations("flooder").tools if tool.name.startswith("t")]
    assert 4 <= len(tools) <= 16
    assert tools[-1].name == "t99"
    assert it.status().counts["shed early"] == 100 - len(tools)


@flooded()
async def test_what_it_tells_of_its_tasks_is_bounded_in_bytes(it: Flooded) -> None:
    """Of 300 made-up tasks that report 100 kB each, the last 8 MiB are remembered; the program is told of all."""
    task = TASK.replace("}", ', "last_health_status": "h" * 100_000}')
    await it.flood(f'(note("task/update", {task}) for n in range(300))')
    known = it.host.tasks()["flooder"]
    assert 70 < len(known) < 90
    assert known[-1].task_id == "299"
    assert it.status().counts["shed tasks"] == 300 - len(known)
    assert it.program.tasks == 300


@flooded()
async def test_the_tasks_of_a_dead_process_fail_some_at_a_time(it: Flooded) -> None:
    """3,000 running tasks of a process that dies: all have failed, and the program is told of each."""
    await it.flood(f'(note("task/update", {TASK}) for n in range(3_000))')
    with pytest.raises(ExtensionDied):
        await it.flood("(os._exit(0) for _ in range(1))")
    await until(lambda: it.program.tasks == 6_000)
    assert {task.status for task in it.host.tasks()["flooder"]} == {"failed"}


@flooded(flooder(), flooder("stopped"))
async def test_events_for_an_extension_that_has_stopped_are_bounded_in_bytes(it: Flooded) -> None:
    """40 messages of 1 MiB on the bus: 4 MiB of them wait; when it reads again, it is told how many it has lost."""
    path = Path(it.host.workspace) / f"goes-on-{id(it)}"
    await it.host.call_tool("stopped.stop", {"until": str(path)})
    try:
        await it.flood('(note("bus/publish", {"topic": "t", "payload": {"t": "x" * 2**20}}) for n in range(40))')
        await it.seen()
        assert 3 * MIB < it.status("stopped").held < 6 * MIB
        shed = it.status("stopped").counts["shed events"]
        assert shed > 30
        assert it.status().held < MIB, "it is the other's business, and not the sender's"
    finally:
        path.touch()
    try:
        await until(lambda: it.status("stopped").held < MIB)
        seen = await it.seen("stopped")
        assert seen["lost"] == shed
        assert len(seen["events"]) == 40 - shed
    finally:
        path.unlink()


DELTAS: Final = """(
    *(note("provider/delta", {"request_id": request_id, "event": {"type": "Delta", "content": f"{n:05}" * 100}})
      for n in range(20_000)),
    frame(id=completion, result={"content": "all"}),
)"""


@flooded()
async def test_a_slow_reader_of_a_completion_gets_all_of_it_and_little_waits(it: Flooded) -> None:
    """20,000 deltas: its pipe waits for the reader, and what waits stays under 8 MiB."""
    stream = it.host.complete("flooder", "m", [])
    events = aiter(stream)
    first = asyncio.ensure_future(anext(events))
    await until(lambda: it.status().pending == 1)
    sending = asyncio.ensure_future(it.flood(DELTAS))
    got, most = [(await first).content], 0  # type: ignore[union-attr]
    async for event in events:
        got.append(event.content)  # type: ignore[union-attr]
        if len(got) % 100 == 0:
            await asyncio.sleep(0.001)
            most = max(most, it.status().held)
    await sending
    assert [text[:5] for text in got] == [f"{n:05}" for n in range(20_000)]
    assert most < MOST_BYTES + MIB
    assert stream.result is not None
    assert stream.result.content == "all"


@pytest.mark.usefixtures("impatient")
@flooded()
async def test_a_completion_that_is_not_read_ends_with_the_reason(it: Flooded) -> None:
    """What has come until then can still be read; then it says that the events were taken too slowly."""
    events = aiter(it.host.complete("flooder", "m", []))
    first = asyncio.ensure_future(anext(events))
    await until(lambda: it.status().pending == 1)
    await it.flood(DELTAS)
    await first
    await it.seen()
    assert it.status().counts["overflown streams"] == 1
    count = 1
    try:
        async for _ in events:
            count += 1
    except TakenTooSlowly:
        count += 100_000
    assert 101_000 < count < 120_000, "not all of them, and then the error"
    await until(lambda: it.status().held < MIB)


# -- work in the loop --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "arguments"),
    [
        ({"properties": {"a": {"allOf": [{"items": {"type": "number"}}] * 300}}}, {"a": [0] * 30_000}),
        ({"properties": {"a": {"items": {"enum": [{"k": n} for n in range(1_000)]}}}}, {"a": [{"k": 999}] * 30_000}),
        ({"properties": {"a": {"pattern": "(.{0,200}){20}x"}}}, {"a": "a" * 30_000}),
        ({"properties": {"a": {"pattern": "(?=a)a+b"}}}, {"a": "a" * 30_000}),
        ({"patternProperties": {f"^(a{n}){{90}}": True for n in range(50)}}, {f"k{n}": 1 for n in range(3_000)}),
        ({"properties": {"a": {"items": {"allOf": [{"multipleOf": 1e-300}] * 8}}}}, {"a": [1e300] * 900}),
    ],
    ids=["allOf", "enum", "pattern", "look-ahead", "patterns of names", "multipleOf"],
)
def test_a_rewrite_that_would_take_long_to_check_is_refused(schema: Any, arguments: Any) -> None:
    """A tool's schema times its own rewrite: both are the extension's, and so is the product."""
    refused = faults(schema, arguments)
    assert refused is not None
    assert "takes too long" in refused or "not followed" in refused


def test_a_schema_that_looks_again_and_again_is_not_followed() -> None:
    """Twenty ``unevaluatedProperties`` within each other took 28 s for ``{"a": 1}``."""
    schema: dict[str, Any] = {"properties": {"a": True}}
    for _ in range(20):
        schema = {"anyOf": [schema], "unevaluatedProperties": False}
    assert "not followed" in str(faults(schema, {"a": 1}))
    assert faults({"properties": {"a": True}, "unevaluatedProperties": False}, {"a": 1}) is None


def test_an_ordinary_rewrite_is_checked() -> None:
    """A long text, a list, a pattern and an enumeration of the usual sizes."""
    schema = {
        "properties": {
            "text": {"type": "string", "maxLength": 2_000_000},
            "rows": {"type": "array", "items": {"type": "integer"}},
            "kind": {"enum": ["a", "b"]},
        }
    }
    arguments = {"text": "x, y " * 100_000, "rows": list(range(10_000)), "kind": "a"}
    assert faults(schema, arguments) is None
    assert faults(schema, {**arguments, "kind": "c"}) is not None
    assert faults({"properties": {"id": {"pattern": "^[a-z]{2,8}$"}}}, {"id": "abc", "text": "x" * 1_000}) is None


def test_of_wrong_items_within_wrong_items_few_are_looked_at() -> None:
    """A million faults in a frame of 64 KiB and more took seconds to be told, and 50 of them are."""
    said = {"providers": [{"name": 5, "models": [{"id": 5}] * 1_000}] * 1_000}
    with pytest.raises(InvalidData) as raised:
        structure(said, messages.RegistryUpdateParams)
    assert 50 <= len(raised.value.faults) <= 50 * 51


@flooded()
async def test_a_line_of_too_many_brackets_is_refused_before_it_is_parsed(it: Flooded) -> None:
    """Nested and empty ones alike; the extension goes on, and is told."""
    for line in ('"[" * 2**20', '"[" + "[]," * 2**19 + "1]"', '"[" + "{}," * 2**19 + "1]"'):
        await it.flood(f"[({line}).encode() + b'\\n']")
    seen = await it.seen()
    assert [error["message"] for error in seen["errors"]] == ["the line has more than 500,000 brackets"] * 3


@flooded()
async def test_an_answer_of_too_many_brackets_fails_its_call(it: Flooded) -> None:
    """At once, and not by time-out."""
    line = """(b'{"jsonrpc":"2.0","id":%d,"result":{"content":"","details":[' % rid) + b"[]," * 2**19 + b"1]}}"""
    with pytest.raises(InternalError, match="500,000 brackets"):
        await it.flood(f'[{line}\\n"]'.replace("\\n", "\\n"))


def test_a_long_line_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A notification, a request of an unknown method, and an answer to nothing, of 1 MiB each."""
    parsed: Counter[int] = Counter()

    def counting(line: Any) -> Any:
        if len(line) > MIB:
            parsed[len(line)] += 1
        return orjson.loads(line)

    monkeypatch.setattr(peers, "loads", counting)
    monkeypatch.setattr(frames, "loads", counting)

    async def test(it: Flooded) -> None:
        await it.flood(
            """[note("log", {"level": "info", "message": "x" * 2**20}),
                ask("u", "unknown", {"x": "x" * (2**20 + 100)}),
                frame(id=10**6, result="x" * (2**20 + 200))]"""
        )
        assert len(it.program.records) == 1

    on("uvloop", test)
    assert sorted(parsed.values()) == [1, 1, 1]


@flooded(flooder(), flooder("good"))
async def test_a_neighbour_is_answered_in_between_whatever_lines_come(it: Flooded) -> None:
    """While 1,500 lines of each kind come, the neighbour's calls go on, and the flood waits for them."""
    for line in ("b'{}'", "b'\\xff'", "b'[]'", "b'x' * 200", "note('hm', {}).strip()", "b''"):
        before = it.status().waited
        sending = asyncio.ensure_future(it.flood(f"[({line} + b'\\n') * 1_500]"))
        calls = 0
        while not sending.done():
            await it.host.call_tool("good.echo", {"text": "x"})
            calls += 1
        await sending
        assert calls > 1, line
        assert it.status().waited > before
    assert it.logged.count("refused a line") == 1
    assert it.status("good").waited < 0.1


@flooded(flooder())
async def test_no_turn_of_the_loop_takes_more_than_a_slice_of_lines(it: Flooded) -> None:
    """A pipe full of short lines is taken in many turns."""
    turns: Counter[int] = Counter()
    turn = 0

    def count() -> None:
        nonlocal turn
        turn += 1
        asyncio.get_running_loop().call_soon(count)

    life = it.host._extension("flooder").lives.current
    assert life is not None
    received = life.peer.frames_received

    def receive(lines: Any) -> None:
        turns[turn] += len(lines)
        received(lines)

    life.peer.frames_received = receive  # type: ignore[method-assign]
    count()
    await it.flood("[b'{}\\n' * 40_000]")
    assert sum(turns.values()) >= 40_000
    assert max(turns.values()) < 4_000, "a pipe holds over 20,000 of them"


def test_one_that_is_alone_waits_for_no_one() -> None:
    """Work is rationed only while another extension is active."""
    both = Neighbours()
    first, second = Budget("first", both), Budget("second", both)
    first.charge(0.2)
    assert first.delay() == 0, "the other one is silent"
    first.charge(0.2)
    second.heard_at = time.perf_counter()
    assert first.delay() > 0
    assert second.delay() == 0


@flooded(flooder(), flooder("good"))
async def test_answers_cost_nothing(it: Flooded) -> None:
    """2,000 calls of an extension, 256 at a time, while another one is called: it never waits."""

    async def call(name: str, count: int) -> None:
        for _ in range(count):
            await it.host.call_tool(f"{name}.echo", {"text": "x" * 100})

    await asyncio.gather(*(call("flooder", 8) for _ in range(256)), call("good", 100))
    assert it.status().waited < 0.05


@flooded()
async def test_many_flags_then_small_updates_cost_as_much_as_the_small_ones(it: Flooded) -> None:
    """20 times 20,000 flags: 2,000 are known, and a later update looks at its own entries only."""
    await it.flood('(note("registry/update", {"flags": [f"{n}-{k}" for k in range(20_000)]}) for n in range(20))')
    await it.seen()
    contributions = it.host._extension("flooder").contributions
    looked: list[str] = []
    keep = contributions._keep

    def count(kind: str, entry: Any) -> None:
        looked.append(entry)
        keep(kind, entry)

    contributions._keep = count  # type: ignore[method-assign]
    await it.flood('(note("registry/update", {"flags": ["f"]}) for n in range(50))')
    await it.seen()
    assert len(looked) == 50
    assert len(it.host.registrations("flooder").flags) == 2_000


# -- what is told ------------------------------------------------------------------------------------------------------

MALFORMED: Final = {
    "log": '{"level": 5}',
    "task/update": '{"task_id": 5}',
    "bus/publish": '{"topic": 5}',
    "registry/update": '{"tools": 5}',
    "tool/update": '{"call_id": call_id, "progress": "x"}',
    "provider/delta": '{"request_id": request_id, "event": {"type": "Delta"}}',
}


@pytest.mark.parametrize("method", MALFORMED)
def test_what_is_malformed_again_and_again_is_said_once_and_counted(method: str) -> None:
    """Of each kind of notification, 1,000."""

    async def test(it: Flooded) -> None:
        running = asyncio.ensure_future(it.host.call_tool("flooder.run", on_update=print, timeout=None))
        following = asyncio.ensure_future(anext(aiter(it.host.complete("flooder", "m", []))))
        await until(lambda: it.status().pending == 2)
        await it.flood(f'[note("{method}", {MALFORMED[method]})] * 1_000')
        assert it.status().counts[f"malformed {method}"] == 1_000
        running.cancel()
        following.cancel()

    logged = on("uvloop", test)
    assert len(logged.lines) == 2, logged.lines
    assert logged.count(f"malformed {method}: 999 times more") == 1


@flooded()
async def test_ids_of_any_kind_are_ids_that_nothing_has(it: Flooded) -> None:
    """A list as the id of a call or a stream is no error of the host's."""
    wrong = "[[], {}, 5, None, 1.5, True]"
    await it.flood(f'[note("tool/update", {{"call_id": one}}) for one in {wrong}]')
    await it.flood(f'[note("provider/delta", {{"request_id": one}}) for one in {wrong}]')
    assert it.logged.lines == []


def test_an_on_update_that_fails_again_and_again_is_told_once() -> None:
    """2,000 updates of a call: one traceback, and the number of the others."""

    def failing(update: messages.ToolUpdateParams) -> None:
        raise ValueError("the program's own fault")

    async def test(it: Flooded) -> None:
        running = asyncio.ensure_future(it.host.call_tool("flooder.run", on_update=failing, timeout=None))
        await until(lambda: it.status().pending == 1)
        await it.flood('[note("tool/update", {"call_id": call_id})] * 2_000')
        running.cancel()

    logged = on("uvloop", test)
    assert logged.count("Traceback") == 1
    assert logged.count("1,999 times more") == 1


class Failing(Program):
    """A program that fails in whatever it is told or asked."""

    async def ui(self, extension: str, request: messages.UiRequest) -> messages.UiResult:
        raise ValueError("ui")

    def log(self, extension: str, record: messages.LogParams) -> None:
        raise ValueError("log")

    def task_changed(self, extension: str, task: messages.TaskHealth) -> None:
        raise ValueError("task_changed")

    def published(self, extension: str, topic: str, payload: dict[str, Any]) -> None:
        raise ValueError("published")

    def registered(self, extension: str) -> None:
        raise ValueError("registered")


def test_a_program_that_fails_again_and_again_is_told_once() -> None:
    """Each of its methods leaves one traceback, and the extension gets an answer to each request."""

    async def test(it: Flooded) -> None:
        await it.flood('[note("log", {"level": "info", "message": "m"})] * 100')
        await it.flood(f'[note("task/update", {TASK}) for n in range(100)]')
        await it.flood('[note("bus/publish", {"topic": "t", "payload": {}})] * 100')
        await it.flood('[note("registry/update", {"flags": ["f"]})] * 100')
        await it.flood('(ask(f"u{n}", "ui/request", {"kind": "confirm", "prompt": ""}) for n in range(100))')
        await until(lambda: it.status().held < MIB)
        assert len((await it.seen())["errors"]) == 100
        assert it.status().counts["ui/request failed"] == 100

    logged = on("uvloop", test, program=Failing)
    for what in ("log", "task_changed", "published", "registered", "ui"):
        assert sum(f"ValueError: {what}" in line for line in logged.lines) == 1, what


@flooded()
async def test_1000_log_records_a_second_are_told_and_the_others_counted(it: Flooded) -> None:
    """Of 5,000 at once; then their number is told."""
    await it.flood('[note("log", {"level": "info", "message": "m"})] * 5_000')
    told = len(it.program.records)
    assert MOST_LINES <= told <= 3 * MOST_LINES
    shed = it.status().counts["log records"]
    assert told + shed - it.logged.count("more than can be told") >= 5_000
    await it.host.unload("flooder")
    numbers = [record.message for record in it.program.records if "more than can be told" in record.message]
    assert sum(int(number.split()[1].replace(",", "")) for number in numbers) == shed


@flooded()
async def test_lines_of_stderr_past_1000_a_second_are_counted(it: Flooded) -> None:
    """Of 20,000 at once the first are told, and how many more there were."""
    await it.flood('[b"line\\n" * 20_000]', fd=2)
    await it.host.unload("flooder")
    numbers = [line for line in it.program.lines if line.startswith("(and")]
    told = sum(line == "line" for line in it.program.lines)
    assert MOST_LINES <= told <= 5 * MOST_LINES
    assert told + sum(int(number.split()[1].replace(",", "")) for number in numbers) == 20_000


@flooded()
async def test_an_answer_repeats_no_long_text_of_the_question(it: Flooded) -> None:
    """A method's name of 256 KiB comes back cut."""
    await it.flood('[ask("u", "m" * 2**18, {})]')
    (error,) = (await it.seen())["errors"]
    assert error["code"] == -32601
    assert len(error["message"]) < 1_000


@flooded()
async def test_what_was_held_for_a_life_is_not_held_for_the_next(it: Flooded) -> None:
    """Unanswered questions, and what waited in the pipe, are gone with the process."""
    await it.flood('(ask(f"q{n}", "ui/request", {"kind": "confirm", "prompt": "x" * 2**20}) for n in range(3))')
    assert it.status().held > 3 * MIB
    await it.host._extension("flooder").lives.stop()
    assert it.status().held < MIB


@flooded()
async def test_what_it_says_last_is_heard_although_it_waits(it: Flooded) -> None:
    """900 tasks end with the process: the program is told of each."""
    task = TASK
    sending = asyncio.ensure_future(
        it.flood(f'(note("task/update", {task}) if n < 900 else os._exit(0) for n in range(901))')
    )
    with pytest.raises(ExtensionDied):
        await sending
    assert it.program.tasks >= 900


def test_an_answer_of_too_many_entries_is_refused() -> None:
    """Each would become a record, all of them in one turn of the loop."""
    with pytest.raises(InternalError, match="over 10,000 tasks"):
        fitted("flooder", {"tasks": [{}] * 10_001}, messages.TaskListResult)


# -- the parts ---------------------------------------------------------------------------------------------------------


def test_a_table_forgets_its_oldest_entries_and_knows_its_bytes() -> None:
    """Past its entries or its bytes; the newest is always kept, and a known key keeps its place."""
    shed: list[None] = []
    kept: Kept[str, str] = Kept(3, 100, lambda value: len(str(value)), lambda: shed.append(None))
    for name in "abcd":
        kept[name] = name
    assert (list(kept), kept.bytes, len(shed)) == (["b", "c", "d"], 6, 1)
    kept["c"] = "x" * 50
    assert (list(kept), kept.bytes) == (["b", "c", "d"], 55)
    kept["e"] = "y" * 60
    assert (list(kept), kept.bytes, len(shed)) == (["d", "e"], 63, 3)
    kept["d"] = "z" * 500
    assert (list(kept), kept.bytes, len(shed)) == (["d"], 501, 4)
    kept.clear()
    assert kept.bytes == 0


def test_a_weight_is_near_the_memory_that_data_takes() -> None:
    """Of texts, numbers, empty and nested things: no less than two thirds of it, and not ten times as much."""
    lines = [
        b'{"a":"' + b"x" * 100_000 + b'"}',
        *(b"[" + item * 20_000 + b"1]" for item in (b"[],", b"{},", b'"ab",', b"1.5,")),
        b'{"a":' * 100 + b"1" + b"}" * 100,
    ]
    for line in lines:
        orjson.loads(line)
        tracemalloc.start()
        made = orjson.loads(line)
        taken = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert taken * 0.66 < weight_of({"x": made}) < taken * 10 + 1_000, line[:20]


def test_a_telling_admits_so_many_lines_and_bytes_a_second() -> None:
    """Then it counts."""
    telling = Telling()
    telling.begin(10.0)
    assert sum(telling.admits(10) for _ in range(MOST_LINES + 7)) == MOST_LINES
    assert telling.begin(10.5) == 0
    assert telling.begin(11.1) == 7
    assert not telling.admits(budget.MOST_LINE_BYTES + 1)
    assert telling.begin(12.2) == 1


@pytest.mark.parametrize("kind", ["lines: {}", "request: kv/set", "provider/delta"])
def test_the_benchmark_of_floods_runs(kind: str) -> None:
    """A small run of it: the flooding extension lives on, its neighbour is called, and little is held and logged."""
    command = [sys.executable, str(FLOODS), "--only", kind, "--seconds", "0.3", "--json", "-"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)["rows"]
    assert (found["kind"], found["state"]) == (kind, "ready")
    assert found["calls"] > 0
    assert found["held_mib"] < 9
    assert found["grown_mib"] < 64
    assert found["logged"] < 10

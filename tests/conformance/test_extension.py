"""The correct extensions are correct, and each fault shows: byte by byte, on plain subprocesses, without the runner.

A promise is a function that speaks with a program and fails by an assertion. The correct programs keep all of them,
and each faulty one breaks the one that stands beside its name.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import pytest

from sepkit.errors import InvalidData
from sepkit.wire import messages, methods
from sepkit.wire.converter import structure_exactly
from tests.conformance.extension import FAULTS, PROGRAMS

Json = dict[str, Any]

HERE = Path(__file__).parent
# Processes start in threads while other tests run, which change the variables of this process.
_ENVIRONMENT: Final = dict(os.environ)
ROOT = HERE.parent.parent
PYTHON = (sys.executable, str(HERE / "extension.py"))
# As a module its bytecode is kept, and site-packages are not needed: a hundred of these start in half the time.
MODULE = (sys.executable, "-E", "-S", "-m", "tests.conformance.extension")
NODE = (shutil.which("node") or "node", str(HERE / "extension.mjs"))
CORRECT = {"python": PYTHON, "node": NODE}
PATIENCE = 20.0  # seconds; the machine may be busy with something else
BRIEFLY = 2.0  # seconds, for what a faulty program never does
CONTEXT = {"token": "epoch-1", "tier": "command"}
EVENT = {"event": "turn_start", "seq": 1, "context": {"token": "epoch-1", "tier": "event"}, "payload": {}}
HANDSHAKE: Json = {
    "protocol_version": 1,
    "host": {"name": "test", "version": "1"},
    "workspace": {"root": "/", "trusted": True},
    "mode": "cli",
}


class Wire:
    """A program, spawned and greeted, and what it says. A shared one serves several promises, one after another."""

    def __init__(self, command: tuple[str, ...], patience: float, *, shared: bool = False, greet: bool = True) -> None:
        self.patience, self.shared = patience, shared
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=_ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        self.mark = 0  # in lines: where the promise began that is looked at now
        self._lines: list[bytes] = []
        self._asked: list[object] = []
        self._number = 100
        self._over = False
        self._more = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        # A program that does not read can hold up a write for ever: then it is killed, and the promise is broken.
        self._limit = threading.Timer(2 * PATIENCE, self.process.kill)
        self._limit.daemon = True
        self._limit.start()
        if greet:
            self.request("initialize", HANDSHAKE, "hello")
            self.wait(lambda: bool(self._lines), PATIENCE)
            self.begin()

    def begin(self) -> None:
        """Forget what was said before."""
        self.mark, self._asked = len(self._lines), []

    def _read(self) -> None:
        assert self.process.stdout is not None
        held = b""
        while data := self.process.stdout.read(65_536):
            *whole, held = (held + data).split(b"\n")
            with self._more:
                self._lines += [line + b"\n" for line in whole]
                self._more.notify_all()
        with self._more:
            self._lines += [held] if held else []
            self._over = True
            self._more.notify_all()

    def wait(self, condition: Callable[[], bool], seconds: float | None = None) -> bool:
        """Wait until it holds, the program says no more, or the time is over; whether it holds."""
        with self._more:
            self._more.wait_for(lambda: self._over or condition(), self.patience if seconds is None else seconds)
        return condition()

    def lines(self) -> list[bytes]:
        """The lines since the beginning, their ends included."""
        return self._lines[self.mark :]

    def frames(self) -> list[Json]:
        """Those of them that are objects."""
        found = []
        for line in self.lines():
            with contextlib.suppress(ValueError):
                if isinstance(frame := json.loads(line), dict):
                    found.append(frame)
        return found

    def raw(self, data: bytes) -> None:
        """Send bytes."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):  # it has died; what it has not said tells
            self.process.stdin.write(data)

    def send(self, *frames: object) -> None:
        """Send frames, in one write."""
        self.raw(b"".join(json.dumps(frame).encode() + b"\n" for frame in frames))

    def request(self, method: str, params: object, rid: object = None, **more: object) -> Any:
        """Send a request; its id."""
        self._number += 1
        rid = self._number if rid is None else rid
        self._asked.append(rid)
        self.send({"jsonrpc": "2.0", "id": rid, "method": method, "params": params, **more})
        return rid

    def notify(self, method: str, **params: object) -> None:
        """Send a notification."""
        self.send({"jsonrpc": "2.0", "method": method, "params": params})

    def tool(self, name: str, rid: object = None, /, **arguments: object) -> Any:
        """Call a tool; the request's id."""
        params = {"call_id": "call", "tool": name, "arguments": arguments, "context": CONTEXT}
        return self.request("tool/execute", params, rid)

    def answered(self, rid: object) -> bool:
        """Whether there is an answer to a request."""
        return any(_same(frame.get("id"), rid) and "method" not in frame for frame in self.frames())

    def rest(self) -> list[Json]:
        """All frames since the beginning, once everything was said: at end-of-file, or when all is answered."""
        if self.shared:
            for rid in [*self._asked, self.request("ping", {}, "fence")]:
                assert self.wait(lambda rid=rid: self.answered(rid)), f"no answer to {rid!r}"  # type: ignore[misc]
            return [frame for frame in self.frames() if frame.get("id") != "fence"]
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.wait(lambda: False)
        return self.frames()

    def ended(self) -> int | None:
        """The exit code; None where it does not exit."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(self.patience)
        return None

    def close(self) -> None:
        """Kill it."""
        self._limit.cancel()
        self.process.kill()
        self.process.wait()
        self._reader.join(5)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


def _same(one: object, other: object) -> bool:
    return type(one) is type(other) and one == other


def result(rid: Any, value: object) -> Json:
    """The frame of an answer."""
    return {"jsonrpc": "2.0", "id": rid, "result": value}


def expect(wire: Wire, *frames: Json) -> None:
    """Expect these frames and nothing else, in any order; types count."""

    def written(those: Iterable[Json]) -> list[str]:
        return sorted(json.dumps(frame, sort_keys=True) for frame in those)

    came, wanted = written(wire.rest()), written(frames)
    if came != wanted:  # no assert: pytest would work out the difference, and most of this is meant to fail
        raise AssertionError(f"{str(came)[:500]} came, and not {str(wanted)[:500]}")


def expect_errors(wire: Wire, *wanted: tuple[object, int]) -> None:
    """Expect error frames with these ids and codes, in order, and nothing else."""
    found = wire.rest()
    for frame in found:
        assert set(frame) == {"jsonrpc", "id", "error"}, frame
        assert frame["jsonrpc"] == "2.0", frame
        assert isinstance(frame["error"], dict), frame
        assert type(frame["error"].get("code")) is int, frame
        assert isinstance(frame["error"].get("message"), str), frame
    assert [(frame["id"], frame["error"]["code"]) for frame in found] == [*wanted]


def fits(value: object, cls: Any) -> None:
    """Expect a value that is as the protocol's schema has it."""
    try:
        structure_exactly(value, cls)
    except InvalidData as error:
        raise AssertionError(str(error)) from None


def split(wire: Wire, rid: object) -> tuple[list[Json], list[Json], list[Json]]:
    """What was said before the answer to a request, its answers, and what was said after the first."""
    frames = wire.rest()
    places = [n for n, frame in enumerate(frames) if _same(frame.get("id"), rid) and "method" not in frame]
    assert places, f"no answer to {rid!r} in {frames}"
    after = [frame for n, frame in enumerate(frames) if n > places[0] and n not in places]
    return frames[: places[0]], [frames[n] for n in places], after


# --------------------------------------------------------------------------------------------------------- the promises
def lines_are_frames(wire: Wire) -> None:
    """A message is one line of UTF-8, and a line ends with exactly one 0x0A. Source: docs/protocol.md, section 1."""
    wire.tool("echo", text="é\u2028 \n")
    wire.request("ping", {})
    wire.rest()
    assert wire.lines()
    for line in wire.lines():
        assert line.endswith(b"}\n"), line
        assert line.startswith(b"{"), line
        assert b"\r" not in line, line
        assert isinstance(json.loads(line.decode("utf-8")), dict)


def lines_are_utf8(wire: Wire) -> None:
    """Lines are UTF-8, and non-ASCII text comes back as it came. Source: docs/protocol.md, section 1."""
    rid = wire.tool("echo", text="é")
    wire.rest()
    said = [json.loads(line.decode("utf-8", "replace")) for line in wire.lines()]
    assert result(rid, {"content": "é"}) in said


def the_handshake_fits(wire: Wire) -> None:
    """The first frame is the answer to ``initialize``, with registrations that fit the schema.

    Source: docs/protocol.md, sections 2, 3 and 8.
    """
    wire.rest()
    answer = json.loads(wire._lines[0])
    assert _same(answer.get("id"), "hello"), f"said before the answer: {answer}"
    fits(answer.get("result"), messages.InitializeResult)
    greeting = answer["result"]
    assert _same(greeting["protocol_version"], 1)
    given = greeting["registrations"]
    tools = [tool["name"] for tool in given["tools"]]
    assert sorted(set(tools)) == sorted(tools) == ["ask", "echo", "fail", "slow"]
    assert set(given["hooks"]) <= methods.HOOKS
    assert set(given["subscriptions"]) <= methods.EVENTS
    assert {one["command"] for one in given["shortcuts"]} <= {one["name"] for one in given["commands"]}
    assert given["flags"]
    assert given["providers"]
    assert given["message_renderers"]


def pings_are_answered(wire: Wire) -> None:
    """``ping`` is answered with {}. Source: docs/protocol.md, section 3."""
    expect(wire, result(wire.request("ping", {}), {}))


def ids_come_back(wire: Wire) -> None:
    """Ids come back as they came, 0 and the empty string too, and 7 and "7" are two."""
    ids: tuple[int | str, ...] = (0, "", 7, "7", -7, 2**53 - 1, "request-1")
    for rid in ids:
        wire.request("ping", {}, rid)
    expect(wire, *(result(rid, {}) for rid in ids))


def a_tool_is_answered_once(wire: Wire) -> None:
    """A call is answered with one frame, which has its id and a result with content.

    Source: docs/protocol.md, sections 1 and 3.
    """
    expect(wire, result(wire.tool("echo", text="Ada"), {"content": "Ada"}))


def a_failure_is_a_result(wire: Wire) -> None:
    """A tool's failure is a result with ``is_error``; ``log`` has one of five levels.

    Source: docs/protocol.md, sections 3 and 4.
    """
    before, (answer, *others), after = split(wire, wire.tool("fail"))
    assert not others + after
    fits(answer.get("result"), messages.ToolExecuteResult)
    assert answer["result"]["is_error"] is True
    assert [frame["method"] for frame in before] == ["log"]
    fits(before[0]["params"], messages.LogParams)


def wrong_arguments_are_a_result(wire: Wire) -> None:
    """Arguments that break the tool's schema, and an unknown tool, are told to the model: is_error."""
    ids = [
        wire.tool("echo"),
        wire.tool("echo", text=5),
        wire.tool("echo", text="Ada", more=1),
        wire.tool("slow", seconds=-1),
        wire.tool("slow", seconds=True),
        wire.tool("nothing"),
    ]
    found = {frame.get("id"): frame.get("result") for frame in wire.rest()}
    assert sorted(found, key=str) == ids
    assert all(isinstance(value, dict) and value.get("is_error") is True for value in found.values()), found


def unknown_methods_are_refused(wire: Wire) -> None:
    """An unknown method is answered with -32601, under its own id; so is a notification's name with an id.

    Source: docs/protocol.md, section 8.
    """
    ids = [wire.request(method, {}) for method in ("unknown/method", "event", "$/cancel", "")]
    expect_errors(wire, *((rid, -32601) for rid in ids))


def bad_params_are_refused(wire: Wire) -> None:
    """Params that do not fit are answered with -32602, not with -32601. Source: docs/protocol.md, section 8."""
    ids = [
        wire.request("tool/execute", {"tool": "echo", "arguments": {"text": "Ada"}, "context": CONTEXT}),
        wire.request("tool/execute", {"call_id": "c", "tool": "echo", "arguments": [], "context": CONTEXT}),
        wire.request("tool/execute", {"call_id": "c", "tool": "echo", "arguments": {}, "context": {"token": "t"}}),
        wire.request("hook", {"hook": "no_hook", "context": CONTEXT, "input": {}}),
        wire.request("provider/complete", {"request_id": "r", "provider": "parrot", "model": "small"}),
    ]
    expect_errors(wire, *((rid, -32602) for rid in ids))


def unknown_names_are_refused(wire: Wire) -> None:
    """An unknown command or provider is answered as bad params. Source: docs/protocol.md, section 8."""
    command = wire.request("command/execute", {"command": "nothing", "context": CONTEXT})
    assert wire.wait(lambda: wire.answered(command))  # each call has its thread: the order is not promised
    provider = wire.request("provider/oauth_login", {"provider": "nothing"})
    expect_errors(wire, (command, -32602), (provider, -32602))


def unknown_keys_are_ignored(wire: Wire) -> None:
    """Unknown fields of a frame are ignored. Source: docs/protocol.md, section 1."""
    expect(wire, result(wire.request("ping", {}, None, trace="abc", meta={}), {}))


def unknown_fields_are_ignored(wire: Wire) -> None:
    """Unknown fields of params are ignored, at every depth. Source: docs/protocol.md, section 1."""
    context = {**CONTEXT, "more": 1}
    params = {"call_id": "c", "tool": "echo", "arguments": {"text": "Ada"}, "context": context, "protocol_version": "x"}
    expect(wire, result(wire.request("tool/execute", params), {"content": "Ada"}))


def bad_json_is_told(wire: Wire) -> None:
    """Bad JSON, NaN and a bare NUL are answered with -32700 and the id null; the next line is served."""
    lines = (
        b"hello",
        b'{"jsonrpc":"2.0","id":1,"method":"ping"',
        b'{"jsonrpc":"2.0","id":NaN}',
        b"\0",
        b"\xef\xbb\xbf{}",
    )
    wire.raw(b"".join(line + b"\n" for line in lines))
    expect_errors(wire, *[(None, -32700)] * len(lines))


def bad_utf8_is_told(wire: Wire) -> None:
    """Bad UTF-8 is answered with -32700 and the id null; the next line is served."""
    wire.raw(b'{"jsonrpc":"2.0","id":1,"method":"\xff"}\n\x80\n')
    expect_errors(wire, (None, -32700), (None, -32700))


def non_frames_are_told(wire: Wire) -> None:
    """JSON that is not a frame is answered with -32600, with the id where it can be read."""
    ping: Json = {"jsonrpc": "2.0", "id": "p", "method": "ping"}
    bad_ids: tuple[object, ...] = (None, True, 1.5, {}, [1])
    nameless: list[object] = [None, 5, "ping", True, [], [ping], {}]
    nameless += [{**ping, "id": rid} for rid in bad_ids]
    wire.send(*nameless)
    named: list[Json] = [
        {"id": "p", "method": "ping"},
        {**ping, "jsonrpc": "1.0"},
        {**ping, "jsonrpc": 2},
        {**ping, "method": 5},
        {**ping, "params": []},
        {**ping, "params": None},
        {"jsonrpc": "2.0", "id": "p"},
    ]
    wire.send(*named)
    expect_errors(wire, *[(None, -32600)] * len(nameless), *[("p", -32600)] * len(named))


def readable_spellings_are_read(wire: Wire) -> None:
    """CR LF, blank lines, spaces and keys in another order are read; a blank line is not a frame."""
    wire.raw(b'\n\r\n { "params":{}, "method" : "p\\u0069ng" ,"id": "a", "jsonrpc":"2.0" } \r\n')
    assert wire.wait(lambda: wire.answered("a"))
    expect(wire, result("a", {}))


def long_lines_are_read(wire: Wire) -> None:
    """A line may be longer than 64 KiB, in both directions."""
    text = "x" * 300_000
    expect(wire, result(wire.tool("echo", text=text), {"content": text}))


def notifications_are_not_answered(wire: Wire) -> None:
    """No notification is answered: unknown ones, events, requests without an id, events without params."""
    wire.notify("unknown/notification", a=1)
    wire.notify("ping")
    wire.notify("event", **EVENT)
    wire.notify("event")
    wire.send({"jsonrpc": "2.0", "method": "event"})
    expect(wire, result(wire.request("ping", {}), {}))


def stray_answers_are_ignored(wire: Wire) -> None:
    """An answer is never answered and ends nothing, whether a request is waiting for it or not.

    Source: docs/protocol.md, section 1.
    """
    wire.send(result(987, {}), result("nobody", {}), {"jsonrpc": "2.0", "id": 5, "error": {"code": 1, "message": ""}})
    wire.send(result(None, {}), {"id": 6, "result": {}, "error": None})
    expect(wire, result(wire.request("ping", {}), {}))


def stray_cancels_are_ignored(wire: Wire) -> None:
    """A cancel for an unknown id has no effect. Source: docs/protocol.md, section 8."""
    wire.notify("$/cancel", id=987)
    wire.notify("$/cancel", id="nobody")
    expect(wire, result(wire.request("ping", {}), {}))


def a_slow_call_holds_nothing_up(wire: Wire) -> None:
    """The reader never waits for a call: a ping sent after a slow call is answered before it."""
    slow = wire.tool("slow", seconds=1)
    ping = wire.request("ping", {})
    assert [frame["id"] for frame in wire.rest() if "id" in frame] == [ping, slow]


def an_id_in_use_is_refused(wire: Wire) -> None:
    """A request with an id in flight is answered with -32600, and the first call goes on."""
    rid = wire.tool("slow", seconds=0.5)
    wire.tool("echo", rid, text="Ada")
    assert wire.wait(lambda: sum("method" not in frame for frame in wire.frames()) == 2)
    refusal, answer = (frame for frame in wire.rest() if "method" not in frame)
    assert (refusal["id"], refusal["error"]["code"]) == (rid, -32600)
    assert answer == result(rid, {"content": "0.5 s later"})


def progress_comes_before_the_answer(wire: Wire) -> None:
    """Progress goes from 0 to 1 under the call's own id, and comes before the answer.

    Source: docs/protocol.md, section 4.
    """
    before, answers, after = split(wire, wire.tool("slow", seconds=0.02))
    assert len(answers) == 1
    assert not after
    for frame in before:
        assert frame["method"] == "tool/update"
        fits(frame["params"], messages.ToolUpdateParams)
    assert [(x["params"].get("call_id"), x["params"].get("progress")) for x in before] == [
        ("call", 0.25),
        ("call", 0.5),
        ("call", 0.75),
        ("call", 1),
    ]


def a_cancelled_call_is_answered_once(wire: Wire) -> None:
    """A cancelled call is answered once, with -32800, when its work has stopped; no progress follows.

    Source: docs/protocol.md, section 8.
    """
    began = wire.tool("slow", seconds=2)
    assert wire.wait(lambda: bool(wire.frames()), PATIENCE)  # it is at work
    wire.notify("$/cancel", id=began)
    at_once = wire.tool("slow", seconds=2)
    wire.notify("$/cancel", id=at_once)
    frames = wire.rest()
    for rid in (began, at_once):
        answers = [n for n, frame in enumerate(frames) if frame.get("id") == rid]
        assert len(answers) == 1, f"{len(answers)} answers"
        assert frames[answers[0]].get("error", {}).get("code") == -32800
        assert all("id" in frame for frame in frames[answers[0] + 1 :]), "it works on"


def hooks_decide(wire: Wire) -> None:
    """A hook answers continue, block, or modify with the whole new input. Source: docs/protocol.md, section 6."""

    def ask(hook: str, value: Json) -> Any:
        return wire.request("hook", {"hook": hook, "context": CONTEXT, "input": value})

    bash = ask("tool_call", {"tool": "bash", "arguments": {"command": "ls"}})
    worse = ask("tool_call", {"tool": "bash", "arguments": {"command": "rm -rf /"}})
    echo = ask("tool_call", {"tool": "plain.echo", "arguments": {"text": " Ada "}, "more": 1})
    start = ask("before_agent_start", {"system_prompt": "Be brief.", "more": 1})
    other = ask("context", {"messages": []})
    outcomes = {frame.get("id"): frame.get("result") for frame in wire.rest()}
    assert outcomes == {
        bash: {"action": "continue"},
        worse: {"action": "block", "reason": "rm -rf is not wanted here"},
        echo: {"action": "modify", "patch": {"tool": "plain.echo", "arguments": {"text": "Ada"}, "more": 1}},
        start: {
            "action": "modify",
            "patch": {"system_prompt": "Be brief.\nSay which colour you like.", "more": 1},
        },
        other: {"action": "continue"},
    }


def commands_answer(wire: Wire) -> None:
    """A command answers with content, its completion with a list, which may be empty.

    Source: docs/protocol.md, section 3.
    """
    params = {"command": "colour", "context": CONTEXT}
    expect(
        wire,
        result(wire.request("command/execute", {**params, "arguments": {"name": "blue"}}), _content("blue")),
        result(wire.request("command/execute", params), _content("red")),
        result(
            wire.request("command/complete", {**params, "partial": "gr"}),
            {"completions": [{"value": "green", "description": "The colour green"}]},
        ),
        result(wire.request("command/complete", {**params, "command": "turns"}), {"completions": []}),
    )


def _content(colour: str) -> Json:
    return {"content": f"The colour is {colour}."}


def _completion(wire: Wire, **more: object) -> Any:
    asking = {"role": "user", "content": "Hi"}
    params = {"request_id": "r", "provider": "parrot", "model": "small", "messages": [asking], **more}
    return wire.request("provider/complete", params)


def a_provider_answers(wire: Wire) -> None:
    """The result is whole, and no deltas are sent unless they were asked for. Source: docs/protocol.md, section 3."""
    before, (answer, *others), after = split(wire, _completion(wire))
    assert not before + others + after
    fits(answer.get("result"), messages.ProviderCompleteResult)
    assert answer["result"]["content"] == "You said: Hi"
    assert answer["result"]["finish_reason"] == "stop"
    assert all(count >= 0 for count in answer["result"]["usage"].values())


def a_provider_streams(wire: Wire) -> None:
    """Deltas carry the request_id, make up the result, and come before the answer.

    Source: docs/protocol.md, section 4.
    """
    before, (answer, *others), after = split(wire, _completion(wire, stream=True, context=CONTEXT))
    assert not others + after
    for frame in before:
        assert frame["method"] == "provider/delta"
        assert frame["params"]["request_id"] == "r"
    events = [frame["params"]["event"] for frame in before]
    assert [event.get("type") for event in events] == ["Model", "Delta", "Delta", "Delta", "Usage", "Done"]
    assert "".join(event.get("content", "") for event in events) == answer["result"]["content"] == "You said: Hi"


def a_login_gives_credentials(wire: Wire) -> None:
    """Login and refresh give ``expires_at`` in seconds of Unix time, as an integer.

    Source: docs/protocol.md, section 3.
    """
    wire.request("provider/oauth_login", {"provider": "parrot", "context": CONTEXT})
    wire.request("provider/oauth_refresh", {"provider": "parrot", "refresh_token": "refresh"})
    found = wire.rest()
    assert len(found) == 2
    for frame in found:
        fits(frame.get("result"), messages.Credentials)
        assert type(frame["result"]["expires_at"]) is int
        assert frame["result"]["expires_at"] > time.time()


def _serve(wire: Wire, reply: Callable[[str], Json], count: int = 4) -> list[Json]:
    """Answer so many requests of the program; they."""
    for number in range(count):
        assert wire.wait(lambda: len(_requests(wire)) > number), f"request {number} did not come"  # noqa: B023
        request = _requests(wire)[number]
        wire.send({"jsonrpc": "2.0", "id": request["id"], **reply(request["method"])})
    return _requests(wire)


def _requests(wire: Wire) -> list[Json]:
    return [frame for frame in wire.frames() if "method" in frame and "id" in frame]


def _agree(method: str) -> Json:
    return {"result": {"ui/request": {"confirmed": True}, "kv/get": {"value": 4}}.get(method, {})}


def the_host_is_asked_well(wire: Wire) -> None:
    """Requests to the host have ids of their own, params that fit, and the context of the call.

    Source: docs/protocol.md, sections 1, 4 and 5.
    """
    rid = wire.tool("ask", question="Really?")
    asked = _serve(wire, _agree)
    assert len({json.dumps(frame["id"]) for frame in asked}) == 4
    assert [(frame["method"], frame["params"]) for frame in asked] == [
        ("ui/request", {"kind": "confirm", "prompt": "Really?"}),
        ("kv/get", {"key": "asked"}),
        ("kv/set", {"key": "asked", "value": 5}),
        ("session/append_entry", {"context": CONTEXT, "entry": {"question": "Really?", "agreed": True}}),
    ]
    assert wire.wait(lambda: wire.answered(rid))
    answer = next(frame for frame in wire.rest() if frame.get("id") == rid and "method" not in frame)
    assert answer == result(rid, {"content": "yes", "details": {"asked": 5, "refused": []}})


def a_refusal_is_survived(wire: Wire) -> None:
    """Hosts lack many methods, and an extension goes on without them. Source: docs/protocol.md, section 9."""
    rid = wire.tool("ask")
    _serve(wire, lambda method: {"error": {"code": -32601, "message": "not here"}})
    assert wire.wait(lambda: wire.answered(rid))
    answer = next(frame for frame in wire.rest() if frame.get("id") == rid and "method" not in frame)
    assert answer["result"]["content"] == "no"
    assert len(answer["result"]["details"]["refused"]) == 4


def a_cancel_reaches_what_was_asked(wire: Wire) -> None:
    """A call that is cancelled while it asks the host cancels its question and ignores the late answer."""
    rid = wire.tool("ask")
    assert wire.wait(lambda: bool(_requests(wire)))
    (request,) = _requests(wire)
    wire.notify("$/cancel", id=rid)
    assert wire.wait(lambda: len(wire.frames()) >= 3)
    wire.send(result(request["id"], {"confirmed": True}))
    rest = [frame for frame in wire.rest() if "id" not in frame or "method" not in frame]
    cancel, answer = rest
    assert (cancel.get("method"), cancel.get("params")) == ("$/cancel", {"id": request["id"]})
    assert (answer["id"], answer["error"]["code"]) == (rid, -32800)


# Promises that need a process of their own.
def a_shutdown_is_answered_and_done(wire: Wire) -> None:
    """``shutdown`` is answered and the process exits within 5 s, with stdin open; accepted calls are answered.

    Source: docs/protocol.md, section 2.
    """
    call = wire.tool("slow", seconds=0.2)
    rid = wire.request("shutdown", {})
    code = wire.ended()
    answers = [frame for frame in wire.rest() if "id" in frame]
    assert answers == [result(call, {"content": "0.2 s later"}), result(rid, {})]
    assert code == 0


def end_of_input_is_the_end(wire: Wire) -> None:
    """At end-of-file accepted calls are answered, and the process exits with 0."""
    call = wire.tool("slow", seconds=0.2)
    assert [frame for frame in wire.rest() if "id" in frame] == [result(call, {"content": "0.2 s later"})]
    assert wire.ended() == 0


def the_end_waits_for_no_host(wire: Wire) -> None:
    """A call that waits for the host, and one that is far from done, are ended in time.

    Source: docs/protocol.md, section 2.
    """
    asking, slow = wire.tool("ask"), wire.tool("slow", seconds=3600)
    assert wire.wait(lambda: bool(_requests(wire)))
    began = time.monotonic()
    codes = {frame["id"]: frame.get("error", {}).get("code") for frame in wire.rest() if "method" not in frame}
    assert codes == {asking: None, slow: -32800}
    assert wire.ended() == 0
    assert time.monotonic() - began < 5


SHARED: tuple[Callable[[Wire], None], ...] = (
    the_handshake_fits,
    lines_are_frames,
    lines_are_utf8,
    pings_are_answered,
    ids_come_back,
    a_tool_is_answered_once,
    a_failure_is_a_result,
    wrong_arguments_are_a_result,
    unknown_methods_are_refused,
    bad_params_are_refused,
    unknown_names_are_refused,
    unknown_keys_are_ignored,
    unknown_fields_are_ignored,
    bad_json_is_told,
    bad_utf8_is_told,
    non_frames_are_told,
    readable_spellings_are_read,
    long_lines_are_read,
    notifications_are_not_answered,
    stray_answers_are_ignored,
    stray_cancels_are_ignored,
    a_slow_call_holds_nothing_up,
    an_id_in_use_is_refused,
    progress_comes_before_the_answer,
    a_cancelled_call_is_answered_once,
    hooks_decide,
    commands_answer,
    a_provider_answers,
    a_provider_streams,
    a_login_gives_credentials,
    the_host_is_asked_well,
    a_refusal_is_survived,
    a_cancel_reaches_what_was_asked,
)
ALONE: tuple[Callable[[Wire], None], ...] = (
    a_shutdown_is_answered_and_done,
    end_of_input_is_the_end,
    the_end_waits_for_no_host,
)
BROKEN_BY: dict[Callable[[Wire], None], str] = {
    lines_are_frames: "crlf blank-lines pretty-json bom prints batch-answer",
    lines_are_utf8: "latin-1",
    the_handshake_fits: "version-2 version-text no-version no-name extension-text early-log tool-without-parameters"
    " tool-without-description parameters-text tool-twice tools-by-name unknown-hook event-as-hook hook-as-subscription"
    " shortcut-to-nothing unknown-block model-text",
    pings_are_answered: "no-pong pong-error pong-text no-jsonrpc jsonrpc-1.0",
    ids_come_back: "string-id loses-zero",
    a_tool_is_answered_once: "other-id answers-twice unasked-answer result-and-error no-result null-error"
    " content-number content-blocks no-content result-text is-error-text",
    a_failure_is_a_result: "log-level",
    unknown_methods_are_refused: "unknown-method-served unknown-method-code unknown-method-silent null-id"
    " error-without-code error-code-text error-without-message error-text",
    bad_params_are_refused: "bad-params-code bad-params-silent",
    unknown_keys_are_ignored: "refuses-unknown-keys",
    unknown_fields_are_ignored: "refuses-unknown-fields",
    bad_json_is_told: "dies-on-bad-json silent-on-bad-json bad-json-code",
    bad_utf8_is_told: "hangs-on-bad-utf8",
    non_frames_are_told: "dies-on-null takes-batches takes-any-jsonrpc",
    long_lines_are_read: "dies-on-long-line",
    notifications_are_not_answered: "answers-notifications answers-events dies-on-bare-event",
    stray_answers_are_ignored: "answers-answers dies-on-unknown-answer",
    stray_cancels_are_ignored: "unknown-cancel-answered dies-on-unknown-cancel",
    a_slow_call_holds_nothing_up: "one-at-a-time",
    progress_comes_before_the_answer: "progress-2.0 update-call-id update-without-call-id late-progress",
    a_cancelled_call_is_answered_once: "cancel-ignored cancel-unanswered cancel-answered-twice cancel-code"
    " cancel-works-on",
    hooks_decide: "hook-action hook-without-patch hook-patch-list hook-null",
    commands_answer: "command-content no-completions completion-texts",
    a_provider_answers: "provider-content tool-call-without-id usage-negative deltas-unasked",
    a_provider_streams: "delta-request-id delta-without-type late-delta",
    a_login_gives_credentials: "expiry-text",
    the_host_is_asked_well: "ui-kind ui-without-prompt kv-key-number kv-without-value other-token other-tier"
    " session-without-context id-again asks-unknown-method",
    a_refusal_is_survived: "dies-on-refusal",
    a_shutdown_is_answered_and_done: "no-shutdown-answer ignores-shutdown stays-after-shutdown",
    end_of_input_is_the_end: "ignores-end-of-file",
}
PROMISE_OF = {name: promise for promise, names in BROKEN_BY.items() for name in names.split()}


# ------------------------------------------------------------------------------------------------------------ the tests
MISTAKEN = "the test itself failed: "
Verdicts = dict[str, str]  # promise: how it was broken, or nothing


def _judge(wire: Wire, promise: Callable[[Wire], None]) -> str:
    try:
        promise(wire)
    except AssertionError as broken:
        return str(broken) or "broken"
    except Exception:  # the promise has a mistake, which must not pass for a broken one
        return MISTAKEN + traceback.format_exc()
    return ""


def _judge_alone(command: tuple[str, ...], promise: Callable[[Wire], None], patience: float) -> str:
    wire = Wire(command, patience)
    try:
        if promise is the_handshake_fits:
            wire.mark = 0
        return _judge(wire, promise)
    finally:
        wire.close()


def _judge_shared(command: tuple[str, ...]) -> Verdicts:
    wire = Wire(command, PATIENCE, shared=True)
    verdicts = {}
    try:
        for promise in SHARED:
            wire.begin()
            verdicts[promise.__name__] = _judge(wire, promise)
    finally:
        wire.close()
    return verdicts


class Bench:
    """All programs, running beside each other; a test asks for its own verdict."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        usable = {name: command for name, command in CORRECT.items() if name != "node" or shutil.which("node")}
        self._shared = {name: pool.submit(_judge_shared, command) for name, command in usable.items()}
        self._alone: dict[tuple[str, str], Future[str]] = {
            (name, promise.__name__): pool.submit(_judge_alone, command, promise, PATIENCE)
            for name, command in usable.items()
            for promise in ALONE
        }
        self._faulty = {
            name: pool.submit(_judge_alone, (*MODULE, "--fault", name), promise, BRIEFLY)
            for name, promise in PROMISE_OF.items()
        }

    def correct(self, language: str, promise: str) -> str:
        """How a correct program broke a promise; nothing, where it kept it."""
        if (language, promise) in self._alone:
            return self._alone[language, promise].result(50)
        return self._shared[language].result(50)[promise]

    def faulty(self, name: str) -> str:
        """How a faulty program broke its promise."""
        return self._faulty[name].result(50)


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with ThreadPoolExecutor(8) as pool:
        yield Bench(pool)


@pytest.mark.parametrize("promise", [promise.__name__ for promise in (*SHARED, *ALONE)])
@pytest.mark.parametrize("language", [*CORRECT])
def test_a_correct_extension_keeps_each_promise(bench: Bench, language: str, promise: str) -> None:
    """What each promise is demanded by stands in its docstring."""
    if language == "node" and shutil.which("node") is None:
        pytest.skip("there is no node")
    assert not bench.correct(language, promise)


@pytest.mark.parametrize("name", [*FAULTS])
def test_each_fault_breaks_its_promise(bench: Bench, name: str) -> None:
    """A fault that nothing shows would be no test of a runner: it is seen at byte level."""
    verdict = bench.faulty(name)
    assert not verdict.startswith(MISTAKEN), verdict
    assert verdict, f"{name} keeps the promise {PROMISE_OF[name].__name__}"


def test_the_faults_can_be_listed() -> None:
    """``--list-faults`` prints each name and what is wrong, as JSON; every one of them can be run."""
    listed = subprocess.run([*PYTHON, "--list-faults"], capture_output=True, check=True, timeout=PATIENCE)
    assert json.loads(listed.stdout) == FAULTS
    assert set(FAULTS) == set(PROGRAMS) == set(PROMISE_OF)
    assert len(set(FAULTS.values())) == len(FAULTS) >= 32


@pytest.mark.parametrize("language", [*CORRECT])
def test_a_newer_host_is_met_at_version_1(language: str) -> None:
    """The effective version is min(host, extension). Before ``initialize`` only ``ping`` is served.

    Source: docs/protocol.md, section 1.
    """
    if language == "node" and shutil.which("node") is None:
        pytest.skip("there is no node")
    wire = Wire(CORRECT[language], PATIENCE, greet=False)
    try:
        early = wire.tool("echo", text="Ada")
        ping = wire.request("ping", {})
        bad = wire.request("initialize", {**HANDSHAKE, "protocol_version": 0})
        good = wire.request("initialize", {**HANDSHAKE, "protocol_version": 3, "flags": {"loud": True}})
        again = wire.request("initialize", HANDSHAKE)
        call = wire.tool("echo", text="Ada")  # in the same write
        found: Json = {frame["id"]: frame.get("result", frame.get("error")) for frame in wire.rest()}
    finally:
        wire.close()
    assert list(found) == [early, ping, bad, good, again, call]
    assert [found[rid]["code"] for rid in (early, bad, again)] == [-32600, -32602, -32600]
    assert found[ping] == {}
    assert found[good]["protocol_version"] == 1
    assert found[call] == {"content": "ADA"}

"""A correct SEP extension in plain Python, without sepkit; and, with ``--fault NAME``, one that is wrong in one thing.

What the conformance runner and the host are tested on: ``Extension`` is right, and each class below it that is called
by a fault differs from it in that alone. Not an example of how to write an extension; those are in ``plugins/``.

    python extension.py [--fault NAME | --list-faults]
"""

from __future__ import annotations

import itertools
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

Json = dict[str, Any]
Id = int | str | None

HOOKS = (
    *("tool_call", "user_bash", "tool_result", "input", "before_agent_start", "context", "before_provider_request"),
    *("message_end", "session_before_compact", "session_before_tree"),
)
COLOURS = ("red", "green", "blue")
CONTEXT: Json = {"token": str, "tier": ("event", "command")}
# What the params of a request must have: a type, a choice of words, an object, or a list of one of them.
PARAMS: dict[str, Json] = {
    "initialize": {
        "protocol_version": int,
        "host": {"name": str, "version": str},
        "workspace": {"root": str, "trusted": bool},
        "session?": {"id?": str},
        "mode": ("tui", "web", "widget", "cli", "headless"),
        "ui_capabilities?": [str],
        "flags?": dict,
        "capabilities_enabled?": dict,
    },
    "shutdown": {},
    "hook": {"hook": HOOKS, "context": CONTEXT, "input": dict},
    "tool/execute": {"call_id": str, "tool": str, "arguments": dict, "context": CONTEXT},
    "command/execute": {"command": str, "context": CONTEXT, "arguments?": dict},
    "command/complete": {"command": str, "context": CONTEXT, "partial?": str},
    "provider/complete": {
        "request_id": str,
        "provider": str,
        "model": str,
        "messages": [dict],
        "tools?": [dict],
        "stream?": bool,
        "response_format?": dict,
        "thinking?": str,
        "context?": CONTEXT,
    },
    "provider/oauth_login": {"provider": str, "refresh_token?": str, "context?": CONTEXT},
    "provider/oauth_refresh": {"provider": str, "refresh_token?": str, "context?": CONTEXT},
}


def fits(value: object, spec: object) -> bool:
    """Whether a value is as ``PARAMS`` demands; unknown fields are ignored."""
    if isinstance(spec, dict):
        return isinstance(value, dict) and all(
            fits(value[name], kind) if (name := key.removesuffix("?")) in value else key.endswith("?")
            for key, kind in spec.items()
        )
    if isinstance(spec, list):
        return isinstance(value, list) and all(fits(item, spec[0]) for item in value)
    return value in spec if isinstance(spec, tuple) else type(value) is spec


def tool(name: str, description: str, required: tuple[str, ...] = (), **properties: Json) -> Json:
    """A tool's registration."""
    schema = {"type": "object", "properties": properties, "required": [*required], "additionalProperties": False}
    return {"name": name, "description": description, "parameters": schema}


TOOLS = [
    tool("echo", "Give a text back.", ("text",), text={"type": "string"}),
    tool("slow", "Take some time.", seconds={"type": "number", "minimum": 0, "maximum": 3600}),
    tool("fail", "Fail."),
    tool("ask", "Ask the user whether to go on.", question={"type": "string"}),
]
REGISTRATIONS: Json = {
    "tools": TOOLS,
    "commands": [
        {"name": "colour", "description": "Choose a colour."},
        {"name": "turns", "description": "Say how many turns there have been."},
    ],
    "flags": ["loud"],
    "shortcuts": [{"key": "ctrl+p", "command": "colour", "description": "Choose a colour"}],
    "subscriptions": ["turn_start", "message_end", "bus/event"],
    "hooks": ["tool_call", "before_agent_start"],
    "providers": [{"name": "parrot", "oauth": True, "models": [{"id": "small", "display_name": "Small parrot"}]}],
    "message_renderers": [
        {"tag": "colour", "template": {"kind": "keyvalue", "rows": [{"key": "Colour", "value": "{{name}}"}]}}
    ],
}


def wrong_arguments(schema: Json, arguments: Json) -> str:
    """What is wrong with a tool's arguments; nothing, where they fit."""
    for name in schema["required"]:
        if name not in arguments:
            return f"{name} is missing"
    for name, value in arguments.items():
        if (known := schema["properties"].get(name)) is None:
            return f"{name} is not an argument of this tool"
        if type(value) not in {"string": (str,), "number": (int, float)}[known["type"]]:
            return f"{name} must be a {known['type']}"
        if "minimum" in known and not known["minimum"] <= value <= known["maximum"]:
            return f"{name} must be from {known['minimum']} to {known['maximum']}"
    return ""


def error(code: int, message: str) -> Json:
    """An outcome that is an error."""
    return {"error": {"code": code, "message": message}}


class Refused(Exception):
    """A request is not done, by us or by the host."""

    def __init__(self, code: object, message: object) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code


class Cancelled(Exception):
    """The host has cancelled the call."""


class Call:
    """A request of the host that is worked on, in a thread of its own."""

    def __init__(self, rid: Id, method: str, params: Json) -> None:
        self.rid, self.method, self.params = rid, method, params
        self.inbox: queue.SimpleQueue[Json | None] = queue.SimpleQueue()  # the host's answers; None: cancelled

    def cancel(self) -> None:
        self.inbox.put(None)

    def pause(self, seconds: float) -> None:
        """Wait.

        Raises:
            Cancelled: As soon as the call is.
        """
        try:
            self.inbox.get(timeout=seconds)
        except queue.Empty:
            return
        raise Cancelled


class Extension:
    """The connection: the main thread reads and never waits, a second one writes, each call has its own."""

    def __init__(self) -> None:
        self.host: Json | None = None  # what initialize said
        self.calls: dict[Id, Call] = {}
        self.idle = threading.Condition()  # guards calls and asked, and tells when no call is left
        self.asked: dict[int, Call] = {}  # our requests without an answer
        self.deaf = False  # the host says nothing any more
        self.numbers = itertools.count(1)
        self.turns = 0
        self.closing: threading.Thread | None = None  # the one that answers shutdown
        self.out: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.writer = threading.Thread(target=self.write, daemon=True)

    # -- bytes and frames ----------------------------------------------------------------------------------------------

    def main(self) -> None:
        self.writer.start()
        for number, line in enumerate(sys.stdin.buffer):
            self.received(line if number else line.removeprefix(b"\xef\xbb\xbf"))
        self.end_of_input()

    def write(self) -> None:
        while line := self.out.get():
            try:
                while line:
                    line = line[os.write(1, line) :]
            except OSError:  # there is no reader any more
                os._exit(0)

    def encode(self, frame: object) -> bytes:
        return json.dumps(frame).encode() + b"\n"

    def send(self, frame: object) -> None:
        self.out.put(self.encode(frame))

    def answer(self, rid: Id, outcome: Json, method: str = "") -> None:
        self.send({"jsonrpc": "2.0", "id": rid, **outcome})

    def notify(self, method: str, params: Json) -> None:
        self.send({"jsonrpc": "2.0", "method": method, "params": params})

    def ask(self, call: Call, method: str, params: Json) -> Json:
        """Ask the host on behalf of a call; its result.

        Raises:
            Refused: The host does not do it.
            Cancelled: The call was cancelled, and so is this request.
        """
        number = next(self.numbers)
        with self.idle:
            if self.deaf:
                raise Refused(-32603, "the host is gone")
            self.asked[number] = call
        self.send({"jsonrpc": "2.0", "id": number, "method": method, "params": params})
        answer = call.inbox.get()
        if answer is None:
            with self.idle:
                self.asked.pop(number, None)
            self.notify("$/cancel", {"id": number})
            raise Cancelled
        if isinstance(answer.get("result"), dict):
            return dict(answer["result"])
        why = answer.get("error")
        raise Refused(why.get("code"), why.get("message")) if isinstance(why, dict) else Refused(None, "no answer")

    def received(self, line: bytes) -> None:
        if not line.strip(b" \t\r\n"):
            return
        try:
            frame = self.parse(line)
        except (ValueError, RecursionError):
            self.answer(None, error(-32700, "this is not JSON"))
        else:
            self.take(frame)

    def parse(self, line: bytes) -> object:
        def refuse(constant: str) -> object:
            raise ValueError(constant)

        return json.loads(line.decode("utf-8"), parse_constant=refuse)

    def take(self, frame: object) -> None:
        if not isinstance(frame, dict):
            self.answer(None, error(-32600, "a frame is an object, one a line"))
        elif "method" not in frame and ("result" in frame or "error" in frame):
            self.answered(frame)
        else:
            rid = frame["id"] if type(frame.get("id")) in (int, str) else None
            if wrong := self.malformed(frame):
                self.answer(rid, error(-32600, wrong))
            elif "id" in frame:
                self.requested(rid, frame["method"], frame.get("params", {}))
            else:
                self.notified(frame["method"], frame.get("params", {}))

    def malformed(self, frame: Json) -> str:
        if frame.get("jsonrpc") != "2.0":
            return 'jsonrpc must be "2.0"'
        if not isinstance(frame.get("method"), str):
            return "method must be a string"
        if type(frame.get("id", 0)) not in (int, str):
            return "id must be an integer or a string"
        return "" if isinstance(frame.get("params", {}), dict) else "params must be an object"

    def answered(self, frame: Json) -> None:
        if type(frame.get("id")) is int:
            with self.idle:
                call = self.asked.pop(frame["id"], None)
            if call is not None:
                call.inbox.put(frame)

    def notified(self, method: str, params: Json) -> None:
        if method == "event" and params.get("event") == "turn_start":
            self.turns += 1
        elif method == "$/cancel" and type(params.get("id")) in (int, str):
            self.cancelled(params["id"])

    def cancelled(self, rid: int | str) -> None:
        with self.idle:
            call = self.calls.get(rid)
        if call is not None:
            call.cancel()

    # -- requests ------------------------------------------------------------------------------------------------------

    def requested(self, rid: Id, method: str, params: Json) -> None:
        if rid in self.calls:
            self.answer(rid, error(-32600, "this id is in use"))
        elif method == "ping":
            self.answer(rid, {"result": {}}, method)
        elif self.closing or (self.host is None) != (method == "initialize"):
            self.answer(rid, error(-32600, f"not now: {method}"))
        elif method not in PARAMS:
            self.answer(rid, error(-32601, f"there is no method {method}"))
        elif not fits(params, PARAMS[method]) or (method == "initialize" and params["protocol_version"] < 1):
            self.answer(rid, error(-32602, f"the params of {method} do not fit"))
        elif method == "initialize":
            self.host = params
            self.answer(rid, {"result": self.introduction(params)}, method)
        elif method == "shutdown":
            self.closing = threading.Thread(target=self.shutdown, args=(rid,), daemon=True)
            self.closing.start()
        else:
            self.begin(Call(rid, method, params))

    def introduction(self, params: Json) -> Json:
        return {
            "protocol_version": min(params["protocol_version"], 1),
            "extension": {"name": "plain", "version": "1.0.0"},
            "registrations": REGISTRATIONS,
        }

    def begin(self, call: Call) -> None:
        with self.idle:
            self.calls[call.rid] = call
        threading.Thread(target=self.work, args=(call,), daemon=True).start()

    def work(self, call: Call) -> None:
        outcome = self.outcome(call)
        with self.idle:
            del self.calls[call.rid]
            self.answer(call.rid, outcome, call.method)
            self.idle.notify_all()

    def outcome(self, call: Call) -> Json:
        try:
            return {"result": getattr(self, call.method.replace("/", "_"))(call, call.params)}
        except Cancelled:
            return error(-32800, "cancelled")
        except Refused as refused:
            return {"error": {"code": refused.code, "message": str(refused)}}
        except Exception:
            sys.excepthook(*sys.exc_info())  # its traceback, to stderr
            return error(-32603, f"{call.method} failed")

    def tool_execute(self, call: Call, params: Json) -> Json:
        schema = next((one["parameters"] for one in TOOLS if one["name"] == params["tool"]), None)
        wrong = f"there is no tool {params['tool']}" if schema is None else wrong_arguments(schema, params["arguments"])
        if wrong:
            return {"content": wrong, "is_error": True}
        result: Json = getattr(self, f"do_{params['tool']}")(call, **params["arguments"])
        return result

    def do_echo(self, call: Call, text: str) -> Json:
        loud = self.host is not None and self.host.get("flags", {}).get("loud") is True
        return {"content": text.upper() if loud else text}

    def do_slow(self, call: Call, seconds: float = 0.5) -> Json:
        for step in range(1, 5):
            call.pause(seconds / 4)
            self.notify("tool/update", {"call_id": call.params["call_id"], "message": "busy", "progress": step / 4})
        return {"content": f"{seconds:g} s later"}

    def do_fail(self, call: Call) -> Json:
        self.notify("log", {"level": "warn", "message": "about to fail", "fields": {"tool": "fail"}})
        return {"content": "this tool always fails", "is_error": True, "details": {"why": "it is told to"}}

    def do_ask(self, call: Call, question: str = "Go on?") -> Json:
        refused: list[str] = []

        def ask(method: str, **params: Any) -> Json:
            try:
                return self.ask(call, method, params)
            except Refused as why:  # a host need not offer everything
                refused.append(f"{method}: {why}")
                return {}

        agreed = ask("ui/request", kind="confirm", prompt=question).get("confirmed")
        before = ask("kv/get", key="asked").get("value")
        asked = before + 1 if type(before) is int else 1
        ask("kv/set", key="asked", value=asked)
        entry = {"question": question, "agreed": agreed}
        ask("session/append_entry", context=call.params["context"], entry=entry)
        return {"content": "yes" if agreed is True else "no", "details": {"asked": asked, "refused": refused}}

    def hook(self, call: Call, params: Json) -> Json:
        given = params["input"]
        if params["hook"] == "before_agent_start" and isinstance(given.get("system_prompt"), str):
            patch = {**given, "system_prompt": given["system_prompt"] + "\nSay which colour you like."}
            return {"action": "modify", "patch": patch}
        if params["hook"] == "tool_call" and isinstance(arguments := given.get("arguments"), dict):
            if "rm -rf" in str(arguments.get("command")):
                return {"action": "block", "reason": "rm -rf is not wanted here"}
            if given.get("tool") == "plain.echo" and isinstance(text := arguments.get("text"), str):
                return {"action": "modify", "patch": {**given, "arguments": {**arguments, "text": text.strip()}}}
        return {"action": "continue"}

    def command_execute(self, call: Call, params: Json) -> Json:
        if params["command"] == "colour":
            return {"content": f"The colour is {params.get('arguments', {}).get('name', COLOURS[0])}."}
        if params["command"] == "turns":
            return {"content": f"There have been {self.turns} turns."}
        raise Refused(-32602, f"there is no command {params['command']}")

    def command_complete(self, call: Call, params: Json) -> Json:
        self.command_execute(call, params)  # refuses a command that does not exist
        fitting = [x for x in COLOURS if params["command"] == "colour" and x.startswith(params.get("partial", ""))]
        return {"completions": [{"value": colour, "description": f"The colour {colour}"} for colour in fitting]}

    def check_provider(self, params: Json) -> None:
        if params["provider"] != "parrot" or params.get("model", "small") != "small":
            raise Refused(-32602, "there is no such provider or model; there is parrot with small")

    def delta(self, call: Call, kind: str, **fields: Any) -> None:
        call.pause(0.02)
        self.notify("provider/delta", {"request_id": call.params["request_id"], "event": {"type": kind, **fields}})

    def provider_complete(self, call: Call, params: Json) -> Json:
        self.check_provider(params)
        pieces = ["You", " said: ", str((params["messages"] or [{}])[-1].get("content", ""))]
        usage = {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4}
        if params.get("stream"):
            self.delta(call, "Model", name="parrot-1")
            for piece in pieces:
                self.delta(call, "Delta", content=piece)
            self.delta(call, "Usage", **usage)
            self.delta(call, "Done", finish_reason="stop")
        done = {"content": "".join(pieces), "tool_calls": [], "finish_reason": "stop"}
        return {**done, "usage": usage, "resolved_model": "parrot-1"}

    def provider_oauth_login(self, call: Call, params: Json) -> Json:
        self.check_provider(params)
        expires = int(time.time()) + 3600
        return {"access_token": "access", "refresh_token": "refresh", "expires_at": expires, "extra": {"scope": "all"}}

    provider_oauth_refresh = provider_oauth_login

    # -- the end -------------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Let the calls finish, and after 3 seconds cancel what is left: the host waits 5."""
        with self.idle:
            if not self.idle.wait_for(lambda: not self.calls, 3):
                for call in self.calls.values():
                    call.cancel()
                self.idle.wait_for(lambda: not self.calls, 0.5)

    def shutdown(self, rid: Id) -> None:
        self.drain()
        self.answer(rid, {"result": {}}, "shutdown")
        self.leave()

    def end_of_input(self) -> None:
        with self.idle:
            self.deaf = True
            for call in self.asked.values():
                call.inbox.put(error(-32603, "the host is gone"))
            self.asked.clear()
        if self.closing is not None:
            self.closing.join()
        self.drain()
        self.leave()

    def leave(self) -> None:
        self.out.put(None)
        self.writer.join(1)
        os._exit(0)


# ----------------------------------------------------------------------------------------------------------- the faults
FAULTS: dict[str, str] = {}
"""Name: what is wrong."""
PROGRAMS: dict[str, type[Extension]] = {}
Change = Callable[[Any], object]


def fault(name: str, wrong: str) -> Callable[[type[Extension]], type[Extension]]:
    """Give a faulty extension its name."""

    def register(program: type[Extension]) -> type[Extension]:
        assert name not in FAULTS, name
        FAULTS[name], PROGRAMS[name] = wrong, program
        return program

    return register


def without(*names: str) -> Change:
    """A change that takes fields away."""
    return lambda value: {name: item for name, item in value.items() if name not in names}


def having(**fields: object) -> Change:
    """A change that sets fields."""
    return lambda value: {**value, **fields}


def wrong_introduction(name: str, wrong: str, change: Change) -> None:
    """A fault in the result of ``initialize``."""

    @fault(name, wrong)
    class Wrong(Extension):
        def introduction(self, params: Json) -> Json:
            changed: Json = change(super().introduction(params))  # type: ignore[assignment]  # wrong on purpose
            return changed


def wrong_registration(name: str, wrong: str, family: str, change: Change) -> None:
    """A fault in one family of the registrations."""
    wrong_introduction(name, wrong, having(registrations={**REGISTRATIONS, family: change(REGISTRATIONS[family])}))


def wrong_frame(name: str, wrong: str, change: Change, *methods: str, errors: bool = False) -> None:
    """A fault in the frames of answers: to these methods, or to all after the handshake; or in those of errors."""

    @fault(name, wrong)
    class Wrong(Extension):
        def answer(self, rid: Id, outcome: Json, method: str = "") -> None:
            frame = {"jsonrpc": "2.0", "id": rid, **outcome}
            meant = method in methods if methods else method != "initialize"
            self.send(change(frame) if meant and ("error" in frame or not errors) else frame)


def wrong_result(name: str, wrong: str, method: str, change: Change) -> None:
    """A fault in the results of a method."""

    @fault(name, wrong)
    class Wrong(Extension):
        def answer(self, rid: Id, outcome: Json, method_: str = "") -> None:
            if method_ == method and "result" in outcome:
                outcome = {"result": change(outcome["result"])}
            super().answer(rid, outcome, method_)


def wrong_outcome(name: str, wrong: str, method: str, outcome: Json | None) -> None:
    """A fault in what a method is answered with; None: not at all."""

    @fault(name, wrong)
    class Wrong(Extension):
        def answer(self, rid: Id, right: Json, method_: str = "") -> None:
            if (given := outcome if method_ == method else right) is not None:
                super().answer(rid, given, method_)


def wrong_error(name: str, wrong: str, code: int, outcome: Json | None) -> None:
    """A fault in what is answered where an error with this code is due; None: nothing is."""

    @fault(name, wrong)
    class Wrong(Extension):
        def answer(self, rid: Id, right: Json, method: str = "") -> None:
            due = right.get("error", {}).get("code") == code
            if (given := outcome if due else right) is not None:
                super().answer(rid, given, method)


def wrong_notification(name: str, wrong: str, method: str, change: Change) -> None:
    """A fault in what a notification carries."""

    @fault(name, wrong)
    class Wrong(Extension):
        def notify(self, method_: str, params: Json) -> None:
            changed: Json = change(params) if method_ == method else params  # type: ignore[assignment]  # on purpose
            super().notify(method_, changed)


def wrong_request(name: str, wrong: str, method: str, change: Change) -> None:
    """A fault in what is asked of the host."""

    @fault(name, wrong)
    class Wrong(Extension):
        def ask(self, call: Call, method_: str, params: Json) -> Json:
            changed: Json = change(params) if method_ == method else params  # type: ignore[assignment]  # on purpose
            return super().ask(call, method_, changed)


def wrong_bytes(name: str, wrong: str, change: Callable[[bytes], bytes]) -> None:
    """A fault in the bytes of a line, its end included."""

    @fault(name, wrong)
    class Wrong(Extension):
        def encode(self, frame: object) -> bytes:
            return change(super().encode(frame))


def late(name: str, wrong: str, late_method: str) -> None:
    """A fault in the order: the last notification of this kind comes after the answer of its call."""

    @fault(name, wrong)
    class Wrong(Extension):
        def __init__(self) -> None:
            super().__init__()
            self.kept = threading.local()  # each call has its thread

        def notify(self, method: str, params: Json) -> None:
            if method != late_method:
                return super().notify(method, params)
            if kept := getattr(self.kept, "params", None):
                super().notify(method, kept)
            self.kept.params = params
            return None

        def answer(self, rid: Id, outcome: Json, method: str = "") -> None:
            super().answer(rid, outcome, method)
            if kept := getattr(self.kept, "params", None):
                super().notify(late_method, kept)
                self.kept.params = None


def die() -> NoReturn:
    """End at once, as after an exception that was not caught."""
    os._exit(1)


# -- lines -------------------------------------------------------------------------------------------------------------
wrong_bytes("crlf", "ends its lines with CR LF", lambda line: line[:-1] + b"\r\n")
wrong_bytes("blank-lines", "sends a blank line after each frame", lambda line: line + b"\n")
wrong_bytes(
    "pretty-json",
    "spreads a frame over several lines",
    lambda line: json.dumps(json.loads(line), indent=1).encode() + b"\n",
)
wrong_bytes(
    "latin-1",
    "writes Latin-1 instead of UTF-8",
    lambda line: json.dumps(json.loads(line), ensure_ascii=False).encode("latin-1", "replace") + b"\n",
)
wrong_bytes("bom", "starts each line with a byte order mark", lambda line: b"\xef\xbb\xbf" + line)


@fault("prints", "prints text on stdout while a tool runs")
class _Prints(Extension):
    def tool_execute(self, call: Call, params: Json) -> Json:
        self.out.put(b"running a tool\n")
        return super().tool_execute(call, params)


@fault("dies-on-bad-json", "exits on a line that is not JSON")
class _DiesOnBadJson(Extension):
    def parse(self, line: bytes) -> object:
        try:
            return super().parse(line)
        except UnicodeDecodeError:
            raise
        except (ValueError, RecursionError):
            return die()


@fault("dies-on-null", "exits on the line null")
class _DiesOnNull(Extension):
    def take(self, frame: object) -> None:
        die() if frame is None else super().take(frame)


@fault("dies-on-bare-event", "exits on an event without params")
class _DiesOnBareEvent(Extension):
    def notified(self, method: str, params: Json) -> None:
        die() if method == "event" and not params else super().notified(method, params)


@fault("dies-on-long-line", "exits on a line of more than 64 KiB")
class _DiesOnLongLine(Extension):
    def received(self, line: bytes) -> None:
        die() if len(line) > 65_536 else super().received(line)


@fault("hangs-on-bad-utf8", "reads no more after a line that is not UTF-8")
class _HangsOnBadUtf8(Extension):
    def parse(self, line: bytes) -> object:
        try:
            return super().parse(line)
        except UnicodeDecodeError:
            threading.Event().wait()
            raise


wrong_error("silent-on-bad-json", "does not answer a line that is not JSON", -32700, None)
wrong_error("bad-json-code", "answers a line that is not JSON with -32603", -32700, error(-32603, "internal error"))


@fault("takes-batches", "serves the requests of a batch")
class _TakesBatches(Extension):
    def take(self, frame: object) -> None:
        for one in frame if isinstance(frame, list) and frame else [frame]:
            super().take(one)


@fault("takes-any-jsonrpc", "serves frames without jsonrpc, or with another one than 2.0")
class _TakesAnyJsonrpc(Extension):
    def malformed(self, frame: Json) -> str:
        return super().malformed({**frame, "jsonrpc": "2.0"})


@fault("refuses-unknown-keys", "refuses a frame with a key that it does not know")
class _RefusesUnknownKeys(Extension):
    def malformed(self, frame: Json) -> str:
        unknown = frame.keys() - {"jsonrpc", "id", "method", "params"}
        return f"unknown: {min(unknown)}" if unknown else super().malformed(frame)


@fault("refuses-unknown-fields", "refuses params with a field that it does not know")
class _RefusesUnknownFields(Extension):
    def requested(self, rid: Id, method: str, params: Json) -> None:
        known = {name.removesuffix("?") for name in PARAMS.get(method, params)}
        if params.keys() - known:
            self.answer(rid, error(-32602, "there is a field too many"))
        else:
            super().requested(rid, method, params)


# -- ids and answers ---------------------------------------------------------------------------------------------------
wrong_frame(
    "other-id",
    "answers a tool call under another id",
    lambda frame: {**frame, "id": f"{frame['id']}-answer"},
    "tool/execute",
)
wrong_frame(
    "string-id",
    'answers the id 1 under "1"',
    lambda frame: {**frame, "id": None if frame["id"] is None else str(frame["id"])},
)
wrong_frame("null-id", "answers a refused request under the id null", having(id=None), errors=True)
wrong_frame("no-jsonrpc", "leaves jsonrpc out of its answers", without("jsonrpc"))
wrong_frame("jsonrpc-1.0", "says jsonrpc 1.0 in its answers", having(jsonrpc="1.0"))
wrong_frame(
    "result-and-error",
    "puts a result and an error into one answer",
    having(error={"code": -32603, "message": "and yet"}),
    "tool/execute",
)
wrong_frame(
    "no-result", "answers a tool call with neither result nor error", without("result", "error"), "tool/execute"
)
wrong_frame("null-error", "puts an error of null beside the result", having(error=None), "tool/execute")
wrong_frame("batch-answer", "answers a tool call with an array of one answer", lambda frame: [frame], "tool/execute")
wrong_frame(
    "error-without-code",
    "leaves the code out of its errors",
    lambda frame: {**frame, "error": {"message": "no"}},
    errors=True,
)
wrong_frame(
    "error-code-text",
    "has a text for the code of its errors",
    lambda frame: {**frame, "error": {**frame["error"], "code": str(frame["error"]["code"])}},
    errors=True,
)
wrong_frame(
    "error-without-message",
    "leaves the message out of its errors",
    lambda frame: {**frame, "error": {"code": frame["error"]["code"]}},
    errors=True,
)
wrong_frame("error-text", "has a text where the error's object belongs", having(error="no"), errors=True)


@fault("loses-zero", "takes a request with the id 0 or the empty id for a notification")
class _LosesZero(Extension):
    def requested(self, rid: Id, method: str, params: Json) -> None:
        super().requested(rid, method, params) if rid else self.notified(method, params)


@fault("answers-twice", "answers a tool call twice")
class _AnswersTwice(Extension):
    def answer(self, rid: Id, outcome: Json, method: str = "") -> None:
        for _ in range(2 if method == "tool/execute" else 1):
            super().answer(rid, outcome, method)


@fault("unasked-answer", "sends an answer to nothing after each tool call")
class _UnaskedAnswer(Extension):
    def answer(self, rid: Id, outcome: Json, method: str = "") -> None:
        super().answer(rid, outcome, method)
        if method == "tool/execute":
            super().answer("not-asked", {"result": {}})


@fault("answers-notifications", "answers a notification that it does not know with an error")
class _AnswersNotifications(Extension):
    def notified(self, method: str, params: Json) -> None:
        if method not in ("event", "$/cancel"):
            self.answer(None, error(-32601, f"there is no method {method}"))
        super().notified(method, params)


@fault("answers-events", "answers an event")
class _AnswersEvents(Extension):
    def notified(self, method: str, params: Json) -> None:
        super().notified(method, params)
        if method == "event":
            self.answer(None, {"result": {}})


@fault("answers-answers", "answers an answer that it did not ask for with an error")
class _AnswersAnswers(Extension):
    def answered(self, frame: Json) -> None:
        if frame.get("id") not in self.asked:
            self.answer(frame.get("id"), error(-32600, "this was not asked"))
        super().answered(frame)


@fault("dies-on-unknown-answer", "exits on an answer to nothing that it asked for")
class _DiesOnUnknownAnswer(Extension):
    def answered(self, frame: Json) -> None:
        die() if frame.get("id") not in self.asked else super().answered(frame)


# -- life --------------------------------------------------------------------------------------------------------------
wrong_introduction("version-2", "agrees on protocol version 2 with a host that speaks 1", having(protocol_version=2))
wrong_introduction("version-text", "has a text for its protocol version", having(protocol_version="1"))
wrong_introduction("no-version", "leaves its protocol version out", without("protocol_version"))
wrong_introduction("no-name", "does not say its name", having(extension={"version": "1.0.0"}))
wrong_introduction("extension-text", "has a text where name and version belong", having(extension="plain"))


@fault("early-log", "sends a notification before it has answered initialize")
class _EarlyLog(Extension):
    def introduction(self, params: Json) -> Json:
        self.notify("log", {"level": "info", "message": "starting"})
        return super().introduction(params)


wrong_result("pong-text", "answers a ping with a text", "ping", lambda _: "pong")


wrong_outcome("no-pong", "does not answer a ping", "ping", None)
wrong_outcome("pong-error", "answers a ping with -32601", "ping", error(-32601, "there is no ping"))
wrong_outcome("no-shutdown-answer", "exits at shutdown without an answer", "shutdown", None)


@fault("ignores-shutdown", "neither answers shutdown nor exits at it")
class _IgnoresShutdown(Extension):
    def requested(self, rid: Id, method: str, params: Json) -> None:
        if method != "shutdown":
            super().requested(rid, method, params)


@fault("stays-after-shutdown", "answers shutdown, but does not exit")
class _StaysAfterShutdown(Extension):
    def leave(self) -> None:
        if self.closing is not threading.current_thread():
            super().leave()


@fault("ignores-end-of-file", "does not exit at the end of its stdin")
class _IgnoresEndOfFile(Extension):
    def end_of_input(self) -> None:
        threading.Event().wait()


@fault("one-at-a-time", "serves one request after another, so that a slow one holds up a ping")
class _OneAtATime(Extension):
    def __init__(self) -> None:
        super().__init__()
        self.waiting: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            self.waiting.get()()

    def begin(self, call: Call) -> None:
        with self.idle:
            self.calls[call.rid] = call
        self.waiting.put(lambda: self.work(call))

    def requested(self, rid: Id, method: str, params: Json) -> None:
        def serve() -> None:
            super(_OneAtATime, self).requested(rid, method, params)

        # The handshake is done where it is read: what comes after it must find it done.
        self.waiting.put(serve) if method == "ping" else serve()


# -- registrations -----------------------------------------------------------------------------------------------------
wrong_registration(
    "tool-without-parameters",
    "registers a tool without parameters",
    "tools",
    lambda tools: [without("parameters")(tools[0]), *tools[1:]],
)
wrong_registration(
    "tool-without-description",
    "registers a tool without description",
    "tools",
    lambda tools: [without("description")(tools[0]), *tools[1:]],
)
wrong_registration(
    "parameters-text",
    "has a text for a tool's parameters",
    "tools",
    lambda tools: [having(parameters="text")(tools[0]), *tools[1:]],
)
wrong_registration("tool-twice", "registers two tools of one name", "tools", lambda tools: [*tools, tools[0]])
wrong_registration(
    "tools-by-name",
    "registers its tools as an object by name, not as a list",
    "tools",
    lambda tools: {x["name"]: x for x in tools},
)
wrong_registration(
    "unknown-hook", "registers a hook that does not exist", "hooks", lambda hooks: [*hooks, "before_tool_call"]
)
wrong_registration("event-as-hook", "registers an event among its hooks", "hooks", lambda hooks: [*hooks, "turn_start"])
wrong_registration(
    "hook-as-subscription",
    "registers a hook among its subscriptions",
    "subscriptions",
    lambda names: [*names, "tool_call"],
)
wrong_registration(
    "shortcut-to-nothing",
    "registers a shortcut to a command that it does not have",
    "shortcuts",
    lambda shortcuts: [{**shortcuts[0], "command": "nothing"}],
)
wrong_registration(
    "unknown-block",
    "registers a renderer with a block that does not exist",
    "message_renderers",
    lambda _: [{"tag": "colour", "template": {"kind": "html", "text": "{{name}}"}}],
)
wrong_registration(
    "model-text",
    "registers a provider's models as texts",
    "providers",
    lambda providers: [{**providers[0], "models": ["small"]}],
)

# -- methods -----------------------------------------------------------------------------------------------------------


wrong_error("unknown-method-served", "answers a method that it does not know with a result", -32601, {"result": {}})
wrong_error("unknown-method-code", "answers a method that it does not know with -32602", -32601, error(-32602, "no"))
wrong_error("unknown-method-silent", "does not answer a method that it does not know", -32601, None)
wrong_error("bad-params-code", "answers bad params with -32601", -32602, error(-32601, "no"))
wrong_error("bad-params-silent", "does not answer bad params", -32602, None)

# -- tools, hooks, commands, providers ---------------------------------------------------------------------------------
wrong_result("content-number", "has a number for the content of a tool's result", "tool/execute", having(content=7))
wrong_result(
    "content-blocks",
    "has a list of blocks for the content of a tool's result",
    "tool/execute",
    lambda result: {**result, "content": [{"type": "text", "text": result["content"]}]},
)
wrong_result("no-content", "leaves the content out of a tool's result", "tool/execute", without("content"))
wrong_result(
    "result-text", "answers a tool call with a text, not an object", "tool/execute", lambda result: result["content"]
)
wrong_result("is-error-text", "has a text for is_error", "tool/execute", having(is_error="no"))
wrong_notification("progress-2.0", "reports a progress of 2.0", "tool/update", having(progress=2.0))
wrong_notification(
    "update-call-id",
    "reports progress under another call_id",
    "tool/update",
    lambda params: {**params, "call_id": params["call_id"] + "-other"},
)
wrong_notification("update-without-call-id", "reports progress without a call_id", "tool/update", without("call_id"))
wrong_notification("log-level", "logs at a level that does not exist", "log", having(level="warning"))
late("late-progress", "reports progress after the call's answer", "tool/update")
wrong_result("hook-action", "answers a hook with an action that does not exist", "hook", lambda _: {"action": "allow"})
wrong_result("hook-without-patch", "answers a hook with modify, and no patch", "hook", lambda _: {"action": "modify"})
wrong_result(
    "hook-patch-list", "answers a hook with a patch that is a list", "hook", lambda _: {"action": "modify", "patch": []}
)
wrong_result("hook-null", "answers a hook with null", "hook", lambda _: None)
wrong_result(
    "command-content",
    "has a list for the content of a command's result",
    "command/execute",
    lambda result: {"content": [result["content"]]},
)
wrong_result("no-completions", "leaves the completions out", "command/complete", without("completions"))
wrong_result(
    "completion-texts",
    "has texts for completions",
    "command/complete",
    lambda result: {"completions": [x["value"] for x in result["completions"]]},
)
wrong_result(
    "provider-content", "has null for the content of a provider's result", "provider/complete", having(content=None)
)
wrong_result(
    "tool-call-without-id",
    "has a tool call without id in a provider's result",
    "provider/complete",
    having(tool_calls=[{"name": "plain.echo", "arguments": {}}]),
)
wrong_result(
    "usage-negative",
    "has a negative usage in a provider's result",
    "provider/complete",
    having(usage={"prompt_tokens": -1}),
)
wrong_notification(
    "delta-request-id",
    "streams under another request_id",
    "provider/delta",
    lambda params: {**params, "request_id": params["request_id"] + "-other"},
)
wrong_notification(
    "delta-without-type",
    "streams events without a type",
    "provider/delta",
    lambda params: {**params, "event": without("type")(params["event"])},
)
late("late-delta", "streams on after the answer of provider/complete", "provider/delta")
wrong_result(
    "expiry-text",
    "has a text for the time that credentials expire",
    "provider/oauth_login",
    having(expires_at="2030-01-01T00:00:00Z"),
)


@fault("deltas-unasked", "streams, though the host did not ask for it")
class _DeltasUnasked(Extension):
    def provider_complete(self, call: Call, params: Json) -> Json:
        return super().provider_complete(call, {**params, "stream": True})


# -- cancelling --------------------------------------------------------------------------------------------------------
wrong_error("cancel-unanswered", "does not answer a call that was cancelled", -32800, None)
wrong_error("cancel-code", "answers a cancelled call with -32603", -32800, error(-32603, "no"))


@fault("cancel-ignored", "works on after a cancel, and answers with the result")
class _CancelIgnored(Extension):
    def cancelled(self, rid: int | str) -> None:
        pass


@fault("cancel-answered-twice", "answers a cancelled call at the cancel, and again when it has stopped")
class _CancelAnsweredTwice(Extension):
    def cancelled(self, rid: int | str) -> None:
        if rid in self.calls:
            self.answer(rid, error(-32800, "cancelled"))
        super().cancelled(rid)


@fault("cancel-works-on", "answers a cancelled call at once with -32800, and reports its progress after that")
class _CancelWorksOn(Extension):
    def cancelled(self, rid: int | str) -> None:
        if (call := self.calls.get(rid)) is not None and not getattr(call, "given_up", False):
            call.given_up = True  # type: ignore[attr-defined]  # of this fault alone
            self.answer(rid, error(-32800, "cancelled"))

    def work(self, call: Call) -> None:
        outcome = self.outcome(call)
        with self.idle:
            del self.calls[call.rid]
            if not getattr(call, "given_up", False):
                self.answer(call.rid, outcome, call.method)
            self.idle.notify_all()


@fault("unknown-cancel-answered", "answers a cancel of an id that it does not know")
class _UnknownCancelAnswered(Extension):
    def cancelled(self, rid: int | str) -> None:
        if rid not in self.calls:
            self.answer(rid, error(-32800, "cancelled"))
        super().cancelled(rid)


@fault("dies-on-unknown-cancel", "exits at a cancel of an id that it does not know")
class _DiesOnUnknownCancel(Extension):
    def cancelled(self, rid: int | str) -> None:
        die() if rid not in self.calls else super().cancelled(rid)


# -- asking the host ---------------------------------------------------------------------------------------------------
wrong_request("ui-kind", "asks the user for a kind that does not exist", "ui/request", having(kind="yes_no"))
wrong_request("ui-without-prompt", "asks the user without a prompt", "ui/request", without("prompt"))
wrong_request("kv-key-number", "has a number for a key", "kv/get", having(key=5))
wrong_request("kv-without-value", "sets a key without a value", "kv/set", without("value"))
wrong_request(
    "other-token",
    "gives another token back than it got",
    "session/append_entry",
    lambda params: {**params, "context": {**params["context"], "token": "token-of-its-own"}},
)
wrong_request(
    "other-tier",
    "gives another tier back than it got",
    "session/append_entry",
    lambda params: {**params, "context": {**params["context"], "tier": "event"}},
)
wrong_request("session-without-context", "calls session without a context", "session/append_entry", without("context"))


@fault("id-again", "gives all of its requests the same id")
class _IdAgain(Extension):
    def __init__(self) -> None:
        super().__init__()
        self.numbers = itertools.repeat(1)  # type: ignore[assignment]  # on purpose


@fault("dies-on-refusal", "exits when the host refuses what it asks for")
class _DiesOnRefusal(Extension):
    def answered(self, frame: Json) -> None:
        die() if frame.get("id") in self.asked and "error" in frame else super().answered(frame)


@fault("asks-unknown-method", "asks the host for a method that does not exist")
class _AsksUnknownMethod(Extension):
    def ask(self, call: Call, method: str, params: Json) -> Json:
        return super().ask(call, "storage/get" if method == "kv/get" else method, params)


def main(arguments: list[str]) -> None:
    if arguments == ["--list-faults"]:
        print(json.dumps(FAULTS, indent=1))
    elif not arguments:
        Extension().main()
    elif len(arguments) == 2 and arguments[0] == "--fault" and arguments[1] in PROGRAMS:
        PROGRAMS[arguments[1]]().main()
    else:
        sys.exit("usage: extension.py [--fault NAME | --list-faults]; --list-faults prints the names")


if __name__ == "__main__":
    main(sys.argv[1:])

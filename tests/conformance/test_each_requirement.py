"""Each requirement that none of the extension's own faults breaks can fail, too: broken here in one method more.

Each breach is the body of a class over the correct extension, found by the one requirement that it is listed under;
where that has more than one way to be broken, the way stands behind it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import orjson
import pytest

from sepkit.conformance import Report, Requirement, Status, Verdict, requirements, run_conformance
from sepkit.conformance.record import ABOUT, ABOUT_IDS, READING
from sepkit.conformance.report import once
from sepkit.conformance.requirement import Process
from tests.conformance.test_runner import FOUND_BY

HERE: Final = Path(__file__).parent
PROGRAM: Final = """
import os, sys, threading, time
sys.path.insert(0, {here!r})
from extension import Extension, error

class Odd(Extension):
{body}

Odd().main()
"""


def dies_on(condition: str) -> str:
    """It ends at a frame of this kind."""
    return f"""
    def take(self, frame):
        os._exit(3) if {condition} else super().take(frame)
    """


def registers(family: str, entry: str) -> str:
    """It registers this entry besides."""
    return f"""
    def introduction(self, params):
        made = super().introduction(params)
        families = made["registrations"]
        return {{**made, "registrations": {{**families, {family!r}: [*families[{family!r}], {entry}]}}}}
    """


def swallows(method: str) -> str:
    """It does nothing about requests of this method, once it is greeted."""
    return f"""
    def requested(self, rid, method, params):
        if not ({method}):
            super().requested(rid, method, params)
    """


_IS_OBJECT: Final = "isinstance(frame, dict) and"
BREACHES: Final[dict[str, str]] = {
    "handshake.minimal": """
    def introduction(self, params):
        params["session"]["id"]
        return super().introduction(params)
    """,
    "handshake.nothing-enabled": """
    def introduction(self, params):
        params["ui_capabilities"][0]
        return super().introduction(params)
    """,
    "handshake.byte-order-mark": """
    def received(self, line):
        super().received(line if line.startswith(b"{") else b"?")

    def main(self):
        self.writer.start()
        for line in sys.stdin.buffer:
            self.received(line)
        self.end_of_input()
    """,
    "registrations.tool-parameters": registers(
        "tools", """{"name": "t", "description": "", "parameters": {"type": "objekt"}}"""
    ),
    "registrations.commands": registers("commands", """{"name": "c"}"""),
    "registrations.flags": registers("flags", "5"),
    "registrations.shortcuts": registers("shortcuts", """{"command": "colour"}"""),
    "registrations.subscriptions": registers("subscriptions", "5"),
    "frames.number": dies_on("type(frame) in (int, float)"),
    "frames.string": dies_on("isinstance(frame, str)"),
    "frames.boolean": dies_on("isinstance(frame, bool)"),
    "frames.array": dies_on("frame == []"),
    "frames.batch": dies_on("isinstance(frame, list) and frame and isinstance(frame[0], dict)"),
    "frames.empty-object": dies_on("frame == {}"),
    "frames.no-jsonrpc": dies_on(f"{_IS_OBJECT} frame and 'method' in frame and 'jsonrpc' not in frame"),
    "frames.wrong-jsonrpc": dies_on(f"{_IS_OBJECT} frame.get('jsonrpc', '2.0') != '2.0'"),
    "frames.method-no-string": dies_on(f"{_IS_OBJECT} not isinstance(frame.get('method', ''), str)"),
    "frames.params-no-object": dies_on(f"{_IS_OBJECT} not isinstance(frame.get('params', {{}}), dict)"),
    "frames.id-no-id": dies_on(f"{_IS_OBJECT} isinstance(frame.get('id'), (dict, list))"),
    "frames.pieces": """
    def main(self):
        self.writer.start()
        while data := os.read(0, 1 << 20):
            for line in data.splitlines():
                self.received(line)
        self.end_of_input()
    """,
    "frames.spelling": """
    def received(self, line):
        super().received(line if line.startswith((b'{"', b"[", b"n")) else b"?")
    """,
    "frames.blank-line": """
    def received(self, line):
        super().received(line) if line.strip() else os._exit(3)
    """,
    "frames.crlf": """
    def received(self, line):
        super().received(b"?" if line.endswith(b"\\r\\n") else line)
    """,
    "frames.many-at-once": """
    seen = 0

    def requested(self, rid, method, params):
        self.seen += 1
        if self.seen != 150:
            super().requested(rid, method, params)
    """,
    "ids.negative": swallows("rid == -7"),
    "ids.string": swallows("rid == 'request-1'"),
    "ids.lookalikes": swallows("rid == '7'"),
    "ids.large": """
    def answer(self, rid, outcome, method=""):
        super().answer(int(float(rid) * 1.0000001) if type(rid) is int and rid > 2**50 else rid, outcome, method)
    """,
    "ids.null": """
    def malformed(self, frame):
        return "" if frame.get("id", 0) is None else super().malformed(frame)
    """,
    "methods.of-the-host": """
    def requested(self, rid, method, params):
        if method == "kv/get":
            self.answer(rid, {"result": {"value": None}})
        else:
            super().requested(rid, method, params)
    """,
    "hooks.whole-patch": """
    def hook(self, call, params):
        return {"action": "modify", "patch": {"arguments": {}}}
    """,
    "cancelling.malformed": """
    def notified(self, method, params):
        if method == "$/cancel":
            params["id"]
        super().notified(method, params)
    """,
    "cancelling.lookalike": """
    def cancelled(self, rid):
        for known in list(self.calls):
            if str(known) == str(rid):
                super().cancelled(known)
    """,
    "cancelling.others": """
    def cancelled(self, rid):
        for known in list(self.calls):
            super().cancelled(known)
    """,
    "cancelling.in-flight by a stream": """
    def delta(self, call, kind, **fields):
        try:
            super().delta(call, kind, **fields)
        except BaseException:
            super().delta(call, kind, **fields)
    """,
    "cancelling.in-flight by a hook": """
    def hook(self, call, params):
        time.sleep(0.5)
        return super().hook(call, params)
    """,
    "cancelling.in-flight by a command": """
    def command_execute(self, call, params):
        time.sleep(0.5)
        return super().command_execute(call, params)
    """,
    "cancelling.in-flight by a login": """
    def provider_oauth_login(self, call, params):
        try:
            self.ask(call, "ui/request", {"kind": "input", "prompt": "The key?"})
        except BaseException:
            pass
        return {"api_key": "key"}
    """,
    "tools.concurrent": """
    pending = []

    def begin(self, call):
        if call.method == "tool/execute":
            self.pending = [*self.pending, call.rid]
        super().begin(call)

    def outcome(self, call):
        outcome = super().outcome(call)
        time.sleep(0.1)
        return outcome

    def answer(self, rid, outcome, method=""):
        if method == "tool/execute" and rid in self.pending:
            rid, self.pending = self.pending[-1], self.pending[:-1]
        super().answer(rid, outcome, method)
    """,
    "tools.own-answer": """
    pending = []

    def begin(self, call):
        if call.method == "tool/execute":
            self.pending = [*self.pending, call.rid]
        super().begin(call)

    def answer(self, rid, outcome, method=""):
        if method == "tool/execute" and rid in self.pending:
            oldest = rid if "error" in outcome else self.pending[0]
            self.pending = [x for x in self.pending if x != oldest]
            rid = oldest
        super().answer(rid, outcome, method)
    """,
    "tools.own-progress by the newest call": """
    def begin(self, call):
        self.newest = call if call.method == "tool/execute" else None
        super().begin(call)

    def notify(self, method, params):
        if method == "tool/update" and self.newest is not None:
            params = {**params, "call_id": self.newest.params["call_id"]}
        super().notify(method, params)
    """,
    "tools.own-progress by the oldest call": """
    def notify(self, method, params):
        if method == "tool/update":
            oldest = next(x for x in self.calls.values() if x.method == "tool/execute")
            params = {**params, "call_id": oldest.params["call_id"]}
        super().notify(method, params)
    """,
    "hooks.concurrent": """
    def hook(self, call, params):
        time.sleep(0.05)
        return super().hook(call, params)

    def requested(self, rid, method, params):
        if method == "hook" and params.get("input") == "text" and (mine := [
            x for x in self.calls.values() if x.method == "hook"
        ]):
            mine[0].rid, rid = rid, mine[0].rid
        super().requested(rid, method, params)
    """,
    "providers.own-deltas": """
    def notify(self, method, params):
        if method == "provider/delta":
            streams = [x.params["request_id"] for x in self.calls.values() if x.method == "provider/complete"]
            params = {**params, "request_id": streams[-1]}
        super().notify(method, params)
    """,
    "callbacks.own-context": """
    def ask(self, call, method, params):
        if "context" in params:
            self.first = getattr(self, "first", params["context"])
            params = {**params, "context": self.first}
        return super().ask(call, method, params)
    """,
    "traffic.json by a number that JSON does not have": """
    def do_fail(self, call):
        return {"content": "failed", "is_error": True, "details": {"rate": float("nan")}}
    """,
    "traffic.nulls": """
    def do_fail(self, call):
        return {"content": "failed", "is_error": None}
    """,
    "traffic.known-fields": """
    def do_fail(self, call):
        return {**super().do_fail(call), "isError": True}
    """,
    "providers.whole-usage": """
    def provider_complete(self, call, params):
        return {**super().provider_complete(call, params), "usage": {"total_tokens": 4}}
    """,
    "providers.indices": """
    def provider_complete(self, call, params):
        if params.get("stream"):
            for index in (1, 2):
                self.delta(call, "ToolCallStart", index=index, id=f"call-{index}", name="plain.echo")
        return super().provider_complete(call, params)
    """,
    "registrations.known-families": """
    def introduction(self, params):
        made = super().introduction(params)
        return {**made, "registrations": {**made["registrations"], "tool": []}}
    """,
    "tools.unknown-told": """
    def tool_execute(self, call, params):
        known = params["tool"] in ("echo", "slow", "fail", "ask")
        return super().tool_execute(call, params) if known else {"content": "there is no such tool"}
    """,
    "tools.ping-beside-slow": """
    def begin(self, call):
        if call.method == "tool/execute" and call.params["tool"] == "slow":
            self.calls[call.rid] = call
            self.work(call)
        else:
            super().begin(call)
    """,
    "traffic.whole-characters": """
    def do_fail(self, call):
        self.notify("log", {"level": "warn", "message": "half \\ud83d"})
        return super().do_fail(call)
    """,
    "callbacks.unknown-fields": """
    def answered(self, frame):
        super().answered({"id": frame["id"], "error": {"code": 1, "message": ""}} if "unknown" in frame else frame)

    def do_ask(self, call, question="Go on?"):
        self.ask(call, "kv/get", {"key": "a"})
        return {"content": "asked"}
    """,
    "callbacks.other-id": """
    def answered(self, frame):
        with self.idle:
            first = min(self.asked, default=None)
        super().answered({**frame, "id": first})
    """,
    "callbacks.lookalike": """
    def answered(self, frame):
        known = {str(number): number for number in self.asked}
        super().answered({**frame, "id": known.get(str(frame["id"]), frame["id"])})
    """,
    "callbacks.cancelled": """
    def do_ask(self, call, question="Go on?"):
        if self.ask(call, "ui/request", {"kind": "confirm", "prompt": "?"}).get("cancelled"):
            os._exit(3)
        return {"content": "asked"}
    """,
    "callbacks.out-of-order": """
    def answered(self, frame):
        with self.idle:
            first = min(self.asked, default=None)
        if frame["id"] == first:
            super().answered(frame)
    """,
}


def _requirement(broken: str) -> str:
    return broken.partition(" ")[0]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Report]:
    """The report on each breach, checked for the one requirement; many at once."""
    folder = tmp_path_factory.mktemp("breaches")

    async def run_one(broken: str, factor: float) -> Report:
        program = folder / f"{broken.replace(' ', '-')}.py"
        program.write_text(PROGRAM.format(here=str(HERE), body=BREACHES[broken].strip("\n")), encoding="utf-8")
        return await run_conformance((sys.executable, str(program)), only=[_requirement(broken)], timeout_factor=factor)

    async def run_all() -> dict[str, Report]:
        slots, made = asyncio.Semaphore(12), {}

        async def one(broken: str) -> None:
            async with slots:
                made[broken] = await run_one(broken, 0.3)

        async with asyncio.TaskGroup() as group:
            for broken in BREACHES:
                group.create_task(one(broken))
        for broken, report in made.items():
            if not (report.failures or report.advice):  # the machine was too busy for so little patience
                made[broken] = await run_one(broken, 2.0)
        return made

    return asyncio.run(run_all())


@pytest.mark.timeout(180)
@pytest.mark.parametrize("broken", BREACHES)
def test_a_breach_of_a_requirement_is_found(reports: Mapping[str, Report], broken: str) -> None:
    """A requirement that nothing can fail says nothing about those who pass it."""
    report = reports[broken]
    found = {x.requirement.id for x in (*report.failures, *report.advice)}
    assert found == {_requirement(broken)}, report.table()


def verdict(name: str, *, failed: bool = True, suspects: tuple[str, ...] = (), **of: Any) -> Verdict:
    requirement = Requirement(name, "1", name, of.pop("advice", False), Process.SHARED, print, **of)
    status = Status.FAILED if failed else Status.PASSED
    return Verdict(requirement, status, expected="this" if failed else "", suspects=suspects)


@pytest.mark.parametrize(
    ("verdicts", "failed"),
    [
        ([verdict("a.a"), verdict("a.b")], ["a.a", "a.b"]),
        ([verdict("a.a"), verdict("a.b", after=("a.a",))], ["a.a"]),
        ([verdict("a.a", failed=False), verdict("a.b", after=("a.a",))], ["a.b"]),
        ([verdict("a.a"), verdict("a.b", after=("a.a",)), verdict("a.c", suspects=("a.b",))], ["a.a"]),
        ([verdict("a.a", suspects=("a.a", "a.b")), verdict("a.b", suspects=("a.a", "a.b"))], ["a.a"]),
        ([verdict("a.a", after=("a.b",)), verdict("a.b", after=("a.a",))], ["a.a", "a.b"]),
        ([verdict("a.a", advice=True), verdict("a.b", after=("a.a",))], ["a.a", "a.b"]),
        ([verdict("a.a"), verdict("a.b", after=("a.a",), advice=True)], ["a.a"]),
    ],
)
def test_a_failure_that_follows_from_another_is_untested(verdicts: list[Verdict], failed: list[str]) -> None:
    """Of each chain its first member fails; a circle loses none, and no requirement follows from advice."""
    made = {one.requirement.id: one for one in once(verdicts)}
    assert [name for name, one in made.items() if one.status is Status.FAILED] == failed
    for one in verdicts:
        if one.status is Status.FAILED and one.requirement.id not in failed:
            assert made[one.requirement.id].status is Status.UNTESTED
            assert f"see {failed[0]}" in made[one.requirement.id].note


def test_each_presupposed_requirement_exists() -> None:
    """A misspelt id would presuppose nothing."""
    known = {one.id for one in requirements()}
    for one in requirements():
        assert set(one.after) <= known - {one.id}, one.id
    assert {name for names in ABOUT.values() for name in names} <= known
    assert {*ABOUT_IDS, *READING} <= known


def test_every_breach_is_of_a_requirement_that_there_is() -> None:
    """Together with the extension's own faults they break most of what is required."""
    assert {*map(_requirement, BREACHES)} <= {x.id for x in requirements()}
    for broken, body in BREACHES.items():
        compile(PROGRAM.format(here="", body=body.strip("\n")), broken, "exec")
    assert len({*map(_requirement, BREACHES), *FOUND_BY.values()}) > 90


def test_what_is_odd_and_allowed_passes_and_can_be_printed(tmp_path: Path) -> None:
    """A template nested deeper than sepkit reads it, and a name and a key with half of an emoji in them."""
    program = tmp_path / "odd.py"
    body = """
    def introduction(self, params):
        made = super().introduction(params)
        made["extension"]["name"] = "half \\ud83d"
        template = {"kind": "markdown", "text": "x"}
        for _ in range(200):
            template = {"kind": "stack", "children": [template]}
        made["registrations"] = {**made["registrations"], "message_renderers": [{"tag": "deep", "template": template}]}
        return made

    def do_fail(self, call):
        for _ in range(2):
            self.ask(call, "kv/set", {"key": "half \\ud83d", "value": "half \\ud83d"})
            assert self.ask(call, "kv/get", {"key": "half \\ud83d"}) == {"value": "half \\ud83d"}
        return super().do_fail(call)
    """
    program.write_text(PROGRAM.format(here=str(HERE), body=body.strip("\n")), encoding="utf-8")
    only = ["handshake.result", "registrations", "tools.result", "traffic"]
    report = asyncio.run(run_conformance((sys.executable, str(program)), only=only, timeout_factor=4))
    assert report.ok, report.table()
    assert [x.requirement.id for x in report.advice] == ["traffic.whole-characters"]
    assert report.extension == "half \\ud83d 1.0.0"
    assert report.table().encode()
    assert orjson.loads(orjson.dumps(report.as_dict()))["extension"] == report.extension

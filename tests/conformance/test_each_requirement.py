"""Each requirement that none of the extension's own faults breaks can fail, too: broken here in one method more.

Each breach is the body of a class over the correct extension, found by the one requirement that it is listed under.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

from sepkit.conformance import Report, requirements, run_conformance
from tests.conformance.test_runner import FOUND_BY

HERE: Final = Path(__file__).parent
PROGRAM: Final = """
import os, sys
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
    "callbacks.unknown-fields": """
    def answered(self, frame):
        super().answered({"id": frame["id"], "error": {"code": 1, "message": ""}} if "unknown" in frame else frame)

    def do_ask(self, call, question="Go on?"):
        self.ask(call, "kv/get", {"key": "a"})
        return {"content": "asked"}
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


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Report]:
    """The report on each breach, checked for the one requirement; many at once."""
    folder = tmp_path_factory.mktemp("breaches")

    async def run_one(broken: str, factor: float) -> Report:
        program = folder / f"{broken}.py"
        program.write_text(PROGRAM.format(here=str(HERE), body=BREACHES[broken].strip("\n")), encoding="utf-8")
        return await run_conformance((sys.executable, str(program)), only=[broken], timeout_factor=factor)

    async def run_all() -> dict[str, Report]:
        slots, made = asyncio.Semaphore(12), {}

        async def one(broken: str) -> None:
            async with slots:
                made[broken] = await run_one(broken, 0.3)

        async with asyncio.TaskGroup() as group:
            for broken in BREACHES:
                group.create_task(one(broken))
        return made

    return asyncio.run(run_all())


@pytest.mark.timeout(180)
@pytest.mark.parametrize("broken", BREACHES)
def test_a_breach_of_a_requirement_is_found(reports: Mapping[str, Report], broken: str) -> None:
    """A requirement that nothing can fail says nothing about those who pass it."""
    report = reports[broken]
    found = {x.requirement.id for x in (*report.failures, *report.advice)}
    assert found == {broken}, report.table()


def test_every_breach_is_of_a_requirement_that_there_is() -> None:
    """Together with the extension's own faults they break most of what is required."""
    assert BREACHES.keys() <= {x.id for x in requirements()}
    for broken, body in BREACHES.items():
        compile(PROGRAM.format(here="", body=body.strip("\n")), broken, "exec")
    assert len({*BREACHES, *FOUND_BY.values()}) > 85

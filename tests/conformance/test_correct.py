"""Extensions that do what the protocol leaves open pass without a failure, whatever advice they don't follow."""

from __future__ import annotations

import asyncio
import shutil
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

from sepkit.conformance import Report, run_conformance
from tests.conformance.test_each_requirement import PROGRAM
from tests.conformance.test_runner import SOAK

HERE: Final = Path(__file__).parent
CARELESS: Final = (sys.executable, str(HERE / "careless.py"))
SERVE: Final = (sys.executable, "-m", "sepkit", "run", "app:app")

# Each is the body of a class over the correct extension, which does all of this besides.
ALLOWED: Final[dict[str, str]] = {
    # Its one tool asks the host with the context that it was given, whatever is in it.
    "returns each context as it came": """
    def introduction(self, params):
        made = super().introduction(params)
        families = made["registrations"]
        tools = [tool for tool in families["tools"] if tool["name"] == "ask"]
        return {**made, "registrations": {**families, "tools": tools}}
    """,
    "writes null for what is absent": """
    def send(self, frame):
        every = dict.fromkeys(("id", "method", "params", "result", "error"))
        if isinstance(frame, dict) and isinstance(frame.get("result"), dict):
            absent = {"is_error": None, "reason": None, "details": None} if "content" in frame["result"] else {}
            frame = {**frame, "result": {**absent, **frame["result"]}}
        if isinstance(frame, dict) and frame.get("method") == "tool/update":
            frame = {**frame, "params": {"details": None, **frame["params"]}}
        super().send({**every, **frame})

    def introduction(self, params):
        made = super().introduction(params)
        tools = [{**tool, "deferred": None} for tool in made["registrations"]["tools"]]
        return {**made, "registrations": {**made["registrations"], "tools": tools, "tasks": None}}
    """,
    "sends fields and families that the protocol does not have": """
    def encode(self, frame):
        if "result" in frame:
            frame = {**frame, "result": {**frame["result"], "vendor": 1}}
        elif "method" in frame:
            frame = {**frame, "params": {**frame["params"], "vendor": {"deep": None}}}
        return super().encode({**frame, "trace": "abc"})

    def introduction(self, params):
        made = super().introduction(params)
        return {**made, "registrations": {**made["registrations"], "themes": [{"name": "dark"}]}}
    """,
    "logs a lot, and asks the host whenever it likes": """
    def requested(self, rid, method, params):
        for _ in range(10):
            self.notify("log", {"level": "trace", "message": f"{method} came", "fields": {"id": rid}})
        super().requested(rid, method, params)

    def beat(self):
        while True:
            time.sleep(0.03)
            if self.host is not None:
                for method, params in ("kv/set", {"key": "beat", "value": 1}), ("ping", {}):
                    rid = f"own-{next(self.numbers)}"
                    self.send({"jsonrpc": "2.0", "id": rid, "method": method, "params": params})
                self.notify("bus/publish", {"topic": "beat", "payload": {}})
                self.notify("$/beat", {})

    def main(self):
        threading.Thread(target=self.beat, daemon=True).start()
        super().main()

    def notified(self, method, params):
        for _ in range(40):
            self.notify("log", {"level": "trace", "message": f"{method} came"})
        super().notified(method, params)
    """,
    "answers in any order, batches with an array": """
    def requested(self, rid, method, params):
        if method in ("initialize", "shutdown") or rid in self.calls:
            return super().requested(rid, method, params)
        def later():
            time.sleep(0.003 * (hash(str(rid)) % 3))
            super(Odd, self).requested(rid, method, params)
        threading.Thread(target=later, daemon=True).start()

    def take(self, frame):
        if isinstance(frame, list) and frame:
            self.send([{"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": "no request"}}])
        else:
            super().take(frame)
    """,
}
# Of these, each requirement is checked, also those that need a process of their own.
EVERYTHING: Final = (
    "validates nothing and rounds numbers",
    "validates nothing and does one thing after another",
    "starts in 1.5 s and ignores a byte order mark",
)
ONE_PROCESS: Final = (
    *("registrations", "traffic", "frames", "ids", "methods", "notifications", "tools", "hooks", "commands"),
    *("providers", "cancelling", "callbacks"),
)
ONLY: Final = {"sends 60 updates": ("traffic", "ids", "tools", "cancelling", "callbacks")}
APP: Final = '''
    import asyncio
    from sepkit import App, ToolContext

    app = App("counter", version="1")

    @app.tool
    async def count(ctx: ToolContext, steps: int = 60) -> str:
        """Count slowly."""
        for step in range(steps):
            ctx.update("counting", progress=step / steps)
            await asyncio.sleep(0.005)
        return str(steps)

    @app.tool
    async def confirm(ctx: ToolContext) -> str:
        """Ask the user, and tell of each step."""
        for step in range(60):
            ctx.update("asking", progress=step / 60)
        return str(await ctx.ui.confirm("Go on?"))
'''


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Report]:
    """The report on each of them, with every requirement; a few at once."""
    folder = tmp_path_factory.mktemp("correct")
    (folder / "app.py").write_text(textwrap.dedent(APP), encoding="utf-8")
    commands = {
        "validates nothing and does one thing after another": CARELESS,
        "starts in 1.5 s and ignores a byte order mark": (*CARELESS, "1.5"),
        "sends 60 updates": SERVE,
    }
    if shutil.which("node") is not None:
        commands["validates nothing and rounds numbers"] = ("node", str(HERE / "careless.mjs"))
    for name, body in ALLOWED.items():
        program = folder / f"{name.split(' ')[0]}.py"
        program.write_text(PROGRAM.format(here=str(HERE), body=body.strip("\n")), encoding="utf-8")
        commands[name] = (sys.executable, str(program))

    async def run_all() -> dict[str, Report]:
        slots, made = asyncio.Semaphore(4), {}

        async def one(name: str) -> None:
            # Nearly all of the time of the slow one is spent in its start.
            parallel = 12 if "1.5" in name else 3
            only = () if SOAK or name in EVERYTHING else ONLY.get(name, ONE_PROCESS)
            async with slots:
                made[name] = await run_conformance(commands[name], cwd=folder, only=only, parallel=parallel)

        async with asyncio.TaskGroup() as group:
            for name in commands:
                group.create_task(one(name))
        return made

    return asyncio.run(run_all())


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", [*EVERYTHING, "sends 60 updates", *ALLOWED])
def test_a_correct_extension_passes_without_a_failure(reports: Mapping[str, Report], name: str) -> None:
    """None of these things breaks the protocol, so the report shows no ✘, and nothing is left untested."""
    if name not in reports:
        pytest.skip("there is no node on the PATH")
    report = reports[name]
    assert not report.failures, report.table()
    assert report.ok, report.table()
    assert report.counts()["passed"] > 30


def test_what_is_not_advised_is_told_as_advice(reports: Mapping[str, Report]) -> None:
    """What a stricter host may refuse is named all the same."""

    def advice(name: str) -> set[str]:
        return {one.requirement.id for one in reports[name].advice} if name in reports else set()

    assert "handshake.byte-order-mark" in advice("starts in 1.5 s and ignores a byte order mark")
    assert "traffic.nulls" in advice("writes null for what is absent")
    assert "registrations.known-families" in advice("sends fields and families that the protocol does not have")
    assert not advice("sends 60 updates"), reports["sends 60 updates"].table()
    if shutil.which("node") is not None:
        assert "ids.64-bit" in advice("validates nothing and rounds numbers")

"""The runner passes what is correct, in whatever language, and names what is wrong with each faulty extension.

Of the faulty ones, one for each requirement is run, most for that alone; where ``SEPKIT_SOAK`` is set, all of them are,
and for everything.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from sepkit.conformance import Report, Status, Verdict, requirements, run_conformance
from sepkit.conformance.patience import Patience
from sepkit.transports.process import SpawnError
from tests.conformance.extension import FAULTS

SOAK: Final = bool(os.environ.get("SEPKIT_SOAK"))
HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parent.parent
PLAIN: Final = (sys.executable, str(HERE / "extension.py"))
SERVE: Final = (sys.executable, "-m", "sepkit", "run", "app:app")

# What each fault is found by: a requirement, or advice where the protocol leaves it open.
FOUND_BY: Final[dict[str, str]] = {
    "crlf": "traffic.line-ends",
    "blank-lines": "traffic.line-ends",
    "pretty-json": "traffic.json",
    "latin-1": "traffic.utf-8",
    "bom": "traffic.utf-8",
    "prints": "traffic.json",
    "dies-on-bad-json": "frames.bad-json",
    "dies-on-null": "frames.null",
    "dies-on-bare-event": "notifications.malformed-event",
    "dies-on-long-line": "frames.long",
    "hangs-on-bad-utf8": "frames.bad-utf-8",
    "silent-on-bad-json": "frames.bad-json-told",
    "bad-json-code": "frames.bad-json",
    "takes-batches": "frames.batch-told",
    "takes-any-jsonrpc": "frames.no-jsonrpc-told",
    "refuses-unknown-keys": "methods.unknown-fields",
    "refuses-unknown-fields": "tools.unknown-fields",
    "other-id": "tools.result",
    "string-id": "ids.zero",
    "null-id": "ids.in-errors",
    "no-jsonrpc": "traffic.jsonrpc",
    "jsonrpc-1.0": "traffic.jsonrpc",
    "result-and-error": "traffic.frames",
    "no-result": "traffic.frames",
    "null-error": "traffic.frames",
    "batch-answer": "traffic.json",
    "error-without-code": "traffic.errors",
    "error-code-text": "traffic.errors",
    "error-without-message": "traffic.errors",
    "error-text": "traffic.errors",
    "loses-zero": "ids.zero",
    "answers-twice": "traffic.answered-once",
    "unasked-answer": "traffic.unasked",
    "answers-notifications": "notifications.unknown",
    "answers-events": "notifications.events",
    "answers-answers": "notifications.stray-answers",
    "dies-on-unknown-answer": "notifications.stray-answers",
    "version-2": "handshake.version",
    "version-text": "handshake.version",
    "no-version": "handshake.result",
    "no-name": "handshake.result",
    "extension-text": "handshake.result",
    "early-log": "handshake.quiet",
    "pong-text": "life.ping",
    "no-pong": "life.ping",
    "pong-error": "life.ping",
    "no-shutdown-answer": "life.shutdown",
    "ignores-shutdown": "life.shutdown-exit",
    "stays-after-shutdown": "life.shutdown-exit",
    "ignores-end-of-file": "life.end-of-file",
    "one-at-a-time": "tools.ping-beside",
    "tool-without-parameters": "registrations.tools",
    "tool-without-description": "registrations.tools",
    "parameters-text": "registrations.tools",
    "tool-twice": "registrations.unique",
    "tools-by-name": "registrations.shape",
    "unknown-hook": "registrations.hooks",
    "event-as-hook": "registrations.hooks",
    "hook-as-subscription": "registrations.subscriptions-no-hooks",
    "shortcut-to-nothing": "registrations.shortcut-commands",
    "unknown-block": "registrations.message-renderers",
    "model-text": "registrations.providers",
    "unknown-method-served": "methods.unknown",
    "unknown-method-code": "methods.unknown",
    "unknown-method-silent": "methods.unknown",
    "bad-params-code": "tools.bad-params",
    "bad-params-silent": "tools.bad-params",
    "content-number": "tools.result",
    "content-blocks": "tools.result",
    "no-content": "tools.result",
    "result-text": "tools.result",
    "is-error-text": "tools.result",
    "progress-2.0": "tools.update",
    "update-call-id": "tools.update-call",
    "update-without-call-id": "tools.update",
    "log-level": "traffic.params",
    "late-progress": "tools.update-in-time",
    "hook-action": "hooks.outcome",
    "hook-without-patch": "hooks.outcome",
    "hook-patch-list": "hooks.outcome",
    "hook-null": "hooks.outcome",
    "command-content": "commands.result",
    "no-completions": "commands.completions-listed",
    "completion-texts": "commands.completions",
    "provider-content": "traffic.nulls",
    "tool-call-without-id": "providers.result",
    "usage-negative": "providers.result",
    "delta-request-id": "providers.delta-request",
    "delta-without-type": "providers.delta",
    "late-delta": "providers.delta-in-time",
    "expiry-text": "providers.login",
    "deltas-unasked": "providers.delta-asked-for",
    "cancel-ignored": "cancelling.in-flight",
    "cancel-unanswered": "cancelling.in-flight",
    "cancel-answered-twice": "cancelling.in-flight",
    "cancel-code": "cancelling.in-flight",
    "cancel-works-on": "tools.update-in-time",
    "unknown-cancel-answered": "cancelling.unknown",
    "dies-on-unknown-cancel": "cancelling.unknown",
    "ui-kind": "traffic.params",
    "ui-without-prompt": "traffic.params",
    "kv-key-number": "traffic.params",
    "kv-without-value": "traffic.params",
    "other-token": "traffic.contexts",
    "other-tier": "traffic.contexts",
    "session-without-context": "traffic.params",
    "id-again": "traffic.ids",
    "dies-on-refusal": "callbacks.refused",
    "asks-unknown-method": "traffic.methods",
}
# What must be said, beside what is said always, for an observation to see the fault.
SAID_BY: Final = {"cancel-works-on": ("cancelling.in-flight",)}
# Faults that show in many places, of which each requirement is checked: one of them fails, and no other.
WHOLE: Final = {
    "answers-twice",
    "unknown-cancel-answered",
    "dies-on-unknown-answer",
    "refuses-unknown-fields",
    "content-number",
    "dies-on-bad-json",
}
RUN: Final = (
    list(FOUND_BY)
    if SOAK
    else sorted({*{found_by: fault for fault, found_by in reversed(FOUND_BY.items())}.values(), *WHOLE})
)

PLUGINS: Final = ("hello", "permission_gate")
# What begins and ends a process is sepkit's own, and is checked on the app with everything; here it would cost 15 more.
_ITS_OWN: Final = ("registrations", "traffic", "notifications", "tools", "hooks", "commands", "providers", "cancelling")
ONLY: Final = dict.fromkeys(PLUGINS, _ITS_OWN)

EVERYTHING: Final = '''
    import asyncio
    from collections.abc import AsyncIterator
    from sepkit import App, Block, Completion, Delta, Done, Messages, Model, Patch, SystemPrompt, ToolCall, ToolContext
    from sepkit import CommandContext, EventContext, ProviderContext, StreamEvent, Usage, render
    from sepkit.wire.messages import Credentials

    app = App("everything", version="1.0.0")
    app.flag("loud", default=False)
    app.shortcut("ctrl+p", "paint")
    app.renderer("board", render.markdown("## {{title}}"))

    @app.tool
    async def add(a: int, b: float = 0.5) -> str:
        """Add."""
        return str(a + b)

    @app.tool
    async def count(ctx: ToolContext, steps: int = 4) -> str:
        """Count slowly."""
        for step in range(steps):
            ctx.update("counting", progress=step / steps)
            await asyncio.sleep(0.1)
        return str(steps)

    @app.tool
    async def ask(ctx: ToolContext) -> dict:
        """Ask the user, and keep the answer."""
        colour = await ctx.ui.select("Which?", ["red", "blue"])
        await ctx.kv.set("colour", colour)
        await ctx.session.append_entry({"colour": colour})
        return {"colour": colour}

    @app.hook("tool_call")
    async def gate(call: ToolCall) -> Block | None:
        return Block("no") if "rm -rf" in str(call.arguments) else None

    @app.hook("before_agent_start")
    async def speak(prompt: SystemPrompt) -> Patch:
        return Patch(system_prompt=prompt.system_prompt + " In rhyme.")

    @app.on("turn_start")
    async def turn(payload: dict[str, object], ctx: EventContext) -> None:
        ctx.log.info("a turn")

    @app.on_bus("news")
    async def news(payload: dict[str, object]) -> None:
        pass

    @app.command
    async def paint(ctx: CommandContext, colour: str = "red") -> str:
        """Paint."""
        await ctx.session.append_entry({"colour": colour})
        return colour

    @app.complete("paint")
    async def colours(partial: str) -> list[Completion]:
        return [Completion("red", "like a rose")]

    @app.provider("parrot", models=[Model("grey")])
    async def repeat(request: dict[str, object], ctx: ProviderContext) -> AsyncIterator[StreamEvent]:
        for word in ("Polly", " wants", " a", " cracker"):
            yield Delta(word)
            await asyncio.sleep(0.02)
        yield Usage(prompt_tokens=1, completion_tokens=4, total_tokens=5)
        yield Done("stop")

    @app.oauth_login("parrot")
    async def login(ctx: ProviderContext) -> Credentials:
        return Credentials(api_key=await ctx.ui.input("The key?"))

    @app.oauth_refresh("parrot")
    async def refresh(ctx: ProviderContext) -> Credentials:
        return Credentials(access_token="a", expires_at=1)
'''


def check(*command: str, **options: Any) -> Report:
    """Run it, with the patience that a busy machine asks for."""
    return asyncio.run(run_conformance(command, **{"timeout_factor": 4.0, **options}))


def not_applicable(report: Report) -> set[str]:
    return {x.requirement.id for x in report.verdicts if x.status is Status.NOT_APPLICABLE}


def assert_conforms(report: Report) -> None:
    assert report.ok, report.table()
    assert not report.failures


# ----------------------------------------------------------------------------------------------------- the correct ones
@pytest.fixture(scope="module")
def correct(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Report]:
    """The report on each correct extension, all of them run beside each other."""
    folder = tmp_path_factory.mktemp("everything")
    (folder / "app.py").write_text(textwrap.dedent(EVERYTHING), encoding="utf-8")
    commands: dict[str, tuple[tuple[str, ...], Path]] = {
        "python": (PLAIN, HERE),
        "everything": (SERVE, folder),
        **{plugin: (SERVE, ROOT / "plugins" / plugin) for plugin in PLUGINS},
    }
    if shutil.which("node") is not None:
        commands["node"] = (("node", str(HERE / "extension.mjs")), HERE)

    async def run_all() -> dict[str, Report]:
        runs = (
            run_conformance(command, cwd=cwd, timeout_factor=4.0, only=() if SOAK else ONLY.get(name, ()))
            for name, (command, cwd) in commands.items()
        )
        return dict(zip(commands, await asyncio.gather(*runs), strict=True))

    return asyncio.run(run_all())


def test_a_correct_extension_in_plain_python_passes_every_requirement(correct: Mapping[str, Report]) -> None:
    """It brings everything, so that nothing is left out; and it follows all advice."""
    assert_conforms(correct["python"])
    assert not not_applicable(correct["python"])
    assert not correct["python"].advice, correct["python"].table()


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node on the PATH")
def test_a_correct_extension_in_node_passes_every_requirement(correct: Mapping[str, Report]) -> None:
    """What is demanded is the protocol, and nothing that only Python does; integers of 64 bits are mere advice."""
    assert_conforms(correct["node"])
    assert not not_applicable(correct["node"])
    assert {x.requirement.id for x in correct["node"].advice} <= {"ids.64-bit"}, correct["node"].table()


def test_a_sepkit_app_with_every_kind_of_registration_passes_every_requirement(correct: Mapping[str, Report]) -> None:
    """Of all the requirements, none is left out for want of something to ask."""
    assert_conforms(correct["everything"])
    assert not not_applicable(correct["everything"])
    assert not correct["everything"].advice, correct["everything"].table()


@pytest.mark.parametrize("plugin", PLUGINS)
def test_the_plugins_conform(correct: Mapping[str, Report], plugin: str) -> None:
    """What they don't register for is not applicable, and not passed."""
    assert_conforms(correct[plugin])
    left_out = not_applicable(correct[plugin])
    assert {"providers.result", "registrations.providers", "cancelling.provider"} <= left_out
    assert ("tools.result" in left_out) is (plugin == "permission_gate")


# ------------------------------------------------------------------------------------------------------ the faulty ones
@pytest.fixture(scope="module")
def faulty() -> Mapping[str, Report]:
    """The report on each fault; many at once, for most of them wait for what never comes."""

    async def run_one(fault: str, factor: float) -> Report:
        only = () if SOAK or fault in WHOLE else (FOUND_BY[fault], *SAID_BY.get(fault, ()))
        return await run_conformance((*PLAIN, "--fault", fault), only=only, timeout_factor=factor)

    async def run_all() -> dict[str, Report]:
        slots, reports = asyncio.Semaphore(2 if SOAK else 12), {}

        async def one(fault: str) -> None:
            async with slots:
                reports[fault] = await run_one(fault, 1.0 if SOAK else 0.3)

        async with asyncio.TaskGroup() as group:
            for fault in RUN:
                group.create_task(one(fault))
        for fault, report in reports.items():
            if found(report).keys() != {FOUND_BY[fault]}:  # the machine was too busy for so little patience
                reports[fault] = await run_one(fault, 2.0)
        return reports

    return asyncio.run(run_all())


def found(report: Report) -> dict[str, Verdict]:
    """What is not met, and what advice is not followed."""
    return {x.requirement.id: x for x in (*report.failures, *report.advice)}


@pytest.mark.timeout(1800 if SOAK else 180)
@pytest.mark.parametrize("fault", sorted(RUN))
def test_a_fault_is_found_by_the_requirement_that_is_about_it(faulty: Mapping[str, Report], fault: str) -> None:
    """Each differs from the correct extension in one thing, which the report names, and says what was expected."""
    report, found_by = faulty[fault], FOUND_BY[fault]
    verdict = found(report).get(found_by)
    assert verdict is not None, report.table()
    assert verdict.expected
    assert verdict.came
    # One fault fails one requirement, and advice fails none.
    assert [x.requirement.id for x in report.failures] == [found_by] * (not verdict.requirement.advice), report.table()
    assert report.ok is verdict.requirement.advice


def test_every_fault_that_there_is_is_looked_for() -> None:
    """A fault that is not looked for tests nothing."""
    assert FOUND_BY.keys() == FAULTS.keys()
    known = {x.id: x for x in requirements()}
    assert set(FOUND_BY.values()) <= known.keys()


def test_advice_that_is_not_followed_fails_no_run(faulty: Mapping[str, Report]) -> None:
    """The protocol does not require an answer to a line that is not JSON, so silence is advice, not a failure."""
    report = faulty["silent-on-bad-json"]
    assert report.ok
    assert "frames.bad-json-told" in {x.requirement.id for x in report.advice}


# ----------------------------------------------------------------------------------------------------------- the runner
def test_a_failed_handshake_leaves_the_rest_untested() -> None:
    """One cause, one failure: what cannot be asked is neither passed nor failed, and the report is not good."""
    report = check(sys.executable, "-c", "import sys; sys.exit('no configuration')", only=["frames", "tools"])
    assert not report.ok
    assert [x.requirement.id for x in report.failures] == ["handshake.reply"]
    assert "no configuration" in report.failures[0].stderr
    assert "exit code 1" in " ".join(report.failures[0].came)
    assert {x.status for x in report.verdicts[1:]} == {Status.UNTESTED}


def test_what_says_nothing_passes_nothing() -> None:
    """A program that ends at once breaks no rule of the wire, and keeps none either."""
    report = check("true")
    assert [x.requirement.id for x in report.failures] == ["handshake.reply"]
    assert not [x.requirement.id for x in report.verdicts if x.status is Status.PASSED]


def test_what_writes_without_end_is_read_no_further_than_a_limit() -> None:
    """Neither lines without end nor a line without end fill the memory of who checks it."""
    report = check("yes", timeout_factor=2.0)
    assert "a flood" in " ".join(report.failures[0].came)
    assert "traffic.json" in found(report)


def test_what_sends_everything_back_is_told_so() -> None:
    """An echo asks for what it was asked for; the runner must not answer itself for ever."""
    report = check("cat", timeout_factor=0.2)
    assert {"handshake.reply", "traffic.methods"} <= found(report).keys()


def test_a_crash_over_one_line_fails_nothing_else(faulty: Mapping[str, Report]) -> None:
    """The others of its group go on, on a new process."""
    assert [x.requirement.id for x in faulty["dies-on-null"].failures] == ["frames.null"]


def test_a_command_that_cannot_be_spawned_is_said_with_the_path() -> None:
    """A command that cannot be started is reported with the PATH that was searched."""
    with pytest.raises(SpawnError, match=r"cannot start 'no-such-command'.*searched PATH: "):
        check("no-such-command")


def test_an_unknown_group_is_an_error_that_names_the_known_ones() -> None:
    """A misspelt ``only`` that checked nothing would pass."""
    with pytest.raises(ValueError, match=r"called framse; the groups are handshake, registrations, life"):
        check(*PLAIN, only=["framse"])


def test_nothing_is_called_where_only_frames_are_checked(tmp_path: Path) -> None:
    """A tool may do something that costs; who asks for frames alone gets frames alone."""
    (tmp_path / "app.py").write_text(
        textwrap.dedent("""
            from pathlib import Path
            from sepkit import App
            app = App("costly", version="1")
            @app.tool
            async def buy() -> str:
                Path("bought").touch()
                return "done"
        """),
        encoding="utf-8",
    )
    assert_conforms(check(*SERVE, cwd=tmp_path, only=["frames.null", "ids"]))
    assert not (tmp_path / "bought").exists()
    assert_conforms(check(*SERVE, cwd=tmp_path, only=["tools.result"]))
    assert (tmp_path / "bought").exists()


def test_arguments_given_by_hand_are_the_ones_that_a_tool_is_called_with(tmp_path: Path) -> None:
    """What a schema cannot tell, such as the name of a file that exists."""
    (tmp_path / "app.py").write_text(
        textwrap.dedent("""
            from pathlib import Path
            from sepkit import App
            app = App("picky", version="1")
            @app.tool
            async def read(name: str) -> str:
                Path("asked-for").write_text(name)
                return name
        """),
        encoding="utf-8",
    )
    assert_conforms(check(*SERVE, cwd=tmp_path, only=["tools.result"], arguments={"read": {"name": "notes.txt"}}))
    assert (tmp_path / "asked-for").read_text() == "notes.txt"


def test_what_can_run_only_once_at_a_time_is_run_one_after_another(tmp_path: Path) -> None:
    """``parallel=1``: a second one beside it would not get its lock, and end."""
    (tmp_path / "app.py").write_text(
        textwrap.dedent("""
            import fcntl
            from sepkit import App
            lock = open("lock", "w")
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            app = App("alone", version="1")
            @app.tool
            async def work() -> str:
                return "done"
        """),
        encoding="utf-8",
    )
    only = ["ids", "tools", "handshake.minimal", "life.shutdown"]
    assert_conforms(check(*SERVE, cwd=tmp_path, only=only, parallel=1))


def test_one_that_can_run_only_once_at_a_time_fails_one_requirement_beside_others(tmp_path: Path) -> None:
    """All others of its processes end at their start: that is one fault, and the rest is untested."""
    program = tmp_path / "alone.py"
    program.write_text(
        textwrap.dedent(f"""
            import fcntl, sys
            sys.path.insert(0, {str(HERE)!r})
            lock = open("lock", "w")
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            from extension import Extension
            Extension().main()
        """),
        encoding="utf-8",
    )
    report = check(sys.executable, str(program), cwd=tmp_path, only=["ids", "methods", "handshake.minimal", "life"])
    assert [x.requirement.id for x in report.failures] == ["handshake.reply"], report.table()
    assert "BlockingIOError" in report.failures[0].stderr


def test_a_tool_may_take_as_long_as_hosts_wait_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than a tool usually takes, and nothing that is asked of it afterwards is given less time."""
    monkeypatch.setattr(Patience, "call", property(lambda patience: 0.2))
    program = tmp_path / "slow.py"
    program.write_text(
        textwrap.dedent(f"""
            import sys, time
            sys.path.insert(0, {str(HERE)!r})
            import extension
            class Slow(extension.Extension):
                def introduction(self, params):
                    made = super().introduction(params)
                    return {{**made, "registrations": {{"tools": made["registrations"]["tools"][:1]}}}}
                def do_echo(self, call, text):
                    call.pause(0.5)
                    return super().do_echo(call, text)
            Slow().main()
        """),
        encoding="utf-8",
    )
    only = ["tools.result", "tools.unknown-fields", "tools.ping-beside", "cancelling.finished"]
    report = check(sys.executable, str(program), only=only)
    assert report.ok, report.table()
    assert report.counts()["passed"] == 3, report.table()


def test_no_process_outlives_the_run(tmp_path: Path) -> None:
    """Not even one that does not end with its stdin."""
    check(*PLAIN, "--fault", "ignores-end-of-file", only=["life.ping"], timeout_factor=1.0, cwd=tmp_path)
    left = [entry for entry in Path("/proc").glob("[0-9]*/cwd") if _leads_to(entry, tmp_path)]
    assert not left


def _leads_to(entry: Path, folder: Path) -> bool:
    try:
        return entry.readlink() == folder
    except OSError:
        return False

"""Commands, and the completion of their arguments."""

from __future__ import annotations

from sepkit.conformance.connection import Connection
from sepkit.conformance.evidence import Evidence
from sepkit.conformance.expectations import expect_error, judge, same_answer
from sepkit.conformance.requirement import observation, requirement
from sepkit.conformance.violations import Violation


@observation("commands.result", section="3", title="each command answers, and its result fits the schema")
def _result(e: Evidence) -> None:
    e.judge_survey("command/execute")


@observation("commands.completions", section="3", title="for each command completions are answered, if only with none")
def _completions(e: Evidence) -> None:
    e.judge_survey("command/complete")


@observation(
    "commands.completions-listed",
    section="3",
    title="completions are listed even where there are none: as an empty array",
    advice=True,
)
def _completions_listed(e: Evidence) -> None:
    for asked in e.asked("command/complete"):
        result = asked.answer.get("result") if asked.answer is not None else None
        if isinstance(result, dict) and "completions" not in result:
            raise Violation("completions", "none, not even an empty array", sent=asked.sent)


@requirement("commands.without-arguments", section="3", title="command/execute needs no arguments field")
async def _without_arguments(c: Connection) -> None:
    frame = c.calls.command()
    c.send(frame)
    bare = c.calls.command(frame["params"]["command"])
    del bare["params"]["arguments"]
    c.send(bare)
    same_answer(await c.answer(frame), await c.answer(bare))


@requirement("commands.without-partial", section="3", title="command/complete needs no partial field")
async def _without_partial(c: Connection) -> None:
    frame = c.calls.completion()
    del frame["params"]["partial"]
    judge("command/complete", await c.ask(frame))


@requirement("commands.unknown", section="3", title="a command that is not registered is answered, and not with -32601")
async def _unknown(c: Connection) -> None:
    c.subject.some("commands")
    judge("command/execute", await c.ask(c.calls.command("conformance-unknown")))


@requirement(
    "commands.unknown-completed",
    section="3",
    title="completions of a command that is not registered are answered, and not with -32601",
)
async def _unknown_completed(c: Connection) -> None:
    c.subject.some("commands")
    judge("command/complete", await c.ask(c.calls.completion("conformance-unknown")))


@requirement(
    "commands.bad-params",
    section="8",
    title="command/execute without its params, or with wrong ones, is answered with -32602",
)
async def _bad_params(c: Connection) -> None:
    c.subject.some("commands")
    expect_error(await c.ask(c.calls.request("command/execute", {})), -32602)
    expect_error(await c.ask(c.calls.request("command/execute", {"command": 5, "context": c.host.context()})), -32602)


@requirement(
    "commands.complete-bad-params", section="8", title="command/complete without its params is answered with -32602"
)
async def _complete_bad_params(c: Connection) -> None:
    c.subject.some("commands")
    expect_error(await c.ask(c.calls.request("command/complete", {})), -32602)


@requirement("commands.unknown-fields", section="1", title="unknown fields in a command and in its context are ignored")
async def _unknown_fields(c: Connection) -> None:
    plain = c.calls.command()
    c.send(plain)
    frame = c.calls.command(plain["params"]["command"])
    frame["params"] |= {"unknown": {"deep": 1}}
    frame["params"]["context"]["unknown"] = 1
    c.send(frame | {"unknown": "field"})
    same_answer(await c.answer(plain), await c.answer(frame))

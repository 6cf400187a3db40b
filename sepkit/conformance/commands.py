"""Commands, and the completion of their arguments."""

from __future__ import annotations

from typing import Final

from sepkit.conformance.connection import Connection
from sepkit.conformance.evidence import Evidence
from sepkit.conformance.expectations import judge, known
from sepkit.conformance.lines import Frame
from sepkit.conformance.params import bad_params
from sepkit.conformance.requirement import observation, requirement
from sepkit.conformance.violations import Violation


@observation("commands.result", section="3", title="each command answers, and its result fits the schema")
def _result(e: Evidence) -> None:
    e.judge_survey("command/execute")


@observation(
    "commands.completions", section="3", title="for each command completions are answered, even if there are none"
)
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
    command = c.subject.some("commands")

    def bare() -> Frame:
        frame = c.calls.command(command)
        del frame["params"]["arguments"]
        return frame

    await c.same_answer(lambda: c.calls.command(command), bare)


@requirement("commands.without-partial", section="3", title="command/complete needs no partial field")
async def _without_partial(c: Connection) -> None:
    frame = c.calls.completion()
    del frame["params"]["partial"]
    judge("command/complete", await c.ask(frame))


def _bad_executions(c: Connection) -> list[Frame]:
    c.subject.some("commands")
    wrong = {"command": 5, "context": c.host.context()}
    return [c.calls.request("command/execute"), c.calls.request("command/execute", wrong)]


def _bad_completions(c: Connection) -> list[Frame]:
    c.subject.some("commands")
    return [c.calls.request("command/complete")]


_BAD_PARAMS: Final = ("tools.bad-params", "hooks.bad-params", "commands.bad-params")
bad_params("commands.bad-params", "command/execute", _bad_executions, after=_BAD_PARAMS[:2])
bad_params("commands.complete-bad-params", "command/complete", _bad_completions, after=_BAD_PARAMS)


@requirement(
    "commands.unknown",
    section="3",
    title="a command that is not registered is answered, and not with -32601",
    after=_BAD_PARAMS,
    odd=True,
)
async def _unknown(c: Connection) -> None:
    c.subject.some("commands")
    known("command/execute", await c.ask(c.calls.command("conformance-unknown"), c.refusal))


@requirement(
    "commands.unknown-completed",
    section="3",
    title="completions of a command that is not registered are answered, and not with -32601",
    after=(*_BAD_PARAMS, "commands.complete-bad-params", "commands.unknown"),
    odd=True,
)
async def _unknown_completed(c: Connection) -> None:
    c.subject.some("commands")
    known("command/complete", await c.ask(c.calls.completion("conformance-unknown"), c.refusal))


@requirement(
    "commands.unknown-fields",
    section="1",
    title="unknown fields in a command and in its context are ignored",
    after=("methods.unknown-fields", "tools.unknown-fields", "hooks.unknown-fields"),
)
async def _unknown_fields(c: Connection) -> None:
    command = c.subject.some("commands")

    def odd() -> Frame:
        frame = c.calls.command(command)
        frame["params"] |= {"unknown": {"deep": 1}}
        frame["params"]["context"]["unknown"] = 1
        return frame | {"unknown": "field"}

    await c.same_answer(lambda: c.calls.command(command), odd)

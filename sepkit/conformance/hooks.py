"""Hooks: what the agent is about to do, and what the extension makes of it."""

from __future__ import annotations

from sepkit.conformance.connection import Connection
from sepkit.conformance.evidence import Evidence
from sepkit.conformance.expectations import expect_error, judge, same_answer
from sepkit.conformance.requirement import observation, requirement
from sepkit.conformance.violations import NotApplicable, Violation
from sepkit.errors import InvalidData
from sepkit.wire import messages, methods
from sepkit.wire.converter import structure


@observation("hooks.outcome", section="6", title="each hook answers continue, block or modify, as the schema has it")
def _outcome(e: Evidence) -> None:
    e.judge_survey("hook")


@observation("hooks.whole-patch", section="6", title="a patch is the whole new input, and not only what changed")
def _whole_patch(e: Evidence) -> None:
    some = False
    for asked in e.asked("hook"):
        result = asked.answer.get("result") if asked.answer is not None else None
        record = messages.HOOK_INPUTS.get(asked.target.name)
        patch = result.get("patch") if isinstance(result, dict) else None
        # The input of the other hooks is whatever the host puts into it.
        if isinstance(patch, dict) and asked.target.name != "user_bash" and record:
            some = True
            try:
                structure(patch, record)
            except InvalidData as error:
                raise Violation("a patch with all that the input has", str(error), sent=asked.sent) from None
    if not some:
        raise NotApplicable("no hook modified its input")


@requirement(
    "hooks.bad-params", section="8", title="hook without its params, or with wrong ones, is answered with -32602"
)
async def _bad_params(c: Connection) -> None:
    hook = c.subject.some("hooks")
    expect_error(await c.ask(c.calls.request("hook", {})), -32602)
    wrong = {"hook": hook, "context": c.host.context(), "input": "text"}
    expect_error(await c.ask(c.calls.request("hook", wrong)), -32602)


@requirement(
    "hooks.unknown-fields", section="1", title="unknown fields in a hook, its context and its input are ignored"
)
async def _unknown_fields(c: Connection) -> None:
    plain = c.calls.hook()
    c.send(plain)
    frame = c.calls.hook(plain["params"]["hook"], unknown=[1])
    frame["params"] |= {"unknown": {"deep": 1}}
    frame["params"]["context"]["unknown"] = 1
    c.send(frame | {"unknown": "field"})
    same_answer(await c.answer(plain), await c.answer(frame))


@requirement(
    "hooks.not-registered",
    section="6",
    title="a hook that it does not handle is answered: with an outcome, or an error",
)
async def _not_registered(c: Connection) -> None:
    others = sorted(methods.HOOKS - set(c.subject.hooks))
    if not others:
        raise NotApplicable("it handles every hook that there is")
    judge("hook", await c.ask(c.calls.hook(others[0])), registered=False)


@requirement("hooks.concurrent", section="1", title="three hooks in one write are each answered, under their own ids")
async def _concurrent(c: Connection) -> None:
    hook = c.subject.some("hooks")
    # Swapped answers are noticed only if they differ.
    refused = c.calls.request("hook", {"hook": hook, "context": c.host.context(), "input": "text"})
    frames = [c.calls.hook(hook), refused, c.calls.hook(hook)]
    c.send(*frames)
    for frame in frames:
        answer = await c.answer(frame)
        if frame is refused:
            expect_error(answer, -32602)
        else:
            judge("hook", answer)

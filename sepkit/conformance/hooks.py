"""Hooks: what the agent is about to do, and what the extension makes of it."""

from __future__ import annotations

from sepkit.conformance.connection import Connection
from sepkit.conformance.evidence import Evidence
from sepkit.conformance.expectations import judge, kind
from sepkit.conformance.lines import Frame, shortened, written
from sepkit.conformance.params import bad_params
from sepkit.conformance.requirement import observation, requirement
from sepkit.conformance.violations import NotApplicable, Violation
from sepkit.errors import InvalidData
from sepkit.wire import messages, methods
from sepkit.wire.converter import structure


@observation("hooks.outcome", section="6", title="each hook answers continue, block or modify, as the schema has it")
def _outcome(e: Evidence) -> None:
    e.judge_survey("hook")


@observation(
    "hooks.whole-patch",
    section="6",
    title="a patch is the whole new input, and not only what changed",
    after=("hooks.outcome",),
)
def _whole_patch(e: Evidence) -> None:
    some = False
    for asked in e.asked("hook"):
        result = asked.answer.get("result") if asked.answer is not None else None
        record = messages.HOOK_INPUTS.get(asked.target.name)
        patch = result.get("patch") if isinstance(result, dict) else None
        # The input of the other hooks is whatever the host puts into it.
        if isinstance(patch, dict) and asked.target.name != "user_bash" and record:
            some = True
            # Without the tool it is the same one; only another tool is refused.
            whole = {"tool": "", **patch} if asked.target.name == "tool_call" else patch
            try:
                structure(whole, record)
            except InvalidData as error:
                raise Violation("a patch with all that the input has", str(error), sent=asked.sent) from None
    if not some:
        raise NotApplicable("no hook modified its input")


def _with_input_of_text(c: Connection) -> Frame:
    return c.calls.request("hook", {"hook": c.subject.some("hooks"), "context": c.host.context(), "input": "text"})


def _bad_requests(c: Connection) -> list[Frame]:
    wrong = _with_input_of_text(c)
    return [c.calls.request("hook"), wrong]


bad_params("hooks.bad-params", "hook", _bad_requests, after=("tools.bad-params",))


@requirement(
    "hooks.unknown-fields",
    section="1",
    title="unknown fields in a hook, its context and its input are ignored",
    after=("methods.unknown-fields", "tools.unknown-fields"),
)
async def _unknown_fields(c: Connection) -> None:
    hook = c.subject.some("hooks")

    def odd() -> Frame:
        frame = c.calls.hook(hook, unknown=[1])
        frame["params"] |= {"unknown": {"deep": 1}}
        frame["params"]["context"]["unknown"] = 1
        return frame | {"unknown": "field"}

    await c.same_answer(lambda: c.calls.hook(hook), odd)


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


@requirement(
    "hooks.concurrent",
    section="1",
    title="three hooks in one write are each answered, under their own ids",
    after=("tools.bad-params", "hooks.bad-params"),
    odd=True,
)
async def _concurrent(c: Connection) -> None:
    hook = c.subject.some("hooks")
    # An answer that went to the wrong hook is noticed only where the answers differ.
    alone, again = await c.ask(_with_input_of_text(c)), await c.ask(_with_input_of_text(c))
    differs = kind(await c.ask(c.calls.hook(hook))) != kind(alone) == kind(again)
    bad = _with_input_of_text(c)
    frames = [c.calls.hook(hook), bad, c.calls.hook(hook)]
    c.send(*frames)
    for frame in frames:
        answer = await c.answer(frame)
        if frame is not bad:
            judge("hook", answer)
        elif differs and kind(answer) != kind(alone):
            raise Violation(f"the answer to a wrong input, as it was before: {shortened(written(alone))}")

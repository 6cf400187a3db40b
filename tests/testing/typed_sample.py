"""The test host as its users type it. Checked by mypy --strict, never run.

What mypy must refuse carries a ``type: ignore`` with the code of the error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, assert_type

from sepkit import App, Completion, Credentials, StreamEvent, TaskHealth
from sepkit.testing import BlockingTestHost, ProviderAnswer, TestHost, ToolAnswer, run_virtual
from sepkit.testing.seen import SessionCall
from sepkit.wire import messages

app = App("typed")


async def answer_later(request: messages.UiRequest) -> str | bool | None:
    return request.kind == "confirm"


async def in_a_loop(sepkit_host: type[TestHost]) -> None:
    async with TestHost(app, ui={"confirm": [True, None], "input": "x"}, exec={"git": "clean"}, mode="web") as host:
        assert_type(host, TestHost)
        answer = await host.call_tool("greet", {"name": "Ada"}, on_update=lambda update: print(update.progress))
        assert_type(answer, ToolAnswer)
        assert_type(answer.updates, list[messages.ToolUpdateParams])
        assert_type(await host.call_hook("context", {}), messages.HookOutcome)
        assert_type(await host.run_command("c"), str | None)
        assert_type(await host.complete_command("c"), list[Completion])
        completed = await host.complete("p", "m", [{"role": "user", "content": "hi"}])
        assert_type(completed, ProviderAnswer)
        assert_type(completed.deltas, list[StreamEvent])
        assert_type(await host.oauth_login("p"), Credentials)
        assert_type(await host.start_task("t"), messages.TaskHealth)
        assert_type(host.session_calls, list[SessionCall])
        assert_type(host.registrations, messages.Registrations)
        await host.call_tool(5)  # type: ignore[arg-type]
        await host.call_tol("x")  # type: ignore[attr-defined]
    TestHost(app, ui={"confirm": 5})  # type: ignore[dict-item]
    TestHost(app, mode="nowhere")  # type: ignore[arg-type]
    TestHost(app, ui=answer_later)
    assert_type(await sepkit_host(app, kv={"a": 1}), TestHost)
    sepkit_host(app, kw={})  # type: ignore[call-arg]


def without_a_loop(sepkit_host: type[TestHost]) -> None:
    with TestHost(app) as host:
        assert_type(host, BlockingTestHost)
        assert_type(host.call_tool("greet", {"name": "Ada"}, timeout=1), ToolAnswer)
        assert_type(host.list_tasks(), list[messages.TaskHealth])
        assert_type(host.kv, dict[str, Any])
        assert_type(host.send_event("turn_start", {"n": 1}, wait=False), None)
        host.call_tool(5)  # type: ignore[arg-type]
        host.call_tool("greet", time_out=1)  # type: ignore[call-arg]
        host.call_tol("x")  # type: ignore[attr-defined]
        host.loggs  # type: ignore[attr-defined]  # noqa: B018
    assert_type(sepkit_host(app).blocking(), BlockingTestHost)


async def five() -> int:
    return 5


assert_type(run_virtual(five()), int)
check: Callable[[TaskHealth], str] = lambda health: health.status  # noqa: E731

"""What is one extension's never becomes another's, over real processes: names, keys, prompts, tools and tasks."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sepkit.capabilities.names import is_name, is_plain
from sepkit.errors import InvalidParams, RequestTimeout, RpcError
from sepkit.host import Delegate, Host
from sepkit.host.claims import Claims, chord
from sepkit.wire import messages
from tests.host.scripted import PATIENCE, do, host, load, scripted, seen, show_widget, status, until

Run = Callable[[Coroutine[Any, Any, Any]], Any]


class Screen(Delegate):
    """Shows all widgets."""

    ui_kinds = ("set_widget", "notify")

    async def ui(self, extension: str, request: messages.UiRequest) -> messages.UiResult:
        return messages.UiResult()


def tool(name: str) -> dict[str, Any]:
    return {"name": name, "description": "", "parameters": {"type": "object"}}


def update(**registrations: Any) -> dict[str, Any]:
    return {"method": "registry/update", "params": registrations}


async def keys(host: Host, name: str) -> list[Any]:
    return [event["payload"] for event in await seen(host, name, "event") if event["event"] == "widget/key"]


# -- widgets -----------------------------------------------------------------------------------------------------------


def test_a_widget_with_anothers_id_does_not_get_its_keys(run: Run) -> None:
    """Ids of widgets belong to their extension, which ``press_key`` names; a bare id is that of the first that came."""

    async def main() -> None:
        async with host(Screen()) as it:
            await load(it, scripted("evil"), scripted("good"))
            for name in ("good", "evil", "good"):
                await do(it, name, show_widget("board"), answers=1)
            it.press_key("board", "1")
            it.press_key("board", "2", extension="good")
            it.press_key("board", "3", extension="evil")
            assert await keys(it, "good") == [{"widget_id": "board", "key": key} for key in "12"]
            assert await keys(it, "evil") == [{"widget_id": "board", "key": "3"}]

    run(main())


def test_a_widget_with_the_name_of_an_extension_does_not_get_its_keys(run: Run) -> None:
    """What names an extension means that extension."""

    async def main() -> None:
        async with host(Screen()) as it:
            await load(it, scripted("evil"), scripted("good"))
            await do(it, "evil", show_widget("good"), answers=1)
            it.press_key("good", "x")
            assert await keys(it, "good") == [{"key": "x"}]
            assert await keys(it, "evil") == []
            it.press_key("good", "y", extension="evil")
            assert await keys(it, "evil") == [{"widget_id": "good", "key": "y"}]
            with pytest.raises(InvalidParams):
                it.press_key("board", "x", extension="good")
            with pytest.raises(InvalidParams):
                it.press_key("good", "x", extension="nobody")

    run(main())


def test_no_number_of_widgets_takes_anothers_from_it(run: Run) -> None:
    """Each extension has a table of its own."""

    async def main() -> None:
        async with host(Screen()) as it:
            await load(it, scripted("evil"), scripted("good"))
            await do(it, "good", show_widget("board"), answers=1)
            await do(it, "evil", *(show_widget(f"w{number}", f"r{number}") for number in range(1_001)), answers=1_001)
            it.press_key("board", "q")
            assert await keys(it, "good") == [{"widget_id": "board", "key": "q"}]
            it.press_key("w1000", "q", extension="evil")
            with pytest.raises(InvalidParams):
                it.press_key("w0", "q")
            await it.unload("evil")
            with pytest.raises(InvalidParams):
                it.press_key("w1000", "q")
            it.owns_widget("evil", "late")
            assert it._widgets.keys() == {"good"}

    run(main())


# -- providers, commands, shortcuts, renderers -------------------------------------------------------------------------

ALL_KINDS: dict[str, Any] = {
    "commands": [{"name": "plan", "description": ""}],
    "providers": [{"name": "models", "oauth": True}],
    "shortcuts": [{"key": "ctrl+shift+p", "command": "plan"}],
    "message_renderers": [{"tag": "note", "template": {"kind": "markdown", "text": "{{text}}"}}],
}
OTHER_SPELLING = {**ALL_KINDS, "shortcuts": [{"key": "Shift+Ctrl+P", "command": "plan"}]}
COMPLETION = {"content": "said", "tool_calls": [], "finish_reason": "stop"}


def owned(name: str, registrations: dict[str, Any] = ALL_KINDS) -> Any:
    answers = {
        "provider/complete": {**COMPLETION, "content": name},
        "provider/oauth_refresh": {"access_token": name},
        "command/execute": {"content": name},
    }
    return scripted(name, answers=answers, **registrations)


async def all_asked(it: Host) -> set[object]:
    """Who is asked for each of what two extensions have."""
    stream = it.complete("models", "m", [{"role": "user", "content": "a secret"}], stream=False)
    assert [event async for event in stream] == []
    assert stream.result is not None
    refreshed = await it.oauth_refresh("models", "a token")
    return {stream.result.content, refreshed.access_token, await it.run_command("plan")}


def kinds_of(it: Host, name: str) -> list[str]:
    had = it.registrations(name)
    return [kind for kind in ALL_KINDS if getattr(had, kind)]


def test_who_came_first_keeps_a_name_and_the_clash_is_said(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """Of providers, commands, shortcuts and renderers; also if the other one's name comes first in the alphabet."""

    async def main() -> None:
        async with host() as it:
            await load(it, owned("good"))
            await load(it, owned("evil", OTHER_SPELLING))
            assert await all_asked(it) == {"good"}
            assert kinds_of(it, "good") == list(ALL_KINDS)
            assert kinds_of(it, "evil") == []
            assert await it.run_command("plan", extension="evil") == "evil", "it can be named"
            assert status(it, "good").notes == ()
            notes = status(it, "evil").notes
            assert len(notes) == 4
            for what in ("command 'plan'", "provider 'models'", "shortcut 'ctrl+shift+p'", "message renderer 'note'"):
                assert f"its {what} is not taken: good has it" in notes
                assert f"evil: its {what} is not taken: good has it" in caplog.text
            for method in ("provider/complete", "provider/oauth_refresh"):
                assert await seen(it, "evil", method) == []

    run(main())


def test_a_name_does_not_move_while_its_owner_dies_and_comes_back(run: Run) -> None:
    """Prompts and credentials fail then, rather than to go to another extension than before."""

    async def main() -> None:
        async with host(restart_delays=(0.05,)) as it:
            await load(it, owned("good"))
            await load(it, owned("evil"))
            pid = status(it, "good").pid
            os.kill(pid, signal.SIGKILL)
            await until(lambda: status(it, "good").state == "restarting")
            with pytest.raises(Exception, match="good is restarting"):
                await it.oauth_refresh("models", "a token")
            await do(it, "evil", update(providers=ALL_KINDS["providers"], commands=ALL_KINDS["commands"]))
            await until(lambda: status(it, "good").state == "ready")
            assert await all_asked(it) == {"good"}
            assert await seen(it, "evil", "provider/oauth_refresh") == []

    run(main())


def test_of_those_that_are_loaded_together_the_first_in_the_list_has_the_name(run: Run) -> None:
    """Not the one whose process is quicker by chance."""

    async def main() -> None:
        for order in (("good", "evil"), ("evil", "good")):
            async with host() as it:
                await load(it, *map(owned, order))
                assert await all_asked(it) == {order[0]}

    run(main())


def test_when_the_first_is_unloaded_its_prompts_do_not_go_to_another_by_themselves(run: Run) -> None:
    """Its command and its shortcut do; its provider does when the program loads the other one again."""

    async def main() -> None:
        async with host() as it:
            await load(it, owned("good"))
            await load(it, owned("evil"))
            await it.unload("good")
            assert await it.run_command("plan") == "evil"
            await do(it, "evil", update(providers=ALL_KINDS["providers"]))
            with pytest.raises(InvalidParams, match="no provider"):
                await it.oauth_refresh("models", "a token")
            assert kinds_of(it, "evil") == ["commands", "shortcuts", "message_renderers"]
            assert any("the one that had it is gone" in note for note in status(it, "evil").notes)
            await load(it, owned("good"))
            assert (await it.oauth_refresh("models", "a token")).access_token == "good"
            await it.unload("good")
            await it.unload("evil")
            await load(it, owned("evil"))
            assert await all_asked(it) == {"evil"}
            assert status(it, "evil").notes == ()

    run(main())


def test_a_chord_is_the_same_however_it_is_written() -> None:
    """Else two extensions had the same keys."""
    assert {chord(one) for one in ("ctrl+shift+p", "Shift+Ctrl+P", "shift + ctrl + p")} == {"ctrl+shift+p"}
    assert chord("ctrl++") != chord("ctrl+p")


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sets(st.sampled_from("xyz")), st.booleans()), max_size=12))
def test_a_provider_never_passes_from_one_extension_to_another_while_both_are_there(
    steps: list[tuple[str, set[str], bool]],
) -> None:
    """Whatever they register in whatever order, and whichever of them go and come back."""
    claims = Claims()
    owners: dict[str, str] = {}
    wants: dict[str, set[str]] = {}
    for extension, names, goes in steps:
        if goes:
            claims.forget(extension)
            wants.pop(extension, None)
        else:
            claims.take(extension, [("provider", name) for name in names])
            wants[extension] = names
        for name in "xyz":
            owner = claims.owner("provider", name)
            before = owners.get(name)
            if before is not None and name in wants.get(before, ()):
                assert owner == before
            elif owner is not None and owner != before:
                assert owner == extension, "it has just asked for it"
            if owner is None:
                owners.pop(name, None)
            else:
                owners[name] = owner
                assert name in wants[owner]


# -- tools -------------------------------------------------------------------------------------------------------------


def set_active(*names: str) -> dict[str, Any]:
    return {"id": "s", "method": "tools/set_active", "params": {"tools": list(names)}}


def test_an_extension_switches_off_only_its_own_tools(run: Run) -> None:
    """``tools/set_active`` acts on the asker's tools; those of others are neither switched off nor on."""

    async def main() -> None:
        async with host() as it:
            await load(it, scripted("evil"), scripted("good"))
            ((answer),) = await do(it, "evil", set_active("evil.do", "good.do"), answers=1)
            assert answer["result"] == {"active": ["evil.do"]}
            assert [one.name for one in it.tools()] == ["evil.do", "good.do", "good.seen"]
            await do(it, "good", set_active("good.seen", "good.do"), answers=1)
            await do(it, "evil", set_active(), answers=1)
            assert [one.name for one in it.tools()] == ["good.do", "good.seen"]
            await it.unload("evil")
            await load(it, scripted("evil"))
            assert len(it.tools()) == 4, "what it had asked for is gone with it"

    run(main())


def test_a_tool_comes_back_when_the_extension_that_its_name_belonged_to_is_unloaded(run: Run) -> None:
    """``a.b.c`` is ``c`` of ``a.b`` while that is there, in whatever order they come, and ``b.c`` of ``a`` else."""

    async def main() -> None:
        async with host() as it:
            await load(it, scripted("a", tools=[tool("b.c")]))
            assert it._tools["a.b.c"][0].name == "a"
            await load(it, scripted("a.b", tools=[tool("c")]))
            assert it._tools["a.b.c"][0].name == "a.b"
            assert "its tool 'b.c' is not taken: the name belongs to a.b" in status(it, "a").notes
            await it.unload("a.b")
            assert it._tools["a.b.c"][0].name == "a"
            assert status(it, "a").notes == ()
            assert {one.name for one in it.tools()} == {"a.b.c", "a.do", "a.seen"}

    run(main())


# -- names -------------------------------------------------------------------------------------------------------------

BAD_NAMES = {
    "empty": "",
    "long": "x" * 129,
    "space": "a b",
    "slash": "a/b",
    "line end": "tool\n",
    "return": "a\rb",
    "escape": "\x1b[2Ja",
    "C1": "a\x9b2J",
    "NUL": "a\0",
    "bidi": "a\u202eb",
    "zero width": "a\u200bb",
    "Cyrillic a": "b\u0430sh",
    "fullwidth": "\uff42ash",
    "umlaut": "größe",
}


def test_a_name_that_models_or_readers_could_not_tell_is_refused_and_said_and_the_rest_loads(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """Of tools, commands, providers, tasks and widgets; also where it comes with an update."""
    policy = {"type": "never", "max_restarts": 0, "initial_delay_ms": 1, "max_delay_ms": 1, "multiplier": 1.0}
    task = {"description": "", "per_user": False, "autostart": False, "restart_policy": policy}
    names = [*BAD_NAMES.values(), "fine"]

    async def main() -> None:
        async with host(Screen()) as it:
            extension = scripted(
                "ext",
                tools=list(map(tool, names)),
                commands=[{"name": name, "description": ""} for name in names],
                providers=[{"name": name} for name in names],
                tasks=[{"name": name, **task} for name in names],
                shortcuts=[{"key": f"ctrl+{number}", "command": name} for number, name in enumerate(names)],
            )
            await load(it, extension)
            learned = update(tools=[*map(tool, names), tool("later")], commands=[{"name": "a b", "description": ""}])
            await do(it, "ext", learned)
            await until(lambda: "ext.later" in it._tools)
            had = it.registrations("ext")
            assert [one.name for one in had.tools] == ["do", "seen", "fine", "later"]
            for kind in ("commands", "providers", "tasks"):
                assert [one.name for one in getattr(had, kind)] == ["fine"]
            assert [one.command for one in had.shortcuts] == ["fine"]
            notes = status(it, "ext").notes
            assert "its tool '\\x1b[2Ja' is not taken: it must be 1 to 128 letters, digits, '_', '.' and '-'" in notes
            for note in notes:
                assert note.isascii()
                assert note.isprintable()
                assert caplog.text.count(f"{note}\n") <= 1
            answers = await do(it, "ext", *map(show_widget, BAD_NAMES.values(), BAD_NAMES), answers=len(BAD_NAMES))
            assert [answer["error"]["code"] for answer in answers] == [-32602] * len(BAD_NAMES)

    run(main())


@pytest.mark.parametrize("name", BAD_NAMES.values(), ids=BAD_NAMES)
def test_a_bad_name_is_told_from_a_good_one(name: str) -> None:
    """By itself, so that each of them counts."""
    assert not is_name(name)


@pytest.mark.parametrize("name", ["a", "A_b-C.9", "x" * 128, "-", "..", "9"])
def test_a_name_as_models_take_it_is_taken(name: str) -> None:
    """Letters, digits, dots, hyphens and underscores."""
    assert is_name(name)


def test_what_has_a_form_of_its_own_must_look_like_what_it_is() -> None:
    """Chords, ids of models and tasks, and names of events may have more characters, but none that is not seen."""
    assert all(map(is_plain, ["ctrl++", "vendor/model:7b", "feed:ada@example.com", "größe", "turn_start"]))
    assert not any(map(is_plain, ["", " ", "a\nb", "a\x1bb", "a\u202eb", "a\u200bb", "x" * 257]))


def test_ids_and_names_that_are_not_plain_are_refused_wherever_they_come_from(run: Run) -> None:
    """Models, flags, events, chords, renderers and tasks: what may be shown of an extension looks like what it is."""

    async def main() -> None:
        async with host() as it:
            bad = "a\u202eb\n"
            health = {"user_id": None, "status": "running", "restart_count": 0}
            extension = scripted(
                "ext",
                providers=[{"name": "p", "models": [{"id": bad}, {"id": "vendor/m:1"}]}],
                flags=[bad, "loud"],
                subscriptions=[bad, "turn_start"],
                hooks={bad: "silence", "input": "silence"},
                shortcuts=[{"key": bad, "command": "x"}],
                message_renderers=[{"tag": bad, "template": {"kind": "markdown", "text": ""}}],
            )
            await load(it, extension)
            had = it.registrations("ext")
            assert [model.id for model in had.providers[0].models] == ["vendor/m:1"]
            assert (had.flags, had.subscriptions, had.hooks) == (["loud"], ["turn_start"], ["input"])
            assert (had.shortcuts, had.message_renderers) == ([], [])
            told = [
                {"method": "task/update", "params": {**health, "task_id": name, "name": name}}
                for name in (bad, "t:ada")
            ]
            await do(it, "ext", *told)
            await until(lambda: it.tasks()["ext"])
            assert [task.task_id for task in it.tasks()["ext"]] == ["t:ada"]

    run(main())


def test_thousands_of_bad_names_are_told_by_a_few_lines(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """They are counted; neither the log nor the status grows with them."""

    async def main() -> None:
        async with host() as it:
            await load(it, scripted("ext", tools=[tool(f"{number} {'x' * 1000}") for number in range(50)]))
            many = [update(commands=[{"name": f"{number} !", "description": ""}]) for number in range(2_000)]
            await do(it, "ext", *many)
            assert len(status(it, "ext").notes) <= 51
            assert sum(map(len, status(it, "ext").notes)) < 8_000

    run(main())
    assert len(caplog.records) < 60


# -- tasks -------------------------------------------------------------------------------------------------------------

HEALTH = {"task_id": "t", "name": "t", "user_id": None, "status": "running", "restart_count": 0}
FAILURES: dict[str, Any] = {
    "refused": ({"error": {"code": -32603, "message": "not now"}}, RpcError),
    "unanswered": ("silence", RequestTimeout),
    "nonsense": ({"status": 5}, RpcError),
    "another task's": ({**HEALTH, "task_id": "other"}, RpcError),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_stop_that_fails_has_not_half_happened(failure: str, run: Run) -> None:
    """The task runs on, and comes back after a death, as any other that was started."""
    answer, error = FAILURES[failure]

    async def main() -> None:
        async with host(restart_delays=(0.01,)) as it:
            await load(it, scripted("ext", answers={"task/start": HEALTH, "task/stop": answer}))
            await it.start_task("ext", "t")
            with pytest.raises(error):
                await it.stop_task("ext", "t", timeout=0.2)
            assert [(task.task_id, task.status) for task in it.tasks()["ext"]] == [("t", "running")]
            os.kill(status(it, "ext").pid, signal.SIGKILL)
            await until(lambda: status(it, "ext").epoch == 2 and status(it, "ext").state == "ready")
            async with asyncio.timeout(PATIENCE):
                while not await seen(it, "ext", "task/start"):
                    await asyncio.sleep(0.005)

    run(main())


def test_a_task_that_was_stopped_does_not_come_back(run: Run) -> None:
    """As before; and a stop that is given up by its caller has not half happened either."""

    async def main() -> None:
        stopped = {**HEALTH, "status": "stopped"}
        async with host(restart_delays=(0.01, 0.01)) as it:
            await load(it, scripted("ext", answers={"task/start": HEALTH, "task/stop": stopped}))
            await it.start_task("ext", "t")
            giving_up = asyncio.create_task(it.stop_task("ext", "t"))
            await asyncio.sleep(0)
            giving_up.cancel()
            await asyncio.wait([giving_up])
            assert it._extensions["ext"].tasks._wanted.keys() == {"t"}
            await it.stop_task("ext", "t")
            os.kill(status(it, "ext").pid, signal.SIGKILL)
            await until(lambda: status(it, "ext").epoch == 2 and status(it, "ext").state == "ready")
            assert it._extensions["ext"].tasks._wanted == {}, "what would come back"
            assert await seen(it, "ext", "task/start") == []

    run(main())

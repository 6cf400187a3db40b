"""Apps and routers: what decorators return and refuse, names, annotations; and the package's own house rules."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypedDict

import attrs
import pytest

import sepkit
from sepkit import (
    App,
    Block,
    CommandContext,
    Credentials,
    Delta,
    Done,
    EventContext,
    HookContext,
    Model,
    OAuthParams,
    ProviderContext,
    ProviderRequest,
    Router,
    TaskContext,
    ToolCall,
    ToolContext,
    UserBash,
    render,
)
from sepkit.errors import RegistrationError
from sepkit.faces.sep.registrations import registrations
from sepkit.testing import TestHost
from sepkit.wire.writing import unstructure
from tests.checked_host import CheckedHost
from tests.memory_host import CONTEXT, MemoryHost, on_each_loop

if TYPE_CHECKING:
    from fractions import Fraction

PACKAGE = Path(sepkit.__file__).parent


# -- decorators --------------------------------------------------------------------------------------------------------


async def coroutine() -> None:
    """Do."""


def function() -> None:
    """Do."""


async def generator() -> AsyncIterator[Delta]:
    yield Delta("x")


DECORATORS: dict[str, tuple[Callable[[Any], Callable[[Any], Any]], tuple[Any, ...]]] = {
    "tool": (lambda app: app.tool, (coroutine, function)),
    "tool()": (lambda app: app.tool(), (coroutine, function)),
    "tool(…)": (lambda app: app.tool(name="x", timeout=1, strict=True, deferred=True), (coroutine, function)),
    "hook": (lambda app: app.hook("tool_call"), (coroutine, function)),
    "on": (lambda app: app.on("turn_start"), (coroutine, function)),
    "on_bus": (lambda app: app.on_bus("news"), (coroutine, function)),
    "on_key": (lambda app: app.on_key("board"), (coroutine, function)),
    "command": (lambda app: app.command, (coroutine, function)),
    "command(…)": (lambda app: app.command(name="x", description="y"), (coroutine, function)),
    "complete": (lambda app: app.complete("x"), (coroutine, function)),
    "provider": (lambda app: app.provider("p"), (generator,)),
    "oauth_login": (lambda app: app.oauth_login("p"), (coroutine, function)),
    "oauth_refresh": (lambda app: app.oauth_refresh("p"), (coroutine, function)),
    "task": (lambda app: app.task, (coroutine,)),
    "task(…)": (lambda app: app.task(restart="never", autostart=False), (coroutine,)),
}


@pytest.mark.parametrize("make", [App, Router])
@pytest.mark.parametrize("name", DECORATORS)
def test_every_decorator_returns_the_very_function_it_got(name: str, make: Any) -> None:
    """A decorator returns the very function that it got."""
    decorator, functions = DECORATORS[name]
    for given in functions:
        before = dict(vars(given))
        app = make("t") if make is App else make()
        assert decorator(app)(given) is given
        assert vars(given) == before, "and leaves it as it was"


@pytest.mark.parametrize("name", [name for name in DECORATORS if name not in ("hook", "on", "on_bus", "on_key")])
def test_a_second_registration_of_a_name_is_an_error_where_it_is_written(name: str) -> None:
    """A second registration of a name raises where it is written."""
    decorator, (given, *_) = DECORATORS[name]
    app = App("t")
    decorator(app)(given)
    with pytest.raises(
        RegistrationError, match=r"is registered twice \(the first is at .*test_app\.py:\d+\)"
    ) as caught:
        decorator(app)(given)
    assert given.__code__.co_filename.endswith("test_app.py")
    assert f":{given.__code__.co_firstlineno})" in str(caught.value)


@pytest.mark.parametrize(
    "register",
    [
        lambda app: app.flag("verbose"),
        lambda app: app.shortcut("ctrl+p", "x"),
        lambda app: app.renderer("x", render.markdown("x")),
    ],
    ids=["flag", "shortcut", "renderer"],
)
def test_a_second_registration_of_what_is_no_function_is_an_error_too(register: Callable[[App], None]) -> None:
    """A second registration of a flag, a shortcut or a renderer raises too."""
    app = App("t")
    register(app)
    with pytest.raises(RegistrationError, match=r"is registered twice; give one of them another name$"):
        register(app)


def test_one_function_may_be_several_things() -> None:
    """A decorated function is unchanged and can be decorated again."""
    app = App("t")

    @app.tool(name="first")
    @app.tool(name="second")
    @app.command
    async def work(n: int) -> int:
        """Work."""
        return n + 1

    assert list(app.tools) == ["second", "first"]
    assert list(app.commands) == ["work"]
    assert asyncio.run(work(1)) == 2, "and can be called"


# -- mistakes ----------------------------------------------------------------------------------------------------------
# Made on an app of type Any: a type checker would find most of them.
# mypy: disallow-untyped-decorators=False


def _tool_without_annotation(app: Any) -> None:
    @app.tool
    async def work(x) -> None: ...  # type: ignore[no-untyped-def]


def _tool_named_by_position(app: Any) -> None:
    @app.tool("other")
    async def work() -> None: ...


def _tool_of_a_class(app: Any) -> None:
    @app.tool
    class Work: ...


def _tool_with_another_context(app: Any) -> None:
    @app.tool
    async def work(ctx: HookContext) -> None: ...


def _tool_with_two_contexts(app: Any) -> None:
    @app.tool
    async def work(a: ToolContext, b: ToolContext) -> None: ...


def _tool_of_a_generator(app: Any) -> None:
    @app.tool
    async def work() -> AsyncIterator[int]:
        yield 1


def _tool_without_time(app: Any) -> None:
    @app.tool(timeout=0)
    async def work() -> None: ...


def _tool_without_a_name(app: Any) -> None:
    app.tool(lambda: 1)


def _tool_with_a_strange_name(app: Any) -> None:
    @app.tool(name="greet someone!")
    async def work() -> None: ...


def _tool_with_a_bad_schema(app: Any) -> None:
    @app.tool(parameters={"type": "array"})
    async def work() -> None: ...


def _hook_without_its_name(app: Any) -> None:
    @app.hook
    async def gate(call: ToolCall) -> None: ...


def _hook_misspelt(app: Any) -> None:
    @app.hook("tool_cal")
    async def gate(call: ToolCall) -> None: ...


def _hook_of_an_event(app: Any) -> None:
    @app.hook("turn_start")
    async def gate(call: dict[str, Any]) -> None: ...


def _hook_with_another_input(app: Any) -> None:
    @app.hook("tool_call")
    async def gate(typed: UserBash) -> None: ...


def _hook_with_two_inputs(app: Any) -> None:
    @app.hook("tool_call")
    async def gate(call: ToolCall, more: dict[str, Any]) -> None: ...


def _hook_without_annotation(app: Any) -> None:
    @app.hook("tool_call")
    async def gate(call) -> None: ...  # type: ignore[no-untyped-def]


def _hook_with_another_context(app: Any) -> None:
    @app.hook("tool_call")
    async def gate(ctx: ToolContext) -> None: ...


def _hook_with_var_args(app: Any) -> None:
    @app.hook("input")
    async def gate(*values: dict[str, Any]) -> None: ...


def _hook_of_no_data(app: Any) -> None:
    @app.hook("input")
    async def gate(value: asyncio.Event) -> None: ...


def _hook_of_a_class(app: Any) -> None:
    @app.hook("input")
    class Gate: ...


def _event_without_its_name(app: Any) -> None:
    @app.on
    async def observe(payload: dict[str, Any]) -> None: ...


def _event_without_any_name(app: Any) -> None:
    @app.on("")
    async def observe(payload: dict[str, Any]) -> None: ...


def _event_misspelt(app: Any) -> None:
    @app.on("turn_strat")
    async def observe(payload: dict[str, Any]) -> None: ...


def _event_of_a_generator(app: Any) -> None:
    @app.on("turn_start")
    async def observe() -> AsyncIterator[int]:
        yield 1


def _bus_without_its_topic(app: Any) -> None:
    @app.on_bus
    async def hear(payload: dict[str, Any]) -> None: ...


def _key_without_its_widget(app: Any) -> None:
    @app.on_key
    async def press(payload: dict[str, Any]) -> None: ...


def _event_with_session(app: Any) -> None:
    @app.on("turn_start")
    async def observe(ctx: ToolContext) -> None: ...


def _command_of_no_data(app: Any) -> None:
    @app.command
    async def report(at: asyncio.Event) -> None: ...


def _command_of_a_generator(app: Any) -> None:
    @app.command
    def report() -> Iterator[str]:
        yield "line"


def _completer_without_its_command(app: Any) -> None:
    @app.complete
    async def suggest(partial: str) -> list[str]:
        return []


def _completer_of_nothing(app: Any) -> None:
    app.command(name="report")(coroutine)

    @app.complete("reprot")
    async def suggest(partial: str) -> list[str]:
        return []

    app.check()


def _provider_of_a_coroutine(app: Any) -> None:
    @app.provider("p")
    async def complete(request: ProviderRequest) -> list[Delta]:
        return []


def _provider_of_a_plain_generator(app: Any) -> None:
    @app.provider("p")
    def complete(request: ProviderRequest) -> Iterator[Delta]:
        yield Delta("x")


def _provider_without_its_name(app: Any) -> None:
    @app.provider
    async def complete(request: ProviderRequest) -> AsyncIterator[Delta]:
        yield Delta("x")


def _provider_with_models_as_text(app: Any) -> None:
    app.provider("p", models=["gpt"])


def _oauth_without_its_provider(app: Any) -> None:
    @app.oauth_login
    async def login(request: OAuthParams) -> Credentials:
        return Credentials()


def _oauth_with_another_context(app: Any) -> None:
    @app.oauth_refresh("p")
    async def refresh(ctx: ToolContext) -> Credentials:
        return Credentials()


def _task_of_a_function(app: Any) -> None:
    @app.task
    def sync() -> None: ...


def _task_with_arguments(app: Any) -> None:
    @app.task
    async def sync(interval: int) -> None: ...


def _task_with_an_unknown_policy(app: Any) -> None:
    @app.task(restart="sometimes")
    async def sync() -> None: ...


def _flag_with_a_strange_name(app: Any) -> None:
    app.flag("be verbose")


def _flag_without_a_form_in_json(app: Any) -> None:
    app.flag("loud", default={1: object()})


def _flag_with_a_description_of_another_kind(app: Any) -> None:
    app.flag("loud", description=5)


def _tool_with_a_bare_ctx(app: Any) -> None:
    @app.tool
    async def work(x: int, ctx) -> None: ...  # type: ignore[no-untyped-def]


def _tool_with_a_schema_and_a_bare_ctx(app: Any) -> None:
    @app.tool(parameters={"type": "object"})
    async def work(run_context) -> None: ...  # type: ignore[no-untyped-def]


def _event_with_a_bare_ctx(app: Any) -> None:
    @app.on("turn_start")
    async def work(payload: dict[str, Any], ctx) -> None: ...  # type: ignore[no-untyped-def]


def _task_with_a_bare_ctx(app: Any) -> None:
    @app.task
    async def work(ctx) -> None: ...  # type: ignore[no-untyped-def]


def _flag_on_a_function(app: Any) -> None:
    app.flag(5)


def _shortcut_to_nothing(app: Any) -> None:
    app.command(name="report")(coroutine)
    app.shortcut("ctrl+r", "/reprot")
    app.check()


def _shortcut_without_a_key(app: Any) -> None:
    app.shortcut("", "report")


def _renderer_of_no_block(app: Any) -> None:
    app.renderer("x", {"kind": "markdown", "txt": "{{text}}"})


def _renderer_of_no_json(app: Any) -> None:
    app.renderer("x", {"kind": "markdown", "text": b"x"})


def _include_of_no_router(app: Any) -> None:
    app.include("module")


def _include_twice(app: Any) -> None:
    router = Router()
    app.include(router)
    app.include(router)


def _app_with_a_strange_name(app: Any) -> None:
    App("my extension")


def _app_without_a_name(app: Any) -> None:
    App("")


def _lifespan_undecorated(app: Any) -> None:
    async def lifespan(app: App) -> AsyncIterator[None]:
        yield

    App("t", lifespan=lifespan)  # type: ignore[arg-type]  # the mistake


MISTAKES: dict[Callable[[Any], None], str] = {
    _tool_without_annotation: "tool 'work' (here): parameter 'x' has no annotation; write its type, as in `x: str`",
    _tool_named_by_position: "@app.tool decorates a function, not 'other'; write @app.tool(name='other')",
    _tool_of_a_class: "@app.tool decorates a function, not <class 'Work'>",
    _tool_with_another_context: (
        "tool 'work' (here): parameter 'ctx' is a HookContext, which is not given here; write ToolContext"
    ),
    _tool_with_two_contexts: "tool 'work' (here): parameter 'b': 'a' takes the context already; keep one of them",
    _tool_of_a_generator: ("tool 'work' (here) is a generator; return its result, and tell progress with ctx.update()"),
    _tool_without_time: "tool 'work' (here): timeout is in seconds and above 0, not 0",
    _tool_without_a_name: "tool name '<lambda>' (here): letters, digits, '-', '_' and '.' only; write 'lambda'",
    _tool_with_a_strange_name: (
        "tool name 'greet someone!' (here): letters, digits, '-', '_' and '.' only; write 'greet-someone'"
    ),
    _tool_with_a_bad_schema: (
        'tool \'work\' (here): parameters= must be the JSON Schema of an object: {"type": "object", "properties": {…}}'
    ),
    _hook_without_its_name: '@app.hook (here): say which hook it handles, as in @app.hook("tool_call")',
    _hook_misspelt: "there is no hook 'tool_cal'; did you mean 'tool_call'?",
    _hook_of_an_event: (
        "there is no hook 'turn_start'; known: before_agent_start, before_provider_request, context, input, "
        "message_end, session_before_compact, session_before_tree, tool_call, tool_result, user_bash"
    ),
    _hook_with_another_input: (
        "hook 'tool_call' (here): parameter 'typed' is a UserBash, which another hook gives; "
        "a tool_call hook takes ToolCall or a dict"
    ),
    _hook_with_two_inputs: (
        "hook 'tool_call' (here): parameter 'more' is one too many: besides a HookContext it takes one value "
        "(ToolCall or a dict), and that is 'call'"
    ),
    _hook_without_annotation: (
        "hook 'tool_call' (here): parameter 'call' has no annotation; annotate it with ToolCall or a dict, "
        "or with HookContext"
    ),
    _hook_with_another_context: (
        "hook 'tool_call' (here): parameter 'ctx' is a ToolContext, which is not given here; write HookContext"
    ),
    _hook_with_var_args: ("hook 'input' (here): parameter 'values' has no name to be given by; write plain parameters"),
    _hook_of_no_data: (
        "hook 'input' (here): parameter 'value': Event has no JSON form; write an attrs class, a dataclass, "
        "a TypedDict or dict[str, Any]"
    ),
    _hook_of_a_class: "hook 'input' decorates a function, not <class 'Gate'>",
    _event_without_its_name: '@app.on (here): say which event it handles, as in @app.on("turn_start")',
    _event_without_any_name: '@app.on: say which event it handles, as in @app.on("turn_start")',
    _event_misspelt: "there is no event 'turn_strat'; did you mean 'turn_start'?",
    _event_of_a_generator: (
        "handler of event 'turn_start' (here) is a generator; write a coroutine or a plain function"
    ),
    _bus_without_its_topic: '@app.on_bus (here): say which topic it hears of, as in @app.on_bus("news")',
    _key_without_its_widget: '@app.on_key (here): say which widget\'s keys it hears of, as in @app.on_key("board")',
    _event_with_session: (
        "handler of event 'turn_start' (here): parameter 'ctx' is a ToolContext, which is not given here; "
        "write EventContext"
    ),
    _command_of_no_data: (
        "command 'report' (here): parameter 'at': Event has no JSON form; write an attrs class, a dataclass, "
        "a TypedDict or dict[str, Any], or give parameters=<JSON Schema>"
    ),
    _command_of_a_generator: "command 'report' (here) is a generator; return what is shown",
    _completer_without_its_command: (
        '@app.complete (here): say which command it completes, as in @app.complete("report")'
    ),
    _completer_of_nothing: ("completer of command 'reprot' (here): there is no such command; did you mean 'report'?"),
    _provider_of_a_coroutine: (
        "provider 'p' (here): a provider is an async generator of stream events: "
        "`async def` with `yield Delta(...)` in it"
    ),
    _provider_of_a_plain_generator: (
        "provider 'p' (here): a provider is an async generator of stream events: "
        "`async def` with `yield Delta(...)` in it"
    ),
    _provider_without_its_name: '@app.provider (here): say which provider it is, as in @app.provider("my-models")',
    _provider_with_models_as_text: "provider 'p': models= takes Model(...), not 'gpt'",
    _oauth_without_its_provider: (
        '@app.oauth_login (here): say which provider it is for, as in @app.oauth_login("my-models")'
    ),
    _oauth_with_another_context: (
        "OAuth refresh of provider 'p' (here): parameter 'ctx' is a ToolContext, which is not given here; "
        "write ProviderContext"
    ),
    _task_of_a_function: "task 'sync' (here): a task is a coroutine; write `async def`",
    _task_with_arguments: (
        "task 'sync' (here): parameter 'interval': a task takes a TaskContext and nothing else; "
        "what it is started with is in ctx.payload"
    ),
    _task_with_an_unknown_policy: (
        'RestartPolicy: type must be one of "always", "on-failure" and "never", not \'sometimes\''
    ),
    _flag_with_a_strange_name: ("flag name 'be verbose': letters, digits, '-', '_' and '.' only; write 'be-verbose'"),
    _flag_on_a_function: "flag name 5: a name is a string",
    _flag_without_a_form_in_json: (
        "flag 'loud': the default cannot be written as JSON: $['1']: a value of type object has no form in JSON"
    ),
    _flag_with_a_description_of_another_kind: "flag 'loud': the description is a text, not 5",
    _tool_with_a_bare_ctx: "tool 'work' (here): parameter 'ctx' has no annotation; write `ctx: ToolContext`",
    _tool_with_a_schema_and_a_bare_ctx: (
        "tool 'work' (here): parameter 'run_context' has no annotation; write `run_context: ToolContext`"
    ),
    _event_with_a_bare_ctx: (
        "handler of event 'turn_start' (here): parameter 'ctx' has no annotation; write `ctx: EventContext`"
    ),
    _task_with_a_bare_ctx: "task 'work' (here): parameter 'ctx' has no annotation; write `ctx: TaskContext`",
    _shortcut_to_nothing: "shortcut 'ctrl+r': there is no command 'reprot'; did you mean 'report'?",
    _shortcut_without_a_key: 'app.shortcut: say which chord it is, as in app.shortcut("ctrl+p")',
    _renderer_of_no_block: (
        "renderer 'x': the template is no render block: $: expected a field 'text', got nothing; "
        "$: expected no field 'txt', got string"
    ),
    _renderer_of_no_json: (
        "renderer 'x': the template is no render block: $.text: a value of type bytes has no form in JSON"
    ),
    _include_of_no_router: "app.include takes a Router, not 'module'",
    _include_twice: "this router is included already; its hooks and events would be handled twice",
    _app_with_a_strange_name: ("App name 'my extension': letters, digits, '-', '_' and '.' only; write 'my-extension'"),
    _app_without_a_name: "App name '': letters, digits, '-', '_' and '.' only",
    _lifespan_undecorated: (
        "lifespan= (here) is not an async context manager; write @asynccontextmanager above it, and `yield` once in it"
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__.strip("_"))
def test_a_mistake_is_said_where_it_is_written(mistake: Callable[[Any], None]) -> None:
    """Decorators fail where they are written, and say what to write instead."""
    with pytest.raises(RegistrationError) as caught:
        mistake(App("t"))
    code = mistake.__code__
    lines = range(code.co_firstlineno, code.co_firstlineno + 20)
    for line in re.findall(r"test_app\.py:(\d+)\)", str(caught.value)):
        assert int(line) in lines
    said = re.sub(r" \([^()]*test_app\.py:\d+\)", " (here)", str(caught.value))
    said = re.sub(r"<class '[^']*<locals>\.(\w+)'>", r"<class '\1'>", said)
    assert said == MISTAKES[mistake]
    assert caught.traceback[1].frame.code.name == mistake.__name__, "raised by that very line"


def test_each_mistake_leaves_the_tables_as_they_were() -> None:
    """A registration that failed leaves nothing behind."""
    for mistake in (_hook_with_another_input, _provider_of_a_coroutine, _task_with_arguments, _renderer_of_no_block):
        app = App("t")
        with pytest.raises(RegistrationError):
            mistake(app)
        assert unstructure(registrations(app)) == {}
        assert not app.task_specs


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "A-b_c.d9", "0", "x" * 200])
def test_names_are_what_a_model_and_a_shell_can_write(name: str) -> None:
    """Names default to the function's; these names are allowed."""
    app = App(name)
    app.tool(name=name)(coroutine)
    app.command(name=f"/{name}")(coroutine)
    app.flag(name)
    app.task(name=name)(coroutine)
    assert [list(table) for table in (app.tools, app.commands, app.flag_defaults, app.task_specs)] == [[name]] * 4


@pytest.mark.parametrize("name", ["", " ", "a b", "ä", "a/b", "a\n", "a:b", "日本", "a\x00"])
def test_other_names_are_refused(name: str) -> None:
    """Hosts build ``<extension>.<tool>`` from names and hand it to models, so other names are refused.

    Source: docs/protocol.md, section 8.
    """
    app = App("t")
    for register in (
        lambda: App(name),
        lambda: app.tool(name=name)(coroutine),
        lambda: app.command(name=name)(coroutine),
        lambda: app.task(name=name)(coroutine),
        lambda: app.flag(name),
    ):
        with pytest.raises(RegistrationError, match=f" name {re.escape(repr(name))}"):
            register()


def test_a_partial_and_an_instance_have_the_name_of_what_they_call() -> None:
    """Names default to the function's; a partial or an instance has the name of what it calls."""
    app = App("t")

    class Search:
        async def __call__(self, text: str) -> str:
            """Search."""
            return text

    async def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    app.tool(functools.partial(add, b=1))
    app.tool(Search())
    assert list(app.tools) == ["add", "Search"]


def test_a_misspelt_event_is_an_error_and_an_event_of_the_hosts_own_is_not() -> None:
    """Hosts may have events of their own, so only a name that is nearly a known event is refused.

    Source: docs/protocol.md, section 7.
    """
    app = App("t")
    for name, meant in (
        ("turn_begin", None),
        ("turn_stat", "turn_start"),
        ("tool_execution_ended", "tool_execution_end"),
    ):
        if meant is None:
            app.on(name)(coroutine)
        else:
            with pytest.raises(RegistrationError, match=f"^there is no event '{name}'; did you mean '{meant}'"):
                app.on(name)
    app.on("my_host/reloaded")(coroutine)
    assert list(app.events) == ["turn_begin", "my_host/reloaded"]


# -- routers -----------------------------------------------------------------------------------------------------------


@on_each_loop
async def test_a_routers_handlers_come_behind_those_that_are_there_in_their_order() -> None:
    """``Router`` splits an extension over modules; hooks run in order of registration."""
    app, first, second, inner = App("t"), Router(), Router(), Router()
    order: list[str] = []

    def add(router: Router, name: str) -> None:
        async def handle() -> None:
            order.append(name)

        router.hook("input")(handle)
        router.tool(name=name)(handle)

    add(second, "second-1")
    add(first, "first-1")
    add(app, "app-1")
    add(inner, "inner-1")
    first.include(inner)
    add(first, "first-2")
    app.include(first)
    add(app, "app-2")
    app.include(second)
    expected = ["app-1", "first-1", "inner-1", "first-2", "app-2", "second-1"]
    async with CheckedHost(app) as host:
        assert [tool.name for tool in host.registrations.tools] == expected
        await host.call_hook("input", {})
    assert order == expected


@pytest.mark.parametrize("name", [name for name in DECORATORS if name not in ("hook", "on", "on_bus", "on_key")])
def test_a_name_of_a_router_that_is_taken_is_an_error(name: str) -> None:
    """A name that is taken is an error, also if two modules register it."""
    decorator, (given, *_) = DECORATORS[name]
    app, router = App("t"), Router()
    decorator(app)(given)
    decorator(router)(given)
    with pytest.raises(RegistrationError, match="is registered twice"):
        app.include(router)


def test_flags_shortcuts_and_renderers_of_a_router_are_taken_over() -> None:
    """``app.include(router)`` takes over flags, shortcuts and renderers."""
    app, router = App("t"), Router()
    router.flag("verbose", default=3, description="Say more.")
    router.shortcut("ctrl+p", "x")
    router.renderer("tag", render.markdown("x"))
    app.include(router)
    assert app.flag_defaults == {"verbose": 3}
    assert app.flag_descriptions == {"verbose": "Say more."}
    assert list(app.shortcuts) == ["ctrl+p"]
    assert list(app.renderers) == ["tag"]


# -- annotations -------------------------------------------------------------------------------------------------------
# This module has `from __future__ import annotations`, so that each annotation here is a string.


@on_each_loop
async def test_local_classes_work_everywhere_under_future_annotations() -> None:
    """All of it works under ``from __future__ import annotations``, with local classes."""
    app = App("t")

    @attrs.frozen
    class Inner:
        n: int

    @dataclasses.dataclass
    class Outer:
        inner: Inner
        more: list[Inner] = dataclasses.field(default_factory=list)

    class Named(NamedTuple):
        inner: Inner

    class Payload(TypedDict):
        outer: Outer
        named: Named | None

    got: asyncio.Queue[Any] = asyncio.Queue()

    @app.tool
    async def work(outer: Outer, ctx: ToolContext, also: Inner | None = None) -> Outer:
        """Work."""
        return dataclasses.replace(outer, more=[*outer.more, also or Inner(0)])

    @app.command
    async def report(inner: Inner) -> Inner:
        """Report."""
        return inner

    @app.hook("input")  # type: ignore[type-var]  # a type checker knows the inputs of the protocol only
    async def change(value: Outer) -> Outer:
        return dataclasses.replace(value, more=[value.inner])

    @app.on("turn_start")
    async def observe(payload: Payload, ctx: EventContext) -> None:
        got.put_nowait(payload)

    @app.provider("p", models=[Model("m")])
    async def complete(request: Outer, ctx: ProviderContext) -> AsyncIterator[Delta | Done]:
        yield Delta(str(request.inner.n))

    outer = {"inner": {"n": 1}}
    async with MemoryHost(app) as host:
        result = await host.tool("work", outer=outer, also={"n": 2})
        assert result["details"] == {"inner": {"n": 1}, "more": [{"n": 2}]}
        params = {"command": "report", "context": CONTEXT, "arguments": {"inner": {"n": 3}}}
        assert await host.ask("command/execute", params) == {"content": '{"n":3}'}
        outcome = await host.ask("hook", {"hook": "input", "context": CONTEXT, "input": outer})
        assert outcome["patch"] == {"inner": {"n": 1}, "more": [{"n": 1}]}
        host.send(host.event("turn_start", {"outer": outer, "named": [{"n": 4}]}))
        assert await got.get() == {"outer": Outer(Inner(1)), "named": Named(Inner(4))}
        request = {"request_id": "r", "provider": "p", "model": "m", "messages": [], **outer}
        assert (await host.ask("provider/complete", request))["content"] == "1"


def _unresolvable(app: App, kind: str) -> None:
    if kind == "tool":

        @app.tool
        async def work(x: Fraction) -> None: ...

    elif kind == "command":

        @app.command
        async def report(x: Fraction) -> None: ...

    elif kind == "hook":

        @app.hook("input")
        async def gate(x: Fraction) -> None: ...

    elif kind == "event":

        @app.on("turn_start")
        async def observe(x: Fraction) -> None: ...

    elif kind == "provider":

        @app.provider("p")
        async def complete(x: Fraction) -> AsyncIterator[Delta]:
            yield Delta("x")

    elif kind == "task":

        @app.task
        async def sync(x: Fraction) -> None: ...

    elif kind == "a field":

        @attrs.frozen
        class Payload:
            part: Fraction

        @app.on("turn_start")
        async def observe_field(x: Payload) -> None: ...


@pytest.mark.parametrize("kind", ["tool", "command", "hook", "event", "provider", "task", "a field"])
def test_a_name_that_cannot_be_resolved_fails_at_registration_and_is_named(kind: str) -> None:
    """A name that cannot be resolved fails at registration, and the message has the name."""
    with pytest.raises(
        RegistrationError, match=r"parameter 'x': .*names 'Fraction', which is not defined there"
    ) as caught:
        _unresolvable(App("t"), kind)
    assert "test_app.py:" in str(caught.value)


def test_contexts_may_be_annotated_with_what_all_of_them_have() -> None:
    """A parameter annotated with a context type receives the context."""
    app = App("t")

    @app.task
    async def sync(ctx: TaskContext) -> None: ...

    @app.command
    async def report(ctx: CommandContext) -> None: ...

    @app.hook("user_bash")
    def gate(ctx: HookContext, typed: UserBash) -> Block | None: ...

    assert app.task_specs["sync"].context == "ctx"
    assert app.commands["report"].context == "ctx"
    assert (app.hooks["user_bash"][0].context, app.hooks["user_bash"][0].value) == ("ctx", "typed")


# -- the house ---------------------------------------------------------------------------------------------------------


def test_importing_sepkit_and_making_an_app_adds_no_log_handler_and_prints_nothing() -> None:
    """``import sepkit; App("x")`` adds no log handler and prints nothing."""
    program = """
import logging
before = {name: list(logging.getLogger(name).handlers) for name in (None, "sepkit", "asyncio")}
level = logging.root.level
import sepkit
app = sepkit.App("x")
@app.tool
async def greet(name: str) -> str:
    "Greet."
@app.task
async def sync(): ...
app.check()
loggers = [logging.root, *(one for one in logging.root.manager.loggerDict.values() if isinstance(one, logging.Logger))]
assert not [one for one in loggers if one.handlers], "handlers"
assert logging.root.level == level and logging.lastResort is not None and logging.raiseExceptions
assert all(one.level == logging.NOTSET for one in loggers[1:] if one.name.startswith("sepkit")), "levels"
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_what_sepkit_exports_is_sorted_and_there() -> None:
    """``sepkit.__all__`` is sorted, and each name in it exists."""
    assert sepkit.__all__ == sorted(sepkit.__all__)
    assert all(hasattr(sepkit, name) for name in sepkit.__all__)
    promised = """App Router ToolContext HookContext CommandContext EventContext TaskContext ProviderContext ToolResult
    ToolError Block Patch Completion ToolCall ToolOutcome UserBash SystemPrompt Messages Model RestartPolicy TaskHealth
    render RpcError"""
    assert set(promised.split()) <= set(sepkit.__all__)


@on_each_loop
async def test_a_context_may_say_what_the_state_is() -> None:
    """``ToolContext[State]`` is a ToolContext for every kind of handler, with or without None."""

    class State:
        seen: ClassVar[list[str]] = []

    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[State]:
        yield State()

    app = App("t", lifespan=lifespan)

    @app.tool
    async def work(ctx: ToolContext[State]) -> None:
        ctx.state.seen.append(ctx.call_id)

    @app.tool
    async def maybe(ctx: ToolContext[State] | None = None) -> None:
        assert ctx is not None
        ctx.state.seen.append("maybe")

    @app.hook("input")
    async def hook(value: dict[str, Any], ctx: HookContext[State]) -> None:
        ctx.state.seen.append(ctx.hook)

    @app.on("turn_start")
    async def event(ctx: EventContext[State], payload: dict[str, Any]) -> None:
        ctx.state.seen.append(ctx.name)

    @app.command
    async def command(ctx: CommandContext[State]) -> None:
        ctx.state.seen.append("command")

    @app.task
    async def task(ctx: TaskContext[State]) -> None:
        ctx.state.seen.append(ctx.task_id)
        await ctx.wait_stop()

    async with TestHost(app) as host:
        await host.call_tool("work")
        await host.call_tool("maybe")
        await host.call_hook("input", {"text": "x"})
        await host.send_event("turn_start", {})
        await host.run_command("command")
        await host.until(lambda: "task" in State.seen)
    assert sorted(State.seen) == ["call-1", "command", "input", "maybe", "task", "turn_start"]

"""``Router``: the decorators, and the tables that they fill. No I/O, and no life of its own: that is ``app.py``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Unpack, cast, overload

from sepkit.contexts import contexts
from sepkit.contexts.backend import FLAG, variable_of
from sepkit.errors import EncodeError, InvalidData, RegistrationError
from sepkit.handlers import (
    CommandSpec,
    Expose,
    JobSpec,
    ObserverSpec,
    ProviderSpec,
    ToolAbout,
    ToolSpec,
    check_name,
    check_sendable,
    make_command,
    make_hook,
    make_job,
    make_migration,
    make_observer,
    make_provider,
    make_task,
    make_tool,
    where,
)
from sepkit.results import Block, Patch
from sepkit.schema import show
from sepkit.tasks import TaskOptions, TaskSpec
from sepkit.wire import messages, methods
from sepkit.wire.converter import structure_exactly
from sepkit.wire.writing import to_json

if TYPE_CHECKING:
    from sepkit.content import Icon
    from sepkit.contexts.documents import Collection
    from sepkit.contexts.settings import Setting
    from sepkit.resources import ResourceSpec
    from sepkit.tasks.schedule import Schedule

HookReturn = (
    Block
    | Patch
    | messages.ToolCall
    | messages.ToolOutcome
    | messages.UserBash
    | messages.SystemPrompt
    | messages.Messages
    | dict[str, Any]
    | None
)
"""What a hook may return: None to go on, a Block, a Patch, or its input, changed."""

AnyF = TypeVar("AnyF", bound=Callable[..., Any])
HookF = TypeVar("HookF", bound=Callable[..., HookReturn | Awaitable[HookReturn]])
EventF = TypeVar("EventF", bound=Callable[..., Awaitable[None] | None])
_Completions = Iterable[str | messages.Completion]
CompleteF = TypeVar("CompleteF", bound=Callable[..., _Completions | Awaitable[_Completions]])
ProviderF = TypeVar("ProviderF", bound=Callable[..., AsyncIterator[messages.StreamEvent]])
OAuthF = TypeVar("OAuthF", bound=Callable[..., Awaitable[messages.Credentials]])
JobF = TypeVar("JobF", bound=Callable[..., Awaitable[object] | None])
TaskF = TypeVar("TaskF", bound=Callable[..., Coroutine[Any, Any, object]])
Misfire = Literal["once", "skip"]
"""What becomes of a job's times that went by: made up for once, or dropped where they are more than 60 s ago."""
MigrationF = TypeVar("MigrationF", bound=Callable[[dict[str, Any]], dict[str, Any]])
D = TypeVar("D")
Change = tuple[str, str]
"""What has been registered: its kind, and its name."""

T = TypeVar("T")
V = TypeVar("V")


class Router:
    """A part of an extension: handlers, gathered by its decorators. ``app.include(router)`` adds them to an app.

    Each decorator returns the very function it was given, and raises :class:`RegistrationError` where it is written.
    The ``add_`` methods do the same without a decorator; those of an app that is being served tell the host at once.
    """

    def __init__(self) -> None:
        self.tools: dict[str, ToolSpec] = {}
        self.hooks: dict[str, list[ObserverSpec]] = {}
        self.events: dict[str, list[ObserverSpec]] = {}
        self.commands: dict[str, CommandSpec] = {}
        self.completers: dict[str, ObserverSpec] = {}
        self.prompts: dict[str, CommandSpec] = {}
        """Those of the commands that were registered as prompts."""
        self.resources: dict[str, ResourceSpec] = {}
        """By the shape of the URI: of a template, without the names of its variables."""
        self.providers: dict[str, ProviderSpec] = {}
        self.oauth_logins: dict[str, ObserverSpec] = {}
        self.oauth_refreshes: dict[str, ObserverSpec] = {}
        self.task_specs: dict[str, TaskSpec] = {}
        self.job_specs: dict[str, JobSpec] = {}
        self.flag_defaults: dict[str, Any] = {}
        self.flag_descriptions: dict[str, str] = {}
        self.flag_variables: dict[str, str] = {}  # the flag that each variable of the environment sets
        self.settings: dict[str, Setting[Any]] = {}
        self.setting_observers: dict[str, list[ObserverSpec]] = {}
        self.shortcuts: dict[str, messages.ShortcutRegistration] = {}
        self.renderers: dict[str, messages.MessageRendererRegistration] = {}
        self.collections: dict[str, Collection[Any]] = {}
        self._included: list[Router] = []

    # -- tools, hooks, events ------------------------------------------------------------------------------------------

    @overload
    def tool(self, fn: AnyF, /) -> AnyF: ...
    @overload
    def tool(
        self,
        *,
        name: str | None = None,
        description: str | None = None,
        parameters: dict[str, Any] | None = None,
        deferred: bool = False,
        strict: bool = False,
        timeout: float | None = None,
        confirm: bool | str | None = None,
        **about: Unpack[ToolAbout],
    ) -> Callable[[AnyF], AnyF]: ...
    def tool(
        self,
        fn: Any = None,
        *,
        name: str | None = None,
        description: str | None = None,
        parameters: dict[str, Any] | None = None,
        deferred: bool = False,
        strict: bool = False,
        timeout: float | None = None,
        confirm: bool | str | None = None,
        **about: Any,
    ) -> Any:
        """Make a function a tool that the model can call.

        Its signature becomes the tool's schema, its docstring the descriptions. A parameter annotated with
        ``ToolContext`` receives the call's context. A ``def`` runs in a thread.

        Args:
            fn: The function, where the decorator is written without parentheses.
            name: The tool's name; the function's by default.
            description: What the model is told; the docstring's beginning by default.
            parameters: A JSON Schema, in place of the one made from the signature.
            deferred: The model finds it by a search instead of seeing it from the start.
            strict: Take arguments only in their own type: ``"5"`` is not an integer then.
            timeout: Seconds after which a call is cancelled and fails.
            confirm: Ask the user before it runs: with the arguments, or with this question. It does not run where the
                answer is no, or was dismissed, or where there is no user to ask.
            **about: What some hosts show of it or go by, the fields of :class:`~sepkit.handlers.ToolAbout`: ``title``,
                ``read_only``, ``destructive``, ``idempotent``, ``open_world``, ``icons``, ``output_schema``, ``long``.

        Raises:
            RegistrationError: The name is taken, or a parameter has no form in JSON.

        Source: docs/protocol.md, section 8; docs/resources.md, "What hosts are told of a tool".
        """

        def register(fn: AnyF) -> AnyF:
            self.add_tool(
                fn,
                name=name,
                description=description,
                parameters=parameters,
                deferred=deferred,
                strict=strict,
                timeout=timeout,
                confirm=confirm,
                **about,
            )
            return fn

        return register if fn is None else register(fn)

    def add_tool(
        self,
        fn: Callable[..., Any],
        *,
        name: str | None = None,
        description: str | None = None,
        parameters: dict[str, Any] | None = None,
        deferred: bool = False,
        strict: bool = False,
        timeout: float | None = None,
        confirm: bool | str | None = None,
        replace: bool = False,
        **about: Unpack[ToolAbout],
    ) -> None:
        """Make a function a tool, as :meth:`tool` does; also while the app is served: the host is told at once.

        Args:
            fn: The function.
            name: As for :meth:`tool`, like all that follow.
            description: What the model is told.
            parameters: A JSON Schema, in place of the one made from the signature.
            deferred: The model finds it by a search.
            strict: Take arguments only in their own type.
            timeout: Seconds after which a call is cancelled and fails.
            confirm: Ask the user before it runs.
            replace: Take the place of a tool of this name. Calls that are running end as they began.
            **about: As for :meth:`tool`, too.

        Raises:
            RegistrationError: The name is taken, or a parameter has no form in JSON.

        Source: docs/protocol.md, section 4, ``registry/update``.
        """
        spec = make_tool(
            fn,
            name=name,
            description=description,
            parameters=parameters,
            deferred=deferred,
            strict=strict,
            timeout=timeout,
            confirm=confirm,
            about=about,
        )
        self._put(self.tools, "tool", spec.name, spec, replace=replace)

    def hook(self, name: methods.HookName) -> Callable[[HookF], HookF]:
        """Make a function decide on what the agent is about to do.

        It takes the hook's input (``ToolCall``, ``UserBash``, …, or a dict) and, if it likes, a ``HookContext``; it
        returns None to go on, ``Block(reason)``, ``Patch(field=value)`` or the input changed with ``attrs.evolve``.
        Several handlers of one hook run in the order in which they were registered.

        Raises:
            RegistrationError: There is no such hook, or the function takes another hook's input.

        Source: docs/protocol.md, section 6.
        """
        _check_subject(name, "@app.hook", "hook it handles", "tool_call")
        if name not in methods.HOOKS:
            raise RegistrationError(f"there is no hook {name!r}{closest(name, methods.HOOKS)}")

        def register(fn: HookF) -> HookF:
            spec = make_hook(fn, name)
            if name not in self.hooks:
                self._check_open("hook", name)
            self.hooks.setdefault(name, []).append(spec)
            return fn

        return register

    def on(self, event: methods.EventName | str) -> Callable[[EventF], EventF]:
        """Have a function told of an event: its payload and, if it likes, an ``EventContext``.

        Events reach each handler in their order, one at a time. A handler only observes: it returns nothing.

        Raises:
            RegistrationError: The name is a misspelt event.

        Source: docs/protocol.md, section 7.
        """
        _check_subject(event, "@app.on", "event it handles", "turn_start")
        # Hosts have events of their own, so that an unknown name is no error; one that nearly is a known one is.
        if event not in methods.EVENTS and (close := closest(event, methods.EVENTS, only_near=True)):
            raise RegistrationError(f"there is no event {event!r}{close}")
        return self._observe(event, f"handler of event {event!r}")

    def on_bus(self, topic: str) -> Callable[[EventF], EventF]:
        """Have a function told of what other extensions publish under ``topic``: the payload they published."""
        _check_subject(topic, "@app.on_bus", "topic it hears of", "news")
        return self._observe("bus/event", f"handler of bus topic {topic!r}", only=topic)

    def on_key(self, widget_id: str) -> Callable[[EventF], EventF]:
        """Have a function told of the keys pressed in a widget: ``{"widget_id", "key"}``."""
        _check_subject(widget_id, "@app.on_key", "widget's keys it hears of", "board")
        return self._observe("widget/key", f"handler of keys in widget {widget_id!r}", only=widget_id)

    def _observe(self, event: str, what: str, only: str | None = None) -> Callable[[EventF], EventF]:
        def register(fn: EventF) -> EventF:
            spec = make_observer(fn, what, event, contexts.EventContext, takes="a dict, or a class of yours", only=only)
            is_first = event not in self.events
            self.events.setdefault(event, []).append(spec)
            if is_first:
                self._registered([("event", event)])
            return fn

        return register

    # -- commands ------------------------------------------------------------------------------------------------------

    @overload
    def command(self, fn: AnyF, /) -> AnyF: ...
    @overload
    def command(
        self, *, name: str | None = None, description: str | None = None, expose: Expose = "prompt"
    ) -> Callable[[AnyF], AnyF]: ...
    def command(
        self,
        fn: Any = None,
        *,
        name: str | None = None,
        description: str | None = None,
        expose: Literal["prompt", "tool"] | None = "prompt",
    ) -> Any:
        """Make a function a slash command. Its parameters are the arguments; what it returns is shown in the session.

        Args:
            fn: The function, where the decorator is written without parentheses.
            name: The command's name; the function's by default.
            description: What people are told; the docstring's beginning by default.
            expose: What it is for a host that knows no commands, as MCP clients: a prompt that people pick, a tool that
                the model calls, or nothing.

        Raises:
            RegistrationError: The name is taken, or a parameter has no form in JSON.

        Source: docs/protocol.md, sections 3 and 8.
        """

        def register(fn: AnyF) -> AnyF:
            self.add_command(fn, name=name, description=description, expose=expose)
            return fn

        return register if fn is None else register(fn)

    def add_command(
        self,
        fn: Callable[..., Any],
        *,
        name: str | None = None,
        description: str | None = None,
        expose: Expose = "prompt",
        replace: bool = False,
    ) -> None:
        """Make a function a slash command, as :meth:`command` does; also while the app is served.

        Args:
            fn: The function.
            name: The command's name; the function's by default.
            description: What people are told.
            expose: As for :meth:`command`.
            replace: Take the place of a command of this name.

        Raises:
            RegistrationError: The name is taken, or a parameter has no form in JSON.

        Source: docs/protocol.md, section 4, ``registry/update``.
        """
        spec = make_command(fn, name=name, description=description, expose=expose)
        self._put(self.commands, "command", spec.name, spec, replace=replace)
        self.prompts.pop(spec.name, None)  # which it has replaced

    @overload
    def prompt(self, fn: AnyF, /) -> AnyF: ...
    @overload
    def prompt(
        self,
        *,
        name: str | None = None,
        title: str | None = None,
        description: str | None = None,
        icons: Sequence[Icon | str] = (),
    ) -> Callable[[AnyF], AnyF]: ...
    def prompt(
        self,
        fn: Any = None,
        *,
        name: str | None = None,
        title: str | None = None,
        description: str | None = None,
        icons: Sequence[Icon | str] = (),
    ) -> Any:
        """Make a function a prompt: messages that people put before the model, with arguments.

        It returns a text, a ``PromptMessage``, a part such as ``Image``, or a list of them. A parameter annotated with
        ``CommandContext`` receives the call's context. A host that knows no prompts, as under SEP, has it as a slash
        command that gives the text; so that prompts and commands share their names.

        Args:
            fn: The function, where the decorator is written without parentheses.
            name: The prompt's name; the function's by default.
            title: What people read in place of the name.
            description: What people are told; the docstring's beginning by default.
            icons: Pictures beside its name: URLs, or ``Icon(…)``.

        Raises:
            RegistrationError: The name is taken, or a parameter has no form in JSON.

        Source: docs/resources.md, "Prompts".
        """

        def register(fn: AnyF) -> AnyF:
            self.add_prompt(fn, name=name, title=title, description=description, icons=icons)
            return fn

        return register if fn is None else register(fn)

    def add_prompt(
        self,
        fn: Callable[..., Any],
        *,
        name: str | None = None,
        title: str | None = None,
        description: str | None = None,
        icons: Sequence[Icon | str] = (),
        replace: bool = False,
    ) -> None:
        """Make a function a prompt, as :meth:`prompt` does; also while the app is served.

        Args:
            fn: The function.
            name: As for :meth:`prompt`, like those that follow.
            title: What people read.
            description: What people are told.
            icons: Pictures beside its name.
            replace: Take the place of a prompt or a command of this name.

        Raises:
            RegistrationError: The name is taken, or a parameter has no form in JSON.

        Source: docs/resources.md, "Prompts".
        """
        spec = make_command(fn, kind="prompt", name=name, description=description, title=title, icons=icons)
        self._put(self.commands, "command", spec.name, spec, replace=replace)
        self._put(self.prompts, "prompt", spec.name, spec, replace=replace)

    def resource(
        self,
        uri: str,
        *,
        name: str | None = None,
        title: str | None = None,
        description: str | None = None,
        mime: str | None = None,
        icons: Sequence[Icon | str] = (),
        expose_as_tool: bool = False,
    ) -> Callable[[AnyF], AnyF]:
        """Make a function the resource of a URI, or of all URIs that match a template.

        In ``note://{id}`` the variable stands for some characters without ``/``, ``?`` and ``#``; one ``{+path}`` may
        hold them. Each is percent-decoded, and goes to the parameter of its name, which is typed as a tool's. ``..``
        and absolute paths in them are refused. The function returns str, bytes or ``Contents``. A parameter annotated
        with ``ResourceContext`` receives the call's context. A ``def`` runs in a thread.

        Args:
            uri: The URI, or the template.
            name: The resource's name; the function's by default.
            title: What people read in place of the name.
            description: What it is; the docstring's beginning by default.
            mime: Its type, such as ``text/markdown``; told from the URI or the first bytes where it is not given.
            icons: Pictures beside its name: URLs, or ``Icon(…)``.
            expose_as_tool: Where a host knows no resources, as under SEP, it is a tool of this name there.

        Raises:
            RegistrationError: The URI is taken, or can't be matched, or the parameters are not its variables.

        Source: docs/resources.md, "Resources".
        """

        def register(fn: AnyF) -> AnyF:
            self.add_resource(
                fn,
                uri,
                name=name,
                title=title,
                description=description,
                mime=mime,
                icons=icons,
                expose_as_tool=expose_as_tool,
            )
            return fn

        given: object = uri
        if not isinstance(given, str):  # `@app.resource` without parentheses
            from sepkit.resources import Template

            Template(uri)
        return register

    def add_resource(
        self,
        fn: Callable[..., Any],
        uri: str,
        *,
        name: str | None = None,
        title: str | None = None,
        description: str | None = None,
        mime: str | None = None,
        icons: Sequence[Icon | str] = (),
        expose_as_tool: bool = False,
        replace: bool = False,
    ) -> None:
        """Make a function a resource, as :meth:`resource` does; also while the app is served.

        Args:
            fn: The function.
            uri: As for :meth:`resource`, like those that follow.
            name: The resource's name.
            title: What people read.
            description: What it is.
            mime: Its type.
            icons: Pictures beside its name.
            expose_as_tool: It is a tool where the host knows no resources.
            replace: Take the place of the resource of this URI.

        Raises:
            RegistrationError: The URI is taken, or can't be matched, or the parameters are not its variables.

        Source: docs/resources.md, "Resources".
        """
        from sepkit.resources import make_resource

        spec = make_resource(
            fn,
            uri,
            name=name,
            title=title,
            description=description,
            mime=mime,
            icons=icons,
            expose_as_tool=expose_as_tool,
        )
        shape, before = spec.template.shape, None
        if replace and (old := self.resources.get(shape)) is not None and old.tool is not None:
            before = old.tool.name
        if not replace:
            _check_free(self.resources, "resource", shape)
        if spec.tool is not None and spec.tool.name != before:
            _check_free(self.tools, "tool", spec.tool.name)
        if before is not None:
            self.tools.pop(before, None)
        self._put(self.resources, "resource", shape, spec, replace=replace)
        if spec.tool is not None:
            self._put(self.tools, "tool", spec.tool.name, spec.tool)

    def complete(self, command: str) -> Callable[[CompleteF], CompleteF]:
        """Make a function complete what is typed after a command: ``partial: str`` in, strings or ``Completion`` out.

        Raises:
            RegistrationError: The command has a completer already.

        Source: docs/protocol.md, section 3, ``command/complete``.
        """
        _check_subject(command, "@app.complete", "command it completes", "report")
        command = command.removeprefix("/")

        def register(fn: CompleteF) -> CompleteF:
            what = f"completer of command {command!r}"
            spec = make_observer(fn, what, command, contexts.CommandContext, takes="a str")
            self._put(self.completers, "completer of command", command, spec)
            return fn

        return register

    def shortcut(self, key: str, command: str, description: str | None = None) -> None:
        """Bind a chord, such as ``ctrl+p``, to a command."""
        _check_subject(key, "app.shortcut", "chord it is", "ctrl+p")
        if not isinstance(command, str):
            raise RegistrationError(f"shortcut {key!r}: command={command!r}: write the name of a command")
        shortcut = messages.ShortcutRegistration(key=key, command=command.removeprefix("/"), description=description)
        check_sendable(shortcut, f"shortcut {key!r}")
        self._put(self.shortcuts, "shortcut", key, shortcut)

    # -- models --------------------------------------------------------------------------------------------------------

    def provider(
        self,
        name: str,
        *,
        models: Sequence[messages.Model] = (),
        base_url: str | None = None,
        api_key_env: str | None = None,
    ) -> Callable[[ProviderF], ProviderF]:
        """Make an async generator of stream events a provider of models.

        It takes a ``ProviderRequest`` and, if it likes, a ``ProviderContext``. What it yields is streamed where the
        host asked for a stream, and the final result is folded from it.

        Raises:
            RegistrationError: The name is taken, or the function is no async generator.

        Source: docs/protocol.md, section 3, ``provider/complete``.
        """
        registration = _provider(name, "@app.provider", models, base_url, api_key_env)

        def register(fn: ProviderF) -> ProviderF:
            self._put(self.providers, "provider", name, make_provider(fn, registration))
            return fn

        return register

    def add_provider(
        self,
        fn: Callable[..., AsyncIterator[messages.StreamEvent]],
        name: str,
        *,
        models: Sequence[messages.Model] = (),
        base_url: str | None = None,
        api_key_env: str | None = None,
        replace: bool = False,
    ) -> None:
        """Make an async generator a provider, as :meth:`provider` does; also while the app is served.

        With ``replace`` it takes the place of a provider of this name: so a list of models is renewed.

        Raises:
            RegistrationError: The name is taken, or the function is no async generator.

        Source: docs/protocol.md, section 4, ``registry/update``.
        """
        registration = _provider(name, "app.add_provider", models, base_url, api_key_env)
        self._put(self.providers, "provider", name, make_provider(fn, registration), replace=replace)

    def oauth_login(self, provider: str) -> Callable[[OAuthF], OAuthF]:
        """Make a coroutine log in to a provider: an ``OAuthParams`` or a dict in, ``Credentials`` out."""
        _check_subject(provider, "@app.oauth_login", "provider it is for", "my-models")
        return self._oauth(self.oauth_logins, "OAuth login of provider", provider)

    def oauth_refresh(self, provider: str) -> Callable[[OAuthF], OAuthF]:
        """Make a coroutine renew a provider's credentials: an ``OAuthParams`` or a dict in, ``Credentials`` out."""
        _check_subject(provider, "@app.oauth_refresh", "provider it is for", "my-models")
        return self._oauth(self.oauth_refreshes, "OAuth refresh of provider", provider)

    def _oauth(self, table: dict[str, ObserverSpec], kind: str, provider: str) -> Callable[[OAuthF], OAuthF]:
        def register(fn: OAuthF) -> OAuthF:
            what = f"{kind} {provider!r}"
            spec = make_observer(fn, what, provider, contexts.ProviderContext, takes="an OAuthParams or a dict")
            self._put(table, kind, provider, spec)
            return fn

        return register

    # -- the rest ------------------------------------------------------------------------------------------------------

    @overload
    def task(self, fn: TaskF, /) -> TaskF: ...
    @overload
    def task(self, **options: Unpack[TaskOptions]) -> Callable[[TaskF], TaskF]: ...
    def task(self, fn: Any = None, **options: Any) -> Any:
        """Make a coroutine a supervised background task. All durations are in seconds.

        Args:
            fn: The coroutine function, where the decorator is written without parentheses.
            **options: The options of :class:`~sepkit.tasks.TaskOptions`:
            name: The task's name; the function's by default.
            restart: When it is started again after it ended by itself.
            max_restarts: How often; 0 is without limit.
            initial_delay: Before the first restart.
            max_delay: Before any restart, at most.
            multiplier: By how much each delay is longer than the one before.
            jitter: The part of the delay that is random: 0 exact, 1 full.
            reset_after: How long a run must last for the count to begin anew.
            stop_grace: How long it may take to end when it is asked to, before it is cancelled.
            heartbeat_timeout: After how long without ``report_health`` it counts as failed; None is never.
            per_user: It runs once for each user, and is started by ``app.tasks.start(…, user_id=…)`` only.
            autostart: It starts when the handshake is done.

        Raises:
            RegistrationError: The name is taken, or a number makes no sense.
        """

        def register(fn: TaskF) -> TaskF:
            spec = make_task(fn, cast("TaskOptions", options))
            _check_free(self.job_specs, "task or job", spec.name)
            self._put(self.task_specs, "task", spec.name, spec)
            return fn

        return register if fn is None else register(fn)

    def every(
        self, seconds: float, *, name: str | None = None, misfire: Misfire = "once", retry: bool = False
    ) -> Callable[[JobF], JobF]:
        """Make a function a job that runs every so many seconds, for the first time one interval after the first start.

        It takes a ``JobContext``, if it likes. What a run takes does not move the next one, and neither does a restart;
        runs never overlap, and of the times that went by meanwhile one is made up for. A ``def`` runs in a thread.

        Args:
            seconds: From 0.01 seconds to a year.
            name: The job's name; the function's by default. The store knows it by that: a new name is a new job.
            misfire: ``"once"``: what is late runs once, at once. ``"skip"``: what is more than 60 s late does not.
            retry: Repeat a run that was cut, by the end of its process. What raises is not repeated.

        Raises:
            RegistrationError: The name is taken, or the seconds make no sense.
        """
        from sepkit.tasks.schedule import Every  # only for apps that have a job, as all of it

        return self._add_job("@app.every", Every(seconds), name, misfire, retry)

    def cron(
        self, line: str, *, tz: str = "UTC", name: str | None = None, misfire: Misfire = "once", retry: bool = False
    ) -> Callable[[JobF], JobF]:
        """Make a function a job that runs at the times of a cron line, such as ``"0 9 * * 1-5"``.

        It takes a ``JobContext``, if it likes. Where the clocks of its zone are put forward over its hour, it runs
        right afterwards; where they are put back, a job of a fixed hour runs once (as Debian's cron has it).

        Args:
            line: Minute, hour, day of the month, month, day of the week; with six fields the second stands before them.
            tz: The time zone that it is meant in, such as ``"Europe/Stockholm"``.
            name: The job's name; the function's by default. The store knows it by that: a new name is a new job.
            misfire: ``"once"``: what is late runs once, at once. ``"skip"``: what is more than 60 s late does not.
            retry: Repeat a run that was cut, by the end of its process. What raises is not repeated.

        Raises:
            RegistrationError: The name is taken, the line is none (each wrong field is named), or the zone.
        """
        from sepkit.tasks.schedule import Cron

        return self._add_job("@app.cron", Cron(line, tz), name, misfire, retry)

    @overload
    def job(self, fn: JobF, /) -> JobF: ...
    @overload
    def job(
        self, *, name: str | None = None, misfire: Misfire = "once", retry: bool = False
    ) -> Callable[[JobF], JobF]: ...
    def job(self, fn: Any = None, *, name: str | None = None, misfire: Misfire = "once", retry: bool = False) -> Any:
        """Make a function a job that runs when ``app.schedule.at`` says so. It takes a ``JobContext``, if it likes.

        Args:
            fn: The function, where the decorator is written without parentheses.
            name: The job's name; the function's by default. It is found by that after a restart.
            misfire: ``"once"``: what is late runs at once. ``"skip"``: what is more than 60 s late does not.
            retry: Repeat a run that was cut, by the end of its process. What raises is not repeated.

        Raises:
            RegistrationError: The name is taken.
        """
        register = self._add_job("@app.job", None, name, misfire, retry)
        return register if fn is None else register(fn)

    def _add_job(
        self, decorator: str, schedule: Schedule | None, name: str | None, misfire: str, retry: bool
    ) -> Callable[[JobF], JobF]:
        def register(fn: JobF) -> JobF:
            spec = make_job(fn, decorator, schedule, name=name, misfire=misfire, retry=retry)
            _check_free(self.task_specs, "task or job", spec.name)
            self._put(self.job_specs, "job", spec.name, spec)
            return fn

        return register

    def flag(self, name: str, default: object = None, *, description: str = "") -> None:
        """Declare a flag; its value is in ``ctx.flags[name]``.

        That is the host's, else what ``--flag NAME=VALUE`` says, else ``SEPKIT_FLAG_NAME`` in the environment, else
        ``default``. Text is read as the default's type where that is a bool, a number, a str, a list or a dict; else as
        JSON, where it is JSON.

        Args:
            name: The flag's name.
            default: Its value where the host says nothing, as JSON.
            description: What people are told, by ``sepkit inspect``; the wire has no place for it.

        Raises:
            RegistrationError: The name is taken, or another flag has its variable, or ``default`` has no form in JSON.
        """
        flag = check_name("flag", name)
        try:
            to_json(default, "$")
        except EncodeError as error:
            raise RegistrationError(f"flag {flag!r}: the default cannot be written as JSON: {error}") from None
        said: object = description
        if not isinstance(said, str):
            raise RegistrationError(f"flag {flag!r}: the description is a text, not {said!r}")
        self._put_flag(flag, default, description)

    def _put_flag(self, name: str, default: object, description: str) -> None:
        variable = _check_variable(self.flag_variables, name)
        self._put(self.flag_defaults, "flag", name, default)
        self.flag_variables[variable] = name
        if description:
            self.flag_descriptions[name] = description

    @overload
    def setting(self, name: str, type: type[T], default: T, *, description: str = "") -> Setting[T]: ...
    @overload
    def setting(self, name: str, type: object, default: T, *, description: str = "") -> Setting[T]: ...
    def setting(self, name: str, type: Any, default: Any, *, description: str = "") -> Setting[Any]:  # noqa: A002
        """Declare a setting: a flag with a type, whose value can be stored. ``ctx.setting(…)`` gives its value.

        That is the host's, else what ``--flag NAME=VALUE`` says, else ``SEPKIT_FLAG_NAME`` in the environment, else
        what ``ctx.set_setting`` has stored, else ``default``. All of them are checked when the app is started.

        Args:
            name: Its name, and that of its flag.
            type: Any type that a tool's argument may have.
            default: Its value where nothing else is said.
            description: What people are told, by ``sepkit inspect``.

        Raises:
            RegistrationError: The name is taken, or another flag has its variable; the type has no form in JSON, or
                ``default`` is not of it.
        """
        from sepkit.contexts.settings import Setting  # only for apps that have settings

        setting = check_name("setting", name)
        said: object = description
        if not isinstance(said, str):
            raise RegistrationError(f"setting {setting!r}: the description is a text, not {said!r}")
        try:
            made: Setting[Any] = Setting(setting, type, default, description)
        except (EncodeError, InvalidData) as error:
            why = str(error).removeprefix("$: ")
            raise RegistrationError(f"setting {setting!r}: the default {default!r} does not fit: {why}") from None
        _check_free(self.settings, "setting", setting)
        self._check_open("setting", setting)
        self._put_flag(setting, made.default, description)
        self.settings[setting] = made
        return made

    def on_setting(self, setting: Setting[Any]) -> Callable[[EventF], EventF]:
        """Have a function told when a setting has been set to another value: the value and, if it likes, a context.

        Its changes reach each handler in their order, one at a time. The context is an ``EventContext`` with the
        setting's name.

        Raises:
            RegistrationError: The function takes another type than the setting's.
        """
        name = getattr(setting, "name", None)
        if type(setting).__name__ != "Setting" or not isinstance(name, str):
            at = f" ({where(setting)})" if callable(setting) else ""
            raise RegistrationError(
                f"@app.on_setting{at}: say which setting it is told of, as in @app.on_setting(url), where url is what "
                "app.setting made"
            )

        def register(fn: EventF) -> EventF:
            what = f"handler of setting {name!r}"
            spec = make_observer(fn, what, name, contexts.EventContext, takes="the setting's value")
            if spec.value is not None and spec.annotation not in (Any, object, setting.annotation):
                raise RegistrationError(
                    f"{what} ({where(fn)}): parameter {spec.value!r} has another type than the setting; annotate it "
                    f"with {show(setting.annotation)}"
                )
            self.setting_observers.setdefault(name, []).append(spec)
            return fn

        return register

    def renderer(self, tag: str, template: Mapping[str, Any]) -> None:
        """Have messages of ``tag`` drawn by a render block whose strings may hold ``{{path}}`` placeholders.

        Raises:
            RegistrationError: The tag is taken, or ``template`` is no render block.
        """
        _check_subject(tag, "app.renderer", "tag it draws", "board")
        try:
            block = to_json(template)
            structure_exactly(block, messages.RenderBlock)
        except (EncodeError, InvalidData) as error:
            raise RegistrationError(f"renderer {tag!r}: the template is no render block: {error}") from None
        registration = messages.MessageRendererRegistration(tag=tag, template=block)
        self._put(self.renderers, "renderer", tag, registration)

    # -- documents -----------------------------------------------------------------------------------------------------

    def collection(
        self,
        name: str,
        type: type[D],  # noqa: A002
        *,
        indexes: Sequence[str] = (),
        version: int = 1,
    ) -> Collection[D]:
        """Declare a collection: ``ctx.store(notes)`` has the app's documents, ``ctx.user.store(notes)`` a user's.

        Args:
            name: Its name: an identifier, at most 64 characters.
            type: The documents' class: a dataclass, an attrs class, a TypedDict, or ``dict[str, Any]``.
            indexes: The fields by which it is often searched: ``["tag", "author.name"]``.
            version: Of the class. When the class changes, so that older documents do not fit, it is raised by 1, and
                ``@app.migrate`` makes the older ones fit.

        Raises:
            RegistrationError: The name is taken or is not an identifier, the class has no form in JSON, or an index is
                of a field that the class does not have.

        Source: docs/documents.md.
        """
        from sepkit.contexts.documents import Collection  # only for apps that have one

        made = Collection(name, type, indexes=indexes, version=version)
        self._put(self.collections, "collection", made.name, made)
        made.in_app = self._is_app
        return made

    def migrate(self, collection: Collection[Any], *, from_version: int) -> Callable[[MigrationF], MigrationF]:
        """Make a function turn a document of ``from_version`` into one of the next version: a dict in, a dict out.

        It is called when such a document is read. What is stored stays as it is until it is put again.

        Raises:
            RegistrationError: There is no such version, or it has a migration already.

        Source: docs/documents.md, "When the class changes".
        """

        def register(fn: MigrationF) -> MigrationF:
            make_migration(fn, collection, from_version)
            return fn

        return register

    def include(self, router: Router) -> None:
        """Take over all handlers of another router, behind those that are here.

        Raises:
            RegistrationError: A name is taken, or it has been included before.
        """
        given: object = router
        if not isinstance(given, Router) or given._is_app:
            raise RegistrationError(f"app.include takes a Router, not {given!r}")
        if router in self._included or router is self:
            raise RegistrationError("this router is included already; its hooks and events would be handled twice")
        tables: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...] = (
            ("tool", self.tools, router.tools),
            ("command", self.commands, router.commands),
            ("completer of command", self.completers, router.completers),
            ("prompt", self.prompts, router.prompts),
            ("resource", self.resources, router.resources),
            ("provider", self.providers, router.providers),
            ("OAuth login of provider", self.oauth_logins, router.oauth_logins),
            ("OAuth refresh of provider", self.oauth_refreshes, router.oauth_refreshes),
            ("task", self.task_specs, router.task_specs),
            ("setting", self.settings, router.settings),
            ("job", self.job_specs, router.job_specs),
            ("flag", self.flag_defaults, router.flag_defaults),
            ("shortcut", self.shortcuts, router.shortcuts),
            ("renderer", self.renderers, router.renderers),
            ("collection", self.collections, router.collections),
        )
        added = [(kind, name) for kind, _, theirs in tables for name in theirs]
        added += [("hook", name) for name in router.hooks if name not in self.hooks]
        added += [("event", name) for name in router.events if name not in self.events]
        # A job must not have the name of a task: hosts see both in one list.
        others = (
            ("task or job", self.task_specs, router.job_specs),
            ("task or job", self.job_specs, router.task_specs),
        )
        for kind, mine, theirs in (*tables, *others):  # all of it or nothing
            for name in theirs:
                _check_free(mine, kind, name)
        for name in router.flag_defaults:
            _check_variable(self.flag_variables, name)
        for kind, name in added:
            self._check_open(kind, name)
        self._included.append(router)
        self.flag_descriptions.update(router.flag_descriptions)
        self.flag_variables.update(router.flag_variables)
        for _, mine, theirs in tables:
            mine.update(theirs)
        for collection in router.collections.values():
            collection.in_app = collection.in_app or self._is_app
        observed = ((self.hooks, router.hooks), (self.events, router.events))
        for table, added_to in (*observed, (self.setting_observers, router.setting_observers)):
            for name, specs in added_to.items():
                table.setdefault(name, []).extend(specs)
        self._registered(added)

    # -- what an app does when something is registered -----------------------------------------------------------------

    _is_app = False

    def _put(self, table: dict[str, V], kind: str, name: str, spec: V, *, replace: bool = False) -> None:
        if not replace:
            _check_free(table, kind, name)
        self._check_open(kind, name)
        table[name] = spec
        self._registered([(kind, name)])

    def _check_open(self, kind: str, name: str) -> None:
        """Raise RegistrationError where it is too late for something of this kind."""

    def _registered(self, changes: Sequence[Change]) -> None:
        """Something is there that was not, or is another now."""


def _check_subject(given: object, decorator: str, what: str, example: str) -> None:
    """Refuse ``@app.on`` where ``@app.on("turn_start")`` is meant: it would take the function for the event's name."""
    if not isinstance(given, str) or not given:
        at = f" ({where(given)})" if callable(given) else ""
        raise RegistrationError(f'{decorator}{at}: say which {what}, as in {decorator}("{example}")')
    try:
        to_json(given)
    except EncodeError as error:
        raise RegistrationError(f"{decorator}({given!a}): the {what} can't be sent: {error.problem}") from None


def _check_variable(taken: Mapping[str, str], name: str) -> str:
    """The environment's variable of a flag, which no other flag may have."""
    variable = variable_of(FLAG, name)
    if (other := taken.get(variable, name)) != name:
        raise RegistrationError(f"flags {other!r} and {name!r} would both be {variable} in the environment; rename one")
    return variable


def _check_free(table: Mapping[str, object], kind: str, name: str) -> None:
    if name in table:
        first = getattr(table[name], "fn", None)
        at = f" (the first is at {where(first)})" if first is not None else ""
        another = "URI" if kind == "resource" else "name"
        raise RegistrationError(f"{kind} {name!r} is registered twice{at}; give one of them another {another}")


def _provider(
    name: str, decorator: str, models: Sequence[messages.Model], base_url: str | None, api_key_env: str | None
) -> messages.ProviderRegistration:
    _check_subject(name, decorator, "provider it is", "my-models")
    given: object = models
    if isinstance(given, str | messages.Model) or not isinstance(given, Iterable):
        raise RegistrationError(f"provider {name!r}: models= takes a list of Model(...), not {given!r}")
    given = list(given)
    if wrong := [model for model in given if not isinstance(model, messages.Model)]:
        raise RegistrationError(f"provider {name!r}: models= takes Model(...), not {wrong[0]!r}")
    registration = messages.ProviderRegistration(
        name=name, base_url=base_url, api_key_env=api_key_env, models=list(given)
    )
    check_sendable(registration, f"provider {name!r}")
    return registration


def closest(name: object, known: Iterable[str], *, only_near: bool = False) -> str:
    """What to add to the message that ``name`` is not known: what may have been meant, or all there is."""
    import difflib  # 1 ms, and only for who mistypes

    found = difflib.get_close_matches(str(name), known, n=1, cutoff=0.8 if only_near else 0.6)
    if found:
        return f"; did you mean {found[0]!r}?"
    return "" if only_near else f"; known: {', '.join(sorted(known)) or 'none'}"

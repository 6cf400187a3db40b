"""Frozen handler records, made once where a decorator is written. Nothing is inspected when a function is called."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from sepkit.contexts import contexts
from sepkit.errors import EncodeError, InvalidData, RegistrationError
from sepkit.records import Record, changed, field, record
from sepkit.results import input_reader
from sepkit.schema import Signature, classes_in, code_of, docstring_of, inspect_signature, inspect_value, underlying
from sepkit.schema.binder import value_call
from sepkit.tasks import TaskOptions, TaskSpec, task_spec
from sepkit.wire import messages
from sepkit.wire.converter import structure
from sepkit.wire.writing import copied, to_json

Fn = Callable[..., Any]

_CONTEXTS: Final = (contexts.Context,)
"""What all contexts are; a handler of another kind may not take one of these."""


@record
class ToolSpec(Record):
    """A tool: its registration, and how it is called."""

    fn: Fn
    name: str
    description: str
    parameters: dict[str, Any]
    deferred: bool
    timeout: float | None
    bind: Callable[[Mapping[str, Any]], dict[str, Any]] = field(repr=False)
    call: Callable[[Mapping[str, Any], object], Any] = field(repr=False)
    context: str | None
    is_async: bool
    is_plain: bool
    """It is awaited as it is: no thread, no time limit."""
    is_alone: bool
    """It is plain, and takes no context: ``call`` is all of it."""

    @property
    def registration(self) -> messages.ToolRegistration:
        """What a host is told of it."""
        return messages.ToolRegistration(
            name=self.name, description=self.description, parameters=self.parameters, deferred=self.deferred
        )


@record
class CommandSpec(Record):
    """A slash command. Arguments that it does not name are left to ``CommandContext.arguments``."""

    fn: Fn
    name: str
    description: str
    bind: Callable[[Mapping[str, Any]], dict[str, Any]] = field(repr=False)
    context: str | None
    is_async: bool

    @property
    def registration(self) -> messages.CommandRegistration:
        """What a host is told of it."""
        return messages.CommandRegistration(name=self.name, description=self.description)


@record
class ObserverSpec(Record):
    """A handler of one value: a hook's input, an event's payload, what was typed of a command, a provider's request."""

    fn: Fn
    name: str
    """What it handles: the hook, the event, the command, the provider."""
    value: str | None
    """The parameter that takes the value; None where the handler does not want it."""
    annotation: Any = field(repr=False)
    """The type of the value."""
    call: Callable[[object, object], Any] = field(repr=False)
    """Calls the function with a value, which ``convert`` or ``given`` made, and a context."""
    convert: Callable[[Any], Any] = field(repr=False)
    """Makes of ``value``, plain JSON data, what the handler takes; raises InvalidData where it does not fit."""
    given: Callable[[Any], Any] = field(repr=False)
    """The same, of a copy: the handler may change it in place."""
    context: str | None
    is_async: bool
    only: str | None = None
    """The bus topic or the widget that it listens to; None for all."""

    # One is made for each registration. What stands in an Annotated need not have a hash.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def arguments(self, value: object, context: object) -> dict[str, Any]:
        """The arguments of a call, ``value`` being what ``convert`` or ``given`` made."""
        return {name: given for name, given in ((self.value, value), (self.context, context)) if name is not None}


@record
class ProviderSpec(Record):
    """A model provider: an async generator of stream events."""

    observer: ObserverSpec
    registration: messages.ProviderRegistration

    @property
    def fn(self) -> Fn:
        """The generator function."""
        return self.observer.fn


def where(fn: Fn) -> str:
    """``file:line`` of a function, as short as it can be told from here."""
    code = code_of(underlying(fn))
    if code is None:
        return str(getattr(fn, "__module__", None) or "?")
    path = Path(code.co_filename)
    try:
        shown = path.relative_to(Path.cwd())
    except (ValueError, OSError):
        shown = path
    return f"{shown}:{code.co_firstlineno}"


def name_of(fn: Fn) -> str:
    """What ``fn`` is called: the function itself, or what is called in its place."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    return getattr(fn, "__name__", "") or type(fn).__name__


def is_async(fn: Fn) -> bool:
    """Whether calling ``fn`` gives a coroutine."""
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None))  # noqa: B004


def check_name(kind: str, name: object, fn: Fn | None = None) -> str:
    """``name`` itself, if a model or a shell can write it.

    Raises:
        RegistrationError: It is empty, or has characters that do not belong in a name.
    """
    if isinstance(name, str) and name and name.isascii() and all(c.isalnum() or c in "_-." for c in name):
        return name
    at = f" ({where(fn)})" if fn is not None else ""
    if not isinstance(name, str):
        raise RegistrationError(f"{kind} name {name!r}{at}: a name is a string")
    proposal = "-".join("".join(c if c.isalnum() and c.isascii() else " " for c in name).split())
    hint = f"; write {proposal!r}" if proposal else ""
    raise RegistrationError(f"{kind} name {name!r}{at}: letters, digits, '-', '_' and '.' only{hint}")


def task_registration(spec: TaskSpec) -> messages.TaskRegistration:
    """What a host that asked for tasks is told of one.

    Source: docs/tasks.md, "On the wire".
    """
    return messages.TaskRegistration(
        name=spec.name,
        description=spec.description,
        per_user=spec.per_user,
        autostart=spec.autostart,
        restart_policy=messages.RestartPolicyMs(
            type=spec.policy.type,
            max_restarts=spec.policy.max_restarts,
            initial_delay_ms=round(spec.policy.initial_delay * 1000),
            max_delay_ms=round(spec.policy.max_delay * 1000),
            multiplier=spec.policy.multiplier,
        ),
    )


def check_sendable(registration: messages.Record, what: str, fn: Fn | None = None) -> None:
    """Write and read a registration as a host would: one that can't be sent would fail the whole handshake.

    Raises:
        RegistrationError: It does not fit the wire; says what it is, where, and why.
    """
    try:
        structure(to_json(registration), type(registration))
    except EncodeError as error:
        problem = f"{error.path.removeprefix('$.')} can't be sent: {error.problem}"
    except InvalidData as error:
        problem = "; ".join(str(fault).removeprefix("$.") for fault in error.told)
    else:
        return
    at = f" ({where(fn)})" if fn is not None else ""
    raise RegistrationError(f"{what}{at}: {problem}")


def _check_is_bool(what: str, fn: Fn, **options: object) -> None:
    for name, given in options.items():
        if not isinstance(given, bool):
            raise RegistrationError(f"{what} ({where(fn)}): {name}={given!r}: write True or False")


def make_tool(
    fn: Fn,
    *,
    name: str | None,
    description: str | None,
    parameters: dict[str, Any] | None,
    deferred: bool,
    strict: bool,
    timeout: float | None,
) -> ToolSpec:
    """The record of a tool."""
    _check_callable(fn, "@app.tool")
    tool = check_name("tool", name_of(fn) if name is None else name, fn)
    _refuse_generator(fn, f"tool {tool!r}", "return its result, and tell progress with ctx.update()")
    _check_is_bool(f"tool {tool!r}", fn, deferred=deferred, strict=strict)
    given: object = timeout
    if given is not None and (
        not isinstance(given, int | float) or isinstance(given, bool) or not 0 < given < float("inf")
    ):
        raise RegistrationError(f"tool {tool!r} ({where(fn)}): timeout is in seconds and above 0, not {timeout!r}")
    signature = inspect_signature(
        fn,
        what=f"tool {tool!r}",
        contexts=(contexts.ToolContext,),
        other_contexts=_CONTEXTS,
        strict=strict,
        parameters=parameters,
    )
    awaited = is_async(fn)
    spec = ToolSpec(
        fn=fn,
        name=tool,
        description=signature.description if description is None else description,
        parameters=signature.parameters,
        deferred=deferred,
        timeout=timeout,
        bind=signature.loading.bind,
        call=signature.loading.call,
        context=signature.context,
        is_async=awaited,
        is_plain=awaited and timeout is None,
        is_alone=awaited and timeout is None and signature.context is None,
    )
    _Later(spec, signature)
    # The parameters have been checked with the signature, the other fields above.
    if type(spec.description) is not str or not spec.description.isascii():
        check_sendable(changed(spec.registration, parameters={}), f"tool {tool!r}", fn)
    return spec


_FEW: Final = 16
"""So many calls of a handler are bound without generated code. Most processes call most of their tools once or not."""


class _Later:
    """Has a spec bind its first calls without generated code, which takes 0.5 ms to make, and later ones with it."""

    __slots__ = ("_left", "_signature", "_spec")

    def __init__(self, spec: ToolSpec | CommandSpec, signature: Signature) -> None:
        self._left = _FEW
        self._spec = spec
        self._signature = signature
        self._put(self.bind, self.call)

    def _put(self, bind: Any, call: Any) -> None:
        object.__setattr__(self._spec, "bind", bind)
        if isinstance(self._spec, ToolSpec):
            object.__setattr__(self._spec, "call", call)

    def _count(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._put(*self._signature.compile())

    def bind(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        self._count()
        return self._signature.loading.bind(arguments)

    def call(self, arguments: Mapping[str, Any], context: object) -> Any:
        self._count()
        return self._signature.loading.call(arguments, context)


def make_command(fn: Fn, *, name: str | None, description: str | None) -> CommandSpec:
    """The record of a command."""
    _check_callable(fn, "@app.command")
    given: object = name_of(fn) if name is None else name
    command = check_name("command", given.removeprefix("/") if isinstance(given, str) else given, fn)
    _refuse_generator(fn, f"command {command!r}", "return what is shown")
    signature = inspect_signature(
        fn,
        what=f"command {command!r}",
        contexts=(contexts.CommandContext,),
        other_contexts=_CONTEXTS,
        extra="ignore",
    )
    spec = CommandSpec(
        fn=fn,
        name=command,
        description=signature.description if description is None else description,
        bind=signature.loading.bind,
        context=signature.context,
        is_async=is_async(fn),
    )
    _Later(spec, signature)
    check_sendable(spec.registration, f"command {command!r}", fn)
    return spec


def make_hook(fn: Fn, name: str) -> ObserverSpec:
    """The record of a hook."""
    known = messages.HOOK_INPUTS.get(name)
    takes = "a dict" if known is None else f"{known.__name__} or a dict"
    spec = make_observer(fn, f"hook {name!r}", name, contexts.HookContext, takes=takes)
    records = [cls for cls in classes_in(spec.annotation) if cls in messages.HOOK_INPUTS.values()]
    if records and known not in records:
        raise RegistrationError(
            f"hook {name!r} ({where(fn)}): parameter {spec.value!r} is a {records[0].__name__}, "
            "which another hook gives; "
            f"a {name} hook takes {takes}"
        )
    return spec if spec.annotation is not known else changed(spec, given=input_reader(name, spec.given))


def make_observer(
    fn: Fn, what: str, name: str, context: type[contexts.Context], *, takes: str, only: str | None = None
) -> ObserverSpec:
    """The record of a handler of one value."""
    _check_callable(fn, what)
    _refuse_generator(fn, what, "write a coroutine or a plain function")
    return _observer(fn, what, name, context, takes, only=only, is_async=is_async(fn))


def _observer(
    fn: Fn, what: str, name: str, context: type, takes: str, *, is_async: bool, only: str | None = None
) -> ObserverSpec:
    signature = inspect_value(fn, what=what, contexts=(context,), other_contexts=_CONTEXTS, takes=takes)
    return ObserverSpec(
        fn=fn,
        name=name,
        value=signature.value,
        annotation=signature.annotation,
        call=value_call(fn, signature.value, signature.context),
        convert=signature.convert,
        given=lambda value: signature.convert(copied(value)),
        context=signature.context,
        is_async=is_async,
        only=only,
    )


def make_provider(fn: Fn, registration: messages.ProviderRegistration) -> ProviderSpec:
    """The record of a provider."""
    what = f"provider {registration.name!r}"
    check_name("provider", registration.name, fn)
    if inspect.iscoroutinefunction(fn) or inspect.isgeneratorfunction(fn) or isinstance(fn, type) or not callable(fn):
        raise RegistrationError(
            f"{what} ({where(fn)}): a provider is an async generator of stream events: "
            "`async def` with `yield Delta(...)` in it"
        )
    takes = "a ProviderRequest or a dict"
    is_generator = any(map(inspect.isasyncgenfunction, (fn, getattr(fn, "__call__", None))))  # noqa: B004
    observer = _observer(fn, what, registration.name, contexts.ProviderContext, takes, is_async=is_generator)
    return ProviderSpec(observer, registration)


def make_task(fn: Fn, options: TaskOptions) -> TaskSpec:
    """The record of a background task."""
    _check_callable(fn, "@app.task")
    given = options.get("name")
    task = check_name("task", name_of(fn) if given is None else given, fn)
    if not is_async(fn) and not is_async(underlying(fn)):  # also below a decorator that is a plain function
        raise RegistrationError(f"task {task!r} ({where(fn)}): a task is a coroutine; write `async def`")
    found = inspect_value(
        fn, what=f"task {task!r}", contexts=(contexts.TaskContext,), other_contexts=_CONTEXTS, takes="a TaskContext"
    )
    if found.value is not None:
        raise RegistrationError(
            f"task {task!r} ({where(fn)}): parameter {found.value!r}: a task takes a TaskContext and nothing else; "
            "what it is started with is in ctx.payload"
        )
    spec = task_spec(fn, task, options, context=found.context, description=docstring_of(fn))
    check_sendable(task_registration(spec), f"task {task!r}", fn)
    return spec


def _check_callable(fn: object, what: str) -> None:
    if not callable(fn) or isinstance(fn, type):
        hint = f"; write {what}(name={fn!r})" if isinstance(fn, str) else ""
        raise RegistrationError(f"{what} decorates a function, not {fn!r}{hint}")


def _refuse_generator(fn: Fn, what: str, instead: str) -> None:
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise RegistrationError(f"{what} ({where(fn)}) is a generator; {instead}")

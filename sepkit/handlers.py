"""Frozen handler records, made once where a decorator is written. Nothing is inspected when a function is called."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypedDict

from sepkit.contexts import contexts
from sepkit.errors import EncodeError, InvalidData, RegistrationError, sayable
from sepkit.records import Record, changed, field, record
from sepkit.results import input_reader, promising
from sepkit.schema import (
    Output,
    Signature,
    classes_in,
    code_of,
    docstring_of,
    given_output,
    inspect_signature,
    inspect_value,
    returned_output,
    underlying,
)
from sepkit.schema.binder import value_call
from sepkit.tasks import TaskOptions, TaskSpec, task_spec
from sepkit.wire import messages
from sepkit.wire.converter import structure
from sepkit.wire.frames import dumps
from sepkit.wire.writing import copied, to_json

if TYPE_CHECKING:
    from sepkit.content import Icon
    from sepkit.tasks.schedule import Schedule

Fn = Callable[..., Any]

_CONTEXTS: Final = (contexts.Context,)
"""What all contexts are; a handler of another kind may not take one of these."""


class ToolAbout(TypedDict, total=False):
    """What some hosts show of a tool, or go by; SEP has no place for it."""

    title: str
    """What people read in place of the name."""
    read_only: bool
    """It changes nothing."""
    destructive: bool
    """It may destroy something, not only add."""
    idempotent: bool
    """Called again with the same arguments it changes nothing more."""
    open_world: bool
    """It reaches things outside of the App, as a search of the web does."""
    icons: Sequence[Icon | str]
    """Pictures beside its name: URLs, or ``Icon(…)``."""
    output_schema: dict[str, Any] | type[Any]
    """What it returns: a JSON Schema of an object, or a class; by default of the class in the return annotation."""
    long: bool
    """It takes so long that a host that can should run it in the background."""


@record
class ToolSpec(Record):
    """A tool: its registration, and how it is called."""

    fn: Fn
    name: str
    description: str
    parameters: dict[str, Any]
    deferred: bool
    timeout: float | None
    confirm: bool | str | None
    """Whether a person is asked before it runs, or what; None where its author did not say."""
    bind: Callable[[Mapping[str, Any]], dict[str, Any]] = field(repr=False)
    call: Callable[[Mapping[str, Any], object], Any] = field(repr=False)
    context: str | None
    is_async: bool
    is_plain: bool
    """It is awaited as it is: no thread, no time limit, no question before."""
    is_alone: bool
    """It is plain, and takes no context: ``call`` is all of it."""
    output: Output | None = field(default=None, repr=False)
    """What each of its results must fit; ``call`` sees to it."""
    title: str | None = None
    read_only: bool | None = None
    destructive: bool | None = None
    idempotent: bool | None = None
    open_world: bool | None = None
    icons: tuple[Icon, ...] = ()
    long: bool = False
    stands_for: Literal["resource"] | None = None
    """It is there for hosts that know no resources; others do not show it."""

    @property
    def registration(self) -> messages.ToolRegistration:
        """What a host is told of it."""
        return messages.ToolRegistration(
            name=self.name, description=self.description, parameters=self.parameters, deferred=self.deferred
        )


Expose = Literal["prompt", "tool"] | None
"""What a command is for a host that knows no commands: a prompt that people pick, a tool of the model, or nothing."""


@record
class CommandSpec(Record):
    """A slash command. Arguments that it does not name are left to ``CommandContext.arguments``."""

    fn: Fn
    name: str
    description: str
    parameters: dict[str, Any]
    """The JSON Schema of its arguments."""
    bind: Callable[[Mapping[str, Any]], dict[str, Any]] = field(repr=False)
    context: str | None
    is_async: bool
    expose: Expose = "prompt"
    """What it is for a host that knows no commands."""
    is_prompt: bool = False
    """It was registered as a prompt, and gives messages; a host that knows no prompts has it as a command."""
    title: str | None = None
    icons: tuple[Icon, ...] = ()

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


@record
class JobSpec(Record):
    """A job: what it runs, and when by itself."""

    fn: Fn
    name: str
    schedule: Schedule | None
    """None for a job that runs only for ``app.schedule.at``."""
    misfire: str
    retry: bool
    description: str
    context: str | None
    is_async: bool

    # One is made for each registration; a schedule has no order and no hash of its own.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    @property
    def text(self) -> str:
        """When it runs, in words."""
        return "when scheduled" if self.schedule is None else self.schedule.text


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


def job_registration(spec: JobSpec) -> messages.TaskRegistration:
    """What a host that asked for tasks is told of a job.

    Source: docs/jobs.md, "Where jobs are seen".
    """
    policy = messages.RestartPolicyMs(type="never", max_restarts=0, initial_delay_ms=0, max_delay_ms=0, multiplier=1)
    return messages.TaskRegistration(
        name=spec.name,
        description=spec.description,
        per_user=False,
        autostart=spec.schedule is not None,
        restart_policy=policy,
        schedule=spec.text,
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


_LONGEST_QUESTION: Final = 1000  # characters


def _check_confirm(confirm: object, what: str) -> None:
    if confirm is None or isinstance(confirm, bool):
        return
    if not isinstance(confirm, str) or not confirm.strip():
        raise RegistrationError(f"{what}: confirm={confirm!r:.100}: write True, False, or the question to ask")
    if len(confirm) > _LONGEST_QUESTION or sayable(confirm) != confirm:
        raise RegistrationError(
            f"{what}: confirm= is a question of at most {_LONGEST_QUESTION} characters, all of which UTF-8 can write"
        )


def make_tool(
    fn: Fn,
    *,
    name: str | None,
    description: str | None,
    parameters: dict[str, Any] | None,
    deferred: bool,
    strict: bool,
    timeout: float | None,
    confirm: bool | str | None,
    about: Mapping[str, Any],
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
    _check_confirm(confirm, f"tool {tool!r} ({where(fn)})")
    signature = inspect_signature(
        fn,
        what=f"tool {tool!r}",
        contexts=(contexts.ToolContext,),
        other_contexts=_CONTEXTS,
        strict=strict,
        parameters=parameters,
    )
    told = _told_of(f"tool {tool!r}", fn, about) if about else {}
    output: Output | None = told.pop("output", None)
    if output is None and signature.returned is not None:
        output = returned_output(signature.returned)
    awaited = is_async(fn)
    is_plain = awaited and timeout is None and not confirm
    spec = ToolSpec(
        fn=fn,
        name=tool,
        description=signature.description if description is None else description,
        parameters=signature.parameters,
        deferred=deferred,
        timeout=timeout,
        confirm=confirm,
        bind=signature.loading.bind,
        call=signature.loading.call,
        context=signature.context,
        is_async=awaited,
        is_plain=is_plain,
        is_alone=is_plain and signature.context is None,
        output=output,
        **told,
    )
    _Later(spec, signature)
    # The parameters have been checked with the signature, the other fields above.
    if type(spec.description) is not str or not spec.description.isascii():
        check_sendable(changed(spec.registration, parameters={}), f"tool {tool!r}", fn)
    return spec


def _told_of(what: str, fn: Fn, about: Mapping[str, Any]) -> dict[str, Any]:
    """What was given of ``ToolAbout``, checked, as fields of a ToolSpec."""
    told = dict(about)
    if unknown := told.keys() - ToolAbout.__annotations__.keys():
        raise TypeError(f"{what} ({where(fn)}): there is no option {min(unknown)}=")
    if "output_schema" in told and (schema := told.pop("output_schema")) is not None:
        told["output"] = given_output(schema, what=what, fn=fn)
    check_text(what, fn, "title", told.get("title"))
    told["icons"] = icons_given(what, fn, told.get("icons", ()))
    hints = {name: told[name] for name in ("read_only", "destructive", "idempotent", "open_world") if name in told}
    _check_is_bool(what, fn, **{name: given for name, given in hints.items() if given is not None})
    _check_is_bool(what, fn, long=told.get("long", False))
    if hints.get("read_only") and hints.get("destructive"):
        raise RegistrationError(f"{what} ({where(fn)}): read_only=True and destructive=True exclude each other")
    return told


def check_text(what: str, fn: Fn, option: str, given: object) -> None:
    """Refuse an option that is neither None nor a text that can be sent.

    Raises:
        RegistrationError: It is something else.
    """
    if given is None:
        return
    if not isinstance(given, str):
        raise RegistrationError(f"{what} ({where(fn)}): {option}={given!r}: write a text")
    try:
        to_json(given)
    except EncodeError as error:
        raise RegistrationError(f"{what} ({where(fn)}): {option} can't be sent: {error.problem}") from None


def icons_given(what: str, fn: Fn | None, given: Any) -> tuple[Icon, ...]:
    """What was given as ``icons=``.

    Raises:
        RegistrationError: It is something else than URLs and icons.
    """
    if given == () or given is None:
        return ()
    from sepkit.content import icons_of

    try:
        return tuple(icons_of(given, what if fn is None else f"{what} ({where(fn)})"))
    except ValueError as error:
        raise RegistrationError(str(error)) from None


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
        spec = self._spec
        object.__setattr__(spec, "bind", bind)
        if isinstance(spec, ToolSpec):
            object.__setattr__(spec, "call", call if spec.output is None else promising(spec.output, call))

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


def make_command(
    fn: Fn,
    *,
    name: str | None,
    description: str | None,
    kind: Literal["command", "prompt"] = "command",
    expose: Expose = "prompt",
    title: str | None = None,
    icons: Sequence[Icon | str] = (),
) -> CommandSpec:
    """The record of a command, or of a prompt."""
    _check_callable(fn, f"@app.{kind}")
    given: object = name_of(fn) if name is None else name
    command = check_name(kind, given.removeprefix("/") if isinstance(given, str) else given, fn)
    what = f"{kind} {command!r}"
    _refuse_generator(fn, what, "return what is shown")
    if expose not in ("prompt", "tool", None):
        raise RegistrationError(f"{what} ({where(fn)}): expose={expose!r}: write 'prompt', 'tool' or None")
    check_text(what, fn, "title", title)
    signature = inspect_signature(
        fn,
        what=what,
        contexts=(contexts.CommandContext,),
        other_contexts=_CONTEXTS,
        extra="ignore",
    )
    spec = CommandSpec(
        fn=fn,
        name=command,
        description=signature.description if description is None else description,
        parameters=signature.parameters,
        bind=signature.loading.bind,
        context=signature.context,
        is_async=is_async(fn),
        expose=expose,
        is_prompt=kind == "prompt",
        title=title,
        icons=icons_given(what, fn, icons),
    )
    _Later(spec, signature)
    check_sendable(spec.registration, what, fn)
    return spec


def choices(parameters: Mapping[str, Any], argument: str | None, partial: str) -> list[str]:
    """What an argument may be by its schema, where that counts it up, and that begins with ``partial``.

    Args:
        parameters: The JSON Schema of the arguments.
        argument: Its name; None for the first one.
        partial: What was typed; upper and lower case are the same.
    """
    known = parameters.get("properties", {})
    schema = known.get(next(iter(known), None) if argument is None else argument)
    if not isinstance(schema, dict):
        return []
    parts = [part for part in (schema, *schema.get("anyOf", ())) if isinstance(part, dict)]
    found = [one for part in parts for one in _counted_up(part) if one is not None]
    texts = [one if isinstance(one, str) else dumps(one).decode() for one in found]
    return [text for text in texts if text.casefold().startswith(partial.casefold())]


def _counted_up(schema: Mapping[str, Any]) -> Sequence[Any]:
    """The values that a schema counts up."""
    if "enum" in schema:
        return list(schema["enum"])
    if "const" in schema:
        return [schema["const"]]
    return (True, False) if schema.get("type") == "boolean" else ()


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


def make_job(
    fn: Fn, decorator: str, schedule: Schedule | None, *, name: str | None, misfire: str, retry: bool
) -> JobSpec:
    """The record of a job."""
    _check_callable(fn, decorator)
    job = check_name("job", name_of(fn) if name is None else name, fn)
    what = f"job {job!r}"
    _refuse_generator(fn, what, "write a coroutine or a plain function")
    _check_is_bool(what, fn, retry=retry)
    if misfire not in ("once", "skip"):
        raise RegistrationError(
            f'{what} ({where(fn)}): misfire={misfire!r:.100}: write "once" (a late run happens), or "skip" (what is '
            "more than a minute late does not)"
        )
    found = inspect_value(
        fn, what=what, contexts=(contexts.JobContext,), other_contexts=_CONTEXTS, takes="a JobContext"
    )
    if found.value is not None:
        raise RegistrationError(
            f"{what} ({where(fn)}): parameter {found.value!r}: a job takes a JobContext and nothing else; what it was "
            "scheduled with is in ctx.payload"
        )
    spec = JobSpec(
        fn=fn,
        name=job,
        schedule=schedule,
        misfire=misfire,
        retry=retry,
        description=docstring_of(fn),
        context=found.context,
        is_async=is_async(fn),
    )
    check_sendable(job_registration(spec), what, fn)
    return spec


def make_migration(fn: Fn, collection: object, from_version: int) -> None:
    """Add what turns a document of a version into one of the next."""
    from sepkit.contexts.documents import Collection  # only for apps that have one

    if not isinstance(collection, Collection):
        raise RegistrationError(f"@app.migrate takes what app.collection returned, not {collection!r}")
    what = f"migration of collection {collection.name!r}"
    _check_callable(fn, "@app.migrate(…)")
    _refuse_generator(fn, what, "return the dict")
    if is_async(fn):
        raise RegistrationError(f"{what} ({where(fn)}) is a coroutine; write a plain `def`: dict in, dict out")
    collection.add_migration(fn, from_version, where(fn))


def _check_callable(fn: object, what: str) -> None:
    if not callable(fn) or isinstance(fn, type):
        hint = f"; write {what}(name={fn!r})" if isinstance(fn, str) else ""
        raise RegistrationError(f"{what} decorates a function, not {fn!r}{hint}")


def _refuse_generator(fn: Fn, what: str, instead: str) -> None:
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise RegistrationError(f"{what} ({where(fn)}) is a generator; {instead}")

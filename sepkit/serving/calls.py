"""What happens to a call between a face and the author's handler, whatever the wire.

A face finds the handler's spec, makes its context, and says what an outcome looks like on its wire. Here the handler is
called: within a slot, in a thread where it is a plain ``def``, with its time limit. What it raises unforeseen is logged
under an id and never crosses.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from sepkit.app import App
from sepkit.concurrency.cancelling import is_cancelled
from sepkit.concurrency.eager import noting
from sepkit.concurrency.lanes import Hold, Overloaded, Slots
from sepkit.concurrency.threads import DaemonThreads
from sepkit.concurrency.watch import LoopWatch
from sepkit.contexts.contexts import CommandContext, HookContext, ProviderContext, ResourceContext, ToolContext
from sepkit.contexts.link import Link, Outgoing
from sepkit.errors import EncodeError, InternalError, InvalidData, InvalidParams, RpcError, ToolError
from sepkit.forks import end_if_child
from sepkit.handlers import CommandSpec, Fn, ObserverSpec, ProviderSpec, ToolSpec, choices, name_of
from sepkit.results import (
    BadResult,
    Block,
    ToolResult,
    argument_fault,
    check_hook_input,
    checked_credentials,
    patched,
    promised,
)
from sepkit.tracebacks import unexpected

if TYPE_CHECKING:
    from sepkit.content import Contents, PromptMessage
    from sepkit.resources import ResourceSpec

E = TypeVar("E", bound=BaseException)


class Failure(Protocol):
    """Makes a face's result of a tool call that failed in a way that the model can learn from."""

    def __call__(self, text: str, details: object = None, /) -> object:
        """The result: ``text`` for the model, ``details`` (plain JSON data) beside it."""


class Unsendable(Exception):
    """A handler returned ``value``, which has no form in JSON. The text says why."""

    def __init__(self, value: object, why: EncodeError) -> None:
        super().__init__(str(why))
        self.value = value


class BadArguments(Exception):
    """The arguments that came do not fit what the handler takes."""

    def __init__(self, fault: InvalidData) -> None:
        super().__init__(str(fault))
        self.fault = fault


class Calls:
    """The calls of one App, over all its connections.

    Args:
        app: Whose handlers are called.
        slots: Bounds how many tool and provider calls run.
        threads: Where ``def`` handlers run.
        watch: Woken when a handler is called.
        confirms: Whether tools that want it are confirmed here; False where the host does so itself.
    """

    def __init__(
        self, app: App, slots: Slots, threads: DaemonThreads, watch: LoopWatch, *, confirms: bool = True
    ) -> None:
        self._app = app
        self.slots = slots
        self._threads = threads
        self.watch = watch
        self._confirms = confirms
        self._draining: Counter[Outgoing] = Counter()  # calls that wait for their host to read
        self._process = os.getpid()
        self._is_late = False  # whether a call is about to wait for a slot
        self.tool_waited = slots.release
        """A call of ``tool_waits`` has ended."""

    # -- tools ---------------------------------------------------------------------------------------------------------
    # A tool's call takes a slot when it first waits, and gives it back when it has ended: most calls never wait.

    def tool_waits(self) -> None:
        """A call of a tool has not ended within its first step: from now on it takes a slot."""
        if self._is_late:
            self._is_late = False
        else:
            self.slots.running += 1

    async def tool(
        self,
        spec: ToolSpec,
        arguments: dict[str, Any],
        context: ToolContext | None,
        link: Link,
        value: Callable[[object], object],
        failure: Failure,
    ) -> object:
        """Call a tool: all that follows, in one coroutine.

        Args:
            spec: The tool.
            arguments: As the model sent them.
            context: What the tool is given; None where it takes none.
            link: The connection that the call came over.
            value: Makes the face's result of what the tool returned. It may raise ``Unsendable``.
            failure: Makes the face's result of a failure.

        Returns:
            What ``value`` or ``failure`` made.

        Raises:
            Overloaded: Too many calls are waiting.
        """
        has_slot = False

        def waits() -> None:
            nonlocal has_slot
            has_slot = True
            self.tool_waits()

        try:
            return value(await noting(self.tool_work(spec, arguments, context, link), waits))
        except BaseException as error:
            return await self.tool_raised(spec.name, error, value, failure)
        finally:
            if has_slot:
                self.tool_waited()

    async def tool_work(
        self, spec: ToolSpec, arguments: dict[str, Any], context: ToolContext | None, link: Link
    ) -> object:
        """Call a tool, and tell what it came to.

        A plain tool that takes no context needs none of this where there is a slot: ``spec.call`` is all of it.

        Args:
            spec: The tool.
            arguments: As the model sent them.
            context: What the tool is given; None where it takes none.
            link: The connection that the call came over.

        Returns:
            What it returned.

        Raises:
            Overloaded: Too many calls are waiting.
            BaseException: What the tool raised; ``tool_raised`` knows what that comes to.
        """
        slots = self.slots
        try:
            if slots.running >= slots.size or link.outgoing.congested:
                await self._wait_for_slot(link)
            if self.watch.asleep:
                self.watch.wake()
            try:
                work = (
                    spec.call(arguments, context) if spec.is_plain else self._call_tool(spec, arguments, context, link)
                )
            except InvalidData as error:
                raise BadArguments(error) from None
            return await work
        finally:
            if context is not None:
                context.close()

    async def tool_raised(
        self, name: str, error: BaseException, value: Callable[[object], object], failure: Failure
    ) -> object:
        """The face's result of a tool's call that raised ``error``, or returned what cannot be sent.

        Args:
            name: The tool's.
            error: What was raised.
            value: Makes the face's result of what the tool returned. It may raise ``Unsendable``.
            failure: Makes the face's result of a failure.

        Raises:
            Overloaded: Too many calls are waiting.
            CancelledError: The call was cancelled.
        """
        try:
            while isinstance(error, Unsendable):
                if not isawaitable(error.value):
                    return failure(f"The result of {name} cannot be sent: {error}")
                try:  # a coroutine that returned another one
                    return value(await error.value)
                except BaseException as raised:
                    error = raised
            if self._is_passed_on(error) or isinstance(error, Overloaded):
                raise error
            return self._tool_failure(name, error, failure)
        finally:
            del error  # it may hold this frame

    def _tool_failure(self, name: str, error: BaseException, failure: Failure) -> object:
        if isinstance(error, BadArguments):
            return failure(*argument_fault(name, error.fault))
        if isinstance(error, BadResult):
            return failure(f"The result of {name} does not fit its output schema: {error}", error.data)
        told, rest = split(error, ToolError)
        if rest is None:
            return failure("\n".join(map(str, told)))
        internal = self.unexpected(rest, f"The tool {name} failed")
        return failure("\n".join([*map(str, told), internal.message]), internal.data)

    async def _wait_for_slot(self, link: Link) -> None:
        """Wait for a slot with a call that has none yet, and that has one from when it first waits."""
        self._is_late = True  # until it waits, which comes before anything else does
        try:
            await self._take_slot(link)
        except BaseException:
            if not self._is_late:
                self.slots.running += 1  # which `tool_waited` gives back
            raise
        else:
            if self._is_late:  # it has not waited
                self.slots.running -= 1
        finally:
            self._is_late = False

    async def _take_slot(self, link: Link) -> None:
        """Wait until the host has read enough of what went before, and for a slot.

        In this order: a host that does not read must not hold the slots that others could use.
        """
        while True:
            if link.outgoing.congested:
                await self._drained(link.outgoing)
            if self.slots.running < self.slots.size:
                self.slots.running += 1
            else:
                await self.slots.wait()
            if not link.outgoing.congested:
                return
            self.slots.release()

    async def _drained(self, outgoing: Outgoing) -> None:
        if self._draining[outgoing] >= self.slots.most_waiting:
            raise Overloaded(f"{self._draining[outgoing]} calls wait for the host to read")
        self._draining[outgoing] += 1
        try:
            await outgoing.drain()
        finally:
            self._draining[outgoing] -= 1
            if not self._draining[outgoing]:
                del self._draining[outgoing]

    def _call_tool(
        self, tool: ToolSpec, arguments: dict[str, Any], context: ToolContext | None, link: Link
    ) -> Awaitable[object]:
        """Call a tool that runs in a thread, has a time limit, or is confirmed first."""
        values = tool.bind(arguments)
        if tool.context is not None:
            values[tool.context] = context
        return self._run_tool(tool, values, arguments, link)

    async def _run_tool(self, tool: ToolSpec, values: dict[str, Any], arguments: dict[str, Any], link: Link) -> object:
        if tool.confirm and self._confirms:
            from sepkit.serving.confirming import confirm

            await confirm(tool, arguments, link, self.slots)  # its time is the user's, not the tool's
        limit = asyncio.timeout(tool.timeout)
        try:
            async with limit:
                returned = await self._settled(await self._called(tool.fn, values, is_async=tool.is_async))
        except TimeoutError:
            if limit.expired():
                raise ToolError(f"{tool.name} was stopped: it took longer than {tool.timeout:g} s") from None
            raise
        return returned if tool.output is None else promised(tool.output, returned)

    # -- hooks ---------------------------------------------------------------------------------------------------------

    async def hook(self, name: str, value: dict[str, Any], context: HookContext) -> Block | dict[str, Any] | None:
        """Ask the handlers of a hook, in the order of their registration; each sees what the one before made of it.

        Args:
            name: The hook.
            value: Its input, plain JSON data. It is not changed.
            context: What the handlers are given.

        Returns:
            The first Block; the whole new input, where a handler has changed it; or None.

        Raises:
            InvalidParams: The input does not fit the hook, or what a handler takes.
            InternalError: A handler raised, or returned something that is not a decision.
        """
        specs = self._app.hooks.get(name, ())
        try:
            check_hook_input(name, value)  # before any of them runs
        except InvalidData as error:
            raise does_not_fit(f"the input does not fit the hook {name!r}", error) from None
        now = value
        for spec in specs:
            try:
                # A copy: what a handler changes in place is not a decision where it returns None.
                given = spec.given(now)
            except InvalidData as error:
                if now is not value:  # the mistake of a handler before this one, not of the host
                    what = f"the {name} hook {name_of(spec.fn)} cannot take what the hooks before it made"
                    raise self.unexpected(error, what) from None
                raise does_not_fit(f"the input does not fit the hook {name!r}", error) from None
            returned = await self.observe(spec, given, context)
            if returned is None:
                continue
            if isinstance(returned, Block):
                return returned
            try:
                now = patched(name, given, now, returned, spec.convert)
            except (TypeError, InvalidData, EncodeError) as error:
                raise self.unexpected(error, f"the {name} hook {name_of(spec.fn)} gave a bad decision") from None
        return None if now is value else now

    # -- commands ------------------------------------------------------------------------------------------------------

    async def command(self, spec: CommandSpec, context: CommandContext, value: Callable[[object], object]) -> object:
        """Call a command with the arguments in its context.

        Args:
            spec: The command.
            context: What it is given.
            value: Makes the face's result of what the command returned.

        Raises:
            InvalidParams: The arguments do not fit.
            InternalError: It raised.
            EncodeError: What it returned has no form in JSON.
        """
        try:
            values = spec.bind(context.arguments)
        except InvalidData as error:
            raise does_not_fit(f"the arguments of {spec.name} do not fit", error) from None
        if spec.context is not None:
            values[spec.context] = context
        if self.watch.asleep:
            self.watch.wake()
        try:
            returned = await self._called(spec.fn, values, is_async=spec.is_async)
            if type(returned) is not str and isawaitable(returned):
                returned = await self._settled(returned)
        except BaseException as error:
            if self._is_passed_on(error):
                raise
            raise self._failed(f"the {'prompt' if spec.is_prompt else 'command'} {spec.name}", error) from None
        return value(returned)

    def _failed(self, what: str, error: BaseException) -> InternalError:
        """What the host is told of a command, a prompt or a resource that raised."""
        told, rest = split(error, ToolError)
        if rest is None:
            return InternalError("\n".join(map(str, told)))
        internal = self.unexpected(rest, f"{what} failed")
        return InternalError("\n".join([*map(str, told), internal.message]), data=internal.data)

    async def prompt(
        self, spec: CommandSpec, context: CommandContext, value: Callable[[list[PromptMessage]], object]
    ) -> object:
        """Call a prompt, or a command that stands for one, with the arguments in its context.

        Args:
            spec: The prompt.
            context: What it is given.
            value: Makes the face's result of its messages.

        Raises:
            InvalidParams: The arguments do not fit.
            InternalError: It raised, or returned something else than messages.
            EncodeError: What it returned has no form in JSON.
        """
        from sepkit.content import messages_of, text_of

        def messages(returned: object) -> object:
            if not spec.is_prompt:  # a command returns what is shown
                returned = text_of(returned.content if isinstance(returned, ToolResult) else returned)
            try:
                found = messages_of(returned, f"the prompt {spec.name}")
            except TypeError as error:
                raise InternalError(str(error)) from None
            return value(found)

        return await self.command(spec, context, messages)

    async def complete(self, spec: CommandSpec, argument: str | None, partial: str, context: CommandContext) -> object:
        """The ways to complete an argument of a command or a prompt: strings and ``Completion`` records, unchecked.

        Its ``@app.complete`` completes the first argument; the schema counts up what a Literal or an Enum may be.

        Args:
            spec: The command or the prompt.
            argument: The argument's name; None for the first one.
            partial: What was typed of it.
            context: What a completer is given.

        Raises:
            InvalidParams: What was typed does not fit the completer.
            InternalError: It raised.
        """
        completer = self._app.completers.get(spec.name)
        first = next(iter(spec.parameters.get("properties", ())), None)
        if completer is None or (argument is not None and argument != first):
            return choices(spec.parameters, argument, partial)
        typed = fitted(completer, partial, f"what was typed does not fit the completer of {spec.name!r}")
        return await self.observe(completer, typed, context)

    # -- resources -----------------------------------------------------------------------------------------------------

    async def resource(
        self, spec: ResourceSpec, arguments: dict[str, str], uri: str, raw: dict[str, Any], link: Link
    ) -> Contents:
        """Read a resource, within a slot.

        Args:
            spec: The resource.
            arguments: The texts of its variables, as ``sepkit.resources.find`` gives them.
            uri: The URI that is read.
            raw: The context of the call: its token and its tier.
            link: The connection that it came over.

        Returns:
            Its content; the type of it is known.

        Raises:
            InvalidParams: A variable does not fit its parameter.
            InternalError: It raised, or returned something else than content; Overloaded where too many calls wait.
        """
        from sepkit.resources import contents_of

        try:
            values = spec.bind(arguments)
        except InvalidData as error:
            raise does_not_fit(f"the URI does not fit the resource {spec.uri}", error) from None
        await self._take_slot(link)
        hold = Hold(self.slots)

        async def ask(method: str, params: dict[str, Any]) -> Any:
            return await hold.lend(link.ask(method, params))

        if spec.context is not None:
            values[spec.context] = ResourceContext[Any](link, raw, uri, ask)
        self.watch.wake()
        try:
            returned = await self._settled(await self._called(spec.fn, values, is_async=spec.is_async))
        except BaseException as error:
            if self._is_passed_on(error):
                raise
            raise self._failed(f"the resource {spec.uri}", error) from None
        finally:
            hold.end()
            self.slots.release()
        try:
            return contents_of(spec, uri, returned)
        except (TypeError, ValueError, EncodeError) as error:
            raise InternalError(f"the resource {spec.uri} cannot be sent: {error}") from None

    # -- providers -----------------------------------------------------------------------------------------------------

    async def provider(self, spec: ProviderSpec, request: object, context: ProviderContext, link: Link) -> object:
        """Have a provider answer ``request``, as its handler takes it; the folded result as plain JSON data.

        Raises:
            RpcError: What the provider told the host, or that it failed.
        """
        name = spec.observer.name
        await self._take_slot(link)
        self.watch.wake()
        stream: Any = None
        try:
            arguments = spec.observer.arguments(request, context)
            if spec.observer.is_async:
                stream = spec.fn(**arguments)
            else:
                stream = await self._settled(await self._called(spec.fn, arguments, is_async=False))
            async for event in stream:
                await context.delta(event)
            return context.folded()
        except BaseException as error:
            if self._is_passed_on(error):
                raise
            raise self._told(error, RpcError, f"the provider {name} failed") from None
        finally:
            try:
                # Its own `finally` runs now, not when the garbage is collected: it closes the upstream call.
                if (close := getattr(stream, "aclose", None)) is not None:
                    await close()
            finally:
                context.close()
                self.slots.release()

    async def oauth(self, spec: ObserverSpec, request: object, context: ProviderContext) -> dict[str, Any]:
        """Have an OAuth handler answer ``request``; the credentials as plain JSON data.

        Raises:
            RpcError: What the handler told the host, or that it failed.
        """
        # As in a completion, the host is told what the upstream said: that a login was denied is not a fault.
        returned = await self.observe(spec, request, context, crosses=RpcError)
        try:
            return checked_credentials(returned)
        except TypeError as error:
            raise self.unexpected(error, f"the OAuth handler {name_of(spec.fn)} failed") from None

    # -- what handlers share -------------------------------------------------------------------------------------------

    async def observe(
        self,
        spec: ObserverSpec,
        value: object,
        context: object,
        *,
        crosses: type[RpcError] | tuple[()] = (),
    ) -> object:
        """Call a handler of one value.

        Raises:
            InternalError: It raised; what it raised has been logged, and does not cross, unless it is a ``crosses``.
        """
        if self.watch.asleep:
            self.watch.wake()
        try:
            if spec.is_async:
                returned = await spec.call(value, context)
            else:
                returned = await self._threads.run(spec.fn, **spec.arguments(value, context))
            return returned if returned is None or not isawaitable(returned) else await self._settled(returned)
        except BaseException as error:
            if self._is_passed_on(error):
                raise
            raise self._told(error, crosses, f"the {spec.name} handler {name_of(spec.fn)} failed") from None

    async def plain(self, fn: Fn, arguments: dict[str, Any], is_async: bool) -> object:
        """Call a handler; what it raises is raised."""
        returned = await self._called(fn, arguments, is_async=is_async)
        return returned if returned is None or not isawaitable(returned) else await self._settled(returned)

    # What was raised holds the frames that it came through. One of them that held it, too, would be kept by it.

    def _is_passed_on(self, error: BaseException) -> bool:
        """Whether it is not a failure of the handler, but that the call was cancelled. A child that it forked ends."""
        end_if_child(self._process, error)
        return isinstance(error, asyncio.CancelledError) and is_cancelled(asyncio.current_task())

    def _told(self, error: BaseException, crosses: type[RpcError] | tuple[()], what: str) -> RpcError:
        """What the host is told of what a handler raised."""
        told, _ = split(error, crosses)
        return told[0] if told else self.unexpected(error, what)

    def _called(self, fn: Fn, arguments: dict[str, Any], *, is_async: bool) -> Awaitable[Any]:
        """Call a handler; what it returns is to be awaited, and then goes to ``_settled`` where it is awaitable."""
        work: Awaitable[Any] = fn(**arguments) if is_async else self._threads.run(fn, **arguments)
        return work

    async def _settled(self, returned: Any) -> object:
        """What a handler returns in the end, which returned an awaitable.

        A plain function that is called in a thread may be the decorator of a coroutine function, or a lambda around it.
        """
        while returned is not None and isawaitable(returned):
            returned = await returned
        return returned

    def unexpected(self, error: BaseException, what: str) -> InternalError:
        """The error that crosses for an unforeseen exception; with its text only under ``App(expose_errors=True)``."""
        internal = unexpected(error, what)
        if self._app.expose_errors:
            return InternalError(f"{internal.message}: {type(error).__name__}: {error}", data=internal.data)
        return internal


def split(error: BaseException, kind: type[E] | tuple[()]) -> tuple[list[E], BaseException | None]:
    """The exceptions of a ``kind`` in ``error``, which may be a group (of a TaskGroup); and what is left of it."""
    if not isinstance(error, BaseExceptionGroup):
        return ([error], None) if isinstance(error, kind) else ([], error)
    found, rest = error.split(kind)
    return [] if found is None else list(_leaves(found)), rest


def _leaves(group: BaseExceptionGroup[E]) -> Iterator[E]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def fitted(spec: ObserverSpec, value: object, what: str) -> Any:
    """The value that a handler takes, as it takes it.

    Raises:
        InvalidParams: It does not fit; the text begins with ``what``.
    """
    try:
        return spec.convert(value)
    except InvalidData as error:
        raise does_not_fit(what, error) from None


def does_not_fit(what: str, error: InvalidData) -> InvalidParams:
    """The error that tells the other side which faults its data has."""
    return InvalidParams(f"{what}: {error}", data=error.as_data())

"""MCP's requests about an App's handlers: each method, from its params to a call of ``serving``, and to its result.

A tool that fails in a way that the model can learn from gives a result with ``isError``; what is wrong with the request
itself is an ``RpcError``. The ``tool_call`` and ``tool_result`` hooks of an App run around its own tools.

Source: docs/mcp.md.
"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from typing import Any, Final

import orjson

from sepkit.contexts.contexts import CommandContext, HookContext, ToolContext
from sepkit.contexts.link import CURRENT_LINK
from sepkit.errors import InternalError, InvalidParams, RpcError
from sepkit.faces.mcp.asking import Questions, SuspendedCalls, bound
from sepkit.faces.mcp.beats import Beats
from sepkit.faces.mcp.catalogue import Catalogue, ServedPrompt, ServedTool, as_of
from sepkit.faces.mcp.link import CONTEXT, ConnectionLink, RequestLink
from sepkit.faces.mcp.protocol import (
    LOG_LEVEL,
    RESOURCE_NOT_FOUND,
    Client,
    level_of,
    may,
    meta_of,
    need,
    progress_token,
)
from sepkit.faces.mcp.resources import Resources
from sepkit.faces.mcp.results import Outcome, Shape, Shapes, command_outcome, failure, outcome, promised_outcome
from sepkit.handlers import CommandSpec
from sepkit.results import Block
from sepkit.serving.calls import Calls, Unsendable
from sepkit.serving.served import Served

_MOST_COMPLETIONS: Final = 100


class Requests:
    """The methods on one connection that are about handlers.

    Args:
        served: What the connection is to.
        link: The connection.
        catalogue: What is offered.
        shapes: How results look.
    """

    def __init__(self, served: Served, link: ConnectionLink, catalogue: Catalogue, shapes: Shapes) -> None:
        self._app = served.app
        self._calls: Calls = served.calls
        self._link = link
        self._catalogue = catalogue
        self._shapes = shapes
        self._numbers = 0
        self.resources = Resources(served)
        self.suspended = SuspendedCalls()
        self.beats = Beats(link)
        self.greeted = False
        """Whether the legacy client has said that its handshake has ended, and may be sent requests."""

    # -- lists ---------------------------------------------------------------------------------------------------------

    async def tools_list(self, params: dict[str, Any], client: Client) -> dict[str, Any]:
        """``tools/list``."""
        tools = [tool.listed for tool in self._catalogue.tools.values()]
        if "tool_result" in self._app.hooks:
            # A hook may change any result, and clients fail a call whose result does not fit what was promised.
            tools = [{name: value for name, value in tool.items() if name != "outputSchema"} for tool in tools]
        return self._list(params, client, "tools", tools)

    async def prompts_list(self, params: dict[str, Any], client: Client) -> dict[str, Any]:
        """``prompts/list``."""
        return self._list(params, client, "prompts", [prompt.listed for prompt in self._catalogue.prompts.values()])

    async def resources_list(self, params: dict[str, Any], client: Client) -> dict[str, Any]:
        """``resources/list``."""
        return self._list(params, client, "resources", self.resources.listed())

    async def templates_list(self, params: dict[str, Any], client: Client) -> dict[str, Any]:
        """``resources/templates/list``."""
        return self._list(params, client, "resourceTemplates", self.resources.templates())

    def _list(
        self, params: dict[str, Any], client: Client, member: str, listed: list[dict[str, Any]]
    ) -> dict[str, Any]:
        _check_cursor(params)
        return self._shapes.of(client).cacheable({member: [as_of(client.version, one) for one in listed]})

    # -- tools ---------------------------------------------------------------------------------------------------------

    async def tools_call(self, params: dict[str, Any], client: Client) -> object:
        """``tools/call``."""
        name = need(params, "name", str)
        arguments: dict[str, Any] = may(params, "arguments", dict) or {}
        tool = self._catalogue.tools.get(name)
        if tool is None:
            known = ", ".join(self._catalogue.tools) or "none"
            raise InvalidParams(f"there is no tool {name[:200]!r}; known: {known[:2000]}")
        shape = self._shapes.of(client)
        meta = meta_of(params)
        hooks = self._app.hooks
        is_simple = tool.is_simple and not ("tool_call" in hooks or "tool_result" in hooks)
        if is_simple and "progressToken" not in meta and "requestState" not in params:
            call = _parsed(arguments, tool.parsed) if tool.parsed else arguments
            spec: Any = tool.spec
            returned = shape.promised if tool.promises else shape.returned
            return await self._calls.tool(spec, call, None, self._link, returned, shape.failed)

        def work(link: RequestLink) -> Coroutine[Any, Any, dict[str, Any]]:
            return self._tool(tool, _parsed(arguments, tool.parsed), link, shape)

        return await self._carried("tools/call", name, params, client, work, may_ask=not is_simple)

    async def _tool(
        self, tool: ServedTool, arguments: dict[str, Any], link: RequestLink, shape: Shape
    ) -> dict[str, Any]:
        """A call, with the hooks around it."""
        spec = tool.spec
        if "tool_call" in self._app.hooks:
            before = await self._hook("tool_call", {"tool": spec.name, "arguments": arguments}, link)
            if isinstance(before, Outcome):
                return shape.tool(before)
            if before is not None:
                arguments = before["arguments"]
        if isinstance(spec, CommandSpec):
            found = await self._exposed(spec, arguments, link)
        else:
            context = None
            if spec.context is not None:
                self._numbers += 1
                context = ToolContext(link, CONTEXT, f"call-{self._numbers}", spec.name, self._calls.slots)
            returned = promised_outcome if tool.promises else outcome
            came_to = await self._calls.tool(spec, arguments, context, link, returned, failure)
            assert isinstance(came_to, Outcome)
            found = came_to
        if "tool_result" in self._app.hooks:
            after = await self._hook("tool_result", found.as_hook_input(spec.name, arguments), link)
            if isinstance(after, Outcome):
                found = after
            elif after is not None:
                found = found.changed(after)
        return shape.tool(found)

    async def _exposed(self, spec: CommandSpec, arguments: dict[str, Any], link: RequestLink) -> Outcome:
        """What a command comes to that is exposed as a tool."""
        try:
            found = await self._calls.command(
                spec, CommandContext(link, CONTEXT, spec.name, arguments), command_outcome
            )
        except RpcError as error:
            return failure(error.message, error.data)
        except Unsendable as error:
            return failure(f"The result of {spec.name} cannot be sent: {error}")
        assert isinstance(found, Outcome)
        return found

    async def _hook(self, name: str, value: dict[str, Any], link: RequestLink) -> dict[str, Any] | Outcome | None:
        """Ask the App's own hooks: the changed input, None, or what the call comes to instead.

        A hook that fails blocks: one that gates or redacts must not be passed by its failure.
        """
        tool = value["tool"]
        what = f"{tool} was not called" if name == "tool_call" else f"the result of {tool} is withheld"
        try:
            found = await self._calls.hook(name, value, HookContext(link, CONTEXT, name))
        except RpcError as error:
            return failure(f"{what}: {error.message}", error.data)
        if isinstance(found, Block):
            return failure(f"{what}: {found.reason or 'a hook has blocked it'}")
        return found

    # -- prompts -------------------------------------------------------------------------------------------------------

    async def prompts_get(self, params: dict[str, Any], client: Client) -> object:
        """``prompts/get``: runs the prompt; a command's content is a message of the user."""
        name = need(params, "name", str)
        arguments: dict[str, Any] = may(params, "arguments", dict) or {}
        for argument, value in arguments.items():
            if type(value) is not str:
                raise InvalidParams(f"arguments.{argument[:200]}: expected a string")
        prompt = self._prompt(name)
        shape = self._shapes.of(client)

        def work(link: RequestLink) -> Coroutine[Any, Any, dict[str, Any]]:
            return self._command(prompt, _parsed(arguments, prompt.parsed), link, shape)

        return await self._carried("prompts/get", name, params, client, work, may_ask=prompt.spec.context is not None)

    def _prompt(self, name: str) -> ServedPrompt:
        prompt = self._catalogue.prompts.get(name)
        if prompt is None:
            known = ", ".join(self._catalogue.prompts) or "none"
            raise InvalidParams(f"there is no prompt {name[:200]!r}; known: {known[:2000]}")
        return prompt

    async def _command(
        self, prompt: ServedPrompt, arguments: dict[str, Any], link: RequestLink, shape: Shape
    ) -> dict[str, Any]:
        spec = prompt.spec
        context = CommandContext(link, CONTEXT, spec.name, arguments)
        result: dict[str, Any] = {"messages": await self._calls.prompt(spec, context, shape.messages)}
        if spec.description:
            result["description"] = spec.description
        return shape.plain(result)

    async def complete(self, params: dict[str, Any], client: Client) -> dict[str, Any]:
        """``completion/complete``: of a prompt's argument, or of a variable of a resource's template."""
        ref, argument = need(params, "ref", dict), need(params, "argument", dict)
        name, typed = need(argument, "name", str, "argument."), need(argument, "value", str, "argument.")
        kind = need(ref, "type", str, "ref.")
        if kind == "ref/resource":
            uri = need(ref, "uri", str, "ref.")
            found = self.resources.completions(uri, name, typed)
            if found is None:
                raise self.no_resource(uri, client)
            return self._completed(found, client)
        if kind != "ref/prompt":
            raise InvalidParams("ref.type: expected ref/prompt or ref/resource")
        prompt = self._prompt(need(ref, "name", str, "ref."))
        known = prompt.arguments
        if known and name not in known:
            raise InvalidParams(f"argument.name: the prompt has no argument {name[:200]!r}; known: {', '.join(known)}")
        chosen: dict[str, Any] = may(may(params, "context", dict) or {}, "arguments", dict, "context.") or {}
        link = self._request_link(params, client)
        context = CommandContext(link, CONTEXT, prompt.spec.name, chosen)
        argument_name = name if known else None  # a command that names none has a completer at most
        return self._completed(
            _completions(await self._calls.complete(prompt.spec, argument_name, typed, context)), client
        )

    def _completed(self, values: list[str], client: Client) -> dict[str, Any]:
        completion: dict[str, Any] = {"values": values[:_MOST_COMPLETIONS], "total": len(values)}
        completion["hasMore"] = len(values) > _MOST_COMPLETIONS
        return self._shapes.of(client).plain({"completion": completion})

    # -- resources -----------------------------------------------------------------------------------------------------

    async def resources_read(self, params: dict[str, Any], client: Client) -> dict[str, Any]:
        """``resources/read``."""
        uri = need(params, "uri", str)

        async def work(link: RequestLink) -> dict[str, Any]:
            contents = await self.resources.read(uri, link)
            if contents is None:
                raise self.no_resource(uri, client)
            return self._shapes.of(client).cacheable({"contents": contents})

        may_ask = self.resources.takes_context(uri)
        return await self._carried("resources/read", uri, params, client, work, may_ask=may_ask)

    def no_resource(self, uri: str, client: Client) -> RpcError:
        """The error that a resource is answered with which is not there."""
        message, data = f"there is no resource {uri[:200]!r}", {"uri": uri}
        if client.is_modern:
            return InvalidParams(message, data=data)
        return RpcError(message, data=data, code=RESOURCE_NOT_FOUND)

    # -- calls that may ask --------------------------------------------------------------------------------------------

    async def _carried(
        self, method: str, name: str, params: dict[str, Any], client: Client, work: Any, *, may_ask: bool
    ) -> dict[str, Any]:
        """Run a call that may tell or ask: at once, or in a task that is suspended where a modern client is asked."""
        state = may(params, "requestState", str) if client.is_modern else None
        given: dict[str, Any] = (may(params, "inputResponses", dict) if client.is_modern else None) or {}
        if not (client.is_modern and (client.shows_forms or client.opens_pages) and may_ask):
            if state is not None:
                raise InvalidParams("requestState: this call has asked nothing; call again without it")
            link = self._request_link(params, client)
            if link.log_level is not None:  # else log lines have no request to ask
                CURRENT_LINK.set(link)
            self.beats.add(link)
            try:
                result: dict[str, Any] = await work(link)
                return result
            finally:
                self._answered(link)
        principal = self._link.principal
        owner = None if principal is None else principal.id
        call = bound(method, name, may(params, "arguments", dict) or {}, owner)
        asked = self._shapes.of(client).input_required
        if state is not None:
            return await self.suspended.go_on(state, given, self._request_link(params, client), call, asked)
        questions = Questions(dict(given))
        link = self._request_link(params, client, questions)

        def move(request: RequestLink | None) -> None:
            self.beats.remove(link)
            link.move(request)
            self.beats.add(link)

        self.beats.add(link)
        return await self.suspended.begin(self._to_the_end(work, link), questions, move, call, asked)

    async def _to_the_end(self, work: Any, link: RequestLink) -> dict[str, Any]:
        CURRENT_LINK.set(link)
        try:
            result: dict[str, Any] = await work(link)
            return result
        finally:
            self._answered(link)

    def _answered(self, link: RequestLink) -> None:
        self.beats.remove(link)
        link.close()

    def _request_link(self, params: dict[str, Any], client: Client, questions: Questions | None = None) -> RequestLink:
        meta = meta_of(params)
        level = None
        if client.is_modern:
            level = None if meta.get(LOG_LEVEL) is None else level_of(meta[LOG_LEVEL], f"_meta.{LOG_LEVEL}")
            if level is not None:
                self._link.want(level)
        return RequestLink(self._link, client, progress_token(meta), level, questions, greeted=self.greeted)


def _check_cursor(params: dict[str, Any]) -> None:
    if params.get("cursor") is not None:
        raise InvalidParams("cursor: unknown; the list is in one piece, ask for it without a cursor")


def _parsed(arguments: dict[str, Any], kinds: Mapping[str, tuple[type, ...]]) -> dict[str, Any]:
    """``arguments``, with those parsed that are the JSON text of an array or an object."""
    made = arguments
    for name, wanted in kinds.items():
        value = arguments.get(name)
        if type(value) is str:
            try:
                found = orjson.loads(value)
            except orjson.JSONDecodeError:
                continue
            if type(found) in wanted:
                if made is arguments:
                    made = dict(arguments)
                made[name] = found
    return made


def _completions(values: object) -> list[str]:
    if values is None:
        return []
    if isinstance(values, str | bytes) or not hasattr(values, "__iter__"):
        raise InternalError("a completion handler returns a list of strings or Completions")
    return [str(getattr(one, "value", one)) for one in values]

"""From the events of a model's stream to what the host is told of them, and to the final result: a pure fold.

Providers pass on what their upstreams send, in pieces and under numbers of the upstream's own. Hosts take less: usage
is complete or absent, and tool calls are numbered from 0 in the order in which they first appear, so that the stream
and the result name the same calls.

Source: docs/protocol.md, sections 3 (``provider/complete``), 4 (``provider/delta``) and 9.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from sepkit.errors import EncodeError, InvalidData
from sepkit.wire import messages
from sepkit.wire.converter import structure
from sepkit.wire.writing import to_json, unstructure, unstructure_event


class StreamFold:
    """Takes stream events in their order, and tells what they come to."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, _ToolCall] = {}  # by the provider's index, in the order of their first appearance
        self._counted: dict[str, Any] = {}
        self._model: str | None = None
        self._finish: str | None = None

    def add(self, event: object) -> dict[str, Any] | None:
        """Take one event.

        Returns:
            The ``event`` of ``provider/delta`` that tells the host of it; None where there is nothing to tell yet.

        Raises:
            TypeError: It is not a stream event, or a field of it has a wrong type.
        """
        event = _checked(event)
        match event:
            case messages.Delta():
                self._text.append(event.content)
            case messages.Reasoning():
                self._reasoning.append(event.content)
            case messages.ToolCallStart():
                # Some upstreams repeat the start with the first chunk; a later name or id completes an earlier one.
                event = self._call(event.index).started(event)
            case messages.ToolCallArgumentsDelta():
                call = self._call(event.index)
                call.chunks.append(event.arguments_chunk)
                event = messages.ToolCallArgumentsDelta(call.position, event.arguments_chunk)
            case messages.Usage():
                self._counted.update(unstructure(event))
                usage = complete_usage(self._counted)
                return None if usage is None else {**usage, "type": "Usage"}
            case messages.ModelUsed():
                self._model = event.name
            case messages.Done():
                self._finish = event.finish_reason
        return unstructure_event(event)

    def _call(self, index: int) -> _ToolCall:
        call = self._calls.get(index)
        if call is None:
            call = self._calls[index] = _ToolCall(len(self._calls))
        return call

    def result(self) -> dict[str, Any]:
        """The result of ``provider/complete``."""
        calls = [call.result(cut=self._finish == "length") for call in self._calls.values()]
        result: dict[str, Any] = {
            "content": "".join(self._text),
            "tool_calls": calls,
            "finish_reason": self._finish or ("tool_calls" if calls else "stop"),
        }
        usage = complete_usage(self._counted)
        if usage is not None:
            result["usage"] = usage
        if self._reasoning:
            result["reasoning_content"] = "".join(self._reasoning)
        if self._model is not None:
            result["resolved_model"] = self._model
        return result


def complete_usage(counted: Mapping[str, Any]) -> dict[str, Any] | None:
    """Usage with all of ``prompt_tokens``, ``completion_tokens`` and ``total_tokens``; None where they are not known.

    Of the three one may be missing, since it follows from the others. A total is at least the sum: it may be from an
    earlier piece than the counts.
    """
    prompt, completion, total = (counted.get(f"{name}_tokens") for name in ("prompt", "completion", "total"))
    if prompt is None and completion is not None and total is not None:
        prompt = max(total - completion, 0)
    if completion is None and prompt is not None and total is not None:
        completion = max(total - prompt, 0)
    if prompt is None or completion is None:
        return None
    total = max(prompt + completion, total or 0)
    return {**counted, "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total}


def _checked(event: object) -> messages.StreamEvent:
    """The event as a host will read it."""
    if not isinstance(event, messages.StreamEvent):
        raise TypeError(
            "a provider yields Delta, Reasoning, ToolCallStart, ToolCallArgumentsDelta, Usage, ModelUsed, Done, Cost "
            f"or ResponseId, not {type(event).__name__}"
        )
    try:
        made: messages.StreamEvent = structure(to_json(unstructure_event(event)), messages.StreamEvent)
    except (InvalidData, EncodeError) as error:
        raise TypeError(f"a {type(event).__name__} that cannot be sent: {error}") from None
    return made


class _ToolCall:
    def __init__(self, position: int) -> None:
        self.position = position
        self.id = ""
        self.name = ""
        self.extra_content: dict[str, Any] | None = None
        self.chunks: list[str] = []

    def started(self, start: messages.ToolCallStart) -> messages.ToolCallStart:
        """Take a start; all that is known of the call by now."""
        self.id = start.id or self.id
        self.name = start.name or self.name
        self.extra_content = start.extra_content or self.extra_content
        return messages.ToolCallStart(self.position, self.id, self.name, self.extra_content)

    def result(self, *, cut: bool) -> dict[str, Any]:
        text = "".join(self.chunks)
        try:
            # A call that was cut before its arguments began must not be made without them.
            arguments = to_json(orjson.loads(text)) if cut or text.strip() else {}
        except (orjson.JSONDecodeError, EncodeError):
            # The host tells the model, as it does with any arguments that do not fit the tool. All else is kept.
            arguments = text
        return {"id": self.id, "name": self.name, "arguments": arguments}

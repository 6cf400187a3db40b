"""From the events of a model's stream to its final result: a pure fold.

Source: docs/protocol.md, sections 3 (``provider/complete``) and 4 (``provider/delta``).
"""

from __future__ import annotations

from typing import Any

import orjson

from sepkit.errors import EncodeError
from sepkit.wire import messages
from sepkit.wire.writing import unstructure


class StreamFold:
    """Takes stream events in their order, and tells what they come to."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, _ToolCall] = {}
        self._usage: dict[str, Any] = {}
        self._model: str | None = None
        self._finish: str | None = None

    def add(self, event: object) -> None:
        """Take one event.

        Raises:
            TypeError: It is no stream event.
        """
        match event:
            case messages.Delta():
                self._text.append(event.content)
            case messages.Reasoning():
                self._reasoning.append(event.content)
            case messages.ToolCallStart():
                # Some upstreams repeat the start with the first chunk; a later name or id completes an earlier one.
                call = self._calls.setdefault(event.index, _ToolCall())
                call.id = event.id or call.id
                call.name = event.name or call.name
            case messages.ToolCallArgumentsDelta():
                self._calls.setdefault(event.index, _ToolCall()).chunks.append(event.arguments_chunk)
            case messages.Usage():
                self._usage.update({k: v for k, v in unstructure(event).items() if k != "type"})
            case messages.ModelUsed():
                self._model = event.name
            case messages.Done():
                self._finish = event.finish_reason
            case _:
                raise TypeError(
                    "a provider yields Delta, Reasoning, ToolCallStart, ToolCallArgumentsDelta, Usage, ModelUsed or "
                    f"Done, not {type(event).__name__}"
                )

    def result(self) -> dict[str, Any]:
        """The result of ``provider/complete``.

        Raises:
            EncodeError: A tool call's arguments, put together, are no JSON.
        """
        calls = [call.result(index, self._finish) for index, call in sorted(self._calls.items())]
        result: dict[str, Any] = {
            "content": "".join(self._text),
            "tool_calls": calls,
            "finish_reason": self._finish or ("tool_calls" if calls else "stop"),
            "usage": self._usage,
        }
        if self._reasoning:
            result["reasoning_content"] = "".join(self._reasoning)
        if self._model is not None:
            result["resolved_model"] = self._model
        return result


class _ToolCall:
    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.chunks: list[str] = []

    def result(self, index: int, finish: str | None) -> dict[str, Any]:
        text = "".join(self.chunks)
        try:
            arguments = orjson.loads(text) if text.strip() else {}
        except orjson.JSONDecodeError as error:
            why = f"the chunks make no JSON: {error}" + (f"; finish_reason {finish!r}" if finish else "")
            raise EncodeError(f"$.tool_calls[{index}].arguments", why) from None
        return {"id": self.id, "name": self.name, "arguments": arguments}

"""What the host asks → the body of ``POST /chat/completions``: only what the API knows, and what this server takes.

Source: docs/protocol.md, sections 3 (``provider/complete``) and 9 (the messages).
"""

from __future__ import annotations

import re
from typing import Any, Final

import attrs
import orjson

from gateway.failures import as_object
from gateway.memory import Memory
from sepkit import ProviderRequest

# Beside the role and the tool calls.
_MESSAGE: Final[dict[str, tuple[str, ...]]] = {
    "assistant": ("content", "name", "refusal", "audio", "function_call"),
    "tool": ("content", "tool_call_id"),
}
_ANY_MESSAGE: Final = ("content", "name")
_FUNCTION: Final = ("name", "description", "parameters", "strict")
# What a host that keeps all of a tool call may give back with it.
_VENDORS: Final = ("extra_content", "provider_specific_fields")

# What is asked of each server, although not each takes it; and the words with which one refuses it.
OPTIONAL: Final[dict[str, re.Pattern[str]]] = {
    "stream_options": re.compile(r"stream_?\s?options|include_usage", re.IGNORECASE),
    "reasoning_effort": re.compile(r"reasoning(?!_content)|thinking", re.IGNORECASE),
}
_NOT_TAKEN: Final = re.compile(
    r"unknown|unrecogni[sz]ed|unsupported|not support|unexpected|not permitted|not allowed|additional propert|extra "
    r"|invalid (param|arg|field|request)",
    re.IGNORECASE,
)


@attrs.frozen
class Habits:
    """What a model's server was found to take."""

    left_out: frozenset[str] = frozenset()
    """What is not sent."""
    reasoning: bool = False
    """Whether it wants back what its model thought."""

    def after(self, status: int, text: str, body: dict[str, Any]) -> Habits:
        """The habits to try after a refusal; the same where it is about something else.

        Args:
            status: Of the refusal.
            text: All that it says.
            body: What was refused.
        """
        if status in (401, 403, 407, 429):
            return self
        if "reasoning_content" in text and not self.reasoning:
            return attrs.evolve(self, reasoning=True)
        sent = [name for name in OPTIONAL if name in body]
        refused = [name for name in sent if OPTIONAL[name].search(text)]
        if not refused and status in (400, 422) and (not text.strip() or _NOT_TAKEN.search(text)):
            refused = sent
        return attrs.evolve(self, left_out=self.left_out.union(refused))


def chat_request(request: ProviderRequest, habits: Habits, memory: Memory) -> dict[str, Any]:
    """The body of ``POST /chat/completions``. It always asks for a stream: the host's result is folded from it."""
    body: dict[str, Any] = {
        "model": request.model,
        "messages": _chat_messages(request.messages, habits, memory),
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if request.tools:
        body["tools"] = [_chat_tool(tool) for tool in request.tools]
    if request.response_format is not None:
        body["response_format"] = request.response_format
    if request.thinking and request.thinking != "off":
        body["reasoning_effort"] = request.thinking
    return {name: value for name, value in body.items() if name not in habits.left_out}


def _chat_messages(messages: list[dict[str, Any]], habits: Habits, memory: Memory) -> list[dict[str, Any]]:
    written: list[dict[str, Any]] = []
    shown: list[dict[str, Any]] = []  # images of messages that cannot have any; a user's message behind them can
    for message in messages:
        # The answers to tool calls stand right behind the calls, with nothing between.
        if shown and message.get("role") != "tool":
            written.append({"role": "user", "content": shown})
            shown = []
        images = _image_parts(message.get("images"))
        if images and message.get("role") != "user":
            shown += [{"type": "text", "text": f"Images of {_whose(message)}:"}, *images]
            images = []
        written.append(_chat_message(message, images, habits, memory))
    if shown:
        written.append({"role": "user", "content": shown})
    return written


def _chat_message(
    message: dict[str, Any], images: list[dict[str, Any]], habits: Habits, memory: Memory
) -> dict[str, Any]:
    role = message.get("role")
    known = _MESSAGE.get(role, _ANY_MESSAGE) if isinstance(role, str) else _ANY_MESSAGE
    written = {"role": role, **{name: message[name] for name in known if message.get(name) is not None}}
    calls = message.get("tool_calls")
    if role == "assistant" and isinstance(calls, list) and calls:  # an empty list is refused
        written.setdefault("content", None)
        written["tool_calls"] = [_chat_tool_call(call, memory) if isinstance(call, dict) else call for call in calls]
    if role == "assistant" and habits.reasoning and isinstance(message.get("reasoning_content"), str):
        written["reasoning_content"] = message["reasoning_content"]
    written.setdefault("content", "")
    if images:
        written["content"] = [*_text_parts(written["content"]), *images]
    return written


def _text_parts(content: object) -> list[Any]:
    if isinstance(content, list):
        return content
    return [{"type": "text", "text": content}] if content else []


def _image_parts(images: object) -> list[dict[str, Any]]:
    parts = []
    for image in images if isinstance(images, list) else []:
        url, detail = as_object(image).get("url"), as_object(image).get("detail")
        if isinstance(url, str) and url:
            parts.append({"type": "image_url", "image_url": {"url": url, **({"detail": detail} if detail else {})}})
    return parts


def _whose(message: dict[str, Any]) -> str:
    name = message.get("tool_name")
    return f"the tool {name}" if isinstance(name, str) and name else f"the {message.get('role')} message"


def _chat_tool_call(call: dict[str, Any], memory: Memory) -> dict[str, Any]:
    function = as_object(call.get("function")) or call  # SEP's own form: {id, name, arguments}, the last as parsed JSON
    call_id, name, arguments = call.get("id") or "", function.get("name") or "", function.get("arguments", {})
    text = _as_json_text(arguments)
    kept = memory.fields(call_id, name, orjson.loads(text))
    vendors = {field: call[field] for field in _VENDORS if call.get(field) is not None}
    inner = {"name": name, "arguments": text, **kept.pop("function", {})}
    return {"id": call_id, "type": "function", "function": inner, **kept, **vendors}


def _as_json_text(arguments: object) -> str:
    if isinstance(arguments, str):
        try:
            orjson.loads(arguments)
        except orjson.JSONDecodeError:
            pass
        else:
            return arguments
    return orjson.dumps(arguments).decode()


def _chat_tool(tool: dict[str, Any]) -> dict[str, Any]:
    function = as_object(tool.get("function")) or tool
    return {
        "type": "function",
        "function": {name: function[name] for name in _FUNCTION if function.get(name) is not None},
    }

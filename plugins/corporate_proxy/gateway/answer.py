"""The chunks of one completion → stream events, however the server writes them.

Pure: no bytes and no connection here. What is said of usage is found in ``usage.py``.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any, Final

import orjson

from gateway.events import parsed
from gateway.failures import as_object, bad_answer, failure, is_failed
from gateway.memory import Memory
from gateway.usage import Counts
from sepkit import Delta, Done, ModelUsed, Reasoning, ResponseId, StreamEvent, ToolCallArgumentsDelta, ToolCallStart

_THOUGHTS: Final = ("reasoning_content", "reasoning")  # it has no one name


class Answer:
    """Makes stream events of the chunks of one completion, and knows whether it has come to its end.

    Args:
        memory: Keeps what the upstream wants back with its tool calls.
    """

    def __init__(self, memory: Memory | None = None) -> None:
        self.over = False
        self.received = 0  # characters of text, reasoning and arguments
        self._memory = Memory() if memory is None else memory
        self._model = ""
        self._id = ""
        self._finish = ""
        self._text, self._thought = Pieces(), Pieces()
        self._calls = _Calls()
        self._counts = Counts()

    def take(self, chunk: dict[str, Any]) -> Iterator[StreamEvent]:
        """The events of a chunk.

        Raises:
            RpcError: It says in a way that cannot be read where a part of it belongs.
        """
        model, upstream_id = chunk.get("model"), chunk.get("id")
        if isinstance(model, str) and model and not self._model:
            self._model = whole(model)
            yield ModelUsed(self._model)
        if isinstance(upstream_id, str) and upstream_id and not self._id:
            self._id = whole(upstream_id)
            yield ResponseId(self._id)
        for choice in choices(chunk):
            if _index(choice, "choice"):  # only one was asked for
                continue
            delta = choice.get("delta")
            # Beside a delta, even an empty one, the message is what has been told already.
            yield from self._counted(
                self._take_delta(delta if isinstance(delta, dict) else as_object(choice.get("message")))
            )
            finish = choice.get("finish_reason")
            if isinstance(finish, str) and finish:
                self._finish, self.over = whole(finish), True
        yield from self._counts.take(chunk)

    def _counted(self, events: Iterator[StreamEvent]) -> Iterator[StreamEvent]:
        for event in events:
            self.received += len(_text_of(event))
            yield event

    def _take_delta(self, delta: dict[str, Any]) -> Iterator[StreamEvent]:
        content = delta.get("content")
        thoughts = (delta[name] for name in _THOUGHTS if isinstance(delta.get(name), str) and delta[name])
        if thought := self._thought.take(next(thoughts, None) or _thinking(content)):
            yield Reasoning(thought)
        for said in (_plain(content), _plain(delta.get("refusal"))):
            if text := self._text.take(said):
                yield Delta(text)
        calls = delta.get("tool_calls")
        if isinstance(calls, list):
            yield from self._calls.take([as_object(call) for call in calls])
        elif legacy := as_object(delta.get("function_call")):  # one call, before there were several
            yield from self._calls.take([{"index": 0, "function": legacy}])

    def end(self) -> Iterator[StreamEvent]:
        """The last events.

        Raises:
            RpcError: The answer was cut off, or its reason says that it failed.
        """
        if not self.over:
            raise failure(
                "cut",
                "the upstream closed the stream before the answer was complete; ask again",
                retryable=True,
                received=self.received,
            )
        if is_failed(self._finish):
            raise failure(
                "upstream_failed",
                f"the upstream ended its answer before it was complete ({self._finish}); ask again",
                retryable=True,
                received=self.received,
                finish_reason=self._finish,
            )
        yield from self._counted(self._last_pieces())
        self._calls.remember(self._memory)
        finish = "tool_calls" if self._finish == "function_call" else self._finish
        yield Done(finish or ("tool_calls" if self._calls else "stop"))

    def _last_pieces(self) -> Iterator[StreamEvent]:
        if thought := self._thought.end():
            yield Reasoning(thought)
        if text := self._text.end():
            yield Delta(text)
        yield from self._calls.end()


class _Calls:
    """The tool calls of an answer, in the order of their first appearance.

    Upstreams differ: some leave out the index or give 0 to each, some leave out the id or give the same to each, some
    repeat id and name with each piece, some send the name in pieces, some send the arguments as an object.
    """

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._latest: dict[int | None, _Call] = {}  # by the upstream's index

    def __len__(self) -> int:
        return len(self._calls)

    def take(self, pieces: list[dict[str, Any]]) -> Iterator[StreamEvent]:
        """The events of the pieces of one chunk."""
        listed: list[_Call] = []
        for position, piece in enumerate(pieces):
            index, upstream_id = _index(piece, "tool call"), piece.get("id")
            if index is None and len(pieces) > 1:
                index = position  # one piece for each call
            function = as_object(piece.get("function"))
            name = function.get("name")
            name = whole(name) if isinstance(name, str) else ""
            text = function.get("arguments")
            says = bool(text.strip()) if isinstance(text, str) else bool(text)
            call = self._find(index, upstream_id if isinstance(upstream_id, str) else "", name, says, listed)
            listed.append(call)
            yield from self._take_piece(call, name, piece, function)

    def _take_piece(
        self, call: _Call, name: str, piece: dict[str, Any], function: dict[str, Any]
    ) -> Iterator[StreamEvent]:
        was_known, was_named = call.name, bool(call.name)
        if name and name != call.name:
            call.name += name
        if call.keep_vendors_fields(piece, function) or call.name != was_known:
            # Where it has no name yet, that is told with the name.
            if call.name:
                yield self._start(call)
            if call.name and not was_named and call.text:
                yield ToolCallArgumentsDelta(call.position, call.text)
        arguments = function.get("arguments")
        if isinstance(arguments, dict) and not arguments:
            return  # what some begin with, before the arguments come as text; none at all means the same
        if arguments is not None and not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        if text := call.pieces.take(arguments):
            call.text += text
            if call.name:
                yield ToolCallArgumentsDelta(call.position, text)

    def _start(self, call: _Call) -> ToolCallStart:
        if not call.id:
            # A tool's result needs an id to belong to.
            taken = any(other.id == call.upstream_id for other in self._calls)
            call.id = call.upstream_id if call.upstream_id and not taken else f"call_{uuid.uuid4().hex}"
        return ToolCallStart(call.position, call.id, call.name, _sendable(call.vendors.get("extra_content")))

    def _find(self, index: int | None, upstream_id: str, name: str, says: bool, listed: list[_Call]) -> _Call:
        """The call that a piece belongs to; a new one where it is of none so far.

        Args:
            index: What the upstream says of it, as are ``upstream_id`` and ``name``.
            upstream_id: "" where it has none.
            name: "" where it has none.
            says: Whether the piece has a part of the arguments.
            listed: The calls of the pieces before it in the same chunk.
        """
        same = [call for call in self._calls if upstream_id and call.upstream_id == upstream_id]
        # Some give one id to all; then the index tells them apart, or the name.
        same.sort(key=lambda call: call.index != index)
        for call in same:
            is_meant = call.index == index or not name or index is None
            if is_meant and not (name and call.text and name != call.name):
                self._latest[index] = call
                return call
        latest = self._latest.get(index)
        if latest is None and index is None and not name and self._calls:
            latest = self._calls[-1]  # nothing but a piece of text: it goes on
        if latest is not None and self._goes_on(latest, index, upstream_id, name, says, listed):
            latest.upstream_id = latest.upstream_id or upstream_id
            return latest
        call = self._latest[index] = _Call(len(self._calls), index, upstream_id)
        self._calls.append(call)
        return call

    def _goes_on(
        self, latest: _Call, index: int | None, upstream_id: str, name: str, says: bool, listed: list[_Call]
    ) -> bool:
        """Whether a piece without a known id is of the latest call under its index."""
        if upstream_id and (latest.upstream_id or (latest.name and name)):
            return False
        if not name or not latest.name:
            return True
        if latest in listed:
            return False
        if name == latest.name:
            return not (says and latest.is_complete())  # a start that is repeated, or the same tool once more
        # A name in pieces, or another tool under the same index.
        return index is not None and not latest.text

    def end(self) -> Iterator[StreamEvent]:
        """What is still to be told of the calls."""
        for call in self._calls:
            rest = call.pieces.end()
            call.text += rest
            if call.name:
                if rest:
                    yield ToolCallArgumentsDelta(call.position, rest)
            elif call.text or call.upstream_id:
                # The host tells the model that there is no such tool.
                yield self._start(call)
                if call.text:
                    yield ToolCallArgumentsDelta(call.position, call.text)

    def remember(self, memory: Memory) -> None:
        """Keep what the upstream wants back."""
        for call in self._calls:
            if call.vendors:
                try:
                    arguments = parsed(call.text.encode()) if call.text.strip() else {}
                except ValueError:
                    arguments = call.text
                memory.keep(call.id, call.name, arguments, call.vendors)


class _Call:
    def __init__(self, position: int, index: int | None, upstream_id: str) -> None:
        self.position = position
        self.index = index
        self.upstream_id = whole(upstream_id)
        self.id = ""  # the one that the host is told
        self.name = ""
        self.pieces = Pieces()
        self.text = ""
        self.vendors: dict[str, Any] = {}

    def is_complete(self) -> bool:
        """Whether its arguments are a whole object, so that what comes now is of another call."""
        if not self.text.rstrip().endswith("}"):
            return False
        try:
            return isinstance(orjson.loads(self.text), dict)
        except orjson.JSONDecodeError:
            return False

    def keep_vendors_fields(self, piece: dict[str, Any], function: dict[str, Any]) -> bool:
        """Keep the fields that the API does not know; whether the host is told of a new one."""
        known = self.vendors.get("extra_content")
        known_fields = ("index", "id", "type", "function")
        self.vendors |= {name: v for name, v in piece.items() if name not in known_fields and v is not None}
        inner = {name: v for name, v in function.items() if name not in ("name", "arguments") and v is not None}
        if inner:
            self.vendors["function"] = {**self.vendors.get("function", {}), **inner}
        return bool(self.vendors.get("extra_content") != known)


class Pieces:
    """Text that comes in pieces. A piece may end within a character: half an emoji waits for its other half."""

    def __init__(self) -> None:
        self._held = ""

    def take(self, piece: object) -> str:
        """What can be told of the text by now."""
        if not isinstance(piece, str) or not piece:
            return ""
        if self._held or not piece.isascii():
            piece, self._held = self._held + piece, ""
            if "\ud800" <= piece[-1] <= "\udbff":
                piece, self._held = piece[:-1], piece[-1]
        return whole(piece)

    def end(self) -> str:
        """The half that was left alone, as the character that stands for one that is missing."""
        held, self._held = self._held, ""
        return whole(held)


def whole(text: str) -> str:
    """Text that can be sent: halves of characters are put together, and are U+FFFD where there is only one."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def choices(chunk: dict[str, Any]) -> list[dict[str, Any]]:
    """The choices of a chunk; none where it has none that can be read."""
    found = chunk.get("choices")
    return [as_object(choice) for choice in found] if isinstance(found, list) else []


def _index(part: dict[str, Any], what: str) -> int | None:
    """Where a part of the answer belongs; None where it does not say.

    Raises:
        RpcError: It says so in a way that cannot be read, and a guess might put it into another one.
    """
    index = part.get("index")
    if index is None or type(index) is int:
        return index
    raise bad_answer(f"the index of a {what} is no integer")


def _sendable(extra: object) -> dict[str, Any] | None:
    """An object of a vendor's that a frame can hold; None where it cannot, or is not one."""
    if not isinstance(extra, dict) or not _is_flat(extra, 50):
        return None
    try:
        written = orjson.dumps(extra)
    except orjson.JSONEncodeError:  # half a character, or an integer of more than 64 bits
        return None
    made: dict[str, Any] = orjson.loads(written)  # NaN is null by now
    return made


def _is_flat(value: object, levels: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(_is_flat(one, levels - 1) for one in inner)


def _plain(content: object) -> str:
    """Text, which some send as a list of parts."""
    if isinstance(content, list):
        texts = [as_object(part).get("text") for part in content]
        return "".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def _thinking(content: object) -> str:
    """The thoughts among the parts of a text: ``{"type": "thinking", "thinking": [{"type": "text", "text"}]}``."""
    parts = content if isinstance(content, list) else []
    return "".join(_plain(as_object(part).get("thinking")) for part in parts)


def _text_of(event: StreamEvent) -> str:
    match event:
        case Delta() | Reasoning():
            return event.content
        case ToolCallArgumentsDelta():
            return event.arguments_chunk
        case _:
            return ""

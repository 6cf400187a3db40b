"""The fold of a model's stream, as a pure function: how an upstream cuts and mixes its pieces changes nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sepkit import Delta, Done, ModelUsed, Reasoning, ToolCallArgumentsDelta, ToolCallStart, Usage
from sepkit.contexts.streams import StreamFold
from sepkit.wire import messages
from sepkit.wire.converter import structure
from sepkit.wire.messages import StreamEvent
from sepkit.wire.shapes import tag_of
from sepkit.wire.writing import unstructure

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=8,
)


def folded(events: list[StreamEvent]) -> dict[str, Any]:
    fold = StreamFold()
    for event in events:
        fold.add(event)
    return fold.result()


def pieces(data: st.DataObject, text: str) -> list[str]:
    """The text, cut somewhere; there may be empty pieces."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=4)))
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def interleaved(data: st.DataObject, lanes: list[list[StreamEvent]]) -> list[StreamEvent]:
    """The events of all lanes, each lane in its order."""
    left = [list(lane) for lane in lanes if lane]
    mixed = []
    while left:
        lane = data.draw(st.sampled_from(left))
        mixed.append(lane.pop(0))
        left = [one for one in left if one]
    return mixed


@given(st.data())
def test_any_interleaving_of_the_pieces_of_an_answer_comes_to_the_same_result(data: st.DataObject) -> None:
    """Text, reasoning, and the calls by their index each keep their order. Source: docs/protocol.md, section 4."""
    text, thought = data.draw(_TEXT), data.draw(_TEXT)
    calls = data.draw(st.dictionaries(st.integers(0, 9), st.tuples(_TEXT, _TEXT, _JSON), max_size=4))
    lanes: list[list[StreamEvent]] = [
        [Delta(piece) for piece in pieces(data, text)],
        [Reasoning(piece) for piece in pieces(data, thought)],
    ]
    for index, (upstream_id, name, arguments) in calls.items():
        # Written as text with and without escapes, which may be cut anywhere.
        written = json.dumps(arguments, ensure_ascii=data.draw(st.booleans()))
        lane: list[StreamEvent] = [ToolCallArgumentsDelta(index, piece) for piece in pieces(data, written)]
        lane.insert(data.draw(st.integers(0, len(lane))), ToolCallStart(index, upstream_id, name))
        lanes.append(lane)
    mixed = interleaved(data, lanes)
    order = dict.fromkeys(event.index for event in mixed if isinstance(event, ToolCallStart | ToolCallArgumentsDelta))
    result = folded(mixed)
    assert result == {
        "content": text,
        "reasoning_content": thought,
        "tool_calls": [
            {"id": upstream_id, "name": name, "arguments": arguments}
            for upstream_id, name, arguments in (calls[index] for index in order)
        ],
        "finish_reason": "tool_calls" if calls else "stop",
    }


@given(st.data())
def test_usage_in_pieces_is_the_last_word_on_each_count(data: st.DataObject) -> None:
    """Docs, providers: it may come in pieces; a piece says nothing of what it leaves out."""
    names = ["prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens"]
    said = data.draw(st.lists(st.dictionaries(st.sampled_from([*names, "cost"]), st.integers(0, 99)), max_size=5))
    events: list[StreamEvent] = [
        Usage(
            **{name: count for name, count in piece.items() if name in names},
            extra={name: count for name, count in piece.items() if name not in names},
        )
        for piece in said
    ]
    expected: dict[str, int] = {}
    for piece in said:
        expected.update(piece)
    usage = folded(events).get("usage")
    counts = [expected.get(name) for name in names[:3]]
    assert (usage is None) == (counts.count(None) > 1 or counts[:2] == [None, None])
    if usage is not None:
        told = {name: usage[name] for name in expected if name != "total_tokens"}
        assert told == {name: count for name, count in expected.items() if name != "total_tokens"}
        assert usage["total_tokens"] >= max(expected.get("total_tokens", 0), usage["prompt_tokens"])


@given(st.lists(st.sampled_from([("", ""), ("c", ""), ("", "look"), ("c", "look")]), min_size=1, max_size=6))
def test_starts_that_are_repeated_or_come_in_parts_are_one_call(starts: list[tuple[str, str]]) -> None:
    """Some upstreams repeat the start with each piece; an empty id or name takes nothing back."""
    events: list[StreamEvent] = [ToolCallStart(0, upstream_id, name) for upstream_id, name in starts]
    (call,) = folded(events)["tool_calls"]
    assert call == {
        "id": "c" if any(upstream_id for upstream_id, _ in starts) else "",
        "name": "look" if any(name for _, name in starts) else "",
        "arguments": {},
    }


@pytest.mark.parametrize(
    ("done", "reason"),
    [([], "tool_calls"), ([Done("")], "tool_calls"), ([Done("length")], "length"), ([Done("stop")], "stop")],
    ids=["none", "empty", "length", "stop"],
)
def test_a_reason_that_the_upstream_gave_stands_and_a_missing_one_is_made(done: list[Done], reason: str) -> None:
    """Docs, providers: without a ``Done`` the reason is ``tool_calls`` where there are any, else ``stop``."""
    assert folded([ToolCallStart(0, "c", "look"), *done])["finish_reason"] == reason
    assert folded([*done])["finish_reason"] == (reason if reason != "tool_calls" else "stop")


@pytest.mark.parametrize("text", ["{", '{"a": 1}}', '{"a": 1}{"b": 2}', "NaN", '"', "[1,]", '{"a": "\\ud800"}'])
def test_pieces_that_make_no_json_are_kept_as_text_and_no_guess(text: str) -> None:
    """A host refuses text as the arguments of a tool, and the model learns what it wrote."""
    (call,) = folded([ToolCallStart(3, "c", "look"), *(ToolCallArgumentsDelta(3, piece) for piece in text)])[
        "tool_calls"
    ]
    assert call["arguments"] == text


@given(_TEXT, _TEXT, st.integers(0, 9), _JSON)
def test_the_result_is_one_that_a_host_can_read(text: str, name: str, index: int, arguments: object) -> None:
    """The folded result is a ``provider/complete`` result, for the strict converter as well.

    Source: docs/protocol.md, section 3.
    """
    result = folded(
        [
            ModelUsed("m"),
            Delta(text),
            ToolCallStart(index, "c", name),
            ToolCallArgumentsDelta(index, json.dumps(arguments)),
            Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3, extra={"cost": 0.5}),
        ]
    )
    read: messages.ProviderCompleteResult = structure(result, messages.ProviderCompleteResult)
    assert unstructure(read) == result


_COUNTS = st.integers(0, 99)
_INDICES = st.integers(0, 3)


@given(
    st.lists(
        st.builds(Delta, _TEXT)
        | st.builds(Reasoning, _TEXT)
        | st.builds(Done, _TEXT)
        | st.builds(ToolCallStart, _INDICES, _TEXT, _TEXT)
        | st.builds(ToolCallArgumentsDelta, _INDICES, _TEXT)
        | st.builds(Usage, prompt_tokens=_COUNTS | st.none(), completion_tokens=_COUNTS | st.none()),
        max_size=8,
    )
)
def test_what_is_streamed_folds_to_what_is_answered(events: list[StreamEvent]) -> None:
    """A host that folds the deltas itself gets the result that it is sent."""
    fold, again = StreamFold(), StreamFold()
    for event in events:
        if (told := fold.add(event)) is not None:
            again.add(structure(told, messages.StreamEvent))
    assert again.result() == fold.result()


def test_each_stream_event_is_found_by_its_type() -> None:
    """The table of the types on the wire and the union that providers yield name the same records."""
    assert set(messages.STREAM_EVENTS.values()) == set(messages.StreamEvent.__args__)
    for name, record in messages.STREAM_EVENTS.items():
        assert record is Usage or tag_of(record).type.__args__ == (name,)  # type: ignore[union-attr]  # it has one

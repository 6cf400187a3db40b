"""Recorded shapes of streams, through the real server and the real process, and beside the ``openai`` client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import openai
import pytest

from driving import Proxy, Upstream
from recorded import CASES, Case

SUCCESSES = [case for case in CASES if case.error is None]


def model_of(case: Case) -> str:
    return f"verbatim?{urlencode({'type': case.kind, 'body': case.body})}"


def added_up(told: list[dict[str, Any]], arguments: tuple[object, ...] | None) -> dict[str, Any]:
    """The result that events come to, by the rules of the protocol."""
    calls: dict[int, dict[str, Any]] = {}
    pieces: dict[int, str] = {}
    result: dict[str, Any] = {"content": "", "reasoning_content": ""}
    for event in told:
        match event["type"]:
            case "Delta":
                result["content"] += event["content"]
            case "Reasoning":
                result["reasoning_content"] += event["content"]
            case "ToolCallStart":
                calls[event["index"]] = {"id": event["id"], "name": event["name"]}
            case "ToolCallArgumentsDelta":
                pieces[event["index"]] = pieces.get(event["index"], "") + event["arguments_chunk"]
            case "Usage":
                result["usage"] = {name: value for name, value in event.items() if name != "type"}
            case "Model":
                result["resolved_model"] = event["name"]
            case "Done":
                result["finish_reason"] = event["finish_reason"]
    for position, call in calls.items():
        call["arguments"] = json.loads(pieces.get(position, "{}")) if arguments is None else arguments[position]
    if not result["reasoning_content"]:
        del result["reasoning_content"]
    return {**result, "tool_calls": [calls[position] for position in sorted(calls)]}


def without_made_ids(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Events or calls in which an id that the plugin made is "*"; there are no two of the same."""
    made = [event["id"] for event in events if str(event.get("id", "")).startswith("call_")]
    assert len(set(made)) == len({(event.get("index"), event["id"]) for event in events if event.get("id") in made})
    return [{**event, "id": "*"} if event.get("id") in made else event for event in events]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_recorded_stream_comes_to_what_it_means(proxy: Proxy, case: Case) -> None:
    """The deltas, and the result or the error, one by one. Source: docs/protocol.md, sections 3, 4 and 9."""
    rid = proxy.start(model_of(case))
    answer = proxy.answer(rid)
    assert without_made_ids(proxy.deltas(rid)) == case.told
    if case.error is None:
        result = answer["result"]
        result["tool_calls"] = without_made_ids(result["tool_calls"])
        assert result == added_up(case.told, case.arguments)
    else:
        assert answer["error"]["data"] == case.error
        assert case.says in answer["error"]["message"]


def test_there_are_as_many_as_servers_have_ideas() -> None:
    """Each has a name of its own."""
    assert len({case.name for case in CASES}) == len(CASES) >= 120


# -- beside the client that servers are made for -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def client(upstream: Upstream) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=upstream.url, api_key="k", max_retries=0) as client:
        yield client


def read_by(client: openai.OpenAI, model: str) -> dict[str, Any]:
    """What the chunks that the client gives add up to."""
    calls: dict[int, dict[str, str]] = {}
    read: dict[str, Any] = {"content": "", "finish_reason": None}
    messages: Any = [{"role": "user", "content": "hi"}]
    for chunk in client.chat.completions.create(model=model, messages=messages, stream=True):
        if chunk.usage:
            read["usage"] = tuple(
                getattr(chunk.usage, f"{name}_tokens", None) for name in ("prompt", "completion", "total")
            )
        for choice in chunk.choices or []:
            if choice.index != 0:
                continue
            read["content"] += choice.delta.content or ""
            read["finish_reason"] = choice.finish_reason or read["finish_reason"]
            for piece in choice.delta.tool_calls or []:
                call = calls.setdefault(piece.index, {"id": "", "name": "", "arguments": ""})
                call["id"] += piece.id or ""
                if piece.function is not None:
                    call["name"] += piece.function.name or ""
                    call["arguments"] += piece.function.arguments or ""
    return {**read, "tool_calls": [calls[index] for index in sorted(calls)]}


def told_as_read(told: list[dict[str, Any]]) -> dict[str, Any]:
    """The same of our events."""
    calls: dict[int, dict[str, str]] = {}
    read: dict[str, Any] = {"content": "", "finish_reason": None}
    for event in told:
        match event["type"]:
            case "Delta":
                read["content"] += event["content"]
            case "Done":
                read["finish_reason"] = event["finish_reason"]
            case "Usage":
                read["usage"] = (event["prompt_tokens"], event["completion_tokens"], event["total_tokens"])
            case "ToolCallStart":
                calls.setdefault(event["index"], {"arguments": ""}).update(id=event["id"], name=event["name"])
            case "ToolCallArgumentsDelta":
                calls[event["index"]]["arguments"] += event["arguments_chunk"]
    return {**read, "tool_calls": [calls[index] for index in sorted(calls)]}


@pytest.mark.parametrize("case", SUCCESSES, ids=lambda case: case.name)
def test_where_the_openai_client_reads_a_stream_the_plugin_reads_the_same(client: openai.OpenAI, case: Case) -> None:
    """Text, calls, reason and usage are the same; where it does not read, the case says why."""
    try:
        read = read_by(client, model_of(case))
    except Exception as error:
        read = {"error": repr(error)}
    assert (read == told_as_read(case.told)) != bool(case.alone), f"it reads {read}"


@pytest.mark.parametrize("case", [case for case in CASES if case.error], ids=lambda case: case.name)
def test_what_the_plugin_takes_for_a_failure_the_openai_client_does_not_read_to_its_end(
    client: openai.OpenAI, case: Case
) -> None:
    """Nothing that ends well there, with a reason of the API's own, is an error here."""
    try:
        read = read_by(client, model_of(case))
    except Exception:
        return
    ends = {"stop", "length", "content_filter", "tool_calls"}
    assert read["finish_reason"] not in ends or case.name == "an index as text"

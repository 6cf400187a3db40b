"""The provider as a program: real pipes to a host, and real HTTP to a server in a process of its own."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import shlex
import socket
import statistics
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any
from urllib.parse import urlencode

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import app as plugin
from driving import DONE, HERE, KEY, Proxy, Upstream, verbatim
from gateway import settings as names
from gateway.answer import Answer
from gateway.events import EventStream
from gateway.failures import WEEK, retry_after
from gateway.memory import Memory
from gateway.network import PROXIES
from gateway.question import Habits, chat_request
from sepkit import Delta, Done, ProviderRequest, RpcError
from sepkit.contexts.streams import StreamFold
from sepkit.errors import NoUI
from sepkit.testing import ProviderAnswer
from sepkit.wire.messages import UiRequest
from sepkit.wire.writing import unstructure
from tests.checked_host import CheckedHost, refused
from tests.driver import CONTEXT, HANDSHAKE
from tests.memory_host import MemoryHost
from upstream import call, chunk

REQUEST = {"request_id": "r", "provider": "corporate-proxy", "model": "ok", "messages": []}
USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 3,
    "total_tokens": 10,
    "cached_tokens": 4,
    "reasoning_tokens": 2,
}


# -- what it is --------------------------------------------------------------------------------------------------------


def test_the_manifest_names_the_app_and_passes_on_its_environment() -> None:
    """Manifest and app agree; a variable that it does not name is not there. Source: docs/protocol.md, section 10."""
    manifest = tomllib.loads((HERE / "extension.toml").read_text(encoding="utf-8"))
    with Proxy({"CORPORATE_PROXY_MODELS": "gpt-4o, o3,,gpt-4o"}, handshake=False) as proxy:
        answer = proxy.ask("initialize", HANDSHAKE)
    assert (manifest["name"], manifest["version"]) == (answer["extension"]["name"], answer["extension"]["version"])
    assert manifest["run"]["args"] == ["-m", "sepkit", "run", "app:app"]
    assert manifest["capabilities"] == {"commands": True, "ui": True, "providers": True}
    read = {value for name, value in vars(names).items() if str(value).startswith("CORPORATE_PROXY_")}
    proxies = {spelled for name in PROXIES for spelled in (name, name.upper())}
    assert set(manifest["run"]["env"]) == read | proxies | {"SSL_CERT_FILE", "SSL_CERT_DIR"}
    assert answer["registrations"]["providers"] == [
        {
            "name": "corporate-proxy",
            "models": [{"id": "gpt-4o"}, {"id": "o3"}],
            "api_key_env": "CORPORATE_PROXY_KEY",
            "oauth": True,
        }
    ]


# -- streams -----------------------------------------------------------------------------------------------------------


def test_a_stream_is_told_piece_by_piece_and_comes_to_the_result(proxy: Proxy) -> None:
    """The deltas are what the upstream sent, in order, and all of them before the result.

    Source: docs/protocol.md, section 4.
    """
    rid = proxy.start("ok")
    result = proxy.answer(rid)["result"]
    assert proxy.deltas(rid) == [
        {"type": "Model", "name": "m-2026"},
        {"type": "Delta", "content": "Hello"},
        {"type": "Delta", "content": ", "},
        {"type": "Delta", "content": "Ada!"},
        {"type": "Usage", **USAGE},
        {"type": "Done", "finish_reason": "stop"},
    ]
    assert result == {
        "content": "Hello, Ada!",
        "tool_calls": [],
        "finish_reason": "stop",
        "usage": USAGE,
        "resolved_model": "m-2026",
    }


def test_without_stream_there_is_only_the_result(proxy: Proxy) -> None:
    """Without ``stream`` the result is the same, and no delta is sent. Source: docs/protocol.md, section 3."""
    streamed = proxy.complete("ok")
    proxy.kept()
    assert proxy.complete("ok", stream=False) == streamed
    assert proxy.deltas() == []


def test_a_piece_is_told_while_the_upstream_holds_back_the_rest(
    proxy: Proxy, upstream: Upstream, unique: Callable[[str], str]
) -> None:
    """Issue "All of SEP": it streams; nothing waits for the end of the answer."""
    model = unique("hold")
    rid = proxy.start(model)
    assert [proxy.next_delta() for _ in range(2)][1] == {"type": "Delta", "content": "Hello"}
    assert [one["state"] for one in upstream.seen(model)] == ["begun"]
    upstream.release(model)
    assert proxy.next_delta() == {"type": "Delta", "content": ", Ada!"}
    assert proxy.answer(rid)["result"]["content"] == "Hello, Ada!"


def test_interleaved_tool_calls_are_put_together(proxy: Proxy) -> None:
    """The chunks of two tool calls, ``ToolCallArgumentsDelta`` {index, arguments_chunk}, are sorted by their index.

    Source: docs/protocol.md, section 4.
    """
    rid = proxy.start("tools")
    result = proxy.answer(rid)["result"]
    assert result["content"] == "Looking. "
    assert result["finish_reason"] == "tool_calls"
    assert result["tool_calls"] == [
        {"id": "c0", "name": "look", "arguments": {"at": "Ü"}},
        {"id": "c1", "name": "list", "arguments": {"all": True}},
    ]
    told = [(e["type"], e.get("index"), e.get("name") or e.get("arguments_chunk")) for e in proxy.deltas(rid)]
    assert told[2:-2] == [
        ("ToolCallStart", 0, "look"),
        ("ToolCallStart", 1, "list"),
        ("ToolCallArgumentsDelta", 1, '{"all"'),
        ("ToolCallArgumentsDelta", 0, '{"at": "'),
        ("ToolCallArgumentsDelta", 1, ": tr"),
        ("ToolCallArgumentsDelta", 1, "ue}"),
        ("ToolCallArgumentsDelta", 0, 'Ü"}'),
    ]


def test_tool_calls_are_understood_however_a_server_writes_them(proxy: Proxy) -> None:
    """Index 0 for each, no index, no id, the start repeated, arguments as an object: each call starts once."""
    rid = proxy.start("odd_tools")
    first, second, third = proxy.answer(rid)["result"]["tool_calls"]
    assert first == {"id": "c0", "name": "first", "arguments": {"a": 1}}
    assert second == {"id": "c1", "name": "second", "arguments": {"b": 2}}
    assert third == {"id": third["id"], "name": "third", "arguments": {}}
    assert len(third["id"]) > 20, "a tool's result needs an id to belong to"
    assert [e["index"] for e in proxy.deltas(rid) if e["type"] == "ToolCallStart"] == [0, 1, 2]


def test_reasoning_is_kept_apart_from_the_answer(proxy: Proxy) -> None:
    """``Reasoning`` deltas end up in ``reasoning_content``, not in the content.

    Source: docs/protocol.md, sections 3 and 4.
    """
    rid = proxy.start("reasoning")
    result = proxy.answer(rid)["result"]
    assert (result["reasoning_content"], result["content"]) == ("Let me think.", "42")
    assert [e["content"] for e in proxy.deltas(rid) if e["type"] == "Reasoning"] == ["Let me ", "think."]


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_an_event_stream_is_read_however_it_is_cut(proxy: Proxy, step: int) -> None:
    """Comments, CRLF, CR, several data lines, a BOM, and UTF-8 that is split between two packets."""
    assert proxy.complete(f"ragged?step={step}")["content"] == "Grüße, Zoë 👋"


def test_an_answer_that_is_not_streamed_is_one(proxy: Proxy) -> None:
    """Some servers ignore ``stream``; the host's result is the same."""
    result = proxy.complete("whole")
    assert result["content"] == "all at once"
    assert result["tool_calls"] == [{"id": "c0", "name": "look", "arguments": {"at": 1}}]
    assert (result["finish_reason"], "usage" in result) == ("tool_calls", False), "it says half of it"


@pytest.mark.parametrize("model", ["no_done", "done_only"])
def test_an_answer_is_whole_with_a_reason_or_with_a_done(proxy: Proxy, model: str) -> None:
    """Servers leave out the one or the other; neither is what tells a whole answer from a cut one alone."""
    result = proxy.complete(model)
    assert (result["content"], result["finish_reason"]) == ("whole", "stop")


@pytest.mark.parametrize("again", ["", ": still here\n\n", "event: ping\ndata: \n\n", 'data: {"choices": []}\n\n'])
def test_a_finished_answer_waits_only_a_while_for_its_end(
    upstream: Upstream, unique: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, again: str
) -> None:
    """Servers leave the connection open without a ``[DONE]``; what keeps it alive does not make the wait longer."""
    monkeypatch.setattr(plugin, "TAIL", 0.25)
    monkeypatch.setenv("CORPORATE_PROXY_URL", upstream.url)
    model = unique(f"lingering?{urlencode({'again': again})}")

    async def ask() -> tuple[ProviderAnswer, float]:
        async with CheckedHost(plugin.app) as host:
            began = time.monotonic()
            answer = await host.complete("corporate-proxy", model, [], stream=False)
            return answer, time.monotonic() - began

    answer, seconds = asyncio.run(ask())
    assert (answer.content, answer.finish_reason) == ("whole", "stop")
    assert answer.usage is not None
    assert unstructure(answer.usage) == USAGE
    assert 0.25 <= seconds < 3
    assert [one["state"] for one in upstream.seen(model, state="closed", count=1)] == ["closed"]


def test_a_reason_before_the_end_cuts_nothing_off(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gateways to Gemini give ``stop`` with each chunk; an answer that goes on after it is waited for to its end."""
    monkeypatch.setattr(plugin, "TAIL", 0.2)
    monkeypatch.setenv("CORPORATE_PROXY_URL", upstream.url)

    async def ask() -> ProviderAnswer:
        async with CheckedHost(plugin.app) as host:
            return await host.complete("corporate-proxy", "hasty?rest=0.4", [], stream=False)

    assert asyncio.run(ask()).content == "not yet over"


@pytest.mark.parametrize(
    "said",
    [
        ["data:\n\n", "data: \n\n", "event: ping\ndata: \n\n", chunk("stop", content="whole"), DONE],
        [chunk("stop", content="whole"), "data: [DONE] \n\n", "data: what comes behind it is not read\n\n"],
        [chunk(content="whole"), "data:   [DONE]\t"],
        [{"choices": [{"index": None, "delta": {"content": "who"}}]}, chunk("stop", content="le"), DONE],
        [{"choices": [{"delta": {"content": "whole"}, "finish_reason": "stop"}]}, DONE],
        [{"choices": [{"index": 1, "delta": {"content": "another"}}]}, chunk("stop", content="whole"), DONE],
    ],
    ids=["blank", "done-space", "done-unended", "index-null", "index-missing", "index-other"],
)
def test_an_answer_is_read_as_it_is_meant(proxy: Proxy, said: list[object]) -> None:
    """What servers and gateways were seen to send, beside what the API says."""
    result = proxy.complete(verbatim(*said))
    assert (result["content"], result["finish_reason"]) == ("whole", "stop")


@pytest.mark.parametrize(
    ("said", "result"),
    [
        pytest.param(
            [
                {"choices": [], "model": "", "prompt_filter_results": [{"prompt_index": 0}]},
                {**chunk(role="assistant", content=""), "usage": None},
                {**chunk(content="a"), "usage": None},
                {**chunk("stop"), "usage": None},
                {"choices": [], "model": "m-2026", "usage": {"prompt_tokens": 1, "completion_tokens": 1}},
                DONE,
            ],
            {
                "content": "a",
                "resolved_model": "m-2026",
                "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
            },
            id="azure",
        ),
        pytest.param(
            [
                {**chunk(content="a"), "usage": {"prompt_tokens": 1, "completion_tokens": 1}},
                {**chunk(content="b"), "usage": {"prompt_tokens": 1, "completion_tokens": 2}},
                {**chunk("stop"), "usage": None},
                DONE,
            ],
            {"content": "ab", "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}},
            id="usage-in-each-chunk",
        ),
        pytest.param(
            [
                {"choices": None},
                {"choices": [None]},
                {"choices": [{"delta": None}]},
                {"choices": [{"delta": {"role": "assistant", "content": None, "tool_calls": None}}]},
                chunk(content="a"),
                {"choices": [{"delta": None, "finish_reason": "stop"}]},
                {"choices": None, "usage": {}},
                DONE,
            ],
            {"content": "a"},
            id="null",
        ),
        pytest.param(
            [
                chunk(content=None, tool_calls=[call(0, "c0", "look", None)]),
                chunk(role=None, content=None, tool_calls=[{**call(0), "id": None, "type": None, "function": None}]),
                chunk(tool_calls=[{"index": 0, "id": None, "function": {"name": None, "arguments": "{}"}}]),
                chunk(tool_calls=[{"index": 0, "id": "", "function": {"name": "", "arguments": ""}}]),
                chunk("tool_calls", content=None, tool_calls=[]),
                DONE,
            ],
            {
                "content": "",
                "finish_reason": "tool_calls",
                "tool_calls": [{"id": "c0", "name": "look", "arguments": {}}],
            },
            id="tool-call-without-content",
        ),
        pytest.param(
            [
                chunk(tool_calls=[call(0, "c0", None, '{"a"')]),
                chunk(tool_calls=[call(0, None, "look", ":1}")]),
                chunk("tool_calls"),
                DONE,
            ],
            {"finish_reason": "tool_calls", "tool_calls": [{"id": "c0", "name": "look", "arguments": {"a": 1}}]},
            id="name-after-arguments",
        ),
        pytest.param(
            [chunk("", content="a"), chunk("length"), chunk("length"), {"choices": [{"finish_reason": ""}]}, DONE],
            {"content": "a", "finish_reason": "length"},
            id="reason-repeated-and-empty",
        ),
        pytest.param(
            [chunk(refusal="I will not."), chunk("content_filter", refusal=None), DONE],
            {"content": "I will not.", "finish_reason": "content_filter"},
            id="refusal",
        ),
        pytest.param(
            [
                chunk(reasoning_content="hm", reasoning="hm", reasoning_details=[{"text": "hm"}]),
                chunk(content="a", reasoning_content=None, reasoning=""),
                chunk("stop"),
                DONE,
            ],
            {"content": "a", "reasoning_content": "hm"},
            id="reasoning-twice",
        ),
        pytest.param(
            [
                {"choices": [{"delta": {"content": "a"}, "message": {"content": "a"}}]},
                {"choices": [{"delta": {"content": "b"}, "message": {"content": "ab"}}]},
                {"choices": [{"delta": {}, "message": {"content": "ab"}, "finish_reason": "stop"}]},
                DONE,
            ],
            {"content": "ab"},
            id="message-beside-delta",
        ),
    ],
)
def test_what_servers_add_and_leave_out_changes_no_answer(
    proxy: Proxy, said: list[object], result: dict[str, Any]
) -> None:
    """Azure, vLLM, OpenRouter, Perplexity and gateways were seen to send these."""
    told = proxy.complete(verbatim(*said))
    expected = {"tool_calls": [], "finish_reason": "stop", **result}
    assert {name: told[name] for name in expected} == expected


_MESSAGE = {"choices": [{"message": {"role": "assistant", "content": "whole"}, "finish_reason": "stop"}]}
_STREAM = f"data: {json.dumps(chunk('stop', content='whole'))}\n\n{DONE}"


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json; charset=utf-8", json.dumps(_MESSAGE)),
        ("text/event-stream", json.dumps(_MESSAGE)),
        ("text/plain", "\ufeff\n" + json.dumps(_MESSAGE, indent=2)),
        ("Text/Event-Stream;charset=UTF-8", _STREAM),
        ("application/json", _STREAM),
        ("application/octet-stream", _STREAM),
    ],
)
def test_an_answer_is_known_by_what_it_is(proxy: Proxy, kind: str, body: str) -> None:
    """Gateways put the one type on the other's body; no event stream begins as JSON does."""
    assert proxy.complete(verbatim(body, kind=kind))["content"] == "whole"


def test_twenty_streams_at_once_stay_apart(proxy: Proxy, upstream: Upstream, unique: Callable[[str], str]) -> None:
    """``request_id`` says which stream a delta belongs to; no stream waits for the end of another.

    Source: docs/protocol.md, section 4.
    """
    models = [unique(f"paced?pieces=20&who={who}") for who in range(20)]
    rids = [proxy.start(model) for model in models]
    answers = [proxy.answer(rid) for rid in rids]
    frames = [frame for frame in proxy.kept() if frame.get("method") == "provider/delta"]
    for who, (rid, answer) in enumerate(zip(rids, answers, strict=True)):
        expected = [f"{who}.{number} " for number in range(20)]
        assert answer["result"]["content"] == "".join(expected)
        events = [frame["params"]["event"] for frame in frames if frame["params"]["request_id"] == f"r-{rid}"]
        assert [event["content"] for event in events if event["type"] == "Delta"] == expected
    # On a busy machine the first may have ended before the last begins, and lends it its connection.
    assert len({upstream.seen(model)[0]["connection"] for model in models}) > 1
    order = [frame["params"]["request_id"] for frame in frames]
    assert order != sorted(order), "they run side by side"


@pytest.mark.parametrize("piece", [65_536, 10 * 1024 * 1024])
def test_ten_mebibytes_pass(proxy: Proxy, piece: int) -> None:
    """10 MiB pass in one frame: here as one delta, and as the result of many."""
    size = 10 * 1024 * 1024
    rid = proxy.start(f"big?bytes={size}&piece={piece}")
    assert proxy.answer(rid)["result"]["content"] == "x" * size
    assert [len(e["content"]) for e in proxy.deltas(rid) if e["type"] == "Delta"] == [piece] * (size // piece)


def test_one_connection_serves_one_request_after_the_other(
    proxy: Proxy, upstream: Upstream, unique: Callable[[str], str]
) -> None:
    """A handshake with the server for each request would be most of the wait for its first piece."""
    models = [unique("ok") for _ in range(3)]
    for model in models:
        proxy.complete(model)
    assert len({upstream.seen(model)[0]["connection"] for model in models}) == 1


# -- what the upstream is asked ----------------------------------------------------------------------------------------


def test_the_upstream_is_asked_as_its_api_wants_it(
    proxy: Proxy, upstream: Upstream, unique: Callable[[str], str]
) -> None:
    """Messages, tools, response_format and thinking are sent in the API's form, and the key as a header.

    Source: docs/protocol.md, section 3.
    """
    model = unique("ok")
    tool = {"name": "look", "description": "Look.", "parameters": {"type": "object"}}
    proxy.complete(
        model,
        stream=False,
        tools=[tool, {"type": "function", "function": tool}],
        response_format={"type": "json_object"},
        thinking="high",
        messages=[
            {"role": "user", "content": "hi", "name": None},
            {
                "role": "assistant",
                "content": None,
                "reasoning_content": "hm",
                "tool_calls": [
                    {"id": "c0", "name": "look", "arguments": {"at": 1}},
                    {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": 2}'}},
                ],
            },
            {"role": "tool", "tool_call_id": "c0", "content": "seen"},
            {"role": "assistant", "content": "done", "tool_calls": []},
        ],
    )
    (seen,) = upstream.seen(model)
    assert seen["headers"]["authorization"] == f"Bearer {KEY}"
    assert seen["target"] == "/v1/chat/completions"
    calls = [
        {"id": "c0", "type": "function", "function": {"name": "look", "arguments": '{"at":1}'}},
        {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": 2}'}},
    ]
    assert seen["body"] == {
        "model": model,
        "messages": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": None, "tool_calls": calls},
            {"role": "tool", "tool_call_id": "c0", "content": "seen"},
            {"role": "assistant", "content": "done"},
        ],
        "tools": [{"type": "function", "function": tool}] * 2,
        "response_format": {"type": "json_object"},
        "reasoning_effort": "high",
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_what_the_host_does_not_say_is_not_asked() -> None:
    """An omitted ``thinking`` is the provider's default. Source: docs/protocol.md, section 3."""
    request = ProviderRequest(request_id="r", provider="p", model="m", messages=[], thinking="off")
    assert set(chat_request(request, Habits(), Memory())) == {"model", "messages", "stream", "stream_options"}


def test_a_web_proxy_is_used(upstream: Upstream, unique: Callable[[str], str]) -> None:
    """Issue "All of SEP": in a company the way out is a proxy; the manifest passes it on."""
    model = unique("ok")
    with Proxy({"CORPORATE_PROXY_URL": "http://models.test/v1", "HTTP_PROXY": upstream.origin}) as proxy:
        assert proxy.complete(model)["content"] == "Hello, Ada!"
    assert [one["target"] for one in upstream.seen(model)] == ["http://models.test/v1/chat/completions"]


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "data", "says"),
    [
        ("status?code=401", {"kind": "unauthorized", "credential": "key"}, "set CORPORATE_PROXY_KEY"),
        ("status?code=403", {"kind": "forbidden", "credential": "key"}, "may not use this model"),
        ("status?code=404", {"kind": "refused"}, "no luck with Bearer …"),
        ("status?code=422", {"kind": "refused"}, "no luck with Bearer …"),
        ("status?code=302&location=http://login.test/", {"kind": "refused"}, "sends elsewhere"),
        ("status?code=429&after=30", {"kind": "rate_limited", "retryable": True, "retry_after": 30}, "in 30 s"),
        ("status?code=503&after=3600", {"kind": "upstream_failed", "retryable": True, "retry_after": 3600}, "failed"),
        ("status?code=504", {"kind": "upstream_failed", "retryable": True}, "failed (504)"),
    ],
)
def test_a_refusal_tells_the_host_what_it_can_do(
    proxy: Proxy, upstream: Upstream, unique: Callable[[str], str], model: str, data: dict[str, Any], says: str
) -> None:
    """Issue "All of SEP": errors. One request was made; what the server says of the key it was shown is left out."""
    model = unique(model)
    error = proxy.refused(model)
    assert error["code"] == -32603
    status = int(model.partition("code=")[2][:3])
    common = {"retryable": False, "status": status, "attempts": 1, "request_id": "up-1"}
    assert error["data"] == {**common, **data}
    assert says in error["message"]
    assert KEY not in json.dumps(error)
    assert len(upstream.seen(model)) == 1


def test_a_date_to_come_back_at_is_told_in_seconds(proxy: Proxy) -> None:
    """RFC 9110: ``Retry-After`` is a number of seconds, or a date."""
    error = proxy.refused("status?code=429&date=100")
    assert 95 <= error["data"]["retry_after"] <= 100
    assert error["data"]["attempts"] == 1


@pytest.mark.parametrize(
    ("script", "pause"),
    [
        ("status?code=500&times=2", 0.0),
        ("status?code=502&times=1", 0.0),
        ("status?code=503&times=1", 0.0),
        ("drop?times=2", 0.0),
        ("status?code=429&times=1&after=1", 1.0),
        ("status?code=429&times=1&date=-5", 0.0),
    ],
)
def test_what_passes_soon_is_waited_out(
    proxy: Proxy, upstream: Upstream, unique: Callable[[str], str], script: str, pause: float
) -> None:
    """Issue "All of SEP": 429 with Retry-After, 500: asked again, when the server wants it; nothing is told before."""
    model = unique(script)
    rid = proxy.start(model)
    assert proxy.answer(rid)["result"]["content"] == "Hello, Ada!"
    assert [e["type"] for e in proxy.deltas(rid)].count("Done") == 1
    times = [one["at"] for one in upstream.seen(model)]
    assert len(times) == int(script.partition("times=")[2][:1]) + 1
    assert all(after - before >= max(pause, 0.12) for before, after in itertools.pairwise(times))


@pytest.mark.parametrize("script", ["status?code=500", "status?code=429&after=0"])
def test_what_does_not_pass_is_told_after_three_attempts(
    proxy: Proxy, upstream: Upstream, unique: Callable[[str], str], script: str
) -> None:
    """A server in trouble is not helped by one that asks for ever."""
    model = unique(script)
    error = proxy.refused(model)
    assert (error["data"]["retryable"], error["data"]["attempts"]) == (True, 3)
    assert len(upstream.seen(model)) == 3


@pytest.mark.parametrize("how", ["chunked", "event", "clean"])
def test_a_stream_that_breaks_off_is_an_error(
    proxy: Proxy, upstream: Upstream, unique: Callable[[str], str], how: str
) -> None:
    """Issue "All of SEP": a cut stream is no short answer; it is not asked again, since pieces were told."""
    model = unique(f"cut?how={how}")
    rid = proxy.start(model)
    error = proxy.answer(rid)["error"]
    assert error["code"] == -32603
    assert error["data"] == {"kind": "cut", "retryable": True, "received": len("The answer is")}
    assert [e.get("content") for e in proxy.deltas(rid)] == [None, "The answer is"]
    assert len(upstream.seen(model)) == 1


@pytest.mark.parametrize(
    "model", ["bad_chunk?what=json", "bad_chunk?what=list", "bad_chunk?what=utf8", "page?code=200"]
)
def test_what_is_no_answer_of_the_api_is_an_error(proxy: Proxy, model: str) -> None:
    """A chunk that is no JSON, and a login page where the API should be."""
    error = proxy.refused(model)
    assert error["data"] == {"kind": "bad_answer", "retryable": False}
    says = (
        "is CORPORATE_PROXY_URL right?"
        if model.startswith("page")
        else "does not answer as the API does: a chunk is no"
    )
    assert says in error["message"]


@pytest.mark.parametrize(
    ("kind", "body", "says"),
    [
        ("text/html; charset=utf-8", "<html>Log in</html>", "answers with a page (text/html)"),
        ("text/html", "Log in", "answers with a page (text/html)"),
        ("text/plain", "\n<!DOCTYPE html><html>Log in</html>", "answers with a page (text/plain)"),
        ("text/event-stream", "<html>Log in</html>", "answers with a page (text/event-stream)"),
        ("application/json", '{"detail": "no such deployment"}', "as the API does: no such deployment"),
        ("application/json", '{"choices": []}', "as the API does: it holds no answer"),
        ("application/json", '{"choices": [', "as the API does: a chunk is no JSON (unexpected"),
        ("application/json", "[]", "as the API does: a chunk is no JSON object"),
    ],
)
def test_a_success_that_holds_no_answer_is_an_error(proxy: Proxy, kind: str, body: str, says: str) -> None:
    """Gateways answer with 200 whatever happens; to ask again would bring the same."""
    error = proxy.refused(verbatim(body, kind=kind))
    assert error["data"] == {"kind": "bad_answer", "retryable": False}
    assert says in error["message"]
    assert "Log in" not in error["message"]


@pytest.mark.parametrize("index", [True, "0", 1.5, [0], {}])
@pytest.mark.parametrize("what", ["choice", "tool call"])
def test_an_index_that_is_no_integer_is_an_error(proxy: Proxy, what: str, index: object) -> None:
    """A guess might give one call the arguments of another, or leave text out."""
    said = chunk("tool_calls", tool_calls=[call(0, "c0", "look", "{}")])
    (said["choices"][0] if what == "choice" else said["choices"][0]["delta"]["tool_calls"][0])["index"] = index
    error = proxy.refused(verbatim(said, DONE))
    assert error["data"] == {"kind": "bad_answer", "retryable": False}
    assert error["message"].endswith(f"the index of a {what} is no integer")


@pytest.mark.parametrize("index", [None, -1, 2**64 - 1])
def test_tool_calls_are_told_apart_by_their_ids_where_the_index_does_not(proxy: Proxy, index: int | None) -> None:
    """Null, the same for each, and one that no host can count up from."""
    pieces: list[dict[str, Any]] = [
        call(0, "c0", "first", '{"a"'),
        call(0, "c1", "second", "{}"),
        call(0, "c0", None, ":1}"),
    ]
    said = [chunk(tool_calls=[{**piece, "index": index}]) for piece in pieces]
    calls = proxy.complete(verbatim(*said, chunk(tool_calls=[call(None, "c2", "third")]), chunk("tool_calls"), DONE))[
        "tool_calls"
    ]
    assert [(one["id"], one["name"], one["arguments"]) for one in calls] == [
        ("c0", "first", {"a": 1}),
        ("c1", "second", {}),
        ("c2", "third", {}),
    ]


def test_a_page_with_a_status_is_named_and_not_shown(proxy: Proxy) -> None:
    """A gateway's page is no text for a model's user."""
    error = proxy.refused("page?code=404")
    assert error["data"]["kind"] == "refused"
    assert error["message"].endswith("(404): a page (text/html) in place of an answer of the API")


@pytest.mark.parametrize("how", ["object", "named"])
def test_an_error_within_the_stream_fails_the_completion(proxy: Proxy, how: str) -> None:
    """An error object among the chunks, or an event named so; without the key that it quotes."""
    error = proxy.refused(f"failing?how={how}")
    assert error["data"] == {"kind": "upstream_failed", "retryable": True}
    assert error["message"].endswith("failed within its answer: out of memory, Bearer …")


@pytest.mark.parametrize(
    ("said", "about"),
    [
        ([{"error": "no luck"}], ": no luck"),
        ([{"error": {"message": ["?"], "code": 7}}], ""),
        ([{"object": "error", "message": "no luck", "type": "BadRequestError", "code": 400}, DONE], ": no luck"),
        ([{"choices": [{"delta": {}, "finish_reason": "error", "error": {"message": "no luck"}}]}, DONE], ": no luck"),
        ([f"event: error\ndata: no luck with {KEY}\n\n", DONE], ": no luck with …"),
        (['event: error\ndata: "no luck"\n\n', DONE], ": no luck"),
        (["event: error\ndata:\n\n", DONE], ""),
        (['{"error": {"message": "no luck"}}'], ": no luck"),
    ],
)
def test_an_error_is_one_however_a_server_writes_it(proxy: Proxy, said: list[object], about: str) -> None:
    """With the status 200, and with the ``[DONE]`` that vLLM puts behind it: not an answer that came to nothing."""
    error = proxy.refused(verbatim(*said))
    assert error["data"] == {"kind": "upstream_failed", "retryable": True}
    assert error["message"].endswith(f"failed within its answer{about}")


def test_a_tool_call_cut_at_the_limit_of_tokens_is_the_model_s_to_mend(proxy: Proxy) -> None:
    """Its arguments are the text as far as it came: the host tells the model, as with any wrong argument."""
    result = proxy.complete("half_tool", stream=False)
    assert result["finish_reason"] == "length"
    assert result["tool_calls"] == [{"id": "c0", "name": "look", "arguments": '{"at": "secr'}]


@pytest.mark.parametrize("where", ["127.0.0.1:{port}", "no-such-host.invalid"])
def test_a_server_that_is_not_there_is_named(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connection refused, and a name that leads nowhere: tried three times, told with the address."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        where = where.format(port=closed.getsockname()[1])
    monkeypatch.setenv("CORPORATE_PROXY_URL", f"http://{where}/v1")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)

    async def ask() -> RpcError:
        async with CheckedHost(plugin.app) as host:
            return await refused(host.complete("corporate-proxy", "ok", [], stream=False))

    error = asyncio.run(ask())
    assert error.data == {"kind": "unreachable", "retryable": True, "attempts": 3}
    assert error.message.startswith(f"http://{where} cannot be reached (")


def test_a_server_that_falls_silent_is_given_up(
    upstream: Upstream, unique: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read time-outs, before the first byte and after it; it may be at work, so it is asked only once."""
    monkeypatch.setenv("CORPORATE_PROXY_URL", upstream.url)
    monkeypatch.setenv("CORPORATE_PROXY_TIMEOUT", "1")
    models = [unique("mute"), unique("hold")]

    async def ask() -> list[RpcError]:
        async with CheckedHost(plugin.app) as host:
            asked = [refused(host.complete("corporate-proxy", model, [], stream=False)) for model in models]
            return await asyncio.gather(*asked)

    silent, stalled = asyncio.run(ask())
    assert silent.data == {"kind": "timeout", "retryable": True, "attempts": 1}
    assert stalled.data == {"kind": "timeout", "retryable": True, "received": 5}
    assert "for 1 s" in silent.message
    for model in models:
        assert [one["state"] for one in upstream.seen(model, state="closed", count=1)] == ["closed"]


@pytest.mark.parametrize(
    ("url", "key", "says"),
    [
        ("", "", "CORPORATE_PROXY_URL is not set"),
        ("planted.example/v1", "", "CORPORATE_PROXY_URL is no address"),
        ("ftp://planted.example/v1", "", "CORPORATE_PROXY_URL is no address"),
        ("http://planted:x/v1", "", "CORPORATE_PROXY_URL is no address"),
        ("http://ada:planted@h/v1", "", "CORPORATE_PROXY_URL holds a name or a password"),
        ("http://h/v1", "planted\nkey", "CORPORATE_PROXY_KEY has characters"),
        ("http://h/v1", "planted-ü", "CORPORATE_PROXY_KEY has characters"),
    ],
)
def test_a_wrong_setting_is_named_without_its_value(
    url: str, key: str, says: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told when it is used, so that the extension starts, and may tell its status."""
    monkeypatch.setenv("CORPORATE_PROXY_URL", url)
    monkeypatch.setenv("CORPORATE_PROXY_KEY", key)

    async def ask() -> tuple[dict[str, Any], list[bytes]]:
        async with MemoryHost(plugin.app, log=True) as host:
            error = await host.refused("provider/complete", REQUEST)
            await host.ask("command/execute", {"command": "proxy-status", "context": CONTEXT})
            return error, host.lines

    with caplog.at_level("DEBUG"):
        error, lines = asyncio.run(ask())
    assert error["data"] == {"kind": "not_configured", "retryable": False}
    assert error["message"].startswith(says)
    assert b"planted" not in b"".join(lines)
    assert "planted" not in caplog.text


def test_the_key_is_told_to_nobody_but_the_upstream(upstream: Upstream) -> None:
    """A planted secret is in no frame and in no log, whatever fails, at the lowest log level."""
    scripts = [
        "ok",
        "status?code=401",
        "status?code=400",
        "status?code=429&after=9",
        "status?code=504",
        "page?code=200",
    ]
    scripts += ["page?code=500", "bad_chunk?what=json", "failing?how=object", "failing?how=named", "cut?how=chunked"]
    with Proxy({"CORPORATE_PROXY_URL": upstream.url, "CORPORATE_PROXY_KEY": KEY}, "--log-level", "debug") as proxy:
        answers = [proxy.answer(proxy.start(script)) for script in scripts]
        proxy.command("proxy-status")
        proxy.close_stdin()
        frames = [*answers, *proxy.rest()]
        assert proxy.wait() == 0
        said = json.dumps(frames, ensure_ascii=False) + proxy.stderr
    assert upstream.seen("ok")[-1]["headers"]["authorization"].endswith(KEY), "it was there to be told"
    assert "no luck with Bearer …" in said
    assert "HTTP Request" not in said, "nor does the client log what it sends"
    assert KEY not in said
    assert KEY[3:] not in said


# -- cancelling --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", ["hold", "mute", "lingering"])
def test_a_cancelled_completion_ends_its_request_to_the_upstream(
    proxy: Proxy, upstream: Upstream, unique: Callable[[str], str], script: str
) -> None:
    """It is answered with -32800, once, when the connection is closed and the generator's end has run.

    Source: docs/protocol.md, section 8.
    """
    took = []
    for _ in range(3):
        model = unique(script)
        rid = proxy.start(model)
        if script == "mute":
            upstream.seen(model, count=1)
        else:
            assert [proxy.next_delta() for _ in range(2)][1]["type"] == "Delta"
        assert "1 streams running" in proxy.command("proxy-status")
        began = time.monotonic()
        proxy.cancel(rid)
        answer = proxy.answer(rid)
        took.append(time.monotonic() - began)
        assert answer["error"]["code"] == -32800
        assert "0 streams running" in proxy.command("proxy-status")
        assert [one["state"] for one in upstream.seen(model, state="closed", count=1)] == ["closed"]
        assert [frame for frame in proxy.kept() if frame.get("id") == rid] == [], "it is answered once"
    assert min(took) < 0.1


def test_a_cancel_ends_the_wait_between_two_attempts(
    proxy: Proxy, upstream: Upstream, unique: Callable[[str], str]
) -> None:
    """A cancel is answered at once, also during the wait before another attempt."""
    model = unique("status?code=503&after=5")
    rid = proxy.start(model)
    upstream.seen(model, count=1)
    proxy.ping()
    began = time.monotonic()
    proxy.cancel(rid)
    assert proxy.answer(rid)["error"]["code"] == -32800
    assert time.monotonic() - began < 3
    assert len(upstream.seen(model)) == 1


def test_the_end_comes_in_time_with_a_stream_in_flight(upstream: Upstream, unique: Callable[[str], str]) -> None:
    """A call has the grace to finish, then it is cancelled, and the upstream sees its connection close."""
    models = [unique("hold"), unique("hold")]
    environ = {"CORPORATE_PROXY_URL": upstream.url}
    with Proxy(environ, "--grace", "1") as one, Proxy(environ, "--grace", "1") as other:
        rids = [proxy.start(model) for proxy, model in zip((one, other), models, strict=True)]
        for proxy in (one, other):
            assert [proxy.next_delta() for _ in range(2)][1]["content"] == "Hello"
        asked = one.request("shutdown", {})
        other.close_stdin()
        for proxy, rid in zip((one, other), rids, strict=True):
            assert proxy.answer(rid)["error"]["code"] == -32800
        assert one.answer(asked)["result"] == {}
        for proxy in (one, other):
            assert proxy.wait() == 0
            assert "Traceback" not in proxy.stderr
    for model in models:
        assert [one["state"] for one in upstream.seen(model, state="closed", count=1)] == ["closed"]


def test_a_stream_that_ends_within_the_grace_is_answered(upstream: Upstream, unique: Callable[[str], str]) -> None:
    """End-of-file does not lose a call that was accepted."""
    model = unique("hold")
    with Proxy({"CORPORATE_PROXY_URL": upstream.url}) as proxy:
        rid = proxy.start(model)
        assert [proxy.next_delta() for _ in range(2)][1]["content"] == "Hello"
        proxy.close_stdin()
        upstream.release(model)
        assert proxy.answer(rid)["result"]["content"] == "Hello, Ada!"
        assert proxy.wait() == 0


# -- logins ------------------------------------------------------------------------------------------------------------


def test_a_login_shows_a_code_and_is_used_from_then_on(upstream: Upstream, unique: Callable[[str], str]) -> None:
    """After ``provider/oauth_login`` and ``provider/oauth_refresh`` the token is used in place of the key.

    Source: docs/protocol.md, section 3.
    """
    client, before, after, renewed = unique("c?pending=2"), unique("ok"), unique("ok"), unique("ok")
    environ = {"CORPORATE_PROXY_URL": upstream.url, "CORPORATE_PROXY_KEY": KEY, "CORPORATE_PROXY_CLIENT_ID": client}
    with Proxy(environ) as proxy:
        proxy.complete(before)
        answer, shown = proxy.log_in({"result": {}})
        credentials = answer["result"]
        assert shown == [f"To log in to {upstream.origin}, open http://login.test and enter the code WXYZ-1234"]
        assert (credentials["access_token"], credentials["refresh_token"]) == ("at-1-planted", "rt-1-planted")
        assert abs(credentials["expires_at"] - time.time() - 3600) < 60
        assert [one["body"].partition("client_id=")[0] for one in upstream.seen(client)] == [""] * 4
        proxy.complete(after)
        assert re.search(r"logged in for 3\d\d\d s more", proxy.command("proxy-status"))
        asked = {"provider": "corporate-proxy", "refresh_token": "rt-1-planted", "context": CONTEXT}
        assert proxy.ask("provider/oauth_refresh", asked)["access_token"] == "at-2-planted"
        proxy.complete(renewed)
        error = proxy.refused("status?code=401")
        assert error["data"]["credential"] == "login"
        assert "provider/oauth_refresh" in error["message"]
        error = proxy.answer(proxy.request("provider/oauth_refresh", {**asked, "refresh_token": "rt-0-planted"}))[
            "error"
        ]
        assert error["data"] == {"kind": "login_failed", "retryable": False}
        assert "cannot be renewed" in error["message"]
        assert "planted" not in error["message"], "the server quotes it, and the plugin does not"
        assert "planted" not in proxy.stderr
    shown_keys = [upstream.seen(model)[0]["headers"]["authorization"] for model in (before, after, renewed)]
    assert shown_keys == [f"Bearer {KEY}", "Bearer at-1-planted", "Bearer at-2-planted"]


@pytest.mark.parametrize(
    ("client", "unseen", "code", "says"),
    [
        ("c?error=access_denied", None, -32603, "the login was denied"),
        ("c?error=expired_token", None, -32603, "the login failed (expired_token)"),
        ("c?pending=1000000&expires=0.3", None, -32603, "nobody entered the code WXYZ-1234 in time"),
        ("c?pending=0&error=500&expires=0.3", None, -32603, "nobody entered the code WXYZ-1234 in time"),
        ("c", NoUI("nobody is there"), -32001, "nobody is there"),
    ],
)
def test_a_login_that_fails_says_why(
    upstream: Upstream,
    unique: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    client: str,
    unseen: NoUI | None,
    code: int,
    says: str,
) -> None:
    """Docs, providers: an ``RpcError`` tells the host what the upstream said; in a login as in a completion."""
    monkeypatch.setenv("CORPORATE_PROXY_URL", upstream.url)
    monkeypatch.setenv("CORPORATE_PROXY_CLIENT_ID", unique(client))

    def show(request: UiRequest) -> None:
        if unseen is not None:
            raise unseen

    async def log_in() -> RpcError:
        async with CheckedHost(plugin.app, ui=show) as host:
            return await refused(host.oauth_login("corporate-proxy"))

    error = asyncio.run(log_in())
    assert error.code == code
    assert error.message.startswith(says)


def test_a_cancelled_login_asks_no_more(
    upstream: Upstream, unique: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A login that was cancelled asks for no token any more."""
    client = unique("c?pending=1000000")
    monkeypatch.setenv("CORPORATE_PROXY_URL", upstream.url)
    monkeypatch.setenv("CORPORATE_PROXY_CLIENT_ID", client)

    async def log_in_and_cancel() -> None:
        async with MemoryHost(plugin.app, {"ui/request": {}}) as host:
            rid = host.start("provider/oauth_login", {"provider": "corporate-proxy", "context": CONTEXT})
            await asyncio.to_thread(upstream.seen, client, count=4)
            host.cancel(rid)
            assert (await host.answer(rid))["error"]["code"] == -32800
            asked = len(upstream.seen(client))
            await asyncio.sleep(0.2)  # four times as long as it waits between two questions
            assert len(upstream.seen(client)) == asked

    asyncio.run(log_in_and_cancel())


# -- commands ----------------------------------------------------------------------------------------------------------


def test_the_models_of_the_server_are_offered(proxy: Proxy) -> None:
    """``registry/update`` replaces the provider of the same name. Source: docs/protocol.md, section 4."""
    assert proxy.command("proxy-models") == "2 models: big-1, small-1"
    (update,) = [frame["params"] for frame in proxy.kept() if frame.get("method") == "registry/update"]
    (provider,) = update["providers"]
    assert provider["models"] == [{"id": "big-1"}, {"id": "small-1"}]
    assert provider["oauth"]
    assert proxy.complete("ok")["content"] == "Hello, Ada!"


def test_the_status_names_the_server_and_not_the_key(proxy: Proxy, upstream: Upstream) -> None:
    """The status names the server and the variable that holds the key, not the key."""
    expected = f"{upstream.origin}, with the key in CORPORATE_PROXY_KEY; 0 streams running"
    assert proxy.command("proxy-status") == expected


def test_the_readme_shows_what_happens() -> None:
    """What a README shows is run by a test."""
    shown = re.findall(r"^```console\n(.*?)^```$", (HERE / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("CORPORATE_PROXY_")}
    ran = 0
    for command, expected in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", "".join(shown), re.MULTILINE):
        if command.startswith("export "):
            name, _, value = command.removeprefix("export ").partition("=")
            environ[name] = value
        elif command.startswith("python "):
            words = [sys.executable, *shlex.split(command)[1:]]
            done = subprocess.run(
                words, cwd=HERE, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, check=False
            )
            assert done.stdout.decode() == expected
            ran += 1
    assert ran


# -- the pure parts ----------------------------------------------------------------------------------------------------


def test_how_long_to_wait_is_read_or_not_at_all() -> None:
    """RFC 9110, ``Retry-After``; what a server invents is no wait of years, and no crash."""
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

    def after(value: str | None) -> float | None:
        return retry_after(value, now.timestamp())

    assert [after(value) for value in ("0", "7", " 7 ", "1.5")] == [0, 7, 7, 1.5]
    assert after(format_datetime(now, usegmt=True)) == 0
    assert after("Fri, 02 Jan 2026 03:05:05 GMT") == 60
    assert after("Fri, 02 Jan 2026 03:05:05 -0000") == 60
    assert after("Thu, 01 Jan 2026 00:00:00 GMT") == 0
    assert after("999999999") == WEEK
    for value in (None, "", "soon", "-1", "nan", "inf", "1e3", "٣", "9" * 5000, "Fri, 99 Jan 2026 03:05:05 GMT"):
        assert after(value) is None


_LINE_END = st.sampled_from([b"\n", b"\r\n", b"\r"])
_TEXT = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=8).map(str.encode)


@settings(deadline=None)
@given(st.data())
def test_any_split_of_an_event_stream_gives_the_same_events(data: st.DataObject) -> None:
    """Events are the same with each kind of line end, with comments, and in pieces of any size."""
    events = data.draw(st.lists(st.lists(_TEXT, min_size=1, max_size=3), max_size=4))
    written = data.draw(st.sampled_from([b"", "\ufeff".encode()]))
    for lines in events:
        end = data.draw(_LINE_END)  # CR and LF from two lines would be one line's end
        for line in lines:
            written += data.draw(st.sampled_from([b"", b": a comment" + end])) + b"data: " + line + end
        written += end
    pieces = data.draw(st.lists(st.integers(0, len(written)), max_size=10))
    stream, found = EventStream(), []
    for start, end_at in zip([0, *sorted(pieces)], [*sorted(pieces), len(written)], strict=True):
        found += stream.feed(written[start:end_at])
    assert [value for _, value in [*found, *stream.end()]] == [b"\n".join(lines) for lines in events]


def test_an_event_without_end_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The size of an event is capped; comments that keep the connection alive do not count."""
    monkeypatch.setattr("gateway.events.MAX_EVENT", 1000)
    for piece in (b"x" * 100, b"data: x\n"):
        stream = EventStream()
        for _ in range(1000 // len(piece)):
            stream.feed(piece)
        with pytest.raises(ValueError, match="longer than 1000 bytes"):
            stream.feed(piece)
    stream = EventStream()
    for _ in range(10_000):
        stream.feed(b": still here\n")
    assert stream.feed(b"data: x\n\n") == [(b"", b"x")]


def test_a_long_line_in_small_pieces_costs_no_more_than_it_must() -> None:
    """The time that a long line takes does not grow with the square of its length."""

    def seconds(size: int) -> float:
        stream, piece = EventStream(), b"x" * 1024
        began = time.process_time()
        for _ in range(size // 1024):
            stream.feed(piece)
        stream.feed(b"\n\n")
        return time.process_time() - began

    small, large = (statistics.median(seconds(size) for _ in range(5)) for size in (2**20, 2**23))
    assert large < 8 * small * 4


_CHOICE = ["choices", "index", "delta", "message", "finish_reason", "content", "text", "refusal", "reasoning", "type"]
_CALL = ["tool_calls", "id", "function", "name", "arguments"]
_COUNTS = ["prompt_tokens", "completion_tokens_details", "reasoning_tokens", "cached_tokens"]
_FIELDS = [*_CHOICE, *_CALL, *_COUNTS]
_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats(allow_nan=False)
    | st.sampled_from(["", "x", "{}", "stop"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(_FIELDS),
            inner,
            max_size=6,
        )
    ),
    max_leaves=25,
)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(["choices", "usage", "model"]), _JSON, max_size=3), max_size=4))
def test_no_chunk_whatever_makes_more_than_stream_events(chunks: list[dict[str, Any]]) -> None:
    """A server's nonsense is left out, or is an error with a kind; it breaks nothing, and the fold takes all of it."""
    answer, fold = Answer(), StreamFold()
    try:
        for chunk in chunks:
            for event in answer.take(chunk):
                fold.add(event)
        for event in answer.end():
            fold.add(event)
    except RpcError as error:
        failed = error.data["kind"]
    else:
        failed = None
        orjson.dumps(fold.result())
    assert failed in (None, "cut", "bad_answer", "upstream_failed")


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_any_split_of_an_answer_comes_to_the_same_result(data: st.DataObject) -> None:
    """Issue "All of SEP": tool calls in interleaved pieces; how a server cuts and mixes them changes nothing."""
    texts = {0: '{"a": [1, 2]}', 1: '{"ü": "\\n"}', 2: "{}"}
    left = {index: list(text) for index, text in texts.items()}
    answer, fold, begun = Answer(), StreamFold(), set()
    while any(left.values()):
        index = data.draw(st.sampled_from([index for index, rest in left.items() if rest]))
        count = data.draw(st.integers(1, len(left[index])))
        piece, left[index] = "".join(left[index][:count]), left[index][count:]
        call: dict[str, Any] = {"index": index, "function": {"arguments": piece}}
        if index not in begun or data.draw(st.booleans()):
            begun.add(index)
            call["id"], call["function"]["name"] = f"c{index}", f"tool{index}"
        for event in answer.take({"choices": [{"delta": {"tool_calls": [call]}}]}):
            fold.add(event)
    for event in answer.take({"choices": [{"delta": {}, "finish_reason": "tool_calls"}]}):
        fold.add(event)
    for event in answer.end():
        fold.add(event)
    assert sorted(fold.result()["tool_calls"], key=lambda one: str(one["id"])) == [
        {"id": f"c{index}", "name": f"tool{index}", "arguments": json.loads(text)} for index, text in texts.items()
    ]


def test_text_in_parts_is_text() -> None:
    """Some servers send content as a list of parts."""
    answer = Answer()
    delta = {"content": [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}]}
    assert list(answer.take({"choices": [{"delta": delta, "finish_reason": "stop"}]})) == [Delta("ab")]
    assert list(answer.end()) == [Done("stop")]


def test_parts_within_parts_are_no_text() -> None:
    """Nobody sends them; JSON nests deeper than Python calls."""
    content: object = "deep"
    for _ in range(500):
        content = [{"type": "text", "text": content}]
    assert list(Answer().take({"choices": [{"delta": {"content": content}}]})) == []


@pytest.mark.parametrize(
    "extra", [{"a": "\ud83d"}, {"\ud83d": 1}, {"a": 10**30}, {"a": float("nan")}, "text", [], None]
)
def test_a_vendor_s_field_that_no_frame_can_hold_costs_nothing_else(extra: object) -> None:
    """What cannot be sent on is left out; the call and the counts stand."""
    answer, fold = Answer(), StreamFold()
    piece = {"index": 0, "id": "c", "function": {"name": "look", "arguments": "{}"}, "extra_content": extra}
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "\ud83d": 1, "more": 10**30}
    chunk = {"choices": [{"delta": {"tool_calls": [piece]}, "finish_reason": "tool_calls"}], "usage": usage}
    for event in [*answer.take(chunk), *answer.end()]:
        fold.add(event)
    result = fold.result()
    assert result["tool_calls"] == [{"id": "c", "name": "look", "arguments": {}}]
    assert result["usage"] == {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}


def test_a_vendor_s_field_may_be_nested_without_end() -> None:
    """JSON nests deeper than a frame may."""
    extra: dict[str, Any] = {}
    for _ in range(500):
        extra = {"a": extra}
    piece = {"index": 0, "id": "c", "function": {"name": "look"}, "extra_content": extra}
    answer, fold = Answer(), StreamFold()
    for event in answer.take({"choices": [{"delta": {"tool_calls": [piece]}, "finish_reason": "stop"}]}):
        fold.add(event)
    assert [call["name"] for call in fold.result()["tool_calls"]] == ["look"]

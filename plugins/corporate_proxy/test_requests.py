"""What the server is asked, how often, and what its refusals come to."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

import app as plugin
from driving import KEY, Proxy, Upstream
from gateway.failures import asked_wait
from gateway.memory import MAX_KEPT, Memory
from gateway.question import Habits, chat_request
from gateway.settings import Settings
from sepkit import ProviderRequest, RpcError
from tests.checked_host import CheckedHost, refused
from tests.memory_host import on_each_loop

Unique = Callable[[str], str]


def body_of(*messages: dict[str, Any], memory: Memory | None = None, **more: Any) -> dict[str, Any]:
    request = ProviderRequest(request_id="r", provider="p", model="m", messages=list(messages), **more)
    return chat_request(request, Habits(), memory or Memory())


def refusing(*steps: dict[str, Any]) -> str:
    """The name of a model that answers with these one after the other: ``status``, ``body``, and headers."""
    return f"steps?{urlencode({'steps': json.dumps(steps)})}"


# -- where and as whom -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("https://h/v1", "https://h/v1/chat/completions"),
        ("https://h/v1/", "https://h/v1/chat/completions"),
        ("https://h", "https://h/chat/completions"),
        ("https://h/v1?api-version=X", "https://h/v1/chat/completions?api-version=X"),
        ("https://h/v1/?api-version=X&a=b%2Fc", "https://h/v1/chat/completions?api-version=X&a=b%2Fc"),
        (
            "https://h/openai/deployments/d?api-version=X",
            "https://h/openai/deployments/d/chat/completions?api-version=X",
        ),
        ("https://h/v1/chat/completions", "https://h/v1/chat/completions"),
        ("https://h/d/chat/completions/?api-version=X", "https://h/d/chat/completions?api-version=X"),
        ("https://h:8443/a%20b/v1", "https://h:8443/a%20b/v1/chat/completions"),
        ("https://h/v1#part", "https://h/v1/chat/completions"),
        ("http://[::1]:8080/v1", "http://[::1]:8080/v1/chat/completions"),
    ],
)
def test_the_path_goes_before_the_query(url: str, asked: str) -> None:
    """``…?api-version=X`` is how Azure writes an address, also with the whole path."""
    settings = Settings({"CORPORATE_PROXY_URL": url})
    assert str(settings.endpoint("/chat/completions")) == asked
    assert str(settings.endpoint("/models")) == asked.replace("/chat/completions", "/models")


@pytest.mark.parametrize(
    ("query", "header", "shown"),
    [
        ("", "", ("authorization", f"Bearer {KEY}")),
        ("?api-version=2024-10-21", "", ("api-key", KEY)),
        ("?api-version=2024-10-21", "Authorization", ("authorization", f"Bearer {KEY}")),
        ("?version=1", "", ("authorization", f"Bearer {KEY}")),
        ("", "X-Api-Key", ("x-api-key", KEY)),
    ],
)
@on_each_loop
async def test_the_key_stands_in_the_header_that_the_server_reads(
    query: str,
    header: str,
    shown: tuple[str, str],
    upstream: Upstream,
    unique: Unique,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Azure's classic API is known by its query; any other header is a setting. It is in no other header."""
    monkeypatch.setenv("CORPORATE_PROXY_URL", upstream.url + query)
    monkeypatch.setenv("CORPORATE_PROXY_KEY", KEY)
    monkeypatch.setenv("CORPORATE_PROXY_KEY_HEADER", header)
    model = unique("ok")
    async with CheckedHost(plugin.app) as host:
        await host.complete("corporate-proxy", model, [], stream=False)
    (seen,) = upstream.seen(model)
    assert seen["target"] == f"/v1/chat/completions{query}"
    assert [(name, value) for name, value in seen["headers"].items() if KEY in value] == [shown]


@pytest.mark.parametrize(
    ("name", "value"), [("KEY_HEADER", "api key"), ("KEY_HEADER", "x\ny"), ("LEAVE_OUT", "stream_options, model")]
)
@on_each_loop
async def test_a_setting_that_cannot_be_used_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told when it is used."""
    monkeypatch.setenv("CORPORATE_PROXY_URL", "http://models.test/v1")
    monkeypatch.setenv("CORPORATE_PROXY_KEY", KEY)
    monkeypatch.setenv(f"CORPORATE_PROXY_{name}", value)
    async with CheckedHost(plugin.app) as host:
        error = await refused(host.complete("corporate-proxy", "m", [], stream=False))
    assert error.data == {"kind": "not_configured", "retryable": False}
    assert error.message.startswith(f"CORPORATE_PROXY_{name} ")


# -- messages ----------------------------------------------------------------------------------------------------------

PICTURE = {"url": "data:image/png;base64,AA==", "detail": "low"}
PART = {"type": "image_url", "image_url": PICTURE}
TEXT = {"type": "text", "text": "a"}
OURS = {"id": "m1", "timestamp": "2030-01-01T00:00:00Z", "tool_name": "look", "reasoning_content": "hm", "cache": True}


def test_the_server_is_sent_only_what_the_api_knows(proxy: Proxy, upstream: Upstream, unique: Unique) -> None:
    """The host's own fields stay with the host; images are parts of the content. Against the real server.

    Source: docs/protocol.md, section 9.
    """
    model = unique("ok")
    calls = [{"id": "c0", "name": "look", "arguments": {"at": 1}, "status": "done"}]
    proxy.complete(
        model,
        tools=[{"name": "look", "description": "Look.", "parameters": {}, "deferred": True, "extension": "e"}],
        messages=[
            {**OURS, "role": "system", "content": "Be kind."},
            {**OURS, "role": "user", "content": "What is this?", "images": [PICTURE, {"url": "https://a.test/b.png"}]},
            {**OURS, "role": "assistant", "content": "", "tool_calls": calls, "images": []},
            {**OURS, "role": "tool", "tool_call_id": "c0", "content": "seen", "tool_calls": []},
            {**OURS, "role": "user", "content": None, "name": "ada"},
        ],
    )
    (seen,) = upstream.seen(model)
    call = {"id": "c0", "type": "function", "function": {"name": "look", "arguments": '{"at":1}'}}
    assert seen["body"]["messages"] == [
        {"role": "system", "content": "Be kind."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?"},
                PART,
                {"type": "image_url", "image_url": {"url": "https://a.test/b.png"}},
            ],
        },
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "seen", "tool_call_id": "c0"},
        {"role": "user", "content": "", "name": "ada"},
    ]
    assert seen["body"]["tools"] == [
        {"type": "function", "function": {"name": "look", "description": "Look.", "parameters": {}}}
    ]


@pytest.mark.parametrize(
    ("content", "images", "written"),
    [
        ("a", None, "a"),
        ("a", [], "a"),
        ("a", [None, {}, {"url": 5}, {"url": ""}, "x"], "a"),
        ("a", "x", "a"),
        ("", [PICTURE], [PART]),
        (None, [PICTURE], [PART]),
        ("a", [{**PICTURE, "detail": None, "id": 1}], [TEXT, {**PART, "image_url": {"url": PICTURE["url"]}}]),
        ([TEXT], [PICTURE], [TEXT, PART]),
    ],
)
def test_images_are_parts_of_a_users_content(content: Any, images: Any, written: Any) -> None:
    """Text and parts that are there stay before them; what is not an image is left out."""
    body = body_of({"role": "user", "content": content, "images": images})
    assert body["messages"] == [{"role": "user", "content": written}]


def test_images_of_tools_stand_behind_all_their_answers() -> None:
    """The API takes images from users only, and nothing between the answers to the calls of one message."""
    tool: dict[str, Any] = {"role": "tool", "content": "seen", "tool_name": "look", "images": [PICTURE]}
    messages: list[dict[str, Any]] = [
        {**tool, "tool_call_id": "a"},
        {**tool, "tool_call_id": "b"},
        {"role": "user", "content": "and?"},
    ]
    first, second, shown, last = body_of(*messages)["messages"]
    assert (first["tool_call_id"], second["tool_call_id"], last["content"]) == ("a", "b", "and?")
    label = {"type": "text", "text": "Images of the tool look:"}
    assert shown == {"role": "user", "content": [label, PART, label, PART]}
    assert body_of(*messages[:2])["messages"][-1] == shown, "also where nothing follows"


# -- what comes back ---------------------------------------------------------------------------------------------------

SIGNED = {"google": {"thought_signature": "c2ln"}}


def test_what_a_server_wants_back_with_a_call_comes_back(proxy: Proxy, upstream: Upstream, unique: Unique) -> None:
    """Gemini's signature of a call: the host's tool call does not hold it, the next request does."""
    piece = {
        "index": 0,
        "id": "c0",
        "function": {"name": "look", "arguments": '{"b": 1, "a": 2}', "signature": "s"},
        "extra_content": SIGNED,
        "vendor": None,
    }
    said = {"choices": [{"delta": {"tool_calls": [piece]}, "finish_reason": "tool_calls"}]}
    body = f"data: {json.dumps(said)}\n\ndata: [DONE]\n\n"
    result = proxy.complete(f"verbatim?{urlencode({'type': 'text/event-stream', 'body': body})}")
    (call,) = result["tool_calls"]
    assert set(call) == {"id", "name", "arguments"}
    model = unique("ok")
    # In another order, as a host may write them; a call with the same id and other arguments is another call.
    again = {**call, "arguments": {"a": 2, "b": 1}}
    other = {**call, "arguments": {"a": 3}}
    proxy.complete(model, messages=[{"role": "assistant", "content": None, "tool_calls": [again, other]}])
    first, second = upstream.seen(model)[0]["body"]["messages"][0]["tool_calls"]
    assert first == {
        "id": "c0",
        "type": "function",
        "function": {"name": "look", "arguments": '{"a":2,"b":1}', "signature": "s"},
        "extra_content": SIGNED,
    }
    assert set(second) == {"id", "type", "function"}


def test_what_a_host_kept_of_a_call_goes_back_with_it() -> None:
    """``extra_content`` of the stream's ``ToolCallStart``; after a restart the plugin knows nothing of it."""
    call = {"id": "c0", "name": "look", "arguments": {}, "extra_content": SIGNED, "provider_specific_fields": {"a": 1}}
    for written in (call, {**call, "function": {"name": "look", "arguments": "{}"}, "type": "function"}):
        (message,) = body_of({"role": "assistant", "tool_calls": [written]})["messages"]
        assert message["tool_calls"][0]["extra_content"] == SIGNED
        assert message["tool_calls"][0]["provider_specific_fields"] == {"a": 1}


def test_arguments_that_were_not_json_go_back_as_text() -> None:
    """The API's arguments are a string; what stands in it is JSON in any case, since servers parse it."""
    for arguments in ('{"at": ', "", "x"):
        (message,) = body_of({"role": "assistant", "tool_calls": [{"id": "c", "name": "n", "arguments": arguments}]})[
            "messages"
        ]
        assert json.loads(message["tool_calls"][0]["function"]["arguments"]) == arguments


def test_the_memory_of_calls_is_bounded_and_keeps_the_latest() -> None:
    """Signatures have kilobytes, and a process lives for days."""
    memory = Memory()
    big = {"extra_content": "x" * (MAX_KEPT // 10)}
    for number in range(30):
        memory.keep("c0", "look", {"number": number}, big)
        memory.keep("c0", "look", {"number": number}, big)
        assert memory.fields("c0", "look", {"number": 0}) in (big, {})
    kept = [number for number in range(30) if memory.fields("c0", "look", {"number": number})]
    assert 8 <= len(kept) <= 10
    assert kept[-1] == 29
    memory.keep("c1", "look", {}, {"extra_content": float("nan"), "half": "\ud800"})
    assert memory.fields("c1", "look", {}) == {}
    assert memory.fields("\ud800", "look", {}) == {}


# -- what a server does not take ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "said", "left_out"),
    [
        (400, {"error": {"message": "Unrecognized request argument supplied: stream_options"}}, {"stream_options"}),
        (422, {"detail": [{"loc": ["body", "stream_options"], "msg": "Extra inputs"}]}, {"stream_options"}),
        (400, {"error": {"message": "Unsupported parameter", "param": "reasoning_effort"}}, {"reasoning_effort"}),
        (400, {"message": "this model does not support thinking"}, {"reasoning_effort"}),
        (400, {"error": {"message": "Unknown field"}}, {"stream_options", "reasoning_effort"}),
        (400, "", {"stream_options", "reasoning_effort"}),
        (500, {"error": {"message": "'stream_options' is not implemented"}}, {"stream_options"}),
    ],
)
def test_what_a_server_does_not_take_is_left_out_at_once_and_from_then_on(
    proxy: Proxy, upstream: Upstream, unique: Unique, status: int, said: Any, left_out: set[str]
) -> None:
    """``stream_options`` and ``reasoning_effort`` are asked of each; a refusal costs one request more, once."""
    model = unique(refusing({"status": status, "body": said}))
    for _ in range(2):
        assert proxy.complete(model, thinking="high")["content"] == "Hello, Ada!"
    first, *others = [set(one["body"]) for one in upstream.seen(model)]
    assert first >= {"stream_options", "reasoning_effort"}
    assert others == [first - left_out] * 2


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (400, {"error": {"message": "the context is too long"}}),
        (404, {"error": {"message": "no such model"}}),
        (401, {"error": {"message": "stream_options"}}),
        (403, ""),
    ],
)
def test_a_refusal_of_something_else_is_asked_once(
    proxy: Proxy, upstream: Upstream, unique: Unique, status: int, said: Any
) -> None:
    """To ask again without them would bring the same."""
    model = unique(refusing({"status": status, "body": said}))
    assert proxy.refused(model)["data"]["attempts"] == 1
    assert len(upstream.seen(model)) == 1


def test_a_server_that_refuses_whatever_is_left_out_is_told_as_it_is(
    proxy: Proxy, upstream: Upstream, unique: Unique
) -> None:
    """One more request, and the error; the next completion is asked as ever."""
    steps = [{"status": 400, "body": {"error": {"message": "unknown field in stream_options"}}}] * 2
    model = unique(refusing(*steps))
    assert proxy.refused(model)["data"]["status"] == 400
    assert proxy.complete(model)["content"] == "Hello, Ada!"
    assert ["stream_options" in one["body"] for one in upstream.seen(model)] == [True, False, True]


def test_a_server_that_wants_the_thoughts_back_gets_them(proxy: Proxy, upstream: Upstream, unique: Unique) -> None:
    """DeepSeek's reasoner refuses a conversation without the ``reasoning_content`` that is no part of the API."""
    missing = {"error": {"message": "Missing `reasoning_content` field in the assistant message at message index 1"}}
    model = unique(refusing({"status": 400, "body": missing}))
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "a", "reasoning_content": "hm"}]
    proxy.complete(model, messages=messages)
    first, second = [one["body"]["messages"][1] for one in upstream.seen(model)]
    assert (first.get("reasoning_content"), second.get("reasoning_content")) == (None, "hm")


@on_each_loop
async def test_what_is_to_be_left_out_is_never_sent(
    upstream: Upstream, unique: Unique, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A setting, for servers that refuse it without saying so."""
    monkeypatch.setenv("CORPORATE_PROXY_URL", upstream.url)
    monkeypatch.setenv("CORPORATE_PROXY_LEAVE_OUT", "stream_options, reasoning_effort")
    model = unique("ok")
    async with CheckedHost(plugin.app) as host:
        await host.complete("corporate-proxy", model, [], stream=False, thinking="high")
    assert set(upstream.seen(model)[0]["body"]) == {"model", "messages", "stream"}


# -- what a refusal says -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        {"error": {"message": "no luck"}},
        {"error": "no luck"},
        {"message": "no luck"},
        {"detail": "no luck"},
        {"detail": [{"loc": ["body", "messages", 0], "msg": "no luck", "type": "missing"}]},
        {"detail": {"error": {"message": "no luck"}}},
        [{"error": {"code": 400, "message": "no luck", "status": "INVALID_ARGUMENT"}}],
        {"errors": [{"message": "no luck"}, {"message": "again"}]},
        {"errors": {"model": ["no luck"]}},
        {"title": "no luck", "status": 400, "type": "about:blank"},
        {"fault": {"faultstring": "no luck"}},
        {"error": {"message": "Provider returned error", "metadata": {"raw": '{"error": {"message": "no luck"}}'}}},
        {"error": {"code": "no luck"}},
        {"error": {"message": '{"error": {"message": "no luck"}}'}},
        {"Message": "no luck"},
        {"error": {"innererror": 1, "details": [{"message": "no luck"}]}},
        {"something": {"else": "no luck"}},
        "no luck",
        "\n no luck \n",
        '"no luck"',
        'data: {"error": {"message": "no luck"}}\n\n',
        "{no luck",
        "<?xml version='1.0'?><Error><Message>no luck</Message></Error>",
    ],
    ids=repr,
)
def test_a_refusal_says_what_the_server_said(proxy: Proxy, unique: Unique, said: Any) -> None:
    """However it writes it: as an object, in a list, as text."""
    kind = "application/xml" if str(said).startswith("<?xml") else "application/json"
    error = proxy.refused(unique(refusing({"status": 409, "body": said, "type": kind})))
    assert error["data"]["kind"] == "refused"
    assert error["message"].partition("(409): ")[2].find("no luck") >= 0, error["message"]


def test_a_refusal_without_a_word_is_one(proxy: Proxy, unique: Unique) -> None:
    """Nothing is invented; a page is named."""
    assert proxy.refused(unique(refusing({"status": 409, "body": ""})))["message"].endswith("refused the request (409)")
    page = proxy.refused(unique(refusing({"status": 409, "body": "<html>no luck</html>", "type": "text/html"})))
    assert "no luck" not in page["message"]


# -- again -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "attempts"),
    [
        ({"status": 429, "Retry-After-Ms": "10"}, 2),
        ({"status": 429, "x-ms-retry-after-ms": "10"}, 2),
        ({"status": 503, "Retry-After": "0"}, 2),
        ({"status": 529}, 2),
        ({"status": 504, "Retry-After": "0"}, 2),
        ({"status": 408, "Retry-After": "0"}, 2),
        ({"status": 409, "x-should-retry": "true"}, 2),
        ({"status": 504}, 1),
        ({"status": 408}, 1),
        ({"status": 409, "body": "no luck"}, 1),
        ({"status": 501, "body": "no luck"}, 1),
        ({"status": 500, "x-should-retry": "false"}, 1),
        ({"status": 429, "x-should-retry": "false"}, 1),
        ({"status": 429, "Retry-After-Ms": "60000"}, 1),
        ({"status": 503, "Retry-After": "Fri, 01 Jan 2100 00:00:00 GMT"}, 1),
        ({"status": 429, "body": {"error": {"details": [{"retryDelay": "0.01s"}]}}}, 2),
        ({"status": 429, "body": [{"error": {"details": [{"@type": "x"}, {"retryDelay": "60s"}]}}]}, 1),
        ({"status": 429, "body": {"error": {"code": "insufficient_quota", "message": "no luck"}}}, 1),
        ({"status": 429, "body": {"error": {"type": "insufficient_quota"}}, "Retry-After": "0"}, 1),
        ({"status": 429, "body": {"error": {"type": "exceeded_current_quota_error"}}, "x-should-retry": "true"}, 1),
        ({"status": 402, "body": {"error": {"message": "Insufficient Balance"}}}, 1),
        ({"status": 429, "body": {"error": {"message": "quota of requests per minute", "code": "rate_limit"}}}, 2),
    ],
    ids=repr,
)
def test_a_request_is_asked_again_as_the_server_says(
    proxy: Proxy, upstream: Upstream, unique: Unique, step: dict[str, Any], attempts: int
) -> None:
    """In milliseconds, seconds, dates and delays; what is used up until somebody pays is never asked again."""
    model = unique(refusing(step))
    answer = proxy.answer(proxy.start(model))
    assert ("result" in answer) == (attempts == 2), answer
    assert len(upstream.seen(model)) == attempts
    if attempts == 1:
        is_over = step["status"] == 402 or "uota" in json.dumps(step)
        assert (answer["error"]["data"]["kind"] == "out_of_quota") == is_over
        assert answer["error"]["data"]["retryable"] == (not is_over and step["status"] not in (409,))


def test_the_shortest_of_the_headers_that_say_how_long_counts_first() -> None:
    """Milliseconds before seconds, headers before the body; nonsense says nothing."""
    now = time.time()

    def after(said: object = None, **headers: str) -> float | None:
        return asked_wait(httpx.Headers({name.replace("_", "-"): value for name, value in headers.items()}), said, now)

    delay = {"error": {"details": [{"retryDelay": "7s"}]}}
    assert after(retry_after_ms="1500", retry_after="9") == 1.5
    assert after(retry_after_ms="soon", retry_after="9") == 9
    assert after(delay, retry_after="9") == 9
    assert after(delay) == 7
    assert after([delay]) == 7
    wrong: list[object] = [None, [], {}, {"error": {"details": "7s"}}, {"error": {"details": [{"retryDelay": 7}]}}]
    for said in wrong:
        assert after(said, retry_after_ms="-1") is None


@on_each_loop
async def test_a_failure_within_the_stream_that_is_about_money_is_not_retryable(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the status 200, as routers send it."""
    monkeypatch.setenv("CORPORATE_PROXY_URL", upstream.url)
    body = 'data: {"error": {"message": "no luck", "type": "insufficient_quota"}}\n\n'

    async def ask() -> RpcError:
        async with CheckedHost(plugin.app) as host:
            model = f"verbatim?{urlencode({'type': 'text/event-stream', 'body': body})}"
            return await refused(host.complete("corporate-proxy", model, [], stream=False))

    assert (await ask()).data == {"kind": "out_of_quota", "retryable": False}

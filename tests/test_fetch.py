"""``ctx.fetch`` and ``ctx.fetch_stream`` as an app meets them, and what ``App(needs=)`` says of where they go."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sepkit import App, TaskContext, ToolContext
from sepkit.contexts.fetching import Headers, Response, charset_of, checked_request
from sepkit.contexts.network import Network, checked_needs
from sepkit.errors import FetchError, HttpError, InvalidData, RegistrationError
from sepkit.testing import TestHost
from sepkit.testing.clock import run_virtual
from tests.fetching import closing, get
from tests.http_server import ok, serving
from tests.memory_host import on_each_loop

API = "https://api.example.com"


def network(*needs: str) -> Network:
    return Network("news", checked_needs(needs))


@pytest.mark.parametrize(
    ("needs", "wrong"),
    [
        ("network:api.example.com", "needs='network:api.example.com': write a list"),
        (5, "needs=5: write a list"),
        (["api.example.com"], 'write "network:HOST", "network:HOST:PORT" or "network:*"'),
        (["network"], 'write "network:HOST"'),
        (["Network:x"], 'write "network:HOST"'),
        (["user.list"], 'write "network:HOST"'),
        ([7], 'write "network:HOST"'),
        (["network:"], "it has no host"),
        (["network:https://api.example.com"], "write the host alone, without a scheme or a path"),
        (["network:api.example.com/v1"], "write the host alone"),
        (["network:*.example.com"], "there are no wildcards within a host"),
        (["network:*:443"], "there are no wildcards"),
        (["network:[::1]"], 'an IPv6 address cannot be named; "network:localhost" covers ::1'),
        (["network:::1"], "an IPv6 address cannot be named"),
        (["network:x:0"], "a port is a number from 1 to 65535"),
        (["network:x:65536"], "a port is a number"),
        (["network:x:"], "a port is a number"),
        (["network:x:http"], "a port is a number"),
        (["network:x:١"], "a port is a number"),
        (["network:a b"], "is not a host"),
        (["network:user@x"], "is not a host"),
        (["network:x\n"], "is not a host"),
        (["network:-x"], "is not a host"),
        (["network:a..b"], "is not a host"),
        (["network:127.1"], "write an IPv4 address as four numbers"),
        (["network:0x7f.0.0.1"], "write an IPv4 address as four numbers"),
        (["network:2130706433"], "write an IPv4 address as four numbers"),
        (["network:" + "a" * 64], "is not a host"),
    ],
)
def test_a_need_of_an_unknown_form_is_refused_where_it_is_written_with_what_may_stand_there(
    needs: Any, wrong: str
) -> None:
    with pytest.raises(RegistrationError, match=re.escape(wrong)) as raised:
        App("news", needs=needs)
    assert str(raised.value).startswith("App 'news': needs=")
    assert "\n" not in str(raised.value)


def test_needs_are_kept_in_one_form_each_of_them_once() -> None:
    needs = ["network:API.Example.com.", "network:api.example.com", "network:x:0443", "network:bücher.example"]
    app = App("news", needs=iter(needs))  # type: ignore[arg-type]  # any iterable will do
    assert app.needs == ("network:api.example.com", "network:x:443", "network:xn--bcher-kva.example")
    assert App("news").needs == ()


@pytest.mark.parametrize(
    ("need", "urls"),
    [
        ("network:example.com", ["http://example.com", "https://EXAMPLE.com./x", "https://example.com:8443/?q#f"]),
        ("network:example.com:443", ["https://example.com/", "https://example.com:443/", "http://example.com:443/"]),
        ("network:localhost", ["http://localhost:1/", "http://127.0.0.1/", "http://[::1]/", "http://[0:0::1]:80/"]),
        ("network:localhost:80", ["http://localhost/", "http://127.0.0.1:80", "http://[::1]/"]),
        (
            "network:bücher.example",
            ["http://BÜCHER.example/", "http://xn--bcher-kva.example/", "http://bu\u0308cher。example/"],
        ),
        ("network:10.0.0.1", ["http://10.0.0.1/", "http://１０.0.0.1/"]),
        ("network:a_b.example", ["http://a_b.example/"]),
        ("network:*", ["http://anything.example:1/", "http://[fe80::1]/", "https://127.0.0.1/"]),
    ],
)
def test_a_need_allows_each_spelling_of_its_host_and_no_other_host(need: str, urls: list[str]) -> None:
    allowed, others = network(need), network("network:else.example")
    for url in urls:
        place = allowed.checked(url)
        assert place.url.isascii()
        assert place.url == allowed.checked(place.url).url, "its one form stays as it is"
        with pytest.raises(FetchError, match="news does not say that it needs"):
            others.checked(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com.evil.example/",
        "http://evil.example/?http://example.com/",
        "http://evil.example/http://example.com",
        "http://evil.example#@example.com/",
        "http://evil.example?@example.com/",
        "http://example.com:8443/",
        "http://sub.example.com/",
        "http://example.co/",
        "http://127.0.0.2/",
        "http://[::ffff:127.0.0.1]/",
        "http://0.0.0.0/",
        "http://localhost.example/",
    ],
)
def test_what_only_looks_like_an_allowed_host_is_refused(url: str) -> None:
    with pytest.raises(FetchError, match=r"news does not say that it needs .*; write App\(\"news\", needs=\["):
        network("network:example.com:443", "network:localhost:1").checked(url)


@pytest.mark.parametrize(
    ("url", "wrong"),
    [
        ("http://example.com\\@evil.example/", "write it as %5C"),
        ("http:\\\\evil.example", "write it as %5C"),
        ("http://exa\tmple.com/", "write it as %09"),
        ("http://example.com/\r\nHost: evil", "write it as %0D"),
        ("\x00http://example.com/", "write it as %00"),
        ("http://example.com/\x7f", "write it as %7F"),
        ("http://example.com/\ud800", "write it as %ED%A0%80"),
        ("http://ada:pw@example.com/", r"http://…@example.com: a URL holds no user name or password here"),
        ("http://example.com@evil.example/", "no user name or password"),
        ("http://@example.com/", "no user name or password"),
        ("ftp://example.com/", "only http and https are fetched, not ftp"),
        ("file:///etc/passwd", "only http and https are fetched, not file"),
        ("example.com/x", "is not a URL; write it with its scheme and host"),
        ("//example.com/", "is not a URL"),
        ("/x", "is not a URL"),
        ("", "is not a URL"),
        (" http://example.com/", "is not a URL"),
        ("data:text/plain,x", "is not a URL"),
        ("http:example.com", "is not a URL"),
        ("http:///x", "it has no host"),
        ("http://./x", "it has no host"),
        ("http://:80/", "it has no host"),
        ("http://example.com:99999/", "a port is a number from 1 to 65535, not 99999"),
        ("http://example.com:0/", "a port is a number"),
        ("http://example.com:8o/", "is not a host and a port"),
        ("http://example.com:１/", "is not a host and a port"),
        ("http://[::1/", "is not a host and a port"),
        ("http://::1/", "is not a host and a port"),
        ("http://[::1]x/", "is not a host and a port"),
        ("http://[::g]/", "is not an IPv6 address"),
        ("http://[fe80::1%25eth0]/", "an address with a zone"),
        ("http://[fe80::1%eth0]/", "an address with a zone"),
        ("http://127.1/", "write an IPv4 address as four numbers"),
        ("http://0x7f000001/", "write an IPv4 address as four numbers"),
        ("http://0177.0.0.1/", "write an IPv4 address as four numbers"),
        ("http://127.0.0.01/", "write an IPv4 address as four numbers"),
        ("http://1.2.3.4.5/", "write an IPv4 address as four numbers"),
        ("http://exa mple.com/", "is not a host"),
        ("http://exa%6dple.com/", "is not a host"),
        ("http://a..b/", "is not a host"),
        ("http://example.com\u2044evil/", "is not a host"),
        ("http://" + "a." * 127 + "b/", "is not a host"),
        ("http://example.com/" + "x" * 70_000, "a URL has at most 65536 characters"),
        (None, "a URL is a text, not None"),
        (b"http://example.com/", "a URL is a text"),
    ],
)
def test_a_url_that_could_be_read_in_two_ways_is_refused_in_one_sentence_also_where_all_hosts_are_needed(
    url: Any, wrong: str
) -> None:
    with pytest.raises(FetchError, match=re.escape(wrong)) as raised:
        network("network:*").checked(url)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 500
    assert "pw" not in str(raised.value).replace("pwd", "")


@given(st.text(st.characters(codec=None), max_size=30), st.sampled_from(["", "http://", "https://example.com"]))
@example("@evil.example/", "https://example.com")
@example(":80@evil.example/", "https://example.com")
def test_no_text_gets_past_with_another_host_than_the_one_that_is_needed(text: str, before: str) -> None:
    import httpx

    try:
        place = network("network:example.com").checked(before + text)
    except FetchError:
        return
    assert place.host == "example.com"
    sent = httpx.URL(place.url)
    assert (sent.scheme, sent.host, sent.port or place.port) == (place.scheme, place.host, place.port)


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"method": "GET /x HTTP/1.1\r\nHost: evil"}, "write GET, POST"),
        ({"method": ""}, "write GET, POST"),
        ({"method": "CONNECT"}, "write GET, POST"),
        ({"method": "trace"}, "write GET, POST"),
        ({"method": 5}, "write GET, POST"),
        ({"timeout": 0}, "timeout is in seconds, above 0"),
        ({"timeout": -1}, "timeout is in seconds"),
        ({"timeout": float("nan")}, "timeout is in seconds"),
        ({"timeout": float("inf")}, "timeout is in seconds"),
        ({"timeout": None}, "timeout is in seconds"),
        ({"timeout": True}, "timeout is in seconds"),
        ({"timeout": "30"}, "timeout is in seconds"),
        ({"max_bytes": 0}, "max_bytes is a number of bytes"),
        ({"max_bytes": 1.5}, "max_bytes is a number of bytes"),
        ({"body": {"a": 1}}, "body is a str, bytes or None, not dict; of data, write orjson.dumps(data)"),
        ({"body": "\ud800"}, "half a character"),
        ({"headers": [("a", "b")]}, "headers is a dict of texts, not list"),
        ({"headers": {"a b": "c"}}, "'a b' is not the name of a header"),
        ({"headers": {"a\r\nb": "c"}}, "is not the name of a header"),
        ({"headers": {"": "c"}}, "is not the name of a header"),
        ({"headers": {5: "c"}}, "is not the name of a header"),
        ({"headers": {"X": "s3cret\r\nY: z"}}, "the value of X is not a text of printable ASCII in one line"),
        ({"headers": {"X": "s3cret\x00"}}, "the value of X"),
        ({"headers": {"X": "s3cret-å"}}, "the value of X"),
        ({"headers": {"X": 5}}, "the value of X"),
        ({"headers": {"X": "s3cret" * 20_000}}, "the value of X"),
        ({"headers": {f"X-{n}": "" for n in range(101)}}, "headers has 101 entries; at most 100 are sent"),
        ({"headers": {"Host": "evil.example"}}, "Host is sent by the client itself; leave it out"),
        ({"headers": {"content-length": "5"}}, "is sent by the client itself"),
        ({"headers": {"Transfer-Encoding": "chunked"}}, "is sent by the client itself"),
        ({"headers": {"Proxy-Authorization": "s3cret"}}, "is sent by the client itself"),
    ],
)
def test_an_option_that_cannot_be_sent_is_refused_and_no_secret_is_quoted(options: Any, wrong: str) -> None:
    given = {"method": "GET", "headers": None, "body": None, "timeout": 30, **options}
    with pytest.raises(ValueError, match=re.escape(wrong)) as raised:
        checked_request(API, **given)
    assert "s3cret" not in str(raised.value)


@attrs.frozen
class News:
    title: str
    points: int = 0


def an_app(*needs: str) -> App:
    app = App("news", needs=needs)

    @app.tool
    async def get(url: str, ctx: ToolContext, options: dict[str, Any] | None = None) -> Any:
        try:
            answer = await ctx.fetch(url, **(options or {}))
        except FetchError as error:
            return f"{type(error).__name__}: {error}"
        return [answer.status, answer.text]

    @app.tool
    def get_in_a_thread(url: str, ctx: ToolContext) -> Any:
        return ctx.wait(ctx.fetch(url)).text

    @app.tool
    async def stream(url: str, ctx: ToolContext, binary: bool = False) -> Any:
        try:
            if binary:
                async with ctx.fetch_stream(url, binary=True) as pieces:
                    return [piece.hex() async for piece in pieces]
            async with ctx.fetch_stream(url) as chunks:
                return [chunk async for chunk in chunks]
        except HttpError as error:
            return f"{type(error).__name__} {error.status}: {error}"
        except FetchError as error:
            return f"{type(error).__name__}: {error}"

    return app


@on_each_loop
async def test_a_test_scripts_the_answers_of_servers_and_sees_what_was_sent() -> None:
    script: dict[str, Any] = {
        f"{API}/text": "hello",
        f"{API}/json": {"a": [1]},
        f"POST {API}/json": Response(201, {"X-Y": "z"}, b"made"),
        f"{API}/list": ["one", "two"],
        f"{API}/moved": Response(302, {"Location": "https://evil.example/"}),
        f"{API}/near": Response(302, {"Location": "/text"}),
        f"{API}/down": FetchError("no network"),
    }
    async with TestHost(an_app("network:api.example.com"), fetch=script) as host:

        async def got(path: str, **options: Any) -> Any:
            return (await host.call_tool("get", {"url": API + path, "options": options})).details

        assert await got("/text?q=1") == [200, "hello"]
        assert await got("/json") == [200, '{"a":[1]}']
        assert await got("/json", method="POST", body="x", headers={"A": "b"}) == [201, "made"]
        assert [await got("/list"), await got("/list")] == [[200, "one"], [200, "two"]]
        assert await got("/near") == [200, "hello"]
        assert (host.fetched[2].method, host.fetched[2].url, host.fetched[2].body) == ("POST", f"{API}/json", b"x")
        assert host.fetched[2].headers["a"] == "b"
        count = len(host.fetched)
        moved = (await host.call_tool("get", {"url": f"{API}/moved"})).content
        assert moved.startswith(
            f"FetchError: GET {API}/moved: it redirects elsewhere; https://evil.example/: news does"
        )
        assert (await host.call_tool("get", {"url": f"{API}/down"})).content == "FetchError: no network"
        assert "no answer; TestHost(fetch=...) has" in (await host.call_tool("get", {"url": f"{API}/else"})).content
        assert (await host.call_tool("get", {"url": "https://evil.example"})).content.endswith(
            'write App("news", needs=["network:api.example.com", "network:evil.example"])'
        )
        assert len(host.fetched) == count + 3
        assert not [line.message for line in host.logs if "HTTP Request" in line.message], "a URL may hold a key"


@on_each_loop
async def test_a_test_scripts_answers_with_a_function_chunks_and_connections_that_break() -> None:
    async def pieces() -> AsyncIterator[str | bytes]:
        yield "one"
        yield b"\xe2\x82"
        yield b"\xac"

    async def breaks() -> AsyncIterator[str]:
        yield "one"
        raise FetchError("the connection broke")

    def script(request: Any) -> Any:
        answers = {"/pieces": pieces, "/breaks": breaks, "/none": lambda: Response(404, content="gone")}
        return answers[request.url.removeprefix(API)]()  # type: ignore[no-untyped-call]

    async with TestHost(an_app("network:*"), fetch=script) as host:

        async def streamed(path: str, **options: Any) -> Any:
            answer = await host.call_tool("stream", {"url": API + path, **options})
            return answer.details if answer.details is not None else answer.content

        assert await streamed("/pieces") == ["one", "€"]
        assert await streamed("/pieces", binary=True) == ["6f6e65", "e282", "ac"]
        assert await streamed("/breaks") == "FetchError: the connection broke"
        assert await streamed("/none") == f"HttpError 404: GET {API}/none: HTTP 404: gone"


def test_a_script_that_raises_or_answers_nothing_fails_the_test() -> None:
    def script(request: Any) -> Any:
        return None

    with (
        pytest.raises(AssertionError, match="fetch answers 'GET https://x/' with None; expected a Response"),
        TestHost(an_app("network:x"), fetch=script) as host,
    ):
        host.call_tool("get", {"url": "https://x/"})


def test_without_a_script_a_test_reaches_no_server_and_without_needs_no_app_does() -> None:
    with TestHost(an_app("network:x")) as host:
        answer = host.call_tool("get", {"url": "https://x/"}).content
        assert (
            answer
            == "FetchError: GET https://x/: this host reaches no server; TestHost(fetch=...) says what they answer"
        )
    with TestHost(an_app()) as host:
        answer = host.call_tool("get", {"url": "http://localhost:8080/x?key=s3cret"}).content
        assert answer == (
            "FetchError: http://localhost:8080/x: news does not say that it needs localhost; "
            'write App("news", needs=["network:localhost:8080"])'
        )


def test_a_def_handler_fetches_in_its_thread() -> None:
    with TestHost(an_app("network:x"), fetch={"https://x/": "hi"}) as host:
        assert host.call_tool("get_in_a_thread", {"url": "https://x"}).content == "hi"


def test_on_a_virtual_clock_a_server_that_never_answers_costs_no_time() -> None:
    import asyncio

    async def never(request: Any) -> str:
        await asyncio.sleep(1000)
        return ""

    async def story() -> None:
        async with TestHost(an_app("network:x"), fetch=never) as host:
            answer = await host.call_tool("get", {"url": "https://x/", "options": {"timeout": 300}}, timeout=500)
            assert answer.content == "FetchError: GET https://x/: no answer within 300 s"

    run_virtual(story())


@on_each_loop
async def test_a_background_task_fetches_too() -> None:
    import asyncio

    app, found = App("news", needs=["network:x"]), asyncio.Queue[str]()

    @app.task
    async def poll(ctx: TaskContext) -> None:
        found.put_nowait((await ctx.fetch("https://x/")).text)
        await ctx.wait_stop()

    async with TestHost(app, fetch={"https://x/": "news"}):
        assert await found.get() == "news"


def test_an_answer_is_read_as_json_into_a_class_and_what_does_not_fit_is_said_with_its_place() -> None:
    answer = Response(content=b'[{"title": "a", "points": 3, "new field": 1}]')
    assert answer.json() == [{"title": "a", "points": 3, "new field": 1}]
    assert answer.json(list[News]) == [News("a", 3)]
    with pytest.raises(InvalidData, match=r"^\$: expected JSON, got "):
        Response(content="<html>").json()
    with pytest.raises(InvalidData, match=r"\$\[0\].points: expected integer"):
        Response(content=b'[{"title": "a", "points": "x"}]').json(list[News])
    with pytest.raises(RegistrationError):
        Response(content=b"1").json(type(ok))


def test_a_host_that_hands_on_texts_only_gives_no_bytes() -> None:
    answer = Response(content="grüße")
    assert answer.text == "grüße"
    with pytest.raises(FetchError, match=r"this host hands on texts only; use .text or .json\(\)"):
        _ = answer.content


def test_headers_are_found_in_any_case() -> None:
    headers = Headers([("X-A", "1"), ("x-a", "2"), ("B", "3")])
    assert dict(headers) == {"x-a": "1, 2", "b": "3"}
    assert headers["x-A"] == "1, 2"
    assert "B" in headers
    assert "c" not in headers


@pytest.mark.parametrize(
    ("content_type", "charset"),
    [
        ("", "utf-8"),
        ("text/plain", "utf-8"),
        ("text/html; charset=ISO-8859-1", "iso8859-1"),
        ('text/html; Charset = "windows-1252"', "cp1252"),
        ("text/html; charset=no-such", "utf-8"),
        ("text/html; charset=hex", "utf-8"),
        ("text/html; charset=unicode_escape", "utf-8"),
        ("text/html; charset=idna", "utf-8"),
        ("text/html; charset=" + "x" * 10_000, "utf-8"),
        ("text/html; charset=\0", "utf-8"),
    ],
)
def test_a_charset_is_taken_from_the_answer_where_it_is_one(content_type: str, charset: str) -> None:
    assert charset_of(content_type) == charset


@on_each_loop
async def test_a_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    from sepkit.capabilities.local.backend import LocalBackend

    async with serving(ok(b"by the proxy")) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url())
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        backend = LocalBackend("news", None, needs=["network:far.example"])
        async with closing(backend):
            assert (await get(backend, "http://far.example/x")).text == "by the proxy"
            assert proxy.asked[0].path == "http://far.example/x"
            with pytest.raises(FetchError, match="does not say that it needs"):
                await get(backend, "http://other.example/")
        monkeypatch.setenv("HTTP_PROXY", "no://proxy")
        backend = LocalBackend("news", None, needs=["network:far.example"])
        async with closing(backend):
            with pytest.raises(FetchError, match=r"^the HTTP client cannot be made: "):
                await get(backend, "http://far.example/x")


def test_without_httpx_it_says_what_to_install_and_an_app_that_does_not_fetch_needs_none_of_it() -> None:
    code = """
import asyncio, sys
sys.modules["httpx"] = None
from sepkit import App
app = App("news", needs=["network:x"])
from sepkit.capabilities.local.backend import LocalBackend
from sepkit.contexts.fetching import checked_request
request = checked_request("https://x/", method="GET", headers=None, body=None, timeout=30)
backend = LocalBackend("news", None, needs=app.needs)
try:
    asyncio.run(backend.fetcher.fetch(request))
except Exception as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "ctx.fetch needs httpx, which is not installed: python -m pip install 'sepkit[fetch]'\n"
    code = """
import sys
from sepkit import App
import sepkit.serving.served, sepkit.faces.sep.dispatcher
App("quiet")
late = {"sepkit.contexts.network", "sepkit.contexts.fetching", "sepkit.contexts.users", "httpx", "anyio"}
print(sorted(late & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

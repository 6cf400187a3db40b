"""HTTP by each kind of backend, from a server whose every byte is given."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from sepkit.contexts.backend import Backend
from sepkit.errors import FetchError, HttpError
from tests.fetching import alone, closing, drained, get, redirect, streamed
from tests.http_server import Asked, Connection, chunked, ok, routes, serving
from tests.memory_host import on_each_loop


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    alone(monkeypatch)


@on_each_loop
async def test_an_answer_has_its_status_its_headers_in_any_case_its_body_and_where_it_came_from(
    backend: Backend,
) -> None:
    body = "grüße".encode("latin-1")
    headers = ("Content-Type: text/plain; charset=ISO-8859-1", "X-Two: a", "x-two: b")
    async with closing(backend), serving(ok(body, *headers, status="404 Not Found")) as server:
        answer = await get(backend, server.url("/a b?c=d#e"))
        assert (answer.status, answer.ok) == (404, False)
        assert answer.headers["CONTENT-type"] == "text/plain; charset=ISO-8859-1"
        assert answer.headers["X-Two"] == "a, b"
        assert (answer.content, answer.text) == (body, "grüße")
        assert answer.url == server.url("/a%20b?c=d")
        assert server.asked[0].path == "/a%20b?c=d"


@on_each_loop
async def test_a_request_goes_out_as_it_is_written(backend: Backend) -> None:
    async with closing(backend), serving(ok()) as server:
        headers = {"Authorization": "Bearer x", "X-Y": "z"}
        await get(backend, server.url("/p"), method="post", headers=headers, body="å")
        (asked,) = server.asked
        assert (asked.method, asked.path, asked.body) == ("POST", "/p", "å".encode())
        assert (asked.headers["authorization"], asked.headers["x-y"]) == ("Bearer x", "z")
        assert asked.headers["host"] == f"127.0.0.1:{server.port}"


@on_each_loop
async def test_what_the_app_does_not_need_is_refused_with_the_line_to_write_and_nothing_is_sent(
    backend: Backend,
) -> None:
    async with closing(backend), serving(ok()) as server:
        for url in ("http://127.0.0.2:{}/", "http://example.com:{}/", "http://[::2]:{}/", "http://localhost.x:{}/"):
            with pytest.raises(FetchError, match=r'write App\("contract", needs=\["network:localhost", "network:'):
                await get(backend, url.format(server.port))
            with pytest.raises(FetchError, match="does not say that it needs"):
                await drained(backend, url.format(server.port))
        assert (await get(backend, server.url(host="localhost"))).status == 200
        assert (await get(backend, server.url(host="LOCALHOST."))).status == 200
        assert len(server.asked) == 2


@on_each_loop
async def test_a_redirect_is_followed_only_to_what_the_app_needs(backend: Backend) -> None:
    async with closing(backend), serving(ok(b"there")) as other:
        table = {
            "/near": redirect("sub/../there?x=1"),
            "/there?x=1": ok(b"here"),
            "/other": redirect(other.url("/x")),
            "/evil": redirect("http://evil.example/?secret=1"),
            "/relative": redirect("//evil.example/"),
            "/backslash": redirect("/\\evil.example/"),
            "/userinfo": redirect("http://localhost@evil.example/"),
            "/file": redirect("file:///etc/passwd"),
            "/script": redirect("javascript:alert(1)"),
            "/odd": redirect("http://2130706433/"),
            "/port": redirect("http://localhost:99999/"),
            "/bracket": redirect("http://[::1/"),
            "/loop": redirect("/loop"),
            "/nowhere": ok(b"stay", status="302 Found"),
        }
        async with serving(routes(table)) as server:
            assert (await get(backend, server.url("/near"))).text == "here"
            answer = await get(backend, server.url("/other"))
            assert (answer.text, answer.url) == ("there", other.url("/x"))
            assert (await get(backend, server.url("/nowhere"))).text == "stay"
            for path in ("/evil", "/relative", "/backslash", "/userinfo", "/file", "/odd", "/port"):
                with pytest.raises(FetchError, match="it redirects elsewhere; ") as raised:
                    await get(backend, server.url(path))
                assert "secret" not in str(raised.value)
                with pytest.raises(FetchError, match="it redirects elsewhere; "):
                    await drained(backend, server.url(path))
            for path in ("/script", "/bracket"):
                with pytest.raises(FetchError):
                    await get(backend, server.url(path))
            with pytest.raises(FetchError, match="more than 20 redirects"):
                await get(backend, server.url("/loop"))


@on_each_loop
async def test_what_is_said_to_one_server_is_not_carried_to_another_by_a_redirect(backend: Backend) -> None:
    secrets = {"Authorization": "Bearer s3cret", "Cookie": "s3cret=1", "X-Api-Key": "s3cret", "Accept": "text/x"}
    async with closing(backend), serving(ok()) as other:
        table = {"/a": redirect("/b"), "/b": redirect(other.url(), "307 Temporary Redirect")}
        async with serving(routes(table)) as server:
            await get(backend, server.url("/a"), method="PUT", headers=secrets, body="kept")
            assert [asked.headers.get("authorization") for asked in server.asked] == ["Bearer s3cret"] * 2
            (asked,) = other.asked
            assert "s3cret" not in repr(asked)
            assert asked.headers["accept"] == "text/x"
            assert (asked.method, asked.body) == ("PUT", b"kept")


@on_each_loop
async def test_a_connection_that_breaks_is_an_error_for_this_chunk_and_all_later_ones(backend: Backend) -> None:
    def answer(asked: Asked, connection: Connection) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\n\r\nfirst")  # up to the end of the connection
        more.wait(10)
        connection.reset()

    more = threading.Event()
    async with closing(backend), serving(answer) as server:
        async with streamed(backend, server.url(), binary=False) as chunks:
            assert await anext(chunks) == "first"
            more.set()
            for _ in range(3):
                with pytest.raises(FetchError):
                    await anext(chunks)
        with pytest.raises(FetchError):
            await anext(chunks)


@on_each_loop
async def test_a_stream_gives_texts_whose_characters_are_never_cut_and_bytes_as_they_came(backend: Backend) -> None:
    text = "a€😀ö"
    raw = text.encode()

    def answer(asked: Asked, connection: Connection) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n")
        for n in range(len(raw)):
            connection.send(chunked(raw[n : n + 1], end=False))
            time.sleep(0.001)
        connection.send(chunked())

    async with closing(backend), serving(answer) as server:
        async with streamed(backend, server.url(), binary=False) as chunks:
            found = [chunk async for chunk in chunks]
        assert "".join(found) == text
        assert all(found)
        async with streamed(backend, server.url()) as chunks:
            assert b"".join([chunk async for chunk in chunks]) == raw
        cut = ok("€".encode()[:2], "Content-Type: text/plain; charset=hex")
        async with serving(cut) as server, streamed(backend, server.url(), binary=False) as chunks:
            assert "".join([chunk async for chunk in chunks]) == "\ufffd"


@on_each_loop
async def test_another_status_than_success_is_an_http_error_with_the_beginning_of_what_the_server_says(
    backend: Backend,
) -> None:
    async with closing(backend), serving(ok(b"y" * 5000, status="503 Busy")) as server:
        with pytest.raises(HttpError) as raised:
            await drained(backend, server.url("/x?key=s3cret"), binary=False)
        assert raised.value.status == 503
        assert str(raised.value) == f"GET {server.url('/x')}: HTTP 503: {'y' * 1024}"


@on_each_loop
async def test_the_end_of_the_block_closes_the_connection_of_an_answer_that_has_not_ended(backend: Backend) -> None:
    def answer(asked: Asked, connection: Connection) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\n\r\nfirst")
        connection.until_closed()

    async with closing(backend), serving(answer, keep_alive=True) as server:
        async with streamed(backend, server.url()) as chunks:
            assert await anext(chunks) == b"first"
            assert not server.connections[0].closed.is_set()
        assert await asyncio.to_thread(server.connections[0].closed.wait, 10)
        with pytest.raises(FetchError, match="after the end of its block"):
            await anext(chunks)

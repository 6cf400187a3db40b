"""HTTP of this process: what a server may do, and what it costs."""

from __future__ import annotations

import asyncio
import gzip
import os
import socket
import threading
import time
import tracemalloc
import zlib
from pathlib import Path
from random import Random
from typing import Final

import pytest
import trustme

from sepkit.capabilities.local.backend import LocalBackend
from sepkit.capabilities.local.fetch import MOST_CONNECTIONS
from sepkit.contexts.backend import Backend
from sepkit.errors import FetchError
from tests.fetching import alone, closing, drained, get, redirect, streamed
from tests.http_server import Asked, Connection, Server, chunked, ok, routes, serving
from tests.memory_host import on_each_loop

CHUNK: Final = 64 * 1024
MIB: Final = 1024 * 1024
ROUNDS: Final = 20


@pytest.fixture
def backend() -> Backend:
    return LocalBackend("local", None, needs=["network:localhost"])


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    alone(monkeypatch)


@pytest.mark.parametrize(
    ("status", "method", "becomes", "body"),
    [
        ("301 Moved", "POST", "GET", b""),
        ("302 Found", "POST", "GET", b""),
        ("303 See Other", "PUT", "GET", b""),
        ("303 See Other", "HEAD", "HEAD", b"x"),
        ("302 Found", "PUT", "PUT", b"x"),
        ("307 Temporary Redirect", "POST", "POST", b"x"),
        ("308 Permanent Redirect", "DELETE", "DELETE", b"x"),
    ],
)
@on_each_loop
async def test_a_redirect_keeps_the_method_or_makes_it_a_get_as_its_status_says(
    backend: Backend, status: str, method: str, becomes: str, body: bytes
) -> None:
    def answer(asked: Asked, connection: Connection) -> None:
        head = ok(b"", "Location: /b", status=status) if asked.path == "/a" else ok()
        connection.send(head)

    async with closing(backend), serving(answer) as server:
        await get(backend, server.url("/a"), method=method, headers={"Content-Type": "text/x"}, body="x")
        second = server.asked[1]
        assert (second.method, second.body) == (becomes, body)
        assert ("content-type" in second.headers) == bool(body)


@on_each_loop
async def test_no_cookie_of_one_call_reaches_another(backend: Backend) -> None:
    async with closing(backend), serving(ok(b"", "Set-Cookie: user=ada; Path=/")) as server:
        for _ in range(2):
            assert (await get(backend, server.url())).headers["set-cookie"] == "user=ada; Path=/"
        assert all("cookie" not in asked.headers for asked in server.asked)


@on_each_loop
async def test_connections_are_used_again_and_closed_at_the_end(backend: Backend) -> None:
    def answer(asked: Asked, connection: Connection) -> None:
        connection.send(ok(b"x", close=False))
        if asked.path == "/last":
            connection.until_closed()

    async with serving(answer, keep_alive=True) as server:
        async with closing(backend):
            for path in ("/", "/", "/last"):
                await get(backend, server.url(path))
            assert len({id(one._sock) for one in server.connections}) == 1
            assert not server.connections[-1].closed.is_set()
        assert await asyncio.to_thread(server.connections[-1].closed.wait, 10)
        with pytest.raises(FetchError, match="the app has ended"):
            await get(backend, server.url())


# -- answers that are too much, or broken ------------------------------------------------------------------------------

PACKED: Final = gzip.compress(b"x" * 100_000)
BROKEN: Final = {
    "too short": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this",
    "no last chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"abc", end=False),
    "half a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nabc",
    "odd chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n",
    "half of gzip, whole for HTTP": ok(PACKED[:50], "Content-Encoding: gzip"),
    "half of gzip, to the end of the connection": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + PACKED[:50],
    "not gzip": ok(b"plain", "Content-Encoding: gzip"),
    "gzip with a wrong checksum": ok(PACKED[:-8] + b"\1" * 8, "Content-Encoding: gzip"),
    "more after gzip": ok(PACKED + b"more", "Content-Encoding: gzip"),
    "an unknown packing": ok(b"x", "Content-Encoding: br"),
    "two packings": ok(b"x", "Content-Encoding: gzip, gzip"),
    "no answer": b"",
    "not HTTP": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "a negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nab",
    "a status in letters": b"HTTP/1.1 abc OK\r\n\r\n",
    "a header without an end": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000,
    "headers without an end": b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 100_000,
    "too many headers": b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 1000 + b"Content-Length: 0\r\n\r\n",
}


@on_each_loop
async def test_an_answer_that_breaks_off_or_is_none_is_an_error_and_never_a_quiet_end(backend: Backend) -> None:
    async with closing(backend):
        for what, raw in BROKEN.items():
            async with serving(raw) as server:
                with pytest.raises(FetchError) as raised:
                    await get(backend, server.url("/x?key=s3cret"))
                assert str(raised.value).startswith(f"GET {server.url('/x')}: "), what
                assert len(str(raised.value)) < 800
                assert "s3cret" not in str(raised.value)
                with pytest.raises(FetchError):
                    await drained(backend, server.url())


@on_each_loop
async def test_an_answer_over_tls_that_is_cut_is_an_error_also_where_nothing_says_how_long_it_is(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def answer(asked: Asked, connection: Connection) -> None:
        if asked.path == "/empty":
            connection.send(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        else:
            connection.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\npart")
        (connection.farewell if asked.path == "/whole" else connection.cut)()

    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    server = Server(answer, keep_alive=False, certificate=authority.issue_cert("localhost"))
    url = f"https://localhost:{server.port}"
    try:
        async with closing(backend):
            assert (await get(backend, f"{url}/whole")).content == b"part"
            assert (await get(backend, f"{url}/empty")).content == b""
            with pytest.raises(FetchError, match="has broken off"):
                await get(backend, f"{url}/cut")
            with pytest.raises(FetchError, match="has broken off"):
                await drained(backend, f"{url}/cut")
    finally:
        server.close()


@on_each_loop
async def test_a_server_that_is_not_there_or_has_no_address_is_an_error(backend: Backend) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with closing(backend):
        with pytest.raises(FetchError, match=f"^GET http://127.0.0.1:{port}/: ConnectError"):
            await get(backend, f"http://127.0.0.1:{port}/")


@on_each_loop
async def test_gzip_is_unpacked_also_in_several_members_and_a_part_at_a_time(backend: Backend) -> None:
    body = gzip.compress(b"one") + gzip.compress(b"two") + b"\0\0"

    def answer(asked: Asked, connection: Connection) -> None:
        assert asked.headers["accept-encoding"] == "gzip"
        connection.send(
            b"HTTP/1.1 200 OK\r\nContent-Encoding: GZIP\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        connection.send(chunked(*(body[n : n + 1] for n in range(len(body)))))

    async with closing(backend), serving(answer) as server:
        assert (await get(backend, server.url())).content == b"onetwo"
        async with streamed(backend, server.url()) as chunks:
            assert b"".join([chunk async for chunk in chunks]) == b"onetwo"


@on_each_loop
async def test_an_answer_to_head_and_one_without_a_body_are_whole(backend: Backend) -> None:
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 99999999999\r\nContent-Encoding: gzip\r\n\r\n"
    async with closing(backend):
        async with serving(head) as server:
            answer = await get(backend, server.url(), method="HEAD")
            assert (answer.content, answer.headers["content-length"]) == (b"", "99999999999")
        async with serving(b"HTTP/1.1 204 No Content\r\nConnection: close\r\nContent-Encoding: gzip\r\n\r\n") as server:
            assert (await get(backend, server.url())).content == b""


@on_each_loop
async def test_a_long_answer_is_refused_and_one_that_unpacks_to_gigabytes_too_in_little_memory(
    backend: Backend,
) -> None:
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join(packer.compress(b"\0" * MIB) for _ in range(32)) + packer.flush()  # 32 MiB in 32 KiB
    answers = {
        "/length": b"HTTP/1.1 200 OK\r\nContent-Length: 70000000\r\n\r\nx",
        "/chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(*[b"x" * CHUNK] * 20),
        "/bomb": ok(bomb, "Content-Encoding: gzip"),
        "/fits": ok(b"x" * MIB),
    }
    async with closing(backend), serving(routes(answers)) as server:
        await get(backend, server.url("/fits"), max_bytes=MIB)
        tracemalloc.start()
        try:
            for path in ("/length", "/chunks", "/bomb"):
                with pytest.raises(FetchError, match="has more than 1048576 bytes; take it in chunks"):
                    await get(backend, server.url(path), max_bytes=MIB)
            async with streamed(backend, server.url("/bomb")) as chunks:
                size = 0
                async for chunk in chunks:
                    assert len(chunk) <= CHUNK
                    size += len(chunk)
                    if size > 16 * MIB:
                        break
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 8 * MIB


WHOLE: Final = [
    ok(b"hello" * 50),
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"abc", b"def" * 30),
    ok(gzip.compress(b"x" * 1000), "Content-Encoding: gzip"),
    redirect("/x"),
    b"HTTP/1.0 200 OK\r\n\r\nrest",
    b"HTTP/1.1 100 Continue\r\n\r\n" + ok(b"x"),
    b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\nabc",
    ok(b"x", "Content-Type: text/plain; charset=utf-16"),
]
SLIPPED_IN: Final = [b"\r\n", b"\0", b"Location: http://[::1\r\n", b"Content-Length: 5\r\n", b"\xff\xfe", b"zz"]


def spoiled(raw: bytes, random: Random) -> bytes:
    found = bytearray(raw)
    for _ in range(random.randint(0, 4)):
        place = random.randrange(len(found) + 1)
        match random.randrange(4):
            case 0:
                found[place : place + 1] = bytes([random.randrange(256)])
            case 1:
                found[place:place] = random.randbytes(random.randint(1, 5))
            case 2:
                del found[place : place + random.randint(1, 20)]
            case _:
                found[place:place] = random.choice(SLIPPED_IN)
    return bytes(found)


@on_each_loop
async def test_whatever_a_server_sends_comes_to_an_answer_or_to_a_fetch_error(backend: Backend) -> None:
    random, refused = Random(12), list[str]()
    now = b""
    async with closing(backend), serving(lambda asked, connection: connection.send(now)) as server:
        for turn in range(1000 if "SEPKIT_SOAK" in os.environ else 40):
            now = spoiled(random.choice(WHOLE), random)
            try:
                if turn % 2:
                    assert isinstance((await get(backend, server.url(), timeout=10)).text, str)
                else:
                    await drained(backend, server.url(), timeout=10)
            except FetchError as error:
                refused.append(str(error))
        assert "" not in refused


# -- streams -----------------------------------------------------------------------------------------------------------


AT_ONCE = 256 * 1024  # what a loop may take out of a socket in one step


def sends_much(asked: Asked, connection: Connection) -> None:
    size = 64 * MIB
    connection.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % size)
    if asked.method == "GET":
        piece = bytes(CHUNK)
        for _ in range(size // CHUNK):
            connection.send(piece)


def most_ahead_of_a_bare_socket(server: Server) -> int:
    """How much more a server has written than a reader has taken, where nothing but two sockets are between them."""
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        taken = ahead = 0
        for _ in range(ROUNDS):
            taken += len(sock.recv(CHUNK))
            assert server.connections[-1].blocked.wait(10)
            ahead = max(ahead, server.connections[-1].sent - taken)
    return ahead


@on_each_loop
async def test_a_reader_that_is_slow_costs_the_server_two_chunks_and_the_buffers_of_the_sockets(
    backend: Backend,
) -> None:
    """A server that can send 64 MiB stands still while its reader does; and what is here stays small."""
    async with closing(backend), serving(sends_much) as server:
        room = await asyncio.to_thread(most_ahead_of_a_bare_socket, server)
        await get(backend, server.url(), method="HEAD")  # what is made once is made
        tracemalloc.start()
        try:
            async with streamed(backend, server.url()) as chunks:
                connection = server.connections[-1]
                taken = 0
                for _ in range(ROUNDS):
                    taken += len(await anext(chunks))
                    for _ in range(20):  # what would be read ahead
                        await asyncio.sleep(0.001)
                    assert await asyncio.to_thread(connection.blocked.wait, 10)
                    assert connection.sent - taken <= room + 2 * CHUNK + AT_ONCE
                _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert taken <= ROUNDS * CHUNK
        assert peak < 2 * MIB


@on_each_loop
async def test_time_is_up_for_a_server_that_says_nothing_or_a_byte_now_and_then(backend: Backend) -> None:
    def answer(asked: Asked, connection: Connection) -> None:
        if asked.path == "/never":
            connection.until_closed()
        while asked.path == "/informs":
            connection.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
            time.sleep(0.005)
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while asked.path != "/stops":
            connection.send(b"x")
            time.sleep(0.005)
        connection.until_closed()

    async with closing(backend), serving(answer) as server:
        for path in ("/never", "/informs", "/drips", "/stops"):
            with pytest.raises(FetchError, match=r"no answer within 0.1 s"):
                await get(backend, server.url(path), timeout=0.1)
        for path in ("/never", "/informs"):
            with pytest.raises(FetchError, match=r"no answer within 0.1 s"):
                await drained(backend, server.url(path), timeout=0.1)
        async with streamed(backend, server.url("/stops"), timeout=0.5) as chunks:
            for _ in range(2):
                with pytest.raises(FetchError, match=r"no answer within 0.5 s"):
                    await anext(chunks)


@on_each_loop
async def test_what_is_under_way_at_the_end_ends_with_an_error(backend: Backend) -> None:
    def answer(asked: Asked, connection: Connection) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\n\r\nfirst")
        connection.until_closed()

    began = asyncio.Event()

    async def read(url: str) -> None:
        async with streamed(backend, url) as chunks:
            async for _ in chunks:
                began.set()

    async with serving(answer) as server:
        reading = asyncio.create_task(read(server.url()))
        fetching = asyncio.create_task(get(backend, server.url()))
        await began.wait()
        await asyncio.sleep(0)
        await backend.aclose()
        for task in (reading, fetching):
            with pytest.raises(FetchError):
                await asyncio.wait_for(task, 10)


@on_each_loop
async def test_more_requests_than_connections_wait_for_one(backend: Backend) -> None:
    together: list[int] = []
    lock, running = threading.Lock(), 0

    def answer(asked: Asked, connection: Connection) -> None:
        nonlocal running
        with lock:
            running += 1
            together.append(running)
        time.sleep(0.02)
        with lock:
            running -= 1
        connection.send(ok(b"x"))

    async with closing(backend), serving(answer) as server:
        answers = await asyncio.gather(*(get(backend, server.url()) for _ in range(MOST_CONNECTIONS + 20)))
        assert [one.text for one in answers] == ["x"] * (MOST_CONNECTIONS + 20)
        assert 1 < max(together) <= MOST_CONNECTIONS

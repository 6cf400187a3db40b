"""What stands between a client and the server of the tests: web proxies and TLS, on real sockets of this machine.

Everything runs in one thread with a loop of its own, so that blocking tests can use it. It is nothing to rely on.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, TypeVar

T = TypeVar("T")
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Relays:
    """Servers that pass on what they are sent, for as long as the block lasts."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._servers: list[asyncio.Server] = []
        self._writers: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.asked: list[str] = []
        """What proxies were asked: the first line of a request, or ``SOCKS host:port``."""

    def __enter__(self) -> Relays:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        for server in self._servers:
            server.close()
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for writer in self._writers:
                writer.transport.abort()
            await asyncio.wait(others, timeout=0.01)
        await asyncio.sleep(0)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    def serve(self, handler: Handler, tls: ssl.SSLContext | None = None) -> int:
        """Serve on a free port; the port."""

        async def handled(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._writers.add(writer)
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await handler(reader, writer)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            self._writers.discard(writer)

        async def begin() -> int:
            server = await asyncio.start_server(handled, "127.0.0.1", 0, ssl=tls)
            self._servers.append(server)
            port: int = server.sockets[0].getsockname()[1]
            return port

        return self._run(begin())

    def tls(self, port: int, context: ssl.SSLContext) -> int:
        """TLS before a port that has none."""

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await pass_on(reader, writer, "127.0.0.1", port)

        return self.serve(handle, context)

    def web_proxy(self, status: int = 200, login: str | None = None, tls: ssl.SSLContext | None = None) -> int:
        """A proxy that speaks HTTP: it answers with ``status``, and with 407 where ``login`` is not shown."""

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            first, *headers = head.decode().split("\r\n")
            self.asked.append(first)
            shown = [line.partition(": ")[2] for line in headers if line.lower().startswith("proxy-authorization:")]
            wanted = None if login is None else f"Basic {base64.b64encode(login.encode()).decode()}"
            said = 407 if wanted is not None and shown != [wanted] else status
            if said != 200:
                writer.write(f"HTTP/1.1 {said} Because\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
                return
            method, target, _ = first.split()
            host, _, port = target.removeprefix("http://").partition("/")[0].rpartition(":")
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                await pass_on(reader, writer, host, int(port))
            else:
                await pass_on(reader, writer, host, int(port), first=head)

        return self.serve(handle, tls)

    def socks_proxy(self, login: str | None = None, refuses: bool = False) -> int:
        """A proxy that speaks SOCKS 5."""

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            _, count = await reader.readexactly(2)
            methods = await reader.readexactly(count)
            if login is None:
                writer.write(b"\x05\x00")
            elif 2 not in methods:
                writer.write(b"\x05\xff")
                return
            else:
                writer.write(b"\x05\x02")
                await reader.readexactly(1)
                name = await reader.readexactly((await reader.readexactly(1))[0])
                password = await reader.readexactly((await reader.readexactly(1))[0])
                is_known = b":".join([name, password]).decode() == login
                writer.write(b"\x01\x00" if is_known else b"\x01\x01")
                if not is_known:
                    return
            kind = (await reader.readexactly(4))[3]
            if kind == 3:
                host = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
            else:
                host = ".".join(str(part) for part in await reader.readexactly(4))
            port = int.from_bytes(await reader.readexactly(2), "big")
            self.asked.append(f"SOCKS {host}:{port}")
            writer.write(b"\x05" + (b"\x05" if refuses else b"\x00") + b"\x00\x01\x7f\x00\x00\x01\x00\x00")
            if not refuses:
                await pass_on(reader, writer, host, port)

        return self.serve(handle)


@contextlib.contextmanager
def refusing(context: ssl.SSLContext) -> Iterator[int]:
    """A TLS server that tells why it ends a handshake, which asyncio's does not; its port."""

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            tls = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
            with tls, contextlib.suppress(OSError):
                try:
                    tls.do_handshake()
                except ssl.SSLError:
                    # What has come is read to its end: else the word is lost.
                    socket.socket.shutdown(tls, socket.SHUT_WR)
                    while os.read(tls.fileno(), 65_536):
                        pass

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


async def pass_on(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int, first: bytes = b""
) -> None:
    """Connect to a server, and pass on both ways until one side ends. Names below ``.test`` are this machine."""
    there_reader, there_writer = await asyncio.open_connection("127.0.0.1" if host.endswith(".test") else host, port)
    there_writer.write(first)
    back = asyncio.ensure_future(pump(there_reader, writer))
    try:
        await pump(reader, there_writer)
    finally:
        await back
        with contextlib.suppress(OSError):
            await there_writer.wait_closed()


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on one way; the end, too."""
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()

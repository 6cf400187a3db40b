"""A server of HTTP whose every byte a test decides. It runs in threads: its client's loop may do what it likes."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

import trustme

SOCKET_BYTES: Final = 64 * 1024  # asked for; the system may take twice as much
_PATIENCE: Final = 20.0


class Asked(NamedTuple):
    """A request, as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Connection:
    """A connection whose request has been read."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.sent = 0
        """Bytes that the system has taken."""
        self.blocked = threading.Event()
        """Set while it takes no more."""
        self.closed = threading.Event()
        """Set once the client has closed it, where ``until_closed`` waits for that."""

    def send(self, data: bytes) -> None:
        """Send bytes; waits while the client does not read. Nothing is kept back on this side."""
        view = memoryview(data)
        while view:
            _, writable, _ = select.select([], [self._sock], [], 0)
            if not writable:
                self.blocked.set()
                select.select([], [self._sock], [])
                self.blocked.clear()
            try:
                flags = 0 if isinstance(self._sock, ssl.SSLSocket) else socket.MSG_DONTWAIT
                count = self._sock.send(view, flags)
            except BlockingIOError:
                continue
            self.sent += count
            view = view[count:]

    def until_closed(self) -> None:
        """Wait until the client has closed the connection."""
        with contextlib.suppress(OSError):
            while self._sock.recv(65536):
                pass
        self.closed.set()

    def cut(self) -> None:
        """Close the connection without a word, not even of TLS."""
        socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def farewell(self) -> None:
        """Say by TLS that nothing more is sent."""
        assert isinstance(self._sock, ssl.SSLSocket)
        with contextlib.suppress(OSError):
            self._sock.unwrap()

    def reset(self) -> None:
        """Break the connection, when it is closed."""
        self._sock.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, (1).to_bytes(4, "little") + (0).to_bytes(4, "little")
        )


Answer = Callable[[Asked, Connection], None]


class Server:
    """What a test knows of its server."""

    def __init__(
        self, answer: Answer | bytes, *, keep_alive: bool, certificate: trustme.LeafCert | None = None
    ) -> None:
        self._answer = answer
        self._keep_alive = keep_alive
        self._tls: ssl.SSLContext | None = None
        if certificate is not None:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            certificate.configure_cert(self._tls)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []
        self.ending = threading.Event()
        self.port: Final[int] = self._listener.getsockname()[1]
        self.asked: list[Asked] = []
        self.connections: list[Connection] = []
        """One for each request."""
        self._start(self._accept)

    def url(self, path: str = "/", host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self._sockets.append(sock)
                self._start(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        with contextlib.ExitStack() as stack:
            stack.enter_context(sock)
            stack.enter_context(contextlib.suppress(OSError, EOFError, ValueError))
            if self._tls is not None:
                sock = stack.enter_context(self._tls.wrap_socket(sock, server_side=True))
            reader = stack.enter_context(sock.makefile("rb"))
            while not self.ending.is_set():
                asked = _read(reader.readline, reader.read)
                self.asked.append(asked)
                connection = Connection(sock)
                self.connections.append(connection)
                if isinstance(self._answer, bytes):
                    connection.send(self._answer)
                else:
                    self._answer(asked, connection)
                if not self._keep_alive:
                    return

    def close(self) -> None:
        self.ending.set()
        for sock in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(_PATIENCE)
            assert not thread.is_alive()


@asynccontextmanager
async def serving(answer: Answer | bytes, *, keep_alive: bool = False) -> AsyncIterator[Server]:
    """Serve ``answer``: bytes as they are, or a function that sends them, in a thread of the connection."""
    server = Server(answer, keep_alive=keep_alive)
    try:
        yield server
    finally:
        server.close()


def _read(line: Callable[[], bytes], read: Callable[[int], bytes]) -> Asked:
    first = line()
    if not first:
        raise EOFError
    method, path, _ = first.decode("latin-1").split(" ", 2)
    headers = {}
    while (raw := line()) not in (b"\r\n", b""):
        name, _, value = raw.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip()
    return Asked(method, path, headers, read(int(headers.get("content-length", 0))))


def ok(content: bytes = b"", *headers: str, status: str = "200 OK", close: bool = True) -> bytes:
    """A whole answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(content)}", *headers, *["Connection: close"][: int(close)]]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + content


def chunked(*chunks: bytes, end: bool = True) -> bytes:
    """Chunks as HTTP/1.1 frames them; without an end, as of a server that breaks off."""
    found = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return found + (b"0\r\n\r\n" if end else b"")


def routes(table: dict[str, bytes]) -> Answer:
    """Answers by path."""
    return lambda asked, connection: connection.send(table.get(asked.path, ok(status="404 Not Found")))

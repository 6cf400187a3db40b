"""A server for the tests and for trying out: HTTP/1.1, the OpenAI-compatible chat API, and as broken as one asks for.

The model's name is the script: ``ok``, ``hold``, ``status?code=429&after=30``; behind the ``?`` are its parameters, and
those that it does not know tell requests apart. ``/_seen?model=…`` tells what was asked, ``/_release?model=…`` lets a
held answer go on. It prints its address, and ends with its stdin. It is no model, and nothing to rely on.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from time import time
from typing import Any
from urllib.parse import parse_qsl, urlsplit

PATIENCE = 20.0  # seconds


class Exchange:
    """One request, and the answer to it."""

    def __init__(self, method: str, target: str, headers: dict[str, str], body: bytes, connection: int) -> None:
        url = urlsplit(target)
        self.method, self.target, self.path = method, target, url.path
        self.query = dict(parse_qsl(url.query))
        self.headers = headers
        self.body = body
        self.connection = connection
        self.state = "begun"  # then "answered", or "closed" where the client has closed it before
        self.at = time()

    def seen(self) -> dict[str, Any]:
        body = json.loads(self.body) if self.headers.get("content-type") == "application/json" else self.body.decode()
        return {
            "target": self.target,
            "headers": self.headers,
            "body": body,
            "connection": self.connection,
            "state": self.state,
            "at": self.at,
        }


class Reply:
    """Writes an answer; by default a stream in chunks, which goes on to the connection's next request."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._chunked = False
        self.keeps_alive = True

    async def whole(self, status: int, body: object, kind: str = "application/json", **headers: str) -> None:
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self._head(status, {"Content-Type": kind, "Content-Length": str(len(data)), **headers})
        self._writer.write(data)
        await self._writer.drain()

    def begin(self, *, chunked: bool = True, kind: str = "text/event-stream; charset=utf-8") -> None:
        self._chunked = chunked
        self.keeps_alive = chunked
        self._head(200, {"Content-Type": kind, **({"Transfer-Encoding": "chunked"} if chunked else {})})

    async def raw(self, data: bytes) -> None:
        self._writer.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)
        await self._writer.drain()

    async def event(self, value: object) -> None:
        await self.raw(b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n")

    async def delta(self, finish: str | None = None, **delta: object) -> None:
        await self.event(chunk(finish, **delta))

    async def end(self, finish: str = "stop") -> None:
        await self.delta(finish)
        await self.usage()
        await self.raw(b"data: [DONE]\n\n")

    async def usage(self) -> None:
        counted = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        details = {
            "prompt_tokens_details": {"cached_tokens": 4},
            "completion_tokens_details": {"reasoning_tokens": 2},
        }
        await self.event({"model": "m-2026", "choices": [], "usage": {**counted, **details}})

    async def finish(self) -> None:
        if self._chunked:
            self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()

    def abort(self) -> None:
        self._chunked = self.keeps_alive = False

    def _head(self, status: int, headers: dict[str, str]) -> None:
        lines = [f"HTTP/1.1 {status} -", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
        if not self.keeps_alive:
            lines.append("Connection: close")
        self._writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))


def chunk(finish: str | None = None, **delta: object) -> dict[str, Any]:
    return {"model": "m-2026", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def call(index: int | None, upstream_id: str | None = None, name: str | None = None, arguments: Any = None) -> Any:
    """A piece of a tool call."""
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    piece = {"index": index, "id": upstream_id, "type": "function", "function": function}
    return {key: value for key, value in piece.items() if value is not None}


# -- the scripts -------------------------------------------------------------------------------------------------------

Script = Callable[["Server", Exchange, Reply, dict[str, str]], Awaitable[None]]


async def ok(server: Server, asked: Exchange, reply: Reply, how: dict[str, str]) -> None:
    reply.begin()
    await reply.delta(role="assistant", content="")
    for text in ("Hello", ", ", "Ada!"):
        await reply.delta(content=text)
    await reply.end()


async def tools(server: Server, asked: Exchange, reply: Reply, how: dict[str, str]) -> None:
    """Two calls, whose pieces are interleaved."""
    reply.begin()
    await reply.delta(content="Looking. ")
    await reply.delta(tool_calls=[call(0, "c0", "look", "")])
    await reply.delta(tool_calls=[call(1, "c1", "list", '{"all"')])
    await reply.delta(tool_calls=[call(0, None, None, '{"at": "'), call(1, None, None, ": tr")])
    await reply.delta(tool_calls=[call(1, None, None, "ue}")])
    await reply.delta(tool_calls=[call(0, None, None, 'Ü"}')])
    await reply.end("tool_calls")


async def odd_tools(server: Server, asked: Exchange, reply: Reply, how: dict[str, str]) -> None:
    """As several servers send them: no index, no id, id and name in each piece, an object for arguments."""
    reply.begin()
    for piece in ('{"a"', ":1}"):
        await reply.delta(tool_calls=[call(0, "c0", "first", piece)])
    await reply.delta(tool_calls=[call(0, "c1", "second", {"b": 2})])
    await reply.delta(tool_calls=[call(None, None, "third", None)])
    await reply.end("tool_calls")


async def half_tool(server: Server, asked: Exchange, reply: Reply, how: dict[str, str]) -> None:
    reply.begin()
    await reply.delta(tool_calls=[call(0, "c0", "look", '{"at": "secr')])
    await reply.end("length")


async def reasoning(server: Server, asked: Exchange, reply: Reply, how: dict[str, str]) -> None:
    reply.begin()
    await reply.delta(reasoning_content="Let me ")
    await reply.delta(reasoning="think.")
    await reply.delta(content="42")
    await reply.end()


async def hold(server: Server, asked: Exchange, reply: Reply, how: dict[str, str]) -> None:
    """A piece, and the rest when it is released."""
    reply.begin()
    await reply.delta(content="Hello")
    await server.released[json.loads(asked.body)["model"]].wait()
    await reply.delta(content=", Ada!")
    await reply.end()


async def mute(server: Server, asked: Exchange, reply: Reply, how: dict[str, str]) -> None:
    """Nothing at all until it is released."""
    await server.released[json.loads(asked.body)["model"]].wait()
    await ok(server, asked, reply, how)


async def paced(server: Server, asked: Exchange, reply: Reply, how: dict[str, str]) -> None:
    """Many small pieces, each of which says whose it is."""
    reply.begin()
    for number in range(int(how["pieces"])):
        await reply.delta(content=f"{how['who']}.{number} ")
        await asyncio.sleep(0.002)
    await reply.end()


async def big(server: Server, asked: Exchange, reply: Reply, how: dict[str, str]) -> None:
    reply.begin()
    for _ in range(int(how["bytes"]) // int(how["piece"])):
        await reply.delta(content="x" * int(how["piece"]))
    await reply.end()


async def ragged(server: Server, asked: Exchange, reply: Reply, how: dict[str, str]) -> None:
    """All that an event stream may hold, a few bytes at a time."""
    first = json.dumps(chunk(content="Grüße, "), ensure_ascii=False).replace('"choices"', '\n"choices"')
    text = "\ufeff: a comment\r\n\r\nid: 1\r\nretry: 5\r\n"
    text += "".join(f"data:{line}\r\n" for line in first.split("\n")) + "\r\n"
    text += f"event: message\rdata: {json.dumps(chunk(content='Zoë 👋'), ensure_ascii=False)}\r\r"
    text += f": still here\n\ndata: {json.dumps(chunk('stop'))}\n\ndata: [DONE]\n\n"
    reply.begin()
    data = text.encode()
    step = int(how["step"])
    for start in range(0, len(data), step):
        await reply.raw(data[start : start + step])
        await asyncio.sleep(0)


async def cut(server: Server, asked: Exchange, reply: Reply, how: dict[str, str]) -> None:
    """It breaks off: ``chunked`` in its framing, ``event`` within an event, ``clean`` between two."""
    reply.begin(chunked=how["how"] == "chunked")
    await reply.delta(content="The answer is")
    if how["how"] == "event":
        await reply.raw(b'data: {"choices": [{"delta": {"content": "4')
    reply.abort()


async def no_done(server: Server, asked: Exchange, reply: Reply, how: dict[str, str]) -> None:
    """A whole answer, and the connection closed instead of a ``[DONE]``."""
    reply.begin(chunked=False)
    await reply.delta("stop", content="whole")


async def lingering(server: Server, asked: Exchange, reply: Reply, how: dict[str, str]) -> None:
    """A whole answer, usage a little later, and no end: silence, or ``again`` and again what says nothing."""
    reply.begin()
    await reply.delta("stop", content="whole")
    await asyncio.sleep(0.05)
    await reply.usage()
    while "again" in how:
        await reply.raw(how["again"].encode())
        await asyncio.sleep(0.01)
    await server.released[json.loads(asked.body)["model"]].wait()


async def alive(server: Server, asked: Exchange, reply: Reply, how: dict[str, str]) -> None:
    """What says nothing, again and again; ``slow`` says something now and then, and comes to an end."""
    said = {"pings": "event: ping\ndata: {}\n\n", "empty": 'data: {"choices": [{"delta": {}}]}\n\n', "body": " "}
    said["usage"] = 'data: {"choices": [], "usage": {"prompt_tokens": 0}}\n\n'
    reply.begin()
    if how["how"] == "after":
        await reply.delta(content="so far")
    for number in itertools.count(1):
        await reply.raw(said.get(how["how"], ": still here\n\n").encode())
        await asyncio.sleep(0.02)
        if how["how"] == "slow" and number % 10 == 0:
            await reply.delta(content="x")
            if number == 60:
                break
    await reply.end()


async def hasty(server: Server, asked: Exchange, reply: Reply, how: dict[str, str]) -> None:
    """It gives a reason with each piece, and rests before the last one."""
    reply.begin()
    for text in ("not ", "yet "):
        await reply.delta("stop", content=text)
    await asyncio.sleep(float(how["rest"]))
    await reply.delta("stop", content="over")
    await reply.raw(b"data: [DONE]\n\n")


async def verbatim(server: Server, asked: Exchange, reply: Reply, how: dict[str, str]) -> None:
    """The ``body`` that it is given, as the ``type`` that it is given."""
    reply.begin(kind=how["type"])
    await reply.raw(how["body"].encode())


async def done_only(server: Server, asked: Exchange, reply: Reply, how: dict[str, str]) -> None:
    """A ``[DONE]`` and no reason; and no blank line behind it."""
    reply.begin(chunked=False)
    await reply.delta(content="whole")
    await reply.raw(b"data: [DONE]")


async def status(server: Server, asked: Exchange, reply: Reply, how: dict[str, str]) -> None:
    """A status, ``times`` times, and then an answer."""
    model = json.loads(asked.body)["model"]
    server.times[model] += 1
    if server.times[model] > int(how.get("times", 1000)):
        await ok(server, asked, reply, how)
        return
    headers = {}
    if "after" in how:
        headers["Retry_After"] = how["after"]
    if "date" in how:
        headers["Retry_After"] = formatdate(time() + float(how["date"]), usegmt=True)
    if "location" in how:
        headers["Location"] = how["location"]
    # As some servers do, it quotes what it was shown.
    text = f"no luck with {asked.headers.get('authorization', 'nothing')}"
    await reply.whole(int(how["code"]), {"error": {"message": text, "type": "some"}}, X_Request_Id="up-1", **headers)


async def steps(server: Server, asked: Exchange, reply: Reply, how: dict[str, str]) -> None:
    """The answers of a list, each with its ``status``, ``body``, ``type`` and headers; then a good one."""
    model = json.loads(asked.body)["model"]
    server.times[model] += 1
    left = json.loads(how["steps"])[server.times[model] - 1 :]
    if not left:
        await ok(server, asked, reply, how)
        return
    headers = {name: value for name, value in left[0].items() if name not in ("status", "body", "type")}
    kind = left[0].get("type", "application/json")
    await reply.whole(left[0]["status"], left[0].get("body", {}), kind, **headers)


async def drop(server: Server, asked: Exchange, reply: Reply, how: dict[str, str]) -> None:
    """The connection is closed without an answer, ``times`` times."""
    model = json.loads(asked.body)["model"]
    server.times[model] += 1
    if server.times[model] > int(how["times"]):
        await ok(server, asked, reply, how)
    else:
        reply.abort()


async def page(server: Server, asked: Exchange, reply: Reply, how: dict[str, str]) -> None:
    await reply.whole(int(how["code"]), f"<html>Log in, {asked.headers['authorization']}</html>", "text/html")


async def whole(server: Server, asked: Exchange, reply: Reply, how: dict[str, str]) -> None:
    """It does not stream."""
    message = {"role": "assistant", "content": "all at once", "tool_calls": [call(None, "c0", "look", '{"at":1}')]}
    choices = [{"index": 0, "message": message, "finish_reason": "tool_calls"}]
    await reply.whole(200, {"model": "m-2026", "choices": choices, "usage": {"prompt_tokens": 1}})


async def bad_chunk(server: Server, asked: Exchange, reply: Reply, how: dict[str, str]) -> None:
    reply.begin()
    await reply.delta(content="so far")
    await reply.raw(
        b"data: " + {"json": b'{"choices": [', "list": b"[1]", "utf8": b'{"a": "\xff"}'}[how["what"]] + b"\n\n"
    )
    await reply.end()


async def failing(server: Server, asked: Exchange, reply: Reply, how: dict[str, str]) -> None:
    """An error within the stream."""
    reply.begin()
    await reply.delta(content="so far")
    text = f"out of memory, {asked.headers['authorization']}"
    if how["how"] == "named":
        await reply.raw(b"event: error\ndata: " + json.dumps({"message": text}).encode() + b"\n\n")
    else:
        await reply.event({"error": {"message": text, "code": 500}})


PLAIN: list[Script] = [ok, tools, odd_tools, half_tool, reasoning, hold, mute, paced, big, ragged, whole, verbatim]
BROKEN: list[Script] = [alive, cut, no_done, lingering, hasty, done_only, status, steps, drop, page, bad_chunk, failing]
SCRIPTS: dict[str, Script] = {script.__name__: script for script in (*PLAIN, *BROKEN)}


# -- the server --------------------------------------------------------------------------------------------------------


class Server:
    """Answers requests, and remembers them."""

    def __init__(self) -> None:
        self.asked: dict[str, list[Exchange]] = defaultdict(list)  # by model
        self.released: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.times: Counter[str] = Counter()
        self._connections = 0
        self._changed = asyncio.Condition()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self._connections += 1
        number = self._connections
        try:
            while (asked := await self._read(reader, number)) is not None:
                reply = Reply(writer)
                await self._answer(asked, reply, reader)
                if not reply.keeps_alive:
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _read(self, reader: asyncio.StreamReader, connection: int) -> Exchange | None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        except asyncio.IncompleteReadError:
            return None
        method, target, _ = head[0].split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        return Exchange(method, target, headers, body, connection)

    async def _answer(self, asked: Exchange, reply: Reply, reader: asyncio.StreamReader) -> None:
        path = asked.path
        if path == "/_seen":
            await reply.whole(200, await self._seen(asked.query))
        elif path == "/_release":
            self.released[asked.query["model"]].set()
            await reply.whole(200, {})
        elif path == "/v1/models":
            await self._note("models", asked)
            listed = [{"id": "big-1"}, {"id": "small-1"}]
            await reply.whole(200, {"object": "list", "data": listed})
        elif path.startswith("/oauth/"):
            form = dict(parse_qsl(asked.body.decode()))
            await self._note(form["client_id"], asked)
            await self._oauth(path, form, reply)
        elif path == "/v1/chat/completions":
            model = json.loads(asked.body)["model"]
            await self._note(model, asked)
            name, _, how = model.partition("?")
            if name in SCRIPTS:
                await self._play(SCRIPTS[name], asked, reply, dict(parse_qsl(how)), reader)
            else:
                await reply.whole(404, {"error": {"message": f"there is no model {model}"}})
        else:
            await reply.whole(404, {"error": "there is nothing"})

    async def _play(
        self, script: Script, asked: Exchange, reply: Reply, how: dict[str, str], reader: asyncio.StreamReader
    ) -> None:
        """Play a script to its end, or until the client closes the connection."""
        playing = asyncio.ensure_future(script(self, asked, reply, how))
        gone = asyncio.ensure_future(reader.read(1))  # nothing else is sent before it has its answer
        await asyncio.wait([playing, gone], return_when=asyncio.FIRST_COMPLETED)
        asked.state = "answered" if playing.done() and playing.exception() is None else "closed"
        for task in (playing, gone):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                await task
        if asked.state == "answered":
            await reply.finish()
        else:
            reply.abort()
        async with self._changed:
            self._changed.notify_all()

    async def _oauth(self, path: str, form: dict[str, str], reply: Reply) -> None:
        """A login; the client's id is its script: how often it is ``pending``, and the ``error`` then, if any."""
        name = form["client_id"]
        how = dict(parse_qsl(name.partition("?")[2]))
        granted = {"access_token": "at-1-planted", "refresh_token": "rt-1-planted", "expires_in": 3600}
        if path == "/oauth/device/code":
            answer = {"device_code": "dc-planted", "user_code": "WXYZ-1234", "verification_uri": "http://login.test"}
            await reply.whole(200, {**answer, "expires_in": float(how.get("expires", 600)), "interval": 0})
        elif form["grant_type"] == "refresh_token":
            known = form["refresh_token"] == "rt-1-planted"
            answer = {"error": "invalid_grant", "error_description": f"bad token {form['refresh_token']}"}
            await reply.whole(200, {**granted, "access_token": "at-2-planted"}) if known else await reply.whole(
                400, answer
            )
        else:
            self.times[name] += 1
            error = "authorization_pending" if self.times[name] <= int(how.get("pending", 1)) else how.get("error")
            if error == "500":
                await reply.whole(500, {})
            elif error:
                await reply.whole(400, {"error": error})
            else:
                await reply.whole(200, granted)

    async def _note(self, name: str, asked: Exchange) -> None:
        self.asked[name].append(asked)
        async with self._changed:
            self._changed.notify_all()

    async def _seen(self, query: dict[str, str]) -> list[dict[str, Any]]:
        """What was asked of a model, once ``count`` requests have come to ``state``, or after a while."""
        asked = self.asked[query["model"]]

        def enough() -> bool:
            state = query.get("state")
            return sum(state in (None, one.state) for one in asked) >= int(query.get("count", 0))

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE), self._changed:
                await self._changed.wait_for(enough)
        return [one.seen() for one in asked]


async def main() -> None:
    server = await asyncio.start_server(Server().serve, "127.0.0.1", 0, backlog=256)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await server.serve_forever()


def end_with_stdin() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=end_with_stdin, daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
    sys.exit(0)

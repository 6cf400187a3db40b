"""The reading list with scripted servers, over real processes and a real server, and under MCP."""

from __future__ import annotations

import http.server
import os
import re
import shlex
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from plugins.reading_list import app as plugin
from sepkit.testing import Fetched, McpClient, Response, TestHost
from tests.driver import HANDSHAKE, Extension

HERE = Path(__file__).parent
FEED = "https://example.org/feed"
NIGHT = datetime(2026, 6, 1, 3, 59, tzinfo=UTC)  # a minute before six in Stockholm


def rss(*titles: str) -> Response:
    entries = "".join(
        f"<item><title>{title}</title><link>https://example.org/{title}</link></item>" for title in titles
    )
    return Response(200, content=f"<rss><channel><title>All</title>{entries}</channel></rss>".encode())


ATOM = """<?xml version="1.0"?><feed xmlns="http://www.w3.org/2005/Atom"><title>All</title>
<entry><title>One</title><link href="https://example.org/1"/></entry>
<entry><title/><link href="https://example.org/2"/></entry>
<entry><title type="xhtml"><b>Three</b> dots</title><link rel="replies" href="https://example.org/3/comments"/>
<link rel="alternate" href="https://example.org/3"/></entry>
<entry><title>Within</title><link href="/4"/></entry>
<entry><title>Bad</title><link href="javascript:alert(1)"/></entry></feed>"""


def titles(host: Any, tool: str, **arguments: object) -> list[str]:
    return [one["title"] for one in host.call_tool(tool, arguments).details]


def test_the_manifest_names_the_app() -> None:
    """The manifest, the app and what it registers agree."""
    manifest = tomllib.loads((HERE / "extension.toml").read_text(encoding="utf-8"))
    with Extension(HERE, handshake=False) as extension:
        answer = extension.ask("initialize", HANDSHAKE)
    assert (manifest["name"], manifest["version"]) == (answer["extension"]["name"], answer["extension"]["version"])
    assert manifest["capabilities"]["tools"] is bool(answer["registrations"]["tools"])
    assert manifest["capabilities"]["hooks"] is bool(answer["registrations"]["hooks"])


def test_pages_are_kept_found_by_tag_read_and_removed() -> None:
    with TestHost(plugin.app) as host:
        host.call_tool("add", {"url": "https://a.example/1", "title": "Ferns", "tags": ["garden", "home"]})
        host.call_tool("add", {"url": "https://a.example/2", "tags": ["garden party"]})
        host.call_tool("add", {"url": "https://a.example/3", "title": "Rails"})
        assert titles(host, "unread") == ["Rails", "https://a.example/2", "Ferns"]
        assert titles(host, "unread", limit=1) == ["Rails"]
        assert titles(host, "unread", tag="garden") == ["Ferns"]
        host.call_tool("add", {"url": "https://a.example/1", "title": "Ferns again"})
        assert titles(host, "unread", tag="home") == ["Ferns again"], "tags and place stay"
        host.call_tool("done", {"url": "https://a.example/1"})
        host.call_tool("remove", {"url": "https://a.example/2"})
        assert titles(host, "unread") == ["Rails"]
        for tool in ("done", "remove"):
            answer = host.call_tool(tool, {"url": "https://a.example/9"})
            assert answer.is_error
            assert "is not on the list" in answer.content
        for url in ("ftp://a.example/", "http://", "http://[", "https://u:p@a.example/", "https:///x"):
            answer = host.call_tool("add", {"url": url})
            assert answer.is_error
            assert "cannot be used" in answer.content
        host.call_tool("add", {"url": "https://a.example/4", "title": "Quoted", "tags": ['a "b"', "ä"]})
        assert titles(host, "unread", tag='a "b"') == titles(host, "unread", tag="ä") == ["Quoted"]


def test_a_page_of_the_first_version_is_read_as_one_with_a_tag() -> None:
    assert plugin.several_tags({"title": "x", "tag": "home"}) == {"title": "x", "tags": ["home"]}
    assert plugin.several_tags({"title": "x", "tag": ""}) == {"title": "x", "tags": []}


def test_each_user_has_a_list_and_so_has_the_app() -> None:
    with TestHost(plugin.app, user="ada", users=["ada", "bo"]) as host:
        host.call_tool("add", {"url": "https://a.example/1", "title": "Hers"})
        host.user = "bo"
        assert titles(host, "unread") == []
        host.call_tool("add", {"url": "https://a.example/2", "title": "His"})
        host.user = None
        assert titles(host, "unread") == []
        host.user = "ada"
        assert titles(host, "unread") == ["Hers"]


def test_each_morning_the_feeds_of_all_users_are_looked_at() -> None:
    """What was there when a feed was followed is news, and later only what is new."""
    held = {"https://example.org/a": ["a1"], "https://example.org/b": ["b1"]}

    def answers(request: Fetched) -> Response:
        return rss(*held[request.url])

    with TestHost(plugin.app, user="ada", users=["ada", "bo"], fetch=answers, now=NIGHT) as host:
        assert "it has 1 new items" in host.call_tool("follow", {"url": "https://example.org/a"}).content
        host.user = "bo"
        host.call_tool("follow", {"url": "https://example.org/b"})
        held["https://example.org/a"] = ["a2", "a1"]
        held["https://example.org/b"] = ["b3", "b2", "b1"]
        host.advance(timedelta(minutes=2))
        assert sorted(titles(host, "news")) == ["b1", "b2", "b3"]
        host.user = "ada"
        assert titles(host, "news")[0] == "a2"
        assert len(host.fetched) == 4
        host.call_tool("unfollow", {"url": "https://example.org/a"})
        assert titles(host, "news") == []
        host.advance(timedelta(days=1))
        assert len(host.fetched) == 5, "only the other one's feed is left"


def test_a_feed_that_fails_keeps_none_of_the_others_and_is_named() -> None:
    down = False

    def answers(request: Fetched) -> Response:
        return Response(503) if down and request.url.endswith("/bad") else rss("x")

    with TestHost(plugin.app, fetch=answers) as host:
        for name in ("bad", "good"):
            host.call_tool("follow", {"url": f"https://example.org/{name}"})
        down = True
        assert host.run_job("look_at_all").status == "stopped"
        assert any("https://example.org/bad answered 503" in line.message for line in host.logs)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (ATOM, ["One", "https://example.org/2", "Three dots", "Within"]),
        ("<rss><channel/></rss>", []),
        ("", None),
        ("<html><body>Hello", None),
        ("<html><body>Hello</body></html>", None),
        ('<!DOCTYPE a [<!ENTITY b "cc">]><rss><channel><item><title>&b;</title></item></channel></rss>', None),
        ("<?xml version='1.0' encoding='nonsense'?><rss/>", None),
    ],
)
def test_feeds_of_both_kinds_are_read_and_what_is_none_is_refused(content: str, found: list[str] | None) -> None:
    with TestHost(plugin.app, fetch={FEED: Response(200, content=content.encode())}) as host:
        answer = host.call_tool("follow", {"url": FEED})
        assert answer.is_error is (found is None)
        if found is None:
            assert answer.content.startswith(f"The feed cannot be read: {FEED} cannot be read as a feed: ")
        else:
            assert sorted(titles(host, "news")) == sorted(found)
            links = {one["link"] for one in host.call_tool("news").details}
            assert "https://example.org/3/comments" not in links


def test_each_private_feed_has_a_token_of_its_own_that_goes_nowhere_else() -> None:
    """The user is asked for it: whatever address the model gives, no other feed's token is sent there."""
    mine, other = "https://example.org/private", "https://evil.example/private"
    asked: list[str] = []

    def answers(request: Any) -> str | None:
        asked.append(request.prompt)
        return "t0ken" if mine in request.prompt else None

    with TestHost(plugin.app, ui=answers, fetch={FEED: rss("a"), mine: rss("b"), other: rss("c")}) as host:
        host.call_tool("follow", {"url": FEED})
        host.call_tool("follow", {"url": mine, "private": True})
        assert host.call_tool("follow", {"url": other, "private": True}).is_error
        assert host.call_tool("follow", {"url": "http://example.org/p", "private": True}).is_error
        assert [one.headers.get("authorization") for one in host.fetched] == [None, "Bearer t0ken"]
        host.call_tool("follow", {"url": mine, "private": True})
        assert len(asked) == 2, "once each"
        assert "t0ken" not in str(host.logs) + str(host.call_tool("news").details)
        host.call_tool("unfollow", {"url": mine})
        host.call_tool("follow", {"url": mine, "private": True})
        assert len(asked) == 3, "it was forgotten with the feed"
    with TestHost(plugin.app) as host:
        answer = host.call_tool("follow", {"url": mine, "private": True})
        assert answer.is_error
        assert "SEPKIT_SECRET_FEED_" in answer.content


def test_a_feed_that_is_followed_again_tells_nothing_twice() -> None:
    with TestHost(plugin.app, fetch={FEED: rss("a", "b")}) as host:
        host.call_tool("follow", {"url": FEED})
        before = host.call_tool("news").details
        assert "it has 0 new items" in host.call_tool("follow", {"url": FEED}).content
        assert host.call_tool("news").details == before


def test_the_setting_says_how_many_items_are_kept() -> None:
    with TestHost(plugin.app, fetch={FEED: rss(*"abcdef")}, flags={"keep": 3}) as host:
        host.call_tool("follow", {"url": FEED})
        assert sorted(titles(host, "news")) == ["a", "b", "c"]


@pytest.mark.parametrize("answer", [True, False])
def test_all_is_forgotten_only_when_the_user_says_so(answer: bool) -> None:
    with TestHost(plugin.app, ui=lambda request: answer) as host:
        host.call_tool("add", {"url": "https://a.example/1", "title": "Ferns"})
        assert host.call_tool("forget_all").is_error is not answer
        assert titles(host, "unread") == ([] if answer else ["Ferns"])


# -- as a program ------------------------------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[str]:
    """A real server with a feed; its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = rss("real").content
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        thread = threading.Thread(target=served.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{served.server_address[1]}/feed"
        served.shutdown()


def test_what_was_acknowledged_outlives_the_death_of_the_process(server: str, tmp_path: Path) -> None:
    env = {**os.environ, "SEPKIT_DATA_DIR": str(tmp_path)}
    with Extension(HERE, env=env) as extension:
        assert extension.tool("follow", url=server)["content"].endswith("it has 1 new items.")
        for number in range(20):
            assert not extension.tool("add", url=f"https://a.example/{number}").get("is_error")
        extension.process.kill()
    with Extension(HERE, env=env) as extension:
        assert len(extension.tool("unread", limit=100)["details"]) == 20
        assert [one["title"] for one in extension.tool("news")["details"]] == ["real"]
        assert extension.end() == 0


@pytest.mark.asyncio
async def test_it_is_the_same_under_mcp(server: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sepkit", "run", "app:app", "--mcp"]
    env = {**os.environ, "SEPKIT_DATA_DIR": str(tmp_path)}
    async with McpClient(command, cwd=HERE, env=env) as client:
        assert (await client.call_tool("follow", {"url": server})).text.endswith("it has 1 new items.")
        await client.call_tool("add", {"url": "https://a.example/1", "title": "Ferns"})
        found = await client.call_tool("unread", {})
        assert '"title":"Ferns"' in found.text


def test_the_readme_shows_what_happens(tmp_path: Path) -> None:
    """Its console is typed, and shows the same."""
    readme = (HERE / "README.md").read_text(encoding="utf-8")
    (console,) = re.findall(r"```console\n(.*?)```", readme, re.S)
    env = {**os.environ, "SEPKIT_DATA_DIR": str(tmp_path), "COLUMNS": "80"}
    typed: Callable[[str], list[str]] = shlex.split
    for part in console.split("$ ")[1:]:
        line, _, shown = part.partition("\n")
        if line.startswith("cd "):
            continue
        command = [sys.executable, *typed(line)[1:]]
        done = subprocess.run(command, cwd=HERE, env=env, capture_output=True, text=True, timeout=60, check=False)
        told = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+(\+00:00|Z)", "2026-06-01T09:00:00Z", done.stdout)
        assert told.strip() == shown.strip(), done.stderr

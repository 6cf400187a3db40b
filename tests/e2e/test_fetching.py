"""An extension in a process of its own fetches from a server in another one's threads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import trustme

from tests.http_server import Server, ok

APP = """
import logging
from sepkit import App, ToolContext
from sepkit.errors import FetchError

logging.basicConfig(level=logging.DEBUG)
app = App("news", needs=["network:localhost"])

@app.tool
async def get(url: str, ctx: ToolContext) -> str:
    try:
        answer = await ctx.fetch(url, headers={"Authorization": "Bearer s3cret"})
    except FetchError as error:
        return f"{type(error).__name__}: {error}"
    return f"{answer.status} {answer.text}"
"""


def call(folder: Path, url: str, **variables: str) -> subprocess.CompletedProcess[str]:
    (folder / "news.py").write_text(APP, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    return subprocess.run(
        [sys.executable, "-m", "sepkit", "call", "news:app", "get", f"url={url}"],
        cwd=folder,
        env={**environment, **variables},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )


def test_a_process_fetches_what_its_app_needs_and_logs_neither_keys_nor_headers(tmp_path: Path) -> None:
    server = Server(ok(b"hello", "Set-Cookie: s3cret=1"), keep_alive=False)
    try:
        done = call(tmp_path, server.url("/x?key=s3cret"))
        assert done.stdout == "200 hello\n"
        assert server.asked[0].headers["authorization"] == "Bearer s3cret"
        assert "s3cret" not in done.stderr
        refused = call(tmp_path, "http://example.com/?key=s3cret")
        assert refused.stdout == (
            "FetchError: http://example.com/: news does not say that it needs example.com; "
            'write App("news", needs=["network:localhost", "network:example.com"])\n'
        )
        assert "s3cret" not in refused.stderr
    finally:
        server.close()


def test_a_server_whose_certificate_is_not_trusted_is_refused(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    server = Server(ok(b"hello"), keep_alive=False, certificate=certificate)
    trusted = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(trusted))
    url = f"https://localhost:{server.port}/"
    try:
        assert call(tmp_path, url, SSL_CERT_FILE=str(trusted)).stdout == "200 hello\n"
        refused = call(tmp_path, url).stdout
        assert refused.startswith(f"FetchError: GET {url}: ConnectError: ")
        assert "CERTIFICATE_VERIFY_FAILED" in refused
        assert "hello" not in refused
    finally:
        server.close()

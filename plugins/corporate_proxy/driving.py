"""What the plugin's tests drive: the server of ``upstream.py`` in a process, and the plugin in another."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.driver import CONTEXT, PATIENCE, Extension

HERE = Path(__file__).parent
KEY = "sk-planted-0123456789abcdef"


class Upstream:
    """The server, and what it has seen."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "upstream.py"], cwd=HERE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    @property
    def origin(self) -> str:
        return self.url.removesuffix("/v1")

    def seen(self, model: str, **until: object) -> list[dict[str, Any]]:
        """What was asked of a model; with ``state`` and ``count``, once so many requests have come to it."""
        found: list[dict[str, Any]] = self._get("_seen", model=model, **until)
        return found

    def release(self, model: str) -> None:
        """Let a held answer go on."""
        self._get("_release", model=model)

    def _get(self, path: str, **query: object) -> Any:
        with self._opener.open(f"{self.origin}/{path}?{urlencode(query)}", timeout=PATIENCE + 5) as answer:
            return json.load(answer)

    def end(self) -> None:
        """Send end-of-file, and wait for its end."""
        self._process.communicate(timeout=PATIENCE)


class Proxy(Extension):
    """The plugin under a host that passes on of its environment what the manifest names, and nothing else."""

    def __init__(self, environ: Mapping[str, str], *options: str, handshake: bool = True) -> None:
        manifest = tomllib.loads((HERE / "extension.toml").read_text(encoding="utf-8"))
        named = {
            name: re.sub(r"\$\{env:(\w+)\}", lambda found: environ.get(found[1], ""), value)
            for name, value in manifest["run"]["env"].items()
        }
        assert set(environ) <= set(named), "the manifest does not pass on all of it"
        inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        super().__init__(HERE, *options, env={**inherited, **named}, handshake=handshake)

    def __enter__(self) -> Proxy:
        return self

    def start(self, model: str, *, stream: bool = True, **more: object) -> Any:
        """Ask for a completion; the request's id. Its ``request_id`` is ``r-<id>``."""
        self._next_id += 1
        rid = self._next_id
        params = {
            "request_id": f"r-{rid}",
            "provider": "corporate-proxy",
            "model": model,
            "messages": [{"role": "user", "content": "hi"}],
            "stream": stream,
            "context": CONTEXT,
            **more,
        }
        return self.request("provider/complete", params, rid)

    def complete(self, model: str, **more: Any) -> dict[str, Any]:
        """Have it completed; the result."""
        answer = self.answer(self.start(model, **more))
        assert "result" in answer, f"{answer}; stderr:\n{self.stderr}"
        result: dict[str, Any] = answer["result"]
        return result

    def refused(self, model: str, **more: Any) -> dict[str, Any]:
        """Have it refused; the error."""
        answer = self.answer(self.start(model, **more))
        assert "error" in answer, f"{model} was answered with {answer}"
        error: dict[str, Any] = answer["error"]
        return error

    def deltas(self, rid: Any = None) -> list[dict[str, Any]]:
        """Take the events that were streamed so far, of one request or of all."""
        told = [frame["params"] for frame in self.kept() if frame.get("method") == "provider/delta"]
        return [params["event"] for params in told if rid is None or params["request_id"] == f"r-{rid}"]

    def next_delta(self) -> dict[str, Any]:
        """Wait for the next event."""
        while True:
            frame = self.next_frame()
            assert frame is not None
            if frame.get("method") == "provider/delta":
                event: dict[str, Any] = frame["params"]["event"]
                return event

    def cancel(self, rid: Any) -> None:
        self.notify("$/cancel", {"id": rid})

    def command(self, name: str) -> str:
        content: str = self.ask("command/execute", {"command": name, "arguments": {}, "context": CONTEXT})["content"]
        return content

    def log_in(self, ui: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """Log in; the answer, and what the user was shown."""
        rid = self.request("provider/oauth_login", {"provider": "corporate-proxy", "context": CONTEXT})
        shown = []
        while True:
            frame = self.next_frame()
            assert frame is not None
            if frame.get("method") == "ui/request":
                shown.append(frame["params"]["message"])
                self.send({"jsonrpc": "2.0", "id": frame["id"], **ui})
            elif frame.get("id") == rid:
                return frame, shown


DONE = "data: [DONE]\n\n"


def verbatim(*events: object, kind: str = "text/event-stream") -> str:
    """The name of a model that answers with these events: JSON values, and as text what is to be sent as it is."""
    body = "".join(event if isinstance(event, str) else f"data: {json.dumps(event)}\n\n" for event in events)
    return f"verbatim?{urlencode({'type': kind, 'body': body})}"

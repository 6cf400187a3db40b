"""The test client, with every frame of the server held against the official schema of its revision.

The schemas are reference data beside the project. Without them, or without jsonschema-rs, frames are not looked at, and
the test that says so is skipped.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import orjson

from sepkit import App
from sepkit.faces.mcp.protocol import LEGACY, MODERN, VERSION
from sepkit.testing import McpClient
from sepkit.testing.mcp import Direction, Era

SCHEMAS: Final = Path(__file__).parents[2].parent / "shared" / "mcp-schema"
CHECKS: Final = SCHEMAS.is_dir() and importlib.util.find_spec("jsonschema_rs") is not None
WHY_NOT: Final = f"the official schemas are not at {SCHEMAS}, or jsonschema-rs is not installed"
VERSIONS: Final = (*LEGACY, MODERN)

_RESULTS: Final = {
    "initialize": "InitializeResult",
    "server/discover": "DiscoverResult",
    "tools/list": "ListToolsResult",
    "tools/call": "CallToolResult",
    "prompts/list": "ListPromptsResult",
    "prompts/get": "GetPromptResult",
    "resources/list": "ListResourcesResult",
    "resources/templates/list": "ListResourceTemplatesResult",
    "resources/read": "ReadResourceResult",
    "completion/complete": "CompleteResult",
    "subscriptions/listen": "SubscriptionsListenResult",
}


@functools.cache
def _validator(version: str, name: str) -> Any:
    import jsonschema_rs

    document = orjson.loads((SCHEMAS / f"{version}.schema.json").read_bytes())
    place = "$defs" if "$defs" in document else "definitions"
    if name not in document[place]:
        return None
    entry = {"$schema": document["$schema"], "$ref": f"#/{place}/{name}", place: document[place]}
    return jsonschema_rs.validator_for(entry)


def check(version: str, name: str, value: object) -> None:
    """Hold a value against a type of a revision, where the schemas are there."""
    if not CHECKS:
        return
    validator = _validator(version, name)
    if validator is not None:
        faults = [str(error) for error in validator.iter_errors(value)]
        assert not faults, f"{version} {name}: {value}\n" + "\n".join(faults)


class Frames:
    """What goes over one connection: the server's part of it must be what the schemas say."""

    def __init__(self, version: str) -> None:
        self.version = version
        self.checked = 0
        self.received: list[dict[str, Any]] = []
        self._asked: dict[object, tuple[str, str]] = {}

    def __call__(self, direction: Direction, frame: dict[str, Any]) -> None:
        if direction == "sent":
            if "method" in frame and "id" in frame:
                meta = frame.get("params", {}).get("_meta")
                is_modern = self.version == MODERN or (type(meta) is dict and VERSION in meta)
                version = MODERN if is_modern else self.version
                self._asked[frame["id"]] = (version, frame["method"])
            return
        self.received.append(frame)
        if CHECKS:
            self.checked += 1
            self._check(frame)

    def _check(self, frame: dict[str, Any]) -> None:
        assert frame["jsonrpc"] == "2.0"
        if "method" in frame:
            assert set(frame) <= {"jsonrpc", "id", "method", "params"}
            is_request = "id" in frame
            assert not (is_request and self.version == MODERN), "modern servers ask nothing by requests"
            check(self.version, "ServerRequest" if is_request else "ServerNotification", frame)
            check(self.version, "JSONRPCMessage", frame)
            return
        version, method = self._asked.pop(frame["id"])
        check(version, "JSONRPCMessage", frame)
        if "error" in frame:
            assert frame["id"] is not None
            assert frame["error"]["code"] in {-32700, -32600, -32601, -32602, -32603, -32002, -32021, -32022}
            return
        result = frame["result"]
        name = _RESULTS.get(method, "EmptyResult")
        if version == MODERN:
            assert result["resultType"] in ("complete", "input_required")
            if result["resultType"] == "input_required":
                name = "InputRequiredResult"
        else:
            assert "resultType" not in result
        check(version, name, result)


class CheckedClient(McpClient):
    """The test client of a revision; every frame that comes is checked."""

    def __init__(self, server: App | Sequence[str], version: str = MODERN, **options: Any) -> None:
        self.frames = Frames(version)
        era: Era = "modern" if version == MODERN else "legacy"
        super().__init__(server, era=era, version=version, on_frame=self.frames, **options)


def meta(version: str = MODERN, **more: Any) -> Mapping[str, Any]:
    """The ``_meta`` of a modern request."""
    return {VERSION: version, "io.modelcontextprotocol/clientCapabilities": {}, **more}

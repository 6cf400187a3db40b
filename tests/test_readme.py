"""The README's own promises; that its snippets run is shown by ``test_docs.py``."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_the_app_has_twelve_lines() -> None:
    """Without its imports, blank lines and comment, the app fits in 12 lines."""
    (source,) = blocks("python")
    lines = [line for line in source.splitlines() if line.strip() and not line.startswith(("#", "from "))]
    assert len(lines) <= 12


def test_the_manifest_is_the_one_that_hosts_read() -> None:
    """The manifest has name, version and the command to run. Source: docs/protocol.md, section 10."""
    (source,) = blocks("toml")
    manifest = tomllib.loads(source)
    assert manifest["name"] == "hello"
    assert manifest["run"]["args"] == ["-m", "sepkit", "run", "app:app"]

"""What an author does to ``logging`` takes away no traceback that an answer points to, and no failure's."""

from __future__ import annotations

from typing import Final

import pytest

from tests.driver import EVENT_CONTEXT, Extension

SOURCE: Final = """
import asyncio, logging, logging.config, sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from sepkit import *

class Raising(logging.Handler):
    def emit(self, record):
        raise ValueError("a handler of the author's")

def silence():
    {silence}

@dataclass
class Ended:
    x: int

@asynccontextmanager
async def lifespan(app):
    {in_lifespan}
    try:
        yield
    finally:
        raise ValueError("secret of the lifespan")

app = App("silenced", lifespan=lifespan)

@app.tool
async def broken() -> None:
    {in_call}
    raise ValueError("secret of the tool")

@app.tool
async def waits() -> None:
    await asyncio.sleep(0)
    raise ValueError("secret of the tool")

@app.on("turn_start")
async def observe(payload: dict) -> None:
    raise ValueError("secret of the event")

@app.on("turn_end")
async def observe_end(payload: Ended) -> None: ...

@app.task(autostart=True)
async def task() -> None:
    raise ValueError("secret of the task")

{at_import}
"""

WAYS: Final = {
    "dictConfig": 'logging.config.dictConfig({"version": 1})',
    "dictConfig of the root": 'logging.config.dictConfig({"version": 1, "root": {"handlers": [], "level": 50}})',
    "fileConfig": """Path("log.ini").write_text("[loggers]\\nkeys=root\\n[handlers]\\nkeys=\\n[formatters]\\nkeys=\\n"
        "[logger_root]\\nhandlers=\\nlevel=CRITICAL\\n"); logging.config.fileConfig("log.ini")""",
    "basicConfig": 'logging.basicConfig(force=True, filename="author.log", level=logging.CRITICAL)',
    "disable": "logging.disable(logging.CRITICAL)",
    "clear": "logging.getLogger().handlers.clear()",
    "setLevel": 'logging.getLogger("sepkit").setLevel(logging.CRITICAL + 1)',
    "no propagation": 'logging.getLogger("sepkit").propagate = False',
    "a filter": 'logging.getLogger("sepkit").addFilter(lambda record: False)',
    "shutdown": "logging.shutdown()",
    "a handler that raises": "logging.getLogger().handlers.insert(0, Raising())",
    "a filter that raises": 'logging.getLogger("sepkit").addFilter(lambda record: 1 / 0)',
    "a record factory that raises": "logging.setLogRecordFactory(lambda *a, **k: 1 / 0)",
}


@pytest.mark.parametrize(
    ("way", "when"),
    [(way, "at_import") for way in WAYS]
    + [(way, when) for way in ("dictConfig", "basicConfig", "clear") for when in ("in_lifespan", "in_call")],
)
def test_a_traceback_that_an_answer_points_to_is_on_stderr_whatever_the_authors_logging(way: str, when: str) -> None:
    """Of tools, events, background tasks and the lifespan; once each; and the host's log names the same id."""
    places = {place: "silence()" if place == when else "pass" for place in ("at_import", "in_lifespan", "in_call")}
    with Extension(SOURCE.format(silence=WAYS[way], **places)) as extension:
        for tool in ("broken", "waits"):
            details = extension.tool(tool)["details"]
            told = extension.wait_for_stderr(f"[{details['correlation_id']}]")
            assert told.count(details["correlation_id"]) == 1
        extension.wait_for_stderr("ValueError: secret of the tool")
        for seq, name in enumerate(("turn_start", "turn_end")):
            params = {"event": name, "context": EVENT_CONTEXT, "seq": seq, "payload": {"x": "no number"}}
            extension.notify("event", params)
        extension.wait_for_stderr("ValueError: secret of the event")
        extension.wait_for_stderr("the payload does not fit")
        extension.wait_for_stderr("ValueError: secret of the task")
        assert extension.end() == 0
        told = extension.wait_for_stderr("ValueError: secret of the lifespan")
        assert told.count("ValueError: secret of the lifespan") == 1
        logged = [frame["params"]["message"] for frame in extension.rest() if frame.get("method") == "log"]
        assert any("failed [" in message for message in logged), "the host has the ids, too"


def test_what_an_author_logs_goes_where_the_author_wants_and_so_do_sepkits_failures() -> None:
    """A handler of the author's gets sepkit's errors beside its own records, and stderr shows each of them once."""
    places = {"at_import": "silence()", "in_lifespan": "pass", "in_call": 'logging.warning("mine")'}
    way = 'logging.getLogger().addHandler(logging.FileHandler("author.log"))'
    with Extension(SOURCE.format(silence=way, **places)) as extension:
        correlation = extension.tool("broken")["details"]["correlation_id"]
        told = extension.wait_for_stderr("ValueError: secret of the tool")
        assert told.count(correlation) == 1
        written = (extension.folder / "author.log").read_text()
        assert "mine" in written
        assert written.count(correlation) == 1

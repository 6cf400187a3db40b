"""What documents cost beside the same SQL written by hand, by turns in one run; and what a find of a few weighs.

By hand is: the same table, the same index, `executemany` in one transaction, `json_extract` in the conditions, orjson,
and a document made of what was read. It runs in the one thread of an executor, since it would block the loop otherwise;
nothing is checked.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import click
import orjson

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.about import about, json_option, ratios, show, spread
from sepkit import App
from sepkit.capabilities.local.backend import LocalBackend
from sepkit.contexts.documents import Documents
from sepkit.contexts.link import Link
from sepkit.faces.runner import new_loop

TAGS: Final = 1000
FINDS: Final = 100  # of those that take microseconds

app = App("bench")


@dataclass
class Note:
    title: str
    text: str
    tag: str
    number: int
    done: bool


notes = app.collection("notes", Note, indexes=["tag"])


def made(count: int) -> list[tuple[str, Note]]:
    chance = random.Random(1)
    return [
        (
            f"{chance.getrandbits(64):016x}",
            Note(f"Note {number}", "x" * chance.choice((50, 200, 600)), f"t{number % TAGS}", number, number % 2 == 0),
        )
        for number in range(count)
    ]


class ByHand:
    """The same in SQL."""

    def __init__(self, path: Path) -> None:
        self._database = database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("CREATE TABLE notes (id TEXT PRIMARY KEY, data TEXT NOT NULL)")
        database.execute("CREATE INDEX notes_tag ON notes (json_extract(data, '$.tag'))")

    def put_many(self, items: list[tuple[str, Note]]) -> None:
        rows = ((id, orjson.dumps(note).decode()) for id, note in items)  # noqa: A001
        self._database.execute("BEGIN")
        self._database.executemany("INSERT OR REPLACE INTO notes VALUES (?, ?)", rows)
        self._database.execute("COMMIT")

    def find(self, condition: str, value: object, more: str = "") -> list[Note]:
        rows = self._database.execute(f"SELECT data FROM notes WHERE {condition} {more}", (value,))
        return [Note(**orjson.loads(data)) for (data,) in rows]


class _OnlyBackend:
    """As much of a connection as documents need."""

    def __init__(self, folder: Path) -> None:
        self.backend = LocalBackend("bench", folder)


async def timed(work: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await work()
    return time.perf_counter() - began


async def measure(count: int) -> dict[str, tuple[float, float]]:
    """Seconds of each step: ours, by hand."""
    items = made(count)
    found: dict[str, tuple[float, float]] = {}
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        link = _OnlyBackend(Path(folder))
        store = Documents(cast("Link", link), notes)
        await store.count()  # opened
        hand = ByHand(Path(folder) / "hand.sqlite3")
        thread = ThreadPoolExecutor(1)

        async def by_hand(work: Callable[[], object], times: int = 1) -> None:
            for _ in range(times):
                await asyncio.get_running_loop().run_in_executor(thread, work)

        async def ours(work: Callable[[], Awaitable[Any]], times: int = 1) -> None:
            for _ in range(times):
                await work()

        found["put_many"] = (
            await timed(lambda: store.put_many(items)),
            await timed(lambda: by_hand(lambda: hand.put_many(items))),
        )
        number, done = "json_extract(data, '$.number')", "json_extract(data, '$.done')"
        pairs: dict[str, tuple[Callable[[], Awaitable[list[Note]]], Callable[[], list[Note]], int]] = {
            "find, indexed": (
                lambda: store.find({"tag": "t7"}),
                lambda: hand.find("json_extract(data, '$.tag') = ?", "t7"),
                FINDS,
            ),
            "find, unindexed": (
                lambda: store.find({"number": {"$lt": 100}}),
                lambda: hand.find(f"{number} < ?", 100),
                1,
            ),
            "find, sorted": (
                lambda: store.find({"done": True}, sort={"number": "desc"}, limit=10),
                lambda: hand.find(f"{done} = ?", 1, f"ORDER BY {number} DESC LIMIT 10"),
                1,
            ),
        }
        for name, (mine, theirs, times) in pairs.items():
            assert len(await mine()) == len(theirs())
            found[name] = (
                await timed(lambda: ours(mine, times)) / times,  # noqa: B023
                await timed(lambda: by_hand(theirs, times)) / times,  # noqa: B023
            )
        thread.shutdown()
        await link.backend.aclose()
    return found


async def weigh(count: int) -> int:
    """Bytes of Python's memory, at most, while ten of so many documents are found."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        link = _OnlyBackend(Path(folder))
        store = Documents(cast("Link", link), notes)
        await store.put_many(made(count))
        await store.find(sort={"number": "desc"}, limit=10)
        tracemalloc.start()
        await store.find(sort={"number": "desc"}, limit=10)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        await link.backend.aclose()
    return peak


@click.command()
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
@click.option("--documents", default=100_000, show_default=True, type=click.IntRange(1000))
@json_option
def main(rounds: int, documents: int, file: str | None) -> None:
    """Measure the store of documents."""

    def run(work: Any) -> Any:
        with asyncio.Runner(loop_factory=lambda: new_loop("uvloop")) as runner:
            return runner.run(work)

    measured = [run(measure(documents)) for _ in range(rounds)]
    rows = [
        {
            "step": step,
            "sepkit": spread([one[step][0] for one in measured]),
            "by hand": spread([one[step][1] for one in measured]),
            "ratio": ratios([one[step][0] for one in measured], [one[step][1] for one in measured]),
        }
        for step in measured[0]
    ]
    weights = {str(count): run(weigh(count)) for count in (documents // 100, documents)}
    table = f"{documents:,} documents, {rounds} rounds by turns, medians; milliseconds\n\n"
    table += f"{'':16} {'sepkit':>10} {'by hand':>10} {'times':>6}\n"
    for row in rows:
        mine, theirs = row["sepkit"]["median"], row["by hand"]["median"]
        table += f"{row['step']:16} {mine * 1e3:>10,.2f} {theirs * 1e3:>10,.2f} {row['ratio']['median']:>6.2f}\n"
    kept = ", ".join(f"{weight / 1024:,.0f} KiB of {int(count):,}" for count, weight in weights.items())
    table += f"\nat most in memory while ten are found: {kept}\n"
    show({**about(), "documents": documents, "rounds": rounds, "rows": rows, "find of ten": weights}, table, file)


if __name__ == "__main__":
    main()

r"""Writes until it is killed, and says what has been acknowledged: ``key number\n`` on its stdout, after the await.

Each line of its stdin, ``kind path seed``, forks a process that writes to ``path``: a :class:`KvStore` for ``sqlite``,
which goes on from what is there; a new file, rewritten in place with each write, for ``json``. It tells its id first.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

from sepkit.capabilities.store import KvStore

KEYS = ("first", "second", "third", "fourth")
NAMESPACE = "writer"

Write = Callable[[str, Any], Awaitable[None]]


def numbered(number: int, size: int) -> dict[str, Any]:
    """A value that tells whether it is whole."""
    text = chr(97 + number % 26) * size
    return {"number": number, "text": text, "sum": zlib.crc32(f"{number} {text}".encode())}


def is_whole(value: Any) -> bool:
    """Whether a value is one of those that were written."""
    return bool(value["sum"] == zlib.crc32(f"{value['number']} {value['text']}".encode()))


async def write_one(key: str, number: int, write: Write, sizes: random.Random) -> None:
    while True:
        number += 1
        await write(key, numbered(number, sizes.choice((10, 200, 5_000, 20_000))))
        os.write(1, f"{key} {number}\n".encode())


async def write_all(write: Write, before: dict[str, Any], seed: int) -> None:
    sizes = random.Random(seed)
    await asyncio.gather(
        *(write_one(key, before[key]["number"] if before.get(key) else 0, write, sizes) for key in KEYS)
    )


async def into_sqlite(path: str, seed: int) -> None:
    store = KvStore(path)

    async def write(key: str, value: Any) -> None:
        await store.set(NAMESPACE, key, value)

    await write_all(write, {key: await store.get(NAMESPACE, key) for key in KEYS}, seed)


async def into_json(path: str, seed: int) -> None:
    values: dict[str, Any] = {}

    async def write(key: str, value: Any) -> None:
        values[key] = value
        with open(path, "w") as file:  # noqa: ASYNC230  (what a program does that thinks little of it)
            json.dump(values, file)
        await asyncio.sleep(0)

    await write_all(write, {}, seed)


def main() -> None:
    for line in sys.stdin:
        kind, path, seed = line.split()
        child = os.fork()
        if child == 0:
            os.write(1, f"{os.getpid()}\n".encode())
            asyncio.run((into_sqlite if kind == "sqlite" else into_json)(path, int(seed)))
        os.waitpid(child, 0)
        os.write(1, b"dead\n")


if __name__ == "__main__":
    main()

r"""Writes documents until it is killed, and says what has been acknowledged, after the await: ``writer number\n``.

``documents_writer.py FOLDER``. Each line of its stdin is a seed. It forks two processes that write to the one folder,
each as a writer of its own, and says their ids; it says ``dead`` when both have ended.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from pathlib import Path
from typing import Any

from sepkit.capabilities.local.backend import LocalBackend
from sepkit.contexts.backend import Find, Place

WRITERS = ("first", "second")
BATCH = 5
PLACE = Place(None, "notes", ("writer",))
USER = Place("ada", "notes", ("writer",))


def batch(writer: str, number: int, size: int) -> list[tuple[str, dict[str, Any]]]:
    """Documents that tell whether all of them are of one put, and whole."""
    text = chr(97 + number % 26) * size
    return [
        (f"{writer}-{part}", {"writer": writer, "number": number, "text": text, "length": size})
        for part in range(BATCH)
    ]


async def write(folder: Path, writer: str, seed: int) -> None:
    backend = LocalBackend("app", folder)
    chance = random.Random(f"{writer}{seed}")
    found = await backend.documents.find(PLACE, Find(query={"writer": {"$eq": writer}}, limit=1))
    number = found[0][1]["number"] if found else 0
    while True:
        number += 1
        documents = batch(writer, number, chance.choice((10, 500, 5_000, 20_000)))
        # The user's database is behind the app's: it may be one put older, and never newer.
        await backend.documents.put(PLACE, documents)
        await backend.documents.put(USER, documents)
        os.write(1, f"{writer} {number}\n".encode())
        if chance.random() < 0.1:
            await backend.documents.delete_many(PLACE, {"writer": {"$eq": "nobody"}})


def main() -> None:
    folder = Path(sys.argv[1])
    for line in sys.stdin:
        children = []
        for writer in WRITERS:
            child = os.fork()
            if child == 0:
                asyncio.run(write(folder, writer, int(line)))
            children.append(child)
        os.write(1, (" ".join(map(str, children)) + "\n").encode())
        for child in children:
            os.waitpid(child, 0)
        os.write(1, b"dead\n")


if __name__ == "__main__":
    main()

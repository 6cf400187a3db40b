"""A table that forgets: what an extension tells again and again must not fill the host's memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Kept(MutableMapping[K, V]):
    """A table of so many entries and bytes at most. Past that its oldest entries are forgotten; one is always kept.

    Args:
        most: How many entries.
        most_bytes: How many bytes.
        weigh: How many bytes something takes.
        shed: Called for each entry that is forgotten.
    """

    def __init__(
        self,
        most: int,
        most_bytes: int,
        weigh: Callable[[object], int],
        shed: Callable[[], None],
    ) -> None:
        self.bytes = 0
        self._most = most
        self._most_bytes = most_bytes
        self._weigh = weigh
        self._shed = shed
        self._entries: dict[K, tuple[V, int]] = {}

    def __getitem__(self, key: K) -> V:
        return self._entries[key][0]

    def __setitem__(self, key: K, value: V) -> None:
        self.keep(key, value, self._weigh(key) + self._weigh(value))

    def __delitem__(self, key: K) -> None:
        self.bytes -= self._entries.pop(key)[1]

    def __iter__(self) -> Iterator[K]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def keep(self, key: K, value: V, weight: int) -> None:
        """As ``self[key] = value``, where it is known how many bytes they take. A known key keeps its place."""
        if (known := self._entries.get(key)) is not None:
            self.bytes -= known[1]
        self._entries[key] = (value, weight)
        self.bytes += weight
        while len(self._entries) > self._most or (self.bytes > self._most_bytes and len(self._entries) > 1):
            oldest = next(iter(self._entries))
            if oldest == key and len(self._entries) > 1:  # it has grown where it stands
                self._entries[key] = self._entries.pop(key)
                continue
            del self[oldest]
            self._shed()

"""What a completion has cost, wherever a vendor puts it and whatever the vendor calls it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final

from gateway.failures import as_object
from sepkit import Cost, StreamEvent, Usage

_NAMES: Final[dict[str, tuple[str, ...]]] = {
    "prompt_tokens": ("prompt_tokens", "input_tokens", "promptTokenCount", "prompt_token_count", "prompt_eval_count"),
    "completion_tokens": (
        "completion_tokens", "output_tokens", "candidatesTokenCount", "candidates_token_count", "eval_count",
    ),
    "total_tokens": ("total_tokens", "totalTokenCount", "total_token_count"),
}  # fmt: skip
_CACHED: Final = ("cached_tokens", "prompt_cache_hit_tokens", "cache_read_input_tokens", "cachedContentTokenCount")
_REASONING: Final = ("reasoning_tokens", "thoughtsTokenCount")
_PROMPT_DETAILS: Final = ("prompt_tokens_details", "input_tokens_details")
_COMPLETION_DETAILS: Final = ("completion_tokens_details", "output_tokens_details")
_COSTS: Final = ("cost", "total_cost", "estimated_cost")
_TICKS: Final = 10_000_000_000  # of xAI, in a dollar
_MAX: Final = 2**63


class Counts:
    """The counts of one completion. A later one replaces an earlier one, but a zero replaces nothing."""

    def __init__(self) -> None:
        self._counted: dict[str, int | float] = {}
        self._usd: float | None = None

    def take(self, chunk: dict[str, Any]) -> Iterator[StreamEvent]:
        """The events of a chunk in which something is new."""
        for said in _places(chunk):
            counted = {**self._counted}
            for name, count in _counts(said).items():
                counted[name] = count or counted.get(name, count)
            if counted != self._counted:
                self._counted = counted
                yield _usage(counted)
            usd = _cost(said)
            if usd is not None and usd != self._usd and (usd or self._usd is None):
                self._usd = usd
                yield Cost(usd)


def _places(chunk: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The objects of a chunk that hold usage: its own, and those of the choices (Moonshot) and of Groq."""
    choices = chunk.get("choices")
    parts = [as_object(choice) for choice in choices] if isinstance(choices, list) else []
    inner = [as_object(part.get(name)) for part in parts for name in ("delta", "message")]
    for part in (*inner, *parts, as_object(chunk.get("x_groq")), chunk):
        for name in ("usage", "usage_metadata", "usageMetadata"):
            if said := as_object(part.get(name)):
                yield said


def _counts(said: dict[str, Any]) -> dict[str, int | float]:
    """All that is counted, under the API's names and the vendor's others."""
    found: dict[str, int | float] = {}
    for name, names in _NAMES.items():
        if (count := _first(said, names)) is not None:
            found[name] = count
    cached, reasoning = _detail(said, _PROMPT_DETAILS, _CACHED), _detail(said, _COMPLETION_DETAILS, _REASONING)
    if cached is not None:
        found["cached_tokens"] = cached
    if reasoning is not None:
        found["reasoning_tokens"] = reasoning
    known = {"type", *_CACHED, *_REASONING}.union(*_NAMES.values())
    more = {k: v for k, v in said.items() if k not in known and k.isascii() and type(v) in (int, float)}
    return {**found, **{name: value for name, value in more.items() if math.isfinite(value) and abs(value) < _MAX}}


def _detail(said: dict[str, Any], places: tuple[str, ...], names: tuple[str, ...]) -> int | None:
    inner = (_first(as_object(said.get(place)), names) for place in places)
    return next((count for count in inner if count is not None), _first(said, names))


def _first(said: dict[str, Any], names: tuple[str, ...]) -> int | None:
    return next((count for name in names if (count := _count(said.get(name))) is not None), None)


def _count(value: object) -> int | None:
    """A number of tokens, which some write as 3.0 or as text."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19:
        return int(value)
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value < _MAX else None


def _usage(counted: dict[str, int | float]) -> Usage:
    more = {name: value for name, value in counted.items() if name not in (*_NAMES, "cached_tokens")}
    prompt, completion, total, cached = (_count(counted.get(name)) for name in (*_NAMES, "cached_tokens"))
    return Usage(
        prompt_tokens=prompt, completion_tokens=completion, total_tokens=total, cached_tokens=cached, extra=more
    )


def _cost(said: dict[str, Any]) -> float | None:
    """Dollars, which some write as text, and some in parts with a sum."""
    for name in _COSTS:
        value = said.get(name)
        if isinstance(value, dict):
            value = value.get("total_cost")
        usd = _dollars(value)
        if usd is not None:
            return usd
    ticks = _dollars(said.get("cost_in_usd_ticks"))
    return None if ticks is None else ticks / _TICKS


def _dollars(value: object) -> float | None:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    return float(value) if type(value) in (int, float) and math.isfinite(value) and abs(value) < 1e15 else None  # type: ignore[arg-type]  # mypy narrows by isinstance only

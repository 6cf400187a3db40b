"""What can go wrong, as errors that a host can act on; and what servers write when they refuse.

Pure functions: nothing here knows a connection or a secret. Texts are cut short and cleaned of secrets where they are
used (``server.py``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Final

import orjson

from sepkit import RpcError

WEEK: Final = 7 * 86_400.0

# Reasons that end an answer which is not complete. Servers have many words for it.
_FAILED: Final = re.compile(
    r"error|abort|cancel|fail|insufficient|time_?out|overload|unavailable|interrupt|malformed", re.IGNORECASE
)
# Words in a code or type which say that waiting does not help. Texts are not searched: they speak of short limits, too.
_NO_QUOTA: Final = re.compile(
    r"insufficient_?(quota|balance|funds|credit)|exceeded_current_quota|billing|payment_required|arrearage",
    re.IGNORECASE,
)
_PLAIN_NAMES: Final = (
    "message", "Message", "msg", "error_description", "error_message", "errorMessage", "error_msg", "status_msg",
    "faultstring", "reason", "title", "description",
)  # fmt: skip
_OUTER_NAMES: Final = ("error", "errors", "detail", "details", "fault", "base_resp")
_LAST_NAMES: Final = ("code", "type", "status")
_FINE: Final = {"", "0", "200", "ok", "success"}


def failure(kind: str, message: str, *, retryable: bool = False, **facts: Any) -> RpcError:
    """An error whose ``data`` a host can act on: ``{"kind", "retryable", …}``."""
    told = {name: fact for name, fact in facts.items() if fact is not None}
    return RpcError(message, data={"kind": kind, "retryable": retryable, **told})


def bad_answer(why: str, who: str = "the upstream") -> RpcError:
    """The error for what is not an answer of the API."""
    return failure("bad_answer", f"{who} does not answer as the API does: {why}")


def is_failed(finish_reason: str) -> bool:
    """Whether a finish reason says that the answer ended before it was complete."""
    return _FAILED.search(finish_reason) is not None


# -- what an error says ------------------------------------------------------------------------------------------------


def as_object(value: object) -> dict[str, Any]:
    """An object; empty where the value is not one."""
    return value if isinstance(value, dict) else {}


def is_error(said: dict[str, Any]) -> bool:
    """Whether an object says that it is an error."""
    is_named = said.get("object") == "error" or said.get("type") == "error"
    return is_named or bool(said.get("error") or as_object(said.get("base_resp")).get("status_code"))


def sounds_failed(said: dict[str, Any]) -> bool:
    """Whether an object among the chunks of a stream is an error, although it does not say so."""
    if said.get("choices") is not None:
        return False
    if any(said.get(name) for name in ("errors", "detail", "fault", "error_code", "error_msg", "error_message")):
        return True
    code = said.get("code")
    is_bad = type(code) in (int, str) and str(code).lower() not in _FINE
    for status in (said.get(name) for name in ("status", "status_code", "statusCode")):
        # A word may also say that it is at work.
        is_bad |= (type(status) is int and status >= 400) or (isinstance(status, str) and is_failed(status))
    return is_bad and any(isinstance(said.get(name), str) and said[name] for name in _PLAIN_NAMES)


def text_of(said: object, depth: int = 6) -> str:
    """What an error says in words; "" where it says nothing."""
    if depth == 0:
        return ""
    if isinstance(said, str):
        return _text_of_string(said, depth)
    if isinstance(said, list):
        texts = [_text_of_item(one, depth) for one in said[:5]]
        return "; ".join(text for text in texts if text)
    if not isinstance(said, dict):
        return ""
    for name in (*_OUTER_NAMES, *_PLAIN_NAMES):
        inner = said.get(name)
        # Where a text is expected, a list is not one.
        if (name in _OUTER_NAMES or not isinstance(inner, list)) and (text := text_of(inner, depth - 1)):
            # A router's own text says only that the provider behind it failed.
            raw = as_object(said.get("metadata")).get("raw")
            more = text_of(raw, depth - 1) if name == "message" else ""
            return f"{text}: {more}" if more and more != text else text
    return next((said[name] for name in _LAST_NAMES if isinstance(said.get(name), str) and said[name]), "")


def _text_of_string(said: str, depth: int) -> str:
    text = said.strip()
    if text[:1] in ("{", "["):  # an error within an error's text
        try:
            return text_of(orjson.loads(text), depth - 1) or text
        except orjson.JSONDecodeError:
            pass
    return text


def _text_of_item(one: object, depth: int) -> str:
    """One of several faults, with its place in the request: ``{"loc": ["body", "messages"], "msg": "…"}``."""
    text = text_of(one, depth - 1)
    place = as_object(one).get("loc")
    where = ".".join(str(step) for step in place) if isinstance(place, list) else ""
    return f"{where}: {text}" if where and text else text


def is_out_of_quota(said: object) -> bool:
    """Whether an error says that no more may be used until somebody pays: to ask again does not help."""
    if isinstance(said, list):
        return any(is_out_of_quota(one) for one in said[:5])
    for part in (as_object(said), as_object(as_object(said).get("error"))):
        if any(isinstance(part.get(name), str) and _NO_QUOTA.search(part[name]) for name in ("code", "type", "status")):
            return True
    return False


# -- how long to wait --------------------------------------------------------------------------------------------------


def retry_after(value: str | None, now: float) -> float | None:
    """The seconds that a ``Retry-After`` asks for, in seconds or as a date; None where it cannot be read."""
    value = (value or "").strip()
    if (seconds := _number(value)) is None:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - now
        except (ValueError, TypeError, OverflowError):
            return None
    return min(max(seconds, 0.0), WEEK)


def asked_wait(headers: Mapping[str, str], said: object, now: float) -> float | None:
    """The seconds after which a server wants to be asked again, wherever it says so; None where it does not."""
    for name in ("retry-after-ms", "x-ms-retry-after-ms"):
        if (milliseconds := _number(headers.get(name, "").strip())) is not None:
            return min(milliseconds / 1000, WEEK)
    if (seconds := retry_after(headers.get("retry-after"), now)) is not None:
        return seconds
    return _delay_within(said)


def _delay_within(said: object) -> float | None:
    """Google's ``{"error": {"details": [{"retryDelay": "7s"}]}}``, also as the one item of a list."""
    error = as_object(as_object(said[0] if isinstance(said, list) and said else said).get("error"))
    details = error.get("details")
    for detail in details if isinstance(details, list) else []:
        delay = as_object(detail).get("retryDelay")
        if isinstance(delay, str) and delay.endswith("s") and (seconds := _number(delay[:-1])) is not None:
            return min(seconds, WEEK)
    return None


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text) else None

"""Judgements that several topics share: whether a value fits its schema, whether an answer is the right one.

Each raises a violation or returns. None of them sends or waits.
"""

from __future__ import annotations

import json
from typing import Any, Final

from sepkit.conformance.lines import Frame, shortened, written
from sepkit.conformance.record import Record
from sepkit.conformance.violations import Violation
from sepkit.errors import InvalidData
from sepkit.wire import messages
from sepkit.wire.converter import structure_exactly
from sepkit.wire.faults import LESS_NESTING

_RESULTS: Final = messages.RESULTS


def fitting(value: object, cls: Any, what: str) -> None:
    """Expect that ``value`` fits the record ``cls``, read as strictly as the protocol's schemas are.

    Raises:
        Violation: It does not fit. Nesting deeper than sepkit reads is not a violation: the protocol has no limit.
    """
    try:
        structure_exactly(value, cls)
    except InvalidData as error:
        if all(fault.expected == LESS_NESTING for fault in error.faults):
            return
        raise Violation(f"{what} that fits its schema", f"it does not: {error}") from None


def judge(method: str, answer: Frame, *, registered: bool = True) -> None:
    """Expect of the answer to a valid request: a result that fits its schema, or an error that a handler can cause.

    Raises:
        Violation: It is neither.
    """
    if "result" in answer:
        fitting(answer["result"], _RESULTS[method], f"a result of {method}")
    elif registered and error_code(answer) == -32601:
        raise Violation(f"an answer of {method}, which it has registered something for, and not -32601")


def error_code(answer: Frame) -> Any:
    """The code of an error; None if it is not an error."""
    found = answer.get("error")
    return found.get("code") if isinstance(found, dict) else None


def refuses(answer: Frame, *codes: int) -> bool:
    """Whether it is an error with one of these codes, or an error without a code (``traffic.errors`` reports that)."""
    code = error_code(answer)
    return "result" not in answer and "error" in answer and (type(code) is not int or code in codes)


def expect_error(answer: Frame, *codes: int) -> None:
    """Expect an error with one of these codes.

    Raises:
        Violation: It has another code, or is a result.
    """
    if not refuses(answer, *codes):
        wanted = " or ".join(map(str, codes))
        raise Violation(f"an error with the code {wanted}", shortened(written(answer)))


def expect_once(record: Record, frame: Frame) -> None:
    """Expect that a request has exactly one answer by now.

    Raises:
        Violation: It has none, or more.
    """
    count = len(record.answers(frame["id"]))
    if count != 1:
        raise Violation(f"exactly one answer to {frame['method']} {frame['id']!r}", f"{count or 'none'} came")


def same_answer(one: Frame, other: Frame) -> None:
    """Expect that an unusual request is answered like the plain one: both with a result, or both with the same error.

    Raises:
        Violation: The answers differ.
    """
    if error_code(one) != error_code(other) or ("result" in one) != ("result" in other):
        raise Violation("the same kind of answer as without the unknown fields", json.dumps(other))

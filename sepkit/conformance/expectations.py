"""Judgements that several topics share: whether a value fits its schema, whether an answer is the right one.

Each raises a violation or returns. None of them sends or waits.
"""

from __future__ import annotations

from typing import Any, Final

from sepkit.conformance.lines import Frame, shortened, written
from sepkit.conformance.record import ABOUT, Record
from sepkit.conformance.violations import Violation
from sepkit.errors import InvalidData
from sepkit.wire import messages
from sepkit.wire.converter import structure
from sepkit.wire.faults import LESS_NESTING

_RESULTS: Final = messages.RESULTS


def fitting(value: object, cls: Any, what: str) -> None:
    """Expect that ``value`` fits the record ``cls``. Unknown fields are ignored, and null is an absent optional field.

    Raises:
        Violation: It does not fit. Nesting deeper than sepkit reads is not a violation: the protocol has no limit.
    """
    try:
        structure(value, cls)
    except InvalidData as error:
        if all(fault.expected == LESS_NESTING for fault in error.faults):
            return
        raise Violation(f"{what} that fits its schema", f"it does not: {error}") from None


def judge(method: str, answer: Frame, *, registered: bool = True) -> None:
    """Expect of the answer to a valid request: a result that fits its schema, or an error that a handler can cause.

    Raises:
        Violation: It is neither.
    """
    if registered:
        known(method, answer)
    if "result" in answer:
        try:
            fitting(answer["result"], _RESULTS[method], f"a result of {method}")
        except Violation as violation:
            violation.suspects = ABOUT.get(method, ())
            raise


def known(method: str, answer: Frame) -> None:
    """Expect that the extension answers as one that has the method: with a result, or with any error but -32601.

    Raises:
        Violation: It says that there is no such method.
    """
    if "result" not in answer and error_code(answer) == -32601:
        wanted = f"an answer of {method}, which it has registered something for, and not -32601"
        raise Violation(wanted, shortened(written(answer)), suspects=ABOUT.get(method, ()))


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
        suspects = ("traffic.frames",) if ("result" in answer) is ("error" in answer) else ()
        raise Violation(f"an error with the code {wanted}", shortened(written(answer)), suspects=suspects)


def expect_once(record: Record, frame: Frame) -> None:
    """Expect that a request has exactly one answer by now.

    Raises:
        Violation: It has none, or more.
    """
    count = len(record.answers(frame["id"]))
    if count != 1:
        wanted = f"exactly one answer to {frame['method']} {frame['id']!r}"
        raise Violation(wanted, f"{count or 'none'} came", suspects=("traffic.answered-once",) if count else ())


def kind(answer: Frame) -> tuple[object, ...]:
    """What can be compared of two answers: whether there is a result, the code of an error, ``is_error``."""
    result = answer.get("result")
    return "result" in answer, error_code(answer), isinstance(result, dict) and result.get("is_error") is True

"""What a run has found: as data, as JSON, as a table for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Any, Final

from attrs import evolve, field, frozen

from sepkit.conformance.requirement import Requirement
from sepkit.errors import sayable


class Status(Enum):
    """How a requirement came out."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_APPLICABLE = "not applicable"
    """The extension does not have what it is about."""
    UNTESTED = "untested"
    """It could not be judged: the handshake failed, or another fault, which is reported, may be the cause."""


_MARKS: Final = {Status.PASSED: "✔", Status.FAILED: "✘", Status.NOT_APPLICABLE: "–", Status.UNTESTED: "?"}
_ADVICE_MARKS: Final = {**_MARKS, Status.FAILED: "!"}


def _sayable(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(map(sayable, texts))


@frozen
class Verdict:
    """One requirement, and how it came out.

    ``note`` says why it is not applicable or untested. The rest is set where it is not met: the last lines ``sent``,
    what was ``expected``, what ``came``, and the end of ``stderr``. ``suspects`` are the requirements that this may
    really be about, see :class:`Violation`.
    """

    requirement: Requirement
    status: Status
    # The extension's names may hold an unpaired surrogate, which cannot be printed.
    note: str = field(default="", converter=sayable)
    sent: tuple[str, ...] = field(default=(), converter=_sayable)
    expected: str = field(default="", converter=sayable)
    came: tuple[str, ...] = field(default=(), converter=_sayable)
    stderr: str = ""
    suspects: tuple[str, ...] = field(default=(), repr=False)

    def as_dict(self) -> dict[str, Any]:
        """The verdict as JSON."""
        made: dict[str, Any] = {
            "id": self.requirement.id,
            "title": self.requirement.title,
            "section": self.requirement.section,
            "advice": self.requirement.advice,
            "status": self.status.value,
        }
        if self.note:
            made["note"] = self.note
        if self.expected:
            made |= {"sent": self.sent, "expected": self.expected, "came": self.came, "stderr": self.stderr}
        return made


@frozen
class Report:
    """All verdicts about one command."""

    command: tuple[str, ...] = field(converter=_sayable)
    extension: str = field(converter=sayable)
    verdicts: tuple[Verdict, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether every requirement that applies is met. Advice does not count."""
        return not self.failures and not any(x.status is Status.UNTESTED for x in self._demands())

    @property
    def failures(self) -> tuple[Verdict, ...]:
        """The requirements that are not met."""
        return tuple(x for x in self._demands() if x.status is Status.FAILED)

    @property
    def advice(self) -> tuple[Verdict, ...]:
        """The advice that is not followed."""
        return tuple(x for x in self.verdicts if x.requirement.advice and x.status is Status.FAILED)

    def _demands(self) -> Iterator[Verdict]:
        return (x for x in self.verdicts if not x.requirement.advice)

    def counts(self) -> dict[str, int]:
        """The number of verdicts of each status; ``advice`` is the number of pieces of advice not followed."""
        demands = list(self._demands())
        made = {status.value.replace(" ", "_"): sum(x.status is status for x in demands) for status in Status}
        return made | {"advice": len(self.advice)}

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON."""
        return {
            "command": self.command,
            "extension": self.extension,
            "ok": self.ok,
            "seconds": round(self.seconds, 3),
            "counts": self.counts(),
            "verdicts": [x.as_dict() for x in self.verdicts],
        }

    def table(self) -> str:
        """The report for people: a line for each requirement, details where it is not met, and a summary."""
        lines = [f"{self.extension or 'an extension'}: {' '.join(self.command)}"]
        lines += self._rows("", [*self._demands()], _MARKS)
        if advised := [x for x in self.verdicts if x.requirement.advice]:
            lines += ["", "advice (the protocol leaves it open; it never makes the run fail)"]
            lines += self._rows("advice: ", advised, _ADVICE_MARKS)
        return "\n".join([*lines, "", self.summary()]) + "\n"

    def _rows(self, before: str, verdicts: list[Verdict], marks: dict[Status, str]) -> Iterator[str]:
        width = max((len(x.requirement.id) for x in self.verdicts), default=0)
        group = ""
        for x in verdicts:
            if x.status is Status.UNTESTED and not x.expected:
                continue  # the summary has their number
            if x.requirement.group != group:
                group = x.requirement.group
                yield from ("", f"{before}{group}")
            note = f" ({x.note})" if x.note else ""
            yield f"  {marks[x.status]} {x.requirement.id:{width}}  {x.requirement.title}{note}"
            if x.status is Status.FAILED:
                yield from self._why(x)

    def _why(self, verdict: Verdict) -> Iterator[str]:
        for name, found in (
            ("section", (verdict.requirement.section,)),
            ("sent", verdict.sent),
            ("expected", (verdict.expected,)),
            ("came", verdict.came),
            ("stderr", tuple(verdict.stderr.splitlines()[-8:])),
        ):
            for place, line in enumerate(found):
                yield f"      {name if place == 0 else '':>8}  {line}".rstrip()

    def summary(self) -> str:
        """One line: the number of verdicts of each status."""
        counts = self.counts()
        told = [
            f"{counts['passed']} passed",
            f"{counts['failed']} failed",
            f"{counts['not_applicable']} not applicable",
        ]
        if counts["untested"]:
            told.append(f"{counts['untested']} untested because of another failure")
        told.append(
            f"{counts['advice']} pieces of advice not followed"
            if counts["advice"] != 1
            else "1 piece of advice not followed"
        )
        return f"{', '.join(told)}; {self.seconds:.1f} s"


def once(verdicts: list[Verdict]) -> tuple[Verdict, ...]:
    """The verdicts, with one failure for one fault: a failure that follows from another is untested instead."""
    failed = {one.requirement.id: one for one in verdicts if one.status is Status.FAILED}

    def cause(name: str, before: frozenset[str] = frozenset()) -> str:
        one = failed[name]
        for other in (*one.suspects, *one.requirement.after):
            if other == name:
                break
            if (
                other in failed
                and other not in before
                and (one.requirement.advice or not failed[other].requirement.advice)
            ):
                return cause(other, before | {name})
        return name

    causes = {name: cause(name) for name in failed}
    made = []
    for one in verdicts:
        found = causes.get(one.requirement.id, one.requirement.id)
        # Of two that would follow from each other, both stay.
        if found != one.requirement.id and causes[found] == found:
            one = evolve(one, status=Status.UNTESTED, note=f"not met either; see {found}, which may be the cause")
        made.append(one)
    return tuple(made)

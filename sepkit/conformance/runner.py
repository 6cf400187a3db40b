"""Runs requirements against a command, and decides which of them share a process.

One fault fails one requirement. So a process on which a requirement failed is not used again, what is odd or only
advised runs on processes of its own, and a failure that follows from another one is not counted (``report.once``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from sepkit.conformance.connection import Connection
from sepkit.conformance.evidence import Evidence
from sepkit.conformance.lines import shown
from sepkit.conformance.patience import Patience
from sepkit.conformance.report import Report, Status, Verdict, once
from sepkit.conformance.requirement import Process, Requirement
from sepkit.conformance.subject import Subject
from sepkit.conformance.survey import find_fence, survey
from sepkit.conformance.table import requirements
from sepkit.conformance.violations import NotApplicable, Violation

FIRST: Final = "handshake.reply"
"""If this fails, nothing else is checked, except what the record shows."""
_MANY: Final = 10_000
"""Lines in the record of a process after which a new one is started: one that logs much must not look like a flood."""
# Groups that need no survey: if only these are asked for, no tool, hook, command or provider is called.
_WITHOUT_CALLS: Final = {"handshake", "registrations", "frames", "ids", "methods", "notifications"}


async def run_conformance(
    command: Sequence[str],
    *,
    cwd: Path | str | None = None,
    only: Iterable[str] = (),
    timeout_factor: float = 1.0,
    parallel: int = 3,
    arguments: Mapping[str, Mapping[str, Any]] | None = None,
) -> Report:
    """Check the extension that ``command`` starts. It is started many times, and each of its tools is called.

    Args:
        command: The program and its arguments.
        cwd: Where it starts.
        only: Ids or groups of requirements to check; all by default.
        timeout_factor: How many times longer than usual (or shorter, below 1) an answer may take.
        parallel: How many processes of it run at once.
        arguments: The arguments to call tools with, by the tool's bare name; made from their schemas by default.

    Raises:
        SpawnError: The command could not be started.
        ValueError: ``only`` names what does not exist.
    """
    run = _Run(tuple(command), cwd, Patience(timeout_factor), requirements(only), arguments or {}, parallel)
    return await run.report()


class _Run:
    def __init__(
        self,
        command: tuple[str, ...],
        cwd: Path | str | None,
        patience: Patience,
        wanted: tuple[Requirement, ...],
        arguments: Mapping[str, Mapping[str, Any]],
        parallel: int,
    ) -> None:
        self._command = command
        self._cwd = cwd
        self._patience = patience
        self._wanted = wanted
        self._parallel = parallel
        self._subject = Subject({}, given={name: dict(given) for name, given in arguments.items()})
        self._greeted = False
        self._connections: list[Connection] = []
        self._verdicts: dict[str, Verdict] = {}
        self._unstarted: Verdict | None = None  # of the handshake: a process after the first did not do it

    async def report(self) -> Report:
        """Run all checks."""
        began = time.monotonic()
        try:
            await self._get_to_know()
            await self._work_off(self._jobs())
        finally:
            await asyncio.gather(*(c.child.aclose() for c in self._connections))
        if not self._greeted or self._unstarted is not None:  # in the report, even if it was not asked for
            self._wanted = (*requirements([FIRST]), *(one for one in self._wanted if one.id != FIRST))
        if self._unstarted is not None:
            self._verdicts[FIRST] = self._unstarted
        evidence = Evidence(self._subject, tuple(c for c in self._connections if not c.apart))
        for one in self._wanted:
            if one.process is Process.RECORD:
                self._verdicts[one.id] = self._observe(one, evidence)
        return Report(
            command=self._command,
            extension=self._name(),
            verdicts=once([self._verdicts[one.id] for one in self._wanted]),
            seconds=time.monotonic() - began,
        )

    def _name(self) -> str:
        result = self._subject.greeting.get("result")
        info = result.get("extension") if isinstance(result, dict) else None
        return f"{info.get('name')} {info.get('version')}" if isinstance(info, dict) else ""

    def _start(self, *, apart: bool = False) -> Connection:
        connection = Connection(self._command, self._subject, patience=self._patience, cwd=self._cwd, apart=apart)
        self._connections.append(connection)
        return connection

    async def _connect(self) -> Connection:
        """A new process, after the handshake."""
        connection = self._start()
        await connection.ask(connection.calls.initialize())
        return connection

    async def _get_to_know(self) -> None:
        """Do the handshake once, and the survey if a check needs it."""
        connection = self._start()
        try:
            self._subject.greeting = await connection.ask(connection.calls.initialize())
        except Violation:
            return
        self._greeted = isinstance(self._subject.greeting.get("result"), dict)
        if self._greeted:
            await find_fence(connection)
            if not all(one.group in _WITHOUT_CALLS for one in self._wanted):
                await survey(connection, self._connect)
        # An extension of which only one can run at a time must have ended before the next starts.
        await asyncio.gather(*(c.child.aclose() for c in self._connections))

    def _jobs(self) -> list[list[Requirement]]:
        """The jobs, each a list of checks to run in order: one a group, and one for each check with its own process."""
        groups: dict[tuple[bool, str], list[Requirement]] = {}
        alone: list[list[Requirement]] = []
        wanted = self._wanted if self._greeted else (*requirements([FIRST]), *self._wanted)
        for one in dict.fromkeys(wanted):
            if one.process is Process.RECORD:
                continue  # judged at the end
            if not self._greeted and one.id != FIRST:
                self._verdicts[one.id] = _untested(one)
            elif one.process is Process.SHARED:
                groups.setdefault((one.apart, one.group), []).append(one)
            else:
                alone.append([one])
        return [*(groups[name] for name in sorted(groups, key=lambda name: name[0])), *alone]

    async def _work_off(self, jobs: list[list[Requirement]]) -> None:
        lanes = [asyncio.ensure_future(self._lane(jobs)) for _ in range(self._parallel)]
        try:
            await asyncio.gather(*lanes)
        finally:
            for lane in lanes:
                lane.cancel()
            await asyncio.gather(*lanes, return_exceptions=True)

    async def _lane(self, jobs: list[list[Requirement]]) -> None:
        """Run jobs one after another, with one process at a time. Those that share a process come first."""
        connection: Connection | None = None
        while jobs:
            for one in jobs.pop(0):
                if connection is not None and not _can_serve(connection, one):
                    await connection.child.aclose()
                    connection = None
                is_new = connection is None
                connection = connection or self._start(apart=one.apart)
                self._verdicts[one.id] = await self._check(
                    one, connection, greet=is_new and one.process is not Process.BARE
                )
                if self._verdicts[one.id].status not in (Status.PASSED, Status.NOT_APPLICABLE):
                    connection.doomed = True
        if connection is not None:
            await connection.child.aclose()

    async def _check(self, one: Requirement, connection: Connection, *, greet: bool) -> Verdict:
        failed = [name for name in one.after if name in self._verdicts and self._verdicts[name].status is Status.FAILED]
        if one.advice and failed:  # each wait for an answer that never comes is long
            return Verdict(one, Status.UNTESTED, note=f"see {failed[0]}")
        try:
            if greet:
                await connection.ask(connection.calls.initialize())
        except Violation as violation:
            if not one.advice:
                self._unstarted = _failed(requirements([FIRST])[0], violation, connection)
            return Verdict(
                one, Status.UNTESTED, note=f"the process that it was to be checked on did not start; see {FIRST}"
            )
        connection.record.mark = len(connection.record.lines)
        try:
            made = Verdict(one, Status.PASSED)
            try:
                await one.check(connection)
            except NotApplicable as reason:
                made = Verdict(one, Status.NOT_APPLICABLE, note=str(reason))
            if one.process is Process.SHARED:  # what it did must not end the next one's process
                await connection.alive()
        except Violation as violation:
            return _failed(one, violation, connection)
        return made

    def _observe(self, one: Requirement, evidence: Evidence) -> Verdict:
        if not self._greeted and one.group != "traffic":
            return _untested(one)
        try:
            one.check(evidence)
        except NotApplicable as reason:
            return Verdict(one, Status.NOT_APPLICABLE, note=str(reason))
        except Violation as violation:
            sent = () if violation.sent is None else shown([violation.sent])
            came = () if violation.came is None else (violation.came,)
            suspects = violation.suspects
            return Verdict(one, Status.FAILED, sent=sent, expected=violation.expected, came=came, suspects=suspects)
        return Verdict(one, Status.PASSED)


def _can_serve(connection: Connection, one: Requirement) -> bool:
    """Whether a check may use the process of the checks before it."""
    fresh = not connection.over and len(connection.record.lines) < _MANY
    return fresh and one.process is Process.SHARED and connection.apart is one.apart


def _untested(one: Requirement) -> Verdict:
    return Verdict(one, Status.UNTESTED, note=f"the handshake failed; see {FIRST}")


def _failed(one: Requirement, violation: Violation, connection: Connection) -> Verdict:
    sent, came = (shown(line.data for line in connection.record.since_mark(sent=is_sent)) for is_sent in (True, False))
    if violation.came is not None:
        came = (*came[-3:], violation.came)
    return Verdict(
        one,
        Status.FAILED,
        sent=sent if violation.sent is None else shown([violation.sent]),
        expected=violation.expected,
        came=came or ("nothing",),
        stderr=connection.child.stderr,
        suspects=violation.suspects,
    )

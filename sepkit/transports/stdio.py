"""The wire over the process's own stdin and stdout, and everything else kept off it.

A stray byte on stdout ends a session, and there are many ways to write one: ``print``, a C library, a subprocess. So
the wire moves, once per process and before the author's code is imported, to private descriptors that no child
inherits; descriptor 1 then means stderr, and descriptor 0 means nothing to read.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import NamedTuple

from sepkit.forks import let_go_in_children
from sepkit.transports.descriptors import DescriptorTransport
from sepkit.wire.frames import MAX_FRAME_BYTES


class Wire(NamedTuple):
    """The private descriptors of the wire; None for one that was closed when the process began."""

    read_fd: int | None
    write_fd: int | None


_claimed: Wire | None = None


class _Unused:
    """The wire while no transport owns it: the author's module is being imported, and may fork."""

    def __init__(self) -> None:
        self.wire: Wire | None = None

    def let_go(self) -> None:
        """Close the descriptors. exec does so by itself; a bare fork would hold the host's pipe open."""
        if self.wire is not None:
            for fd in (self.wire.read_fd, self.wire.write_fd):
                if fd is not None:
                    with contextlib.suppress(OSError):
                        os.close(fd)


_unused = _Unused()


def claim_stdio() -> Wire:
    """Take stdin and stdout for the wire, and put harmless descriptors in their place.

    Never undone, and done once: a second call returns the same descriptors.
    """
    global _claimed
    if _claimed is not None:
        return _claimed
    # Where stderr is closed, what is printed goes nowhere; it must not reach the next file that happens to become 2.
    if not _is_open(2):
        _point(2, os.open(os.devnull, os.O_WRONLY))
    wire = _claimed = Wire(_private_copy(0), _private_copy(1))
    # Python chose its buffer for a pipe. What the author prints shall appear on stderr when it is printed. (Before the
    # descriptor changes: where it is a file, Python asks it for its position, which a pipe does not have.)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    _point(0, os.open(os.devnull, os.O_RDONLY))
    os.dup2(2, 1)
    _unused.wire = wire
    let_go_in_children(_unused)
    return wire


def stdio_transport(*, max_frame_bytes: int = MAX_FRAME_BYTES) -> DescriptorTransport:
    """A transport over the claimed stdin and stdout."""
    wire = claim_stdio()
    transport = DescriptorTransport(wire.read_fd, wire.write_fd, max_frame_bytes=max_frame_bytes)
    let_go_in_children(transport)
    _unused.wire = None  # once the transport has closed them, their numbers are other files'
    return transport


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _private_copy(fd: int) -> int | None:
    if not _is_open(fd):
        return None
    copy = os.dup(fd)  # close-on-exec, as all that Python opens
    if copy > 2:
        return copy
    # 0, 1 or 2 was free; a number that child processes inherit must not be the wire.
    try:
        return _private_copy(copy)
    finally:
        os.close(copy)


def _point(fd: int, at: int) -> None:
    if at != fd:
        os.dup2(at, fd)
        os.close(at)
    os.set_inheritable(fd, True)

"""What a forked child has inherited from a process that serves, and how it lets go of it.

A child of ``os.fork``, ``multiprocessing`` or ``subprocess`` with a ``preexec_fn`` is a copy: it has the wire's
descriptors, the handlers of signals and logs, and a loop that polls what its parent polls. Each of these is let go of
as soon as the child exists, so that it is an ordinary process. The parent is not touched.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import traceback
import weakref
from collections.abc import Callable
from typing import Any, NoReturn, Protocol, TypeVar

R = TypeVar("R")


class Inherited(Protocol):
    """Something of a process that its children must not use."""

    def let_go(self) -> None:
        """Called once, in a forked child. Other threads do not exist there; locks may be held by them for ever."""


_inherited: weakref.WeakSet[Inherited] = weakref.WeakSet()


def let_go_in_children(owned: Inherited) -> None:
    """Have ``owned`` let go in each forked child, for as long as it exists."""
    _inherited.add(owned)


# The signals that the forking thread blocks, as they were before: a signal that comes to the child before it has let go
# is neither the parent's business nor lost (Python forgets what came before its own preparations).
_masks = threading.local()


def _before() -> None:
    if _inherited:
        _masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def _unblock() -> None:
    if (before := _masks.__dict__.pop("before", None)) is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _in_child() -> None:
    for owned in list(_inherited):
        try:
            owned.let_go()
        except Exception:  # Python would print it and go on; the others must have their turn all the same
            traceback.print_exc()
    _inherited.clear()  # a child of the child has nothing more to let go of
    _unblock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_unblock, after_in_child=_in_child)


def end_child(error: BaseException | None = None) -> NoReturn:
    """End this process, as Python ends a program: its function has returned, or raised ``error``.

    For a forked child that comes back to sepkit's own code, which is its parent's. As in children of multiprocessing,
    what the parent has registered with ``atexit`` is not run.
    """
    code = 0
    try:
        if isinstance(error, SystemExit):
            code = _exit_code(error)
        elif error is not None:
            code = 130 if isinstance(error, KeyboardInterrupt) else 1
            traceback.print_exception(error)
        with contextlib.suppress(RuntimeError):  # a thread of a pool, in which this may run, is not to wait for itself
            threading._shutdown()  # type: ignore[attr-defined]
        for thread in threading.enumerate():
            if not thread.daemon and thread is not threading.current_thread():
                thread.join()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        end_children()
        os._exit(code)


def end_if_child(of: int, error: BaseException) -> None:
    """End this process where it is not the one with the id ``of``, but a fork of it, in which a handler has raised."""
    if os.getpid() != of:
        end_child(error)


def call(function: Callable[..., R], /, *args: Any, **kwargs: Any) -> R:
    """Call ``function`` for this process only: a fork of it, in which it comes back as well, ends."""
    process = os.getpid()
    try:
        result = function(*args, **kwargs)
    except BaseException as error:
        end_if_child(process, error)
        raise
    if os.getpid() != process:
        end_child()
    return result


def _exit_code(error: SystemExit) -> int:
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    sys.stderr.write(f"{error.code}\n")
    return 1


def end_children() -> None:
    """Terminate the children that multiprocessing has started here. For an end that does not wait for ``atexit``.

    Python promises that none of them outlives its parent: it terminates the daemons, and waits for the others.
    """
    process = sys.modules.get("multiprocessing.process")
    if process is None:
        return
    with contextlib.suppress(Exception):
        for child in process.active_children():
            if child._parent_pid == os.getpid():  # a fork has a copy of its parent's list
                child.terminate()

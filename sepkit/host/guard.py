"""What ends the extensions of a host that has been killed: a small shell that waits for the end of a pipe.

The host cannot do it itself, and an extension that ignores the end of its input would live on. A death signal
(``PR_SET_PDEATHSIG``) fires when the *thread* ends that spawned it, and a subreaper would be given the children of
strangers to reap: neither belongs into a program that only embeds a host.

One guard serves all extensions of a host. To start it costs 0.4 ms, and it takes 0.1 MiB of its own (measured with
dash). It needs ``sh``, ``grep`` and a ``/proc`` that shows environments, as Linux has.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import secrets
import subprocess
import sys
from typing import Final

from sepkit.forks import let_go_in_children
from sepkit.transports.process import MARK

_log = logging.getLogger("sepkit.host")

# $1 is what the environment of each process of the host's extensions contains; $2, how many tenths of a second they
# have after the end of the host. `send` is true while there is one to send a signal to. What forks on and on may be
# missed by one look.
_SCRIPT: Final = """
trap '' HUP INT TERM
mark=$1
send() {
    found=1
    for path in $(grep -lsFe "$mark" /proc/[0-9]*/environ); do
        path=${path#/proc/}
        kill -s "$1" "${path%/environ}" && found=0
    done
    return $found
}
read -r end
turns=$2
while [ $turns -gt 0 ] && send 0; do sleep 0.1; turns=$((turns - 1)); done
if send TERM; then sleep 1; fi
turns=200 looks=5
while [ $turns -gt 0 ] && [ $looks -gt 0 ]; do
    if send KILL; then looks=5; else looks=$((looks - 1)); fi
    sleep 0.01
    turns=$((turns - 1))
done
"""


class Guard:
    """Outlives a host that is killed, to end its extensions. It is there as long as one of them is.

    Args:
        grace: Seconds that the extensions have to end by themselves, once their host is gone.
    """

    def __init__(self, grace: float) -> None:
        self._tenths = max(0, round(grace * 10))
        # Where this host runs in an extension of another one, its extensions belong to that one, too.
        self._family = f"{os.environ.get(MARK, '/')}{secrets.token_hex(8)}."
        self._numbers = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: int | None = None
        self._is_missing = False
        self._running = 0

    def begin(self) -> str:
        """A process is about to be started: what it is known by. The guard is there when this returns."""
        self._running += 1
        self._start()
        return f"{self._family}{next(self._numbers)}/"

    def _start(self) -> None:
        if self._is_missing or not sys.platform.startswith("linux"):
            return
        if self._process is not None and self._process.poll() is None:
            return
        self._let_go_of_the_pipe()
        end, self._pipe = os.pipe()
        mark = "/" + self._family.rpartition("/")[2]
        try:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _SCRIPT, "sepkit-guard", mark, str(self._tenths)],
                stdin=end,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                # Not our own mark: it outlives us.
                env={"PATH": os.pathsep.join([os.defpath, os.environ.get("PATH", "")])},
                start_new_session=True,
            )
        except OSError as error:
            self._is_missing = True
            self._let_go_of_the_pipe()
            _log.warning(
                "extensions that ignore the end of their input will outlive this host if it is killed: %s", error
            )
        else:
            let_go_in_children(self)
        finally:
            os.close(end)

    def end(self) -> None:
        """A process has ended, with all that it had started. With the last one the guard goes."""
        self._running -= 1
        if not self._running:
            process, self._process = self._process, None
            if process is not None:
                process.kill()
                process.wait()
            self._let_go_of_the_pipe()

    def let_go(self) -> None:
        """In a forked child: the pipe ends with the host alone."""
        self._let_go_of_the_pipe()

    def _let_go_of_the_pipe(self) -> None:
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            with contextlib.suppress(OSError):
                os.close(pipe)

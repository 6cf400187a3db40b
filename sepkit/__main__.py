"""``python -m sepkit``."""

from __future__ import annotations

import sys
from functools import partial

from sepkit.cli import ExitCode, guarded, output


def main() -> None:
    """Serve, call and inspect extensions of AI agents, written with sepkit."""
    try:
        if sys.argv[1:2] == ["run"]:
            from sepkit.cli.serving import serve, understood

            if (options := understood(sys.argv[2:])) is not None:
                output.make_tolerant()
                guarded(partial(serve, **options))
                return
        from sepkit.cli.verbs import verbs  # click takes 10 ms to import, and a host waits
    except BrokenPipeError:  # as click does: the reader has read enough
        sys.exit(ExitCode.FAILED)
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)
    verbs()


if __name__ == "__main__":
    main()

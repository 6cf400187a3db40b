"""``sepkit call`` with the URI of a resource: SEP has none, so that the App is served in this process, in memory."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import TYPE_CHECKING, NoReturn

from sepkit.cli import ExitCode, fail_to_load, output
from sepkit.errors import LoadError, RpcError, SepkitError

if TYPE_CHECKING:
    from sepkit.app import App
    from sepkit.cli.asking import Options
    from sepkit.content import Contents


def read(options: Options, uri: str) -> NoReturn:
    """Read the resource, print it, and exit. Bytes are named with their type and size; --json has them in base64."""
    from sepkit.loader import load

    output.keep_clean()
    try:
        found = asyncio.run(_read(options, load(options.target), uri))
    except LoadError as error:
        sys.exit(fail_to_load(error))
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)
    except (SepkitError, ValueError) as error:  # ValueError: a flag that the app does not declare
        output.complain(error.message if isinstance(error, RpcError) else str(error))
        sys.exit(ExitCode.FAILED)
    from sepkit.content import contents_block

    if options.as_json:
        output.write_json(contents_block(uri, found.data, found.mime))
    elif isinstance(found.data, str):
        output.write_content(found.data)
    else:
        output.write_content(f"[{found.mime}, {len(found.data):,} bytes; --json has them]")
    sys.exit(ExitCode.OK)


async def _read(options: Options, app: App, uri: str) -> Contents:
    from sepkit.testing import TestHost

    if not options.quiet:  # where the id of an unforeseen error leads to
        shown = logging.StreamHandler(sys.stderr)
        shown.setLevel(logging.WARNING)
        logging.getLogger().addHandler(shown)
    async with TestHost(app, flags=options.flags, timeout=options.timeout, mode="cli") as host:
        return await host.read_resource(uri)

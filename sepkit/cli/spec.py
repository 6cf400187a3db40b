"""``sepkit spec``: the JSON Schemas of every method, as files or on stdout."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import orjson

from sepkit.cli import ExitCode, output
from sepkit.terminal import columns_of, table

SUFFIX = ".schema.json"


@click.command("spec")
@click.argument("method", required=False)
@click.option(
    "--out",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write all of them here, one file a method or family; made if it is missing.",
)
def command(method: str | None, out: Path | None) -> None:
    """Print the JSON Schemas of the protocol.

    Give a METHOD, such as kv/get, or --out to write those of all methods to a folder.

    What a file holds besides can be had by the file's name, such as envelope. Without METHOD and --out: list the
    methods, with the file that each is in and the names of its schemas in the file's $defs.
    """
    if method is not None and out is not None:
        raise click.UsageError("--out writes the schemas of all methods; give it or METHOD, not both")
    if out is not None:
        sys.exit(_write(out))
    if method is not None:
        output.write_json(_document(method))
        return
    stream = output.stdout()
    for line in _listing(columns_of(stream) if stream is not None else None):
        output.write(line)


def _text(document: dict[str, Any]) -> bytes:
    return orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n"


def _document(method: str) -> dict[str, Any]:
    from sepkit.wire.spec import document, documents, method_schemas

    file = next((one.file for one in method_schemas() if one.method == method), method.removesuffix(SUFFIX))
    if file not in documents():
        from sepkit.router import closest

        near = closest(method, [one.method for one in method_schemas()], only_near=True)
        raise click.UsageError(
            f"there is no method {method!r}" + (near or "; `sepkit spec` lists those that there are")
        )
    return document(file)


def _listing(columns: int | None) -> Iterator[str]:
    from sepkit.wire.spec import method_schemas

    rows = [("METHOD", "KIND", "SENT BY", "FILE", "PARAMS", "RESULT")]
    rows += [
        (one.method, one.kind, one.sender, one.file + SUFFIX, one.params, one.result or "-") for one in method_schemas()
    ]
    lines = list(table(rows, None))
    if columns is None or max(map(len, lines)) <= columns:
        yield from lines
        return
    # Names of entries cannot be broken, so each method has a second line for them.
    for line, row in zip(table([row[:4] for row in rows], columns), rows, strict=False):
        yield line
        yield f"    {row[4]}  {row[5]}"


def _write(folder: Path) -> ExitCode:
    from sepkit.wire.spec import documents

    made = {folder / f"{file}{SUFFIX}": _text(document) for file, document in documents().items()}
    path = folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in made.items():
            path.write_bytes(text)
    except OSError as error:
        output.complain(f"{path} cannot be written: {error.strerror or error}")
        return ExitCode.FAILED
    output.tell(f"sepkit: wrote {len(made)} schemas to {folder}")
    return ExitCode.OK

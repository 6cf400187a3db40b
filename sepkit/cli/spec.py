"""``sepkit spec``: the JSON Schemas of every method, as files or on stdout."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import orjson

from sepkit.cli import ExitCode

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
    """Print the JSON Schemas of METHOD, such as kv/get, or write those of all methods to a folder.

    What a file holds besides can be had by the file's name, such as envelope. Without METHOD and --out: list the
    methods, with the file that each is in and the names of its schemas in the file's $defs.
    """
    if method is not None and out is not None:
        raise click.UsageError("--out writes the schemas of all methods; give it or METHOD, not both")
    if out is not None:
        sys.exit(_write(out))
    if method is not None:
        sys.stdout.buffer.write(_text(_document(method)))
        sys.stdout.flush()
        return
    for line in _listing():
        click.echo(line)


def _text(document: dict[str, Any]) -> bytes:
    return orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n"


def _document(method: str) -> dict[str, Any]:
    from sepkit.wire.spec import document, documents, method_schemas

    file = next((one.file for one in method_schemas() if one.method == method), method.removesuffix(SUFFIX))
    if file not in documents():
        raise click.UsageError(f"there is no method {method!r}; `sepkit spec` lists those that there are")
    return document(file)


def _listing() -> list[str]:
    from sepkit.wire.spec import method_schemas

    rows = [("METHOD", "KIND", "SENT BY", "FILE", "PARAMS", "RESULT")]
    rows += [
        (one.method, one.kind, one.sender, one.file + SUFFIX, one.params, one.result or "-") for one in method_schemas()
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _write(folder: Path) -> ExitCode:
    from sepkit.wire.spec import documents

    made = {folder / f"{file}{SUFFIX}": _text(document) for file, document in documents().items()}
    path = folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in made.items():
            path.write_bytes(text)
    except OSError as error:
        click.echo(f"sepkit: {path} cannot be written: {error.strerror or error}", err=True)
        return ExitCode.FAILED
    click.echo(f"sepkit: wrote {len(made)} schemas to {folder}", err=True)
    return ExitCode.OK

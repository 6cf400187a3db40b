"""Arguments that are typed in a shell, as JSON: by the schema where there is one."""

from __future__ import annotations

import io
import os
import sys
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import click
import pytest

from sepkit.cli.arguments import gather
from sepkit.schema import inspect_signature


@dataclass
class Point:
    x: int
    label: str = ""


class Colour(Enum):
    RED = "1"


def tool(
    sql: str,
    n: int,
    half: float,
    sure: bool,
    either: int | str,
    maybe: str | None,
    tags: list[str],
    numbers: list[int],
    point: Point,
    points: list[Point],
    headers: dict[str, str],
    anything: Any,
    grid: list[list[int]],
    colour: Colour = Colour.RED,
    order: Literal["1", 1] = 1,
) -> None: ...


SCHEMA = inspect_signature(tool, what="tool", contexts=()).parameters
REFERENCES = {
    "type": "object",
    "properties": {"to": {"$ref": "#/$defs/Address"}, "self": {"$ref": "#/properties/self"}, "a.b": {"type": "string"}},
    "$defs": {"Address": {"type": "object", "properties": {"zip": {"type": "string"}}}},
}


@pytest.mark.parametrize(
    ("words", "made"),
    [
        (["sql=1"], {"sql": "1"}),
        (["sql=null"], {"sql": "null"}),
        (["sql="], {"sql": ""}),
        (["sql=[1]"], {"sql": "[1]"}),
        (['sql="x"'], {"sql": '"x"'}),
        (["sql=a=b"], {"sql": "a=b"}),
        (["sql:=1"], {"sql": 1}),
        (["sql==1", "n==1"], {"sql": "1", "n": "1"}),
        (["n=1", "half=1.5", "sure=true"], {"n": 1, "half": 1.5, "sure": True}),
        (["n=many"], {"n": "many"}),
        (["n=18446744073709551617"], {"n": "18446744073709551617"}),
        (["either=1"], {"either": 1}),
        (["either=one"], {"either": "one"}),
        (["either==1"], {"either": "1"}),
        (["maybe=5"], {"maybe": "5"}),
        (["maybe=null"], {"maybe": None}),
        (["tags=1"], {"tags": ["1"]}),
        (["tags=a", "tags=b"], {"tags": ["a", "b"]}),
        (['tags=["a"]', "tags=b"], {"tags": ["a", "b"]}),
        (["tags.0=1", "tags.1=2"], {"tags": ["1", "2"]}),
        (["numbers=1", "numbers=2"], {"numbers": [1, 2]}),
        (["point.x=1", "point.label=2"], {"point": {"x": 1, "label": "2"}}),
        (['point={"x": 1}'], {"point": {"x": 1}}),
        (["points.0.x=1", "points.0.label=2", "points.1.x=3"], {"points": [{"x": 1, "label": "2"}, {"x": 3}]}),
        (["headers.X-A=1", "headers.b=c"], {"headers": {"X-A": "1", "b": "c"}}),
        (["anything=1"], {"anything": 1}),
        (["anything.deep.er=x"], {"anything": {"deep": {"er": "x"}}}),
        (["grid.0.0=1", "grid.0.1=2", "grid.1:=[3]"], {"grid": [[1, 2], [3]]}),
        (["colour=1"], {"colour": "1"}),
        (["order=1"], {"order": "1"}),
        (["unknown=1", "un.known=x"], {"unknown": 1, "un": {"known": "x"}}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_value_is_what_the_schema_takes(words: list[str], made: dict[str, Any]) -> None:
    """``sql=1`` is text for a ``str``, a number for an ``int``; nested places have schemas of their own."""
    assert gather(words, SCHEMA) == made


def test_a_schema_may_refer_to_its_own_parts() -> None:
    """So do those that an author writes; circles of references are left alone, names with dots are whole."""
    assert gather(["to.zip=01"], REFERENCES) == {"to": {"zip": "01"}}
    assert gather(["self.x=1", "a.b=1"], REFERENCES) == {"self": {"x": 1}, "a.b": "1"}


def test_without_a_schema_it_is_json_where_it_is_json() -> None:
    """And text where the verb says so: a host does not know the arguments of a command."""
    assert gather(["a=1", "b=x", "c.d=[1]"]) == {"a": 1, "b": "x", "c": {"d": [1]}}
    assert gather(["a=1", "b:=1", "c.d=[1]"], as_text=True) == {"a": "1", "b": 1, "c": {"d": "[1]"}}


def test_a_value_may_be_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``name=@file`` is read as what is typed is; ``@file`` has all of them; ``-`` is stdin."""
    monkeypatch.chdir(tmp_path)
    Path("q.sql").write_text("1\n")
    Path("p.json").write_text('{"x": 1}')
    Path("all.json").write_text('{"sql": "s", "n": 3}')
    assert gather(["sql=@q.sql", "n=@q.sql", "point=@p.json"], SCHEMA) == {"sql": "1\n", "n": 1, "point": {"x": 1}}
    assert gather(["sql:=@p.json", "points.0=@p.json"], SCHEMA) == {"sql": {"x": 1}, "points": [{"x": 1}]}
    assert gather(["@all.json", "half=1"], SCHEMA) == {"sql": "s", "n": 3, "half": 1}
    assert gather(["sql==@q.sql", "maybe=@"], SCHEMA) == {"sql": "@q.sql", "maybe": "@"}
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("é".encode())))
    assert gather(["sql=@-"], SCHEMA) == {"sql": "é"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["x"], "'x' is not an argument; write NAME=VALUE"),
        (["=1"], "is not an argument"),
        ([":=1"], "is not an argument"),
        (["n:=one"], "the value is no JSON"),
        (["tags=[1"], "the value is no JSON"),
        (["sql=a", "sql=b"], "'sql' is given twice"),
        (["point=1", "point.x=1"], "'point' has a value already"),
        (["point..x=1"], "has an empty part"),
        (["point.=1"], "has an empty part"),
        (["tags.1=a"], "the next item of the array is number 0"),
        (["tags=a", "tags.x=a"], "the next item of the array is number 1"),
        (["sql=@nope"], "nope cannot be read: No such file or directory; for a text that begins with @, write sql==@"),
        (["@nope"], "nope cannot be read"),
        (["sql=@."], "cannot be read"),
        (["@list"], "holds no JSON object"),
        (["sql=@bytes"], "the file is not UTF-8"),
        (["sql=\udcff"], "is not UTF-8"),
    ],
    ids=lambda value: ascii(" ".join(value)) if isinstance(value, list) else "",
)
def test_what_cannot_be_understood_is_said(
    words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is a wrong command line, in one sentence that says what to write."""
    monkeypatch.chdir(tmp_path)
    Path("list").write_text("[]")
    Path("bytes").write_bytes(b"\xff")
    with pytest.raises(click.UsageError) as caught:
        gather(words, SCHEMA)
    assert told in caught.value.format_message()


def test_text_that_the_locale_could_not_decode_is_read_as_utf8() -> None:
    """Under LC_ALL=C, Python gives the bytes of an é as half characters."""
    word = os.fsdecode("sql=é".encode()) if sys.getfilesystemencoding() != "utf-8" else "sql=\udcc3\udca9"
    assert gather([word], SCHEMA) == {"sql": "é"}

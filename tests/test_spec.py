"""The schemas that are made from the records: what they accept, where they are, and the verb that writes them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import attrs
import orjson
import pytest
from annotated_types import Gt
from hypothesis import given

from sepkit.errors import FrameError
from sepkit.wire import frames, messages, methods, spec
from sepkit.wire.messages import REST, TAG, Bounds, HasText, Record
from tests.wire.schema_examples import EXAMPLES
from tests.wire.schema_instances import accepts, entries_of, instances, mutated, rounds

jsonschema_rs = pytest.importorskip("jsonschema_rs")

DOCUMENTS: Final = spec.documents()
ENTRIES: Final = {
    (file, name): schema for file, document in DOCUMENTS.items() for name, schema in entries_of(document).items()
}


def _validator(schema: Any) -> Any:
    return jsonschema_rs.Draft202012Validator(schema)


def _places(value: Any, key: str) -> Iterator[Any]:
    """Whatever stands under ``key``, wherever in a document."""
    if isinstance(value, dict):
        if key in value:
            yield value[key]
        for inner in value.values():
            yield from _places(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from _places(inner, key)


# -- the methods -------------------------------------------------------------------------------------------------------


def test_every_method_has_its_schemas() -> None:
    """Each name in `methods.py` has schemas, so a new method cannot be forgotten."""
    names = {value for name, value in vars(methods).items() if name.isupper() and isinstance(value, str)}
    found = {one.method: one for one in spec.method_schemas()}
    assert found.keys() == names
    for one in found.values():
        assert one.params in DOCUMENTS[one.file]["$defs"]
        assert one.result is None or one.result in DOCUMENTS[one.file]["$defs"]
        assert f"`{one.method}`" in DOCUMENTS[one.file]["description"]


def test_a_method_is_said_to_be_sent_by_those_who_send_it() -> None:
    """`ping` and `$/cancel` are sent by both sides. A new method has to take its place here.

    Source: docs/protocol.md, sections 3 and 4.
    """
    senders: dict[str, set[str]] = {"host": set(), "extension": set(), "either": set()}
    for one in spec.method_schemas():
        senders[one.sender].add(one.method)
    assert senders == {
        "host": {
            *("initialize", "shutdown", "event", "hook", "tool/execute", "command/execute", "command/complete"),
            *("provider/complete", "provider/oauth_login", "provider/oauth_refresh"),
            *("task/start", "task/stop", "task/list"),
        },
        "extension": {
            *("tool/update", "provider/delta", "log", "registry/update", "bus/publish", "tools/set_active"),
            *("ui/request", "kv/get", "kv/set", "kv/delete", "kv/list", "exec/run", "session/send_message"),
            *("session/send_user_message", "session/append_entry", "session/set_model", "session/state"),
            "task/update",
        },
        "either": {"ping", "$/cancel"},
    }


def test_a_notification_has_no_result() -> None:
    """`bus/publish` is a notification in SEP, whatever hosts do with it.

    Source: docs/protocol.md, sections 3, 4 and 9.
    """
    notifications = {one.method for one in spec.method_schemas() if one.kind == "notification"}
    assert notifications == {
        *("$/cancel", "event", "tool/update", "provider/delta", "log", "registry/update", "bus/publish", "task/update")
    }


def test_a_new_method_is_in_a_file_of_its_own_or_of_its_family(monkeypatch: pytest.MonkeyPatch) -> None:
    """A method that is added to the tables of the records needs nothing else."""
    for method in ("kv/touch_all", "$/progress", "tool/list_all"):
        monkeypatch.setitem(messages.PARAMS, method, messages.KvGetParams)
    monkeypatch.setitem(messages.RESULTS, "kv/touch_all", messages.Empty)
    found = {one.method: (one.kind, one.file, one.params, one.result) for one in spec.method_schemas()}
    # The record serves two methods of the family now, so it goes by its own name.
    assert found["kv/touch_all"] == ("request", "kv", "KvGetParams", "TouchAllResult")
    assert found["$/progress"] == ("notification", "progress", "Params", None)
    assert found["tool/list_all"] == ("notification", "tool-list-all", "Params", None)
    assert spec.documents().keys() - DOCUMENTS.keys() == {"progress", "tool-list-all"}
    assert {"KvGetParams", "TouchAllResult"} <= spec.document("kv")["$defs"].keys()


def test_what_sepkit_adds_to_sep_is_apart_and_says_so() -> None:
    """`task/*` is sepkit's addition: it is in one file, and no other file has any of it.

    Source: docs/tasks.md, "On the wire".
    """
    assert {one.file for one in spec.method_schemas() if one.method.startswith("task/")} == {"task"}
    assert {one.method for one in spec.method_schemas() if one.file == "task"} == {
        *("task/start", "task/stop", "task/list", "task/update")
    }
    assert "sepkit's addition to SEP" in DOCUMENTS["task"]["description"]
    assert "`tasks` in `Registrations` is sepkit's addition to SEP" in DOCUMENTS["initialize"]["description"]
    assert not [file for file, document in DOCUMENTS.items() if file != "task" and "TaskHealth" in str(document)]


# -- the documents -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", DOCUMENTS)
def test_a_document_is_a_valid_schema_on_its_own(file: str) -> None:
    """The draft is 2020-12, no `$ref` leaves the file, and each `$ref` has its target."""
    document = DOCUMENTS[file]
    assert document["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema_rs.meta.validate(document)
    _validator(document)
    references = set(_places(document, "$ref"))
    assert references <= {f"#/$defs/{name}" for name in document["$defs"]}
    assert set(_places(document["oneOf"], "$ref")) <= references
    assert orjson.loads(orjson.dumps(document)) == document


def test_a_document_names_no_host_on_the_network() -> None:
    """The `$id`s are ours: unique, and nothing that a validator would fetch."""
    assert sorted(document["$id"] for document in DOCUMENTS.values()) == [
        f"urn:sepkit:schema:{file}" for file in DOCUMENTS
    ]
    assert "://" not in str([{**document, "$schema": ""} for document in DOCUMENTS.values()])


def test_the_meta_schema_check_sees_what_is_wrong() -> None:
    """The check above would be worth nothing otherwise."""
    with pytest.raises(jsonschema_rs.ValidationError):
        jsonschema_rs.meta.validate({**DOCUMENTS["kv"], "$defs": {"GetParams": {"type": "objekt"}}})


def test_only_what_the_protocol_leaves_open_is_open() -> None:
    """Open are usage and the objects of hosts and users; a record refuses unknown fields.

    Source: docs/protocol.md, section 3.
    """
    for entry, schema in ENTRIES.items():
        for part in _records(schema["$defs"][entry[1]]):
            assert part["additionalProperties"] is (part["title"] == "Usage"), (entry, part["title"])
    assert DOCUMENTS["provider"]["$defs"]["CompleteResult"]["properties"]["usage"]["additionalProperties"] is True
    assert "additionalProperties" not in DOCUMENTS["tool-execute"]["$defs"]["Params"]["properties"]["arguments"]


def _records(schema: Any) -> Iterator[Any]:
    if isinstance(schema, dict):
        if "properties" in schema and "title" in schema:
            yield schema
        for inner in schema.values():
            yield from _records(inner)
    elif isinstance(schema, list):
        for inner in schema:
            yield from _records(inner)


def test_every_record_and_every_entry_is_described() -> None:
    """Readers of the schemas see what the records' docstrings say, and nothing of Python with it."""
    for entry, schema in ENTRIES.items():
        for part in _records(schema["$defs"][entry[1]]):
            text = part["description"]
            assert text.endswith((".", "`")), text
            assert not any(word in text for word in ("Wire:", "Source:", ":class:", ":data:", "``", "None")), text
    context = DOCUMENTS["session"]["$defs"]["Context"]
    assert context["description"] == "The right to act that a call comes with. The token is opaque."


# -- what they accept --------------------------------------------------------------------------------------------------


def test_every_entry_has_examples() -> None:
    """A schema that nobody has written an example for is not tested."""
    assert EXAMPLES.keys() == ENTRIES.keys()
    assert all(examples.right and examples.wrong for examples in EXAMPLES.values())


@pytest.mark.parametrize("entry", EXAMPLES, ids="/".join)
def test_examples_are_right_and_wrong_to_schema_and_record(entry: tuple[str, str]) -> None:
    """The examples are written by hand, so that both can be found wrong. Source: docs/protocol.md, sections 3 to 8."""
    cls, right, wrong = EXAMPLES[entry]
    validator = _validator(ENTRIES[entry])
    for one in right:
        assert (validator.is_valid(one), accepts(cls, one)) == (True, True), one
    for one in wrong:
        assert (validator.is_valid(one), accepts(cls, one)) == (False, False), one


# One entry of each record: `Empty` alone has a dozen names.
@pytest.mark.parametrize("entry", {one.record: entry for entry, one in EXAMPLES.items()}.values(), ids="/".join)
def test_a_record_takes_what_its_schema_accepts_and_nothing_else(entry: tuple[str, str]) -> None:
    """Random instances of our schemas are read, and mutated ones are refused."""
    cls, schema = EXAMPLES[entry].record, ENTRIES[entry]
    validator = _validator(schema)
    valid = instances(schema, schema["$defs"])

    @rounds(8)
    @given(valid, mutated(valid))
    def check(instance: Any, mutation: Any) -> None:
        assert validator.is_valid(instance), "the strategy is wrong"
        assert accepts(cls, instance)
        assert accepts(cls, mutation) == validator.is_valid(mutation)

    check()


def test_the_envelope_s_schemas_take_no_frame_that_the_wire_refuses() -> None:
    """`wire/frames.py` reads at least the frames that the schemas accept. Source: docs/protocol.md, section 1."""
    document = DOCUMENTS["envelope"]
    validator = _validator(document)
    valid = instances({"oneOf": document["oneOf"]}, document["$defs"])
    refused = []

    @rounds(80)
    @given(valid, mutated(valid) | mutated(mutated(valid)))
    def check(frame: Any, mutation: Any) -> None:
        assert validator.is_valid(frame)
        assert frames.decode(orjson.dumps(frame)) == frame
        try:
            assert frames.decode(orjson.dumps(mutation)) == mutation
        except FrameError:
            refused.append(mutation)
            assert not validator.is_valid(mutation)

    check()
    assert refused, "no mutation was bad enough"


# -- from a record to its schema ---------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Leaf(Record):
    """An ordinary :class:`Leaf`, with ``code`` in it.

    Wire: ``{"word", "count"?, "share"?}``; the share is a fraction. Source: docs/protocol.md, section 1.
    """

    word: Literal["one", "two"]
    count: Annotated[int, Bounds(ge=1, le=9)] = 3
    share: Annotated[float, Bounds(le=1)] | None = None
    free: Any = None


def test_a_record_s_words_defaults_and_bounds_arrive() -> None:
    """Each fact of a field (docstring, default, bounds) arrives once."""
    assert spec.schema_of(Leaf) == {
        "title": "Leaf",
        "description": "An ordinary `Leaf`, with `code` in it. The share is a fraction.",
        "type": "object",
        "required": ["word"],
        "additionalProperties": False,
        "properties": {
            "word": {"type": "string", "enum": ["one", "two"]},
            "count": {"type": "integer", "minimum": 1, "maximum": 9, "default": 3},
            "share": {"type": "number", "maximum": 1},
            "free": {},
        },
    }


@attrs.frozen
class Twig(Record):
    nullable: str | None
    meant: int | None = 0
    leaves: list[Leaf] = attrs.field(factory=list)
    best: Leaf | None = None
    known: Leaf | None = attrs.field(kw_only=True)
    by_name: dict[str, Annotated[int, Bounds(ge=0)]] = attrs.field(factory=dict)
    event: Annotated[dict[str, Any], HasText("type")] = attrs.field(factory=lambda: {"type": "x"})
    kind: Literal["twig"] = attrs.field(default="twig", metadata={TAG: True})
    rest: dict[str, Any] = attrs.field(factory=dict, metadata={REST: True})


def test_null_stands_where_it_means_something_and_a_tag_is_required() -> None:
    """What `structure_exactly` does with null, tags and unnamed keys is what the schema says."""
    schema = spec.schema_of(Twig, {Leaf: "Leaf"})
    leaf = {"$ref": "#/$defs/Leaf"}
    assert schema == {
        "title": "Twig",
        "type": "object",
        "required": ["nullable", "known", "kind"],
        "additionalProperties": True,
        "properties": {
            "nullable": {"type": ["string", "null"]},
            "meant": {"type": ["integer", "null"], "default": 0},
            "leaves": {"type": "array", "items": leaf, "default": []},
            "best": leaf,
            "known": {"anyOf": [leaf, {"type": "null"}]},
            "by_name": {
                "type": "object",
                "additionalProperties": {"type": "integer", "minimum": 0},
                "default": {},
            },
            "event": {
                "type": "object",
                "required": ["type"],
                "properties": {"type": {"type": "string"}},
                "default": {"type": "x"},
            },
            "kind": {"const": "twig"},
        },
    }
    defs = {"Leaf": spec.schema_of(Leaf)}
    validator = _validator({**schema, "$defs": defs})

    @rounds(40)
    @given(instances(schema, defs), mutated(instances(schema, defs)))
    def check(instance: Any, mutation: Any) -> None:
        assert validator.is_valid(instance)
        assert accepts(Twig, instance)
        assert accepts(Twig, mutation) == validator.is_valid(mutation)

    check()


def test_records_with_a_tag_exclude_each_other() -> None:
    """Blocks, outcomes and requests of the user interface are told apart by a field.

    Source: docs/protocol.md, sections 4, 6 and 8.
    """
    schema = spec.schema_of(messages.ContinueOutcome | messages.BlockOutcome | None)
    assert [one.get("title") for one in schema["oneOf"]] == ["ContinueOutcome", "BlockOutcome", None]
    assert "`action`" in schema["description"]
    validator = _validator(schema)
    assert validator.is_valid(None)
    assert validator.is_valid({"action": "block", "reason": "no"})
    assert not validator.is_valid({"action": "continue", "reason": "no"})


def test_a_field_that_is_added_to_a_record_is_in_its_document(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no second table of fields to keep."""

    @attrs.frozen
    class Wider(messages.KvGetParams):
        """`kv/get` as of a later version."""

        most: Annotated[int, Bounds(ge=1)] = 5

    monkeypatch.setitem(messages.PARAMS, "kv/get", Wider)
    entry = spec.document("kv")["$defs"]["GetParams"]
    assert entry["title"] == "KvGetParams"
    assert entry["description"] == "`kv/get` as of a later version."
    assert entry["properties"] == {
        "key": {"type": "string"},
        "most": {"type": "integer", "minimum": 1, "default": 5},
    }


@attrs.frozen
class Ring(Record):
    """A record with itself in it."""

    inner: Ring | None = None


@pytest.mark.parametrize(
    ("t", "told"),
    [
        (Ring, "Ring contains itself; give it a name"),
        (list[set[int]], r"no schema for set\[int\]"),
        (dict[int, str], r"no schema for dict\[int, str\]"),
        (Record, "no schema for Record"),
        (Annotated[int, Gt(3)], "no schema for the constraint Gt"),
        (messages.StreamEvent, "Delta | .* | Done: no one field tells the members apart"),
    ],
    ids=["recursive", "set", "keys", "root", "constraint", "tags"],
)
def test_a_type_without_a_schema_is_refused_by_name(t: Any, told: str) -> None:
    """A schema that says less than its record would be wrong without a sign."""
    with pytest.raises(TypeError, match=told):
        spec.schema_of(t)


def test_a_type_that_contains_itself_has_a_schema_under_a_name() -> None:
    """The children of a stack are blocks. Source: docs/protocol.md, section 8."""
    inner = spec.schema_of(Ring, {Ring: "Ring"})
    assert inner["properties"] == {"inner": {"$ref": "#/$defs/Ring"}}
    validator = _validator({"$ref": "#/$defs/Ring", "$defs": {"Ring": inner}})
    assert validator.is_valid({"inner": {"inner": {}}})
    assert not validator.is_valid({"inner": {"inner": 1}})


@pytest.mark.parametrize("entry", [("tool-execute", "Params"), ("kv", "ListParams"), ("initialize", "RenderBlock")])
def test_a_mutation_is_sometimes_right_and_sometimes_wrong(entry: tuple[str, str]) -> None:
    """The tests by mutation would be worth nothing otherwise."""
    schema = ENTRIES[entry]
    validator = _validator(schema)
    verdicts = []

    @rounds(30)
    @given(mutated(instances(schema, schema["$defs"])))
    def look(mutation: Any) -> None:
        verdicts.append(validator.is_valid(mutation))

    look()
    assert {True, False} == set(verdicts)


# -- the verb ----------------------------------------------------------------------------------------------------------


def sepkit(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sepkit", *arguments],
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )


def test_spec_writes_a_file_a_method_or_family(tmp_path: Path) -> None:
    """``spec --out DIR`` makes the folder, and leaves other files in it alone."""
    done = sepkit(tmp_path, "spec", "--out", "deep/er")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"sepkit: wrote {len(DOCUMENTS)} schemas to deep/er\n"
    folder = tmp_path / "deep" / "er"
    assert {path.name for path in folder.iterdir()} == {f"{file}.schema.json" for file in DOCUMENTS}
    for file, document in DOCUMENTS.items():
        assert json.loads((folder / f"{file}.schema.json").read_bytes()) == document
    text = (folder / "kv.schema.json").read_bytes()
    assert text.startswith(b'{\n  "$schema": ')
    assert text.endswith(b"}\n")

    (folder / "kv.schema.json").write_text("old", encoding="utf-8")
    (folder / "README").write_text("mine", encoding="utf-8")
    (folder / "other.schema.json").write_text("mine", encoding="utf-8")
    assert sepkit(tmp_path, "spec", "--out", "deep/er").returncode == 0
    assert (folder / "kv.schema.json").read_bytes() == text
    assert (folder / "README").read_text(encoding="utf-8") == "mine"
    assert (folder / "other.schema.json").read_text(encoding="utf-8") == "mine"


def test_spec_of_a_method_prints_the_document_that_it_is_in(tmp_path: Path) -> None:
    """Data is on stdout, text for people on stderr. A file's name is accepted too."""
    done = sepkit(tmp_path, "spec", "kv/get")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == DOCUMENTS["kv"]
    assert json.loads(sepkit(tmp_path, "spec", "$/cancel").stdout) == DOCUMENTS["cancel"]
    assert json.loads(sepkit(tmp_path, "spec", "envelope").stdout) == DOCUMENTS["envelope"]
    assert list(tmp_path.iterdir()) == []


def test_spec_alone_lists_every_method_with_its_file_and_its_entries(tmp_path: Path) -> None:
    """Who validates in another language has to know which entry is whose."""
    done = sepkit(tmp_path, "spec")
    assert (done.returncode, done.stderr) == (0, "")
    header, *lines = done.stdout.splitlines()
    assert header.split() == ["METHOD", "KIND", "SENT", "BY", "FILE", "PARAMS", "RESULT"]
    assert [tuple(line.split()) for line in lines] == [
        (one.method, one.kind, one.sender, f"{one.file}.schema.json", one.params, one.result or "-")
        for one in spec.method_schemas()
    ]
    assert "provider/oauth_login request host provider.schema.json OAuthParams Credentials" in {
        " ".join(line.split()) for line in lines
    }


def test_spec_says_what_it_cannot_write_and_fails(tmp_path: Path) -> None:
    """The path and the reason are on stderr, with a named exit code and no traceback."""
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    (tmp_path / "taken" / "kv.schema.json").mkdir(parents=True)
    for out, told in [
        ("file/deeper", "sepkit: file/deeper cannot be written: Not a directory\n"),
        ("taken", "sepkit: taken/kv.schema.json cannot be written: Is a directory\n"),
    ]:
        done = sepkit(tmp_path, "spec", "--out", out)
        assert (done.returncode, done.stdout, done.stderr) == (1, "", told)
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["kv/steal"], "there is no method 'kv/steal'; `sepkit spec` lists those that there are"),
        (["kv/get", "--out", "here"], "--out writes the schemas of all methods; give it or METHOD, not both"),
        (["--out", "file"], "'file' is a file"),
    ],
)
def test_spec_used_wrongly_says_how_it_is_used(tmp_path: Path, words: list[str], told: str) -> None:
    """A wrong command line gives exit code 2 and writes nothing."""
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    done = sepkit(tmp_path, "spec", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]

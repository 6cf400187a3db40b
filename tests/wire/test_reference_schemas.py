"""Our records and the schemas made from them against the protocol's own schemas: alike in both directions.

Instances are generated from either, and mutations of them, and each judges those of the other. The protocol's schemas
are reference data beside the project; without them these tests are skipped, and `test_spec.py` holds ours to examples.

The differences that are wanted: 1.0 is an integer to JSON Schema and none to a record (no instance holds it), and what
sepkit adds: the file `task.schema.json`, and `tasks` in the registrations (:func:`_with_our_addition`).
"""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any, Final

import orjson
import pytest
from hypothesis import given

from sepkit.wire import spec
from sepkit.wire.converter import structure, structure_exactly
from sepkit.wire.writing import unstructure
from tests.wire.schema_examples import EXAMPLES, TASK
from tests.wire.schema_instances import accepts, entries_of, instances, mutated, rounds

jsonschema_rs = pytest.importorskip("jsonschema_rs")

SCHEMAS: Final = Path(__file__).parents[2].parent / "shared" / "sep-spec" / "methods"

pytestmark = pytest.mark.skipif(not SCHEMAS.is_dir(), reason=f"the protocol's schemas are not at {SCHEMAS}")

OUR_FILES: Final = {"task"}


def _as_published() -> dict[str, Any]:
    """The protocol's documents, by the name of their file without ``.schema.json``."""
    paths = sorted(SCHEMAS.glob("*.schema.json"))
    return {path.name.removesuffix(".schema.json"): orjson.loads(path.read_bytes()) for path in paths}


def _with_our_addition(documents: dict[str, Any]) -> dict[str, Any]:
    """``documents`` as they would be if SEP had `registrations.tasks`."""
    extended = copy.deepcopy(documents)
    if "initialize" in extended:
        ours = OURS["initialize"]["$defs"]["Registrations"]["properties"]["tasks"]
        extended["initialize"]["$defs"]["Registrations"]["properties"]["tasks"] = ours
    return extended


OURS: Final = spec.documents()
PUBLISHED: Final = _as_published()
THEIRS: Final = _with_our_addition(PUBLISHED)
ENTRIES: Final = [entry for entry in EXAMPLES if entry[0] not in OUR_FILES]


@functools.cache
def _validator(whose: str, file: str, entry: str | None = None) -> Any:
    document = (OURS if whose == "ours" else THEIRS)[file]
    return jsonschema_rs.Draft202012Validator(document if entry is None else entries_of(document)[entry])


def test_files_and_their_entries_are_named_as_in_the_protocol() -> None:
    """The generated schemas are laid out and named as the protocol's; all have our examples."""
    names = {file: set(document["$defs"]) for file, document in OURS.items() if file not in OUR_FILES}
    assert names == {file: set(document["$defs"]) for file, document in PUBLISHED.items()}
    assert {(file, name) for file in names for name in names[file]} == set(ENTRIES)
    assert OURS.keys() >= OUR_FILES


def test_a_document_lists_what_the_protocol_s_lists() -> None:
    """The layout is the same, down to the `oneOf` that says what a document of the file is about."""
    for file, document in PUBLISHED.items():
        ours = OURS[file]
        assert ours["$schema"] == document["$schema"]
        assert ours["title"] == document["title"] or file == "envelope"
        assert {one["$ref"] for one in ours["oneOf"]} == {one["$ref"] for one in document["oneOf"]}


def test_what_sepkit_adds_is_not_in_the_protocol() -> None:
    """When SEP has tasks itself, `_with_our_addition` has to go. Source: docs/tasks.md, "On the wire"."""
    published = jsonschema_rs.Draft202012Validator(entries_of(PUBLISHED["initialize"])["Registrations"])
    assert not published.is_valid({"tasks": [TASK]})
    assert published.is_valid({"hooks": []})
    assert not OUR_FILES & PUBLISHED.keys()


@pytest.mark.parametrize("entry", ENTRIES, ids="/".join)
def test_our_examples_are_right_and_wrong_to_the_protocol_too(entry: tuple[str, str]) -> None:
    """`test_spec.py` relies on these examples where the protocol's schemas are not there."""
    validator = _validator("theirs", *entry)
    assert [one for one in EXAMPLES[entry].right if not validator.is_valid(one)] == []
    assert [one for one in EXAMPLES[entry].wrong if validator.is_valid(one)] == []


@pytest.mark.parametrize("entry", ENTRIES, ids="/".join)
def test_what_the_protocol_says_of_an_instance_the_record_and_our_schema_say_too(entry: tuple[str, str]) -> None:
    """Instances are read and come back as they were; mutations are read where they are still valid."""
    cls = EXAMPLES[entry].record
    schema = entries_of(THEIRS[entry[0]])[entry[1]]
    theirs, ours = _validator("theirs", *entry), _validator("ours", *entry)
    valid = instances(schema, schema["$defs"])

    @rounds(10)
    @given(valid, mutated(valid))
    def check(instance: Any, mutation: Any) -> None:
        assert theirs.is_valid(instance), "the strategy is wrong"
        assert ours.is_valid(instance)
        made = structure_exactly(instance, cls)
        assert structure(instance, cls) == made
        if entry != ("envelope", "Id"):  # an integer or a string is nothing to write
            written = unstructure(made)
            assert theirs.is_valid(written)
            assert structure_exactly(written, cls) == made
            assert_same_but_for_defaults(instance, written)
        verdict = theirs.is_valid(mutation)
        assert ours.is_valid(mutation) == verdict
        assert accepts(cls, mutation) == verdict
        if verdict:
            assert structure(mutation, cls) == structure_exactly(mutation, cls)

    check()


@pytest.mark.parametrize("entry", ENTRIES, ids="/".join)
def test_what_our_schema_says_of_an_instance_the_protocol_says_too(entry: tuple[str, str]) -> None:
    """Our schema accepts nothing that SEP refuses."""
    schema = entries_of(OURS[entry[0]])[entry[1]]
    theirs, ours = _validator("theirs", *entry), _validator("ours", *entry)
    valid = instances(schema, schema["$defs"])

    @rounds(8)
    @given(valid, mutated(valid))
    def check(instance: Any, mutation: Any) -> None:
        assert ours.is_valid(instance), "the strategy is wrong"
        assert theirs.is_valid(instance)
        assert theirs.is_valid(mutation) == ours.is_valid(mutation)

    check()


@pytest.mark.parametrize("file", sorted(PUBLISHED))
def test_whole_documents_judge_alike(file: str) -> None:
    """The top-level `oneOf` too, for which `{}` may be several things and so none."""
    theirs, ours = _validator("theirs", file), _validator("ours", file)
    for document in (THEIRS[file], OURS[file]):
        found = instances({"oneOf": document["oneOf"]}, document["$defs"])

        @rounds(5)
        @given(found, mutated(found))
        def check(instance: Any, mutation: Any) -> None:
            assert theirs.is_valid(instance) == ours.is_valid(instance)
            assert theirs.is_valid(mutation) == ours.is_valid(mutation)

        check()


def assert_same_but_for_defaults(before: Any, after: Any) -> None:
    """All that is lost or added on the way through a record is a default."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in before.keys() | after.keys():
            if key in before and key in after:
                assert_same_but_for_defaults(before[key], after[key])
            else:
                assert before.get(key, after.get(key)) in (None, False, "", [], {}, "stop", "assistant", "follow_up")
    elif isinstance(before, list) and isinstance(after, list):
        for one, other in zip(before, after, strict=True):
            assert_same_but_for_defaults(one, other)
    else:
        assert before == after

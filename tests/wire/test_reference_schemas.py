"""Our records against the protocol's own schemas: what those accept `structure_exactly` accepts, and nothing else.

Instances are generated from the schemas, and mutations of them, by a small strategy that knows the keywords they use.
The schemas are reference data beside the project; without them these tests are skipped (`test_converter.py` has
fixtures of our own, which always run).

Two differences are wanted: 1.0 is an integer to JSON Schema and none to us, and `registrations.tasks` is our addition.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Final

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sepkit.errors import InvalidData
from sepkit.wire import messages as m
from sepkit.wire.converter import structure, structure_exactly, unstructure

jsonschema_rs = pytest.importorskip("jsonschema_rs")

SCHEMAS: Final = Path(__file__).parents[2].parent / "shared" / "sep-spec" / "methods"

pytestmark = pytest.mark.skipif(not SCHEMAS.is_dir(), reason=f"the protocol's schemas are not at {SCHEMAS}")

RECORD_OF: Final[dict[tuple[str, str], Any]] = {
    ("bus-publish", "Params"): m.BusPublishParams,
    ("cancel", "Params"): m.CancelParams,
    ("command-complete", "Params"): m.CommandCompleteParams,
    ("command-complete", "Completion"): m.Completion,
    ("command-complete", "Result"): m.CommandCompleteResult,
    ("command-execute", "Params"): m.CommandExecuteParams,
    ("command-execute", "Result"): m.CommandExecuteResult,
    ("envelope", "Context"): m.Context,
    ("event", "Params"): m.EventParams,
    ("exec-run", "Params"): m.ExecRunParams,
    ("exec-run", "Result"): m.ExecRunResult,
    ("hook", "Params"): m.HookParams,
    ("hook", "Result"): m.HookOutcome,
    ("hook", "HookOutcome"): m.HookOutcome,
    ("hook", "Context"): m.Context,
    ("initialize", "Params"): m.InitializeParams,
    ("initialize", "Result"): m.InitializeResult,
    ("initialize", "Registrations"): m.Registrations,
    ("initialize", "MessageRendererRegistration"): m.MessageRendererRegistration,
    ("initialize", "RenderBlock"): m.RenderBlock,
    ("initialize", "ProviderRegistration"): m.ProviderRegistration,
    ("initialize", "ProviderModel"): m.Model,
    ("initialize", "ToolRegistration"): m.ToolRegistration,
    ("initialize", "CommandRegistration"): m.CommandRegistration,
    ("initialize", "ShortcutRegistration"): m.ShortcutRegistration,
    ("kv", "GetParams"): m.KvGetParams,
    ("kv", "GetResult"): m.KvGetResult,
    ("kv", "SetParams"): m.KvSetParams,
    ("kv", "SetResult"): m.Empty,
    ("kv", "DeleteParams"): m.KvDeleteParams,
    ("kv", "DeleteResult"): m.Empty,
    ("kv", "ListParams"): m.KvListParams,
    ("kv", "ListResult"): m.KvListResult,
    ("log", "Params"): m.LogParams,
    ("ping", "Params"): m.Empty,
    ("ping", "Result"): m.Empty,
    ("provider", "Context"): m.Context,
    ("provider", "CompleteParams"): m.ProviderCompleteParams,
    ("provider", "CompleteResult"): m.ProviderCompleteResult,
    ("provider", "DeltaParams"): m.DeltaParams,
    ("provider", "OAuthParams"): m.OAuthParams,
    ("provider", "Credentials"): m.Credentials,
    ("registry-update", "Params"): m.RegistryUpdateParams,
    ("registry-update", "ProviderRegistration"): m.ProviderRegistration,
    ("registry-update", "ToolRegistration"): m.ToolRegistration,
    ("registry-update", "CommandRegistration"): m.CommandRegistration,
    ("session", "Context"): m.Context,
    ("session", "SendMessageParams"): m.SessionSendMessageParams,
    ("session", "SendMessageResult"): m.Empty,
    ("session", "SendUserMessageParams"): m.SessionSendUserMessageParams,
    ("session", "SendUserMessageResult"): m.Empty,
    ("session", "AppendEntryParams"): m.SessionAppendEntryParams,
    ("session", "AppendEntryResult"): m.Empty,
    ("session", "SetModelParams"): m.SessionSetModelParams,
    ("session", "SetModelResult"): m.Empty,
    ("session", "StateParams"): m.SessionStateParams,
    ("session", "StateResult"): m.SessionStateResult,
    ("shutdown", "Params"): m.Empty,
    ("shutdown", "Result"): m.Empty,
    ("tool-execute", "Params"): m.ToolExecuteParams,
    ("tool-execute", "Result"): m.ToolExecuteResult,
    ("tool-update", "Params"): m.ToolUpdateParams,
    ("tools-set-active", "Params"): m.SetActiveParams,
    ("tools-set-active", "Result"): m.SetActiveResult,
    ("ui-request", "Params"): m.UiRequest,
    ("ui-request", "Result"): m.UiResult,
}

# Frames are decoded without records; `wire/frames.py` and its tests speak for these.
FRAMES: Final = {("envelope", name) for name in ("Id", "Request", "Notification", "SuccessResponse", "ErrorResponse")}
FRAMES.add(("envelope", "Error"))

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-9, 9), st.sampled_from([0.5, -1.5, 2.25]), st.text("aä \n", max_size=3)
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "b c"]), inner, max_size=2),
    max_leaves=4,
)
OBJECTS = st.dictionaries(st.sampled_from(["a", "type", "b c"]), ANYTHING, max_size=2)


def _schemas() -> dict[tuple[str, str], Any]:
    """Every `$defs` entry, with the `$defs` of its file beside it."""
    found = {}
    for path in sorted(SCHEMAS.glob("*.schema.json")):
        document = orjson.loads(path.read_bytes())
        for name in document["$defs"]:
            found[path.name.removesuffix(".schema.json"), name] = {
                "$ref": f"#/$defs/{name}",
                "$defs": document["$defs"],
            }
    return found


ENTRIES: Final = _schemas()


def instances(schema: Any, defs: Any, depth: int = 0) -> st.SearchStrategy[Any]:
    """Instances of a schema, for the keywords that the protocol's schemas use."""
    if "$ref" in schema:
        return instances(defs[schema["$ref"].rpartition("/")[2]], defs, depth)
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "oneOf" in schema:
        # Past a few levels only what does not go deeper, or blocks in blocks would not end.
        flat = [option for option in schema["oneOf"] if depth < 3 or "#/$defs/" not in repr(option)]
        return st.one_of([instances(option, defs, depth + 1) for option in flat])
    kinds = schema.get("type")
    if isinstance(kinds, list):
        return st.one_of([instances({**schema, "type": kind}, defs, depth) for kind in kinds])
    match kinds:
        case "object":
            return _objects(schema, defs, depth)
        case "array":
            return st.lists(instances(schema["items"], defs, depth) if "items" in schema else ANYTHING, max_size=2)
        case "string":
            return st.text("abä\n", max_size=4)
        case "boolean":
            return st.booleans()
        case "null":
            return st.none()
        case "integer":
            return st.integers(schema.get("minimum", -(2**53)), schema.get("maximum", 2**53))
        case "number":
            low, high = schema.get("minimum", -9), schema.get("maximum", 9)
            return st.sampled_from([low, high]) | st.floats(low, high)
        case None:
            return ANYTHING
    raise AssertionError(f"the strategy does not know {kinds!r}")


def _objects(schema: Any, defs: Any, depth: int) -> st.SearchStrategy[Any]:
    properties = schema.get("properties", {})
    required = set(schema.get("required", ()))
    by_name = {name: instances(part, defs, depth) for name, part in properties.items()}
    known = st.fixed_dictionaries(
        {name: strategy for name, strategy in by_name.items() if name in required},
        optional={name: strategy for name, strategy in by_name.items() if name not in required},
    )
    extra = schema.get("additionalProperties", True)
    if extra is False:
        return known
    values = ANYTHING if extra is True else instances(extra, defs, depth)
    others = st.dictionaries(st.sampled_from(["other", "x y"]), values, max_size=2)
    return st.builds(lambda a, b: {**b, **a}, known, others)


def _places(value: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [above]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        found += _places(item, (*above, key))
    return found


@st.composite
def mutated(draw: st.DrawFn, base: st.SearchStrategy[Any]) -> Any:
    """An instance with one place changed: replaced, taken out, or with a key too many. It may well still be valid."""
    box = {"value": copy.deepcopy(draw(base))}
    *above, last = draw(st.sampled_from(_places(box)[1:]))
    parent: Any = box
    for key in above:
        parent = parent[key]
    how = draw(st.sampled_from(["replace", "remove", "add", "null"]))
    if how == "add" and isinstance(parent[last], dict):
        parent[last][draw(st.sampled_from(["zz", "text", "kind"]))] = draw(ANYTHING)
    elif how == "remove" and above:
        del parent[last]
    elif how == "null":
        parent[last] = None
    else:
        parent[last] = draw(ANYTHING | st.sampled_from([-1, 2, "event", "zz", [], {}]))
    return box["value"]


def accepts(cls: Any, data: Any) -> bool:
    try:
        structure_exactly(data, cls)
    except InvalidData:
        return False
    return True


def test_every_entry_of_the_schemas_has_a_record() -> None:
    """Design 1: `messages.py` holds every params and result; a new entry in the schemas must not go unnoticed."""
    assert set(ENTRIES) - FRAMES == set(RECORD_OF)


@pytest.mark.parametrize("entry", RECORD_OF, ids="/".join)
def test_what_a_schema_says_of_an_instance_the_record_says_too(entry: tuple[str, str]) -> None:
    """Style 11, trap 44: instances parse and come back as they were; mutations parse where they are still valid."""
    cls, schema = RECORD_OF[entry], ENTRIES[entry]
    validator = jsonschema_rs.Draft202012Validator(schema)
    valid = instances(schema, schema["$defs"])

    @settings(
        max_examples=30,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
    @given(valid, mutated(valid))
    def check(instance: Any, mutation: Any) -> None:
        assert validator.is_valid(instance), "the strategy is wrong"
        made = structure_exactly(instance, cls)
        assert structure(instance, cls) == made
        written = unstructure(made)
        assert validator.is_valid(written)
        assert structure_exactly(written, cls) == made
        assert_same_but_for_defaults(instance, written)
        assert accepts(cls, mutation) == validator.is_valid(mutation)
        if accepts(cls, mutation):
            assert structure(mutation, cls) == structure_exactly(mutation, cls)

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

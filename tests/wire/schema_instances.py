"""Instances of JSON Schemas, and mutations of them: a small strategy that knows the keywords that our schemas use.

For `test_reference_schemas.py` and `test_spec.py`. A few rounds in the suite, many where ``SEPKIT_SOAK`` is set.
"""

from __future__ import annotations

import copy
import os
from typing import Any, Final

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from sepkit.errors import InvalidData
from sepkit.wire.converter import structure_exactly

# 1.0 is an integer to JSON Schema and none to us (`converter.py` says why), so it is not among these.
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-9, 9), st.sampled_from([0.5, -1.5, 2.25]), st.text("aä \n", max_size=3)
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "b c"]), inner, max_size=2),
    max_leaves=4,
)

SOAK: Final = bool(os.environ.get("SEPKIT_SOAK"))


def rounds(few: int, many: int = 200) -> settings:
    """So many instances in the suite, and so many in a soak."""
    return settings(
        max_examples=many if SOAK else few,
        deadline=None,
        database=None,
        derandomize=not SOAK,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )


def entries_of(document: Any) -> dict[str, Any]:
    """Each of the ``$defs`` of a document, as a schema that stands alone."""
    return {name: {"$ref": f"#/$defs/{name}", "$defs": document["$defs"]} for name in document["$defs"]}


def instances(schema: Any, defs: Any, depth: int = 0) -> st.SearchStrategy[Any]:
    """Instances of a schema, for the keywords that the protocol's schemas and ours use."""
    if "$ref" in schema:
        return instances(defs[schema["$ref"].rpartition("/")[2]], defs, depth)
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if options := schema.get("oneOf") or schema.get("anyOf"):
        # Past a few levels only what does not go deeper, or blocks in blocks would not end.
        flat = [option for option in options if depth < 3 or "#/$defs/" not in repr(option)]
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
    """Whether ``structure_exactly`` takes ``data`` as a ``cls``."""
    try:
        structure_exactly(data, cls)
    except InvalidData:
        return False
    return True

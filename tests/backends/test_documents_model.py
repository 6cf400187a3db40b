"""Random documents, queries and options: each backend finds what plain Python finds, in its order, or refuses."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sepkit import App
from sepkit.contexts.documents import Documents
from sepkit.contexts.link import Link
from sepkit.errors import QueryError
from tests.backends.conftest import MAKERS
from tests.backends.model import Model

SOAK = bool(os.environ.get("SEPKIT_SOAK"))
EXAMPLES = {"memory": 60, "local": 15, "slow": 10}

app = App("model")
things = app.collection("things", dict[str, Any], indexes=["a", "c.d"])


class OnlyBackend:
    """As much of a connection as documents need."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend


IDS = st.sampled_from(["1", "2", "10", "ä", "x y", "\0", "'\"", "\U0001f600"])
TEXTS = st.one_of(
    st.sampled_from(["", "a", "A", "ab", "aB", "é", "É", "1", "%", "_", "\0", "a\0b", "\1", "["]), st.text()
)
NUMBERS = st.one_of(
    st.sampled_from(
        [0, 1, -1, 1.0, 0.1, 0.1 + 0.2, -0.0, 2**53, 2**53 + 1, 2.0**53, 2**63 - 1, -(2**63), 1e300, 5e-324]
    ),
    st.integers(-3, 3),
    st.floats(allow_nan=False, allow_infinity=False),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS, st.sampled_from([2**63, 2**64 - 1]))
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("dD0"), inner), max_leaves=3
)
DOCUMENTS = st.dictionaries(st.sampled_from(["a", "A", "b", "c", "_x"]), VALUES, max_size=4)
PATHS = st.sampled_from(["a", "A", "b", "c", "c.d", "c.D", "c.0", "_x", "nowhere"])
WRONG_PATHS = st.sampled_from(["", ".", "a.", "a..b", "$or", "a b", "ä", "a'b", 'a"', "_id", "_v", "a[0]", 1, None])
OPERANDS = st.one_of(st.booleans(), NUMBERS, TEXTS)
WRONG = st.sampled_from([None, [], [1], {}, float("nan"), float("inf"), 2**63, "\ud800", b"x", object(), {"d": 1}])
MAYBE = st.one_of(OPERANDS, OPERANDS, OPERANDS, WRONG)
CONDITIONS = st.one_of(
    OPERANDS,
    st.dictionaries(st.sampled_from(["$gt", "$gte", "$lt", "$lte", "$ne"]), OPERANDS, min_size=1, max_size=2),
    st.builds(lambda several: {"$in": several}, st.lists(OPERANDS, min_size=1, max_size=3)),
    st.builds(lambda text: {"$contains": text}, TEXTS),
)
WRONG_CONDITIONS = st.one_of(
    WRONG,
    st.just({}),
    st.dictionaries(
        st.sampled_from(["$gt", "$ne", "$in", "$contains", "$eq", "$regex", "$or", "d", "$"]),
        MAYBE,
        min_size=1,
        max_size=2,
    ),
)
RIGHT_QUERIES = st.dictionaries(PATHS, CONDITIONS, max_size=2)
QUERIES: st.SearchStrategy[Any] = st.one_of(
    RIGHT_QUERIES,
    RIGHT_QUERIES,
    RIGHT_QUERIES,
    st.none(),
    st.dictionaries(st.one_of(PATHS, WRONG_PATHS), st.one_of(CONDITIONS, WRONG_CONDITIONS), max_size=2),
    st.sampled_from(["a", 1, [("a", 1)], True]),
)
SORTS: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.dictionaries(PATHS, st.sampled_from(["asc", "desc"]), max_size=2),
    st.dictionaries(st.one_of(PATHS, WRONG_PATHS), st.sampled_from(["asc", "desc", "up", 1, None]), max_size=2),
    st.sampled_from(["a", ["a"], [("a", "asc")]]),
)
LIMITS: st.SearchStrategy[Any] = st.one_of(st.none(), st.integers(0, 4), st.sampled_from([-1, 1.0, "1", True]))
OFFSETS: st.SearchStrategy[Any] = st.one_of(st.just(0), st.integers(0, 3), st.sampled_from([-1, None, False, 1.5]))

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.lists(st.tuples(IDS, DOCUMENTS), max_size=5)),
        st.tuples(st.just("put"), st.lists(st.tuples(IDS, DOCUMENTS), min_size=2, max_size=5)),
        st.tuples(st.just("delete"), IDS),
        st.tuples(st.just("delete_many"), QUERIES),
    ),
    max_size=4,
)
LOOKS = st.lists(st.tuples(QUERIES, SORTS, LIMITS, OFFSETS), min_size=1, max_size=6)


async def outcome(work: Any) -> Any:
    """What came of it; a refusal counts as one, whatever it says."""
    try:
        return await work
    except QueryError as error:
        return "refused" if str(error) else "said nothing"


def expected(work: Any) -> Any:
    try:
        return work()
    except QueryError:
        return "refused"


async def compare(store: Documents[dict[str, Any]], steps: list[Any], looks: list[Any]) -> None:
    model = Model()
    await store.drop()
    for step, given_ in steps:
        if step == "put":
            await store.put_many(given_)
            model.put_many(given_)
        elif step == "delete":
            assert await store.delete(given_) == model.delete(given_)
        else:
            assert await outcome(store.delete_many(given_)) == expected(lambda: model.delete_many(given_))  # noqa: B023
    assert await store.find_items() == list(model.documents.items())
    for query, sort, limit, offset in looks:
        found = await outcome(store.find_items(query, sort=sort, limit=limit, offset=offset))
        ids = found if found == "refused" else [id for id, _ in found]  # noqa: A001
        wanted = expected(lambda: model.find(query, sort, limit, offset))  # noqa: B023
        assert ids == wanted, (query, sort, limit, offset, model.documents)
        assert await outcome(store.count(query)) == expected(lambda: model.count(query))  # noqa: B023
    for id, document in model.documents.items():  # noqa: A001
        assert await store.get(id) == document


@pytest.mark.timeout(1200 if SOAK else 60)
@pytest.mark.parametrize("kind", MAKERS)
def test_each_backend_finds_what_plain_python_finds_in_the_same_order_or_refuses(kind: str) -> None:
    """Documents, queries and options of all kinds, right and wrong."""
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner() as runner:
        backend = MAKERS[kind](Path(folder))
        store = Documents(cast("Link", OnlyBackend(backend)), things)

        @settings(max_examples=2_000 if SOAK else EXAMPLES.get(kind, 15))
        @given(STEPS, LOOKS)
        @example(
            [("put", [("1", {"a": "\0"}), ("2", {"a": "\1"}), ("10", {"a": ""})])],
            [({"a": {"$gt": ""}}, {"a": "desc"}, None, 0)],
        )
        @example(
            [("put", [("1", {"a": 0.1 + 0.2})])],
            [({"a": 0.1 + 0.2}, None, None, 0), ({"a": {"$in": [0.1 + 0.2]}}, None, None, 0)],
        )
        @example(
            [("put", [("1", {"a": [1]}), ("2", {"a": None}), ("10", {})])], [({"a": {"$ne": 5}}, {"a": "asc"}, 2, 0)]
        )
        def compared(steps: list[Any], looks: list[Any]) -> None:
            runner.run(compare(store, steps, looks))

        compared()
        runner.run(backend.aclose())

"""Records are attrs classes, before and after attrs has seen them."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import threading
from typing import Any

import attrs
import pytest

from sepkit import records
from sepkit.records import MANY, Record, changed, field, instance_of, record


def fresh() -> Any:
    """A record that attrs has not seen."""

    @record
    class Point(Record):
        x: int
        y: int = 2
        names: list[str] = field(factory=list)
        secret: str = field(default="s", repr=False)
        tag: str = field(default="t", kw_only=True)

    return Point


def seen() -> Any:
    """The same, after attrs has made its methods."""
    cls = fresh()
    attrs.fields(cls)
    return cls


@pytest.mark.parametrize("made", [fresh, seen])
def test_a_record_is_made_as_attrs_makes_it(made: Any) -> None:
    """Positional and named, with defaults; each factory anew."""
    point = made()
    assert vars(point(1)) == {"x": 1, "y": 2, "names": [], "secret": "s", "tag": "t"}
    assert vars(point(1, 3, ["a"], tag="u")) == {"x": 1, "y": 3, "names": ["a"], "secret": "s", "tag": "u"}
    assert point(1).names is not point(1).names
    assert point(x=1) == point(1) != point(2)
    assert hash(point(1, names=())) == hash(point(x=1, names=()))
    assert repr(point(1)).endswith("Point(x=1, y=2, names=[], tag='t')")
    assert point(1) != (1, 2, [], "s", "t")
    assert copy.copy(point(1)) == copy.deepcopy(point(1)) == changed(point(2), x=1) == point(1)


@pytest.mark.parametrize("made", [fresh, seen])
@pytest.mark.parametrize(
    ("args", "given"),
    [((), {}), ((1,), {"x": 1}), ((1,), {"z": 1}), ((1, 2, [], "s", "t"), {}), ((), {"y": 1})],
)
def test_what_a_record_does_not_take_is_a_type_error(made: Any, args: Any, given: Any) -> None:
    """Missing, twice, unknown, too many; one that is named only."""
    with pytest.raises(TypeError):
        made()(*args, **given)


@pytest.mark.parametrize("made", [fresh, seen])
def test_a_record_is_frozen(made: Any) -> None:
    """Before attrs has seen it, too."""
    point = made()(1)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        point.x = 2
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        del point.x
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        point.other = 2


def test_a_look_at_the_fields_finds_an_attrs_class() -> None:
    """attrs, and `match`, find what they look for at their first look."""
    assert attrs.has(fresh())
    assert [one.name for one in attrs.fields(fresh())] == ["x", "y", "names", "secret", "tag"]
    assert attrs.evolve(fresh()(1), y=5).y == 5
    assert attrs.asdict(fresh()(1))["x"] == 1
    assert fresh().__match_args__ == ("x", "y", "names", "secret")
    assert not attrs.has(Record)


def test_an_instance_from_before_equals_one_from_after() -> None:
    """The change from the loop to generated code is not seen."""
    point = fresh()
    before = point(1)
    many = [point(1) for _ in range(2 * MANY)]
    assert point not in records._options, "attrs has seen it"
    assert all(one == before for one in many)
    assert repr(many[-1]) == repr(before)


@pytest.mark.parametrize("made", [fresh, seen])
def test_a_record_can_be_derived_from(made: Any) -> None:
    """With attrs or without; the fields of the base come first."""
    base = made()

    @attrs.frozen
    class Named(base):  # type: ignore[misc, valid-type]
        name: str = "n"

    class Plain(base):  # type: ignore[misc, valid-type]
        def twice(self) -> int:
            return 2 * int(self.x)

    named: Any = Named
    assert named(1, name="m") == named(x=1, name="m") != named(1)
    assert (Plain(4).twice(), Plain(4)) == (8, Plain(4))
    assert "x=4" in repr(Plain(4))


def test_validators_run_whoever_makes_the_instance() -> None:
    """Also before attrs has seen the class."""

    @record
    class Text(Record):
        text: str = field(default="", validator=instance_of(str))

    for _ in range(2):
        assert Text("a").text == "a"
        with pytest.raises(TypeError, match="text must be a str, not a int"):
            Text(5)  # type: ignore[arg-type]
        attrs.fields(Text)


def test_a_record_is_pickled() -> None:
    """Before its class was seen by attrs, and read where it has been."""
    script = "import pickle, sys; from sepkit import Model; sys.stdout.buffer.write(pickle.dumps(Model('m', 'M')))"
    written = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True).stdout
    assert repr(pickle.loads(written)) == "Model(id='m', display_name='M')"


def test_records_are_made_by_many_threads_while_attrs_comes() -> None:
    """`def` handlers run in threads."""
    for _ in range(5):
        point, gate = fresh(), threading.Barrier(8)
        wrong: list[object] = []

        def make(point: Any = point, wrong: Any = wrong, gate: Any = gate) -> None:
            gate.wait()
            for _ in range(MANY // 4):
                if vars(made := point(1, tag="u")) != {"x": 1, "y": 2, "names": [], "secret": "s", "tag": "u"}:
                    wrong.append(made)

        threads = [threading.Thread(target=make) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong

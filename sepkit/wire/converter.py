"""JSON data → records, strictly.

:func:`structure` reads what came from the peer. Data that does not fit raises :class:`~sepkit.errors.InvalidData` with
all of its faults. ``reading.py`` has the rule for each kind of type, ``faults.py`` explains what went wrong, and
``writing.py`` is the other direction. No bytes here (``frames.py``), and no types of authors: ``schema/`` reads those.

1.0 is not an integer here, although JSON Schema accepts it as one: as an id it must not equal 1, and one rule for all
integers is simpler.
"""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING, Any, TypeVar

from sepkit.errors import InvalidData
from sepkit.wire.reading import CLASSES, FACTORIES, Hook, Interpreter, Reader, record_hook
from sepkit.wire.shapes import has_fields

if TYPE_CHECKING:
    import cattrs

T = TypeVar("T")


def structure(data: object, cls: type[T] | Any) -> T:
    """``data`` as a ``cls``: a record of the wire, or a type that a field of one has.

    Unknown fields are ignored. Where a field may be absent, null counts as absent.

    Raises:
        InvalidData: The data does not fit; the error lists every fault.
    """
    made: T = _structure(data, cls, exact=False)
    return made


def structure_exactly(data: object, cls: type[T] | Any) -> T:
    """Like :func:`structure`, but refuses what the protocol's schemas refuse: unknown fields, and null for absent.

    Raises:
        InvalidData: The data does not fit; the error lists every fault.
    """
    made: T = _structure(data, cls, exact=True)
    return made


# The first reading stops at the first fault, without details. Data that does not fit is read a second time, by hooks
# that collect every fault, so that valid data, which is nearly all of it, does not pay for them.
_HOOKS: dict[bool, dict[Any, Hook]] = {False: {}, True: {}}


def _structure(data: object, cls: Any, *, exact: bool) -> Any:
    hooks = _HOOKS[exact]
    try:
        return hooks[cls](data, cls)
    except Exception:  # it does not fit, or no hook was made for this type yet
        if cls not in hooks:
            hooks[cls] = _interpreter(exact=exact).get_structure_hook(cls)
            return _structure(data, cls, exact=exact)
    hook = converter(exact=exact).get_structure_hook(cls)
    try:
        return hook(data, cls)
    except Exception as error:
        from sepkit.wire.explaining import faults_in

        raise InvalidData(faults_in(error, data, cls)) from None


@cache
def _interpreter(*, exact: bool) -> Interpreter:
    return Interpreter(exact=exact, compiled=partial(converter, exact=exact, detailed=False))


@cache
def converter(*, exact: bool, detailed: bool = True) -> cattrs.Converter:
    """The converter behind :func:`structure`, or with ``exact`` the one behind :func:`structure_exactly`.

    With ``detailed`` it raises an exception group of all errors, otherwise the first error.
    """
    import cattrs

    made = cattrs.Converter(detailed_validation=detailed)
    for cls, hook in CLASSES.items():
        made.register_structure_hook(cls, hook)
    for matches, factory in FACTORIES:  # if two match, the later one wins
        made.register_structure_hook_factory(matches, factory)

    def record_factory(cls: Any, conv: Reader) -> Hook:
        return record_hook(cls, conv, exact=exact)

    made.register_structure_hook_factory(has_fields, record_factory)
    return made

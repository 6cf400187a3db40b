"""Frozen attrs classes that cost nothing until they are used, and next to nothing while they are used rarely.

attrs writes and compiles the methods of a class where it is decorated: 0.3 to 0.7 ms each. To import it takes 10 ms.
An extension that has just been started uses most of sepkit's records once or not at all, and its host waits. So
``record`` is ``attrs.frozen`` put off: the first instances are made by an ``__init__`` that looks at the fields one by
one, and attrs comes when there are many, or with the first look at the fields (``attrs.has``, ``attrs.fields``).

That needs the class to stay the same object, so there are no slots; a frozen instance with a ``__dict__`` is also the
faster one to make.
"""

from __future__ import annotations

import inspect
from threading import RLock
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

__all__ = ["MANY", "NOTHING", "Declared", "Record", "changed", "declared", "field", "instance_of", "record"]

MANY: Final = 500
"""So many instances are made, or objects read or written, without generated code. It pays off about there: attrs and
cattrs take 25 ms to import, and 1 ms for a class; a loop over the fields takes 2 to 5 µs more."""

NOTHING: Final = inspect.Parameter.empty
"""The default of a field that has none."""


class Declared(NamedTuple):
    """A field as it is declared."""

    name: str
    default: Any
    factory: Any
    kw_only: bool
    repr: bool
    metadata: dict[Any, Any]
    validator: Any

    @property
    def required(self) -> bool:
        """Whether it must be given."""
        return self.default is NOTHING and self.factory is None


_options: dict[type, dict[str, Any]] = {}  # of those that attrs has not seen yet
_declared: dict[type, tuple[Declared, ...]] = {}


class _Field:
    """What ``attrs.field`` was given."""

    __slots__ = ("options",)

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options


if TYPE_CHECKING:
    from attrs import field
    from attrs import frozen as record

    class Record:
        """A frozen attrs class, at its first use."""
else:
    _left: dict[type, int] = {}
    _finishing = RLock()  # handlers run in threads, too

    def field(**options: Any) -> Any:
        """``attrs.field``, for a record."""
        return _Field(options)

    def record(cls: type | None = None, /, **options: Any) -> Any:
        """``attrs.frozen``, put off."""
        if cls is None:
            return lambda decorated: record(decorated, **options)
        _options[cls] = options
        return cls

    def _finish(cls: type) -> None:
        with _finishing:
            options = _options.get(cls)
            if options is not None:
                import attrs

                for one in declared(cls) or ():
                    if isinstance(given := cls.__dict__.get(one.name), _Field):
                        setattr(cls, one.name, attrs.field(**given.options))
                attrs.frozen(cls, slots=False, eq=False, repr=False, **options)
                del _options[cls]

    class _Late:
        """Stands in for what attrs puts into the class, until it has."""

        def __set_name__(self, owner: type, name: str) -> None:
            self._name = name

        def __get__(self, instance: object, owner: type) -> Any:
            for cls in reversed(owner.__mro__):
                _finish(cls)
            for cls in owner.__mro__:
                found = cls.__dict__.get(self._name, self)
                if not isinstance(found, _Late):
                    return found if instance is None else getattr(instance, self._name)
            raise AttributeError(self._name)

    class Record:
        """A frozen attrs class, at its first use."""

        __attrs_attrs__ = _Late()
        __match_args__ = _Late()
        __replace__ = _Late()

        def __init__(self, /, *args: Any, **given: Any) -> None:
            cls = type(self)
            left = _left.get(cls, MANY)
            _left[cls] = left - 1
            if cls not in _options or left <= 0 or not _fill(self, declared(cls) or (), args, given):
                # There are many; or it is derived from a record; or it is not given what it takes. attrs makes an
                # `__init__` for it, which has the error to raise, too.
                for base in reversed(cls.__mro__):
                    _finish(base)
                if cls.__init__ is Record.__init__:
                    raise TypeError(f"{cls.__name__} is not a record")
                self.__init__(*args, **given)

        def __setattr__(self, name: str, *value: object) -> None:
            from attrs.exceptions import FrozenInstanceError

            raise FrozenInstanceError

        __delattr__ = __setattr__

        def __eq__(self, other: object) -> bool:
            return self.__dict__ == other.__dict__ if type(other) is type(self) else NotImplemented

        def __hash__(self) -> int:
            return hash((type(self), *(getattr(self, one.name) for one in _inherited(type(self)))))

        def __repr__(self) -> str:
            shown = (one.name for one in _inherited(type(self)) if one.repr)
            return f"{type(self).__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

    def _inherited(cls: type) -> tuple[Declared, ...]:
        return next((fields for base in cls.__mro__ if (fields := declared(base)) is not None), ())

    def _fill(made: Record, fields: tuple[Declared, ...], args: tuple[Any, ...], given: dict[str, Any]) -> bool:
        """Set the fields. False where attrs has to do it."""
        values = {}
        at = 0
        for name, default, factory, kw_only, *_ in fields:
            if not kw_only and at < len(args):
                if name in given:
                    return False
                values[name] = args[at]
                at += 1
            elif name in given:
                values[name] = given[name]
            elif factory is not None:
                values[name] = factory()
            elif default is not NOTHING:
                values[name] = default
            else:
                return False
        if at < len(args) or not given.keys() <= values.keys():
            return False
        for name, value in values.items():
            object.__setattr__(made, name, value)
        for one in fields:
            if one.validator is not None:
                one.validator(made, one, values[one.name])
        return True


def declared(cls: type[Any]) -> tuple[Declared, ...] | None:
    """The fields of a record, without attrs; None for any other class, also for one that is derived from a record."""
    found = _declared.get(cls)
    if found is None and (options := _options.get(cls)) is not None:
        fields = []
        for name in inspect.get_annotations(cls):
            given = cls.__dict__.get(name, NOTHING)
            own = given.options if isinstance(given, _Field) else {"default": given}
            fields.append(
                Declared(
                    name,
                    own.get("default", NOTHING),
                    own.get("factory"),
                    own.get("kw_only", options.get("kw_only", False)),
                    own.get("repr", True),
                    own.get("metadata", {}),
                    own.get("validator"),
                )
            )
        found = _declared[cls] = tuple(fields)
    return found


_R = TypeVar("_R", bound=Record)


def changed(made: _R, **changes: Any) -> _R:
    """``attrs.evolve``, without attrs."""
    return type(made)(**{**vars(made), **changes})


def instance_of(cls: type) -> Any:
    """The validator of a field that takes only instances of ``cls``."""

    def check(made: object, one: Any, value: object) -> None:
        if not isinstance(value, cls):
            raise TypeError(f"{type(made).__name__}: {one.name} must be a {cls.__name__}, not a {type(value).__name__}")

    return check

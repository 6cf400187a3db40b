"""Settings and flags: what they are set to, and by which source. No I/O.

A setting is a flag with a type. The sources, the highest first: the host (SEP's ``initialize.flags``), ``--flag
NAME=VALUE`` of the command line, ``SEPKIT_FLAG_NAME`` in the environment, what ``ctx.set_setting`` has stored, and the
default. What a plain flag is set to by text is read by the type of its default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Generic, TypeVar, cast

import orjson

from sepkit.contexts.backend import FLAG, variable_of
from sepkit.errors import BadSettings, Fault, InvalidData, RegistrationError
from sepkit.schema import compile_type, schema_of, stored_type
from sepkit.wire.writing import copied, to_json

T = TypeVar("T")

MOST_BYTES: Final = 65_536  # of a value that is stored, as JSON
_MISSING: Final = object()
_SHOWN: Final = 100  # characters of a name that the app does not know
_TYPED: Final = (bool, int, float, str, list, dict)


class Setting(Generic[T]):
    """A setting of an app, made by ``app.setting``: what ``ctx.setting`` takes, and ``@app.on_setting``.

    Attributes:
        name: Its name, and that of its flag.
        annotation: Its type.
        default: Its value where no source has one, as JSON.
        description: What people are told of it.
        schema: The JSON Schema of its values.
    """

    __slots__ = ("_exact", "_lenient", "annotation", "default", "description", "name", "schema")

    def __init__(self, name: str, annotation: Any, default: T, description: str) -> None:
        what = f"setting {name!r}"
        self.name: Final = name
        self.annotation: Final = annotation
        self.description: Final = description
        self.schema: Final = schema_of(annotation, what=what)
        self._lenient: Final = compile_type(annotation, what=what)
        self._exact: Final = stored_type(annotation, what=what)
        self.default: Final[Any] = to_json(default)
        self._exact(copied(self.default))

    def __repr__(self) -> str:
        return f"<Setting {self.name!r}>"

    def plain(self, value: T) -> Any:
        """A value as JSON.

        Raises:
            EncodeError: It has no form in JSON.
            InvalidData: It is not of the setting's type, or longer than 64 KiB.
        """
        made = to_json(value, f"setting {self.name!r}")
        _checked(self._exact, made, f"setting {self.name!r}")
        if (size := len(orjson.dumps(made))) > MOST_BYTES:
            raise InvalidData([Fault(f"setting {self.name!r}", f"at most {MOST_BYTES:,} bytes of JSON", f"{size:,}")])
        return made

    def stored(self, value: Any) -> T:
        """A value that was made by ``plain``; raises InvalidData where the type is another one by now."""
        return cast("T", self._exact(copied(value)))

    def sent(self, value: Any) -> T:
        """A value that a host has sent; raises InvalidData."""
        return cast("T", self._lenient(copied(value)))

    def typed(self, text: str) -> T:
        """A value that was written as text; raises InvalidData."""
        return cast("T", read_text(text, self._lenient, json_first=self.annotation in (Any, object)))

    def takes_null(self) -> bool:
        """Whether None is a value of it."""
        try:
            self._exact(None)
        except InvalidData:
            return False
        return True

    def of(self, flags: Mapping[str, Any]) -> T:
        """Its value on the connection that ``flags`` belong to.

        Raises:
            RegistrationError: It is not a setting of the app that is served.
        """
        if isinstance(flags, Flags):
            return flags.setting(self)
        if self.name not in flags:
            raise foreign(self)
        return self.sent(flags[self.name])


def foreign(setting: Setting[Any]) -> RegistrationError:
    """The error for a setting of another app."""
    return RegistrationError(
        f"setting {setting.name!r} is not one of this app; make it with app.setting, or include the router that has it"
    )


def read_text(text: str, convert: Callable[[Any], Any], *, json_first: bool = False) -> Any:
    """A text of the command line or the environment as a value: what it says itself, else what it says as JSON.

    Raises:
        InvalidData: It says no value of the type.
    """
    if not _is_utf8(text):
        raise InvalidData([Fault("$", "UTF-8", "other bytes")])
    try:
        made: Any = orjson.loads(text)
    except orjson.JSONDecodeError:
        return convert(text)
    if isinstance(made, float) and text.strip().removeprefix("-").isdecimal():
        made = text  # an integer past 64 bits would be rounded
    if json_first:
        return convert(made)
    try:
        return convert(text)
    except InvalidData:
        if not isinstance(made, list | dict | None):
            raise
    return convert(made)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _checked(convert: Callable[[Any], Any], value: Any, source: str) -> Any:
    """The value, converted; the faults' paths begin with their source.

    Raises:
        InvalidData: It does not fit.
    """
    try:
        return convert(value)
    except InvalidData as error:
        faults = [
            Fault(source + fault.path.removeprefix("$"), fault.expected, fault.received) for fault in error.faults
        ]
        raise InvalidData(faults) from None


class Texts:
    """What the command line and the environment set flags to.

    Args:
        line: By name, each ``--flag NAME=VALUE``.
        environ: By variable, each ``SEPKIT_FLAG_NAME``.
    """

    def __init__(self, line: Mapping[str, str], environ: Mapping[str, str]) -> None:
        self.line: Final = dict(line)
        self._environ: Final = dict(environ)

    def find(self, name: str) -> tuple[str, str] | None:
        """Where a flag is set, and to what."""
        if (text := self.line.get(name)) is not None:
            return f"--flag {name}", text
        variable = variable_of(FLAG, name)
        if (text := self._environ.get(variable)) is not None:
            return variable, text
        return None


NO_TEXTS: Final = Texts({}, {})


class Flags(Mapping[str, Any]):
    """The values of the flags on a connection, as JSON data; those of settings among them.

    Args:
        host: What the host has sent.
        declared: The default of each flag.
        settings: Those flags that have a type.
        texts: What the command line and the environment say.
        stored: What has been stored.
    """

    def __init__(
        self,
        host: Mapping[str, Any],
        declared: Mapping[str, Any],
        settings: Mapping[str, Setting[Any]],
        texts: Texts,
        stored: Mapping[str, Any],
    ) -> None:
        self._host = host
        self._declared = declared
        self._settings = settings
        self._texts = texts
        self._stored = stored

    def __getitem__(self, name: str) -> Any:
        if (setting := self._settings.get(name)) is not None:
            return to_json(self.setting(setting))
        if name in self._host:
            return self._host[name]
        default = self._declared[name]
        if (found := self._texts.find(name)) is not None:
            return _read_flag(found[1], default)
        return default

    def __iter__(self) -> Iterator[str]:
        return iter({**self._declared, **self._host})

    def __len__(self) -> int:
        return len(self._declared.keys() | self._host.keys())

    def setting(self, setting: Setting[T]) -> T:
        """The value of a setting.

        Raises:
            RegistrationError: The app does not have it.
        """
        if self._settings.get(setting.name) is not setting:
            raise foreign(setting)
        name = setting.name
        if (sent := self._sent(setting)) is not _MISSING:
            return setting.sent(sent)
        if (found := self._texts.find(name)) is not None:
            return setting.typed(found[1])
        return setting.stored(self._stored.get(name, setting.default))

    def _sent(self, setting: Setting[Any]) -> Any:
        sent = self._host.get(setting.name, _MISSING)
        return _MISSING if sent is None and not setting.takes_null() else sent  # null is absent elsewhere, too

    def holder(self, setting: Setting[Any]) -> str | None:
        """What holds a setting, so that it cannot be set here; None where nothing does."""
        if self._sent(setting) is not _MISSING:
            return "the host"
        found = self._texts.find(setting.name)
        return None if found is None else found[0]

    def check(self, *, complete: bool) -> None:
        """Look at all values.

        Args:
            complete: Whether the app has registered all that it will: then other names are mistakes.

        Raises:
            BadSettings: Some do not fit; has all of them.
        """
        faults: list[Fault] = []
        for name, default in list(self._declared.items()):
            setting = self._settings.get(name)
            try:
                if setting is not None and (sent := self._sent(setting)) is not _MISSING:
                    _checked(setting.sent, sent, f"the host's flag {name}")
                elif name not in self._host and (found := self._texts.find(name)) is not None:
                    read = setting.typed if setting is not None else lambda text, to=default: _read_flag(text, to)
                    _checked(read, found[1], found[0])
                elif setting is not None and name in self._stored:
                    _checked(setting.stored, self._stored[name], f"the stored setting {name}")
            except InvalidData as error:
                faults += error.faults
        if complete:
            faults += [
                Fault(
                    f"--flag {name[:_SHOWN]!a}", f"a flag of the app ({', '.join(self._declared) or 'none'})", "another"
                )
                for name in self._texts.line
                if name not in self._declared
            ]
        if faults:
            raise BadSettings(faults)


def _read_flag(text: str, default: object) -> Any:
    """What a text sets a plain flag to, whose default may tell its type."""
    annotation = type(default) if type(default) in _TYPED else Any
    convert = compile_type(annotation, what="a flag")
    return read_text(text, convert, json_first=annotation is Any)

"""Resources: what ``@app.resource`` registers, and which of them a URI means. Imported with the first one.

A template is a URI with ``{name}`` in it, which stands for some characters other than ``/``, ``?`` and ``#``, and at
most one ``{+name}``, which stands for any characters. Neither stands for nothing. Matching takes time in proportion to
the URI's length: there is no backtracking.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote, unquote_to_bytes

from sepkit.content import Contents, EmbeddedResource, check_uri, mime_of
from sepkit.contexts import contexts
from sepkit.errors import InvalidParams, RegistrationError, ToolError
from sepkit.handlers import (
    _CONTEXTS,
    Fn,
    ToolSpec,
    _check_callable,
    _check_is_bool,
    _refuse_generator,
    check_name,
    check_sendable,
    check_text,
    icons_given,
    is_async,
    name_of,
    where,
)
from sepkit.records import Record, field, record
from sepkit.schema import Signature, inspect_signature
from sepkit.wire.frames import dumps
from sepkit.wire.writing import to_json

if TYPE_CHECKING:
    from sepkit.content import Icon

LONGEST_URI: Final = 8192


class Variable(NamedTuple):
    """What stands in braces."""

    name: str
    is_path: bool
    """It was written ``{+name}``, and may hold slashes."""


class Template:
    """A URI that was read: texts, and the variables between them.

    Args:
        uri: As it is written.

    Raises:
        RegistrationError: It can't be matched; the message says why, and begins with the URI.
    """

    def __init__(self, uri: str) -> None:
        self.texts, self.variables = _parsed(uri)
        self.shape: Final = "".join(
            text + ("" if variable is None else "{+}" if variable.is_path else "{}")
            for text, variable in zip(self.texts, [*self.variables, None], strict=True)
        )
        """The same with nameless variables: two templates of one shape match the same URIs."""
        path = next((at for at, variable in enumerate(self.variables) if variable.is_path), len(self.variables))
        self._path = path
        self.rank: Final = (
            bool(self.variables),
            path < len(self.variables),
            -sum(map(len, self.texts)),
        )
        """The less, the more specific: a fixed URI, then templates without a ``{+path}``, then the longer texts."""

    def match(self, uri: str) -> dict[str, str] | None:
        """The variables' texts as they stand in ``uri``, percent-encoded; None where it does not match."""
        texts, variables = self.texts, self.variables
        if not variables:
            return {} if uri == texts[0] else None
        if not uri.startswith(texts[0]) or not uri.endswith(texts[-1]):
            return None
        begin, end = len(texts[0]), len(uri) - len(texts[-1])
        found: dict[str, str] = {}
        # From the left as little as each can have, as far as the path; from the right the same for those behind it.
        last = min(self._path, len(variables) - 1)
        for at in range(last):
            text = texts[at + 1]
            stop = uri.find(text, begin + 1, end)
            if stop < 0:
                return None
            found[variables[at].name] = uri[begin:stop]
            begin = stop + len(text)
        for at in range(len(variables) - 1, last, -1):
            text = texts[at]
            start = uri.rfind(text, begin, end - 1)
            if start < 0:
                return None
            found[variables[at].name] = uri[start + len(text) : end]
            end = start
        if begin >= end:
            return None
        found[variables[last].name] = uri[begin:end]
        if any(_STOPS.search(found[one.name]) for one in variables if not one.is_path):
            return None
        return found


_STOPS: Final = re.compile(r"[/?#]")
_BRACES: Final = re.compile(r"\{([^{}]*)\}")
_ENCODED: Final = re.compile(r"%(?![0-9a-fA-F]{2})")


def _parsed(uri: object) -> tuple[list[str], list[Variable]]:
    if not isinstance(uri, str):
        at = f" ({where(uri)})" if callable(uri) else ""
        raise RegistrationError(
            f'@app.resource{at}: say which URI it has, as in @app.resource("note://today") or @app.resource("note://{{id}}")'
        )
    what = f"resource {uri!r}"
    pieces = _BRACES.split(uri)
    texts, variables = pieces[0::2], [_variable(what, text) for text in pieces[1::2]]
    if any("{" in text or "}" in text for text in texts):
        raise RegistrationError(f"{what}: a brace has no partner; write %7B and %7D for braces of the URI itself")
    if not uri.partition("{")[0].rstrip("/").partition(":")[1]:
        raise RegistrationError(f"{what}: a URI begins with its scheme, written out, as in note://{{id}}")
    try:
        check_uri("x".join(texts) + "x" * bool(variables), what)
    except ValueError:
        raise RegistrationError(f"{what}: is not a URI; write %20 for a space, and %… for other characters") from None
    if _ENCODED.search("x".join(texts)):
        raise RegistrationError(f"{what}: a % is followed by two digits of a byte; write %25 for a % itself")
    names = [variable.name for variable in variables]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise RegistrationError(f"{what}: {{{twice}}} stands there twice; give one of them another name")
    if not all(texts[1:-1]):
        raise RegistrationError(
            f"{what}: where one variable ends and the next begins can't be told; write a text between"
        )
    if len([variable for variable in variables if variable.is_path]) > 1:
        raise RegistrationError(f"{what}: where one {{+…}} ends can't be told if there are two; keep one of them")
    texts[0] = _lower_scheme(texts[0])
    return texts, variables


def _variable(what: str, text: str) -> Variable:
    name = text.removeprefix("+")
    if not name.isidentifier() or not name.isascii():
        raise RegistrationError(
            f"{what}: {{{text}}} can't be matched; write {{name}}, or {{+name}} for what may hold slashes"
        )
    return Variable(name, text.startswith("+"))


def _lower_scheme(uri: str) -> str:
    scheme, colon, rest = uri.partition(":")
    return scheme.lower() + colon + rest


@record
class ResourceSpec(Record):
    """A resource: what a host is told of it, and how it is read."""

    fn: Fn
    uri: str
    """As it was written: a URI, or a template with ``{name}`` in it."""
    name: str
    title: str | None
    description: str
    mime: str | None
    icons: tuple[Icon, ...]
    parameters: dict[str, Any]
    """The JSON Schema of the template's variables."""
    bind: Callable[[Mapping[str, Any]], dict[str, Any]] = field(repr=False)
    context: str | None
    is_async: bool
    template: Template = field(repr=False)
    tool: ToolSpec | None = field(default=None, repr=False)
    """The tool that stands for it where the host knows no resources; None without ``expose_as_tool``."""

    @property
    def is_template(self) -> bool:
        """Whether it has variables."""
        return bool(self.template.variables)


def make_resource(
    fn: Fn,
    uri: str,
    *,
    name: str | None,
    title: str | None,
    description: str | None,
    mime: str | None,
    icons: Sequence[Icon | str],
    expose_as_tool: bool,
) -> ResourceSpec:
    """The record of a resource."""
    _check_callable(fn, "@app.resource")
    what = f"resource {uri!r}"
    template = Template(uri)
    _refuse_generator(fn, what, "return its content")
    _check_is_bool(what, fn, expose_as_tool=expose_as_tool)
    for option, given in (("name", name), ("title", title), ("description", description), ("mime", mime)):
        check_text(what, fn, option, given)
    if mime is not None and "/" not in mime.strip("/ "):
        raise RegistrationError(f"{what} ({where(fn)}): mime={mime!r}: write a type, as in 'text/plain'")
    signature = inspect_signature(
        fn, what=what, contexts=(contexts.ResourceContext,), other_contexts=_CONTEXTS, extra="forbid"
    )
    named, taken = [variable.name for variable in template.variables], signature.parameters.get("properties", {})
    problems = [f"no parameter takes {{{one}}} of the URI; add `{one}: str`" for one in named if one not in taken]
    problems += [f"parameter {one!r} is not in the URI; write {{{one}}} there" for one in taken if one not in named]
    if problems:
        raise RegistrationError(f"{what} ({where(fn)}): {'; '.join(problems)}")
    shown = name_of(fn) if name is None else name
    if not shown:
        raise RegistrationError(f"{what} ({where(fn)}): name='' is empty")
    about = signature.description if description is None else description
    pictures = icons_given(what, fn, icons)
    tool = _as_tool(fn, shown, about, title, pictures, signature, template, mime) if expose_as_tool else None
    return ResourceSpec(
        fn=fn,
        uri=uri,
        name=shown,
        title=title,
        description=about,
        mime=mime,
        icons=pictures,
        parameters=signature.parameters,
        bind=signature.loading.bind,
        context=signature.context,
        is_async=is_async(fn),
        template=template,
        tool=tool,
    )


def find(resources: Mapping[str, ResourceSpec], uri: str) -> tuple[ResourceSpec, dict[str, str]] | None:
    """The resource that a URI means, and the texts of its variables; None where there is none.

    The most specific one: a fixed URI before any template, a template without ``{+path}`` before one with it, then the
    one with more characters outside of its braces, then the one that was registered first.

    Raises:
        InvalidParams: It is not a URI, or a variable leads out of where it stands: ``..``, an absolute path, a NUL.
    """
    try:
        uri = _lower_scheme(check_uri(uri, "the URI"))
    except ValueError as error:
        raise InvalidParams(str(error)) from None
    best: ResourceSpec | None = None
    found: dict[str, str] = {}
    for spec in list(resources.values()):
        if best is None or spec.template.rank < best.template.rank:
            matched = spec.template.match(uri)
            if matched is not None:
                best, found = spec, matched
    if best is None:
        return None
    return best, {name: _decoded(name, text) for name, text in found.items()}


def _decoded(name: str, text: str) -> str:
    problem = "is not percent-encoded; write %25 for a % itself" if _ENCODED.search(text) else None
    if problem is None:
        try:
            text = unquote_to_bytes(text).decode()
        except UnicodeDecodeError:
            problem = "is not UTF-8 once it is decoded"
    problem = problem or _leads_out(text)
    if problem is not None:
        raise InvalidParams(f"the URI's {{{name}}} {problem}")
    return text


def _leads_out(text: str) -> str | None:
    """Why a variable's text is refused whatever is made of it. Most become a part of a path."""
    if "\0" in text:
        return "holds a NUL"
    if ".." in re.split(r"[/\\]", text):
        return "holds '..', which leads out of where it stands"
    if text[:1] in ("/", "\\") or re.match(r"[A-Za-z]:[/\\]", text):
        return "is an absolute path; leave the first slash out"
    return None


def contents_of(spec: ResourceSpec, uri: str, returned: object) -> Contents:
    """What a resource returned, with its type.

    Raises:
        TypeError: It is neither a text, nor bytes, nor ``Contents``.
        ValueError: It is too large.
        EncodeError: It is a text with a lone surrogate.
    """
    if isinstance(returned, Contents):
        given = returned
    elif isinstance(returned, str | bytes):
        given = Contents(returned)
    else:
        raise TypeError(f"it returned a {type(returned).__name__}, and not str, bytes or Contents")
    to_json(given.data if isinstance(given.data, str) else "")
    return Contents(given.data, given.mime or spec.mime or mime_of(uri, given.data))


# --- a resource where the host knows tools only --------------------------------------------------------------------


def _as_tool(
    fn: Fn,
    name: str,
    description: str,
    title: str | None,
    icons: tuple[Icon, ...],
    signature: Signature,
    template: Template,
    mime: str | None,
) -> ToolSpec:
    """The tool that reads a resource: its arguments are the variables."""
    context, awaited = signature.context, is_async(fn)

    def prepared(values: dict[str, Any]) -> str:
        uri = _filled(template, {key: value for key, value in values.items() if key != context})
        if context is not None:
            values[context] = values[context].reading(uri)
        return uri

    async def read(**values: Any) -> object:
        uri = prepared(values)
        return _told(uri, await fn(**values), mime)

    def read_in_thread(**values: Any) -> object:
        uri = prepared(values)
        returned = fn(**values)
        return later(uri, returned) if isawaitable(returned) else _told(uri, returned, mime)

    async def later(uri: str, returned: Awaitable[Any]) -> object:
        return _told(uri, await returned, mime)

    check_name("tool", name, fn)
    stand_in = functools.update_wrapper(read if awaited else read_in_thread, fn)
    bind = signature.loading.bind
    spec = ToolSpec(
        fn=stand_in,
        name=name,
        description=description,
        parameters=signature.parameters,
        deferred=False,
        timeout=None,
        confirm=None,
        bind=bind,
        call=lambda arguments, given: stand_in(**bind(arguments), **({} if context is None else {context: given})),
        context=context,
        is_async=awaited,
        is_plain=False,
        is_alone=False,
        title=title,
        read_only=True,
        icons=icons,
        stands_for="resource",
    )
    check_sendable(spec.registration, f"tool {name!r}", fn)
    return spec


def _filled(template: Template, values: Mapping[str, Any]) -> str:
    """The URI with its variables filled in.

    Raises:
        ToolError: A value cannot stand there.
    """
    parts = [template.texts[0]]
    for variable, text in zip(template.variables, template.texts[1:], strict=True):
        plain = to_json(values[variable.name])
        value = plain if isinstance(plain, str) else dumps(plain).decode()
        problem = "is empty" if not value else _leads_out(value)
        if problem is not None:
            raise ToolError(f"{variable.name} {problem}")
        parts += [quote(value, safe="/" if variable.is_path else ""), text]
    return "".join(parts)


def _told(uri: str, returned: object, mime: str | None) -> object:
    """The tool's result: a text as it is, bytes as what a host may show."""
    if isinstance(returned, str):
        return returned
    given = returned if isinstance(returned, Contents) else None
    data = returned if given is None else given.data
    if isinstance(data, str):
        return data
    if not isinstance(data, bytes):
        raise ToolError(
            f"{uri} cannot be read: it returned a {type(returned).__name__}, and not str, bytes or Contents"
        )
    return EmbeddedResource(uri, data, (None if given is None else given.mime) or mime)

"""Rich results: images, sounds, links to resources, and the messages of a prompt. Pure functions and values.

A handler returns one of them, or a list of them and of texts. ``blocks_of`` has the neutral form, plain JSON data with
the words of MCP, which most hosts of agents know; ``shown`` is what a host gets that knows texts only. Nothing imports
this module at start: while no module has, no value can be of one of its classes (see ``results.rich``).
"""

from __future__ import annotations

import base64
import mimetypes
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

from sepkit.wire.frames import dumps
from sepkit.wire.writing import to_json

MOST_BYTES: Final = 32 * 1024 * 1024
"""How large an image, a sound or the content of a resource may be: 32 MiB, which are 43 MiB on the wire."""
MOST_IN_DETAILS: Final = 48_000
"""How many bytes of blocks a host gets in the details of a result: some hosts end at a line of over 64 KiB."""
_LONGEST_URI: Final = 8192

Role = Literal["user", "assistant"]


class _Value:
    """A value with fields: they are compared and shown."""

    __slots__: tuple[str, ...] = ()
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Value) and type(other) is type(self) and self._fields() == other._fields()

    def __repr__(self) -> str:
        shown = (f"{name}={_short(value)}" for name, value in self._fields().items() if value not in (None, []))
        return f"{type(self).__name__}({', '.join(shown)})"

    def _fields(self) -> dict[str, Any]:
        names = [name for cls in reversed(type(self).__mro__) for name in getattr(cls, "__slots__", ())]
        return {name: getattr(self, name) for name in names}


def _short(value: object) -> str:
    if isinstance(value, bytes) and len(value) > 20:
        return f"<{len(value):,} bytes>"
    return repr(value)


class Content(_Value):
    """A part of a result that is more than text."""

    __slots__ = ()


class _Media(Content):
    __slots__ = ("data", "mime")

    _kind: ClassVar[str]

    def __init__(self, data: bytes | bytearray | memoryview, mime: str | None = None) -> None:
        name = type(self).__name__
        given: object = data
        if not isinstance(given, bytes | bytearray | memoryview):
            hint = f"; {name}.file(path) reads a file" if isinstance(given, str | os.PathLike) else ""
            raise TypeError(f"{name} takes bytes, not {type(given).__name__}{hint}")
        self.data: Final = bytes(given)
        """The file's content."""
        _check_size(self.data, name)
        self.mime: Final[str] = _checked_mime(name, mime) or self._guessed()
        """Its type, such as ``image/png``."""

    def _guessed(self) -> str:
        mime = _mime_of_bytes(self.data)
        if mime is None or not mime.startswith(f"{self._kind}/"):
            name = type(self).__name__
            raise ValueError(f"{name}: these bytes do not say what type they are; write {name}(data, '{self._kind}/…')")
        return mime


class Image(_Media):
    """A picture as a tool's result: ``Image(data)``, ``Image(data, "image/png")`` or ``Image.file(path)``.

    Args:
        data: The file's content, at most 32 MiB.
        mime: Its type; told from its first bytes where it is not given.

    Raises:
        TypeError: ``data`` is not bytes.
        ValueError: It is too large, or its type cannot be told.
    """

    __slots__ = ()
    _kind = "image"

    @classmethod
    def file(cls, path: str | os.PathLike[str], mime: str | None = None) -> Image:
        """A picture in a file. It is read at once: in an ``async def`` handler call it by ``asyncio.to_thread``.

        Raises:
            OSError: The file cannot be read.
            ValueError: It is too large, or its type cannot be told.
        """
        return cls(*_read(cls, path, mime))


class Audio(_Media):
    """A sound as a tool's result: ``Audio(data)``, ``Audio(data, "audio/wav")`` or ``Audio.file(path)``.

    Args:
        data: The file's content, at most 32 MiB.
        mime: Its type; told from its first bytes where it is not given.

    Raises:
        TypeError: ``data`` is not bytes.
        ValueError: It is too large, or its type cannot be told.
    """

    __slots__ = ()
    _kind = "audio"

    @classmethod
    def file(cls, path: str | os.PathLike[str], mime: str | None = None) -> Audio:
        """A sound in a file. It is read at once: in an ``async def`` handler call it by ``asyncio.to_thread``.

        Raises:
            OSError: The file cannot be read.
            ValueError: It is too large, or its type cannot be told.
        """
        return cls(*_read(cls, path, mime))


class ResourceLink(Content):
    """A resource that the model may read, as a part of a tool's result: its URI and what is known of it.

    Args:
        uri: Where it is; a resource of this App, or anything that the host can read.
        name: What it is called; the URI's last part by default.
        title: What people read.
        description: What the model is told of it.
        mime: Its type; told from the URI's end where it is not given.
        size: How many bytes it has.

    Raises:
        ValueError: ``uri`` is not a URI.
    """

    __slots__ = ("description", "mime", "name", "size", "title", "uri")

    def __init__(
        self,
        uri: str,
        name: str | None = None,
        *,
        title: str | None = None,
        description: str | None = None,
        mime: str | None = None,
        size: int | None = None,
    ) -> None:
        self.uri: Final = check_uri(uri, "ResourceLink")
        self.name: Final = _text_or_none("ResourceLink", "name", name) or uri.rstrip("/").rpartition("/")[2] or uri
        self.title: Final = _text_or_none("ResourceLink", "title", title)
        self.description: Final = _text_or_none("ResourceLink", "description", description)
        self.mime: Final = _checked_mime("ResourceLink", mime) or mime_of_name(uri)
        self.size: Final = size


class EmbeddedResource(Content):
    """The content of a resource, as a part of a tool's result.

    Args:
        uri: Where it is.
        data: Its content: text, or bytes; at most 32 MiB.
        mime: Its type; told from the URI's end or the first bytes where it is not given.

    Raises:
        TypeError: ``data`` is neither text nor bytes.
        ValueError: ``uri`` is not a URI, or it is too large.
    """

    __slots__ = ("data", "mime", "uri")

    def __init__(self, uri: str, data: str | bytes, mime: str | None = None) -> None:
        self.uri: Final = check_uri(uri, "EmbeddedResource")
        self.data: Final = _checked_data("EmbeddedResource", data)
        self.mime: Final[str] = _checked_mime("EmbeddedResource", mime) or mime_of(uri, self.data)


class Contents(_Value):
    """What ``@app.resource`` returns where text or bytes alone do not say its type.

    Args:
        data: The content: text, or bytes; at most 32 MiB.
        mime: Its type, such as ``text/markdown``; by default the resource's, else told from its URI or its first bytes.

    Raises:
        TypeError: ``data`` is neither text nor bytes.
        ValueError: It is too large.
    """

    __slots__ = ("data", "mime")

    def __init__(self, data: str | bytes, mime: str | None = None) -> None:
        self.data: Final = _checked_data("Contents", data)
        self.mime: Final = _checked_mime("Contents", mime)

    @property
    def text(self) -> str:
        """The content as text; bytes must be UTF-8.

        Raises:
            UnicodeDecodeError: They are not.
        """
        return self.data if isinstance(self.data, str) else self.data.decode()


class PromptMessage(_Value):
    """A message of a prompt.

    Args:
        content: A text, or a rich part such as ``Image``.
        role: Who says it: ``"user"`` or ``"assistant"``.

    Raises:
        TypeError: ``content`` is something else.
        ValueError: There is no such role.
    """

    __slots__ = ("content", "role")

    def __init__(self, content: str | Content, role: Role = "user") -> None:
        given: object = content
        if not isinstance(given, str | Content):
            raise TypeError(
                f"PromptMessage takes a str, or a part such as Image or EmbeddedResource, not {type(given).__name__}"
            )
        if role not in ("user", "assistant"):
            raise ValueError(f"PromptMessage: role={role!r}: write 'user' or 'assistant'")
        self.content: Final = content
        self.role: Final[Role] = role


class Icon(_Value):
    """A picture that a host may show beside a name.

    Args:
        src: Where it is: a URL with ``https:``, ``http:`` or ``data:``. ``Icon.file(path)`` makes one of a small file.
        mime: Its type.
        sizes: Its sizes, such as ``["48x48"]`` or ``["any"]``.
        theme: The background that it is made for: ``"light"`` or ``"dark"``.

    Raises:
        ValueError: One of them is something else.
    """

    __slots__ = ("mime", "sizes", "src", "theme")

    def __init__(
        self,
        src: str,
        *,
        mime: str | None = None,
        sizes: Sequence[str] = (),
        theme: Literal["light", "dark"] | None = None,
    ) -> None:
        given: object = src
        if not isinstance(given, str) or not given.startswith(("https://", "http://", "data:")):
            raise ValueError(
                f"an icon is a URL with https: or data:, not {_cut(given)}; Icon.file(path) makes one of a file"
            )
        if isinstance(sizes, str) or not all(isinstance(one, str) for one in sizes):
            raise ValueError(f"Icon: sizes={sizes!r}: write a list, as in ['48x48']")
        if theme not in (None, "light", "dark"):
            raise ValueError(f"Icon: theme={theme!r}: write 'light' or 'dark'")
        self.src: Final = src
        self.mime: Final = _checked_mime("Icon", mime)
        self.sizes: Final = list(sizes)
        self.theme: Final = theme

    @classmethod
    def file(cls, path: str | os.PathLike[str], *, mime: str | None = None) -> Icon:
        """An icon in a file of at most 64 KiB, sent as a ``data:`` URL.

        Raises:
            OSError: The file cannot be read.
            ValueError: It is too large, or its type cannot be told.
        """
        with Path(path).open("rb") as file:
            data = file.read(65_537)
        if len(data) > 65_536:
            raise ValueError(f"{os.fspath(path)}: an icon in a file has at most 64 KiB; give its URL instead")
        found = _checked_mime("Icon", mime) or mime_of_name(os.fspath(path)) or _mime_of_bytes(data)
        if found is None:
            raise ValueError(f"{os.fspath(path)}: what type of picture it is cannot be told; write mime='image/…'")
        return cls(f"data:{found};base64,{base64.b64encode(data).decode()}", mime=found)

    def as_json(self) -> dict[str, Any]:
        """As JSON data: ``{"src", "mimeType"?, "sizes"?, "theme"?}``."""
        fields = {"src": self.src, "mimeType": self.mime, "sizes": self.sizes or None, "theme": self.theme}
        return {name: value for name, value in fields.items() if value is not None}


def icons_of(given: object, what: str) -> list[Icon]:
    """What an author gave as ``icons=``: URLs and icons.

    Raises:
        ValueError: It is something else; the text begins with ``what``.
    """
    if isinstance(given, str | Icon) or not isinstance(given, Iterable):
        raise ValueError(f"{what}: icons= takes a list of URLs and of Icon(…), not {_cut(given)}")
    made = []
    for one in given:
        try:
            made.append(one if isinstance(one, Icon) else Icon(one))
        except ValueError as error:
            raise ValueError(f"{what}: {error}") from None
    return made


# --- results -------------------------------------------------------------------------------------------------------

Part = str | Content


def parts_of(value: object) -> list[Part] | None:
    """The parts of a result in which something is rich; None where nothing is.

    Of a list, each item that is not a part is its JSON text. Messages of a prompt are their contents, with a line
    before each that says whose it is where the user does not say all of them.

    Raises:
        EncodeError: An item has no form in JSON.
    """
    if isinstance(value, Content):
        return [value]
    if isinstance(value, PromptMessage):
        return [value.content]
    if not isinstance(value, list | tuple) or not any(isinstance(one, Content | PromptMessage) for one in value):
        return None
    said = {one.role for one in value if isinstance(one, PromptMessage)}
    parts: list[Part] = []
    for number, one in enumerate(value):
        if isinstance(one, PromptMessage):
            if said != {"user"}:
                parts.append(f"{one.role}:")
            parts.append(one.content)
        elif isinstance(one, str | Content):
            parts.append(one)
        elif one is not None:
            plain = to_json(one, f"$[{number}]")
            parts.append(plain if isinstance(plain, str) else dumps(plain).decode())
    return parts


def blocks_of(parts: Iterable[Part]) -> list[dict[str, Any]]:
    """The neutral form of parts: each a JSON object with a ``type``.

    ======================  ========================================================================================
    a text                  ``{"type": "text", "text"}``
    ``Image``, ``Audio``    ``{"type": "image" or "audio", "data", "mimeType"}``, the data in base64
    ``ResourceLink``        ``{"type": "resource_link", "uri", "name", "title"?, "description"?, "mimeType"?, "size"?}``
    ``EmbeddedResource``    ``{"type": "resource", "resource": {"uri", "mimeType", "text" or "blob"}}``
    ======================  ========================================================================================

    Raises:
        EncodeError: A text has a lone surrogate.
    """
    return [_block(part, index) for index, part in enumerate(parts)]


def _block(part: Part, index: int) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": to_json(part, f"$[{index}]")}
    if isinstance(part, _Media):
        return {"type": part._kind, "data": base64.b64encode(part.data).decode(), "mimeType": part.mime}
    if isinstance(part, EmbeddedResource):
        return {"type": "resource", "resource": contents_block(part.uri, part.data, part.mime)}
    assert isinstance(part, ResourceLink)
    fields = {
        "uri": part.uri,
        "name": part.name,
        "title": part.title,
        "description": part.description,
        "mimeType": part.mime,
        "size": part.size,
    }
    found = {name: value for name, value in fields.items() if value is not None}
    return {"type": "resource_link", **to_json(found, f"$[{index}]")}


def contents_block(uri: str, data: str | bytes, mime: str | None) -> dict[str, Any]:
    """The content of a resource as JSON data: ``{"uri", "mimeType"?, "text" or "blob"}``, the blob in base64.

    Raises:
        EncodeError: The text has a lone surrogate.
    """
    block: dict[str, Any] = {"uri": uri}
    if mime is not None:
        block["mimeType"] = mime
    if isinstance(data, str):
        block["text"] = to_json(data, "$.text")
    else:
        block["blob"] = base64.b64encode(data).decode()
    return block


def shown(parts: Sequence[Part]) -> tuple[str, dict[str, Any] | None]:
    """What a host gets that takes a text and details only.

    Returns:
        The text, in which a placeholder stands for each part that is not text; and ``{"content": blocks}`` with those
        parts, at most 48,000 bytes. A block whose data did not fit has ``omitted`` in its place, and the placeholder
        says so; of blocks that did not fit at all, ``{"omitted": 3}`` beside the others says how many.

    Raises:
        EncodeError: A text has a lone surrogate.
    """
    lines: list[str] = []
    blocks: list[dict[str, Any]] = []
    left, omitted = MOST_IN_DETAILS, 0
    for part, block in zip(parts, blocks_of(parts), strict=True):
        if isinstance(part, str):
            lines.append(part)
            continue
        size = len(dumps(block))
        lost = size > left
        if lost:
            holder = block.get("resource", block)
            for name in ("data", "blob", "text"):
                if holder.pop(name, None) is not None:
                    holder["omitted"] = name
            size = len(dumps(block))
        if size <= left:
            blocks.append(block)
            left -= size
        else:
            omitted += 1
        lines.append(placeholder(part, lost=lost))
    text = "\n".join(lines)
    if not blocks and not omitted:
        return text, None
    return text, {"content": blocks, **({"omitted": omitted} if omitted else {})}


def placeholder(part: Content, *, lost: bool = False) -> str:
    """The text that stands for a part where a host does not take it; ``lost`` where it is too large."""
    if isinstance(part, ResourceLink):
        about = f" ({part.description})" if part.description else ""
        return f"[{part.title or part.name}: {part.uri}]{about}"
    note = "; not sent: this host takes no results of this size" if lost else ""
    if isinstance(part, EmbeddedResource):
        if isinstance(part.data, str):
            return f"[{part.uri}]\n{part.data}"
        return f"[{part.uri}: {part.mime}, {len(part.data):,} bytes{note}]"
    assert isinstance(part, _Media)
    return f"[{part._kind}: {part.mime}, {len(part.data):,} bytes{note}]"


def text_of(value: object) -> str | None:
    """What a command returned, as the text that is shown; None where it returned nothing.

    A render block's ``text`` is its text. Of a ``ToolResult`` give its content.

    Raises:
        EncodeError: It has no form in JSON.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Mapping) and isinstance(value.get("kind"), str) and isinstance(value.get("text"), str):
        return str(value["text"])
    parts = parts_of(value)
    if parts is not None:
        return shown(parts)[0]
    plain = to_json(value)
    return plain if isinstance(plain, str) else dumps(plain).decode()


def messages_of(value: object, what: str) -> list[PromptMessage]:
    """What a prompt returned, as its messages.

    A text or a rich part is a message of the user; of a list each item is one; None is none at all.

    Raises:
        TypeError: It is something else.
    """
    if value is None:
        return []
    found: Sequence[Any] = value if isinstance(value, list | tuple) else [value]
    for one in found:
        if not isinstance(one, str | Content | PromptMessage):
            raise TypeError(f"{what} returns a str, PromptMessages or a list of them, not {type(one).__name__}")
    return [one if isinstance(one, PromptMessage) else PromptMessage(one) for one in found]


def message_block(message: PromptMessage) -> dict[str, Any]:
    """A message of a prompt as JSON data: ``{"role", "content": block}``.

    Raises:
        EncodeError: A text has a lone surrogate.
    """
    return {"role": message.role, "content": blocks_of([message.content])[0]}


# --- types of files ------------------------------------------------------------------------------------------------

_MAGIC: Final[tuple[tuple[int, bytes, str], ...]] = (
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"GIF87a", "image/gif"),
    (0, b"GIF89a", "image/gif"),
    (8, b"WEBP", "image/webp"),
    (0, b"BM", "image/bmp"),
    (0, b"II*\0", "image/tiff"),
    (0, b"MM\0*", "image/tiff"),
    (4, b"ftypavif", "image/avif"),
    (4, b"ftypheic", "image/heic"),
    (8, b"WAVE", "audio/wav"),
    (0, b"ID3", "audio/mpeg"),
    (0, b"\xff\xfb", "audio/mpeg"),
    (0, b"\xff\xf3", "audio/mpeg"),
    (0, b"OggS", "audio/ogg"),
    (0, b"fLaC", "audio/flac"),
    (4, b"ftypM4A", "audio/mp4"),
    (0, b"%PDF-", "application/pdf"),
    (0, b"PK\x03\x04", "application/zip"),
)
# The registered names, where `mimetypes` has older ones.
_BETTER: Final = {"audio/x-wav": "audio/wav", "audio/x-flac": "audio/flac", "audio/x-m4a": "audio/mp4"}
# The system's own tables are not read: what a name means must be the same on every machine.
_BY_NAME: Final = mimetypes.MimeTypes()
for _ending, _mime in ((".md", "text/markdown"), (".webp", "image/webp"), (".avif", "image/avif")):
    _BY_NAME.add_type(_mime, _ending)
for _ending, _mime in ((".flac", "audio/flac"), (".ogg", "audio/ogg"), (".yaml", "application/yaml")):
    _BY_NAME.add_type(_mime, _ending)


def mime_of_name(name: str) -> str | None:
    """The type that the end of a path or a URI says; None where it says none."""
    found, encoding = _BY_NAME.guess_type(name.partition("?")[0].partition("#")[0].replace(":", "/"))
    return None if encoding is not None or found is None else _BETTER.get(found, found)


def _mime_of_bytes(data: bytes) -> str | None:
    for at, magic, mime in _MAGIC:
        if data.startswith(magic, at) and (at != 8 or data.startswith(b"RIFF")):
            return mime
    head = data[:512].lstrip().lower()
    if head.startswith(b"<svg") or (head.startswith(b"<?xml") and b"<svg" in head):
        return "image/svg+xml"
    return None


def mime_of(uri: str, data: str | bytes) -> str:
    """The type of a resource's content: what its URI says, else its first bytes, else that it is text or not."""
    if isinstance(data, str):
        return mime_of_name(uri) or "text/plain"
    return mime_of_name(uri) or _mime_of_bytes(data) or "application/octet-stream"


# --- what is checked -----------------------------------------------------------------------------------------------


def check_uri(uri: object, what: str) -> str:
    """``uri`` itself, if it is one: a scheme, a colon, and printable ASCII after it.

    Raises:
        ValueError: It is not; the text begins with ``what``.
    """
    if not isinstance(uri, str):
        raise ValueError(f"{what}: a URI is a text, not {type(uri).__name__}")
    if len(uri) > _LONGEST_URI:
        raise ValueError(f"{what}: a URI has at most {_LONGEST_URI:,} characters, not {len(uri):,}")
    scheme, colon, rest = uri.partition(":")
    plain = scheme.replace("+", "").replace("-", "").replace(".", "")
    if not (colon and rest and plain.isalnum() and scheme[0].isalpha() and uri.isascii() and uri.isprintable()):
        raise ValueError(f"{what}: {_cut(uri)} is not a URI; write a scheme first, as in note://1, and %20 for a space")
    if " " in uri:
        raise ValueError(f"{what}: {_cut(uri)} is not a URI; write %20 for a space")
    return uri


def _cut(value: object) -> str:
    shown = ascii(value)
    return shown if len(shown) <= 100 else f"{shown[:97]}…"


def _checked_mime(what: str, mime: object) -> str | None:
    if mime is None:
        return None
    if isinstance(mime, str) and mime.isascii() and mime.isprintable():
        kind, slash, rest = mime.partition("/")
        if slash and kind.strip() == kind != "" and rest.strip():
            return mime
    raise ValueError(f"{what}: mime={_cut(mime)}: write a type, as in 'text/plain'")


def _checked_data(what: str, data: object) -> str | bytes:
    if isinstance(data, str):
        if len(data) > MOST_BYTES // 4:  # a character may have 4 bytes
            _check_size(data.encode(errors="surrogatepass"), what)
        return data
    if isinstance(data, bytes | bytearray | memoryview):
        _check_size(made := bytes(data), what)
        return made
    raise TypeError(f"{what} takes a str or bytes, not {type(data).__name__}")


def _check_size(data: bytes, what: str) -> None:
    if len(data) > MOST_BYTES:
        raise ValueError(f"{what}: {len(data):,} bytes are too many; at most {MOST_BYTES:,}")


def _text_or_none(what: str, name: str, value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{what}: {name} is a text, not {type(value).__name__}")
    return value


def _read(cls: type[_Media], path: str | os.PathLike[str], mime: str | None) -> tuple[bytes, str | None]:
    with Path(path).open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise ValueError(f"{os.fspath(path)}: more than {MOST_BYTES:,} bytes; send a ResourceLink instead")
    return data, mime or _mime_of_bytes(data) or mime_of_name(os.fspath(path))

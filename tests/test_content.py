"""Rich results: what images, sounds, links and embedded resources are, in a neutral form and under SEP."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import sepkit
from sepkit import (
    App,
    Audio,
    EmbeddedResource,
    Icon,
    Image,
    PromptMessage,
    ResourceLink,
    ToolContext,
    ToolResult,
)
from sepkit.content import (
    MOST_BYTES,
    MOST_IN_DETAILS,
    Part,
    blocks_of,
    contents_block,
    message_block,
    messages_of,
    mime_of,
    mime_of_name,
    parts_of,
    shown,
)
from sepkit.errors import EncodeError, InternalError, RegistrationError
from sepkit.testing import TestHost
from tests.memory_host import on_each_loop

loose: Any = sepkit  # where a test gives what no type checker lets pass
PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)
WAV = b"RIFF\x24\0\0\0WAVEfmt "
PNG64 = base64.b64encode(PNG).decode()


# -- what they are made of ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "mime"),
    [
        (PNG, "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"GIF89a...", "image/gif"),
        (b"RIFF....WEBPVP8 ", "image/webp"),
        (b"BM....", "image/bmp"),
        (b"II*\0....", "image/tiff"),
        (b"....ftypavif", "image/avif"),
        (b'<?xml version="1.0"?>\n<svg xmlns=""/>', "image/svg+xml"),
        (b"  <SVG/>", "image/svg+xml"),
    ],
)
def test_the_type_of_a_picture_is_told_from_its_first_bytes(data: bytes, mime: str) -> None:
    assert Image(data).mime == mime
    assert Image(bytearray(data)).data == data
    assert Image(memoryview(data), "image/x-own").mime == "image/x-own"


@pytest.mark.parametrize(
    ("data", "mime"),
    [(WAV, "audio/wav"), (b"ID3\x03", "audio/mpeg"), (b"\xff\xfb\x90", "audio/mpeg"), (b"OggS", "audio/ogg")],
)
def test_the_type_of_a_sound_is_told_from_its_first_bytes(data: bytes, mime: str) -> None:
    assert Audio(data).mime == mime


def test_a_file_is_read_and_its_type_told(tmp_path: Path) -> None:
    """From its bytes, else from its name; what is too large is refused, and not read whole."""
    (tmp_path / "a.jpg").write_bytes(PNG)
    (tmp_path / "b.flac").write_bytes(b"?")
    (tmp_path / "c").write_bytes(b"?")
    assert Image.file(tmp_path / "a.jpg") == Image(PNG, "image/png")
    assert Audio.file(str(tmp_path / "b.flac")).mime == "audio/flac"
    assert Image.file(tmp_path / "c", "image/x").mime == "image/x"
    with pytest.raises(ValueError, match="these bytes do not say what type they are"):
        Image.file(tmp_path / "c")
    with pytest.raises(FileNotFoundError):
        Image.file(tmp_path / "missing.png")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(MOST_BYTES * 100)
    with pytest.raises(ValueError, match=r"large: more than 33,554,432 bytes; send a ResourceLink instead"):
        Image.file(tmp_path / "large", "image/png")


@pytest.mark.parametrize(
    ("make", "error", "problem"),
    [
        (lambda: loose.Image("a.png"), TypeError, r"Image takes bytes, not str; Image\.file\(path\) reads a file"),
        (lambda: loose.Image(Path("a.png")), TypeError, r"Image\.file\(path\) reads a file"),
        (lambda: loose.Audio(5), TypeError, "Audio takes bytes, not int"),
        (lambda: loose.Image(b""), ValueError, "do not say what type they are"),
        (lambda: loose.Image(WAV), ValueError, "do not say what type they are"),
        (lambda: loose.Image(PNG, "png"), ValueError, "mime='png': write a type, as in 'text/plain'"),
        (lambda: loose.Image(PNG, 5), ValueError, "mime=5"),
        (lambda: loose.Image(PNG, "image/\n"), ValueError, "write a type"),
        (lambda: loose.Image(bytes(MOST_BYTES + 1), "image/png"), ValueError, "33,554,433 bytes are too many"),
        (lambda: loose.ResourceLink("x"), ValueError, "'x' is not a URI"),
        (lambda: loose.ResourceLink("x:" + "y" * 9000), ValueError, "at most 8,192 characters"),
        (lambda: loose.ResourceLink("note://1", 5), TypeError, "name is a text, not int"),
        (lambda: loose.EmbeddedResource("note://1", 5), TypeError, "takes a str or bytes, not int"),
        (lambda: loose.EmbeddedResource("note://1", {"a": 1}), TypeError, "takes a str or bytes, not dict"),
        (lambda: loose.Contents(None), TypeError, "Contents takes a str or bytes, not NoneType"),
        (lambda: loose.Contents("x" * (MOST_BYTES + 1)), ValueError, "are too many"),
        (lambda: loose.PromptMessage(5), TypeError, "PromptMessage takes a str, or a part such as Image"),
        (lambda: loose.PromptMessage("x", "system"), ValueError, "role='system': write 'user' or 'assistant'"),
        (lambda: loose.Icon("a.png"), ValueError, r"an icon is a URL with https: or data:.*Icon\.file\(path\)"),
        (lambda: loose.Icon("https://x", sizes="48x48"), ValueError, r"write a list, as in \['48x48'\]"),
        (lambda: loose.Icon("https://x", theme="blue"), ValueError, "write 'light' or 'dark'"),
    ],
)
def test_what_does_not_fit_is_refused_where_it_is_made(make: Any, error: type[Exception], problem: str) -> None:
    with pytest.raises(error, match=problem) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_they_are_compared_and_shown_without_their_bytes() -> None:
    assert Image(PNG) == Image(PNG)
    assert Image(PNG) != Image(PNG, "image/x")
    assert Image(PNG, "image/png") != Audio(PNG, "image/png")
    assert repr(Image(PNG)) == "Image(data=<28 bytes>, mime='image/png')"
    assert repr(ResourceLink("note://1")) == "ResourceLink(name='1', uri='note://1')"
    assert repr(Icon("https://x/a.png")) == "Icon(src='https://x/a.png')"


@pytest.mark.parametrize(
    ("name", "mime"),
    [
        ("a.png", "image/png"),
        ("note://x/a.md?version=1#top", "text/markdown"),
        ("a.json", "application/json"),
        ("a.wav", "audio/wav"),
        ("a.tar.gz", None),
        ("a", None),
        ("x:a.webp", "image/webp"),
    ],
)
def test_a_name_says_the_same_on_every_machine(name: str, mime: str | None) -> None:
    assert mime_of_name(name) == mime


def test_the_type_of_content_is_that_of_the_uri_else_of_the_bytes() -> None:
    assert mime_of("x://a.csv", "a") == "text/csv"
    assert mime_of("x://a", "a") == "text/plain"
    assert mime_of("x://a", PNG) == "image/png"
    assert mime_of("x://a", b"%PDF-1.7") == "application/pdf"
    assert mime_of("x://a", b"?") == "application/octet-stream"


# -- the neutral form --------------------------------------------------------------------------------------------------

LINK = ResourceLink("note://7", "seven", title="Note 7", description="about", mime="text/plain", size=5)
PARTS: list[Part] = [
    "text",
    Image(PNG),
    Audio(WAV),
    LINK,
    EmbeddedResource("a:b.md", "# B"),
    EmbeddedResource("a:c", PNG),
]
BLOCKS = [
    {"type": "text", "text": "text"},
    {"type": "image", "data": PNG64, "mimeType": "image/png"},
    {"type": "audio", "data": base64.b64encode(WAV).decode(), "mimeType": "audio/wav"},
    {
        "type": "resource_link",
        "uri": "note://7",
        "name": "seven",
        "title": "Note 7",
        "description": "about",
        "mimeType": "text/plain",
        "size": 5,
    },
    {"type": "resource", "resource": {"uri": "a:b.md", "mimeType": "text/markdown", "text": "# B"}},
    {"type": "resource", "resource": {"uri": "a:c", "mimeType": "image/png", "blob": PNG64}},
]


def test_each_part_has_a_neutral_form() -> None:
    """Plain JSON data, in which a host that knows more than texts reads the same."""
    assert blocks_of(PARTS) == BLOCKS
    assert json.loads(json.dumps(BLOCKS)) == BLOCKS
    assert blocks_of([ResourceLink("note://a/b/")]) == [{"type": "resource_link", "uri": "note://a/b/", "name": "b"}]
    assert contents_block("a:b", b"x", None) == {"uri": "a:b", "blob": "eA=="}
    assert message_block(PromptMessage(Image(PNG), "assistant")) == {"role": "assistant", "content": BLOCKS[1]}
    assert Icon("https://x/a.png", mime="image/png", sizes=["any"], theme="dark").as_json() == {
        "src": "https://x/a.png",
        "mimeType": "image/png",
        "sizes": ["any"],
        "theme": "dark",
    }


def test_lists_are_mixed_with_texts_and_data() -> None:
    """What is no part is its JSON text; None is nothing; without a part it is an ordinary result."""
    assert parts_of([Image(PNG), "a", {"b": [1]}, 5, None, "c"]) == [Image(PNG), "a", '{"b":[1]}', "5", "c"]
    assert parts_of((LINK,)) == [LINK]
    assert parts_of(Image(PNG)) == [Image(PNG)]
    for value in (["a", "b"], [], "a", None, {"a": Image(PNG)}, [[Image(PNG)]]):
        assert parts_of(value) is None
    with pytest.raises(EncodeError, match=r"\$\[1\]: .*has no form in JSON"):
        parts_of([Image(PNG), object()])
    with pytest.raises(EncodeError, match=r"\$\[0\].*surrogate"):
        blocks_of(["\ud800"])


def test_an_icon_in_a_file_is_sent_as_a_url(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    icon = Icon.file(tmp_path / "a.png")
    assert icon == Icon(f"data:image/png;base64,{PNG64}", mime="image/png")
    (tmp_path / "b.png").write_bytes(bytes(65_537))
    with pytest.raises(ValueError, match="at most 64 KiB; give its URL instead"):
        Icon.file(tmp_path / "b.png")
    (tmp_path / "c").write_bytes(b"?")
    with pytest.raises(ValueError, match="what type of picture it is cannot be told"):
        Icon.file(tmp_path / "c")


def test_an_app_and_its_parts_take_icons() -> None:
    app = App("x", icons=["https://x/a.png", Icon("data:,x", theme="dark")])
    assert [icon.src for icon in app.icons] == ["https://x/a.png", "data:,x"]
    with pytest.raises(RegistrationError, match=r"App 'x': an icon is a URL with https: or data:, not 'a\.png'"):
        App("x", icons=["a.png"])
    with pytest.raises(RegistrationError, match=r"App 'x': icons= takes a list"):
        App("x", icons="https://x/a.png")
    with pytest.raises(RegistrationError, match=r"App 'x': icons= takes a list"):
        App("x", icons=5)  # type: ignore[arg-type]


# -- under SEP ---------------------------------------------------------------------------------------------------------


@on_each_loop
async def test_under_sep_a_placeholder_stands_for_each_part_and_the_data_is_in_the_details() -> None:
    """Async def and def, one part and a list, in tools and commands."""
    app = App("x")

    @app.tool
    async def everything() -> list[Any]:
        return list(PARTS)

    @app.tool
    def picture() -> Image:
        return Image(PNG)

    @app.tool
    async def linked(ctx: ToolContext) -> ResourceLink:
        return LINK

    @app.command
    async def show() -> list[Any]:
        return ["look:", Image(PNG)]

    async with TestHost(app) as host:
        answer = await host.call_tool("everything")
        assert answer.content == (
            "text\n[image: image/png, 28 bytes]\n[audio: audio/wav, 16 bytes]\n[Note 7: note://7] (about)\n"
            "[a:b.md]\n# B\n[a:c: image/png, 28 bytes]"
        )
        assert answer.details == {"content": BLOCKS[1:]}
        assert not answer.is_error
        answer = await host.call_tool("picture")
        assert (answer.content, answer.details) == ("[image: image/png, 28 bytes]", {"content": [BLOCKS[1]]})
        assert (await host.call_tool("linked")).content == "[Note 7: note://7] (about)"
        assert await host.run_command("show") == "look:\n[image: image/png, 28 bytes]"


def test_what_a_host_may_not_take_is_left_out_and_said_so() -> None:
    """The data of all parts together is bounded: some hosts end the session at a line of over 64 KiB."""
    small, large = Image(PNG), Image(bytes(MOST_IN_DETAILS), "image/png")
    assert shown(["a", "b"]) == ("a\nb", None)
    text, details = shown([small, large, small, EmbeddedResource("a:b", "y" * MOST_IN_DETAILS)])
    lines = text.splitlines()
    assert lines[1] == "[image: image/png, 48,000 bytes; not sent: this host takes no results of this size]"
    assert lines[0] == lines[2] == "[image: image/png, 28 bytes]"
    assert lines[4] == "y" * MOST_IN_DETAILS  # the text itself is content
    assert details is not None
    assert [block.get("omitted", block.get("resource", {}).get("omitted")) for block in details["content"]] == [
        None,
        "data",
        None,
        "text",
    ]
    text, details = shown([ResourceLink("note://x")] * 5000)
    assert details is not None
    assert text.count("[x: note://x]") == 5000  # what an author returns is never cut
    assert len(details["content"]) + details["omitted"] == 5000
    assert len(json.dumps(details)) < 64_000


async def _told(value: Any) -> tuple[str, bool]:
    app = App("x")

    @app.tool
    async def give() -> Any:
        return value

    async with TestHost(app) as host:
        answer = await host.call_tool("give")
        return answer.content, answer.is_error


@on_each_loop
async def test_what_has_no_form_is_one_sentence() -> None:
    """Parts within data, and texts that cannot be sent."""
    text, is_error = await _told({"a": Image(PNG)})
    assert is_error
    assert "$.a: a value of type sepkit.content.Image has no form in JSON" in text
    text, is_error = await _told([Image(PNG), object()])
    assert (is_error, "$[1]" in text) == (True, True)
    text, is_error = await _told([Image(PNG), "\ud800"])
    assert (is_error, "surrogate" in text) == (True, True)
    text, is_error = await _told([PromptMessage("a"), PromptMessage("b", "assistant")])
    assert (text, is_error) == ("user:\na\nassistant:\nb", False)
    with pytest.raises(TypeError, match="content must be a str"):
        ToolResult(Image(PNG))  # type: ignore[arg-type]


def test_what_a_prompt_returns_is_its_messages() -> None:
    """A text, a part, a message, or a list of them."""
    assert messages_of("a", "p") == [PromptMessage("a")]
    assert messages_of([Image(PNG), "b", PromptMessage("c", "assistant")], "p") == [
        PromptMessage(Image(PNG)),
        PromptMessage("b"),
        PromptMessage("c", "assistant"),
    ]
    assert messages_of(None, "p") == []
    for bad in (5, {"role": "user"}, [5], b"x"):
        with pytest.raises(TypeError, match="the prompt p returns a str, PromptMessages or a list of them, not"):
            messages_of(bad, "the prompt p")


def test_a_picture_crosses_a_process(tmp_path: Path) -> None:
    """``sepkit call --json`` prints the placeholder and the data; an unserved resource is named on stderr."""
    (tmp_path / "camera.py").write_text(
        "from sepkit import App, Image\n"
        "app = App('camera')\n"
        "@app.tool\n"
        "def shoot() -> list:\n"
        "    return ['done', Image(b'\\x89PNG\\r\\n\\x1a\\n')]\n"
        "@app.resource('camera://last')\n"
        "def last() -> bytes:\n"
        "    return b''\n"
    )
    command = [sys.executable, "-m", "sepkit", "call", "camera:app", "shoot", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    block = {"type": "image", "data": "iVBORw0KGgo=", "mimeType": "image/png"}
    assert json.loads(done.stdout) == {
        "content": "done\n[image: image/png, 8 bytes]",
        "details": {"content": [block]},
    }
    assert "not served, since SEP has no resources: camera://last" in done.stderr


@on_each_loop
async def test_a_command_that_returns_what_cannot_be_sent_fails() -> None:
    app = App("x")

    @app.command
    async def bad() -> Any:
        return [Image(PNG), object()]

    async with TestHost(app) as host:
        with pytest.raises(InternalError):
            await host.run_command("bad")

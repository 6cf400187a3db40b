"""Streams in the shapes that servers of the chat API were seen or reported to send, and what they come to.

Written for the tests. A case has what the server sends, the stream events that the host is told, and either nothing
more, since the result is what the events add up to, or the error that it ends with. ``alone`` says why the ``openai``
client does not read a stream, or reads something else.
"""

from __future__ import annotations

import json
from typing import Any, Final

import attrs

DONE: Final = "data: [DONE]\n\n"


@attrs.frozen
class Case:
    name: str
    body: str
    told: list[dict[str, Any]]
    error: dict[str, Any] | None = None
    says: str = ""  # a part of the error's message
    arguments: tuple[object, ...] | None = None  # in the result, where they are not the JSON of the pieces
    alone: str = ""
    kind: str = "text/event-stream"


CASES: Final[list[Case]] = []


def case(name: str, *parts: Any, told: list[dict[str, Any]], done: bool = True, **more: Any) -> None:
    """Add a case: JSON values, each as an event, and text, as it stands."""
    body = "".join(part if isinstance(part, str) else f"data: {json.dumps(part)}\n\n" for part in parts)
    CASES.append(Case(name, body + (DONE if done else ""), told, **more))


# -- what servers send -------------------------------------------------------------------------------------------------


def c(content: Any = None, finish: str | None = None, **delta: Any) -> dict[str, Any]:
    """A chunk with one choice."""
    if content is not None:
        delta["content"] = content
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def call(
    index: Any = ..., upstream_id: Any = ..., name: Any = ..., arguments: Any = ..., **more: Any
) -> dict[str, Any]:
    """A piece of a tool call; what is left out is not there."""
    function = {k: v for k, v in (("name", name), ("arguments", arguments)) if v is not ...}
    piece = {k: v for k, v in (("index", index), ("id", upstream_id)) if v is not ...}
    return {**piece, **({"function": function} if function else {}), **more}


def calls(*pieces: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return c(finish=finish, tool_calls=list(pieces))


def counts(prompt: Any, completion: Any, total: Any, **more: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total, **more}


def usage_chunk(usage: Any, **more: Any) -> dict[str, Any]:
    return {"choices": [], "usage": usage, **more}


STOP: Final = c(finish="stop")
CALLED: Final = c(finish="tool_calls")


# -- what the host is told ---------------------------------------------------------------------------------------------


def text(content: str) -> dict[str, Any]:
    return {"type": "Delta", "content": content}


def thought(content: str) -> dict[str, Any]:
    return {"type": "Reasoning", "content": content}


def start(index: int, call_id: str, name: str, **more: Any) -> dict[str, Any]:
    """A call begins; "*" is an id that the plugin made."""
    return {"type": "ToolCallStart", "index": index, "id": call_id, "name": name, **more}


def args(index: int, chunk: str) -> dict[str, Any]:
    return {"type": "ToolCallArgumentsDelta", "index": index, "arguments_chunk": chunk}


def used(prompt: int, completion: int, total: int, **more: Any) -> dict[str, Any]:
    return {"type": "Usage", **counts(prompt, completion, total), **more}


def done(reason: str = "stop") -> dict[str, Any]:
    return {"type": "Done", "finish_reason": reason}


HELLO: Final = [text("Hel"), text("lo"), done()]
BODY: Final = json.dumps(c("Hel")), json.dumps(c("lo")), json.dumps(STOP)
UPSTREAM_FAILED: Final = {"kind": "upstream_failed", "retryable": True}


def lines(*parts: str, end: str = "\n") -> str:
    return "".join(part + end for part in parts)


# -- framing -----------------------------------------------------------------------------------------------------------

case("plain", c("Hel"), c("lo"), STOP, told=HELLO)
for shown, end in (("crlf", "\r\n"), ("cr", "\r")):
    case(
        f"line ends {shown}",
        *(lines(f"data: {one}", "", end=end) for one in (*BODY, "[DONE]")),
        told=HELLO,
        done=False,
    )
case("mixed line ends", f"data: {BODY[0]}\r\n\ndata: {BODY[1]}\n\r\ndata: {BODY[2]}\r\n\r\n", told=HELLO)
case("byte-order mark", "\ufeff", c("Hel"), c("lo"), STOP, told=HELLO, alone="takes the mark for a part of a name")
case("comments", ": OPENROUTER PROCESSING\n\n", c("Hel"), ":\n\n: ping\n", c("lo"), STOP, told=HELLO)
case("no space behind the colon", *(f"data:{one}\n\n" for one in BODY), told=HELLO)
case("two spaces behind the colon", *(f"data:  {one}\n\n" for one in BODY), told=HELLO)
case(
    "ids and retry",
    "retry: 100\n\n",
    *(f"id: {n}\ndata: {one}\n\n" for n, one in enumerate(BODY)),
    told=HELLO,
    alone="parses an event without data",
)
case("named events", *(f"event: message\ndata: {one}\n\n" for one in BODY), told=HELLO)
case("events with a name of their own", *(f"event: chunk\ndata: {one}\n\n" for one in BODY), told=HELLO)
case("name behind the data", *(f"data: {one}\nevent: x\n\n" for one in BODY), told=HELLO)
case("unknown fields", "server: a\n", c("Hel"), "x-y: {}\n", c("lo"), STOP, told=HELLO)
case(
    "data in several lines",
    "".join(f"data: {line}\n" for line in json.dumps(c("Hel"), indent=1).split("\n")) + "\n",
    c("lo"),
    STOP,
    told=HELLO,
)
case("many blank lines", "\n\n\n", c("Hel"), "\n\n", c("lo"), "\n", STOP, told=HELLO)
case("empty data", "data:\n\n", c("Hel"), "data: \n\n", c("lo"), STOP, told=HELLO, alone="parses the empty data")
case("a ping", "event: ping\ndata: {}\n\n", c("Hel"), c("lo"), STOP, told=HELLO)
case("a typed ping", {"type": "ping"}, c("Hel"), c("lo"), STOP, told=HELLO)
case("a word that it is at work", {"status": "processing"}, c("Hel"), c("lo"), STOP, told=HELLO)
case(
    "a word about the queue",
    {"status": "queued", "message": "3 before you"},
    {"code": 0, "message": "ok"},
    {"status": 200, "message": "ok"},
    c("Hel"),
    c("lo"),
    STOP,
    told=HELLO,
)
case("no word that it is over", c("Hel"), c("lo"), STOP, told=HELLO, done=False)
case("no reason, but a word", c("Hel"), c("lo"), told=HELLO, alone="has no reason")
case("word without a blank line", c("Hel"), c("lo"), STOP, "data: [DONE]", told=HELLO, done=False)
case("word with blanks", c("Hel"), c("lo"), STOP, "data:  [DONE] \n\n", told=HELLO, done=False, alone="parses it")
case(
    "word in quotes", c("Hel"), c("lo"), STOP, 'data: "[DONE]"\n\n', told=HELLO, done=False, alone="a text is no chunk"
)
case("word with more", c("Hel"), c("lo"), STOP, "data: [DONE] bye\n\n", told=HELLO, done=False)
case("more behind the word", c("Hel"), c("lo"), STOP, DONE, c("more"), told=HELLO, done=False)
case("last event without end", c("Hel"), c("lo"), f"data: {BODY[2]}", told=HELLO, done=False, alone="drops it")
case("text beyond ASCII", c("Grüße, "), c("Zoë 👋 中"), STOP, told=[text("Grüße, "), text("Zoë 👋 中"), done()])
SEPARATORS: Final = "a\u2028b\x85c\x0cd"  # which end a line elsewhere
case(
    "separators of other standards",
    "data: " + json.dumps(c(SEPARATORS), ensure_ascii=False) + "\n\n",
    STOP,
    told=[text(SEPARATORS), done()],
)
case("escaped control characters", c("a\x00b\x0bc\nd"), STOP, told=[text("a\x00b\x0bc\nd"), done()])
case(
    "an emoji in two halves",
    c("a\ud83d"),
    c("\ude00b"),
    STOP,
    told=[text("a"), text("😀b"), done()],
    alone="gives the halves",
)
case("half an emoji", c("a\ud83d"), c("b"), STOP, told=[text("a"), text("\ufffdb"), done()], alone="gives the half")
case("half an emoji at the end", c("a\ud83d"), STOP, told=[text("a"), text("\ufffd"), done()], alone="gives the half")
case(
    "a number that is none",
    'data: {"choices": [{"index": 0, "delta": {"content": "a"}, "logprobs": NaN}]}\n\n',
    STOP,
    told=[text("a"), done()],
)
case(
    "JSON with blanks",
    'data:   { "choices" : [ { "index" : 0, "delta" : { "content" : "a" } } ] }  \n\n',
    STOP,
    told=[text("a"), done()],
)
case(
    "as JSON, not streamed",
    json.dumps({"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}]}),
    told=[text("a"), done()],
    done=False,
    kind="application/json",
    alone="expects a stream",
)
case(
    "as JSON, with a word behind",
    json.dumps({"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}]}),
    "\n\n",
    told=[text("a"), done()],
    alone="expects a stream",
)
case(
    "a JSON object in each line",
    "\n".join(BODY) + "\n",
    told=HELLO,
    done=False,
    kind="application/x-ndjson",
    alone="expects a stream",
)
case(
    "one chunk with all",
    {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": "stop"}]},
    told=[text("a"), done()],
)

# -- text, refusals and thoughts ---------------------------------------------------------------------------------------

case("role alone first", c("", role="assistant"), c("a"), STOP, told=[text("a"), done()])
case(
    "null content",
    {"choices": [{"index": 0, "delta": {"role": "assistant", "content": None}}]},
    c("a"),
    STOP,
    told=[text("a"), done()],
)
case(
    "null delta",
    {"choices": [{"index": 0, "delta": None}]},
    c("a"),
    STOP,
    told=[text("a"), done()],
    alone="has no delta there",
)
case("no choices", {"choices": []}, {"choices": None}, {}, c("a"), STOP, told=[text("a"), done()])
case(
    "Azure's first chunk",
    {"choices": [], "id": "", "model": "", "prompt_filter_results": [{"prompt_index": 0}]},
    c("a"),
    {"choices": [{"index": 0, "content_filter_results": {}, "finish_reason": None}]},
    STOP,
    told=[text("a"), done()],
    alone="has no delta there",
)
case(
    "index null and missing",
    {"choices": [{"index": None, "delta": {"content": "a"}}]},
    {"choices": [{"delta": {"content": "b"}, "finish_reason": "stop"}]},
    told=[text("a"), text("b"), done()],
    alone="tells choices apart by index",
)
case(
    "another choice",
    {"choices": [{"index": 1, "delta": {"content": "x"}}, {"index": 0, "delta": {"content": "a"}}]},
    STOP,
    told=[text("a"), done()],
)
case(
    "message beside delta",
    {"choices": [{"index": 0, "delta": {"content": "a"}, "message": {"content": "a"}}]},
    STOP,
    told=[text("a"), done()],
)
case(
    "message in place of delta",
    {"choices": [{"index": 0, "message": {"content": "a"}, "finish_reason": "stop"}]},
    told=[text("a"), done()],
    alone="has no delta there",
)
case(
    "text in parts",
    c([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]),
    STOP,
    told=[text("ab"), done()],
    alone="gives the parts",
)
case("refusal", c(refusal="No."), c(finish="stop", refusal=None), told=[text("No."), done()], alone="keeps it apart")
case(
    "reasoning_content",
    c(reasoning_content="hm"),
    c("a", reasoning_content=None),
    STOP,
    told=[thought("hm"), text("a"), done()],
)
case("reasoning", c("", reasoning="hm"), c("a"), STOP, told=[thought("hm"), text("a"), done()])
case(
    "reasoning under two names",
    c(reasoning="hm", reasoning_content="hm"),
    c("a"),
    STOP,
    told=[thought("hm"), text("a"), done()],
)
case(
    "thoughts among the parts",
    c([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]),
    c("a"),
    STOP,
    told=[thought("hm"), text("a"), done()],
    alone="gives the parts",
)
case("thought and text at once", c("a", reasoning_content="hm"), STOP, told=[thought("hm"), text("a"), done()])
case(
    "id and model",
    {**c("a"), "id": "r1", "model": "m1"},
    {**STOP, "id": "r2", "model": "m2"},
    told=[{"type": "Model", "name": "m1"}, {"type": "ResponseId", "id": "r1"}, text("a"), done()],
)
case(
    "id and model later",
    {**c("a"), "id": "", "model": ""},
    {**STOP, "id": "r2", "model": "m2"},
    told=[text("a"), {"type": "Model", "name": "m2"}, {"type": "ResponseId", "id": "r2"}, done()],
)
case("id and model of another type", {**c("a"), "id": 5, "model": None}, STOP, told=[text("a"), done()])
case("nothing said", STOP, told=[done()])

# -- tool calls --------------------------------------------------------------------------------------------------------

LOOK: Final = [start(0, "c0", "look"), args(0, '{"at"'), args(0, ":1}"), done("tool_calls")]
case(
    "one call",
    calls(call(0, "c0", "look", "", type="function")),
    calls(call(0, arguments='{"at"')),
    calls(call(0, arguments=":1}")),
    CALLED,
    told=LOOK,
)
case(
    "one call at once",
    calls(call(0, "c0", "look", '{"at":1}'), finish="tool_calls"),
    told=[start(0, "c0", "look"), args(0, '{"at":1}'), done("tool_calls")],
)
case(
    "nulls in the pieces",
    calls(call(0, "c0", "look", None)),
    calls(call(0, None, None, '{"at"', type=None)),
    calls(call(0, None, None, ":1}")),
    calls({"index": 0, "id": None, "function": None}),
    CALLED,
    told=LOOK,
)
case(
    "empty strings in the pieces",
    calls(call(0, "c0", "look", "")),
    calls(call(0, "", "", '{"at"')),
    calls(call(0, "", "", ":1}")),
    CALLED,
    told=LOOK,
)
case(
    "id and name in each piece",
    calls(call(0, "c0", "look", '{"at"')),
    calls(call(0, "c0", "look", ":1}")),
    CALLED,
    told=LOOK,
    alone="writes them twice",
)
case(
    "name in each piece",
    calls(call(0, "c0", "look", '{"at"')),
    calls(call(0, name="look", arguments=":1}")),
    calls(call(0, name="look", arguments="")),
    CALLED,
    told=LOOK,
    alone="writes it twice",
)
case(
    "name in pieces",
    calls(call(0, "c0", "lo")),
    calls(call(0, name="ok")),
    calls(call(0, arguments="{}")),
    CALLED,
    told=[start(0, "c0", "lo"), start(0, "c0", "look"), args(0, "{}"), done("tool_calls")],
)
case(
    "id behind the name",
    calls(call(0, name="look")),
    calls(call(0, "c0", arguments='{"at"')),
    calls(call(0, arguments=":1}")),
    CALLED,
    told=[start(0, "*", "look"), *LOOK[1:]],
    alone="takes the id when it comes",
)
case(
    "name behind the arguments",
    calls(call(0, "c0", arguments='{"at"')),
    calls(call(0, name="look", arguments=":1}")),
    CALLED,
    told=LOOK,
)
case("without arguments", calls(call(0, "c0", "look")), CALLED, told=[LOOK[0], done("tool_calls")])
case(
    "arguments of blanks",
    calls(call(0, "c0", "look", " \n")),
    CALLED,
    told=[LOOK[0], args(0, " \n"), done("tool_calls")],
    arguments=({},),
)
case(
    "arguments as an object",
    calls(call(0, "c0", "look", {"at": 1})),
    CALLED,
    told=[LOOK[0], args(0, '{"at": 1}'), done("tool_calls")],
    alone="cannot add an object to text",
)
case(
    "an empty object first",
    calls(call(0, "c0", "look", {})),
    calls(call(0, arguments='{"at"')),
    calls(call(0, arguments=":1}")),
    CALLED,
    told=LOOK,
)
BOTH: Final = [start(0, "c0", "look"), args(0, "{}"), start(1, "c1", "list"), args(1, '{"a":2}'), done("tool_calls")]
case("two calls", calls(call(0, "c0", "look", "{}")), calls(call(1, "c1", "list", '{"a":2}')), CALLED, told=BOTH)
case("two calls in one chunk", calls(call(0, "c0", "look", "{}"), call(1, "c1", "list", '{"a":2}')), CALLED, told=BOTH)
case(
    "two calls, interleaved",
    calls(call(0, "c0", "look")),
    calls(call(1, "c1", "list")),
    calls(call(1, arguments='{"a'), call(0, arguments="{")),
    calls(call(0, arguments="}"), call(1, arguments='":2}')),
    CALLED,
    told=[
        start(0, "c0", "look"),
        start(1, "c1", "list"),
        args(1, '{"a'),
        args(0, "{"),
        args(0, "}"),
        args(1, '":2}'),
        done("tool_calls"),
    ],
)
case("indices from 1", calls(call(1, "c0", "look", "{}")), calls(call(2, "c1", "list", '{"a":2}')), CALLED, told=BOTH)
case(
    "indices with gaps", calls(call(3, "c0", "look", "{}")), calls(call(7, "c1", "list", '{"a":2}')), CALLED, told=BOTH
)
case(
    "indices downwards",
    calls(call(1, "c0", "look", "{}")),
    calls(call(0, "c1", "list", '{"a":2}')),
    CALLED,
    told=BOTH,
    alone="sorts by index",
)
case(
    "index 0 for each",
    calls(call(0, "c0", "look", "{}")),
    calls(call(0, "c1", "list", '{"a":2}')),
    CALLED,
    told=BOTH,
    alone="makes one of them",
)
case(
    "index -1 for each",
    calls(call(-1, "c0", "look", "{}")),
    calls(call(-1, "c1", "list", '{"a":2}')),
    CALLED,
    told=BOTH,
    alone="makes one of them",
)
NO_INDEX: Final = "needs an index"
case(
    "no index",
    calls(call(..., "c0", "look", "{}")),
    calls(call(..., "c1", "list", '{"a":2}')),
    CALLED,
    told=BOTH,
    alone=NO_INDEX,
)
case(
    "no index, in one chunk",
    calls(call(..., "c0", "look", "{}"), call(..., "c1", "list", '{"a":2}')),
    CALLED,
    told=BOTH,
    alone=NO_INDEX,
)
case(
    "no index, in pieces",
    calls(call(..., "c0", "look", "")),
    calls(call(arguments="{}")),
    calls(call(..., "c1", "list", '{"a"')),
    calls(call(arguments=":2}")),
    CALLED,
    told=[*BOTH[:3], args(1, '{"a"'), args(1, ":2}"), done("tool_calls")],
    alone=NO_INDEX,
)
ANONYMOUS: Final = [start(0, "*", "look"), args(0, "{}"), start(1, "*", "list"), args(1, '{"a":2}'), done("tool_calls")]
case(
    "neither index nor id",
    calls(call(name="look", arguments="{}")),
    calls(call(name="list", arguments='{"a":2}')),
    CALLED,
    told=ANONYMOUS,
    alone=NO_INDEX,
)
case(
    "neither index nor id, in one chunk",
    calls(call(name="look", arguments="{}"), call(name="list", arguments='{"a":2}')),
    CALLED,
    told=ANONYMOUS,
    alone=NO_INDEX,
)
case(
    "neither index nor id, one tool twice",
    calls(call(name="look", arguments='{"a":1}')),
    calls(call(name="look", arguments='{"a":2}')),
    CALLED,
    told=[start(0, "*", "look"), args(0, '{"a":1}'), start(1, "*", "look"), args(1, '{"a":2}'), done("tool_calls")],
    alone=NO_INDEX,
)
case(
    "neither index nor id, one tool twice in one chunk",
    calls(call(name="look", arguments='{"a":1}'), call(name="look", arguments='{"a":1}')),
    CALLED,
    told=[start(0, "*", "look"), args(0, '{"a":1}'), start(1, "*", "look"), args(1, '{"a":1}'), done("tool_calls")],
    alone=NO_INDEX,
)
case(
    "neither index nor id nor arguments",
    calls(call(name="look")),
    calls(call(name="list")),
    CALLED,
    told=[start(0, "*", "look"), start(1, "*", "list"), done("tool_calls")],
    alone=NO_INDEX,
)
case(
    "neither index nor id, in pieces",
    calls(call(name="look"), call(name="list")),
    calls(call(arguments="{"), call(arguments='{"a"')),
    calls(call(arguments="}"), call(arguments=":2}")),
    CALLED,
    told=[
        start(0, "*", "look"),
        start(1, "*", "list"),
        args(0, "{"),
        args(1, '{"a"'),
        args(0, "}"),
        args(1, ":2}"),
        done("tool_calls"),
    ],
    alone=NO_INDEX,
)
case(
    "index 0 for each and no id",
    calls(call(0, name="look", arguments="{}")),
    calls(call(0, name="list", arguments='{"a":2}')),
    CALLED,
    told=ANONYMOUS,
    alone="makes one of them",
)
case(
    "one id for all",
    calls(call(0, "x", "look", "{}"), call(1, "x", "list", '{"a"')),
    calls(call(1, "x", "", ":2}")),
    CALLED,
    told=[
        start(0, "x", "look"),
        args(0, "{}"),
        start(1, "*", "list"),
        args(1, '{"a"'),
        args(1, ":2}"),
        done("tool_calls"),
    ],
    alone="keeps the id twice",
)
case(
    "ids that are empty",
    calls(call(0, "", "look", "{}")),
    calls(call(1, "", "list", '{"a":2}')),
    CALLED,
    told=ANONYMOUS,
    alone="keeps them empty",
)
NOT_JSON: Final = '{"at": <here>}'
case(
    "arguments that are not JSON",
    c("Looking."),
    calls(call(0, "c0", "look", NOT_JSON)),
    CALLED,
    told=[text("Looking."), LOOK[0], args(0, NOT_JSON), done("tool_calls")],
    arguments=(NOT_JSON,),
)
case(
    "arguments in Python's words",
    calls(call(0, "c0", "look", "{'at': True}"), call(1, "c1", "list", "{}")),
    CALLED,
    told=[LOOK[0], args(0, "{'at': True}"), start(1, "c1", "list"), args(1, "{}"), done("tool_calls")],
    arguments=("{'at': True}", {}),
)
case(
    "arguments twice",
    calls(call(0, "c0", "look", "{}")),
    calls(call(0, arguments="{}")),
    CALLED,
    told=[LOOK[0], args(0, "{}"), args(0, "{}"), done("tool_calls")],
    arguments=("{}{}",),
)
case(
    "arguments cut at the limit",
    c("Looking."),
    calls(call(0, "c0", "look", '{"at": "he')),
    c(finish="length"),
    told=[text("Looking."), LOOK[0], args(0, '{"at": "he'), done("length")],
    arguments=('{"at": "he',),
)
case(
    "a call cut before its arguments",
    calls(call(0, "c0", "look")),
    c(finish="length"),
    told=[LOOK[0], done("length")],
    arguments=("",),
)
case(
    "arguments that are not an object",
    calls(call(0, "c0", "look", "[1]"), call(1, "c1", "look", '"x"')),
    CALLED,
    told=[LOOK[0], args(0, "[1]"), start(1, "c1", "look"), args(1, '"x"'), done("tool_calls")],
)
case(
    "no name at all",
    calls(call(0, "c0", arguments="{}")),
    CALLED,
    told=[start(0, "c0", ""), args(0, "{}"), done("tool_calls")],
)
case("calls and the reason stop", calls(call(0, "c0", "look", "{}")), STOP, told=[LOOK[0], args(0, "{}"), done()])
case(
    "the one call of old",
    c(function_call={"name": "look", "arguments": ""}),
    c(function_call={"arguments": "{}"}),
    c(finish="function_call"),
    told=[start(0, "*", "look"), args(0, "{}"), done("tool_calls")],
    alone="keeps it apart",
)
case("lists of nothing", c("a", tool_calls=[]), c(tool_calls=None), STOP, told=[text("a"), done()])
SIGNED: Final = {"google": {"thought_signature": "c2ln"}}
case(
    "a signature",
    calls(call(0, "c0", "look", "{}", extra_content=SIGNED)),
    CALLED,
    told=[start(0, "c0", "look", extra_content=SIGNED), args(0, "{}"), done("tool_calls")],
)
case(
    "a signature later",
    calls(call(0, "c0", "look", "{}")),
    calls(call(0, extra_content=SIGNED)),
    CALLED,
    told=[LOOK[0], args(0, "{}"), start(0, "c0", "look", extra_content=SIGNED), done("tool_calls")],
)
case(
    "an emoji in two halves of arguments",
    calls(call(0, "c0", "look", '{"a":"\ud83d')),
    calls(call(0, arguments='\ude00"}')),
    CALLED,
    told=[LOOK[0], args(0, '{"a":"'), args(0, '😀"}'), done("tool_calls")],
    alone="gives the halves",
)
case(
    "an index as text",
    calls(call("0", "c0", "look", "{}")),
    CALLED,
    told=[],
    error={"kind": "bad_answer", "retryable": False},
    says="the index of a tool call",
)

# -- ends --------------------------------------------------------------------------------------------------------------

for reason in ("length", "content_filter", "tool_calls", "eos", "end_turn", "max_tokens", "stop_sequence", "safety"):
    case(f"the reason {reason}", c("a"), c(finish=reason), told=[text("a"), done(reason)])
case("the reason with each chunk", c("a", "stop"), c("b", "stop"), told=[text("a"), text("b"), done()])
case("a reason that is empty", c("a", ""), c("b", "stop"), told=[text("a"), text("b"), done()])
for reason in (
    "error",
    "abort",
    "aborted",
    "cancelled",
    "insufficient_system_resource",
    "network_error",
    "timeout",
    "engine_overloaded",
    "FAILED",
    "malformed_function_call",
):
    case(
        f"the reason {reason}",
        c("a"),
        c(finish=reason),
        told=[text("a")],
        error={**UPSTREAM_FAILED, "received": 1, "finish_reason": reason},
        says=reason,
    )
CUT: Final = {"kind": "cut", "retryable": True, "received": 1}
case("cut between two events", c("a"), told=[text("a")], error=CUT, done=False)
case("cut within an event", c("a"), 'data: {"choices": [{"del', told=[text("a")], error=CUT, done=False)
case("cut within a call", c("a"), calls(call(0, "c0", "look", "")), told=[text("a"), LOOK[0]], error=CUT, done=False)
case("nothing at all", "", told=[], error={**CUT, "received": 0}, done=False)
case("comments alone", ": ping\n\n: ping\n\n", told=[], error={**CUT, "received": 0}, done=False)
NO_LUCK: Final = {"message": "no luck", "type": "server_error", "code": 500}
for shown, failed in (
    ("an error object", {"error": NO_LUCK}),
    ("an error text", {"error": "no luck"}),
    ("vLLM's error", {"object": "error", "message": "no luck", "code": 400}),
    ("a typed error", {"type": "error", "error": {"type": "overloaded_error", "message": "no luck"}}),
    ("a list with an error", [{"error": {"code": 503, "message": "no luck", "status": "UNAVAILABLE"}}]),
    ("an error beside empty choices", {"choices": [], "error": NO_LUCK}),
    ("an error in a choice", {"choices": [{"index": 0, "delta": {}, "finish_reason": "error", "error": NO_LUCK}]}),
    ("detail", {"detail": "no luck"}),
    ("details", {"detail": [{"loc": ["body", "x"], "msg": "no luck"}]}),
    ("code and message", {"code": "InternalError", "message": "no luck", "request_id": "r"}),
    ("a status and a message", {"status": 500, "message": "no luck"}),
    ("a status in words and a message", {"status": "FAILED", "message": "no luck"}),
    ("error_msg", {"error_code": 336003, "error_msg": "no luck"}),
    ("MiniMax's status", {"choices": None, "base_resp": {"status_code": 1004, "status_msg": "no luck"}}),
    ("errors", {"errors": [{"message": "no luck"}]}),
    ("a fault", {"fault": {"faultstring": "no luck", "detail": {"errorcode": "x"}}}),
    ("an error in an error's text", {"error": {"message": '{"error": {"message": "no luck"}}'}}),
    ("a router's error", {"error": {"message": "Provider returned error", "metadata": {"raw": "no luck"}}}),
):
    case(f"{shown} in the stream", c("a"), failed, told=[text("a")], error=UPSTREAM_FAILED, says="no luck")
case(
    "a named error", c("a"), "event: error\ndata: no luck\n\n", told=[text("a")], error=UPSTREAM_FAILED, says="no luck"
)
FAILED_OBJECT: Final = json.dumps({"error": NO_LUCK})
for shown, end in (
    ("as a line of its own", FAILED_OBJECT + "\n"),
    ("as a line without end", FAILED_OBJECT),
    ("in several lines", json.dumps({"error": NO_LUCK}, indent=2)),
    ("in several lines, with more behind", json.dumps({"error": NO_LUCK}, indent=2) + "\n\n" + DONE),
    ("as an event without end", f"data: {FAILED_OBJECT}"),
):
    case(f"an error object {shown}", c("a"), end, told=[text("a")], error=UPSTREAM_FAILED, says="no luck", done=False)
case("an error at once", {"error": NO_LUCK}, told=[], error=UPSTREAM_FAILED, says="no luck")
case("an error as the body", FAILED_OBJECT, told=[], error=UPSTREAM_FAILED, says="no luck", done=False)
case("an error in a list as the body", f"[{FAILED_OBJECT}]", told=[], error=UPSTREAM_FAILED, says="no luck", done=False)
case(
    "no quota left",
    c("a"),
    {"error": {"message": "no luck", "code": "insufficient_quota"}},
    told=[text("a")],
    error={"kind": "out_of_quota", "retryable": False},
    says="no luck",
)
case(
    "plain text as the body",
    "upstream connect error: no luck",
    told=[],
    done=False,
    kind="text/plain",
    error={"kind": "bad_answer", "retryable": False},
    says="no luck",
)
case("an error that is null", {**c("a"), "error": None}, {**STOP, "error": None}, told=[text("a"), done()])
case("a code of success", {**c("a"), "code": 0, "message": "ok"}, STOP, told=[text("a"), done()])

# -- usage -------------------------------------------------------------------------------------------------------------

FULL: Final = counts(7, 3, 10)
ENDED: Final = [text("a"), used(7, 3, 10), done()]
case("usage in the last chunk", c("a"), STOP, usage_chunk(FULL), told=ENDED)
case("usage beside the reason", c("a"), {**STOP, "usage": FULL}, told=ENDED)
case(
    "usage in each chunk",
    {**c("a"), "usage": counts(7, 1, 8)},
    {**STOP, "usage": FULL},
    told=[text("a"), used(7, 1, 8), used(7, 3, 10), done()],
)
case("usage that is repeated", c("a"), {**STOP, "usage": FULL}, usage_chunk(FULL), told=ENDED)
case("usage that is null", {**c("a"), "usage": None}, {**STOP, "usage": FULL}, usage_chunk(None), told=ENDED)
case(
    "zeros at the end",
    c("a"),
    {**STOP, "usage": FULL},
    usage_chunk(counts(0, 0, 0)),
    told=ENDED,
    alone="takes the zeros",
)
case(
    "zeros first",
    {**c("a"), "usage": counts(0, 0, 0)},
    {**STOP, "usage": FULL},
    told=[text("a"), used(0, 0, 0), used(7, 3, 10), done()],
)
case(
    "usage in halves",
    {**c("a"), "usage": counts(7, 0, 7)},
    {**STOP, "usage": counts(0, 3, 3)},
    told=[text("a"), used(7, 0, 7), used(7, 3, 10), done()],
    alone="takes the second half",
)
case(
    "without a total",
    c("a"),
    STOP,
    usage_chunk({"prompt_tokens": 7, "completion_tokens": 3}),
    told=ENDED,
    alone="has no total",
)
case(
    "without a part",
    c("a"),
    STOP,
    usage_chunk({"prompt_tokens": 7, "total_tokens": 10}),
    told=ENDED,
    alone="lacks the part",
)
case(
    "too little to tell",
    c("a"),
    STOP,
    usage_chunk({"prompt_tokens": 7}),
    told=[text("a"), done()],
    alone="has the part",
)
case(
    "Moonshot's place",
    c("a"),
    {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "usage": FULL}]},
    told=ENDED,
    alone="does not look there",
)
case(
    "Groq's place",
    c("a"),
    {**STOP, "x_groq": {"id": "r", "usage": {**FULL, "queue_time": 0.5}}},
    told=[text("a"), used(7, 3, 10, queue_time=0.5), done()],
    alone="does not look there",
)
case(
    "other names",
    c("a"),
    STOP,
    usage_chunk({"input_tokens": 7, "output_tokens": 3}),
    told=ENDED,
    alone="knows one name only",
)
case(
    "Gemini's names",
    c("a"),
    {**STOP, "usageMetadata": {"promptTokenCount": 7, "candidatesTokenCount": 3, "totalTokenCount": 12}},
    told=[text("a"), used(7, 3, 12), done()],
    alone="knows one name only",
)
case("counts of other types", c("a"), STOP, usage_chunk(counts(7.0, "3", None)), told=ENDED, alone="keeps the types")
case(
    "counts that are none",
    c("a"),
    STOP,
    usage_chunk(counts(-1, True, 1e300)),
    told=[text("a"), done()],
    alone="keeps them",
)
case(
    "details",
    c("a"),
    STOP,
    usage_chunk(
        {**FULL, "prompt_tokens_details": {"cached_tokens": 4}, "completion_tokens_details": {"reasoning_tokens": 2}}
    ),
    told=[text("a"), used(7, 3, 10, cached_tokens=4, reasoning_tokens=2), done()],
)
case(
    "DeepSeek's cache",
    c("a"),
    STOP,
    usage_chunk({**FULL, "prompt_cache_hit_tokens": 4}),
    told=[text("a"), used(7, 3, 10, cached_tokens=4), done()],
)
case(
    "a cost",
    c("a"),
    STOP,
    usage_chunk({**FULL, "cost": 0.25}),
    told=[text("a"), used(7, 3, 10, cost=0.25), {"type": "Cost", "usd": 0.25}, done()],
)
case(
    "a cost in parts",
    c("a"),
    STOP,
    usage_chunk({**FULL, "cost": {"request_cost": 0.1, "total_cost": 0.25}}),
    told=[text("a"), used(7, 3, 10), {"type": "Cost", "usd": 0.25}, done()],
)
case(
    "a cost in ticks",
    c("a"),
    STOP,
    usage_chunk({**FULL, "cost_in_usd_ticks": 2_500_000_000}),
    told=[text("a"), used(7, 3, 10, cost_in_usd_ticks=2_500_000_000), {"type": "Cost", "usd": 0.25}, done()],
)
case("usage as text", c("a"), STOP, usage_chunk("none"), told=[text("a"), done()], alone="takes it for usage")

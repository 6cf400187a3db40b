"""Programs in other languages, as far as they are given on a command line: what they start, remove and write.

No language is parsed: calls by their names, with the texts that stand in their brackets.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator, Sequence
from typing import Final

# Programs, and the options behind which their code stands.
_OPTIONS: Final = {
    "python": ("-c",),
    "perl": ("-e", "-E"),
    "ruby": ("-e",),
    "node": ("-e", "--eval", "-p", "--print"),
    "nodejs": ("-e", "--eval", "-p"),
    "deno": ("eval",),
    "bun": ("-e", "--eval"),
    "php": ("-r",),
    "lua": ("-e",),
    "osascript": ("-e",),
    "vim": ("-c", "+"),
    "vi": ("-c",),
    "nvim": ("-c",),
    "ex": ("-c",),
    "emacs": ("--eval",),
    "Rscript": ("-e",),
    "groovy": ("-e",),
    "tclsh": (),
    "sqlite3": ("-cmd",),
    "psql": ("-c",),
    "mysql": ("-e",),
}
_SCRIPTS_FIRST: Final = frozenset({"awk", "gawk", "mawk", "nawk"})

_SHELL_CALLS: Final = (
    r"os\.system|os\.popen\w*|subprocess\.\w+|(?:check_)?(?:output|call)|Popen|getoutput|getstatusoutput|system|popen|exec\w*|spawn\w*"
    r"|execSync|spawnSync|shell_exec|passthru|proc_open|qx|run|do shell script|os\.execute|io\.popen|posix_spawn"
)
_REMOVE_CALLS: Final = (
    r"rmtree|remove_tree|removedirs|rm_rf|rm_r|remove_entry\w*|remove_dir_all|rimraf(?:\.sync)?|rmSync|rmdirSync|fs\.rm|rm|rmdir|emptyDir\w*"
    r"|deltree|delete_tree|deleteDirectory"
)
_CALL: Final = re.compile(
    rf"(?<![\w$])(?:\w+(?:\.|::|->))*(?P<shell>{_SHELL_CALLS})\s*[\[(]?\s*(?=[\"'`\[(]|f[\"']|w/)"
    rf"|(?<![\w$])(?:\w+(?:\.|::|->))*(?P<remove>{_REMOVE_CALLS})\s*\(?\s*(?=[\"'`\[(]|r?f?[\"']|os\.|pathlib|Path|Dir|process|homedir|ENV|\w)"
    r"|(?<![\w$])(?P<open>open|writeFileSync|File\.(?:open|write)|fopen|file_put_contents|createWriteStream)\s*\(?\s*(?:\w+\s*,\s*)?(?=[\"'`])"
)
_LITERAL: Final = re.compile(r"(?s)(?:\b[rbfuRBFU]{1,2})?(\"\"\"|'''|\"|'|`)((?:\\.|(?!\1).)*)\1")
_ONE_LINE: Final = re.compile(r"(?s)\"\"\".*?\"\"\"|'''.*?'''|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'")
_HOME: Final = re.compile(
    r"Path\.home\(\)|homedir\(\)|Dir\.home|(?:ENV|environ|process\.env|getenv)[\[.(]+[\"']?HOME|\$HOME\b|\$ENV\{HOME\}"
)
_DECODES: Final = re.compile(
    r"(?i)b(?:ase)?64_?decode|frombase64|fromhex|unhexlify|atob\(|codecs\.decode|decode_base64|marshal\.loads|rot13"
)
_RUNS: Final = re.compile(r"\b(?:exec|eval|system|popen|Popen|subprocess|execSync|instance_eval)\b")
_BOMB: Final = re.compile(
    r"(?s)(?:while|for)\b[^;\n]{0,40}[:;{(]\s*(?:os\.)?fork\b|\bfork\s*(?:\(\))?\s*(?:while|until)\b|loop\s*\{\s*fork\b|fork\s*&&\s*fork"
)
_REACH: Final = 2_000  # characters of a call that are looked at


def _family(name: str) -> str:
    return re.sub(r"[\d.]+$", "", name) if name not in _OPTIONS else name


def is_interpreter(name: str) -> bool:
    """Whether a program runs code of a language of its own."""
    return _family(name) in _OPTIONS


def given(name: str, words: Sequence[str]) -> str | None:
    """The code that a program is given among its words."""
    options = _OPTIONS.get(_family(name))
    texts: list[str] = []
    if options:
        for place, word in enumerate(words[1:], 1):
            for option in options:
                short = len(option) == 2 and option.startswith("-")
                if word == option or (short and re.fullmatch(rf"-[A-Za-z]*{option[1]}", word)):
                    texts += words[place + 1 : place + 2]
                elif (short and word.startswith(option) and len(word) > 2) or (option == "+" and word.startswith("+")):
                    texts.append(word[len(option) :])
                elif option.startswith("--") and word.startswith(f"{option}="):
                    texts.append(word[len(option) + 1 :])
        if name in ("vim", "vi", "nvim", "ex"):
            texts = [
                f"system({_quoted(text.lstrip(':').lstrip()[1:])})"
                for text in texts
                if text.lstrip(":").lstrip().startswith("!")
            ]
        elif name in ("sqlite3", "psql", "mysql"):
            texts = [
                f"system({_quoted(found[1])})"
                for text in texts
                for found in re.finditer(r"\\!\s*(.*)|\.(?:shell|system)\s+(.*)", text)
            ]
    elif name in _SCRIPTS_FIRST:
        texts = [word for word in words[1:] if "system" in word or "|" in word]
        texts += [
            f"system({_quoted(found[1])})" for word in words[1:] for found in re.finditer(r'\|\s*"([^"]*)"', word)
        ]
        texts += [
            f"system({_quoted(found[1])})"
            for word in words[1:]
            for found in re.finditer(r'"([^"]*)"\s*\|\s*getline', word)
        ]
        texts += [
            f"open({_quoted(found[1])},'w')" for word in words[1:] for found in re.finditer(r'>\s*"([^"]*)"', word)
        ]
    elif name == "tar":
        texts = [f"system({_quoted(word.partition('=exec=')[2])})" for word in words if "=exec=" in word]
        texts += [
            f"system({_quoted(word.partition('=')[2])})"
            for word in words
            if word.startswith(("--to-command=", "--use-compress-program="))
        ]
    elif name == "rsync":
        texts = [f"system({_quoted(words[n + 1])})" for n, word in enumerate(words[:-1]) if word == "-e"]
    return "\n".join(texts) if texts else None


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def actions(text: str) -> Iterator[tuple[str, list[str]]]:
    """What code does, by kind: ``shell``, ``words`` of a program, ``remove``, ``write``, ``bomb``, ``decode``."""
    if _BOMB.search(text):
        yield "bomb", []
    if _DECODES.search(text) and _RUNS.search(text):
        yield "decode", []
    texts = [literal.span() for literal in _ONE_LINE.finditer(text)]
    for found in _CALL.finditer(text):
        before = bisect.bisect(texts, (found.start(), len(text))) - 1
        if before >= 0 and found.start() < texts[before][1]:
            continue  # a call that only stands in a text
        inside = _inside(text, found.end(), found[0])
        literals = _literals(inside)
        if found["shell"]:
            listed = inside.lstrip().startswith(("[", "(")) or found[0].rstrip().endswith("[") or len(literals) > 1
            if listed and len(literals) > 1:
                yield "words", literals
            if literals:
                yield "shell", literals[:1]
        elif found["remove"]:
            yield "remove", [one for one in literals if one] or (["~"] if _HOME.search(inside) else [])
            if "expanduser" in inside or _HOME.search(inside):
                yield "remove", ["~/" + one.lstrip("/") if not one.startswith("~") else one for one in literals[-1:]]
        elif literals and (
            len(literals) == 1 or re.search("[wax+>]", literals[1]) or not re.match("(open|fopen|File)", found["open"])
        ):
            # Opened for reading only, if nothing else is said.
            wrote = len(literals) > 1 or not found["open"].endswith("open")
            if literals[0].startswith(">"):
                yield "write", [literals[0].lstrip("> ")]
            elif wrote:
                yield "write", literals[:1]
    for found in re.finditer(r"(?s)`([^`]{1,2000})`|%x[\[({]([^\])}]{1,2000})|\bqx[\[({/]([^\])}/]{1,2000})", text):
        yield "shell", [found[1] or found[2] or found[3]]
    for found in re.finditer(r"Path\(\s*[rb]?[\"']([^\"']{0,500})[\"']\s*\)\.write_", text):
        yield "write", [found[1]]
    for found in re.finditer(r"Path\(\s*[rb]?[\"']([^\"']{0,500})[\"']\s*\)\.(?:rmdir|unlink)", text):
        yield "remove", [found[1]]


def _inside(text: str, start: int, opened: str) -> str:
    """What stands in the brackets of a call."""
    depth = max(opened.count("(") + opened.count("[") - opened.count(")"), 0)
    place, end = start, min(len(text), start + _REACH)
    bare = depth == 0
    while place < end:
        if literal := _LITERAL.match(text, place):
            place = literal.end()
            continue
        char = text[place]
        if char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
            if depth <= 0 and not bare:
                return text[start:place]
        elif bare and depth <= 0 and char in ";\n":
            break
        place += 1
    return text[start:place]


def _literals(text: str) -> list[str]:
    """The texts in a piece of code; those that are put together with ``+`` as one."""
    found: list[str] = []
    end = -1
    for literal in _LITERAL.finditer(text):
        value = re.sub(r"(?s)\\(.)", lambda one: {"n": "\n", "t": "\t"}.get(one[1], one[1]), literal[2])
        between = text[end : literal.start()] if end >= 0 else "x"
        if found and re.fullmatch(r"\s*[+.]?\s*", between):
            found[-1] += value
        else:
            found.append(value)
        end = literal.end()
    return found

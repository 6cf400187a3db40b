"""A docstring → the description before its sections, and what it says about each parameter (Google, NumPy, Sphinx)."""

from __future__ import annotations

import inspect
import re
from itertools import pairwise

# Sections that describe the interface. Notes and examples above them stay in the description.
_PARAMETERS = {
    "args",
    "arguments",
    "keyword args",
    "keyword arguments",
    "other parameters",
    "parameters",
    "params",
}
_OUTCOMES = {"attributes", "raises", "receives", "return", "returns", "warns", "yield", "yields"}
_SPHINX_PARAMETERS = {"arg", "argument", "key", "keyword", "param", "parameter"}
_SPHINX_OUTCOMES = {"except", "raise", "raises", "return", "returns", "rtype", "type", "yield", "yields"}


def read_docstring(docstring: str | None) -> tuple[str, dict[str, str]]:
    """The description, and the parameters' descriptions by name."""
    text = inspect.cleandoc(docstring or "")
    lines = text.splitlines()
    end = len(lines)
    for number, (line, following) in enumerate(pairwise([*lines, ""])):
        style, describes_parameters = _section(line, following)
        if style:
            end = min(end, number)
        if describes_parameters:
            return "\n".join(lines[:end]).strip(), _parameters(text, style)
    return "\n".join(lines[:end]).strip(), {}


def _section(line: str, following: str) -> tuple[str, bool]:
    """The style of the section that begins at a line, "" if none does; and whether it describes parameters."""
    if line.startswith(":"):
        field, colon, _ = line[1:].partition(":")
        word, *names = field.split() or [""]
        if colon and word in _SPHINX_PARAMETERS | _SPHINX_OUTCOMES:
            return "REST", word in _SPHINX_PARAMETERS and bool(names)
        return "", False
    if line[:1].isspace():
        return "", False
    title = line.rstrip().lower()
    if title.endswith(":") and title[:-1] in _PARAMETERS | _OUTCOMES:
        return "GOOGLE", title[:-1] in _PARAMETERS
    if title in _PARAMETERS | _OUTCOMES and following.startswith("---") and not following.strip().strip("-"):
        return "NUMPYDOC", title in _PARAMETERS
    return "", False


def _parameters(text: str, style: str) -> dict[str, str]:
    if style == "GOOGLE":
        return _google(text)
    # 8 ms to import, so only for a docstring that has something to parse.
    import docstring_parser

    try:
        found = docstring_parser.parse(text, style=docstring_parser.DocstringStyle[style]).params
    except docstring_parser.ParseError:  # prose that only looked like a section
        return {}
    return {
        name.strip(_MARKUP): " ".join(parameter.description.split())
        for parameter in found
        if parameter.description
        for name in parameter.arg_name.split(",")  # NumPy: `x, y : int`
    }


_MARKUP = " \t-*+\u2022`"
"""What may stand around a parameter's name: the dash of an item, marks of Markdown, the stars of ``**kwargs``."""

# Compiled when it is first needed.
_ITEM = r"""
    (?:[-*+\u2022]\s+|\d+[.)]\s+)?                        # "- " or "1. "
    (?P<open>`{1,2}|\*\*|__)?(?P<name>\*{0,2}\w+)           # "city", "`city`" or "**city**"
    (?:\s*:\s*(?P<inside>[^`*()]+?)(?=`|\*\*))?            # "`city: str`"
    (?:`{1,2}|\*\*|__)?
    (?P<type>\s*\([^)]*\))?                               # " (str, optional)"
    (?:`{1,2}|\*\*|__)?
    \s*(?:\s(?:-|--|\u2013|\u2014)\s|:(?:\*\*)?)\s*(?P<text>.*)
    """


def _google(text: str) -> dict[str, str]:
    """What the sections of parameters say, written as Google does: indented, ``name (type): text``.

    Lists of Markdown are as frequent, and docstring-parser reads them only in part. It takes 8 ms to import, too.
    """
    found: dict[str, list[str]] = {}
    said: list[str] | None = None  # of the item that goes on
    level: int | None = None  # how far the items of the section are indented
    inside = False
    for line in text.splitlines():
        title = line.rstrip().lower()
        if not line[:1].isspace() and title.endswith(":") and title[:-1] in _PARAMETERS | _OUTCOMES:
            inside, level, said = title[:-1] in _PARAMETERS, None, None
        elif inside and line.strip():
            indent = len(line) - len(line.lstrip())
            is_list = line.lstrip()[:2] in ("- ", "* ", "+ ", "\u2022 ")
            if level is None and (indent or is_list):
                level = indent
            if level is None or (indent < max(level, 1) and not is_list):
                inside = False  # the section ends where the text goes on at the margin
            elif indent <= level and (item := re.fullmatch(_ITEM, line.strip(), re.VERBOSE)) is not None:
                said = found[item["name"].strip("*")] = item["text"].split()
            elif said is not None:
                said += line.split()
    return {name: " ".join(words) for name, words in found.items() if words}

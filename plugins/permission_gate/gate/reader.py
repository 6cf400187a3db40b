"""A shell's way through a script, without running anything: which programs it would start, and with which words.

Where a shell decides (`if`, `case`, `&&`), all ways are gone; where it repeats, twice. Values that several ways lead to
are kept side by side. What a program prints is followed as far as it is plain (`echo`, `cat`, `find`), because it
becomes the words of `xargs`, the text of `sh`, and the value of `$(…)`.
"""

from __future__ import annotations

import functools
import itertools
import re
import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final

from .marks import (
    ANY,
    CUT,
    MAYBE,
    ONE,
    OPAQUE,
    SET,
    STAR,
    Unreadable,
    bare,
    fields,
    is_glob,
    names,
    text_of,
    unquoted,
)
from .parser import MAX_LENGTH, Script, parse
from .state import Output, State, Text, whole

if TYPE_CHECKING:
    from tree_sitter import Node

# Runs a program: its words, what is known, and what it is given to read; what it prints.
Launch = Callable[["Reader", list[str], State, Output | None], Output]
Written = Callable[[str, bool], None]

MAX_STEPS: Final = 200_000  # commands, words and the like that are looked at for one call
MAX_TIME: Final = 1.0  # seconds of this thread's own for one call; what people write takes a hundredth
MAX_DEPTH: Final = 60  # of what stands within what
MAX_PRODUCT: Final = 4_096  # values that one word may have
_SIDE_BY_SIDE: Final = 16  # command lines that one command may come to; more are read as one with all their words

_OPERATORS: Final = "();<>|&\n"
_REDIRECTION: Final = re.compile(r"\d*(?:&?>{1,2}[|&]?|<{1,3}[&>]?)")
# A shell runs nothing of a line that it cannot take apart. The grammar does not know all that a shell does, so that
# holds only where nothing names a place or a program that destroys.
_SAYS_NOTHING: Final = re.compile(
    r"(?!.*(?:rm|dd|mkfs|mke2fs|wipe|shred|find|mv|chmod|eval|base|xxd|fork|HOME|PWD|item|format|del|rd|\\[x0-7]))[^/~*\n]*"
)
_DESTROYS: Final = re.compile(
    r"(?<![\w-])(rm|dd|mkfs\S*|mke2fs|shred|wipefs|find|mv|ch(mod|own|grp)|eval|base64|rsync|truncate|tee|unlink"
    r"|remove-item|del|rd|format)(?![\w-])|\\[x0-7]|/dev/",
    re.IGNORECASE,
)
_ANSI_C: Final = re.compile(r"(?s)\\(?:x([0-9a-fA-F]{1,2})|u([0-9a-fA-F]{1,4})|U([0-9a-fA-F]{1,8})|([0-7]{1,3})|(.))")
_ANSI_C_NAMES: Final = {
    "n": "\n",
    "t": "\t",
    "r": "\r",
    "a": "\a",
    "b": "\b",
    "e": "\x1b",
    "E": "\x1b",
    "f": "\f",
    "v": "\v",
}
_PARAMETER: Final = re.compile(r"(?s)\$\{([!#]?)([A-Za-z_]\w*|\d+|[@*#?$!-])(\[[^\]]*\])?(.*)\}$")
_HEREDOC_PIECE: Final = re.compile(r"(?s)\\([$`\\\n])")
_IN_QUOTES: Final = re.compile(r'(?s)\\([$`"\\\n])')
_SUBSTITUTES: Final = frozenset({"command_substitution", "process_substitution"})
_RUN_LATER: Final = re.compile(r"\w+_COMMAND|PAGER|GIT_PAGER|EDITOR|VISUAL|GIT_EDITOR|LESSOPEN|BROWSER")  # variables
_AT_START: Final = re.compile(r".*/\.(bashrc|profile|bash_profile|bash_login|bash_logout|zshrc|zprofile|zshenv|kshrc)")
_STATEMENTS: Final = names(
    "program command redirected_statement pipeline list subshell compound_statement do_group negated_command",
    "if_statement while_statement for_statement c_style_for_statement case_statement function_definition",
    "variable_assignment variable_assignments declaration_command unset_command test_command ERROR else_clause",
    "elif_clause case_item",
)


class Reader:
    """Reads one call.

    Args:
        launch: What becomes of a command line.
        written: What becomes of a file that a redirection opens: its path, and whether it is added to.
        bomb: Is told the name of a function that starts itself twice over.
    """

    def __init__(self, launch: Launch, written: Written, bomb: Callable[[str], None]) -> None:
        self._launch = launch
        self._written = written
        self._bomb = bomb
        self._script: Script
        self._steps = 0
        self._end = time.thread_time() + MAX_TIME
        self._depth = 0
        self._calls: list[tuple[str, tuple[str, ...]]] = []
        self._given: Output | None = None  # to the command whose words are being read
        self._pipes = itertools.count()
        self.as_written = ""  # the command that is looked at; "" where it did not come as text
        self.script_text = ""  # the script that it stands in
        self.at_the_end: list[str] = []  # what a shell runs when it ends
        self.doubts: list[str] = []  # what could not be followed

    def step(self, cost: int = 1) -> None:
        """Count work.

        Raises:
            Unreadable: It is too much.
        """
        self._steps += cost
        if self._steps > MAX_STEPS or time.thread_time() > self._end:
            raise Unreadable("it does too much to be followed")

    def within(self) -> _Within:
        return _Within(self)

    # -- scripts -------------------------------------------------------------------------------------------------------

    def read(self, text: str, state: State, given: Output | None = None) -> Output:
        """Read the text of a script; return what it prints."""
        self.step()
        if OPAQUE in text:
            self.doubts.append("what a shell is given to run comes out of a decoder or a filter")
            return ANY
        text = text.replace(STAR, "*").replace(ONE, "?").replace(SET, "[").replace(MAYBE, "")
        outer = getattr(self, "_script", None)
        with self.within():
            script = parse(text)
            if script.root.has_error and _SAYS_NOTHING.fullmatch(text):
                return ""
            self._script = script
            outer_text, self.script_text = self.script_text, text
            try:
                printed = self._run(script.root, state, given)
                if script.root.has_error:
                    self._read_flat(text, state)
                return printed
            finally:
                self.script_text = outer_text
                if outer is not None:
                    self._script = outer

    def _read_flat(self, text: str, state: State) -> None:
        """Read a script with a mistake in it, or one that the grammar has no rule for, as lines of plain words."""
        tokens = self._tokens(text)
        if (tokens is None or re.search("[$`]", text)) and _DESTROYS.search(text):
            self.doubts.append("its syntax is not clear")
        if tokens is None:  # a quote without its end
            tokens = self._tokens(re.sub(r"['\"\\]", " ", text))
        words: list[str] = []
        redirected = ""
        for token in [*(tokens or ()), "\n"]:
            if token and set(token) <= set(_OPERATORS):
                redirected = ""
                if _REDIRECTION.fullmatch(token):
                    redirected = token
                elif words:
                    self._launch(self, words, state, ANY)
                    words = []
            elif not redirected:
                words += fields(bare(token), state.home)
            else:
                if ">" in redirected:
                    self.write([token], state, add=">>" in redirected)
                redirected = ""

    @staticmethod
    def _tokens(text: str) -> list[str] | None:
        """The words of a script without their quotes, and the operators between them; None where quotes are open."""
        lexer = shlex.shlex(text, posix=True, punctuation_chars=_OPERATORS)
        lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t\r", True, ""
        try:
            return list(lexer)
        except ValueError:
            return None

    def write(self, words: Iterable[str], state: State, *, add: bool = False) -> None:
        for word in words:
            for path in state.paths(word):
                self._written(path, add)

    def _run_on(self, node: Node, given: Output | None, state: State) -> Output:
        return self._run(node, state, given)

    # -- statements ----------------------------------------------------------------------------------------------------

    def _run(self, node: Node, state: State, given: Output | None) -> Output:
        self.step()
        with self.within():
            match node.type:
                case "command":
                    return self._command(node, state, given)
                case "redirected_statement":
                    return self._redirected(node, state, given)
                case "pipeline":
                    return self._pipeline(self._named(node), state, given)
                case "list":
                    return self._list(node, state, given)
                case "subshell":
                    return self._sequence(node.children, state.copy(), given)
                case "if_statement":
                    return self._if(node, state, given)
                case "while_statement" | "c_style_for_statement":
                    return self._loop(node, state, given)
                case "for_statement":
                    return self._for(node, state, given)
                case "case_statement":
                    return self._case(node, state, given)
                case "function_definition":
                    self._define(node, state)
                    return ""
                case "variable_assignment":
                    self._assign(node, state)
                    return ""
                case "declaration_command" | "unset_command" | "variable_assignments":
                    self._declare(node, state)
                    return ""
                case "compound_statement" if node.child_count and node.children[0].type == "((":
                    self._substitutions(node, state)
                    return ""
                case "test_command":
                    self._substitutions(node, state)
                    return ""
                case other if other in _STATEMENTS:
                    return self._sequence(node.children, state, given)
                case _:
                    self._substitutions(node, state)
                    return ""

    def _sequence(self, nodes: Sequence[Node], state: State, given: Output | None) -> Output:
        printed: list[Output] = []
        for node, following in itertools.zip_longest(nodes, nodes[1:]):
            if node.is_named and node.type != "comment":
                apart = following is not None and following.type == "&"
                printed.append(self._run(node, state.copy() if apart else state, given))
        return _joined(printed)

    @staticmethod
    def _named(node: Node) -> list[Node]:
        return [child for child in node.children if child.is_named and child.type != "comment"]

    def _pipeline(self, parts: Sequence[Node], state: State, given: Output | None) -> Output:
        for part in parts:
            given = self._run(part, state.copy(), given)
        return given if given is not None else ""

    def _list(self, node: Node, state: State, given: Output | None) -> Output:
        # `a && b && c` leans to the left: gone through from the innermost on, not one within another.
        rest: list[tuple[str, Node]] = []
        while node.type == "list" and node.child_count >= 3:
            rest.append((node.children[1].type, node.children[-1]))
            node = node.children[0]
        printed = [self._run(node, state, given)]
        for operator, right in reversed(rest):
            printed.append(self._right(operator, state, functools.partial(self._run_on, right, given)))
        return _joined(printed)

    @staticmethod
    def _right(operator: str, state: State, run: Callable[[State], Output]) -> Output:
        if operator == "&&":
            return run(state)
        done, failed = state.copy(), state.copy()
        printed = run(failed)
        state.become([done, failed])
        return printed

    def _if(self, node: Node, state: State, given: Output | None) -> Output:
        printed: list[Output] = []
        ways: list[State] = []
        has_else = False

        def go(part: Node) -> None:
            nonlocal has_else
            then: list[Node] = []
            conditions: list[Node] = []
            into = conditions
            for child in part.children:
                if child.type in ("then", "else"):
                    into = then
                    has_else = has_else or child.type == "else"
                elif child.type not in ("elif_clause", "else_clause"):
                    into.append(child)
            printed.append(self._sequence(conditions, state, given))
            ways.append(way := state.copy())
            printed.append(self._sequence(then, way, given))

        go(node)
        for child in node.children:
            if child.type in ("elif_clause", "else_clause"):
                go(child)
        state.become(ways if has_else else [*ways, state.copy()])
        return _joined(printed)

    def _loop(self, node: Node, state: State, given: Output | None) -> Output:
        return self._repeat(lambda: self._sequence(node.children, state, given), state)

    def _repeat(self, once: Callable[[], Output], state: State) -> Output:
        """Go through a body, and again if the first time has changed what it starts from."""
        before = state.copy()
        printed = [once()]
        if (before.variables, before.folders) != (state.variables, state.folders):
            state.ended = False
            state.become([before, state.copy()])
            printed.append(once())
        state.ended = False
        return _joined(printed)

    def _for(self, node: Node, state: State, given: Output | None) -> Output:
        name, body, words, listed = "", [], [], False
        for child in node.children:
            if child.type == "variable_name" and not name:
                name = self._script.text(child)
            elif child.type in ("do_group", "compound_statement"):
                body.append(child)
            elif child.type == "in":
                listed = True
            elif child.is_named and child.type != "comment":
                words.append(child)
        values = [field for line in self._lines(words, state, apart=False) for field in line]
        if not listed:
            values = [field for value in state.look_up("@") for field in value.split(CUT)]
        state.assign(name, values or [""])

        def once() -> Output:
            state.assign(name, values or [""])
            return self._sequence(body, state, given)

        return self._repeat(once, state)

    def _case(self, node: Node, state: State, given: Output | None) -> Output:
        printed, ways = [], [state.copy()]
        for child in node.children:
            if child.type == "case_item":
                way = state.copy()
                children = child.children
                start = next((n for n, each in enumerate(children) if each.type == ")"), -1) + 1
                printed.append(self._sequence(children[start:], way, given))
                ways.append(way)
            else:
                self._substitutions(child, state)
        state.become(ways)
        return _joined(printed)

    def _define(self, node: Node, state: State) -> None:
        name = node.child_by_field_name("name")
        body = node.child_by_field_name("body")
        if name is None or body is None:
            self._sequence(node.children, state, None)
            return
        called = self._script.text(name)
        if self._starts_itself(called, body):
            self._bomb(called)
        state.functions[called] = body, self._script
        # It may be called by what is not seen, so it is read without a call, too.
        trial = state.copy()
        trial.arguments, trial.unset_arguments = None, ANY
        self.call(called, [called], trial, None)

    def _starts_itself(self, name: str, body: Node) -> bool:
        """Whether a function has itself in a pipe or in the background more than once."""
        found = 0
        waiting = [(body, False)]
        while waiting:
            node, counts = waiting.pop()
            self.step()
            if node.type == "command":
                first = node.child_by_field_name("name")
                found += counts and first is not None and self._script.text(first) == name
                continue
            children = node.children
            for place, child in enumerate(children):
                apart = place + 1 < len(children) and children[place + 1].type == "&"
                waiting.append((child, node.type == "pipeline" or apart))
        return found > 1

    def call(self, name: str, words: list[str], state: State, given: Output | None) -> Output:
        """Call a function of the script."""
        body, script = state.functions[name]
        arguments = tuple(words[1:])
        if (name, arguments) in self._calls or sum(name == each for each, _ in self._calls) > 3:
            return ANY
        before, script_before = state.arguments, self._script
        self._calls.append((name, arguments))
        self._script = script
        if state.unset_arguments != ANY or arguments:
            state.arguments = arguments
        try:
            return self._run(body, state, given)
        finally:
            state.arguments, state.ended = before, False
            self._script = script_before
            self._calls.pop()

    # -- assignments ---------------------------------------------------------------------------------------------------

    def _assign(self, node: Node, state: State) -> None:
        name, value, add = "", None, False
        for child in node.children:
            if child.type in ("variable_name", "subscript") and not name:
                name = self._script.text(child)
            elif child.type in ("=", "+="):
                add = child.type == "+="
            else:
                value = child
        name, indexed, _ = name.partition("[")
        if value is None:
            values = [""]
        elif value.type == "array":
            lines = self._lines(self._named(value), state, apart=False)
            values = [CUT.join(re.sub(rf"^{SET}[^\]]*\]=", "", word) for word in line) for line in lines]
        else:
            values = [self._as_one(one, state) for one in self._values(value, state)]
        if indexed:
            values, add = [CUT + one for one in values], True
        state.assign(name, values, add=add)
        if _RUN_LATER.fullmatch(name):
            for one in values:
                self.read(one, state.copy())

    @staticmethod
    def _as_one(word: str, state: State) -> str:
        """The value of an assignment: it does not fall apart, and its patterns stay what they are."""
        return text_of(CUT.join(fields(word.replace(CUT, " "), state.home))) if word else ""

    def _declare(self, node: Node, state: State) -> None:
        removes = node.type == "unset_command"
        for child in node.children:
            if child.type == "variable_assignment":
                self._assign(child, state)
            elif child.type == "variable_name" and removes:
                state.variables.pop(self._script.text(child), None)
                state.assign(self._script.text(child), [MAYBE])
            elif child.is_named and not removes:
                for word in self._values(child, state):
                    name, equals, value = word.partition("=")
                    if equals and name.isidentifier():
                        state.assign(name, [self._as_one(value, state)])

    # -- commands ------------------------------------------------------------------------------------------------------

    def _command(
        self, node: Node, state: State, given: Output | None, more: Sequence[Node] = (), lost: Sequence[str] = ()
    ) -> Output:
        words: list[Node] = []
        assignments: list[Node] = []
        redirections: list[Node] = []
        for child in node.children:
            if child.type == "variable_assignment":
                assignments.append(child)
            elif child.type in ("file_redirect", "herestring_redirect", "heredoc_redirect"):
                redirections.append(child)
            else:
                words.append(child)
        if redirections:
            flow = _Flow(self, redirections, state, given)
            return flow.out(lambda into: self._words(assignments, [*words, *flow.words, *more], state, into))
        return self._words(assignments, [*words, *more], state, given, lost)

    def _words(
        self,
        assignments: Sequence[Node],
        words: Sequence[Node],
        state: State,
        given: Output | None,
        lost: Sequence[str] = (),
    ) -> Output:
        self._given = given
        lines = [[*line, *lost] for line in self._lines(words, state)]
        if not words:
            for each in assignments:
                self._assign(each, state)
            return ""
        inner = state
        if assignments:
            inner = state.copy()
            for each in assignments:
                self._assign(each, inner)
        printed = []
        ways = [inner] if len(lines) < 2 else [inner.copy() for _ in lines]
        as_written = self._script.between(words[0].start_byte, words[-1].end_byte)
        for line, way in zip(lines, ways, strict=False):
            self.as_written = as_written
            called = line[0] if line else ""
            if called in state.aliases and words[0].type != "ERROR":
                rest = self._script.between(words[0].end_byte, words[-1].end_byte) if len(words) > 1 else ""
                alias = state.aliases[called]
                without = way.copy()
                del without.aliases[called]
                printed.append(self.read(f"{alias} {rest}", without, given))
            elif line:
                printed.append(self._launch(self, line, way, given))
        if len(ways) > 1:
            inner.become(ways)
        if inner is not state and not inner.ended:
            state.folders, state.before = inner.folders, inner.before
            # What `IFS= read x` sets stays; what stands in front of it does not.
            names = {self._script.text(each.children[0]) for each in assignments if each.children}
            state.variables |= {name: values for name, values in inner.variables.items() if name not in names}
        return _joined(printed)

    def _redirected(self, node: Node, state: State, given: Output | None) -> Output:
        redirections = [child for child in node.children if child.type.endswith("_redirect")]
        return self._redirect(node.child_by_field_name("body"), redirections, state, given)

    def _redirect(self, body: Node | None, nodes: Sequence[Node], state: State, given: Output | None) -> Output:
        # The grammar has redirections around what a shell takes for the last command alone.
        if body is not None and body.type == "list" and body.child_count >= 3:
            printed = self._run(body.children[0], state, given)
            last = self._right(
                body.children[1].type, state, lambda way: self._redirect(body.children[-1], nodes, way, given)
            )
            return _joined([printed, last])
        if body is not None and body.type == "pipeline":
            *before, end = self._named(body)
            given = self._pipeline(before, state, given)
            return self._redirect(end, nodes, state.copy(), given)
        flow = _Flow(self, nodes, state, given)

        def run(into: Output | None) -> Output:
            if body is None:
                return ""
            # The grammar loses a `-` before a here-document.
            lost = self._script.between(body.end_byte, nodes[0].start_byte).split() if nodes else []
            if body.type == "command" and (flow.words or lost):
                return self._command(body, state, into, flow.words, lost)
            return self._run(body, state, into)

        printed = flow.out(run)
        for each in flow.piped:
            printed = self._pipeline(self._named(each), state, printed)
        for operator, right in flow.then:
            more = self._right(operator, state, functools.partial(self._run_on, right, given))
            printed = _joined([printed, more])
        return printed

    # -- words ---------------------------------------------------------------------------------------------------------

    def _lines(self, nodes: Sequence[Node], state: State, *, apart: bool = True) -> list[list[str]]:
        """The command lines that words may come to."""
        choices: list[list[list[str]]] = []
        values: list[str] = []
        end = -1
        for node in [*nodes, None]:
            if (
                node is not None
                and not node.is_named
                and node.type not in ("$", "=", "==", "=~", "!", "{", "}", "[", "]")
            ):
                continue
            if node is None or not self._joins(end, node.start_byte):
                if end >= 0:
                    choices.append([fields(value, state.home) for value in values])
                values = [""]
            if node is not None:
                values = _product(values, self._values(node, state))
                end = node.end_byte
        count = 1
        for choice in choices:
            count *= len(choice)
            if count > _SIDE_BY_SIDE:
                break
        if apart and count <= _SIDE_BY_SIDE:
            return [[word for words in line for word in words] for line in itertools.product(*choices)]
        rest = [word for choice in choices[1:] for words in choice for word in words]
        self.step(len(rest))
        return [[*words, *rest] for words in (choices[0] if choices else [])]

    def _joins(self, end: int, start: int) -> bool:
        """Whether nothing stands between two pieces but the end of a line that is continued."""
        return end >= 0 and (
            start == end or (start - end < 200 and not self._script.between(end, start).replace("\\\n", ""))
        )

    def _values(self, node: Node, state: State, *, quoted: bool = False) -> list[str]:
        """What a word, or a piece of one, may come to."""
        self.step()
        with self.within():
            match node.type:
                case "word" | "number" | "brace_expression" | "regex" | "extglob_pattern" | "test_operator":
                    text = unmarked_piece(self._script.text(node))
                    return [text if quoted else bare(text)]
                case "raw_string":
                    return [self._script.text(node)[1:-1]]
                case "ansi_c_string":
                    return [_ANSI_C.sub(_ansi_c, self._script.text(node)[2:-1])]
                case "string":
                    return self._between(node, node.start_byte + 1, node.end_byte - 1, _IN_QUOTES, state)
                case "translated_string":
                    return self._values(node.children[-1], state)
                case "concatenation" | "command_name" | "array":
                    values, _end = [""], node.start_byte
                    for child in node.children:
                        values = _product(values, self._values(child, state))
                    return values
                case "simple_expansion":
                    name = self._script.text(node).lstrip(" \t\n$")
                    return self._spread(state, self._value_of(name, state), quoted)
                case "expansion":
                    return self._spread(state, self._expansion(node, state), quoted)
                case "command_substitution":
                    return self._spread(state, [self._substitute(node, state)], quoted)
                case "process_substitution":
                    return [self._pipe(node, state)]
                case "arithmetic_expansion":
                    self._substitutions(node, state)
                    return [ANY]
                case "string_content" | "heredoc_content":
                    return [self._script.text(node)]
                case "$":
                    following = node.next_sibling
                    return ["" if following is not None and following.type == "string" else "$"]
                case other if other in _STATEMENTS:
                    self._run(node, state, None)
                    return [ANY]
                case _:
                    self._substitutions(node, state)
                    return [bare(self._script.text(node))]

    def _between(self, node: Node, start: int, end: int, escapes: re.Pattern[str], state: State) -> list[str]:
        """Quoted text with what is put into it."""
        values = [""]
        for child in node.children:
            if child.type in ("simple_expansion", "expansion", "command_substitution", "arithmetic_expansion"):
                # The piece may begin with the spaces before it.
                text = self._script.text(child)
                lead = text[: len(text) - len(text.lstrip())]
                before = self._script.between(start, child.start_byte) + lead
                values = _product(values, [escapes.sub(_unescaped, before)])
                values = _product(values, self._values(child, state, quoted=True))
                start = child.end_byte
        return _product(values, [escapes.sub(_unescaped, self._script.between(start, end))])

    @staticmethod
    def _spread(state: State, values: Iterable[str], quoted: bool) -> list[str]:
        if quoted:
            return list(values)
        if "IFS" in state.variables:
            apart = f"[{re.escape(''.join(state.variables['IFS'])[:100])} ]"
            values = [re.sub(apart, CUT, value) for value in values]
        return [unquoted(value) for value in values]

    @staticmethod
    def _value_of(name: str, state: State) -> tuple[str, ...]:
        return tuple(
            value.partition(CUT)[0] if name.isidentifier() and CUT in value else value for value in state.look_up(name)
        )

    def _expansion(self, node: Node, state: State) -> Sequence[str]:
        """``${…}``: the value, a default for it, or a part of it."""
        found = _PARAMETER.match(self._script.text(node))
        if found is None:
            self._substitutions(node, state)
            return [ANY]
        mark, name, index, rest = found[1], found[2], found[3] or "", found[4]
        if mark == "#":
            return [ANY]
        values = state.look_up(name)
        if index[1:-1].isdigit():
            values = tuple(
                (each.split(CUT)[int(index[1:-1]) :] or [""])[0] if len(index) < 8 else ANY for each in values
            )
        elif not index and name.isidentifier():
            values = self._value_of(name, state)
        if mark == "!":
            return [one for each in values for one in (state.look_up(each) if each.isidentifier() else (ANY,))]
        if not rest:
            return values
        operand = self._operand(node, state)
        colon = rest[1:2] if rest[0] == ":" else rest[0]
        if colon in ("-", "=") or colon == "+":
            empty = [one for one in values if one in ("", MAYBE)]
            full = [one for one in values if one not in ("", MAYBE)]
            if colon == "+":
                return [*(operand if full else ()), *(operand if MAYBE in empty else ()), *("" for _ in empty)]
            chosen = [*full, *(operand if empty else ()), *(ANY for one in empty if one == MAYBE)]
            if colon == "=":
                state.assign(name, chosen)
            return chosen
        if colon == "?":
            return [one for one in values if one not in ("", MAYBE)] or [ANY]
        return [one for value in values for one in _changed(value, rest)]

    def _operand(self, node: Node, state: State) -> list[str]:
        children = node.children
        place = next(
            (n for n, child in enumerate(children) if child.type.strip(":") in ("-", "=", "+", "?", "#", "%", "/")), -1
        )
        values = [""]
        if place >= 0:
            for child in children[place + 1 : -1]:
                values = _product(values, self._values(child, state))
        else:
            self._substitutions(node, state)
        return [text_of(CUT.join(fields(value, state.home))) for value in values]

    def _substitute(self, node: Node, state: State) -> str:
        text = self._script.text(node)
        inner = state.copy()
        if text.lstrip().startswith("`"):
            printed = self.read(re.sub(r"\\([$`\\])", r"\1", text.strip()[1:-1]), inner, self._given)
        else:
            given = self._given
            printed = self._sequence(node.children, inner, given)
            self._given = given
            for child in node.children:
                if child.type == "file_redirect":  # $(<file)
                    flow = _Flow(self, [child], inner, None)
                    printed = flow.given if flow.given is not None else ANY
        return whole(printed).rstrip("\n")

    def _pipe(self, node: Node, state: State) -> str:
        """A process behind a name of a file."""
        path = f"/dev/fd/{63 + next(self._pipes)}"
        given = self._given
        into = self._script.text(node).startswith(">")
        state.files[path] = self._sequence(node.children, state.copy(), given if into else None)
        self._given = given
        return path

    def _substitutions(self, node: Node, state: State) -> None:
        """Run what a shell runs to put its output in, wherever it stands."""
        waiting = [node]
        while waiting:
            one = waiting.pop()
            self.step()
            if one.type in _SUBSTITUTES:
                self._values(one, state)
            else:
                waiting += one.children

    def body_of(self, node: Node, state: State, *, plain: bool) -> Output:
        """The body of a here-document; what it runs is read at once, the text only if it is asked for."""
        script = self._script
        text = script.text(node)
        if plain or not re.search(r"[$`\\]", text):
            return text
        if "$(" in text:
            self._substitutions(node, state)
        for found in re.finditer(r"(?s)`((?:\\.|[^`\\])*)`", text):  # which the grammar leaves as text
            self.read(re.sub(r"\\([$`\\])", r"\1", found[1]), state.copy())
        known = state.copy()

        def make() -> str:
            outer, self._script = self._script, script
            try:
                values = self._between(node, node.start_byte, node.end_byte, _HEREDOC_PIECE, known)
            finally:
                self._script = outer
            return "\n".join(values)

        return Text(make)

    def program(self, word: str, known: Iterable[str]) -> str:
        """The name of a program without its folder; of a pattern, the first of ``known`` that it matches."""
        name = word.rstrip("/").rpartition("/")[2]
        if not is_glob(name):
            return name
        pattern = name.replace(STAR, "*").replace(ONE, "?").replace(SET, "[")
        return next((one for one in known if fnmatchcase(one, pattern)), name)


class _Within:
    """Counts how deep one is."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def __enter__(self) -> None:
        self._reader._depth += 1
        if self._reader._depth > MAX_DEPTH:
            raise Unreadable("it is nested too deeply")

    def __exit__(self, *_: object) -> None:
        self._reader._depth -= 1


class _Flow:
    """The redirections of a command: what it is given, and where its output goes."""

    def __init__(self, reader: Reader, nodes: Sequence[Node], state: State, given: Output | None) -> None:
        self._reader = reader
        self._state = state
        self._targets: list[tuple[list[str], bool, bool]] = []  # files, added to, that of the output
        self._into: list[Node] = []
        self.given = given
        self.words: list[Node] = []  # arguments that stand behind a redirection
        self.piped: list[Node] = []
        self.then: list[tuple[str, Node]] = []
        for node in nodes:
            self._take(node)

    def _take(self, node: Node) -> None:
        reader, state = self._reader, self._state
        if node.type == "file_redirect":
            self._file(node)
        elif node.type == "herestring_redirect":
            words = [child for child in node.children if child.is_named]
            values = [
                text_of(CUT.join(fields(one, state.home)))
                for child in words[:1]
                for one in reader._values(child, state)
            ]
            self.given = "\n".join(values)
            self.words += words[1:]
        elif node.type == "heredoc_redirect":
            plain, operator = False, ""
            for child in node.children:
                match child.type:
                    case "heredoc_start":
                        plain = bool(re.search(r"['\"\\]", reader._script.text(child)))
                    case "heredoc_body":
                        self.given = reader.body_of(child, state, plain=plain)
                    case "heredoc_end" | "<<" | "<<-" | "comment" | "file_descriptor":
                        pass
                    case "file_redirect" | "herestring_redirect":
                        self._take(child)
                    case "pipeline":
                        self.piped.append(child)
                    case "&&" | "||":
                        operator = child.type
                    case other if operator and other in _STATEMENTS:
                        self.then.append((operator, child))
                    case "ERROR":
                        reader._run(child, state, None)
                    case _ if child.is_named:
                        self.words.append(child)

    def _file(self, node: Node) -> None:
        reader, state = self._reader, self._state
        operator, descriptor, words = "", "", []
        for child in node.children:
            if child.type == "file_descriptor":
                descriptor = reader._script.text(child)
            elif child.is_named:
                words.append(child)
            else:
                operator = child.type
        self.words += words[1:]
        if not words:
            return
        if words[0].type == "process_substitution" and operator.startswith((">", "&>")):
            self._into.append(words[0])
            return
        found = [field for value in reader._values(words[0], state) for field in fields(value, state.home)]
        if operator in ("<", "<&") and not (
            words[0].type == "ERROR" or (len(node.children) > 2 and node.children[-2].type == "ERROR")
        ):
            texts = [whole(state.files[path]) for word in found for path in state.paths(word) if path in state.files]
            self.given = "\n".join(texts) if texts else ANY
        elif not (operator == ">&" and all(re.fullmatch(r"\d+-?|-", word) for word in found)):
            paths = [path for word in found for path in state.paths(word)]
            self._targets.append((paths, operator.endswith(">>"), descriptor in ("", "1")))
            reader.write(found, state, add=operator.endswith(">>"))

    def out(self, run: Callable[[Output | None], Output]) -> Output:
        printed = run(self.given)
        for node in self._into:
            self._reader._given = printed
            self._reader._pipe(node, self._state)
            self._reader._given = None
        for paths, add, standard in self._targets:
            if standard:
                for path in paths:
                    if _AT_START.fullmatch(path):
                        self._reader.read(whole(printed), self._state.copy())
                    before = self._state.files.get(path)
                    self._state.files[path] = _joined([before, printed]) if add and before is not None else printed
        return "" if any(standard for _, _, standard in self._targets) else printed


def unmarked_piece(text: str) -> str:
    return text


def _joined(parts: Sequence[Output]) -> Output:
    full = [part for part in parts if part != ""]
    if len(full) < 2:
        return full[0] if full else ""
    return Text(lambda: "".join(map(whole, full)))


def _product(left: list[str], right: Sequence[str]) -> list[str]:
    if len(left) * len(right) > MAX_PRODUCT:
        raise Unreadable("one of its words has too many values")
    found = [one + more for one in left for more in right]
    if found and (len(found[0]) > MAX_LENGTH or sum(map(len, found)) > 10 * MAX_LENGTH):
        raise Unreadable("its words are too long")
    return found


def _unescaped(found: re.Match[str]) -> str:
    return "" if found[1] == "\n" else found[1]


def _ansi_c(found: re.Match[str]) -> str:
    code = int(found[1] or found[2] or found[3] or "0", 16) or int(found[4] or "0", 8)
    if code:
        return chr(code) if code < 0x100000 else "\ufffd"
    return _ANSI_C_NAMES.get(found[5] or "", found[5] or "")


def _changed(value: str, how: str) -> Iterator[str]:
    """A value after ``%…``, ``#…``, ``:from:to``, ``/from/to``, ``^`` or ``,``."""
    if "$" in how or "`" in how or ANY in value or OPAQUE in value:
        yield ANY
    elif part := re.fullmatch(r":\s*(-?\d{1,6})(?::\s*(-?\d{1,6}))?", how):
        start = int(part[1])
        if part[2] is None:
            yield value[start:]
        else:
            count = int(part[2])
            yield value[start:][:count]
    elif how[0] in "%#":
        yield _trimmed(value, how)
    elif how[0] in "^,":
        yield value.upper() if how.startswith("^^") else value.lower() if how.startswith(",,") else value
    elif (part := re.fullmatch(r"//?([^/]*)/?(.*)", how)) and not re.search(r"[*?\[\\#%]", part[1]):
        yield (
            value.replace(part[1], part[2].replace("\\/", "/"), -1 if how.startswith("//") else 1) if part[1] else value
        )
    else:
        yield ANY


def _trimmed(value: str, how: str) -> str:
    mark, greedy = how[0], how[1:2] == how[0]
    pattern = how[2 if greedy else 1 :].replace("\\", "").strip("'\"")
    if len(value) > 512 or len(pattern) > 512:
        return ANY
    cuts = range(len(value) + 1)
    if mark == "%":
        ends = [cut for cut in cuts if fnmatchcase(value[cut:], pattern)]
        return value if not ends else value[: min(ends) if greedy else max(ends)]
    starts = [cut for cut in cuts if fnmatchcase(value[:cut], pattern)]
    return value if not starts else value[max(starts) if greedy else min(starts) :]

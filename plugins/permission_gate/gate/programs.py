"""What becomes of a command line: what the shell does itself, what starts another program, and what is printed.

Each of the tables holds functions or words for programs of one kind. What is in none of them is judged by the rules,
and prints what is not known.
"""

from __future__ import annotations

import base64
import binascii
import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import attrs

from . import code, windows
from .marks import ANY, CUT, HOME, MAYBE, OPAQUE, STAR, TILDE, Unreadable, bare, is_glob, names, spelled, text_of
from .reader import Reader
from .rules import TELLING, Rules, Words, find_filters, find_roots, unsure
from .state import Output, State, Text, plain, whole

SHELLS: Final = names("sh bash zsh dash ksh ash fish mksh yash rbash csh tcsh pdksh busybox-sh")
_FILTERS: Final = names("sort uniq head tail tac nl grep egrep fgrep rg pv column fmt fold unbuffer ts less more")
_CHANGES: Final = names("tr sed awk gawk mawk cut rev perl python python3 ruby jq paste xxd od hexdump iconv node php")
_DECODES: Final = names(
    "base64 base32 basenc openssl gunzip zcat gzip bunzip2 bzcat bzip2 xzcat unxz xz zstdcat uudecode gpg",
    "uncompress lz4cat brotli ascii85 xxd rev tr",
)
_PACKERS: Final = names("gunzip zcat gzip bunzip2 bzcat bzip2 xzcat unxz xz zstdcat uncompress lz4cat brotli")


@attrs.frozen
class _Wrapper:
    """A program that runs the words that follow it."""

    values: str = ""  # letters of options that have a value of their own
    before: int = 0  # words that stand before the program
    text: str = ""  # the option, or options, whose value is a script
    joined: bool = False  # the words are put together and given to a shell


_PLAIN: Final = _Wrapper()
_WRAPPERS: Final[Mapping[str, _Wrapper]] = {
    "sudo": _Wrapper("ugpChrtTDRU"),
    "doas": _Wrapper("uC"),
    "pkexec": _Wrapper("u"),
    "su": _Wrapper("cgGsw", before=9, text="c"),
    "runuser": _Wrapper("cgGsu", text="c"),
    "env": _Wrapper("uC"),
    "nice": _Wrapper("n"),
    "ionice": _Wrapper("cnpPu"),
    "chrt": _Wrapper("TPD", before=1),
    "time": _Wrapper("fo"),
    "timeout": _Wrapper("ks", before=1),
    "gtimeout": _Wrapper("ks", before=1),
    "stdbuf": _Wrapper("ioe"),
    "exec": _Wrapper("a"),
    "chroot": _Wrapper(before=1),
    "flock": _Wrapper("wEc", before=1, text="c"),
    "taskset": _Wrapper("", before=1),
    "setarch": _Wrapper("", before=0),
    "watch": _Wrapper("nq", joined=True),
    "ssh": _Wrapper("bcDEeFIiJLlmOopQRSWw", before=1, joined=True),
    "strace": _Wrapper("aeEIopsuPXbO"),
    "ltrace": _Wrapper("aeonsux"),
    "script": _Wrapper("cEoT", before=9, text="c"),
    "nsenter": _Wrapper("tSG"),
    "unshare": _Wrapper("SGRw"),
    "systemd-run": _Wrapper("pHMut"),
    "firejail": _PLAIN,
    "faketime": _Wrapper("", before=1),
    "xvfb-run": _Wrapper("nsepfw"),
    "cpulimit": _Wrapper("lpe"),
    "trickle": _Wrapper("duwtlp"),
    "proxychains": _Wrapper("f"),
    "proxychains4": _Wrapper("f"),
    "caffeinate": _Wrapper("tw"),
    "entr": _PLAIN,
    "perf": _Wrapper("eop", before=1),
    "screen": _Wrapper("SchpTste"),
    "wsl": _Wrapper("du"),
    "gdb": _Wrapper("x"),
    "valgrind": _PLAIN,
    "bwrap": _PLAIN,
    "hyperfine": _Wrapper("wrmMnLpsc", joined=True),
    **dict.fromkeys(
        [
            "nohup",
            "setsid",
            "command",
            "builtin",
            "coproc",
            "busybox",
            "toybox",
            "fakeroot",
            "unbuffer",
            "winpty",
            "rlwrap",
            "torsocks",
            "torify",
            "catchsegv",
            "dbus-run-session",
            "linux64",
            "linux32",
            "noglob",
            "nocorrect",
            "-",
            "then",
            "do",
            "else",
            "if",
            "while",
            "until",
            "elif",
            "!",
            "{",
            "eatmydata",
            "chronic",
            "sudoedit",
            "direnv-exec",
            "prlimit",
            "optirun",
            "primusrun",
            "daemonize",
            "stdoutisatty",
            "setpriv",
            "minijail0",
            "ts",
        ],
        _PLAIN,
    ),
}
# Programs whose first words choose what to do: these run the words that follow.
_RUN_WORDS: Final[Mapping[str, tuple[str, ...]]] = {
    "uv": ("run",),
    "poetry": ("run",),
    "pipenv": ("run",),
    "bundle": ("exec",),
    "conda": ("run",),
    "npx": (),
    "bunx": (),
    "pnpm": ("exec", "dlx"),
    "yarn": ("exec", "dlx"),
    "adb": ("shell",),
    "direnv": ("exec",),
    "vagrant": ("ssh",),
}


class Programs:
    """Decides on each program that a reader comes to.

    Args:
        rules: The rules as they are set.
    """

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._builtins: Final[dict[str, Callable[[Reader, list[str], State, Output | None], Output]]] = {
            **dict.fromkeys(("cd", "chdir", "pushd", "popd"), self._cd),
            **dict.fromkeys(("set", "shift"), self._set),
            **dict.fromkeys(("read", "mapfile", "readarray"), self._read),
            **dict.fromkeys(("exit", "return", "break", "continue", "logout"), self._end),
            **dict.fromkeys(("source", "."), self._source),
            **dict.fromkeys(("export", "declare", "local", "typeset", "readonly"), self._export),
            **dict.fromkeys(("echo", "print"), self._echo),
            **dict.fromkeys(("parallel", "sem"), self._parallel),
            **dict.fromkeys(("docker", "podman", "nerdctl"), self._container),
            **dict.fromkeys(("powershell", "pwsh", "powershell.exe", "pwsh.exe"), self._powershell),
            **dict.fromkeys(("cmd", "cmd.exe"), self._cmd),
            **dict.fromkeys(("ls", "dir"), self._ls),
            **dict.fromkeys(("which", "realpath", "readlink", "dirname", "basename"), self._names),
            **dict.fromkeys(("tmux", "expect", "nix-shell", "nix"), self._quoted_script),
            **dict.fromkeys(("at", "batch"), self._at),
            "alias": self._alias,
            "unalias": self._unalias,
            "eval": self._eval,
            "trap": self._trap,
            "printf": self._printf,
            "cat": self._cat,
            "tee": self._tee,
            "yes": self._yes,
            "pwd": self._pwd,
            "find": self._find,
            "xargs": self._xargs,
            "make": self._make,
            "git": self._git,
            "crontab": self._at,
        }

    def launch(self, reader: Reader, words: list[str], state: State, given: Output | None) -> Output:
        """Follow one command line; return what it prints."""
        wrapped = False  # what another program starts is never a function
        while True:
            reader.step()
            if not words:
                return ""
            if re.match(r"[A-Za-z_]\w*\+?=", words[0]):  # an assignment that a wrapper was given, or a quoted one
                name, _, value = words[0].partition("=")
                state = state.copy()
                state.assign(name.rstrip("+"), [value])
                words = words[1:]
                continue
            if words[0] in state.functions and not wrapped:
                return reader.call(words[0], words, state, given)
            name = reader.program(words[0], TELLING)
            low = name.lower()
            if name in self._builtins:
                self._rules.check(name, words[1:], state)
                return self._builtins[name](reader, words, state, given)
            if name == "command" and words[1:2] in (["-v"], ["-V"]):
                return "".join(f"{word}\n" for word in words[2:])
            if name in SHELLS:
                return self._shell(reader, words, state, given)
            if (inner := self._unwrapped(reader, name, words, state, given)) is not None:
                words, state = inner
                wrapped = True
                continue
            break
        as_written = reader.as_written or " ".join(map(_for_windows, words))
        if windows.is_command(low) or (low in ("rm", "rmdir") and windows.LOOKS_IT.search(as_written)):
            self._windows(as_written)
            if "<<" not in reader.script_text:  # what comes through a pipe stands in another command
                self._windows(reader.script_text)
        if not windows.is_command(low):
            by_input = name in ("fdisk", "gdisk") and given is not None  # what it is to do comes through a pipe
            self._rules.check("sfdisk" if by_input else name, words[1:], state)
        self._unknown(reader, words, state)
        self._code(reader, name, words, state, given)
        if name in ("cp", "ln", "mv") and len(targets := Words(words[1:]).targets) > 1:
            self._renamed(reader, targets, state)
        known = next((state.files[path] for path in state.paths(words[0]) if path in state.files), None)
        if known is not None and "/" in words[0]:
            return self.script(reader, whole(known), words, state, given)
        return self._printed(name, words, state, given)

    @staticmethod
    def _renamed(reader: Reader, targets: Sequence[str], state: State) -> None:
        """A program, or a script, under another name."""
        for path in state.paths(targets[-1]):
            for source in targets[:-1]:
                name = reader.program(source, TELLING)
                known = next((state.files[one] for one in state.paths(source) if one in state.files), None)
                text = f'{name} "$@"' if name in TELLING or name in SHELLS else known
                if text is not None:
                    state.files[path] = state.files[f"{path}/{name}"] = text

    def script(self, reader: Reader, text: str, words: Sequence[str], state: State, given: Output | None) -> Output:
        """A script in a file of its own, with arguments."""
        if found := re.match(r"#!\s*(?:/usr/bin/env\s+(?:-S\s+)?)?(\S+)", text):
            name = found[1].rpartition("/")[2]
            if name not in SHELLS:
                self.look_at_code(reader, text, state)
                return ANY
        inner = state.copy()
        inner.arguments = tuple(words[1:])
        return reader.read(text, inner, given)

    def _unknown(self, reader: Reader, words: Sequence[str], state: State) -> None:
        """A program whose name is not known, over something that is kept."""
        if not unsure(words[0]):
            return
        name = words[0].strip(ANY + MAYBE)
        if OPAQUE in words[0] and (len(words) == 1 or any(self._rules.reaches(word, state) for word in words[1:])):
            reader.doubts.append("the name of a program comes out of a decoder or a filter")
        elif (
            "/" not in name
            and any(self._rules.reaches(word, state) for word in words[1:])
            and Words(words[1:]).has("rRf", "--")
        ):
            reader.doubts.append(f"it runs a program whose name is not known on {spelled(' '.join(words[1:]))[:100]}")

    # -- shells and wrappers -------------------------------------------------------------------------------------------

    def _shell(self, reader: Reader, words: list[str], state: State, given: Output | None) -> Output:
        inner = state.copy()
        place, script = 1, False
        while place < len(words):
            word = words[place]
            if word in ("--rcfile", "--init-file", "-o", "+o", "-O", "+O"):
                place += 2
                continue
            if word == "--" or word == "-":
                place += 1
                break
            if not re.match(r"[-+].", word):
                break
            script = (
                script or (word.startswith("-") and not word.startswith("--") and "c" in word) or word == "--command"
            )
            if "s" in word and not word.startswith("--"):
                return self._piped(reader, inner, words[place + 1 :], given)
            place += 1
        rest = words[place:]
        if script:
            if not rest:
                return ""
            inner.arguments = tuple(rest[2:])
            inner.assign("0", rest[1:2] or ["bash"])
            return reader.read(rest[0], inner, given)
        if rest and rest[0] not in ("/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"):
            return self._file(reader, rest, inner, given)
        return self._piped(reader, inner, rest[1:], given)

    def _file(self, reader: Reader, words: Sequence[str], state: State, given: Output | None) -> Output:
        printed: Output = ANY
        for path in state.paths(words[0]):
            if path in state.files:
                printed = self.script(reader, whole(state.files[path]), words, state, given)
        return printed

    def _piped(self, reader: Reader, state: State, arguments: Sequence[str], given: Output | None) -> Output:
        state.arguments = tuple(arguments)
        if given is None:
            return ANY
        text = whole(given)
        return reader.read(text, state) if text.strip(f"{ANY} \n") else ANY

    def _unwrapped(
        self, reader: Reader, name: str, words: list[str], state: State, given: Output | None
    ) -> tuple[list[str], State] | None:
        """The command line within another, and what is known there; None where it holds none."""
        if name in _RUN_WORDS:
            wanted = _RUN_WORDS[name]
            rest = [word for word in words[1:] if not word.startswith("-") or word == "-c"] if not wanted else words[1:]
            for place, word in enumerate(rest[:6] if wanted else rest[:1]):
                if not wanted or word in wanted:
                    inner = rest[place + bool(wanted) :]
                    while inner and inner[0].startswith("-") and inner[0] != "-c":
                        inner = inner[1:]
                    if inner[:1] == ["-c"]:
                        reader.read(" ".join(inner[1:]), state.copy(), given)
                    return (["sh", "-c", " ".join(inner)], state) if name in ("adb", "vagrant") else (inner, state)
            return None
        if name == "screen":
            self._quoted_script(reader, words, state, given)
        wrapper = _WRAPPERS.get(name)
        if wrapper is None:
            return None
        if name == "exec" and len(words) > 1:
            state.ended = True
        rest, before, doubtful = words[1:], wrapper.before, None
        while rest:
            word = rest[0]
            if word == "--":
                rest = rest[1:]
                rest, before = rest[before:], 0
                break
            if word.startswith("--"):
                key, equals, value = word.partition("=")
                if key in ("--command", "--session-command") and wrapper.text:
                    return ["sh", "-c", value if equals else " ".join(rest[1:2])], state
                if key == "--split-string":
                    return ["sh", "-c", " ".join([value, *rest[1:]])], state
                if key in ("--chdir", "--working-directory", "--workdir"):
                    state = state.copy()
                    state.go([value if equals else " ".join(rest[1:2])])
                    rest = rest[1 if equals else 2 :]
                    continue
                rest = rest[1:]
                # Whether the next word is its value, or the program, is not known for each: both are looked at.
                if not equals and len(rest) > 1 and doubtful is None and not rest[0].startswith("-"):
                    doubtful = rest[1:]
                continue
            if word.startswith("-") and len(word) > 1:
                letter = next((one for one in word[1:] if one in wrapper.values), "")
                value = word.partition(letter)[2] if letter else ""
                taken = 1 if not letter or value else 2
                value = value or " ".join(rest[1:2])
                if name == "env" and "S" in word[1:]:
                    return ["sh", "-c", " ".join([word.partition("S")[2], *rest[1:]])], state
                if letter and letter in wrapper.text:
                    return ["sh", "-c", value], state
                if letter and name in ("env", "sudo") and letter in "CD":
                    state = state.copy()
                    state.go([value])
                rest = rest[taken:]
                continue
            if (
                name in ("su", "runuser")
                and wrapper.text
                and any(one == "-c" or one.startswith("--command") for one in rest)
            ):
                rest = rest[1:]
                continue
            if name in ("env", "sudo", "doas", "env.exe") and re.match(r"[A-Za-z_]\w*=", word):
                state = state.copy()
                key, _, value = word.partition("=")
                state.assign(key, [value])
                rest = rest[1:]
                continue
            if before:
                before -= 1
                rest = rest[1:]
                if name == "flock" and rest[:1] == ["-c"]:
                    return ["sh", "-c", " ".join(rest[1:2])], state
                continue
            if name == "setarch" and re.fullmatch(r"x86_64|i\d86|linux\d\d|aarch64|uname26", word):
                rest = rest[1:]
                continue
            break
        if doubtful and name not in ("ssh", "watch"):
            with reader.within():
                self.launch(reader, doubtful, state.copy(), given)
        if not rest:
            if name in ("su", "sudo", "ssh", "doas", "pkexec") and given is not None:
                return ["sh", "-s"], state
            return None
        if wrapper.joined:
            return ["sh", "-c", " ".join(rest)], state.copy() if name != "ssh" else _elsewhere(state)
        return rest, state

    # -- what the shell does itself ------------------------------------------------------------------------------------

    def _cd(self, reader: Reader, words: list[str], state: State, given: Output | None) -> Output:
        targets = [word for word in words[1:] if not re.fullmatch(r"-[PLe@n]+|--", word)]
        if words[0] == "popd":
            if state.stack:
                state.before, state.folders = state.folders, state.stack.pop()
            return ""
        if words[0] == "pushd":
            state.stack.append(state.folders)
        if targets[:1] == ["-"]:
            state.before, state.folders = state.folders, state.before
        elif words[0] != "pushd" or targets:
            state.go(targets or [HOME])
        return ""

    def _set(self, reader: Reader, words: list[str], state: State, given: Output | None) -> Output:
        if words[0] == "shift":
            count = int(words[1]) if len(words) > 1 and words[1].isdigit() and len(words[1]) < 6 else 1
            state.arguments = None if state.arguments is None else state.arguments[count:]
        elif "--" in words:
            state.arguments = tuple(words[words.index("--") + 1 :])
        elif len(words) > 1 and not words[1].startswith(("-", "+")):
            state.arguments = tuple(words[1:])
        return ""

    def _read(self, reader: Reader, words: list[str], state: State, given: Output | None) -> Output:
        names = [word for word in Words(words[1:]).targets if word.isidentifier()]
        apart = "".join(state.variables.get("IFS", ())) or None
        text = ANY if given is None else whole(given)
        lines = [line for line in re.split(r"[\n\0]", text) if line] or [ANY]
        if words[0] == "read" and "-a" not in words:
            for place, name in enumerate(names):
                last = place == len(names) - 1
                state.assign(name, [_part(line, place, last, apart) for line in lines])
        else:
            state.assign((names or ["MAPFILE"])[-1], [CUT.join(lines)])
        return ""

    def _end(self, reader: Reader, words: list[str], state: State, given: Output | None) -> Output:
        state.ended = True
        return ""

    def _source(self, reader: Reader, words: list[str], state: State, given: Output | None) -> Output:
        if words[1:2] in (["/dev/stdin"], ["/dev/fd/0"]):
            return reader.read(whole(given), state)
        for word in words[1:2]:
            for path in state.paths(word):
                if path in state.files:
                    return reader.read(whole(state.files[path]), state)
        return ANY

    def _export(self, reader: Reader, words: list[str], state: State, given: Output | None) -> Output:
        for word in words[1:]:
            name, equals, value = word.partition("=")
            if equals and name.isidentifier():
                state.assign(name, [value])
        return ""

    def _alias(self, reader: Reader, words: list[str], state: State, given: Output | None) -> Output:
        for word in words[1:]:
            name, equals, value = word.partition("=")
            if equals:
                state.aliases[name] = value
                if Words(value.split()[1:]).targets != [] and value.split()[:1] != [name]:
                    reader.read(value, state.copy())
        return ""

    def _unalias(self, reader: Reader, words: list[str], state: State, given: Output | None) -> Output:
        for word in words[1:]:
            state.aliases.pop(word, None)
        return ""

    def _eval(self, reader: Reader, words: list[str], state: State, given: Output | None) -> Output:
        return reader.read(" ".join(words[1:]), state, given)

    def _trap(self, reader: Reader, words: list[str], state: State, given: Output | None) -> Output:
        for word in [word for word in words[1:] if word != "--"][:1]:
            reader.read(word, state.copy())
            reader.at_the_end.append(word)
        return ""

    # -- what is printed -----------------------------------------------------------------------------------------------

    def _echo(self, reader: Reader, words: list[str], state: State, given: Output | None) -> Output:
        rest = words[1:]
        escapes = False
        while rest and re.fullmatch("-[neE]+", rest[0]):
            escapes = escapes or "e" in rest[0]
            rest = rest[1:]
        text = " ".join(rest)
        return f"{_escaped(text) if escapes or chr(92) in text else text}\n"

    def _printf(self, reader: Reader, words: list[str], state: State, given: Output | None) -> Output:
        rest = words[1:]
        name = ""
        if rest[:1] == ["-v"]:
            name, rest = "".join(rest[1:2]), rest[2:]
        if rest[:1] == ["--"]:
            rest = rest[1:]
        if not rest:
            return ""
        shape, values = _escaped(rest[0]), rest[1:]
        count = len(re.findall(r"%[-+ #0\d.*]*[a-zA-Z]", shape))
        rounds = [values[at : at + count] for at in range(0, len(values), count)] if count else [[]]
        text = "".join(_formatted(shape, some) for some in rounds or [[]])
        if name.isidentifier():
            state.assign(name, [text])
            return ""
        return text

    def _cat(self, reader: Reader, words: list[str], state: State, given: Output | None) -> Output:
        files = Words(words[1:]).targets
        if not files or files == ["-"]:
            return given if given is not None else ANY
        printed = [_content(word, state, given) for word in files]
        return printed[0] if len(printed) == 1 else "".join(map(whole, printed))

    def _tee(self, reader: Reader, words: list[str], state: State, given: Output | None) -> Output:
        printed = given if given is not None else ANY
        for word in Words(words[1:]).targets:
            for path in state.paths(word):
                state.files[path] = printed
        self._written_files(words, state)
        return printed

    def _written_files(self, words: Sequence[str], state: State) -> None:
        for word in Words(words[1:]).targets:
            for path in state.paths(word):
                self._rules.redirected(path, True)

    def _yes(self, reader: Reader, words: list[str], state: State, given: Output | None) -> Output:
        return f"{' '.join(words[1:]) or 'y'}\n"

    def _pwd(self, reader: Reader, words: list[str], state: State, given: Output | None) -> Output:
        return "".join(f"{folder or ANY}\n" for folder in state.folders)

    def _ls(self, reader: Reader, words: list[str], state: State, given: Output | None) -> Output:
        said = Words(words[1:])
        if said.has("d", "--directory"):
            return "".join(f"{word}\n" for word in said.targets)
        if said.has("l", "--format") or len(said.targets) > 1:
            return "".join(f"{plain(word)}\n{STAR}\n" for word in said.targets) or f"{STAR}\n"
        names = [word for word in said.targets if is_glob(word)]
        return "".join(f"{word}\n" for word in names) or f"{STAR}\n"

    def _names(self, reader: Reader, words: list[str], state: State, given: Output | None) -> Output:
        targets = list(Words(words[1:]).targets)
        match words[0].rpartition("/")[2]:
            case "which":
                return "".join(f"/usr/bin/{word}\n" for word in targets)
            case "dirname":
                return "".join(f"{_dirname(word)}\n" for word in targets)
            case "basename":
                return "".join(f"{word.rstrip('/').rpartition('/')[2] or '/'}\n" for word in targets[:1])
            case _:
                return "".join(f"{path or ANY}\n" for word in targets for path in state.paths(word))

    def _printed(self, name: str, words: list[str], state: State, given: Output | None) -> Output:
        """What else is printed: of what is given, as far as that is known."""
        if name in _FILTERS and given is not None:
            return given
        if name in ("printenv", "mktemp"):
            return "\n".join(state.look_up(words[1])) if name == "printenv" and len(words) > 1 else f"/tmp/{ANY}"
        if name == "type":
            return "".join(f"{word}\n" for word in words[1:] if not word.startswith("-"))
        if name in _DECODES and name not in ("tr", "rev"):
            return self._decoded(name, words, state, given)
        if name == "rev" and given is not None:
            return "\n".join(line[::-1] for line in whole(given).split("\n"))
        if name == "tr" and given is not None:
            return _translated(whole(given), words)
        if code.is_interpreter(name) and given is None and code.given(name, words):
            return OPAQUE
        if name in _CHANGES and given is not None:
            text = whole(given)
            # A text that is known through and through is hidden by this; one that is not is what scripts work on.
            return ANY if unsure(text) or not text.strip(f"{STAR}\n /") else OPAQUE
        return ANY

    def _decoded(self, name: str, words: list[str], state: State, given: Output | None) -> Output:
        said = Words(words[1:])
        if name in ("base64", "base32", "basenc", "openssl") and not said.has("dD", "--decode"):
            return ANY
        if name in ("gzip", "bzip2", "xz", "brotli") and not said.has("dc", "--decompress"):
            return ANY
        if name == "gpg" and not said.has("d", "--decrypt"):
            return ANY
        if name == "xxd" and not said.has("r", "--revert"):
            return ANY
        files = [word for word in said.targets if word not in ("enc", "base64", "aes-256-cbc")]
        text = whole(_content(files[0], state, given)) if files else whole(given)
        if unsure(text) or name in _PACKERS:
            return OPAQUE
        try:
            match name:
                case "base64":
                    return base64.b64decode(text, validate=False).decode()
                case "base32":
                    return base64.b32decode("".join(text.split())).decode()
                case "xxd":
                    return bytes.fromhex("".join(text.split())).decode()
                case "openssl":
                    return base64.b64decode(text).decode() if "base64" in said.all or "-base64" in said.all else OPAQUE
        except (ValueError, binascii.Error):
            pass
        return OPAQUE

    # -- what runs other programs --------------------------------------------------------------------------------------

    def _find(self, reader: Reader, words: list[str], state: State, given: Output | None) -> Output:
        rest = words[1:]
        filtered = find_filters(rest)
        roots = find_roots(rest)
        some = f"{ANY}/{ANY}"
        found = [f"{root.rstrip('/')}/{some}" for root in roots]
        name = bare(Words(rest).option_value("-name", "-iname"))
        found += [f"{root.rstrip('/')}/{name}" for root in roots if name and root.startswith("/dev")]
        if not filtered:
            found = [one for root in roots for one in (root, f"{root.rstrip('/')}/{STAR}")]
        place = 0
        while place < len(rest):
            if rest[place] in ("-exec", "-execdir", "-ok", "-okdir"):
                end = next((at for at in range(place, len(rest)) if rest[at] in (";", "+")), len(rest))
                line = rest[place + 1 : end]
                for each in found:
                    inner = [one for word in line for one in ([each] if word == "{}" else [word.replace("{}", each)])]
                    with reader.within():
                        self.launch(reader, inner, state.copy(), None)
                place = end
            elif rest[place] in ("-fprint", "-fprintf", "-fls", "-fprint0"):
                self._rules.redirected("".join(rest[place + 1 : place + 2]), False)
            place += 1
        return "".join(f"{one}\n" for one in found)

    def _xargs(self, reader: Reader, words: list[str], state: State, given: Output | None) -> Output:
        rest, marker, source, by_line = words[1:], "", given, False
        while rest and rest[0].startswith("-") and len(rest[0]) > 1:
            word = rest[0]
            if word.startswith("--"):
                key, equals, value = word.partition("=")
                marker = (value or "{}") if key == "--replace" else marker
                by_line = by_line or key in ("--delimiter", "--null")
                has_value = key in ("--max-args", "--max-procs", "--delimiter", "--arg-file", "--max-chars")
                taken = 2 if has_value and not equals else 1
                value = value or "".join(rest[1:2])
                source = _content(value, state, given) if key == "--arg-file" else source
            else:
                letter = next((one for one in word[1:] if one in "InPLsdEaJR"), "")
                value = word.partition(letter)[2] if letter else ""
                taken = 1 if not letter or value else 2
                value = value or "".join(rest[1:2])
                by_line = by_line or letter == "d" or "0" in word
                marker = value if letter in ("I", "J") else "{}" if word == "-i" else marker
                source = _content(value, state, given) if letter == "a" else source
            rest = rest[taken:]
        rest = rest or ["echo"]
        text = whole(source)
        if OPAQUE in text:
            text = text.replace(OPAQUE, ANY)
        added = [line.strip() for line in re.split(r"[\n\0]|\\0", text) if line.strip()]
        if not marker and not by_line:
            added = [word.strip("'\"") for line in added for word in line.split()]
        added = [HOME + word[1:] if word == TILDE else word for word in added]
        if not added:
            return ""
        if marker:
            printed = []
            for word in added:
                with reader.within():
                    printed.append(
                        whole(self.launch(reader, [one.replace(marker, word) for one in rest], state.copy(), None))
                    )
            return "".join(printed)
        with reader.within():
            return self.launch(reader, [*rest, *added], state.copy(), None)

    def _parallel(self, reader: Reader, words: list[str], state: State, given: Output | None) -> Output:
        place = next((at for at, word in enumerate(words) if word.startswith(":::")), len(words))
        command = words[1:place]
        while command and command[0].startswith("-"):
            command = command[2 if re.fullmatch("-[jnNPLS]|--(jobs|max-args|joblog|delay|colsep)", command[0]) else 1 :]
        values = [word for word in words[place:] if not word.startswith(":::")]
        if place == len(words):
            values = [line for line in whole(given).split("\n") if line.strip()]
        for value in values or [""]:
            text = " ".join(command) or value
            line = text.replace("{}", value) if "{}" in text or not command else f"{text} {value}"
            reader.read(spelled_for_shell(line), state.copy())
        return ANY

    def _container(self, reader: Reader, words: list[str], state: State, given: Output | None) -> Output:
        """A container has folders of its own, but for those of the system that it is given."""
        mounts: list[tuple[str, str]] = []
        for place, word in enumerate(words):
            value = ""
            if word in ("-v", "--volume", "--mount"):
                value = "".join(words[place + 1 : place + 2])
            elif word.startswith(("-v", "--volume=", "--mount=")):
                value = word.partition("=")[2] if "=" in word and word.startswith("--") else word[2:]
            if "source=" in value or "src=" in value:
                pairs = dict(one.partition("=")[::2] for one in value.split(","))
                mounts.append(
                    (
                        pairs.get("source", pairs.get("src", "")),
                        pairs.get("target", pairs.get("dst", pairs.get("destination", ""))),
                    )
                )
            elif value.count(":") >= 1 and not value.endswith(":ro"):
                source, _, target = value.partition(":")
                mounts.append((source, target.partition(":")[0]))
        if not any(self._rules.reaches(source, state) for source, _ in mounts) or "run" not in words:
            return ANY
        for source, target in mounts:
            if not target.startswith("/") or not self._rules.reaches(source, state):
                continue
            at = plain(target)
            for start in range(words.index("run") + 1, len(words)):
                name = reader.program(words[start], TELLING)
                if name in SHELLS or name in TELLING:
                    line = [
                        re.sub(
                            rf"(?<![\w/]){re.escape(at)}(?=/|\W|$)", functools.partial(_instead, plain(source)), word
                        )
                        for word in words[start:]
                    ]
                    line = [plain(word) if word.startswith("//") else word for word in line]
                    inner = attrs.evolve(state.copy(), folders=(ANY,))
                    with reader.within():
                        self.launch(reader, line, inner, given)
                    break
        return ANY

    def _make(self, reader: Reader, words: list[str], state: State, given: Output | None) -> Output:
        file = Words(words[1:]).option_value("-f", "--file", "--makefile")
        texts = [_content(word, state, given) for word in (file or "Makefile", "makefile", "GNUmakefile")]
        for line in "\n".join(map(whole, texts)).splitlines():
            if line.startswith("\t"):
                reader.read(line.strip().lstrip("@-+").replace("$$", "$"), state.copy())
        return ANY

    def _git(self, reader: Reader, words: list[str], state: State, given: Output | None) -> Output:
        for word in words[1:]:
            found = re.match(r"alias\.[\w-]+=\s*!(.*)", word, re.DOTALL) or re.match(r"!(.+)", word, re.DOTALL)
            if found and ("-c" in words or "config" in words):
                reader.read(found[1], state.copy())
        if "filter-branch" in words or "bisect" in words or "foreach" in words or "rebase" in words:
            for word in words[2:]:
                if " " in word:
                    reader.read(word, state.copy())
            if "bisect" in words and "run" in words:
                with reader.within():
                    self.launch(reader, words[words.index("run") + 1 :], state.copy(), None)
        return ANY

    def _quoted_script(self, reader: Reader, words: list[str], state: State, given: Output | None) -> Output:
        for word in words[2:]:
            if re.search(r"\s", word):
                reader.read(re.sub(r"(?i)^(spawn|system)\s+|\bC-m$|\bEnter$", "", word), state.copy())
        return ANY

    def _at(self, reader: Reader, words: list[str], state: State, given: Output | None) -> Output:
        if given is not None:
            text = whole(given)
            if words[0].endswith("crontab"):
                text = re.sub(r"(?m)^\s*(@\w+|(\S+\s+){5})", "", text)
            if text.strip(f"{ANY}\n "):
                reader.read(text, state.copy())
        return ANY

    # -- other languages -----------------------------------------------------------------------------------------------

    def _code(self, reader: Reader, name: str, words: list[str], state: State, given: Output | None) -> None:
        text = code.given(name, words)
        if text is None and code.is_interpreter(name) and given is not None and Words(words[1:]).targets in ([], ["-"]):
            text = whole(given)
        if text is None and code.is_interpreter(name):
            for word in Words(words[1:]).targets[:1]:
                for path in state.paths(word):
                    if path in state.files:
                        text = whole(state.files[path])
        if text:
            self.look_at_code(reader, text, state)

    def look_at_code(self, reader: Reader, text: str, state: State) -> None:
        for kind, words in code.actions(text):
            reader.step()
            if kind == "shell":
                with reader.within():
                    reader.read(" ".join(words), state.copy())
            elif kind == "words":
                with reader.within():
                    self.launch(
                        reader,
                        [HOME + word[1:] if re.match(r"~(/|$)", word) else word for word in words],
                        state.copy(),
                        None,
                    )
            elif kind == "remove":
                for word in words:
                    for path in state.paths(HOME + word[1:] if word.startswith("~") else word):
                        self._rules.removed(path, "removing")
            elif kind == "write":
                for word in words:
                    self._rules.redirected(plain(word), False)
            elif kind == "bomb":
                self._rules.bomb("a process")
            else:
                reader.doubts.append("it runs code that it decodes first")

    def _powershell(self, reader: Reader, words: list[str], state: State, given: Output | None) -> Output:
        try:
            self._windows(windows.script_of(words) or (whole(given) if given is not None else ""))
        except Unreadable as error:
            reader.doubts.append(str(error))
        return ANY

    def _cmd(self, reader: Reader, words: list[str], state: State, given: Output | None) -> Output:
        self._windows(reader.as_written or " ".join(map(_for_windows, words)))
        return ANY

    def _windows(self, text: str) -> None:
        if reason := windows.danger(text_of(text)):
            self._rules.refuse("windows", reason)


def _elsewhere(state: State) -> State:
    """What is known on another machine: where one is at home, and no more."""
    return attrs.evolve(state.copy(), folders=(HOME,), files={})


def _content(word: str, state: State, given: Output | None) -> Output:
    if word in ("-", "/dev/stdin", "/dev/fd/0"):
        return given if given is not None else ANY
    return next((state.files[path] for path in state.paths(word) if path in state.files), ANY)


def _part(line: str, place: int, last: bool, apart: str | None) -> str:
    """The field of a line that ``read`` puts into one of several variables."""
    apart = apart if apart and len(apart) == 1 else None
    parts = line.split(apart, place) if last else line.split(apart)
    return parts[place] if place < len(parts) else ANY if ANY in line else ""


def _dirname(word: str) -> str:
    before, slash, _ = word.rstrip("/").rpartition("/")
    return before or slash or ("/" if word.startswith("/") else ".")


def _escaped(text: str) -> str:
    r"""``text`` with ``\n``, ``\x2f`` and ``\057`` as what they stand for."""

    def char(found: re.Match[str]) -> str:
        if found[1]:
            return chr(int(found[1], 16))
        if found[2]:
            return chr(int(found[2], 8) % 256)
        return {"n": "\n", "t": "\t", "0": "\0", "\\": "\\", "r": "\r", "a": "", "c": ""}.get(found[3], found[0])

    return re.sub(r"(?s)\\(?:x([0-9a-fA-F]{1,2})|0?([0-7]{1,3})|(.))", char, text)


def _formatted(shape: str, values: Sequence[str]) -> str:
    rest = iter(values)

    def one(found: re.Match[str]) -> str:
        if found[0] == "%%":
            return "%"
        value = next(rest, "")
        return _escaped(value) if found[0].endswith("b") else value

    return re.sub(r"%%|%[-+ #0\d.*]*[a-zA-Z]", one, shape)


def _translated(text: str, words: Sequence[str]) -> str:
    """What ``tr`` makes of a text."""
    said = Words(words[1:])
    sets = [_escaped(one) for one in said.targets]
    if unsure(text):
        return text if not text.strip(f"{ANY}{STAR}{MAYBE}\n /") else OPAQUE
    if any("[:" in one for one in sets):
        return OPAQUE if text.strip() else text
    if said.has("d", "--delete") and len(sets) == 1:
        gone = set(_letters(sets[0]))
        return "".join(char for char in text if char not in gone)
    if said.has("s", "--squeeze-repeats") and len(sets) == 1:
        return text
    if said.options or len(sets) != 2:
        return OPAQUE
    old, new = list(_letters(sets[0])), list(_letters(sets[1]))
    if not new:
        return OPAQUE
    table = {one: new[min(place, len(new) - 1)] for place, one in enumerate(old)}
    return "".join(table.get(char, char) for char in text)


def _letters(text: str) -> Iterator[str]:
    for found in re.finditer(r"(?s)(.)-(.)|.", text):
        if found[1]:
            yield from map(chr, range(ord(found[1]), min(ord(found[2]), ord(found[1]) + 1_000) + 1))
        else:
            yield found[0]


def _instead(text: str, _: re.Match[str]) -> str:
    return text


def _for_windows(word: str) -> str:
    return f'"{text_of(word)}"' if re.search(r"\s", word) else text_of(word)


def spelled_for_shell(line: str) -> str:
    return line.replace(TILDE, "~")


__all__ = ["SHELLS", "Programs", "Text"]

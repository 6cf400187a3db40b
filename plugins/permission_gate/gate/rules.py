"""What must not run: which places nothing may be removed from, and which programs remove, overwrite or lock them.

Each rule has a name, by which the settings switch it off.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from .marks import ANY, HOME, MAYBE, OPAQUE, Unreadable, is_broad, is_glob, matches, names, spelled
from .state import State, plain

RULES: Final = ("remove", "move", "permissions", "overwrite", "fork-bomb", "windows", "unreadable")

_Place = tuple[str, ...]  # the names on the way to it; "*" for any one


def _places(*groups: str) -> frozenset[_Place]:
    return frozenset(
        tuple(path.strip("/").split("/")) if path != "/" else () for group in groups for path in group.split()
    )


# Without these no system runs.
_SYSTEM: Final = _places(
    "/ /bin /boot /dev /etc /lib /lib32 /lib64 /libx32 /proc /root /run /sbin /sys /usr /var",
    "/System /Library /Applications /private /private/etc /private/var /nix /nix/store",
    "/mnt/c/Windows /c/Windows /cygdrive/c/Windows",
)
# What stands in them and is as needed; owners and permissions of some are changed for good reasons.
_INNER: Final = _places(
    "/boot/efi /boot/grub /boot/grub2 /etc/ssh /etc/systemd /etc/pam.d /lib/modules /lib/systemd /lib/x86_64-linux-gnu",
    "/usr/bin /usr/sbin /usr/lib /usr/lib32 /usr/lib64 /usr/libexec /usr/share /usr/include /usr/local /usr/local/bin",
    "/usr/local/lib /usr/lib/x86_64-linux-gnu /var/lib /var/lib/dpkg /var/lib/rpm /var/lib/postgresql",
    "/var/lib/mysql /var/log /var/spool /var/www /dev/shm /dev/mapper /dev/disk",
)
_INNER_KEEPS_CONTENTS: Final = _places("/var/log /var/www /dev/shm /usr/local/bin /usr/local/lib")
_HOMES: Final = _places("/home /home/* /Users /Users/* /mnt/c/Users /mnt/c/Users/* /export/home")
_DATA: Final = _HOMES | _places(
    "/opt /srv /mnt /media /media/* /Volumes /Volumes/* /mnt/c /mnt/d /cygdrive/c",
    *(f"/home/*/{name} /root/{name}" for name in (".ssh", ".gnupg", "Documents", "Desktop", "Pictures")),
    *(f"/Users/*/{name}" for name in (".ssh", ".gnupg", "Documents", "Desktop", "Pictures", "Library")),
)
# Files of which the loss of one is enough.
_FILES: Final = _places(
    "/etc/passwd /etc/shadow /etc/group /etc/gshadow /etc/sudoers /etc/fstab /boot/vmlinuz /boot/grub/grub.cfg /bin/sh",
    "/bin/bash /usr/bin/sudo /bin/rm /bin/ls /lib/ld-linux.so.2 /lib64/ld-linux-x86-64.so.2 /lib/libc.so.6 /sbin/init",
)
_DEVICE: Final = re.compile(
    r"/dev/((sd|hd|vd|xvd|nvme|mmcblk|md|dm-|nbd|rbd|bcache|dasd|pmem|mtd|r?disk)[\w.-]*\d*"
    r"|(mapper|disk|zvol|md|cciss|block)/.+|mem|kmem|port|root)"
)
_DEVICES: Final = tuple(
    f"/dev/{name}"
    for name in (
        "sda",
        "sda1",
        "sdb",
        "sdb1",
        "sdc",
        "hda",
        "vda",
        "vda1",
        "xvda",
        "nvme0n1",
        "nvme0n1p1",
        "nvme1n1",
        "mmcblk0",
        "mmcblk0p1",
        "md0",
        "dm-0",
        "disk0",
        "mapper/root",
        "disk/by-id/x",
        "disk/by-uuid/x",
    )
)
_KERNEL: Final = frozenset({"/proc/sysrq-trigger", "/proc/kcore", "/dev/mem"})

_FORMATS: Final = names(
    "wipefs shred blkdiscard tee sponge mke2fs mkswap mkdosfs newfs wipe srm scrub pvcreate pvremove sgdisk gdisk",
    "cgdisk vgremove sfdisk zerofree fallocate partimage cfdisk nwipe",
)
_CHANGES_MODE: Final = frozenset({"chmod", "chown", "chgrp", "setfacl", "chattr", "chcon"})
REMOVES: Final = frozenset({"rm", "unlink", "srm", "rimraf", "shred", "wipe", "trash", "trash-put", "rmtree"})
# Programs that rules are about: patterns for the name of a program are matched with them.
TELLING: Final = (
    *sorted(REMOVES | _CHANGES_MODE | _FORMATS),
    "dd", "find", "mkfs", "cp", "mv", "rsync", "truncate", "sh", "bash", "sudo", "xargs", "tar", "busybox",
)  # fmt: skip

# Tests of find that leave files out; what is not here does not.
_FIND_FILTERS: Final = names(
    "-name -iname -path -ipath -wholename -iwholename -regex -iregex -user -group -uid -gid -newer -mtime -atime",
    "-ctime -mmin -amin -cmin -size -empty -perm -nouser -nogroup -inum -samefile -links -lname -ilname -anewer",
    "-cnewer -used -newermt -newerXY -executable",
)


class Dangerous(Exception):
    """A command must not run; the text says why."""


class Rules:
    """The rules as they are set.

    Args:
        names: The rules that are on.
        protect: More places from which nothing may be removed.
    """

    def __init__(self, names: Iterable[str] = RULES, protect: Iterable[str] = ()) -> None:
        self._on = frozenset(names)
        own = {tuple(plain(path).strip("/").split("/")) for path in protect if path.startswith("/")}
        home = os.environ.get("HOME", "").strip("/").split("/")
        if len(home) > 1:
            own.add(tuple(home))
        own |= {tuple(f"{HOME}{path[1:]}".strip("/").split("/")) for path in protect if path.startswith("~")}
        self._kept: Final = _SYSTEM | _INNER | _DATA | own
        self._homes: Final = _HOMES | own
        self._checks: Final[dict[str, Callable[[str, Words, State], None]]] = {
            "find": self._find,
            "dd": self._dd,
            "rsync": self._rsync,
            "mv": self._mv,
            "tar": self._tar,
            "zip": self._tar,
            "truncate": self._truncate,
            **dict.fromkeys(("cp", "install", "ln"), self._cp),
            **dict.fromkeys(REMOVES, self._rm),
            **dict.fromkeys(_CHANGES_MODE, self._permissions),
        }

    def refuse(self, rule: str, reason: str) -> None:
        """Refuse, if the rule is on."""
        if rule in self._on:
            raise Dangerous(reason)

    def is_on(self, rule: str) -> bool:
        return rule in self._on

    def bomb(self, name: str) -> None:
        self.refuse("fork-bomb", f"it is a fork bomb: {name} starts itself twice")

    # -- programs ------------------------------------------------------------------------------------------------------

    def check(self, program: str, arguments: Sequence[str], state: State) -> None:
        """Look at one program with its words.

        Raises:
            Dangerous: It must not run.
        """
        words = Words(arguments)
        if check := self._checks.get(program):
            check(program, words, state)
        if program.startswith("mkfs") or program in _FORMATS:
            self._written(program, words.targets, state)
        self._special(program, words, state)

    def _rm(self, program: str, words: Words, state: State) -> None:
        recursive = program in ("rimraf", "rmtree", "trash", "trash-put") or words.has("rR", "--recursive")
        for path in self._paths(words.targets, state, unset=recursive):
            if recursive:
                self.removed(path, f"{program} -r" if program == "rm" else program)
            elif hit := self._loses_files(path):
                self.refuse("remove", f"{program} of {hit} destroys the system or the data of its users")

    def removed(self, path: str, how: str) -> None:
        """Look at a path that is removed with all that is in it."""
        if hit := self._reaches(path, self._kept):
            why = self._because(path)
            self.refuse("remove", f"{how} of {hit} destroys the system or the data of its users{why}")
        if hit := self._reaches(path, _FILES, contents=False):
            self.refuse("remove", f"{how} of {hit} destroys the system")

    def _loses_files(self, path: str) -> str | None:
        """What removing without `-r` destroys: all files of a system's folder or of a home, or one that is needed."""
        parts = _parts(path)
        if parts and is_broad(parts[-1]) and (hit := self._reaches(path, _SYSTEM | _INNER | self._homes)):
            return hit
        return self._reaches(path, _FILES, contents=False)

    def _permissions(self, program: str, words: Words, state: State) -> None:
        targets = words.targets
        if program in ("chmod", "chown", "chgrp") and not words.option_value("--reference"):
            mode, targets = (targets[:1] or [""])[0], targets[1:]
            locks = program == "chmod" and re.fullmatch(r"0+|[augo]*[-=](rwx|rx|x)?", mode)
        else:
            locks = None
        # `chmod -rwx /` is a mode, and no options.
        if program == "chmod" and (
            flag := next((one for one in words.options if re.fullmatch("-[rwxst]+", one)), None)
        ):
            targets, locks = words.targets, re.match("-", flag)
        if words.has("R", "--recursive") or locks:
            for path in self._paths(targets, state):
                if hit := self._reaches(path, _SYSTEM):
                    self.refuse("permissions", f"{program}{' -R' if not locks else ''} of {hit} breaks the system")

    def _find(self, program: str, words: Words, state: State) -> None:
        if "-delete" in words.all:
            for path in find_roots(words.all):
                if not find_filters(words.all):
                    for each in state.paths(path):
                        if hit := self._reaches(each, self._kept):
                            self.refuse("remove", f"find deletes {hit}")

    def _dd(self, program: str, words: Words, state: State) -> None:
        self._written("dd", [word[3:] for word in words.all if word.startswith("of=")], state)

    def _rsync(self, program: str, words: Words, state: State) -> None:
        targets = words.targets
        if words.has("n", "--dry-run"):
            return
        if any(one.startswith("--del") for one in words.options) and len(targets) > 1:
            for path in self._paths([targets[-1].rpartition(":")[2] or "."], state):
                if hit := self._reaches(path, _SYSTEM | _INNER | self._homes, contents=False):
                    self.refuse("remove", f"rsync --delete removes what is in {hit}")
        if any(one.startswith("--remove-s") for one in words.options):
            for path in self._paths(targets[:-1], state):
                self.removed(path, "rsync --remove-source-files")

    def _mv(self, program: str, words: Words, state: State) -> None:
        into = words.option_value("-t", "--target-directory")
        sources, target = (words.targets, into) if into else (words.targets[:-1], (words.targets[-1:] or [""])[0])
        lost = target in ("/dev/null", "/dev/zero")
        for path in self._paths(sources, state):
            if hit := self._reaches(
                path, self._kept if lost else _SYSTEM | _places("/home /usr/bin /usr/lib /var/lib")
            ):
                self.refuse("move", f"mv of {hit} breaks the system")
            if hit := self._reaches(path, _FILES, contents=False):
                self.refuse("move", f"mv of {hit} breaks the system")
        self._written("mv", [target], state)

    def _cp(self, program: str, words: Words, state: State) -> None:
        into = words.option_value("-t", "--target-directory")
        written = [into] if into else words.targets[-1:] if len(words.targets) > 1 else []
        empties = "/dev/null" in words.targets[:-1]
        self._written(f"{program} of /dev/null" if empties else program, written, state)

    def _truncate(self, program: str, words: Words, state: State) -> None:
        self._written(program, words.targets, state)

    def _tar(self, program: str, words: Words, state: State) -> None:
        if "--remove-files" in words.all or (
            program == "zip" and any(re.fullmatch(r"-\w*m\w*", one) for one in words.options)
        ):
            for path in self._paths(words.targets, state):
                self.removed(path, f"{program} that removes what it has packed,")

    def _special(self, program: str, words: Words, state: State) -> None:
        """Programs with a device somewhere among their words, or the name of a volume."""
        says = set(words.all)
        if (program in ("lvremove", "vgremove") and words.targets) or (
            program in ("zpool", "zfs") and words.targets[:1] == ["destroy"] and (program == "zpool" or words.options)
        ):
            self.refuse("overwrite", f"{program} destroys {' '.join(words.targets)[:100]}")
        match program:
            case "parted" | "fdisk":
                acts = says & {"mklabel", "mktable", "rm", "mkpart", "resizepart", "disk_set"}
            case "cryptsetup":
                acts = says & {"luksFormat", "erase", "luksErase", "reencrypt"}
            case "hdparm":
                acts = {one for one in says if one.startswith(("--security-erase", "--trim-sector", "--write-sector"))}
            case "nvme":
                acts = says & {"format", "sanitize", "write-zeroes", "dsm"}
            case "mdadm":
                acts = says & {"--zero-superblock", "--create", "-C"}
            case "badblocks":
                acts = {one for one in words.options if one.startswith("-") and not one.startswith("--") and "w" in one}
            case "diskutil":
                acts = {
                    one for one in says if re.match("(?i)(erase|zero|secureErase|partition|reformat|randomDisk)", one)
                }
            case "ddrescue" | "dcfldd" | "dc3dd" | "dd_rescue":
                acts = {program}
                words = Words([one.partition("of=")[2] if "of=" in one else one for one in words.all[-2:]])
            case (
                "curl"
                | "wget"
                | "pv"
                | "gpg"
                | "openssl"
                | "sort"
                | "gcc"
                | "qemu-img"
                | "xorriso"
                | "partclone.restore"
            ):
                acts = {program}
                written = words.option_value("-o", "-O", "-out", "--output", "--output-document")
                words = Words([written] if written else words.all[-1:] if program == "qemu-img" else [])
            case _:
                return
        if acts:
            named = [f"/dev/{one}" if program == "diskutil" and one.startswith("disk") else one for one in words.all]
            self._written(program, [one for one in named if not one.startswith("-")], state)

    # -- what is written -----------------------------------------------------------------------------------------------

    def _written(self, program: str, targets: Iterable[str], state: State) -> None:
        for path in self._paths(targets, state):
            if hit := self._device(path):
                self.refuse("overwrite", f"{program} overwrites the device {hit}")
            if (parts := _parts(path)) and is_broad(parts[-1]) and (hit := self._reaches(path, _SYSTEM)):
                self.refuse("overwrite", f"{program} overwrites {hit}")
            adds = program in ("tee", "cp", "install", "ln")  # which people do use for these files
            if (hit := self._reaches(path, _FILES, contents=False)) and (not adds or hit == "/etc/passwd"):
                self.refuse("overwrite", f"{program} overwrites {hit}")

    def redirected(self, path: str, added: bool) -> None:
        """Look at a file that a redirection opens."""
        for way in _ways(path):
            if hit := self._device(way):
                self.refuse("overwrite", f"it overwrites the device {hit}")
            if not added and (hit := self._reaches(way, _FILES, contents=False)):
                self.refuse("overwrite", f"it overwrites {hit}")
            if not added and (parts := _parts(way)) and is_broad(parts[-1]) and (hit := self._reaches(way, _SYSTEM)):
                self.refuse("overwrite", f"it overwrites {hit}")
            if way in _KERNEL:
                self.refuse("overwrite", f"it writes to {way}, which acts on the whole system at once")

    @staticmethod
    def _device(path: str) -> str | None:
        if is_glob(path):
            hit = next((one for one in _DEVICES if _like(_parts(path), tuple(_parts(one)))), None)
            return hit and shown(path)
        return shown(path) if _DEVICE.fullmatch(path) else None

    # -- places --------------------------------------------------------------------------------------------------------

    @staticmethod
    def _paths(words: Iterable[str], state: State, *, unset: bool = False) -> Iterator[str]:
        """The paths that words name; with ``unset`` also those that they name if a variable is not set."""
        for word in words:
            if word:
                for path in state.paths(word):
                    ways = _ways(path)
                    yield from ways if unset else itertools.islice(ways, 1)

    def reaches(self, word: str, state: State) -> bool:
        """Whether a word names a place that is kept."""
        return any(self._reaches(path, self._kept) for path in self._paths([word], state))

    def _reaches(self, path: str, places: frozenset[_Place], *, contents: bool = True) -> str | None:
        """``path`` for people, if it is one of ``places``, or all that is in one."""
        if not path.startswith("/"):
            return None
        parts = _parts(path)
        if any(_like(parts, place) for place in places):
            return shown(path)
        end = len(parts)
        while contents and end and is_broad(parts[end - 1]):
            end -= 1
            if any(_like(parts[:end], place) for place in places - _INNER_KEEPS_CONTENTS if len(place) == end):
                return shown(path)
        return None

    @staticmethod
    def _because(path: str) -> str:
        return "; write ${NAME:?} for a variable that may not be set" if _Unset.within(path) else ""


def shown(path: str) -> str:
    """A path for people."""
    return spelled(path).replace(HOME, "~")[:200]


class _Unset(str):
    """A path that comes about if a variable is not set."""

    @staticmethod
    def within(path: str) -> bool:
        return isinstance(path, _Unset)


def _ways(path: str) -> Iterator[str]:
    if MAYBE not in path:
        yield path
        return
    yield path.replace(MAYBE, ANY)
    without = plain(path.replace(MAYBE, ""))
    # `$X/*` is `/*` where X is not set; `/opt/$X` is left alone: it is how people write of one thing in a folder.
    if path.startswith(MAYBE) or any(_like(_trim(without), place) for place in _SYSTEM):
        yield _Unset(without)


def _trim(path: str) -> list[str]:
    parts = _parts(path)
    while parts and is_broad(parts[-1]):
        parts.pop()
    return parts


def _parts(path: str) -> list[str]:
    stripped = path.strip("/")
    return stripped.split("/") if stripped else []


def _like(parts: Sequence[str], place: _Place) -> bool:
    if len(parts) != len(place):
        return False
    return all(bool(part) if name == "*" else matches(name, part) for part, name in zip(parts, place, strict=True))


class Words:
    """The words of a program, told apart into options and the rest."""

    def __init__(self, words: Sequence[str]) -> None:
        self.all: Final = list(words)
        self.options: Final[list[str]] = []
        self.targets: Final[list[str]] = []
        for place, word in enumerate(words):
            if word == "--":
                self.targets.extend(words[place + 1 :])
                break
            (self.options if word.startswith("-") and word != "-" else self.targets).append(word)

    def has(self, letters: str, long: str) -> bool:
        """Whether an option is given, as one of ``letters`` or as the beginning of ``long``."""
        return any(
            len(one) > 3 and long.startswith(one.partition("=")[0])
            if one.startswith("--")
            else not set(letters).isdisjoint(one[1:])
            for one in self.options
        )

    def option_value(self, *names: str) -> str:
        """The value of an option, given behind it or with ``=``."""
        for place, word in enumerate(self.all):
            if word in names and place + 1 < len(self.all):
                return self.all[place + 1]
            for name in names:
                if name.startswith("--") and word.startswith(f"{name}="):
                    return word[len(name) + 1 :]
                if len(name) == 2 and word.startswith(name) and len(word) > 2 and not word.startswith("--"):
                    return word[2:]
        return ""


def find_roots(words: Sequence[str]) -> list[str]:
    """The folders that find starts from."""
    roots: list[str] = []
    for word in words:
        if word in ("-H", "-L", "-P") or word.startswith(("-O", "-D")):
            continue
        if word.startswith(("-", "(", "!")) or word == ",":
            break
        roots.append(word)
    return roots or ["."]


def find_filters(words: Sequence[str]) -> bool:
    """Whether find leaves anything out to speak of."""
    filters = False
    for place, word in enumerate(words):
        if word in ("-o", "-or", ","):
            return False
        if word in _FIND_FILTERS:
            value = words[place + 1] if place + 1 < len(words) else ""
            negated = place > 0 and words[place - 1] in ("!", "-not")
            matches_all = word.strip("-") in ("name", "iname", "path", "ipath", "regex") and not re.sub(
                r"[*?.\\/]", "", spelled(value)
            )
            matches_all = matches_all or (
                word in ("-path", "-regex", "-wholename")
                and re.fullmatch(r"/?\w*/?(\.?\*)", spelled(value)) is not None
            )
            filters = filters or not (negated or matches_all)
    return filters


def unsure(word: str) -> bool:
    return ANY in word or MAYBE in word or OPAQUE in word


__all__ = ["RULES", "Dangerous", "Rules", "Unreadable", "Words", "find_filters", "find_roots", "unsure"]

"""Watches folders for users, and tells on the bus what changes in them; over a restart nothing is lost.

What the system says of changes only wakes a watch. What it tells is how the folder differs from what was told of it
before, and that is kept in the host's kv: whether the process lived meanwhile makes no difference. It is no log of
writes: what comes and goes between two looks is not told.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import os
import stat
import time
import uuid
import zlib
from collections.abc import Coroutine, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from types import TracebackType
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeVar

import attrs
from annotated_types import MinLen
from watchfiles import Change, awatch

from sepkit import App, TaskContext, ToolContext, ToolError
from sepkit.contexts.services import Kv
from sepkit.errors import CapabilityDisabled, MethodNotFound

app = App("folder-watch", version="0.1.0")

TOPIC: Final = "folder-watch/change"
MAX_WATCHES: Final = 32  # each keeps a thread waiting; watchfiles gets 40, and past that they would take turns
MAX_ENTRIES: Final = 20_000  # files and folders of one watch: what is known of more does not fit into the host's lines
EVERY: Final = 10.0  # seconds between two looks where the system tells of nothing: it does not for each kind of drive
GONE_EVERY: Final = 0.5
AT_REST: Final = 0.05  # so many seconds old, a time of the file system will not be given again to a later write
MOTION: Final = 1.0  # seconds after which a file that is written on and on is told all the same

# One of the reference hosts reads no line over 64 KiB: what is known of the files is spread over so many keys, and the
# changes that are told as one batch fit in a line.
_BUCKETS: Final = 64
_BATCH: Final = 50
_BATCH_BYTES: Final = 40_000

logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it logs each time that it wakes a watch

User = Annotated[str, MinLen(1)]
T = TypeVar("T")


# -- what a folder looks like ------------------------------------------------------------------------------------------


class Place(NamedTuple):
    """What the system is to tell of."""

    folders: frozenset[str]  # the whole paths of those that could be read
    root: tuple[int, int]  # device and inode: another folder may come under the name when a parent is renamed


class Sight(NamedTuple):
    """A folder, as one look saw it. Paths are below the folder."""

    files: dict[str, str]  # path -> its stamp: size, and times in nanoseconds
    in_motion: set[str]  # a further write could leave the stamp as it is
    place: Place
    hidden: tuple[str, ...]  # what could not be read


class Told(NamedTuple):
    """A change."""

    change: Literal["added", "modified", "deleted"]
    path: str
    stamp: str  # "" of what is deleted


class TooMuch(OSError):
    """There is more in a folder than one watch takes."""

    def __init__(self, root: str) -> None:
        super().__init__(f"{root} has more than {MAX_ENTRIES:,} files and folders; watch a smaller one")


def look(root: str) -> Sight:
    """See what is in a folder. Links are files, and nothing else; sub-folders are told of by what is in them.

    Raises:
        TooMuch: It has more than MAX_ENTRIES in it; no more of them were looked at.
        OSError: The folder cannot be read, or is not the same any more at the end.
    """
    before = os.stat(root)
    files: dict[str, str] = {}
    in_motion: set[str] = set()
    folders: set[str] = set()
    hidden: list[str] = []
    left = [""]
    seen = 0
    while left:
        below = left.pop()
        try:
            with os.scandir(os.path.join(root, below)) as listed:
                entries = list(islice(listed, MAX_ENTRIES + 1 - seen))
        except (FileNotFoundError, NotADirectoryError):
            continue  # it has gone since its parent was listed
        except OSError:
            hidden.append(below)
            continue
        seen += len(entries)
        if seen > MAX_ENTRIES:
            raise TooMuch(root)
        folders.add(os.path.join(root, below) if below else root)
        for entry in entries:
            path = os.path.join(below, entry.name)
            asked = time.time_ns()
            try:
                found = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            except OSError:
                hidden.append(path)
                continue
            if stat.S_ISDIR(found.st_mode):
                left.append(path)
                continue
            files[path] = f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"
            # A time in the future is another machine's, and says nothing.
            if asked - round(AT_REST * 1e9) < found.st_ctime_ns <= time.time_ns():
                in_motion.add(path)
    after = os.stat(root)
    identity = before.st_dev, before.st_ino
    # Removed while it was read, it would look as if all its files had been deleted.
    if root not in folders or identity != (after.st_dev, after.st_ino):
        raise PermissionError(f"{root} cannot be read") if "" in hidden else FileNotFoundError(f"{root} is gone")
    return Sight(files, in_motion, Place(frozenset(folders), identity), hidden=tuple(hidden))


async def look_at_rest(root: str) -> dict[str, str]:
    """The files of a folder, once all of them are at rest. Those that never are get a stamp that no file has."""
    give_up = time.monotonic() + MOTION
    while True:
        sight = await asyncio.to_thread(look, root)
        if not sight.in_motion or time.monotonic() > give_up:
            return sight.files | {path: _in_motion(sight.files[path]) for path in sight.in_motion}
        await asyncio.sleep(AT_REST)


def difference(told: Mapping[str, str], sight: Sight) -> Iterator[Told]:
    """How a folder differs from what was told of it."""
    for path, stamp in sight.files.items():
        known = told.get(path)
        if known != stamp:
            yield Told("added" if known is None else "modified", path, stamp)
    below_hidden = tuple(f"{path}/" for path in sight.hidden)
    for path in told.keys() - sight.files.keys():
        # What cannot be seen may be there still.
        if path not in sight.hidden and not path.startswith(below_hidden):
            yield Told("deleted", path, "")


def _in_motion(stamp: str) -> str:
    return stamp.partition(" ")[0]


# -- what was told of it -----------------------------------------------------------------------------------------------


class Cursor:
    """What was told of a folder, in the host's kv. Numbers go up by one, and each stands for one change for ever.

    A batch of changes is stored with its numbers before it is told, and taken into what was told after. Whoever dies
    between the two finds it again, and tells it again: the same changes under the same numbers.
    """

    def __init__(self, kv: Kv, watch: str, folder: str = "") -> None:
        self._kv = kv
        self._key = f"watch/{watch}"
        self._folder = folder
        self.files: dict[str, str] = {}
        self._buckets: list[dict[str, str]] = [{} for _ in range(_BUCKETS)]  # the same, as it is stored
        self.seq = 0  # the number of the last change that is known to be told
        self.pending: list[Told] = []  # numbered from there on: told or not

    async def load(self) -> bool:
        """Read it. Whether there is one of this folder."""
        head = await self._kv.get(self._key, default={"folder": None, "seq": 0, "pending": []})
        self.seq = head["seq"]
        if head["folder"] != self._folder:
            self.seq += len(head["pending"])  # perhaps told: these numbers are taken
            return False
        self.pending = [Told(change, _path(text), stamp) for change, text, stamp in head["pending"]]
        keys = map(self._bucket_key, range(_BUCKETS))
        self._buckets = list(await asyncio.gather(*(self._kv.get(key, default={}) for key in keys)))
        self.files = {_path(text): stamp for bucket in self._buckets for text, stamp in bucket.items()}
        return True

    async def begin(self, files: dict[str, str]) -> None:
        """Take ``files`` as what is known from the start: they are not told."""
        self.files = dict(files)
        self._buckets = [{} for _ in range(_BUCKETS)]
        for path, stamp in files.items():
            self._buckets[_bucket(path)][_text(path)] = stamp
        await self._store_buckets(set(range(_BUCKETS)))  # all of them: another start may have been broken off
        await self._store_head()

    async def advance(self, batch: list[Told]) -> None:
        """What was pending is told; ``batch`` is pending now."""
        if not self.pending and not batch:
            return
        for change, path, stamp in self.pending:
            bucket = self._buckets[_bucket(path)]
            if change == "deleted":
                self.files.pop(path, None)
                bucket.pop(_text(path), None)
            else:
                self.files[path] = bucket[_text(path)] = stamp
        # Some of it may be stored when the process dies: it is pending until the head says otherwise, and to take it
        # in twice changes nothing.
        await self._store_buckets({_bucket(told.path) for told in self.pending})
        self.seq += len(self.pending)
        self.pending = batch
        await self._store_head()

    async def forget(self) -> None:
        """Delete it."""
        keys = [self._key, *map(self._bucket_key, range(_BUCKETS))]
        await asyncio.gather(*map(self._kv.delete, keys))

    async def _store_head(self) -> None:
        pending = [(told.change, _text(told.path), told.stamp) for told in self.pending]
        await self._kv.set(self._key, {"folder": self._folder, "seq": self.seq, "pending": pending})

    async def _store_buckets(self, numbers: set[int]) -> None:
        await asyncio.gather(*(self._kv.set(self._bucket_key(number), self._buckets[number]) for number in numbers))

    def _bucket_key(self, number: int) -> str:
        return f"{self._key}/{number}"


def batches(changes: Iterable[Told]) -> Iterator[list[Told]]:
    """Batches that fit in a line; deletions come first: a folder may stand where a file stood."""
    batch: list[Told] = []
    size = 0
    # What goes into one bucket goes into one batch, so that few of them are stored for it.
    for told in sorted(changes, key=lambda told: (told.change != "deleted", _bucket(told.path), told.path)):
        length = len(json.dumps(told._replace(path=_text(told.path))))
        if batch and (len(batch) == _BATCH or size + length > _BATCH_BYTES):
            yield _in_order(batch)
            batch, size = [], 0
        batch.append(told)
        size += length
    if batch:
        yield _in_order(batch)


def _in_order(batch: list[Told]) -> list[Told]:
    return sorted(batch, key=lambda told: (told.change != "deleted", told.path))


def _bucket(path: str) -> int:
    return zlib.crc32(os.fsencode(path)) % _BUCKETS


def _text(path: str) -> str:
    """A path as JSON can carry it. No path below a folder begins with a slash."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return "/" + base64.b64encode(os.fsencode(path)).decode()
    return path


def _path(text: str) -> str:
    return os.fsdecode(base64.b64decode(text[1:])) if text.startswith("/") else text


# -- the watch ---------------------------------------------------------------------------------------------------------


class Notices:
    """The system's word that something has changed, which sets ``wake``. What has changed, a look finds out."""

    def __init__(self, wake: asyncio.Event) -> None:
        self._wake = wake
        self._over = asyncio.Event()
        self._of: Place | None = None
        self._asked = False  # the system has taken the folders
        self._listening: asyncio.Task[None] | None = None
        self.failure: str | None = None

    async def of(self, place: Place) -> None:
        """From now on, of these folders, but not of what is below them."""
        if self._listening is None or self._listening.done() or place != self._of:
            await self.stop()
            self._over = asyncio.Event()
            self._of = place
            self._asked = False
            self._listening = asyncio.create_task(self._listen(place.folders, self._over))
            await asyncio.sleep(0)  # its first step asks the system; whatever changes from here on is noticed
            self._asked = not self._listening.done()

    async def _listen(self, folders: frozenset[str], over: asyncio.Event) -> None:
        # One by one, and not recursively: it would follow links, to the whole disk where one leads to /.
        speakable = [folder for folder in folders if _text(folder) == folder]
        heard = awatch(
            *speakable,
            watch_filter=None,
            debounce=200,
            step=50,
            stop_event=over,
            recursive=False,
            ignore_permission_denied=True,
        )
        try:
            async with contextlib.aclosing(heard):
                async for changes in heard:
                    self._wake.set()
                    if any(change is not Change.modified and path in folders for change, path in changes):
                        return  # another folder may stand there now, of which it would not hear
        except Exception as error:
            # A limit of the system; a folder that has gone; or a name that is not UTF-8, of which watchfiles dies.
            self.failure = str(error)
            if self._asked:  # else it would fail so again, look after look
                self._wake.set()

    async def stop(self) -> None:
        """End, within the 50 milliseconds in which the thread looks up."""
        self._over.set()
        if self._listening is not None:
            await self._listening
        self.failure = None

    async def __aenter__(self) -> Notices:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


@app.task(per_user=True, heartbeat_timeout=120.0)
async def watch_folder(ctx: TaskContext) -> None:
    """Tell on the bus what changes in the folder ``path`` of the payload."""
    await Watch(ctx).run()


class Watch:
    """One run of a watch."""

    def __init__(self, ctx: TaskContext) -> None:
        path = ctx.payload.get("path") if isinstance(ctx.payload, dict) else None
        if not isinstance(path, str) or not os.path.isabs(path) or "\0" in path:
            raise ValueError(f'the payload is {{"path": "/an/absolute/folder"}}, not {ctx.payload!r}')
        self._ctx = ctx
        self._root = path
        self._cursor = Cursor(ctx.kv, ctx.task_id, path)
        self._moving: dict[str, float] = {}  # since when each of the files that are in motion has been waited for

    async def run(self) -> None:
        """Watch, until it is asked to stop."""
        ctx = self._ctx
        if not await self._cursor.load():  # started by the host, and not by the tool
            try:
                await self._cursor.begin(await look_at_rest(self._root))
            except TooMuch as error:
                ctx.report_health(f"not watched: {error}")
                raise
        wake = asyncio.Event()
        stopping = asyncio.create_task(ctx.wait_stop())
        stopping.add_done_callback(lambda _: wake.set())
        place: Place | None = None
        try:
            async with Notices(wake) as notices:
                while not ctx.stopping:
                    wake.clear()
                    if place is not None:
                        await notices.of(place)
                    began = time.monotonic()
                    try:
                        sight = await asyncio.to_thread(look, self._root)
                    except OSError as error:
                        await notices.stop()
                        place = None
                        ctx.report_health(f"waiting: {error}")
                        await ctx.sleep(EVERY if isinstance(error, TooMuch) else GONE_EVERY)
                        continue
                    took = time.monotonic() - began
                    has_bus = await self._tell(sight)
                    self._report(sight, has_bus, notices.failure)
                    again = AT_REST if has_bus and self._moving else EVERY
                    if sight.place != place:  # only once two looks agree on it were the right folders asked for
                        place, again = sight.place, 0
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(again):
                            await wake.wait()
                    await ctx.sleep(max(AT_REST, 2 * took))
        finally:
            stopping.cancel()

    async def _tell(self, sight: Sight) -> bool:
        """Tell what has changed. Whether there is a bus to tell it on."""
        # What is pending first: only then is it known what was told.
        if not await self._publish_pending():
            return False
        await self._cursor.advance([])
        changes = list(self._settled(difference(self._cursor.files, sight), sight))
        for batch in batches(changes):
            if self._ctx.stopping:
                break
            await self._cursor.advance(batch)
            if not await self._publish_pending():
                return False
            self._ctx.report_health(f"telling changes: {self._cursor.seq + len(batch)} told")
        await self._cursor.advance([])
        return True

    def _settled(self, changes: Iterable[Told], sight: Sight) -> Iterator[Told]:
        """Without the files in motion: they are told when they have come to rest, or every so often if they do not.

        A file that is told while it is in motion has a stamp that is not its own: it will be told again.
        """
        now = time.monotonic()
        moving: dict[str, float] = {}
        for told in changes:
            if told.path not in sight.in_motion:
                yield told
            elif now < (since := self._moving.get(told.path, now)) + MOTION:
                moving[told.path] = since
            else:
                yield told._replace(stamp=_in_motion(told.stamp))
        self._moving = moving

    async def _publish_pending(self) -> bool:
        for seq, told in enumerate(self._cursor.pending, self._cursor.seq + 1):
            payload: dict[str, Any] = {
                "watch": self._ctx.task_id,
                "user": self._ctx.user_id,
                "folder": self._root,
                "seq": seq,
                "change": told.change,
                "path": os.fsencode(told.path).decode("utf-8", "backslashreplace"),
            }
            if _text(told.path) != told.path:
                payload["path_base64"] = _text(told.path)[1:]
            if told.stamp:
                payload["size"] = int(_in_motion(told.stamp))
            try:
                if not await self._ctx.bus.publish(TOPIC, payload):
                    return False
            except CapabilityDisabled:
                return False
        return True

    def _report(self, sight: Sight, has_bus: bool, failure: str | None) -> None:
        parts = [f"{len(sight.files)} files in {len(sight.place.folders)} folders; {self._cursor.seq} changes told"]
        if not has_bus:
            parts.append("the host has no bus, so that changes wait")
        if sight.hidden:
            parts.append(f"{len(sight.hidden)} cannot be read: {sorted(map(_text, sight.hidden))[0]}")
        if failure:
            parts.append(f"looks every {EVERY:g} s, for the system tells of no changes: {failure}")
        self._ctx.report_health("; ".join(parts))


# -- which watches there are -------------------------------------------------------------------------------------------


@attrs.frozen
class Entry:
    """A watch, as the kv remembers it."""

    user: str
    path: str
    on: bool  # else it has not quite begun, or is to end: whoever finds it so puts it away


_ENTRIES: Final = "watches"
_changing = asyncio.Lock()  # held from reading the entries until they are written, and what runs agrees with them
_changes: set[asyncio.Task[Any]] = set()  # the loop alone would not keep them alive


async def in_full(change: Coroutine[Any, Any, T]) -> T:
    """Await a change of the watches, which goes on to its end where the caller is cancelled.

    Whoever breaks off a write does not know whether it is done, nor whether it comes after the next one.
    """
    task = asyncio.create_task(change)
    _changes.add(task)
    task.add_done_callback(_changes.discard)
    return await asyncio.shield(task)


async def read_entries(kv: Kv) -> dict[str, Entry]:
    """The watches, by their ids.

    Raises:
        ToolError: The host has no kv.
    """
    try:
        return await kv.get(_ENTRIES, dict[str, Entry], {})
    except (MethodNotFound, CapabilityDisabled):
        raise ToolError(
            "The host has no kv store. Without one a watch could not know after a restart what it has told; "
            "use a host that has one, and let this extension use it."
        ) from None


async def settle(kv: Kv) -> dict[str, Entry]:
    """Make what runs agree with the kv, whatever died or failed half-way before; the watches that are on."""
    entries = await read_entries(kv)
    left = [watch for watch, entry in entries.items() if not entry.on]
    for watch in left:
        await app.tasks.stop(watch)
        await Cursor(kv, watch).forget()
        del entries[watch]
    if left:
        await kv.set(_ENTRIES, entries)
    start_tasks(entries)
    return entries


def start_tasks(entries: Mapping[str, Entry]) -> None:
    """Start the watches that this process has not started yet. What the host has stopped stays so, and is listed so."""
    started = {health.task_id for health in app.tasks.status()}
    for watch, entry in entries.items():
        if watch not in started:
            app.tasks.start(watch_folder, id=watch, user_id=entry.user, payload={"path": entry.path})


async def settled(kv: Kv) -> dict[str, Entry]:
    async with _changing:
        return await settle(kv)


@app.task(restart="on-failure")
async def resume_watches(ctx: TaskContext) -> None:
    """Start the watches that were on when the process ended."""
    try:
        entries = await in_full(settled(ctx.kv))
    except ToolError:
        ctx.report_health("the host has no kv store, so that there is nothing to resume")
        return
    ctx.report_health(f"{len(entries)} watches are on")


def find_folder(workspace: str, path: str) -> str:
    """The folder itself, however it is written, so that it is recognised.

    Raises:
        ToolError: It is not there, or cannot be watched.
    """
    if not path.strip():
        raise ToolError("The path is empty; name the folder to watch, or . for the workspace.")
    if "\0" in path:
        raise ToolError(f"{path!r} is not a path: it has a NUL in it.")
    root = os.path.realpath(os.path.join(workspace, os.path.expanduser(path)))
    if not os.path.isdir(root):
        raise ToolError(f"There is no folder {root}.")
    if _text(root) != root:
        raise ToolError(f"{path} leads to a folder whose path is not UTF-8; it cannot be watched.")
    return root


@app.tool
async def start_watch(path: str, user: User, ctx: ToolContext) -> dict[str, Any]:
    """Watch a folder for a user, until it is stopped. Changes from now on are told on the bus.

    Args:
        path: The folder; a relative path begins at the workspace.
        user: For whom.
    """
    if not user.strip():
        raise ToolError("A watch needs its user; this one is blank.")
    root = await asyncio.to_thread(find_folder, ctx.workspace.root, path)
    try:
        files = await look_at_rest(root)  # what changes from here on is told
    except TooMuch as error:
        raise ToolError(f"{error}.") from None
    except OSError as error:
        raise ToolError(f"{root} cannot be watched: {error}.") from None
    watch = await in_full(begin_watch(ctx.kv, Entry(user, root, on=True), files))
    return {"id": watch, "path": root, "files": len(files)}


async def begin_watch(kv: Kv, entry: Entry, files: dict[str, str]) -> str:
    """Begin a watch; its id."""
    async with _changing:
        entries = await settle(kv)
        for watch, other in entries.items():
            if (other.user, other.path) == (entry.user, entry.path):
                raise ToolError(f"{entry.path} is watched for {entry.user} already, by {watch}.")
        if len(entries) >= MAX_WATCHES:
            raise ToolError(f"There are {MAX_WATCHES} watches, and no more are allowed; stop one first.")
        watch = uuid.uuid4().hex[:12]
        await kv.set(_ENTRIES, entries | {watch: attrs.evolve(entry, on=False)})
        await Cursor(kv, watch, entry.path).begin(files)
        await kv.set(_ENTRIES, entries | {watch: entry})
        start_tasks({watch: entry})
    return watch


@app.tool
async def stop_watch(id: str, user: User, ctx: ToolContext) -> str:  # noqa: A002  (so named in list_watches)
    """Stop a watch of a user for good.

    Args:
        id: The watch, as start_watch and list_watches name it.
        user: Whose it is.
    """
    path = await in_full(end_watch(ctx.kv, id, user))
    return f"Stopped: {path} is not watched for {user} any more."


async def end_watch(kv: Kv, watch: str, user: str) -> str:
    """End a watch; its folder."""
    async with _changing:
        entries = await settle(kv)
        entry = entries.get(watch)
        if entry is None or entry.user != user:  # that it is another user's is not this one's business
            own = [other for other, entry in entries.items() if entry.user == user]
            raise ToolError(f"{user} has no watch {watch!r}; there are: {', '.join(own) or 'none'}.")
        # From now on it does not come back.
        await kv.set(_ENTRIES, entries | {watch: attrs.evolve(entry, on=False)})
        await settle(kv)
    return entry.path


@app.tool
async def list_watches(user: User, ctx: ToolContext) -> list[dict[str, Any]]:
    """List the watches of a user, and how each is.

    Args:
        user: Whose watches.
    """
    entries = await in_full(settled(ctx.kv))
    states = {health.task_id: health for health in app.tasks.status()}
    found: list[dict[str, Any]] = []
    for watch, entry in entries.items():
        if entry.user == user:
            state = states.get(watch)
            one: dict[str, Any] = {"id": watch, "path": entry.path, "status": state.status if state else "pending"}
            if state and state.last_health_status is not None and state.last_health_time is not None:
                age = datetime.now(UTC) - datetime.fromisoformat(state.last_health_time)
                one["health"] = state.last_health_status
                one["health_age"] = round(max(0.0, age.total_seconds()), 1)  # seconds
            if state and state.error is not None:
                one["error"] = state.error
            found.append(one)
    return found

"""A reading list: pages to read, and feeds that are looked at each morning for something new.

What a user keeps is the user's own, where the host has users; else it belongs to the app.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final
from urllib.parse import urljoin, urlsplit
from xml.etree.ElementTree import Element

import attrs
from annotated_types import Ge, Le, MaxLen
from defusedxml import DefusedXmlException, ElementTree

from sepkit import App, JobContext, ToolContext, ToolError
from sepkit.contexts.contexts import Context
from sepkit.contexts.documents import Collection, Documents
from sepkit.contexts.secrets import Secrets
from sepkit.errors import FetchError, NoUI, StoreError

MOST_FEEDS: Final = 100
MOST_BYTES: Final = 4 * 1024 * 1024  # of a feed

app = App(
    "reading-list",
    version="0.1.0",
    needs=["network:*"],  # a feed may be anywhere
    instructions="The user keeps a reading list. Offer to add pages that look worth reading; never add them unasked.",
)

Url = Annotated[str, MaxLen(2_000)]
Tag = Annotated[str, MaxLen(50)]
Limit = Annotated[int, Ge(1), Le(100)]


@attrs.frozen
class Page:
    """A page to read."""

    url: str
    title: str
    added: datetime
    tags: list[str] = attrs.field(factory=list)
    read: bool = False


@attrs.frozen
class Feed:
    """A feed that is followed."""

    url: str
    private: bool = False
    """Whether it is sent the secret that belongs to it."""
    seen: list[str] = attrs.field(factory=list)
    """What it held when it was last looked at, so that only what is new is told."""


@attrs.frozen
class Item:
    """Something new in a feed."""

    feed: str
    title: str
    link: str
    found: datetime


pages = app.collection("pages", Page, indexes=["added", "read"], version=2)
feeds = app.collection("feeds", Feed)
items = app.collection("items", Item, indexes=["feed", "found"])
keep = app.setting("keep", Annotated[int, Ge(1), Le(500)], default=20, description="How many items of a feed are kept")


@app.migrate(pages, from_version=1)
def several_tags(old: dict[str, Any]) -> dict[str, Any]:
    """A page had one tag, or an empty text."""
    tag = old.pop("tag", "")
    return {**old, "tags": [tag] if tag else []}


def kept(ctx: Context, collection: Collection[Any]) -> Documents[Any]:
    """Where the user's things are; without a user, those of the app."""
    return ctx.store(collection) if ctx.user.id is None else ctx.user.store(collection)


def id_of(*parts: str) -> str:
    """An id for what a URL may be too long for."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def checked(url: str) -> str:
    """A web address: with a host, and without a password in it."""
    try:
        parts = urlsplit(url)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None
    except ValueError:
        is_good = False
    if not is_good:
        raise ToolError(
            f"{url!r} cannot be used; write an address such as https://example.org/page, without a password"
        )
    return url


def secret_of(feed_url: str) -> str:
    """The secret of a private feed. Each has its own: what belongs to one server is never sent to another."""
    return f"feed.{id_of(feed_url)[:16]}"


# -- pages -------------------------------------------------------------------------------------------------------------


@app.tool
async def add(
    url: Url, ctx: ToolContext, title: Annotated[str, MaxLen(300)] = "", tags: list[Tag] | None = None
) -> str:
    """Put a page on the reading list, or change its title and tags.

    Args:
        url: Its address.
        title: What it is called; the address where it is not said.
        tags: What it is about.
    """
    store = kept(ctx, pages)
    before = await store.get(id_of(checked(url)))
    page = Page(url, title or (before.title if before else url), before.added if before else datetime.now(UTC))
    page = attrs.evolve(page, tags=sorted(set(tags)) if tags else (before.tags if before else []))
    await store.put(id_of(url), page)
    return f"{page.title} is on the list."


@app.tool(read_only=True)
async def unread(ctx: ToolContext, tag: Tag | None = None, limit: Limit = 20) -> list[Page]:
    """The pages that have not been read, the latest first.

    Args:
        tag: Only those with this tag.
        limit: How many at most.
    """
    query: dict[str, Any] = {"read": False}
    if tag is not None:
        query["tags"] = {"$contains": json.dumps(tag, ensure_ascii=False)}  # a list counts as its JSON text
    found: list[Page] = await kept(ctx, pages).find(query, sort={"added": "desc"}, limit=limit)
    return found


@app.tool
async def done(url: Url, ctx: ToolContext) -> str:
    """Mark a page as read."""
    store = kept(ctx, pages)
    page = await store.get(id_of(url))
    if page is None:
        raise ToolError(f"{url} is not on the list.")
    await store.put(id_of(url), attrs.evolve(page, read=True))
    return f"{page.title} has been read."


@app.tool
async def remove(url: Url, ctx: ToolContext) -> str:
    """Take a page off the list."""
    if not await kept(ctx, pages).delete(id_of(url)):
        raise ToolError(f"{url} is not on the list.")
    return "It is off the list."


@app.tool(confirm="Forget the reading list, the feeds, and all that was found in them?", destructive=True)
async def forget_all(ctx: ToolContext) -> str:
    """Forget everything; the user is asked before."""
    for feed in await kept(ctx, feeds).find({"private": True}):
        await forget_secret(ctx, feed.url)
    for collection in (pages, feeds, items):
        await kept(ctx, collection).drop()
    return "All of it is forgotten."


# -- feeds -------------------------------------------------------------------------------------------------------------


@app.tool
async def follow(url: Url, ctx: ToolContext, private: bool = False) -> str:
    """Follow a feed (RSS or Atom): it is looked at each morning.

    Args:
        url: Its address.
        private: Whether it wants a token, which the user is asked for, and which is sent to this feed only.
    """
    store = kept(ctx, feeds)
    before = await store.get(id_of(checked(url)))
    if before is None and await store.count() >= MOST_FEEDS:
        raise ToolError(f"No more than {MOST_FEEDS} feeds can be followed.")
    if private:
        await have_secret(ctx, url)
    feed = Feed(url, private, before.seen if before else [])
    try:
        news = await look(ctx, feed)
    except FetchError as error:
        raise ToolError(f"The feed cannot be read: {error}") from None
    return f"{url} is followed; it has {len(news)} new items."


def secrets_of(ctx: ToolContext | JobContext) -> Secrets:
    return ctx.secrets if ctx.user.id is None else ctx.user.secrets


async def have_secret(ctx: ToolContext, url: str) -> None:
    """See to it that there is a token for a private feed: the user is asked, and not the model."""
    if not url.startswith("https://"):
        raise ToolError("A private feed has to be at https://: its token must not be read on the way.")
    name = secret_of(url)
    if await secrets_of(ctx).get(name) is not None:
        return
    variable = f"SEPKIT_SECRET_{name.upper().replace('.', '_')}"
    try:
        token = await ctx.ui.input(f"The token of {url}, which is sent to it and kept as the secret {name}:")
    except NoUI:
        raise ToolError(f"{url} needs a token: start the extension with {variable} in its environment.") from None
    if not token:
        raise ToolError(f"{url} is not followed, since it was given no token.")
    try:
        await secrets_of(ctx).set(name, token)
    except StoreError as error:
        raise ToolError(f"The token cannot be kept: {error}") from None


async def forget_secret(ctx: ToolContext, url: str) -> None:
    try:
        await secrets_of(ctx).delete(secret_of(url))
    except StoreError as error:  # the environment holds it
        ctx.log.warning("%s", error)


@app.tool
async def unfollow(url: Url, ctx: ToolContext) -> str:
    """Follow a feed no more, and forget what was found in it."""
    feed = await kept(ctx, feeds).get(id_of(url))
    if feed is None:
        raise ToolError(f"{url} is not followed.")
    await kept(ctx, feeds).delete(id_of(url))
    if feed.private:
        await forget_secret(ctx, url)
    await kept(ctx, items).delete_many({"feed": url})
    return f"{url} is not followed any more."


@app.tool(read_only=True)
async def news(ctx: ToolContext, limit: Limit = 20) -> list[Item]:
    """What the feeds had that was new, the latest first."""
    found: list[Item] = await kept(ctx, items).find(sort={"found": "desc"}, limit=limit)
    return found


async def look(ctx: ToolContext | JobContext, feed: Feed) -> list[Item]:
    """Look at a feed; what is new in it, which is stored by then.

    Raises:
        FetchError: It cannot be read.
    """
    headers = {"Accept": "application/atom+xml, application/rss+xml, application/xml, text/xml"}
    if feed.private:
        token = await secrets_of(ctx).get(secret_of(feed.url))
        if token is None:
            raise FetchError(f"{feed.url} is private, and there is no secret {secret_of(feed.url)}")
        headers["Authorization"] = f"Bearer {token}"  # a redirect to another host goes without it
    answer = await ctx.fetch(feed.url, headers=headers, max_bytes=MOST_BYTES)
    if not answer.ok:
        raise FetchError(f"{feed.url} answered {answer.status}")
    try:
        entries = await asyncio.to_thread(lambda: list(read_feed(answer.content, answer.url)))  # a long one takes 1 s
    except (ElementTree.ParseError, DefusedXmlException, LookupError, ValueError) as error:  # entities, odd encodings
        raise FetchError(f"{feed.url} cannot be read as a feed: {type(error).__name__}") from None
    most = ctx.setting(keep)
    now = datetime.now(UTC)
    entries = entries[:most]
    known = set(feed.seen)
    found = [Item(feed.url, title, link, now) for link, title in entries if link not in known]
    await kept(ctx, items).put_many([(id_of(feed.url, item.link), item) for item in found])
    # After the items: a process that ends in between finds them again, under the same ids.
    await kept(ctx, feeds).put(id_of(feed.url), attrs.evolve(feed, seen=[link for link, _ in entries]))
    old = await kept(ctx, items).find_items({"feed": feed.url}, sort={"found": "desc"}, offset=most)
    for key, _ in old:
        await kept(ctx, items).delete(key)
    return found


def read_feed(data: bytes, base: str) -> Iterator[tuple[str, str]]:
    """The link and the title of each item of an RSS or Atom feed; links that say no host are within ``base``.

    Raises:
        ValueError: It is something else.
    """
    root = ElementTree.fromstring(data)
    if name_of(root).lower() not in ("rss", "rdf", "feed"):
        raise ValueError(f"<{name_of(root)[:50]}>")
    for element in root.iter():
        if name_of(element) not in ("item", "entry"):
            continue
        titles = [child for child in element if name_of(child) == "title"]
        title = " ".join("".join(titles[0].itertext()).split()) if titles else ""
        links = [child for child in element if name_of(child) == "link"]
        # Atom has links to comments and editors, too; the page itself is the alternate one.
        links.sort(key=lambda link: link.get("rel", "alternate") != "alternate")
        link = urljoin(base, (links[0].get("href") or links[0].text or "").strip()) if links else ""
        if link.startswith(("http://", "https://")) and len(link) <= 2_000:
            yield link, title[:300] or link


def name_of(element: Element) -> str:
    """A tag without its namespace."""
    return element.tag.rpartition("}")[2]


# -- each morning ------------------------------------------------------------------------------------------------------


@app.cron("0 6 * * *", tz="Europe/Stockholm")
async def morning(ctx: JobContext) -> None:
    """Have the feeds of each user looked at, and those of the app."""
    for user in [None, *await ctx.users()]:
        await app.schedule.at(timedelta(0), look_at_all, user_id=user, id=f"feeds of {user or 'the app'}")


@app.job(retry=True)
async def look_at_all(ctx: JobContext) -> None:
    """Look at all feeds of a user; one that cannot be read is named in the log, and keeps none of the others."""
    some_at_once = asyncio.Semaphore(8)

    async def one(feed: Feed) -> int:
        async with some_at_once:
            try:
                return len(await look(ctx, feed))
            except FetchError as error:
                ctx.log.warning("%s", error)
                return 0

    found = await asyncio.gather(*[one(feed) for feed in await kept(ctx, feeds).find()])
    ctx.report_health(f"{sum(found)} new items in {len(found)} feeds")

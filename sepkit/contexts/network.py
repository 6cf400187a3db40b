"""Where an app may go on the network: what ``App(needs=)`` says, and the one form in which URLs are compared with it.

Pure, and imported by apps that need the network only. Every URL goes through ``Network.checked`` before anything is
sent, also one that a server redirects to. What is sent is what was checked: a URL that two parsers could read in two
ways is refused.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from sepkit.errors import FetchError, RegistrationError

_PREFIX: Final = "network:"
_FORMS: Final = '"network:HOST", "network:HOST:PORT" or "network:*"'
_LONGEST_URL: Final = 65_536  # characters
_LONGEST_HOST: Final = 253
_PORTS: Final = {"http": 80, "https": 443}

_URL: Final = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<rest>[^#]*)(?:#.*)?")
_AUTHORITY: Final = re.compile(r"(?P<host>\[[^\]\[]*\]|[^:\[\]]*)(?::(?P<port>[0-9]{0,5}))?")
_NAME: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(?:\.(?!-)[a-z0-9_-]{1,63}(?<!-))*")
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
# Parsers skip some of these, or take the backslash for a slash.
_DANGEROUS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\\\ud800-\udfff]")
_LOOPBACK: Final = ("127.0.0.1", "[::1]")


class Place(NamedTuple):
    """A URL in the form that is compared and sent."""

    url: str
    scheme: str
    host: str
    """In lower case, in ASCII, without a dot at its end; an IPv6 address in brackets, as short as it can be."""
    port: int

    @property
    def origin(self) -> tuple[str, str, int]:
        """What two URLs share that lead to the same server."""
        return self.scheme, self.host, self.port

    @property
    def shown(self) -> str:
        """The URL as a message may show it: its query may hold a key."""
        path = self.url.partition("?")[0]
        return path if len(path) <= 200 else f"{path[:200]}…"


class Network:
    """What an app may reach.

    Args:
        app: Its name, for what a refusal says.
        needs: As given to ``App(needs=)``, checked by :func:`checked_needs`.
    """

    def __init__(self, app: str, needs: Sequence[str]) -> None:
        self._app = app
        self._needs = tuple(needs)
        found = [need.removeprefix(_PREFIX) for need in needs if need.startswith(_PREFIX)]
        self._anywhere = "*" in found
        self._hosts = {host for host in found if ":" not in host}
        self._ports = {host for host in found if ":" in host}

    def checked(self, url: object) -> Place:
        """Where a URL leads, if the app may go there.

        Raises:
            FetchError: It may not, with the line to write; or it is not a URL that all parsers read in one way.
        """
        place = _place(url)
        if self._anywhere or any(self._names(host, place.port) for host in _names_of(place.host)):
            return place
        need = _need_of(place)
        needs = ", ".join(f'"{one}"' for one in (*self._needs, need))
        raise FetchError(
            f"{place.shown}: {self._app} does not say that it needs {place.host}; "
            f'write App("{self._app}", needs=[{needs}])'
        )

    def _names(self, host: str, port: int) -> bool:
        return host in self._hosts or f"{host}:{port}" in self._ports


def _names_of(host: str) -> tuple[str, ...]:
    return (host, "localhost") if host in _LOOPBACK else (host,)


def _need_of(place: Place) -> str:
    if place.host.startswith("["):
        return "network:localhost" if place.host in _LOOPBACK else "network:*"
    port = "" if place.port == _PORTS[place.scheme] else f":{place.port}"
    return f"network:{place.host}{port}"


def _place(url: object) -> Place:
    if not isinstance(url, str):
        raise FetchError(f"a URL is a text, not {url!r:.100}")
    shown = ascii(url.partition("?")[0][:200])
    if len(url) > _LONGEST_URL:
        raise FetchError(f"{shown}…: a URL has at most {_LONGEST_URL} characters, and this one has {len(url)}")
    if found := _DANGEROUS.search(url):
        raise FetchError(f"{shown}: a URL does not contain {found[0]!a}; write it as {_percent(found[0])}")
    match = _URL.fullmatch(url)
    if match is None:
        raise FetchError(f'{shown} is not a URL; write it with its scheme and host, such as "https://example.com/"')
    scheme = match["scheme"].lower()
    if scheme not in _PORTS:
        raise FetchError(f"{shown}: only http and https are fetched, not {scheme[:20]}")
    if "@" in match["authority"]:
        raise FetchError(
            f"{scheme}://…@{ascii(match['authority'].rpartition('@')[2][:100])[1:-1]}: a URL holds no user name or "
            "password here; write headers={'Authorization': …}"
        )
    parts = _AUTHORITY.fullmatch(match["authority"])
    if parts is None:
        raise FetchError(f"{shown}: {match['authority'][:100]!a} is not a host and a port")
    port = int(parts["port"] or _PORTS[scheme])
    if not 0 < port < 65536:
        raise FetchError(f"{shown}: a port is a number from 1 to 65535, not {port}")
    try:
        host = _host(parts["host"])
    except ValueError as error:
        raise FetchError(f"{shown}: {error}") from None
    rest = match["rest"].replace(" ", "%20")
    if not rest.startswith("/"):
        rest = f"/{rest}"
    authority = host if port == _PORTS[scheme] else f"{host}:{port}"
    return Place(f"{scheme}://{authority}{rest}", scheme, host, port)


def _host(given: str) -> str:
    """A host in its one form.

    Raises:
        ValueError: It is not one, or is spelt in a way that others may read as another one; in words.
    """
    shown = ascii(given[:100])
    if given.startswith("["):
        try:
            address = ipaddress.IPv6Address(given[1:-1])
        except ValueError:
            raise ValueError(f"{shown} is not an IPv6 address") from None
        if address.scope_id is not None:
            raise ValueError(f"{shown}: an address with a zone is not fetched")
        return f"[{address.compressed}]"
    host = (given if given.isascii() else _ascii(given)).lower().removesuffix(".")
    if not host:
        raise ValueError("it has no host")
    if len(host) > _LONGEST_HOST or not _NAME.fullmatch(host):
        raise ValueError(f"{shown} is not a host")
    if _NUMBER.fullmatch(host.rpartition(".")[2]):  # an address of IPv4, as browsers and resolvers read it
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            raise ValueError(f"{shown}: write an IPv4 address as four numbers, such as 127.0.0.1") from None
    return host


def _ascii(host: str) -> str:
    try:
        import idna  # comes with httpx
    except ImportError:
        raise ValueError(f"{host[:100]!a}: write the host in ASCII (xn--…)") from None
    try:
        return idna.encode(host, uts46=True, std3_rules=True).decode("ascii")
    except UnicodeError as error:  # idna's own errors are these
        raise ValueError(f"{host[:100]!a} is not a host: {str(error)[:200]}") from None


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))


def checked_needs(needs: object) -> tuple[str, ...]:
    """What an app needs, each in its one form, none twice.

    Raises:
        RegistrationError: It is not a list, or one of them has an unknown form; says what may stand there.
    """
    if isinstance(needs, str | bytes) or not isinstance(needs, Iterable):
        raise RegistrationError(f'needs={needs!r:.100}: write a list, such as needs=["network:api.example.com"]')
    return tuple(dict.fromkeys(_need(need) for need in needs))


def _need(need: object) -> str:
    what = f"needs=[{need!r:.100}]"
    if not isinstance(need, str) or not need.startswith(_PREFIX):
        raise RegistrationError(f"{what}: write {_FORMS}")
    place = need.removeprefix(_PREFIX)
    if place == "*":
        return need
    if _URL.fullmatch(place) or "/" in place:
        raise RegistrationError(f"{what}: write the host alone, without a scheme or a path: {_FORMS}")
    if "*" in place:
        raise RegistrationError(f'{what}: there are no wildcards within a host; write each host, or "network:*"')
    host, colon, port = place.partition(":")
    if "[" in place or ":" in port:
        raise RegistrationError(
            f'{what}: an IPv6 address cannot be named; "network:localhost" covers ::1, and "network:*" all of them'
        )
    if colon and not (re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) < 65536):
        raise RegistrationError(f"{what}: a port is a number from 1 to 65535; write {_FORMS}")
    try:
        host = _host(host)
    except ValueError as error:
        raise RegistrationError(f"{what}: {error}; write {_FORMS}") from None
    return f"{_PREFIX}{host}:{int(port)}" if colon else f"{_PREFIX}{host}"

"""The way to the server: which web proxy, whose certificates, and whose patience.

httpx could read the proxies' variables itself. It does not start with one that it cannot read, and does not say which.

Source: docs/protocol.md, section 10 (the environment).
"""

from __future__ import annotations

import fnmatch
import ipaddress
import os
import re
import ssl
from collections.abc import Mapping
from typing import Final

import attrs
import httpx

from gateway.settings import CA, CLIENT_CERT, CLIENT_KEY, CLIENT_KEY_PASSWORD, Settings, wrong

CERT_FILE: Final = "SSL_CERT_FILE"
CERT_DIR: Final = "SSL_CERT_DIR"
PROXIES: Final = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")  # also in capitals

_PORTS: Final = {"http": 80, "https": 443}
_SOCKS: Final = ("socks5", "socks5h", "socks")


@attrs.frozen
class WebProxy:
    """A proxy on the way, and the variable that names it."""

    variable: str
    url: httpx.URL = attrs.field(repr=False)  # it may hold a password

    @property
    def address(self) -> str:
        """Its scheme, host and port."""
        return str(self.url.copy_with(userinfo=b"", raw_path=b"/")).rstrip("/")

    @property
    def is_socks(self) -> bool:
        """Whether it speaks SOCKS, and not HTTP."""
        return self.url.scheme == "socks5"


def proxy_for(url: httpx.URL, environ: Mapping[str, str]) -> WebProxy | None:
    """The proxy through which an address is reached; None where there is none.

    Raises:
        RpcError: The variable that names it cannot be read.
    """
    name, value = _said(environ, f"{url.scheme}_proxy")
    if not value:
        name, value = _said(environ, "all_proxy")
    if not value or is_exempt(url, _said(environ, "no_proxy")[1]):
        return None
    try:
        proxy = httpx.URL(value if "://" in value else f"http://{value}")
    except (httpx.InvalidURL, ValueError):
        proxy = httpx.URL()
    if proxy.scheme not in (*_PORTS, *_SOCKS) or not proxy.host:
        raise wrong(
            f"{name} is no address of a proxy that can be used; write it as http://host:port or socks5://host:port"
        )
    if proxy.scheme in _SOCKS:
        proxy = proxy.copy_with(scheme="socks5")  # names are looked up by the proxy in any case
    return WebProxy(name, proxy)


def _said(environ: Mapping[str, str], name: str) -> tuple[str, str]:
    """A variable that may be in small letters or in capitals; the small ones count first, as in curl."""
    for spelled in (name, name.upper()):
        if value := environ.get(spelled, "").strip():
            return spelled, value
    return name.upper(), ""


def is_exempt(url: httpx.URL, no_proxy: str) -> bool:
    """Whether ``NO_PROXY`` names the host of an address. What cannot be read in it names none.

    It lists names (``example.com`` and ``.example.com`` are the domain with all below it), addresses, networks
    (``10.0.0.0/8``, ``fd00::/8``), each also with a port, and ``*`` for all.
    """
    hosts = {url.host.lower().rstrip("."), url.raw_host.decode("ascii").lower().rstrip(".")}
    port = url.port or _PORTS[url.scheme]
    return any(_names(entry, hosts, port) for entry in re.split(r"[\s,;]+", no_proxy.lower()) if entry)


def _names(entry: str, hosts: set[str], port: int) -> bool:
    entry = entry.rpartition("://")[2]
    bracketed = re.fullmatch(r"\[([^\]]*)\](/\d+)?(?::(\d+))?/?", entry)
    named = re.fullmatch(r"([^:]*):(\d+)/?", entry)
    if bracketed:
        entry, wanted = bracketed[1] + (bracketed[2] or ""), bracketed[3]
    elif named:
        entry, wanted = named[1], named[2]
    else:
        wanted = None
    if wanted is not None and int(wanted) != port:
        return False
    try:
        network = ipaddress.ip_network(entry.partition("%")[0], strict=False)
    except ValueError:
        pattern = entry.rstrip("/").rstrip(".").removeprefix("*.").removeprefix(".")
        return any(_is_below(host, pattern) for host in hosts)
    return any(address in network for host in hosts for address in _addresses(host))


def _is_below(host: str, pattern: str) -> bool:
    if "*" in pattern:
        return fnmatch.fnmatchcase(host, pattern)
    return bool(pattern) and (host == pattern or host.endswith(f".{pattern}"))


def _addresses(host: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return []
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return [address] if mapped is None else [address, mapped]


# -- certificates ------------------------------------------------------------------------------------------------------


def trust(settings: Settings) -> ssl.SSLContext:
    """Whom the client trusts, and what it shows of itself.

    Raises:
        RpcError: A file cannot be read, or holds something else.
    """
    system = ssl.get_default_verify_paths()
    file, folder = settings.text(CERT_FILE), settings.text(CERT_DIR)
    # Python would read the variables itself, and take one that is set to "" for a file without certificates.
    default_file = system.openssl_cafile if os.path.isfile(system.openssl_cafile) else None
    default_folder = system.openssl_capath if os.path.isdir(system.openssl_capath) else None
    if folder and not os.path.isdir(folder):
        raise wrong(f"{CERT_DIR}: there is no folder {folder}")
    try:
        context = ssl.create_default_context(cafile=file or default_file, capath=folder or default_folder)
    except (OSError, ValueError) as error:
        raise wrong(f"{CERT_FILE}: no certificates can be read from {file or default_file}: {error}") from None
    if ca := settings.text(CA):
        try:
            context.load_verify_locations(**{"capath" if os.path.isdir(ca) else "cafile": ca})
        except (OSError, ValueError) as error:
            raise wrong(f"{CA}: no certificates can be read from {ca}: {error}") from None
    _show_certificate(context, settings)
    return context


def _show_certificate(context: ssl.SSLContext, settings: Settings) -> None:
    certificate, key = settings.text(CLIENT_CERT), settings.text(CLIENT_KEY)
    if not certificate:
        if key:
            raise wrong(f"{CLIENT_KEY} is set without {CLIENT_CERT}; set both, or the second to a file that holds both")
        return
    asked = False

    def password() -> str:
        # Without this OpenSSL would ask at the terminal, or read the wire.
        nonlocal asked
        asked = True
        return settings.text(CLIENT_KEY_PASSWORD)

    try:
        context.load_cert_chain(certificate, key or None, password=password)
    except (OSError, ValueError) as error:
        if asked:
            raise wrong(f"{CLIENT_KEY_PASSWORD} does not open the key of {CLIENT_CERT}") from None
        where = f"{certificate} and {key}" if key else certificate
        names = f"{CLIENT_CERT} and {CLIENT_KEY}" if key else CLIENT_CERT
        raise wrong(f"{names}: no certificate with its key can be read from {where}: {error}") from None


# -- the client --------------------------------------------------------------------------------------------------------


def make_client(settings: Settings, proxy: WebProxy | None, agent: str) -> httpx.AsyncClient:
    """The client that asks the server.

    Raises:
        RpcError: A setting cannot be used.
    """
    context = trust(settings)
    through = None
    if proxy is not None:
        through = httpx.Proxy(proxy.url, ssl_context=context if proxy.url.scheme == "https" else None)
    try:
        return httpx.AsyncClient(
            verify=context,
            proxy=through,
            trust_env=False,
            timeout=httpx.Timeout(settings.silence, connect=10.0, write=30.0, pool=None),
            # How many streams run is bounded by sepkit.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
            # A server that packs its stream holds pieces back until there is enough to pack.
            headers={"User-Agent": agent, "Accept-Encoding": "identity"},
        )
    except ImportError:
        assert proxy is not None
        raise wrong(
            f"{proxy.variable} names a SOCKS proxy, which needs one more package: pip install 'httpx[socks]'"
        ) from None

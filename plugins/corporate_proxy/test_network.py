"""The way to the server: proxies, certificates and patience, on real sockets of this machine."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

import app as plugin
from driving import Proxy, Upstream
from gateway.network import PROXIES, is_exempt, proxy_for, trust
from gateway.server import Upstream as Client
from gateway.settings import Settings
from relays import Relays, refusing
from sepkit import RpcError
from sepkit.testing import ProviderAnswer
from tests.checked_host import CheckedHost, refused
from tests.memory_host import on_each_loop

NAMES = [spelled for name in PROXIES for spelled in (name, name.upper())]
KINDS = ("kind", "retryable")


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Set the plugin's environment; nothing of this machine's is left of what it reads."""
    for name in [*NAMES, "SSL_CERT_FILE", "SSL_CERT_DIR", *os.environ]:
        if name in NAMES or name.startswith(("SSL_", "CORPORATE_")):
            monkeypatch.delenv(name, raising=False)

    monkeypatch.setattr("gateway.server.BACK_OFF", 0.01)

    def said(**values: str) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name if name in NAMES or name.startswith("SSL_") else f"CORPORATE_PROXY_{name}", value)

    return said


@pytest.fixture
def relays() -> Iterator[Relays]:
    with Relays() as relays:
        yield relays


@pytest.fixture
def port(upstream: Upstream) -> int:
    """Where the server is."""
    port = httpx.URL(upstream.url).port
    assert port is not None
    return port


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def authority_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


@pytest.fixture(scope="module")
def server_side(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1", "localhost", "models.test", "proxy.test").configure_cert(context)
    return context


async def asked(model: str = "ok") -> ProviderAnswer:
    async with CheckedHost(plugin.app) as host:
        return await host.complete("corporate-proxy", model, [], stream=False)


async def failed(model: str = "ok") -> RpcError:
    async with CheckedHost(plugin.app) as host:
        return await refused(host.complete("corporate-proxy", model, [], stream=False))


async def collected(error: RpcError) -> RpcError:
    """The same error, when what it left open is closed."""
    gc.collect()
    await asyncio.sleep(0.01)
    return error


# -- which proxy -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("no_proxy", "named", "not_named"),
    [
        ("", [], ["http://a.test"]),
        ("*", ["http://a.test", "http://10.0.0.1", "http://[::1]"], []),
        ("a.test", ["http://a.test", "https://a.test:8443", "http://x.a.test"], ["http://ba.test", "http://a.test.b"]),
        (".a.test", ["http://a.test", "http://x.y.a.test"], ["http://ba.test"]),
        ("*.a.test", ["http://a.test", "http://x.a.test"], ["http://ba.test"]),
        ("A.Test.", ["http://a.TEST", "http://a.test."], ["http://a.tes"]),
        ("a.test:8080", ["http://a.test:8080"], ["http://a.test", "https://a.test"]),
        ("a.test:80", ["http://a.test"], ["https://a.test"]),
        ("http://a.test/", ["http://a.test"], ["http://b.test"]),
        ("localhost,[::1]", ["http://localhost", "http://[::1]", "http://[::1]:8080"], ["http://[::2]"]),
        ("[::1]:8080", ["http://[::1]:8080"], ["http://[::1]", "http://[::1:8080]"]),
        ("::1", ["http://[::1]", "http://[0:0:0:0:0:0:0:1]"], ["http://127.0.0.1"]),
        ("fd00::/8", ["http://[fd12::1]"], ["http://[fe80::1]", "http://fd00.test"]),
        ("[fd00::]/8", ["http://[fd12::1]"], ["http://[fe80::1]"]),
        ("10.0.0.0/8", ["http://10.1.2.3", "http://[::ffff:10.1.2.3]"], ["http://11.0.0.1"]),
        ("10.1.2.3/8", ["http://10.0.0.1"], ["http://11.0.0.1"]),
        ("192.168.1.7", ["http://192.168.1.7"], ["http://192.168.1.70"]),
        ("192.168.*", ["http://192.168.1.7"], ["http://192.169.1.7"]),
        ("a.test b.test;c.test , d.test", [f"http://{name}.test" for name in "abcd"], ["http://e.test"]),
        (",,  ,[,],::,/8,a.test:x,10.0.0.0/99,a..b,%,", [], ["http://a.test", "http://[::1]", "http://10.0.0.1"]),
        ("müller.test", ["http://müller.test"], ["http://muller.test"]),
    ],
)
def test_no_proxy_is_read_in_each_form_and_never_fails(no_proxy: str, named: list[str], not_named: list[str]) -> None:
    """As curl, Go and Python write it; what cannot be read names nothing."""
    assert [url for url in named if not is_exempt(httpx.URL(url), no_proxy)] == []
    assert [url for url in not_named if is_exempt(httpx.URL(url), no_proxy)] == []


@pytest.mark.parametrize(
    ("environ", "url", "found"),
    [
        ({"HTTP_PROXY": "http://p:1"}, "http://a.test", ("HTTP_PROXY", "http://p:1")),
        ({"HTTP_PROXY": "http://p:1"}, "https://a.test", None),
        ({"HTTPS_PROXY": "http://p:1"}, "https://a.test", ("HTTPS_PROXY", "http://p:1")),
        ({"ALL_PROXY": "http://p:1"}, "https://a.test", ("ALL_PROXY", "http://p:1")),
        ({"ALL_PROXY": "http://p:1", "HTTP_PROXY": "http://q:2"}, "http://a.test", ("HTTP_PROXY", "http://q:2")),
        ({"http_proxy": "http://p:1", "HTTP_PROXY": "http://q:2"}, "http://a.test", ("http_proxy", "http://p:1")),
        ({"http_proxy": "", "HTTP_PROXY": "http://q:2"}, "http://a.test", ("HTTP_PROXY", "http://q:2")),
        ({"HTTP_PROXY": "p.test:3128"}, "http://a.test", ("HTTP_PROXY", "http://p.test:3128")),
        ({"HTTP_PROXY": " http://n:planted@p:1/ "}, "http://a.test", ("HTTP_PROXY", "http://p:1")),
        ({"HTTP_PROXY": "http://[::1]:3128"}, "http://a.test", ("HTTP_PROXY", "http://[::1]:3128")),
        ({"HTTP_PROXY": "socks5h://p:1"}, "http://a.test", ("HTTP_PROXY", "socks5://p:1")),
        ({"ALL_PROXY": "socks://p:1/"}, "http://a.test", ("ALL_PROXY", "socks5://p:1")),
        ({"HTTP_PROXY": "http://p:1", "no_proxy": "a.test"}, "http://a.test", None),
        ({"HTTP_PROXY": "nonsense://", "NO_PROXY": "a.test"}, "http://a.test", None),
    ],
)
def test_the_proxy_is_found_where_others_find_it(
    environ: dict[str, str], url: str, found: tuple[str, str] | None
) -> None:
    """Small letters before capitals, the scheme's own variable before ALL_PROXY, and "" as if it were not set."""
    proxy = proxy_for(httpx.URL(url), environ)
    assert (proxy if proxy is None else (proxy.variable, proxy.address)) == found
    assert "planted" not in repr(proxy)


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
@pytest.mark.parametrize(
    "value",
    [
        "socks4://planted:1",
        "ftp://planted",
        "http://",
        "http://planted:x",
        "http://[::1",
        "://planted",
        "http://a:planted@",
    ],
)
@on_each_loop
async def test_a_proxy_that_cannot_be_used_is_named_and_keeps_nothing_from_starting(
    name: str, value: str, environ: Any
) -> None:
    """The extension starts, and each request says which variable it is, without its value."""
    environ(URL="http://models.test/v1", **{name: value})
    error = await failed()
    assert error.data == {"kind": "not_configured", "retryable": False}
    assert error.message.startswith(f"{name} is no address of a proxy")
    assert "planted" not in error.message


def test_each_process_starts_with_what_companies_set(upstream: Upstream) -> None:
    """As a program: IPv6 addresses and networks in NO_PROXY, a SOCKS proxy for all, and variables that are empty."""
    environ = {
        "CORPORATE_PROXY_URL": upstream.url,
        "ALL_PROXY": "socks5://127.0.0.1:1",
        "no_proxy": "localhost,[::1],fd00::/8,127.0.0.0/8",
        "SSL_CERT_FILE": "",
    }
    with Proxy(environ) as proxy:
        assert proxy.complete("ok")["content"] == "Hello, Ada!"
    with Proxy({**environ, "no_proxy": "", "HTTP_PROXY": "socks4://x"}) as proxy:
        assert proxy.refused("ok")["message"].startswith("HTTP_PROXY is no address of a proxy")
        assert proxy.command("proxy-status").startswith("HTTP_PROXY is no address of a proxy")


# -- through proxies ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["http", "https"])
@on_each_loop
async def test_a_proxy_with_a_login_is_used_for_both_schemes(
    scheme: str, environ: Any, relays: Relays, port: int, server_side: ssl.SSLContext, authority_file: str
) -> None:
    """A request is passed on, or a tunnel is opened for it."""
    through = relays.web_proxy(login="ada:pass word")
    where = port if scheme == "http" else relays.tls(port, server_side)
    environ(URL=f"{scheme}://models.test:{where}/v1", CA=authority_file)
    environ(**{f"{scheme.upper()}_PROXY": f"http://ada:pass%20word@127.0.0.1:{through}"})
    assert (await asked()).content == "Hello, Ada!"
    (line,) = relays.asked
    is_tunnel = line.startswith(f"CONNECT models.test:{where} ")
    assert is_tunnel or line.startswith(f"POST http://models.test:{where}/v1/chat/completions ")
    assert is_tunnel == (scheme == "https")


@on_each_loop
async def test_a_proxy_behind_tls_is_used(
    environ: Any, relays: Relays, port: int, server_side: ssl.SSLContext, authority_file: str
) -> None:
    """``HTTPS_PROXY=https://…``: its certificate is judged as the server's."""
    through = relays.web_proxy(tls=server_side)
    where = relays.tls(port, server_side)
    environ(URL=f"https://models.test:{where}/v1", HTTPS_PROXY=f"https://localhost:{through}", CA=authority_file)
    assert (await asked()).content == "Hello, Ada!"


@pytest.mark.parametrize(
    "value", ["socks5://127.0.0.1:{}", "socks5h://ada:secret@127.0.0.1:{}", "socks://127.0.0.1:{}"]
)
@pytest.mark.parametrize("scheme", ["http", "https"])
@on_each_loop
async def test_a_socks_proxy_is_used(
    value: str,
    scheme: str,
    environ: Any,
    relays: Relays,
    port: int,
    server_side: ssl.SSLContext,
    authority_file: str,
) -> None:
    """With a login and without; the proxy looks up the name."""
    through = relays.socks_proxy("ada:secret" if "ada" in value else None)
    where = port if scheme == "http" else relays.tls(port, server_side)
    environ(URL=f"{scheme}://models.test:{where}/v1", ALL_PROXY=value.format(through), CA=authority_file)
    assert (await asked()).content == "Hello, Ada!"
    assert relays.asked == [f"SOCKS models.test:{where}"]


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("status", [407, 403, 502])
@on_each_loop
async def test_what_a_proxy_refuses_is_said_of_the_proxy(
    scheme: str, status: int, environ: Any, relays: Relays
) -> None:
    """407 is asked once, and names the proxy's variable; the server behind it is not to blame."""
    through = relays.web_proxy(status, login="ada:other" if status == 407 else None)
    environ(URL=f"{scheme}://models.test/v1", **{f"{scheme.upper()}_PROXY": f"http://ada:planted@127.0.0.1:{through}"})
    error = await failed()
    assert "planted" not in error.message + str(error.data)
    if status == 407:
        assert error.data == {"kind": "proxy_refused", "retryable": False, "status": 407, "attempts": 1}
        assert f"{scheme.upper()}_PROXY, as http://name:password@host:port" in error.message
        assert "CORPORATE_PROXY_URL" not in error.message
    elif scheme == "http":  # it looks as if the server had said it
        assert error.data["status"] == status
    elif status == 403:
        assert error.data == {"kind": "proxy_refused", "retryable": False, "status": 403, "attempts": 1}
        assert f"http://127.0.0.1:{through} lets nothing through to https://models.test" in error.message
    else:
        assert error.data == {"kind": "unreachable", "retryable": True, "attempts": 3}
    assert len(relays.asked) == error.data["attempts"]


# httpx leaves the socket of a SOCKS proxy that refuses to the garbage collector, and uvloop does not close before that.
LEFT_OPEN = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@LEFT_OPEN
@pytest.mark.parametrize(
    ("login", "value", "kind"),
    [
        ("ada:other", "socks5://ada:planted@127.0.0.1:{}", "proxy_refused"),
        ("ada:other", "socks5://127.0.0.1:{}", "proxy_refused"),
        (None, "socks5://127.0.0.1:{}", "unreachable"),
    ],
)
@on_each_loop
async def test_what_a_socks_proxy_refuses_is_said_of_the_proxy(
    login: str | None, value: str, kind: str, environ: Any, relays: Relays
) -> None:
    """A wrong login, none at all, and a server that it does not reach."""
    through = relays.socks_proxy(login, refuses=True)
    environ(URL="http://models.test/v1", ALL_PROXY=value.format(through))
    error = await collected(await failed())
    assert (error.data["kind"], error.data["attempts"]) == (kind, 3 if kind == "unreachable" else 1)
    assert f"the proxy socks5://127.0.0.1:{through}" in error.message
    assert "planted" not in error.message
    assert ("ALL_PROXY" in error.message) == (kind == "proxy_refused")


@pytest.mark.parametrize("scheme", ["http", "socks5", "https"])
@on_each_loop
async def test_a_proxy_that_is_not_there_is_named(scheme: str, environ: Any) -> None:
    """It, and not the server, cannot be reached."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        where = f"{scheme}://127.0.0.1:{closed.getsockname()[1]}"
    environ(URL="http://models.test/v1", HTTP_PROXY=where)
    error = await failed()
    assert error.data == {"kind": "unreachable", "retryable": True, "attempts": 3}
    assert error.message.startswith(f"the proxy {where}, on the way to http://models.test, cannot be reached")
    assert error.message.endswith("check HTTP_PROXY")


@LEFT_OPEN
@pytest.mark.parametrize("scheme", ["socks5", "https"])
@on_each_loop
async def test_a_proxy_that_speaks_something_else_is_an_error_with_a_kind(
    scheme: str, environ: Any, relays: Relays
) -> None:
    """A port of another protocol is found in many settings; it is no unforeseen failure."""

    async def chatty(reader: Any, writer: Any) -> None:
        writer.write(b"220 mail.test ESMTP\r\n" * 3)
        await reader.read(10)

    environ(URL="http://models.test/v1", HTTP_PROXY=f"{scheme}://127.0.0.1:{relays.serve(chatty)}")
    error = await collected(await failed())
    assert error.data["kind"] == "unreachable"
    assert "HTTP_PROXY" in error.message


# -- certificates ------------------------------------------------------------------------------------------------------


@on_each_loop
async def test_a_certificate_that_is_not_trusted_says_where_to_put_its_ca(
    environ: Any, relays: Relays, port: int, server_side: ssl.SSLContext
) -> None:
    """A company's gateway signs with the company's own certificate; to ask again changes nothing."""
    environ(URL=f"https://127.0.0.1:{relays.tls(port, server_side)}/v1")
    error = await failed()
    assert error.data == {"kind": "untrusted", "retryable": False, "attempts": 1}
    assert "CORPORATE_PROXY_CA" in error.message


@pytest.mark.parametrize("name", ["CA", "SSL_CERT_FILE"])
@on_each_loop
async def test_a_certificate_is_trusted_by_either_variable(
    name: str, environ: Any, relays: Relays, port: int, server_side: ssl.SSLContext, authority_file: str
) -> None:
    """The plugin's own adds to what is trusted, OpenSSL's replaces it."""
    environ(URL=f"https://127.0.0.1:{relays.tls(port, server_side)}/v1", **{name: authority_file})
    assert (await asked()).content == "Hello, Ada!"


def test_variables_of_certificates_that_are_empty_leave_the_system_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """A manifest passes on what is not set as "", which OpenSSL takes for a file without certificates."""
    monkeypatch.setenv("SSL_CERT_FILE", "")
    monkeypatch.setenv("SSL_CERT_DIR", "")
    empty = trust(Settings(os.environ)).cert_store_stats()
    monkeypatch.delenv("SSL_CERT_FILE")
    monkeypatch.delenv("SSL_CERT_DIR")
    assert empty == ssl.create_default_context().cert_store_stats()


@pytest.fixture
def shown(authority: trustme.CA, tmp_path: Path) -> dict[str, str]:
    """A certificate of a client, in files."""
    issued = authority.issue_cert("ada@client.test")
    files = {name: str(tmp_path / f"{name}.pem") for name in ("cert", "key", "both", "locked")}
    issued.cert_chain_pems[0].write_to_path(files["cert"])
    issued.private_key_pem.write_to_path(files["key"])
    issued.private_key_and_cert_chain_pem.write_to_path(files["both"])
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"open planted"),
    )
    Path(files["locked"]).write_bytes(locked)
    return files


@pytest.fixture
def strict_side(authority: trustme.CA) -> ssl.SSLContext:
    """A server that asks the client for a certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


@pytest.mark.parametrize(
    "files",
    [
        {"CLIENT_CERT": "cert", "CLIENT_KEY": "key"},
        {"CLIENT_CERT": "both"},
        {"CLIENT_CERT": "cert", "CLIENT_KEY": "locked", "CLIENT_KEY_PASSWORD": "open planted"},
    ],
)
@on_each_loop
async def test_a_server_that_wants_a_certificate_is_shown_one(
    files: dict[str, str],
    environ: Any,
    relays: Relays,
    port: int,
    strict_side: ssl.SSLContext,
    authority_file: str,
    shown: dict[str, str],
) -> None:
    """Mutual TLS, with the key beside the certificate, in one file, or under a password."""
    environ(URL=f"https://127.0.0.1:{relays.tls(port, strict_side)}/v1", CA=authority_file)
    environ(**{name: shown.get(value, value) for name, value in files.items()})
    assert (await asked()).content == "Hello, Ada!"


VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])


@VERSIONS
@on_each_loop
async def test_a_server_that_is_shown_no_certificate_says_which_variable_is_missing(
    version: ssl.TLSVersion, environ: Any, strict_side: ssl.SSLContext, authority_file: str
) -> None:
    """To ask again changes nothing. With TLS 1.3 the server says so only when the client has begun to ask."""
    strict_side.maximum_version = version
    with refusing(strict_side) as port:
        environ(URL=f"https://127.0.0.1:{port}/v1", CA=authority_file)
        error = await failed()
    assert error.data == {"kind": "untrusted", "retryable": False, "attempts": 1}
    assert "does not take the certificate of this client" in error.message
    assert "CORPORATE_PROXY_CLIENT_CERT" in error.message


@VERSIONS
@on_each_loop
async def test_a_certificate_that_the_server_does_not_take_is_an_error_of_its_own(
    version: ssl.TLSVersion, environ: Any, strict_side: ssl.SSLContext, authority_file: str, tmp_path: Path
) -> None:
    """One of another authority."""
    trustme.CA().issue_cert("ada@client.test").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "other.pem"))
    strict_side.maximum_version = version
    with refusing(strict_side) as port:
        environ(URL=f"https://127.0.0.1:{port}/v1", CA=authority_file, CLIENT_CERT=str(tmp_path / "other.pem"))
        error = await failed()
    assert error.data == {"kind": "untrusted", "retryable": False, "attempts": 1}


@VERSIONS
@on_each_loop
async def test_a_server_that_ends_the_connection_without_a_word_may_want_a_certificate(
    version: ssl.TLSVersion,
    environ: Any,
    relays: Relays,
    port: int,
    strict_side: ssl.SSLContext,
    authority_file: str,
) -> None:
    """It may have another reason, so it is asked again; the error says what it can be."""
    strict_side.maximum_version = version
    environ(URL=f"https://127.0.0.1:{relays.tls(port, strict_side)}/v1", CA=authority_file)
    error = await failed()
    assert error.data["kind"] in ("unreachable", "untrusted")
    assert "CORPORATE_PROXY_CLIENT_CERT" in error.message


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            {"CLIENT_CERT": "{key}", "CLIENT_KEY": "{cert}"},
            "CORPORATE_PROXY_CLIENT_CERT and CORPORATE_PROXY_CLIENT_KEY: no",
        ),
        ({"CLIENT_CERT": "{cert}"}, "CORPORATE_PROXY_CLIENT_CERT: no certificate with its key"),
        (
            {"CLIENT_CERT": "/nowhere.pem"},
            "CORPORATE_PROXY_CLIENT_CERT: no certificate with its key can be read from /now",
        ),
        ({"CLIENT_KEY": "{key}"}, "CORPORATE_PROXY_CLIENT_KEY is set without CORPORATE_PROXY_CLIENT_CERT"),
        ({"CLIENT_CERT": "{cert}", "CLIENT_KEY": "{locked}"}, "CORPORATE_PROXY_CLIENT_KEY_PASSWORD does not open"),
        (
            {"CLIENT_CERT": "{cert}", "CLIENT_KEY": "{locked}", "CLIENT_KEY_PASSWORD": "planted"},
            "CORPORATE_PROXY_CLIENT_KEY_PASSWORD does not open",
        ),
        ({"CA": "/nowhere.pem"}, "CORPORATE_PROXY_CA: no certificates can be read from /nowhere.pem"),
        ({"CA": "{empty}"}, "CORPORATE_PROXY_CA: no certificates can be read from "),
        ({"SSL_CERT_FILE": "/nowhere.pem"}, "SSL_CERT_FILE: no certificates can be read from /nowhere.pem"),
        ({"SSL_CERT_DIR": "/nowhere"}, "SSL_CERT_DIR: there is no folder /nowhere"),
    ],
)
@on_each_loop
async def test_a_file_that_cannot_be_used_is_named(
    settings: dict[str, str], says: str, environ: Any, shown: dict[str, str], tmp_path: Path
) -> None:
    """Nothing is asked without the trust that was told; the extension starts, and says what is wrong."""
    (tmp_path / "empty.pem").write_text("")
    files = {**shown, "empty": str(tmp_path / "empty.pem")}
    environ(URL="https://models.test/v1", **{name: value.format(**files) for name, value in settings.items()})
    error = await failed()
    assert error.data == {"kind": "not_configured", "retryable": False}
    assert error.message.startswith(says)
    assert "planted" not in error.message


# -- patience ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["comments", "pings", "empty", "after", "body", "usage"])
@on_each_loop
async def test_what_only_keeps_the_connection_alive_is_given_up(
    how: str, environ: Any, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Comments, pings and empty chunks without end are taken for a while, and not for ever."""
    monkeypatch.setattr("gateway.server.SIGNS_OF_LIFE", 0.03)
    environ(URL=upstream.url, TIMEOUT="10")
    error = await failed(f"alive?how={how}")
    received = len("so far") if how == "after" else 0
    assert error.data == {"kind": "timeout", "retryable": True, "received": received}
    assert "nothing but signs of life for 0.3 s" in error.message


@on_each_loop
async def test_a_model_that_thinks_for_long_is_waited_for(
    environ: Any, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes in time begins the time anew."""
    monkeypatch.setattr("gateway.server.SIGNS_OF_LIFE", 0.08)
    environ(URL=upstream.url, TIMEOUT="10")
    assert (await asked("alive?how=slow")).content == "x" * 6


def test_signs_of_life_are_taken_for_five_times_the_time_out() -> None:
    """By default ten minutes, for which DeepSeek keeps a request that waits."""
    assert Client({}, "agent").patience == 600
    assert Client({"CORPORATE_PROXY_TIMEOUT": "2"}, "agent").patience == 10

"""What the environment says of the server: the names of the variables, and their values.

A manifest passes on what is not set as "", so that is the same as absent. A wrong value is told when it is used: the
extension starts, and can say what is wrong. No value is quoted, since it may hold a secret.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import httpx

from gateway.failures import failure
from gateway.question import OPTIONAL
from sepkit import RpcError

URL: Final = "CORPORATE_PROXY_URL"
KEY: Final = "CORPORATE_PROXY_KEY"
KEY_HEADER: Final = "CORPORATE_PROXY_KEY_HEADER"
MODELS: Final = "CORPORATE_PROXY_MODELS"
LEAVE_OUT: Final = "CORPORATE_PROXY_LEAVE_OUT"
CLIENT_ID: Final = "CORPORATE_PROXY_CLIENT_ID"
CA: Final = "CORPORATE_PROXY_CA"
CLIENT_CERT: Final = "CORPORATE_PROXY_CLIENT_CERT"
CLIENT_KEY: Final = "CORPORATE_PROXY_CLIENT_KEY"
CLIENT_KEY_PASSWORD: Final = "CORPORATE_PROXY_CLIENT_KEY_PASSWORD"
TIMEOUT: Final = "CORPORATE_PROXY_TIMEOUT"

SILENCE: Final = 120.0  # seconds without a byte after which a stream is given up
SIGNS_OF_LIFE: Final = 5  # times as long it may send what says nothing: models wait in queues, and think


class Settings:
    """The settings of the server.

    Args:
        environ: The environment.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ: Final = environ
        self._base = self.text(URL)
        self.key: Final = self.text(KEY)
        self.client_id: Final = self.text(CLIENT_ID) or "sepkit-corporate-proxy"
        said = self.text(TIMEOUT)
        is_seconds = re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,3})?", said) and float(said) > 0
        self.silence: Final = float(said) if is_seconds else SILENCE

    def text(self, name: str) -> str:
        """The value of a variable; "" where it is not set."""
        return self.environ.get(name, "").strip()

    @property
    def models(self) -> list[str]:
        """The names of the models to offer."""
        return [name for name in dict.fromkeys(map(str.strip, self.text(MODELS).split(","))) if name]

    @property
    def left_out(self) -> frozenset[str]:
        """What is never sent.

        Raises:
            RpcError: It names something that cannot be left out.
        """
        names = frozenset(filter(None, re.split(r"[\s,]+", self.text(LEAVE_OUT))))
        if names - OPTIONAL.keys():
            raise wrong(f"{LEAVE_OUT} names what cannot be left out; write one or more of {', '.join(OPTIONAL)}")
        return names

    @property
    def url(self) -> httpx.URL:
        """Where the API is; the path ends without a slash, and a query may follow.

        Raises:
            RpcError: The URL is missing, or is not one.
        """
        if not self._base:
            raise wrong(f"{URL} is not set; set it to the server's address, as https://…/v1")
        try:
            url = httpx.URL(self._base)
        except (httpx.InvalidURL, ValueError):
            url = httpx.URL()
        if url.userinfo:
            raise wrong(f"{URL} holds a name or a password; put what is secret into {KEY}")
        if url.scheme not in ("http", "https") or not url.host:
            raise wrong(f"{URL} is no address of a server; write it as https://host/v1")
        return url.copy_with(fragment=None)

    def endpoint(self, path: str) -> httpx.URL:
        """The address of a part of the API, with the query of the server's own address.

        The address may be that of the completions itself, as Azure shows it.
        """
        url = self.url
        base, question, query = url.raw_path.partition(b"?")
        base = base.rstrip(b"/").removesuffix(b"/chat/completions").rstrip(b"/")
        return url.copy_with(raw_path=base + path.encode() + question + query)

    @property
    def key_header(self) -> str:
        """The name of the header that carries the key: what is set, else what the address is known for.

        Raises:
            RpcError: It cannot be the name of a header.
        """
        name = self.text(KEY_HEADER)
        if name and not re.fullmatch(r"[A-Za-z0-9-]{1,100}", name):
            raise wrong(f"{KEY_HEADER} is not the name of a header; write it as api-key")
        # Only the classic API of Azure has its version in the query, and its keys are not bearer tokens.
        return name or ("api-key" if "api-version" in self.url.params else "Authorization")


def wrong(message: str) -> RpcError:
    """The error for a setting that cannot be used."""
    return failure("not_configured", message)

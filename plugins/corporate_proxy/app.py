"""Models behind a server that speaks the OpenAI-compatible chat API, streamed as server-sent events.

What goes wrong reaches the host as an error with data to act on, and without the key in it. It is no gateway: it counts
nobody's budget, keeps no answer, and a stream that broke off is an error and never a short answer.

Here is what the host sees; the package ``gateway`` speaks with the server.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Final

import httpx

from gateway.answer import Answer
from gateway.failures import WEEK, failure
from gateway.server import Upstream
from gateway.settings import KEY, Settings
from sepkit import (
    App,
    CommandContext,
    Credentials,
    Model,
    OAuthParams,
    ProviderContext,
    ProviderRequest,
    RpcError,
    StreamEvent,
    ToolError,
)

PROVIDER: Final = "corporate-proxy"
VERSION: Final = "0.2.0"

TAIL: Final = 5.0  # seconds that a finished answer waits in all for its usage and its [DONE]
LOGIN_LIMIT: Final = 290.0  # seconds; hosts wait 300

# They would log each request in the host's log, and with `--log-level debug` what the server sets as cookies.
for _name in ("httpx", "httpcore"):
    logging.getLogger(_name).setLevel(logging.WARNING)


@asynccontextmanager
async def connected(app: App) -> AsyncIterator[Upstream]:
    async with Upstream(os.environ, f"{PROVIDER}/{VERSION}") as upstream:
        yield upstream


app = App(PROVIDER, version=VERSION, lifespan=connected)


@app.provider(PROVIDER, models=[Model(name) for name in Settings(os.environ).models], api_key_env=KEY)
async def complete(request: ProviderRequest, ctx: ProviderContext) -> AsyncIterator[StreamEvent]:
    upstream: Upstream = ctx.state
    answer = Answer(upstream.memory)
    clock = asyncio.get_running_loop().time
    upstream.running += 1
    try:
        response = await upstream.complete(request)
        async with aclosing(response), aclosing(upstream.chunks(response)) as chunks:
            # What keeps the connection alive and says nothing is taken for a while.
            deadline, end = clock() + upstream.patience, None
            while True:
                try:
                    async with asyncio.timeout_at(end or deadline):
                        chunk = await anext(chunks)
                except StopAsyncIteration:
                    break
                except TimeoutError:
                    if answer.over:
                        break
                    raise upstream.lifeless(answer.received) from None
                except httpx.RequestError as error:
                    if answer.over:
                        break
                    raise upstream.broken(error, answer.received) from None
                if chunk is None:
                    answer.over = True
                    continue
                over, received = answer.over, answer.received
                says_something = False
                for event in answer.take(chunk):
                    says_something = True
                    yield event
                if says_something:
                    deadline = clock() + upstream.patience
                if not over and answer.over:
                    end = clock() + TAIL
                elif answer.received > received:
                    # Some give a reason with each chunk; theirs tells nothing of the end, and to guess it would cut.
                    end = None
        for event in answer.end():
            yield event
    finally:
        upstream.running -= 1


@app.oauth_login(PROVIDER)
async def log_in(ctx: ProviderContext) -> Credentials:
    upstream: Upstream = ctx.state
    grant = await upstream.oauth("device/code")
    device_code, code, address = (grant.get(name) for name in ("device_code", "user_code", "verification_uri"))
    if not (isinstance(device_code, str) and isinstance(code, str) and isinstance(address, str)):
        raise failure("login_failed", f"{upstream.origin} began no login: {upstream.text_of(grant)}")
    await ctx.ui.notify(f"To log in to {upstream.origin}, open {address} and enter the code {code}")
    pause = _seconds(grant.get("interval"), 5.0)
    try:
        async with asyncio.timeout(min(_seconds(grant.get("expires_in"), LOGIN_LIMIT), LOGIN_LIMIT)):
            while True:
                await asyncio.sleep(max(pause, 0.05))
                try:
                    said = await upstream.oauth(
                        "token", grant_type="urn:ietf:params:oauth:grant-type:device_code", device_code=device_code
                    )
                except RpcError as error:
                    if not error.data["retryable"]:
                        raise
                    continue
                if "error" not in said:
                    return upstream.logged_in(said)
                if said["error"] == "slow_down":
                    pause += 5
                elif said["error"] != "authorization_pending":
                    break
    except TimeoutError:
        raise failure("login_failed", f"nobody entered the code {code} in time; log in again") from None
    if said["error"] == "access_denied":
        raise failure("login_failed", "the login was denied")
    raise failure("login_failed", f"the login failed ({upstream.text_of(said)}); log in again")


@app.oauth_refresh(PROVIDER)
async def refresh(params: OAuthParams, ctx: ProviderContext) -> Credentials:
    upstream: Upstream = ctx.state
    if not params.refresh_token:
        raise failure("login_failed", "there is no refresh_token to renew the login with; log in again")
    upstream.refreshing(params.refresh_token)
    said = await upstream.oauth("token", grant_type="refresh_token", refresh_token=params.refresh_token)
    if "error" in said:
        raise failure("login_failed", f"the login cannot be renewed ({upstream.text_of(said)}); log in again")
    return upstream.logged_in(said)


def _seconds(value: object, otherwise: float) -> float:
    return float(value) if isinstance(value, int | float) and 0 <= value < WEEK else otherwise


@app.command(name="proxy-status")
async def proxy_status(ctx: CommandContext) -> str:
    """Tell which server is asked, as whom, and how many streams run."""
    upstream: Upstream = ctx.state
    try:
        where = upstream.origin
    except RpcError as error:
        return error.message
    whose = {"key": f"with the key in {KEY}", "none": f"without a key: set {KEY}, or log in", "login": "logged in"}
    until = ""
    if upstream.credential == "login" and upstream.expires_at is not None:
        left = upstream.expires_at - time.time()
        until = f" for {left:.0f} s more" if left > 0 else ", but the login has expired"
    return f"{where}, {whose[upstream.credential]}{until}; {upstream.running} streams running"


@app.command(name="proxy-models")
async def proxy_models(ctx: CommandContext) -> str:
    """Ask the server which models it has, and offer those from now on."""
    upstream: Upstream = ctx.state
    try:
        names = await upstream.models()
    except RpcError as error:
        raise ToolError(error.message) from None
    app.add_provider(complete, PROVIDER, models=[Model(name) for name in names], api_key_env=KEY, replace=True)
    return f"{len(names)} models: {', '.join(names)}" if names else f"{upstream.origin} lists no models"

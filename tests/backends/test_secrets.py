"""What each backend keeps of secrets, and what it refuses."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keyring
import keyring.backend
import keyring.backends.fail
import pytest

from sepkit.capabilities.local.backend import LocalBackend
from sepkit.contexts.backend import Backend, Hidden
from sepkit.contexts.secrets import Secrets
from sepkit.errors import StoreError
from tests.memory_host import on_each_loop

PLANTED = "planted-d41d8cd98f00b204"


class Ring(keyring.backend.KeyringBackend):
    """A keyring in memory."""

    priority = 5

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], str] = {}
        self.threads: set[int] = set()
        self.fails: Exception | None = None

    def get_password(self, service: str, username: str) -> str | None:
        self._enter()
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self._enter()
        self.kept[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        self._enter()
        del self.kept[service, username]

    def _enter(self) -> None:
        self.threads.add(threading.get_ident())
        if self.fails is not None:
            raise self.fails


class PlainText(Ring):
    """As keyrings.alt has it: a file that everybody can read."""

    priority = 0.5  # type: ignore[assignment]


def contents(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in folder.rglob("*") if path.is_file()]


@pytest.fixture(autouse=True)
def ring() -> Iterator[Ring]:
    """The system's keyring, for the tests of one function."""
    ring, before = Ring(), keyring.get_keyring()
    keyring.set_keyring(ring)
    yield ring
    keyring.set_keyring(before)


@on_each_loop
async def test_a_secret_is_set_read_listed_and_deleted(backend: Backend) -> None:
    secrets = Secrets(backend.secrets, None)
    assert await secrets.get("api.key") is None
    assert await secrets.list() == []
    assert not await secrets.delete("api.key")
    await secrets.set("api.key", "one")
    await secrets.set("Other_name-2", "ü \n x" * 1000)
    await secrets.set("api.key", "two")
    assert await secrets.get("api.key") == "two"
    assert await secrets.get("Other_name-2") == "ü \n x" * 1000
    assert await secrets.list() == ["Other_name-2", "api.key"]
    assert await secrets.delete("api.key")
    assert not await secrets.delete("api.key")
    assert await secrets.get("api.key") is None
    assert await secrets.list() == ["Other_name-2"]
    await backend.aclose()


@on_each_loop
async def test_secrets_of_the_app_and_of_each_user_never_meet(backend: Backend) -> None:
    owners = [Secrets(backend.secrets, user) for user in (None, "ada", "bo", "ada@x")]
    await owners[0].set("key", "the app's")
    assert [await one.get("key") for one in owners] == ["the app's", None, None, None]
    assert [await one.list() for one in owners] == [["key"], [], [], []]
    await owners[1].set("key", "ada's")
    assert [await one.get("key") for one in owners] == ["the app's", "ada's", None, None]
    assert not await owners[2].delete("key")
    assert await owners[1].delete("key")
    assert await owners[0].get("key") == "the app's"
    await backend.aclose()


@on_each_loop
async def test_a_name_that_cannot_be_one_is_refused_by_each_method(backend: Backend) -> None:
    secrets = Secrets(backend.secrets, None)
    name: Any
    for name in ("", "a/b", "../x", "a b", "ü", "a\n", "a" * 129, "a:b", "\ud800", 5, None, b"x", "٣"):
        for call in (secrets.get(name), secrets.set(name, PLANTED), secrets.delete(name)):
            with pytest.raises(ValueError, match="a secret's name has 1 to 128 letters") as caught:
                await call
            assert PLANTED not in str(caught.value)
            assert len(str(caught.value)) < 300
    await backend.aclose()


def test_the_refusal_of_a_name_says_what_to_write_instead() -> None:
    secrets = Secrets(LocalBackend("a", None).secrets, None)
    with pytest.raises(ValueError, match=r"not 'api/key'; write 'api-key'$"):
        asyncio.run(secrets.get("api/key"))


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("", "a secret is not empty; delete it instead"),
        (f"{PLANTED}\0", "a secret has no NUL character"),
        (f"{PLANTED}\ud800", "a secret is UTF-8"),
        (PLANTED * 2000, "a secret has at most 32,768 bytes, not 48,000"),
        (PLANTED.encode(), "a secret is a text, not bytes"),
        (None, "a secret is a text, not NoneType"),
    ],
    ids=["empty", "nul", "surrogate", "long", "bytes", "none"],
)
@on_each_loop
async def test_a_value_that_cannot_be_kept_is_refused_without_showing_it(
    backend: Backend, value: Any, why: str
) -> None:
    with pytest.raises(ValueError, match="secret 'key': ") as caught:
        await Secrets(backend.secrets, None).set("key", value)
    assert why in str(caught.value)
    assert PLANTED not in str(caught.value)
    assert await backend.secrets.list(None) == []
    await backend.aclose()


@on_each_loop
async def test_two_names_with_one_variable_are_refused(backend: Backend) -> None:
    secrets = Secrets(backend.secrets, None)
    await secrets.set("api.key", "x")
    for call in (secrets.set("api-key", "y"), secrets.get("API_KEY"), secrets.delete("api_key")):
        with pytest.raises(StoreError, match="would both be SEPKIT_SECRET_API_KEY; rename one of them"):
            await call
    await Secrets(backend.secrets, "ada").set("api-key", "another owner's")
    assert await secrets.delete("api.key")
    await secrets.set("api-key", "y")
    await backend.aclose()


@on_each_loop
async def test_an_owner_has_at_most_a_thousand_secrets(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sepkit.capabilities.local.secrets.MOST", 3)
    secrets = Secrets(backend.secrets, None)
    for number in range(3):
        await secrets.set(f"n{number}", "x")
    with pytest.raises(StoreError, match="secret 'n3' cannot be kept: there are 3 already; delete some"):
        await secrets.set("n3", "x")
    await secrets.set("n0", "y")
    await backend.aclose()


@on_each_loop
async def test_a_users_id_that_could_leave_its_folder_is_refused(backend: Backend) -> None:
    for user in ("../x", "", "a/b", "..", "a" * 200, "a:b"):
        secrets = Secrets(backend.secrets, user)
        for call in (secrets.get("key"), secrets.set("key", PLANTED), secrets.delete("key"), secrets.list()):
            with pytest.raises(StoreError, match="user's id"):
                await call
    await backend.aclose()


# -- the environment ---------------------------------------------------------------------------------------------------


def from_environment(folder: Path | None, **texts: str) -> LocalBackend:
    return LocalBackend("a", folder, given=Hidden({f"SEPKIT_SECRET_{name}": text for name, text in texts.items()}))


@on_each_loop
async def test_a_secret_of_the_environment_comes_before_the_keyring_and_cannot_be_set(
    tmp_path: Path, ring: Ring
) -> None:
    ring.kept["sepkit:a", "api.key"] = "below"
    backend = from_environment(tmp_path, API_KEY="above", EMPTY="")
    secrets = Secrets(backend.secrets, None)
    assert await secrets.list() == ["api_key", "empty"]
    assert await secrets.get("api.key") == "above"
    assert await secrets.list() == ["api.key", "empty"]
    for call in (secrets.set("api.key", "x"), secrets.delete("api.key")):
        with pytest.raises(
            StoreError, match=r"'api\.key' is held by SEPKIT_SECRET_API_KEY, which was in the environment"
        ):
            await call
    with pytest.raises(StoreError, match=r"'api-key' and 'api\.key' would both be SEPKIT_SECRET_API_KEY"):
        await secrets.get("api-key")
    await secrets.set("another", "x")
    assert await secrets.list() == ["another", "api.key", "empty"]
    assert ring.kept == {("sepkit:a", "api.key"): "below", ("sepkit:a", "another"): "x"}
    await backend.aclose()


@on_each_loop
async def test_the_environments_secrets_are_no_users(tmp_path: Path) -> None:
    backend = from_environment(tmp_path, API_KEY="the app's")
    user = Secrets(backend.secrets, "ada")
    assert await user.get("api_key") is None
    assert await user.list() == []
    assert not await user.delete("api_key")
    await user.set("api_key", "hers")
    assert await Secrets(backend.secrets, None).get("api_key") == "the app's"
    await backend.aclose()


def test_what_is_hidden_is_not_shown_by_mistake() -> None:
    hidden = Hidden({"SEPKIT_SECRET_A": PLANTED})
    backend = LocalBackend("a", None, given=hidden)
    asyncio.run(backend.secrets.set(None, "b", PLANTED))
    shown = f"{hidden!r} {hidden} {backend.secrets!r} {backend.secrets.__dict__} {Secrets(backend.secrets, None)!r}"
    assert PLANTED not in shown
    with pytest.raises(TypeError):
        pickle.dumps(hidden)
    assert not hasattr(hidden, "__dict__")


# -- the keyring -------------------------------------------------------------------------------------------------------


@on_each_loop
async def test_the_keyring_is_asked_in_a_thread_and_nothing_else_has_the_secret(
    tmp_path: Path, ring: Ring, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    backend = LocalBackend("a", tmp_path)
    await Secrets(backend.secrets, None).set("key", PLANTED)
    await Secrets(backend.secrets, "ada").set("key", PLANTED)
    await backend.aclose()
    assert ring.kept == {("sepkit:a", "key"): PLANTED, ("sepkit:a:ada", "key"): PLANTED}
    assert threading.get_ident() not in ring.threads
    files = contents(tmp_path)
    assert len(files) == 2
    assert all(PLANTED.encode() not in data for data in files)
    assert PLANTED not in caplog.text


@on_each_loop
async def test_a_keyring_that_fails_is_one_sentence_without_the_secret(tmp_path: Path, ring: Ring) -> None:
    backend = LocalBackend("a", tmp_path)
    secrets = Secrets(backend.secrets, None)
    ring.fails = RuntimeError(f"cannot keep {PLANTED}")
    with pytest.raises(StoreError, match=r"^the keyring failed: RuntimeError$") as caught:
        await secrets.set("key", PLANTED)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    with pytest.raises(StoreError, match=r"^the keyring failed: RuntimeError$"):
        await secrets.get("key")
    ring.fails = None
    assert await secrets.list() == [], "what could not be kept has no name"
    await backend.aclose()


@on_each_loop
async def test_a_keyring_that_does_not_answer_is_not_waited_for_without_end(
    tmp_path: Path, ring: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sepkit.capabilities.local.secrets._PATIENCE", 0.05)
    unlocked = threading.Event()
    monkeypatch.setattr(ring, "_enter", unlocked.wait)
    backend = LocalBackend("a", tmp_path)
    await backend.secrets.list(None)
    try:
        with pytest.raises(StoreError, match=r"the keyring has not answered within 0\.05 s; is it locked\?"):
            await backend.secrets.get(None, "key")
    finally:
        unlocked.set()
    await backend.aclose()


@pytest.mark.parametrize("kind", [PlainText, keyring.backends.fail.Keyring])
@on_each_loop
async def test_a_keyring_that_does_not_encrypt_is_not_used(tmp_path: Path, kind: Any) -> None:
    keyring.set_keyring(kind())
    backend = from_environment(tmp_path, GIVEN="x")
    secrets = Secrets(backend.secrets, None)
    with pytest.raises(StoreError, match="the system has no keyring that encrypts") as caught:
        await secrets.set("api.key", PLANTED)
    assert str(caught.value) == (
        "secret 'api.key' cannot be kept: the system has no keyring that encrypts; start with SEPKIT_SECRET_API_KEY in "
        "the environment, or install sepkit[keyring] where the system has a keyring"
    )
    assert await secrets.get("api.key") is None
    assert not await secrets.delete("api.key")
    assert await secrets.list() == ["given"]
    assert await secrets.get("given") == "x"
    await backend.aclose()
    assert os.listdir(tmp_path) == [], "an app that only reads the environment leaves no file"


@on_each_loop
async def test_of_a_chain_of_keyrings_the_first_that_encrypts_is_used(tmp_path: Path, ring: Ring) -> None:
    plain = PlainText()

    class Chain(Ring):
        backends = (plain, ring)

    keyring.set_keyring(Chain())
    backend = LocalBackend("a", tmp_path)
    await backend.secrets.set(None, "key", "x")
    assert (plain.kept, ring.kept) == ({}, {("sepkit:a", "key"): "x"})
    await backend.aclose()


@on_each_loop
async def test_two_processes_cannot_keep_two_names_that_meet(tmp_path: Path, ring: Ring) -> None:
    """Both have looked before either has written: the database decides."""
    backend = LocalBackend("a", tmp_path)
    await backend.secrets.list(None)

    with sqlite3.connect(tmp_path / "app.sqlite3") as other:
        other.execute("INSERT INTO secret_names VALUES ('api.key', 'SEPKIT_SECRET_API_KEY')")
    other.close()
    vault = backend.secrets._vault  # type: ignore[attr-defined]  # past the look
    with pytest.raises(StoreError):
        await vault.set(None, "api-key", PLANTED)
    assert ring.kept == {}
    await backend.aclose()

"""The users of each kind of backend."""

from __future__ import annotations

from sepkit.contexts.backend import Backend
from sepkit.userids import user_fault
from tests.memory_host import on_each_loop


@on_each_loop
async def test_users_have_ids_that_are_taken_each_of_them_once_and_profiles_of_texts(backend: Backend) -> None:
    ids = await backend.users.ids()
    assert len(set(ids)) == len(ids)
    for user in ids:
        assert user_fault(user) is None
        profile = await backend.users.profile(user)
        assert all(type(name) is str and type(value) is str for name, value in profile.items())
    await backend.aclose()


@on_each_loop
async def test_of_a_user_that_is_not_known_nothing_is_told(backend: Backend) -> None:
    assert await backend.users.profile("a-user-of-another-host") == {}
    await backend.aclose()

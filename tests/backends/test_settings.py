"""What each backend keeps of settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from sepkit.capabilities.local.backend import LocalBackend
from sepkit.contexts.backend import Backend
from sepkit.errors import StoreError
from tests.memory_host import on_each_loop


@on_each_loop
async def test_each_value_that_was_set_comes_back_in_its_type(backend: Backend) -> None:
    values = {
        "text": "ünïcode \u2028",
        "whole": 5,
        "part": 0.5,
        "no": False,
        "none": None,
        "deep": {"a": [1, {"b": ""}]},
    }
    assert await backend.settings.all() == {}
    for name, value in values.items():
        await backend.settings.set(name, value)
    kept = await backend.settings.all()
    assert kept == values
    assert [type(kept[name]) for name in values] == [type(value) for value in values.values()]
    await backend.aclose()


@on_each_loop
async def test_the_last_value_that_was_set_is_kept_and_what_comes_back_is_a_copy(backend: Backend) -> None:
    given = [1]
    await backend.settings.set("n", 0)
    await backend.settings.set("n", given)
    given.append(2)
    (await backend.settings.all())["n"].append(3)
    assert await backend.settings.all() == {"n": [1]}
    await backend.aclose()


@on_each_loop
async def test_a_setting_outlives_the_process_and_is_readable_for_its_owner_only(tmp_path: Path) -> None:
    first = LocalBackend("a", tmp_path / "a")
    await first.settings.set("url", "x")
    await first.aclose()
    second = LocalBackend("a", tmp_path / "a")
    assert await second.settings.all() == {"url": "x"}
    await second.aclose()
    assert [path.stat().st_mode & 0o077 for path in (tmp_path / "a").iterdir()] == [0]


@on_each_loop
async def test_a_folder_that_is_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    backend = LocalBackend("a", tmp_path / "a")
    with pytest.raises(StoreError, match=r"the store .*app\.sqlite3 failed: "):
        await backend.settings.set("url", "x")
    await backend.aclose()

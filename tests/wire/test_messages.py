"""The records: every method has its own, they hold what they are given, and they read as authors expect."""

from __future__ import annotations

import subprocess
import sys
from typing import Any, get_args

import attrs
import pytest

from sepkit.wire import messages, methods
from sepkit.wire.messages import Record

RECORDS: list[Any] = [
    value
    for value in vars(messages).values()
    if isinstance(value, type) and issubclass(value, Record) and value is not Record
]

NOTIFICATIONS = {
    methods.CANCEL,
    methods.EVENT,
    methods.TOOL_UPDATE,
    methods.PROVIDER_DELTA,
    methods.LOG,
    methods.REGISTRY_UPDATE,
    methods.TASK_UPDATE,
}


def _method_names() -> set[str]:
    skipped = {"HOOKS", "EVENTS", "GROUP_OF", "FAIL_CLOSED_HOOKS", "OPEN", "PROTOCOL_VERSION"}
    return {value for name, value in vars(methods).items() if name.isupper() and name not in skipped}


def test_every_method_has_params_and_every_request_a_result() -> None:
    """The tables leave no method out. Source: docs/protocol.md, sections 3 and 4."""
    assert set(messages.PARAMS) == _method_names()
    assert set(messages.RESULTS) == _method_names() - NOTIFICATIONS


def test_the_switchable_methods_are_requests_of_the_extension() -> None:
    """What `capabilities_enabled` can switch off is a known method and group. Source: docs/protocol.md, section 3."""
    assert set(methods.GROUP_OF) <= set(messages.RESULTS)
    assert set(methods.GROUP_OF.values()) <= set(get_args(methods.CapabilityGroup))
    assert {m for m in messages.PARAMS if m.partition("/")[0] in ("kv", "session", "exec", "ui", "bus")} <= set(
        methods.GROUP_OF
    )


def test_there_are_ten_hooks_of_which_two_fail_closed() -> None:
    """There are ten hooks; ``tool_call`` and ``user_bash`` fail closed. Source: docs/protocol.md, section 6."""
    assert len(methods.HOOKS) == 10
    assert sorted(methods.FAIL_CLOSED_HOOKS) == ["tool_call", "user_bash"]
    assert methods.FAIL_CLOSED_HOOKS < methods.HOOKS
    assert set(messages.HOOK_INPUTS) < methods.HOOKS


def test_only_message_end_is_a_hook_and_an_event() -> None:
    """Only `message_end` is both. Source: docs/protocol.md, section 6."""
    assert list(methods.HOOKS & methods.EVENTS) == ["message_end"]
    assert {"bus/event", "widget/key", "events_lost"} < methods.EVENTS


@pytest.mark.parametrize("cls", RECORDS, ids=lambda cls: cls.__name__)
def test_a_record_is_a_frozen_attrs_class_that_tells_its_shape_and_source(cls: Any) -> None:
    """The docstring has the wire's shape and the section of the protocol."""
    doc = cls.__doc__
    assert "Wire: ``{" in doc
    assert "Source: " in doc
    made: Any = cls(**{field.name: "x" for field in attrs.fields(cls) if field.default is attrs.NOTHING})
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        made.anything = 1
    assert made == attrs.evolve(made)


def test_a_record_is_complete_before_its_first_instance() -> None:
    """Records are compiled at their first use: whoever looks at the fields first must not see a difference."""
    script = (
        "import attrs\n"
        "from sepkit import records\n"
        "from sepkit.wire import messages as m\n"
        "assert 'Delta' in {cls.__name__ for cls in records._options}, 'compiled at import'\n"
        "assert attrs.has(m.Delta)\n"
        "assert [f.name for f in attrs.fields(m.ToolCall)] == ['tool', 'arguments']\n"
        "assert m.Context('t', 'event') == m.Context(token='t', tier='event')\n"
        "assert attrs.evolve(m.ToolCall('a'), tool='b').tool == 'b'\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)


def test_records_used_first_by_many_threads_at_once_are_whole() -> None:
    """`def` handlers run in threads; a class half compiled by one must not be used by another."""
    script = (
        "import sys, threading\n"
        "from sepkit.wire import messages as m\n"
        "sys.setswitchinterval(1e-6)\n"
        "gate = threading.Barrier(16)\n"
        "bad = []\n"
        "def use():\n"
        "    gate.wait()\n"
        "    try:\n"
        "        assert m.Usage(prompt_tokens=1).extra == {}\n"
        "        assert m.ToolOutcome('t', {}, 'c').is_error is False\n"
        "    except BaseException as error:\n"
        "        bad.append(error)\n"
        "threads = [threading.Thread(target=use) for _ in range(16)]\n"
        "[t.start() for t in threads]\n"
        "[t.join() for t in threads]\n"
        "assert not bad, bad\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)


def test_a_user_can_subclass_a_record() -> None:
    """Authors extend a hook's input with the fields that their host adds."""

    @attrs.frozen
    class OwnCall(messages.ToolCall):
        reason: str = "none"

    assert OwnCall("bash", {}, "because") == OwnCall("bash", {}, reason="because")


def test_the_root_of_the_records_is_none_itself() -> None:
    """`Record` is a name to ask for, no record: it has no fields and no instances."""
    assert not attrs.has(Record)
    with pytest.raises(TypeError, match="Record is not a record"):
        Record()


def test_secrets_stay_out_of_a_repr() -> None:
    """A record that is logged by accident must not show tokens."""
    credentials = messages.Credentials(
        api_key="planted", access_token="planted", refresh_token="planted", extra={"k": "planted"}
    )
    assert "planted" not in repr(credentials)
    assert "planted" not in repr(messages.OAuthParams("p", refresh_token="planted"))

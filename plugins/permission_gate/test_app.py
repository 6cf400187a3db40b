"""The gate: what it lets pass, and what it does not; and the gate as a program."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plugins.permission_gate.app import app
from sepkit.testing import BlockingTestHost, BlockOutcome, ContinueOutcome, TestHost
from tests.driver import CONTEXT, HANDSHAKE, Extension

HERE = Path(__file__).parent

DANGEROUS = [
    "rm -rf /",
    "rm -fr /",
    "rm -r -f /",
    "rm -R /",
    "rm --recursive --force /",
    "rm --recurs /",
    "rm / -rf",
    "rm -rf -- /",
    "rm -rf --no-preserve-root /",
    'rm -rf "/"',
    "rm -rf '/'",
    "rm -rf //",
    "rm -rf /.",
    "rm -rf /./",
    "rm -rf /*",
    "rm -rf /tmp/..",
    "rm -rf build /",
    "rm -rf /etc",
    "rm -rf /etc/",
    "rm -rf /usr/*",
    "rm -rf /home/*",
    "rm -rf /home/ada",
    "rm -fr ~",
    "rm -rf ~/",
    "rm -rf ~/*",
    "rm -rf $HOME",
    'rm -rf "$HOME"',
    "rm -rf ${HOME}/",
    "rm -rf $HOME/*",
    "/bin/rm -rf /",
    "\\rm -rf /",
    "'rm' -rf /",
    "rm -rf \\\n/",
    "r\\\nm -rf /",
    "rm -rf / >/dev/null 2>&1",
    "rm 2>/dev/null -rf /",
    "sudo rm -rf /*",
    "sudo -u root rm -rf /",
    "sudo -- rm -rf /",
    "env A=1 rm -rf /",
    "A=1 rm -rf /",
    "nohup nice -n 5 rm -rf / &",
    "timeout 5 rm -rf /",
    "echo / | xargs rm -rf /",
    "a; rm -rf /",
    "a;rm -rf /;b",
    "a && rm -r -f /",
    "a || rm -rf /",
    "a | rm -rf /",
    "a & rm -rf /",
    "a\nrm -rf /",
    "(rm -rf /)",
    "{ rm -rf /; }",
    "! rm -rf /",
    "if true; then rm -rf /; fi",
    "while true; do rm -rf /; done",
    "$(rm -rf /)",
    "`rm -rf /`",
    'echo "$(rm -rf /)"',
    'echo "`rm -rf /`"',
    "cat <(rm -rf /)",
    "find . -exec rm -rf / \\;",
    'bash -c "rm -rf /"',
    "sh -c 'cd / && rm -rf /'",
    "bash -o pipefail -ec 'rm -rf ~'",
    "sudo bash -c \"sh -c 'rm -rf /'\"",
    'eval "rm -rf /"',
    "eval rm -rf /",
    "echo it's; rm -rf /",
    "chmod -R 777 /",
    "sudo chmod --recursive 777 /",
    "chown -R nobody /",
    "mkfs.ext4 /dev/sda1",
    "mkfs -t ext4 /dev/mapper/data",
    "sudo wipefs -a /dev/nvme0n1",
    "shred /dev/sda",
    "dd if=x of=/dev/sda",
    "sudo dd of=/dev/nvme0n1 if=/dev/zero bs=1M",
    "echo x > /dev/sda",
    "echo x >/dev/sda",
    "cat x >>/dev/vda1",
    "cat x &> /dev/sda",
    "cat image | sudo tee /dev/sda",
    "cp image /dev/mmcblk0",
    ":(){ :|:& };:",
    ":() { : | : & }; :",
    "bomb() { bomb | bomb & }; bomb",
    "rm -rf /home/ada/../..",
    "su root -c 'rm -rf /'",
    "case x in a) rm -rf / ;; esac",
    "cat <<END\nit's\nEND\nrm -rf /",
    "find / -delete",
    "find ~ -type f -exec rm {} +",
    "chmod -R 777 /etc",
    "blkdiscard /dev/nvme0n1",
    "echo x 2>/dev/sda",
    "cat x > >(tee /dev/sda)",
    "dd if=x | cat >| /dev/sdb",
]

HARMLESS = [
    "",
    " ",
    "rm -rf build",
    "rm -rf ./x /tmp/x",
    "rm -rf *",
    "rm -rf ./*",
    "rm -rf ~/project/build",
    "rm -rf $HOME/.cache/x",
    "rm -rf /usr/local/lib/x",
    "rm -rf /home/ada/build",
    "rm -rf /tmp/*",
    "rm file",
    "rm /file",
    "rm -f /file",
    "rm ~",
    "cd / && rm -rf build",
    "rm -rf build; ls /",
    "rm -rf build > /dev/null",
    "ls /",
    "ls -lR /",
    "echo rm",
    "echo rm -rf /",
    "echo 'a; rm -rf /'",
    'git commit -m "no; rm -rf / any more"',
    "git rm -r x",
    "grep -r x /",
    "grep -r 'rm -rf' /",
    "find / -name x",
    "find / -name mkfs.ext4",
    "cat /etc/passwd > out",
    "cat /dev/sda > image",
    "dd if=/dev/sda of=image",
    "dd if=/dev/zero of=/dev/null",
    "cp /dev/sda image",
    "echo x > /dev/null",
    "echo x 2>/dev/stderr >&2",
    "cat < /dev/sda",
    "chmod 755 /",
    "chmod -R 755 ./x",
    "chown -R ada /srv/x",
    "mkfs.ext4 disk.img",
    "sudo apt install shred",
    "f() { echo x | tee log; }; f",
    "bash -c 'rm -rf build'",
    "bash script.sh",
    "echo it's",
    "rm",
    "sudo",
    "A=1",
    ";;",
    "> out",
    'rm -rf ""',
    "find . -delete",
    "find / -name x -delete",
    "shred secret.txt",
    "du -sh /*",
    "cp -r / /mnt/backup",
    "docker run --rm -v /:/host x",
    "$(",
]


@pytest.fixture(scope="module")
def gate() -> Iterator[BlockingTestHost]:
    with TestHost(app) as host:
        yield host


def decide(gate: BlockingTestHost, hook: str, given: dict[str, Any]) -> str | None:
    """The reason of a block; None where it may go on."""
    outcome = gate.call_hook(hook, given)
    if isinstance(outcome, BlockOutcome):
        assert outcome.reason is not None
        return outcome.reason
    assert outcome == ContinueOutcome()
    return None


def of_tool(gate: BlockingTestHost, tool: str, **arguments: object) -> str | None:
    return decide(gate, "tool_call", {"tool": tool, "arguments": arguments})


@pytest.mark.parametrize("command", DANGEROUS)
def test_what_cannot_be_brought_back_is_blocked(gate: BlockingTestHost, command: str) -> None:
    """The gate's promise, for the agent's tools and for the user; the reason names the command."""
    for reason in (of_tool(gate, "bash", command=command), decide(gate, "user_bash", {"command": command})):
        assert reason is not None
        assert reason.startswith(f"{command!r} is blocked: ")


@pytest.mark.parametrize("command", HARMLESS)
def test_everyday_commands_pass(gate: BlockingTestHost, command: str) -> None:
    """A gate that stops what is harmless is switched off."""
    assert of_tool(gate, "bash", command=command) is None
    assert decide(gate, "user_bash", {"command": command}) is None


@pytest.mark.parametrize("tool", ["bash", "Bash", "sh", "shell", "run_command", "execute", "box.bash", "a.b.shell"])
@pytest.mark.parametrize(
    "arguments",
    [
        {"command": "rm -rf /"},
        {"cmd": "rm -rf /"},
        {"script": "cd /\nrm -rf /"},
        {"command": ["rm", "-rf", "/"]},
        {"command": ["bash", "-c", "rm -rf /"]},
        {"command": "rm", "args": ["-rf", "/"]},
        {"command": "ls", "script": "rm -rf /"},
    ],
    ids=str,
)
def test_each_form_of_a_shell_tool_is_gated(gate: BlockingTestHost, tool: str, arguments: dict[str, Any]) -> None:
    """A tool's name may begin with its extension's; a command may be a string or a list.

    Source: docs/protocol.md, section 6.
    """
    assert of_tool(gate, tool, **arguments) is not None


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("write_file", {"command": "rm -rf /"}),
        ("bash.help", {"command": "rm -rf /"}),
        ("bashful", {"command": "rm -rf /"}),
        ("bash", {"comment": "rm -rf /"}),
        ("bash", {"command": ["echo", "rm -rf /"]}),
        ("bash", {"command": ["rm", "-rf", "a; rm /"]}),
        ("bash", {"command": None}),
        ("bash", {"command": []}),
        ("bash", {}),
    ],
    ids=str,
)
def test_what_runs_no_shell_command_passes(gate: BlockingTestHost, tool: str, arguments: dict[str, Any]) -> None:
    """The gate is for shells; what another tool does with its arguments is that tool's affair."""
    assert of_tool(gate, tool, **arguments) is None


@pytest.mark.parametrize("command", ["x" * 300_000, "a() { " * 20_000, "$(" * 10_000, "sudo " * 1_000, "'" * 20_001])
def test_a_long_command_is_decided_on_soon(gate: BlockingTestHost, command: str) -> None:
    """A gate that doesn't answer fails closed: it would stop what is harmless."""
    assert gate.call_hook("user_bash", {"command": command}, timeout=5) == ContinueOutcome()


def test_the_reason_of_a_long_command_is_short(gate: BlockingTestHost) -> None:
    """The Python reference host reads with a 64 KiB line limit. Source: docs/protocol.md, section 9."""
    reason = of_tool(gate, "bash", command=f"{'x' * 100_000}; rm -rf /")
    assert reason is not None
    assert len(reason) < 2_000
    assert "… is blocked: rm -r of / destroys" in reason


def test_a_block_is_logged() -> None:
    """A block is told to the host with ``log``, so that its user sees what the gate did.

    Source: docs/protocol.md, section 4.
    """
    given = {"tool": "bash", "arguments": {"command": "rm -rf /"}}
    with Extension(HERE) as own:
        assert own.ask("hook", {"hook": "tool_call", "context": CONTEXT, "input": given})["action"] == "block"
        log = own.next_frame()
        assert log is not None
        assert log["method"] == "log"
        assert "blocked bash" in log["params"]["message"]


def test_it_registers_the_two_hooks_that_fail_closed(gate: BlockingTestHost) -> None:
    """``tool_call`` and ``user_bash`` block if the extension does not answer. Source: docs/protocol.md, section 6."""
    assert gate.registrations.hooks == ["tool_call", "user_bash"]
    assert not gate.registrations.tools


def test_the_manifest_names_the_app() -> None:
    """The manifest, the app and what it registers agree. Source: docs/protocol.md, section 10."""
    manifest = tomllib.loads((HERE / "extension.toml").read_text(encoding="utf-8"))
    with Extension(HERE, handshake=False) as own:
        info = own.ask("initialize", HANDSHAKE)["extension"]
    assert (manifest["name"], manifest["version"]) == (info["name"], info["version"])
    assert manifest["protocol"] == 1
    assert manifest["run"]["args"] == ["-m", "sepkit", "run", "app:app"]
    assert not manifest["capabilities"]["tools"]
    assert manifest["capabilities"]["events"] == []


def test_the_readme_shows_what_happens() -> None:
    """What a README shows is run by a test."""
    shown = re.findall(r"^```console\n(.*?)^```$", (HERE / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    ran = 0
    for command, expected in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", "".join(shown), re.MULTILINE):
        if command.startswith("python -m sepkit "):
            words = [sys.executable, *shlex.split(command)[1:]]
            done = subprocess.run(
                words, cwd=HERE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, check=False
            )
            assert done.stdout.decode() == expected
            ran += 1
    assert ran

"""What README and docs/install.md show works as it is shown: each command is run, each file is used.

The README's quick start has a test of its own, on a switch as a distribution installs it: test_first_steps.py.
"""

import asyncio
import os
import re
import shlex
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from benchmarks.run import PLAN
from fairdial.console.control import ask
from testbed import world
from testbed.asterisk import Switch
from testbed.configuration import Line
from testbed.installation import Installation
from testbed.ports import free_ports
from testbed.scenarios import STEERED
from testbed.server import PROJECT, dialplan
from testbed.sipp import Carrier, place_call

PAGES = {name: (PROJECT / name).read_text() for name in ("README.md", "docs/install.md")}
_BEFORE, QUICK_START, _AFTER = re.split(
    r"(?=^## Quick start$|^## Try it$)", PAGES["README.md"], flags=re.MULTILINE
)
SHOWN = PAGES["docs/install.md"] + _BEFORE + _AFTER
"""By hand first; what the rest of the README shows goes on from there."""
BIN = Path(sys.executable).parent
WITHIN_S = 100.0

# Run by the test that names them; `make test` is what runs this very test, and `make check` is the other half
# of the continuous integration: run from here it would fail for a formatting fault, twice.
MAKE_COMMANDS = {
    "make demo",
    "make serve",
    "make test",
    "make check",
    "make bench BENCH=--quick",
}


DID_COMMAND = 'asterisk -rx "database put did 442079460000 alice"'

# alice's phone presses what it is told when it is rung; bob's stays until it is hung up.
ALICE = f"alice{STEERED}"
PHONES = (
    Line("alice", accountcode="alice", context="phones", rings=ALICE),
    *(Line(name, accountcode=name, context="phones") for name in ("bob", "carol")),
)


def blocks(language: str, page: str = SHOWN) -> list[str]:
    """The fenced blocks of that language."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return [text for name, text in found if name == language]


def commands(page: str = SHOWN) -> list[str]:
    """All commands in order."""
    lines = "".join(blocks("console", page)).splitlines()
    return [line.removeprefix("$ ") for line in lines]


def test_each_command_is_covered_here() -> None:
    others = {
        command for command in commands() if not command.startswith(("fairdial ", "export FAIRDIAL_CONFIG"))
    }
    assert others == {*MAKE_COMMANDS, DID_COMMAND}


async def run(*arguments: str, **environment: str) -> tuple[int, str]:
    """Run a command in the project's folder; its status and output."""
    return await run_within(WITHIN_S, *arguments, **environment)


async def run_within(within_s: float, *arguments: str, **environment: str) -> tuple[int, str]:
    """The same, where it may take longer."""
    process = await asyncio.create_subprocess_exec(
        *arguments,
        cwd=PROJECT,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(within_s):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    return process.returncode or 0, output.decode()


@pytest.mark.usefixtures("installation")
async def test_make_demo_ends_by_itself_with_every_call_as_it_should() -> None:
    status, output = await run("make", "demo")
    assert status == 0, output
    rows = [line for line in output.splitlines() if line.startswith("│")]
    assert len(rows) == 65
    assert all(row.rstrip(" │").endswith("ok") for row in rows)


@pytest.mark.timeout(480)
@pytest.mark.usefixtures("installation")
async def test_make_bench_measures_each_benchmark_beside_its_reference() -> None:
    status, output = await run_within(4 * WITHIN_S, "make", "bench", "BENCH=--quick")
    assert status == 0, output
    paths = ("Dial() alone", "ARI", "AGI", "ConfBridge() alone", "FairDial killed", "caller", "called")
    for shown in (*paths, "SQLite", "PostgreSQL", "Nodes", "phonenumbers", "Replay", "The page"):
        assert shown in output
    assert [each.name for each in PLAN if f"python -m benchmarks.{each.name} " not in output] == []


@asynccontextmanager
async def staying(*arguments: str, until: str, **environment: str) -> AsyncIterator[str]:
    """A command that stays up, once it has printed `until`; ended with SIGINT, it must end by itself."""
    process = await asyncio.create_subprocess_exec(
        *arguments,
        cwd=PROJECT,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdout is not None
    output = ""
    try:
        async with asyncio.timeout(WITHIN_S):
            while until not in output:
                line = await process.stdout.readline()
                assert line, f"ended without {until!r}:\n{output}"
                output += line.decode()
        yield output
        os.killpg(process.pid, signal.SIGINT)
        async with asyncio.timeout(20):
            await process.communicate()
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.communicate()


@pytest.mark.usefixtures("installation")
async def test_make_serve_stays_up_and_says_how_to_go_on() -> None:
    async with staying("make", "serve", until="fairdial decisions") as output:
        assert "Register a softphone" in output
        for code in (world.CALL_ME_BACK, world.REVERSE, "7000"):
            assert f"  {code}" in output
        [config] = re.findall(r"export FAIRDIAL_CONFIG=(\S+)", output)
        status, doctor = await run(str(BIN / "fairdial"), "doctor", FAIRDIAL_CONFIG=config)
        assert status == 0, doctor


@pytest.mark.timeout(240)  # some thirty processes, one after the other
async def test_the_steps_for_an_existing_switch(installation: Installation, tmp_path: Path) -> None:
    """Configuration, accounts, commands and dialplan exactly as shown, on a switch that was set up by hand."""
    includes = shown_includes()
    _, files = dialplan()
    files = {name: files[name] for name in ("fairdial.conf", *re.findall(r"#include (\S+)", includes))}
    extensions = f"#include fairdial.conf\n{includes}{shown_dialplan()}"
    async with (
        Switch.start(installation, extensions, files=files, lines=PHONES) as switch,
        Carrier.start(switch) as carrier,
    ):
        (tmp_path / "policies").symlink_to(PROJECT / "policies")
        (tmp_path / "fairdial.toml").write_text(shown_configuration(switch))
        environment = {
            "FAIRDIAL_CONFIG": str(tmp_path / "fairdial.toml"),
            "FAIRDIAL_CONTROL": str(tmp_path / "control.sock"),
            "FAIRDIAL_AMI__PORT": str(switch.ami_port),
            "FAIRDIAL_AGI__PORT": str(switch.agi_port),
            "FAIRDIAL_HTTP__PORT": str(free_ports(1)[0]),
        }
        before, after = split_at_serve([c for c in commands() if c.startswith(("fairdial ", "asterisk "))])
        for command in before:
            await succeed(command, environment)
        async with staying(str(BIN / "fairdial"), "serve", until="ari_connected", **environment):
            for command in after:
                if command == DID_COMMAND:
                    await switch.cli(shlex.split(command)[-1])
                else:
                    await succeed(command, environment)
            outcome = await place_call(switch, line="alice", number="02079460100", hang_up_after_s=1)
            assert outcome.final_status == 200
            assert (await place_call(switch, line="alice", number="09098790000")).final_status == 403
            # The callback; who was called into the room was hung up when the account was suspended.
            await hang_up_the_callback(environment)
            await the_calls_that_fairdial_sets_up(switch, carrier, environment)
            assert await switch.no_channels() == []


async def the_calls_that_fairdial_sets_up(
    switch: Switch, carrier: Carrier, environment: dict[str, str]
) -> None:
    """One of each by the numbers and codes of the included samples, and one of each that is refused."""
    assert (await place_call(switch, line="alice", number="7001", hang_up_after_s=0.5)).ended_by == "caller"
    nobody = await place_call(switch, line="carol", number="7001")
    assert nobody.reason_header == "Q.850;cause=21"

    assert (await place_call(switch, line="bob", number="*5509098790000")).final_status == 403
    asked_at = time.time()
    assert (await place_call(switch, line="bob", number="*5502079460100")).final_status == 486
    await carrier.call_when("+442079460100", answered=True, since=asked_at, timeout_s=10)
    await hang_up_the_callback(environment)

    for key, status in (("1", 200), ("2", 403)):
        asked_at = time.time()
        calling = asyncio.create_task(
            place_call(switch, line="carol", number="*66442079460000", hang_up_after_s=1)
        )
        rung = await carrier.call_when(ALICE, answered=True, since=asked_at, timeout_s=10)
        await asyncio.sleep(0.5)  # as a person does, who listens first
        await carrier.cue(rung, f"press {key}")
        assert (await calling).final_status == status


async def hang_up_the_callback(environment: dict[str, str]) -> None:
    """Once it talks; no other call may be there."""
    control = Path(environment["FAIRDIAL_CONTROL"])
    async with asyncio.timeout(20):
        while True:
            calls = await asyncio.to_thread(ask, control, "calls", {})
            if [(row["line"], row["state"]) for row in calls] == [("bob", "talking")]:
                break
            await asyncio.sleep(0.02)
    await asyncio.to_thread(ask, control, "hangup", {"call": calls[0]["call"]})


def shown_includes() -> str:
    """The block that includes the samples; it ends within [phones]."""
    [block] = [block for block in blocks("") if block.startswith("#include")]
    return block


def shown_dialplan() -> str:
    """The block that replaces the bare Dial()."""
    [block] = [block for block in blocks("") if "Gosub" in block and block.startswith("exten")]
    return block


def shown_configuration(switch: Switch) -> str:
    """fairdial.toml as shown, with this switch's address and secrets in their places."""
    [text] = blocks("toml")
    for shown, real in (
        ("http://127.0.0.1:8088/ari", switch.ari_url),
        ("/var/log/asterisk/cdr-csv/Master.csv", str(switch.cdr_path)),
        ("another-long-random-one", switch.ami_secret),
        ("a-long-random-one", switch.ari_password),
    ):
        assert shown in text
        text = text.replace(shown, real)
    return text


def split_at_serve(shown: list[str]) -> tuple[list[str], list[str]]:
    """Commands before and after `fairdial serve`."""
    at = shown.index("fairdial serve")
    return shown[:at], shown[at + 1 :]


async def succeed(command: str, environment: dict[str, str]) -> None:
    program, *arguments = shlex.split(command)
    if arguments[0] == "backup":
        # Not into the project's own folder.
        arguments[1] = str(Path(environment["FAIRDIAL_CONFIG"]).with_name(arguments[1]))
    assert program == "fairdial"
    status, output = await run(str(BIN / program), *arguments, **environment)
    assert status == 0, f"{command}: {output}"

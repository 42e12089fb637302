"""What the README shows works as it is shown: each command is run, each file is used."""

import asyncio
import os
import re
import shlex
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from testbed.asterisk import Switch
from testbed.installation import Installation
from testbed.server import PROJECT, dialplan
from testbed.sipp import Carrier, place_call
from tests.switch.conftest import LINES

README = (PROJECT / "README.md").read_text()
BIN = Path(sys.executable).parent
WITHIN_S = 100.0

# Run by the test that names them; `make test` is what runs this very test, and `make check` is the other half
# of the continuous integration: run from here it would fail for a formatting fault, twice.
MAKE_COMMANDS = {
    "make demo",
    "make serve",
    "make test",
    "make check",
    'make bench BENCH="--rate 50 --seconds 10"',
}


def blocks(language: str) -> list[str]:
    """The fenced blocks of that language."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [text for name, text in found if name == language]


def commands() -> list[str]:
    """All commands of the README in order."""
    lines = "".join(blocks("console")).splitlines()
    return [line.removeprefix("$ ") for line in lines]


def test_each_command_is_covered_here() -> None:
    others = {
        command for command in commands() if not command.startswith(("fairdial ", "export FAIRDIAL_CONFIG"))
    }
    assert others == MAKE_COMMANDS


async def run(*arguments: str, **environment: str) -> tuple[int, str]:
    """Run a command in the project's folder; its status and output."""
    process = await asyncio.create_subprocess_exec(
        *arguments,
        cwd=PROJECT,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(WITHIN_S):
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
    assert len(rows) == 55
    assert all(row.rstrip(" │").endswith("ok") for row in rows)


@pytest.mark.usefixtures("installation")
async def test_make_bench_measures_all_paths_in_one_run() -> None:
    status, output = await run(
        "make", "bench", "BENCH=--rate 20 --seconds 2", "DECISIONS=--count 1000 --rounds 1"
    )
    assert status == 0, output
    for path in ("caller", "called", "Dial() alone", "Stasis", "AGI"):
        assert path in output


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
        [config] = re.findall(r"export FAIRDIAL_CONFIG=(\S+)", output)
        status, doctor = await run(str(BIN / "fairdial"), "doctor", FAIRDIAL_CONFIG=config)
        assert status == 0, doctor


async def test_the_steps_for_an_existing_switch(installation: Installation, tmp_path: Path) -> None:
    """Configuration, accounts, commands and dialplan exactly as shown, on a switch that was set up by hand."""
    _, files = dialplan()
    extensions = f"#include fairdial.conf\n\n[phones]\n{shown_dialplan()}"
    async with (
        Switch.start(
            installation, extensions, files={"fairdial.conf": files["fairdial.conf"]}, lines=LINES
        ) as switch,
        Carrier.start(switch),
    ):
        (tmp_path / "policies").symlink_to(PROJECT / "policies")
        (tmp_path / "fairdial.toml").write_text(shown_configuration(switch))
        environment = {
            "FAIRDIAL_CONFIG": str(tmp_path / "fairdial.toml"),
            "FAIRDIAL_CONTROL": str(tmp_path / "control.sock"),
            "FAIRDIAL_AMI__PORT": str(switch.ami_port),
            "FAIRDIAL_AGI__PORT": str(switch.agi_port),
        }
        before, after = split_at_serve([c for c in commands() if c.startswith("fairdial ")])
        for command in before:
            await succeed(command, environment)
        async with staying(str(BIN / "fairdial"), "serve", until="ari_connected", **environment):
            for command in after:
                await succeed(command, environment)
            outcome = await place_call(switch, line="alice", number="02079460100", hang_up_after_s=1)
            assert outcome.final_status == 200
            assert (await place_call(switch, line="alice", number="09098790000")).final_status == 403
            assert await switch.no_channels() == []


def shown_dialplan() -> str:
    """The block that replaces the bare Dial()."""
    [block] = [block for block in blocks("") if "Gosub" in block and block.startswith("exten")]
    return block


def shown_configuration(switch: Switch) -> str:
    """fairdial.toml as shown, with this switch's address and secrets in their places."""
    [text] = blocks("toml")
    for shown, real in (
        ("http://127.0.0.1:8088/ari", switch.ari_url),
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
    assert program == "fairdial"
    status, output = await run(str(BIN / program), *arguments, **environment)
    assert status == 0, f"{command}: {output}"

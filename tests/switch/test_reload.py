"""Reloading on a real switch: a call in progress goes on, the next dial sees the new policy; and docs/operations.md."""

import asyncio
import os
import re
import shlex
import signal
from pathlib import Path

import pytest

from testbed.installation import Installation
from testbed.server import PROJECT, Server
from tests.switch.conftest import Spine, running_spine

LONDON = "02079460100"
PAGE = (PROJECT / "docs" / "operations.md").read_text()
VERSION = re.compile(r'^version = "([^"]+)"$', re.MULTILINE)


def kryptotel(spine: Spine) -> Path:
    return spine.server.directory / "policies" / "kryptotel.toml"


def next_version(text: str) -> str:
    """In place of the version in force: outbound calls are taken out of the plan."""
    [version] = VERSION.findall(text)
    changed = text.replace(f'version = "{version}"', 'version = "next"')
    kinds, count = re.subn(r'(?m)^allow = \["outbound", ', "allow = [", changed, count=1)
    assert count == 1
    return kinds


async def failure(server: Server) -> str | None:
    told = (await server.ask("status"))["reload_failed"]
    return None if told is None else str(told)


async def test_a_call_goes_on_and_the_next_dial_sees_the_new_policy(spine: Spine) -> None:
    server, file = spine.server, kryptotel(spine)
    await server.account("acme", "kryptotel", "alice", "bob", countries=["GB"])
    good = file.read_text()
    [version] = VERSION.findall(good)
    call = asyncio.create_task(spine.call("alice", LONDON, hang_up_after_s=12))
    await server.talking("alice")

    # A broken file: the command fails with its name, and dials are decided as before.
    file.write_text(good + "\n[kinds\n")
    refused = await server.command("reload")
    assert (refused.status, "nothing was changed" in refused.error, str(file) in refused.error) == (
        2,
        True,
        True,
    )
    assert str(file) in (await failure(server) or "")
    ready = await server.command("ready", "--json")
    assert (ready.status, str(file) in ready.output) == (0, True)
    assert (await spine.call("bob", LONDON, hang_up_after_s=0.2)).final_status == 200

    file.write_text(next_version(good))
    assert server.running
    os.kill(server.pid, signal.SIGHUP)
    async with asyncio.timeout(10):
        while await failure(server) is not None:
            await asyncio.sleep(0.02)
    assert (await spine.call("bob", LONDON)).final_status == 403
    record = await spine.newest_decision()
    assert (record["reason"], record["clause_version"]) == ("kind_not_covered", "next")

    # The call of before was touched by none of it, and ends under its own version.
    live = await server.talking("alice")
    assert (await call).ended_by == "caller"
    await server.idle()
    first = next(each for each in await server.ask("decisions", limit=10) if each["call_id"] == live["call"])
    assert (first["clause_version"], first["cut_by"]) == (version, None)
    assert first["used_s"] >= 11


@pytest.mark.timeout(180)
async def test_each_command_of_the_page_works_as_shown(installation: Installation, tmp_path: Path) -> None:
    """In its order; systemctl does what the unit has it do, to this server."""
    async with running_spine(installation, tmp_path) as spine:
        server = spine.server
        await server.account("acme", "quota", "alice")
        await server.stop()
        blocks = re.findall(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
        shown = [line.removeprefix("$ ") for line in "".join(blocks).splitlines()]
        assert len(shown) > 10
        for line in shown:
            program, *arguments = shlex.split(line.replace("/var/backups/fairdial", str(tmp_path)))
            if program == "systemctl":
                assert arguments[1:] == ["fairdial"]
                await systemctl(server, arguments[0])
                continue
            assert program == "fairdial"
            done = await server.command(*arguments)
            assert done.status == 0, f"{line}: {done.output}{done.error}"


async def systemctl(server: Server, verb: str) -> None:
    if verb in ("stop", "restart"):
        await server.stop()
    if verb in ("start", "restart"):
        await server.launch()
    if verb == "reload":
        assert (await server.command("reload")).status == 0
    assert verb in ("start", "stop", "restart", "reload")

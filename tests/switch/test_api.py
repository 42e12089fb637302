"""The HTTP API on the real path: what it places rings and is metered, what it may not stays silent; docs/api.md."""

import asyncio
import os
import re
import shlex
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from testbed.installation import Installation, obtain_curl
from testbed.server import PROJECT
from tests.switch.conferences import all_join, in_room, meters, running
from tests.switch.conftest import Spine

ROOM = "7001"
LONDON, LONDON_E164 = "02079460100", "+442079460100"
ENDS, ENDS_E164 = "02079460192", "+442079460192"
PREMIUM = "09098790000"
PAGE = (PROJECT / "docs" / "api.md").read_text()


@pytest_asyncio.fixture
async def spine(installation: Installation, tmp_path: Path) -> AsyncIterator[Spine]:
    async with running(installation, tmp_path) as spine:
        yield spine


async def token(spine: Spine, role: str) -> str:
    """A token of that role, as an operator gets it."""
    made = await spine.server.command("token", "add", role, "--role", role, "--json")
    assert made.status == 0, made.error
    return str(made.json["token"])


async def ask(
    spine: Spine, held: str, method: str, path: str, body: object = None, **headers: str
) -> tuple[int, Any]:
    """Status and body of an answer."""
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {held}", **headers}) as session,
        session.request(method, f"{spine.server.http_url}{path}", json=body) as answer,
    ):
        return answer.status, (await answer.json(content_type=None) if answer.status != 204 else None)


async def test_a_callback_that_is_asked_for_twice_rings_once_and_counts_twice(spine: Spine) -> None:
    await spine.server.account("acme", "voxdirect", "alice", countries=["GB"])
    held = await token(spine, "operator")
    wanted = {"line": "alice", "number": ENDS, "first": LONDON}
    key = {"Idempotency-Key": "order-1"}
    first = await ask(spine, held, "POST", "/v1/callbacks", wanted, **key)
    assert (first[0], first[1]["decision"]) == (202, "allow")
    assert await ask(spine, held, "POST", "/v1/callbacks", wanted, **key) == first
    await spine.server.talking("alice")
    [call] = (await ask(spine, held, "GET", "/v1/calls"))[1]
    assert (call["call"], call["state"], call["kind"]) == (first[1]["call"], "talking", "callback")
    ended = await spine.carrier.call_when(ENDS_E164, ended=True, timeout_s=10)
    await spine.server.idle()
    assert [leg.number for leg in spine.carrier.calls()] == [LONDON_E164, ENDS_E164]
    assert ended.answered_at is not None
    assert ended.ended_at is not None
    used_s = (await spine.server.usage("acme"))["used_s"]
    assert used_s == pytest.approx(2 * (ended.ended_at - ended.answered_at), abs=2)


async def test_what_is_refused_rings_nobody(spine: Spine) -> None:
    await spine.server.account("acme", "voxdirect", "alice", countries=["GB"])
    operator, viewer = await token(spine, "operator"), await token(spine, "viewer")
    wanted = {"line": "alice", "number": LONDON}
    code, told = await ask(spine, operator, "POST", "/v1/callbacks", {**wanted, "number": PREMIUM})
    assert (code, told["decision"], told["reason"], told["cause"]) == (200, "refuse", "class_not_covered", 21)
    assert (await ask(spine, viewer, "POST", "/v1/callbacks", wanted))[0] == 403
    assert (await ask(spine, "nobody's", "POST", "/v1/callbacks", wanted))[0] == 401
    dear = {**wanted, "number": PREMIUM}
    code, told = await ask(spine, operator, "POST", f"/v1/conferences/{ROOM}/participants", dear)
    assert (code, "class_not_covered" in told["detail"]) == (422, True)
    assert spine.carrier.calls() == []
    assert await spine.server.grants() == []


async def test_a_number_is_called_into_a_room_while_there_is_a_seat(spine: Spine) -> None:
    await spine.server.account("acme", "kryptotel", "erin", "frank", "grace", countries=["GB"])
    held = await token(spine, "operator")
    stays = await all_join(spine, 6, ROOM, ("erin", "frank", "grace"))
    wanted = {"line": "erin", "number": LONDON}
    code, added = await ask(spine, held, "POST", f"/v1/conferences/{ROOM}/participants", wanted)
    assert code == 202
    await in_room(spine, 4, ROOM)
    [room] = (await ask(spine, held, "GET", "/v1/conferences"))[1]
    assert (room["room"], room["seats"], len(room["members"])) == (ROOM, 4, 4)
    assert added["call"] in {member["call"] for member in room["members"]}
    code, told = await ask(spine, held, "POST", f"/v1/conferences/{ROOM}/participants", wanted)
    assert (code, "conference_full" in told["detail"]) == (422, True)
    assert (await ask(spine, held, "DELETE", f"/v1/calls/{added['call']}"))[0] == 204
    called = await spine.carrier.call_when(LONDON_E164, ended=True, timeout_s=5)
    assert called.ended_by == "switch"
    assert len(spine.carrier.calls()) == 1
    assert [(await stay).ended_by for stay in stays] == ["caller"] * 3
    assert (await meters(spine))["conference-day"]["used_units"] > 0


async def test_each_command_of_the_page_does_what_it_says(spine: Spine) -> None:
    await spine.server.account("acme", "kryptotel", "alice", countries=["GB"])
    await spine.server.account("other", "voxdirect", "bob", countries=["GB"])
    curl = await asyncio.to_thread(obtain_curl)
    lines = "".join(re.findall(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)).splitlines()
    commands = [line.removeprefix("$ ") for line in lines]
    made = await spine.server.command(*shlex.split(commands[0])[1:], "--json")
    assert made.status == 0, made.error
    curls = [command for command in commands if command.startswith("curl ")]
    answers = []
    for command in curls:
        shown = command.replace("http://127.0.0.1:8090", spine.server.http_url).replace("curl", curl, 1)
        process = await asyncio.create_subprocess_shell(
            shown,
            env={**os.environ, "TOKEN": made.json["token"]},
            stdout=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(20):
            output, _ = await process.communicate()
        answers.append(output.decode())
    assert answers[0] == "[]"
    assert '"decision":"allow"' in answers[1]
    assert f'"room":"{ROOM}"' in answers[2]
    assert answers[3].count('"call":') == 2
    for row in await spine.server.ask("calls"):
        await spine.server.ask("hangup", call=row["call"])
    for command in commands[1:]:
        if command not in curls:
            done = await spine.server.command(*shlex.split(command)[1:])
            assert done.status == 0, f"{command}: {done.error}"
    assert (await ask(spine, made.json["token"], "GET", "/v1/calls"))[0] == 401

"""The HTTP API on the real path: what it places rings and is metered, what it may not stays silent; docs/api.md."""

import asyncio
import json
import os
import re
import shlex
import shutil
import time
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


SHOWN = "".join(re.findall(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)).splitlines()
COMMANDS = [line.removeprefix("$ ") for line in SHOWN]
WORDS = {
    "/rates/kryptotel": '"rates":1',
    "/accounts -H": '"account":"globex"',
    "/lines": '"account":"globex"',
    "/numbers/": '"line":"carol"',
    "/credit": '"balance":"20"',
    "/check": '"decision":"allow"',
    "/usage": '"free":"20"',
    "/decisions": '"items":[]',
    "/standing": '"standing":"terminated"',
    "/conferences -H": "",
    "/conferences": "[]",
    "/callbacks": '"decision":"allow"',
    "/participants": f'"room":"{ROOM}"',
    "/calls": '"call":',
    "/messages -H": '"decision":"allow"',
    "/messages?": '"kind":"sms"',
    "/events": "retry: 2000",
    "/replays?": '"state":"running"',
    "/replays": '"rows":8',
}
"""What is in the answer to a command with that in its address; the longest that fits."""


async def test_each_command_of_the_page_does_what_it_says(spine: Spine, tmp_path: Path) -> None:
    await spine.server.account("acme", "kryptotel", "alice", countries=["GB"])
    await spine.server.account("acme-callback", "voxdirect", "bob", countries=["GB"])
    [rates] = re.findall(r"^```csv\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "rates.csv").write_text(rates)
    shutil.copy(PROJECT / "tests" / "data" / "cdr" / "Master.csv", tmp_path)
    curl = await asyncio.to_thread(obtain_curl)
    made = await spine.server.command(*shlex.split(COMMANDS[0])[1:], "--json")
    assert made.status == 0, made.error
    curls = [command for command in COMMANDS if command.startswith("curl ")]
    assert len(curls) == 18
    for command in curls:
        shown = command.replace("http://127.0.0.1:8090", spine.server.http_url).replace("curl", curl, 1)
        process = await asyncio.create_subprocess_shell(
            shown,
            env={**os.environ, "TOKEN": made.json["token"]},
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(20):
            output, _ = await process.communicate()
        words = WORDS[max((each for each in WORDS if each in command), key=len)]
        assert words in output.decode(), f"{command}: {output.decode()}"
    for row in await spine.server.ask("calls"):
        await spine.server.ask("hangup", call=row["call"])
    for command in COMMANDS[1:]:
        if command not in curls:
            done = await spine.server.command(*shlex.split(command)[1:])
            assert done.status == 0, f"{command}: {done.error}"
    assert (await ask(spine, made.json["token"], "GET", "/v1/calls"))[0] == 401


RATES = """prefix,destination,rate_per_min,connect_fee,increment,minimum,effective
+33,France,0.60,0.05,1/1,,2026-01-01
"""
PARIS = "0033142685300"


async def test_a_whole_customer_life_over_http_alone(spine: Spine) -> None:
    held = await token(spine, "admin")

    async def done(method: str, path: str, body: object = None) -> Any:
        status, told = await ask(spine, held, method, f"/v1{path}", body)
        assert status in (200, 201), told
        return told

    async def refusal() -> tuple[int, str]:
        status = (await spine.call("alice", LONDON)).final_status
        [decision] = (await done("GET", "/decisions?account=acme&limit=1"))["items"]
        return status, decision["reason"]

    # A plan of one's own, its rates, and a customer on it.
    plan = (PROJECT / "policies" / "kryptotel.toml").read_text()
    for old, new in (('name = "kryptotel"', 'name = "office"'), ('card = "kryptotel"', 'card = "office"')):
        assert plan.count(old) == 1
        plan = plan.replace(old, new)
    assert (await file_sent(spine, held, "PUT", "/v1/rates/office?currency=EUR", "text/csv", RATES))[0] == 200
    assert (await file_sent(spine, held, "POST", "/v1/policies", "application/toml", plan))[0] == 201
    await done("POST", "/accounts", {"account": "acme", "policy": "voxdirect", "zone": "Europe/London"})
    await done("POST", "/lines", {"line": "alice", "account": "acme"})
    await done("PUT", "/numbers/+442079460155", {"account": "acme", "line": "alice"})
    await done("PUT", "/accounts/acme/subscription", {"policy": "office", "countries": ["GB"]})
    credit = {"amount": "1.00", "currency": "EUR", "reference": "invoice-1"}
    for _ in range(2):
        assert (await done("POST", "/accounts/acme/credit", credit))["balance"] == "1"

    # It calls: inside the plan, and on credit.
    assert (await done("POST", "/check", {"line": "alice", "number": LONDON}))["decision"] == "allow"
    assert (await spine.call("alice", LONDON, hang_up_after_s=1)).final_status == 200
    abroad = await spine.call("alice", PARIS, hang_up_after_s=2)
    assert (abroad.final_status, abroad.ended_by) == (200, "caller")
    await spine.server.idle()
    [charge] = (used := await done("GET", "/accounts/acme/usage"))["charges"]
    assert (charge["mode"], charge["charged_units"], charge["amount"]) == ("credit", 2, "0.07")
    assert used["credit"] == {"currency": "EUR", "balance": "0.93", "reserved": "0", "free": "0.93"}

    # Suspended in mid-call, and restored.
    talking = asyncio.create_task(spine.call("alice", LONDON, timeout_s=20))
    await spine.server.talking("alice")
    assert [row["line"] for row in await done("GET", "/calls")] == ["alice"]
    told_at = time.time()
    assert (await done("PUT", "/accounts/acme/standing", {"standing": "suspended"}))["calls_cut"] == 1
    cut = await talking
    assert (cut.ended_by, cut.ended_at - told_at < 1.0) == ("far_end", True)
    assert await refusal() == (403, "account_suspended")
    await done("PUT", "/accounts/acme/standing", {"standing": "active"})
    assert (await spine.call("alice", LONDON, hang_up_after_s=1)).final_status == 200

    # The end: no call more, and all of it on record.
    await done("PUT", "/accounts/acme/standing", {"standing": "terminated"})
    assert await refusal() == (403, "account_terminated")
    await spine.server.idle()
    sheet = await done("GET", "/accounts/acme")
    assert (sheet["standing"], len(sheet["numbers"]), len(sheet["charges"])) == ("terminated", 1, 1)
    reasons = [each["decision"] for each in (await done("GET", "/decisions?account=acme"))["items"]]
    assert reasons == ["refuse", "allow", "refuse", "allow", "allow", "allow"]
    log = spine.server.log_path.read_text()
    changes = [json.loads(line) for line in log.splitlines() if '"changed"' in line]
    assert [each["operation"] for each in changes] == [
        *("rates_load", "policy_publish", "account_add", "line_add", "number_add", "subscribe"),
        *("credit_add", "credit_add", *3 * ("account_standing",)),
    ]
    assert {each["by"] for each in changes} == {"admin"}
    assert "442079460155" not in log


async def file_sent(
    spine: Spine, held: str, method: str, path: str, media_type: str, text: str
) -> tuple[int, Any]:
    """Status and body of the answer to a file."""
    headers = {"Authorization": f"Bearer {held}", "Content-Type": media_type}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.request(method, f"{spine.server.http_url}{path}", data=text.encode()) as answer,
    ):
        return answer.status, await answer.json(content_type=None)

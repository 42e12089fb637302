"""Higher limits on request through the whole path: a live call that would be cut goes on, another one is cut."""

import asyncio
import time
from typing import Any

import pytest

from testbed.sipp import place_call
from tests.switch.conftest import Spine

ANSWERED = "02079460100"
QUOTA_S = 15
"""What the policy "quota" allows in a month; a call gets all of it at once."""


async def asked(spine: Spine, account: str) -> int:
    """The number of a request for an hour a month."""
    done = await spine.server.command(
        *("request", "open", account, "allowances.voice", "--to", "60min", "--why", "a fair", "--json")
    )
    assert done.status == 0, done.error
    return int(done.json["request"])


async def approved(spine: Spine, request: int, **validity: Any) -> None:
    # Over the control socket, as a command does, but without the time that a new Python takes.
    given = {"request": request, "by": "olga", "note": "a good customer", **validity}
    await spine.server.ask("request_approve", **given)


async def about_to_be_cut(spine: Spine, line: str) -> None:
    """Return when the call of that line has less than two seconds, and was told that there are no more."""
    async with asyncio.timeout(QUOTA_S + 10):
        while True:
            [row] = [row for row in await spine.server.ask("calls") if row["line"] == line]
            if row["left_s"] is not None and row["left_s"] <= 1:
                return
            await asyncio.sleep(0.05)


@pytest.mark.clause("R5", "allowed")
@pytest.mark.clause("R5", "cut")
async def test_a_call_about_to_be_cut_goes_on_once_its_limit_is_raised_and_another_is_cut(
    spine: Spine,
) -> None:
    for account, line in (("acme", "alice"), ("other", "bob")):
        await spine.server.account(account, "quota", line)
    request = await asked(spine, "acme")
    await asked(spine, "other")
    talks = [
        asyncio.create_task(
            place_call(spine.switch, line=line, number=ANSWERED, hang_up_after_s=QUOTA_S + 6, timeout_s=40)
        )
        for line in ("alice", "bob")
    ]
    await spine.server.talking("alice")
    await about_to_be_cut(spine, "alice")
    await approved(spine, request)
    alice, bob = await asyncio.gather(*talks)
    assert (alice.ended_by, round(alice.talk_s)) == ("caller", QUOTA_S + 6)
    assert bob.ended_by == "far_end"
    assert QUOTA_S - 0.1 <= bob.talk_s <= QUOTA_S + 1
    await spine.server.idle()
    assert (await spine.server.usage("acme"))["used_s"] == QUOTA_S + 6
    assert (await spine.server.usage("other"))["used_s"] == QUOTA_S
    assert (await spine.call("bob", ANSWERED)).final_status == 403
    assert (await spine.call("alice", ANSWERED, hang_up_after_s=1)).final_status == 200
    [row] = await spine.server.ask("decisions", account="acme", limit=1)
    assert row["reason"] == "within_raised_limit"


@pytest.mark.clause("R5", "cut")
@pytest.mark.clause("R5", "refused")
async def test_a_call_that_a_raise_allows_ends_with_it(spine: Spine) -> None:
    await spine.server.account("acme", "quota", "alice")
    request = await asked(spine, "acme")
    until_s = time.time() + QUOTA_S + 8
    await approved(spine, request, until_ms=int(until_s * 1000))
    outcome = await place_call(spine.switch, line="alice", number=ANSWERED, timeout_s=40)
    assert outcome.ended_by == "far_end"
    # Past what the policy allows, and not past the raise.
    assert QUOTA_S + 1 <= outcome.talk_s <= QUOTA_S + 8
    assert time.time() <= until_s + 2
    await spine.server.idle()
    assert (await spine.call("alice", ANSWERED)).final_status == 403

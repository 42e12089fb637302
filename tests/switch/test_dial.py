"""Plain dials through the whole path: SIP phone, Asterisk, FairDial, ledger, SIP carrier.

Each rule in a pair, the allowed and the refused; times by the phones' own clocks.
"""

import asyncio
import time
from typing import Any

import pytest

from testbed import sipp
from testbed.sipp import place_calls
from tests.switch.conftest import Spine

GB = "0207946"
ANSWERED = f"{GB}0100"


async def decision_on(spine: Spine, number: str) -> dict[str, Any]:
    """The newest decision about a dialled number."""
    rows = await spine.server.ask("decisions", limit=1000)
    found: dict[str, Any] = next(row for row in rows if row["dialled"] == number)
    return found


async def test_a_covered_number_is_connected_and_metered(spine: Spine) -> None:
    await spine.server.account("acme", "quota", "alice")
    outcome = await spine.call("alice", ANSWERED, hang_up_after_s=2)
    assert (outcome.final_status, outcome.ended_by) == (200, "caller")
    await spine.server.idle()
    assert await spine.server.usage("acme") == {"used_s": 2, "reserved_s": 0}
    # The carrier was sent the E.164 number that was checked, not what the phone dialled.
    assert [seen.number for seen in spine.carrier.calls()] == ["+442079460100"]


@pytest.mark.parametrize(
    ("number", "status", "reason", "clause"),
    [
        ("09098790000", 403, "class_not_covered", "Q1"),
        ("03001234567", 403, "class_not_covered", "Q1"),
        ("0033142685300", 403, "country_not_covered", "Q2"),
        ("00881612345678", 403, "class_not_covered", "Q1"),
        ("0207", 484, "number_invalid", "always"),
    ],
)
async def test_an_uncovered_number_is_refused_with_its_clause(
    spine: Spine, number: str, status: int, reason: str, clause: str
) -> None:
    await spine.server.account("acme", "quota", "alice")
    outcome = await spine.call("alice", number)
    assert (outcome.final_status, outcome.answered) == (status, False)
    record = await decision_on(spine, number)
    assert (record["decision"], record["reason"], record["clause_id"]) == ("refuse", reason, clause)
    assert spine.carrier.calls() == []


async def test_standing_of_the_account_decides(spine: Spine) -> None:
    await spine.server.account("acme", "quota", "alice")
    assert (await spine.call("alice", ANSWERED, hang_up_after_s=0.5)).final_status == 200
    for standing in ("suspended", "terminated"):
        await spine.server.ask("account_standing", account="acme", standing=standing)
        assert (await spine.call("alice", ANSWERED)).final_status == 403
        assert (await decision_on(spine, ANSWERED))["reason"] == f"account_{standing}"
    await spine.server.ask("account_standing", account="acme", standing="active")
    assert (await spine.call("alice", ANSWERED, hang_up_after_s=0.5)).final_status == 200
    # A line that no account holds.
    assert (await spine.call("bob", ANSWERED)).final_status == 403
    assert (await decision_on(spine, ANSWERED))["reason"] == "line_unknown"


@pytest.mark.parametrize(
    ("behaviour", "status"),
    # 603 comes back as 403: Asterisk carries it as Q.850 cause 21.
    [(sipp.BUSY, 486), (sipp.DECLINES, 403), (sipp.NO_ROUTE, 404), (sipp.UNAVAILABLE, 503)],
)
async def test_a_dial_that_is_not_answered_uses_nothing(spine: Spine, behaviour: str, status: int) -> None:
    await spine.server.account("acme", "quota", "alice")
    number = f"{GB}01{behaviour}"
    outcome = await spine.call("alice", number)
    assert outcome.final_status == status
    await spine.server.idle()
    assert await spine.server.usage("acme") == {"used_s": 0, "reserved_s": 0}


async def test_a_cancelled_dial_uses_nothing(spine: Spine) -> None:
    await spine.server.account("acme", "quota", "alice")
    outcome = await spine.call("alice", f"{GB}01{sipp.NEVER_ANSWERS}", give_up_after_s=1)
    assert outcome.final_status == 487
    await spine.server.idle()
    assert await spine.server.usage("acme") == {"used_s": 0, "reserved_s": 0}


async def test_ring_time_is_not_metered(spine: Spine) -> None:
    await spine.server.account("acme", "quota", "alice")
    outcome = await spine.call("alice", f"{GB}01{sipp.RINGS_2_S}", hang_up_after_s=1)
    assert outcome.answered
    assert outcome.setup_s > 1.9
    await spine.server.idle()
    assert (await spine.server.usage("acme"))["used_s"] == 1


async def test_the_callee_hanging_up_ends_the_metering(spine: Spine) -> None:
    await spine.server.account("acme", "quota", "alice")
    outcome = await spine.call("alice", f"{GB}01{sipp.HANGS_UP_AFTER_2_S}", timeout_s=10)
    assert outcome.ended_by == "far_end"
    await spine.server.idle()
    assert (await spine.server.usage("acme"))["used_s"] == 2


async def test_the_switch_ends_a_call_at_its_limit_counted_from_the_answer(spine: Spine) -> None:
    await spine.server.account("acme", "short", "alice")
    at_once, after_ringing = await asyncio.gather(
        spine.call("alice", ANSWERED, timeout_s=10),
        spine.call("alice", f"{GB}01{sipp.RINGS_2_S}", timeout_s=10),
    )
    for outcome in (at_once, after_ringing):
        assert outcome.ended_by == "far_end"
        assert 2.9 <= outcome.talk_s <= 4.0
    await spine.server.idle()
    assert (await spine.server.usage("acme"))["used_s"] == 6


async def test_the_last_seconds_of_an_allowance_are_reserved_by_the_call_that_has_them(spine: Spine) -> None:
    await spine.server.account("acme", "quota", "alice", "bob")
    first = asyncio.create_task(spine.call("alice", ANSWERED, hang_up_after_s=3))
    await spine.server.talking("alice")
    refused = await spine.call("bob", ANSWERED)
    assert refused.final_status == 403
    assert (await decision_on(spine, ANSWERED))["reason"] == "allowance_reserved"
    assert (await first).ended_by == "caller"
    await spine.server.idle()
    # What the first gave back is there for the next, and no more than that: it is cut.
    left_s = 15 - (await spine.server.usage("acme"))["used_s"]
    assert 10 <= left_s <= 12
    second = await spine.call("bob", ANSWERED, timeout_s=20)
    assert second.ended_by == "far_end"
    assert left_s - 0.5 <= second.talk_s <= left_s + 1
    await spine.server.idle()
    assert await spine.server.usage("acme") == {"used_s": 15, "reserved_s": 0}
    assert (await spine.call("alice", ANSWERED)).final_status == 403
    assert (await decision_on(spine, ANSWERED))["reason"] == "allowance_used_up"


async def test_an_operator_hangs_up_a_call_on_both_legs(spine: Spine) -> None:
    await spine.server.account("acme", "quota", "alice")
    talking = asyncio.create_task(spine.call("alice", ANSWERED, timeout_s=20))
    await spine.server.talking("alice")
    listed = await spine.server.command("calls", "--json")
    [row] = listed.json
    assert (row["line"], row["dialled"], row["state"]) == ("alice", ANSWERED, "talking")
    assert (await spine.server.command("hangup", row["call"])).status == 0
    told_at = time.time()
    outcome = await talking
    assert outcome.ended_by == "far_end"
    assert outcome.ended_at - told_at < 1
    assert (await spine.server.command("hangup", row["call"])).status == 2


async def test_internal_inbound_and_voicemail_calls(spine: Spine) -> None:
    await spine.server.account("acme", "quota", "alice", "bob")
    await spine.switch.cli("database put extension 101 bob")
    await spine.switch.cli("database put did 442079460123 bob")
    internal = await spine.call("alice", "101", hang_up_after_s=1)
    assert internal.final_status == 200
    await spine.server.idle()
    assert await spine.server.usage("acme") == {"used_s": 0, "reserved_s": 0}
    inbound = await spine.call("carrier", "442079460123", hang_up_after_s=1)
    assert inbound.final_status == 200
    await spine.server.idle()
    assert await spine.server.usage("acme") == {"used_s": 1, "reserved_s": 0}
    assert (await spine.call("carrier", "442079469999")).final_status == 404
    assert (await spine.call("alice", "*97", hang_up_after_s=1)).final_status == 200
    await spine.server.ask("account_standing", account="acme", standing="suspended")
    for line, number in (("alice", "101"), ("carrier", "442079460123"), ("alice", "*97")):
        assert (await spine.call(line, number)).final_status == 403


@pytest.mark.parametrize(
    "hostile", ["0207946&0100", "0207946,0100", "0207946)0100", "020794601/00", "0207946%5E0100"]
)
async def test_dial_string_characters_are_refused_before_anything_is_dialled(
    spine: Spine, hostile: str
) -> None:
    await spine.server.account("acme", "quota", "alice")
    outcome = await spine.call("alice", hostile)
    assert outcome.final_status == 484
    assert spine.carrier.calls() == []


async def test_two_hundred_calls_share_the_last_minute(spine: Spine) -> None:
    await spine.server.account("acme", "minute", "alice")
    load = await place_calls(
        spine.switch, line="alice", number=ANSWERED, count=200, rate_per_s=400, timeout_s=90
    )
    assert load.lost == 0
    assert load.answered >= 1
    assert set(load.failed) == {403}
    await spine.server.idle()
    assert await spine.server.usage("acme") == {"used_s": 60, "reserved_s": 0}
    records = await spine.server.ask("decisions", limit=1000)
    refused = [row for row in records if row["decision"] == "refuse"]
    assert len(records) == 200
    assert {row["reason"] for row in refused} <= {"allowance_reserved", "allowance_used_up"}
    assert load.talk_total_s <= 60 + 0.5 * load.answered

"""Transfers, forwards, parking, pick-up, hold and Local channels of plain dials: the dialplan keeps its `Dial()`.

Whatever becomes of a call's legs, each second of an answered leg is metered once, on the account whose dial it was
granted to, and no leg outlives the grant that it was dialled on. Times are those of the called phones.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from testbed import sipp
from testbed.configuration import Line
from testbed.installation import Installation
from testbed.server import dialplan
from testbed.sipp import CarrierCall, steered_call
from tests.switch import conftest
from tests.switch.conftest import LINES, Spine, running_spine

GB = "0207946"
FIRST, SECOND = f"{GB}0101", f"{GB}0102"
NOT_COVERED = "09098790000"
GRANTED_S = 3
"""The plan "short": outbound calls are cut after three seconds, internal ones after an hour."""

PLAN = """
#include fairdial.conf
[phones]
include => parkedcalls
exten => _0X!,1,Goto(public,${EXTEN},1)
exten => _10[1-5],1,Goto(internal,${EXTEN},1)
exten => *7,1,Pickup(alice@PICKUPMARK)
 same => n,Hangup()

[public]
exten => _0X!,1,Gosub(fairdial,s,1(outbound,${EXTEN}))
 same => n,GotoIf($["${FAIRDIAL_RESULT}" = "ALLOW"]?dial)
 ; Somebody who was transferred hears a long announcement.
 same => n,ExecIf($["${BLINDTRANSFER}" != ""]?Wait(10))
 same => n,Hangup(${FAIRDIAL_CAUSE})
 same => n(dial),Set(__TRANSFER_CONTEXT=transferred)
 same => n,Set(__FORWARD_CONTEXT=forwarded)
 same => n,Set(__PICKUPMARK=${CHANNEL(endpoint)})
 same => n,Dial(PJSIP/${FAIRDIAL_NUMBER}@carrier,60,${FAIRDIAL_DIAL})
 same => n,Hangup(${HANGUPCAUSE})
exten => _02079463XXX,1,Gosub(fairdial,s,1(outbound,${EXTEN}))
 same => n,Dial(Local/${FAIRDIAL_NUMBER}@route/n,60,${FAIRDIAL_DIAL})
 same => n,Hangup(${HANGUPCAUSE})
exten => _02079464XXX,1,Gosub(fairdial,s,1(outbound,${EXTEN}))
 same => n,Dial(Local/${FAIRDIAL_NUMBER}@route,60,${FAIRDIAL_DIAL})
 same => n,Hangup(${HANGUPCAUSE})

[route]
exten => _+X!,1,Dial(PJSIP/${EXTEN}@carrier)

[internal]
exten => _10X,1,Gosub(fairdial,s,1(internal,${EXTEN}))
 same => n,GotoIf($["${FAIRDIAL_RESULT}" = "ALLOW"]?dial)
 same => n,Hangup(${FAIRDIAL_CAUSE})
 same => n(dial),Set(__TRANSFER_CONTEXT=transferred)
 same => n,Set(__FORWARD_CONTEXT=forwarded)
 same => n,Set(at=127.0.0.1:${TESTBED_CARRIER_PORT})
 same => n,GotoIf($["${EXTEN}" = "103"]?fax)
 same => n,Dial(PJSIP/bob/sip:${IF($["${EXTEN}" = "102"]?10289:0101)}@${at},30,${FAIRDIAL_DIAL})
 same => n,Hangup(${HANGUPCAUSE})
 same => n(fax),Dial(PJSIP/fax/sip:10388@${at},30,${FAIRDIAL_DIAL})
 same => n,Hangup(${HANGUPCAUSE})

; The line that transferred pays: "alice" of PJSIP/alice-0000002a.
[transferred]
exten => 700,1,Park(,s)
; A route that asks nobody: the grant of before goes on.
exten => _02079465XXX,1,Dial(PJSIP/+44${EXTEN:1}@carrier)
 same => n,Hangup()
; A route for which the line that goes on pays.
exten => _02079466XXX,1,Goto(public,${EXTEN},1)
exten => _[01]X!,1,Set(FAIRDIAL_LINE=${BLINDTRANSFER:6:-9})
 same => n,Goto(phones,${EXTEN},1)

; The line that forwards pays.
[forwarded]
exten => _0X!,1,GotoIf($["${FORWARDERNAME:6:7}" = "carrier"]?unasked)
 same => n,Set(FAIRDIAL_LINE=${FORWARDERNAME:6:-9})
 same => n,Goto(public,${EXTEN},1)
 same => n(unasked),Dial(PJSIP/+44${EXTEN:1}@carrier)
 same => n,Hangup()
"""

PARKING = "[general]\n[default]\nparkext => 700\nparkpos => 701-720\ncontext => parkedcalls\n"
FAX_LINE = Line("fax", accountcode="acme", context="phones", options={"t38_udptl": "yes"})


@pytest_asyncio.fixture
async def spine(
    installation: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Spine]:
    """The call path with the dialplan above; alice, carol and dave have accounts of three-second calls."""
    monkeypatch.setattr(conftest, "LINES", (*LINES, FAX_LINE))
    _, files = dialplan()
    plan = (PLAN, {**files, "res_parking.conf": PARKING})
    # Rounds that look for what is lost are a minute apart otherwise.
    async with running_spine(installation, tmp_path, {"reconcile_every_s": 1}, plan) as spine:
        await spine.server.account("patient-ltd", "quota", "erin")
        for line in ("alice", "bob", "carol", "dave", "fax"):
            await spine.server.account(f"{line}-ltd", "short", line)
        yield spine


def e164(number: str) -> str:
    """What the carrier is sent for a number dialled in Great Britain."""
    return f"+44{number[1:]}"


async def over(spine: Spine, number: str) -> CarrierCall:
    """The carrier's call to what it was sent, once it is over."""
    return await spine.carrier.call_when(number, answered=True, ended=True, timeout_s=12)


def talk_s(call: CarrierCall) -> float:
    """How long the called phone talked, by its clock."""
    assert call.answered_at is not None
    assert call.ended_at is not None
    return call.ended_at - call.answered_at


async def without_local_channels(spine: Spine) -> None:
    """Wait until Asterisk has taken its Local channels out of the calls that are up."""
    async with asyncio.timeout(2):
        while any(name.startswith("Local/") for name in await spine.switch.channels()):
            await asyncio.sleep(0.01)


async def records(spine: Spine, line: str) -> dict[str, dict[str, Any]]:
    """The decisions about a line's dials by dialled number, when all are over."""
    await spine.server.idle(timeout_s=12)
    rows = await spine.server.ask("decisions", limit=100)
    found = {row["dialled"]: dict(row) for row in rows if row["line_id"] == line}
    assert len(found) == sum(row["line_id"] == line for row in rows), "a number was decided on twice"
    return found


def assert_cut(call: CarrierCall, record: dict[str, Any]) -> None:
    """The switch ended that leg at the end of its grant, and the record says so."""
    assert call.ended_by == "switch"
    assert GRANTED_S - 0.1 <= talk_s(call) <= GRANTED_S + 1
    assert (record["used_s"], record["cut_by"]) == (GRANTED_S, "longest_call")


def assert_metered(call: CarrierCall, record: dict[str, Any]) -> None:
    """What the record says was used is what the phone talked, within a second."""
    assert abs(record["used_s"] - talk_s(call)) < 1


async def test_who_was_transferred_by_the_caller_is_cut_at_the_first_limit(spine: Spine) -> None:
    """Blind transfer by REFER to a phone that may talk for an hour, and to a number of the public network."""

    async def to_a_phone() -> None:
        async with steered_call(spine.switch, line="alice", number=FIRST) as alice:
            await alice.transfer_to("101")
            first, second = await asyncio.gather(over(spine, e164(FIRST)), over(spine, "0101"))
            assert (await alice.outcome()).talk_s < 1
        rows = await records(spine, "alice")
        assert_cut(first, rows[FIRST])
        assert_metered(second, rows["101"])
        assert rows["101"]["cut_by"] is None
        assert await spine.server.usage("alice-ltd") == {"used_s": GRANTED_S, "reserved_s": 0}

    async def to_a_number() -> None:
        async with steered_call(spine.switch, line="carol", number=f"{GB}0111") as carol:
            await carol.transfer_to(SECOND)
            first, second = await asyncio.gather(over(spine, e164(f"{GB}0111")), over(spine, e164(SECOND)))
        rows = await records(spine, "carol")
        assert_cut(first, rows[f"{GB}0111"])
        assert_metered(second, rows[SECOND])
        used_s = rows[SECOND]["used_s"] + GRANTED_S
        assert await spine.server.usage("carol-ltd") == {"used_s": used_s, "reserved_s": 0}

    await asyncio.gather(to_a_phone(), to_a_number())


async def test_who_was_transferred_while_fairdial_is_dead_is_cut_at_the_first_limit(spine: Spine) -> None:
    """Calls between phones go through without FairDial; the dialplan keeps the limit of the leg that it was."""
    async with steered_call(spine.switch, line="alice", number=FIRST) as alice:
        await spine.server.talking("alice")
        await spine.server.kill()
        await alice.transfer_to("101")
        first, second = await asyncio.gather(over(spine, e164(FIRST)), over(spine, "0101"))
    assert first.ended_by == "switch"
    # What it had talked before the question does not count again, nor does the second that the question may take.
    assert GRANTED_S - 0.1 <= talk_s(first) <= GRANTED_S + 1.2
    assert talk_s(second) > 0
    assert await spine.switch.no_channels() == []
    await spine.server.launch()
    await spine.server.idle()


async def test_a_leg_that_was_answered_and_transferred_while_fairdial_was_dead_is_found_and_metered(
    spine: Spine,
) -> None:
    """Nobody saw it answered, and its caller is gone: the dialplan wrote on it whose it is."""
    ringing = f"{GB}01{sipp.RINGS_2_S}"
    async with steered_call(spine.switch, line="erin", number=ringing) as erin:
        await spine.carrier.call_when(e164(ringing), timeout_s=5)
        await spine.server.kill()
        await spine.carrier.call_when(e164(ringing), answered=True, timeout_s=5)
        await erin.transfer_to("101")
        await spine.carrier.call_when("0101", answered=True, timeout_s=5)
        assert (await erin.outcome()).ended_by in ("caller", "far_end")
        await spine.server.launch()
    async with asyncio.timeout(20):
        while not any(row["call"].endswith("-again") for row in await spine.server.ask("calls")):
            await asyncio.sleep(0.05)
    listed = await spine.server.ask("differences")
    assert "followed again" in next(row["done"] for row in listed if row["kind"] == "orphan_channel")
    first = await over(spine, e164(ringing))
    await spine.server.idle(timeout_s=20)
    # Fifteen seconds are all that the plan has; what is estimated is never more than they were.
    usage = await spine.server.usage("patient-ltd")
    assert usage["reserved_s"] == 0
    assert talk_s(first) - 2 <= usage["used_s"] <= 15
    assert first.ended_by == "switch"


async def test_a_transfer_that_is_refused_leaves_the_first_limit(spine: Spine) -> None:
    """The dialplan takes the lease off who is refused; who was called before is not let off."""
    async with steered_call(spine.switch, line="alice", number=FIRST) as alice:
        await alice.transfer_to(NOT_COVERED)
        first = await over(spine, e164(FIRST))
    rows = await records(spine, "alice")
    assert rows[NOT_COVERED]["decision"] == "refuse"
    assert_cut(first, rows[FIRST])


async def test_who_was_transferred_by_the_called_party_is_metered_once(spine: Spine) -> None:
    """The carrier's phone sends REFER, and the caller goes on in another `Dial()`."""

    async def transferred(line: str, first: str, to: str) -> sipp.CallOutcome:
        async with steered_call(spine.switch, line=line, number=first) as caller:
            call = await spine.carrier.call_when(e164(first), answered=True, timeout_s=5)
            await caller.event_when("ready")
            await spine.carrier.cue(call, f"refer <sip:{to}@127.0.0.1:{spine.switch.sip_port}>")
            return await caller.outcome()

    async def on_the_first_grant() -> None:
        first, to = f"{GB}01{sipp.STEERED}", f"{GB}5101"
        outcome = await transferred("alice", first, to)
        assert outcome.ended_by == "far_end"
        assert GRANTED_S - 0.1 <= outcome.talk_s <= GRANTED_S + 1
        assert (await over(spine, e164(to))).ended_by == "switch"
        rows = await records(spine, "alice")
        assert list(rows) == [first]
        assert (rows[first]["used_s"], rows[first]["cut_by"]) == (GRANTED_S, "longest_call")

    async def on_a_grant_of_its_own() -> None:
        first, to = f"{GB}02{sipp.STEERED}", f"{GB}6101"
        await transferred("carol", first, to)
        rows = await records(spine, "carol")
        assert_metered(await over(spine, e164(first)), rows[first])
        assert_cut(await over(spine, e164(to)), rows[to])
        used_s = rows[first]["used_s"] + GRANTED_S
        assert await spine.server.usage("carol-ltd") == {"used_s": used_s, "reserved_s": 0}

    async def nobody_pays() -> None:
        first = f"{GB}03{sipp.STEERED}"
        await transferred("dave", first, SECOND)
        # The line that transferred is the carrier's, which has no account.
        assert (await records(spine, "carrier"))[SECOND]["reason"] == "line_unknown"
        assert_metered(await over(spine, e164(first)), (await records(spine, "dave"))[first])

    await asyncio.gather(on_the_first_grant(), on_a_grant_of_its_own(), nobody_pays())


async def test_two_who_were_brought_together_keep_their_leases(spine: Spine) -> None:
    """Attended transfer: REFER with Replaces. The first who is cut ends it for the other."""

    async def attended(line: str, one: str, other: str) -> None:
        async with (
            steered_call(spine.switch, line=line, number=one) as held,
            steered_call(spine.switch, line=line, number=other) as consulted,
        ):
            await held.cue("hold")
            await held.event_when("told")
            await held.transfer_into(other, consulted)
            await asyncio.gather(held.outcome(), consulted.outcome())
            assert len(await spine.server.ask("calls")) >= 2

    await asyncio.gather(attended("alice", FIRST, SECOND), attended("carol", "101", f"{GB}0103"))
    first, second, third = [await over(spine, e164(number)) for number in (FIRST, SECOND, f"{GB}0103")]
    phone = await over(spine, "0101")
    rows, carols = await records(spine, "alice"), await records(spine, "carol")
    assert {rows[FIRST]["cut_by"], rows[SECOND]["cut_by"]} >= {"longest_call"}
    for call, record in ((first, rows[FIRST]), (second, rows[SECOND]), (phone, carols["101"])):
        assert call.ended_by == "switch"
        assert talk_s(call) <= GRANTED_S + 1
        assert_metered(call, record)
    assert_cut(third, carols[f"{GB}0103"])
    assert await spine.server.usage("carol-ltd") == {"used_s": GRANTED_S, "reserved_s": 0}


async def test_a_consulted_phone_that_still_rings_is_metered_from_its_answer(spine: Spine) -> None:
    """REFER with Replaces before the second phone has answered."""
    ringing = f"{GB}01{sipp.RINGS_2_S}"
    async with (
        steered_call(spine.switch, line="alice", number="101") as held,
        steered_call(spine.switch, line="alice", number=ringing) as consulted,
    ):
        await held.cue("hold")
        await held.event_when("told")
        await consulted.event_when("ringing")
        await held.transfer_into(ringing, consulted)
        await held.outcome()
        second = await over(spine, e164(ringing))
    rows = await records(spine, "alice")
    assert_cut(second, rows[ringing])


async def test_a_forwarded_call_is_paid_for_by_who_forwards_it(spine: Spine) -> None:
    """302 from bob's phone: Asterisk dials a Local channel, whose dialplan asks for bob, and takes it out again."""
    async with steered_call(spine.switch, line="alice", number="102") as alice:
        await alice.speak()
        await without_local_channels(spine)
        assert (await alice.outcome()).ended_by == "far_end"
    forwarded = await over(spine, e164(sipp.FORWARDED_TO))
    rows, bobs = await records(spine, "alice"), await records(spine, "bob")
    assert_cut(forwarded, bobs[sipp.FORWARDED_TO])
    assert_metered(forwarded, rows["102"])
    assert rows["102"]["cut_by"] is None
    assert await spine.server.usage("bob-ltd") == {"used_s": GRANTED_S, "reserved_s": 0}


async def test_a_forwarded_call_that_nobody_asks_about_stays_on_the_first_grant(spine: Spine) -> None:
    """302 from the carrier."""
    number = f"{GB}01{sipp.FORWARDS}"
    async with steered_call(spine.switch, line="alice", number=number) as alice:
        await alice.speak()
        await without_local_channels(spine)
        assert (await alice.outcome()).ended_by == "far_end"
    rows = await records(spine, "alice")
    assert list(rows) == [number]
    assert_cut(await over(spine, e164(sipp.FORWARDED_TO)), rows[number])


async def test_hold_fax_and_early_media_leave_the_metering_alone(spine: Spine) -> None:
    """From the answer to the end is what counts, whatever is played before and negotiated after."""

    async def statuses(caller: sipp.SteeredCall, *cues: str) -> list[str]:
        for number, cue in enumerate(cues, start=1):
            await caller.cue(cue)
            async with asyncio.timeout(5):
                while len(caller.told()) < number:
                    await asyncio.sleep(0.01)
        return caller.told()

    async def refused() -> None:
        early = f"{GB}01{sipp.PLAYS_2_S}"
        async with steered_call(spine.switch, line="alice", number=early) as alice:
            told = await statuses(alice, "hold", "resume", "fax")
            assert [status.split()[0] for status in told] == ["200", "200", "488"]
            outcome = await alice.outcome()
        assert outcome.setup_s > 1.9
        assert_cut(await over(spine, e164(early)), (await records(spine, "alice"))[early])

    async def taken() -> None:
        async with steered_call(spine.switch, line="fax", number="103") as caller:
            [told] = await statuses(caller, "fax")
            assert told.startswith("200 m=image")
            call = await spine.carrier.call_when(f"103{sipp.STEERED}", answered=True, timeout_s=5)
            assert (await spine.carrier.event_when("offered", call)).rest == "image"
            await caller.cue("bye")
            outcome = await caller.outcome()
        record = (await records(spine, "fax"))["103"]
        assert abs(record["used_s"] - outcome.talk_s) < 1
        assert_metered(await over(spine, f"103{sipp.STEERED}"), record)

    await asyncio.gather(refused(), taken())


async def test_a_picked_up_call_is_leased_and_metered_on_the_dial_that_rang(spine: Spine) -> None:
    ringing = f"{GB}01{sipp.NEVER_ANSWERS}"
    async with steered_call(spine.switch, line="alice", number=ringing) as alice:
        await alice.event_when("ringing")
        picked = await spine.call("carol", "*7", timeout_s=15)
        outcome = await alice.outcome()
    assert (outcome.ended_by, picked.ended_by) == ("far_end", "far_end")
    for leg in (outcome, picked):
        assert GRANTED_S - 0.1 <= leg.talk_s <= GRANTED_S + 1
    rows = await records(spine, "alice")
    assert (rows[ringing]["used_s"], rows[ringing]["cut_by"]) == (GRANTED_S, "longest_call")
    assert await records(spine, "carol") == {}


async def test_a_parked_call_keeps_its_limit(spine: Spine) -> None:
    async with steered_call(spine.switch, line="alice", number=FIRST) as alice:
        await alice.transfer_to("700")
        await alice.outcome()
        await spine.switch.parked(701)
        retrieved = await spine.call("carol", "701", timeout_s=15)
        assert retrieved.ended_by == "far_end"
        first = await over(spine, e164(FIRST))
    rows = await records(spine, "alice")
    assert_cut(first, rows[FIRST])
    assert abs((first.ended_at or 0) - retrieved.ended_at) < 1


async def test_local_channels_as_the_called_party(spine: Spine) -> None:
    """Queues and ring groups dial such; with /n they stay in the call, else Asterisk takes them out again."""
    kept, removed = f"{GB}3100", f"{GB}4100"
    async with (
        steered_call(spine.switch, line="alice", number=kept) as alice,
        steered_call(spine.switch, line="carol", number=removed) as carol,
    ):
        await asyncio.gather(alice.speak(), carol.speak())
        async with asyncio.timeout(2):
            while (names := await spine.switch.channels()) and any(removed[1:] in name for name in names):
                await asyncio.sleep(0.01)
        assert sum(kept[1:] in name for name in names) == 2
        assert (await alice.outcome()).ended_by == (await carol.outcome()).ended_by == "far_end"
    for line, number in (("alice", kept), ("carol", removed)):
        assert_cut(await over(spine, e164(number)), (await records(spine, line))[number])
        assert await spine.server.usage(f"{line}-ltd") == {"used_s": GRANTED_S, "reserved_s": 0}

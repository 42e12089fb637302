"""Callback on a real switch (V6): both legs rung by FairDial, joined, metered once for the two, and never left over."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from testbed import sipp
from testbed.asterisk import Switch
from testbed.configuration import Line
from testbed.installation import Installation
from testbed.relay import Relay
from testbed.server import Completed, Server, dialplan
from testbed.sipp import Carrier, CarrierCall
from tests.switch.conftest import Spine

LONDON, LONDON_E164 = "02079460100", "+442079460100"
MOBILE, MOBILE_E164 = "07400123456", "+447400123456"
RINGS, RINGS_E164 = "02079460187", "+442079460187"
BUSY, BUSY_E164 = "02079460186", "+442079460186"
ENDS, ENDS_E164 = "02079460192", "+442079460192"
PREMIUM = "09098790000"

# What a phone does when it is rung says the end of its name, as for any called phone of the testbed.
ANN, BUSY_LINE, QUIET_LINE = "ann", f"busy{sipp.BUSY}", f"quiet{sipp.NEVER_ANSWERS}"
ENDS_LINE = f"ends{sipp.HANGS_UP_AFTER_2_S}"
LINES = tuple(
    Line(name, accountcode="acme", context="phones") for name in (ANN, BUSY_LINE, QUIET_LINE, ENDS_LINE)
)
RING_S = 3


@asynccontextmanager
async def running(installation: Installation, directory: Path) -> AsyncIterator[tuple[Spine, Relay]]:
    """The whole call path with ARI over a relay; nothing may be left over at its end: no channel, bridge, grant or
    followed call.
    """
    extensions, files = dialplan()
    async with (
        Switch.start(installation, extensions, files=files, lines=LINES) as switch,
        Carrier.start(switch) as carrier,
        Relay.to(switch.settings.ports.http) as relay,
        Server.start(
            switch,
            directory,
            {"calls.ring_s": RING_S, "calls.callback_after_s": 0.5, "ari.url": relay.url},
        ) as server,
    ):
        yield Spine(switch, carrier, server), relay
        await nothing_is_left(switch, server)


@pytest_asyncio.fixture
async def spine(installation: Installation, tmp_path: Path) -> AsyncIterator[Spine]:
    """The whole call path."""
    async with running(installation, tmp_path) as (spine, _):
        yield spine


async def nothing_is_left(switch: Switch, server: Server) -> None:
    """No channel, no bridge, no grant, no call that is followed."""
    assert await switch.no_channels() == [], "the test left channels up"
    await server.idle()
    async with asyncio.timeout(5):
        while await bridges(switch):
            await asyncio.sleep(0.02)


async def bridges(switch: Switch) -> list[str]:
    """The bridges that are there."""
    listed = await switch.cli("bridge show all")
    return [line for line in listed.splitlines()[1:] if line.strip()]


async def provision(spine: Spine, policy: str = "voxdirect", *lines: str) -> None:
    await spine.server.account("acme", policy, *(lines or (ANN,)), countries=["GB"])


async def place(spine: Spine, number: str = LONDON, *, line: str = ANN, first: str | None = None) -> str:
    """Ask for a callback that is placed; its call id."""
    told = await spine.server.ask("callback", number=number, line=line, first=first)
    assert told["decision"] == "allow", told
    return str(told["call"])


async def rung(spine: Spine, number: str, *, answered: bool = False, ended: bool = False) -> CarrierCall:
    """The leg to a number or line, as its phone saw it."""
    return await spine.carrier.call_when(number, answered=answered, ended=ended, timeout_s=10)


async def used(spine: Spine) -> int:
    """Units counted, once nothing is live; none may be reserved."""
    await spine.server.idle()
    found = await spine.server.usage("acme")
    assert found["reserved_s"] == 0
    return found["used_s"]


def length_s(leg: CarrierCall) -> float:
    """How long a leg talked, by the clock of its phone."""
    assert leg.answered_at is not None
    assert leg.ended_at is not None
    return leg.ended_at - leg.answered_at


@pytest.mark.clause("V6", "allowed")
@pytest.mark.parametrize(
    ("line", "number", "e164"), [(ANN, ENDS, ENDS_E164), (ENDS_LINE, LONDON, LONDON_E164)]
)
async def test_a_callback_counts_twice_and_either_leg_ends_it(
    spine: Spine, line: str, number: str, e164: str
) -> None:
    await provision(spine, "voxdirect", line)
    await place(spine, number, line=line)
    first, second = await rung(spine, line, ended=True), await rung(spine, e164, ended=True)
    assert {first.ended_by, second.ended_by} == {"carrier", "switch"}
    assert abs((first.ended_at or 0) - (second.ended_at or 0)) < 0.5
    assert await used(spine) == 4
    record = await spine.newest_decision()
    assert (record["kind"], record["clause_policy"], record["clause_id"]) == ("callback", "voxdirect", "V6")


@pytest.mark.clause("V6", "charged")
async def test_both_legs_of_a_callback_past_the_allowance_are_charged(spine: Spine) -> None:
    await spine.publish_variant("voxdirect", "small", ("limit_s = 1800000", "limit_s = 2"), *NOW)
    await provision(spine, "small")
    await place(spine, ENDS)
    await rung(spine, ENDS_E164, ended=True)
    assert await used(spine) == 2
    sheet = await spine.server.ask("usage", account="acme")
    [voice] = [entry for entry in sheet["usage"] if entry["allowance"] == "voice" and entry["used_units"]]
    [charge] = sheet["charges"]
    assert (voice["over_units"], charge["mode"], charge["clause"]["id"]) == (2, "overage", "V2")


async def test_a_number_is_rung_in_place_of_the_line(spine: Spine) -> None:
    await provision(spine)
    call = await place(spine, LONDON, first=MOBILE)
    await spine.server.talking(ANN)
    assert [leg.number for leg in spine.carrier.calls()] == [MOBILE_E164, LONDON_E164]
    assert (await spine.server.command("hangup", call)).status == 0
    await used(spine)


@pytest.mark.parametrize("shown", ["+442079460200", None])
async def test_both_legs_show_the_number_of_the_line_where_it_has_one(
    spine: Spine, shown: str | None
) -> None:
    await provision(spine)
    await spine.server.ask("number_add", number="+442079460299", account="acme", line=None)
    if shown is not None:
        await spine.server.ask("number_add", number=shown, account="acme", line=ANN)
    await place(spine, ENDS)
    for number in (ANN, ENDS_E164):
        assert (await rung(spine, number, ended=True)).caller == (shown or "+442079460299")


async def test_a_first_leg_that_does_not_answer_rings_nobody_else(spine: Spine) -> None:
    await provision(spine, "voxdirect", BUSY_LINE, QUIET_LINE)
    await place(spine, LONDON, line=BUSY_LINE)
    await place(spine, LONDON, line=QUIET_LINE)
    assert (await rung(spine, BUSY_LINE, ended=True)).status == 486
    quiet = await rung(spine, QUIET_LINE, ended=True)
    assert quiet.status == 487
    assert (quiet.ended_at or 0) - quiet.invited_at == pytest.approx(RING_S, abs=1)
    assert await used(spine) == 0
    assert len(spine.carrier.calls()) == 2


@pytest.mark.parametrize(("number", "e164"), [(BUSY, BUSY_E164), (RINGS, RINGS_E164)])
async def test_a_second_leg_that_does_not_answer_ends_the_first(spine: Spine, number: str, e164: str) -> None:
    await provision(spine)
    await place(spine, number)
    second = await rung(spine, e164, ended=True)
    assert second.status == (486 if number == BUSY else 487)
    first = await rung(spine, ANN, ended=True)
    assert first.ended_by == "switch"
    assert (first.ended_at or 0) - (second.ended_at or 0) < 1
    assert await used(spine) == 0


async def test_a_first_leg_that_hangs_up_ends_the_ringing_of_the_second(spine: Spine) -> None:
    await provision(spine, "voxdirect", ENDS_LINE)
    await place(spine, RINGS, line=ENDS_LINE)
    first, second = await rung(spine, ENDS_LINE, ended=True), await rung(spine, RINGS_E164, ended=True)
    assert (first.ended_by, second.status) == ("carrier", 487)
    assert (second.ended_at or 0) - (first.ended_at or 0) < 0.7
    assert await used(spine) == 0


@pytest.mark.parametrize(
    ("number", "first", "reason"),
    [
        (PREMIUM, None, "class_not_covered"),
        (LONDON, PREMIUM, "class_not_covered"),
        ("112", None, "emergency_not_called_back"),
        (LONDON, "999", "emergency_not_called_back"),
        ("0033142685300", None, "country_not_covered"),
        ("0207", None, "number_invalid"),
    ],
)
async def test_what_the_policy_refuses_rings_nobody(
    spine: Spine, number: str, first: str | None, reason: str
) -> None:
    await provision(spine)
    told = await ask_for(spine, number, first)
    assert (told.status, told.json["decision"], told.json["reason"]) == (1, "refuse", reason)
    assert told.json["call"] is None
    assert told.json["text"]
    allowed = await ask_for(spine, ENDS, None)
    assert (allowed.status, allowed.json["decision"]) == (0, "allow")
    await rung(spine, ENDS_E164, ended=True)
    assert [leg.number for leg in spine.carrier.calls()] == [ANN, ENDS_E164]


async def ask_for(spine: Spine, number: str, first: str | None) -> Completed:
    """As an operator does."""
    extra = () if first is None else ("--first", first)
    return await spine.server.command("callback", number, "--line", ANN, "--json", *extra)


async def test_a_plan_without_callback_and_a_line_of_nobody_are_refused(spine: Spine) -> None:
    await provision(spine, "quota")
    for line, reason in ((ANN, "kind_not_covered"), ("nobody", "line_unknown")):
        told = await spine.server.ask("callback", number=LONDON, line=line)
        assert (told["decision"], told["reason"]) == ("refuse", reason)
    assert spine.carrier.calls() == []


async def test_both_legs_are_cut_at_the_limit(spine: Spine) -> None:
    await provision(spine, "own")
    await place(spine)
    for number in (ANN, LONDON_E164):
        leg = await rung(spine, number, answered=True, ended=True)
        assert leg.ended_by == "switch"
        assert 2.7 <= length_s(leg) <= 4
    assert await used(spine) == 3


@pytest.mark.parametrize("how", ["suspend", "restrict", "hangup"])
async def test_an_operator_ends_both_legs_within_a_second(spine: Spine, how: str) -> None:
    await provision(spine)
    call = await place(spine)
    await spine.server.talking(ANN)
    if how == "suspend":
        await spine.server.ask("account_standing", account="acme", standing="suspended")
    elif how == "restrict":
        await spine.server.ask("account_restrict", account="acme", services=["callback"])
    else:
        await spine.server.ask("hangup", call=call)
    told_at = time.time()
    for number in (ANN, LONDON_E164):
        assert ((await rung(spine, number, ended=True)).ended_at or 0) - told_at < 1
    await used(spine)
    told = await spine.server.ask("callback", number=LONDON, line=ANN)
    assert told["decision"] == ("allow" if how == "hangup" else "refuse")
    if how == "hangup":
        await spine.server.talking(ANN)
        await spine.server.ask("hangup", call=told["call"])


@pytest.mark.parametrize("how", ["suspend", "hangup"])
async def test_an_operator_ends_a_callback_that_rings(spine: Spine, how: str) -> None:
    await provision(spine)
    call = await place(spine, RINGS)
    await rung(spine, RINGS_E164)
    if how == "suspend":
        await spine.server.ask("line_standing", line=ANN, standing="suspended")
    else:
        await spine.server.ask("hangup", call=call)
    told_at = time.time()
    for number in (ANN, RINGS_E164):
        assert ((await rung(spine, number, ended=True)).ended_at or 0) - told_at < 1
    assert await used(spine) == 0


# --- FairDial or the switch dies ---------------------------------------------------------------------


async def stand(spine: Spine, stage: str) -> tuple[str, ...]:
    """Bring a callback under `own` to a stage; the numbers that were rung by then."""
    await provision(spine, "own", ANN, QUIET_LINE)
    if stage == "the first leg rings":
        await place(spine, LONDON, line=QUIET_LINE)
        await rung(spine, QUIET_LINE)
        return (QUIET_LINE,)
    if stage == "the second leg rings":
        await place(spine, RINGS)
        await rung(spine, RINGS_E164)
        return ANN, RINGS_E164
    await place(spine)
    await spine.server.talking(ANN)
    return ANN, LONDON_E164


STAGES = ["the first leg rings", "the second leg rings", "they talk"]


@pytest.mark.parametrize("stage", STAGES)
async def test_every_leg_ends_by_its_lease_though_fairdial_was_killed(spine: Spine, stage: str) -> None:
    numbers = await stand(spine, stage)
    await spine.server.kill()
    # Two times ring and its slack, and the grant, at the longest.
    assert await spine.switch.no_channels(2 * (RING_S + 2) + 3 + 1) == []
    if stage == "they talk":
        for number in numbers:
            assert 2.7 <= length_s(await rung(spine, number, ended=True)) <= 4
    await spine.server.launch()
    await nothing_is_left(spine.switch, spine.server)
    # Nobody saw the end of those that talked: what they can have used at most.
    assert await used(spine) == (3 if stage == "they talk" else 0)


@pytest.mark.parametrize("stage", STAGES[:2])
async def test_both_legs_end_by_their_lease_though_only_the_link_was_lost(
    installation: Installation, tmp_path: Path, stage: str
) -> None:
    async with running(installation, tmp_path) as (spine, relay):
        numbers = await stand(spine, stage)
        relay.cut()
        cut_at = time.time()
        # Two times ring and its slack, and the grant, at the longest.
        assert await spine.switch.no_channels(2 * (RING_S + 2) + 3 + 1) == []
        legs = [await rung(spine, number, ended=True) for number in numbers]
        assert {leg.ended_by for leg in legs} == {"switch"}
        # FairDial lives, knows that it could not tell the switch, and keeps no grant for it.
        assert await used(spine) == 0
        assert await bridges(spine.switch) == []
        assert not (await spine.server.ask("status"))["ari"]
        told = await spine.server.ask("callback", number=LONDON, line=ANN)
        assert (told["decision"], told["reason"]) == ("refuse", "call_not_followed")
        relay.mend()
        await spine.server.ready()
        await place(spine, ENDS)
        again = await rung(spine, ENDS_E164, ended=True)
        assert (again.ended_by, again.invited_at > cut_at) == ("carrier", True)
        assert await used(spine) == 2


@pytest.mark.parametrize("stage", STAGES[:2])
async def test_a_restarted_fairdial_ends_what_was_being_set_up(spine: Spine, stage: str) -> None:
    numbers = await stand(spine, stage)
    await spine.server.kill()
    await spine.server.launch()
    launched_at = time.time()
    for number in numbers:
        assert ((await rung(spine, number, ended=True)).ended_at or 0) - launched_at < 1
    await nothing_is_left(spine.switch, spine.server)
    assert await used(spine) == 0


async def test_a_restarted_fairdial_follows_a_callback_to_its_real_end(spine: Spine) -> None:
    await provision(spine)
    call = await place(spine)
    await spine.server.talking(ANN)
    await spine.server.kill()
    await spine.server.launch()
    row = await spine.server.talking(ANN)
    assert row["call"] == call
    assert len(await spine.switch.channels()) == 2
    assert (await spine.server.command("hangup", call)).status == 0
    second = await rung(spine, LONDON_E164, ended=True)
    await rung(spine, ANN, ended=True)
    assert await used(spine) == pytest.approx(2 * length_s(second), abs=2)


NOW = (("effective = 2026-11-01", 'effective = "at_once"'), ("notice_days = 14", "notice_days = 0"))

ENCRYPTED = """[encryption]
signalling = "required"
media = "required"
otherwise = "{otherwise}"
clause = "A7"

[longest_call]"""


@pytest.mark.parametrize(("otherwise", "goes_on"), [("flag", True), ("refuse", False)])
async def test_the_lines_leg_is_asked_for_its_encryption_once_it_answered(
    spine: Spine, otherwise: str, goes_on: bool
) -> None:
    change = ("[longest_call]", ENCRYPTED.format(otherwise=otherwise))
    await spine.publish_variant("voxdirect", "sensitive", *NOW, change)
    await provision(spine, "sensitive")
    await place(spine, ENDS)
    assert (await rung(spine, ANN, ended=True)).ended_by == "switch"
    if goes_on:
        assert (await rung(spine, ENDS_E164, ended=True)).ended_by == "carrier"
        assert await used(spine) > 0
    else:
        # Nobody else was rung for a leg in clear, and nothing is metered.
        assert await used(spine) == 0
        assert spine.carrier.calls_to(ENDS_E164) == []


async def test_who_was_left_alone_while_fairdial_was_dead_is_hung_up_after(spine: Spine) -> None:
    await provision(spine)
    await place(spine, ENDS)
    await spine.server.talking(ANN)
    await spine.server.kill()
    await rung(spine, ENDS_E164, ended=True)
    async with asyncio.timeout(5):
        while len(await spine.switch.channels()) != 1:
            await asyncio.sleep(0.02)
    await spine.server.launch()
    assert (await rung(spine, ANN, ended=True)).ended_by == "switch"
    await nothing_is_left(spine.switch, spine.server)
    assert await used(spine) >= 4


async def test_stopping_gives_up_a_callback_that_rings_and_hands_over_one_that_talks(spine: Spine) -> None:
    await provision(spine, "voxdirect", ANN, ENDS_LINE)
    talking = await place(spine)
    await spine.server.talking(ANN)
    await place(spine, RINGS, line=ENDS_LINE)
    await rung(spine, RINGS_E164)
    assert await spine.server.stop() < 2
    ringing = await rung(spine, RINGS_E164, ended=True)
    assert ringing.status == 487
    await rung(spine, ENDS_LINE, ended=True)
    assert len(await spine.switch.channels()) == 2
    grants = (await spine.server.command("calls", "--json")).json
    assert [row["call"] for row in grants] == [talking]
    await spine.server.launch()
    assert (await spine.server.command("hangup", talking)).status == 0
    await used(spine)


@pytest.mark.parametrize("stage", STAGES)
async def test_a_switch_that_dies_leaves_no_grant(spine: Spine, stage: str) -> None:
    await stand(spine, stage)
    spine.switch.kill()
    await spine.switch.restart()
    await spine.server.ready()
    await spine.server.idle(timeout_s=20)
    counted = await used(spine)
    assert 1 <= counted <= 3 if stage == "they talk" else counted == 0


async def test_without_a_server_a_callback_is_an_error_that_says_so(spine: Spine) -> None:
    await provision(spine)
    await spine.server.stop()
    told = await ask_for(spine, LONDON, None)
    assert (told.status, "fairdial serve" in told.error) == (2, True)
    await spine.server.launch()


# --- by dialling a code -------------------------------------------------------------------------------


async def test_who_dials_the_code_is_hung_up_and_called_back(spine: Spine) -> None:
    await provision(spine)
    outcome = await spine.call(ANN, f"*55{ENDS}")
    assert (outcome.final_status, outcome.answered) == (486, False)
    first = await rung(spine, ANN, ended=True)
    assert first.invited_at - outcome.ended_at >= 0.5
    await rung(spine, ENDS_E164, ended=True)
    assert await used(spine) == 4


@pytest.mark.parametrize(("number", "status"), [(PREMIUM, 403), ("0207", 484), ("112", 403)])
async def test_the_code_before_a_number_that_is_refused_calls_nobody(
    spine: Spine, number: str, status: int
) -> None:
    await provision(spine)
    assert (await spine.call(ANN, f"*55{number}")).final_status == status
    # A later one would ring after an earlier one.
    assert (await spine.call(ANN, f"*55{ENDS}")).final_status == 486
    await rung(spine, ENDS_E164, ended=True)
    assert [leg.number for leg in spine.carrier.calls()] == [ANN, ENDS_E164]


async def test_the_code_without_fairdial_gets_no_circuit(spine: Spine) -> None:
    await provision(spine)
    await spine.server.kill()
    outcome = await spine.call(ANN, f"*55{LONDON}")
    assert (outcome.final_status, outcome.setup_s < 2) == (503, True)
    assert spine.carrier.calls() == []
    await spine.server.launch()

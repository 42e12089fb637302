"""Suspended or terminated at once (K12, A10, V8): calls in progress end on both legs, and no further one begins."""

import asyncio
import time

import pytest

from testbed.server import PROJECT
from testbed.sipp import NEVER_ANSWERS, CallOutcome
from tests.switch.conftest import Spine

LONDON = "02079460100"
RINGS = f"20794601{NEVER_ANSWERS}"
WITHIN_S = 1.0


async def add_account(spine: Spine, policy: str, *lines: str, countries: tuple[str, ...] = ("GB",)) -> None:
    """Account acme with these lines, on a policy whose countries are bought."""
    await spine.server.ask(
        "account_add", account="acme", policy=policy, zone="Europe/London", countries=countries
    )
    for line in lines:
        await spine.server.ask("line_add", line=line, account="acme")


async def talk(spine: Spine, line: str, number: str = LONDON) -> "asyncio.Task[CallOutcome]":
    """A call that is up, and stays until it is cut."""
    task = asyncio.create_task(spine.call(line, number, timeout_s=20))
    await spine.server.talking(line)
    return task


async def refusal(spine: Spine, line: str, number: str = LONDON) -> tuple[int, str, str, str]:
    """What becomes of a dial: status, reason, and clause."""
    status = (await spine.call(line, number)).final_status
    record = await spine.newest_decision()
    return status, record["reason"], record["clause_policy"], record["clause_id"]


@pytest.mark.parametrize(
    ("policy", "standing"),
    [
        pytest.param("kryptotel", "suspended", marks=pytest.mark.clause("K12", "cut")),
        pytest.param("kryptotel", "terminated", marks=pytest.mark.clause("K12", "cut")),
        pytest.param("acceptable-use", "terminated", marks=pytest.mark.clause("A10", "cut")),
    ],
)
async def test_calls_in_progress_are_cut_on_both_legs_within_a_second(
    spine: Spine, policy: str, standing: str
) -> None:
    await add_account(spine, policy, "alice", "bob")
    calls = [await talk(spine, line) for line in ("alice", "bob")]
    told_at = time.time()
    told = await spine.server.ask("account_standing", account="acme", standing=standing)
    assert told["calls_cut"] == 2
    for outcome in await asyncio.gather(*calls):
        assert outcome.ended_by == "far_end"
        assert outcome.ended_at - told_at < WITHIN_S
    async with asyncio.timeout(2):
        while any(call.ended_at is None for call in spine.carrier.calls()):
            await asyncio.sleep(0.02)
    for seen in spine.carrier.calls():
        assert seen.ended_by == "switch"
        assert seen.ended_at is not None
        assert seen.ended_at - told_at < WITHIN_S
    await spine.server.idle()


@pytest.mark.clause("K12", "allowed")
@pytest.mark.clause("K12", "refused")
async def test_no_call_begins_until_the_account_is_restored(spine: Spine) -> None:
    await add_account(spine, "kryptotel", "alice")
    assert (await spine.call("alice", LONDON, hang_up_after_s=0.5)).final_status == 200
    for word, standing in (("suspend", "suspended"), ("terminate", "terminated")):
        assert (await spine.server.command("account", word, "acme")).status == 0
        assert await refusal(spine, "alice") == (403, f"account_{standing}", "kryptotel", "K12")
        assert (await spine.call("alice", "999", hang_up_after_s=0.5)).final_status == 200
        assert (await spine.server.command("account", "restore", "acme")).status == 0
        assert (await spine.call("alice", LONDON, hang_up_after_s=0.5)).final_status == 200


async def test_suspending_a_line_cuts_its_calls_alone(spine: Spine) -> None:
    await add_account(spine, "kryptotel", "alice", "bob")
    alices, bobs = (
        await talk(spine, "alice"),
        asyncio.create_task(spine.call("bob", LONDON, hang_up_after_s=8)),
    )
    await spine.server.talking("bob")
    suspended = await spine.server.command("line", "suspend", "alice")
    ended_at = time.time()
    assert suspended.status == 0, suspended.error
    cut = await alices
    assert cut.ended_by == "far_end"
    assert cut.ended_at - ended_at < WITHIN_S
    assert await refusal(spine, "alice") == (403, "line_suspended", "kryptotel", "K12")
    assert (await bobs).ended_by == "caller"
    assert (await spine.call("bob", LONDON, hang_up_after_s=0.5)).final_status == 200
    assert (await spine.server.command("line", "restore", "alice")).status == 0
    assert (await spine.call("alice", LONDON, hang_up_after_s=0.5)).final_status == 200


async def test_what_rings_what_came_in_and_who_confers_is_cut_too(spine: Spine) -> None:
    await add_account(spine, "kryptotel", "alice", "bob", "erin", "frank")
    await spine.server.account("other", "kryptotel", "carol")
    await spine.switch.cli("database put did 442079460123 bob")
    carols = asyncio.create_task(spine.call("carol", "8000", hang_up_after_s=8))
    ringing = asyncio.create_task(spine.call("alice", f"0{RINGS}", timeout_s=20))
    inbound = asyncio.create_task(spine.call("carrier", "442079460123", timeout_s=20))
    conferring = [asyncio.create_task(spine.call(line, "8000", timeout_s=20)) for line in ("erin", "frank")]
    for line in ("bob", "erin", "frank", "carol"):
        await spine.server.talking(line)
    await spine.carrier.call_when(f"+44{RINGS}", timeout_s=5)
    told_at = time.time()
    told = await spine.server.ask("account_standing", account="acme", standing="suspended")
    assert told["calls_cut"] == 4
    rang, *talked = await asyncio.gather(ringing, inbound, *conferring)
    assert (rang.final_status, rang.answered) == (403, False)
    assert [outcome.ended_by for outcome in talked] == ["far_end"] * 3
    for outcome in (rang, *talked):
        assert outcome.ended_at - told_at < WITHIN_S
    assert (await carols).ended_by == "caller"
    await spine.server.idle()


@pytest.mark.clause("S4", "cut")
@pytest.mark.clause("S4", "refused")
@pytest.mark.clause("S4", "allowed")
async def test_a_restricted_service_is_cut_and_refused_and_the_others_go_on(spine: Spine) -> None:
    await add_account(spine, "spokephone", "alice", "bob", "carol")
    await spine.switch.cli("database put extension 103 carol")
    outside = await talk(spine, "alice")
    within = asyncio.create_task(spine.call("bob", "103", hang_up_after_s=8))
    await spine.server.talking("bob")
    restricted = await spine.server.command("account", "restrict", "acme", "outbound", "--json")
    told_at = time.time()
    assert restricted.status == 0, restricted.error
    assert restricted.json["calls_cut"] == 1
    cut = await outside
    assert (cut.ended_by, cut.ended_at - told_at < WITHIN_S) == ("far_end", True)
    [seen] = [call for call in spine.carrier.calls() if call.number == "+442079460100"]
    assert seen.ended_at is not None
    assert seen.ended_at - told_at < WITHIN_S
    assert await refusal(spine, "alice") == (403, "service_restricted", "spokephone", "S4")
    assert (await spine.call("alice", "999", hang_up_after_s=0.5)).final_status == 200
    assert (await within).ended_by == "caller"
    assert (await spine.server.command("account", "lift", "acme", "outbound")).status == 0
    assert (await spine.call("alice", LONDON, hang_up_after_s=0.5)).final_status == 200


async def test_a_conference_that_is_restricted_ends_for_all_legs(spine: Spine) -> None:
    await add_account(spine, "kryptotel", "alice", "erin", "frank")
    rooms = [asyncio.create_task(spine.call(line, "7001", timeout_s=20)) for line in ("erin", "frank")]
    for line in ("erin", "frank"):
        await spine.server.talking(line)
    dialled = asyncio.create_task(spine.call("alice", LONDON, hang_up_after_s=6))
    await spine.server.talking("alice")
    told_at = time.time()
    told = await spine.server.ask("account_restrict", account="acme", services=["conference"])
    assert told["calls_cut"] == 2
    for outcome in await asyncio.gather(*rooms):
        assert (outcome.ended_by, outcome.ended_at - told_at < WITHIN_S) == ("far_end", True)
    assert (await spine.call("erin", "7001")).ended_by == "far_end"
    assert (await spine.newest_decision())["reason"] == "service_restricted"
    assert (await dialled).ended_by == "caller"


@pytest.mark.clause("V8", "allowed")
@pytest.mark.clause("V8", "cut")
@pytest.mark.clause("V8", "refused")
async def test_fraud_ends_the_account_and_its_credit_while_charges_stay(spine: Spine) -> None:
    await add_account(spine, "kryptotel", "alice", countries=())
    rates = (PROJECT / "testbed" / "rates.csv").read_text()
    await spine.server.ask("rates_load", card="kryptotel", currency="EUR", text=rates)
    await spine.server.ask("credit_add", account="acme", amount="1", currency="EUR", reference="payment-1")
    assert (await spine.call("alice", LONDON, hang_up_after_s=2)).final_status == 200
    await spine.server.idle()
    subscribed = await spine.server.command("subscribe", "acme", "--policy", "voxdirect", "--country", "GB")
    assert subscribed.status == 0, subscribed.error
    before = await spine.server.ask("usage", account="acme")
    assert (before["credit"]["balance"], len(before["charges"])) == ("0.998", 1)

    call = await talk(spine, "alice")
    terminated = await spine.server.command("account", "terminate", "acme", "--fraud")
    ended_at = time.time()
    assert terminated.status == 0, terminated.error
    cut = await call
    assert cut.ended_by == "far_end"
    assert cut.ended_at - ended_at < WITHIN_S
    assert await refusal(spine, "alice") == (403, "account_terminated", "voxdirect", "V8")

    await spine.server.idle()
    after = await spine.server.ask("usage", account="acme")
    assert after["credit"] == {"currency": "EUR", "balance": "0", "reserved": "0", "free": "0"}
    assert after["charges"] == before["charges"]


async def test_termination_without_fraud_leaves_the_credit(spine: Spine) -> None:
    await add_account(spine, "voxdirect", "alice")
    await spine.server.ask("credit_add", account="acme", amount="1", currency="EUR", reference="payment-1")
    assert (await spine.server.command("account", "terminate", "acme")).status == 0
    assert await refusal(spine, "alice") == (403, "account_terminated", "voxdirect", "V7")
    assert (await spine.server.ask("usage", account="acme"))["credit"]["balance"] == "1"


async def test_credit_that_a_fraudulent_call_holds_pays_for_it_and_the_rest_is_forfeited(
    spine: Spine,
) -> None:
    await spine.publish_variant(
        "kryptotel",
        "fraud",
        ('[standing]\nclause = "K12"', '[standing]\nclause = "K12"\nfraud_clause = "K11"'),
    )
    await add_account(spine, "fraud", "alice", countries=())
    rates = (PROJECT / "testbed" / "rates.csv").read_text()
    await spine.server.ask("rates_load", card="kryptotel", currency="EUR", text=rates)
    await spine.server.ask("credit_add", account="acme", amount="1", currency="EUR", reference="payment-1")
    call = await talk(spine, "alice")
    await spine.server.ask("account_standing", account="acme", standing="terminated", fraud=True)
    cut = await call
    await spine.server.idle()
    after = await spine.server.ask("usage", account="acme")
    assert after["credit"] == {"currency": "EUR", "balance": "0", "reserved": "0", "free": "0"}
    [charge] = after["charges"]
    assert charge["charged_units"] == pytest.approx(cut.talk_s, abs=1)


async def test_what_could_not_be_cut_is_cut_when_the_switch_answers_again(spine: Spine) -> None:
    await add_account(spine, "kryptotel", "alice", "bob")
    alices = await talk(spine, "alice")
    bobs = asyncio.create_task(spine.call("bob", LONDON, hang_up_after_s=12))
    await spine.server.talking("bob")
    spine.switch.freeze()
    try:
        suspended = await spine.server.command("line", "suspend", "alice")
    finally:
        spine.switch.thaw()
    assert (suspended.status, suspended.output) == (2, "")
    assert "it is set, but the switch did not answer" in suspended.error
    assert (await alices).ended_by == "far_end"
    assert (await bobs).ended_by == "caller"
    assert await refusal(spine, "alice") == (403, "line_suspended", "kryptotel", "K12")

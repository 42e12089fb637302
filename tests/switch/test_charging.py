"""Use past an allowance and calls on credit, through the whole path: the call goes on or is cut, and what it costs."""

import asyncio
from typing import Any

import pytest

from testbed.server import PROJECT
from tests.switch.conftest import Spine

LONDON = "02079460100"
PREMIUM = "09098790000"
EXPENSIVE = "0033142685300"


async def sheet(spine: Spine, account: str) -> dict[str, Any]:
    await spine.server.idle()
    found: dict[str, Any] = await spine.server.ask("usage", account=account)
    statement = await spine.server.ask("statement", account=account)
    assert statement["adds_up"] is True, statement["differences"]
    return found


async def newest_reason(spine: Spine) -> tuple[str, str]:
    [row] = await spine.server.ask("decisions", limit=1)
    return row["reason"], row["clause_id"]


async def test_a_call_past_its_allowance_goes_on_and_is_charged_from_that_second(spine: Spine) -> None:
    await spine.server.account("acme", "metered", "alice")
    first = await spine.call("alice", LONDON, hang_up_after_s=8)
    assert (first.ended_by, round(first.talk_s)) == ("caller", 8)
    found = await sheet(spine, "acme")
    assert [(entry["used_units"], entry["over_units"]) for entry in found["usage"]] == [(5, 3)]
    # 3 s at 0.60 a minute; no connection fee, as the call began inside the allowance.
    assert [(charge["charged_units"], charge["amount"]) for charge in found["charges"]] == [(3, "0.03")]
    second = await spine.call("alice", LONDON, hang_up_after_s=2)
    assert second.ended_by == "caller"
    assert await newest_reason(spine) == ("past_allowance", "M5")
    found = await sheet(spine, "acme")
    assert {(charge["charged_units"], charge["amount"]) for charge in found["charges"]} == {
        (3, "0.03"),
        (2, "0.07"),
    }


async def test_a_call_inside_its_allowance_costs_nothing(spine: Spine) -> None:
    await spine.server.account("acme", "metered", "alice")
    assert (await spine.call("alice", LONDON, hang_up_after_s=3)).ended_by == "caller"
    found = await sheet(spine, "acme")
    assert [(entry["used_units"], entry["over_units"]) for entry in found["usage"]] == [(3, 0)]
    assert found["charges"] == []


async def test_a_call_on_credit_is_cut_when_the_credit_is_used_up(spine: Spine) -> None:
    await spine.server.account("acme", "prepaid", "alice")
    rates = PROJECT / "testbed" / "rates.csv"
    loaded = await spine.server.command(
        "rates", "load", str(rates), "--card", "standard", "--currency", "EUR"
    )
    assert loaded.status == 0, loaded.error
    assert (await spine.call("alice", PREMIUM)).final_status == 403
    assert await newest_reason(spine) == ("credit_too_low", "C3")
    added = await spine.server.command(
        "credit", "add", "acme", "0.05", "--currency", "EUR", "--reference", "payment-1"
    )
    assert added.status == 0, added.error
    # 0.01 to connect, then a cent a second: four seconds.
    outcome = await spine.call("alice", PREMIUM, timeout_s=15)
    assert outcome.ended_by == "far_end"
    assert 3.9 <= outcome.talk_s <= 5
    found = await sheet(spine, "acme")
    assert found["credit"] == {"currency": "EUR", "balance": "0", "reserved": "0", "free": "0"}
    assert [(charge["mode"], charge["amount"]) for charge in found["charges"]] == [("credit", "0.05")]
    assert (await spine.call("alice", PREMIUM)).final_status == 403
    assert await newest_reason(spine) == ("credit_too_low", "C3")


async def test_the_countries_bought_are_flat_and_a_number_without_a_rate_is_refused(spine: Spine) -> None:
    await spine.server.account("acme", "prepaid", "alice")
    rates = (PROJECT / "testbed" / "rates.csv").read_text()
    await spine.server.ask("rates_load", card="standard", currency="EUR", text=rates)
    await spine.server.ask("credit_add", account="acme", amount="1", currency="EUR", reference="payment-1")
    assert (await spine.call("alice", EXPENSIVE)).final_status == 403
    assert await newest_reason(spine) == ("no_rate", "C3")
    # London is outside what was bought, so it costs; then it is bought.
    assert (await spine.call("alice", LONDON, hang_up_after_s=1)).final_status == 200
    assert await newest_reason(spine) == ("by_credit", "C3")
    subscribed = await spine.server.command("subscribe", "acme", "--policy", "prepaid", "--country", "GB")
    assert subscribed.status == 0, subscribed.error
    assert (await spine.call("alice", LONDON, hang_up_after_s=1)).final_status == 200
    assert (await newest_reason(spine))[0] == "not_counted"
    found = await sheet(spine, "acme")
    assert found["credit"]["balance"] == "0.999"


async def test_no_more_calls_at_once_than_the_plan_allows(spine: Spine) -> None:
    await spine.server.account("acme", "metered", "alice", "bob", "carol")
    two = [asyncio.create_task(spine.call(line, LONDON, hang_up_after_s=4)) for line in ("alice", "bob")]
    for line in ("alice", "bob"):
        await spine.server.talking(line)
    assert (await spine.call("carol", LONDON)).final_status == 403
    assert await newest_reason(spine) == ("too_many_calls", "M6")
    assert (await spine.call("carol", "999", hang_up_after_s=0.5)).final_status == 200
    assert [outcome.final_status for outcome in await asyncio.gather(*two)] == [200, 200]
    await spine.server.idle()
    assert (await spine.call("carol", LONDON, hang_up_after_s=1)).final_status == 200


@pytest.mark.clause("S7", "allowed")
@pytest.mark.clause("S7", "refused")
async def test_an_account_is_no_trunk(spine: Spine) -> None:
    await spine.publish_variant("spokephone", "no-trunk", ("limit = 10, clause", "limit = 1, clause"))
    await spine.server.account("acme", "no-trunk", "alice", "bob", countries=("GB",))
    alices = asyncio.create_task(spine.call("alice", LONDON, hang_up_after_s=2))
    await spine.server.talking("alice")
    assert (await spine.call("bob", LONDON)).final_status == 403
    assert await newest_reason(spine) == ("too_many_calls", "S7")
    assert (await alices).final_status == 200
    await spine.server.idle()
    assert (await spine.call("bob", LONDON, hang_up_after_s=0.5)).final_status == 200

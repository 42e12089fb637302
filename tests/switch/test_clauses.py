"""The voice clauses of the published policies on a real switch: what they let pass, and what they stop or charge.

All tests share one switch; each has an account of its own on a published policy, or on a copy of it in which one
number is too small to wait for (`testbed.world.shrunk`). Charges are asserted to the exact decimal.
"""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from testbed import world
from testbed.asterisk import Switch
from testbed.configuration import Line
from testbed.installation import Installation, TestbedError
from testbed.server import PROJECT, Server
from testbed.sipp import CallOutcome, Carrier
from tests.switch.conftest import Spine

pytestmark = pytest.mark.asyncio(loop_scope="module")

LONDON, BERLIN, MOBILE = "02079460100", "00493012345678", "07400123456"
# On the rate card: 0.60 EUR a minute by the second, 0.05 EUR to connect.
MADRID = "0034911234567"
TOKYO = "0081312345678"
PREMIUM, NON_GEOGRAPHIC, SHARED_COST = "09098790000", "03001234567", "08431234567"
VOICEMAIL, COLLEAGUE = "*97", "101"


def _zone_of_noon() -> str:
    """A zone in which it is about noon, so that no test runs across a midnight."""
    east_h = 12 - time.gmtime().tm_hour
    # The names of these zones count hours to the west (tzdata, `etcetera`).
    return f"Etc/GMT{-east_h:+d}" if east_h else "UTC"


LINES = tuple(Line(f"phone{n}", accountcode=f"phone{n}", context="phones") for n in range(1, 41))

# A reverse-charge call to a number of ours: the line that is called pays.
COLLECT = "*67"
COLLECT_DIALPLAN = f"""
exten => _{COLLECT}X!,1,Set(FAIRDIAL_LINE=${{DB(did/${{EXTEN:3}})}})
 same => n,Gosub(fairdial,s,1(collect,${{EXTEN:3}}))
 same => n,GotoIf($["${{FAIRDIAL_RESULT}}" = "ALLOW"]?dial)
 same => n,Hangup(${{FAIRDIAL_CAUSE}})
 same => n(dial),Dial(PJSIP/${{FAIRDIAL_LINE}},30,${{FAIRDIAL_DIAL}})
 same => n,Hangup(${{HANGUPCAUSE}})
"""


@dataclass(frozen=True)
class Customer:
    """An account with its lines on the shared switch."""

    spine: Spine
    account: str
    lines: tuple[str, ...]

    async def dial(
        self, number: str, *, hang_up_after_s: float | None = None, line: int = 0, caller: str | None = None
    ) -> CallOutcome:
        """A call from a line of the account, or from `caller`."""
        return await self.spine.call(
            caller or self.lines[line], number, hang_up_after_s=hang_up_after_s, timeout_s=15
        )

    async def newest(self, line: int = 0) -> dict[str, Any]:
        """The newest decision about a dial that a line pays."""
        rows = await self.spine.server.ask("decisions", account=self.account)
        found: dict[str, Any] = next(row for row in rows if row["line_id"] == self.lines[line])
        return found

    async def told(self, line: int = 0) -> tuple[str, str, str]:
        """Decision, reason and clause of the newest decision."""
        row = await self.newest(line)
        return row["decision"], row["reason"], row["clause_id"]

    async def sheet(self) -> dict[str, Any]:
        """The account once no call is up."""
        await self.spine.server.idle()
        found: dict[str, Any] = await self.spine.server.ask("usage", account=self.account)
        return found

    async def counted(self) -> dict[str, tuple[int, int]]:
        """Seconds used and past the limit by allowance, over all windows; what is not used is left out."""
        found: dict[str, tuple[int, int]] = {}
        for entry in (await self.sheet())["usage"]:
            used, over = found.get(entry["allowance"], (0, 0))
            found[entry["allowance"]] = (used + entry["used_units"], over + entry["over_units"])
        return {name: units for name, units in found.items() if any(units)}

    async def charges(self) -> list[tuple[int, str, str, str]]:
        """Seconds, amount, currency and clause of each charge, the oldest first."""
        rows = sorted((await self.sheet())["charges"], key=lambda row: row["at_ms"])
        return [(row["charged_units"], row["amount"], row["currency"], row["clause"]["id"]) for row in rows]

    async def balance(self) -> str:
        """The credit; nothing of it may be reserved."""
        credit = (await self.sheet())["credit"]
        assert credit["reserved"] == "0"
        return str(credit["balance"])


@dataclass(frozen=True)
class Exchange:
    """The shared switch; accounts are opened on it on lines that no other has."""

    spine: Spine
    free: Iterator[str]

    async def customer(
        self,
        policy: str,
        *,
        lines: int = 1,
        countries: tuple[str, ...] = ("GB", "DE"),
        credit: str | None = None,
        until_ms: int | None = None,
    ) -> Customer:
        """An account with lines, countries and credit in EUR."""
        names = tuple(itertools.islice(self.free, lines))
        account = f"account-of-{names[0]}"
        ask = self.spine.server.ask
        await ask(
            "account_add",
            account=account,
            policy=policy,
            zone=_zone_of_noon(),
            countries=countries,
            until_ms=until_ms,
        )
        for name in names:
            await ask("line_add", line=name, account=account)
        if credit is not None:
            await ask("credit_add", account=account, amount=credit, currency="EUR", reference=account)
        return Customer(self.spine, account, names)

    async def number_of(self, line: str, number: str) -> str:
        """Let `number` ring at `line`; the number as the carrier dials it."""
        await self.spine.switch.cli(f"database put did {number} {line}")
        return number


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def exchange(
    installation: Installation, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Exchange]:
    extensions, files = world.plan()
    policies = world.policies() | {
        "kryptotel-short": world.shrunk(
            "kryptotel",
            "kryptotel-short",
            {"outbound = 14400": "outbound = 3", "collect = 3600": "collect = 3"},
        ),
        "acceptable-use-day": world.shrunk(
            "acceptable-use", "acceptable-use-day", {"limit_s = 36000": "limit_s = 4"}
        ),
    }
    async with (
        Switch.start(installation, f"{extensions}{COLLECT_DIALPLAN}", files=files, lines=LINES) as switch,
        Carrier.start(switch) as carrier,
        Server.start(switch, tmp_path_factory.mktemp("clauses"), policies=policies) as server,
    ):
        rates = world.RATES.read_text()
        await server.ask("rates_load", card=world.CARD, currency=world.CURRENCY, text=rates)
        yield Exchange(Spine(switch, carrier, server), iter([line.name for line in LINES]))
        assert await switch.no_channels() == [], "the tests left channels up"
        await server.idle()


async def test_a_copy_of_a_policy_differs_from_it_in_that_number_alone() -> None:
    published = (PROJECT / "policies" / "redconnect.toml").read_text().splitlines()
    copy = world.policies()["redconnect-small"].splitlines()
    differing = [pair for pair in zip(published, copy, strict=True) if pair[0] != pair[1]]
    assert differing == [
        ('name = "redconnect"', 'name = "redconnect-small"'),
        ("limit_s = 144000", "limit_s = 5"),
    ]
    for text in ("limit_s = 7", "clause"):
        with pytest.raises(TestbedError, match="not once"):
            world.shrunk("redconnect", "redconnect-small", {text: "limit_s = 5"})


# --- kryptotel ---------------------------------------------------------------------------------------


@pytest.mark.clause("K1", "allowed")
@pytest.mark.clause("K4", "free")
async def test_calls_to_the_countries_bought_are_flat(exchange: Exchange) -> None:
    customer = await exchange.customer("kryptotel", credit="1")
    calls = (customer.dial(number, hang_up_after_s=1) for number in (LONDON, MOBILE, BERLIN))
    assert [outcome.ended_by for outcome in await asyncio.gather(*calls)] == ["caller"] * 3
    assert await customer.told() == ("allow", "covered", "K1")
    assert await customer.counted() == {"voice": (3, 0)}
    assert await customer.charges() == []
    assert await customer.balance() == "1"


@pytest.mark.clause("K1", "refused")
@pytest.mark.clause("K4", "refused")
async def test_other_countries_and_a_period_that_is_over_need_credit(exchange: Exchange) -> None:
    customer = await exchange.customer("kryptotel", countries=("GB",))
    for number in (BERLIN, MADRID):
        assert (await customer.dial(number)).final_status == 403
    assert (await customer.dial(LONDON, hang_up_after_s=0.5)).final_status == 200
    over = await exchange.customer("kryptotel", until_ms=int(time.time() * 1000))
    assert (await over.dial(LONDON)).final_status == 403
    assert await over.told() == ("refuse", "credit_too_low", "K4")
    await exchange.spine.server.ask(
        "credit_add", account=over.account, amount="1", currency="EUR", reference="payment"
    )
    assert (await over.dial(LONDON, hang_up_after_s=1)).final_status == 200
    # London is 0.06 EUR a minute without a fee.
    assert await over.charges() == [(1, "0.001", "EUR", "K4")]


@pytest.mark.clause("K2", "refused")
async def test_special_numbers_are_refused_whatever_the_credit(exchange: Exchange) -> None:
    customer = await exchange.customer("kryptotel", credit="100")
    before = len(exchange.spine.carrier.calls())
    for number in (PREMIUM, NON_GEOGRAPHIC, SHARED_COST):
        assert (await customer.dial(number)).final_status == 403
        assert await customer.told() == ("refuse", "class_not_covered", "K2")
    assert len(exchange.spine.carrier.calls()) == before
    assert await customer.balance() == "100"


@pytest.mark.clause("K2", "allowed")
async def test_normal_numbers_are_not_special(exchange: Exchange) -> None:
    customer = await exchange.customer("kryptotel")
    for number in (LONDON, MOBILE):
        assert (await customer.dial(number, hang_up_after_s=0.5)).final_status == 200


@pytest.mark.clause("K3", "cut")
async def test_the_longest_call_is_cut_on_both_legs_and_may_be_dialled_again(exchange: Exchange) -> None:
    customer = await exchange.customer("kryptotel-short")
    for number in ("02079460131", "02079460132"):
        outcome = await customer.dial(number)
        assert outcome.ended_by == "far_end"
        assert 2.9 <= outcome.talk_s <= 4
        far = await exchange.spine.carrier.call_when(f"+44{number[1:]}", ended=True, timeout_s=5)
        assert far.ended_by == "switch"
    assert await customer.counted() == {"voice": (6, 0)}


@pytest.mark.clause("K3", "allowed")
async def test_a_call_shorter_than_the_longest_is_not_cut(exchange: Exchange) -> None:
    short, published = await exchange.customer("kryptotel-short"), await exchange.customer("kryptotel")
    outcomes = await asyncio.gather(
        short.dial(LONDON, hang_up_after_s=2), published.dial(LONDON, hang_up_after_s=4)
    )
    assert [outcome.ended_by for outcome in outcomes] == ["caller", "caller"]
    assert ((await short.newest())["limit_s"], (await published.newest())["limit_s"]) == (3, 14400)


@pytest.mark.clause("K3", "cut")
@pytest.mark.clause("K4", "charged")
@pytest.mark.clause("K4", "refused")
async def test_each_dial_on_credit_owes_the_connection_fee_anew(exchange: Exchange) -> None:
    customer = await exchange.customer("kryptotel-short", credit="0.20")
    for _ in range(2):
        outcome = await customer.dial(MADRID)
        assert outcome.ended_by == "far_end"
        assert 2.9 <= outcome.talk_s <= 4
        assert await customer.told() == ("allow", "by_credit", "K4")
    assert await customer.charges() == [(3, "0.08", "EUR", "K4")] * 2
    assert await customer.balance() == "0.04"
    assert (await customer.dial(MADRID)).final_status == 403
    assert await customer.told() == ("refuse", "credit_too_low", "K4")
    assert await customer.balance() == "0.04"
    assert (await customer.dial(LONDON, hang_up_after_s=0.5)).final_status == 200


@pytest.mark.clause("K4", "cut")
async def test_a_call_is_cut_when_its_credit_is_used_up(exchange: Exchange) -> None:
    customer = await exchange.customer("kryptotel", credit="0.08")
    outcome = await customer.dial(MADRID)
    assert outcome.ended_by == "far_end"
    assert 2.9 <= outcome.talk_s <= 4
    assert await customer.charges() == [(3, "0.08", "EUR", "K4")]
    assert await customer.balance() == "0"


@pytest.mark.clause("K6", "cut")
async def test_a_reverse_charge_call_is_cut_at_its_own_limit(exchange: Exchange) -> None:
    called = await exchange.customer("kryptotel-short")
    caller = await exchange.customer("kryptotel")
    number = await exchange.number_of(called.lines[0], "442079460161")
    outcome = await called.dial(COLLECT + number, caller=caller.lines[0])
    assert outcome.ended_by == "far_end"
    assert 2.9 <= outcome.talk_s <= 4
    # The one who is called pays, and the caller was never asked about.
    assert (await called.newest())["kind"] == "collect"
    assert await exchange.spine.server.ask("decisions", account=caller.account) == []


@pytest.mark.clause("K6", "allowed")
async def test_a_reverse_charge_call_may_last_sixty_minutes(exchange: Exchange) -> None:
    called, caller = await exchange.customer("kryptotel"), await exchange.customer("kryptotel")
    number = await exchange.number_of(called.lines[0], "442079460162")
    outcome = await called.dial(COLLECT + number, hang_up_after_s=2, caller=caller.lines[0])
    assert (outcome.final_status, outcome.ended_by) == (200, "caller")
    row = await called.newest()
    assert (row["decision"], row["limit_s"], row["granted_s"]) == ("allow", 3600, 3600)


# --- acceptable-use ----------------------------------------------------------------------------------


@pytest.mark.clause("A8", "allowed")
@pytest.mark.clause("A8", "cut")
@pytest.mark.clause("A8", "refused")
async def test_the_total_of_a_day_ends_a_call_and_refuses_the_next(exchange: Exchange) -> None:
    customer = await exchange.customer("acceptable-use-day", lines=2)
    assert (await customer.dial(LONDON, hang_up_after_s=1)).ended_by == "caller"
    assert await customer.told() == ("allow", "within_allowance", "A8")
    await exchange.spine.server.idle()
    outcome = await customer.dial(LONDON)
    assert outcome.ended_by == "far_end"
    assert 2.9 <= outcome.talk_s <= 4
    await exchange.spine.server.idle()
    assert (await customer.dial(LONDON)).final_status == 403
    assert await customer.told() == ("refuse", "allowance_used_up", "A8")
    # Each line has its own total.
    assert (await customer.dial(LONDON, hang_up_after_s=0.5, line=1)).final_status == 200


@pytest.mark.clause("A8", "cut")
async def test_no_call_is_longer_than_the_longest(exchange: Exchange) -> None:
    customer = await exchange.customer("acceptable-use-small")
    outcome = await customer.dial(LONDON)
    assert outcome.ended_by == "far_end"
    assert 2.9 <= outcome.talk_s <= 4
    assert (await customer.dial(LONDON, hang_up_after_s=0.5)).ended_by == "caller"


# --- redconnect --------------------------------------------------------------------------------------


@pytest.mark.clause("R1", "allowed")
@pytest.mark.clause("R3", "free")
async def test_in_and_out_share_one_allowance_which_each_user_has(exchange: Exchange) -> None:
    customer = await exchange.customer("redconnect-small", lines=2)
    first, second = customer.lines
    number = await exchange.number_of(first, "442079460171")
    await customer.dial(number, hang_up_after_s=2, caller="carrier")
    assert await customer.told() == ("allow", "within_allowance", "R1")
    await asyncio.gather(
        customer.dial(TOKYO, hang_up_after_s=2), customer.dial(LONDON, hang_up_after_s=3, line=1)
    )
    assert await customer.counted() == {f"voice/{first}": (4, 0), f"voice/{second}": (3, 0)}
    assert await customer.charges() == []


@pytest.mark.clause("R1", "refused")
async def test_a_number_with_a_price_of_its_own_is_outside_the_plan(exchange: Exchange) -> None:
    customer = await exchange.customer("redconnect")
    assert (await customer.dial(PREMIUM)).final_status == 403
    assert await customer.told() == ("refuse", "class_not_covered", "R1")


@pytest.mark.clause("R1", "charged")
@pytest.mark.clause("R2", "free")
@pytest.mark.clause("R3", "charged")
async def test_past_the_limit_both_ways_are_charged_from_that_second_and_voicemail_is_not(
    exchange: Exchange,
) -> None:
    customer = await exchange.customer("redconnect-small")
    meter = f"voice/{customer.lines[0]}"
    assert (await customer.dial(VOICEMAIL, hang_up_after_s=1)).final_status == 200
    assert await customer.told() == ("allow", "not_counted", "R2")
    assert await customer.counted() == {}
    assert (await customer.dial(LONDON, hang_up_after_s=6)).ended_by == "caller"
    assert await customer.counted() == {meter: (5, 1)}
    # 0.04 USD for each begun minute of what lies past the limit.
    assert await customer.charges() == [(1, "0.04", "USD", "R3")]
    number = await exchange.number_of(customer.lines[0], "442079460172")
    await customer.dial(number, hang_up_after_s=2, caller="carrier")
    assert await customer.told() == ("allow", "past_allowance", "R3")
    assert await customer.counted() == {meter: (5, 3)}
    assert await customer.charges() == [(1, "0.04", "USD", "R3"), (2, "0.04", "USD", "R3")]
    assert (await customer.dial(VOICEMAIL, hang_up_after_s=1)).final_status == 200
    assert await customer.told() == ("allow", "not_counted", "R2")
    assert len(await customer.charges()) == 2


@pytest.mark.clause("R2", "refused")
async def test_what_is_neither_a_call_nor_voicemail_is_not_in_the_plan(exchange: Exchange) -> None:
    customer = await exchange.customer("redconnect")
    assert (await customer.dial(world.CALLBACK + LONDON)).final_status == 403
    assert await customer.told() == ("refuse", "kind_not_covered", "R2")


# --- voxdirect ---------------------------------------------------------------------------------------


@pytest.mark.clause("V1", "allowed")
@pytest.mark.clause("V2", "free")
async def test_all_lines_and_countries_share_the_plan(exchange: Exchange) -> None:
    customer = await exchange.customer("voxdirect-small", lines=2)
    await asyncio.gather(
        customer.dial(LONDON, hang_up_after_s=2), customer.dial(BERLIN, hang_up_after_s=3, line=1)
    )
    assert await customer.told() == ("allow", "within_allowance", "V1")
    assert await customer.counted() == {"voice": (5, 0)}
    assert await customer.charges() == []


@pytest.mark.clause("V1", "refused")
async def test_countries_outside_the_plan_are_refused(exchange: Exchange) -> None:
    customer = await exchange.customer("voxdirect", countries=("GB",))
    assert (await customer.dial(BERLIN)).final_status == 403
    assert await customer.told() == ("refuse", "country_not_covered", "V1")
    assert (await customer.dial(PREMIUM)).final_status == 403
    assert await customer.told() == ("refuse", "class_not_covered", "V1")


@pytest.mark.clause("V2", "charged")
async def test_past_the_plan_the_published_rate_applies(exchange: Exchange) -> None:
    customer = await exchange.customer("voxdirect-small", lines=2)
    assert (await customer.dial(LONDON, hang_up_after_s=7)).ended_by == "caller"
    assert await customer.charges() == [(1, "0.02", "USD", "V2")]
    assert (await customer.dial(BERLIN, hang_up_after_s=2, line=1)).ended_by == "caller"
    assert await customer.told(line=1) == ("allow", "past_allowance", "V2")
    assert await customer.counted() == {"voice": (6, 3)}
    assert await customer.charges() == [(1, "0.02", "USD", "V2"), (2, "0.02", "USD", "V2")]


@pytest.mark.clause("V6", "free")
@pytest.mark.clause("V6", "charged")
async def test_a_callback_counts_twice_inside_the_plan_and_past_it(exchange: Exchange) -> None:
    customer = await exchange.customer("voxdirect-small")
    assert (await customer.dial(world.CALLBACK + LONDON, hang_up_after_s=2)).final_status == 200
    assert await customer.told() == ("allow", "within_allowance", "V6")
    assert await customer.counted() == {"voice": (4, 0)}
    assert await customer.charges() == []
    # Of three seconds on two legs, one fits into the two that are left.
    assert (await customer.dial(world.CALLBACK + LONDON, hang_up_after_s=3)).final_status == 200
    assert await customer.counted() == {"voice": (6, 4)}
    assert await customer.charges() == [(4, "0.04", "USD", "V2")]


# --- spokephone --------------------------------------------------------------------------------------


@pytest.mark.clause("S1", "allowed")
@pytest.mark.clause("S1", "refused")
@pytest.mark.clause("S5", "free")
async def test_in_out_and_internal_have_a_meter_each_and_cost_nothing(exchange: Exchange) -> None:
    customer = await exchange.customer("spokephone", lines=2, countries=("GB",))
    first, second = customer.lines
    number = await exchange.number_of(first, "442079460181")
    await exchange.spine.switch.cli(f"database put extension {COLLEAGUE} {second}")
    await asyncio.gather(
        customer.dial(LONDON, hang_up_after_s=3),
        customer.dial(number, hang_up_after_s=2, caller="carrier"),
        customer.dial(COLLEAGUE, hang_up_after_s=1),
    )
    assert await customer.told() == ("allow", "covered", "S1")
    assert (await customer.dial(BERLIN)).final_status == 403
    assert await customer.told() == ("refuse", "country_not_covered", "S1")
    assert await customer.counted() == {
        f"outbound/{first}": (3, 0),
        f"inbound/{first}": (2, 0),
        f"internal/{first}": (1, 0),
    }
    assert await customer.charges() == []


@pytest.mark.clause("S5", "charged")
async def test_the_surcharge_is_on_every_minute_in_and_out_once_it_was_agreed(exchange: Exchange) -> None:
    customer = await exchange.customer("spokephone", lines=2)
    number = await exchange.number_of(customer.lines[0], "442079460182")
    await exchange.spine.switch.cli(f"database put extension {COLLEAGUE} {customer.lines[1]}")
    agreed = await exchange.spine.server.command(
        "agreement", "add", customer.account, "--consent", "surcharge", "--by", "the customer"
    )
    assert agreed.status == 0, agreed.error
    await asyncio.gather(
        customer.dial(number, hang_up_after_s=1, caller="carrier"),
        customer.dial(COLLEAGUE, hang_up_after_s=2),
        customer.dial(LONDON, hang_up_after_s=3),
    )
    # 0.01 USD a minute, by the second; rounded up to the millionth.
    assert await customer.charges() == [(1, "0.000167", "USD", "S5"), (3, "0.0005", "USD", "S5")]
    withdrawn = await exchange.spine.server.command(
        "agreement", "withdraw", customer.account, "--consent", "surcharge"
    )
    assert withdrawn.status == 0, withdrawn.error
    await customer.dial(LONDON, hang_up_after_s=1)
    assert len(await customer.charges()) == 2


@pytest.mark.clause("S8", "refused")
async def test_premium_numbers_are_refused(exchange: Exchange) -> None:
    customer = await exchange.customer("spokephone")
    for number in (PREMIUM, SHARED_COST):
        assert (await customer.dial(number)).final_status == 403
        assert await customer.told() == ("refuse", "class_not_covered", "S8")


@pytest.mark.clause("S8", "allowed")
async def test_numbers_without_a_price_of_their_own_are_allowed(exchange: Exchange) -> None:
    customer = await exchange.customer("spokephone")
    assert (await customer.dial(MOBILE, hang_up_after_s=0.5)).final_status == 200

"""Reverse charge on a real switch (K6): who is called is asked, accepts with a key, pays, and is cut in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from agi_app.ami import AmiLink
from testbed import sipp, world
from testbed.asterisk import Switch
from testbed.configuration import Line
from testbed.installation import Installation
from testbed.phone import Phone, scratch_directory
from testbed.ports import LOOPBACK, free_ports
from testbed.relay import Relay
from testbed.server import Server, dialplan
from testbed.sipp import CallOutcome, Carrier
from tests.switch.conftest import Spine

NUMBER = "442079460123"
OTHER_NUMBER = "442079460124"
CODE = f"*66{NUMBER}"
RING_S, KEY_WITHIN_S = 3, 0.3
CALLER_NUMBER = "+442079460777"

ANN, BOB, HIDDEN = "ann", "bob", "hidden"
BUSY_LINE, QUIET_LINE = f"busy{sipp.BUSY}", f"quiet{sipp.NEVER_ANSWERS}"

_REPLY_HEADERS = """[last_Via:]
      [last_From:]
      [last_To:];tag=[pid]-[call_number]
      [last_Call-ID:]"""
_REQUEST_HEADERS = """Via: SIP/2.0/UDP [local_ip]:[local_port];branch=[branch]
      From: <sip:ann@[local_ip]:[local_port]>;tag=[pid]-[call_number]
      To: [$from]
      Call-ID: [call_id]"""
_CLOCK = '<gettimeofday assign_to="seconds,micros"/>'
_OK_TO_BYE = """<send><![CDATA[
      SIP/2.0 200 OK
      [last_Via:]
      [last_From:]
      [last_To:]
      [last_Call-ID:]
      [last_CSeq:]
      Content-Length: 0

  ]]></send>"""


def _log(name: str) -> str:
    return f'{_CLOCK}<log message="{name} [call_id] [$seconds] [$micros] [$caller]"/>'


def pressing_phone(keys: Sequence[tuple[int, str]], hang_up_after_ms: int | None) -> str:
    """A SIPp scenario: a phone that answers at once, presses keys (SIP INFO) after so many ms each, and stays.

    hang_up_after_ms: after the last key; None: until the other side hangs up.
    """
    steps = "".join(
        f"""
  <recv request="BYE" timeout="{wait_ms}" ontimeout="key_{n}" next="bye"/>
  <label id="key_{n}"/>
  <nop><action>{_log("key")}</action></nop>
  <send retrans="500"><![CDATA[
      INFO [next_url] SIP/2.0
      {_REQUEST_HEADERS}
      CSeq: {n} INFO
      Max-Forwards: 70
      Content-Type: application/dtmf-relay
      Content-Length: [len]

      Signal={key}
      Duration=100

  ]]></send>
  <recv response="200"/>"""
        for n, (wait_ms, key) in enumerate(keys, start=1)
    )
    leaving = "" if hang_up_after_ms is None else f'timeout="{hang_up_after_ms}" ontimeout="hang_up"'
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<scenario name="pressing phone">
  <recv request="INVITE" rrs="true"><action>
    <ereg regexp=".+" search_in="hdr" header="From:" assign_to="from"/>
    <ereg regexp="sip:[^@;>]*" search_in="hdr" header="From:" assign_to="caller"/>
    {_log("invited")}
  </action></recv>
  <nop><action>{_log("answered")}</action></nop>
  <send retrans="500"><![CDATA[
      SIP/2.0 200 OK
      {_REPLY_HEADERS}
      [last_CSeq:]
      Contact: <sip:[local_ip]:[local_port]>
      Content-Type: application/sdp
      Content-Length: [len]

      v=0
      o=phone 1 1 IN IP[local_ip_type] [local_ip]
      s=-
      c=IN IP[media_ip_type] [media_ip]
      t=0 0
      m=audio [media_port] RTP/AVP 0
      a=rtpmap:0 PCMU/8000
  ]]></send>
  <recv request="ACK"/>{steps}
  <recv request="BYE" {leaving}/>
  <label id="bye"/>
  <nop><action>{_log("bye_seen")}</action></nop>
  {_OK_TO_BYE}
  <nop next="end"><action/></nop>
  <label id="hang_up"/>
  <nop><action>{_log("bye_sent")}</action></nop>
  <send retrans="500"><![CDATA[
      BYE [next_url] SIP/2.0
      {_REQUEST_HEADERS}
      CSeq: 100 BYE
      Max-Forwards: 70
      Content-Length: 0

  ]]></send>
  <recv response="200"/>
  <label id="end"/>
  <nop><action/></nop>
</scenario>
"""


@dataclass(frozen=True)
class Exchange:
    """The whole call path, with ann's phone on a port of its own, and ARI over a relay."""

    spine: Spine
    phone_port: int
    relay: Relay

    async def provision(self, policy: str, line: str = ANN) -> None:
        """ann's account, and the number that rings there."""
        ask = self.spine.server.ask
        await ask("account_add", account="acme", policy=policy, zone="Europe/London", countries=["GB"])
        await ask("line_add", line=line, account="acme")
        await self.spine.switch.cli(f"database put did {NUMBER} {line}")

    @asynccontextmanager
    async def phone(
        self, *keys: tuple[int, str], hang_up_after_ms: int | None = None
    ) -> AsyncIterator[Phone]:
        """ann's phone for the length of the block."""
        async with scratch_directory() as directory:
            scenario = pressing_phone(keys, hang_up_after_ms)
            phone = Phone(self.spine.switch, directory, scenario, port=self.phone_port)
            try:
                await phone.listen()
                yield phone
                assert await self.spine.switch.no_channels() == []
            finally:
                await phone.end()

    async def call(
        self, *, caller: str = BOB, hang_up_after_s: float | None = None, give_up_after_s: float | None = None
    ) -> CallOutcome:
        """A reverse-charge call to ann."""
        return await self.spine.call(
            caller, CODE, hang_up_after_s=hang_up_after_s, give_up_after_s=give_up_after_s, timeout_s=15
        )

    async def cost(self) -> tuple[int, int]:
        """Seconds used and charges made, once nothing is live; nothing may be reserved."""
        await self.spine.server.idle()
        sheet = await self.spine.server.ask("usage", account="acme")
        assert all(entry["reserved_units"] == 0 for entry in sheet["usage"])
        return sum(entry["used_units"] for entry in sheet["usage"]), len(sheet["charges"])


@asynccontextmanager
async def running_exchange(
    installation: Installation, directory: Path, settings: Mapping[str, object]
) -> AsyncIterator[Exchange]:
    """Nothing may be left over at its end: no channel, bridge, grant or followed call."""
    extensions, files = dialplan()
    [phone_port] = free_ports(1)
    lines = (
        Line(
            ANN, context="phones", contact=f"sip:ann@{LOOPBACK}:{phone_port}", options={"dtmf_mode": "info"}
        ),
        Line(BOB, context="phones", caller_id=CALLER_NUMBER),
        *(Line(name, context="phones") for name in (HIDDEN, BUSY_LINE, QUIET_LINE)),
    )
    defaults = {"calls.ring_s": RING_S, "calls.collect_key_within_s": KEY_WITHIN_S}
    async with (
        Switch.start(installation, extensions, files=files, lines=lines) as switch,
        Carrier.start(switch) as carrier,
        Relay.to(switch.settings.ports.http) as relay,
        Server.start(switch, directory, {**defaults, "ari.url": relay.url, **settings}) as server,
    ):
        yield Exchange(Spine(switch, carrier, server), phone_port, relay)
        assert await switch.no_channels() == [], "the test left channels up"
        await server.idle()
        assert len((await switch.cli("bridge show all")).strip().splitlines()) <= 1


@pytest_asyncio.fixture
async def exchange(installation: Installation, tmp_path: Path) -> AsyncIterator[Exchange]:
    """An exchange whose prompt is short."""
    async with running_exchange(installation, tmp_path, {"calls.collect_prompt": ["beep"]}) as exchange:
        yield exchange


def at(phone: Phone, name: str) -> float:
    """When a phone first did that."""
    return next(event.at for event in phone.events() if event.name == name)


async def seen(phone: Phone, name: str) -> float:
    """Wait until it did."""
    async with asyncio.timeout(10):
        while not any(event.name == name for event in phone.events()):
            await asyncio.sleep(0.01)
    return at(phone, name)


@pytest.mark.clause("K6", "allowed")
async def test_who_is_called_accepts_with_a_key_and_pays_from_then_on(
    installation: Installation, tmp_path: Path
) -> None:
    # The whole prompt as it is by default: the key cuts it short.
    async with running_exchange(installation, tmp_path, {}) as exchange:
        await exchange.provision("kryptotel")
        async with exchange.phone((1500, "1")) as phone:
            outcome = await exchange.call(hang_up_after_s=2)
            assert (outcome.final_status, outcome.ended_by, outcome.rang) == (200, "caller", True)
            # Answered when the key was pressed, not before, and at once.
            pressed_at = at(phone, "key")
            assert 0 <= (outcome.answered_at or 0) - pressed_at < 0.5
            assert 0 <= await seen(phone, "bye_seen") - outcome.ended_at < 0.5
            assert phone.events()[0].rest == f"sip:{CALLER_NUMBER}"
        assert await exchange.cost() == (0, 0)  # kryptotel counts what is dialled alone
        record = await exchange.spine.newest_decision()
        assert (record["kind"], record["line_id"], record["decision"]) == ("collect", ANN, "allow")
        assert record["limit_s"] == 3600
        grant = await exchange.spine.server.ask("grant", call=record["call_id"])
        assert (grant["used_s"], grant["estimated"]) == (2, False)
        assert "does not exist" not in exchange.spine.switch.log_path.read_text()


async def test_the_seconds_that_were_accepted_are_metered(exchange: Exchange) -> None:
    await exchange.provision("own")
    async with exchange.phone((600, "1"), hang_up_after_ms=2000):
        outcome = await exchange.call()
        assert (outcome.final_status, outcome.ended_by) == (200, "far_end")
    assert await exchange.cost() == (2, 0)


@pytest.mark.parametrize(
    ("keys", "hang_up_after_ms"),
    [([(200, "2")], None), ([(200, "5"), (700, "2")], None), ([], 300), ([], None)],
    ids=["refused", "another key, then refused", "hung up", "no key"],
)
async def test_a_call_that_is_not_accepted_costs_nothing(
    exchange: Exchange, keys: list[tuple[int, str]], hang_up_after_ms: int | None
) -> None:
    await exchange.provision("own")
    async with exchange.phone(*keys, hang_up_after_ms=hang_up_after_ms) as phone:
        outcome = await exchange.call()
        assert (outcome.final_status, outcome.answered) == (403, False)
        over = "bye_sent" if hang_up_after_ms else "bye_seen"
        # The caller hears why, while the callee is rid of it.
        assert outcome.ended_at - await seen(phone, over) > 1
    assert await exchange.cost() == (0, 0)


async def test_a_wrong_key_asks_again(exchange: Exchange) -> None:
    await exchange.provision("own")
    async with exchange.phone((200, "9"), (300, "1")):
        assert (await exchange.call(hang_up_after_s=1)).final_status == 200
    assert await exchange.cost() == (1, 0)


async def test_a_sound_that_is_missing_holds_nobody_up(installation: Installation, tmp_path: Path) -> None:
    silent = {"calls.collect_prompt": ["no-such-sound", "nor-this-one"], "calls.collect_key_within_s": 1}
    async with running_exchange(installation, tmp_path, silent) as exchange:
        await exchange.provision("own")
        async with exchange.phone() as phone:
            assert (await exchange.call()).final_status == 403
            # Three turns of a second for a key each; the prompts took no time.
            assert await seen(phone, "bye_seen") - at(phone, "answered") == pytest.approx(3, abs=0.6)
        async with exchange.phone((200, "1")):
            assert (await exchange.call(hang_up_after_s=0.5)).final_status == 200


async def test_the_policy_of_the_payer_decides_before_anybody_rings(exchange: Exchange) -> None:
    await exchange.provision("quota")
    async with exchange.phone((200, "1")) as phone:
        outcome = await exchange.call()
        assert (outcome.final_status, outcome.answered) == (403, False)
        # As early media: the stock sound that goes with the reason.
        assert outcome.setup_s > 0.5
        assert phone.events() == []
        assert (await exchange.spine.newest_decision())["reason"] == "kind_not_covered"
        await exchange.spine.server.ask("subscribe", account="acme", policy="own", countries=["GB"])
        assert (await exchange.call(hang_up_after_s=0.5)).final_status == 200


async def test_a_number_that_is_not_ours_is_not_found(exchange: Exchange) -> None:
    assert (await exchange.call()).final_status == 404


@pytest.mark.parametrize(("line", "status"), [(BUSY_LINE, 486), (QUIET_LINE, 480)])
async def test_a_line_that_does_not_answer_costs_nothing(exchange: Exchange, line: str, status: int) -> None:
    await exchange.provision("own", line)
    assert (await exchange.call()).final_status == status
    assert await exchange.cost() == (0, 0)


async def test_a_caller_who_gives_up_ends_the_ringing(exchange: Exchange) -> None:
    await exchange.provision("own", QUIET_LINE)
    outcome = await exchange.call(give_up_after_s=0.5)
    assert outcome.final_status == 487
    leg = await exchange.spine.carrier.call_when(QUIET_LINE, ended=True, timeout_s=5)
    assert (leg.ended_at or 0) - outcome.ended_at < 0.5
    assert await exchange.cost() == (0, 0)


async def test_a_caller_who_gives_up_ends_the_question(installation: Installation, tmp_path: Path) -> None:
    async with running_exchange(installation, tmp_path, {}) as exchange:
        await exchange.provision("own")
        async with exchange.phone() as phone:
            outcome = await exchange.call(caller=HIDDEN, give_up_after_s=1)
            assert outcome.final_status == 487
            assert await seen(phone, "bye_seen") - outcome.ended_at < 0.5
        assert await exchange.cost() == (0, 0)


async def test_a_call_on_credit_is_charged_once_it_is_accepted_and_not_before(
    installation: Installation, tmp_path: Path
) -> None:
    async with running_exchange(installation, tmp_path, {}) as exchange:
        ask = exchange.spine.server.ask
        # A plan that covers another country alone: credit pays.
        await ask("account_add", account="acme", policy="kryptotel", countries=["DE"])
        await ask("line_add", line=ANN, account="acme")
        await exchange.spine.switch.cli(f"database put did {NUMBER} {ANN}")
        rates = world.RATES.read_text()
        await ask("rates_load", card=world.CARD, currency=world.CURRENCY, text=rates)
        await ask("credit_add", account="acme", amount="5", currency="EUR", reference="payment")
        async with exchange.phone((300, "2")):
            assert (await exchange.call()).final_status == 403
        assert await exchange.cost() == (0, 0)
        async with exchange.phone((8000, "1")):
            assert (await exchange.call(hang_up_after_s=1)).final_status == 200
        await exchange.cost()
        sheet = await ask("usage", account="acme")
        [charge] = sheet["charges"]
        # 0.06 EUR a minute by the second; the eight seconds of the prompt cost nothing.
        assert (charge["charged_units"], charge["amount"], charge["mode"]) == (1, "0.001", "credit")
        assert (sheet["credit"]["balance"], sheet["credit"]["reserved"]) == ("4.999", "0")
        # What it said of the price is there, letter by letter.
        assert "does not exist" not in exchange.spine.switch.log_path.read_text()


@pytest.mark.clause("K6", "cut")
async def test_both_legs_are_cut_at_the_longest_of_the_kind(exchange: Exchange) -> None:
    await exchange.spine.publish_variant("kryptotel", "hasty", ("collect = 3600", "collect = 3"))
    await exchange.provision("hasty")
    async with exchange.phone((300, "1")) as phone:
        outcome = await exchange.call()
        assert outcome.ended_by == "far_end"
        assert 2.7 <= outcome.talk_s <= 4
        assert 2.7 <= await seen(phone, "bye_seen") - at(phone, "key") <= 4


async def test_both_legs_are_cut_though_fairdial_was_killed(exchange: Exchange) -> None:
    await exchange.provision("own")
    server = exchange.spine.server
    async with exchange.phone((300, "1")) as phone:
        call = asyncio.create_task(exchange.call())
        await server.talking(ANN)
        await server.kill()
        outcome = await call
        assert (outcome.ended_by, 2.7 <= outcome.talk_s <= 4) == ("far_end", True)
        assert 2.7 <= await seen(phone, "bye_seen") - at(phone, "key") <= 4
        await server.launch()
    assert await exchange.cost() == (3, 0)


@pytest.mark.parametrize("stage", ["rings", "is asked"])
async def test_every_leg_has_a_lease_and_a_restart_ends_what_was_being_set_up(
    exchange: Exchange, stage: str
) -> None:
    await exchange.provision("own", QUIET_LINE if stage == "rings" else ANN)
    server, switch = exchange.spine.server, exchange.spine.switch
    async with exchange.phone() as phone:
        call = asyncio.create_task(exchange.call())
        if stage == "rings":
            await exchange.spine.carrier.call_when(QUIET_LINE, timeout_s=5)
        else:
            await seen(phone, "answered")
        await server.kill()
        names = await switch.channels()
        assert len(names) == 2
        for left_s in await leases(switch, names):
            # Ring, three prompts with time for a key, and the grant.
            assert 0 < left_s <= RING_S + 2 + 3 * 16 + 3
        await server.launch()
        launched_at = time.time()
        outcome = await call
        assert (outcome.final_status, outcome.ended_at - launched_at < 1) == (503, True)
    assert await exchange.cost() == (0, 0)


async def test_what_was_being_set_up_ends_by_its_lease_though_only_the_link_was_lost(
    exchange: Exchange,
) -> None:
    """One call rings and another is asked about when FairDial, which lives, loses ARI; nobody hangs up."""
    server, switch = exchange.spine.server, exchange.spine.switch
    await exchange.provision("own")
    await server.ask("line_add", line=QUIET_LINE, account="acme")
    await switch.cli(f"database put did {OTHER_NUMBER} {QUIET_LINE}")
    # Ring, three prompts with time for a key, and the grant.
    longest_s = RING_S + 2 + 3 * (15 + KEY_WITHIN_S) + 3
    async with exchange.phone() as phone:
        calls = [
            asyncio.create_task(exchange.spine.call(caller, f"*66{number}", timeout_s=longest_s + 20))
            for caller, number in ((BOB, NUMBER), (HIDDEN, OTHER_NUMBER))
        ]
        await seen(phone, "answered")
        await exchange.spine.carrier.call_when(QUIET_LINE, timeout_s=5)
        exchange.relay.cut()
        cut_at = time.time()
        # What plays when the link breaks is waited for in vain; the grants go back long before the legs end.
        await server.idle(timeout_s=15 + 3 * KEY_WITHIN_S + 5)
        assert await exchange.cost() == (0, 0)
        assert len(await switch.channels()) >= 2
        outcomes = await asyncio.gather(*calls)
        assert [outcome.final_status for outcome in outcomes] == [503, 503]
        assert await switch.no_channels() == []
        assert at(phone, "bye_seen") - cut_at <= longest_s + 1
        assert all(outcome.ended_at - cut_at <= longest_s + 1 for outcome in outcomes)
        assert not (await server.ask("status"))["ari"]
    exchange.relay.mend()
    await server.ready()
    async with exchange.phone((200, "1")):
        assert (await exchange.call(hang_up_after_s=1)).final_status == 200
    assert await exchange.cost() == (1, 0)


async def test_a_restarted_fairdial_follows_the_call_to_its_real_end(exchange: Exchange) -> None:
    await exchange.provision("kryptotel")
    server = exchange.spine.server
    async with exchange.phone((300, "1")) as phone:
        call = asyncio.create_task(exchange.call(hang_up_after_s=4))
        call_id = (await server.talking(ANN))["call"]
        await server.kill()
        await server.launch()
        assert (await server.talking(ANN))["call"] == call_id
        outcome = await call
        assert outcome.ended_by == "caller"
        assert 0 <= await seen(phone, "bye_seen") - outcome.ended_at < 0.5
    await exchange.cost()
    grant = await server.ask("grant", call=call_id)
    assert (grant["used_s"], grant["estimated"]) == (4, False)


STOP_AND_GO: dict[str, tuple[tuple[str, dict[str, Any]], tuple[str, dict[str, Any]]]] = {
    "suspended": (
        ("line_standing", {"line": ANN, "standing": "suspended"}),
        ("line_standing", {"line": ANN, "standing": "active"}),
    ),
    "restricted": (
        ("account_restrict", {"account": "acme", "services": ["collect"]}),
        ("account_restrict", {"account": "acme", "services": ["collect"], "lift": True}),
    ),
}


@pytest.mark.parametrize("how", STOP_AND_GO)
async def test_who_stops_the_payer_cuts_both_legs_at_once(exchange: Exchange, how: str) -> None:
    await exchange.provision("kryptotel")
    ask = exchange.spine.server.ask
    (stop, stopping), (go, going) = STOP_AND_GO[how]
    async with exchange.phone((300, "1")) as phone:
        call = asyncio.create_task(exchange.call())
        await exchange.spine.server.talking(ANN)
        await ask(stop, **stopping)
        told_at = time.time()
        outcome = await call
        assert (outcome.ended_by, outcome.ended_at - told_at < 1) == ("far_end", True)
        assert await seen(phone, "bye_seen") - told_at < 1
        assert (await exchange.call()).final_status == 403
        await ask(go, **going)
        assert (await exchange.call(hang_up_after_s=0.5)).final_status == 200


async def test_stopping_gives_the_question_up(exchange: Exchange) -> None:
    await exchange.provision("own")
    async with exchange.phone() as phone:
        call = asyncio.create_task(exchange.call())
        await seen(phone, "answered")
        assert await exchange.spine.server.stop() < 2
        assert (await call).final_status == 503
        await seen(phone, "bye_seen")
    await exchange.spine.server.launch()
    assert await exchange.cost() == (0, 0)


async def leases(switch: Switch, names: Sequence[str]) -> list[float]:
    """What is left of TIMEOUT(absolute) of those channels."""
    link = AmiLink(switch.ami_host, switch.ami_port, switch.ami_user, switch.ami_secret)
    await link.start()
    try:
        await link.wait_connected(5)
        found = []
        for name in names:
            reply = await link.action("Getvar", {"Channel": name, "Variable": "TIMEOUT(absolute)"})
            found.append(float(reply["Value"]))
        return found
    finally:
        await link.stop()


async def test_without_fairdial_the_caller_gets_no_circuit(exchange: Exchange) -> None:
    await exchange.provision("own")
    await exchange.spine.server.kill()
    outcome = await exchange.call()
    assert (outcome.final_status, outcome.setup_s < 2) == (503, True)
    await exchange.spine.server.launch()

"""Records of a real Asterisk against the clocks of its phones: what `talk` says is true within a second.

Every shape of a call leaves records of its own; the channels' ids are those that a follower of the call knows.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from agi_app.ami import AmiLink
from ari_handlers import events
from ari_handlers.client import AriSettings, Client
from ari_handlers.queues import CallQueues
from ari_handlers.resources import Channel
from fairdial.cdr import Cdr, cdr_of_event
from fairdial.cdr_file import CdrFile
from fairdial.clock import Moment, SystemClock
from fairdial.witness import Shape, Talk, Witness, talk
from testbed import sipp
from testbed.asterisk import Switch
from testbed.configuration import Line
from testbed.installation import Installation
from testbed.ports import free_ports
from testbed.server import PROJECT
from testbed.sipp import CallOutcome, Carrier, CarrierCall, place_call, steered_call

DIALPLAN = """
[outbound]
include => parkedcalls
exten => _0X.,1,Set(__TRANSFER_CONTEXT=outbound)
 same => n,Dial(PJSIP/${EXTEN}@carrier)
 same => n,Hangup(${HANGUPCAUSE})
; A fork: one phone never answers, the other after two seconds.
exten => 201,1,Dial(PJSIP/087@carrier&PJSIP/082@carrier)
; The switch itself cuts this one.
exten => 202,1,Set(TIMEOUT(absolute)=2)
 same => n,Dial(PJSIP/0202@carrier)
; Answered before it is dialled, and gone on with after.
exten => 203,1,Answer()
 same => n,Wait(2)
 same => n,Dial(PJSIP/0386@carrier)
 same => n,Wait(1)
 same => n,Hangup()
exten => 204,1,Dial(PJSIP/0492@carrier,,g)
 same => n,Wait(2)
 same => n,Hangup()
exten => 205,1,Answer()
 same => n,Wait(2)
 same => n,Dial(PJSIP/0582@carrier)
exten => _3X!,1,Dial(Local/0${EXTEN:1}@route/n)
exten => _4X!,1,Dial(Local/0${EXTEN:1}@route)
exten => 206,1,Set(__PICKUPMARK=ringing)
 same => n,Dial(PJSIP/0687@carrier)
exten => 207,1,Pickup(ringing@PICKUPMARK)
; Refused without a dial.
exten => 208,1,Set(CDR(userfield)=allowance_exhausted)
 same => n,Hangup(17)
exten => 600,1,Answer()
 same => n,ConfBridge(room)
exten => 700,1,Park(,s)
[route]
exten => _0X.,1,Dial(PJSIP/${EXTEN}@carrier)
[inbound]
exten => _X.,1,Dial(PJSIP/alice)
"""
PARKING = "[general]\n[default]\nparkext => 700\nparkpos => 701-720\ncontext => parkedcalls\n"
LINES = tuple(Line(name) for name in ("ann", "ben", "cat", "dan", "eve", "fay"))

SECOND_S = 1.0
SLACK_S = 0.3
"""What the phones see is a message away from what Asterisk did, and the machine may be busy."""


MANAGER = """[general]
enabled=yes
bindaddr=127.0.0.1
port={port}
[witness]
secret=s3cret
read={events}
write=reporting
"""


class Channels:
    """The channels that a switch made, in order: id, name and the id of the call's first channel."""

    def __init__(self) -> None:
        self._made: list[tuple[str, str, str]] = []

    def __call__(self, event: Mapping[str, str]) -> None:
        self._made.append((event["Uniqueid"], event["Channel"], event["Linkedid"]))

    def of(self, line: str) -> list[str]:
        """Ids of the channels of a line."""
        return [one for one, name, _ in self._made if name.startswith(f"PJSIP/{line}-")]

    def legs(self, channel_id: str, line: str = "carrier") -> list[str]:
        """Ids of the channels that a call made later."""
        return [one for one in self.of(line) if (one, channel_id) in {(o, link) for o, _, link in self._made}]


@dataclass
class Seen:
    """A switch with its phones, and the witness that reads its file."""

    switch: Switch
    carrier: Carrier
    file: CdrFile
    channels: Channels
    witness: Witness = field(default_factory=Witness)
    records: list[Cdr] = field(default_factory=list)

    async def read(self) -> None:
        """Note what was written by now."""
        for cdr in await self.file.read_new():
            self.records.append(cdr)
            self.witness.note(cdr)

    async def written(self, count: int) -> None:
        """Wait until all calls are over and so many records were written in all; more would be a failure."""
        assert await self.switch.no_channels(10) == []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(3):
                while len(self.records) < count:
                    await self.read()
                    await asyncio.sleep(0.02)
        # Asterisk writes one after the other.
        await self.read()
        assert len(self.records) == count, self.records

    def talk(
        self,
        line: str,
        from_at: float,
        *,
        shape: Shape = Shape.DIALLED,
        until_at: float | None = None,
        answered_at: float | None = None,
    ) -> Talk | None:
        """What the witness says of a line's newest call. Times in seconds, as phones give them."""
        channel_id = self.channels.of(line)[-1]
        return self.talk_of(
            channel_id,
            self.channels.legs(channel_id),
            from_at,
            shape=shape,
            until_at=until_at,
            answered_at=answered_at,
        )

    def talk_of(
        self,
        channel_id: str,
        leg_ids: Sequence[str],
        from_at: float,
        *,
        shape: Shape = Shape.DIALLED,
        until_at: float | None = None,
        answered_at: float | None = None,
    ) -> Talk | None:
        return talk(
            self.witness.of(channel_id, *leg_ids),
            channel_id=channel_id,
            leg_ids=leg_ids,
            shape=shape,
            from_ms=round(from_at * 1000),
            until_ms=None if until_at is None else round(until_at * 1000),
            answered_ms=None if answered_at is None else round(answered_at * 1000),
        )

    async def call(self, line: str, number: str, hang_up_after_s: float | None = None) -> CallOutcome:
        return await place_call(
            self.switch, line=line, number=number, hang_up_after_s=hang_up_after_s, timeout_s=12
        )

    async def ended(self, number: str) -> CarrierCall:
        return await self.carrier.call_when(number, answered=True, ended=True, timeout_s=10)


@asynccontextmanager
async def watched(installation: Installation, **files: str) -> AsyncIterator[Seen]:
    """files: further configuration of the switch, such as `cdr`: the text of cdr.conf."""
    [port] = free_ports(1)
    manager = MANAGER.format(port=port, events="call")
    texts = {"res_parking.conf": PARKING, "manager.conf": manager}
    channels = Channels()
    async with (
        Switch.start(
            installation,
            DIALPLAN,
            lines=LINES,
            files={**texts, **{f"{name}.conf": text for name, text in files.items()}},
        ) as switch,
        Carrier.start(switch) as carrier,
    ):
        file = CdrFile(switch.cdr_path, UTC)
        link = AmiLink(
            switch.ami_host, port, "witness", "s3cret", on_event=channels, event_filter=("Newchannel",)
        )
        await link.start()
        try:
            await link.wait_connected(5)
            yield Seen(switch, carrier, file, channels)
        finally:
            await link.stop()
            await file.close()


@pytest_asyncio.fixture
async def seen(installation: Installation) -> AsyncIterator[Seen]:
    async with watched(installation) as seen:
        yield seen


def assert_true(found: Talk | None, answered_at: float | None, ended_at: float | None) -> None:
    """It says what a phone saw: both ends within half a second, and so the talk within one."""
    assert found is not None
    assert answered_at is not None
    assert ended_at is not None
    assert found.answered
    assert found.start_exact
    assert found.end_exact
    assert abs(found.start_ms / 1000 - answered_at) <= SECOND_S / 2 + SLACK_S
    assert abs(found.end_ms / 1000 - ended_at) <= SECOND_S / 2 + SLACK_S
    assert abs(found.talked_ms / 1000 - (ended_at - answered_at)) <= SECOND_S + SLACK_S


def assert_exact(found: Talk | None, answered_at: float, ended_at: float) -> None:
    """Where the ledger knew the answer, half a second is all that the record can have wrong."""
    assert_true(found, answered_at, ended_at)
    assert found is not None
    assert abs(found.talked_ms / 1000 - (ended_at - answered_at)) <= SECOND_S


async def test_answered_calls_whoever_ends_them(seen: Seen) -> None:
    """Hung up by either side, rung for two seconds before, cut by the switch, and over Local channels."""
    calls = {
        "ann": ("0100", 1.4),
        "ben": ("0182", 1.2),
        "cat": ("0192", None),
        "dan": ("202", None),
        "eve": ("3100", 1.3),
        "fay": ("4100", 1.7),
    }
    outcomes = await asyncio.gather(*(seen.call(line, *call) for line, call in calls.items()))
    # Each has one record, those over Local channels one more for the Local channel's own dial.
    await seen.written(8)
    for line, outcome in zip(calls, outcomes, strict=True):
        assert outcome.answered_at is not None
        assert_true(seen.talk(line, outcome.invited_at), outcome.answered_at, outcome.ended_at)
        known = seen.talk(line, outcome.invited_at, answered_at=outcome.answered_at)
        assert_exact(known, outcome.answered_at, outcome.ended_at)


async def test_calls_that_nobody_answered(seen: Seen) -> None:
    """Also where the caller was answered by the dialplan before, and heard more after."""
    busy, declined, failed, cancelled, answered_before = await asyncio.gather(
        seen.call("ann", "0186"),
        seen.call("ben", "0193"),
        seen.call("cat", "0195"),
        place_call(seen.switch, line="dan", number="0187", give_up_after_s=1),
        seen.call("eve", "203"),
    )
    # Who goes on in the dialplan, be it to `Hangup()`, has a second record; congestion is logged as cdr.conf says.
    await seen.written(9)
    outcomes = {"ann": busy, "ben": declined, "cat": failed, "dan": cancelled, "eve": answered_before}
    assert [outcome.answered for outcome in outcomes.values()] == [False] * 4 + [True]
    for line, outcome in outcomes.items():
        found = seen.talk(line, outcome.invited_at)
        assert found is not None
        assert (found.answered, found.talked_ms) == (False, 0)


async def test_the_attempts_of_a_dial_and_what_came_after_it(seen: Seen) -> None:
    """A fork to two phones; a caller who hears more after the call; one who had heard something before."""
    forked, went_on, heard = await asyncio.gather(
        seen.call("ann", "201", 1.2), seen.call("ben", "204"), seen.call("cat", "205", 5.5)
    )
    await seen.written(2 + 2 + 1)
    assert_true(seen.talk("ann", forked.invited_at), forked.answered_at, forked.ended_at)

    called = await seen.ended("0492")
    assert went_on.talk_s > 3.5
    assert_true(seen.talk("ben", went_on.invited_at), called.answered_at, called.ended_at)

    called = await seen.ended("0582")
    assert called.answered_at is not None
    assert called.ended_at is not None
    # Asked when the dial began. The record's answer is that of the dialplan.
    estimate = seen.talk("cat", called.invited_at)
    assert estimate is not None
    assert (estimate.start_exact, estimate.end_exact) == (False, True)
    assert called.ended_at - called.answered_at < estimate.talked_ms / 1000 < heard.talk_s - 1
    known = seen.talk("cat", called.invited_at, answered_at=called.answered_at)
    assert_exact(known, called.answered_at, called.ended_at)


async def test_a_blind_transfer_by_the_caller(seen: Seen) -> None:
    """The called phone talks on with a third, in a dial of its own."""
    async with steered_call(seen.switch, line="ann", number="0111") as ann:
        await ann.event_when("ready")
        await asyncio.sleep(1.2)
        await ann.transfer_to("0192")
        outcome = await ann.outcome()
    first, second = await asyncio.gather(seen.ended("0111"), seen.ended("0192"))
    await seen.written(2)
    assert first.answered_at is not None
    channel_id = seen.channels.of("ann")[0]
    leg_id, second_leg_id = seen.channels.legs(channel_id)
    assert first.ended_at is not None
    assert outcome.ended_at < first.ended_at - 1
    assert_true(seen.talk_of(channel_id, [leg_id], outcome.invited_at), first.answered_at, first.ended_at)
    assert_true(seen.talk_of(leg_id, [second_leg_id], second.invited_at), second.answered_at, second.ended_at)


async def test_a_blind_transfer_by_the_called_party(seen: Seen) -> None:
    """The caller dials again: two dials of one channel, each with its time."""
    async with steered_call(seen.switch, line="ann", number=f"01{sipp.STEERED}") as ann:
        first = await seen.carrier.call_when(f"01{sipp.STEERED}", answered=True, timeout_s=5)
        await ann.event_when("ready")
        await asyncio.sleep(1.2)
        await seen.carrier.cue(first, f"refer <sip:0192@127.0.0.1:{seen.switch.sip_port}>")
        outcome = await ann.outcome()
    first, second = await asyncio.gather(seen.ended(f"01{sipp.STEERED}"), seen.ended("0192"))
    await seen.written(2)
    [channel_id] = seen.channels.of("ann")
    leg_id, second_leg_id = seen.channels.legs(channel_id)
    again_at = second.invited_at
    one = seen.talk_of(channel_id, [leg_id], outcome.invited_at, until_at=again_at)
    other = seen.talk_of(channel_id, [second_leg_id], again_at, answered_at=second.answered_at)
    unnoted = seen.talk_of(channel_id, [second_leg_id], again_at)
    both = seen.talk_of(channel_id, [leg_id], outcome.invited_at)
    assert_true(one, first.answered_at, first.ended_at)
    assert_true(other, second.answered_at, second.ended_at)
    # Who is up already has a record that is answered from its start: it may have rung in it.
    assert unnoted is not None
    assert not unnoted.start_exact
    # On one grant, as where the dialplan does not ask again.
    assert_true(both, outcome.answered_at, outcome.ended_at)


async def test_an_attended_transfer(seen: Seen) -> None:
    """Of the two who are brought together one is named in the other's record alone."""
    async with (
        steered_call(seen.switch, line="ann", number="0101") as held,
        steered_call(seen.switch, line="ben", number="0292") as consulted,
    ):
        await held.cue("hold")
        await held.event_when("told")
        await held.transfer_into("0292", consulted)
        await asyncio.gather(held.outcome(), consulted.outcome())
        invited_at = {
            line: (await call.event_when("invite")).at for line, call in (("ann", held), ("ben", consulted))
        }
    first, second = await asyncio.gather(seen.ended("0101"), seen.ended("0292"))
    await seen.written(3)
    assert first.ended_at is not None
    assert second.ended_at is not None
    assert_true(seen.talk("ann", invited_at["ann"]), first.answered_at, first.ended_at)
    assert_true(seen.talk("ben", invited_at["ben"]), second.answered_at, second.ended_at)


async def test_a_parked_call_and_one_that_was_picked_up(seen: Seen) -> None:
    async def parked() -> tuple[CallOutcome, CarrierCall]:
        async with steered_call(seen.switch, line="ann", number="0103") as ann:
            await ann.event_when("ready")
            await ann.transfer_to("700")
            outcome = await ann.outcome()
            await seen.switch.parked(701)
            await seen.call("ben", "701", 1.4)
        return outcome, await seen.ended("0103")

    async def picked_up() -> tuple[CallOutcome, CallOutcome]:
        async with steered_call(seen.switch, line="cat", number="206") as cat:
            await cat.event_when("ringing")
            picker = await seen.call("dan", "207", 1.4)
            return await cat.outcome(), picker

    (caller, called), (rung, _) = await asyncio.gather(parked(), picked_up())
    # Parked: the dial, the place, whoever came for it, both together. Picked up: both of it and the phone that rang.
    await seen.written(4 + 3)
    assert_true(seen.talk("ann", caller.invited_at), called.answered_at, called.ended_at)
    [channel_id], [picker_id] = seen.channels.of("cat"), seen.channels.of("dan")
    found = seen.talk_of(channel_id, [picker_id], rung.invited_at, answered_at=rung.answered_at)
    assert_true(found, rung.answered_at, rung.ended_at)


async def test_a_conference_is_witnessed_at_least_so_long(seen: Seen) -> None:
    """Who is not the oldest is in the records of others, if at all; nothing is claimed that was not so."""

    async def joins(line: str, after_s: float, stays_s: float) -> CallOutcome:
        await asyncio.sleep(after_s)
        return await seen.call(line, "600", stays_s)

    outcomes = await asyncio.gather(joins("ann", 0, 6.5), joins("ben", 0.8, 1.2), joins("cat", 1.4, 2))
    assert await seen.switch.no_channels() == []
    async with asyncio.timeout(5):
        while {cdr.unique_id for cdr in seen.records} != {
            seen.channels.of(line)[0] for line in ("ann", "ben", "cat")
        }:
            await seen.read()
            await asyncio.sleep(0.02)
    short = 0
    for line, outcome in zip(("ann", "ben", "cat"), outcomes, strict=True):
        found = seen.talk(line, outcome.invited_at, shape=Shape.ALONE)
        assert found is not None
        assert found.answered
        assert not found.end_exact
        assert found.talked_ms / 1000 <= outcome.talk_s + SECOND_S + SLACK_S
        short += found.talked_ms / 1000 < outcome.talk_s - SECOND_S
    # Ann was alone at the end, of which there is no record.
    assert short > 0


class Arrivals:
    """Channels that came into the application."""

    def __init__(self, client: Client) -> None:
        self._ids: set[str] = set()
        self._changed = asyncio.Condition()
        client.on_channel_event("StasisStart", self._note)

    async def _note(self, channel: Channel, _event: events.CallEvent, _moment: Moment) -> None:
        async with self._changed:
            self._ids.add(channel.id)
            self._changed.notify_all()

    async def wait_for(self, *ids: str) -> None:
        async with asyncio.timeout(10), self._changed:
            await self._changed.wait_for(lambda: set(ids) <= self._ids)


async def test_two_legs_in_a_bridge_of_ours(seen: Seen) -> None:
    """Callback and reverse charge: ids of ours, one leg rings after the other, either hangs up or the lease ends."""
    switch = seen.switch
    client = Client(
        AriSettings(switch.ari_url, switch.ari_user, switch.ari_password), SystemClock(), CallQueues()
    )
    arrivals = Arrivals(client)
    await client.start()
    try:
        await client.wait_connected(5)
        await asyncio.gather(
            *(_joined(seen, client, arrivals, ending) for ending in ("first", "second", "lease"))
        )
        [alone, busy] = ["own-a10e", "own-b54f"]
        for channel_id, number in ((alone, "0701"), (busy, "0786")):
            await client.channels.originate(
                channel_id, f"PJSIP/{number}@carrier", app_args="own", ring_s=5, variables={}
            )
        await arrivals.wait_for(alone)
        await client.channels.get(alone).hangup()
        await seen.written(3 * 2 + 2)
        unanswered = seen.talk_of(alone, [busy], 0, shape=Shape.JOINED)
        assert unanswered is not None
        assert not unanswered.answered
    finally:
        await client.stop()


async def _joined(seen: Seen, client: Client, arrivals: Arrivals, ending: str) -> None:
    """The second leg rings two seconds. It, the first leg, or the lease of both ends the call."""
    number = {"first": "11", "second": "12", "lease": "13"}[ending]
    first_id, second_id, bridge = f"own-1{number}", f"own-2{number}", client.bridges.get(f"own-3{number}")
    lease = {"TIMEOUT(absolute)": "5"} if ending == "lease" else {}

    async def ring(channel_id: str, dialled: str) -> None:
        endpoint = f"PJSIP/{dialled}@carrier"
        await client.channels.originate(channel_id, endpoint, app_args="own", ring_s=5, variables=lease)
        await arrivals.wait_for(channel_id)

    begun_at = time.time()
    await ring(first_id, f"07{number}")
    await ring(second_id, f"08{number}82")
    await bridge.create()
    await bridge.add(first_id, second_id)
    joined_at = time.time()
    if ending != "lease":
        await asyncio.sleep(1.3)
        left_id, right_id = (first_id, second_id) if ending == "first" else (second_id, first_id)
        await client.channels.get(left_id).hangup()
        await asyncio.sleep(0.7)
        await client.channels.get(right_id).hangup()
    first, second = await asyncio.gather(seen.ended(f"07{number}"), seen.ended(f"08{number}82"))
    assert first.ended_at is not None
    assert second.ended_at is not None
    left_at = min(first.ended_at, second.ended_at)
    await bridge.destroy()
    await seen.switch.no_channels(10)
    async with asyncio.timeout(5):
        while not {first_id, second_id} <= {cdr.unique_id for cdr in seen.records}:
            await seen.read()
            await asyncio.sleep(0.02)
    known = seen.talk_of(first_id, [second_id], begun_at, shape=Shape.JOINED, answered_at=joined_at)
    assert_exact(known, joined_at, left_at)
    unknown = seen.talk_of(first_id, [second_id], begun_at, shape=Shape.JOINED)
    assert_true(unknown, second.answered_at, left_at)


async def test_a_killed_asterisk_leaves_no_record_and_a_stopped_one_does(seen: Seen) -> None:
    switch = seen.switch
    async with steered_call(switch, line="ann", number="0100") as ann:
        await ann.event_when("ready")
        switch.kill()
    [channel_id] = seen.channels.of("ann")
    await switch.restart()
    await seen.read()
    assert seen.records == []
    assert seen.talk_of(channel_id, seen.channels.legs(channel_id), 0) is None

    async with steered_call(switch, line="ann", number="0100") as ann:
        await ann.event_when("ready")
        await switch.stop()
    await seen.read()
    [record] = seen.records
    assert record.answered


async def test_the_event_says_what_the_row_says(installation: Installation) -> None:
    """For a user that may see nothing but records; the file tells the same one again, which is not noted twice."""
    [port] = free_ports(1)
    received: list[Mapping[str, str]] = []
    async with (
        Switch.start(
            installation,
            DIALPLAN,
            lines=LINES,
            files={"manager.conf": MANAGER.format(port=port, events="cdr")},
        ) as switch,
        Carrier.start(switch) as carrier,
    ):
        link = AmiLink(
            "127.0.0.1", port, "witness", "s3cret", on_event=received.append, event_filter=("Cdr",)
        )
        await link.start()
        try:
            await link.wait_connected(5)
            seen = Seen(switch, carrier, CdrFile(switch.cdr_path, UTC), Channels())
            await asyncio.gather(seen.call("ann", "0100", 0.5), seen.call("ben", "0186"))
            await seen.written(3)
            async with asyncio.timeout(5):
                while len(received) < 3:
                    await asyncio.sleep(0.02)
            assert sorted(map(repr, seen.records)) == sorted(repr(cdr_of_event(one, UTC)) for one in received)
            assert [seen.witness.note(cdr_of_event(one, UTC)) for one in received] == [False] * 3
            await seen.file.close()
        finally:
            await link.stop()


@pytest.mark.parametrize(
    ("columns", "useful"),
    [
        ("loguniqueid=yes", True),
        ("loguniqueid=yes\nloguserfield=yes\nnewcdrcolumns=yes", True),
        ("loguniqueid=yes\nnewcdrcolumns=yes", True),
        ("loguserfield=yes", False),
        ("usegmtime=yes", False),
    ],
)
async def test_whatever_columns_cdr_conf_asks_for(
    installation: Installation, columns: str, useful: bool
) -> None:
    with capture_logs() as logs:
        async with watched(installation, cdr=f"[general]\n[csv]\n{columns}\n") as seen:
            outcome = await seen.call("ann", "0100", 0.5)
            assert await seen.switch.no_channels() == []
            async with asyncio.timeout(5):
                while not seen.records and not seen.file.without_unique_id:
                    await seen.read()
                    await asyncio.sleep(0.02)
            assert seen.file.malformed == 0
            if useful:
                assert_true(seen.talk("ann", outcome.invited_at), outcome.answered_at, outcome.ended_at)
            else:
                assert seen.talk("ann", outcome.invited_at) is None
    cures = [entry["cure"] for entry in logs if entry["event"] == "cdr_without_unique_id"]
    assert cures == (
        [] if useful else ["in cdr.conf write loguniqueid=yes under [csv] and reload cdr_csv.so"]
    )


async def test_the_sample_has_what_the_witness_needs(installation: Installation) -> None:
    samples = PROJECT / "dialplan" / "samples"
    texts = {name: (samples / f"{name}.conf").read_text() for name in ("cdr", "cdr_manager")}
    async with watched(installation, **texts) as seen:
        answered, _, _ = await asyncio.gather(
            seen.call("ann", "0100", 1), seen.call("ben", "208"), seen.call("cat", "0195")
        )
        await seen.written(1 + 1 + 2)
        assert_true(seen.talk("ann", answered.invited_at), answered.answered_at, answered.ended_at)
        [refused] = seen.witness.of(seen.channels.of("ben")[0])
        assert (refused.user_field, refused.answered) == ("allowance_exhausted", False)
        backends = (await seen.switch.cli("cdr show status")).partition("Registered Backends")[2].split()
        assert {"csv", "cdr_manager"} <= set(backends)

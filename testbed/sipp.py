"""SIP phones for the testbed, driven by SIPp: signalling only, all on loopback.

`Carrier` is the far network: one process that takes every call that the switch sends to its carrier. What a called
phone does is decided by the last two digits of the dialled number:

| ending | constant | behaviour |
|---|---|---|
| 82 | `RINGS_2_S` | rings for 2 s (180), then answers (200) |
| 83 | `PLAYS_2_S` | plays early media for 2 s (183), then answers (200) |
| 84 | `RINGS_4_S` | rings for 4 s (180), then answers (200) |
| 86 | `BUSY` | refuses at once: 486 Busy Here |
| 87 | `NEVER_ANSWERS` | rings (180) until it is cancelled (487) |
| 88 | `STEERED` | answers at once and does what `Carrier.cue` tells it |
| 89 | `FORWARDS` | forwards at once: 302 to `FORWARDED_TO` |
| 92 | `HANGS_UP_AFTER_2_S` | answers at once and hangs up (BYE) after 2 s |
| 93 | `DECLINES` | refuses at once: 603 Decline |
| 94 | `NO_ROUTE` | refuses at once: 404 Not Found |
| 95 | `UNAVAILABLE` | refuses at once: 503 Service Unavailable |
| any other | | answers at once (200) and stays until the other side hangs up |

`place_call` is one caller with a process of its own; `place_calls` is many calls from one process, for load;
`steered_call` is one caller who transfers, holds or sends a fax in mid-call when the test says so.
All times are taken by the phones' own clock, so they can be held against what the switch claims.

Left to others: the scenarios' text (`testbed.scenarios`) and the switch (`testbed.asterisk`).
"""

from __future__ import annotations

import asyncio
import socket
import statistics
import struct
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from testbed import scenarios
from testbed.asterisk import Switch
from testbed.installation import TestbedError
from testbed.phone import Event, Phone, scratch_directory
from testbed.ports import LOOPBACK, free_ports
from testbed.tls import tunnel

RINGS_2_S = "82"
RINGS_4_S = "84"
BUSY = "86"
NEVER_ANSWERS = "87"
PLAYS_2_S = "83"
STEERED = scenarios.STEERED
FORWARDS = "89"
FORWARDED_TO = "02079460155"
HANGS_UP_AFTER_2_S = scenarios.HANGS_UP
DECLINES = "93"
NO_ROUTE = "94"
UNAVAILABLE = "95"

_REFUSALS = {
    BUSY: (486, "Busy Here"),
    DECLINES: (603, "Decline"),
    NO_ROUTE: (404, "Not Found"),
    UNAVAILABLE: (503, "Service Unavailable"),
}
_RINGS_MS = {RINGS_2_S: 2_000, RINGS_4_S: 4_000, NEVER_ANSWERS: -1}

POLL_S = 0.01
# What SIPp needs beyond its calls: to start, and to end its last transaction.
OVERHEAD_S = 20.0

EndedBy = Literal["caller", "far_end", "none"]


@dataclass(frozen=True)
class CallOutcome:
    """What the caller saw of one call, by its own clock.

    `final_status` is the final answer to the INVITE (200, 486, 487, …; 408 where none came, RFC 3261 8.1.3.1),
    `reason_header` the Reason header (RFC 3326, usually with the Q.850 cause) of the refusal or of the far end's
    BYE. `setup_s` is INVITE to final answer, `talk_s` 200 to BYE, 0 without an answer. The `…_at` are Unix times
    in seconds.
    """

    call_id: str
    final_status: int
    reason_header: str | None
    setup_s: float
    talk_s: float
    ended_by: EndedBy
    retransmissions: int
    invited_at: float
    answered_at: float | None
    ended_at: float
    rang: bool

    @property
    def answered(self) -> bool:
        """Whether the call came to a conversation."""
        return self.answered_at is not None


@dataclass(frozen=True)
class LoadOutcome:
    """What the callers of one load saw; response times are INVITE to 200, in milliseconds.

    `retransmissions` counts SIP messages that SIPp sent again, over all calls; the calls' own field is 0 here.
    """

    calls: tuple[CallOutcome, ...]
    lost: int
    retransmissions: int

    @property
    def answered(self) -> int:
        """How many calls came to a conversation."""
        return sum(call.answered for call in self.calls)

    @property
    def failed(self) -> Mapping[int, int]:
        """Refused calls by final status."""
        return Counter(call.final_status for call in self.calls if not call.answered)

    @property
    def ended_by(self) -> Mapping[str, int]:
        """Answered calls by the side that hung up."""
        return Counter(call.ended_by for call in self.calls if call.answered)

    @property
    def setup_ms(self) -> tuple[float, ...]:
        """Response times of the answered calls, sorted."""
        return tuple(sorted(call.setup_s * 1000 for call in self.calls if call.answered))

    @property
    def setup_mean_ms(self) -> float:
        """Mean response time; raises `TestbedError` where no call was answered."""
        return statistics.fmean(self._measured())

    @property
    def setup_p50_ms(self) -> float:
        """Median response time."""
        return self.setup_percentile_ms(50)

    @property
    def setup_p99_ms(self) -> float:
        """99th percentile of the response times."""
        return self.setup_percentile_ms(99)

    @property
    def talk_total_s(self) -> float:
        """Seconds of conversation over all calls."""
        return sum(call.talk_s for call in self.calls)

    def setup_percentile_ms(self, percent: float) -> float:
        """The response time that `percent` of the answered calls did not exceed (nearest rank)."""
        measured = self._measured()
        rank = -(-len(measured) * percent // 100)
        return measured[max(0, int(rank) - 1)]

    def _measured(self) -> tuple[float, ...]:
        if not (measured := self.setup_ms):
            raise TestbedError("no call of the load was answered, so there are no response times")
        return measured


@dataclass(frozen=True)
class CarrierCall:
    """What the called phone saw of one call, by its own clock (Unix times in seconds).

    `status` is what it answered, None while it rings; `ended_by` is "carrier", "switch" (BYE or CANCEL came), or
    "none" while the call is up and for refusals. `caller` is the user of the From header.
    """

    call_id: str
    number: str
    caller: str
    invited_at: float
    status: int | None = None
    answered_at: float | None = None
    ended_at: float | None = None
    ended_by: Literal["carrier", "switch", "none"] = "none"


@dataclass(frozen=True)
class Received:
    """A message (RFC 3428) that a called phone got: to whom, from whom (the users of request URI and From), its text
    up to the first line break.
    """

    to: str
    sender: str
    text: str


class Carrier:
    """The far network of a switch; make one with `async with Carrier.start(switch) as carrier`."""

    def __init__(self, phone: Phone) -> None:
        """Use `start`."""
        self._phone = phone

    @classmethod
    @asynccontextmanager
    async def start(cls, switch: Switch, *, logged: bool = True) -> AsyncIterator[Carrier]:
        """Take the switch's calls until the block ends; without `logged` nothing is recorded, for load."""
        text = scenarios.carrier(
            logged=logged,
            hang_up_after_ms=2_000,
            refusals=_REFUSALS,
            rings=_RINGS_MS,
            plays={PLAYS_2_S: 2_000},
            forwards={FORWARDS: FORWARDED_TO},
        )
        async with scratch_directory() as directory:
            phone = Phone(switch, directory, text, port=switch.carrier_port)
            try:
                await phone.listen()
                yield cls(phone)
            finally:
                await phone.end()

    def calls(self) -> list[CarrierCall]:
        """The calls so far, in order of their INVITEs; those still up are among them."""
        found: dict[str, CarrierCall] = {}
        for event in self._phone.events():
            known = found.get(event.call_id)
            if event.name == "invited" and known is None:
                _, number, caller = (*event.rest.split("sip:"), "", "")[:3]
                found[event.call_id] = CarrierCall(event.call_id, number.strip(), caller.strip(), event.at)
            elif known is not None:
                found[event.call_id] = _carrier_call_after(known, event)
        return list(found.values())

    def messages(self) -> list[Received]:
        """The messages so far."""
        found = []
        for event in self._phone.events():
            if event.name == "text":
                _, to, sender, text = (
                    event.rest.split(" ", 3) if event.rest.count(" ") > 2 else (*event.rest.split(" "), "")
                )
                found.append(Received(to.removeprefix("sip:"), sender.removeprefix("sip:"), text))
        return found

    async def messages_when(self, count: int, *, timeout_s: float = 5.0) -> list[Received]:
        """Wait until so many messages have come; raises `TestbedError` after `timeout_s`."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while len(found := self.messages()) < count:
            if asyncio.get_running_loop().time() > deadline:
                raise TestbedError(
                    f"{len(found)} of {count} messages came within {timeout_s:g} s: {found[-5:]}"
                )
            await asyncio.sleep(POLL_S)
        return found

    async def cue(self, call: CarrierCall, what: str) -> None:
        """Tell the phone of a call to a `STEERED` number what to do (`testbed.scenarios.CUES`)."""
        await self._phone.cue(call.call_id, what)

    async def event_when(self, name: str, call: CarrierCall, *, timeout_s: float = 5.0) -> Event:
        """Wait for a step of one call: told, offered, notified; raises `TestbedError` after `timeout_s`."""
        return await self._phone.event_when(name, call.call_id, timeout_s=timeout_s)

    def calls_to(self, number: str) -> list[CarrierCall]:
        """The calls to one dialled number."""
        return [call for call in self.calls() if call.number == number]

    async def call_when(
        self,
        number: str,
        *,
        answered: bool = False,
        ended: bool = False,
        since: float = 0.0,
        timeout_s: float,
    ) -> CarrierCall:
        """Wait for a call to `number` that has come so far; raises `TestbedError` after `timeout_s`.

        since: no call that came before this Unix time.
        """
        deadline = asyncio.get_running_loop().time() + timeout_s
        while asyncio.get_running_loop().time() < deadline:
            for call in self.calls_to(number):
                if (
                    call.invited_at >= since
                    and not (answered and call.answered_at is None)
                    and not (ended and call.ended_at is None)
                ):
                    return call
            await asyncio.sleep(POLL_S)
        raise TestbedError(
            f"no such call to {number} reached the carrier within {timeout_s:g} s: {self.calls()}"
        )


def _carrier_call_after(call: CarrierCall, event: Event) -> CarrierCall:
    match event.name:
        case "answered":
            return replace(call, status=200, answered_at=event.at)
        case "refused":
            return replace(call, status=int(event.rest), ended_at=event.at)
        case "cancelled":
            return replace(call, status=487, ended_at=event.at, ended_by="switch")
        case "bye_seen":
            return replace(call, ended_at=event.at, ended_by="switch")
        case "bye_sent":
            return replace(call, ended_at=event.at, ended_by="carrier")
        case _:
            return call


async def place_call(
    switch: Switch,
    *,
    line: str,
    number: str,
    hang_up_after_s: float | None = None,
    give_up_after_s: float | None = None,
    timeout_s: float = 30.0,
    extra_headers: Mapping[str, str] | None = None,
    signalling: scenarios.Signalling = "clear",
    srtp: bool = False,
    video: bool = False,
) -> CallOutcome:
    """Call `number` from `line` and follow the call to its end.

    The caller hangs up `hang_up_after_s` after the answer, or stays until the other side hangs up; it cancels
    `give_up_after_s` after the INVITE or the last provisional answer to it, at the latest after `timeout_s`. A
    conversation may last `timeout_s`. A `line` named "carrier" places a call from the far network. `signalling`
    "tls" needs a switch that was started with it, and `srtp`, which offers encrypted media and nothing else, an
    endpoint that takes it; `video` offers a picture besides. When the coroutine is cancelled, the phone vanishes
    without a farewell, as in a power cut. Raises `TestbedError` where
    the conversation lasts longer or SIPp fails.
    """
    async with AsyncExitStack() as undo:
        directory = await undo.enter_async_context(scratch_directory())
        tunnel_port = await undo.enter_async_context(tunnel(switch)) if signalling == "tls" else None
        phone = _caller(
            switch,
            directory,
            [line],
            [number],
            hang_up_after_s,
            give_up_after_s,
            timeout_s,
            extra_headers or {},
            tunnel_port,
            signalling=signalling,
            srtp=srtp,
            video=video,
        )
        status = await phone.run(2 * timeout_s + OVERHEAD_S, "-m", "1")
        calls, overdue = _calls_in(phone.events())
        if overdue:
            raise TestbedError(
                f"the call from {line} to {number} was still up after {timeout_s:g} s; give a longer timeout_s"
            )
        if len(calls) != 1:
            raise TestbedError(
                f"the call from {line} to {number} failed (SIPp status {status}): {phone.complaints()}"
            )
        return replace(calls[0], retransmissions=phone.retransmissions())


class SteeredCall:
    """A call whose caller does in mid-call what it is told; make one with `async with steered_call(…) as call`."""

    def __init__(self, switch: Switch, phone: Phone, ended: asyncio.Task[int]) -> None:
        """Use `steered_call`."""
        self._switch = switch
        self._phone = phone
        self._ended = ended

    async def cue(self, what: str) -> None:
        """Tell the phone, once it talks, what to do: one of `testbed.scenarios.CUES`."""
        await self._phone.cue(None, what)

    async def transfer_to(self, number: str) -> None:
        """Send REFER: the other side is to call `number` (blind transfer, RFC 5589 6)."""
        await self.cue(f"refer <{self._uri_of(number)}>")

    async def transfer_into(self, number: str, consulted: SteeredCall) -> None:
        """Send REFER with Replaces: the other sides of the two calls are to talk (attended transfer, RFC 5589 7)."""
        dialog = await consulted.event_when("dialog")
        from_tag, _, peer = dialog.rest.partition(" ")
        replaces = f"{dialog.call_id};to-tag={peer.partition('tag=')[2]};from-tag={from_tag}"
        await self.cue(f"refer <{self._uri_of(number)}?Replaces={quote(replaces, safe='')}>")

    def _uri_of(self, number: str) -> str:
        return f"sip:{number}@{self._switch.sip_host}:{self._switch.sip_port}"

    async def event_when(self, name: str, *, timeout_s: float = 5.0) -> Event:
        """Wait for a step: final, told, offered, notified, …; raises `TestbedError` after `timeout_s`."""
        return await self._phone.event_when(name, timeout_s=timeout_s)

    async def speak(self, frames: int = 10) -> None:
        """Send so many frames of 20 ms of silence (RTP, RFC 3551), as Asterisk takes some steps at media only."""
        media = await self.event_when("media")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for number in range(frames):
                header = struct.pack("!BBHII", 0x80, 0, number, number * 160, 1)
                sender.sendto(header + b"\xff" * 160, (self._switch.sip_host, int(media.rest)))
                await asyncio.sleep(0.02)

    def told(self) -> list[str]:
        """The statuses with which its requests in mid-call were answered."""
        return [event.rest for event in self._phone.events() if event.name == "told"]

    async def outcome(self) -> CallOutcome:
        """Wait for the end of the call; raises `TestbedError` where SIPp fails or the call was overdue."""
        status = await self._ended
        calls, overdue = _calls_in(self._phone.events())
        if overdue or len(calls) != 1:
            raise TestbedError(f"the steered call failed (SIPp status {status}): {self._phone.complaints()}")
        return replace(calls[0], retransmissions=self._phone.retransmissions())


@asynccontextmanager
async def steered_call(
    switch: Switch, *, line: str, number: str, timeout_s: float = 30.0
) -> AsyncIterator[SteeredCall]:
    """Call `number` from `line`; the phone then answers what comes and does what it is told.

    At the end of the block the phone vanishes if its call is still up. Raises `TestbedError` where the call does not
    begin.
    """
    [port] = free_ports(1)
    async with scratch_directory() as directory:
        phone = _caller(
            switch, directory, [line], [number], None, None, timeout_s, {}, port=port, steered=True
        )
        ended = asyncio.create_task(phone.run(2 * timeout_s + OVERHEAD_S, "-m", "1"))
        try:
            yield SteeredCall(switch, phone, ended)
        finally:
            ended.cancel()
            await asyncio.gather(ended, return_exceptions=True)


async def place_calls(
    switch: Switch,
    *,
    line: str | Sequence[str],
    number: str | Sequence[str],
    count: int,
    rate_per_s: float,
    hang_up_after_s: float | None = None,
    timeout_s: float = 60.0,
    extra_headers: Mapping[str, str] | None = None,
) -> LoadOutcome:
    """Place `count` calls, `rate_per_s` a second, from one process, and follow all to their ends.

    Several lines or numbers are taken in turn. A call that is up for longer than `timeout_s` is `lost`. Raises
    `TestbedError` where SIPp itself fails.
    """
    lines = [line] if isinstance(line, str) else line
    numbers = [number] if isinstance(number, str) else number
    async with scratch_directory() as directory:
        phone = _caller(
            switch, directory, lines, numbers, hang_up_after_s, None, timeout_s, extra_headers or {}
        )
        # In tenths of a second, so that rates below one and fractions of one can be had.
        pace = ("-r", str(max(1, round(rate_per_s * 10))), "-rp", "10000")
        limit_s = count / rate_per_s + 2 * timeout_s + OVERHEAD_S
        await phone.run(limit_s, "-m", str(count), "-l", str(count), *pace)
        calls, _ = _calls_in(phone.events())
        return LoadOutcome(tuple(calls), lost=count - len(calls), retransmissions=phone.retransmissions())


async def send_messages(
    switch: Switch,
    messages: Sequence[tuple[str, str, str]],
    *,
    rate_per_s: float = 50.0,
    times: int = 1,
    extra_headers: Mapping[str, str] | None = None,
    timeout_s: float = 60.0,
) -> list[int]:
    """Send messages (line, number, text) from one process; the statuses with which the switch answered each, sorted.

    times: how often each is sent, with one Call-ID and CSeq. Raises `TestbedError` where SIPp itself fails.
    """
    for field in (field for message in messages for field in message):
        if any(mark in field for mark in ";\r\n[]"):
            raise TestbedError(
                f"{field!r} cannot stand in a message of the testbed; leave out ; [ ] and line breaks"
            )
    async with scratch_directory() as directory:
        rows = "".join(f"{line};{number};{text};\n" for line, number, text in messages)
        (directory / "messages.csv").write_text(f"SEQUENTIAL\n{rows}")
        text = scenarios.texter(extra_headers=extra_headers or {}, times=times)
        phone = Phone(switch, directory, text, options=("-inf", "messages.csv"))
        count = str(len(messages))
        pace = ("-r", str(max(1, round(rate_per_s * 10))), "-rp", "10000")
        await phone.run(timeout_s, "-m", count, "-l", count, *pace)
        return sorted(int(event.rest) for event in phone.events() if event.name == "final")


def _caller(
    switch: Switch,
    directory: Path,
    lines: Sequence[str],
    numbers: Sequence[str],
    hang_up_after_s: float | None,
    give_up_after_s: float | None,
    timeout_s: float,
    extra_headers: Mapping[str, str],
    tunnel_port: int | None = None,
    *,
    signalling: scenarios.Signalling = "clear",
    srtp: bool = False,
    video: bool = False,
    port: int | None = None,
    steered: bool = False,
) -> Phone:
    limit_ms = round(timeout_s * 1000)
    text = scenarios.caller(
        hang_up_after_ms=None if hang_up_after_s is None else round(hang_up_after_s * 1000),
        give_up_after_ms=None if give_up_after_s is None else round(give_up_after_s * 1000),
        ring_limit_ms=limit_ms,
        talk_limit_ms=limit_ms,
        extra_headers=extra_headers,
        signalling=signalling,
        srtp=srtp,
        video=video,
        steered=steered,
    )
    for field in (*lines, *numbers):
        if not field or any(mark in field for mark in ";\r\n[]<>@ "):
            raise TestbedError(
                f"{field!r} cannot stand in a SIP URI's user part; leave out ; [ ] < > @ and spaces"
            )
    pairs = [
        (lines[index % len(lines)], numbers[index % len(numbers)]) for index in range(_cycle(lines, numbers))
    ]
    rows = "".join(f"{line};{number};\n" for line, number in pairs)
    (directory / "calls.csv").write_text(f"SEQUENTIAL\n{rows}")
    options = ("-inf", "calls.csv")
    if tunnel_port is None:
        return Phone(switch, directory, text, port=port, options=options)
    target = f"{LOOPBACK}:{tunnel_port}"
    return Phone(switch, directory, text, target=target, options=(*options, "-t", "t1"))


def _cycle(lines: Sequence[str], numbers: Sequence[str]) -> int:
    if len(lines) == 1 or len(numbers) == 1 or len(lines) == len(numbers):
        return max(len(lines), len(numbers))
    return len(lines) * len(numbers)


def _calls_in(events: Sequence[Event]) -> tuple[list[CallOutcome], int]:
    """The calls that came to an end, and how many were ended because they were overdue."""
    by_call: dict[str, dict[str, Event]] = {}
    for event in events:
        by_call.setdefault(event.call_id, {}).setdefault(event.name, event)
    calls = [_outcome(steps) for steps in by_call.values() if "overdue" not in steps]
    return [call for call in calls if call is not None], sum("overdue" in steps for steps in by_call.values())


def _outcome(steps: Mapping[str, Event]) -> CallOutcome | None:
    """The outcome of one call from its log, None where it did not come to an end."""
    invited, final = steps.get("invite"), steps.get("final")
    if invited is None or final is None:
        return None
    status, _, reason = final.rest.partition(" ")
    end, ended_by = final, "none"
    if status == "200":
        for name in ("far_end", "caller"):
            if name in steps:
                end, ended_by = steps[name], name
                break
        else:
            return None
        reason = end.rest
    answered = status == "200"
    return CallOutcome(
        call_id=invited.call_id,
        final_status=int(status),
        reason_header=reason.strip() or None,
        setup_s=final.at - invited.at,
        talk_s=end.at - final.at if answered else 0.0,
        ended_by="far_end" if ended_by == "far_end" else "caller" if ended_by == "caller" else "none",
        retransmissions=0,
        invited_at=invited.at,
        answered_at=final.at if answered else None,
        ended_at=end.at,
        rang="ringing" in steps,
    )

"""A stand-in for Asterisk: channels, `Dial()`, leases, the dialplan of `dialplan/fairdial.conf`, and ARI and AMI.

What it keeps to is `dialplan/fairdial.conf` and what was measured of Asterisk 22: TIMEOUT(absolute) ends only the
channel that it is set on, at most a tenth of a second late, whoever is gone; in `Stasis()` it leads to the failure
rule; what the application is told of comes in one order and is lost while nobody is connected. `talks` is its own
record of who talked from when until when, which no event, ledger or process touches.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any
from urllib.parse import unquote

import msgspec

from ari_handlers.dial import ANSWER_SUBROUTINE
from fairdial.answer import CONTEXT, Answer
from fairdial.cdr import MARK, Cdr
from tests.simulation.loop import US_PER_MS, US_PER_S, Timeline
from tests.simulation.records import Attempt, written

PATIENCE_S = 1
"""FAIRDIAL_PATIENCE: how long a question waits for its answer."""
FAILURE_LEASE_S = 60
"""FAIRDIAL_FAILURE_LEASE, where the failure rule is `lease`."""
LATE_US = 100 * US_PER_MS
"""TIMEOUT(absolute) ends a channel at most so much late."""

ASKS_AGAIN_US = US_PER_S
"""How long a dialplan does something else before it asks again, where it does not at once."""

Trace = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Asking:
    """What a line dials, how its dialplan is written, and what people do.

    option: FAIRDIAL_DIAL is passed to `Dial()`, so that the switch itself sets the lease at the answer. forks: how
    many phones ring. answer_us: after how long one of them answers, None: none. hang_up_us: how long they talk
    unless they are cut. by_caller: who hangs up. leave_us: the caller transfers the called party away after so
    long, None: never. give_up_us: the caller cancels so long after dialling, None: waits. again: the dialplan asks
    for one more dial when this one is over. agi: it asks by AGI.
    """

    line: str
    kind: str
    number: str
    ring_s: int
    option: bool
    forks: int
    answer_us: int | None
    hang_up_us: int
    by_caller: bool
    leave_us: int | None
    give_up_us: int | None
    again: bool
    agi: bool
    on_failure: str


@dataclass(slots=True, eq=False)
class Channel:
    """One channel. `caller`: of the dial that rang this one. told: what FairDial said about its present dial.

    variables: those that FairDial may ask for. attempts: what its records will say.
    """

    id: str
    name: str
    asking: Asking
    state: str
    created: str
    caller: "Channel | None" = None
    up: bool = True
    attempt: int = 0
    phase: str = ""
    lease_us: int | None = None
    app_data: str = ""
    peers: list["Channel"] = field(default_factory=list)
    talk: "Talk | None" = None
    call_id: str = ""
    told: Answer | None = None
    variables: dict[str, str] = field(default_factory=dict)
    attempts: list[Attempt] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Talk:
    """An answered leg, as the switch knows it.

    held: FairDial allowed the dial; else the failure rule let it through. slack_us: how much longer than its grant
    it may live, which is the ring time where the dialplan left the option out.
    """

    call_id: str
    held: bool
    leg: str
    answered_us: int
    slack_us: int
    ended_us: int | None = None

    @property
    def length_us(self) -> int:
        """How long it talked; it is over."""
        assert self.ended_us is not None
        return self.ended_us - self.answered_us


class Switch:
    """One Asterisk; `restart` makes it another."""

    def __init__(
        self, timeline: Timeline, chance: random.Random, wall_ms: Callable[[], int], trace: Trace
    ) -> None:
        self.timeline = timeline
        self.chance = chance
        self.wall_ms = wall_ms
        self.trace = trace
        self.boot = 1
        self.began = self.timestamp()
        self.records: list[Cdr] = []
        self.channels: dict[str, Channel] = {}
        self.talks: list[Talk] = []
        self.talking: dict[str, Talk] = {}
        self.dials = 0
        # The ids of all dials that a dialplan asked for.
        self.asked: set[str] = set()
        self.twice = 0.0
        # Where events of the application go; None while nobody is connected.
        self.deliver: Callable[[bytes], None] | None = None
        self.follows_all = False
        # How a dialplan asks by AGI: true where somebody listens there.
        self.ask_by_agi: Callable[[Channel, Callable[[str], None]], bool] = lambda _channel, _told: False
        # Whether the caller may hand that leg on.
        self.may_transfer: Callable[[Talk], bool] = lambda _talk: True
        # Called before a lease ends a channel.
        self.lease_cuts: Callable[[Channel], None] = lambda _channel: None
        self._serial = 0

    # --- channels --------------------------------------------------------------------------------

    def restart(self) -> None:
        """All channels are gone at once, and nobody is told."""
        self.trace("SWITCH restarts")
        for channel in list(self.channels.values()):
            self._over(channel)
        self.boot += 1
        self.deliver = None
        self.follows_all = False

    def is_back(self) -> None:
        """It was started again."""
        self.began = self.timestamp()

    def dial_in(self, asking: Asking) -> None:
        """A line dials."""
        caller = self._channel(asking.line, asking, "Ring")
        self.trace("dials in", caller.id, asking.line, asking.number)
        caller.attempts = [Attempt("", self.wall_ms())]
        if asking.give_up_us is not None:
            self._after(asking.give_up_us, caller, lambda: self._give_up(caller))
        self._ask(caller)

    def _channel(self, endpoint: str, asking: Asking, state: str, caller: Channel | None = None) -> Channel:
        self._serial += 1
        name = f"PJSIP/{endpoint}-{self.boot:04}{self._serial:04}"
        channel_id = f"{self.boot}.{self._serial:03}"
        channel = Channel(channel_id, name, asking, state, self.timestamp(), caller)
        self.channels[channel.id] = channel
        return channel

    def _after(self, wait_us: int, channel: Channel, happen: Callable[[], None]) -> None:
        """Later, unless the channel is gone by then."""
        self.timeline.after(max(0, wait_us), lambda: happen() if channel.up else None)

    def _soon(self, channel: Channel, happen: Callable[[], None]) -> None:
        self._after(int(self.chance.random() ** 3 * 30 * US_PER_MS), channel, happen)

    def _over(self, channel: Channel) -> None:
        channel.up = False
        del self.channels[channel.id]
        if channel.talk is not None:
            channel.talk.ended_us = self.timeline.now_us
            del self.talking[channel.id]

    def hang_up(self, channel: Channel, cause: int = 16) -> None:
        """A channel ends; what it dialled or who dialled it feels that."""
        if not channel.up:
            return
        self._over(channel)
        self.trace("is gone", channel.id, cause)
        self._event("ChannelDestroyed", channel=_info(channel), cause=cause)
        self._write_records(channel)
        for peer in channel.peers:
            if peer.up and peer.caller is channel:
                self._soon(peer, partial(self.hang_up, peer))
        caller = channel.caller
        if caller is not None and caller.up and channel in caller.peers:
            caller.peers.remove(channel)
            for attempt in caller.attempts:
                if attempt.other == channel.name:
                    attempt.end(self.wall_ms())
            if channel.talk is not None:
                self._soon(caller, lambda: self._dial_over(caller))

    def _write_records(self, channel: Channel) -> None:
        """Of a channel that is gone; a switch that is killed before writes none."""
        if not channel.attempts:
            return
        for attempt in channel.attempts:
            attempt.end(self.wall_ms())
        boot, records = self.boot, written(channel.id, channel.name, channel.attempts)
        wait_us = int(self.chance.random() ** 3 * 50 * US_PER_MS)
        self.timeline.after(wait_us, lambda: self.records.extend(records if self.boot == boot else ()))

    # --- leases ----------------------------------------------------------------------------------

    def set_lease(self, channel: Channel, lease_us: int) -> None:
        """TIMEOUT(absolute); 0: none."""
        end_us = self.timeline.now_us + lease_us if lease_us > 0 else None
        channel.lease_us = end_us
        if end_us is not None:
            late_us = int(self.chance.random() * LATE_US)
            self.timeline.at(end_us + late_us, lambda: self._cut(channel, end_us))

    def _cut(self, channel: Channel, end_us: int) -> None:
        if not channel.up or channel.lease_us != end_us:
            return
        if channel.phase in ("stasis", "asking"):
            self.trace("question was not answered in time", channel.id)
            self._silent(channel)
            return
        self.trace("LEASE cuts", channel.id)
        self.lease_cuts(channel)
        self.hang_up(channel)

    # --- the dialplan: fairdial.conf ---------------------------------------------------------------

    def _ask(self, channel: Channel) -> None:
        asking = channel.asking
        channel.attempt += 1
        channel.call_id = f"{channel.id}-{channel.attempt}"
        self.asked.add(channel.call_id)
        channel.attempts[-1].user_field = ""
        channel.told = None
        channel.variables = {
            "FAIRDIAL_DECISION": channel.call_id,
            "FAIRDIAL_KIND": asking.kind,
            "FAIRDIAL_ASKED": asking.number,
        }
        self.set_lease(channel, PATIENCE_S * US_PER_S)
        if asking.agi:
            channel.phase = "asking"
            call_id = channel.call_id
            heard = lambda extension: self._agi_told(channel, call_id, extension)  # noqa: E731
            if not self.ask_by_agi(channel, heard):
                self._soon(channel, lambda: self._silent(channel))
            return
        if self.deliver is None:
            self._silent(channel)
            return
        channel.phase = "stasis"
        args = [asking.kind, asking.number, str(channel.attempt), str(asking.ring_s), "", "11"]
        self._event("StasisStart", channel=_info(channel), args=args)

    def _silent(self, channel: Channel) -> None:
        """The failure rule."""
        channel.phase = "dialplan"
        self.set_lease(channel, 0)
        asking = channel.asking
        channel.variables |= {"FAIRDIAL_RESULT": "FAILED", "FAIRDIAL_REASON": "fairdial_unreachable"}
        if asking.on_failure != "lease":
            self._soon(channel, lambda: self.hang_up(channel, 34))
            return
        self.trace("failure rule lets through", channel.id)
        channel.variables["FAIRDIAL_RESULT"] = "ALLOW"
        mark = (MARK, channel.call_id, asking.kind, asking.number, asking.line)
        channel.attempts[-1].user_field = "|".join(mark)
        self.set_lease(channel, (FAILURE_LEASE_S + asking.ring_s) * US_PER_S)
        self._dial(channel, FAILURE_LEASE_S)

    def _agi_told(self, channel: Channel, call_id: str, extension: str) -> None:
        if channel.up and channel.phase == "asking" and channel.call_id == call_id:
            self._told(channel, extension)

    def _told(self, channel: Channel, extension: str) -> None:
        """Context `fairdial-told`."""
        channel.phase = "dialplan"
        result, reason, cause, number, limit, lease, *_ = extension.split("*")
        answer = Answer(
            result,
            reason,
            int(cause),
            number,
            int(limit) if limit else None,
            int(lease) if lease else None,
        )
        self.trace("is told", channel.id, result, reason, answer.limit_s)
        channel.variables |= {"FAIRDIAL_RESULT": result, "FAIRDIAL_REASON": reason}
        if result == "FAILED":
            self._silent(channel)
            return
        self.set_lease(channel, (answer.lease_s or 0) * US_PER_S if result == "ALLOW" else 0)
        if result == "REFUSE":
            self._soon(channel, lambda: self.hang_up(channel, answer.cause))
            return
        channel.told = answer
        self._dial(channel, answer.limit_s)

    def _dial(self, caller: Channel, limit_s: int | None) -> None:
        """`Dial(…,${FAIRDIAL_DIAL})`."""
        asking = caller.asking
        self.dials += 1
        caller.phase = "dial"
        option = asking.option or caller.told is None
        caller.app_data = (
            f"U({ANSWER_SUBROUTINE}^{limit_s}^{caller.call_id})" if option and limit_s is not None else ""
        )
        caller.peers = [self._channel("carrier", asking, "Down", caller) for _ in range(asking.forks)]
        last = caller.attempts[-1]
        last.other, *others = (peer.name for peer in caller.peers)
        for other in others:
            # A caller who is up already answered from the start, as far as its records go.
            caller.attempts.append(Attempt(other, *self._record_times(caller), user_field=last.user_field))
        for peer in caller.peers:
            self._event("Dial", peer=_info(peer), caller=_info(caller), dialstatus="")
        call_id = caller.call_id
        if asking.answer_us is None:
            self._after(asking.ring_s * US_PER_S, caller, lambda: self._no_answer(caller, call_id))
            return
        first = caller.peers[0]
        self._soon(first, lambda: self._ring(first))
        self._after(asking.answer_us, first, lambda: self._answer(caller, first, limit_s))

    def _ring(self, peer: Channel) -> None:
        peer.state = "Ringing"
        if peer.caller is not None:
            self._event("Dial", peer=_info(peer), caller=_info(peer.caller), dialstatus="RINGING")

    def _no_answer(self, caller: Channel, call_id: str) -> None:
        if caller.call_id == call_id:
            for peer in tuple(caller.peers):
                self.hang_up(peer, 19)
            self._dial_over(caller)

    def _answer(self, caller: Channel, peer: Channel, limit_s: int | None) -> None:
        if not caller.up:
            return
        asking = caller.asking
        peer.state = caller.state = "Up"
        held = caller.told is not None
        slack_us = 0 if caller.app_data or limit_s is None else asking.ring_s * US_PER_S
        peer.talk = Talk(caller.call_id, held, peer.id, self.timeline.now_us, slack_us)
        self.talks.append(peer.talk)
        self.talking[peer.id] = peer.talk
        self.trace("ANSWERS", peer.id, caller.call_id)
        for attempt in caller.attempts:
            if attempt.other == peer.name:
                attempt.reached = True
                attempt.answer_ms = self.wall_ms() if attempt.answer_ms is None else attempt.answer_ms
        if caller.app_data and limit_s is not None:
            self.set_lease(peer, limit_s * US_PER_S)
            peer.variables = {"FAIRDIAL_LEG": peer.talk.call_id}
        self._event("Dial", peer=_info(peer), caller=_info(caller), dialstatus="ANSWER")
        for other in tuple(caller.peers):
            if other is not peer:
                self._soon(other, partial(self.hang_up, other, 26))
        if asking.leave_us is not None:
            self._after(asking.leave_us, peer, lambda: self._transfer(caller, peer))
        who = caller if asking.by_caller else peer
        self._after(asking.hang_up_us, peer, lambda: self.hang_up(who if who.up else peer))

    def _transfer(self, caller: Channel, peer: Channel) -> None:
        """The caller hands the called party on and is gone; the called leg lives."""
        assert peer.talk is not None
        if caller.up and self.may_transfer(peer.talk):
            self.trace("is transferred away", peer.id)
            peer.caller = None
            start_ms = self.wall_ms()
            third = f"PJSIP/third-{peer.id}"
            peer.attempts = [Attempt(third, start_ms, start_ms, reached=True)]
            self.hang_up(caller)

    def _dial_over(self, caller: Channel) -> None:
        """The dialplan goes on after `Dial()`."""
        if caller.phase != "dial":
            return
        caller.phase = "dialplan"
        mark = caller.attempts[-1].user_field
        caller.attempts.append(Attempt("", *self._record_times(caller), user_field=mark))
        if not caller.asking.again or caller.attempt > 1:
            self.hang_up(caller)
        elif self.chance.random() < 0.5:
            self._ask(caller)
        else:
            self._after(ASKS_AGAIN_US, caller, lambda: self._ask(caller))

    def _record_times(self, caller: Channel) -> tuple[int, int | None]:
        """Start and answer of a record that begins now."""
        now_ms = self.wall_ms()
        return now_ms, now_ms if caller.state == "Up" else None

    def _give_up(self, caller: Channel) -> None:
        if caller.state != "Up":
            self.hang_up(caller)

    # --- ARI and AMI -----------------------------------------------------------------------------

    def _event(self, kind: str, **fields: Any) -> None:
        if self.deliver is None or not (self.follows_all or kind == "StasisStart"):
            return
        frame = msgspec.json.encode({"type": kind, "timestamp": self.timestamp(), **fields})
        self.deliver(frame)
        # A question is asked once.
        if kind != "StasisStart" and self.chance.random() < self.twice:
            self.deliver(frame)

    def timestamp(self) -> str:
        """The switch's wall clock, as events carry it."""
        return datetime.fromtimestamp(self.wall_ms() / 1000, UTC).isoformat(timespec="milliseconds")

    def listing(self) -> str:
        """Body of `GET /channels`."""
        return msgspec.json.encode([_info(channel) for channel in self.channels.values()]).decode()

    def bridges(self) -> str:
        """Body of `GET /bridges`: those of its own `Dial()`s."""
        found = []
        for leg_id in self.talking:
            caller = self.channels[leg_id].caller
            both = [leg_id] if caller is None or not caller.up else [caller.id, leg_id]
            found.append({"id": f"bridge-{leg_id}", "channels": both})
        return msgspec.json.encode(found).decode()

    def rest(self, method: str, uri: str, query: dict[str, str]) -> tuple[int, str]:
        """Status and body of the answer to a request."""
        if uri.endswith("/subscription"):
            self.follows_all = True
            return 200, "{}"
        if not uri.startswith("channels/"):
            info = {"status": {"startup_time": self.began}}
            return 200, msgspec.json.encode(info).decode()
        _, channel_id, *rest = uri.split("/")
        channel = self.channels.get(unquote(channel_id))
        if channel is None:
            return 404, ""
        if rest == ["continue"]:
            return self._continue(channel, query)
        if rest == ["variable"]:
            value = channel.variables.get(query["variable"])
            return (404, "") if value is None else (200, msgspec.json.encode({"value": value}).decode())
        if method == "DELETE":
            self.trace("is hung up by FairDial", channel.id)
            self.hang_up(channel, int(query["reason_code"]))
            return 204, ""
        return 200, "{}"

    def _continue(self, channel: Channel, query: dict[str, str]) -> tuple[int, str]:
        if channel.phase != "stasis":
            return 409, ""
        if query.get("context") == CONTEXT:
            self._told(channel, query["extension"])
        else:
            self._silent(channel)
        return 204, ""

    def setvar_lease(self, name: str, lease_ms: int) -> bool:
        """AMI `Setvar` of TIMEOUT(absolute), by channel name or id; False where there is no such channel."""
        found = self.channels.get(name) or next(
            (channel for channel in self.channels.values() if channel.name == name), None
        )
        if found is None:
            return False
        self.trace("lease is set", found.id, lease_ms)
        self.set_lease(found, lease_ms * US_PER_MS)
        return True


def _info(channel: Channel) -> dict[str, object]:
    return {
        "id": channel.id,
        "name": channel.name,
        "state": channel.state,
        "creationtime": channel.created,
        "protocol_id": "",
        "caller": {"number": "", "name": ""},
        "dialplan": {"context": "", "exten": "", "app_name": "Dial", "app_data": channel.app_data},
    }

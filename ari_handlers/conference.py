"""Conferences whose bridge FairDial holds: who comes in, what those inside hear, when it is over.

The dialplan hands a channel over with `Stasis(fairdial,room,NAME,option,...)` (dialplan/samples/rooms.conf). Seats,
the room's clock and the minutes of each party are the ledger's (docs/decisions/0010); leases, renewals and the
settling of each stay are dial.py's. A dialplan that keeps a `ConfBridge()` of its own takes the same seats.

A room is one bridge for an account and a name. Who comes and what follows from who went is done under the room's
lock, one after the other, so that simultaneous first joiners and last leavers do not undo each other's bridge.
Whose channel is gone is no member from that moment, lock or not.
"""

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import structlog

from ari_handlers import events
from ari_handlers.door import Door, Role
from ari_handlers.followed import DialCall, own_call_of
from ari_handlers.owned import ANSWER_SLACK_S, OWN, LegNotAnswered, OwnCalls, new_id
from ari_handlers.queues import CallQueue
from ari_handlers.resources import AriError, AriRefused, Bridge, Channel
from fairdial import call_log
from fairdial.answer import Answer, MalformedRequest, asked_from
from fairdial.clock import Moment
from fairdial.desk import Asked, Desk, Failed
from fairdial.policy.account import Kind
from fairdial.policy.call import lease_end_ms
from fairdial.policy.decide import Refuse, Verdict
from fairdial.policy.outcomes import OUTCOMES, Reason

log = structlog.get_logger(__name__)

ROOM = "room"
"""First argument of `Stasis()` for channels that want into a room."""

BRIDGES = "own-room-"
"""What the ids of our bridges begin with."""

HOST_VARIABLE = "FAIRDIAL_ROOM_HOST"
"""Set on the host's channel, so that a FairDial that was restarted knows it again."""

PIN_TRIES = 3
PIN_WITHIN_S = 60.0
"""For all tries together."""
FIRST_KEY_WITHIN_S = 12.0
"""Prompt included."""
NEXT_KEY_WITHIN_S = 4.0

ENTRY_S = 90
"""Lease of a channel until it is let in: longer than PIN_WITHIN_S and a last prompt."""

LEADER_LEFT_WITHIN_S = 1.7
"""For "the leader has left": with the switch's own time, all are gone 2 s after the host."""

NO_CIRCUIT = 34
CALL_REJECTED = 21

_GONE = frozenset({400, 404, 409, 422})
"""What ARI answers about a channel that is gone, by operation: no such channel, or not in Stasis."""

_SOUNDS = {
    "pin": "sound:conf-getpin",
    "wrong": "sound:conf-invalidpin",
    "alone": "sound:conf-onlyperson",
    "join": "sound:confbridge-join",
    "leave": "sound:confbridge-leave",
    "leader left": "sound:conf-leaderhasleft",
}


class NotAdded(ValueError):
    """A number cannot be called into a room; the text says why."""


@dataclass(slots=True, eq=False)
class _Member:
    """Somebody in a room."""

    call: DialCall
    door: Door
    role: Role


@dataclass(slots=True, eq=False)
class _Room:
    """One bridge. users: those who hold its lock, or wait for it."""

    id: str
    members: dict[str, _Member] = field(default_factory=dict)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


class Rooms:
    """All rooms of one switch whose bridges are ours."""

    def __init__(self, own: OwnCalls, desk: Desk) -> None:
        self._own = own
        self._dials = own.dials
        self._client = own.client
        self._desk = desk
        self._rooms: dict[str, _Room] = {}
        self._room_of: dict[str, _Room] = {}
        self._entering: set[str] = set()
        self._look_wanted = False
        self._looking = False
        own.dials.on_stasis(ROOM, self._came)
        own.dials.on_gone(self._gone)
        own.dials.on_gap(self._look_again)
        own.dials.on_adopted(lambda _call: self._look_again())

    def rows(self) -> list[dict[str, object]]:
        """The rooms as JSON: account, room, since_ms (UTC), seats that are taken, members.

        A member: call, line, channel, host, since_ms. Who is still rung has a seat, and is no member.
        """
        calls = self._dials.calls.values()
        seats = Counter(_bridge_id(call) for call in calls if call.kind is Kind.CONFERENCE)
        return [_row(room, seats[room.id]) for _, room in sorted(self._rooms.items()) if room.members]

    # --- in at the door --------------------------------------------------------------------------

    async def _came(
        self, info: events.ChannelInfo, words: tuple[str, ...], queue: CallQueue, _moment: Moment
    ) -> None:
        try:
            door = Door.of(words)
        except MalformedRequest as error:
            log.error("room_malformed", channel=info.name, error=str(error))
            await self._own.legs.hang_up(info.id, OUTCOMES[Reason.REQUEST_MALFORMED].cause)
            return
        self._dials.hold(queue)
        if not self._own.start(f"room-{door.room}", self._enter(info, door, queue)):
            self._dials.let_go(queue)
            await self._own.legs.hang_up(info.id, NO_CIRCUIT)

    async def _enter(self, info: events.ChannelInfo, door: Door, queue: CallQueue) -> None:
        self._entering.add(info.id)
        cause = NO_CIRCUIT
        try:
            cause = await self._pass_door(info, door, queue)
        except AriRefused as error:
            # Who hangs up at the door is no fault.
            level = logging.INFO if error.status in _GONE else logging.ERROR
            log.log(level, "room_not_entered", channel=info.name, room=door.room, error=str(error))
        finally:
            if cause:
                # Whatever happened: nobody is left standing where nobody comes any more.
                await self._own.legs.hang_up(info.id, cause)
            self._entering.discard(info.id)
            self._dials.let_go(queue)

    async def _pass_door(self, info: events.ChannelInfo, door: Door, queue: CallQueue) -> int:
        """0: it is in the room, or gone. Else the Q.850 cause with which to hang up."""
        channel = self._client.channels.get(info.id)
        # Before anything that takes time: FairDial may die while somebody looks for a PIN.
        await channel.set_variable("TIMEOUT(absolute)", str(ENTRY_S))
        await channel.answer()
        role = await self._ask_pin(channel, door) if door.keys_max else "guest"
        if role is None:
            log.info("pin_refused", channel=info.name, room=door.room)
            return CALL_REJECTED
        return await self._take_seat(info, door, role, queue)

    async def _ask_pin(self, channel: Channel, door: Door) -> Role | None:
        try:
            async with asyncio.timeout(PIN_WITHIN_S):
                for _ in range(PIN_TRIES):
                    # Anew each time: keys that were too many do not begin the next try.
                    self._own.keys.forget(channel.id)
                    self._own.keys.listen(channel.id)
                    log.info("pin_asked", channel=channel.id, room=door.room)
                    role = door.role(await self._typed(channel, door.keys_max))
                    if role is not None:
                        return role
                    await self._own.hear(channel, (_SOUNDS["wrong"],))
        except TimeoutError:
            pass
        finally:
            self._own.keys.forget(channel.id)
        return None

    async def _typed(self, channel: Channel, keys_max: int) -> str:
        """What is typed up to "#", so many keys, or a pause. The prompt ends with the first key."""
        prompt = f"play-{secrets.token_hex(8)}"
        await channel.play(prompt, (_SOUNDS["pin"],))
        key = await self._own.keys.next(channel.id, FIRST_KEY_WITHIN_S)
        await channel.stop_playing(prompt)
        typed = ""
        while key is not None and key != "#":
            typed += key
            if len(typed) == keys_max:
                break
            key = await self._own.keys.next(channel.id, NEXT_KEY_WITHIN_S)
        return typed

    # --- the seat --------------------------------------------------------------------------------

    async def _take_seat(self, info: events.ChannelInfo, door: Door, role: Role, queue: CallQueue) -> int:
        """As `_pass_door`, for somebody who may come in if there is a seat."""
        channel = self._client.channels.get(info.id)
        asked = asked_from(
            channel_id=info.id,
            endpoint=info.endpoint,
            kind=Kind.CONFERENCE,
            number=door.room,
            line=door.line,
            caller=info.caller.number,
            sip_call_id=info.protocol_id,
            encrypted=await self._own.legs.encryption(info),
        )
        # Apart from the dials that the same channel may have asked about before.
        asked = replace(asked, call_id=f"{info.id}-{ROOM}")
        answer, call, _ = await self._dials.ask(asked, queue, info.name, self._own.clock.now())
        if call is None:
            return await self._turn_away(channel, answer)
        if not self._dials.admit(call):
            return 0  # gone meanwhile
        await self._sit_down(_Member(call, door, role))
        return 0

    async def _turn_away(self, channel: Channel, answer: Answer) -> int:
        if answer.prompt:
            await self._own.hear(channel, (f"sound:{answer.prompt}",))
        return answer.cause or NO_CIRCUIT

    async def _sit_down(self, member: _Member) -> None:
        """Into the room, which is opened if need be. Raises AriError."""
        # Before anything else: from its grant on, the switch holds the end.
        channel = self._client.channels.get(member.call.channel)
        await channel.set_variable("TIMEOUT(absolute)", self._lease(member.call))
        room = self._room(_bridge_id(member.call))
        room.users += 1
        try:
            async with room.lock:
                try:
                    await self._join(room, member)
                finally:
                    await self._close_if_empty(room)
        finally:
            self._done_with(room)

    async def _join(self, room: _Room, member: _Member) -> None:
        channel = self._client.channels.get(member.call.channel)
        if member.role == "guest" and not member.door.host_pin and not _has_host(room):
            member.role = "host"
        if member.role == "host":
            await channel.set_variable(HOST_VARIABLE, "1")
        bridge = self._bridge(room)
        await bridge.create()
        self._seat(room, member)
        try:
            if len(room.members) > 1:
                await self._unless_failing(bridge.stop_music())
                await self._announce(room, member, "join")
            await bridge.add(channel.id)
        except BaseException:
            self._unseat(channel.id)
            raise
        log.info("room_joined", room=room.id, call=member.call.call_id, members=len(room.members))
        if len(room.members) == 1:
            await self._unless_failing(channel.play(f"play-{secrets.token_hex(8)}", (_SOUNDS["alone"],)))
            await self._unless_failing(bridge.start_music())

    def _lease(self, call: DialCall) -> str:
        """TIMEOUT(absolute), in seconds, for what is left of the grant; "0" where it has no end."""
        end_ms = lease_end_ms(call.state)
        if end_ms is None:
            return "0"
        return f"{max(1, end_ms - self._own.clock.now().mono_ms) / 1000:.3f}"

    # --- out of it -------------------------------------------------------------------------------

    def _gone(self, channel_id: str, _cause: int) -> None:
        room = self._room_of.get(channel_id)
        if room is None:
            return
        member = room.members[channel_id]
        self._unseat(channel_id)
        room.users += 1
        if not member.call.queue.put(partial(self._after_leaving, room, member)):
            log.error("room_not_tended", room=room.id, call=member.call.call_id)
            self._done_with(room)

    async def _after_leaving(self, room: _Room, member: _Member) -> None:
        try:
            async with room.lock:
                log.info("room_left", room=room.id, call=member.call.call_id, members=len(room.members))
                if member.role == "host" and member.door.ends_with_host and room.members:
                    await self._end(room)
                elif room.members:
                    await self._announce(room, member, "leave")
                    await self._entertain(room)
                await self._close_if_empty(room)
        finally:
            self._done_with(room)

    async def _end(self, room: _Room) -> None:
        """The host is gone: tell the others, and hang up."""
        others = tuple(room.members)
        for channel_id in others:
            self._unseat(channel_id)
        log.info("room_ended", room=room.id, members=len(others))
        try:
            await self._own.hear(self._bridge(room), (_SOUNDS["leader left"],), LEADER_LEFT_WITHIN_S)
        finally:
            await asyncio.gather(*(self._own.legs.hang_up(channel_id) for channel_id in others))

    async def _close_if_empty(self, room: _Room) -> None:
        if not room.members:
            await self._unless_failing(self._bridge(room).destroy())

    # --- what is heard ---------------------------------------------------------------------------

    async def _announce(self, room: _Room, member: _Member, sound: Literal["join", "leave"]) -> None:
        """To all who are in the room now."""
        if not member.door.quiet:
            playback_id = f"play-{secrets.token_hex(8)}"
            await self._unless_failing(self._bridge(room).play(playback_id, (_SOUNDS[sound],)))

    async def _entertain(self, room: _Room) -> None:
        """Music for who is alone."""
        bridge = self._bridge(room)
        await self._unless_failing(bridge.start_music() if len(room.members) == 1 else bridge.stop_music())

    async def _unless_failing(self, request: Awaitable[None]) -> None:
        """A sound that fails keeps nobody out of a room, or in it."""
        try:
            await request
        except AriError as error:
            log.warning("room_request_failed", error=str(error))

    # --- somebody else is called in --------------------------------------------------------------

    async def add(self, room: str, number: str, line_id: str) -> dict[str, object]:
        """Call a number into a room of the account that holds `line_id`; rings when this returns.

        The number must be one that the line may call within its plan, and a seat must be free: it is taken before
        the number rings, metered from its answer on, and free again at once where nobody answers. Raises NotAdded,
        MalformedRequest (both ValueError), LedgerError.
        """
        door = replace(Door.of((room,)), line=line_id)
        ring_s = self._own.rules.ring_s
        outbound = await self._covered(Asked("check", Kind.OUTBOUND, number, line_id, "check", ring_s))
        e164 = outbound.number.e164
        if e164 is None or outbound.decision.account_id is None:
            raise NotAdded(
                f"{number} cannot be called into a conference; give a number of the public network"
            )
        if not self._client.connected:
            raise NotAdded("FairDial is not connected to Asterisk; `fairdial doctor` says why")
        call = await self._keep_seat(door)
        endpoint = self._own.rules.endpoints.of_number(e164)
        with call_log.spoken_of(call.queue.facts):
            started = self._own.start(f"room-{room}", self._ring_in(call, endpoint, door))
        if not started:
            self._dials.abandon(call)
            raise NotAdded("FairDial sets up too many calls now; try again in a moment")
        return {
            "call": call.call_id,
            "room": room,
            "number": e164,
            "line": line_id,
            "channel": call.channel,
            "ringing": True,
        }

    async def _keep_seat(self, door: Door) -> DialCall:
        """A seat for somebody who is going to be rung. Raises NotAdded."""
        channel_id = new_id(self._own.rules.switch)
        queue = self._client.queues.open(channel_id)
        if queue is None:
            raise NotAdded("FairDial takes no further calls now; try again when some have ended")
        call: DialCall | None = None
        try:
            ring_s = self._own.rules.ring_s + round(ANSWER_SLACK_S)
            asked = Asked(own_call_of(channel_id), Kind.CONFERENCE, door.room, door.line, channel_id, ring_s)
            now = self._own.clock.now()
            _, call, outcome = await self._dials.ask(asked, queue, channel_id, now)
        finally:
            # Also where who asked has gone meanwhile.
            if call is None:
                queue.close()
        if call is None:
            reason = outcome.reason if isinstance(outcome, Failed) else outcome.decision.reason
            raise NotAdded(_refusal(door.room, reason))
        return call

    async def _covered(self, asked: Asked) -> Verdict:
        verdict = await self._desk.check(asked)
        decision = verdict.decision
        if isinstance(decision, Refuse):
            raise NotAdded(_refusal(asked.dialled, decision.reason))
        if decision.reason is Reason.BY_CREDIT:
            # The seat is what is metered; nothing would be taken from the credit.
            raise NotAdded(f"{asked.dialled}: only within the plan can a number be called into a conference")
        return verdict

    async def _ring_in(self, call: DialCall, endpoint: str, door: Door) -> None:
        self._entering.add(call.channel)
        ring_s = self._own.rules.ring_s
        is_in = False
        try:
            leg = await self._own.legs.ring(
                call.queue,
                call.channel,
                endpoint,
                ring_s=ring_s,
                lease_s=ring_s + round(ANSWER_SLACK_S) + ENTRY_S,
                call=call,
            )
            call.names[leg.id] = leg.name
            if await self._dials.seated(call, self._own.clock.now()):
                await self._sit_down(_Member(call, door, "called"))
                is_in = True
        except (LegNotAnswered, AriRefused) as error:
            log.info("room_not_entered", channel=call.channel, room=door.room, error=str(error))
        finally:
            if not is_in:
                # The seat first: others may want it.
                self._dials.abandon(call)
                await self._own.legs.hang_up(call.channel, NO_CIRCUIT)
            self._entering.discard(call.channel)

    # --- after a gap -----------------------------------------------------------------------------

    def _look_again(self) -> None:
        """Compare rooms and switch, once for all that is told meanwhile."""
        self._look_wanted = True
        if not self._looking:
            self._looking = self._own.start("rooms", self._look())

    async def _look(self) -> None:
        try:
            while self._look_wanted:
                self._look_wanted = False
                await self._compare()
        finally:
            self._looking = False

    async def _compare(self) -> None:
        """Take those in whose calls are followed and who are in no room, and remove bridges without anybody."""
        listed = await self._client.bridges.list()
        bridges = {bridge.id: bridge.channels for bridge in listed if bridge.id.startswith(BRIDGES)}
        channels = await self._dials.channels()
        for call in tuple(self._dials.calls.values()):
            lost = call.channel not in self._room_of and call.channel not in self._entering
            if call.kind is Kind.CONFERENCE and lost and call.channel in channels:
                await self._find_seat(call, channels[call.channel], bridges)
        for bridge_id, inside in bridges.items():
            # Asked for before anybody else can ask to have it made: no room that opens now loses its bridge.
            if not inside and bridge_id not in self._rooms:
                await self._client.bridges.get(bridge_id).destroy()

    async def _find_seat(
        self, call: DialCall, info: events.ChannelInfo, bridges: Mapping[str, Sequence[str]]
    ) -> None:
        """A call of a conference, of ours or of a dialplan that keeps its own."""
        came_by = _door_of(call, info, self._client.app)
        inside = call.channel in bridges.get(_bridge_id(call), ())
        if came_by is None and not inside:
            return
        door = came_by or Door(call.dialled)
        host = await self._client.channels.get(call.channel).variable(HOST_VARIABLE) == "1"
        # Who was no host before does not become it for having been found first.
        member = _Member(call, door, "host" if host else "called")
        if not inside:
            await self._unless_failing(self._sit_down(member))
            return
        room = self._room(_bridge_id(call))
        room.users += 1
        try:
            async with room.lock:
                # One whose end is being written down is followed still, and gone.
                if call.call_id in self._dials.calls and call.channel in call.channels:
                    self._seat(room, member)
                    await self._entertain(room)
        finally:
            self._done_with(room)

    # --- who is where ----------------------------------------------------------------------------

    def _room(self, bridge_id: str) -> _Room:
        return self._rooms.setdefault(bridge_id, _Room(bridge_id))

    def _done_with(self, room: _Room) -> None:
        room.users -= 1
        if not room.users and not room.members:
            self._rooms.pop(room.id, None)

    def _seat(self, room: _Room, member: _Member) -> None:
        room.members[member.call.channel] = member
        self._room_of[member.call.channel] = room

    def _unseat(self, channel_id: str) -> None:
        room = self._room_of.pop(channel_id, None)
        if room is not None:
            del room.members[channel_id]

    def _bridge(self, room: _Room) -> Bridge:
        return self._client.bridges.get(room.id)


def _bridge_id(call: DialCall) -> str:
    # A room's name has no "-": whatever the account is called, no two rooms have the same id.
    return f"{BRIDGES}{call.account_id}-{call.dialled}"


def _has_host(room: _Room) -> bool:
    return any(member.role == "host" for member in room.members.values())


def _door_of(call: DialCall, info: events.ChannelInfo, app: str) -> Door | None:
    """The door by which a call that is followed again came to our application; None where it is not there."""
    told, word, *words = (*info.dialplan.app_data.split(","), "")
    if info.dialplan.app_name != "Stasis" or told != app:
        return None
    if word == OWN:
        return Door(call.dialled)
    try:
        return Door.of(words[:-1]) if word == ROOM else None
    except MalformedRequest:
        return None


def _refusal(what: str, reason: Reason) -> str:
    return f"{what}: {OUTCOMES[reason].text} ({reason})"


def _row(room: _Room, seats: int) -> dict[str, object]:
    members = sorted(room.members.values(), key=lambda member: member.call.since.wall_ms)
    first = members[0].call
    return {
        "account": first.account_id,
        "room": first.dialled,
        "since_ms": first.since.wall_ms,
        "seats": seats,
        "members": [
            {
                "call": member.call.call_id,
                "line": member.call.line_id,
                "channel": member.call.names.get(member.call.channel, member.call.channel),
                "host": member.role == "host",
                "since_ms": member.call.since.wall_ms,
            }
            for member in members
        ],
    }

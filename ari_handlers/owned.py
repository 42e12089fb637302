"""What calls of FairDial's own need: legs that it rings, keys that people press, sounds that they hear out.

A leg comes back to the application with OWN as its first argument once it answered. Every wait here has a bound,
and every leg gets its lease before it rings, so that it ends though nobody is left to end it. What a call is made
of stands in `callback.py`, `collect.py` and `conference.py`; its grant, its leases and its end in `dial.py`.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import structlog

from ari_handlers import events
from ari_handlers.client import Client
from ari_handlers.dial import Dials, bridge_of, call_of_bridge, call_of_second_leg, second_leg_of
from ari_handlers.followed import DialCall
from ari_handlers.queues import CallQueue
from ari_handlers.resources import AriError, Bridge, Channel
from fairdial import call_log
from fairdial.clock import Clock, Moment
from fairdial.policy.call import Ringing
from fairdial.policy.sizing import LONGEST_HORIZON_S

log = structlog.get_logger(__name__)

OWN = "own"
"""First argument of `Stasis()` for legs that FairDial rang."""

ANSWER_SLACK_S = 2.0
"""Past the ring time, for the switch to say that nobody answered."""

KEYS_MAX = 32
"""Keys of one channel that nobody has read yet; further ones are not kept."""

NO_ANSWER_CAUSE = 19

HEAR_WITHIN_S = 15.0
"""For sounds to be heard out; a missing one, or a link that is down, holds nobody up longer."""


class LegNotAnswered(Exception):
    """The leg is not up: busy, refused, gone, or nobody answered. `cause` is Q.850."""

    def __init__(self, channel_id: str, cause: int) -> None:
        self.cause = cause
        super().__init__(f"leg {channel_id} did not answer: cause {cause}")


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where legs are rung. public: template for a number of the public network, "{number}" is its E.164 form;
    line: for one of our own lines, "{line}" is the endpoint's name.
    """

    public: str = "PJSIP/{number}@carrier"
    line: str = "PJSIP/{line}"

    def __post_init__(self) -> None:
        for name, template, key in (("public", self.public, "{number}"), ("line", self.line, "{line}")):
            if key not in template:
                raise ValueError(f"endpoint {name} {template!r} has no {key}: write it where that belongs")

    def of_number(self, e164: str) -> str:
        """The endpoint for a number in E.164."""
        return self.public.replace("{number}", e164)

    def of_line(self, line_id: str) -> str:
        """The endpoint for a line."""
        return self.line.replace("{line}", line_id)


class Legs:
    """Legs that are being rung, and those that answered until they are forgotten."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._ringing: dict[str, asyncio.Future[events.ChannelInfo]] = {}
        self._waited_for: dict[str, str] = {}
        self._watched: dict[str, bool] = {}

    def __len__(self) -> int:
        return len(self._ringing)

    async def ring(
        self,
        queue: CallQueue,
        channel_id: str,
        endpoint: str,
        *,
        ring_s: int,
        lease_s: int | None,
        caller_id: str = "",
        originator: str | None = None,
        waiter: str | None = None,
        variables: Mapping[str, str] | None = None,
        call: DialCall | None = None,
    ) -> events.ChannelInfo:
        """Ring an endpoint; the channel, once it answered. Its events belong to `queue`.

        call: whose first leg, or only one, this is: its record then says what was asked.

        lease_s: TIMEOUT(absolute) from the first ring on, None: no end is held. waiter: the channel that waits for
        this one, which is given up when that hangs up; the two are known together until `forget`. Raises
        LegNotAnswered, AriError; then the leg is gone, or told to be.
        """
        if waiter is not None:
            self._waited_for[waiter] = channel_id
            self._watched[channel_id] = False
        lease = {} if lease_s is None else {"TIMEOUT(absolute)": str(lease_s)}
        leg = await self._until_here(
            queue,
            channel_id,
            self._client.channels.originate(
                channel_id,
                endpoint,
                app_args=OWN if call is None else asked_in_words(call),
                caller_id=caller_id,
                ring_s=ring_s,
                variables={**lease, **(variables or {})},
                originator=originator,
            ),
            ring_s + ANSWER_SLACK_S,
        )
        # A call that FairDial places has its Call-ID from its first leg on, if nobody asked for it by one.
        call_log.speak_of(queue.key, queue.sip_call_id)
        log.info("leg_answered", channel=leg.name, leg_sip_call_id=leg.protocol_id)
        return leg

    async def whisper(self, queue: CallQueue, snoop_id: str, to: str) -> events.ChannelInfo:
        """A channel on which sounds are heard by whoever is on channel `to`, in Stasis or not, and by nobody else.

        To be hung up by who asked for it. Raises LegNotAnswered, AriError.
        """
        return await self._until_here(
            queue, snoop_id, self._client.channels.get(to).snoop(snoop_id, OWN), ANSWER_SLACK_S
        )

    async def overhear(self, queue: CallQueue, snoop_id: str, whom: str) -> events.ChannelInfo:
        """A channel on which is heard what whoever is on channel `whom` says, though that is not answered.

        To be hung up by who asked for it. Raises LegNotAnswered, AriError.
        """
        return await self._until_here(
            queue, snoop_id, self._client.channels.get(whom).overhear(snoop_id, OWN), ANSWER_SLACK_S
        )

    async def _until_here(
        self, queue: CallQueue, channel_id: str, made: Awaitable[None], within_s: float
    ) -> events.ChannelInfo:
        answered: asyncio.Future[events.ChannelInfo] = asyncio.get_running_loop().create_future()
        self._ringing[channel_id] = answered
        self._client.queues.join(queue, channel_id)
        try:
            async with asyncio.timeout(within_s):
                await made
                return await answered
        except TimeoutError:
            await self.hang_up(channel_id)
            raise LegNotAnswered(channel_id, NO_ANSWER_CAUSE) from None
        except (LegNotAnswered, AriError, asyncio.CancelledError):
            # It may have been made though nobody heard of it, or ring for one who is gone.
            await self.hang_up(channel_id)
            raise
        finally:
            del self._ringing[channel_id]

    def came(self, info: events.ChannelInfo) -> bool:
        """A leg came to the application: it answered. False for one that nobody rings any more."""
        answered = self._ringing.get(info.id)
        if answered is None or answered.done():
            return False
        if info.id in self._watched:
            self._watched[info.id] = True
        answered.set_result(info)
        return True

    def gone(self, channel_id: str, cause: int) -> None:
        """A channel is gone, and with it the reason to ring for it."""
        if channel_id in self._watched:
            self._watched[channel_id] = False
        for leg in (channel_id, self._waited_for.get(channel_id)):
            answered = self._ringing.get(leg) if leg is not None else None
            if answered is not None and not answered.done():
                answered.set_exception(LegNotAnswered(channel_id, cause))
                answered.exception()  # counts as seen: who rang may have given up already

    def is_up(self, channel_id: str) -> bool:
        """Whether a leg that another waited for answered, and is not gone since; until `forget`."""
        return self._watched.get(channel_id, False)

    def waited_for_by(self, channel_id: str) -> str | None:
        """The leg that this channel waits for, or waited for; until `forget`."""
        return self._waited_for.get(channel_id)

    def forget(self, waiter: str) -> None:
        """This channel and the leg that it waited for talk, or are given up."""
        self._watched.pop(self._waited_for.pop(waiter, ""), None)

    async def encryption(self, info: events.ChannelInfo) -> str:
        """Of an answered leg, as `fairdial/answer.py` takes it: two digits, signalling and media. Raises AriError."""
        if not info.name.startswith("PJSIP/"):
            return ""
        channel = self._client.channels.get(info.id)
        found = await asyncio.gather(
            channel.variable("CHANNEL(pjsip,secure)"), channel.variable("CHANNEL(rtp,secure)")
        )
        return "".join("1" if each == "1" else "0" for each in found)

    async def hang_up(self, channel_id: str, cause: int = 16) -> None:
        """Hang up; a link that is down leaves it to the leg's lease."""
        try:
            await self._client.channels.get(channel_id).hangup(cause)
        except AriError as error:
            log.warning("leg_not_hung_up", channel=channel_id, error=str(error))


@dataclass(slots=True)
class _Pressed:
    keys: list[str] = field(default_factory=list)
    more: asyncio.Event = field(default_factory=asyncio.Event)
    gone: bool = False


class Keys:
    """Keys pressed on channels that somebody listens to."""

    def __init__(self) -> None:
        self._pressed: dict[str, _Pressed] = {}

    def listen(self, channel_id: str) -> None:
        """From now on keys of that channel are kept, until `forget`."""
        self._pressed.setdefault(channel_id, _Pressed())

    def forget(self, channel_id: str) -> None:
        """No longer listen."""
        self._pressed.pop(channel_id, None)

    def press(self, channel_id: str, key: str) -> None:
        """A key was pressed."""
        pressed = self._pressed.get(channel_id)
        if pressed is not None and len(pressed.keys) < KEYS_MAX:
            pressed.keys.append(key)
            pressed.more.set()

    def gone(self, channel_id: str) -> None:
        """The channel is gone: nobody will press a key."""
        pressed = self._pressed.get(channel_id)
        if pressed is not None:
            pressed.gone = True
            pressed.more.set()

    async def next(self, channel_id: str, within_s: float) -> str | None:
        """The next key, in order; None where none came in time or the channel is gone. After `listen`."""
        pressed = self._pressed[channel_id]
        try:
            async with asyncio.timeout(within_s):
                while not pressed.keys:
                    if pressed.gone:
                        return None
                    pressed.more.clear()
                    await pressed.more.wait()
        except TimeoutError:
            return None
        return pressed.keys.pop(0)


def rings(call: DialCall) -> bool:
    """Whether a call is still being set up."""
    return isinstance(call.state, Ringing)


def talk_s(call: DialCall) -> int:
    """How long a call that is being set up may talk, for the lease of its legs.

    One without a limit has one here too: FairDial may be gone when one of two legs hangs up and the other is left.
    """
    granted_s = call.state.granted_s if isinstance(call.state, Ringing) else 0
    return LONGEST_HORIZON_S if granted_s is None else granted_s


def asked_in_words(call: DialCall) -> str:
    """What a channel of ours comes back to the application with. Its call detail record has it too (`lastdata`, which
    Asterisk cuts at 79 characters), where nothing else says what was dialled, and for whom.
    """
    return f"{OWN},{call.kind},{call.dialled},{call.line_id}"


def new_id(switch: str) -> str:
    """An id for a channel of our own; it begins with the switch's name, as those of the switch do."""
    prefix = f"{switch}-" if switch else ""
    return f"{prefix}own-{secrets.token_hex(8)}"


SweepHandler = Callable[[Set[str]], Awaitable[None]]
"""Hears the ids of all channels of the switch. Raises AriError."""


@dataclass(frozen=True, slots=True)
class OwnRules:
    """endpoints: where legs are rung. switch: systemname, with which ids of our own begin too. ring_s: how long a
    leg may ring. calls_max: set-ups under way at once.
    """

    endpoints: Endpoints = field(default_factory=Endpoints)
    switch: str = ""
    ring_s: int = 60
    calls_max: int = 1_000


class OwnCalls:
    """The parts that every call of our own is made with, and its tasks while it is set up."""

    def __init__(self, client: Client, dials: Dials, clock: Clock, rules: OwnRules) -> None:
        self.client = client
        self.dials = dials
        self.clock = clock
        self.rules = rules
        self.legs = Legs(client)
        self.keys = Keys()
        self._tasks: set[asyncio.Task[None]] = set()
        self._on_sweep: list[SweepHandler] = []
        dials.on_stasis(OWN, self._leg_came)
        dials.on_gone(self._leg_gone)
        client.on_channel_event("ChannelDtmfReceived", self._key_pressed)

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> bool:
        """Set a call up in the background; False past the bound."""
        if len(self._tasks) >= self.rules.calls_max:
            work.close()
            log.error("call_not_set_up", call=name, under_way=len(self._tasks))
            return False
        task = asyncio.create_task(self._guarded(name, work), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # One that is given up before it began would leave its work behind, never awaited.
        task.add_done_callback(lambda _: work.close())
        return True

    async def stop(self) -> None:
        """Give up what is being set up; calls that talk go on."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def hear(
        self, channel: Channel | Bridge, media: Sequence[str], within_s: float = HEAR_WITHIN_S
    ) -> bool:
        """Play sounds to the end; False where they were not heard out in time. Never raises AriError."""
        return await self.client.playbacks.hear_out(channel, media, within_s)

    async def join(self, call: DialCall, second: events.ChannelInfo, moment: Moment) -> bool:
        """Let both legs of a call hear each other; it is metered from `moment` on. False where one is gone.

        Raises AriError.
        """
        bridge = self.client.bridges.get(bridge_of(call.call_id))
        await bridge.create()
        await bridge.add(call.channel, second.id)
        if not self.legs.is_up(second.id):
            return False
        await self.dials.bridged(call, second, moment)
        return call.bridged

    async def give_up(self, call: DialCall, cause: int = 16, *, keep_first: bool = False) -> None:
        """A call that is not to be: its grant goes back and its legs are hung up. keep_first: not the first one."""
        self.dials.abandon(call)
        await self.legs.hang_up(second_leg_of(call.call_id), cause)
        if not keep_first:
            await self.legs.hang_up(call.channel, cause)
        await self._destroy(bridge_of(call.call_id))

    def on_sweep(self, handler: SweepHandler) -> None:
        """Let `handler` remove what else of an earlier run is left."""
        self._on_sweep.append(handler)

    async def sweep(self) -> None:
        """End second legs and bridges of calls that nobody follows, left by an earlier run. Raises AriError."""
        channel_ids = (await self.dials.channels()).keys()
        for channel_id in channel_ids:
            call_id = call_of_second_leg(channel_id)
            if call_id is not None and not self.dials.follows(call_id):
                await self.legs.hang_up(channel_id)
        for bridge in await self.client.bridges.list():
            call_id = call_of_bridge(bridge.id)
            if call_id is not None and not self.dials.follows(call_id):
                await self._destroy(bridge.id)
        for handler in self._on_sweep:
            await handler(channel_ids)

    async def _destroy(self, bridge_id: str) -> None:
        try:
            await self.client.bridges.get(bridge_id).destroy()
        except AriError as error:
            log.warning("bridge_not_destroyed", bridge=bridge_id, error=str(error))

    async def _guarded(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except AriError as error:
            log.error("call_set_up_failed", call=name, error=str(error))
        except Exception:
            log.exception("call_set_up_failed", call=name)

    async def _leg_came(
        self, info: events.ChannelInfo, _args: tuple[str, ...], _queue: CallQueue, _moment: Moment
    ) -> None:
        if not self.legs.came(info):
            # Answered when its call was given up.
            await self.legs.hang_up(info.id)

    def _leg_gone(self, channel_id: str, cause: int) -> None:
        self.legs.gone(channel_id, cause)
        self.keys.gone(channel_id)
        waited_for = self.legs.waited_for_by(channel_id)
        if waited_for is not None:
            self.keys.gone(waited_for)

    async def _key_pressed(self, channel: Channel, event: events.CallEvent, _moment: Moment) -> None:
        assert isinstance(event, events.ChannelDtmfReceived)
        self.keys.press(channel.id, event.digit)

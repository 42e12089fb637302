"""The connections between FairDial and the switch: the event socket, HTTP and AMI, each of which may break.

FairDial's own ARI client runs on them; only its transport is replaced. A connection that breaks loses what is under
way in both directions, and each end learns of it in its own time.
"""

import asyncio
import random
from collections import deque
from dataclasses import dataclass
from typing import Any, cast

import aiohttp
import msgspec

from ari_handlers.client import AriSettings, Client
from ari_handlers.leases import LeaseNotSet
from ari_handlers.queues import CallQueues
from ari_handlers.resources import AriTimeout, AriUnavailable
from fairdial.clock import Clock
from tests.simulation.loop import US_PER_MS, Pipe, SimulatedLoop, Timeline
from tests.simulation.switch import Switch

SLOWEST_US = 300 * US_PER_MS
"""The slowest message, one way."""
AMI_SLOWEST_US = 400 * US_PER_MS
AMI_WITHIN_S = 1.0
"""As `ami.action_timeout_s`."""
SETTINGS = AriSettings("simulated", "fairdial", "", request_timeout_s=2.0, backoff_s=(0.05, 5.0))


@dataclass(slots=True)
class Network:
    """What carries messages, and its weather. ami_lost: the share of AMI actions without an answer, done or not."""

    timeline: Timeline
    chance: random.Random
    switch: Switch
    ami_lost: float = 0.0
    http_lost: float = 0.0
    socket: "EventSocket | None" = None
    switch_is_up: bool = True

    def break_link(self, noticed_us: int) -> None:
        """The event socket breaks: for the switch at once, FairDial notices later."""
        socket, self.socket = self.socket, None
        self.switch.deliver = None
        self.switch.follows_all = False
        if socket is not None:
            socket.lose(noticed_us)

    def drop_process(self) -> None:
        """FairDial died: what it sent before still arrives, the switch notices a moment later."""
        socket = self.socket
        if socket is not None:
            socket.to_server.open = False
            self.timeline.after(int(self.chance.random() * 5 * US_PER_MS), lambda: self._gone(socket))

    def _gone(self, socket: "EventSocket") -> None:
        if self.socket is socket:
            self.break_link(0)


class Frame:
    """One message of the event socket, as aiohttp hands it out."""

    __slots__ = ("data",)
    type = aiohttp.WSMsgType.TEXT

    def __init__(self, data: bytes) -> None:
        self.data = data


class EventSocket:
    """Stands where the client has its websocket."""

    def __init__(self, network: Network, loop: SimulatedLoop) -> None:
        timeline, chance = network.timeline, network.chance
        self._network = network
        self._loop = loop
        self._frames: deque[bytes | None] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self.closed = False
        self.to_server = Pipe(timeline, chance, SLOWEST_US)
        self.to_switch = Pipe(timeline, chance, SLOWEST_US)

    # --- FairDial's end ----------------------------------------------------------------------------

    def get_extra_info(self, _name: str) -> None:
        """There is no socket underneath."""

    def __aiter__(self) -> "EventSocket":
        return self

    async def __anext__(self) -> Frame:
        while not self._frames:
            if self.closed:
                raise StopAsyncIteration
            self._waiter = self._loop.create_future()
            await self._waiter
        data = self._frames.popleft()
        if data is None:
            raise StopAsyncIteration
        return Frame(data)

    async def send_frame(self, frame: bytes, _kind: object) -> None:
        """Send a request."""
        if self.closed:
            raise ConnectionResetError("the connection broke")
        self.to_switch.send(lambda: self._request(frame))

    async def close(self) -> None:
        """FairDial is done with it."""
        if not self.closed:
            self.closed = True
            if self._network.socket is self:
                self._network.break_link(0)

    def _arrive(self, data: bytes | None) -> None:
        if self._loop.dead:
            return
        self._frames.append(data)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # --- the switch's end ---------------------------------------------------------------------------

    def deliver(self, data: bytes) -> None:
        """Send an event or an answer."""
        self.to_server.send(lambda: self._arrive(data))

    def lose(self, noticed_us: int) -> None:
        """Nothing passes any more."""
        self.to_server.open = self.to_switch.open = False
        self._network.timeline.after(noticed_us, lambda: self._arrive(None))

    def _request(self, frame: bytes) -> None:
        request = msgspec.json.decode(frame)
        query = {entry["name"]: entry["value"] for entry in request["query_strings"]}
        status, body = self._network.switch.rest(request["method"], request["uri"], query)
        answer = {
            "type": "RESTResponse",
            "timestamp": self._network.switch.timestamp(),
            "request_id": request["request_id"],
            "status_code": status,
            "reason_phrase": "",
            "message_body": body,
        }
        self.deliver(msgspec.json.encode(answer))


class SimulatedClient(Client):
    """The ARI client, all but its transport."""

    def __init__(self, network: Network, clock: Clock, queues: CallQueues, loop: SimulatedLoop) -> None:
        super().__init__(SETTINGS, clock, queues)
        self._network = network
        self._loop = loop

    async def _stay_connected(self) -> None:
        # As the client does, without aiohttp's session, which would be made and closed in every run.
        shortest_s, longest_s = self.settings.backoff_s
        wait_s = shortest_s
        while True:
            held = await self._one_connection(cast(Any, None))
            if self.fenced.is_set():
                return
            wait_s = shortest_s if held else wait_s
            await asyncio.sleep(wait_s * self._network.chance.uniform(0.5, 1.0))
            wait_s = min(longest_s, wait_s * 2)

    async def _connect(self, session: aiohttp.ClientSession) -> Any:
        network = self._network
        await asyncio.sleep(network.chance.random() * 0.01)
        if not network.switch_is_up:
            raise ConnectionRefusedError("the switch is not there")
        # The last to connect has the application; the socket of a process that died may not have been noticed.
        network.break_link(0)
        network.socket = EventSocket(network, self._loop)
        network.switch.deliver = network.socket.deliver
        return network.socket

    async def fetch(self, path: str) -> str:
        network = self._network
        if self._socket is None:
            raise AriUnavailable(f"GET {path}: not connected to Asterisk")
        await asyncio.sleep(network.chance.random() ** 4 * 0.3)
        if network.socket is None or network.chance.random() < network.http_lost:
            await asyncio.sleep(self.settings.request_timeout_s)
            raise AriTimeout(f"GET {path}: no answer")
        switch = network.switch
        body = switch.listing() if path == "channels" else switch.bridges()
        await asyncio.sleep(network.chance.random() ** 4 * 0.3)
        return body


class Ami:
    """The AMI link: actions arrive in order; an answer may be lost, and so may the action."""

    def __init__(self, network: Network, loop: SimulatedLoop) -> None:
        self._network = network
        self._loop = loop
        self._to_switch = Pipe(network.timeline, network.chance, AMI_SLOWEST_US)

    async def set_lease(self, channel_name: str, lease_ms: int) -> None:
        """As `AmiLink.set_lease`, with the errors that `main` makes of its own."""
        network = self._network
        answer: asyncio.Future[bool] = self._loop.create_future()
        lost = network.chance.random()
        if not network.switch_is_up or lost < network.ami_lost / 3:
            raise LeaseNotSet("no AMI connection")

        def arrive() -> None:
            done = network.switch.setvar_lease(channel_name, lease_ms)
            if lost >= network.ami_lost:
                network.timeline.after(500, lambda: self._answer(answer, done))

        if lost >= network.ami_lost * 2 / 3:
            self._to_switch.send(arrive)
        try:
            async with asyncio.timeout(AMI_WITHIN_S):
                found = await answer
        except TimeoutError:
            raise LeaseNotSet("no answer") from None
        if not found:
            raise LeaseNotSet("no such channel")

    def _answer(self, answer: "asyncio.Future[bool]", done: bool) -> None:
        if not self._loop.dead and not answer.done():
            answer.set_result(done)

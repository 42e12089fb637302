"""One FairDial process: desk, ledger, dials and rounds put together as `fairdial/serving.py` does."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC
from typing import cast

from ari_handlers.adoption import Adoption
from ari_handlers.dial import CUT_CAUSE, DialRules, Dials
from ari_handlers.leases import LeaseRules
from ari_handlers.orphans import Orphans
from ari_handlers.queues import CallQueues
from ari_handlers.resources import AriError
from fairdial.answer import asked_from, endpoint_of
from fairdial.cdr_file import CdrFile
from fairdial.clock import Clock
from fairdial.desk import Desk, DeskRules
from fairdial.evidence import Evidence
from fairdial.ledger.contract import LedgerError
from fairdial.ledger.sqlite import SqliteLedger
from fairdial.policy.sizing import GrantRules
from fairdial.records import SwitchRecords
from fairdial.rounds import Hands, Rounds
from fairdial.serving import STOP_WITHIN_S
from tests.simulation.customers import BOOK, CARDS, NUMBERING
from tests.simulation.loop import SimulatedLoop
from tests.simulation.network import Ami, Network, SimulatedClient
from tests.simulation.records import RecordFile
from tests.simulation.store import Disk, SimulatedWriter
from tests.simulation.switch import Channel

RECORD_WAIT_S = 10.0
"""As `cdr.wait_s`."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What an operator sets. useful_s, slice_s, renew_lead_s, reconcile_every_s: as in `fairdial.toml`.

    records: whether the switch's records are read. prove_every_s: how often the switch is asked for a sign of life.
    """

    useful_s: int
    slice_s: int
    renew_lead_s: int
    reconcile_every_s: float
    records: bool
    prove_every_s: float


class Server:
    """A process: `start`, then the world runs its loop until `kill`."""

    def __init__(
        self,
        network: Network,
        disk: Disk,
        clock: Clock,
        chance: random.Random,
        settings: Settings,
        *,
        in_order: bool,
    ) -> None:
        self.loop = SimulatedLoop(network.timeline, chance, in_order=in_order)
        self.stopped = False
        self._network = network
        self._writer = SimulatedWriter(disk)
        self._ledger = SqliteLedger(self._writer)
        rules = DeskRules(grants=GrantRules(settings.useful_s, settings.slice_s))
        self.desk = Desk(self._ledger, BOOK, NUMBERING, clock, rules)
        self.desk.cards = CARDS
        self._queues = CallQueues()
        self.client = SimulatedClient(network, clock, self._queues, self.loop)
        leases = LeaseRules(settings.renew_lead_s)
        self.ami = Ami(network, self.loop)
        self.dials = Dials(self.client, self.desk, self.ami.set_lease, clock, DialRules(leases))
        self._records = SwitchRecords(None, UTC, UTC, clock)
        if settings.records:
            file: object = RecordFile(network.switch.records, chance)
            self._records._file = cast(CdrFile, file)
        adoption = Adoption(self.dials, self.client, self.desk, clock)
        orphans = Orphans(self.client, self.dials, adoption, self.desk, clock)
        hands = Hands(
            connected=lambda: self.client.connected,
            began_ms=lambda: self.client.switch_began_ms,
            ping=self.client.asterisk.ping,
            orphans=orphans.look,
            sweep=_sweep_nothing,
            cut=lambda call_id: self.dials.hangup(call_id, CUT_CAUSE),
            failure=AriError,
        )
        self._rounds = Rounds(
            self.desk,
            adoption,
            hands,
            clock,
            switch="",
            every_s=settings.reconcile_every_s,
            evidence=Evidence(self._records, RECORD_WAIT_S if settings.records else 0.0),
            records=self._records,
            prove_every_s=settings.prove_every_s,
        )
        self.dials.unseen.on_unseen(self._rounds.soon)
        self._agi: set[asyncio.Task[None]] = set()
        self.client.on_connected(self._on_connected)

    def start(self) -> None:
        """Begin; the loop is this process's from now on."""
        self._network.switch.ask_by_agi = self._begin_agi
        self.loop.begin(self._start())

    async def _start(self) -> None:
        await self._writer.open()
        try:
            await self._rounds.start()
        except LedgerError:
            # `serve` ends with an error, and whoever looks after it starts it again.
            self.stopped = True
            return
        await self.client.start()

    def begin_stop(self) -> None:
        """SIGTERM."""
        self.loop.create_task(self._stop())

    async def _stop(self) -> None:
        self.dials.stop_granting()
        self.dials.stop_timers()
        await self._rounds.stop()
        await self._queues.stop(STOP_WITHIN_S)
        await self.client.stop()
        await self.desk.close()
        await self._ledger.close()
        self.stopped = True

    def kill(self) -> None:
        """SIGKILL: nothing of it runs any more, what it sent is on its way."""
        self.loop.die()
        self._writer.cut()
        self._network.drop_process()
        self._network.switch.ask_by_agi = lambda _channel, _told: False

    async def _on_connected(self, restarted: bool) -> None:
        del restarted
        await self._rounds.make(after_gap=True)

    def _begin_agi(self, channel: Channel, told: Callable[[str], None]) -> bool:
        """A dialplan asks by AGI, as `agi_app/authorise.py` hands it on."""
        task = self.loop.create_task(self._answer_agi(channel, told))
        self._agi.add(task)
        task.add_done_callback(self._agi.discard)
        return True

    async def _answer_agi(self, channel: Channel, told: Callable[[str], None]) -> None:
        asking = channel.asking
        asked = asked_from(
            channel_id=channel.id,
            endpoint=endpoint_of(channel.name),
            kind=asking.kind,
            number=asking.number,
            attempt=str(channel.attempt),
            ring_s=str(asking.ring_s),
            encrypted="11",
        )
        answer = await self.dials.begin(asked, channel.name)
        await asyncio.sleep(0.0005)
        told(answer.packed())


async def _sweep_nothing() -> None:
    """FairDial places no calls of its own here."""

"""Several FairDials on one ledger: who looks after whose calls.

A node holds a lease on the calls of its switch and renews it all the time. One whose lease runs out (killed, frozen,
cut off from the store) has its calls taken over by another, which settles each once its own lease on the switch must
have cut it, by what the dead node left: when it was answered, until when it was proven up, and the switch's records
where they can be read from here. A node that comes back finds that its epoch is over: the store refuses what it still
had to write, until it has taken its switch back and compared it with the ledger.

Nodes ask each other through the store too, which is looked at each second: to end calls of who was barred, and to hang
a call up. What is done on the switch is handed in; the rules of evidence are `evidence.py`, settling `reconcile.py`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import structlog

from fairdial.clock import Clock, Moment
from fairdial.desk import Desk
from fairdial.evidence import Evidence, Use
from fairdial.ledger.contract import Fenced, Grant, LedgerError, Node, OrderKind, Tenure
from fairdial.policy.periods import MS_PER_S
from fairdial.reconcile import reconcile
from fairdial.records import SwitchRecords
from fairdial.whose import is_of

log = structlog.get_logger(__name__)

RENEWALS: Final = 3
"""In the time of a lease: one or two may fail before it runs out."""
OBEY_EVERY_S: Final = 1.0
FORGET_EVERY: Final = 60
"""Times that orders were looked at, until old ones are forgotten."""
HANG_UP_WITHIN_S: Final = 4.0
ASKED_EVERY_S: Final = 0.2
ENDLESS_MS: Final = 4 * 3_600_000
"""After which a call without an end counts as over, where the node that followed it is gone for so long."""


class OutOfReach(ValueError):
    """The call is another node's, which does not answer; the text names it."""


@dataclass(frozen=True, slots=True)
class NodeRules:
    """switch: its name. owner: this FairDial, of its kind the only one ever; place: where it runs, for people.

    lease_s: after which a node that is not heard of has its calls taken over. settle_after_s: so long after a call's
    own lease must have cut it, it is settled by another.
    """

    switch: str
    owner: str
    place: str
    lease_s: float
    settle_after_s: float

    @property
    def lease_ms(self) -> int:
        """In milliseconds."""
        return round(self.lease_s * MS_PER_S)


@dataclass(frozen=True, slots=True)
class NodeHands:
    """What is done on this node's switch. All may raise `failure`.

    live: calls that are followed. places: whether FairDial itself sets a call up, by its id. cut, hang_up: end a call,
    false where it is not live. compare: make a round, as after missed events. end_barred: end calls of who was barred.
    """

    live: Callable[[], Collection[str]]
    places: Callable[[str], bool]
    cut: Callable[[str], Awaitable[bool]]
    hang_up: Callable[[str], Awaitable[bool]]
    compare: Callable[[], Awaitable[None]]
    end_barred: Callable[[], Awaitable[None]]
    failure: type[Exception]


class _Gone:
    """`Follower` of a switch that nobody can ask: no channel is known to be up."""

    def __init__(self, places: Callable[[str], bool]) -> None:
        self.places = places

    def follows(self, call_id: str) -> bool:
        del call_id
        return False

    def seen(self, call_id: str) -> Use | None:
        del call_id
        return None

    def answered_ms(self, call_id: str) -> int | None:
        del call_id
        return None

    def forget(self, call_id: str) -> None:
        del call_id

    async def channels(self) -> Mapping[str, None]:
        return {}

    async def adopt(self, grant: Grant, up: Mapping[str, None]) -> bool:
        del grant, up
        return False

    async def refresh(
        self,
        up: Mapping[str, None],
        listed: Moment,
        *,
        after_gap: bool,
        only: Collection[str] | None = None,
    ) -> None:
        del up, listed, after_gap, only


def surely_over(grant: Grant, node: Node, settle_after_ms: int) -> bool:
    """Whether a call of a node that is gone must have been cut by its switch, by the store's clock.

    The switch counts its lease from the answer, or from the dial with the time to ring; instants of a grant are by the
    clock of its own node. One without an end is nobody's to judge for hours.
    """
    if grant.granted_s is None:
        since_ms = node.until_ms if node.lapsed_ms is None else node.lapsed_ms
        return node.now_ms - since_ms >= ENDLESS_MS
    since_ms = (
        grant.authorised_ms + grant.ring_s * MS_PER_S if grant.answered_ms is None else grant.answered_ms
    )
    return node.now_ms + node.skew_ms >= since_ms + grant.granted_s * MS_PER_S + settle_after_ms


class Nodes:
    """This node among the others. records_of: those of another's switch, None where they cannot be read here.

    replaced: another FairDial serves this switch now. skew_ms: by how much its clock is ahead of the store's.
    """

    def __init__(
        self,
        desk: Desk,
        hands: NodeHands,
        clock: Clock,
        rules: NodeRules,
        records_of: Callable[[str], SwitchRecords | None] = lambda _switch: None,
    ) -> None:
        self._desk = desk
        self._hands = hands
        self._clock = clock
        self._rules = rules
        self._records_of = records_of
        self._records: dict[str, SwitchRecords | None] = {}
        self._taken: dict[str, Tenure] = {}
        self._held_until_ms = 0
        self._obeyed: frozenset[int] = frozenset()
        self._looks = 0
        self._was_fenced = False
        self.skew_ms = 0
        self._tasks: list[asyncio.Task[None]] = []
        self.replaced = asyncio.Event()

    @property
    def taken(self) -> Collection[str]:
        """Switches of others that this node looks after."""
        return tuple(self._taken)

    @property
    def lease_left_s(self) -> float:
        """How long the lease on its own switch holds, for all that is known here; 0: it may be another's."""
        return max(0, self._held_until_ms - self._clock.now().mono_ms) / MS_PER_S

    async def start(self) -> None:
        """Take the switch; whoever served it before is fenced off. Raises LedgerError."""
        await self._take(again=False)
        loops = (
            (self._hold, self._rules.lease_s / RENEWALS),
            (self._look, self._rules.lease_s / RENEWALS),
            (self._obey, OBEY_EVERY_S),
            (self._make_good, OBEY_EVERY_S),
        )
        self._tasks = [
            asyncio.create_task(self._repeat(work, every_s), name="nodes") for work, every_s in loops
        ]

    async def stop(self) -> None:
        """End. The lease runs out by itself: a FairDial that is started again until then finds its calls untouched."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        for switch in tuple(self._records):
            await self._let_go(switch)

    async def _repeat(self, work: Callable[[], Awaitable[None]], every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            try:
                await work()
            except (LedgerError, TimeoutError, self._hands.failure) as error:
                log.warning("nodes_not_looked_at", error=str(error))
            except Exception as error:
                log.error("nodes_not_looked_at", error=repr(error), exc_info=error)

    # --- its own switch --------------------------------------------------------------------------

    async def _take(self, *, again: bool) -> bool:
        rules, now = self._rules, self._clock.now()
        tenure = await self._desk.ledger.take_switch(
            rules.switch, rules.owner, rules.place, rules.lease_ms, now.wall_ms, again=again
        )
        if tenure is None:
            return False
        self._held_until_ms = now.mono_ms + rules.lease_ms
        log.info("switch_taken", switch=rules.switch, epoch=tenure.epoch)
        return True

    async def _hold(self) -> None:
        if self.replaced.is_set():
            return
        now = self._clock.now()
        try:
            async with asyncio.timeout(self._rules.lease_s):
                await self._desk.ledger.renew_switch(self._rules.lease_ms, now.wall_ms)
        except Fenced:
            await self._come_back()
            return
        self._held_until_ms = now.mono_ms + self._rules.lease_ms

    async def _come_back(self) -> None:
        """The lease ran out, and another has looked after the calls since."""
        log.error("fenced", switch=self._rules.switch)
        if not await self._take(again=True):
            log.critical(
                "replaced", switch=self._rules.switch, cure="another FairDial serves this switch: stop one"
            )
            self.replaced.set()
            return
        self._was_fenced = True

    async def _make_good(self) -> None:
        """Once it is back: not in the way of the next renewal, and again where it fails."""
        if not self._was_fenced:
            return
        await self._hands.compare()
        for call_id in self._hands.live():
            grant = await self._desk.ledger.grant(call_id)
            # Settled meanwhile, it is paid for no longer.
            if grant is not None and not grant.live and await self._hands.cut(call_id):
                log.warning("settled_call_ended", call=call_id)
        self._was_fenced = False

    # --- the others' -----------------------------------------------------------------------------

    async def _look(self) -> None:
        ledger, rules = self._desk.ledger, self._rules
        for switch, tenure in tuple(self._taken.items()):
            try:
                await ledger.hold_over(tenure, rules.lease_ms)
            except Fenced:
                log.info("switch_given_back", switch=switch)
                await self._let_go(switch)
        for node in await ledger.nodes():
            if node.lapsed and node.switch != rules.switch and node.switch not in self._taken:
                taken = await ledger.take_over(node.switch, rules.switch, rules.lease_ms)
                if taken is not None:
                    self._taken[node.switch] = taken
                    log.error("switch_taken_over", switch=node.switch, place=node.place, epoch=taken.epoch)
        for node in await ledger.nodes():
            if node.switch == rules.switch:
                self.skew_ms = node.skew_ms
            if node.switch in self._taken:
                await self._settle(node, self._taken[node.switch])

    async def _let_go(self, switch: str) -> None:
        self._taken.pop(switch, None)
        records = self._records.pop(switch, None)
        if records is not None:
            await records.close()

    async def _settle(self, node: Node, tenure: Tenure) -> None:
        """Settle those of its calls that are over. By that tenure: a node that is back is not in the way of its own."""
        ledger = self._desk.ledger.on_behalf(tenure)
        settle_after_ms = round(self._rules.settle_after_s * MS_PER_S)

        def is_due(grant: Grant) -> bool:
            return is_of(node.switch, grant.call_id) and surely_over(grant, node, settle_after_ms)

        due = [grant for grant in await ledger.live_grants() if is_due(grant)]
        if not due:
            return
        seen = await ledger.seen(node.switch)
        evidence = Evidence(await self._evidence_of(node.switch, due))
        # Nobody knows whether its switch lives: where no record says otherwise, calls were up while that was proven.
        evidence.restarted_ms = node.now_ms + node.skew_ms
        evidence.proven_ms = None if seen is None else seen.proven_ms
        made = await reconcile(
            self._desk.on_behalf(ledger),
            _Gone(self._hands.places),
            self._clock,
            belongs=is_due,
            after_gap=False,
            evidence=evidence,
        )
        log.warning("settled_for_another", switch=node.switch, calls=made.settled)

    async def _evidence_of(self, switch: str, due: Collection[Grant]) -> SwitchRecords | None:
        if switch not in self._records:
            records = self._records_of(switch)
            if records is not None:
                await records.begin(min(grant.authorised_ms for grant in due) - 2 * MS_PER_S)
            self._records[switch] = records
        return self._records[switch]

    # --- what nodes ask of each other ------------------------------------------------------------

    async def _obey(self) -> None:
        ledger = self._desk.ledger
        orders = await ledger.orders()
        fresh = [order for order in orders if order.id not in self._obeyed]
        if any(order.what is OrderKind.LOOK for order in fresh):
            await self._hands.end_barred()
        for order in fresh:
            call_id = order.call_id
            if call_id is None or order.outcome is not None or not is_of(self._rules.switch, call_id):
                continue
            hung_up = await self._hands.hang_up(call_id)
            await ledger.carried_out(order.id, "hung up" if hung_up else "not live")
        # Only now: what failed is done again at the next look.
        self._obeyed = frozenset(order.id for order in orders)
        self._looks += 1
        if self._looks % FORGET_EVERY == 0:
            await ledger.forget_orders()

    async def hang_up(self, call_id: str) -> bool:
        """End a call that may be on another switch; false where it is not live. Raises OutOfReach, LedgerError."""
        ledger = self._desk.ledger
        grant = await ledger.grant(call_id)
        if grant is None or not grant.live or is_of(self._rules.switch, call_id):
            return False
        node = next((node for node in await ledger.nodes() if is_of(node.switch, call_id)), None)
        if node is None:
            raise OutOfReach(f"call {call_id} is on a switch that this FairDial does not know; hang up there")
        if node.taken_by or node.lapsed:
            raise OutOfReach(
                f"call {call_id} is on switch {node.switch}, and its FairDial ({node.place}) has not been heard of"
                f" since {_clock_text(node.until_ms if node.lapsed_ms is None else node.lapsed_ms)};"
                " hang up at that Asterisk, or let its lease end it"
            )
        order_id = await ledger.order(OrderKind.HANGUP, call_id)
        try:
            async with asyncio.timeout(HANG_UP_WITHIN_S):
                while True:
                    await asyncio.sleep(ASKED_EVERY_S)
                    for order in await ledger.orders():
                        if order.id == order_id and order.outcome is not None:
                            return order.outcome == "hung up"
        except TimeoutError:
            raise OutOfReach(
                f"call {call_id} is on switch {node.switch}, and its FairDial ({node.place}) did not answer within"
                f" {HANG_UP_WITHIN_S:g} s; ask there"
            ) from None


def _clock_text(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / MS_PER_S, UTC).strftime("%H:%M:%S UTC")

"""The lease of each call as time goes on: set on every leg, renewed while there is more, warned of before it cuts.

The switch holds the end (TIMEOUT(absolute)); this module only moves it. How it is set is handed in, and who
warns too. One timer a call for the next renewal, one for the next warning.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import structlog

from ari_handlers.followed import DialCall
from fairdial.clock import Clock
from fairdial.desk import Desk
from fairdial.ledger.contract import LedgerError, LedgerUnavailable
from fairdial.policy.call import Renewed, Talking, lease_end_ms, renew_at_ms
from fairdial.tallies import Tally

log = structlog.get_logger(__name__)


ASK_AGAIN_MS, ASK_AGAIN_MIN_MS = 1_000, 100
"""Where the ledger could not be asked for more seconds: so often, and not more often at the very end."""


HOLD_AGAIN_S = 1.0
"""A lease that could not be set is set again so long after, until it is or the call is over."""


class LeaseNotSet(Exception):
    """The lease of a channel could not be set; the one of before holds."""


class SetLease(Protocol):
    """Sets TIMEOUT(absolute) of a channel by name, in Stasis or not. Raises LeaseNotSet."""

    async def __call__(self, channel_name: str, lease_ms: int) -> None: ...


Warn = Callable[[DialCall, int], None]
"""Tells the party that pays that its call is cut in so many seconds."""


@dataclass(frozen=True, slots=True)
class LeaseRules:
    """renew_lead_s: how long before a slice ends more is asked for. warn_at_s: seconds before a cut.

    Where a call lives from slice to slice, it is known `lead_s` before the end that no more is to be had: warnings
    of earlier are for calls whose whole length is granted.
    """

    renew_lead_s: int = 5
    warn_at_s: tuple[int, ...] = ()

    @property
    def lead_s(self) -> int:
        """When to ask for more: early enough to warn at least once where there is no more."""
        return max(self.renew_lead_s, min(self.warn_at_s, default=0))


class Leases:
    """All leases of one switch's calls.

    renewals: questions for more seconds, by "granted", "none_left" or "failed"; settings: leases on legs, "set" or
    "not_set", of which the latter are tried again.
    """

    def __init__(self, desk: Desk, set_lease: SetLease, clock: Clock, rules: LeaseRules) -> None:
        self._desk = desk
        self._set_lease = set_lease
        self._clock = clock
        self._rules = rules
        self._warn: Warn | None = None
        self.stopped = False
        self.renewals = Tally((outcome,) for outcome in ("granted", "none_left", "failed"))
        self.settings = Tally((("set",), ("not_set",)))

    def on_warning(self, warn: Warn) -> None:
        """Call `warn` at each of the times of the rules before a call is cut."""
        self._warn = warn

    async def hold(self, call: DialCall) -> None:
        """Make the switch hold the present end of the grant, on every leg of the call."""
        if lease_end_ms(call.state) is None:
            return
        # Side by side: what is left for one must not have passed while the other's was set.
        held = await asyncio.gather(*(self._hold_on(call, channel) for channel in sorted(call.channels)))
        if not all(held):
            asyncio.get_running_loop().call_later(
                HOLD_AGAIN_S, call.queue.put, partial(self._hold_again, call)
            )

    async def _hold_again(self, call: DialCall) -> None:
        if not self.stopped:
            await self.hold(call)

    async def _hold_on(self, call: DialCall, channel: str) -> bool:
        """Set the lease of one leg; false where it could not be."""
        end_ms = lease_end_ms(call.state)
        if end_ms is None:
            return True
        name = call.names.get(channel, channel)
        left_ms = max(1, end_ms - self._clock.now().mono_ms)
        try:
            await self._set_lease(name, left_ms)
        except LeaseNotSet as error:
            log.error("lease_not_set", call=call.call_id, channel=name, lease_ms=left_ms, error=str(error))
            self.settings.add("not_set")
            return False
        self.settings.add("set")
        return True

    def arm(self, call: DialCall) -> None:
        """Arm the timers for the call's next deadlines; the only place that does."""
        self.disarm(call)
        granted_s = call.state.granted_s if isinstance(call.state, Talking) else None
        call.last = granted_s is not None and granted_s == call.limit_s
        due_ms = renew_at_ms(call.state, self._rules.lead_s)
        if due_ms is not None and not call.last:
            self._arm_in(call, due_ms - self._clock.now().mono_ms)
        self._arm_warning(call)

    def disarm(self, call: DialCall) -> None:
        """No deadline is watched any more; the switch keeps the end."""
        for timer in (call.timer, call.warning):
            if timer is not None:
                timer.cancel()
        call.timer = call.warning = None

    def _arm_in(self, call: DialCall, wait_ms: int) -> None:
        loop = asyncio.get_running_loop()
        call.timer = loop.call_later(max(0, wait_ms) / 1000, call.queue.put, lambda: self._renew(call))

    def _arm_warning(self, call: DialCall) -> None:
        end_ms = lease_end_ms(call.state)
        if end_ms is None or not call.last or self._warn is None:
            return
        left_ms = end_ms - self._clock.now().mono_ms
        # One that is late by less than a second is still worth hearing.
        due = [
            at_s
            for at_s in self._rules.warn_at_s
            if at_s not in call.warned and at_s * 1000 <= left_ms + 1000
        ]
        if due:
            wait_s = max(0.0, left_ms / 1000 - max(due))
            call.warning = asyncio.get_running_loop().call_later(wait_s, self._give_warning, call, max(due))

    def _give_warning(self, call: DialCall, at_s: int) -> None:
        call.warned.add(at_s)
        if self._warn is not None:
            self._warn(call, at_s)
        self._arm_warning(call)

    async def _renew(self, call: DialCall) -> None:
        end_ms = lease_end_ms(call.state)
        if end_ms is None or self.stopped:
            return
        left_ms = end_ms - self._clock.now().mono_ms
        # Others may give seconds back before this call is cut: ask again at half of what is left.
        again_ms, until_ms = left_ms // 2, 2_000
        try:
            granted_s = await self._ask_for_more(call, left_ms)
        except LedgerUnavailable as error:
            log.error("renew_failed", call=call.call_id, error=str(error))
            self.renewals.add("failed")
            # The lease stays. There may well be more: ask again soon, to the end.
            granted_s, until_ms = None, 0
            again_ms = max(ASK_AGAIN_MIN_MS, min(again_ms, ASK_AGAIN_MS))
        if granted_s is None:
            call.last = True
            self._arm_warning(call)
            if left_ms > until_ms:
                self._arm_in(call, again_ms)
            return
        call.advance(Renewed(granted_s))
        call.warned.clear()
        await self.hold(call)
        self.arm(call)

    def ask_again(self, call: DialCall) -> bool:
        """Ask at once for a call that was told there is no more, as a limit was raised; false where it was not."""
        granted_s = call.state.granted_s if isinstance(call.state, Talking) else None
        if self.stopped or granted_s is None or not call.last or granted_s == call.limit_s:
            return False
        if call.timer is not None:
            call.timer.cancel()
        return call.queue.put(partial(self._renew, call))

    async def _ask_for_more(self, call: DialCall, left_ms: int) -> int | None:
        """The new grant in all, or None where there is no more now. Raises LedgerUnavailable."""
        before_s = call.state.granted_s if isinstance(call.state, Talking) else None
        if before_s is None:
            return None
        try:
            grant = await self._desk.renew(call.call_id, max(0, left_ms))
        except LedgerUnavailable:
            raise
        except LedgerError as error:
            log.error("renew_failed", call=call.call_id, error=str(error))
            self.renewals.add("failed")
            return None
        if grant.granted_s is None or grant.granted_s <= before_s:
            self.renewals.add("none_left")
            return None
        self.renewals.add("granted")
        call.bound_by = grant.bound_by
        log.info("renewed", call=call.call_id, granted_s=grant.granted_s)
        return grant.granted_s

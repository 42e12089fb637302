"""What must hold after every step of a simulation: the three promises of FairDial, each checked against the world.

1. No leg outlives its grant by more than one second.
2. Used and reserved never exceed a limit, and credit never falls below zero.
3. Every answered leg is settled exactly once, and nothing answered goes unmetered. Where the switch's records are
   read, every call is metered as it was, whoever saw its end; where they are not, an end that nobody saw is
   estimated, at most as now or the lease's end. A call that died with the switch is metered until it was last proven.

And, while nothing has failed yet: no call is cut that has seconds left.
"""

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fairdial.ledger import statements
from fairdial.policy.periods import Window, whole_seconds
from fairdial.statements import Sums
from tests.samples import MONTH_END_MS
from tests.simulation.customers import CALLS_AT_ONCE, CUSTOMERS, PAID_MICROS
from tests.simulation.loop import US_PER_MS, US_PER_S
from tests.simulation.switch import Channel, Switch, Talk, Trace

TOLERANCE_US = US_PER_S
EARLY_US = 2 * US_PER_S
"""A lease that ends so much before its grant cuts a call that has seconds left."""
SETTING_US = 3 * US_PER_S
"""For a renewal that was just written, to become a lease."""
RECORDED_S = 1
"""Records count whole seconds, and a second is metered from its half on."""
PROVEN_US = 8 * US_PER_S
"""How much later than a call's end, unseen as the link was broken, the switch may be heard again and die; more where
signs of life are few."""
ASKED_BEFORE_US = 10 * US_PER_S
"""A question may wait so long, while FairDial is held up, until it is decided; a call counts from when it was asked."""
LAST_MS = 2**52
AGAIN = "-again"
"""Ends the id of what is granted to a call whose grant was settled while it was up."""


class Broken(AssertionError):
    """A promise is broken; the text says which, by what."""


@dataclass(frozen=True, slots=True)
class Row:
    """A grant as committed."""

    account: str
    state: str
    granted_s: int | None
    used_s: int | None
    estimated: bool
    credit_hold_micros: int
    answered: bool

    @property
    def settled(self) -> bool:
        return self.state == "settled"


def _owed_us(talk: Talk, proven_us: int | None) -> int:
    """What must be metered of it at least."""
    owed_us = talk.length_us - talk.slack_us
    return owed_us if proven_us is None else min(owed_us, max(0, proven_us - talk.answered_us))


# Each names what it finds wrong; none may find anything.
_WRONG = (
    (
        "used + reserved is above the limit",
        "SELECT account_id, allowance, used_units, reserved_units, limit_units FROM meters"
        " WHERE used_units + reserved_units > limit_units OR used_units < 0 OR reserved_units < 0",
    ),
    (
        "reserved is not what live grants hold",
        "SELECT m.account_id, m.allowance, m.reserved_units, h.held FROM meters m"
        " JOIN (SELECT account_id, allowance, start_ms, end_ms, sum(CASE WHEN state <> 'settled' THEN hold_units"
        " ELSE 0 END) AS held FROM holds JOIN grants USING (call_id, account_id) GROUP BY 1, 2, 3, 4) h"
        " USING (account_id, allowance, start_ms, end_ms) WHERE m.reserved_units <> h.held",
    ),
    (
        "credit is below zero or below what is reserved",
        "SELECT account_id, balance_micros, reserved_micros FROM credits"
        " WHERE balance_micros < 0 OR reserved_micros < 0 OR reserved_micros > balance_micros",
    ),
)
_GRANTS = (
    "SELECT call_id, account_id, state, granted_s, used_s, estimated, credit_hold_micros, authorised_ms,"
    " answered_ms FROM grants"
)


class Promises:
    """Watches one simulation."""

    def __init__(
        self, raw: sqlite3.Connection, switch: Switch, trace: Trace, wall_us: Callable[[int], int]
    ) -> None:
        self.grants: dict[str, Row] = {}
        # The switch's records are read, and tell the time that it was.
        self.recorded = False
        self.has_live = False
        # How often the switch is asked for a sign of life.
        self.prove_every_us = 0
        # Nobody sets the wall clock.
        self.steady = True
        self._wall_us = wall_us
        self._began_us: dict[str, int] = {}
        # When the switch was killed, and until when its calls were proven.
        self._killed_us: list[tuple[int, int]] = []
        # Nothing has failed so far.
        self.calm = False
        self._renewed_us: dict[str, int] = {}
        self._raw = raw
        self._switch = switch
        self._trace = trace
        self._limits = {name: customer.policy.allowances[0].limit_s for name, customer in CUSTOMERS.items()}

    # --- after each step ---------------------------------------------------------------------------

    def committed(self) -> None:
        """Something was committed. Raises Broken."""
        for what, query in _WRONG:
            for row in self._raw.execute(query):
                raise Broken(f"promise 2: {what}: {tuple(row)}")
        self._check_limits()
        self._read_grants()

    def _check_limits(self) -> None:
        # Against the policy itself: the limit in the store could be wrong, too.
        for account, used, reserved in self._raw.execute(
            "SELECT account_id, used_units, reserved_units FROM meters"
        ):
            limit_s = self._limits[account]
            if limit_s is not None and used + reserved > limit_s:
                raise Broken(f"promise 2: {account} used {used} and reserved {reserved} of {limit_s} s")

    def _read_grants(self) -> None:
        live: dict[str, int] = {}
        for call_id, *fields in self._raw.execute(_GRANTS):
            account, state, granted_s, used_s, estimated, credit_hold_micros, authorised_ms, answered_ms = (
                fields
            )
            before = self.grants.get(call_id)
            if state != "settled":
                live[account] = live.get(account, 0) + 1
            if before is not None and (before.state, before.granted_s, before.used_s) == (
                state,
                granted_s,
                used_s,
            ):
                continue
            self._began_us.setdefault(call_id, self._wall_us(authorised_ms))
            self._renewed_us[call_id] = self._switch.timeline.now_us
            if before is not None and before.settled:
                raise Broken(f"promise 3: {call_id} was settled before, and is changed: {before} -> {fields}")
            now = self.grants[call_id] = Row(
                account,
                state,
                granted_s,
                used_s,
                bool(estimated),
                credit_hold_micros,
                answered_ms is not None,
            )
            note = "" if not now.settled else f"used {used_s} s" + (", estimated" if estimated else "")
            self._trace("ledger:", call_id, state, f"granted {granted_s} s", note)
        self.has_live = bool(live)
        for account, calls in live.items():
            cap = CUSTOMERS[account].policy.caps.simultaneous_calls
            if cap is not None and calls > CALLS_AT_ONCE:
                raise Broken(f"promise 2: {account} has {calls} calls at once")

    def switch_dies(self) -> None:
        """The switch is killed."""
        [(proven_ms,)] = [*self._raw.execute("SELECT max(proven_ms) FROM switches")]
        proven_us = 0 if proven_ms is None else self._wall_us(proven_ms)
        self._killed_us.append((self._switch.timeline.now_us, proven_us))

    def legs(self) -> None:
        """Time went on, or a leg answered or ended. Raises Broken."""
        for talk in self._switch.talking.values():
            if talk.held:
                self._check_leg(talk)

    def _check_leg(self, talk: Talk) -> None:
        grant = self.grants.get(talk.call_id)
        if grant is None:
            raise Broken(f"promise 1: {talk.leg} talks as {talk.call_id}, which has no grant")
        up_us = self._switch.timeline.now_us - talk.answered_us
        if grant.settled:
            most_s, word = grant.used_s or 0, f"was settled with {grant.used_s} s"
        elif grant.granted_s is None:
            return
        else:
            most_s, word = grant.granted_s, f"was granted {grant.granted_s} s"
        if up_us > most_s * US_PER_S + TOLERANCE_US + talk.slack_us:
            promise = 3 if grant.settled and most_s != grant.granted_s else 1
            raise Broken(
                f"promise {promise}: {talk.leg} talks for {up_us / US_PER_S:.1f} s and goes on; {talk.call_id} {word}"
            )

    def not_early(self, channel: Channel) -> None:
        """A lease cuts that channel. Raises Broken."""
        leg = (
            channel if channel.talk is not None else next((peer for peer in channel.peers if peer.talk), None)
        )
        talk = None if leg is None else leg.talk
        grant = None if talk is None else self.grants.get(talk.call_id)
        if not self.calm or talk is None or grant is None or grant.settled or grant.granted_s is None:
            return
        now_us = self._switch.timeline.now_us
        left_us = talk.answered_us + grant.granted_s * US_PER_S - now_us
        if left_us > EARLY_US and now_us - self._renewed_us[talk.call_id] > SETTING_US:
            raise Broken(f"{talk.call_id} is cut with {left_us / US_PER_S:.1f} s of its grant left")

    def knows_leg(self, talk: Talk) -> bool:
        """Whether the ledger has that leg as the one that answered."""
        found = self._raw.execute("SELECT leg FROM grants WHERE call_id = ?", (talk.call_id,)).fetchone()
        return found is not None and found["leg"] == talk.leg

    # --- at the end --------------------------------------------------------------------------------

    def all_settled(self, when: str) -> None:
        """No grant is live. Raises Broken."""
        live = sorted(call_id for call_id, grant in self.grants.items() if not grant.settled)
        if live:
            raise Broken(f"promise 3: grants that nobody settled {when}: {', '.join(live)}")

    def finished(self) -> None:
        """All calls are over, and the ledger was reconciled with the switch since. Raises Broken."""
        self.committed()
        self.all_settled("at the end")
        talks: dict[str, list[Talk]] = {}
        for talk in self._switch.talks:
            talks.setdefault(talk.call_id, []).append(talk)
        for call_id, grant in self.grants.items():
            if not call_id.endswith(AGAIN):
                self._check_metered(call_id, grant, talks.pop(call_id, []))
        unknown = sorted(call_id for call_id, those in talks.items() if any(talk.held for talk in those))
        if unknown:
            raise Broken(f"promise 3: answered without a grant: {', '.join(unknown)}")
        self._check_sums()
        self._check_statements()

    def _check_metered(self, call_id: str, grant: Row, talks: Sequence[Talk]) -> None:
        """What the failure rule let through need not be metered, but may be."""
        again = self.grants.get(f"{call_id}{AGAIN}")
        used_s = (grant.used_s or 0) + (0 if again is None else again.used_s or 0)
        held = any(talk.held for talk in talks)
        wrong = self._is_wrong(call_id, grant, used_s, talks)
        if not wrong and held and not used_s and self._proven_us(call_id) is None:
            wrong = "answered and not metered"
        if wrong:
            talked_s = sum(talk.length_us for talk in talks) / US_PER_S
            raise Broken(f"promise 3: {call_id} used {used_s} s, talked {talked_s:.1f} s: {wrong}")

    def _is_wrong(self, call_id: str, grant: Row, used_s: int, talks: Sequence[Talk]) -> str:
        """What is wrong with what it used, "" for nothing."""
        talked_us = sum(talk.length_us for talk in talks)
        proven_us = self._proven_us(call_id)
        held = [talk for talk in talks if talk.held]
        if used_s * US_PER_S < sum(_owed_us(talk, proven_us) for talk in held) - TOLERANCE_US:
            return "less than was talked" if proven_us is None else "less than was proven"
        most_us = talked_us + TOLERANCE_US
        if self.recorded:
            most_us = ((whole_seconds(talked_us // US_PER_MS) if talks else 0) + RECORDED_S) * US_PER_S
        again = self.grants.get(f"{call_id}{AGAIN}")
        if not grant.estimated and not (again is not None and again.estimated):
            return "more than was talked, and not estimated" if used_s * US_PER_S > most_us else ""
        if self.recorded and self._is_ambiguous(call_id):
            return ""
        if proven_us is not None:
            return self._is_more_than_proven(call_id, grant, most_us, proven_us)
        if self.recorded and held:
            return "not as recorded" if used_s * US_PER_S > most_us else ""
        longest_us = self._renewed_us[call_id] - self._began_us[call_id]
        if self.steady and (grant.used_s or 0) * US_PER_S > longest_us + ASKED_BEFORE_US:
            return "more than until it was settled"
        return (
            "more than its grant"
            if grant.granted_s is not None and (grant.used_s or 0) > grant.granted_s
            else ""
        )

    def _is_more_than_proven(self, call_id: str, grant: Row, most_us: int, proven_us: int) -> str:
        """Of a call whose answer the ledger does not know it counts from when it was dialled."""
        killed_us = next(killed_us for killed_us, until_us in self._killed_us if until_us == proven_us)
        longest_us = killed_us - self._began_us[call_id]
        most_us = max(most_us, 0 if grant.answered else longest_us) + PROVEN_US + self.prove_every_us
        return "more than was proven" if (grant.used_s or 0) * US_PER_S > most_us else ""

    def _is_ambiguous(self, call_id: str) -> bool:
        """Whether records do not tell all: of a caller who is up they count the next dial's ringing as talk."""
        channel, _, count = call_id.rpartition("-")
        return int(count) > 1 or f"{channel}-{int(count) + 1}" in self._switch.asked

    def _proven_us(self, call_id: str) -> int | None:
        """Until when it was proven, where the switch was killed while its grant was live."""
        began_us, settled_us = self._began_us[call_id], self._renewed_us[call_id]
        return next(
            (proven_us for killed_us, proven_us in self._killed_us if began_us <= killed_us <= settled_us),
            None,
        )

    def _check_sums(self) -> None:
        """Usage, charges and credit are those of the calls."""
        used: dict[str, int] = {}
        for grant_id, grant in self.grants.items():
            del grant_id
            used[grant.account] = used.get(grant.account, 0) + (grant.used_s or 0)
        credit = dict(
            self._raw.execute(
                "SELECT account_id, sum(amount_micros) FROM charges WHERE mode = 'credit' GROUP BY 1"
            )
        )
        by_credit = dict(
            self._raw.execute(
                "SELECT account_id, sum(charged_units) FROM charges WHERE mode = 'credit' GROUP BY 1"
            )
        )
        metered = dict(
            self._raw.execute("SELECT account_id, sum(used_units + over_units) FROM meters GROUP BY 1")
        )
        for account, used_s in used.items():
            counted_s = metered.get(account, 0) + by_credit.get(account, 0)
            if counted_s != used_s:
                raise Broken(f"promise 3: {account}: calls used {used_s} s, its meters have {counted_s} s")
        for account, balance_micros, reserved_micros in self._raw.execute(
            "SELECT account_id, balance_micros, reserved_micros FROM credits"
        ):
            owed_micros = credit.get(account, 0)
            if (balance_micros, reserved_micros) != (PAID_MICROS - owed_micros, 0):
                raise Broken(
                    f"promise 2: {account}: paid {PAID_MICROS}, charged {owed_micros}, but has {balance_micros},"
                    f" {reserved_micros} of it reserved"
                )

    def _check_statements(self) -> None:
        """What an account's calls add up to is what the ledger says of it as a whole; nothing is in two periods."""
        for account in CUSTOMERS:
            periods = Window(0, MONTH_END_MS), Window(MONTH_END_MS, LAST_MS)
            in_them_s = sum(self._statement_s(account, period) for period in periods)
            used_s = sum(grant.used_s or 0 for grant in self.grants.values() if grant.account == account)
            if in_them_s != used_s:
                raise Broken(f"promise 3: {account} used {used_s} s, its statements have {in_them_s} s")

    def _statement_s(self, account: str, period: Window) -> int:
        """Seconds of talk in a statement, which adds up."""
        sums = Sums(period)
        page = statements.settled_calls(self._raw, account, Window(0, LAST_MS), None, 1_000_000)
        sums.add_all(page.calls)
        sums.close(statements.books(self._raw, account, lambda _account: period))
        if sums.differences:
            raise Broken(f"promise 3: a statement of {account} does not add up: {sums.differences}")
        return sum(kind.talk_s for kind in sums.kinds.values())

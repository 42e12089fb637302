"""The books against the world: the ledger held against the phones' own clocks, and against the switch's records.

`place` makes calls that each dial a number of their own, by which a call is known on all sides. `hold_against` waits
until all is over and looks at each of them: answered and metered once, for as long as the phones talked and the
switch recorded; nothing metered that nobody called; no leg past its grant; no grant, second, channel or bridge left.

Leaves to others how calls are made to fail (`tests/switch/test_faults.py`) and for how long (`benchmarks/soak.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from typing import Any, Final

from fairdial.cdr import Cdr, cdr_of_row, rows
from testbed.asterisk import Switch
from testbed.server import Server
from testbed.sipp import CallOutcome, Carrier, CarrierCall, LoadOutcome, place_calls

SEEN_WITHIN_S: Final = 1.0
"""How far the ledger may be from the phones' clock: a second is rounded either way, and SIP takes its time."""
RECORDED_WITHIN_S: Final = 2.0
"""The same where the ledger goes by the switch's records, whose start and end are whole seconds."""
PROVEN_WITHIN_S: Final = 4.0
"""How much of a call that died with the switch may be unproven: FairDial looks every two seconds."""
OVER_GRANT_S: Final = 1.0
"""So long at most may a leg outlive its grant."""
SHOWN: Final = 30
"""So many of the calls that disagree are listed."""

_FIRST: Final = 2079_000_000
_SPECIAL: Final = range(80, 100)
"""Endings at which the carrier's phones do something else than answer."""

PLAN: Final = """name = "{name}"
version = "1"
title = "For calls that are counted"
[kinds]
allow = ["outbound"]
clause = "B0"
[classes]
allow = ["geographic"]
clause = "B1"
[countries]
allow = ["GB"]
clause = "B2"
[longest_call]
clause = "B3"
seconds = {{ outbound = {longest_s} }}
[[allowances]]
name = "voice"
limit_s = {limit_s}
period = "month"
counts = ["outbound"]
clause = "B4"
"""


class Disagreement(AssertionError):
    """The books are not those of the calls; the text lists which disagree, and how."""


@dataclass(frozen=True)
class Plan:
    """What an account may: each call `longest_s`, all of them together `limit_s` a month."""

    longest_s: int = 3600
    limit_s: int = 10_000_000


@dataclass(frozen=True)
class Made:
    """A call that a phone made, by the number that no other dialled."""

    number: str
    outcome: CallOutcome


@dataclass(frozen=True)
class Placed:
    """All calls of a load. lost: those that came to no end within the phone's patience."""

    calls: tuple[Made, ...]
    lost: int = 0

    def __add__(self, other: Placed) -> Placed:
        return Placed(self.calls + other.calls, self.lost + other.lost)


@dataclass(frozen=True)
class Tally:
    """What was found to agree. by_record: settled by the switch's own record; worst_s: the largest difference."""

    calls: int
    answered: int
    settled: int
    by_record: int
    estimated: int
    talked_s: float
    used_s: int
    recorded_s: int
    worst_s: float
    over_grant_s: float
    slowest_setup_s: float

    def __str__(self) -> str:
        return (
            f"{self.calls} calls, {self.answered} answered, {self.settled} settled once each"
            f" ({self.by_record} by record, {self.estimated} estimated), 0 lost, 0 double;"
            f" phones {self.talked_s:.1f} s, ledger {self.used_s} s, records {self.recorded_s} s;"
            f" at most {self.worst_s:.2f} s apart in a call, {self.over_grant_s:+.2f} s past a grant;"
            f" slowest answer to a dial {self.slowest_setup_s * 1000:.0f} ms"
        )


@dataclass(frozen=True)
class Rules:
    """What may be. Instants are Unix times in seconds.

    died_at: when Asterisk was killed; the calls that died with it have no record. hung: from when until when it hung
    and heard no phone hang up, so that for it, too, a call that ended then ended when it came back.
    set_up_within_s: INVITE to its final answer, on a machine that others load too; None: Asterisk itself was not there.
    """

    limit_s: int
    died_at: float | None = None
    hung: tuple[float, float] | None = None
    set_up_within_s: float | None = 5.0
    idle_within_s: float = 20.0


def numbers(first: int, count: int) -> list[str]:
    """So many London numbers that the carrier's phones answer at once; none is in the list from another hundred."""
    found: list[str] = []
    number = _FIRST + first
    while len(found) < count:
        if number % 100 not in _SPECIAL:
            found.append(f"0{number}")
        number += 1
    return found


async def open_account(server: Server, account: str, plan: Plan, *lines: str) -> None:
    """An account with those lines and a plan of its own."""
    text = PLAN.format(name=f"plan-{account}", longest_s=plan.longest_s, limit_s=plan.limit_s)
    await server.ask("policy_publish", text=text, where=f"plan-{account}.toml")
    await server.account(account, f"plan-{account}", *lines)


async def place(
    switch: Switch,
    line: str,
    count: int,
    rate_per_s: float,
    *,
    first: int = 0,
    hang_up_after_s: float | None = None,
    timeout_s: float = 60.0,
) -> Placed:
    """Make `count` calls from one line, to `numbers(first, count)`. Raises TestbedError."""
    dialled = numbers(first, count)
    load = await place_calls(
        switch,
        line=line,
        number=dialled,
        count=count,
        rate_per_s=rate_per_s,
        hang_up_after_s=hang_up_after_s,
        timeout_s=timeout_s,
    )
    return _by_number(load, dialled)


def _by_number(load: LoadOutcome, dialled: Sequence[str]) -> Placed:
    # SIPp counts its calls from 1 and begins their Call-IDs with that; it takes the numbers in turn.
    made = [Made(dialled[int(call.call_id.partition("-")[0]) - 1], call) for call in load.calls]
    return Placed(tuple(made), load.lost)


async def hold_against(
    server: Server, switch: Switch, carrier: Carrier, account: str, placed: Placed, rules: Rules
) -> Tally:
    """Wait until nothing is up, then compare each call. Raises Disagreement, or TestbedError where calls stay up."""
    left = await switch.no_channels(timeout_s=rules.idle_within_s)
    await server.idle(timeout_s=rules.idle_within_s)
    books = await _Books.read(server, switch, account)
    wrong = [f"{name} is still up" for name in left] + await _left_over(server, switch, account, rules)
    if placed.lost:
        wrong.append(f"{placed.lost} calls came to no end for the phone")
    judged = _Judge(books, {call.number: call for call in carrier.calls()}, rules)
    for made in placed.calls:
        judged.look_at(made)
    judged.look_for_others(placed)
    wrong += judged.wrong
    if wrong:
        shown = "\n  ".join(wrong[:SHOWN])
        more = f"\n  and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise Disagreement(
            f"{len(wrong)} disagree, of {len(placed.calls)} calls of {account}:\n  {shown}{more}"
        )
    return judged.tally(placed)


async def _left_over(server: Server, switch: Switch, account: str, rules: Rules) -> list[str]:
    listed = (await switch.cli("bridge show all")).splitlines()
    wrong = [f"bridge {line.split()[0]} is still there" for line in listed[1:] if line.strip()]
    used = 0
    for meter in (await server.ask("usage", account=account))["usage"]:
        used += meter["used_units"]
        if meter["reserved_units"]:
            wrong.append(f"{meter['allowance']} holds {meter['reserved_units']} s for no call")
        if not 0 <= meter["used_units"] <= rules.limit_s:
            wrong.append(f"{meter['allowance']} has {meter['used_units']} s used of {rules.limit_s} s")
    decided = await server.ask("decisions", account=account, limit=10_000)
    settled = sum(record["used_s"] or 0 for record in decided)
    if used != settled:
        wrong.append(f"the meters have {used} s, the calls add up to {settled} s")
    return wrong


@dataclass
class _Books:
    """What the ledger and the switch say of an account's calls, by the number dialled."""

    grants: dict[str, list[Mapping[str, Any]]] = field(default_factory=dict)
    by_record: frozenset[str] = frozenset()
    records: dict[str, list[Cdr]] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)

    @classmethod
    async def read(cls, server: Server, switch: Switch, account: str) -> _Books:
        books = cls()
        for record in await server.ask("decisions", account=account, limit=10_000):
            if record["decision"] == "allow":
                grant = await server.ask("grant", call=record["call_id"])
                books.grants.setdefault(grant["dialled"], []).append(grant)
        lines = {line["line"] for line in await server.ask("line_list", account=account)}
        listed = await server.ask("differences", limit=10_000)
        books.by_record = frozenset(each["call_id"] for each in listed if each["kind"] == "orphan_grant")
        books.differences = [
            f"{each['kind']} {each['call_id']}: {each['done']}"
            for each in listed
            if each["kind"] != "orphan_grant"
        ]
        data = switch.cdr_path.read_bytes() if switch.cdr_path.exists() else b""
        for start, stop in rows(data, final=True):
            cdr = cdr_of_row(data[start:stop].decode(), UTC, where=str(switch.cdr_path))
            if cdr.channel.partition("/")[2].rpartition("-")[0] in lines:
                books.records.setdefault(cdr.unique_id, []).append(cdr)
        return books

    def recorded_s(self, channel: str) -> int | None:
        """Seconds of talk that the switch recorded of that caller, None: it has no record."""
        found = self.records.get(channel)
        if found is None:
            return None
        return sum(cdr.bill_s for cdr in found if cdr.answered and cdr.dst_channel)


class _Judge:
    """Looks at one call after the other."""

    def __init__(self, books: _Books, called: Mapping[str, CarrierCall], rules: Rules) -> None:
        self.wrong: list[str] = list(books.differences)
        self._books = books
        self._called = called
        self._rules = rules
        self._worst_s = self._talked_s = self._slowest_s = 0.0
        self._over_grant_s = -math.inf
        self._used_s = self._recorded_s = self._settled = self._estimated = self._by_record = 0

    def look_at(self, made: Made) -> None:
        """A call that a phone made."""
        call, grants = made.outcome, self._books.grants.get(made.number, [])
        self._slowest_s = max(self._slowest_s, call.setup_s)
        within_s = self._rules.set_up_within_s
        if within_s is not None and (call.setup_s > within_s or call.final_status == 408):
            self.wrong.append(f"{made.number}: answered with {call.final_status} after {call.setup_s:.2f} s")
        if not call.answered:
            self.wrong += [
                f"{made.number}: refused with {call.final_status}, and metered with {grant['used_s']} s"
                for grant in grants
                if grant["used_s"]
            ]
        elif len(grants) != 1:
            self.wrong.append(f"{made.number}: answered once, with {len(grants)} grants")
        else:
            self._compare(made, grants[0])

    def look_for_others(self, placed: Placed) -> None:
        """What is in the books of calls that no phone made."""
        dialled = {made.number for made in placed.calls}
        for number in sorted(self._books.grants.keys() - dialled):
            self.wrong.append(f"{number}: in the ledger, and no phone called it")
        known = {grant["channel"]: grant for grants in self._books.grants.values() for grant in grants}
        for channel in sorted(self._books.records):
            if self._books.recorded_s(channel) and channel not in known:
                self.wrong.append(f"{channel}: answered by the switch's record, and not in the ledger")

    def tally(self, placed: Placed) -> Tally:
        """The sums of what was looked at."""
        return Tally(
            len(placed.calls),
            sum(made.outcome.answered for made in placed.calls),
            self._settled,
            self._by_record,
            self._estimated,
            self._talked_s,
            self._used_s,
            self._recorded_s,
            self._worst_s,
            self._over_grant_s,
            self._slowest_s,
        )

    def _compare(self, made: Made, grant: Mapping[str, Any]) -> None:
        call, used_s = made.outcome, grant["used_s"]
        assert call.answered_at is not None
        died_at, died = self._rules.died_at, False
        end_at = call.ended_at
        if died_at is not None and call.answered_at <= died_at <= end_at:
            end_at, died = died_at, True
        if self._rules.hung is not None and self._rules.hung[0] <= end_at <= self._rules.hung[1]:
            end_at = self._rules.hung[1]
        talked_s = end_at - call.answered_at
        if used_s is None:
            self.wrong.append(f"{made.number}: talked {talked_s:.1f} s, and is not settled")
            return
        by_record = grant["call_id"] in self._books.by_record
        within_s = RECORDED_WITHIN_S if by_record else SEEN_WITHIN_S
        apart_s = used_s - talked_s
        if apart_s > within_s or apart_s < -(PROVEN_WITHIN_S if died else within_s):
            self.wrong.append(
                f"{made.number}: talked {talked_s:.2f} s, metered {used_s} s ({grant['call_id']})"
            )
        if grant["estimated"] and not died:
            self.wrong.append(f"{made.number}: estimated at {used_s} s, though the switch recorded it")
        if not died:
            self._hold_to_grant(made, grant)
            self._hold_to_record(made, grant)
            self._worst_s = max(self._worst_s, abs(apart_s))
        self._talked_s += talked_s
        self._used_s += used_s
        self._settled += 1
        self._by_record += by_record and not grant["estimated"]
        self._estimated += bool(grant["estimated"])

    def _hold_to_grant(self, made: Made, grant: Mapping[str, Any]) -> None:
        if grant["granted_s"] is None:
            return
        called = self._called.get(made.number)
        legs_s = {"caller": made.outcome.talk_s}
        if called is not None and called.answered_at is not None and called.ended_at is not None:
            legs_s["called"] = called.ended_at - called.answered_at
        for leg, up_s in legs_s.items():
            over_s = up_s - grant["granted_s"]
            self._over_grant_s = max(self._over_grant_s, over_s)
            if over_s > OVER_GRANT_S:
                self.wrong.append(
                    f"{made.number}: the {leg} leg was up {up_s:.2f} s on {grant['granted_s']} s"
                )

    def _hold_to_record(self, made: Made, grant: Mapping[str, Any]) -> None:
        recorded_s = self._books.recorded_s(grant["channel"])
        if recorded_s is None:
            self.wrong.append(f"{made.number}: the switch has no record of it")
            return
        self._recorded_s += recorded_s
        # Answer and end of a record are cut down to the second, each by itself.
        if abs(recorded_s - grant["used_s"]) > RECORDED_WITHIN_S:
            self.wrong.append(f"{made.number}: recorded {recorded_s} s, metered {grant['used_s']} s")

"""A replay's ledger that keeps the accounts at work in memory, and writes them down in pieces.

What a call does to an account is the same as in the ledger's own steps (granting.py), worked out on values instead of
rows: who reads a million records waits for no statement. That holds for a plain account. What is rare goes the
ledger's own way, so that its rules stand in one place: rooms, messages, raised limits, credit that is forfeited, and
callees that are counted. An account that comes to any of these is written down with its calls in progress, and stays
in the database for as long as it is remembered here. Tests hold both ways against each other, call by call.

A step that fails ends the replay: as in direct.py, there is no undoing.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import attrgetter
from typing import Final

from msgspec import structs

from fairdial.ledger import reading
from fairdial.ledger.contract import (
    Charge,
    ConstraintViolated,
    Extend,
    Grant,
    GrantState,
    IdempotencyConflict,
    Judge,
    LimitsOf,
    NotFound,
    Plan,
    PlanMore,
    Usage,
)
from fairdial.ledger.direct import DirectWriter
from fairdial.ledger.sqlite import SqliteLedger
from fairdial.policy.account import (
    Account,
    Consent,
    Credit,
    Dial,
    Identity,
    Kind,
    Line,
    MeterWindow,
    Needs,
    OwnNumber,
    Snapshot,
)
from fairdial.policy.decide import Allow, Verdict
from fairdial.policy.periods import MS_PER_S, Window, fit_s, split_s
from fairdial.policy.sizing import Hold, Sized
from fairdial.policy.terms import Mode, Past, bill

ACCOUNTS_MAX: Final = 20_000
"""Accounts that are remembered at once, at some 2 KB each; who has been quiet for longest is written down first."""

_ROOMS: Final = frozenset({Kind.CONFERENCE, Kind.MESSAGE})
"""Kinds that go the ledger's own way."""

_MeterKey = tuple[str, int, int]
"""Allowance, and the window's start and end."""


@dataclass(slots=True)
class _Meter:
    """A row of `meters`."""

    limit_units: int | None
    used_units: int = 0
    reserved_units: int = 0
    over_units: int = 0
    calls: int = 0

    @property
    def row(self) -> tuple[int | None, int, int, int, int]:
        """As it is written down."""
        return self.limit_units, self.used_units, self.reserved_units, self.over_units, self.calls

    def check(self, account_id: str, allowance: str) -> None:
        """As the table does. Raises ConstraintViolated."""
        taken_units = self.used_units + self.reserved_units
        if self.reserved_units < 0 or (self.limit_units is not None and taken_units > self.limit_units):
            raise ConstraintViolated(f"meter {allowance} of account {account_id} holds {self}")


@dataclass(slots=True)
class _Held:
    """What a call holds of a meter: a row of `holds`."""

    key: _MeterKey
    window: Window
    hold_units: int
    over: bool
    weight: int


@dataclass(slots=True)
class _Call:
    """A call in progress: a row of `grants` with its decision."""

    dial: Dial
    verdict: Verdict
    allow: Allow
    payer: "_Payer"
    granted_s: int | None
    credit_hold_micros: int
    bound_by: str
    holds: dict[_MeterKey, _Held]
    answered_ms: int | None = None
    leg: str | None = None

    def grant(
        self,
        ended_ms: int | None = None,
        used_s: int | None = None,
        charged_micros: int = 0,
        *,
        estimated: bool = False,
    ) -> Grant:
        """As the contract has it. ended_ms, used_s: of one that is settled."""
        dial, allow = self.dial, self.allow
        state = GrantState.RINGING if self.answered_ms is None else GrantState.TALKING
        return Grant(
            dial.call_id,
            self.payer.account.id,
            dial.line_id,
            dial.kind,
            dial.dialled,
            self.verdict.number.e164,
            dial.channel,
            state if used_s is None else GrantState.SETTLED,
            self.granted_s,
            allow.limit_s,
            dial.ring_s,
            dial.at_ms,
            self.answered_ms,
            self.leg,
            ended_ms,
            used_s,
            estimated,
            allow.terms,
            self.credit_hold_micros,
            allow.clause.policy,
            allow.clause.version,
            None,
            self.bound_by,
            None,
            charged_micros,
        )


@dataclass(slots=True)
class _Payer:
    """An account at work. apart: it is in the database, and its steps run there."""

    account: Account
    credit: Credit | None
    agreed: frozenset[Consent]
    apart: bool
    lines: dict[str, Line] = field(default_factory=dict)
    meters: dict[_MeterKey, _Meter] = field(default_factory=dict)
    calls: dict[str, _Call] = field(default_factory=dict)
    inbound: Counter[str] = field(default_factory=Counter)
    numbers: tuple[OwnNumber, ...] | None = None

    def filled(self, meters: Iterable[MeterWindow]) -> tuple[MeterWindow, ...]:
        """Meters with what they hold (reading.py, `filled`)."""
        found = []
        for meter in meters:
            window = meter.window
            kept = self.meters.get((meter.allowance, window.start_ms, window.end_ms))
            if kept is not None:
                meter = MeterWindow(
                    meter.allowance,
                    window,
                    meter.limit_units,
                    kept.used_units,
                    kept.reserved_units,
                    kept.over_units,
                    meter.over,
                    meter.weight,
                    meter.room,
                    meter.raised,
                )
            found.append(meter)
        return tuple(found)

    def reserve(self, holds: dict[_MeterKey, _Held], more: Iterable[Hold]) -> None:
        """Reserve what was sized, for the call whose `holds` are these (granting.py, `_reserve`)."""
        for hold in more:
            window = hold.window
            key = (hold.allowance, window.start_ms, window.end_ms)
            limit_units, meter = hold.limit_units, self.meters.get(key)
            if meter is None:
                self.meters[key] = meter = _Meter(limit_units)
            taken_units = meter.used_units + meter.reserved_units
            if hold.over and limit_units is not None and limit_units < taken_units:
                limit_units = taken_units
            meter.limit_units = limit_units
            meter.reserved_units += hold.hold_units
            meter.check(self.account.id, hold.allowance)
            held = holds.get(key)
            if held is None:
                holds[key] = _Held(key, window, hold.hold_units, hold.over, hold.weight)
            else:
                held.hold_units += hold.hold_units
                held.over = held.over or hold.over

    def pay(self, released_micros: int, amount_micros: int) -> None:
        """Give reserved credit back, and take what was charged from the balance."""
        if self.credit is not None:
            balance_micros = self.credit.balance_micros - amount_micros
            reserved_micros = self.credit.reserved_micros - released_micros
            if not 0 <= reserved_micros <= balance_micros:
                raise ConstraintViolated(
                    f"credit of account {self.account.id} cannot pay {amount_micros} micros"
                )
            self.credit = Credit(self.credit.currency, balance_micros, reserved_micros)


_Decided = tuple[str, Kind, str, Verdict | Grant | None]
"""Line, kind and number of a dial that was decided, and the verdict; of a call that held a grant and is over, the grant
instead; None: the database knows.
"""


class WorkingLedger(SqliteLedger):
    """`SqliteLedger` on a DirectWriter, with the accounts at work in memory. Only for who replays: a method that is not
    overridden here sees what is in the database, which is all after `write_down`.
    """

    def __init__(self, writer: DirectWriter) -> None:
        super().__init__(writer)
        self._writer = writer
        self._payers: OrderedDict[str, _Payer] = OrderedDict()
        self._payer_of: dict[str, _Payer] = {}
        """By line."""
        self._calls: dict[str, _Call] = {}
        self._decided: dict[str, _Decided] = {}
        self._charges: dict[str, tuple[Charge, ...]] = {}

    # --- the steps of a call -------------------------------------------------------------------------

    async def authorise(self, dial: Dial, plan: Plan, judge: Judge) -> Verdict:
        earlier = self._decided.get(dial.call_id)
        if earlier is not None:
            return (
                await super().authorise(dial, plan, judge) if earlier[3] is None else _repeat(earlier, dial)
            )
        payer = self._payer(dial.line_id)
        if payer is None:
            verdict = judge(Snapshot(None, None))
            self._decided[dial.call_id] = (dial.line_id, dial.kind, dial.dialled, verdict)
            return verdict
        if not payer.apart:
            line = payer.lines[dial.line_id]
            needs = plan(line, payer.account)
            if dial.kind in _ROOMS or needs.callee is not None or any(meter.room for meter in needs.meters):
                await self._part(payer)
        if payer.apart:
            self._decided[dial.call_id] = (dial.line_id, dial.kind, dial.dialled, None)
            return await super().authorise(dial, plan, judge)
        verdict = judge(
            Snapshot(
                line,
                payer.account,
                payer.filled(needs.meters),
                payer.credit,
                len(payer.calls),
                payer.inbound[line.id],
                payer.agreed,
                self._identity(payer, line, needs) if needs.identity else None,
            )
        )
        self._decided[dial.call_id] = (dial.line_id, dial.kind, dial.dialled, verdict)
        allow = verdict.decision
        if isinstance(allow, Allow) and allow.account_id is not None:
            self._grant(dial, verdict, allow, payer)
        return verdict

    def _grant(self, dial: Dial, verdict: Verdict, allow: Allow, payer: _Payer) -> None:
        call = _Call(
            *(dial, verdict, allow, payer, allow.granted_s, allow.credit_hold_micros, allow.bound_by, {})
        )
        if allow.credit_hold_micros:
            payer.pay(-allow.credit_hold_micros, 0)
        payer.reserve(call.holds, allow.holds)
        self._calls[dial.call_id] = payer.calls[dial.call_id] = call
        if dial.kind is Kind.INBOUND:
            payer.inbound[dial.line_id] += 1

    async def answered(self, call_id: str, leg: str, at_ms: int) -> Grant:
        call = self._calls.get(call_id)
        if call is None:
            return self._over(call_id) or await super().answered(call_id, leg, at_ms)
        call.leg = leg
        if call.answered_ms is None:
            call.answered_ms = at_ms
        return call.grant()

    async def renew(self, call_id: str, plan: PlanMore, extend: Extend) -> Grant:
        call = self._calls.get(call_id)
        if call is None:
            return self._over(call_id) or await super().renew(call_id, plan, extend)
        grant, payer = call.grant(), call.payer
        if call.granted_s is None:
            return grant
        meters = payer.filled(plan(grant, payer.account))
        sized = extend(grant, Snapshot(None, payer.account, meters, payer.credit))
        if not isinstance(sized, Sized) or not sized.granted_s:
            return grant
        payer.reserve(call.holds, sized.holds)
        if sized.credit_hold_micros:
            payer.pay(-sized.credit_hold_micros, 0)
        call.granted_s += sized.granted_s
        call.credit_hold_micros += sized.credit_hold_micros
        call.bound_by = sized.bound_by
        return call.grant()

    async def settle(
        self,
        call_id: str,
        used_s: int,
        ended_ms: int,
        *,
        estimated: bool = False,
        answered_ms: int | None = None,
        limits: LimitsOf | None = None,
    ) -> Grant:
        call = self._calls.get(call_id)
        if call is None:
            over = self._over(call_id)
            if over is not None:
                return structs.replace(over, charged_micros=0, repeated=True)
            return await super().settle(
                call_id, used_s, ended_ms, estimated=estimated, answered_ms=answered_ms, limits=limits
            )
        if call.answered_ms is None and answered_ms is not None:
            call.answered_ms, call.leg = answered_ms, call.dial.channel
        if used_s < 0:
            raise ConstraintViolated(f"call {call_id} cannot have used {used_s} s; seconds begin at 0")
        if call.granted_s is not None:
            used_s = min(used_s, call.granted_s)
        past = _meter(call, _talk_began_ms(call, used_s, ended_ms, estimated), used_s)
        charged_micros = self._charge(call, used_s, past, ended_ms)
        payer = call.payer
        del self._calls[call_id], payer.calls[call_id]
        if call.dial.kind is Kind.INBOUND:
            payer.inbound[call.dial.line_id] -= 1
        grant = call.grant(ended_ms, used_s, charged_micros, estimated=estimated)
        dial = call.dial
        self._decided[call_id] = (dial.line_id, dial.kind, dial.dialled, grant)
        return grant

    def _over(self, call_id: str) -> Grant | None:
        """The grant of a call that is over; None: the database knows of it. Raises NotFound."""
        if call_id not in self._decided:
            raise NotFound(f"no grant for call {call_id}")
        decided = self._decided[call_id][3]
        return decided if isinstance(decided, Grant) else None

    def _charge(self, call: _Call, used_s: int, past: Past, at_ms: int) -> int:
        """Write what it costs; all of it together (granting.py, `_charge`)."""
        charges, total_micros = [], 0
        for terms in call.allow.terms:
            charged_units, amount_micros = bill(terms, used_s, past)
            total_micros += amount_micros
            if terms.mode is Mode.CREDIT:
                call.payer.pay(call.credit_hold_micros, amount_micros)
            if charged_units:
                paid = (charged_units, amount_micros, terms.currency, terms.rate, terms.clause)
                charges.append(Charge(call.dial.call_id, terms.mode, at_ms, *paid))
        if charges:
            self._charges[call.dial.call_id] = tuple(sorted(charges, key=attrgetter("mode")))
        return total_micros

    # --- what a replay asks besides ------------------------------------------------------------------

    def charges_of(self, call_id: str) -> tuple[Charge, ...]:
        """What a settled call cost."""
        if call_id in self._decided and self._decided[call_id][3] is None:
            return self._writer.charges_of(call_id)
        return self._charges.get(call_id, ())

    def usage(self) -> Iterable[tuple[str, Usage]]:
        """Each meter with the account that it is of, by account, then by time."""
        self.write_down()
        return self._writer.usage()

    def forget(self, before_ms: int) -> None:
        """Drop calls that were over before that (direct.py, `forget`)."""
        self._writer.forget(before_ms)
        live = self._writer.call_ids()
        self._decided = {
            call_id: decided
            for call_id, decided in self._decided.items()
            if call_id in self._calls or call_id in live
        }
        self._charges.clear()

    def write_down(self) -> None:
        """Let the database have all meters and credit."""
        self._write(payer for payer in self._payers.values() if not payer.apart)

    # --- who is at work ------------------------------------------------------------------------------

    def _payer(self, line_id: str) -> _Payer | None:
        """Whose line it is."""
        payer = self._payer_of.get(line_id)
        if payer is None:
            try:
                line = reading.need_line(self._writer.database, line_id)
            except NotFound:
                return None
            payer = self._payers.get(line.account_id) or self._load(line.account_id)
            payer.lines[line_id] = line
            self._payer_of[line_id] = payer
        self._payers.move_to_end(payer.account.id)
        return payer

    def _load(self, account_id: str) -> _Payer:
        if len(self._payers) >= ACCOUNTS_MAX:
            self._make_room()
        db = self._writer.database
        account = reading.need_account(db, account_id)
        agreed = frozenset(agreement.consent for agreement in reading.agreements_of(db, account_id))
        # What was forfeited or raised, and who is in a room, is for the ledger's own steps.
        apart = account.fraud or bool(account.raises) or self._writer.has_calls(account_id)
        payer = _Payer(account, reading.credit_of(db, account_id), agreed, apart)
        for usage in () if apart else self._writer.usage_of(account_id):
            meter, window = usage.meter, usage.meter.window
            payer.meters[meter.allowance, window.start_ms, window.end_ms] = _Meter(
                *(meter.limit_units, meter.used_units, meter.reserved_units, meter.over_units, usage.calls)
            )
        self._payers[account_id] = payer
        return payer

    def _make_room(self) -> None:
        """Forget a tenth of the accounts: those that have been quiet for longest. Who talks is not quiet."""
        quiet = [payer for payer in self._payers.values() if not payer.calls]
        gone = quiet[: max(1, ACCOUNTS_MAX // 10)]
        self._write(payer for payer in gone if not payer.apart)
        for payer in gone:
            del self._payers[payer.account.id]
            for line_id in payer.lines:
                del self._payer_of[line_id]

    async def _part(self, payer: _Payer) -> None:
        """Write an account down with its calls in progress: from now on its steps run in the database."""
        payer.apart = True
        for call in payer.calls.values():
            await self._put(call)
            del self._calls[call.dial.call_id]
        # As they stand, whatever the calls have made of them.
        self._write((payer,))
        payer.calls.clear()
        payer.meters.clear()

    async def _put(self, call: _Call) -> None:
        """Write a call in progress down, as it stands."""
        holds = (
            Hold(held.key[0], held.window, None, held.hold_units, held.over, held.weight)
            for held in call.holds.values()
        )
        dial, verdict = call.dial, call.verdict
        allow = replace(
            call.allow,
            granted_s=call.granted_s,
            holds=tuple(holds),
            credit_hold_micros=call.credit_hold_micros,
            bound_by=call.bound_by,
        )
        self._decided[dial.call_id] = (dial.line_id, dial.kind, dial.dialled, None)
        await super().authorise(dial, lambda *_: Needs(), lambda _: replace(verdict, decision=allow))
        if call.answered_ms is not None and call.leg is not None:
            await super().answered(dial.call_id, call.leg, call.answered_ms)

    def _write(self, payers: Iterable[_Payer]) -> None:
        for payer in payers:
            account_id = payer.account.id
            self._writer.put_meters((account_id, *key, *meter.row) for key, meter in payer.meters.items())
            if payer.credit is not None:
                credit = payer.credit
                self._writer.put_credit(account_id, credit.balance_micros, credit.reserved_micros)

    def _identity(self, payer: _Payer, line: Line, needs: Needs) -> Identity:
        """Whether the number shown is the account's, and which may be shown instead (reading.py, `_identity`)."""
        if payer.numbers is None:
            payer.numbers = reading.numbers_of(self._writer.database, payer.account.id)
        usable = [own for own in payer.numbers if own.line_id in (None, line.id)]
        # The line's own number first, then one of no line in particular.
        usable.sort(key=lambda own: (own.line_id is None, own.number))
        is_own = any(own.number == needs.shown for own in payer.numbers)
        return Identity(is_own, usable[0].number if usable else None)


def _repeat(earlier: _Decided, dial: Dial) -> Verdict:
    """The verdict on a dial that was decided before (granting.py, `_repeat`). Raises IdempotencyConflict."""
    line_id, kind, dialled, decided = earlier
    if (line_id, kind, dialled) != (dial.line_id, dial.kind, dial.dialled):
        raise IdempotencyConflict(
            f"call {dial.call_id} was decided for {line_id} dialling {dialled!r} as {kind};"
            " a new dial needs a new call id"
        )
    if not isinstance(decided, Verdict):
        raise IdempotencyConflict(f"call {dial.call_id} is over; a new dial needs a new call id")
    return replace(decided, repeated=True)


def _talk_began_ms(call: _Call, used_s: int, ended_ms: int, estimated: bool) -> int:
    if call.answered_ms is not None:
        return call.answered_ms
    if estimated:
        return call.dial.at_ms
    return max(call.dial.at_ms, ended_ms - used_s * MS_PER_S)


def _meter(call: _Call, start_ms: int, used_s: int) -> Past:
    """Write `used_s` of use from `start_ms` on the meters that the call holds, and release the rest (granting.py,
    `_meter`).
    """
    stretches: list[tuple[int, int]] = []
    weight = 1
    held = call.holds.values() if len(call.holds) < 2 else sorted(call.holds.values(), key=attrgetter("key"))
    for _, same in groupby(held, key=lambda hold: hold.key[0]):
        holds = list(same)
        parts = split_s(start_ms, used_s, [hold.window for hold in holds])
        if any(hold.over for hold in holds):
            past = _use_past(call, holds, parts)
            stretches += past
            weight = max(weight, holds[0].weight) if past else weight
            continue
        meters, endless = call.payer.meters, call.granted_s is None
        bounds = [
            None if endless or meters[hold.key].limit_units is None else hold.hold_units // hold.weight
            for hold in holds
        ]
        for hold, part_s in zip(holds, fit_s(parts, bounds), strict=True):
            meter, used_units = meters[hold.key], part_s * hold.weight
            if endless and meter.limit_units is not None:
                # Granted without an end while there was no limit: if there is one since, it is what was talked.
                meter.limit_units = max(
                    meter.limit_units, meter.used_units + meter.reserved_units + used_units
                )
            _use(call, hold, used_units, 0)
    return Past(tuple(stretches), weight)


def _use_past(call: _Call, holds: Sequence[_Held], parts: Sequence[int]) -> list[tuple[int, int]]:
    """Use an allowance past which calls go on; returns the stretches of the talk that lie past it (granting.py,
    `_use_past`). The limit is one: what changes it in mid-call, a raise, is not for here.
    """
    begin_s, past = 0, []
    for hold, part_s in zip(holds, parts, strict=True):
        meter, included_s = call.payer.meters[hold.key], part_s
        taken_units = meter.used_units + meter.reserved_units - hold.hold_units
        if meter.limit_units is not None:
            included_s = min(part_s, max(0, meter.limit_units - taken_units) // hold.weight)
            # A limit that is below what is taken already.
            meter.limit_units = max(meter.limit_units, taken_units + included_s * hold.weight)
        if included_s < part_s:
            past.append((begin_s + included_s, begin_s + part_s))
        _use(call, hold, included_s * hold.weight, (part_s - included_s) * hold.weight)
        begin_s += part_s
    return past


def _use(call: _Call, hold: _Held, used_units: int, over_units: int) -> None:
    """Use what is held, and release the rest."""
    meter = call.payer.meters[hold.key]
    meter.reserved_units -= hold.hold_units
    meter.used_units += used_units
    meter.over_units += over_units
    meter.calls += used_units + over_units > 0
    meter.check(call.payer.account.id, hold.key[0])

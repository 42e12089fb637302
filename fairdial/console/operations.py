"""What an operator can ask for, once: the command line calls it in-process or over the control socket.

Every operation takes and returns plain JSON values, so that it means the same in both ways.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import msgspec

from fairdial.answer import RING_S
from fairdial.clock import Moment
from fairdial.desk import Asked, Desk, decision_json
from fairdial.ledger.contract import AccountSheet, Charge, LoadedCard
from fairdial.policy.account import Account, Credit, Kind, Line, Options, Standing
from fairdial.policy.call import Ringing, State, Talking, lease_end_ms
from fairdial.policy.cards import RateCard
from fairdial.policy.numbers import Habit, Number
from fairdial.policy.rating import currency_digits, decimal_text, parse_micros

Json = dict[str, Any]


class OperationError(Exception):
    """The request cannot be carried out; the text says what is wrong and how to mend it."""


@dataclass(frozen=True, slots=True)
class CallRow:
    """A live call as operators read it."""

    call: str
    line: str
    kind: str
    dialled: str
    state: str
    granted_s: int | None
    up_s: int
    left_s: int | None

    @classmethod
    def of(
        cls, call_id: str, line_id: str, kind: Kind, dialled: str, state: State, since: Moment, now: Moment
    ) -> "CallRow":
        """A row out of a call's state."""
        end_ms = lease_end_ms(state)
        start_ms = state.since_ms if isinstance(state, Talking) else since.mono_ms
        granted_s = state.granted_s if isinstance(state, Ringing | Talking) else None
        left_s = None if end_ms is None else max(0, end_ms - now.mono_ms) // 1000
        name = type(state).__name__.lower()
        return cls(call_id, line_id, kind, dialled, name, granted_s, (now.mono_ms - start_ms) // 1000, left_s)


class Operations:
    """All operations by name: `Operations.call("account_add", {...})`."""

    def __init__(
        self,
        desk: Desk,
        *,
        calls: Callable[[], list[CallRow]] | None = None,
        hang_up: Callable[[str], Awaitable[bool]] | None = None,
        status: Callable[[], Json] | None = None,
    ) -> None:
        self._desk = desk
        self._ledger = desk.ledger
        self._calls = calls
        self._hang_up = hang_up
        self._status = status
        self._by_name: Mapping[str, Callable[..., Awaitable[Any]]] = {
            "account_add": self._account_add,
            "account_list": self._account_list,
            "account_show": self._account_show,
            "account_standing": self._account_standing,
            "subscribe": self._subscribe,
            "credit_add": self._credit_add,
            "rates_load": self._rates_load,
            "rates_list": self._rates_list,
            "line_add": self._line_add,
            "line_list": self._line_list,
            "usage": self._account_show,
            "check": self._check,
            "decisions": self._decisions,
            "calls": self._live_calls,
            "hangup": self._hangup,
            "status": self._server_status,
            "grants": self._grants,
            "grant": self._grant,
        }

    async def call(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """Run one operation. Raises OperationError, LedgerError, ValueError."""
        operation = self._by_name.get(name)
        if operation is None:
            raise OperationError(
                f"operation {name!r} is unknown; this FairDial may be older than the command"
            )
        try:
            return await operation(**arguments)
        except TypeError as error:
            raise OperationError(f"{name}: {error}") from error

    async def _account_add(self, account: str, policy: str, zone: str = "UTC", name: str = "") -> Json:
        self._known_policy(policy)
        entry = Account(account, policy, zone, name)
        await self._ledger.add_account(entry)
        return account_json(entry)

    async def _account_list(self) -> list[Json]:
        return [account_json(account) for account in await self._ledger.accounts()]

    async def _account_show(self, account: str) -> Json:
        return sheet_json(await self._ledger.sheet(account))

    async def _account_standing(self, account: str, standing: str) -> Json:
        return account_json(await self._ledger.set_standing(account, Standing(standing)))

    async def _subscribe(
        self,
        account: str,
        policy: str,
        countries: list[str] | None = None,
        until_ms: int | None = None,
        cycle_day: int = 1,
    ) -> Json:
        self._known_policy(policy)
        options = Options(frozenset(countries or ()), until_ms, cycle_day)
        return account_json(await self._ledger.subscribe(account, policy, options))

    async def _credit_add(
        self, account: str, amount: str, currency: str, reference: str, note: str = ""
    ) -> Json:
        currency_digits(currency)
        sign, digits = (-1, amount[1:]) if amount.startswith("-") else (1, amount)
        credit = await self._ledger.add_credit(
            account, currency, sign * parse_micros(digits), reference, self._desk.now_ms(), note
        )
        return credit_json(credit)

    async def _rates_load(self, card: str, currency: str, text: str, where: str = "rates.csv") -> Json:
        # Half a second for a large card: not on the loop that answers calls.
        parsed = await asyncio.to_thread(RateCard.parse, text, card, currency, where)
        await self._ledger.load_card(LoadedCard(card, currency, text), self._desk.now_ms())
        self._desk.cards = {**self._desk.cards, card: parsed}
        return card_json(parsed)

    async def _rates_list(self) -> list[Json]:
        return [card_json(card) for _, card in sorted(self._desk.cards.items())]

    def _known_policy(self, policy: str) -> None:
        if policy not in self._desk.policies:
            known = ", ".join(self._desk.policies.names)
            raise OperationError(f"policy {policy!r} is not loaded; known are {known}")

    async def _line_add(self, line: str, account: str, habit: Json | None = None) -> Json:
        entry = Line(line, account, habit_of(habit or {}))
        holder = (await self._ledger.sheet(account)).account
        await self._ledger.add_line(entry, self._desk.lines_max(holder))
        return line_json(entry)

    async def _line_list(self, account: str | None = None) -> list[Json]:
        return [line_json(line) for line in await self._ledger.lines(account)]

    async def _check(
        self,
        number: str,
        account: str | None = None,
        line: str | None = None,
        kind: str = "outbound",
        caller: str = "",
        at_ms: int | None = None,
    ) -> Json:
        asked = Asked(
            "check", Kind(kind), number, await self._line_of(account, line), "check", RING_S, caller
        )
        return decision_json("check", await self._desk.check(asked, at_ms))

    async def _line_of(self, account: str | None, line: str | None) -> str:
        lines = await self._ledger.lines(account)
        if line is None:
            if account is None or not lines:
                raise OperationError("name a line with --line, or an account that has one with --account")
            return lines[0].id
        if account is not None and line not in {entry.id for entry in lines}:
            raise OperationError(
                f"line {line!r} is not one of account {account!r}; `fairdial line list` shows them"
            )
        return line

    async def _decisions(self, account: str | None = None, limit: int = 100) -> list[Json]:
        return [
            asdict(record) for record in await self._ledger.decisions(account, max(1, min(limit, 10_000)))
        ]

    async def _live_calls(self) -> list[Json]:
        if self._calls is not None:
            return [asdict(row) for row in self._calls()]
        # No server runs: what the ledger still holds, whose end the switch keeps.
        return await self._grants()

    async def _grants(self) -> list[Json]:
        return [
            {
                "call": grant.call_id,
                "line": grant.line_id,
                "kind": str(grant.kind),
                "dialled": grant.dialled,
                "state": str(grant.state),
                "granted_s": grant.granted_s,
                "up_s": None,
                "left_s": None,
            }
            for grant in await self._ledger.live_grants()
        ]

    async def _grant(self, call: str) -> Json:
        grant = await self._ledger.grant(call)
        if grant is None:
            raise OperationError(f"no grant for call {call!r}; `fairdial decisions` shows the ids")
        return asdict(grant)

    async def _hangup(self, call: str) -> Json:
        if self._hang_up is None:
            raise OperationError(
                "no FairDial is running here; start `fairdial serve`, or hang up at the switch"
            )
        if not await self._hang_up(call):
            raise OperationError(f"no live call {call!r}; `fairdial calls` shows them")
        return {"call": call, "hung_up": True}

    async def _server_status(self) -> Json:
        return {"serving": False} if self._status is None else {"serving": True} | self._status()


def habit_of(fields: Mapping[str, Any]) -> Habit:
    """A line's dialling habit out of JSON. Raises ValueError or OperationError."""
    known = set(Habit.__dataclass_fields__)
    unknown = sorted(set(fields) - known)
    if unknown:
        raise OperationError(f"habit has no {unknown[0]!r}; known are {', '.join(sorted(known))}")
    return msgspec.convert(fields, Habit)


def number_json(number: Number) -> Json:
    """A classified number."""
    return {
        "dialled": number.dialled,
        "e164": number.e164,
        "class": str(number.number_class),
        "country": number.country,
        "high_risk": number.high_risk,
        "source": number.source,
        "problem": number.problem,
    }


def account_json(account: Account) -> Json:
    """An account without its lines."""
    return {
        "account": account.id,
        "name": account.name,
        "policy": account.policy,
        "zone": account.zone,
        "standing": str(account.standing),
        "countries": sorted(account.options.countries),
        "until_ms": account.options.until_ms,
        "cycle_day": account.options.cycle_day,
    }


def credit_json(credit: Credit) -> Json:
    """Prepaid credit; amounts are decimal texts."""
    return {
        "currency": credit.currency,
        "balance": decimal_text(credit.balance_micros),
        "reserved": decimal_text(credit.reserved_micros),
        "free": decimal_text(credit.free_micros),
    }


def charge_json(charge: Charge) -> Json:
    """What a call cost."""
    return {
        "call": charge.call_id,
        "mode": str(charge.mode),
        "at_ms": charge.at_ms,
        "charged_s": charge.charged_s,
        "amount": decimal_text(charge.amount_micros),
        "currency": charge.currency,
        "rate": charge.rate,
        "clause": {"policy": charge.clause.policy, "version": charge.clause.version, "id": charge.clause.id},
    }


def card_json(card: RateCard) -> Json:
    """A rate card without its rows."""
    return {"card": card.name, "currency": card.currency, "rates": len(card), "version": card.version}


def line_json(line: Line) -> Json:
    """A line."""
    return {
        "line": line.id,
        "account": line.account_id,
        "standing": str(line.standing),
        "habit": asdict(line.habit),
    }


def sheet_json(sheet: AccountSheet) -> Json:
    """An account with lines and usage."""
    usage = [
        {
            "allowance": entry.meter.allowance,
            "start_ms": entry.meter.window.start_ms,
            "end_ms": entry.meter.window.end_ms,
            "limit_s": entry.meter.limit_s,
            "used_s": entry.meter.used_s,
            "reserved_s": entry.meter.reserved_s,
            "over_s": entry.meter.over_s,
            "calls": entry.calls,
        }
        for entry in sheet.usage
    ]
    return account_json(sheet.account) | {
        "lines": [line_json(line) for line in sheet.lines],
        "usage": usage,
        "credit": None if sheet.credit is None else credit_json(sheet.credit),
        "charges": [charge_json(charge) for charge in sheet.charges],
    }

"""Statements add up to the ledger, to the smallest unit: three months of 10,000 calls, whatever changed in them."""

import asyncio
import csv
import io
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Iterator
from decimal import Decimal
from typing import Any, TypeVar

import pytest

from fairdial.console.statements import csv_beginning, csv_page, line_json, statement_json
from fairdial.ledger.contract import Ledger, NotFound
from fairdial.policy.book import PolicyBook
from fairdial.policy.periods import Period, Window, windows_over, zone_named
from fairdial.policy.rating import MICROS_PER_UNIT
from fairdial.statements import Line, Statement, Sums, add_up, line_of, period_of
from tests.contract.conftest import STORES, Store
from tests.contract.statements import (
    BEGIN_MS,
    CUSTOMERS,
    END_MS,
    MONTHS,
    NOW_MS,
    WHOLE,
    Customer,
    Made,
    Months,
    policies,
)

T = TypeVar("T")


class Kept:
    """A store with the three months in it, and what was made."""

    def __init__(self, store: Store, count: int) -> None:
        """count: at least so many dials."""
        self.store = store
        self.made: Made = self.ask(lambda ledger: Months(ledger, 20261127, count).make())

    def ask(self, question: Callable[[Ledger], Coroutine[Any, Any, T]]) -> T:
        """What a question to the open ledger answers."""

        async def asked() -> T:
            ledger = await self.store.open()
            try:
                return await question(ledger)
            finally:
                await ledger.close()

        return asyncio.run(asked())

    def statements(self, account: str) -> list[Statement]:
        """Those of the three cycles."""

        async def asked(ledger: Ledger) -> list[Statement]:
            return [await add_up(ledger, account, period_of(NOW_MS, month)) for month in MONTHS]

        return self.ask(asked)

    def lines(self, account: str, period: Window) -> list[Line]:
        """All lines of a period, read in small pages."""

        async def asked(ledger: Ledger) -> list[Line]:
            found: list[Line | None] = []
            after: tuple[int, str] | None = None
            while True:
                page = await ledger.settled_calls(account, period, after, 97)
                found += [line_of(call, period) for call in page.calls]
                after = page.after
                if after is None:
                    return [line for line in found if line is not None]

        return self.ask(asked)


@pytest.fixture(scope="module", params=sorted(STORES))
def kept(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    with STORES[request.param](tmp_path_factory.mktemp("months")) as store:
        # A server takes a few milliseconds for each step, and has the same statements to make.
        yield Kept(store, WHOLE // {"sqlite": 1, "postgres": 16, "shards": 16}[request.param])


def micros(amount: str) -> int:
    return int(Decimal(amount or "0") * MICROS_PER_UNIT)


@pytest.mark.parametrize("kept", ["sqlite"], indirect=True)
def test_all_that_is_to_be_added_up_was_made(kept: Kept) -> None:
    """Else the tests below would show little."""
    made = kept.made
    assert made.count >= WHOLE
    assert made.messages > 1_000
    for customer in CUSTOMERS:
        found = [statement_json(each) for each in kept.statements(customer.account)]
        modes = Counter(row["mode"] for each in found for row in each["charges"])
        assert modes["overage"] == modes["credit"] == len(MONTHS)
        assert modes["surcharge"] == (2 if customer.account == "acme" else 0)
        kinds = {row["kind"] for row in found[1]["kinds"]}
        assert kinds == {"outbound", "inbound", "internal", "callback", "conference", "message"}
        plans = {(row["policy"], row["version"]) for each in found for row in each["plans"]}
        assert plans == {("plan", "1"), ("plan", "2")} | (
            {("other", "1")} if customer.account == "zeta" else set()
        )
        assert any(row["here_over_units"] for row in found[1]["allowances"] if row["allowance"] == "texts")
        # Calls that began before a statement's period and are in it, of which one was longer than a day.
        crossing = [
            line.call.grant
            for statement in kept.statements(customer.account)[1:]
            for line in kept.lines(customer.account, statement.books.period)
            if not line.began
        ]
        assert {grant.kind for grant in crossing} >= {"outbound", "inbound"}
    longest = [
        line.call.grant.used_s or 0
        for customer in CUSTOMERS
        for statement in kept.statements(customer.account)
        for line in kept.lines(customer.account, statement.books.period)
        if line.call.grant.kind == "internal"
    ]
    assert max(longest) > 86_400


@pytest.mark.parametrize("customer", CUSTOMERS, ids=lambda each: each.account)
def test_statements_add_up_to_the_ledger_and_together_to_all_that_was(kept: Kept, customer: Customer) -> None:
    found = kept.statements(customer.account)
    assert [(each.adds_up, each.sums.differences) for each in found] == [(True, [])] * len(MONTHS)
    periods = [each.books.period for each in found]
    assert [each.end_ms for each in periods[:-1]] == [each.start_ms for each in periods[1:]]
    # What each settlement said by itself, and the meters as the account's sheet has them.
    made, account = kept.made, customer.account
    shown = [statement_json(each) for each in found]
    sheet = kept.ask(lambda ledger: ledger.sheet(account))
    calls = sum(row["calls"] for each in shown for row in each["kinds"])
    assert calls == made.calls[account]
    assert sum(row["talk_s"] for each in shown for row in each["kinds"]) == made.talk_s[account]
    charged = sum(micros(row["amount"]) for each in shown for row in each["charges"] if not row["messages"])
    texts = sum(row["messages"] for each in shown for row in each["charges"] if row["mode"] == "overage")
    by_message = sum(
        charge.amount_micros
        for each in periods
        for line in kept.lines(account, each)
        for charge in line.charges
        if line.call.grant.kind == "message"
    )
    every = sum(micros(row["amount"]) for each in shown for row in each["charges"])
    assert every - by_message == made.charged_micros[account]
    assert charged <= every
    used: dict[str, int] = defaultdict(int)
    over: dict[str, int] = defaultdict(int)
    for usage in sheet.usage:
        used[usage.meter.allowance] += usage.meter.used_units
        over[usage.meter.allowance] += usage.meter.over_units
    assert over["texts"] == texts > 0
    for statement in shown:
        for row in statement["allowances"]:
            used[row["allowance"]] -= row["here_used_units"]
            over[row["allowance"]] -= row["here_over_units"]
    assert {name for name in used if used[name] or over[name]} == set()
    credit = [each["credit"] for each in shown]
    assert [each["opening"] for each in credit] == ["0", *(each["closing"] for each in credit[:-1])]
    assert sum(micros(each["added"]) for each in credit) == made.paid_in_micros[account]
    assert sheet.credit is not None
    assert micros(credit[-1]["closing"]) == sheet.credit.balance_micros
    forfeited = micros(credit[-1]["forfeited"])
    assert (forfeited > 0, sheet.credit.balance_micros > 0) == (account == "zeta", account == "acme")


@pytest.mark.parametrize("customer", CUSTOMERS, ids=lambda each: each.account)
def test_days_say_what_statements_of_those_days_would(kept: Kept, customer: Customer) -> None:
    zone = zone_named(customer.zone)
    windows = windows_over(Period.DAY, zone, BEGIN_MS, END_MS)
    found = kept.ask(lambda ledger: ledger.days(customer.account, windows))
    assert [day.window for day in found] == list(windows)
    whole = kept.lines(customer.account, Window(windows[0].start_ms, windows[-1].end_ms))
    for day in found:
        sums = Sums(day.window)
        for line in whole:
            sums.add(line.call)
        kinds = {kind: (each.calls, each.talk_s) for kind, each in sums.kinds.items()}
        assert day.kinds == {kind: told for kind, told in kinds.items() if any(told)}
        charged: dict[str, int] = defaultdict(int)
        for (_, currency), each in sums.charges.items():
            charged[currency] += each.micros
        assert day.charged == charged
    assert sum(bool(day.kinds) for day in found) > (60 if kept.made.count >= WHOLE else 20)
    # No call is in two days, and none is left out.
    assert sum(calls for day in found for calls, _ in day.kinds.values()) == kept.made.calls[customer.account]


@pytest.mark.parametrize("customer", CUSTOMERS, ids=lambda each: each.account)
def test_the_rows_of_the_csv_add_up_to_the_statement_and_name_their_rule_and_rate(
    kept: Kept, customer: Customer
) -> None:
    book, zone = PolicyBook(policies()), zone_named(customer.zone)
    for statement in kept.statements(customer.account):
        shown = statement_json(statement)
        lines = kept.lines(customer.account, statement.books.period)
        told = [line_json(line, book, full_numbers=True) for line in lines]
        rows = list(csv.DictReader(io.StringIO(csv_beginning() + csv_page(told, zone))))
        assert sum(row["record"] == "call" for row in rows) == shown["count"] == len(lines)
        order = [(line.call.grant.authorised_ms, line.call.grant.call_id) for line in lines]
        assert order == sorted(set(order))
        for sum_of in shown["kinds"]:
            mine = [row for row in rows if row["kind"] == sum_of["kind"]]
            assert sum(int(row["calls"] or 0) for row in mine) == sum_of["calls"]
            assert sum(int(row["talk_s"] or 0) for row in mine) == sum_of["talk_s"]
        for sum_of in shown["charges"]:
            mine = [row for row in rows if row["mode"] == sum_of["mode"]]
            assert sum(micros(row["amount"]) for row in mine) == micros(sum_of["amount"])
            assert sum(int(row["charged_units"]) for row in mine) == sum_of["seconds"] + sum_of["messages"]
        for name in {row["allowance"] for row in shown["allowances"]}:
            mine = [row for row in rows if row["allowance"] == name]
            of_name = [row for row in shown["allowances"] if row["allowance"] == name]
            for column in ("used_units", "over_units"):
                total = sum(row[f"here_{column}"] for row in of_name)
                assert sum(int(row[column]) for row in mine) == total
        for row in rows:
            assert row["policy"] in {"plan", "other"}
            assert row["clause"].startswith("T")
            assert row["record"] != "charge" or row["rate"]


async def test_who_is_unknown_has_no_statement(ledger: Ledger) -> None:
    with pytest.raises(NotFound, match="no account 'nosuch'"):
        await add_up(ledger, "nosuch", period_of(NOW_MS))
    with pytest.raises(NotFound, match="no account 'nosuch'"):
        await ledger.settled_calls("nosuch", Window(0, 1), None, 10)

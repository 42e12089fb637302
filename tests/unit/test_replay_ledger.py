"""The ledger of a replay: a copy of who is there from one that is in use, credit, and what is dropped as it goes."""

import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC
from pathlib import Path

import pytest

from fairdial.ledger.contract import LedgerUnavailable, LoadedCard, PublishedPolicy
from fairdial.ledger.direct import DirectWriter
from fairdial.ledger.sqlite import SqliteLedger
from fairdial.ledger.working import WorkingLedger
from fairdial.policy.account import Account, Agreement, Consent, Kind, Line, Options, OwnNumber, Standing
from fairdial.policy.document import parse_policy
from fairdial.policy.numbers import Habit
from fairdial.replay import engine
from fairdial.replay.prepare import Grounds
from fairdial.replay.result import Outcome
from fairdial.replay.run import Result, Wanted, replay
from tests.cdrs import PREMIUM, call_of, replayed, row, site
from tests.samples import LONDON, NOON_MS, authorise, outbound, plan, provision

PROJECT = Path(__file__).parents[2]
PREPAID = parse_policy((PROJECT / "testbed/policies/prepaid.toml").read_text(), "prepaid.toml")
RATES = (PROJECT / "testbed/rates.csv").read_text()


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[SqliteLedger]:
    """A ledger in use, with one prepaid account: a cent for a premium call and a cent a second."""
    ledger = await SqliteLedger.open(tmp_path / "ledger.sqlite")
    await ledger.add_account(Account("acme", "prepaid", options=Options(frozenset({"GB"}))))
    await ledger.add_line(Line("alice", "acme", Habit()))
    await ledger.add_credit("acme", "EUR", 300_000, "payment-1", NOON_MS)
    await ledger.load_card(LoadedCard("standard", "EUR", RATES), NOON_MS)
    yield ledger
    await ledger.close()


async def on_credit(folder: Path, rows: list[str], grounds: Grounds | None = None) -> dict[str, Outcome]:
    """What became of calls of the ledger's prepaid account."""
    file = folder / "Master.csv"
    file.write_text("".join(f"{each}\n" for each in rows))
    calls: dict[str, Outcome] = {}
    here = replace(site(PREPAID), store=folder / "ledger.sqlite")
    await replay(
        here,
        Wanted((file,), UTC, grounds=grounds or Grounds()),
        lambda *_told: None,
        lambda outcome: calls.update({outcome.call_id: outcome}),
    )
    return calls


async def test_a_call_on_credit_is_charged_and_cut_when_the_credit_is_used_up(
    tmp_path: Path, live: SqliteLedger
) -> None:
    rows = [row(1, 0, 10, dst=PREMIUM), row(2, 100, 60, dst=PREMIUM), row(3, 300, 5, dst=PREMIUM)]
    found = await on_credit(tmp_path, rows)
    first, second, third = (found[call_of(number)] for number in (1, 2, 3))
    # 0.30 EUR: 0.11 for ten seconds, then 0.01 and eighteen seconds.
    assert (first.reason, first.owed, first.cut) == ("by_credit", {"EUR": 110_000}, None)
    assert (second.metered_s, second.owed) == (18, {"EUR": 190_000})
    assert second.cut is not None
    assert (second.cut.policy, second.cut.id) == ("prepaid", "C3")
    assert (third.decision, third.reason) == ("refuse", "credit_too_low")
    sheet = await live.sheet("acme")
    assert sheet.credit is not None
    assert (sheet.credit.balance_micros, sheet.charges) == (300_000, ())


async def test_credit_to_begin_with_takes_the_place_of_what_there_is(
    tmp_path: Path, live: SqliteLedger
) -> None:
    rows = [row(1, 0, 60, dst=PREMIUM)]
    found = await on_credit(tmp_path, rows, Grounds(credit_micros=5_000_000))
    assert (found[call_of(1)].metered_s, found[call_of(1)].cut) == (60, None)
    found = await on_credit(tmp_path, rows, Grounds(credit_micros=0))
    assert found[call_of(1)].reason == "credit_too_low"


async def test_the_copy_has_who_is_there_and_no_calls(tmp_path: Path, live: SqliteLedger) -> None:
    await provision(live, "other", "bob")
    await live.set_line_standing("bob", Standing.SUSPENDED)
    await live.add_number(OwnNumber("+442079460000", "acme", "alice"))
    await live.agree(Agreement("acme", Consent.SURCHARGE, "Ann", NOON_MS))
    await live.restrict("other", [Kind.CONFERENCE], NOON_MS)
    await live.publish(PublishedPolicy("plan", "1", NOON_MS, "text"))
    await authorise(live, outbound("live-1", line_id="bob"))
    await authorise(live, outbound("live-2"))
    assert len(await live.live_grants()) == 1
    writer = DirectWriter()
    writer.copy_from(tmp_path / "ledger.sqlite")
    copy = SqliteLedger(writer)
    assert await copy.accounts() == await live.accounts()
    assert await copy.lines() == await live.lines()
    assert await copy.published() == await live.published()
    assert await copy.cards() == await live.cards()
    ours, theirs = await copy.sheet("acme"), await live.sheet("acme")
    assert (ours.numbers, ours.agreements, ours.usage) == (theirs.numbers, theirs.agreements, ())
    assert await copy.live_grants() == ()
    assert await copy.decisions() == ()
    await copy.close()


@pytest.mark.parametrize("content", [b"", b"no database at all, but long enough to be looked at" * 20])
async def test_what_is_no_ledger_is_told_of(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "ledger.sqlite"
    file.write_bytes(content)
    writer = DirectWriter()
    with pytest.raises(LedgerUnavailable, match="cannot be read as a ledger"):
        writer.copy_from(file)
    await writer.close()


async def test_the_copy_cannot_write_the_ledger_it_came_from(tmp_path: Path, live: SqliteLedger) -> None:
    before = (tmp_path / "ledger.sqlite").read_bytes()
    await on_credit(tmp_path, [row(1, 0, 10, dst=PREMIUM)])
    assert (tmp_path / "ledger.sqlite").read_bytes() == before


async def test_dropping_calls_that_are_over_changes_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row(number, number * 20, 15 + number) for number in range(1, 40)]

    async def result() -> tuple[Result, dict[str, Outcome]]:
        found = await replayed(tmp_path, rows, plan(limit_s=900))
        return found.result, found.calls

    kept, kept_calls = await result()
    monkeypatch.setattr(engine, "FORGET_EVERY", 3)
    dropped, dropped_calls = await result()
    assert dropped_calls == kept_calls
    assert dropped.usage == kept.usage


@pytest.mark.parametrize(("count", "times"), [(2, 0), (7, 2)])
@pytest.mark.parametrize("dst", [PREMIUM, LONDON.dialled])
async def test_refused_calls_are_dropped_like_those_that_are_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dst: str, count: int, times: int
) -> None:
    dropped_ms: list[int] = []
    monkeypatch.setattr(engine, "FORGET_EVERY", 3)
    monkeypatch.setattr(WorkingLedger, "forget", lambda _ledger, before_ms: dropped_ms.append(before_ms))
    rows = [row(number, number * 100, 15, dst=dst) for number in range(1, count + 1)]
    found = await replayed(tmp_path, rows, plan())
    assert (found.result.tally.overall.refused, len(dropped_ms)) == (count if dst == PREMIUM else 0, times)


async def test_what_is_dropped_is_gone_and_what_is_up_stays() -> None:
    writer = DirectWriter()
    ledger = SqliteLedger(writer)
    await provision(ledger)
    for number in range(3):
        await authorise(ledger, outbound(f"call-{number}"), plan(limit_s=None))
    await ledger.settle("call-0", 10, NOON_MS + 10_000)
    writer.forget(NOON_MS)

    def counted(db: sqlite3.Connection) -> list[int]:
        tables = ("decisions", "grants", "holds")
        return [db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables]

    assert await writer.read(counted) == [2, 2, 2]
    assert [usage.meter.used_units for _, usage in writer.usage()] == [10]
    await ledger.settle("call-1", 5, NOON_MS + 5_000)
    assert [usage.meter.used_units for _, usage in writer.usage()] == [15]
    await writer.close()

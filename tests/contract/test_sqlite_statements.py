"""A statement that the ledger's file was changed under: whatever was, it is noticed and named. Pages stay small."""

import asyncio
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from fairdial.ledger import statements as reading
from fairdial.ledger.sqlite import SqliteLedger
from fairdial.policy.periods import Window
from fairdial.statements import Statement, add_up, period_of
from tests.contract.statements import MONTHS, NOW_MS, Months

A_CALL = (
    "call_id = (SELECT call_id FROM charges WHERE account_id = 'acme' AND mode = '{mode}' AND at_ms > 1773600000000"
    " ORDER BY at_ms, call_id LIMIT 1)"
)
"""The first one in the middle of the three months that was charged so."""
OVERAGE, CREDIT = A_CALL.format(mode="overage"), A_CALL.format(mode="credit")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger with a smaller three months."""
    path = tmp_path_factory.mktemp("months") / "ledger.sqlite"

    async def make() -> None:
        ledger = await SqliteLedger.open(path)
        await Months(ledger, seed=4, count=2_000).make()
        await ledger.close()

    asyncio.run(make())
    return path


def statement_of(path: Path, month: str) -> Statement:
    async def asked() -> Statement:
        ledger = await SqliteLedger.open(path)
        try:
            return await add_up(ledger, "acme", period_of(NOW_MS, month))
        finally:
            await ledger.close()

    return asyncio.run(asked())


def test_the_file_as_it_was_written_adds_up(made: Path) -> None:
    assert all(statement_of(made, month).adds_up for month in MONTHS)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (f"DELETE FROM charges WHERE mode = 'overage' AND {OVERAGE}", "| surcharge"),
        (f"UPDATE charges SET amount_micros = amount_micros + 1 WHERE mode = 'overage' AND {OVERAGE}", "EUR"),
        (
            f"UPDATE charges SET charged_units = charged_units + 1 WHERE mode = 'overage' AND {OVERAGE}",
            "units",
        ),
        (f"UPDATE charges SET at_ms = at_ms + 1 WHERE mode = 'overage' AND {OVERAGE}", "at "),
        (f"UPDATE charges SET at_ms = 0 WHERE mode = 'overage' AND {OVERAGE}", "at 0"),
        (f"UPDATE charges SET currency = 'USD' WHERE mode = 'overage' AND {OVERAGE}", "USD"),
        (f"UPDATE charges SET rate = 'other' WHERE mode = 'overage' AND {OVERAGE}", "by other"),
        (f"UPDATE charges SET clause_id = 'X1' WHERE mode = 'overage' AND {OVERAGE}", "X1"),
        (
            f"UPDATE charges SET account_id = 'zeta' WHERE mode = 'overage' AND {OVERAGE}",
            "charges by overage",
        ),
        (f"DELETE FROM charges WHERE mode = 'credit' AND {CREDIT}", "no charge"),
        (
            f"DELETE FROM credit_entries WHERE reference IN (SELECT call_id FROM grants WHERE {CREDIT})",
            "credit",
        ),
        (
            "UPDATE credit_entries SET amount_micros = amount_micros + 1 WHERE reference IN"
            f" (SELECT call_id FROM grants WHERE {CREDIT})",
            "paid from credit",
        ),
        (
            "DELETE FROM credit_entries WHERE account_id = 'acme' AND origin = 'added'",
            "balance of the credit",
        ),
        (
            "UPDATE credits SET balance_micros = balance_micros + 1 WHERE account_id = 'acme'",
            "balance of the credit",
        ),
        (f"DELETE FROM holds WHERE {OVERAGE}", "allowance voice"),
        (
            f"UPDATE holds SET used_units = used_units + 1, over_units = over_units + 1 WHERE {OVERAGE}",
            "voice",
        ),
        (f"UPDATE holds SET over_units = over_units + 9999 WHERE over_units > 0 AND {OVERAGE}", "cannot be"),
        (
            "UPDATE meters SET used_units = used_units - 1 WHERE account_id = 'acme' AND used_units > 0",
            "used",
        ),
        (
            "UPDATE meters SET over_units = over_units + 1 WHERE account_id = 'acme' AND over_units > 0",
            "over",
        ),
        ("DELETE FROM meters WHERE account_id = 'acme' AND used_units > 0", "no meter"),
        ("UPDATE holds SET used_units = used_units + 1 WHERE room = 1 AND used_units > 0", "allowance room"),
        (f"UPDATE grants SET used_s = used_s + 1, granted_s = granted_s + 1 WHERE {CREDIT}", "credit"),
    ],
)
def test_what_was_removed_or_changed_is_noticed(made: Path, tmp_path: Path, change: str, words: str) -> None:
    copy = tmp_path / "ledger.sqlite"
    shutil.copy(made, copy)
    with closing(sqlite3.connect(copy, isolation_level=None)) as raw:
        assert raw.execute(change).rowcount > 0
    found = statement_of(copy, "2026-03")
    assert found.adds_up is False
    told = [f"{each.what}: {each.statement} | {each.ledger}" for each in found.sums.differences]
    assert any(words in each for each in told), told


def test_each_dial_of_a_long_history_is_read_once(made: Path) -> None:
    """The readings of a page go along an index: none is in proportion to what the account ever did."""
    with closing(sqlite3.connect(made)) as raw:
        statements: list[str] = []
        raw.set_trace_callback(statements.append)
        raw.row_factory = sqlite3.Row
        reading.settled_calls(raw, "acme", Window(1_773_600_000_000, 1_776_000_000_000), None, 100)
        raw.set_trace_callback(None)
        for statement in statements:
            plans = [row["detail"] for row in raw.execute(f"EXPLAIN QUERY PLAN {statement}")]
            scanned = [plan for plan in plans if plan.startswith("SCAN") and "VIRTUAL TABLE" not in plan]
            assert scanned == [], statement

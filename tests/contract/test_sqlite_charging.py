"""What the SQLite schema itself refuses about money, whatever statement asks for it."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from fairdial.ledger.sqlite import SqliteLedger
from tests.charges import PARIS, UNIT, Counter, priced_plan

DB = sqlite3.Connection


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    """A file with a credit of 10 EUR, of which a settled call took some and a live one holds some."""
    path = tmp_path / "ledger.sqlite"
    ledger = await SqliteLedger.open(path)
    counter = Counter(ledger, priced_plan(countries='["GB"]'))
    await counter.open_account()
    await counter.pay_in(10 * UNIT)
    await counter.talk("call-1", 60, PARIS)
    await counter.allow("call-2", PARIS)
    await ledger.close()
    return path


@pytest.fixture
def books(path: Path) -> Iterator[DB]:
    raw = sqlite3.connect(path, isolation_level=None)
    raw.execute("PRAGMA foreign_keys=ON")
    yield raw
    raw.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE credits SET balance_micros = -1, reserved_micros = 0",
        "UPDATE credits SET balance_micros = reserved_micros - 1",
        "UPDATE credits SET reserved_micros = balance_micros + 1",
        "UPDATE credits SET reserved_micros = -1",
        "UPDATE credits SET currency = 'EURO'",
        "INSERT INTO credits VALUES ('nobody', 'EUR', 0, 0)",
        "DELETE FROM credits",
        "INSERT INTO credit_entries VALUES ('acme', 'added', 'payment-1', 0, 1, 1, '')",
        "INSERT INTO credit_entries VALUES ('acme', 'other', 'payment-2', 0, 1, 1, '')",
        "INSERT INTO charges SELECT * FROM charges",
        "UPDATE charges SET amount_micros = -1",
        "UPDATE charges SET charged_units = 0",
        "UPDATE charges SET mode = 'gift'",
        "UPDATE grants SET credit_hold_micros = -1",
        "UPDATE grants SET terms = 'none'",
    ],
)
def test_no_statement_can_store_what_must_never_be(books: DB, statement: str) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        books.execute(statement)


def test_what_may_be_is_stored(books: DB) -> None:
    assert books.execute("UPDATE credits SET balance_micros = reserved_micros").rowcount == 1
    assert books.execute("UPDATE credits SET balance_micros = 0, reserved_micros = 0").rowcount == 1


def test_the_balance_is_the_sum_of_its_entries(books: DB) -> None:
    entries = books.execute(
        "SELECT origin, reference, amount_micros, balance_micros FROM credit_entries ORDER BY at_ms, origin"
    ).fetchall()
    assert entries == [
        ("added", "payment-1", 10_000_000, 10_000_000),
        ("call", "call-1", -700_000, 9_300_000),
    ]
    assert books.execute("SELECT balance_micros FROM credits").fetchone() == (9_300_000,)

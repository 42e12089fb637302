"""Accounts, lines, subscriptions, credit and rate cards on SQLite.

What each step promises stands at the method of its name in contract.py.
"""

import sqlite3
from dataclasses import replace

import msgspec

from fairdial.ledger import granting, reading
from fairdial.ledger.contract import (
    AlreadyExists,
    ConstraintViolated,
    LoadedCard,
    TooMany,
)
from fairdial.policy.account import (
    Account,
    Credit,
    Line,
    Options,
    Standing,
)
from fairdial.policy.rating import currency_digits, decimal_text


def add_account(db: sqlite3.Connection, account: Account) -> None:
    row = db.execute("SELECT * FROM accounts WHERE id = ?", (account.id,)).fetchone()
    if row is None:
        db.execute(
            "INSERT INTO accounts (id, name, policy, zone, standing, options) VALUES (?, ?, ?, ?, ?, ?)",
            (
                account.id,
                account.name,
                account.policy,
                account.zone,
                account.standing,
                reading.from_options(account.options),
            ),
        )
    elif replace(reading.to_account(row), standing=account.standing) != account:
        raise AlreadyExists(f"account {account.id!r} exists with other contents; choose another id")


def add_line(db: sqlite3.Connection, line: Line, lines_max: int | None) -> None:
    reading.need_account(db, line.account_id)
    row = db.execute("SELECT * FROM lines WHERE id = ?", (line.id,)).fetchone()
    if row is None:
        query = "SELECT count(*) FROM lines WHERE account_id = ?"
        [held] = db.execute(query, (line.account_id,)).fetchone()
        if lines_max is not None and held >= lines_max:
            raise TooMany(
                f"account {line.account_id!r} holds {held} lines, and its policy allows {lines_max}"
            )
        db.execute(
            "INSERT INTO lines (id, account_id, standing, habit) VALUES (?, ?, ?, ?)",
            (line.id, line.account_id, line.standing, msgspec.json.encode(line.habit).decode()),
        )
    elif (row["account_id"], reading.to_habit(row["habit"])) != (line.account_id, line.habit):
        raise AlreadyExists(f"line {line.id!r} exists with other contents, at account {row['account_id']!r}")


def set_standing(db: sqlite3.Connection, account_id: str, standing: Standing) -> Account:
    reading.need_account(db, account_id)
    db.execute("UPDATE accounts SET standing = ? WHERE id = ?", (standing, account_id))
    return reading.need_account(db, account_id)


def subscribe(db: sqlite3.Connection, account_id: str, policy: str, options: Options) -> Account:
    reading.need_account(db, account_id)
    db.execute(
        "UPDATE accounts SET policy = ?, options = ? WHERE id = ?",
        (policy, reading.from_options(options), account_id),
    )
    return reading.need_account(db, account_id)


def add_credit(
    db: sqlite3.Connection,
    account_id: str,
    currency: str,
    amount_micros: int,
    reference: str,
    at_ms: int,
    note: str,
) -> Credit:
    reading.need_account(db, account_id)
    currency_digits(currency)
    before = reading.credit_of(db, account_id)
    if before is not None and before.currency != currency:
        raise ValueError(
            f"account {account_id!r} holds {before.currency}; give the amount in that, not {currency}"
        )
    earlier = db.execute(
        "SELECT amount_micros FROM credit_entries WHERE account_id = ? AND origin = 'added' AND reference = ?",
        (account_id, reference),
    ).fetchone()
    if earlier is not None:
        if earlier["amount_micros"] != amount_micros or before is None:
            raise AlreadyExists(f"reference {reference!r} was used for another amount; choose another one")
        return before
    free_micros = 0 if before is None else before.free_micros
    if free_micros + amount_micros < 0:
        raise ConstraintViolated(
            f"account {account_id!r} has {decimal_text(free_micros)} {currency} that no call reserves; "
            "take back that much at most"
        )
    db.execute(
        "INSERT INTO credits (account_id, currency, balance_micros) VALUES (?, ?, 0) ON CONFLICT DO NOTHING",
        (account_id, currency),
    )
    db.execute(
        "UPDATE credits SET balance_micros = balance_micros + ? WHERE account_id = ?",
        (amount_micros, account_id),
    )
    granting.note_credit(db, account_id, "added", reference, amount_micros, at_ms, note)
    after = reading.credit_of(db, account_id)
    assert after is not None
    return after


def load_card(db: sqlite3.Connection, card: LoadedCard, at_ms: int) -> None:
    db.execute(
        "INSERT INTO cards (name, currency, loaded_ms, text) VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
        " currency = excluded.currency, loaded_ms = excluded.loaded_ms, text = excluded.text",
        (card.name, card.currency, at_ms, card.text),
    )

"""A ledger of its own for a replay: the steps of the real one, run at once, in a file that vanishes with it.

Nothing that is written here is kept, so nothing waits for a disk, a thread or another step, and a step that fails
ends the replay: there is no undoing. Accounts and what they bought come as a copy of a real ledger's, which may be
in use meanwhile; calls, meters and grants of that one do not.
"""

import contextlib
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, TypeVar

from fairdial.ledger import provisioning, reading
from fairdial.ledger.contract import (
    Charge,
    Entry,
    LedgerUnavailable,
    PublishedPolicy,
    Traffic,
    Usage,
)
from fairdial.ledger.database import Database
from fairdial.ledger.writer import Step, connect_reading, migrate
from fairdial.policy.account import Account, Line

T = TypeVar("T")

_CACHE_KB: Final = 48_000
_CUSTOMERS: Final = ("accounts", "lines", "numbers", "agreements", "credits")
_PRICES: Final = ("policies", "cards")
_UNUSED_INDEXES: Final = (
    "decisions_by_time",
    "decisions_of_account",
    "decisions_of_number",
    "decisions_by_sip_call_id",
    "charges_of_account",
    "grants_live",
    "grants_by_end",
    "meters_to_judge",
)
"""Nobody lists here; each costs every call a write."""


class DirectWriter:
    """Takes the place of `Writer` (writer.py): `do` and `read` run their step in the caller's thread."""

    def __init__(self) -> None:
        self.traffic = Traffic()
        # An empty name: a file of SQLite's own in the folder for temporary files, which nobody else finds.
        self._db = sqlite3.connect("", isolation_level=None, cached_statements=256)
        self._db.row_factory = sqlite3.Row
        for pragma in ("journal_mode=OFF", "synchronous=OFF", f"cache_size=-{_CACHE_KB}"):
            self._db.execute(f"PRAGMA {pragma}")
        migrate(self._db)
        for index in _UNUSED_INDEXES:
            self._db.execute(f"DROP INDEX {index}")
        # Never committed: what does not fit into the cache goes to the file all the same.
        self._db.execute("BEGIN")

    async def do(self, step: Step[T]) -> T:
        """Run a step. Raises what it raises."""
        return step(self._db)

    async def read(self, step: Step[T]) -> T:
        """Run a step that only reads."""
        return step(self._db)

    async def probe(self) -> None:
        """Nothing can be the matter with it."""

    async def close(self) -> None:
        """Let it vanish."""
        self._db.close()

    def copy_from(self, ledger: Path, *, customers: bool = True) -> None:
        """Take over published policies and rate cards as they stand there now, and with `customers` accounts, lines,
        numbers, agreements and credit.

        That ledger may be in use, and is not written. Raises LedgerUnavailable.
        """
        if not ledger.is_file():
            raise LedgerUnavailable(
                f"{ledger}: there is no ledger",
                "set `store.path`, or give --accounts FILE or --assume-account",
            )
        try:
            with contextlib.closing(connect_reading(ledger)) as source:
                # One moment for all tables.
                source.execute("BEGIN")
                self.copy_rows(source, customers=customers)
        except sqlite3.Error as error:
            raise LedgerUnavailable(
                f"{ledger}: cannot be read as a ledger: {error}",
                "start this FairDial on it once, which brings it to the newest schema",
            ) from error

    def copy_rows(self, source: Database, *, customers: bool = True) -> None:
        """As `copy_from`, from a ledger that is open for reading at one moment."""
        for table in (*_PRICES, *(_CUSTOMERS if customers else ())):
            self._copy(source, table)
        # What calls reserve there is not reserved here.
        self._db.execute("UPDATE credits SET reserved_micros = 0")

    def _copy(self, source: Database, table: str) -> None:
        rows = source.execute(f"SELECT * FROM {table}")  # noqa: S608
        names = [column[0] for column in rows.description]
        places = ", ".join("?" for _ in names)
        self._db.executemany(
            f"INSERT INTO {table} ({', '.join(names)}) VALUES ({places})",  # noqa: S608
            (tuple(row) for row in rows),
        )

    def provision(self, entries: Sequence[Entry], at_ms: int) -> None:
        """Take what a file lists (provision.py). Raises BatchRefused."""
        provisioning.provision(self._db, entries, at_ms, None, True)

    def published(self) -> tuple[PublishedPolicy, ...]:
        """Policies that were published there."""
        return reading.published(self._db)

    def lines(self) -> tuple[Line, ...]:
        """All lines."""
        return reading.lines_of(self._db, None)

    def line_numbers(self) -> dict[str, str]:
        """The line of each number that is one line's own, by its E.164 form."""
        rows = self._db.execute("SELECT number, line_id FROM numbers WHERE line_id IS NOT NULL")
        return {row["number"]: row["line_id"] for row in rows}

    def accounts(self) -> tuple[Account, ...]:
        """All accounts by id."""
        return reading.accounts_by_id(self._db)

    def put_all_on(self, policy: str) -> None:
        """Every account is on that policy from now on; its options stay."""
        self._db.execute("UPDATE accounts SET policy = ?", (policy,))

    def add(self, account: Account, line: Line) -> None:
        """An account with one line; both may be there already."""
        self._db.execute(
            "INSERT OR IGNORE INTO accounts (id, name, policy, zone, standing, options) VALUES (?, ?, ?, ?, ?, ?)",
            (
                account.id,
                account.name,
                account.policy,
                account.zone,
                account.standing,
                reading.from_options(account.options),
            ),
        )
        provisioning.add_line(self._db, line, None)

    def set_credits(self, amounts: Iterable[tuple[str, str, int]]) -> None:
        """The credit of each account, in place of what it has: account, currency, micros."""
        self._db.executemany(
            "INSERT INTO credits (account_id, currency, balance_micros) VALUES (?, ?, ?)"
            " ON CONFLICT DO UPDATE SET balance_micros = excluded.balance_micros",
            amounts,
        )

    def charges_of(self, call_id: str) -> tuple[Charge, ...]:
        """What a settled call cost."""
        rows = self._db.execute("SELECT * FROM charges WHERE call_id = ? ORDER BY mode", (call_id,))
        return tuple(reading.to_charge(row) for row in rows)

    def usage(self) -> Iterable[tuple[str, Usage]]:
        """Each meter with the account that it is of, by account, then by time."""
        rows = self._db.execute("SELECT * FROM meters ORDER BY account_id, start_ms, allowance")
        for row in rows:
            yield row["account_id"], Usage(reading.to_meter(row), row["calls"])

    # What working.py keeps in memory comes from here, and goes back.

    @property
    def database(self) -> Database:
        """What the steps run on."""
        return self._db

    def usage_of(self, account_id: str) -> tuple[Usage, ...]:
        """The meters of one account."""
        rows = self._db.execute("SELECT * FROM meters WHERE account_id = ?", (account_id,))
        return tuple(Usage(reading.to_meter(row), row["calls"]) for row in rows)

    def has_calls(self, account_id: str) -> bool:
        """Whether calls of that account are in progress here."""
        found = self._db.execute(
            "SELECT 1 FROM grants WHERE account_id = ? AND state <> 'settled' LIMIT 1", (account_id,)
        )
        return found.fetchone() is not None

    def call_ids(self) -> frozenset[str]:
        """Of all calls that were decided here and not dropped."""
        return frozenset(call_id for (call_id,) in self._db.execute("SELECT call_id FROM decisions"))

    def put_meters(self, rows: Iterable[tuple[str, str, int, int, int | None, int, int, int, int]]) -> None:
        """Meters as they stand: account, allowance, start and end in UTC ms; limit, used, reserved and over in units;
        calls.
        """
        self._db.executemany(
            "INSERT INTO meters (account_id, allowance, start_ms, end_ms, limit_units, used_units, reserved_units,"
            " over_units, calls) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (account_id, allowance, start_ms, end_ms) DO UPDATE SET limit_units = excluded.limit_units,"
            " used_units = excluded.used_units, reserved_units = excluded.reserved_units,"
            " over_units = excluded.over_units, calls = excluded.calls",
            rows,
        )

    def put_credit(self, account_id: str, balance_micros: int, reserved_micros: int) -> None:
        """The credit of an account as it stands."""
        self._db.execute(
            "UPDATE credits SET balance_micros = ?, reserved_micros = ? WHERE account_id = ?",
            (balance_micros, reserved_micros, account_id),
        )

    def forget(self, before_ms: int) -> None:
        """Drop calls that were over before that (UTC milliseconds), so that the file does not grow with each call.

        Meters and credit stay. What was settled of a conference is asked for as long as somebody is in it, which
        is why no later moment than a day ago is of use.
        """
        over = "SELECT call_id FROM grants WHERE state = 'settled' AND (room IS NULL OR ended_ms < ?)"
        for table in ("holds", "charges"):
            self._db.execute(f"DELETE FROM {table} WHERE call_id IN ({over})", (before_ms,))  # noqa: S608
        self._db.execute(f"DELETE FROM grants WHERE call_id IN ({over})", (before_ms,))  # noqa: S608
        self._db.execute("DELETE FROM decisions WHERE call_id NOT IN (SELECT call_id FROM grants)")
        self._db.execute("DELETE FROM credit_entries WHERE origin = 'call'")

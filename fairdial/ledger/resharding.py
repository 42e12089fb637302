"""Sets shards up behind a database, and moves accounts between them while calls go on.

Accounts live in slots (spread.py), and PL/Proxy's server says on which shard each slot is. A slot moves as a whole:
its writes wait, its rows are copied and compared, PL/Proxy is told, what was copied is dropped. What broke off is
taken up where it was by moving the same slot again.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from fairdial.ledger.contract import LedgerUnavailable
from fairdial.ledger.pool import connect, told
from fairdial.ledger.postgres import migrate
from fairdial.ledger.shards import SERVER
from fairdial.ledger.spread import SLOTS

GONE_MS: Final = 2_000
"""How long a machine may keep silent. PL/Proxy connects without waiting, where libpq's own limit does nothing."""
PROXY_SETTINGS: Final = {
    # PL/Proxy waits for a shard without end. Whoever has waited too long goes (shards.py), and this lets it notice.
    "client_connection_check_interval": "1s",
}
SHARD_SETTINGS: Final = {
    "lock_timeout": "250ms",
    "statement_timeout": "9s",
    "idle_in_transaction_session_timeout": "5s",
}


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard, as PL/Proxy names it, and how many slots it has."""

    name: str
    slots: int


def init(url: str, password: str | None, shards: Sequence[str]) -> list[Shard]:
    """Set up, or bring up to date, the database at `url` and the shards; what each shard has then.

    Slots are divided among the shards of the first time; a shard that is added later has none until some are moved
    there. Repeating changes nothing. password: for `url` and for all shards. Raises LedgerUnavailable.
    """
    with _connected(url, password) as proxy:
        migrate(proxy)
        proxy.execute(_script("proxy"))
        _set(proxy, PROXY_SETTINGS)
        before = _slots(proxy)
        names = [_name(each) for each in shards]
        for each in [*names, *dict.fromkeys(before.values())]:
            with _at(each, url, password) as shard:
                _set_up(shard)
        if not before:
            if not names:
                raise LedgerUnavailable("there are no shards yet", "name them: --shard URL")
            before = {slot: names[slot * len(names) // SLOTS] for slot in range(SLOTS)}
            for name in names:
                with _at(name, url, password) as shard:
                    _need_empty(shard, name)
                    own = [slot for slot, of in before.items() if of == name]
                    shard.execute(
                        "INSERT INTO shard.slots (slot, state) SELECT unnest($1::int[]), 'open' ON CONFLICT DO NOTHING",
                        (own,),
                    )
            _make_server(proxy, url, password, before)
        held = list(before.values())
        return [Shard(name, held.count(name)) for name in dict.fromkeys([*held, *names])]


@dataclass(frozen=True, slots=True)
class Moved:
    """What was moved: slots, owners of what is kept (accounts, and lines that are nobody's), and rows."""

    slots: int
    owners: int
    rows: int


_OF_OWNERS: Final = "account_id IN (SELECT owner FROM moving)"
_OF_DIALS: Final = "call_id IN (SELECT call_id FROM moving_calls)"
_ROWS: Final = {
    # In an order in which each finds what it refers to.
    "accounts": "id IN (SELECT owner FROM moving)",
    "lines": _OF_OWNERS,
    "numbers": _OF_OWNERS,
    "agreements": _OF_OWNERS,
    "contacts": _OF_OWNERS,
    "credits": _OF_OWNERS,
    "credit_entries": _OF_OWNERS,
    "meters": _OF_OWNERS,
    "decisions": _OF_DIALS,
    "messages": _OF_DIALS,
    "grants": _OF_DIALS,
    "holds": _OF_DIALS,
    "charges": _OF_DIALS,
    "callees": _OF_OWNERS,
    "cases": _OF_OWNERS,
    "case_entries": "case_id IN (SELECT id FROM cases WHERE account_id IN (SELECT owner FROM moving))",
    "complaints": _OF_OWNERS,
    "requests": _OF_OWNERS,
    "request_entries": "request_id IN (SELECT id FROM requests WHERE account_id IN (SELECT owner FROM moving))",
    "plan_charges": _OF_OWNERS,
    "notices": _OF_OWNERS,
    "deliveries": _OF_OWNERS,
    "shard.versions": "slot = (SELECT slot FROM moving_slot)",
    "shard.directory": "slot = (SELECT slot FROM moving_slot)",
}
"""What moves with a slot: which rows of which table. A test holds that no table of an account's is missing."""

_WRITERS: Final = 1_178_686_830
"""The advisory lock of who writes in a slot (schema/shard/functions.sql); its second number is the slot."""
_ANY_SLOT: Final = SLOTS


def move(
    url: str,
    password: str | None,
    to: str,
    slots: Sequence[int],
    progress: Callable[[int], object] = lambda slot: None,
) -> Moved:
    """Move slots to the shard at `to`, one after the other, while calls go on: steps of accounts in the slot that moves
    wait, some tenths of a second, those of all others do not. What broke off goes on when it is repeated. progress: is
    told of each slot that is done. Raises LedgerUnavailable, ValueError (a shard that `init` does not know).
    """
    name = _name(to)
    total = Moved(0, 0, 0)
    with _connected(url, password) as proxy, _at(name, url, password) as new:
        if new.execute("SELECT to_regclass('shard.slots')").fetchone() == (None,):
            raise ValueError(f"{name} is no shard yet; `fairdial shards init --shard {to}` makes it one")
        for slot in slots:
            at = _slots(proxy)[slot]
            if at == name:
                _finish(new, slot, url, password)
                continue
            with _at(at, url, password) as old:
                moved = _move(proxy, old, new, (at, name), slot)
            _finish(new, slot, url, password)
            total = Moved(total.slots + 1, total.owners + moved.owners, total.rows + moved.rows)
            progress(slot)
    return total


def _move(
    proxy: "psycopg.Connection[Any]",
    old: "psycopg.Connection[Any]",
    new: "psycopg.Connection[Any]",
    names: tuple[str, str],
    slot: int,
) -> Moved:
    """Until the map leads to the new shard."""
    old.execute("UPDATE shard.slots SET state = 'leaving' WHERE slot = $1", (slot,))
    try:
        for of in (slot, _ANY_SLOT):
            # Once nobody who came before has it any more, nobody writes here.
            old.execute("SELECT pg_advisory_xact_lock($1::int, $2::int)", (_WRITERS, of))
        moved = _copy(old, new, names[0], slot)
        proxy.execute(
            sql.SQL("ALTER SERVER {} OPTIONS (SET {} {})").format(
                sql.Identifier(SERVER), sql.Identifier(f"p{slot}"), sql.Literal(names[1])
            )
        )
    except BaseException:
        # The map still leads to where it was.
        with contextlib.suppress(psycopg.Error):
            new.execute("DELETE FROM shard.slots WHERE slot = $1 AND state = 'coming'", (slot,))
            old.execute("UPDATE shard.slots SET state = 'open' WHERE slot = $1", (slot,))
        raise
    return moved


def _finish(new: "psycopg.Connection[Any]", slot: int, url: str, password: str | None) -> None:
    """Drop what was copied where it came from, and open the slot; what broke off before that is done by it too."""
    [origin] = new.execute(
        "SELECT comes_from FROM shard.slots WHERE slot = $1 AND state = 'coming'", (slot,)
    ).fetchone() or (None,)
    if origin is not None:
        with _at(origin, url, password) as old:
            _drop(old, slot)
        new.execute("UPDATE shard.slots SET state = 'open', comes_from = NULL WHERE slot = $1", (slot,))


def _copy(old: "psycopg.Connection[Any]", new: "psycopg.Connection[Any]", origin: str, slot: int) -> Moved:
    """Copy a slot's rows, and see that they are the same there. Raises LedgerUnavailable where they are not."""
    with old.transaction(), new.transaction():
        _remember(old, slot)
        owners = [row[0] for row in old.execute("SELECT owner FROM moving")]
        # Left from a move that broke off.
        _remember(new, slot)
        _delete(new)
        new.execute(
            "INSERT INTO shard.slots (slot, state, comes_from) VALUES ($1, 'coming', $2)"
            " ON CONFLICT (slot) DO UPDATE SET state = 'coming', comes_from = excluded.comes_from",
            (slot, origin),
        )
        for table, which in _ROWS.items():
            with (
                old.cursor().copy(f"COPY (SELECT * FROM {table} WHERE {which}) TO STDOUT".encode()) as out,  # noqa: S608
                new.cursor().copy(f"COPY {table} FROM STDIN".encode()) as into,
            ):
                for block in out:
                    into.write(block)
        _remember(new, slot)
        before, after = _sums(old), _sums(new)
        if before != after:
            differing = ", ".join(table for table in _ROWS if before[table] != after[table])
            raise LedgerUnavailable(
                f"slot {slot} is not the same after it was copied: {differing}", "repeat it"
            )
    return Moved(1, len(owners), sum(count for count, _ in before.values()))


def _remember(raw: "psycopg.Connection[Any]", slot: int) -> None:
    """Until the transaction ends: the slot, whose rows are in it, and the calls of those."""
    for table in ("moving_slot", "moving", "moving_calls"):
        raw.execute(f"DROP TABLE IF EXISTS pg_temp.{table}")
    raw.execute(
        f"CREATE TEMP TABLE moving_slot ON COMMIT DROP AS SELECT {slot} AS slot;"  # noqa: S608
        'CREATE TEMP TABLE moving (owner TEXT COLLATE "C" PRIMARY KEY) ON COMMIT DROP;'
        f"INSERT INTO moving SELECT owner FROM shard.versions WHERE slot = {slot};"
        'CREATE TEMP TABLE moving_calls (call_id TEXT COLLATE "C" PRIMARY KEY) ON COMMIT DROP;'
        "INSERT INTO moving_calls SELECT d.call_id FROM moving JOIN decisions d ON d.account_id = owner"
        " UNION ALL"
        " SELECT d.call_id FROM moving JOIN decisions d ON d.account_id IS NULL AND '?' || d.line_id = owner;"
        "ANALYZE moving; ANALYZE moving_calls"
    )


def _sums(raw: "psycopg.Connection[Any]") -> dict[str, tuple[int, Any]]:
    """How many rows of each table, and a sum of their contents."""
    found = {}
    for table, which in _ROWS.items():
        [count, contents] = raw.execute(
            f"SELECT count(*), sum(hashtextextended(t::text, 0)) FROM {table} t WHERE {which}"  # noqa: S608
        ).fetchone() or (0, None)
        found[table] = count, contents
    return found


def _delete(raw: "psycopg.Connection[Any]") -> None:
    for table, which in reversed(_ROWS.items()):
        raw.execute(f"DELETE FROM {table} WHERE {which}")  # noqa: S608


def _drop(old: "psycopg.Connection[Any]", slot: int) -> None:
    with old.transaction():
        _remember(old, slot)
        _delete(old)
        old.execute("DELETE FROM shard.slots WHERE slot = $1", (slot,))


def _script(folder: str) -> bytes:
    return resources.files("fairdial.ledger.schema").joinpath(folder, "functions.sql").read_bytes()


def _name(url: str) -> str:
    """How PL/Proxy is told of a shard: without user and password, which all of them share."""
    given = conninfo_to_dict(url)
    named = {key: value for key, value in given.items() if key not in ("user", "password")}
    return make_conninfo(**{"tcp_user_timeout": str(GONE_MS), **named})  # type: ignore[arg-type]


@contextlib.contextmanager
def _at(name: str, url: str, password: str | None) -> "Iterator[psycopg.Connection[Any]]":
    with _connected(
        make_conninfo(name, user=conninfo_to_dict(url).get("user") or "fairdial"), password
    ) as raw:
        yield raw


@contextlib.contextmanager
def _connected(url: str, password: str | None) -> "Iterator[psycopg.Connection[Any]]":
    try:
        with contextlib.closing(connect(url, password)) as raw:
            raw.execute("SET statement_timeout = 0")
            raw.execute("SET idle_in_transaction_session_timeout = 0")
            raw.execute("SET lock_timeout = '10s'")
            yield raw
    except psycopg.Error as error:
        raise told(make_conninfo(url, password=None), error) from error


def _set_up(shard: "psycopg.Connection[Any]") -> None:
    migrate(shard)
    shard.execute(_script("shard"))
    _set(shard, SHARD_SETTINGS)


def _set(raw: "psycopg.Connection[Any]", settings: dict[str, str]) -> None:
    """For all that is done in that database from the next connection on."""
    for setting, value in settings.items():
        raw.execute(
            sql.SQL("ALTER DATABASE {} SET {} = {}").format(
                sql.Identifier(raw.info.dbname), sql.Identifier(setting), sql.Literal(value)
            )
        )


def _need_empty(shard: "psycopg.Connection[Any]", name: str) -> None:
    [used] = shard.execute("SELECT EXISTS (SELECT 1 FROM accounts)").fetchone() or (True,)
    if used:
        raise LedgerUnavailable(
            f"shard {name} has accounts already", "begin with empty databases, and `fairdial import` there"
        )


def _slots(proxy: "psycopg.Connection[Any]") -> dict[int, str]:
    """The shard of each slot; none before the first time."""
    rows = proxy.execute(
        "SELECT substr(option_name, 2)::int, option_value FROM pg_foreign_server, pg_options_to_table(srvoptions)"
        r" WHERE srvname = $1 AND option_name ~ '^p\d+$' ORDER BY 1",
        (SERVER,),
    )
    return dict(map(tuple, rows))


def _make_server(
    proxy: "psycopg.Connection[Any]", url: str, password: str | None, slots: dict[int, str]
) -> None:
    user = conninfo_to_dict(url).get("user") or proxy.info.user
    options = sql.SQL(", ").join(
        sql.SQL("{} {}").format(sql.Identifier(f"p{slot}"), sql.Literal(name)) for slot, name in slots.items()
    )
    mapping = [sql.SQL("user {}").format(sql.Literal(user))]
    if password is not None:
        mapping.append(sql.SQL("password {}").format(sql.Literal(password)))
    with proxy.transaction():
        proxy.execute(
            sql.SQL("CREATE SERVER {} FOREIGN DATA WRAPPER plproxy OPTIONS ({})").format(
                sql.Identifier(SERVER),
                options,
            )
        )
        proxy.execute(
            sql.SQL("CREATE USER MAPPING FOR PUBLIC SERVER {} OPTIONS ({})").format(
                sql.Identifier(SERVER), sql.SQL(", ").join(mapping)
            )
        )

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

QUERY_WITHIN_S: Final = 5
"""How long PL/Proxy waits for a shard that does not answer."""
CONNECT_WITHIN_S: Final = 2
SHARD_SETTINGS: Final = {
    "lock_timeout": "250ms",
    "statement_timeout": f"{QUERY_WITHIN_S - 1}s",
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
                        "INSERT INTO shard.slots SELECT unnest($1::int[]), 'open' ON CONFLICT DO NOTHING", (own,)
                    )
            _make_server(proxy, url, password, before)
        held = list(before.values())
        return [Shard(name, held.count(name)) for name in dict.fromkeys([*held, *names])]


def _script(folder: str) -> bytes:
    return resources.files("fairdial.ledger.schema").joinpath(folder, "functions.sql").read_bytes()


def _name(url: str) -> str:
    """How PL/Proxy is told of a shard: without user and password, which all of them share."""
    given = conninfo_to_dict(url)
    named = {key: value for key, value in given.items() if key not in ("user", "password")}
    return make_conninfo(**{"connect_timeout": str(CONNECT_WITHIN_S), **named})  # type: ignore[arg-type]


@contextlib.contextmanager
def _at(name: str, url: str, password: str | None) -> "Iterator[psycopg.Connection[Any]]":
    with _connected(make_conninfo(name, user=conninfo_to_dict(url).get("user") or "fairdial"), password) as raw:
        yield raw


@contextlib.contextmanager
def _connected(url: str, password: str | None) -> "Iterator[psycopg.Connection[Any]]":
    try:
        with contextlib.closing(connect(url, password)) as raw:
            raw.execute("SET statement_timeout = 0")
            raw.execute("SET lock_timeout = '10s'")
            yield raw
    except psycopg.Error as error:
        raise told(make_conninfo(url, password=None), error) from error


def _set_up(shard: "psycopg.Connection[Any]") -> None:
    migrate(shard)
    shard.execute(_script("shard"))
    for setting, value in SHARD_SETTINGS.items():
        shard.execute(
            sql.SQL("ALTER DATABASE {} SET {} = {}").format(
                sql.Identifier(shard.info.dbname), sql.Identifier(setting), sql.Literal(value)
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
    return {slot: name for slot, name in rows}


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
            sql.SQL("CREATE SERVER {} FOREIGN DATA WRAPPER plproxy OPTIONS (query_timeout {}, {})").format(
                sql.Identifier(SERVER), sql.Literal(str(QUERY_WITHIN_S)), options
            )
        )
        proxy.execute(
            sql.SQL("CREATE USER MAPPING FOR PUBLIC SERVER {} OPTIONS ({})").format(
                sql.Identifier(SERVER), sql.SQL(", ").join(mapping)
            )
        )

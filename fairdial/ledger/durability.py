"""What a PostgreSQL server may still lose of what it acknowledged, as far as its settings and its standbys tell.

A ledger's promise is that what was answered is committed. Two settings of the server break it (PostgreSQL, "Reliability
and the Write-Ahead Log"): `fsync = off`, `synchronous_commit = off`. And a server that commits alone takes all
with it when its disk is gone, or loses the last moments when a standby is promoted; `synchronous_commit = local` is
that, whatever standbys there are.
"""

from dataclasses import dataclass
from typing import Any, Final

import psycopg

_SETTINGS: Final = (
    "SELECT current_setting('fsync'), current_setting('full_page_writes'), current_setting('synchronous_commit'),"
    " current_setting('synchronous_standby_names')"
)
_STANDBYS: Final = (
    "SELECT application_name, sync_state, state FROM pg_stat_replication ORDER BY application_name LIMIT 20"
)
"""Of whom only who may read all statistics (pg_monitor) is told more than that they are there."""

_WAITS: Final = frozenset({"on", "remote_apply"})
"""Of `synchronous_commit`: a COMMIT is told when the standbys have it on their disks. `remote_write`: in memory."""


@dataclass(frozen=True, slots=True)
class Durability:
    """faults: what loses what was acknowledged when the server crashes, () for nothing. standbys: how it commits, in
    words. alone: it commits by itself.
    """

    faults: tuple[str, ...]
    standbys: str
    alone: bool


def durability(connection: "psycopg.Connection[Any]") -> Durability:
    """Of the server at the other end of a connection without an open transaction. Raises psycopg.Error."""
    fsync, pages, commit, names = connection.execute(_SETTINGS.encode()).fetchone() or ("",) * 4
    faults = [
        f"{name} is off" for name, value in (("fsync", fsync), ("full_page_writes", pages)) if value == "off"
    ]
    if commit == "off":
        faults.append("synchronous_commit is off")
    if not names:
        return Durability(tuple(faults), "it commits alone, without a synchronous standby", True)
    if commit not in _WAITS:
        return Durability(
            tuple(faults), f"synchronous_commit is {commit}: it does not wait for its standbys", True
        )
    following = [
        f"{row[0]} ({row[1] or 'seen by pg_monitor only'}, {row[2] or 'following'})"
        for row in connection.execute(_STANDBYS.encode()).fetchall()
    ]
    return Durability(
        tuple(faults), f"it commits with {names}; following it: {', '.join(following) or 'none'}", False
    )

"""Which node looks after which switch, and what nodes ask of each other.

A node holds a lease on its switch's calls. What it does to them it does by its epoch, and a step by an earlier one is
refused (`by`): whoever was thought dead, and is not, changes nothing behind the back of who took its calls over. All
instants are by the store's clock, so that nodes need not agree on the time.

Steps and readings; what each promises stands at the method of its name in contract.py.
"""

from collections.abc import Callable
from typing import Any, Final, TypeVar

from fairdial.ledger.contract import Fenced, Node, NotFound, NotNow, Order, OrderKind, Tenure
from fairdial.ledger.database import Database, Of, OfOne, Row, SharedDatabase, lock

T = TypeVar("T")

ORDERS_SEEN_MS: Final = 15_000
"""How far back orders are looked at: a step that gives one commits within that, or is ended by the server."""
ORDERS_KEPT_MS: Final = 600_000
TASK_MS: Final = 60_000
"""After which another node takes over what one alone does, where that one is heard of no more."""
NEVER_MS: Final = 2**62
"""When the lease on a switch ends that is forgotten."""

_COLUMNS: Final = "switch, epoch, owner, place, until_ms, skew_ms, taken_by, lapsed_ms"


def _now(db: Database) -> str:
    """The store's clock in UTC milliseconds, in its own language; not as of the transaction's beginning."""
    if isinstance(db, SharedDatabase):
        return "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)"
    return "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"


def by(tenure: Tenure | None, of: Of, key: str, step: Callable[..., T]) -> Callable[..., T]:
    """A step that is refused where another has looked after the switch since; None: nobody ever does. Raises Fenced.

    Looked at once the account is locked: what comes before it in the account's order is by an epoch that held then.
    """
    if tenure is None:
        return step

    def fenced(db: Database, *known: Any) -> T:
        lock(db, of, key)
        _need(db, tenure)
        return step(db, *known)

    return fenced


def by_one(tenure: Tenure | None, step: OfOne[T]) -> OfOne[T]:
    """As `by`, of a step that may share its way to the server."""
    return OfOne(step.of, step.key, step.reads, by(tenure, step.of, step.key, step.work))


def by_switch(tenure: Tenure | None, step: Callable[[Database], T]) -> Callable[[Database], T]:
    """As `by`, of a step that changes nothing of an account."""
    if tenure is None:
        return step

    def fenced(db: Database) -> T:
        _need(db, tenure)
        return step(db)

    return fenced


def _need(db: Database, tenure: Tenure) -> None:
    if isinstance(db, SharedDatabase):
        # Its answer is not waited for: it goes with the step's own statements, and ends them where it fails.
        db.execute(
            "SELECT 1 / count(*) FROM nodes WHERE switch = ? AND epoch = ?", (tenure.switch, tenure.epoch)
        )
        return
    row = db.execute("SELECT epoch FROM nodes WHERE switch = ?", (tenure.switch,)).fetchone()
    if row is None or row["epoch"] != tenure.epoch:
        raise Fenced()


def take_switch(
    db: Database, switch: str, owner: str, place: str, lease_ms: int, wall_ms: int, again: bool
) -> Tenure | None:
    now = _now(db)
    row = db.execute(
        f"INSERT INTO nodes (switch, epoch, owner, place, until_ms, skew_ms) VALUES (?1, 1, ?2, ?3, {now} + ?4,"  # noqa: S608
        f" ?5 - {now}) ON CONFLICT (switch) DO UPDATE SET epoch = nodes.epoch + 1, owner = excluded.owner,"
        " place = excluded.place, until_ms = excluded.until_ms, skew_ms = excluded.skew_ms, taken_by = '',"
        " lapsed_ms = NULL WHERE ?6 = 0 OR nodes.owner = excluded.owner RETURNING epoch",
        (switch, owner, place, lease_ms, wall_ms, int(again)),
    ).fetchone()
    return None if row is None else Tenure(switch, row["epoch"])


def renew_switch(db: Database, tenure: Tenure, lease_ms: int, wall_ms: int) -> None:
    now = _now(db)
    row = db.execute(
        f"UPDATE nodes SET until_ms = {now} + ?1, skew_ms = ?2 - {now} WHERE switch = ?3 AND epoch = ?4"  # noqa: S608
        " RETURNING epoch",
        (lease_ms, wall_ms, tenure.switch, tenure.epoch),
    ).fetchone()
    if row is None:
        raise Fenced()


def take_over(db: Database, switch: str, by_switch: str, lease_ms: int) -> Tenure | None:
    now = _now(db)
    row = db.execute(
        f"UPDATE nodes SET epoch = epoch + 1, taken_by = ?1, until_ms = {now} + ?2,"  # noqa: S608
        " lapsed_ms = coalesce(lapsed_ms, until_ms)"
        f" WHERE switch = ?3 AND switch <> ?1 AND until_ms < {now} RETURNING epoch",
        (by_switch, lease_ms, switch),
    ).fetchone()
    return None if row is None else Tenure(switch, row["epoch"])


def hold_over(db: Database, tenure: Tenure, lease_ms: int) -> None:
    # Of the clock of who served it, what was known last stays.
    row = db.execute(
        f"UPDATE nodes SET until_ms = {_now(db)} + ?1 WHERE switch = ?2 AND epoch = ?3 RETURNING epoch",  # noqa: S608
        (lease_ms, tenure.switch, tenure.epoch),
    ).fetchone()
    if row is None:
        raise Fenced()


def forget_switch(db: Database, switch: str) -> None:
    # The row stays: should the switch come back, its epochs go on, and none of before is of use.
    gone = db.execute(
        "UPDATE nodes SET epoch = epoch + 1, owner = '', place = '', taken_by = '', lapsed_ms = NULL, until_ms = ?"  # noqa: S608
        f" WHERE switch = ? AND owner <> '' AND (taken_by <> '' OR until_ms < {_now(db)}) RETURNING switch",
        (NEVER_MS, switch),
    )
    if gone.fetchone() is not None:
        return
    if db.execute("SELECT 1 FROM nodes WHERE switch = ? AND owner <> ''", (switch,)).fetchone() is None:
        raise NotFound(f"no switch {switch!r} is served; `fairdial nodes` shows those that are or were")
    raise NotNow(f"switch {switch!r} is served by its FairDial; stop that for good first")


def nodes(db: Database) -> tuple[Node, ...]:
    rows = db.execute(f"SELECT {_COLUMNS}, {_now(db)} AS now_ms FROM nodes WHERE owner <> '' ORDER BY switch")  # noqa: S608
    return tuple(_node(row) for row in rows)


def _node(row: Row) -> Node:
    return Node(
        row["switch"],
        row["epoch"],
        row["owner"],
        row["place"],
        row["until_ms"],
        row["skew_ms"],
        row["taken_by"],
        row["lapsed_ms"],
        row["now_ms"],
    )


def leads(db: Database, task: str, holder: str) -> bool:
    """Whether that holder does what one node alone does, until it is heard of no more. Always where there is one."""
    if not isinstance(db, SharedDatabase):
        return True
    now = _now(db)
    taken = db.execute(
        f"INSERT INTO leases (task, holder, until_ms) VALUES (?1, ?2, {now} + ?3) ON CONFLICT (task) DO UPDATE"  # noqa: S608
        " SET holder = excluded.holder, until_ms = excluded.until_ms"
        f" WHERE leases.holder = excluded.holder OR leases.until_ms <= {now} RETURNING task",
        (task, holder, TASK_MS),
    )
    return taken.fetchone() is not None


def order(db: Database, what: OrderKind, call_id: str | None = None) -> int:
    row = db.execute(
        f"INSERT INTO orders (at_ms, what, call_id) VALUES ({_now(db)}, ?, ?) RETURNING id",  # noqa: S608
        (what, call_id),
    ).fetchone()
    return int(row["id"])


def barred(db: Database) -> None:
    """Calls in progress are to end, at other nodes too. On a file there are none."""
    if isinstance(db, SharedDatabase):
        db.execute(f"INSERT INTO orders (at_ms, what) VALUES ({_now(db)}, 'look')")  # noqa: S608


def orders(db: Database) -> tuple[Order, ...]:
    rows = db.execute(
        f"SELECT id, what, call_id, outcome FROM orders WHERE at_ms > {_now(db)} - ? ORDER BY id",  # noqa: S608
        (ORDERS_SEEN_MS,),
    )
    return tuple(Order(row["id"], OrderKind(row["what"]), row["call_id"], row["outcome"]) for row in rows)


def carried_out(db: Database, order_id: int, outcome: str) -> None:
    db.execute("UPDATE orders SET outcome = ? WHERE id = ? AND outcome IS NULL", (outcome, order_id))


def forget_orders(db: Database) -> None:
    db.execute(f"DELETE FROM orders WHERE at_ms < {_now(db)} - ?", (ORDERS_KEPT_MS,))  # noqa: S608

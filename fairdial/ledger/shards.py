"""Runs steps on accounts that are spread over several PostgreSQL servers, through PL/Proxy.

`store.url` leads to a database that knows the shards (schema/proxy). PL/Proxy runs each call of a function on a shard
as a transaction of its own, and a step is many statements with Python between them. So steps are optimistic here: they
read as they go, what they write is gathered, and goes to the shard in one call at the end, which locks the account and
looks whether it still has the version that the step has read. Where it has not, nothing was done, and the step runs
again.
A step sees what it has written itself: such a reading goes with all that was gathered so far, which the shard runs,
answers and takes back (`try` in schema/shard/functions.sql). What is asked before an answer is looked at goes in one
call.

Which statement belongs where, and how listings of all shards are merged, is `spread.py`'s.
"""

import contextlib
import hashlib
import json
import os
import random
import re
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, TypeVar

import msgspec
import psycopg
import structlog
from psycopg import errors

from fairdial.ledger.contract import Fenced, LedgerError, LedgerSlow, LedgerUnavailable
from fairdial.ledger.database import Cursor, Of, SharedDatabase, Unstorable, Write
from fairdial.ledger.heard import Silent
from fairdial.ledger.pool import BEGIN, LOCKED_MS, READING_MS, NamedRow, Pool, Way, row_type, told
from fairdial.ledger.schema import files
from fairdial.ledger.spread import NOBODY, SLOTS, Key, Statement, bound_of, looked_through, merged, slot_of
from fairdial.ledger.stepped import Step
from fairdial.ledger.turns import Turns

T = TypeVar("T")

log = structlog.get_logger(__name__)

SERVER: Final = "fairdial"
"""The foreign server in which PL/Proxy finds the shard of each slot."""
RUNS_MAX: Final = 40
"""Of one step, where others were in its way: more than on one server, where such steps wait for each other."""
RUNS_WITHIN: Final = 8
"""In as many times as an account is waited for."""
AGAIN_AFTER_S: Final = 0.004
CLAIM_HOLDS_S: Final = 5.0
"""How long after it claimed a key a step may write under it, or after it saw that its epoch holds, by its own clock."""
CLAIM_STALE_MS: Final = 10_000
"""After which a claim that has nothing behind it is anybody's. More than twice as long: the write itself takes time."""
OWNERS_KEPT: Final = 100_000
"""Lines and calls whose account is remembered."""
CONTENDED_S: Final = 2.0
"""For so long after steps of several FairDials met at an account they wait for each other there."""
CONTENDED_KEPT: Final = 10_000
CALL_WITHIN_S: Final = 2.0
"""How long a shard may take for one call, as a statement may on one server."""
LOOK_EVERY_S: Final = 0.25
DOWN_S: Final = 1.0
"""For so long nobody else tries a shard to which there was no way."""
TRIED_WITHIN_S: Final = 5.0
"""For so long one step alone tries it then."""
_LINE_OF_DECISION: Final = 3
_CHANCE: Final = random.Random()  # noqa: S311 - how long to wait

_MOVED: Final = "FD001"
_MOVING: Final = "FD002"
_REMOTE: Final = re.compile(
    r"^(?:PL/Proxy function )?shard\.\w+\(\d+\): (?:\[(?P<shard>[^]]*)\] )?(?:REMOTE ERROR: )?(?P<said>.*)$",
    re.DOTALL,
)
_NO_WAY: Final = re.compile(r"PQconnect|connect timeout")
_CUT: Final = re.compile(r"PQconsumeInput|PQflush|PQsendQuery|query timeout")
SHARDS_CURE: Final = "run `fairdial shards init` of this version"
_SHARD_DOWN: Final = "see that this shard's server runs; accounts of the others go on"
_UNKNOWN_CURE: Final = "it may have been done; repeat it to know"
_AGAIN: Final = (errors.UniqueViolation, errors.SerializationFailure, errors.DeadlockDetected)
_LOST: Final = (
    errors.AdminShutdown,
    errors.CrashShutdown,
    errors.CannotConnectNow,
    errors.FeatureNotSupported,
)
_UNSTORABLE: Final = (errors.IntegrityError, errors.DataError)
_CALLS: Final = {
    "step": b"SELECT shard.step($1::int, $2, $3::text[], $4::int[], $5::bigint[], $6::text[], $7::text[], $8::text[],"
    b" $9::bool[])",
    "claim": b"SELECT shard.claim($1::int, $2, $3, $4, $5)",
    "unclaim": b"SELECT shard.unclaim($1::int, $2, $3, $4)",
    "take": b"SELECT shard.take($1::int, $2, $3::int)",
    "leave": b"SELECT shard.leave($1::int, $2)",
    "whose": b"SELECT shard.whose($1::int, $2, $3)",
    "here": b"SELECT shard.here($1::int, $2, $3)",
}
_EVERYWHERE: Final = b"SELECT * FROM shard.everywhere($1, $2::text[], $3::text[], $4::text[], $5::bool[])"
_SAVEPOINT: Final = re.compile(r"(SAVEPOINT|ROLLBACK TO|RELEASE) (\w+)$")


def _decoded(answer: str) -> Any:
    """What a shard says. A row is its columns in their order, as pairs: several may have one name."""
    return json.loads(answer, object_pairs_hook=tuple)


def _rows(found: Sequence[tuple[tuple[str, Any], ...]]) -> list[NamedRow]:
    return [row_type(tuple([name for name, _ in row]))([value for _, value in row]) for row in found]


@lru_cache(maxsize=2048)
def _prepared(text: str, types: tuple[str, ...], writes: bool, gives: bool) -> tuple[str, str]:
    """The name of a statement on a shard, and what prepares it there."""
    if gives:
        rows = "SELECT coalesce(json_agg(row_to_json(q)), '[]')::text FROM"
        text = f"WITH q AS ({text}) {rows} q" if writes else f"{rows} ({text}) q"
    name = "fd_" + hashlib.md5(f"{types}{text}".encode(), usedforsecurity=False).hexdigest()
    return name, f"PREPARE {name}{'(' + ', '.join(types) + ')' if types else ''} AS {text}"


def _type(value: Any) -> str:
    # As psycopg has it: all whole numbers of one type, and of texts the server sees itself what they are.
    match value:
        case bool():
            return "bool"
        case int():
            return "int8"
        case float():
            return "float8"
        case _:
            return "unknown"


def _literal(value: Any) -> str:
    match value:
        case None:
            return "NULL"
        case bool():
            return str(value)
        case int():
            return f"int8 '{int(value)}'"
        case float():
            return f"float8 '{value!r}'"
        case str():
            return "'" + str.__str__(value).replace("'", "''") + "'"
        case _:
            raise TypeError(f"a {type(value).__name__} is no value of a statement on a shard")


@dataclass(slots=True, eq=False)
class _Sent:
    """A statement with its parameters, and what it found."""

    statement: Statement
    text: str
    given: tuple[Any, ...]
    rows: list[NamedRow] | None = None


def _arrays(sent: Sequence[_Sent]) -> tuple[list[str], list[str], list[str], list[bool]]:
    """As the functions of a shard take them: names, what prepares, parameters, whether there are rows."""
    names, texts, given, gives = [], [], [], []
    for each in sent:
        statement = each.statement
        name, text = _prepared(
            each.text, tuple(_type(value) for value in each.given), statement.writes, statement.gives
        )
        names.append(name)
        texts.append(text)
        given.append(f"({', '.join(map(_literal, each.given))})" if each.given else "")
        gives.append(statement.gives)
    return names, texts, given, gives


@dataclass(slots=True, eq=False)
class _Account:
    """What a step does at one owner. version: as it was read first, None before; writes: gathered; asked: not yet."""

    owner: str
    slot: int
    version: int | None = None
    writes: list[_Sent] = field(default_factory=list)
    asked: list[_Sent] = field(default_factory=list)


def _touches(write: _Sent, read: _Sent) -> bool:
    """Whether what a statement wrote can be in what another reads."""
    if not write.statement.tables & read.statement.tables:
        return False
    added, sought = write.statement.adds, read.statement.only
    if added is None or sought is None or added.of is not sought.of:
        return True
    return bool(write.given[added.place] == read.given[sought.place])


class _Rows:
    """What a statement found, once somebody looks. names: of its columns, where it has no row that tells."""

    def __init__(self, look: Callable[[], list[NamedRow]], names: Callable[[], Sequence[str]]) -> None:
        self._look = look
        self._names = names
        self._left: Iterator[NamedRow] | None = None

    @property
    def description(self) -> Any:
        found = self._look()
        return [(name,) for name in (found[0].places if found else self._names())]

    def __iter__(self) -> Iterator[NamedRow]:
        if self._left is None:
            self._left = iter(self._look())
        return self._left

    def fetchone(self) -> Any:
        return next(iter(self), None)

    def fetchall(self) -> list[Any]:
        return list(iter(self))


class Directory:
    """What one FairDial knows of the shards: which has which slot, whose lines and calls are, and which is down."""

    def __init__(self) -> None:
        self.shards: list[str] = []
        """The shard of each slot, as PL/Proxy names it."""
        self._owners: OrderedDict[tuple[Of, str], str] = OrderedDict()
        self._down: dict[str, tuple[float, LedgerUnavailable]] = {}
        self._contended: dict[str, float] = {}
        self._lock = threading.Lock()

    def load(self, raw: "psycopg.Connection[Any]") -> None:
        """Read where each slot is. Raises LedgerUnavailable."""
        rows = raw.execute(
            "SELECT option_name, option_value FROM pg_foreign_server, pg_options_to_table(srvoptions)"
            " WHERE srvname = $1",
            (SERVER,),
        )
        options = dict(tuple(row) for row in rows)
        try:
            self.shards = [options[f"p{slot}"] for slot in range(SLOTS)]
        except KeyError as error:
            raise LedgerUnavailable(
                f"PL/Proxy's server {SERVER!r} has no shard for slot {error.args[0][1:]}",
                "run `fairdial shards init` with all shards",
            ) from None

    def a_slot_of_each(self) -> list[int]:
        """One slot on each shard, by which that is reached."""
        return list({shard: slot for slot, shard in reversed(list(enumerate(self.shards)))}.values())

    def owner(self, of: Of, key: str) -> str | None:
        """Whose it was when it was last asked for."""
        with self._lock:
            return self._owners.get((of, key))

    def keep(self, of: Of, key: str, owner: str) -> None:
        # A number can be taken from its account.
        if of not in (Of.LINE, Of.CALL) or owner.startswith(NOBODY):
            return
        with self._lock:
            self._owners[of, key] = owner
            self._owners.move_to_end((of, key))
            if len(self._owners) > OWNERS_KEPT:
                self._owners.popitem(last=False)

    def forget(self, of: Of, key: str) -> None:
        with self._lock:
            self._owners.pop((of, key), None)

    def is_contended(self, owner: str) -> bool:
        """Whether others were in the way there a moment ago."""
        return self._contended.get(owner, 0.0) > time.monotonic()

    def note_contended(self, owner: str) -> None:
        with self._lock:
            if len(self._contended) >= CONTENDED_KEPT:
                self._contended.clear()
            self._contended[owner] = time.monotonic() + CONTENDED_S

    def need_up(self, slots: Sequence[int]) -> None:
        """Raises LedgerUnavailable where there was no way to a shard a moment ago."""
        if not self._down:
            return
        with self._lock:
            now = time.monotonic()
            for shard in {self.shards[slot] for slot in slots}:
                until_s, why = self._down.get(shard, (0.0, None))
                if why is not None and now < until_s:
                    raise LedgerUnavailable(why.found, why.cure)
                if why is not None:
                    # This step tries; all others go on hearing why.
                    self._down[shard] = now + TRIED_WITHIN_S, why

    def note_up(self, slots: Sequence[int]) -> None:
        if self._down:
            with self._lock:
                for slot in slots:
                    self._down.pop(self.shards[slot], None)

    def note_down(self, slot: int, why: LedgerUnavailable) -> None:
        with self._lock:
            self._down[self.shards[slot]] = time.monotonic() + DOWN_S, why


class _Moved(Exception):
    """The step has changed nothing, and may do in another run. error: for who hears of it after the last."""

    def __init__(self, error: LedgerError, *, at_once: bool = False) -> None:
        self.error = error
        self.at_once = at_once


def _unwatched(_connection: "psycopg.Connection[Any]", _slot: int | None) -> AbstractContextManager[object]:
    return contextlib.nullcontext()


class _Watch:
    """Ends calls that last too long. PL/Proxy waits for a shard that froze without end, and each thread that does is
    one that accounts of other shards have not. `stop` ends it.
    """

    def __init__(self, directory: Directory, where: str) -> None:
        self._directory = directory
        self._where = where
        self._calls: dict[int, tuple[float, psycopg.Connection[Any], int | None]] = {}
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="ledger-watch", daemon=True)
        self._thread.start()

    @contextlib.contextmanager
    def __call__(self, connection: "psycopg.Connection[Any]", slot: int | None) -> Iterator[None]:
        """slot: None for a call of all shards, which may last longer."""
        me = threading.get_ident()
        until_s = time.monotonic() + (CALL_WITHIN_S if slot is not None else READING_MS / 1000)
        with self._lock:
            self._calls[me] = until_s, connection, slot
        try:
            yield
        finally:
            with self._lock:
                del self._calls[me]

    def _look(self) -> None:
        while not self._over.wait(LOOK_EVERY_S):
            now = time.monotonic()
            with self._lock:
                for until_s, connection, slot in self._calls.values():
                    if until_s < now:
                        self._end(connection, slot)

    def _end(self, connection: "psycopg.Connection[Any]", slot: int | None) -> None:
        if slot is not None:
            shard = dict(part.partition("=")[::2] for part in self._directory.shards[slot].split())
            why = f"shard {shard.get('dbname', '')} did not answer within {CALL_WITHIN_S:g} s"
            self._directory.note_down(slot, LedgerUnavailable(f"{self._where}: {why}", _SHARD_DOWN))
        # Its thread, which waits for it, finds it closed.
        with (
            contextlib.suppress(OSError, psycopg.Error),
            socket.socket(fileno=os.dup(connection.fileno())) as way,
        ):
            way.shutdown(socket.SHUT_RDWR)

    def stop(self) -> None:
        self._over.set()
        self._thread.join()


class _Careful(Exception):
    """Something cannot be stored; another run is to tell of each part whether it can."""


class ShardDatabase(SharedDatabase):
    """What a step is given: all shards, of which it may write until `commit`.

    writing: whether it may. watch: ends a call that a shard does not answer. turn: waits for an owner's turn in this
    process, so that few steps meet at the shard. within_ms: how long for one that steps of other processes have.
    careful: see whether a part of a step can be stored when it is done, not with all others at their end.
    """

    def __init__(
        self,
        raw: "psycopg.Connection[Any]",
        directory: Directory,
        where: str,
        *,
        writing: bool,
        turn: Callable[[str], None] = lambda owner: None,
        watch: "Callable[[psycopg.Connection[Any], int | None], AbstractContextManager[object]]" = _unwatched,
        within_ms: int = LOCKED_MS,
        careful: bool = False,
    ) -> None:
        self._within_ms = within_ms
        self._careful = careful
        self._taken: str | None = None
        self._epoch_seen_s: float | None = None
        self.written = 0
        self._raw = raw
        self._directory = directory
        self._where = where
        self._writing = writing
        self._turn = turn
        self._watch = watch
        self._accounts: dict[str, _Account] = {}
        self._known: dict[tuple[Of, str | int], str] = {}
        self._bound: str | None = None
        self._locked = False
        self._in_transaction = False
        self._marks: dict[str, dict[str, int]] = {}
        self._claimed: dict[tuple[Of, str], tuple[str, float]] = {}
        """Keys that this run made its owner's, and when, by the monotonic clock."""

    # --- what steps use ---

    def execute(self, sql: str, parameters: Any = (), /) -> Cursor:
        savepoint = _SAVEPOINT.match(sql)
        if savepoint is not None:
            return self._save(*savepoint.groups())
        statement = looked_through(sql)
        given = tuple(parameters)
        self.written += statement.writes
        if statement.aside:
            row = self._globally(looked_through(statement.aside), ()).fetchone()
            given = (*given, None if row is None else row[0])
        if statement.is_global:
            return self._globally(statement, given)
        owner = self._owner(statement, given)
        if statement.binds and not self._locked:
            self._bound = owner
        if owner is None:
            return self._everywhere(statement, given)
        account = self._account(owner)
        sent = _Sent(statement, statement.text, given)
        if statement.writes:
            if account.asked:
                self._ask(account)
            if statement.adds is not None:
                self._need_claim(statement.adds.of, str(given[statement.adds.place]), owner)
            if statement.numbered:
                self._number(sent)
            account.writes.append(sent)
        else:
            account.asked.append(sent)
        return self._cursor(account, sent)

    def _cursor(self, account: _Account, sent: _Sent) -> Cursor:
        def look() -> list[NamedRow]:
            if sent.rows is None:
                self._ask(account, written=sent.statement.writes)
            return sent.rows or []

        return _Rows(look, lambda: self._columns(sent.text, sent.given))

    def write(self, writes: Iterable[Write]) -> None:
        # They go to the shard together as they are.
        for sql, parameters in writes:
            self.execute(sql, parameters)

    def hold(self, locked: Iterable[tuple[Of, str]]) -> None:
        raise AssertionError("steps of several accounts are no one transaction here")

    def lock(self, of: Of, key: str | int) -> None:
        owner = self._known.get((of, key))
        if owner is None:
            owner = str(key) if of is Of.ACCOUNT else self._find(of, key) or f"{NOBODY}{key}"
            self._known[of, key] = owner
        if self._writing and not self._locked:
            self._turn(owner)
            # Behind a pooler it would be given on to another session than has it.
            if self._raw.prepare_threshold is not None and self._directory.is_contended(owner):
                self._call("take", slot_of(owner), owner, self._within_ms)
                self._taken = owner
        self._bound, self._locked = owner, True

    @property
    def bound(self) -> str | None:
        """Whose a statement is that does not say it."""
        return self._bound

    def leave(self) -> None:
        """After the step's end, let others have their turn at its account."""
        if self._taken is not None and not self._raw.closed:
            with contextlib.suppress(psycopg.Error, LedgerUnavailable):
                self._call("leave", slot_of(self._taken), self._taken)

    def alone(self) -> None:
        """Nothing waits here for two accounts: of steps that meet, one writes and the other runs again."""

    def apart(self, work: Callable[[], T]) -> T:
        before = self._gathered()
        try:
            result = work()
            if self._careful or not self._marks:
                self._try_since(before)
        except LedgerError:
            self._back_to(before)
            raise
        except _UNSTORABLE as error:
            self._back_to(before)
            raise Unstorable(_said(error)[1]) from error
        return result

    def _try_since(self, before: dict[str, int]) -> None:
        """What was gathered since is to fail here, and not later."""
        for accounts in self._by_shard(before).values():
            self._step("try", accounts, [each for account in accounts for each in account.writes])

    def _by_shard(self, before: dict[str, int]) -> dict[str, list[_Account]]:
        """Accounts that were written since, in their order."""
        shards: dict[str, list[_Account]] = {}
        for account in sorted(self._accounts.values(), key=lambda account: account.owner):
            if len(account.writes) > before.get(account.owner, 0):
                shards.setdefault(self._directory.shards[account.slot], []).append(account)
        return shards

    def _gathered(self) -> dict[str, int]:
        return {account.owner: len(account.writes) for account in self._accounts.values()}

    def _back_to(self, before: dict[str, int]) -> None:
        for account in self._accounts.values():
            del account.writes[before.get(account.owner, 0) :]
            account.asked.clear()

    def _save(self, verb: str, name: str) -> Cursor:
        if verb == "SAVEPOINT":
            self._marks[name] = self._gathered()
        else:
            if not self._careful:
                try:
                    self._try_since(self._marks[name])
                except _UNSTORABLE as error:
                    raise _Careful from error
            if verb == "ROLLBACK TO":
                self._back_to(self._marks[name])
            else:
                del self._marks[name]
        return _Rows(list, list)

    # --- whose a statement is ---

    def _account(self, owner: str) -> _Account:
        account = self._accounts.get(owner)
        if account is None:
            account = self._accounts[owner] = _Account(owner, slot_of(owner))
        return account

    def _owner(self, statement: Statement, given: Sequence[Any]) -> str | None:
        named = [key for key in statement.keys if given[key.place] not in (None, "")]
        for key in named:
            if key.of is Of.ACCOUNT:
                return str(given[key.place])
        for key in named:
            return self._owner_of(key, given)
        if self._bound is None and statement.adds is not None:
            return f"{NOBODY}{given[_LINE_OF_DECISION]}"
        return self._bound

    def _owner_of(self, key: Key, given: Sequence[Any]) -> str:
        of, value = key.of, str(given[key.place])
        owner = self._known.get((of, value)) or self._directory.owner(of, value)
        if owner is None:
            bound = self._bound if self._locked and self._writing else None
            # Whoever looks for a key before writing it makes it its own by that.
            owner = self._find(of, value) if bound is None else self._claim(of, value, bound)[0]
        # Where nothing is of it.
        owner = owner or self._bound or f"{NOBODY}{value}"
        self._known[of, value] = owner
        return owner

    def _find(self, of: Of, key: str | int) -> str | None:
        kept = self._directory.owner(of, str(key))
        if kept is not None:
            return kept
        missing = None
        if of in (Of.LINE, Of.NUMBER, Of.CALL):
            slot = slot_of(str(key))
            try:
                found = self._call("whose", slot, of.value, str(key))
            except LedgerUnavailable as error:
                found, missing = None, error
            if found is not None:
                self._directory.keep(of, str(key), found)
                return str(found)
            if of is not Of.CALL and missing is None:
                return None
        return self._find_by_asking(of, str(key))

    def _find_by_asking(self, of: Of, key: str) -> str | None:
        """Ask each shard. Raises LedgerUnavailable where it may be on one that did not answer."""
        missing: LedgerUnavailable | None = None
        slots = 0
        self._directory.load(self._raw)
        for slot in self._directory.a_slot_of_each():
            try:
                here, found = self._here(slot, of, key)
            except LedgerUnavailable as error:
                missing = error
                continue
            if found is not None:
                self._directory.keep(of, key, found)
                return found
            slots += here
        if missing is not None:
            raise missing
        if slots != SLOTS:
            raise _Moved(LedgerUnavailable(f"{self._where}: an account was being moved", "repeat it"))
        return None

    def _here(self, slot: int, of: Of, key: str) -> tuple[int, str | None]:
        """How many slots that shard has, and whose the key is by what is stored there."""
        here, found = msgspec.json.decode(self._call("here", slot, of.value, key))
        return here, found

    def _claim(self, of: Of, key: str, owner: str, instead: str | None = None) -> tuple[str, int]:
        """Whose it is now, and for how long it has been, in milliseconds."""
        try:
            said = self._call("claim", slot_of(key), of.value, key, owner, instead)
        except LedgerUnavailable:
            # With the shard that has this part of the directory down, what keeps two accounts from one key is missing;
            # those whose own shards are up go on.
            return owner, 0
        holder, fresh, age_ms = msgspec.json.decode(said)
        if fresh:
            self._claimed[of, key] = owner, time.monotonic()
        return holder, age_ms

    def _need_claim(self, of: Of, key: str, owner: str) -> None:
        if (of, key) in self._claimed:
            return
        holder, age_ms = self._claim(of, key, owner)
        if (of, key) in self._claimed:
            pass
        elif holder == owner:
            # What it was claimed for may never have been written.
            self._claim(of, key, owner, owner)
        elif age_ms < CLAIM_STALE_MS or self._here(slot_of(holder), of, key)[1] is not None:
            self._known[of, key] = holder
            raise _Moved(
                LedgerUnavailable(
                    f"{self._where}: {of} {key} is being written for {holder.removeprefix(NOBODY)}",
                    "repeat it",
                )
            )
        elif self._claim(of, key, owner, holder)[0] != owner:
            raise _Moved(LedgerUnavailable(f"{self._where}: {of} {key} is being written", "repeat it"))
        self._known[of, key] = owner

    def _number(self, sent: _Sent) -> None:
        """Give a new row its number."""
        [number] = self._raw.execute(
            "SELECT nextval(pg_get_serial_sequence($1, 'id'))", (sent.statement.numbered,)
        ).fetchone() or (None,)
        sent.given = (*sent.given, number)
        sent.text = sent.text.replace(" (", " (id, ", 1).replace(
            "VALUES (", f"VALUES (${len(sent.given)}, ", 1
        )

    # --- how it gets there ---

    def _call(self, function: str, slot: int, *arguments: Any) -> Any:
        self._directory.need_up((slot,))
        try:
            with self._watch(self._raw, slot):
                row = self._raw.execute(_CALLS[function], (slot, *arguments)).fetchone()
        except psycopg.Error as error:
            why = self._no_way(error)
            if why is None:
                # Where the connection is gone it was the watch's doing, or the way to all shards.
                if not self._raw.closed:
                    self._directory.note_up((slot,))
                elif arguments[0] != "write":
                    self._directory.need_up((slot,))
                raise
            self._directory.note_down(slot, why)
            raise why from error
        self._directory.note_up((slot,))
        return None if row is None else row[0]

    def _no_way(self, error: psycopg.Error) -> LedgerUnavailable | None:
        shard, said = _said(error)
        if shard and not error_is_remote(error) and _NO_WAY.search(said):
            return LedgerUnavailable(f"{self._where}: shard {shard}: {said}", _SHARD_DOWN)
        return None

    def _step(self, how: str, accounts: Sequence[_Account], sent: Sequence[_Sent]) -> list[Any]:
        """Run statements on the shard of those accounts."""
        answer = self._call(
            "step",
            accounts[0].slot,
            how,
            [account.owner for account in accounts],
            [account.slot for account in accounts],
            [account.version for account in accounts],
            *_arrays(sent),
        )
        found: list[Any]
        version, *found = _decoded(answer)
        if accounts[0].version is None:
            accounts[0].version = version
        return found

    def _ask(self, account: _Account, *, written: bool = False) -> None:
        """Let the shard answer what was asked of an account and not answered yet; written: and what its writes give."""
        again = written or any(_touches(write, read) for read in account.asked for write in account.writes)
        sent = [*(account.writes if again else ()), *account.asked]
        for each, found in zip(sent, self._step("try" if again else "look", [account], sent), strict=True):
            if each.rows is None and found is not None:
                each.rows = _rows(found)
        account.asked.clear()

    def _everywhere(self, statement: Statement, given: tuple[Any, ...]) -> Cursor:
        """Run a statement that is of no account on all shards at once."""
        slots = self._directory.a_slot_of_each()
        self._directory.need_up(slots)
        sent = _Sent(statement, statement.text, given)
        if statement.offset is not None and statement.limit is not None:
            sent = _all_up_to_limit(sent)
        try:
            with self._watch(self._raw, None):
                answers = self._raw.execute(_EVERYWHERE, (statement.writes, *_arrays([sent]))).fetchall()
        except psycopg.Error as error:
            why = self._no_way(error)
            if why is not None:
                raise why from error
            raise
        self._directory.note_up(slots)
        found = [_decoded(answer) for (answer,) in answers]
        if sum(here for here, _ in found) != SLOTS:
            raise _Moved(LedgerUnavailable(f"{self._where}: an account was being moved", "repeat it"))
        rows = merged(statement, given, [_rows(each or []) for _, each in found])
        return _Rows(lambda: rows, lambda: self._columns(statement.text, given))

    def _columns(self, text: str, given: tuple[Any, ...]) -> Sequence[str]:
        """Of a statement without rows, by the same tables before the shards, which are empty."""
        return [column[0] for column in self._raw.execute(text.encode(), given).description or ()]

    def _globally(self, statement: Statement, given: tuple[Any, ...]) -> Cursor:
        if "nodes" in statement.tables and self._epoch_seen_s is None:
            self._epoch_seen_s = time.monotonic()
        if statement.writes and not self._in_transaction:
            self._raw.execute(BEGIN.encode())
            self._in_transaction = True
        return self._raw.execute(statement.text.encode(), given)

    # --- the end of a step ---

    def commit(self) -> None:
        """Write all that was gathered. Raises LedgerSlow where it may have been done, or in part."""
        shards = self._by_shard({})
        late_s = time.monotonic() - CLAIM_HOLDS_S
        # Who was frozen meanwhile may have been taken for dead: it looks again.
        seen_s = () if self._epoch_seen_s is None else (self._epoch_seen_s,)
        if any(since_s < late_s for since_s in (*seen_s, *(at_s for _, at_s in self._claimed.values()))):
            raise _Moved(LedgerUnavailable(f"{self._where}: the step took too long", "repeat it"))
        if len(shards) > 1:
            # On several shards it is not one transaction: what can be refused is to be refused before the first.
            self._try_since({})
        done = False
        for accounts in shards.values():
            sent = [each for account in accounts for each in account.writes]
            try:
                self._step("write", accounts, sent)
            except (psycopg.Error, LedgerError) as error:
                cut = isinstance(error, psycopg.Error) and (self._raw.closed or _is_cut(error))
                if done or cut:
                    raise LedgerSlow(
                        f"{self._where}: {'written in part' if done else 'cut off while it was written'}:"
                        f" {_said(error)[1] if isinstance(error, psycopg.Error) else error}",
                        _UNKNOWN_CURE,
                    ) from error
                raise
            done = True
        if self._in_transaction:
            self._end(b"COMMIT")
        self._settle_keys([each for accounts in shards.values() for each in accounts])

    def _settle_keys(self, written: Sequence[_Account]) -> None:
        """Keep what is known of keys that were written, and give back those that were not, or are free now."""
        for account in written:
            for each in account.writes:
                added, freed = each.statement.adds, each.statement.frees
                if added is not None:
                    key = str(each.given[added.place])
                    self._claimed.pop((added.of, key), None)
                    self._directory.keep(added.of, key, account.owner)
                if freed is not None:
                    key = str(each.given[freed.place])
                    self._directory.forget(freed.of, key)
                    self._claimed[freed.of, key] = account.owner, 0.0
        self._unclaim()

    def _unclaim(self) -> None:
        while self._claimed:
            (of, key), (owner, _) = self._claimed.popitem()
            # One that stays is harmless: nothing is behind it.
            with contextlib.suppress(psycopg.Error, LedgerUnavailable):
                self._call("unclaim", slot_of(key), of.value, key, owner)

    def roll_back(self, *, unknown: bool = False) -> None:
        """Forget what was gathered. unknown: it may have been written, so its keys stay claimed."""
        if self._in_transaction and not self._raw.closed:
            with contextlib.suppress(psycopg.Error):
                self._end(b"ROLLBACK")
        if not unknown and not self._raw.closed:
            self._unclaim()

    def _end(self, word: bytes) -> None:
        self._in_transaction = False
        self._raw.execute(word)


def _all_up_to_limit(sent: _Sent) -> _Sent:
    """What lies behind an offset of all shards may be anywhere up to there on one."""
    statement = sent.statement
    head, _, _ = sent.text.rpartition(" LIMIT ")
    bounds = (bound_of(each, sent.given) or 0 for each in (statement.limit, statement.offset))
    return _Sent(statement, f"{head} LIMIT {sum(bounds)}", sent.given if "$" in head else ())


def error_is_remote(error: psycopg.Error) -> bool:
    """Whether a shard said it, and not PL/Proxy of the way to it."""
    return "REMOTE ERROR" in (error.diag.message_primary or "")


def _said(error: psycopg.Error) -> tuple[str, str]:
    """Which shard it was, "" where it was none, and what is wrong."""
    text = (error.diag.message_primary or str(error)).strip().replace("\n", " ")
    found = _REMOTE.match(text)
    return ("", text) if found is None else (found["shard"] or "?", found["said"].strip())


def _is_cut(error: psycopg.Error) -> bool:
    """Whether the way to a shard was lost after a statement had gone there, so that it may have been done."""
    if error_is_remote(error):
        return False
    return isinstance(error, errors.QueryCanceled) or _CUT.search(_said(error)[1]) is not None


class ShardPool(Pool):
    """Runs steps on the shards behind the database at `url`; otherwise as a pool does."""

    shares = False

    def __init__(
        self, url: str, password: str | None = None, *, locked_ms: int = LOCKED_MS, **bounds: Any
    ) -> None:
        super().__init__(url, password, locked_ms=locked_ms, **bounds)
        self._directory = Directory()
        self._turns = Turns()
        self._watch = _Watch(self._directory, self.where)
        self._locked_ms = locked_ms

    async def open(self, prepare: "Callable[[psycopg.Connection[Any]], None]") -> None:
        """As a pool's; and learn where each slot is."""

        def prepared(raw: "psycopg.Connection[Any]") -> None:
            prepare(raw)
            self._directory.load(raw)
            self._need_versions(raw)

        await super().open(prepared)

    def _need_versions(self, raw: "psycopg.Connection[Any]") -> None:
        """Of the shards that can be asked: with one down, the accounts of the others go on."""
        for slot in self._directory.a_slot_of_each():
            try:
                [found] = raw.execute("SELECT shard.schema_version($1::int)", (slot,)).fetchone() or (None,)
            except psycopg.Error as error:
                log.warning("shard_not_reached", error=_said(error)[1])
                continue
            if found != max(files()):
                raise LedgerUnavailable(
                    f"{self.where}: the shard of slot {slot} has tables of version {found}; this FairDial has"
                    f" {max(files())}",
                    SHARDS_CURE,
                )

    def _shut(self) -> None:
        super()._shut()
        self._watch.stop()

    async def probe(self) -> None:
        """Write a row as it is, before the shards and on each. Raises LedgerUnavailable."""
        await self.do(_touch)

    def _repeatedly(self, step: Step[T], way: Way) -> T:
        until_s = time.monotonic() + RUNS_WITHIN * self._locked_ms / 1000
        careful = False
        for run in range(1, RUNS_MAX + 1):
            try:
                return self._run_once(step, way, careful)
            except _Careful:
                careful = True
            except _Moved as moved:
                if run == RUNS_MAX or time.monotonic() > until_s:
                    raise moved.error from moved.error.__cause__
                if not moved.at_once:
                    # Two that were in each other's way are not to meet again.
                    time.sleep(AGAIN_AFTER_S * min(run, 10) * _CHANCE.random())
        raise AssertionError("the last run ends the loop")

    def _run_once(self, step: Step[T], way: Way, careful: bool) -> T:
        connection = self._connection(way)
        connection.patience_s = way.patience_s
        turn: list[str] = []

        def take_turn(owner: str) -> None:
            if not self._turns.take(owner, self._locked_ms / 1000):
                raise LedgerUnavailable(
                    f"{self.where}: the account is busy", "another step holds the account; repeat it"
                )
            turn.append(owner)

        db = ShardDatabase(
            connection,
            self._directory,
            self.where,
            writing=way.begin == BEGIN,
            turn=take_turn,
            watch=self._watch,
            within_ms=self._locked_ms,
            careful=careful,
        )
        try:
            result = step(db)
            db.commit()
        except psycopg.Error as error:
            db.roll_back()
            if isinstance(error, Silent):
                self._fell_silent(way, connection, error)
            if isinstance(error, errors.SerializationFailure) and db.bound is not None:
                self._directory.note_contended(db.bound)
            raise self._of_shards(error, connection) from error
        except LedgerSlow as slow:
            db.roll_back(unknown=True)
            if isinstance(slow.__cause__, Silent):
                self._fell_silent(way, connection, slow.__cause__)
            raise
        except BaseException:
            db.roll_back()
            raise
        finally:
            db.leave()
            if connection.closed:
                self._drop(connection)
            for each in turn:
                self._turns.leave(each)
        return result

    def _of_shards(self, error: psycopg.Error, connection: "psycopg.Connection[Any]") -> Exception:
        """What is to be raised of an error after which nothing was changed."""
        if isinstance(error, errors.DivisionByZero):
            return Fenced()  # nodes.py: nothing else divides
        shard, said = _said(error)
        where = f"{self.where}{f': shard {shard}' if shard else ''}"
        found: LedgerError
        if isinstance(error, _UNSTORABLE):
            found = Unstorable(said)
        elif shard:
            found = LedgerUnavailable(f"{where}: {said}", "" if error_is_remote(error) else _SHARD_DOWN)
        else:
            found = told(self.where, error)
        if error.sqlstate == _MOVED and not connection.closed:
            with contextlib.suppress(psycopg.Error):
                self._directory.load(connection)
        if isinstance(error, _AGAIN) or error.sqlstate in (_MOVED, _MOVING):
            return _Moved(found)
        if isinstance(error, Silent):
            return found
        lost = isinstance(error, _LOST) or _is_cut(error)
        lost = lost or (isinstance(error, errors.OperationalError) and not error.sqlstate)
        return _Moved(found, at_once=True) if lost else found


def _touch(db: Any) -> None:
    db.execute("UPDATE schema_version SET name = name WHERE version = 1")
    db.execute("SELECT txid_current()")  # which each shard has to write


def leads_to_shards(raw: "psycopg.Connection[Any]") -> bool:
    """Whether that database is one before shards."""
    [there] = raw.execute(
        "SELECT EXISTS (SELECT 1 FROM pg_foreign_server WHERE srvname = $1)", (SERVER,)
    ).fetchone() or (False,)
    return bool(there)

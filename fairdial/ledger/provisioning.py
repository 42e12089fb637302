"""Accounts, lines, numbers, agreements, subscriptions, credit, policies and rate cards on SQLite.

What each step promises stands at the method of its name in contract.py. Those of a batch say whether they
changed anything.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial

import msgspec

from fairdial.ledger import notices, reading
from fairdial.ledger.contract import (
    AlreadyExists,
    BatchRefused,
    ConstraintViolated,
    Entry,
    LedgerError,
    LinesMax,
    LoadedCard,
    NotFound,
    NotNow,
    Payment,
    Provision,
    PublishedPolicy,
    Subscribing,
    Token,
    TooMany,
)
from fairdial.ledger.crediting import forfeit, note_credit
from fairdial.ledger.database import Database, Of, Unstorable, alone, apart, lock
from fairdial.ledger.nodes import barred
from fairdial.policy.account import (
    Account,
    Agreement,
    Consent,
    Credit,
    Kind,
    Line,
    Options,
    OwnNumber,
    Standing,
)
from fairdial.policy.rating import currency_digits, decimal_text


def add_account(db: Database, account: Account, *, any_subscription: bool = False) -> bool:
    """any_subscription: one that exists may have another policy and other options."""
    lock(db, Of.ACCOUNT, account.id)
    row = db.execute("SELECT * FROM accounts WHERE id = ?", (account.id,)).fetchone()
    if row is None:
        db.execute(
            "INSERT INTO accounts (id, name, policy, zone, standing, options, fraud, restricted)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                account.id,
                account.name,
                account.policy,
                account.zone,
                account.standing,
                reading.from_options(account.options),
                int(account.fraud),
                reading.from_services(account.restricted),
            ),
        )
        return True
    kept = reading.to_account(row)
    wanted = replace(
        account, standing=kept.standing, fraud=kept.fraud, restricted=kept.restricted, raises=kept.raises
    )
    if any_subscription:
        wanted = replace(wanted, policy=kept.policy, options=kept.options)
    if kept != wanted:
        raise AlreadyExists(f"account {account.id!r} exists with other contents; choose another id")
    return False


def add_line(db: Database, line: Line, lines_max: LinesMax | None) -> bool:
    lock(db, Of.ACCOUNT, line.account_id)
    account = reading.need_account(db, line.account_id)
    row = db.execute("SELECT * FROM lines WHERE id = ?", (line.id,)).fetchone()
    if row is None:
        _need_room(db, account, lines_max)
        db.execute(
            "INSERT INTO lines (id, account_id, standing, habit) VALUES (?, ?, ?, ?)",
            (line.id, line.account_id, line.standing, msgspec.json.encode(line.habit).decode()),
        )
        return True
    if (row["account_id"], reading.to_habit(row["habit"])) != (line.account_id, line.habit):
        raise AlreadyExists(f"line {line.id!r} exists with other contents, at account {row['account_id']!r}")
    return False


def _need_room(db: Database, account: Account, lines_max: LinesMax | None) -> None:
    most = None if lines_max is None else lines_max(account)
    if most is None:
        return
    [held] = db.execute("SELECT count(*) FROM lines WHERE account_id = ?", (account.id,)).fetchone()
    if held >= most:
        raise TooMany(f"account {account.id!r} holds {held} lines, and its policy allows {most}")


def add_number(db: Database, number: OwnNumber) -> bool:
    lock(db, Of.ACCOUNT, number.account_id)
    reading.need_account(db, number.account_id)
    if number.line_id is not None:
        _need_line_of(db, number.line_id, number.account_id)
    row = db.execute("SELECT * FROM numbers WHERE number = ?", (number.number,)).fetchone()
    if row is not None and row["account_id"] != number.account_id:
        raise _belongs_elsewhere(number.number, row["account_id"])
    if row is not None and row["line_id"] == number.line_id:
        return False
    given = db.execute(
        "INSERT INTO numbers (number, account_id, line_id) VALUES (?, ?, ?)"
        " ON CONFLICT (number) DO UPDATE SET line_id = excluded.line_id"
        " WHERE numbers.account_id = excluded.account_id RETURNING number",
        (number.number, number.account_id, number.line_id),
    ).fetchone()
    if given is None:
        # Another account got it at this moment.
        raise _belongs_elsewhere(number.number, reading.need_number(db, number.number).account_id)
    return True


def _belongs_elsewhere(number: str, account_id: str) -> AlreadyExists:
    return AlreadyExists(
        f"number {number} belongs to account {account_id!r}; "
        f"take it from there with `fairdial number remove {number}`"
    )


def _need_line_of(db: Database, line_id: str, account_id: str) -> None:
    query = "SELECT 1 FROM lines WHERE id = ? AND account_id = ?"
    if db.execute(query, (line_id, account_id)).fetchone() is None:
        raise NotFound(
            f"account {account_id!r} has no line {line_id!r}; `fairdial line list {account_id}` shows its lines"
        )


def remove_number(db: Database, number: str) -> None:
    lock(db, Of.NUMBER, number)
    reading.need_number(db, number)
    db.execute("DELETE FROM numbers WHERE number = ?", (number,))


def agree(db: Database, agreement: Agreement) -> bool:
    lock(db, Of.ACCOUNT, agreement.account_id)
    reading.need_account(db, agreement.account_id)
    if _holds(db, agreement.account_id, agreement.consent):
        return False
    key = (agreement.account_id, agreement.consent)
    row = db.execute(
        "SELECT coalesce(max(at_ms), -1) AS at_ms FROM agreements WHERE account_id = ? AND consent = ?", key
    ).fetchone()
    # After the one before, also where that was withdrawn in the same millisecond, or the clock was set back since.
    at_ms = max(agreement.at_ms, row["at_ms"] + 1)
    db.execute(
        "INSERT INTO agreements (account_id, consent, at_ms, agreed_by, note, about, recorded_by)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            *(*key, at_ms, agreement.agreed_by),
            *(agreement.note, agreement.about, agreement.recorded_by),
        ),
    )
    return True


def withdraw(db: Database, account_id: str, consent: Consent, at_ms: int, by: str) -> None:
    lock(db, Of.ACCOUNT, account_id)
    reading.need_account(db, account_id)
    if not _holds(db, account_id, consent):
        raise NotFound(f"account {account_id!r} has not agreed to {consent}; nothing is to be withdrawn")
    # Not before it began, also where the clock was set back since.
    db.execute(
        "UPDATE agreements SET withdrawn_ms = max(at_ms, ?), withdrawn_by = ?"
        " WHERE account_id = ? AND consent = ? AND withdrawn_ms IS NULL",
        (at_ms, by, account_id, consent),
    )


def _holds(db: Database, account_id: str, consent: Consent) -> bool:
    return any(agreement.consent is consent for agreement in reading.agreements_of(db, account_id))


_HARDNESS = {Standing.ACTIVE: 0, Standing.SUSPENDED: 1, Standing.TERMINATED: 2}


def _need_harder(what: str, now: Standing, wanted: Standing) -> None:
    if _HARDNESS[wanted] < _HARDNESS[now]:
        raise NotNow(f"{what} is {now}; ask its provider to take that back")


def set_standing(
    db: Database,
    account_id: str,
    standing: Standing,
    at_ms: int,
    fraud: bool,
    *,
    told: bool = True,
    harder: bool = False,
) -> Account:
    """told: False where a notice of another kind says it."""
    if fraud and standing is not Standing.TERMINATED:
        raise ValueError(f"an account is terminated for fraud, not {standing}; terminate it")
    lock(db, Of.ACCOUNT, account_id)
    account = reading.need_account(db, account_id)
    if harder:
        _need_harder(f"account {account_id!r}", account.standing, standing)
    # Terminating it again for no reason given does not make the fraud undone.
    fraud = standing is Standing.TERMINATED and (fraud or account.fraud)
    db.execute("UPDATE accounts SET standing = ?, fraud = ? WHERE id = ?", (standing, int(fraud), account_id))
    forfeit(db, account_id, at_ms)
    if standing is not Standing.ACTIVE:
        barred(db)
    if told:
        notices.of_standing(db, account_id, account.standing, standing, at_ms)
    return reading.need_account(db, account_id)


def restrict(
    db: Database,
    account_id: str,
    services: Collection[Kind],
    at_ms: int,
    lift: bool,
    *,
    told: bool = True,
) -> Account:
    """told: False where a notice of another kind says it."""
    lock(db, Of.ACCOUNT, account_id)
    account = reading.need_account(db, account_id)
    taken, named = account.restricted, frozenset(services)
    account = replace(account, restricted=taken - named if lift else taken | named)
    db.execute(
        "UPDATE accounts SET restricted = ? WHERE id = ?",
        (reading.from_services(account.restricted), account_id),
    )
    if not lift:
        barred(db)
    if told:
        notices.of_services(db, account_id, account.restricted ^ taken, at_ms, lifted=lift)
    return account


def set_line_standing(db: Database, line_id: str, standing: Standing, *, harder: bool = False) -> Line:
    lock(db, Of.LINE, line_id)
    line = reading.need_line(db, line_id)
    if harder:
        _need_harder(f"line {line_id!r}", line.standing, standing)
    db.execute("UPDATE lines SET standing = ? WHERE id = ?", (standing, line_id))
    if standing is not Standing.ACTIVE:
        barred(db)
    return replace(line, standing=standing)


def subscribe(db: Database, account_id: str, policy: str, options: Options) -> Account:
    lock(db, Of.ACCOUNT, account_id)
    reading.need_account(db, account_id)
    db.execute(
        "UPDATE accounts SET policy = ?, options = ? WHERE id = ?",
        (policy, reading.from_options(options), account_id),
    )
    return reading.need_account(db, account_id)


def add_credit(db: Database, payment: Payment, at_ms: int) -> bool:
    lock(db, Of.ACCOUNT, payment.account_id)
    account_id, currency, amount_micros = payment.account_id, payment.currency, payment.amount_micros
    reading.need_account(db, account_id)
    currency_digits(currency)
    before = reading.credit_of(db, account_id)
    if before is not None and before.currency != currency:
        raise ValueError(
            f"account {account_id!r} holds {before.currency}; give the amount in that, not {currency}"
        )
    if _was_added(db, payment):
        return False
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
    note_credit(db, account_id, "added", payment.reference, amount_micros, at_ms, payment.note)
    return True


def _was_added(db: Database, payment: Payment) -> bool:
    earlier = db.execute(
        "SELECT amount_micros FROM credit_entries WHERE account_id = ? AND origin = 'added' AND reference = ?",
        (payment.account_id, payment.reference),
    ).fetchone()
    if earlier is not None and earlier["amount_micros"] != payment.amount_micros:
        raise AlreadyExists(
            f"reference {payment.reference!r} was used for another amount; choose another one"
        )
    return earlier is not None


def credit_after(db: Database, payment: Payment, at_ms: int) -> Credit:
    """Add credit; what the account has then."""
    add_credit(db, payment, at_ms)
    after = reading.credit_of(db, payment.account_id)
    assert after is not None
    return after


def provision(
    db: Database, entries: Sequence[Entry], at_ms: int, lines_max: LinesMax | None, keep: bool
) -> tuple[int, int]:
    """keep False: what the batch would do, and nothing of it done."""
    alone(db)
    db.execute("SAVEPOINT batch")
    try:
        new = _provision_all(db, entries, at_ms, lines_max)
    except BaseException:
        _undo(db)
        raise
    if keep:
        db.execute("RELEASE batch")
    else:
        _undo(db)
    return new, len(entries) - new


def _undo(db: Database) -> None:
    db.execute("ROLLBACK TO batch")
    db.execute("RELEASE batch")


def _provision_all(db: Database, entries: Sequence[Entry], at_ms: int, lines_max: LinesMax | None) -> int:
    new, faults = 0, []
    for entry in entries:
        try:
            new += apart(db, partial(_provide, db, entry.what, at_ms, lines_max))
        except Unstorable as error:
            faults.append(f"{entry.where}: cannot be stored ({error}); correct it")
        except (LedgerError, ValueError) as error:
            faults.append(f"{entry.where}: {error}")
    if faults:
        raise BatchRefused(faults)
    return new


def _provide(db: Database, what: Provision, at_ms: int, lines_max: LinesMax | None) -> bool:
    match what:
        case Account():
            return add_account(db, what, any_subscription=True)
        case Line():
            return add_line(db, what, lines_max)
        case OwnNumber():
            return add_number(db, what)
        case Subscribing(account_id, policy, options):
            before = reading.need_account(db, account_id)
            return subscribe(db, account_id, policy, options) != before
        case Payment():
            return add_credit(db, what, at_ms)
        case Agreement():
            return agree(db, what)


def publish(db: Database, policy: PublishedPolicy, before: str | None) -> None:
    row = db.execute(
        "SELECT text FROM policies WHERE name = ? AND version = ?", (policy.name, policy.version)
    ).fetchone()
    if row is None:
        db.execute(
            "INSERT INTO policies (name, version, published_ms, text) VALUES (?, ?, ?, ?)",
            (policy.name, policy.version, policy.published_ms, policy.text),
        )
        if before is not None:
            notices.announce(db, policy.name, policy.version, before, policy.published_ms)
    elif row["text"] != policy.text:
        raise AlreadyExists(
            f"version {policy.version!r} of policy {policy.name!r} was published with another text; "
            "give the change a version of its own"
        )


def add_token(db: Database, token: Token) -> None:
    if reading.tokens_where(db, "name = ?", token.name):
        raise AlreadyExists(f"token {token.name!r} exists; remove it first, or choose another name")
    for account_id in token.accounts:
        reading.need_account(db, account_id)
    db.execute(
        "INSERT INTO tokens (name, digest, role, created_ms, accounts) VALUES (?, ?, ?, ?, ?)",
        (
            token.name,
            token.digest,
            token.role,
            token.created_ms,
            msgspec.json.encode(token.accounts).decode(),
        ),
    )


def remove_token(db: Database, name: str) -> None:
    if db.execute("DELETE FROM tokens WHERE name = ? RETURNING name", (name,)).fetchone() is None:
        raise NotFound(f"no token {name!r}; `fairdial token list` shows all")


def load_card(db: Database, card: LoadedCard, at_ms: int) -> None:
    db.execute(
        "INSERT INTO cards (name, currency, loaded_ms, text) VALUES (?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET"
        " currency = excluded.currency, loaded_ms = excluded.loaded_ms, text = excluded.text",
        (card.name, card.currency, at_ms, card.text),
    )

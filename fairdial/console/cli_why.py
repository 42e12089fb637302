"""Commands about decisions: `decisions` and `why`; and an account's days, which `usage --days` shows."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer
from rich.table import Table

from fairdial.console.session import AsJson, Session, instant_text, show, table, table_of

DECISION_COLUMNS = (
    *("at", "call_id", "line_id", "kind", "dialled", "number_class", "decision", "reason", "clause_id"),
)


def decisions(
    context: typer.Context,
    account: Annotated[str | None, typer.Argument(help="Account; all if left out.")] = None,
    line: Annotated[str | None, typer.Option(help="Of this line alone.")] = None,
    number: Annotated[
        str | None, typer.Option(help="Of this number alone, in E.164 or as it is dialled.")
    ] = None,
    call: Annotated[str | None, typer.Option(help="Of this call alone: its id, or its SIP Call-ID.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 20,
    as_json: AsJson = False,
) -> None:
    """List the latest decisions, newest first: why calls were allowed or refused."""
    session: Session = context.obj
    sought = {"account": account, "line": line, "number": number, "call": call}
    rows = session.run("decisions", **sought, limit=limit)
    for row in rows:
        row["at"] = instant_text(row["at_ms"], "milliseconds")
    # What was noted of a call that was let through, and what cut it: most calls have neither.
    further = [
        key
        for key in ("used_s", "cut_by", "cut_clause", "flag", "verified", "medium")
        if any(row[key] for row in rows)
    ]
    show(rows, as_json, lambda: table_of((*DECISION_COLUMNS, *further), rows))


def why(
    context: typer.Context,
    what: Annotated[str, typer.Argument(help="A call's id, its SIP Call-ID, or a number.")],
    as_json: AsJson = False,
) -> None:
    """Say why a call was refused, by which clause, and what can be done: the latest refusal of a call or number."""
    session: Session = context.obj
    found = session.run("why", what=what)
    show(found, as_json, lambda: _why_table(found))


def _why_table(found: Mapping[str, Any]) -> Table:
    return table(("what", "is"), ((name, value) for name, value in _facts(found) if value not in (None, "")))


def _facts(found: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    yield "call", found["call_id"]
    yield "SIP Call-ID", found["sip_call_id"]
    yield "at", instant_text(found["at_ms"], "milliseconds")
    yield "line", found["line_id"]
    yield "account", found["account_id"]
    yield "kind", found["kind_text"]
    yield "dialled", found["dialled"]
    yield "number", _number_text(found)
    yield "caller", found["caller"]
    yield "shown instead", found["shown"]
    yield "decision", found["decision"]
    yield "reason", f"{found['reason']}: {found['text']}"
    yield "cause (Q.850)", found["cause"] or None
    yield "granted", None if found["granted_s"] is None else f"{found['granted_s']} s"
    yield "flag", found["flag"]
    yield "clause", " ".join(found[f"clause_{part}"] for part in ("policy", "version", "id"))
    for rule in found["rules"]:
        yield f"  {rule['section']}", f"{rule['rule']}: {rule['says']}"
    yield "answered", instant_text(found["answered_ms"], "milliseconds")
    yield "ended", instant_text(found["ended_ms"], "milliseconds")
    yield "used", None if found["used_s"] is None else f"{found['used_s']} s"
    if found["cut_by"]:
        yield "cut by", f"{found['cut_by']}, {found['cut_clause']}"
    for rule in found["cut_rules"]:
        yield f"  {rule['section']}", f"{rule['rule']}: {rule['says']}"
    yield "what to do", found["cure"]


def _number_text(found: Mapping[str, Any]) -> str:
    where = "" if found["country"] is None else f", {found['country']}"
    return f"{found['e164'] or 'no E.164 form'}, {found['class_text']}{where}"


def days_table(found: Mapping[str, Any]) -> Table:
    """An account's days, the oldest first: a row for each kind of call that there was, one for a day without any."""
    return table(
        ("day", "kind", "calls", "s", "charged", "refused"),
        (row for day in found["days"] for row in _day_rows(day)),
    )


def _day_rows(day: Mapping[str, Any]) -> Iterator[tuple[object, ...]]:
    charged = ", ".join(f"{amount} {currency}" for currency, amount in day["charged"].items())
    # What is of the day as a whole stands in its first row.
    first: tuple[object, object, object] = (day["date"], charged, day["refused"])
    for kind, use in day["kinds"].items() or (("", None),):
        calls, seconds = (None, None) if use is None else (use["calls"], use["seconds"])
        yield first[0], kind, calls, seconds, first[1], first[2]
        first = ("", "", "")

"""The result of a replay as plain values, which `--json` prints and the tables and the page show.

Amounts are decimal texts by currency, instants ISO 8601 in UTC. Telephone numbers are masked where that is asked for.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from fairdial.logs import escaped, masked, masked_in
from fairdial.policy.outcomes import OUTCOMES, Reason
from fairdial.policy.periods import MS_PER_S
from fairdial.policy.rating import decimal_text
from fairdial.policy.terms import Clause
from fairdial.replay.result import Difference, Differences, Flag, Outcome, Tally, Totals, in_order
from fairdial.replay.run import Result

Json = dict[str, Any]
Show = Callable[[str], str]

STRANGERS_SHOWN: Final = 50

NOTES: Final = (
    "Lengths are right within one second: records have whole seconds of talk, and cut fractions off.",
    "Dials that left no record are not seen, such as refused ones where cdr.conf does not say unanswered=yes.",
    "Dials in a second (caps.attempts_per_s, desk.attempts_per_s) are not counted.",
    "Encryption is not recorded: a policy that refuses calls without it refuses all of them here.",
    "The caller's number is the recorded one, which the dialplan may have replaced.",
    "Seats of a conference are counted by its records; the last one to stay may have none.",
    "Callbacks that were refused before anybody was rung have no record, and messages have none.",
    "How long a dial may ring is taken as 120 seconds, whatever the dialplan says.",
    "A channel is one call: of several numbers that it dialled one after the other, the first is decided about.",
    "A caller who was answered before it dialled has its ringing recorded as talk.",
)
"""What call records cannot tell, and how that is read."""


def as_shown(mask: bool) -> Show:
    """How a number is shown."""
    return masked if mask else str


def report(result: Result, *, mask: bool = False) -> Json:
    """The whole result."""
    show = as_shown(mask)
    reading = result.reading
    return {
        "files": [str(file) for file in result.files],
        "policy": result.policy,
        "against": result.against,
        "from": _instant(result.from_ms),
        "to": _instant(result.to_ms),
        "rows": reading.rows,
        "malformed": reading.malformed,
        "faults": [escaped(fault) for fault in reading.faults],
        "calls": result.calls,
        "unknown": {
            "calls": result.strangers.calls,
            "names": [
                {"name": escaped(masked_in(name) if mask else name), "calls": calls}
                for name, calls in result.strangers.most(STRANGERS_SHOWN)
            ],
        },
        "went_on": result.went_on,
        "no_calls": result.no_calls,
        "repeated": result.repeated,
        **_tally(result.tally),
        "usage": _usage(result),
        "usage_left": result.usage_left,
        "flagged": [_flag(flag) for flag in result.flagged],
        "differences": _differences(result, show),
        "notes": list(NOTES),
    }


def _tally(tally: Tally) -> Json:
    return {
        "totals": _totals(tally.overall),
        "accounts": [
            {"account": account, **_totals(totals)} for account, totals in sorted(tally.by_account.items())
        ],
        "clauses": [
            {**clause_json(clause), **_totals(totals)} for clause, totals in in_order(tally.by_clause)
        ],
        "reasons": [
            {"reason": reason, "text": OUTCOMES[Reason(reason)].text, **_totals(totals)}
            for reason, totals in sorted(tally.by_reason.items())
        ],
        "hours": [
            {"from": _instant(from_ms), **_totals(totals)}
            for from_ms, totals in sorted(tally.by_hour.items())
        ],
    }


def most_found(rows: Sequence[Json]) -> list[Json]:
    """Rows with the most calls refused, cut or undecided first, then those with the most calls."""
    return sorted(rows, key=lambda row: (-row["refused"] - row["cut"] - row["undecided"], -row["calls"]))


def _totals(totals: Totals) -> Json:
    return {
        "calls": totals.calls,
        "allowed": totals.allowed,
        "refused": totals.refused,
        "undecided": totals.undecided,
        "cut": totals.cut,
        "talk_s": totals.talk_s,
        "metered_s": totals.metered_s,
        "charges": amounts(totals.charges),
    }


def amounts(micros: Mapping[str, int]) -> dict[str, str]:
    """Decimal texts by currency."""
    return {currency: decimal_text(amount) for currency, amount in sorted(micros.items())}


def clause_json(clause: Clause) -> Json:
    """A clause by its parts."""
    return {"policy": clause.policy, "version": clause.version, "clause": clause.id}


def _instant(at_ms: int | None) -> str | None:
    return None if at_ms is None else instant(at_ms)


def instant(at_ms: int) -> str:
    """ISO 8601 in UTC, to the second."""
    return datetime.fromtimestamp(at_ms // MS_PER_S, UTC).isoformat().replace("+00:00", "Z")


def _usage(result: Result) -> list[Json]:
    return [
        {
            "account": account,
            "allowance": usage.meter.allowance,
            "from": instant(usage.meter.window.start_ms),
            "to": instant(usage.meter.window.end_ms),
            "limit_units": usage.meter.limit_units,
            "used_units": usage.meter.used_units,
            "over_units": usage.meter.over_units,
            "calls": usage.calls,
        }
        for account, usage in result.usage
    ]


def _flag(flag: Flag) -> Json:
    return {
        "account": flag.account_id,
        "detector": flag.detector,
        **clause_json(flag.clause),
        "at": instant(flag.at_ms),
        "value": flag.value,
        "threshold": flag.threshold,
        "step": flag.step,
        "calls": list(flag.calls),
    }


def _differences(result: Result, show: Show) -> Json | None:
    found = result.differences
    if found is None or result.second is None:
        return None
    return {
        "calls": found.calls,
        "decisions": found.decisions,
        "cuts": found.cuts,
        "charges": found.charges,
        "second": _tally(result.second),
        "accounts": [
            {
                "account": account,
                "calls": calls,
                "first": _totals(result.tally.by_account.get(account, Totals())),
                "second": _totals(result.second.by_account.get(account, Totals())),
            }
            for account, calls in sorted(found.by_account.items())
        ],
        "clauses": list(_clause_pairs(found)),
        "examples": [_example(example, show) for example in found.examples],
    }


def _clause_pairs(found: Differences) -> Iterable[Json]:
    for (first, second), calls in sorted(found.by_clause.items(), key=lambda pair: -pair[1]):
        yield {"first": clause_json(first), "second": clause_json(second), "calls": calls}


def _example(example: Difference, show: Show) -> Json:
    first, second = example.first, example.second
    return {
        "call_id": escaped(first.call_id),
        "at": instant(first.at_ms),
        "account": first.account_id or second.account_id,
        "line": first.line_id,
        "dialled": show(first.dialled),
        "talk_s": first.talk_s,
        "first": _side(first),
        "second": _side(second),
    }


def _side(outcome: Outcome) -> Json:
    return {
        "decision": outcome.decision,
        "reason": outcome.reason,
        **clause_json(outcome.clause),
        "metered_s": outcome.metered_s,
        "cut_clause": None if outcome.cut is None else outcome.cut.id,
        "charges": amounts(outcome.owed),
    }

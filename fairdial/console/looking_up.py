"""Looking up what was decided and used: decisions found by account, line, number or call, one of them with all that is
known of it in words, and an account's days.

For `operations.py`, which has them by name. Nothing here changes anything.
"""

import contextlib
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from fairdial.console.shapes import Json, flat_json
from fairdial.desk import Desk
from fairdial.ledger.contract import DayUse, DecisionRecord, NotFound
from fairdial.policy.cures import CURES
from fairdial.policy.document import Policy
from fairdial.policy.numbers import Habit
from fairdial.policy.outcomes import OUTCOMES, Reason
from fairdial.policy.periods import Period, Window, window_at, zone_named
from fairdial.policy.prefixes import NumberClass
from fairdial.policy.rating import decimal_text
from fairdial.policy.show import show
from fairdial.policy.wording import CLASSES, KINDS

DAYS_MAX: Final = 92
SHOWN_MAX: Final = 10_000


class LookingUp:
    """The operations."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._ledger = desk.ledger
        self.by_name: Mapping[str, Callable[..., Awaitable[Any]]] = {
            "account_days": self._days,
            "decisions": self._decisions,
            "decision_show": self._show,
            "why": self._why,
        }

    async def _days(self, account: str, days: int = 31) -> Json:
        """The account's latest days, today the last of them."""
        if not 1 <= days <= DAYS_MAX:
            raise ValueError(f"{days} days cannot be shown at once; ask for 1 to {DAYS_MAX}")
        zone = zone_named((await self._ledger.account(account)).zone)
        windows = [window_at(Period.DAY, zone, self._desk.now_ms())]
        while len(windows) < days:
            windows.append(window_at(Period.DAY, zone, windows[-1].start_ms - 1))
        windows.reverse()
        used = await self._ledger.days(account, windows)

        def date_of(window: Window) -> str:
            return datetime.fromtimestamp(window.start_ms / 1000, UTC).astimezone(zone).date().isoformat()

        return {
            "zone": str(zone),
            "days": [{"date": date_of(each.window), **_day_json(each)} for each in used],
        }

    async def _decisions(
        self,
        account: str | None = None,
        limit: int = 100,
        after: str | None = None,
        line: str | None = None,
        number: str | None = None,
        call: str | None = None,
    ) -> list[Json]:
        records = await self._ledger.decisions(
            account,
            max(1, min(limit, SHOWN_MAX)),
            after,
            line_id=line,
            number=None if number is None else await self._as_kept(number, account, line),
            call=call,
        )
        return [self._row(record) for record in records]

    async def _as_kept(self, number: str, account: str | None = None, line: str | None = None) -> str:
        """The form of a number by which its calls are found; a line's own habit says how it dials, unless it is another
        account's.
        """
        habit = Habit(region=self._desk.region)
        if line is not None:
            with contextlib.suppress(NotFound):
                found = await self._ledger.line(line)
                habit = found.habit if account in (None, found.account_id) else habit
        return self._desk.numbering.classify(number, habit).e164 or number

    def _row(self, record: DecisionRecord) -> Json:
        return flat_json(record) | {"cut_clause": self._cut_clause(record)}

    def _version(self, record: DecisionRecord) -> Policy | None:
        return self._desk.policies.version(record.clause_policy, record.clause_version)

    def _cut_clause(self, record: DecisionRecord) -> str | None:
        """The clause by which a call was cut, of the version with which it started."""
        policy = self._version(record) if record.cut_by else None
        return None if policy is None else policy.rule_clause(record.cut_by or "", record.kind)

    async def _show(self, decision: str) -> Json:
        return await self._in_words(await self._ledger.decision(decision))

    async def _why(self, what: str, account: str | None = None) -> Json:
        """The latest refusal of a call, by its id or SIP Call-ID, or of a number; the latest decision where none is."""
        by_number = {"number": await self._as_kept(what)}
        for sought in ({"call": what}, by_number):
            for refused in (True, False):
                found = await self._ledger.decisions(account, 1, refused=refused, **sought)
                if found:
                    return await self._in_words(found[0])
        raise NotFound(
            f"nothing was decided about {what!r}; it is neither a call's id, nor a SIP Call-ID, nor a number that was"
            " dialled; `fairdial decisions` shows the latest"
        )

    async def _in_words(self, record: DecisionRecord) -> Json:
        reason, policy = Reason(record.reason), self._version(record)
        grant = await self._ledger.grant(record.call_id)
        return self._row(record) | {
            "kind_text": KINDS[record.kind],
            "class_text": f"{CLASSES[NumberClass(record.number_class)]} number",
            "text": OUTCOMES[reason].text,
            "cause": OUTCOMES[reason].cause,
            "cure": CURES.get(reason),
            "rules": _rules(policy, record.clause_id),
            "cut_rules": _rules(policy, self._cut_clause(record)),
            "answered_ms": None if grant is None else grant.answered_ms,
            "ended_ms": None if grant is None else grant.ended_ms,
        }


def _rules(policy: Policy | None, clause: str | None) -> list[Json]:
    """What a policy's version says under a clause, in words."""
    if policy is None or not clause:
        return []
    return [
        {"section": row.section, "rule": row.rule, "says": row.says}
        for row in show(policy)
        if row.clause == clause
    ]


def _day_json(day: DayUse) -> Json:
    return {
        "kinds": {
            str(kind): {"calls": calls, "seconds": seconds} for kind, (calls, seconds) in day.kinds.items()
        },
        "charged": {currency: decimal_text(micros) for currency, micros in day.charged.items()},
        "refused": day.refused,
    }

"""Events as operators read them: what the desk, cases, notices and people did, put into words for `news.py`.

`Reporter` is told by the parts of a running FairDial; `tell_operation` says which operations are events of their own.
Leaves calls in progress, row by row, to the composition root, which knows who follows them.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from fairdial.console.shapes import Json
from fairdial.desk import Failed
from fairdial.doctor import Finding
from fairdial.ledger.contract import CaseChange, Grant
from fairdial.news import Item, News
from fairdial.policy.account import Dial
from fairdial.policy.decide import Allow, Verdict
from fairdial.policy.outcomes import OUTCOMES, Reason
from fairdial.policy.rating import decimal_text

LOOK_EVERY_S: Final = 1.0
"""How often the parts are looked at, so that their loss is told."""


def item_json(item: Item) -> Json:
    """An event, flat: its number, name, instant (UTC milliseconds), account (null where of none), and what it tells."""
    return {
        "id": item.id,
        "event": item.name,
        "at_ms": item.at_ms,
        "account": item.account,
        **item.told,
    }


class Reporter:
    """Tells the news what becomes of calls and cases: an `Onlooker` of the desk, and hears of cases and notices."""

    def __init__(self, news: News) -> None:
        self._news = news

    def decided(self, dial: Dial, outcome: Verdict | Failed, account_id: str | None) -> None:
        """`decision`: of every dial and message, but for those that are refused unasked in a flood."""
        facts: Json = {"call": dial.call_id, "line": dial.line_id, "kind": str(dial.kind)}
        facts["dialled"] = dial.dialled
        if isinstance(outcome, Failed):
            self._news.tell(
                "decision", account_id, **facts, decision="failed", **_why(outcome.reason, None), limit_s=None
            )
            return
        decision, number = outcome.decision, outcome.number
        clause = decision.clause
        allowed = isinstance(decision, Allow)
        self._news.tell(
            "decision",
            account_id or decision.account_id,
            **facts,
            e164=number.e164,
            number_class=str(number.number_class),
            country=number.country,
            decision="allow" if allowed else "refuse",
            **_why(decision.reason, {"policy": clause.policy, "version": clause.version, "id": clause.id}),
            limit_s=decision.granted_s if isinstance(decision, Allow) else None,
        )

    def answered(self, grant: Grant) -> None:
        """`answered`: a call was answered."""
        self._news.tell(
            "answered",
            grant.account_id,
            **_of(grant),
            answered_ms=grant.answered_ms,
            granted_s=grant.granted_s,
        )

    def renewed(self, grant: Grant) -> None:
        """`renewed`: a call may go on for longer."""
        self._news.tell("renewed", grant.account_id, **_of(grant), granted_s=grant.granted_s)

    def settled(self, grant: Grant) -> None:
        """`settled`: a call is over and was written down, used_s 0 where it was not answered."""
        used_s = grant.used_s or 0
        # As the records of decisions have it: who used all of the grant was cut at its rule.
        cut = grant.granted_s is not None and used_s >= grant.granted_s and bool(grant.bound_by)
        self._news.tell(
            "settled",
            grant.account_id,
            **_of(grant),
            ended_ms=grant.ended_ms,
            used_s=used_s,
            granted_s=grant.granted_s,
            cut_by=grant.bound_by if cut else None,
            charged=decimal_text(grant.charged_micros),
            estimated=grant.estimated,
        )

    def case_changed(self, change: CaseChange) -> None:
        """`case`: one was opened, or a step followed from it."""
        case = change.case
        self._news.tell(
            "case",
            case.account_id,
            case=case.id,
            state=str(case.state),
            opened=change.new,
            detector=case.detector,
            found=case.words,
            shadow=case.shadow,
            steps=[str(each.step) for each in change.taken if each.enforced],
            by="fairdial",
        )

    def notice(self, account_id: str, notice: int, channel: str, topic: str, state: str, said: str) -> None:
        """`notice`: one was delivered, refused (it is tried again) or given up."""
        self._news.tell(
            "notice", account_id, notice=notice, channel=channel, topic=topic, state=state, said=said
        )


def _of(grant: Grant) -> Json:
    return {"call": grant.call_id, "line": grant.line_id, "kind": str(grant.kind)}


def _why(reason: Reason, clause: Json | None) -> Json:
    return {"reason": str(reason), "clause": clause, "cause": OUTCOMES[reason].cause}


# --- what people did ----------------------------------------------------------------------------------

_OPERATIONS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "account_standing": ("standing", ("standing", "restricted", "fraud")),
    "account_restrict": ("standing", ("standing", "restricted", "fraud")),
    "line_standing": ("standing", ("line", "standing")),
    "policy_publish": ("policy", ("policy", "version", "effective")),
    "case_close": ("case", ("case", "state", "detector")),
    "case_deadline": ("case", ("case", "state", "detector", "deadline_ms")),
}
"""Operations that are events when they are done: the event's name, and what of the answer it tells."""


def tell_operation(news: News, operation: str, answer: Any) -> None:
    """An operation was carried out: tell of it where it is an event."""
    if operation not in _OPERATIONS:
        return
    name, keys = _OPERATIONS[operation]
    news.tell(name, answer.get("account"), **{key: answer[key] for key in keys})


# --- the parts ---------------------------------------------------------------------------------------


class Pulse:
    """Looks at the parts of FairDial every LOOK_EVERY_S and tells `part` where one is lost or is back."""

    def __init__(self, news: News, look: Callable[[], Sequence[Finding]]) -> None:
        """look: how the parts are now, without asking any of them."""
        self._news = news
        self._look = look
        self._well: dict[str, bool] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run(), name="pulse")

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        while True:
            self.look()
            await asyncio.sleep(LOOK_EVERY_S)

    def look(self) -> None:
        """Tell which parts are not as they were. What is well at the first look is no news."""
        for each in self._look():
            if self._well.get(each.part, True) is not each.well:
                self._news.tell("part", None, part=each.part, well=each.well, text=each.text, cure=each.cure)
            self._well[each.part] = each.well

"""Requests for higher limits and minute plans as operations: asked, listed, approved, declined, withdrawn, revoked.

For `operations.py`, which has them by name. What may be asked and how long an approval holds is `policy/requests.py`'s.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

import structlog

from fairdial.console.shapes import Json, request_entry_json, request_json
from fairdial.desk import Desk
from fairdial.ledger.contract import Usage
from fairdial.policy.account import Account, MeterWindow
from fairdial.policy.decide import allowance_limit
from fairdial.policy.document import Allowance, Policy
from fairdial.policy.periods import zone_named
from fairdial.policy.requests import (
    Asked,
    Request,
    RequestKind,
    RequestState,
    Ruling,
    Starts,
    limit_asked,
    plan_window,
    unit_of,
    validity,
)

log = structlog.get_logger(__name__)

SHOWN_MAX = 10_000


class Renew(Protocol):
    """Asks at once for more seconds for the live calls of an account that were told that there are none."""

    def __call__(self, account_id: str) -> int: ...


class Requesting:
    """The operations. renew: None where no server runs here."""

    def __init__(self, desk: Desk, renew: Renew | None = None) -> None:
        self._desk = desk
        self._ledger = desk.ledger
        self._renew = renew
        self.by_name: Mapping[str, Callable[..., Awaitable[Any]]] = {
            "request_add": self._add,
            "request_list": self._list,
            "request_show": self._show,
            "request_approve": self._approve,
            "request_decline": self._decline,
            "request_withdraw": self._withdraw,
            "request_revoke": self._revoke,
            "plan_answer": self._answer_plan,
        }

    async def _add(
        self,
        account: str,
        rule: str,
        limit: int,
        why: str,
        by: str,
        line: str | None = None,
        until_ms: int | None = None,
        plain: bool | None = None,
        key: str | None = None,
    ) -> Json:
        """limit: seconds of talk, messages, or a number. plain: whether it was written as a number, which is none of
        talk; None: nobody wrote it.
        """
        sheet = await self._ledger.sheet(account)
        now_ms = self._desk.now_ms()
        policy = self._policy(sheet.account, now_ms)
        if policy is None:
            raise ValueError(f"policy {sheet.account.policy!r} is not in force; nothing of it can be raised")
        if line is not None and line not in {each.id for each in sheet.lines}:
            raise ValueError(
                f"account {account!r} has no line {line!r}; `fairdial line list {account}` shows them"
            )
        talk = unit_of(policy, rule) == "s"
        if plain is talk and policy.limit_rule(rule) is not None:
            wanted = (
                "time of talk; write it like 3000min, 50h or 180000s" if talk else "a number; write it like 5"
            )
            raise ValueError(f"{rule} is {wanted}")
        full, clause = limit_asked(sheet.account, policy, rule, line, limit, now_ms)
        if until_ms is not None and until_ms <= now_ms:
            raise ValueError("the time until which it is wanted has passed; give a later one, or none")
        asked = Asked(
            account,
            RequestKind.LIMIT,
            policy.name,
            full,
            clause,
            why,
            by,
            now_ms,
            limit=limit,
            until_ms=until_ms,
            key=key,
        )
        return self._json(await self._ledger.ask(asked))

    async def _list(
        self,
        account: str | None = None,
        state: str | None = None,
        limit: int = 100,
        after: int | None = None,
    ) -> list[Json]:
        wanted = None if state is None else RequestState(state)
        found = await self._ledger.requests(account, wanted, max(1, min(limit, SHOWN_MAX)), after)
        return [self._json(request) for request in found]

    async def _show(self, request: int) -> Json:
        found, entries = await self._ledger.request(request)
        return self._json(found) | {"entries": [request_entry_json(entry) for entry in entries]}

    async def _approve(
        self,
        request: int,
        by: str,
        note: str,
        starts: Starts = "at_once",
        until_ms: int | None = None,
        cycles: int | None = None,
        endless: bool = False,
    ) -> Json:
        """Without an end named, until when it was asked for; endless: without end even so."""
        if not note.strip():
            raise ValueError("an approval needs a reason: say why")
        if starts not in ("at_once", "next_cycle"):
            raise ValueError(f"it cannot start {starts!r}; write at_once or next_cycle")
        if endless and (until_ms is not None or cycles is not None):
            raise ValueError("an approval without end has none; leave the end out")
        now_ms = self._desk.now_ms()

        def approve(found: Request, account: Account) -> Ruling:
            asked = found.asked
            policy = self._policy(account, now_ms)
            self._check_still(found, account, policy, now_ms)
            end_ms = until_ms
            if asked.plan is not None:
                if until_ms is not None:
                    raise ValueError("a plan holds for whole periods: give cycles, or no end")
                from_ms = plan_window(account, asked.plan.period, now_ms).end_ms
                _, end_ms = validity(account, policy, asked.rule, from_ms, "at_once", None, cycles)
                return Ruling(RequestState.APPROVED, by, now_ms, note, from_ms, end_ms)
            if cycles is None and not endless and end_ms is None:
                end_ms = asked.until_ms
            from_ms, end_ms = validity(account, policy, asked.rule, now_ms, starts, end_ms, cycles)
            return Ruling(RequestState.APPROVED, by, now_ms, note, from_ms, end_ms)

        approved = await self._ledger.rule(request, approve)
        renewed = 0 if self._renew is None else self._renew(approved.asked.account_id)
        log.info(
            "request_approved", request=request, account=approved.asked.account_id, by=by, renewed=renewed
        )
        return self._json(approved)

    def _check_still(self, found: Request, account: Account, policy: Policy | None, now_ms: int) -> None:
        """The policy may have changed since it was asked."""
        asked = found.asked
        if policy is None or policy.name != asked.policy:
            raise ValueError(
                f"account {account.id!r} is no longer on policy {asked.policy!r}; decline the request"
            )
        if asked.plan is None and found.state is RequestState.OPEN:
            rule, _, line = asked.rule.partition("/")
            limit_asked(account, policy, rule, line or None, asked.limit, now_ms)

    async def _decline(self, request: int, by: str, note: str) -> Json:
        if not note.strip():
            raise ValueError("who is declined is told why: give a reason")
        return await self._to(request, RequestState.DECLINED, by, note)

    async def _withdraw(self, request: int, by: str, note: str = "") -> Json:
        return await self._to(request, RequestState.WITHDRAWN, by, note)

    async def _revoke(self, request: int, by: str, note: str) -> Json:
        """A raise ends at once; a minute plan with the period that has begun, which is paid."""
        if not note.strip():
            raise ValueError("what was approved is taken back with a reason: say why")
        now_ms = self._desk.now_ms()

        def revoke(found: Request, account: Account) -> Ruling:
            end_ms = now_ms
            if found.asked.plan is not None and found.from_ms is not None and found.from_ms <= now_ms:
                end_ms = plan_window(account, found.asked.plan.period, now_ms).end_ms
            return Ruling(RequestState.REVOKED, by, now_ms, note, until_ms=end_ms)

        return self._json(await self._ledger.rule(request, revoke))

    async def _answer_plan(self, request: int, accept: bool, by: str, note: str = "") -> Json:
        """The customer's own answer to a minute plan that was proposed."""
        found, _ = await self._ledger.request(request)
        if found.asked.kind is not RequestKind.PLAN:
            raise ValueError(f"request {request} is no plan that was proposed; an operator decides about it")
        words = note.strip() or ("accepted" if accept else "not wanted")
        return await (self._approve(request, by, words) if accept else self._decline(request, by, words))

    async def _to(self, request: int, state: RequestState, by: str, note: str) -> Json:
        now_ms = self._desk.now_ms()
        ruled = await self._ledger.rule(request, lambda _found, _account: Ruling(state, by, now_ms, note))
        return self._json(ruled)

    def _policy(self, account: Account, at_ms: int) -> Policy | None:
        return self._desk.policies.at(account.policy, zone_named(account.zone), at_ms)

    def _json(self, request: Request) -> Json:
        asked = request.asked
        policy = self._desk.policies.version(asked.clause.policy, asked.clause.version)
        return request_json(request, "" if policy is None else unit_of(policy, asked.rule))


def as_now(usage: Usage, account: Account, policy: Policy | None, now_ms: int) -> tuple[Usage, list[int]]:
    """What was used, with the limit as it is now where the window runs, and the requests that raised it.

    The limit that is stored is that of the latest dial: a raise may have begun or ended since.
    """
    meter = usage.meter
    found = None if policy is None else policy.limit_rule(f"allowances.{meter.rule}")
    running = meter.window.start_ms <= now_ms < meter.window.end_ms
    if policy is None or not isinstance(found, Allowance) or found.limit_units is None or not running:
        return usage, []
    if not account.raises:
        return usage, []
    limit = allowance_limit(account, policy, meter.allowance, found.limit_units, now_ms)
    shown: MeterWindow = replace(meter, limit_units=limit.units, raised=limit.raised)
    by = () if limit.raised is None else limit.raised.by
    return replace(usage, meter=shown), [one.request for one in by]

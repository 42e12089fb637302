"""The ledger whose methods are steps: each of the contract's is one transaction, or one reading."""

import copy
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol, Self, TypeVar

from fairdial.ledger import (
    cases,
    daily,
    granting,
    messages,
    nodes,
    notices,
    provisioning,
    reading,
    requesting,
    statements,
    witnessing,
)
from fairdial.ledger.contract import (
    AccountSheet,
    Block,
    Books,
    Case,
    CaseChange,
    CaseEntry,
    CaseState,
    Charge,
    DayUse,
    DecisionRecord,
    Difference,
    Entry,
    Extend,
    Finding,
    Grant,
    Judge,
    LimitsOf,
    LinesMax,
    LoadedCard,
    Node,
    Order,
    OrderKind,
    Past,
    Payment,
    PeriodOf,
    Plan,
    PlanDue,
    PlanMore,
    PublishedPolicy,
    Rule,
    Seen,
    SettledPage,
    Tenure,
    Token,
    Traffic,
)
from fairdial.ledger.database import Database, Of, OfOne
from fairdial.ledger.notice import Channel, Contact, Delivery, DeliveryState, Notice, NoticeRules
from fairdial.policy.account import (
    Account,
    Agreement,
    Consent,
    Credit,
    Dial,
    Kind,
    Line,
    Options,
    OwnNumber,
    Snapshot,
    Standing,
)
from fairdial.policy.decide import Verdict
from fairdial.policy.ladder import Taken
from fairdial.policy.peers import Use
from fairdial.policy.periods import Window
from fairdial.policy.requests import Asked, Request, RequestEntry, RequestState

T = TypeVar("T")


Step = Callable[[Database], T]
"""Work on a database inside a transaction. It may run twice, and must change nothing but the database."""


class Steps(Protocol):
    """Who runs steps: `Writer` on a file, `Pool` on a server, or for a replay `DirectWriter`."""

    traffic: Traffic

    async def do(self, step: Step[T]) -> T: ...
    async def read(self, step: Step[T]) -> T: ...
    async def probe(self) -> None: ...
    async def close(self) -> None: ...


class SteppedLedger:
    """`Ledger` (contract.py) by steps, whoever runs them."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        # Where a flood of calls does not keep a lease from being renewed.
        self._aside = steps
        self._name = secrets.token_hex(8)
        self._tenure: Tenure | None = None

    @property
    def traffic(self) -> Traffic:
        return self._steps.traffic

    async def close(self) -> None:
        await self._steps.close()

    async def probe(self) -> None:
        await self._steps.probe()

    # Those of which there are many at once say what they read, so that they can share their way to a server.

    async def authorise(self, dial: Dial, plan: Plan, judge: Judge) -> Verdict:
        step = OfOne(
            Of.LINE,
            dial.line_id,
            lambda: reading.dialling(dial.line_id, plan, dial.call_id),
            lambda db, *known: granting.authorise(db, dial, plan, judge, *known),
        )
        return await self._by(step)

    async def record(self, dial: Dial, verdict: Verdict) -> None:
        await self._by_switch(lambda db: granting.keep_record(db, dial, verdict))

    async def answered(self, call_id: str, leg: str, at_ms: int) -> Grant:
        def work(db: Database, *known: reading.Followed) -> Grant:
            return granting.answered(db, call_id, leg, at_ms, *known)

        return await self._by(OfOne(Of.CALL, call_id, lambda: reading.follow(call_id), work))

    async def assume_answered(self, call_id: str, at_ms: int) -> None:
        await self._by_switch(lambda db: granting.assume_answered(db, call_id, at_ms))

    async def renew(self, call_id: str, plan: PlanMore, extend: Extend) -> Grant:
        return await self._by_call(call_id, lambda db: granting.renew(db, call_id, plan, extend))

    async def settle(
        self,
        call_id: str,
        used_s: int,
        ended_ms: int,
        *,
        estimated: bool = False,
        answered_ms: int | None = None,
        limits: LimitsOf | None = None,
    ) -> Grant:
        def work(db: Database, *known: reading.Followed) -> Grant:
            how = (used_s, ended_ms, estimated, answered_ms, limits)
            return granting.settle(db, call_id, *how, *known)

        return await self._by(OfOne(Of.CALL, call_id, lambda: reading.follow(call_id), work))

    async def release(self, call_id: str) -> Grant | None:
        return await self._by_call(call_id, lambda db: granting.release(db, call_id))

    async def unsend(self, call_id: str, at_ms: int) -> bool:
        return await self._by_call(call_id, lambda db: messages.unsend(db, call_id, at_ms))

    async def forget_texts(self, before_ms: int) -> int:
        return await self._steps.do(lambda db: messages.forget_texts(db, before_ms))

    async def secret(self, name: str, fresh: bytes) -> bytes:
        # First without writing: a file that can only be read keeps its secret.
        kept = await self._steps.read(lambda db: messages.find_secret(db, name))
        if kept is not None:
            return kept
        return await self._steps.do(lambda db: messages.secret(db, name, fresh))

    async def saw(self, switch: str, proven_ms: int) -> None:
        await self._by_switch(lambda db: witnessing.saw(db, switch, proven_ms))

    async def compared(self, switch: str, until_ms: int, differences: Sequence[Difference]) -> None:
        await self._by_switch(lambda db: witnessing.compared(db, switch, until_ms, differences))

    async def differ(self, difference: Difference) -> None:
        await self._by_switch(lambda db: witnessing.differ(db, difference))

    # Nodes.

    async def _by(self, step: OfOne[T]) -> T:
        return await self._steps.do(nodes.by_one(self._tenure, step))

    async def _by_call(self, call_id: str, step: Step[T]) -> T:
        return await self._steps.do(nodes.by(self._tenure, Of.CALL, call_id, step))

    async def _by_switch(self, step: Step[T]) -> T:
        return await self._steps.do(nodes.by_switch(self._tenure, step))

    async def take_switch(
        self, switch: str, owner: str, place: str, lease_ms: int, wall_ms: int, *, again: bool = False
    ) -> Tenure | None:
        taken = await self._aside.do(
            lambda db: nodes.take_switch(db, switch, owner, place, lease_ms, wall_ms, again)
        )
        self._tenure = taken or self._tenure
        return taken

    async def renew_switch(self, lease_ms: int, wall_ms: int) -> None:
        tenure = self._tenure
        if tenure is not None:
            await self._aside.do(lambda db: nodes.renew_switch(db, tenure, lease_ms, wall_ms))

    async def take_over(self, switch: str, by: str, lease_ms: int) -> Tenure | None:
        return await self._aside.do(lambda db: nodes.take_over(db, switch, by, lease_ms))

    async def hold_over(self, tenure: Tenure, lease_ms: int) -> None:
        await self._aside.do(lambda db: nodes.hold_over(db, tenure, lease_ms))

    def on_behalf(self, tenure: Tenure) -> Self:
        other = copy.copy(self)
        other._tenure = tenure
        return other

    async def nodes(self) -> tuple[Node, ...]:
        return await self._aside.read(nodes.nodes)

    async def forget_switch(self, switch: str) -> None:
        await self._aside.do(lambda db: nodes.forget_switch(db, switch))

    async def leads(self, task: str) -> bool:
        return await self._steps.do(lambda db: nodes.leads(db, task, self._name))

    async def order(self, what: OrderKind, call_id: str | None = None) -> int:
        return await self._aside.do(lambda db: nodes.order(db, what, call_id))

    async def orders(self) -> tuple[Order, ...]:
        return await self._aside.read(nodes.orders)

    async def carried_out(self, order_id: int, outcome: str) -> None:
        await self._aside.do(lambda db: nodes.carried_out(db, order_id, outcome))

    async def forget_orders(self) -> None:
        await self._aside.do(nodes.forget_orders)

    # Reading goes past the writer: a long listing must not stand in a dial's way.

    async def live_grants(self) -> tuple[Grant, ...]:
        return await self._steps.read(reading.live_grants)

    async def live_grant_count(self) -> int:
        return await self._steps.read(reading.live_grant_count)

    async def seen(self, switch: str) -> Seen | None:
        return await self._steps.read(lambda db: witnessing.seen(db, switch))

    async def settled_between(self, from_ms: int, until_ms: int, limit: int) -> tuple[Grant, ...]:
        return await self._steps.read(lambda db: witnessing.settled_between(db, from_ms, until_ms, limit))

    async def differences(self, limit: int = 100) -> tuple[Difference, ...]:
        return await self._steps.read(lambda db: witnessing.differences(db, limit))

    async def barred_grants(self) -> tuple[str, ...]:
        return await self._steps.read(reading.barred_grants)

    async def grant(self, call_id: str) -> Grant | None:
        return await self._steps.read(lambda db: reading.find_grant(db, call_id))

    async def sip_call_id(self, call_id: str) -> str:
        return await self._steps.read(lambda db: reading.sip_call_id(db, call_id))

    async def decisions(
        self,
        account_id: str | None = None,
        limit: int = 100,
        after: str | None = None,
        *,
        line_id: str | None = None,
        number: str | None = None,
        call: str | None = None,
        refused: bool = False,
    ) -> tuple[DecisionRecord, ...]:
        sought = reading.Sought(account_id, line_id, number, call, refused)
        return await self._steps.read(lambda db: reading.latest_decisions(db, sought, limit, after))

    async def decision(self, call_id: str) -> DecisionRecord:
        return await self._steps.read(lambda db: reading.need_decision(db, call_id))

    async def days(self, account_id: str, windows: Sequence[Window]) -> tuple[DayUse, ...]:
        return await self._steps.read(lambda db: daily.days(db, account_id, windows))

    async def messages(
        self, account_id: str | None = None, limit: int = 100, after: str | None = None
    ) -> tuple[DecisionRecord, ...]:
        return await self._steps.read(lambda db: reading.latest_messages(db, account_id, limit, after))

    async def snapshot(self, line_id: str, plan: Plan) -> Snapshot:
        return await self._steps.read(lambda db: reading.snapshot(db, line_id, plan) or Snapshot(None, None))

    async def add_account(self, account: Account) -> None:
        await self._steps.do(lambda db: provisioning.add_account(db, account))

    async def add_line(self, line: Line, lines_max: LinesMax | None = None) -> None:
        await self._steps.do(lambda db: provisioning.add_line(db, line, lines_max))

    async def add_number(self, number: OwnNumber) -> None:
        await self._steps.do(lambda db: provisioning.add_number(db, number))

    async def remove_number(self, number: str) -> None:
        await self._steps.do(lambda db: provisioning.remove_number(db, number))

    async def agree(self, agreement: Agreement) -> None:
        await self._steps.do(lambda db: provisioning.agree(db, agreement))

    async def withdraw(self, account_id: str, consent: Consent, at_ms: int, by: str = "") -> None:
        await self._steps.do(lambda db: provisioning.withdraw(db, account_id, consent, at_ms, by))

    async def agreements(self, account_id: str) -> tuple[Agreement, ...]:
        return await self._steps.read(lambda db: reading.all_agreements(db, account_id))

    async def ask(self, asked: Asked) -> Request:
        return await self._steps.do(lambda db: requesting.ask(db, asked))

    async def rule(self, request_id: int, rule: Rule) -> Request:
        return await self._steps.do(lambda db: requesting.rule(db, request_id, rule))

    async def requests(
        self,
        account_id: str | None = None,
        state: RequestState | None = None,
        limit: int = 100,
        after_id: int | None = None,
    ) -> tuple[Request, ...]:
        return await self._steps.read(lambda db: requesting.latest(db, account_id, state, limit, after_id))

    async def request(self, request_id: int) -> tuple[Request, tuple[RequestEntry, ...]]:
        return await self._steps.read(lambda db: requesting.with_entries(db, request_id))

    async def end_requests(self, now_ms: int, limit: int = 100) -> tuple[Request, ...]:
        # Looked for past the writer: nearly always there is none, and dials are not to wait for that.
        ids = await self._steps.read(lambda db: requesting.over(db, now_ms, limit))
        return await self._steps.do(lambda db: requesting.end(db, ids, now_ms)) if ids else ()

    async def plans_due(
        self, now_ms: int, due: PlanDue, windows_max: int, limit: int = 100
    ) -> tuple[int, tuple[Request, ...]]:
        return await self._steps.do(lambda db: requesting.plans_due(db, now_ms, due, windows_max, limit))

    async def charge_plans(self, now_ms: int, limit: int = 100) -> tuple[int, tuple[Charge, ...]]:
        return await self._steps.do(lambda db: requesting.charge_plans(db, now_ms, limit))

    async def set_standing(
        self, account_id: str, standing: Standing, at_ms: int, *, fraud: bool = False, harder: bool = False
    ) -> Account:
        return await self._steps.do(
            lambda db: provisioning.set_standing(db, account_id, standing, at_ms, fraud, harder=harder)
        )

    async def restrict(
        self, account_id: str, services: Collection[Kind], at_ms: int, *, lift: bool = False
    ) -> Account:
        return await self._steps.do(lambda db: provisioning.restrict(db, account_id, services, at_ms, lift))

    async def set_line_standing(self, line_id: str, standing: Standing, *, harder: bool = False) -> Line:
        return await self._steps.do(
            lambda db: provisioning.set_line_standing(db, line_id, standing, harder=harder)
        )

    async def provision(
        self,
        entries: Sequence[Entry],
        at_ms: int,
        lines_max: LinesMax | None = None,
        *,
        keep: bool = True,
    ) -> tuple[int, int]:
        return await self._steps.do(lambda db: provisioning.provision(db, entries, at_ms, lines_max, keep))

    async def publish(self, policy: PublishedPolicy, before: str | None = None) -> None:
        await self._steps.do(lambda db: provisioning.publish(db, policy, before))

    async def published(self) -> tuple[PublishedPolicy, ...]:
        return await self._steps.read(reading.published)

    async def subscribe(self, account_id: str, policy: str, options: Options) -> Account:
        return await self._steps.do(lambda db: provisioning.subscribe(db, account_id, policy, options))

    async def add_credit(
        self, account_id: str, currency: str, amount_micros: int, reference: str, at_ms: int, note: str = ""
    ) -> Credit:
        payment = Payment(account_id, currency, amount_micros, reference, note)
        return await self._steps.do(lambda db: provisioning.credit_after(db, payment, at_ms))

    async def report(self, finding: Finding) -> CaseChange | None:
        return await self._steps.do(lambda db: cases.report(db, finding))

    async def follow_up(self, case_id: int, taken: Taken | None, at_ms: int) -> CaseChange:
        return await self._steps.do(lambda db: cases.follow_up(db, case_id, taken, at_ms))

    async def close_case(
        self, case_id: int, at_ms: int, by: str, note: str, *, dismissed: bool, undo: bool
    ) -> Case:
        return await self._steps.do(lambda db: cases.close(db, case_id, at_ms, by, note, dismissed, undo))

    async def set_deadline(self, case_id: int, deadline_ms: int, at_ms: int, by: str) -> Case:
        return await self._steps.do(lambda db: cases.set_deadline(db, case_id, deadline_ms, at_ms, by))

    async def complain(self, account_id: str, at_ms: int, by: str, note: str, since_ms: int) -> int:
        return await self._steps.do(lambda db: cases.complain(db, account_id, at_ms, by, note, since_ms))

    async def cases(
        self,
        account_id: str | None = None,
        state: CaseState | None = None,
        limit: int = 100,
        after: int | None = None,
    ) -> tuple[Case, ...]:
        return await self._steps.read(lambda db: cases.latest(db, account_id, state, limit, after))

    async def case(self, case_id: int) -> tuple[Case, tuple[CaseEntry, ...]]:
        return await self._steps.read(lambda db: cases.with_entries(db, case_id))

    async def overdue_cases(self, now_ms: int, limit: int = 100) -> tuple[Case, ...]:
        return await self._steps.read(lambda db: cases.overdue(db, now_ms, limit))

    async def judged(self, since_ms: int) -> tuple[tuple[str, str, int], ...]:
        return await self._steps.read(lambda db: cases.judged(db, since_ms))

    async def dialled_since(self, count: int) -> int:
        return await self._steps.read(lambda db: cases.dialled_since(db, count))

    async def past(self, since_ms: int, after: tuple[int, str] | None, limit: int) -> Past:
        return await self._steps.read(lambda db: cases.past(db, since_ms, after, limit))

    async def happened(self, after_ms: int, until_ms: int) -> Past:
        return await self._steps.read(lambda db: cases.happened(db, after_ms, until_ms))

    async def what_became(self, call_ids: Sequence[str]) -> Past:
        return await self._steps.read(lambda db: cases.what_became(db, call_ids))

    async def uses(
        self, policy: str, allowance: str, now_ms: int, after: str = "", limit: int = 2_000
    ) -> tuple[Use, ...]:
        return await self._steps.read(lambda db: cases.uses(db, policy, allowance, now_ms, after, limit))

    async def block(self, block: Block) -> None:
        await self._steps.do(lambda db: cases.block(db, block))

    async def unblock(self, source: str) -> None:
        await self._steps.do(lambda db: cases.unblock(db, source))

    async def blocks(self, now_ms: int) -> tuple[Block, ...]:
        return await self._steps.read(lambda db: cases.blocks(db, now_ms))

    async def add_token(self, token: Token) -> None:
        await self._steps.do(lambda db: provisioning.add_token(db, token))

    async def remove_token(self, name: str) -> None:
        await self._steps.do(lambda db: provisioning.remove_token(db, name))

    async def token(self, digest: str) -> Token | None:
        return await self._steps.read(
            lambda db: next(iter(reading.tokens_where(db, "digest = ?", digest)), None)
        )

    async def tokens(self) -> tuple[Token, ...]:
        return await self._steps.read(lambda db: reading.tokens_where(db, "TRUE"))

    async def load_card(self, card: LoadedCard, at_ms: int) -> None:
        await self._steps.do(lambda db: provisioning.load_card(db, card, at_ms))

    async def cards(self) -> tuple[LoadedCard, ...]:
        return await self._steps.read(
            lambda db: tuple(
                LoadedCard(*row) for row in db.execute("SELECT name, currency, text FROM cards ORDER BY name")
            )
        )

    async def accounts(
        self, after: str = "", limit: int | None = None, starts: str = ""
    ) -> tuple[Account, ...]:
        return await self._steps.read(lambda db: reading.accounts_by_id(db, after, limit, starts))

    async def account(self, account_id: str) -> Account:
        return await self._steps.read(lambda db: reading.need_account(db, account_id))

    async def lines(
        self, account_id: str | None = None, after: str = "", limit: int | None = None
    ) -> tuple[Line, ...]:
        return await self._steps.read(lambda db: reading.lines_of(db, account_id, after, limit))

    async def line(self, line_id: str) -> Line:
        return await self._steps.read(lambda db: reading.need_line(db, line_id))

    async def numbers(
        self, account_id: str | None = None, after: str = "", limit: int | None = None
    ) -> tuple[OwnNumber, ...]:
        return await self._steps.read(lambda db: reading.numbers_of(db, account_id, after, limit))

    async def number(self, number: str) -> OwnNumber:
        return await self._steps.read(lambda db: reading.need_number(db, number))

    async def sheet(self, account_id: str) -> AccountSheet:
        return await self._steps.read(lambda db: reading.sheet_of(db, account_id))

    async def books(self, account_id: str, period_of: PeriodOf) -> Books:
        return await self._steps.read(lambda db: statements.books(db, account_id, period_of))

    async def settled_calls(
        self, account_id: str, period: Window, after: tuple[int, str] | None, limit: int
    ) -> SettledPage:
        return await self._steps.read(
            lambda db: statements.settled_calls(db, account_id, period, after, limit)
        )

    # Notices.

    async def set_notice_rules(self, rules: NoticeRules) -> None:
        await self._steps.do(lambda db: notices.set_rules(db, rules))

    async def set_contact(self, contact: Contact) -> None:
        await self._steps.do(lambda db: notices.set_contact(db, contact))

    async def addressee(self, account_id: str) -> tuple[Account, Contact]:
        return await self._steps.read(lambda db: notices.addressee(db, account_id))

    async def announce(self, policy: str, version: str, before: str, at_ms: int) -> None:
        await self._steps.do(lambda db: notices.announce(db, policy, version, before, at_ms))

    async def announce_next(self, limit: int) -> int:
        return await self._steps.do(lambda db: notices.announce_next(db, limit))

    async def due_notices(self, channel: Channel, now_ms: int, limit: int) -> tuple[Delivery, ...]:
        return await self._steps.read(lambda db: notices.due(db, channel, now_ms, limit))

    async def delivered(self, notice_id: int, channel: Channel, at_ms: int) -> None:
        await self._steps.do(lambda db: notices.delivered(db, notice_id, channel, at_ms))

    async def not_delivered(
        self, notice_id: int, channel: Channel, at_ms: int, said: str, next_ms: int | None
    ) -> None:
        await self._steps.do(lambda db: notices.not_delivered(db, notice_id, channel, at_ms, said, next_ms))

    async def retry_notice(self, notice_id: int, at_ms: int) -> tuple[Delivery, ...]:
        return await self._steps.do(lambda db: notices.retry(db, notice_id, at_ms))

    async def notices(
        self,
        account_id: str | None = None,
        state: DeliveryState | None = None,
        after_id: int | None = None,
        limit: int = 100,
    ) -> tuple[tuple[Notice, tuple[Delivery, ...]], ...]:
        return await self._steps.read(lambda db: notices.latest(db, account_id, state, after_id, limit))

    async def notice(self, notice_id: int) -> tuple[Notice, tuple[Delivery, ...]]:
        return await self._steps.read(lambda db: notices.one(db, notice_id))

    async def untold(self) -> Mapping[tuple[Channel, DeliveryState], int]:
        return await self._steps.read(notices.counts)

"""What every store of the ledger must do; one suite of tests runs against each.

Each method is one transaction. A step that raises has changed nothing. Steps are repeatable: the
same call id with the same input gives the first answer again, and a grant is settled exactly once.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Protocol

import msgspec
from msgspec.structs import astuple

from fairdial.ledger.notice import Channel, Contact, Delivery, DeliveryState, Notice, NoticeRules
from fairdial.policy.account import (
    Account,
    Agreement,
    Consent,
    Credit,
    Dial,
    Kind,
    Line,
    MeterWindow,
    Needs,
    Options,
    OwnNumber,
    Snapshot,
    Standing,
)
from fairdial.policy.decide import Verdict
from fairdial.policy.document import Rung
from fairdial.policy.history import Event
from fairdial.policy.ladder import Taken
from fairdial.policy.peers import Use
from fairdial.policy.periods import Window
from fairdial.policy.requests import Asked, Request, RequestEntry, RequestState, Ruling
from fairdial.policy.sizing import Short, Sized
from fairdial.policy.terms import Clause, Mode, Terms
from fairdial.tallies import Spread, Tally

Plan = Callable[[Line, Account], Needs]
"""What the decision about a dial of that line wants to know."""

Judge = Callable[[Snapshot], Verdict]
"""Reads the number and decides; pure, run inside the store's transaction."""

PlanMore = Callable[["Grant", Account], tuple[MeterWindow, ...]]
"""The empty meters in whose windows the rest of a live call can fall."""

Extend = Callable[["Grant", Snapshot], Sized | Short | None]
"""How much more a live grant gets, given its payer (no line is looked up); None: it has all that it can ever have."""

PeriodOf = Callable[[Account], Window]
"""The period that is asked about: it can depend on the account's zone and billing cycle."""
LimitsOf = Callable[["Grant", Account, str, Window], tuple[tuple[int, int], ...]]
"""The limit of a meter (by its name and window) as it changed while a call was up: since when (UTC ms), and to what.
() stands for what is stored.
"""

Rule = Callable[[Request, Account], Ruling]
"""What becomes of a request of that account. Raises ValueError where it cannot."""

PlanDue = Callable[[Account, MeterWindow, Sequence[MeterWindow], int], Asked | None]
"""The minute plan to which use past an allowance leads (`requests.plan_due`): the account, the window that is over,
those before it, and up to when windows led to a plan already. None: to none.
"""

LinesMax = Callable[[Account], int | None]
"""The most lines that an account may hold now; None: any number (V3)."""


_OUTCOMES = (("ok",), ("failed",))


@dataclass(slots=True)
class Traffic:
    """What a store had to do since it was opened. Outcomes are "ok" and "failed".

    commits: transactions that write, with how long they took, by outcome; steps, reads: by outcome, many steps being
    one commit, and one that is refused for what it asks no failure; steps_waiting, reads_waiting: now, those under way
    among them.
    """

    commits: Spread = field(default_factory=lambda: Spread(known=_OUTCOMES))
    steps: Tally = field(default_factory=lambda: Tally(_OUTCOMES))
    reads: Tally = field(default_factory=lambda: Tally(_OUTCOMES))
    steps_waiting: int = 0
    reads_waiting: int = 0


class LedgerError(Exception):
    """Base of what a store raises; the docstring of each is its meaning."""


class LedgerUnavailable(LedgerError):
    """The store cannot be written now (locked, full, closed, overloaded). Nothing was changed.

    found: what is wrong, and where. cure: what an operator can do, "" where time alone mends it.
    """

    def __init__(self, found: str, cure: str = "") -> None:
        super().__init__(f"{found}; {cure}" if cure else found)
        self.found = found
        self.cure = cure


class LedgerDamaged(LedgerUnavailable):
    """The file holds what no ledger writes. Nothing is written into it any more; a backup takes its place."""


class LedgerSlow(LedgerUnavailable):
    """The store did not confirm the step in time. It may have been done: repeat it to know."""


class LedgerBusy(LedgerUnavailable):
    """More steps wait than the bound allows. Nothing was changed."""


class Fenced(LedgerUnavailable):
    """Another has looked after the switch since: nothing was changed, and by this epoch nothing will be."""

    def __init__(self) -> None:
        super().__init__(
            "another node has looked after this switch's calls since this one's lease",
            "it takes them back by itself; where two FairDials serve one switch, stop one (`fairdial nodes`)",
        )


class IdempotencyConflict(LedgerError):
    """The call id was used before, with another dial, or its call is over."""


class ConstraintViolated(LedgerError):
    """The step would have stored what must never be, such as used + reserved above a limit."""


class NotFound(LedgerError):
    """There is no such account, line or grant."""


class NotOpen(NotFound):
    """The case was judged already."""


class AlreadyExists(LedgerError):
    """An account or line of that id exists with other contents."""


class TooMany(LedgerError):
    """The account holds as many as it may."""


class NotNow(LedgerError):
    """It is in a state in which that cannot be done."""


class BatchRefused(LedgerError):
    """Entries of a batch cannot be taken, so none was. The text has one line for each: where, what, cure."""

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(faults))


class GrantState(StrEnum):
    """Life of a grant in the ledger. RINGING and TALKING are live; SETTLED is for ever."""

    RINGING = "ringing"
    TALKING = "talking"
    SETTLED = "settled"


class Grant(msgspec.Struct, frozen=True, eq=False):
    """Seconds reserved for a dial. granted_s None: no end is held. Instants are UTC milliseconds.

    `leg` is the channel that answered. `used_s` is None until settled; `estimated` marks a settlement
    whose end nobody saw. room: the session of a conference, which is the call that opened it.
    bound_by: the rule at which it ends, by its key in the policy; "" without an end. assumed_ms: since when it counts
    as answered though nobody saw it answered. charged_micros: what it cost, told once, by the step that settled it;
    repeated: by a step that found it settled, which makes it no other grant. A struct and no dataclass, because steps
    make one or two each, which took a tenth of their time.
    """

    call_id: str
    account_id: str
    line_id: str
    kind: Kind
    dialled: str
    e164: str | None
    channel: str
    state: GrantState
    granted_s: int | None
    longest_s: int | None
    ring_s: int
    authorised_ms: int
    answered_ms: int | None = None
    leg: str | None = None
    ended_ms: int | None = None
    used_s: int | None = None
    estimated: bool = False
    terms: tuple[Terms, ...] = ()
    credit_hold_micros: int = 0
    policy: str = ""
    policy_version: str = ""
    room: str | None = None
    bound_by: str = ""
    assumed_ms: int | None = None
    charged_micros: int = 0
    repeated: bool = False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Grant) and astuple(self)[:-1] == astuple(other)[:-1]

    __hash__ = None  # type: ignore[assignment]

    @property
    def live(self) -> bool:
        """Whether it still holds seconds."""
        return self.state is not GrantState.SETTLED

    @property
    def cut(self) -> bool:
        """Whether the call ended because it had no more time, by its rule."""
        return bool(self.bound_by and self.used_s and self.used_s == self.granted_s and not self.estimated)

    @property
    def credit_terms(self) -> Terms | None:
        """What it costs where prepaid credit pays for it."""
        return next((terms for terms in self.terms if terms.mode is Mode.CREDIT), None)


@dataclass(frozen=True, slots=True)
class DecisionRecord:
    """A decision as it stands in the ledger. decision: allow, refuse, or undecided (the failure rule applied).

    flag: what was noted of a call that was let through, such as "unencrypted" (A7); "" for nothing. used_s: None
    where it was not allowed, or is not over. cut_by: the rule that ended it, None where people did. verified: what the
    network said of the caller's number, "passed" or "failed"; "" for nothing. medium: of a message, "" where none is.
    caller: the number that the call came with; shown: the one that it showed instead, None for none. sip_call_id: the
    SIP Call-ID of its first leg, "" where it is unknown.
    """

    call_id: str
    at_ms: int
    kind: Kind
    line_id: str
    account_id: str | None
    dialled: str
    e164: str | None
    number_class: str
    country: str | None
    decision: str
    reason: str
    clause_policy: str
    clause_version: str
    clause_id: str
    granted_s: int | None
    limit_s: int | None
    flag: str = ""
    used_s: int | None = None
    cut_by: str | None = None
    verified: str = ""
    medium: str = ""
    caller: str = ""
    shown: str | None = None
    sip_call_id: str = ""


@dataclass(frozen=True, slots=True)
class DayUse:
    """What an account did in a window, such as a day. kinds: calls or messages of each kind that began in it, and
    seconds of talk in it; charged: micros by currency, for calls and messages that ended in it; refused: dials.
    """

    window: Window
    kinds: Mapping[Kind, tuple[int, int]]
    charged: Mapping[str, int]
    refused: int


@dataclass(frozen=True, slots=True)
class Seen:
    """Of a switch, in UTC milliseconds. proven_ms: the last moment at which it was heard with all live calls
    followed. compared_ms: calls settled up to then were compared with its own records.
    """

    proven_ms: int
    compared_ms: int


@dataclass(frozen=True, slots=True)
class Tenure:
    """Who looks after a switch, as counted in the ledger: a step by an epoch that is over is refused."""

    switch: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Node:
    """A FairDial and its switch. Instants are UTC milliseconds by the store's clock, `now_ms` too.

    owner: the FairDial that serves it, another at each start; place: where that runs. skew_ms: by how much its clock
    was ahead. taken_by: the switch of the node that looks after its calls, "" for none, since lapsed_ms.
    """

    switch: str
    epoch: int
    owner: str
    place: str
    until_ms: int
    skew_ms: int
    taken_by: str
    lapsed_ms: int | None
    now_ms: int

    @property
    def lapsed(self) -> bool:
        """Whether the lease, whoever holds it, has run out."""
        return self.until_ms < self.now_ms


class OrderKind(StrEnum):
    """What a node asks of others. LOOK: accounts or lines were barred; HANGUP: that call is to end."""

    LOOK = "look"
    HANGUP = "hangup"


@dataclass(frozen=True, slots=True)
class Order:
    """outcome: of a hang-up, what the call's own node made of it; None: nothing yet."""

    id: int
    what: OrderKind
    call_id: str | None
    outcome: str | None


class DifferenceKind(StrEnum):
    """How switch and ledger can disagree."""

    ORPHAN_CHANNEL = "orphan_channel"
    """A call is up that the ledger holds no grant for."""
    ORPHAN_GRANT = "orphan_grant"
    """A grant was live whose call is gone."""
    USAGE = "usage"
    """The switch recorded another length than was settled."""
    UNMETERED = "unmetered"
    """Seconds that the failure rule let through and that no allowance could take in afterwards."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Switch and ledger disagree about a call. Seconds of talk; None where that side knows of none.

    done: what became of it.
    """

    call_id: str
    kind: DifferenceKind
    at_ms: int
    ours_s: int | None
    theirs_s: int | None
    done: str


@dataclass(frozen=True, slots=True)
class Charge:
    """What a settled call or a message cost. rate: where the price comes from.

    charged_units: seconds of talk, or messages. call_id None: of no call, but of a period of a minute plan, which is
    that request's (R4); at_ms is the period's beginning then.
    """

    call_id: str | None
    mode: Mode
    at_ms: int
    charged_units: int
    amount_micros: int
    currency: str
    rate: str
    clause: Clause
    request: int | None = None


class CaseState(StrEnum):
    """OPEN is watched; CLOSED was true, and is done with; DISMISSED was none."""

    OPEN = "open"
    CLOSED = "closed"
    DISMISSED = "dismissed"


FLAG = "flag"
"""Stands for the detector of a case where a person found it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Suspected abuse, to be written down: who, by which rule, the figures, the latest calls, what is to follow.

    first: the step that it leads to by itself; rungs: the ladder of the account's policy. shadow: nothing is done.
    cumulative: `value` is that of a period as a whole, what people judged before included.
    """

    account_id: str
    detector: str
    clause: Clause
    at_ms: int
    value: float
    threshold: float
    words: str
    calls: tuple[str, ...] = ()
    services: frozenset[Kind] = frozenset()
    first: Taken | None = None
    rungs: tuple[Rung, ...] = ()
    shadow: bool = False
    cumulative: bool = False
    by: str = "fairdial"


@dataclass(frozen=True, slots=True)
class Case:
    """A case as it stands. hits: how often it was found; step: the hardest that was reached, "" for none;
    deadline_ms: until when the customer may answer it. Instants are UTC milliseconds.
    """

    id: int
    account_id: str
    detector: str
    clause: Clause
    state: CaseState
    shadow: bool
    opened_ms: int
    seen_ms: int
    closed_ms: int | None
    value: float
    threshold: float
    hits: int
    words: str
    calls: tuple[str, ...]
    services: frozenset[Kind]
    step: str
    deadline_ms: int | None


@dataclass(frozen=True, slots=True)
class CaseEntry:
    """Something that was done about a case: a step of the ladder, or what people did."""

    at_ms: int
    what: str
    by: str
    enforced: bool
    rule: str
    clause_id: str
    services: frozenset[Kind]
    note: str


@dataclass(frozen=True, slots=True)
class CaseChange:
    """What became of a finding, or of a deadline. taken: the steps; those in force may bar calls in progress."""

    case: Case
    new: bool
    taken: tuple[Taken, ...] = ()


@dataclass(frozen=True, slots=True)
class Past:
    """What happened to calls: a dial and all that became of it, each, in the order of the dials. accounts: whose they
    are, by id; next_at: after which dial the next piece begins; None: this was the last.
    """

    dials: tuple[tuple[Event, ...], ...]
    accounts: Mapping[str, Account]
    next_at: tuple[int, str] | None


@dataclass(frozen=True, slots=True)
class Block:
    """A source of calls that is turned away for a while; instants are UTC milliseconds."""

    source: str
    since_ms: int
    until_ms: int
    why: str


@dataclass(frozen=True, slots=True)
class LoadedCard:
    """A rate card as it was loaded."""

    name: str
    currency: str
    text: str


@dataclass(frozen=True, slots=True)
class PublishedPolicy:
    """A version of a policy as it was published; the text is the operator's file and never changes."""

    name: str
    version: str
    published_ms: int
    text: str


class Role(StrEnum):
    """What the holder of a token may do: look, act on calls, change everything."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


TOKEN_ACCOUNTS_MAX: Final = 100
"""Accounts to which one token may be bound."""


@dataclass(frozen=True, slots=True)
class Token:
    """Who may use the HTTP API. digest: of the secret, which is kept nowhere; created_ms: UTC; accounts: those alone
    that its holder sees and acts for; empty: it is bound to none.
    """

    name: str
    digest: str
    role: Role
    created_ms: int
    accounts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.accounts)) != len(self.accounts) or len(self.accounts) > TOKEN_ACCOUNTS_MAX:
            raise ValueError(f"a token is bound to at most {TOKEN_ACCOUNTS_MAX} accounts, each named once")
        if not self.name.isprintable() or not 1 <= len(self.name.strip()) <= 80:
            raise ValueError(f"token name {self.name[:80]!r} is none; give 1 to 80 printable characters")


@dataclass(frozen=True, slots=True)
class Payment:
    """Prepaid credit to add, once for each reference of an account."""

    account_id: str
    currency: str
    amount_micros: int
    reference: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Subscribing:
    """An account to be put on a policy."""

    account_id: str
    policy: str
    options: Options


Provision = Account | Line | OwnNumber | Subscribing | Payment | Agreement


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing to provision, and where it was written: "customers.csv, line 7"."""

    where: str
    what: Provision


@dataclass(frozen=True, slots=True)
class Usage:
    """What one account used in one window of one allowance, and what live calls hold."""

    meter: MeterWindow
    calls: int = 0


@dataclass(frozen=True, slots=True)
class AccountSheet:
    """An account with its lines and meters, as operators read it."""

    account: Account
    lines: tuple[Line, ...] = field(default_factory=tuple)
    usage: tuple[Usage, ...] = field(default_factory=tuple)
    credit: Credit | None = None
    charges: tuple[Charge, ...] = field(default_factory=tuple)
    numbers: tuple[OwnNumber, ...] = field(default_factory=tuple)
    agreements: tuple[Agreement, ...] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True)
class Part:
    """What a settled call counted on one allowance in one window, in the units of MeterWindow.

    weight: units for each of its seconds. room: seconds that its stay added to the clock of a conference. past: which
    of its seconds lie past the limit, [from, until) from its answer on; None: its last ones, as many as over_units.
    """

    allowance: str
    window: Window
    used_units: int
    over_units: int
    weight: int = 1
    room: bool = False
    past: tuple[tuple[int, int], ...] | None = None

    @property
    def rule(self) -> str:
        """Name of the rule in the policy."""
        return self.allowance.partition("/")[0]


@dataclass(frozen=True, slots=True)
class SettledCall:
    """A call or message that is over, with all that it used and cost. clause: behind the decision that let it through.

    parts: by allowance, then by window. paid_micros: what was taken from prepaid credit for it.
    """

    grant: Grant
    reason: str
    clause: Clause
    parts: tuple[Part, ...]
    charges: tuple[Charge, ...]
    paid_micros: int


@dataclass(frozen=True, slots=True)
class SettledPage:
    """Settled calls in the order of their dials. after: from where to read on; None: there are no more."""

    calls: tuple[SettledCall, ...]
    after: tuple[int, str] | None


@dataclass(frozen=True, slots=True)
class CreditMoves:
    """Changes of prepaid credit in a period, of which what was taken for calls and forfeited is below zero.

    opening_micros: by the changes before it. later_micros: of those after it. balance_micros: as it is now.
    """

    currency: str
    opening_micros: int
    added_micros: int
    calls_micros: int
    forfeited_micros: int
    later_micros: int
    balance_micros: int

    @property
    def closing_micros(self) -> int:
        """At the end of the period."""
        return self.opening_micros + self.added_micros + self.calls_micros + self.forfeited_micros


@dataclass(frozen=True, slots=True)
class Books:
    """What the ledger says of a period as a whole. meters: of each window that it touches.

    charges: number, units and micros of those whose `at_ms` is in it, by mode and currency. plans: what minute plans
    cost whose period begins in it, the earliest first. live_calls: now.
    """

    account: Account
    period: Window
    meters: tuple[MeterWindow, ...]
    charges: Mapping[tuple[Mode, str], tuple[int, int, int]]
    credit: CreditMoves | None
    live_calls: int
    plans: tuple[Charge, ...] = ()


class Ledger(Protocol):
    """A store."""

    @property
    def traffic(self) -> Traffic:
        """What it had to do since it was opened, as it stands now."""
        ...

    async def authorise(self, dial: Dial, plan: Plan, judge: Judge) -> Verdict:
        """Read the snapshot, decide, write the decision and, if an account's dial is allowed, the grant.
        A message has no end to wait for: it is counted and charged at once. Who joins a conference is in it,
        and metered, from then on, unless it is rung first: then it has its seat, and is in it once it answers.

        Repeated with the same dial while its grant lives, or ever for a message: the first verdict again, marked as
        repeated. Raises IdempotencyConflict, LedgerUnavailable. `plan` and `judge` may run in another thread, and
        twice.
        """
        ...

    async def record(self, dial: Dial, verdict: Verdict) -> None:
        """Keep a decision that was made without the store (emergency). Repeating changes nothing."""
        ...

    async def answered(self, call_id: str, leg: str, at_ms: int) -> Grant:
        """Note the first answer of a grant; a later one changes only the leg. Raises NotFound."""
        ...

    async def assume_answered(self, call_id: str, at_ms: int) -> None:
        """Note that a grant that rings counts as answered since `at_ms`: its call was seen up. The first note stays."""
        ...

    async def renew(self, call_id: str, plan: PlanMore, extend: Extend) -> Grant:
        """Give a live grant more seconds, as `extend` says. Raises NotFound."""
        ...

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
        """Turn a grant into usage, split over its windows, and release the rest. Once: repeating it,
        with any amount, returns the grant as first settled. At most the granted seconds are used, and in
        no window more than is held there: what falls elsewhere counts where it was held. Raises NotFound.

        answered_ms: of an answer that nobody had noted. Noted by itself before, it would be taken for one that was
        seen, should the settlement fail. limits: of allowances past which calls are charged, so that each second counts
        by the limit that held in it; None: as stored.
        """
        ...

    async def release(self, call_id: str) -> Grant | None:
        """Give back a grant whose call never came to be. A settled, answered or unknown one stays as it is.

        The grant that was given back; None: there was none to.
        """
        ...

    async def unsend(self, call_id: str, at_ms: int) -> bool:
        """A message that was decided at `at_ms` was not sent after all: as if it had never been asked about.

        Whether there was one; a message that was decided at another moment stays as it is, whatever its id.
        """
        ...

    async def messages(
        self, account_id: str | None = None, limit: int = 100, after: str | None = None
    ) -> tuple[DecisionRecord, ...]:
        """The latest messages whose medium is known, newest first; `after`: as for decisions. Raises NotFound."""
        ...

    async def forget_texts(self, before_ms: int) -> int:
        """Forget the fingerprints of texts of messages before that; of how many, some thousands at a time."""
        ...

    async def secret(self, name: str, fresh: bytes) -> bytes:
        """The key of that name, made once for this ledger: `fresh` where there was none."""
        ...

    async def live_grants(self) -> tuple[Grant, ...]:
        """All grants that are not settled, oldest first."""
        ...

    async def live_grant_count(self) -> int:
        """How many grants are not settled."""
        ...

    async def barred_grants(self) -> tuple[str, ...]:
        """Call ids of live grants whose account or line is no longer active, or may not use that service: their calls
        are to end (K12, S4).
        """
        ...

    async def take_switch(
        self, switch: str, owner: str, place: str, lease_ms: int, wall_ms: int, *, again: bool = False
    ) -> Tenure | None:
        """Look after a switch from now on, by a new epoch; steps of this ledger about calls are by it. wall_ms: what
        the node's own clock says. again: only where the same owner serves it still; None: another FairDial does now.
        """
        ...

    async def renew_switch(self, lease_ms: int, wall_ms: int) -> None:
        """The lease holds so much longer from now on. Raises Fenced."""
        ...

    async def take_over(self, switch: str, by: str, lease_ms: int) -> Tenure | None:
        """Look after another's switch whose lease has run out; None: it has not, or another node was quicker."""
        ...

    async def hold_over(self, tenure: Tenure, lease_ms: int) -> None:
        """As `renew_switch`, of a switch that was taken over. Raises Fenced."""
        ...

    def on_behalf(self, tenure: Tenure) -> "Ledger":
        """The same ledger, whose steps about calls are by that tenure."""
        ...

    async def nodes(self) -> tuple[Node, ...]:
        """All nodes by their switch."""
        ...

    async def forget_switch(self, switch: str) -> None:
        """A switch that is no more: nobody looks after it. Raises NotFound, NotNow (its FairDial holds it)."""
        ...

    async def leads(self, task: str) -> bool:
        """Whether this ledger's node does what one alone does; another takes over a minute after it was asked last."""
        ...

    async def order(self, what: OrderKind, call_id: str | None = None) -> int:
        """Ask something of the other nodes; the order's id."""
        ...

    async def orders(self) -> tuple[Order, ...]:
        """The orders of the last seconds, in which each node looks some ten times."""
        ...

    async def carried_out(self, order_id: int, outcome: str) -> None:
        """What became of an order; the first to say so is right."""
        ...

    async def forget_orders(self) -> None:
        """Forget orders of before."""
        ...

    async def saw(self, switch: str, proven_ms: int) -> None:
        """Note that the switch was heard at `proven_ms` with all its live calls followed."""
        ...

    async def seen(self, switch: str) -> Seen | None:
        """What was last seen of a switch; None: nothing yet."""
        ...

    async def settled_between(self, from_ms: int, until_ms: int, limit: int) -> tuple[Grant, ...]:
        """Grants of calls that ended after `from_ms` and up to `until_ms`, the earliest first."""
        ...

    async def compared(self, switch: str, until_ms: int, differences: Sequence[Difference]) -> None:
        """Note the differences found among calls that ended up to `until_ms`, which are not compared again."""
        ...

    async def differ(self, difference: Difference) -> None:
        """Note a difference; one of that kind is kept for a call, the first."""
        ...

    async def differences(self, limit: int = 100) -> tuple[Difference, ...]:
        """The latest differences, newest first."""
        ...

    async def grant(self, call_id: str) -> Grant | None:
        """One grant."""
        ...

    async def sip_call_id(self, call_id: str) -> str:
        """The SIP Call-ID of a call that was decided about; "" where none is known."""
        ...

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
        """The latest decisions, newest first; after: those older than the one of that call. Raises NotFound (that).

        line_id: without what a line dialled before an account had it. number: in E.164; one that has no such form as it
        was dialled. call: the call's id, or its SIP Call-ID. refused: those alone.
        """
        ...

    async def decision(self, call_id: str) -> DecisionRecord:
        """One decision by the id of its call or message. Raises NotFound."""
        ...

    async def days(self, account_id: str, windows: Sequence[Window]) -> tuple[DayUse, ...]:
        """What an account did in each of these windows; each begins where the one before ends. Raises NotFound."""
        ...

    async def snapshot(self, line_id: str, plan: Plan) -> Snapshot:
        """What a decision would see; writes nothing."""
        ...

    async def add_account(self, account: Account) -> None:
        """Repeating with the same contents changes nothing, not even a standing that was set since.
        Raises AlreadyExists.
        """
        ...

    async def add_line(self, line: Line, lines_max: LinesMax | None = None) -> None:
        """Repeating with the same contents changes nothing. lines_max: this one counted; None: no bound.

        Raises AlreadyExists, NotFound (account), TooMany.
        """
        ...

    async def add_number(self, number: OwnNumber) -> None:
        """Give a number to an account, or to another of its lines. Repeating changes nothing.

        Raises AlreadyExists (it belongs to another account), NotFound (account, or that line of it).
        """
        ...

    async def remove_number(self, number: str) -> None:
        """Take a number, in E.164, from its account. Raises NotFound."""
        ...

    async def agree(self, agreement: Agreement) -> None:
        """Record an agreement; one that holds already stays as it is. Raises NotFound (account)."""
        ...

    async def withdraw(self, account_id: str, consent: Consent, at_ms: int, by: str = "") -> None:
        """End an agreement; it stays on record. Raises NotFound (account, or no such agreement holds)."""
        ...

    async def agreements(self, account_id: str) -> tuple[Agreement, ...]:
        """All agreements of an account, those that were withdrawn included, the latest first. Raises NotFound."""
        ...

    async def ask(self, asked: Asked) -> Request:
        """Take down a request. One whose key was used before, of that account, changes nothing: that one is returned.

        Raises NotFound (account), TooMany (open ones), AlreadyExists (the key, for another request).
        """
        ...

    async def rule(self, request_id: int, rule: Rule) -> Request:
        """Let become of a request what `rule` says, in the transaction that reads it; from then on every decision,
        renewal and settlement sees the limit that follows. Raises NotFound, NotNow (of its state), TooMany (approved
        ones), ValueError (of `rule`).
        """
        ...

    async def requests(
        self,
        account_id: str | None = None,
        state: RequestState | None = None,
        limit: int = 100,
        after_id: int | None = None,
    ) -> tuple[Request, ...]:
        """The latest requests, newest first, those after `after_id` in that order."""
        ...

    async def request(self, request_id: int) -> tuple[Request, tuple[RequestEntry, ...]]:
        """One request with all that was done about it, the earliest first. Raises NotFound."""
        ...

    async def end_requests(self, now_ms: int, limit: int = 100) -> tuple[Request, ...]:
        """Write down which requests are over: their time has passed, or their account is terminated or on another
        policy. At most `limit` of them; what each allowed ended by itself before.
        """
        ...

    async def plans_due(
        self, now_ms: int, due: PlanDue, windows_max: int, limit: int = 100
    ) -> tuple[int, tuple[Request, ...]]:
        """Judge windows with overage that are over, each once: how many were, and the plans proposed or added (R4).

        windows_max: how many windows before each `due` looks at. At most `limit` windows: where as many were judged,
        there may be more.
        """
        ...

    async def charge_plans(self, now_ms: int, limit: int = 100) -> tuple[int, tuple[Charge, ...]]:
        """Charge minute plans for the next period of each that has begun, once for each: how many plans were looked at,
        at most `limit`, and what was charged. Repeated until none is, nothing is owed any more (R4). Prepaid credit
        pays for none of it.
        """
        ...

    async def set_standing(
        self, account_id: str, standing: Standing, at_ms: int, *, fraud: bool = False, harder: bool = False
    ) -> Account:
        """Suspend, restore or terminate. Raises NotFound; with `harder` NotNow, where that would make it milder.

        fraud: with TERMINATED, the credit is forfeited, what calls in progress reserve as they end; charges
        stay owed (V8). Restoring gives no credit back.
        """
        ...

    async def restrict(
        self, account_id: str, services: Collection[Kind], at_ms: int, *, lift: bool = False
    ) -> Account:
        """Take services from an account for now, or with `lift` give them back. Repeating changes nothing (S4).

        Raises NotFound, ValueError (emergency calls).
        """
        ...

    async def set_line_standing(self, line_id: str, standing: Standing, *, harder: bool = False) -> Line:
        """Suspend, restore or terminate one line. Raises NotFound; with `harder` NotNow, as `set_standing`."""
        ...

    async def provision(
        self, entries: Sequence[Entry], at_ms: int, lines_max: LinesMax | None = None, *, keep: bool = True
    ) -> tuple[int, int]:
        """Take all entries in their order, or none; how many are new, and how many were there already.

        Each as its own step does, except that an account that exists keeps its policy and options: those come
        from `Subscribing`. keep False: a trial, after which nothing is kept. Raises BatchRefused with every
        entry that cannot be taken.
        """
        ...

    async def publish(self, policy: PublishedPolicy, before: str | None = None) -> None:
        """Keep a policy version. Repeating with the same text changes nothing.

        before: the version that it takes the place of, of which `announce_next` tells; None: nobody is told.

        Raises AlreadyExists (that version, with another text).
        """
        ...

    async def published(self) -> tuple[PublishedPolicy, ...]:
        """All published versions, by name, then in the order of publishing."""
        ...

    async def subscribe(self, account_id: str, policy: str, options: Options) -> Account:
        """Put an account on a policy, with options. Calls in progress keep their terms. Raises NotFound."""
        ...

    async def add_credit(
        self, account_id: str, currency: str, amount_micros: int, reference: str, at_ms: int, note: str = ""
    ) -> Credit:
        """Add prepaid credit, once for each reference; below zero takes back what no call reserves.

        Raises NotFound, AlreadyExists (the reference, with another amount), ConstraintViolated (less would be
        left than calls reserve), ValueError (a currency that is unknown, or not the account's).
        """
        ...

    async def load_card(self, card: LoadedCard, at_ms: int) -> None:
        """Keep a rate card; one of the same name is replaced."""
        ...

    async def cards(self) -> tuple[LoadedCard, ...]:
        """All rate cards by name."""
        ...

    async def accounts(
        self, after: str = "", limit: int | None = None, starts: str = ""
    ) -> tuple[Account, ...]:
        """Accounts by id, those behind the id `after`; limit: so many of them, None for all. starts: those alone whose
        id begins so.
        """
        ...

    async def account(self, account_id: str) -> Account:
        """One account. Raises NotFound."""
        ...

    async def lines(
        self, account_id: str | None = None, after: str = "", limit: int | None = None
    ) -> tuple[Line, ...]:
        """Lines by id, of one account or of all, as `accounts` does. Raises NotFound (account)."""
        ...

    async def line(self, line_id: str) -> Line:
        """One line. Raises NotFound."""
        ...

    async def numbers(
        self, account_id: str | None = None, after: str = "", limit: int | None = None
    ) -> tuple[OwnNumber, ...]:
        """Numbers in E.164, of one account or of all, as `accounts` does. Raises NotFound (account)."""
        ...

    async def number(self, number: str) -> OwnNumber:
        """Whose a number, in E.164, is. Raises NotFound."""
        ...

    async def sheet(self, account_id: str) -> AccountSheet:
        """One account with lines and usage, newest windows first. Raises NotFound."""
        ...

    async def books(self, account_id: str, period_of: PeriodOf) -> Books:
        """What the ledger says of an account in a period as a whole. Raises NotFound, and what `period_of` raises."""
        ...

    async def settled_calls(
        self, account_id: str, period: Window, after: tuple[int, str] | None, limit: int
    ) -> SettledPage:
        """Calls and messages of an account that touch a period: dialled before its end, and on the day before it or
        later, or over after it began. `limit` dials of it, after the dial `after`; of those, what is settled.
        Raises NotFound.
        """
        ...

    async def report(self, finding: Finding) -> CaseChange | None:
        """Open a case and take the steps that follow, or feed the open one of that account and detector.

        None: what was found was judged by a person already. Reporting the same again changes nothing. Raises NotFound
        (account).
        """
        ...

    async def follow_up(self, case_id: int, taken: Taken | None, at_ms: int) -> CaseChange:
        """The deadline of an open case has passed: take that step; None: the ladder has none that is harder.

        Raises NotFound.
        """
        ...

    async def close_case(
        self, case_id: int, at_ms: int, by: str, note: str, *, dismissed: bool, undo: bool
    ) -> Case:
        """A person has judged an open case. undo: what was done for it to the account is taken back, except what
        other open cases want as well, and credit that was forfeited. Raises NotFound, NotOpen.
        """
        ...

    async def set_deadline(self, case_id: int, deadline_ms: int, at_ms: int, by: str) -> Case:
        """Until when the customer may answer an open case. Raises NotFound, NotOpen."""
        ...

    async def cases(
        self,
        account_id: str | None = None,
        state: CaseState | None = None,
        limit: int = 100,
        after: int | None = None,
    ) -> tuple[Case, ...]:
        """The latest cases, newest first; after: those older than that case. Raises NotFound (that)."""
        ...

    async def case(self, case_id: int) -> tuple[Case, tuple[CaseEntry, ...]]:
        """One case with all that was done about it, the earliest first. Raises NotFound."""
        ...

    async def overdue_cases(self, now_ms: int, limit: int = 100) -> tuple[Case, ...]:
        """Open cases whose deadline has passed, the earliest first."""
        ...

    async def judged(self, since_ms: int) -> tuple[tuple[str, str, int], ...]:
        """Account, detector and moment of each case that people closed since then, the earliest first."""
        ...

    async def complain(self, account_id: str, at_ms: int, by: str, note: str, since_ms: int) -> int:
        """Take down a complaint about an account; how many there were after `since_ms`. Raises NotFound (account)."""
        ...

    async def dialled_since(self, count: int) -> int:
        """When the `count`-th latest dial was, UTC milliseconds; 0: there were fewer."""
        ...

    async def past(self, since_ms: int, after: tuple[int, str] | None, limit: int) -> Past:
        """What happened to calls that were dialled from `since_ms` on, `limit` dials of it, after the dial `after`."""
        ...

    async def happened(self, after_ms: int, until_ms: int) -> Past:
        """Dials that were placed, answered or over after `after_ms` and up to `until_ms`, whole, each."""
        ...

    async def what_became(self, call_ids: Sequence[str]) -> Past:
        """Those dials as they are now, some hundreds at a time."""
        ...

    async def uses(
        self, policy: str, allowance: str, now_ms: int, after: str = "", limit: int = 2_000
    ) -> tuple[Use, ...]:
        """What accounts on that policy have used of an allowance in its running window; by line, in the mean, where
        each has its own. Units of the allowance. By account id, `limit` of them after `after`.
        """
        ...

    async def block(self, block: Block) -> None:
        """Turn a source away; where it is already, until the later of both."""
        ...

    async def unblock(self, source: str) -> None:
        """Let a source in again. Raises NotFound."""
        ...

    async def blocks(self, now_ms: int) -> tuple[Block, ...]:
        """Sources that are turned away now."""
        ...

    async def add_token(self, token: Token) -> None:
        """Let somebody use the API. Raises AlreadyExists (the name), NotFound (an account)."""
        ...

    async def remove_token(self, name: str) -> None:
        """Whoever holds it is let in no more. Raises NotFound."""
        ...

    async def token(self, digest: str) -> Token | None:
        """The token with that digest."""
        ...

    async def tokens(self) -> tuple[Token, ...]:
        """All tokens by name."""
        ...

    async def set_notice_rules(self, rules: NoticeRules) -> None:
        """What is told of from now on, and how. Until then nothing is."""
        ...

    async def set_contact(self, contact: Contact) -> None:
        """Where an account is told. Raises NotFound (account, or that line of it)."""
        ...

    async def addressee(self, account_id: str) -> tuple[Account, Contact]:
        """An account, and where it is told: where nobody has said, in the default language and without an address.
        Raises NotFound (account).
        """
        ...

    async def announce(self, policy: str, version: str, before: str, at_ms: int) -> None:
        """All accounts on a policy are to be told, by `announce_next`, of the version that will take the place of
        `before`. Of each version once.
        """
        ...

    async def announce_next(self, limit: int) -> int:
        """Tell the next accounts, `limit` of them, of a policy version that was published; how many were told. 0: there
        is nothing more to announce.
        """
        ...

    async def due_notices(self, channel: Channel, now_ms: int, limit: int) -> tuple[Delivery, ...]:
        """What is to be told that way now: for each account the earliest that waits, the longest due first."""
        ...

    async def delivered(self, notice_id: int, channel: Channel, at_ms: int) -> None:
        """It was told. Repeating changes nothing."""
        ...

    async def not_delivered(
        self, notice_id: int, channel: Channel, at_ms: int, said: str, next_ms: int | None
    ) -> None:
        """An attempt failed; said: why. next_ms: not before is the next one; None: it is given up."""
        ...

    async def retry_notice(self, notice_id: int, at_ms: int) -> tuple[Delivery, ...]:
        """Try again what was given up. Raises NotFound, ConstraintViolated (nothing was)."""
        ...

    async def notices(
        self,
        account_id: str | None = None,
        state: DeliveryState | None = None,
        after_id: int | None = None,
        limit: int = 100,
    ) -> tuple[tuple[Notice, tuple[Delivery, ...]], ...]:
        """The latest notices, newest first, those after `after_id` in that order; state: with a delivery in it."""
        ...

    async def notice(self, notice_id: int) -> tuple[Notice, tuple[Delivery, ...]]:
        """One notice. Raises NotFound."""
        ...

    async def untold(self) -> Mapping[tuple[Channel, DeliveryState], int]:
        """How many deliveries wait, and how many were given up."""
        ...

    async def probe(self) -> None:
        """Write as a step does, but change nothing: whether the store can be written now. Raises LedgerUnavailable."""
        ...

    async def close(self) -> None:
        """Write what waits, then close. Later steps raise LedgerUnavailable."""
        ...

"""What an operator can ask for, once: the command line calls it in-process or over the control socket.

Every operation takes and returns plain JSON values, so that it means the same in both ways.
"""

import asyncio
import ipaddress
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec

from fairdial.answer import RING_S
from fairdial.cases import Cases, Cut
from fairdial.clock import Moment
from fairdial.console.access import digest_of, new_secret
from fairdial.console.events import item_json, tell_operation
from fairdial.console.health import not_serving
from fairdial.console.looking_up import LookingUp
from fairdial.console.messages import Messages
from fairdial.console.nodes import NodeList
from fairdial.console.policy_views import difference_json, policy_json, rules_json, version_of
from fairdial.console.replays import Replays
from fairdial.console.requesting import Renew, Requesting, as_now
from fairdial.console.shapes import (
    Json,
    account_json,
    agreement_json,
    card_json,
    case_entry_json,
    case_json,
    contact_json,
    credit_json,
    flat_json,
    line_json,
    notice_json,
    number_json,
    own_number_json,
    sheet_json,
    token_json,
)
from fairdial.console.statements import lines_json, statement_json
from fairdial.desk import Asked, Desk, decision_json
from fairdial.ledger.contract import (
    Block,
    CaseState,
    LoadedCard,
    NotFound,
    PublishedPolicy,
    Role,
    Token,
)
from fairdial.ledger.notice import Contact, DeliveryState
from fairdial.news import News, TooManyListen
from fairdial.notice_text import Composer, NotWritten, Templates
from fairdial.policy import publishing
from fairdial.policy.account import (
    Account,
    Agreement,
    Consent,
    Kind,
    Line,
    Options,
    OwnNumber,
    Standing,
)
from fairdial.policy.call import Ringing, State, Talking, lease_end_ms
from fairdial.policy.cards import RateCard
from fairdial.policy.decide import cap_limit
from fairdial.policy.difference import difference, takes_effect
from fairdial.policy.document import Step, parse_policy
from fairdial.policy.lint import Severity, lint
from fairdial.policy.numbers import Habit
from fairdial.policy.periods import Window, zone_named
from fairdial.policy.rating import currency_digits, parse_micros
from fairdial.provision import Known, read_entries
from fairdial.statements import add_up, period_of


class OperationError(Exception):
    """The request cannot be carried out; the text says what is wrong and how to mend it."""


@dataclass(frozen=True, slots=True)
class CallRow:
    """A live call as operators read it."""

    call: str
    line: str
    kind: str
    dialled: str
    state: str
    granted_s: int | None
    up_s: int
    left_s: int | None
    account: str | None = None

    @classmethod
    def of(
        cls,
        call_id: str,
        line_id: str,
        kind: Kind,
        dialled: str,
        state: State,
        since: Moment,
        now: Moment,
        account: str | None = None,
    ) -> "CallRow":
        """A row out of a call's state."""
        end_ms = lease_end_ms(state)
        start_ms = state.since_ms if isinstance(state, Talking) else since.mono_ms
        granted_s = state.granted_s if isinstance(state, Ringing | Talking) else None
        left_s = None if end_ms is None else max(0, end_ms - now.mono_ms) // 1000
        name = type(state).__name__.lower()
        up_s = (now.mono_ms - start_ms) // 1000
        return cls(call_id, line_id, kind, dialled, name, granted_s, up_s, left_s, account)


SERVICES = frozenset(Kind) - {Kind.EMERGENCY}
"""What can be taken from an account for a while."""

STATEMENT_PAGE_MAX = 5_000
"""Dials whose lines are told at once."""

_LANGUAGE = re.compile(r"[a-z]{2,3}(-[a-z0-9]{2,8})?")
"""BCP 47, in small letters, as the folders of templates are named."""
_EMAIL = re.compile(r"[^@\s,;<>\"]{1,64}@[A-Za-z0-9.-]{1,255}")

NOBODY_RINGS = "no FairDial is running here to ring anybody; start `fairdial serve`"


class Rooms(Protocol):
    """Conferences whose bridge the running FairDial holds."""

    async def add(self, room: str, number: str, line_id: str) -> Json:
        """Call a number into a room of that line's account. Raises ValueError where it cannot be."""
        ...

    def rows(self) -> list[Json]:
        """Rooms in which somebody is."""
        ...


class Logins(Protocol):
    """Knows which sources of calls are turned away."""

    def block(self, block: Block) -> None:
        """Turn a source away."""
        ...

    def unblock(self, source: str) -> None:
        """Let it in again."""
        ...


class Operations:
    """All operations by name: `Operations.call("account_add", {...})`."""

    def __init__(
        self,
        desk: Desk,
        *,
        calls: Callable[[], list[CallRow]] | None = None,
        hang_up: Callable[[str], Awaitable[bool]] | None = None,
        cut: Cut | None = None,
        status: Callable[[], Json] | None = None,
        callback: Callable[[str, str, str | None], Awaitable[Json]] | None = None,
        rooms: Rooms | None = None,
        ready: Callable[[], Awaitable[Json]] | None = None,
        cases: Cases | None = None,
        judged: Callable[[str, str, int], None] | None = None,
        logins: Logins | None = None,
        composer: Composer | None = None,
        published: Callable[[], None] | None = None,
        renew: Renew | None = None,
        reload: Callable[[], Awaitable[Json]] | None = None,
        news: News | None = None,
        replays: Replays | None = None,
    ) -> None:
        """Without `calls`, `hang_up`, `cut`, `status`, `callback`, `rooms`, `ready` and `reload` no server runs here.

        callback: takes the line, the number that it wants, and the number to ring first instead of the line.
        judged: hears of a case that a person has closed: its account, its detector, and when. logins: hears of sources
        that are turned away. composer: puts notices into words, those that come with FairDial if left out; published:
        hears of each policy version. renew: asks for more for live calls whose limit was raised. news: where what is
        done here is told, and what happens is read. replays: those beside a running server.
        """
        self._desk = desk
        self._ledger = desk.ledger
        self._calls = calls
        self._hang_up = hang_up
        self._cut = cut
        self._status = status
        self._place_callback = callback
        self._rooms = rooms
        self._ready = ready
        self._cases = cases or Cases(desk.ledger, lambda: desk.policies)
        self._judged = judged
        self._logins = logins
        self._composer = composer
        self._published = published
        self._reload = reload
        self._replacing = asyncio.Lock()
        self._news = news or News(desk.now_ms)
        self._messages = Messages(desk)
        self.replays = replays
        self._by_name: Mapping[str, Callable[..., Awaitable[Any]]] = {
            "account_add": self._account_add,
            "account_list": self._account_list,
            "account_show": self._account_show,
            "account_restrict": self._account_restrict,
            "account_standing": self._account_standing,
            "agreement_add": self._agreement_add,
            "agreement_list": self._agreement_list,
            "agreement_withdraw": self._agreement_withdraw,
            "import": self._import,
            "subscribe": self._subscribe,
            "credit_add": self._credit_add,
            "rates_load": self._rates_load,
            "rates_list": self._rates_list,
            "line_add": self._line_add,
            "line_list": self._line_list,
            "line_show": self._line_show,
            "line_standing": self._line_standing,
            "number_add": self._number_add,
            "number_list": self._number_list,
            "number_show": self._number_show,
            "number_remove": self._number_remove,
            "policy_diff": self._policy_diff,
            "policy_lint": self._policy_lint,
            "policy_list": self._policy_list,
            "policy_publish": self._policy_publish,
            "policy_show": self._policy_show,
            "usage": self._account_show,
            "check": self._check,
            "classify": self._classify,
            "differences": self._differences,
            "events": self._events,
            "calls": self._live_calls,
            "hangup": self._hangup,
            "block_add": self._block_add,
            "block_list": self._block_list,
            "block_remove": self._block_remove,
            "callback": self._callback,
            "case_close": self._case_close,
            "case_deadline": self._case_deadline,
            "case_flag": self._case_flag,
            "case_list": self._case_list,
            "case_show": self._case_show,
            "complaint_add": self._complaint_add,
            "conference_add": self._conference_add,
            "conference_list": self._conference_list,
            "statement": self._statement,
            "statement_lines": self._statement_lines,
            "contact_set": self._contact_set,
            "contact_show": self._contact_show,
            "notice_list": self._notice_list,
            "notice_retry": self._notice_retry,
            "notice_show": self._notice_show,
            "token_add": self._token_add,
            "token_list": self._token_list,
            "token_remove": self._token_remove,
            "reload": self._take_in,
            "status": self._server_status,
            "ready": self._readiness,
            "node_list": NodeList(desk.ledger),
            "node_forget": NodeList(desk.ledger).forget,
            "message": self._messages.ask,
            "message_list": self._messages.latest,
            "grants": self._grants,
            "grant": self._grant,
            **Requesting(desk, renew).by_name,
            **LookingUp(desk).by_name,
            **(replays.by_name if replays is not None else {}),
        }

    async def call(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """Run one operation. Raises OperationError, LedgerError, ValueError."""
        operation = self._by_name.get(name)
        if operation is None:
            raise OperationError(
                f"operation {name!r} is unknown; this FairDial may be older than the command"
            )
        try:
            answer = await operation(**arguments)
        except TypeError as error:
            raise OperationError(f"{name}: {error}") from error
        tell_operation(self._news, name, answer)
        return answer

    async def _account_add(
        self, account: str, policy: str, zone: str = "UTC", name: str = "", **options: Any
    ) -> Json:
        self._known_policy(policy)
        entry = Account(account, policy, zone, name, options=options_of(**options))
        await self._ledger.add_account(entry)
        # As it stands now: one that was there already may have been suspended since.
        return account_json(await self._ledger.account(account))

    async def _account_list(
        self,
        after: str = "",
        limit: int | None = None,
        starts: str = "",
        accounts: Sequence[str] | None = None,
    ) -> list[Json]:
        """accounts: of these alone."""
        if accounts is not None:
            wanted = sorted(each for each in accounts if each > after and each.startswith(starts))[:limit]
            return [account_json(await self._ledger.account(each)) for each in wanted]
        return [account_json(account) for account in await self._ledger.accounts(after, limit, starts)]

    async def _account_show(self, account: str) -> Json:
        sheet = await self._ledger.sheet(account)
        entry, now_ms = sheet.account, self._desk.now_ms()
        policy = self._desk.policies.at(entry.policy, zone_named(entry.zone), now_ms)
        return sheet_json(
            sheet, self._counted_in_messages(entry), lambda usage: as_now(usage, entry, policy, now_ms)
        )

    async def _statement(
        self,
        account: str,
        period: str | None = None,
        from_ms: int | None = None,
        until_ms: int | None = None,
    ) -> Json:
        asked = period_of(self._desk.now_ms(), period, from_ms, until_ms)
        return statement_json(await add_up(self._ledger, account, asked))

    async def _statement_lines(
        self,
        account: str,
        from_ms: int,
        until_ms: int,
        numbers: str = "masked",
        after: Sequence[Any] | None = None,
        limit: int = 1_000,
    ) -> Json:
        """A page of the lines of a statement; `after`, where it is not null, asks for the next one."""
        if numbers not in ("masked", "full"):
            raise OperationError(f"numbers {numbers!r} is neither masked nor full")
        period = Window(from_ms, until_ms)
        last = None if after is None else (int(after[0]), str(after[1]))
        page = await self._ledger.settled_calls(account, period, last, max(1, min(limit, STATEMENT_PAGE_MAX)))
        # Some milliseconds for a page: not on the loop that answers calls.
        shown = await asyncio.to_thread(
            lines_json, page.calls, period, self._desk.policies, full_numbers=numbers == "full"
        )
        return {"lines": shown, "after": page.after}

    def _counted_in_messages(self, account: Account) -> frozenset[str]:
        """Names of the allowances of the account's policy, in any version, that do not measure talk."""
        versions = self._desk.policies.versions(account.policy)
        return frozenset(
            allowance.name
            for version in versions
            for allowance in version.allowances
            if not allowance.measures_talk
        )

    async def _account_standing(
        self, account: str, standing: str, fraud: bool = False, harder: bool = False
    ) -> Json:
        set_to, now_ms = Standing(standing), self._desk.now_ms()
        entry = await self._ledger.set_standing(account, set_to, now_ms, fraud=fraud, harder=harder)
        return account_json(entry) | {"calls_cut": await self._cut_barred(set_to, account=account)}

    async def _account_restrict(self, account: str, services: Sequence[str], lift: bool = False) -> Json:
        named = frozenset(Kind(service) for service in services)
        if not named:
            raise OperationError(f"no service is named; known are {', '.join(sorted(SERVICES))}")
        entry = await self._ledger.restrict(account, named, self._desk.now_ms(), lift=lift)
        # As with a standing: after the ledger's step, so that no dial slips in between.
        cut = 0 if lift or self._cut is None else await self._cut(account=account, kinds=named)
        return account_json(entry) | {"calls_cut": cut}

    async def _line_standing(self, line: str, standing: str, harder: bool = False) -> Json:
        set_to = Standing(standing)
        entry = await self._ledger.set_line_standing(line, set_to, harder=harder)
        return line_json(entry) | {"calls_cut": await self._cut_barred(set_to, line=line)}

    async def _cut_barred(
        self, standing: Standing, *, account: str | None = None, line: str | None = None
    ) -> int:
        """After the ledger's step, so that no dial slips in between (K12). Without a server nothing is cut."""
        if standing is Standing.ACTIVE or self._cut is None:
            return 0
        return await self._cut(account=account, line=line)

    async def _number_add(self, number: str, account: str, line: str | None = None) -> Json:
        entry = OwnNumber(number, account, line)
        await self._ledger.add_number(entry)
        return own_number_json(entry)

    async def _number_list(
        self, account: str | None = None, after: str = "", limit: int | None = None
    ) -> list[Json]:
        return [own_number_json(number) for number in await self._ledger.numbers(account, after, limit)]

    async def _number_show(self, number: str) -> Json:
        return own_number_json(await self._ledger.number(number))

    async def _number_remove(self, number: str) -> Json:
        await self._ledger.remove_number(number)
        return {"number": number, "removed": True}

    async def _agreement_add(
        self,
        account: str,
        consent: str,
        agreed_by: str,
        note: str = "",
        by: str = "",
        case: int | None = None,
        request: int | None = None,
    ) -> list[Json]:
        about = await self._about(account, case, request)
        entry = Agreement(account, Consent(consent), agreed_by, self._desk.now_ms(), note, about, by)
        await self._ledger.agree(entry)
        return [row for row in await self._agreement_list(account) if row["consent"] == consent]

    async def _about(self, account: str, case: int | None, request: int | None) -> str:
        """What an agreement answers: a case or a request of that account. Raises OperationError, NotFound."""
        if case is not None and request is not None:
            raise OperationError("an agreement answers a case or a request; name one of them")
        if case is not None:
            about, whose = f"case {case}", (await self._ledger.case(case))[0].account_id
        elif request is not None:
            about, whose = f"request {request}", (await self._ledger.request(request))[0].asked.account_id
        else:
            return ""
        if whose != account:
            raise OperationError(f"{about} is of account {whose!r}, not {account!r}; name one of its own")
        return about

    async def _agreement_list(self, account: str, withdrawn: bool = False) -> list[Json]:
        """withdrawn: those that hold no more too, the latest first."""
        if withdrawn:
            return [agreement_json(agreement) for agreement in await self._ledger.agreements(account)]
        return [agreement_json(agreement) for agreement in (await self._ledger.sheet(account)).agreements]

    async def _agreement_withdraw(self, account: str, consent: str, by: str = "") -> Json:
        await self._ledger.withdraw(account, Consent(consent), self._desk.now_ms(), by)
        return {"account": account, "consent": consent, "withdrawn": True}

    async def _import(self, text: str, where: str, region: str | None = None, dry_run: bool = False) -> Json:
        now_ms = self._desk.now_ms()
        known = Known(self._desk.policies.names, region or self._desk.region, now_ms)
        # Half a second for a large file: not on the loop that answers calls.
        entries = await asyncio.to_thread(read_entries, text, where, known)
        new, there_already = await self._ledger.provision(
            entries, now_ms, self._desk.lines_max, keep=not dry_run
        )
        return {"new": new, "there_already": there_already, "dry_run": dry_run}

    async def _policy_list(self) -> list[Json]:
        book, now_ms = self._desk.policies, self._desk.now_ms()
        return [policy_json(book, name, now_ms) for name in book.names]

    async def _policy_show(self, policy: str, version: str | None = None) -> Json:
        return rules_json(version_of(self._desk.policies, policy, version, self._desk.now_ms()))

    async def _policy_lint(self, text: str, where: str) -> list[Json]:
        return [asdict(finding) for finding in await asyncio.to_thread(lint, text, where)]

    async def _policy_diff(
        self,
        policy: str | None = None,
        version: str | None = None,
        against: str | None = None,
        text: str | None = None,
        where: str = "policy.toml",
    ) -> Json:
        """Of a text, or of a version that is known, against another; the one in force if `against` is left out."""
        book, now_ms = self._desk.policies, self._desk.now_ms()
        if text is not None:
            new = await asyncio.to_thread(parse_policy, text, where)
        elif policy is not None:
            new = version_of(book, policy, version, now_ms)
        else:
            raise OperationError("name a policy, or give the text of one")
        return difference_json(version_of(book, new.name, against, now_ms), new)

    async def _policy_publish(self, text: str, where: str) -> Json:
        found = await asyncio.to_thread(lint, text, where)
        errors = [finding for finding in found if finding.severity is Severity.ERROR]
        if errors:
            raise OperationError("\n".join(str(finding) for finding in errors))
        policy = parse_policy(text, where)
        # One at a time: whether a version may be published depends on those that were.
        async with self._replacing:
            now_ms = self._desk.now_ms()
            today = datetime.fromtimestamp(now_ms / 1000, UTC).date()
            if faults := publishing.faults(policy, self._desk.policies, today):
                raise OperationError("\n".join(f"{where}: {fault}" for fault in faults))
            before = self._desk.policies.at(policy.name, zone_named("UTC"), now_ms)
            await self._ledger.publish(
                PublishedPolicy(policy.name, policy.version, now_ms, text),
                None if before is None else before.version,
            )
            self._desk.policies = self._desk.policies.with_published(policy)
        if self._published is not None:
            self._published()
        return {
            "policy": policy.name,
            "version": policy.version,
            "effective": str(policy.effective),
            "changes": [] if before is None else list(difference(before, policy)),
            "takes_effect": takes_effect(policy),
        }

    async def _subscribe(self, account: str, policy: str, **options: Any) -> Json:
        self._known_policy(policy)
        return account_json(await self._ledger.subscribe(account, policy, options_of(**options)))

    async def _credit_add(
        self, account: str, amount: str, currency: str, reference: str, note: str = ""
    ) -> Json:
        currency_digits(currency)
        sign, digits = (-1, amount[1:]) if amount.startswith("-") else (1, amount)
        credit = await self._ledger.add_credit(
            account, currency, sign * parse_micros(digits), reference, self._desk.now_ms(), note
        )
        return credit_json(credit)

    async def _rates_load(self, card: str, currency: str, text: str, where: str = "rates.csv") -> Json:
        # Half a second for a large card: not on the loop that answers calls.
        parsed = await asyncio.to_thread(RateCard.parse, text, card, currency, where)
        async with self._replacing:
            await self._ledger.load_card(LoadedCard(card, currency, text), self._desk.now_ms())
            self._desk.cards = {**self._desk.cards, card: parsed}
        return card_json(parsed)

    async def _rates_list(self) -> list[Json]:
        return [card_json(card) for _, card in sorted(self._desk.cards.items())]

    def _known_policy(self, policy: str) -> None:
        if policy not in self._desk.policies:
            known = ", ".join(self._desk.policies.names)
            raise OperationError(f"policy {policy!r} is not loaded; known are {known}")

    async def _line_add(self, line: str, account: str, habit: Json | None = None) -> Json:
        entry = Line(line, account, habit_of({"region": self._desk.region} | (habit or {})))
        await self._ledger.add_line(entry, self._desk.lines_max)
        return line_json(await self._ledger.line(line))

    async def _line_list(
        self, account: str | None = None, after: str = "", limit: int | None = None
    ) -> list[Json]:
        return [line_json(line) for line in await self._ledger.lines(account, after, limit)]

    async def _line_show(self, line: str) -> Json:
        return line_json(await self._ledger.line(line))

    async def _classify(self, number: str, region: str | None = None) -> Json:
        habit = Habit(region=region or self._desk.region)
        return number_json(self._desk.numbering.classify(number, habit))

    async def _check(
        self,
        number: str,
        account: str | None = None,
        line: str | None = None,
        kind: str = "outbound",
        caller: str = "",
        at_ms: int | None = None,
        explain: bool = False,
    ) -> Json:
        asked = Asked(
            "check", Kind(kind), number, await self._line_of(account, line), "check", RING_S, caller
        )
        verdict, looked = await self._desk.explain(asked, at_ms)
        return decision_json("check", verdict, looked if explain else None)

    async def _line_of(self, account: str | None, line: str | None) -> str:
        if line is None:
            first = () if account is None else await self._ledger.lines(account, limit=1)
            if not first:
                raise OperationError("name a line with --line, or an account that has one with --account")
            return first[0].id
        if account is not None and line not in {entry.id for entry in await self._ledger.lines(account)}:
            raise OperationError(
                f"line {line!r} is not one of account {account!r}; `fairdial line list` shows them"
            )
        return line

    async def _differences(self, limit: int = 100) -> list[Json]:
        return [flat_json(each) for each in await self._ledger.differences(max(1, min(limit, 10_000)))]

    async def _events(
        self, after: int | None = None, account: str | None = None, limit: int = 100, wait_s: float = 0.0
    ) -> Json:
        """What happened after the event of that number, of one account or of all; after now if left out."""
        if self._calls is None:
            raise OperationError("no FairDial is running here to tell of anything; start `fairdial serve`")
        try:
            piece = await self._news.read(after, account=account, limit=limit, wait_s=wait_s)
        except TooManyListen as error:
            raise OperationError(str(error)) from error
        events = [item_json(item) for item in piece.items]
        return {"events": events, "last": piece.last, "missed": piece.missed, "closed": piece.closed}

    async def _live_calls(self, account: str | None = None) -> list[Json]:
        if self._calls is not None:
            return [asdict(row) for row in self._calls() if account in (None, row.account)]
        # No server runs: what the ledger still holds, whose end the switch keeps.
        return await self._grants(account)

    async def _grants(self, account: str | None = None) -> list[Json]:
        return [
            {
                "call": grant.call_id,
                "line": grant.line_id,
                "kind": str(grant.kind),
                "dialled": grant.dialled,
                "state": str(grant.state),
                "granted_s": grant.granted_s,
                "up_s": None,
                "left_s": None,
                "account": grant.account_id,
            }
            for grant in await self._ledger.live_grants()
            if account in (None, grant.account_id)
        ]

    async def _grant(self, call: str) -> Json:
        grant = await self._ledger.grant(call)
        if grant is None:
            raise NotFound(f"no grant for call {call!r}; `fairdial decisions` shows the ids")
        return dict(msgspec.to_builtins(grant))

    async def _hangup(self, call: str) -> Json:
        if self._hang_up is None:
            raise OperationError(
                "no FairDial is running here; start `fairdial serve`, or hang up at the switch"
            )
        if not await self._hang_up(call):
            raise OperationError(f"no live call {call!r}; `fairdial calls` shows them")
        return {"call": call, "hung_up": True}

    async def _callback(self, number: str, line: str, first: str | None = None) -> Json:
        if self._place_callback is None:
            raise OperationError(NOBODY_RINGS)
        return await self._place_callback(line, number, first)

    async def _block_add(self, source: str, seconds: int, why: str) -> Json:
        now_ms = self._desk.now_ms()
        try:
            address = str(ipaddress.ip_address(source))
        except ValueError:
            raise OperationError(f"source {source!r} is no IP address; write it like 192.0.2.1") from None
        block = Block(address, now_ms, now_ms + seconds * 1000, why)
        await self._ledger.block(block)
        if self._logins is not None:
            self._logins.block(block)
        return asdict(block)

    async def _block_list(self) -> list[Json]:
        return [asdict(block) for block in await self._ledger.blocks(self._desk.now_ms())]

    async def _block_remove(self, source: str) -> Json:
        await self._ledger.unblock(source)
        if self._logins is not None:
            self._logins.unblock(source)
        return {"source": source, "removed": True}

    async def _case_list(
        self,
        account: str | None = None,
        state: str | None = None,
        limit: int = 100,
        after: int | None = None,
    ) -> list[Json]:
        wanted = None if state is None else CaseState(state)
        cases = await self._ledger.cases(account, wanted, max(1, min(limit, 10_000)), after)
        return [case_json(case) for case in cases]

    async def _case_show(self, case: int) -> Json:
        found, entries = await self._ledger.case(case)
        return case_json(found) | {"entries": [case_entry_json(entry) for entry in entries]}

    async def _case_flag(
        self, account: str, note: str, by: str, step: str | None = None, fraud: bool = False
    ) -> Json:
        if not note.strip():
            raise OperationError("a case needs a note: say what was found")
        change = await self._cases.flag(
            account, self._desk.now_ms(), by, note, step=None if step is None else Step(step), fraud=fraud
        )
        return case_json(change.case)

    async def _case_close(
        self,
        case: int,
        by: str,
        note: str = "",
        dismiss: bool = False,
        undo: bool = False,
        agreed_by: str | None = None,
    ) -> Json:
        now_ms = self._desk.now_ms()
        if agreed_by is not None:
            # First: a case that is closed without the agreement would let the customer off (S3).
            account = (await self._ledger.case(case))[0].account_id
            await self._ledger.agree(
                Agreement(account, Consent.SURCHARGE, agreed_by, now_ms, note, f"case {case}", by)
            )
        closed = await self._ledger.close_case(case, now_ms, by, note, dismissed=dismiss, undo=undo)
        if self._judged is not None:
            self._judged(closed.account_id, closed.detector, closed.closed_ms or now_ms)
        return await self._case_show(case)

    async def _case_deadline(self, case: int, deadline_ms: int, by: str) -> Json:
        return case_json(await self._ledger.set_deadline(case, deadline_ms, self._desk.now_ms(), by))

    async def _complaint_add(self, account: str, note: str, by: str) -> Json:
        if not note.strip():
            raise OperationError("a complaint needs a note: say who complained, and of what")
        count, cases = await self._cases.complain(account, self._desk.now_ms(), by, note)
        return {"account": account, "complaints": count, "cases": [case_json(case) for case in cases]}

    async def _conference_add(self, room: str, number: str, line: str) -> Json:
        if self._rooms is None:
            raise OperationError(NOBODY_RINGS)
        return await self._rooms.add(room, number, line)

    async def _conference_list(self, account: str | None = None) -> list[Json]:
        rooms = [] if self._rooms is None else self._rooms.rows()
        return [
            room | {"seats_max": await self._seats_max(room["account"])}
            for room in rooms
            if account in (None, room["account"])
        ]

    async def _seats_max(self, account: str) -> int | None:
        entry, now_ms = await self._ledger.account(account), self._desk.now_ms()
        policy = self._desk.policies.at(entry.policy, zone_named(entry.zone), now_ms)
        return None if policy is None else cap_limit(entry, policy, "participants", now_ms)

    async def _contact_set(
        self, account: str, language: str | None = None, email: str | None = None, line: str | None = None
    ) -> Json:
        _, kept = await self._ledger.addressee(account)
        if language is not None and not _LANGUAGE.fullmatch(language):
            raise OperationError(f"language {language[:40]!r} is none; write it like en or pt-br")
        if email and not _EMAIL.fullmatch(email):
            raise OperationError(f"address {email[:80]!r} is none; write it like name@example.com")
        contact = Contact(
            account,
            kept.language if language is None else language,
            kept.email if email is None else email,
            kept.line_id if line is None else line,
        )
        await self._ledger.set_contact(contact)
        return contact_json(contact)

    async def _contact_show(self, account: str) -> Json:
        return contact_json((await self._ledger.addressee(account))[1])

    async def _notice_list(
        self,
        account: str | None = None,
        state: str | None = None,
        after: int | None = None,
        limit: int = 100,
    ) -> list[Json]:
        wanted = None if state is None else DeliveryState(state)
        found = await self._ledger.notices(account, wanted, after, max(1, min(limit, 10_000)))
        return [notice_json(*each) for each in found]

    async def _notice_show(self, notice: int) -> Json:
        found, deliveries = await self._ledger.notice(notice)
        shown = notice_json(found, deliveries)
        composer = self._composer or Composer(Templates(), lambda: self._desk.policies)
        try:
            words = composer.compose(found, *await self._ledger.addressee(found.account_id))
        except NotWritten as error:
            return shown | {"subject": None, "text": None, "fault": str(error)}
        return shown | {"subject": words.subject, "text": words.text, "language": words.language}

    async def _notice_retry(self, notice: int) -> Json:
        await self._ledger.retry_notice(notice, self._desk.now_ms())
        return await self._notice_show(notice)

    async def _token_add(self, name: str, role: str, accounts: Sequence[str] = ()) -> Json:
        secret = new_secret()
        token = Token(name, digest_of(secret), Role(role), self._desk.now_ms(), tuple(accounts))
        await self._ledger.add_token(token)
        # Told this once: the ledger has only its digest.
        return token_json(token) | {"token": secret}

    async def _token_list(self) -> list[Json]:
        return [token_json(token) for token in await self._ledger.tokens()]

    async def _token_remove(self, name: str) -> Json:
        await self._ledger.remove_token(name)
        return {"name": name, "removed": True}

    async def _take_in(self) -> Json:
        if self._reload is None:
            raise OperationError("no FairDial is running here; it reads its files when it starts")
        # Nothing is published or loaded between what a reload reads and what it puts in place.
        async with self._replacing:
            changed = await self._reload()
        if self._published is not None:
            # Of the folder's versions too customers are told ahead of their day.
            self._published()
        return changed

    async def _readiness(self) -> Json:
        return not_serving("no FairDial is running here") if self._ready is None else await self._ready()

    async def _server_status(self) -> Json:
        return {"serving": False} if self._status is None else {"serving": True} | self._status()


def options_of(
    countries: Sequence[str] = (),
    until_ms: int | None = None,
    cycle_day: int = 1,
    plan: str = "",
    currency: str | None = None,
    estimate_s: int | None = None,
) -> Options:
    """What was bought, out of JSON. Raises ValueError."""
    return Options(frozenset(countries), until_ms, cycle_day, plan, currency, estimate_s)


def habit_of(fields: Mapping[str, Any]) -> Habit:
    """A line's dialling habit out of JSON. Raises ValueError or OperationError."""
    known = set(Habit.__dataclass_fields__)
    unknown = sorted(set(fields) - known)
    if unknown:
        raise OperationError(f"habit has no {unknown[0]!r}; known are {', '.join(sorted(known))}")
    return msgspec.convert(fields, Habit)

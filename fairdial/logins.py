"""Logins of lines, as the switch tells of them: from which networks, with which phones, and who guesses passwords.

Reads AMI's security events (`SuccessfulAuth`, `InvalidPassword`, `ChallengeResponseFailed`, `InvalidAccountID`,
`FailedACL`; class "security") and asks the switch for the user agent of a line's phone. What it finds out goes to the
watch (A6, A9, K8); a source from which passwords are guessed is turned away for a while. Nobody waits for it: events
stand in a bounded queue. Leaves to the switch and its firewall what is no call.
"""

import asyncio
import ipaddress
import re
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from fairdial.clock import Clock
from fairdial.ledger.contract import Block, Ledger, LedgerError
from fairdial.policy.account import Account, Needs
from fairdial.policy.book import PolicyBook
from fairdial.policy.document import Policy
from fairdial.policy.history import Noted
from fairdial.policy.periods import MS_PER_S, zone_named

log = structlog.get_logger(__name__)

SUCCESS: Final = "SuccessfulAuth"
FAILURES: Final = ("InvalidPassword", "ChallengeResponseFailed", "InvalidAccountID", "FailedACL")
EVENTS: Final = (SUCCESS, *FAILURES)
"""AMI events that are wanted."""

WAITING_MAX: Final = 10_000
SOURCES_MAX: Final = 10_000
"""Sources whose failures are remembered; who has failed longest ago is forgotten first."""
SEEN_MAX: Final = 20_000
"""Lines with their networks that were told lately, and need not be again."""
TELL_AGAIN_MS: Final = 300_000
BLOCKS_MAX: Final = 50_000
TROUBLE_S: Final = 1.0

_ADDRESS: Final = re.compile(r"IPV[46]/(?:UDP|TCP|TLS|WS|WSS)/(.+)/[0-9]+")
_ENDPOINT: Final = re.compile(r"[A-Za-z0-9_.+-]{1,80}")

AskSwitch = Callable[[str], Awaitable[str]]
"""Reads a dialplan function, such as PJSIP_AOR(alice,contact); "" where the switch does not say."""


@dataclass(frozen=True, slots=True)
class LoginRules:
    """failures in window_s from one source, without one success between, block it for block_s; 0: never.

    pbx_agents: words, in any case, by which a PBX or a dialler is known.
    """

    failures: int = 20
    window_s: int = 600
    block_s: int = 3600
    pbx_agents: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class _Login:
    event: str
    line: str
    source: str
    at_ms: int


def source_of(remote: str) -> str:
    """The address in a `RemoteAddress` such as "IPV4/UDP/192.0.2.1/5060"; "" where there is none."""
    found = _ADDRESS.fullmatch(remote)
    try:
        return "" if found is None else str(ipaddress.ip_address(found[1].strip("[]")))
    except ValueError:
        return ""


def network_of(source: str) -> str:
    """The network of an address: IPv4 /24, IPv6 /48, as customers and sites get them."""
    address = ipaddress.ip_address(source)
    return str(ipaddress.ip_network(f"{source}/{24 if address.version == 4 else 48}", strict=False))


class Logins:
    """Follows the logins of one switch. `start` before use, `stop` after.

    tell: the watch; ask: the switch.
    """

    def __init__(
        self,
        ledger: Ledger,
        policies: Callable[[], PolicyBook],
        tell: Callable[[Noted, Account, Policy], None],
        ask: AskSwitch,
        clock: Clock,
        rules: LoginRules,
    ) -> None:
        self._ledger = ledger
        self._policies = policies
        self._tell = tell
        self._ask = ask
        self._clock = clock
        self._rules = rules
        self._queue: asyncio.Queue[_Login] = asyncio.Queue(WAITING_MAX)
        self._failed: OrderedDict[str, deque[int]] = OrderedDict()
        self._seen: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._blocked: OrderedDict[str, int] = OrderedDict()
        self._unseen = 0
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin. Raises LedgerError."""
        now_ms = self._clock.now().wall_ms
        for block in await self._ledger.blocks(now_ms):
            self._blocked[block.source] = block.until_ms
        self._task = asyncio.create_task(self._follow(), name="logins")

    async def stop(self) -> None:
        """End; blocks stay in the ledger."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def heard(self, headers: Mapping[str, str]) -> None:
        """One of EVENTS came."""
        source = source_of(headers.get("RemoteAddress", ""))
        event = headers.get("Event", "")
        # Without a password the switch knows a line by its address: that is no login.
        if headers.get("Service") != "PJSIP" or not source:
            return
        if event == SUCCESS and headers.get("UsingPassword") != "1":
            return
        try:
            self._queue.put_nowait(
                _Login(event, headers.get("AccountID", ""), source, self._clock.now().wall_ms)
            )
        except asyncio.QueueFull:
            if not self._unseen:
                log.error("logins_not_watched", waiting=WAITING_MAX)
            self._unseen += 1

    def blocks(self, source: str) -> bool:
        """Whether calls from that address are turned away now."""
        until_ms = self._blocked.get(source)
        return until_ms is not None and self._clock.now().wall_ms < until_ms

    def block(self, block: Block) -> None:
        """Turn a source away that was blocked in the ledger."""
        self._blocked[block.source] = block.until_ms
        self._blocked.move_to_end(block.source)
        if len(self._blocked) > BLOCKS_MAX:
            self._blocked.popitem(last=False)

    def unblock(self, source: str) -> None:
        """Let it in again."""
        self._blocked.pop(source, None)

    async def _follow(self) -> None:
        while True:
            login = await self._queue.get()
            if self._unseen and self._queue.empty():
                log.warning("logins_watched_again", not_watched=self._unseen)
                self._unseen = 0
            try:
                await (self._succeeded(login) if login.event == SUCCESS else self._failure(login))
            except LedgerError as error:
                log.warning("login_not_looked_at", line=login.line, error=str(error))
                await asyncio.sleep(TROUBLE_S)
            except Exception as error:
                # What one event says must not end the watch over all.
                log.error("login_not_looked_at", line=login.line, error=repr(error), exc_info=error)

    async def _succeeded(self, login: _Login) -> None:
        self._failed.pop(login.source, None)
        if not self._is_news(login.line, login.source, login.at_ms):
            return
        payer = await self._payer(login)
        if payer is None:
            return
        self._note("networks_of_a_line", network_of(login.source), login, payer)
        for agent in await self._agents(login.line):
            self._note("agents_of_a_line", agent, login, payer)
            if any(word in agent.casefold() for word in self._rules.pbx_agents):
                self._note("pbx_agents", f"{login.line}: {agent}", login, payer)

    async def _failure(self, login: _Login) -> None:
        if _ENDPOINT.fullmatch(login.line) and (payer := await self._payer(login)) is not None:
            self._note("failed_logins", login.source, login, payer)
        times = self._failed.setdefault(login.source, deque(maxlen=max(1, self._rules.failures)))
        self._failed.move_to_end(login.source)
        if len(self._failed) > SOURCES_MAX:
            self._failed.popitem(last=False)
        times.append(login.at_ms)
        window_ms = self._rules.window_s * MS_PER_S
        enough = len(times) == self._rules.failures and times[0] > login.at_ms - window_ms
        if not (enough and self._rules.block_s) or self.blocks(login.source):
            return
        until_ms = login.at_ms + self._rules.block_s * MS_PER_S
        why = f"{self._rules.failures} logins failed within {self._rules.window_s} s"
        block = Block(login.source, login.at_ms, until_ms, why)
        self.block(block)
        log.warning("source_blocked", source=login.source, seconds=self._rules.block_s, why=why)
        await self._ledger.block(block)

    def _is_news(self, line: str, source: str, at_ms: int) -> bool:
        """A line that calls authenticates with each call: told once in a while."""
        told_ms = self._seen.get((line, source))
        if told_ms is not None and at_ms - told_ms < TELL_AGAIN_MS:
            return False
        self._seen[line, source] = at_ms
        self._seen.move_to_end((line, source))
        if len(self._seen) > SEEN_MAX:
            self._seen.popitem(last=False)
        return True

    async def _payer(self, login: _Login) -> tuple[Account, Policy] | None:
        account = (await self._ledger.snapshot(login.line, lambda _line, _account: Needs())).account
        if account is None:
            return None
        policy = self._policies().at(account.policy, zone_named(account.zone), login.at_ms)
        return None if policy is None else (account, policy)

    async def _agents(self, line: str) -> list[str]:
        """User agents of the phones that are registered for a line."""
        if not _ENDPOINT.fullmatch(line):
            return []
        agents = []
        for aor in _listed(await self._ask(f"PJSIP_ENDPOINT({line},aors)")):
            for contact in _listed(await self._ask(f"PJSIP_AOR({aor},contact)")):
                agent = await self._ask(f"PJSIP_CONTACT({contact},user_agent)")
                agents += [agent[:200]] if agent else []
        return agents

    def _note(self, measure: str, key: str, login: _Login, payer: tuple[Account, Policy]) -> None:
        account, policy = payer
        self._tell(Noted(measure, login.at_ms, account.id, key, of=login.line), account, policy)


def _listed(text: str) -> list[str]:
    """A few names of a list that the switch gave, without what could not be asked for."""
    names = (name.strip() for name in text.split(","))
    return [name for name in names if re.fullmatch(r"[A-Za-z0-9_.+@;:-]{1,200}", name)][:10]

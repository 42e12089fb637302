"""What customers are told, on its way to them: in order, at least once, for as long as it takes.

The ledger holds what is to be told (`ledger/notices.py`). Each way (webhook, mail, SIP) has a task of its own that
takes of each account the earliest notice that waits, so that a customer never hears the second before the first. Where
the far end as a whole cannot be reached, that way pauses and nothing is given up; where one notice is refused, it alone
is tried again, and after `attempts_max` given up: it is then a dead letter, which is seen and can be tried by hand.
Leaves the words to `notice_text.py`, and each way's protocol to `notice_ways.py`.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Protocol

import structlog

from fairdial.clock import Clock
from fairdial.ledger.contract import Ledger, LedgerError
from fairdial.ledger.notice import Channel, Contact, Delivery, NoticeRules
from fairdial.notice_text import Composer, NotWritten, Words
from fairdial.policy.account import Account
from fairdial.policy.periods import MS_PER_S

log = structlog.get_logger(__name__)

AT_ONCE: Final = 16
"""Deliveries that are under way on one channel."""
ANNOUNCED_AT_ONCE: Final = 200
"""Accounts that one step of the ledger tells of a new policy version: calls wait for it no longer than for others."""


Upcoming = Callable[[int], Iterable[tuple[str, str, str]]]
"""Policy versions that take effect after that moment (UTC ms): name, version, and the version whose place it takes."""


class Refused(Exception):
    """This delivery was refused; others may do."""


class Unreachable(Exception):
    """The far end cannot be reached, for whatever notice."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A notice ready to go."""

    delivery: Delivery
    account: Account
    contact: Contact
    words: Words


class Way(Protocol):
    """How letters get to people."""

    async def send(self, letter: Letter) -> None:
        """Deliver one. Raises Refused, Unreachable."""
        ...

    async def close(self) -> None:
        """Let go of what is open."""
        ...


@dataclass(frozen=True, slots=True)
class Pace:
    """poll_s: how often is looked for what is new, also by other processes. first_s: until a second attempt, doubled
    with each further one up to longest_s; pause_longest_s: the same for a way whose far end cannot be reached.
    announce_s: how often is looked for policy versions that another process published.
    """

    poll_s: float = 1.0
    first_s: float = 5.0
    longest_s: float = 3_600.0
    pause_longest_s: float = 300.0
    attempts_max: int = 30
    announce_s: float = 30.0


Told = Callable[[str, int, str, str, str, str], None]
"""Hears what became of a delivery: account, number of the notice, channel, topic, state (delivered, refused: it is
tried again, given_up), and what was said of it."""


class Post:
    """Carries notices, each channel by itself, until stopped."""

    def __init__(
        self,
        ledger: Ledger,
        composer: Composer,
        ways: Mapping[Channel, Way],
        clock: Clock,
        rules: NoticeRules,
        pace: Pace | None = None,
        upcoming: Upcoming = lambda _now_ms: (),
    ) -> None:
        """rules: what is told; the channels are those of `ways`. upcoming: policy versions that will be in force."""
        self._upcoming = upcoming
        self._ledger = ledger
        self._rules = replace(rules, channels=frozenset(ways))
        self._composer = composer
        self._ways = ways
        self._clock = clock
        self._pace = pace or Pace()
        self._published = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.told: Told = lambda *_told: None
        self.paused: dict[Channel, str] = {}
        """Channels whose far end cannot be reached, and what was said of it."""

    @property
    def channels(self) -> frozenset[Channel]:
        """The ways that are carried."""
        return self._rules.channels

    async def start(self) -> None:
        """Begin."""
        self._tasks = [
            asyncio.create_task(self._carry(channel, way), name=f"notices-{channel}")
            for channel, way in self._ways.items()
        ]
        self._tasks.append(asyncio.create_task(self._announce(), name="notices-of-policies"))

    async def stop(self) -> None:
        """End; what was not confirmed is told again after the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        for way in self._ways.values():
            await way.close()

    def published(self) -> None:
        """A policy version was published: its accounts are told now."""
        self._published.set()

    # --- to all on a policy ------------------------------------------------------------------------

    async def _announce(self) -> None:
        ruled = False
        while True:
            self._published.clear()
            try:
                if not ruled:
                    await self._ledger.set_notice_rules(self._rules)
                    ruled = True
                now_ms = self._clock.now().wall_ms
                for policy, version, before in self._upcoming(now_ms):
                    await self._ledger.announce(policy, version, before, now_ms)
                while await self._ledger.announce_next(ANNOUNCED_AT_ONCE):
                    await asyncio.sleep(0)
            except LedgerError as error:
                log.warning("policy_change_not_announced_yet", error=str(error))
            try:
                async with asyncio.timeout(self._pace.announce_s if ruled else self._pace.first_s):
                    await self._published.wait()
            except TimeoutError:
                pass  # another process may have published

    # --- one way -----------------------------------------------------------------------------------

    async def _carry(self, channel: Channel, way: Way) -> None:
        failures = 0
        while True:
            wait_s = self._pace.poll_s
            try:
                due = await self._ledger.due_notices(channel, self._clock.now().wall_ms, AT_ONCE)
                said = await asyncio.gather(*(self._deliver(channel, way, each) for each in due))
                unreachable = next((each for each in said if each is not None), None)
                failures = 0 if unreachable is None else failures + 1
                self._note(channel, unreachable)
                if failures:
                    wait_s = _backoff_s(self._pace.first_s, self._pace.pause_longest_s, failures)
                elif due:
                    continue
            except LedgerError as error:
                log.warning("notices_wait_for_the_ledger", channel=channel, error=str(error))
                wait_s = self._pace.first_s
            await asyncio.sleep(wait_s)

    def _note(self, channel: Channel, unreachable: str | None) -> None:
        if unreachable is None:
            if self.paused.pop(channel, None) is not None:
                log.info("notices_go_on", channel=channel)
        elif channel not in self.paused:
            log.warning("notices_pause", channel=channel, error=unreachable)
            self.paused[channel] = unreachable

    async def _deliver(self, channel: Channel, way: Way, delivery: Delivery) -> str | None:
        """Tell one; what was said where the far end cannot be reached. Raises LedgerError."""
        notice = delivery.notice
        try:
            letter = await self._letter(delivery)
            await way.send(letter)
        except Unreachable as error:
            return str(error)
        except (Refused, NotWritten) as error:
            await self._failed(delivery, str(error))
            return None
        # Where this fails, it is told again: at least once.
        await self._ledger.delivered(notice.id, channel, self._clock.now().wall_ms)
        self._tell(delivery, "delivered", "")
        return None

    def _tell(self, delivery: Delivery, state: str, said: str) -> None:
        notice = delivery.notice
        self.told(notice.account_id, notice.id, str(delivery.channel), str(notice.topic), state, said)

    async def _letter(self, delivery: Delivery) -> Letter:
        account, contact = await self._ledger.addressee(delivery.notice.account_id)
        return Letter(delivery, account, contact, self._composer.compose(delivery.notice, account, contact))

    async def _failed(self, delivery: Delivery, said: str) -> None:
        now_ms = self._clock.now().wall_ms
        failures = delivery.attempts + 1
        again_s = _backoff_s(self._pace.first_s, self._pace.longest_s, failures)
        given_up = failures >= self._pace.attempts_max
        notice = delivery.notice
        log.warning(
            "notice_given_up" if given_up else "notice_refused",
            notice=notice.id,
            channel=delivery.channel,
            account=notice.account_id,
            attempts=failures,
            error=said,
        )
        next_ms = None if given_up else now_ms + round(again_s * MS_PER_S)
        await self._ledger.not_delivered(notice.id, delivery.channel, now_ms, said, next_ms)
        self._tell(delivery, "given_up" if given_up else "refused", said)


def _backoff_s(first_s: float, longest_s: float, failures: int) -> float:
    # Past twenty it is the longest in any case, and the power would grow without bound.
    return min(longest_s, first_s * (1 << min(failures - 1, 20)))

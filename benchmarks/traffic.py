"""Made-up traffic: ordinary customers over weeks, and each kind of abuse, from a seed.

Customers are households and offices with an address book each; they call by the hour of the day and the day of the
week, mostly whom they called before, for lengths that are many short and few long (log-normal). Abuse is written down
as the policies describe it. None of this is anybody's real traffic: no data about real fraud was available, and what
detectors find here is what was thought of here.
"""

import heapq
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from fairdial.policy.account import Kind
from fairdial.policy.history import Answer, Attempt, End, Event, InOrder, Noted
from fairdial.policy.prefixes import NumberClass
from fairdial.policy.texts import normalised

BEGIN_MS: Final = 1_793_577_600_000
"""Monday 2026-11-02 00:00 UTC."""
HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS

# Calls by the hour of the day, relative to each other.
_OFFICE_DAY: Final = (0, 0, 0, 0, 0, 0, 1, 4, 9, 12, 12, 11, 8, 10, 12, 12, 10, 6, 2, 1, 0.5, 0.2, 0, 0)
_HOME_DAY: Final = (0.2, 0.1, 0, 0, 0, 0.1, 0.5, 2, 4, 5, 6, 5, 5, 4, 5, 5, 6, 9, 11, 12, 9, 5, 2, 0.6)
_OFFICE_WEEK: Final = (1.1, 1.05, 1.0, 1.0, 0.9, 0.1, 0.05)
_HOME_WEEK: Final = (0.9, 0.9, 0.9, 0.9, 1.0, 1.2, 1.2)
RING_S: Final = 12.0
HIGHEST_LINE: Final = 15


@dataclass(frozen=True, slots=True)
class Call:
    """A call as it went, or a message. talk_s None: nobody answered; ring_s: until the answer, or until the caller gave
    up. text: what a message says.
    """

    account_id: str
    line_id: str
    kind: Kind
    at_ms: int
    other: str
    country: str
    ring_s: float
    talk_s: int | None
    text: str = ""


@dataclass(frozen=True, slots=True)
class Habits:
    """A kind of customer. calls_a_day: of one line, in and out; news: share of calls to a number never called before;
    companies: share of the address book that lies in one company's hundred numbers. messages_a_day: of one line, sent;
    rounds_a_week: how often one text goes to many, such as an invitation; round: to how many.
    """

    name: str
    lines: tuple[int, int]
    calls_a_day: float
    book: tuple[int, int]
    news: float
    companies: float
    came_in: float
    abroad: float
    day: Sequence[float]
    week: Sequence[float]
    messages_a_day: float
    rounds_a_week: float
    round: tuple[int, int]


HOUSEHOLD: Final = Habits(
    *("household", (1, 2), 4, (10, 40), 0.08, 0.0, 0.45, 0.04, _HOME_DAY, _HOME_WEEK),
    *(12, 0.3, (5, 25)),
)
SMALL_OFFICE: Final = Habits(
    *("small office", (2, 5), 11, (30, 150), 0.12, 0.05, 0.5, 0.06, _OFFICE_DAY, _OFFICE_WEEK),
    *(8, 1, (5, 30)),
)
BUSY_OFFICE: Final = Habits(
    *("busy office", (6, HIGHEST_LINE), 20, (150, 600), 0.15, 0.05, 0.5, 0.08, _OFFICE_DAY, _OFFICE_WEEK),
    *(10, 2, (5, 40)),
)
MIX: Final = ((HOUSEHOLD, 0.75), (SMALL_OFFICE, 0.2), (BUSY_OFFICE, 0.05))

_ABROAD: Final = (
    *(("FR", "+331"), ("DE", "+4930"), ("US", "+1212"), ("IE", "+3531"), ("PL", "+4822"), ("IN", "+9111")),
    *(("ES", "+3491"), ("IT", "+3902"), ("NL", "+3120"), ("BE", "+322"), ("PT", "+35121"), ("CH", "+4144")),
    *(("AT", "+431"), ("SE", "+468"), ("NO", "+4722"), ("DK", "+4533"), ("RO", "+4021"), ("CA", "+1416")),
    *(("AU", "+612"), ("ZA", "+2711"), ("NG", "+2341"), ("TR", "+90212"), ("CN", "+8610"), ("BR", "+5511")),
)
_EVERYDAY: Final = ("ok", "thanks", "yes", "no", "on my way", "call me", "running late", "see you there")
USUAL: Final = 0.8
"""Share of the calls abroad that go to a few countries of the customer's."""


class Customer:
    """An ordinary customer."""

    def __init__(self, account_id: str, habits: Habits, random: Random) -> None:
        self.account_id = account_id
        self.habits = habits
        self._random = random
        self.lines = [f"{account_id}-{n}" for n in range(random.randint(*habits.lines))]
        # Some call twice as much as others of their kind.
        self._busy = random.lognormvariate(0, 0.4)
        self._usual = random.sample(_ABROAD, 3)
        size = random.randint(*habits.book)
        company = _number(random)[0][:-2]
        self._book = [
            (f"{company}{random.randrange(100):02}", "GB")
            if random.random() < habits.companies
            else self._new()
            for _ in range(size)
        ]
        self._total = sum(habits.day)
        # Another stream of chance: who writes calls as ever.
        self._writing = Random(str(random.getstate()[1][:4]))

    def calls(self, days: int) -> Iterator[Call]:
        """Its calls of so many days, in the order of time."""
        habits, random = self.habits, self._random
        for day in range(days):
            share = habits.week[day % 7] * self._busy
            by_day = []
            for line in self.lines:
                for hour, weight in enumerate(habits.day):
                    mean = habits.calls_a_day * share * weight / self._total
                    by_day += [(self._moment(day, hour), line) for _ in range(_poisson(random, mean))]
            free_ms = dict.fromkeys(self.lines, 0)
            for at_ms, line in sorted(by_day):
                if at_ms < free_ms[line]:
                    continue  # one call at a time on each phone
                call = self._call(at_ms, line)
                free_ms[line] = at_ms + round(1000 * (call.ring_s + (call.talk_s or 0)))
                yield call

    def traffic(self, days: int) -> Iterator[Call]:
        """Calls and messages."""
        return heapq.merge(self.calls(days), self.messages(days), key=lambda call: call.at_ms)

    def messages(self, days: int) -> Iterator[Call]:
        """Its messages of so many days, in the order of time: most say what no other says, some what many do."""
        habits, random = self.habits, self._writing
        book = [number for number, _ in self._book]
        for day in range(days):
            share = habits.week[day % 7]
            sent: list[tuple[int, str, str, str]] = []
            for line in self.lines:
                for hour, weight in enumerate(habits.day):
                    mean = habits.messages_a_day * share * weight / self._total
                    for n in range(_poisson(random, mean)):
                        at_ms = BEGIN_MS + day * DAY_MS + hour * HOUR_MS + random.randrange(HOUR_MS)
                        text = (
                            random.choice(_EVERYDAY)
                            if random.random() < 0.15
                            else f"{day} {hour} {n} {at_ms}"
                        )
                        sent.append((at_ms, line, self._friend(book), text))
            for n in range(_poisson(random, habits.rounds_a_week / 7 * share)):
                at_ms = BEGIN_MS + day * DAY_MS + random.randint(9, 18) * HOUR_MS
                line, size = random.choice(self.lines), min(len(book), random.randint(*habits.round))
                for number in random.sample(book, size):
                    at_ms += random.randint(3_000, 30_000)
                    sent.append((at_ms, line, number, f"round {day} {n}"))
            for at_ms, line, number, text in sorted(sent):
                yield Call(self.account_id, line, Kind.MESSAGE, at_ms, number, "GB", 0.0, None, text)

    def _friend(self, book: Sequence[str]) -> str:
        return book[int(len(book) * self._writing.random() ** 2.2)]

    def _moment(self, day: int, hour: int) -> int:
        return BEGIN_MS + day * DAY_MS + hour * HOUR_MS + self._random.randrange(HOUR_MS)

    def _call(self, at_ms: int, line: str) -> Call:
        random = self._random
        if random.random() < self.habits.came_in:
            number, country = _number(random) if random.random() < 0.4 else random.choice(self._book)
            kind, answered = Kind.INBOUND, random.random() < 0.75
        else:
            number, country = self._callee()
            kind, answered = Kind.OUTBOUND, random.random() < 0.68
        ring_s = random.uniform(2, RING_S) if answered else random.uniform(8, 30)
        return Call(
            self.account_id, line, kind, at_ms, number, country, ring_s, _talk_s(random) if answered else None
        )

    def _callee(self) -> tuple[str, str]:
        random = self._random
        if random.random() < self.habits.news:
            found = self._new()
            self._book[random.randrange(len(self._book))] = found
            return found
        # A few are called often, most now and then.
        return self._book[int(len(self._book) * random.random() ** 2.2)]

    def _new(self) -> tuple[str, str]:
        random = self._random
        if random.random() < self.habits.abroad:
            country, prefix = random.choice(self._usual if random.random() < USUAL else _ABROAD)
            return f"{prefix}{random.randrange(10**7):07}", country
        return _number(random)


def _number(random: Random) -> tuple[str, str]:
    prefix = random.choice(("+4420", "+44161", "+44121", "+4477", "+4478", "+4479"))
    return f"{prefix}{random.randrange(10 ** (13 - len(prefix))):0{13 - len(prefix)}}", "GB"


def _talk_s(random: Random) -> int:
    # An answering machine, or a wrong number, now and then.
    if random.random() < 0.12:
        return random.randint(2, 12)
    return min(3 * 3600, max(1, round(random.lognormvariate(math.log(110), 1.0))))


def _poisson(random: Random, mean: float) -> int:
    count, left = 0, math.exp(-mean)
    product = random.random()
    while product > left:
        count += 1
        product *= random.random()
    return count


def ordinary(seed: int, accounts: int) -> list[Customer]:
    """So many ordinary customers, by the mix."""
    made = []
    for n in range(accounts):
        random = Random(f"{seed} {n}")
        [habits] = random.choices([each for each, _ in MIX], [share for _, share in MIX])
        made.append(Customer(f"customer-{n}", habits, random))
    return made


# --- abuse ---------------------------------------------------------------------------------------

Abuse = Callable[[Random, int], Iterator[Call]]
"""Calls of one account from a moment on, without end."""

ABUSER: Final = "abuser"


def _out(
    at_ms: float,
    number: str,
    talk_s: int | None,
    *,
    country: str = "GB",
    line: str = "abuser-0",
    ring_s: float = 4.0,
) -> Call:
    return Call(ABUSER, line, Kind.OUTBOUND, round(at_ms), number, country, ring_s, talk_s)


def _some_answer(random: Random, share: float, low_s: int, high_s: int) -> int | None:
    return random.randint(low_s, high_s) if random.random() < share else None


def sequential(random: Random, at_ms: int) -> Iterator[Call]:
    """Numbers one after the other, now and then one left out (K9)."""
    number = 442079460000
    while True:
        yield _out(at_ms, f"+{number}", _some_answer(random, 0.35, 2, 15))
        number += random.choice((1, 1, 1, 1, 2))
        at_ms += random.randint(8_000, 30_000)


def shuffled(random: Random, at_ms: int) -> Iterator[Call]:
    """All numbers of one hundred after the other hundred, in no order (K9)."""
    block = 4420794600
    while True:
        for last in random.sample(range(100), 100):
            yield _out(at_ms, f"+{block}{last:02}", _some_answer(random, 0.35, 2, 15))
            at_ms += random.randint(8_000, 30_000)
        block += 1


def robo(random: Random, at_ms: int) -> Iterator[Call]:
    """A machine that plays a recording, every twenty seconds (S6)."""
    while True:
        number, country = _number(random)
        yield _out(at_ms, number, _some_answer(random, 0.4, 3, 40), country=country)
        at_ms += 20_000 + random.randint(-300, 300)


def predictive(random: Random, at_ms: int) -> Iterator[Call]:
    """More dials than agents: most end unanswered or at once (S6)."""
    while True:
        for n in range(random.randint(4, 8)):
            number, country = _number(random)
            talk_s = _some_answer(random, 0.12, 20, 200)
            yield _out(at_ms + n * 150, number, talk_s, country=country, line=f"abuser-{n}")
        at_ms += random.randint(20_000, 40_000)


def telemarketing(random: Random, at_ms: int) -> Iterator[Call]:
    """A person with a list: never the same number twice (K7, V7)."""
    while True:
        number, country = _number(random)
        talk_s = _some_answer(random, 0.45, 10, 180)
        yield _out(at_ms, number, talk_s, country=country)
        at_ms += 1000 * (10 + (talk_s or 15) + random.randint(5, 60))


def short_calls(random: Random, at_ms: int) -> Iterator[Call]:
    """Answered, and over at once (K10)."""
    book = [_number(random) for _ in range(25)]
    while True:
        number, country = random.choice(book)
        yield _out(at_ms, number, _some_answer(random, 0.9, 1, 7), country=country)
        at_ms += random.randint(20_000, 90_000)


def shared(random: Random, at_ms: int) -> Iterator[Call]:
    """One account behind which many people talk at once (K8, V4)."""
    while True:
        number, country = _number(random)
        talk_s = max(30, round(random.lognormvariate(math.log(240), 0.6)))
        yield _out(at_ms, number, talk_s, country=country, line=f"abuser-{random.randrange(3)}")
        at_ms += random.randint(3_000, 20_000)


def forwarded(random: Random, at_ms: int) -> Iterator[Call]:
    """Calls that come in and go on to one number that takes several (S7)."""
    while True:
        caller, country = _number(random)
        talk_s = random.randint(120, 400)
        yield Call(ABUSER, "abuser-0", Kind.INBOUND, at_ms, caller, country, 4.0, talk_s)
        yield _out(at_ms + 500, "+442079469999", talk_s)
        at_ms += random.randint(10_000, 40_000)


def call_in(random: Random, at_ms: int) -> Iterator[Call]:
    """A line that many call at once (S8)."""
    while True:
        caller, country = _number(random)
        yield Call(ABUSER, "abuser-0", Kind.INBOUND, at_ms, caller, country, 2.0, random.randint(60, 600))
        at_ms += random.randint(2_000, 15_000)


def income(random: Random, at_ms: int) -> Iterator[Call]:
    """Long calls to a range that pays for being called (K9)."""
    while True:
        yield _out(at_ms, f"+25290611{random.randrange(10**4):04}", random.randint(400, 1800), country="SO")
        at_ms += random.randint(60_000, 240_000)


def stolen(random: Random, at_ms: int) -> Iterator[Call]:
    """Somebody has an ordinary customer's password, and calls at night where that customer never did (K9)."""
    at_ms += 3 * HOUR_MS
    where = (
        ("LV", "+3716"),
        ("SO", "+2526"),
        ("CU", "+535"),
        ("GM", "+2207"),
        ("TN", "+2167"),
        ("MV", "+9607"),
    )
    while True:
        country, prefix = random.choice(where)
        yield _out(at_ms, f"{prefix}{random.randrange(10**7):07}", random.randint(60, 900), country=country)
        at_ms += random.randint(5_000, 60_000)


def spam(random: Random, at_ms: int) -> Iterator[Call]:
    """Messages as fast as they go (A2)."""
    while True:
        number, country = _number(random)
        yield Call(ABUSER, "abuser-0", Kind.MESSAGE, at_ms, number, country, 0.0, None)
        at_ms += random.randint(200, 900)


def blasting(random: Random, at_ms: int) -> Iterator[Call]:
    """One text to a list, a few in a minute, written a little differently each time (A2, S8)."""
    words = ["You", "have", "won", "a", "prize,", "call", "now"]
    while True:
        number, country = _number(random)
        said = " ".join(random.choice((word, word.upper())) for word in words)
        text = normalised(said.replace(" ", random.choice((" ", "  ", "\n"))))
        yield Call(
            ABUSER, f"abuser-{random.randrange(3)}", Kind.MESSAGE, at_ms, number, country, 0.0, None, text
        )
        at_ms += random.randint(5_000, 40_000)


ABUSES: Final[Mapping[str, Abuse]] = {
    "sequential": sequential,
    "shuffled": shuffled,
    "robo": robo,
    "predictive": predictive,
    "telemarketing": telemarketing,
    "short_calls": short_calls,
    "shared": shared,
    "forwarded": forwarded,
    "call_in": call_in,
    "income": income,
    "stolen": stolen,
    "spam": spam,
    "blasting": blasting,
}


# --- as the detectors are told -------------------------------------------------------------------


def events(calls: Iterable[Call], cost_micros_per_min: int = 20_000) -> Iterator[Event]:
    """What happens in these calls, in the order of time. They come in the order of their dials."""
    order = InOrder()
    for number, call in enumerate(calls, 1):
        yield from order.take(_dial(number, call, cost_micros_per_min))
    yield from order.rest()


def number_of(event: Event) -> int:
    """The how manieth call of its account an event belongs to, from 1."""
    assert not isinstance(event, Noted)
    return int(event.call_id.rpartition("/")[2])


def _dial(number: int, call: Call, cost_micros_per_min: int) -> list[Event]:
    call_id, account_id = f"{call.account_id}/{number}", call.account_id
    is_in, is_message = call.kind is Kind.INBOUND, call.kind is Kind.MESSAGE
    attempt = Attempt(
        call_id,
        call.at_ms,
        account_id,
        call.line_id,
        call.kind,
        "" if is_in else call.other,
        call.other if is_in else "",
        call.country,
        NumberClass.GEOGRAPHIC,
        not is_message,
        text=call.text,
    )
    if is_message:
        return [attempt]
    answered_ms = call.at_ms + round(1000 * call.ring_s)
    if call.talk_s is None:
        return [attempt, End(call_id, answered_ms, account_id, 0)]
    cost_micros = 0 if is_in else -(-call.talk_s * cost_micros_per_min // 60)
    over_ms = answered_ms + 1000 * call.talk_s
    return [
        attempt,
        Answer(call_id, answered_ms, account_id),
        End(call_id, over_ms, account_id, call.talk_s, cost_micros),
    ]

"""What holds of every decision, whatever the policy, the account and its use."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st

from fairdial.policy.account import (
    Account,
    Consent,
    Credit,
    Dial,
    Encrypted,
    Identity,
    Kind,
    Line,
    MeterWindow,
    Options,
    Snapshot,
    Standing,
)
from fairdial.policy.decide import EMERGENCY, Allow, Decision, Refuse, decide, meters_at, number_for
from fairdial.policy.document import CountryRule, EncryptionRule, IdentityRule, Policy
from fairdial.policy.explain import explain
from fairdial.policy.numbers import Number
from fairdial.policy.outcomes import Reason
from fairdial.policy.prefixes import NumberClass
from tests import shipped
from tests.charges import CARD, priced_plan
from tests.samples import MONTH_END_MS, RULES, plan
from tests.shipped import POLICIES

DAY = '[[allowances]]\nname = "day"\nlimit_s = 3600\nperiod = "day"\ncounts = ["outbound"]\nclause = "C8"'
STRICT = POLICIES["acceptable-use"].model_copy(
    update={
        "identity": IdentityRule(caller_number="replace", clause="A4"),
        "encryption": EncryptionRule(
            signalling="required", media="required", otherwise="refuse", clause="A7"
        ),
    }
)
PLANS = (
    *POLICIES.values(),
    STRICT,
    plan(),
    plan(day_limit_s=600),
    priced_plan(used_up="credit", more=DAY),
    priced_plan(countries='["GB"]', uncovered="refuse", used_up="refuse"),
)
CARDS = {card.name: card for card in (CARD, shipped.CARD)}

COUNTRIES = ("GB", "DE", "FR", "US")
CODES = {"GB": "+44", "DE": "+49", "FR": "+33", "US": "+1", None: "+870"}


@dataclass(frozen=True)
class Case:
    """A dial with all that its decision depends on."""

    policy: Policy
    number: Number
    dial: Dial
    snapshot: Snapshot

    def decision(self) -> Decision:
        """The decision on it."""
        return decide(self.dial, self.number, self.snapshot, self.policy, RULES, CARDS)

    def with_meters(self, meters: tuple[MeterWindow, ...]) -> "Case":
        """The same dial after other use."""
        return replace(self, snapshot=replace(self.snapshot, meters=meters))

    def with_countries(self, countries: frozenset[str]) -> "Case":
        """The same dial where the plan, and what was bought of it, covers other countries."""
        assert self.snapshot.account is not None
        options = replace(self.snapshot.account.options, countries=countries)
        account = replace(self.snapshot.account, options=options)
        policy = self.policy
        if not isinstance(policy.countries.allow, str):
            rule = CountryRule(allow=countries, clause=policy.countries.clause)
            policy = policy.model_copy(update={"countries": rule})
        return replace(self, policy=policy, snapshot=replace(self.snapshot, account=account))


Value = TypeVar("Value")


def mostly(usual: Value, others: Iterable[Value]) -> st.SearchStrategy[Value]:
    """The usual value in most draws: a dial gets as far as its allowances only where nothing else stops it."""
    rest = st.sampled_from([*others])
    # Not at an end of the range, which is drawn more often than its middle.
    return st.integers(0, 9).flatmap(lambda turn: rest if turn == 5 else st.just(usual))


@st.composite
def accounts(draw: st.DrawFn) -> Account:
    """Accounts in any standing, that bought any countries for any time."""
    return Account(
        "acme",
        "any",
        draw(st.sampled_from(["UTC", "Asia/Tokyo", "America/New_York"])),
        standing=draw(mostly(Standing.ACTIVE, Standing)),
        options=Options(
            draw(mostly(frozenset({"GB", "DE"}), [frozenset(), frozenset(COUNTRIES)])),
            until_ms=draw(mostly(None, [MONTH_END_MS, 2 * MONTH_END_MS])),
            cycle_day=draw(st.integers(1, 31)),
        ),
        fraud=draw(st.booleans()),
    )


@st.composite
def numbers(draw: st.DrawFn) -> Number:
    """Classified numbers of any class, from several countries and none."""
    number_class = draw(mostly(NumberClass.GEOGRAPHIC, NumberClass))
    country = draw(st.sampled_from([*COUNTRIES, None]))
    dialled = draw(mostly("02079460123", ["101", "not dialled"]))
    return Number(dialled, f"{CODES[country]}2079460123", number_class, country)


@st.composite
def cases(draw: st.DrawFn, policies: tuple[Policy, ...] = PLANS) -> Case:
    """Dials on any of the policies, by accounts that used any amount of it."""
    policy, account = draw(st.sampled_from(policies)), draw(accounts())
    kind = draw(mostly(Kind.OUTBOUND, Kind) | st.sampled_from(sorted(policy.kinds.allow)))
    number = number_for(kind, draw(numbers()))
    encrypted = draw(st.none() | st.builds(Encrypted, st.booleans(), st.booleans()))
    at_ms = MONTH_END_MS + draw(st.integers(-100_000_000, 100_000_000))
    caller = draw(mostly("", ["+442079460001"]))
    dial = Dial("call-1", kind, number.dialled, "alice", "channel-1", at_ms, 60, caller, "", encrypted)
    meters = tuple(
        replace(meter, used_units=draw(amounts(meter)), reserved_units=draw(amounts(meter)))
        for meter in meters_at(account, policy, dial, number.number_class)
    )
    return Case(policy, number, dial, draw(snapshots(account, meters)))


def amounts(meter: MeterWindow) -> st.SearchStrategy[int]:
    """Units used or reserved: none, most of the limit, or anything past it."""
    limit = meter.limit_units or 100_000
    return st.sampled_from([0, 0, limit // 2, limit - 1, limit]) | st.integers(0, 2 * limit)


@st.composite
def snapshots(draw: st.DrawFn, account: Account, meters: tuple[MeterWindow, ...]) -> Snapshot:
    """What a ledger could hold of the account besides."""
    credits_ = st.builds(Credit, mostly("EUR", ["USD"]), mostly(10**8, [-1, 0, 69_999, 10**6]))
    identities = st.builds(Identity, st.booleans(), st.sampled_from([None, "+442079460001"]))
    return Snapshot(
        Line("alice", "acme", standing=draw(mostly(Standing.ACTIVE, Standing))),
        account,
        meters,
        draw(credits_ | credits_ | st.none()),
        live_calls=draw(mostly(0, range(12))),
        live_inbound=draw(mostly(0, range(6))),
        agreed=draw(st.frozensets(st.sampled_from(Consent))),
        identity=draw(st.none() | identities),
    )


@given(cases(), st.lists(cases(), max_size=4))
def test_the_same_dial_gets_the_same_decision_whatever_was_decided_in_between(
    case: Case, others: list[Case]
) -> None:
    first = case.decision()
    for other in others:
        other.decision()
    assert case.decision() == first


@given(cases(), st.booleans())
def test_emergency_numbers_are_allowed_under_everything(case: Case, known: bool) -> None:
    police = Number("112", None, NumberClass.EMERGENCY, case.number.country)
    snapshot = case.snapshot if known else Snapshot(None, None)
    for policy in (case.policy, None):
        assert decide(case.dial, police, snapshot, policy, RULES) == EMERGENCY


@given(cases())
def test_an_explanation_ends_with_the_decision_and_its_clause(case: Case) -> None:
    decision = case.decision()
    *looked, outcome = explain(case.dial, case.number, case.snapshot, case.policy, decision)
    assert (outcome.rule, outcome.clause, outcome.saw) == (
        "decision",
        decision.clause.id,
        str(decision.reason),
    )
    assert outcome.result.startswith("refused" if isinstance(decision, Refuse) else "allowed: ")
    if isinstance(decision, Refuse):
        # A rule before the outcome is the one that refused, on the clause that the decision names.
        assert [rule for rule in looked if rule.clause == decision.clause.id and refuses(rule.result)]
    else:
        assert not [rule for rule in looked if rule.result.startswith("refuses") and not outside(rule.rule)]


def refuses(result: str) -> bool:
    """Whether a rule that was looked at says that it ends the dial."""
    return result.startswith("refuses") or result == "has no room"


def outside(rule: str) -> bool:
    """Whether a rule says what the plan covers, so that credit may pay where it refuses (K4)."""
    return rule in ("classes", "period bought", "countries")


@given(cases(), st.data())
def test_more_use_never_turns_a_refusal_into_an_allowance(case: Case, data: st.DataObject) -> None:
    more = tuple(
        replace(
            meter,
            used_units=meter.used_units + data.draw(amounts(meter)),
            reserved_units=meter.reserved_units + data.draw(amounts(meter)),
        )
        for meter in case.snapshot.meters
    )
    if isinstance(case.with_meters(more).decision(), Allow):
        assert isinstance(case.decision(), Allow)


# Not where credit pays outside the plan and an allowance refuses inside it: there a country that is added
# may come under an allowance that is used up.
COVERING = (*POLICIES.values(), STRICT, plan(), priced_plan(countries='["GB"]', uncovered="refuse"))


@given(cases(COVERING), st.frozensets(st.sampled_from(COUNTRIES)), st.frozensets(st.sampled_from(COUNTRIES)))
def test_more_countries_never_turn_an_allowance_into_a_refusal(
    case: Case, some: frozenset[str], others: frozenset[str]
) -> None:
    fewer, more = case.with_countries(some), case.with_countries(some | others)
    if isinstance(fewer.decision(), Allow):
        assert isinstance(more.decision(), Allow)


def test_the_cases_get_as_far_as_allowances() -> None:
    reached: set[Reason] = set()

    @settings(max_examples=300, derandomize=True, database=None)
    @given(cases())
    def decided(case: Case) -> None:
        reached.add(case.decision().reason)

    decided()
    assert reached >= {
        Reason.WITHIN_ALLOWANCE,
        Reason.NOT_COUNTED,
        Reason.COUNTRY_NOT_COVERED,
        Reason.ALLOWANCE_RESERVED,
    }

"""What operators hand in, broken in every way: it is read, or refused with the documented error, and in time."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fairdial.config import ConfigError, load
from fairdial.policy import prefixes
from fairdial.policy.cards import RateCard, RateCardError
from fairdial.policy.document import PolicyError, parse_policy
from fairdial.policy.lint import lint
from fairdial.policy.numbers import Habit, Number, Numbering
from fairdial.policy.prefixes import NumberClass, PrefixTable, TableError
from fairdial.provision import Known, ProvisionError, read_entries
from tests.mutations import SPLINTERS, mutated
from tests.samples import NOON_MS

ROOT = Path(__file__).parents[2]
POLICIES = tuple(file.read_text() for file in sorted((ROOT / "policies").glob("*.toml")))
TABLE_TEXT = (Path(prefixes.__file__).parent / "data" / "prefixes.csv").read_text()
TABLE = "\n".join(TABLE_TEXT.splitlines()[:60])
CARD = (ROOT / "testbed" / "rates.csv").read_text()
KNOWN = Known(frozenset({"voxdirect", "kryptotel"}), "GB", NOON_MS)
NUMBERING = Numbering(PrefixTable.parse(TABLE_TEXT))
HABITS = (Habit(), Habit("US", carrier_prefixes=("9",)), Habit("DE", internal="_1XX,_*9X"))

ENTRIES_TOML = """
[[account]]
account = "acme"
policy = "voxdirect"
zone = "Europe/London"
countries = ["GB", "DE"]
until = 2027-01-01T00:00:00Z
cycle_day = 15
currency = "GBP"
[[line]]
line = "alice"
account = "acme"
carrier_prefixes = ["9"]
internal = "_1XX"
[[number]]
number = "+442079460001"
account = "acme"
[[credit]]
account = "acme"
amount = "12.50"
currency = "GBP"
reference = "invoice-1"
[[subscription]]
account = "acme"
policy = "kryptotel"
[[agreement]]
account = "acme"
consent = "surcharge"
agreed_by = "A. Customer"
"""
ENTRIES_CSV = (
    "account,policy,zone,countries,until,cycle_day\nacme,voxdirect,Europe/London,GB DE,2027-01-01T00:00:00Z,1\n",
    'line,account,region,carrier_prefixes,internal\nalice,acme,GB,9,"_1XX,_*9X"\nbob,acme,,,\n',
    "number,account,line\n+442079460001,acme,\n",
    'account,amount,currency,reference,note\nacme,12.50,GBP,inv-1,"a ""note"""\n',
    "account,subscription,plan\nacme,kryptotel,\n",
    "account,consent,agreed_by,note\nacme,surcharge,A. Customer,\n",
)

fuzzed = settings(max_examples=300, deadline=2_000, suppress_health_check=[HealthCheck.too_slow])


@fuzzed
@given(mutated(POLICIES))
def test_a_broken_policy_is_read_or_refused_with_its_faults(text: str) -> None:
    try:
        told = repr(parse_policy(text, "policy.toml"))
    except PolicyError as error:
        told = str(error) if error.faults else ""
    assert told.startswith(("Policy(", "policy.toml: "))


@fuzzed
@given(mutated(POLICIES))
def test_a_broken_policy_can_always_be_linted(text: str) -> None:
    for finding in lint(text, "policy.toml"):
        assert str(finding)


@fuzzed
@given(mutated(ENTRIES_CSV))
def test_a_broken_csv_of_entries_is_read_or_refused_with_its_faults(text: str) -> None:
    _read_entries(text, "entries.csv")


@fuzzed
@given(mutated((ENTRIES_TOML,)))
def test_a_broken_toml_of_entries_is_read_or_refused_with_its_faults(text: str) -> None:
    _read_entries(text, "entries.toml")


def _read_entries(text: str, where: str) -> None:
    faults: tuple[str, ...] = ()
    try:
        assert read_entries(text, where, KNOWN)
    except ProvisionError as error:
        faults = error.faults or ("an error without a fault",)
    assert all(fault.startswith(where) for fault in faults)


@fuzzed
@given(
    mutated((CARD,)),
    st.sampled_from(("a-z", *SPLINTERS)),
    st.sampled_from(("GBP", "gbp", "", "XXXX", "G\x00P")),
)
def test_a_broken_rate_card_is_read_or_refused_with_its_faults(text: str, name: str, currency: str) -> None:
    problems: tuple[str, ...] = ()
    try:
        assert all(rate.prefix.startswith("+") for rate in RateCard.parse(text, name, currency))
    except RateCardError as error:
        problems = error.problems or ("an error without a problem",)
    assert all(problem.startswith("rates.csv") for problem in problems)


@fuzzed
@given(mutated((TABLE,)))
def test_a_broken_prefix_table_is_read_or_refused_with_its_faults(text: str) -> None:
    problems: tuple[str, ...] = ()
    try:
        assert Numbering(PrefixTable.parse(text)).classify("02079460123", HABITS[0])
    except TableError as error:
        problems = error.problems or ("an error without a problem",)
    assert all(problem.startswith("prefixes.csv") for problem in problems)


@pytest.mark.parametrize(
    ("read", "error"),
    [
        (lambda text: parse_policy(text, "x"), PolicyError),
        (lambda text: read_entries(text, "x.toml", KNOWN), ProvisionError),
        (lambda text: read_entries(text, "x.csv", KNOWN), ProvisionError),
        (lambda text: RateCard.parse(text, "a", "GBP"), RateCardError),
        (PrefixTable.parse, TableError),
    ],
    ids=["policy", "entries-toml", "entries-csv", "card", "prefixes"],
)
@pytest.mark.parametrize("text", [*SPLINTERS, *(f"name = {splinter}" for splinter in SPLINTERS)])
def test_what_is_no_document_is_refused(
    read: Callable[[str], object], error: type[Exception], text: str
) -> None:
    with pytest.raises(error):
        read(text)


CONFIG = """
switch = "lon1"
[ari]
url = "http://127.0.0.1:8088/ari"
[desk]
region = "GB"
[calls]
ring_s = 60
warn_at_s = [60, 10]
"""
VARIABLES = ("FAIRDIAL_DESK__REGION", "FAIRDIAL_DESK", "FAIRDIAL_ARI__URL__X", "FAIRDIAL___", "FAIRDIAL_")


@fuzzed
@given(mutated((CONFIG,)), st.dictionaries(st.sampled_from(VARIABLES), st.sampled_from(SPLINTERS)))
def test_a_broken_configuration_is_read_or_refused(text: str, environment: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "fairdial.toml"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            told = repr(load(path, environment))
        except ConfigError as error:
            told = f"refused: {error}"
    assert told.startswith(("Config(", "switch=", f"refused: {path}", "refused: FAIRDIAL_"))


_dialled = (
    st.text()
    | st.text(st.sampled_from("0123456789+*#-. ()&@/,;|${}\x00\n\x1b٣²"), max_size=60)
    | st.from_regex(r"[9*#]?(\+|00|011)?[0-9]{0,45}", fullmatch=True)
)


@settings(max_examples=1_000, deadline=2_000)
@example("30000000000000", HABITS[2])  # Berlin, 16 digits with the country code
@given(_dialled, st.sampled_from(HABITS))
def test_any_dialled_string_has_a_class_and_can_be_printed(dialled: str, habit: Habit) -> None:
    number = NUMBERING.classify(dialled, habit)
    assert isinstance(number, Number)
    assert all(" " <= character <= "~" for character in number.dialled)
    assert number.e164 is None or (
        number.e164[0] == "+" and number.e164[1:].isdigit() and len(number.e164) <= 16
    )
    assert (number.number_class is NumberClass.EMERGENCY) == NUMBERING.is_emergency(dialled, habit)


@pytest.mark.parametrize("dialled", ["9" * 10**6, "+" * 10**6, "\u0663" * 10**6, "()" * 10**6, " " * 10**6])
def test_a_dialled_string_without_end_costs_nothing(dialled: str) -> None:
    began = time.process_time()
    assert NUMBERING.classify(dialled, HABITS[1]).number_class is NumberClass.INVALID
    assert not NUMBERING.is_emergency(dialled, HABITS[1])
    assert time.process_time() - began < 0.05

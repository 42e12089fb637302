"""An operator's file: the entries that it becomes, and a fault for everything that it cannot become."""

from collections.abc import Iterable

import pytest

from fairdial.ledger.contract import Entry, Payment, Provision, Subscribing
from fairdial.policy.account import Account, Agreement, Consent, Line, Options, OwnNumber
from fairdial.policy.numbers import Habit
from fairdial.provision import ENTRIES_MAX, Known, ProvisionError, read_entries
from tests.samples import NOON_MS

KNOWN = Known(("kryptotel", "redconnect", "voxdirect"), "GB", NOON_MS)
NEW_YEAR_MS = 1_798_761_600_000
"""2027-01-01 00:00:00 UTC."""
BOUGHT = Options(frozenset({"GB", "DE"}), NEW_YEAR_MS, 15, "Gold", "EUR", 6000)


def entries(text: str, where: str) -> list[Entry]:
    return list(read_entries(text, where, KNOWN))


def things(text: str, where: str = "customers.csv") -> list[Provision]:
    return [entry.what for entry in entries(text, where)]


def faults(text: str, where: str = "customers.csv") -> list[str]:
    with pytest.raises(ProvisionError) as raised:
        entries(text, where)
    assert str(raised.value) == "\n".join(raised.value.faults)
    return list(raised.value.faults)


def csv(*lines: str) -> str:
    return "".join(f"{line}\n" for line in lines)


KINDS: dict[str, tuple[str, Provision]] = {
    "account": (
        csv(
            "account,policy,zone,name,countries,until,cycle_day,plan,currency,estimate_s",
            'acme,kryptotel,Europe/London,"Acme, Ltd",GB DE,2027-01-01T01:00:00+01:00,15,Gold,EUR,6000',
        ),
        Account("acme", "kryptotel", "Europe/London", "Acme, Ltd", options=BOUGHT),
    ),
    "account of two columns": (csv("account,policy", "acme,redconnect"), Account("acme", "redconnect")),
    "line": (
        csv("line,account,region,carrier_prefixes,internal", "alice,acme,DE,9 010,_1XX"),
        Line("alice", "acme", Habit("DE", carrier_prefixes=("9", "010"), internal="_1XX")),
    ),
    "line in the house's region": (csv("line,account", "alice,acme"), Line("alice", "acme", Habit("GB"))),
    "number": (
        csv("number,account,line", "+442079460000,acme,alice"),
        OwnNumber("+442079460000", "acme", "alice"),
    ),
    "number of the account": (
        csv("number,account", "+442079460000,acme"),
        OwnNumber("+442079460000", "acme"),
    ),
    "subscription": (
        csv(
            "account,subscription,countries,until,cycle_day,plan,currency,estimate_s",
            "acme,kryptotel,DE GB,2027-01-01T00:00:00Z,15,Gold,EUR,6000",
        ),
        Subscribing("acme", "kryptotel", BOUGHT),
    ),
    "credit": (
        csv("account,amount,currency,reference,note", "acme,12.50,EUR,payment-1,by card"),
        Payment("acme", "EUR", 12_500_000, "payment-1", "by card"),
    ),
    "credit taken back": (
        csv("account,amount,currency,reference", "acme,-0.000001,EUR,back-1"),
        Payment("acme", "EUR", -1, "back-1"),
    ),
    "agreement": (
        csv("account,consent,agreed_by,note", "acme,surcharge,Ann Lee,by phone"),
        Agreement("acme", Consent.SURCHARGE, "Ann Lee", NOON_MS, "by phone"),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_csv_is_known_by_its_header(kind: str) -> None:
    text, expected = KINDS[kind]
    assert things(text) == [expected]


@pytest.mark.parametrize("kind", KINDS)
def test_columns_stand_in_any_order(kind: str) -> None:
    text, expected = KINDS[kind]
    # No quoted comma, so that the columns can be turned round by hand.
    text = text.replace('"Acme, Ltd"', "Acme")
    turned = csv(*(",".join(reversed(line.split(","))) for line in text.splitlines()))
    (found,) = things(turned)
    assert found == things(text)[0]
    assert type(found) is type(expected)


def test_what_a_spreadsheet_saves_is_read() -> None:
    text = "\ufeffaccount,policy,zone\r\n# ours\r\n\r\nacme,kryptotel,\r\n abc , redconnect ,Europe/Paris\r\n"
    assert entries(text, "customers.csv") == [
        Entry("customers.csv, line 4", Account("acme", "kryptotel")),
        Entry("customers.csv, line 5", Account("abc", "redconnect", "Europe/Paris")),
    ]


TOML = """\
# Customers
[[line]]
line = "alice"
account = "acme"
carrier_prefixes = ["9", "010"]

[[account]]
account = "acme"
policy = "kryptotel"
zone = "Europe/London"
countries = [
  "GB",
  "DE",
]
until = 2027-01-01T00:00:00Z
cycle_day = 15
plan = "Gold"
currency = "EUR"
estimate_s = 6000

[[account]]
account = "abc"
policy = "redconnect"
until = "2027-01-01T00:00:00Z"

[[number]]
number = "+442079460000"
account = "acme"
line = "alice"

[[subscription]]
account = "abc"
policy = "voxdirect"

[[credit]]
account = "acme"
amount = "12.50"
currency = "EUR"
reference = "payment-1"

[[agreement]]
account = "acme"
consent = "surcharge"
agreed_by = "Ann Lee"
"""


def test_a_toml_holds_all_kinds_in_the_order_in_which_they_need_each_other() -> None:
    assert entries(TOML, "customers.toml") == [
        Entry(
            "customers.toml, line 7, [[account]] 1",
            Account("acme", "kryptotel", "Europe/London", options=BOUGHT),
        ),
        Entry(
            "customers.toml, line 21, [[account]] 2",
            Account("abc", "redconnect", options=Options(until_ms=NEW_YEAR_MS)),
        ),
        Entry(
            "customers.toml, line 2, [[line]] 1",
            Line("alice", "acme", Habit("GB", carrier_prefixes=("9", "010"))),
        ),
        Entry("customers.toml, line 26, [[number]] 1", OwnNumber("+442079460000", "acme", "alice")),
        Entry("customers.toml, line 31, [[subscription]] 1", Subscribing("abc", "voxdirect", Options())),
        Entry("customers.toml, line 35, [[credit]] 1", Payment("acme", "EUR", 12_500_000, "payment-1")),
        Entry(
            "customers.toml, line 41, [[agreement]] 1",
            Agreement("acme", Consent.SURCHARGE, "Ann Lee", NOON_MS),
        ),
    ]


def test_a_toml_of_windows_is_read() -> None:
    assert entries("\ufeff" + TOML.replace("\n", "\r\n"), "customers.toml") == entries(TOML, "customers.toml")


@pytest.mark.parametrize(
    ("header", "row", "words"),
    [
        ("account,policy", "acme,kryptotl", "column policy: policy 'kryptotl' is not loaded; write kryptotel"),
        (
            "account,policy",
            "acme,nosuch",
            "column policy: policy 'nosuch' is not loaded; known are kryptotel, redconnect, voxdirect",
        ),
        ("account,subscription", "acme,nosuch", "column subscription: policy 'nosuch' is not loaded; known are"),
        ("account,policy", "a b,kryptotel", "column account: account id 'a b' must be 1 to 80 printable"),
        ("account,policy", ",kryptotel", "column account: missing; write it"),
        ("account,policy,zone", "acme,kryptotel,Mars/Base", "column zone: time zone 'Mars/Base' is unknown"),
        ("account,policy,countries", "acme,kryptotel,GB UK", "column countries: country 'UK' is not an ISO"),
        ("account,policy,until", "acme,kryptotel,2027", "column until: '2027' is not an ISO 8601 time; write"),
        ("account,policy,until", "acme,kryptotel,2027-01-01", "column until: '2027-01-01' has no time zone; add Z"),
        ("account,policy,cycle_day", "acme,kryptotel,32", "column cycle_day: cycle day 32 is not a day of a month"),
        ("account,policy,cycle_day", "acme,kryptotel,1.5", "column cycle_day: '1.5' is not a whole number; write"),
        ("account,policy,currency", "acme,kryptotel,EURO", "column currency: currency 'EURO' is not an ISO 4217"),
        ("account,policy,estimate_s", "acme,kryptotel,-1", "column estimate_s: '-1' is not a whole number"),
        ("line,account", 'al"ice,acme', "column line: line id 'al\"ice' must be 1 to 80 printable ASCII"),
        ("line,account,region", "alice,acme,ZZ", "column region: region 'ZZ'"),
        ("line,account,carrier_prefixes", "alice,acme,nine", "column carrier_prefixes: "),
        ("line,account,internal", "alice,acme,_X.", "column internal: "),
        ("number,account", "02079460000,acme", "column number: number '02079460000' is not in E.164; write it"),
        ("account,amount,currency,reference", 'acme,"12,50",EUR,1', "column amount: '12,50' is not an amount"),
        ("account,amount,currency,reference", "acme,--5,EUR,1", "column amount: '-5' is not an amount"),
        ("account,amount,currency,reference", "acme,5,EUR,", "column reference: missing; write it"),
        ("account,amount,currency,reference", "acme,5,XXX,1", "column currency: currency 'XXX' is not"),
        ("account,consent,agreed_by", "acme,all,Ann", "column consent: 'all' cannot be agreed to; write surcharge"),
        ("account,policy", "acme", "1 fields where 2 are wanted: write account,policy"),
        ("account,policy", 'acme,"kryptotel', "close every quote on the line it begins"),
    ],
)  # fmt: skip
def test_a_fault_names_file_line_column_and_cure(header: str, row: str, words: str) -> None:
    (fault,) = faults(csv(header, "# a comment", row))
    assert fault.startswith("customers.csv, line 3")
    assert words in fault


TWO_ROWS = "a,b,c\nd,e,f\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "account,polcy,zone\n" + TWO_ROWS,
            ["column polcy: no such column; write policy", "column policy: missing; add it"],
        ),
        ("account,policy,zon\n" + TWO_ROWS, ["column zon: no such column; write zone"]),
        ("account,policy,policy\n" + TWO_ROWS, ["column policy: stands twice; keep one of the two"]),
        ("line,region,internal\n" + TWO_ROWS, ["column account: missing; add it"]),
        (
            "account,policy,estimate_min\n" + TWO_ROWS,
            ["column estimate_min: no such column; write estimate_s (minutes x 60)"],
        ),
        ("account;policy\n" + TWO_ROWS, ["not separated by commas; save the file as CSV with commas"]),
        (
            "account,zone\n" + TWO_ROWS,
            ["the header does not tell what the rows are; begin with column names"],
        ),
        ("", ["line 1: the header does not tell what the rows are"]),
        ("account,policy\n", ["nothing is in it; write at least one entry"]),
    ],
)
def test_a_faulty_header_is_told_once(text: str, words: list[str]) -> None:
    found = faults(text)
    assert len(found) == len(words)
    assert all(word in fault for word, fault in zip(words, found, strict=True))


ACCOUNT = '[[account]]|account = "a"|policy = "kryptotel"|'
CREDIT = '[[credit]]|account = "a"|currency = "EUR"|'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (ACCOUNT + "cycle_day = true", "line 4, [[account]] 1, key cycle_day: "),
        (ACCOUNT + "policie = 1", "line 4, [[account]] 1, key policie: no such key; write policy"),
        (ACCOUNT + "until = 2027-01-01", "line 4, [[account]] 1, key until: '2027-01-01' has no time zone"),
        ('[[account]]|account = 5|policy = "kryptotel"', "line 2, [[account]] 1, key account: "),
        ('[[account]]|policy = "kryptotel"', "line 1, [[account]] 1, key account: missing; write it"),
        (
            CREDIT + 'amount = 12.5|reference = "1"',
            "line 4, [[credit]] 1, key amount: an amount is a text; write it in quotes",
        ),
        (
            CREDIT + 'amount = "5"|reference = ""',
            "line 5, [[credit]] 1, key reference: empty; write your own key",
        ),
        (
            '[[agreement]]|account = "a"|consent = "surcharge"|agreed_by = " "',
            "line 4, [[agreement]] 1, key agreed_by: an agreement needs a name: say who gave it",
        ),
        ('[[accounts]]|account = "a"', "line 1, accounts: no such key; write account"),
        ("account = 5", "line 1, account: "),
        ("[[account]", "not TOML: "),
        ("", "nothing is in it; write at least one entry"),
    ],
)
def test_a_fault_of_a_toml_names_line_table_key_and_cure(text: str, words: str) -> None:
    (fault,) = faults(text.replace("|", "\n"), "customers.toml")
    assert fault.startswith("customers.toml")
    assert words in fault


def test_every_fault_of_a_csv_is_told_at_once() -> None:
    text = csv(
        "account,policy,zone,countries", "acme,kryptotl,Mars/Base,UK", "good,kryptotel,,", "a b,redconnect,,"
    )
    found = faults(text)
    assert [fault.split(":")[0] for fault in found] == [
        "customers.csv, line 2, column countries",
        "customers.csv, line 2, column policy",
        "customers.csv, line 2, column zone",
        "customers.csv, line 4, column account",
    ]


def test_every_fault_of_a_toml_is_told_at_once() -> None:
    text = '[[account]]\naccount = "acme"\npolicy = "nosuch"\n[[lin]]\n[[number]]\nnumber = "44"\naccount = "acme"\n'
    found = faults(text, "customers.toml")
    assert [fault.split(":")[0] for fault in found] == [
        "customers.toml, line 4, lin",
        "customers.toml, line 3, [[account]] 1, key policy",
        "customers.toml, line 6, [[number]] 1, key number",
    ]


@pytest.mark.parametrize("where", ["customers", "customers.xlsx", "customers.csv.bak"])
def test_a_file_is_named_after_what_it_holds(where: str) -> None:
    assert faults("account,policy\n", where) == [
        f"{where}: neither .toml nor .csv; name the file after what it holds"
    ]


def test_a_file_has_a_bound() -> None:
    def of(numbers: Iterable[int]) -> str:
        return csv("account,policy", *(f"account-{number},kryptotel" for number in numbers))

    assert len(entries(of(range(ENTRIES_MAX)), "customers.csv")) == ENTRIES_MAX
    (fault,) = faults(of(range(ENTRIES_MAX + 1)))
    assert "more than 5000 entries; split it into files of that many at most" in fault

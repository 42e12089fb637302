"""What a notice says of a new version, and how a policy is shown."""

from pathlib import Path

import pytest

from fairdial.policy.difference import difference, takes_effect
from fairdial.policy.document import Policy, parse_policy
from fairdial.policy.show import Row, show
from tests.samples import PLAN

BASE = (
    PLAN.replace("limit_s = 6000", 'limit_s = 144000\nused_up = "overage"')
    .replace('["outbound", "inbound"]', '["outbound", "inbound", "callback"]\nweights = { callback = 2 }')
    .replace('"voicemail"]', '"voicemail", "callback", "conference", "message"]')
    .replace(
        'title = "A plan for tests"', 'title = "A plan for tests"\nnotice_days = 30\nchanges_clause = "P20"'
    )
    + """
[[allowances]]
name = "rooms"
meter = "conference"
limit_s = 360000
period = "month"
counts = ["conference"]
clause = "P5"
[[allowances]]
name = "texts"
meter = "messages"
limit = 30000
period = "month"
scope = "plan"
counts = ["message"]
clause = "P6"
[uncovered]
pay = "credit"
clause = "P7"
[caps]
lines = { limit = 100, clause = "P8" }
[charges]
clause = "P9"
currency = "EUR"
overage_per_min = "0.020"
connect_fee = "0.05"
increment = "60/60"
[identity]
caller_number = "replace"
clause = "P10"
[encryption]
signalling = "required"
media = "required"
otherwise = "flag"
clause = "P11"
[standing]
clause = "P14"
fraud_clause = "P15"
[[detectors]]
name = "many"
measure = "distinct_callees"
threshold = 30
window = "hour"
step = "notice"
clause = "P12"
[[ladder]]
name = "end"
measure = "open_cases"
threshold = 3
window = "month"
step = "terminate"
clause = "P13"
"""
)


def policy(*changes: tuple[str, str]) -> Policy:
    text = BASE
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new, 1)
    return parse_policy(text, "plan.toml")


def said(old: str, new: str) -> list[str]:
    return list(difference(policy(), policy((old, new))))


DETECTOR = BASE[BASE.index("[[detectors]]") : BASE.index("[[ladder]]")]
TEXTS = BASE[BASE.index('[[allowances]]\nname = "texts"') : BASE.index("[uncovered]")]
CHARGES = BASE[BASE.index("[charges]") : BASE.index("[identity]")]
IDENTITY = BASE[BASE.index("[identity]") : BASE.index("[encryption]")]
ENCRYPTION = BASE[BASE.index("[encryption]") : BASE.index("[standing]")]
STANDING = BASE[BASE.index("[standing]") : BASE.index("[[detectors]]")]
FORFEITED = "accounts terminated for fraud forfeit their credit and still owe their charges"
UNCOVERED = BASE[BASE.index("[uncovered]") : BASE.index("[caps]")]


@pytest.mark.parametrize(
    ("old", "new", "sentences"),
    [
        ("144000", "120000", ["The monthly allowance falls from 2,400 to 2,000 minutes (P4)."]),
        ("144000", "180000", ["The monthly allowance rises from 2,400 to 3,000 minutes (P4)."]),
        ("144000", "143999", ["The monthly allowance falls from 144,000 to 143,999 seconds (P4)."]),
        ("360000", "36000", ["The monthly conference allowance falls from 100 to 10 hours (P5)."]),
        (
            "= 30000",
            "= 1",
            ["The monthly message allowance of the whole plan falls from 30,000 to 1 message (P6)."],
        ),
        ("limit_s = 144000\n", "", ["The monthly allowance no longer has a limit (P4)."]),
        (
            'period = "month"\ncounts = ["outbound"',
            'period = "day"\ncounts = ["outbound"',
            ["The monthly allowance (2,400 minutes) becomes the daily allowance (2,400 minutes) (P4)."],
        ),
        (
            'used_up = "overage"',
            'used_up = "overage"\nscope = "line"',
            [
                "The monthly allowance (2,400 minutes) becomes the monthly allowance of each line (2,400 minutes) (P4)."
            ],
        ),
        (
            'used_up = "overage"',
            'used_up = "refuse"',
            ["Past the monthly allowance, calls are refused instead of charged as overage (P4)."],
        ),
        (
            '"inbound", "callback"]\nw',
            '"callback"]\nw',
            ["Inbound calls no longer count in the monthly allowance (P4)."],
        ),
        (
            '"inbound", "callback"]\nw',
            '"inbound", "callback", "internal"]\nw',
            ["Internal calls now count in the monthly allowance (P4)."],
        ),
        (
            "{ callback = 2 }",
            "{ callback = 3 }",
            ["Callback calls count 3 times instead of twice in the monthly allowance (P4)."],
        ),
        (
            "{ callback = 2 }",
            "{}",
            ["Callback calls count once instead of twice in the monthly allowance (P4)."],
        ),
        (
            TEXTS,
            "",
            ["The monthly message allowance of the whole plan of 30,000 messages no longer applies (P6)."],
        ),
        (
            TEXTS,
            TEXTS + TEXTS.replace('"texts"', '"more"').replace('"month"', '"hour"'),
            [
                "There is a new hourly message allowance of the whole plan of 30,000 messages for messages (P6)."
            ],
        ),
        ('"geographic", "mobile"', '"geographic"', ["Calls to mobile numbers are no longer covered (P1)."]),
        (
            '"mobile"]',
            '"mobile", "premium_rate", "pager"]',
            ["Calls to pager and premium rate numbers are now covered (P1)."],
        ),
        (
            '"GB", "DE"',
            '"GB", "FR"',
            ["Calls to FR are now covered (P2).", "Calls to DE are no longer covered (P2)."],
        ),
        ('["GB", "DE"]', '"any"', ["The plan covers any country instead of DE and GB (P2)."]),
        ('"voicemail", "callback"', '"callback"', ["The plan no longer has voicemail retrieval (P0)."]),
        (
            '"voicemail", "callback"',
            '"voicemail", "collect", "callback"',
            ["The plan now has reverse-charge calls (P0)."],
        ),
        ("14400", "7200", ["Outbound calls end after 2 hours instead of 4 hours (P3)."]),
        ("outbound = 14400, ", "", ["Outbound calls no longer have a longest time (P3)."]),
        ("outbound = 14400", "outbound = 14400, inbound = 90", ["Inbound calls end after 90 seconds (P3)."]),
        (UNCOVERED, "", ["Calls to numbers outside the plan are now refused (P7)."]),
        (
            'pay = "credit"',
            'pay = "credit"\nclasses = ["geographic", "mobile"]',
            [
                "Calls to VoIP, emergency, geographic or mobile, global service, internal, invalid, pager, personal,"
                " premium rate, satellite, shared-cost, short-code, toll-free, universal access and voicemail numbers"
                " outside the plan are now refused (P7)."
            ],
        ),
        ("limit = 100,", "limit = 50,", ["At most 50 lines of an account are possible instead of 100 (P8)."]),
        (
            'lines = { limit = 100, clause = "P8" }',
            "",
            ["The number of lines of an account is no longer limited (P8)."],
        ),
        (
            "[caps]",
            '[caps]\nparticipants = { limit = 4, clause = "P21" }',
            ["At most 4 participants in a conference are possible (P21)."],
        ),
        ('"0.020"', '"0.03"', ["A minute past the allowance costs 0.03 EUR instead of 0.02 EUR (P9)."]),
        ('"0.020"', '"0.02"', []),
        (
            'connect_fee = "0.05"\n',
            "",
            ["The connection of a charged call costs nothing instead of 0.05 EUR (P9)."],
        ),
        (
            'clause = "P9"',
            'clause = "P9"\nsurcharge_per_min = "0.01"\nclauses = { surcharge_per_min = "P22" }',
            ["The surcharge on each minute is 0.01 EUR (P22)."],
        ),
        (
            'clause = "P9"',
            'clause = "P9"\ncard = "gold"',
            ["Prices by destination are those of the rate card gold (P9)."],
        ),
        ("60/60", "1/1", ["Charged seconds are billed by 1/1 instead of 60/60 (P9)."]),
        (
            '"replace"',
            '"own"',
            ["From now on calls that show a number which is not the account's own are refused (P10)."],
        ),
        (IDENTITY, "", ["From now on calls may show any caller number (P10)."]),
        (
            '"flag"',
            '"refuse"',
            ["From now on calls without encrypted media and signalling are refused (P11)."],
        ),
        (
            ENCRYPTION,
            ENCRYPTION.replace('"required"', '"any"'),
            ["From now on calls need no encryption (P11)."],
        ),
        (ENCRYPTION, "", ["From now on calls need no encryption (P11)."]),
        (
            STANDING,
            "",
            [
                "It no longer holds that accounts may be suspended or terminated at once (P14).",
                "It no longer holds that accounts terminated for fraud forfeit their credit and still owe their"
                " charges (P15).",
            ],
        ),
        # Whichever clause it rests on, the same is done.
        ('fraud_clause = "P15"\n', "", []),
        (
            "threshold = 30",
            "threshold = 20",
            [
                "From now on, where different numbers called by one line reach 20 in an hour, a notice follows (P12)."
            ],
        ),
        (
            DETECTOR,
            "",
            [
                "It no longer holds that where different numbers called by one line reach 30 in an hour,"
                " a notice follows (P12)."
            ],
        ),
        (
            "notice_days = 30",
            "notice_days = 1",
            ["Changes are announced 1 day ahead instead of 30 days (P20)."],
        ),
    ],
)
def test_a_change_is_told_in_a_sentence_with_its_clause(old: str, new: str, sentences: list[str]) -> None:
    assert said(old, new) == sentences


def test_what_customers_do_not_notice_is_not_told() -> None:
    assert difference(policy(), policy()) == ()
    renamed = policy(
        ('version = "1"', 'version = "2"'), ("A plan for tests", "Another title"), ('"P4"', '"P99"')
    )
    assert difference(policy(), renamed) == ()


def test_going_back_tells_the_opposite() -> None:
    more = policy(('"mobile"]', '"mobile", "pager"]'), ("144000", "120000"))
    assert difference(policy(), more) == (
        "Calls to pager numbers are now covered (P1).",
        "The monthly allowance falls from 2,400 to 2,000 minutes (P4).",
    )
    assert difference(more, policy()) == (
        "Calls to pager numbers are no longer covered (P1).",
        "The monthly allowance rises from 2,000 to 2,400 minutes (P4).",
    )


def test_a_clause_for_suspension_that_is_new_is_told() -> None:
    assert difference(policy((STANDING, "")), policy()) == (
        "From now on accounts may be suspended or terminated at once (P14).",
        "From now on accounts terminated for fraud forfeit their credit and still owe their charges (P15).",
    )


def test_what_is_gone_is_told_with_the_clause_that_it_had() -> None:
    old = policy(('clause = "P9"', 'clause = "P9"\nclauses = { connect_fee = "P30" }'))
    free = policy(('connect_fee = "0.05"\n', ""))
    assert difference(old, free) == (
        "The connection of a charged call costs nothing instead of 0.05 EUR (P30).",
    )
    assert len(difference(old, policy((CHARGES, "")))) == 2


def test_a_limit_where_there_was_none_is_told() -> None:
    unlimited = policy(("limit_s = 144000\n", ""))
    assert difference(unlimited, policy()) == ("The monthly allowance is now 2,400 minutes a month (P4).",)


def test_a_meter_without_a_limit_comes_and_goes_unnoticed() -> None:
    uncounted = policy((TEXTS, ""))
    counted = policy((TEXTS, TEXTS.replace("limit = 30000\n", "")))
    assert difference(uncounted, counted) == difference(counted, uncounted) == ()
    assert len(difference(uncounted, policy())) == 1


def test_allowances_that_would_be_called_the_same_are_told_apart() -> None:
    other = (
        TEXTS.replace('"texts"', '"inbound"')
        .replace("limit = ", "limit_s = ")
        .replace('"message"', '"inbound"')
    )
    other = other.replace('meter = "messages"\n', "").replace('scope = "plan"\n', "")
    old = policy((TEXTS, other))
    new = policy((TEXTS, other.replace("30000", "600")))
    assert difference(old, new) == (
        "The monthly allowance for inbound calls falls from 500 to 10 minutes (P6).",
    )


def test_the_day_is_told() -> None:
    dated = policy(("notice_days", "effective = 2026-12-01\nnotice_days"))
    assert takes_effect(dated) == "This takes effect on 1 December 2026, at midnight of your time zone."
    assert takes_effect(policy()) == "This takes effect at once."


def test_a_policy_is_shown_rule_by_rule() -> None:
    rows = show(policy())
    assert Row("policy", "name", "plan 1: A plan for tests") in rows
    assert Row("policy", "effective", "at once", "P20") in rows
    assert Row("policy", "notice", "30 days before a change", "P20") in rows
    assert Row("classes", "covered", "geographic and mobile numbers", "P1") in rows
    assert Row("countries", "covered", "DE and GB", "P2") in rows
    assert Row("uncovered", "numbers outside the plan", "paid from credit", "P7") in rows
    assert Row("longest_call", "outbound calls", "4 hours", "P3") in rows
    counted = "callback calls, inbound calls and outbound calls"
    assert (
        Row(
            "allowances",
            "voice (voice, the account)",
            f"{counted}: 2,400 minutes a month, then charged as overage",
            "P4",
        )
        in rows
    )
    assert Row("allowances", "voice", "callback calls count twice", "P4") in rows
    assert Row("caps", "lines", "at most 100 lines of an account", "P8") in rows
    assert Row("charges", "overage_per_min", "a minute past the allowance costs 0.02 EUR", "P9") in rows
    assert Row("charges", "increment", "seconds are billed by 60/60", "P9") in rows
    assert Row("standing", "at once", "accounts may be suspended or terminated at once", "P14") in rows
    assert Row("standing", "fraud", FORFEITED, "P15") in rows
    trigger = "where different numbers called by one line reach 30 in an hour, a notice follows"
    assert Row("detectors", "many", trigger, "P12") in rows


def test_fraud_rests_on_the_clause_for_suspension_where_it_has_none_of_its_own() -> None:
    rows = show(policy(('fraud_clause = "P15"\n', "")))
    assert Row("standing", "fraud", FORFEITED, "P14") in rows
    assert {row.section for row in show(policy((STANDING, "")))}.isdisjoint({"standing"})


@pytest.mark.parametrize(
    "file", sorted(Path(__file__).parents[2].glob("policies/*.toml")), ids=lambda file: file.name
)
def test_each_clause_of_a_shipped_policy_is_shown(file: Path) -> None:
    shipped = parse_policy(file.read_text(), file.name)
    assert {row.clause for row in show(shipped)} - {""} == shipped.clause_ids()

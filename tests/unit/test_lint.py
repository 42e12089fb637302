"""What `lint` finds in a policy, where it says it stands, and what it leaves alone."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairdial.policy.lint import Finding, Severity, lint
from fairdial.policy.source import key_lines, line_of
from tests.samples import PLAN

CONFERENCE = """
[[allowances]]
name = "rooms"
meter = "conference"
limit_s = 36000
period = "day"
counts = ["conference"]
clause = "P5"
"""
DATES = 'title = "A plan for tests"\npublished = 2026-11-01\neffective = 2026-11-10\nnotice_days = 9'
CHARGES = '[charges]\nclause = "P6"\n'
# Longer than its allowance on purpose, which is what two of the tests are about.
FITTING = PLAN.replace("outbound = 14400", "outbound = 6000")
SOUND = (
    FITTING.replace('title = "A plan for tests"', DATES)
    .replace('"voicemail"]', '"voicemail", "conference", "callback", "message"]')
    .replace('["outbound", "inbound"]', '["outbound", "inbound", "callback"]\nweights = { callback = 2 }')
    + CONFERENCE
    + CHARGES
)


def found(text: str, expected: tuple[str, ...] = ()) -> list[Finding]:
    return list(lint(text, "plan.toml", expected))


def only(text: str, expected: tuple[str, ...] = ()) -> Finding:
    (finding,) = found(text, expected)
    return finding


def line_with(text: str, part: str) -> int:
    (line,) = [number for number, line in enumerate(text.splitlines(), start=1) if part in line]
    return line


def test_a_sound_policy_has_no_findings() -> None:
    assert found(SOUND) == []


ERROR, WARNING = Severity.ERROR, Severity.WARNING
COUNTS = 'counts = ["outbound", "inbound", "callback"]'
CASES: list[tuple[str, str, str, Severity, str]] = [
    # What is replaced by what, and the key, severity and part of the words of the one finding.
    ('["GB", "DE"]', "[]", "countries.allow", ERROR, "in no country"),
    ('["geographic", "mobile"]', "[]", "classes.allow", ERROR, "no class of number is covered"),
    ('["geographic", "mobile"]', '["mobile", "emergency"]', "classes.allow", WARNING, "before any policy"),
    ("outbound = 6000", "outbound = 6060", "longest_call.seconds.outbound", WARNING, "of 101 minutes do not fit"),
    ("internal = 3600", "callback = 3060", "longest_call.seconds.callback", WARNING, "do not fit into allowance"),
    ("internal = 3600", "collect = 3600", "longest_call.seconds.collect", WARNING, "which are not allowed"),
    (
        'clause = "P3"',
        'clause = "P3"\nclauses = { inbound = "P7" }',
        "longest_call.clauses.inbound",
        WARNING,
        "which have no limit",
    ),
    (COUNTS, COUNTS.replace("]", ', "collect"]'), "allowances.0.counts", WARNING, "counts collect, not allowed"),
    (COUNTS, COUNTS.replace("]", ', "emergency"]'), "allowances.0.counts", WARNING, "never counted"),
    ("{ callback = 2 }", "{ internal = 2 }", "allowances.0.weights.internal", WARNING, "is not counted here"),
    ("{ callback = 2 }", '{ callback = "parties" }', "allowances.0.weights.callback", ERROR, "only conferences"),
    (
        'counts = ["conference"]',
        'counts = ["conference"]\nweights = { conference = "parties" }',
        "allowances.1.weights.conference",
        ERROR,
        "the conference meter is a room's time",
    ),
    ('counts = ["conference"]', 'counts = ["inbound"]', "allowances.1.counts", ERROR, "conferences alone"),
    ('counts = ["conference"]', "counts = []", "allowances.1.counts", ERROR, "counts no kind"),
    ('"voicemail", "conference"', '"voicemail"', "allowances.1.counts", ERROR, "only what is not allowed"),
    (COUNTS, f'{COUNTS}\nused_up = "overage"', "allowances.0.used_up", ERROR, "overage has no price"),
    (COUNTS, f'{COUNTS}\nused_up = "credit"', "allowances.0.used_up", ERROR, "credit has no prices"),
    ("[charges]", '[uncovered]\npay = "credit"\nclause = "P9"\n[charges]', "uncovered.pay", ERROR, "no prices"),
    (
        "[charges]",
        '[uncovered]\npay = "refuse"\nclasses = ["mobile"]\nclause = "P9"\n[charges]',
        "uncovered.classes",
        WARNING,
        "nothing is paid",
    ),
    (CHARGES, f'{CHARGES}overage_per_min = "0.02"', "charges.overage_per_min", WARNING, "past its limit"),
    (CHARGES, f'{CHARGES}clauses = {{ minimum = "P8" }}', "charges.clauses.minimum", WARNING, "is not set"),
    (CHARGES, '[encryption]\nsignalling = "any"\nmedia = "any"\notherwise = "flag"\nclause = "P8"', "encryption",
     WARNING, "requires nothing"),
    ("notice_days = 9", "notice_days = 10", "effective", ERROR, "is before 2026-11-11"),
    ("effective = 2026-11-10\nnotice_days = 9", "effective = 2026-10-31", "effective", ERROR, "is before 2026-11-01"),
    ("2026-11-10", '"at_once"', "effective", ERROR, "at once leaves no time for 9 days"),
    ("published = 2026-11-01", "", "notice_days", ERROR, "a day that is not written"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "key", "severity", "words"), CASES)
def test_what_does_not_fit_is_found(old: str, new: str, key: str, severity: Severity, words: str) -> None:
    assert SOUND.count(old) >= 1
    finding = only(SOUND.replace(old, new))
    assert (finding.key, finding.severity) == (key, severity)
    assert words in finding.words
    assert finding.cure


@pytest.mark.parametrize(("used_up", "price"), [("overage", "overage_per_min"), ("credit", "card")])
def test_use_past_a_limit_with_a_price_is_left_alone(used_up: str, price: str) -> None:
    text = SOUND.replace(COUNTS, f'{COUNTS}\nused_up = "{used_up}"')
    assert only(text).key == "allowances.0.used_up"
    assert found(f'{text}{price} = "1"\n') == []


def test_a_call_may_outlast_an_allowance_that_goes_on_past_its_limit() -> None:
    text = SOUND.replace("outbound = 6000", "outbound = 9000")
    assert only(text).key == "longest_call.seconds.outbound"
    paid = text.replace(COUNTS, f'{COUNTS}\nused_up = "overage"') + 'overage_per_min = "0.02"\n'
    assert found(paid) == []


def test_a_policy_may_hold_at_once_where_no_notice_is_due() -> None:
    assert found(SOUND.replace("2026-11-10\nnotice_days = 9", '"at_once"\nnotice_days = 0')) == []


def test_a_credit_with_a_card_is_left_alone() -> None:
    text = f'{SOUND}card = "standard"\n[uncovered]\npay = "credit"\nclasses = ["mobile"]\nclause = "P9"\n'
    assert found(text) == []


def test_a_list_of_countries_needs_a_kind_that_goes_out() -> None:
    inbound = FITTING.replace('"outbound", "inbound"', '"inbound"').replace("outbound = 6000, ", "")
    assert only(inbound).key == "countries.allow"
    assert found(inbound.replace('["GB", "DE"]', '"any"')) == []


def test_no_kind_at_all_is_found() -> None:
    nothing = PLAN[: PLAN.index("[[allowances]]")].replace(
        '["outbound", "inbound", "internal", "voicemail"]', "[]"
    )
    assert "no kind of call is allowed" in [finding.words for finding in found(nothing)]


def test_a_cap_on_participants_needs_conferences() -> None:
    cap = '[caps]\nparticipants = { limit = 4, clause = "P9" }\n'
    assert only(FITTING + cap).key == "caps.participants"
    assert found(SOUND + cap) == []


def test_two_allowances_that_measure_the_same_are_found() -> None:
    second = CONFERENCE.replace('"rooms"', '"halls"')
    finding = only(SOUND + second)
    assert (finding.key, finding.severity) == ("allowances.2", Severity.ERROR)
    assert "'rooms'" in finding.words
    assert found(SOUND + second.replace('"day"', '"month"')) == []
    assert found(SOUND + second + 'scope = "line"\n') == []


def test_a_use_that_is_never_past_a_limit_is_found() -> None:
    unlimited = SOUND.replace("limit_s = 6000\n", 'used_up = "overage"\n') + 'overage_per_min = "0.02"\n'
    assert only(unlimited).key == "allowances.0.used_up"


def test_a_message_needs_a_price_of_its_own() -> None:
    text = (
        f'{SOUND}overage_per_message = "0.01"\n[[allowances]]\nname = "texts"\nmeter = "messages"\nlimit = 9\n'
        'period = "month"\ncounts = ["message"]\nused_up = "overage"\nclause = "P9"\n'
    )
    assert found(text) == []
    assert {finding.key for finding in found(text.replace("per_message", "per_min"))} == {
        "allowances.2.used_up",
        "charges.overage_per_min",
    }


DETECTOR = """
[[detectors]]
name = "x"
measure = "{measure}"
threshold = {threshold}
window = "day"
step = "notice"
clause = "P9"
{more}
"""


def detector(measure: str, threshold: float = 1, more: str = "") -> str:
    return SOUND + DETECTOR.format(measure=measure, threshold=threshold, more=more)


def test_a_rung_about_overage_leads_to_a_minute_plan() -> None:
    rung = detector("open_cases").replace("detectors", "ladder")
    assert found(rung) == []
    unplanned = only(rung.replace("open_cases", "overage_months_in_a_row"))
    assert unplanned.words == "'overage_months_in_a_row' leads to a minute plan"


MINUTES = """
[[plans]]
name = "more"
allowance = "voice"
adds_s = 600
price = "5.00"
clause = "P9"
[[ladder]]
name = "minute-plan"
measure = "overage_months_in_a_row"
threshold = 2
window = "month"
step = "notice"
plan = "more"
clause = "P9"
[requests]
hard = ["allowances.voice"]
clause = "P10"
"""
CHARGED = (
    FITTING.replace('period = "month"', 'period = "month"\nused_up = "overage"')
    + '[charges]\noverage_per_min = "0.02"\nclause = "P8"\n'
)


def test_a_minute_plan_that_means_what_it_says_is_found_sound() -> None:
    assert found(CHARGED + MINUTES) == []
    assert only(SOUND + MINUTES).words == "nothing is ever charged past it"


@pytest.mark.parametrize(
    ("old", "new", "key", "words"),
    [
        ('allowance = "voice"', 'allowance = "texts"', "plans.0.allowance", "'texts' is no allowance"),
        ("adds_s = 600", "adds = 600", "plans.0", "adds in another unit than its allowance has"),
        ('plan = "more"', 'plan = "less"', "ladder.0.plan", "'less' is no plan"),
        ('"allowances.voice"', '"caps.lines"', "requests.hard", "caps.lines is no limit of this policy"),
        ('step = "notice"', 'step = "suspend"', "ladder.0", "a minute plan comes with a notice"),
        ('plan = "more"', "", "ladder.0", "'overage_months_in_a_row' leads to a minute plan"),
        ("overage_months_in_a_row", "open_cases", "ladder.0", "'open_cases' leads to no minute plan"),
        ("adds_s = 600", "", "plans.0", "a plan adds `adds_s` seconds of talk, or `adds` messages"),
        ("adds_s = 600", "adds_s = 600\nadds = 5", "plans.0", "a plan adds"),
        ('"allowances.voice"', '"longest_call"', "requests.hard", ""),
    ],
)
def test_a_minute_plan_that_means_nothing_is_an_error(old: str, new: str, key: str, words: str) -> None:
    told = found(CHARGED + MINUTES.replace(old, new))
    assert any(each.key.startswith(key) and words in each.words for each in told), told


@pytest.mark.parametrize(
    ("measure", "threshold", "more", "words"),
    [
        ("dialling_rate", 1, "", "measure 'dialling_rate' is unknown; known are"),
        ("open_cases", 1, "", "measure 'open_cases' is unknown; known are"),
        ("talk_s", 1, 'allowance = "voice"', "'talk_s' compares with no other account"),
        ("times_declared_estimate", 2, "", "name it in `allowance`"),
        ("times_declared_estimate", 2, 'allowance = "voice"\ncohort = 30', "needs no other accounts"),
        ("talk_s", 1, 'services = ["outbound"]', 'services are taken by the step "restrict"'),
        ("talk_s", 1, "deadline_days = 7", 'a deadline is for "moderate" and "agree_to_pay"'),
        ("talk_s", 1, "fraud = true", 'write step = "terminate"'),
    ],
)
def test_a_detector_that_cannot_be_is_refused(measure: str, threshold: float, more: str, words: str) -> None:
    told = only(detector(measure, threshold, more))
    assert words in f"{told.words}; {told.cure}"
    assert told.severity is Severity.ERROR


@pytest.mark.parametrize(
    ("measure", "threshold", "more", "key"),
    [
        ("short_call_ratio", 60, "", "threshold"),
        ("distinct_callees", 20_000, "", "threshold"),
        ("times_declared_estimate", 2, 'allowance = "nothing"', "allowance"),
    ],
)
def test_a_detector_that_never_finds_anything_is_an_error(
    measure: str, threshold: float, more: str, key: str
) -> None:
    told = only(detector(measure, threshold, more))
    assert (told.key, told.severity) == (f"detectors.0.{key}", Severity.ERROR)


def test_each_clause_of_the_published_text_must_be_named() -> None:
    clauses = ("P0", "P1", "P2", "P3", "P4", "P5", "P6")
    assert found(SOUND, clauses) == []
    assert only(SOUND, (*clauses, "P10")).words == "clause P10 of the published text is in no rule"
    elsewhere = '[[elsewhere]]\nclause = "P10"\nwhere = "by hand"\n'
    assert found(SOUND + elsewhere, (*clauses, "P10")) == []
    stray = only(SOUND + elsewhere, clauses)
    assert (stray.severity, stray.words) == (Severity.WARNING, "clause P10 is not one of the published text")


def test_a_published_policy_is_known_by_its_name() -> None:
    mine = FITTING.replace('name = "plan"', 'name = "redconnect"')
    missing = [finding for finding in lint(mine, "p") if finding.severity is Severity.ERROR]
    assert [finding.words.split()[1] for finding in missing] == [f"R{number}" for number in range(1, 8)]


# --- where it stands -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "marked"),
    [
        ("limit_s = 6000", "limit_min = 100", "limit_min"),
        ("internal = 3600", "internal = true", "seconds = {"),
        ('name = "rooms"', "", "[[allowances]]  # second"),
        ('["GB", "DE"]', '[\n  "GB", # ] not the end\n  "de",\n]', "allow = [  # countries"),
        ('"day"', '"year"', 'period = "year"'),
        ("[kinds]", "[kinds", "[kinds"),
    ],
)
def test_a_fault_points_at_its_line(old: str, new: str, marked: str) -> None:
    text = SOUND.replace("\n[[allowances]]\nname", "\n[[allowances]]  # second\nname", 2).replace(
        "[[allowances]]  # second", "[[allowances]]", 1
    )
    text = text.replace(old, new, 1).replace("allow = [\n", "allow = [  # countries\n")
    assert [finding.line for finding in found(text)] == [line_with(text, marked)]


def test_a_finding_reads_as_file_line_severity_key_words_and_cure() -> None:
    text = SOUND.replace("limit_s = 6000", "limit_min = 100")
    line = line_with(text, "limit_min")
    assert str(only(text)) == (
        f"plan.toml:{line}: error: allowances.0.limit_min: no such key; write limit_s (minutes x 60)"
    )


def test_findings_come_in_the_order_of_the_file() -> None:
    text = SOUND.replace("internal = 3600", "collect = 3600").replace("notice_days = 9", "notice_days = 99")
    assert [finding.key for finding in found(text)] == ["effective", "longest_call.seconds.collect"]


TRICKY = '''
title = "a # no comment [ and no bracket"
note = """
[not.a.table]
key = 1
"""
raw = \'\'\'
x = [
\'\'\'
list = [ # a comment with ] in it
  "a]",
  { deep = 1 },
]
a.b = 1
"quoted key" = 'it''s' # odd but closed
[table] # comment
x = 1
[[array]]
x = 1
[array.inner]
x = 1
[[array]]
x = 1
[[array.inner]]
x = 1
'''.replace("'it''s'", "'its'")


def test_keys_are_found_in_a_text_that_hides_them() -> None:
    lines = key_lines(TRICKY)
    expected = {
        ("title",): 2, ("note",): 3, ("raw",): 7, ("list",): 10, ("a",): 14, ("a", "b"): 14,
        ("quoted key",): 15, ("table",): 16, ("table", "x"): 17, ("array",): 18, ("array", 0): 18,
        ("array", 0, "x"): 19, ("array", 0, "inner"): 20, ("array", 0, "inner", "x"): 21, ("array", 1): 22,
        ("array", 1, "x"): 23, ("array", 1, "inner"): 24, ("array", 1, "inner", 0): 24,
        ("array", 1, "inner", 0, "x"): 25,
    }  # fmt: skip
    assert lines == expected


def test_lines_are_counted_as_toml_counts_them() -> None:
    assert key_lines("# a\u2028b\x0cc\r\nx = 1") == {("x",): 2}


def test_a_key_without_a_line_has_that_of_what_holds_it() -> None:
    lines = key_lines("\n[table]\nlist = [\n1]\n")
    assert line_of(lines, ("table", "list", 0)) == 3
    assert line_of(lines, ("table", "missing")) == 2
    assert line_of(lines, ("missing",)) == 1


@given(st.text(alphabet="[]{}=\"'#.ab \n", max_size=80))
def test_no_text_breaks_it(text: str) -> None:
    assert all(1 <= line <= text.count("\n") + 1 for line in key_lines(text).values())
    assert all(finding.line >= 1 for finding in lint(text, "p"))


@pytest.mark.parametrize("file", sorted(Path(__file__).parents[2].glob("testbed/policies/*.toml")), ids=str)
def test_the_testbeds_policies_have_no_errors(file: Path) -> None:
    assert [
        str(finding) for finding in lint(file.read_text(), file.name) if finding.severity is Severity.ERROR
    ] == []

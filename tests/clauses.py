"""The page of the published clauses: what each asks, the rules that express it, and the tests that show it.

`python -m tests.clauses` writes docs/clauses.md from the policy files and from the marks of the tests,
`@pytest.mark.clause("K3", "refused")`, which are read from the source without running it. Leaves to
`tests/unit/test_clauses.py` which clauses must have which tests.
"""

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fairdial.policy.document import Policy, parse_policy
from fairdial.policy.lint import PUBLISHED
from fairdial.policy.rules import Rule

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests"
PAGE = ROOT / "docs" / "clauses.md"

PASSES = frozenset({"allowed", "free"})
STOPS = frozenset({"refused", "charged", "cut", "found"})
ON_SWITCH = "switch/"

ASKS: dict[str, str] = {
    "K1": "Calls to normal numbers in the countries bought have no limit while the period bought runs",
    "K2": "Special, premium, service and non-geographic numbers are no part of the flat plan",
    "K3": "Four hours end a call; it may be dialled again",
    "K4": "Calls on credit cost the destination's rate, and the connection fee on each dial anew",
    "K5": "Conferences: 100 hours a month, 10 a day, 4 a call, four people",
    "K6": "A reverse-charge call ends after 60 minutes",
    "K7": "No telemarketing, no call centre",
    "K8": "No resale of minutes, no sharing through a PBX or otherwise",
    "K9": "No calls that are made to earn money by being made",
    "K10": "No series of short calls, no crowd of numbers in a short time",
    "K11": "Other unusual use is for the operator to judge",
    "K12": "Suspended or terminated at once, calls in progress too",
    "A1": "Nothing unlawful, fraudulent, offensive or infringing",
    "A2": "No unwanted messages",
    "A3": "No denial of service",
    "A4": "The number shown belongs to the caller",
    "A5": "Strong passwords, changed often",
    "A6": "Credentials stay with one customer",
    "A7": "What is sensitive goes encrypted",
    "A8": "No excessive bandwidth, no prolonged use",
    "A9": "No hosting of servers without a plan for it",
    "A10": "The service ends for who does harm",
    "A11": "A change takes effect when it is posted",
    "R1": "2,400 minutes a month for each user, in and out, at home and abroad",
    "R2": "Calendar months; voicemail and what is no call in or out do not count",
    "R3": "Past the limit each minute is charged until the next month",
    "R4": "Overage month after month adds a minute plan",
    "R5": "A user may ask for a higher limit",
    "R6": "Abuse ends in suspension or termination",
    "R7": "Changes are announced before they take effect",
    "V1": "30,000 minutes and 30,000 messages a month for the whole plan, not by country",
    "V2": "Past them each minute and each message is charged",
    "V3": "More than 100 extensions need a further account",
    "V4": "One account alone uses the plan",
    "V5": "A conference uses its minutes once for each party",
    "V6": "A callback uses its minutes twice, for its two legs",
    "V7": "No telemarketing, call centre, resale, sharing, calling for income or unusual patterns",
    "V8": "Fraud ends the account at once without a refund; charges stay owed",
    "V9": "A change comes with a notice of what changes and from when",
    "S1": "Calls, chats and messages are counted for each user and month",
    "S2": "They are held against other customers' average and the customer's own estimate",
    "S3": "Who exceeds them is asked to use less or to agree to pay",
    "S4": "Otherwise that service is limited or ended",
    "S5": "A surcharge on each minute of high-volume customers, once it was discussed",
    "S6": "No robo-dialling or predictive dialling",
    "S7": "No trunking, no forwarding to what takes several calls at once",
    "S8": "No bulk messages, no call-in lines or 900 numbers",
}
"""What each clause of the published texts asks, in short."""


@dataclass(frozen=True, slots=True, order=True)
class Shown:
    """A test that shows a clause. file: below tests/. shows: one word of PASSES or STOPS."""

    clause: str
    file: str
    test: str
    shows: str

    @property
    def on_switch(self) -> bool:
        """Whether the test makes its calls through a real Asterisk."""
        return self.file.startswith(ON_SWITCH)


def shown_in(source: str, file: str) -> tuple[Shown, ...]:
    """The marks of the tests in a source, each once.

    Of a function they stand in its decorators, or in what these name at the top of the module (a list of
    cases); `pytestmark` is of all. Raises ValueError for a mark that is not two texts or is no test's.
    """
    tree = ast.parse(source, file)
    named = _assignments(tree)
    found: set[Shown] = set()
    read: set[ast.Call] = set()
    for test in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
        if not test.name.startswith("test_"):
            continue
        roots = [*test.decorator_list, *([named["pytestmark"]] if "pytestmark" in named else [])]
        for mark in _marks_under(roots, named):
            read.add(mark)
            clause, shows = _texts_of(mark, file)
            found.add(Shown(clause, file, test.name, shows))
    for mark in _marks_under([tree], {}):
        if mark not in read:
            raise ValueError(f"tests/{file}:{mark.lineno}: this clause mark is on no test; put it on one")
    return tuple(sorted(found))


def _assignments(tree: ast.Module) -> dict[str, ast.expr]:
    named: dict[str, ast.expr] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign):
            named |= {target.id: node.value for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and node.value and isinstance(node.target, ast.Name):
            named[node.target.id] = node.value
    return named


def _marks_under(roots: Iterable[ast.AST], named: Mapping[str, ast.expr]) -> Iterator[ast.Call]:
    pending, followed = list(roots), set[str]()
    while pending:
        for node in ast.walk(pending.pop()):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.clause":
                yield node
            elif isinstance(node, ast.Name) and node.id in named and node.id not in followed:
                followed.add(node.id)
                pending.append(named[node.id])


def _texts_of(mark: ast.Call, file: str) -> tuple[str, str]:
    texts = [arg.value for arg in mark.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
    if len(texts) != 2 or len(mark.args) != 2 or mark.keywords:
        raise ValueError(
            f"tests/{file}:{mark.lineno}: a clause mark is two texts written out, "
            f'such as pytest.mark.clause("K3", "refused"), not {ast.unparse(mark)}'
        )
    return texts[0], texts[1]


def shown_by_tests() -> tuple[Shown, ...]:
    """The marks of all tests of the project."""
    return tuple(
        shown
        for file in sorted(TESTS.rglob("test_*.py"))
        for shown in shown_in(file.read_text(encoding="utf-8"), file.relative_to(TESTS).as_posix())
    )


def shipped_policies() -> dict[str, Policy]:
    """The policies of the project by name, in the order of PUBLISHED."""
    texts = {name: (ROOT / "policies" / f"{name}.toml").read_text(encoding="utf-8") for name in PUBLISHED}
    return {name: parse_policy(text, f"{name}.toml") for name, text in texts.items()}


def places(policy: Policy) -> dict[str, list[str]]:
    """By clause, the keys of the policy file that carry it, in the file's order; `[[elsewhere]]` in words."""
    found: dict[str, list[str]] = {}
    for key, value in policy:
        if key == "changes_clause" and value is not None:
            found.setdefault(value, []).append(f"`{key}`")
        for rule in value if isinstance(value, tuple) else (value,):
            if isinstance(rule, Rule):
                for clause, place in _places_in(rule, key):
                    found.setdefault(clause, []).append(place)
    return found


def _places_in(rule: Rule, key: str) -> Iterator[tuple[str, str]]:
    fields = dict(rule)
    if key == "elsewhere":
        yield fields["clause"], f"elsewhere: {fields['where']}"
        return
    place = f"{key}.{fields['name']}" if "name" in fields else key
    inner = f"{place}.seconds" if key == "longest_call" else place
    if "clause" in fields:
        yield fields["clause"], f"`{inner}`"
    if fields.get("fraud_clause"):
        yield fields["fraud_clause"], f"`{place}.fraud_clause`"
    for name, clause in sorted(fields.get("clauses", {}).items()):
        yield clause, f"`{inner}.{name}`" if key in ("longest_call", "charges") else f"`{place}` for {name}"
    for name, value in fields.items():
        if isinstance(value, Rule):
            yield from _places_in(value, f"{place}.{name}")


INTRODUCTION = """\
# The clauses

Every clause of the five published policies: what it asks, the rule of the policy file that carries it, and the tests
below `tests/` that show it. Tests in **bold** run on the switch: a real Asterisk with SIP phones. "Not enforced yet":
no test shows it, so nothing is promised. Written by `python -m tests.clauses` from `policies/*.toml` and the marks of
the tests.
"""


def render(policies: Mapping[str, Policy], tests: Iterable[Shown]) -> str:
    """The page in Markdown."""
    by_clause: dict[str, list[Shown]] = {}
    for shown in sorted(tests):
        by_clause.setdefault(shown.clause, []).append(shown)
    parts = [INTRODUCTION]
    for name, policy in policies.items():
        found = places(policy)
        parts.append(f"## {name}: {policy.title}\n")
        parts.append("| id | asks | rule | lets pass | stops or costs |\n|---|---|---|---|---|")
        for clause in sorted(PUBLISHED[name], key=number_of):
            rules = "<br>".join(found.get(clause, ["none"]))
            parts.append(f"| {clause} | {ASKS[clause]} | {rules} | {_cells(by_clause.get(clause, []))} |")
        parts.append("")
    return "\n".join(parts)


def number_of(clause: str) -> int:
    """The place of a clause within its policy."""
    return int(clause[1:])


def _cells(tests: list[Shown]) -> str:
    if not tests:
        return "not enforced yet | not enforced yet"
    passes = [shown for shown in tests if shown.shows in PASSES]
    stops = [shown for shown in tests if shown.shows in STOPS]
    return " | ".join("<br>".join(_named(shown) for shown in some) or "none" for some in (passes, stops))


def _named(shown: Shown) -> str:
    named = f"{shown.shows}: `{shown.file}::{shown.test}`"
    return f"**{named}**" if shown.on_switch else named


if __name__ == "__main__":
    PAGE.write_text(render(shipped_policies(), shown_by_tests()), encoding="utf-8")

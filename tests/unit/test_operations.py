"""Operations beside a running desk: what a server does at once, and what its policies then are."""

from collections.abc import AsyncIterator, Collection
from pathlib import Path

import pytest

from fairdial.clock import Moment
from fairdial.console.operations import OperationError, Operations
from fairdial.desk import Asked, Desk, DeskRules
from fairdial.ledger.contract import AlreadyExists, NotFound
from fairdial.ledger.sqlite import SqliteLedger
from fairdial.policy.account import Kind, Standing
from fairdial.policy.book import PolicyBook
from fairdial.policy.document import parse_policy
from fairdial.policy.periods import zone_named
from tests.charges import NUMBERING
from tests.samples import NOON_MS, SetClock

PLAN = """
name = "plan"
version = "1"
title = "A plan for tests"
kinds = { allow = ["outbound", "message"], clause = "C0" }
classes = { allow = ["geographic", "mobile"], clause = "C1" }
countries = { allow = "any", clause = "C2" }
longest_call = { clause = "C4", seconds = { outbound = 600 } }
[[allowances]]
name = "voice"
limit_s = 6000
period = "month"
counts = ["outbound"]
clause = "C5"
[[allowances]]
name = "texts"
meter = "messages"
limit = 5
period = "month"
counts = ["message"]
clause = "C6"
"""
NEXT_PLAN = PLAN.replace('version = "1"', 'version = "2"\neffective = "2027-01-01"').replace(
    "= 6000", "= 3000"
)
NEW_YEAR_MS = 1_798_761_600_000
"""2027-01-01 00:00:00 UTC."""


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """A desk at 2026-11-21 on a ledger of its own, with a plan that counts messages too."""
    ledger = await SqliteLedger.open(tmp_path / "own.sqlite")
    opened = Desk(ledger, PolicyBook([parse_policy(PLAN, "plan.toml")]), NUMBERING, SetClock(), DeskRules())
    yield opened
    await opened.close()
    await ledger.close()


async def test_suspending_cuts_calls_in_progress_at_once_and_restoring_none(desk: Desk) -> None:
    """K12. What is cut is told of the ledger's step first, so that no new dial slips in between."""
    cuts: list[tuple[str | None, str | None, Standing, Standing]] = []

    async def cut(
        *, account: str | None = None, line: str | None = None, kinds: Collection[Kind] | None = None
    ) -> int:
        assert kinds is None
        sheet = await desk.ledger.sheet("acme")
        cuts.append((account, line, sheet.account.standing, sheet.lines[0].standing))
        return 3

    operations = Operations(desk, cut=cut)
    await operations.call("account_add", {"account": "acme", "policy": "plan"})
    await operations.call("line_add", {"line": "alice", "account": "acme"})
    of_line = {"line": "alice", "standing": "suspended"}
    assert (await operations.call("line_standing", of_line))["calls_cut"] == 3
    of_account = {"account": "acme", "standing": "terminated", "fraud": True}
    assert (await operations.call("account_standing", of_account))["calls_cut"] == 3
    assert cuts == [
        (None, "alice", Standing.ACTIVE, Standing.SUSPENDED),
        ("acme", None, Standing.TERMINATED, Standing.SUSPENDED),
    ]
    restore = {"account": "acme", "standing": "active"}
    assert (await operations.call("account_standing", restore))["calls_cut"] == 0
    assert (await operations.call("line_standing", {"line": "alice", "standing": "active"}))["calls_cut"] == 0
    with pytest.raises(NotFound):
        await operations.call("account_standing", {"account": "nosuch", "standing": "suspended"})
    assert len(cuts) == 2


async def test_restricting_a_service_cuts_calls_of_that_kind_and_lifting_it_none(desk: Desk) -> None:
    """S4. As with a standing, the ledger is told first."""
    cuts: list[tuple[str | None, frozenset[Kind], frozenset[Kind]]] = []

    async def cut(
        *, account: str | None = None, line: str | None = None, kinds: Collection[Kind] | None = None
    ) -> int:
        assert line is None
        [known] = await desk.ledger.accounts()
        cuts.append((account, frozenset(kinds or ()), known.restricted))
        return 2

    operations = Operations(desk, cut=cut)
    await operations.call("account_add", {"account": "acme", "policy": "plan"})
    first = await operations.call("account_restrict", {"account": "acme", "services": ["internal"]})
    assert (first["restricted"], first["calls_cut"]) == (["internal"], 2)
    second = await operations.call("account_restrict", {"account": "acme", "services": ["outbound"]})
    assert second["restricted"] == ["internal", "outbound"]
    lift = {"account": "acme", "services": ["internal"], "lift": True}
    lifted = await operations.call("account_restrict", lift)
    assert (lifted["restricted"], lifted["calls_cut"]) == (["outbound"], 0)
    assert cuts == [
        ("acme", frozenset({Kind.INTERNAL}), frozenset({Kind.INTERNAL})),
        ("acme", frozenset({Kind.OUTBOUND}), frozenset({Kind.INTERNAL, Kind.OUTBOUND})),
    ]


@pytest.mark.parametrize(
    ("services", "words"),
    [
        ([], "no service is named"),
        (["emergency"], "emergency calls cannot"),
        (["fax"], "'fax' is not a valid"),
    ],
)
async def test_only_a_service_can_be_restricted(desk: Desk, services: list[str], words: str) -> None:
    operations = Operations(desk)
    await operations.call("account_add", {"account": "acme", "policy": "plan"})
    with pytest.raises((OperationError, ValueError), match=words):
        await operations.call("account_restrict", {"account": "acme", "services": services})
    assert (await operations.call("account_show", {"account": "acme"}))["restricted"] == []


async def test_usage_is_shown_in_the_unit_of_its_allowance(desk: Desk) -> None:
    operations = Operations(desk)
    await operations.call("account_add", {"account": "acme", "policy": "plan"})
    await operations.call("line_add", {"line": "alice", "account": "acme"})
    for call_id, kind in (("text-1", Kind.MESSAGE), ("call-1", Kind.OUTBOUND)):
        await desk.authorise(Asked(call_id, kind, "02079460123", "alice", call_id, 60))
    await desk.settle("call-1", 60, Moment(NOON_MS + 60_000, 1_060_000))
    usage = {row["allowance"]: row for row in (await operations.call("usage", {"account": "acme"}))["usage"]}
    shown = {
        name: [row[key] for key in ("limit_units", "used_units", "reserved_units", "left_units", "unit")]
        for name, row in usage.items()
    }
    assert shown == {"texts": [5, 1, 0, 4, "messages"], "voice": [6000, 60, 0, 5940, "s"]}


def in_force(desk: Desk, at_ms: int) -> str:
    policy = desk.policies.at("plan", zone_named("UTC"), at_ms)
    assert policy is not None
    return policy.version


async def test_a_published_version_is_kept_and_decides_from_its_day_on(desk: Desk) -> None:
    publish = {"text": NEXT_PLAN, "where": "next.toml"}
    for _ in range(2):
        assert await Operations(desk).call("policy_publish", publish) == {
            "policy": "plan",
            "version": "2",
            "effective": "2027-01-01",
            "changes": ["The monthly allowance falls from 100 to 50 minutes (C5)."],
            "takes_effect": "This takes effect on 1 January 2027, at midnight of your time zone.",
        }
    (kept,) = await desk.ledger.published()
    assert (kept.name, kept.version, kept.published_ms, kept.text) == ("plan", "2", NOON_MS, NEXT_PLAN)
    assert (in_force(desk, NEW_YEAR_MS - 1), in_force(desk, NEW_YEAR_MS)) == ("1", "2")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (NEXT_PLAN.replace("2027-01-01", "2026-11-20"), "next.toml: effective: 2026-11-20 is in the past"),
        (PLAN.replace("= 6000", "= 3000"), "next.toml: version: '1' is published already"),
        (NEXT_PLAN.replace("kinds =", "kind ="), "error: kind: no such key; write kinds"),
        ("name =", "next.toml:1: error: toml: not TOML"),
    ],
)
async def test_a_version_that_may_not_be_published_changes_nothing(desk: Desk, text: str, words: str) -> None:
    book = desk.policies
    with pytest.raises(OperationError) as refused:
        await Operations(desk).call("policy_publish", {"text": text, "where": "next.toml"})
    assert words in str(refused.value)
    assert desk.policies is book
    assert await desk.ledger.published() == ()


async def test_a_version_that_the_ledger_has_with_another_text_is_refused(desk: Desk) -> None:
    """Also where the desk does not know it, such as after its file was lost."""
    book = desk.policies
    await Operations(desk).call("policy_publish", {"text": NEXT_PLAN, "where": "next.toml"})
    desk.policies = book
    other = NEXT_PLAN.replace("= 3000", "= 2000")
    with pytest.raises(AlreadyExists, match="was published with another text"):
        await Operations(desk).call("policy_publish", {"text": other, "where": "next.toml"})
    assert desk.policies is book

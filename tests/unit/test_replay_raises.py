"""A replay sees the limits that were raised at the time of the calls, also where the raise is over since (R5)."""

from dataclasses import replace
from datetime import UTC
from pathlib import Path

import pytest

from fairdial.ledger.sqlite import SqliteLedger
from fairdial.policy.requests import Asked, RequestKind, RequestState, Ruling
from fairdial.policy.terms import Clause
from fairdial.replay.result import Outcome
from fairdial.replay.run import Wanted, replay
from tests.cdrs import call_of, row, site
from tests.samples import NOON_MS, plan, provision


async def raised(folder: Path, from_ms: int, until_ms: int) -> None:
    """A ledger in which acme may talk 900 s a month instead of 100 for that time, which is written down as over."""
    ledger = await SqliteLedger.open(folder / "ledger.sqlite")
    try:
        await provision(ledger)
        clause = Clause("plan", "1", "R5")
        asked = Asked(
            "acme", RequestKind.LIMIT, "plan", "allowances.voice", clause, "w", "Ann", from_ms, limit=900
        )
        request = await ledger.ask(asked)
        ruling = Ruling(RequestState.APPROVED, "Olga", from_ms, "n", from_ms, until_ms)
        await ledger.rule(request.id, lambda _request, _account: ruling)
        assert await ledger.end_requests(NOON_MS + 3_600_000) != ()
    finally:
        await ledger.close()


@pytest.mark.parametrize(
    ("from_s", "until_s", "metered_s"),
    [(-60, 3_000, 200), (500, 3_000, 100), (-60, 100, 100)],
)
async def test_the_limit_is_that_of_the_time_of_the_call(
    tmp_path: Path, from_s: int, until_s: int, metered_s: int
) -> None:
    await raised(tmp_path, NOON_MS + from_s * 1000, NOON_MS + until_s * 1000)
    file = tmp_path / "Master.csv"
    file.write_text(f"{row(1, 0, 200)}\n")
    calls: dict[str, Outcome] = {}
    here = replace(site(plan(limit_s=100)), store=tmp_path / "ledger.sqlite")
    await replay(
        here,
        Wanted((file,), UTC),
        lambda *_told: None,
        lambda outcome: calls.update({outcome.call_id: outcome}),
    )
    assert calls[call_of(1)].metered_s == metered_s

"""Rounds that cannot finish: made again soon, and what they were to make good is not forgotten."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fairdial import rounds as rounds_module
from fairdial.clock import Moment
from fairdial.desk import Desk, DeskRules
from fairdial.evidence import Evidence
from fairdial.ledger.sqlite import SqliteLedger
from fairdial.policy.book import PolicyBook
from fairdial.policy.numbers import Numbering
from fairdial.policy.prefixes import PrefixTable
from fairdial.records import SwitchRecords
from fairdial.rounds import Hands, Rounds
from tests.samples import NOON_MS, SetClock, authorise, outbound, plan, provision
from tests.unit.test_reconcile import Switch, Unlisted

NUMBERING = Numbering(PrefixTable.parse("prefix,class,country,risk,note,source,date\n"))


@dataclass(slots=True)
class Asked(Switch):
    """Also keeps whether each round knew of missed events, and how many listings are to fail first."""

    gaps: list[bool] = field(default_factory=list)
    failing: int = 0
    asked: int = 0

    async def channels(self) -> Mapping[str, str]:
        self.asked += 1
        if self.asked <= self.failing:
            raise Unlisted
        return self.up

    async def refresh(
        self,
        up: Mapping[str, str],
        listed: Moment,
        *,
        after_gap: bool,
        only: Collection[str] | None = None,
    ) -> None:
        if only is None:
            self.gaps.append(after_gap)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    ledger = await SqliteLedger.open(tmp_path / "ledger.sqlite")
    await provision(ledger)
    yield Desk(ledger, PolicyBook([plan()]), NUMBERING, SetClock(NOON_MS + 30_000), DeskRules())
    await ledger.close()


async def nothing() -> None:
    return


async def none_found() -> int:
    return 0


async def not_live(_call_id: str) -> bool:
    return False


@asynccontextmanager
async def made(
    desk: Desk, switch: Asked, file: Path | None = None, *, every_s: float = 3600.0
) -> AsyncIterator[Rounds[str]]:
    clock = SetClock(NOON_MS + 30_000)
    records = SwitchRecords(file, UTC, UTC, clock)
    hands = Hands(lambda: True, lambda: None, nothing, none_found, nothing, not_live, Unlisted)
    rounds = Rounds(
        desk,
        switch,
        hands,
        clock,
        switch="",
        every_s=every_s,
        evidence=Evidence(records, wait_s=600.0),
        records=records,
    )
    await rounds.start()
    try:
        yield rounds
    finally:
        await rounds.stop()


async def test_a_record_that_comes_after_the_round_at_the_start_is_not_waited_for_until_the_next(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds_module, "SOON_S", 0.01)
    file = tmp_path / "Master.csv"
    await authorise(desk.ledger, outbound("1.1-1"), plan())
    async with made(desk, Asked(), file) as rounds:
        await rounds.make(after_gap=True)
        assert len(await desk.ledger.live_grants()) == 1
        times = [datetime.fromtimestamp(NOON_MS / 1000 + after_s, UTC) for after_s in (0, 2, 9)]
        stamps = ",".join(f'"{at:%Y-%m-%d %H:%M:%S}"' for at in times)
        file.write_text(
            '"","alice","020","phones","alice","PJSIP/alice-1","PJSIP/carrier-1","Dial","",'
            f'{stamps},9,7,"ANSWERED","DOCUMENTATION","channel-1.1-1",""\n'
        )
        async with asyncio.timeout(5):
            while await desk.ledger.live_grants():
                await asyncio.sleep(0.01)
    grant = await desk.ledger.grant("1.1-1")
    assert grant is not None
    assert (grant.used_s, grant.estimated) == (7, False)


async def test_a_round_that_fails_is_made_again_and_still_knows_that_events_were_missed(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds_module, "SOON_S", 0.01)
    switch = Asked(failing=3)
    async with made(desk, switch) as rounds:
        await rounds.make(after_gap=True)
        assert switch.gaps == []
        async with asyncio.timeout(5):
            while not switch.gaps:
                await asyncio.sleep(0.01)
        await rounds.make(after_gap=False)
    assert (switch.asked, switch.gaps) == (5, [True, False])


async def test_rounds_that_fail_again_and_again_are_made_more_seldom(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds_module, "SOON_S", 0.02)
    switch = Asked(failing=1_000_000)
    async with made(desk, switch) as rounds:
        await rounds.make(after_gap=True)
        await asyncio.sleep(0.5)
        # 0.02, 0.04, 0.08, 0.16, 0.32: at that rate it would be some 25.
        assert 3 <= switch.asked <= 7


async def test_a_round_that_is_done_is_not_made_again_before_its_time(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds_module, "SOON_S", 0.01)
    switch = Asked()
    async with made(desk, switch) as rounds:
        await rounds.make(after_gap=True)
        await asyncio.sleep(0.2)
    assert switch.gaps == [True]

"""The three promises under simulated faults, and faults planted in FairDial that the simulation must find.

10,000 runs; more with `FAIRDIAL_SIMULATED_RUNS=50000`. One that fails tells how to repeat it.
"""

import contextlib
import gc
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from ari_handlers import events
from ari_handlers.adoption import Adoption
from ari_handlers.followed import DialCall
from ari_handlers.leases import LeaseNotSet, Leases
from fairdial.ledger import granting, metering, reading
from fairdial.ledger.contract import Grant
from fairdial.ledger.database import Write
from fairdial.ledger.reading import Held, Used
from fairdial.policy.call import Talking, lease_end_ms
from fairdial.policy.sizing import Hold
from tests.simulation.run import Failure, simulate
from tests.simulation.world import TRACE_LINES, Faults, Seen

RUNS = int(os.environ.get("FAIRDIAL_SIMULATED_RUNS", "10000"))
NO_FAULTS = Faults(deaths=False, links=False, store=False, restarts=False, twice=False)
CLOCK_SET = replace(NO_FAULTS, twice=True, clock_jumps=True)
PARTS = 50
"""So that several processes share the work."""
COLLECT_EVERY = 50


def run_all(seeds: range) -> list[Seen]:
    """All these seeds, one after the other. Raises Failure."""
    seen = []
    gc.disable()  # what a run leaves is collected once for many
    try:
        for seed in seeds:
            seen.append(simulate(seed))
            if seed % COLLECT_EVERY == 0:
                gc.collect()
    finally:
        gc.enable()
    return seen


@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(PARTS))
def test_the_promises_hold_whatever_fails(part: int) -> None:
    each = max(1, RUNS // PARTS)
    seen = run_all(range(part * each, (part + 1) * each))
    if each < 50:
        return
    # Runs that come through nothing would show nothing.
    assert sum(run.calls for run in seen) > each
    assert sum(run.estimated for run in seen) > each // 20
    assert sum(run.deaths > 1 for run in seen) > each // 4
    assert sum(run.dials > run.calls for run in seen) > each // 4


def test_a_seed_gives_the_same_run_again() -> None:
    first, second = (simulate(7, whole_trace=True) for _ in range(2))
    assert first == second
    assert "ANSWERS" in first.told
    assert simulate(8, whole_trace=True).told != first.told


def test_without_faults_every_call_is_metered_as_it_was() -> None:
    seen = [simulate(seed, NO_FAULTS) for seed in range(40)]
    assert sum(run.calls for run in seen) > 40
    assert sum(run.estimated for run in seen) == 0


def test_a_wall_clock_that_is_set_while_fairdial_runs_changes_no_call() -> None:
    seen = [simulate(seed, CLOCK_SET) for seed in range(60)]
    assert sum(run.calls for run in seen) > 60


# --- planted faults ----------------------------------------------------------------------------------


def found(within: int, faults: Faults | None = None) -> Failure:
    """The first failure of so many seeds."""
    for seed in range(within):
        try:
            simulate(seed, faults)
        except Failure as failure:
            return failure
    raise AssertionError(f"a planted fault was not found in {within} runs")


_settle = granting.settle


def settle_again(db: sqlite3.Connection, call_id: str, *how: Any) -> Grant:
    """Settles, also what is settled already."""
    db.execute(
        "UPDATE grants SET state = 'talking', used_s = NULL, ended_ms = NULL,"
        " answered_ms = coalesce(answered_ms, authorised_ms) WHERE call_id = ? AND state = 'settled'",
        (call_id,),
    )
    return _settle(db, call_id, *how)


def settle_unseen_free(
    db: sqlite3.Connection, call_id: str, used_s: int, ended_ms: int, estimated: bool, *how: Any
) -> Grant:
    """What ended unseen costs nothing."""
    return _settle(db, call_id, 0 if estimated else used_s, ended_ms, estimated, *how)


def settle_unseen_never(
    db: sqlite3.Connection, call_id: str, used_s: int, ended_ms: int, estimated: bool, *how: Any
) -> Grant:
    """What ended unseen stays open."""
    if estimated:
        return reading.need_grant(db, call_id)
    return _settle(db, call_id, used_s, ended_ms, estimated, *how)


def settle_half(db: sqlite3.Connection, call_id: str, used_s: int, *how: Any) -> Grant:
    """Half of each call."""
    return _settle(db, call_id, used_s // 2, *how)


@pytest.mark.parametrize(
    ("planted", "told"),
    [
        (settle_again, "promise"),
        (settle_unseen_free, "promise 3"),
        (settle_unseen_never, "nobody settled"),
        (settle_half, "promise 3"),
    ],
)
def test_a_settlement_that_is_wrong_is_found(
    monkeypatch: pytest.MonkeyPatch, planted: Callable[..., Grant], told: str
) -> None:
    monkeypatch.setattr(granting, "settle", planted)
    assert told in found(300).brief


def test_a_settlement_that_forgets_its_seconds_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def use_nothing(call_id: str, account_id: str, uses: list[tuple[Held, Used]]) -> Iterator[Write]:
        return _used(call_id, account_id, [(held, used._replace(used_units=0)) for held, used in uses])

    _used = metering.used
    monkeypatch.setattr(metering, "used", use_nothing)
    assert "its meters have" in found(20).brief


def test_seconds_that_are_granted_and_not_reserved_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def reserve_less(call_id: str, account_id: str, holds: list[Hold]) -> Iterator[Write]:
        yield from _reserved(call_id, account_id, holds)
        yield "UPDATE meters SET reserved_units = max(0, reserved_units - 1)", ()

    _reserved = metering.reserved
    monkeypatch.setattr(metering, "reserved", reserve_less)
    assert "promise 2" in found(20).brief


def test_a_lease_that_is_set_too_long_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hold_longer(self: Leases, call: DialCall) -> None:
        left_ms = (lease_end_ms(call.state) or 0) - self._clock.now().mono_ms
        for channel in sorted(call.channels):
            with contextlib.suppress(LeaseNotSet):
                await self._set_lease(call.names.get(channel, channel), max(1, left_ms + 3_000))

    monkeypatch.setattr(Leases, "hold", hold_longer)
    assert "promise 1" in found(200, Faults(links=False)).brief


def test_a_lease_that_is_not_set_after_a_renewal_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    first_s: dict[DialCall, int | None] = {}

    async def hold_first(self: Leases, call: DialCall) -> None:
        granted_s = call.state.granted_s if isinstance(call.state, Talking) else None
        if first_s.setdefault(call, granted_s) == granted_s:
            await _hold(self, call)

    _hold = Leases.hold
    monkeypatch.setattr(Leases, "hold", hold_first)
    assert "of its grant left" in found(200, NO_FAULTS).brief


def test_a_grant_that_is_taken_back_while_its_call_is_up_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async def take_back(self: Adoption, grant: Grant, _up: Mapping[str, events.ChannelInfo]) -> None:
        self._desk.take_back(grant.call_id)

    monkeypatch.setattr(Adoption, "adopt", take_back)
    assert "promise 3" in found(300).brief


def test_a_failure_tells_how_to_repeat_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(granting, "settle", settle_half)
    failure = found(50)
    assert "repeat it with: python -m tests.simulation " in str(failure)
    assert 3 <= len(str(failure).splitlines()) <= TRACE_LINES + 2

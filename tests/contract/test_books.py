"""The books under any order of steps that hypothesis can think of; a run that breaks them is made small."""

import asyncio
import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.charges import UNIT, Counter
from tests.contract import test_credit_interleavings as credit
from tests.contract.conftest import STORES
from tests.contract.test_interleavings import LINES, Scene
from tests.samples import provision

ON_SHARDS = 2
"""Examples there: each step is several calls, and the steps are the same."""
WALKED = sorted(set(STORES) - {"shards"})
STEPS = ("dial", "repeat", "answer", "renew", "settle", "release")


@pytest.mark.parametrize("store_name", WALKED)
@settings(max_examples=25, deadline=None)
@given(
    steps=st.lists(st.sampled_from((*STEPS, "crash")), min_size=1, max_size=40),
    chance=st.randoms(use_true_random=False),
)
def test_used_and_reserved_never_exceed_a_limit_in_any_order(
    store_name: str, steps: list[str], chance: random.Random
) -> None:
    asyncio.run(_run(store_name, steps, chance))


@settings(max_examples=ON_SHARDS, deadline=None)
@given(
    steps=st.lists(st.sampled_from((*STEPS, "crash")), min_size=20, max_size=40),
    chance=st.randoms(use_true_random=False),
)
def test_used_and_reserved_never_exceed_a_limit_on_shards(steps: list[str], chance: random.Random) -> None:
    asyncio.run(_run("shards", steps, chance))


async def _run(store_name: str, steps: list[str], chance: random.Random) -> None:
    with tempfile.TemporaryDirectory() as folder, STORES[store_name](Path(folder)) as store:
        scene = Scene(await store.open(), chance)
        try:
            for account, lines in LINES.items():
                await provision(scene.ledger, account, *lines)
            await scene.dial()
            for step in steps:
                if step == "crash":
                    await scene.ledger.close()
                    scene.ledger = await store.open()
                else:
                    await getattr(scene, step)()
                await scene.check()
        finally:
            await scene.ledger.close()


@pytest.mark.parametrize("store_name", WALKED)
@settings(max_examples=25, deadline=None)
@given(
    steps=st.lists(st.sampled_from((*STEPS, "pay", "crash")), min_size=1, max_size=40),
    chance=st.randoms(use_true_random=False),
)
def test_credit_never_falls_below_zero_in_any_order(
    store_name: str, steps: list[str], chance: random.Random
) -> None:
    asyncio.run(_run_on_credit(store_name, steps, chance))


@settings(max_examples=ON_SHARDS, deadline=None)
@given(
    steps=st.lists(st.sampled_from((*STEPS, "pay", "crash")), min_size=20, max_size=40),
    chance=st.randoms(use_true_random=False),
)
def test_credit_never_falls_below_zero_on_shards(steps: list[str], chance: random.Random) -> None:
    asyncio.run(_run_on_credit("shards", steps, chance))


async def _run_on_credit(store_name: str, steps: list[str], chance: random.Random) -> None:
    with tempfile.TemporaryDirectory() as folder, STORES[store_name](Path(folder)) as store:
        counter = Counter(await store.open(), credit.PLANS[0])
        try:
            await counter.open_account()
            scene = credit.Scene(counter, chance)
            await counter.pay_in(5 * UNIT)
            scene.paid_micros = 5 * UNIT
            for step in steps:
                if step == "crash":
                    await counter.ledger.close()
                    counter.ledger = counter.desk.ledger = await store.open()
                else:
                    await getattr(scene, step)()
                await scene.check()
        finally:
            await counter.ledger.close()

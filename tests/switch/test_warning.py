"""The warning before a cut is heard on the phone of the party that pays; a missing sound delays no cut."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from testbed.capture import is_audible, listening
from testbed.installation import Installation
from testbed.server import PROJECT, dialplan
from testbed.voice import media_of, speaking
from tests.switch.conftest import running_spine
from tests.switch.test_collect import ANN, BOB, at, running_exchange, seen

QUIET = """
[phones]
exten => 500,1,Gosub(fairdial,s,1(outbound,02079460100))
 same => n,GotoIf($["${FAIRDIAL_RESULT}" = "ALLOW"]?dial)
 same => n,Hangup(${FAIRDIAL_CAUSE})
 same => n(dial),Dial(Local/s@quiet,10,${FAIRDIAL_DIAL})
[quiet]
exten => s,1,Answer()
 same => n,Playback(silence/10)
"""
"""Somebody at the other end who says nothing for ten seconds: their silence is sent as sound."""


@pytest.mark.clause("K3", "cut")
@pytest.mark.parametrize(
    ("sounds", "sounds_for", "heard"),
    [
        (["sound:beep"], {}, True),
        ([], {}, False),
        (["sound:there-is-no-such-sound", "sound:beep"], {}, True),
        # What is heard can tell which rule will cut the call; this one is at its longest.
        ([], {"longest_call": ["sound:beep"]}, True),
        (["sound:beep"], {"longest_call": [], "credit": ["sound:beep"]}, False),
    ],
)
async def test_a_caller_inside_dial_hears_that_the_call_is_about_to_be_cut(
    installation: Installation,
    tmp_path: Path,
    sounds: Sequence[str],
    sounds_for: Mapping[str, Sequence[str]],
    heard: bool,
) -> None:
    settings = {
        "calls.warn_at_s": [2],
        "calls.warn_sounds": list(sounds),
        **{f"calls.warn_sounds_for.{rule}": list(named) for rule, named in sounds_for.items()},
    }
    extensions, files = dialplan()
    plan = (extensions + QUIET, files)
    async with running_spine(installation, tmp_path, settings, plan) as spine:
        await spine.server.account("acme", "short", "alice")
        with listening(spine.switch.pid) as wire:
            outcome = await spine.call("alice", "500", timeout_s=15)
        assert outcome.ended_by == "far_end"
        assert 2.8 <= outcome.talk_s <= 4.0
        assert wire.packets > 50
        assert bool(wire.audible) == heard
        await spine.server.idle()
        [row] = await spine.server.ask("decisions", limit=1)
        assert (row["used_s"], row["cut_by"], row["cut_clause"]) == (3, "longest_call", "Q3")


@pytest.mark.parametrize(
    ("settings", "heard"),
    [
        # By default credit that runs out has sounds of its own, whatever other calls have.
        ({"calls.warn_sounds": []}, True),
        ({"calls.warn_sounds": ["sound:beep"], "calls.warn_sounds_for.credit": []}, False),
    ],
)
async def test_credit_that_runs_out_is_warned_of_in_its_own_way(
    installation: Installation, tmp_path: Path, settings: Mapping[str, object], heard: bool
) -> None:
    extensions, files = dialplan()
    plan = (extensions + QUIET.replace("02079460100", "09098790000"), files)
    async with running_spine(installation, tmp_path, {"calls.warn_at_s": [2], **settings}, plan) as spine:
        await spine.server.account("acme", "prepaid", "alice")
        rates = (PROJECT / "testbed" / "rates.csv").read_text()
        await spine.server.ask("rates_load", card="standard", currency="EUR", text=rates)
        await spine.server.ask("credit_add", account="acme", amount="0.05", currency="EUR", reference="one")
        with listening(spine.switch.pid) as wire:
            # 0.01 to connect, then a cent a second: four seconds.
            outcome = await spine.call("alice", "500", timeout_s=15)
        assert (outcome.ended_by, 3.8 <= outcome.talk_s <= 5) == ("far_end", True)
        assert wire.packets > 50
        assert bool(wire.audible) == heard
        await spine.server.idle()
        assert (await spine.newest_decision())["cut_by"] == "credit"
        assert "does not exist" not in spine.switch.log_path.read_text()


@pytest.mark.clause("K6", "cut")
@pytest.mark.parametrize(("sounds", "heard"), [(["sound:beep"], True), ([], False)])
async def test_who_pays_for_a_reverse_charge_call_is_warned_and_who_calls_is_not(
    installation: Installation, tmp_path: Path, sounds: Sequence[str], heard: bool
) -> None:
    limit_s = 5
    settings = {
        "calls.warn_at_s": [2],
        "calls.warn_sounds": list(sounds),
        # Nothing is heard but the warning.
        "calls.collect_prompt": ["silence/1"],
        "calls.collect_key_within_s": 5,
    }
    async with running_exchange(installation, tmp_path, settings) as exchange, AsyncExitStack() as talk:
        switch = exchange.spine.switch
        await exchange.spine.publish_variant("kryptotel", "hasty", ("collect = 3600", f"collect = {limit_s}"))
        await exchange.provision("hasty")
        phone = await talk.enter_async_context(exchange.phone((1000, "1")))
        wire = talk.enter_context(listening(switch.pid))
        call = asyncio.create_task(exchange.call())
        await exchange.spine.server.talking(ANN)
        callee, caller = await media_of(switch, ANN), await media_of(switch, BOB)
        # A whisper is heard between what the other party says: both are quiet.
        for media in (callee, caller):
            await talk.enter_async_context(speaking(switch, media))
        outcome = await call
        assert (outcome.ended_by, limit_s - 0.3 <= outcome.talk_s <= limit_s + 1) == ("far_end", True)
        cut_s = await seen(phone, "bye_seen") - at(phone, "key")
        assert limit_s - 0.3 <= cut_s <= limit_s + 1
        told, untold = (bytes(wire.samples_to[media.phone_port]) for media in (callee, caller))
        # Both heard the other's silence for about as long as they talked.
        assert min(len(told), len(untold)) > (limit_s - 2) * 8_000
        assert (is_audible(told), is_audible(untold)) == (heard, False)

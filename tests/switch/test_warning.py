"""The warning before a cut is heard on the phone of the party that pays; a missing sound delays no cut."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from testbed.capture import listening
from testbed.installation import Installation
from testbed.server import dialplan
from tests.switch.conftest import running_spine

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
        [row] = await spine.server.ask("decisions", limit=1)
        assert (row["used_s"], row["cut_by"], row["cut_clause"]) == (3, "longest_call", "Q3")

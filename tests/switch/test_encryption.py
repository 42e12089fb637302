"""Encryption of the caller's leg (A7): what the switch says of it before the answer, and what policies make of it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from testbed.installation import Installation
from testbed.scenarios import Signalling
from testbed.server import dialplan
from tests.switch.conftest import Spine, running_spine

LONDON = "02079460100"
REFUSING = ('otherwise = "flag"', 'otherwise = "refuse"')


@pytest_asyncio.fixture
async def encrypting(installation: Installation, tmp_path: Path) -> AsyncIterator[Spine]:
    """The whole call path on a switch that takes calls over TLS too."""
    async with running_spine(installation, tmp_path, tls=True) as spine:
        yield spine


async def test_the_switch_takes_encrypted_calls_and_says_which_they_are(encrypting: Spine) -> None:
    """All four ways on endpoints that demand SRTP or know none; the record is flagged for all but one of them."""
    await encrypting.server.account("acme", "acceptable-use", "clear", "encrypted")
    flags = {}
    for line, srtp in (("clear", False), ("encrypted", True)):
        for signalling in ("clear", "tls"):
            outcome = await encrypting.call(
                line, LONDON, hang_up_after_s=0.5, signalling=signalling, srtp=srtp
            )
            assert (outcome.final_status, outcome.ended_by) == (200, "caller")
            flags[signalling, srtp] = (await encrypting.newest_decision())["flag"]
    assert flags == {
        ("clear", False): "unencrypted",
        ("tls", False): "unencrypted",
        ("clear", True): "unencrypted",
        ("tls", True): "",
    }
    # Asked for what it cannot say yet, the switch would complain of each call.
    assert "has no audio media" not in encrypting.switch.log_path.read_text()


@pytest.mark.clause("A7", "allowed")
async def test_a_call_in_clear_goes_through_with_a_flag_in_its_record(encrypting: Spine) -> None:
    await encrypting.server.account("acme", "acceptable-use", "clear")
    assert (await encrypting.call("clear", LONDON, hang_up_after_s=0.5)).final_status == 200
    record = await encrypting.newest_decision()
    assert (record["decision"], record["flag"]) == ("allow", "unencrypted")


@pytest.mark.parametrize("gate", ["stasis", "agi"])
@pytest.mark.clause("A7", "allowed")
@pytest.mark.clause("A7", "refused")
async def test_a_call_in_clear_is_refused_where_the_policy_says_so(encrypting: Spine, gate: str) -> None:
    await encrypting.ask_by(gate)
    await encrypting.publish_variant("acceptable-use", "sensitive", REFUSING)
    await encrypting.server.account("acme", "sensitive", "clear", "encrypted")
    assert (await encrypting.call("clear", LONDON)).final_status == 403
    record = await encrypting.newest_decision()
    assert (record["reason"], record["clause_id"]) == ("not_encrypted", "A7")
    assert encrypting.carrier.calls() == []
    # An emergency call is not asked.
    assert (await encrypting.call("clear", "999", hang_up_after_s=0.5)).final_status == 200
    outcome = await encrypting.call("encrypted", LONDON, hang_up_after_s=0.5, signalling="tls", srtp=True)
    assert outcome.final_status == 200
    assert (await encrypting.newest_decision())["flag"] == ""


@pytest.mark.parametrize(
    ("not_asked", "line", "signalling", "srtp", "status"),
    [
        ("media", "clear", "tls", False, 200),
        ("media", "encrypted", "clear", True, 403),
        # Only a Contact that says so is no TLS.
        ("media", "clear", "claims-tls", False, 403),
        ("signalling", "encrypted", "clear", True, 200),
        ("signalling", "clear", "tls", False, 403),
        # An endpoint that takes both demands nothing: which it got, the switch knows with the answer alone.
        ("signalling", "either", "clear", True, 403),
    ],
)
async def test_signalling_and_media_are_asked_for_each_by_itself(
    encrypting: Spine, not_asked: str, line: str, signalling: Signalling, srtp: bool, status: int
) -> None:
    await encrypting.publish_variant(
        "acceptable-use", "half", REFUSING, (f'{not_asked} = "required"', f'{not_asked} = "any"')
    )
    await encrypting.server.account("acme", "half", line)
    outcome = await encrypting.call(line, LONDON, hang_up_after_s=0.5, signalling=signalling, srtp=srtp)
    assert outcome.final_status == status


async def test_once_answered_the_switch_knows_what_an_endpoint_got_that_takes_both(
    installation: Installation, tmp_path: Path
) -> None:
    extensions, files = dialplan()
    answering = f"exten => *55,1,Answer()\n same => n,Goto({LONDON},1)\n"
    async with running_spine(installation, tmp_path, plan=(extensions + answering, files), tls=True) as spine:
        await spine.server.account("acme", "acceptable-use", "either")
        for srtp, flags in ((True, [""]), (False, ["unencrypted", ""])):
            # Answered before it is decided: long enough for a decision on a busy machine.
            outcome = await spine.call("either", "*55", hang_up_after_s=2, signalling="tls", srtp=srtp)
            assert outcome.final_status == 200
            assert [record["flag"] for record in await spine.server.ask("decisions")] == flags


async def test_no_media_in_clear_reaches_the_dialplan_of_an_endpoint_that_demands_srtp(
    encrypting: Spine,
) -> None:
    await encrypting.server.account("acme", "acceptable-use", "encrypted")
    assert (await encrypting.call("encrypted", LONDON, signalling="tls")).final_status == 488
    assert await encrypting.server.ask("decisions", limit=10) == []

"""The number that a call shows (A4): one of the account's own, or the call is refused, or another is shown."""

import pytest

from tests.switch.conftest import Spine

LONDON = "02079460100"
OWN = "+442079460001"
LINES_OWN = "+442079460002"
FOREIGN = "+442079460999"
GATES = pytest.mark.parametrize("gate", ["stasis", "agi"])


async def provision(spine: Spine, policy: str) -> None:
    """Account acme with the lines pbx and alice, and one number of the account."""
    await spine.server.account("acme", policy, "pbx", "alice")
    added = await spine.server.command("number", "add", OWN, "--account", "acme")
    assert added.status == 0, added.error


async def shown(spine: Spine) -> list[str]:
    """What the carrier saw as the callers of all calls so far."""
    return [call.caller.removeprefix("sip:") for call in spine.carrier.calls()]


@GATES
@pytest.mark.clause("A4", "allowed")
@pytest.mark.clause("A4", "refused")
async def test_a_call_goes_out_with_a_number_of_the_account_and_with_no_other(
    spine: Spine, gate: str
) -> None:
    await spine.ask_by(gate)
    await provision(spine, "acceptable-use")
    own = await spine.call("pbx", LONDON, shows=OWN, hang_up_after_s=0.5)
    assert own.final_status == 200
    assert await shown(spine) == [OWN]

    foreign = await spine.call("pbx", LONDON, shows=FOREIGN)
    assert foreign.final_status == 403
    record = await spine.newest_decision()
    assert (record["reason"], record["clause_policy"], record["clause_id"]) == (
        "caller_not_own",
        "acceptable-use",
        "A4",
    )
    assert await shown(spine) == [OWN]


async def test_a_number_counts_as_own_however_it_is_written_and_only_as_long_as_it_is(spine: Spine) -> None:
    await provision(spine, "acceptable-use")
    assert (await spine.call("pbx", LONDON, shows="02079460001", hang_up_after_s=0.5)).final_status == 200
    removed = await spine.server.command("number", "remove", OWN)
    assert removed.status == 0, removed.error
    assert (await spine.call("pbx", LONDON, shows="02079460001")).final_status == 403


async def test_a_number_of_another_account_is_not_its_own(spine: Spine) -> None:
    await provision(spine, "acceptable-use")
    await spine.server.account("other", "acceptable-use", "bob")
    await spine.server.ask("number_add", number=FOREIGN, account="other", line=None)
    assert (await spine.call("pbx", LONDON, shows=FOREIGN)).final_status == 403
    assert (await spine.newest_decision())["reason"] == "caller_not_own"


async def test_who_shows_no_number_impersonates_nobody(spine: Spine) -> None:
    await provision(spine, "acceptable-use")
    for line in ("pbx", "alice"):
        assert (await spine.call(line, LONDON, hang_up_after_s=0.5)).final_status == 200
    # A phone that the switch does not believe shows what the switch says, whatever it claims.
    assert (await spine.call("alice", LONDON, shows=FOREIGN, hang_up_after_s=0.5)).final_status == 200
    assert FOREIGN not in await shown(spine)


async def test_an_emergency_call_is_not_asked_for_its_number(spine: Spine) -> None:
    await provision(spine, "acceptable-use")
    assert (await spine.call("pbx", "999", shows=FOREIGN, hang_up_after_s=0.5)).final_status == 200


@GATES
@pytest.mark.clause("A4", "allowed")
async def test_a_foreign_number_is_replaced_where_the_policy_says_so(spine: Spine, gate: str) -> None:
    await spine.ask_by(gate)
    await spine.publish_variant(
        "acceptable-use", "replacing", ('caller_number = "own"', 'caller_number = "replace"')
    )
    await provision(spine, "replacing")
    assert (await spine.call("pbx", LONDON, shows=FOREIGN, hang_up_after_s=0.5)).final_status == 200
    assert await shown(spine) == [OWN]
    # The line's own number goes before that of the account as a whole; an own number stays as it is.
    await spine.server.ask("number_add", number=LINES_OWN, account="acme", line="pbx")
    assert (await spine.call("pbx", LONDON, shows=FOREIGN, hang_up_after_s=0.5)).final_status == 200
    assert (await spine.call("pbx", LONDON, shows=OWN, hang_up_after_s=0.5)).final_status == 200
    assert await shown(spine) == [OWN, LINES_OWN, OWN]


async def test_without_a_number_to_show_instead_the_call_is_refused(spine: Spine) -> None:
    await spine.publish_variant(
        "acceptable-use", "replacing", ('caller_number = "own"', 'caller_number = "replace"')
    )
    await spine.server.account("acme", "replacing", "pbx")
    assert (await spine.call("pbx", LONDON, shows=FOREIGN)).final_status == 403
    assert (await spine.newest_decision())["reason"] == "caller_not_own"
    assert spine.carrier.calls() == []

"""What records prove of a call. The shapes are those that tests/switch/test_cdr.py sees on a real Asterisk."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairdial.cdr import Cdr
from fairdial.witness import Shape, Talk, Witness, talk

S = 1000
CALLER, LEG, OTHER = "1.1", "1.2", "2.2"


def cdr(
    unique_id: str,
    channel: str,
    dst_channel: str,
    start_s: int,
    answer_s: int | None,
    end_s: int,
    *,
    disposition: str | None = None,
    last_app: str = "Dial",
) -> Cdr:
    return Cdr(
        unique_id=unique_id,
        channel=channel,
        dst_channel=dst_channel,
        account_code="",
        src="",
        dst="",
        context="",
        last_app=last_app,
        last_data="",
        start_ms=start_s * S,
        answer_ms=None if answer_s is None else answer_s * S,
        end_ms=end_s * S,
        duration_s=end_s - start_s,
        bill_s=0 if answer_s is None else end_s - answer_s,
        disposition=disposition or ("NO ANSWER" if answer_s is None else "ANSWERED"),
        user_field="",
    )


def read(
    cdrs: Iterable[Cdr],
    *,
    channel_id: str = CALLER,
    leg_ids: tuple[str, ...] = (LEG,),
    shape: Shape = Shape.DIALLED,
    from_ms: int = 10_300,
    until_ms: int | None = None,
    answered_ms: int | None = None,
) -> Talk | None:
    """By way of a witness that knows other calls too."""
    witness = Witness()
    for one in (*cdrs, cdr("9.1", "x", "y", 10, 11, 99), cdr("9.2", "y", "z", 10, 11, 99)):
        assert witness.note(one)
    return talk(
        witness.of(channel_id, *leg_ids),
        channel_id=channel_id,
        leg_ids=leg_ids,
        shape=shape,
        from_ms=from_ms,
        until_ms=until_ms,
        answered_ms=answered_ms,
    )


PLAIN = cdr(CALLER, "a", "b", 10, 12, 20)


def test_an_answered_call() -> None:
    assert read([PLAIN]) == Talk(True, 12_500, 20_500)
    assert read([PLAIN], answered_ms=12_180) == Talk(True, 12_180, 20_500)


def test_a_call_that_nobody_answered() -> None:
    refused = cdr(CALLER, "a", "b", 10, None, 14, disposition="BUSY")
    after = cdr(CALLER, "a", "", 14, None, 14, disposition="BUSY", last_app="Hangup")
    found = read([refused, after])
    assert found == Talk(False, 10_300, 14_500)
    assert found.talked_ms == 0


def test_without_a_record_nothing_is_proved() -> None:
    assert read([]) is None
    assert read([cdr("3.1", "c", "d", 10, 11, 12)]) is None


def test_a_caller_who_was_answered_by_the_dialplan_but_reached_nobody() -> None:
    refused = cdr(CALLER, "a", "b", 10, 10, 14, disposition="BUSY")
    after = cdr(CALLER, "a", "", 14, 14, 30, last_app="Playback")
    found = read([refused, after])
    assert found is not None
    assert not found.answered


def test_what_the_caller_hears_after_the_call_is_no_talk() -> None:
    after = cdr(CALLER, "a", "", 20, 20, 50, last_app="Playback")
    assert read([PLAIN, after]) == Talk(True, 12_500, 20_500)


def test_a_caller_whom_the_dialplan_answered_before_is_talking_at_most_so_long() -> None:
    early = cdr(CALLER, "a", "b", 3, 3, 20)
    assert read([early]) == Talk(True, 10_300, 20_500, start_exact=False)
    assert read([early], answered_ms=13_000) == Talk(True, 13_000, 20_500)


def test_a_fork_talks_with_who_answered() -> None:
    other = cdr(CALLER, "a", "c", 10, None, 12)
    assert read([other, PLAIN]) == Talk(True, 12_500, 20_500)


def test_who_is_transferred_talks_on_under_its_own_id() -> None:
    on = cdr(LEG, "b", "c", 20, 20, 40)
    assert read([PLAIN, on]) == Talk(True, 12_500, 40_500)
    # The other dial, which is the transferred one's, begins there.
    assert read([PLAIN, on], channel_id=LEG, leg_ids=(OTHER,), from_ms=20_400) == Talk(True, 20_500, 40_500)
    # It has no time from before.
    assert read([PLAIN], channel_id=LEG, leg_ids=(OTHER,), from_ms=20_400) is None


def test_two_dials_of_one_channel_are_kept_apart() -> None:
    again = cdr(CALLER, "a", "c", 20, 22, 40)
    assert read([PLAIN, again], until_ms=20_600) == Talk(True, 12_500, 20_500)
    assert read([PLAIN, again], leg_ids=(OTHER,), from_ms=20_600) == Talk(True, 22_500, 40_500)
    assert read([PLAIN, again]) == Talk(True, 12_500, 40_500)


def test_a_dial_that_is_over_in_the_second_of_the_question() -> None:
    """By a caller who was there long before; an earlier dial's record looks the same, but has a later one beside it."""
    early = cdr(CALLER, "a", "b", 3, None, 10)
    assert read([early]) == Talk(False, 10_300, 10_500)
    earlier = cdr(CALLER, "a", "b", 3, 5, 10)
    refused = cdr(CALLER, "a", "c", 10, None, 11)
    assert read([earlier, refused]) == Talk(False, 10_300, 11_500)
    assert read([cdr(CALLER, "a", "b", 3, 5, 9)]) is None


def test_who_was_brought_together_is_found_by_name() -> None:
    """Attended transfer: the second dial's leg is in a record of the first one's leg alone."""
    second = cdr("2.1", "c", "d", 11, 12, 20)
    both = cdr(LEG, "b", "d", 20, 20, 40, last_app="AppDial")
    assert read([PLAIN, second, both]) == Talk(True, 12_500, 40_500)
    assert read([PLAIN, second, both], channel_id="2.1", leg_ids=(OTHER,)) == Talk(True, 12_500, 40_500)
    # And once more, with somebody else.
    third = cdr("5.1", "e", "d", 40, 40, 60)
    found = read([PLAIN, second, both, third], channel_id="2.1", leg_ids=(OTHER,))
    assert found == Talk(True, 12_500, 60_500)


@pytest.mark.parametrize(("start_s", "end_s"), [(5, 9), (25, 60)])
def test_a_name_that_comes_again_is_another_channel(start_s: int, end_s: int) -> None:
    """Asterisk counts its channels from the start again when it is started."""
    assert read([PLAIN, cdr("8.1", "e", "b", start_s, start_s, end_s)]) == Talk(True, 12_500, 20_500)


def test_a_parked_leg_is_talking() -> None:
    parked = cdr(LEG, "b", "", 20, 20, 30, last_app="Park")
    fetched = cdr(LEG, "b", "c", 30, 30, 40, last_app="Park")
    assert read([PLAIN, parked]) == Talk(True, 12_500, 30_500)
    assert read([PLAIN, parked, fetched]) == Talk(True, 12_500, 40_500)


def test_a_leg_that_went_into_a_conference_is_talking_at_least_so_long() -> None:
    room = cdr(LEG, "b", "", 20, 20, 25, last_app="ConfBridge")
    assert read([PLAIN, room]) == Talk(True, 12_500, 25_500, end_exact=False)


def test_legs_in_a_bridge_of_ours_talk_while_both_are_there() -> None:
    first = cdr(CALLER, "a", "b", 10, 12, 30, last_app="Stasis")
    second = cdr(LEG, "b", "", 13, 15, 16, last_app="Stasis")
    assert read([first, second], shape=Shape.JOINED) == Talk(True, 15_500, 30_500)
    assert read([first, second], shape=Shape.JOINED, answered_ms=16_100) == Talk(True, 16_100, 30_500)
    left_alone = cdr(LEG, "b", "", 30, 30, 50, last_app="Stasis")
    assert read([first, second, left_alone], shape=Shape.JOINED) == Talk(True, 15_500, 30_500)


def test_legs_that_were_never_joined_did_not_talk() -> None:
    first = cdr(CALLER, "a", "", 10, 12, 30, last_app="Stasis")
    second = cdr(LEG, "b", "", 13, None, 16, disposition="BUSY", last_app="AppDial2")
    found = read([first, second], shape=Shape.JOINED)
    assert found is not None
    assert not found.answered


def test_a_conference_is_proved_at_least() -> None:
    alone = cdr(CALLER, "a", "", 10, 10, 15, last_app="ConfBridge")
    named = cdr("4.1", "c", "a", 3, 3, 40, last_app="ConfBridge")
    found = read([alone], shape=Shape.ALONE, leg_ids=())
    assert found == Talk(True, 10_500, 15_500, end_exact=False)
    found = read([alone, named], shape=Shape.ALONE, leg_ids=())
    assert found == Talk(True, 10_300, 40_500, start_exact=False, end_exact=False)


def test_an_end_is_never_before_its_start() -> None:
    """The record's second is over before the ledger's instant where it answered in its last milliseconds."""
    short = cdr(CALLER, "a", "b", 10, 20, 20)
    assert read([short], answered_ms=20_990) == Talk(True, 20_990, 20_990)


@given(st.integers(0, 5_000), st.integers(0, 100_000), st.integers(0, 100_000), st.booleans())
def test_the_truth_is_never_more_than_a_second_away(
    asked_ms: int, rang_ms: int, talked_ms: int, known: bool
) -> None:
    """Whatever the fractions were that Asterisk cut off. It begins its record before it asks us."""
    begun_ms = 50_000
    answered_ms = begun_ms + asked_ms + rang_ms
    ended_ms = answered_ms + talked_ms
    record = cdr(CALLER, "a", "b", begun_ms // S, answered_ms // S, ended_ms // S)
    found = read([record], from_ms=begun_ms + asked_ms, answered_ms=answered_ms if known else None)
    assert found is not None
    assert found.answered
    assert abs(found.end_ms - ended_ms) <= 500 or found.end_ms == found.start_ms
    assert abs(found.talked_ms - talked_ms) <= (500 if known else 1000)
    assert found.start_exact
    assert found.end_exact


def test_the_same_record_is_noted_once_and_useless_ones_never() -> None:
    witness = Witness()
    assert witness.note(PLAIN)
    assert not witness.note(cdr(CALLER, "a", "b", 10, 12, 20))
    assert not witness.note(cdr("", "a", "b", 10, 12, 20))
    assert witness.note(cdr(CALLER, "a", "c", 10, 12, 20))
    assert len(witness) == 2


def test_a_witness_forgets_the_oldest() -> None:
    witness = Witness(records_max=3)
    for number in range(5):
        witness.note(cdr(f"{number}", f"a{number}", "b", number, number, number))
    assert len(witness) == 3
    assert [bool(witness.of(f"{number}")) for number in range(5)] == [False, False, True, True, True]
    # Nothing of it stays, under its own name or the other's: the first can be noted again.
    assert witness.note(cdr("0", "a0", "b", 0, 0, 0))
    with pytest.raises(ValueError, match="records_max 0"):
        Witness(records_max=0)


def test_records_are_found_by_any_channel_of_the_call() -> None:
    witness = Witness()
    named = cdr("7.1", "z", "b", 20, 20, 40)
    for one in (named, PLAIN):
        witness.note(one)
    assert witness.of(CALLER, LEG) == (PLAIN, named)
    assert witness.of("7.1") == (PLAIN, named)
    assert witness.of("none") == ()


def test_a_witness_forgets_what_is_over_but_for_calls_that_go_on() -> None:
    witness = Witness()
    over = cdr("8.1", "x", "y", 0, 1, 5)
    first_dial = cdr(CALLER, "a", "p", 0, 1, 6)
    # The caller's channel is named in it alone.
    brought_together = cdr("8.2", "q", "a", 0, 1, 7)
    young = cdr("8.3", "u", "v", 50, 51, 60)
    for one in (over, first_dial, brought_together, young):
        witness.note(one)
    witness.forget(30 * S, {CALLER})
    assert (len(witness), witness.of("8.1")) == (3, ())
    assert witness.of(CALLER) == (first_dial, brought_together)
    assert witness.of("8.3") == (young,)
    witness.forget(30 * S, ())
    assert (len(witness), witness.of(CALLER)) == (1, ())
    # Nothing of them stays: they can be noted again.
    assert witness.note(over)

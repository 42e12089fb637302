"""What the log of a phone says, in whatever moment it was written."""

import pytest

from testbed.phone import Event, events_in
from testbed.sipp import _calls_in

CALL = "1-29869@127.0.0.1"


@pytest.mark.parametrize(
    ("line", "event"),
    [
        (f"final {CALL} 17.000000 302785.000000 200", Event("final", CALL, 17.302785, "200")),
        (f"invite {CALL} 17.000000 5.000000", Event("invite", CALL, 17.000005, "")),
        # A whole second: SIPp writes a variable that is zero as nothing.
        (f"final {CALL} 17.000000  200", Event("final", CALL, 17.0, "200")),
        (f"invite {CALL} 17.000000 ", Event("invite", CALL, 17.0, "")),
        (
            f"final {CALL} 17.000000  403 Q.850;cause=21",
            Event("final", CALL, 17.0, "403 Q.850;cause=21"),
        ),
    ],
)
def test_a_line_is_read(line: str, event: Event) -> None:
    assert events_in(f"{line}\n") == [event]


def test_a_line_that_is_still_being_written_is_left_out() -> None:
    assert events_in(f"final {CALL} 17.000000 1.000000 200\nfinal {CALL} 17.0") == [
        Event("final", CALL, 17.000001, "200")
    ]


def test_a_call_of_a_whole_second_comes_to_its_end() -> None:
    log = f"invite {CALL} 16.000000 900000.000000\nfinal {CALL} 17.000000  200\ncaller {CALL} 18.000000 \n"
    [outcome], overdue = _calls_in(events_in(log))
    assert (outcome.final_status, outcome.talk_s, outcome.ended_by, overdue) == (200, 1.0, "caller", 0)

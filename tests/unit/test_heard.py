"""Of several hosts each by itself, and one try at a time while there is no connection to be had."""

import threading

import pytest
from psycopg.conninfo import conninfo_to_dict

from fairdial.ledger.contract import LedgerUnavailable
from fairdial.ledger.heard import PAUSE_S, Doubts, HeardConnection, Trouble, each_host
from fairdial.ledger.pool import shown

WHY = LedgerUnavailable("db: refused", "see that it runs")


@pytest.mark.parametrize(
    ("url", "hosts", "people"),
    [
        (
            "postgresql://f@a:1,b:2/db",
            [("a", "1", "read-write"), ("b", "2", "read-write")],
            "postgresql://a:1,b:2/db",
        ),
        # One port for all of them, and what is asked of them is not overruled.
        (
            "postgresql:///db?host=a,b&port=7&target_session_attrs=primary",
            [("a", "7", "primary"), ("b", "7", "primary")],
            "postgresql://a:7,b:7/db",
        ),
        ("postgresql://f@a/db", [("a", None, None)], "postgresql://a/db"),
        ("postgresql:///db", [(None, None, None)], "postgresql://localhost/db"),
    ],
)
def test_each_host_is_one_address(url: str, hosts: list[tuple[str | None, ...]], people: str) -> None:
    found = [conninfo_to_dict(each) for each in each_host(url)]
    assert [(each.get("host"), each.get("port"), each.get("target_session_attrs")) for each in found] == hosts
    assert {each["dbname"] for each in found} == {"db"}
    assert shown(url) == people


def test_while_there_is_no_connection_one_tries_and_the_others_hear_why() -> None:
    trouble = Trouble()
    assert trouble.admit(100.0) is False
    trouble.found(WHY, 100.0)
    with pytest.raises(LedgerUnavailable, match="db: refused; see that it runs"):
        trouble.admit(100.1)
    admitted: list[bool] = []
    refused: list[str] = []

    def ask() -> None:
        try:
            admitted.append(trouble.admit(100.0 + PAUSE_S))
        except LedgerUnavailable as error:
            refused.append(error.found)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (admitted, len(refused)) == ([True], 7)
    trouble.over()
    assert [trouble.admit(100.3) for _ in range(3)] == [False] * 3


@pytest.mark.parametrize(
    ("doubts", "doubted"),
    [
        (Doubts(), False),
        (Doubts(silent_s=9.0, timeline=2), False),
        (Doubts(silent_s=11.0, timeline=2), True),
        (Doubts(silent_s=9.0, timeline=3), True),
    ],
    ids=["nothing known", "silent before it was made", "silent since", "another promoted"],
)
def test_a_connection_of_before_is_doubted(doubts: Doubts, doubted: bool) -> None:
    made = HeardConnection.__new__(HeardConnection)
    made.doubts, made.made_s, made.timeline = doubts, 10.0, 2
    assert made.doubted is doubted

"""The commands about notices and contacts, without a server."""

import asyncio
from pathlib import Path

import pytest

from fairdial.ledger.notice import Channel, NoticeRules
from fairdial.ledger.sqlite import SqliteLedger
from tests.unit.test_cli import Run, read
from tests.unit.test_cli import run as run


def prepared(run: Run, folder: Path) -> None:
    """An account that was suspended, and its notice given up on the webhook."""
    assert run("account", "add", "acme", "--policy", "kryptotel").exit_code == 0
    assert run("line", "add", "alice", "--account", "acme").exit_code == 0

    async def with_ledger(give_up: bool) -> None:
        ledger = await SqliteLedger.open(folder / "ledger.sqlite")
        await ledger.set_notice_rules(NoticeRules(channels=frozenset({Channel.WEBHOOK})))
        if give_up:
            await ledger.not_delivered(1, Channel.WEBHOOK, 1, "the receiver answered 422", None)
        await ledger.close()

    asyncio.run(with_ledger(False))
    assert run("account", "suspend", "acme").exit_code == 0
    asyncio.run(with_ledger(True))


def test_a_notice_is_listed_shown_as_it_reads_and_tried_again(run: Run, tmp_path: Path) -> None:
    prepared(run, tmp_path)
    [row] = read(run("notice", "list", "--state", "dead", "--json"))
    assert (row["account"], row["topic"], row["deliveries"][0]["last"]) == (
        "acme",
        "standing",
        "the receiver answered 422",
    )
    assert "webhook dead after 1: the receiver answered 422" in " ".join(run("notice", "list").stdout.split())
    shown = run("notice", "show", "1").stdout
    assert "Your account is suspended." in shown
    again = read(run("notice", "retry", "1", "--json"))
    assert again["deliveries"][0]["state"] == "waiting"
    assert read(run("notice", "list", "--state", "dead", "--json")) == []
    assert read(run("notice", "list", "--account", "acme", "--json"))[0]["notice"] == 1


def test_what_was_not_given_up_is_not_tried_again(run: Run, tmp_path: Path) -> None:
    prepared(run, tmp_path)
    assert run("notice", "retry", "1").exit_code == 0
    again = run("notice", "retry", "1")
    assert again.exit_code == 2
    assert "webhook waiting" in again.stderr
    assert "notice list" in run("notice", "show", "7").stderr


def test_a_contact_is_set_piece_by_piece(run: Run, tmp_path: Path) -> None:
    prepared(run, tmp_path)
    assert read(run("contact", "show", "acme", "--json")) == {
        "account": "acme",
        "language": "en",
        "email": None,
        "line": None,
    }
    assert run("contact", "set", "acme", "--language", "de", "--email", "anna@example.com").exit_code == 0
    found = read(run("contact", "set", "acme", "--line", "alice", "--json"))
    assert (found["language"], found["email"], found["line"]) == ("de", "anna@example.com", "alice")
    assert read(run("contact", "set", "acme", "--email", "", "--json"))["email"] is None
    run("contact", "set", "acme", "--language", "de")
    assert "Ihr Konto ist gesperrt." in run("notice", "show", "1").stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("acme", "--email", "anna"), "name@example.com"),
        (("acme", "--email", "a@b.example\nBcc: x@y.example"), "name@example.com"),
        (("acme", "--language", "German"), "like en"),
        (("acme", "--line", "nobody"), "nobody"),
        (("nobody",), "nobody"),
    ],
)
def test_a_contact_that_cannot_be_is_refused(
    run: Run, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    prepared(run, tmp_path)
    done = run("contact", "set", *arguments)
    assert done.exit_code == 2
    assert words in done.stderr
    assert read(run("contact", "show", "acme", "--json"))["email"] is None

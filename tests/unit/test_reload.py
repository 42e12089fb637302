"""Taking changed files in: the next dial sees them, a call in progress keeps its policy, a bad file changes nothing."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog

from fairdial import logs
from fairdial.config import Config, Logs, load, settings_of, with_secrets
from fairdial.console.health import examine_policies
from fairdial.console.operations import OperationError, Operations
from fairdial.desk import Desk, DeskRules
from fairdial.ledger.contract import LoadedCard
from fairdial.ledger.notice import Topic
from fairdial.ledger.sqlite import SqliteLedger
from fairdial.loading import load_numbering, load_policies
from fairdial.notice_text import Composer, Templates
from fairdial.policy.book import RETIRED_MAX, PolicyBook
from fairdial.policy.decide import Verdict
from fairdial.policy.document import parse_policy
from fairdial.policy.numbers import Habit
from fairdial.policy.outcomes import Reason
from fairdial.policy.periods import zone_named
from fairdial.policy.prefixes import NumberClass
from fairdial.reload import IN_FLIGHT, Material, Reload, ReloadRefused
from fairdial.serving import read_material
from tests.samples import NOON_MS, PLAN, SetClock, provision
from tests.unit.test_desk import allowed, asked

SMALL = PLAN.replace("limit_s = 6000", "limit_s = 100")
NEXT = SMALL.replace('version = "1"', 'version = "2"').replace('clause = "P4"', 'clause = "N4"')
SETTINGS = (
    'policies = "policies"\nprefixes = "prefixes.csv"\nstore.path = "ledger.sqlite"\n'
    'ari.password_file = "password"\nnotices.templates = "templates"\n'
)
PREFIXES = "prefix,class,country,risk,note,source,date\n+881,satellite,-,irsf,,ITU,2026-11-01\n"
CARD = "prefix,destination,rate_per_min,connect_fee,increment,minimum,effective\n+44,UK,0.10,,,,2026-01-01\n"
HABIT = Habit(region="GB")


@dataclass
class Site:
    """A FairDial's files, ledger and desk, and what its logs were set to."""

    folder: Path
    config: Config
    desk: Desk
    composer: Composer
    reload: Reload
    logs: list[Logs]

    @property
    def operations(self) -> Operations:
        async def reload() -> dict[str, Any]:
            return {"settings": (await self.reload()).settings}

        return Operations(self.desk, reload=reload)

    def write(self, name: str, text: str | bytes) -> None:
        (self.folder / name).write_bytes(text.encode() if isinstance(text, str) else text)

    def version(self) -> str | None:
        policy = self.desk.policies.at("plan", zone_named("UTC"), NOON_MS)
        return None if policy is None else policy.version


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    (tmp_path / "policies").mkdir()
    (tmp_path / "templates" / "en").mkdir(parents=True)
    for name, text in (
        ("policies/plan.toml", SMALL),
        ("prefixes.csv", PREFIXES),
        ("templates/en/call_cut.txt", "Ended\nWhy: {{ why }}\n"),
        ("password", "secret-of-before\n"),
        ("fairdial.toml", SETTINGS),
    ):
        (tmp_path / name).write_text(text)
    config = load(tmp_path / "fairdial.toml", {})
    templates = Templates(config.notices.templates)
    ledger = await SqliteLedger.open(config.store.path)
    await provision(ledger, "acme", "alice", "bob")
    desk = Desk(
        ledger, load_policies(config.policies), load_numbering(config.prefixes), SetClock(), DeskRules()
    )
    composer = Composer(templates, lambda: desk.policies)
    set_to: list[Logs] = []
    reload = Reload(
        with_secrets(config), desk, composer, lambda: read_material(config, ledger), set_to.append
    )
    try:
        yield Site(tmp_path, config, desk, composer, reload, set_to)
        await desk.close()
    finally:
        await ledger.close()


# --- what is taken in --------------------------------------------------------------------------------------


async def test_nothing_that_changed_is_nothing_that_is_told(site: Site) -> None:
    numbering = site.desk.numbering
    changed = await site.reload()
    assert (changed.policies_added, changed.policies_removed, changed.rates) == ([], [], [])
    assert (changed.numbers, changed.templates, changed.settings, changed.needs_restart) == (
        False,
        False,
        [],
        [],
    )
    # With all the numbers that it has read.
    assert site.desk.numbering is numbering


async def test_the_next_dial_sees_the_new_version_and_a_call_in_progress_keeps_its_own(site: Site) -> None:
    desk = site.desk
    first = allowed(await desk.authorise(asked("call-1")))
    assert first.clause.version == "1"
    await desk.authorise(asked("call-2", line="bob"))
    site.write("policies/plan.toml", NEXT)
    changed = await site.reload()
    assert (changed.policies_added, changed.policies_removed) == (["plan 2"], ["plan 1"])
    assert site.version() == "2"
    assert desk.policies.names == ("plan",)
    # What the other gives back, the first may have: by its own version, which is in no file any more.
    desk.take_back("call-2")
    await desk.close()
    await desk.authorise(asked("call-3", line="bob"))
    grant = await desk.ledger.grant("call-3")
    assert grant is not None
    assert grant.policy_version == "2"
    desk.take_back("call-3")
    await desk.close()
    more = await desk.renew("call-1", 1_000)
    assert (more.policy_version, (more.granted_s or 0) > (first.granted_s or 0)) == ("1", True)


async def test_without_its_version_a_call_would_get_no_more(site: Site) -> None:
    """The other half of the pair: a book that had forgotten the version."""
    desk = site.desk
    first = allowed(await desk.authorise(asked("call-1")))
    await desk.authorise(asked("call-2", line="bob"))
    desk.policies = PolicyBook([parse_policy(NEXT, "plan.toml")])
    desk.take_back("call-2")
    await desk.close()
    assert (await desk.renew("call-1", 1_000)).granted_s == first.granted_s


async def test_a_table_of_numbers_is_taken_in(site: Site) -> None:
    def what() -> NumberClass:
        return site.desk.numbering.classify("02079460123", HABIT).number_class

    assert what() == NumberClass.GEOGRAPHIC
    site.write("prefixes.csv", PREFIXES + "+4420,premium_rate,GB,,,tariff,2026-11-01\n")
    assert (await site.reload()).numbers
    assert what() == NumberClass.PREMIUM_RATE


async def test_templates_and_rate_cards_of_another_process_are_taken_in(site: Site) -> None:
    site.write("templates/en/call_cut.txt", "Over\nBecause {{ why }}\n")
    await site.desk.ledger.load_card(LoadedCard("rates", "EUR", CARD), NOON_MS)
    assert site.desk.cards == {}
    changed = await site.reload()
    assert (changed.templates, changed.rates) == (True, ["rates"])
    assert site.composer.templates.fill(Topic.CUT, "en", {"why": "x"})[1:] == ("Over", "Because x\n")
    assert [card.name for card in site.desk.cards.values()] == ["rates"]


async def test_settings_that_can_change_do_and_of_others_it_is_told_that_they_do_not(site: Site) -> None:
    desk = site.desk
    for number in range(3):
        allowed(await desk.authorise(asked(f"call-{number}")))
    site.write(
        "fairdial.toml", SETTINGS + 'logs.level = "error"\ndesk.attempts_per_s = 3\ndesk.region = "FR"\n'
    )
    site.write("password", "secret-of-after\n")
    changed = await site.reload()
    assert changed.settings == ["desk.attempts_per_s", "logs.level"]
    assert changed.needs_restart == ["ari.password", "desk.region"]
    assert site.logs == [Logs(level="error")]
    # The fourth within a second; those before the reload count.
    refused = await desk.authorise(asked("call-3"))
    assert isinstance(refused, Verdict)
    assert refused.decision.reason == Reason.DIALS_TOO_FAST
    assert desk.region == "GB"
    again = await site.reload()
    assert (again.settings, again.needs_restart) == ([], changed.needs_restart)


async def test_a_secret_is_never_told(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up(Logs())
    site.write("password", "secret-of-after\n")
    assert (await site.reload()).needs_restart == ["ari.password"]
    said = capsys.readouterr().err
    assert "ari.password" in said
    assert "secret-of" not in said


def test_each_setting_that_can_change_in_flight_is_one() -> None:
    assert settings_of(Config()).keys() >= IN_FLIGHT


# --- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("policies/plan.toml", "name = \n", "policies/plan.toml"),
        ("policies/plan.toml", b"name = \xff\n", "policies/plan.toml: byte 7 is no UTF-8 text"),
        ("policies/other.toml", SMALL, "has version '1' twice; give each its own version"),
        (
            "policies/plan.toml",
            SMALL.replace("limit_s = 100", "limit_s = 99"),
            "version '1' with other contents; give the new text its own version",
        ),
        ("prefixes.csv", PREFIXES + "+4420,premium\n", "prefixes.csv, line 3"),
        ("prefixes.csv", b"\xff", "prefixes.csv: byte 0 is no UTF-8 text"),
        ("templates/en/call_cut.txt", "{{ why", "call_cut.txt"),
        ("fairdial.toml", SETTINGS + 'logs.level = "loud"\n', "fairdial.toml: logs.level"),
        ("fairdial.toml", "policies = [", "fairdial.toml: not TOML"),
        ("password", "", "ari.password_file"),
    ],
)
async def test_what_cannot_be_used_changes_nothing_and_is_told(
    site: Site, name: str, text: str | bytes, words: str
) -> None:
    desk = site.desk
    before = (desk.policies, desk.cards, desk.numbering, site.composer.templates)
    good = (site.folder / name).read_bytes() if (site.folder / name).exists() else None
    # Beside it, changes that could be taken in.
    site.write("policies/next.toml", NEXT)
    site.write(name, text)
    with pytest.raises(ReloadRefused, match="nothing was changed") as refused:
        await site.reload()
    assert words in str(refused.value)
    assert (desk.policies, desk.cards, desk.numbering, site.composer.templates) == before
    assert (site.version(), site.logs) == ("1", [])
    told = examine_policies(desk, site.reload.failure)
    assert told.well, "calls are decided as before"
    assert words in told.text
    assert "fairdial reload" in told.cure
    if good is None:
        (site.folder / name).unlink()
    else:
        site.write(name, good)
    assert (await site.reload()).policies_added == ["plan 2"]
    assert site.reload.failure == ""
    assert examine_policies(desk, site.reload.failure).cure == ""


async def test_an_empty_folder_changes_nothing(site: Site) -> None:
    (site.folder / "policies" / "plan.toml").unlink()
    with pytest.raises(ReloadRefused, match="no policy files"):
        await site.reload()
    assert site.version() == "1"


async def test_a_published_version_stays_and_the_folder_may_not_contradict_it(site: Site) -> None:
    later = SMALL.replace('version = "1"', 'version = "2"\neffective = 2099-01-01')
    await site.operations.call("policy_publish", {"text": later, "where": "plan.toml"})
    assert (await site.reload()).policies_removed == []
    assert site.desk.policies.version("plan", "2") is not None
    site.write("policies/two.toml", later.replace("limit_s = 100", "limit_s = 50"))
    with pytest.raises(ReloadRefused, match="was published, and the folder says otherwise"):
        await site.reload()


async def test_a_version_that_was_taken_away_cannot_be_published_with_another_text(site: Site) -> None:
    """Refused before it is kept: the next start would find two texts under one name."""
    site.write("policies/plan.toml", NEXT)
    await site.reload()
    later = 'version = "1"\neffective = 2099-01-01'
    other = SMALL.replace('version = "1"', later)
    with pytest.raises(OperationError, match="published already, with other contents"):
        await site.operations.call("policy_publish", {"text": other, "where": "plan.toml"})
    assert list(await site.desk.ledger.published()) == []
    third = other.replace('version = "1"', 'version = "3"')
    await site.operations.call("policy_publish", {"text": third, "where": "plan.toml"})
    assert [each.version for each in await site.desk.ledger.published()] == ["3"]


async def test_nothing_is_published_or_loaded_between_reading_and_putting_in_place(site: Site) -> None:
    began, may_end = asyncio.Event(), asyncio.Event()

    async def slow() -> Material:
        found = await read_material(site.config, site.desk.ledger)
        began.set()
        await may_end.wait()
        return found

    site.reload = Reload(with_secrets(site.config), site.desk, site.composer, slow, site.logs.append)
    operations = site.operations
    reloading = asyncio.create_task(operations.call("reload", {}))
    await began.wait()
    later = SMALL.replace('version = "1"', 'version = "2"\neffective = 2099-01-01')
    others = [
        asyncio.create_task(operations.call("policy_publish", {"text": later, "where": "plan.toml"})),
        asyncio.create_task(
            operations.call("rates_load", {"card": "rates", "currency": "EUR", "text": CARD})
        ),
    ]
    done, _ = await asyncio.wait(others, timeout=0.3)
    assert not done
    may_end.set()
    await asyncio.gather(reloading, *others)
    assert site.desk.policies.version("plan", "2") is not None
    assert list(site.desk.cards) == ["rates"]


async def test_who_announces_versions_hears_of_a_reload_and_not_of_one_that_was_refused(site: Site) -> None:
    heard: list[str | None] = []

    async def reload() -> dict[str, Any]:
        return {"settings": (await site.reload()).settings}

    operations = Operations(site.desk, reload=reload, published=lambda: heard.append(site.version()))
    site.write("policies/plan.toml", "name = \n")
    with pytest.raises(ReloadRefused):
        await operations.call("reload", {})
    assert heard == []
    site.write("policies/plan.toml", NEXT)
    await operations.call("reload", {})
    assert heard == ["2"]


async def test_where_nothing_runs_there_is_nothing_to_reload(site: Site) -> None:
    with pytest.raises(OperationError, match="reads its files when it starts"):
        await Operations(site.desk).call("reload", {})


# --- the book and the log ------------------------------------------------------------------------------------


def numbered(number: int) -> PolicyBook:
    return PolicyBook([parse_policy(SMALL.replace('version = "1"', f'version = "{number}"'), "plan.toml")])


def test_a_version_that_comes_back_is_in_force_again_and_may_not_differ() -> None:
    first, second = numbered(1), numbered(2)
    without = second.in_place_of(first)
    assert [policy.version for policy in without.versions("plan")] == ["2"]
    assert without.version("plan", "1") == first.version("plan", "1")
    back = first.in_place_of(without)
    assert [policy.version for policy in back.versions("plan")] == ["1"]
    [old] = first.versions("plan")
    again = without.with_published(old)
    assert [policy.version for policy in again.versions("plan")] == ["2", "1"]
    other = PolicyBook([parse_policy(SMALL.replace("limit_s = 100", "limit_s = 7"), "plan.toml")])
    with pytest.raises(ValueError, match="other contents"):
        other.in_place_of(without)
    with pytest.raises(ValueError, match="other contents"):
        without.with_published(*other.versions("plan"))


def test_versions_that_were_taken_away_do_not_grow_without_end() -> None:
    gone = [*numbered(0).versions("plan")]
    many = [gone[0].model_copy(update={"version": f"v{number}"}) for number in range(RETIRED_MAX + 5)]
    book = numbered(1).in_place_of(PolicyBook(many))
    assert book.version("plan", "v4") is None
    assert book.version("plan", "v5") is not None


def test_a_logger_that_is_kept_logs_as_the_newest_settings_say(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up(Logs(level="info"), for_good=True)
    kept = structlog.get_logger("kept")
    try:
        kept.info("first", number="+442079460123")
        kept.debug("unheard")
        logs.set_up(Logs(level="debug", numbers="full"), for_good=True)
        kept.debug("second", number="+442079460123")
        logs.set_up(Logs(level="error"), for_good=True)
        kept.warning("unheard")
        kept.error("third")
    finally:
        logs.set_up(Logs())
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["event"] for line in lines] == ["first", "second", "third"]
    assert [line.get("number") for line in lines] == ["+4420••••••23", "+442079460123", None]

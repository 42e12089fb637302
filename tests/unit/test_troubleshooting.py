"""docs/troubleshooting.md speaks of what there is: commands run, words are FairDial's own, links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fairdial.config import Config, settings_of
from fairdial.console.cli import app
from fairdial.main import Parts
from fairdial.policy.outcomes import OUTCOMES, UNDECIDED, Reason

PROJECT = Path(__file__).parents[2]
PAGE = (PROJECT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
CODE = "\n".join(
    file.read_text(encoding="utf-8")
    for package in ("fairdial", "ari_handlers", "agi_app", "dialplan")
    for file in sorted((PROJECT / package).rglob("*"))
    if file.suffix in (".py", ".conf")
)
# A text that is written on two lines of the code is one text.
JOINED = re.sub(r'"\s*\n\s*f?"', "", CODE)
COMMANDS = [
    line.removeprefix("$ ")
    for block in re.findall(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]


def section(title: str) -> str:
    [found] = re.findall(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    return str(found)


def first_cells(text: str, header: str) -> list[str]:
    """What stands in backticks in the first column of the tables under that header."""
    cells = []
    for table in re.findall(rf"^\| {header} \|.*\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE):
        for row in table.splitlines():
            cells += re.findall(r"`([^`]+)`", row.split(" | ")[0])
    return cells


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "policies").symlink_to(PROJECT / "policies")
    (tmp_path / "fairdial.toml").write_text(
        'policies = "policies"\ncontrol = "control.sock"\nstore.path = "ledger.sqlite"\nasterisk_etc = "nowhere"\n'
        'ari.url = "http://127.0.0.1:9/ari"\nami.port = 9\n'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FAIRDIAL_CONFIG", "fairdial.toml")
    for command in (
        "account add acme --policy redconnect --zone Europe/London",
        "line add alice --account acme",
    ):
        assert CliRunner().invoke(app, shlex.split(command), obj=Parts()).exit_code == 0
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_runs_as_it_is_shown(folder: Path, command: str) -> None:
    program, *arguments = shlex.split(command)
    assert program == "fairdial"
    done = CliRunner().invoke(app, arguments, obj=Parts())
    # 1: not ready, or something was found, as on a machine without a switch.
    assert done.exit_code in (0, 1), done.output


def test_what_doctor_and_a_failed_start_say_stands_in_the_code() -> None:
    said = [*first_cells(PAGE, "it says")]
    assert len(said) > 12
    for words in said:
        # Where the code puts a name in, the words around it are looked for.
        assert words in JOINED, words


def test_every_reason_without_a_decision_has_its_row_and_is_told_by_503() -> None:
    rows = first_cells(section("All calls are refused with 503"), "reason")
    assert set(rows) == {str(reason) for reason in UNDECIDED} | {"fairdial_unreachable"}
    assert {OUTCOMES[reason].sip_status for reason in UNDECIDED} == {503}
    assert "Set(FAIRDIAL_REASON=fairdial_unreachable)" in CODE


def test_each_reason_that_is_named_is_one() -> None:
    rows = first_cells(section("One call is refused, or another than you expect"), "you see")
    reasons = {str(reason) for reason in Reason}
    assert len(set(rows) & reasons) >= 9
    assert [row for row in rows if row not in reasons and row != "check"] == []


def test_each_entry_of_the_log_is_written_somewhere() -> None:
    entries = first_cells(section("What the log says"), "entry")
    assert len(entries) > 18
    assert [entry for entry in entries if f'"{entry}"' not in CODE] == []


def test_each_setting_that_is_named_is_one() -> None:
    known = settings_of(Config())
    sections = {name.partition(".")[0] for name in known if "." in name}
    named = {
        each for each in re.findall(r"`([a-z]+\.[a-z_]+)`", PAGE) if each.partition(".")[0] in sections
    } - {"http.conf", "ari.conf"}
    assert len(named) >= 8
    assert named - set(known) == set()


@pytest.mark.parametrize(
    "page", ["troubleshooting.md", "architecture.md", "writing-policies.md", "operations.md"]
)
def test_each_link_leads_somewhere(page: str) -> None:
    text = (PROJECT / "docs" / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]*(?:#[^)]*)?)\)", text):
        file, _, anchor = target.partition("#")
        there = PROJECT / "docs" / file if file else PROJECT / "docs" / page
        assert there.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.MULTILINE)
            known = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
            assert anchor in known, target

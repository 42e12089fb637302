"""docs/replay.md says what the command does: each command is run as it is shown, and each key is named."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fairdial.console.cli import app
from fairdial.main import Parts
from fairdial.replay.layout import Columns, Layout
from fairdial.replay.report import NOTES
from fairdial.replay.written import COLUMNS

PROJECT = Path(__file__).parents[2]
PAGE = (PROJECT / "docs/replay.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The fenced blocks of that language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


COMMANDS = [line.removeprefix("$ ") for block in blocks("console") for line in block.splitlines()]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the commands run: the project's files as the page names them, a ledger, and the shown files."""
    for name in ("policies", "tests"):
        (tmp_path / name).symlink_to(PROJECT / name)
    (tmp_path / "fairdial.toml").write_text(
        'policies = "policies"\ncontrol = "control.sock"\nstore.path = "ledger.sqlite"\n'
    )
    [shown], [mapping] = blocks("csv"), blocks("toml")
    (tmp_path / "calls.csv").write_text(shown)
    (tmp_path / "mapping.toml").write_text(mapping)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FAIRDIAL_CONFIG", "fairdial.toml")
    for command in (
        "account add acme --policy kryptotel --country GB --country DE",
        "line add alice --account acme --internal _1XX",
    ):
        assert CliRunner().invoke(app, shlex.split(command), obj=Parts()).exit_code == 0
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_runs_as_it_is_shown(folder: Path, command: str) -> None:
    program, *arguments = shlex.split(command)
    assert program == "fairdial"
    result = CliRunner().invoke(app, arguments, obj=Parts())
    assert result.exit_code in (0, 1), result.output
    for option in ("--html", "--csv"):
        if option in arguments:
            assert (folder / arguments[arguments.index(option) + 1]).stat().st_size > 0


def test_the_page_shows_commands() -> None:
    assert len(COMMANDS) == 5


def test_the_page_names_every_option_key_and_column() -> None:
    usage = CliRunner().invoke(app, ["replay", "--help"], obj=Parts(), env={"COLUMNS": "200"}).output
    options = set(re.findall(r"--[a-z-]+", usage)) - {"--help"}
    named = set(re.findall(r"--[a-z-]+", PAGE))
    assert options <= named
    for key in Columns.model_fields:
        assert f"columns.{key}" in PAGE
    for key in Layout.model_fields:
        assert key in PAGE
    for column in COLUMNS:
        assert f"`{column}`" in PAGE


def test_the_page_says_what_the_report_says_of_its_limits() -> None:
    for note in NOTES:
        assert f"- {note}\n" in PAGE

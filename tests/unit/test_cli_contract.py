"""The commands that the command line promises to have, by their promised names, and what each must take."""

import pytest
from typer.testing import CliRunner

from fairdial.console import cli
from tests.unit.test_cli import Run
from tests.unit.test_cli import run as run

PROMISED = {
    "serve": (),
    "init": ("--policy", "--region", "--asterisk-etc", "--write", "--reload"),
    "doctor": ("--asterisk-etc", "--json"),
    "classify": ("--region", "--json"),
    "check": ("--account", "--line", "--kind", "--from", "--at", "--explain", "--json"),
    "calls": ("--watch", "--json"),
    "nodes": ("--forget", "--json"),
    "hangup": (),
    "usage": ("--json",),
    "account add": (),
    "account list": ("--json",),
    "account show": ("--json",),
    "account suspend": (),
    "account restore": (),
    "account terminate": (),
    "credit add": (),
    "line add": (),
    "line list": ("--json",),
    "subscribe": (),
    "policy lint": ("--json",),
    "policy show": ("--json",),
    "policy diff": ("--json",),
    "policy publish": (),
    "rates load": (),
    "request open": ("--json",),
    "request list": ("--json",),
    "request approve": (),
    "request decline": (),
    "case list": ("--json",),
    "case show": ("--json",),
    "case close": (),
    "case flag": (),
    "replay": ("--policy", "--json"),
    "audit": ("--json",),
    "import": (),
}


def help_of(command: str) -> str:
    # Wide, as a narrow terminal cuts the names of options.
    result = CliRunner().invoke(cli.app, [*command.split(), "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("command", PROMISED)
def test_a_promised_command_is_there_and_takes_what_it_should(command: str) -> None:
    *group, name = command.split()
    assert f"│ {name} " in help_of(" ".join(group))
    shown = help_of(command)
    assert [option for option in PROMISED[command] if option not in shown] == []


def test_a_command_by_its_former_name_works_and_is_not_shown(run: Run) -> None:
    assert run("account", "add", "acme", "--policy", "redconnect").exit_code == 0
    asked = ("acme", "allowances.voice", "--to", "3000min", "--why", "a fair")
    assert run("request", "add", *asked).exit_code == 0
    assert "│ add " not in help_of("request")
    assert run("request", "show", "1").exit_code == 0

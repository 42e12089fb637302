"""The commands about policy files and rate cards."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from fairdial.console.session import FOUND, AsJson, Session, fail, read_text, show, table, table_of
from fairdial.policy.cards import COLUMNS as RATE_COLUMNS
from fairdial.policy.difference import difference
from fairdial.policy.document import Policy, PolicyError, parse_policy
from fairdial.policy.lint import Severity, lint
from fairdial.policy.show import show as policy_rows

rates = typer.Typer(help="Rate cards: what a minute to a number costs.", no_args_is_help=True)
policies = typer.Typer(help="Policies: check, read, compare, publish.", no_args_is_help=True)

CARD_COLUMNS = ("card", "currency", "rates", "version")


@rates.command("load")
def rates_load(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="CSV: " + ",".join(RATE_COLUMNS))],
    card: Annotated[str, typer.Option(help="Name of the card, as policies call it.")],
    currency: Annotated[str, typer.Option(help="ISO 4217 code of its prices.")],
    as_json: AsJson = False,
) -> None:
    """Load a rate card, all of it or nothing; one of the same name is replaced."""
    session: Session = context.obj
    row = session.run("rates_load", card=card, currency=currency, text=read_text(file), where=str(file))
    show(row, as_json, lambda: table_of(CARD_COLUMNS, [row]))


@rates.command("list")
def rates_list(context: typer.Context, as_json: AsJson = False) -> None:
    """List the loaded rate cards."""
    session: Session = context.obj
    rows = session.run("rates_list")
    show(rows, as_json, lambda: table_of(CARD_COLUMNS, rows))


PolicyFile = Annotated[Path, typer.Argument(help="Policy file (TOML).")]
FINDING_COLUMNS = ("file", "line", "severity", "key", "words", "cure")


def _read_policy(file: Path) -> Policy:
    try:
        return parse_policy(read_text(file), str(file))
    except PolicyError as error:
        fail(str(error))


@policies.command("list")
def policy_list(context: typer.Context, as_json: AsJson = False) -> None:
    """List the policies that FairDial knows, the version of each that is in force in UTC, and all its versions."""
    session: Session = context.obj
    rows = session.run("policy_list")

    def shown() -> Table:
        return table(
            ("policy", "in force", "versions"),
            (
                (row["policy"], row["version"], ", ".join(each["version"] for each in row["versions"]))
                for row in rows
            ),
        )

    show(rows, as_json, shown)


@policies.command("lint")
def policy_lint(
    files: Annotated[list[Path], typer.Argument(help="Policy files (TOML).")], as_json: AsJson = False
) -> None:
    """Find what is wrong or does not make sense. Status 1 if there is an error, 0 for warnings alone."""
    found = [finding for file in files for finding in lint(read_text(file), str(file))]
    rows = [asdict(finding) for finding in found]
    show(rows, as_json, lambda: table_of(FINDING_COLUMNS, rows))
    if any(finding.severity is Severity.ERROR for finding in found):
        raise typer.Exit(FOUND)


@policies.command("show")
def policy_show(file: PolicyFile, as_json: AsJson = False) -> None:
    """Say in words what a policy means."""
    rows = [asdict(row) for row in policy_rows(_read_policy(file))]
    show(rows, as_json, lambda: table_of(list(rows[0]), rows))


@policies.command("diff")
def policy_diff(
    old: PolicyFile,
    new: Annotated[Path, typer.Argument(help="The newer version.")],
    as_json: AsJson = False,
) -> None:
    """Say in plain words what changes for a customer. Status 1 if anything does."""
    sentences = list(difference(_read_policy(old), _read_policy(new)))
    show(sentences, as_json, lambda: table(("what changes",), ([sentence] for sentence in sentences)))
    if sentences:
        raise typer.Exit(FOUND)


@policies.command("publish")
def policy_publish(context: typer.Context, file: PolicyFile, as_json: AsJson = False) -> None:
    """Keep a version and let it decide from its day on. Repeating it with the same text changes nothing."""
    session: Session = context.obj
    value = session.run("policy_publish", text=read_text(file), where=str(file))

    def shown() -> Table:
        rows = [(key, value[key]) for key in ("policy", "version", "effective")]
        rows += [("what changes", sentence) for sentence in value["changes"]]
        return table(("what", "is"), [*rows, ("from when", value["takes_effect"])])

    show(value, as_json, shown)

"""The command about the switch's SIP credentials: audit."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from fairdial.asterisk_conf import ConfError
from fairdial.audit import MAX_AGE_DAYS, Ageing, Finding, Report, Unjudged
from fairdial.audit import audit as audit_file
from fairdial.clock import SystemClock
from fairdial.console.session import FOUND, AsJson, Session, fail, show, table, table_of
from fairdial.logs import escaped
from fairdial.password_ages import AgesError, PasswordAges

FINDING_COLUMNS = ("severity", "where", "section", "found", "cure", "clause")
LOOKED_AT_COLUMNS = ("files", "endpoints", "passwords", "hashed", "errors", "warnings", "not_judged")


def audit(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="PJSIP_CONF", help="The switch's pjsip.conf.")],
    since: Annotated[
        Path | None,
        typer.Option(help="File in which audit notes since when each password is there. Made if it is not."),
    ] = None,
    max_age_days: Annotated[
        int, typer.Option(min=1, max=36_500, help="Days after which a password is old, with --since.")
    ] = MAX_AGE_DAYS,
    as_json: AsJson = False,
) -> None:
    """Judge the SIP passwords of a switch, and who gets in without one. Status 1 if there is any finding."""
    session: Session = context.obj
    report = _audited(file, session.config.ari.app, since, max_age_days)
    value = _report_json(file, report)
    rows = [*_finding_rows(report.findings), *_unjudged_rows(report.unjudged)]
    if not as_json and rows:
        show(value, False, lambda: table(FINDING_COLUMNS, rows))
    show(value, as_json, lambda: table_of(LOOKED_AT_COLUMNS, [value["looked_at"]]))
    if report.findings:
        raise typer.Exit(FOUND)


def _audited(file: Path, app: str, since: Path | None, max_age_days: int) -> Report:
    today = datetime.fromtimestamp(SystemClock().now().wall_ms / 1000, UTC).date()
    try:
        ages = None if since is None else PasswordAges.read(since)
        report = audit_file(file, app, Ageing(today, ages, max_age_days))
        if ages is not None:
            ages.write(today)
    except (ConfError, AgesError) as error:
        fail(escaped(str(error)))
    except OSError as error:
        cure = "name the switch's pjsip.conf, and run this as a user who may read it (root)"
        fail(escaped(f"{file}: cannot be read ({error.strerror}); {cure}"))
    return report


def _report_json(file: Path, report: Report) -> dict[str, Any]:
    counts = {
        severity: sum(1 for finding in report.findings if finding.severity == severity)
        for severity in ("error", "warning")
    }
    return {
        "file": escaped(str(file)),
        "looked_at": {
            "files": report.files,
            "endpoints": report.endpoints,
            "passwords": report.passwords,
            "hashed": report.hashed,
            "errors": counts["error"],
            "warnings": counts["warning"],
            "not_judged": len(report.unjudged),
        },
        "findings": [
            {
                "severity": str(finding.severity),
                "where": escaped(finding.where),
                "sections": [escaped(name) for name in finding.sections],
                "what": escaped(finding.what),
                "cure": escaped(finding.cure),
                "clause": finding.clause,
            }
            for finding in report.findings
        ],
        "not_judged": [
            {
                "where": escaped(each.where),
                "sections": [escaped(name) for name in each.sections],
                "why": escaped(each.why),
            }
            for each in report.unjudged
        ],
    }


def _finding_rows(findings: Iterable[Finding]) -> Iterator[tuple[str, ...]]:
    for each in findings:
        told = (each.severity, each.where, _section(each.sections), each.what, each.cure, each.clause)
        yield tuple(escaped(str(cell)) for cell in told)


def _unjudged_rows(unjudged: Iterable[Unjudged]) -> Iterator[tuple[str, ...]]:
    for each in unjudged:
        yield "not judged", escaped(each.where), escaped(_section(each.sections)), escaped(each.why), "", ""


def _section(names: tuple[str, ...]) -> str:
    """The first name; the others are in what is said."""
    return f"[{names[0]}]" + (" …" if len(names) > 1 else "") if names else ""

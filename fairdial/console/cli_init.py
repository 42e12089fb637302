"""The command that sets FairDial up beside a running Asterisk: init."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from fairdial import shipped
from fairdial.config import ConfigError
from fairdial.console.session import BAD_INPUT, FOUND, Session, fail
from fairdial.file_changes import ChangeFailed, FileChange, difference
from fairdial.first_steps import CannotBegin, Preparation, Wishes, prepare
from fairdial.logs import escaped
from fairdial.switch_cli import SwitchCli, SwitchSilent

QUESTION = """\
 exten => _0X.,1,Gosub(fairdial,s,1(outbound,${EXTEN}))
  same => n,GotoIf($["${FAIRDIAL_RESULT}" = "ALLOW"]?dial)
  same => n,Hangup(${FAIRDIAL_CAUSE})
  same => n(dial),Dial(PJSIP/${FAIRDIAL_NUMBER}@carrier,60,${FAIRDIAL_DIAL})
"""


def init(
    context: typer.Context,
    policy: Annotated[str | None, typer.Option(help="Published policy; redconnect if left out.")] = None,
    region: Annotated[
        str | None, typer.Option(help="Country in whose habit your lines dial: GB, DE, …")
    ] = None,
    asterisk_etc: Annotated[
        Path | None, typer.Option("--asterisk-etc", help="The switch's files, where it does not say itself.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder for the ledger.")] = None,
    write: Annotated[bool, typer.Option("--write", help="Do it; without, show what to put where.")] = False,
    reload: Annotated[
        bool, typer.Option("--reload", help="Then have the switch read its files anew.")
    ] = False,
) -> None:
    """Set FairDial up beside the Asterisk of this machine. Repeating it changes nothing. Status 1 if something is in
    the way.

    Writes fairdial.toml, where --config names it, and files of its own beside the switch's, which include them. What
    you wrote is not changed, and each file that gets a line is kept as NAME.before-fairdial.
    """
    session: Session = context.obj
    if on_terminal() and not session.config_path.exists():
        names = ", ".join(shipped.policy_names())
        policy = policy or typer.prompt(f"Policy ({names})", default="redconnect")
        region = region or typer.prompt("Country in whose habit your lines dial", default="GB")
    if region is not None and not (
        len(region) == 2 and region.isascii() and region.isalpha() and region.isupper()
    ):
        fail(f"--region {region!r} is no country; write two capital letters, such as GB")
    cli = SwitchCli()
    try:
        prepared = prepare(Wishes(session.config_path, asterisk_etc, policy, region, data), cli)
    except (CannotBegin, ConfigError) as error:
        fail(escaped(str(error)))
    except OSError as error:
        fail(escaped(f"{error.filename}: cannot be read ({error.strerror}); run this as root"))
    say(f"Asterisk {prepared.version or 'of a version that is not known'}, its files in {prepared.etc}")
    for note in prepared.plan.notes:
        say(f"note: {note}")
    if prepared.obstacles:
        for obstacle in prepared.obstacles:
            say(f"in the way: {obstacle}")
        fail("nothing was written; settle what is in the way, and run this again", FOUND)
    if write:
        _write(prepared)
    else:
        _show(prepared)
    if reload:
        _reload(prepared, cli)
    _tell_what_next(prepared, reloaded=reload)


def on_terminal() -> bool:
    """Whether there is somebody to ask."""
    return sys.stdin.isatty()


def say(text: str = "") -> None:
    """Print a line; what may come from a file is kept from steering the terminal."""
    sys.stdout.write("\n".join(escaped(line) for line in text.split("\n")) + "\n")


def _write(prepared: Preparation) -> None:
    try:
        backups = prepared.write()
    except ChangeFailed as error:
        fail(escaped(str(error)))
    for change in prepared.changes:
        _written(change)
    for backup in backups:
        say(f"kept: {backup}")
    if not prepared.changes:
        say("all is there already: nothing was changed")


def _written(change: FileChange) -> None:
    if change.before is None:
        say(f"made: {change.path}")
    else:
        say(f"changed: {change.path}")
        say(difference(change).rstrip("\n"))


def _show(prepared: Preparation) -> None:
    """What to put where, secrets and all: who copies it needs them."""
    if not prepared.changes:
        say("all is there already: nothing to do")
        return
    for change in prepared.changes:
        if change.before is not None:
            say(f"\n--- {change.path}: change this\n{difference(change, hide=False)}")
        elif change.path.name in ("fairdial.conf", f"{prepared.policy}.toml") and len(change.after) > 2000:
            # Too long to be copied from a terminal, and shipped.
            folder = shipped.folder("policies" if change.path.suffix == ".toml" else "dialplan")
            say(f"\n--- {change.path}: copy {folder / change.path.name} there")
        else:
            say(f"\n--- {change.path}: make this, mode {change.mode:o}\n{change.after}")
    say("nothing was written: `fairdial init --write` does it")


def _reload(prepared: Preparation, cli: SwitchCli) -> None:
    for command in prepared.reloads:
        try:
            cli.carry_out(command)
        except SwitchSilent as error:
            fail(escaped(str(error)), BAD_INPUT)
        say(f"reloaded: {command}")


def _tell_what_next(prepared: Preparation, *, reloaded: bool) -> None:
    say("\nNext:")
    if not reloaded:
        say("- have the switch read its files anew (`fairdial init --reload`):")
        for command in prepared.reloads:
            say(f"    asterisk -rx '{command}'")
    if prepared.plan.freepbx:
        say("- FreePBX: put the question into its hook, as docs/existing-dialplans.md shows")
    elif prepared.plan.dials:
        say("- ask before you dial; these lines do not yet:")
        for line in prepared.plan.dials:
            say(f"    {line}")
        say("  A line that dials becomes (docs/existing-dialplans.md has more):")
        say(QUESTION.rstrip("\n"))
    say("- start FairDial: fairdial serve (or systemctl start fairdial)")
    say(f"- say who pays: fairdial account add acme --policy {prepared.policy}")
    say("                fairdial line add ENDPOINT --account acme")
    say("- see that all is well: fairdial doctor")

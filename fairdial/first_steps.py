"""From a running Asterisk to a FairDial that can be started: what `fairdial init` writes, and in what order to go on.

Responsible for our own files (fairdial.toml, the two secrets, the policies, the folder of the ledger) and for putting
them together with what `switch_setup` plans for the switch's. A second time it finds nothing to do. Leaves showing to
the command line.
"""

import contextlib
import grp
import json
import os
import pwd
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fairdial import shipped
from fairdial.asterisk_conf import ConfError, read_conf
from fairdial.asterisk_version import USABLE, is_recent
from fairdial.config import DEFAULT_FILE, Ami, Ari, Config, ConfigError, Desk, Store, load, with_secrets
from fairdial.file_changes import FileChange, Folder, Owner, carry_out, text_of
from fairdial.switch_cli import RunningSwitch, SwitchCli, SwitchSilent
from fairdial.switch_setup import Credentials, Obstacle, SwitchPlan, plan_switch

SECRET_CHARACTERS: Final = 24
OUR_USER: Final = "fairdial"
"""Whom the systemd unit runs FairDial as."""
LOCALTIME: Final = Path("/etc/localtime")
RELOADS: Final = (
    *("module reload http", "module reload res_ari.so", "manager reload", "dialplan reload"),
    "module reload cdr_csv.so",
)
"""What makes the switch read anew what was written; none of them touches a call."""


class CannotBegin(Exception):
    """There is no switch here that FairDial could be set up for; the text says why and how to mend it."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What is asked for. config: where fairdial.toml is, or shall be. etc: the switch's files, None: it says itself
    where. policy: None: the one that is there already, or redconnect. region: how lines dial. data: folder of the
    ledger, None: the usual place.
    """

    config: Path = DEFAULT_FILE
    etc: Path | None = None
    policy: str | None = None
    region: str | None = None
    data: Path | None = None


@dataclass(slots=True)
class Preparation:
    """What is to be done at this machine; nothing is done yet. switch: None, where none runs."""

    etc: Path
    version: str
    plan: SwitchPlan
    policy: str
    config: Path
    folders: list[Folder] = field(default_factory=list)
    own: list[FileChange] = field(default_factory=list)

    @property
    def changes(self) -> list[FileChange]:
        """Ours first, then the switch's."""
        return [*self.own, *self.plan.changes]

    @property
    def obstacles(self) -> Sequence[Obstacle]:
        """What must be settled by a person before anything is written."""
        return self.plan.obstacles

    @property
    def reloads(self) -> list[str]:
        """Commands of the switch's command line that take in what was written."""
        loads = [f"module load {name}.so" for name in self.plan.modules]
        return [*loads, *(each for each in RELOADS if self.plan.cdr_file or "cdr" not in each)]

    def write(self) -> list[Path]:
        """Write all of it or nothing; answers with the backups. Raises ChangeFailed."""
        return carry_out(self.folders, self.changes)


def prepare(wishes: Wishes, cli: SwitchCli) -> Preparation:
    """Look at the switch and plan. Raises CannotBegin, ConfigError, or OSError."""
    switch = _switch(wishes.etc, cli)
    if not is_recent(switch.version):
        raise CannotBegin(
            f"Asterisk {switch.version} is too old: it takes no requests on the event socket; use {USABLE}"
        )
    there = _configuration(wishes.config)
    plan = plan_switch(
        switch.etc, _known(wishes.config, there), lambda: secrets.token_urlsafe(SECRET_CHARACTERS)
    )
    _tell_differences(wishes, there, plan, switch.logs)
    prepared = Preparation(switch.etc, switch.version, plan, wishes.policy or "", wishes.config)
    _policies(prepared, wishes, there)
    store = there.store.path if there is not None else _data(wishes) / "ledger.sqlite"
    prepared.folders.append(Folder(store.parent, 0o700, _owner()))
    if there is None:
        _own_files(prepared, wishes, switch)
    return prepared


def _switch(etc: Path | None, cli: SwitchCli) -> RunningSwitch:
    try:
        running = cli.running()
    except SwitchSilent as error:
        if etc is None:
            raise CannotBegin(f"{error}; or name the folder of its files with --asterisk-etc") from error
        running = RunningSwitch(_installed_version(cli), etc, _logs_in(etc))
    found = etc or running.etc
    if not found.is_dir():
        raise CannotBegin(f"{found}: no such folder; name that of the switch's files with --asterisk-etc")
    return RunningSwitch(running.version, found.absolute(), running.logs)


def _installed_version(cli: SwitchCli) -> str:
    """ "" where that cannot be told, as when the switch is on another machine."""
    try:
        return cli.installed_version()
    except SwitchSilent:
        return ""


def _logs_in(etc: Path) -> Path:
    try:
        setting = read_conf(etc / "asterisk.conf", etc).last("directories", "astlogdir")
    except (OSError, ConfError):
        setting = None
    return Path("/var/log/asterisk" if setting is None else setting.value)


def _configuration(path: Path) -> Config | None:
    return load(path) if path.exists() else None


def _known(config: Path, there: Config | None) -> Credentials:
    """Our users and secrets, as far as there are any."""
    if there is None:
        return Credentials(
            ari_password=_line_of(config.with_name("ari-password")),
            ami_secret=_line_of(config.with_name("ami-secret")),
        )
    full = with_secrets(there)
    password, secret = full.ari.password.get_secret_value(), full.ami.secret.get_secret_value()
    for name, found in (("ari.password", password), ("ami.secret", secret)):
        if not found:
            raise ConfigError(
                f"{config}: {name} is missing; write it there, or take the file away for a new one"
            )
    return Credentials(full.ari.user, password, full.ami.user, secret)


def _line_of(path: Path) -> str | None:
    text = text_of(path)
    return text.strip() if text is not None and text.strip() else None


def _tell_differences(wishes: Wishes, there: Config | None, plan: SwitchPlan, logs: Path) -> None:
    """What fairdial.toml says otherwise than the switch, or than was asked for; it is never changed."""
    if there is None:
        return
    for key, value, other in (
        ("ari.url", there.ari.url, plan.ari_url),
        ("ami.port", there.ami.port, plan.ami_port),
        ("desk.region", there.desk.region, wishes.region or there.desk.region),
    ):
        if value != other:
            plan.notes.append(f"{wishes.config}: {key} is {value}, and not {other}; it is left as it is")
    if plan.cdr_file and not there.cdr.wanted:
        plan.notes.append(
            f"{wishes.config}: cdr.file is not set: with {logs / 'cdr-csv' / 'Master.csv'} there, calls that end while"
            " FairDial is away are settled by what they were"
        )


def _policies(prepared: Preparation, wishes: Wishes, there: Config | None) -> None:
    folder = there.policies if there is not None else wishes.config.parent / "policies"
    names = sorted(file.stem for file in folder.glob("*.toml")) if folder.is_dir() else []
    usual = "redconnect" if "redconnect" in names or not names else names[0]
    chosen = wishes.policy or usual
    if chosen not in (*shipped.policy_names(), *names):
        raise CannotBegin(
            f"--policy {chosen}: there is no such policy; choose {', '.join(shipped.policy_names())}"
        )
    prepared.policy = chosen
    if chosen not in names:
        text = (shipped.folder("policies") / f"{chosen}.toml").read_text(encoding="utf-8")
        prepared.own.append(FileChange(folder / f"{chosen}.toml", None, text, mode=0o644))


def _data(wishes: Wishes) -> Path:
    if wishes.data is not None:
        return wishes.data.absolute()
    return Store().path.parent if wishes.config == DEFAULT_FILE else wishes.config.parent.absolute() / "data"


def _owner() -> Owner | None:
    """Of what FairDial itself writes; None where it has no user of its own here."""
    try:
        user = pwd.getpwnam(OUR_USER)
    except KeyError:
        return None
    return user.pw_uid, user.pw_gid


def _own_files(prepared: Preparation, wishes: Wishes, switch: RunningSwitch) -> None:
    plan = prepared.plan
    for name, secret in (("ari-password", plan.ari_password), ("ami-secret", plan.ami_secret)):
        path = wishes.config.with_name(name)
        before = text_of(path)
        if before is None or before.strip() != secret:
            prepared.own.append(FileChange(path, before, f"{secret}\n", mode=0o600, secrets=(secret,)))
    mode: int = 0o600
    owner: Owner | None = None
    with contextlib.suppress(KeyError):
        # The service must read it, and it holds no secret.
        owner = os.geteuid(), grp.getgrnam(OUR_USER).gr_gid
        mode = 0o640
    prepared.own.append(FileChange(wishes.config, None, _toml(plan, wishes, switch), mode, owner))


def _toml(plan: SwitchPlan, wishes: Wishes, switch: RunningSwitch) -> str:
    """fairdial.toml. A JSON string is a TOML string as well."""
    region = wishes.region or Desk().region
    cdr = ""
    if plan.cdr_file:
        cdr = f"\n[cdr]\nfile = {json.dumps(str(switch.logs / 'cdr-csv' / 'Master.csv'))}\n"
        if plan.cdr_local:
            zone = local_zone()
            cdr += f"zone = {json.dumps(zone)}\n"
            plan.notes.append(
                f"the switch writes its call records in local time, taken for {zone}; usegmtime=yes in its cdr.conf is"
                " better (an hour comes twice when the clocks are put back), then without cdr.zone in fairdial.toml"
            )
    control = "" if wishes.config == DEFAULT_FILE else 'control = "control.sock"\n'
    port = "" if plan.ami_port == Ami().port else f"port = {plan.ami_port}\n"
    url = "" if plan.ari_url == Ari().url else f"url = {json.dumps(plan.ari_url)}\n"
    return (
        "# Made by `fairdial init`; yours to change. docs/install.md has more keys.\n"
        f'policies = "policies"                 # one TOML file for each policy\n'
        f"asterisk_etc = {json.dumps(str(switch.etc))}\n{control}"
        f'\n[ari]\n{url}password_file = "ari-password"\n'
        f'\n[ami]\n{port}secret_file = "ami-secret"\n'
        f"\n[store]\npath = {json.dumps(str(_data(wishes) / 'ledger.sqlite'))}\n"
        f"\n[desk]\nregion = {json.dumps(region)}                         # how your lines dial\n{cdr}"
    )


def local_zone(localtime: Path = LOCALTIME) -> str:
    """The machine's time zone by its name; UTC where it has none."""
    _, found, name = str(localtime.resolve()).partition("/zoneinfo/")
    return name if found else "UTC"

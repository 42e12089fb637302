"""What must be added to the switch's files for FairDial, planned from the files as they are; nothing is written here.

What an engineer wrote is never changed. What is missing goes into files of our own beside theirs, and theirs gets one
line that includes it: at its end, or in the file that a distribution or FreePBX keeps for such additions
(`manager.d/*.conf`, `manager_custom.conf`, …). What is there and says something else is an `Obstacle`.

Leaves writing to `file_changes`, asking the switch to `switch_cli`, and our own files to `first_steps`.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fairdial import shipped
from fairdial.asterisk_conf import Conf, ConfError, Section, read_conf
from fairdial.dialled_through import contexts_below
from fairdial.file_changes import FileChange, owner_of, text_of
from fairdial.hardening import missing_modules
from fairdial.switch_files import is_no, is_yes

HEAD: Final = "; Made by `fairdial init`, and read because {by} includes it.\n"
CUSTOM: Final = {
    "ari.conf": "ari_additional_custom.conf",
    "cdr.conf": "cdr_general_custom.conf",
    "extensions.conf": "extensions_custom.conf",
    "http.conf": "http_custom.conf",
    "manager.conf": "manager_custom.conf",
}
"""Where FreePBX keeps an administrator's additions; it writes the other files anew at each "Apply Config"."""
FREEPBX_SIGN: Final = "extensions_additional.conf"
"""Included by FreePBX's extensions.conf: the dialplan that it generates."""
EVENTS: Final = "Cdr|SuccessfulAuth|InvalidPassword|ChallengeResponseFailed|InvalidAccountID|FailedACL"

_INCLUDE: Final = re.compile(r"^\s*#(?:try)?include\s+[\"<]?([^\">\s]+)", re.MULTILINE)
_DIAL: Final = re.compile(r"(?<![A-Za-z])Dial\(")
_ASKS: Final = re.compile(r"\bGosub(?:If)?\(.*\bfairdial,")
_SHOWN: Final = 8
_EVERYWHERE: Final = frozenset({"", "0.0.0.0", "::", "[::]"})  # noqa: S104 - what it is compared with
_DEFAULT_PORTS: Final = {"http.conf": "8088", "manager.conf": "5038"}


@dataclass(frozen=True, slots=True)
class Credentials:
    """Our two users at the switch. A secret of None: one may be made up."""

    ari_user: str = "fairdial"
    ari_password: str | None = None
    ami_user: str = "fairdial"
    ami_secret: str | None = None


@dataclass(frozen=True, slots=True)
class Obstacle:
    """What is there and says something else. where: file and line."""

    where: str
    text: str
    cure: str

    def __str__(self) -> str:
        return f"{self.where}: {self.text}; {self.cure}"


@dataclass(slots=True)
class SwitchPlan:
    """What is to be done, and what FairDial has to know of this switch.

    cdr_file: whether the switch writes Master.csv; cdr_local: in its local time. dials: lines of the dialplan that
    dial without asking. modules: those that must be loaded besides. freepbx: whether FreePBX writes these files.
    """

    ari_password: str
    ami_secret: str
    ari_url: str = ""
    ami_port: int = 5038
    cdr_file: bool = True
    cdr_local: bool = False
    freepbx: bool = False
    changes: list[FileChange] = field(default_factory=list)
    obstacles: list[Obstacle] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    dials: list[str] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)


def plan_switch(etc: Path, known: Credentials, made_up: Callable[[], str]) -> SwitchPlan:
    """Plan what the files in this folder need. made_up: a new secret, for a user that is not there yet.

    Raises OSError where a file cannot be read.
    """
    plan = SwitchPlan(known.ari_password or "", known.ami_secret or "")
    _Planner(etc, plan).plan(known, made_up)
    return plan


class _Planner:
    """Fills one plan, file by file."""

    def __init__(self, etc: Path, plan: SwitchPlan) -> None:
        self._etc = etc
        self._plan = plan

    def plan(self, known: Credentials, made_up: Callable[[], str]) -> None:
        extensions = self._conf("extensions.conf")
        self._plan.freepbx = any(file.name == FREEPBX_SIGN for file in extensions.files)
        self._http(self._conf("http.conf"))
        self._ari(self._conf("ari.conf"), known, made_up)
        self._ami(self._conf("manager.conf"), known, made_up)
        self._modules(self._conf("modules.conf"))
        self._cdr(self._conf("cdr.conf"))
        self._dialplan(extensions)

    def _conf(self, name: str) -> Conf:
        """The file with all that it includes; one that is not there has nothing in it."""
        path = self._etc / name
        try:
            return read_conf(path, self._etc)
        except FileNotFoundError:
            return Conf(path, ())
        except ConfError as error:
            self._stop(str(error.place), error.fault, error.cure)
            return Conf(path, ())

    def _stop(self, where: str, text: str, cure: str) -> None:
        self._plan.obstacles.append(Obstacle(where, text, cure))

    def _is_on(self, conf: Conf, gui: str) -> str:
        """`enabled=yes` where nothing says so; an obstacle where something says no. gui: its name in FreePBX."""
        setting = conf.last("general", "enabled")
        if is_yes(setting):
            return ""
        if setting is not None and is_no(setting):
            cure = "change it to yes, and run this again"
            if self._plan.freepbx:
                cure = f"have FreePBX change it: `fwconsole setting {gui} 1`, then `fwconsole reload`"
            self._stop(str(setting.place), f"{setting.key}={setting.value}", cure)
            return ""
        return "enabled=yes\n"

    def _http(self, conf: Conf) -> None:
        general = self._is_on(conf, "HTTPENABLED")
        address, port = conf.last("general", "bindaddr"), conf.last("general", "bindport")
        if address is None:
            # Without an address Asterisk 22 does not listen at all.
            general += "bindaddr=127.0.0.1\n"
        host = "127.0.0.1" if address is None or address.value in _EVERYWHERE else address.value
        number = _DEFAULT_PORTS["http.conf"] if port is None else port.value
        prefix = conf.last("general", "prefix")
        below = "" if prefix is None or not prefix.value else f"/{prefix.value.strip('/')}"
        self._plan.ari_url = f"http://{host}:{number}{below}/ari"
        if general:
            self._add(conf, _heading(conf, "general") + general)

    def _ari(self, conf: Conf, known: Credentials, made_up: Callable[[], str]) -> None:
        text = ""
        if self._is_on(conf, "ENABLE_ARI"):
            text = "" if conf.named("general") else "[general]\nenabled=yes\n"
        user = self._user(conf, known.ari_user)
        self._plan.ari_password = self._secret(
            user, "password", known.ari_password, made_up, hashed=_is_hashed(user)
        )
        if user is None:
            text += f"[{known.ari_user}]\ntype=user\nread_only=no\npassword={self._plan.ari_password}\n"
        elif is_yes(user.last("read_only")):
            self._stop(str(user.place), f"[{user.name}] may only look", "set read_only=no in it")
        if text:
            self._add(conf, text, self._plan.ari_password)

    def _ami(self, conf: Conf, known: Credentials, made_up: Callable[[], str]) -> None:
        general = self._is_on(conf, "AMPMGR")
        if conf.last("general", "bindaddr") is None:
            # Left out, Asterisk listens on every address.
            general += "bindaddr=127.0.0.1\n"
        text = _heading(conf, "general") + general if general else ""
        port = conf.last("general", "port")
        number = _DEFAULT_PORTS["manager.conf"] if port is None else port.value
        self._plan.ami_port = int(number) if number.isdecimal() else 5038
        user = self._user(conf, known.ami_user)
        self._plan.ami_secret = self._secret(user, "secret", known.ami_secret, made_up)
        if user is None:
            text += (
                f"[{known.ami_user}]\nsecret={self._plan.ami_secret}\ndeny=0.0.0.0/0.0.0.0\n"
                f"permit=127.0.0.1/255.255.255.255\nread=cdr,security\neventfilter=Event: ({EVENTS})\n"
                "write=call,reporting\n"
            )
        elif not {"call", "all"} & {each.strip() for each in user.value("write").split(",")}:
            self._stop(str(user.place), f"[{user.name}] lacks write=call", "set write=call,reporting in it")
        if text:
            self._add(conf, text, self._plan.ami_secret)

    def _user(self, conf: Conf, name: str) -> Section | None:
        found = conf.named(name)
        return found[0] if found else None

    def _secret(
        self,
        user: Section | None,
        key: str,
        known: str | None,
        made_up: Callable[[], str],
        *,
        hashed: bool = False,
    ) -> str:
        """The one secret of a user: fairdial.toml's, or that which the switch has already, or a new one."""
        there = None if user is None else user.last(key)
        if user is None:
            return known or made_up()
        if there is not None and not hashed and known in {None, there.value}:
            return there.value
        if hashed and known is not None:
            return known
        if known is None:
            fault, cure = (
                "has no secret that can be read",
                "write it into fairdial.toml by hand (docs/install.md)",
            )
        else:
            fault, cure = "has another secret than fairdial.toml", "write the same into both"
        self._stop(str((there or user).place), f"[{user.name}] {fault}", f"{cure}, and run this again")
        return known or ""

    def _modules(self, conf: Conf) -> None:
        missing = list(missing_modules(conf, cdr_file=True)) if conf.files else []
        for each in missing:
            if each.name == "cdr_csv" and each.banned:
                self._plan.cdr_file = False
                self._plan.notes.append(
                    f"{each.place}: cdr_csv is not loaded, so calls that end while FairDial is away are settled by"
                    " their lease; docs/install.md says how to change that"
                )
            elif each.banned and not each.lost:
                self._stop(
                    str(each.place),
                    f"{each.name} is kept out, and FairDial needs it",
                    "take the noload line away",
                )
            elif not each.banned and (not each.lost or each.name == "cdr_csv"):
                self._plan.modules.append(each.name)
        if self._plan.modules:
            lines = "".join(f"load = {name}.so\n" for name in self._plan.modules)
            self._add(conf, _heading(conf, "modules") + lines)

    def _cdr(self, conf: Conf) -> None:
        if not self._plan.cdr_file:
            return
        if is_no(conf.last("general", "enable")):
            self._plan.cdr_file = False
            self._plan.notes.append(f"{conf.path}: the switch writes no call records ([general] enable=no)")
            return
        text = ""
        for key in ("loguniqueid", "loguserfield"):
            setting = conf.last("csv", key)
            if setting is None:
                text += f"{key}=yes\n"
            elif not is_yes(setting):
                self._plan.notes.append(
                    f"{setting.place}: {key}={setting.value}: with yes, calls that nobody saw end are settled by what"
                    " they were, and not by their lease"
                )
        zone = conf.last("csv", "usegmtime")
        self._plan.cdr_local = not is_yes(zone)
        if text:
            self._add(conf, _heading(conf, "csv") + text)

    def _dialplan(self, conf: Conf) -> None:
        wanted = shipped.dialplan_text()
        there = conf.named("fairdial")
        path = there[0].place.file if there else self._place(conf)[0]
        text = text_of(path)
        if text is None:
            self._include(conf, path, wanted)
        elif text == wanted:
            if not there:
                self._include(conf, path, None)
        elif shipped.is_unchanged(text):
            self._plan.changes.append(FileChange(path, text, wanted))
            if not there:
                self._include(conf, path, None)
        else:
            self._stop(
                str(path),
                "is not the fairdial.conf of this release, nor of another: somebody changed it",
                "move it away with your changes, which belong into extensions.conf, and run this again",
            )
        pjsip = self._conf("pjsip.conf")
        starts = {endpoint.value("context", "default") for endpoint in pjsip.of_type("endpoint")}
        self._plan.dials += list(_unasked(conf, contexts_below(conf, starts)))[:_SHOWN]

    def _add(self, conf: Conf, text: str, *secrets: str) -> None:
        """Have a file of ours with this text be read with the file."""
        path, _ = self._place(conf)
        there = text_of(path)
        if there is not None:
            lines = ", ".join(line for line in text.splitlines() if not line.startswith("[") and "=" in line)
            for secret in filter(None, secrets):
                lines = lines.replace(secret, "…")
            self._stop(
                str(path), f"is there, and this is missing: {lines}", "take the file away, and run this again"
            )
            return
        self._include(conf, path, text, *secrets)

    def _include(self, conf: Conf, path: Path, text: str | None, *secrets: str) -> None:
        """text: of the file that is included; None: it is there already."""
        _, by = self._place(conf)
        owner = owner_of(conf.path if conf.files else self._etc)
        if text is not None:
            shipped_as_it_is = conf.path.name == "extensions.conf"
            headed = text if shipped_as_it_is else HEAD.format(by=(by or conf.path).name) + text
            change = FileChange(path, None, headed, owner=owner, secrets=tuple(filter(None, secrets)))
            self._plan.changes.append(change)
        if by is None:
            return
        before = text_of(by)
        if before is not None and _includes(before, path.name):
            return
        body = before or ""
        gap = "" if not body or body.endswith("\n") else "\n"
        self._plan.changes.append(
            FileChange(by, before, f"{body}{gap}#tryinclude {path.name}\n", owner=owner)
        )

    def _place(self, conf: Conf) -> tuple[Path, Path | None]:
        """Our file beside one of the switch's, and the file that must include it; None: it is read anyhow."""
        name = conf.path.name
        stem = name.removesuffix(".conf")
        written = text_of(conf.path) or ""
        if _includes(written, f"{stem}.d/*.conf"):
            return self._etc / f"{stem}.d" / "fairdial.conf", None
        ours = self._etc / ("fairdial.conf" if name == "extensions.conf" else f"{stem}_fairdial.conf")
        custom = CUSTOM.get(name)
        if custom is not None and _includes(written, custom):
            return ours, self._etc / custom
        return ours, conf.path


def _includes(text: str, name: str) -> bool:
    return any(found == name or found.endswith(f"/{name}") for found in _INCLUDE.findall(text))


def _heading(conf: Conf, section: str) -> str:
    """Asterisk adds to a section with `(+)`, and refuses the whole file where there is none to add to."""
    return f"[{section}](+)\n" if conf.named(section) else f"[{section}]\n"


def _is_hashed(user: Section | None) -> bool:
    return user is not None and user.value("password_format", "plain").casefold() == "crypt"


def _unasked(conf: Conf, contexts: frozenset[str]) -> Iterator[str]:
    """Lines that dial, in those of these contexts that never ask FairDial."""
    for context in conf.sections:
        if context.name not in contexts:
            continue
        if context.name.startswith("fairdial") or any(_ASKS.search(step.value) for step in context.settings):
            continue
        for step in context.settings:
            if step.key.casefold() in {"exten", "same"} and _DIAL.search(step.value):
                yield f"{step.place}: {step.key} => {step.value}"

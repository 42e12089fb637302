"""What stands open on the switch, or keeps FairDial out: its configuration files examined, each finding with its cure.

Responsible for guests, endpoints without an account, secrets that all may read, modules left out, and for putting all
examinations together. Leaves who may reach the switch to `switch_access`, reading to `switch_files`, and what
answers over the network to the probes. docs/hardening.md says why each thing matters.
"""

import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fairdial.asterisk_conf import Conf, Place, Section, Setting
from fairdial.dialled_through import dialling_contexts
from fairdial.doctor import FileFinding, Finding, Severity
from fairdial.switch_access import ami, ari, http
from fairdial.switch_files import Needs, SwitchFiles, failure, is_no, is_yes, some, warning

SECRET_KEYS: Final = frozenset(
    {"secret", "md5secret", "remotesecret", "password", "md5_cred", "password_digest"}
)

ANONYMOUS_MODULE: Final = "res_pjsip_endpoint_identifier_anonymous"

NEEDED_MODULES: Final = (
    *("app_dial", "app_stack", "app_stasis", "res_stasis", "res_stasis_answer", "res_stasis_playback"),
    *("res_http_websocket", "res_ari", "res_ari_applications", "res_ari_asterisk", "res_ari_bridges"),
    *("res_ari_channels", "res_ari_events", "res_ari_playbacks"),
    *("func_callerid", "func_channel", "func_cut", "func_dialplan", "func_global", "func_logic"),
    *("func_strings", "func_timeout", "func_uri"),
)
"""What dialplan/fairdial.conf and the ARI application cannot do without."""
USEFUL_MODULES: Final = {
    "func_db": "dialplan/samples find who a number rings with DB()",
    "func_pjsip_endpoint": "calls count as unencrypted",
    "res_agi": "FAIRDIAL_AGI cannot be used",
    "res_ari_recordings": "who calls by reverse charge cannot say a name",
    "res_stasis_recording": "who calls by reverse charge cannot say a name",
    "res_stasis_snoop": "nobody hears a warning before a cut",
}
"""Module to what is lost without it."""


def examine_files(folder: Path, needs: Needs) -> list[Finding]:
    """All findings in the switch's configuration, failures first; one that is well where nothing is to be mended.

    Blocks while it reads.
    """
    try:
        there = list(folder.iterdir())
    except OSError as error:
        return [
            warning(
                "switch files",
                folder,
                f"cannot be read ({error.strerror}): the switch's own settings are not examined",
                "run the doctor on the switch as a user who may read them (root), or name the folder with"
                " --asterisk-etc or `asterisk_etc`",
            )
        ]
    files = SwitchFiles(folder)
    findings = [finding for examination in _EXAMINATIONS for finding in examination(files, needs)]
    findings += files.faults
    if not findings:
        told = f"{folder}: {len(files.confs)} of its {len(there)} files looked through, all well"
        return [Finding("switch files", True, told)]
    return sorted(findings, key=lambda finding: finding.severity is Severity.WARNING)


def exposed_secrets(paths: Iterable[Path], part: str = "secrets") -> list[FileFinding]:
    """A warning for each of these files that any user of the machine can read."""
    return [
        warning(
            part,
            path,
            "holds a secret, and every user of this machine can read it",
            f"chmod 600 {path}, or 640 with a group that holds those who must",
        )
        for path in paths
        if _world_readable(path)
    ]


def secret_files(conf: Conf) -> tuple[Path, ...]:
    """The files in which its secrets are written, each once."""
    settings = (setting for section in (*conf.sections, *conf.templates) for setting in section.settings)
    holding = {setting.place.file: None for setting in settings if setting.key.casefold() in SECRET_KEYS}
    return tuple(holding)


def taking_strangers(pjsip: Conf, modules: Conf | None) -> Iterator[FileFinding]:
    """A warning for each endpoint that takes calls of whoever is not known.

    `endpoint_identifier_order` closes none of them: what it leaves out is looked at last.
    """
    if modules is not None and ANONYMOUS_MODULE in _named_modules(modules, "noload"):
        return
    for endpoint in pjsip.of_type("endpoint"):
        if is_anonymous(endpoint):
            yield warning(
                "pjsip.conf",
                endpoint.place,
                f"[{endpoint.name}]: calls of strangers are taken, into [{endpoint.value('context', 'default')}]",
                "remove the endpoint, or see that its context reaches no Dial() that somebody pays for",
                (endpoint.name,),
            )


def is_anonymous(endpoint: Section) -> bool:
    """Whether it is the endpoint of those who are not known, here or at one domain."""
    return endpoint.name.casefold().split("@")[0] == "anonymous"


def without_account(pjsip: Conf, extensions: Conf, app: str) -> Iterator[FileFinding]:
    """A warning that names all endpoints which dial through FairDial and have no accountcode. app: as in Needs."""
    contexts = dialling_contexts(extensions, app)
    bare = [
        endpoint
        for endpoint in pjsip.of_type("endpoint")
        if endpoint.value("context", "default") in contexts and not endpoint.value("accountcode")
    ]
    if bare:
        names = tuple(endpoint.name for endpoint in bare)
        yield warning(
            "pjsip.conf",
            bare[0].place,
            f"no accountcode, though they dial through FairDial: {some(names)}; their CDRs"
            " name no account, and rooms named after it (dialplan/samples/conference.conf) are shared by all of them",
            "give each endpoint accountcode=ACCOUNT, the account's id",
            names,
        )


MESSAGES: Final = "messages-"
"""What the message context of a line begins with; its name follows (dialplan/fairdial-messages.conf)."""


def messages_of_nobody(pjsip: Conf, extensions: Conf, app: str) -> Iterator[FileFinding]:
    """A warning for each endpoint whose messages would be taken for another line's, and one for all whose messages run
    through the dialplan of their calls; nothing where no endpoint's messages go through FairDial. app: as in Needs.
    """
    endpoints = tuple(pjsip.of_type("endpoint"))
    contexts = {endpoint.name: endpoint.value("message_context", "") for endpoint in endpoints}
    if not any(context.startswith(MESSAGES) for context in contexts.values()):
        return
    for endpoint in endpoints:
        context = contexts[endpoint.name]
        if context.startswith(MESSAGES) and context != f"{MESSAGES}{endpoint.name}":
            yield warning(
                "pjsip.conf",
                endpoint.place,
                f"[{endpoint.name}]: its messages are taken for those of line {context.removeprefix(MESSAGES)!r}",
                f"write message_context={MESSAGES}{endpoint.name}, and that context into extensions.conf",
                (endpoint.name,),
            )
    dialling = dialling_contexts(extensions, app)
    bare = [
        each for each in endpoints if not contexts[each.name] and each.value("context", "default") in dialling
    ]
    if bare:
        names = tuple(endpoint.name for endpoint in bare)
        yield warning(
            "pjsip.conf",
            bare[0].place,
            f"no message_context, so that a SIP MESSAGE runs through the dialplan of calls: {some(names)}",
            f"give each message_context={MESSAGES}ENDPOINT, and that context to extensions.conf",
            names,
        )


def _world_readable(path: Path) -> bool:
    """Whether the mode of the file and of each folder above it lets anybody in."""
    try:
        path = path.resolve(strict=True)
        open_to_all = path.stat().st_mode & stat.S_IROTH != 0
        return open_to_all and all(parent.stat().st_mode & stat.S_IXOTH for parent in path.parents)
    except OSError:
        return False


def _live_dangerously(files: SwitchFiles, _needs: Needs) -> Iterator[FileFinding]:
    conf = files.conf("asterisk.conf")
    setting = None if conf is None else conf.last("options", "live_dangerously")
    if setting is not None and is_yes(setting):
        yield warning(
            "asterisk.conf",
            setting.place,
            "live_dangerously: whoever may use ARI or AMI runs programs and reads files by SHELL(), FILE(), …",
            "set live_dangerously = no and restart Asterisk",
        )


@dataclass(frozen=True, slots=True)
class MissingModule:
    """A module that FairDial wants and modules.conf does not load. lost: what is lost without it, "": FairDial cannot
    do without; banned: a noload line keeps it out, at that place.
    """

    name: str
    lost: str
    place: Place
    banned: bool


def missing_modules(conf: Conf, cdr_file: bool) -> Iterator[MissingModule]:
    """What modules.conf leaves out. cdr_file: whether FairDial reads Master.csv."""
    banned = _named_modules(conf, "noload")
    loaded = _named_modules(conf, "load", "preload", "require", "preload-require")
    autoload = conf.last("modules", "autoload")
    wanted = {**dict.fromkeys(NEEDED_MODULES, ""), **USEFUL_MODULES}
    if cdr_file:
        wanted["cdr_csv"] = "Master.csv is not written, by which calls are settled that nobody saw end"
    for module, lost in wanted.items():
        if module in banned:
            yield MissingModule(module, lost, banned[module], True)
        elif module not in loaded and not is_yes(autoload):
            place = Place(conf.path, 1) if autoload is None else autoload.place
            yield MissingModule(module, lost, place, False)


def _modules(files: SwitchFiles, needs: Needs) -> Iterator[FileFinding]:
    conf = files.conf("modules.conf")
    if conf is None:
        return
    for each in missing_modules(conf, needs.cdr_file):
        told = warning if each.lost else failure
        said = f"{each.name} is not loaded: {each.lost or 'FairDial needs it'}"
        cure = "take the noload line away" if each.banned else f"add load = {each.name}.so"
        yield told("modules.conf", each.place, said, cure)


def _named_modules(conf: Conf, *keys: str) -> dict[str, Place]:
    """Modules that lines with these keys name, without ".so", and where."""
    lines = (line for each in conf.named("modules") for key in keys for line in each.all(key))
    return {line.value.removesuffix(".so"): line.place for line in lines}


def _cdrs(files: SwitchFiles, needs: Needs) -> Iterator[FileFinding]:
    conf = files.conf("cdr.conf")
    if not needs.cdr_file or conf is None:
        return
    setting = conf.last("csv", "loguniqueid")
    if not is_yes(setting):
        place = setting.place if setting is not None else Place(conf.path, 1)
        yield warning(
            "cdr.conf",
            place,
            "Master.csv does not say which channel a record is of: it proves nothing of a call that nobody saw end",
            "write loguniqueid=yes under [csv], then `module reload cdr_csv.so`",
        )


def _secrets(files: SwitchFiles, _needs: Needs) -> Iterator[FileFinding]:
    for name in ("manager.conf", "ari.conf", "pjsip.conf"):
        conf = files.conf(name)
        if conf is None:
            continue
        yield from exposed_secrets(secret_files(conf), name)


def _guests(files: SwitchFiles, _needs: Needs) -> Iterator[FileFinding]:
    pjsip, sip = files.conf("pjsip.conf"), files.conf("sip.conf")
    if pjsip is not None:
        yield from taking_strangers(pjsip, files.conf("modules.conf"))
    if sip is not None and sip.named("general"):
        setting = sip.last("general", "allowguest")
        if not is_no(setting):
            place = setting.place if setting is not None else sip.named("general")[0].place
            yield warning(
                "sip.conf",
                place,
                "chan_sip, where it is still loaded (Asterisk 20), takes calls of strangers",
                "set allowguest=no under [general]",
            )


def _accountcodes(files: SwitchFiles, needs: Needs) -> Iterator[FileFinding]:
    pjsip, extensions = files.conf("pjsip.conf"), files.conf("extensions.conf")
    if pjsip is not None and extensions is not None:
        yield from without_account(pjsip, extensions, needs.app)


def _is_mark(step: Setting) -> bool:
    """The line by which dialplan/fairdial.conf names itself."""
    return step.value.startswith("version")


def asking_nowhere(extensions: Conf, app: str) -> Iterator[FileFinding]:
    """A warning where our dialplan is there and no phone's dial asks it. app: as in Needs."""
    ours = [step for context in extensions.named("fairdial") for step in context.settings if _is_mark(step)]
    if ours and not dialling_contexts(extensions, app):
        yield warning(
            "extensions.conf",
            ours[0].place,
            "nothing in extensions.conf asks FairDial before it dials, so no call is checked (AEL is not looked at)",
            "put Gosub(fairdial,s,1(outbound,${EXTEN})) before your Dial(), as docs/existing-dialplans.md shows",
        )


def _asking(files: SwitchFiles, needs: Needs) -> Iterator[FileFinding]:
    extensions = files.conf("extensions.conf")
    if extensions is not None:
        yield from asking_nowhere(extensions, needs.app)


def _messages(files: SwitchFiles, needs: Needs) -> Iterator[FileFinding]:
    pjsip, extensions = files.conf("pjsip.conf"), files.conf("extensions.conf")
    if pjsip is not None and extensions is not None:
        yield from messages_of_nobody(pjsip, extensions, needs.app)


_EXAMINATIONS: Final[tuple[Callable[[SwitchFiles, Needs], Iterator[FileFinding]], ...]] = (
    _live_dangerously,
    _modules,
    http,
    ari,
    ami,
    _secrets,
    _guests,
    _asking,
    _accountcodes,
    _messages,
    _cdrs,
)

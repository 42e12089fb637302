"""The switch's SIP credentials and who gets in without any: pjsip.conf examined, each finding with its cure and clause.

Responsible for weak, published, shared and old passwords (A5), phones that share a registration (A6), calls in clear
(A7), and endpoints that believe whoever calls (A4). Leaves what an object means to `pjsip`, how hard a password is to
guess to `passwords`, since when it is there to `password_ages`, and what the doctor looks at too to `hardening`.
No password, and no part of one, is in what it says; only that one is equal to a name that stands in the file.
docs/audit.md says why each thing matters.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import Final

from fairdial.asterisk_conf import Place, Section, read_conf
from fairdial.doctor import FileFinding
from fairdial.hardening import exposed_secrets, is_anonymous, secret_files, taking_strangers, without_account
from fairdial.password_ages import PasswordAges
from fairdial.passwords import is_default, is_name, strength
from fairdial.pjsip import (
    Auth,
    Pjsip,
    contacts_max,
    is_known_by_word,
    listed,
    matches_everybody,
    media_in_clear,
    media_may_fall_to_clear,
)
from fairdial.switch_files import SwitchFiles, some

FILES_MAX: Final = 100
MAX_AGE_DAYS: Final = 365

_NEW_PASSWORD: Final = "set another, here and in the phone, such as `openssl rand -hex 16` makes"  # noqa: S105


class Severity(StrEnum):
    """How bad a finding is: an error lets strangers in as soon as they try, a warning makes it easier for them."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """What is not well. where: file, and line after a colon. sections: names of all that are meant; () the file's."""

    severity: Severity
    where: str
    sections: tuple[str, ...]
    what: str
    cure: str
    clause: str


@dataclass(frozen=True, slots=True)
class Unjudged:
    """What could not be looked at, and why; it may be well or not. where, sections: as in Finding."""

    where: str
    sections: tuple[str, ...]
    why: str


@dataclass(frozen=True, slots=True)
class Report:
    """All that was found, errors first. files, endpoints, passwords: how many were looked at; hashed: not judged."""

    findings: tuple[Finding, ...]
    unjudged: tuple[Unjudged, ...]
    files: int
    endpoints: int
    passwords: int
    hashed: int


@dataclass(frozen=True, slots=True)
class Ageing:
    """How old passwords are. ages: None where nobody keeps them."""

    today: date
    ages: PasswordAges | None = None
    max_age_days: int = MAX_AGE_DAYS


def audit(path: Path, app: str, ageing: Ageing) -> Report:
    """Examine a pjsip.conf with all that it includes. app: FairDial's Stasis application.

    Raises ConfError where Asterisk would not read the file, OSError where it cannot be read. Each credential is noted
    in `ageing.ages`, which the caller writes. Blocks while it reads, and for some milliseconds for each password.
    """
    conf = read_conf(path, files_max=FILES_MAX)
    subject = _Subject(Pjsip(conf), SwitchFiles(path.parent), app, ageing)
    said = [each for examination in _EXAMINATIONS for each in examination(subject)]
    findings = [each for each in said if isinstance(each, Finding)]
    auths = subject.pjsip.auths
    return Report(
        tuple(sorted(findings, key=lambda finding: finding.severity is Severity.WARNING)),
        tuple(each for each in said if isinstance(each, Unjudged)),
        len(conf.files),
        len(subject.pjsip.endpoints),
        sum(1 for auth in auths if auth.password),
        sum(1 for auth in auths if _is_hashed(auth)),
    )


@dataclass(frozen=True, slots=True)
class _Subject:
    """What is examined. neighbours: the files beside pjsip.conf."""

    pjsip: Pjsip
    neighbours: SwitchFiles
    app: str
    ageing: Ageing


_Said = Iterator[Finding | Unjudged]


# --- passwords (A5) ------------------------------------------------------------------------------


def _is_hashed(auth: Auth) -> bool:
    return bool(auth.digests) and not auth.password


def _guessable(subject: _Subject) -> _Said:
    for auth in subject.pjsip.auths:
        if auth.password:
            what, cure = _why_easy(auth), _NEW_PASSWORD
        else:
            what = "" if auth.digests or auth.oauth else "there is no password"
            cure = "set one, such as `openssl rand -hex 16` makes"
        if what:
            yield Finding(Severity.ERROR, str(auth.place), (auth.name,), what, cure, "A5")


def _why_easy(auth: Auth) -> str:
    """In words why its password is easy to guess; "" where it is not."""
    names = (auth.username, auth.name, *auth.users)
    if is_default(auth.password):
        return "the password is a published one, of samples or of delivered devices"
    if is_name(auth.password, names):
        return "the password is the user's name, or that of the section or endpoint"
    judged = strength(auth.password, names)
    return f"the password is weak: {judged}" if judged.is_weak else ""


def _reused(subject: _Subject) -> _Said:
    by_secret: defaultdict[tuple[str, ...], list[Auth]] = defaultdict(list)
    for auth in subject.pjsip.auths:
        if auth.password or auth.digests:
            by_secret[(auth.password,) if auth.password else auth.digests].append(auth)
    for same in by_secret.values():
        names = tuple(auth.name for auth in same)
        if len(same) > 1:
            what = f"{len(same)} auths have the same password: {some(names)}; who learns one has them all"
            yield Finding(
                Severity.WARNING, str(same[0].place), names, what, "give each a password of its own", "A5"
            )


def _old(subject: _Subject) -> _Said:
    ageing = subject.ageing
    if ageing.ages is None:
        if subject.pjsip.auths:
            why = "how old passwords are is not in the file; name a file for it with --since, and use it each time"
            yield Unjudged(str(subject.pjsip.conf.path), (), why)
        return
    first: dict[str, Auth] = {}
    for auth in subject.pjsip.auths:
        # As in Asterisk, which keeps the first of a name.
        first.setdefault(auth.name, auth)
    for auth in first.values():
        if not auth.password and not auth.digests:
            continue
        secret = f"password:{auth.password}" if auth.password else f"digests:{','.join(auth.digests)}"
        age_days = ageing.ages.age_days(auth.name, secret, ageing.today)
        if age_days > ageing.max_age_days:
            what = f"the password is unchanged for {age_days} days, or longer"
            yield Finding(Severity.WARNING, str(auth.place), (auth.name,), what, _NEW_PASSWORD, "A5")


def _exposed(subject: _Subject) -> _Said:
    return _of_the_doctor(exposed_secrets(secret_files(subject.pjsip.conf)), "A5")


def _hashed(subject: _Subject) -> _Said:
    hashed = [auth for auth in subject.pjsip.auths if _is_hashed(auth)]
    if hashed:
        names = tuple(auth.name for auth in hashed)
        why = f"kept as a hash (md5_cred, password_digest): how strong it is cannot be seen, {some(names)}"
        yield Unjudged(str(hashed[0].place), names, why)
    for auth in subject.pjsip.auths:
        if auth.oauth:
            yield Unjudged(str(auth.place), (auth.name,), "authenticates by OAuth, not with a password")


# --- who is let in without one (A4) --------------------------------------------------------------


def _strangers(subject: _Subject) -> _Said:
    found = taking_strangers(subject.pjsip.conf, subject.neighbours.conf("modules.conf"))
    return _of_the_doctor(found, "A4")


def _believed(subject: _Subject) -> _Said:
    pjsip = subject.pjsip
    for endpoint in pjsip.endpoints:
        if listed(endpoint.last("auth")) or is_anonymous(endpoint) or pjsip.is_fenced(endpoint):
            continue
        if is_known_by_word(endpoint):
            what = "no auth: whoever writes this name into From calls as this endpoint, from anywhere"
            cure = "give it auth=, or identify_by=ip and an identify section with its addresses"
            if pjsip.is_identified(endpoint):
                what = f"{what}, in spite of its identify section"
                cure = "add identify_by=ip"
            yield Finding(Severity.ERROR, str(endpoint.place), (endpoint.name,), what, cure, "A4")


def _everybody(subject: _Subject) -> _Said:
    asking = {endpoint.name for endpoint in subject.pjsip.endpoints if listed(endpoint.last("auth"))}
    for identify in subject.pjsip.identifies:
        setting = matches_everybody(identify)
        if setting is not None:
            names = listed(identify.last("endpoint"))
            severity = Severity.WARNING if names and asking.issuperset(names) else Severity.ERROR
            what = f"match={setting.value}: whoever calls, from any address, is taken for {some(names) or 'nobody'}"
            cure = "name the addresses of that endpoint alone"
            yield Finding(severity, str(setting.place), (identify.name,), what, cure, "A4")


def _accountcodes(subject: _Subject) -> _Said:
    extensions = subject.neighbours.conf("extensions.conf")
    if extensions is None:
        why = (
            "no extensions.conf beside it that can be read: which endpoints need an accountcode is not known"
        )
        yield Unjudged(str(subject.pjsip.conf.path), (), why)
    else:
        yield from _of_the_doctor(without_account(subject.pjsip.conf, extensions, subject.app), "A4")


# --- who shares, and what goes in clear (A6, A7) -------------------------------------------------


def _shared(subject: _Subject) -> _Said:
    for auth in subject.pjsip.auths:
        if len(auth.endpoints) > 1:
            what = f"{len(auth.endpoints)} endpoints ask for the same credentials: {some(auth.endpoints)}"
            cure = "give each endpoint an auth of its own"
            yield Finding(Severity.WARNING, str(auth.place), (auth.name,), what, cure, "A6")
    many = ((aor.last("max_contacts"), aor) for aor in subject.pjsip.aors if contacts_max(aor) > 1)
    for place, names in _by_place((setting.place, aor) for setting, aor in many if setting is not None):
        what = f"several phones can be registered with the same credentials: {some(names)}"
        cure = "set max_contacts=1 and remove_existing=yes, or leave it where one customer has several phones"
        yield Finding(Severity.WARNING, str(place), names, what, cure, "A6")


def _in_clear(subject: _Subject) -> _Said:
    yield from _signalling(subject.pjsip)
    endpoints = subject.pjsip.endpoints
    clear = [endpoint for endpoint in endpoints if media_in_clear(endpoint)]
    for place, names in _by_place(_places(clear, "media_encryption")):
        what = f"media in clear: {some(names)}"
        cure = "set media_encryption=sdes, or dtls, and let the phones ask for SRTP"
        yield Finding(Severity.WARNING, str(place), names, what, cure, "A7")
    falling = ((media_may_fall_to_clear(endpoint), endpoint) for endpoint in endpoints)
    for place, names in _by_place((setting.place, each) for setting, each in falling if setting is not None):
        what = f"media go in clear where the phone does not ask for SRTP: {some(names)}"
        yield Finding(
            Severity.WARNING, str(place), names, what, "take media_encryption_optimistic away", "A7"
        )


def _signalling(pjsip: Pjsip) -> _Said:
    unnamed = [endpoint for endpoint in pjsip.endpoints if not endpoint.value("transport")]
    named = [
        (endpoint, endpoint.value("transport")) for endpoint in pjsip.endpoints if endpoint.value("transport")
    ]
    clear = [endpoint for endpoint, transport in named if pjsip.is_encrypted(transport) is False]
    unknown = [endpoint for endpoint, transport in named if pjsip.is_encrypted(transport) is None]
    if not pjsip.has_encrypted_transport:
        clear += unnamed
    for place, names in _by_place(_places(clear, "transport")):
        what = (
            f"signalling in clear: {some(names)}; names, numbers and the keys of SRTP can be read on the way"
        )
        cure = "define a transport with protocol=tls, and name it with transport="
        yield Finding(Severity.WARNING, str(place), names, what, cure, "A7")
    if unknown:
        names = tuple(endpoint.name for endpoint in unknown)
        why = f"their transport is not defined in this file, or is a flow: {some(names)}"
        yield Unjudged(str(unknown[0].place), names, why)


def _places(endpoints: Iterable[Section], key: str) -> Iterator[tuple[Place, Section]]:
    """Each endpoint with the place of that setting; all that lack it with the heading of the first of them."""
    silent: Place | None = None
    for endpoint in endpoints:
        setting = endpoint.last(key)
        if setting is not None:
            yield setting.place, endpoint
        else:
            silent = silent or endpoint.place
            yield silent, endpoint


def _by_place(found: Iterable[tuple[Place, Section]]) -> Iterator[tuple[Place, tuple[str, ...]]]:
    """Each place with the names of its sections: what a template says of a hundred phones is one finding."""
    names: defaultdict[Place, list[str]] = defaultdict(list)
    for place, section in found:
        names[place].append(section.name)
    return ((place, tuple(each)) for place, each in names.items())


# --- what was not seen ---------------------------------------------------------------------------


def _unread(subject: _Subject) -> _Said:
    conf = subject.pjsip.conf
    for note in conf.executed:
        yield Unjudged(str(note.place), (), "#exec: what that program writes is not examined")
    for note in conf.skipped:
        yield Unjudged(str(note.place), (), note.text)
    here = {auth.name for auth in subject.pjsip.auths}
    lost = [endpoint for endpoint in conf.sections if not here.issuperset(_auths_of(endpoint))]
    if lost:
        names = tuple(dict.fromkeys(section.name for section in lost))
        why = f"the auth that they name is not in this file: {some(names)}"
        yield Unjudged(str(lost[0].place), names, why)
    for fault in subject.neighbours.faults:
        yield Unjudged(fault.where, (), f"{fault.part}: {fault.text}")


def _auths_of(section: Section) -> tuple[str, ...]:
    return (*listed(section.last("auth")), *listed(section.last("outbound_auth")))


def _of_the_doctor(found: Iterable[FileFinding], clause: str) -> _Said:
    """Findings of the doctor's, of which every one is a warning there too."""
    for each in found:
        yield Finding(Severity.WARNING, each.where, each.sections, each.text, each.cure, clause)


_EXAMINATIONS: Final[tuple[Callable[[_Subject], _Said], ...]] = (
    _guessable,
    _reused,
    _old,
    _exposed,
    _strangers,
    _believed,
    _everybody,
    _shared,
    _in_clear,
    _accountcodes,
    _hashed,
    _unread,
)

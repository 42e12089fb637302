"""The objects of pjsip.conf by which callers are let in, as PJSIP takes them: what names what, lists, defaults.

Responsible for auths, endpoints, transports, what identifies an endpoint, and the bindings of phones (aors). Leaves
reading to `asterisk_conf` and what is wrong with an object to `audit`.
"""

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import Final

from fairdial.asterisk_conf import Conf, Place, Section, Setting
from fairdial.switch_files import is_yes

_DIGEST_KEYS: Final = ("md5_cred", "password_digest")
_ENCRYPTED_PROTOCOLS: Final = frozenset({"tls", "wss"})
_CLEAR_PROTOCOLS: Final = frozenset({"udp", "tcp", "ws"})
_ENCRYPTED_MEDIA: Final = frozenset({"sdes", "dtls"})
_OF_EVERYBODY: Final = re.compile(r".*/(?:0+|0\.0\.0\.0|::)$")
"""An address with a mask that leaves nothing of it."""


@dataclass(frozen=True, slots=True)
class Auth:
    """Credentials. password: in clear, "" where there is none. digests: hashes that stand for it or beside it.

    endpoints: names of those that ask callers for it. users: names of all sections that use it, theirs too.
    """

    section: Section
    username: str
    password: str
    digests: tuple[str, ...]
    oauth: bool
    endpoints: tuple[str, ...]
    users: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of its section."""
        return self.section.name

    @property
    def place(self) -> Place:
        """Where its secret is written, in a template too; its heading where it has none."""
        found = (self.section.last(key) for key in ("password", *_DIGEST_KEYS))
        return next((setting.place for setting in found if setting is not None), self.section.place)


class Pjsip:
    """The objects of a file, each by its type, in the file's order."""

    def __init__(self, conf: Conf) -> None:
        self.conf = conf
        self.endpoints = tuple(conf.of_type("endpoint"))
        self.aors = tuple(conf.of_type("aor"))
        self.identifies = tuple(conf.of_type("identify"))
        self.transports = {section.name: section for section in conf.of_type("transport")}
        self.auths = _auths(conf, self.endpoints)
        self._identified = frozenset(
            endpoint
            for identify in self.identifies
            if _lists_any(identify, "match", "match_header", "match_request_uri")
            for endpoint in listed(identify.last("endpoint"))
        )
        self._fenced = any(_is_fenced(section) for section in conf.of_type("acl"))

    def is_identified(self, endpoint: Section) -> bool:
        """Whether an identify section says by what its calls are known."""
        return endpoint.name in self._identified

    def is_fenced(self, endpoint: Section) -> bool:
        """Whether an access list lets some addresses alone reach it; a named one (acl.conf) is not looked into."""
        return self._fenced or _is_fenced(endpoint)

    @property
    def has_encrypted_transport(self) -> bool:
        """Whether any transport is TLS."""
        return any(self.is_encrypted(name) for name in self.transports)

    def is_encrypted(self, transport: str) -> bool | None:
        """Whether that transport is TLS; None where it is not in the file, or rides on another connection."""
        section = self.transports.get(transport)
        protocol = "" if section is None else section.value("protocol", "udp").casefold()
        if protocol in _ENCRYPTED_PROTOCOLS:
            return True
        return False if protocol in _CLEAR_PROTOCOLS else None


def listed(setting: Setting | None) -> tuple[str, ...]:
    """The parts of a list with commas."""
    parts = () if setting is None else setting.value.split(",")
    return tuple(part.strip() for part in parts if part.strip())


def is_known_by_word(endpoint: Section) -> bool:
    """Whether it is found by a name that the caller writes, in From or in an Authorization nobody has checked."""
    methods = listed(endpoint.last("identify_by")) or ("username", "ip")
    return not {"username", "auth_username"}.isdisjoint(method.casefold() for method in methods)


def matches_everybody(identify: Section) -> Setting | None:
    """The `match` that is true of any address."""
    matches = identify.all("match")
    return next((each for each in matches if any(_OF_EVERYBODY.match(part) for part in listed(each))), None)


def media_in_clear(endpoint: Section) -> bool:
    """Whether its media are never encrypted."""
    if is_yes(endpoint.last("webrtc")):
        return False
    return endpoint.value("media_encryption").casefold() not in _ENCRYPTED_MEDIA


def media_may_fall_to_clear(endpoint: Section) -> Setting | None:
    """The setting that lets a call go on in clear where the phone does not encrypt; None where media are clear."""
    setting = endpoint.last("media_encryption_optimistic")
    return setting if is_yes(setting) and not media_in_clear(endpoint) else None


def contacts_max(aor: Section) -> int:
    """How many phones may register there at once; 0, too, for what Asterisk does not take as a number."""
    value = aor.value("max_contacts", "0")
    return int(value) if re.fullmatch(r"[0-9]{1,10}", value) else 0


def _auths(conf: Conf, endpoints: tuple[Section, ...]) -> tuple[Auth, ...]:
    asking, using = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
    for endpoint in endpoints:
        for name in listed(endpoint.last("auth")):
            asking[name].append(endpoint.name)
    for section in conf.sections:
        for key in ("auth", "outbound_auth"):
            for name in listed(section.last(key)):
                using[name].append(section.name)
    return tuple(
        Auth(
            section,
            section.value("username"),
            section.value("password"),
            tuple(each.value for key in _DIGEST_KEYS for each in section.all(key) if each.value),
            section.value("auth_type").casefold() == "google_oauth",
            _once(asking[section.name]),
            _once(using[section.name]),
        )
        for section in conf.of_type("auth")
    )


def _once(names: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _lists_any(section: Section, *keys: str) -> bool:
    return any(listed(setting) for key in keys for setting in section.all(key))


def _is_fenced(section: Section) -> bool:
    denied = (part for setting in section.all("deny") for part in listed(setting))
    return _lists_any(section, "acl") or any(_OF_EVERYBODY.match(part) for part in denied)

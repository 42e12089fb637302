"""Settings: `fairdial.toml`, overridden by environment variables such as FAIRDIAL_ARI__PASSWORD.

Errors name the file, the key and the cure. The defaults suit one Asterisk on the same machine.
"""

import os
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import parse_qs, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    model_validator,
)

from fairdial.policy.periods import zone_named
from fairdial.policy.rating import parse_micros

PREFIX = "FAIRDIAL_"
DEFAULT_FILE: Final = Path("/etc/fairdial/fairdial.toml")
"""Read where no other file is named and this one is there; `fairdial init` writes it."""
SECRET_BYTES_MAX: Final = 1024
SECRETS: Final = (
    (("ari",), "password"),
    (("ami",), "secret"),
    (("store",), "password"),
    (("notices", "webhook"), "secret"),
    (("notices", "email"), "password"),
)
"""Sections and the secret of each, which may lie in a file that the setting `…_file` names."""
CREDENTIALS: Final = frozenset({"$CREDENTIALS_DIRECTORY", "${CREDENTIALS_DIRECTORY}"})
"""How a path may begin: the folder that systemd makes for `LoadCredential=` (systemd.exec(5))."""
Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=3600)]


class ConfigError(ValueError):
    """The configuration cannot be used; one line per fault."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _zone(name: str) -> str:
    """A time zone's name as it is, where there is one of that name."""
    if name:
        zone_named(name)
    return name


def _amount(text: str) -> str:
    """An amount of money as it is, where it is one."""
    parse_micros(text)
    return text


class Ari(_Section):
    """Asterisk's REST interface: http.conf and ari.conf of the switch.

    password_file: a file that holds the password, in place of `password`. ca_file: for https, the certificates that
    may have signed the switch's; None: the machine's own. check_hostname: whether its certificate must be for the
    name in `url`.
    """

    url: Annotated[str, Field(pattern=r"^https?://")] = "http://127.0.0.1:8088/ari"
    user: str = "fairdial"
    password: SecretStr = SecretStr("")
    password_file: Path | None = None
    ca_file: Path | None = None
    check_hostname: bool = True
    app: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,40}$")] = "fairdial"
    request_timeout_s: Seconds = 2.0

    @model_validator(mode="after")
    def _agree(self) -> Self:
        _one_of("password", self.password, self.password_file)
        if not self.url.startswith("https:"):
            _only_with_tls(self.ca_file, self.check_hostname, "an url that begins with https://")
        return self


class Ami(_Section):
    """Asterisk's manager interface: manager.conf of the switch.

    secret_file: a file that holds the secret, in place of `secret`. tls: speak TLS, to manager.conf's tlsbindaddr.
    ca_file, check_hostname: as in [ari].
    """

    host: str = "127.0.0.1"
    port: Port = 5038
    user: str = "fairdial"
    secret: SecretStr = SecretStr("")
    secret_file: Path | None = None
    tls: bool = False
    ca_file: Path | None = None
    check_hostname: bool = True
    action_timeout_s: Seconds = 1.0

    @model_validator(mode="after")
    def _agree(self) -> Self:
        _one_of("secret", self.secret, self.secret_file)
        if not self.tls:
            _only_with_tls(self.ca_file, self.check_hostname, "tls = true")
        return self


def _one_of(name: str, given: SecretStr, file: Path | None) -> None:
    if given.get_secret_value() and file is not None:
        raise ValueError(f"{name} and {name}_file are both set (by file or environment); remove one of them")


def _only_with_tls(ca_file: Path | None, check_hostname: bool, cure: str) -> None:
    if ca_file is not None or not check_hostname:
        name = "check_hostname" if ca_file is None else "ca_file"
        raise ValueError(f"{name} means nothing without TLS; set {cure}, or remove it")


class Agi(_Section):
    """Our FastAGI server. It has no authentication: listen on loopback, name the peers."""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: Port = 4573
    allowed_peers: tuple[str, ...] = ("127.0.0.1", "::1")


class Http(_Section):
    """HTTP on loopback: /healthz, /readyz and /metrics for all who reach it, /v1 and the web page at / for holders of a
    token.

    metrics: whether /metrics is served; it tells of loads and links, nothing of customers. page: whether the web page
    is, and browsers are let in by a cookie. replay_mb_max: the largest file of call records that may be sent to be
    replayed, in MB.
    """

    enabled: bool = True
    host: str = "127.0.0.1"
    port: Port = 8090
    metrics: bool = True
    page: bool = True
    replay_mb_max: Annotated[int, Field(ge=1, le=1_000)] = 64


class Store(_Section):
    """Where the ledger is: an SQLite file, which one FairDial writes, or a PostgreSQL database that several share.

    url: postgresql://USER@HOST:PORT/DATABASE, and what libpq takes after `?`, such as sslmode; empty: the file at
    `path`. password, password_file: of that user, in no `url`; without, libpq looks for one itself. connections: that
    write; half as many more read.
    """

    path: Path = Path("/var/lib/fairdial/ledger.sqlite")
    url: Annotated[str, Field(pattern=r"^(postgres(ql)?://.+)?$")] = ""
    password: SecretStr = SecretStr("")
    password_file: Path | None = None
    connections: Annotated[int, Field(ge=1, le=64)] = 8

    @model_validator(mode="after")
    def _agree(self) -> Self:
        _one_of("password", self.password, self.password_file)
        if not self.url and (self.password.get_secret_value() or self.password_file is not None):
            raise ValueError("a file has no password; set `url`, or remove password and password_file")
        if "password" in parse_qs(urlsplit(self.url).query) or ":" in _user_of(self.url):
            raise ValueError("a password stands in `url`, where logs show it; put it into password_file")
        return self

    @property
    def shown(self) -> str:
        """Where it is, for people; without user and settings."""
        if not self.url:
            return str(self.path)
        parts = urlsplit(self.url)
        where = parse_qs(parts.query)
        host = parts.netloc.rpartition("@")[2] or where.get("host", [""])[0]
        return f"postgresql://{host}{parts.path}"


def _user_of(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[0]


class Cdr(_Section):
    """The switch's call detail records: what it recorded of calls that ended while FairDial was away.

    file: Master.csv of cdr_csv, which needs `loguniqueid=yes`; None: it is not read. zone: of the times in it, UTC with
    `usegmtime=yes`. events_zone: the switch's own time zone, where its AMI events `Cdr` are wanted too (cdr_manager);
    empty: they are not. wait_s: how long a record of a call that is gone is waited for.
    """

    file: Path | None = None
    zone: Annotated[str, AfterValidator(_zone)] = "UTC"
    events_zone: Annotated[str, AfterValidator(_zone)] = ""
    wait_s: Annotated[float, Field(ge=0, le=600)] = 10.0

    @property
    def wanted(self) -> bool:
        """Whether records are read at all."""
        return self.file is not None or bool(self.events_zone)


class Desk(_Section):
    """How dials are decided.

    useful_s, slice_s: how the last minutes of an allowance are shared among calls; renew_lead_s: how long
    before a slice ends more is asked for. attempts_per_s, attempts_per_s_source: dials of one line, and from one
    address, that are looked at in a second; those past it are refused from memory (docs/security.md). 0: any number.
    """

    answer_within_s: Annotated[float, Field(gt=0, le=5)] = 0.5
    region: Annotated[str, Field(pattern=r"^[A-Z]{2}$")] = "GB"
    useful_s: Annotated[int, Field(ge=1, le=600)] = 10
    slice_s: Annotated[int, Field(ge=1, le=3600)] = 60
    renew_lead_s: Annotated[int, Field(ge=1, le=60)] = 5
    attempts_per_s: Annotated[int, Field(ge=0, le=999)] = 20
    attempts_per_s_source: Annotated[int, Field(ge=0, le=999)] = 50


CutRule = Literal["longest_call", "allowances", "credit"]

CREDIT_SOUNDS = ("sound:descending-2tone",)
"""Of Asterisk's core sounds: two falling tones, for credit that runs out."""


def _with_credit(sounds: Mapping[CutRule, tuple[str, ...]]) -> Mapping[CutRule, tuple[str, ...]]:
    """Naming the sounds of one rule takes nothing from another."""
    return {"credit": CREDIT_SOUNDS, **sounds}


class Calls(_Section):
    """Calls that FairDial sets up itself.

    public: the endpoint that is called for a number of the public network, with "{number}" where its E.164 form
    belongs; line: for one of our own lines, with "{line}". ring_s: how long a leg may ring. warn_at_s: how many
    seconds before any call is cut the party that pays hears warn_sounds; warn_sounds_for: in their place, by the rule
    that will cut it (longest_call, allowances, credit). Credit that runs out has falling tones unless it is named
    there, for who hears them can pay for more; an empty list is silence. callback_after_s: between the hang-up of
    who dialled for a callback and its first ring. collect_prompt: the sounds that ask the called party of a
    reverse-charge call, with "{caller}" and "{rate}" where who calls and what a minute costs belong;
    collect_key_within_s: for a key after it, three times.

    collect_record_name: ask who calls at the called party's expense for a name, which is then heard as "{caller}";
    the number still is where nothing was said. Off by default, as it keeps a voice (until the call is accepted or
    not), lets four seconds be heard that nobody pays for, has everybody wait some six seconds longer, and needs a
    caller's network that lets the voice through before the answer. Asterisk keeps recordings in the folder
    `recording` of its spool (asterisk.conf, astspooldir), which must exist.
    """

    public: Annotated[str, Field(pattern=r"\{number\}")] = "PJSIP/{number}@carrier"
    line: Annotated[str, Field(pattern=r"\{line\}")] = "PJSIP/{line}"
    ring_s: Annotated[int, Field(ge=1, le=600)] = 60
    warn_at_s: tuple[Annotated[int, Field(ge=1, le=600)], ...] = (60, 10)
    warn_sounds: tuple[str, ...] = ("sound:beep",)
    warn_sounds_for: Annotated[Mapping[CutRule, tuple[str, ...]], AfterValidator(_with_credit)] = Field(
        default={}, validate_default=True
    )
    callback_after_s: Annotated[float, Field(ge=0, le=60)] = 2.0
    collect_prompt: tuple[Annotated[str, Field(pattern=r"^([A-Za-z0-9/_-]+|\{caller\}|\{rate\})$")], ...] = (
        "priv-callpending",
        "{caller}",
        "{rate}",
        "if-correct-press",
        "digits/1",
        "vm-tocancel",
        "vm-press",
        "digits/2",
    )
    collect_key_within_s: Seconds = 10.0
    collect_record_name: bool = False


class Logins(_Section):
    """Logins of lines, of which AMI tells (manager.conf: read=security).

    watch: whether they are looked at. failures: so many within window_s from one source, and no login between that
    went well, turn its calls away for block_s; 0: never. pbx_agents: words in a user agent, in any case, by which a
    PBX or a dialler is known.
    """

    watch: bool = True
    failures: Annotated[int, Field(ge=1, le=1000)] = 20
    window_s: Annotated[int, Field(ge=1, le=86_400)] = 600
    block_s: Annotated[int, Field(ge=0, le=2_592_000)] = 3600
    pbx_agents: tuple[Annotated[str, Field(min_length=2, pattern=r"^[^A-Z]+$")], ...] = (
        *(
            "asterisk",
            "freepbx",
            "fpbx",
            "freeswitch",
            "3cx",
            "elastix",
            "issabel",
            "yeastar",
            "grandstream ucm",
        ),
        *(
            "mitel",
            "avaya aura",
            "cucm",
            "cisco-sipgateway",
            "vicidial",
            "goautodial",
            "kamailio",
            "opensips",
            "pbx",
        ),
    )


class Webhook(_Section):
    """Where each notice is sent as JSON, signed (docs/notices.md). secret_file: a file that holds the secret, in place
    of `secret`.
    """

    url: Annotated[str, Field(pattern=r"^https?://[^/]+")]
    secret: SecretStr = SecretStr("")
    secret_file: Path | None = None
    timeout_s: Seconds = 10.0

    @model_validator(mode="after")
    def _agree(self) -> Self:
        _one_of("secret", self.secret, self.secret_file)
        if not self.secret.get_secret_value() and self.secret_file is None:
            raise ValueError(
                "secret is missing; without it the receiver cannot know who sends; set secret_file"
            )
        return self


class Email(_Section):
    """The mail server for notices to contacts that have an address. tls: from the first byte on, after STARTTLS, or
    none. password_file: a file that holds the password, in place of `password`; without user nobody logs in.
    """

    host: str
    port: Annotated[int, Field(ge=1, le=65535)] = 587
    tls: Literal["starttls", "tls", "none"] = "starttls"
    user: str = ""
    password: SecretStr = SecretStr("")
    password_file: Path | None = None
    sender: Annotated[str, Field(pattern=r"^[^@\s]+@[^@\s]+$")]
    timeout_s: Seconds = 20.0

    @model_validator(mode="after")
    def _agree(self) -> Self:
        _one_of("password", self.password, self.password_file)
        return self


class SipMessages(_Section):
    """Notices as SIP MESSAGE of the switch to a line. to: where, with "{line}"; sender: whom it shows."""

    to: Annotated[str, Field(pattern=r"\{line\}")] = "pjsip:{line}"
    sender: Annotated[str, Field(pattern=r"^sips?:[^\s<>]+$")]


class Notices(_Section):
    """What customers are told, and how. used_percent: of an allowance; low_credit: of the account's currency.
    templates: a folder whose files stand in for those that come with FairDial. attempts_max: of a delivery that is
    refused, until it is given up. A way that has no section is not used.
    """

    used_percent: tuple[Annotated[int, Field(ge=50, le=100)], ...] = (80, 100)
    low_credit: Annotated[str, AfterValidator(_amount)] = "5.00"
    templates: Path | None = None
    attempts_max: Annotated[int, Field(ge=1, le=1000)] = 30
    webhook: Webhook | None = None
    email: Email | None = None
    sip: SipMessages | None = None


class Nodes(_Section):
    """Several FairDials on one ledger (docs/several-switches.md).

    lease_s: a node that was not heard of for so long has its calls looked after by the others. settle_after_s: so long
    after such a call's own lease must have cut it, it is settled. cdr: files of other switches' call records
    (Master.csv, in UTC) that can be read from here, by switch.
    """

    lease_s: Annotated[float, Field(ge=1, le=600)] = 15.0
    settle_after_s: Annotated[float, Field(ge=0, le=86_400)] = 30.0
    cdr: dict[str, Path] = {}


class Logs(_Section):
    """level of what is logged; format: console for people, json for collectors; numbers: telephone numbers in
    it are masked but for their first and last digits, or written in full.
    """

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["console", "json"] = "json"
    numbers: Literal["masked", "full"] = "masked"


class Config(_Section):
    """The whole configuration.

    switch: the systemname of this Asterisk (asterisk.conf), needed where several share a ledger.
    policies: folder of policy files. prefixes: the operator's own number table, None for the shipped one.
    control: the Unix socket on which the command line talks to a running server.
    reconcile_every_s: how often the switch is compared with the ledger.
    asterisk_etc: the folder of the switch's configuration files, which `fairdial doctor` looks through.
    """

    switch: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{0,40}$")] = ""
    policies: Path = Path("/etc/fairdial/policies")
    prefixes: Path | None = None
    control: Path = Path("/run/fairdial/control.sock")
    asterisk_etc: Path = Path("/etc/asterisk")
    reconcile_every_s: Annotated[float, Field(ge=1, le=3600)] = 60.0
    ari: Ari = Ari()
    ami: Ami = Ami()
    agi: Agi = Agi()
    http: Http = Http()
    store: Store = Store()
    desk: Desk = Desk()
    calls: Calls = Calls()
    cdr: Cdr = Cdr()
    logins: Logins = Logins()
    notices: Notices = Notices()
    nodes: Nodes = Nodes()
    logs: Logs = Logs()
    _holds_secret: Path | None = PrivateAttr(None)
    _read_from: Path | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _told_apart(self) -> Self:
        if self.store.url and not self.switch:
            raise ValueError(
                "store.url: several switches can share that ledger, so each needs a name; set `switch` to its"
                " systemname (asterisk.conf)"
            )
        return self

    @property
    def read_from(self) -> Path | None:
        """The file that it was read from; None: defaults and the environment alone."""
        return self._read_from

    @property
    def secret_files(self) -> tuple[Path, ...]:
        """The files of ours that hold a secret; not those in a folder of systemd's, which nobody else can read."""
        named = (self._holds_secret, *(secret.file for secret in _secrets(self)))
        return tuple(path for path in named if path is not None and not by_systemd(path))


def load(path: Path | None, environment: Mapping[str, str] | None = None) -> Config:
    """The configuration of that file (None: defaults) and the environment. Raises ConfigError.

    Relative paths count from the file's folder.
    """
    document: dict[str, Any] = {}
    where = "defaults" if path is None else str(path)
    if path is not None:
        document = _read(path)
    secret_in_file = any(_given(document, *section, name) for section, name in SECRETS)
    _overlay(document, os.environ if environment is None else environment)
    try:
        config = Config.model_validate(document)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{where}: {_fault(fault)}" for fault in error.errors())) from None
    if path is None:
        return config
    anchored = _anchored(config, path.parent)
    anchored._holds_secret = path if secret_in_file else None
    anchored._read_from = path
    return anchored


def read_again(config: Config) -> Config:
    """The configuration as its file is now, with its secrets. Raises ConfigError."""
    return with_secrets(load(config._read_from))


def settings_of(config: Config) -> dict[str, object]:
    """Each setting by its dotted key, as in `fairdial.toml`: {"desk.region": "GB", …}. Secrets are among them."""
    return dict(_settings(config, ""))


def _settings(section: BaseModel, prefix: str) -> Iterator[tuple[str, object]]:
    for name, value in section:
        if isinstance(value, BaseModel):
            yield from _settings(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def with_secrets(config: Config, environment: Mapping[str, str] | None = None, *, only: str = "") -> Config:
    """The configuration with the secrets that lie in files of their own. Raises ConfigError.

    only: of that section, for who needs no other.

    Apart from `load`, because only who talks to the switch must be able to read them.
    """
    where = os.environ if environment is None else environment
    for secret in _secrets(config):
        if secret.file is not None and only in ("", secret.section[0]):
            key = ".".join((*secret.section, f"{secret.name}_file"))
            config = _changed(config, secret.section, {secret.name: _secret(key, secret.file, where)})
    return config


@dataclass(frozen=True, slots=True)
class _Secret:
    """A secret that a section may have. file: where it lies, None: in the configuration itself, or there is none."""

    section: tuple[str, ...]
    name: str
    file: Path | None


def _secrets(config: Config) -> Iterator[_Secret]:
    for section, name in SECRETS:
        found: Any = config
        for part in section:
            found = None if found is None else getattr(found, part)
        if found is not None:
            yield _Secret(section, name, getattr(found, f"{name}_file"))


def _changed(section: Any, path: tuple[str, ...], values: Mapping[str, Any]) -> Any:
    """A section with other values in a section that lies in it."""
    if not path:
        return section.model_copy(update=values)
    return section.model_copy(update={path[0]: _changed(getattr(section, path[0]), path[1:], values)})


def _secret(key: str, path: Path, environment: Mapping[str, str]) -> SecretStr:
    if by_systemd(path):
        folder = environment.get("CREDENTIALS_DIRECTORY")
        if not folder:
            raise ConfigError(
                f"{key}: {path}: CREDENTIALS_DIRECTORY is not set; start FairDial by its systemd unit with"
                f" LoadCredential={path.name}:…, or name the file itself"
            )
        path = Path(folder, *path.parts[1:])
    try:
        with path.open("rb") as file:
            secret = file.read(SECRET_BYTES_MAX + 1).decode().rstrip("\r\n")
    except OSError as error:
        raise ConfigError(
            f"{key}: {path} cannot be read ({error.strerror}); see its path, owner and mode"
        ) from error
    except UnicodeDecodeError:
        raise ConfigError(f"{key}: {path} is not UTF-8 text; write the secret into it, on one line") from None
    if not secret or len(secret) > SECRET_BYTES_MAX or not secret.isprintable():
        raise ConfigError(
            f"{key}: {path} must hold one line of 1 to {SECRET_BYTES_MAX} characters, the secret alone"
        )
    return SecretStr(secret)


def by_systemd(path: Path) -> bool:
    """Whether a path begins with the folder of systemd's credentials, and so is no relative one."""
    return bool(path.parts) and path.parts[0] in CREDENTIALS


def _given(document: Mapping[str, Any], *path: str) -> bool:
    found: Any = document
    for part in path:
        found = found.get(part) if isinstance(found, dict) else None
    return bool(found)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); name another file with --config or FAIRDIAL_CONFIG"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    except (RecursionError, ValueError) as error:
        raise ConfigError(
            f"{path}: not TOML: hundreds of brackets in each other, or a number of thousands of digits"
        ) from error


def _overlay(document: dict[str, Any], environment: Mapping[str, str]) -> None:
    for name, value in environment.items():
        if not name.startswith(PREFIX) or name == "FAIRDIAL_CONFIG":
            continue
        *sections, key = name.removeprefix(PREFIX).lower().split("__")
        table = document
        for section in sections:
            table = table.setdefault(section, {})
            if not isinstance(table, dict):
                raise ConfigError(f"{name}: {section} is a value, not a section; name a setting in a section")
        table[key] = value


def _anchored(config: Config, folder: Path) -> Config:
    def anchor(path: Path) -> Path:
        return path if path.is_absolute() or by_systemd(path) else folder.absolute() / path

    def anchored(section: _Section, *keys: str) -> _Section:
        named = {key: path for key in keys if (path := getattr(section, key)) is not None}
        return section.model_copy(update={key: anchor(path) for key, path in named.items()})

    return config.model_copy(
        update={
            "policies": anchor(config.policies),
            "prefixes": None if config.prefixes is None else anchor(config.prefixes),
            "cdr": anchored(config.cdr, "file"),
            "control": anchor(config.control),
            "asterisk_etc": anchor(config.asterisk_etc),
            "notices": _anchored_notices(config.notices, anchored),
            "nodes": config.nodes.model_copy(
                update={"cdr": {switch: anchor(file) for switch, file in config.nodes.cdr.items()}}
            ),
            "ari": anchored(config.ari, "password_file", "ca_file"),
            "ami": anchored(config.ami, "secret_file", "ca_file"),
            "store": anchored(config.store, "path", "password_file"),
        }
    )


def _anchored_notices(notices: Notices, anchored: Callable[..., _Section]) -> _Section:
    ways = {
        name: anchored(way, key)
        for name, key in (("webhook", "secret_file"), ("email", "password_file"))
        if (way := getattr(notices, name)) is not None
    }
    return anchored(notices.model_copy(update=ways), "templates")


def _fault(fault: Mapping[str, Any]) -> str:
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"{key}: no such setting; remove it or correct its spelling"
    said = fault["msg"].removeprefix("Value error, ")
    # A table or a list may hold a password.
    hidden = (
        "password" in key or "secret" in key or key == "store.url" or isinstance(fault["input"], dict | list)
    )
    return f"{key}: {said}" if hidden else f"{key}: {said} (found {_shown(fault['input'])})"


def _shown(value: object) -> str:
    try:
        return repr(value)
    except ValueError:
        # Python writes no integer out that has more than some thousands of digits (sys.set_int_max_str_digits).
        return "a whole number of thousands of digits"

"""Settings: `fairdial.toml`, overridden by environment variables such as FAIRDIAL_ARI__PASSWORD.

Errors name the file, the key and the cure. The defaults suit one Asterisk on the same machine.
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

PREFIX = "FAIRDIAL_"
Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=3600)]


class ConfigError(ValueError):
    """The configuration cannot be used; one line per fault."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Ari(_Section):
    """Asterisk's REST interface: http.conf and ari.conf of the switch."""

    url: Annotated[str, Field(pattern=r"^https?://")] = "http://127.0.0.1:8088/ari"
    user: str = "fairdial"
    password: SecretStr = SecretStr("")
    app: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,40}$")] = "fairdial"
    request_timeout_s: Seconds = 2.0


class Ami(_Section):
    """Asterisk's manager interface: manager.conf of the switch."""

    host: str = "127.0.0.1"
    port: Port = 5038
    user: str = "fairdial"
    secret: SecretStr = SecretStr("")
    action_timeout_s: Seconds = 1.0


class Agi(_Section):
    """Our FastAGI server. It has no authentication: listen on loopback, name the peers."""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: Port = 4573
    allowed_peers: tuple[str, ...] = ("127.0.0.1", "::1")


class Store(_Section):
    """The ledger's SQLite file."""

    path: Path = Path("/var/lib/fairdial/ledger.sqlite")


class Desk(_Section):
    """How dials are decided.

    useful_s, slice_s: how the last minutes of an allowance are shared among calls; renew_lead_s: how long
    before a slice ends more is asked for.
    """

    answer_within_s: Annotated[float, Field(gt=0, le=5)] = 0.5
    region: Annotated[str, Field(pattern=r"^[A-Z]{2}$")] = "GB"
    useful_s: Annotated[int, Field(ge=1, le=600)] = 10
    slice_s: Annotated[int, Field(ge=1, le=3600)] = 60
    renew_lead_s: Annotated[int, Field(ge=1, le=60)] = 5


class Calls(_Section):
    """Calls that FairDial sets up itself.

    public: the endpoint that is called for a number of the public network, with "{number}" where its E.164 form
    belongs; line: for one of our own lines, with "{line}". ring_s: how long a leg may ring. warn_at_s: how many
    seconds before any call is cut the party that pays hears warn_sounds. callback_after_s: between the hang-up of
    who dialled for a callback and its first ring. collect_prompt: the sounds that ask the called party of a
    reverse-charge call, with "{caller}" and "{rate}" where who calls and what a minute costs belong;
    collect_key_within_s: for a key after it, three times.
    """

    public: Annotated[str, Field(pattern=r"\{number\}")] = "PJSIP/{number}@carrier"
    line: Annotated[str, Field(pattern=r"\{line\}")] = "PJSIP/{line}"
    ring_s: Annotated[int, Field(ge=1, le=600)] = 60
    warn_at_s: tuple[Annotated[int, Field(ge=1, le=600)], ...] = (60, 10)
    warn_sounds: tuple[str, ...] = ("sound:beep",)
    warn_sounds_for: Mapping[Literal["longest_call", "allowances", "credit"], tuple[str, ...]] = {}
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


class Logs(_Section):
    """level of what is logged; format: console for people, json for collectors."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["console", "json"] = "json"


class Config(_Section):
    """The whole configuration.

    switch: the systemname of this Asterisk (asterisk.conf), needed where several share a ledger.
    policies: folder of policy files. prefixes: the operator's own number table, None for the shipped one.
    control: the Unix socket on which the command line talks to a running server.
    reconcile_every_s: how often the switch is compared with the ledger.
    """

    switch: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{0,40}$")] = ""
    policies: Path = Path("/etc/fairdial/policies")
    prefixes: Path | None = None
    control: Path = Path("/run/fairdial/control.sock")
    reconcile_every_s: Annotated[float, Field(ge=1, le=3600)] = 60.0
    ari: Ari = Ari()
    ami: Ami = Ami()
    agi: Agi = Agi()
    store: Store = Store()
    desk: Desk = Desk()
    calls: Calls = Calls()
    logs: Logs = Logs()


def load(path: Path | None, environment: Mapping[str, str] | None = None) -> Config:
    """The configuration of that file (None: defaults) and the environment. Raises ConfigError.

    Relative paths count from the file's folder.
    """
    document: dict[str, Any] = {}
    where = "defaults" if path is None else str(path)
    if path is not None:
        document = _read(path)
    _overlay(document, os.environ if environment is None else environment)
    try:
        config = Config.model_validate(document)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{where}: {_fault(fault)}" for fault in error.errors())) from None
    return config if path is None else _anchored(config, path.parent)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); name another file with --config or FAIRDIAL_CONFIG"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error


def _overlay(document: dict[str, Any], environment: Mapping[str, str]) -> None:
    for name, value in environment.items():
        if not name.startswith(PREFIX) or name == "FAIRDIAL_CONFIG":
            continue
        *sections, key = name.removeprefix(PREFIX).lower().split("__")
        table = document
        for section in sections:
            table = table.setdefault(section, {})
        table[key] = value


def _anchored(config: Config, folder: Path) -> Config:
    def anchor(path: Path) -> Path:
        return path if path.is_absolute() else folder.absolute() / path

    return config.model_copy(
        update={
            "policies": anchor(config.policies),
            "prefixes": None if config.prefixes is None else anchor(config.prefixes),
            "control": anchor(config.control),
            "store": config.store.model_copy(update={"path": anchor(config.store.path)}),
        }
    )


def _fault(fault: Mapping[str, Any]) -> str:
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"{key}: no such setting; remove it or correct its spelling"
    shown = "" if "password" in key or "secret" in key else f" (found {fault['input']!r})"
    return f"{key}: {fault['msg']}{shown}"

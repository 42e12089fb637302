"""compose.yaml: read as strictly as the compose specification, and held to what docker/README.md promises."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from compose_spec import PyCompose

from fairdial.config import Config, load, with_secrets
from testbed.images import PROJECT
from tests.packages.conftest import COMPOSE, commands_of, compose_services

TEXT = COMPOSE.read_text(encoding="utf-8")
SHARED = COMPOSE.with_name("shared-ledger.yaml")
SERVICES = compose_services()
BUILT = ("asterisk", "fairdial")


def test_it_is_what_the_specification_wants() -> None:
    PyCompose.from_yaml(TEXT).validate()


@pytest.mark.parametrize(
    ("right", "wrong"),
    [("read_only: true", "readonly: true"), ("5060:5060/udp", "5060:sip/udp"), ("\n  front: {}\n", "\n")],
)
def test_the_reader_finds_what_is_wrong(right: str, wrong: str) -> None:
    assert right in TEXT
    with pytest.raises(ValueError, match=r"services|network"):
        PyCompose.from_yaml(TEXT.replace(right, wrong)).validate()


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_has_more_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert service["user"].split(":")[0] not in ("0", "root")
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["healthcheck"]["test"][0] == "CMD"
    assert "privileged" not in service
    assert "network_mode" not in service


def test_secrets_are_files_and_nowhere_else() -> None:
    for service in SERVICES.values():
        assert service["secrets"]
        for key, value in service["environment"].items():
            named = any(word in key for word in ("PASSWORD", "SECRET", "TOKEN"))
            assert not named or (key.endswith("_FILE") and value.startswith("/run/secrets/")), key
    kept = PyCompose.from_yaml(TEXT).to_dict()["secrets"]
    assert {secret["file"] for secret in kept.values()} == {f"./secrets/{name}" for name in kept}
    ignored = (PROJECT / ".gitignore").read_text().split()
    assert "/docker/secrets/" in ignored


def test_ari_and_ami_are_between_the_two_alone() -> None:
    networks = PyCompose.from_yaml(TEXT).to_dict()["networks"]
    assert {name for name, service in SERVICES.items() if "switch" in service["networks"]} == set(BUILT)
    assert networks["switch"]["internal"] is True
    switch, fairdial = (SERVICES[name]["networks"]["switch"]["ipv4_address"] for name in BUILT)
    assert SERVICES["asterisk"]["environment"] == {"SWITCH_ADDRESS": switch, "FAIRDIAL_ADDRESS": fairdial}
    published = {name: service.get("ports", []) for name, service in SERVICES.items()}
    assert published["fairdial"] == ["127.0.0.1:8090:8090"]
    assert all(port.endswith("/udp") for port in published["asterisk"])
    assert published["postgres"] == []


def configured(environment: dict[str, str], folder: Path) -> Config:
    """FairDial's settings in a container with that environment, and secrets of their own in `folder`."""
    environment = dict(environment)
    for key, value in environment.items():
        if key.endswith("_FILE"):
            environment[key] = str(folder / Path(value).name)
            (folder / Path(value).name).write_text(f"of {Path(value).name}\n")
    return with_secrets(load(PROJECT / "docker/fairdial/fairdial.toml", environment), environment)


def test_fairdial_takes_its_settings(tmp_path: Path) -> None:
    """Each variable is a setting, and they lead to the switch with the secrets."""
    config = configured(SERVICES["fairdial"]["environment"], tmp_path)
    switch = SERVICES["asterisk"]["environment"]["SWITCH_ADDRESS"]
    assert (config.ari.url, config.ami.host) == (f"http://{switch}:8088/ari", switch)
    assert config.ari.password.get_secret_value() == "of ari-password"
    assert config.ami.secret.get_secret_value() == "of ami-secret"
    assert config.store.url == ""
    assert {volume.split(":")[1] for volume in SERVICES["fairdial"]["volumes"]} >= {
        str(config.store.path.parent),
        str(config.cdr.file.parent) if config.cdr.file else "",
    }
    assert {mount.split(":")[0] for mount in SERVICES["fairdial"]["tmpfs"]} >= {str(config.control.parent)}


def test_the_shared_ledger_is_started_only_where_it_is_wanted() -> None:
    assert [name for name, service in SERVICES.items() if service.get("profiles")] == ["postgres"]
    assert SERVICES["postgres"]["profiles"] == ["shared-ledger"]
    assert all("postgres" not in str(SERVICES[name]) for name in BUILT)


def over(base: Any, more: Any) -> Any:
    """Two files as compose puts them over each other."""
    if isinstance(base, dict):
        return {
            **base,
            **{key: over(base[key], value) if key in base else value for key, value in more.items()},
        }
    return [*base, *more] if isinstance(base, list) else more


def shared_services(**given: str) -> dict[str, Any]:
    """The services with shared-ledger.yaml over them, and what stands in `.env`."""

    def value(match: re.Match[str]) -> str:
        name, need, default = match.groups()
        if need == ":?" and name not in given:
            raise KeyError(name)
        return given.get(name, default)

    text = re.sub(r"\$\{(\w+)(:[-?])([^}]*)\}", value, SHARED.read_text(encoding="utf-8"))
    both = over(PyCompose.from_yaml(TEXT).to_dict(), PyCompose.from_yaml(text).to_dict())
    PyCompose.from_json(json.dumps(both)).validate()
    return dict(both["services"])


def test_the_shared_ledger_is_the_database_beside_it_or_another(tmp_path: Path) -> None:
    services = shared_services(SWITCH_NAME="east")
    config = configured(services["fairdial"]["environment"], tmp_path)
    database = services["postgres"]["environment"]
    user, name = database["POSTGRES_USER"], database["POSTGRES_DB"]
    assert config.store.url == f"postgresql://{user}@postgres/{name}"
    assert config.store.password.get_secret_value() == "of ledger-password"
    assert Path(database["POSTGRES_PASSWORD_FILE"]).name == "ledger-password"
    for service in ("fairdial", "postgres"):
        assert "ledger-password" in services[service]["secrets"]
        assert "shared-ledger" in services[service]["networks"]
    # The ledger knows a switch's calls by the name that the switch gives them.
    assert services["asterisk"]["environment"]["SWITCH_NAME"] == config.switch == "east"
    elsewhere = shared_services(SWITCH_NAME="west", STORE_URL="postgresql://fairdial@db.example/fairdial")
    config = configured(elsewhere["fairdial"]["environment"], tmp_path)
    assert (config.store.shown, config.switch) == ("postgresql://db.example/fairdial", "west")


def test_a_switch_that_shares_a_ledger_must_have_a_name() -> None:
    with pytest.raises(KeyError, match="SWITCH_NAME"):
        shared_services()


def test_the_commands_shown_name_what_there_is() -> None:
    sections = ("Start", "One ledger for several switches")
    shown = [command.split() for section in sections for command in commands_of("docker/README.md", section)]
    compose = [words for words in shown if words[0] == "docker"]
    assert {words[1] for words in compose} == {"compose"}
    for words in compose:
        if words[2] == "exec":
            assert words[3] in SERVICES
    [settings] = [words for words in shown if words[-1] == ">.env"]
    given = dict(word.split("=") for word in settings if "=" in word)
    assert [COMPOSE.parent / name for name in given.pop("COMPOSE_FILE").split(":")] == [COMPOSE, SHARED]
    assert [given.pop("COMPOSE_PROFILES")] == SERVICES["postgres"]["profiles"]
    assert shared_services(**given)["asterisk"]["environment"]["SWITCH_NAME"] == "east"
    for name in BUILT:
        dockerfile = SERVICES[name]["build"]["dockerfile"]
        assert (COMPOSE.parent / SERVICES[name]["build"]["context"] / dockerfile).is_file()

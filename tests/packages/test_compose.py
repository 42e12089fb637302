"""compose.yaml: read as strictly as the compose specification, and held to what docker/README.md promises."""

from pathlib import Path

import pytest
from compose_spec import PyCompose

from fairdial.config import load, with_secrets
from testbed.images import PROJECT
from tests.packages.conftest import COMPOSE, commands_of, compose_services

TEXT = COMPOSE.read_text(encoding="utf-8")
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


def test_fairdial_takes_its_settings(tmp_path: Path) -> None:
    """Each variable is a setting, and they lead to the switch with the secrets."""
    environment = dict(SERVICES["fairdial"]["environment"])
    for key, value in environment.items():
        if key.endswith("_FILE"):
            environment[key] = str(tmp_path / Path(value).name)
            (tmp_path / Path(value).name).write_text(f"of {Path(value).name}\n")
    config = with_secrets(load(PROJECT / "docker/fairdial/fairdial.toml", environment), environment)
    switch = SERVICES["asterisk"]["environment"]["SWITCH_ADDRESS"]
    assert (config.ari.url, config.ami.host) == (f"http://{switch}:8088/ari", switch)
    assert config.ari.password.get_secret_value() == "of ari-password"
    assert config.ami.secret.get_secret_value() == "of ami-secret"
    assert {volume.split(":")[1] for volume in SERVICES["fairdial"]["volumes"]} >= {
        str(config.store.path.parent),
        str(config.cdr.file.parent) if config.cdr.file else "",
    }
    assert {mount.split(":")[0] for mount in SERVICES["fairdial"]["tmpfs"]} >= {str(config.control.parent)}


def test_the_shared_ledger_is_not_started_and_says_so() -> None:
    assert [name for name, service in SERVICES.items() if service.get("profiles")] == ["postgres"]
    assert SERVICES["postgres"]["profiles"] == ["shared-ledger"]
    assert "has no ledger on PostgreSQL so far" in TEXT
    assert all("postgres" not in str(SERVICES[name]) for name in BUILT)


def test_the_commands_shown_name_what_there_is() -> None:
    shown = [command for command in commands_of("docker/README.md", "Start") if command.startswith("docker ")]
    assert {command.split()[1] for command in shown} == {"compose"}
    for command in shown:
        if command.split()[2] == "exec":
            assert command.split()[3] in SERVICES
    for name in BUILT:
        dockerfile = SERVICES[name]["build"]["dockerfile"]
        assert (COMPOSE.parent / SERVICES[name]["build"]["context"] / dockerfile).is_file()

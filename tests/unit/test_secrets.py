"""Secrets from files, environment and fairdial.toml, and the settings of TLS to the switch."""

import ssl
from collections.abc import Mapping
from pathlib import Path

import pytest

from fairdial.config import Config, ConfigError, load, with_secrets
from fairdial.tls import TlsError, ami_context, ari_context, client_context, explained


def configured(folder: Path, text: str, environment: Mapping[str, str] | None = None) -> Config:
    """That text as fairdial.toml, with nothing of the machine's own environment."""
    file = folder / "fairdial.toml"
    file.write_text(text)
    return load(file, environment or {})


def secrets(config: Config, environment: Mapping[str, str] | None = None) -> tuple[str, str]:
    opened = with_secrets(config, environment or {})
    return opened.ari.password.get_secret_value(), opened.ami.secret.get_secret_value()


def test_secrets_come_from_the_file_the_environment_or_files_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("one\n")
    (tmp_path / "secret").write_text("two words\r\n")
    files = 'ari.password_file = "password"\nami.secret_file = "secret"\n'
    assert secrets(configured(tmp_path, files)) == ("one", "two words")
    assert secrets(configured(tmp_path, 'ari.password = "one"\nami.secret = "two"\n')) == ("one", "two")
    by_environment = {"FAIRDIAL_ARI__PASSWORD": "one", "FAIRDIAL_AMI__SECRET_FILE": str(tmp_path / "secret")}
    assert secrets(configured(tmp_path, "", by_environment)) == ("one", "two words")


def test_files_are_read_when_they_are_needed_and_shown_to_nobody(tmp_path: Path) -> None:
    config = configured(tmp_path, 'ari.password_file = "none"\n')
    assert config.ari.password_file == tmp_path / "none"
    with pytest.raises(ConfigError, match=r"ari\.password_file: .*none cannot be read"):
        with_secrets(config)
    (tmp_path / "none").write_text("s3cret\n")
    assert "s3cret" not in repr(with_secrets(config))


def test_credentials_of_systemd(tmp_path: Path) -> None:
    (tmp_path / "ari").write_text("one")
    for path in ("$CREDENTIALS_DIRECTORY/ari", "${CREDENTIALS_DIRECTORY}/ari"):
        config = configured(tmp_path, f'ari.password_file = "{path}"\n')
        assert secrets(config, {"CREDENTIALS_DIRECTORY": str(tmp_path)}) == ("one", "")
        assert config.secret_files == ()
    with pytest.raises(ConfigError, match=r"CREDENTIALS_DIRECTORY is not set; .*LoadCredential=ari:"):
        with_secrets(config, {})


@pytest.mark.parametrize("content", [b"", b"\n", b"one\ntwo\n", b"one\x00", b"x" * 1025, b"\xff"])
def test_a_file_that_holds_no_secret_is_refused_without_being_shown(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "secret").write_bytes(content)
    with pytest.raises(ConfigError, match=r"ami\.secret_file: .*secret") as error:
        with_secrets(configured(tmp_path, 'ami.secret_file = "secret"\n'))
    assert "two" not in str(error.value)
    assert "xx" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "environment", "words"),
    [
        ('ari.password = "s3"\nari.password_file = "f"', {}, "ari: password and password_file are both set"),
        ('ami.secret_file = "f"', {"FAIRDIAL_AMI__SECRET": "s3"}, "ami: secret and secret_file are both set"),
        (
            'ari.ca_file = "ca.pem"',
            {},
            "ari: ca_file means nothing without TLS; set an url that begins with https",
        ),
        ("ari.check_hostname = false", {}, "ari: check_hostname means nothing without TLS"),
        ('ami.ca_file = "ca.pem"', {}, "ami: ca_file means nothing without TLS; set tls = true"),
        # What is not shown may hold a secret.
        ('[[ari]]\npassword = "s3"', {}, "ari: "),
        ('[ami]\nsecret = ["s3"]', {}, "ami.secret: "),
    ],
)
def test_settings_that_contradict_are_refused_without_showing_a_secret(
    tmp_path: Path, text: str, environment: dict[str, str], words: str
) -> None:
    with pytest.raises(ConfigError) as error:
        configured(tmp_path, text, environment)
    assert f"{tmp_path}/fairdial.toml: {words}" in str(error.value)
    assert "s3" not in str(error.value)


def test_the_files_that_hold_secrets_are_known(tmp_path: Path) -> None:
    assert configured(tmp_path, 'ari.user = "x"\n', {"FAIRDIAL_ARI__PASSWORD": "one"}).secret_files == ()
    for key in ("ari.password", "ami.secret"):
        assert configured(tmp_path, f'{key} = "one"\n').secret_files == (tmp_path / "fairdial.toml",)
    config = configured(tmp_path, 'ari.password_file = "a"\nami.secret_file = "/b"\n')
    assert config.secret_files == (tmp_path / "a", Path("/b"))


def test_tls_is_spoken_where_it_is_configured(tmp_path: Path) -> None:
    plain = configured(tmp_path, "")
    assert (ari_context(plain.ari), ami_context(plain.ami)) == (None, None)
    encrypted = configured(tmp_path, 'ari.url = "https://pbx.example:8089/ari"\nami.tls = true\n')
    for context in (ari_context(encrypted.ari), ami_context(encrypted.ami)):
        assert context is not None
        assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_another_name_is_taken_only_where_that_is_said(tmp_path: Path) -> None:
    context = ami_context(configured(tmp_path, "ami.tls = true\nami.check_hostname = false\n").ami)
    assert context is not None
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, False)


def test_a_file_of_certificates_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(TlsError, match=r"ari\.ca_file: .*ca\.pem cannot be read \(No such file"):
        client_context("ari", tmp_path / "ca.pem", check_hostname=True)
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(TlsError, match=r"ami\.ca_file: .*ca\.pem holds no certificate in PEM form"):
        client_context("ami", tmp_path / "ca.pem", check_hostname=True)


def test_what_is_not_about_tls_is_not_explained() -> None:
    assert explained(ConnectionRefusedError("no"), "ami", "manager.conf") is None
    assert explained(ssl.SSLError("what"), "ami", "manager.conf") is not None

"""Where the ledger is, as it is configured: a file, or a database of PostgreSQL."""

import re
from pathlib import Path

import pytest

from fairdial.config import Config, ConfigError, Nodes, load, with_secrets
from fairdial.serving import replaying

URL = 'switch = "east"\nstore.url = "postgresql://fairdial@db.example:5432/ledger?sslmode=require"\n'


def configured(tmp_path: Path, text: str, **environment: str) -> Config:
    (tmp_path / "fairdial.toml").write_text(text)
    return load(tmp_path / "fairdial.toml", environment)


def test_without_an_url_it_is_the_file(tmp_path: Path) -> None:
    config = configured(tmp_path, 'store.path = "ledger.sqlite"\n')
    assert (config.store.url, config.store.shown) == ("", str(tmp_path / "ledger.sqlite"))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (
            "postgresql://fairdial@db.example:5432/ledger?sslmode=require",
            "postgresql://db.example:5432/ledger",
        ),
        ("postgres:///ledger?host=/run/postgresql&user=fairdial", "postgresql:///run/postgresql/ledger"),
    ],
)
def test_a_database_is_shown_without_its_user_and_settings(tmp_path: Path, url: str, shown: str) -> None:
    assert configured(tmp_path, f'switch = "east"\nstore.url = "{url}"\n').store.shown == shown


def test_its_password_comes_from_a_file_or_the_environment(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("hunter2\n")
    by_file = with_secrets(configured(tmp_path, URL + 'store.password_file = "password"\n'), only="store")
    by_environment = configured(tmp_path, URL, FAIRDIAL_STORE__PASSWORD="hunter2")
    for config in (by_file, by_environment):
        assert config.store.password.get_secret_value() == "hunter2"
        assert "hunter2" not in repr(config)


def test_a_replay_in_another_folder_reads_the_same_password_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a configuration file a path counts from the folder in which FairDial was started."""
    monkeypatch.chdir(tmp_path)
    setting = {
        "FAIRDIAL_SWITCH": "east",
        "FAIRDIAL_STORE__URL": "postgresql://fairdial@db.example/ledger",
        "FAIRDIAL_STORE__PASSWORD_FILE": "password",
    }
    _, runner = replaying(load(None, setting))
    assert runner.environment["FAIRDIAL_STORE__PASSWORD_FILE"] == str(tmp_path / "password")
    # The folder of systemd's credentials is no relative one.
    named = "$CREDENTIALS_DIRECTORY/password"
    _, runner = replaying(load(None, setting | {"FAIRDIAL_STORE__PASSWORD_FILE": named}))
    assert "FAIRDIAL_STORE__PASSWORD_FILE" not in runner.environment


def test_other_secrets_are_not_read_for_it(tmp_path: Path) -> None:
    config = configured(tmp_path, URL + 'ari.password_file = "of-another-user"\n')
    assert with_secrets(config, only="store").store.url
    with pytest.raises(ConfigError, match="of-another-user"):
        with_secrets(config)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            URL.replace('switch = "east"\n', ""),
            "several switches can share that ledger, so each needs a name",
        ),
        (URL.replace("fairdial@", "fairdial:hunter2@"), "a password stands in `url`"),
        (URL.replace("sslmode=require", "password=hunter2"), "a password stands in `url`"),
        (URL.replace("postgresql://", "mysql://u:hunter2@"), "store.url"),
        (URL + 'store.password = "a"\nstore.password_file = "b"\n', "are both set"),
        ('store.password = "hunter2"\n', "a file has no password; set `url`"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_no_password_is_shown(
    tmp_path: Path, text: str, said: str
) -> None:
    with pytest.raises(ConfigError) as told:
        configured(tmp_path, text)
    assert said in str(told.value)
    assert "hunter2" not in str(told.value)


def test_the_records_of_other_switches_are_named_by_switch(tmp_path: Path) -> None:
    config = configured(
        tmp_path, URL + '[nodes]\nlease_s = 5\ncdr.west = "west.csv"\ncdr.north-2 = "/mnt/north.csv"\n'
    )
    assert config.nodes.lease_s == 5
    assert config.nodes.cdr == {"west": tmp_path / "west.csv", "north-2": Path("/mnt/north.csv")}


@pytest.mark.parametrize(
    "text", ["[nodes]\nlease_s = 0.5\n", "[nodes]\nsettle_after_s = -1\n", "[nodes]\nlease = 5\n"]
)
def test_a_lease_that_cannot_be_kept_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"nodes\."):
        configured(tmp_path, URL + text)


def test_the_settings_that_the_page_shows_are_taken(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "several-switches.md").read_text(encoding="utf-8")
    [shown] = re.findall(r"^```toml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    nodes = configured(tmp_path, URL + shown).nodes
    assert (nodes.lease_s, nodes.settle_after_s) == (Nodes().lease_s, Nodes().settle_after_s)
    assert nodes.cdr == {"east": Path("/mnt/east/cdr-csv/Master.csv")}

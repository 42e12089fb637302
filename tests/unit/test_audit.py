"""What `fairdial audit` finds in a pjsip.conf: each finding in a pair, with it and without.

No password, and no part of one, is in any output.
"""

import json
import shlex
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from fairdial.asterisk_conf import ConfError
from fairdial.audit import Ageing, Report, Severity, audit
from fairdial.console.cli import app
from fairdial.main import Parts
from fairdial.password_ages import AgesError, PasswordAges
from fairdial.passwords import READ_CHARACTERS, Strength, is_default, is_name, strength
from tests.mutations import mutated

PROJECT = Path(__file__).parents[2]
TODAY = date(2026, 11, 27)
STRONG, OTHER, THIRD = "9f3c2a7be41d08655a1c9be2", "Wq7.mK2x_Vb9+Rz4tLp0", "horse-7-Battery-staple-Q9"

SOUND = f"""\
[global]
type=global
[tls]
type=transport
protocol=tls
[phone](!)
type=endpoint
context=phones
transport=tls
media_encryption=sdes
accountcode=acme
[one-phone](!)
type=aor
max_contacts=1
[alice](phone)
auth=alice
aors=alice
[alice]
type=auth
username=alice
password={STRONG}
[alice](one-phone)
[bob](phone)
auth=bob-auth
aors=bob
[bob-auth]
type=auth
username=bob
password={OTHER}
[bob](one-phone)
[carrier](phone)
identify_by=ip
outbound_auth=carrier-out
[carrier-out]
type=auth
username=acme-trunk
password={THIRD}
[carrier-from]
type=identify
endpoint=carrier
match=192.0.2.7,192.0.2.8/31
"""
"""A pjsip.conf in which nothing is to be mended."""
EXTENSIONS = "[phones]\nexten => _X.,1,Gosub(fairdial,s,1(outbound,${EXTEN}))\n"
NO_AGES = Ageing(TODAY)


@pytest.fixture
def etc() -> Iterator[Path]:
    """A folder that anybody may enter, as pytest's own are not, with a dialplan that asks FairDial."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        path.chmod(0o755)
        (path / "extensions.conf").write_text(EXTENSIONS)
        yield path


def changed(old: str, new: str) -> str:
    """The sound file with one text replaced."""
    assert SOUND.count(old) == 1, (old, SOUND.count(old))
    return SOUND.replace(old, new)


def audited(etc: Path, text: str = SOUND, ageing: Ageing = NO_AGES) -> Report:
    conf = etc / "pjsip.conf"
    conf.write_text(text)
    conf.chmod(0o640)
    return audit(conf, "fairdial", ageing)


def with_password(password: str, username: str = "alice") -> str:
    """The sound file with another password, and username, of alice's."""
    return changed(f"username=alice\npassword={STRONG}", f"username={username}\npassword={password}")


@pytest.mark.clause("A5", "allowed")
def test_a_sound_file_has_no_finding(etc: Path) -> None:
    report = audited(etc)
    assert report.findings == ()
    assert [each.why.split(";")[0] for each in report.unjudged] == [
        "how old passwords are is not in the file"
    ]
    assert (report.files, report.endpoints, report.passwords, report.hashed) == (1, 3, 3, 0)


# --- passwords -----------------------------------------------------------------------------------


@pytest.mark.clause("A5", "found")
@pytest.mark.parametrize(
    ("password", "username", "words"),
    [
        ("", "alice", "there is no password"),
        ("changeme", "alice", "published"),
        ("ChangeMe", "alice", "published"),
        ("4webrEtHupHewu4", "alice", "published"),
        ("acme-home-office-7", "acme-home-office-7", "the user's name"),
        ("ALICE", "0019159bf771", "the user's name"),
        ("alice2026", "alice", "weak: about 10^6 guesses find it, score 1 of 4"),
        ("Summer2026!", "alice", "weak: about 10^7 guesses find it, score 2 of 4"),
        ("Vq8zkw3j1", "vq8zkw3j", "weak"),
        ("x" * 500, "alice", "weak"),
    ],
)
def test_a_password_that_is_easy_to_guess_is_an_error(
    etc: Path, password: str, username: str, words: str
) -> None:
    [finding] = audited(etc, with_password(password, username)).findings
    assert (finding.severity, finding.clause, finding.sections) == (Severity.ERROR, "A5", ("alice",))
    assert finding.where == f"{etc}/pjsip.conf:21"
    assert words in finding.what
    assert "openssl rand -hex 16" in finding.cure


@pytest.mark.clause("A5", "allowed")
@pytest.mark.parametrize(
    "password",
    [
        "kq7Wz2pX9m",
        "0c7d1f0b6a9e4d5283be71f60a94c3d2",  # as `openssl rand -hex 16` prints it
        "correcthorsebatterystaple",
        "пароль-из-семи-слов-91",
        f"{STRONG}{OTHER}{THIRD}" * 100,
    ],
)
def test_a_password_that_is_hard_to_guess_is_well(etc: Path, password: str) -> None:
    assert audited(etc, with_password(password)).findings == ()


def test_a_name_that_would_be_a_strong_password_of_another_is_weak_for_its_owner() -> None:
    assert not strength("Vq8zkw3j1", ["alice"]).is_weak
    assert strength("Vq8zkw3j1", ["vq8zkw3j"]).is_weak
    assert strength("1j3wkz8qV", ["phone.vq8zkw3j@example.org"]).is_weak
    assert is_name("Alice", ["alice"])
    assert not is_name("alice1", ["alice"])
    assert is_default("Secret")
    assert not is_default(STRONG)


def test_long_and_odd_passwords_can_be_judged() -> None:
    assert strength(STRONG * 100, []) == strength((STRONG * 100)[:READ_CHARACTERS], [])
    assert strength("", []) == Strength(0, 0.0)
    assert not strength(STRONG, [f"name-{number}" for number in range(10_000)]).is_weak


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300), st.lists(st.text(max_size=40), max_size=5))
def test_any_text_can_be_judged(password: str, names: list[str]) -> None:
    judged = strength(password, names)
    assert 0 <= judged.score <= 4
    assert "10^" in str(judged)


def test_a_template_hands_its_password_on_and_is_told_of_once(etc: Path) -> None:
    text = SOUND + "[weak](!)\ntype=auth\npassword=abc123\n[carol](weak)\nusername=carol\n"
    [finding] = audited(etc, text).findings
    assert (finding.sections, finding.where) == (("carol",), f"{etc}/pjsip.conf:44")


@pytest.mark.parametrize(
    "digest", ["md5_cred=43a8d9be3da524f9a59ca0593d7b1b5d", "password_digest=SHA-256:43a8"]
)
def test_a_hash_is_not_judged_and_counted(etc: Path, digest: str) -> None:
    report = audited(etc, changed(f"password={STRONG}", digest))
    assert report.findings == ()
    assert (report.passwords, report.hashed) == (2, 1)
    [hashed] = [each for each in report.unjudged if "hash" in each.why]
    assert (hashed.sections, hashed.where) == (("alice",), f"{etc}/pjsip.conf:21")


def test_a_password_beside_its_hash_is_judged(etc: Path) -> None:
    text = changed(
        f"password={STRONG}", "password=abc123\npassword_digest=MD5:43a8d9be3da524f9a59ca0593d7b1b5d"
    )
    assert "weak" in audited(etc, text).findings[0].what


def test_oauth_has_no_password(etc: Path) -> None:
    text = changed(f"password={THIRD}", "auth_type=google_oauth\nrefresh_token=x")
    report = audited(etc, text)
    assert report.findings == ()
    assert ["OAuth" in each.why for each in report.unjudged].count(True) == 1


@pytest.mark.clause("A5", "found")
@pytest.mark.parametrize(
    ("text", "first"),
    [
        (changed(OTHER, STRONG), 21),
        (
            changed(f"password={STRONG}", "md5_cred=43a8").replace(f"password={OTHER}", "md5_cred=43a8"),
            21,
        ),
    ],
)
def test_the_same_password_twice_is_a_warning_that_names_both(etc: Path, text: str, first: int) -> None:
    [finding] = audited(etc, text).findings
    assert (finding.severity, finding.clause) == (Severity.WARNING, "A5")
    assert (finding.sections, finding.where) == (("alice", "bob-auth"), f"{etc}/pjsip.conf:{first}")
    assert "2 auths have the same password: alice, bob-auth;" in finding.what


def test_no_password_is_not_the_same_password(etc: Path) -> None:
    text = changed(f"password={STRONG}", "").replace(f"password={OTHER}", "")
    assert [finding.what for finding in audited(etc, text).findings] == ["there is no password"] * 2


def test_a_file_that_all_may_read_is_a_warning_as_the_doctor_has_it(etc: Path) -> None:
    audited(etc)
    conf = etc / "pjsip.conf"
    conf.chmod(0o644)
    [finding] = audit(conf, "fairdial", NO_AGES).findings
    assert (finding.severity, finding.where, finding.clause) == (Severity.WARNING, str(conf), "A5")
    assert f"chmod 600 {conf}" in finding.cure


# --- age -----------------------------------------------------------------------------------------


def aged(etc: Path, day: date, text: str = SOUND, max_age_days: int = 365) -> list[str]:
    """The names of auths whose passwords are old on that day, with ages.json kept from the days before."""
    ages = PasswordAges.read(etc / "ages.json")
    report = audited(etc, text, Ageing(day, ages, max_age_days))
    ages.write(day)
    assert not any("--since" in each.why for each in report.unjudged)
    return [finding.sections[0] for finding in report.findings if "unchanged" in finding.what]


@pytest.mark.clause("A5", "allowed")
@pytest.mark.clause("A5", "found")
def test_a_password_is_old_the_day_after_its_year(etc: Path) -> None:
    assert aged(etc, TODAY) == []
    assert aged(etc, TODAY + timedelta(days=365)) == []
    assert aged(etc, TODAY + timedelta(days=366)) == ["alice", "bob-auth", "carrier-out"]
    assert aged(etc, TODAY + timedelta(days=366), max_age_days=366) == []
    assert aged(etc, TODAY + timedelta(days=91), max_age_days=90) == ["alice", "bob-auth", "carrier-out"]


@pytest.mark.clause("A5", "allowed")
def test_a_password_that_was_changed_is_new_and_others_are_not(etc: Path) -> None:
    aged(etc, TODAY)
    later = TODAY + timedelta(days=300)
    assert aged(etc, later, with_password("6b1e0d9c4f7a83525e")) == []
    assert aged(etc, later + timedelta(days=100), with_password("6b1e0d9c4f7a83525e")) == [
        "bob-auth",
        "carrier-out",
    ]


def test_a_hash_has_an_age_too(etc: Path) -> None:
    hashed = changed(f"password={STRONG}", "password_digest=MD5:43a8d9be3da524f9a59ca0593d7b1b5d")
    aged(etc, TODAY, hashed)
    assert "alice" in aged(etc, TODAY + timedelta(days=400), hashed)
    assert "alice" not in aged(etc, TODAY + timedelta(days=400), hashed.replace("MD5:43", "MD5:44"))


def test_how_old_is_said_in_days_with_the_place(etc: Path) -> None:
    aged(etc, TODAY)
    ages = PasswordAges.read(etc / "ages.json")
    finding = audited(etc, SOUND, Ageing(TODAY + timedelta(days=400), ages)).findings[0]
    assert (finding.severity, finding.clause) == (Severity.WARNING, "A5")
    assert finding.what == "the password is unchanged for 400 days, or longer"
    assert finding.where == f"{etc}/pjsip.conf:21"


def test_what_is_gone_for_a_while_keeps_its_day_and_is_forgotten_after_years(etc: Path) -> None:
    aged(etc, TODAY)
    gone = SOUND.partition("[bob](phone)")[0]
    aged(etc, TODAY + timedelta(days=200), gone)
    assert "bob-auth" in aged(etc, TODAY + timedelta(days=400))
    aged(etc, TODAY + timedelta(days=2_000), gone)
    assert "bob-auth" not in (etc / "ages.json").read_text()


def test_a_clock_that_was_set_back_makes_nothing_old(etc: Path) -> None:
    aged(etc, TODAY)
    assert aged(etc, TODAY - timedelta(days=4_000)) == []
    assert "alice" in aged(etc, TODAY + timedelta(days=366))


def test_the_file_of_ages_is_its_owners_and_holds_no_password(etc: Path) -> None:
    path = etc / "ages.json"
    path.write_text('{"format": 1, "credentials": {}}')
    path.chmod(0o666)
    aged(etc, TODAY)
    text = path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert [password for password in (STRONG, OTHER, THIRD) if password in text] == []
    assert [each.name for each in etc.iterdir() if "ages" in each.name] == ["ages.json"]
    # The same password at two auths is not seen in it, nor that it is that of another switch.
    aged(etc, TODAY, changed(OTHER, STRONG))
    hashes = [each["hash"] for each in json.loads(path.read_text())["credentials"].values()]
    assert len(set(hashes)) == 3


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b'{"format": 2, "credentials": {}}',
        b'{"format": 1, "credentials": {"a": {"salt": "00", "hash": "11", "since": "2026-01-01", "seen": "x"}}}',
        b"[" * 100_000,
        SOUND.encode(),
    ],
)
def test_a_file_that_is_no_file_of_ages_is_left_as_it_is(etc: Path, content: bytes) -> None:
    path = etc / "ages.json"
    path.write_bytes(content)
    with pytest.raises(
        AgesError, match=r"ages\.json: is not a file that `audit` keeps .*; name another"
    ) as error:
        PasswordAges.read(path)
    assert path.read_bytes() == content
    assert STRONG not in str(error.value)


def test_a_file_of_ages_that_cannot_be_used_is_named(etc: Path) -> None:
    with pytest.raises(AgesError, match="Is a directory; name a file"):
        PasswordAges.read(etc)
    ages = PasswordAges.read(etc / "none" / "ages.json")
    with pytest.raises(AgesError, match=r"none/ages\.json: cannot be written \(No such file"):
        ages.write(TODAY)


# --- who is let in without a password ------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "severity", "line", "section", "words", "cure"),
    [
        (
            "auth=alice\n",
            "",
            Severity.ERROR,
            15,
            "alice",
            "whoever writes this name into From",
            "give it auth=",
        ),
        ("auth=alice\n", "deny=198.51.100.0/24\n", Severity.ERROR, 15, "alice", "no auth", "give it auth="),
        ("auth=alice\n", "auth=\n", Severity.ERROR, 15, "alice", "whoever writes this name", "give it auth="),
        (
            "auth=alice\n",
            "identify_by=auth_username\n",
            Severity.ERROR,
            15,
            "alice",
            "no auth",
            "give it auth=",
        ),
        ("identify_by=ip\n", "", Severity.ERROR, 31, "carrier", "in spite of its identify", "identify_by=ip"),
        (
            "match=192.0.2.7,192.0.2.8/31",
            "match=0.0.0.0/0",
            Severity.ERROR,
            41,
            "carrier-from",
            "whoever",
            "name",
        ),
        ("match=192.0.2.7,192.0.2.8/31", "match=::/0", Severity.ERROR, 41, "carrier-from", "whoever", "name"),
        (
            "match=192.0.2.7,192.0.2.8/31",
            "match=192.0.2.7, 0.0.0.0/0.0.0.0",
            Severity.ERROR,
            41,
            "carrier-from",
            "taken for carrier",
            "name the addresses",
        ),
        (
            "endpoint=carrier\nmatch=192.0.2.7,192.0.2.8/31",
            "endpoint=alice\nmatch=0.0.0.0/0",
            Severity.WARNING,
            41,
            "carrier-from",
            "taken for alice",
            "name the addresses",
        ),
        ("[bob](phone)", "[anonymous](phone)", Severity.WARNING, 23, "anonymous", "strangers", "remove the"),
        ("accountcode=acme\n", "", Severity.WARNING, 14, "alice", "no accountcode", "accountcode=ACCOUNT"),
    ],
)
def test_who_gets_in_without_being_known_is_a_finding(
    etc: Path, old: str, new: str, severity: Severity, line: int, section: str, words: str, cure: str
) -> None:
    [finding] = audited(etc, changed(old, new)).findings
    assert (finding.severity, finding.clause, finding.sections[0]) == (severity, "A4", section)
    assert finding.where == f"{etc}/pjsip.conf:{line}"
    assert words in finding.what
    assert cure in finding.cure


@pytest.mark.parametrize(
    ("old", "new"),
    [
        # Not found by a name, and an access list before it.
        ("auth=alice\n", "identify_by=ip\n"),
        ("auth=alice\n", "acl=office\n"),
        ("auth=alice\n", "deny=0.0.0.0/0\npermit=192.0.2.0/24\n"),
        ("auth=alice\n", "[fence]\ntype=acl\nacl=office\n[alice-2](phone)\nidentify_by=ip\n"),
        ("match=192.0.2.7,192.0.2.8/31", "match_header=X-Trunk: carrier"),
        ("match=192.0.2.7,192.0.2.8/31", "match=10.0.0.0/8,sip.example.org,[2001:db8::1]:5060/128"),
        ("[global]\n", "[global]\nendpoint_identifier_order=ip,username,anonymous\n"),
        # A line that does not dial through FairDial.
        ("context=phones\n", "context=lobby\n"),
    ],
)
def test_who_is_known_or_kept_out_is_no_finding(etc: Path, old: str, new: str) -> None:
    assert audited(etc, changed(old, new)).findings == ()


def test_an_anonymous_endpoint_that_no_module_looks_for_is_no_finding(etc: Path) -> None:
    text = changed("[bob](phone)", "[anonymous](phone)")
    assert len(audited(etc, text).findings) == 1
    (etc / "modules.conf").write_text(
        "[modules]\nautoload=yes\nnoload = res_pjsip_endpoint_identifier_anonymous.so\n"
    )
    assert audited(etc, text).findings == ()


def test_accountcodes_are_asked_for_as_the_doctor_does(etc: Path) -> None:
    text = changed("accountcode=acme\n", "")
    (etc / "extensions.conf").write_text(EXTENSIONS.replace("outbound", "inbound"))
    assert audited(etc, text).findings == ()
    (etc / "extensions.conf").unlink()
    report = audited(etc, text)
    assert report.findings == ()
    assert any("no extensions.conf beside it" in each.why for each in report.unjudged)


# --- who shares, and what goes in clear ----------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "line", "sections", "words"),
    [
        ("max_contacts=1", "max_contacts=5", 14, ("alice", "bob"), "several phones can be registered"),
        (
            "auth=bob-auth",
            "auth=alice",
            21,
            ("alice",),
            "2 endpoints ask for the same credentials: alice, bob",
        ),
    ],
)
def test_shared_credentials_are_a_warning(
    etc: Path, old: str, new: str, line: int, sections: tuple[str, ...], words: str
) -> None:
    [finding] = audited(etc, changed(old, new)).findings
    assert (finding.severity, finding.clause, finding.sections) == (Severity.WARNING, "A6", sections)
    assert finding.where == f"{etc}/pjsip.conf:{line}"
    assert words in finding.what


@pytest.mark.parametrize("contacts", ["0", "1", "", "many", "9" * 5_000])
def test_one_phone_or_none_is_no_finding(etc: Path, contacts: str) -> None:
    assert audited(etc, changed("max_contacts=1", f"max_contacts={contacts}")).findings == ()


ALL = ("alice", "bob", "carrier")


@pytest.mark.parametrize(
    ("old", "new", "line", "sections", "words"),
    [
        ("protocol=tls", "protocol=udp", 9, ALL, "signalling in clear: alice, bob, carrier;"),
        ("protocol=tls\n", "", 8, ALL, "signalling in clear"),
        ("protocol=tls", "protocol=ws", 9, ALL, "signalling in clear"),
        (
            "aors=bob\n",
            "aors=bob\ntransport=udp\n[udp]\ntype=transport\n",
            26,
            ("bob",),
            "signalling in clear: bob;",
        ),
        ("media_encryption=sdes\n", "", 14, ALL, "media in clear: alice, bob, carrier"),
        ("media_encryption=sdes", "media_encryption=no", 10, ALL, "media in clear"),
        ("aors=bob\n", "aors=bob\nmedia_encryption=\n", 26, ("bob",), "media in clear: bob"),
        (
            "=sdes\n",
            "=sdes\nmedia_encryption_optimistic=yes\n",
            11,
            ALL,
            "where the phone does not ask for SRTP",
        ),
    ],
)
def test_what_goes_in_clear_is_one_warning_where_it_is_written(
    etc: Path, old: str, new: str, line: int, sections: tuple[str, ...], words: str
) -> None:
    [finding] = audited(etc, changed(old, new)).findings
    assert (finding.severity, finding.clause, finding.sections) == (Severity.WARNING, "A7", sections)
    assert finding.where == f"{etc}/pjsip.conf:{line}"
    assert words in finding.what


def test_without_a_transport_and_without_tls_all_go_in_clear(etc: Path) -> None:
    text = changed("transport=tls\n", "").replace("protocol=tls\n", "")
    [finding] = audited(etc, text).findings
    assert (finding.sections, finding.where) == (ALL, f"{etc}/pjsip.conf:13")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        # Without one of their own they may use the one that is there.
        ("transport=tls\n", ""),
        ("protocol=tls", "protocol=wss"),
        ("protocol=tls", "protocol = TLS"),
        ("media_encryption=sdes", "media_encryption=dtls"),
        ("media_encryption=sdes", "webrtc=yes"),
        ("media_encryption=sdes", "media_encryption=sdes\nmedia_encryption_optimistic=no"),
    ],
)
def test_what_is_encrypted_is_no_finding(etc: Path, old: str, new: str) -> None:
    assert audited(etc, changed(old, new)).findings == ()


# --- what is not judged --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("transport=tls\n", "transport=elsewhere\n", 15, "their transport is not defined in this file"),
        ("protocol=tls", "protocol=flow", 15, "is a flow: alice, bob, carrier"),
        (
            "[tls]",
            "#exec /usr/bin/phones --token=hunter2-hunter2\n[tls]",
            3,
            "#exec: what that program writes",
        ),
        ("[tls]", "no equals sign\n[tls]", 3, "has no ="),
        (
            "auth=bob-auth\n",
            "auth=bob-auth,elsewhere\n",
            23,
            "the auth that they name is not in this file: bob",
        ),
        ("outbound_auth=carrier-out\n", "outbound_auth=elsewhere\n", 31, "not in this file: carrier"),
    ],
)
def test_what_cannot_be_seen_is_said_and_is_no_finding(
    etc: Path, old: str, new: str, line: int, words: str
) -> None:
    report = audited(etc, changed(old, new))
    assert report.findings == ()
    [told] = [each for each in report.unjudged if words in each.why]
    assert told.where == f"{etc}/pjsip.conf:{line}"
    assert "hunter2" not in told.why


def test_neighbours_that_asterisk_would_not_read_are_said(etc: Path) -> None:
    (etc / "extensions.conf").write_text("[phones\n")
    report = audited(etc, changed("accountcode=acme\n", ""))
    assert report.findings == ()
    assert any("extensions.conf: a section's name has no end" in each.why for each in report.unjudged)


def test_included_files_are_audited_with_their_own_places(etc: Path) -> None:
    (etc / "d").mkdir()
    (etc / "d" / "carol.conf").write_text("[carol]\ntype=auth\nusername=carol\npassword=carol\n")
    report = audited(etc, SOUND + "#include d/*.conf\n#tryinclude none.conf\n")
    [finding] = [each for each in report.findings if each.severity is Severity.ERROR]
    assert (finding.where, report.files) == (f"{etc}/d/carol.conf:4", 2)


def test_a_hundred_files_are_read_and_one_more_is_not(etc: Path) -> None:
    (etc / "d").mkdir()
    for number in range(99):
        (etc / "d" / f"{number}.conf").write_text("")
    assert audited(etc, SOUND + "#include d/*.conf\n").files == 100
    (etc / "d" / "99.conf").write_text("")
    with pytest.raises(ConfError, match="more than 100 files; include fewer, larger ones"):
        audited(etc, SOUND + "#include d/*.conf\n")


# --- nothing crashes it, and no password is told -------------------------------------------------

FAULTY = f"""\
[global]
type=global
[udp]
type=transport
protocol=udp
password=tKq-5521-Xw
[phone](!)
type=endpoint
transport=udp
context=phones
[shared](!)
type=auth
password=Zr1188-Vbnm
[alice](phone)
auth=alice
#password=cQw-7712-Yt
password cQw-7712-Yt
[alice](shared)
username=alice
[bob](phone)
auth=bob
[bob](shared)
username=bob
[carol](phone)
auth=carol
[carol]
type=auth
username=carol
password=iloveyou99
password_digest=MD5:43a8d9be3da524f9a59ca0593d7b1b5d
[dave]
type=auth
username=dave
md5_cred=d0fc55d0a5ff8c3fbc1c7b4a53c6dc01
[erin]
type=auth
username=erin
password={OTHER}
[erin-again]
type=auth
username=erin
password={OTHER}
[frank](phone)
[gwen]
type=auth
username=gwen
password=changeme
[x]
type=identify
endpoint=frank
match=0.0.0.0/0
[phones]
type=aor
max_contacts=9
#exec /bin/true --password=Lp-3344-Mnb
"""
SECRETS = (
    *("tKq-5521-Xw", "Zr1188-Vbnm", "cQw-7712-Yt", "iloveyou99", OTHER, "changeme"),
    *("43a8d9be3da524f9a59ca0593d7b1b5d", "d0fc55d0a5ff8c3fbc1c7b4a53c6dc01", "Lp-3344-Mnb"),
)


def pieces(secret: str) -> set[str]:
    """Each part of it that is long enough to be no chance."""
    return {secret[at : at + 6] for at in range(len(secret) - 5)}


Run = Callable[..., Result]


@pytest.fixture
def run(etc: Path) -> Run:
    """Runs `audit` without a configuration of its own."""

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["audit", *arguments], obj=Parts(), env={"FAIRDIAL_CONFIG": None})

    return invoke


def test_no_password_and_no_part_of_one_is_in_any_output(etc: Path, run: Run) -> None:
    conf, ages = etc / "pjsip.conf", etc / "ages.json"
    conf.write_text(FAULTY)
    told = [
        run(str(conf)),
        run(str(conf), "--json", "--since", str(ages)),
        run(str(conf), "--since", str(ages)),
    ]
    assert [each.exit_code for each in told] == [1, 1, 1]
    findings = json.loads(told[1].stdout)["findings"]
    assert {finding["clause"] for finding in findings} == {"A4", "A5", "A6", "A7"}
    conf.write_text(f"{FAULTY}[broken\n")
    told.append(run(str(conf)))
    ages.write_text(FAULTY)
    told.append(run(str(conf), "--since", str(ages)))
    assert [each.exit_code for each in told[3:]] == [2, 2]
    output = "".join(each.output + each.stderr for each in told).replace("\n", "")
    for secret in SECRETS:
        assert [piece for piece in pieces(secret) if piece in output] == [], secret


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text("ЖЩЪЫЬЭЮЯ0123456789", min_size=1, max_size=90), st.booleans())
def test_whatever_the_password_is_nothing_of_it_is_told(password: str, as_json: bool) -> None:
    # Letters that are in no other output; digits in between, as zxcvbn looks for dates and sequences.
    with tempfile.TemporaryDirectory() as folder:
        conf = Path(folder) / "pjsip.conf"
        conf.write_text(FAULTY.replace("Zr1188-Vbnm", password))
        ages = Path(folder) / "ages.json"
        arguments = ["audit", str(conf), "--since", str(ages), *(["--json"] if as_json else [])]
        result = CliRunner().invoke(app, arguments, obj=Parts(), env={"FAIRDIAL_CONFIG": None})
        assert result.exit_code == 1
        output = result.output + ages.read_text()
    assert set("ЖЩЪЫЬЭЮЯ").isdisjoint(output)
    assert len(password) < 8 or password not in output


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    mutated((SOUND, FAULTY))
    | st.lists(
        st.sampled_from(
            [
                *(
                    "[a]",
                    "[a](!)",
                    "[b](a)",
                    "[a](+)",
                    "[a](+type=auth)",
                    "[a](+type=[)",
                    "[",
                    "#include x.conf",
                ),
                *(
                    "type=auth",
                    "type=endpoint",
                    "type=aor",
                    "type=identify",
                    "type=transport",
                    "type=acl",
                    "type",
                ),
                *(
                    "auth=a,,b",
                    "auth==",
                    "password=",
                    "password => \x1b[2J",
                    "password+=x",
                    "match=/0",
                    "match=a/::",
                ),
                *(
                    "max_contacts=-1",
                    "transport=a",
                    "protocol=tls",
                    "identify_by=,",
                    "endpoint=",
                    ";--",
                    "--;",
                    ";",
                ),
                *(
                    "media_encryption_optimistic=yes",
                    "webrtc=1",
                    "username=\u202e",
                    "deny=",
                    "md5_cred=x",
                    "=",
                    "#",
                ),
            ]
        )
    ).map("\n".join)
)
def test_any_text_is_audited_or_refused_with_its_place(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        conf = Path(folder) / "pjsip.conf"
        conf.write_bytes(text.encode("utf-8", "surrogatepass"))
        ages = PasswordAges.read(Path(folder) / "ages.json")
        try:
            told = [finding.where for finding in audit(conf, "fairdial", Ageing(TODAY, ages)).findings]
            ages.write(TODAY)
            PasswordAges.read(Path(folder) / "ages.json")
        except ConfError as error:
            told = [str(error)]
    assert all(where.startswith(folder) for where in told)


def test_names_steer_no_terminal(etc: Path, run: Run) -> None:
    conf = etc / "pjsip.conf"
    conf.write_text("[\x1b[2J\u202ex]\ntype=auth\nusername=x\n[bold](y\x1b)\n")
    broken = run(str(conf))
    assert (broken.exit_code, "\x1b" in broken.output, "\\x1b" in broken.output) == (2, False, True)
    conf.write_text("[\x9b2J\u202e[red]x]\ntype=auth\nusername=x\n")
    for arguments in ((), ("--json",)):
        told = run(str(conf), *arguments).output
        assert "\x9b" not in told
        assert "\u202e" not in told
        assert "x9b" in told


# --- the command ---------------------------------------------------------------------------------


def test_status_0_means_that_nothing_was_found(etc: Path, run: Run) -> None:
    audited(etc)
    since = str(etc / "ages.json")
    told = run(str(etc / "pjsip.conf"), "--since", since)
    assert (told.exit_code, told.stdout.split()[-7:]) == (0, ["1", "3", "3", "0", "0", "0", "0"])
    value = json.loads(run(str(etc / "pjsip.conf"), "--json").stdout)
    assert (value["findings"], value["looked_at"]["passwords"]) == ([], 3)
    assert [each["where"] for each in value["not_judged"]] == [f"{etc}/pjsip.conf"]


def test_status_1_means_findings_and_each_has_place_cure_and_clause(etc: Path, run: Run) -> None:
    audited(etc, with_password("alice2026"))
    conf = etc / "pjsip.conf"
    told = run(str(conf))
    assert told.exit_code == 1
    for words in ("error", f"{conf}:21", "[alice]", "score 1 of 4", "A5", "not judged"):
        assert words in told.stdout
    value: dict[str, Any] = json.loads(run(str(conf), "--json").stdout)
    [finding] = value["findings"]
    assert (finding["severity"], finding["where"], finding["sections"]) == ("error", f"{conf}:21", ["alice"])
    assert (finding["clause"], value["looked_at"]["errors"]) == ("A5", 1)
    assert finding["cure"]


def test_warnings_alone_are_findings_too_and_errors_come_first(etc: Path, run: Run) -> None:
    audited(etc, changed("max_contacts=1", "max_contacts=2"))
    assert run(str(etc / "pjsip.conf")).exit_code == 1
    audited(etc, changed("auth=alice\n", "").replace("max_contacts=1", "max_contacts=2"))
    findings = json.loads(run(str(etc / "pjsip.conf"), "--json").stdout)["findings"]
    assert [finding["severity"] for finding in findings] == ["error", "warning"]


def test_days_are_counted_from_the_file_of_ages(etc: Path, run: Run) -> None:
    audited(etc)
    ages, conf = etc / "ages.json", str(etc / "pjsip.conf")
    assert run(conf, "--since", str(ages)).exit_code == 0
    long_ago = datetime.now(UTC).date() - timedelta(days=100)
    document = json.loads(ages.read_text())
    for each in document["credentials"].values():
        each["since"] = str(long_ago)
    ages.write_text(json.dumps(document))
    assert run(conf, "--since", str(ages)).exit_code == 0
    old = run(conf, "--since", str(ages), "--max-age-days", "90", "--json")
    assert old.exit_code == 1
    assert {finding["what"] for finding in json.loads(old.stdout)["findings"]} == {
        "the password is unchanged for 100 days, or longer"
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("{etc}/none.conf",), "none.conf: cannot be read (No such file or directory); name the switch's"),
        (("{etc}",), "cannot be read (Is a directory); name the switch's pjsip.conf, and run this as"),
        (("{etc}/loop.conf",), "loop.conf: cannot be read (Too many levels of symbolic links)"),
        (("{etc}/broken.conf",), "broken.conf:1: a section's name has no end; write it as [name]"),
        (("{etc}/itself.conf",), "itself.conf:2: "),
        (("{etc}/pjsip.conf", "--since", "{etc}/none/ages.json"), "none/ages.json: cannot be written"),
        (("{etc}/pjsip.conf", "--since", "{etc}/pjsip.conf"), "pjsip.conf: is not a file that `audit` keeps"),
        (("{etc}/pjsip.conf", "--max-age-days", "0"), "Invalid value"),
        ((), "Missing argument"),
    ],
)
def test_status_2_says_what_is_wrong_and_how_to_mend_it(
    etc: Path, run: Run, arguments: tuple[str, ...], words: str
) -> None:
    audited(etc)
    (etc / "broken.conf").write_text("[broken\n")
    (etc / "itself.conf").write_text("[a]\n#include itself.conf\n")
    (etc / "loop.conf").symlink_to(etc / "loop.conf")
    refused = run(*(argument.format(etc=etc) for argument in arguments))
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert words in refused.stderr


def test_the_commands_of_the_page_work_as_shown(etc: Path, run: Run) -> None:
    audited(etc)
    page = (PROJECT / "docs" / "audit.md").read_text()
    shown = [line[2:] for line in page.splitlines() if line.startswith("# fairdial ")]
    assert len(shown) == 2
    for command in shown:
        program, name, *arguments = shlex.split(command)
        assert (program, name) == ("fairdial", "audit")
        places = {"/etc/asterisk": str(etc), "/var/lib/fairdial": str(etc)}
        for place, here in places.items():
            arguments = [argument.replace(place, here) for argument in arguments]
        result = run(*arguments)
        assert result.exit_code == 0, result.output

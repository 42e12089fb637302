"""What the doctor finds in a switch's files: each risk in a pair, with it and without."""

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fairdial.doctor import Finding, Severity
from fairdial.hardening import NEEDED_MODULES, USEFUL_MODULES, examine_files, exposed_secrets
from fairdial.switch_files import Needs

MODULES = "".join(f"load = {name}.so\n" for name in (*NEEDED_MODULES, *USEFUL_MODULES))
SOUND = {
    "asterisk.conf": "[options]\nlive_dangerously = no\n",
    "modules.conf": "[modules]\nautoload=yes\nnoload = chan_sip.so\n",
    "http.conf": "[general]\nenabled=yes\nbindaddr=127.0.0.1\nbindport=8088\n",
    "ari.conf": "[general]\nenabled=yes\n[fairdial]\ntype=user\nread_only=no\npassword=p\n",
    "manager.conf": (
        "[general]\nenabled=yes\nbindaddr=127.0.0.1\n[fairdial]\nsecret=s\nread=cdr\nwrite=call,reporting\n"
        "deny=0.0.0.0/0.0.0.0\npermit=127.0.0.1/255.255.255.255\n"
    ),
    "pjsip.conf": (
        "[phone](!)\ntype=endpoint\ncontext=phones\n[alice](phone)\naccountcode=acme\n"
        "[carrier]\ntype=endpoint\ncontext=from-carrier\n"
    ),
    "extensions.conf": (
        "[phones]\ninclude => out\n[out]\nexten => _X.,1,Gosub(fairdial,s,1(outbound,${EXTEN}))\n"
        "[from-carrier]\nexten => _X.,1,Gosub(fairdial,s,1(inbound,${EXTEN}))\n"
    ),
    "cdr.conf": "[csv]\nloguniqueid=yes\n",
}
"""A switch on which nothing is to be mended."""


@pytest.fixture
def etc() -> Iterator[Path]:
    """A folder that anybody may enter, as pytest's own are not."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        path.chmod(0o755)
        yield path


def examined(etc: Path, needs: Needs | None = None, /, **changed: tuple[str, str]) -> list[Finding]:
    """The findings on the sound switch, with one text replaced in each file that is named (`http`: http.conf)."""
    for name, text in SOUND.items():
        old, new = changed.get(name.removesuffix(".conf"), ("", ""))
        assert text.count(old) == 1 or not old, (name, old)
        (etc / name).write_text(text.replace(old, new) if old else text)
        (etc / name).chmod(0o640)
    return examine_files(etc, needs or Needs(cdr_file=True))


def test_a_sound_switch_is_well(etc: Path) -> None:
    [finding] = examined(etc)
    assert (finding.severity, finding.cure) == (Severity.OK, "")
    assert str(etc) in finding.text


RISKS = [
    ("asterisk", "live_dangerously = no", "live_dangerously = yes", 2, "SHELL()", "live_dangerously = no"),
    ("http", "bindaddr=127.0.0.1", "bindaddr=0.0.0.0", 3, "in clear on 0.0.0.0", "bindaddr=127.0.0.1"),
    ("http", "bindaddr=127.0.0.1", "bindaddr=[::]", 3, "in clear on [::]", "tlsenable=yes"),
    (
        "http",
        "bindaddr=127.0.0.1",
        "bindaddr=pbx.example",
        3,
        "in clear on pbx.example",
        "bindaddr=127.0.0.1",
    ),
    ("http", "bindport=8088", "sessionlimit=5", 4, "without an answer", "leave it out (100)"),
    ("ari", "enabled=yes", "websocket_write_timeout=10", 2, "costs the event socket", "leave it out (100)"),
    ("ari", "enabled=yes", "websocket_write_timeout=60000", 2, "holds up the switch", "100 to 1000"),
    ("ari", "enabled=yes", "allowed_origins=*", 2, "a page of any site", "leave allowed_origins out"),
    (
        "ari",
        "[fairdial]\n",
        "[out]\ntype=outbound_websocket\napps=other, fairdial\nsubscribe_all=yes\n[fairdial]\n",
        6,
        "asterisk#2170",
        "subscribe_all=no",
    ),
    ("manager", "write=call,reporting", "write=all", 7, "a shell", "set write=call,reporting"),
    ("manager", "write=call,reporting", "write=call,reporting,originate", 7, "originate", "write=call,rep"),
    ("manager", "write=call,reporting", "write=call,reporting,user", 7, "never uses: user", "write=call,rep"),
    ("manager", "write=call,reporting", "write=call", 7, "lacks write=reporting", "write=call,reporting"),
    ("manager", "read=cdr", "read=system,call,cdr", 6, "never uses: call, system", "set read=cdr,security"),
    ("manager", "deny=0.0.0.0/0.0.0.0\n", "", 4, "from any address", "permit=127.0.0.1"),
    ("manager", "bindaddr=127.0.0.1\n", "", 2, "in clear on all addresses", "ami.tls = true"),
    ("manager", "bindaddr=127.0.0.1", "bindaddr=192.0.2.1", 3, "in clear on 192.0.2.1", "bindaddr=127.0.0.1"),
    ("manager", "enabled=yes", "enabled=yes\nwebenabled=yes", 3, "over HTTP", "webenabled=no"),
    ("pjsip", "[carrier]", "[anonymous]", 6, "calls of strangers are taken, into [from-carrier]", "remove"),
    ("pjsip", "[carrier]", "[anonymous@example.org]", 6, "calls of strangers", "remove"),
    # What the order leaves out is looked at last, not left out.
    (
        "pjsip",
        "[carrier]",
        "[global]\ntype=global\nendpoint_identifier_order=ip,username\n[anonymous]",
        9,
        "calls of strangers",
        "remove",
    ),
    ("pjsip", "accountcode=acme\n", "", 4, "no accountcode, though they dial", "accountcode=ACCOUNT"),
    ("cdr", "loguniqueid=yes", "loguniqueid=no", 2, "proves nothing", "loguniqueid=yes"),
    (
        "modules",
        "chan_sip.so",
        "func_db",
        3,
        "func_db is not loaded: dialplan/samples",
        "take the noload line",
    ),
    ("modules", "chan_sip.so", "cdr_csv.so", 3, "cdr_csv is not loaded", "take the noload line"),
    ("pjsip", "[carrier]", "#exec /bin/true\n[carrier]", 6, "/bin/true", "look yourself"),
]


@pytest.mark.parametrize(("file", "sound", "risky", "line", "words", "cure"), RISKS)
def test_a_risk_is_a_warning_with_place_and_cure(
    etc: Path, file: str, sound: str, risky: str, line: int, words: str, cure: str
) -> None:
    [finding] = examined(etc, **{file: (sound, risky)})
    assert finding.severity is Severity.WARNING
    assert (finding.part, finding.where) == (f"{file}.conf", f"{etc}/{file}.conf:{line}")
    assert words in finding.text
    assert cure in finding.cure


@pytest.mark.parametrize(
    ("file", "sound", "broken", "line", "words", "cure"),
    [
        ("ari", "read_only=no", "read_only=yes", 5, "may only look", "read_only=no"),
        ("manager", "write=call,reporting", "write=reporting", 7, "lacks write=call", "write=call,reporting"),
        ("manager", "write=call,reporting\n", "", 4, "lacks write=call", "write=call,reporting"),
        (
            "modules",
            "chan_sip.so",
            "app_stasis.so",
            3,
            "app_stasis is not loaded",
            "take the noload line away",
        ),
        ("modules", "chan_sip.so", "res_http_websocket", 3, "res_http_websocket is not", "take the noload"),
        ("http", "bindport", "[", 4, "a section's name has no end", "write it as [name]"),
    ],
)
def test_what_keeps_fairdial_from_working_is_a_failure(
    etc: Path, file: str, sound: str, broken: str, line: int, words: str, cure: str
) -> None:
    finding = examined(etc, **{file: (sound, broken)})[0]
    assert finding.severity is Severity.FAILURE
    assert finding.where == f"{etc}/{file}.conf:{line}"
    assert words in finding.text
    assert cure in finding.cure


@pytest.mark.parametrize(
    ("file", "sound", "as_sound"),
    [
        ("asterisk", "live_dangerously = no\n", ""),
        ("http", "bindaddr=127.0.0.1", "bindaddr=::1"),
        # Asterisk then does not listen in clear at all.
        ("http", "bindaddr=127.0.0.1\n", "tlsenable=yes\ntlsbindaddr=0.0.0.0:8089\n"),
        ("http", "enabled=yes\nbindaddr=127.0.0.1", "enabled=no\nbindaddr=0.0.0.0"),
        ("http", "bindport=8088", "sessionlimit=20"),
        ("ari", "enabled=yes", "websocket_write_timeout=500"),
        ("ari", "read_only=no\n", ""),
        (
            "ari",
            "[fairdial]\n",
            "[out]\ntype=outbound_websocket\napps=other\nsubscribe_all=yes\n[other]\ntype=user\nread_only=yes\n[fairdial]\n",
        ),
        ("manager", "enabled=yes\nbindaddr=127.0.0.1", "enabled=no"),
        ("manager", "read=cdr\n", ""),
        ("manager", "deny=0.0.0.0/0.0.0.0\npermit=127.0.0.1/255.255.255.255\n", "acl=fairdial\n"),
        ("manager", "[fairdial]\n", "[other]\nsecret=x\nwrite=all\n[fairdial]\n"),
        # A phone that does not dial through FairDial, and one whose template has the account.
        ("pjsip", "context=phones\n[alice](phone)\naccountcode=acme", "context=lobby\n[alice](phone)"),
        (
            "pjsip",
            "context=phones\n[alice](phone)\naccountcode=acme",
            "context=phones\naccountcode=acme\n[alice](phone)",
        ),
        ("modules", "autoload=yes\n", f"autoload=no\n{MODULES}load=cdr_csv.so\n"),
    ],
)
def test_what_is_no_risk_is_not_warned_of(etc: Path, file: str, sound: str, as_sound: str) -> None:
    assert [finding.severity for finding in examined(etc, **{file: (sound, as_sound)})] == [Severity.OK]


def test_without_autoload_each_module_must_be_named(etc: Path) -> None:
    findings = examined(
        etc, modules=("autoload=yes\n", f"autoload=no\n{MODULES}".replace("load = app_dial.so\n", ""))
    )
    assert [(finding.severity, finding.cure) for finding in findings] == [
        (Severity.FAILURE, "add load = app_dial.so"),
        (Severity.WARNING, "add load = cdr_csv.so"),
    ]


def test_asterisk_loads_nothing_by_itself_unless_told_to(etc: Path) -> None:
    findings = examined(etc, modules=("autoload=yes\n", ""))
    assert {finding.text.split()[0] for finding in findings} == {*NEEDED_MODULES, *USEFUL_MODULES, "cdr_csv"}


def test_records_that_nobody_reads_need_no_id(etc: Path) -> None:
    assert examined(etc, Needs(cdr_file=False), cdr=("loguniqueid=yes", ""))[0].well


def test_where_logins_are_watched_the_switch_must_tell_of_them(etc: Path) -> None:
    watching = Needs(cdr_file=True, logins=True)
    [finding] = examined(etc, watching)
    assert (finding.severity, finding.text) == (
        Severity.WARNING,
        "[fairdial] lacks read=security: logins are not watched (A5, A6)",
    )
    assert examined(etc, watching, manager=("read=cdr", "read=cdr,security"))[0].well
    assert examined(etc)[0].well


def test_the_users_are_those_of_the_configuration(etc: Path) -> None:
    changed = {"ari": ("read_only=no", "read_only=yes"), "manager": ("write=call,reporting", "write=all")}
    assert len(examined(etc, Needs(), **changed)) == 2
    assert examined(etc, Needs(ari_user="gate", ami_user="gate"), **changed)[0].well


@pytest.mark.parametrize(("text", "warned"), [("", True), ("allowguest=yes", True), ("allowguest=no", False)])
def test_guests_of_the_old_channel_driver(etc: Path, text: str, warned: bool) -> None:
    (etc / "sip.conf").write_text(f"[general]\n{text}\n")
    [finding] = examined(etc)
    assert (finding.part == "sip.conf") is warned
    assert ("strangers" in finding.text) is warned


@pytest.mark.parametrize("name", ["manager.conf", "ari.conf", "pjsip.conf"])
def test_secrets_that_all_may_read_are_warned_of(etc: Path, name: str) -> None:
    secret = "[x]\ntype=auth\npassword=p\n"
    (etc / "included.conf").write_text(secret)
    (etc / "included.conf").chmod(0o640)
    changed = {"pjsip": ("[carrier]", "#include included.conf\n[carrier]")}
    examined(etc, **changed)
    path = etc / ("included.conf" if name == "pjsip.conf" else name)
    path.chmod(0o644)
    [finding] = examine_files(etc, Needs())
    assert (finding.severity, finding.part, finding.where) == (Severity.WARNING, name, str(path))
    assert f"chmod 600 {path}" in finding.cure
    path.chmod(0o660)
    assert examine_files(etc, Needs())[0].well


def test_an_anonymous_endpoint_is_closed_without_the_module_that_finds_it(etc: Path) -> None:
    anonymous = ("[carrier]", "[anonymous]")
    assert "strangers" in examined(etc, pjsip=anonymous)[0].text
    noload = ("chan_sip.so", "chan_sip.so\nnoload = res_pjsip_endpoint_identifier_anonymous.so")
    assert examined(etc, pjsip=anonymous, modules=noload)[0].well


def test_files_without_a_secret_may_be_read_by_all(etc: Path) -> None:
    examined(etc)
    for name in ("pjsip.conf", "http.conf", "extensions.conf"):
        (etc / name).chmod(0o644)
    assert examine_files(etc, Needs())[0].well


def test_a_secret_of_ours_that_all_may_read(etc: Path) -> None:
    path = etc / "secret"
    path.write_text("s")
    path.chmod(0o604)
    [finding] = exposed_secrets([path, etc / "none"])
    assert (finding.part, finding.severity, finding.where) == ("secrets", Severity.WARNING, str(path))
    path.chmod(0o640)
    assert exposed_secrets([path]) == []


def test_a_folder_that_is_closed_closes_what_lies_in_it(etc: Path) -> None:
    path = etc / "secret"
    path.write_text("s")
    path.chmod(0o644)
    etc.chmod(0o750)
    assert exposed_secrets([path]) == []


def test_a_folder_that_is_not_there_is_one_finding(etc: Path) -> None:
    [finding] = examine_files(etc / "none", Needs())
    assert finding.severity is Severity.WARNING
    assert (finding.where, "No such file" in finding.text) == (str(etc / "none"), True)
    assert "--asterisk-etc" in finding.cure


def test_failures_come_first_and_files_that_are_not_there_are_none(etc: Path) -> None:
    findings = examined(etc, asterisk=("= no", "= yes"), ari=("read_only=no", "read_only=yes"))
    assert [finding.severity for finding in findings] == [Severity.FAILURE, Severity.WARNING]
    for name in SOUND:
        (etc / name).unlink()
    assert examine_files(etc, Needs())[0].well


@pytest.mark.parametrize(
    ("extensions", "asked"),
    [
        (
            "[phones]\nexten => _X.,1,Goto(out,${EXTEN},1)\n[out]\nexten => _X.,1,Gosub(fairdial,s,1(outbound,1))\n",
            True,
        ),
        ("[phones]\nexten => s,1,AGI(agi://127.0.0.1/authorise?kind=internal&number=1)\n", True),
        ("[phones]\nexten => s,1,Stasis(fairdial,room,1)\n", True),
        ("[phones]\nexten => s,1,Stasis(other,room,1)\n", False),
        ('[phones]\nexten => s,1,Stasis(${IF($["${FAIRDIAL_APP}" = ""]?fairdial:x)},room,1)\n', True),
        (
            "[phones]\nexten => s,1,Gosub(fairdial,s,1(inbound,1))\n[fairdial]\nexten => s,1,Stasis(fairdial,x)\n",
            False,
        ),
        ("[phones]\ninclude => loop\n[loop]\ninclude => phones\n", False),
        ("[phones]\nexten => s,1,Dial(PJSIP/bob)\n", False),
    ],
)
def test_an_endpoint_needs_an_account_where_its_dials_reach_fairdial(
    etc: Path, extensions: str, asked: bool
) -> None:
    examined(etc, pjsip=("accountcode=acme\n", ""))
    (etc / "extensions.conf").write_text(extensions)
    findings = examine_files(etc, Needs())
    assert [finding.part for finding in findings] == (["pjsip.conf"] if asked else ["switch files"])
    assert ("alice" in findings[0].text) is asked


def test_what_the_page_shows_is_well(etc: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "hardening.md").read_text()
    shown = re.findall(r"^```ini\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    for name, text in zip(("manager.conf", "ari.conf", "http.conf"), shown, strict=False):
        (etc / name).write_text(text)
        (etc / name).chmod(0o640)
    assert [finding.text for finding in examine_files(etc, Needs()) if not finding.well] == []
    [manager, web] = [(etc / name).read_text() for name in ("manager.conf", "http.conf")]
    assert ("write=call,reporting" in manager, "bindaddr=127.0.0.1" in web) == (True, True)


def test_many_endpoints_are_one_finding(etc: Path) -> None:
    phones = "".join(f"[p{number}](phone)\n" for number in range(8))
    [finding] = examined(etc, pjsip=("[carrier]", f"{phones}[carrier]"))
    assert "p0, p1, p2, p3, p4 and 3 more;" in finding.text


def test_messages_that_go_through_fairdial_are_each_lines_own(etc: Path) -> None:
    own = "message_context=messages-alice\n"
    assert [finding.severity for finding in examined(etc, pjsip=("acme\n", f"acme\n{own}"))] == [Severity.OK]
    [finding] = examined(etc, pjsip=("acme\n", "acme\nmessage_context=messages-bob\n"))
    assert "taken for those of line 'bob'" in finding.text
    assert "message_context=messages-alice" in finding.cure


def test_messages_that_run_through_the_dialplan_of_calls_are_told_where_others_do_not(etc: Path) -> None:
    two = "acme\nmessage_context=messages-alice\n[bob](phone)\naccountcode=acme\n"
    [finding] = examined(etc, pjsip=("acme\n", two))
    assert finding.text.startswith("no message_context")
    assert "bob" in finding.text
    assert "alice" not in finding.text

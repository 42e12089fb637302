"""What `fairdial init` plans and writes, on folders of files as people have them; a script answers for the switch.

tests/switch/test_first_steps.py does the same on a real switch.
"""

import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from agi_app.probe import clocks_agree
from fairdial import shipped
from fairdial.config import ConfigError, load, with_secrets
from fairdial.console import cli_init, session
from fairdial.console.cli import app
from fairdial.doctor import Ailment
from fairdial.file_changes import ChangeFailed, FileChange, Folder, carry_out, difference
from fairdial.first_steps import CannotBegin, Preparation, Wishes, local_zone, prepare
from fairdial.hardening import NEEDED_MODULES
from fairdial.main import Parts
from fairdial.switch_cli import SwitchCli, SwitchSilent
from tests.samples import NOON_MS, SetClock

PLAIN = {
    "http.conf": "[general]\n;enabled=yes\n",
    "ari.conf": "[general]\nenabled = yes\n",
    "manager.conf": "[general]\nenabled = yes\nbindaddr = 127.0.0.1\nport = 5039\n",
    "modules.conf": "[modules]\nautoload=yes\n",
    "cdr.conf": "[general]\n[csv]\nusegmtime=yes\n",
    "extensions.conf": "[phones]\nexten => _0X.,1,Dial(PJSIP/${EXTEN}@carrier)\n[old]\nexten => 1,1,Dial(PJSIP/1)",
    "pjsip.conf": "[alice]\ntype=endpoint\ncontext=phones\n",
}
FREEPBX = {
    **PLAIN,
    "extensions.conf": "#include extensions_additional.conf\n#include extensions_custom.conf\n[from-internal]\n",
    "extensions_additional.conf": "[outrt-1]\n",
    "extensions_custom.conf": "[from-internal-custom]\nexten => 1234,1,NoOp()\n",
    "http.conf": "#include http_additional.conf\n#include http_custom.conf\n",
    "http_additional.conf": "[general]\nenabled=yes\nbindaddr=127.0.0.1\nbindport=8088\nprefix=x\n",
    "http_custom.conf": "",
    "ari.conf": "[general]\n#include ari_general_additional.conf\n#include ari_additional_custom.conf\n",
    "ari_general_additional.conf": "enabled=yes\n",
    "ari_additional_custom.conf": "",
    "manager.conf": "[general]\nenabled=yes\nport=5038\nbindaddr=0.0.0.0\n#include manager_custom.conf\n",
    "manager_custom.conf": "",
}


class Machine:
    """A folder of the switch's files, one for FairDial, and a program `asterisk` that says where the first is."""

    def __init__(self, folder: Path) -> None:
        self.etc, self.config = folder / "etc", folder / "ours" / "fairdial.toml"
        self._program = folder / "asterisk"
        self.etc.mkdir()
        self.is_version("22.10.1")

    def is_version(self, version: str) -> None:
        fields = f"  Version:  {version}\n  Configuration directory:  {self.etc}\n  Log directory:  /var/log/asterisk\n"
        self._program.write_text(f"#!/bin/sh\ncat <<'END'\n{fields}END\n")
        self._program.chmod(0o755)

    def has(self, files: Mapping[str, str]) -> None:
        for name, text in files.items():
            (self.etc / name).write_text(text)

    def prepare(self, policy: str | None = None) -> Preparation:
        return prepare(Wishes(self.config, policy=policy), SwitchCli(str(self._program)))

    def files(self) -> dict[str, str]:
        folder = self.etc.parent
        return {
            str(each.relative_to(folder)): each.read_text() for each in folder.rglob("*") if each.is_file()
        }


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    made.has(PLAIN)
    return made


def test_files_of_ours_are_included_and_theirs_are_kept(machine: Machine) -> None:
    machine.prepare().write()
    assert (
        (machine.etc / "http_fairdial.conf")
        .read_text()
        .endswith("[general](+)\nenabled=yes\nbindaddr=127.0.0.1\n")
    )
    for name in ("http.conf", "ari.conf", "manager.conf", "cdr.conf"):
        assert (machine.etc / name).read_text() == f"{PLAIN[name]}#tryinclude {name[:-5]}_fairdial.conf\n"
        assert (machine.etc / f"{name}.before-fairdial").read_text() == PLAIN[name]
    # The last line had no end.
    assert (
        machine.etc / "extensions.conf"
    ).read_text() == f"{PLAIN['extensions.conf']}\n#tryinclude fairdial.conf\n"
    assert not (machine.etc / "modules_fairdial.conf").exists()
    config = with_secrets(load(machine.config, {}), {})
    assert (config.ari.url, config.ami.port) == ("http://127.0.0.1:8088/ari", 5039)
    assert config.cdr.file == Path("/var/log/asterisk/cdr-csv/Master.csv")
    secret = config.ari.password.get_secret_value()
    assert f"password={secret}\n" in (machine.etc / "ari_fairdial.conf").read_text()


def test_a_second_time_there_is_nothing_to_do(machine: Machine) -> None:
    machine.prepare().write()
    done = machine.files()
    again = machine.prepare()
    assert (again.changes, again.obstacles) == ([], [])
    again.write()
    assert machine.files() == done


def test_the_lines_that_a_phone_reaches_and_that_do_not_ask_are_told(machine: Machine) -> None:
    [told] = machine.prepare().plan.dials
    assert told.endswith("extensions.conf:2: exten => _0X.,1,Dial(PJSIP/${EXTEN}@carrier)")
    asking = PLAIN["extensions.conf"].replace(
        "Dial(PJSIP/${EXTEN}", "Gosub(fairdial,s,1(outbound,1))\n same => n,Dial(x"
    )
    machine.has({"extensions.conf": asking})
    assert machine.prepare().plan.dials == []


def test_freepbx_keeps_its_own_files_and_gets_the_includes_where_they_stay(machine: Machine) -> None:
    machine.has(FREEPBX)
    prepared = machine.prepare()
    assert prepared.plan.freepbx
    assert prepared.plan.ari_url == "http://127.0.0.1:8088/x/ari"
    changed = {change.path.name for change in prepared.plan.changes if change.before is not None}
    assert changed == {
        "extensions_custom.conf",
        "ari_additional_custom.conf",
        "manager_custom.conf",
        "cdr.conf",
    }
    machine.has({"http_additional.conf": "[general]\nenabled=no\n"})
    [obstacle] = machine.prepare().obstacles
    assert "fwconsole setting HTTPENABLED 1" in obstacle.cure


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("http.conf", "[general]\nenabled=no\n", "http.conf:2: enabled=no; change it to yes"),
        ("ari.conf", "[general]\nenabled=no\n", "ari.conf:2: enabled=no; change it to yes"),
        ("manager.conf", "[general]\nenabled=no\nbindaddr=127.0.0.1\n", "manager.conf:2: enabled=no"),
        ("ari.conf", "[fairdial]\ntype=user\nread_only=yes\npassword=x\n", "may only look; set read_only=no"),
        (
            "manager.conf",
            "[fairdial]\nsecret=x\nwrite=reporting\n",
            "lacks write=call; set write=call,reporting",
        ),
        (
            "ari.conf",
            "[fairdial]\ntype=user\npassword=$6$x\npassword_format=crypt\n",
            "has no secret that can be read",
        ),
        (
            "modules.conf",
            "[modules]\nautoload=yes\nnoload=app_stasis.so\n",
            "modules.conf:3: app_stasis is kept out",
        ),
        ("http.conf", "[general\n", "http.conf:1"),
        ("fairdial.conf", "[fairdial]\nexten => s,1,Return()\n", "somebody changed it"),
    ],
)
def test_what_says_the_contrary_is_in_the_way(machine: Machine, name: str, text: str, words: str) -> None:
    machine.has({name: text})
    prepared = machine.prepare()
    assert [each for each in prepared.obstacles if words in str(each)], prepared.obstacles


def test_a_user_that_is_there_keeps_its_secret(machine: Machine) -> None:
    machine.has({"ari.conf": "[fairdial]\ntype=user\nread_only=no\npassword=theirs\n"})
    machine.prepare().write()
    assert machine.config.with_name("ari-password").read_text() == "theirs\n"
    machine.config.with_name("ari-password").write_text("other\n")
    [obstacle] = machine.prepare().obstacles
    assert "has another secret than fairdial.toml" in obstacle.text
    machine.config.write_text("")
    with pytest.raises(ConfigError, match=r"ari\.password is missing"):
        machine.prepare()


def test_settings_that_a_package_brought_are_used_as_they_are(machine: Machine) -> None:
    ours = machine.config.parent
    (ours / "policies").mkdir(parents=True)
    for name in shipped.policy_names():
        (ours / "policies" / f"{name}.toml").write_text(
            (shipped.folder("policies") / f"{name}.toml").read_text()
        )
    machine.config.write_text(
        'policies = "policies"\nari.password_file = "p"\nami.secret_file = "s"\nami.port = 5038\n'
    )
    (ours / "p").write_text("packaged\n")
    (ours / "s").write_text("packaged too\n")
    prepared = machine.prepare()
    assert (prepared.own, prepared.policy) == ([], "redconnect")
    assert any("ami.port is 5038, and not 5039" in note for note in prepared.plan.notes)
    assert any("with /var/log/asterisk/cdr-csv/Master.csv there" in note for note in prepared.plan.notes)
    assert [change for change in prepared.plan.changes if "password=packaged\n" in change.after]


def test_modules_that_are_missing_are_loaded_by_name(machine: Machine) -> None:
    loaded = [name for name in NEEDED_MODULES if name != "app_stasis"]
    machine.has(
        {"modules.conf": "[modules]\nautoload=no\n" + "".join(f"load={name}.so\n" for name in loaded)}
    )
    prepared = machine.prepare()
    assert prepared.reloads[:2] == ["module load app_stasis.so", "module load cdr_csv.so"]
    prepared.write()
    added = (machine.etc / "modules_fairdial.conf").read_text()
    assert added.endswith("[modules](+)\nload = app_stasis.so\nload = cdr_csv.so\n")
    assert machine.prepare().changes == []


def test_an_older_dialplan_is_replaced_and_kept(machine: Machine) -> None:
    machine.prepare().write()
    older = shipped.dialplan_text().replace("patience", "delay")
    older = older.replace(shipped.mark_in(older), shipped.mark_of(older))
    (machine.etc / "fairdial.conf").write_text(older)
    machine.prepare().write()
    assert (machine.etc / "fairdial.conf").read_text() == shipped.dialplan_text()
    assert (machine.etc / "fairdial.conf.before-fairdial").read_text() == older


@pytest.mark.parametrize(
    ("version", "usable"), [("20.13.0", False), ("22.3.1", False), ("22.4.0", True), ("23.1.0", True)]
)
def test_an_asterisk_that_is_too_old_is_refused(machine: Machine, version: str, usable: bool) -> None:
    machine.is_version(version)
    if usable:
        assert machine.prepare().version == version
        return
    with pytest.raises(CannotBegin, match=r"too old.*use Asterisk 20\.14"):
        machine.prepare()


def test_without_a_switch_the_folder_must_be_named(machine: Machine) -> None:
    silent = SwitchCli("/nowhere/asterisk")
    with pytest.raises(CannotBegin, match="--asterisk-etc"):
        prepare(Wishes(machine.config), silent)
    assert prepare(Wishes(machine.config, etc=machine.etc), silent).etc == machine.etc
    with pytest.raises(CannotBegin, match="no such policy; choose acceptable-use"):
        machine.prepare("gold")


def test_what_the_switch_could_not_do_is_told(tmp_path: Path) -> None:
    program = tmp_path / "asterisk"
    program.write_text("#!/bin/sh\necho \"No such command 'x'\"\n")
    program.chmod(0o755)
    with pytest.raises(SwitchSilent, match="No such command"):
        SwitchCli(str(program)).carry_out("x")
    program.write_text("#!/bin/sh\necho Unable to connect >&2\nexit 1\n")
    with pytest.raises(SwitchSilent, match="start Asterisk, and run this as root"):
        SwitchCli(str(program)).ask("x")


def test_the_dialplan_names_itself_by_its_text() -> None:
    text = shipped.dialplan_text()
    assert shipped.mark_in(text) == shipped.mark_of(text), (
        f"write {shipped.mark_of(text)} into dialplan/fairdial.conf"
    )
    assert shipped.is_unchanged(text)
    assert not shipped.is_unchanged(text.replace("Hangup", "Busy"))
    assert not shipped.is_unchanged("[fairdial]\n")


def test_a_zone_has_the_name_of_its_file(tmp_path: Path) -> None:
    zone = tmp_path / "zoneinfo" / "Europe" / "Berlin"
    zone.parent.mkdir(parents=True)
    zone.touch()
    (tmp_path / "localtime").symlink_to(zone)
    assert local_zone(tmp_path / "localtime") == "Europe/Berlin"
    assert local_zone(tmp_path / "nothing") == "UTC"


def init(machine: Machine, *arguments: str, answers: str = "") -> Result:
    """Run the command; its `asterisk` is the machine's."""
    environment = {"PATH": f"{machine.etc.parent}:{os.environ['PATH']}"}
    command = ["--config", str(machine.config), "init", *arguments]
    return CliRunner().invoke(app, command, input=answers, env=environment, obj=Parts())


def test_the_command_shows_what_to_put_where_and_writes_only_when_told(machine: Machine) -> None:
    before = machine.files()
    shown = init(machine)
    assert shown.exit_code == 0
    assert machine.files() == before
    for words in (
        "http_fairdial.conf: make this",
        "[general](+)",
        "+#tryinclude fairdial.conf",
        "nothing was written",
    ):
        assert words in shown.stdout
    assert "asterisk -rx 'dialplan reload'" in shown.stdout
    written = init(machine, "--write", "--reload", "--region", "DE")
    assert written.exit_code == 0, written.output
    assert "reloaded: dialplan reload" in written.stdout
    assert load(machine.config, {}).desk.region == "DE"
    told = init(machine, "--region", "FR", "--write").stdout
    assert "desk.region is DE, and not FR; it is left as it is" in told
    assert "nothing was changed" in told


def test_the_command_writes_nothing_where_something_is_in_the_way(machine: Machine) -> None:
    machine.has({"http.conf": "[general]\nenabled=no\n"})
    before = machine.files()
    refused = init(machine, "--write")
    assert refused.exit_code == 1
    assert "http.conf:2: enabled=no" in refused.stdout
    assert "nothing was written" in refused.stderr
    assert machine.files() == before
    bad = init(machine, "--region", "england")
    assert (bad.exit_code, "write two capital letters" in bad.stderr) == (2, True)


def test_on_a_terminal_policy_and_country_are_asked_for_once(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_init, "on_terminal", lambda: True)
    assert init(machine, "--write", answers="kryptotel\nDE\n").exit_code == 0
    config = load(machine.config, {})
    assert (config.desk.region, [file.stem for file in config.policies.iterdir()]) == ("DE", ["kryptotel"])
    assert "Policy (" not in init(machine).stdout


def test_the_file_that_init_writes_is_found_without_being_named(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.prepare("kryptotel").write()
    monkeypatch.setattr(session, "DEFAULT_FILE", machine.config)
    assert "kryptotel" in CliRunner().invoke(app, ["policy", "list"], obj=Parts()).stdout


def change(path: Path, before: str | None, after: str = "new\n") -> FileChange:
    return FileChange(path, before, after)


def test_files_are_written_together_with_mode_and_backup(tmp_path: Path) -> None:
    old, new = tmp_path / "old.conf", tmp_path / "deep" / "new.conf"
    old.write_text("old\n")
    old.chmod(0o604)
    changes = [change(old, "old\n"), FileChange(new, None, "x\n", mode=0o600)]
    assert carry_out([Folder(tmp_path / "data", 0o700)], changes) == [tmp_path / "old.conf.before-fairdial"]
    assert [stat.S_IMODE(each.stat().st_mode) for each in (old, new, tmp_path / "data")] == [
        0o604,
        0o600,
        0o700,
    ]
    assert carry_out([], [change(old, "new\n", "newer\n")]) == [tmp_path / "old.conf.before-fairdial-2"]
    assert [each.read_text() for each in sorted(tmp_path.glob("old*"))] == ["newer\n", "old\n", "new\n"]


def unwritable(path: Path) -> FileChange:
    """A folder is in the file's place."""
    path.mkdir()
    return change(path, None)


def changed_meanwhile(path: Path) -> FileChange:
    path.write_text("by somebody else\n")
    return change(path, "old\n")


@pytest.mark.parametrize("bad", [unwritable, changed_meanwhile])
def test_where_one_file_cannot_be_written_none_is(tmp_path: Path, bad: Callable[[Path], FileChange]) -> None:
    old = tmp_path / "old.conf"
    old.write_text("old\n")
    changes = [
        change(old, "old\n"),
        change(tmp_path / "deep" / "new.conf", None),
        bad(tmp_path / "last.conf"),
    ]
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ChangeFailed, match="nothing was changed"):
        carry_out([Folder(tmp_path / "data")], changes)
    assert sorted(tmp_path.rglob("*")) == before
    assert old.read_text() == "old\n"


def test_a_rename_that_fails_takes_the_others_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, last = tmp_path / "old.conf", tmp_path / "last.conf"
    for file in (old, last):
        file.write_text("old\n")
    link = os.link

    def full(source: Path, target: Path) -> None:
        if source == last:
            raise OSError(28, "No space left on device")
        link(source, target)

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(ChangeFailed, match="No space left"):
        carry_out([], [change(old, "old\n"), change(tmp_path / "new.conf", None), change(last, "old\n")])
    assert sorted(tmp_path.iterdir()) == [last, old]
    assert (old.read_text(), last.read_text()) == ("old\n", "old\n")


def test_a_link_stays_a_link_and_a_difference_shows_no_secret(tmp_path: Path) -> None:
    real, link = tmp_path / "real.conf", tmp_path / "link.conf"
    real.write_text("old\n")
    link.symlink_to(real)
    carry_out([], [change(link, "old\n")])
    assert link.is_symlink()
    assert real.read_text() == "new\n"
    shown = FileChange(real, "a\n", "a\nsecret=hidden-word\n", secrets=("hidden-word",))
    assert "+secret=********" in difference(shown)
    assert "+secret=hidden-word" in difference(shown, hide=False)


class Pinged:
    """A link whose Ping is answered with this time of day, in seconds."""

    def __init__(self, at_s: float) -> None:
        self._at_s = at_s

    async def action(self, name: str) -> Mapping[str, str]:
        assert name == "Ping"
        return {"Timestamp": f"{self._at_s:.6f}"}


@pytest.mark.parametrize(
    ("ahead_s", "words"), [(0.0, ""), (1.9, ""), (3.0, "3 s ahead"), (-90.0, "90 s behind")]
)
async def test_clocks_that_differ_are_told(ahead_s: float, words: str) -> None:
    link = Pinged(NOON_MS / 1000 + ahead_s)
    if not words:
        assert await clocks_agree(link, SetClock()) == "its clock agrees with ours"  # type: ignore[arg-type]
        return
    with pytest.raises(Ailment, match=words):
        await clocks_agree(link, SetClock())  # type: ignore[arg-type]

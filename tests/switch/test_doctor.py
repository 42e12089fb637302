"""What the doctor rests on, on a real Asterisk: which rights suffice, what each limit does, how files are read."""

import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from agi_app.ami import AmiLink, AmiRefused
from fairdial.asterisk_conf import ConfError, read_conf
from fairdial.hardening import NEEDED_MODULES, USEFUL_MODULES, examine_files
from fairdial.switch_access import AMI_READ, AMI_WRITE
from fairdial.switch_files import Needs
from testbed.asterisk import Switch
from testbed.installation import Installation
from testbed.server import Server
from tests.switch.conftest import Spine

EXTENSIONS = "[fairdial]\nexten => s,1,Answer()\n same => n,Wait(60)\n"
SETVAR = ("Setvar", {"Variable": "TIMEOUT(absolute)", "Value": "50"})
SHOW = ("ShowDialPlan", {"Context": "fairdial"})
SETTINGS: tuple[str, Mapping[str, str]] = ("CoreSettings", {})
SHELL = ("Getvar", {"Variable": "SHELL(echo hello)"})


@pytest_asyncio.fixture
async def asterisk(installation: Installation) -> AsyncIterator[Switch]:
    """A switch with one extension in [fairdial]."""
    async with Switch.start(installation, EXTENSIONS) as switch:
        await switch.cli("module load res_clioriginate.so")
        yield switch


@asynccontextmanager
async def ami_user(switch: Switch, rights: str) -> AsyncIterator[AmiLink]:
    """A link logged in as a user with these lines in manager.conf, and a channel to speak of."""
    file = switch.directory / "etc" / "manager.conf"
    file.write_text(f"{file.read_text()}[somebody]\nsecret=s\n{rights}")
    await switch.cli("manager reload")
    link = AmiLink(switch.ami_host, switch.ami_port, "somebody", "s")
    await link.start()
    try:
        await link.wait_connected(5)
        yield link
    finally:
        await link.stop()


async def allowed(link: AmiLink, *actions: tuple[str, Mapping[str, str]]) -> list[str]:
    """Names of the actions that the switch carries out for this user."""
    done = []
    for name, headers in actions:
        try:
            await link.action(name, headers)
        except AmiRefused:
            continue
        done.append(name)
    return done


async def a_channel(switch: Switch) -> str:
    await switch.cli("channel originate Local/s@fairdial application Wait 60")
    return (await switch.channels())[0]


@pytest.mark.parametrize(
    ("classes", "done"),
    [
        (",".join(sorted(AMI_WRITE)), ["Ping", "Setvar", "ShowDialPlan", "CoreSettings"]),
        ("call", ["Ping", "Setvar"]),
        ("reporting", ["Ping", "ShowDialPlan", "CoreSettings"]),
        ("", ["Ping"]),
        # Why system is too much: a user who has it runs programs.
        ("call,system", ["Ping", "Setvar", "CoreSettings", "Getvar", "Filter", "GetConfig"]),
        (
            "all",
            [
                "Ping",
                "Setvar",
                "ShowDialPlan",
                "CoreSettings",
                "Getvar",
                "Filter",
                "Originate",
                "Command",
                "GetConfig",
            ],
        ),
    ],
)
async def test_two_classes_are_all_that_we_write_with(
    asterisk: Switch, classes: str, done: list[str]
) -> None:
    channel = await a_channel(asterisk)
    on_it = {"Channel": channel}
    actions: list[tuple[str, Mapping[str, str]]] = [
        ("Ping", {}),
        (SETVAR[0], {**on_it, **SETVAR[1]}),
        SHOW,
        SETTINGS,
        (SHELL[0], {**on_it, **SHELL[1]}),
        ("Filter", {"Operation": "Add", "Filter": "Event: Cdr"}),
        ("Originate", {"Channel": "Local/s@fairdial", "Application": "Wait", "Data": "1"}),
        ("Command", {"Command": "core show version"}),
        ("GetConfig", {"Filename": "pjsip.conf"}),
    ]
    async with ami_user(asterisk, f"write={classes}\n") as link:
        assert await allowed(link, *actions) == done
    await asterisk.cli("channel request hangup all")
    assert await asterisk.no_channels() == []


def test_the_testbed_gives_no_more_than_what_suffices(asterisk: Switch) -> None:
    conf = read_conf(asterisk.directory / "etc" / "manager.conf")
    [user] = conf.named(asterisk.ami_user)
    assert set(user.value("write").split(",")) == AMI_WRITE
    assert set(user.value("read").split(",")) == AMI_READ


@pytest.mark.parametrize(("read_only", "status"), [("yes", 403), ("no", 200)])
async def test_a_user_who_may_only_look_can_end_no_call(
    asterisk: Switch, read_only: str, status: int
) -> None:
    file = asterisk.directory / "etc" / "ari.conf"
    file.write_text(f"{file.read_text()}[looker]\ntype=user\nread_only={read_only}\npassword=p\n")
    await asterisk.cli("module reload res_ari.so")
    headers = {"Authorization": aiohttp.encode_basic_auth("looker", "p")}
    async with aiohttp.ClientSession(headers=headers) as session:
        async with session.get(f"{asterisk.ari_url}/channels") as response:
            assert response.status == 200
        async with session.post(f"{asterisk.ari_url}/bridges") as response:
            assert response.status == status


@pytest.mark.parametrize(("dangerously", "ran"), [("yes", True), ("no", False)])
async def test_whoever_may_use_ari_runs_programs_where_the_switch_lives_dangerously(
    asterisk: Switch, dangerously: str, ran: bool
) -> None:
    file = asterisk.directory / "etc" / "asterisk.conf"
    file.write_text(file.read_text().replace("[options]", f"[options]\nlive_dangerously={dangerously}"))
    await asterisk.restart()
    await asterisk.cli("module load res_clioriginate.so")
    await a_channel(asterisk)
    headers = {"Authorization": aiohttp.encode_basic_auth(asterisk.ari_user, asterisk.ari_password)}
    async with aiohttp.ClientSession(headers=headers) as session:
        async with session.get(f"{asterisk.ari_url}/channels") as response:
            address = f"{asterisk.ari_url}/channels/{(await response.json())[0]['id']}/variable"
        async with session.get(address, params={"variable": "SHELL(echo hello)"}) as response:
            assert ("hello" in await response.text()) is ran
    await asterisk.cli("channel request hangup all")
    assert await asterisk.no_channels() == []


@pytest.mark.parametrize(("limit", "served"), [(2, False), (3, True)])
async def test_past_the_session_limit_the_switch_hangs_up_without_an_answer(
    asterisk: Switch, limit: int, served: bool
) -> None:
    """Each event socket counts as long as it is open."""
    file = asterisk.directory / "etc" / "http.conf"
    file.write_text(file.read_text().replace("sessionlimit=1000", f"sessionlimit={limit}"))
    await asterisk.cli("module reload http")
    headers = {"Authorization": aiohttp.encode_basic_auth(asterisk.ari_user, asterisk.ari_password)}
    async with aiohttp.ClientSession(headers=headers) as session:
        sockets = [
            await session.ws_connect(f"{asterisk.ari_url}/events", params={"app": f"app{number}"})
            for number in range(2)
        ]
        try:
            async with session.get(f"{asterisk.ari_url}/asterisk/ping") as response:
                assert served
                assert response.status == 200
        except aiohttp.ServerDisconnectedError:
            assert not served
        finally:
            for each in sockets:
                await each.close()


async def test_the_testbeds_own_switch_is_well(spine: Spine) -> None:
    """The switch on which all other tests run, with the project's dialplan, has nothing to be mended."""
    etc = spine.switch.directory / "etc"
    await spine.server.account("acme", "kryptotel", "alice", countries=["GB"])
    found = await spine.server.command("doctor", "--json", "--asterisk-etc", str(etc))
    findings = {each["part"]: each for each in found.json}
    assert [each for each in found.json if not each["well"]] == []
    assert found.status == 0
    assert str(etc) in findings["switch files"]["text"]


async def test_warnings_are_told_apart_from_failures(spine: Spine) -> None:
    etc = spine.switch.directory / "etc"
    await spine.server.account("acme", "kryptotel", "alice", countries=["GB"])
    options, rights = etc / "asterisk.conf", etc / "ari.conf"
    options.write_text(options.read_text().replace("[options]", "[options]\nlive_dangerously=yes"))
    warned = await spine.server.command("doctor", "--json", "--asterisk-etc", str(etc))
    [finding] = [each for each in warned.json if each["severity"] == "warning"]
    assert (warned.status, finding["part"], finding["well"]) == (0, "asterisk.conf", False)
    rights.write_text(rights.read_text().replace("read_only=no", "read_only=yes"))
    failed = await spine.server.command("doctor", "--json", "--asterisk-etc", str(etc))
    assert failed.status == 1
    [failure] = [each for each in failed.json if each["severity"] == "failure"]
    assert (failure["part"], failure["cure"]) == ("ari.conf", "set read_only=no")
    shown = await spine.server.command("doctor", "--asterisk-etc", str(etc))
    assert shown.status == 1
    assert "warning" in shown.output
    assert "FAULT" in shown.output


async def test_a_secret_that_all_may_read_is_told_at_the_start(asterisk: Switch) -> None:
    with tempfile.TemporaryDirectory() as folder:
        # pytest's own folders are closed, and so is what lies in them.
        Path(folder).chmod(0o755)
        async with Server.start(asterisk, Path(folder)) as server:
            told = f'"cure": "chmod 600 {server.config_path}'
            assert server.log_path.read_text().count(told) == 1
            await server.stop()
            server.config_path.chmod(0o600)
            await server.launch()
            assert server.log_path.read_text().count(told) == 1


def test_the_modules_that_are_asked_for_exist(installation: Installation) -> None:
    known = {name.removesuffix(".so") for name in installation.modules()}
    assert {*NEEDED_MODULES, *USEFUL_MODULES} <= known


def test_a_module_that_is_left_out_is_named(asterisk: Switch) -> None:
    etc = asterisk.directory / "etc"
    assert [each for each in examine_files(etc, Needs()) if not each.well] == []
    file = etc / "modules.conf"
    file.write_text(file.read_text().replace("load=app_stasis.so\n", ""))
    [finding] = examine_files(etc, Needs())
    assert finding.cure == "add load = app_stasis.so"


READ_ALIKE = {
    "plain": "[m]\n; no\na = 1\nb => 2 ; no\nA=3\nc=\nkey with space = v  v\nd=x=y=>z\n[m]\na=4\n[ n ]\n\ta\t=\tb\t\n",
    "templates": "[t](!)\na=1\n[u](!,t)\nb=2\n[v](u)\na=3\n[w](t,u)\n[x](v)\n",
    "going on": "[t](!)\nx=1\n[m]\na=1\n[n]\n[m](+)\na=2\n[n](+,t)\nb=3\n",
    "which goes on": "[m]\ntype=x\n[m]\ntype=y\n[m](+type=y)\nb=1\n",
    "growing": "[m]\na+=1\na += 2\nb=x\nB+=y\nc + = 3\nd=>>e\nf= => g\n",
    "comments": "[m] ; x\na=1;b\n;-- x\nb=2\n--; c=3\nd=4 ;-- y --; tail\n;--- z\ne=5\nf=6\\;7\n",
    "comments in comments": "[m]\n;-- 1 ;-- 2 --; 3 --;\ng=8\n",
    "comment without end": "[m]\na=1\n;-- open\nb=2\n",
    "include": '[m]\na=1\n#include "one.conf"\nb=2\n #include many/*.conf ; x\nc=3\n#tryinclude none.conf\nd=4\n',
    "braces": "[m]\n#include many/{1,2}.conf\n",
    "in angle brackets": "[m]\n#include <one.conf>\n",
    "not run": "[m]\n#exec /bin/echo a=1\nb=2\n",
    "skipped": "[m]\nnothing\n=x\n#pragma\na=1\n",
    "odd": "\ufeff[m]junk\r\na=1\r\n[x](!)\r\n[y] ( ! )\r\nb=2\r\n",
    "same template twice": "[t](!)\na=1\n[t](!)\na=2\n[m](T)\n",
    "no section": "a=1\n[m]\n",
    "no end": "[m\na=1\n",
    "no end of options": "[m](!\na=1\n",
    "unknown template": "[m](t)\n[t](!)\n",
    "template with a space": "[t](!)\n[m]( t )\n",
    "nothing to go on": "[m](+)\n",
    "missing include": "[m]\n#include none.conf\n",
    "missing includes": "[m]\n#include none/*.conf\n",
}
"""Files that Asterisk and we must read alike, or both refuse."""


async def test_files_are_read_as_asterisk_reads_them(asterisk: Switch) -> None:
    etc = asterisk.directory / "etc"
    (etc / "many").mkdir()
    (etc / "one.conf").write_text("z=1\n[i]\nz=2\n")
    (etc / "many" / "1.conf").write_text("[j]\nk=1\n")
    (etc / "many" / "2.conf").write_text("k=2\n[k]\nk=3\n")
    async with ami_user(asterisk, "write=config\n") as link:
        differing = {}
        for name, text in READ_ALIKE.items():
            file = etc / "alike.conf"
            file.write_text(text, newline="")
            theirs, ours = await read_by_asterisk(link, file), read_by_us(file)
            if theirs != ours:
                differing[name] = (theirs, ours)
    assert differing == {}


Read = list[tuple[str, list[str]]] | str


async def read_by_asterisk(link: AmiLink, file: Path) -> Read:
    try:
        answer = await link.action("GetConfig", {"Filename": file.name})
    except AmiRefused:
        return "refused"
    names = {key[9:]: value for key, value in answer.items() if key.startswith("Category-")}
    return [
        (name, [value for key, value in answer.items() if key.startswith(f"Line-{number}-")])
        for number, name in names.items()
    ]


def read_by_us(file: Path) -> Read:
    try:
        conf = read_conf(file)
    except ConfError:
        return "refused"
    return [
        (section.name, [f"{each.key}={each.value}" for each in section.settings]) for section in conf.sections
    ]

"""Each sample of docs/existing-dialplans.md is loaded by a real Asterisk without complaint; calls go through those that
differ in how the question is asked.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from testbed.asterisk import Switch
from testbed.configuration import Line
from testbed.installation import Installation
from testbed.server import PROJECT, Server
from testbed.sipp import Carrier, place_call

PAGE = (PROJECT / "docs" / "existing-dialplans.md").read_text(encoding="utf-8")
FAIRDIAL = (PROJECT / "dialplan" / "fairdial.conf").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Sample:
    """A fenced block and the heading that it stands under."""

    title: str
    language: str
    text: str

    @property
    def contexts(self) -> list[str]:
        written = r"^context (\S+)" if self.language == "c" else r"^\[([^\]]+)\]"
        return re.findall(written, self.text, re.MULTILINE)


def _samples() -> dict[str, Sample]:
    found = {}
    for section in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]:
        title = section.splitlines()[0]
        for language, text in re.findall(r"^```(\w*)\n(.*?)^```$", section, re.MULTILINE | re.DOTALL):
            assert title not in found, "one sample under each heading"
            found[title] = Sample(title, language, text)
    return found


SAMPLES = _samples()
AEL = SAMPLES["AEL"]
EXPECTED = "application call to Gosub affects flow of control"
"""Said of every Gosub in AEL; the page says so too."""

# What FreePBX generates around its hook, in our own words: an outbound route, and the way to a trunk.
FREEPBX = """
[from-internal]
include => from-internal-custom
include => outbound-allroutes
[outbound-allroutes]
include => outrt-1
[outrt-1]
exten => _0X.,1,Gosub(macro-dialout-trunk,s,1(1,${EXTEN},,off))
 same => n,Hangup()
[macro-dialout-trunk]
exten => s,1,Set(DIAL_TRUNK=${ARG1})
 same => n,Set(DIAL_TRUNK_OPTIONS=T)
 same => n,Set(OUTNUM=${OUTPREFIX_${DIAL_TRUNK}}${ARG2})
 same => n,Gosub(macro-dialout-trunk-predial-hook,s,1())
 same => n,GotoIf($["${PREDIAL_HOOK_RET}" = "BYPASS"]?bypass)
 same => n,Dial(PJSIP/${OUTNUM}@carrier,300,${DIAL_TRUNK_OPTIONS}b(func-apply-sipheaders^s^1,(1))U(sub-send-obroute^x))
 same => n(bypass),Return()
[func-apply-sipheaders]
exten => s,1,Return()
[sub-send-obroute]
exten => s,1,Return()
"""

# No more than three seconds a call, so that an end is seen.
SHORT = ("outbound = 14400", "outbound = 3")


@dataclass(frozen=True)
class Site:
    switch: Switch
    carrier: Carrier
    server: Server

    async def rings(self, number: str, line: str = "alice", stays: bool = False) -> int:
        """The final answer to a call of that line; answered, the caller hangs up, or stays until it is cut."""
        outcome = await place_call(
            self.switch, line=line, number=number, hang_up_after_s=None if stays else 0.5
        )
        if stays:
            assert outcome.ended_by == "far_end"
            assert 2.5 < outcome.talk_s < 4
        return outcome.final_status

    async def newest(self) -> tuple[str, str, str]:
        """Line, decision and clause of the newest decision."""
        [record] = await self.server.ask("decisions", limit=1)
        return record["line_id"], record["decision"], record["clause_id"]


@asynccontextmanager
async def site(
    installation: Installation,
    folder: Path,
    extensions: str,
    lines: Sequence[Line],
    files: Mapping[str, str] | None = None,
) -> AsyncIterator[Site]:
    """A switch with this dialplan, a FairDial, and acme with its lines, on a plan of three seconds a call."""
    text = (PROJECT / "policies" / "kryptotel.toml").read_text()
    assert SHORT[0] in text
    short = text.replace('name = "kryptotel"', 'name = "short"', 1).replace(*SHORT)
    written = f"#include fairdial.conf\n{extensions}"
    async with (
        Switch.start(
            installation, written, files={"fairdial.conf": FAIRDIAL, **(files or {})}, lines=lines
        ) as switch,
        Carrier.start(switch) as carrier,
        Server.start(switch, folder, policies={"short": short}) as server,
    ):
        await server.account("acme", "short", *(line.name for line in lines), countries=["GB"])
        yield Site(switch, carrier, server)
        assert await switch.no_channels() == []


async def test_every_sample_loads_without_a_complaint(installation: Installation) -> None:
    files = {"fairdial.conf": FAIRDIAL, "extensions.ael": AEL.text}
    wrong: dict[str, object] = {}
    async with Switch.start(installation, "#include fairdial.conf\n", files=files) as switch:
        extensions = switch.directory / "etc" / "extensions.conf"
        bare = extensions.read_text()
        for sample in SAMPLES.values():
            before = switch.log_path.stat().st_size
            if sample.language == "c":
                assert {"pbx_ael.so", "res_ael_share.so"} <= installation.modules()
                for module in ("res_ael_share.so", "pbx_ael.so"):
                    await switch.cli(f"module load {module}")
            else:
                extensions.write_text(f"{bare}\n{sample.text}")
                await switch.cli("dialplan reload")
            with switch.log_path.open() as log:
                log.seek(before)
                said = [line for line in log if re.search(r"WARNING|ERROR", line) and EXPECTED not in line]
            shown = [await switch.cli(f"dialplan show {context}") for context in sample.contexts]
            if said or not sample.contexts or any("Context '" not in each for each in shown):
                wrong[sample.title] = (said, shown)
        # So that the look at the log is known to find something.
        extensions.write_text(f"{bare}\n[broken]\nexten => 1,1\n")
        await switch.cli("dialplan reload")
        assert "WARNING" in switch.log_path.read_text()[-2000:]
    assert wrong == {}


async def test_contexts_and_includes(installation: Installation, tmp_path: Path) -> None:
    sample = SAMPLES["Contexts, patterns, includes"].text
    lines = (Line("alice", context="phones"), Line("101", context="phones"))
    async with site(installation, tmp_path, sample, lines) as at:
        assert await at.rings("02079460100", stays=True) == 200
        assert await at.newest() == ("alice", "allow", "K1")
        assert await at.rings("09098790000") == 403
        assert await at.newest() == ("alice", "refuse", "K2")
        assert await at.rings("101") == 200
        assert await at.rings("999") == 200
        assert [call.number for call in at.carrier.calls()] == ["+442079460100", "101", "112"]


async def test_a_second_trunk_needs_no_second_question(installation: Installation, tmp_path: Path) -> None:
    sample = SAMPLES["Trunks that take over from one another"].text
    async with site(installation, tmp_path, sample, (Line("alice", context="failover"),)) as at:
        # There is no endpoint "cheap".
        assert await at.rings("02079460100", stays=True) == 200
        assert len(await at.server.ask("decisions", limit=10)) == 1
        assert await at.rings("09098790000") == 403
        await at.server.idle()


async def test_who_forwards_pays(installation: Installation, tmp_path: Path) -> None:
    sample = SAMPLES["Forwarding and follow-me"].text
    async with site(installation, tmp_path, sample, (Line("alice", rings="alice87"),)) as at:
        await at.switch.cli("database put did 442079460000 alice")
        await at.switch.cli("database put follow alice 07912345678")
        assert await at.rings("442079460000", line="carrier", stays=True) == 200
        forwarded, came_in = sorted(
            (
                (each["kind"], each["line_id"], each["dialled"])
                for each in await at.server.ask("decisions", limit=2)
            ),
            reverse=True,
        )
        assert forwarded == ("outbound", "alice", "07912345678")
        assert came_in[:2] == ("inbound", "alice")
        await at.switch.cli("database put follow alice 09098790000")
        calling = asyncio.create_task(
            place_call(at.switch, line="carrier", number="442079460000", give_up_after_s=2)
        )
        await at.carrier.call_when("alice87", timeout_s=10)
        await calling
        assert [call.number for call in at.carrier.calls() if call.number.startswith("+")] == [
            "+447912345678"
        ]
        await at.server.idle()


async def test_freepbx(installation: Installation, tmp_path: Path) -> None:
    sample = SAMPLES["FreePBX"].text
    async with site(installation, tmp_path, sample + FREEPBX, (Line("1001", context="from-internal"),)) as at:
        assert await at.rings("02079460100", line="1001", stays=True) == 200
        assert await at.newest() == ("1001", "allow", "K1")
        assert await at.rings("09098790000", line="1001") == 403
        assert await at.newest() == ("1001", "refuse", "K2")
        assert [call.number for call in at.carrier.calls()] == ["+442079460100"]


async def test_ael(installation: Installation, tmp_path: Path) -> None:
    lines = (Line("alice", context="phones-ael"),)
    async with site(installation, tmp_path, "", lines, {"extensions.ael": AEL.text}) as at:
        for module in ("res_ael_share.so", "pbx_ael.so"):
            await at.switch.cli(f"module load {module}")
        assert await at.rings("02079460100", stays=True) == 200
        assert await at.newest() == ("alice", "allow", "K1")
        assert await at.rings("09098790000") == 403
        assert await at.newest() == ("alice", "refuse", "K2")


@pytest.mark.parametrize("title", ["Queues", "ConfBridge"])
def test_a_sample_that_carries_no_call_here_asks_before_it_goes_on(title: str) -> None:
    """Their applications have tests of their own: test_conference.py; a queue only waits."""
    steps = SAMPLES[title].text
    assert steps.index("Gosub(fairdial,") < min(
        steps.find(app) for app in ("Queue(", "ConfBridge(", "Dial(") if app in steps
    )

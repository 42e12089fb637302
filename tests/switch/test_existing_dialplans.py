"""Each sample of docs/existing-dialplans.md is loaded by a real Asterisk without complaint; calls go through those that
differ in how the question is asked.
"""

import asyncio
import re
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
AEL_MODULES = ("res_ael_share.so", "pbx_ael.so")
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


LINES = (
    *(Line(name, context="phones") for name in ("alice", "101")),
    Line("bob", context="failover"),
    # Rings, and is never answered.
    Line("carol", rings="carol87"),
    Line("1001", context="from-internal"),
    Line("erin", context="phones-ael"),
)


@dataclass(frozen=True)
class Site:
    """A switch with all samples at once, its carrier, and a FairDial with an account for each line."""

    switch: Switch
    carrier: Carrier
    server: Server

    async def is_cut(self, line: str, number: str) -> None:
        """A call of that line is answered, and cut when its plan says so."""
        outcome = await place_call(self.switch, line=line, number=number)
        assert (outcome.final_status, outcome.ended_by) == (200, "far_end")
        assert 2.5 < outcome.talk_s < 4.5

    async def status(self, line: str, number: str) -> int:
        """The final answer to a call of that line, which hangs up when it is answered."""
        return (await place_call(self.switch, line=line, number=number, hang_up_after_s=0.5)).final_status

    async def decided(self, line: str) -> list[tuple[str, str, str]]:
        """Dialled string, decision and clause of what that line dialled, in order."""
        records = await self.server.ask("decisions", account=f"of-{line}", limit=10)
        return [(each["dialled"], each["decision"], each["clause_id"]) for each in reversed(records)]

    def reached(self, *numbers: str) -> list[str]:
        """Which of these numbers the carrier was asked for."""
        return [call.number for call in self.carrier.calls() if call.number in numbers]


async def test_every_sample_loads_without_a_complaint(installation: Installation) -> None:
    files = {"fairdial.conf": FAIRDIAL, "extensions.ael": AEL.text}
    wrong: dict[str, object] = {}
    async with Switch.start(installation, "#include fairdial.conf\n", files=files) as switch:
        extensions = switch.directory / "etc" / "extensions.conf"
        bare = extensions.read_text()
        for sample in SAMPLES.values():
            before = switch.log_path.stat().st_size
            if sample.language == "c":
                assert set(AEL_MODULES) <= installation.modules()
                for module in AEL_MODULES:
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


async def contexts_and_includes(at: Site) -> None:
    await at.is_cut("alice", "02079460101")
    assert await at.status("alice", "09098790001") == 403
    assert await at.status("alice", "101") == 200
    assert await at.status("alice", "999") == 200
    assert (await at.decided("alice"))[:2] == [
        ("02079460101", "allow", "K1"),
        ("09098790001", "refuse", "K2"),
    ]
    assert at.reached("+442079460101", "+449098790001", "101", "112") == ["+442079460101", "101", "112"]


async def a_second_trunk_needs_no_second_question(at: Site) -> None:
    # There is no endpoint "cheap".
    await at.is_cut("bob", "02079460102")
    assert await at.status("bob", "09098790002") == 403
    assert await at.decided("bob") == [("02079460102", "allow", "K1"), ("09098790002", "refuse", "K2")]
    assert at.reached("+442079460102", "+449098790002") == ["+442079460102"]


async def who_forwards_pays(at: Site) -> None:
    await at.switch.cli("database put did 442079460103 carol")
    await at.switch.cli("database put follow carol 07912345603")
    await at.is_cut("carrier", "442079460103")
    await at.switch.cli("database put follow carol 09098790003")
    await place_call(at.switch, line="carrier", number="442079460103", give_up_after_s=2)
    assert [each[:2] for each in await at.decided("carol")] == [
        *(("442079460103", "allow"), ("07912345603", "allow")),
        *(("442079460103", "allow"), ("09098790003", "refuse")),
    ]
    assert at.reached("+447912345603", "+449098790003") == ["+447912345603"]


async def freepbx(at: Site) -> None:
    await at.is_cut("1001", "02079460104")
    assert await at.status("1001", "09098790004") == 403
    assert await at.decided("1001") == [("02079460104", "allow", "K1"), ("09098790004", "refuse", "K2")]
    assert at.reached("+442079460104", "+449098790004") == ["+442079460104"]


async def ael(at: Site) -> None:
    await at.is_cut("erin", "02079460105")
    assert await at.status("erin", "09098790005") == 403
    assert await at.decided("erin") == [("02079460105", "allow", "K1"), ("09098790005", "refuse", "K2")]
    assert at.reached("+442079460105", "+449098790005") == ["+442079460105"]


async def test_calls_are_let_through_cut_and_refused_in_each_of_them(
    installation: Installation, tmp_path: Path
) -> None:
    text = (PROJECT / "policies" / "kryptotel.toml").read_text()
    assert SHORT[0] in text
    short = text.replace('name = "kryptotel"', 'name = "short"', 1).replace(*SHORT)
    samples = "".join(sample.text for sample in SAMPLES.values() if sample is not AEL)
    files = {"fairdial.conf": FAIRDIAL, "extensions.ael": AEL.text}
    async with (
        Switch.start(
            installation, f"#include fairdial.conf\n{samples}{FREEPBX}", files=files, lines=LINES
        ) as switch,
        Carrier.start(switch) as carrier,
        Server.start(switch, tmp_path, policies={"short": short}) as server,
    ):
        for module in AEL_MODULES:
            await switch.cli(f"module load {module}")
        for line in LINES:
            await server.account(f"of-{line.name}", "short", line.name, countries=["GB"])
        at = Site(switch, carrier, server)
        await asyncio.gather(
            contexts_and_includes(at),
            a_second_trunk_needs_no_second_question(at),
            who_forwards_pays(at),
            freepbx(at),
            ael(at),
        )
        await server.idle()
        assert await switch.no_channels() == []


@pytest.mark.parametrize("title", ["Queues", "ConfBridge"])
def test_a_sample_that_carries_no_call_here_asks_before_it_goes_on(title: str) -> None:
    """Their applications have tests of their own: test_conference.py; a queue only waits."""
    steps = SAMPLES[title].text
    assert steps.index("Gosub(fairdial,") < min(
        steps.find(app) for app in ("Queue(", "ConfBridge(", "Dial(") if app in steps
    )

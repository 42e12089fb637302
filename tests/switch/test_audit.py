"""What `fairdial audit` rests on, on a real Asterisk: who gets in without a password, and whether it says so."""

from datetime import date
from pathlib import Path

from fairdial.audit import Ageing, audit
from testbed.asterisk import Switch
from testbed.configuration import Line
from testbed.installation import Installation
from testbed.sipp import place_call

OPEN = "[open]\nexten => _X.,1,Answer()\n same => n,Wait(60)\n"
FURTHER = """
[phone](!)
type=endpoint
context=open
disallow=all
allow=ulaw
direct_media=no
[trunk](phone)
[trunk-from]
type=identify
endpoint=trunk
match=192.0.2.7
[by-address](phone)
identify_by=ip
[by-address-from]
type=identify
endpoint=by-address
match=192.0.2.8
[empty](phone)
auth=empty
[empty]
type=auth
username=empty
"""


async def status(switch: Switch, line: str) -> int | None:
    """What who calls under that name, with no password, is told."""
    return (await place_call(switch, line=line, number="100", hang_up_after_s=0.2)).final_status


def of_clause(file: Path, clause: str) -> dict[str, str]:
    """What the audit finds there about that clause, by section."""
    report = audit(file, "fairdial", Ageing(date(2026, 11, 27)))
    return {finding.sections[0]: finding.what for finding in report.findings if finding.clause == clause}


async def test_strangers_get_in_where_the_audit_says_so(installation: Installation) -> None:
    async with Switch.start(installation, OPEN, lines=(Line("anonymous", context="open"),)) as switch:
        file = switch.directory / "etc" / "pjsip.conf"
        file.write_text(file.read_text() + FURTHER)
        await switch.cli("module reload res_pjsip.so")
        await switch.cli("module reload res_pjsip_endpoint_identifier_ip.so")
        [order] = [
            line for line in file.read_text().splitlines() if line.startswith("endpoint_identifier_order")
        ]
        assert "anonymous" not in order
        assert await status(switch, "nobody") == 200
        assert "strangers" in of_clause(file, "A4")["anonymous"]

        await switch.cli("module unload res_pjsip_endpoint_identifier_anonymous.so")
        assert await status(switch, "nobody") == 401
        told = {line: await status(switch, line) for line in ("trunk", "by-address", "empty")}
        assert told == {"trunk": 200, "by-address": 401, "empty": 500}
        assert await switch.no_channels() == []
        found = of_clause(file, "A4")
        assert "in spite of its identify section" in found["trunk"]
        assert "by-address" not in found
        assert of_clause(file, "A5")["empty"] == "there is no password"

"""TLS to the switch, on a real Asterisk: who has the right certificate connects, who has not is told what to set."""

import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from agi_app.ami import AmiLink, AmiUnavailable
from ari_handlers.probe import probe_ari
from fairdial.doctor import Ailment
from fairdial.tls import client_context
from testbed.asterisk import Switch
from testbed.installation import Installation
from testbed.ports import LOOPBACK, free_ports
from testbed.server import Server, dialplan
from testbed.sipp import Carrier, place_call
from testbed.tls import certificate_path, make_certificate
from tests.switch.conftest import LINES

ELSEWHERE = "127.0.0.2"


@dataclass(frozen=True)
class Encrypted:
    """A switch that speaks TLS on two ports more. other: a certificate that has nothing to do with it."""

    switch: Switch
    https_port: int
    ami_tls_port: int
    ca_file: Path
    other: Path

    @property
    def ari_url(self) -> str:
        return f"https://{LOOPBACK}:{self.https_port}/ari"

    async def certify(self, host: str) -> None:
        """Take a new certificate, for `host`."""
        await make_certificate(self.ca_file, host)
        for name in ("http.conf", "manager.conf"):
            # A file with the same time is not read again.
            file = self.switch.directory / "etc" / name
            file.write_text(f"{file.read_text()}; renewed\n")
        await self.switch.cli("module reload http")
        await self.switch.cli("manager reload")


@pytest_asyncio.fixture
async def encrypted(installation: Installation, tmp_path: Path) -> AsyncIterator[Encrypted]:
    """The project's dialplan, certificates, and the two files as docs/hardening.md shows them."""
    extensions, files = dialplan()
    https_port, ami_tls_port = free_ports(2)
    async with Switch.start(installation, extensions, files=files, lines=LINES) as switch:
        ca_file, other = certificate_path(switch.directory), tmp_path / "other.pem"
        await make_certificate(ca_file, LOOPBACK)
        await make_certificate(other, LOOPBACK)
        for name, port in (("http.conf", https_port), ("manager.conf", ami_tls_port)):
            file = switch.directory / "etc" / name
            tls = f"tlsenable=yes\ntlsbindaddr={LOOPBACK}:{port}\n"
            certificate = switch.installation.inside(ca_file)
            tls += f"tlscertfile={certificate}\ntlsprivatekey={certificate}\n"
            file.write_text(file.read_text().replace("[general]\n", f"[general]\n{tls}", 1))
        await switch.cli("module reload http")
        await switch.cli("manager reload")
        yield Encrypted(switch, https_port, ami_tls_port, ca_file, other)


def trusting(ca_file: Path | None, *, check_hostname: bool = True) -> ssl.SSLContext:
    return client_context("ari", ca_file, check_hostname=check_hostname)


async def ari_answers(encrypted: Encrypted, context: ssl.SSLContext) -> str:
    switch = encrypted.switch
    return await probe_ari(encrypted.ari_url, switch.ari_user, switch.ari_password, "fairdial", context)


async def ami_logs_in(encrypted: Encrypted, context: ssl.SSLContext, port: int | None = None) -> str:
    switch = encrypted.switch
    link = AmiLink(LOOPBACK, port or encrypted.ami_tls_port, switch.ami_user, switch.ami_secret, tls=context)
    await link.start()
    try:
        await link.wait_connected(3)
        return (await link.action("Ping"))["Ping"]
    finally:
        await link.stop()


async def test_with_the_right_certificate_both_connect(encrypted: Encrypted) -> None:
    assert (await ari_answers(encrypted, trusting(encrypted.ca_file))).startswith(encrypted.ari_url)
    assert await ami_logs_in(encrypted, trusting(encrypted.ca_file)) == "Pong"


@pytest.mark.parametrize("trusted", ["other", "machine"])
async def test_an_unknown_certificate_is_refused_and_the_cure_named(
    encrypted: Encrypted, trusted: str
) -> None:
    context = trusting(encrypted.other if trusted == "other" else None)
    with pytest.raises(Ailment, match="certificate is not trusted: self-signed certificate") as ailment:
        await ari_answers(encrypted, context)
    assert ailment.value.cure == (
        "set ari.ca_file to the certificate that signed the switch's (tlscertfile in http.conf)"
    )
    with pytest.raises(AmiUnavailable, match=r"not trusted: self-signed .* set ami\.ca_file"):
        await ami_logs_in(encrypted, context)


async def test_a_certificate_for_another_name_is_refused_unless_that_is_allowed(encrypted: Encrypted) -> None:
    await encrypted.certify(ELSEWHERE)
    context = trusting(encrypted.ca_file)
    with pytest.raises(Ailment, match="IP address mismatch") as ailment:
        await ari_answers(encrypted, context)
    assert "ari.check_hostname = false" in ailment.value.cure
    with pytest.raises(AmiUnavailable, match=r"IP address mismatch.*ami\.check_hostname = false"):
        await ami_logs_in(encrypted, context)
    lenient = trusting(encrypted.ca_file, check_hostname=False)
    assert await ari_answers(encrypted, lenient)
    assert await ami_logs_in(encrypted, lenient) == "Pong"


async def test_a_port_that_speaks_no_tls_is_named_as_such(encrypted: Encrypted) -> None:
    with pytest.raises(AmiUnavailable, match=r"no TLS 1\.2 or later .* tlsenable=yes in manager\.conf"):
        await ami_logs_in(encrypted, trusting(encrypted.ca_file), encrypted.switch.ami_port)


async def test_calls_are_let_through_and_refused_with_all_of_it_over_tls(
    encrypted: Encrypted, tmp_path: Path
) -> None:
    switch = encrypted.switch
    password, secret = tmp_path / "ari-password", tmp_path / "ami-secret"
    password.write_text(f"{switch.ari_password}\n")
    secret.write_text(f"{switch.ami_secret}\n")
    settings = {
        "ari.url": encrypted.ari_url,
        "ari.ca_file": str(encrypted.ca_file),
        "ari.password": "",
        "ari.password_file": password.name,
        "ami.tls": True,
        "ami.port": encrypted.ami_tls_port,
        "ami.ca_file": str(encrypted.ca_file),
        "ami.secret": "",
        "ami.secret_file": secret.name,
    }
    async with Carrier.start(switch), Server.start(switch, tmp_path, settings) as server:
        await server.account("acme", "kryptotel", "alice", countries=("GB",))
        assert (
            await place_call(switch, line="alice", number="02079460100", hang_up_after_s=0.5)
        ).final_status == 200
        assert (await place_call(switch, line="alice", number="09098790000")).final_status == 403
        await server.idle()
        examined = await server.command("doctor", "--json", "--asterisk-etc", str(switch.directory / "etc"))
        assert [each for each in examined.json if not each["well"]] == []
        assert examined.status == 0


async def test_the_doctor_names_both_settings_where_the_certificate_is_unknown(
    encrypted: Encrypted, tmp_path: Path
) -> None:
    settings = {
        "ari.url": encrypted.ari_url,
        "ari.ca_file": str(encrypted.other),
        "ami.tls": True,
        "ami.port": encrypted.ami_tls_port,
        "ami.ca_file": str(encrypted.other),
    }
    examined = await Server(encrypted.switch, tmp_path, settings).command("doctor", "--json")
    assert examined.status == 1
    findings = {each["part"]: each for each in examined.json}
    assert "set ari.ca_file" in findings["ari"]["cure"]
    assert "set ami.ca_file" in findings["ami"]["text"]

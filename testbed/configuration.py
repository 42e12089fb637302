"""The configuration files of one self-contained switch.

Everything lies in the switch's own directory and every port is on loopback, so that several switches run side
by side and beside an Asterisk that serves the machine. `write` is given what differs between switches as a
`Settings` and writes the rest as the tests, the demo and the benchmarks need it.

Left to others: finding the ports and running the switch (`testbed.asterisk`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from testbed.installation import Installation, TestbedError
from testbed.tls import certificate_path

LOOPBACK = "127.0.0.1"

# Shared by all switches: Asterisk goes on to the next port where one is taken.
RTP_FIRST_PORT = 10_000
RTP_LAST_PORT = 19_999

# Loading by name takes half the time of loading all, and no module talks to the machine's own services.
WANTED_MODULES = (
    "app_*.so",
    "bridge_*.so",
    "cdr_csv.so",
    "cdr_manager.so",
    "chan_bridge_media.so",
    "chan_pjsip.so",
    "codec_a_mu.so",
    "codec_alaw.so",
    "codec_gsm.so",
    "codec_resample.so",
    "codec_ulaw.so",
    "format_gsm.so",
    "format_pcm.so",
    "format_sln.so",
    "format_wav*.so",
    "func_*.so",
    "pbx_config.so",
    "pbx_spool.so",
    "res_agi.so",
    "res_ari*.so",
    "res_clialiases.so",
    "res_convert.so",
    "res_crypto.so",
    "res_http_websocket.so",
    "res_musiconhold.so",
    "res_mutestream.so",
    "res_parking.so",
    "res_pjproject.so",
    "res_pjsip*.so",
    "res_rtp_asterisk.so",
    "res_sorcery_*.so",
    "res_speech.so",
    "res_srtp.so",
    "res_stasis*.so",
    "res_timing_timerfd.so",
    "res_tonedetect.so",
    "res_websocket_client.so",
)
UNWANTED_MODULES = (
    "*_odbc.so",
    "app_adsiprog.so",
    "app_agent_pool.so",
    "app_alarmreceiver.so",
    "app_amd.so",
    "app_audiosocket.so",
    "app_festival.so",
    "app_followme.so",
    "app_getcpeid.so",
    "app_jack.so",
    "app_minivm.so",
    "app_mp3.so",
    "app_queue.so",
    "app_sla.so",
    "app_sms.so",
    "app_test.so",
    "app_voicemail_*.so",
    "func_aes.so",
    "func_curl.so",
    "func_enum.so",
    "func_realtime.so",
    "func_srv.so",
    "res_pjsip_aoc.so",
    "res_pjsip_config_wizard.so",
    "res_pjsip_geolocation.so",
    "res_pjsip_history.so",
    "res_pjsip_phoneprov_provider.so",
    "res_pjsip_publish_asterisk.so",
    "res_pjsip_stir_shaken.so",
    "res_pjsip_transport_websocket.so",
    "res_sorcery_realtime.so",
    "res_stasis_test.so",
)


@dataclass(frozen=True)
class Line:
    """A customer's endpoint on the switch.

    Without a `password` the line is known by its From user alone and rings at `contact`, by default at the
    carrier's phones (so a call to it is answered there), where `rings` is the number that it has, by default its
    name. With one it is for a real softphone: it registers and authenticates with its name.
    """

    name: str
    accountcode: str = ""
    context: str = "outbound"
    password: str | None = None
    caller_id: str | None = None
    contact: str | None = None
    rings: str | None = None
    message_context: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_.+-]+", self.name):
            raise TestbedError(f"line name {self.name!r}: use letters, digits and _ . + - only")


# The tones of the United Kingdom (ITU-T E.180 supplement 2).
_INDICATIONS = """[general]
country=uk
[uk]
description = United Kingdom
ringcadence = 400,200,400,2000
dial = 350+440
busy = 400/375,0/375
ring = 400+450/400,0/200,400+450/400,0/2000
congestion = 400/400,0/350,400/225,0/525
"""

DEFAULT_LINES = tuple(Line(name, accountcode=name) for name in ("alice", "bob", "carol", "dave"))


@dataclass(frozen=True)
class Ports:
    """The loopback ports of one switch; `carrier` and `agi` are only reserved for those who will listen there."""

    http: int
    ami: int
    sip: int
    sip_tls: int
    carrier: int
    agi: int


@dataclass(frozen=True)
class Settings:
    """What differs between one switch and the next."""

    ports: Ports
    extensions: str
    lines: Sequence[Line]
    files: Mapping[str, str]
    ari_user: str
    ari_password: str
    ami_user: str
    ami_secret: str
    carrier_context: str = "inbound"
    sip_host: str = LOOPBACK
    log_levels: str = "notice,warning,error"
    agi_global: str = "FAIRDIAL_AGI_PORT"
    tls: bool = False
    name: str = ""


def write(installation: Installation, directory: Path, settings: Settings) -> None:
    """Write the configuration below `directory`, in the layout that `etc/asterisk.conf` names."""
    for name in ("etc", "var", "spool", "log/cdr-csv", "run", "keys/keys", "agi-bin"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    (directory / "spool" / "outgoing").mkdir(exist_ok=True)
    contents = {
        "asterisk.conf": asterisk_conf(installation, installation.inside(directory), settings.name),
        "modules.conf": _modules(installation),
        "logger.conf": f"[general]\ndateformat=%F %T.%3q\n[logfiles]\nmessages => {settings.log_levels}\n",
        "http.conf": _http(settings),
        "ari.conf": _ari(settings),
        "manager.conf": _ami(settings),
        "pjsip.conf": pjsip_conf(installation, directory, settings),
        "rtp.conf": f"[general]\nrtpstart={RTP_FIRST_PORT}\nrtpend={RTP_LAST_PORT}\nstrictrtp=no\n",
        "cdr.conf": _cdr(),
        "cdr_manager.conf": "[general]\nenabled=yes\n",
        "voicemail.conf": _voicemail(settings.lines),
        "extensions.conf": _extensions(settings),
        "confbridge.conf": "[general]\n[default_user]\ntype=user\n[default_bridge]\ntype=bridge\n",
        # The packages bring no music; the spoken digits do as a sound that does not end.
        "musiconhold.conf": f"[default]\nmode=files\ndirectory={installation.data_directory}/sounds/en/digits\n",
        "indications.conf": _INDICATIONS,
        **{
            f"{name}.conf": "[general]\n"
            for name in ("features", "res_parking", "udptl", "ccss", "pjproject")
        },
        **{f"{name}.conf": "" for name in ("acl", "cel", "codecs", "sorcery", "stasis")},
        **{
            f"{name}.conf": ""
            for name in ("cli", "cli_aliases", "cli_permissions", "dnsmgr", "websocket_client")
        },
        **{f"{name}.conf": "" for name in ("pjsip_notify", "res_speech", "extconfig")},
        **settings.files,
    }
    for name, content in contents.items():
        path = directory / "etc" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        path.chmod(0o600)


def asterisk_conf(installation: Installation, inside: str, name: str = "") -> str:
    """asterisk.conf of a switch whose own directory is `inside`, as Asterisk sees it. name: its systemname."""
    return f"""[directories]
astetcdir => {inside}/etc
astmoddir => {installation.module_directory}
astvarlibdir => {inside}/var
astdbdir => {inside}/var
astkeydir => {inside}/keys
astdatadir => {installation.data_directory}
astagidir => {inside}/agi-bin
astspooldir => {inside}/spool
astrundir => {inside}/run
astlogdir => {inside}/log
astsbindir => /usr/sbin
[options]
nocolor = yes
hideconnect = yes
documentation_language = en_US
{f"systemname = {name}" if name else ""}
[files]
astctl = ctl
"""


def _modules(installation: Installation) -> str:
    wanted = sorted(
        name
        for name in installation.modules()
        if any(fnmatchcase(name, pattern) for pattern in WANTED_MODULES)
        and not any(fnmatchcase(name, pattern) for pattern in UNWANTED_MODULES)
    )
    return "[modules]\nautoload=no\n" + "".join(f"load={name}\n" for name in wanted)


def _http(settings: Settings) -> str:
    return (
        f"[general]\nservername=switch\nenabled=yes\nbindaddr={LOOPBACK}\nbindport={settings.ports.http}\n"
        # The default of 100 is too low for a busy client that opens a connection for each request.
        "sessionlimit=1000\nsession_keep_alive=60000\n"
    )


def _ari(settings: Settings) -> str:
    return (
        "[general]\nenabled=yes\npretty=no\nwebsocket_write_timeout=100\n"
        f"[{settings.ari_user}]\ntype=user\nread_only=no\npassword={settings.ari_password}\npassword_format=plain\n"
    )


_WANTED = "Cdr|SuccessfulAuth|InvalidPassword|ChallengeResponseFailed|InvalidAccountID|FailedACL"
_EVENTFILTER = f"eventfilter=Event: ({_WANTED})"


def _ami(settings: Settings) -> str:
    # The least that FairDial works with, so that every test is one of it; docs/hardening.md says what needs which.
    return (
        f"[general]\nenabled=yes\nbindaddr={LOOPBACK}\nport={settings.ports.ami}\nwebenabled=no\n"
        f"[{settings.ami_user}]\nsecret={settings.ami_secret}\ndeny=0.0.0.0/0.0.0.0\n"
        f"permit={LOOPBACK}/255.255.255.255\nread=cdr,security\n{_EVENTFILTER}\nwrite=call,reporting\nwritetimeout=5000\n"
    )


def _cdr() -> str:
    return (
        "[general]\nenable=yes\nunanswered=yes\ncongestion=yes\n"
        "[csv]\nusegmtime=yes\nloguniqueid=yes\nloguserfield=yes\naccountlogs=no\n"
    )


def _voicemail(lines: Sequence[Line]) -> str:
    boxes = "".join(f"{line.name} => 1234,{line.name}\n" for line in lines)
    return f"[general]\nformat=gsm\nmaxsecs=180\nsendvoicemail=no\n[default]\n{boxes}"


def _extensions(settings: Settings) -> str:
    """The given dialplan; what it must know of the switch comes as globals after it, into its own section if
    it has one, as Asterisk reads only the first `[globals]`."""
    text = settings.extensions if settings.extensions.endswith("\n") else f"{settings.extensions}\n"
    merged = re.search(r"^\[globals\]", text, re.MULTILINE) is not None
    general = "" if re.search(r"^\[general\]", text, re.MULTILINE) else "[general]\n"
    heading = "[globals](+)" if merged else "[globals]"
    ports = settings.ports
    return (
        f"{general}{text}{heading}\n{settings.agi_global}={ports.agi}\nTESTBED_CARRIER_PORT={ports.carrier}\n"
    )


def pjsip_conf(installation: Installation, directory: Path, settings: Settings) -> str:
    """pjsip.conf: transport, trunk and lines."""
    sections = [
        # By user first: all phones of the testbed share the loopback address.
        "[global]\ntype=global\nendpoint_identifier_order=username,auth_username,ip\n"
        "user_agent=switch\nkeep_alive_interval=0\n",
        "[system]\ntype=system\ntimer_t1=500\ndisable_tcp_switch=yes\n",
        f"[udp]\ntype=transport\nprotocol=udp\nbind={settings.sip_host}:{settings.ports.sip}\n",
        _tls_transport(installation.inside(certificate_path(directory)), settings) if settings.tls else "",
        _endpoint(
            Line(
                "carrier",
                context=settings.carrier_context,
                contact=f"sip:{LOOPBACK}:{settings.ports.carrier}",
                # The far network is believed when it names the caller; customers are not.
                options={"trust_id_inbound": "yes", "send_pai": "yes"},
            ),
            settings,
        ),
        *(_endpoint(line, settings) for line in settings.lines),
    ]
    return "".join(sections)


def _tls_transport(certificate: str, settings: Settings) -> str:
    return (
        f"[tls]\ntype=transport\nprotocol=tls\nbind={settings.sip_host}:{settings.ports.sip_tls}\n"
        f"cert_file={certificate}\npriv_key_file={certificate}\nmethod=tlsv1_2\n"
    )


def _endpoint(line: Line, settings: Settings) -> str:
    """The sections of one line: endpoint, where it rings, and how it authenticates."""
    options = {
        "type": "endpoint",
        "transport": "udp",
        "context": line.context,
        "aors": line.name,
        "disallow": "all",
        "allow": "ulaw,alaw,gsm",
        "direct_media": "no",
        "media_address": settings.sip_host,
        "bind_rtp_to_media_address": "yes",
        "rtp_timeout": "0",
        "rtp_timeout_hold": "0",
        # Neither refreshes nor updates within a call: the phones follow fixed scenarios.
        "timers": "no",
        "send_connected_line": "no",
        "100rel": "no",
        "language": "en",
    }
    if line.accountcode:
        options["accountcode"] = line.accountcode
    if line.caller_id is not None:
        options["callerid"] = line.caller_id
    if line.message_context is not None:
        options["message_context"] = line.message_context
    if line.password is None:
        contact = line.contact or f"sip:{line.rings or line.name}@{LOOPBACK}:{settings.ports.carrier}"
        address = f"contact={contact}\nqualify_frequency=0\n"
        authentication = ""
        options["identify_by"] = "username"
    else:
        address = "max_contacts=5\nremove_existing=yes\nremove_unavailable=yes\nqualify_frequency=60\n"
        authentication = (
            f"[{line.name}]\ntype=auth\nauth_type=userpass\nusername={line.name}\npassword={line.password}\n"
        )
        options |= {"auth": line.name, "identify_by": "username,auth_username", "rtp_symmetric": "yes"}
        options |= {"force_rport": "yes", "rewrite_contact": "yes"}
    body = "".join(f"{key}={value}\n" for key, value in {**options, **line.options}.items())
    return f"[{line.name}]\n{body}[{line.name}]\ntype=aor\n{address}{authentication}"

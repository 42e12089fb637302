"""An Asterisk as a distribution installs it, with a phone and a trunk, and nothing of FairDial.

Its folder of configuration files holds the samples of the package, autoload and all, and what an engineer changed in
them: where it listens, one phone, one trunk, and a dialplan that dials. Whoever sets FairDial up on it finds what a
person finds: the program `asterisk`, which speaks to this very switch.

Left to others: running it (`testbed.asterisk`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from testbed.asterisk import Switch, own_directory
from testbed.configuration import Line, Ports, Settings, asterisk_conf, pjsip_conf
from testbed.installation import Installation
from testbed.ports import free_ports

READY_TIMEOUT_S = 60.0

NOT_HERE = (
    # They listen on ports of their own on every address, or look for hardware and other machines.
    *("chan_iax2", "chan_unistim", "chan_ooh323", "chan_mobile", "chan_motif", "chan_dahdi", "pbx_dundi"),
    *(
        "res_pktccops",
        "res_snmp",
        "res_xmpp",
        "res_corosync",
        "res_stun_monitor",
        "res_prometheus",
        "res_hep",
    ),
)

DIALPLAN = """
[phones]
exten => _0X.,1,Dial(PJSIP/${EXTEN}@carrier,60)
"""
"""What the engineer wrote below the samples."""


class StockSwitch(Switch):
    """A running Asterisk with a distribution's files. etc: where they are, for the switch as for the machine."""

    etc: Path
    program_folder: Path
    """Holds the program `asterisk` of this switch."""

    @classmethod
    @asynccontextmanager
    async def installed(
        cls, installation: Installation, *, dialplan: str = DIALPLAN, files: Mapping[str, str] | None = None
    ) -> AsyncIterator[StockSwitch]:
        """Run it until the block ends. dialplan: is written below the sample extensions.conf; files: others, by name.

        Raises `TestbedError` where it does not come up.
        """
        settings = Settings(
            ports=Ports(*free_ports(6)),
            extensions="",
            lines=(Line("alice", context="phones"), Line("bob", context="phones")),
            files={},
            ari_user=cls.ari_user,
            ari_password="",
            ami_user=cls.ami_user,
            ami_secret="",
        )
        with own_directory(installation) as directory, _same_path(installation, directory) as seen:
            _write(installation, directory, seen, settings, dialplan, files or {})
            switch = cls(installation, directory, settings)
            switch.etc = seen / "etc"
            switch.program_folder = directory / "bin"
            switch._write_program()
            try:
                await switch._launch(READY_TIMEOUT_S)
                yield switch
            finally:
                await switch._end()

    def _write_program(self) -> None:
        self.program_folder.mkdir()
        program = self.program_folder / "asterisk"
        command = " ".join(
            self.installation.command(
                "-C", self.installation.inside(self.directory / "etc" / "asterisk.conf")
            )
        )
        program.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        program.chmod(0o755)

    async def _ari_answers(self) -> None:
        """It has no ARI yet."""


@contextmanager
def _same_path(installation: Installation, directory: Path) -> Iterator[Path]:
    """A path that means `directory` inside the root of the installation as well as outside."""
    if installation.root is None:
        yield directory
        return
    name = Path("/tmp") / f"fairdial-stock-{directory.name}"
    links = {name: directory, installation.outside(str(name)): Path(installation.inside(directory))}
    try:
        for link, target in links.items():
            link.unlink(missing_ok=True)
            link.symlink_to(target)
        yield name
    finally:
        for link in links:
            link.unlink(missing_ok=True)


def _write(
    installation: Installation,
    directory: Path,
    seen: Path,
    settings: Settings,
    dialplan: str,
    files: Mapping[str, str],
) -> None:
    for name in ("var", "spool/outgoing", "log/cdr-csv", "run", "keys/keys", "agi-bin"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    samples, etc = installation.outside("/etc/asterisk"), directory / "etc"
    shutil.copytree(samples, etc)
    ports = settings.ports
    _change(etc / "http.conf", "[general]\n", f"[general]\nbindport={ports.http}\n")
    _change(etc / "manager.conf", "port = 5038", f"port = {ports.ami}")
    _change(
        etc / "modules.conf",
        "[modules]\n",
        "[modules]\n" + "".join(f"noload = {name}.so\n" for name in NOT_HERE),
    )
    _append(etc / "extensions.conf", dialplan)
    (etc / "asterisk.conf").write_text(asterisk_conf(installation, str(seen)))
    (etc / "pjsip.conf").write_text(pjsip_conf(installation, directory, settings))
    (etc / "rtp.conf").write_text("[general]\nrtpstart=10000\nrtpend=19999\nstrictrtp=no\n")
    for name, text in files.items():
        (etc / name).write_text(text)
    if os.geteuid() == 0:
        # As the package has it: they belong to the switch's own user.
        for path in (etc, *etc.rglob("*")):
            sample = samples / path.relative_to(etc)
            status = (sample if sample.exists() else samples / "extensions.conf").stat()
            os.chown(path, status.st_uid, status.st_gid)


def _change(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text, f"the sample {file.name} has no {old!r}"
    file.write_text(text.replace(old, new, 1))


def _append(file: Path, text: str) -> None:
    with file.open("a") as end:
        end.write(text)

"""The switch's own command line, `asterisk -rx`: where its files are, which version it is, and reloading it.

Leaves to its callers what follows from an answer.
"""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ANSWER_WITHIN_S: Final = 10.0
SEARCHED: Final = os.pathsep.join(("/usr/sbin", "/usr/local/sbin", "/sbin"))
"""Where `asterisk` lies, as a rule: a plain user's PATH has none of these."""
REPORTED_FAILURES: Final = (
    "no such command",
    "unable to connect",
    "failed to",
    "not loaded",
    "no such module",
)


class SwitchSilent(Exception):
    """The switch's command line gives no answer; the text says what and how to mend it."""


@dataclass(frozen=True, slots=True)
class RunningSwitch:
    """What a running Asterisk says of itself. etc: its configuration; logs: what it writes, cdr-csv below it."""

    version: str
    etc: Path
    logs: Path


class SwitchCli:
    """Asks the Asterisk that runs on this machine. Each question blocks, at most ANSWER_WITHIN_S."""

    def __init__(self, program: str | None = None) -> None:
        """program: name or path of `asterisk`; looked for, if left out."""
        path = os.pathsep.join((os.environ.get("PATH", ""), SEARCHED))
        self._program = program or shutil.which("asterisk", path=path) or "asterisk"

    def ask(self, command: str) -> str:
        """What it answers to a command. Raises SwitchSilent."""
        return self._run("-rx", command)

    def installed_version(self) -> str:
        """Version of the program, whether a switch runs or not. Raises SwitchSilent."""
        return version_in(self._run("-V"))

    def running(self) -> RunningSwitch:
        """What the running switch says of itself. Raises SwitchSilent."""
        said = self.ask("core show settings")
        fields = dict(re.findall(r"^ +([A-Za-z ]+): +(\S+)", said, re.MULTILINE))
        try:
            return RunningSwitch(
                fields["Version"], Path(fields["Configuration directory"]), Path(fields["Log directory"])
            )
        except KeyError as error:
            raise SwitchSilent(
                f"`core show settings` of the switch names no {error.args[0].lower()}; name its folder with"
                " --asterisk-etc"
            ) from error

    def carry_out(self, command: str) -> str:
        """Have the switch do something; its answer. Raises SwitchSilent with its words where it did not."""
        said = self.ask(command).strip()
        if any(words in said.casefold() for words in REPORTED_FAILURES):
            raise SwitchSilent(f"`{command}`: the switch says: {said}")
        return said

    def _run(self, *arguments: str) -> str:
        shown = " ".join((self._program, *arguments[:1], *(f"'{each}'" for each in arguments[1:])))
        try:
            done = subprocess.run(
                (self._program, *arguments),
                capture_output=True,
                text=True,
                errors="replace",
                timeout=ANSWER_WITHIN_S,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired as error:
            raise SwitchSilent(f"`{shown}` gave no answer within {ANSWER_WITHIN_S:g} s") from error
        except OSError as error:
            raise SwitchSilent(
                f"`{shown}` cannot be run ({error.strerror}); run this on the switch's own machine"
            ) from error
        if done.returncode != 0:
            words = " ".join((done.stdout + done.stderr).split())
            raise SwitchSilent(
                f"`{shown}` failed: {words or f'status {done.returncode}'}; start Asterisk, and run this as root or"
                " as its own user"
            )
        return done.stdout


def version_in(text: str) -> str:
    """The version in what `asterisk -V` or `core show version` says: "Asterisk 22.10.1 built by …"."""
    found = re.search(r"Asterisk (\S+)", text)
    return found[1] if found else text.strip()

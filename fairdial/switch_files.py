"""The folder of asterisk.conf for those who examine it: each file read once, what cannot be read told as a finding.

Leaves what is wrong with a setting to `hardening` and `switch_access`.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fairdial.asterisk_conf import Conf, ConfError, Place, Setting, read_conf
from fairdial.doctor import FileFinding

NAMES_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class Needs:
    """What FairDial is at this switch. app: its Stasis application. cdr_file: whether it reads Master.csv; logins:
    whether it watches logins.
    """

    ari_user: str = "fairdial"
    ami_user: str = "fairdial"
    app: str = "fairdial"
    cdr_file: bool = False
    logins: bool = False


class SwitchFiles:
    """Files by name, each read once. confs: those that were read; faults: what could not be."""

    def __init__(self, folder: Path) -> None:
        self.confs: dict[str, Conf] = {}
        self.faults: list[FileFinding] = []
        self._folder = folder
        self._absent: set[str] = set()

    def conf(self, name: str) -> Conf | None:
        """The file of that name; None where there is none, or it cannot be read."""
        if name not in self.confs and name not in self._absent:
            conf = self._read(name)
            if conf is None:
                self._absent.add(name)
            else:
                self.confs[name] = conf
        return self.confs.get(name)

    def _read(self, name: str) -> Conf | None:
        path = self._folder / name
        try:
            conf = read_conf(path, self._folder)
        except FileNotFoundError:
            return None
        except OSError as error:
            fault, cure = f"cannot be read ({error.strerror})", "run the doctor as a user who may (root)"
            self.faults.append(warning(name, path, fault, cure))
            return None
        except ConfError as error:
            self.faults.append(failure(name, error.place, error.fault, error.cure))
            return None
        for note in conf.executed:
            fault = f"#exec {note.text}: what that program writes is not examined"
            self.faults.append(warning(name, note.place, fault, "write it down instead, or look yourself"))
        return conf


def warning(
    part: str, place: Place | Path, text: str, cure: str, sections: tuple[str, ...] = ()
) -> FileFinding:
    """FairDial works in spite of it."""
    return FileFinding(part, text, cure, place=str(place), sections=sections)


def failure(part: str, place: Place | Path, text: str, cure: str) -> FileFinding:
    """FairDial cannot work so."""
    return FileFinding(part, text, cure, place=str(place), grave=True)


def some(names: Collection[str]) -> str:
    """The first few of the names, and how many more there are."""
    shown = ", ".join(list(names)[:NAMES_SHOWN])
    return shown if len(names) <= NAMES_SHOWN else f"{shown} and {len(names) - NAMES_SHOWN} more"


def is_yes(setting: Setting | None) -> bool:
    """Whether it is set and ast_true() takes it as true."""
    return setting is not None and setting.value.casefold() in {"yes", "true", "y", "t", "1", "on"}


def is_no(setting: Setting | None) -> bool:
    """Whether it is set and ast_false() takes it as false."""
    return setting is not None and setting.value.casefold() in {"no", "false", "n", "f", "0", "off"}

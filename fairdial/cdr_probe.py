"""Can the switch's Master.csv be read here, or could it be once there is a first record?"""

from pathlib import Path

from fairdial.doctor import Ailment


def file_is_readable(path: Path) -> None:
    """Asterisk makes the file with the first record, in a folder that must be there. Raises Ailment."""
    try:
        with path.open("rb"):
            return
    except FileNotFoundError:
        pass
    except OSError as error:
        raise Ailment(
            f"{path} cannot be read ({error.strerror})",
            "let FairDial's user read it: as a rule, add it to the group asterisk",
        ) from error
    if not path.parent.is_dir():
        raise Ailment(
            f"{path.parent} is not there: the switch writes no Master.csv into it",
            "set cdr.file to the switch's log directory with cdr-csv/Master.csv after it, and load cdr_csv.so",
        )

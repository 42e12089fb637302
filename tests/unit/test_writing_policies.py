"""docs/writing-policies.md: the file as each step leaves it is sound, and each command shows what stands below it."""

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fairdial.console.cli import app
from fairdial.main import Parts
from fairdial.policy.document import parse_policy
from fairdial.policy.lint import lint

PROJECT = Path(__file__).parents[2]
PAGE = (PROJECT / "docs/writing-policies.md").read_text(encoding="utf-8")
STEPS = re.split(r"^## ", PAGE, flags=re.MULTILINE)
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
Sections = dict[str, str]


def sections(text: str) -> Sections:
    """The parts of a policy by their headers; "" is what stands before the first. Comments go with what follows."""
    found, header, held = Sections(), "", ""
    for line in text.splitlines(keepends=True):
        if line.startswith("#"):
            held += line
            continue
        if line.startswith("["):
            header = line.strip()
        found[header] = found.get(header, "") + held + line
        held = ""
    return found


def plain(text: str) -> list[str]:
    """Lines with each stretch of blanks as one."""
    return [" ".join(line.split()) for line in text.splitlines()]


def run(command: str) -> str:
    program, *arguments = shlex.split(command)
    assert program == "fairdial"
    done = CliRunner().invoke(app, arguments, obj=Parts(), env={"COLUMNS": "200"})
    # 1: refused, or found something, which the text below says.
    assert done.exit_code in (0, 1), f"{command}: {done.output}"
    return done.output


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "office.toml").write_text("")
    (tmp_path / "fairdial.toml").write_text(next(text for language, text in BLOCK.findall(PAGE)))
    [rates] = [text for language, text in BLOCK.findall(PAGE) if language == "csv"]
    (tmp_path / "rates.csv").write_text(rates)
    shutil.copy(PROJECT / "tests/data/cdr/Master.csv", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FAIRDIAL_CONFIG", "fairdial.toml")
    return tmp_path


def blocks_of(step: str) -> Iterator[tuple[str, str]]:
    yield from BLOCK.findall(step)


def test_each_step_leaves_a_sound_file_and_its_commands_show_what_is_written(folder: Path) -> None:
    policy, shown, commands = Sections(), [""], 0
    for step in STEPS[1:]:
        for language, text in blocks_of(step):
            if language == "toml":
                policy |= sections(text)
                whole = "".join(policy.values())
                assert list(lint(whole, "office.toml")) == []
                named = parse_policy(whole, "office.toml")
                file = "policies/office.toml" if named.version == "1" else f"office-{named.version}.toml"
                (folder / file).write_text(whole)
            elif language == "console":
                given = [line.removeprefix("$ ") for line in text.splitlines()]
                shown = [line for command in given for line in plain(run(command))]
                commands += len(given)
            elif language == "text":
                at = 0
                for line in plain(text):
                    # In the order of the commands; a line of a table may begin with what is written.
                    found = [number for number in range(at, len(shown)) if line in shown[number]]
                    assert found, f"{line!r} is not shown: {shown[at:]}"
                    at = found[0]
    assert commands > 20
    assert len(STEPS) == 11

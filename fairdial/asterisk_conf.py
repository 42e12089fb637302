"""Asterisk's configuration files as Asterisk reads them: sections, templates, includes, with file and line of all.

Responsible for the syntax of `config.c`: `[name](!)`, `[name](template)`, `[name](+)`, `key = value`, `key => value`,
`key += value`, comments (`;`, `;-- --;`), `#include`, `#tryinclude`. `#exec` is never run: it is named, so that a
reader knows of settings that are not here. Leaves to its callers what a setting means.

Where Asterisk gives a file up, `ConfError` is raised; what it only skips, it skips here too, and says so in `skipped`.
Pure but for reading the files.
"""

import glob
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

DEPTH_MAX = 10
"""Files within files, as in Asterisk (MAX_INCLUDE_LEVEL)."""
FILES_MAX = 1_000
BYTES_MAX = 16 * 1024 * 1024
"""Of all files together."""
LINE_CHARACTERS_MAX = 8_191
"""Asterisk reads the rest of a longer line as another one."""
SETTINGS_MAX = 1_000_000
"""Of all sections together: each section holds a copy of what its templates have."""

_HEADING = re.compile(r"\[(?P<name>[^\]]*)\](?:\((?P<options>[^)]*)(?P<closed>\))?)?")
_DIRECTIVE = re.compile(r"#(?P<name>\w+)\s*(?P<argument>.*)")
_BRACES = re.compile(r"\{([^{}]*)\}")
_ESCAPED = re.compile(r"\\;")


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a file, from 1."""

    file: Path
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class ConfError(ValueError):
    """Asterisk would not read this file. The text names file, line and cure."""

    def __init__(self, place: Place, fault: str, cure: str) -> None:
        super().__init__(f"{place}: {fault}; {cure}")
        self.place, self.fault, self.cure = place, fault, cure


@dataclass(frozen=True, slots=True)
class Setting:
    """`key = value`, or `key => value`; its place is where it is written, in a template too."""

    key: str
    value: str
    place: Place


@dataclass(frozen=True, slots=True)
class Section:
    """`[name]` with its settings in order, those of its templates first. place: of its (first) heading."""

    name: str
    settings: tuple[Setting, ...]
    place: Place
    template: bool = False
    inherits: tuple[str, ...] = ()

    def all(self, key: str) -> tuple[Setting, ...]:
        """Each setting of that key, in order; case does not matter."""
        wanted = key.casefold()
        return tuple(setting for setting in self.settings if setting.key.casefold() == wanted)

    def last(self, key: str) -> Setting | None:
        """The setting of that key that counts where a key has one value: the last."""
        found = self.all(key)
        return found[-1] if found else None

    def value(self, key: str, default: str = "") -> str:
        """The value of `last`, or the default."""
        found = self.last(key)
        return default if found is None else found.value


@dataclass(frozen=True, slots=True)
class Note:
    """A line that is not among the settings: skipped by Asterisk, or a program that it may run.

    The text of one that is skipped has nothing of the line, which may hold a secret.
    """

    place: Place
    text: str


@dataclass(frozen=True, slots=True)
class Conf:
    """A file with all that it includes. sections: in order, without templates; a name may come more than once.

    executed: the `#exec` lines, none of them run. skipped: lines that Asterisk reads nothing from. files: all that
    were read.
    """

    path: Path
    sections: tuple[Section, ...]
    templates: tuple[Section, ...] = ()
    executed: tuple[Note, ...] = ()
    skipped: tuple[Note, ...] = ()
    files: tuple[Path, ...] = ()

    def named(self, name: str) -> tuple[Section, ...]:
        """The sections of that name; case does not matter."""
        wanted = name.casefold()
        return tuple(section for section in self.sections if section.name.casefold() == wanted)

    def last(self, section: str, key: str) -> Setting | None:
        """The last setting of that key in all sections of that name."""
        found = [setting for each in self.named(section) for setting in each.all(key)]
        return found[-1] if found else None

    def of_type(self, kind: str) -> Iterator[Section]:
        """Sections whose last `type` is that, as PJSIP's objects have it."""
        return (section for section in self.sections if section.value("type").casefold() == kind)


def read_conf(path: Path, folder: Path | None = None, files_max: int | None = None) -> Conf:
    """The file and what it includes. folder: where relative includes count from (None: where the file lies).
    files_max: how many files there may be (None: FILES_MAX).

    Raises ConfError, and OSError where the file itself cannot be read. Text that is not UTF-8 is read with its odd
    bytes replaced.
    """
    reader = _Reader(path.parent if folder is None else folder, FILES_MAX if files_max is None else files_max)
    reader.read(path)
    built = [draft.built() for draft in reader.drafts]
    return Conf(
        path,
        tuple(section for section in built if not section.template),
        tuple(section for section in built if section.template),
        tuple(reader.executed),
        tuple(reader.skipped),
        tuple(reader.files),
    )


@dataclass(slots=True)
class _Draft:
    """A section while it is read."""

    name: str
    place: Place
    template: bool = False
    inherits: list[str] = field(default_factory=list)
    settings: list[Setting] = field(default_factory=list)

    def built(self) -> Section:
        return Section(self.name, tuple(self.settings), self.place, self.template, tuple(self.inherits))


class _Reader:
    """Reads line by line into `drafts`; `_current` is the section that a setting now belongs to."""

    def __init__(self, folder: Path, files_max: int) -> None:
        self.drafts: list[_Draft] = []
        self.executed: list[Note] = []
        self.skipped: list[Note] = []
        self.files: list[Path] = []
        self._folder = folder
        self._files_max = files_max
        self._open: list[str] = []
        self._first: dict[str, _Draft] = {}
        self._current: _Draft | None = None
        self._bytes = 0
        self._settings = 0

    def read(self, path: Path, by: Place | None = None) -> None:
        """Read a file into the drafts. by: the line that includes it."""
        by = by or Place(path, 1)
        real = os.path.realpath(path)
        if real in self._open:
            raise ConfError(by, f"{path} includes itself, or a file that includes it", "take this line away")
        if len(self._open) >= DEPTH_MAX:
            raise ConfError(
                by, f"more than {DEPTH_MAX} files within one another", "include them side by side"
            )
        if len(self.files) >= self._files_max:
            raise ConfError(by, f"more than {self._files_max} files", "include fewer, larger ones")
        with path.open("rb") as file:
            content = file.read(BYTES_MAX - self._bytes + 1)
        self._bytes += len(content)
        if self._bytes > BYTES_MAX:
            raise ConfError(by, f"more than {BYTES_MAX} bytes in all", "include less")
        self.files.append(path)
        self._open.append(real)
        for number, line in self._uncommented(path, content.decode("utf-8-sig", errors="replace")):
            self._line(line, Place(path, number))
        self._open.pop()

    def _uncommented(self, path: Path, text: str) -> Iterator[tuple[int, str]]:
        """Each line that says something, without its comments."""
        level, begun = 0, 0
        for number, line in enumerate(text.split("\n"), start=1):
            if len(line) > LINE_CHARACTERS_MAX:
                raise ConfError(
                    Place(path, number), f"a line longer than {LINE_CHARACTERS_MAX} characters", "break it"
                )
            kept, before = _strip(line, level), level
            level = kept[1]
            begun = number if level and not before else begun
            if said := kept[0].strip():
                yield number, said
        if level:
            self.skipped.append(Note(Place(path, begun), "the comment that begins here has no end"))

    def _line(self, line: str, place: Place) -> None:
        match line[0]:
            case "[":
                self._heading(line, place)
            case "#":
                self._directive(line, place)
            case _:
                self._setting(line, place)

    def _heading(self, line: str, place: Place) -> None:
        found = _HEADING.match(line)
        if found is None:
            raise ConfError(place, "a section's name has no end", "write it as [name]")
        if found["options"] is not None and found["closed"] is None:
            raise ConfError(place, f"[{found['name']}] has options without end", "put ) after them")
        name, options = found["name"], (found["options"] or "").split(",")
        if any(option.startswith("+") for option in options):
            draft = self._continued(name, options, place)
        else:
            draft = _Draft(name, place)
            self.drafts.append(draft)
        for option in options:
            if option == "!":
                draft.template = True
            elif option and not option.startswith("+"):
                self._inherit(draft, option, place)
        self._first.setdefault(name.casefold(), draft)
        self._current = draft

    def _inherit(self, draft: _Draft, template: str, place: Place) -> None:
        base = self._first.get(template.casefold())
        if base is None:
            raise ConfError(
                place,
                f"[{draft.name}] inherits from [{template}], which is not there",
                "define it above this line, and leave no spaces between the brackets",
            )
        self._count(place, len(base.settings))
        draft.inherits.append(base.name)
        draft.settings += base.settings

    def _continued(self, name: str, options: list[str], place: Place) -> _Draft:
        """The section that `[name](+)` adds to: the first of that name, with `(+key=value)` the first that has it."""
        conditions = [option[1:].split("=", 1) for option in options if option[0:1] == "+" and "=" in option]
        for draft in self.drafts:
            if draft.name.casefold() == name.casefold() and all(_has(draft, *each) for each in conditions):
                return draft
        raise ConfError(
            place, f"[{name}](+) adds to a section that is not there", "define it above this line"
        )

    def _setting(self, line: str, place: Place) -> None:
        if self._current is None:
            raise ConfError(place, "a setting before the first section", "put [general] or another above it")
        name, equals, value = line.partition("=")
        adds = name.endswith("+")
        key, value = name.removesuffix("+").strip(), value.removeprefix(">").strip()
        if not equals or not key:
            said = "has no name before =" if equals else "has no ="
            self.skipped.append(Note(place, f"the line {said}; Asterisk reads nothing from it"))
            return
        settings = self._current.settings
        before = [at for at, each in enumerate(settings) if each.key == key] if adds else []
        if before:
            settings[before[-1]] = Setting(key, f"{settings[before[-1]].value} {value}", place)
            return
        self._count(place, 1)
        settings.append(Setting(key, value, place))

    def _count(self, place: Place, more: int) -> None:
        self._settings += more
        if self._settings > SETTINGS_MAX:
            raise ConfError(place, f"more than {SETTINGS_MAX} settings in all", "inherit less")

    def _directive(self, line: str, place: Place) -> None:
        found = _DIRECTIVE.match(line)
        name = "" if found is None else found["name"].lower()
        argument = "" if found is None else found["argument"].strip()
        if len(argument) > 1 and argument[0] + argument[-1] in {'""', "<>"}:
            argument = argument[1:-1].strip()
        if name == "exec":
            self.executed.append(Note(place, argument))
        elif name in {"include", "tryinclude"} and argument:
            self._include(argument, place, tried=name == "tryinclude")
        else:
            self.skipped.append(Note(place, "begins with # and is no directive, or nothing follows it"))

    def _include(self, pattern: str, place: Place, *, tried: bool) -> None:
        found = self._matching(pattern)
        if not found and not tried:
            raise ConfError(
                place, f"#include {pattern}: there is no such file", "put it there, or write #tryinclude"
            )
        inside = self._current
        for path in found:
            try:
                self.read(path, place)
            except OSError as error:
                raise ConfError(
                    place, f"{path} cannot be read ({error.strerror})", "let whoever asks read it"
                ) from error
        # As in Asterisk: what follows the directive belongs to the section in which it stands.
        self._current = inside

    def _matching(self, pattern: str) -> list[Path]:
        found = [
            match
            for each in _alternatives(pattern)
            for match in sorted(glob.glob(str(self._folder / each)))  # noqa: PTH207 - Path.glob takes no absolute one
        ]
        return [Path(match) for match in found[: FILES_MAX + 1] if Path(match).is_file()]


def _has(draft: _Draft, key: str, value: str) -> bool:
    try:
        wanted = re.compile(value)
    except (re.error, OverflowError, RecursionError):
        return False
    return any(each.key == key and wanted.fullmatch(each.value) is not None for each in draft.settings)


def _alternatives(pattern: str) -> list[str]:
    """`a{b,c}` as `ab` and `ac` (GLOB_BRACE), each once; of the first FILES_MAX."""
    ahead, names = [pattern], list[str]()
    while ahead and len(names) < FILES_MAX:
        first = ahead.pop()
        found = _BRACES.search(first)
        if found is None:
            names.append(first)
            continue
        start, end = first[: found.start()], first[found.end() :]
        ahead += [f"{start}{middle}{end}" for middle in reversed(found[1].split(","))]
    # What stands outside braces within braces was doubled.
    return list(dict.fromkeys(names))


def _strip(line: str, level: int) -> tuple[str, int]:
    """A line without comments, and how many `;--` are open after it. level: how many were before."""
    kept, at = "", 0
    while at < len(line):
        if level:
            opened, closed = _opening(line, at), line.find("--;", at)
            if closed < 0 and opened < 0:
                return kept, level
            if opened >= 0 and (closed < 0 or opened < closed):
                level, at = level + 1, opened + 3
            else:
                level, at = level - 1, closed + 3
            continue
        semicolon = _unescaped(line, at)
        if semicolon < 0:
            return kept + _ESCAPED.sub(";", line[at:]), 0
        kept += _ESCAPED.sub(";", line[at:semicolon])
        if _opening(line, semicolon) != semicolon:
            return kept, 0
        level, at = 1, semicolon + 3
    return kept, level


def _unescaped(line: str, at: int) -> int:
    found = line.find(";", at)
    while found > 0 and line[found - 1] == "\\":
        found = line.find(";", found + 1)
    return found


def _opening(line: str, at: int) -> int:
    """Where `;--` stands that begins a comment of several lines; `;---` is one of a single line."""
    found = line.find(";--", at)
    while found >= 0 and line.startswith(";---", found):
        found = line.find(";--", found + 1)
    return found

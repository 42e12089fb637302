"""The package's copyright file names each library that comes inside psycopg's, which have no folder of their own."""

import fnmatch
import re
from importlib.metadata import files
from pathlib import Path

FILE = Path(__file__).parents[2] / "packaging" / "debian" / "copyright"
LIBRARIES = sorted(
    f"/{file}" for file in files("psycopg-binary") or () if file.parts[0] == "psycopg_binary.libs"
)
PARAGRAPHS = [
    dict(re.findall(r"^([A-Z]\w+): ?((?:.*\n)(?: .*\n)*)", f"{paragraph}\n", re.MULTILINE))
    for paragraph in FILE.read_text(encoding="utf-8").split("\n\n")
]


def test_each_library_has_its_licence_and_each_licence_its_text() -> None:
    assert any("libpq" in library for library in LIBRARIES)
    texts = {each["License"].split()[0] for each in PARAGRAPHS if "Files" not in each and "License" in each}
    for library in LIBRARIES:
        naming = [
            each["License"].strip()
            for each in PARAGRAPHS
            if any(
                fnmatch.fnmatch(library, pattern)
                for pattern in each.get("Files", "").split()
                if pattern != "*"
            )
        ]
        assert len(naming) == 1, library
        assert naming[0] in texts


def test_no_paragraph_is_of_a_library_that_does_not_come() -> None:
    patterns = [
        pattern
        for each in PARAGRAPHS
        for pattern in each.get("Files", "").split()
        if "psycopg_binary.libs" in pattern
    ]
    assert len(patterns) > 5
    assert [pattern for pattern in patterns if not fnmatch.filter(LIBRARIES, pattern)] == []

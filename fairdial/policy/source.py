"""On which line of a TOML text a key stands, so that findings can point at it.

`tomllib` reads values but forgets where they stood. This scanner knows only as much TOML as that
takes: headers, keys, and where a value that runs over several lines ends. Keys inside arrays and inline
tables stand on the line of the key that holds them.
"""

import re
from collections.abc import Iterator, Mapping

from fairdial.policy.faults import KeyPath

_PART = r"""(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')"""
_DOTTED = rf"{_PART}(?:\s*\.\s*{_PART})*"
_HEADER = re.compile(rf"\s*(\[\[?)\s*({_DOTTED})\s*\]")
_KEY = re.compile(rf"\s*({_DOTTED})\s*=")
# Whatever may hide a bracket comes first: strings of several lines, strings of one, comments.
_TOKEN = re.compile(r'"""|\'\'\'|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'|#.*|[\[\]{}]')


def key_lines(text: str) -> dict[KeyPath, int]:
    """The line, from 1, of each key and table header of a TOML text."""
    lines: dict[KeyPath, int] = {}
    arrays: dict[KeyPath, int] = {}
    table: KeyPath = ()
    for number, line in _statements(text):
        if header := _HEADER.match(line):
            table = _placed(_parts(header[2]), arrays, opens=header[1] == "[[")
            lines.setdefault(table[:-1] if isinstance(table[-1], int) else table, number)
            lines.setdefault(table, number)
        elif key := _KEY.match(line):
            path = table
            for part in _parts(key[1]):
                path = (*path, part)
                lines.setdefault(path, number)
    return lines


def line_of(lines: Mapping[KeyPath, int], path: KeyPath) -> int:
    """The line of a key, or of the nearest table or key around it that the text has; 1 if there is none."""
    for length in range(len(path), 0, -1):
        if path[:length] in lines:
            return lines[path[:length]]
    return 1


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Lines on which something begins, and not those on which a value goes on."""
    depth, quote = 0, ""
    # Not splitlines(): TOML knows fewer ends of a line than Python does.
    for number, line in enumerate(text.split("\n"), start=1):
        if depth == 0 and not quote:
            yield number, line
        at = 0
        while True:
            if quote:
                end = line.find(quote, at)
                if end < 0:
                    break
                at, quote = end + len(quote), ""
            token = _TOKEN.search(line, at)
            if token is None:
                break
            at = token.end()
            match token[0]:
                case '"""' | "'''":
                    quote = token[0]
                case "[" | "{":
                    depth += 1
                case "]" | "}":
                    depth = max(0, depth - 1)


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in re.findall(_PART, dotted))


def _placed(parts: tuple[str, ...], arrays: dict[KeyPath, int], *, opens: bool) -> KeyPath:
    # [allowances.weights] speaks of the last [[allowances]] before it.
    path: KeyPath = ()
    for index, part in enumerate(parts):
        path = (*path, part)
        if opens and index == len(parts) - 1:
            arrays[path] = arrays.get(path, -1) + 1
        if path in arrays:
            path = (*path, arrays[path])
    return path

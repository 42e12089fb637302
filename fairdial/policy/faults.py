"""What is wrong with a document, in an operator's words: the key, the fault, the cure.

Turns what `tomllib` and pydantic say into `Fault`s, with a near miss where a key is unknown. Knows models only by
their fields, so it serves any document; what the rules mean together is `lint.py`'s.
"""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import chain
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

KeyPath = tuple[str | int, ...]
"""Where a key stands in a document: ("allowances", 0, "limit_s")."""

_FACTORS = {
    "_ms": "milliseconds / 1000",
    "_sec": "the same number",
    "_secs": "the same number",
    "_seconds": "the same number",
    "_m": "minutes x 60",
    "_min": "minutes x 60",
    "_mins": "minutes x 60",
    "_minutes": "minutes x 60",
    "_h": "hours x 3600",
    "_hours": "hours x 3600",
}
"""Endings of keys in other units than seconds, and how to turn their numbers into seconds."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of a document. path: () for the document itself."""

    path: KeyPath
    words: str
    cure: str = ""

    @property
    def key(self) -> str:
        """The path with dots, as messages name it."""
        return ".".join(str(part) for part in self.path) or "document"

    def __str__(self) -> str:
        said = f"{self.words}; {self.cure}" if self.cure else self.words
        return said if self.path == ("toml",) else f"{self.key}: {said}"


class NotToml(ValueError):
    """A text is no TOML, or none that can be used. fault: what is wrong with it."""

    def __init__(self, words: str, cure: str) -> None:
        self.fault = Fault(("toml",), f"not TOML: {words}", cure)
        super().__init__(str(self.fault))


def toml_json(text: str) -> str:
    """A TOML document as JSON, times as texts. Raises NotToml.

    JSON, as TOML knows neither sets nor enums, which strict validation takes from JSON's lists and strings alone.
    """
    try:
        return json.dumps(tomllib.loads(text), default=str)
    except tomllib.TOMLDecodeError as error:
        raise NotToml(str(error), "correct the text there") from error
    except RecursionError:
        raise NotToml(
            "brackets, or names with dots, in hundreds within each other", "write it flat"
        ) from None
    except ValueError as error:
        # Python's bound on the digits of an integer, which keeps reading it from taking for ever.
        raise NotToml("a whole number of thousands of digits", "write a smaller one") from error


def faults_of(error: ValidationError, model: type[BaseModel]) -> tuple[Fault, ...]:
    """The faults that pydantic found while it read a document as `model`."""
    return tuple(_fault(found, model) for found in error.errors() if _tells(found))


def _tells(found: Mapping[str, Any]) -> bool:
    # Where a list or a word may stand, a faulty list fails as a word as well, and the other way round.
    wrong_word = found["type"] == "literal_error" and isinstance(found["input"], list)
    wrong_list = found["type"] == "frozen_set_type" and isinstance(found["input"], str)
    return not wrong_word and not wrong_list


def _fault(found: Mapping[str, Any], model: type[BaseModel]) -> Fault:
    # Parts such as "frozenset[...]" and "[key]" are pydantic's, not the operator's; a key that is not known, which
    # comes last, is, however it is written.
    unknown = found["loc"][-1:] if found["type"] == "extra_forbidden" else ()
    around = found["loc"][: len(found["loc"]) - len(unknown)]
    path = (*(part for part in around if "[" not in str(part)), *unknown)
    match found["type"]:
        case "missing":
            return Fault(path, "missing", "write it")
        case "extra_forbidden":
            return Fault(path, "no such key", _near_miss(str(path[-1]), _keys_at(model, path[:-1])))
        case "value_error":
            # Our own checks say "what is wrong; cure" or "what is wrong: cure".
            words, *cure = re.split(r"; |: (?=write )", str(found["ctx"]["error"]), maxsplit=1)
            return Fault(path, words, "".join(cure))
        case _:
            return Fault(path, f"{found['msg']} (found {found['input']!r:.80})")


def _near_miss(key: str, known: Sequence[str]) -> str:
    for ending, factor in _FACTORS.items():
        in_seconds = f"{key.removesuffix(ending)}_s"
        if key.endswith(ending) and in_seconds in known:
            return f"write {in_seconds} ({factor})"
    close = get_close_matches(key, known, n=1, cutoff=0.7) or [name for name in known if f"{key}_s" == name]
    if close:
        return f"write {close[0]}"
    return f"remove it or correct its spelling; known here: {', '.join(known)}"


def _keys_at(model: type[BaseModel], path: KeyPath) -> tuple[str, ...]:
    for part in path:
        if isinstance(part, int):
            continue
        inner = next(_models_in(model.model_fields[part].annotation), None)
        if inner is None:
            return ()
        model = inner
    return tuple(model.model_fields)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    else:
        yield from chain.from_iterable(_models_in(part) for part in get_args(annotation))

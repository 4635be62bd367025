# SPDX-License-Identifier: Apache-2.0
"""Turn the model's validation errors into sentences: what is wrong, with which value, and what is allowed."""

import datetime as dt
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from glideflow.documents.document import Keys
from glideflow.documents.shape import Root, allowed_keys, meant_key, unknown_key
from glideflow.domain.model import SpecError

_SHOWN_CHARACTERS = 60
_TAGS = frozenset({"text", "mapping"})

EXAMPLES = {
    "schema_version": "`schema_version: 1`",
    "name": "`name: my-task`",
    "command": "`command: python3 analyse.py {inputs}`",
    "file": "`file: result.txt`",
}
"""An example for each key that must be given."""

PATTERNS = {
    r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$": (
        "must be letters, digits, `.`, `_` and `-`, at most 100 of them, starting with a letter or digit"
    ),
    r"^[A-Za-z0-9][A-Za-z0-9._:/@+=-]{0,199}$": (
        "must be letters, digits and `._:/@+=-`, at most 200 of them, starting with a letter or digit"
    ),
    r"^[a-z][a-z0-9_]{0,39}$": "must be small letters, digits and `_`, at most 40 of them, starting with a letter",
    r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}(@[A-Za-z0-9][A-Za-z0-9._-]{0,99})?$": (
        "must be the name of a dataset, as `name`, or `name@12` for what task 12 wrote into it"
    ),
    r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$": (
        "must be letters, digits, `.`, `_` and `-`, at most 63 of them, starting with a letter or digit"
    ),
    r"^[a-z]+$": "must be small letters",
    r"^[0-9a-f]{64}$": "must be 64 hexadecimal digits (0-9, a-f)",
}
"""What each regular expression of the model means."""


@dataclass(frozen=True)
class Sentence:
    """One problem of a file."""

    key: Keys
    """Path of the key."""
    text: str
    """What is wrong with it."""


def sentences(error: ValidationError, root: Root) -> list[Sentence]:
    """Return the problems behind a validation error.

    Args:
        error: What pydantic found.
        root: The model that was validated.
    """
    problems: list[dict[str, Any]] = [dict(problem) for problem in error.errors()]
    unknown = [problem["loc"] for problem in problems if problem["type"] == "extra_forbidden"]
    # A misspelt key is not missing as well.
    misspelt = {(*keys[:-1], meant_key(keys, root)) for keys in unknown}
    return [
        _sentence(problem, root)
        for problem in problems
        if problem["type"] != "missing" or problem["loc"] not in misspelt
    ]


def show(value: Any) -> str:
    """Return a value as a user would write it, shortened."""
    if value is None:
        return "empty"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, dt.date):
        return f"the date {value}"
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, str | int | float) else repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 4]} ..."


def _sentence(problem: dict[str, Any], root: Root) -> Sentence:
    keys: Keys = problem["loc"]
    cause = problem.get("ctx", {}).get("error")
    if keys and keys[-1] == "[key]":
        keys = keys[:-1]
        problem["input"] = keys[-1]
    keys = tuple(key for number, key in enumerate(keys) if not (key in _TAGS and isinstance(keys[number - 1], int)))
    if isinstance(cause, SpecError):
        return Sentence(keys + cause.key, str(cause))
    if problem["type"] == "value_error":
        return Sentence(keys, str(cause))
    if problem["type"] == "extra_forbidden":
        return Sentence(keys, unknown_key(keys, root))
    if problem["type"] == "missing":
        return Sentence(keys, f"missing; write for example {EXAMPLES.get(str(keys[-1]), 'a value')}")
    describe = _DESCRIPTIONS.get(problem["type"])
    expected = describe(problem) if describe else problem["msg"]
    if problem["type"] in ("dict_type", "model_type"):
        expected = _mapping(keys, root)
    return Sentence(keys, f"{expected}, not {show(problem['input'])}{_remedy(problem)}")


def _remedy(problem: dict[str, Any]) -> str:
    value = problem["input"]
    if problem["type"] == "string_type" and isinstance(value, str | int | float | dt.date):
        text = str(value).lower() if isinstance(value, bool) else value
        return f'; write it in quotes: "{text}"'
    if value is None:
        return "; give a value or remove the key"
    return ""


def _mapping(keys: Keys, root: Root) -> str:
    allowed = ", ".join(f"`{name}`" for name in allowed_keys(keys, root))
    return f"must be a mapping with the keys {allowed}" if allowed else "must be a mapping of `key: value`"


_BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}


def _number(problem: dict[str, Any]) -> str:
    context = problem.get("ctx", {})
    bound, limit = next(((word, context[key]) for key, word in _BOUNDS.items() if key in context), ("", None))
    fraction = isinstance(limit, float) or problem["type"].startswith("float")
    kind = "a number" if fraction else "a whole number"
    return f"must be {kind}" if limit is None else f"must be {kind} of {bound} {limit:g}"


def _pattern(problem: dict[str, Any]) -> str:
    pattern = problem["ctx"]["pattern"]
    return PATTERNS.get(pattern, f"must match {pattern}")


def _literal(problem: dict[str, Any]) -> str:
    expected = str(problem["ctx"]["expected"])
    return "must be `true`" if expected == "True" else f"must be {expected.replace(chr(39), '`')}"


def _length(problem: dict[str, Any]) -> str:
    bound = problem["ctx"].get("max_length")
    return f"must have at most {bound} characters" if bound else "must not be empty"


def _many(problem: dict[str, Any]) -> str:
    return f"must have at most {problem['ctx']['max_length']} entries"


_DESCRIPTIONS: dict[str, Callable[[dict[str, Any]], str]] = {
    "string_type": lambda _: "must be text",
    "int_type": _number,
    "int_parsing": _number,
    "int_from_float": _number,
    "float_type": _number,
    "float_parsing": _number,
    "greater_than": _number,
    "greater_than_equal": _number,
    "less_than_equal": _number,
    "bool_type": lambda _: "must be `true` or `false`",
    "bool_parsing": lambda _: "must be `true` or `false`",
    "path_type": lambda _: "must be the path of a file or folder",
    "string_pattern_mismatch": _pattern,
    "string_too_short": _length,
    "string_too_long": _length,
    "too_short": _length,
    "too_long": _many,
    "literal_error": _literal,
    "list_type": lambda _: "must be a list, such as `[a, b]`",
}

# SPDX-License-Identifier: Apache-2.0
"""The rules of a failure policy as people write them: which failures a rule is for, and what it does."""

import difflib
import re
from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import lru_cache, partial
from math import prod
from signal import Signals
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainValidator,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import SchemaError, SchemaValidator, core_schema

from glideflow.domain.model import Model, Name, SpecError
from glideflow.domain.reasons import ReasonCode, Source

MOST_RULES = 20
MOST_TIMES = 100
MOST_REPETITIONS = 100
"""Counted repetitions of a regular expression, multiplied: together with its length this bounds the time it takes."""
EXIT_CODES = range(256)
USUAL_LONGEST_DELAY_SECONDS = 300.0

_RANGE = re.compile(r"(\d{1,3})-(\d{1,3})")
_REPETITION = re.compile(r"\{(\d*)(?:,(\d*))?\}")
_SIGNAL_NUMBERS = range(1, 65)


def _member(enumeration: type[StrEnum], kind: str, value: Any) -> StrEnum:
    """Return the member that a text names."""
    if isinstance(value, str) and value in set(enumeration):
        return enumeration(value)
    near = difflib.get_close_matches(str(value), list(enumeration), n=1)
    hint = f"did you mean `{near[0]}`?" if near else f"there are {', '.join(f'`{name}`' for name in enumeration)}"
    raise ValueError(f"there is no {kind} `{value}`; {hint}")


def _named(enumeration: type[StrEnum], kind: str) -> tuple[BeforeValidator, WithJsonSchema]:
    names = [str(member) for member in enumeration]
    return BeforeValidator(partial(_member, enumeration, kind)), WithJsonSchema({"enum": names})


def exit_codes(value: int | str) -> range:
    """Return the exit codes that an entry of `exit_codes` stands for.

    Raises:
        ValueError: It is neither a code nor a range.
    """
    found = _RANGE.fullmatch(value) if isinstance(value, str) else None
    first, last = (int(found[1]), int(found[2])) if found else (value, value)
    if isinstance(first, bool) or not isinstance(first, int) or not isinstance(last, int):
        raise ValueError(f"must be exit codes, one as `137` or several as `64-78`, not {value!r}")
    if first not in EXIT_CODES or last not in EXIT_CODES or first > last:
        raise ValueError(f"`{value}`: exit codes go from 0 to 255, in a range the smaller one first")
    return range(first, last + 1)


def signal_number(value: int | str) -> int:
    """Return the number of a signal given by number or name.

    Raises:
        ValueError: There is no such signal.
    """
    if isinstance(value, str) and value in Signals.__members__:
        return Signals[value].value
    if isinstance(value, int) and not isinstance(value, bool) and value in _SIGNAL_NUMBERS:
        return value
    raise ValueError(f"must be signals, by name as `SIGKILL` or by number from 1 to 64, not {value!r}")


def _kept(check: Callable[[Any], Any], value: Any) -> Any:
    """Check a value, and keep it as it was written."""
    check(value)
    return value


@lru_cache(maxsize=1024)
def _searcher(pattern: str) -> SchemaValidator:
    # The regular expressions of Rust, which pydantic brings: their time grows with the length of the text only.
    return SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex"))


def contains(pattern: str, text: str) -> bool:
    """Tell whether a text has a part that fits a regular expression.

    Args:
        pattern: One that was checked.
        text: The text.
    """
    return _searcher(pattern).isinstance_python(text)


def _check_pattern(value: str) -> str:
    bounds = (int(found[2] or found[1] or 1) for found in _REPETITION.finditer(value))
    repeated = prod(max(bound, 1) for bound in bounds)
    if repeated > MOST_REPETITIONS:
        raise ValueError(
            f"its repetitions in braces come to {repeated:,}, multiplied; at most {MOST_REPETITIONS} are allowed, so "
            "that searching stays quick: write `+` or `*`"
        )
    try:
        _searcher(value)
    except SchemaError as error:
        why = str(error).rpartition("error: ")[2].strip().splitlines()[-1]
        raise ValueError(f"must be a regular expression (the syntax is that of RE2 and Rust): {why}") from error
    return value


ExitCodes = Annotated[
    int | str,
    PlainValidator(partial(_kept, exit_codes)),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": EXIT_CODES[0], "maximum": EXIT_CODES[-1]},
                {"type": "string", "pattern": "^[0-9]{1,3}-[0-9]{1,3}$"},
            ]
        }
    ),
]
Signal = Annotated[
    int | str,
    PlainValidator(partial(_kept, signal_number)),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": _SIGNAL_NUMBERS[0], "maximum": _SIGNAL_NUMBERS[-1]},
                {"type": "string", "pattern": "^SIG[A-Z0-9]+$"},
            ]
        }
    ),
]
Pattern = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_check_pattern)]


class Match(Model):
    """The failures that a rule is for: all keys that are given must fit; without any, it is for every failure."""

    reasons: list[Annotated[ReasonCode, *_named(ReasonCode, "reason")]] | None = Field(default=None, min_length=1)
    """Codes of reasons; the reference page of the reasons says what each means."""
    sources: list[Annotated[Source, *_named(Source, "source")]] | None = Field(default=None, min_length=1)
    """Who gave the reason."""
    exit_codes: list[ExitCodes] | None = Field(default=None, min_length=1)
    """Exit codes of the command, single ones and ranges: `[1, 64-78]`."""
    signals: list[Signal] | None = Field(default=None, min_length=1)
    """Signals that ended the command: `[SIGKILL, SIGXCPU]`. A shell that saw its command end by signal n exits with
    128+n, and that fits, too."""
    text: Pattern | None = None
    """Regular expression, found anywhere in the reason's text; `(?i)` in front ignores case. Look-around and
    references to groups do not exist, so that no text can keep it busy."""


class Retry(Model):
    """How a job is run again."""

    times: int | None = Field(default=None, ge=1, le=MOST_TIMES)
    """How often this rule runs one job again. Without it, each time takes one of the task's `retries`."""
    delay_seconds: float = Field(default=2.0, ge=0, le=604_800)
    """Wait before the first time, seconds."""
    delay_factor: float = Field(default=2.0, ge=1, le=10)
    """Each wait is so many times the one before."""
    max_delay_seconds: float | None = Field(default=None, ge=0, le=604_800)
    """Longest wait, seconds; without it 300, or `delay_seconds` where that is longer."""
    elsewhere: Literal["node", "site"] | None = None
    """Never again on the same node, or at the same site, unless there is no other."""
    memory_factor: float | None = Field(default=None, gt=1, le=10)
    """Ask for so many times the memory; needs `max_memory_mb`."""
    max_memory_mb: int | None = Field(default=None, ge=1)
    """Most memory that is asked for, MB. A job that had it fails."""
    wall_factor: float | None = Field(default=None, gt=1, le=10)
    """Allow so many times the run time; needs `max_wall_seconds`."""
    max_wall_seconds: int | None = Field(default=None, ge=1)
    """Longest run time that is allowed, seconds. A job that had it fails."""

    @model_validator(mode="after")
    def _numbers_fit(self) -> Self:
        for factor, limit in (("memory_factor", "max_memory_mb"), ("wall_factor", "max_wall_seconds")):
            if (getattr(self, factor) is None) != (getattr(self, limit) is None):
                raise ValueError(f"`{factor}` and `{limit}` go together: give both or none")
        if self.max_delay_seconds is not None and self.max_delay_seconds < self.delay_seconds:
            raise SpecError(("max_delay_seconds",), f"must not be less than `delay_seconds` ({self.delay_seconds:g})")
        return self

    def delay(self, number: int) -> float:
        """Return the wait before a retry, seconds.

        Args:
            number: Which one, from 1.
        """
        longest = self.max_delay_seconds
        if longest is None:
            longest = max(USUAL_LONGEST_DELAY_SECONDS, self.delay_seconds)
        return min(self.delay_seconds * self.delay_factor ** (number - 1), longest)


class Rule(Model):
    """One rule: the failures that it is for, and what it does: either `retry` or `fail`."""

    name: Name
    """Its name, by which `glideflow explain` calls it."""
    match: Match = Field(default_factory=Match)
    """The failures that it is for."""
    retry: Retry | None = None
    """Run the job again; `retry: {}` takes all defaults."""
    fail: Literal[True] | None = None
    """`true`: the job fails at once."""
    active: bool = True
    """`false`: the rule is shown and not applied."""

    @model_validator(mode="after")
    def _one_action(self) -> Self:
        if (self.retry is None) == (self.fail is None):
            raise ValueError("give exactly one of `retry`, `fail`")
        return self


def _check_names(rules: Sequence[Rule]) -> Sequence[Rule]:
    names = [rule.name for rule in rules]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two rules have the name `{twice}`: rename one")
    return rules


FailurePolicy = Annotated[list[Rule], Field(max_length=MOST_RULES), AfterValidator(_check_names)]
"""Rules in their order: the first active one that fits a failure decides."""

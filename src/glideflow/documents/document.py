# SPDX-License-Identifier: Apache-2.0
"""A YAML document with the line of each key."""

import io
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq, TaggedScalar
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from glideflow.errors import TaskFileError

Keys = tuple[str | int, ...]

_NAMED_KEY = re.compile(r"key `([^`]+)`: ")
_KEY_PARTS = re.compile(r"[^.\[\]]+")

MAX_BYTES = 1_000_000
"""Longest task file; the text is stored with the task."""

_SEPARATOR = re.compile(r"^---(\s|$)")
_SOMETHING = re.compile(r"^[ \t]*[^#\s]", re.MULTILINE)

_UNWRAPPED = 10_000
"""Line width when writing: long lines stay as they are."""


def shown(keys: Keys) -> str:
    """Write the path of a key as users know it, for example `inputs.files[2].path`."""
    text = ""
    for key in keys:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else key
    return text


@dataclass(frozen=True)
class Places:
    """Where each key of a file was given: in a line of it, or by something that wins over the file."""

    path: Path
    """The file."""
    lines: dict[Keys, int] = field(default_factory=dict)
    """Line of each key, from 1."""
    sources: dict[Keys, str] = field(default_factory=dict)
    """What gave a key instead, in words: an option `--set`, or an environment variable."""

    def line(self, keys: Keys) -> int:
        """Return the line of a key, or of the nearest one above it; 0 when there is none."""
        return next((self.lines[part] for part in _upwards(keys) if part in self.lines), 0)

    def place(self, keys: Keys) -> str:
        """Return where a key, or what is below it, was given, in words."""
        inside = [source for known, source in self.sources.items() if known[: len(keys)] == keys]
        if keys and inside:
            return ", ".join(inside)
        for part in _upwards(keys):
            if part in self.sources:
                return self.sources[part]
            if part in self.lines:
                return f"{self.path}, line {self.lines[part]}"
        return str(self.path)

    def sentence(self, keys: Keys, text: str) -> str:
        """Return a problem as one line: place, key, what is wrong."""
        return f"{self.place(keys)}: key `{shown(keys)}`: {text}" if keys else f"{self.place(keys)}: {text}"

    def located(self, problem: str) -> str:
        """Put the place in front of a problem that names a key, as the endpoint reports it."""
        found = _NAMED_KEY.match(problem)
        if found is None:
            return problem
        keys: Keys = tuple(int(part) if part.isdigit() else part for part in _KEY_PARTS.findall(found[1]))
        return f"{self.place(keys)}: {problem}"

    def replace(self, keys: Keys, source: str) -> None:
        """Note that something else than the file gave a key, and all that is below it."""
        self.forget(keys)
        self.sources[keys] = source

    def forget(self, keys: Keys) -> None:
        """Drop the places of a key and of all below it."""
        for table in (self.lines, self.sources):
            for known in [known for known in table if known[: len(keys)] == keys]:
                del table[known]


def _upwards(keys: Keys) -> list[Keys]:
    return [keys[:end] for end in range(len(keys), 0, -1)]


@dataclass(frozen=True)
class Document:
    """A YAML file that holds a mapping."""

    root: CommentedMap
    """Its content, with comments and positions."""
    text: str
    """Its text."""
    places: Places
    """Where its keys are."""

    def values(self) -> dict[str, Any]:
        """Return the content as plain dictionaries, lists and scalars.

        Raises:
            TaskFileError: A tag.
        """
        values: dict[str, Any] = self._plain(self.root, ())
        return values

    def _plain(self, node: Any, keys: Keys) -> Any:
        if isinstance(node, TaggedScalar) or (hasattr(node, "tag") and str(node.tag.value or "").startswith("!")):
            raise TaskFileError([self.places.sentence(keys, "YAML tags such as `!name` are not used here")])
        if isinstance(node, dict):
            return {str(key): self._plain(value, (*keys, str(key))) for key, value in node.items()}
        if isinstance(node, list):
            return [self._plain(value, (*keys, number)) for number, value in enumerate(node)]
        return _scalar(node)

    def dump(self) -> str:
        """Return the content as YAML, with the comments of the file."""
        stream = io.StringIO()
        _yaml().dump(self.root, stream)
        return stream.getvalue()


def _scalar(value: Any) -> Any:
    """Strip the subclasses in which the parser keeps the spelling of a scalar."""
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value


def _yaml() -> YAML:
    yaml = YAML(typ="rt", pure=True)
    yaml.preserve_quotes = True
    yaml.width = _UNWRAPPED
    return yaml


def read_document(
    path: Path, beginning: str = "a task file starts with `schema_version: 1`", *, may_be_empty: bool = False
) -> Document:
    """Read a YAML file that holds a mapping.

    Args:
        path: The file.
        beginning: What such a file looks like, for the message.
        may_be_empty: Whether a file with nothing in it is one with an empty mapping.

    Raises:
        TaskFileError: No such file, not readable, not YAML (with the line), or not a mapping.
    """
    found = read_documents(path, beginning, may_be_empty=may_be_empty)
    if len(found) > 1:
        raise TaskFileError([f"{path}: holds {len(found)} documents; one is expected here"], path)
    return found[0]


def read_documents(
    path: Path, beginning: str = "a task file starts with `schema_version: 1`", *, may_be_empty: bool = False
) -> list[Document]:
    """Read a YAML file that holds mappings, separated by lines `---`.

    Args:
        path: The file.
        beginning: What such a file looks like, for the message.
        may_be_empty: Whether a file with nothing in it is one with an empty mapping.

    Raises:
        TaskFileError: No such file, not readable, not YAML (with the line), or not a mapping.
    """
    text = _read_text(path)
    try:
        roots = list(_yaml().load_all(text)) or [None]
    except (YAMLError, RecursionError, ValueError) as error:
        raise TaskFileError([f"{path}{_yaml_problem(error)}"], path) from error
    # An empty document before the first `---`, or after the last, is a matter of taste.
    mappings = [root for root in roots if root is not None] or [CommentedMap() if may_be_empty else None]
    for root in mappings:
        if not isinstance(root, CommentedMap):
            content = "is empty" if root is None else "does not hold lines of the form `key: value`"
            raise TaskFileError([f"{path}: {content}; {beginning}"], path)
    parts = _texts(text)
    # Directives and the like make other parts: then the whole text is kept with each.
    texts = parts if len(parts) == len(mappings) > 1 else [text] * len(mappings)
    return [_document(path, root, part) for root, part in zip(mappings, texts, strict=True)]


def _document(path: Path, root: CommentedMap, text: str) -> Document:
    places = Places(path)
    _note_lines(root, (), places.lines, set())
    return Document(root=root, text=text, places=places)


def _texts(text: str) -> list[str]:
    """Return the text of each document that holds something."""
    parts = [""]
    for line in text.splitlines(keepends=True):
        if _SEPARATOR.match(line):
            parts.append(line[3:].lstrip())
        else:
            parts[-1] += line
    return [part for part in parts if _SOMETHING.search(part)]


def _read_text(path: Path) -> str:
    try:
        if path.is_file() and path.stat().st_size > MAX_BYTES:
            raise TaskFileError(
                [f"{path}: is longer than {MAX_BYTES:,} bytes, too long for a file that people write"], path
            )
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise TaskFileError([f"{path}: cannot be read: {error.strerror}"], path) from error
    except UnicodeDecodeError as error:
        raise TaskFileError([f"{path}: is not a text file in UTF-8"], path) from error


def _yaml_problem(error: Exception) -> str:
    """Return the line and the sentence of a YAML error."""
    if not isinstance(error, MarkedYAMLError) or error.problem_mark is None:
        return f": is not valid YAML: {' '.join(str(error).split())}"
    line = error.problem_mark.line + 1
    if isinstance(error, DuplicateKeyError):
        key = str(error.problem).partition('"')[2].partition('"')[0]
        return f", line {line}: key `{key}`: is given twice"
    context = f" {error.context}" if error.context else ""
    hint = "; indent with spaces, not with tabs" if "'\\t'" in str(error.problem) else ""
    return f", line {line}: is not valid YAML: {error.problem}{context}{hint}"


def _note_lines(node: Any, keys: Keys, lines: dict[Keys, int], seen: set[int]) -> None:
    """Fill `lines` with the line of each key and list item."""
    if id(node) in seen or not isinstance(node, CommentedMap | CommentedSeq):
        return
    seen.add(id(node))
    for key, position in (node.lc.data or {}).items():
        here = (*keys, key if isinstance(node, CommentedSeq) else str(key))
        lines[here] = position[0] + 1
        # Aliases of one node keep the place of the first.
        _note_lines(node[key], here, lines, seen)

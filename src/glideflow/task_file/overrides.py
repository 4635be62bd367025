# SPDX-License-Identifier: Apache-2.0
"""Apply `--set key=value` to a task document."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError

from glideflow.documents.document import Document, Keys
from glideflow.documents.shape import Root, is_list, is_text, types_at, unknown_key
from glideflow.domain.task import SPLIT_RULES, TARGET_LIMITS, TaskSpec, is_url

EXCLUSIVE: Mapping[Keys, Sequence[str]] = {
    ("inputs",): ("files", "dataset", "jobs"),
    ("split",): SPLIT_RULES,
}
"""Keys of which one at most may be given: setting one removes the others of the file."""

COMPANIONS: Mapping[Keys, Sequence[str]] = {("split", "target_wall_seconds"): TARGET_LIMITS}
"""Keys that go with the one that is removed."""

_REMOVE = frozenset({"", "null", "~"})
"""Values that remove a key, so that its default holds."""


def apply_overrides(document: Document, options: Sequence[str], folder: Path, root: Root = TaskSpec) -> list[str]:
    """Change a document as options `--set key=value` say.

    Args:
        document: The document; it is changed.
        options: The texts `key=value`: a dotted key, and a value in YAML.
        folder: Relative files in the values are relative to it.
        root: The model of the document.

    Returns:
        A sentence for each option that cannot be applied.
    """
    given: set[Keys] = set()
    problems = [_apply(document, option, folder, given, root) for option in options]
    return [problem for problem in problems if problem]


def _apply(document: Document, option: str, folder: Path, given: set[Keys], root: Root) -> str | None:
    name, equals, text = option.partition("=")
    keys: Keys = tuple(part.strip() for part in name.split("."))
    place = f"--set {option}"
    if not equals or not all(keys):
        return f"{place}: expected `key=value`, for example `split.events_per_job=1000`"
    for end in range(1, len(keys) + 1):
        if not types_at(keys[:end], root):
            return f"{place}: key `{'.'.join(map(str, keys[:end]))}`: {unknown_key(keys[:end], root)}"
    try:
        value = _parse(keys, text.strip(), root)
    except YAMLError as error:
        sentence = " ".join(str(getattr(error, "problem", error)).split())
        return f"{place}: the value is not valid YAML: {sentence}; put text with special characters in quotes"
    return _put(document, keys, _anchored(keys, value, folder), option, given)


def _parse(keys: Keys, text: str, root: Root) -> Any:
    """Read a value: text as it stands where text is expected, YAML elsewhere."""
    if is_text(keys, root) and not text.startswith(('"', "'")):
        return None if text in _REMOVE and keys[0] != "environment" else text
    if is_list(keys, root) and text not in _REMOVE and not text.startswith("["):
        # `inputs.files=data/*.csv` means one entry; the bare star would be an alias in YAML.
        text = text if text.startswith("{") else f"'{text.replace(chr(39), 2 * chr(39))}'"
        text = f"[{text}]"
    return YAML(typ="safe", pure=True).load(text) if text else None


def _put(document: Document, keys: Keys, value: Any, option: str, given: set[Keys]) -> str | None:
    node: Any = document.root
    for end, key in enumerate(keys[:-1], start=1):
        if node.get(key) is None:
            node[key] = CommentedMap()
        node = node[key]
        if not isinstance(node, CommentedMap):
            return f"--set {option}: `{'.'.join(map(str, keys[:end]))}` is no mapping in {document.places.path}"
    rivals = EXCLUSIVE.get(keys[:-1], ())
    for other in rivals if value is not None and keys[-1] in rivals else ():
        # Two options that exclude each other are a contradiction, which the model reports.
        if (*keys[:-1], other) not in given and other != keys[-1]:
            for name in (other, *COMPANIONS.get((*keys[:-1], other), ())):
                node.pop(name, None)
                document.places.forget((*keys[:-1], name))
    given.add(keys)
    document.places.replace(keys, f"--set {option}")
    if value is None:
        node.pop(keys[-1], None)
    else:
        node[keys[-1]] = _nested(value)
    return None


def _nested(value: Any) -> Any:
    """Make mappings such that a later option can go into them."""
    if isinstance(value, dict):
        return CommentedMap({key: _nested(part) for key, part in value.items()})
    return value


def _anchored(keys: Keys, value: Any, folder: Path) -> Any:
    """Make the local files in a value absolute: they are relative to where the command was typed."""
    anchor = _ANCHORS.get(keys)
    if anchor and isinstance(value, list):
        return [anchor(item, folder) for item in value]
    if isinstance(value, dict):
        return {key: _anchored((*keys, key), part, folder) for key, part in value.items()}
    return value


def _anchored_path(item: Any, folder: Path) -> Any:
    return str(folder / Path(item).expanduser()) if isinstance(item, str) else item


def _anchored_input(item: Any, folder: Path) -> Any:
    if isinstance(item, dict) and "path" in item:
        return {**item, "path": _anchored_path(item["path"], folder)}
    if isinstance(item, str) and is_url(item):
        return item
    return _anchored_path(item, folder)


_ANCHORS: Mapping[Keys, Callable[[Any, Path], Any]] = {
    ("inputs", "files"): _anchored_input,
    ("sandbox",): _anchored_path,
    ("merge", "sandbox"): _anchored_path,
}

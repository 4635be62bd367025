# SPDX-License-Identifier: Apache-2.0
"""The shape of a file as its model has it: which keys are allowed where, and what was meant by others.

`root` is the model of the whole file, or of the part that the path of a key begins in.
"""

import difflib
import types
from collections.abc import Iterator
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from glideflow.documents.document import Keys

Root = type[BaseModel]

SYNONYMS = {
    "arguments": "command",
    "cmd": "command",
    "cpu": "cores",
    "cpus": "cores",
    "delay": "delay_seconds",
    "disk": "disk_mb",
    "env": "environment",
    "executable": "command",
    "memory": "memory_mb",
    "njobs": "jobs",
    "on_exit": "failure_policy",
    "queue": "site",
    "ram": "memory_mb",
    "regex": "text",
    "script": "command",
    "time": "wall_seconds",
    "version": "schema_version",
    "walltime": "wall_seconds",
}
"""What other systems call our keys."""


def alternatives(annotation: Any) -> list[Any]:
    """Return the types that an annotation allows, without None and without constraints."""
    if get_origin(annotation) is Annotated:
        return alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [one for part in get_args(annotation) for one in alternatives(part)]
    return [] if annotation is type(None) else [annotation]


def below(annotation: Any, key: str | int) -> list[Any]:
    """Return the types that the value of a key may have, given the type of what holds it."""
    found: list[Any] = []
    for one in alternatives(annotation):
        if isinstance(one, type) and issubclass(one, BaseModel):
            field = one.model_fields.get(str(key))
            found += alternatives(field.annotation) if field else []
        elif get_origin(one) is dict:
            found += alternatives(get_args(one)[1])
        elif get_origin(one) is list:
            found += alternatives(get_args(one)[0])
    return found


def types_at(keys: Keys, root: Root) -> list[Any]:
    """Return the types that are allowed at the path of a key; empty when there is no such key."""
    found: list[Any] = [root]
    for key in keys:
        found = [one for annotation in found for one in below(annotation, key)]
    return found


def allowed_keys(keys: Keys, root: Root) -> list[str]:
    """Return the keys that the mapping at a path may have; empty when any may."""
    models = [one for one in types_at(keys, root) if isinstance(one, type) and issubclass(one, BaseModel)]
    return [name for model in models for name in model.model_fields]


def is_text(keys: Keys, root: Root) -> bool:
    """Return whether the value at a path is plain text."""
    return types_at(keys, root) == [str]


def is_list(keys: Keys, root: Root) -> bool:
    """Return whether the value at a path is a list."""
    return [get_origin(one) for one in types_at(keys, root)] == [list]


def unknown_key(keys: Keys, root: Root) -> str:
    """Return the sentence about a key that does not exist: what was probably meant and what is allowed."""
    allowed = allowed_keys(keys[:-1], root)
    if not allowed:
        return "unknown: there are no keys at this place"
    meant = meant_key(keys, root)
    hint = f"; did you mean `{meant}`?" if meant else ";"
    return f"unknown{hint} allowed: {', '.join(f'`{name}`' for name in allowed)}"


def meant_key(keys: Keys, root: Root) -> str | None:
    """Return what an unknown key probably means: a similar one, what others call it, or one of another place."""
    key, allowed = str(keys[-1]).lower(), allowed_keys(keys[:-1], root)
    elsewhere = {path.rpartition(".")[2]: path for path in reversed(list(_paths(root, "")))}
    known = {**elsewhere, **{name: name for name in allowed}}
    if SYNONYMS.get(key) in known:
        return known[SYNONYMS[key]]
    near = difflib.get_close_matches(key, allowed, n=1, cutoff=0.8)
    if not near and key in elsewhere:
        return elsewhere[key]
    near = (
        near
        or difflib.get_close_matches(key, allowed, n=1)
        or difflib.get_close_matches(key, elsewhere, n=1, cutoff=0.8)
    )
    return known[near[0]] if near else None


def _paths(model: type[BaseModel], prefix: str) -> Iterator[str]:
    """All keys that can be named by a dotted path; those of the merge step last."""
    yield from (prefix + name for name in model.model_fields)
    for name, field in sorted(model.model_fields.items(), key=lambda item: item[0] == "merge"):
        for one in alternatives(field.annotation):
            if isinstance(one, type) and issubclass(one, BaseModel):
                yield from _paths(one, f"{prefix}{name}.")

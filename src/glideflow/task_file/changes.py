# SPDX-License-Identifier: Apache-2.0
"""Read what `glideflow retry --set key=value` changes."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError
from ruamel.yaml.comments import CommentedMap

from glideflow.documents.document import Document, Places
from glideflow.documents.sentences import sentences
from glideflow.domain.retrying import Changes
from glideflow.domain.task import TaskSpec
from glideflow.errors import UserError
from glideflow.task_file.overrides import apply_overrides


def read_changes(options: Sequence[str]) -> Changes:
    """Read options `--set`.

    Args:
        options: The texts `key=value`: a dotted key of a task, and a value in YAML.

    Raises:
        UserError: An option that cannot be accepted; one line per problem.
    """
    document = Document(root=CommentedMap(), text="", places=Places(Path("--set")))
    problems = list(_fixed(options)) or apply_overrides(document, options, Path.cwd(), Changes)
    try:
        changes = Changes.model_validate(document.values())
    except ValidationError as error:
        problems += [document.places.sentence(found.key, found.text) for found in sentences(error, Changes)]
        changes = Changes()
    if problems:
        raise UserError("\n".join(problems))
    return changes


def _fixed(options: Sequence[str]) -> Iterator[str]:
    """Refuse what would make the new outputs differ from those that stay, and what says nothing."""
    for option in options:
        name, equals, text = option.partition("=")
        key = name.split(".")[0].strip()
        if key in TaskSpec.model_fields and key not in Changes.model_fields:
            allowed = ", ".join(f"`{known}`" for known in Changes.model_fields)
            yield (
                f"--set {option}: `{key}` cannot be changed when jobs run again, since what is done stays; "
                f"{allowed} can: submit another task for the rest"
            )
        elif equals and not text.strip():
            yield f"--set {option}: give a value, for example `resources.memory_mb=4000`"

# SPDX-License-Identifier: Apache-2.0
"""Read the YAML files of an instance: its parts as models, and a sentence with file, line and key for each mistake."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from glideflow.documents.document import Keys, Places, read_document
from glideflow.documents.sentences import sentences
from glideflow.errors import SettingsError, TaskFileError

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Configuration:
    """A YAML file that was read."""

    values: dict[str, Any]
    """Its content, plain."""
    places: Places
    """Where each key stands."""

    def part(self, model: type[M], keys: Keys = ()) -> M:
        """Return a part of the file as a model.

        Args:
            model: What the part must be.
            keys: Path of the part; the whole file without it.

        Raises:
            SettingsError: It cannot be accepted; one line per problem.
        """
        value: Any = self.values
        for key in keys:
            value = value[key]
        try:
            return model.model_validate(value)
        except ValidationError as error:
            raise SettingsError(described(error, model, self.places, keys)) from error


def described(error: ValidationError, model: type[BaseModel], places: Places, keys: Keys = ()) -> str:
    """Return what is wrong with a part of a file: one line per problem, in the order of the file.

    Args:
        error: What pydantic found.
        model: What the part must be.
        places: Where each key of the file was given.
        keys: Path of the part; the whole file without it.
    """
    found = [(keys + problem.key, problem.text) for problem in sentences(error, model)]
    found.sort(key=lambda problem: places.line(problem[0]))
    return "\n".join(places.sentence(*problem) for problem in found)


def read_configuration(path: Path, beginning: str, *, may_be_empty: bool = False) -> Configuration:
    """Read a YAML file.

    Args:
        path: The file.
        beginning: What such a file looks like, for the message.
        may_be_empty: Whether a file with nothing in it is one with an empty mapping.

    Raises:
        SettingsError: It cannot be read, or holds no mapping.
    """
    try:
        document = read_document(path, beginning, may_be_empty=may_be_empty)
        return Configuration(document.values(), document.places)
    except TaskFileError as error:
        raise SettingsError(str(error)) from error

# SPDX-License-Identifier: Apache-2.0
"""Read the YAML files of an instance: its parts as models, and a sentence with file, line and key for each mistake."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from glideflow.errors import SettingsError, TaskFileError
from glideflow.task_file.document import Keys, Places, read_document
from glideflow.task_file.sentences import sentences

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
            found = [(keys + problem.key, problem.text) for problem in sentences(error, model)]
            found.sort(key=lambda problem: self.places.line(problem[0]))
            raise SettingsError("\n".join(self.places.sentence(*problem) for problem in found)) from error


def read_configuration(path: Path, beginning: str) -> Configuration:
    """Read a YAML file.

    Args:
        path: The file.
        beginning: What such a file looks like, for the message.

    Raises:
        SettingsError: It cannot be read, or holds no mapping.
    """
    try:
        document = read_document(path, beginning)
        return Configuration(document.values(), document.places)
    except TaskFileError as error:
        raise SettingsError(str(error)) from error

# SPDX-License-Identifier: Apache-2.0
"""The base of everything that people write as YAML, and the kinds of text that several of its parts share."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]

Feature = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@+=-]{0,199}$")]
"""What a site provides and a task may require."""


class Model(BaseModel):
    """Base of the parts: no unknown keys, no silent conversions, nothing changes after it was read."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


class SpecError(ValueError):
    """A part that does not fit another one; `key` is the path of the part to change."""

    def __init__(self, key: tuple[str, ...], text: str) -> None:
        self.key = key
        super().__init__(text)

# SPDX-License-Identifier: Apache-2.0
"""The version of the format of task files."""

from collections.abc import Mapping
from typing import Any

from glideflow import __version__
from glideflow.documents.sentences import show

SCHEMA_VERSION = 1


def schema_version_problem(values: Mapping[str, Any]) -> str | None:
    """Return the sentence about a version that this release does not read; None when it does, or none is given."""
    version = values.get("schema_version", SCHEMA_VERSION)
    if version == SCHEMA_VERSION and not isinstance(version, bool | float):
        return None
    return f"must be {SCHEMA_VERSION}, the version that this glideflow ({__version__}) reads, not {show(version)}"

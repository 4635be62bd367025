# SPDX-License-Identifier: Apache-2.0
"""`glideflow schema | version`."""

import platform

from glideflow import __version__
from glideflow.cli.terminal import AsJson, print_json, say
from glideflow.task_file import task_schema


def schema(*, json: AsJson = True) -> None:
    """Print the JSON schema of task files.

    Editors that know JSON schemas complete and check task files with it.

    For example:

    * glideflow schema > glideflow-task.schema.json

    Args:
        json: Always on: a schema is JSON.
    """
    print_json(task_schema())


def version(*, json: AsJson = False) -> None:
    """Print the version.

    For example:

    * glideflow version --json

    Args:
        json: Print JSON, with the version of Python.
    """
    if json:
        print_json({"glideflow": __version__, "python": platform.python_version()})
    else:
        say(__version__)

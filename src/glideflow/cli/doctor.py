# SPDX-License-Identifier: Apache-2.0
"""`glideflow doctor`: what works, what does not, what to do."""

import json
import sys
from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.text import Text

from glideflow.instance.doctor import Check, Result, examine
from glideflow.instance.home import Home
from glideflow.settings import load_settings

Json = Annotated[bool, Parameter(name="--json", negative=())]

_STYLES = {Result.OK: "green", Result.WARNING: "yellow", Result.FAILED: "red"}


def doctor(*, json_: Json = False) -> None:
    """Check each part of the instance and say what to do.

    Exit status 1 when something does not work.

    For example:

    * glideflow doctor

    Args:
        json_: Print JSON.
    """
    settings = load_settings()
    checks: list[Check] = []
    console = Console()
    for check in examine(settings, Home(settings)):
        checks.append(check)
        if not json_:
            console.print(_line(check), soft_wrap=True)
    if json_:
        sys.stdout.write(json.dumps([asdict(check) for check in checks], indent=2) + "\n")
    if any(check.result is Result.FAILED for check in checks):
        raise SystemExit(1)


def _line(check: Check) -> Text:
    line = Text.assemble((f"{check.result:8}", _STYLES[check.result]), f"{check.name:12}", check.sentence)
    return line.append(f"\n{'':20}-> {check.remedy}") if check.remedy else line

# SPDX-License-Identifier: Apache-2.0
"""Add the data folders and the pilot archive to the wheel; an editable install reads them from the checkout."""

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

DATA_FOLDERS = ("condor_templates", "config", "glexec_wrapper")


class DataHook(BuildHookInterface):  # type: ignore[type-arg]
    """Force-include what is not a Python package, as `glideflow/_data/...`."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Fill the wheel's file map; see `glideflow.resources` for the reader."""
        if version == "editable":
            return
        root = Path(self.root)
        for name in DATA_FOLDERS:
            build_data["force_include"][str(root / name)] = f"glideflow/_data/{name}"
        sys.path.insert(0, str(root / "pilot"))
        from glideflow_pilot.archive import build_archive  # noqa: PLC0415 - only importable from here

        archive = root / "build" / "pilot.pyz"
        archive.parent.mkdir(exist_ok=True)
        build_archive(root / "pilot" / "glideflow_pilot", archive)
        build_data["force_include"][str(archive)] = "glideflow/_data/pilot.pyz"

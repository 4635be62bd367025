# SPDX-License-Identifier: Apache-2.0
"""`config/glideflow.example.yaml`: every setting is in it, and all of it is accepted."""

import re
from pathlib import Path

from glideflow.resources import resource_dir
from glideflow.settings import SETTINGS_FILE, Settings, load_settings

EXAMPLE = resource_dir("config") / "glideflow.example.yaml"
SETTING = re.compile(r"^#([a-z_]+: )", re.MULTILINE)


def test_every_setting_is_shown_and_no_other(tmp_path: Path) -> None:
    shown = [name.removesuffix(": ") for name in SETTING.findall(EXAMPLE.read_text())]
    assert shown == [name for name in Settings.model_fields if name != "home"]


def test_the_example_is_accepted_as_it_is_and_with_every_line_in_use(tmp_path: Path) -> None:
    (tmp_path / SETTINGS_FILE).write_text(EXAMPLE.read_text())
    assert load_settings(tmp_path) == load_settings(tmp_path / "without-a-file").model_copy(update={"home": tmp_path})
    (tmp_path / SETTINGS_FILE).write_text(SETTING.sub(r"\1", EXAMPLE.read_text()))
    assert load_settings(tmp_path).condor_collector == "cm.example.org"

# SPDX-License-Identifier: Apache-2.0
"""The generated reference pages."""

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

from glideflow.domain.reasons import ReasonCode
from glideflow.domain.states import JobState
from glideflow.settings import Settings
from glideflow.task_file import read_task_files

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    """`docs/generate.py`, which is no part of a package."""
    spec = importlib.util.spec_from_file_location("generate_docs", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "name", ["commands.md", "reasons.md", "rest.md", "settings.md", "shares.md", "sites.md", "states.md", "task.md"]
)
def test_no_page_is_stale(generator: ModuleType, name: str) -> None:
    # Compared as texts, so that a failure shows the lines; then run `python docs/generate.py`.
    assert (generator.FOLDER / name).read_text(encoding="utf-8") == generator.FILES[name]()


def test_no_other_page_is_stale(generator: ModuleType) -> None:
    assert generator.stale(generator.FOLDER, write=False) == [], "run `python docs/generate.py`"


def test_a_missing_or_changed_page_is_noticed_and_written(generator: ModuleType, tmp_path: Path) -> None:
    names = generator.stale(tmp_path, write=True)
    assert "task.md" in names
    assert generator.stale(tmp_path, write=False) == []
    (tmp_path / "task.md").write_text("old")
    assert generator.stale(tmp_path, write=False) == ["task.md"]


def test_pages_name_every_setting_state_and_reason(generator: ModuleType) -> None:
    assert all(f"| `{name}` |" in generator.settings_page() for name in Settings.model_fields)
    assert all(f"| `{code}` |" in generator.reasons_page() for code in ReasonCode)
    assert all(f"| `{state}` |" in generator.states_page() for state in JobState)
    assert str(Path.home()) not in generator.settings_page()


def test_the_schema_file_is_the_published_schema(generator: ModuleType) -> None:
    assert json.loads(generator.schema_file())["properties"]["schema_version"]["const"] == 1


def examples() -> list[str]:
    """The parts of task files in the how-to page."""
    text = (ROOT / "docs" / "how-to" / "write-a-task.md").read_text()
    return [part for part in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if not part.startswith("#")]


@pytest.mark.parametrize("part", examples())
def test_each_example_of_the_how_to_page_is_accepted(part: str, tmp_path: Path) -> None:
    head = "" if "schema_version" in part else "schema_version: 1\nname: t\n"
    head += "" if re.search("^command:", part, re.MULTILINE) else "command: 'true'\n"
    (tmp_path / "task.yaml").write_text(head + part)
    read_task_files(tmp_path / "task.yaml")

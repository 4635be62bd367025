# SPDX-License-Identifier: Apache-2.0
"""README, tutorial and examples: their task files are accepted, their links lead somewhere."""

import re
from pathlib import Path

import pytest

from glideflow.task_file import read_task_files

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path
    for folder in (ROOT, ROOT / "docs", ROOT / "examples")
    for path in (folder.glob("*.md") if folder == ROOT else folder.rglob("*.md"))
)
TASK_FILES = sorted((ROOT / "examples").rglob("*.yaml"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def task_files_in(page: Path) -> list[str]:
    return [text for text in re.findall(r"```yaml\n(.*?)```", page.read_text(), re.S) if "schema_version" in text]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_task_files_in_a_page_are_accepted(page: Path, tmp_path: Path) -> None:
    for text in task_files_in(page):
        (tmp_path / "task.yaml").write_text(text)
        read_task_files(tmp_path / "task.yaml")


def test_readme_and_tutorial_show_task_files() -> None:
    assert task_files_in(ROOT / "README.md")
    assert len(task_files_in(ROOT / "docs" / "tutorial.md")) >= 2


def test_readme_shows_the_hello_example_itself() -> None:
    assert (ROOT / "examples" / "hello" / "hello.yaml").read_text() in task_files_in(ROOT / "README.md")


@pytest.mark.parametrize("path", TASK_FILES, ids=name_of)
def test_example_task_files_are_accepted(path: Path) -> None:
    assert all(task_file.spec.schema_version == 1 for task_file in read_task_files(path))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_in_a_page_lead_to_files_that_exist(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing

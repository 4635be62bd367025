# SPDX-License-Identifier: Apache-2.0
"""The pilot's archive: the same bytes from the same source, and nothing but the standard library."""

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import glideflow_pilot
import pytest
from glideflow_pilot.archive import build_archive

import glideflow
from glideflow.launching.archive import pilot_archive

SOURCE = Path(glideflow_pilot.__file__).parent
OLD_AND_NEW = ("python3.9", "python3.10", "python3.13", "python3.14")


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_archive_depends_on_the_source_alone(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(SOURCE, copy)
    for path in copy.rglob("*"):
        path.chmod(0o700)
        os.utime(path, (1e9, 1e9))
    build_archive(SOURCE, tmp_path / "one.pyz")
    build_archive(copy, tmp_path / "two.pyz")
    assert digest(tmp_path / "one.pyz") == digest(tmp_path / "two.pyz")


def test_archive_changes_with_the_source(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(SOURCE, copy)
    (copy / "loop.py").write_text("# changed\n")
    build_archive(SOURCE, tmp_path / "one.pyz")
    build_archive(copy, tmp_path / "two.pyz")
    assert digest(tmp_path / "one.pyz") != digest(tmp_path / "two.pyz")


def test_archive_starts_with_the_shebang_and_holds_plain_files(tmp_path: Path) -> None:
    target = tmp_path / "pilot.pyz"
    build_archive(SOURCE, target)
    assert target.read_bytes().startswith(b"#!/usr/bin/env python3\n")
    with zipfile.ZipFile(target) as archive:
        entries = archive.infolist()
    assert [entry.filename for entry in entries] == sorted(entry.filename for entry in entries)
    assert {entry.external_attr >> 16 for entry in entries} == {0o100644}
    assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}
    assert "glideflow_pilot/archive.py" not in {entry.filename for entry in entries}


def test_archive_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "pilot.pyz").mkdir()
    with pytest.raises(OSError, match="directory"):
        build_archive(SOURCE, tmp_path / "pilot.pyz")
    assert [path.name for path in tmp_path.iterdir()] == ["pilot.pyz"]


def test_archive_of_a_checkout_is_named_by_its_content() -> None:
    assert pilot_archive() == pilot_archive()
    assert digest(pilot_archive())[:16] in pilot_archive().name


def test_archive_runs_isolated_and_without_site_packages() -> None:
    done = subprocess.run([sys.executable, "-I", "-S", pilot_archive(), "--version"], capture_output=True, text=True)
    assert done.stdout == f"glideflow-pilot {glideflow.__version__}\n"
    assert done.stderr == ""


def test_archive_runs_by_its_shebang() -> None:
    done = subprocess.run([pilot_archive(), "--version"], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (f"glideflow-pilot {glideflow.__version__}\n", "")


@pytest.mark.parametrize("name", OLD_AND_NEW)
def test_archive_runs_on_old_and_new_python(name: str) -> None:
    if subprocess.run(["/bin/sh", "-c", f"{name} -c ''"], capture_output=True).returncode:
        pytest.skip(f"there is no {name} here")
    done = subprocess.run([name, "-I", "-S", pilot_archive(), "--version"], capture_output=True, text=True)
    assert done.stdout.startswith("glideflow-pilot ")
    assert done.stderr == ""


def test_wrong_use_ends_with_status_2_and_the_missing_words() -> None:
    done = subprocess.run([sys.executable, "-I", "-S", pilot_archive()], capture_output=True, text=True)
    assert done.returncode == 2
    assert "--secret-file" in done.stderr

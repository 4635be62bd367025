# SPDX-License-Identifier: Apache-2.0
"""The folder of an attempt and the task files that are kept between attempts."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from glideflow_pilot.orders import SandboxFile
from glideflow_pilot.reasons import Failure
from glideflow_pilot.sandbox import COPY_BYTES, Sandbox, TaskFiles

HALT = threading.Event()


@pytest.fixture
def fetched() -> list[str]:
    return []


@pytest.fixture
def task_files(tmp_path: Path, fetched: list[str]) -> TaskFiles:
    (tmp_path / "files").mkdir()

    def fetch(file: SandboxFile, target: Path, halt: threading.Event) -> None:
        fetched.append(file.sha256)
        target.write_bytes(b"x" * file.size_bytes)

    return TaskFiles(tmp_path / "files", fetch)


def task_file(size_bytes: int = 10, executable: bool = False, sha256: str = "ab") -> SandboxFile:
    return SandboxFile("name", sha256, size_bytes, executable)


@pytest.mark.parametrize("size_bytes", [10, COPY_BYTES + 1])
@pytest.mark.parametrize("executable", [True, False])
def test_task_file_is_fetched_once(
    task_files: TaskFiles, fetched: list[str], tmp_path: Path, size_bytes: int, executable: bool
) -> None:
    for number in range(3):
        target = tmp_path / f"t{number}"
        task_files.provide(task_file(size_bytes, executable), target, HALT)
        assert target.stat().st_size == size_bytes
        assert bool(target.stat().st_mode & 0o100) == executable
    assert fetched == ["ab"]


def test_same_content_may_be_executable_in_one_place_and_not_in_another(task_files: TaskFiles, tmp_path: Path) -> None:
    task_files.provide(task_file(executable=True), tmp_path / "a", HALT)
    task_files.provide(task_file(executable=False), tmp_path / "b", HALT)
    assert os.access(tmp_path / "a", os.X_OK)
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("spoil", [lambda path: path.write_bytes(b"spoiled"), lambda path: path.unlink()])
def test_kept_file_that_was_changed_is_fetched_again(
    task_files: TaskFiles, fetched: list[str], tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    task_files.provide(task_file(), tmp_path / "a", HALT)
    kept = next((tmp_path / "files").iterdir())
    kept.chmod(0o644)
    spoil(kept)
    task_files.provide(task_file(), tmp_path / "b", HALT)
    assert (tmp_path / "b").read_bytes() == b"x" * 10
    assert fetched == ["ab", "ab"]


def test_failed_fetch_leaves_nothing_behind(tmp_path: Path) -> None:
    def fetch(file: SandboxFile, target: Path, halt: threading.Event) -> None:
        target.write_bytes(b"half")
        raise Failure("stage_in_failed", "gone")

    with pytest.raises(Failure):
        TaskFiles(tmp_path, fetch).provide(task_file(), tmp_path / "a", HALT)
    assert list(tmp_path.iterdir()) == []


def test_many_threads_fetch_one_file_once(task_files: TaskFiles, fetched: list[str], tmp_path: Path) -> None:
    threads = [
        threading.Thread(target=task_files.provide, args=(task_file(), tmp_path / f"t{number}", HALT))
        for number in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fetched == ["ab"]


def test_folder_is_private_has_a_place_for_temporary_files_and_can_be_removed(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path, 7)
    assert sandbox.folder == tmp_path / "attempt-7"
    assert sandbox.folder.stat().st_mode & 0o777 == 0o700
    assert (sandbox.folder / "tmp").is_dir()
    assert sandbox.place("a/b/c") == sandbox.folder / "a/b/c"
    assert (sandbox.folder / "a/b").is_dir()
    sandbox.remove()
    assert not sandbox.folder.exists()


def test_listing_is_short_however_many_files_there_are(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path, 7)
    for number in range(500):
        (sandbox.folder / f"f{number:03}").touch()
    assert sandbox.listing().count(",") == 20
    assert sandbox.listing().endswith("f019, ...")


def test_output_behind_a_linked_folder_is_not_sent(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path, 7)
    (tmp_path / "secret").write_text("x")
    (sandbox.folder / "out").symlink_to(tmp_path)
    with pytest.raises(Failure, match="link to outside"):
        sandbox.output("out/secret")

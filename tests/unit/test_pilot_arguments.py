# SPDX-License-Identifier: Apache-2.0
"""The pilot's command line and what it takes from the node."""

from pathlib import Path

import pytest
from glideflow_pilot.arguments import ENDLESS_SECONDS, batch_id, read_arguments

NEEDED = ["--server", "https://h:1", "--pilot-id", "p", "--site", "s", "--ca", "ca.pem", "--secret-file", "secret"]


def test_sizes_that_are_not_given_come_from_the_node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("_CONDOR_SCRATCH_DIR", str(tmp_path))
    arguments = read_arguments(NEEDED)
    assert arguments.cores == 1
    assert arguments.memory_mb > 0
    assert arguments.disk_mb > 0
    assert arguments.wall_seconds == ENDLESS_SECONDS
    assert arguments.scratch == tmp_path


def test_given_scratch_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("_CONDOR_SCRATCH_DIR", "/nowhere")
    words = ["--scratch", str(tmp_path), "--cores", "8", "--memory-mb", "16000", "--disk-mb", "40000"]
    arguments = read_arguments(NEEDED + words)
    assert (arguments.scratch, arguments.cores) == (tmp_path, 8)
    assert (arguments.memory_mb, arguments.disk_mb) == (16000, 40000)


def test_working_folder_is_the_last_choice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("_CONDOR_SCRATCH_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    assert read_arguments(NEEDED).scratch == tmp_path


@pytest.mark.parametrize("words", [["--cores", "0"], ["--cores", "many"], ["--wall-seconds", "-1"]])
def test_size_that_is_no_positive_number_is_wrong_use(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        read_arguments(NEEDED + words)
    assert words[0] in capsys.readouterr().err


def test_batch_id_comes_from_the_job_ad(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ad = tmp_path / ".job.ad"
    ad.write_text('Cmd = "a = b"\nClusterId = 12\nProcId = 3\n')
    monkeypatch.setenv("_CONDOR_JOB_AD", str(ad))
    assert batch_id() == "12.3"
    ad.write_text("ClusterId = 12\n")
    assert batch_id() is None
    monkeypatch.delenv("_CONDOR_JOB_AD")
    assert batch_id() is None

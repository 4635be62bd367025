# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a token file is said before HTCondor ignores it."""

import os
from pathlib import Path

import pytest

from glideflow.condor.errors import TokenUnusable
from glideflow.condor.tokens import check_tokens, seconds_left
from glideflow.testing.tokens import write_condor_token

REMEDY = "ask for a new one"


def write_token(folder: Path, *, expires_in: float | None = 3600, mode: int = 0o600, name: str = "pool") -> Path:
    """A token with a signature that nobody checks here."""
    return write_condor_token(folder / name, seconds=expires_in, mode=mode)


def problem(folder: Path) -> TokenUnusable:
    """The complaint about a folder."""
    with pytest.raises(TokenUnusable) as caught:
        check_tokens(folder, REMEDY)
    return caught.value


def test_a_valid_token_passes(tmp_path: Path) -> None:
    path = write_token(tmp_path)
    check_tokens(tmp_path, REMEDY)
    left = seconds_left(path)
    assert left is not None
    assert 3500 < left <= 3600


def test_a_token_without_an_end_passes(tmp_path: Path) -> None:
    path = write_token(tmp_path, expires_in=None)
    check_tokens(tmp_path, REMEDY)
    assert seconds_left(path) is None


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_token_that_others_can_read_is_named_with_the_command_that_mends_it(tmp_path: Path, mode: int) -> None:
    path = write_token(tmp_path, mode=mode)
    error = problem(tmp_path)
    assert error.path == path
    assert f"has mode {mode:04o}, so HTCondor ignores it" in str(error)
    assert f"run `chmod 600 {path}`" in str(error)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_token_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    write_token(tmp_path, mode=0o000)
    assert "cannot be read" in str(problem(tmp_path))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_token_of_another_account_is_named_with_both(tmp_path: Path) -> None:
    path = write_token(tmp_path)
    os.chown(path, 12345, 12345)
    assert "belongs to uid 12345, so HTCondor ignores it for uid 0" in str(problem(tmp_path))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(30, "expired 30 s ago"), (7200, "expired 2 hours ago"), (10 * 86_400, "expired 10 days ago")],
)
def test_an_expired_token_says_since_when_and_what_to_do(tmp_path: Path, seconds: float, words: str) -> None:
    write_token(tmp_path, expires_in=-seconds)
    error = problem(tmp_path)
    assert words in str(error).replace("31 s", "30 s")
    assert REMEDY in str(error)


@pytest.mark.parametrize("text", ["", "hello", "a.b", "a.!!!.c", "a.aGVsbG8.c", "a.WzFd.c"])
def test_a_file_that_is_no_token_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "pool"
    path.write_text(text)
    path.chmod(0o600)
    assert "is no HTCondor token" in str(problem(tmp_path))


def test_one_usable_token_among_others_is_enough(tmp_path: Path) -> None:
    write_token(tmp_path, name="a", expires_in=-5)
    write_token(tmp_path, name="b")
    check_tokens(tmp_path, REMEDY)


def test_an_empty_and_a_missing_folder_are_told_apart(tmp_path: Path) -> None:
    assert "holds no token" in str(problem(tmp_path))
    assert "cannot be read (No such file or directory)" in str(problem(tmp_path / "none"))


def test_no_message_holds_the_token(tmp_path: Path) -> None:
    path = write_token(tmp_path, expires_in=-5)
    assert path.read_text().strip() not in str(problem(tmp_path))

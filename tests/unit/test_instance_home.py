# SPDX-License-Identifier: Apache-2.0
"""The home: modes, the token, the note of the running instance, locks."""

import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from glideflow.errors import NotFound, SettingsError
from glideflow.instance.home import AlreadyLocked, Home, InstanceInfo, lock_holder, locked, write_private
from glideflow.settings import Settings

INFO = InstanceInfo(
    rest_url="https://127.0.0.1:8443",
    prefect_api_url="http://127.0.0.1:4200/api",
    prefect_ui_url="http://127.0.0.1:4200",
    database_url="postgresql://glideflow:hidden@127.0.0.1:5432/glideflow",
    rest_port=8443,
)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(Settings(home=tmp_path / "home"))
    made.create()
    return made


def test_everything_in_a_new_home_is_private(home: Home) -> None:
    assert _mode(home.root) == 0o700
    assert {_mode(path) for path in home.root.iterdir() if path.is_dir()} == {0o700}
    assert _mode(home.token_file) == 0o600


def test_creating_a_home_again_changes_nothing(home: Home) -> None:
    token = home.read_token()
    home.create()
    assert home.read_token() == token
    assert len(token) >= 40


def test_two_that_create_a_home_together_agree_on_the_token(tmp_path: Path) -> None:
    homes = [Home(Settings(home=tmp_path / "home")) for _ in range(8)]

    def create(home: Home) -> str:
        home.create()
        return home.read_token()

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(create, homes))) == 1


def test_a_home_that_is_a_file_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    with pytest.raises(SettingsError, match=r"cannot be used.*GLIDEFLOW_HOME"):
        Home(Settings(home=tmp_path / "home")).create()


def test_a_token_that_others_can_read_is_refused(home: Home) -> None:
    home.token_file.chmod(0o644)
    with pytest.raises(SettingsError, match=r"mode 0644.*chmod 600"):
        home.read_token()


def test_a_missing_token_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="glideflow up"):
        Home(Settings(home=tmp_path)).read_token()


def test_the_note_of_the_instance_comes_back_as_it_was(home: Home) -> None:
    assert home.read_instance() is None
    home.write_instance(INFO)
    assert home.read_instance() == INFO
    assert _mode(home.instance_file) == 0o600


def test_the_note_of_a_newer_version_can_be_read(home: Home) -> None:
    home.write_instance(INFO)
    text = home.instance_file.read_text()
    write_private(home.instance_file, text.replace("{", '{"of_the_future": 1,', 1))
    assert home.read_instance() == INFO


@pytest.mark.parametrize("text", ["", "[]", "{}", "{"])
def test_a_damaged_note_is_named(home: Home, text: str) -> None:
    home.instance_file.write_text(text)
    with pytest.raises(SettingsError, match=r"instance\.json"):
        home.read_instance()


def test_the_note_does_not_show_the_password() -> None:
    assert "hidden" not in repr(INFO)


def test_a_lock_excludes_others_and_tells_who_holds_it(home: Home) -> None:
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, pathlib; from glideflow.instance.home import locked\n"
            "with locked(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()",
            str(home.supervisor_lock),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert lock_holder(home.supervisor_lock) == holder.pid
        with pytest.raises(AlreadyLocked, match=str(holder.pid)), locked(home.supervisor_lock, wait_seconds=0):
            pass
    finally:
        holder.kill()
        holder.communicate()
    assert lock_holder(home.supervisor_lock) is None
    with locked(home.supervisor_lock):
        pass


def test_a_lock_that_was_never_taken_has_no_holder(tmp_path: Path) -> None:
    assert lock_holder(tmp_path / "none") is None

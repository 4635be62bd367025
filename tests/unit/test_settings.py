# SPDX-License-Identifier: Apache-2.0
"""Settings: where they come from, and the sentences about wrong ones."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from glideflow.errors import SettingsError
from glideflow.settings import SETTINGS_FILE, Settings, load_settings, process_environment


def problem_of(home: Path, text: str | None = None) -> str:
    if text is not None:
        (home / SETTINGS_FILE).write_text(text)
    with pytest.raises(SettingsError) as caught:
        load_settings(home)
    return str(caught.value)


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    settings = load_settings(tmp_path)
    assert settings.home == tmp_path
    assert settings.instance == "glideflow"
    assert settings.debug is False


def test_the_home_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIDEFLOW_HOME", str(tmp_path))
    (tmp_path / SETTINGS_FILE).write_text("vo: atlas\n")
    settings = load_settings()
    assert (settings.home, settings.vo) == (tmp_path, "atlas")


def test_a_relative_home_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GLIDEFLOW_HOME", "here")
    assert load_settings().home == tmp_path / "here"


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / SETTINGS_FILE).write_text("port: 1000\npool_slots: 4\n")
    monkeypatch.setenv("GLIDEFLOW_PORT", "2000")
    settings = load_settings(tmp_path)
    assert (settings.port, settings.pool_slots) == (2000, 4)


def test_an_empty_file_is_fine(tmp_path: Path) -> None:
    (tmp_path / SETTINGS_FILE).write_text("# nothing yet\n")
    assert load_settings(tmp_path).port == 0


def test_an_unknown_setting_names_file_line_and_what_was_meant(tmp_path: Path) -> None:
    place = f"{tmp_path}/{SETTINGS_FILE}, line 2"
    text = problem_of(tmp_path, "vo: x\nprot: 1\n")
    assert text.startswith(f"{place}: key `prot`: unknown; did you mean `port`? allowed: `home`, `instance`, ")
    assert "key `xyzzy`: unknown; allowed: `home`, " in problem_of(tmp_path, "xyzzy: 1\n")


def test_a_wrong_value_names_file_line_value_and_what_is_allowed(tmp_path: Path) -> None:
    place = f"{tmp_path}/{SETTINGS_FILE}, line"
    text = "\nport: 70000\nvo: a b\nlauncher: slurm\ndebug: perhaps\ncache: 7\nheartbeat_seconds: soon\nhost:\n"
    assert problem_of(tmp_path, text).splitlines() == [
        f"{place} 2: key `port`: must be a whole number of at most 65535, not 70000",
        f"{place} 3: key `vo`: must be letters, digits, `.`, `_` and `-`, at most 63 of them, starting with a letter "
        'or digit, not "a b"',
        f'{place} 4: key `launcher`: must be `htcondor` or `local`, not "slurm"',
        f'{place} 5: key `debug`: must be `true` or `false`, not "perhaps"',
        f"{place} 6: key `cache`: must be the path of a file or folder, not 7",
        f'{place} 7: key `heartbeat_seconds`: must be a number, not "soon"',
        f"{place} 8: key `host`: must be text, not empty; give a value or remove the key",
    ]


def test_a_wrong_variable_of_the_environment_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIDEFLOW_PORT", "many")
    expected = 'environment variable GLIDEFLOW_PORT: key `port`: must be a whole number, not "many"'
    assert problem_of(tmp_path) == expected
    # Also where the file has a good value: the environment wins.
    assert problem_of(tmp_path, "port: 1000\n") == expected
    monkeypatch.setenv("GLIDEFLOW_HOME", str(tmp_path))
    with pytest.raises(SettingsError, match="GLIDEFLOW_PORT"):
        load_settings()


def test_a_file_that_is_no_yaml_is_refused_with_its_line_and_none_of_its_text(tmp_path: Path) -> None:
    text = problem_of(tmp_path, "vo: x\ndatabase_url: postgresql://me:topsecret@h/n\n\tport: 1\n")
    assert text.startswith(f"{tmp_path}/{SETTINGS_FILE}, line 3: is not valid YAML: ")
    assert "topsecret" not in text


@pytest.mark.parametrize("text", ["- a\n", "just text\n", "a: [1\n", "a: 1\na: 2\n"])
def test_a_file_that_is_no_mapping_is_refused_with_its_name(tmp_path: Path, text: str) -> None:
    assert problem_of(tmp_path, text).startswith(f"{tmp_path}/{SETTINGS_FILE}")


def test_settings_never_change(tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        load_settings(tmp_path).port = 3  # type: ignore[misc]


def test_every_setting_is_described() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_a_child_process_gets_the_environment_with_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIDEFLOW_VO", "atlas")
    environment = process_environment(GLIDEFLOW_HOME="/somewhere")
    assert (environment["GLIDEFLOW_VO"], environment["GLIDEFLOW_HOME"]) == ("atlas", "/somewhere")


@pytest.mark.parametrize(
    "url",
    [
        "postgres://glide:topsecret@db.example.org/glide",
        "postgresql://glide:topsecret@db.example.org",
        "postgresql://glide:topsecret@db.example.org/",
        "postgresql://glide:topsecret@one.example.org:5432,two.example.org:5432/glide",
        "postgresql://glide:top@secret/@db.example.org:x/glide",
        "host=db.example.org user=glide password='topsecret'",
    ],
)
def test_a_database_url_of_another_form_is_refused_and_shows_no_password(tmp_path: Path, url: str) -> None:
    text = problem_of(tmp_path, f'database_url: "{url}"\n')
    assert "line 1: key `database_url`: must be of the form postgresql://user:password@host:port/name" in text
    assert "secret" not in text


def test_a_database_url_may_have_options_and_a_socket(tmp_path: Path) -> None:
    for url in ("postgresql://glide@/glide?host=/run/postgresql", "postgresql://a:b%40@h:1/n?sslmode=require"):
        (tmp_path / SETTINGS_FILE).write_text(f"database_url: {url}\n")
        assert load_settings(tmp_path).database_url == url

# SPDX-License-Identifier: Apache-2.0
"""What a start chooses: ports that stay, addresses, databases, the launcher."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from glideflow.errors import SettingsError
from glideflow.instance import plan
from glideflow.instance.components import instance_components
from glideflow.instance.home import Home, InstanceInfo
from glideflow.instance.plan import launcher_of, prepare
from glideflow.instance.ports import free_port, port_is_free
from glideflow.settings import Settings

LOOPBACK = "127.0.0.1"
SITE = "postgresql://glide:s%40crt@db.example.org:5432/glide"


@pytest.fixture(autouse=True)
def unusual_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    """An instance of whoever runs the tests may have the usual ones."""
    for name in ("USUAL_REST_PORT", "USUAL_PREFECT_PORT", "USUAL_POSTGRES_PORT"):
        monkeypatch.setattr(plan, name, free_port(LOOPBACK, ()))


def _prepare(home: Path, **changes: Any) -> InstanceInfo:
    settings = Settings(**{"home": home, "database_url": SITE, **changes})
    return prepare(settings, Home(settings))


@contextmanager
def _taken(port: int) -> Iterator[None]:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind((LOOPBACK, port))
        other.listen()
        yield


def test_the_usual_ports_are_taken_when_they_are_free(tmp_path: Path) -> None:
    info = _prepare(tmp_path)
    assert info.rest_url == f"https://127.0.0.1:{plan.USUAL_REST_PORT}"
    assert info.prefect_api_url == f"http://127.0.0.1:{plan.USUAL_PREFECT_PORT}/api"
    assert info.prefect_ui_url == f"http://127.0.0.1:{plan.USUAL_PREFECT_PORT}"


def test_a_port_once_chosen_is_kept_even_when_the_usual_one_is_free_again(tmp_path: Path) -> None:
    with _taken(plan.USUAL_REST_PORT):
        first = _prepare(tmp_path)
    assert first.rest_port != plan.USUAL_REST_PORT
    assert _prepare(tmp_path) == first


def test_a_kept_port_that_is_taken_is_chosen_anew(tmp_path: Path) -> None:
    first = _prepare(tmp_path)
    with _taken(first.rest_port):
        assert _prepare(tmp_path).rest_port != first.rest_port


def test_a_set_port_that_is_taken_stops_the_start(tmp_path: Path) -> None:
    port = free_port(LOOPBACK, ())
    assert _prepare(tmp_path, port=port).rest_port == port
    with _taken(port), pytest.raises(SettingsError, match=rf"port: {port} on 127\.0\.0\.1 is taken"):
        _prepare(tmp_path, port=port)


def test_an_address_of_another_machine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no free port on 192\.0\.2\.1"):
        _prepare(tmp_path, host="192.0.2.1")


def test_an_endpoint_on_all_addresses_is_called_by_the_host_s_name(tmp_path: Path) -> None:
    info = _prepare(tmp_path, host="0.0.0.0")
    assert info.rest_url == f"https://{socket.getfqdn()}:{info.rest_port}"


def test_the_prefect_server_stays_on_loopback_whatever_the_endpoint_does(tmp_path: Path) -> None:
    assert _prepare(tmp_path, host="0.0.0.0").prefect_api_url.startswith("http://127.0.0.1:")


def test_a_prefect_server_elsewhere_is_used_and_needs_no_database(tmp_path: Path) -> None:
    info = _prepare(tmp_path, prefect_api_url="https://prefect.example.org/api/")
    assert info.prefect_api_url == "https://prefect.example.org/api"
    assert info.prefect_ui_url == "https://prefect.example.org"
    assert (info.prefect_port, info.prefect_database_url) == (0, "")


def test_a_site_s_own_postgresql_has_a_second_database_for_prefect(tmp_path: Path) -> None:
    info = _prepare(tmp_path)
    assert info.database_url == SITE
    assert info.prefect_database_url == SITE + "_prefect"


def test_what_up_was_told_is_remembered_but_the_settings_win(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, database_url=SITE)
    home = Home(settings)
    assert launcher_of(settings, None) == "htcondor"
    info = prepare(settings, home, "local", 3)
    assert (info.launcher, info.slots) == ("local", 3)
    assert prepare(settings, home).launcher == "local"
    assert launcher_of(settings, info) == "local"
    assert launcher_of(Settings(home=tmp_path, launcher="htcondor"), info) == "htcondor"


def test_only_what_nobody_else_provides_is_started(tmp_path: Path) -> None:
    def names(**changes: Any) -> list[str]:
        settings = Settings(**{"home": tmp_path, **changes})
        info = InstanceInfo("https://x:1", "http://x:2/api", "http://x:2", SITE)
        return [component.name for component in instance_components(settings, Home(settings), info)]

    assert names() == ["postgres", "schema", "prefect", "endpoint", "flows", "factory"]
    assert names(database_url=SITE) == ["schema", "prefect", "endpoint", "flows", "factory"]
    assert names(prefect_api_url="http://x/api") == ["postgres", "schema", "endpoint", "flows", "factory"]


def test_every_component_comes_after_what_it_needs(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    components = instance_components(settings, Home(settings), InstanceInfo("", "", "", SITE))
    before: set[str] = set()
    for component in components:
        assert before.issuperset(component.after)
        before.add(component.name)


def test_the_password_is_in_no_command_line(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, database_url=SITE)
    home = Home(settings)
    info = prepare(settings, home)
    for component in instance_components(settings, home, info):
        assert "s%40crt" not in " ".join(component.command().argv)
        assert "s%40crt" not in repr(component.command())


def test_prefect_gets_its_own_database_and_reads_no_file_of_the_user_s(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, database_url=SITE)
    home = Home(settings)
    info = prepare(settings, home)
    prefect = next(part for part in instance_components(settings, home, info) if part.name == "prefect").command()
    url = prefect.environment["PREFECT_SERVER_DATABASE_CONNECTION_URL"]
    assert url == "postgresql+asyncpg://glide:s%40crt@db.example.org:5432/glide_prefect"
    assert prefect.environment["DO_NOT_TRACK"] == "1"
    assert prefect.folder == home.prefect


def test_flows_write_their_results_where_the_endpoint_tidies_up(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, database_url=SITE)
    home = Home(settings)
    flows = next(part for part in instance_components(settings, home, prepare(settings, home)) if part.name == "flows")
    assert flows.command().environment["PREFECT_LOCAL_STORAGE_PATH"] == str(home.flow_results)


def test_a_port_by_chance_lies_below_those_of_outgoing_connections() -> None:
    port = free_port(LOOPBACK, ())
    assert 20000 <= port < 32768
    assert port_is_free(LOOPBACK, port)
    with _taken(port):
        assert not port_is_free(LOOPBACK, port)

# SPDX-License-Identifier: Apache-2.0
"""The doctor: what it says of servers, databases, clocks, certificates and files that are not well."""

import json
import os
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path

import pytest

from glideflow.errors import ServiceError
from glideflow.instance import doctor
from glideflow.instance.certificates import ensure_certificates
from glideflow.instance.doctor import Check, Result, examine
from glideflow.instance.health import ask, endpoint_answers, prefect_answers
from glideflow.instance.home import Home, InstanceInfo, locked
from glideflow.instance.status import InstanceState, InstanceStatus, write_status
from glideflow.settings import Settings


@contextmanager
def _server(
    answers: dict[str, object], *, home: Home | None = None, off: timedelta = timedelta(), status: int = 200
) -> Iterator[int]:
    """Serve JSON at some paths, with HTTPS when given a home, and a clock that may be off; gives the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path in answers
            self.send_response(status if known else 404)
            self.end_headers()
            self.wfile.write(json.dumps(answers.get(self.path)).encode())

        def date_time_string(self, timestamp: float | None = None) -> str:
            return format_datetime(datetime.now(UTC) + off, usegmt=True)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if home is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(home.server_cert, home.server_key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(Settings(home=tmp_path / "home", launcher="local", cache=tmp_path))
    made.create()
    ensure_certificates(made, "127.0.0.1")
    return made


def _note(
    home: Home, *, rest: int = 1, prefect: int = 1, database: str = "postgresql://x:y@127.0.0.1:1/z"
) -> InstanceInfo:
    info = InstanceInfo(
        rest_url=f"https://127.0.0.1:{rest}",
        prefect_api_url=f"http://127.0.0.1:{prefect}/api",
        prefect_ui_url=f"http://127.0.0.1:{prefect}",
        database_url=database,
        rest_port=rest,
    )
    home.write_instance(info)
    return info


def _examine(home: Home) -> dict[str, Check]:
    return {check.name: check for check in examine(home.settings, home)}


def test_a_home_that_was_never_started_is_said_so(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "new")
    (check,) = examine(settings, Home(settings))
    assert check.result is Result.FAILED
    assert "glideflow up" in check.remedy


def test_what_is_well_is_said_to_be_well(home: Home, database_url: str) -> None:
    answers = {"/api/health": True, "/api/admin/version": version("prefect")}
    with _server({"/health": {"status": "ok"}}, home=home) as rest, _server(answers) as prefect:
        info = _note(home, rest=rest, prefect=prefect, database=database_url)
        checks = _examine(home)
        assert endpoint_answers(home, info)
        assert prefect_answers(info.prefect_api_url)
    bad = {name for name, check in checks.items() if check.result is Result.FAILED}
    # The servers here are not started by a supervisor, which is what the first check is about.
    assert bad == {"processes"}
    assert "PostgreSQL 18" in checks["database"].sentence
    assert set(checks) >= {"schema", "endpoint", "prefect", "schedd", "ca", "certificate", "token", "home", "disk"}


def test_servers_that_are_down_are_each_a_failed_check_with_their_address(home: Home) -> None:
    _note(home)
    checks = _examine(home)
    for name in ("database", "schema", "endpoint", "prefect"):
        assert checks[name].result is Result.FAILED
        assert "does not answer" in checks[name].sentence


def test_a_password_is_in_no_sentence(home: Home) -> None:
    _note(home, database="postgresql://glideflow:topsecret@127.0.0.1:1/glideflow")
    assert "topsecret" not in " ".join(check.sentence for check in _examine(home).values())


def test_a_schema_that_is_behind_is_to_be_migrated(home: Home, empty_database_url: str) -> None:
    _note(home, database=empty_database_url)
    check = _examine(home)["schema"]
    assert check.result is Result.FAILED
    assert "at nothing" in check.sentence
    assert "migrates" in check.remedy


@pytest.mark.parametrize(("seconds", "result"), [(20, Result.WARNING), (-20, Result.WARNING), (300, Result.FAILED)])
def test_a_clock_that_is_off_is_noticed(home: Home, seconds: int, result: Result) -> None:
    with _server({"/health": {}}, home=home, off=timedelta(seconds=seconds)) as rest:
        _note(home, rest=rest)
        check = _examine(home)["endpoint"]
    assert check.result is result
    assert "s off" in check.sentence
    assert "NTP" in check.remedy


def test_an_endpoint_with_a_certificate_of_another_ca_is_not_ours(home: Home, tmp_path: Path) -> None:
    other = Home(Settings(home=tmp_path / "other"))
    other.create()
    ensure_certificates(other, "127.0.0.1")
    with _server({"/health": {}}, home=other) as rest:
        info = _note(home, rest=rest)
        assert "certificate verify failed" in _examine(home)["endpoint"].sentence
        assert not endpoint_answers(home, info)


def test_a_prefect_server_of_another_series_is_a_warning(home: Home) -> None:
    with _server({"/api/health": True, "/api/admin/version": "3.1.0"}) as prefect:
        _note(home, prefect=prefect)
        check = _examine(home)["prefect"]
    assert check.result is Result.WARNING
    assert "3.1.0" in check.sentence


def test_an_answer_with_another_status_is_an_error(home: Home) -> None:
    with _server({"/health": {}}, status=503) as port, pytest.raises(ServiceError, match="status 503"):
        ask(f"http://127.0.0.1:{port}/health")


def test_files_that_others_can_read_or_replace_are_named_with_the_command_that_helps(home: Home) -> None:
    _note(home)
    home.token_file.chmod(0o640)
    home.root.chmod(0o755)
    checks = _examine(home)
    assert "chmod 600" in checks["token"].sentence
    assert checks["home"].result is Result.WARNING
    home.root.chmod(0o777)
    assert _examine(home)["home"].result is Result.FAILED
    assert f"chmod 700 {home.root}" in _examine(home)["home"].remedy


def test_a_damaged_certificate_and_a_missing_ca_are_failures(home: Home) -> None:
    _note(home)
    home.server_cert.write_text("nothing")
    assert _examine(home)["certificate"].result is Result.FAILED
    home.ca_file.unlink()
    checks = _examine(home)
    assert checks["ca"].result is Result.FAILED
    assert "No such file" in checks["ca"].sentence


def test_a_full_disk_is_a_failure_and_an_almost_full_one_a_warning(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    _note(home)
    monkeypatch.setattr(doctor, "WARNING_FREE_BYTES", 10**18)
    assert _examine(home)["disk"].result is Result.WARNING
    monkeypatch.setattr(doctor, "FAILED_FREE_BYTES", 10**18)
    assert _examine(home)["disk"].result is Result.FAILED


def test_files_that_were_changed_after_the_start_are_named(home: Home) -> None:
    _note(home)
    sites, settings = home.root / "sites.yaml", home.root / "glideflow.yaml"
    sites.write_text("sites: [{name: here, launcher: local}]\n")
    settings.write_text("vo: ours\n")
    began = datetime.now(UTC)
    before, after = (began - timedelta(hours=1)).timestamp(), (began + timedelta(seconds=30)).timestamp()
    os.utime(settings, (before, before))
    with locked(home.supervisor_lock):
        started_at = began.isoformat(timespec="seconds")
        write_status(home, InstanceStatus(state=InstanceState.RUNNING, pid=os.getpid(), started_at=started_at))
        assert _examine(home)["configuration"].result is Result.OK
        os.utime(sites, (after, after))
        check = _examine(home)["configuration"]
    assert check.result is Result.WARNING
    assert check.sentence == f"changed after the start, and not in use yet: {sites}"
    assert "glideflow up" in check.remedy


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("sites.yaml", "sites:\n  - {name: here, coress: 3}\n", "did you mean `cores`?"),
        ("shares.yaml", "half_life: 3\n", "key `half_life`: unknown"),
        ("failure_policy.yaml", "failure_policy: 3\n", "key `failure_policy`: must be a list"),
    ],
)
def test_a_file_that_the_next_start_would_refuse_is_a_failure(home: Home, name: str, text: str, words: str) -> None:
    _note(home)
    (home.root / name).write_text(text)
    check = _examine(home)["configuration"]
    assert check.result is Result.FAILED
    assert f"{home.root / name}, line" in check.sentence
    assert words in check.sentence


def test_a_site_that_needs_htcondor_without_a_pool_says_how_to_get_one(tmp_path: Path) -> None:
    home = Home(Settings(home=tmp_path / "home", launcher="htcondor", condor_collector="127.0.0.1:1"))
    home.create()
    _note(home)
    assert _examine(home)["schedd"].result is Result.FAILED

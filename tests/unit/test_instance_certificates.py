# SPDX-License-Identifier: Apache-2.0
"""The certificates: made once, renewed in time, accepted by a real TLS client and server."""

import socket
import ssl
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from glideflow.errors import SettingsError
from glideflow.instance.certificates import ensure_certificates, host_names, inspect, is_wildcard
from glideflow.instance.home import Home
from glideflow.settings import Settings

LOOPBACK = "127.0.0.1"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(Settings(home=tmp_path / "home"))
    made.create()
    return made


def test_a_second_start_keeps_the_certificates(home: Home) -> None:
    assert ensure_certificates(home, LOOPBACK)
    before = {path.name: path.read_bytes() for path in home.ca.iterdir()}
    assert not ensure_certificates(home, LOOPBACK)
    assert before == {path.name: path.read_bytes() for path in home.ca.iterdir()}
    assert set(before) == {"ca.pem", "ca.key", "server.pem", "server.key"}
    assert {stat.S_IMODE((home.ca / name).stat().st_mode) for name in before} == {0o600}


def test_a_server_certificate_is_renewed_when_less_than_30_days_are_left(home: Home) -> None:
    ensure_certificates(home, LOOPBACK)
    ca = home.ca_file.read_bytes()
    assert not ensure_certificates(home, LOOPBACK, datetime.now(UTC) + timedelta(days=334))
    later = datetime.now(UTC) + timedelta(days=336)
    assert ensure_certificates(home, LOOPBACK, later)
    assert home.ca_file.read_bytes() == ca
    assert inspect(home.server_cert, home.ca_file, later).days_left == pytest.approx(365, abs=0.1)


def test_a_new_listening_address_needs_a_new_server_certificate(home: Home) -> None:
    ensure_certificates(home, LOOPBACK)
    assert ensure_certificates(home, "192.0.2.7")
    assert not ensure_certificates(home, "192.0.2.7")


def test_the_server_certificate_never_outlives_the_ca(home: Home) -> None:
    ensure_certificates(home, LOOPBACK)
    later = datetime.now(UTC) + timedelta(days=3600)
    assert ensure_certificates(home, LOOPBACK, later)
    assert inspect(home.server_cert, home.ca_file, later).days_left == pytest.approx(50, abs=0.1)


def test_an_ended_ca_is_said_with_what_to_do(home: Home) -> None:
    ensure_certificates(home, LOOPBACK)
    with pytest.raises(SettingsError, match=r"the CA .* ended on .* remove"):
        ensure_certificates(home, LOOPBACK, datetime.now(UTC) + timedelta(days=3651))


def test_a_ca_without_its_key_is_said_when_a_certificate_is_needed(home: Home) -> None:
    ensure_certificates(home, LOOPBACK)
    home.ca_key.unlink()
    home.server_cert.unlink()
    with pytest.raises(SettingsError, match=r"ca\.key"):
        ensure_certificates(home, LOOPBACK)


def test_a_key_that_does_not_fit_is_replaced_with_its_certificate(home: Home) -> None:
    ensure_certificates(home, LOOPBACK)
    home.server_key.write_bytes(home.ca_key.read_bytes())
    assert ensure_certificates(home, LOOPBACK)
    _shake_hands(home, "localhost")


def test_a_damaged_certificate_is_named(home: Home) -> None:
    ensure_certificates(home, LOOPBACK)
    home.server_cert.write_text("-----BEGIN CERTIFICATE-----\n")
    with pytest.raises(SettingsError, match="cannot be used"):
        ensure_certificates(home, LOOPBACK)
    assert inspect(home.server_cert, home.ca_file).problem


@pytest.mark.parametrize("name", ["127.0.0.1", "::1", "localhost", socket.gethostname()])
def test_a_client_with_the_ca_accepts_the_server_under_each_name(home: Home, name: str) -> None:
    ensure_certificates(home, LOOPBACK)
    _shake_hands(home, name)


def test_a_client_refuses_another_name_and_another_ca(home: Home, tmp_path: Path) -> None:
    ensure_certificates(home, LOOPBACK)
    other = Home(Settings(home=tmp_path / "other"))
    other.create()
    ensure_certificates(other, LOOPBACK)
    with pytest.raises(ssl.SSLCertVerificationError):
        _shake_hands(home, "elsewhere.example.org")
    with pytest.raises(ssl.SSLCertVerificationError):
        _shake_hands(home, "localhost", ca=other.ca_file)
    assert inspect(home.server_cert, other.ca_file).problem


def test_every_wildcard_stands_for_the_host_s_own_names() -> None:
    assert is_wildcard("0.0.0.0")
    assert not is_wildcard(LOOPBACK)
    assert "0.0.0.0" not in host_names("0.0.0.0")
    assert "192.0.2.7" in host_names("192.0.2.7")


def _shake_hands(home: Home, name: str, ca: Path | None = None) -> None:
    """A TLS handshake over a socket pair, with the server's files on one side and only the CA on the other."""
    ours, theirs = socket.socketpair()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(home.server_cert, home.server_key)
    client = ssl.create_default_context(cafile=str(ca or home.ca_file))
    # What Python 3.13 sets by default: certificates that follow RFC 5280 to the letter.
    client.verify_flags |= ssl.VERIFY_X509_STRICT

    def serve() -> None:
        try:
            server.wrap_socket(theirs, server_side=True).close()
        except (ssl.SSLError, OSError):
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        client.wrap_socket(ours, server_hostname=name).close()
    finally:
        ours.close()
        thread.join()

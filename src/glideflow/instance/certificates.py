# SPDX-License-Identifier: Apache-2.0
"""The certificates of one home: a CA made at first start, and a server certificate signed by it."""

import ipaddress
import os
import socket
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from glideflow.errors import SettingsError
from glideflow.instance.home import Home, write_private

CA_LIFE = timedelta(days=3650)
SERVER_LIFE = timedelta(days=365)
RENEW_BEFORE = timedelta(days=30)
# The clocks of worker nodes may be behind; a certificate that is not valid yet fails as strangely as an expired one.
BACKDATED = timedelta(hours=1)


@dataclass(frozen=True)
class Validity:
    """What `doctor` tells of one certificate."""

    path: Path
    """Its file."""
    days_left: float
    """Days until it ends; negative when it has ended."""
    problem: str | None
    """Why it cannot be used, or None."""


def ensure_certificates(home: Home, listen_host: str, now: datetime | None = None) -> bool:
    """Make the CA and the server certificate that are missing, and renew a server certificate that ends soon.

    The CA is never replaced: pilots and users have it pinned.

    Args:
        home: The home; created already.
        listen_host: The address the endpoint listens on, one of the names in the certificate.
        now: The time, UTC; for tests.

    Returns:
        Whether the server certificate is new.

    Raises:
        SettingsError: The CA has ended, its key is missing, or a file cannot be read or written.
    """
    now = now or datetime.now(UTC)
    try:
        if not (home.ca / "ca.pem").exists():
            _make_ca(home, now)
        ca = _read_certificate(home.ca / "ca.pem")
        if ca.not_valid_after_utc <= now:
            raise SettingsError(
                f"the CA {home.ca / 'ca.pem'} ended on {ca.not_valid_after_utc:%Y-%m-%d}: stop the instance, remove "
                f"{home.ca}, and start it; users need the new ca.pem and running pilots are lost"
            )
        if _is_good(home, ca, host_names(listen_host), now):
            return False
        _make_server(home, ca, host_names(listen_host), now)
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"the certificates in {home.ca} cannot be used: {error}; restore them, or remove the folder for new ones"
        ) from error
    return True


def host_names(listen_host: str) -> list[str]:
    """Return the names and addresses by which this machine's endpoint is called."""
    names = ["127.0.0.1", "::1", "localhost", socket.gethostname(), socket.getfqdn()]
    if not is_wildcard(listen_host):
        names.append(listen_host)
    return list(dict.fromkeys(names))


def is_wildcard(host: str) -> bool:
    """Tell whether a listening address means all addresses of the machine."""
    return host in {"", "*", "::", "0.0.0.0"}


def inspect(path: Path, issuer: Path, now: datetime | None = None) -> Validity:
    """Look at a certificate as `doctor` does.

    Args:
        path: The certificate.
        issuer: The certificate of the CA that should have signed it; the same file for the CA itself.
        now: The time, UTC; for tests.
    """
    now = now or datetime.now(UTC)
    try:
        certificate = _read_certificate(path)
        certificate.verify_directly_issued_by(_read_certificate(issuer))
    except (OSError, ValueError, TypeError, InvalidSignature) as error:
        return Validity(path, 0.0, str(error) or f"it was not signed by {issuer}")
    left = (certificate.not_valid_after_utc - now) / timedelta(days=1)
    if left <= 0:
        return Validity(path, left, f"it ended on {certificate.not_valid_after_utc:%Y-%m-%d}")
    if certificate.not_valid_before_utc > now:
        return Validity(path, left, f"it is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC")
    return Validity(path, left, None)


def _make_ca(home: Home, now: datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "glideflow"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"CA of {home.settings.instance}"[:64]),
        ]
    )
    certificate = (
        _builder(name, name, key.public_key(), now, CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    # The key first: a CA without its key is what an interrupted start must not leave.
    _write_key(home.ca_key, key)
    write_private(home.ca / "ca.pem", _pem(certificate))


def _make_server(home: Home, ca: x509.Certificate, names: list[str], now: datetime) -> None:
    ca_key = serialization.load_pem_private_key(home.ca_key.read_bytes(), password=None)
    if not isinstance(ca_key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{home.ca_key} is not the EC key that glideflow makes")
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[3][:64])])
    certificate = (
        _builder(subject, ca.subject, key.public_key(), now, min(SERVER_LIFE, ca.not_valid_after_utc - now))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    _write_key(home.server_key, key)
    write_private(home.server_cert, _pem(certificate))


def _is_good(home: Home, ca: x509.Certificate, names: list[str], now: datetime) -> bool:
    """Whether the server certificate can stay: there, ours, of its key, for all names, and not ending soon."""
    if not home.server_cert.exists() or not home.server_key.exists():
        return False
    certificate = _read_certificate(home.server_cert)
    key = serialization.load_pem_private_key(home.server_key.read_bytes(), password=None)
    try:
        certificate.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        return False
    alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return (
        certificate.public_key() == key.public_key()
        and certificate.not_valid_after_utc - now > RENEW_BEFORE
        and all(_general_name(name) in alternatives for name in names)
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + life)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _read_certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_private(path, os.fsdecode(text))

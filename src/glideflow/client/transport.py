# SPDX-License-Identifier: Apache-2.0
"""The connection below the client: how long it waits, whom it trusts, and what its errors and paths are called."""

import ssl
from pathlib import Path
from urllib.parse import quote

import httpx

from glideflow.errors import EndpointUnavailable, SettingsError

TIMEOUT = httpx.Timeout(60.0, connect=5.0)
"""Longer than the endpoint takes for its slowest answer, planning a large task; seconds."""


class Translated:
    """A block in which every error of the transport becomes one of ours.

    Args:
        url: The endpoint's base URL.
        ca_file: The CA that its certificate is checked with; None for the system's.

    Raises:
        EndpointUnavailable: The endpoint does not answer, or its certificate cannot be verified.
    """

    def __init__(self, url: str, ca_file: Path | None) -> None:
        self._url = url
        self._ca_file = ca_file

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Translate."""
        if not isinstance(error, httpx.HTTPError | httpx.InvalidURL):
            return
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise EndpointUnavailable(
                f"the certificate of {self._url} cannot be verified with {self._ca_file or 'the CAs of this system'}: "
                "set GLIDEFLOW_CA_FILE to the CA of that endpoint"
            ) from error
        if isinstance(error, httpx.ReadTimeout):
            text = f"the endpoint {self._url} did not answer within {TIMEOUT.read:.0f} s: see `glideflow doctor`"
            raise EndpointUnavailable(text) from error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise EndpointUnavailable(
            f"the endpoint {self._url} does not answer ({reason}): start it with `glideflow up`, "
            "or see `glideflow doctor`"
        ) from error


def tls_context(ca_file: Path | None, scheme: str) -> ssl.SSLContext:
    """Return what checks the endpoint's certificate.

    Args:
        ca_file: The CA; None for the system's.
        scheme: Of the endpoint's URL.

    Raises:
        SettingsError: The file cannot be read.
    """
    if scheme != "https":
        # Never used; reading all CAs of the system would take as long as the rest.
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"the CA certificate {ca_file} cannot be read: {error}") from error


def api_path(*parts: int | str) -> str:
    """Join a path of `/v1`; names cannot break out of their part."""
    return "/v1/" + "/".join(quote(str(part), safe="") for part in parts)

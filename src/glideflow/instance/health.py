# SPDX-License-Identifier: Apache-2.0
"""Ask the servers of an instance whether they work: one request each, never through a proxy."""

import http.client
import json
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from glideflow.errors import ServiceError
from glideflow.instance.certificates import is_wildcard
from glideflow.instance.home import Home, InstanceInfo

TIMEOUT_SECONDS = 2.0


@dataclass(frozen=True)
class Answer:
    """What a server said."""

    body: Any
    """Its JSON."""
    date: datetime | None
    """Its clock, in whole seconds; None when it did not say."""


def ask(url: str, ca_file: Path | None = None, timeout_seconds: float = TIMEOUT_SECONDS) -> Answer:
    """Fetch a small JSON document.

    Args:
        url: `http://` or `https://`.
        ca_file: The only CA to trust, for HTTPS; None trusts those of the system.
        timeout_seconds: For connecting and for each read.

    Raises:
        ServiceError: No connection, no trust, a status other than 200, or no JSON.
    """
    parts = urlsplit(url)
    try:
        connection = _connection(parts.scheme, parts.hostname or "", parts.port, ca_file, timeout_seconds)
        try:
            connection.request("GET", parts.path or "/")
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        if response.status != http.client.OK:
            raise ServiceError(f"{url} answers with status {response.status}{_detail(text)}")
        return Answer(json.loads(text), _date(response.headers.get("Date")))
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ServiceError(f"{url} does not answer: {error}") from error


def _connection(
    scheme: str, host: str, port: int | None, ca_file: Path | None, timeout_seconds: float
) -> http.client.HTTPConnection:
    if scheme != "https":
        return http.client.HTTPConnection(host, port, timeout=timeout_seconds)
    context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    return http.client.HTTPSConnection(host, port, timeout=timeout_seconds, context=context)


def _detail(text: bytes) -> str:
    """What a problem document says."""
    try:
        return f": {json.loads(text)['detail']}"
    except (ValueError, TypeError, LookupError):
        return ""


def _date(text: str | None) -> datetime | None:
    try:
        return None if text is None else parsedate_to_datetime(text).astimezone(UTC)
    except ValueError:
        return None


def endpoint_url(home: Home, info: InstanceInfo) -> str:
    """Return the endpoint's URL as seen from this machine."""
    host = "127.0.0.1" if is_wildcard(home.settings.host) else home.settings.host
    return https_url(host, info.rest_port)


def https_url(host: str, port: int) -> str:
    """Return the base URL of an HTTPS server."""
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def ask_endpoint(home: Home, info: InstanceInfo, timeout_seconds: float = TIMEOUT_SECONDS) -> Answer:
    """Ask this home's endpoint for its health, trusting the home's CA only.

    Args:
        home: The home.
        info: Where its endpoint is.
        timeout_seconds: As for `ask`.

    Raises:
        ServiceError: It does not answer.
    """
    return ask(endpoint_url(home, info) + "/health", home.ca / "ca.pem", timeout_seconds)


def endpoint_answers(home: Home, info: InstanceInfo) -> bool:
    """Tell whether this home's endpoint works."""
    try:
        ask_endpoint(home, info)
    except ServiceError:
        return False
    return True


def prefect_answers(api_url: str) -> bool:
    """Tell whether a Prefect server works."""
    try:
        return ask(api_url.rstrip("/") + "/health").body is True
    except ServiceError:
        return False

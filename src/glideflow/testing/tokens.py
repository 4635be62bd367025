# SPDX-License-Identifier: Apache-2.0
"""HTCondor tokens with a wrong signature or a past end, to see what is said about them."""

import base64
import json
import time
from pathlib import Path

from glideflow.condor.pool_config import DOMAIN, IDENTITY


def write_condor_token(path: Path, *, seconds: float | None, mode: int = 0o600) -> Path:
    """Write a token that has the form of one of the private pool, signed by nobody.

    Args:
        path: The file to write.
        seconds: It ends so many seconds from now, negative for an end in the past; None: it never ends.
        mode: Mode of the file; HTCondor wants 0600.

    Returns:
        The path.
    """
    now = int(time.time())
    claims: dict[str, object] = {"sub": IDENTITY, "iss": DOMAIN, "iat": now, "jti": "0" * 32}
    claims["scope"] = "condor:/READ condor:/WRITE"
    if seconds is not None:
        claims["exp"] = int(now + seconds)
    parts = [json.dumps({"alg": "HS256", "kid": "POOL"}), json.dumps(claims), "no signature"]
    path.write_text(".".join(_encoded(part) for part in parts) + "\n", encoding="ascii")
    path.chmod(mode)
    return path


def _encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

# SPDX-License-Identifier: Apache-2.0
"""The token with which clients outside log in to a private pool; the key that signs it never leaves the pool's root."""

import os
import time
from pathlib import Path

from glideflow.condor import pool_config, tokens
from glideflow.condor.pool_namespace import run_inside
from glideflow.errors import PoolError
from glideflow.launching.processes import ProcessIdentity

TOKEN_SECONDS = 7 * 86_400
_RENEW_SECONDS = 86_400
_KEY_SECONDS = 60.0
_POLL_SECONDS = 0.1


def make_token(init: ProcessIdentity, path: Path, logs: str) -> None:
    """Make a token, valid for a week, once the pool that just starts has its signing key.

    Args:
        init: First process of the pool's namespaces.
        path: The token's file, 0600.
        logs: Where to look when there is none, for the message.

    Raises:
        PoolError: The pool made no key, or no token of it.
    """
    deadline = time.monotonic() + _KEY_SECONDS
    while not _has_key(init):
        if time.monotonic() > deadline or not init.is_alive():
            raise PoolError(f"the private pool made no signing key; see {logs}")
        time.sleep(_POLL_SECONDS)
    create = ["condor_token_create", "-identity", pool_config.IDENTITY, "-lifetime", str(TOKEN_SECONDS)]
    draft = path.with_name(f".{path.name}.new")
    with open(draft, "w", encoding="ascii", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        run_inside(init, [*create, "-authz", "READ", "-authz", "WRITE"], as_root=True, output=file)
    draft.rename(path)


def is_old(path: Path) -> bool:
    """Tell whether a token ends within a day; one that cannot be read is not old."""
    try:
        left = tokens.seconds_left(path)
    except (OSError, ValueError):
        return False
    return left is not None and left < _RENEW_SECONDS


def _has_key(init: ProcessIdentity) -> bool:
    try:
        run_inside(init, ["test", "-s", "/pool/passwords.d/POOL"], as_root=True)
    except PoolError:
        return False
    return True

# SPDX-License-Identifier: Apache-2.0
"""Random secrets, and their hashes: the database keeps only the latter."""

import hashlib
import hmac
import secrets

_BYTES = 32


def new_secret() -> str:
    """Return a random secret of 256 bits as text."""
    return secrets.token_urlsafe(_BYTES)


def hashed(secret: str) -> str:
    """Return the hash under which a secret is stored.

    A plain SHA-256 is enough: the secrets are random and long, so that they cannot be guessed.
    """
    return hashlib.sha256(secret.encode()).hexdigest()


def matches(secret: str, stored_hash: str) -> bool:
    """Tell whether a secret belongs to a stored hash, in constant time."""
    return hmac.compare_digest(hashed(secret), stored_hash)

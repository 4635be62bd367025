# SPDX-License-Identifier: Apache-2.0
"""The token of a home: whoever can read that file acts as the home's owner."""

import getpass
from pathlib import Path

from glideflow.domain.identity import Identity
from glideflow.errors import NotAuthenticated
from glideflow.identity.secrets import hashed, matches


class HomeToken:
    """Checks bearer tokens against the home's token file.

    Args:
        file: The token file, mode 0600.
        vo: Virtual organisation of its owner.
    """

    def __init__(self, file: Path, vo: str) -> None:
        self._hash = hashed(file.read_text(encoding="ascii").strip())
        self._identity = Identity(method="home-token", subject=getpass.getuser(), vo=vo)

    def authenticate(self, bearer: str) -> Identity:
        """Return whose token it is.

        Raises:
            NotAuthenticated: It is not the home's token.
        """
        if not matches(bearer, self._hash):
            raise NotAuthenticated("the token is not the one of this instance: use the file `token` in its home")
        return self._identity

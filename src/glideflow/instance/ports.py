# SPDX-License-Identifier: Apache-2.0
"""Choose ports that are free now and will be at the next start."""

import secrets
import socket
from collections.abc import Sequence

from glideflow.errors import SettingsError


def free_port(host: str, preferred: Sequence[int]) -> int:
    """Return the first preferred port that nobody uses on an address, or else one by chance.

    Ports by chance lie below the range of outgoing connections, so that they are still free at the next start.

    Raises:
        SettingsError: There is no free port, or this machine does not have the address.
    """
    chance = [20000 + secrets.randbelow(12000) for _ in range(100)]
    for port in (*preferred, *chance):
        if port_is_free(host, port):
            return port
    raise SettingsError(f"there is no free port on {host}: is it an address of this machine?")


def port_is_free(host: str, port: int) -> bool:
    """Tell whether a server could listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True

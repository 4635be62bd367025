# SPDX-License-Identifier: Apache-2.0
"""How the flows reach the REST endpoint: one client per process, made from the settings of the home."""

from functools import cache

from glideflow.client import Client
from glideflow.settings import load_settings


@cache
def endpoint() -> Client:
    """Return this process's client of the REST endpoint.

    Raises:
        SettingsError: The settings are wrong, or the home has no endpoint yet.
    """
    return Client.from_settings(load_settings())

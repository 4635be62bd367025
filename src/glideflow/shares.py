# SPDX-License-Identifier: Apache-2.0
"""The shares of an instance, from `shares.yaml`."""

from glideflow.configuration import read_configuration
from glideflow.domain.shares import ShareConfig
from glideflow.errors import SettingsError
from glideflow.settings import Settings

SHARES_FILE = "shares.yaml"
BEGINNING = "expected lines such as `half_life_hours: 168`; see config/shares.example.yaml"


def load_shares(settings: Settings) -> ShareConfig:
    """Read the shares of an instance.

    Args:
        settings: The instance's settings.

    Returns:
        The shares; equal ones without any limit when there is no file.

    Raises:
        SettingsError: The file cannot be used; the message names file, line, key and what is allowed.
    """
    path = settings.shares_file or settings.home / SHARES_FILE
    if not path.exists():
        if settings.shares_file is not None:
            raise SettingsError(f"the shares file {path} does not exist: correct the setting `shares_file`")
        return ShareConfig()
    return read_configuration(path, BEGINNING).part(ShareConfig)

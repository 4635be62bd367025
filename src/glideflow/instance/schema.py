# SPDX-License-Identifier: Apache-2.0
"""Bring the databases of a home to this version: `python -m glideflow.instance.schema`, run at each start."""

import sys

from glideflow.errors import GlideflowError, SettingsError
from glideflow.instance.components import embedded_postgres
from glideflow.instance.home import Home, InstanceInfo
from glideflow.settings import Settings, load_settings
from glideflow.store.migration import migrate


def main() -> int:
    """Make missing databases and migrate; one line on stderr says what is wrong."""
    try:
        settings = load_settings()
        home = Home(settings)
        info = home.read_instance()
        if info is None:
            raise SettingsError(f"{home.instance_file} is missing: start the instance with `glideflow up`")
        prepare_databases(settings, home, info)
    except GlideflowError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def prepare_databases(settings: Settings, home: Home, info: InstanceInfo) -> None:
    """Make the databases of an embedded server, then migrate ours; Prefect migrates its own.

    Raises:
        DatabaseUnavailable: The database does not answer or refuses.
    """
    if settings.database_url is None:
        embedded_postgres(settings, home, info).create_databases()
    migrate(info.database_url)


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""Bring the databases of a home to this version: `python -m glideflow.instance.schema`, run at each start."""

import sys

from glideflow.errors import DatabaseUnavailable, GlideflowError, SettingsError
from glideflow.instance.components import embedded_postgres
from glideflow.instance.home import Home, InstanceInfo
from glideflow.settings import Settings, load_settings
from glideflow.store.engine import ask_server
from glideflow.store.migration import migrate

OLDEST_POSTGRES = 15


def main() -> int:
    """Make missing databases, check the server's version and migrate; one line on stderr says what is wrong."""
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
    """Make the embedded server's databases or check a site's own, then migrate ours; Prefect migrates its own.

    Raises:
        SettingsError: The server is too old.
        DatabaseUnavailable: A database does not answer or is missing.
    """
    if settings.database_url is None:
        embedded_postgres(settings, home, info).create_databases()
    else:
        check_server(info.database_url, "database_url")
        if info.prefect_database_url:
            check_server(info.prefect_database_url, "database_url, with _prefect added to the database's name,")
    migrate(info.database_url)


def check_server(url: str, name: str) -> int:
    """Connect to a site's own server and return its major version.

    Raises:
        SettingsError: It is older than what is needed.
        DatabaseUnavailable: It does not answer, or the database is missing.
    """
    try:
        number = int(ask_server(url)["version"])
    except DatabaseUnavailable as error:
        raise DatabaseUnavailable(f"{name} cannot be used: {error}") from error
    major = number // 10000
    if major < OLDEST_POSTGRES:
        raise SettingsError(f"{name} is a PostgreSQL {major}, and glideflow needs {OLDEST_POSTGRES} or newer")
    return major


if __name__ == "__main__":
    sys.exit(main())

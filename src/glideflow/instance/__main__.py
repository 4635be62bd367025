# SPDX-License-Identifier: Apache-2.0
"""The process of the supervisor, `python -m glideflow.instance`; started by `glideflow up`, not by hand."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from glideflow.errors import GlideflowError
from glideflow.instance.components import Component, instance_components
from glideflow.instance.home import Home
from glideflow.instance.plan import prepare
from glideflow.instance.postgres import EmbeddedPostgres
from glideflow.instance.site_database import check_site_databases
from glideflow.instance.supervisor import supervise
from glideflow.settings import load_settings


def main(argv: Sequence[str] | None = None) -> int:
    """Read the arguments and supervise the real components."""
    parser = argparse.ArgumentParser(description="Supervise one instance of glideflow.")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--launcher")
    parser.add_argument("--slots", type=int)
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    try:
        home = Home(load_settings(arguments.home))
        home.create()
    except GlideflowError as error:
        sys.stderr.write(f"{error}\n")
        return 1

    def components() -> list[Component]:
        EmbeddedPostgres(home.postgres, 0).end_leftovers()
        info = prepare(home.settings, home, arguments.launcher, arguments.slots)
        if home.settings.database_url:
            check_site_databases(info.database_url, info.prefect_database_url)
        return instance_components(home.settings, home, info)

    return supervise(home, components)


if __name__ == "__main__":
    sys.exit(main())

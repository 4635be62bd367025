# SPDX-License-Identifier: Apache-2.0
"""`python -m glideflow_flows`: the flows process of a home."""

import logging
import os
import sys
from typing import NoReturn

from glideflow.instance.home import Home, InstanceInfo
from glideflow.settings import Settings, load_settings, process_environment

SERVE = "serve"


def main() -> int:
    """Point Prefect to the home's server, then serve.

    Prefect reads its settings when it is imported, and from `.env` and `prefect.toml` in the working folder: so the
    process becomes itself again, in a folder of the home and with the right environment. Its id stays the same.

    Returns:
        The process's exit status.
    """
    settings = load_settings()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if sys.argv[1:] == [SERVE]:
        # Only now: before, Prefect would read the wrong settings.
        from glideflow_flows.serving import serve  # noqa: PLC0415

        return serve(settings)
    info = Home(settings).read_instance()
    if info is None:
        sys.stderr.write(f"{settings.home} is not running: start it with `glideflow up`\n")
        return 1
    return become_server(settings, info)


def become_server(settings: Settings, info: InstanceInfo) -> NoReturn:
    """Replace this program by the one that serves."""
    folder = Home(settings).prefect
    folder.mkdir(mode=0o700, exist_ok=True)
    os.chdir(folder)
    os.execve(
        sys.executable,
        [sys.executable, "-m", "glideflow_flows", SERVE],
        process_environment(
            GLIDEFLOW_HOME=str(settings.home),
            PREFECT_API_URL=info.prefect_api_url,
            PREFECT_HOME=str(folder),
            PREFECT_PROFILES_PATH=str(folder / "profiles.toml"),
            PREFECT_LOCAL_STORAGE_PATH=str(folder / "storage"),
            PREFECT_SERVER_ALLOW_EPHEMERAL_MODE="false",
            DO_NOT_TRACK="1",
        ),
    )


if __name__ == "__main__":
    sys.exit(main())

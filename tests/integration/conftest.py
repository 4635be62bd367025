# SPDX-License-Identifier: Apache-2.0
"""The real HTCondor pool of the integration tests."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from glideflow.condor.private_pool import PrivatePool
from glideflow.instance.home import Home
from glideflow.settings import Settings, load_settings


@pytest.fixture(scope="session")
def pool(clean_environ: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, Home]]:
    """A private pool and its home, for the whole session.

    With `GLIDEFLOW_TEST_POOL_HOME` set, the running pool of that home, which is left as it is.
    """
    running = os.environ.get("GLIDEFLOW_TEST_POOL_HOME")
    settings = load_settings(Path(running) if running else tmp_path_factory.mktemp("pool-home"))
    home = Home(settings)
    home.create()
    private = PrivatePool(settings, home)
    private.up(progress=print)
    yield settings, home
    if not running:
        private.down(purge=True)

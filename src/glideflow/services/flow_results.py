# SPDX-License-Identifier: Apache-2.0
"""The results of flow steps, which Prefect writes as files and never removes."""

from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

from glideflow.store import tasks
from glideflow.store.engine import Database

KEEP = timedelta(days=7)
"""A week: who looks at a flow run that ended, or lets Prefect repeat it, does so within days. A repeated step whose
result is gone asks the endpoint again and gets the same answer."""


def remove_old_results(database: Database, folder: Path, now: datetime) -> int:
    """Remove the results of flow runs that ended long ago; those of open tasks stay, however old they are.

    A file does not say which flow run wrote it. It was written while its task was open, so what is older than the
    oldest open task belongs to none of them.

    Args:
        database: The store.
        folder: Where Prefect writes them.
        now: The time, aware.

    Returns:
        How many files were removed.

    Raises:
        DatabaseUnavailable: Nothing was removed.
    """
    with database.transaction() as connection:
        oldest = tasks.oldest_open(connection)
    border = min(now - KEEP, oldest or now).timestamp()
    if not folder.is_dir():
        return 0
    return sum(_remove_older(file, border) for file in folder.iterdir())


def _remove_older(file: Path, border: float) -> bool:
    # Another process of the endpoint may be faster.
    with suppress(FileNotFoundError):
        if file.stat().st_mtime < border:
            file.unlink()
            return True
    return False

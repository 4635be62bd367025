# SPDX-License-Identifier: Apache-2.0
"""The cache of task definitions."""

from collections.abc import Iterator

import pytest

from glideflow.domain.task import Submission
from glideflow.services.orders import TaskCache
from glideflow.store import tasks
from glideflow.store.engine import Connection, Database


@pytest.fixture
def connection(database_url: str) -> Iterator[Connection]:
    database = Database(database_url, connections=1)
    with database.transaction() as opened:
        yield opened
    database.close()


def test_a_full_cache_keeps_what_was_just_asked_for(connection: Connection) -> None:
    submission = Submission.model_validate({"spec": {"schema_version": 1, "name": "demo", "command": "true"}})
    made = [tasks.insert(connection, submission, owner="ada", vo="local") for _ in range(4)]
    cache = TaskCache(size=2)
    cache.load(connection, made[:2])
    # The first one is the oldest, and needed again together with a new one.
    cache.load(connection, [made[0], made[2]])
    assert [cache.spec(made[0]).name, cache.spec(made[2]).name] == ["demo", "demo"]
    with pytest.raises(KeyError):
        cache.spec(made[1])

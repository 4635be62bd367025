# SPDX-License-Identifier: Apache-2.0
"""The private pool of an ordinary user: made, used by pilots, ended, in a home that nobody else may enter."""

import json
import stat
from collections.abc import Iterator

import pytest
from ordinary_user import CHECKOUT, PROGRAMS, OrdinaryUser, ordinary_user

pytestmark = pytest.mark.pool

PILOTS = "crashed_pilot or ended_well or handed_over_is_private"


@pytest.fixture
def user() -> Iterator[OrdinaryUser]:
    with ordinary_user() as found:
        yield found
        found.run(PROGRAMS / "glideflow", "pool", "down", "--purge")


def test_an_ordinary_user_has_a_pool_that_runs_pilots_and_ends_without_a_trace(user: OrdinaryUser) -> None:
    assert user.run("id", "-u").stdout.strip() != "0"
    assert stat.S_IMODE(user.home.stat().st_mode) == 0o700
    assert "with 2 slots" in user.glideflow("pool", "up", "--slots", "2")
    status = json.loads(user.glideflow("pool", "status", "--json"))
    assert (status["running"], status["kind"], status["slots"]) == (True, "private", 2)
    assert status["identity"] == "pilot@glideflow-pool"
    assert user.glideflow("pool", "exec", "--", "condor_status", "-af", "TotalSlotCpus").split() == ["2"]

    # The tests of the way to the slot and back, as that user: files handed over and spooled, held, fetched, removed.
    tests = ["tests/integration/test_condor_launcher.py", "-k", PILOTS, "-p", "no:cacheprovider"]
    done = user.run(
        "env", f"GLIDEFLOW_TEST_POOL_HOME={user.home / 'instance'}",
        PROGRAMS / "python", "-m", "pytest", "-q", "--rootdir", CHECKOUT, f"--basetemp={user.home / 'tests'}",
        f"--confcutdir={CHECKOUT}", CHECKOUT / tests[0], *tests[1:],
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 passed" in done.stdout

    assert "the private pool is down" in user.glideflow("pool", "down")
    mine = user.run("ps", "-u", user.run("id", "-u").stdout.strip(), "-o", "stat=,args=").stdout.splitlines()
    assert not [line for line in mine if "condor" in line or ("pool_init" in line and not line.startswith("Z"))]
    assert not json.loads(user.run(PROGRAMS / "glideflow", "pool", "status", "--json").stdout)["running"]

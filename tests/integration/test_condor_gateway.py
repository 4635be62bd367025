# SPDX-License-Identifier: Apache-2.0
"""The gateway against the real pool, and against what is wrong with pools and tokens."""

import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from glideflow.condor.connection import Connection, connection_of, private_connection
from glideflow.condor.errors import (
    AccessRefused,
    RequestRefused,
    SchedulerUnreachable,
    SubmissionRefused,
    TokenUnusable,
)
from glideflow.condor.gateway import Gateway
from glideflow.instance.home import Home
from glideflow.launching.processes import wait_until
from glideflow.settings import Settings
from glideflow.testing.tokens import write_condor_token

pytestmark = pytest.mark.pool

SECONDS = 60.0
DESCRIPTION = """\
executable = {script}
initialdir = $(folder)
output = out
error = err
log = log
should_transfer_files = YES
when_to_transfer_output = ON_EXIT
transfer_output_files = ""
request_memory = 50M
request_disk = 10M
leave_in_queue = JobStatus == 4
"""
COMPLETED, HELD = 4, 5


@pytest.fixture
def gateway(pool: tuple[Settings, Home]) -> Iterator[Gateway]:
    """A gateway to the pool."""
    with Gateway.of(*pool) as opened:
        yield opened


def script(folder: Path, body: str) -> str:
    """The description of a job that runs a shell script."""
    path = folder / "job.sh"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return DESCRIPTION.format(script=path)


def status(gateway: Gateway, batch_id: str) -> tuple[int, int | None] | None:
    """JobStatus and HoldReasonCode of a job; None when it left the queue."""
    cluster, proc = batch_id.split(".")
    found = gateway.query(f"ClusterId == {cluster} && ProcId == {proc}", ["JobStatus", "HoldReasonCode"])
    return (found[0]["JobStatus"], found[0].get("HoldReasonCode")) if found else None


def with_tokens(pool: tuple[Settings, Home], folder: Path) -> Connection:
    """A connection to the pool with tokens of a test's own."""
    config = folder / "client_config"
    text = private_connection(pool[1].pool).environment["CONDOR_CONFIG"]
    tokens = folder / "tokens.d"
    tokens.mkdir()
    lines = [line for line in Path(text).read_text().splitlines() if not line.startswith("SEC_TOKEN_DIRECTORY")]
    config.write_text("\n".join([*lines, f"SEC_TOKEN_DIRECTORY = {tokens}", ""]))
    usual = connection_of(*pool)
    return replace(usual, environment={**usual.environment, "CONDOR_CONFIG": str(config)}, tokens=tokens)


def closed_port() -> int:
    """A port where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def at_port(pool: tuple[Settings, Home], folder: Path, port: int) -> Connection:
    """A connection with a good token to a pool that is not there."""
    config = folder / "client_config"
    config.write_text(f"COLLECTOR_HOST = 127.0.0.1:{port}\nSEC_CLIENT_AUTHENTICATION_METHODS = IDTOKENS\n")
    usual = connection_of(*pool)
    return replace(usual, environment={**usual.environment, "CONDOR_CONFIG": str(config)})


def test_the_login_is_the_account_of_the_pilots(gateway: Gateway) -> None:
    assert gateway.ping() == "pilot@glideflow-pool"


def test_a_job_runs_as_pilot_and_its_output_comes_back(gateway: Gateway, tmp_path: Path) -> None:
    submitted = gateway.submit(script(tmp_path, "id -un; python3 --version"), [{"folder": str(tmp_path)}])
    batch_id = submitted.batch_id(0)
    assert submitted.count == 1
    assert wait_until(lambda: status(gateway, batch_id) == (COMPLETED, None), SECONDS)
    (ad,) = gateway.query(f"ClusterId == {submitted.cluster}", ["Owner", "HoldReason"])
    assert ad["Owner"] == "pilot"
    # Set while the input was spooled, undefined since: absent here, not a truthy special value.
    assert "HoldReason" not in ad
    gateway.retrieve([batch_id])
    words = (tmp_path / "out").read_text().splitlines()
    assert words[0] == "pilot"
    assert words[1].startswith("Python 3.")
    assert gateway.remove([batch_id], "fetched") == 1
    assert wait_until(lambda: status(gateway, batch_id) is None, SECONDS)


def test_jobs_are_held_released_and_removed_with_the_reason(gateway: Gateway, tmp_path: Path) -> None:
    submitted = gateway.submit(script(tmp_path, "sleep 300"), [{"folder": str(tmp_path)}] * 2)
    first, second = submitted.batch_id(0), submitted.batch_id(1)
    assert wait_until(lambda: status(gateway, first) not in {(HELD, 16)}, SECONDS)
    assert gateway.hold([first], "for a test") == 1
    assert wait_until(lambda: status(gateway, first) == (HELD, 1), SECONDS)
    (ad,) = gateway.query(f"ClusterId == {submitted.cluster} && ProcId == 0", ["HoldReason"])
    assert "for a test" in ad["HoldReason"]
    assert gateway.release([first], "again") == 1
    assert gateway.remove([first, second], "enough") == 2
    assert wait_until(lambda: status(gateway, first) is None and status(gateway, second) is None, SECONDS)
    assert gateway.remove([first], "again") == 0
    assert gateway.remove([], "nothing") == 0


def test_a_bad_description_leaves_nothing_in_the_queue(gateway: Gateway, tmp_path: Path) -> None:
    before = len(gateway.query("true", ["ClusterId"]))
    missing = DESCRIPTION.format(script=tmp_path / "nosuch.sh")
    with pytest.raises(SubmissionRefused, match=r"did not take the pilots .*nosuch\.sh"):
        gateway.submit(missing, [{"folder": str(tmp_path)}])
    lacking = script(tmp_path, "true") + f"transfer_input_files = {tmp_path}/nosuch.txt\n"
    with pytest.raises(SubmissionRefused, match=r"nosuch\.txt"):
        gateway.submit(lacking, [{"folder": str(tmp_path)}])
    assert wait_until(lambda: len(gateway.query("true", ["ClusterId"])) == before, SECONDS)


def test_a_submission_without_jobs_and_a_bad_constraint_are_refused(gateway: Gateway, tmp_path: Path) -> None:
    with pytest.raises(RequestRefused, match="without any job"):
        gateway.submit(script(tmp_path, "true"), [])
    with pytest.raises(RequestRefused, match="refused a request"):
        gateway.query("JobStatus ==", ["JobStatus"])


def test_a_pool_that_is_not_there_is_said_at_once(pool: tuple[Settings, Home], tmp_path: Path) -> None:
    started = time.monotonic()
    with (
        Gateway(at_port(pool, tmp_path, closed_port()), 20) as gateway,
        pytest.raises(SchedulerUnreachable, match=r"schedd of the private pool does not answer .*glideflow pool up"),
    ):
        gateway.ping()
    assert time.monotonic() - started < 10


def test_a_pool_that_never_answers_is_given_up_after_the_time_limit(
    pool: tuple[Settings, Home], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        connection = at_port(pool, tmp_path, deaf.getsockname()[1])
        with Gateway(connection, timeout_seconds=2) as gateway:
            started = time.monotonic()
            with pytest.raises(SchedulerUnreachable, match="no answer within 2 s"):
                gateway.ping()
            assert time.monotonic() - started < 10
            # The hanging process is gone, and the next call gets another one.
            assert not _workers()
            with pytest.raises(SchedulerUnreachable):
                gateway.ping()


def test_a_worker_that_was_killed_is_replaced(gateway: Gateway) -> None:
    gateway.ping()
    before = _workers()
    assert before
    for process in before:
        process.kill()
        process.wait(SECONDS)
    assert gateway.ping() == "pilot@glideflow-pool"


def test_closing_leaves_no_worker(pool: tuple[Settings, Home]) -> None:
    before = _workers()
    with Gateway.of(*pool) as gateway:
        gateway.ping()
        assert len(_workers()) == len(before) + 1
    assert _workers() == before


@pytest.mark.parametrize("mode", [0o644, 0o640])
def test_a_token_that_others_can_read_is_named(pool: tuple[Settings, Home], tmp_path: Path, mode: int) -> None:
    connection = with_tokens(pool, tmp_path)
    copy = Path(shutil.copy(pool[1].pool / "tokens.d" / "pool", tmp_path / "tokens.d" / "pool"))
    copy.chmod(mode)
    with Gateway(connection, 20) as gateway:
        with pytest.raises(TokenUnusable, match=f"{copy} has mode {mode:04o}, so HTCondor ignores it: run `chmod 600"):
            gateway.ping()
        copy.chmod(0o600)
        assert gateway.ping() == "pilot@glideflow-pool"


def test_an_expired_token_is_named_with_what_to_do(pool: tuple[Settings, Home], tmp_path: Path) -> None:
    connection = with_tokens(pool, tmp_path)
    path = write_condor_token(tmp_path / "tokens.d" / "pool", seconds=-7200)
    with (
        Gateway(connection, 20) as gateway,
        pytest.raises(
            TokenUnusable, match=f"{path} expired 2 hours ago: run `glideflow pool up`, which makes a new one"
        ),
    ):
        gateway.ping()


def test_a_forged_token_is_refused_by_the_pool(pool: tuple[Settings, Home], tmp_path: Path) -> None:
    connection = with_tokens(pool, tmp_path)
    write_condor_token(tmp_path / "tokens.d" / "pool", seconds=3600)
    with Gateway(connection, 20) as gateway, pytest.raises(AccessRefused, match="refuses our token"):
        gateway.ping()


def test_without_a_pool_the_error_says_how_to_get_one(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    with pytest.raises(SchedulerUnreachable, match=r"no HTCondor pool: start a private one with `glideflow pool up`"):
        Gateway.of(settings, Home(settings))


def _workers() -> set[psutil.Process]:
    """The gateway processes of this test session."""
    return {
        child
        for child in psutil.Process().children(recursive=True)
        if child.status() != psutil.STATUS_ZOMBIE and "glideflow.condor.worker" in child.cmdline()
    }

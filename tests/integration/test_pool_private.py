# SPDX-License-Identifier: Apache-2.0
"""The life of a private pool: up twice, killed, down; and what it leaves alone."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from glideflow.condor.connection import private_connection
from glideflow.condor.gateway import Gateway
from glideflow.condor.pool_token import TOKEN_SECONDS
from glideflow.condor.private_pool import PrivatePool
from glideflow.condor.tokens import seconds_left
from glideflow.errors import PoolError
from glideflow.instance.home import Home
from glideflow.launching.processes import wait_until
from glideflow.settings import Settings, load_settings, process_environment
from glideflow.testing.tokens import write_condor_token

pytestmark = pytest.mark.pool

SECONDS = 60.0
CLI = [sys.executable, "-c", "from glideflow.cli.pool import pool_app; pool_app()"]


@pytest.fixture
def own(tmp_path: Path) -> Iterator[PrivatePool]:
    """A pool that the test may break."""
    settings = load_settings(tmp_path / "home")
    home = Home(settings)
    home.create()
    private = PrivatePool(settings, home)
    yield private
    private.down(purge=True)


def processes_of(own: PrivatePool) -> list[psutil.Process]:
    """Every process inside the pool's namespaces, and the one that holds them."""
    init = own.status().pid
    assert init is not None
    holder = psutil.Process(init).parent()
    assert holder is not None
    return [holder, *holder.children(recursive=True)]


def all_gone(processes: list[psutil.Process]) -> bool:
    """Whether none of them runs; psutil compares start times too."""
    return not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)


def mounts_below(folder: Path) -> list[str]:
    """Mounts of this machine that name a folder."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines if str(folder) in line or "pool-roots" in line]


def run_cli(own: PrivatePool, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `glideflow pool ...` for the test's home."""
    environment = process_environment(GLIDEFLOW_HOME=str(own.settings.home))
    return subprocess.run([*CLI, *arguments], capture_output=True, text=True, check=False, env=environment, timeout=120)


def test_it_outlives_the_command_that_started_it_and_up_again_changes_nothing(own: PrivatePool) -> None:
    assert run_cli(own, "up", "--slots", "3").returncode == 0
    first = own.status()
    assert (first.running, first.kind, first.slots) == (True, "private", 3)
    second = own.up()
    assert (second.pid, second.address, second.slots) == (first.pid, first.address, 3)
    answer = run_cli(own, "exec", "--", "condor_status", "-af", "TotalSlotCpus")
    assert answer.stdout.strip() == "3"
    assert run_cli(own, "exec", "--", "sh", "-c", "exit 7").returncode == 7
    shown = json.loads(run_cli(own, "status", "--json").stdout)
    assert (shown["running"], shown["slots"], shown["identity"]) == (True, 3, "pilot@glideflow-pool")


def test_down_ends_its_processes_and_mounts_and_nothing_else(own: PrivatePool, pool: tuple[Settings, Home]) -> None:
    bystander = subprocess.Popen(["sleep", "600"])
    neighbour = PrivatePool(*pool).status()
    try:
        own.up(slots=1)
        mine = processes_of(own)
        assert len(mine) > 5
        assert own.down()
        assert wait_until(lambda: all_gone(mine), SECONDS)
        assert not mounts_below(own.folder)
        assert bystander.poll() is None
        assert PrivatePool(*pool).status() == neighbour
        assert neighbour.running
        assert not own.down()
    finally:
        bystander.kill()
        bystander.wait()
    status = own.status()
    assert not status.running
    assert "start it with `glideflow pool up`" in status.text


@pytest.mark.parametrize("lose_note", [False, True])
def test_after_kill_9_everything_is_gone_and_up_continues_with_the_queue(own: PrivatePool, lose_note: bool) -> None:
    status = own.up(slots=1)
    assert status.pid is not None
    mine = processes_of(own)
    with Gateway(private_connection(own.folder)) as gateway:
        text = f"executable = /bin/true\ninitialdir = {own.settings.home}\nrequest_cpus = 99\nMY.Mark = $(mark)\n"
        gateway.submit(text, [{"mark": "17"}])
    os.kill(status.pid, signal.SIGKILL)
    assert wait_until(lambda: all_gone(mine), SECONDS)
    assert not own.status().running
    if lose_note:
        (own.folder / "pool.json").write_text("half a li")
    again = own.up()
    assert again.running
    assert again.pid != status.pid
    assert lose_note or again.address == status.address
    with Gateway(private_connection(own.folder)) as gateway:
        assert [ad["Mark"] for ad in gateway.query("true", ["Mark"])] == [17]


def test_a_pool_whose_note_was_lost_is_found_and_ended(own: PrivatePool) -> None:
    own.up(slots=1)
    mine = processes_of(own)
    (own.folder / "pool.json").unlink()
    assert own.down()
    assert wait_until(lambda: all_gone(mine), SECONDS)


def test_a_note_that_names_a_foreign_process_harms_nobody(own: PrivatePool) -> None:
    own.up(slots=1)
    own.down()
    note = json.loads((own.folder / "pool.json").read_text())
    with subprocess.Popen(["sleep", "600"]) as bystander:
        try:
            (own.folder / "pool.json").write_text(json.dumps({**note, "pid": bystander.pid}))
            assert not own.status().running
            assert not own.down()
            assert own.up(slots=1).running
            assert bystander.poll() is None
        finally:
            bystander.kill()


def test_other_slots_start_it_again(own: PrivatePool) -> None:
    first = own.up(slots=1)
    second = own.up(slots=2)
    assert second.pid != first.pid
    assert (second.slots, second.address) == (2, first.address)


def test_up_renews_an_expired_token(own: PrivatePool) -> None:
    own.up(slots=1)
    write_condor_token(own.token_file, seconds=-60)
    assert not own.status().running
    assert own.up().running
    left = seconds_left(own.token_file)
    assert left is not None
    assert left > TOKEN_SECONDS - 600
    assert own.token_file.stat().st_mode & 0o777 == 0o600


def test_a_token_is_renewed_in_its_last_day_only(own: PrivatePool) -> None:
    own.up(slots=1)
    fresh = own.token_file.read_text()
    own.renew_token_when_old()
    assert own.token_file.read_text() == fresh
    write_condor_token(own.token_file, seconds=3600)
    own.renew_token_when_old()
    left = seconds_left(own.token_file)
    assert left is not None
    assert left > TOKEN_SECONDS - 600


def test_a_configured_pool_that_answers_is_used_instead(
    own: PrivatePool, pool: tuple[Settings, Home], monkeypatch: pytest.MonkeyPatch
) -> None:
    address = PrivatePool(*pool).status().address
    token_folder = pool[1].pool / "tokens.d"
    changes = {"condor_collector": address, "condor_token_directory": token_folder}
    told: list[str] = []
    configured = PrivatePool(own.settings.model_copy(update=changes), Home(own.settings))
    status = configured.up(progress=told.append)
    assert (status.kind, status.running, status.identity) == ("configured", True, "pilot@glideflow-pool")
    assert told == [f"using the pool of collector {address} as pilot@glideflow-pool"]
    assert not (own.folder / "pool.json").exists()


def test_a_configured_pool_that_does_not_answer_is_an_error(own: PrivatePool) -> None:
    configured = PrivatePool(own.settings.model_copy(update={"condor_collector": "127.0.0.1:1"}), Home(own.settings))
    with pytest.raises(PoolError, match=r"condor_collector names a pool, but the schedd .* does not answer"):
        configured.up()


def test_nobody_without_a_token_reads_the_queue(own: PrivatePool, tmp_path: Path) -> None:
    own.up(slots=1)
    config = tmp_path / "config"
    config.write_text(f"COLLECTOR_HOST = {own.status().address}\nSEC_TOKEN_DIRECTORY = {tmp_path}/none\n")
    code = "import htcondor2; htcondor2.Collector().query(htcondor2.AdType.Schedd)"
    environment = process_environment(CONDOR_CONFIG=str(config))
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "Failed communication with collector" in run.stderr


def test_exec_without_a_pool_says_how_to_start_one(own: PrivatePool) -> None:
    with pytest.raises(PoolError, match="start it with `glideflow pool up`"):
        own.exec(["condor_q"])

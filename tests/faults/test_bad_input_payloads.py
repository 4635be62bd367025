# SPDX-License-Identifier: Apache-2.0
"""Commands that go wrong on the node: the task says why, everywhere it is looked at."""

import os
from pathlib import Path

import pytest
from real_instance import RESOURCES, Instance, until

pytest_plugins = ("instance_fixtures",)
pytestmark = [pytest.mark.pool, pytest.mark.prefect]

GIGABYTE = 1_000_000_000
TASKS = {
    "exits": "command: 'echo now it fails >&2; exit 3'",
    "writes-nothing": "command: 'true'\noutputs: {result: {file: result.txt}}",
    "prints": f"command: 'yes a line that is printed again and again | head -c {GIGABYTE}; echo; echo the last line'",
}


@pytest.fixture(scope="module")
def tasks(instance: Instance, tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """The tasks, all under way together."""
    head = f"schema_version: 1\nretries: 0\nresources: {RESOURCES}\n"
    folder = tmp_path_factory.mktemp("payloads")
    return {
        name: instance.submit(folder / name, f"{head}name: {name}\n{text}\n") for name, text in TASKS.items()
    }  # fmt: skip


def test_a_command_that_exits_with_3_fails_its_task(instance: Instance, tasks: dict[str, int]) -> None:
    number = tasks["exits"]
    instance.ended(number, "failed")
    assert "exit code 3" in instance.run("wait", str(number), status=1).words
    assert "exit code 3" in instance.say("explain", f"{number}.0").words
    assert instance.say("log", f"{number}.0").out == "now it fails\n"
    [job] = instance.jobs(number)
    assert (job["exit_code"], job["reason"]["code"]) == (3, "payload_exit")
    assert "exit code 3" in instance.flow_ended(number, "FAILED")["state"]["message"]


def test_a_command_that_writes_no_output_fails_its_task(instance: Instance, tasks: dict[str, int]) -> None:
    number = tasks["writes-nothing"]
    instance.ended(number, "failed")
    assert "result.txt" in instance.say("explain", f"{number}.0").words
    [job] = instance.jobs(number)
    assert (job["exit_code"], job["reason"]["code"]) == (0, "output_missing")
    assert "result.txt" in instance.flow_ended(number, "FAILED")["state"]["message"]
    assert instance.ask("outputs", str(number)) == []


def test_a_command_that_prints_a_gigabyte_is_done(instance: Instance, tasks: dict[str, int]) -> None:
    number = tasks["prints"]
    instance.ended(number)
    [job] = instance.jobs(number)
    log = instance.say("log", f"{number}.0").out
    kept = int(instance.settings.log_limit_mb * 1e6)
    assert kept / 2 < len(log) <= kept
    assert log.startswith("a line that is printed")
    assert log.endswith("the last line\n")
    [gap] = [line for line in log.splitlines() if "dropped" in line]
    assert "bytes" in gap
    [attempt] = instance.ask("explain", str(job["id"]))["attempts"]
    assert instance.pilots()[attempt["pilot_id"]].memory_info().rss < 100_000_000
    assert attempt["usage"]["wall_seconds"] < 60


def test_a_full_disk_on_the_node_is_named(instance: Instance, tmp_path: Path) -> None:
    if not os.path.ismount(instance.home.pilots):
        pytest.skip("mounting a small file system needs root")
    fill = """
    schema_version: 1
    name: fills
    site: small
    command: cat /dev/zero > big.bin
    retries: 0
    outputs: {big: {file: big.bin}}
    resources: {memory_mb: 50, disk_mb: 20, wall_seconds: 300}
    """
    number = instance.submit(tmp_path, fill)
    instance.ended(number, "failed")
    [job] = instance.jobs(number)
    assert job["reason"]["code"] == "disk_full"
    assert "is full" in instance.say("explain", f"{number}.0").words
    assert "is full" in instance.flow_ended(number, "FAILED")["state"]["message"]
    again = instance.submit(tmp_path, fill.replace("cat /dev/zero", "echo enough"))
    instance.ended(again)


def test_a_failed_task_can_be_run_again(instance: Instance, tasks: dict[str, int]) -> None:
    number = tasks["exits"]
    instance.ended(number, "failed")
    instance.say("retry", str(number))
    until(lambda: len(instance.moves(number, "job", "failed")) == 2)
    instance.ended(number, "failed")
    assert instance.jobs(number)[0]["attempts"] == 2

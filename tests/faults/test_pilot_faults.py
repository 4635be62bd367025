# SPDX-License-Identifier: Apache-2.0
"""The real pilot when things go wrong: signals, a server that is gone, lost answers, a full disk."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from pilot_endpoint import PILOT_ID, SECRET, PilotEndpoint, PilotProcess, is_alive, pilot_at_work, wait_gone

from glideflow.launching.archive import pilot_archive

Start = Callable[..., tuple[PilotEndpoint, PilotProcess]]
SIZE = ("--memory-mb", "2000", "--disk-mb", "1000")
# Prints its own process and one of its children, and ends with TERM.
SLEEPER = "sleep 300 & echo $$ $!; wait"
STUBBORN = "trap '' TERM; sleep 300 & echo $$ $!; while :; do wait; sleep 0.1; done"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start endpoint and pilot; both are ended after the test."""
    with ExitStack() as stack:

        def start(*words: str, **settings: float) -> tuple[PilotEndpoint, PilotProcess]:
            return stack.enter_context(pilot_at_work(tmp_path, pilot_archive(), *SIZE, *words, **settings))

        yield start


@pytest.fixture
def bystander() -> Iterator[int]:
    """A process of the same user whose parent is init, as daemons are; it must survive."""
    started = subprocess.run(
        ["/bin/sh", "-c", "sleep 600 > /dev/null 2>&1 & echo $!"],
        start_new_session=True,
        capture_output=True,
        check=True,
        text=True,
    )
    process_id = int(started.stdout)
    yield process_id
    assert is_alive(process_id)
    os.kill(process_id, signal.SIGKILL)


def processes_of(endpoint: PilotEndpoint, attempt: int) -> list[int]:
    """Wait until the payload has printed its processes."""
    endpoint.wait(lambda: endpoint.logs.get(attempt, b"").endswith(b"\n"), "log")
    return [int(word) for word in endpoint.logs[attempt].split()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_signal_drains_reports_and_says_good_bye(start: Start, bystander: int, number: signal.Signals) -> None:
    endpoint, pilot = start("--cores", "2")
    attempts = [endpoint.add_job(SLEEPER) for _ in range(2)]
    processes = [process for attempt in attempts for process in processes_of(endpoint, attempt)]
    began = time.monotonic()
    pilot.process.send_signal(number)
    assert pilot.wait() == 0
    assert time.monotonic() - began < 5
    for attempt in attempts:
        report = endpoint.finished()[attempt]
        assert report["outcome"] == "failed"
        assert report["reason"]["code"] == "pilot_drained"
        assert number.name in report["reason"]["text"]
        assert number.name.encode() in endpoint.logs[attempt]
    assert endpoint.goodbye["reason"]["code"] == "pilot_drained"
    assert "Leaving" in endpoint.goodbye["log"]
    assert any(exchange["draining"] and not exchange["reports"] for exchange in endpoint.exchanges)
    wait_gone(processes)


def test_signal_kills_a_payload_that_ignores_term_after_its_grace(start: Start, bystander: int) -> None:
    endpoint, pilot = start(grace_seconds=1.0)
    attempt = endpoint.add_job(STUBBORN)
    processes = processes_of(endpoint, attempt)
    pilot.process.send_signal(signal.SIGTERM)
    assert pilot.wait() == 0
    assert endpoint.finished()[attempt]["signal"] == signal.SIGKILL
    wait_gone(processes)


def test_signal_wakes_an_idle_pilot_at_once(start: Start) -> None:
    endpoint, pilot = start(long_poll_seconds=60)
    endpoint.wait(lambda: endpoint.exchanges, "exchange")
    began = time.monotonic()
    pilot.process.send_signal(signal.SIGTERM)
    assert pilot.wait() == 0
    assert time.monotonic() - began < 3
    assert endpoint.goodbye["reason"]["code"] == "pilot_drained"


def test_signal_during_stage_in_ends_the_attempt(start: Start) -> None:
    endpoint, pilot = start()
    endpoint.before = lambda method, path: 503 if path.startswith("/storage/") else None
    attempt = endpoint.add_job(inputs=[{"name": "a", "url": "/storage/inputs/a"}])
    endpoint.wait(lambda: ("GET", "/storage/inputs/a") in endpoint.requests, "request")
    pilot.process.send_signal(signal.SIGTERM)
    assert pilot.wait() == 0
    assert endpoint.finished()[attempt]["reason"]["code"] == "pilot_drained"


def test_signal_while_the_server_is_down_ends_the_pilot_in_time(start: Start) -> None:
    endpoint, pilot = start(grace_seconds=1.0)
    processes = processes_of(endpoint, endpoint.add_job(SLEEPER))
    endpoint.stop()
    began = time.monotonic()
    pilot.process.send_signal(signal.SIGTERM)
    assert pilot.wait() == 0
    assert time.monotonic() - began < 12
    wait_gone(processes)
    # The last word that nobody took is on disk.
    assert "pilot_drained" in (pilot.root / "reports.jsonl").read_text()


def test_killed_pilot_leaves_no_payload_behind(start: Start, bystander: int) -> None:
    endpoint, pilot = start("--cores", "2")
    processes = [
        process for command in (SLEEPER, STUBBORN) for process in processes_of(endpoint, endpoint.add_job(command))
    ]
    assert all(map(is_alive, processes))
    pilot.process.kill()
    pilot.wait()
    wait_gone(processes)


def test_kill_command_ends_one_payload_and_not_the_other(start: Start, bystander: int) -> None:
    endpoint, _ = start("--cores", "2", heartbeat_seconds=0.2)
    doomed, spared = endpoint.add_job(SLEEPER), endpoint.add_job(SLEEPER)
    gone, there = processes_of(endpoint, doomed), processes_of(endpoint, spared)
    endpoint.commands.append({"command": "kill", "attempt_id": doomed, "reason": {"code": "killed", "text": "x"}})
    assert endpoint.report(doomed)["outcome"] == "killed"
    wait_gone(gone)
    assert all(map(is_alive, there))
    assert spared not in endpoint.finished()


def test_payloads_run_on_while_the_server_is_down_and_are_reported_after(start: Start) -> None:
    endpoint, pilot = start("--cores", "2", heartbeat_seconds=0.3)
    script = endpoint.add_task_file("f", b"x")
    ends_meanwhile = endpoint.add_job("sleep 2; echo one > o", outputs=[{"name": "o", "file": "o"}], sandbox=[script])
    ends_later = endpoint.add_job("sleep 7; echo two")
    endpoint.wait_running(ends_meanwhile)
    endpoint.wait_running(ends_later)
    endpoint.stop()
    time.sleep(4)
    assert pilot.process.poll() is None
    endpoint.start()
    for attempt in (ends_meanwhile, ends_later):
        assert endpoint.report(attempt)["outcome"] == "succeeded"
    assert endpoint.files[f"/storage/tasks/7/{ends_meanwhile}/o"] == b"one\n"
    assert endpoint.logs[ends_later] == b"two\n"
    assert endpoint.report(endpoint.add_job())["outcome"] == "succeeded"


def test_pilot_gives_up_a_server_that_stays_away(start: Start, bystander: int) -> None:
    endpoint, pilot = start(retry_seconds=1.5, grace_seconds=0.5, heartbeat_seconds=0.3)
    processes = processes_of(endpoint, endpoint.add_job(SLEEPER))
    endpoint.stop()
    assert pilot.wait() == 1
    assert "was not reachable" in pilot.stderr
    wait_gone(processes)


def test_refused_pilot_ends_its_payloads_and_exits_well(start: Start, bystander: int) -> None:
    endpoint, pilot = start(heartbeat_seconds=0.2)
    processes = processes_of(endpoint, endpoint.add_job(SLEEPER))
    endpoint.refuse_pilot = True
    assert pilot.wait() == 0
    assert "does not accept this pilot any more" in pilot.stderr
    assert endpoint.goodbye is None
    wait_gone(processes)
    assert not pilot.root.exists()


def test_lost_answer_loses_no_job_and_runs_none_twice(start: Start) -> None:
    endpoint, _ = start("--cores", "2")
    lost: list[str] = []

    def lose_every_third(method: str, path: str) -> int | None:
        if path == "/pilot/v1/exchange":
            lost.append(path)
        return -1 if path == "/pilot/v1/exchange" and len(lost) % 3 == 0 else None

    endpoint.before = lose_every_third
    attempts = [endpoint.add_job(f"echo {number}") for number in range(12)]
    for number, attempt in enumerate(attempts):
        assert endpoint.report(attempt)["outcome"] == "succeeded"
        assert endpoint.logs[attempt] == f"{number}\n".encode()
    assert [report["state"] for report in endpoint.reports].count("finished") == 12


def test_repeated_question_keeps_its_number(start: Start) -> None:
    endpoint, _ = start()
    failed: list[str] = []

    def lose_one(method: str, path: str) -> int | None:
        if path == "/pilot/v1/exchange" and not failed:
            failed.append(path)
            return -1
        return None

    endpoint.before = lose_one
    endpoint.report(endpoint.add_job())
    numbers = [exchange["sequence"] for exchange in endpoint.exchanges]
    assert numbers[:2] == [1, 1]
    assert numbers[1:] == sorted(set(numbers))


def test_order_that_is_held_already_is_not_run_again(start: Start) -> None:
    endpoint, _ = start("--cores", "2", heartbeat_seconds=0.2)
    attempt = endpoint.add_job("echo once; sleep 1.5")
    endpoint.wait_running(attempt)
    with endpoint.changed:
        endpoint.ready.append(endpoint.claimed[attempt])
    endpoint.report(attempt)
    assert endpoint.logs[attempt] == b"once\n"
    assert [report["state"] for report in endpoint.reports].count("finished") == 1


def test_report_is_repeated_until_it_has_a_receipt(start: Start) -> None:
    endpoint, _ = start()
    take = endpoint._take_report
    withheld: list[int] = []

    def withhold_first(report: dict) -> dict:
        receipt = take(report)
        if len(withheld) < 2:
            withheld.append(report["sequence"])
            return {**receipt, "attempt_id": 0}
        return receipt

    endpoint._take_report = withhold_first
    attempt = endpoint.add_job()
    endpoint.report(attempt)
    endpoint.wait(lambda: endpoint.exchanges[-1]["reports"] == [], "exchange without reports")
    assert [e["reports"][0]["sequence"] for e in endpoint.exchanges if e["reports"]] == [1, 1, 1]


def test_full_disk_is_named_as_the_reason(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    scratch = tmp_path / "pilot" / "scratch"
    scratch.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", scratch], capture_output=True)
    if mounted.returncode:
        pytest.skip("this root may not mount")
    try:
        with pilot_at_work(tmp_path, pilot_archive(), *SIZE) as (endpoint, pilot):
            endpoint.files["/storage/inputs/big"] = b"x" * 20_000_000
            endpoint.files["/storage/inputs/small"] = b"x"
            payload = endpoint.add_job("cat /dev/zero > big")
            stage_in = endpoint.add_job(inputs=[{"name": "big", "url": "/storage/inputs/big"}])
            loud = endpoint.add_job("head -c 12000000 /dev/zero > /dev/stdout; echo end", wall_seconds=30)
            after = endpoint.add_job("cat small", inputs=[{"name": "small", "url": "/storage/inputs/small"}])
            for attempt in (payload, stage_in):
                reason = endpoint.report(attempt)["reason"]
                assert reason["code"] == "disk_full"
                assert str(pilot.root) in reason["text"]
                assert "bytes are free" in reason["text"]
            assert endpoint.report(payload)["exit_code"] == 1
            assert endpoint.report(loud)["outcome"] == "succeeded"
            assert endpoint.report(after)["outcome"] == "succeeded"
            pilot.end()
    finally:
        subprocess.run(["umount", scratch], check=True)


def test_wrong_secret_is_refused_in_one_sentence(tmp_path: Path) -> None:
    endpoint = PilotEndpoint(tmp_path / "server")
    endpoint.register = lambda body: (403, {"code": "registration_refused", "detail": "the secret is used"})
    try:
        pilot = PilotProcess(endpoint, pilot_archive(), tmp_path / "pilot")
        assert pilot.wait() == 1
        assert pilot.stderr.count("\n") == 1
        assert f"the registration at {endpoint.url} failed: 403 Forbidden: the secret is used." in pilot.stderr
        assert SECRET not in pilot.stderr
        assert pilot.secret_file.exists()
        assert not pilot.root.exists()
    finally:
        endpoint.stop()


def test_server_that_never_answers_is_named(tmp_path: Path) -> None:
    endpoint = PilotEndpoint(tmp_path / "server")
    endpoint.stop()
    pilot = PilotProcess(endpoint, pilot_archive(), tmp_path / "pilot", "--register-seconds", "0.5")
    assert pilot.wait() == 1
    assert f"the server {endpoint.url} cannot be reached" in pilot.stderr


def test_server_with_a_foreign_certificate_gets_no_secret(tmp_path: Path) -> None:
    endpoint, other = PilotEndpoint(tmp_path / "server"), PilotEndpoint(tmp_path / "other")
    endpoint.ca_file = other.ca_file
    try:
        pilot = PilotProcess(endpoint, pilot_archive(), tmp_path / "pilot")
        assert pilot.wait() == 1
        assert "certificate is not accepted" in pilot.stderr
        assert endpoint.requests == []
    finally:
        endpoint.stop()
        other.stop()


def test_pilot_waits_for_a_server_that_comes_late(tmp_path: Path) -> None:
    endpoint = PilotEndpoint(tmp_path / "server")
    endpoint.stop()
    pilot = PilotProcess(endpoint, pilot_archive(), tmp_path / "pilot", *SIZE)
    try:
        time.sleep(1)
        endpoint.start()
        assert endpoint.report(endpoint.add_job())["outcome"] == "succeeded"
    finally:
        pilot.end()
        endpoint.stop()


def test_second_pilot_with_the_same_folder_does_not_start(start: Start, tmp_path: Path) -> None:
    endpoint, pilot = start()
    endpoint.wait(lambda: endpoint.exchanges, "exchange")
    second = PilotProcess(endpoint, pilot_archive(), tmp_path / "pilot")
    assert second.wait() == 1
    assert f"glideflow-{PILOT_ID} cannot be made: File exists" in second.stderr
    assert pilot.root.exists()

# SPDX-License-Identifier: Apache-2.0
"""The real pilot archive as a process, against a real HTTPS server that speaks the contract."""

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from pilot_endpoint import PILOT_ID, SECRET, SESSION_KEY, PilotEndpoint, PilotProcess, pilot_at_work, wait_gone

from glideflow.launching.archive import pilot_archive

Start = Callable[..., tuple[PilotEndpoint, PilotProcess]]
SIZE = ("--memory-mb", "2000", "--disk-mb", "1000")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start endpoint and pilot; both are ended after the test."""
    with ExitStack() as stack:

        def start(*words: str, **settings: float) -> tuple[PilotEndpoint, PilotProcess]:
            return stack.enter_context(pilot_at_work(tmp_path, pilot_archive(), *SIZE, *words, **settings))

        yield start


def reason_of(report: dict[str, Any]) -> tuple[str, str]:
    return report["reason"]["code"], report["reason"]["text"]


def test_job_gets_its_files_runs_and_brings_its_output_home(start: Start) -> None:
    endpoint, _ = start()
    endpoint.files["/storage/inputs/ab/my data.csv"] = b"1,2\n"
    attempt = endpoint.add_job(
        "./lib/copy.sh && cat job.json",
        sandbox=[endpoint.add_task_file("lib/copy.sh", b"#!/bin/sh\nmkdir out && cp in/*.csv out/sum.txt\n", True)],
        inputs=[
            {
                "name": "in/my data.csv",
                "url": "/storage/inputs/ab/my data.csv",
                "size_bytes": 4,
                "sha256": hashlib.sha256(b"1,2\n").hexdigest(),
            }
        ],
        outputs=[{"name": "sum", "file": "out/sum.txt"}],
        document={"task_id": 7, "index": 4, "seed": 99},
    )
    report = endpoint.report(attempt)
    digest = hashlib.sha256(b"1,2\n").hexdigest()
    path = f"/storage/tasks/7/{attempt}/out/sum.txt"
    assert report["outcome"] == "succeeded"
    assert report["exit_code"] == 0
    assert report["outputs"] == [{"name": "sum", "path": path, "size_bytes": 4, "sha256": digest}]
    assert endpoint.files[path] == b"1,2\n"
    assert json.loads(endpoint.logs[attempt]) == {"task_id": 7, "index": 4, "seed": 99}
    assert report["log_bytes"] == len(endpoint.logs[attempt])
    assert report["started_at"] < report["ended_at"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", report["ended_at"])


def test_executable_task_file_runs_and_is_fetched_once_for_many_jobs(start: Start) -> None:
    endpoint, _ = start("--cores", "4")
    script = endpoint.add_task_file("run.sh", b"#!/bin/sh\necho ran $1\n", executable=True)
    attempts = [endpoint.add_job(f"./run.sh {number}", sandbox=[script]) for number in range(12)]
    assert {endpoint.report(attempt)["outcome"] for attempt in attempts} == {"succeeded"}
    assert endpoint.logs[attempts[5]] == b"ran 5\n"
    assert len([path for _, path in endpoint.requests if "/sandboxes/" in path]) == 1


def test_payload_that_changes_a_large_task_file_spoils_no_other_job(start: Start) -> None:
    endpoint, _ = start()
    large = endpoint.add_task_file("large.bin", b"x" * 1_500_000)
    first = endpoint.add_job("chmod u+w large.bin && echo spoiled >> large.bin", sandbox=[large])
    assert endpoint.report(first)["outcome"] == "succeeded"
    second = endpoint.add_job("wc -c < large.bin", sandbox=[large])
    endpoint.report(second)
    assert endpoint.logs[second].split() == [b"1500000"]


def test_environment_holds_the_job_and_nothing_of_the_pilot(start: Start) -> None:
    endpoint, pilot = start()
    attempt = endpoint.add_job("env; pwd; ls -a; ls /proc/self/fd", environment={"MODE": "fast", "LANG": "C"})
    endpoint.report(attempt)
    text = endpoint.logs[attempt].decode()
    values = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    home = str(pilot.root / f"attempt-{attempt}")
    assert values["HOME"] == home
    assert values["TMPDIR"] == f"{home}/tmp"
    assert values["MODE"] == "fast"
    assert values["LANG"] == "C"
    assert values["GLIDEFLOW_ATTEMPT_ID"] == str(attempt)
    assert values["GLIDEFLOW_JOB_ID"] == str(1000 + attempt)
    assert values["GLIDEFLOW_INDEX"] == str(attempt)
    assert set(values) <= {"PATH", "HOME", "TMPDIR", "MODE", "LANG", "PWD", "OLDPWD", "SHLVL", "_"} | {
        name for name in values if name.startswith("GLIDEFLOW_")
    }
    assert SECRET not in text
    assert SESSION_KEY not in text


def test_no_secret_is_on_the_command_line_in_the_environment_or_in_the_log(start: Start) -> None:
    endpoint, pilot = start()
    endpoint.report(endpoint.add_job("exit 3"))
    process = Path(f"/proc/{pilot.process.pid}")
    seen = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
    pilot.end()
    seen += pilot.stderr.encode() + endpoint.goodbye["log"].encode()
    assert SECRET.encode() not in seen
    assert SESSION_KEY.encode() not in seen


def test_used_secret_is_deleted_and_folder_is_removed_at_the_end(start: Start) -> None:
    endpoint, pilot = start()
    endpoint.report(endpoint.add_job())
    assert not pilot.secret_file.exists()
    pilot.end()
    assert pilot.process.returncode == 0
    assert list(pilot.scratch.iterdir()) == []


def test_registration_says_what_the_pilot_has(start: Start) -> None:
    endpoint, _ = start("--cores", "3", "--wall-seconds", "5000")
    endpoint.wait(lambda: endpoint.exchanges, "exchange")
    said = endpoint.registration
    assert said["pilot_id"] == PILOT_ID
    assert (said["cores"], said["memory_mb"], said["disk_mb"]) == (3, 2000, 1000)
    assert 4900 < said["seconds_left"] <= 5000
    assert said["batch_id"] is None
    free = endpoint.exchanges[0]["free"]
    assert (free["cores"], free["memory_mb"]) == (3, 2000)
    assert free["seconds"] < said["seconds_left"]


def test_exit_code_is_reported_with_a_sentence(start: Start) -> None:
    endpoint, _ = start()
    report = endpoint.report(endpoint.add_job("echo why; exit 3"))
    assert report["outcome"] == "failed"
    assert report["exit_code"] == 3
    assert reason_of(report) == ("payload_exit", "the command ended with exit code 3")
    assert report["reason"]["source"] == "payload"


def test_signal_that_nobody_here_sent_is_reported_by_name(start: Start) -> None:
    endpoint, _ = start()
    report = endpoint.report(endpoint.add_job("kill -SEGV $$"))
    assert report["signal"] == 11
    assert report["exit_code"] is None
    assert reason_of(report) == ("payload_signal", "the command was ended by SIGSEGV, which the pilot did not send")


def test_unknown_command_says_that_something_was_not_found(start: Start) -> None:
    endpoint, _ = start()
    report = endpoint.report(endpoint.add_job("no-such-program"))
    assert report["exit_code"] == 127
    assert "not found" in report["reason"]["text"]


def test_command_that_cannot_be_started_fails_with_the_cause(start: Start) -> None:
    endpoint, _ = start()
    report = endpoint.report(endpoint.add_job("x" * 200_000))
    assert reason_of(report)[0] == "payload_not_started"
    assert "Argument list too long" in report["reason"]["text"]


def test_missing_output_is_named_together_with_what_is_there(start: Start) -> None:
    endpoint, _ = start()
    report = endpoint.report(endpoint.add_job("echo x > other.txt", outputs=[{"name": "o", "file": "out.txt"}]))
    code, text = reason_of(report)
    assert code == "output_missing"
    assert "wrote no out.txt" in text
    assert "other.txt" in text
    assert report["outputs"] == []


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("ln -s /etc/hostname out.txt", "a link to outside"),
        ("mkdir out.txt", "no regular file"),
        ("mkfifo out.txt", "no regular file"),
        ("ln -s nowhere out.txt", "wrote no out.txt"),
    ],
)
def test_output_that_is_no_file_of_the_job_is_not_sent(start: Start, command: str, words: str) -> None:
    endpoint, _ = start()
    report = endpoint.report(endpoint.add_job(command, outputs=[{"name": "o", "file": "out.txt"}]))
    assert reason_of(report)[0] == "output_missing"
    assert words in report["reason"]["text"]
    assert endpoint.files == {}


def test_output_may_be_a_link_to_a_file_of_the_job(start: Start) -> None:
    endpoint, _ = start()
    attempt = endpoint.add_job("echo x > a && ln -s a out.txt", outputs=[{"name": "o", "file": "out.txt"}])
    assert endpoint.report(attempt)["outcome"] == "succeeded"


@pytest.mark.parametrize("name", ["../escaped", "/tmp/escaped-by-a-job", "a/../../escaped", "", "./x"])
@pytest.mark.parametrize("kind", ["sandbox", "inputs", "outputs"])
def test_name_that_leaves_the_folder_runs_nothing(start: Start, kind: str, name: str) -> None:
    endpoint, pilot = start()
    endpoint.files["/storage/inputs/a"] = b"x"
    entry = {
        "sandbox": endpoint.add_task_file(name, b"x"),
        "inputs": {"name": name, "url": "/storage/inputs/a"},
        "outputs": {"name": "o", "file": name},
    }[kind]
    attempt = endpoint.add_job("echo ran", **{kind: [entry]})
    report = endpoint.report(attempt)
    assert reason_of(report)[0] == "payload_not_started"
    assert repr(name) in report["reason"]["text"]
    assert attempt not in endpoint.logs
    assert not (pilot.root / "escaped").exists()
    assert not Path("/tmp/escaped-by-a-job").exists()


def test_missing_input_fails_at_once_with_url_and_status(start: Start) -> None:
    endpoint, _ = start()
    began = time.monotonic()
    report = endpoint.report(endpoint.add_job(inputs=[{"name": "a.csv", "url": "/storage/inputs/none/a.csv"}]))
    assert time.monotonic() - began < 5
    code, text = reason_of(report)
    assert code == "stage_in_failed"
    assert "/storage/inputs/none/a.csv" in text
    assert "404 Not Found" in text
    assert report["started_at"] is None


def test_input_with_the_wrong_checksum_is_tried_again_and_then_fails(start: Start) -> None:
    endpoint, _ = start()
    endpoint.files["/storage/inputs/a"] = b"other"
    entry = {"name": "a", "url": "/storage/inputs/a", "sha256": "0" * 64}
    report = endpoint.report(endpoint.add_job(inputs=[entry]))
    assert reason_of(report)[0] == "stage_in_failed"
    assert "SHA-256" in report["reason"]["text"]
    assert endpoint.requests.count(("GET", "/storage/inputs/a")) > 1


def test_input_with_the_wrong_size_fails(start: Start) -> None:
    endpoint, _ = start()
    endpoint.files["/storage/inputs/a"] = b"other"
    report = endpoint.report(endpoint.add_job(inputs=[{"name": "a", "url": "/storage/inputs/a", "size_bytes": 6}]))
    assert "5 bytes instead of 6" in report["reason"]["text"]


def test_transient_errors_of_the_storage_are_survived_in_both_directions(start: Start) -> None:
    endpoint, _ = start()
    endpoint.files["/storage/inputs/a"] = b"data"
    failed: dict[tuple[str, str], int] = {}

    def fail_twice(method: str, path: str) -> int | None:
        failed[method, path] = failed.get((method, path), 0) + 1
        return 503 if path.startswith("/storage/") and failed[method, path] <= 2 else None

    endpoint.before = fail_twice
    attempt = endpoint.add_job(
        "cat a > b", inputs=[{"name": "a", "url": "/storage/inputs/a"}], outputs=[{"name": "b", "file": "b"}]
    )
    assert endpoint.report(attempt)["outcome"] == "succeeded"
    assert endpoint.files[f"/storage/tasks/7/{attempt}/b"] == b"data"


def test_storage_that_refuses_an_output_fails_the_attempt(start: Start) -> None:
    endpoint, _ = start()
    endpoint.before = lambda method, path: 507 if method == "PUT" and path.startswith("/storage/") else None
    report = endpoint.report(endpoint.add_job("echo > b", outputs=[{"name": "b", "file": "b"}]))
    code, text = reason_of(report)
    assert code == "stage_out_failed"
    assert "507" in text


def test_output_above_the_server_s_limit_fails_the_job_and_nothing_is_sent(start: Start) -> None:
    endpoint, _ = start(file_limit_bytes=1000)
    outputs = [{"name": "small", "file": "small"}, {"name": "big", "file": "big"}]
    command = "head -c 1000 /dev/zero > small; head -c 1001 /dev/zero > big"
    report = endpoint.report(endpoint.add_job(command, outputs=outputs))
    assert reason_of(report) == (
        "output_too_large",
        "output big has 1001 bytes, and the server takes 1000 at most for one file: write several files",
    )
    assert report["reason"]["source"] == "payload"
    assert not endpoint.files


def test_output_that_the_server_finds_too_large_is_sent_once(start: Start) -> None:
    endpoint, _ = start()
    tries: list[str] = []

    def refuse(path: str, checksum: str, data: bytes) -> tuple[int, dict[str, Any]]:
        tries.append(path)
        return 413, {"code": "too_large", "detail": "the server's own words"}

    endpoint.put_file = refuse  # type: ignore[method-assign]
    code, text = reason_of(endpoint.report(endpoint.add_job("echo > b", outputs=[{"name": "b", "file": "b"}])))
    assert code == "output_too_large"
    assert "the server's own words" in text
    assert len(tries) == 1


def test_lost_log_never_fails_the_job(start: Start) -> None:
    endpoint, _ = start()
    endpoint.before = lambda method, path: 500 if path.endswith("/log") else None
    report = endpoint.report(endpoint.add_job("echo hello"))
    assert report["outcome"] == "succeeded"


def test_log_arrives_while_the_job_runs(start: Start) -> None:
    endpoint, _ = start()
    attempt = endpoint.add_job("echo first; sleep 30 & wait")
    endpoint.wait(lambda: endpoint.logs.get(attempt) == b"first\n", "log")
    assert attempt not in endpoint.finished()


def test_log_goes_on_where_the_server_says(start: Start) -> None:
    endpoint, _ = start(log_interval_seconds=0.05)
    attempt = endpoint.add_job("for i in 1 2 3 4 5 6; do echo line $i; sleep 0.2; done")
    endpoint.wait(lambda: endpoint.logs.get(attempt), "log")
    with endpoint.changed:
        endpoint.logs[attempt] = b"lin"
    endpoint.report(attempt)
    assert endpoint.logs[attempt] == b"".join(b"line %d\n" % number for number in range(1, 7))


def test_huge_output_costs_neither_disk_nor_memory_and_keeps_both_ends(start: Start) -> None:
    size_mb = int(os.environ.get("GLIDEFLOW_TEST_PRINT_MB", "200"))
    endpoint, pilot = start(log_limit_bytes=300_000)
    command = f"echo begin; head -c {size_mb}000000 /dev/zero | tr '\\0' x; echo; echo end"
    endpoint.report(endpoint.add_job("echo warm"))
    before_kb = peak_kb(pilot)
    attempt = endpoint.add_job(command)
    report = endpoint.report(attempt, 120)
    log = endpoint.logs[attempt]
    assert report["outcome"] == "succeeded"
    assert len(log) == report["log_bytes"] <= 300_000
    assert log.startswith(b"begin\nxxx")
    assert log.endswith(b"xxx\nend\n")
    dropped = int(re.search(rb"\[glideflow: (\d+) bytes were dropped here\]", log)[1])
    marker = len(f"\n[glideflow: {dropped} bytes were dropped here]\n")
    assert dropped + len(log) - marker == size_mb * 1_000_000 + len("begin\n\nend\n")
    assert peak_kb(pilot) - before_kb < 3_000


def test_several_jobs_run_at_once_but_never_more_than_fit(start: Start) -> None:
    endpoint, _ = start("--cores", "4")
    attempts = [endpoint.add_job("sleep 0.4", memory_mb=900) for _ in range(4)]
    for attempt in attempts:
        endpoint.report(attempt)
    outcomes = [endpoint.finished()[attempt]["outcome"] for attempt in attempts]
    # This server hands out by cores alone, so the pilot has to refuse what its 2000 MB do not hold.
    assert outcomes.count("succeeded") == 2
    refused = [endpoint.finished()[attempt] for attempt in attempts if outcomes[attempts.index(attempt)] == "refused"]
    assert reason_of(refused[0]) == (
        "pilot_refused",
        "the job asks for 900 MB of memory and this pilot has 200 left",
    )


def test_job_that_cannot_end_before_the_slot_does_is_refused(start: Start) -> None:
    endpoint, _ = start("--wall-seconds", "60")
    report = endpoint.report(endpoint.add_job(wall_seconds=60))
    assert report["outcome"] == "refused"
    assert "60 seconds" in report["reason"]["text"]


def test_short_job_is_not_reported_as_running_first(start: Start) -> None:
    endpoint, _ = start()
    attempt = endpoint.add_job()
    assert endpoint.report(attempt)["sequence"] == 1
    assert [report["state"] for report in endpoint.reports] == ["finished"]


def test_longer_job_is_reported_as_running_soon(start: Start) -> None:
    endpoint, _ = start()
    attempt = endpoint.add_job("sleep 0.8")
    report = endpoint.report(attempt)
    assert [(r["state"], r["sequence"]) for r in endpoint.reports] == [("running", 1), ("finished", 2)]
    assert endpoint.reports[0]["started_at"] == report["started_at"]


def test_idle_pilot_starts_a_new_job_at_once(start: Start) -> None:
    endpoint, _ = start(long_poll_seconds=30)
    endpoint.wait(lambda: endpoint.exchanges, "exchange")
    began = time.monotonic()
    endpoint.report(endpoint.add_job())
    # Far below the long poll; docs/explanation/pilot.md has the measured figure.
    assert time.monotonic() - began < 2


def test_partly_busy_pilot_takes_another_job_soon(start: Start) -> None:
    endpoint, _ = start("--cores", "2", heartbeat_seconds=30)
    endpoint.wait_running(endpoint.add_job("sleep 20"))
    began = time.monotonic()
    endpoint.report(endpoint.add_job())
    assert time.monotonic() - began < 6


def test_busy_pilot_gives_its_heartbeat_and_asks_for_nothing(start: Start) -> None:
    endpoint, _ = start(heartbeat_seconds=0.3)
    attempt = endpoint.add_job("sleep 20")
    endpoint.wait_running(attempt)
    seen = len(endpoint.exchanges)
    endpoint.wait(lambda: len(endpoint.exchanges) >= seen + 3, "heartbeat", 3)
    last = endpoint.exchanges[-1]
    assert last["want"] == 0
    assert last["holding"] == [attempt]


def test_idle_time_ends_the_pilot_with_a_good_bye(start: Start) -> None:
    endpoint, pilot = start(idle_seconds=0.5)
    assert pilot.wait() == 0
    assert endpoint.goodbye["reason"]["code"] == "pilot_idle"
    assert "found no work for 0.5 s" in endpoint.goodbye["log"]


def test_end_of_the_slot_ends_the_pilot_with_a_good_bye(start: Start) -> None:
    endpoint, pilot = start("--wall-seconds", "13", grace_seconds=1)
    assert pilot.wait() == 0
    assert endpoint.goodbye["reason"]["code"] == "pilot_deadline"


def test_drain_command_lets_the_running_job_end(start: Start) -> None:
    endpoint, pilot = start("--cores", "2")
    attempt = endpoint.add_job("sleep 1.5")
    endpoint.wait_running(attempt)
    endpoint.commands.append({"command": "drain", "reason": {"code": "demand", "text": "enough", "source": "server"}})
    assert pilot.wait() == 0
    assert endpoint.finished()[attempt]["outcome"] == "succeeded"
    assert endpoint.exchanges[-1]["draining"] is True
    assert endpoint.goodbye["reason"]["text"] == "enough"


def test_wall_time_ends_the_whole_group_and_states_the_limit(start: Start) -> None:
    endpoint, _ = start(grace_seconds=0.5)
    attempt = endpoint.add_job("trap '' TERM; sleep 300 & echo $!; wait; wait; sleep 300", wall_seconds=1)
    report = endpoint.report(attempt)
    code, text = reason_of(report)
    assert code == "wall_time_exceeded"
    assert "limit of 1 s" in text
    assert report["signal"] == 9
    assert b"limit of 1 s" in endpoint.logs[attempt]
    child = int(endpoint.logs[attempt].split()[0])
    wait_gone([child])


def test_kill_command_gives_the_payload_its_grace(start: Start) -> None:
    endpoint, _ = start(heartbeat_seconds=0.2, grace_seconds=15)
    command = "trap 'echo saved; exit 0' TERM; echo ready; while :; do sleep 0.1; done"
    attempt = endpoint.add_job(command)
    endpoint.wait(lambda: endpoint.logs.get(attempt), "log")
    why = {"code": "killed", "text": "killed by alice", "source": "user"}
    endpoint.commands.append({"command": "kill", "attempt_id": attempt, "reason": why})
    report = endpoint.report(attempt)
    assert report["outcome"] == "killed"
    assert report["reason"] == why
    assert b"saved" in endpoint.logs[attempt]


def test_program_below_the_shell_has_its_grace_too(start: Start) -> None:
    endpoint, _ = start(heartbeat_seconds=0.2, grace_seconds=15)
    program = b"#!/bin/sh\ntrap 'sleep 1; echo saved; exit 0' TERM\necho ready\nwhile :; do sleep 0.1; done\n"
    attempt = endpoint.add_job("./run.sh; echo after", sandbox=[endpoint.add_task_file("run.sh", program, True)])
    endpoint.wait(lambda: endpoint.logs.get(attempt), "log")
    endpoint.commands.append({"command": "kill", "attempt_id": attempt, "reason": None})
    assert endpoint.report(attempt)["outcome"] == "killed"
    assert b"saved" in endpoint.logs[attempt]


def test_program_that_prints_elsewhere_has_its_grace_too(start: Start, tmp_path: Path) -> None:
    endpoint, _ = start(heartbeat_seconds=0.2, grace_seconds=15)
    saved = tmp_path / "saved"
    program = f"#!/bin/sh\ntrap 'sleep 1; echo > {saved}; exit 0' TERM\nwhile :; do sleep 0.1; done\n".encode()
    script = endpoint.add_task_file("run.sh", program, True)
    attempt = endpoint.add_job("echo ready; ./run.sh > out.txt 2>&1; echo after >> out.txt", sandbox=[script])
    endpoint.wait(lambda: endpoint.logs.get(attempt), "log")
    began = time.monotonic()
    endpoint.commands.append({"command": "kill", "attempt_id": attempt, "reason": None})
    assert endpoint.report(attempt)["outcome"] == "killed"
    assert saved.exists()
    assert time.monotonic() - began < 10


def test_background_process_that_holds_the_output_does_not_hang_the_job(start: Start) -> None:
    endpoint, _ = start()
    attempt = endpoint.add_job("(trap '' TERM; sleep 300) & echo $!; exit 0")
    report = endpoint.report(attempt, 10)
    assert report["outcome"] == "succeeded"
    wait_gone([int(endpoint.logs[attempt])])


def test_process_that_left_the_group_does_not_hang_the_job(start: Start) -> None:
    endpoint, _ = start()
    attempt = endpoint.add_job("setsid sleep 8 & exit 0")
    assert endpoint.report(attempt, 7)["outcome"] == "succeeded"


def test_order_that_cannot_be_read_is_left_out(start: Start) -> None:
    endpoint, pilot = start()
    endpoint.add_job(wall_seconds="long")
    endpoint.wait(lambda: endpoint.claimed and len(endpoint.exchanges) > 1, "exchange after the claim")
    pilot.end()
    assert pilot.process.returncode == 0
    assert "cannot be read" in pilot.stderr


def peak_kb(pilot: PilotProcess) -> int:
    """Most memory that a pilot ever had resident, kB."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pilot.process.pid}/status").read_text())[1])

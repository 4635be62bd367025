# SPDX-License-Identifier: Apache-2.0
"""One attempt from its order to its report: stage-in, command, stage-out, in a thread of its own."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

from glideflow_pilot import reasons
from glideflow_pilot.endpoint import Endpoint, Refused, Unreachable
from glideflow_pilot.guard import Guard
from glideflow_pilot.joblog import JobLog
from glideflow_pilot.log import PilotLog
from glideflow_pilot.orders import Order
from glideflow_pilot.processes import Ended, ProcessGroup
from glideflow_pilot.reasons import Failure
from glideflow_pilot.reports import Outbox
from glideflow_pilot.retries import Abandoned, Patience
from glideflow_pilot.sandbox import Sandbox, TaskFiles
from glideflow_pilot.staging import Stager

PATH = os.environ.get("PATH") or "/usr/local/bin:/usr/bin:/bin"


@dataclass(frozen=True)
class Tools:
    """What all payloads of the pilot share."""

    root: Path
    endpoint: Endpoint
    patience: Patience
    stager: Stager
    task_files: TaskFiles
    guard: Guard
    outbox: Outbox
    log: PilotLog
    log_limit_bytes: int
    grace_seconds: float


class Payload:
    """One attempt on this pilot."""

    def __init__(self, order: Order, tools: Tools, on_end: Callable[["Payload", Dict[str, Any]], None]) -> None:
        """Prepare; `start` begins the work.

        Args:
            order: What to do.
            tools: What to do it with.
            on_end: Called from the payload's thread, once, with the final report.
        """
        self.order = order
        self.began_at = time.monotonic()
        """When it was taken, monotonic."""
        self.started_at: Optional[float] = None
        """When its command started, seconds since the epoch."""
        self.log: Optional[JobLog] = None
        self._tools, self._on_end = tools, on_end
        self._halt = threading.Event()
        self._lock = threading.Lock()
        self._stopped: Optional[Failure] = None
        self._group: Optional[ProcessGroup] = None
        self._ended: Optional[Ended] = None
        self._wall_seconds = 0.0
        self._is_storing = False

    def start(self) -> None:
        """Begin in a thread of its own."""
        name = f"attempt-{self.order.attempt_id}"
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def stop(self, why: Failure, grace_seconds: float, spare_outputs: bool = False) -> None:
        """End it early, for this reason; the first one counts.

        Args:
            why: Outcome and reason of the report.
            grace_seconds: Time between TERM and KILL.
            spare_outputs: Let it go on when its command has ended well and its outputs are being stored.
        """
        with self._lock:
            if spare_outputs and self._is_storing:
                return
            self._stopped = self._stopped or why
            self._halt.set()
            group = self._group
        if group is not None:
            group.stop(grace_seconds)

    def _run(self) -> None:
        outputs: List[Dict[str, Any]] = []
        failure: Optional[Failure] = None
        sandbox: Optional[Sandbox] = None
        try:
            sandbox = Sandbox(self._tools.root, self.order.attempt_id)
            self._stage_in(sandbox)
            self._run_command(sandbox)
            outputs = self._stage_out(sandbox)
        except Failure as error:
            failure = error
        except Abandoned:
            pass
        except OSError as error:
            failure = self._node_failure(error)
        except Exception as error:  # noqa: BLE001 - an attempt always ends with a report
            failure = Failure(reasons.PAYLOAD_NOT_STARTED, f"the pilot failed: {type(error).__name__}: {error}")
        self._end(self._stopped or failure, outputs)
        if sandbox is not None:
            sandbox.remove()

    def _end(self, failure: Optional[Failure], outputs: List[Dict[str, Any]]) -> None:
        """Write down how it ended, then send the log, then hand the report over."""
        if self.log is not None:
            self.log.finish(_last_line(failure))
        report = self._report(failure, outputs if failure is None else [])
        self._tools.outbox.keep(report)
        if self.log is not None:
            self._send_log(self.log)
            self.log.close()
        self._on_end(self, report)

    def _stage_in(self, sandbox: Sandbox) -> None:
        order = self.order
        unsafe = order.unsafe_names()
        if unsafe:
            text = f"the file name {unsafe[0]!r} is not a path inside the job's folder; nothing was run"
            raise Failure(reasons.PAYLOAD_NOT_STARTED, text)
        for task_file in order.sandbox:
            self._tools.task_files.provide(task_file, sandbox.place(task_file.name), self._halt)
        for file in order.inputs:
            self._tools.stager.fetch_input(file, sandbox.place(file.name), self._halt)
        sandbox.write_document(order.document)

    def _run_command(self, sandbox: Sandbox) -> None:
        log_path = self._tools.root / "logs" / f"attempt-{self.order.attempt_id}.log"
        self.log = JobLog(log_path, self.order.attempt_id, self._tools.log_limit_bytes)
        environment = self._environment(sandbox.folder)
        try:
            group = ProcessGroup(self.order.command, sandbox.folder, environment, self._tools.guard, self.log.write)
        except (OSError, ValueError) as error:
            text = f"the command could not be started: {error}"
            raise Failure(reasons.PAYLOAD_NOT_STARTED, text) from error
        began, self.started_at = time.monotonic(), time.time()
        with self._lock:
            self._group = group
            is_late = self._halt.is_set()
        if is_late:
            group.stop(0)
        self._ended = group.wait(began + self.order.wall_seconds, self._on_wall_limit)
        self._wall_seconds = time.monotonic() - began
        with self._lock:
            self._group = None
            self._is_storing = self._stopped is None
        if not self._is_storing:
            raise Abandoned
        _check_end(self._ended, sandbox.folder)

    def _on_wall_limit(self) -> None:
        limit = self.order.wall_seconds
        text = f"the command ran longer than its limit of {limit:g} s and was ended after {limit:g} s"
        self.stop(Failure(reasons.WALL_TIME_EXCEEDED, text), self._tools.grace_seconds)

    def _stage_out(self, sandbox: Sandbox) -> List[Dict[str, Any]]:
        paths = [(file, sandbox.output(file.file)) for file in self.order.outputs]
        for file, path in paths:
            self._tools.stager.check_size(file, path)
        return [self._tools.stager.store_output(file, path, self._halt) for file, path in paths]

    def _environment(self, folder: Path) -> Dict[str, str]:
        """Return the command's environment: nothing of the pilot's own but PATH."""
        home = str(folder)
        return {
            "PATH": PATH,
            "HOME": home,
            "LANG": "C.UTF-8",
            "TMPDIR": f"{home}/tmp",
            **self.order.environment,
            "GLIDEFLOW_JOB_ID": str(self.order.job_id),
            "GLIDEFLOW_ATTEMPT_ID": str(self.order.attempt_id),
            "GLIDEFLOW_INDEX": str(self.order.document.get("index", "")),
        }

    def _node_failure(self, error: OSError) -> Failure:
        folder = Path(error.filename) if isinstance(error.filename, str) else self._tools.root
        if reasons.is_disk_full(error):
            return reasons.disk_full(folder if folder.is_dir() else self._tools.root)
        return Failure(reasons.PAYLOAD_NOT_STARTED, f"the node's disk gave an error: {error}", source="site")

    def _send_log(self, log: JobLog) -> None:
        """Send the rest of the log; its loss never changes what the attempt ended with."""
        if not log.is_unsent:
            return
        try:
            self._tools.patience.persist(lambda: log.upload(self._tools.endpoint), threading.Event())
        except (Refused, Unreachable, OSError) as error:
            self._tools.log.say(f"The log of {self.order.label} could not be stored: {error}.")

    def _report(self, failure: Optional[Failure], outputs: List[Dict[str, Any]]) -> Dict[str, Any]:
        ended = self._ended or Ended(None, None, 0.0, 0.0)
        return {
            "attempt_id": self.order.attempt_id,
            "state": "finished",
            "outcome": "succeeded" if failure is None else failure.outcome,
            "started_at": None if self.started_at is None else reasons.utc(self.started_at),
            "ended_at": reasons.now_utc(),
            "exit_code": ended.exit_code,
            "signal": ended.signal,
            "reason": None if failure is None else failure.reason,
            "outputs": outputs,
            "usage": {
                "wall_seconds": round(self._wall_seconds, 3),
                "cpu_seconds": ended.cpu_seconds,
                "max_rss_mb": ended.max_rss_mb,
            },
            "log_bytes": 0 if self.log is None else self.log.size_bytes,
        }


def _last_line(failure: Optional[Failure]) -> str:
    """Return what the log should end with: whatever the command itself could not say."""
    if failure is None or failure.reason["code"] == reasons.PAYLOAD_EXIT:
        return ""
    return failure.reason["text"]


def _check_end(ended: Ended, folder: Path) -> None:
    """Raise the failure of a command that did not end well."""
    if ended.exit_code == 0:
        return
    if reasons.free_bytes(folder) < reasons.FULL_BYTES:
        raise reasons.disk_full(folder)
    if ended.signal is not None:
        text = f"the command was ended by {signal_name(ended.signal)}, which the pilot did not send"
        raise Failure(reasons.PAYLOAD_SIGNAL, text, source="payload")
    hint = {126: " (something in it could not be executed)", 127: " (something in it was not found)"}
    code = ended.exit_code or 0
    more = hint.get(code, f" (a process in it was ended by {signal_name(code - 128)})" if 128 < code <= 192 else "")
    raise Failure(reasons.PAYLOAD_EXIT, f"the command ended with exit code {code}{more}", source="payload")


def signal_name(number: int) -> str:
    """Return the name of a signal, or its number where it has none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"

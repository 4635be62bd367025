# SPDX-License-Identifier: Apache-2.0
"""From the command line to registration, through the loop, and out."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any, Dict, Optional, Sequence

from glideflow_pilot import __version__
from glideflow_pilot.arguments import Arguments, batch_id, read_arguments
from glideflow_pilot.capacity import LEAVE_SECONDS, Capacity
from glideflow_pilot.endpoint import Endpoint, Refused, Unreachable
from glideflow_pilot.guard import Guard
from glideflow_pilot.log import PilotLog
from glideflow_pilot.loop import Loop, Settings
from glideflow_pilot.payload import Tools
from glideflow_pilot.reports import Outbox
from glideflow_pilot.retries import Patience
from glideflow_pilot.sandbox import TaskFiles
from glideflow_pilot.staging import Stager

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


class CannotStart(Exception):
    """The pilot could not begin its work."""


def main(words: Optional[Sequence[str]] = None) -> int:
    """Run the pilot; returns 0 after a normal end and 1 when it could not begin or lost the server."""
    arguments = read_arguments(sys.argv[1:] if words is None else words)
    ends_at = time.monotonic() + arguments.wall_seconds
    log = PilotLog()
    # Before any thread exists and before anything secret is read.
    guard = Guard()
    try:
        return _work(arguments, ends_at, log, guard)
    except CannotStart as error:
        log.say(f"The pilot could not start: {error}.")
        return 1
    finally:
        guard.close()


def _work(arguments: Arguments, ends_at: float, log: PilotLog, guard: Guard) -> int:
    root = _make_root(arguments)
    try:
        endpoint = _connect(arguments)
        settings = _register(arguments, endpoint, log, ends_at)
        patience = Patience()
        patience.retry_seconds = settings.retry_seconds
        stager = Stager(endpoint, patience, settings.file_limit_bytes)
        outbox = Outbox(root / "reports.jsonl")
        task_files = TaskFiles(root / "files", stager.fetch_task_file)
        tools = Tools(
            root=root,
            endpoint=endpoint,
            patience=patience,
            stager=stager,
            task_files=task_files,
            guard=guard,
            outbox=outbox,
            log=log,
            log_limit_bytes=settings.log_limit_bytes,
            grace_seconds=settings.grace_seconds,
        )
        capacity = Capacity(
            cores=arguments.cores,
            memory_mb=arguments.memory_mb,
            disk_mb=arguments.disk_mb,
            ends_at=ends_at,
            folder=root,
            margin_seconds=settings.grace_seconds + LEAVE_SECONDS,
        )
        loop = Loop(settings, capacity, tools)
        _listen(loop)
        threading.Thread(
            target=_send_logs, args=(loop, tools, settings.log_interval_seconds), name="courier", daemon=True
        ).start()
        code = loop.run()
        endpoint.close()
    except BaseException:
        shutil.rmtree(root, ignore_errors=True)
        raise
    if not outbox:
        # Otherwise the last words stay on disk.
        shutil.rmtree(root, ignore_errors=True)
    return code


def _make_root(arguments: Arguments) -> Path:
    root = arguments.scratch / f"glideflow-{arguments.pilot_id}"
    try:
        arguments.scratch.mkdir(parents=True, exist_ok=True)
        for folder in (root, root / "files", root / "logs"):
            folder.mkdir(mode=0o700)
    except OSError as error:
        raise CannotStart(f"its folder {root} cannot be made: {error.strerror}") from error
    return root


def _connect(arguments: Arguments) -> Endpoint:
    try:
        return Endpoint(arguments.server, arguments.ca_file)
    except ssl.SSLError as error:
        raise CannotStart(f"{arguments.ca_file} is no CA certificate: {error}") from error
    except (OSError, ValueError) as error:
        raise CannotStart(str(error)) from error


def _register(arguments: Arguments, endpoint: Endpoint, log: PilotLog, ends_at: float) -> Settings:
    """Trade the one-time secret for a session.

    Raises:
        CannotStart: The server did not answer in time, or refused.
    """
    try:
        secret = arguments.secret_file.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise CannotStart(f"the registration secret in {arguments.secret_file} cannot be read: {error}") from error
    document = {
        "pilot_id": arguments.pilot_id,
        "secret": secret,
        "site": arguments.site,
        "node": socket.gethostname(),
        "version": __version__,
        "python": sys.version.split()[0],
        "cores": arguments.cores,
        "memory_mb": arguments.memory_mb,
        "disk_mb": arguments.disk_mb,
        "seconds_left": int(ends_at - time.monotonic()),
        "batch_id": batch_id(),
    }
    patience = Patience()
    patience.retry_seconds = arguments.register_seconds
    try:
        answer = patience.persist(
            lambda: endpoint.call("POST", "/pilot/v1/register", document, min(20.0, arguments.register_seconds)),
            threading.Event(),
        )
    except Unreachable as error:
        raise CannotStart(f"the server {arguments.server} cannot be reached: {error}") from error
    except Refused as error:
        raise CannotStart(f"the registration at {arguments.server} failed: {error}") from error
    _delete_secret(arguments.secret_file)
    try:
        settings = _read_settings(answer["settings"])
        endpoint.authenticate(f"{arguments.pilot_id}.{answer['session_key']}")
    except (KeyError, TypeError, ValueError) as error:
        raise CannotStart(f"the server's answer to the registration cannot be read: {error!r}") from error
    log.say(
        f"Registered at {arguments.server} as pilot {arguments.pilot_id} of site {arguments.site} on"
        f" {document['node']}: {arguments.cores} cores, {arguments.memory_mb} MB of memory,"
        f" {arguments.disk_mb} MB of disk, {document['seconds_left']} s."
    )
    return settings


def _read_settings(document: Dict[str, Any]) -> Settings:
    return Settings(
        heartbeat_seconds=float(document["heartbeat_seconds"]),
        long_poll_seconds=float(document["long_poll_seconds"]),
        idle_seconds=float(document["idle_seconds"]),
        grace_seconds=float(document["grace_seconds"]),
        log_interval_seconds=float(document["log_interval_seconds"]),
        log_limit_bytes=int(document["log_limit_bytes"]),
        file_limit_bytes=int(document["file_limit_bytes"]),
        retry_seconds=float(document["retry_seconds"]),
    )


def _delete_secret(path: Path) -> None:
    """Delete the used secret where the file is our own; payloads have nothing to gain from it either way."""
    try:
        if os.stat(path).st_uid == os.geteuid():
            path.unlink()
    except OSError:
        pass


def _listen(loop: Loop) -> None:
    def on_signal(number: int, frame: Optional[FrameType]) -> None:
        loop.interrupt(signal.Signals(number).name)

    for number in STOP_SIGNALS:
        signal.signal(number, on_signal)


def _send_logs(loop: Loop, tools: Tools, interval_seconds: float) -> None:
    """Send what running payloads have printed, now and then; the payload itself sends the end."""
    while True:
        time.sleep(interval_seconds)
        for payload in loop.running():
            if payload.log is None or not payload.log.is_unsent:
                continue
            try:
                payload.log.upload(tools.endpoint)
            except (Unreachable, Refused, OSError):
                # The next round, or the payload's end, tries again.
                break

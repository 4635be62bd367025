# SPDX-License-Identifier: Apache-2.0
"""The pilot's command line, with what HTCondor and the node say where it says nothing."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Sequence

from glideflow_pilot import __version__

MB = 1_000_000
# Without --wall-seconds the slot is taken to have no end.
ENDLESS_SECONDS = 10_000_000


@dataclass(frozen=True)
class Arguments:
    """What the pilot was started with."""

    server: str
    pilot_id: str
    site: str
    ca_file: Path
    secret_file: Path
    cores: int
    memory_mb: int
    disk_mb: int
    wall_seconds: float
    scratch: Path
    register_seconds: float


def read_arguments(words: Sequence[str]) -> Arguments:
    """Read the command line; wrong use ends the process with status 2 and a usage line.

    Args:
        words: The words after the program's name.

    Returns:
        The arguments; sizes that were not given come from the node.
    """
    parser = argparse.ArgumentParser(prog="pilot.pyz", description="Run jobs of a glideflow server on this node.")
    parser.add_argument("--version", action="version", version=f"glideflow-pilot {__version__}")
    for name, text in (
        ("--server", "https URL of the server"),
        ("--pilot-id", "identifier that the server chose for this pilot"),
        ("--site", "name of the site"),
        ("--ca", "file with the CA certificate of the server"),
        ("--secret-file", "file with the one-time registration secret"),
    ):
        parser.add_argument(name, required=True, help=text)
    parser.add_argument("--cores", type=_positive, default=1, help="cores to fill (default 1)")
    parser.add_argument("--memory-mb", type=_positive, help="memory to use, MB (default: the cores' part of the node)")
    parser.add_argument("--disk-mb", type=_positive, help="disk to use, MB (default: what is free)")
    parser.add_argument("--wall-seconds", type=_positive, default=ENDLESS_SECONDS, help="length of the slot, seconds")
    parser.add_argument("--scratch", help="folder to work in (default: _CONDOR_SCRATCH_DIR, else the current one)")
    parser.add_argument("--register-seconds", type=float, default=60.0, help="how long to try to reach the server")
    given = parser.parse_args(words)
    scratch = Path(given.scratch or os.environ.get("_CONDOR_SCRATCH_DIR") or os.getcwd()).absolute()
    return Arguments(
        server=given.server,
        pilot_id=given.pilot_id,
        site=given.site,
        ca_file=Path(given.ca),
        secret_file=Path(given.secret_file),
        cores=given.cores,
        memory_mb=given.memory_mb or _memory_mb(given.cores),
        disk_mb=given.disk_mb or free_mb(scratch),
        wall_seconds=given.wall_seconds,
        scratch=scratch,
        register_seconds=given.register_seconds,
    )


def free_mb(folder: Path) -> int:
    """Return the free disk of the file system of a folder, in MB; 0 when it cannot be told."""
    try:
        state = os.statvfs(folder)
    except OSError:
        return 0
    return state.f_bavail * state.f_frsize // MB


def batch_id() -> Optional[str]:
    """Return `cluster.proc` of the HTCondor job that this pilot is, or None outside HTCondor."""
    try:
        lines = Path(os.environ["_CONDOR_JOB_AD"]).read_text(encoding="utf-8", errors="replace").splitlines()
    except (KeyError, OSError):
        return None
    values = dict(line.split(" = ", 1) for line in lines if " = " in line)
    if "ClusterId" not in values or "ProcId" not in values:
        return None
    return f"{values['ClusterId']}.{values['ProcId']}"


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def _memory_mb(cores: int) -> int:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // MB
    return max(1, total * cores // max(cores, os.cpu_count() or 1))

# SPDX-License-Identifier: Apache-2.0
"""Why something ended or waits: a stable code, a sentence, and who says so."""

from dataclasses import dataclass
from enum import StrEnum


class Source(StrEnum):
    """Who gave a reason."""

    PAYLOAD = "payload"
    """The user's command."""
    PILOT = "pilot"
    """The pilot that ran, or refused to run, the attempt."""
    SITE = "site"
    """The batch system or the node."""
    SERVER = "server"
    """glideflow's own services."""
    USER = "user"
    """A person, by a command."""


class ReasonCode(StrEnum):
    """The stable codes of all reasons; the documentation lists each with its remedy."""

    PAYLOAD_EXIT = "payload_exit"
    """The command ended with an exit code other than 0: read the job's log."""
    PAYLOAD_SIGNAL = "payload_signal"
    """The command was ended by a signal that glideflow did not send: read the job's log."""
    PAYLOAD_NOT_STARTED = "payload_not_started"
    """The command could not be started: check its name and that it is executable."""
    OUTPUT_MISSING = "output_missing"
    """The command ended well but did not write a declared output: check the names under `outputs`."""
    OUTPUT_CORRUPT = "output_corrupt"
    """A stored output differs in size or checksum from what the pilot wrote; the job is run again."""
    OUTPUT_TOO_LARGE = "output_too_large"
    """A declared output is larger than the endpoint takes (setting `max_file_mb`): write several files."""
    STAGE_IN_FAILED = "stage_in_failed"
    """An input or sandbox file could not be fetched: check its URL, or retry when its server is back."""
    STAGE_OUT_FAILED = "stage_out_failed"
    """An output could not be stored; the job is run again."""
    DISK_FULL = "disk_full"
    """The node's disk was full: ask for more `resources.disk_mb`, or tell the site."""
    WALL_TIME_EXCEEDED = "wall_time_exceeded"
    """The command ran longer than `resources.wall_seconds`."""
    OVERSIZED_JOB = "oversized_job"
    """No site offers the cores, memory, disk or time that the job asks for."""
    PILOT_LOST = "pilot_lost"
    """The pilot was not heard from any more (killed, node lost or network gone); the job is run elsewhere."""
    PILOT_DRAINED = "pilot_drained"
    """The pilot was told to stop (vacated, removed or shut down) while the job ran; the job is run again."""
    PILOT_IDLE = "pilot_idle"
    """The pilot found no work for its idle time."""
    PILOT_DEADLINE = "pilot_deadline"
    """The pilot reached the end of its slot."""
    PILOT_FAILED = "pilot_failed"
    """The pilot ended by itself without a good-bye, or was held by the batch system."""
    PILOT_REFUSED = "pilot_refused"
    """The pilot could not take the job."""
    KILLED = "killed"
    """Killed by a user's command."""
    TASK_ENDED = "task_ended"
    """The task ended before the job did."""
    JOBS_FAILED = "jobs_failed"
    """Jobs of the task failed after all their attempts: see `glideflow jobs TASK --state failed`."""
    MERGE_FAILED = "merge_failed"
    """The merge job failed after all its attempts."""
    PLANNING_FAILED = "planning_failed"
    """The task could not be split into jobs."""
    SCOUTING = "scouting"
    """Scout jobs are measured before the rest of the task is split."""
    SCOUTS_FAILED = "scouts_failed"
    """More than half of the scout jobs failed, so the rest was not started: read the log of one, and retry the task."""
    RETRY_REQUESTED = "retry_requested"
    """A user asked to run it again."""
    PAUSED = "paused"
    """A user paused it: no pilot takes it until `glideflow resume`."""
    RESUMED = "resumed"
    """A user ended the pause."""
    PRIORITY_SET = "priority_set"
    """A user changed its priority."""
    DEMAND = "demand"
    """Pilots were sent because jobs wait for them."""
    SUBMIT_FAILED = "submit_failed"
    """The batch system did not take the pilots."""


@dataclass(frozen=True, kw_only=True)
class Reason:
    """A reason: code, sentence and source travel together from the place where something happened to the user."""

    code: ReasonCode
    """Stable code, for programs and for the failure policy."""
    text: str
    """What happened, with which values, and what to do, as one sentence."""
    source: Source
    """Who says so."""

    def __str__(self) -> str:
        """The sentence with its code, as logs and tables show it."""
        return f"{self.text} [{self.code}, {self.source}]"

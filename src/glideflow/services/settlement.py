# SPDX-License-Identifier: Apache-2.0
"""Reports of pilots: each applied once, verified, and turned into the job's next state.

A report carries its attempt's number: a repeated one is answered and changes nothing, one of an attempt that was
given up is refused.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from glideflow.domain.identifiers import DemandId
from glideflow.domain.messages import Outcome, Receipt, Report
from glideflow.domain.reasons import Reason, ReasonCode, Source
from glideflow.domain.states import FINAL_ATTEMPTS, FINAL_JOBS, AttemptState, JobState
from glideflow.services.orders import TaskCache
from glideflow.services.outputs import Produced, verify
from glideflow.services.policies import Policies
from glideflow.services.storage import Storage
from glideflow.services.verdicts import Failed, judge_attempts
from glideflow.store import attempts, files, jobs
from glideflow.store.engine import Channel, Connection, notify
from glideflow.store.moves import move_each, reason_values

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Settled:
    """What a batch of reports came to."""

    receipts: Mapping[tuple[int, int], Receipt]
    """The answer to each report, by attempt and sequence."""
    ended_tasks: frozenset[int]
    """Tasks of which a job ended for good."""
    freed: Mapping[DemandId, int]
    """How many jobs of which demands do not run any more."""


@dataclass(frozen=True, kw_only=True)
class Ending:
    """A finished attempt with its verdict."""

    row: Row
    """The attempt with its job, as locked."""
    report: Report
    """What the pilot said."""
    failure: Reason | None
    """Why it failed; None for a verified success."""
    produced: tuple[Produced, ...] = ()
    """The verified outputs."""


def settle(
    connection: Connection,
    storage: Storage,
    policies: Policies,
    cache: TaskCache,
    reports: Sequence[tuple[str, Report]],
) -> Settled:
    """Apply reports of pilots.

    Args:
        connection: The caller's transaction.
        storage: Where outputs are verified.
        policies: The rules for failures.
        cache: Definitions of tasks; those of the finished attempts are added.
        reports: Pilot and report, in the order in which they came.
    """
    if not reports:
        return Settled(receipts={}, ended_tasks=frozenset(), freed={})
    rows = attempts.lock(connection, (report.attempt_id for _, report in reports))
    receipts: dict[tuple[int, int], Receipt] = {}
    started: dict[int, Report] = {}
    finished: dict[int, Report] = {}
    for pilot_id, report in sorted(reports, key=lambda item: (item[1].attempt_id, item[1].sequence)):
        row = rows.get(report.attempt_id)
        refusal = _refusal(row, pilot_id, report)
        fresh = refusal is None and row is not None and report.sequence > row["sequence"]
        if fresh and row is not None and row["state"] not in FINAL_ATTEMPTS:
            (started if report.state == "running" else finished)[report.attempt_id] = report
        receipts[report.attempt_id, report.sequence] = Receipt(
            attempt_id=report.attempt_id, sequence=report.sequence, accepted=refusal is None, text=refusal or ""
        )
    _start(connection, rows, started)
    cache.load(connection, [rows[key]["task_id"] for key in finished])
    endings = _verified(connection, storage, cache, [(rows[key], report) for key, report in finished.items()])
    _succeed(connection, cache, [ending for ending in endings if ending.failure is None])
    done = {ending.row["task_id"] for ending in endings if ending.failure is None}
    failed = _fail(connection, policies, [ending for ending in endings if ending.failure is not None])
    freed = Counter(DemandId(rows[key]["demand_id"]) for key in finished)
    return Settled(receipts=receipts, ended_tasks=frozenset(done | failed), freed=freed)


def _refusal(row: Row | None, pilot_id: str, report: Report) -> str | None:
    """Say why a report is refused, or None."""
    if row is None:
        return f"there is no attempt {report.attempt_id}"
    if row["pilot_id"] != pilot_id:
        return f"attempt {report.attempt_id} belongs to another pilot"
    if report.sequence > row["sequence"] and row["state"] in FINAL_ATTEMPTS:
        return f"attempt {report.attempt_id} was given up before (it is {row['state']}); the report changes nothing"
    return None


def _start(connection: Connection, rows: Mapping[int, Row], reports: Mapping[int, Report]) -> None:
    """Apply the reports that commands run."""
    nothing = reason_values(None)
    moved = attempts.start(
        connection,
        [
            {"id": key, **nothing, "sequence": report.sequence, "started_at": _instant(report.started_at)}
            for key, report in reports.items()
        ],
    )
    move_each(
        connection,
        JobState.RUNNING,
        [{"id": rows[key]["job_id"], **nothing, "started_at": _instant(reports[key].started_at)} for key in moved],
        columns=", started_at timestamptz",
        set_also=", started_at = coalesce(r.started_at, now())",
    )


def _verified(
    connection: Connection, storage: Storage, cache: TaskCache, finished: Sequence[tuple[Row, Report]]
) -> list[Ending]:
    """Say how attempts ended whose final report came: well only when their outputs are there."""
    paths = [output.path for _, report in finished for output in report.outputs]
    objects = files.objects(connection, (path.removeprefix("/storage/") for path in paths)) if paths else {}
    endings = []
    for row, report in finished:
        if report.outcome is Outcome.SUCCEEDED:
            produced, failure = verify(cache.spec(row["task_id"]), row, report.outputs, objects, storage)
            endings.append(Ending(row=row, report=report, failure=failure, produced=produced))
        else:
            endings.append(Ending(row=row, report=report, failure=_failure(report)))
    return endings


def _reported(ending: Ending) -> Row:
    """Return what the pilot said as an attempt's values."""
    report = ending.report
    return {
        "id": ending.row["id"],
        **reason_values(ending.failure),
        "sequence": report.sequence,
        "started_at": _instant(report.started_at),
        "ended_at": _instant(report.ended_at),
        "exit_code": report.exit_code,
        "signal": report.signal,
        "usage": report.usage.model_dump(exclude_none=True) if report.usage else None,
    }


def _failure(report: Report) -> Reason:
    if report.reason is not None:
        return report.reason.reason()
    return Reason(
        code=ReasonCode.PAYLOAD_EXIT,
        text=f"the attempt ended as {report.outcome or 'failed'} with exit code {report.exit_code}",
        source=Source.PILOT,
    )


def _succeed(connection: Connection, cache: TaskCache, endings: Sequence[Ending]) -> None:
    """Register the outputs and finish the jobs, in one transaction with everything else."""
    if not endings:
        return
    made = [(ending, produced) for ending in endings for produced in ending.produced]
    if made:
        owners = {produced.dataset: cache.owner(ending.row["task_id"]) for ending, produced in made}
        datasets = files.datasets_for(connection, owners)
        files.insert(
            connection,
            [
                {
                    "dataset_id": datasets[produced.dataset],
                    "task_id": ending.row["task_id"],
                    "job_id": ending.row["job_id"],
                    "attempt_id": ending.row["id"],
                    **produced.columns(),
                }
                for ending, produced in made
            ],
        )
    attempts.finish(connection, AttemptState.DONE, [_reported(ending) for ending in endings])
    jobs.settle(
        connection,
        JobState.DONE,
        [
            {
                "id": ending.row["job_id"],
                **reason_values(None),
                "failures": ending.row["failures"],
                "delay": 0,
                "exit_code": 0,
                "started_at": _instant(ending.report.started_at),
            }
            for ending in endings
        ],
        via=JobState.VERIFYING,
    )


def _fail(connection: Connection, policies: Policies, endings: Sequence[Ending]) -> set[int]:
    """Let the failure policy decide about jobs whose attempts failed."""
    by_state: dict[AttemptState, list[Row]] = defaultdict(list)
    for ending in endings:
        refused = ending.report.outcome is Outcome.REFUSED
        by_state[AttemptState.REFUSED if refused else AttemptState.FAILED].append(_reported(ending))
    for state, rows in by_state.items():
        attempts.finish(connection, state, rows)
    failed = [
        Failed(
            row=ending.row,
            reason=ending.failure,
            exit_code=ending.report.exit_code,
            signal=ending.report.signal,
            started_at=_instant(ending.report.started_at),
        )
        for ending in endings
        if ending.failure is not None
    ]
    return judge_jobs(connection, policies, failed, via=JobState.VERIFYING)


def judge_jobs(
    connection: Connection, policies: Policies, failed: Sequence[Failed], *, via: JobState | None = None
) -> set[int]:
    """Send jobs whose attempts ended without success to where the failure policies say.

    Args:
        connection: The caller's transaction.
        policies: The rules.
        failed: The attempts.
        via: VERIFYING for attempts of which the pilot reported the end.

    Returns:
        The tasks of which a job failed for good.
    """
    if not failed:
        return set()
    by_state: dict[JobState, list[Row]] = defaultdict(list)
    ended: set[int] = set()
    for item, verdict in judge_attempts(connection, policies, failed):
        state = verdict["state"]
        by_state[state].append(
            {
                **verdict,
                "id": item.row["job_id"],
                **reason_values(item.reason),
                "exit_code": item.exit_code,
                "started_at": item.started_at,
            }
        )
        if state in FINAL_JOBS:
            ended.add(item.row["task_id"])
    for state, rows in by_state.items():
        jobs.settle(connection, state, rows, via=via)
    if by_state[JobState.READY]:
        notify(connection, Channel.JOBS)
    return ended


def give_up(connection: Connection, policies: Policies, pilot_ids: Iterable[Any], reason: Reason) -> set[int]:
    """End the open attempts of pilots that will not report any more; their jobs run elsewhere.

    Returns:
        The tasks of which a job failed for good.
    """
    return give_up_attempts(
        connection, policies, [(row, reason) for row in attempts.open_of_pilots(connection, pilot_ids)]
    )


def give_up_attempts(connection: Connection, policies: Policies, given_up: Sequence[tuple[Row, Reason]]) -> set[int]:
    """End attempts whose report nobody waits for any more, each with its reason; their jobs run elsewhere.

    Returns:
        The tasks of which a job failed for good.
    """
    values = [{"id": row["id"], **reason_values(reason)} for row, reason in given_up]
    lost = set(move_each(connection, AttemptState.LOST, values, set_also=_NOW))
    return judge_jobs(
        connection, policies, [Failed(row=row, reason=reason) for row, reason in given_up if row["id"] in lost]
    )


_NOW = ", ended_at = now()"


def _instant(at: Any) -> str | None:
    return None if at is None else at.isoformat()

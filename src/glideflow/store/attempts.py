# SPDX-License-Identifier: Apache-2.0
"""Queries on attempts."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from psycopg.types.json import Jsonb

from glideflow.domain.identifiers import AttemptId, JobId, PilotId
from glideflow.domain.states import AttemptState
from glideflow.store.engine import Connection
from glideflow.store.moves import move_each

Row = dict[str, Any]


def insert(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> dict[int, AttemptId]:
    """Store new attempts in state `claimed`; rows with `job_id`, `task_id`, `pilot_id`, `number`.

    Returns:
        The attempt of each job.
    """
    made = connection.execute(
        """
        INSERT INTO attempts (job_id, task_id, pilot_id, number)
        SELECT job_id, task_id, pilot_id, number
        FROM jsonb_to_recordset(%s) AS r(job_id bigint, task_id bigint, pilot_id text, number int)
        RETURNING id, job_id
        """,
        [Jsonb(list(rows))],
    )
    return {row["job_id"]: AttemptId(row["id"]) for row in made}


def lock(connection: Connection, attempt_ids: Iterable[int]) -> dict[int, Row]:
    """Lock attempts and return what is needed to judge a report of theirs."""
    rows = connection.execute(
        """
        SELECT a.id, a.job_id, a.task_id, a.pilot_id, a.state, a.sequence, a.number,
            j.state AS job_state, j.failures, j.stage, j.index, j.demand_id
        FROM attempts a JOIN jobs j ON j.id = a.job_id
        WHERE a.id = ANY(%s) ORDER BY a.id FOR UPDATE OF a
        """,
        [sorted(set(attempt_ids))],
    )
    return {row["id"]: row for row in rows}


def start(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> list[AttemptId]:
    """Move attempts to `running`; rows with `id`, reason values, `sequence` and `started_at`."""
    return move_each(
        connection,
        AttemptState.RUNNING,
        rows,
        columns=", sequence int, started_at timestamptz",
        set_also=", sequence = r.sequence, started_at = r.started_at",
    )


def finish(connection: Connection, to: AttemptState, rows: Sequence[Mapping[str, Any]]) -> list[AttemptId]:
    """Note what pilots reported at the end of attempts, and what that came to.

    Args:
        connection: The caller's transaction.
        to: DONE, FAILED or REFUSED; the attempts pass `reported` on their way.
        rows: `id`, reason values, and what the pilot said.
    """
    return move_each(
        connection,
        to,
        rows,
        via=AttemptState.REPORTED,
        columns=""", sequence int, started_at timestamptz, ended_at timestamptz, exit_code int, signal int,
            usage jsonb""",
        set_also=""", sequence = r.sequence, started_at = coalesce(r.started_at, t.started_at),
            ended_at = coalesce(r.ended_at, now()), exit_code = r.exit_code, signal = r.signal, usage = r.usage""",
    )


def note_verdicts(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Keep what the failure policy said of ended attempts; rows with `id`, `rule` and `verdict`."""
    connection.execute(
        """
        UPDATE attempts a SET rule = r.rule, verdict = r.verdict
        FROM jsonb_to_recordset(%s) AS r(id bigint, rule text, verdict text) WHERE a.id = r.id
        """,
        [Jsonb(list(rows))],
    )


def ended_among(connection: Connection, attempt_ids: Iterable[int]) -> dict[int, Row]:
    """Return those of some attempts that have ended, with their reasons."""
    rows = connection.execute(
        """
        SELECT id, pilot_id, state, reason_code, reason_text, reason_source FROM attempts
        WHERE id = ANY(%s) AND state IN ('done', 'failed', 'lost', 'killed', 'refused')
        """,
        [sorted(set(attempt_ids))],
    )
    return {row["id"]: row for row in rows}


def unheard(connection: Connection, pilot_ids: Iterable[PilotId]) -> list[Row]:
    """Return the attempts that some pilots were handed and have not spoken of."""
    return connection.execute(
        """
        SELECT a.id AS attempt_id, a.pilot_id, a.number, j.id, j.task_id, j.demand_id, j.stage, j.index, j.slices
        FROM attempts a JOIN jobs j ON j.id = a.job_id
        WHERE a.pilot_id = ANY(%s) AND a.state = 'claimed' ORDER BY a.id
        """,
        [sorted(set(pilot_ids))],
    ).fetchall()


def open_of_jobs(connection: Connection, job_ids: Iterable[JobId]) -> list[Row]:
    """Return the attempts of some jobs that have not ended."""
    return connection.execute(
        """
        SELECT id, job_id, pilot_id FROM attempts
        WHERE job_id = ANY(%s) AND state IN ('claimed', 'running', 'reported') ORDER BY id
        """,
        [sorted(set(job_ids))],
    ).fetchall()


def open_of_pilots(connection: Connection, pilot_ids: Iterable[PilotId]) -> list[Row]:
    """Return the attempts of some pilots that have not ended."""
    return connection.execute(
        """
        SELECT id, job_id, task_id, pilot_id, state FROM attempts
        WHERE pilot_id = ANY(%s) AND state IN ('claimed', 'running', 'reported') ORDER BY id
        """,
        [sorted(set(pilot_ids))],
    ).fetchall()


def not_held(connection: Connection, seconds: float) -> list[Row]:
    """Lock and return the attempts that their pilots do not hold, heard so many seconds after they got them.

    Pilots in the middle of an exchange are left out: the next look sees what they said.
    """
    return connection.execute(
        """
        SELECT a.id, a.job_id, a.task_id, a.pilot_id, a.state,
            extract(epoch FROM p.last_seen_at - a.claimed_at)::float8 AS seconds
        FROM attempts a JOIN pilots p ON p.id = a.pilot_id
        WHERE a.state IN ('claimed', 'running') AND p.state IN ('registered', 'draining')
            AND p.last_seen_at >= a.claimed_at + %s * interval '1 second' AND a.id <> ALL(p.holding)
        ORDER BY a.id FOR UPDATE OF p, a SKIP LOCKED
        """,
        [seconds],
    ).fetchall()


def reported_before(connection: Connection, at: datetime) -> list[Row]:
    """Lock and return the attempts whose end was reported before a time, and about which nothing was decided."""
    return connection.execute(
        """
        SELECT a.id, a.job_id, a.task_id, a.pilot_id, a.state, e.at FROM attempts a CROSS JOIN LATERAL (
            SELECT max(at) AS at FROM events
            WHERE job_id = a.job_id AND kind = 'attempt' AND subject = a.id::text AND new_state = 'reported'
        ) e
        WHERE a.state = 'reported' AND e.at < %s ORDER BY a.id FOR UPDATE OF a SKIP LOCKED
        """,
        [at],
    ).fetchall()


def of_job(connection: Connection, job_id: JobId) -> list[Row]:
    """Return all attempts of a job in their order, with where they ran."""
    return connection.execute(
        """
        SELECT a.*, p.site, p.node FROM attempts a JOIN pilots p ON p.id = a.pilot_id
        WHERE a.job_id = %s ORDER BY a.number
        """,
        [job_id],
    ).fetchall()


def pilot_of(connection: Connection, attempt_id: AttemptId) -> str | None:
    """Return the pilot that an attempt belongs to."""
    row = connection.execute("SELECT pilot_id FROM attempts WHERE id = %s", [attempt_id]).fetchone()
    return None if row is None else str(row["pilot_id"])


def recent_by_site(connection: Connection, most: int, seconds: float) -> dict[str, Row]:
    """Count the `attempts` that ended lately at each site, and their `failures` for a reason of the site or the pilot.

    Args:
        connection: The caller's transaction.
        most: So many of the latest attempts are looked at, of all sites: the cost does not grow with their number.
        seconds: Only those that ended within this time.

    Returns:
        The numbers by site, and the `seconds` in which these attempts ended: since the first of them was claimed, but
        not more than was asked for.
    """
    rows = connection.execute(
        """
        SELECT p.site, count(*) AS attempts, count(*) FILTER (
            WHERE a.state = 'lost' OR (a.state IN ('failed', 'refused') AND a.reason_source IN ('pilot', 'site'))
        ) AS failures, least(extract(epoch FROM now() - min(a.claimed_at)), %(seconds)s)::float8 AS seconds
        FROM (SELECT * FROM attempts ORDER BY id DESC LIMIT %(most)s) a JOIN pilots p ON p.id = a.pilot_id
        WHERE a.state NOT IN ('claimed', 'running', 'reported')
            AND a.ended_at > now() - %(seconds)s * interval '1 second'
        GROUP BY p.site
        """,
        {"most": most, "seconds": seconds},
    )
    return {row["site"]: row for row in rows}

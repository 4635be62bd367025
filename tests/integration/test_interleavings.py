# SPDX-License-Identifier: Apache-2.0
"""Random interleavings of all that can happen to tasks, jobs, attempts and pilots, on a real PostgreSQL.

The examples are the same in each run. With `GLIDEFLOW_TEST_INTERLEAVINGS=2000`, and `-o timeout=0` for pytest, so many
new ones are tried instead, of twice the length. A failure prints the steps, and how to see them again.
"""

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from dispatch_world import FakePilot, World
from hypothesis import HealthCheck, Verbosity, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from glideflow.domain.identifiers import JobId, TaskId
from glideflow.domain.messages import Answer, Outcome
from glideflow.domain.states import (
    FINAL_JOBS,
    FINAL_TASKS,
    AttemptState,
    JobState,
    PilotState,
    TaskState,
    moves_of,
)
from glideflow.errors import IllegalTransition
from glideflow.services import completion, control, orchestration, planning, views
from glideflow.services.dispatch import Call, PilotRefused
from glideflow.services.watchdog import Limits, sweep, sweep_attempts, wake_delayed
from glideflow.store import tally
from glideflow.store.engine import Database

EXAMPLES, STEPS = 24, 50
LOST_SECONDS = 120.0
LIMITS = Limits(lost_seconds=LOST_SECONDS, unheld_seconds=0.001, verifying_seconds=60)
MOST_PILOTS, MOST_TASKS = 3, 2
WHY = {code: control.user_reason(code, "ada", None) for code in control.DONE_BY}
KILLED, AGAIN, PAUSED, RESUMED, PRIORITY = (WHY[code] for code in control.DONE_BY)
STATES = {"task": TaskState, "job": JobState, "attempt": AttemptState, "pilot": PilotState}
FIRST = {"task": "submitted", "job": "ready", "attempt": "claimed", "pilot": "planned"}
TABLES = "tasks, task_inputs, demands, jobs, pilots, attempts, datasets, files, events, outbox, tally, tally_deltas"

TASK_ORDERS: dict[str, Callable[[Database, TaskId], object]] = {
    "kill": lambda database, task: control.kill_task(database, task, KILLED),
    "pause": lambda database, task: control.pause_task(database, task, PAUSED),
    "resume": lambda database, task: control.resume_task(database, task, RESUMED),
    "retry": lambda database, task: control.retry_task(database, task, AGAIN),
    "priority 0": lambda database, task: control.set_task_priority(database, task, 0, PRIORITY),
    "priority 1": lambda database, task: control.set_task_priority(database, task, 1, PRIORITY),
}
JOB_ORDERS: dict[str, Callable[[Database, JobId], object]] = {
    "kill": lambda database, job: control.kill_job(database, job, KILLED),
    "pause": lambda database, job: control.pause_job(database, job, PAUSED),
    "resume": lambda database, job: control.resume_job(database, job, RESUMED),
    "retry": lambda database, job: control.retry_job(database, job, AGAIN),
    "priority 1": lambda database, job: control.set_job_priority(database, job, 1, PRIORITY),
    "priority 2": lambda database, job: control.set_job_priority(database, job, 2, PRIORITY),
}

index = st.integers(min_value=0, max_value=11)
"""Chooses one of what there is."""
news = st.lists(st.tuples(index, st.sampled_from(["start", "start", *Outcome])), min_size=1, max_size=4)
"""What a pilot reports of which of its attempts."""
wish = st.sampled_from([1, 2, 0])
"""How many jobs a pilot wants."""


def chosen(items: list[Any], at: int) -> Any:
    """Return one of some things, or None where there are none."""
    return items[at % len(items)] if items else None


class Interleavings(RuleBasedStateMachine):
    """Two endpoints on one database, a few pilots, and users who cannot make up their minds."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        self.run(f"TRUNCATE {TABLES} RESTART IDENTITY CASCADE")
        self.world.restart()
        self.pilots: list[FakePilot] = []
        self.seen_event = 0
        self.present: dict[tuple[str, str], str] = {}

    def run(self, statement: str) -> None:
        with self.world.database.transaction() as connection:
            connection.execute(statement)  # type: ignore[call-overload]

    @property
    def tasks(self) -> list[TaskId]:
        return [TaskId(row["id"]) for row in self.world.rows("SELECT id FROM tasks ORDER BY id")]

    @property
    def open_tasks(self) -> list[TaskId]:
        found = self.world.rows("SELECT id FROM tasks WHERE state <> ALL(%s) ORDER BY id", sorted(FINAL_TASKS))
        return [TaskId(row["id"]) for row in found]

    @property
    def jobs(self) -> list[JobId]:
        return [JobId(row["id"]) for row in self.world.rows("SELECT id FROM jobs ORDER BY id")]

    @property
    def living(self) -> list[FakePilot]:
        return [pilot for pilot in self.pilots if pilot.alive]

    # --- tasks and the flow

    @initialize(jobs=st.integers(1, 3), retries=st.integers(0, 2), merge=st.booleans(), pilots=st.integers(1, 3))
    def begin(self, jobs: int, retries: int, merge: bool, pilots: int) -> None:
        """There is always something to do, and somebody to do it: an example may go without any one rule."""
        self.submit(jobs, retries, merge, planned=True)
        self.pilots = [self.world.pilot() for _ in range(pilots)]

    @rule(jobs=st.integers(1, 3), retries=st.integers(0, 2), merge=st.booleans(), planned=st.booleans())
    def submit(self, jobs: int, retries: int, merge: bool, planned: bool) -> None:
        if len(self.open_tasks) < MOST_TASKS:
            more = {"outputs": {"a": {"file": "a"}}, "merge": {"command": "cat {inputs}"}} if merge else {}
            self.world.submit(planned=planned, inputs={"jobs": jobs}, retries=retries, **more)

    def flows_do_what_they_are_told(self) -> None:
        for entry in orchestration.pending(self.world.database):
            if entry.action == "start":
                orchestration.record_started(self.world.database, entry.id, entry.task_id, f"run-{entry.generation}")
            else:
                orchestration.done(self.world.database, entry.id)
            if entry.action != "cancel":
                self.go_on(TaskId(entry.task_id))

    def go_on(self, task: TaskId) -> None:
        """Do what the flow of a task does when it runs."""
        database, place = self.world.database, self.world.place
        planning.plan(place, task)
        if not views.progress(database, task)["ended"]:
            return
        completion.merge(database, place.sites, task)
        if views.progress(database, task)["ended"]:
            completion.finish(database, task)

    # --- pilots

    @rule(at=index, want=wish, said=news, endpoint=st.integers(0, 1), is_lost=st.booleans())
    def exchange(self, at: int, want: int, said: list[tuple[int, str]], endpoint: int, is_lost: bool) -> None:
        """One pilot asks; its answer may be lost."""
        pilot = chosen(self.living, at)
        if pilot is not None:
            self.tell(pilot, said)
            (answer,) = self.answer(endpoint, [pilot.call(want)])
            if not is_lost:
                pilot.hear(answer)

    @rule(want=wish, said=st.tuples(*[news] * MOST_PILOTS), endpoint=st.integers(0, 1))
    def exchange_together(self, want: int, said: tuple[list[tuple[int, str]], ...], endpoint: int) -> None:
        """All pilots ask at once, in one transaction, of an endpoint that has heard of all news."""
        if not self.open_tasks:
            self.world.submit(inputs={"jobs": 2}, retries=1)
        self.world.endpoints[endpoint].announce()
        pilots = self.living
        for pilot, each in zip(pilots, said, strict=False):
            self.tell(pilot, each)
        answers = self.answer(endpoint, [pilot.call(want) for pilot in pilots])
        for pilot, answer in zip(pilots, answers, strict=True):
            pilot.hear(answer)

    @rule(at=index, which=index, endpoint=st.integers(0, 1))
    def the_network_repeats_an_old_question(self, at: int, which: int, endpoint: int) -> None:
        pilot = chosen(self.pilots, at)
        if pilot is not None and pilot.sent:
            self.answer(endpoint, [chosen(pilot.sent[::-1], which)])

    @rule(at=index, end=st.sampled_from(["goodbye", "silence", "silence of all", "forgets"]))
    def a_pilot_ends(self, at: int, end: str) -> None:
        pilot = chosen(self.living, at)
        if pilot is not None and end == "goodbye":
            self.world.goodbye(pilot)
        elif pilot is not None and end == "forgets":
            pilot.holding = {key: order for key, order in pilot.holding.items() if key in pilot.over}
        elif pilot is not None:
            self.give_up([pilot] if end == "silence" else self.living)
        if len(self.living) < MOST_PILOTS:
            self.pilots.append(self.world.pilot())

    def give_up(self, silent: list[FakePilot]) -> None:
        """Let pilots be silent for too long; they do not know it, and what they say later is late."""
        now = datetime.now(UTC)
        ago = now - timedelta(seconds=2 * LOST_SECONDS)
        names = [pilot.id for pilot in silent]
        self.world.rows("UPDATE pilots SET last_seen_at = %s WHERE id = ANY(%s) RETURNING id", ago, names)
        database, policies = self.world.database, self.world.policies
        sweep(database, policies, now=now, listening_since=ago, lost_seconds=LOST_SECONDS)

    def tell(self, pilot: FakePilot, said: list[tuple[int, str]]) -> None:
        """Put reports of a pilot's attempts on its tongue."""
        for at, what in said:
            attempt = chosen(sorted(pilot.holding.keys() - pilot.over), at)
            if attempt is not None and what == "start" and attempt not in pilot.started:
                pilot.report(attempt, "running", started_at=datetime.now(UTC))
            elif attempt is not None and what != "start":
                self.world.report_end(pilot, attempt, Outcome(what))

    def answer(self, endpoint: int, calls: list[Call]) -> list[Answer | PilotRefused]:
        """Let an endpoint answer, and check that it refused what was late, and handed out nothing that is paused."""
        before = {row["id"]: row for row in self.world.rows("SELECT * FROM attempts")}
        held_back = {
            row["id"]
            for row in self.world.rows(
                """SELECT j.id FROM jobs j JOIN demands d ON d.id = j.demand_id JOIN tasks t ON t.id = j.task_id
                    WHERE d.paused OR t.paused"""
            )
        }
        answers = self.world.endpoints[endpoint].answer(calls)
        after = {row["id"]: row for row in self.world.rows("SELECT * FROM attempts")}
        for call, answer in zip(calls, answers, strict=True):
            if isinstance(answer, PilotRefused):
                mine = [key for key, row in before.items() if row["pilot_id"] == call.pilot_id]
                assert [before[key] for key in mine] == [after[key] for key in mine]
                continue
            for order in answer.jobs:
                assert order.attempt_id in before or order.job_id not in held_back, f"paused job {order} handed out"
            for report, receipt in zip(call.exchange.reports, answer.receipts, strict=True):
                old = before[report.attempt_id]
                if old["ended_at"] is not None and report.sequence > old["sequence"]:
                    assert not receipt.accepted, f"{report} is late"
                    assert "changes nothing" in receipt.text
            fresh = {
                report.attempt_id
                for report in call.exchange.reports
                if report.sequence > before[report.attempt_id]["sequence"]
            }
            for key in {report.attempt_id for report in call.exchange.reports}:
                if key not in fresh or before[key]["ended_at"] is not None:
                    assert after[key] == before[key], "a late or repeated report changed something"
        return answers

    # --- users and time

    @rule(at=index, order=st.sampled_from(sorted(TASK_ORDERS)))
    def a_user_orders_something_of_a_task(self, at: int, order: str) -> None:
        self.repeat(self.tasks, at, lambda task: TASK_ORDERS[order](self.world.database, task))

    @rule(at=index, order=st.sampled_from(sorted(JOB_ORDERS)))
    def a_user_orders_something_of_a_job(self, at: int, order: str) -> None:
        self.repeat(self.jobs, at, lambda job: JOB_ORDERS[order](self.world.database, job))

    def repeat(self, items: list[Any], at: int, order: Callable[[Any], object]) -> None:
        """Give an order twice; the second time moves nothing."""
        item = chosen(items, at)
        if item is None:
            return
        for again in (False, True):
            before = self.world.rows("SELECT count(*) AS n FROM events")
            try:
                order(item)
            except IllegalTransition:
                again = True
            assert not again or self.world.rows("SELECT count(*) AS n FROM events") == before

    @rule(what=st.sampled_from(["restart", "plan", "fold", "wake", "watch", "flows", "flows"]))
    def the_server_works(self, what: str) -> None:
        {
            "restart": self.world.restart,
            "plan": lambda: planning.plan_all(self.world.place),
            "fold": self.fold,
            "wake": self.wake,
            "watch": self.watch,
            "flows": self.flows_do_what_they_are_told,
        }[what]()

    def wake(self) -> None:
        """Let the delays of jobs be over."""
        self.run("UPDATE jobs SET not_before = now() WHERE state = 'waiting'")
        wake_delayed(self.world.database)

    def watch(self) -> None:
        """Give up the attempts that pilots do not hold."""
        now = datetime.now(UTC)
        sweep_attempts(self.world.database, self.world.policies, LIMITS, now=now, listening_since=now)

    def fold(self) -> None:
        with self.world.database.transaction() as connection:
            tally.fold(connection)

    # --- what always holds

    @invariant()
    def every_move_is_legal_and_in_the_log(self) -> None:
        log = self.world.rows("SELECT * FROM events WHERE id > %s ORDER BY id", self.seen_event)
        for event in log:
            self.seen_event = event["id"]
            key, kind = (event["kind"], event["subject"]), STATES[event["kind"]]
            old, new = kind(event["old_state"]), kind(event["new_state"])
            assert old == self.present.get(key, FIRST[event["kind"]]), f"a move is not in the log: {event}"
            assert new in moves_of(old)[old] or (old == new and event["reason_code"] in control.DONE_BY), event
            self.present[key] = event["new_state"]
        for kind_name in STATES:
            for row in self.world.rows(f"SELECT id::text AS id, state FROM {kind_name}s"):
                assert row["state"] == self.present.get((kind_name, row["id"]), FIRST[kind_name]), (kind_name, row)

    @invariant()
    def every_job_is_there_once_and_has_one_attempt_at_most(self) -> None:
        self.nothing(
            """SELECT t.id, t.jobs_total FROM tasks t WHERE t.jobs_total IS NOT NULL AND (
                t.jobs_total <> (t.spec->'inputs'->>'jobs')::int OR t.jobs_total <> (
                    SELECT count(DISTINCT index) FROM jobs j WHERE j.task_id = t.id AND stage = 'main'
                        AND index BETWEEN 0 AND t.jobs_total - 1)
                OR t.jobs_total <> (SELECT count(*) FROM jobs j WHERE j.task_id = t.id AND stage = 'main'))""",
            "a task does not have each of its jobs once",
        )
        self.nothing(
            """SELECT j.id, j.state, j.attempts, a.* FROM jobs j CROSS JOIN LATERAL (
                SELECT count(*) AS n, coalesce(max(number), 0) AS last,
                    count(*) FILTER (WHERE state IN ('claimed', 'running', 'reported')) AS open,
                    count(*) FILTER (WHERE state = 'done') AS done
                FROM attempts WHERE job_id = j.id) a
            WHERE a.n <> j.attempts OR a.last <> j.attempts
                OR a.open <> (j.state IN ('claimed', 'running', 'verifying', 'transferring'))::int
                OR a.done <> (j.state = 'done')::int""",
            "a job and its attempts do not agree",
        )
        self.nothing(
            """SELECT f.* FROM files f JOIN attempts a ON a.id = f.attempt_id WHERE a.state <> 'done'""",
            "an output counts although its attempt is not done",
        )

    @invariant()
    def the_tally_is_what_the_rows_are(self) -> None:
        key = """demand_id, state, site, CASE WHEN state = 'failed' THEN node END AS node,
            CASE WHEN state = 'failed' THEN reason_code END AS reason_code,
            CASE WHEN state = 'failed' THEN exit_code END AS exit_code"""
        self.nothing(
            f"""SELECT demand_id, state, site, node, reason_code, exit_code, sum(n) FROM (
                SELECT demand_id, state, site, node, reason_code, exit_code, n FROM tally
                UNION ALL SELECT demand_id, state, site, node, reason_code, exit_code, n FROM tally_deltas
                UNION ALL SELECT {key}, -1 FROM jobs
            ) c GROUP BY 1, 2, 3, 4, 5, 6 HAVING sum(n) <> 0""",
            "the tally counts something else than the jobs",
        )

    @invariant()
    def jobs_of_ended_tasks_have_ended_and_ended_stages_were_announced(self) -> None:
        ended, over = sorted(FINAL_TASKS), sorted(FINAL_JOBS)
        self.nothing(
            """SELECT t.id, t.state, j.id, j.state FROM tasks t JOIN jobs j ON j.task_id = t.id
                WHERE t.state = ANY(%s) AND j.state <> ALL(%s)""",
            "a job goes on after its task",
            ended,
            over,
        )
        self.nothing(
            """SELECT t.id, t.state FROM tasks t WHERE t.state IN ('running', 'merging')
                AND NOT EXISTS (SELECT FROM jobs j WHERE j.task_id = t.id AND j.state <> ALL(%s))
                AND NOT EXISTS (SELECT FROM outbox o WHERE o.task_id = t.id AND o.action IN ('start', 'resume'))""",
            "nobody told the flow that its stage has ended",
            over,
        )

    def nothing(self, query: str, text: str, *values: Any) -> None:
        found = self.world.rows(query, *values)
        assert not found, f"{text}: {found}"

    # --- the end

    def teardown(self) -> None:
        """Let everything go on: each task comes to its end, and no job is lost."""
        for task in self.tasks:
            control.resume_task(self.world.database, task, RESUMED)
        for job in self.jobs:
            control.resume_job(self.world.database, job, RESUMED)
        self.give_up(self.pilots)
        honest = self.world.pilot()
        for _ in range(20):
            planning.plan_all(self.world.place)
            self.wake()
            self.world.announce()
            (answer,) = self.answer(0, [honest.call(want=8)])
            honest.hear(answer)
            for attempt in list(honest.holding):
                self.world.report_end(honest, attempt, Outcome.SUCCEEDED)
            self.flows_do_what_they_are_told()
            if not self.world.rows("SELECT FROM tasks WHERE state <> ALL(%s)", sorted(FINAL_TASKS)):
                break
        self.nothing(
            """SELECT t.id, t.state, t.paused, j.id AS job, j.state AS job_state, j.not_before, j.attempts, d.sites,
                d.paused AS job_paused, (SELECT array_agg(action) FROM outbox o WHERE o.task_id = t.id) AS outbox
            FROM tasks t LEFT JOIN jobs j ON j.task_id = t.id LEFT JOIN demands d ON d.id = j.demand_id
            WHERE t.state <> ALL(%s)""",
            "a task does not end",
            sorted(FINAL_TASKS),
        )
        self.every_move_is_legal_and_in_the_log()
        self.every_job_is_there_once_and_has_one_attempt_at_most()
        self.the_tally_is_what_the_rows_are()
        self.jobs_of_ended_tasks_have_ended_and_ended_stages_were_announced()


def test_whatever_happens_in_whatever_order_no_job_is_lost_and_none_is_done_twice(
    database_url: str, tmp_path: Path
) -> None:
    wanted = int(os.environ.get("GLIDEFLOW_TEST_INTERLEAVINGS", "0"))
    world = World(database_url, tmp_path)
    machine = type("Interleavings", (Interleavings,), {"world": world})
    try:
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=wanted or EXAMPLES,
                stateful_step_count=2 * STEPS if wanted else STEPS,
                derandomize=not wanted,
                deadline=None,
                database=None,
                print_blob=True,
                verbosity=Verbosity.normal,
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        world.close()

# SPDX-License-Identifier: Apache-2.0
"""Every order of a user at every phase of a job and of a task, each given twice."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from dispatch_world import FakePilot, World

from glideflow.domain.identifiers import JobId, TaskId
from glideflow.domain.messages import Answer, Outcome
from glideflow.domain.reasons import ReasonCode
from glideflow.domain.shares import ShareConfig
from glideflow.domain.states import AttemptState, JobState, TaskState
from glideflow.errors import IllegalTransition
from glideflow.services import completion, control, explain, planning, views
from glideflow.services.watchdog import wake_delayed
from glideflow.store import attempts, demands, tally
from glideflow.store.engine import Database
from glideflow.store.moves import move

WHY = {code: control.user_reason(code, "ada", "a test") for code in control.DONE_BY}
KILLED, AGAIN, PAUSED, RESUMED, PRIORITY = (WHY[code] for code in control.DONE_BY)
OPEN = ("waiting", "ready", "claimed", "running", "verifying", "transferring")
ENDED = ("done", "failed", "cancelled")


@pytest.fixture
def world(database_url: str, tmp_path: Path) -> Iterator[World]:
    made = World(database_url, tmp_path)
    yield made
    made.close()


def explained(world: World, scene: "Scene") -> views.View:
    now = world.rows("SELECT now()")[0]["now"]
    return explain.explain(scene.database, ShareConfig(), scene.job, now)


class Scene:
    """A task of one job in a wanted state, the pilot that has it, and its attempt if there is one."""

    def __init__(self, world: World, state: str) -> None:
        self.world, self.database = world, world.database
        self.task = world.submit(inputs={"jobs": 1}, retries=int(state == "waiting"))
        self.job = JobId(world.rows("SELECT id FROM jobs")[0]["id"])
        self.pilot = world.pilot()
        self.attempt = 0
        if state == "cancelled":
            control.kill_job(self.database, self.job, KILLED)
        elif state != "ready":
            self._go(state)
        assert self.state == state

    def _go(self, state: str) -> None:
        self.attempt = take(self.world, self.pilot)[0]
        if state != "claimed":
            self.world.start(self.pilot, self.attempt)
        if state in ("verifying", "transferring"):
            with self.database.transaction() as connection:
                move(connection, AttemptState.REPORTED, [self.attempt])
                move(connection, JobState.VERIFYING, [self.job])
                if state == "transferring":
                    move(connection, JobState.TRANSFERRING, [self.job])
        if state in ("done", "failed", "waiting"):
            self.world.end(self.pilot, self.attempt, Outcome.SUCCEEDED if state == "done" else Outcome.FAILED)

    @property
    def state(self) -> str:
        return self.world.state("jobs", self.job)

    def wake(self) -> None:
        self.world.rows("UPDATE jobs SET not_before = now() WHERE state = 'waiting' RETURNING id")
        wake_delayed(self.database)


def take(world: World, pilot: FakePilot) -> list[int]:
    """Return the attempts that a pilot is given."""
    world.announce()
    answer = world.exchange(pilot, want=2)
    assert isinstance(answer, Answer)
    return [order.attempt_id for order in answer.jobs]


def twice(order: Callable[[], None], look: Callable[[], object]) -> object:
    """Give an order twice; the second time changes nothing that can be seen."""
    order()
    first = look()
    order()
    assert look() == first
    return first


@pytest.mark.parametrize("state", [*OPEN, *ENDED])
def test_kill_ends_an_open_job_and_leaves_an_ended_one(world: World, state: str) -> None:
    scene = Scene(world, state)
    view = twice(
        lambda: control.kill_job(scene.database, scene.job, KILLED), lambda: views.job(scene.database, scene.job)
    )
    assert view["state"] == ("cancelled" if state in OPEN else state)  # type: ignore[index]
    if state in ("claimed", "running", "verifying", "transferring"):
        assert world.state("attempts", scene.attempt) == "killed"
        answer = world.exchange(scene.pilot)
        assert isinstance(answer, Answer)
        assert [(each.command, each.attempt_id) for each in answer.commands] == [("kill", scene.attempt)]
        answer = world.exchange(scene.pilot)
        assert isinstance(answer, Answer)
        assert "was given up before (it is killed); the report changes nothing" in answer.receipts[0].text
        assert (scene.state, world.state("attempts", scene.attempt)) == ("cancelled", "killed")
    assert take(world, world.pilot()) == []


@pytest.mark.parametrize("state", [*OPEN, *ENDED])
def test_a_paused_job_is_not_handed_out_until_it_is_resumed(world: World, state: str) -> None:
    scene = Scene(world, state)
    view = twice(
        lambda: control.pause_job(scene.database, scene.job, PAUSED), lambda: views.job(scene.database, scene.job)
    )
    assert (view["state"], view["paused"]) == (state, state in OPEN)  # type: ignore[index]
    if state == "running":
        # What runs goes on, but another attempt has to wait.
        world.end(scene.pilot, scene.attempt, Outcome.REFUSED)
        assert scene.state == "ready"
    scene.wake()
    assert take(world, world.pilot()) == []
    if scene.state == "ready":
        sentence = f"It is paused: `glideflow resume --job {scene.job}` lets it go on."
        assert explained(world, scene)["sentences"][-1] == sentence
    twice(lambda: control.resume_job(scene.database, scene.job, RESUMED), lambda: views.job(scene.database, scene.job))
    assert not views.job(scene.database, scene.job)["paused"]
    assert len(take(world, world.pilot())) == int(state in ("ready", "waiting", "running"))


@pytest.mark.parametrize("state", [*OPEN, *ENDED])
def test_retry_runs_only_what_ended_without_success(world: World, state: str) -> None:
    scene = Scene(world, state)
    if state in ("failed", "cancelled"):
        control.retry_job(scene.database, scene.job, AGAIN)
        assert scene.state == "ready"
    for _ in range(2):
        with pytest.raises(IllegalTransition, match=rf"job {scene.job} cannot go from \w+ to ready"):
            control.retry_job(scene.database, scene.job, AGAIN)
    assert scene.state == ("ready" if state in ("failed", "cancelled") else state)


@pytest.mark.parametrize("state", [*OPEN, *ENDED])
def test_a_priority_holds_for_a_job_that_is_not_done(world: World, state: str) -> None:
    scene = Scene(world, state)
    view = twice(
        lambda: control.set_job_priority(scene.database, scene.job, 7, PRIORITY),
        lambda: views.job(scene.database, scene.job),
    )
    assert (view["state"], view["priority"]) == (state, 0 if state == "done" else 7)  # type: ignore[index]


@pytest.mark.parametrize("state", [*OPEN, *ENDED])
def test_every_state_of_a_job_is_explained(world: World, state: str) -> None:
    scene = Scene(world, state)
    found = explained(world, scene)
    assert (found["job"]["state"], bool(found["sentences"])) == (state, True)


def test_a_kill_waits_for_a_report_that_was_first(world: World) -> None:
    scene = Scene(world, "running")
    with ThreadPoolExecutor(1) as pool:
        with scene.database.transaction() as connection:
            # What a report of the attempt does, in its order.
            attempts.lock(connection, [scene.attempt])
            killing = pool.submit(control.kill_job, scene.database, scene.job, KILLED)
            wait_until_somebody_waits(world)
            move(connection, JobState.VERIFYING, [scene.job])
        killing.result(10)
    assert (scene.state, world.state("attempts", scene.attempt)) == ("cancelled", "killed")


def wait_until_somebody_waits(world: World) -> None:
    deadline = time.monotonic() + 10
    while not world.rows(
        "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    ):
        assert time.monotonic() < deadline, "nobody waits for a lock"
        time.sleep(0.01)


def test_a_retried_job_is_not_paused_any_more(world: World) -> None:
    scene = Scene(world, "ready")
    control.pause_job(scene.database, scene.job, PAUSED)
    control.kill_job(scene.database, scene.job, KILLED)
    assert not views.job(scene.database, scene.job)["paused"]
    control.retry_job(scene.database, scene.job, AGAIN)
    assert len(take(world, scene.pilot)) == 1


# --- tasks


class Tasks:
    """A task of two jobs in a wanted state; of a planned one, one job runs and one waits."""

    def __init__(self, world: World, state: str) -> None:
        self.world, self.database = world, world.database
        outputs = {"outputs": {"a": {"file": "a"}}, "merge": {"command": "cat {inputs}"}} if state == "merging" else {}
        self.task = world.submit(planned=state != "submitted", inputs={"jobs": 2}, retries=0, **outputs)
        self.pilot = world.pilot()
        if state in ("running", "done", "failed", "merging"):
            for attempt in take(world, self.pilot):
                world.start(self.pilot, attempt)
                if state != "running":
                    world.end(self.pilot, attempt, Outcome.FAILED if state == "failed" else Outcome.SUCCEEDED)
        if state == "merging":
            completion.merge(self.database, world.place.sites, self.task)
        if state in ("done", "failed"):
            completion.finish(self.database, self.task)
        if state == "cancelled":
            control.kill_task(self.database, self.task, KILLED)
        self.begun = "running" if state == "ready" else state
        assert self.view["state"] == self.begun

    @property
    def view(self) -> views.View:
        return views.task(self.database, self.task)


PHASES = ("submitted", "ready", "running", "merging", "done", "failed", "cancelled")
UNENDED = PHASES[:4]


@pytest.mark.parametrize("phase", PHASES)
def test_kill_ends_an_open_task_with_all_its_jobs(world: World, phase: str) -> None:
    scene = Tasks(world, phase)
    view = twice(lambda: control.kill_task(scene.database, scene.task, KILLED), lambda: scene.view)
    assert view["state"] == ("cancelled" if phase in UNENDED else phase)  # type: ignore[index]
    assert planning.plan(world.place, scene.task) == (0 if phase == "submitted" else 2)
    assert not world.rows("SELECT FROM jobs WHERE state <> ALL(%s)", list(ENDED))
    assert not world.rows("SELECT FROM attempts WHERE state IN ('claimed', 'running', 'reported')")


@pytest.mark.parametrize("phase", PHASES)
def test_a_paused_task_hands_out_nothing_until_it_is_resumed(world: World, phase: str) -> None:
    scene = Tasks(world, phase)
    view = twice(lambda: control.pause_task(scene.database, scene.task, PAUSED), lambda: scene.view)
    assert (view["state"], view["paused"]) == (scene.begun, phase in UNENDED)  # type: ignore[index]
    planning.plan(world.place, scene.task)
    other = world.pilot()
    assert take(world, other) == []
    with scene.database.transaction() as connection:
        assert not tally.any_open(connection)
    if phase == "running":
        for attempt in list(scene.pilot.holding):
            world.end(scene.pilot, attempt)
        assert completion.finish(scene.database, scene.task) is TaskState.DONE
        assert not scene.view["paused"]
    view = twice(lambda: control.resume_task(scene.database, scene.task, RESUMED), lambda: scene.view)
    assert not view["paused"]  # type: ignore[index]
    assert len(take(world, other)) == {"submitted": 2, "ready": 2, "merging": 1}.get(phase, 0)


@pytest.mark.parametrize("phase", PHASES)
def test_retry_of_a_task_runs_what_ended_without_success(world: World, phase: str) -> None:
    scene = Tasks(world, phase)
    if phase == "done":
        with pytest.raises(IllegalTransition, match="of which every job is done"):
            control.retry_task(scene.database, scene.task, AGAIN)
        return
    again = [control.retry_task(scene.database, scene.task, AGAIN).total for _ in range(2)]
    assert again == [2 if phase in ("failed", "cancelled") else 0, 0]
    assert scene.view["state"] == ("running" if phase in ("failed", "cancelled") else scene.begun)


@pytest.mark.parametrize("phase", PHASES)
def test_a_task_takes_all_its_jobs_to_its_new_priority(world: World, phase: str) -> None:
    scene = Tasks(world, phase)
    view = twice(lambda: control.set_task_priority(scene.database, scene.task, 9, PRIORITY), lambda: scene.view)
    wanted = 0 if phase == "done" else 9
    assert (view["state"], view["priority"]) == (scene.begun, wanted)  # type: ignore[index]
    planning.plan(world.place, scene.task)
    shown = views.job_page(scene.database, scene.task, state=None, stage="main", cursor=0, limit=9)["items"]
    # The main jobs of a task that merges are done.
    assert {job["priority"] for job in shown if job["state"] != "done"} <= {9}


# --- what orders come to


def test_a_higher_priority_is_taken_next_by_every_endpoint(world: World) -> None:
    first, second = world.submit(name="first"), world.submit(name="second")
    pilots = [world.pilot(), world.pilot()]
    for number, pilot in enumerate(pilots):
        world.exchange(pilot, endpoint=number)
    control.set_task_priority(world.database, second, 5, PRIORITY)
    # As the notification does in a running endpoint.
    world.announce()
    taken = [world.exchange(pilot, want=1, endpoint=number) for number, pilot in enumerate(pilots)]
    assert [answer.jobs[0].task_id for answer in taken if isinstance(answer, Answer)] == [second, first]


def test_a_pause_is_obeyed_by_an_endpoint_that_has_not_heard_of_it(world: World) -> None:
    task = world.submit(inputs={"jobs": 3})
    pilot = world.pilot()
    world.exchange(pilot, want=1)
    control.pause_task(world.database, task, PAUSED)
    answer = world.exchange(pilot, want=2)
    assert isinstance(answer, Answer)
    assert answer.jobs == ()


@pytest.mark.parametrize("priority", [0, 3, 5, 7])
def test_one_priority_for_a_task_joins_what_single_jobs_were_given(world: World, priority: int) -> None:
    task = world.submit(inputs={"jobs": 6})
    ids = [JobId(row["id"]) for row in world.rows("SELECT id FROM jobs ORDER BY id")]
    control.set_job_priority(world.database, ids[0], 5, PRIORITY)
    control.set_job_priority(world.database, ids[1], 7, PRIORITY)
    control.pause_job(world.database, ids[2], PAUSED)
    control.kill_job(world.database, ids[1], KILLED)
    for _ in range(2):
        control.set_task_priority(world.database, task, priority, PRIORITY)
        found = views.job_page(world.database, task, state=None, stage=None, cursor=0, limit=9)["items"]
        assert {job["priority"] for job in found} == {priority}
        assert [job["paused"] for job in found] == [False, False, True, False, False, False]
        assert counts(world.database, task) == {"ready": 5, "cancelled": 1}
    world.announce()
    with world.database.transaction() as connection:
        assert [ready for demand, ready, _ in demands.with_work(connection) if ready] == [4]


def test_a_priority_that_all_jobs_have_is_not_set_again(world: World) -> None:
    task = world.submit(inputs={"jobs": 1})
    (job,) = [JobId(row["id"]) for row in world.rows("SELECT id FROM jobs")]
    control.set_job_priority(world.database, job, 1, PRIORITY)
    for _ in range(2):
        control.set_task_priority(world.database, task, 0, PRIORITY)
    assert len(world.rows("SELECT FROM events WHERE reason_code = 'priority_set'")) == 2


def counts(database: Database, task: TaskId) -> dict[str, int]:
    return {state: n for state, n in views.task(database, task)["jobs"].items() if n and state != "total"}


def test_who_ordered_what_and_why_is_in_the_event_log(world: World) -> None:
    scene = Scene(world, "ready")
    control.pause_task(scene.database, scene.task, PAUSED)
    control.set_job_priority(scene.database, scene.job, 3, PRIORITY)
    found = world.rows(
        "SELECT kind, old_state, new_state, reason_code, reason_text FROM events WHERE old_state = new_state"
    )
    assert [tuple(row.values()) for row in found] == [
        ("task", "running", "running", "paused", "paused by ada: a test"),
        ("job", "ready", "ready", "priority_set", "given another priority by ada: a test"),
    ]
    assert ReasonCode.PAUSED in WHY

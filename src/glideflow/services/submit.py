# SPDX-License-Identifier: Apache-2.0
"""Accept a task: check everything that can be checked before anything is stored."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from glideflow.domain import placeholders
from glideflow.domain.chains import parents_within, storing_order
from glideflow.domain.identifiers import TaskId
from glideflow.domain.identity import Identity
from glideflow.domain.job import JobPlan
from glideflow.domain.site import Site
from glideflow.domain.splitting import Cursor, Extent, count_jobs, make_jobs, rule_of
from glideflow.domain.task import Submission, TaskSpec
from glideflow.errors import TaskFileError
from glideflow.services import chains, scouting, site_advice
from glideflow.services.orders import Input, command_of
from glideflow.services.storage import Storage, missing_sandboxes
from glideflow.store import files, inputs, jobs, outbox, tasks
from glideflow.store.engine import Connection, Database

_SHOWN_JOBS = 20


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where tasks are accepted."""

    database: Database
    storage: Storage
    sandboxes: Storage
    sites: Mapping[str, Site]
    max_jobs: int
    """Most jobs of one task."""
    ready_jobs: int = 20_000
    """Jobs of one task that are written ahead."""


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What a task would become."""

    jobs_total: int
    jobs: Sequence[Mapping[str, Any]]
    """The first ones."""
    warnings: Sequence[str]


def submit(place: Place, submission: Submission, identity: Identity) -> TaskId:
    """Store a task; see `submit_all`."""
    return submit_all(place, [submission], identity)[0]


def submit_all(place: Place, submissions: Sequence[Submission], identity: Identity) -> list[TaskId]:
    """Store tasks that belong together, all or none.

    Args:
        place: Where.
        submissions: The tasks with their resolved files.
        identity: Who submits them; their owner for ever.

    Returns:
        The new tasks' numbers. They are stored, and the flow runs of those that need not wait are asked for, in one
        transaction.

    Raises:
        TaskFileError: One of them cannot be run; nothing was stored.
    """
    _check(place, submissions, identity, uploaded=True)
    with place.database.transaction() as connection:
        stored = _store_all(connection, place, submissions, identity)
        starting = [
            one.task_id
            for one, submission in zip(stored, submissions, strict=True)
            if not one.waits and submission.flow_run_id is None
        ]
        outbox.put(connection, starting, "start")
    return [one.task_id for one in stored]


def preview(place: Place, submission: Submission, identity: Identity) -> Preview:
    """Return the jobs that a task would give, and store nothing; see `preview_all`."""
    return preview_all(place, [submission], identity)[0]


def preview_all(place: Place, submissions: Sequence[Submission], identity: Identity) -> list[Preview]:
    """Return the jobs that each of several tasks would give, and store nothing.

    Raises:
        TaskFileError: One of them cannot be run.
    """
    _check(place, submissions, identity, uploaded=False)
    advice = [advise(place, submission.spec, identity) for submission in submissions]
    with place.database.trial() as connection:
        stored = _store_all(connection, place, submissions, identity)
        found = [_preview(connection, place, one) for one in stored]
    return [replace(one, warnings=[*one.warnings, *more]) for one, more in zip(found, advice, strict=True)]


def advise(place: Place, spec: TaskSpec, identity: Identity) -> list[str]:
    """Return what a user should know of a task before it is stored: how long it will wait for the only site it names.

    Args:
        place: Where it will be stored.
        spec: The task.
        identity: Whose it will be.
    """
    if spec.site is None or spec.site not in place.sites:
        return []
    with place.database.snapshot() as connection:
        return list(site_advice.warnings(connection, place.sites, spec, identity))


@dataclass(frozen=True, kw_only=True)
class _Stored:
    """A task that was just stored."""

    task_id: TaskId
    spec: TaskSpec
    waits: bool
    extent: Extent | None
    """Its input; None where that is known only when what it waits for has ended."""


def _store_all(
    connection: Connection, place: Place, submissions: Sequence[Submission], identity: Identity
) -> list[_Stored]:
    """Store tasks in such an order that each comes after those that it waits for."""
    specs = [submission.spec for submission in submissions]
    within = parents_within(specs)
    stored: dict[str, _Stored] = {}
    for at in storing_order(specs, within):
        known = {name: one.task_id for name, one in stored.items()}
        try:
            spec, before = chains.resolve(connection, specs[at], known)
            before |= {stored[specs[parent].name].task_id for parent in within[at]}
            submission = submissions[at].model_copy(update={"spec": spec})
            stored[spec.name] = _store(connection, place, submission, identity, before)
        except TaskFileError as error:
            raise TaskFileError(_told_apart(specs, specs[at], error.problems)) from error
    return [stored[spec.name] for spec in specs]


def _told_apart(specs: Sequence[TaskSpec], spec: TaskSpec, problems: Iterable[str]) -> list[str]:
    """Return problems of a task, with its name where there are several."""
    return [f"task {spec.name}: {problem}" if len(specs) > 1 else problem for problem in problems]


def _store(
    connection: Connection, place: Place, submission: Submission, identity: Identity, before: set[TaskId]
) -> _Stored:
    """Store a task with its input files, and check that it can be split."""
    spec = submission.spec
    task_id = tasks.insert(connection, submission, owner=identity.subject, vo=identity.vo)
    waits = chains.join(connection, task_id, spec, before)
    if waits and spec.inputs.dataset is not None:
        return _Stored(task_id=task_id, spec=spec, waits=True, extent=None)
    if spec.inputs.dataset is None:
        inputs.insert(connection, task_id, submission.inputs)
    else:
        read_dataset(connection, task_id, spec, (file.name for file in submission.sandbox))
    extent = inputs.measure(connection, task_id)
    count_jobs(spec, extent, inputs.pieces(connection, task_id), place.max_jobs)
    return _Stored(task_id=task_id, spec=spec, waits=waits, extent=extent)


def _preview(connection: Connection, place: Place, stored: _Stored) -> Preview:
    task_id, spec, extent = stored.task_id, stored.spec, stored.extent
    if extent is None:
        text = f"{spec.name} waits; how it is split is known when its parents have written {spec.inputs.dataset}"
        return Preview(jobs_total=0, jobs=[], warnings=[*_warnings(spec), text])
    decision = scouting.unscouted(spec, extent)
    per_job = decision["decision"]["per_job"] if decision else 1
    total = count_jobs(spec, extent, inputs.pieces(connection, task_id), place.max_jobs, per_job)
    sent = scouting.plan_scouts(spec, extent, total, inputs.pieces(connection, task_id))
    plans: Iterable[JobPlan] = sent
    if sent and spec.split.target_wall_seconds is not None:
        total = len(sent)
    else:
        plans = make_jobs(rule_of(spec, extent, per_job), inputs.pieces(connection, task_id), Cursor())
    shown = [_shown(connection, task_id, spec, plan, total) for plan in islice(plans, _SHOWN_JOBS)]
    return Preview(jobs_total=total, jobs=shown, warnings=[*_warnings(spec), *_scout_warnings(spec, len(sent))])


def _shown(connection: Connection, task_id: TaskId, spec: TaskSpec, plan: JobPlan, total: int) -> dict[str, Any]:
    claim = {"task_id": 0, "stage": jobs.MAIN, "index": plan.index, "number": 1}
    known = tasks.inputs_at(connection, ((task_id, part.file) for part in plan.slices))
    pieces = [Input(file=known[task_id, part.file], part=part) for part in plan.slices]
    command, names = command_of(spec, claim, total, pieces)
    return {
        "index": plan.index,
        "inputs": [
            {"name": piece.file["name"], "first_event": piece.part.first_event, "events": piece.part.events}
            for piece in pieces
        ],
        "command": command,
        "outputs": list(names.values()),
    }


def _warnings(spec: TaskSpec) -> Iterator[str]:
    if not spec.outputs:
        yield "the task declares no outputs: what its jobs write is not kept, only their logs are"


def _scout_warnings(spec: TaskSpec, sent: int) -> Iterator[str]:
    if sent and spec.split.target_wall_seconds is not None:
        yield f"these are the {sent} scout jobs; how the rest is split is decided when they have ended"
    elif sent:
        yield f"the first {sent} are scout jobs; what the others ask for is decided when these have ended"
    elif spec.split.target_wall_seconds is not None:
        yield "there is too little input for scout jobs, so the target wall time is not used"


def _check(place: Place, submissions: Sequence[Submission], identity: Identity, *, uploaded: bool) -> None:
    """Collect every problem that needs no database, so that the user sees all at once.

    Args:
        place: Where tasks are accepted.
        submissions: The tasks.
        identity: Who submits them.
        uploaded: Whether their files must be there already.

    Raises:
        TaskFileError: There are some.
    """
    specs = [submission.spec for submission in submissions]
    problems = []
    for submission in submissions:
        found = [*_problems(place, submission, identity), *(_missing(place, submission) if uploaded else ())]
        problems += _told_apart(specs, submission.spec, found)
    if problems:
        raise TaskFileError(problems)


def _missing(place: Place, submission: Submission) -> Iterator[str]:
    """Name the files that were not uploaded."""
    for missing in missing_sandboxes(place.sandboxes, (file.sha256 for file in submission.sandbox)):
        names = [file.name for file in submission.sandbox if file.sha256 == missing]
        yield f"the sandbox file {names[0]} was not uploaded: submit again"
    for file in submission.inputs:
        path = file.url.removeprefix("/storage/")
        if file.url.startswith("/storage/") and place.storage.size(path) != file.size_bytes:
            yield f"the input file {file.name} was not uploaded completely: submit again"


def _problems(place: Place, submission: Submission, identity: Identity) -> list[str]:
    """Return what is wrong with a task whether or not its files were uploaded."""
    return [
        *placeholders.check(submission.spec),
        *site_advice.problems(place.sites, submission.spec, identity),
        *_name_problems(submission),
    ]


def _taken(spec: TaskSpec, sandbox: Iterable[str]) -> list[str]:
    """Return the names in a job's working folder that its input files must not have."""
    return ["job.json", *sandbox, *(output.file for output in spec.outputs.values())]


def _name_problems(submission: Submission) -> Iterator[str]:
    """Refuse files of which one would overwrite the other in a job's working folder."""
    taken = _taken(submission.spec, (file.name for file in submission.sandbox))
    names = Counter([*(file.name for file in submission.inputs), *taken])
    for name, count in names.items():
        if count > 1:
            yield f"{count} files of a job would be named {name}: inputs, sandbox and outputs need different names"


def read_dataset(connection: Connection, task_id: TaskId, spec: TaskSpec, sandbox: Iterable[str]) -> None:
    """Make the files that a dataset has now the input files of a task.

    Args:
        connection: The caller's transaction.
        task_id: The task.
        spec: Its definition.
        sandbox: Names of its sandbox files.

    Raises:
        TaskFileError: There is no such dataset, or no file in it.
    """
    name = str(spec.inputs.dataset)
    base, _, number = name.partition("@")
    found = inputs.insert_dataset(
        connection, task_id, base, TaskId(int(number)) if number else None, _taken(spec, sandbox)
    )
    if found is None:
        known = ", ".join(row["name"] for row in files.datasets(connection)[:20]) or "none yet"
        raise TaskFileError([f"key `inputs.dataset`: there is no dataset {base}; known are: {known}"])
    if not found:
        raise TaskFileError([f"key `inputs.dataset`: {name} has no files: see `glideflow datasets`"])

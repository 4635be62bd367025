# SPDX-License-Identifier: Apache-2.0
"""`glideflow explain`."""

from glideflow.cli.terminal import (
    AsJson,
    Columns,
    Flag,
    Json,
    connect,
    job_name,
    local_time,
    out,
    print_json,
    print_table,
    reason,
    say,
    state,
)


def end(row: Json) -> int | str | None:
    """Return an attempt's exit code, or the signal that ended it."""
    code: int | None = row["exit_code"]
    return code if row["signal"] is None else f"signal {row['signal']}"


ATTEMPT_COLUMNS: Columns = {
    "attempt": lambda row: row["number"],
    "state": state,
    "site": lambda row: row["site"],
    "node": lambda row: row["node"],
    "started": lambda row: local_time(row["started_at"]),
    "ended": lambda row: local_time(row["ended_at"]),
    "exit": end,
    "rule": lambda row: row["rule"],
    "reason": reason,
}


def explain(job: str, /, *, task: Flag = False, json: AsJson = False) -> None:
    """Say what a job or a task is waiting for, or why it ended.

    For example:

    * glideflow explain zpeak-generate.3
    * glideflow explain zpeak-analyse.merge
    * glideflow explain 4711
    * glideflow explain --task zpeak-generate

    Args:
        job: The job's id, or TASK.INDEX, or TASK.merge, where TASK is the task's id or name.
        task: Explain the task of this id or name: what it waits for, how it was split, why it ended.
        json: Print JSON.
    """
    with connect() as client:
        found = client.explain_task(job) if task else client.explain(job)
    if json:
        print_json(found)
        return
    console = out()
    if task:
        shown = found["task"]
        say(f"task {shown['id']} ({shown['name']}): {shown['state']}", console)
        for sentence in found["sentences"]:
            say(f"  {sentence}", console)
        return
    shown = found["job"]
    say(f"job {shown['id']}, {job_name(shown)} of task {shown['task_id']}: {shown['state']}", console)
    for sentence in found["sentences"]:
        say(f"  {sentence}", console)
    if found["attempts"]:
        console.print()
        print_table(found["attempts"], ATTEMPT_COLUMNS, empty="")

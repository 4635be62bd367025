# SPDX-License-Identifier: Apache-2.0
"""What a retry would do, as people read it."""

from glideflow.cli.listing import JOB_COLUMNS
from glideflow.cli.terminal import Columns, Json, counted, err, out, print_table, say

CHANGE_COLUMNS: Columns = {
    "key": lambda row: row["key"],
    "now": lambda row: _value(row["old"]),
    "then": lambda row: _value(row["new"]),
    "for": lambda row: counted(row["jobs"], "job") if "jobs" in row else "the task",
}


def show_plan(plan: Json) -> None:
    """Print what a retry would do.

    Args:
        plan: The endpoint's answer to a dry run.
    """
    console, task = out(), plan["task"]
    total = plan["total"] + plan["unwritten"]
    states = [f"{number:,} {state}" for state, number in sorted(plan["by_state"].items())]
    states += [f"{plan['unwritten']:,} not written yet"] if plan["unwritten"] else []
    named = f"{counted(total, 'job')} of task {task['id']} ({task['name']})"
    say(f"{named} would run again{': ' if states else ''}{', '.join(states)}", console)
    say(
        f"  {counted(plan['done'], 'job')} done, with {counted(plan['files'], 'file')}: these stay as they are", console
    )
    if plan["left"]:
        say(f"  {counted(plan['left'], 'failed or cancelled job')} would not run again", console)
    if plan["merge"] == "follows":
        say("  the merge step follows when they have ended", console)
    if plan["changes"]:
        console.print()
        print_table(plan["changes"], CHANGE_COLUMNS, empty="")
    if plan["jobs"]:
        console.print()
        print_table(plan["jobs"], JOB_COLUMNS, empty="")
    if len(plan["jobs"]) < plan["total"]:
        say(f"the first {len(plan['jobs'])} of them; --json has all numbers", err())
    say("nothing was changed: this was a dry run", err())


def _value(value: object) -> str:
    return counted(len(value), "rule") if isinstance(value, list) else str(value)

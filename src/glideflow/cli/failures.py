# SPDX-License-Identifier: Apache-2.0
"""`glideflow failures`."""

from typing import Annotated, Literal

from cyclopts import Parameter

from glideflow.cli.terminal import AsJson, Columns, Json, connect, counted, out, print_json, print_table, say

BAR_CHARACTERS = 24
DIMENSIONS: Columns = {
    "reason": lambda row: row["code"],
    "exit_code": lambda row: row["exit_code"],
    "site": lambda row: row["site"],
    "node": lambda row: row["node"],
}

Dimension = Literal["reason", "exit_code", "site", "node"]


def failures(
    task: str,
    /,
    *,
    by: Annotated[list[Dimension] | None, Parameter(negative=(), consume_multiple=True)] = None,
    json: AsJson = False,
) -> None:
    """Count the failed jobs of a task by reason, exit code and site.

    Each line has one job as an example, for `glideflow explain` and `glideflow log`.

    For example:

    * glideflow failures zpeak-generate
    * glideflow failures zpeak-generate --by node
    * glideflow failures 12 --by reason --by node --json

    Args:
        task: The task's id, or its name; of several with one name, the latest.
        by: What tells the lines apart: reason, exit_code, site, node; may be repeated. Without it, the first three.
        json: Print JSON.
    """
    with connect() as client:
        found = client.failures(task, by)
    if json:
        print_json(found)
        return
    shown = found["task"]
    say(f"task {shown['id']} ({shown['name']}) is {shown['state']}: {counted(found['failed'], 'failed job')}")
    if found["items"]:
        out().print()
        print_table(found["items"], _columns(found), empty="")


def _columns(found: Json) -> Columns:
    most = found["items"][0]["count"]
    return {
        "jobs": lambda row: row["count"],
        "": lambda row: bar(row["count"], most),
        **{name: DIMENSIONS[name] for name in found["by"]},
        "for example": lambda row: row["job_id"],
        "which says": lambda row: " ".join((row["text"] or "").split()),
    }


def bar(number: int, most: int) -> str:
    """Return a bar for a number.

    Args:
        number: From 1 to `most`.
        most: What gets the longest bar.
    """
    eighths = max(1, round(8 * BAR_CHARACTERS * number / most))
    return "\N{FULL BLOCK}" * (eighths // 8) + " \u258f\u258e\u258d\u258c\u258b\u258a\u2589"[eighths % 8].strip()

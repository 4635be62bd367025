# SPDX-License-Identifier: Apache-2.0
"""`glideflow shares`."""

from collections.abc import Iterator

from glideflow.cli.terminal import AsJson, Columns, Json, connect, err, print_json, print_table, say

SHARE_COLUMNS: Columns = {
    "vo, group, user": lambda row: row["shown"],
    "share": lambda row: f"{row['share']:g}",
    "may have": lambda row: None if row["target"] is None else f"{row['target']:.1%}",
    "has used": lambda row: f"{row['used']:.1%}",
    "core hours": lambda row: f"{row['core_seconds'] / 3600:,.1f}",
    "cores now": lambda row: row["cores"],
    "jobs running": lambda row: row["running"],
    "jobs ready": lambda row: row["ready"],
}


def shares(*, json: AsJson = False) -> None:
    """Show what VOs, groups and users may have, have used and hold.

    What somebody may have of the cores is worked out among those who have ready jobs; what was used counts half after
    the half-life.

    For example:

    * glideflow shares
    * glideflow shares --json

    Args:
        json: Print JSON.
    """
    with connect() as client:
        found = client.shares()
    if json:
        print_json(found)
        return
    print_table(list(_lines(found["items"], 0)), SHARE_COLUMNS, empty="nobody has used anything yet")
    for sentence in _sentences(found):
        say(sentence, err())


def _lines(nodes: list[Json], depth: int) -> Iterator[Json]:
    for node in nodes:
        yield {**node, "shown": "  " * depth + (node["name"] or "(no group)")}
        yield from _lines(node["items"], depth + 1)


def _sentences(found: Json) -> Iterator[str]:
    yield f"what was used counts half after {found['half_life_hours']:g} hours"
    if found["urgent_priority"] is not None:
        yield f"tasks of priority {found['urgent_priority']} or more go before all shares"
    limits = found["limits"]
    for key, whom in (("running_per_user", "user"), ("running_per_task", "task")):
        if limits[key] is not None:
            yield f"at most {limits[key]:,} jobs of one {whom} run at once"
    for user, most in limits["users"].items():
        yield f"at most {most:,} jobs of {user} run at once"

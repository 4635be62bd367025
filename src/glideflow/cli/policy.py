# SPDX-License-Identifier: Apache-2.0
"""`glideflow policy`."""

from collections.abc import Iterator

from rich.text import Text

from glideflow.cli.terminal import AsJson, Columns, Json, connect, print_json, print_table, say

_LISTS = {"reasons": "reason", "sources": "said by", "exit_codes": "exit code", "signals": "signal"}


def policy(task: str | None = None, /, *, json: AsJson = False) -> None:
    """Show the rules for failed jobs that are in force.

    The first active one that fits a failure decides: those of the task come first, then those of the site where the
    job failed, then the system's. `glideflow explain` says which one did.

    For example:

    * glideflow policy
    * glideflow policy zpeak-generate

    Args:
        task: The rules for this task: its id, or its name; without it, those of sites and system.
        json: Print JSON.
    """
    with connect() as client:
        found = client.policy(task)
    if json:
        print_json(found)
        return
    print_table(found["rules"], _columns(found["retries"]), empty="there are no rules: every failed job fails for good")
    if found["tolerance"]:
        say(f"the task ends as {found['tolerance']['end']} with {_limit(found['tolerance'])} failed")
    if found["system_file"]:
        say(f"the system's rules are those of {found['system_file']}")


def _columns(retries: int | None) -> Columns:
    return {
        "from": lambda row: _dimmed(row, row["origin"]),
        "rule": lambda row: _dimmed(row, row["name"] + ("" if row["active"] else " (inactive)")),
        "for": lambda row: _dimmed(row, "; ".join(_conditions(row.get("match", {}))) or "every failure"),
        "then": lambda row: _dimmed(row, ", ".join(_steps(row.get("retry"), retries))),
    }


def _dimmed(row: Json, text: str) -> Text:
    return Text(text, style="" if row["active"] else "dim")


def _conditions(match: Json) -> Iterator[str]:
    """Say in words which failures a rule is for."""
    for key, word in _LISTS.items():
        if key in match:
            yield f"{word} {', '.join(map(str, match[key]))}"
    if "text" in match:
        yield f"text has {match['text']}"


def _steps(retry: Json | None, retries: int | None) -> Iterator[str]:
    """Say in words what a rule does."""
    if retry is None:
        yield "fail at once"
        return
    yield _often(retry.get("times"), retries)
    yield _delay(retry)
    if "elsewhere" in retry:
        yield f"not on that {retry['elsewhere']}" if retry["elsewhere"] == "node" else "not at that site"
    if "memory_factor" in retry:
        yield f"with {retry['memory_factor']:g} times the memory up to {retry['max_memory_mb']} MB"
    if "wall_factor" in retry:
        yield f"with {retry['wall_factor']:g} times the run time up to {retry['max_wall_seconds']} s"


def _often(times: int | None, retries: int | None) -> str:
    if times is None:
        return "run again as often as `retries` says" + ("" if retries is None else f" ({retries})")
    return "run again once" if times == 1 else f"run again up to {times} times"


def _delay(retry: Json) -> str:
    first, factor = retry["delay_seconds"], retry["delay_factor"]
    if first == 0:
        return "at once"
    longest = retry.get("max_delay_seconds", max(first, 300))
    if factor == 1 or first == longest:
        return f"after {first:g} s"
    return f"after {first:g} s, then {factor:g} times as long, at most {longest:g} s"


def _limit(tolerance: Json) -> str:
    if "failed_percent" in tolerance:
        return f"up to {tolerance['failed_percent']:g} % of its jobs"
    return f"up to {tolerance['failed_jobs']} of its jobs"

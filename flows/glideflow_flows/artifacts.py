# SPDX-License-Identifier: Apache-2.0
"""What the Prefect UI shows of a task besides states: progress, jobs by site, failures, the result of the merge.

Each is one artifact per flow run, found again by its key and changed in place, whoever changes it: the flow while it
has a process, the reconciler while the flow is suspended.
"""

import base64
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate

from glideflow.domain.states import FINAL_JOBS, JobState
from glideflow_flows.outcome import count_line

DEFAULT_INSTANCE = "glideflow"
SHOWN_BYTES = 500_000
"""Of results; what is more is only named: the artifact travels through Prefect's database and into the browser."""
SHOWN_TEXT = 4_000
SHOWN_LINE = 400
SHOWN_FILES = 20
NO_SITE = "-"
"""What the endpoint calls the site of jobs that are at none yet."""
IMAGES = {".svg": "image/svg+xml", ".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}

Fetch = Callable[[Mapping[str, Any]], Path]


class Artifacts:
    """The artifacts of one flow run.

    Args:
        client: Client of the Prefect server.
        flow_run_id: The flow run that shows them.
        task_id: The task, for the keys.
        instance: Name of the glideflow instance; in the keys when it is not the default one.
    """

    def __init__(self, client: SyncPrefectClient, flow_run_id: UUID, task_id: int, instance: str) -> None:
        self._client = client
        self._flow_run_id = flow_run_id
        prefix = "" if instance == DEFAULT_INSTANCE else re.sub("[^a-z0-9]+", "-", instance.lower()).strip("-") + "-"
        self._prefix = f"{prefix}task-{task_id}"
        self._ids: dict[str, UUID] = {}
        self._shown: dict[str, tuple[Any, str]] = {}

    def put(self, name: str, kind: str, data: Any, description: str) -> None:
        """Create an artifact, or change it in place; nothing happens when it shows this already.

        Args:
            name: Last part of the key.
            kind: Prefect's artifact type: `progress`, `table`, `markdown` or `image`.
            data: What the type wants: a percentage, JSON text, Markdown or a URL.
            description: Markdown above it.
        """
        if self._shown.get(name) == (data, description):
            return
        found = self._ids.get(name) or self._find(name)
        if found is None:
            created = self._client.create_artifact(
                ArtifactCreate(
                    key=f"{self._prefix}-{name}",
                    type=kind,
                    data=data,
                    description=description,
                    flow_run_id=self._flow_run_id,
                )
            )
            found = created.id
        else:
            self._client.update_artifact(found, ArtifactUpdate(data=data, description=description))
        self._ids[name] = found
        self._shown[name] = (data, description)

    def _find(self, name: str) -> UUID | None:
        # Not read_artifacts(): it sends null for each filter that is left out, and the server refuses that.
        wanted = {"key": {"any_": [f"{self._prefix}-{name}"]}, "flow_run_id": {"any_": [str(self._flow_run_id)]}}
        answer = self._client.request("POST", "/artifacts/filter", json={"artifacts": wanted, "limit": 1})
        found = answer.json()
        return UUID(found[0]["id"]) if found else None

    def show_progress(self, progress: Mapping[str, Any]) -> None:
        """Bring progress, jobs by site and failures by reason up to date.

        Args:
            progress: The endpoint's progress of the task's present stage.
        """
        counts, total = progress["by_state"], progress["total"]
        ended = sum(n for state, n in counts.items() if state in FINAL_JOBS)
        self.put(
            "progress",
            "progress",
            round(100 * ended / total, 1) if total else 0.0,
            f"**{progress['task']['name']}**, {progress['task']['state']}: {count_line(counts | {'total': total})}",
        )
        if progress["by_site"]:
            self.put("sites", "table", json.dumps(site_table(progress["by_site"])), "Jobs by site and state")
        if progress["failures"]:
            self.put("failures", "table", json.dumps(failure_table(progress["failures"])), "Failed jobs by reason")

    def show_result(self, outputs: Sequence[Mapping[str, Any]], fetch: Fetch) -> None:
        """Show what the merge step made: pictures as pictures, JSON as a table or text, the rest by name.

        All in one Markdown artifact: an artifact of type image would show the picture's whole data URL below it.

        Args:
            outputs: The endpoint's outputs of the merge stage.
            fetch: Downloads one output and returns its path.
        """
        lines = ["| file | bytes | where |", "|---|---|---|"]
        lines += [f"| {_cell(o['file'])} | {o['size_bytes']} | `{o['url']}` |" for o in outputs[:SHOWN_FILES]]
        parts, left = ["\n".join(lines)], SHOWN_BYTES
        for output in outputs[:SHOWN_FILES]:
            kind = Path(output["file"]).suffix.lower()
            if output["size_bytes"] > left or kind not in {".json", *IMAGES}:
                continue
            left -= output["size_bytes"]
            content = fetch(output).read_bytes()
            if kind == ".json":
                parts.append(f"### {_cell(output['file'])}\n\n{json_markdown(content)}")
            else:
                parts.insert(0, f"![{_cell(output['name'])}]({data_url(content, IMAGES[kind])})")
        self.put("result", "markdown", "\n\n".join(parts), "Result of the merge")


def site_table(by_site: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one row per site, one column per state that occurs; jobs that are at no site yet come last."""
    seen = [state for state in JobState if any(row["states"].get(state) for row in by_site)]
    rows = sorted(by_site, key=lambda row: (row["site"] == NO_SITE, row["site"]))
    return [
        {"site": "(none yet)" if row["site"] == NO_SITE else row["site"]}
        | {str(state): row["states"].get(state, 0) for state in seen}
        for row in rows
    ]


def failure_table(failures: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one row per reason, the most frequent first, with its share of the failed jobs and one of them."""
    keys = ("count", "share", "code", "exit_code", "site", "job_id", "text")
    rows = sorted(failures, key=lambda row: -row["count"])[:100]
    shown = [{**row, "share": f"{100 * row['count'] / row['total']:.0f} %"} for row in rows]
    return [{key: "" if row.get(key) is None else row[key] for key in keys} for row in shown]


def json_markdown(content: bytes) -> str:
    """Show JSON as Markdown: the single values as a table, then the beginning of the text."""
    try:
        document = json.loads(content)
    except ValueError:
        return "This file is not valid JSON."
    parts = []
    if isinstance(document, dict):
        scalars = {k: v for k, v in document.items() if isinstance(v, str | int | float | bool)}
        rows = [f"| {_cell(key)} | {_cell(value)} |" for key, value in scalars.items()]
        parts += ["\n".join(["| name | value |", "|---|---|", *rows])] if rows else []
    return "\n\n".join([*parts, f"```json\n{_compact(document)}\n```"])


def _compact(document: object) -> str:
    """Write JSON with one line per top-level key, each cut, so that long lists do not fill the page."""
    if not isinstance(document, dict):
        return _cut(json.dumps(document), SHOWN_TEXT)
    lines = [f"  {json.dumps(key)}: {_cut(json.dumps(value), SHOWN_LINE)}" for key, value in document.items()]
    return _cut("\n".join(["{", *lines, "}"]), SHOWN_TEXT)


def _cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else text[:characters] + " ..."


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")[:200]


def data_url(content: bytes, media_type: str) -> str:
    """Return a picture as a URL that needs no server: the browser's page and the endpoint are different origins."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"

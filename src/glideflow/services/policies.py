# SPDX-License-Identifier: Apache-2.0
"""Which rules for failed jobs are in force, and where each comes from."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from glideflow.domain.failure_policy import Layer, rule_key
from glideflow.domain.failure_rules import FailurePolicy, Rule
from glideflow.domain.identifiers import TaskId
from glideflow.domain.site import Site
from glideflow.errors import NotFound
from glideflow.store import tasks
from glideflow.store.engine import Database

_RULES: TypeAdapter[list[Rule]] = TypeAdapter(FailurePolicy)


@dataclass(frozen=True, kw_only=True)
class Policies:
    """The rules that hold for all tasks."""

    sites: Mapping[str, Site]
    """The sites by name, with their rules and limits."""
    system: Sequence[Rule]
    """The system's rules."""
    system_file: Path | None = None
    """Where the system's rules are written."""

    def layers(self, task: Sequence[Rule], *sites: str | None) -> list[Layer]:
        """Return the rules for a job in the order in which they are asked.

        Args:
            task: The task's rules.
            sites: Where the job ran, or could run.
        """
        known = [self.sites[site] for site in sites if site is not None and site in self.sites]
        return [
            Layer(origin="task", rules=task),
            *(Layer(origin=f"site {site.name}", rules=site.failure_policy) for site in known),
            Layer(origin="system", rules=self.system),
        ]


@lru_cache(maxsize=256)
def rules_of(text: str | None) -> tuple[Rule, ...]:
    """Return a task's rules as they are stored with it, JSON."""
    return tuple(_RULES.validate_python(json.loads(text))) if text else ()


def rules_in_force(database: Database, policies: Policies, task_id: TaskId | None) -> dict[str, Any]:
    """Return the rules for the jobs of a task, or for those of a task without rules of its own.

    Raises:
        NotFound: There is no such task.
    """
    task = None
    if task_id is not None:
        with database.snapshot() as connection:
            task = tasks.get(connection, task_id)
        if task is None:
            raise NotFound("task", task_id, "see `glideflow tasks`")
    spec = task["spec"] if task else {}
    own = _RULES.validate_python(spec.get("failure_policy", []))
    sites = [spec["site"]] if spec.get("site") else list(policies.sites)
    return {
        "task": {"id": task["id"], "name": task["name"]} if task else None,
        "retries": spec.get("retries"),
        "tolerance": spec.get("tolerance"),
        "system_file": str(policies.system_file) if policies.system_file else None,
        "rules": [_shown(layer.origin, rule) for layer in policies.layers(own, *sites) for rule in layer.rules],
    }


def _shown(origin: str, rule: Rule) -> dict[str, Any]:
    return {"origin": origin, "key": rule_key(origin, rule), **rule.model_dump(mode="json", exclude_none=True)}

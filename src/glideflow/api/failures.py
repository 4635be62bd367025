# SPDX-License-Identifier: Apache-2.0
"""Routes about failed jobs: the rules in force, and what failed how often."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query

from glideflow.api.authentication import ContextOf, User
from glideflow.services import views
from glideflow.services.failures import histogram
from glideflow.services.policies import rules_in_force

router = APIRouter()

Dimension = Literal["reason", "exit_code", "site", "node"]


@router.get("/v1/policy", tags=["instance"])
def get_policy(context: ContextOf, user: User) -> dict[str, Any]:
    """Return the rules for failed jobs of sites and system."""
    return rules_in_force(context.database, context.policies, None)


@router.get("/v1/tasks/{task}/policy", tags=["tasks"])
def get_task_policy(context: ContextOf, user: User, task: str) -> dict[str, Any]:
    """Return the rules for failed jobs of a task, in the order in which they are asked."""
    return rules_in_force(context.database, context.policies, views.task_id_of(context.database, task))


@router.get("/v1/tasks/{task}/failures", tags=["tasks"])
def get_failures(
    context: ContextOf, user: User, task: str, by: Annotated[list[Dimension] | None, Query()] = None
) -> dict[str, Any]:
    """Count a task's failed jobs by reason, exit code, site or node."""
    return histogram(context.database, views.task_id_of(context.database, task), by)

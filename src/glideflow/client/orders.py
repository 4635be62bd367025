# SPDX-License-Identifier: Apache-2.0
"""What users order through the endpoint: each may be sent again and changes nothing then."""

from typing import Any, Literal

from glideflow.client.transport import api_path

Json = dict[str, Any]
_Kind = Literal["tasks", "jobs"]


class Orders:
    """The orders among the client's methods."""

    def _call(self, method: str, path: str, **arguments: Any) -> Json:
        """Send a request and return its JSON."""
        raise NotImplementedError

    def kill_task(self, task: int | str, reason: str | None = None) -> Json:
        """End a task and all its jobs."""
        return self._order("tasks", task, "kill", reason=reason)

    def kill_job(self, job: int | str, reason: str | None = None) -> Json:
        """End a job."""
        return self._order("jobs", job, "kill", reason=reason)

    def retry_task(self, task: int | str, reason: str | None = None, **more: Any) -> Json:
        """Run failed and cancelled jobs of a task again.

        Args:
            task: The task.
            reason: Why.
            more: `only`, a list of `failed`, `cancelled` and codes of reasons; `changes`, as the keys of a task;
                `dry_run`, to be told only what that means.
        """
        return self._order("tasks", task, "retry", reason=reason, **more)

    def retry_job(self, job: int | str, reason: str | None = None, **more: Any) -> Json:
        """Run a failed or cancelled job again, with `changes` or `dry_run` as for a task."""
        return self._order("jobs", job, "retry", reason=reason, **more)

    def pause_task(self, task: int | str, reason: str | None = None) -> Json:
        """Hand out no more jobs of a task."""
        return self._order("tasks", task, "pause", reason=reason)

    def pause_job(self, job: int | str, reason: str | None = None) -> Json:
        """Do not hand a job out."""
        return self._order("jobs", job, "pause", reason=reason)

    def resume_task(self, task: int | str, reason: str | None = None) -> Json:
        """Hand out the jobs of a paused task again."""
        return self._order("tasks", task, "resume", reason=reason)

    def resume_job(self, job: int | str, reason: str | None = None) -> Json:
        """Hand out a paused job again."""
        return self._order("jobs", job, "resume", reason=reason)

    def set_task_priority(self, task: int | str, priority: int, reason: str | None = None) -> Json:
        """Change the priority of a task and of its jobs."""
        return self._order("tasks", task, "priority", priority=priority, reason=reason)

    def set_job_priority(self, job: int | str, priority: int, reason: str | None = None) -> Json:
        """Change the priority of one job."""
        return self._order("jobs", job, "priority", priority=priority, reason=reason)

    def _order(self, kind: _Kind, name: int | str, order: str, **values: Any) -> Json:
        given = {key: value for key, value in values.items() if value is not None}
        # A name cannot break out of its part of the path.
        return self._call("POST", api_path(kind, name, order), json=given)

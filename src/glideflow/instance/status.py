# SPDX-License-Identifier: Apache-2.0
"""What the supervisor tells about an instance: one JSON file, replaced at each change."""

import json
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum

from glideflow.instance.home import Home, lock_holder, write_private


class InstanceState(StrEnum):
    """Where an instance is."""

    STOPPED = "stopped"
    """No supervisor runs."""
    STARTING = "starting"
    """Components are being started for the first time; it becomes running or failed."""
    RUNNING = "running"
    """All components worked; one that crashes is restarted."""
    STOPPING = "stopping"
    """The components are being ended; it becomes stopped."""
    FAILED = "failed"
    """A component could not be started; all others were ended, too."""


class ComponentState(StrEnum):
    """Where one component is."""

    WAITING = "waiting"
    """Starts when those before it work."""
    STARTING = "starting"
    """Has a process that does not answer yet."""
    READY = "ready"
    """Works."""
    DONE = "done"
    """Did its one thing at this start."""
    CRASHED = "crashed"
    """Its process ended or hung; it is started again after a pause."""
    STOPPED = "stopped"
    """Ended as asked."""


@dataclass(frozen=True, kw_only=True)
class ComponentStatus:
    """One component."""

    name: str
    """Its name."""
    state: ComponentState = ComponentState.WAITING
    """Where it is."""
    pid: int | None = None
    """Its process, which also leads the session of its children."""
    port: int | None = None
    """The port it listens on."""
    started_at: str | None = None
    """When its process was started, ISO 8601 UTC."""
    restarts: int = 0
    """How often it was started again since the instance was."""
    detail: str = ""
    """Why it is not ready, in words."""


@dataclass(frozen=True, kw_only=True)
class InstanceStatus:
    """The whole instance."""

    state: InstanceState
    """Where it is."""
    pid: int | None = None
    """The supervisor."""
    started_at: str | None = None
    """When the supervisor was started, ISO 8601 UTC."""
    message: str = ""
    """Why it failed, in words."""
    failed: str = ""
    """The component that failed."""
    components: list[ComponentStatus] = field(default_factory=list)
    """In the order of their start."""

    def is_up(self) -> bool:
        """Tell whether all components work."""
        fine = {ComponentState.READY, ComponentState.DONE}
        return self.state is InstanceState.RUNNING and all(part.state in fine for part in self.components)


def write_status(home: Home, status: InstanceStatus) -> None:
    """Replace the status file."""
    write_private(home.status_file, json.dumps(asdict(status), indent=1) + "\n")


def last_status(home: Home) -> InstanceStatus | None:
    """Return what the last supervisor wrote, be it alive or dead; None when there is nothing to read."""
    try:
        document = json.loads(home.status_file.read_text(encoding="utf-8"))
        parts = [
            ComponentStatus(**{**part, "state": ComponentState(part["state"])}) for part in document.pop("components")
        ]
        return InstanceStatus(**{**document, "state": InstanceState(document["state"]), "components": parts})
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def read_status(home: Home) -> InstanceStatus:
    """Return the status now: what a dead supervisor wrote does not count, except why it failed."""
    status = last_status(home)
    holder = lock_holder(home.supervisor_lock)
    if holder is None:
        failed = status is not None and status.state is InstanceState.FAILED
        return status if failed and status is not None else InstanceStatus(state=InstanceState.STOPPED)
    if status is None or status.pid != holder:
        return InstanceStatus(state=InstanceState.STARTING, pid=holder or None)
    return replace(status, pid=holder)

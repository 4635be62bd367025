# SPDX-License-Identifier: Apache-2.0
"""glideflow as a Prefect plugin: run tasks on HTCondor as flows.

`from glideflow_flows import run_task` is all that a flow of your own needs. The package is registered under
`prefect.collections`, so that Prefect imports it whenever it looks for plugins: nothing heavy happens until a name
is asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from glideflow_flows.outcome import OutputFile, TaskFailed, TaskResult
    from glideflow_flows.task_flow import run_task

__all__ = ["OutputFile", "TaskFailed", "TaskResult", "run_task"]

_HOMES = {
    "OutputFile": "glideflow_flows.outcome",
    "TaskFailed": "glideflow_flows.outcome",
    "TaskResult": "glideflow_flows.outcome",
    "run_task": "glideflow_flows.task_flow",
}


def __getattr__(name: str) -> object:
    """Import an exported name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)

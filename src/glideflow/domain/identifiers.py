# SPDX-License-Identifier: Apache-2.0
"""Distinct types for the identifiers, so that a job is never taken for a task."""

from typing import NewType

TaskId = NewType("TaskId", int)
JobId = NewType("JobId", int)
AttemptId = NewType("AttemptId", int)
DemandId = NewType("DemandId", int)
PilotId = NewType("PilotId", str)
"""A random string, chosen before the pilot is submitted, so that HTCondor's job can carry it."""

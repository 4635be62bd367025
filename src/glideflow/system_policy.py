# SPDX-License-Identifier: Apache-2.0
"""The system's failure policy: that of the home or of the setting, else the one that comes with glideflow."""

from dataclasses import dataclass
from pathlib import Path

from glideflow.configuration import read_configuration
from glideflow.domain.failure_rules import FailurePolicy, Rule
from glideflow.domain.model import Model
from glideflow.errors import SettingsError
from glideflow.resources import resource_dir
from glideflow.settings import Settings

POLICY_FILE = "failure_policy.yaml"
BEGINNING = "expected `failure_policy:` followed by a list of rules; see config/failure_policy.yaml"


class PolicyFile(Model):
    """What such a file holds."""

    failure_policy: FailurePolicy
    """Rules for failed jobs, in their order."""


@dataclass(frozen=True)
class SystemPolicy:
    """The rules that hold for every job, after those of its task and of its site."""

    rules: tuple[Rule, ...]
    path: Path
    """Where they are written."""


def load_system_policy(settings: Settings) -> SystemPolicy:
    """Read the system's failure policy.

    Args:
        settings: The instance's settings.

    Raises:
        SettingsError: The file cannot be used; the message names file, line, key and what is allowed.
    """
    named = settings.failure_policy_file
    if named is not None and not named.exists():
        raise SettingsError(
            f"the failure policy {named} does not exist: correct the setting `failure_policy_file`, or leave it out"
        )
    own = settings.home / POLICY_FILE
    path = named or (own if own.exists() else resource_dir("config") / POLICY_FILE)
    found = read_configuration(path, BEGINNING).part(PolicyFile)
    return SystemPolicy(tuple(found.failure_policy), path)

# SPDX-License-Identifier: Apache-2.0
"""The system's failure policy: which file counts, and what is wrong with it."""

from pathlib import Path

import pytest

from glideflow.domain.reasons import ReasonCode
from glideflow.errors import SettingsError
from glideflow.resources import resource_dir
from glideflow.settings import load_settings
from glideflow.system_policy import load_system_policy

OWN = "failure_policy:\n  - name: never\n    fail: true\n"


def test_without_a_file_the_one_of_the_package_holds(tmp_path: Path) -> None:
    found = load_system_policy(load_settings(tmp_path))
    assert [rule.name for rule in found.rules] == ["wall-time", "output-too-large", "pilot", "any-failure"]
    assert found.path == resource_dir("config") / "failure_policy.yaml"


def test_the_last_rule_of_the_package_is_for_every_failure(tmp_path: Path) -> None:
    last = load_system_policy(load_settings(tmp_path)).rules[-1]
    assert last.match.model_dump(exclude_none=True) == {}
    assert last.retry is not None
    assert last.retry.times is None


def test_the_file_of_the_home_takes_its_place_and_that_of_the_setting_the_homes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "failure_policy.yaml").write_text(OWN)
    assert [rule.name for rule in load_system_policy(load_settings(tmp_path)).rules] == ["never"]
    (tmp_path / "other.yaml").write_text(OWN.replace("never", "other"))
    monkeypatch.setenv("GLIDEFLOW_FAILURE_POLICY_FILE", str(tmp_path / "other.yaml"))
    assert [rule.name for rule in load_system_policy(load_settings(tmp_path)).rules] == ["other"]


def test_a_named_file_that_is_missing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIDEFLOW_FAILURE_POLICY_FILE", str(tmp_path / "none.yaml"))
    with pytest.raises(SettingsError, match="does not exist: correct the setting `failure_policy_file`"):
        load_system_policy(load_settings(tmp_path))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is empty; expected `failure_policy:` followed by a list of rules"),
        ("rules: []\n", "line 1: key `rules`: unknown; allowed: `failure_policy`"),
        (OWN + "    mach: {}\n", "line 4: key `failure_policy[0].mach`: unknown; did you mean `match`? allowed: "),
        (OWN + "    match: {reason: [killed]}\n", "`failure_policy[0].match.reason`: unknown; did you mean `reasons`?"),
        (
            OWN + "  - name: never\n    fail: true\n",
            "key `failure_policy`: two rules have the name `never`: rename one",
        ),
        (OWN + "    match:\n      text: '('\n", "line 5: key `failure_policy[0].match.text`: must be a regular "),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "failure_policy.yaml").write_text(text)
    with pytest.raises(SettingsError) as caught:
        load_system_policy(load_settings(tmp_path))
    assert sentence in str(caught.value)


def test_every_reason_that_the_package_names_exists(tmp_path: Path) -> None:
    for rule in load_system_policy(load_settings(tmp_path)).rules:
        assert set(rule.match.reasons or []) <= set(ReasonCode)

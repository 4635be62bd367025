# SPDX-License-Identifier: Apache-2.0
"""The sites file: read, or refused with its line."""

from pathlib import Path

import pytest

from glideflow.errors import SettingsError
from glideflow.resources import resource_dir
from glideflow.settings import load_settings
from glideflow.sites import load_sites


def write(tmp_path: Path, text: str) -> Path:
    (tmp_path / "sites.yaml").write_text(text, encoding="utf-8")
    return tmp_path


def test_without_a_file_there_is_one_local_site_of_the_chosen_kind(tmp_path: Path) -> None:
    settings = load_settings(tmp_path)
    assert load_sites(settings)["local"].launcher == "htcondor"
    site = load_sites(settings, "local", 3)["local"]
    assert (site.launcher, site.max_pilots) == ("local", 3)


def test_the_example_is_a_good_file(tmp_path: Path) -> None:
    text = (resource_dir("config") / "sites.example.yaml").read_text(encoding="utf-8")
    assert list(load_sites(load_settings(write(tmp_path, text)))) == ["local"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "sites:\n  - name: a\n    max_pilot: 3\n",
            "line 3: key `sites[0].max_pilot`: unknown; did you mean `max_pilots`? allowed: `name`, ",
        ),
        (
            "sites:\n  - name: a\n    cores: many\n",
            'line 3: key `sites[0].cores`: must be a whole number, not "many"',
        ),
        ("sites:\n  - name: a\n  - name: a\n", "line 3: key `sites[1].name`: there are two sites named a"),
        ("sites:\n  - just text\n", "line 2: key `sites[0]`: must be a mapping with the keys `name`, "),
        ("sites:\n  - cores: 2\n", "line 2: key `sites[0].name`: missing; write for example "),
        ("sites: []\n", "the list of sites is empty"),
        ("sites:\n", "expected `sites:`"),
        ("pilots: 3\n", "expected `sites:`"),
        ("sites: [\n", "is not valid YAML"),
        ("sites:\n  - name: a\n    failure_policy: [{name: x, retries: 2}]\n", "did you mean `retry`? allowed: `name`"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_sites(load_settings(write(tmp_path, text)))
    assert sentence in str(caught.value)


def test_a_named_file_that_is_missing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIDEFLOW_SITES_FILE", str(tmp_path / "none.yaml"))
    with pytest.raises(SettingsError, match="does not exist"):
        load_sites(load_settings(tmp_path))

# SPDX-License-Identifier: Apache-2.0
"""What may stand in a submit description, and what may not."""

from pathlib import Path

import pytest

from glideflow.condor.errors import SubmissionRefused
from glideflow.condor.templates import checked, item, render
from glideflow.domain.site import Site
from glideflow.errors import SettingsError

ARCHIVE = Path("/opt/glideflow/pilot.pyz")
CA_FILE = Path("/home/grid/.glideflow/ca/ca.pem")


def described(site: Site) -> dict[str, str]:
    """The rendered description as a mapping."""
    text = render(site, instance="prod-1", archive=ARCHIVE, ca_file=CA_FILE)
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in lines)}


def test_the_site_sets_size_time_and_names() -> None:
    site = Site(name="T2_DE", cores=8, memory_mb=16_000, disk_mb=40_000, wall_seconds=7200, vacate_seconds=30)
    lines = described(site)
    assert lines["executable"] == str(ARCHIVE)
    assert lines["request_cpus"] == "8"
    assert lines["request_memory"] == "16000M"
    assert lines["request_disk"] == "40000M"
    assert lines["allowed_execute_duration"] == "7200"
    assert lines["job_max_vacate_time"] == "30"
    assert lines["want_graceful_removal"] == "True"
    assert lines["batch_name"] == "glideflow-prod-1-T2_DE"
    assert lines["MY.GlideflowSite"] == '"T2_DE"'
    assert lines["MY.GlideflowInstance"] == '"prod-1"'
    assert lines["MY.GlideflowPilotId"] == '"$(pilot_id)"'
    assert "JobStatus == 2 && time() - EnteredCurrentStatus > 50400" in lines["periodic_remove"]
    assert "HoldReasonCode =!= 16" in lines["periodic_remove"]


def test_the_arguments_are_those_of_the_pilot_and_hold_no_secret() -> None:
    lines = described(Site(name="local", cores=2, memory_mb=3000, disk_mb=5000, wall_seconds=600))
    assert lines["arguments"] == (
        "--server $(pilot_server) --pilot-id $(pilot_id) --site local --ca ca.pem --secret-file secret "
        "--cores 2 --memory-mb 3000 --disk-mb 5000 --wall-seconds 600"
    )
    assert lines["transfer_input_files"] == f"$(pilot_folder)/secret, {CA_FILE}"
    assert "environment" not in lines


def test_nothing_in_the_description_makes_pilots_differ_for_the_negotiator() -> None:
    lines = described(Site(name="local"))
    assert not {"requirements", "rank"} & {key.lower() for key in lines}


def test_pilots_differ_in_id_folder_and_server_only() -> None:
    data = item(pilot_id="p1", folder=Path("/home/grid/pilots/p1"), server_url="https://[::1]:8443")
    assert data == {"pilot_id": "p1", "pilot_folder": "/home/grid/pilots/p1", "pilot_server": "https://[::1]:8443"}


@pytest.mark.parametrize(
    "text",
    [
        "5\nrequest_cpus = 99",
        "a\rb",
        "a\x00b",
        "$ENV(HOME)",
        "$(ClusterId)",
        "$$(OpSys)",
        "$Fp(x)",
        'a" || true',
        "a b",
        "a,b",
        "a;b",
        "a\u2028b",
    ],
)
@pytest.mark.parametrize("key", ["site", "pilot_id", "pilot_folder", "pilot_server"])
def test_a_value_that_would_be_more_than_a_value_is_refused(key: str, text: str) -> None:
    prefix = {"pilot_folder": "/srv/", "pilot_server": "https://h/"}.get(key, "")
    with pytest.raises(SubmissionRefused, match="cannot stand in a submit description"):
        checked(key, prefix + text)


@pytest.mark.parametrize("key", ["site", "pilot_id", "pilot_folder", "pilot_server", "cores"])
def test_an_empty_value_is_refused(key: str) -> None:
    with pytest.raises(SubmissionRefused):
        checked(key, "")


def test_a_trailing_newline_is_refused_too() -> None:
    with pytest.raises(SubmissionRefused):
        checked("site", "local\n")


def test_an_unknown_value_is_refused() -> None:
    with pytest.raises(SubmissionRefused, match="no value argumants"):
        checked("argumants", "x")


def test_an_unknown_template_names_the_known_ones() -> None:
    with pytest.raises(SettingsError, match=r"no template nosuch\.j2 .*pilot\.sub\.j2"):
        described(Site(name="local", template="nosuch.j2"))


def test_a_template_outside_the_folder_is_not_found() -> None:
    with pytest.raises(SettingsError, match="no template"):
        described(Site(name="local", template="../pyproject.toml"))

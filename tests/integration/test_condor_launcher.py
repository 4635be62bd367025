# SPDX-License-Identifier: Apache-2.0
"""Pilots as jobs of the real pool. The pilot here is a script: what is tested is the way to the slot and back."""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from glideflow.condor.gateway import Gateway
from glideflow.condor.launcher import HTCondorLauncher
from glideflow.condor.private_pool import PrivatePool
from glideflow.domain.identifiers import PilotId
from glideflow.domain.site import Site
from glideflow.errors import CondorError, SettingsError
from glideflow.instance.home import Home
from glideflow.launching.launcher import LaunchedPilot, LaunchStatus, PilotLaunch
from glideflow.launching.processes import wait_until
from glideflow.settings import Settings

pytestmark = pytest.mark.pool

SECONDS = 60.0
SECRET = "s3cret-of-a-test"
PRELUDE = "#!/usr/bin/env python3\nimport os, signal, sys, time\n"
PATIENT = "print(sys.argv[1:], sorted(os.listdir()), flush=True)\ntime.sleep(300)"
CRASHING = (
    "print('argv', sys.argv[1:])\nprint('secret', open('secret').read().strip() == 's3cret-of-a-test', "
    "oct(os.stat('secret').st_mode & 0o77))\nsys.exit('this node is no good')"
)

_numbers = itertools.count(1)
Make = Callable[[str], HTCondorLauncher]


@pytest.fixture
def site(pool: tuple[Settings, Home]) -> Iterator[Site]:
    """A site of the test's own; its pilots are removed at the end."""
    site = Site(name=f"test{next(_numbers)}-{time.time_ns()}", memory_mb=100, disk_mb=10, vacate_seconds=2)
    yield site
    launcher = HTCondorLauncher(*pool)
    launcher.remove(site, list(launcher.poll(site)), "end of test")
    launcher.close()


@pytest.fixture(params=["handed over", "spooled"])
def make(pool: tuple[Settings, Home], tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Make]:
    """Return a launcher whose pilot is the given program.

    Its files go into the private pool directly, or through the schedd as for a pool elsewhere.
    """
    settings = pool[0].model_copy(update={"ca_file": tmp_path / "ca.pem"})
    home = Home(settings)
    home.ca_file.write_text("not a certificate\n")
    launchers: list[HTCondorLauncher] = []

    def launcher(program: str) -> HTCondorLauncher:
        archive = tmp_path / "pilot.pyz"
        archive.write_text(PRELUDE + program + "\n")
        archive.chmod(0o755)
        gateway = Gateway.of(settings, home) if request.param == "spooled" else None
        launchers.append(HTCondorLauncher(settings, home, gateway=gateway, archive=lambda: archive))
        return launchers[-1]

    yield launcher
    for opened in launchers:
        opened.close()


def pilots(site: Site, count: int) -> list[PilotLaunch]:
    """New pilots."""
    names = [PilotId(f"{site.name}-p{number}") for number in range(count)]
    return [PilotLaunch(pilot_id=name, secret=SECRET, server_url="https://127.0.0.1:8443") for name in names]


def statuses(found: Sequence[LaunchedPilot]) -> set[LaunchStatus]:
    """The different statuses."""
    return {pilot.status for pilot in found}


def all_are(launcher: HTCondorLauncher, site: Site, status: LaunchStatus) -> Callable[[], bool]:
    """A condition for `wait_until`."""
    return lambda: statuses(list(launcher.poll(site).values())) == {status}


def test_pilots_go_as_one_cluster_and_run_within_seconds(make: Make, site: Site, pool: tuple[Settings, Home]) -> None:
    launcher = make(PATIENT)
    started = launcher.launch(site, pilots(site, 3))
    clusters = {batch_id.split(".")[0] for batch_id in started.values()}
    assert len(clusters) == 1
    assert len(set(started.values())) == 3
    # Spooling shows as held at HTCondor; here it is queued.
    assert LaunchStatus.HELD not in statuses(list(launcher.poll(site).values()))
    assert wait_until(all_are(launcher, site, LaunchStatus.RUNNING), SECONDS)
    assert {name: pilot.batch_id for name, pilot in launcher.poll(site).items()} == dict(started)
    names = PrivatePool(*pool).run(["condor_q", *clusters, "-af", "JobBatchName", "GlideflowSite", "GlideflowInstance"])
    assert set(names.splitlines()) == {f"glideflow-{site.name} {site.name} glideflow"}


def test_the_secret_is_in_no_ad_and_no_longer_in_the_home_after_submission(
    make: Make, site: Site, pool: tuple[Settings, Home]
) -> None:
    launcher = make(PATIENT)
    launcher.launch(site, pilots(site, 1))
    with Gateway.of(*pool) as gateway:
        ads = gateway.query(f'GlideflowSite == "{site.name}"', [])
    assert len(ads) == 1
    assert SECRET not in str(ads)
    assert not (pool[1].pilots / f"{site.name}-p0").exists()


def test_a_crashed_pilot_is_held_its_output_fetched_and_the_job_removed(
    make: Make, site: Site, pool: tuple[Settings, Home]
) -> None:
    launcher = make(CRASHING)
    launcher.launch(site, pilots(site, 1))
    assert wait_until(all_are(launcher, site, LaunchStatus.HELD), SECONDS)
    (held,) = launcher.poll(site).values()
    assert (held.hold_code, held.hold_subcode) == (3, 42)
    (settled,) = launcher.settle(site)
    assert settled.removed
    assert "could not start or crashed" in settled.text
    assert settled.output is not None
    assert (settled.output / "pilot.err").read_text().strip() == "this node is no good"
    words = (settled.output / "pilot.out").read_text()
    assert "secret True 0o0" in words
    assert "'--ca', 'ca.pem', '--secret-file', 'secret', '--cores', '1'" in words
    assert wait_until(lambda: not launcher.poll(site), SECONDS)
    assert not launcher.settle(site)


def test_a_pilot_that_ended_well_leaves_the_queue_by_itself(make: Make, site: Site) -> None:
    launcher = make("pass")
    launcher.launch(site, pilots(site, 2))
    assert wait_until(lambda: not launcher.poll(site), SECONDS)


def test_a_removed_pilot_gets_term_and_time_to_say_good_bye(make: Make, site: Site, tmp_path: Path) -> None:
    launcher = make(PATIENT)
    launcher.launch(site, pilots(site, 2))
    assert wait_until(all_are(launcher, site, LaunchStatus.RUNNING), SECONDS)
    first, second = (pilot.pilot_id for pilot in pilots(site, 2))
    launcher.remove(site, [first, PilotId("never-there")], "not needed")
    assert wait_until(lambda: set(launcher.poll(site)) == {second}, SECONDS)


def test_pilots_of_another_instance_are_neither_seen_nor_removed(
    make: Make, site: Site, pool: tuple[Settings, Home]
) -> None:
    launcher = make(PATIENT)
    launcher.launch(site, pilots(site, 1))
    settings, home = pool
    other = HTCondorLauncher(settings.model_copy(update={"instance": "other"}), home)
    assert not other.poll(site)
    other.remove(site, [pilot.pilot_id for pilot in pilots(site, 1)], "not ours")
    other.close()
    assert len(launcher.poll(site)) == 1


def test_a_hold_by_hand_is_settled_by_removal(make: Make, site: Site, pool: tuple[Settings, Home]) -> None:
    launcher = make(PATIENT)
    launcher.launch(site, pilots(site, 1))
    assert wait_until(all_are(launcher, site, LaunchStatus.RUNNING), SECONDS)
    with Gateway.of(*pool) as gateway:
        gateway.hold([pilot.batch_id for pilot in launcher.poll(site).values()], "for a test")
    assert wait_until(all_are(launcher, site, LaunchStatus.HELD), SECONDS)
    (settled,) = launcher.settle(site)
    assert "somebody held it" in settled.text
    assert wait_until(lambda: not launcher.poll(site), SECONDS)


def test_what_was_handed_over_is_private_and_gone_after_the_pilot(
    site: Site, pool: tuple[Settings, Home], tmp_path: Path
) -> None:
    settings = pool[0].model_copy(update={"ca_file": tmp_path / "ca.pem"})
    home = Home(settings)
    home.ca_file.write_text("not a certificate\n")
    private = PrivatePool(settings, home)
    launcher = HTCondorLauncher(settings, home)
    (pilot,) = pilots(site, 1)
    # More memory than the pool has: it stays in the queue.
    launcher.launch(site.model_copy(update={"memory_mb": 10**7}), [pilot])
    folder = f"handover/{pilot.pilot_id}"
    assert private.run(["stat", "-c", "%a %U", f"{folder}/secret"]).strip() == "600 pilot"
    launcher.settle(site)
    assert private.run(["ls", folder]).split()[-1] == "secret"
    launcher.remove(site, [pilot.pilot_id], "end of test")
    assert wait_until(lambda: not launcher.poll(site), SECONDS)
    launcher.settle(site)
    assert pilot.pilot_id not in private.run(["ls", "handover"])
    launcher.close()


def test_a_value_that_is_no_value_submits_nothing(make: Make, site: Site) -> None:
    launcher = make(PATIENT)
    bad = PilotLaunch(pilot_id=PilotId("p1"), secret=SECRET, server_url="https://h/\nrequest_cpus = 99")
    with pytest.raises(CondorError, match="pilot_server"):
        launcher.launch(site, [bad])
    assert not launcher.poll(site)


def test_without_a_certificate_nothing_is_submitted(site: Site, pool: tuple[Settings, Home], tmp_path: Path) -> None:
    settings, _ = pool
    elsewhere = Home(settings.model_copy(update={"ca_file": tmp_path / "none.pem"}))
    launcher = HTCondorLauncher(settings, elsewhere)
    with pytest.raises(SettingsError, match=r"none\.pem is missing"):
        launcher.launch(site, pilots(site, 1))
    launcher.close()


def test_nothing_to_launch_asks_nobody(pool: tuple[Settings, Home], site: Site) -> None:
    assert HTCondorLauncher(*pool).launch(site, []) == {}

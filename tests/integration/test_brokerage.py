# SPDX-License-Identifier: Apache-2.0
"""Sites chosen for demands on a real PostgreSQL: when they are planned, when sites change, and what users are told."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from glideflow.domain.demand import Leaf
from glideflow.domain.identifiers import DemandId, JobId, PilotId, TaskId
from glideflow.domain.identity import Identity
from glideflow.domain.matching import Offer
from glideflow.domain.shares import ShareConfig
from glideflow.domain.site import Site
from glideflow.domain.task import Submission, TaskSpec
from glideflow.errors import CondorError, TaskFileError
from glideflow.launching.launcher import LaunchStatus
from glideflow.services import planning
from glideflow.services.board import Board
from glideflow.services.brokerage import broker_all
from glideflow.services.claims import claim_jobs
from glideflow.services.explain import explain
from glideflow.services.policies import Policies
from glideflow.services.provisioning import Provisioner
from glideflow.services.share_views import share_page
from glideflow.services.site_states import states
from glideflow.services.storage import Storage
from glideflow.services.submit import Place, advise, preview, submit
from glideflow.store import demands, jobs, pilots, usage
from glideflow.store.engine import Database
from glideflow.testing.fake_launcher import FakeLauncher

EQUAL = ShareConfig()
ADA = Identity(method="test", subject="ada", vo="atlas")
Sites = dict[str, Site]
_pilots = itertools.count(1)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = Database(database_url, connections=3)
    yield opened
    opened.close()


def sites(**fields: dict[str, Any]) -> Sites:
    """Sites by name, with the fields that differ from the usual ones."""
    return {name: Site.model_validate({"name": name, **more}) for name, more in fields.items()}


class World:
    """Sites, and tasks for them."""

    def __init__(self, database: Database, folder: Path, chosen: Sites) -> None:
        self.database = database
        self.place = Place(
            database=database, storage=Storage(folder / "s"), sandboxes=Storage(folder / "x"), sites=chosen,
            max_jobs=1000,
        )  # fmt: skip
        self.launchers = {name: FakeLauncher() for name in chosen}

    def reconfigure(self, **fields: dict[str, Any]) -> None:
        """Start with another sites file."""
        self.place = Place(**{**vars(self.place), "sites": sites(**fields)})

    def spec(self, **more: object) -> TaskSpec:
        document = {"schema_version": 1, "name": "demo", "command": "true", "inputs": {"jobs": 2}, **more}
        return TaskSpec.model_validate(document)

    def add(self, files: Sequence[dict[str, Any]] = (), **more: object) -> TaskId:
        if files:
            more["inputs"] = {"files": [file["url"] for file in files]}
        submission = Submission.model_validate({"spec": self.spec(**more), "inputs": list(files)})
        task_id = submit(self.place, submission, ADA)
        planning.plan(self.place, task_id)
        return task_id

    def cycle(self) -> dict[str, int]:
        """One cycle of the factory: pilots sent to each site."""
        policies = Policies(sites=self.place.sites, system=())
        provisioner = Provisioner(
            self.database, self.place.sites, policies, self.launchers, "https://localhost:1", start_seconds=600
        )
        return {name: decision.n for name, decision in provisioner.cycle().items()}

    def brokerage(self, task_id: TaskId) -> dict[str, Any]:
        with self.database.transaction() as connection:
            (row,) = demands.of_task(connection, task_id)
        return row

    def said(self, task_id: TaskId) -> dict[str, str]:
        """Each site's code, in the order of the ranks."""
        return {said["site"]: said["code"] for said in self.brokerage(task_id)["brokerage"]}

    def used(self, leaf: Leaf, core_seconds: float) -> None:
        with self.database.transaction() as connection:
            usage.save(connection, {leaf: core_seconds})

    def explained(self, task_id: TaskId) -> str:
        with self.database.transaction() as connection:
            job = jobs.at_index(connection, task_id, jobs.MAIN, 0)
        assert job is not None
        return "\n".join(explain(self.database, EQUAL, JobId(job["id"]), datetime.now(UTC))["sentences"])

    def claim(self, site: str, number: int, board: Board | None = None) -> list[dict[str, Any]]:
        """Let a pilot of a site take jobs."""
        pilot = PilotId(f"pilot-{next(_pilots)}")
        offer = Offer(
            pilot_id=pilot, site=site, node="n", want=number, cores=64, memory_mb=10**6, disk_mb=10**6, seconds=90000
        )  # fmt: skip
        with self.database.transaction() as connection:
            pilots.plan(connection, site, {pilot: ""})
            return claim_jobs(connection, board or Board(EQUAL), [offer])


@pytest.fixture
def world(database: Database, tmp_path: Path) -> Callable[..., World]:
    return lambda **fields: World(database, tmp_path, sites(**fields))


Make = Callable[..., World]


def test_sites_are_chosen_with_the_planning_and_the_others_say_why_not(world: Make) -> None:
    made = world(big={"cores": 8, "memory_mb": 16000}, small={}, cms={"vos": ["cms"]}, down={"status": "drain"})
    task = made.add(resources={"cores": 2})
    assert made.brokerage(task)["sites"] == ["big"]
    assert made.said(task) == {
        "big": "site_chosen",
        "small": "site_too_small",
        "cms": "site_no_access",
        "down": "site_too_small",
    }
    assert made.claim("small", 1) == []
    assert len(made.claim("big", 1)) == 1


def test_what_a_task_requires_decides(world: Make) -> None:
    made = world(plain={}, rich={"provides": ["root-6.32", "gpu"]})
    assert made.brokerage(made.add(requires=["gpu"]))["sites"] == ["rich"]
    assert made.brokerage(made.add())["sites"] == ["plain", "rich"]


def test_the_input_decides_by_its_size_and_place(world: Make) -> None:
    made = world(
        tiny={"max_input_mb": 100}, far={}, near={"near": ["https://se.example.org/data/"]}, half={"near": ["file:///d/"]}
    )  # fmt: skip
    files = [
        {"name": "a", "url": "https://se.example.org/data/a", "size_bytes": 300_000_000},
        {"name": "b", "url": "https://se.example.org/data/b", "size_bytes": 300_000_000},
        {"name": "c", "url": "file:///d/c", "size_bytes": 400_000_000},
    ]
    task = made.add(files)
    row = made.brokerage(task)
    assert row["sites"] == ["near", "half", "far"]
    texts = {said["site"]: said["text"] for said in row["brokerage"]}
    assert "input 2.80 (60% of it is near)" in texts["near"]
    assert "input 2.20 (40% of it is near)" in texts["half"]
    assert texts["tiny"] == "a job reads up to 400 MB, and the site takes jobs with at most 100 MB"
    # All files in one job.
    assert "up to 1,000 MB" in str(made.brokerage(made.add(files, split={"jobs": 1}))["brokerage"])
    # Without the sizes the number of files counts.
    unsized = [{"name": file["name"], "url": file["url"]} for file in files]
    assert "input 3.00 (67% of it is near)" in str(made.brokerage(made.add(unsized))["brokerage"])


def test_a_site_that_drains_gets_no_new_jobs_after_the_next_cycle_and_none_waits_for_it(world: Make) -> None:
    made = world(a={"preference": 2}, b={})
    task = made.add()
    assert made.brokerage(task)["sites"] == ["a", "b"]
    made.reconfigure(a={"preference": 2, "status": "drain"}, b={})
    made.cycle()
    assert made.brokerage(task)["sites"] == ["b"]
    assert made.claim("a", 1) == []
    assert made.launchers["a"].launches == []
    made.reconfigure(a={"preference": 2}, b={})
    made.cycle()
    assert made.brokerage(task)["sites"] == ["a", "b"]


def test_the_batch_system_of_an_offline_site_is_not_asked(world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made = world(a={"status": "offline"})
    monkeypatch.setattr(made.launchers["a"], "poll", lambda site: pytest.fail("it was asked"))
    made.add()
    assert made.cycle() == {"a": 0}


def test_each_job_gets_one_pilot_at_the_best_site_that_has_room_for_it(world: Make) -> None:
    made = world(a={"max_pilots": 3, "preference": 2}, b={"max_pilots": 8})
    made.add(inputs={"jobs": 5})
    assert made.cycle() == {"a": 3, "b": 2}
    assert made.cycle() == {"a": 0, "b": 0}
    with made.database.transaction() as connection:
        decision = pilots.decisions(connection)["b"]
    assert decision["reasons"][0] == "2 ready jobs of 2 cores fill 2 pilots"


def test_a_site_whose_batch_system_does_not_answer_leaves_its_part_to_others(world: Make) -> None:
    made = world(a={"preference": 9}, b={})
    made.launchers["a"].failure = CondorError("the schedd is away")
    made.add()
    assert made.cycle() == {"a": 0, "b": 2}


def test_a_site_where_attempts_failed_lately_comes_later_for_a_while(world: Make) -> None:
    made = world(a={}, b={})
    made.add(inputs={"jobs": 30})
    claims = made.claim("a", 12)
    assert len(claims) == 12
    with made.database.transaction() as connection:
        connection.execute("UPDATE attempts SET state = 'lost', reason_source = 'site', ended_at = now()")
        connection.execute("UPDATE jobs SET state = 'cancelled'")
    task = made.add()
    row = made.brokerage(task)
    assert row["sites"] == ["b", "a"]
    assert "reliability 0.25 (12 of the last 12 attempts failed there)" in str(row["brokerage"])
    with made.database.transaction() as connection:
        connection.execute("UPDATE attempts SET ended_at = now() - interval '2 hours'")
    made.cycle()
    assert made.brokerage(task)["sites"] == ["a", "b"]


def test_pilots_of_the_best_site_get_the_jobs_when_several_ask(world: Make) -> None:
    made = world(a={"preference": 5}, b={})
    made.add()
    offers = [
        Offer(pilot_id=PilotId(name), site=site, node="n", want=1, cores=1, memory_mb=9000, disk_mb=9000, seconds=9e4)
        for name, site in (("p0", "b"), ("p1", "a"), ("p2", "a"))
    ]
    with made.database.transaction() as connection:
        for offer in offers:
            pilots.plan(connection, offer.site, {offer.pilot_id: ""})
        claims = claim_jobs(connection, Board(EQUAL), offers)
    assert Counter(claim["pilot_id"] for claim in claims) == {"p1": 1, "p2": 1}


def test_reasons_are_kept_and_written_again_only_when_they_differ(world: Make) -> None:
    made = world(a={}, b={})
    task = made.add()

    def rebroker() -> datetime:
        with made.database.transaction() as connection:
            broker_all(connection, states(connection, made.place.sites))
        at = made.brokerage(task)["brokered_at"]
        assert isinstance(at, datetime)
        return at

    first = rebroker()
    assert rebroker() == first
    with made.database.transaction() as connection:
        connection.execute("UPDATE demands SET brokered_at = brokered_at - interval '11 seconds'")
    assert rebroker() > first


def test_a_locked_demand_does_not_hold_up_the_others(world: Make) -> None:
    made = world(a={})
    locked, other = made.add(), made.add()
    with made.database.transaction() as holder:
        holder.execute("SELECT FROM demands WHERE task_id = %s FOR UPDATE", [locked])
        made.reconfigure(a={"status": "drain"})
        made.cycle()
        assert (made.brokerage(locked)["sites"], made.brokerage(other)["sites"]) == (["a"], [])


def test_explain_says_of_each_site_why_and_where_the_job_stands(world: Make) -> None:
    made = world(a={"max_pilots": 1}, b={"status": "drain"})
    task = made.add()
    made.cycle()
    text = made.explained(task)
    assert "Nobody else has ready jobs, so that shares do not matter now." in text
    assert "Site a may take it, as number 1 of 1: weight 1.00 = preference 1 x input 1.00" in text
    assert "Site a has 0 pilots running, 1 queued and 0 held. Last decision: 1 more pilots" in text
    assert "Site b may not take it: it takes no new jobs now: its status is drain [site_not_online]." in text
    with made.database.transaction() as connection:
        connection.execute("UPDATE demands SET sites = NULL, brokerage = NULL")
    assert "Where it may run is worked out in a moment." in made.explained(task)


def test_explain_says_what_the_shares_and_limits_do(world: Make) -> None:
    made = world(a={"cores": 8, "memory_mb": 16000, "disk_mb": 64000})
    task = made.add(max_running=1, inputs={"jobs": 3})
    bob = submit(
        made.place, Submission(spec=made.spec(group="higgs")), Identity(method="test", subject="bob", vo="atlas")
    )
    planning.plan(made.place, bob)
    made.used(("atlas", "", "ada"), 3000)
    made.used(("atlas", "higgs", "bob"), 1000)
    assert "By the shares, what has no group may have 50% and has used 75%" in made.explained(task)
    assert "Its owner is number 2 of 2 with ready jobs" in made.explained(task)
    assert "group higgs may have 50% and has used 25%" in made.explained(bob)
    assert "Its owner is number 1 of 2 with ready jobs" in made.explained(bob)
    made.claim("a", 4)
    with made.database.transaction() as connection:
        connection.execute(
            "UPDATE jobs SET state = 'ready' WHERE state = 'claimed' AND index = 0 AND task_id = %s", [task]
        )
        connection.execute("UPDATE jobs SET state = 'claimed' WHERE index = 1 AND task_id = %s", [task])
    assert "It waits until another job ends: running jobs of the task: 1, and the limit is 1." in made.explained(task)
    urgent = made.add(priority=950)
    assert "Its priority, 950, is urgent: it goes before all shares." in made.explained(urgent)


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"site": "mars"}, "key `site`: there is no site mars; there are a, b"),
        (
            {"resources": {"cores": 64}},
            "key `resources`: no site has pilots that large (a: its pilots are too small: cores 1, and a job",
        ),
        ({"requires": ["gpu"]}, "key `requires`: no site provides that (a: it does not provide gpu; b: "),
        (
            {"site": "b", "resources": {"cores": 64}},
            "no site may run it (b: only VO cms may run jobs there, and the task is ada's of VO atlas)",
        ),
    ],
)
def test_a_task_that_no_site_will_ever_run_is_refused(world: Make, more: dict[str, Any], problem: str) -> None:
    made = world(a={}, b={"vos": ["cms"], "provides": ["gpu"]} if "site" in more else {})
    with pytest.raises(TaskFileError) as caught:
        made.add(**more)
    assert problem in str(caught.value)


def test_a_task_for_a_site_that_is_down_for_a_while_is_accepted(world: Make) -> None:
    made = world(a={"status": "offline"})
    assert made.brokerage(made.add())["sites"] == []


def test_a_task_pinned_to_a_busy_site_is_accepted_with_a_warning(world: Make) -> None:
    made = world(busy={"max_pilots": 2}, free={}, closed={"vos": ["cms"]})

    def advice(**more: object) -> list[str]:
        return advise(made.place, made.spec(**more), ADA)

    assert advice(site="busy") == []
    made.add(site="busy", inputs={"jobs": 12})
    made.cycle()
    assert advice() == []
    assert advice(site="free") == []
    (warning,) = advice(site="busy")
    assert warning == (
        "the task may only run at busy: 12 ready jobs wait for its 2 pilots, and how long cannot be said, for no "
        "attempt has ended there during the last hour; without `site`, free could take it now"
    )
    claims = made.claim("busy", 4)
    with made.database.transaction() as connection:
        connection.execute(
            "UPDATE attempts SET state = 'done', claimed_at = now() - interval '20 minutes', "
            "ended_at = now() - interval '10 minutes'"
        )
        connection.execute("UPDATE jobs SET state = 'done' WHERE id = ANY(%s)", [[claim["id"] for claim in claims]])
    (warning,) = advice(site="busy")
    # Four ended in 20 minutes and eight are left: the ninth starts after 45 minutes.
    assert "8 ready jobs wait for its 3 pilots, so its first job starts in about 45 min" in warning
    assert "if the 12 attempts per hour go on that ended there lately" in warning
    assert preview(made.place, Submission(spec=made.spec(site="busy")), ADA).warnings[-1] == warning
    made.reconfigure(busy={"status": "drain"}, free={"status": "drain"})
    (warning,) = advice(site="busy")
    assert warning == (
        "the task may only run at busy: it takes no new jobs now: its status is drain; "
        "no other site could take it now either"
    )


def test_the_share_page_shows_the_tree_with_named_and_unnamed_nodes(world: Make) -> None:
    made = world(a={"cores": 4, "memory_mb": 9000, "disk_mb": 40000})
    made.add(inputs={"jobs": 3}, resources={"cores": 2})
    made.claim("a", 1)
    config = ShareConfig.model_validate(
        {"vos": {"atlas": {"share": 3, "groups": {"higgs": {"share": 2, "users": {"eve": 5}}}}, "belle": {}},
         "limits": {"running_per_user": 9}}
    )  # fmt: skip
    made.used(("atlas", "", "ada"), 3000)
    made.used(("old", "", "bob"), 1000)
    page = share_page(made.database, config)
    assert page["limits"]["running_per_user"] == 9
    atlas, belle, old = page["items"]
    assert [atlas[key] for key in ("kind", "name", "share", "target")] == ["vo", "atlas", 3, 1.0]
    assert (atlas["used"], old["used"]) == (pytest.approx(0.75), pytest.approx(0.25))
    assert (atlas["cores"], atlas["running"], atlas["ready"]) == (2, 1, 2)
    assert (belle["target"], belle["used"], belle["items"]) == (None, 0.0, [])
    without, higgs = atlas["items"]
    assert (without["name"], without["target"], [user["name"] for user in without["items"]]) == ("", 1.0, ["ada"])
    assert [(user["name"], user["share"], user["target"]) for user in higgs["items"]] == [("eve", 5, None)]


def test_a_demand_that_avoids_sites_gets_others(world: Make) -> None:
    made = world(a={"preference": 5}, b={})
    task = made.add()
    with made.database.transaction() as connection:
        (row,) = demands.of_task(connection, task)
        keys = ("task_id", "stage", "priority", "cores", "memory_mb", "disk_mb", "wall_seconds")
        other = demands.ensure(connection, {**{key: row[key] for key in keys}, "avoid_sites": ["a"]})
        connection.execute("UPDATE jobs SET demand_id = %s WHERE task_id = %s AND index = 1", [other, task])
    made.cycle()
    with made.database.transaction() as connection:
        assert demands.brokerage(connection, DemandId(other))["sites"] == ["b"]
    assert len(made.claim("a", 5)) == 1


def test_pilots_that_are_queued_at_a_site_that_drains_are_removed(world: Make) -> None:
    made = world(a={})
    made.add()
    made.cycle()
    for launch in made.launchers["a"].launches:
        made.launchers["a"].set_status(launch.pilot_id, LaunchStatus.QUEUED)
    with made.database.transaction() as connection:
        connection.execute("UPDATE pilots SET planned_at = planned_at - interval '40 seconds'")
    made.reconfigure(a={"status": "drain"})
    made.cycle()
    with made.database.transaction() as connection:
        found = pilots.page(connection, site="a", everything=True, limit=9)
    assert {row["state"] for row in found} == {"removed"}

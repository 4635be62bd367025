# SPDX-License-Identifier: Apache-2.0
"""The example as the demo runs it, on a real pool, seen from the command line, Prefect and HTCondor."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from real_instance import Instance, until

pytest_plugins = ("instance_fixtures",)
pytestmark = [pytest.mark.pool, pytest.mark.prefect]

EXAMPLE = Path(__file__).parents[2] / "examples" / "zpeak"
Json = dict[str, Any]


@pytest.fixture(scope="module")
def generated(instance: Instance) -> Json:
    """The task that generates events, when it is done."""
    task: Json = instance.run("submit", str(EXAMPLE / "generate.yaml"), "--wait", "--json").json()
    return task


@pytest.fixture(scope="module")
def analysed(instance: Instance, generated: Json) -> Json:
    """The task that analyses the generated events, when it is done."""
    dataset = f"inputs.dataset=zpeak.events@{generated['id']}"
    task: Json = instance.run("submit", str(EXAMPLE / "analyse.yaml"), "--set", dataset, "--wait", "--json").json()
    return task


@pytest.fixture(scope="module")
def flow_run(instance: Instance, analysed: Json) -> Json:
    """The flow run of the analysis, as Prefect's API shows it."""
    return instance.flow_ended(analysed["id"], "COMPLETED")


@pytest.fixture(scope="module")
def artifacts(instance: Instance, flow_run: Json) -> dict[str, Json]:
    """The artifacts of that flow run, by the last part of their key."""
    found = instance.prefect("artifacts/filter", artifacts={"flow_run_id": {"any_": [flow_run["id"]]}})
    return {item["key"].split("-", maxsplit=3)[-1]: item for item in found if item["key"]}


def pilots_in(instance: Instance, command: str) -> list[Json]:
    """Return the ads that a command of HTCondor prints."""
    attributes = "ClusterId,GlideflowPilotId,GlideflowSite,GlideflowInstance,JobBatchName"
    text = instance.run("pool", "exec", "--", command, "-json", "-attributes", attributes).out
    return json.loads(text) if text.strip() else []


def test_each_generating_job_leaves_its_events_in_the_dataset(instance: Instance, generated: Json) -> None:
    assert generated["jobs"]["done"] == generated["jobs"]["total"] == 20
    dataset = instance.ask("datasets", f"zpeak.events@{generated['id']}")
    assert len(dataset["files"]) == 20
    assert dataset["events"] == 100_000


def test_the_analysis_finds_the_z_boson_in_every_event(instance: Instance, analysed: Json, tmp_path: Path) -> None:
    assert analysed["jobs"]["total"] == 13
    instance.run("outputs", str(analysed["id"]), "--to", str(tmp_path / "results"))
    names = {path.name for path in (tmp_path / "results").iterdir()}
    assert names == {f"part-{index}.json" for index in range(13)} | {"histogram.json", "zpeak.svg"}
    histogram = json.loads((tmp_path / "results" / "histogram.json").read_text())
    assert histogram["edges"] == list(range(201))
    assert sum(histogram["counts"]) + histogram["underflow"] + histogram["overflow"] == 100_000
    assert histogram["peak_gev"] == pytest.approx(91.19, abs=0.2)
    assert (tmp_path / "results" / "zpeak.svg").read_text().startswith("<svg")


def test_files_that_were_fetched_are_not_fetched_again(instance: Instance, analysed: Json, tmp_path: Path) -> None:
    words = ("outputs", str(analysed["id"]), "--to", str(tmp_path))
    assert "15 files fetched" in instance.say(*words).words
    assert "0 files fetched" in instance.say(*words).words
    (tmp_path / "histogram.json").write_text("mine")
    assert "differs" in instance.say(*words, status=2).words
    assert (tmp_path / "histogram.json").read_text() == "mine"


def test_each_job_is_done_once(instance: Instance, generated: Json, analysed: Json) -> None:
    assert instance.each_done_once(generated["id"])
    assert instance.each_done_once(analysed["id"])


def test_prefect_names_and_tags_the_flow_run(instance: Instance, analysed: Json, flow_run: Json) -> None:
    number = analysed["id"]
    assert flow_run["name"] == f"zpeak-analyse #{number}"
    assert {f"task:{number}", "vo:testers", f"owner:{analysed['owner']}"} <= set(flow_run["tags"])
    assert "13/13 jobs done" in flow_run["state"]["message"]
    assert analysed["flow_run_url"].endswith(flow_run["id"])
    assert len(instance.flow_runs(number)) == 1


def test_prefect_shows_stages_as_few_task_runs(instance: Instance, flow_run: Json) -> None:
    runs = instance.prefect("task_runs/filter", flow_runs={"id": {"any_": [flow_run["id"]]}}, limit=200)
    assert 1 < len(runs) <= 50
    assert {run["state"]["type"] for run in runs} == {"COMPLETED"}


def test_prefect_shows_progress_sites_and_result(artifacts: dict[str, Json]) -> None:
    assert artifacts["progress"]["data"] == 100
    [row] = json.loads(artifacts["sites"]["data"])
    assert row["site"] == "local"
    assert row["done"] == 13
    assert "peak_gev" in artifacts["result"]["data"]
    assert "![plot](data:image/svg+xml;base64," in artifacts["result"]["data"]


def test_condor_shows_each_pilot_with_its_origin(instance: Instance, analysed: Json) -> None:
    def unknown() -> set[str]:
        ads = pilots_in(instance, "condor_q") + pilots_in(instance, "condor_history")
        assert {ad["GlideflowSite"] for ad in ads} == {"local"}
        assert {ad["GlideflowInstance"] for ad in ads} == {"tests"}
        assert {ad["JobBatchName"] for ad in ads} == {"glideflow-tests-local"}
        sent = instance.ask("pilots", "--site", "local", "--all")
        return {pilot["id"] for pilot in sent if pilot["batch_id"]} - {ad["GlideflowPilotId"] for ad in ads}

    # A pilot that just left the queue is in the history a moment later.
    with suppress(AssertionError):
        until(lambda: not unknown(), 30)
    assert unknown() == set()


def test_real_collisions_give_the_histogram_of_one_process(instance: Instance, tmp_path: Path) -> None:
    data = Path(__file__).parents[3] / "shared" / "data" / "cms-open-data" / "Zmumu_Run2011A.csv"
    if not data.exists():
        pytest.skip("the CMS data are not beside the checkout")
    words = ["--set", f"inputs.files=[{data}]", "--set", "split.events_per_job=1000", "--wait", "--json"]
    task = instance.run("submit", str(EXAMPLE / "analyse.yaml"), *words).json()
    assert task["jobs"]["done"] == task["jobs"]["total"] == 11
    instance.run("outputs", str(task["id"]), "--to", str(tmp_path))
    histogram = json.loads((tmp_path / "histogram.json").read_text())
    assert histogram["counts"] == counts_of(data)
    assert sum(histogram["counts"]) + histogram["underflow"] + histogram["overflow"] == 10_583


def counts_of(data: Path) -> list[int]:
    """Return the histogram that one process fills, written once more from the formula."""
    import csv
    import math

    counts = [0] * 200
    with data.open(newline="") as file:
        for row in csv.DictReader(file):
            pt1, eta1, phi1, pt2, eta2, phi2 = (
                float(row[f"{name}{n}"]) for n in (1, 2) for name in ("pt", "eta", "phi")
            )
            mass = math.sqrt(2 * pt1 * pt2 * (math.cosh(eta1 - eta2) - math.cos(phi1 - phi2)))
            if mass < 200:
                counts[int(mass)] += 1
    return counts

# SPDX-License-Identifier: Apache-2.0
"""The example's scripts: generator, analysis, merge and plot, as a worker node runs them."""

import csv
import importlib.util
import json
import math
import random
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ruamel.yaml import YAML

from glideflow.domain.identifiers import TaskId
from glideflow.domain.placeholders import file_names, fill, job_values, problems
from glideflow.domain.splitting import Cursor, Extent, Piece, make_jobs, rule_of
from glideflow.domain.task import ResolvedInput, TaskSpec

EXAMPLE = Path(__file__).parents[2] / "examples" / "zpeak"
REAL_DATA = Path(__file__).parents[3] / "shared" / "data" / "cms-open-data" / "Zmumu_Run2011A.csv"
Z_MASS_GEV = 91.1876


def load(name: str) -> ModuleType:
    """Import one of the example's files, which lie in no package."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(folder: Path, script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a script alone, without site-packages, as on a node."""
    command = [sys.executable, "-S", "-B", str(EXAMPLE / script), *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def analyse(folder: Path, ranges: list[str], output: str) -> dict[str, Any]:
    result = run(folder, "analyse.py", "--output", output, *ranges)
    assert result.returncode == 0, result.stderr
    histogram: dict[str, Any] = json.loads((folder / output).read_text())
    return histogram


def random_jobs(files: list[tuple[str, int]], rng: random.Random) -> list[list[str]]:
    """Cut the files' events at random places into jobs that end within files and span them."""
    jobs: list[list[str]] = [[]]
    room = rng.randint(1, 700)
    for name, events in files:
        first = 0
        while first < events:
            count = min(room, events - first)
            jobs[-1].append(f"{name}:{first}:{count}")
            first, room = first + count, room - count
            if room == 0:
                jobs.append([])
                room = rng.randint(1, 700)
    return [job for job in jobs if job]


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three files of generated events."""
    folder = tmp_path_factory.mktemp("generated")
    for index, events in enumerate((1500, 1, 999)):
        arguments = ("--events", events, "--seed", 100 + index, "--run", index, "--output", f"events-{index}.csv")
        assert run(folder, "generate.py", *arguments).returncode == 0
    return folder


def test_generator_writes_the_columns_of_the_open_data(generated: Path) -> None:
    with (generated / "events-0.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert ",".join(rows[0]) == "Run,Event,pt1,eta1,phi1,Q1,dxy1,iso1,pt2,eta2,phi2,Q2,dxy2,iso2"
    assert len(rows) == 1500
    assert {int(row["Q1"]) + int(row["Q2"]) for row in rows} == {0}
    assert all(-math.pi <= float(row[name]) <= math.pi for row in rows for name in ("phi1", "phi2"))
    assert all(float(row[name]) > 0 for row in rows for name in ("pt1", "pt2"))


@pytest.mark.skipif(not REAL_DATA.exists(), reason="the open data are not beside this checkout")
def test_generator_and_open_data_have_the_same_header(generated: Path) -> None:
    assert (generated / "events-0.csv").read_text().splitlines()[0] == REAL_DATA.read_text().splitlines()[0]


def test_same_seed_gives_the_same_events_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        run(tmp_path, "generate.py", "--events", 50, "--seed", seed, "--output", name)
    texts = [(tmp_path / name).read_text() for name in "abc"]
    assert texts[0] == texts[1] != texts[2]


def test_two_muons_carry_the_pairs_momentum_and_mass() -> None:
    generate = load("generate")
    rng = random.Random(3)
    for _ in range(200):
        mass = rng.uniform(30, 300)
        pair = generate.draw_pair(rng, mass)
        first, second = generate.decay(rng, mass, pair)
        energy = math.hypot(*first) + math.hypot(*second)
        momentum = [a + b for a, b in zip(first, second, strict=True)]
        assert energy == pytest.approx(pair[3], rel=1e-9)
        assert momentum == pytest.approx(pair[:3], rel=1e-9, abs=1e-6)
        assert energy**2 - sum(p * p for p in momentum) == pytest.approx(mass**2, rel=1e-6)


def test_line_shape_peaks_at_the_z_and_falls_from_the_photon() -> None:
    shape = load("generate").LineShape()
    density = shape._density
    assert max(range(300, 3000), key=lambda tenth: density(tenth / 10)) / 10 == pytest.approx(Z_MASS_GEV, abs=0.1)
    assert density(35) > density(50) > density(65)
    assert density(110) > density(150) > density(250)


@pytest.mark.parametrize("seed", range(2))
def test_split_histogram_of_generated_events_equals_that_of_one_process(
    generated: Path, tmp_path: Path, seed: int
) -> None:
    merge = load_merge()
    files = [(str(generated / f"events-{index}.csv"), events) for index, events in enumerate((1500, 1, 999))]
    jobs = random_jobs(files, random.Random(seed))
    parts = [analyse(tmp_path, job, f"part-{index}.json") for index, job in enumerate(jobs)]
    together = analyse(tmp_path, [name for name, _ in files], "all.json")
    assert len(parts) > 3
    assert merge.add(parts) == together
    assert together["events"] == 2500


def filled_commands(spec: TaskSpec, files: list[tuple[str, int]]) -> list[tuple[str, str]]:
    """The command and the output file of each job, as the endpoint would make them."""
    inputs = [ResolvedInput(name=name, url=f"/storage/{name}", events=events) for name, events in files]
    rule = rule_of(spec, Extent(files=len(files), events=sum(events for _, events in files)))
    pieces = (Piece(file=at, events=file.events) for at, file in enumerate(inputs))
    plans = list(make_jobs(rule, pieces, Cursor()))
    filled = []
    for plan in plans:
        slices = [(inputs[part.file].name, part) for part in plan.slices]
        values = job_values(spec, task_id=TaskId(7), index=plan.index, jobs=len(plans), attempt=1, inputs=slices)
        filled.append((fill(spec.command, values), file_names(spec.outputs, values)["part"]))
    return filled


@pytest.mark.parametrize("rule", [{"events_per_job": 400}, {"files_per_job": 2}, {"jobs": 3}])
def test_commands_of_the_task_file_fill_the_histogram_that_one_process_fills(
    generated: Path, tmp_path: Path, rule: dict[str, int]
) -> None:
    document = YAML(typ="safe").load((EXAMPLE / "analyse.yaml").read_text())
    spec = TaskSpec.model_validate({**document, "split": rule})
    files = [(f"events-{index}.csv", events) for index, events in enumerate((1500, 1, 999))]
    for name in (*(name for name, _ in files), "analyse.py"):
        (tmp_path / name).symlink_to((EXAMPLE if name.endswith("py") else generated) / name)
    parts = []
    for command, output in filled_commands(spec, files):
        subprocess.run(["/bin/sh", "-c", command], cwd=tmp_path, check=True, capture_output=True, timeout=60)
        parts.append(json.loads((tmp_path / output).read_text()))
    assert load_merge().add(parts) == analyse(tmp_path, [name for name, _ in files], "all.json")
    assert not list(problems(spec))


@pytest.mark.parametrize("name", ["zpeak/generate.yaml", "zpeak/analyse.yaml", "hello/hello.yaml"])
def test_task_files_are_accepted_as_they_are(name: str) -> None:
    spec = TaskSpec.model_validate(YAML(typ="safe").load((EXAMPLE.parent / name).read_text()))
    assert not list(problems(spec))


@pytest.mark.skipif(not REAL_DATA.exists(), reason="the open data are not beside this checkout")
def test_eleven_jobs_over_the_open_data_equal_one_process_and_peak_at_the_z(tmp_path: Path) -> None:
    ranges = [f"{REAL_DATA}:{first}:{min(1000, 10_583 - first)}" for first in range(0, 10_583, 1000)]
    for index, part in enumerate(ranges):
        analyse(tmp_path, [part], f"part-{index}.json")
    together = analyse(tmp_path, [str(REAL_DATA)], "all.json")
    result = run(tmp_path, "merge.py", *(f"part-{index}.json" for index in range(11)))
    assert result.returncode == 0, result.stderr
    merged = json.loads((tmp_path / "histogram.json").read_text())
    assert {key: merged[key] for key in together} == together
    assert merged["events"] == sum(merged["counts"]) + merged["underflow"] + merged["overflow"] == 10_583
    assert merged["edges"] == list(range(201))
    assert merged["peak_gev"] == pytest.approx(91.0, abs=0.5)


def test_histogram_equals_one_filled_from_the_formula(generated: Path, tmp_path: Path) -> None:
    counts = [0] * 200
    with (generated / "events-0.csv").open() as file:
        for row in csv.DictReader(file):
            deta, dphi = float(row["eta1"]) - float(row["eta2"]), float(row["phi1"]) - float(row["phi2"])
            mass = math.sqrt(2 * float(row["pt1"]) * float(row["pt2"]) * (math.cosh(deta) - math.cos(dphi)))
            if mass < 200:
                counts[math.floor(mass)] += 1
    assert analyse(tmp_path, [str(generated / "events-0.csv")], "part.json")["counts"] == counts


def test_masses_beyond_the_bins_are_counted_as_overflow() -> None:
    histogram = load("analyse").fill(iter([0.0, 0.999, 1.0, 199.999, 200.0, 5000.0]))
    assert (histogram["counts"][0], histogram["counts"][1], histogram["counts"][199]) == (2, 1, 1)
    assert (histogram["underflow"], histogram["overflow"], histogram["events"]) == (0, 2, 6)


def test_range_beyond_the_end_of_a_file_fails_and_says_so(generated: Path, tmp_path: Path) -> None:
    result = run(tmp_path, "analyse.py", f"{generated / 'events-1.csv'}:0:5")
    assert result.returncode == 1
    assert "has 1 events from event 0 on, not 5" in result.stderr
    assert not (tmp_path / "part.json").exists()


def test_broken_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("pt1,eta1,phi1,pt2,eta2,phi2\n1,2,3,4,5,6\n1,2,three,4,5,6\n")
    result = run(tmp_path, "analyse.py", "bad.csv:0:2")
    assert result.returncode == 1
    assert "bad.csv, event 1: could not convert string to float: 'three'" in result.stderr


def test_missing_column_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("pt1,eta1,phi1,pt2,eta2\n")
    assert "has no column phi2" in run(tmp_path, "analyse.py", "bad.csv").stderr


def load_merge() -> ModuleType:
    """Import merge.py, which imports plot.py beside it."""
    sys.path.insert(0, str(EXAMPLE))
    try:
        return load("merge")
    finally:
        sys.path.remove(str(EXAMPLE))
        sys.modules.pop("plot", None)


def invented(peak: float, resolution: float, signal: float) -> dict[str, Any]:
    """A histogram without fluctuations, from the fit's own model."""
    merge = load_merge()
    counts = [round(merge.expected((signal, peak, resolution, 40.0, -1.0), low)) for low in range(200)]
    counts = [max(0, count) for count in counts]
    return {"edges": list(range(201)), "counts": counts, "underflow": 0, "overflow": 3, "events": sum(counts) + 3}


@pytest.mark.parametrize("peak", [90.3, 91.19, 92.0])
@pytest.mark.parametrize("resolution", [0.8, 1.5, 2.5])
def test_fit_finds_the_values_that_a_histogram_was_made_with(peak: float, resolution: float) -> None:
    result = load_merge().fit(invented(peak, resolution, 50_000.0))
    assert result["peak_gev"] == pytest.approx(peak, abs=0.005)
    assert result["resolution_gev"] == pytest.approx(resolution, abs=0.02)
    assert result["signal_events"] == pytest.approx(50_000, rel=0.01)
    assert result["chi2"] < 1


def test_fit_of_generated_events_agrees_with_the_z_mass(tmp_path: Path) -> None:
    run(tmp_path, "generate.py", "--events", 20_000, "--seed", 11, "--output", "events.csv")
    analyse(tmp_path, ["events.csv"], "part.json")
    result = run(tmp_path, "merge.py", "part.json")
    assert result.returncode == 0, result.stderr
    histogram = json.loads((tmp_path / "histogram.json").read_text())
    assert histogram["peak_gev"] == pytest.approx(Z_MASS_GEV, abs=0.1)
    assert 0 < histogram["peak_error_gev"] < 0.05
    assert histogram["fit"]["chi2"] < 4 * histogram["fit"]["ndf"]


def test_too_few_events_for_a_fit_are_refused_in_one_sentence(tmp_path: Path) -> None:
    run(tmp_path, "generate.py", "--events", 20, "--seed", 1, "--output", "events.csv")
    analyse(tmp_path, ["events.csv"], "part.json")
    result = run(tmp_path, "merge.py", "part.json")
    assert result.returncode == 1
    assert "too few for a fit" in result.stderr
    assert "Traceback" not in result.stderr


def test_histograms_with_different_bins_are_not_added() -> None:
    one = invented(91.0, 1.0, 1000.0)
    with pytest.raises(ValueError, match="different bins"):
        load_merge().add([one, {**one, "edges": list(range(100))}])


@pytest.mark.parametrize("signal", [400.0, 10_000.0, 3e6])
def test_plot_is_well_formed_and_shows_numbers_of_any_size(signal: float) -> None:
    merge = load_merge()
    histogram = invented(91.2, 1.3, signal)
    histogram["fit"] = merge.fit(histogram)
    picture = merge.plot.draw(histogram, lambda mass: 1.0)
    root = ElementTree.fromstring(picture)
    words = " ".join("".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text"))
    assert "events / 1 GeV" in words
    assert "m(μ+μ\N{MINUS SIGN}) [GeV]" in words
    assert f"{histogram['fit']['peak_gev']:.3f}" in words
    assert f"{histogram['events']:,} events" in words


def test_demo_sketches_the_histogram_with_its_axis_below_the_bins() -> None:
    counts = [0] * 200
    counts[90], counts[99] = 800, 1
    lines = load("demo").sketch(counts, 85, 105, rows=4)
    assert len(lines) == 6
    assert [line.index("██") for line in lines[:4]] == [10] * 4
    assert lines[5].index("90") == 10
    assert lines[5].index("100 GeV") == 30
    assert max(map(len, lines[:5])) == 40

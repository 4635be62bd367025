# SPDX-License-Identifier: Apache-2.0
"""A Prefect flow of your own with a glideflow task as one of its steps.

    glideflow up
    export PREFECT_API_URL=http://127.0.0.1:4200/api     # the Prefect UI of `glideflow status`, and /api
    .venv/bin/python examples/own-flow.py

Jobs run on HTCondor; the step after them runs here, on what they made.
"""

import json
from pathlib import Path

from glideflow_flows import run_task
from prefect import flow, task

EXAMPLE = Path(__file__).parent / "zpeak"


@task
def judge(histogram: Path) -> str:
    """Compare the fitted mass with the world average."""
    result = json.loads(histogram.read_text())
    pull = (result["peak_gev"] - 91.1876) / result["peak_error_gev"]
    return f"{result['peak_gev']:.3f} GeV, {pull:+.1f} standard deviations from the Z boson's mass"


@flow(log_prints=True)
def z_mass(events_per_job: int = 8000) -> str:
    """Generate events, analyse them, and judge the result."""
    events = run_task(EXAMPLE / "generate.yaml").dataset("zpeak.events")
    analysed = run_task(
        EXAMPLE / "analyse.yaml", set={"inputs.dataset": events, "split.events_per_job": events_per_job}
    )
    [histogram] = analysed.outputs.select(name="histogram")
    verdict = judge(histogram.download("zpeak-results"))
    print(verdict)
    return verdict


if __name__ == "__main__":
    z_mass()

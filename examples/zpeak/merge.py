#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Add up the histograms of all jobs, fit the Z peak, and draw the result.

    python3 merge.py part-0.json part-1.json ...

Writes `histogram.json` and `zpeak.svg`. Needs nothing but Python 3.9.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import plot

Z_WIDTH_GEV = 2.4952
FIT_FROM_GEV, FIT_TO_GEV = 80, 102
GAUSSIAN = [(step / 4, math.exp(-0.5 * (step / 4) ** 2) / math.sqrt(2 * math.pi) / 4) for step in range(-16, 17)]
"""Places, in standard deviations, and weights that stand for a Gaussian."""
NAMES = ("signal_events", "peak_gev", "resolution_gev", "background_per_gev", "background_slope")


def add(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the sum of histograms, bin by bin.

    Raises:
        ValueError: Two histograms have different bins.
    """
    total = dict(parts[0])
    for part in parts[1:]:
        if part["edges"] != total["edges"]:
            raise ValueError("the parts have different bins")
        total["counts"] = [a + b for a, b in zip(total["counts"], part["counts"])]
        for key in ("underflow", "overflow", "events"):
            total[key] += part[key]
    return total


def smeared(distance: float, resolution: float) -> float:
    """Return a Breit-Wigner of the Z's width smeared by a Gaussian, per GeV, at a distance from its centre in GeV."""
    half = Z_WIDTH_GEV / 2
    return sum(weight * half / math.pi / ((distance - resolution * shift) ** 2 + half**2) for shift, weight in GAUSSIAN)


def density(values: Sequence[float], mass: float) -> float:
    """Return the expected events per GeV at a mass in GeV: the peak and a straight line below it."""
    signal, peak, resolution, level, slope = values
    return signal * smeared(mass - peak, resolution) + level + slope * (mass - 91.0)


def expected(values: Sequence[float], low: float) -> float:
    """Return the expected events in the 1 GeV bin that starts at `low`, by Simpson's rule."""
    weights = (1, 4, 2, 4, 1)
    return sum(weight * density(values, low + step / 4) for step, weight in enumerate(weights)) / 12


def solve(matrix: list[list[float]], right: list[float]) -> list[float]:
    """Return the solution of a small system of linear equations, by Gauss's elimination."""
    rows = [[*line, value] for line, value in zip(matrix, right)]
    for pivot in range(len(rows)):
        best = max(range(pivot, len(rows)), key=lambda line: abs(rows[line][pivot]))
        rows[pivot], rows[best] = rows[best], rows[pivot]
        for line in range(len(rows)):
            if line != pivot:
                factor = rows[line][pivot] / rows[pivot][pivot]
                rows[line] = [a - factor * b for a, b in zip(rows[line], rows[pivot])]
    return [row[-1] / row[index] for index, row in enumerate(rows)]


def normal_equations(values: list[float], bins: list[tuple[float, int]]) -> tuple[list[list[float]], list[float]]:
    """Return curvature matrix and gradient of chi^2, with the expectation as each bin's variance."""
    size = len(values)
    matrix, gradient = [[0.0] * size for _ in range(size)], [0.0] * size
    for low, count in bins:
        model = expected(values, low)
        variance = max(model, 1.0)
        slopes = []
        for index, value in enumerate(values):
            step = 1e-4 * max(abs(value), 1.0)
            moved = [*values[:index], value + step, *values[index + 1 :]]
            slopes.append((expected(moved, low) - model) / step)
        for i in range(size):
            gradient[i] += slopes[i] * (count - model) / variance
            for j in range(size):
                matrix[i][j] += slopes[i] * slopes[j] / variance
    return matrix, gradient


def chi_squared(values: Sequence[float], bins: list[tuple[float, int]]) -> float:
    """Return the sum over the bins of the squared difference over the variance."""
    return sum((count - expected(values, low)) ** 2 / max(expected(values, low), 1.0) for low, count in bins)


def fit(histogram: dict[str, Any]) -> dict[str, float]:
    """Fit the Z peak by least squares (Levenberg and Marquardt's steps).

    Returns:
        The values of `NAMES`, the error of the peak in GeV, chi^2 and its degrees of freedom.

    Raises:
        ValueError: There are too few events in the fit's range.
    """
    bins: list[tuple[float, int]] = [(low, histogram["counts"][low]) for low in range(FIT_FROM_GEV, FIT_TO_GEV)]
    inside = sum(count for _, count in bins)
    if inside < 100:
        raise ValueError(f"{inside} events between {FIT_FROM_GEV} and {FIT_TO_GEV} GeV are too few for a fit")
    start = max(bins, key=lambda item: item[1])[0] + 0.5
    values, damping = [0.9 * inside, start, 1.5, 0.1 * inside / len(bins), 0.0], 1e-3
    for _ in range(60):
        matrix, gradient = normal_equations(values, bins)
        damped = [[v * (1 + damping * (i == j)) for j, v in enumerate(row)] for i, row in enumerate(matrix)]
        moved = [value + step for value, step in zip(values, solve(damped, gradient))]
        better = chi_squared(moved, bins) < chi_squared(values, bins)
        values, damping = (moved, damping / 5) if better else (values, damping * 5)
    peak = [1.0 if name == "peak_gev" else 0.0 for name in NAMES]
    variance = solve(normal_equations(values, bins)[0], peak)[NAMES.index("peak_gev")]
    result = dict(zip(NAMES, values))
    result["resolution_gev"] = abs(result["resolution_gev"])
    return {
        **result,
        "peak_error_gev": math.sqrt(variance),
        "chi2": chi_squared(values, bins),
        "ndf": len(bins) - len(values),
        "from_gev": FIT_FROM_GEV,
        "to_gev": FIT_TO_GEV,
    }


def main() -> None:
    """Read the command line, add, fit and draw."""
    parser = argparse.ArgumentParser(description="Merge dimuon histograms and fit the Z peak.")
    parser.add_argument("parts", nargs="+", type=Path, help="histograms written by analyse.py")
    arguments = parser.parse_args()
    try:
        histogram = add([json.loads(path.read_text(encoding="ascii")) for path in arguments.parts])
        result = fit(histogram)
    except (OSError, ValueError, KeyError, ZeroDivisionError) as error:
        sys.exit(f"merge.py: {error}")
    peak = {"peak_gev": round(result["peak_gev"], 4), "peak_error_gev": round(result["peak_error_gev"], 4)}
    histogram = {**peak, **histogram, "fit": result}
    lines = [f'"{key}": {json.dumps(value)}' for key, value in histogram.items()]
    Path("histogram.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="ascii")
    values = [result[name] for name in NAMES]
    Path("zpeak.svg").write_text(plot.draw(histogram, lambda mass: density(values, mass)), encoding="utf-8")
    print(f"{histogram['events']} events, peak at {result['peak_gev']:.3f} +- {result['peak_error_gev']:.3f} GeV")


if __name__ == "__main__":
    main()

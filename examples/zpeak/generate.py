#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Generate Drell-Yan events, q qbar -> Z/gamma* -> mu+ mu-, as a detector would measure them.

    python3 generate.py --events 5000 --seed 1 --output events.csv

Writes the columns of CMS's open data file `Zmumu_Run2011A.csv`, so that one analysis reads both.
Transverse momenta are in GeV, azimuths in radians, impact parameters `dxy` in cm and isolations
`iso` in GeV. There is no acceptance cut. Needs nothing but Python 3.9.
"""

import argparse
import bisect
import itertools
import math
import random
from pathlib import Path

COLUMNS = "Run,Event,pt1,eta1,phi1,Q1,dxy1,iso1,pt2,eta2,phi2,Q2,dxy2,iso2"

BEAM_GEV = 7000.0
Z_MASS_GEV, Z_WIDTH_GEV = 91.1876, 2.4952
SIN2_WEAK = 0.2312
LOWEST_GEV, HIGHEST_GEV, STEP_GEV = 30.0, 300.0, 0.1


def partonic_rate(mass: float, charge: float, isospin: float) -> float:
    """Return the rate of q qbar -> mu+ mu- at one mass, up to a factor: photon, Z and their interference.

    Args:
        mass: Mass of the muon pair, GeV.
        charge: Electric charge of the quark.
        isospin: Third component of its weak isospin.

    Source: Ellis, Stirling, Webber, QCD and Collider Physics, section 9.
    """
    quark_v, quark_a = isospin - 2 * charge * SIN2_WEAK, isospin
    muon_v, muon_a = -0.5 + 2 * SIN2_WEAK, -0.5
    s = mass * mass
    z = s / complex(s - Z_MASS_GEV**2, Z_MASS_GEV * Z_WIDTH_GEV) / (4 * SIN2_WEAK * (1 - SIN2_WEAK))
    photon = charge * charge
    interference = -2 * charge * quark_v * muon_v * z.real
    resonance = (quark_v**2 + quark_a**2) * (muon_v**2 + muon_a**2) * abs(z) ** 2
    return (photon + interference + resonance) / s


class LineShape:
    """The spectrum of the pair's mass: partonic rate times a falling number of quark pairs."""

    def __init__(self) -> None:
        steps = round((HIGHEST_GEV - LOWEST_GEV) / STEP_GEV)
        self.masses = [LOWEST_GEV + STEP_GEV * step for step in range(steps)]
        self.cumulative = list(itertools.accumulate(self._density(mass + STEP_GEV / 2) for mass in self.masses))

    @staticmethod
    def _density(mass: float) -> float:
        up, down = partonic_rate(mass, 2 / 3, 0.5), partonic_rate(mass, -1 / 3, -0.5)
        return (2 * up + down) / math.pow(mass, 1.3)

    def draw(self, rng: random.Random) -> float:
        """Return a mass in GeV."""
        step = bisect.bisect(self.cumulative, rng.random() * self.cumulative[-1])
        return self.masses[min(step, len(self.masses) - 1)] + STEP_GEV * rng.random()


def draw_pair(rng: random.Random, mass: float) -> tuple[float, float, float, float]:
    """Return the pair's momentum (px, py, pz) and energy: a recoil against jets and a rapidity, GeV."""
    pt = 8.0 * math.sqrt((1 - rng.random()) ** -0.8 - 1)
    phi = rng.uniform(-math.pi, math.pi)
    transverse_mass = math.hypot(mass, pt)
    limit = math.acosh(max(1.0, BEAM_GEV / (2 * transverse_mass)))
    rapidity = max(-limit, min(limit, rng.gauss(0, limit / 2.5)))
    longitudinal = transverse_mass * math.sinh(rapidity)
    return pt * math.cos(phi), pt * math.sin(phi), longitudinal, transverse_mass * math.cosh(rapidity)


def decay(rng: random.Random, mass: float, pair: tuple[float, float, float, float]) -> list[tuple[float, float, float]]:
    """Return the momenta of the two muons, GeV: 1 + cos^2 in the pair's rest frame, then boosted."""
    cosine = rng.uniform(-1, 1)
    while rng.random() * 2 > 1 + cosine * cosine:
        cosine = rng.uniform(-1, 1)
    phi = rng.uniform(-math.pi, math.pi)
    sine, half = math.sqrt(1 - cosine * cosine), mass / 2
    rest = (half * sine * math.cos(phi), half * sine * math.sin(phi), half * cosine)
    px, py, pz, energy = pair
    along = (px * rest[0] + py * rest[1] + pz * rest[2]) / (mass * (energy + mass)) + 0.5
    first = (rest[0] + along * px, rest[1] + along * py, rest[2] + along * pz)
    return [first, (px - first[0], py - first[1], pz - first[2])]


def measure(rng: random.Random, momentum: tuple[float, float, float], charge: int) -> str:
    """Return a muon's six columns as the detector sees it: its curvature is measured to 1.2 to 2.4 %."""
    px, py, pz = momentum
    pt = math.hypot(px, py)
    eta = math.asinh(pz / pt)
    resolution = 0.012 * (1 + min(abs(eta), 2.4) / 2.4)
    pt /= rng.gauss(1, resolution)
    eta += rng.gauss(0, 0.0005)
    phi = math.remainder(math.atan2(py, px) + rng.gauss(0, 0.0005), 2 * math.pi)
    dxy = rng.gauss(0, 0.05)
    iso = max(0.0, rng.expovariate(0.5) - 1.5)
    return f"{pt:.6g},{eta:.6g},{phi:.6g},{charge},{dxy:.6g},{iso:.6g}"


def generate(events: int, seed: int, run: int, output: Path) -> None:
    """Write a file of events.

    Args:
        events: How many.
        seed: Two jobs with different seeds give independent events; the same seed gives the same file.
        run: Run number, written into the first column.
        output: The CSV file.
    """
    rng = random.Random(seed)
    shape = LineShape()
    with output.open("w", encoding="ascii", newline="\n") as file:
        file.write(COLUMNS + "\n")
        for event in range(1, events + 1):
            mass = shape.draw(rng)
            charge = rng.choice((-1, 1))
            first, second = decay(rng, mass, draw_pair(rng, mass))
            file.write(f"{run},{event},{measure(rng, first, charge)},{measure(rng, second, -charge)}\n")


def main() -> None:
    """Read the command line and generate."""
    parser = argparse.ArgumentParser(description="Generate Drell-Yan events as CSV.")
    parser.add_argument("--events", type=int, default=5000, help="number of events")
    parser.add_argument("--seed", type=int, default=1, help="seed of the random numbers")
    parser.add_argument("--run", type=int, default=1, help="run number for the first column")
    parser.add_argument("--output", type=Path, default=Path("events.csv"), help="file to write")
    arguments = parser.parse_args()
    generate(arguments.events, arguments.seed, arguments.run, arguments.output)
    print(f"wrote {arguments.events} events to {arguments.output} (seed {arguments.seed})")


if __name__ == "__main__":
    main()

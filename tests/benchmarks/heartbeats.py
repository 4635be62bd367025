# SPDX-License-Identifier: Apache-2.0
"""What ten thousand pilots cost that only say that they live."""

import threading
import time

from harness import Result, Target
from place import Place

TITLE = "Heartbeats of 10,000 pilots"
HOW = """
10,000 simulated pilots, each with a connection of its own, say every 60 s that they live. The processor time of the
endpoint and of PostgreSQL is taken over the last 60 s, when all have connected.
"""
PILOTS = 10_000
PERIOD_SECONDS = 60.0
CONNECT_SECONDS = 150.0
TARGET = 0.25


def measure(place: Place) -> Result:
    """Let them connect, and look at one period."""
    bare = place.bare
    seen: dict[str, float] = {}

    def load() -> None:
        figures = bare.load(pilots=PILOTS, seconds=CONNECT_SECONDS + PERIOD_SECONDS, period_seconds=PERIOD_SECONDS)
        seen["refused"], seen["beats"] = figures["refused"], len(figures["latencies"])

    thread = threading.Thread(target=load)
    thread.start()
    before = None
    while thread.is_alive():
        time.sleep(1)
        connected = len(bare.processes()[0].net_connections("tcp"))
        if before is None and connected > PILOTS:
            place.say(f"{connected} connections")
            time.sleep(PERIOD_SECONDS)
            before, began = bare.cost(), time.monotonic()
        elif before is not None and time.monotonic() - began > PERIOD_SECONDS:
            break
    if before is None:
        raise RuntimeError("the pilots have not all connected: raise CONNECT_SECONDS")
    after, seconds = bare.cost(), time.monotonic() - began
    memory = bare.endpoint_rss_mb()
    thread.join()
    if seen["refused"]:
        raise RuntimeError(f"{seen['refused']} heartbeats were refused")
    endpoint, postgres = (after.endpoint - before.endpoint) / seconds, (after.postgres - before.postgres) / seconds
    part = endpoint + postgres
    return Result(
        columns=("10,000 pilots, one heartbeat each 60 s", "figure"),
        rows=[
            ("endpoint, part of one core", f"{endpoint * 100:.0f} %"),
            ("PostgreSQL, part of one core", f"{postgres * 100:.0f} %"),
            ("endpoint's memory", f"{memory:.0f} MB"),
        ],
        targets=[
            Target(text=f"below {TARGET * 100:.0f} % of one core", value=f"{part * 100:.0f} %", holds=part < TARGET)
        ],
    )

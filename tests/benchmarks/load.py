# SPDX-License-Identifier: Apache-2.0
"""Simulated pilots: they speak the pilots' protocol over HTTPS with keep-alive, run nothing, and cost little.

`python tests/benchmarks/load.py HOME --pilots 200 --seconds 20` in an instance whose site `bench` sends no pilots.
"""

import argparse
import asyncio
import json
import ssl
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast

import httptools
import orjson
import psycopg
import uvloop

from glideflow.identity.secrets import hashed, new_secret
from glideflow.instance.home import Home
from glideflow.settings import load_settings

SITE = "bench"
_AGAIN_SECONDS = 0.05


@dataclass
class Figures:
    """What the pilots have seen."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    """Of each exchange, seconds."""
    finished: int = 0
    claimed: int = 0
    reconnected: int = 0
    refused: int = 0
    """Answers that were not 200, and reports that were not accepted."""


class Pilot(asyncio.Protocol):
    """One pilot with one core: reports its job as done and asks for the next, again and again.

    Args:
        host: Name of the endpoint.
        port: Its port.
        bearer: Its session key.
        figures: Where it counts.
        period_seconds: Time between two exchanges; 0 for at once. With it nothing is asked for: heartbeats only.
    """

    def __init__(self, host: str, port: int, bearer: str, figures: Figures, period_seconds: float) -> None:
        self._head = (
            f"POST /pilot/v1/exchange HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {bearer}\r\n"
            "Content-Type: application/json\r\nContent-Length: "
        ).encode()
        self._address = (host, port)
        self._figures = figures
        self._period = period_seconds
        self._parser = httptools.HttpResponseParser(self)
        self._message = b""
        self._body = bytearray()
        self._sequence = 0
        self._attempt: int | None = None
        self._sent_at = 0.0
        self._transport: asyncio.Transport | None = None
        self.stopped = False

    async def connect(self, context: ssl.SSLContext) -> None:
        """Connect, and connect again whenever the connection is lost; what was not answered is said again."""
        self._context = context
        await asyncio.get_running_loop().create_connection(lambda: self, *self._address, ssl=context)

    def connection_lost(self, error: Exception | None) -> None:
        """Go on with another process of the endpoint."""
        self._transport = None
        if not self.stopped:
            self._figures.reconnected += 1
            self._parser = httptools.HttpResponseParser(self)
            self._body.clear()
            asyncio.get_running_loop().create_task(self._reconnect())

    async def _reconnect(self) -> None:
        while not self.stopped:
            try:
                await self.connect(self._context)
            except OSError:
                await asyncio.sleep(_AGAIN_SECONDS)
                continue
            self._write()
            return

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the connection."""
        # uvloop's is no asyncio.Transport.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Read an answer."""
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        """Collect an answer."""
        self._body += body

    def on_message_complete(self) -> None:
        """Count an answer, and go on."""
        figures = self._figures
        figures.latencies.append(time.perf_counter() - self._sent_at)
        ok = self._parser.get_status_code() == 200
        answer = orjson.loads(self._body) if ok else {"jobs": [], "receipts": []}
        figures.refused += not ok
        self._body.clear()
        for receipt in answer["receipts"]:
            figures.finished += receipt["accepted"]
            figures.refused += not receipt["accepted"]
        self._attempt = answer["jobs"][0]["attempt_id"] if answer["jobs"] else None
        figures.claimed += len(answer["jobs"])
        if self.stopped:
            return
        pause = self._period or (0 if answer["jobs"] else _AGAIN_SECONDS)
        if pause:
            asyncio.get_running_loop().call_later(pause, self.send)
        else:
            self.send()

    def send(self) -> None:
        """Send one exchange."""
        if self.stopped:
            return
        self._sequence += 1
        reports = []
        if self._attempt is not None:
            reports = [{"attempt_id": self._attempt, "sequence": 1, "state": "finished", "outcome": "succeeded",
                        "exit_code": 0, "usage": {"wall_seconds": 1.0, "cpu_seconds": 0.5}}]  # fmt: skip
        body = orjson.dumps(
            {
                "sequence": self._sequence,
                "want": 0 if self._period else 1,
                "wait_seconds": 0,
                "free": {"cores": 1, "memory_mb": 2000, "disk_mb": 2000, "seconds": 80000.0},
                "reports": reports,
            }
        )
        self._message = b"%s%d\r\n\r\n%s" % (self._head, len(body), body)
        self._write()

    def stop(self) -> None:
        """Hang up."""
        self.stopped = True
        if self._transport is not None:
            self._transport.abort()

    def _write(self) -> None:
        self._sent_at = time.perf_counter()
        if self._transport is not None and self._message:
            self._transport.write(self._message)


def add_pilots(home: Home, number: int) -> list[str]:
    """Write registered pilots into the database; returns their bearers."""
    bearers = {f"simulated-{at}-{new_secret()[:8]}": new_secret() for at in range(number)}
    with psycopg.connect(home.known_instance().database_url) as connection:
        connection.cursor().executemany(
            """
            INSERT INTO pilots (id, site, state, secret_hash, key_hash, node, cores, memory_mb, disk_mb, last_seen_at,
                registered_at) VALUES (%s, %s, 'registered', '', %s, %s, 1, 2000, 2000, now(), now())
            """,
            [(name, SITE, hashed(key), f"node{at // 50}") for at, (name, key) in enumerate(bearers.items())],
        )
    return [f"{name}.{key}" for name, key in bearers.items()]


@asynccontextmanager
async def crowd(home: Home, bearers: list[str], period_seconds: float = 0.0) -> AsyncIterator[Figures]:
    """Let pilots exchange while the block runs.

    Args:
        home: The instance's home.
        bearers: One per pilot.
        period_seconds: Between two heartbeats of one pilot; 0 for work.
    """
    instance = home.known_instance()
    host, port = instance.rest_url.removeprefix("https://").rsplit(":", 1)
    context = ssl.create_default_context(cafile=str(home.ca / "ca.pem"))
    figures = Figures()
    pilots = [Pilot(host, int(port), bearer, figures, period_seconds) for bearer in bearers]
    try:
        for pilot in pilots:
            await pilot.connect(context)
        began = time.perf_counter()
        for at, pilot in enumerate(pilots):
            asyncio.get_running_loop().call_later(period_seconds * at / len(pilots), pilot.send)
        yield figures
        figures.seconds = time.perf_counter() - began
    finally:
        for pilot in pilots:
            pilot.stop()
        # The transports close in the loop's next turns.
        await asyncio.sleep(_AGAIN_SECONDS)


async def run(home: Home, bearers: list[str], seconds: float, period_seconds: float, jobs: int) -> Figures:
    """Let pilots exchange for so many seconds, or until so many jobs are finished where a number is given."""
    async with crowd(home, bearers, period_seconds) as figures:
        ends = time.perf_counter() + seconds
        while time.perf_counter() < ends and not 0 < jobs <= figures.finished:
            await asyncio.sleep(min(seconds, _AGAIN_SECONDS))
    return figures


def main() -> None:
    """Run as a program of its own, and print the figures as JSON."""
    parser = argparse.ArgumentParser(description="Simulated pilots.")
    parser.add_argument("home", type=Path)
    parser.add_argument("--pilots", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--jobs", type=int, default=0, help="end earlier, when so many jobs are finished")
    parser.add_argument("--period", type=float, default=0, help="seconds between two heartbeats; without it, work")
    options = parser.parse_args()
    home = Home(load_settings(options.home))
    bearers = add_pilots(home, options.pilots)
    figures = uvloop.run(run(home, bearers, options.seconds, options.period, options.jobs))
    json.dump(asdict(figures), sys.stdout)


if __name__ == "__main__":
    main()

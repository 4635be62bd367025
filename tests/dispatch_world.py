# SPDX-License-Identifier: Apache-2.0
"""Pilots and endpoints without network: the real services on the real store, driven call by call."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from glideflow.domain.identifiers import PilotId, TaskId
from glideflow.domain.identity import Identity
from glideflow.domain.messages import (
    Answer,
    Capacity,
    Exchange,
    Goodbye,
    Order,
    Outcome,
    ReasonMessage,
    Registration,
    Report,
    StoredOutput,
)
from glideflow.domain.reasons import ReasonCode, Source
from glideflow.domain.shares import ShareConfig
from glideflow.domain.site import Site
from glideflow.domain.task import Submission, TaskSpec
from glideflow.identity.secrets import hashed
from glideflow.services import planning
from glideflow.services.dispatch import Call, Dispatcher, PilotRefused
from glideflow.services.policies import Policies
from glideflow.services.registration import goodbye, register
from glideflow.services.storage import Storage
from glideflow.services.submit import Place, submit
from glideflow.settings import load_settings
from glideflow.store import files, pilots
from glideflow.store.engine import Database
from glideflow.system_policy import load_system_policy

SITES = {"here": Site(name="here")}
CONTENT = b"one line\n"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
FREE = Capacity(cores=8, memory_mb=100_000, disk_mb=100_000, seconds=1_000_000)


@dataclass
class FakePilot:
    """A pilot's memory: what it holds, and which reports it has no receipt for."""

    id: PilotId
    holding: dict[int, Order] = field(default_factory=dict)
    """What it was given and has no receipt of the end of."""
    started: set[int] = field(default_factory=set)
    """Attempts that it has said to run."""
    over: set[int] = field(default_factory=set)
    """Attempts of which it has reported the end, or that it was told to end."""
    unconfirmed: list[Report] = field(default_factory=list)
    sequence: int = 0
    sequences: dict[int, int] = field(default_factory=dict)
    """The last number of a report, by attempt."""
    sent: list[Call] = field(default_factory=list)
    """All it ever sent, for a network that repeats."""
    alive: bool = True
    is_draining: bool = False

    def report(self, attempt_id: int, state: str, **more: Any) -> Report:
        """Make the next report of an attempt; it is sent until there is a receipt."""
        number = self.sequences[attempt_id] = self.sequences.get(attempt_id, 0) + 1
        made = Report.model_validate({"attempt_id": attempt_id, "sequence": number, "state": state, **more})
        self.unconfirmed.append(made)
        (self.started if state == "running" else self.over).add(attempt_id)
        return made

    def call(self, want: int = 0) -> Call:
        """Return what it says next."""
        self.sequence += 1
        exchange = Exchange(
            sequence=self.sequence,
            want=0 if self.is_draining else want,
            draining=self.is_draining,
            free=FREE,
            holding=tuple(sorted(self.holding)),
            reports=tuple(self.unconfirmed),
        )
        self.sent.append(Call(pilot_id=self.id, exchange=exchange))
        return self.sent[-1]

    def hear(self, answer: Answer | PilotRefused) -> None:
        """Do what an answer says, as the real pilot does."""
        if isinstance(answer, PilotRefused):
            self.alive = False
            return
        for receipt in answer.receipts:
            self.unconfirmed = [
                report
                for report in self.unconfirmed
                if (report.attempt_id, report.sequence) != (receipt.attempt_id, receipt.sequence)
            ]
        waiting = {report.attempt_id for report in self.unconfirmed}
        self.holding = {key: order for key, order in self.holding.items() if key not in self.over or key in waiting}
        for order in answer.jobs:
            if order.attempt_id not in self.over:
                self.holding.setdefault(order.attempt_id, order)
        for command in answer.commands:
            self.is_draining |= command.command == "drain"
            if command.command == "kill" and command.attempt_id in self.holding.keys() - self.over:
                self.report(command.attempt_id, "finished", outcome=Outcome.KILLED, reason=command.reason)


class World:
    """An instance of two endpoints over one database.

    Args:
        database_url: A migrated database.
        folder: For its storage.
        sites: Its sites.
    """

    def __init__(self, database_url: str, folder: Path, sites: Mapping[str, Site] = SITES) -> None:
        self.database = Database(database_url, connections=3)
        self.place = Place(
            database=self.database,
            storage=Storage(folder / "storage"),
            sandboxes=Storage(folder / "sandboxes"),
            sites=sites,
            max_jobs=1000,
        )
        self.policies = Policies(sites=sites, system=load_system_policy(load_settings(folder)).rules)
        self.endpoints: list[Dispatcher] = []
        self.restart()
        self._pilots = 0

    def restart(self) -> None:
        """Start both endpoints anew: what they had in memory is gone."""
        self.endpoints = [Dispatcher(self.database, self.place.storage, self.policies, ShareConfig()) for _ in range(2)]

    def close(self) -> None:
        """Close the connections."""
        self.database.close()

    def submit(self, *, planned: bool = True, **spec: Any) -> TaskId:
        """Submit a task, and plan it."""
        document = {"schema_version": 1, "name": "demo", "command": "true", **spec}
        task = submit(
            self.place,
            Submission(spec=TaskSpec.model_validate(document)),
            Identity(method="test", subject="ada", vo="local"),
        )
        if planned:
            planning.plan(self.place, task)
            self.announce()
        return task

    def announce(self) -> None:
        """Ring both endpoints, as NOTIFY does."""
        for endpoint in self.endpoints:
            endpoint.announce()

    def pilot(self, site: str = "here", node: str | None = None) -> FakePilot:
        """Send a pilot and let it register."""
        self._pilots += 1
        pilot = FakePilot(PilotId(f"pilot-number-{self._pilots}"))
        secret = f"secret of {pilot.id}"
        with self.database.transaction() as connection:
            pilots.plan(connection, site, {pilot.id: hashed(secret)})
            pilots.submitted(connection, {pilot.id: f"{self._pilots}.0"})
        facts = {"site": site, "node": node or f"node-{self._pilots % 3}", "version": "0", "python": "3.11.0"}
        size = {"cores": 8, "memory_mb": 100_000, "disk_mb": 100_000, "seconds_left": 1_000_000}
        register(self.database, Registration.model_validate({"pilot_id": pilot.id, "secret": secret, **facts, **size}))
        return pilot

    def exchange(self, pilot: FakePilot, want: int = 0, endpoint: int = 0) -> Answer | PilotRefused:
        """Let a pilot exchange, and hear the answer."""
        (answer,) = self.endpoints[endpoint].answer([pilot.call(want)])
        pilot.hear(answer)
        return answer

    def start(self, pilot: FakePilot, attempt_id: int) -> None:
        """Let a pilot say that an attempt runs."""
        pilot.report(attempt_id, "running", started_at=datetime.now(UTC))
        self.exchange(pilot)

    def end(
        self, pilot: FakePilot, attempt_id: int, outcome: Outcome = Outcome.SUCCEEDED, **said: Any
    ) -> Answer | PilotRefused:
        """Let a pilot report the end of an attempt."""
        self.report_end(pilot, attempt_id, outcome, **said)
        return self.exchange(pilot)

    def report_end(self, pilot: FakePilot, attempt_id: int, outcome: Outcome, **said: Any) -> None:
        """Put the end of an attempt among a pilot's reports, with its outputs stored.

        Args:
            pilot: The pilot.
            attempt_id: The attempt.
            outcome: How it ended.
            said: What a report of a failure says besides: `code` and `text` of its reason, `exit_code`, `signal`.
        """
        times = {"started_at": datetime.now(UTC), "ended_at": datetime.now(UTC)}
        if outcome is Outcome.SUCCEEDED:
            order = pilot.holding[attempt_id]
            stored = tuple(self._store(output.name, output.path) for output in order.outputs)
            pilot.report(attempt_id, "finished", outcome=outcome, exit_code=0, outputs=stored, **times)
            return
        code = said.pop("code", "pilot_refused" if outcome is Outcome.REFUSED else "payload_exit")
        why = ReasonMessage(code=code, text=said.pop("text", "the test wants it"), source=Source.PAYLOAD)
        pilot.report(attempt_id, "finished", outcome=outcome, reason=why, **{"exit_code": 3, **times, **said})

    def goodbye(self, pilot: FakePilot) -> None:
        """Let a pilot leave."""
        why = ReasonMessage(code=ReasonCode.PILOT_IDLE, text="nothing to do", source=Source.PILOT)
        goodbye(self.database, self.policies, pilot.id, Goodbye(reason=why))
        pilot.alive = False

    def _store(self, name: str, path: str) -> StoredOutput:
        with self.place.storage.receive(path.removeprefix("/storage/")) as incoming:
            incoming.write(CONTENT)
            found = incoming.complete(None)
        with self.database.transaction() as connection:
            files.record_object(connection, vars(found))
        return StoredOutput(name=name, path=path, size_bytes=found.size_bytes, sha256=found.sha256)

    def rows(self, query: str, *values: Any) -> list[dict[str, Any]]:
        """Return what a query finds."""
        with self.database.transaction() as connection:
            return connection.execute(query, values).fetchall()  # type: ignore[call-overload,no-any-return]

    def state(self, table: str, key: int | str) -> str:
        """Return the state of one row."""
        return str(self.rows(f"SELECT state FROM {table} WHERE id = %s", key)[0]["state"])

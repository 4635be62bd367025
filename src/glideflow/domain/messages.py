# SPDX-License-Identifier: Apache-2.0
"""What pilots and the REST endpoint say to each other."""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from glideflow.domain.reasons import Reason, ReasonCode, Source
from glideflow.domain.task import SandboxFile

PilotName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{8,64}$")]
Text = Annotated[str, StringConstraints(max_length=4000)]


class Message(BaseModel):
    """Base of all messages: a field that this version does not know is ignored, for pilots of other versions."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class ReasonMessage(Message):
    """A reason on the wire."""

    code: ReasonCode
    text: Text
    source: Source

    def reason(self) -> Reason:
        """Return the domain's value."""
        return Reason(code=self.code, text=self.text, source=self.source)


class Registration(Message):
    """A pilot presents itself, once, with its secret."""

    pilot_id: PilotName
    secret: Annotated[str, StringConstraints(max_length=200)]
    site: Text
    node: Annotated[str, StringConstraints(max_length=255)]
    version: Annotated[str, StringConstraints(max_length=40)]
    python: Annotated[str, StringConstraints(max_length=40)]
    cores: int = Field(ge=1)
    memory_mb: int = Field(ge=1)
    disk_mb: int = Field(ge=0)
    seconds_left: float
    batch_id: Annotated[str, StringConstraints(max_length=80)] | None = None


class Capacity(Message):
    """What a pilot has free."""

    cores: int = Field(ge=0)
    memory_mb: int = Field(ge=0)
    disk_mb: int = Field(ge=0)
    seconds: float


class Outcome(StrEnum):
    """How the pilot saw an attempt end."""

    SUCCEEDED = "succeeded"
    """Exit code 0 and all outputs stored."""
    FAILED = "failed"
    """Anything else that happened to the payload."""
    REFUSED = "refused"
    """The pilot did not run it."""
    KILLED = "killed"
    """Ended on the server's command."""


class StoredOutput(Message):
    """An output as the pilot stored it."""

    name: str
    path: str
    size_bytes: int = Field(ge=0)
    sha256: str


class Usage(Message):
    """What an attempt used."""

    wall_seconds: float | None = None
    cpu_seconds: float | None = None
    max_rss_mb: float | None = None


class Report(Message):
    """One numbered report of an attempt: it runs, or it ended."""

    attempt_id: int
    sequence: int = Field(ge=1)
    state: Literal["running", "finished"]
    started_at: AwareDatetime | None = None
    ended_at: AwareDatetime | None = None
    outcome: Outcome | None = None
    exit_code: int | None = None
    signal: int | None = None
    reason: ReasonMessage | None = None
    outputs: tuple[StoredOutput, ...] = ()
    usage: Usage | None = None


class Exchange(Message):
    """Heartbeat, reports and the wish for work, in one message."""

    sequence: int = Field(ge=0)
    draining: bool = False
    want: int = Field(default=0, ge=0, le=1000)
    wait_seconds: float = Field(default=0, ge=0, le=600)
    free: Capacity
    holding: tuple[int, ...] = ()
    reports: tuple[Report, ...] = ()


class OrderInput(Message):
    """A file that the pilot fetches."""

    name: str
    url: str
    size_bytes: int | None
    sha256: str | None


class OrderOutput(Message):
    """A file that the pilot stores."""

    name: str
    file: str
    path: str


class Order(Message):
    """Everything a pilot needs to run an attempt."""

    attempt_id: int
    job_id: int
    task_id: int
    number: int
    name: str
    command: str
    environment: dict[str, str]
    sandbox: tuple[SandboxFile, ...]
    inputs: tuple[OrderInput, ...]
    outputs: tuple[OrderOutput, ...]
    document: dict[str, Any]
    cores: int
    memory_mb: int
    disk_mb: int
    wall_seconds: int


class Receipt(Message):
    """The server's answer to one report."""

    attempt_id: int
    sequence: int
    accepted: bool
    text: str = ""


class Command(Message):
    """What the pilot shall do."""

    command: Literal["kill", "drain"]
    attempt_id: int | None = None
    reason: ReasonMessage


class Answer(Message):
    """The answer to an exchange."""

    jobs: tuple[Order, ...] = ()
    commands: tuple[Command, ...] = ()
    receipts: tuple[Receipt, ...] = ()


class Goodbye(Message):
    """A pilot's last word."""

    reason: ReasonMessage
    log: Annotated[str, StringConstraints(max_length=200_000)] = ""


def message_of(reason: Reason) -> ReasonMessage:
    """Put a reason on the wire."""
    return ReasonMessage(code=reason.code, text=reason.text, source=reason.source)

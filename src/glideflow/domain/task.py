# SPDX-License-Identifier: Apache-2.0
"""What a user may write in a task: the model behind the task YAML and the published JSON schema."""

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Discriminator, Field, StringConstraints, Tag, model_validator

from glideflow.domain.failure_rules import FailurePolicy
from glideflow.domain.model import Feature, Model, Name, SpecError
from glideflow.domain.tolerance import Tolerance

RESERVED_FILE = "job.json"
"""The pilot writes the job's description under this name into the working folder."""

MOST_LISTED_FILES = 50_000
"""Files that a task may name one by one: they travel in one message. A dataset may have any number."""

URL_SCHEMES = ("https", "http", "file")
LEAST_URGENT, MOST_URGENT = -1000, 1000
"""Range of priorities."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_VARIABLE = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")


def _check_file_name(value: str) -> str:
    """Refuse what would leave the job's working folder, or could not be typed."""
    if _CONTROL.search(value):
        raise ValueError("must not contain control characters")
    if value.startswith("/"):
        raise ValueError("must be relative to the job's working folder, not an absolute path")
    if ".." in PurePosixPath(value).parts:
        raise ValueError("must stay inside the job's working folder: `..` is not allowed")
    if value.endswith("/") or str(PurePosixPath(value)) in {".", RESERVED_FILE}:
        raise ValueError(f"must be the name of a file, and not `{RESERVED_FILE}`, which glideflow writes")
    return value


def is_url(location: str) -> bool:
    """Return whether an input is a URL, rather than a local path or pattern."""
    return "://" in location


def _check_location(value: str) -> str:
    """Refuse URLs that a node cannot read, and passwords in URLs, which would be stored and logged."""
    if not is_url(value):
        return value
    scheme, _, rest = value.partition("://")
    if scheme.lower() not in URL_SCHEMES:
        raise ValueError(f"must begin with {', '.join(f'`{name}://`' for name in URL_SCHEMES)}, or be a local path")
    if "@" in rest.partition("/")[0]:
        raise ValueError("must not hold a user name or password in the URL")
    return value


def _check_variables(value: dict[str, str]) -> dict[str, str]:
    for name, text in value.items():
        if not _VARIABLE.match(name):
            raise ValueError(f"`{name}` is no name of a variable: letters, digits and `_`, not starting with a digit")
        if name.startswith("GLIDEFLOW_"):
            raise ValueError(f"`{name}`: names that start with GLIDEFLOW_ are glideflow's own")
        if "\x00" in text:
            raise ValueError(f"`{name}` must not contain a zero byte")
    return value


Key = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
RelativeFile = Annotated[str, StringConstraints(min_length=1, max_length=255), AfterValidator(_check_file_name)]
Location = Annotated[str, StringConstraints(min_length=1, max_length=4096), AfterValidator(_check_location)]
LocalPath = Annotated[str, StringConstraints(min_length=1, max_length=4096)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Environment = Annotated[dict[str, str], AfterValidator(_check_variables)]


class InputFile(Model):
    """An input that needs more than its path or URL."""

    path: LocalPath | None = None
    """A local file, relative to the task file; it is uploaded when the task is submitted."""
    url: Location | None = None
    """An `https://`, `http://` or `file://` URL that the node can read."""
    events: int | None = Field(default=None, ge=1)
    """Number of events in the file, where it cannot be counted."""
    size_bytes: int | None = Field(default=None, ge=0)
    """Size of the file behind a URL."""
    sha256: Sha256 | None = None
    """Checksum of the file behind a URL, checked by the pilot."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.path is None) == (self.url is None):
            raise ValueError("give either `path` or `url`")
        if self.url is not None and not is_url(self.url):
            raise SpecError(("url",), "must be a URL; write a local file as `path`")
        if self.path is not None and is_url(self.path):
            raise SpecError(("path",), "must be a local path; write a URL as `url`")
        return self


def _kind_of_entry(value: Any) -> str | None:
    if isinstance(value, str):
        return "text"
    return "mapping" if isinstance(value, (Mapping, InputFile)) else None


# Tagged, so that a wrong entry gives the problems of the kind that was meant, and not of both.
InputEntry = Annotated[
    Annotated[Location, Tag("text")] | Annotated[InputFile, Tag("mapping")],
    Discriminator(
        _kind_of_entry,
        custom_error_type="input_entry",
        custom_error_message="must be a path, a pattern or a URL, or a mapping with `path` or `url`",
    ),
]


class Inputs(Model):
    """What the jobs work on: exactly one of `files`, `dataset`, `jobs`."""

    files: list[InputEntry] | None = Field(default=None, min_length=1)
    """Local paths, patterns such as `data/*.csv`, URLs, or mappings with `path` or `url`."""
    dataset: str | None = Field(
        default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}(@[A-Za-z0-9][A-Za-z0-9._-]{0,99})?$"
    )
    """A dataset that glideflow knows; `name@12` takes only what task 12 wrote into it, `name@generate` what the task
    generate wrote: the one of this file, for which it waits, or else the newest of that name."""
    wait_for_dataset: bool = False
    """Start when the tasks that write into the dataset now have ended; with `name@TASK`, when that one has."""
    jobs: int | None = Field(default=None, ge=1)
    """No input files, just this number of jobs, numbered from 0."""
    events: Literal["lines"] | None = None
    """How events are counted in local files and datasets: `lines`, one event per line of text."""
    header_lines: int = Field(default=0, ge=0, le=1000)
    """Lines at the start of each file that are no events."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [name for name in ("files", "dataset", "jobs") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of `files`, `dataset`, `jobs` (given: {', '.join(given) or 'none'})")
        if self.wait_for_dataset and self.dataset is None:
            raise SpecError(("wait_for_dataset",), "has a meaning only with `dataset`")
        return self


SPLIT_RULES = ("files_per_job", "bytes_per_job", "events_per_job", "jobs", "target_wall_seconds")
TARGET_LIMITS = ("unit", "scout_size", "min_per_job", "max_per_job")
"""Keys of `split` of which one at most may be given, and those that only make sense with the last of them."""


class Split(Model):
    """How inputs become jobs: at most one of the first five keys; without any, one file per job."""

    files_per_job: int | None = Field(default=None, ge=1)
    """So many files in each job."""
    bytes_per_job: int | None = Field(default=None, ge=1)
    """As many whole files as stay below this number of bytes; a larger file makes a job of its own."""
    events_per_job: int | None = Field(default=None, ge=1)
    """So many events in each job; a job may take parts of files and span several."""
    jobs: int | None = Field(default=None, ge=1)
    """So many jobs, with the files spread evenly over them."""
    target_wall_seconds: int | None = Field(default=None, ge=1)
    """So long should a job run, seconds: scout jobs are measured first, and the rest is split by what they needed."""
    unit: Literal["files", "events"] | None = None
    """What `target_wall_seconds` counts: whole `files` (the default), or `events` across the borders of files."""
    scouts: int | None = Field(default=None, ge=2, le=1000)
    """So many jobs run first and are measured; the others ask for as much memory and time as these needed, with a
    margin, and never for more than `resources`. With `target_wall_seconds` 10; with another rule none unless given."""
    scout_size: int | None = Field(default=None, ge=1)
    """Files or events of a small scout job, every other one is three times as large; without it 1 file, or a thousandth
    of all events, 1000 at most."""
    min_per_job: int | None = Field(default=None, ge=1)
    """Fewest files or events that `target_wall_seconds` gives a job."""
    max_per_job: int | None = Field(default=None, ge=1)
    """Most files or events that `target_wall_seconds` gives a job."""

    @property
    def by_events(self) -> bool:
        """Whether a job may get a part of a file."""
        return self.events_per_job is not None or self.unit == "events"

    def rules(self) -> list[str]:
        """Return the rules that are given: one at most in an accepted task."""
        return [name for name in SPLIT_RULES if getattr(self, name) is not None]

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        given = self.rules()
        if len(given) > 1:
            raise ValueError(f"give at most one of {', '.join(SPLIT_RULES)} (given: {', '.join(given)})")
        stray = [name for name in TARGET_LIMITS if getattr(self, name) is not None]
        if stray and self.target_wall_seconds is None:
            raise SpecError((stray[0],), "has a meaning only with `target_wall_seconds`")
        if self.min_per_job is not None and self.max_per_job is not None and self.min_per_job > self.max_per_job:
            raise SpecError(("min_per_job",), f"is larger than `max_per_job`, {self.max_per_job}")
        return self


class Output(Model):
    """A file that each job writes into its working folder."""

    file: RelativeFile
    """Its name, relative to the working folder; may hold placeholders such as `{index}`."""
    dataset: Name | None = None
    """The dataset that takes it; without it `<task name>.<output name>`."""
    events: Literal["lines"] | None = None
    """How events are counted in it: `lines`, one event per line of text."""
    header_lines: int = Field(default=0, ge=0, le=1000)
    """Lines at its start that are no events."""


class Resources(Model):
    """What one job needs."""

    cores: int = Field(default=1, ge=1, le=1024)
    """Processor cores."""
    memory_mb: int = Field(default=1000, ge=1)
    """Memory, MB (10^6 bytes)."""
    disk_mb: int = Field(default=1000, ge=1)
    """Disk for its inputs, outputs and scratch files, MB (10^6 bytes)."""
    wall_seconds: int = Field(default=3600, ge=1)
    """Longest run time of the command, seconds; it is ended after that."""


class Merge(Model):
    """A last job that reads the outputs of all others."""

    command: str = Field(min_length=1)
    """Shell command; `{inputs}` holds the files to merge."""
    input: Key | None = None
    """Which output of the jobs it reads; not needed where there is one."""
    sandbox: list[LocalPath] = Field(default_factory=list)
    """Files that travel with it, besides those of the task."""
    outputs: dict[Key, Output] = Field(default_factory=dict)
    """What it writes."""
    resources: Resources = Field(default_factory=Resources)
    """What it needs."""


class TaskSpec(Model):
    """A task: one command over inputs, split into jobs."""

    schema_version: Literal[1]
    """Version of this format."""
    name: Name
    """Name of the task, for people; letters, digits and `.`, `_`, `-`."""
    command: str = Field(min_length=1)
    """Shell command of each job; placeholders in braces are replaced, `{{` and `}}` are plain braces."""
    sandbox: list[LocalPath] = Field(default_factory=list)
    """Files that travel with the task, relative to the task file; patterns allowed."""
    inputs: Inputs = Field(default_factory=lambda: Inputs(jobs=1))
    """What the jobs work on; without it, one job."""
    split: Split = Field(default_factory=Split)
    """How inputs become jobs."""
    outputs: dict[Key, Output] = Field(default_factory=dict)
    """Files that each job writes, by a name of your choice."""
    merge: Merge | None = None
    """A last job over all outputs."""
    resources: Resources = Field(default_factory=Resources)
    """What each job needs."""
    environment: Environment = Field(default_factory=dict)
    """Environment variables of the command."""
    after: list[Name] = Field(default_factory=list)
    """Tasks that must have ended before this one starts: names of tasks of the same file first, then names of tasks
    that were submitted before (the newest of a name), or numbers in quotes."""
    after_failed: Literal["cancel", "run"] = "cancel"
    """What happens when one of those fails or is killed: the task is cancelled, or runs all the same."""
    priority: int = Field(default=0, ge=LEAST_URGENT, le=MOST_URGENT)
    """Jobs of a higher priority are taken first."""
    retries: int = Field(default=2, ge=0, le=100)
    """How often a failed job is run again; lost pilots do not count. Short for what `failure_policy` says at length."""
    failure_policy: FailurePolicy = Field(default_factory=list)
    """Rules for failed jobs. The first that fits decides; then those of the site, and then the system's."""
    tolerance: Tolerance | None = None
    """How many jobs may fail before the task does; without it, none."""
    max_running: int | None = Field(default=None, ge=1)
    """At most so many jobs of it run at once."""
    group: Name | None = None
    """The working group whose share of the resources it uses."""
    site: Name | None = None
    """Only this site may run it."""
    requires: list[Feature] = Field(default_factory=list)
    """What a site must provide to run it, such as a software release, in the words of the sites file."""

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        _check_split(self.inputs, self.split, self.resources)
        _check_outputs(("outputs",), self.outputs)
        if self.merge is not None:
            _check_outputs(("merge", "outputs"), self.merge.outputs)
            _check_merge(self, self.merge)
        return self

    def dataset_of(self, output: str, *, merged: bool = False) -> str:
        """Return the dataset that takes an output.

        Args:
            output: Its key under `outputs`, or under `merge.outputs`.
            merged: Whether it is one of the merge job.
        """
        outputs = self.merge.outputs if merged and self.merge is not None else self.outputs
        return outputs[output].dataset or f"{self.name}.{output}"


def _check_split(inputs: Inputs, split: Split, resources: Resources) -> None:
    given = split.rules()
    if given and inputs.jobs is not None:
        raise SpecError(
            ("split", given[0]),
            "divides input files, but the task has none: `inputs.jobs` (1 without any inputs) is the number of jobs",
        )
    if split.target_wall_seconds is not None and split.target_wall_seconds > resources.wall_seconds:
        raise SpecError(
            ("split", "target_wall_seconds"),
            f"must be at most `resources.wall_seconds`, {resources.wall_seconds}, after which a job is ended",
        )


def _check_outputs(place: tuple[str, ...], outputs: Mapping[str, Output]) -> None:
    """Refuse two outputs with one file."""
    seen: dict[str, str] = {}
    for key, output in outputs.items():
        file = str(PurePosixPath(output.file))
        if file in seen:
            raise SpecError((*place, key, "file"), f"`{output.file}` is the file of output `{seen[file]}` already")
        seen[file] = key


def _check_merge(spec: TaskSpec, merge: Merge) -> None:
    """Refuse a merge step that does not know its input, or whose results would mix with it."""
    known = ", ".join(f"`{name}`" for name in spec.outputs)
    if not spec.outputs:
        raise SpecError(("merge",), "there is nothing to merge: the task has no `outputs`")
    if merge.input is None and len(spec.outputs) > 1:
        raise SpecError(("merge",), f"`input` is missing: say which of the outputs it reads: {known}")
    if merge.input is not None and merge.input not in spec.outputs:
        raise SpecError(("merge", "input"), f"the task has no output `{merge.input}`; it has {known}")
    taken = {spec.dataset_of(name): name for name in spec.outputs}
    for name in merge.outputs:
        dataset = spec.dataset_of(name, merged=True)
        if dataset in taken:
            raise SpecError(
                ("merge", "outputs", name),
                f"would go into dataset `{dataset}` together with output `{taken[dataset]}` of the jobs; "
                "rename it or give it another `dataset`",
            )


class SandboxFile(Model):
    """A file of the task as the server knows it."""

    name: RelativeFile
    """Its name in the job's working folder."""
    sha256: Sha256
    """Content address."""
    size_bytes: int = Field(ge=0)
    """Size."""
    executable: bool = False
    """Whether the command may execute it."""


class ResolvedInput(Model):
    """One input file, found and measured."""

    name: RelativeFile
    """Its name in the job's working folder."""
    url: str = Field(min_length=1, max_length=4096, pattern=r"^(/storage/|https?://|file://)")
    """Absolute URL, or `/storage/...` at the endpoint."""
    size_bytes: int | None = Field(default=None, ge=0)
    """Size, where known."""
    sha256: Sha256 | None = None
    """Checksum, where known."""
    events: int | None = Field(default=None, ge=0)
    """Number of events, where known."""


class Submission(Model):
    """What `glideflow submit` sends: the task with its local files found, measured and uploaded."""

    spec: TaskSpec
    """The task."""
    source: str = Field(default="", max_length=1_000_000)
    """The YAML text as the user wrote it, with what `--set` changed."""
    sandbox: list[SandboxFile] = Field(default_factory=list)
    """Files of `spec.sandbox` and `spec.merge.sandbox`."""
    inputs: list[ResolvedInput] = Field(default_factory=list, max_length=MOST_LISTED_FILES)
    """Files of `spec.inputs.files`; empty for other sources."""
    flow_run_id: str | None = None
    """The Prefect flow run that drives the task; without it glideflow creates one."""

# SPDX-License-Identifier: Apache-2.0
"""The settings of one glideflow instance: environment variables `GLIDEFLOW_...`, then `glideflow.yaml` in its home.

No other module reads the environment. Each field's docstring is its entry in the reference page.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from glideflow.configuration import Configuration, described, read_configuration
from glideflow.documents.document import Places
from glideflow.errors import SettingsError

SETTINGS_FILE = "glideflow.yaml"


def _site_database(url: str) -> str:
    """Refuse what psycopg would take for something else, or Prefect's driver would not take at all.

    Raises:
        ValueError: It is no URL of one database on one server.
    """
    form = "must be of the form postgresql://user:password@host:port/name"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{form}, with special characters of the password as %XX") from error
    if parts.scheme != "postgresql" or port == 0 or not re.fullmatch(r"/[^/]+", parts.path):
        raise ValueError(form)
    return url


class Settings(BaseSettings):
    """Everything that an instance, or a client of one, can be told."""

    model_config = SettingsConfigDict(
        env_prefix="GLIDEFLOW_", frozen=True, extra="forbid", use_attribute_docstrings=True
    )

    home: Path = Field(default_factory=lambda: Path.home() / ".glideflow")
    """The state folder: database, certificates, logs, sandboxes and stored files. One instance per home."""

    instance: str = Field(default="glideflow", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
    """The instance's name, in every pilot's HTCondor ad as `GlideflowInstance`; other instances' pilots are left
    alone."""

    vo: str = Field(default="local", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
    """The virtual organisation of tasks submitted with the home's own token."""

    host: str = "127.0.0.1"
    """The address on which the REST endpoint listens. The Prefect server, which knows no users, and the embedded
    PostgreSQL listen on the loopback interface only."""

    port: int = Field(default=0, ge=0, le=65535)
    """Port of the REST endpoint; 0 takes 8443, or a free one when that is taken, and keeps it."""

    endpoints: int = Field(default=1, ge=1, le=32)
    """Processes of the REST endpoint, which share its port; more than one where a core is too little for all pilots."""

    server_url: str | None = None
    """URL of an endpoint elsewhere, for the client commands; without it, the one of this home."""

    ca_file: Path | None = None
    """CA certificate that the endpoint's certificate is checked with; without it, the one of this home."""

    token_file: Path | None = None
    """File (mode 0600) with the token that client commands send; without it, the one of this home."""

    database_url: Annotated[str, AfterValidator(_site_database)] | None = None
    """A site's own PostgreSQL, 15 or newer, as `postgresql://user:password@host:port/name`; it must exist and be
    empty at first. A second database `<name>_prefect` on the same server serves Prefect. Without it, an embedded
    PostgreSQL in the home."""

    prefect_api_url: str | None = None
    """API URL of an existing Prefect server, for example `http://prefect.example.org:4200/api`; without it, one is
    started."""

    prefect_port: int = Field(default=0, ge=0, le=65535)
    """Port of the started Prefect server; 0 takes 4200, or a free one when that is taken, and keeps it."""

    sites_file: Path | None = None
    """YAML file of the sites; without it `sites.yaml` in the home, and without that one site named `local`."""

    failure_policy_file: Path | None = None
    """YAML file of the system's failure policy; without it `failure_policy.yaml` in the home, and without that the one
    that comes with glideflow."""

    shares_file: Path | None = None
    """YAML file of the shares and limits; without it `shares.yaml` in the home, and without that everybody has the
    same share and no limit."""

    launcher: Literal["htcondor", "local"] | None = None
    """How the default site starts pilots when there is no sites file: `htcondor`, or `local` for plain processes."""

    condor_collector: str | None = None
    """Collector of an existing HTCondor pool, as `host[:port]`; without it, HTCondor's own configuration, and
    without that the private pool."""

    condor_schedd: str | None = None
    """Name of the schedd that takes the pilots; without it, the collector's local one."""

    condor_token_directory: Path | None = None
    """Folder with the IDTOKEN (owner: you, mode 0600) for that pool; without it `~/.condor/tokens.d`."""

    condor_timeout_seconds: float = Field(default=30.0, gt=0)
    """How long one call of HTCondor may take before the gateway process is restarted."""

    pool_slots: int = Field(default=8, ge=1, le=4096)
    """Slots (cores) that the private pool advertises; more than the machine has is fine for small jobs."""

    pool_suite: str = Field(default="trixie", pattern=r"^[a-z]+$")
    """Debian suite whose HTCondor the private pool takes."""

    cache: Path = Field(default_factory=lambda: Path.home() / ".cache" / "glideflow")
    """Folder for what is slow to fetch, shared by all homes; may be deleted while no private pool runs."""

    max_jobs_per_task: int = Field(default=2_000_000, ge=1)
    """A task that would give more jobs is refused."""

    ready_jobs_per_task: int = Field(default=20_000, ge=1)
    """Jobs of a large task that are written ahead, ready to be taken; the rest is written as they are taken."""

    max_sandbox_mb: int = Field(default=100, ge=1)
    """Largest single sandbox file, in MB (10^6 bytes)."""

    max_file_mb: int = Field(default=20_000, ge=1)
    """Largest single file that the endpoint's storage takes, an output of a job or an uploaded input, in MB
    (10^6 bytes)."""

    heartbeat_seconds: float = Field(default=10.0, gt=0)
    """Time between two words of a busy pilot."""

    long_poll_seconds: float = Field(default=30.0, gt=0)
    """How long the endpoint keeps an idle pilot's question open."""

    pilot_lost_seconds: float = Field(default=120.0, gt=0)
    """A pilot that is silent for longer is lost, and its jobs run elsewhere."""

    attempt_unheld_seconds: float = Field(default=120.0, gt=0)
    """A pilot that is heard so long after it was given a job, and does not hold it, has lost it: it runs elsewhere."""

    verifying_seconds: float = Field(default=3600.0, gt=0)
    """A job whose outputs are not verified so long after its pilot reported the end is run again."""

    pilot_start_seconds: float = Field(default=3600.0, gt=0)
    """A pilot that runs in the batch system for longer without registering is given up and removed."""

    provision_seconds: float = Field(default=10.0, gt=0)
    """Longest time between two looks at the demand for pilots; new jobs are noticed at once."""

    reconcile_seconds: float = Field(default=15.0, gt=0)
    """Time between two comparisons of our tasks with Prefect's flow runs."""

    log_limit_mb: int = Field(default=16, ge=1)
    """Part of a job's output that is kept, in MB (10^6 bytes); of more, the first part and the last lines stay."""

    debug: bool = False
    """Whether commands end an error with its traceback."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments first, then the environment; the file's values arrive through `load_settings`."""
        return env_settings, init_settings


def load_settings(home: Path | None = None) -> Settings:
    """Read the settings of one home.

    Args:
        home: The state folder; without it `GLIDEFLOW_HOME` or `~/.glideflow`.

    Returns:
        The frozen settings; environment variables win over the file.

    Raises:
        SettingsError: An unknown key or a value that is not allowed, with file, line, key and what is allowed.
    """
    path = (home or _home()).expanduser().absolute() / SETTINGS_FILE
    file = _read_file(path)
    given = {**file.values, "home": str(home)} if home is not None else file.values
    settings = _validated(given, file.places)
    folder = (home or settings.home).expanduser().absolute()
    return settings.model_copy(update={"home": folder, "cache": settings.cache.expanduser().absolute()})


def _home() -> Path:
    """The home that the environment names."""
    return _validated({}, Places(Path(SETTINGS_FILE))).home


def _validated(given: dict[str, Any], places: Places) -> Settings:
    """Return the settings; what is wrong is said with its place, in the environment or in the file."""
    present = {variable.upper() for variable in os.environ}
    for name in Settings.model_fields:
        # The environment wins, so that is where a wrong value comes from.
        variable = Settings.model_config["env_prefix"] + name.upper()
        if variable in present:
            places.sources[(name,)] = f"environment variable {variable}"
    try:
        return Settings(**given)
    except ValidationError as error:
        raise SettingsError(described(error, Settings, places)) from error


def _read_file(path: Path) -> Configuration:
    """Return the file's content; an empty one when there is no file, or nothing but comments in it."""
    if not path.exists():
        return Configuration({}, Places(path))
    return read_configuration(path, "expected lines of the form `key: value`", may_be_empty=True)


def process_environment(**changes: str) -> dict[str, str]:
    """Return a copy of this process's environment for a child process, with changes.

    Args:
        changes: Variables to set.
    """
    return {**os.environ, **changes}

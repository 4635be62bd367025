# SPDX-License-Identifier: Apache-2.0
"""All errors of glideflow.

    GlideflowError
    |-- UserError                 wrong use: CLI exit status 2, HTTP 4xx
    |   |-- TaskFileError         a task file that cannot be accepted
    |   |-- SettingsError         bad configuration
    |   |-- NotFound              no such task, job, attempt, pilot, dataset or file
    |   |-- NotAllowed            the identity may not do this
    |   `-- IllegalTransition     the state does not allow the action
    `-- ServiceError              something outside did not work; `retryable` tells whether trying again helps
        |-- DatabaseUnavailable
        |-- EndpointUnavailable   the REST endpoint does not answer
        |-- PrefectUnavailable
        |-- PoolError             the private HTCondor pool could not be built, started or stopped
        `-- CondorError           an answer, or no answer, of HTCondor

The message of an error says what happened, with which values, and what to do. Errors carry their
subjects as attributes. No message contains a secret.
"""

from pathlib import Path


class GlideflowError(Exception):
    """Something went wrong in glideflow."""

    code = "glideflow_error"
    """Stable code; the REST endpoint sends it as `code` of its problem document."""


class UserError(GlideflowError):
    """The request cannot be carried out as it was given."""

    code = "wrong_use"
    status = 400
    """HTTP status that the REST endpoint answers with."""


class TaskFileError(UserError):
    """A task file that cannot be accepted; the message has one line per problem, with file, line and key."""

    code = "task_file"
    status = 422

    def __init__(self, problems: list[str], path: Path | None = None) -> None:
        self.problems = problems
        self.path = path
        super().__init__("\n".join(problems))


class SettingsError(UserError):
    """Bad configuration; the message names file, line, key, value and what is allowed."""

    code = "settings"


class NotFound(UserError):
    """There is no such thing."""

    code = "not_found"
    status = 404

    def __init__(self, kind: str, name: object, remedy: str = "") -> None:
        self.kind = kind
        self.name = name
        super().__init__(f"there is no {kind} {name}" + (f": {remedy}" if remedy else ""))


class NotAllowed(UserError):
    """The identity may not do this."""

    code = "not_allowed"
    status = 403


class NotAuthenticated(UserError):
    """The request proves no identity."""

    code = "not_authenticated"
    status = 401


class IllegalTransition(UserError):
    """The state does not allow the move."""

    code = "illegal_transition"
    status = 409

    def __init__(self, subject: str, old: str, new: str) -> None:
        self.subject = subject
        self.old = old
        self.new = new
        super().__init__(f"{subject} cannot go from {old} to {new}")


class ServiceError(GlideflowError):
    """A service that glideflow needs did not do its work."""

    code = "service"
    status = 503
    retryable = True
    """Whether the same call may work later."""


class DatabaseUnavailable(ServiceError):
    """The database does not answer."""

    code = "database_unavailable"


class EndpointUnavailable(ServiceError):
    """The REST endpoint does not answer."""

    code = "endpoint_unavailable"


class PrefectUnavailable(ServiceError):
    """The Prefect server does not answer."""

    code = "prefect_unavailable"


class PoolError(ServiceError):
    """The private HTCondor pool could not be built, started or stopped."""

    code = "pool"
    retryable = False


class CondorError(ServiceError):
    """HTCondor refused or did not answer."""

    code = "condor"
